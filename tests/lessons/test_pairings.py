"""Diagnostics of a coupling, given bad numbers; what they measure is tested in ``tests/method/test_coupling.py``."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ismkit.lessons.closed_forms import guidance_applied
from ismkit.lessons.pairings import class_information, class_leak, crossings, pair_variance, target_variance
from tests.hostile import INTEGERS, REFUSED, normal_or, outcome, tensors

X, Y = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
NAN = X * math.nan


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: crossings(NAN, X), ValueError, "x0 must be finite, got 16 NaN or infinite of 16 values"),
        (lambda: crossings(X, NAN), ValueError, "x1 must be finite"),
        (lambda: crossings(X, X[:, :1]), ValueError, "x0 and x1 must have one shape"),
        (lambda: crossings(X.view(8, 2, 1), X.view(8, 1, 2)), ValueError, "x0 and x1 must have one shape"),
        (lambda: target_variance(NAN, X, X, X), ValueError, "x must be finite"),
        (lambda: target_variance(X, X, X, NAN), ValueError, "other_v must be finite"),
        (lambda: target_variance(X, X[:4], X, X), ValueError, "x and v must have one number of rows, 1 or more"),
        (lambda: target_variance(X, X, X, X[:4]), ValueError, "other_x and other_v must have one number of rows"),
        (lambda: class_information(NAN, Y), ValueError, "x0 must be finite"),
        (lambda: class_information(X, Y[:, None]), ValueError, "y must hold one label per row of x0, shape (8,)"),
        (lambda: class_information(X, Y, k=1.5), ValueError, "k must be an integer of at least 1, got 1.5"),
        (lambda: class_leak(NAN, Y), ValueError, "x0 must be finite"),
        (lambda: class_leak(X, Y.float()), TypeError, "y must hold whole numbers, got torch.float32"),
        (lambda: class_leak(X[:0], Y[:0]), ValueError, "x0 must be (n, ...) with n >= 1, got (0, 2)"),
        (lambda: pair_variance(NAN[:2], [(X, X)] * 2), ValueError, "probes must be finite"),
        (lambda: pair_variance(X[:2, :1], [(X, X)] * 2), ValueError, "a pool must hold noise like probes, (2, 1)"),
        (lambda: guidance_applied(X, X[:1], X), ValueError, "conditional must have the shape of guided, (8, 2), got"),
        (lambda: guidance_applied(X, X, X[:, :1]), ValueError, "unconditional must have the shape of guided"),
        (lambda: guidance_applied(NAN, X, 2 * X), ValueError, "guided must be finite"),
        (lambda: guidance_applied(X, X, X), ValueError, "conditional and unconditional must differ"),
    ],
)
def test_bad_numbers_are_no_finding(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


@given(*[normal_or(tensors(), 8, 2)] * 2, st.one_of(st.just(Y), tensors(dtypes=INTEGERS), tensors()))
@settings(max_examples=200)
def test_couplings_are_measured_or_refused(x0: Tensor, x1: Tensor, y: Tensor) -> None:
    names = ("x0", "x1", "y", "k", "v", "x", "other_x", "other_v", "probes", "pool", "guided", "conditional")
    found = {
        "crossings": outcome(lambda: crossings(x0, x1), *names),
        "leak": outcome(lambda: class_leak(x0, y), *names),
        "information": outcome(lambda: class_information(x0, y, k=1), *names),
        "target": outcome(lambda: target_variance(x0, x1, x1, x0), *names),
        "applied": outcome(lambda: guidance_applied(x0, x1, x1 + 1), *names),
    }
    assert found["crossings"] is REFUSED or 0 <= found["crossings"] <= 1
    assert all(value is REFUSED or math.isfinite(value) for value in found.values()), found
