"""Cases in which all is known: Gaussian modes, whose velocity has a closed form, and the network training would reach.

With them a rule for targets can be studied by itself, free of the errors of a trained network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ismkit.data import Labelled
from ismkit.guidance import Strengths
from ismkit.objectives import BakedIn, Intrinsic, average_of_half_steps
from ismkit.path import Query, StepGrid
from ismkit.rows import Rows
from ismkit.seeding import stream


def ring(modes: int, radius: float) -> tuple[tuple[float, float], ...]:
    """Points of the plane at even distances on a circle about 0, counter-clockwise from the top."""
    angles = [math.tau * (0.25 + k / modes) for k in range(modes)]
    return tuple((radius * math.cos(angle), radius * math.sin(angle)) for angle in angles)


@dataclass(frozen=True)
class ClassMixture:
    """Data of several classes, each of one or more modes ``N(mean, std^2 I)``; all modes have equal weight.

    The mixture of :mod:`ismkit.mixture`, split into classes, with settings that a run can be described by.

    Attributes:
        means: one tuple of D coordinates for each mode.
        classes: the class of each mode, 0 .. num_classes - 1, every one of them used.
        std: of every mode in every direction.
    """

    means: tuple[tuple[float, ...], ...]
    classes: tuple[int, ...]
    std: float

    def __post_init__(self) -> None:
        if len(self.means) != len(self.classes):
            raise ValueError(f"classes must hold one class for each of the {len(self.means)} means: {self.classes}")
        if not self.classes or set(self.classes) != set(range(self.num_classes)):
            raise ValueError(f"classes must be numbered 0, 1, ... without gaps, got {self.classes}")
        if not 0 < self.std < math.inf:
            raise ValueError(f"std must be positive and finite, got {self.std}")

    @property
    def num_classes(self) -> int:
        """How many classes there are; also the null label."""
        return max(self.classes, default=-1) + 1

    def draw(self, n: int, seed: int) -> Labelled:
        """``n`` samples with their classes, as a training set."""
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        generator = stream(seed, "class_mixture")
        mode = torch.randint(len(self.means), (n,), generator=generator)
        x = self._means.float()[mode]
        x = x + self.std * torch.randn(x.shape, generator=generator)
        names = tuple(f"class {c}" for c in range(self.num_classes))
        return Labelled(x, torch.tensor(self.classes)[mode], self.num_classes, names)

    def responsibilities(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Probability (B, modes) of each mode for a path of class ``y`` (null: of any) at ``x`` at time ``t``."""
        means, members = self._means.to(x), self._members.to(x)
        # The squared distance from t m, without the term |x|^2 that is common to all modes.
        closeness = x @ means.T - t[:, None] / 2 * means.square().sum(1)
        return (closeness * (t / self._variance(t))[:, None] + members[y]).softmax(1)

    def velocity(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Exact velocity ``E[x1 - x0 | x_t = x, y]``, (B, D); the null label stands for all classes together.

        On its way to a mode ``m`` a sample is ``N(t m, s_t^2 I)`` and moves at ``m + slope (x - t m)`` on average; the
        slope is the same for all modes, so their responsibilities need only average the means.
        """
        mean = self.responsibilities(x, t, y) @ self._means.to(x)
        slope = (self.std**2 * t - (1 - t)) / self._variance(t)
        return mean + slope[:, None] * (x - t[:, None] * mean)

    def agreement(self, x: Tensor, y: Tensor) -> float:
        """Share of samples ``x`` (n, D), asked to be of classes ``y`` (n,), that this class explains best."""
        nearest = self.responsibilities(x, torch.ones_like(x[:, 0]), torch.full_like(y, self.num_classes)).argmax(1)
        return (torch.tensor(self.classes, device=x.device)[nearest] == y).double().mean().item()

    def modes_kept(self, x: Tensor, y: Tensor) -> float:
        """Effective number of modes that samples ``x`` (n, D) of a class fall on, the mean over the classes in ``y``.

        The exponential of the entropy of the shares: 1 where all samples of a class are of one mode, and the number of
        its modes where they share them evenly.
        """
        nearest = self.responsibilities(x, torch.ones_like(x[:, 0]), y).argmax(1)
        kept = []
        for label in y.unique():
            share = nearest[y == label].bincount().double() / (y == label).sum()
            kept.append(-torch.xlogy(share, share).sum())
        return torch.stack(kept).exp().mean().item()

    def _variance(self, t: Tensor) -> Tensor:
        return (1 - t).square() + (self.std * t).square()

    @cached_property
    def _means(self) -> Tensor:
        return torch.tensor(self.means, dtype=torch.float64)

    @cached_property
    def _members(self) -> Tensor:
        """(labels, modes): 0 where a mode is of that class, else minus infinity; the last row, null, is all zero."""
        classes, labels = torch.tensor(self.classes), torch.arange(self.num_classes + 1)[:, None]
        return torch.where((classes == labels) | (labels == self.num_classes), 0.0, -math.inf)


@dataclass(frozen=True)
class Ideal:
    """The network that a rule's targets lead to if nothing goes wrong: it answers each query with the target itself.

    Where ``d = 0`` the target is the velocity, guided where the rule says so; above, the rule is asked for the target
    with this very network as the target network, one level below. So ``2^level`` half steps are made in the end, and
    no weight, sampling or training error is left: what one sees is what the rule does.

    Attributes:
        velocity: exact velocity ``(x, t, y) -> (B, ...)``, of all classes together for the null label.
        rule: the targets studied.
        null: the null label.
        grid: the dyadic grid.
    """

    velocity: Callable[[Tensor, Tensor, Tensor], Tensor]
    rule: BakedIn | Intrinsic
    null: int
    grid: StepGrid = field(default_factory=StepGrid)

    def __call__(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        """Average velocity (B, ...) by the rule."""
        query = Query(x, t, d, w, y)
        steps = d > 0
        if not steps.any():
            return self._instant(query)
        if steps.all():
            return self._step(query)
        answer = torch.empty_like(x)
        for rows, part in ((steps, self._step), (~steps, self._instant)):
            answer[rows] = part(Query(*(column[rows] for column in query)))
        return answer

    def _instant(self, query: Query) -> Tensor:
        velocity = self.velocity(query.x, query.t, query.y)
        if isinstance(self.rule, BakedIn) or not (query.w > 0).any():
            return velocity
        rows = Rows(guidance=1.0, strengths=Strengths(1.0), grid=self.grid)
        return self.rule(self, query, velocity, rows, self.null)

    def _step(self, query: Query) -> Tensor:
        if (query.y == self.null).all():
            # Guidance leaves the null label alone; to ask a rule would double the calls of every level below.
            def unguided(x: Tensor, t: Tensor, d: Tensor) -> Tensor:
                return self(x, t, d, query.w, query.y)

            return average_of_half_steps(unguided, query.x, query.t, query.d, self.grid, self.rule.clip)
        rows = Rows(consistency=1.0, grid=self.grid)
        return self.rule(self, query, torch.empty_like(query.x), rows, self.null)


def guidance_applied(guided: Tensor, conditional: Tensor, unconditional: Tensor) -> float:
    """Guidance in the unit of ``w`` that was really applied: the least-squares fit of ``guided`` by ``c + w (c - u)``.

    Args:
        guided: answers or samples, (B, ...), of one step size and one noise, as the other two.
        conditional: the same without guidance, ``c``.
        unconditional: the same for the null label, ``u``.

    Returns:
        ``<guided - c, c - u> / <c - u, c - u>`` over all rows: 0 is unguided, CFG of scale ``1 + w`` gives ``w``.
    """
    gap = conditional - unconditional
    return (((guided - conditional) * gap).sum() / gap.square().sum()).item()
