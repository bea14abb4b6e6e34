"""Training methods as values: a :class:`Recipe` is made of parts, and one training step serves them all.

A method turns a coupled batch into (query, target). Its rows come in three blocks, always in this order:

* *velocity* rows: ``d = 0``, target ``v``;
* *guidance* rows: ``d = 0``, ``w > 0``, target ``v + w * gap``;
* *consistency* rows: ``d > 0``, target the average of two half steps of the target network.

Baselines and ablations are other values of the same class; :data:`RECIPES` names them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ismkit.coupling import Coupling
from ismkit.guidance import Strengths, cfg, intrinsic_velocity
from ismkit.path import Network, Query, StepGrid, expand_as, interpolate
from ismkit.wavelet import Distance, WaveletDistance, geometric_weights, l2, unit_weights


class Blocks(NamedTuple):
    """The rows of a batch by their purpose: three slices that partition it."""

    velocity: slice
    guidance: slice
    consistency: slice


@dataclass(frozen=True)
class Rows:
    """How a batch is split into rows and what each of them is asked.

    Attributes:
        guidance: fraction of guidance rows; they keep their label.
        consistency: fraction of consistency rows; the velocity rows are the rest.
        label_dropout: probability that a velocity row (and, with ``drop_consistency``, a consistency row) has its
            label replaced by null.
        drop_consistency: train the null label at ``d > 0`` too: needed where a target asks for it there.
        strengths: the guidance strengths drawn; ``Strengths(0)`` for methods without ``w``.
        grid: the dyadic grid of step sizes and times.
    """

    guidance: float = 0.0
    consistency: float = 0.0
    label_dropout: float = 0.1
    drop_consistency: bool = False
    strengths: Strengths = field(default_factory=lambda: Strengths(0.0))
    grid: StepGrid = field(default_factory=StepGrid)

    def __post_init__(self) -> None:
        for name in ("guidance", "consistency", "label_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a fraction in [0, 1], got {getattr(self, name)}")
        if self.guidance + self.consistency > 1:
            raise ValueError(f"guidance + consistency must not exceed 1, got {self.guidance} + {self.consistency}")
        if self.guidance and not self.strengths.count:
            raise ValueError(f"guidance={self.guidance} needs strengths above 0, got w_max={self.strengths.w_max}")

    def blocks(self, batch: int) -> Blocks:
        """Split ``batch`` rows.

        Raises:
            ValueError: if a block with a fraction above zero gets no row.
        """
        # A fraction such as 1/49 is rounded down in binary: without the allowance 49 rows would hold none of it.
        guidance, consistency = (int(fraction * batch + 1e-9) for fraction in (self.guidance, self.consistency))
        for name, rows in (("guidance", guidance), ("consistency", consistency)):
            if getattr(self, name) and not rows:
                raise ValueError(
                    f"a batch of {batch} gives no {name} row at fraction {getattr(self, name)}: "
                    f"use a batch of at least {math.ceil(1 / getattr(self, name) - 1e-9)}"
                )
        velocity = batch - guidance - consistency
        return Blocks(slice(0, velocity), slice(velocity, batch - consistency), slice(batch - consistency, batch))

    def __call__(
        self, x0: Tensor, x1: Tensor, y: Tensor, null: int, generator: torch.Generator
    ) -> tuple[Query, Tensor]:
        """Draw what every row is asked.

        Args:
            x0: coupled noise, (B, ...).
            x1: data, (B, ...).
            y: labels, (B,) long.
            null: the null label, ``num_classes``.
            generator: on the device of ``x1``.

        Returns:
            The query, and the velocity ``x1 - x0`` (B, ...).
        """
        rows = self.blocks(len(x1))
        device = x1.device
        d = torch.zeros(len(x1), device=device)
        w = torch.zeros(len(x1), device=device)
        n_guidance, n_consistency = len(d[rows.guidance]), len(d[rows.consistency])
        if n_consistency:
            # Every level in turn from a random one on: each gets its share of every batch, up to one row.
            first = torch.randint(self.grid.levels, (1,), generator=generator, device=device)
            level = 1 + (first + torch.arange(n_consistency, device=device)) % self.grid.levels
            d[rows.consistency] = self.grid.step_size(level)
            w[rows.consistency] = self.strengths.draw(n_consistency, generator, device, guided=False)
        if n_guidance:
            w[rows.guidance] = self.strengths.draw(n_guidance, generator, device, guided=True)
        t = self.grid.random_times(d, generator)

        dropped = torch.rand(len(y), generator=generator, device=device) < self.label_dropout
        dropped[rows.guidance] = False
        dropped[rows.consistency] &= self.drop_consistency
        y = torch.where(dropped, null, y)
        # No guidance exists where the label is null: both fields are equal there, so those rows say w = 0.
        w = torch.where(dropped, 0.0, w)

        x_t, velocity = interpolate(x0, x1, t)
        return Query(x_t, t, d, w, y), velocity


# What the rows should answer: (target network, query, velocity, rows, null label) -> (B, ...), like the velocity.
TargetRule = Callable[[Network, Query, Tensor, Rows, int], Tensor]


def average_of_half_steps(
    field: Callable[[Tensor, Tensor, Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    d: Tensor,
    grid: StepGrid,
    clip: float | None = None,
) -> Tensor:
    """Target of the consistency rows: the average of two half steps of ``field(x, t, d)`` (SM Eq. 5).

    Args:
        field: average velocity at fixed guidance and label.
        x: states, (B, ...).
        t: start times, (B,).
        d: step sizes above 0, (B,), on the grid.
        grid: tells under which ``d`` a half step is asked.
        clip: bound on the middle state and the target (SM code: 4), or None.

    Returns:
        ``(s_1 + s_2) / 2``, (B, ...).
    """
    length, ask = grid.half(d)
    first = field(x, t, ask)
    middle = x + expand_as(length, x) * first
    if clip is not None:
        middle = middle.clamp(-clip, clip)
    average = (first + field(middle, t + length, ask)) / 2
    return average if clip is None else average.clamp(-clip, clip)


def velocity_target(net: Network, query: Query, velocity: Tensor, rows: Rows, null: int) -> Tensor:
    """Plain flow matching: every row is a velocity row and should answer ``v``."""
    return velocity


@dataclass(frozen=True)
class BakedIn:
    """The shortcut model's targets, with CFG at one scale baked in while half steps are made (SM).

    Attributes:
        cfg_scale: the baked-in scale (SM: 1.5).
        every_level: apply CFG anew at every doubling of the step, as the iSM paper formalises it: the guidance of one
            step grows to ``cfg_scale ** log2(N)``. False is the released SM code: CFG at the finest doubling only,
            which coarser levels inherit unmultiplied.
        clip: bound on middle states and targets (SM code: 4).
    """

    cfg_scale: float = 1.5
    every_level: bool = True
    clip: float | None = 4.0

    def __call__(self, net: Network, query: Query, velocity: Tensor, rows: Rows, null: int) -> Tensor:
        """Targets (B, ...) made by ``net``, the target network."""
        block = rows.blocks(len(velocity)).consistency
        x, t, d, w, y = query.take(block)
        nobody = torch.full_like(y, null)

        def guided(x: Tensor, t: Tensor, d: Tensor) -> Tensor:
            scale = torch.where((d == 0) | self.every_level, self.cfg_scale, 1.0)
            return cfg(net(x, t, d, w, y), net(x, t, d, w, nobody), expand_as(scale, x))

        target = velocity.clone()
        target[block] = average_of_half_steps(guided, x, t, d, rows.grid, self.clip).to(target.dtype)
        return target


@dataclass(frozen=True)
class Intrinsic:
    """iSM's targets: ``w`` enters the velocity at ``d = 0`` only, and larger steps learn it by consistency.

    Both the gap and the half steps come from the target network (the fast average): this kit's choice for the gap.

    Attributes:
        t_interval: no guidance below this time, the high-noise side (iSM: 0.3).
        clip: bound on middle states and targets, as in SM's code; None for none (this kit's choice).
    """

    t_interval: float = 0.3
    clip: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.t_interval <= 1:
            raise ValueError(f"t_interval must be a time in [0, 1], got {self.t_interval}")

    def __call__(self, net: Network, query: Query, velocity: Tensor, rows: Rows, null: int) -> Tensor:
        """Targets (B, ...) made by ``net``, the target network."""
        blocks = rows.blocks(len(velocity))
        target = velocity.clone()
        if rows.guidance:
            x, t, d, w, y = query.take(blocks.guidance)
            unguided = torch.zeros_like(w)
            gap = net(x, t, d, unguided, y) - net(x, t, d, unguided, torch.full_like(y, null))
            v = velocity[blocks.guidance]
            target[blocks.guidance] = intrinsic_velocity(v, gap, w, t, self.t_interval).to(target.dtype)
        if rows.consistency:
            x, t, d, w, y = query.take(blocks.consistency)
            average = average_of_half_steps(lambda x, t, d: net(x, t, d, w, y), x, t, d, rows.grid, self.clip)
            target[blocks.consistency] = average.to(target.dtype)
        return target


@dataclass(frozen=True)
class Recipe:
    """A training method, made of parts; every ablation is another value.

    Attributes:
        name: for logs and tables.
        rows: what is asked of the network.
        target: what it should answer.
        weights: alpha, beta, gamma of ``alpha L_velocity + beta L_guidance + gamma L_consistency``, each L the mean
            over its own rows (iSM: 1, 1, 1).
        coupling: which noise goes with which data.
        distance: error per sample, (B, ...), (B, ...) -> (B,).
        fast, slow: decays of the averages that make targets and that sample.
    """

    name: str
    rows: Rows
    target: TargetRule
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    coupling: Coupling = field(default_factory=Coupling)
    distance: Distance = l2
    fast: float = 0.9999
    slow: float = 0.9999

    def loss(self, distance: Tensor) -> Tensor:
        """The scalar loss of the distances (B,) of one batch: the weighted sum of the blocks' means."""
        blocks = self.rows.blocks(len(distance))
        parts = [
            weight * distance[rows].mean()
            for weight, rows in zip(self.weights, blocks, strict=True)
            if rows.stop > rows.start
        ]
        return torch.stack(parts).sum()


_FLOW = Recipe("flow", Rows(), velocity_target)
# SM's loss is one mean over the batch, so each block weighs what its rows do.
_SHORTCUT = Recipe(
    "shortcut_every_level",
    Rows(consistency=1 / 8, drop_consistency=True),
    BakedIn(every_level=True),
    weights=(7 / 8, 0.0, 1 / 8),
)
_FINEST = replace(_SHORTCUT, name="shortcut_finest_level", target=BakedIn(every_level=False))
_GUIDANCE = Recipe(
    "ism_guidance", Rows(guidance=1 / 4, consistency=1 / 4, strengths=Strengths(3.5)), Intrinsic(t_interval=0.0)
)
_INTERVAL = replace(_GUIDANCE, name="+interval", target=Intrinsic(t_interval=0.3))
# The paper does not say how it weighs or norms the bands. Of what was tried, squares with finer bands weighed up did
# best (book/studies/wavelet.py, notebook 05), though plain L2 did better still at that scale.
_WAVELET = replace(_INTERVAL, name="+wavelet", distance=WaveletDistance(unit_weights(geometric_weights(5, 0.5))))
_SOT = replace(_WAVELET, name="+sot", coupling=Coupling(pool=32, class_aware=True))
_ISM = replace(_SOT, name="ism", fast=0.95)

#: The ladder of the paper, each rung the one before with one part changed, after the two baselines.
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (_FLOW, _SHORTCUT, _FINEST, _GUIDANCE, _INTERVAL, _WAVELET, _SOT, _ISM)
}
