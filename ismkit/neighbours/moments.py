"""Inductive moment matching (arXiv 2503.07565): samples of a step equal in distribution to those from a cleaner point.

Three parts make the recipe: rows in groups (:class:`~ismkit.neighbours.rows.Groups`), a target from a point of the same
pair that lies a little nearer to the data (:class:`Inductive`), and a distance in groups (:class:`Discrepancy`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ismkit.method.coupling import Coupling
from ismkit.method.path import Query, expand_as
from ismkit.method.recipes import Answer, Context, Recipe
from ismkit.method.rows import Blocked
from ismkit.neighbours.rows import Groups
from ismkit.utils.checks import check_count, check_number, check_tensor
from ismkit.utils.settings import check_types


@dataclass(frozen=True)
class Inductive:
    """Targets from a cleaner point of the same pair, as in inductive moment matching (arXiv 2503.07565).

    A row asks for the step over ``[t, s]``, ``s = t + d``. The point ``r`` lies towards the data by a constant
    difference of ``eta = (1 - t) / t``, the noise over the data in ``x_t``, but not beyond ``s``::

        eta(r) = eta(t) - (eta_max - eta_min) / 2^k

    At ``x_r = x_t + (r - t) v`` the target network is asked for the rest. Written as a velocity from ``x_t`` on, its
    answer is ``c v + (1 - c) net(x_r, r, s - r)`` with ``c = (r - t) / d``: that of
    :class:`~ismkit.neighbours.leap.Leap` with the sample's velocity and a cut of its own in each row. What differs
    is the distance, :class:`Discrepancy`.

    The weight of a row is the paper's, the derivative of the logarithmic signal-to-noise ratio ``lambda`` times a
    sigmoid that takes weight from times near the data::

        1/2 sigmoid(b - lambda_t) (d lambda / dt) t^a / (t^2 + (1 - t)^2),    lambda_t = 2 log(t / (1 - t))

    Attributes:
        k: halvings of the range of eta: the larger, the nearer is r (CIFAR-10: 15, ImageNet-256: 12).
        eta_max, eta_min: its ends (160 and 0); times at which there is more noise count as those of ``eta_max``.
        b: shift of the sigmoid (CIFAR-10: 5, ImageNet-256: 4).
        a: power of the time in the weight, 1 or 2 (CIFAR-10: 1, ImageNet-256: both). With 2 the step from the noise has
            no weight.

    Raises:
        ValueError: if k is below 1, the ends do not rise from 0 or more, b is not finite or a below 1.

    Example:
        From an even mixture of noise and data, eta = 1, to eta = 1 - 160 / 2^8:

        >>> import torch
        >>> from ismkit.neighbours import Inductive
        >>> t = torch.tensor([0.0, 0.5, 0.9])
        >>> r = Inductive(k=8).nearer(t, end=torch.ones(3))
        >>> r
        tensor([0.0062, 0.7273, 1.0000])
        >>> round(((1 - r) / r)[1].item(), 4), 1 - 160 / 2**8
        (0.375, 0.375)
        >>> Inductive(b=0.0).weight(t)
        tensor([1.0000, 2.0000, 0.1487])

        It stands in recipes whose rows are in groups:

        >>> from ismkit.neighbours import NEIGHBOURS
        >>> Inductive().check(NEIGHBOURS["imm"])
    """

    needs_float32: ClassVar[bool] = True  # bf16 does not tell the two sets apart
    k: int = 15
    eta_max: float = 160.0
    eta_min: float = 0.0
    b: float = 5.0
    a: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)
        check_count("k", self.k)
        if not 0 <= self.eta_min < self.eta_max < math.inf:
            raise ValueError(f"eta_min and eta_max must rise from 0 or more, got {self.eta_min} and {self.eta_max}")
        check_number("b", self.b, "that is finite", -700, 700)
        check_number("a", self.a, "of at least 1", 1)

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that this rule is not valid in.

        Raises:
            ValueError: if rows are not in groups.
        """
        if not isinstance(recipe.rows, Groups):
            raise ValueError(f"rows must be Groups for moment matching, got {type(recipe.rows).__name__}")

    def nearer(self, t: Tensor, end: Tensor) -> Tensor:
        """Compute the times r of the points that answer.

        Args:
            t: times of the rows, (B,).
            end: ``t + d``, (B,).

        Returns:
            Times in ``[t, end]``, (B,).
        """
        step = (self.eta_max - self.eta_min) / 2**self.k
        eta = (((1 - t) / t).clamp(max=self.eta_max) - step).clamp(min=0)
        return torch.minimum(torch.maximum(1 / (1 + eta), t), end)

    def weight(self, t: Tensor) -> Tensor:
        """Compute the weight of rows at times (B,)."""
        # d lambda / dt = 2 / (t (1 - t)), divided out: at neither end is anything infinite.
        signal, noise = t.square(), (1 - t).square()
        return (1 - t) * t ** (self.a - 1) / (noise + math.exp(-self.b) * signal) / (signal + noise)

    def __call__(self, query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Answer:
        """Targets (B, ...) made by the fast average, and weights; see :class:`ismkit.method.recipes.TargetRule`."""
        x, t, d, w, y = query
        step = self.nearer(t, t + d) - t
        share = torch.where(d > 0, step / d.clamp(min=1e-30), 1.0).clamp(max=1)
        rest = context.fast(x + expand_as(step, x) * velocity, t + step, (1 - share) * d, w, y)
        part = expand_as(share, x)
        return Answer((part * velocity + (1 - part) * rest).to(velocity.dtype), self.weight(t))


@dataclass(frozen=True)
class Discrepancy:
    """Squared maximum mean discrepancy within groups, between the ends of steps predicted and those of their targets.

    With the M ends ``z_i = x_i + d s_i`` of a group's predictions and ``z'_i`` of its targets, the row i has::

        mean_j  k(z_i, z_j) + k(z'_i, z'_j) - k(z_i, z'_j) - k(z_j, z'_i)

    whose mean over the group is the discrepancy of its two sets (arXiv 2503.07565). The kernel of the paper is
    ``exp(-max(|z - z'|, eps) / (D |c_out|))`` for D numbers a sample, where ``c_out = d sigma_data`` on the straight
    path: so the ends of short steps are compared as finely as those of long ones. With groups of one row and the
    kernel ``-|z - z'|^2`` the row has ``2 d^2 |s - s'|^2``: consistency training.

    Attributes:
        size: rows in a group, M: that of :class:`ismkit.neighbours.rows.Groups`, which is not checked. With another one
            steps of different lengths are compared.
        sigma_data: standard deviation of a number of the data (the paper's 0.5 goes with data and noise that are both
            scaled to 0.5).
        kernel: "laplace", the paper's, or "square", ``-|z - z'|^2``.
        eps: distances below are taken as this, and have no gradient.

    Raises:
        ValueError: for an empty group, or a deviation or eps that is not positive.

    Example:
        Two sets are equal whatever their order, and far apart where they are not:

        >>> import torch
        >>> from ismkit.method import Query
        >>> from ismkit.neighbours import Discrepancy
        >>> query = Query(torch.zeros(2, 1), torch.zeros(2), torch.ones(2), torch.zeros(2), torch.tensor([0, 0]))
        >>> s = torch.tensor([[-1.0], [1.0]])
        >>> distance = Discrepancy(size=2)
        >>> [round(distance(s, target, query).mean().item(), 3) + 0.0 for target in (s.flip(0), s + 100)]
        [0.0, 1.135]
    """

    size: int = 4
    sigma_data: float = 1.0
    kernel: Literal["laplace", "square"] = "laplace"
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_types(self)
        check_count("size", self.size)
        check_number("sigma_data", self.sigma_data, "above 0", 1e-300)
        check_number("eps", self.eps, "above 0", 1e-300)

    def __call__(self, prediction: Tensor, target: Tensor, query: Query | None = None) -> Tensor:
        """Compute the discrepancy of each row, in float32 at least.

        Args:
            prediction: (B, ...).
            target: (B, ...), of the same shape.
            query: what was asked: states and step sizes.

        Returns:
            Its part of the discrepancy, (B,), which may be negative; that of a group is the mean of its rows.

        Raises:
            TypeError: if prediction or target hold no floating point numbers, or there is no query.
            ValueError: if the shapes or devices differ, or B is no multiple of the group's size.
        """
        if not isinstance(query, Query):
            raise TypeError(f"query must be what was asked, a Query, got {type(query).__name__}")
        check_tensor("prediction", prediction)
        check_tensor("target", target, ("prediction", prediction))
        if not prediction.shape == target.shape == query.x.shape or prediction.ndim < 2:
            shapes = f"{tuple(prediction.shape)}, {tuple(target.shape)} and {tuple(query.x.shape)}"
            raise ValueError(f"prediction, target and query.x must have one shape (B, ...), got {shapes}")
        if len(prediction) % self.size:
            raise ValueError(f"prediction must hold a multiple of {self.size} rows, a group's, got {len(prediction)}")
        dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
        with torch.autocast(prediction.device.type, enabled=False):
            x, length = query.x.to(dtype), expand_as(query.d.to(dtype), query.x)
            ends, theirs = (
                (x + length * s.to(dtype)).unflatten(0, (-1, self.size)).flatten(2) for s in (prediction, target)
            )  # (G, M, D)
            unit = (query.d.to(dtype) * self.sigma_data * ends.shape[2]).unflatten(0, (-1, self.size))[..., None]
            across = self._kernel(ends, theirs, unit)  # (G, M, M)
            own = self._kernel(ends, ends, unit) + self._kernel(theirs, theirs, unit)
            return (own - across - across.mT).mean(2).flatten()

    def _kernel(self, a: Tensor, b: Tensor, unit: Tensor) -> Tensor:
        """Kernels of all pairs in each group: (G, M, D) twice, and the unit of length (G, M, 1) -> (G, M, M)."""
        squares = (a[:, :, None] - b[:, None]).square().sum(3)
        if self.kernel == "square":
            return -squares
        return torch.exp(-squares.clamp(min=self.eps**2).sqrt() / unit.clamp(min=self.eps))


# k, b and a are those of the paper's run on CIFAR-10 (its Table 5), which has k = 12 and b = 4 for ImageNet-256. In the
# plane (eight Gaussians, 800 steps of 256, seed 0) the distance of one step is 0.060 with them, 0.061 with k = 11 and
# 0.101 with 8; that of `ism` is 0.086. Labels are dropped as everywhere in this kit, and in the paper; it adds guidance
# at sampling only.
IMM = Recipe(
    "imm",
    Groups(drop_consistency=True),
    Inductive(),
    weights=(0.0, 0.0, 1.0),
    coupling=Coupling(pool=0),  # noise is drawn for each sample
    distance=Discrepancy(),
    fast=0.0,  # targets by the online weights
)
