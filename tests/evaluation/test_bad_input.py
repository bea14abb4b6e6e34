"""Measures of bad numbers: an error that names them, never a figure that looks like a finding."""

import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import TensorDataset

from ismkit.data.sets import Labelled
from ismkit.evaluation.judges import PointJudge, Setting
from ismkit.evaluation.metrics import (
    Gaussian,
    Moments,
    bias,
    class_agreement,
    curvature,
    expected_bias,
    frechet,
    precision_recall,
    radial_spectrum,
    wasserstein2,
)
from tests.float64 import normal
from tests.hostile import FLOATS, INTEGERS, REFUSED, normal_or, outcome, tensors

EYE, ZERO = torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
GOOD = Gaussian(ZERO, EYE)
FEATURES = normal(64, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: frechet(Gaussian(ZERO, -EYE), GOOD), ValueError, "a.cov must be a covariance, got the negative eigen"),
        (lambda: frechet(GOOD, Gaussian(ZERO, EYE - 2 * EYE[[1, 0]])), ValueError, "b.cov must be a covariance"),
        (lambda: frechet(GOOD, Gaussian(ZERO[:1], EYE)), ValueError, "b.mean must be (F,) = (2,), got (1,)"),
        (lambda: frechet(GOOD, Gaussian(ZERO, EYE[:1])), ValueError, "b.cov must be (F, F) with F >= 1, got (1, 2)"),
        (lambda: frechet(GOOD, Gaussian(ZERO, EYE + EYE.cumsum(0))), ValueError, "b.cov must be symmetric"),
        (lambda: frechet(GOOD, Gaussian(ZERO, EYE * math.nan)), ValueError, "b.cov must be finite, got 4 NaN"),
        (lambda: frechet(Gaussian(ZERO / 0, EYE), GOOD), ValueError, "a.mean must be finite, got 2 NaN"),
        (
            lambda: frechet(Gaussian(ZERO.long(), EYE), GOOD),
            TypeError,
            "a.mean must be floating point, got torch.int64",
        ),
        (
            lambda: class_agreement(FEATURES, torch.full((64,), 2)),
            ValueError,
            "y must lie in [0, 2), the classes of logits",
        ),
        (lambda: class_agreement(FEATURES, torch.full((64,), -1)), ValueError, "of logits, got -1 to -1"),
        (lambda: class_agreement(FEATURES, torch.zeros(64)), TypeError, "y must hold whole numbers, got torch.float32"),
        (lambda: expected_bias(EYE, -3), ValueError, "n must be an integer of at least 1, got -3"),
        (lambda: expected_bias(EYE, 2.5), ValueError, "n must be an integer of at least 1, got 2.5"),
        (lambda: expected_bias(-EYE, 10), ValueError, "cov must be a covariance, got the negative eigenvalue -1"),
        (lambda: expected_bias(EYE * math.inf, 10), ValueError, "cov must be finite"),
        (lambda: expected_bias(EYE[0], 10), ValueError, "cov must be (F, F) with F >= 1, got (2,)"),
        (lambda: bias(FEATURES, GOOD, repeats=0), ValueError, "repeats must be an integer of at least 1, got 0"),
        (lambda: bias(FEATURES * math.nan, GOOD), ValueError, "features must be finite"),
        (lambda: bias(FEATURES[:, 0], GOOD), ValueError, "features must be (n, F) with n, F >= 1, got (64,)"),
        (lambda: bias(FEATURES, GOOD, parts=(1.5, 1)), ValueError, "parts must be two or more different numbers"),
        (lambda: precision_recall(FEATURES, FEATURES, k=1.5), ValueError, "k must be at least 1 and below both"),
    ],
)
def test_bad_numbers_are_no_finding(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_statistics_rounded_to_float32_are_still_a_covariance() -> None:
    cov = torch.cov(normal(40, 64).T)  # singular: rounding makes some eigenvalues negative
    rounded = Gaussian(torch.zeros(64).double(), cov.float().double())
    assert torch.linalg.eigvalsh(rounded.cov)[0] < 0
    assert abs(frechet(rounded, Gaussian(rounded.mean, cov))) < 1e-4


@given(*[normal_or(tensors(), 3, 2)] * 2)
@settings(max_examples=200)
def test_features_are_compared_or_refused(a: Tensor, b: Tensor) -> None:
    for call in (
        lambda: frechet(Moments(a), Moments(b)),
        lambda: precision_recall(a, b, k=1)[0],
        lambda: wasserstein2(a, b),
        lambda: frechet(Gaussian(a[0], a), Gaussian(b[0], b)) if a.ndim and len(a) and b.ndim and len(b) else REFUSED,
    ):
        found = outcome(call, "features", "generated", "real", "a", "b", "covariance", "k")
        assert found is REFUSED or found >= -1e-6 * (1 + float(a.abs().max()) ** 2 + float(b.abs().max()) ** 2)


@given(
    normal_or(tensors(), 3, 4),
    st.one_of(st.just(torch.tensor([0, 3, 1])), tensors(dtypes=INTEGERS), tensors(dtypes=FLOATS)),
)
@settings(max_examples=200)
def test_agreement_is_a_share_of_known_classes_or_refused(logits: Tensor, y: Tensor) -> None:
    found = outcome(lambda: class_agreement(logits, y), "logits", "y")
    if found is not REFUSED:
        assert 0 <= found <= 1
        assert 0 <= int(y.min()) <= int(y.max()) < logits.shape[1]


@given(normal_or(tensors(), 4, 2, 3), normal_or(tensors(), 1, 2, 4, 4))
@settings(max_examples=200)
def test_paths_and_images_are_measured_or_refused(path: Tensor, images: Tensor) -> None:
    bent = outcome(lambda: curvature(path), "trajectory")
    assert bent is REFUSED or bool((bent > -1e-9).all())
    spectrum = outcome(lambda: radial_spectrum(images)[1], "x")
    assert spectrum is REFUSED or bool((spectrum >= 0).all())


@given(normal_or(tensors(), 2, 2), st.one_of(st.integers(-5, 5), st.floats(), st.none()))
@settings(max_examples=200)
def test_an_expected_bias_is_a_distance_or_refused(cov: Tensor, n: Any) -> None:
    found = outcome(lambda: expected_bias(cov, n), "cov", "n")
    assert found is REFUSED or 0 <= found < math.inf


# ---------------------------------------------------------------- judges


def still(x: Tensor, *_: Tensor) -> Tensor:
    return 0 * x


def test_a_judge_of_points_takes_arrays_and_refuses_what_is_not_in_memory() -> None:
    x, y = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 4
    scores = [
        PointJudge(data, torch.device("cpu")).score(still, Setting(1, 0.0, 8))["w2"]
        for data in (Labelled.of(x, y), TensorDataset(x, y), (x.double().numpy(), y.int().numpy()))
    ]
    assert scores[0] == scores[1] == pytest.approx(scores[2])
    with pytest.raises(TypeError, match=r"data must be in memory, such as Labelled\.of\(x, y\), got list"):
        PointJudge([(torch.zeros(2), 0)], torch.device("cpu"))
    with pytest.raises(ValueError, match="x must be finite, but row 3 holds nan"):
        PointJudge((torch.tensor([[0.0], [1.0], [2.0], [math.nan]]), y[:4]), torch.device("cpu"))


def test_classes_without_points_are_said_and_neither_asked_for_nor_scored() -> None:
    x, asked = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)), []

    def net(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        asked.append(y)
        return 0 * x

    with pytest.warns(UserWarning, match=r"data has no rows of 1 of its 3 classes \(1\): they are not scored"):
        judge = PointJudge(Labelled.of(x, 2 * (torch.arange(40) % 2)), torch.device("cpu"))
    assert math.isfinite(judge.score(net, Setting(1, 0.0, 8))["w2"])
    assert asked[0].tolist() == [0, 2] * 4
    with pytest.raises(ValueError, match="n must be at least 2 samples, one of each class, got 1"):
        judge.score(net, Setting(1, 0.0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PointJudge(Labelled.of(x), torch.device("cpu"))
