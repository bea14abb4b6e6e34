"""Terms of the loss for one-step generators that are trained already: a distance of features, and rewards.

A term acts on the rows that ask for one step from the noise to the data, ``t = 0`` and ``d = 1``, whose answer is a
sample ``x + s``: those of :class:`~ismkit.neighbours.rows.OneStep`, or some among others. Rows of another kind count
nothing; which they are is not read, so that no step waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ismkit.method.coupling import Coupling
from ismkit.method.path import Network, Query, check_network, expand_as
from ismkit.method.recipes import Answer, Context, Recipe
from ismkit.method.rows import Blocked
from ismkit.neighbours.rows import OneStep
from ismkit.utils.checks import check_finite, check_number, shown
from ismkit.utils.keys import UNKEYED
from ismkit.utils.settings import check_types

Map = Callable[[Tensor], Tensor]  # of samples or latents, differentiable


def one_step_samples(prediction: Tensor, query: Query) -> tuple[Tensor, Tensor]:
    """Compute the samples that the rows of one step lead to, and which rows these are.

    Args:
        prediction: the network's answers, (B, ...).
        query: what the rows were asked.

    Returns:
        ``x + d s`` of all rows, (B, ...), with gradient; and 1 for rows with ``t = 0`` and ``d = 1``, else 0, (B,).

    Example:
        >>> import torch
        >>> from ismkit.method import Query
        >>> from ismkit.neighbours import one_step_samples
        >>> t, d = torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.5])
        >>> query = Query(torch.zeros(2, 1), t, d, torch.zeros(2), torch.zeros(2).long())
        >>> [part.flatten().tolist() for part in one_step_samples(torch.ones(2, 1), query)]
        [[1.0, 0.5], [1.0, 0.0]]
    """
    counts = ((query.t == 0) & (query.d == 1)).to(query.t.dtype)
    return query.x + expand_as(query.d, query.x) * prediction, counts


def _check_map(name: str, given: Any) -> None:
    if given is not None and (not callable(given) or isinstance(given, type)):
        raise ValueError(f"{name} must be a function of samples, or None, got {shown(given)}")


# ---------------------------------------------------------------- the Frechet distance as a loss


@dataclass(frozen=True, eq=False)
class FrechetTerm:
    """The Frechet distance itself as a loss: between features of one-step samples and moments of the data (FD-loss).

    ``|m - mu|^2 + tr(S + C - 2 (C^1/2 S C^1/2)^1/2)`` for mean ``m`` and covariance ``S`` of the batch's features, in
    float64, with gradient. Source: arXiv 2604.28190.

    The moments are those of the batch alone. The paper's are those of a queue or a moving average over some 50 000
    samples, through the latest of which the gradient goes; such a state would have to live where checkpoints keep it.
    So the value here is biased, by ``(F + F (F + 1) / 4) / n`` of n samples of F white features that are right: 0.014
    for two numbers and 256 samples, 4.3 for 64 features, which is more than a good generator's distance. Its minimum
    has less spread than the data, by a share of about ``(F + 9) / (8 n)``: 3.6 % for those 64. Take many more samples
    than features, and judge by other ones.

    Eigenvalues of the product below float64's rounding count as 0, and have no gradient. On a GPU their solver reports
    whether it has converged, for which the CPU waits, once in a step. Under several processes each has the distance of
    its own samples.

    Attributes:
        mean: of the data's features, (F,).
        cov: their covariance, (F, F), symmetric and positive semidefinite.
        features: maps samples (B, ...) to features (B, F), differentiable; None takes the samples' own numbers.
        weight: of the term, positive.

    Raises:
        TypeError: if mean or covariance hold no floating point numbers.
        ValueError: if they are not finite, (F,) and (F, F), if the covariance is not symmetric or has negative
            eigenvalues, or features no function, or the weight not positive; by the call, for other features.

    Example:
        Samples with the moments of the data have no distance; shifted by 3 they have the square:

        >>> import torch
        >>> from ismkit.method import Query
        >>> from ismkit.neighbours import FrechetTerm
        >>> x0 = torch.tensor([[-1.0], [0.0], [1.0]])
        >>> term = FrechetTerm(mean=torch.zeros(1), cov=torch.eye(1))
        >>> zero = torch.zeros(3)
        >>> query = Query(x0, zero, torch.ones(3), zero, zero.long())
        >>> [round(term(None, torch.full((3, 1), s), query, x0, None).item(), 6) for s in (0.0, 3.0)]
        [0.0, 9.0]
    """

    asks: ClassVar[bool] = False  # a map of samples is no network
    mean: Tensor
    cov: Tensor
    features: Map | None = None
    weight: float = 1.0
    _there: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, metadata=UNKEYED
    )

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("mean", "cov"):
            check_finite(name, getattr(self, name))
        mean, cov = self.mean.detach().double().cpu(), self.cov.detach().double().cpu()
        if mean.ndim != 1 or not len(mean) or cov.shape != 2 * mean.shape:
            raise ValueError(f"mean and cov must be (F,) and (F, F), got {tuple(mean.shape)} and {tuple(cov.shape)}")
        largest = cov.abs().max()
        if (cov - cov.T).abs().max() > 1e-4 * largest:
            raise ValueError("cov must be symmetric, got a matrix that is not")
        values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
        if values[0] < -1e-4 * largest:
            raise ValueError(f"cov must have no negative eigenvalue, got {values[0].item():.3g}")
        _check_map("features", self.features)
        check_number("weight", self.weight, "above 0", 1e-300)
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        self._there[torch.device("cpu")] = mean, root, cov.trace()

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, square root and trace of the covariance on a device, where they are copied once."""
        if device not in self._there:
            self._there[device] = tuple(part.to(device) for part in self._there[torch.device("cpu")])  # type: ignore[assignment]
        return self._there[device]

    def __call__(self, net: nn.Module, prediction: Tensor, query: Query, velocity: Tensor, context: Context) -> Tensor:
        """The distance, a scalar; see :class:`ismkit.method.recipes.Term`."""
        samples, counts = one_step_samples(prediction, query)
        features = samples.flatten(1) if self.features is None else self.features(samples)
        mean, root, trace = self._on(samples.device)
        if features.shape != (len(samples), len(mean)):
            expected = f"({len(samples)}, {len(mean)})"
            raise ValueError(f"features must be {expected}, as the moments are, got {tuple(features.shape)}")
        with torch.autocast(samples.device.type, enabled=False):
            features, counts = features.double(), counts.double()
            n = counts.sum()
            own = (counts[:, None] * features).sum(0) / n.clamp(min=1)
            centred = (features - own) * counts[:, None]
            cov = centred.T @ centred / (n - 1).clamp(min=1)
            values = torch.linalg.eigvalsh(root @ cov @ root)
            smallest = values.detach().abs().max() * len(mean) * torch.finfo(values.dtype).eps
            overlap = torch.where(values > smallest, values.clamp(min=1e-300).sqrt(), 0.0).sum()
            distance = (own - mean).square().sum() + cov.trace() + trace - 2 * overlap
            return (self.weight * torch.where(n > 0, distance, 0.0)).to(prediction.dtype)


# ---------------------------------------------------------------- rewards


@dataclass(frozen=True)
class ClassReward:
    """The log-probability that a classifier gives to a class: nats, at most 0.

    Attributes:
        classifier: maps pictures (B, ...) to logits (B, K), differentiable and in eval mode.
        label: of the class; None for each row's own label, and no reward where that is null.
        decode: maps samples to pictures, such as the decoder of an autoencoder; None if they are pictures or points.

    Raises:
        ValueError: if the classifier or the decoder is not a function, or the label none; when it is called, if the
            classifier has no such class.

    Example:
        >>> import torch
        >>> from ismkit.neighbours import ClassReward
        >>> def sides(x):  # the logits of "left" and "right" for points on a line
        ...     return torch.cat([-x, x], 1)
        >>> ClassReward(sides, label=1)(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 0]))
        tensor([-0.6931, -0.1269])
    """

    classifier: Map
    label: int | None = None
    decode: Map | None = None

    def __post_init__(self) -> None:
        check_types(self)
        _check_map("decode", self.decode)
        if self.classifier is None:
            raise ValueError("classifier must be a function of pictures, got None")
        _check_map("classifier", self.classifier)
        if self.label is not None and self.label < 0:
            raise ValueError(f"label must be at least 0, or None, got {self.label}")

    def __call__(self, samples: Tensor, labels: Tensor) -> Tensor:
        """Rewards (B,) of samples (B, ...) with labels (B,)."""
        logits = self.classifier(samples if self.decode is None else self.decode(samples)).float()
        if self.label is not None and self.label >= logits.shape[1]:
            raise ValueError(f"label must be one of the classifier's {logits.shape[1]} classes, got {self.label}")
        labels = labels if self.label is None else torch.full_like(labels, self.label)
        known = labels < logits.shape[1]
        return -F.cross_entropy(logits, torch.where(known, labels, 0), reduction="none") * known


@dataclass(frozen=True)
class Brightness:
    """The mean of a picture, in its own unit: from -1, black, to 1, white.

    Attributes:
        decode: maps samples to pictures; None if they are pictures or points.

    Raises:
        ValueError: if the decoder is not a function.

    Example:
        >>> import torch
        >>> from ismkit.neighbours import Brightness
        >>> Brightness()(torch.tensor([[-1.0, 1.0], [1.0, 1.0]]), None)
        tensor([0., 1.])
    """

    decode: Map | None = None

    def __post_init__(self) -> None:
        _check_map("decode", self.decode)

    def __call__(self, samples: Tensor, labels: Tensor) -> Tensor:
        """Rewards (B,) of samples (B, ...)."""
        return (samples if self.decode is None else self.decode(samples)).flatten(1).mean(1)


@dataclass(frozen=True)
class Ink:
    """The share of a picture that is inked, in [0, 1]: of the pixels above a level, by a soft step.

    In Fashion-MNIST the background is black, -1, and ink is light. For dark ink on white, take a negative ``softness``.

    Attributes:
        level: from which on a pixel counts, in [-1, 1].
        softness: width of the step, in the unit of the pixels; negative counts those below the level.
        decode: maps samples to pictures; None if they are pictures.

    Raises:
        ValueError: if the level is not in [-1, 1], the softness 0 or not finite, or the decoder no function.

    Example:
        >>> import torch
        >>> from ismkit.neighbours import Ink
        >>> picture = torch.tensor([[-1.0, -1.0, -1.0, 1.0]])
        >>> [round(Ink(softness=width)(picture, None).item(), 3) for width in (0.1, -0.1)]
        [0.25, 0.75]
    """

    level: float = 0.0
    softness: float = 0.1
    decode: Map | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_number("level", self.level, "in [-1, 1]", -1, 1)
        check_number("softness", self.softness, "that is finite and not 0", -1e300)
        if not self.softness:
            raise ValueError(f"softness must not be 0, got {self.softness}")
        _check_map("decode", self.decode)

    def __call__(self, samples: Tensor, labels: Tensor) -> Tensor:
        """Rewards (B,) of samples (B, ...)."""
        pictures = samples if self.decode is None else self.decode(samples)
        return torch.sigmoid((pictures - self.level) / self.softness).flatten(1).mean(1)


@dataclass(frozen=True)
class RewardTerm:
    """Minus the mean reward of one-step samples, with gradient through the step, as in ROCM (arXiv 2503.06171).

    Attributes:
        reward: a differentiable function of samples (B, ...) and labels (B,) with one number a row, such as
            :class:`ClassReward`, :class:`Brightness` or :class:`Ink`.
        weight: of the term, positive.

    Raises:
        ValueError: if the reward is not a function, or the weight not positive; by the call, if it has another shape.

    Example:
        >>> import torch
        >>> from ismkit.method import Query
        >>> from ismkit.neighbours import Brightness, RewardTerm
        >>> query = Query(torch.zeros(2, 1), torch.zeros(2), torch.ones(2), torch.zeros(2), torch.tensor([0, 0]))
        >>> RewardTerm(Brightness())(None, torch.tensor([[1.0], [3.0]]), query, None, None)
        tensor(-2.)
    """

    asks: ClassVar[bool] = False  # a map of samples is no network
    reward: Callable[[Tensor, Tensor], Tensor]
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)
        if not callable(self.reward) or isinstance(self.reward, type):
            raise ValueError(f"reward must be a function of samples and labels, got {shown(self.reward)}")
        check_number("weight", self.weight, "above 0", 1e-300)

    def __call__(self, net: nn.Module, prediction: Tensor, query: Query, velocity: Tensor, context: Context) -> Tensor:
        """The term, a scalar; see :class:`ismkit.method.recipes.Term`."""
        samples, counts = one_step_samples(prediction, query)
        rewards = self.reward(samples, query.y)
        if rewards.shape != counts.shape:
            raise ValueError(f"reward must give one number per row, {tuple(counts.shape)}, got {tuple(rewards.shape)}")
        return -self.weight * (counts * rewards).sum() / counts.sum().clamp(min=1)


@dataclass(frozen=True)
class Imitation:
    """Targets that are another network's answers: a penalty on leaving it, or distillation.

    Attributes:
        network: asked as the rows are; in eval mode, and on their device.

    Raises:
        TypeError: if it is no network.

    Example:
        >>> import torch
        >>> from ismkit.method import Query
        >>> from ismkit.neighbours import OneStep, Imitation
        >>> query = Query(torch.ones(2, 1), torch.zeros(2), torch.ones(2), torch.zeros(2), torch.tensor([0, 0]))
        >>> Imitation(lambda x, t, d, w, y: 3 * x)(query, query.x, OneStep(), None).target.flatten()
        tensor([3., 3.])
    """

    network: Network

    def __post_init__(self) -> None:
        check_network("network", self.network)

    def __call__(self, query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Answer:
        """Targets (B, ...) made by the network; see :class:`ismkit.method.recipes.TargetRule`."""
        return Answer(self.network(*query).to(velocity.dtype))


def reward_tuning(reference: Network, reward: Callable[[Tensor, Tensor], Tensor], beta: float) -> Recipe:
    """Make the recipe that tunes a one-step generator for a reward, near the network it starts from.

    The loss is ``beta mean|s - s_ref|^2 - mean R(x0 + s)``, the squares averaged over the numbers of a sample. ROCM
    (arXiv 2503.06171) maximises the reward through the steps less beta times a divergence of the transitions of both
    networks, Gaussians: for one step and Kullback and Leibler's divergence that is this square. Its betas are not
    known. Train a copy of the reference, at its labels and without guidance.

    Args:
        reference: the frozen network s_ref, in eval mode, on the device of the training.
        reward: R, a differentiable function of samples (B, ...) and labels (B,).
        beta: price of leaving the reference, positive.

    Returns:
        The recipe, named ``reward_tuning``.

    Raises:
        TypeError: if the reference is not a function.
        ValueError: if the reward is not one, or beta not positive.

    Example:
        For samples of one number and a reward that is linear the best answer is ``s_ref + R' / (2 beta)``, and there
        the loss has no gradient:

        >>> import torch
        >>> from ismkit import TwinEMA, training_step
        >>> from ismkit.neighbours import Brightness, reward_tuning
        >>> class Constant(torch.nn.Linear):  # the answer is its bias
        ...     def forward(self, x, t, d, w, y):
        ...         return torch.zeros_like(x) + self.bias
        >>> net = Constant(1, 1)
        >>> _ = torch.nn.init.constant_(net.bias, 0.25)
        >>> recipe = reward_tuning(lambda x, t, d, w, y: torch.zeros_like(x), Brightness(), beta=2.0)
        >>> pair = torch.zeros(4, 1), torch.zeros(4, 1), torch.zeros(4).long()
        >>> loss, _, _ = training_step(recipe, net, TwinEMA(net), pair, null=1, rng=None)
        >>> loss.backward()
        >>> loss.item(), net.bias.grad.item()
        (-0.125, 0.0)
    """
    check_number("beta", beta, "above 0", 1e-300)
    return Recipe(
        "reward_tuning",
        OneStep(),
        Imitation(reference),
        weights=(0.0, 0.0, beta),
        coupling=Coupling(pool=0),
        fast=0.0,
        terms=(RewardTerm(reward),),
    )
