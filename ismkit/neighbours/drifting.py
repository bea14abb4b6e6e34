"""Drifting (arXiv 2602.04770): samples of one step move to the data and away from each other, until the two balance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ismkit.method.coupling import Coupling
from ismkit.method.path import Query
from ismkit.method.recipes import Answer, Context, Recipe
from ismkit.method.rows import Blocked
from ismkit.method.wavelet import dwt, idwt
from ismkit.neighbours.rows import OneStep
from ismkit.utils.checks import check_count, check_number, check_tensor
from ismkit.utils.settings import check_types

FLOOR = 1e-3  #: of the affinity of two samples of a label, as in the authors' code


def drift(
    x: Tensor,
    attracting: Tensor,
    repelling: Tensor,
    radius: float | Tensor,
    fits: tuple[Tensor, Tensor] | None = None,
    floor: float = 0.0,
) -> Tensor:
    """Compute the drift of samples: the mean shift to some points minus that to others (arXiv 2602.04770).

    The affinity of a sample and a point is ``exp(-distance / radius)``, normalised over the points of both kinds and
    over the samples: the geometric mean of both. With ``p_ij`` those of the attracting points and ``q_ij`` those of the
    repelling ones::

        V_i = sum_jk p_ij q_ik (attracting_j - repelling_k)

    It changes its sign where the two sets change places, so it is 0 where they are equal.

    Args:
        x: samples, (N, F).
        attracting: points, (P, F), such as data.
        repelling: points, (Q, F), such as other samples.
        radius: of the kernel, in the unit of the samples; a tensor, such as a mean distance, is not read.
        fits: which pairs there are, (N, P) and (N, Q) of truth values; None for all. A sample without pairs of both
            kinds stays where it is.
        floor: no pair has less affinity (authors' code: 0.001, by which samples far from all points are still drawn).

    Returns:
        The drift, (N, F), in the type of ``x``.

    Raises:
        TypeError: if samples or points hold no floating point numbers.
        ValueError: if they are not (N, F) with as many numbers, the radius is not positive, or the floor negative.

    Example:
        A sample between two points of data, and another sample on one of them. The data draws it to both sides alike,
        the other sample drives it away:

        >>> import torch
        >>> from ismkit.neighbours import drift
        >>> x, data, other = torch.tensor([[0.0]]), torch.tensor([[-1.0], [1.0]]), torch.tensor([[1.0]])
        >>> drift(x, data, other, radius=1.0) < 0, drift(x, data, data, radius=1.0)
        (tensor([[True]]), tensor([[0.]]))
    """
    check_tensor("x", x)
    for name, points in (("attracting", attracting), ("repelling", repelling)):
        check_tensor(name, points, ("x", x))
        if x.ndim != 2 or points.ndim != 2 or points.shape[1] != x.shape[1]:
            shapes = f"{tuple(x.shape)} and {tuple(points.shape)}"
            raise ValueError(f"x and {name} must be (N, F) with one number of features, got {shapes}")
    if not isinstance(radius, Tensor):
        check_number("radius", radius, "above 0", 1e-300)
    else:
        check_tensor("radius", radius, ("x", x))
        if radius.ndim:
            raise ValueError(f"radius must be one number, got a tensor {tuple(radius.shape)}")
    check_number("floor", floor, "of at least 0", 0)
    points = torch.cat([attracting, repelling]).double()
    affinity = -torch.cdist(x.double(), points) / radius  # (N, P + Q), logarithmic
    if fits is not None:
        pairs = torch.cat(fits, 1)
        affinity = affinity.masked_fill(~pairs, -1e30)  # finite: a column without any pair would be NaN
    affinity = ((affinity.log_softmax(0) + affinity.log_softmax(1)) / 2).exp().clamp(min=floor)
    if fits is not None:
        affinity = affinity * pairs
    to, of = affinity.split([len(attracting), len(repelling)], 1)
    pull, push = to @ attracting.double(), of @ repelling.double()
    return (pull * of.sum(1, keepdim=True) - push * to.sum(1, keepdim=True)).to(x.dtype)


class _Moving(ABC):
    """What the rules of drifting share: each single step from noise is to end where its sample moves to."""

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that this rule is not valid in.

        Raises:
            ValueError: if rows are not single steps from noise to data, or targets not made by the online network.
        """
        if not isinstance(recipe.rows, OneStep):
            raise ValueError(f"rows must be OneStep for drifting, got {type(recipe.rows).__name__}")
        if recipe.fast:
            raise ValueError(f"fast must be 0 for drifting, whose targets are the online network's, got {recipe.fast}")

    def __call__(self, query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Answer:
        """Targets (B, ...) made by the fast average; see :class:`ismkit.method.recipes.TargetRule`."""
        answer = context.fast(*query).to(velocity.dtype)
        same = query.y[:, None] == query.y
        return Answer(answer + self._move(query.x + answer, query.x + velocity, same))

    @abstractmethod
    def _move(self, samples: Tensor, data: Tensor, same: Tensor) -> Tensor:
        """By how much each of the samples (B, ...) is to move; ``same`` says which rows have one label, (B, B)."""


@dataclass(frozen=True)
class Drift(_Moving):
    """Targets one drift away from what the network answers: ``sg(s + V)`` in rows of one step (arXiv 2602.04770).

    The samples ``x0 + s`` of a label are drawn to the data of the batch with that label, and away from the other
    samples with it, see :func:`drift`. Rows with the null label are a label of their own, and their data a sample of
    all. Of several radii the drifts are added up.

    ``s`` is asked once more, without gradient, of the fast average, which a recipe's ``fast=0`` makes the online
    network: a rule gets the averages alone.

    The paper compares images in the features of an encoder trained for it. Here points and latents are compared as they
    are, or in their wavelet bands: the transform is orthonormal, so a drift in the bands is one of the samples, and
    the mean square in the features is that in the samples (Parseval). Only for such features is a target enough, and
    they need no other network. Every band drifts by itself, at the radii of its own distances, as features of several
    scales do in the paper. Latents need it: for 16 numbers, two patterns and 16 rows of each, the squared error of the
    samples' means fell from 2.5 to 0.012 in 300 steps in bands, and to 0.68 without.

    Attributes:
        radii: of the kernels, in the mean distance of the samples to both each other and the data (authors' code: 0.02,
            0.05, 0.2).
        normalised: scale the drift of each radius to a root mean square of 1; the authors' code does so in a unit in
            which the mean distance is the root of how many numbers a sample has. Else it is shorter the nearer samples
            and data are.
        levels: of the wavelet transform in whose bands samples are compared; 0 compares them as they are.

    Raises:
        ValueError: for radii that are not positive, or none, or levels below 0.

    Example:
        The network answers 0, so samples are the noise. Each is drawn to the data:

        >>> import torch
        >>> from ismkit.method import Context
        >>> from ismkit.neighbours import Drift, OneStep
        >>> def net(x, t, d, w, y):
        ...     return torch.zeros_like(x)
        >>> x0, x1, y = torch.tensor([[-0.1], [0.1]]), torch.tensor([[4.0], [6.0]]), torch.tensor([0, 0])
        >>> rows = OneStep()
        >>> query, velocity = rows(x0, x1, y, null=1, generator=None)
        >>> Drift(radii=(1.0,), normalised=False)(query, velocity, rows, Context(net, net, null=1)).target.flatten() > 0
        tensor([True, True])

        It stands in recipes of one step alone:

        >>> from ismkit.neighbours import NEIGHBOURS
        >>> Drift().check(NEIGHBOURS["drifting"])
    """

    radii: tuple[float, ...] = (0.02, 0.05, 0.2)
    normalised: bool = True
    levels: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        if not self.radii:
            raise ValueError(f"radii must be one or more, got {self.radii}")
        for radius in self.radii:
            check_number("each of the radii", radius, "above 0", 1e-300)
        check_count("levels", self.levels, 0)

    def _move(self, samples: Tensor, data: Tensor, same: Tensor) -> Tensor:
        others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
        if self.levels:
            bands = zip(dwt(samples, self.levels), dwt(data, self.levels), strict=True)
            return idwt([self._drift(*band, (same, others)) for band in bands])
        return self._drift(samples, data, (same, others))

    def _drift(self, samples: Tensor, data: Tensor, fits: tuple[Tensor, Tensor]) -> Tensor:
        """The drift of all radii, shaped like the samples."""
        x, points = samples.flatten(1), data.flatten(1)
        same = fits[0]
        near = sum(torch.cdist(x.double(), others.double()) for others in (x, points))  # a sample's own 0 counts too
        unit = (near * same).sum() / (2 * same.sum())  # the mean distance
        total = torch.zeros_like(x)
        for radius in self.radii:
            moved = drift(x, points, x, radius * unit.clamp(min=1e-30), fits, FLOOR)
            length = moved.square().mean().sqrt().clamp(min=1e-30) if self.normalised else 1.0
            total = total + moved / length
        return total.view_as(samples)


@dataclass(frozen=True)
class SinkhornDrift(_Moving):
    """Targets one step down the Sinkhorn divergence from what the network answers, after W-Flow (arXiv 2605.11755).

    As :class:`Drift`, but samples move by plans of entropic optimal transport: to the mean of the data that a sample's
    mass goes to, less that of the samples that it would go to among themselves. That is minus the gradient of the
    divergence, and 0 where the samples of each label are its data. The rows of a label are a problem of their own.

    W-Flow takes the second plan to another batch of samples. Eight Gaussians, batches of 256, 800 steps, three seeds:
    the distance of one step is 0.052 to 0.054 as it is here, 0.061 to 0.064 without the sample itself, and 0.075 to
    0.081 with a plan between the halves of a batch.

    Attributes:
        epsilon: of the entropy, in the mean squared distance of all pairs of a label; this kit's choice.
        iterations: of Sinkhorn's algorithm: how often columns and rows are normalised in turn. The smaller epsilon, the
            more it takes until both are.

    Raises:
        ValueError: if epsilon is not positive, or there is no iteration.

    Example:
        With much entropy all samples move by the difference of the means, here 10:

        >>> import torch
        >>> from ismkit.method import Context
        >>> from ismkit.neighbours import OneStep, SinkhornDrift
        >>> def net(x, t, d, w, y):
        ...     return torch.zeros_like(x)
        >>> x0, x1, y = torch.tensor([[0.0], [5.0]]), torch.tensor([[15.0], [10.0]]), torch.tensor([0, 0])
        >>> query, velocity = OneStep()(x0, x1, y, null=1, generator=None)
        >>> SinkhornDrift(1e6)(query, velocity, OneStep(), Context(net, net, null=1)).target.flatten().round()
        tensor([10., 10.])
        >>> from ismkit.neighbours import NEIGHBOURS
        >>> SinkhornDrift().check(NEIGHBOURS["drifting"])
    """

    epsilon: float = 0.05
    iterations: int = 30

    def __post_init__(self) -> None:
        check_types(self)
        check_number("epsilon", self.epsilon, "above 0", 1e-300)
        check_count("iterations", self.iterations)

    def _move(self, samples: Tensor, data: Tensor, same: Tensor) -> Tensor:
        x = samples.flatten(1).double()
        moved = self._mean(x, data.flatten(1).double(), same) - self._mean(x, x, same)
        return moved.to(samples.dtype).view_as(samples)

    def _mean(self, x: Tensor, points: Tensor, same: Tensor) -> Tensor:
        """The mean point that the mass of each sample goes to, (N, F)."""
        cost = torch.cdist(x, points).square()
        unit = (cost * same).sum() / same.sum()
        plan = (-cost / (self.epsilon * unit.clamp(min=1e-30))).masked_fill(~same, -1e30)  # logarithmic
        for _ in range(self.iterations):
            plan = plan.log_softmax(0).log_softmax(1)
        return plan.exp() @ points


# The radii are those of the authors' code. Eight Gaussians, batches of 256, 800 steps, three seeds: the distance of one
# step is 0.074 to 0.082, with (0.1, 0.3, 1.0) 0.087 to 0.094, with SinkhornDrift 0.052 to 0.054, and that of `ism` with
# independent noise 0.070 to 0.121.
DRIFTING = Recipe(
    "drifting",
    OneStep(drop_consistency=True),
    Drift(),
    weights=(0.0, 0.0, 1.0),
    coupling=Coupling(pool=0),  # noise is drawn for each sample
    fast=0.0,  # targets by the online weights
)
