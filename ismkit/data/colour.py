"""Colour at 32 x 32: the emoji of the repository, checked by their sums, and CIFAR-10 from the network."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from ismkit.data.fashion import Split
from ismkit.data.pictures import Change, Mirror, Shift, read_sheet
from ismkit.data.sets import Labelled
from ismkit.utils.checks import check_name
from ismkit.utils.files import DataError, data_folders, expanded, verify_sha256

Part = Literal["train", "test", "all"]
Kind = Literal["subgroup", "group"]

#: Bytes and SHA-256 of the files, by their names in ``data/emoji``.
EMOJI_FILES = {
    "emoji.png": (3390670, "291da6a3bf26e9a438f77ae4d75cda732508f709042c222864c91ff6305335c1"),
    "emoji.csv": (313666, "6df99eed559a5091113404e421c701d3cc75732046d2e50c7f184f6020984293"),
}
SIDE = 32
GET_EMOJI = "clone the repository, or set ISMKIT_DATA to its data/ folder"

#: Unicode's subgroups, the classes of :func:`emoji` in their order; a test holds them to the table.
EMOJI: tuple[str, ...] = (
    "face-smiling", "face-affection", "face-tongue", "face-hand", "face-neutral-skeptical", "face-sleepy",
    "face-unwell", "face-hat", "face-glasses", "face-concerned", "face-negative", "face-costume", "cat-face",
    "monkey-face", "heart", "emotion", "hand-fingers-open", "hand-fingers-partial", "hand-single-finger",
    "hand-fingers-closed", "hands", "hand-prop", "body-parts", "person", "person-gesture", "person-role",
    "person-fantasy", "person-activity", "person-sport", "person-resting", "family", "person-symbol", "animal-mammal",
    "animal-bird", "animal-amphibian", "animal-reptile", "animal-marine", "animal-bug", "plant-flower", "plant-other",
    "food-fruit", "food-vegetable", "food-prepared", "food-asian", "food-marine", "food-sweet", "drink", "dishware",
    "place-map", "place-geographic", "place-building", "place-religious", "place-other", "transport-ground",
    "transport-water", "transport-air", "hotel", "time", "sky & weather", "event", "award-medal", "sport", "game",
    "arts & crafts", "clothing", "sound", "music", "musical-instrument", "phone", "computer", "light & video",
    "book-paper", "money", "mail", "writing", "office", "lock", "tool", "science", "medical", "household",
    "other-object", "transport-sign", "warning", "arrow", "religion", "zodiac", "av-symbol", "gender", "math",
    "punctuation", "currency", "other-symbol", "keycap", "alphanum", "geometric", "flag", "country-flag",
    "subdivision-flag",
)  # fmt: skip

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

    Example:
        >>> from ismkit.data import emoji_names
        >>> table = emoji_names()
        >>> [column[0] for column in (table.names, table.groups, table.subgroups, table.parts)]
        ['grinning face', 'Smileys & Emotion', 'face-smiling', 'train']
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    subgroups: tuple[str, ...]
    families: tuple[str, ...]
    parts: tuple[str, ...]


def emoji(part: Part = "all", kind: Kind = "subgroup", root: str | os.PathLike[str] | None = None) -> Labelled:
    """Read the emoji: 3655 drawings of Noto Color Emoji, with their checksums verified.

    More than half of them show people, most of which differ in the colour of skin:
    :func:`~ismkit.data.pictures.balanced` weighs classes. With so few drawings a model can learn all of them by heart,
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


def check_emoji(folder: Path) -> None:
    """Compare the files of the emoji with their checksums; DataError for one that is missing, truncated or altered."""
    for name, (size, expected) in EMOJI_FILES.items():
        verify_sha256(folder / name, expected, size)


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


@lru_cache(maxsize=1)
def _read(folder: str) -> tuple[Tensor, EmojiNames]:
    """The drawings, (n, 3, 32, 32) uint8, and the table."""
    check_emoji(Path(folder))
    with open(Path(folder) / "emoji.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = (tuple(row[name] for row in rows) for name in ("name", "group", "subgroup", "family", "split"))
    return read_sheet(Path(folder) / "emoji.png", SIDE, gap=0)[: len(rows)], EmojiNames(*columns)


def cifar10(split: Split, root: str | os.PathLike[str] | None = None, *, download: bool = False) -> Labelled:
    """Read CIFAR-10 (Krizhevsky, 2009) by torchvision, which compares the checksums of its files.

    It is not part of the repository, nor torchvision of the core: the extras ``learn`` and ``imagenet`` have it.

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
