"""Samplers, couplings and guidance given what does not fit: the right result, or an error of the kit's own."""

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ismkit.method.coupling import Coupling, assign
from ismkit.method.guidance import TwoPassCFG, cfg, intrinsic_velocity
from ismkit.method.path import StepGrid
from ismkit.method.sampling import sample, trajectory
from ismkit.method.wavelet import WaveletDistance, l2
from tests.hostile import INTEGERS, REFUSED, normal_or, outcome, tensors

X0, Y = torch.zeros(3, 2), torch.tensor([0, 1, 2])
FLOAT = (torch.float32,)


class Still(torch.nn.Module):
    """A network of two classes that answers 1."""

    num_classes = 2

    def __init__(self, grid: StepGrid | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.grid = grid

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return self.weight.expand_as(x)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"y": torch.tensor([0, -1, 2])},
            ValueError,
            "y must hold labels in 0 .. 2 (2 leaves the class open), got labels",
        ),
        ({"y": torch.tensor([0, 1, 3])}, ValueError, "got labels from 0 to 3"),
        ({"y": torch.zeros(3)}, TypeError, "y must hold whole numbers, got torch.float32: use y.long()"),
        ({"y": torch.zeros(3).bool()}, TypeError, "y must hold whole numbers, got torch.bool"),
        ({"y": [0, 1, 2]}, TypeError, "y must be a tensor of labels, got [0, 1, 2]: use torch.tensor(labels)"),
        ({"y": 1}, TypeError, "y must be a tensor of labels, got 1"),
        ({"y": Y[:2]}, ValueError, "y must hold one label per row of x0, shape (3,), got (2,)"),
        ({"y": Y.to("meta")}, ValueError, "y must be on the device of x0, cpu, got meta"),
        ({"x0": X0.long()}, TypeError, "x0 must be floating point, got torch.int64"),
        ({"x0": X0 * math.nan}, ValueError, "x0 must be finite, got 6 NaN or infinite of 6 values"),
        ({"x0": torch.tensor(0.0), "y": torch.tensor(0)}, ValueError, "x0 must be (B, ...), got ()"),
        ({"x0": [[0.0]]}, TypeError, "x0 must be a tensor, got list"),
        ({"w": "strong"}, TypeError, "w must be a number or hold one per row, got 'strong'"),
        ({"w": None}, TypeError, "w must be a number or hold one per row, got None"),
        ({"w": [1.0, 2.0]}, ValueError, "w must be a number or hold one per row, (3,), got (2,)"),
        ({"nfe": 3}, ValueError, "nfe must be one of [1, 2, 4, 8, 16, 32, 64, 128] (the levels of this grid), got 3"),
        ({"nfe": 4.0}, ValueError, "(the levels of this grid), got 4.0"),
        ({"nfe": True}, ValueError, "(the levels of this grid), got True"),
        ({"nfe": "4"}, ValueError, "(the levels of this grid), got '4'"),
        ({"nfe": None}, ValueError, "(the levels of this grid), got None"),
    ],
)
@pytest.mark.parametrize("draw", [sample, trajectory])
def test_samplers_name_what_does_not_fit(
    draw: Any, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {"x0": X0, "y": Y, "w": 1.0, "nfe": 1} | change
    with pytest.raises(error, match=re.escape(message)):
        draw(Still(), arguments.pop("x0"), arguments.pop("y"), **arguments)


def test_a_network_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match="x0 must be on the device of net, meta, got cpu"):
        sample(Still().to("meta"), X0, Y)


def test_labels_of_a_guided_network_are_those_of_the_network_inside() -> None:
    with pytest.raises(ValueError, match=r"y must hold labels in 0 \.\. 2 .*, got labels from 0 to 5"):
        sample(TwoPassCFG(Still(), null=2), X0, torch.tensor([0, 1, 5]))


def test_the_grid_is_the_networks() -> None:
    asked = []

    class Asked(Still):
        def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
            asked.append(d[0].item())
            return x

    sample(Asked(StepGrid(512)), X0, Y, nfe=128)  # a step of 1/128 is no finest step there
    sample(Asked(StepGrid(128)), X0, Y, nfe=128)
    sample(Asked(), X0, Y, nfe=128)
    assert set(asked[:128]) == {1 / 128}
    assert set(asked[128:]) == {0.0}
    sample(Asked(StepGrid(512)), X0, Y, nfe=512)
    with pytest.raises(ValueError, match=r"nfe must be one of \[1, 2, 4, 8\] \(the levels of this grid\), got 128"):
        sample(Asked(StepGrid(8)), X0, Y, nfe=128)
    with pytest.raises(ValueError, match=r"grid must be that of net, n = 512, got StepGrid\(n=128\)"):
        sample(Asked(StepGrid(512)), X0, Y, grid=StepGrid(128))


@pytest.mark.parametrize("n", [128.0, "128", None])
def test_grids_of_other_types_are_refused(n: Any) -> None:
    with pytest.raises(ValueError, match=f"must be a power of two and at least 2, got {n!r}"):
        StepGrid(n)


@given(
    normal_or(tensors(), 3, 2),
    st.one_of(st.just(Y), tensors(dtypes=INTEGERS), tensors(), st.lists(st.integers(-1, 3), max_size=3)),
    st.one_of(st.just(1.0), tensors(), st.floats(), st.text(max_size=2), st.none()),
    st.one_of(st.sampled_from([1, 2, 4, 128]), st.integers(-2, 300), st.floats(), st.none()),
)
@settings(max_examples=300)
def test_samplers_draw_or_name_what_does_not_fit(x0: Any, y: Any, w: Any, nfe: Any) -> None:
    drawn = outcome(lambda: sample(Still(), x0, y, w=w, nfe=nfe), "x0", "y", "w", "nfe")
    if drawn is not REFUSED:
        assert drawn.shape == x0.shape
        assert y.dtype in INTEGERS
        assert all(0 <= label <= 2 for label in y.tolist())
        torch.testing.assert_close(drawn, x0.to(drawn) + 1, rtol=1e-2, atol=1e-2)  # half noise, float32 network


@given(
    normal_or(tensors(dtypes=FLOAT), 3, 2),
    normal_or(tensors(dtypes=FLOAT), 3, 2),
    st.one_of(st.just(Y), tensors(dtypes=INTEGERS), tensors(), st.none()),
    st.sampled_from([Coupling(0), Coupling(1), Coupling(1, class_aware=False)]),
)
@settings(max_examples=200)
def test_couplings_permute_or_name_what_does_not_fit(x0: Tensor, x1: Tensor, y: Any, coupling: Coupling) -> None:
    coupled = outcome(lambda: coupling.couple(x0, x1, y), "x0", "x1", "y")
    if coupled is not REFUSED:
        assert sorted(map(repr, coupled.tolist())) == sorted(map(repr, x0.tolist()))


@pytest.mark.parametrize("scale", [1e20, 1e25])
def test_products_that_overflow_are_refused_before_the_solver(scale: float) -> None:
    with pytest.raises(ValueError, match="x0 and x1 are too large: their products, in float32, are not finite"):
        assign(torch.full((3, 9), scale), torch.full((3, 9), scale))


@given(
    *[normal_or(tensors(dtypes=FLOAT), 3, 2)] * 2, st.one_of(st.floats(-9, 9), normal_or(tensors(dtypes=FLOAT), 3, 1))
)
@settings(max_examples=200)
def test_guidance_keeps_the_shape_or_names_what_does_not_fit(c: Tensor, u: Tensor, scale: Any) -> None:
    guided = outcome(lambda: cfg(c, u, scale), "conditional", "cfg_scale")
    if guided is not REFUSED:
        torch.testing.assert_close(guided, u + scale * (c - u), equal_nan=True)
        assert guided.shape == c.shape == u.shape


@given(*[normal_or(tensors(dtypes=FLOAT), 3, 2)] * 2, *[normal_or(tensors(dtypes=FLOAT), 3)] * 2)
@settings(max_examples=200)
def test_guided_targets_keep_the_shape_or_name_what_does_not_fit(v: Tensor, gap: Tensor, w: Tensor, t: Tensor) -> None:
    target = outcome(lambda: intrinsic_velocity(v, gap, w, t, 0.3), "velocity", "gap", "w", "t")
    if target is not REFUSED:
        assert target.shape == v.shape == gap.shape
        assert w.shape == t.shape == v.shape[:1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: cfg(torch.ones(3, 2), torch.ones(2), 1.5),
            "conditional and unconditional must have one shape, got (3, 2)",
        ),
        (
            lambda: cfg(torch.ones(3, 1), torch.ones(3, 1), torch.ones(3)),
            "cfg_scale must broadcast to the shape (3, 1), got",
        ),
        (
            lambda: intrinsic_velocity(torch.ones(3, 2), torch.ones(3, 1), *torch.ones(2, 3), 0.3),
            "gap must have the shape",
        ),
        (
            lambda: intrinsic_velocity(*torch.ones(2, 3, 2), torch.ones(1), torch.ones(3), 0.3),
            "w must hold one number per",
        ),
        (
            lambda: intrinsic_velocity(*torch.ones(2, 3, 2), torch.ones(3), torch.ones(6), 0.3),
            "t must hold one number per",
        ),
    ],
)
def test_shapes_that_would_broadcast_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@given(*[st.one_of(normal_or(tensors(dtypes=FLOAT), 2, 1, 4, 4), tensors(dtypes=FLOAT))] * 2, st.integers(0, 3))
@settings(max_examples=200)
def test_distances_are_one_per_row_or_name_what_does_not_fit(a: Tensor, b: Tensor, levels: int) -> None:
    for distance in (l2, WaveletDistance((1.0,) * (levels + 1))):
        found = outcome(lambda distance=distance: distance(a, b), "prediction", "WaveletDistance")
        assert found is REFUSED or found.shape == a.shape[:1]
