"""Colour at 32 x 32: the emoji of the repository, checked by their sums, and CIFAR-10 for who has a network."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ismkit.data.autoencoder import SmallAutoencoder, as_latents
from ismkit.data.changes import Change, Mirror, Shift, balanced
from ismkit.data.decoding import decode_picture
from ismkit.data.fashion import Split
from ismkit.data.sets import Labelled
from ismkit.utils.checks import check_name
from ismkit.utils.files import WEIGHT_SUMS, DataError, data_folders, expanded, verify_sha256, weights_file
from ismkit.utils.weights import load_weights

Part = Literal["train", "test", "all"]
Kind = Literal["subgroup", "group"]

#: Bytes and SHA-256 of the files, by their names in ``data/emoji``.
EMOJI_FILES = {
    "emoji.png": (3390670, "291da6a3bf26e9a438f77ae4d75cda732508f709042c222864c91ff6305335c1"),
    "emoji.csv": (313666, "6df99eed559a5091113404e421c701d3cc75732046d2e50c7f184f6020984293"),
}
SIDE = 32
COLUMNS = 64  # of drawings on the sheet
GET_EMOJI = "clone the repository, or set ISMKIT_DATA to its data/ folder"


#: Shape of a latent of an emoji.
EMOJI_SHAPE = (8, 8, 8)
#: Subgroups that are something else in a mirror: letters, digits, hands of clocks, directions, flags.
_HANDED = {
    "time",
    "book-paper",
    "music",
    "office",
    "money",
    "emotion",
    "game",
    "place-map",
    "computer",
    "mail",
    "phone",
}


@dataclass(frozen=True)
class EmojiNames:
    """What the table says of each drawing, in the order of the sheet.

    Attributes:
        names: as Unicode has them.
        groups, subgroups: the classes.
        families: drawings that differ in who is drawn, or in the colour of skin and hair, have one.
        parts: ``train`` or ``test``; a family is in one of them.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    subgroups: tuple[str, ...]
    families: tuple[str, ...]
    parts: tuple[str, ...]


def emoji(part: Part = "all", kind: Kind = "subgroup", root: str | os.PathLike[str] | None = None) -> Labelled:
    """Read the emoji: 3655 drawings of Noto Color Emoji, with their checksums verified.

    More than half of them show people, most of which differ in the colour of skin:
    :func:`~ismkit.data.changes.balanced` weighs classes. With so few drawings a model can learn all of them by heart,
    so families are kept apart in the parts.

    Args:
        part: ``train``, 3193 drawings; ``test``, the 462 of every eighth family of a subgroup, of those with five or
            more; or ``all``.
        kind: the classes, 99 subgroups or 9 groups of Unicode's list. They are numbered alike in all parts; the test
            has none of subgroups of four families or fewer.
        root: the folder that holds ``emoji/``; by default it is looked for, in ``$ISMKIT_DATA`` or in ``data/`` of a
            clone.

    Returns:
        Images (n, 3, 32, 32) float32 in [-1, 1], on white.

    Raises:
        ValueError: for another part or kind.
        DataError: if a file is missing, truncated or altered.

    Example:
        >>> from ismkit import emoji
        >>> data = emoji()
        >>> data.x.shape, data.num_classes, data.class_names[:2]
        (torch.Size([3655, 3, 32, 32]), 99, ('face-smiling', 'face-affection'))
        >>> len(emoji("train")), len(emoji("test")), emoji("all", "group").y.bincount().tolist()
        (3193, 462, [166, 2148, 152, 133, 218, 85, 261, 223, 269])
    """
    check_name("part", part, get_args(Part))
    check_name("kind", kind, get_args(Kind))
    sheet, table = _read(str(_find(root)))
    found = table.subgroups if kind == "subgroup" else table.groups
    classes = tuple(dict.fromkeys(found))
    number = {name: k for k, name in enumerate(classes)}
    kept = [k for k, its in enumerate(table.parts) if part in ("all", its)]
    x = sheet[kept].float().div_(127.5).sub_(1)
    return Labelled(x, torch.tensor([number[found[k]] for k in kept]), len(classes), classes)


def emoji_names(part: Part = "all", root: str | os.PathLike[str] | None = None) -> EmojiNames:
    """Read what the table says of each drawing.

    Args:
        part: as in :func:`emoji`.
        root: as in :func:`emoji`.

    Returns:
        Names, groups, subgroups, families and parts, in the order of the images of :func:`emoji`.

    Raises:
        ValueError: for another part.
        DataError: if a file is missing, truncated or altered.

    Example:
        >>> from ismkit.data import emoji_names
        >>> table = emoji_names("test")
        >>> [*zip(table.names, table.subgroups)][:2]
        [('grinning squinting face', 'face-smiling'), ('smiling face with smiling eyes', 'face-smiling')]
    """
    check_name("part", part, get_args(Part))
    _, table = _read(str(_find(root)))
    kept = [k for k, its in enumerate(table.parts) if part in ("all", its)]
    return EmojiNames(*(tuple(column[k] for k in kept) for column in vars(table).values()))


def _find(root: str | os.PathLike[str] | None) -> Path:
    places = data_folders("emoji") if root is None else [expanded(root) / "emoji"]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise DataError(f"the emoji are not in {' or '.join(map(str, places))}: {GET_EMOJI}")
    return folder


def emoji_changes(shift: int = 1) -> tuple[Change, ...]:
    """Name the changes that leave emoji what they are: small shifts, and mirrors where nothing is written.

    Args:
        shift: pixels, at most.

    Returns:
        The changes, for emoji by subgroup.

    Raises:
        ValueError: for a shift below 1.
        DataError: if the emoji are missing.

    Example:
        >>> from ismkit.data.colour import emoji_changes
        >>> emoji_changes()[0]
        Shift(most=1, fill=1.0)
    """
    _, table = _read(str(_find(None)))
    of = dict(zip(table.subgroups, table.groups, strict=True))
    stay = [
        k for k, (name, group) in enumerate(of.items()) if group not in ("Symbols", "Flags") and name not in _HANDED
    ]
    return Shift(shift), Mirror(tuple(stay))


class EmojiAutoencoder(SmallAutoencoder):
    """Autoencoder of emoji: colour images (32 x 32) in [-1, 1] to latents (8, 8, 8) of unit variance, and back.

    A new one is untrained; :func:`load_emoji_autoencoder` gives the released one.

    Example:
        >>> from ismkit.data.colour import EmojiAutoencoder
        >>> autoencoder = EmojiAutoencoder()
        >>> autoencoder.shape, autoencoder.latent
        ((3, 32, 32), (8, 8, 8))
    """

    def __init__(self) -> None:
        super().__init__((3, SIDE, SIDE), channels=EMOJI_SHAPE[0], widths=(48, 96), fill=1.0)


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
        >>> from ismkit.data import load_emoji_autoencoder
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

    Rows are the drawings of the part ``train``, repeated with the changes of :func:`emoji_changes`. They are encoded
    once, and kept in ``cache`` in a file whose name holds the checksum of the autoencoder.

    Args:
        cache: folder of the encoded set; made if missing.
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
        ...     data = emoji_latents(folder, per_class=1, progress=False)
        >>> data.x.shape, data.num_classes
        (torch.Size([99, 8, 8, 8]), 99)
    """
    changes = emoji_changes()
    images = balanced(emoji("train"), per_class, changes=changes)
    weights = WEIGHT_SUMS["emoji_autoencoder"]
    sums = {name: digest for name, (_, digest) in EMOJI_FILES.items()}
    made_of = {"autoencoder": weights, "images": sums, "per_class": per_class, "changes": repr(changes)}
    name = f"emoji_latents_{per_class}_{weights[:12]}.safetensors"
    return as_latents(images, load_emoji_autoencoder, (expanded(cache), name, made_of), progress=progress)


@lru_cache(maxsize=1)
def _read(folder: str) -> tuple[Tensor, EmojiNames]:
    """The drawings, (n, 3, 32, 32) uint8, and the table."""
    for name, (size, expected) in EMOJI_FILES.items():
        verify_sha256(Path(folder) / name, expected, size)
    with open(Path(folder) / "emoji.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = (tuple(row[name] for row in rows) for name in ("name", "group", "subgroup", "family", "split"))
    sheet = np.array(decode_picture((Path(folder) / "emoji.png").read_bytes()))
    tiles = sheet.reshape(-1, SIDE, COLUMNS, SIDE, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)
    return torch.from_numpy(tiles[: len(rows)].copy()), EmojiNames(*columns)


def cifar10(split: Split, root: str | os.PathLike[str] | None = None, *, download: bool = False) -> Labelled:
    """Read CIFAR-10 (Krizhevsky, 2009) by torchvision, which compares the checksums of its files.

    It is not part of the repository.

    Args:
        split: ``train``, 50 000 images, or ``test``, 10 000.
        root: the folder that holds ``cifar-10-batches-py/``; by default it is looked for as ``cifar10/`` in
            ``$ISMKIT_DATA``, or in ``data/`` of a clone and in ``~/.cache/ismkit``.
        download: fetch it (170 MB), after a line that says from where, unless it is there.

    Returns:
        Images (n, 3, 32, 32) float32 in [-1, 1] of ten classes.

    Raises:
        ValueError: for another split.
        DataError: if a file is missing or altered, or cannot be fetched.

    Example:
        >>> from ismkit import DataError, cifar10
        >>> try:
        ...     cifar10("test", "no-such-folder")
        ... except DataError as error:
        ...     print(str(error).partition(":")[0])
        CIFAR-10 is not in no-such-folder, or its files are altered
    """
    from torchvision.datasets import CIFAR10

    check_name("split", split, get_args(Split))
    places = data_folders("cifar10") if root is None else [expanded(root)]
    folder = next((place for place in places if place.is_dir()), places[-1])
    if download and not (folder / CIFAR10.base_folder).is_dir():
        print(f"fetching {CIFAR10.url} into {folder}", flush=True)
    try:
        read = CIFAR10(folder, train=split == "train", download=download)
    except (RuntimeError, OSError) as error:  # what torchvision and urllib raise
        raise DataError(
            f"CIFAR-10 is not in {folder}, or its files are altered: fetch it (170 MB) by "
            f'`python -c "import ismkit; ismkit.cifar10({split!r}, download=True)"` ({error})'
        ) from error
    x = torch.from_numpy(read.data).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    return Labelled(x.contiguous(), torch.tensor(read.targets), len(read.classes), tuple(read.classes))
