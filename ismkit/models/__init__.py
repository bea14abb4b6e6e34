"""The networks, trained ones as files (saved, loaded, released), the small latent spaces, and what they draw."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
