"""What models are trained on: 2D sets, Fashion-MNIST, emoji, CIFAR-10, photographs, your own pictures; and batches."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
