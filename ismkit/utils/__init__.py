"""What every room stands on: files written atomically and verified, weights, random streams, pictures, progress bars."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
