"""Scores of a trained model: samples per NFE and guidance strength, and a table of metrics."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol, TypedDict

import torch
from torch import Tensor

from ismkit.data import CLOTHES, Labelled, fashion_mnist
from ismkit.features import FeatureNet, embed, load_features
from ismkit.files import replacing
from ismkit.latents import SHAPE, FashionAutoencoder, in_batches, load_autoencoder
from ismkit.metrics import (
    Moments,
    class_agreement,
    curvature,
    frechet,
    precision_recall,
    spectrum_error,
    wasserstein2,
)
from ismkit.path import Network, StepGrid
from ismkit.progress import progress as progress_bar
from ismkit.sampling import sample, trajectory
from ismkit.seeding import stream


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


class Cell(NamedTuple):
    """One setting in which a model is scored: network evaluations, guidance strength, samples, seed of their noise."""

    nfe: int
    w: float
    n: int
    seed: int = 0

    @property
    def cost(self) -> float:
        """Roughly how many rows pass through the network, those of the judge's networks included."""
        return float(self.n * (self.nfe + 10))

    def check(self) -> None:
        """Raise ValueError unless the sampler knows the number of evaluations and the strength."""
        StepGrid().check_steps(self.nfe)
        if not 0 <= self.w < math.inf:
            raise ValueError(f"w, the guidance strength, must be finite and at least 0, got {self.w}")
        if self.n < 1:
            raise ValueError(f"n must be 1 or more samples, got {self.n}")


class Judge(Protocol):
    """Scores a network in one setting."""

    def cell(self, net: Network, cell: Cell) -> dict[str, float]:
        """Metrics by name."""
        ...


CURVED = 250  # samples whose paths are kept to measure their curvature


@dataclass(frozen=True)
class PointJudge:
    """Scores a network of points: the exact 2-Wasserstein distance to the data, per class, averaged over the classes.

    Attributes:
        data: the reference; each class is compared with as many of its points as there are samples.
        device: where the network lives.
    """

    data: Labelled
    device: torch.device

    def cell(self, net: Network, cell: Cell) -> dict[str, float]:
        """``w2`` and ``curvature`` of ``cell.n`` samples, labels in turn."""
        y = torch.arange(cell.n) % self.data.num_classes
        x0 = torch.randn(cell.n, *self.data.x.shape[1:], generator=stream(cell.seed, "samples")).to(self.device)
        path = trajectory(net, x0, y.to(self.device), w=cell.w, steps=cell.nfe)
        drawn = path[-1].cpu()
        distances = [
            wasserstein2(drawn[y == c], self.data.x[self.data.y == c][: int((y == c).sum())])
            for c in range(self.data.num_classes)
        ]
        return {"w2": sum(distances) / len(distances), "curvature": _mean_curvature(path)}


@dataclass(frozen=True)
class FashionJudge:
    """Draws Fashion-MNIST images from a latent-space model and scores them.

    Protocol: n samples with labels 0, 1, ..., 9 in turn; latents decoded to 28 x 28 and clamped to [-1, 1]; features
    of the kit's own classifier (64 numbers, float64 statistics, no Inception); reference: the 10 000 test images. The
    Frechet distance shrinks as n grows: compare equal n only. Precision and recall take k = 3 and as many test images
    as samples.

    Attributes:
        classifier: the shipped feature network.
        autoencoder: the shipped autoencoder.
        device: where the model lives and all of this runs.
    """

    classifier: FeatureNet
    autoencoder: FashionAutoencoder
    device: torch.device

    @classmethod
    def load(cls, device: torch.device | str = "cpu") -> FashionJudge:
        """The judge with the shipped, verified weights."""
        device = torch.device(device)
        return cls(load_features().to(device), load_autoencoder().to(device), device)

    @cached_property
    def _real(self) -> Tensor:
        return embed(self.classifier, fashion_mnist("test").x.to(self.device))[0]

    @cached_property
    def _real_moments(self) -> Moments:
        return Moments(self._real)

    def draw(self, net: Network, y: Tensor, *, w: float, steps: int, seed: int = 0, batch: int = 500) -> Tensor:
        """Images (n, 1, 28, 28) in [-1, 1] of the labels ``y`` (n,), noise from ``seed``, ``steps`` calls each."""
        x0 = torch.randn(len(y), *SHAPE, generator=stream(seed, "samples")).to(self.device)
        y = y.to(self.device)
        parts = zip(x0.split(batch), y.split(batch), strict=True)
        latents = torch.cat([sample(net, x, labels, w=w, steps=steps) for x, labels in parts])
        return in_batches(self.autoencoder.decode, latents)

    def score(self, images: Tensor, y: Tensor) -> dict[str, float]:
        """Metrics of images (n, 1, 28, 28) that were asked to be of classes ``y`` (n,)."""
        features, logits = embed(self.classifier, images.to(self.device))
        precision, recall = precision_recall(features, self._real[: len(features)])
        return {
            "frechet": frechet(Moments(features), self._real_moments),
            "agreement": class_agreement(logits, y.to(self.device)),
            "precision": precision,
            "recall": recall,
        }

    def cell(self, net: Network, cell: Cell) -> dict[str, float]:
        """All metrics of ``cell.n`` samples, labels in turn; curvature over the paths of the first 250."""
        y = torch.arange(cell.n) % len(CLOTHES)
        images = self.draw(net, y, w=cell.w, steps=cell.nfe, seed=cell.seed)
        x0 = torch.randn(len(y), *SHAPE, generator=stream(cell.seed, "samples"))[:CURVED].to(self.device)
        path = trajectory(net, x0, y[:CURVED].to(self.device), w=cell.w, steps=cell.nfe)
        return {
            **self.score(images, y),
            "spectrum_error": spectrum_error(images, fashion_mnist("test").x),
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
        """One :class:`Score` for each NFE and each guidance strength, from the same noise.

        Raises:
            ValueError: before any work, unless n is 100 .. 10 000 and the sampler knows every NFE and strength.
        """
        if not 100 <= n <= 10_000:
            raise ValueError(f"n must be 100 .. 10000 samples (there are 10000 test images), got {n}")
        strengths = [float(strength) for strength in w]
        cells = [Cell(steps, strength, n, seed) for steps in nfe for strength in strengths]
        for cell in cells:
            cell.check()
        return [
            Score(nfe=cell.nfe, w=cell.w, n=n, **self.cell(net, cell))  # type: ignore[typeddict-item]
            for cell in progress_bar(cells, show=progress, desc="scoring", unit="setting")
        ]


def _mean_curvature(path: Tensor) -> float:
    """Mean over the samples that moved; NaN, which says undefined, where none did (a network that answers 0)."""
    moved = (path[-1] != path[0]).flatten(1).any(1)
    return float(curvature(path[:, moved]).mean()) if moved.any() else math.nan


def as_text(rows: Sequence[Score]) -> str:
    """A table to print, one line for each row."""
    columns = {"NFE": 4, "w": 5, "n": 6, "Frechet": 8, "agreement": 9, "precision": 9, "recall": 7, "spectrum": 8}
    columns["curvature"] = 9
    head = " ".join(name.rjust(width) for name, width in columns.items())
    line = "{nfe:>4} {w:>5g} {n:>6} {frechet:>8.3f} {agreement:>9.3f} {precision:>9.3f} {recall:>7.3f}"
    line += " {spectrum_error:>8.4f} {curvature:>9.4f}"
    return "\n".join([head, *(line.format(**row) for row in rows)])


def write_csv(rows: Sequence[Score], path: str | os.PathLike[str]) -> Path:
    """Write rows as CSV, atomically, making the folder; returns the path."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(Score.__annotations__))
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())
    return Path(path)
