"""Multi-level discrete wavelet transform (DWT), and distances between fields: pixel L2 and per wavelet band.

The transform is the orthonormal, periodised Mallat pyramid: only the low-pass band is split again. Bands come fine
to coarse, ``[(LH, HL, HH) of level 1, ..., of level L, LL of level L]``, each (B, C, H / 2^l, W / 2^l). For Haar it
is reshape, add and subtract; for any other orthogonal wavelet of PyWavelets, two small matrix products per level.

Because the transform is orthonormal, the plain sum of squares over all bands *equals* pixel L2 (Parseval). What the
loss favours is decided by :class:`WaveletDistance`'s ``weights`` and ``norm`` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ismkit.method.path import Query
from ismkit.utils.checks import check_count, check_number, check_tensor, shown
from ismkit.utils.settings import check_types

Norm = Literal["square", "root", "abs", "huber"]
#: An error per sample (B,), of prediction (B, ...), target (B, ...) and what was asked. :func:`l2`, yours.
Distance = Callable[[Tensor, Tensor, Query | None], Tensor]

EPS = 1e-8  # keeps the gradient of the root finite where a band is matched exactly


def l2(prediction: Tensor, target: Tensor, query: Query | None = None) -> Tensor:
    """Compute the mean squared error per sample.

    The distance of flow matching (arXiv 2210.02747) and of SM, before iSM's wavelet distance.

    Args:
        prediction: (B, ...).
        target: (B, ...), of the same shape.
        query: not used.

    Returns:
        One error per sample, (B,), in float32 at least.

    Raises:
        TypeError: if one of them holds no floating point numbers.
        ValueError: if the shapes or devices differ, or are not (B, ...).

    Example:
        >>> import torch
        >>> from ismkit import l2
        >>> l2(torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.zeros(2, 2))
        tensor([12.5000,  1.0000])
    """
    return _residual(prediction, target).square().flatten(1).mean(1)


def _residual(prediction: Tensor, target: Tensor) -> Tensor:
    check_tensor("prediction", prediction)
    check_tensor("target", target, ("prediction", prediction))
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction and target must have one shape, got {tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    if prediction.ndim < 2 or (not prediction[:1].numel() and len(prediction)):
        raise ValueError(
            f"prediction and target must be (B, ...) with 1 number a row or more, got {tuple(prediction.shape)}"
        )
    dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    return prediction.to(dtype) - target.to(dtype)


@lru_cache(maxsize=64)
def _analysis_matrix(wavelet: str, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal (n, n) matrix of one periodised DWT level: n/2 low-pass rows, then n/2 high-pass rows."""
    import numpy as np
    import pywt

    matrix = np.zeros((n, n))
    if wavelet in pywt.wavelist(kind="discrete"):
        matrix = np.concatenate(pywt.dwt(np.eye(n), wavelet, mode="periodization", axis=0))
    # Tested, since PyWavelets calls dmey orthogonal too, which is 3e-3 away from it.
    if not np.allclose(matrix @ matrix.T, np.eye(n), rtol=0, atol=1e-8):
        raise ValueError(f"wavelet must be orthogonal (haar, db2 ... db38, sym, coif), got {wavelet!r}")
    with torch.inference_mode(False):  # the cached matrix must also serve a later backward pass
        return torch.from_numpy(matrix).to(dtype).to(device)


def _split_haar(x: Tensor) -> list[Tensor]:
    """One Haar level on (..., H, W): LL, LH (horizontal detail), HL (vertical), HH, in PyWavelets' signs."""
    a, b = x[..., 0::2, 0::2], x[..., 0::2, 1::2]
    c, d = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
    top, bottom, left, right = a + b, c + d, a - b, c - d
    return [(top + bottom) / 2, (top - bottom) / 2, (left + right) / 2, (left - right) / 2]


def _merge_haar(low: Tensor, details: Sequence[Tensor]) -> Tensor:
    horizontal, vertical, diagonal = details
    top, bottom = low + horizontal, low - horizontal
    left, right = vertical + diagonal, vertical - diagonal
    rows = [torch.stack([(s + g) / 2, (s - g) / 2], -1).flatten(-2) for s, g in ((top, left), (bottom, right))]
    return torch.stack(rows, -2).flatten(-3, -2)


def _split_matrix(x: Tensor, wavelet: str) -> list[Tensor]:
    rows = _analysis_matrix(wavelet, x.shape[-2], x.dtype, x.device)
    columns = _analysis_matrix(wavelet, x.shape[-1], x.dtype, x.device)
    y = rows @ x @ columns.mT
    h, w = x.shape[-2] // 2, x.shape[-1] // 2
    return [y[..., :h, :w], y[..., h:, :w], y[..., :h, w:], y[..., h:, w:]]


def _merge_matrix(low: Tensor, details: Sequence[Tensor], wavelet: str) -> Tensor:
    horizontal, vertical, diagonal = details
    y = torch.cat([torch.cat([low, vertical], -1), torch.cat([horizontal, diagonal], -1)], -2)
    rows = _analysis_matrix(wavelet, y.shape[-2], y.dtype, y.device)
    columns = _analysis_matrix(wavelet, y.shape[-1], y.dtype, y.device)
    return rows.mT @ y @ columns


def dwt(x: Tensor, levels: int, wavelet: str = "haar") -> list[Tensor]:
    """Compute the multi-level 2D DWT: ``3 * levels + 1`` bands, fine to coarse.

    Equal to ``pywt.wavedec2(x, wavelet, mode="periodization", level=levels)`` in another order. For the pyramid see
    Mallat (1989, IEEE PAMI 11); the periodised, orthonormal form is this kit's choice.

    Args:
        x: fields, (..., H, W), whose sides can be halved ``levels`` times.
        levels: how often the low-pass band is split, 0 or more.
        wavelet: ``haar`` or any orthogonal wavelet of PyWavelets.

    Returns:
        ``[LH, HL, HH of level 1, ..., LH, HL, HH of level L, LL of level L]``, those of level l (..., H / 2^l, W /
        2^l).

    Raises:
        TypeError: if ``x`` holds no floating point numbers.
        ValueError: if a side of ``x`` cannot be halved ``levels`` times, or the wavelet is not orthogonal.

    Example:
        A constant field has no details; its energy, here 16, is all in the low-pass band (Parseval):

        >>> import torch
        >>> from ismkit import dwt
        >>> bands = dwt(torch.ones(1, 1, 4, 4), levels=2)
        >>> [tuple(band.shape[2:]) for band in bands]
        [(2, 2), (2, 2), (2, 2), (1, 1), (1, 1), (1, 1), (1, 1)]
        >>> [band.square().sum().item() for band in bands]
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 16.0]
    """
    check_tensor("x", x)
    levels = check_count("levels", levels, 0)
    _check_levels(x.shape, levels)
    _check_wavelet(wavelet)
    bands: list[Tensor] = []
    for _ in range(levels):
        x, *details = _split_haar(x) if wavelet == "haar" else _split_matrix(x, wavelet)
        bands += details
    return [*bands, x]


def idwt(bands: Sequence[Tensor], wavelet: str = "haar") -> Tensor:
    """Compute the inverse of :func:`dwt`.

    The synthesis of Mallat (1989, IEEE PAMI 11); as the filters are orthonormal, it is the transpose.

    Args:
        bands: as :func:`dwt` returns them, fine to coarse.
        wavelet: the same as there.

    Returns:
        The field, (..., H, W).

    Raises:
        TypeError: if a band holds no floating point numbers.
        ValueError: unless there are 3 bands per level and one low-pass band, of shapes that fit each other.

    Example:
        Without the finest bands a field becomes blocks of means:

        >>> import torch
        >>> from ismkit import dwt, idwt
        >>> x = torch.tensor([[1.0, 3.0, 0.0, 0.0], [5.0, 7.0, 0.0, 8.0]])
        >>> bands = dwt(x, levels=1)
        >>> idwt(bands).equal(x)
        True
        >>> idwt([torch.zeros_like(band) for band in bands[:3]] + bands[3:])
        tensor([[4., 4., 2., 2.],
                [4., 4., 2., 2.]])
    """
    _check_wavelet(wavelet)
    if not isinstance(bands, Sequence) or isinstance(bands, str | bytes):
        raise TypeError(f"bands must be a list of tensors, got {shown(bands)}")
    if len(bands) % 3 != 1:
        raise ValueError(f"bands must be 3 per level and one low-pass, 3 L + 1 in all, got {len(bands)}")
    for band in bands:
        check_tensor("each of the bands", band)
        check_tensor("each of the bands", band, ("the first", bands[0]))
    x = bands[-1]
    for i in range(len(bands) - 4, -1, -3):
        details = bands[i : i + 3]
        if x.ndim < 2 or any(band.shape != x.shape or band.dtype != x.dtype for band in details):
            shapes = ", ".join(f"{tuple(band.shape)} {band.dtype}" for band in (x, *details))
            raise ValueError(f"bands of a level must have one shape (..., H, W) and type, got {shapes}")
        x = _merge_haar(x, details) if wavelet == "haar" else _merge_matrix(x, details, wavelet)
    return x


def _check_wavelet(wavelet: str) -> None:
    if not isinstance(wavelet, str):
        raise ValueError(f"wavelet must be the name of an orthogonal one, such as haar, got {shown(wavelet)}")
    if wavelet != "haar":
        _analysis_matrix(wavelet, 32, torch.float64, torch.device("cpu"))  # refuses other wavelets


def _check_levels(shape: torch.Size, levels: int) -> None:
    if levels > 62 or len(shape) < 2 or any(side % 2**levels or not side for side in shape[-2:]):
        raise ValueError(f"levels={levels} needs sides that can be halved so often, got shape {tuple(shape)}")


def pad_to_power_of_two(x: Tensor) -> Tensor:
    """Zero-pad (..., H, W) at the bottom and right to powers of two: an exact isometry on a *residual*."""
    h, w = (1 << (side - 1).bit_length() for side in x.shape[-2:])
    return F.pad(x, (0, w - x.shape[-1], 0, h - x.shape[-2])) if (h, w) != x.shape[-2:] else x


def geometric_weights(levels: int, ratio: float) -> tuple[float, ...]:
    """List weights that grow or shrink by one ratio per level: ``(ratio, ratio^2, ..., ratio^L, ratio^L)``.

    They are for :class:`WaveletDistance`; the choice is this kit's.

    Args:
        levels: L.
        ratio: 1 is pixel L2 (Parseval); 4 is "mean square per band, then the sum over bands", which favours *low*
            frequencies; below 1 favours fine bands.

    Returns:
        Weights of the levels 1 to L, fine to coarse, then of the low-pass band.

    Raises:
        ValueError: if ``levels`` is no integer of at least 0, ``ratio`` not positive, or a weight not finite.

    Example:
        >>> from ismkit import geometric_weights
        >>> geometric_weights(3, 0.5)
        (0.5, 0.25, 0.125, 0.125)
        >>> geometric_weights(2, 4.0)
        (4.0, 16.0, 16.0)
    """
    check_count("levels", levels, 0)
    check_number("ratio", ratio, "above 0", 1e-300)
    try:
        weights = (*(ratio**level for level in range(1, levels + 1)), ratio**levels)
    except OverflowError as error:
        raise ValueError(f"ratio must be less far from 1 for {levels} levels, got {ratio}") from error
    return weights


def unit_weights(weights: Sequence[float]) -> tuple[float, ...]:
    """Scale weights so that their mean over all coefficients is 1: a white residual then costs what L2 costs.

    Level l holds ``3 / 4^l`` of the coefficients, the low-pass band ``1 / 4^L``. Distances scaled in this way differ in
    how they treat their bands, not in the size of their gradients, to which a bound on the gradient would respond. This
    kit's choice.

    Args:
        weights: of the levels, fine to coarse, then of the low-pass band.

    Returns:
        As many weights, in the same ratios.

    Raises:
        ValueError: for weights that are negative, all zero or none.

    Example:
        >>> from ismkit import unit_weights
        >>> [round(weight, 4) for weight in unit_weights((1.0, 0.5, 0.5))]  # 3/4 * 1 + 1/4 * 0.5 = 7/8
        [1.1429, 0.5714, 0.5714]
    """
    check_weights(weights)
    levels = len(weights) - 1
    shares = [3 / 4**level for level in range(1, levels + 1)] + [1 / 4**levels]
    mean = sum(weight * share for weight, share in zip(weights, shares, strict=True))
    return tuple(weight / mean for weight in weights)


def check_weights(weights: Sequence[float]) -> None:
    """Raise ValueError unless ``weights`` are numbers of at least 0, one or more, and not all 0."""
    numbers = isinstance(weights, tuple | list) and all(
        isinstance(w, int | float) and 0 <= w < math.inf for w in weights
    )
    if not numbers or not any(weights):
        raise ValueError(f"weights must be non-negative, one per level and one low-pass, got {shown(weights)}")


@dataclass(frozen=True)
class WaveletDistance:
    """Distance per sample as a weighted sum over wavelet bands (iSM, multi-level wavelet loss).

    With ``N`` coefficients in all and ``n_b`` in band b, ``distance = sum_b weights[level(b)] * (n_b / N) * norm_b``.
    So a weight is *per coefficient, relative to pixel L2*: all weights 1 with ``norm="square"`` is :func:`l2`.

    The paper gives five levels and an error per sub-band. The wavelet, the norm and the weights are this kit's choice.

    Attributes:
        weights: one per level, fine to coarse, then one for the low-pass band; its length sets the levels L.
        norm: of a band's coefficients e: ``square`` mean e^2; ``root`` sqrt(mean e^2), whose gradient is scaled by one
            over the error of that band; ``abs`` mean |e|; ``huber`` mean pseudo-Huber ``sqrt(e^2 + c^2) - c``.
        wavelet: ``haar`` or any orthogonal wavelet of PyWavelets.
        huber_c: the ``c`` of ``huber``, in the unit of the coefficients.

    Raises:
        ValueError: for weights that are negative, all zero or none, or for an unknown norm or wavelet.

    Example:
        Two errors of the same size, one as coarse as can be and one as fine. To L2 they are alike; weights that favour
        fine bands count the second one twice as much:

        >>> import torch
        >>> from ismkit import WaveletDistance, geometric_weights, l2, unit_weights
        >>> coarse = torch.ones(1, 4, 4)
        >>> fine = coarse.clone()
        >>> fine[:, ::2, 1::2] = fine[:, 1::2, ::2] = -1.0  # a checkerboard
        >>> errors = torch.stack([coarse, fine])
        >>> l2(errors, torch.zeros_like(errors))
        tensor([1., 1.])
        >>> WaveletDistance(unit_weights(geometric_weights(2, 0.5)))(errors, torch.zeros_like(errors))
        tensor([0.5714, 1.1429])
        >>> WaveletDistance((1.0, 1.0, 1.0))(errors, torch.zeros_like(errors))  # Parseval: L2 again
        tensor([1., 1.])
        >>> WaveletDistance((1.0, 1.0, 1.0)).check_shape((8, 1, 2, 2))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: WaveletDistance of levels=2 needs sides above 2, got shape (8, 1, 2, 2); use fewer, ...
    """

    weights: tuple[float, ...]
    norm: Norm = "square"
    wavelet: str = "haar"
    huber_c: float = 0.03

    def __post_init__(self) -> None:
        check_types(self)
        check_weights(self.weights)
        if not 0 < self.huber_c < math.inf:
            raise ValueError(f"huber_c must be positive, got {self.huber_c}")
        _check_wavelet(self.wavelet)

    @property
    def levels(self) -> int:
        """How many levels the transform has."""
        return len(self.weights) - 1

    def check_shape(self, shape: Sequence[int]) -> None:
        """Refuse samples that have no such bands.

        Args:
            shape: of a batch, (B, C, H, W).

        Raises:
            ValueError: for other shapes, or sides too short for the levels; the message says which recipe to take.
        """
        if len(shape) != 4 or not shape[1]:
            raise ValueError(
                f"WaveletDistance needs images (B, C, H, W), got shape {tuple(shape)}; use l2, as "
                "ismkit.training.runs.for_points(recipe) does"
            )
        side = min(shape[-2:])
        if side < 1 or self.levels > (side - 1).bit_length():
            raise ValueError(
                f"WaveletDistance of levels={self.levels} needs sides above {2**self.levels // 2}, got shape "
                f"{tuple(shape)}; use fewer, as ismkit.training.runs.for_side(recipe, {side}) does"
            )

    def __call__(self, prediction: Tensor, target: Tensor, query: Query | None = None) -> Tensor:
        """Compute the distance per sample, in float32 at least, also under autocast.

        Sides that are no power of two are zero-padded (the residual is, which changes no norm).

        Args:
            prediction: (B, C, H, W).
            target: (B, C, H, W).
            query: not used.

        Returns:
            Distances, (B,).

        Raises:
            ValueError: for other shapes, or sides too short for the levels.
        """
        residual = _residual(prediction, target)
        self.check_shape(residual.shape)
        if residual.is_meta:
            raise ValueError("prediction and target must hold numbers, got tensors on the device meta")
        with torch.autocast(residual.device.type, enabled=False):
            total = residual.shape[1:].numel()
            bands = dwt(pad_to_power_of_two(residual), self.levels, self.wavelet)
            distance = residual.new_zeros(len(residual))
            for i, band in enumerate(bands):
                # Padding only adds zeros, so n_b / N counts coefficients per *original* pixel: isometry kept.
                share = self.weights[i // 3] * band.shape[1:].numel() / total
                distance = distance + share * self._norm(band.flatten(1))
            return distance

    def _norm(self, band: Tensor) -> Tensor:  # (B, n) -> (B,)
        if self.norm == "square":
            return band.square().mean(1)
        if self.norm == "root":
            return (band.square().mean(1) + EPS).sqrt() - EPS**0.5
        if self.norm == "abs":
            return band.abs().mean(1)
        return ((band.square() + self.huber_c**2).sqrt() - self.huber_c).mean(1)


@dataclass(frozen=True)
class Normalised:
    """A distance divided by a power of itself: ``D / (sg(D) + c)^power`` per sample; sg stops the gradient.

    Samples with large errors pull less: at power 1 as in MeanFlow's adaptive weighting (arXiv 2505.13447, Eq. 22, with
    p = 1), at 1/2 about as the root, the pseudo-Huber loss of improved consistency training (arXiv 2310.14189).

    Attributes:
        distance: D, the error per sample that is normalised.
        power: in [0, 1]; 0 leaves the distance alone.
        c: keeps the denominator away from 0; positive, in the unit of D.

    Raises:
        ValueError: if ``power`` or ``c`` is out of range.

    Example:
        An error ten times as large has a gradient ten times as large under L2, and as large a one at power 1/2:

        >>> import torch
        >>> from ismkit import Normalised, l2
        >>> for distance in (l2, Normalised(l2, power=0.5, c=1e-6)):
        ...     x = torch.tensor([[0.1], [1.0]], requires_grad=True)
        ...     distance(x, torch.zeros(2, 1)).sum().backward()
        ...     print([round(slope, 3) for slope in x.grad.flatten().tolist()])
        [0.2, 2.0]
        [2.0, 2.0]
        >>> Normalised(l2).check_shape((8, 2))  # any: it asks the distance, and L2 takes all
    """

    distance: Distance
    power: float = 1.0
    c: float = 1e-3

    def __post_init__(self) -> None:
        check_types(self)
        if not callable(self.distance) or isinstance(self.distance, type):
            raise ValueError(f"distance must be a function, such as l2, got {shown(self.distance)}")
        if not 0 <= self.power <= 1 or not 0 < self.c < math.inf:
            raise ValueError(f"power must be in [0, 1] and c positive and finite, got {self.power} and {self.c}")

    def check_shape(self, shape: Sequence[int]) -> None:
        """Refuse samples that ``distance`` refuses, by its own method of this name if it has one.

        Args:
            shape: of a batch, (B, ...).

        Raises:
            ValueError: for samples that have no such distance.
        """
        if (check := getattr(self.distance, "check_shape", None)) is not None:
            check(shape)

    def __call__(self, prediction: Tensor, target: Tensor, query: Query | None = None) -> Tensor:
        """Compute the distance per sample.

        Args:
            prediction: (B, ...).
            target: (B, ...).
            query: what was asked, for ``distance``.

        Returns:
            Distances, (B,).
        """
        distance = self.distance(prediction, target, query)
        return distance / (distance.detach() + self.c) ** self.power


def candidates(levels: int) -> dict[str, Distance]:
    """List what the paper's words "error per sub-band" may mean, and two controls, by name: notebook 05 compares them.

    Pixel L2 is the first control. The second, ``root, no bands``, is the square root of L2 per sample. It shows what
    ``root per band`` owes to its root alone, which lowers the weight of samples with large errors, and not to its
    bands.
    """
    one = (1.0,) * (levels + 1)
    return {
        "pixel L2": l2,
        "band mean": WaveletDistance(unit_weights(geometric_weights(levels, 4.0))),
        "fine-weighted": WaveletDistance(unit_weights(geometric_weights(levels, 0.5))),
        "root per band": WaveletDistance(one, norm="root"),
        "root, no bands": WaveletDistance((1.0,), norm="root"),
        "L1 per band": WaveletDistance(one, norm="abs"),
    }
