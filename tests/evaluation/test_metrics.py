"""Metrics: closed forms, invariances and independent implementations."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ismkit.evaluation import metrics
from ismkit.evaluation.metrics import Moments, frechet

seeds = st.integers(0, 2**31)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(mean: Tensor, cov: Tensor) -> Moments:
    """Moments of 2 F samples that have exactly this mean and covariance."""
    dimensions = len(mean)
    values, vectors = torch.linalg.eigh(cov)
    steps = (vectors * (values.clamp(min=0) * (2 * dimensions - 1) / 2).sqrt()).T
    return Moments(mean + torch.cat([steps, -steps]))


def rotation(dimensions: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(dimensions, dimensions, seed=seed)).Q


# Moments


@given(seeds, st.integers(2, 40), st.integers(1, 6), st.floats(0, 1e6), st.integers(0, 40))
def test_moments_equal_numpy_however_the_samples_are_split(
    seed: int, n: int, dimensions: int, offset: float, cut: int
) -> None:
    features = normal(n, dimensions, seed=seed) + offset
    one, two = Moments(), Moments()
    for part in (features[: cut // 2], features[cut // 2 : cut]):
        if len(part):
            one.update(part)
    if len(features[cut:]):
        two.update(features[cut:])
    one.merge(two)
    assert one.n == n
    rounding = 1e-14 * offset
    torch.testing.assert_close(one.mean, features.mean(dim=0), rtol=1e-12, atol=1e-12 + rounding)
    cov = torch.from_numpy(np.cov(features.numpy(), rowvar=False).reshape(dimensions, dimensions))
    torch.testing.assert_close(one.cov, cov, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_moments_of_low_precision_are_gathered_in_double(dtype: torch.dtype) -> None:
    features = (normal(500, 3, seed=0) + 50).to(dtype)
    moments, expected = Moments(features), Moments(features.double())
    assert torch.equal(moments.mean, expected.mean)
    assert torch.equal(moments.cov, expected.cov)


def test_merging_leaves_the_other_as_it_was() -> None:
    one, two = Moments(normal(5, 2, seed=0)), Moments(normal(7, 2, seed=1))
    mean, cov = two.mean.clone(), two.cov.clone()
    empty = Moments()
    empty.merge(two)
    empty.merge(one)
    one.merge(Moments())
    assert (one.n, two.n, empty.n) == (5, 7, 12)
    assert torch.equal(two.mean, mean)
    assert torch.equal(two.cov, cov)


# Fréchet distance


def test_frechet_of_commuting_covariances_is_the_distance_of_means_and_deviations() -> None:
    a, b = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 0.25, 9.0]).double()
    shift = torch.tensor([0.0, 2.0, -1.0]).double()
    expected = shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    turn = rotation(3, seed=0)
    one = exact(torch.zeros(3).double(), turn @ a.diag() @ turn.T)
    two = exact(shift, turn @ b.diag() @ turn.T)
    assert frechet(one, two) == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("n", [5, 100])  # fewer samples than dimensions: singular covariances
def test_frechet_of_a_shift_is_its_square_and_of_a_scaling_known(n: int) -> None:
    features = normal(n, 16, seed=n)
    moments, shift = Moments(features), normal(16, seed=0)
    assert frechet(moments, moments) == pytest.approx(0, abs=1e-11)
    assert frechet(moments, Moments(features + shift)) == pytest.approx(shift.square().sum().item(), rel=1e-11)
    expected = 4 * moments.mean.square().sum() + 4 * moments.cov.trace()
    assert frechet(moments, Moments(3 * features)) == pytest.approx(expected.item(), rel=1e-11)


@given(seeds, st.integers(2, 30), st.floats(0.1, 10))
def test_frechet_is_symmetric_nonnegative_and_scales_as_a_square_under_similarities(
    seed: int, n: int, scale: float
) -> None:
    a, b = normal(n, 8, seed=seed), normal(n + 3, 8, seed=seed + 1) @ normal(8, 8, seed=seed + 2)
    distance = frechet(Moments(a), Moments(b))
    assert distance >= 0
    assert frechet(Moments(b), Moments(a)) == pytest.approx(distance, rel=1e-11)
    turn, shift = scale * rotation(8, seed=seed + 3), normal(8, seed=seed + 4)
    moved = frechet(Moments(a @ turn + shift), Moments(b @ turn + shift))
    assert moved == pytest.approx(scale**2 * distance, rel=1e-11)


def test_frechet_equals_torch_fidelity() -> None:
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    for seed in range(5):
        a, b = normal(400, 32, seed=seed), normal(300, 32, seed=100 + seed) @ normal(32, 32, seed=seed) + 0.3
        statistics = [fid.fid_features_to_statistics(features) for features in (a, b)]
        theirs = fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
        assert frechet(Moments(a), Moments(b)) == pytest.approx(theirs, rel=1e-9)


# Precision and recall


def test_precision_and_recall_equal_torch_fidelity() -> None:
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    for seed in range(5):
        generated, real = 0.7 * normal(1500, 8, seed=seed), normal(1200, 8, seed=100 + seed) + 0.2
        arguments = {"prc_neighborhood": 3, "prc_batch_size": 500, "save_cpu_ram": True, "verbose": False}
        theirs = prc.prc_features_to_metric(generated, real, **arguments)
        precision, recall = metrics.precision_recall(generated, real)
        assert precision == pytest.approx(theirs["precision"], abs=1e-7)  # theirs is averaged in float32
        assert recall == pytest.approx(theirs["recall"], abs=1e-7)
        assert 0 < recall < precision < 1


def test_precision_and_recall_of_known_sets() -> None:
    real = torch.arange(10.0)[:, None]  # k = 1: balls of radius 1 cover [-1, 10]
    generated = torch.tensor([[-1.0], [10.0], [10.5], [4.5]])  # nearest others at 5.5, 0.5, 0.5 and 5.5
    precision, recall = metrics.precision_recall(generated, real, k=1)
    assert precision == 3 / 4
    assert recall == 1.0  # [-6.5, 4.5], [9.5, 11] and [-1, 10]
    assert metrics.precision_recall(real, real) == (1.0, 1.0)
    assert metrics.precision_recall(real, real + 100) == (0.0, 0.0)


# Radial spectrum


def ring_sizes(size: int) -> Tensor:
    cycles = [k if k < (size + 1) // 2 else k - size for k in range(size)]
    rings = [round(math.hypot(i, j)) for i in cycles for j in cycles]
    return torch.tensor([rings.count(r) for r in range(max(rings) + 1)]).double()


@given(st.integers(1, 33), st.integers(1, 3), seeds)
def test_the_power_of_all_rings_is_the_energy_of_the_image(size: int, channels: int, seed: int) -> None:
    x = normal(4, channels, size, size, seed=seed)
    frequencies, power = metrics.radial_spectrum(x)
    counts = ring_sizes(size)
    assert torch.equal(frequencies, torch.arange(len(counts)).double())
    energy = x.square().sum(dim=(2, 3)).mean()
    torch.testing.assert_close((power * counts).sum(), energy, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("down", "right", "ring"), [(0, 0, 0), (0, 3, 3), (5, 0, 5), (3, 4, 5), (8, 8, 11)])
def test_a_wave_lands_in_its_ring(down: int, right: int, ring: int) -> None:
    grid = torch.arange(16).double()
    phase = 2 * math.pi / 16 * (down * grid[:, None] + right * grid)
    _, power = metrics.radial_spectrum(phase.cos()[None, None])
    assert power.argmax() == ring
    rest = torch.cat([power[:ring], power[ring + 1 :]])
    assert rest.max() < 1e-25 * power[ring]


def test_the_spectrum_of_white_noise_is_flat_and_batches_are_averaged() -> None:
    x = 2 * normal(150, 1, 16, 16, seed=0)
    _, power = metrics.radial_spectrum(x)
    # About half of a real image's coefficients are free; chi-squared: variance 2 per degree of freedom.
    deviation = 4 * (2 / (150 * (ring_sizes(16) / 2).clamp(min=1))).sqrt()
    assert ((power - 4).abs() < 6 * deviation).all()
    halves = [metrics.radial_spectrum(part)[1] for part in x.split(75)]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, power, rtol=1e-12, atol=0)


@given(st.floats(0.01, 100), seeds)
def test_spectrum_error_of_a_change_of_contrast(scale: float, seed: int) -> None:
    a = normal(3, 2, 9, 9, seed=seed)
    assert metrics.spectrum_error(scale * a + 5, a) == pytest.approx(2 * abs(math.log10(scale)), abs=1e-9)
    b = normal(3, 2, 9, 9, seed=seed + 1)
    assert metrics.spectrum_error(a, b) == pytest.approx(metrics.spectrum_error(b, a), rel=1e-12)


# Curvature


@given(st.integers(1, 20), st.integers(1, 4), seeds)
def test_curvature_is_nonnegative_zero_when_straight_and_free_of_similarities(
    steps: int, samples: int, seed: int
) -> None:
    ends = normal(2, samples, 3, 2, seed=seed)
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)[:, None, None, None]
    straight = (1 - times) * ends[0] + times * ends[1]
    assert metrics.curvature(straight).abs().max() < 1e-9
    bent = straight + normal(steps + 1, samples, 3, 2, seed=seed + 1)
    curvature = metrics.curvature(bent)
    assert curvature.shape == (samples,)
    assert (curvature > -1e-12).all()
    torch.testing.assert_close(metrics.curvature(4 * bent + 1), curvature, rtol=1e-6, atol=1e-9)


def test_curvature_of_a_half_circle() -> None:
    """K chords of length 2 sin(pi / 2K) over a diameter of 2: K^2 sin(pi / 2K)^2 - 1, to pi^2 / 4 - 1."""
    for steps in (1, 2, 7, 1000):
        angle = torch.linspace(0, math.pi, steps + 1, dtype=torch.float64)
        path = torch.stack([angle.cos(), angle.sin()], dim=1)[:, None]
        expected = (steps * math.sin(math.pi / 2 / steps)) ** 2 - 1
        assert metrics.curvature(path).item() == pytest.approx(expected, abs=1e-12)
    assert expected == pytest.approx(math.pi**2 / 4 - 1, rel=1e-5)


def test_curvature_counts_uneven_speed() -> None:
    """On a line at speed 2t: the integral of (2t)^2 is 4/3."""
    path = torch.linspace(0, 1, 2001, dtype=torch.float64).square()[:, None, None]
    assert metrics.curvature(path).item() == pytest.approx(1 / 3, rel=1e-6)


# 2-Wasserstein distance and class agreement


def test_wasserstein_of_a_translation_is_its_length() -> None:
    pytest.importorskip("ot")
    points, shift = normal(200, 3, seed=0), torch.tensor([3.0, -4.0, 12.0])
    assert metrics.wasserstein2(points, points + shift) == pytest.approx(13, rel=1e-12)
    assert metrics.wasserstein2(points, points) == pytest.approx(0, abs=1e-7)


@given(seeds, st.integers(1, 60))
def test_wasserstein_on_a_line_pairs_the_sorted_points(seed: int, n: int) -> None:
    pytest.importorskip("ot")
    a, b = normal(n, 1, seed=seed), 2 * normal(n, 1, seed=seed + 1) + 1
    expected = (a.sort(dim=0).values - b.sort(dim=0).values).square().mean().sqrt()
    assert metrics.wasserstein2(a, b) == pytest.approx(expected.item(), rel=1e-9)
    # Every point three times is the same measure with another number of points.
    assert metrics.wasserstein2(a.repeat(3, 1), b) == pytest.approx(expected.item(), rel=1e-9)


def test_class_agreement_counts() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 5.0], [1.0, 0.0], [-1.0, -2.0]])
    assert metrics.class_agreement(logits, torch.tensor([0, 1, 1, 0])) == 0.75


# Bad input

FLAT, IMAGES, NAN = torch.randn(6, 4), torch.randn(2, 1, 8, 8), torch.full((6, 4), math.nan)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Moments().mean, ValueError, "a mean needs at least 1 samples, got 0"),
        (lambda: frechet(Moments(FLAT[:1]), Moments(FLAT)), ValueError, "at least 2 samples, got 1"),
        (lambda: Moments(NAN), ValueError, "features must be finite, got 24 NaN or infinite of 24 values"),
        (lambda: Moments(IMAGES), ValueError, "features must be (n, F) with n, F >= 1, got (2, 1, 8, 8)"),
        (lambda: Moments(FLAT.long()), TypeError, "features must be floating point, got torch.int64"),
        (
            lambda: Moments(FLAT).update(FLAT[:, :3]),
            ValueError,
            "features have 3 dimensions, those before had 4",
        ),
        (
            lambda: frechet(Moments(FLAT), Moments(FLAT[:, :3])),
            ValueError,
            "a has 4 feature dimensions and b has 3",
        ),
        (
            lambda: metrics.precision_recall(FLAT, FLAT[:, :3]),
            ValueError,
            "generated has 4 feature dimensions and real 3",
        ),
        (lambda: metrics.precision_recall(FLAT, NAN), ValueError, "real must be finite"),
        (lambda: metrics.precision_recall(FLAT, FLAT, k=6), ValueError, "numbers of samples, 6 and 6, got 6"),
        (lambda: metrics.precision_recall(FLAT, FLAT, k=0), ValueError, "k must be at least 1"),
        (
            lambda: metrics.radial_spectrum(IMAGES[..., :7]),
            ValueError,
            "square images (B, C, N, N), got (2, 1, 8, 7)",
        ),
        (
            lambda: metrics.spectrum_error(IMAGES, IMAGES[..., :4, :4]),
            ValueError,
            "of one size, got 8 and 4 pixels",
        ),
        (
            lambda: metrics.spectrum_error(IMAGES, 0 * IMAGES),
            ValueError,
            "b has no power at 1 cycles per image",
        ),
        (lambda: metrics.curvature(FLAT), ValueError, "(K + 1, B, ...) with K >= 1, got (6, 4)"),
        (
            lambda: metrics.curvature(torch.zeros(3, 2, 1)),
            ValueError,
            "trajectory ends where it began for 2 samples",
        ),
        (
            lambda: metrics.power_error(torch.ones(2), torch.ones(9)),
            ValueError,
            "equally many rings, two or more, got 2",
        ),
        (
            lambda: metrics.spectrum_error(torch.ones(2, 1, 1, 1), torch.ones(2, 1, 1, 1)),
            ValueError,
            "two or more, got 1 and 1",
        ),
        (lambda: metrics.wasserstein2(FLAT, FLAT[:, :3]), ValueError, "a has 4 dimensions and b has 3"),
        (lambda: metrics.wasserstein2(NAN, FLAT), ValueError, "a must be finite, got 24"),
        (
            lambda: metrics.class_agreement(FLAT, torch.zeros(5).long()),
            ValueError,
            "logits must be (n, classes) and y (n,) with n >= 1, got (6, 4) and (5,)",
        ),
        (lambda: metrics.class_agreement(NAN, torch.zeros(6).long()), ValueError, "logits must be finite"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


@pytest.mark.gpu
def test_metrics_on_a_gpu_equal_those_on_the_cpu() -> None:
    a, b = normal(300, 16, seed=0).float(), normal(200, 16, seed=1).float()
    x, path = normal(5, 1, 16, 16, seed=2).float(), normal(9, 5, 3, seed=3).float()
    assert frechet(Moments(a.cuda()), Moments(b.cuda())) == pytest.approx(frechet(Moments(a), Moments(b)), rel=1e-9)
    assert metrics.precision_recall(a.cuda(), b.cuda()) == metrics.precision_recall(a, b)
    torch.testing.assert_close(metrics.radial_spectrum(x.cuda())[1], metrics.radial_spectrum(x)[1])
    torch.testing.assert_close(metrics.curvature(path.cuda()).cpu(), metrics.curvature(path))


@pytest.mark.parametrize(("n", "features", "scale"), [(30, 100, 1e3), (500, 64, 1.0), (200, 48, 1e-3), (2, 5, 1.0)])
def test_a_set_is_never_nearer_than_nothing_to_itself(n: int, features: int, scale: float) -> None:
    """faults B10: the distance of a set to itself was -1e-5."""
    for seed in range(10):
        drawn = scale * torch.randn(n, features, generator=torch.Generator().manual_seed(seed)).double()
        moments = Moments(drawn * torch.logspace(-6, 1, features).double())
        distance = frechet(moments, moments)
        assert 0 <= distance <= 1e-11 * moments.cov.trace()
