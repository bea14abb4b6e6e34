"""How guidance strengths are drawn and how they enter a target: against the formulas, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from ismkit.method.guidance import Strengths, TwoPassCFG, cfg, in_interval, intrinsic_velocity

CPU = torch.device("cpu")
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 2**32 - 1)
scales = st.floats(-4, 8)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(2, *shape, dtype=torch.float64, generator=rng(seed))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------- cfg


@given(shapes, seeds, scales, scales)
@settings(max_examples=50)
def test_cfg_identities(shape: tuple[int, ...], seed: int, a: float, b: float) -> None:
    c, u = pair(shape, seed)
    close(cfg(c, u, 1), c)
    close(cfg(c, u, 0), u)
    close(cfg(c, c, a), c)
    close(cfg(c, u, a), a * c + (1 - a) * u)
    close(cfg(c, u, 1 + a), (1 + a) * c - a * u)  # the other way to write it, with w = cfg_scale - 1
    close(cfg(cfg(c, u, a), u, b), cfg(c, u, a * b))  # guidance on top of guidance multiplies: it compounds


# -------------------------------------------------------------------------------------------- intrinsic guidance


@given(shapes, seeds, st.floats(0, 1))
@settings(max_examples=50)
def test_the_intrinsic_target_is_v_plus_w_gap_and_v_below_the_interval(
    shape: tuple[int, ...], seed: int, t_interval: float
) -> None:
    generator = rng(seed)
    v, gap = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    w = 3.5 * torch.rand(shape[0], dtype=torch.float64, generator=generator)
    t = torch.rand(shape[0], dtype=torch.float64, generator=generator)
    target = intrinsic_velocity(v, gap, w, t, t_interval)
    assert target.shape == shape
    for i in range(shape[0]):
        if t[i] < t_interval:
            assert torch.equal(target[i], v[i])
        else:
            close(target[i], v[i] + w[i] * gap[i])
    assert torch.equal(intrinsic_velocity(v, gap, torch.zeros_like(w), t, t_interval), v)


def test_the_interval_begins_at_its_bound() -> None:
    t = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    assert in_interval(t, 0.5).tolist() == [0, 0, 1, 1, 1]
    assert in_interval(t, 0.0).tolist() == [1] * 5
    assert in_interval(t, 1.0).tolist() == [0, 0, 0, 0, 1]


def test_intrinsic_guidance_of_a_known_pair_of_fields_is_cfg_with_scale_1_plus_w() -> None:
    c, u = pair((4, 3), 0)
    w = torch.tensor([0.0, 0.5, 1.0, 3.5], dtype=torch.float64)
    close(intrinsic_velocity(c, c - u, w, torch.ones(4), 0.3), cfg(c, u, 1 + w[:, None]))


# ------------------------------------------------------------------------------------------------------- strengths


@given(st.integers(1, 40), st.sampled_from([0.05, 0.1, 0.25, 0.3, 0.5, 1.0]), st.booleans(), seeds)
@settings(max_examples=30)
def test_strengths_draw_exactly_the_stated_set(count: int, step: float, guided: bool, seed: int) -> None:
    strengths = Strengths(count * step, step)
    assert strengths.count == count
    drawn = strengths.draw(4000, rng(seed), CPU, guided=guided)  # a value is missed with 41 exp(-4000 / 41) = 1e-41
    expected = torch.tensor([k * step for k in range(int(guided), count + 1)])
    torch.testing.assert_close(drawn.unique(), expected)
    assert drawn.shape == (4000,)


def test_the_papers_strengths() -> None:
    drawn = Strengths().draw(4000, rng(0), CPU, guided=False)
    assert drawn.unique().tolist() == [k / 4 for k in range(15)]
    assert drawn.dtype == torch.float32


@pytest.mark.parametrize("guided", [False, True])
def test_strengths_are_uniform(guided: bool) -> None:
    draws, cells = 15_000, 15 - guided
    drawn = Strengths().draw(draws, rng(1), CPU, guided=guided)
    counts = torch.bincount((4 * drawn).long() - int(guided), minlength=cells).double()
    statistic = ((counts - draws / cells) ** 2 / (draws / cells)).sum().item()
    assert statistic < chi2.isf(1e-9, cells - 1)


def test_no_guidance_is_a_set_of_one() -> None:
    assert Strengths(0.0).count == 0
    assert Strengths(0.0).draw(100, rng(0), CPU, guided=False).unique().tolist() == [0]


# -------------------------------------------------------------------------------------------------- two-pass CFG


class Spy(torch.nn.Module):
    """A field of x, t and y that records what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Tensor, ...]] = []

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        self.asked.append((t, d, w, y))
        return x * (1 + y[:, None]) + t[:, None]


def test_two_pass_cfg_is_the_formula_and_ignores_the_step_size() -> None:
    spy, null = Spy(), 9
    x = torch.randn(5, 3, dtype=torch.float64, generator=rng(0))
    t, w = torch.rand(2, 5, dtype=torch.float64, generator=rng(1))
    y = torch.tensor([0, 1, 2, 3, null])
    answers = [TwoPassCFG(spy, null)(x, t, torch.full((5,), d), w, y) for d in (0.0, 1 / 64, 1.0)]
    c, u = x * (1 + y[:, None]) + t[:, None], x * (1 + null) + t[:, None]
    close(answers[0], (1 + w[:, None]) * c - w[:, None] * u)
    close(answers[0][-1], u[-1])  # a null label cannot be guided
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert len(spy.asked) == 6  # two calls each
    for time, d, strength, _ in spy.asked:
        assert torch.equal(time, t)
        assert not d.any()
        assert not strength.any()
    assert [labels.tolist() for *_, labels in spy.asked[:2]] == [y.tolist(), [null] * 5]


def test_two_pass_cfg_unguided_is_the_network_itself() -> None:
    x, zero, y = torch.randn(4, 2, dtype=torch.float64, generator=rng(0)), torch.zeros(4), torch.arange(4)
    close(TwoPassCFG(Spy(), 9)(x, zero, zero, zero, y), Spy()(x, zero, zero, zero, y))


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("step", [0.0, -0.25, math.nan, math.inf])
def test_a_step_between_strengths_that_is_not_positive_and_finite_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match=rf"step between guidance strengths must be positive.*, got {step}$"):
        Strengths(3.5, step)


@pytest.mark.parametrize("w_max", [-0.25, 0.3, 3.4, math.nan, math.inf])
def test_a_largest_strength_off_the_steps_is_refused(w_max: float) -> None:
    with pytest.raises(ValueError, match=rf"w_max must be a multiple of step=0.25 and not negative.*, got {w_max}$"):
        Strengths(w_max)


def test_drawing_guided_strengths_where_there_are_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no guidance strength above zero to draw: w_max=0\.0"):
        Strengths(0.0).draw(3, None, CPU, guided=True)
