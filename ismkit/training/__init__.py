"""A training: the runs as values, the loop, checkpoints, many processes, launching, logs, costs, plans on paper."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
