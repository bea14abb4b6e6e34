"""What models are trained on: 2D sets, Fashion-MNIST and its latent space, photographs, and the stream of batches."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
