"""One rule for the methods that cut an interval, and what it is made of: where it is cut, and which velocity is pushed.

The interval ``[t, t + d]`` of a row is cut at the share ``c`` of its length. Which velocity its first part has, and
where the cut is, makes a shortcut model, MeanFlow, alpha-Flow or consistency training of one formula; see
:class:`Leap`, and :data:`ismkit.neighbours.recipes.NEIGHBOURS` for the recipes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ismkit.method.guidance import in_interval, intrinsic_velocity
from ismkit.method.path import Network, Query, expand_as
from ismkit.method.recipes import Answer, Context, Recipe, ask, check_clip
from ismkit.method.rows import Blocked
from ismkit.utils.checks import check_count, check_number, shown
from ismkit.utils.settings import check_types


@dataclass(frozen=True)
class SigmoidCut:
    """A cut that falls from 1 to 0 along a sigmoid, as in alpha-Flow (arXiv 2510.20771).

    Attributes:
        start, end: progress of the run between which it falls.
        steepness: of the sigmoid over that part (alpha-Flow: 25).
        snap: nearer to 1 or 0 than this it is 1 or 0: flow matching at first, the limit at last (alpha-Flow: 0.005).

    Raises:
        ValueError: unless ``0 <= start < end <= 1``, the steepness is positive and the snap in [0, 1/2).

    Example:
        >>> from ismkit.neighbours import SigmoidCut
        >>> [round(SigmoidCut()(progress), 3) for progress in (0.0, 0.4, 0.5, 0.6, 0.9)]
        [1.0, 0.924, 0.5, 0.076, 0.0]
    """

    start: float = 0.0
    end: float = 1.0
    steepness: float = 25.0
    snap: float = 0.005

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"start and end must be in [0, 1] and rise, got {self.start} and {self.end}")
        check_number("steepness", self.steepness, "above 0", 1e-300)
        if not 0 <= self.snap < 0.5:
            raise ValueError(f"snap must be in [0, 1/2), got {self.snap}")

    def __call__(self, progress: float) -> float:
        """The share, in [0, 1]."""
        middle, length = (self.start + self.end) / 2, self.end - self.start
        share = 1 / (1 + math.exp(min(self.steepness * (progress - middle) / length, 700.0)))
        return 1.0 if share > 1 - self.snap else 0.0 if share < self.snap else share


@dataclass(frozen=True)
class ExponentialCut:
    """A cut that falls by the same factor in each step, as in SoFlow (arXiv 2512.15657).

    Attributes:
        first, last: the share at the beginning and at the end, in (0, 1] (SoFlow: 0.1 and 0.002).

    Raises:
        ValueError: for a share outside (0, 1].

    Example:
        >>> from ismkit.neighbours import ExponentialCut
        >>> [round(ExponentialCut()(progress), 4) for progress in (0.0, 0.5, 1.0)]
        [0.1, 0.0141, 0.002]
    """

    first: float = 0.1
    last: float = 0.002

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("first", "last"):
            check_number(name, getattr(self, name), "in (0, 1]", 1e-300, 1)

    def __call__(self, progress: float) -> float:
        """The share, in (0, 1]."""
        return self.first ** (1 - progress) * self.last**progress


@dataclass(frozen=True)
class HalvingCut:
    """A cut that is halved in stages of equal length, from 1 on, as in ECT (arXiv 2406.14548).

    The first stage is flow matching for rows that end at the data: ECT starts from a trained diffusion model, which is
    that. ECT shortens less near the data too; this kit does not.

    Attributes:
        stages: how many, 1 or more; the last has the share ``first * 2 ** (1 - stages)`` (ECT: down to 1/256).
        first: the share of the first stage, in (0, 1].

    Raises:
        ValueError: for fewer than one stage, or a share that is none.

    Example:
        >>> from ismkit.neighbours import HalvingCut
        >>> [HalvingCut(3)(progress) for progress in (0.0, 0.3, 0.4, 0.9)]
        [1.0, 1.0, 0.5, 0.25]
    """

    stages: int = 9
    first: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)
        check_count("stages", self.stages)
        check_number("first", self.first, "in (0, 1]", 1e-300, 1)

    def __call__(self, progress: float) -> float:
        """The share, in (0, 1]."""
        return self.first * 2.0 ** -min(int(progress * self.stages), self.stages - 1)


class Guide(Protocol):
    """The signature of guidance as a velocity: which one the rows of a batch are pushed along.

    Example:
        One that halves the velocity of every row:

        >>> import torch
        >>> from ismkit.method import Context, Query, Rows
        >>> from ismkit.neighbours import Leap
        >>> def half(query, velocity, rows, context):
        ...     return velocity / 2
        >>> query = Query(torch.zeros(2, 1), *torch.zeros(3, 2), torch.zeros(2).long())
        >>> Leap(guide=half)(query, torch.ones(2, 1), Rows(), Context(None, None, null=1)).target.flatten()
        tensor([0.5000, 0.5000])
    """

    def __call__(self, query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Tensor:
        """Push the sample's velocity.

        Args:
            query: what the rows are asked.
            velocity: ``x1 - x0`` of each row, (B, ...).
            rows: how the batch is split.
            context: the networks that may be asked, the null label.

        Returns:
            The guided velocity, (B, ...).
        """
        ...


@dataclass(frozen=True)
class Gap:
    """Intrinsic guidance in any method: ``v + w 1[t >= t_interval] (net(y) - net(null))``, both unguided (iSM).

    With ``own`` the gap of the *guided* branch is taken instead, damped, as in improved MeanFlow (arXiv 2512.02012,
    whose scale is ``g = 1 + w``)::

        v + (1 - 1/g) (net(x, t, 0, w, y) - net(x, t, 0, 0, null))

    Both have one fixed point, classifier-free guidance at scale ``1 + w``.

    Attributes:
        t_interval: no guidance below this time, in [0, 1].
        own: take improved MeanFlow's estimator.
        steps: push the velocity of consistency rows too. Those that make their target of the network's own steps do
            not use it, and save two calls.

    Raises:
        ValueError: if ``t_interval`` is no time in [0, 1].

    Example:
        Where the network answers 1 for the class and 0 for the null label, whatever w:

        >>> import torch
        >>> from ismkit import Rows, Strengths
        >>> from ismkit.method import Context, Query
        >>> from ismkit.neighbours import Gap
        >>> def net(x, t, d, w, y):
        ...     return (y == 0).float()[:, None]  # 1 is the null label
        >>> zero = torch.zeros(2)
        >>> query = Query(zero[:, None], torch.tensor([0.1, 0.5]), zero, torch.tensor([3.0, 3.0]), zero.long())
        >>> rows = Rows(guidance=1.0, strengths=Strengths(3.0))
        >>> for own in (False, True):
        ...     print(Gap(0.3, own)(query, zero[:, None], rows, Context(net, net, null=1)).flatten())
        tensor([0., 3.])
        tensor([0.0000, 0.7500])
    """

    t_interval: float = 0.3
    own: bool = False
    steps: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        check_number("t_interval", self.t_interval, "in [0, 1]", 0, 1)

    def __call__(self, query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Tensor:
        """Guided velocities (B, ...); velocity rows, whose strength is 0, stay as they are."""
        blocks = rows.blocks(len(velocity))
        guided = slice(blocks.guidance.start, None if self.steps else blocks.guidance.stop)
        x, t, _, w, y = query.take(guided)
        zero = torch.zeros_like(w)
        branches = ((w if self.own else zero, y), (zero, torch.full_like(y, context.null)))
        conditional, unconditional = ask(*((context.fast, Query(x, t, zero, *branch)) for branch in branches))
        strength = w / (1 + w) if self.own else w
        pushed = velocity.clone()
        gap = (conditional - unconditional).to(velocity.dtype)
        pushed[guided] = intrinsic_velocity(velocity[guided], gap, strength, t, self.t_interval)
        return pushed


@dataclass(frozen=True)
class FixedScale:
    """Guidance at one scale that is fixed at training, as in MeanFlow (arXiv 2505.13447, Eq. 21).

    The guided velocity is::

        omega v + kappa net(x, t, 0, y) + (1 - omega - kappa) net(x, t, 0, null)

    At its fixed point the network has classifier-free guidance at the scale ``omega / (1 - kappa)``. Rows with a
    dropped label and times outside of the interval keep their velocity.

    Attributes:
        omega, kappa: shares of the sample's velocity and of the network's own (MeanFlow XL/2: 0.2 and 0.92).
        start, end: times between which guidance acts (MeanFlow XL/2: from 1/4, in this kit's direction of time).

    Raises:
        ValueError: unless omega is positive, kappa in [0, 1), and the times rise within [0, 1].

    Example:
        Where the network has the answer that this asks for, guided velocities are what it answers:

        >>> import torch
        >>> from ismkit import Rows
        >>> from ismkit.method import Context, Query
        >>> from ismkit.neighbours import FixedScale
        >>> v, guide = torch.ones(1, 1), FixedScale(omega=0.2, kappa=0.92)
        >>> round(guide.scale, 6)
        2.5
        >>> def net(x, t, d, w, y):
        ...     return torch.where(y == 0, 2.5, 0.0)[:, None]  # the null label, 1, has velocity 0
        >>> query = Query(v, torch.tensor([0.5]), *torch.zeros(2, 1), torch.tensor([0]))
        >>> round(guide(query, v, Rows(), Context(net, net, null=1)).item(), 6)
        2.5
    """

    omega: float = 1.0
    kappa: float = 0.5
    start: float = 0.25
    end: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)
        check_number("omega", self.omega, "above 0", 1e-300)
        check_number("kappa", self.kappa, "of at least 0 and below 1", 0, 1)
        if self.kappa == 1:
            raise ValueError(f"kappa must be below 1, got {self.kappa}")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"start and end must be times in [0, 1] and rise, got {self.start} and {self.end}")

    @property
    def scale(self) -> float:
        """The scale of classifier-free guidance at the fixed point."""
        return self.omega / (1 - self.kappa)

    def __call__(self, query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Tensor:
        """Guided velocities, (B, ...)."""
        x, t, _, w, y = query
        zero, null = torch.zeros_like(t), torch.full_like(y, context.null)
        own, unconditional = ask(*((context.fast, Query(x, t, zero, w, labels)) for labels in (y, null)))
        guided = self.omega * velocity + self.kappa * own + (1 - self.omega - self.kappa) * unconditional
        acts = (y != context.null) & in_interval(t, self.start).bool() & (t <= self.end)
        return torch.where(expand_as(acts, velocity), guided, velocity).to(velocity.dtype)


@dataclass(frozen=True)
class Leap:
    """Targets of the consistency rows from a cut of their interval: one rule for many few-step methods.

    The interval ``[t, t + d]`` is cut at the share ``c`` of its length. On its first part the velocity is ``a``, and
    for the rest the target network is asked::

        L(a, c) = c a + (1 - c) net(x + c d a, t + c d, (1 - c) d)     for 0 < c < 1, and a for c = 1
        L_0(a) = a + d D,    D the derivative of net along (a, 1, -1): the target of the cut 0

    As c falls, ``L`` becomes ``net`` itself, and ``(L(a, c) - net) / c`` tends to ``L_0(a) - net``.

    The exact average velocity is a fixed point of ``L(own, c)`` for every c, and, on average over the samples, of
    ``L_0(sample)``. With the sample's velocity and ``c > 0`` it is one to the second order in c.

    Attributes:
        first: where ``a`` comes from: the sample's ``x1 - x0``; the target network's velocity (``d = 0``); its own
            step over the first part; the mean of the samples that may have led to ``x`` (:func:`posterior_velocity`);
            or another network, a teacher, asked for its velocity.
        cut: the share c, a function from the progress of the run to it, or "uniform": drawn for each row.
        tangent: where c = 0, the direction of the derivative: ``a`` itself, or the target network's velocity, which
            has no noise of the sample.
        weight: the rows' distance is multiplied by ``c`` to this power, where c > 0: their residual is of the order
            of c.
        clip: bound on the target where c > 0 (alpha-Flow: 4), or None.
        guide: guidance, by which the sample's velocity is pushed in all rows; None for none.
        differences: take a central difference with steps of this length in time in place of the derivative, for
            networks that have none in forward mode. Near the ends it asks for times and sizes up to so far below 0 or
            above 1.

    Raises:
        ValueError: for other values of ``first``, ``cut`` or ``tangent``, a share outside [0, 1], or a clip or
            difference that is not positive.

    Example:
        The average velocity of ``dx/dt = x`` is ``x (e^d - 1) / d``. From any cut the network answers itself, and from
        the limit too; half a step by the velocity alone misses:

        >>> import torch
        >>> from ismkit import Rows
        >>> from ismkit.method import Context, Query
        >>> from ismkit.neighbours import Leap
        >>> def net(x, t, d, w, y):
        ...     return x * torch.where(d > 0, torch.expm1(d) / d.clamp(min=1e-9), 1.0)[:, None]
        >>> x, t, d, w = torch.ones(1, 1), torch.zeros(1), torch.ones(1), torch.zeros(1)
        >>> def target(leap):
        ...     query = Query(x, t, d, w, torch.tensor([0]))
        ...     return leap(query, x, Rows(consistency=1.0), Context(net, net, null=1)).target.item()
        >>> [round(target(leap), 3) for leap in (Leap("own", 0.3), Leap("sample", 0.0), Leap("sample", 0.5))]
        [1.718, 1.718, 1.473]

        The mean for independent noise does not stand in a recipe that couples noise with data:

        >>> from ismkit import RECIPES
        >>> Leap("posterior").check(RECIPES["ism"])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: first='posterior' is the mean for independent noise: use Coupling(pool=0), got Coupling(pool=32, ...
    """

    first: Literal["sample", "net", "own", "posterior"] | Network = "sample"
    cut: float | Literal["uniform"] | Callable[[float], float] = 0.0
    tangent: Literal["first", "net"] = "first"
    weight: float = 0.0
    clip: float | None = None
    guide: Guide | None = None
    differences: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_clip(self.clip)
        if not callable(self.first) and self.first not in (sources := ("sample", "net", "own", "posterior")):
            raise ValueError(f"first must be one of {', '.join(sources)}, or a network, got {shown(self.first)}")
        if not callable(self.cut) and self.cut != "uniform":
            check_number("cut", self.cut, "in [0, 1]", 0, 1)
        if self.differences is not None:
            check_number("differences", self.differences, "above 0 and below 1/2, or None", 1e-300, 0.5)

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that this rule is not valid in.

        Raises:
            ValueError: if the posterior of independent noise is asked for and noise is coupled with data, or not
                normal.
        """
        if self.first == "posterior" and recipe.source is not None:
            raise ValueError(f"first='posterior' is the mean for normal noise: use source=None, got {recipe.source}")
        if self.first == "posterior" and recipe.coupling.pool:
            raise ValueError(
                f"first='posterior' is the mean for independent noise: use Coupling(pool=0), got {recipe.coupling}"
            )

    def __call__(self, query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Answer:
        """Targets (B, ...) made by the fast average, and the weights of the rows; see :class:`TargetRule`."""
        block = rows.blocks(len(velocity)).consistency
        if self.first == "posterior":
            velocity = velocity.clone()
            velocity[block] = posterior_velocity(query.take(block), velocity[block], context.null)
        if self.guide is not None:
            velocity = self.guide(query, velocity, rows, context)
        target, weight = velocity.clone(), torch.ones_like(query.t)
        if block.stop > block.start:
            share = self._share(query.t[block], context)
            leap = self._leap(query.take(block), velocity[block], share, context.fast)
            if isinstance(share, Tensor) or share > 0:
                leap = leap if self.clip is None else leap.clamp(-self.clip, self.clip)
                weight[block] = share**self.weight
            target[block] = leap.to(target.dtype)
        return Answer(target, weight)

    def _share(self, t: Tensor, context: Context) -> float | Tensor:
        """The share of all rows, or that of each, (B,)."""
        if self.cut == "uniform":
            return 1 - torch.rand(t.shape, generator=context.rng, dtype=t.dtype, device=t.device)  # in (0, 1]
        share = float(self.cut(context.progress) if callable(self.cut) else self.cut)
        if not 0 <= share <= 1:
            raise ValueError(f"cut must give a share in [0, 1], got {share} at progress {context.progress}")
        return share

    def _leap(self, asked: Query, velocity: Tensor, share: float | Tensor, net: Network) -> Tensor:
        x, t, d, w, y = asked
        if self.first in ("sample", "posterior"):
            first = velocity
        else:
            asks = net if isinstance(self.first, str) else self.first
            first = asks(x, t, share * d if self.first == "own" else torch.zeros_like(d), w, y)
        if isinstance(share, float) and share == 0:
            tangent = first if self.tangent == "first" else net(x, t, torch.zeros_like(d), w, y)
            slope = derivative(lambda x, t, d: net(x, t, d, w, y), (x, t, d), tangent, self.differences)
            return first + expand_as(d, x) * slope
        if isinstance(share, float) and share == 1:
            return first
        part = expand_as(share, x) if isinstance(share, Tensor) else share
        rest = net(x + part * expand_as(d, x) * first, t + share * d, (1 - share) * d, w, y)
        return part * first + (1 - part) * rest


def posterior_velocity(query: Query, velocity: Tensor, null: int) -> Tensor:
    """Compute the mean velocity over the data that may have led to each state, as in stable consistency tuning.

    The data of the batch are the reference: those with the row's label, or all where it is null. Each weighs
    ``exp(-|x - t x1|^2 / (2 (1 - t)^2))``, its likelihood if noise is standard normal and independent of the data.
    Source: arXiv 2410.18958, for the idea; the form for the straight path is this kit's.

    Args:
        query: states and times of the rows, and their labels.
        velocity: ``x1 - x0`` of each, (B, ...).
        null: the null label.

    Returns:
        Velocities ``(E[x1 | x_t] - x_t) / (1 - t)``, (B, ...).

    Example:
        At the noise the state says nothing about the data, so the mean is that of all; near the data it is the
        row's own:

        >>> import torch
        >>> from ismkit import interpolate
        >>> from ismkit.method import Query
        >>> from ismkit.neighbours import posterior_velocity
        >>> x0, x1, zero = torch.zeros(2, 1), torch.tensor([[-1.0], [1.0]]), torch.zeros(2)
        >>> for t in (torch.zeros(2), torch.full((2,), 0.9)):
        ...     x, velocity = interpolate(x0, x1, t)
        ...     print(posterior_velocity(Query(x, t, zero, zero, zero.long()), velocity, null=1).flatten())
        tensor([0., 0.])
        tensor([-1.,  1.])
    """
    x, left = query.x.double(), expand_as(1 - query.t.double(), query.x)
    data = (x + left * velocity).flatten(1)  # (B, D)
    t, left = query.t.double()[:, None], left.flatten(1).clamp(min=1e-6)
    # |x|^2 is the same for all data, so the exponent needs two products only; float64, since they are divided by
    # (1 - t)^2.
    exponent = (t * (x.flatten(1) @ data.T) - t.square() / 2 * data.square().sum(1)) / left.square()
    fits = (query.y[:, None] == query.y) | (query.y == null)[:, None]
    weights = exponent.masked_fill(~fits, -math.inf).softmax(1)  # (B, B)
    # From the row's own velocity on: the quotient (mean - x) / (1 - t) is 0/0 at the data.
    return (velocity + ((weights @ data - data) / left).reshape(x.shape)).to(velocity.dtype)


def derivative(
    field: Callable[[Tensor, Tensor, Tensor], Tensor],
    at: tuple[Tensor, Tensor, Tensor],
    velocity: Tensor,
    differences: float | None = None,
) -> Tensor:
    """Differentiate ``field(x, t, d)`` along a path that ends at a fixed time: along ``(velocity, 1, -1)``.

    Args:
        field: average velocity at fixed guidance and label.
        at: states (B, ...), times (B,) and step sizes (B,).
        velocity: of the path, (B, ...).
        differences: half the length in time of a central difference, which is taken instead; None for forward mode.

    Returns:
        The derivative, (B, ...).

    Raises:
        RuntimeError: if the network has no derivative in forward mode. Those of the kit have one, sharded by FSDP2 and
            recomputed too; compiled blocks are run uncompiled for it.

    Example:
        >>> import torch
        >>> from ismkit.neighbours import derivative
        >>> x, t, d = torch.tensor([[2.0]]), torch.tensor([0.5]), torch.tensor([0.25])
        >>> derivative(lambda x, t, d: x * t[:, None] ** 2 + d[:, None], (x, t, d), torch.tensor([[4.0]]))
        tensor([[2.]])
    """
    x, t, d = at
    if differences is not None:
        step, steps = differences * velocity, torch.full_like(t, differences)
        ahead, behind = field(x + step, t + steps, d - steps), field(x - step, t - steps, d + steps)
        return (ahead - behind) / (2 * differences)
    try:
        # The fused kernel of attention has no derivative in forward mode, the plain one has; nor have compiled blocks,
        # which are run as they were written.
        with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            return torch.func.jvp(field, (x, t, d), (velocity.to(x.dtype), torch.ones_like(t), -torch.ones_like(d)))[1]
    except (NotImplementedError, RuntimeError) as error:
        if "forward AD" in str(error) or "jvp" in str(error):
            raise RuntimeError(
                "the network has no derivative in forward mode, as with a kernel of its own: take central differences, "
                "Leap(..., differences=0.01)"
            ) from error
        raise
