"""Training methods as values: a :class:`Recipe` is made of parts, and one training step serves them all.

A method turns a coupled batch into (query, target). Its rows come in three blocks, always in this order:

* *velocity* rows: ``d = 0``, target ``v``;
* *guidance* rows: ``d = 0``, ``w > 0``, target ``v + w * gap``;
* *consistency* rows: ``d > 0``, target the average of two half steps of the target network.

Baselines and ablations are other values of the same class. :data:`RECIPES` names them in the order of the paper's
table, and each rung of the ladder changes one part of the one before:

>>> from dataclasses import fields
>>> from ismkit import RECIPES
>>> ladder = ("ism_guidance", "+interval", "+wavelet", "+sot", "ism")
>>> for before, name in zip(ladder, ladder[1:]):
...     a, b = RECIPES[before], RECIPES[name]
...     print(name, [f.name for f in fields(b) if f.name != "name" and getattr(a, f.name) != getattr(b, f.name)])
+interval ['target']
+wavelet ['distance']
+sot ['coupling']
ism ['fast']
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ismkit.method.coupling import Coupling
from ismkit.method.ema import TwinEMA, check_decay
from ismkit.method.guidance import Strengths, cfg, intrinsic_velocity
from ismkit.method.path import Network, Query, Source, StepGrid, check_source, expand_as
from ismkit.method.rows import Blocked, Rows
from ismkit.method.wavelet import Distance, WaveletDistance, geometric_weights, l2, unit_weights
from ismkit.utils.checks import check_number, check_takes, check_tensor, named, shown
from ismkit.utils.keys import UNKEYED
from ismkit.utils.settings import check_types


class Context(NamedTuple):
    """What a rule may ask beside its rows. One object, so that a new need changes no signature.

    Attributes:
        fast: the average that makes targets.
        slow: the average that samples.
        null: the null label.
        progress: the share of the run that is done, in [0, 1).
        rng: generator of the step's random numbers, for rules that draw; None where none is needed.

    Example:
        A rule that is asked outside of a training has one network for both:

        >>> import torch
        >>> from ismkit import RECIPES, Rows
        >>> from ismkit.method import Context
        >>> def net(x, t, d, w, y):
        ...     return x
        >>> v = torch.ones(4, 2)
        >>> RECIPES["flow"].target(None, v, Rows(), Context(net, net, null=3)).target is v
        True
    """

    fast: Network
    slow: Network
    null: int
    progress: float = 0.0
    rng: torch.Generator | None = None


class Answer(NamedTuple):
    """What the rows of a batch should answer.

    Attributes:
        target: of each row, (B, ...).
        weight: of each row's distance, (B,), or one number.

    Example:
        >>> import torch
        >>> from ismkit.method import Answer
        >>> Answer(torch.ones(2, 1)).weight
        1.0
    """

    target: Tensor
    weight: Tensor | float = 1.0


class TargetRule(Protocol):
    """The signature of a rule: what the rows of a batch should answer.

    Example:
        A rule is a function, or a dataclass with ``__call__``, so that it can have settings. This one pulls the
        velocity towards 0:

        >>> import torch
        >>> from ismkit import Recipe, Rows
        >>> from ismkit.method import Answer, Context
        >>> def shrunk(query, velocity, rows, context):
        ...     return Answer(0.9 * velocity)
        >>> Recipe("shrunk", Rows(), target=shrunk).target(None, torch.tensor(2.0), Rows(), None).target
        tensor(1.8000)
    """

    def __call__(self, query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Answer:
        """Make the targets.

        Args:
            query: what the rows are asked.
            velocity: ``x1 - x0`` of each row, (B, ...).
            rows: how the batch is split.
            context: the networks that may be asked, the null label, how far the run is.

        Returns:
            Targets (B, ...), like the velocity, and the weight of each row.
        """
        ...


class Term(Protocol):
    """The signature of a term: a loss with a gradient of its own, beside the distance to a target.

    Where passes are counted (:func:`~ismkit.training.costs.passes`), it is called on random samples, unless it says by
    an attribute ``asks = False`` that it asks no network.

    Example:
        A term is a function, or a dataclass with ``__call__``. This one keeps steps short:

        >>> from dataclasses import replace
        >>> import torch
        >>> from ismkit import RECIPES, ToyMLP, TwinEMA, training_step
        >>> def short(net, prediction, query, velocity, context):
        ...     return 0.1 * prediction.square().mean()
        >>> recipe = replace(RECIPES["flow"], name="short", terms=(short,))
        >>> net, rng = ToyMLP(width=16, depth=1, num_classes=3), torch.Generator().manual_seed(0)
        >>> pair = torch.zeros(8, 2), torch.ones(8, 2), torch.arange(8) % 3
        >>> loss, query, distance = training_step(recipe, net, TwinEMA(net), pair, null=3, rng=rng)
        >>> loss.item()
        1.0
    """

    def __call__(self, net: nn.Module, prediction: Tensor, query: Query, velocity: Tensor, context: Context) -> Tensor:
        """Compute the term.

        Args:
            net: the online network, which has just answered; its gradient flows.
            prediction: its answers, (B, ...).
            query: what the rows were asked.
            velocity: ``x1 - x0`` of each row, (B, ...); the data are ``query.x + (1 - t) * velocity``.
            context: what rules may ask, too.

        Returns:
            A scalar, which is added to the loss.
        """
        ...


def ask(*questions: tuple[Network, Query]) -> list[Tensor]:
    """Ask networks, each of them once: questions to the same network are one call.

    Args:
        questions: a network and what it is asked, each; rows of any number, none too.

    Returns:
        The answers (B, ...), one per question. A network with no row to answer is not called.

    Raises:
        RuntimeError: by torch, if rows for one network differ in shape.

    Example:
        >>> import torch
        >>> from ismkit.method import Query
        >>> from ismkit.method.recipes import ask
        >>> def net(x, t, d, w, y):
        ...     print(f"{len(x)} rows")
        ...     return x + y[:, None]
        >>> def question(rows, label):
        ...     x, t, y = torch.zeros(rows, 1), torch.zeros(rows), torch.full((rows,), label)
        ...     return net, Query(x, t, t, t, y)
        >>> [answer.flatten().tolist() for answer in ask(question(2, 0), question(1, 5))]
        3 rows
        [[0.0, 0.0], [5.0]]
    """
    answers = [query.x for _, query in questions]  # of the right shape where nothing is asked
    waiting = [k for k, (_, query) in enumerate(questions) if len(query.x)]
    while waiting:
        net = questions[waiting[0]][0]
        mine = [k for k in waiting if questions[k][0] is net]
        waiting = [k for k in waiting if k not in mine]
        together = Query(*(torch.cat(column) for column in zip(*(questions[k][1] for k in mine), strict=True)))
        for k, part in zip(mine, net(*together).split([len(answers[k]) for k in mine]), strict=True):
            answers[k] = part
    return answers


def average_of_half_steps(
    field: Callable[[Tensor, Tensor, Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    d: Tensor,
    grid: StepGrid,
    clip: float | None = None,
    first: Tensor | None = None,
) -> Tensor:
    """Make the target of the consistency rows: the average of two half steps of ``field(x, t, d)`` (SM Eq. 5).

    Args:
        field: average velocity at fixed guidance and label.
        x: states, (B, ...).
        t: start times, (B,).
        d: step sizes above 0, (B,), on the grid.
        grid: says under which ``d`` a half step is asked.
        clip: bound on the middle state and the target (SM code: 4), or None.
        first: the answer for the first half step, if it is known, (B, ...); else ``field`` is asked.

    Returns:
        ``(s_1 + s_2) / 2``, (B, ...).

    Raises:
        TypeError: if states, times or sizes hold no floating point numbers.
        ValueError: if their shapes or devices do not match, or ``clip`` is not positive.

    Example:
        One step by the target ends where two half steps end, for ``dx/dt = x`` at ``(1 + 1/2)^2``:

        >>> import torch
        >>> from ismkit import StepGrid
        >>> from ismkit.method import average_of_half_steps
        >>> x, t, d = torch.ones(1, 1), torch.zeros(1), torch.ones(1)
        >>> target = average_of_half_steps(lambda x, t, d: x, x, t, d, StepGrid(2))
        >>> target.item(), (x + d * target).item()
        (1.25, 2.25)
    """
    check_tensor("x", x)
    for name, values in (("t", t), ("d", d)):
        check_tensor(name, values, ("x", x))
        if values.shape != x.shape[:1]:
            raise ValueError(
                f"{name} must hold one number per row of x, {tuple(x.shape[:1])}, got {tuple(values.shape)}"
            )
    if not callable(field) or not isinstance(grid, StepGrid):
        raise TypeError(f"field must be a function and grid a StepGrid, got {shown(field)} and {shown(grid)}")
    check_clip(clip)
    length, asked = grid.half(d)
    first = field(x, t, asked) if first is None else first
    middle = x + expand_as(length, x) * first
    if clip is not None:
        middle = middle.clamp(-clip, clip)
    average = (first + field(middle, t + length, asked)) / 2
    return average if clip is None else average.clamp(-clip, clip)


def check_clip(clip: float | None) -> None:
    """Raise ValueError unless ``clip`` is None or a positive finite number."""
    if clip is not None:
        check_number("clip", clip, "above 0, or None for no bound", 1e-300)


def velocity_target(query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Answer:
    """Answer the velocity: plain flow matching, where every row is a velocity row (arXiv 2210.02747).

    A :class:`TargetRule` that uses one of its arguments only.

    Args:
        query: not used.
        velocity: ``x1 - x0`` of each row, (B, ...).
        rows: not used.
        context: not used.

    Returns:
        ``velocity``, (B, ...).

    Example:
        >>> import torch
        >>> from ismkit import RECIPES, Rows, velocity_target
        >>> v = torch.ones(4, 2)
        >>> velocity_target(None, v, Rows(), None).target is v, RECIPES["flow"].target is velocity_target
        (True, True)
    """
    return Answer(velocity)


@dataclass(frozen=True)
class BakedIn:
    """The shortcut model's targets, with CFG at one scale baked in while half steps are made (SM).

    Attributes:
        cfg_scale: the baked-in scale (SM: 1.5); at 1, where the null label has no share, it is not asked.
        every_level: apply CFG again at every doubling of the step, as the iSM paper formalises it: the guidance of one
            step grows to ``cfg_scale ** log2(N)``. False is the released SM code: CFG at the finest doubling only,
            which coarser levels inherit unmultiplied.
        clip: bound on middle states and targets (SM code: 4), or None.

    Raises:
        ValueError: if ``cfg_scale`` is not finite, or ``clip`` not positive.

    Example:
        A field that is constant, 1 for the class and 0 for the null label, and the network that answers each query with
        its target. In one step it has the guidance of all seven doublings, ``1.5^7``, or of one:

        >>> import torch
        >>> from ismkit import BakedIn
        >>> from ismkit.lessons import Ideal
        >>> def field(x, t, y):
        ...     return (1.0 - y)[:, None].expand_as(x)  # the null label is 1
        >>> one_step = torch.zeros(1, 1), torch.zeros(1), torch.ones(1), torch.zeros(1), torch.tensor([0])
        >>> for every_level in (True, False):
        ...     net = Ideal(field, BakedIn(cfg_scale=1.5, every_level=every_level, clip=None), null=1)
        ...     print(round(net(*one_step).item(), 2))
        17.09
        1.5
    """

    cfg_scale: float = 1.5
    every_level: bool = True
    clip: float | None = 4.0

    def __post_init__(self) -> None:
        check_types(self)
        check_number("cfg_scale", self.cfg_scale, "that is finite", -math.inf)
        check_clip(self.clip)

    def __call__(self, query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Answer:
        """Targets (B, ...) made by the fast average; see :class:`TargetRule`."""
        block = rows.blocks(len(velocity)).consistency
        x, t, d, w, y = query.take(block)
        null = torch.full_like(y, context.null)

        def guided(x: Tensor, t: Tensor, d: Tensor) -> Tensor:
            if self.cfg_scale == 1:
                return context.fast(x, t, d, w, y)
            scale = torch.where((d == 0) | self.every_level, self.cfg_scale, 1.0)
            asked = ((context.fast, Query(x, t, d, w, labels)) for labels in (y, null))
            conditional, unconditional = ask(*asked)
            return cfg(conditional, unconditional, expand_as(scale, x))

        target = velocity.clone()
        target[block] = average_of_half_steps(guided, x, t, d, rows.grid, self.clip).to(target.dtype)
        return Answer(target)


@dataclass(frozen=True)
class Intrinsic:
    """iSM's targets: ``w`` enters the velocity at ``d = 0`` only, and larger steps learn it by consistency.

    The half steps come from the fast average. That the interval acts at ``d = 0`` alone is this kit's reading.

    Attributes:
        t_interval: no guidance below this time, the high-noise side, in [0, 1] (iSM: 0.3).
        clip: bound on middle states and targets, as in SM's code; None for none (this kit's choice).
        predicted: guidance rows push the velocity that the gap's network predicts, instead of the sample's ``x1 - x0``
            (iSM): equal on average once trained, and without the sample's noise.
        gap: the average that makes the guidance gap; the paper does not say (this kit: ``fast``).

    Raises:
        ValueError: if ``t_interval`` is no time in [0, 1], ``clip`` not positive, or ``gap`` no average.

    Example:
        A field that is constant, 1 for the class and 0 for the null label, and the network that answers each query with
        its target. At w = 2 it answers ``1 + 2 * (1 - 0)`` at every step size. With an interval from 1/2, half of the
        path is unguided, and one step averages over both:

        >>> import torch
        >>> from ismkit import Intrinsic
        >>> from ismkit.lessons import Ideal
        >>> def field(x, t, y):
        ...     return (1.0 - y)[:, None].expand_as(x)  # the null label is 1
        >>> def answer(t_interval, d):
        ...     net = Ideal(field, Intrinsic(t_interval), null=1)
        ...     zero = torch.zeros(1)
        ...     return net(zero[:, None], zero, torch.tensor([d]), torch.tensor([2.0]), torch.tensor([0])).item()
        >>> [answer(0.0, d) for d in (0.0, 0.25, 1.0)]
        [3.0, 3.0, 3.0]
        >>> [answer(0.5, d) for d in (0.0, 0.25, 1.0)]
        [1.0, 1.0, 2.0]
    """

    t_interval: float = 0.3
    clip: float | None = None
    predicted: bool = False
    gap: Literal["fast", "slow"] = "fast"

    def __post_init__(self) -> None:
        check_types(self)
        check_clip(self.clip)
        if not 0 <= self.t_interval <= 1:
            raise ValueError(f"t_interval must be a time in [0, 1], got {self.t_interval}")

    def __call__(self, query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Answer:
        """Targets (B, ...) made by the fast average; see :class:`TargetRule`."""
        blocks = rows.blocks(len(velocity))
        guided, steps = query.take(blocks.guidance), query.take(blocks.consistency)
        unguided = guided._replace(w=torch.zeros_like(guided.w))
        null = unguided._replace(y=torch.full_like(guided.y, context.null))
        guide, net = getattr(context, self.gap), context.fast
        half = steps._replace(d=rows.grid.half(steps.d)[1])
        conditional, unconditional, first = ask((guide, unguided), (guide, null), (net, half))

        target = velocity.clone()
        if rows.guidance:
            v = conditional if self.predicted else velocity[blocks.guidance]
            pushed = intrinsic_velocity(v, conditional - unconditional, guided.w, guided.t, self.t_interval)
            target[blocks.guidance] = pushed.to(target.dtype)
        if rows.consistency:
            x, t, d, w, y = steps
            average = average_of_half_steps(lambda x, t, d: net(x, t, d, w, y), x, t, d, rows.grid, self.clip, first)
            target[blocks.consistency] = average.to(target.dtype)
        return Answer(target)


@dataclass(frozen=True)
class Recipe:
    """A training method, made of parts; every ablation is another value.

    Attributes:
        name: for logs and tables.
        rows: what is asked of the network.
        target: what it should answer, a :class:`TargetRule`.
        weights: alpha, beta, gamma of ``alpha L_velocity + beta L_guidance + gamma L_consistency``, each L the mean
            over its own rows (iSM: 1, 1, 1).
        coupling: which noise goes with which data.
        distance: error per sample, of prediction and target (B, ...) each, and what was asked: (B,).
        fast, slow: decays of the average that makes targets and of the one that samples.
        source: the distribution of the noise, a :class:`~ismkit.method.path.Source`.
        terms: what is added to the loss, each a :class:`Term`.

    Raises:
        TypeError: if ``source`` is not a function.
        ValueError: if ``target``, ``distance`` or a term is not a function or takes other arguments, a weight is
            negative or not finite, a decay outside [0, 1), or by the rule, if it is not valid in this recipe.

    Example:
        An ablation of the paper's full method, without scaling OT, and how the loss weighs the rows of its three
        blocks:

        >>> from dataclasses import replace
        >>> import torch
        >>> from ismkit import RECIPES, Coupling
        >>> ism = RECIPES["ism"]
        >>> ism.coupling, ism.fast, ism.slow
        (Coupling(pool=32, class_aware=True, classes=None, solver=None), 0.95, 0.9999)
        >>> unpaired = replace(ism, name="ism without OT", coupling=Coupling(pool=0))
        >>> unpaired.rows.blocks(8)
        Blocks(velocity=slice(0, 4, None), guidance=slice(4, 6, None), consistency=slice(6, 8, None))
        >>> unpaired.loss(torch.tensor([1.0, 1.0, 1.0, 1.0, 10.0, 10.0, 100.0, 100.0]))
        tensor(111.)
    """

    name: str = field(metadata=UNKEYED)
    rows: Blocked
    target: TargetRule
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    coupling: Coupling = field(default_factory=Coupling)
    distance: Distance = l2
    fast: float = 0.9999
    slow: float = 0.9999
    source: Source | None = None
    terms: tuple[Term, ...] = ()

    def __post_init__(self) -> None:
        check_types(self)
        check_source(self.source)
        asked = ("net", "prediction", "query", "velocity", "context")
        parts = [
            ("target", self.target, ("query", "velocity", "rows", "context")),
            ("distance", self.distance, ("prediction", "target", "query")),
            *(("each of the terms", term, asked) for term in self.terms),
        ]
        for name, part, arguments in parts:
            if not callable(part) or isinstance(part, type):
                raise ValueError(f"{name} must be a function, such as those of RECIPES, got {shown(part)}")
            check_takes(name, part, arguments)
        for weight in self.weights:
            check_number("each of the weights", weight, "of at least 0", 0)
        check_decay("fast decay", self.fast)  # which of them is larger, TwinEMA says: they change one by one
        check_decay("slow decay", self.slow)
        if (check := getattr(self.target, "check", None)) is not None:
            check(self)  # what this rule is not valid with

    def loss(self, distance: Tensor) -> Tensor:
        """Compute the loss of one batch: the weighted sum of the blocks' means.

        Args:
            distance: of each row, (B,).

        Returns:
            A scalar.

        Raises:
            TypeError: if distances are no floating point numbers.
            ValueError: if they are not (B,), or a block with a fraction above zero gets no row.
        """
        check_tensor("distance", distance)
        if distance.ndim != 1:
            raise ValueError(f"distance must hold one number per row, (B,), got {tuple(distance.shape)}")
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
# The guidance of SM's code; the rest is not quite that code. There bootstrap rows never drop their label, d = 1 has a
# quarter of them and every other level an eighth, targets have the decay 0.999, and raw weights sample by default.
_FINEST = replace(_SHORTCUT, name="shortcut_finest_level", target=BakedIn(every_level=False))
_THREE_BLOCKS = Rows(guidance=1 / 4, consistency=1 / 4, strengths=Strengths(3.5))
_GUIDANCE = Recipe("ism_guidance", _THREE_BLOCKS, Intrinsic(t_interval=0.0))
_INTERVAL = replace(_GUIDANCE, name="+interval", target=Intrinsic(t_interval=0.3))
# The paper does not say how it weighs or norms the bands. Of what was tried, squares with finer bands weighed up did
# best (book/studies/wavelet.py, notebook 05), though plain L2 did better still: the kit's latents are nearly white.
_WAVELET = replace(_INTERVAL, name="+wavelet", distance=WaveletDistance(unit_weights(geometric_weights(5, 0.5))))
_SOT = replace(_WAVELET, name="+sot", coupling=Coupling(pool=32, class_aware=True))
_ISM = replace(_SOT, name="ism", fast=0.95)
# This kit's, made for 1 NFE; what it is worth for as many network passes: ismkit.sweeps.ladder, notebook 08. Guidance
# begins earlier, more of the times are near the noise, and the distance is plain L2.
_ISM_PLUS = replace(
    _ISM,
    name="ism_plus",
    rows=replace(_THREE_BLOCKS, time_power=1.5),
    target=Intrinsic(t_interval=0.1),
    distance=l2,
)

#: The ladder of the paper, each rung the one before with one part changed, after the baselines; then what is ours.
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (_FLOW, _SHORTCUT, _FINEST, _GUIDANCE, _INTERVAL, _WAVELET, _SOT, _ISM, _ISM_PLUS)
}


def training_step(
    recipe: Recipe,
    net: nn.Module,
    ema: TwinEMA,
    pair: tuple[Tensor, Tensor, Tensor],
    null: int,
    rng: torch.Generator,
    progress: float = 0.0,
) -> tuple[Tensor, Query, Tensor]:
    """Compute the loss of one step, of any method.

    Every fix of iSM is one line, and a recipe without it has another value there.

    Args:
        recipe: the method.
        net: the online network, wrapped or not; called once.
        ema: its averages; the fast one makes the targets.
        pair: coupled ``(x0, x1, y)``: noise (B, ...), data (B, ...), labels (B,).
        null: the null label.
        rng: generator of this step's random numbers, on the device of ``pair``.
        progress: the share of the run that is done, in [0, 1), for methods that change on the way.

    Returns:
        The loss (scalar, with gradient), the query, and the distance per row (B,).

    Raises:
        ValueError: if the batch is too small for the blocks of rows.

    Example:
        A network that is not trained yet answers 0, so its flow-matching loss is the mean square of the velocity:

        >>> import torch
        >>> from ismkit import RECIPES, ToyMLP, TwinEMA, training_step
        >>> net = ToyMLP(dim=2, width=16, depth=1, num_classes=3)
        >>> x0, x1, y = torch.zeros(16, 2), torch.tensor([[1.0, 3.0]]).repeat(16, 1), torch.arange(16) % 3
        >>> rng = torch.Generator().manual_seed(0)
        >>> loss, query, distance = training_step(RECIPES["flow"], net, TwinEMA(net), (x0, x1, y), null=3, rng=rng)
        >>> loss.item(), distance.shape
        (5.0, torch.Size([16]))

        iSM's step is the same call. Half the rows are asked for the velocity, a quarter with guidance, a quarter for
        steps:

        >>> from dataclasses import replace
        >>> from ismkit import l2
        >>> ism = replace(RECIPES["ism"], distance=l2)  # points have no bands
        >>> loss, query, distance = training_step(ism, net, TwinEMA(net), (x0, x1, y), null=3, rng=rng)
        >>> (query.d > 0).sum().item(), (query.w[8:12] > 0).all().item()
        (4, True)
    """
    x0, x1, y = pair  # ......................................................... scaling OT (coupled one pool ahead)
    query, velocity = recipe.rows(x0, x1, y, null, rng)  # ................... velocity | guidance | consistency rows
    with torch.no_grad():
        context = Context(ema.fast, ema.slow, null, progress, rng)
        target, weight = recipe.target(query, velocity, recipe.rows, context)  # .......... intrinsic guidance, twin EMA
    prediction = net(*query)
    distance = recipe.distance(prediction, target, query)  # ................................. multi-level wavelet loss
    extra = sum(term(net, prediction, query, velocity, context) for term in recipe.terms)  # . none in the paper
    return recipe.loss(weight * distance) + extra, query, distance


def checked(recipe: Recipe) -> Recipe:
    """Make a recipe whose target, distance and terms are those of another, and raise if they return something else.

    A rule of your own may return anything, and much of it broadcasts: a tensor of two rows would be unpacked as a
    target and a weight, and train another loss. The loop trains by this, so that :func:`training_step` asks no
    question. Only types and shapes are read, so no device waits.

    Args:
        recipe: the method.

    Returns:
        A recipe with the same loss. A ValueError of its parts names the function, what it returned, and what is right.

    Example:
        >>> from dataclasses import replace
        >>> import torch
        >>> from ismkit import RECIPES, ToyMLP, TwinEMA, training_step
        >>> from ismkit.method.recipes import checked
        >>> def shrunk(query, velocity, rows, context):
        ...     return 0.9 * velocity
        >>> recipe, net = replace(RECIPES["flow"], target=shrunk), ToyMLP(width=16, depth=1, num_classes=3)
        >>> pair, rng = (torch.zeros(8, 2), torch.ones(8, 2), torch.arange(8) % 3), torch.Generator().manual_seed(0)
        >>> training_step(checked(recipe), net, TwinEMA(net), pair, null=3, rng=rng)
        Traceback (most recent call last):
        ValueError: target must return Answer(target, weight), shrunk returns Tensor (8, 2) torch.float32
    """

    def target(query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Answer:
        answer = recipe.target(query, velocity, rows, context)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise _wrong("target", recipe.target, "Answer(target, weight)", answer)
        wanted, weight = answer
        if _shape(wanted) != velocity.shape:
            raise _wrong("target", recipe.target, f"targets like the velocity, {tuple(velocity.shape)}", wanted)
        if _shape(weight) not in ((), (1,), velocity.shape[:1]):
            raise _wrong("target", recipe.target, f"a weight for each row, ({len(velocity)},), or one number", weight)
        return Answer(wanted, weight)

    def distance(prediction: Tensor, target: Tensor, query: Query | None = None) -> Tensor:
        if torch.is_grad_enabled() and not prediction.requires_grad:
            raise ValueError("net must return what its weights can be trained by, got a tensor without a gradient")
        found = recipe.distance(prediction, target, query)
        if _shape(found) != prediction.shape[:1]:
            raise _wrong("distance", recipe.distance, f"one number per row, ({len(prediction)},)", found)
        if prediction.requires_grad and not found.requires_grad:
            raise _wrong("distance", recipe.distance, "what has a gradient for the prediction", found)
        return found

    terms = tuple(_scalar(term) for term in recipe.terms)
    return replace(recipe, target=target, distance=distance, terms=terms)


def _scalar(term: Term) -> Term:
    """A term that raises ValueError unless it is one number."""

    def part(net: nn.Module, prediction: Tensor, query: Query, velocity: Tensor, context: Context) -> Tensor:
        found = term(net, prediction, query, velocity, context)
        if _shape(found) != ():
            raise _wrong("each of the terms", term, "one number, as .mean() gives it", found)
        return found

    return part


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of a tensor or a number, None of anything else."""
    if isinstance(value, Real):
        return ()
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _wrong(argument: str, part: Any, right: str, found: Any) -> ValueError:
    """The error for what a part returned."""
    return ValueError(f"{argument} must return {right}, {named(part)} returns {shown(found)}")
