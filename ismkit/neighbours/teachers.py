"""Methods with a teacher: a frozen network answers for part of the rows, or gives the velocity.

Each is a function of the teacher that makes a recipe: truncated consistency models, FACM, dual-end consistency. A
teacher is any network with the kit's signature; :class:`Trained` is one from a file, which runs can be keyed by.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ismkit.method.coupling import Coupling
from ismkit.method.path import Network, Query, check_network, expand_as, grid_of, step_lengths_of
from ismkit.method.recipes import Answer, Context, Recipe
from ismkit.method.rows import Blocked, Intervals
from ismkit.method.wavelet import Normalised, l2
from ismkit.models.saved import load_model
from ismkit.neighbours.leap import HalvingCut, Leap, derivative
from ismkit.utils.checks import check_number, shown
from ismkit.utils.files import file_sum
from ismkit.utils.keys import UNKEYED
from ismkit.utils.settings import check_types


@lru_cache(maxsize=4)
def _loaded(path: str, sha256: str, device: torch.device) -> nn.Module:
    if (found := file_sum(path)) != sha256:
        raise ValueError(f"{path} is not the file that was named: its SHA-256 is {found}, not {sha256}")
    return load_model(path)[0].to(device).eval().requires_grad_(False)


@dataclass(frozen=True)
class Trained:
    """A trained network as a setting: a file and its checksum, read when it is first asked.

    Attributes:
        path: of a model file, as :func:`ismkit.models.saved.save_model` writes them.
        sha256: of the file, in hexadecimal digits; a run is keyed by it, and not by the path. :meth:`at` reads it.

    Raises:
        ValueError: when it is asked, if the file has another checksum.

    Example:
        >>> import tempfile, torch
        >>> from ismkit import ToyMLP, save_model
        >>> from ismkit.neighbours import Trained
        >>> x, t, y = torch.zeros(1, 2), torch.zeros(1), torch.tensor([0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save_model(ToyMLP(width=16, depth=1, num_classes=3), f"{folder}/flow.safetensors", {})
        ...     teacher = Trained.at(f"{folder}/flow.safetensors")
        ...     teacher(x, t, t, t, y)
        tensor([[0., 0.]])
    """

    path: str = field(metadata=UNKEYED)
    sha256: str

    def __post_init__(self) -> None:
        check_types(self)

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Trained:
        """Name the file as it is now.

        Args:
            path: of a model file.

        Returns:
            The network as a setting.

        Raises:
            OSError: if there is no such file.
        """
        return cls(os.fspath(path), file_sum(path))

    def __call__(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        """Ask the network; see :class:`ismkit.method.path.Network`."""
        return _loaded(self.path, self.sha256, x.device)(x, t, d, w, y)

    def copy(self, num_classes: int) -> nn.Module:
        """Make a network that begins with these weights: the ``net`` of a run that trains them further.

        Args:
            num_classes: those of the data, as every ``net`` is given them. They change nothing here: data of more
                classes than the network's are refused when it is trained.

        Returns:
            A network of its own.

        Raises:
            ValueError: if the file has another checksum.

        Example:
            >>> import tempfile, torch
            >>> from dataclasses import replace
            >>> from ismkit import RUNS, ToyMLP, save_model
            >>> from ismkit.neighbours import Trained
            >>> first = ToyMLP(width=16, depth=1)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     _ = save_model(first, f"{folder}/first.safetensors", {})
            ...     trained = Trained.at(f"{folder}/first.safetensors")
            ...     run = replace(RUNS["gaussians"], net=trained.copy)
            ...     nets = [trained.copy(num_classes=8), run.build(num_classes=8)]
            >>> [all(map(torch.equal, net.parameters(), first.parameters())) for net in nets]
            [True, True]
        """
        del num_classes
        return copy.deepcopy(_loaded(self.path, self.sha256, torch.device("cpu"))).train().requires_grad_(True)


# ------------------------------------------------------------------------------------ truncated consistency models


@dataclass(frozen=True)
class TruncatedRows(Intervals):
    """Rows that end at the data and begin at noisy times only, some of them at the last of these (TCM).

    Attributes:
        guidance, consistency, label_dropout, drop_consistency, strengths, grid, time_scale: as in
            :class:`~ismkit.method.rows.Intervals`.
        logit, to_data, from_noise, noisier: as there; ``to_data`` must be 1.
        boundary: the last time, in (0, 1] (TCM: where noise has twice the deviation of the data, which is 1/3 here).
        at_boundary: share of the consistency rows that sit there (TCM: 1/4).

    Raises:
        ValueError: as :class:`~ismkit.method.rows.Intervals`, or for a time or a share out of range.

    Example:
        >>> import torch
        >>> from ismkit.neighbours import TruncatedRows
        >>> rows = TruncatedRows(consistency=1.0)
        >>> x, y, rng = torch.zeros(8, 1), torch.zeros(8).long(), torch.Generator().manual_seed(0)
        >>> query, _ = rows(x, x, y, null=1, generator=rng)
        >>> (query.t == rows.boundary).sum().item(), bool((query.t <= rows.boundary).all())
        (2, True)
    """

    to_data: float = 1.0
    boundary: float = 1 / 3
    at_boundary: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to_data != 1:
            raise ValueError(f"to_data must be 1, got {self.to_data}: these rows end at the data")
        check_number("boundary", self.boundary, "in (0, 1]", 1e-300, 1)
        check_number("at_boundary", self.at_boundary, "in [0, 1]", 0, 1)

    def draw(self, n: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`ismkit.method.rows.Blocked.draw`."""
        t, d, w = super().draw(n, generator, device)
        steps = self.blocks(n).consistency
        at = round(self.at_boundary * (steps.stop - steps.start))
        t[steps] *= self.boundary
        t[steps][:at] = self.boundary
        d[steps] = 1 - t[steps]
        return t, d, w


class Staged(nn.Module):
    """Two networks that share the path: the second one until a time, the first one from there on.

    Args:
        first: answers for ``t >= boundary``.
        second: answers before.
        boundary: the time.

    Raises:
        TypeError: if one of them is not a function.
        ValueError: if ``boundary`` is no time in [0, 1].

    Example:
        >>> import torch
        >>> from ismkit.neighbours import Staged
        >>> def constant(value):
        ...     return lambda x, t, d, w, y: torch.full_like(x, value)
        >>> zero = torch.zeros(2)
        >>> net = Staged(constant(1.0), constant(2.0), boundary=0.5)
        >>> net(zero[:, None], torch.tensor([0.25, 0.5]), zero, zero, zero.long()).flatten()
        tensor([2., 1.])
    """

    def __init__(self, first: Network, second: Network, boundary: float) -> None:
        super().__init__()
        check_number("boundary", boundary, "in [0, 1]", 0, 1)
        for name, net in (("first", first), ("second", second)):
            check_network(name, net)
        self.first, self.second, self.boundary = first, second, boundary
        self.step_lengths, self.grid = step_lengths_of(second), grid_of(second)  # for the sampler
        self.num_classes = getattr(second, "num_classes", None)

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        """Ask both, and take each row's; see :class:`ismkit.method.path.Network`."""
        late = expand_as(t >= self.boundary, x)
        return torch.where(late, self.first(x, t, d, w, y), self.second(x, t, d, w, y))


@dataclass(frozen=True)
class Truncated:
    """Targets of a truncated consistency model: its own answer further on, the first stage's beyond the boundary (TCM).

    Attributes:
        first_stage: the consistency model that answers from the boundary on.
        leap: how the target is cut.
        boundary: the time, as in the rows.
        weight: of the mean over the rows at the boundary, which the first stage teaches, beside the mean over the
            others (TCM: 0.1). Without them the model may collapse to a constant.

    Raises:
        ValueError: if the rows of a recipe have another boundary.

    Example:
        A row at the boundary takes its target from the first stage, one before it its own answer further on:

        >>> import torch
        >>> from ismkit.method import Context, Query
        >>> from ismkit.neighbours import Leap, Truncated, TruncatedRows
        >>> def constant(value):
        ...     return lambda x, t, d, w, y: torch.full_like(x, value)
        >>> rows, own = TruncatedRows(consistency=1.0, boundary=0.5), constant(1.0)
        >>> rule = Truncated(constant(5.0), Leap("sample", 0.25), boundary=0.5)
        >>> zero = torch.zeros(2)
        >>> query = Query(zero[:, None], torch.tensor([0.5, 0.0]), torch.tensor([0.5, 1.0]), zero, zero.long())
        >>> answer = rule(query, torch.full((2, 1), 3.0), rows, Context(own, own, null=1))
        >>> answer.target.flatten(), answer.weight  # a quarter of the rows is there: 0.1 of the others' mean
        (tensor([4.5000, 1.5000]), tensor([0.3000, 1.0000]))

        The rows of its recipe must have the same boundary:

        >>> from ismkit.neighbours import truncated
        >>> recipe = truncated(constant(5.0), boundary=0.5)
        >>> recipe.target.check(recipe)
    """

    first_stage: Network
    leap: Leap = field(default_factory=Leap)
    boundary: float = 1 / 3
    weight: float = 0.1

    def __post_init__(self) -> None:
        check_types(self)
        check_number("boundary", self.boundary, "in (0, 1]", 1e-300, 1)
        check_number("weight", self.weight, "of at least 0", 0)

    def check(self, recipe: Recipe) -> None:
        """Refuse rows that do not have the boundary.

        Raises:
            ValueError: if the recipe's rows are others.
        """
        if not isinstance(recipe.rows, TruncatedRows) or recipe.rows.boundary != self.boundary:
            raise ValueError(f"rows must be TruncatedRows with boundary={self.boundary}, got {recipe.rows}")
        self.leap.check(recipe)

    def __call__(self, query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Answer:
        """Targets (B, ...) and weights; see :class:`~ismkit.method.recipes.TargetRule`."""
        staged = Staged(self.first_stage, context.fast, self.boundary)
        target, weight = self.leap(query, velocity, rows, context._replace(fast=staged))
        at = (query.t >= self.boundary) & (query.d > 0)
        share = rows.at_boundary if isinstance(rows, TruncatedRows) else 0.0
        odds = (1 - share) / share if 0 < share < 1 else 1.0  # one mean over all rows becomes two
        return Answer(target, torch.where(at, self.weight * odds * weight, weight))


def truncated(first_stage: Network, boundary: float = 1 / 3) -> Recipe:
    """Make the second stage of a truncated consistency model (arXiv 2410.14895).

    The first stage is a consistency model, such as one trained by the recipe ``ect``; the second trains on noisy times
    only. As in the paper, let its network begin with the weights of the first stage (:meth:`Trained.copy`): from random
    ones many a training does not get beyond the noise. To sample in several steps, use :class:`Staged`. Not the
    paper's: times are uniform instead of heavy-tailed in the logarithm of the noise, and the share is cut as in
    ``ect``, from 1/16 on.

    Args:
        first_stage: the trained consistency model, frozen.
        boundary: the time from which on it answers.

    Returns:
        A recipe.

    Raises:
        TypeError: if ``first_stage`` is no network.
        ValueError: if ``boundary`` is no time in (0, 1].

    Example:
        >>> from ismkit import ToyMLP
        >>> from ismkit.neighbours import truncated
        >>> recipe = truncated(ToyMLP(width=16, depth=1, num_classes=3))
        >>> recipe.name, round(recipe.rows.boundary, 3)
        ('tcm', 0.333)
    """
    check_network("first_stage", first_stage)
    rows = TruncatedRows(consistency=1.0, drop_consistency=True, boundary=boundary)
    leap = Leap("sample", HalvingCut(5, first=1 / 16), weight=-1.0)
    return Recipe(
        "tcm",
        rows,
        Truncated(first_stage, leap, boundary),
        weights=(0.0, 0.0, 1.0),
        coupling=Coupling(pool=0),
        distance=Normalised(l2, 0.5, 1e-6),
        fast=0.0,
    )


# ------------------------------------------------------------------------------------------ FACM, dual-end consistency


@dataclass(frozen=True)
class Anchored:
    """Targets of FACM: the teacher's velocity at ``d = 0``, and a bounded pull towards the limit of a cut elsewhere.

    With ``e = net - (v + d D)``, bounded to ``clip``, the target of a step is ``net - (1 - t^relax) e``.

    Attributes:
        teacher: asked for the velocity v.
        clip: bound on e (FACM: 1).
        relax: the power of the time by which the pull is weaker near the data (FACM's code: 1/2).

    Raises:
        ValueError: if ``clip`` or ``relax`` is not positive.

    Example:
        A network that answers what the teacher's flow says is a fixed point; here both are constant:

        >>> import torch
        >>> from ismkit.method import Context, Intervals, Query
        >>> from ismkit.neighbours import Anchored
        >>> def constant(x, t, d, w, y):
        ...     return torch.full_like(x, 2.0)
        >>> zero, half = torch.zeros(2), torch.full((2,), 0.5)
        >>> query = Query(zero[:, None], half, torch.tensor([0.0, 0.5]), zero, zero.long())
        >>> context = Context(constant, constant, null=1)
        >>> Anchored(constant)(query, zero[:, None], Intervals(consistency=0.5), context).target.flatten()
        tensor([2., 2.])
    """

    teacher: Network
    clip: float = 1.0
    relax: float = 0.5

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("clip", "relax"):
            check_number(name, getattr(self, name), "above 0", 1e-300)

    def __call__(self, query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Answer:
        """Targets, (B, ...); see :class:`~ismkit.method.recipes.TargetRule`."""
        target = Leap("sample", 0.0, guide=_Taught(self.teacher))(query, velocity, rows, context).target
        block = rows.blocks(len(velocity)).consistency
        asked = query.take(block)
        net = context.fast(*asked).to(target.dtype)
        pull = (net - target[block]).clamp(-self.clip, self.clip)
        target[block] = net - expand_as(1 - asked.t**self.relax, net) * pull
        return Answer(target)


def anchored_distance(prediction: Tensor, target: Tensor, query: Query | None = None) -> Tensor:
    """Compute FACM's distance: squares and a cosine at ``d = 0``, elsewhere a root that weighs less near the data.

    Args:
        prediction: (B, ...).
        target: (B, ...).
        query: says which rows have ``d = 0``, and their times.

    Returns:
        Distances, (B,): ``mse + 1 - cos`` at ``d = 0``, where the cosine is that of the channels, the mean over all
        places; and ``cos(pi t / 2) mse / sqrt(sg(mse) + 1e-3)`` at d > 0.

    Raises:
        ValueError: without a query.

    Example:
        >>> import torch
        >>> from ismkit.method import Query
        >>> from ismkit.neighbours import anchored_distance
        >>> zero = torch.zeros(2)
        >>> query = Query(zero[:, None], zero, torch.tensor([0.0, 1.0]), zero, zero.long())
        >>> anchored_distance(torch.ones(2, 1), -torch.ones(2, 1), query)
        tensor([6.0000, 1.9998])
    """
    if not isinstance(query, Query):
        raise ValueError(f"query must be what was asked, a Query, got {shown(query)}")
    error = l2(prediction, target)  # it refuses what is no pair of batches
    anchor = error + 1 - F.cosine_similarity(prediction, target, dim=1).reshape(len(prediction), -1).mean(1)
    step = torch.cos(torch.pi / 2 * query.t) * Normalised(l2, 0.5)(prediction, target)
    return torch.where(query.d == 0, anchor, step)


def facm(teacher: Network) -> Recipe:
    """Make FACM of a flow model (arXiv 2507.03738): consistency anchored in the teacher's velocity.

    As in its code, let the network begin with the teacher's weights (:meth:`Trained.copy`), and train the teacher with
    the time scale of these rows, 10. In the paper each sample has both losses; here half of the rows have each. The law
    of the times is nearly that of its code, where ``tan(pi (1 - t) / 2)`` has a normal logarithm.

    Args:
        teacher: a trained flow model, such as one of the recipe ``flow``.

    Returns:
        A recipe.

    Raises:
        TypeError: if ``teacher`` is no network.

    Example:
        >>> from ismkit import ToyMLP
        >>> from ismkit.neighbours import facm
        >>> facm(ToyMLP(width=16, depth=1, num_classes=3)).rows.to_data
        1.0
    """
    check_network("teacher", teacher)
    return Recipe(
        "facm",
        Intervals(consistency=1 / 2, drop_consistency=True, logit=(1.0, 2.0), to_data=1.0),
        Anchored(teacher),
        weights=(1.0, 0.0, 1.0),
        coupling=Coupling(pool=0),
        distance=anchored_distance,
        fast=0.0,
    )


@dataclass(frozen=True)
class DualEnds:
    """Targets of dual-end consistency: a derivative in the start for steps to the data, in the end for others.

    With the teacher's velocity v, the steps to the data have the limit of a cut, ``v(x, t) + d D``, as in
    :class:`~ismkit.neighbours.leap.Leap`. Those that begin at the noise ask for the average velocity up to an end that
    moves: ``d s`` grows there by the velocity at the place that the step reaches, so the target is
    ``v(x + d s, d) - d ds/dd``.

    Attributes:
        teacher: asked for the velocity v.

    Raises:
        ValueError: if the rows of a recipe do not all touch the data or the noise.

    Example:
        The average velocity of ``dx/dt = x`` is what both kinds ask for:

        >>> import torch
        >>> from ismkit.method import Context, Intervals, Query
        >>> from ismkit.neighbours import DualEnds
        >>> def net(x, t, d, w, y):
        ...     return x * torch.where(d > 0, torch.expm1(d) / d.clamp(min=1e-9), 1.0)[:, None]
        >>> x, w = torch.ones(2, 1), torch.zeros(2)
        >>> query = Query(x, torch.tensor([0.5, 0.0]), torch.tensor([0.5, 0.3]), w, w.long())
        >>> rows = Intervals(consistency=1.0, to_data=0.5, from_noise=0.5)
        >>> target = DualEnds(net)(query, x, rows, Context(net, net, null=1)).target
        >>> torch.allclose(target, net(*query))
        True

        >>> from ismkit.neighbours import dual_end
        >>> recipe = dual_end(net)
        >>> recipe.target.check(recipe)
    """

    teacher: Network

    def check(self, recipe: Recipe) -> None:
        """Refuse rows that do not all end at the data or begin at the noise.

        Raises:
            ValueError: if the recipe's rows are others.
        """
        rows = recipe.rows
        if not isinstance(rows, Intervals) or rows.to_data + rows.from_noise != 1:
            raise ValueError(f"rows must be Intervals with to_data + from_noise = 1, got {rows}")

    def __call__(self, query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Answer:
        """Targets, (B, ...); see :class:`~ismkit.method.recipes.TargetRule`."""
        block = rows.blocks(len(velocity)).consistency
        to_data = rows.to_data if isinstance(rows, Intervals) else 1.0
        middle = block.start + round(to_data * (block.stop - block.start))  # in the order of the rows
        target = velocity.clone()
        for start, stop, kind in (
            (0, block.start, self._velocity),
            (block.start, middle, self._to_data),
            (middle, block.stop, self._from_noise),
        ):
            if stop > start:
                target[start:stop] = kind(query.take(slice(start, stop)), context.fast).to(target.dtype)
        return Answer(target)

    def _velocity(self, asked: Query, net: Network) -> Tensor:
        del net
        return self.teacher(*asked._replace(d=torch.zeros_like(asked.d)))

    def _to_data(self, asked: Query, net: Network) -> Tensor:
        x, t, d, w, y = asked
        velocity = self._velocity(asked, net)
        return velocity + expand_as(d, x) * derivative(lambda x, t, d: net(x, t, d, w, y), (x, t, d), velocity)

    def _from_noise(self, asked: Query, net: Network) -> Tensor:
        x, t, d, w, y = asked
        reached = x + expand_as(d, x) * net(*asked)
        velocity = self._velocity(Query(reached, t + d, d, w, y), net)
        slope = derivative(lambda _x, _t, d: net(x, t, d, w, y), (x, t, d), torch.zeros_like(x))  # along -d alone
        return velocity + expand_as(d, x) * slope


def dual_end(teacher: Network) -> Recipe:
    """Make dual-end consistency of a flow model (arXiv 2602.10764): steps to the data, and steps from the noise.

    A third of the rows each: the teacher's velocity at ``d = 0``, steps that end at the data, steps that begin at the
    noise. What is printed leaves the third loss open; :class:`DualEnds` has the one taken here. Let the network begin
    with the teacher's weights (:meth:`Trained.copy`), and train the teacher with the time scale of these rows, 10. Two
    calls that were both trained are ``sample(..., times=(0, 0.5, 1))``.

    Args:
        teacher: a trained flow model.

    Returns:
        A recipe.

    Raises:
        TypeError: if ``teacher`` is no network.

    Example:
        >>> from ismkit import ToyMLP
        >>> from ismkit.neighbours import dual_end
        >>> rows = dual_end(ToyMLP(width=16, depth=1, num_classes=3)).rows
        >>> rows.to_data, rows.from_noise
        (0.5, 0.5)
    """
    check_network("teacher", teacher)
    return Recipe(
        "dual_end",
        Intervals(consistency=2 / 3, drop_consistency=True, to_data=0.5, from_noise=0.5),
        DualEnds(teacher),
        weights=(1 / 3, 0.0, 2 / 3),
        coupling=Coupling(pool=0),
        distance=Normalised(l2, 1.0),
        fast=0.0,
    )


@dataclass(frozen=True)
class _Taught:
    """The teacher's velocity instead of the sample's, in all rows: a :class:`~ismkit.neighbours.leap.Guide`."""

    teacher: Network

    def __call__(self, query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Tensor:
        return self.teacher(*query._replace(d=torch.zeros_like(query.d))).to(velocity.dtype)
