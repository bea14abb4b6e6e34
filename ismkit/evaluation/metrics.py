"""How good, how varied, how sharp and how straight: measures of samples and of the paths that led to them.

All are computed in float64. Fréchet distance and precision and recall compare *features* (n, F) and depend on
what made them: name the feature network and the numbers of samples next to every figure. The Fréchet distance of few
samples is too large: :func:`bias` measures by how much, and where it would end with ever more of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ismkit.utils.seeding import stream


class Gaussian(NamedTuple):
    """A mean (F,) and a covariance (F, F) in float64, such as published statistics of a reference."""

    mean: Tensor
    cov: Tensor


class HasMoments(Protocol):
    """Anything with a mean (F,) and a covariance (F, F): :class:`Moments` or a :class:`Gaussian`."""

    @property
    def mean(self) -> Tensor:
        """Mean (F,)."""
        ...

    @property
    def cov(self) -> Tensor:
        """Covariance (F, F)."""
        ...


class Moments:
    """Mean and covariance of features (n, F), gathered over batches, in float64 on the CPU.

    Batches are joined by the pairwise update of Chan, Golub and LeVeque (1983): however the features are
    split, the result is the same to rounding, also when their mean is large beside their spread.
    """

    def __init__(self, features: Tensor | None = None) -> None:
        self.n = 0
        self._mean = torch.empty(0, dtype=torch.float64)
        self._scatter = torch.empty(0, 0, dtype=torch.float64)  # sum of (f - mean)(f - mean)^T
        if features is not None:
            self.update(features)

    @property
    def mean(self) -> Tensor:
        """Mean (F,). Raises ValueError before the first sample."""
        self._require(1, "a mean")
        return self._mean

    @property
    def cov(self) -> Tensor:
        """Covariance (F, F), unbiased (divided by n - 1). Raises ValueError below 2 samples."""
        self._require(2, "a covariance")
        return self._scatter / (self.n - 1)

    def update(self, features: Tensor) -> None:
        """Add features (n, F) of any float type and device."""
        _require_features("features", features)
        features = features.detach().to("cpu", torch.float64)
        batch = Moments()
        batch.n = len(features)
        batch._mean = features.mean(dim=0)
        batch._scatter = (features - batch._mean).T @ (features - batch._mean)
        self.merge(batch)

    def merge(self, other: Moments) -> None:
        """Add all samples of ``other``, for instance another process's share."""
        if other.n == 0:
            return
        if self.n == 0:
            self.n, self._mean, self._scatter = other.n, other._mean, other._scatter
            return
        if len(self._mean) != len(other._mean):
            raise ValueError(f"features have {len(other._mean)} dimensions, those before had {len(self._mean)}")
        n = self.n + other.n
        gap = other._mean - self._mean
        self._scatter = self._scatter + other._scatter + torch.outer(gap, gap) * (self.n * other.n / n)
        self._mean = self._mean + gap * (other.n / n)
        self.n = n

    def _require(self, least: int, what: str) -> None:
        if self.n < least:
            raise ValueError(f"{what} needs at least {least} samples, got {self.n}")


def frechet(a: HasMoments, b: HasMoments) -> float:
    """Fréchet distance (squared 2-Wasserstein distance of the two Gaussians; Heusel et al. 2017 for images).

    |mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2). The last trace is the sum of the singular
    values of C_a^1/2 C_b^1/2, with square roots from symmetric eigen-decompositions: nothing turns complex,
    and a singular covariance costs no accuracy. Biased upwards for few samples: compare equal n only.
    """
    cov_a, cov_b = a.cov, b.cov
    if len(cov_a) != len(cov_b):
        raise ValueError(f"a has {len(cov_a)} feature dimensions and b has {len(cov_b)}: they must be the same")
    overlap = torch.linalg.svdvals(_square_root(cov_a) @ _square_root(cov_b)).sum()
    shift = (a.mean - b.mean).square().sum()
    return (shift + cov_a.trace() + cov_b.trace() - 2 * overlap).item()


def _square_root(cov: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(cov)
    # An eigenvalue of rounding size is a zero of the covariance; its root, 1e-8, would not be rounding size.
    rounding = len(values) * torch.finfo(values.dtype).eps * values[-1]
    return (vectors * values.where(values > rounding, 0).sqrt()) @ vectors.T


def precision_recall(generated: Tensor, real: Tensor, k: int = 3) -> tuple[float, float]:
    """Precision and recall of features (n, F), each in [0, 1] (Kynkäänniemi et al. 2019).

    Precision is the share of ``generated`` inside the union of balls around each sample of ``real`` that
    reach to its k-th nearest other real sample; recall the same with the roles changed.
    """
    for name, features in (("generated", generated), ("real", real)):
        _require_features(name, features)
    if generated.shape[1] != real.shape[1]:
        raise ValueError(
            f"generated has {generated.shape[1]} feature dimensions and real {real.shape[1]}: they must be the same"
        )
    if not 1 <= k < min(len(generated), len(real)):
        raise ValueError(
            f"k must be at least 1 and below both numbers of samples, {len(generated)} and {len(real)}, got {k}"
        )
    generated, real = generated.detach().double(), real.detach().double()
    return _covered(generated, real, k), _covered(real, generated, k)


def _covered(points: Tensor, centres: Tensor, k: int, chunk: int = 1024) -> float:
    # Distance 0 to itself comes first, so the k-th neighbour is the (k + 1)-th smallest.
    nearest = [torch.cdist(part, centres).topk(k + 1, largest=False).values for part in centres.split(chunk)]
    radii = torch.cat(nearest)[:, k]
    inside = [(torch.cdist(part, centres) <= radii).any(dim=1) for part in points.split(chunk)]
    return torch.cat(inside).double().mean().item()


def radial_spectrum(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean power of square images ``x`` (B, C, N, N) by frequency: ``(frequencies, power)``, each (R,).

    Ring r holds the coefficients of the orthonormal 2D Fourier transform whose frequency, in cycles per
    image, rounds to r; power is the mean of their squared moduli over ring, channels and batch. Every
    coefficient is in a ring, so power times ring sizes sums to the mean of sum(x^2) (Parseval); the spectrum
    of white noise is flat.
    """
    _require_images("x", x)
    size = x.shape[-1]
    parts = x.detach().split(64)  # in double precision and complex a part takes four times its memory
    powers = [torch.fft.fft2(part.double(), norm="ortho").abs().square().sum(dim=(0, 1)) for part in parts]
    energy = torch.stack(powers).sum(dim=0).cpu() / (x.shape[0] * x.shape[1])  # (N, N)
    cycles = torch.fft.fftfreq(size, d=1 / size, dtype=torch.float64)
    rings = torch.hypot(cycles[:, None], cycles).round().long().flatten()
    power = torch.bincount(rings, weights=energy.flatten()) / torch.bincount(rings)
    return torch.arange(len(power), dtype=torch.float64), power


def spectrum_error(a: Tensor, b: Tensor) -> float:
    """Mean over the rings of |log10(power of a / power of b)|, for images (B, C, N, N).

    Ring 0, the mean of the image, is left out; all others count the same. 0 for equal spectra, 1 for a factor
    of ten throughout; symmetric.
    """
    _require_images("a", a)
    _require_images("b", b)
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"a and b must be images of one size, got {a.shape[-1]} and {b.shape[-1]} pixels")
    powers = [radial_spectrum(images)[1][1:] for images in (a, b)]
    for name, power in zip("ab", powers, strict=True):
        if not (power > 0).all():
            ring = 1 + int((power <= 0).nonzero()[0])
            raise ValueError(f"{name} has no power at {ring} cycles per image: the logarithm is undefined")
    return (powers[0] / powers[1]).log10().abs().mean().item()


def curvature(trajectory: Tensor) -> Tensor:
    """Curvature (B,) of sampler paths ``trajectory`` (K + 1, B, ...): states at equally spaced times.

    K sum_k |x_{k+1} - x_k|^2 / |x_K - x_0|^2 - 1: the kinetic energy of the path over that of the straight
    path at constant speed, minus one. It is >= 0 (Cauchy-Schwarz), and 0 only for that path. Times
    |x_K - x_0|^2 and averaged it is the straightness S of Rectified Flow (Liu et al. 2022) on this grid.
    """
    if trajectory.ndim < 3 or len(trajectory) < 2:
        raise ValueError(f"trajectory must be (K + 1, B, ...) with K >= 1, got {tuple(trajectory.shape)}")
    _require_finite("trajectory", trajectory)
    states = trajectory.detach().double().flatten(start_dim=2)  # (K + 1, B, D)
    path = states.diff(dim=0).square().sum(dim=(0, 2)) * (len(states) - 1)
    straight = (states[-1] - states[0]).square().sum(dim=1)
    if not (straight > 0).all():
        still = int((straight <= 0).sum())
        raise ValueError(f"trajectory ends where it began for {still} samples: their curvature is undefined")
    return path / straight - 1


def wasserstein2(a: Tensor, b: Tensor) -> float:
    """Exact 2-Wasserstein distance (not its square) between point clouds ``a`` (n, D) and ``b`` (m, D).

    Uniform weights, Euclidean ground distance, by the network simplex of POT (``pip install POT``). A few
    thousand points at most: the cost matrix has n m entries and the time grows about with n^3.
    """
    for name, points in (("a", a), ("b", b)):
        _require_features(name, points)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a has {a.shape[1]} dimensions and b has {b.shape[1]}: they must be the same")
    import ot

    cost = ot.dist(a.detach().double().cpu().numpy(), b.detach().double().cpu().numpy(), metric="sqeuclidean")
    squared, log = ot.emd2([], [], cost, numItermax=10**8, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"optimal transport did not converge: {log['warning']}")
    return math.sqrt(max(float(squared), 0.0))


def class_agreement(logits: Tensor, y: Tensor) -> float:
    """Share of samples, in [0, 1], whose largest logit (n, classes) is that of the class ``y`` (n,)."""
    if logits.ndim != 2 or y.shape != logits.shape[:1] or len(y) == 0:
        raise ValueError(
            f"logits must be (n, classes) and y (n,) with n >= 1, got {tuple(logits.shape)} and {tuple(y.shape)}"
        )
    _require_finite("logits", logits)
    return (logits.argmax(dim=1) == y).double().mean().item()


def _require_features(name: str, features: Tensor) -> None:
    if features.ndim != 2 or features.numel() == 0:
        raise ValueError(f"{name} must be (n, F) with n, F >= 1, got {tuple(features.shape)}")
    _require_finite(name, features)


def _require_images(name: str, x: Tensor) -> None:
    if x.ndim != 4 or x.shape[2] != x.shape[3] or x.numel() == 0:
        raise ValueError(f"{name} must be square images (B, C, N, N), got {tuple(x.shape)}")
    _require_finite(name, x)


def _require_finite(name: str, x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}")
    bad = x.numel() - int(x.isfinite().sum())
    if bad:
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite of {x.numel()} values")


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
