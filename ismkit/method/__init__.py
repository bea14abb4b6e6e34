"""What the book explains: path, rows of a batch, guidance, wavelet loss, coupling, averages, recipes, sampling.

A method is a :class:`~ismkit.method.recipes.Recipe`, and one
:func:`~ismkit.method.recipes.training_step` serves them all.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
