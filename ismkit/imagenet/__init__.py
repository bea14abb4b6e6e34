"""ImageNet as latents: where pictures come from, the pinned VAE, encoding by many processes, reading at random."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
