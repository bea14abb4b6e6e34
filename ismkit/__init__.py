"""ismkit: improved shortcut models (iSM), from a 2D toy to ImageNet, with every claim checked.

The modules are flat and are imported by name, as in ``from ismkit.sampling import sample``.
"""

__version__ = "0.1.0"
