"""The wavelet transform against PyWavelets, and the distance against the identities that fix its weights."""

import math
import warnings
from itertools import pairwise

import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ismkit.method.wavelet import (
    EPS,
    Distance,
    Norm,
    Normalised,
    WaveletDistance,
    _analysis_matrix,
    candidates,
    dwt,
    geometric_weights,
    idwt,
    l2,
    pad_to_power_of_two,
    unit_weights,
)

WAVELETS = ["haar", "db2", "db4", "sym4"]
NORMS: list[Norm] = ["square", "root", "abs", "huber"]
FORWARD_AD = pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # forward-mode AD loads its rules by it

wavelets = st.sampled_from(WAVELETS)
norms = st.sampled_from(NORMS)
seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 4)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=atol)


def distance_to_zero(residual: Tensor, weights: tuple[float, ...], norm: Norm, wavelet: str = "haar") -> Tensor:
    return WaveletDistance(weights, norm, wavelet)(residual, torch.zeros_like(residual))


# -------------------------------------------------------------------------------------------------- the transform


def pywt_bands(x: Tensor, wavelet: str, levels: int) -> list[Tensor]:
    """PyWavelets' bands in the kit's order: details fine to coarse, each (horizontal, vertical, diagonal), low-pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "all coefficients will experience boundary effects": periodised
        low, *details = pywt.wavedec2(x.numpy(), wavelet, mode="periodization", level=levels)
    return [torch.from_numpy(band) for level in reversed(details) for band in level] + [torch.from_numpy(low)]


@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize(("height", "width", "levels"), [(32, 32, 5), (32, 32, 1), (8, 32, 3), (16, 4, 2), (28, 28, 2)])
def test_equals_pywavelets_band_by_band(wavelet: str, height: int, width: int, levels: int) -> None:
    x = normal(2, 3, height, width)
    bands, expected = dwt(x, levels, wavelet), pywt_bands(x, wavelet, levels)
    assert len(bands) == len(expected) == 3 * levels + 1
    for i, (ours, theirs) in enumerate(zip(bands, expected, strict=True)):
        level = min(i // 3 + 1, levels)
        assert ours.shape == (2, 3, height >> level, width >> level)
        close(ours, theirs)


@given(wavelets, st.integers(0, 4), sides, sides, seeds)
@settings(max_examples=40)
def test_perfect_reconstruction_and_parseval(wavelet: str, levels: int, h: int, w: int, seed: int) -> None:
    x = normal(2, h << levels, w << levels, seed=seed)
    bands = dwt(x, levels, wavelet)
    close(idwt(bands, wavelet), x, atol=1e-10)  # PyWavelets' sym4 filter is orthonormal to 1e-12 per level
    energy = torch.stack([band.square().flatten(1).sum(1) for band in bands]).sum(0)
    torch.testing.assert_close(energy, x.square().flatten(1).sum(1), rtol=1e-10, atol=0)


@given(wavelets, st.integers(1, 4), seeds)
@settings(max_examples=20)
def test_any_bands_are_the_transform_of_their_inverse(wavelet: str, levels: int, seed: int) -> None:
    bands = [torch.randn_like(band) for band in dwt(normal(1, 1 << levels, 2 << levels, seed=seed), levels, wavelet)]
    for once, again in zip(bands, dwt(idwt(bands, wavelet), levels, wavelet), strict=True):
        close(again, once, atol=1e-10)


def test_haar_by_add_and_subtract_is_haar_by_matrix() -> None:
    x = normal(2, 3, 16, 32)
    for added, multiplied in zip(dwt(x, 4, "haar"), dwt(x, 4, "db1"), strict=True):
        close(added, multiplied)


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_a_constant_image_is_low_pass_only(wavelet: str) -> None:
    *details, low = dwt(torch.ones(1, 16, 16, dtype=torch.float64), 3, wavelet)
    assert all(band.abs().max() < 1e-10 for band in details)
    close(low, torch.full_like(low, 2.0**3), atol=1e-10)


def test_a_stripe_pattern_is_in_the_band_of_its_direction() -> None:
    columns = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 8, 8)  # changes from left to right: vertical detail
    for image, i in ((columns, 1), (columns.mT, 0), (columns * columns.mT, 2)):
        energy = [band.square().sum().item() for band in dwt(image, 2)]
        assert energy[i] == pytest.approx(64)
        assert sum(energy) == pytest.approx(64)


@given(st.integers(1, 40), st.integers(1, 40))
def test_padding_is_an_isometry_to_the_next_powers_of_two(h: int, w: int) -> None:
    x = normal(2, h, w)
    padded = pad_to_power_of_two(x)
    for side, before in zip(padded.shape[-2:], (h, w), strict=True):
        assert side.bit_count() == 1
        assert side // 2 < before <= side
    assert torch.equal(padded[..., :h, :w], x)
    close(padded.square().sum(), x.square().sum())


# ---------------------------------------------------------------------------------- what the weights and norms mean


@given(wavelets, st.integers(0, 5), seeds)
@settings(max_examples=30)
def test_all_weights_one_is_l2_at_every_level(wavelet: str, levels: int, seed: int) -> None:
    a, b = normal(2, 3, 2, 32, 32, seed=seed)
    distance = WaveletDistance((1.0,) * (levels + 1), wavelet=wavelet)
    assert distance.levels == levels
    torch.testing.assert_close(distance(a, b), l2(a, b), rtol=1e-9, atol=0)


@given(st.integers(17, 32), st.integers(17, 32), st.integers(0, 5))
@settings(max_examples=20)
def test_all_weights_one_is_l2_on_sides_that_are_no_power_of_two(h: int, w: int, levels: int) -> None:
    a, b = normal(2, 3, 1, h, w)
    torch.testing.assert_close(WaveletDistance((1.0,) * (levels + 1))(a, b), l2(a, b), rtol=1e-12, atol=0)


def test_all_weights_one_is_l2_on_the_28_pixels_of_clothes() -> None:
    a, b = normal(2, 5, 1, 28, 28)
    torch.testing.assert_close(WaveletDistance((1.0,) * 6)(a, b), l2(a, b), rtol=1e-12, atol=0)


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_ratio_four_is_the_sum_over_bands_of_the_mean_square_of_each(levels: int) -> None:
    a, b = normal(2, 3, 2, 32, 32)
    means = sum(band.square().flatten(1).mean(1) for band in dwt(a - b, levels))
    assert isinstance(means, Tensor)
    close(WaveletDistance(geometric_weights(levels, 4))(a, b), means)
    if levels == 1:
        close(means, 4 * l2(a, b))


@given(st.integers(0, 6), st.floats(0.1, 10))
def test_geometric_weights(levels: int, ratio: float) -> None:
    weights = geometric_weights(levels, ratio)
    assert len(weights) == levels + 1
    assert all(math.isclose(b, a * ratio) for a, b in pairwise([1.0, *weights[:-1]]))
    assert weights[-1] == (weights[-2] if levels else 1)


def test_the_weight_table() -> None:
    assert geometric_weights(5, 4) == (4, 16, 64, 256, 1024, 1024)
    assert geometric_weights(5, 1) == (1,) * 6


@pytest.mark.parametrize(("ratio", "finest"), [(4.0, 3 / 16), (1.0, 3 / 4)])
def test_share_of_the_finest_level_in_a_white_residual(ratio: float, finest: float) -> None:
    # A residual whose coefficients are all 1 in size: 18.75 % where band means are summed, 75 % in pixel L2.
    white = idwt([band.sign() for band in dwt(normal(1, 1, 32, 32), 5)])
    weights = geometric_weights(5, ratio)
    share = distance_to_zero(white, (weights[0], 0, 0, 0, 0, 0), "square") / distance_to_zero(white, weights, "square")
    assert share.item() == pytest.approx(finest, rel=1e-12)


def by_hand(bands: list[Tensor], weights: tuple[float, ...], norm: Norm, c: float, pixels: int) -> float:
    total = 0.0
    for i, band in enumerate(bands):
        e = band.flatten().tolist()
        per_band = {
            "square": sum(v * v for v in e) / len(e),
            "root": math.sqrt(sum(v * v for v in e) / len(e) + EPS) - math.sqrt(EPS),
            "abs": sum(abs(v) for v in e) / len(e),
            "huber": sum(math.sqrt(v * v + c * c) - c for v in e) / len(e),
        }[norm]
        total += weights[i // 3] * len(e) / pixels * per_band
    return total


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_the_distance_is_the_stated_sum_over_bands(norm: Norm, wavelet: str) -> None:
    a, b = normal(2, 3, 2, 8, 8)
    weights = (0.5, 2.0, 3.0)
    distances = WaveletDistance(weights, norm, wavelet, huber_c=0.1)(a, b)
    for distance, residual in zip(distances, a - b, strict=True):
        assert distance.item() == pytest.approx(by_hand(dwt(residual, 2, wavelet), weights, norm, 0.1, 128), rel=1e-12)


def test_huber_goes_from_abs_to_square() -> None:
    x = normal(2, 1, 8, 8)
    zero = torch.zeros_like(x)
    weights = (1.0, 2.0)
    small, large = (WaveletDistance(weights, "huber", huber_c=c)(x, zero) for c in (1e-9, 1e4))
    torch.testing.assert_close(small, distance_to_zero(x, weights, "abs"), rtol=1e-7, atol=0)
    torch.testing.assert_close(2e4 * large, distance_to_zero(x, weights, "square"), rtol=1e-6, atol=0)


def test_the_gradient_of_the_root_is_that_of_the_square_over_twice_the_error_of_the_band() -> None:
    scale = torch.tensor([0.01, 1.0, 30.0])  # errors of the bands far apart
    bands = [band * scale[i % 3] for i, band in enumerate(dwt(normal(1, 1, 16, 16), 3))]
    x = idwt(bands).requires_grad_()
    gradients = [
        dwt(torch.autograd.grad(distance_to_zero(x, (1.0, 2.0, 3.0, 4.0), norm).sum(), x)[0], 3)
        for norm in ("square", "root")
    ]
    for band, square, root in zip(bands, *gradients, strict=True):
        error = (band.square().mean() + EPS).sqrt()
        torch.testing.assert_close(root, square / (2 * error), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_a_match_costs_nothing_and_pulls_nowhere(norm: Norm) -> None:
    x = normal(2, 1, 8, 8).requires_grad_()
    distance = WaveletDistance(geometric_weights(3, 0.5), norm)(x, x.detach())
    assert distance.tolist() == [0, 0]
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    assert not gradient.any()


@given(norms, wavelets, seeds, st.floats(0.1, 10))
@settings(max_examples=30)
def test_a_distance_is_positive_symmetric_and_of_each_sample_alone(
    norm: Norm, wavelet: str, seed: int, ratio: float
) -> None:
    a, b = normal(2, 4, 2, 8, 8, seed=seed)
    measure = WaveletDistance(geometric_weights(2, ratio), norm, wavelet)
    distance = measure(a, b)
    assert distance.shape == (4,)
    assert (distance > 0).all()
    close(measure(b, a), distance)
    order = torch.tensor([2, 0, 3, 1])
    close(measure(a[order], b[order]), distance[order])
    close(torch.cat([measure(a[i : i + 1], b[i : i + 1]) for i in range(4)]), distance)


@pytest.mark.parametrize("levels", [0, 1, 3])
@pytest.mark.parametrize("ratio", [4.0, 1.0, 0.5])
def test_unit_weights_charge_white_noise_what_l2_does(levels: int, ratio: float) -> None:
    weights = unit_weights(geometric_weights(levels, ratio))
    everywhere = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    white = idwt(dwt(everywhere, 0)[:0] + [torch.ones_like(band) for band in dwt(everywhere, levels)])
    close(distance_to_zero(white, weights, "square"), l2(white, torch.zeros_like(white)))
    close(torch.tensor(weights) / weights[0], torch.tensor(geometric_weights(levels, ratio)) / ratio ** min(levels, 1))


def test_candidates_differ_only_in_how_they_treat_bands() -> None:
    """All make about the same of white noise: the squares the same mean, the roots the same, L1 sqrt(2 / pi) of it."""
    x = normal(64, 4, 16, 16)
    cost = {name: distance(x, torch.zeros_like(x)).mean().item() for name, distance in candidates(4).items()}
    assert next(iter(cost)) == "pixel L2"
    assert candidates(4)["pixel L2"] is l2
    # Five standard deviations of the mean of 64 samples; the low-pass band of band mean has 4 numbers.
    for name in ("pixel L2", "band mean", "fine-weighted", "root, no bands"):
        assert cost[name] == pytest.approx(1, abs=0.06), name
    assert cost["L1 per band"] == pytest.approx(math.sqrt(2 / math.pi), abs=0.01)
    assert cost["root per band"] == pytest.approx(1, abs=0.02)


# --------------------------------------------------------------------------------------------- normalised distances

DISTANCES = [l2, WaveletDistance((1.0, 0.5, 2.0), "root")]


@given(st.sampled_from(DISTANCES), st.floats(0, 1), st.floats(1e-4, 10), seeds)
@settings(max_examples=30)
def test_normalised_divides_by_a_power_of_the_distance(distance: Distance, power: float, c: float, seed: int) -> None:
    a, b = normal(2, 4, 2, 8, 8, seed=seed)
    a *= torch.tensor([1e-3, 1.0, 3.0, 100.0])[:, None, None, None]
    for i, (one, normalised) in enumerate(zip(distance(a, b), Normalised(distance, power, c)(a, b), strict=True)):
        assert normalised.item() == pytest.approx(one.item() / (one.item() + c) ** power, rel=1e-12), i


@given(st.sampled_from(DISTANCES), st.floats(0, 1), st.floats(1e-4, 10), seeds)
@settings(max_examples=30)
def test_gradient_of_normalised_is_that_of_the_distance_over_the_power(
    distance: Distance, power: float, c: float, seed: int
) -> None:
    a, b = normal(2, 4, 2, 8, 8, seed=seed)
    a.requires_grad_()
    plain = distance(a, b)
    (expected,) = torch.autograd.grad(plain.sum(), a)
    (gradient,) = torch.autograd.grad(Normalised(distance, power, c)(a, b).sum(), a)
    close(gradient, expected / (plain.detach() + c)[:, None, None, None] ** power)


@pytest.mark.parametrize("distance", DISTANCES, ids=["l2", "wavelets"])
def test_normalised_at_power_0_is_the_distance_and_at_power_1_bounded(distance: Distance) -> None:
    a, b = normal(2, 5, 2, 8, 8)
    a *= torch.tensor([0.0, 1e-6, 1.0, 1e3, 1e5])[:, None, None, None]
    b[0] = 0
    assert torch.equal(Normalised(distance, 0.0)(a, b), distance(a, b))
    bounded = Normalised(distance, 1.0, 1e-3)(a, b)
    assert ((bounded >= 0) & (bounded < 1)).all()
    assert bounded[0] == 0  # a match costs nothing
    assert bounded[-1] > 0.999


# ------------------------------------------------------------------------------------------ precision and autograd


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_autocast_changes_nothing(norm: Norm, wavelet: str) -> None:
    a, b = normal(2, 3, 2, 16, 16, dtype=torch.float32)
    measure = WaveletDistance(geometric_weights(4, 0.5), norm, wavelet)
    plain = measure(a, b), l2(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        inside = measure(a, b), l2(a, b)
    for distance, expected in zip(inside, plain, strict=True):
        assert distance.dtype == torch.float32
        assert torch.equal(distance, expected)


@given(
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.sampled_from(["haar", "db2"]),
)
def test_distances_are_of_float32_at_least(one: torch.dtype, other: torch.dtype, wavelet: str) -> None:
    a, b = normal(2, 3, 1, 8, 8)
    a, b = a.to(one), b.to(other)
    wide = torch.float64 if torch.float64 in (one, other) else torch.float32
    for distance in (l2, WaveletDistance((1.0, 1.0), wavelet=wavelet)):
        assert distance(a, b).dtype == wide
        torch.testing.assert_close(
            distance(a, b), distance(a.double(), b.double()).to(wide), rtol=1e-5, atol=0
        )  # rounded once, on the way in


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_gradients_against_finite_differences(norm: Norm, wavelet: str) -> None:
    a, b = normal(2, 2, 1, 4, 4)
    measure = WaveletDistance((1.0, 2.0, 3.0), norm, wavelet)
    assert torch.autograd.gradcheck(lambda x: measure(x, b), (a.requires_grad_(),))


@FORWARD_AD
@pytest.mark.parametrize("wavelet", ["haar", "db2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_jvp_of_the_linear_transform_is_the_transform_of_the_tangent(wavelet: str, dtype: torch.dtype) -> None:
    _analysis_matrix.cache_clear()  # the matrix is first made inside the transformed function, and outlives it
    x, tangent = normal(2, 2, 8, 8, dtype=dtype)
    for _ in range(2):
        pushed = torch.func.jvp(lambda z: dwt(z, 3, wavelet), (x,), (tangent,))[1]
        for ours, expected in zip(pushed, dwt(tangent, 3, wavelet), strict=True):
            torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_vmap_over_samples_is_the_batch(wavelet: str) -> None:
    _analysis_matrix.cache_clear()
    a, b = normal(2, 5, 1, 2, 8, 8)
    measure = WaveletDistance(geometric_weights(3, 0.5), "root", wavelet)
    close(torch.func.vmap(measure)(a, b).flatten(), measure(a.flatten(0, 1), b.flatten(0, 1)))


def test_a_matrix_made_in_inference_mode_serves_training_too() -> None:
    _analysis_matrix.cache_clear()
    a, b = normal(2, 1, 1, 8, 8)
    measure = WaveletDistance((1.0, 1.0), wavelet="db2")
    with torch.inference_mode():
        measure(a, b)
    measure(a.requires_grad_(), b).sum().backward()
    assert a.grad is not None


def test_compiles_whole() -> None:
    measure = WaveletDistance(geometric_weights(5, 0.5), "root")
    a, b = normal(2, 2, 1, 28, 28)
    close(torch.compile(measure, backend="eager", fullgraph=True)(a, b), measure(a, b))


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("weights", [(), (0.0, 0.0), (1.0, -1.0), (math.nan, 1.0)])
def test_weights_that_weigh_nothing_or_less_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"weights must be non-negative, one per level and one low-pass, got \("):
        WaveletDistance(weights)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm must be one of square, root, abs, huber, got 'l1'"):
        WaveletDistance((1.0, 1.0), "l1")  # type: ignore[arg-type]


@pytest.mark.parametrize("c", [0.0, -1.0, math.nan])
def test_a_huber_width_that_is_not_positive_is_refused(c: float) -> None:
    with pytest.raises(ValueError, match=f"huber_c must be positive, got {c}"):
        WaveletDistance((1.0, 1.0), "huber", huber_c=c)


BAD = [(-0.1, 1.0), (1.1, 1.0), (math.nan, 1.0), (0.5, 0.0), (1.0, -1.0), (1.0, math.nan), (0.5, math.inf)]


@pytest.mark.parametrize(("power", "c"), BAD)
def test_a_normalisation_without_bound_is_refused(power: float, c: float) -> None:
    with pytest.raises(ValueError, match=rf"power must be in \[0, 1\] and c positive and finite, got {power} and {c}"):
        Normalised(l2, power, c)


@pytest.mark.parametrize("wavelet", ["harr", "", "bior2.2", "dmey", "morl"])
def test_a_wavelet_that_is_not_orthogonal_is_refused_before_any_work(wavelet: str) -> None:
    with pytest.raises(ValueError, match=rf"wavelet must be orthogonal \(haar, .*\), got '{wavelet}'"):
        WaveletDistance((1.0, 1.0), wavelet=wavelet)
    with pytest.raises(ValueError, match=rf"wavelet must be orthogonal \(haar, .*\), got '{wavelet}'"):
        dwt(torch.zeros(4, 4), 1, wavelet)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (3, 3), (0, 4), (4,)])
def test_sides_that_cannot_be_halved_so_often_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"levels=2 needs sides that can be halved so often, got shape \("):
        dwt(torch.zeros(shape), 2)


def test_more_levels_than_the_padded_image_has_are_refused() -> None:
    x = torch.zeros(1, 1, 7, 7)
    WaveletDistance((1.0,) * 4)(x, x)
    with pytest.raises(ValueError, match=r"levels=4 needs sides above 8, got shape \(1, 1, 7, 7\); .*for_side"):
        WaveletDistance((1.0,) * 5)(x, x)


def test_negative_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="levels must be an integer of at least 0, got -1"):
        dwt(torch.zeros(4, 4), -1)


@pytest.mark.parametrize("count", [0, 2, 3, 6])
def test_bands_that_make_no_pyramid_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"bands must be 3 per level and one low-pass, .*, got {count}"):
        idwt([torch.zeros(2, 2)] * count)


@pytest.mark.parametrize("distance", [l2, WaveletDistance((1.0, 1.0))])
def test_two_shapes_are_refused(distance: WaveletDistance) -> None:
    with pytest.raises(ValueError, match=r"must have one shape, got \(1, 1, 4, 4\) and \(1, 4, 4\)"):
        distance(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4))  # would broadcast


def test_points_are_sent_to_l2() -> None:
    with pytest.raises(ValueError, match=r"needs images \(B, C, H, W\), got shape \(5, 2\); use l2"):
        WaveletDistance((1.0, 1.0))(torch.zeros(5, 2), torch.zeros(5, 2))
