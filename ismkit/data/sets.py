"""Labelled data in memory, and the 2D sets of the first notebooks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ismkit.utils.seeding import stream


@dataclass(frozen=True, eq=False)
class Labelled(Dataset[tuple[Tensor, Tensor]]):
    """Labelled points or images, whole in memory.

    ``x`` (n, ...) floating; ``y`` (n,) int64 in [0, num_classes); one name per class.
    """

    x: Tensor
    y: Tensor
    num_classes: int
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse sets that cannot be trained on."""
        if not self.x.is_floating_point():
            raise TypeError(f"x must be floating point, got {self.x.dtype}")
        if self.y.dtype != torch.int64:
            raise TypeError(f"y must be int64, got {self.y.dtype}")
        if self.x.ndim < 2 or self.y.shape != self.x.shape[:1] or len(self.y) == 0:
            raise ValueError(
                f"x must be (n, ...) and y (n,) with n >= 1, got {tuple(self.x.shape)} and {tuple(self.y.shape)}"
            )
        low, high = int(self.y.min()), int(self.y.max())
        if low < 0 or high >= self.num_classes:
            raise ValueError(f"y must lie in [0, {self.num_classes}), got labels from {low} to {high}")
        if len(self.class_names) != self.num_classes:
            raise ValueError(f"class_names must hold {self.num_classes} names, got {len(self.class_names)}")

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]


# The mixture of `eight_gaussians`: equal weights, covariance EIGHT_GAUSSIANS_STD^2 I, means on a circle of
# radius sqrt(2), so that each coordinate of the means has variance 1.
EIGHT_GAUSSIANS_STD = 0.1
EIGHT_GAUSSIANS_MEANS = math.sqrt(2) * torch.tensor(
    [(math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)) for k in range(8)]
)


def eight_gaussians(n: int, seed: int) -> Labelled:
    """``n`` draws from the mixture above; the class is the component, at 45 degrees times its number."""
    generator = _generator("eight_gaussians", n, seed)
    y = torch.randint(8, (n,), generator=generator)
    x = EIGHT_GAUSSIANS_MEANS[y] + EIGHT_GAUSSIANS_STD * torch.randn(n, 2, generator=generator)
    return Labelled(x, y, 8, tuple(f"{45 * k} degrees" for k in range(8)))


def two_moons(n: int, seed: int) -> Labelled:
    """Two interleaved half circles (classes: upper, lower), centred and scaled so that E|x|^2 is about 2."""
    generator = _generator("two_moons", n, seed)
    y = torch.randint(2, (n,), generator=generator)
    angle = math.pi * torch.rand(n, generator=generator)
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1)
    x = torch.where(y[:, None] == 0, upper, -upper) + 0.08 * torch.randn(n, 2, generator=generator)
    return Labelled(math.sqrt(2) * x, y, 2, ("upper", "lower"))


def checkerboard(n: int, seed: int) -> Labelled:
    """Uniform on the 8 dark unit squares of a 4 x 4 board over [-2, 2]^2; the class is the row's parity."""
    generator = _generator("checkerboard", n, seed)
    row = torch.randint(4, (n,), generator=generator)
    column = 2 * torch.randint(2, (n,), generator=generator) + row % 2
    x = torch.stack([column, row], dim=1) + torch.rand(n, 2, generator=generator) - 2
    return Labelled(x, row % 2, 2, ("even rows", "odd rows"))


def spirals(n: int, seed: int) -> Labelled:
    """Two arms of 1.5 turns, one the other turned by 180 degrees; E|x|^2 is about 2."""
    generator = _generator("spirals", n, seed)
    y = torch.randint(2, (n,), generator=generator)
    reach = torch.rand(n, generator=generator).sqrt()  # the root keeps the density even along the arm
    angle = 3 * math.pi * reach + math.pi * y
    arm = 2 * reach[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return Labelled(arm + 0.05 * torch.randn(n, 2, generator=generator), y, 2, ("first arm", "second arm"))


def _generator(name: str, n: int, seed: int) -> torch.Generator:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return stream(seed, name)
