"""The kit's small latent spaces: their autoencoders, the sets encoded, and the spaces as values."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ismkit.data.colour import EMOJI, EMOJI_FILES, emoji
from ismkit.data.fashion import CLOTHES, FASHION_MNIST_FILES, fashion_mnist
from ismkit.data.pictures import balanced
from ismkit.data.sets import Labelled
from ismkit.models.autoencoder import SmallAutoencoder, as_latents
from ismkit.utils.checks import check_count
from ismkit.utils.files import WEIGHT_SUMS, expanded, weights_file
from ismkit.utils.weights import load_weights

SHAPE = (4, 8, 8)  # of a latent of clothes
EMOJI_SHAPE = (8, 8, 8)
WEIGHTS_SHA256 = WEIGHT_SUMS["fashion_autoencoder"]


class FashionAutoencoder(SmallAutoencoder):
    """Autoencoder of clothes: grey images (28 x 28) in [-1, 1] to latents (4, 8, 8) of unit variance, and back.

    A new one is untrained; :func:`load_autoencoder` gives the released one.

    Example:
        A latent has 256 numbers for 784 pixels:

        >>> import torch
        >>> from ismkit import FashionAutoencoder
        >>> autoencoder = FashionAutoencoder().eval()
        >>> images = torch.zeros(2, 1, 28, 28)
        >>> with torch.no_grad():
        ...     latents = autoencoder.encode(images)
        ...     restored = autoencoder.decode(latents)
        >>> latents.shape, restored.shape
        (torch.Size([2, 4, 8, 8]), torch.Size([2, 1, 28, 28]))
    """

    def __init__(self) -> None:
        super().__init__((1, 28, 28), channels=SHAPE[0], widths=(32, 64), fill=-1.0)


def fashion_latents(cache: Path, count: int | None = None, *, progress: bool | None = None) -> Labelled:
    """Encode the training images of Fashion-MNIST with the released autoencoder.

    All of them are encoded once, in about half a minute, and kept in ``cache``. The file's name holds the checksum of
    the autoencoder, so that latents of another one are never mixed in, and the file that of the latents.

    Args:
        cache: folder of the encoded set; made if missing.
        count: encode the first ``count`` images only, without a cache; by default all 60 000.
        progress: show a progress bar; by default unless the environment says CI.

    Returns:
        Latents (n, 4, 8, 8) of zero mean and unit variance per channel, with the labels of the images.

    Raises:
        ValueError: if ``count`` is not 1 .. 60 000.
        CheckpointError: if the autoencoder's file is truncated or altered.
        DataError: if the images, or the file in the cache, are missing, truncated or altered.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ismkit import fashion_latents
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = fashion_latents(Path(folder), count=100, progress=False)
        >>> data.x.shape, [round(std, 1) for std in data.x.std((0, 2, 3)).tolist()]
        (torch.Size([100, 4, 8, 8]), [1.0, 1.0, 1.0, 1.0])
    """
    images = fashion_mnist("train")
    if count is not None and not 1 <= count <= len(images):
        raise ValueError(f"count must be 1 .. {len(images)} images, got {count}")
    if count is not None:
        few = Labelled(images.x[:count], images.y[:count], images.num_classes, images.class_names)
        return as_latents(few, load_autoencoder, progress=progress)
    _, digest = FASHION_MNIST_FILES["train-images-idx3-ubyte.gz"]
    identity = {"autoencoder": WEIGHTS_SHA256, "images": digest, "rows": len(images)}
    place = cache, f"fashion_latents_{WEIGHTS_SHA256[:12]}.safetensors", identity
    return as_latents(images, load_autoencoder, place, progress=progress)


def load_autoencoder(path: str | os.PathLike[str] | None = None) -> FashionAutoencoder:
    """Load the released autoencoder, its checksum verified, or the one in a file.

    Args:
        path: of the file, by default the one in the package. The checksum of another file is not known here.

    Returns:
        The autoencoder in eval mode, without gradients.

    Raises:
        CheckpointError: if the file is missing, truncated, altered or of another network.

    Example:
        An image, encoded and decoded, differs little from itself:

        >>> from ismkit import fashion_mnist, load_autoencoder
        >>> autoencoder = load_autoencoder()
        >>> images = fashion_mnist("test").x[:20]
        >>> restored = autoencoder.decode(autoencoder.encode(images))
        >>> (restored - images).square().mean().item() < 0.05 * images.var().item()
        True
    """
    autoencoder = FashionAutoencoder()
    default = weights_file("fashion_autoencoder")
    load_weights(autoencoder, Path(path or default), sha256=None if path else WEIGHTS_SHA256)
    return autoencoder.eval().requires_grad_(False)


class EmojiAutoencoder(SmallAutoencoder):
    """Autoencoder of emoji: colour images (32 x 32) in [-1, 1] to latents (8, 8, 8) of unit variance, and back.

    A new one is untrained; :func:`load_emoji_autoencoder` gives the released one.

    Example:
        >>> from ismkit.models.spaces import EmojiAutoencoder
        >>> autoencoder = EmojiAutoencoder()
        >>> autoencoder.shape, autoencoder.latent
        ((3, 32, 32), (8, 8, 8))
    """

    def __init__(self) -> None:
        super().__init__((3, 32, 32), channels=EMOJI_SHAPE[0], widths=(48, 96), fill=1.0)


def load_emoji_autoencoder() -> EmojiAutoencoder:
    """Load the released autoencoder of emoji, its checksum verified.

    It was trained on the part ``train``. Its file is in half precision; what is returned computes in float32.

    Returns:
        The autoencoder in eval mode, without gradients.

    Raises:
        CheckpointError: if the file is missing, truncated or altered.

    Example:
        Drawings that it was not trained on come back nearly as they were:

        >>> from ismkit import emoji
        >>> from ismkit.models import load_emoji_autoencoder
        >>> autoencoder, images = load_emoji_autoencoder(), emoji("test").x[:100]
        >>> restored = autoencoder.decode(autoencoder.encode(images))
        >>> (restored - images).square().mean().item() < 0.05 * images.var().item()
        True
    """
    autoencoder = EmojiAutoencoder().half()
    load_weights(autoencoder, weights_file("emoji_autoencoder"), sha256=WEIGHT_SUMS["emoji_autoencoder"])
    return autoencoder.float().eval().requires_grad_(False)


def emoji_latents(cache: str | os.PathLike[str], per_class: int = 600, *, progress: bool | None = None) -> Labelled:
    """Encode emoji by subgroup, every class with as many rows, with the released autoencoder.

    Rows are the drawings of the part ``train``, repeated as they are: shifts and mirrors would multiply what a small
    generator has to learn. They are encoded once, and kept in ``cache`` in a file whose name holds the checksum of the
    autoencoder.

    Args:
        cache: folder of the encoded drawings; made if missing.
        per_class: rows of each of the 99 classes.
        progress: show a progress bar; by default unless the environment says CI.

    Returns:
        Latents (99 per_class, 8, 8, 8), of about zero mean and unit variance.

    Raises:
        ValueError: if ``per_class`` is below 1.
        CheckpointError: if the autoencoder's file is missing, truncated or altered.
        DataError: if the images, or the file in the cache, are missing, truncated or altered.

    Example:
        >>> import tempfile
        >>> from ismkit import emoji_latents
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = emoji_latents(folder, per_class=2, progress=False)
        >>> data.x.shape, data.num_classes
        (torch.Size([198, 8, 8, 8]), 99)
    """
    check_count("per_class", per_class)  # before anything is encoded
    weights = WEIGHT_SUMS["emoji_autoencoder"]
    made_of = {"autoencoder": weights, "images": {name: digest for name, (_, digest) in EMOJI_FILES.items()}}
    place = expanded(cache), f"emoji_latents_{weights[:12]}.safetensors", made_of
    return balanced(as_latents(emoji("train"), load_emoji_autoencoder, place, progress=progress), per_class)


@dataclass(frozen=True)
class Space:
    """A latent space with a released autoencoder.

    Attributes:
        name: of what is drawn, in the plural.
        shape: of a latent.
        classes: of the pictures, by their names.
        load: gives the autoencoder, its checksum verified.
        model: the released generator that draws there by default, a key of :data:`ismkit.models.saved.RELEASED`.
        like: the run to train a network of this space by.

    Example:
        >>> from ismkit.models import SPACES
        >>> {name: (space.shape, space.num_classes) for name, space in SPACES.items()}
        {'clothes': ((4, 8, 8), 10), 'emoji': ((8, 8, 8), 99)}
    """

    name: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    load: Callable[[], SmallAutoencoder]
    model: str
    like: str

    @property
    def num_classes(self) -> int:
        """How many classes there are; this number as a label leaves the class open."""
        return len(self.classes)


#: The spaces by name.
SPACES: dict[str, Space] = {
    space.name: space
    for space in (
        Space("clothes", SHAPE, CLOTHES, load_autoencoder, "ism_plus", "fashion-laptop"),
        Space("emoji", EMOJI_SHAPE, EMOJI, load_emoji_autoencoder, "emoji", "emoji"),
    )
}
