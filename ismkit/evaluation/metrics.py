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

from ismkit.method.path import check_labels
from ismkit.utils.checks import as_integer, check_count, check_finite, check_kind, shown
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

    Batches are joined by the pairwise update of Chan, Golub and LeVeque (1983): however the features are split, the
    result is the same to rounding, also when their mean is large beside their spread.

    Args:
        features: the first samples, (n, F); by default none.

    Attributes:
        n: number of samples so far.
        mean: (F,); ValueError before the first sample.
        cov: (F, F), unbiased (divided by n - 1); ValueError below 2 samples.

    Raises:
        TypeError: if features are not floating point.
        ValueError: if features have another shape than (n, F), are not finite, or have another F than those before.

    Example:
        Two batches give what all rows give at once:

        >>> import torch
        >>> from ismkit import Moments
        >>> features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
        >>> moments = Moments(features[:1])
        >>> moments.update(features[1:])
        >>> moments.n, moments.mean.tolist()
        (4, [1.0, 1.0])
        >>> torch.allclose(moments.cov, torch.cov(features.double().T))
        True

        So do the shares of two processes:

        >>> share = Moments(features[:2])
        >>> share.merge(Moments(features[2:]))
        >>> share.n, torch.allclose(share.cov, moments.cov)
        (4, True)
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
        """Add samples.

        Args:
            features: (n, F) of any float type and device.

        Raises:
            TypeError: if they are not floating point.
            ValueError: if they are not (n, F), not finite, or have another F than those before.
        """
        _require_features("features", features)
        features = features.detach().to("cpu", torch.float64)
        batch = Moments()
        batch.n = len(features)
        batch._mean = features.mean(dim=0)
        batch._scatter = (features - batch._mean).T @ (features - batch._mean)
        self.merge(batch)

    def merge(self, other: Moments) -> None:
        """Add all samples of other moments, for instance another process's share.

        Args:
            other: of features of as many dimensions.

        Raises:
            TypeError: if the other is something else.
            ValueError: if the numbers of dimensions differ.
        """
        check_kind("other", other, Moments)
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
    """Compute the Fréchet distance, the squared 2-Wasserstein distance of two Gaussians.

    For features of images: Heusel et al. (arXiv 1706.08500).

    |mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2). The last trace is the sum of the singular values of
    C_a^1/2 C_b^1/2, with square roots from symmetric eigen-decompositions: nothing turns complex, and a singular
    covariance costs no accuracy. Biased upwards for few samples: compare equal n only.

    Args:
        a: mean (F,) and covariance (F, F), :class:`Moments` or a :class:`Gaussian`.
        b: the same, of as many features.

    Returns:
        The distance, >= 0.

    Raises:
        TypeError: if a mean or a covariance is not floating point.
        ValueError: if the numbers of features differ, a mean is not (F,) or a covariance not (F, F), one of them is not
            finite, or a covariance is not symmetric or has negative eigenvalues.

    Example:
        Means 5 apart, and standard deviations 1 and 3 in two dimensions: ``25 + 2 * (3 - 1)^2``.

        >>> import torch
        >>> from ismkit import frechet
        >>> from ismkit.evaluation.metrics import Gaussian
        >>> eye = torch.eye(2).double()
        >>> a, b = Gaussian(torch.tensor([0.0, 0.0]), eye), Gaussian(torch.tensor([3.0, 4.0]), 9 * eye)
        >>> round(frechet(a, b), 6)
        33.0
    """
    (mean_a, cov_a), (mean_b, cov_b) = _moments("a", a), _moments("b", b)
    if len(cov_a) != len(cov_b):
        raise ValueError(f"a has {len(cov_a)} feature dimensions and b has {len(cov_b)}: they must be the same")
    overlap = torch.linalg.svdvals(_square_root("a", cov_a) @ _square_root("b", cov_b)).sum()
    shift = (mean_a - mean_b).square().sum()
    spread = (cov_a.trace() + cov_b.trace() - 2 * overlap).clamp_min(0)  # of equal covariances a few roundings below 0
    return (shift + spread).item()


ROUGH = 1e-4  # what published statistics in float32 may be off by, relative to the largest entry


def _moments(name: str, given: HasMoments) -> tuple[Tensor, Tensor]:
    """Mean (F,) and covariance (F, F) in float64, checked but for its eigenvalues."""
    if not isinstance(given, Moments) and not (hasattr(given, "mean") and hasattr(given, "cov")):
        raise TypeError(f"{name} must have a mean and a cov, as Moments and a Gaussian, got {shown(given)}")
    mean, cov = given.mean, given.cov
    check_finite(f"{name}.mean", mean)
    _check_covariance(f"{name}.cov", cov)
    if mean.shape != cov.shape[:1]:
        raise ValueError(f"{name}.mean must be (F,) = ({len(cov)},), got {tuple(mean.shape)}")
    return mean.double(), cov.double()


def _check_covariance(name: str, cov: Tensor) -> None:
    check_finite(name, cov)
    if cov.ndim != 2 or cov.shape[0] != cov.shape[1] or len(cov) == 0:
        raise ValueError(f"{name} must be (F, F) with F >= 1, got {tuple(cov.shape)}")
    if (cov - cov.T).abs().max() > ROUGH * cov.abs().max():
        raise ValueError(f"{name} must be symmetric, got entries that differ by {(cov - cov.T).abs().max():g}")


def _check_eigenvalues(name: str, values: Tensor) -> None:
    if values[0] < -ROUGH * values.abs().max():
        raise ValueError(f"{name} must be a covariance, got the negative eigenvalue {values[0]:g}")


def _square_root(name: str, cov: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(cov)
    _check_eigenvalues(f"{name}.cov", values)
    # An eigenvalue of rounding size is a zero of the covariance; its root, 1e-8, would not be rounding size.
    rounding = len(values) * torch.finfo(values.dtype).eps * values[-1]
    return (vectors * values.where(values > rounding, 0).sqrt()) @ vectors.T


def precision_recall(generated: Tensor, real: Tensor, k: int = 3) -> tuple[float, float]:
    """Compute precision and recall of features (Kynkäänniemi et al., arXiv 1904.06991).

    Precision is the share of ``generated`` inside the union of balls around each sample of ``real`` that reach to its
    k-th nearest other real sample; recall the same with the roles changed.

    Args:
        generated: features of samples, (n, F).
        real: features of data, (m, F).
        k: neighbours, at least 1 and below n and m.

    Returns:
        Precision and recall, each in [0, 1].

    Raises:
        TypeError: if features are not floating point.
        ValueError: if features are not (n, F) of equal F, or not finite, or ``k`` is no integer in range.

    Example:
        Samples of one of two modes are all realistic, but cover half of the data:

        >>> import torch
        >>> from ismkit import precision_recall
        >>> mode = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> real = torch.cat([mode, mode + 100])
        >>> precision_recall(mode + 0.25, real)
        (1.0, 0.5)
    """
    for name, features in (("generated", generated), ("real", real)):
        _require_features(name, features)
    if generated.shape[1] != real.shape[1]:
        raise ValueError(
            f"generated has {generated.shape[1]} feature dimensions and real {real.shape[1]}: they must be the same"
        )
    if type(k) is not int or not 1 <= k < min(len(generated), len(real)):
        raise ValueError(
            f"k must be at least 1 and below both numbers of samples, {len(generated)} and {len(real)}, got {shown(k)}"
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
    """Compute the mean power of square images by frequency.

    The azimuthal average of Durall et al. (arXiv 2003.01826). Ring r holds the coefficients of the orthonormal 2D
    Fourier transform whose frequency, in cycles per image, rounds to r; power is the mean of their squared moduli over
    ring, channels and batch. Every coefficient is in a ring, so power times ring sizes sums to the mean of sum(x^2)
    (Parseval); the spectrum of white noise is flat.

    Args:
        x: images, (B, C, N, N).

    Returns:
        Frequencies in cycles per image, (R,), and the power at each, (R,), both float64.

    Raises:
        TypeError: if ``x`` is not floating point.
        ValueError: if the images are not square, or not finite.

    Example:
        A wave of 3 cycles has power in ring 3 alone:

        >>> import math
        >>> import torch
        >>> from ismkit import radial_spectrum
        >>> wave = torch.cos(2 * math.pi * 3 * torch.arange(16) / 16).expand(1, 1, 16, 16)
        >>> frequencies, power = radial_spectrum(wave)
        >>> frequencies[power > 1e-9]
        tensor([3.], dtype=torch.float64)
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
    """Compute how far two spectra differ: the mean over the rings of |log10(power of a / power of b)|.

    Ring 0, the mean of the image, is left out; all others count the same. The measure is this kit's choice.

    Args:
        a: images, (B, C, N, N).
        b: images of the same size N; their number may differ.

    Returns:
        0 for equal spectra, 1 for a factor of ten throughout; symmetric.

    Raises:
        TypeError: if images are not floating point.
        ValueError: if images are not square, not finite, of different sizes, or without power in a ring.

    Example:
        >>> import torch
        >>> from ismkit import spectrum_error
        >>> x = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> round(spectrum_error(x, 10 * x), 4)  # ten times the amplitude, a hundred times the power
        2.0
    """
    _require_images("a", a)
    _require_images("b", b)
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"a and b must be images of one size, got {a.shape[-1]} and {b.shape[-1]} pixels")
    return power_error(radial_spectrum(a)[1], radial_spectrum(b)[1])


def power_error(a: Tensor, b: Tensor) -> float:
    """Compute :func:`spectrum_error` from spectra: that of a reference, of many images, is computed once.

    Args:
        a: power in each ring, of :func:`radial_spectrum`.
        b: the same, of images of the same size.

    Returns:
        0 for equal spectra, 1 for a factor of ten throughout; symmetric.

    Raises:
        ValueError: for spectra of different lengths, without a ring beside 0, or without power in one.

    Example:
        >>> import torch
        >>> from ismkit.evaluation.metrics import power_error, radial_spectrum
        >>> _, power = radial_spectrum(torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
        >>> round(power_error(power, 100 * power), 4)
        2.0
    """
    if a.shape != b.shape or len(a) < 2:
        raise ValueError(f"a and b must hold the power of equally many rings, two or more, got {len(a)} and {len(b)}")
    for name, power in (("a", a[1:]), ("b", b[1:])):
        if not (power > 0).all():
            ring = 1 + int((power <= 0).nonzero()[0])
            raise ValueError(f"{name} has no power at {ring} cycles per image: the logarithm is undefined")
    return (a[1:] / b[1:]).log10().abs().mean().item()


def curvature(trajectory: Tensor) -> Tensor:
    """Compute the curvature of sampler paths: their kinetic energy over that of straight ones, minus one.

    K sum_k |x_{k+1} - x_k|^2 / |x_K - x_0|^2 - 1 for K equal steps. It is >= 0 (Cauchy-Schwarz), and 0 only for the
    straight path at constant speed. Times |x_K - x_0|^2 and averaged it is the straightness S of Rectified Flow (Liu et
    al., arXiv 2209.03003) on this grid.

    Args:
        trajectory: states at equally spaced times, (K + 1, B, ...), as :func:`ismkit.method.sampling.trajectory` gives
            them.

    Returns:
        The curvature of each path, (B,) float64.

    Raises:
        TypeError: if the states are not floating point.
        ValueError: for another shape, states that are not finite, or a path that ends where it began.

    Example:
        Two paths from 0 to 2 in two steps: at constant speed, and all in the last step.

        >>> import torch
        >>> from ismkit import curvature
        >>> curvature(torch.tensor([[[0.0], [0.0]], [[1.0], [0.0]], [[2.0], [2.0]]]))
        tensor([0., 1.], dtype=torch.float64)
    """
    check_finite("trajectory", trajectory)
    if trajectory.ndim < 3 or len(trajectory) < 2:
        raise ValueError(f"trajectory must be (K + 1, B, ...) with K >= 1, got {tuple(trajectory.shape)}")
    states = trajectory.detach().double().flatten(start_dim=2)  # (K + 1, B, D)
    path = states.diff(dim=0).square().sum(dim=(0, 2)) * (len(states) - 1)
    straight = (states[-1] - states[0]).square().sum(dim=1)
    if not (straight > 0).all():
        still = int((straight <= 0).sum())
        raise ValueError(f"trajectory ends where it began for {still} samples: their curvature is undefined")
    return path / straight - 1


def wasserstein2(a: Tensor, b: Tensor) -> float:
    """Compute the exact 2-Wasserstein distance (not its square) of two point clouds.

    As defined by Peyré and Cuturi (arXiv 1803.00567, section 2), with uniform weights and Euclidean ground distance, by
    the network simplex of POT. A few thousand points at most: the cost
    matrix has n m entries and the time grows about with n^3.

    Args:
        a: points, (n, D).
        b: points, (m, D).

    Returns:
        The distance, >= 0.

    Raises:
        TypeError: if points are not floating point.
        ValueError: if points are not (n, D) of equal D, or not finite.
        RuntimeError: if the solver does not converge.

    Example:
        A cloud moved by (3, 4), in another order:

        >>> import torch
        >>> from ismkit import wasserstein2
        >>> a = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
        >>> round(wasserstein2(a, a.flip(0) + torch.tensor([3.0, 4.0])), 6)
        5.0
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
    """Compute the share of samples whose largest logit is that of the class asked for.

    This kit's measure of whether samples follow their labels: the accuracy of a classifier on them.

    Args:
        logits: of a classifier, (n, classes).
        y: classes, (n,).

    Returns:
        The share, in [0, 1].

    Raises:
        TypeError: if logits are not floating point.
        ValueError: for other shapes, logits that are not finite, or classes that the classifier does not know.

    Example:
        >>> import torch
        >>> from ismkit import class_agreement
        >>> class_agreement(torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [5.0, 4.0]]), torch.tensor([0, 1, 1, 0]))
        0.75
    """
    check_finite("logits", logits)
    check_kind("y", y, Tensor)
    if logits.ndim != 2 or y.shape != logits.shape[:1] or len(y) == 0:
        raise ValueError(
            f"logits must be (n, classes) and y (n,) with n >= 1, got {tuple(logits.shape)} and {tuple(y.shape)}"
        )
    check_labels(y, logits, "logits")
    if y.device != logits.device:
        raise ValueError(f"y must be on the device of logits, {logits.device}, got {y.device}")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(f"y must lie in [0, {logits.shape[1]}), the classes of logits, got {low} to {high}")
    return (logits.argmax(dim=1) == y).double().mean().item()


def _require_features(name: str, features: Tensor) -> None:
    check_finite(name, features)
    if features.ndim != 2 or features.numel() == 0:
        raise ValueError(f"{name} must be (n, F) with n, F >= 1, got {tuple(features.shape)}")


def _require_images(name: str, x: Tensor) -> None:
    check_finite(name, x)
    if x.ndim != 4 or x.shape[2] != x.shape[3] or x.numel() == 0:
        raise ValueError(f"{name} must be square images (B, C, N, N), got {tuple(x.shape)}")


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
    """Measure how the Fréchet distance falls with the number of samples, and where it would end.

    Its bias is proportional to 1 / n up to terms of 1 / n^2 (Chong and Forsyth, arXiv 1911.07023). The line distance =
    infinity + slope / n is fitted by least squares to the mean distances of random disjoint subsets.

    Args:
        features: (n, F), of all samples.
        reference: mean and covariance of the real ones.
        parts: the subsets hold n / part samples.
        repeats: at most so many subsets of each size.
        seed: of the subsets.

    Returns:
        A :class:`Bias`: sizes ``n``, mean ``distance`` and ``spread`` at each, ``slope`` and ``infinity`` of the line.

    Raises:
        TypeError: if features are not floating point.
        ValueError: if features are not (n, F) or not finite, ``parts`` are not two or more different numbers,
            or give subsets of one size, ``repeats`` is below 1, or the smallest subset has no more samples than
            features: the law of 1 / n does not hold there.

    Example:
        Samples of the reference itself: whatever their distance is, it is bias, and the line leads back to 0.

        >>> import torch
        >>> from ismkit.evaluation import bias
        >>> from ismkit.evaluation.metrics import Gaussian
        >>> features = torch.randn(3200, 2, generator=torch.Generator().manual_seed(0)).double()
        >>> found = bias(features, Gaussian(torch.zeros(2).double(), torch.eye(2).double()))
        >>> found.n, found.distance[0] > found.distance[-1]
        ([200, 400, 800, 1600, 3200], True)
        >>> abs(found.infinity) < 0.1 * found.distance[0]
        True
    """
    _require_features("features", features)
    check_count("repeats", repeats)
    as_integer(seed)
    _moments("reference", reference)
    if not isinstance(parts, Sequence) or isinstance(parts, str | bytes):
        raise ValueError(f"parts must be two or more different numbers of at least 1, got {shown(parts)}")
    n, size = features.shape
    if len(parts) < 2 or len(set(parts)) < len(parts) or not all(type(part) is int and part > 0 for part in parts):
        raise ValueError(f"parts must be two or more different numbers of at least 1, got {shown(parts)}")
    if len({n // part for part in parts}) < len(parts):
        raise ValueError(f"parts must give subsets of different sizes, {n} samples in {list(parts)} parts do not")
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
    """Compute the expected Fréchet distance between n samples of a Gaussian and that Gaussian, to leading order.

    With eigenvalues l_i of the covariance: (sum_i l_i + sum_ij l_i l_j (1 + [i = j]) / (2 (l_i + l_j))) / n; the first
    sum is the error of the mean, the second that of the covariance, to second order. F (F + 5) / (4 n) for the
    identity. What follows is of order 1 / n^2. That there is such a bias was shown by Chong and Forsyth (arXiv
    1911.07023); the closed form is this kit's.

    Args:
        cov: covariance, (F, F).
        n: number of samples.

    Returns:
        The expected distance, > 0, or 0 for the covariance 0.

    Raises:
        TypeError: if ``cov`` is not floating point.
        ValueError: if it is not (F, F), not finite, not symmetric or has negative eigenvalues, or ``n`` is below 1.

    Example:
        >>> import torch
        >>> from ismkit.evaluation import expected_bias
        >>> round(expected_bias(torch.eye(2), n=100), 6)  # 2 * (2 + 5) / 400
        0.035
    """
    check_count("n", n)
    _check_covariance("cov", cov)
    values = torch.linalg.eigvalsh(cov.double())
    _check_eigenvalues("cov", values)
    values = values[values > 0]
    pairs = values[:, None] * values / (2 * (values[:, None] + values))
    return ((values.sum() + pairs.sum() + pairs.diagonal().sum()) / n).item()
