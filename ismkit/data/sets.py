"""Labelled data in memory, and the 2D sets of the first notebooks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ismkit.data.values import as_labels, as_samples, missing_classes
from ismkit.utils.checks import check_count, check_tensor, shown
from ismkit.utils.keys import UNKEYED
from ismkit.utils.seeding import stream


@dataclass(frozen=True, eq=False)
class Labelled(Dataset[tuple[Tensor, Tensor]]):
    """Labelled points or images, all in memory; :meth:`of` makes one of any arrays.

    Indexing gives tensors, not copies of single samples: ``data[i]`` is ``(x[i], y[i])`` for a number, a slice or a
    tensor of indices.

    Attributes:
        x: samples, (n, ...) floating point.
        y: labels, (n,) int64 in [0, num_classes).
        num_classes: how many classes there are; also the null label.
        class_names: one name per class.

    Raises:
        TypeError: if ``x`` is not floating point, or ``y`` not int64.
        ValueError: if shapes, labels or names do not fit each other.

    Example:
        >>> import torch
        >>> from ismkit import Labelled
        >>> data = Labelled(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([0, 0, 1]), 2, ("low", "high"))
        >>> len(data), data[1:]
        (3, (tensor([[1.],
                [5.]]), tensor([0, 1])))
        >>> Labelled(data.x, torch.tensor([0, 1, 2]), 2, ("low", "high"))
        Traceback (most recent call last):
            ...
        ValueError: y must lie in [0, 2), got labels from 0 to 2
    """

    x: Tensor
    y: Tensor
    num_classes: int
    class_names: tuple[str, ...] = field(metadata=UNKEYED)

    def __post_init__(self) -> None:
        """Refuse sets that cannot be trained on."""
        check_tensor("x", self.x)
        if not isinstance(self.y, Tensor):
            raise TypeError(f"y must be a tensor of labels, got {shown(self.y)}: Labelled.of converts them")
        if self.y.dtype != torch.int64:
            raise TypeError(f"y must be int64, got {self.y.dtype}")
        if self.x.ndim < 2 or self.y.shape != self.x.shape[:1] or len(self.y) == 0:
            raise ValueError(
                f"x must be (n, ...) and y (n,) with n >= 1, got {tuple(self.x.shape)} and {tuple(self.y.shape)}"
            )
        if self.y.device != self.x.device or self.y.is_meta or self.y.layout != torch.strided:
            raise ValueError(
                f"y must be dense and on the device of x, which has numbers, got {self.y.device} and {self.x.device}"
            )
        check_count("num_classes", self.num_classes)
        if not isinstance(self.class_names, tuple | list):
            raise TypeError(f"class_names must be a tuple of names, got {shown(self.class_names)}")
        if other := [name for name in self.class_names if not isinstance(name, str)]:
            raise TypeError(f"class_names must be texts, got {shown(other[0])}: Labelled.of converts them")
        low, high = int(self.y.min()), int(self.y.max())
        if low < 0 or high >= self.num_classes:
            remedy = ": classes are numbered from 0 on, take y - 1" if (low, high) == (1, self.num_classes) else ""
            raise ValueError(f"y must lie in [0, {self.num_classes}), got labels from {low} to {high}{remedy}")
        if len(self.class_names) != self.num_classes:
            raise ValueError(f"class_names must hold {self.num_classes} names, got {len(self.class_names)}")

    @classmethod
    def of(cls, x: Any, y: Any = None, names: Sequence[str] | None = None) -> Labelled:
        """Make a set of arrays, converted to what training reads.

        Without labels all samples are of one class. Then the null label stands for the same data as the only class, so
        guidance has nothing to amplify: trained fully, a network draws the same at every ``w``.

        Args:
            x: samples, (n, ...), a tensor or an array of NumPy. float64, float16, bfloat16 and integers up to 2^24
                become float32 (or what ``torch.set_default_dtype`` says); pictures in uint8 are refused, since their
                scale is yours to choose.
            y: labels, (n,) of any integer type, numbered from 0 on; by default all of one class.
            names: one for each class; by default there are as many classes as the largest label says, and their names
                are their numbers.

        Returns:
            The set; it shares the memory of ``x`` and ``y`` where nothing was converted.

        Raises:
            TypeError: for other types than these.
            ValueError: for other shapes, samples that are not finite, and labels that do not fit the names; the message
                names the row, or the range that was found.

        Example:
            >>> import numpy as np
            >>> from ismkit import Labelled
            >>> data = Labelled.of(np.arange(6).reshape(3, 2), [0, 2, 2])
            >>> data.x.dtype, data.y.dtype, data.num_classes, data.missing
            (torch.float32, torch.int64, 3, (1,))
            >>> Labelled.of(data.x, [1, 2, 2], names=("cat", "dog"))
            Traceback (most recent call last):
                ...
            ValueError: y must lie in [0, 2), got labels from 1 to 2: classes are numbered from 0 on, take y - 1
            >>> Labelled.of(data.x).class_names
            ('all',)
        """
        x = as_samples(x)
        if isinstance(names, str):
            raise TypeError(f"names must be one text per class, got the single text {names!r}")
        if names is not None and (not isinstance(names, Sequence) or not len(names)):
            raise TypeError(f"names must be one text per class, got {shown(names)}")
        if y is None:
            y, names = torch.zeros(len(x), dtype=torch.long), ("all",) if names is None else names
        y = as_labels(y, len(x)).to(x.device)
        if names is None:
            count = int(y.max()) + 1
            if count < 1:
                raise ValueError(f"y must number the classes from 0 on, got no label above {count - 1}")
            if count > max(len(y), 100_000):
                raise ValueError(
                    f"y must number the classes from 0 on, or names be given, got labels up to {count - 1}"
                )
            names = tuple(map(str, range(count)))
        return cls(x, y, len(names), tuple(map(str, names)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.x.shape[1:])

    @cached_property
    def missing(self) -> tuple[int, ...]:
        """The classes without rows: they are never trained."""
        return missing_classes(self.y, self.num_classes)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]


EIGHT_GAUSSIANS_STD = 0.1
#: The means of :func:`eight_gaussians`, (8, 2): on a circle of radius sqrt(2), so that each coordinate has variance 1.
EIGHT_GAUSSIANS_MEANS = math.sqrt(2) * torch.tensor(
    [(math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)) for k in range(8)]
)


def eight_gaussians(n: int, seed: int) -> Labelled:
    """Draw points from eight Gaussians on a circle, a set that is common for flow models; their exact field is known.

    Weights are equal, the means are :data:`EIGHT_GAUSSIANS_MEANS`, each component has standard deviation 0.1 in both
    directions. :data:`ismkit.lessons.closed_forms.EIGHT_GAUSSIANS` is this mixture with its exact velocity.

    Args:
        n: number of points, 1 or more.
        seed: equal arguments give equal points.

    Returns:
        Points (n, 2) with E|x|^2 = 2.02; the class is the component, at 45 degrees times its number.

    Raises:
        ValueError: if ``n`` is below 1.

    Example:
        The mean of class 2 is near the top of the circle, (0, sqrt 2):

        >>> from ismkit import eight_gaussians
        >>> data = eight_gaussians(4000, seed=0)
        >>> x, y = data[:]
        >>> [round(value, 1) + 0.0 for value in x[y == 2].mean(0).tolist()], data.class_names[2]
        ([0.0, 1.4], '90 degrees')
    """
    n, generator = _generator("eight_gaussians", n, seed)
    y = torch.randint(8, (n,), generator=generator)
    x = EIGHT_GAUSSIANS_MEANS[y] + EIGHT_GAUSSIANS_STD * torch.randn(n, 2, generator=generator)
    return Labelled(x, y, 8, tuple(f"{45 * k} degrees" for k in range(8)))


def two_moons(n: int, seed: int) -> Labelled:
    """Draw points from two interleaved half circles, centred and scaled so that E|x|^2 is about 2.

    Args:
        n: number of points, 1 or more.
        seed: equal arguments give equal points.

    Returns:
        Points (n, 2) of the classes upper and lower.

    Raises:
        ValueError: if ``n`` is below 1.

    Example:
        >>> from ismkit import two_moons
        >>> x, y = two_moons(4000, seed=0)[:]
        >>> round(x.square().sum(1).mean().item(), 1)
        2.0
        >>> (x[y == 0].mean(0) + x[y == 1].mean(0)).abs().max().item() < 0.1  # each moon is the other one turned
        True
    """
    n, generator = _generator("two_moons", n, seed)
    y = torch.randint(2, (n,), generator=generator)
    angle = math.pi * torch.rand(n, generator=generator)
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1)
    x = torch.where(y[:, None] == 0, upper, -upper) + 0.08 * torch.randn(n, 2, generator=generator)
    return Labelled(math.sqrt(2) * x, y, 2, ("upper", "lower"))


def checkerboard(n: int, seed: int) -> Labelled:
    """Draw points uniformly from the 8 dark unit squares of a 4 x 4 board over [-2, 2]^2.

    Args:
        n: number of points, 1 or more.
        seed: equal arguments give equal points.

    Returns:
        Points (n, 2) with E|x|^2 = 8/3; the class is the row's parity.

    Raises:
        ValueError: if ``n`` is below 1.

    Example:
        A square is dark where the numbers of its row and its column have one parity:

        >>> from ismkit import checkerboard
        >>> x, y = checkerboard(4000, seed=0)[:]
        >>> squares = x.floor().long() + 2  # column and row, each 0 .. 3
        >>> sorted(map(tuple, squares.unique(dim=0).tolist()))
        [(0, 0), (0, 2), (1, 1), (1, 3), (2, 0), (2, 2), (3, 1), (3, 3)]
        >>> (squares[:, 1] % 2).equal(y)
        True
    """
    n, generator = _generator("checkerboard", n, seed)
    row = torch.randint(4, (n,), generator=generator)
    column = 2 * torch.randint(2, (n,), generator=generator) + row % 2
    x = torch.stack([column, row], dim=1) + torch.rand(n, 2, generator=generator) - 2
    return Labelled(x, row % 2, 2, ("even rows", "odd rows"))


def spirals(n: int, seed: int) -> Labelled:
    """Draw points from two spiral arms of 1.5 turns, one the other turned by 180 degrees; E|x|^2 is about 2.

    Args:
        n: number of points, 1 or more.
        seed: equal arguments give equal points.

    Returns:
        Points (n, 2), one class for each arm.

    Raises:
        ValueError: if ``n`` is below 1.

    Example:
        The arms wind 1.5 times, so along the positive x axis they take turns:

        >>> from ismkit import spirals
        >>> x, y = spirals(20_000, seed=0)[:]
        >>> near = (x[:, 1].abs() < 0.05) & (x[:, 0] > 0)
        >>> [y[near & ((x[:, 0] - r).abs() < 0.1)].unique().tolist() for r in (2 / 3, 4 / 3, 2)]
        [[1], [0], [1]]
    """
    n, generator = _generator("spirals", n, seed)
    y = torch.randint(2, (n,), generator=generator)
    reach = torch.rand(n, generator=generator).sqrt()  # the root keeps the density even along the arm
    angle = 3 * math.pi * reach + math.pi * y
    arm = 2 * reach[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return Labelled(arm + 0.05 * torch.randn(n, 2, generator=generator), y, 2, ("first arm", "second arm"))


def _generator(name: str, n: int, seed: int) -> tuple[int, torch.Generator]:
    return check_count("n", n), stream(seed, name)
