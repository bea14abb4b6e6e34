"""The Fréchet distance of few samples is too large: by how much, and where it would end with ever more of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ismkit.metrics import HasMoments, Moments, frechet
from ismkit.seeding import stream


class Bias(NamedTuple):
    """Fréchet distances of ever more samples, and the line through them (:func:`bias`)."""

    n: list[int]
    distance: list[float]  # mean over the subsets of each size
    spread: list[float]  # standard deviation over them; NaN for one
    slope: float  # distance = infinity + slope / n
    infinity: float


def bias(
    features: Tensor, reference: HasMoments, *, parts: Sequence[int] = (16, 8, 4, 2, 1), repeats: int = 4, seed: int = 0
) -> Bias:
    """How the Fréchet distance falls with the number of samples, and where it would end (Chong and Forsyth 2020).

    Its bias is proportional to 1 / n up to terms of 1 / n^2. The line distance = infinity + slope / n is fitted by
    least squares to the mean distances of random disjoint subsets.

    Args:
        features: (n, F), of all samples.
        reference: mean and covariance of the real ones.
        parts: the subsets hold n / part samples.
        repeats: at most so many subsets of each size.
        seed: of the subsets.

    Raises:
        ValueError: if the smallest subset has no more samples than features: the law of 1 / n does not hold there.
    """
    n, size = features.shape
    if len(parts) < 2 or len(set(parts)) < len(parts) or min(parts) < 1:
        raise ValueError(f"parts must be two or more different numbers of at least 1, got {tuple(parts)}")
    if n // max(parts) <= size:
        raise ValueError(f"the smallest subset, {n} / {max(parts)}, must have more samples than the {size} features")
    order = torch.randperm(n, generator=stream(seed, "bias"))
    sizes, means, spreads = [], [], []
    for part in sorted(parts, reverse=True):
        subsets = order[: n // part * part].view(part, -1)[:repeats]
        found = torch.tensor([frechet(Moments(features[rows]), reference) for rows in subsets], dtype=torch.float64)
        sizes.append(n // part)
        means.append(found.mean().item())
        spreads.append(found.std().item() if len(found) > 1 else float("nan"))
    inverse = 1 / torch.tensor(sizes, dtype=torch.float64)
    design = torch.stack([torch.ones_like(inverse), inverse], 1)
    line = torch.linalg.lstsq(design, torch.tensor(means, dtype=torch.float64)[:, None]).solution
    return Bias(sizes, means, spreads, line[1].item(), line[0].item())


def expected_bias(cov: Tensor, n: int) -> float:
    """Leading term of the expected Fréchet distance between n samples of a Gaussian and that Gaussian itself.

    With eigenvalues l_i of the covariance (F, F): (sum_i l_i + sum_ij l_i l_j (1 + [i = j]) / (2 (l_i + l_j))) / n; the
    first sum is the error of the mean, the second that of the covariance, to second order. F (F + 5) / (4 n) for the
    identity. What follows is of order 1 / n^2.
    """
    values = torch.linalg.eigvalsh(cov.double()).clamp(min=0)
    values = values[values > 0]
    pairs = values[:, None] * values / (2 * (values[:, None] + values))
    return ((values.sum() + pairs.sum() + pairs.diagonal().sum()) / n).item()
