"""Pictures in [-1, 1]: many as one sheet or file, changes that leave them what they are, sets of equal classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ismkit.data.decoding import PictureError, decode_picture
from ismkit.data.sets import Labelled
from ismkit.utils.checks import check_count, check_finite, check_kind, check_number, shown
from ismkit.utils.files import DataError, replacing
from ismkit.utils.seeding import stream
from ismkit.utils.settings import check_types


def tile(images: Tensor, columns: int) -> np.ndarray:
    """Lay images out as one picture, with white gaps of one pixel.

    Args:
        images: (n, 1, H, W), or in colour (n, 3, H, W), in [-1, 1].
        columns: images in a row, a divisor of n.

    Returns:
        The picture in [0, 1], (H', W'), or in colour (H', W', 3).

    Raises:
        TypeError: if they are not floating point.
        ValueError: for other shapes, images that are not finite, or columns that do not divide n.

    Example:
        >>> import torch
        >>> from ismkit.data import tile
        >>> tile(torch.zeros(4, 1, 2, 2), columns=2).shape
        (5, 5)
    """
    check_finite("images", images)  # NaN would be drawn as a blank sheet
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.numel() == 0:
        raise ValueError(f"images must be (n, 1 or 3, H, W) with n, H and W >= 1, got {tuple(images.shape)}")
    check_count("columns", columns)
    if len(images) % columns:
        raise ValueError(f"columns must divide the {len(images)} images, got {columns}")
    n, channels, h, w = images.shape
    canvas = np.ones((n // columns, columns, h + 1, w + 1, channels))
    pixels = (images.detach().cpu().double().permute(0, 2, 3, 1).numpy() + 1) / 2
    canvas[:, :, :h, :w] = pixels.reshape(-1, columns, h, w, channels)
    sheet = canvas.transpose(0, 2, 1, 3, 4).reshape(n // columns * (h + 1), columns * (w + 1), channels)[:-1, :-1]
    return sheet[..., 0] if channels == 1 else sheet


def write_png(images: Tensor, path: str | os.PathLike[str], columns: int | None = None, scale: int = 3) -> Path:
    """Write images as one PNG picture, atomically, making its folder.

    Args:
        images: (n, 1, H, W), or in colour (n, 3, H, W), in [-1, 1]; values beyond are clamped.
        path: ends in ``.png``.
        columns: images in a row, a divisor of n; by default all.
        scale: side of a square of the picture that each pixel becomes.

    Returns:
        The path.

    Raises:
        TypeError: if images are not floating point.
        ValueError: before anything is written, if an argument is not as it should be, or images are not finite.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from ismkit import write_png
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_png(torch.zeros(4, 1, 28, 28), f"{folder}/grey.png", columns=2).name
        'grey.png'
    """
    from PIL import Image

    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a path, got {shown(path)}")
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"path must end in .png, got {path}")
    check_count("scale", scale)
    check_finite("images", images)  # a clamp would hide infinity
    sheet = tile(images.clamp(-1, 1), len(images) if columns is None else columns)
    pixels = (255 * sheet).round().astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
    with replacing(path) as file:
        Image.fromarray(pixels).save(file, "PNG")
    return path


def read_sheet(path: str | os.PathLike[str], side: int, gap: int = 1) -> Tensor:
    """Read the pictures of a sheet, as :func:`write_png` writes them with ``scale=1``.

    Args:
        path: of the sheet.
        side: of each picture, in pixels.
        gap: pixels between them.

    Returns:
        (n, 3, side, side) uint8, line by line.

    Raises:
        DataError: if the file is missing or no picture.
        ValueError: if the sheet cannot be cut so.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from ismkit import write_png
        >>> from ismkit.data import read_sheet
        >>> images = torch.ones(6, 3, 8, 8)
        >>> images[4, 0] = -1
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = read_sheet(write_png(images, f"{folder}/six.png", columns=3, scale=1), side=8)
        >>> found.shape, found[:, 0, 0, 0].tolist()
        (torch.Size([6, 3, 8, 8]), [255, 255, 255, 255, 0, 255])
    """
    check_count("side", side)
    gap = check_count("gap", gap, least=0)
    if not Path(path).is_file():
        raise DataError(f"{path} is missing")
    try:
        picture = decode_picture(Path(path).read_bytes())
    except PictureError as error:
        raise DataError(f"{path} cannot be read as a sheet of pictures: {error}") from error
    sheet = np.pad(np.array(picture), ((0, gap), (0, gap), (0, 0)))
    height, width = (length / (side + gap) for length in sheet.shape[:2])
    if not height.is_integer() or not width.is_integer():
        size = f"{sheet.shape[1] - gap} x {sheet.shape[0] - gap} pixels"
        raise ValueError(f"{path} of {size} holds no whole number of pictures of side {side} and gap {gap}")
    cells = sheet.reshape(int(height), side + gap, int(width), side + gap, 3)[:, :side, :, :side]
    return torch.from_numpy(cells.transpose(0, 2, 4, 1, 3).reshape(-1, 3, side, side).copy())


# ------------------------------------------------------------------------------------------------ changes and classes


class Change(Protocol):
    """The signature of a change of pictures that leaves them what they are.

    Example:
        >>> from ismkit.data import Mirror
        >>> Mirror((0, 2)).labels
        (0, 2)
    """

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Change pictures.

        Args:
            x: pictures, (n, C, H, W).
            y: their labels, (n,).
            generator: of the random numbers.

        Returns:
            The pictures changed, (n, C, H, W).
        """
        ...


@dataclass(frozen=True)
class Shift:
    """Move each picture by whole pixels, drawn for each direction from -``most`` to ``most``.

    Attributes:
        most: pixels. A drawing of :func:`~ismkit.data.colour.emoji` has a margin of one at its left and right.
        fill: what comes in at the edge: 1, which is white.

    Raises:
        ValueError: for fewer than 1 pixel.

    Example:
        >>> import torch
        >>> from ismkit.data import Shift
        >>> x = torch.zeros(9, 1, 3, 3)
        >>> x[:, :, 1, 1] = 1.0
        >>> moved = Shift(1, fill=0.0)(x, torch.zeros(9).long(), torch.Generator().manual_seed(0))
        >>> moved.flatten(1).sum(1).tolist(), len(moved.flatten(1).argmax(1).unique()) > 3
        ([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], True)
    """

    most: int = 1
    fill: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)
        check_count("most", self.most)
        check_number("fill", self.fill, "in [-1, 1]", -1, 1)

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures moved, (n, C, H, W)."""
        height, width = x.shape[2:]
        if self.most >= min(height, width):
            raise ValueError(f"most must be below the size of the pictures, {height} x {width}, got {self.most}")
        wide = F.pad(x, (self.most,) * 4, value=self.fill)
        at = torch.randint(2 * self.most + 1, (2, len(x)), generator=generator)
        rows = at[0][:, None] + torch.arange(height)  # (n, H)
        columns = at[1][:, None] + torch.arange(width)
        n = torch.arange(len(x))[:, None, None]
        return wide[n, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Mirror:
    """Show half of the pictures, drawn at random, the other way round, left for right.

    Attributes:
        labels: of the classes that stay what they are in a mirror; clocks, letters and flags do not.

    Example:
        >>> import torch
        >>> from ismkit.data import Mirror
        >>> x, y = torch.arange(2.0).expand(4, 1, 1, 2), torch.tensor([0, 0, 0, 1])
        >>> Mirror((0,))(x, y, torch.Generator().manual_seed(1)).flatten(1).tolist()
        [[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """

    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        check_types(self)

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures, some of them mirrored, (n, C, H, W)."""
        may = torch.isin(y, torch.tensor(self.labels, dtype=y.dtype))
        turned = may & (torch.rand(len(x), generator=generator) < 0.5)
        return torch.where(turned[:, None, None, None], x.flip(3), x)


def balanced(data: Labelled, per_class: int, seed: int = 0, changes: Sequence[Change] = ()) -> Labelled:
    """Make a set in which every class has as many rows, each of its own rows about as often.

    Args:
        data: pictures with labels; every class must have a row.
        per_class: rows of each class in the new set.
        seed: of the rows that appear once more than others, and of the changes.
        changes: are made to each row, in this order; by default none, and rows are repeated as they are.

    Returns:
        The set, class by class, with ``per_class`` times as many rows as there are classes.

    Raises:
        TypeError: if ``data`` is no :class:`~ismkit.data.sets.Labelled`, or a change no function.
        ValueError: if ``per_class`` is below 1, or a class has no rows.

    Example:
        >>> from ismkit import balanced, emoji
        >>> from ismkit.data import Shift
        >>> even = balanced(emoji(), 20, changes=(Shift(1),))
        >>> len(even), even.y.bincount().unique()
        (1980, tensor([20]))
    """
    check_kind("data", data, Labelled)
    per_class = check_count("per_class", per_class)
    if not isinstance(changes, Sequence):
        raise TypeError(f"changes must be a sequence of functions, such as (Shift(1),), got {shown(changes)}")
    for change in changes:
        if not callable(change) or isinstance(change, type):
            raise TypeError(f"each of the changes must be a function, such as Shift(1), got {shown(change)}")
    if data.missing:
        raise ValueError(f"data must have rows of every class, got none of {shown(data.class_names[data.missing[0]])}")
    generator = stream(seed, "balanced")
    rows = []
    for label in range(data.num_classes):
        own = (data.y == label).nonzero().flatten()
        whole, rest = divmod(per_class, len(own))
        rows += [own.repeat(whole), own[torch.randperm(len(own), generator=generator)[:rest]]]
    x, y = data[torch.cat(rows)]
    for change in changes:
        x = change(x, y, generator)
    return Labelled(x, y, data.num_classes, data.class_names)
