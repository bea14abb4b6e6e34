"""What the rows of a batch are asked, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ismkit.method.guidance import Strengths
from ismkit.method.path import StepGrid
from ismkit.method.recipes import RECIPES
from ismkit.method.rows import Intervals, Rows
from tests.float64 import NULL, close, grids, normal, rng, seeds

pytestmark = pytest.mark.usefixtures("float64")


@st.composite
def settings_of_rows(draw: st.DrawFn) -> Rows:
    guidance, consistency = draw(
        st.sampled_from([(0.0, 0.0), (0.25, 0.25), (0.0, 0.125), (0.5, 0.5), (0.3, 0.1), (0.0, 1.0), (1.0, 0.0)])
    )
    return Rows(
        guidance,
        consistency,
        label_dropout=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        drop_consistency=draw(st.booleans()),
        strengths=Strengths(draw(st.sampled_from([0.5, 3.5])) if guidance else draw(st.sampled_from([0.0, 3.5]))),
        grid=draw(grids),
        level_ratio=draw(st.sampled_from([0.5, 1.0, 1.7])),
        time_power=draw(st.sampled_from([0.5, 1.0, 2.0])),
    )


@given(settings_of_rows(), st.integers(10, 70), seeds)
@settings(max_examples=80)
def test_rows_are_asked_what_their_block_says(rows: Rows, batch: int, seed: int) -> None:
    x0, x1 = normal(2, batch, 3, seed=seed)
    labels = torch.randint(NULL, (batch,), generator=rng(seed))
    (x, t, d, w, y), velocity = rows(x0, x1, labels, NULL, rng(seed))
    blocks = rows.blocks(batch)

    # The blocks partition the batch, in this order and in the stated shares.
    assert [i for block in blocks for i in range(*block.indices(batch))] == list(range(batch))
    sizes = [block.stop - block.start for block in blocks]
    assert sizes[1:] == [math.floor(rows.guidance * batch + 1e-9), math.floor(rows.consistency * batch + 1e-9)]

    # Everywhere: points of the straight path at times of the grid; labels kept or null; no guidance on null.
    close(x, (1 - t[:, None]) * x0 + t[:, None] * x1)
    assert torch.equal(velocity, x1 - x0)
    spacing = d.clamp(min=1 / rows.grid.n)
    assert not (t / spacing).frac().any()
    assert ((t >= 0) & (t + spacing <= 1)).all()
    assert ((y == labels) | (y == NULL)).all()
    assert not w[y == NULL].any()
    assert not (w / rows.strengths.step).frac().any()
    assert ((w >= 0) & (w <= rows.strengths.w_max)).all()

    assert not d[blocks.velocity].any()
    assert not w[blocks.velocity].any()
    assert not d[blocks.guidance].any()
    assert (w[blocks.guidance] > 0).all()
    assert torch.equal(y[blocks.guidance], labels[blocks.guidance])
    level = torch.log2(d[blocks.consistency] * rows.grid.n)
    assert not level.frac().any()
    assert ((level >= 1) & (level <= rows.grid.levels)).all()
    if not rows.drop_consistency:
        assert torch.equal(y[blocks.consistency], labels[blocks.consistency])
    if rows.label_dropout == 1:
        assert (y[blocks.velocity] == NULL).all()
        assert (y[blocks.consistency] == NULL).all() == (rows.drop_consistency or not sizes[2])
    if rows.label_dropout == 0:
        assert torch.equal(y, labels)


@given(st.integers(1, 400), st.data())
def test_a_fraction_that_divides_the_batch_gives_exactly_its_rows(batch: int, data: st.DataObject) -> None:
    guidance = data.draw(st.integers(1, batch))
    consistency = data.draw(st.integers(0, batch - guidance))
    blocks = Rows(guidance / batch, consistency / batch, strengths=Strengths(3.5)).blocks(batch)
    sizes = [block.stop - block.start for block in blocks]
    assert sizes == [batch - guidance - consistency, guidance, consistency]  # 57 of 100, though 0.57 * 100 < 57


@given(grids, st.integers(1, 40), seeds)
@settings(max_examples=40)
def test_the_levels_of_a_batch_are_used_evenly(grid: StepGrid, batch: int, seed: int) -> None:
    rows = Rows(consistency=1.0, grid=grid)
    query, _ = rows(torch.zeros(batch, 1), torch.zeros(batch, 1), torch.zeros(batch).long(), NULL, rng(seed))
    counts = torch.bincount(torch.log2(query.d * grid.n).long() - 1, minlength=grid.levels)
    assert len(counts) == grid.levels
    assert counts.max() - counts.min() <= 1


def test_a_batch_with_fewer_consistency_rows_than_levels_serves_every_level_in_the_long_run() -> None:
    rows, batches = Rows(consistency=0.25), 3500
    generator = rng()
    counts = torch.zeros(7)
    for _ in range(batches):
        query, _ = rows(torch.zeros(4, 1), torch.zeros(4, 1), torch.zeros(4).long(), NULL, generator)
        counts[round(math.log2(query.d[-1].item() * 128)) - 1] += 1
    spread = (batches * (1 / 7) * (6 / 7)) ** 0.5
    assert (counts - batches / 7).abs().max() < 6 * spread


@pytest.mark.parametrize("drop_consistency", [False, True])
def test_labels_are_dropped_at_the_stated_rate(drop_consistency: bool) -> None:
    rows = Rows(0.25, 0.25, 0.1, drop_consistency, Strengths(3.5))
    n = 40_000
    query, _ = rows(torch.zeros(n, 1), torch.zeros(n, 1), torch.zeros(n).long(), NULL, rng())
    dropped = (query.y == NULL).double()
    for block, rate in zip(rows.blocks(n), (0.1, 0.0, 0.1 * drop_consistency), strict=True):
        part = dropped[block]
        assert abs(part.mean() - rate) <= 6 * (rate * (1 - rate) / len(part)) ** 0.5
    strengths = query.w[rows.blocks(n).consistency][query.y[rows.blocks(n).consistency] != NULL]
    assert len(strengths.unique()) == 15  # with zero
    assert len(query.w[rows.blocks(n).guidance].unique()) == 14  # without


def test_rows_are_a_function_of_their_generator_and_not_of_the_data() -> None:
    rows = RECIPES["ism"].rows
    labels = torch.zeros(64).long()
    one, _ = rows(normal(64, 2), normal(64, 2), labels, NULL, rng(5))
    same, _ = rows(normal(64, 2, seed=1), normal(64, 2, seed=2), labels, NULL, rng(5))
    other, _ = rows(normal(64, 2), normal(64, 2), labels, NULL, rng(6))
    for name in ("t", "d", "w", "y"):
        assert torch.equal(getattr(one, name), getattr(same, name))
    assert not torch.equal(one.t, other.t)
    assert not torch.equal(one.w, other.w)


def test_queries_are_float32_by_default() -> None:
    torch.set_default_dtype(torch.float32)
    try:
        x = torch.zeros(16, 1, 4, 4)
        query, v = RECIPES["ism"].rows(x, x, torch.zeros(16).long(), NULL, rng())
    finally:
        torch.set_default_dtype(torch.float64)
    assert {column.dtype for column in (*query[:4], v)} == {torch.float32}
    assert query.y.dtype == torch.long


@given(st.integers(1, 8), st.floats(0.3, 3.0), st.integers(1, 60), seeds)
@settings(max_examples=60)
def test_levels_get_their_shares_of_every_batch_up_to_one_row(k: int, ratio: float, batch: int, seed: int) -> None:
    grid = StepGrid(2**k)
    rows = Rows(consistency=1.0, grid=grid, level_ratio=ratio)
    query, _ = rows(torch.zeros(batch, 1), torch.zeros(batch, 1), torch.zeros(batch).long(), NULL, rng(seed))
    counts = torch.bincount(torch.log2(query.d * grid.n).long() - 1, minlength=k)
    weights = [ratio**level for level in range(k)]
    for level in range(k):  # each share is an interval of the unit circle, hit by points 1 / batch apart
        assert abs(counts[level] - batch * weights[level] / sum(weights)) < 1 + 1e-9


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.0])
def test_times_follow_their_power_at_step_size_zero_alone(power: float) -> None:
    n, grid = 40_000, StepGrid(128)
    rows = Rows(0.25, 0.5, 0.0, strengths=Strengths(3.5), time_power=power)
    query, _ = rows(torch.zeros(n, 1), torch.zeros(n, 1), torch.zeros(n).long(), NULL, rng())
    for block, expected in zip(rows.blocks(n), (power, power, 1.0), strict=True):
        t = query.t[block][query.d[block] <= 1 / 64]  # velocity and guidance rows, and the finest consistency rows
        step = 1 / 128 if not query.d[block].any() else 1 / 64
        for bound in (0.25, 0.5, 0.75):  # P(u^power < bound) = bound^(1 / power), exact at points of the grid
            share = bound ** (1 / expected)
            assert abs((t < bound - step / 2).double().mean() - share) < 6 * (share * (1 - share) / len(t)) ** 0.5
    assert grid.levels == 7


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", ["level_ratio", "time_power"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_ratios_and_powers_must_be_positive(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive and finite, got {value}"):
        Rows(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["guidance", "consistency", "label_dropout"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_fractions_outside_the_unit_interval_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be a fraction in \[0, 1\], got {value}"):
        Rows(**{name: value})  # type: ignore[arg-type]


def test_more_rows_than_the_batch_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"guidance \+ consistency must not exceed 1, got 0.75 \+ 0.5"):
        Rows(guidance=0.75, consistency=0.5, strengths=Strengths(3.5))


def test_guidance_rows_without_strengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"guidance=0.25 needs strengths above 0, got w_max=0.0"):
        Rows(guidance=0.25)


@given(st.integers(2, 200), st.sampled_from(["guidance", "consistency"]))
def test_a_batch_too_small_for_a_block_is_refused_with_the_size_that_is_enough(parts: int, name: str) -> None:
    rows = Rows(**{name: 1 / parts}, strengths=Strengths(3.5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"a batch of 1 gives no {name} row at fraction .*: use a batch") as error:
        rows.blocks(1)
    enough = int(str(error.value).rsplit(maxsplit=1)[1])
    rows.blocks(enough)
    with pytest.raises(ValueError, match=f"a batch of {enough - 1} gives no {name} row"):
        rows.blocks(enough - 1)


@pytest.mark.parametrize("name", ["to_data", "from_noise"])
def test_a_share_of_the_steps_without_a_row_is_refused(name: str) -> None:
    rows = Intervals(consistency=1 / 4, **{name: 0.1})
    x, y = torch.zeros(16, 1), torch.zeros(16).long()
    with pytest.raises(ValueError, match=f"4 consistency rows give none at {name}=0.1: use more"):
        rows(x, x, y, null=1, generator=torch.Generator())


def test_rows_say_which_steps_they_train() -> None:
    assert Rows(consistency=0.5).step_lengths == Intervals().step_lengths == "dyadic"
    assert Intervals(consistency=0.5).step_lengths == "any"
    assert Intervals(consistency=0.5, to_data=0.5, from_noise=0.25).step_lengths == "any"
    assert Intervals(consistency=0.5, to_data=1.0).step_lengths == "to data"
    assert Intervals(consistency=0.5, to_data=0.5, from_noise=0.5).step_lengths == "to data"
