"""The straight path and the dyadic grid: end points, and that every half step queried is itself trained."""

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ismkit.method.path import Query, StepGrid, draw_noise, expand_as, interpolate

dtypes = st.sampled_from([torch.float32, torch.float64])
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 2**32 - 1)
grids = st.integers(1, 12).map(lambda k: StepGrid(2**k))

LARGEST_BELOW_ONE = 1 - 2**-24  # what torch.rand returns at most in float32


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------------------------------- the straight path


@given(shapes, dtypes, seeds)
@settings(max_examples=50)
def test_the_end_points_are_noise_and_data(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> None:
    x0, x1 = torch.randn(2, *shape, dtype=dtype, generator=rng(seed))
    for t, end in ((0, x0), (1, x1)):
        x_t, v = interpolate(x0, x1, torch.full(shape[:1], t, dtype=dtype))
        assert torch.equal(x_t, end)  # bit for bit
        assert torch.equal(v, x1 - x0)
        assert x_t.dtype == v.dtype == dtype


@given(shapes, seeds)
@settings(max_examples=50)
def test_the_interpolant_is_the_straight_line_with_that_velocity(shape: tuple[int, ...], seed: int) -> None:
    generator = rng(seed)
    x0, x1 = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    t = torch.rand(shape[:1], dtype=torch.float64, generator=generator)
    x_t, v = interpolate(x0, x1, t)
    for i, time in enumerate(t.tolist()):
        torch.testing.assert_close(x_t[i], (1 - time) * x0[i] + time * x1[i], rtol=0, atol=1e-14)
    torch.testing.assert_close(x_t + (1 - expand_as(t, x1)) * v, x1, rtol=0, atol=1e-14)
    torch.testing.assert_close(x_t - expand_as(t, x1) * v, x0, rtol=0, atol=1e-14)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # forward-mode AD loads its decompositions by it
def test_the_velocity_is_the_derivative_of_the_interpolant_in_time() -> None:
    x0, x1 = torch.randn(2, 6, 3, 2, dtype=torch.float64, generator=rng(0))
    t = torch.rand(6, dtype=torch.float64, generator=rng(1))
    dx_dt = torch.func.jvp(lambda time: interpolate(x0, x1, time)[0], (t,), (torch.ones_like(t),))[1]
    torch.testing.assert_close(dx_dt, x1 - x0, rtol=0, atol=1e-14)


@given(shapes)
def test_expand_as_multiplies_row_by_row(shape: tuple[int, ...]) -> None:
    values = torch.arange(1.0, shape[0] + 1)
    product = expand_as(values, torch.ones(shape)) * torch.ones(shape)
    assert product.shape == shape
    assert all((row == i + 1).all() for i, row in enumerate(product))


def test_take_keeps_the_columns_of_a_query_together() -> None:
    t, d, w = (10 * k + torch.arange(6.0) for k in range(3))
    query = Query(torch.arange(12.0).reshape(6, 2), t, d, w, torch.arange(6))
    part = query.take(slice(2, 5))
    assert torch.equal(part.x, query.x[2:5])
    for name in ("t", "d", "w", "y"):
        assert torch.equal(getattr(part, name), getattr(query, name)[2:5])


# ------------------------------------------------------------------------------------------------- the dyadic grid


@given(grids)
def test_the_step_sizes_are_the_powers_of_two_above_the_finest(grid: StepGrid) -> None:
    assert 2**grid.levels == grid.n
    sizes = grid.step_size(torch.arange(1, grid.levels + 1)).tolist()
    assert sizes == [2**level / grid.n for level in range(1, grid.levels + 1)]
    assert sizes[-1] == 1


@given(grids)
def test_a_half_step_is_half_as_long_and_the_finest_is_asked_as_zero(grid: StepGrid) -> None:
    d = grid.step_size(torch.arange(1, grid.levels + 1))
    length, ask = grid.half(d)
    assert torch.equal(2 * length, d)
    assert ask[0] == 0
    assert torch.equal(ask[1:], length[1:])
    assert torch.equal(grid.ask(d), d)
    assert grid.ask(torch.tensor([1 / grid.n])).item() == 0


def drawn_times(grid: StepGrid, d: float, draws: int, seed: int) -> set[float]:
    return set(grid.random_times(torch.full((draws,), d), rng(seed)).tolist())


@given(st.integers(1, 4).map(lambda k: StepGrid(2**k)), seeds)
@settings(max_examples=20)
def test_every_half_step_queried_is_itself_trained(grid: StepGrid, seed: int) -> None:
    # What training asks: every (t, d) that random_times draws. 16 cells, 2000 draws: a cell is missed with 1e-55.
    sizes = [0.0, *grid.step_size(torch.arange(1, grid.levels + 1)).tolist()]
    trained = {(t, d) for d in sizes for t in drawn_times(grid, d, 2000, seed)}
    assert trained == {(k * max(d, 1 / grid.n), d) for d in sizes for k in range(round(1 / max(d, 1 / grid.n)))}
    for t, d in trained:
        if d > 0:
            length, ask = (half.item() for half in grid.half(torch.tensor(d)))
            assert {(t, ask), (t + length, ask)} <= trained


@given(grids, seeds)
@settings(max_examples=30)
def test_times_lie_on_their_own_levels_grid_and_both_half_steps_on_the_one_below(grid: StepGrid, seed: int) -> None:
    level = torch.randint(1, grid.levels + 1, (300,), generator=rng(seed))
    d = grid.step_size(level)
    t = grid.random_times(d, rng(seed))
    length, ask = grid.half(d)
    below = torch.where(ask > 0, ask, 1 / grid.n)  # the spacing of the times at which the half steps are trained
    assert torch.equal((t / d).frac(), torch.zeros_like(t))
    assert ((t >= 0) & (t + d <= 1)).all()
    for start in (t, t + length):
        assert torch.equal((start / below).frac(), torch.zeros_like(t))
        assert (start + below <= 1).all()
    assert torch.equal(below, length)


def test_times_never_leave_the_unit_interval_even_at_the_last_random_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, LARGEST_BELOW_ONE))
    grid = StepGrid(128)
    d = torch.cat([torch.zeros(1), grid.step_size(torch.arange(1, 8))])
    for power in (1.0, 0.7, 1.5):
        assert torch.equal(grid.random_times(d, power=power) + d.clamp(min=1 / 128), torch.ones(8))


@pytest.mark.parametrize(("d", "cells"), [(0.0, 32), (1 / 16, 16), (1 / 4, 4), (1.0, 1)])
def test_times_are_uniform_on_their_grid(d: float, cells: int) -> None:
    draws = 20_000
    times = StepGrid(32).random_times(torch.full((draws,), d), rng(7))
    counts = torch.bincount((times * cells).long(), minlength=cells).double()
    assert len(counts) == cells
    # Chi-square with cells - 1 degrees of freedom has variance 2 (cells - 1): ten standard deviations.
    chi2 = ((counts - draws / cells) ** 2 / (draws / cells)).sum().item()
    assert chi2 <= cells - 1 + 10 * (2 * (cells - 1)) ** 0.5


@pytest.mark.parametrize("power", [0.7, 1.0, 1.5, 3.0])
def test_times_at_step_size_zero_follow_the_power(power: float) -> None:
    n, draws = 32, 20_000
    times = StepGrid(n).random_times(torch.zeros(draws), rng(7), power)
    assert torch.equal((times * n).frac(), torch.zeros(draws))
    counts = torch.bincount((times * n).long(), minlength=n).double()
    # P(u^power < k/n) = (k/n)^(1/power); then as above.
    edges = (torch.arange(n + 1, dtype=torch.float64) / n) ** (1 / power)
    expected = draws * edges.diff()
    assert expected.min() > 100
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    assert chi2 <= n - 1 + 10 * (2 * (n - 1)) ** 0.5


@given(grids, st.sampled_from([0.5, 0.7, 1.5, 3.0]), seeds)
@settings(max_examples=30)
def test_the_power_changes_no_other_time(grid: StepGrid, power: float, seed: int) -> None:
    level = torch.randint(0, grid.levels + 1, (300,), generator=rng(seed))
    d = torch.where(level > 0, grid.step_size(level), 0.0)
    plain, bent = grid.random_times(d, rng(seed)), grid.random_times(d, rng(seed), power)
    assert torch.equal(bent[d > 0], plain[d > 0])
    assert torch.equal(grid.random_times(d, rng(seed), 1.0), plain)
    u = torch.rand(300, generator=rng(seed)).double()[d == 0]  # the same number, bent
    assert ((bent[d == 0] - u**power) * grid.n <= 1e-5 * grid.n).all()
    assert ((bent[d == 0] + 1 / grid.n - u**power) * grid.n >= -1e-5 * grid.n).all()


@given(grids)
def test_a_sampler_may_take_as_many_steps_as_some_level_has(grid: StepGrid) -> None:
    allowed = [2**k for k in range(grid.levels + 1)]
    assert [grid.check_nfe(steps) for steps in allowed] == [1 / steps for steps in allowed]
    for steps in set(range(-2, min(2 * grid.n + 2, 300))) - set(allowed):
        with pytest.raises(ValueError, match=r"nfe must be one of \[1, 2.*, got " + str(steps)):
            grid.check_nfe(steps)


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("n", [-2, 0, 1, 3, 100, 127])
def test_a_grid_that_is_not_dyadic_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match=rf"must be a power of two and at least 2, got {n}$"):
        StepGrid(n)


def test_noise_and_data_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x0 and x1 must have one shape \(B, ...\), got \(2, 3\) and \(2, 4\)"):
        interpolate(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1)])
def test_times_that_are_not_one_per_row_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"t must hold one time per row, shape \(2,\), got \("):
        interpolate(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(shape))


# ------------------------------------------------------------------------------------------------------- the source


@pytest.mark.parametrize("shape", [(5,), (5, 2), (3, 4, 8, 8)])
def test_normal_noise_is_that_of_the_generator(shape: tuple[int, ...]) -> None:
    ours, theirs = (torch.Generator().manual_seed(1) for _ in range(2))
    assert torch.equal(draw_noise(None, shape, ours), torch.randn(shape, generator=theirs))


def test_noise_of_a_source_is_what_it_returns_in_the_shape_asked_for() -> None:
    generator = torch.Generator().manual_seed(1)

    def uniform(shape: tuple[int, ...], given: torch.Generator) -> torch.Tensor:
        assert given is generator
        return torch.rand(shape, generator=given)

    x0 = draw_noise(uniform, (100, 3), generator)
    assert x0.shape == (100, 3)
    assert 0 <= x0.min() < x0.max() < 1


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("normal", TypeError, "source must be a function (shape, generator) -> noise, or None, got 'normal'"),
        (torch.nn.Linear, TypeError, "source must be a function"),
        (
            lambda shape, generator: torch.zeros(shape[1:]),
            ValueError,
            "source must return noise of shape (4, 2), got (2,)",
        ),
        (lambda shape, generator: torch.zeros(shape).long(), TypeError, "noise of source must be floating point"),
        (lambda shape, generator: None, TypeError, "the noise of source must be a tensor, got NoneType"),
    ],
)
def test_sources_that_are_none_are_refused(source: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        draw_noise(source, (4, 2), torch.Generator())
