"""Many trainings compared: a sweep of trials, the runner that works them off, the ladder of notebook 08, studies."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
