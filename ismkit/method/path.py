"""The straight path between noise and data, the network's query, and the dyadic grid of step sizes.

Conventions of the whole kit: ``t = 0`` is noise, ``t = 1`` is data; ``x_t = (1 - t) x0 + t x1`` and the velocity
along that path is ``v = x1 - x0``. A shortcut network answers ``s(x, t, d, w, y)``, the *average* velocity over
``[t, t + d]``, so that ``x_{t+d} = x_t + d * s``; ``d = 0`` asks for the instantaneous velocity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Network(Protocol):
    """The one call signature of the kit: ``net(x, t, d, w, y) -> s`` with ``s`` shaped like ``x``."""

    def __call__(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor, /) -> Tensor:
        """Average velocity over [t, t + d]."""
        ...


class Query(NamedTuple):
    """What a network is asked, unpacked as ``net(*query)``.

    Shapes: ``x`` (B, ...); ``t``, ``d``, ``w`` (B,) float; ``y`` (B,) long. Ranges: ``0 <= t <= t + d <= 1``;
    ``w >= 0`` (0 = unguided, the CFG scale is ``1 + w``); ``y`` in ``0 .. num_classes``, the last being null.
    """

    x: Tensor
    t: Tensor
    d: Tensor
    w: Tensor
    y: Tensor

    def take(self, rows: slice) -> Query:
        """The same query for some of its rows."""
        return Query(*(column[rows] for column in self))


def expand_as(values: Tensor, x: Tensor) -> Tensor:
    """Shape ``values`` (B,) as (B, 1, ..., 1) so that it multiplies ``x`` (B, ...) row by row."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def interpolate(x0: Tensor, x1: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Point on the straight path and its velocity (flow matching; SM Eq. 1).

    Args:
        x0: noise, (B, ...).
        x1: data, (B, ...), shaped like ``x0``.
        t: times in [0, 1], (B,).

    Returns:
        ``x_t = (1 - t) x0 + t x1`` and ``v = x1 - x0``, both (B, ...).

    Raises:
        ValueError: if the shapes do not match.
    """
    if x0.shape != x1.shape:
        raise ValueError(f"x0 and x1 must have one shape, got {tuple(x0.shape)} and {tuple(x1.shape)}")
    if t.shape != x1.shape[:1]:
        raise ValueError(f"t must hold one time per row, shape {tuple(x1.shape[:1])}, got {tuple(t.shape)}")
    return torch.lerp(x0, x1, expand_as(t, x1)), x1 - x0


@dataclass(frozen=True)
class StepGrid:
    """Dyadic times and step sizes: ``n`` finest steps, ``n`` a power of two (SM, section 3).

    Step sizes ``2/n, 4/n, ..., 1`` are learnt from two half steps each. The half of the smallest is ``1/n``, and the
    finest level *is* the flow-matching level: it is asked as ``d = 0``. So every half step that is ever queried is
    itself trained.
    """

    n: int = 128

    def __post_init__(self) -> None:
        if self.n < 2 or self.n & (self.n - 1):
            raise ValueError(f"n, the number of finest steps, must be a power of two and at least 2, got {self.n}")

    @property
    def levels(self) -> int:
        """How often the step size is doubled from the finest level to one step: log2(n)."""
        return self.n.bit_length() - 1

    def step_size(self, level: Tensor) -> Tensor:
        """Step size ``2^level / n`` after ``level`` doublings, level in 1 .. ``levels``."""
        return torch.exp2(level.to(torch.get_default_dtype())) / self.n

    def half(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Half of the step size ``d > 0``: its length, and the ``d`` under which the network is asked for it.

        They differ at the finest level only, where a step of length ``1/n`` is asked as ``d = 0``.
        """
        length = d / 2
        return length, self.ask(length)

    def ask(self, length: Tensor) -> Tensor:
        """The ``d`` under which a network is asked for a step of this length: 0 at the finest level ``1/n``."""
        return torch.where(length * self.n > 1.5, length, torch.zeros_like(length))

    def random_times(self, d: Tensor, generator: torch.Generator | None = None, power: float = 1.0) -> Tensor:
        """For each ``d`` (B,) a start time drawn uniformly from that level's own grid {0, d, 2d, ..., 1 - d}.

        ``d = 0`` draws from the finest grid, {0, 1/n, ..., 1 - 1/n} (SM code); there with another ``power`` than 1 it
        is ``u^power``, u uniform, rounded down to the grid.
        """
        length = d.clamp(min=1 / self.n)
        u = torch.rand(d.shape, generator=generator, device=d.device, dtype=d.dtype)
        # The clamp changes no grid point, but keeps a root from rounding up to 1.
        u = torch.where(d == 0, (u**power).clamp(max=1 - 0.5 / self.n), u)
        return torch.floor(u / length) * length

    def check_nfe(self, nfe: int) -> float:
        """The step size ``1 / nfe`` of a sampler, refused where no level of the grid has it.

        Raises:
            ValueError: unless ``nfe`` is a power of two in 1 .. ``n``.
        """
        if not 1 <= nfe <= self.n or nfe & (nfe - 1):
            allowed = [2**k for k in range(self.levels + 1)]
            raise ValueError(f"nfe must be one of {allowed} (the levels of this grid), got {nfe}")
        return 1 / nfe
