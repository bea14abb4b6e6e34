"""The methods: what rows are asked, what they should answer, and the laws of guidance, in float64."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ismkit.method.coupling import Coupling
from ismkit.method.ema import TwinEMA
from ismkit.method.guidance import Strengths
from ismkit.method.path import Query, StepGrid, expand_as
from ismkit.method.recipes import (
    RECIPES,
    BakedIn,
    Context,
    Intrinsic,
    Recipe,
    TargetRule,
    ask,
    average_of_half_steps,
    training_step,
    velocity_target,
)
from ismkit.method.rows import Rows
from ismkit.method.wavelet import WaveletDistance, l2
from ismkit.models.nets import ToyMLP
from tests.float64 import NULL, close, grids, normal, rng, seeds

pytestmark = pytest.mark.usefixtures("float64")


# ------------------------------------------------------------- fixed points of the consistency target (SM, Eq. 5)


def starts(grid: StepGrid, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """(t, d) of n consistency rows."""
    d = grid.step_size(torch.randint(1, grid.levels + 1, (n,), generator=rng(seed)))
    return grid.random_times(d, rng(seed)), d


@given(grids, st.lists(st.integers(1, 4), min_size=1, max_size=3), seeds)
@settings(max_examples=25)
def test_a_constant_field_is_a_fixed_point(grid: StepGrid, shape: list[int], seed: int) -> None:
    x, constant = normal(2, 7, *shape, seed=seed)
    t, d = starts(grid, 7, seed)
    assert torch.equal(average_of_half_steps(lambda *_: constant, x, t, d, grid), constant)


@given(grids, st.integers(1, 3), seeds)
@settings(max_examples=40)
def test_the_flow_of_an_affine_field_is_a_fixed_point(grid: StepGrid, dim: int, seed: int) -> None:
    # x' = A x + b is (x, 1)' = G (x, 1): its flow over a length is exp(length G). The network answers the exact average
    # velocity, over 1/n where it is asked d = 0. Two half steps then end where the whole step does.
    generator = torch.zeros(dim + 1, dim + 1)
    generator[:dim] = normal(dim, dim + 1, seed=seed)

    def field(x: Tensor, t: Tensor, d: Tensor) -> Tensor:
        length = torch.where(d > 0, d, 1 / grid.n)
        flow = torch.linalg.matrix_exp(length[:, None, None] * generator)
        end = torch.einsum("bij,bj->bi", flow, torch.cat([x, torch.ones(len(x), 1)], 1))[:, :dim]
        return (end - x) / length[:, None]

    x = normal(9, dim, seed=seed + 1)
    t, d = starts(grid, 9, seed)
    close(average_of_half_steps(field, x, t, d, grid), field(x, t, d), atol=1e-10)


SIGMA = 0.4
MEANS = torch.tensor([[2.0, -1.0], [0.5, 1.0], [-0.5, 0.25]], dtype=torch.float64)


def gaussian(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor, n: int = 128) -> Tensor:
    """Exact average velocity for classes N(MEANS[y], SIGMA^2), guided by w: its flow is t m + A(t) x0."""
    mean = MEANS[NULL] + (1 + w[:, None]) * (MEANS[y] - MEANS[NULL])
    length = torch.where(d > 0, d, 1 / n)[:, None]
    t = t[:, None]
    grown = ((1 - t - length) ** 2 + (SIGMA * (t + length)) ** 2) / ((1 - t) ** 2 + (SIGMA * t) ** 2)
    return ((t + length) * mean + grown.sqrt() * (x - t * mean) - x) / length


BOTH = Context(gaussian, gaussian, NULL)


@given(st.integers(8, 40), seeds)
@settings(max_examples=20)
def test_the_exact_guided_flow_of_gaussian_classes_is_a_fixed_point_of_ism(batch: int, seed: int) -> None:
    # The field depends on t, w and y, so this fails if a half step is asked anything but its own.
    rows = RECIPES["ism_guidance"].rows
    x0, x1 = normal(2, batch, 2, seed=seed)
    query, v = rows(x0, x1, torch.randint(NULL, (batch,), generator=rng(seed)), NULL, rng(seed))
    block = rows.blocks(batch).consistency
    target = Intrinsic()(query, v, rows, BOTH).target
    close(target[block], gaussian(*query)[block], atol=1e-10)


def test_the_average_of_half_steps_written_out() -> None:
    def field(x: Tensor, t: Tensor, d: Tensor) -> Tensor:
        return torch.sin(3 * x + expand_as(2 * t - d, x))

    grid = StepGrid(8)
    x, t, d = normal(3, 2), torch.tensor([0.25, 0.5, 0.0]), torch.tensor([0.25, 0.5, 1.0])
    target = average_of_half_steps(field, x, t, d, grid)
    for i, (time, half, asked) in enumerate([(0.25, 0.125, 0.0), (0.5, 0.25, 0.25), (0.0, 0.5, 0.5)]):
        first = torch.sin(3 * x[i] + 2 * time - asked)
        second = torch.sin(3 * (x[i] + half * first) + 2 * (time + half) - asked)
        close(target[i], (first + second) / 2)


def test_the_clip_bounds_the_middle_state_and_the_target() -> None:
    one = torch.ones(1)
    grid = StepGrid(4)
    seen: list[Tensor] = []

    def field(x: Tensor, t: Tensor, d: Tensor) -> Tensor:
        seen.append(x)
        return torch.full_like(x, 6.0)

    target = average_of_half_steps(field, torch.tensor([[3.0, -7.0]]), 0 * one, one, grid, clip=4.0)
    assert seen[0].tolist() == [[3, -7]]  # the state that is asked about is not clipped
    assert seen[1].tolist() == [[4, -4]]  # 3 + 3 = 6 and -7 + 3 = -4
    assert target.tolist() == [[4, 4]]


# ------------------------------------------------------------------------------------------------ laws of guidance


class Learnt:
    """What training converges to, as a table: one affine field of x per level, start time and label.

    Level 0 is given; :meth:`double` adds the levels above, by asking a rule for the target of every row of each.
    """

    def __init__(self, n: int, linear: Tensor, offsets: Tensor) -> None:
        """``linear`` (labels, D, D) and ``offsets`` (labels, D), the last label being null; or with a leading (n,)."""
        self.grid = StepGrid(n)
        self.linear = [linear.expand(n, -1, -1, -1)]
        self.offsets = [offsets.expand(n, -1, -1)]

    def __call__(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        (size,) = d.unique().tolist()
        level = round(math.log2(size * self.grid.n)) if size else 0
        cell = (t * self.grid.n / 2**level).long()
        return torch.einsum("bij,bj->bi", self.linear[level][cell, y], x) + self.offsets[level][cell, y]

    def fit(self, rule: TargetRule, rows: Rows, level: int, w: float, velocity: Tensor | None = None) -> None:
        """Append the fields that ``rule`` asks for at this level, read off at the origin and the unit vectors."""
        _, labels, dim = self.offsets[0].shape
        cells = self.grid.n >> level
        cell, label, probe = (
            z.flatten() for z in torch.meshgrid(*(torch.arange(k) for k in (cells, labels, dim + 1)), indexing="ij")
        )
        x = torch.cat([torch.zeros(1, dim), torch.eye(dim)])[probe]
        t, d = cell / cells, torch.full((len(x),), 2**level / self.grid.n if level else 0.0)
        query = Query(x, t, d, torch.full((len(x),), w), label)
        v = self(*query) if level == 0 else torch.zeros_like(x)
        target = rule(query, v, rows, Context(self, self, NULL)).target.reshape(cells, labels, dim + 1, dim)
        self.offsets[level:] = [target[:, :, 0]]
        self.linear[level:] = [(target[:, :, 1:] - target[:, :, :1]).mT]

    def double(self, rule: TargetRule, w: float = 0.0) -> "Learnt":
        """Learn every level from the one below."""
        for level in range(1, self.grid.levels + 1):
            self.fit(rule, Rows(consistency=1.0, grid=self.grid), level, w)
        return self

    def guide(self, rule: TargetRule, w: float) -> "Learnt":
        """Put the target of the guidance rows at strength w in the place of the velocity."""
        self.fit(rule, Rows(guidance=1.0, strengths=Strengths(4.0), grid=self.grid), 0, w)
        return self

    def gap(self, level: int) -> Tensor:
        """Conditional minus unconditional field, (cells, classes, D): their linear parts are equal."""
        close(self.linear[level], self.linear[level][:, -1:].expand_as(self.linear[level]), atol=1e-9)
        return self.offsets[level][:, :-1] - self.offsets[level][:, -1:]


def constant(n: int) -> Learnt:
    return Learnt(n, torch.zeros(3, 2, 2), MEANS)


def affine(n: int) -> Learnt:
    return Learnt(n, normal(2, 2).expand(3, 2, 2), MEANS)


@pytest.mark.parametrize("make", [constant, affine])
@pytest.mark.parametrize("n", [2, 16, 128, 256])
@pytest.mark.parametrize("cfg_scale", [1.5, 0.7, 3.0])
def test_cfg_at_every_level_compounds(make: Callable[[int], Learnt], n: int, cfg_scale: float) -> None:
    guided = make(n).double(BakedIn(cfg_scale, every_level=True, clip=None))
    unguided = make(n).double(BakedIn(1.0, clip=None))
    for level in range(guided.grid.levels + 1):
        torch.testing.assert_close(guided.gap(level), cfg_scale**level * unguided.gap(level), rtol=1e-9, atol=1e-9)
        close(guided.offsets[level][:, NULL], unguided.offsets[level][:, NULL], atol=1e-9)  # null is never guided


@pytest.mark.parametrize("make", [constant, affine])
@pytest.mark.parametrize("n", [2, 16, 128, 256])
@pytest.mark.parametrize("cfg_scale", [1.5, 0.7, 3.0])
def test_cfg_at_the_finest_level_alone_is_inherited_unmultiplied(
    make: Callable[[int], Learnt], n: int, cfg_scale: float
) -> None:
    guided = make(n).double(BakedIn(cfg_scale, every_level=False, clip=None))
    unguided = make(n).double(BakedIn(1.0, clip=None))
    for level in range(1, guided.grid.levels + 1):
        torch.testing.assert_close(guided.gap(level), cfg_scale * unguided.gap(level), rtol=1e-9, atol=1e-9)


def test_one_step_of_the_shortcut_model_carries_17_of_guidance_instead_of_one_and_a_half() -> None:
    every, finest = (constant(128).double(BakedIn(1.5, every, clip=None)) for every in (True, False))
    gap = MEANS[:2] - MEANS[2]
    close(every.gap(7)[0] / gap, torch.full_like(gap, 17.0859375))
    close(finest.gap(7)[0] / gap, torch.full_like(gap, 1.5))


@pytest.mark.parametrize("make", [constant, affine])
@pytest.mark.parametrize("w", [0.25, 2.0, 3.5])
def test_intrinsic_guidance_does_not_depend_on_the_step_size(make: Callable[[int], Learnt], w: float) -> None:
    rule = Intrinsic(t_interval=0.0)
    guided = make(128).guide(rule, w).double(rule, w)
    unguided = make(128).double(rule)
    for level in range(8):
        torch.testing.assert_close(guided.gap(level), (1 + w) * unguided.gap(level), rtol=1e-9, atol=1e-9)
    if make is constant:
        close(guided.offsets[7][0, :2], MEANS[:2] + w * (MEANS[:2] - MEANS[2]), atol=1e-9)


@pytest.mark.parametrize("t_interval", [0.0, 0.1, 0.3, 0.5, 1.0])
def test_larger_steps_learn_the_interval_by_consistency(t_interval: float) -> None:
    # In a constant field a step is guided for that part of its finest steps which begins within the interval.
    w, gap, rule = 2.0, MEANS[:2] - MEANS[2], Intrinsic(t_interval)
    guided = constant(128).guide(rule, w).double(rule, w)
    for level in range(8):
        inside = torch.tensor([k / 128 >= t_interval for k in range(128)]).double().reshape(-1, 2**level).mean(1)
        close(guided.gap(level), (1 + w * inside[:, None, None]) * gap, atol=1e-9)


# --------------------------------------------------------------------------------------------- intrinsic guidance


@given(st.floats(0, 1), st.integers(8, 60), seeds)
@settings(max_examples=30)
def test_intrinsic_targets_of_a_known_pair_of_fields(t_interval: float, batch: int, seed: int) -> None:
    rows = Rows(guidance=0.25, consistency=0.25, strengths=Strengths(3.5))
    x0, x1 = normal(2, batch, 2, seed=seed)
    query, v = rows(x0, x1, torch.randint(NULL, (batch,), generator=rng(seed)), NULL, rng(seed))
    before = v.clone()
    target = Intrinsic(t_interval)(query, v, rows, BOTH).target
    blocks = rows.blocks(batch)
    assert torch.equal(v, before)  # not changed in place
    assert torch.equal(target[blocks.velocity], v[blocks.velocity])
    zero = torch.zeros(batch)
    gap = gaussian(query.x, query.t, zero, zero, query.y) - gaussian(query.x, query.t, zero, zero, zero.long() + NULL)
    for i in range(*blocks.guidance.indices(batch)):
        assert query.y[i] != NULL
        if query.t[i] < t_interval:
            assert torch.equal(target[i], v[i])
        else:
            close(target[i], v[i] + query.w[i] * gap[i])
            assert (target[i] - v[i]).abs().max() > 0


def test_what_the_target_network_of_ism_is_asked() -> None:
    asked: list[Query] = []

    def spy(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        asked.append(Query(x, t, d, w, y))
        return torch.zeros_like(x)

    rows = RECIPES["ism"].rows
    x0, x1 = normal(2, 64, 2)
    query, v = rows(x0, x1, torch.randint(NULL, (64,), generator=rng()), NULL, rng())
    Intrinsic()(query, v, rows, Context(spy, spy, NULL))
    blocks = rows.blocks(64)
    assert sum(len(q.x) for q in asked) == 64  # one more forward pass over the batch, and no backward: 4/3 of the cost
    together, second = asked  # the gap and the first half step are one call, since they ask one network
    of, steps = query.take(blocks.guidance), query.take(blocks.consistency)
    sizes = [len(of.x), len(of.x), len(steps.x)]
    conditional, unconditional, first = (
        Query(*parts) for parts in zip(*(c.split(sizes) for c in together), strict=True)
    )
    for q, y in ((conditional, of.y), (unconditional, torch.full_like(of.y, NULL))):
        assert torch.equal(q.x, of.x)
        assert torch.equal(q.t, of.t)
        assert not q.d.any()
        assert not q.w.any()
        assert torch.equal(q.y, y)
    of = steps
    for q, start in ((first, of.t), (second, of.t + of.d / 2)):
        assert torch.equal(q.t, start)
        assert torch.equal(q.d, torch.where(of.d > 2 / 128, of.d / 2, 0))
        assert torch.equal(q.w, of.w)  # the same w
        assert torch.equal(q.y, of.y)


@pytest.mark.parametrize("gap", ["fast", "slow"])
def test_questions_to_two_averages_stay_apart(gap: str) -> None:
    calls: list[str] = []

    def named(name: str) -> Callable[..., Tensor]:
        def net(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
            calls.append(f"{name} {len(x)}")
            return gaussian(x, t, d, w, y)

        return net

    rows = RECIPES["ism"].rows
    query, v = rows(*normal(2, 64, 2), torch.randint(NULL, (64,), generator=rng()), NULL, rng())
    answer = Intrinsic(gap=gap)(query, v, rows, Context(named("fast"), named("slow"), NULL))  # type: ignore[arg-type]
    assert calls == (["fast 48", "fast 16"] if gap == "fast" else ["slow 32", "fast 16", "fast 16"])
    close(answer.target, Intrinsic()(query, v, rows, BOTH).target)


def test_asking_together_is_asking_one_by_one() -> None:
    queries = [Query(normal(n, 2, seed=n), *torch.rand(3, n).double(), torch.arange(n) % 2) for n in (3, 0, 5)]
    answers = ask(*((gaussian, query) for query in queries))
    for query, answer in zip(queries, answers, strict=True):
        assert torch.equal(answer, gaussian(*query) if len(query.x) else query.x)
    assert ask() == []


# -------------------------------------------------------------------------------------------------- other targets


def test_flow_answers_the_velocity_everywhere_and_asks_nothing() -> None:
    v = normal(6, 2)

    def never(*_: Tensor) -> Tensor:
        raise AssertionError("flow matching needs no target network")

    zero = torch.zeros(6)
    query = Query(v, zero, zero, zero, zero.long())
    assert torch.equal(velocity_target(query, v, Rows(), Context(never, never, NULL)).target, v)


@pytest.mark.parametrize("every_level", [True, False])
def test_baked_in_targets_touch_the_consistency_rows_alone(every_level: bool) -> None:
    rows = RECIPES["shortcut_every_level"].rows
    x0, x1 = normal(2, 64, 2)
    query, v = rows(x0, x1, torch.randint(NULL, (64,), generator=rng()), NULL, rng())
    before = v.clone()
    target = BakedIn(every_level=every_level)(query, v, rows, BOTH).target
    blocks = rows.blocks(64)
    assert torch.equal(v, before)
    assert torch.equal(target[blocks.velocity], v[blocks.velocity])
    assert (target[blocks.consistency] != v[blocks.consistency]).all()
    assert target.abs().max() <= max(4.0, v.abs().max().item())


def test_baked_in_at_scale_one_is_plain_consistency() -> None:
    rows = Rows(consistency=1.0)
    x0, x1 = normal(2, 40, 2)
    query, v = rows(x0, x1, torch.randint(NULL, (40,), generator=rng()), NULL, rng())
    for every_level in (True, False):
        target = BakedIn(1.0, every_level, clip=None)(query, v, rows, BOTH).target
        close(target, gaussian(*query), atol=1e-10)

    def labelled(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        assert (y != NULL).all()  # the null label has no share, and is not asked
        return gaussian(x, t, d, w, y)

    BakedIn(1.0)(query, v, Rows(consistency=1.0), Context(labelled, labelled, NULL))


@pytest.mark.parametrize("predicted", [False, True])
def test_the_gap_comes_from_the_average_named_and_all_else_from_the_fast_one(predicted: bool) -> None:
    def constant(conditional: float, unconditional: float) -> Callable[..., Tensor]:
        return lambda x, t, d, w, y: torch.where(y == NULL, unconditional, conditional)[:, None].expand_as(x)

    rows = RECIPES["ism"].rows
    labels = torch.randint(NULL, (64,), generator=rng())
    query, v = rows(normal(64, 2), normal(64, 2, seed=1), labels, NULL, rng())
    context = Context(fast=constant(5.0, 7.0), slow=constant(3.0, 1.0), null=NULL)
    target, weight = Intrinsic(0.0, predicted=predicted, gap="slow")(query, v, rows, context)
    assert weight == 1
    velocity, guidance, consistency = rows.blocks(64)
    assert torch.equal(target[velocity], v[velocity])
    base = torch.full_like(v[guidance], 3.0) if predicted else v[guidance]
    close(target[guidance], base + query.w[guidance, None] * 2.0)
    assert (target[consistency] == 5.0).all()


def test_a_decay_of_one_is_refused_before_there_is_a_network() -> None:
    with pytest.raises(ValueError, match=r"fast decay must be in \[0, 1\), got 1.0"):
        dataclasses.replace(RECIPES["ism"], fast=1.0)


def test_an_average_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="gap must be one of fast, slow, got 'online'"):
        Intrinsic(gap="online")  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------- loss


@given(
    st.sampled_from([(0.25, 0.25), (0.0, 0.125), (0.5, 0.5), (0.0, 0.0), (0.3, 0.2), (0.0, 1.0)]),
    st.tuples(*[st.floats(0, 3)] * 3),
    st.integers(10, 50),
    seeds,
)
@settings(max_examples=40)
def test_the_loss_is_alpha_velocity_plus_beta_guidance_plus_gamma_consistency(
    fractions: tuple[float, float], weights: tuple[float, float, float], batch: int, seed: int
) -> None:
    recipe = Recipe("test", Rows(*fractions, strengths=Strengths(3.5)), Intrinsic(), weights)
    distance = normal(batch, seed=seed).square()
    n_guidance, n_consistency = (math.floor(fraction * batch + 1e-9) for fraction in fractions)
    values = distance.tolist()
    parts = [
        values[: batch - n_guidance - n_consistency],
        values[batch - n_guidance - n_consistency : batch - n_consistency],
        values[batch - n_consistency :],
    ]
    expected = sum(weight * sum(part) / len(part) for weight, part in zip(weights, parts, strict=True) if part)
    assert recipe.loss(distance).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["flow", "shortcut_every_level", "shortcut_finest_level"])
@pytest.mark.parametrize("batch", [8, 64, 256])
def test_the_loss_of_the_baselines_is_the_mean_over_the_batch(name: str, batch: int) -> None:
    distance = normal(batch).square()
    close(RECIPES[name].loss(distance), distance.mean())


def test_every_row_gets_the_gradient_of_its_block() -> None:
    distance = torch.ones(16, requires_grad=True)
    RECIPES["ism"].loss(distance).backward()
    assert distance.grad is not None
    assert distance.grad.tolist() == [1 / 8] * 8 + [1 / 4] * 8


# -------------------------------------------------------------------------------------------------------- recipes


def changes(one: object, other: object, place: str = "") -> dict[str, tuple[object, object]]:
    """Where two settings differ, down to the innermost field."""
    if type(one) is not type(other) or not dataclasses.is_dataclass(one) or isinstance(one, WaveletDistance):
        return {} if one == other else {place: (one, other)}
    found: dict[str, tuple[object, object]] = {}
    for f in dataclasses.fields(one):
        found |= changes(getattr(one, f.name), getattr(other, f.name), f"{place}.{f.name}".lstrip("."))
    return found


LADDER = [
    ("shortcut_every_level", "shortcut_finest_level", {"target.every_level": (True, False)}),
    ("ism_guidance", "+interval", {"target.t_interval": (0.0, 0.3)}),
    ("+interval", "+wavelet", {"distance": (l2, RECIPES["+wavelet"].distance)}),
    ("+wavelet", "+sot", {"coupling.pool": (0, 32)}),
    ("+sot", "ism", {"fast": (0.9999, 0.95)}),
]


@pytest.mark.parametrize(("lower", "upper", "expected"), LADDER, ids=[rung[1] for rung in LADDER])
def test_each_rung_changes_the_stated_part_only(
    lower: str, upper: str, expected: dict[str, tuple[object, object]]
) -> None:
    assert changes(RECIPES[lower], RECIPES[upper]) == {"name": (lower, upper)} | expected


def test_the_recipes_are_named_and_in_order() -> None:
    assert list(RECIPES) == [
        *("flow", "shortcut_every_level", "shortcut_finest_level"),
        *("ism_guidance", "+interval", "+wavelet", "+sot", "ism", "ism_plus"),
    ]
    assert all(recipe.name == name for name, recipe in RECIPES.items())
    assert isinstance(RECIPES["+wavelet"].distance, WaveletDistance)


def test_the_settings_of_the_papers() -> None:
    flow, shortcut, ism = RECIPES["flow"], RECIPES["shortcut_every_level"], RECIPES["ism"]
    assert flow == Recipe("flow", Rows(label_dropout=0.1), velocity_target)
    assert shortcut.rows == Rows(consistency=1 / 8, label_dropout=0.1, drop_consistency=True, grid=StepGrid(128))
    assert shortcut.target == BakedIn(1.5, every_level=True, clip=4.0)
    assert shortcut.fast == shortcut.slow == 0.9999
    assert ism.rows == Rows(1 / 4, 1 / 4, 0.1, False, Strengths(3.5, 0.25), StepGrid(128))
    assert ism.target == Intrinsic(t_interval=0.3)
    assert ism.weights == (1, 1, 1)
    assert ism.coupling == Coupling(32, class_aware=True)
    assert (ism.fast, ism.slow) == (0.95, 0.9999)


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_an_interval_outside_the_unit_interval_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=rf"t_interval must be a time in \[0, 1\], got {value}"):
        Intrinsic(value)


# ---------------------------------------------------------------------------------------------------------- terms


def test_a_term_is_added_to_the_loss_and_sees_the_clean_data() -> None:
    def far_from_data(net: nn.Module, prediction: Tensor, query: Query, velocity: Tensor, context: Context) -> Tensor:
        data = query.x + (1 - query.t)[:, None] * velocity
        close(data, x1)
        assert context.progress == 0.25
        return net.scale * prediction.sum()  # type: ignore[operator, return-value]

    net = ToyMLP(width=8, depth=1, num_classes=NULL)
    net.scale = nn.Parameter(torch.tensor(2.0))
    x1 = normal(8, 2, seed=1)
    pair = normal(8, 2), x1, torch.arange(8) % NULL
    ema = TwinEMA(net)
    with_term = replace(RECIPES["flow"], terms=(far_from_data, far_from_data))
    for parameter in net.parameters():
        parameter.data += 0.1
    plain, query, _ = training_step(RECIPES["flow"], net, ema, pair, NULL, rng())
    loss, _, _ = training_step(with_term, net, ema, pair, NULL, rng(), 0.25)
    close(loss - plain, 2 * net.scale * net(*query).sum())
    loss.backward()
    close(net.scale.grad, 2 * net(*query).sum())


def test_a_term_that_is_no_function_is_refused() -> None:
    with pytest.raises(ValueError, match="each of the terms must be a function, such as those of RECIPES, got 3"):
        replace(RECIPES["flow"], terms=(3,))


OTHERS = {
    "target": (lambda query, velocity: velocity, r"target must take \(query, velocity, rows, context\), got .*lambda"),
    "distance": (lambda prediction, target: target, r"distance must take \(prediction, target, query\), got"),
    "terms": ((lambda net, x: 0.0,), r"each of the terms must take \(net, prediction, query, velocity, context\), got"),
}


@pytest.mark.parametrize("part", OTHERS)
def test_a_part_that_takes_other_arguments_is_refused_when_the_recipe_is_made(part: str) -> None:
    given, message = OTHERS[part]
    with pytest.raises(ValueError, match=message):
        replace(RECIPES["ism"], **{part: given})
