"""What scores a model: samples per NFE and guidance strength, a table of metrics, and the features they compare.

:class:`FeatureNet`, a small classifier, makes the features in which pictures of clothes and emoji are compared.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ismkit.data.batches import Batches
from ismkit.data.colour import emoji, emoji_changes
from ismkit.data.doors import admit
from ismkit.data.fashion import fashion_mnist
from ismkit.data.pictures import Change, Shift, balanced
from ismkit.data.sets import Labelled
from ismkit.data.values import warn_of_missing
from ismkit.evaluation.metrics import (
    Moments,
    class_agreement,
    curvature,
    frechet,
    power_error,
    precision_recall,
    radial_spectrum,
    wasserstein2,
)
from ismkit.method.path import Network, Source, check_source, draw_noise
from ismkit.method.sampling import check_nfe, renoise_options, renoises, sample, trajectory
from ismkit.models.autoencoder import SmallAutoencoder, in_batches
from ismkit.models.drawing import draw_pictures, draw_samples
from ismkit.models.spaces import SPACES
from ismkit.utils.checks import as_integer, as_number, check_count, check_finite, check_kind, check_tensor, shown
from ismkit.utils.files import WEIGHT_SUMS, replacing, weights_file
from ismkit.utils.progress import progress_bar
from ismkit.utils.seeding import stream
from ismkit.utils.settings import import_named
from ismkit.utils.weights import load_weights

FEATURES_SHA256 = WEIGHT_SUMS["fashion_features"]


class FeatureNet(nn.Module):
    """Convolutional classifier of small square images in [-1, 1], with 64 features; by default of clothes.

    A feature is an *input* of the last rectifier, not its output, and is normalised: over the training images
    it has mean 0 and variance 1, its distribution has no spike at 0 and no feature is dead. That suits the
    Fréchet distance, which knows of each set of features only a mean and a covariance.

    Args:
        shape: of an image, (C, H, H).
        num_classes: that it tells apart.
    """

    num_features = 64

    def __init__(self, shape: tuple[int, int, int] = (1, 28, 28), num_classes: int = 10) -> None:
        super().__init__()
        self.shape, self.num_classes = shape, num_classes
        side = (shape[1] + 1) // 2 // 4  # after a stride and two pools
        self.trunk = nn.Sequential(  # of clothes: (B, 1, 28, 28)
            *_convolution(shape[0], 32, kernel=5, stride=2),  # (B, 32, 14, 14)
            *_convolution(32, 48),
            nn.MaxPool2d(2),  # (B, 48, 7, 7)
            *_convolution(48, 96),
            *_convolution(96, 96),
            nn.MaxPool2d(2),  # (B, 96, 3, 3)
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(96 * side * side, self.num_features, bias=False),
            nn.BatchNorm1d(self.num_features, affine=False),
        )
        self.head = nn.Linear(self.num_features, num_classes)
        self.to(memory_format=torch.channels_last)  # 1.7 times as fast on a CPU

    def features(self, x: Tensor) -> Tensor:
        """Features (B, 64) of images ``x`` (B, C, H, H) in [-1, 1]."""
        if x.ndim != 4 or x.shape[1:] != self.shape:
            raise ValueError(f"x must be (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        return self.trunk(x)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, classes) from features (B, 64)."""
        return self.head(features.relu())

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images ``x`` (B, C, H, H) in [-1, 1]."""
        return self.classify(self.features(x))


def load_features(path: Path | None = None) -> FeatureNet:
    """The released classifier, checked against its SHA-256 sum, or the one in ``path``; in eval mode.

    Raises :class:`ismkit.utils.weights.CheckpointError` if the file is missing, altered or does not fit.
    """
    net = FeatureNet()
    if path is None:
        load_weights(net, weights_file("fashion_features"), FEATURES_SHA256)
    else:
        load_weights(net, path)
    return net.eval()


def load_emoji_features() -> FeatureNet:
    """The released classifier of emoji by subgroup, its checksum verified; in eval mode.

    Raises :class:`ismkit.utils.weights.CheckpointError` if the file is missing, altered or does not fit.
    """
    net = FeatureNet((3, 32, 32), SPACES["emoji"].num_classes)
    load_weights(net, weights_file("emoji_features"), WEIGHT_SUMS["emoji_features"])
    return net.eval()


@torch.inference_mode()
def embed(net: FeatureNet, x: Tensor, batch_size: int = 250) -> tuple[Tensor, Tensor]:
    """Features (n, 64) and logits (n, classes) of ``x`` (n, C, H, H) in [-1, 1], batch by batch."""
    if net.training:
        raise ValueError("net must be in eval mode, call net.eval(): else features depend on the batch")
    features = torch.cat([net.features(part) for part in x.split(batch_size)])
    return features, net.classify(features)


def accuracy(net: FeatureNet, data: Labelled) -> float:
    """Share of ``data`` whose class ``net`` names, in [0, 1]."""
    _, logits = embed(net, data.x)
    return (logits.argmax(dim=1) == data.y).double().mean().item()


def train_features(
    data: Labelled,
    changes: Sequence[Change] = (Shift(1, fill=-1.0),),
    *,
    epochs: int = 12,
    seed: int = 0,
    batch_size: int = 256,
) -> FeatureNet:
    """Train a :class:`FeatureNet` (AdamW, one-cycle learning rate, random changes); return it in eval mode.

    ``data``: square images (n, C, H, H) in [-1, 1] with labels. ``changes`` are made to each batch. The released
    weights of clothes come from their training split and the defaults. No mirroring of clothes: all shoes point the
    same way, and a generator that turns them round must not look right to the features.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    if len(data.shape) != 3 or data.shape[1] != data.shape[2] or data.shape[1] < 8:
        raise ValueError(f"data must hold images (n, C, H, H) of at least 8 x 8 pixels, got {tuple(data.x.shape)}")
    batches = Batches(data, batch_size, seed).stream()
    with torch.random.fork_rng(devices=[]):  # initial weights and dropout draw from the global generator
        torch.manual_seed(seed)
        net = FeatureNet((data.shape[0], data.shape[1], data.shape[2]), data.num_classes).train()
        steps = epochs * len(data) // batch_size
        optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
        generator = stream(seed, "augment")
        bar = progress_bar(range(steps), desc="training the feature classifier", unit="step")
        for _, (x, y) in zip(bar, batches, strict=False):
            for change in changes:
                x = change(x, y, generator)
            loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return net.eval()


def _convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


class Score(TypedDict):
    """One row of a table of results; the protocol stands in :class:`FashionJudge`."""

    nfe: int
    w: float
    n: int
    frechet: float
    agreement: float
    precision: float
    recall: float
    spectrum_error: float
    curvature: float


class Setting(NamedTuple):
    """One setting in which a model is scored.

    Attributes:
        nfe: network evaluations per sample, 1 or more; which ones a network can make is what it was trained on, see
            :func:`ismkit.method.sampling.sample`.
        w: guidance strength, >= 0.
        n: number of samples.
        seed: of their noise.

    Example:
        >>> from ismkit import Setting
        >>> Setting(nfe=4, w=1.0, n=1000).cost  # rows through the networks: four steps, and the judge's own
        14000.0
        >>> Setting(nfe=0, w=1.0, n=1000).check()
        Traceback (most recent call last):
            ...
        ValueError: nfe must be an integer of at least 1, got 0
    """

    nfe: int
    w: float
    n: int
    seed: int = 0

    @property
    def cost(self) -> float:
        """Roughly how many rows pass through the network, those of the judge's networks included."""
        return float(self.n * (self.nfe + 10))

    def check(self, net: Network | None = None) -> None:
        """Refuse a setting that the sampler cannot do, or not with a network.

        Args:
            net: the network; without one, what no network can do is refused.

        Raises:
            ValueError: unless the number of evaluations is one, and one of those that the network was trained on; the
                strength is none below 0; and there are samples.
        """
        check_count("nfe", self.nfe)
        if net is not None:
            check_nfe(net, self.nfe)
        if not isinstance(self.w, Real) or isinstance(self.w, bool) or not 0 <= self.w < math.inf:
            raise ValueError(f"w, the guidance strength, must be finite and at least 0, got {shown(self.w)}")
        check_count("n", self.n)
        as_integer(self.seed)


class Judge(Protocol):
    """Scores a network in one setting; what is called so may also have ``check(setting)``, which refuses one.

    ``ismkit evaluate MODEL --judge my_judges:judge``, :func:`ismkit.evaluation.scoring.evaluate` and sweeps
    (:class:`ismkit.sweeps.sweep.Sweep`) take an object with this method, or a function that makes one for a device,
    ``judge(device)``. Networks of steps to the data alone are sampled with the options that
    :func:`ismkit.method.sampling.renoise_options` names.

    Example:
        The share of the points that lie on the right side:

        >>> import torch
        >>> from ismkit import Setting, evaluate, sample, stream
        >>> class Right:
        ...     def score(self, net, setting):
        ...         x0 = torch.randn(setting.n, 2, generator=stream(setting.seed, "samples"))
        ...         drawn = sample(net, x0, torch.zeros(setting.n).long(), w=setting.w, nfe=setting.nfe)
        ...         return {"right": (drawn[:, 0] > 0).float().mean().item()}
        >>> def moved(x, t, d, w, y):
        ...     return torch.ones_like(x)
        >>> 0.75 < Right().score(moved, Setting(nfe=1, w=0.0, n=400))["right"] < 0.95
        True
    """

    def score(self, net: Network, setting: Setting) -> dict[str, float]:
        """Score a network.

        Args:
            net: on the judge's device, in eval mode.
            setting: of the sampler; equal seeds should give equal noise.

        Returns:
            Numbers by the names of the metrics, the same names for every setting.
        """
        ...


#: A judge as it is given: an object, a function that makes one for a device, or the ``module:attribute`` of either.
GivenJudge = Judge | Callable[[torch.device], Judge] | str


def named_judge(judge: Any) -> Any:
    """The judge that is given or named, or the function that makes one; ValueError for what is neither."""
    found = import_named(judge, "judge") if isinstance(judge, str) else judge
    if not callable(found) and not callable(getattr(found, "score", None)):
        raise _no_judge(judge, found)
    return found


def make_judge(judge: Any, device: torch.device, settings: Iterable[Setting]) -> Judge:
    """The judge that is given or named, or that a function makes for a device.

    Args:
        judge: a :data:`GivenJudge`.
        device: where the networks live.
        settings: those wanted.

    Returns:
        The judge.

    Raises:
        ValueError: for what is no judge, or where it refuses a setting.
    """
    found = named_judge(judge)
    if callable(found) and (isinstance(found, type) or not hasattr(found, "score")):
        found = found(device)
    if not callable(getattr(found, "score", None)):
        raise _no_judge(judge, found)
    if callable(check := getattr(found, "check", None)):
        for setting in settings:
            check(setting)
    return found


def _no_judge(judge: Any, found: Any) -> ValueError:
    given = judge if isinstance(judge, str) else shown(judge)
    return ValueError(f"judge must have a method score(net, setting), or make what has, got {given}: {shown(found)}")


def as_scores(found: Any, taken: Collection[str], before: Collection[str] | None = None) -> dict[str, float]:
    """Read what your own judge has returned.

    Args:
        found: what its ``score`` returned.
        taken: names of other columns of the table.
        before: the names that it returned for another setting.

    Returns:
        Python's numbers by their names.

    Raises:
        ValueError: unless it is numbers by names, as before and not those of other columns.

    Example:
        >>> import torch
        >>> from ismkit.evaluation.judges import as_scores
        >>> as_scores({"right": torch.tensor(0.5)}, taken=["nfe", "w", "n"])
        {'right': 0.5}
        >>> as_scores({"n": 3}, taken=["nfe", "w", "n"])
        Traceback (most recent call last):
        ValueError: judge must call no number n: the table has a column of that name
    """
    if not isinstance(found, Mapping) or not found or not all(isinstance(name, str) for name in found):
        raise ValueError(f"judge must return numbers by their names, got {shown(found)}")
    scores = {name: as_number(f"what judge calls {name}", value) for name, value in found.items()}
    if before is not None and scores.keys() != {*before}:
        raise ValueError(f"judge must return the same names for every setting, got {', '.join(scores)}")
    if twice := [name for name in scores if name in taken]:
        raise ValueError(f"judge must call no number {twice[0]}: the table has a column of that name")
    return scores


CURVED = 250  # samples whose paths are kept to measure their curvature


@dataclass(frozen=True)
class PointJudge:
    """Scores a network of points: the exact 2-Wasserstein distance to the data, per class, averaged over the classes.

    Attributes:
        data: the reference, anything that :func:`ismkit.data.doors.admit` admits and that is in memory; each class is
            compared with as many of its points as there are samples, or all that it has. Classes without points are
            not scored.
        device: where the network lives.
        source: the distribution of the noise, that of the network's recipe.

    Raises:
        TypeError: for other data.
        ValueError: for data that is not finite, or no points.
        UserWarning: a warning, for classes without points.

    Example:
        The exact velocity of two classes, one Gaussian each. One Euler step draws the mean of the class, from which the
        points of the data are some 0.3 away; 128 steps draw the class:

        >>> import torch
        >>> from ismkit import PointJudge, Setting
        >>> from ismkit.lessons import ClassMixture
        >>> mixture = ClassMixture(means=((-1.0, 0.0), (1.0, 0.0)), classes=(0, 1), std=0.2)
        >>> def net(x, t, d, w, y):
        ...     return mixture.velocity(x, t, y)
        >>> judge = PointJudge(mixture.draw(2000, seed=0), torch.device("cpu"))
        >>> [round(judge.score(net, Setting(nfe, w=0.0, n=200))["w2"], 1) for nfe in (1, 128)]
        [0.3, 0.1]
        >>> judge.check(Setting(nfe=1, w=0.0, n=1))
        Traceback (most recent call last):
            ...
        ValueError: n must be at least 2 samples, one of each class, got 1
    """

    data: Labelled
    device: torch.device
    source: Source | None = None

    def __post_init__(self) -> None:
        check_source(self.source)
        if not isinstance(data := admit(self.data), Labelled):
            raise TypeError(f"data must be in memory, such as Labelled.of(x, y), got {type(self.data).__name__}")
        if data.x.ndim != 2:
            raise ValueError(
                f"data must be points (n, F) to be scored by distances between points, got {tuple(data.x.shape)}: "
                "images need features, see ismkit.FeatureJudge"
            )
        object.__setattr__(self, "data", data)
        warn_of_missing(data.missing, data.num_classes, "they are not scored")

    @property
    def _classes(self) -> list[int]:
        return [c for c in range(self.data.num_classes) if c not in self.data.missing]

    def check(self, setting: Setting) -> None:
        """Refuse a setting that cannot be scored: ValueError for fewer samples than classes."""
        if setting.n < len(self._classes):
            raise ValueError(f"n must be at least {len(self._classes)} samples, one of each class, got {setting.n}")

    def score(self, net: Network, setting: Setting) -> dict[str, float]:
        """Score samples, labels in turn; a network of steps to the data alone gets new noise after each but the last.

        Args:
            net: on ``device``.
            setting: of the sampler.

        Returns:
            ``w2`` and ``curvature``, the mean over the paths.

        Raises:
            ValueError: for fewer samples than classes.
        """
        check_kind("setting", setting, Setting)
        self.check(setting)
        classes = self._classes
        y = torch.tensor(classes)[torch.arange(setting.n) % len(classes)]
        x0 = draw_noise(self.source, (setting.n, *self.data.x.shape[1:]), stream(setting.seed, "samples"))
        x0 = x0.to(self.device)
        options = {"source": self.source, **renoise_options(net, setting.seed)}
        path = trajectory(net, x0, y.to(self.device), w=setting.w, nfe=setting.nfe, **options)
        drawn = path[-1].cpu()
        distances = [wasserstein2(drawn[y == c], self.data.x[self.data.y == c][: int((y == c).sum())]) for c in classes]
        return {"w2": sum(distances) / len(distances), "curvature": _mean_curvature(path)}


@dataclass(frozen=True)
class FeatureJudge:
    """Scores a network of samples of any shape by features of your own, such as those of a classifier of your images.

    Protocol: n samples, their labels the classes that have data in turn; Frechet distance, precision and recall (k = 3)
    between their features and those of all the data, of which precision and recall take as many rows as there are
    samples. The Frechet distance shrinks as n grows: compare equal n only, several times as large as the number of
    features.

    Attributes:
        data: the reference, as the network draws it: anything that :func:`ismkit.data.doors.admit` admits and that is
            in memory.
        features: from samples (B, ...) on ``device`` to features (B, F); of latents, it decodes them first.
        device: where the network lives.
        batch: samples at one time.
        source: the distribution of the noise, that of the network's recipe.

    Raises:
        TypeError: for other data, or a source that is none.
        ValueError: for data that is not finite, fewer than four rows, or features that are no function.
        UserWarning: a warning, for classes without rows.

    Example:
        Pictures of 4 x 4 dots, all of one grey, by their mean and their spread. The network that draws what it has been
        told is as far as two halves of the data are; one that draws noise is not:

        >>> import torch
        >>> from ismkit import FeatureJudge, Setting
        >>> def features(images):
        ...     return torch.stack([images.mean((1, 2, 3)), images.std((1, 2, 3))], 1)
        >>> greys = torch.rand(400, 1, 1, 1, generator=torch.Generator().manual_seed(0))
        >>> judge = FeatureJudge(greys.expand(-1, 1, 4, 4).contiguous(), features, torch.device("cpu"))
        >>> def flat(x, t, d, w, y):
        ...     return (x.mean((1, 2, 3), keepdim=True) * 4 * 0.29 + 0.5) - x
        >>> def noise(x, t, d, w, y):
        ...     return torch.zeros_like(x)
        >>> scores = [judge.score(net, Setting(nfe=1, w=0.0, n=200)) for net in (flat, noise)]
        >>> [round(score["frechet"], 1) for score in scores], scores[1]["precision"]
        ([0.0, 1.3], 0.0)
        >>> judge.check(Setting(nfe=1, w=0.0, n=1000))
        Traceback (most recent call last):
            ...
        ValueError: n must be 4 .. 400 samples, the rows of the data, got 1000
    """

    data: Labelled
    features: Callable[[Tensor], Tensor]
    device: torch.device
    batch: int = 500
    source: Source | None = None

    def __post_init__(self) -> None:
        check_source(self.source)
        if not isinstance(data := admit(self.data), Labelled):
            raise TypeError(f"data must be in memory, such as Labelled.of(x, y), got {type(self.data).__name__}")
        if len(data) < 4:
            raise ValueError(f"data must have 4 rows or more, of which 3 are neighbours, got {len(data)}")
        if not callable(self.features) or isinstance(self.features, type):
            raise ValueError(f"features must be a function, (B, ...) -> (B, F), got {shown(self.features)}")
        object.__setattr__(self, "batch", check_count("batch", self.batch))
        object.__setattr__(self, "data", data)
        warn_of_missing(data.missing, data.num_classes, "they are not scored")

    def check(self, setting: Setting) -> None:
        """Refuse a setting that cannot be scored.

        Args:
            setting: of the sampler.

        Raises:
            ValueError: for fewer than four samples, or more than rows of data.
        """
        if not 4 <= setting.n <= len(self.data):
            raise ValueError(f"n must be 4 .. {len(self.data)} samples, the rows of the data, got {setting.n}")

    @torch.no_grad()
    def _embedded(self, x: Tensor) -> Tensor:
        """Features (n, F) in float64, batch by batch."""
        parts = []
        for part in x.split(self.batch):
            found = self.features(part.to(self.device))
            if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(part):
                raise ValueError(f"features must give (B, F) for B = {len(part)} samples, got {shown(found)}")
            parts.append(found.double().cpu())
        return torch.cat(parts)

    @cached_property
    def _real(self) -> tuple[Tensor, Moments]:
        """Features of the data, computed once for all settings; in an order that does not follow the classes."""
        order = torch.randperm(len(self.data), generator=stream(0, "reference"))
        found = self._embedded(self.data.x[order])
        check_finite("features", found)
        return found, Moments(found)

    def score(self, net: Network, setting: Setting) -> dict[str, float]:
        """Score samples, labels in turn; a network of steps to the data alone gets new noise after each but the last.

        Args:
            net: on ``device``, in eval mode.
            setting: of the sampler.

        Returns:
            ``frechet``, ``precision`` and ``recall``.

        Raises:
            ValueError: for a number of samples that cannot be scored, or features that are not (B, F) and finite.
        """
        check_kind("setting", setting, Setting)
        self.check(setting)
        classes = torch.tensor([c for c in range(self.data.num_classes) if c not in self.data.missing])
        y = classes[torch.arange(setting.n) % len(classes)]
        x0 = draw_noise(self.source, (setting.n, *self.data.shape), stream(setting.seed, "samples"))
        drawn = []
        for k, (noise, labels) in enumerate(zip(x0.split(self.batch), y.split(self.batch), strict=True)):
            options = {"source": self.source, **renoise_options(net, setting.seed, k)}
            part = noise.to(self.device), labels.to(self.device)
            drawn.append(sample(net, *part, w=setting.w, nfe=setting.nfe, **options).cpu())
        features, (real, moments) = self._embedded(torch.cat(drawn)), self._real
        check_finite("features of what net draws", features)
        precision, recall = precision_recall(features, real[: len(features)])
        return {"frechet": frechet(Moments(features), moments), "precision": precision, "recall": recall}


@dataclass(frozen=True)
class SpaceJudge:
    """Draws pictures from a model of a small latent space and scores them: :class:`FashionJudge`, :class:`EmojiJudge`.

    Attributes:
        classifier: the released feature network.
        autoencoder: the released autoencoder.
        device: where the model lives and all of this runs.
        source: the distribution of the noise, that of the model's recipe.
        space: whose models it scores, a key of :data:`ismkit.models.spaces.SPACES`.
        load_classifier: gives the released feature network.
        reference: reads the images that samples are compared with, (n, C, H, H) in [-1, 1].

    Example:
        >>> from ismkit.evaluation.judges import JUDGES, Setting
        >>> {space: judge.__name__ for space, judge in JUDGES.items()}
        {'clothes': 'FashionJudge', 'emoji': 'EmojiJudge'}
        >>> JUDGES["clothes"].check(Setting(nfe=1, w=1.0, n=1000))
    """

    classifier: FeatureNet
    autoencoder: SmallAutoencoder
    device: torch.device
    source: Source | None = None
    space: ClassVar[str]
    load_classifier: ClassVar[Callable[[], FeatureNet]]
    reference: ClassVar[Callable[[], Tensor]]

    @classmethod
    def load(cls, device: torch.device | str = "cpu") -> Self:
        """Load the judge with the released, verified weights.

        Args:
            device: where it runs.

        Returns:
            The judge.

        Raises:
            CheckpointError: if a file is missing, truncated or altered.
        """
        device = torch.device(device)
        return cls(cls.load_classifier().to(device), SPACES[cls.space].load().to(device), device)

    @cached_property
    def _real(self) -> Tensor:
        return self._of_the_reference[0]

    @cached_property
    def _of_the_reference(self) -> tuple[Tensor, Tensor]:
        """Its features and its spectrum: the images are read, verified and transformed once for all settings."""
        images = type(self).reference()
        return embed(self.classifier, images.to(self.device))[0], radial_spectrum(images)[1]

    @cached_property
    def _real_moments(self) -> Moments:
        return Moments(self._real)

    @classmethod
    def check_data(cls, data: Labelled) -> None:
        """Refuse data whose networks draw something else.

        Args:
            data: what a network is trained on.

        Raises:
            ValueError: unless it is latents of the judge's space.
        """
        space = SPACES[cls.space]
        if tuple(data.x.shape[1:]) != space.shape or data.num_classes != space.num_classes:
            raise ValueError(
                f"data must be latents of {space.name}, (n, {', '.join(map(str, space.shape))}) in {space.num_classes} "
                f"classes, to be scored as {space.name}, got {tuple(data.x.shape)} in {data.num_classes}: leave space "
                "None for points, and give a judge of your own for other images"
            )

    @classmethod
    def check(cls, setting: Setting) -> None:
        """Refuse a setting that cannot be scored: ValueError unless n is 100 .. 10 000."""
        if not _LEAST <= setting.n <= _MOST:
            raise ValueError(
                f"n must be {_LEAST} .. {_MOST} samples, as many as they are compared with, got {setting.n}"
            )

    def draw(self, net: Network, y: Tensor, *, w: float, nfe: int, seed: int = 0, batch: int = 500) -> Tensor:
        """Draw images.

        Args:
            net: on the judge's device, in eval mode.
            y: labels, (n,).
            w: guidance strength, >= 0.
            nfe: network evaluations per sample.
            seed: of the noise.
            batch: samples at one time.

        Returns:
            Images (n, C, H, H) in [-1, 1].

        Raises:
            ValueError: for an NFE or a strength that the sampler cannot do.
        """
        options: dict[str, Any] = {"device": self.device, "autoencoder": self.autoencoder, "source": self.source}
        options |= {"w": w, "nfe": nfe, "seed": seed, "batch": batch, "renoise": renoises(net)}
        return draw_pictures(self.space, y, net, **options)

    def score_images(self, images: Tensor, y: Tensor) -> dict[str, float]:
        """Score images.

        Args:
            images: (n, C, H, H) in [-1, 1].
            y: the classes that were asked for, (n,).

        Returns:
            ``frechet``, ``agreement``, ``precision`` and ``recall``.
        """
        features, logits = embed(self.classifier, images.to(self.device))
        precision, recall = precision_recall(features, self._real[: len(features)])
        return {
            "frechet": frechet(Moments(features), self._real_moments),
            "agreement": class_agreement(logits, y.to(self.device)),
            "precision": precision,
            "recall": recall,
        }

    def score(self, net: Network, setting: Setting) -> dict[str, float]:
        """Draw and score samples, labels in turn.

        Args:
            net: on the judge's device, in eval mode.
            setting: of the sampler.

        Returns:
            All metrics by name; the curvature is that of the paths of the first 250 samples.
        """
        space = SPACES[self.space]
        y = torch.arange(setting.n, device=self.device) % space.num_classes
        latents, path = draw_samples(
            y,
            net,
            space.shape,
            w=setting.w,
            nfe=setting.nfe,
            seed=setting.seed,
            paths=CURVED,
            renoise=renoises(net),
            source=self.source,
        )
        images = in_batches(self.autoencoder.decode, latents)
        return {
            **self.score_images(images, y),
            "spectrum_error": power_error(radial_spectrum(images)[1].cpu(), self._of_the_reference[1].cpu()),
            "curvature": _mean_curvature(path),
        }

    def table(
        self,
        net: Network,
        *,
        nfe: Iterable[int],
        w: Iterable[float],
        n: int,
        seed: int = 0,
        progress: bool | None = None,
    ) -> list[Score]:
        """Score a network in many settings, from the same noise.

        Args:
            net: on the judge's device, in eval mode.
            nfe: numbers of network evaluations.
            w: guidance strengths.
            n: samples in each setting, 100 .. 10 000.
            seed: of the noise.
            progress: show a bar; by default unless the environment says CI.

        Returns:
            One :class:`Score` for each NFE and each strength.

        Raises:
            ValueError: before any work, unless n is 100 .. 10 000 and the network can do every NFE and strength.
        """
        strengths = [float(strength) for strength in w]
        settings = [Setting(evaluations, strength, n, seed) for evaluations in nfe for strength in strengths]
        for setting in settings:
            setting.check(net)
            self.check(setting)
        return [
            Score(nfe=setting.nfe, w=setting.w, n=n, **self.score(net, setting))  # type: ignore[typeddict-item]
            for setting in progress_bar(settings, show=progress, desc="scoring", unit="setting")
        ]


# Samples that a SpaceJudge scores; at most about as many as there are images to compare them with.
_LEAST, _MOST = 100, 10_000


def _test_images() -> Tensor:
    """The 10 000 test images of Fashion-MNIST, (10000, 1, 28, 28)."""
    return fashion_mnist("test").x


def _emoji_in_turn() -> Tensor:
    """9900 emoji, (9900, 3, 32, 32), the classes in turn: fewer samples are compared with the first ones."""
    data = balanced(emoji(), 100, seed=1, changes=emoji_changes())
    return data.x.unflatten(0, (data.num_classes, -1)).transpose(0, 1).flatten(0, 1).contiguous()


@dataclass(frozen=True)
class FashionJudge(SpaceJudge):
    """Draws Fashion-MNIST images from a latent-space model and scores them.

    Protocol, this kit's own: n samples with labels 0, 1, ..., 9 in turn; latents decoded to 28 x 28 and clamped to [-1,
    1]; features of the kit's own classifier (64 numbers, float64 statistics, no Inception); reference: the 10 000 test
    images. The Frechet distance shrinks as n grows: compare equal n only. Precision and recall take k = 3 and as many
    test images as samples.

    Attributes:
        classifier, autoencoder, device, source, space, load_classifier, reference: as in :class:`SpaceJudge`.

    Example:
        >>> import torch
        >>> from ismkit import FashionJudge, Setting, class_agreement, eight_gaussians, released
        >>> judge, (net, card) = FashionJudge.load(), released("ism_plus")
        >>> y = torch.arange(100) % 10
        >>> images = judge.draw(net, y, w=1.0, nfe=1)
        >>> images.shape
        torch.Size([100, 1, 28, 28])
        >>> class_agreement(judge.classifier(images), y) > 0.9  # nearly all show the class asked for
        True
        >>> judge.check_data(eight_gaussians(100, seed=0))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: data must be latents of clothes, (n, 4, 8, 8) in 10 classes, to be scored as clothes, got ...

        Scores take seconds, for the features of the test images:

        >>> sorted(judge.score_images(images, y))  # doctest: +SKIP
        ['agreement', 'frechet', 'precision', 'recall']
        >>> sorted(judge.score(net, Setting(nfe=1, w=1.0, n=1000)))  # doctest: +SKIP
        ['agreement', 'curvature', 'frechet', 'precision', 'recall', 'spectrum_error']
        >>> round(judge.table(net, nfe=[1], w=[1.0], n=1000, seed=1)[0]["frechet"], 2)  # doctest: +SKIP
        1.62
    """

    space: ClassVar[str] = "clothes"
    load_classifier = staticmethod(load_features)
    reference = staticmethod(_test_images)


def _saturation_and_contrast(images: Tensor) -> tuple[float, float]:
    """The mean distance of the largest channel from the smallest, and the standard deviation of the brightness."""
    weights = images.new_tensor([0.2126, 0.7152, 0.0722])  # of red, green and blue, ITU-R BT.709
    spread = images.amax(1) - images.amin(1)
    return float(spread.mean()) / 2, float(torch.einsum("bchw,c->bhw", images, weights).std()) / 2


@dataclass(frozen=True)
class EmojiJudge(SpaceJudge):
    """Draws emoji from a latent-space model and scores them.

    Protocol, this kit's own: n samples, the 99 subgroups in turn; features of a classifier of subgroups that saw all
    drawings, with other changes than the reference has; reference: 100 rows of each subgroup, of all drawings, shifted
    and mirrored as the training set is. Since there are no more than 3655 drawings, this says how near samples are to
    *these*, and not whether they are new: :meth:`copying` does. Precision is blunt here: some drawings are so far from
    all others that their balls hold much of the space (of Gaussian noise, 0.53).

    Attributes:
        classifier, autoencoder, device, source, space, load_classifier, reference: as in :class:`SpaceJudge`.

    Example:
        >>> from ismkit import EmojiJudge
        >>> judge = EmojiJudge.load()
        >>> judge.autoencoder.latent, judge.classifier.num_classes
        ((8, 8, 8), 99)
    """

    space: ClassVar[str] = "emoji"
    load_classifier = staticmethod(load_emoji_features)
    reference = staticmethod(_emoji_in_turn)

    @cached_property
    def _kept_apart(self) -> Tensor:
        """The distance of each drawing of the part ``test`` to the nearest one of ``train``."""
        return _to_nearest(emoji("test").x.to(self.device))

    @cached_property
    def _colour_of_drawings(self) -> tuple[float, float]:
        return _saturation_and_contrast(balanced(emoji(), 10).x.to(self.device))

    def colour(self, images: Tensor) -> dict[str, float]:
        """Measure how strong the colours of images are, beside those of the drawings.

        Args:
            images: (n, 3, 32, 32) in [-1, 1], of all subgroups alike.

        Returns:
            ``saturation``, how far the three channels of a pixel are apart on average, and ``contrast``, the standard
            deviation of all pixels' brightness: 1 is that of the drawings, every subgroup with the same weight.

        Raises:
            ValueError: for images of another shape.

        Example:
            >>> from ismkit import EmojiJudge, emoji
            >>> from ismkit.data import balanced
            >>> images = balanced(emoji(), 10, seed=1).x
            >>> judge, grey = EmojiJudge.load(), images.mean(1, keepdim=True).expand_as(images)
            >>> {key: round(value, 1) for key, value in judge.colour(images).items()}
            {'saturation': 1.0, 'contrast': 1.0}
            >>> judge.colour(grey)["saturation"], judge.colour((1.5 * images).clamp(-1, 1))["contrast"] > 1.05
            (0.0, True)
        """
        self._check_images(images)
        found = _saturation_and_contrast(images.to(self.device))
        saturation, contrast = (mine / theirs for mine, theirs in zip(found, self._colour_of_drawings, strict=True))
        return {"saturation": saturation, "contrast": contrast}

    def _check_images(self, images: Tensor) -> None:
        check_tensor("images", images)
        if images.shape[1:] != (drawn := self.autoencoder.shape) or not len(images):
            raise ValueError(f"images must be (n, {', '.join(map(str, drawn))}), got {tuple(images.shape)}")

    def copying(self, images: Tensor) -> dict[str, float]:
        """Measure how near images are to the drawings that models are trained on, beside drawings kept apart.

        The distance is the root of the mean square over pixels, at the best of all shifts by a pixel, mirrored or not.

        Args:
            images: (n, 3, 32, 32) in [-1, 1].

        Returns:
            ``nearest``, the median distance of an image to its nearest drawing of the part ``train``; ``kept_apart``,
            the same for the drawings of the part ``test``; ``copied``, the share of the images that are nearer than
            95 % of those are: 0.05 where images are as new as they.

        Raises:
            ValueError: for images of another shape.

        Example:
            Drawings of the training set are copies:

            >>> from ismkit import EmojiJudge, emoji
            >>> found = EmojiJudge.load().copying(emoji("train").x[::100])
            >>> found["nearest"], found["copied"], found["kept_apart"] > 0.1
            (0.0, 1.0, True)
        """
        self._check_images(images)
        mine, others = _to_nearest(images.to(self.device)), self._kept_apart
        return {
            "nearest": float(mine.median()),
            "kept_apart": float(others.median()),
            "copied": float((mine < others.quantile(0.05)).double().mean()),
        }


#: The judge of each small latent space.
JUDGES: dict[str, type[SpaceJudge]] = {judge.space: judge for judge in (FashionJudge, EmojiJudge)}


@cache
def space_judge(space: str, device: str) -> SpaceJudge:
    """Load the judge of a space once per process: it keeps the features of the reference.

    Args:
        space: a key of :data:`JUDGES`.
        device: where it works.

    Returns:
        The judge, the same one at every call.

    Example:
        >>> from ismkit.evaluation.judges import space_judge
        >>> space_judge("clothes", "cpu") is space_judge("clothes", "cpu")
        True
    """
    return JUDGES[space].load(device)


def _to_nearest(images: Tensor) -> Tensor:
    """The distance of each image to the nearest drawing of the training set, (n,)."""
    drawings = emoji("train").x.to(images.device)
    mine, nearest = images.flatten(1), torch.full((len(images),), math.inf, device=images.device)
    wide = F.pad(drawings, (1,) * 4, value=1.0)
    side = drawings.shape[-1]
    for down, right in product(range(3), repeat=2):
        shifted = wide[:, :, down : down + side, right : right + side]
        for way in (shifted, shifted.flip(3)):
            theirs = way.flatten(1)
            square = mine.square().sum(1)[:, None] - 2 * mine @ theirs.T + theirs.square().sum(1)
            best = square.min(1)
            exact = (mine - theirs[best.indices]).square().mean(1)  # of equal images the product leaves its roundings
            nearest = torch.minimum(nearest, exact.sqrt())
    return nearest


def _mean_curvature(path: Tensor) -> float:
    """Mean over the samples that moved; NaN, which says undefined, where none did (a network that answers 0)."""
    moved = (path[-1] != path[0]).flatten(1).any(1)
    return float(curvature(path[:, moved]).mean()) if moved.any() else math.nan


#: How the columns of a table are printed: title, width, format; those of other metrics are as wide as their name.
_COLUMNS: dict[str, tuple[str, int, str]] = {
    "nfe": ("NFE", 4, ""),
    "w": ("w", 5, "g"),
    "n": ("n", 6, ""),
    "frechet": ("Frechet", 8, ".3f"),
    "agreement": ("agreement", 9, ".3f"),
    "precision": ("precision", 9, ".3f"),
    "recall": ("recall", 7, ".3f"),
    "spectrum_error": ("spectrum", 8, ".4f"),
    "curvature": ("curvature", 9, ".4f"),
}


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table to print, one line for each row; the columns are those of the first."""
    names = list(rows[0]) if rows else list(Score.__annotations__)
    columns = {name: _COLUMNS.get(name, (name, max(9, len(name)), ".4g")) for name in names}
    head = " ".join(title.rjust(width) for title, width, _ in columns.values())
    lines = [" ".join(f"{row[name]:>{width}{kind}}" for name, (_, width, kind) in columns.items()) for row in rows]
    return "\n".join([head, *lines])


def write_csv(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Write rows as CSV, atomically, making the folder; the columns are those of the first. Returns the path."""
    # By hand: pandas is none of the core install, which scores clothes.
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else list(Score.__annotations__))
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())
    return Path(path)
