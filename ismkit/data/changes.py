"""Changes of pictures that leave them what they are, as values; and sets in which every class weighs the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ismkit.data.sets import Labelled
from ismkit.utils.checks import check_count, check_kind, check_number, shown
from ismkit.utils.seeding import stream
from ismkit.utils.settings import check_types


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
        raise ValueError(f"data must have rows of every class, got none of {data.class_names[data.missing[0]]}")
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
