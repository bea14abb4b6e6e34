"""The kit's small latent spaces as values: what a latent is, and what it becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ismkit.data.autoencoder import SmallAutoencoder
from ismkit.data.colour import EMOJI_SHAPE, load_emoji_autoencoder
from ismkit.data.fashion import CLOTHES, SHAPE, load_autoencoder


@dataclass(frozen=True)
class Space:
    """A latent space with a released autoencoder.

    Attributes:
        name: of what is drawn, in the plural.
        shape: of a latent.
        num_classes: of the pictures.
        load: gives the autoencoder, its checksum verified.
        like: the run to train a network of this space by.

    Example:
        >>> from ismkit.data import SPACES
        >>> {name: space.shape for name, space in SPACES.items()}
        {'clothes': (4, 8, 8), 'emoji': (8, 8, 8)}
    """

    name: str
    shape: tuple[int, int, int]
    num_classes: int
    load: Callable[[], SmallAutoencoder]
    like: str


#: The spaces by name.
SPACES: dict[str, Space] = {
    space.name: space
    for space in (
        Space("clothes", SHAPE, len(CLOTHES), load_autoencoder, "fashion-laptop"),
        Space("emoji", EMOJI_SHAPE, 99, load_emoji_autoencoder, "emoji"),
    )
}
