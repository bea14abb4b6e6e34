"""The rule that cuts an interval: its fixed points, its limits and what it asks, in float64 against a known flow."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ismkit.method.coupling import Coupling
from ismkit.method.guidance import Strengths
from ismkit.method.path import Query, interpolate
from ismkit.method.recipes import Answer, Context
from ismkit.method.rows import Intervals, Rows
from ismkit.models.nets import DiT, ToyMLP
from ismkit.neighbours import (
    NEIGHBOURS,
    ExponentialCut,
    FixedScale,
    Gap,
    HalvingCut,
    Leap,
    SigmoidCut,
    derivative,
    posterior_velocity,
)
from tests.neighbours.exact import CONTEXT, MEANS, NULL, ROWS, STD, asked, flow

pytestmark = pytest.mark.usefixtures("float64")


def target(leap: Leap, query: Query, velocity: Tensor, context: Context = CONTEXT) -> Tensor:
    return leap(query, velocity, ROWS, context).target


@pytest.mark.parametrize("cut", [0.0, 0.01, 0.3, 0.5, 0.99, 1.0])
def test_the_exact_flow_is_a_fixed_point_of_its_own_cuts(cut: float) -> None:
    query, velocity = asked()
    torch.testing.assert_close(target(Leap("own", cut), query, velocity), flow(*query), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("first", ["sample", "net"])
@pytest.mark.parametrize("tangent", ["first", "net"])
def test_the_exact_flow_is_a_fixed_point_of_the_limit(first: str, tangent: str) -> None:
    query, velocity = asked(seed=1)
    leap = Leap(first, 0.0, tangent)  # type: ignore[arg-type]
    torch.testing.assert_close(target(leap, query, velocity), flow(*query), rtol=1e-10, atol=1e-10)


def test_a_tangent_that_leaves_the_end_free_is_far_from_it() -> None:
    query, velocity = asked(seed=1)
    x, t, d, w, y = query
    _, wrong = torch.func.jvp(
        lambda x, t, d: flow(x, t, d, w, y), (x, t, d), (velocity, torch.ones_like(t), torch.zeros_like(d))
    )
    assert (velocity + d[:, None] * wrong - flow(*query)).abs().max() > 0.1


def test_the_velocity_misses_by_the_second_order_of_the_cut() -> None:
    query, velocity = asked(seed=2)
    error = [(target(Leap("sample", c), query, velocity) - flow(*query)).abs().max().item() for c in (0.02, 0.01)]
    assert error[0] / error[1] == pytest.approx(4.0, rel=0.05)


def test_the_limit_is_the_slope_of_small_cuts() -> None:
    query, velocity = asked(seed=3)

    def net(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return torch.sin(x + t[:, None]) * d[:, None] + x  # far from any fixed point

    context = Context(net, net, null=2)
    small = (target(Leap("sample", 1e-6), query, velocity, context) - net(*query)) / 1e-6
    limit = target(Leap("sample", 0.0), query, velocity, context) - net(*query)
    torch.testing.assert_close(small, limit, rtol=1e-4, atol=1e-4)


def test_to_the_data_it_is_the_target_of_consistency_training() -> None:
    """ECT (arXiv 2406.14548): the answer at a cleaner point of the same pair, f(x_r, r), seen from x_t."""
    query, velocity = asked(seed=4, rows=Intervals(consistency=1.0, label_dropout=0.0, to_data=1.0))
    x, t, d, w, y = query
    torch.testing.assert_close(t + d, torch.ones_like(t), rtol=0, atol=1e-6)
    cut, d = 0.25, 1 - t
    r = t + cut * d
    x_r = x + (r - t)[:, None] * velocity
    ahead = x_r + (1 - r)[:, None] * flow(x_r, r, 1 - r, w, y)
    expected = (ahead - x) / (1 - t)[:, None]
    query = Query(x, t, d, w, y)
    torch.testing.assert_close(target(Leap("sample", cut), query, velocity), expected, rtol=1e-10, atol=1e-10)


def test_a_whole_cut_is_flow_matching_and_the_other_rows_keep_the_velocity() -> None:
    rows = Intervals(consistency=0.5, label_dropout=0.0)
    query, velocity = asked(rows=rows)
    assert Leap("sample", 1.0)(query, velocity, rows, CONTEXT).target.equal(velocity)
    answer = Leap("sample", lambda progress: progress, weight=1.0)(query, velocity, rows, Context(flow, flow, 2, 0.5))
    assert answer.target[:32].equal(velocity[:32])
    assert not answer.target[32:].equal(velocity[32:])
    assert isinstance(answer.weight, Tensor)
    assert answer.weight.tolist() == [1.0] * 32 + [0.5] * 32


@pytest.mark.parametrize(("leap", "calls"), [(Leap("own", 0.5), 2), (Leap("sample", 0.5), 1), (Leap("sample", 1.0), 0)])
def test_it_asks_no_more_than_it_needs(leap: Leap, calls: int) -> None:
    query, velocity = asked()
    made: list[int] = []

    def counting(*arguments: Tensor) -> Tensor:
        made.append(len(arguments[0]))
        return flow(*arguments)

    answer: Answer = leap(query, velocity, ROWS, Context(counting, counting, 2))
    assert answer.target.shape == velocity.shape
    assert made == [64] * calls


def test_the_derivative_passes_through_attention() -> None:
    torch.manual_seed(0)
    net = DiT(size=4, channels=1, patch=2, width=16, depth=1, heads=2, num_classes=2).double()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x, t, d = torch.randn(3, 1, 4, 4, dtype=torch.float64), torch.full((3,), 0.4), torch.full((3,), 0.3)
    v, w, y = torch.randn_like(x), torch.zeros(3, dtype=torch.float64), torch.tensor([0, 1, 2])

    def field(x: Tensor, t: Tensor, d: Tensor) -> Tensor:
        return net(x, t, d, w, y)

    at = (x, t, d)
    with torch.no_grad():
        found = derivative(field, at, v)
        h = 1e-4  # the network embeds d in float32: smaller steps drown in its rounding
        shifted = [field(x + s * h * v, at[1] + s * h, at[2] - s * h) for s in (1, -1)]
    torch.testing.assert_close(found, (shifted[0] - shifted[1]) / (2 * h), rtol=1e-2, atol=1e-2)


def test_central_differences_are_the_derivative_to_second_order() -> None:
    query, velocity = asked(seed=5)
    x, t, d, w, y = query
    t, d = 0.1 + 0.8 * t, 0.1 + 0.0 * d  # away from the ends, beyond which a difference would step

    def field(x: Tensor, t: Tensor, d: Tensor) -> Tensor:
        return flow(x, t, d, w, y)

    exact = derivative(field, (x, t, d), velocity)
    errors = [(derivative(field, (x, t, d), velocity, h) - exact).abs().max().item() for h in (2e-2, 1e-2)]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.02)


class _Square(torch.autograd.Function):
    """A function with a backward pass alone, as a kernel of one's own has."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, *slope: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * slope[0]


def test_a_network_without_a_derivative_is_refused_in_a_sentence_and_taken_by_differences() -> None:
    query, velocity = asked(seed=5)

    def net(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return _Square.apply(x) + d[:, None]

    context = Context(net, net, NULL)
    with pytest.raises(RuntimeError, match=r"no derivative in forward mode.*: take central differences, Leap"):
        target(Leap("sample", 0.0), query, velocity, context)
    found = target(Leap("sample", 0.0, differences=1e-4), query, velocity, context)
    expected = velocity + query.d[:, None] * (2 * query.x * velocity - 1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_another_error_of_the_network_passes_as_it_is() -> None:
    query, velocity = asked(seed=5)

    def net(*_: Tensor) -> Tensor:
        raise RuntimeError("out of paper")

    with pytest.raises(RuntimeError, match="out of paper"):
        target(Leap("sample", 0.0), query, velocity, Context(net, net, NULL))


def test_a_random_cut_has_the_same_fixed_point_and_is_drawn_from_the_steps_generator() -> None:
    query, velocity = asked(seed=6)
    context = [CONTEXT._replace(rng=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    torch.testing.assert_close(target(Leap("own", "uniform"), query, velocity, context[0]), flow(*query))
    sample = [target(Leap("sample", "uniform"), query, velocity, each) for each in context[1:]]
    assert not torch.equal(*sample)
    context[1].rng.manual_seed(0)  # type: ignore[union-attr]
    assert torch.equal(sample[0], target(Leap("sample", "uniform"), query, velocity, context[1]))


def test_a_teacher_gives_the_velocity() -> None:
    query, velocity = asked(seed=7)
    taught = target(Leap(flow, 0.3), query, torch.full_like(velocity, torch.nan))  # type: ignore[arg-type]
    torch.testing.assert_close(taught, target(Leap("sample", 0.3), query, velocity))


def test_a_target_is_bounded() -> None:
    query, velocity = asked()
    free, bounded = (target(Leap("sample", 0.3, clip=clip), query, velocity) for clip in (None, 1.0))
    assert free.abs().max() > 1.5
    assert torch.equal(bounded, free.clamp(-1, 1))


# ---------------------------------------------------------------- guidance


def guided_flow(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """The velocity with classifier-free guidance at scale 1 + w; of the null label where that is asked. d = 0 only."""
    zero = torch.zeros_like(t)
    unconditional = flow(x, t, zero, w, torch.full_like(y, NULL))
    return unconditional + (1 + w)[:, None] * (flow(x, t, zero, w, y) - unconditional)


GUIDED_ROWS = Intervals(guidance=0.5, consistency=0.5, label_dropout=0.0, strengths=Strengths(3.0))


@pytest.mark.parametrize("own", [False, True])
def test_both_estimators_of_the_gap_have_one_fixed_point(own: bool) -> None:
    """Intrinsic guidance and improved MeanFlow's: classifier-free guidance at scale 1 + w."""
    query, velocity = asked(rows=GUIDED_ROWS)
    context = Context(guided_flow, guided_flow, NULL)
    pushed = Gap(0.0, own)(query, velocity, GUIDED_ROWS, context)
    expected = guided_flow(query.x, query.t, torch.zeros_like(query.d), query.w, query.y)
    torch.testing.assert_close(pushed, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("own", [False, True])
def test_no_gap_before_its_interval_nor_in_velocity_rows(own: bool) -> None:
    query, velocity = asked(rows=GUIDED_ROWS)
    context = Context(guided_flow, guided_flow, NULL)
    pushed = Gap(0.5, own)(query, velocity, GUIDED_ROWS, context)
    early = query.t < 0.5
    assert torch.equal(pushed[early], velocity[early])
    assert ((pushed - velocity)[~early & (query.w > 0)].abs().amax(1) > 0).all()
    rows = Intervals(guidance=0.25, consistency=0.25, label_dropout=0.0, strengths=Strengths(3.0))
    assert torch.equal(Gap(0.0, own)(query, velocity, rows, context)[:32], velocity[:32])


def test_meanflows_guidance_is_at_the_scale_it_says() -> None:
    guide = FixedScale(omega=0.2, kappa=0.92, start=0.0)
    assert guide.scale == pytest.approx(2.5)

    def net(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        conditional = guided_flow(x, t, d, torch.full_like(w, guide.scale - 1), y)
        return torch.where((y == NULL)[:, None], flow(x, t, torch.zeros_like(d), w, y), conditional)

    query, velocity = asked()
    query = query._replace(y=torch.where(torch.arange(64) % 3 == 0, NULL, query.y))
    velocity = flow(query.x, query.t, torch.zeros_like(query.d), query.w, query.y)
    pushed = guide(query, velocity, ROWS, Context(net, net, NULL))
    torch.testing.assert_close(pushed, net(*query._replace(d=torch.zeros_like(query.d))), rtol=1e-11, atol=1e-11)
    dropped = query.y == NULL
    assert torch.equal(pushed[dropped], velocity[dropped])
    late = FixedScale(omega=0.2, kappa=0.92, start=0.25, end=0.75)(query, velocity, ROWS, Context(net, net, NULL))
    outside = (query.t < 0.25) | (query.t > 0.75)
    assert torch.equal(late[outside], velocity[outside])
    assert torch.equal(late[~outside], pushed[~outside])


# ---------------------------------------------------------------- the mean of the posterior


def test_the_mean_of_the_posterior_is_a_sum_over_all_data() -> None:
    rng = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 12, 2, generator=rng, dtype=torch.float64)
    t, y = torch.rand(12, generator=rng, dtype=torch.float64), torch.arange(12) % 3
    x, velocity = interpolate(x0, x1, t)
    found = posterior_velocity(Query(x, t, t, t, y), velocity, NULL)
    for i in range(12):
        density, mean = 0.0, torch.zeros(2, dtype=torch.float64)
        for j in range(12):
            if y[i] in (NULL, y[j]):
                p = torch.exp(-(x[i] - t[i] * x1[j]).square().sum() / (2 * (1 - t[i]) ** 2))
                density, mean = density + p, mean + p * x1[j]
        torch.testing.assert_close(found[i], (mean / density - x[i]) / (1 - t[i]))


def test_with_many_data_it_is_the_marginal_velocity() -> None:
    """Against the closed form for one Gaussian, within four standard errors over 20 draws of 2000 data."""
    n, runs = 2000, []
    x, t = torch.tensor([[0.3, -0.4]], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    y = torch.zeros(n + 1).long()
    for seed in range(20):
        rng = torch.Generator().manual_seed(seed)
        x1 = MEANS[0] + STD * torch.randn(n, 2, generator=rng, dtype=torch.float64)
        states, times = x.repeat(n + 1, 1), t.repeat(n + 1)
        velocity = (torch.cat([x1, x1[:1]]) - states) / (1 - times)[:, None]
        runs.append(posterior_velocity(Query(states, times, times, times, y), velocity, NULL)[0])
    found = torch.stack(runs)
    exact = flow(x, t, torch.zeros(1), torch.zeros(1), y[:1])[0]
    assert ((found.mean(0) - exact).abs() < 4 * found.std(0) / 20**0.5).all()


def test_at_the_data_the_mean_of_the_posterior_is_the_rows_own_velocity() -> None:
    rng = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 12, 2, generator=rng, dtype=torch.float64)
    for left in (1e-5, 2.0**-24, 0.0):  # 2^-24 is the least that uniform float32 times leave
        t = torch.full((12,), 1 - left)
        x, velocity = interpolate(x0, x1, t)
        found = posterior_velocity(Query(x, t, t, t, torch.zeros(12).long()), velocity, NULL)
        torch.testing.assert_close(found, velocity, rtol=1e-9, atol=1e-9)


def test_the_posterior_is_refused_where_noise_is_coupled() -> None:
    with pytest.raises(ValueError, match="first='posterior' is the mean for independent noise: use Coupling"):
        replace(NEIGHBOURS["sct"], coupling=Coupling(pool=8))
    with pytest.raises(ValueError, match="first='posterior' is the mean for normal noise: use source=None, got"):
        replace(NEIGHBOURS["sct"], source=lambda shape, generator: torch.zeros(shape))


# ---------------------------------------------------------------- cuts


def test_cuts_fall_as_published() -> None:
    alpha, soflow, ect = SigmoidCut(), ExponentialCut(), HalvingCut()
    assert (alpha(0.0), alpha(0.5), alpha(1.0)) == (1.0, 0.5, 0.0)  # snapped at both ends
    assert alpha(0.4) == pytest.approx(1 / (1 + math.exp(-2.5)))
    assert SigmoidCut(0.5, 5 / 6)(2 / 3) == pytest.approx(0.5)  # XL/2: between 600k and 1000k of 1200k steps
    assert (soflow(0.0), soflow(1.0)) == pytest.approx((0.1, 0.002))
    assert soflow(0.5) == pytest.approx((0.1 * 0.002) ** 0.5)
    assert [ect(k / 9) for k in range(9)] == [2.0**-k for k in range(9)]
    assert ect(1.0) == 1 / 256


def test_bad_cuts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cut must be a number in \[0, 1\], got 1.5"):
        Leap("own", 1.5)
    query, velocity = asked()
    for share in (1.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match=rf"cut must give a share in \[0, 1\], got {share} at progress 0"):
            target(Leap("own", lambda _, share=share: share), query, velocity)
    with pytest.raises(ValueError, match="first must be one of sample, net, own, posterior, or a network, got"):
        Leap("teacher")  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0, 1])
def test_a_cut_may_give_whole_numbers(share: int) -> None:
    query, velocity = asked()
    given = target(Leap("sample", lambda _: share), query, velocity)
    assert torch.equal(given, target(Leap("sample", float(share)), query, velocity))


# ---------------------------------------------------------------- rows


def test_intervals_lie_between_noise_and_data_and_have_the_density_of_two_uniform_times() -> None:
    n, rng = 40_000, torch.Generator().manual_seed(0)
    x = torch.zeros(n, 1)
    query, _ = ROWS(x, x, torch.zeros(n).long(), 1, rng)
    assert bool((query.t >= 0).all())
    assert bool((query.t + query.d <= 1 + 1e-6).all())
    # E d = 1/3, E d^2 = 1/6 for two uniform times; four standard errors.
    for value, expected, std in ((query.d, 1 / 3, (1 / 18) ** 0.5), (query.d**2, 1 / 6, (1 / 15 - 1 / 36) ** 0.5)):
        assert abs(value.mean().item() - expected) < 4 * std / n**0.5


def test_times_with_a_normal_logit_have_its_mean_and_deviation() -> None:
    n, rng = 40_000, torch.Generator().manual_seed(0)
    x = torch.zeros(n, 1)
    query, _ = Intervals(logit=(0.4, 1.2))(x, x, torch.zeros(n).long(), 1, rng)
    logit = torch.logit(query.t.double())
    assert abs(logit.mean().item() - 0.4) < 4 * 1.2 / n**0.5
    assert abs(logit.std().item() - 1.2) < 4 * 1.2 / (2 * n) ** 0.5


def test_rows_without_a_step_may_have_the_noisier_of_two_times() -> None:
    """Of two uniform times the earlier one has P(t > s) = (1 - s)^2; the steps beside them stay as they are."""
    n, x = 40_000, torch.zeros(40_000, 1)
    rows = Intervals(guidance=0.25, consistency=0.25, strengths=Strengths(3.5), noisier=True)
    queries = [
        r(x, x, torch.zeros(n).long(), 1, torch.Generator().manual_seed(0))[0]
        for r in (rows, replace(rows, noisier=False))
    ]
    for block in (slice(0, 20_000), slice(20_000, 30_000)):
        t = queries[0].t[block]
        for s in (0.1, 0.5, 0.8):
            p = (1 - s) ** 2
            assert abs((t > s).double().mean().item() - p) < 4 * (p * (1 - p) / len(t)) ** 0.5
        assert (t <= queries[1].t[block]).all()
    for found, before in zip(queries[0], queries[1], strict=True):
        assert found[30_000:].equal(before[30_000:])


def test_dyadic_rows_ask_what_they_always_did() -> None:
    x, rng = torch.zeros(64, 1), torch.Generator().manual_seed(0)
    rows = Rows(guidance=0.25, consistency=0.25, strengths=Strengths(3.5))
    query, _ = rows(x, x, torch.zeros(64).long(), 1, rng)
    assert set(query.d[48:].tolist()) <= {2.0**k / 128 for k in range(1, 8)}


# ---------------------------------------------------------------- the time embedding


def slope_in_time(kind: str, time_scale: float) -> float:
    """Length of the derivative along t at fixed end, in that of the answer; a network with weights that are not 0."""
    torch.manual_seed(0)
    if kind == "mlp":
        net: torch.nn.Module = ToyMLP(width=64, depth=2, num_classes=2, time_scale=time_scale)
    else:
        sizes = {"size": 4, "channels": 1, "patch": 2, "width": 32, "depth": 2, "heads": 2, "num_classes": 2}
        net = DiT(**sizes, time_scale=time_scale)
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    x = torch.randn(64, 2) if kind == "mlp" else torch.randn(64, 1, 4, 4)
    t, d, w, y = torch.rand(64) / 2, torch.full((64,), 0.25), torch.zeros(64), torch.arange(64) % 3
    with torch.no_grad():
        slope = derivative(lambda x, t, d: net(x, t, d, w, y), (x, t, d), torch.zeros_like(x))
    return (slope.norm() / net(x, t, d, w, y).norm()).item()


@pytest.mark.parametrize("kind", ["mlp", "dit"])
def test_the_derivative_in_time_grows_with_the_scale_of_the_embedding(kind: str) -> None:
    """With 1000 it is longer than what the network answers, and a target that holds it grows without bound."""
    small, middle, large = (slope_in_time(kind, scale) for scale in (10.0, 100.0, 1000.0))
    assert 4 * small < 2 * middle < large
    assert large > 1
