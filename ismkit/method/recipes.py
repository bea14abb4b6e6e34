"""Training methods as values: a :class:`Recipe` is made of parts, and one training step serves them all.

A method turns a coupled batch into (query, target). Its rows come in three blocks, always in this order:

* *velocity* rows: ``d = 0``, target ``v``;
* *guidance* rows: ``d = 0``, ``w > 0``, target ``v + w * gap``;
* *consistency* rows: ``d > 0``, target the average of two half steps of the target network.

Baselines and ablations are other values of the same class; :data:`RECIPES` names them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from ismkit.method.coupling import Coupling
from ismkit.method.ema import TwinEMA
from ismkit.method.guidance import Strengths, cfg, intrinsic_velocity
from ismkit.method.path import Network, Query, StepGrid, expand_as
from ismkit.method.rows import Rows
from ismkit.method.wavelet import Distance, WaveletDistance, geometric_weights, l2, unit_weights


class TargetRule(Protocol):
    """What the rows should answer."""

    def __call__(
        self, net: Network, query: Query, velocity: Tensor, rows: Rows, null: int, guide: Network | None = None
    ) -> Tensor:
        """Targets (B, ...), like the velocity.

        Args:
            net: the target network.
            query: what the rows are asked.
            velocity: ``x1 - x0`` of each row, (B, ...).
            rows: how the batch is split.
            null: the null label.
            guide: the network that makes the guidance gap, by default ``net``.
        """
        ...


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


def velocity_target(
    net: Network, query: Query, velocity: Tensor, rows: Rows, null: int, guide: Network | None = None
) -> Tensor:
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

    def __call__(
        self, net: Network, query: Query, velocity: Tensor, rows: Rows, null: int, guide: Network | None = None
    ) -> Tensor:
        """Targets (B, ...) made by ``net``, the target network; see :class:`TargetRule`."""
        block = rows.blocks(len(velocity)).consistency
        x, t, d, w, y = query.take(block)
        null_labels = torch.full_like(y, null)

        def guided(x: Tensor, t: Tensor, d: Tensor) -> Tensor:
            scale = torch.where((d == 0) | self.every_level, self.cfg_scale, 1.0)
            return cfg(net(x, t, d, w, y), net(x, t, d, w, null_labels), expand_as(scale, x))

        target = velocity.clone()
        target[block] = average_of_half_steps(guided, x, t, d, rows.grid, self.clip).to(target.dtype)
        return target


@dataclass(frozen=True)
class Intrinsic:
    """iSM's targets: ``w`` enters the velocity at ``d = 0`` only, and larger steps learn it by consistency.

    The half steps come from the target network, the fast average; the gap from ``Recipe.gap``.

    Attributes:
        t_interval: no guidance below this time, the high-noise side (iSM: 0.3).
        clip: bound on middle states and targets, as in SM's code; None for none (this kit's choice).
        predicted: guidance rows push the velocity that the gap's network predicts, instead of the sample's ``x1 - x0``
            (iSM): equal on average once trained, and without the sample's noise.
    """

    t_interval: float = 0.3
    clip: float | None = None
    predicted: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.t_interval <= 1:
            raise ValueError(f"t_interval must be a time in [0, 1], got {self.t_interval}")

    def __call__(
        self, net: Network, query: Query, velocity: Tensor, rows: Rows, null: int, guide: Network | None = None
    ) -> Tensor:
        """Targets (B, ...) made by ``net``, the target network; see :class:`TargetRule`."""
        blocks = rows.blocks(len(velocity))
        target = velocity.clone()
        if rows.guidance:
            x, t, d, w, y = query.take(blocks.guidance)
            unguided, guide = torch.zeros_like(w), guide or net
            conditional = guide(x, t, d, unguided, y)
            gap = conditional - guide(x, t, d, unguided, torch.full_like(y, null))
            v = conditional if self.predicted else velocity[blocks.guidance]
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
        gap: the average that makes the guidance gap; the paper does not say (this kit: ``fast``).
    """

    name: str
    rows: Rows
    target: TargetRule
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    coupling: Coupling = field(default_factory=Coupling)
    distance: Distance = l2
    fast: float = 0.9999
    slow: float = 0.9999
    gap: Literal["fast", "slow"] = "fast"

    def __post_init__(self) -> None:
        for name in ("target", "distance"):
            if not callable(getattr(self, name)):
                raise ValueError(f"{name} must be a function, such as those of RECIPES, got {getattr(self, name)!r}")
        if self.gap not in ("fast", "slow"):
            raise ValueError(f"gap must name an average, 'fast' or 'slow', got {self.gap!r}")

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
# This kit's: what beat `ism` at 1 NFE and at 128 for as many network passes (ismkit.sweeps.ladder, notebook 08).
# Guidance begins earlier, more of the times are near the noise, and the distance is plain L2.
_ISM_PLUS = replace(
    _ISM,
    name="ism_plus",
    rows=replace(_ISM.rows, time_power=1.5),
    target=Intrinsic(t_interval=0.1),
    distance=l2,
)

#: The ladder of the paper, each rung the one before with one part changed, after the baselines; then what is ours.
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (_FLOW, _SHORTCUT, _FINEST, _GUIDANCE, _INTERVAL, _WAVELET, _SOT, _ISM, _ISM_PLUS)
}


def training_step(
    recipe: Recipe, net: nn.Module, ema: TwinEMA, pair: tuple[Tensor, Tensor, Tensor], null: int, rng: torch.Generator
) -> tuple[Tensor, Query, Tensor]:
    """One step of any method: every fix of iSM is one line, and a recipe without it has another value there.

    Args:
        recipe: the method.
        net: the online network, wrapped or not; called once.
        ema: its averages; the fast one makes the targets.
        pair: coupled ``(x0, x1, y)``: noise (B, ...), data (B, ...), labels (B,).
        null: the null label.
        rng: generator of this step's random numbers, on the device of ``pair``.

    Returns:
        The loss (scalar, with gradient), the query, and the distance per row (B,).
    """
    x0, x1, y = pair  # ......................................................... scaling OT (coupled one pool ahead)
    query, velocity = recipe.rows(x0, x1, y, null, rng)  # ................... velocity | guidance | consistency rows
    with torch.no_grad():
        guide = getattr(ema, recipe.gap)
        target = recipe.target(ema.fast, query, velocity, recipe.rows, null, guide)  # . intrinsic guidance, twin EMA
    distance = recipe.distance(net(*query), target)  # ....................................... multi-level wavelet loss
    return recipe.loss(distance), query, distance
