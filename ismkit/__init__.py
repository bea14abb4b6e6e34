"""ismkit: improved shortcut models (iSM), one network that draws in one step, in few or in many.

Ten rooms, from the ground up; a room imports only rooms below it:

* ``ismkit.utils``: files, weights, pictures, random streams, progress bars;
* ``ismkit.method``: path, rows, guidance, wavelet loss, coupling, averages, recipes with the training step, sampling;
* ``ismkit.data``: 2D sets, Fashion-MNIST and its latent space, photographs, batches;
* ``ismkit.models``: networks, trained ones as files, clothes drawn by them;
* ``ismkit.neighbours``: other papers' few-step methods as recipes, and their rules;
* ``ismkit.imagenet``: ImageNet as latents;
* ``ismkit.training``: runs, the loop, checkpoints, many processes, logs, costs;
* ``ismkit.evaluation``: metrics, judges, FID by its published protocol, tables;
* ``ismkit.sweeps``: many trainings compared, the ladder of ablations;
* ``ismkit.lessons``: the ledger of claims, exercises, figures, closed forms.

The public names of all rooms but the neighbours' and the lessons' are here too, and each is imported when it is first
used:

>>> import torch
>>> from ismkit import released, sample
>>> net, card = released("ism_plus")
>>> latents = sample(net, torch.randn(10, 4, 8, 8), torch.arange(10), w=1.0, nfe=1)
>>> latents.shape
torch.Size([10, 4, 8, 8])

Two lines draw clothes::

    from ismkit import draw_clothes, write_png

    write_png(draw_clothes(range(10)), "clothes.png")  # one of each class, in one step
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
