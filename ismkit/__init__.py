"""ismkit: improved shortcut models (iSM), one network that draws in one step, in few or in many.

Ten rooms, from the ground up; a room imports only rooms below it:

* ``ismkit.utils``: files, weights, pictures, random streams, progress bars;
* ``ismkit.method``: path, rows, guidance, wavelet loss, coupling, averages, recipes with the training step, sampling;
* ``ismkit.data``: 2D sets, Fashion-MNIST, emoji, CIFAR-10, photographs, your own pictures, batches;
* ``ismkit.models``: networks, trained ones as files, the small latent spaces, what they draw;
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

The names by room:

* utils: CheckpointError, DataError, change, describe, file_sum, out_dir, progress_bar, stream.
* method: RECIPES, Auction, BakedIn, Coupling, Intrinsic, Normalised, Query, Recipe, Rows, StepGrid, Strengths,
  TwinEMA, TwoPassCFG, WaveletDistance, assign, cfg, dwt, geometric_weights, idwt, interpolate, intrinsic_velocity,
  l2, sample, solve, training_step, trajectory, unit_weights, velocity_target.
* data: CLOTHES, EMOJI, Batches, ClassGroups, Labelled, admit, balanced, checkerboard, cifar10, eight_gaussians,
  emoji, fashion_mnist, photo_folder, photographs, spirals, two_moons, write_png.
* models: PRESETS, RELEASED, DiT, FashionAutoencoder, ToyMLP, draw_clothes, draw_emoji, draw_model, emoji_latents,
  fashion_latents, load_autoencoder, load_generator, load_model, load_sampler, released, save_model.
* imagenet: Encoding, ImageFolder, ImageVAE, Latents, encode, make_latents, open_source, small_vae, write_tiny_vae.
* training: RUNS, DivergenceError, Engine, Logging, Optim, Preempted, Run, Saving, StepReport, TrainState,
  change_run, fit, launch, named_run, train_run.
* evaluation: PAPER, EmojiJudge, FashionJudge, FeatureJudge, ImageJudge, ImageOptions, Moments, PointJudge,
  SampleSet, Setting, class_agreement, curvature, evaluate, frechet, precision_recall, radial_spectrum,
  spectrum_error, wasserstein2.
* sweeps: SWEEPS, Sweep, Trial, named_sweep, run_sweeps.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
