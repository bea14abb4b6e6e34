"""Flow matching without a network: the exact marginal velocity of a Gaussian mixture, and how uncertain it is.

The noise is N(0, I), drawn independently of the data, and x_t = (1 - t) x0 + t x1. For data of one component,
N(m, std^2 I), x_t is N(t m, s_t^2 I) with s_t^2 = (1 - t)^2 + t^2 std^2, and (x_t, v) are jointly Gaussian: everything
below is that one regression, averaged over the components by their responsibilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ismkit.data import EIGHT_GAUSSIANS_MEANS, EIGHT_GAUSSIANS_STD


@dataclass(frozen=True, eq=False)
class Mixture:
    """Data from the mixture of N(``means[k]``, ``std``^2 I), equal weights; ``means`` (K, D).

    Throughout, ``x`` (B, D) are states and ``t`` (B,) their times in [0, 1]; results have the dtype of ``x``.
    """

    means: Tensor
    std: float

    def __post_init__(self) -> None:
        if self.means.ndim != 2 or len(self.means) == 0:
            raise ValueError(f"means must be (K, D) with K >= 1, got {tuple(self.means.shape)}")
        if not 0 < self.std < math.inf:
            raise ValueError(f"std must be positive and finite, got {self.std}")

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """Logarithm of the density of x_t, (B,): that of noise at t = 0 and of the data at t = 1."""
        return self._joint(x, t).logsumexp(1)

    def responsibilities(self, x: Tensor, t: Tensor) -> Tensor:
        """Probability (B, K) of each component, given x_t."""
        return self._joint(x, t).softmax(1)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The marginal velocity E[x1 - x0 | x_t], (B, D): what a network trained by flow matching should answer."""
        return (self.responsibilities(x, t)[..., None] * self._component_velocities(x, t)).sum(1)

    def velocity_variance(self, x: Tensor, t: Tensor) -> Tensor:
        """Variance of x1 - x0 given x_t, (B,), the mean over coordinates: the loss that no network gets below."""
        velocities = self._component_velocities(x, t)  # (B, K, D)
        weights = self.responsibilities(x, t)[..., None]  # (B, K, 1)
        between = (weights * (velocities - (weights * velocities).sum(1, keepdim=True)).square()).sum(1).mean(1)
        return self.std**2 / self._variance(t) + between

    def _variance(self, t: Tensor) -> Tensor:
        """s_t^2, (B,): the variance of x_t within a component."""
        return (1 - t).square() + (t * self.std).square()

    def _offsets(self, x: Tensor, t: Tensor) -> Tensor:
        """How far x_t is from the mean of each component at that time, (B, K, D)."""
        if x.ndim != 2 or x.shape[1] != self.means.shape[1] or t.shape != x.shape[:1]:
            expected = f"(B, {self.means.shape[1]}) and (B,)"
            raise ValueError(f"x and t must be {expected}, got {tuple(x.shape)} and {tuple(t.shape)}")
        return x[:, None] - t[:, None, None] * self.means.to(x)

    def _joint(self, x: Tensor, t: Tensor) -> Tensor:
        """Logarithm of p(x_t, component), (B, K)."""
        squared = self._offsets(x, t).square().sum(2)
        variance = self._variance(t)[:, None]
        constant = math.log(len(self.means)) + x.shape[1] / 2 * torch.log(2 * math.pi * variance)
        return -squared / (2 * variance) - constant

    def _component_velocities(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x1 - x0 | x_t, component], (B, K, D): mean plus (t std^2 - (1 - t)) / s_t^2 times the offset."""
        slope = (t * self.std**2 - (1 - t)) / self._variance(t)
        return self.means.to(x) + slope[:, None, None] * self._offsets(x, t)


#: The mixture of :func:`ismkit.data.eight_gaussians`.
EIGHT_GAUSSIANS = Mixture(EIGHT_GAUSSIANS_MEANS, EIGHT_GAUSSIANS_STD)


def turned(x: Tensor, turns: int = 8) -> Tensor:
    """Points of the plane (n, 2) and their copies turned about 0 by multiples of 1 / turns: (turns * n, 2).

    Noise drawn like this has the symmetry of the eight Gaussians, so that distances between samples and data are not
    ruled by how many points happen to fall to each of them.
    """
    if x.ndim != 2 or x.shape[1] != 2 or turns < 1:
        raise ValueError(f"x must be (n, 2) and turns at least 1, got {tuple(x.shape)} and {turns}")
    angle = 2 * math.pi / turns * torch.arange(turns, device=x.device, dtype=torch.float64)
    rows = [torch.stack([angle.cos(), -angle.sin()], 1), torch.stack([angle.sin(), angle.cos()], 1)]
    rotations = torch.stack(rows, 1).to(x)  # (turns, 2, 2)
    return (x @ rotations.mT).flatten(0, 1)
