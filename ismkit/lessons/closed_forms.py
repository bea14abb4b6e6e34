"""Cases in closed form: the exact velocity of a Gaussian mixture, and the network that a rule's targets would lead to.

The noise is N(0, I), drawn independently of the data, and x_t = (1 - t) x0 + t x1. For data of one component,
N(m, std^2 I), x_t is N(t m, s_t^2 I) with s_t^2 = (1 - t)^2 + t^2 std^2, and (x_t, v) are jointly Gaussian: the
velocity of a mixture is that one regression, averaged over the components by their responsibilities. With it a rule for
targets can be studied by itself, free of the errors of a trained network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ismkit.data.sets import EIGHT_GAUSSIANS_MEANS, EIGHT_GAUSSIANS_STD, Labelled
from ismkit.method.guidance import Strengths
from ismkit.method.path import Query, StepGrid, check_labels
from ismkit.method.recipes import BakedIn, Context, Intrinsic, average_of_half_steps
from ismkit.method.rows import Rows
from ismkit.utils.checks import check_count, check_finite, check_number, check_tensor, shown
from ismkit.utils.seeding import stream
from ismkit.utils.settings import check_types


@dataclass(frozen=True, eq=False)
class Mixture:
    """Data from the mixture of ``N(means[k], std^2 I)``, equal weights, with its exact velocity.

    Throughout, ``x`` (B, D) are states and ``t`` (B,) their times in [0, 1]; results have the finer of their dtypes.
    The formulas follow from Gaussian regression, see the module.

    Attributes:
        means: (K, D).
        std: of every component in every direction, > 0.

    Raises:
        TypeError: if the means hold no floating point numbers.
        ValueError: for means of another shape or not finite, or a ``std`` that is not positive and finite.

    Example:
        One Euler step from noise gives the mean of the data, here (0, 0), from any noise; small steps reach the modes:

        >>> import torch
        >>> from ismkit import sample
        >>> from ismkit.lessons import Mixture
        >>> mixture = Mixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), std=0.1)
        >>> x0, y = torch.tensor([[-1.0, 0.5], [0.6, -1.0]]), torch.zeros(2).long()
        >>> def net(x, t, d, w, y):
        ...     return mixture.velocity(x, t)
        >>> sample(net, x0, y, nfe=1).abs().max().item() < 1e-6
        True
        >>> sample(net, x0, y, nfe=128)[:, 0].round(decimals=1)
        tensor([-2.,  2.])

        Half way a state in the middle is rare, and may go to either mode: its velocity varies most. One that is half
        way to a mode goes there:

        >>> x, t = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0.5, 0.5])
        >>> mixture.responsibilities(x, t)[:, 1].round(decimals=2)
        tensor([0.5000, 1.0000])
        >>> mixture.velocity_variance(x, t).round(decimals=2)
        tensor([7.8800, 0.0500])
        >>> mixture.log_density(x, t).exp().round(decimals=2)
        tensor([0.0900, 0.3200])
    """

    means: Tensor
    std: float

    def __post_init__(self) -> None:
        check_types(self)
        check_finite("means", self.means)
        if self.means.ndim != 2 or self.means.numel() == 0:
            raise ValueError(f"means must be (K, D) with K, D >= 1, got {tuple(self.means.shape)}")
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
        check_tensor("x", x)
        check_tensor("t", t, ("x", x))
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
        offsets = self._offsets(x, t)
        t = t.to(x)
        slope = (t * self.std**2 - (1 - t)) / self._variance(t)
        return self.means.to(x) + slope[:, None, None] * offsets


#: The mixture of :func:`ismkit.data.sets.eight_gaussians`.
EIGHT_GAUSSIANS = Mixture(EIGHT_GAUSSIANS_MEANS, EIGHT_GAUSSIANS_STD)


def turned(x: Tensor, turns: int = 8) -> Tensor:
    """Copy points of the plane, turned about 0 by multiples of a part of a turn.

    Noise drawn like this has the symmetry of the eight Gaussians, so that distances between samples and data do not
    depend on how many points happen to fall to each of them.

    Args:
        x: points, (n, 2).
        turns: parts of a full turn.

    Returns:
        The points and their copies, (turns * n, 2), turn by turn.

    Raises:
        ValueError: for another shape, or ``turns`` below 1.

    Example:
        >>> import torch
        >>> from ismkit.lessons import turned
        >>> turned(torch.tensor([[2.0, 1.0]]), turns=4).round().long().tolist()
        [[2, 1], [-1, 2], [-2, -1], [1, -2]]
    """
    check_tensor("x", x)
    turns = check_count("turns", turns)
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"x must be (n, 2), got {tuple(x.shape)}")
    angle = 2 * math.pi / turns * torch.arange(turns, device=x.device, dtype=torch.float64)
    rows = [torch.stack([angle.cos(), -angle.sin()], 1), torch.stack([angle.sin(), angle.cos()], 1)]
    rotations = torch.stack(rows, 1).to(x)  # (turns, 2, 2)
    return (x @ rotations.mT).flatten(0, 1)


def ring(modes: int, radius: float) -> tuple[tuple[float, float], ...]:
    """List points of the plane at even distances on a circle about 0, counter-clockwise from the top.

    Args:
        modes: number of points.
        radius: of the circle.

    Returns:
        One pair of coordinates for each point, such as the ``means`` of a :class:`ClassMixture`.

    Raises:
        ValueError: if ``modes`` is no integer of at least 1, or ``radius`` negative or not finite.

    Example:
        >>> from ismkit.lessons import ring
        >>> [(round(x, 3) + 0.0, round(y, 3) + 0.0) for x, y in ring(modes=4, radius=2.0)]
        [(0.0, 2.0), (-2.0, 0.0), (0.0, -2.0), (2.0, 0.0)]
    """
    modes = check_count("modes", modes)
    check_number("radius", radius, "of at least 0", 0)
    angles = [math.tau * (0.25 + k / modes) for k in range(modes)]
    return tuple((radius * math.cos(angle), radius * math.sin(angle)) for angle in angles)


@dataclass(frozen=True)
class ClassMixture:
    """Data of several classes, each of one or more modes ``N(mean, std^2 I)``; all modes have equal weight.

    The mixture of :mod:`ismkit.lessons.closed_forms`, split into classes, with settings that a run can be described by.

    Attributes:
        means: one tuple of D coordinates for each mode.
        classes: the class of each mode, 0 .. num_classes - 1, every one of them used.
        std: of every mode in every direction.

    Raises:
        ValueError: if classes and means differ in number, classes have gaps, or ``std`` is not positive and finite.

    Example:
        Two modes of class 0 above and below, one of class 1 on the right. Noise at the origin moves to the mean of what
        its label stands for:

        >>> import torch
        >>> from ismkit.lessons import ClassMixture
        >>> mixture = ClassMixture(means=((0.0, 3.0), (0.0, -3.0), (3.0, 0.0)), classes=(0, 0, 1), std=0.1)
        >>> x, t, y = torch.zeros(3, 2), torch.zeros(3), torch.tensor([0, 1, 2])  # 2 is null
        >>> mixture.velocity(x, t, y).round(decimals=4) + 0.0  # whatever the processor rounds to, and no -0
        tensor([[0., 0.],
                [3., 0.],
                [1., 0.]])

        Draws fall evenly on the two modes of class 0; a generator that drops one keeps 1:

        >>> data = mixture.draw(2000, seed=0)
        >>> zero = data.y == 0
        >>> round(mixture.modes_kept(data.x[zero], data.y[zero]), 2)
        2.0
        >>> above = zero & (data.x[:, 1] > 0)
        >>> mixture.modes_kept(data.x[above], data.y[above])
        1.0
        >>> mixture.responsibilities(x, t, y)
        tensor([[0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 1.0000],
                [0.3333, 0.3333, 0.3333]])
        >>> mixture.agreement(data.x, data.y)
        1.0
    """

    means: tuple[tuple[float, ...], ...]
    classes: tuple[int, ...]
    std: float

    def __post_init__(self) -> None:
        check_types(self)
        for mean in self.means:
            if len(mean) != len(self.means[0]) or not mean or not all(map(math.isfinite, mean)):
                raise ValueError(f"means must be finite and of one length, got {shown(mean)} beside {self.means[0]}")
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
        """Draw samples with their classes, as a training set.

        Args:
            n: how many, 1 or more.
            seed: equal arguments give equal samples.

        Returns:
            Points (n, D) with their classes.

        Raises:
            ValueError: if ``n`` is below 1.
        """
        n = check_count("n", n)
        generator = stream(seed, "class_mixture")
        mode = torch.randint(len(self.means), (n,), generator=generator)
        x = self._means.float()[mode]
        x = x + self.std * torch.randn(x.shape, generator=generator)
        names = tuple(f"class {c}" for c in range(self.num_classes))
        return Labelled(x, torch.tensor(self.classes)[mode], self.num_classes, names)

    def responsibilities(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Compute the probability of each mode, given the state of a path.

        Args:
            x: states, (B, D).
            t: their times in [0, 1], (B,).
            y: labels, (B,) long; for the null label a path may be of any class.

        Returns:
            Probabilities, (B, modes).

        Raises:
            TypeError: if states or times hold no floating point numbers, or labels no whole ones.
            ValueError: for other shapes, or labels that are no class.
        """
        check_tensor("x", x)
        check_tensor("t", t, ("x", x))
        t = t.to(x)
        check_labels(y, x, "x")
        if x.ndim != 2 or x.shape[1] != self._means.shape[1] or t.shape != x.shape[:1] or y.device != x.device:
            wanted = f"(B, {self._means.shape[1]}), (B,) and (B,) on one device"
            got = f"{tuple(x.shape)}, {tuple(t.shape)} and {tuple(y.shape)} on {x.device} and {y.device}"
            raise ValueError(f"x, t and y must be {wanted}, got {got}")
        if len(y) and not y.is_meta and not 0 <= int(y.min()) <= int(y.max()) <= self.num_classes:
            raise ValueError(f"y must hold labels in 0 .. {self.num_classes}, got {int(y.min())} to {int(y.max())}")
        means, members = self._means.to(x), self._members.to(x)
        # The squared distance from t m, without the term |x|^2 that is common to all modes.
        closeness = x @ means.T - t[:, None] / 2 * means.square().sum(1)
        return (closeness * (t / self._variance(t))[:, None] + members[y.long()]).softmax(1)

    def velocity(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Compute the exact velocity ``E[x1 - x0 | x_t = x, y]``.

        On its way to a mode ``m`` a sample is ``N(t m, s_t^2 I)`` and moves at ``m + slope (x - t m)`` on average; the
        slope is the same for all modes, so their responsibilities need only average the means.

        Args:
            x: states, (B, D).
            t: their times in [0, 1], (B,).
            y: labels, (B,) long; the null label stands for all classes together.

        Returns:
            Velocities, (B, D).
        """
        mean = self.responsibilities(x, t, y) @ self._means.to(x)
        t = t.to(x)
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
    with this very network as the target network, one level below. So ``2^level`` half steps are made in the end, and no
    weight, sampling or training error is left: what one sees is what the rule does.

    Attributes:
        velocity: exact velocity ``(x, t, y) -> (B, ...)``, of all classes together for the null label.
        rule: the targets studied.
        null: the null label.
        grid: the dyadic grid.

    Example:
        One step of the ideal shortcut model, without guidance, ends where 8 Euler steps end:

        >>> import torch
        >>> from ismkit import Intrinsic, StepGrid, sample
        >>> from ismkit.lessons import ClassMixture, Ideal
        >>> mixture = ClassMixture(means=((-2.0,), (2.0,)), classes=(0, 1), std=0.5)
        >>> grid = StepGrid(8)
        >>> net = Ideal(mixture.velocity, Intrinsic(), null=2, grid=grid)
        >>> x0, y = torch.tensor([[-1.0], [0.2]]).double(), torch.tensor([2, 2])  # of both classes together
        >>> torch.allclose(sample(net, x0, y, nfe=1, grid=grid), sample(net, x0, y, nfe=8, grid=grid))
        True
    """

    velocity: Callable[[Tensor, Tensor, Tensor], Tensor]
    rule: BakedIn | Intrinsic
    null: int
    grid: StepGrid = field(default_factory=StepGrid)

    def __call__(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        """Average velocity (B, ...) by the rule."""
        query = Query(x, t, d, w, y)
        at_once = d == 0
        if len(x) and at_once.all():  # as in half of all calls: what follows would take longer than the answer
            return self._instant(query).to(x.dtype)
        answer, null = torch.empty_like(x), y == self.null
        for rows, part in ((~at_once & null, self._unguided_step), (~at_once & ~null, self._step)):
            if len(x) and rows.all():  # as in most of the others: nothing is taken apart
                return part(query).to(x.dtype)
            if rows.any():
                answer[rows] = part(Query(*(column[rows] for column in query)))
        if at_once.any():
            answer[at_once] = self._instant(Query(*(column[at_once] for column in query)))
        return answer

    def _instant(self, query: Query) -> Tensor:
        velocity = self.velocity(query.x, query.t, query.y)
        if isinstance(self.rule, BakedIn) or not (query.w > 0).any():
            return velocity
        return self.rule(query, velocity, self._guided, Context(self, self, self.null)).target

    def _unguided_step(self, query: Query) -> Tensor:
        # Guidance leaves the null label alone; to ask a rule would double the rows of every level below.
        def unguided(x: Tensor, t: Tensor, d: Tensor) -> Tensor:
            return self(x, t, d, query.w, query.y)

        return average_of_half_steps(unguided, query.x, query.t, query.d, self.grid, self.rule.clip)

    def _step(self, query: Query) -> Tensor:
        return self.rule(query, torch.empty_like(query.x), self._halved, Context(self, self, self.null)).target

    @cached_property
    def _guided(self) -> Rows:
        """All rows are guidance rows."""
        return Rows(guidance=1.0, strengths=Strengths(1.0), grid=self.grid)

    @cached_property
    def _halved(self) -> Rows:
        """All rows are consistency rows."""
        return Rows(consistency=1.0, grid=self.grid)


def guidance_applied(guided: Tensor, conditional: Tensor, unconditional: Tensor) -> float:
    """Measure the guidance that was really applied, in the unit of ``w``.

    It is the least-squares fit of ``guided`` by ``c + w (c - u)``.

    Args:
        guided: answers or samples, (B, ...), of one step size and one noise, as the other two.
        conditional: the same without guidance, ``c``.
        unconditional: the same for the null label, ``u``.

    Returns:
        ``<guided - c, c - u> / <c - u, c - u>`` over all rows: 0 is unguided, CFG of scale ``1 + w`` gives ``w``.

    Raises:
        TypeError: if they are not floating point.
        ValueError: if the shapes differ, values are not finite, or ``c`` equals ``u``: guidance does nothing there.

    Example:
        >>> import torch
        >>> from ismkit import cfg
        >>> from ismkit.lessons import guidance_applied
        >>> conditional, unconditional = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])
        >>> guided = cfg(conditional, unconditional, cfg_scale=1.5)
        >>> guidance_applied(guided, conditional, unconditional)
        0.5
    """
    for name, x in (("guided", guided), ("conditional", conditional), ("unconditional", unconditional)):
        check_finite(name, x)
        check_tensor(name, x, ("guided", guided))
        if x.shape != guided.shape:
            raise ValueError(f"{name} must have the shape of guided, {tuple(guided.shape)}, got {tuple(x.shape)}")
    gap = conditional - unconditional
    if not gap.any():
        raise ValueError("conditional and unconditional must differ, got equal ones: guidance does nothing there")
    fitted = (((guided - conditional) * gap).sum() / gap.square().sum()).item()
    if not math.isfinite(fitted):
        raise ValueError(f"conditional and unconditional must differ by numbers whose squares {gap.dtype} can hold")
    return fitted
