"""The rule that cuts an interval: its fixed points, its limits and what it asks, in float64 against a known flow."""

import pytest
import torch
from torch import Tensor

from ismkit.method.guidance import Strengths
from ismkit.method.path import Query
from ismkit.method.recipes import Answer, Context
from ismkit.method.rows import Intervals, Rows
from ismkit.models.nets import DiT, ToyMLP
from ismkit.neighbours import Leap, derivative

pytestmark = pytest.mark.usefixtures("float64")

MEANS = torch.tensor([[1.0, -0.5], [-2.0, 0.3]], dtype=torch.float64)
STD = 0.7
ROWS = Intervals(consistency=1.0, label_dropout=0.0)


def scale(t: Tensor) -> Tensor:
    """Standard deviation of x_t: noise N(0, 1), data N(mean, STD^2)."""
    return ((1 - t) ** 2 + (STD * t) ** 2).sqrt()


def flow(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """The average velocity over [t, t + d] of the exact flow; the velocity at d = 0."""
    t, d, mean = t[:, None], d[:, None], MEANS[y]
    end = (t + d) * mean + scale(t + d) / scale(t) * (x - t * mean)
    rate = (-(1 - t) + STD**2 * t) / scale(t) ** 2
    return torch.where(d == 0, mean + rate * (x - t * mean), (end - x) / torch.where(d == 0, 1.0, d))


CONTEXT = Context(flow, flow, null=2)


def asked(n: int = 64, seed: int = 0, rows: Intervals = ROWS) -> tuple[Query, Tensor]:
    """What rows ask, and the exact velocity there in the place of a sample's."""
    rng = torch.Generator().manual_seed(seed)
    x0, x1 = torch.randn(2, n, 2, generator=rng, dtype=torch.float64)
    query, _ = rows(x0, x1, torch.arange(n) % 2, 2, rng)
    return query, flow(query.x, query.t, torch.zeros_like(query.d), query.w, query.y)


def target(leap: Leap, query: Query, velocity: Tensor, context: Context = CONTEXT) -> Tensor:
    return leap(query, velocity, ROWS, context).target


@pytest.mark.parametrize("cut", [0.0, 0.01, 0.3, 0.5, 0.99, 1.0])
def test_the_exact_flow_is_a_fixed_point_of_its_own_cuts(cut: float) -> None:
    query, velocity = asked()
    if cut:
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
    query, velocity = asked(seed=4, rows=Intervals(consistency=1.0, label_dropout=0.0, to_data=True))
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


def test_bad_cuts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cut must be a number in \[0, 1\], got 1.5"):
        Leap("own", 1.5)
    with pytest.raises(ValueError, match="first must be one of sample, net, own, posterior, or a network, got"):
        Leap("teacher")  # type: ignore[arg-type]


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
