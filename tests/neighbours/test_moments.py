"""Inductive moment matching: consistency training as a limit, times of the cleaner point, the discrepancy of groups."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ismkit.method.path import Query
from ismkit.method.recipes import Context
from ismkit.method.rows import Rows
from ismkit.neighbours import NEIGHBOURS, Discrepancy, Groups, Inductive, Leap
from tests.neighbours.training import w2_of_one_step

pytestmark = pytest.mark.usefixtures("float64")

MEAN, STD = torch.tensor([0.8, -0.5], dtype=torch.float64), 0.6


def scale(t: Tensor) -> Tensor:
    """Standard deviation of x_t: noise N(0, 1), data N(MEAN, STD^2)."""
    return ((1 - t) ** 2 + (STD * t) ** 2).sqrt()


def flow(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """The average velocity of the exact flow of one Gaussian; at d = 0 not used."""
    t, d = t[:, None], d[:, None]
    end = (t + d) * MEAN + scale(t + d) / scale(t) * (x - t * MEAN)
    return (end - x) / torch.where(d == 0, 1.0, d)


def asked(n: int, seed: int = 0, size: int = 4) -> tuple[Query, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x0, x1 = torch.randn(2, n, 2, generator=rng, dtype=torch.float64)
    return Groups(size=size)(x0, MEAN + STD * x1, torch.zeros(n).long(), 1, rng)


# ---------------------------------------------------------------- rows and times


def test_rows_of_a_group_share_their_times_and_nothing_else() -> None:
    query, _ = asked(4000)
    t, d = query.t.view(-1, 4), query.d.view(-1, 4)
    assert bool((t == t[:, :1]).all())
    assert bool((d == d[:, :1]).all())
    assert t[:, 0].unique().numel() == 1000
    assert query.x.unique(dim=0).shape == query.x.shape
    # A uniform time t and a uniform end beyond it: E t = 1/2, variance 1/12; E d = 1/4, variance 7/144; four standard
    # errors of 1000 groups.
    assert abs(t[:, 0].mean().item() - 1 / 2) < 4 * (1 / 12 / 1000) ** 0.5
    assert abs(d[:, 0].mean().item() - 1 / 4) < 4 * (7 / 144 / 1000) ** 0.5
    assert bool((query.t + query.d <= 1 + 1e-6).all())


def test_rows_without_whole_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="a batch must be a multiple of the group's size, 4, got 10"):
        Groups(size=4).blocks(10)
    with pytest.raises(ValueError, match=r"consistency must be 1, all rows are in groups, got 0.5"):
        Groups(consistency=0.5)
    with pytest.raises(ValueError, match="rows must be Groups for moment matching, got Rows"):
        replace(NEIGHBOURS["imm"], rows=Rows(consistency=1.0))


@pytest.mark.parametrize(("k", "eta_max", "eta_min"), [(15, 160.0, 0.0), (8, 160.0, 0.0), (4, 80.0, 2.0)])
def test_the_cleaner_point_has_a_constant_difference_in_eta(k: int, eta_max: float, eta_min: float) -> None:
    rule = Inductive(k=k, eta_max=eta_max, eta_min=eta_min)
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    r = rule.nearer(t, torch.ones_like(t))
    eta, step = (1 - t) / t, (eta_max - eta_min) / 2**k
    inside = (t > 1 / (1 + eta_max)) & (eta > step)
    torch.testing.assert_close(((1 - r) / r)[inside], eta[inside] - step, rtol=1e-9, atol=1e-9)
    assert bool((r >= t).all())
    assert r[-1] == 1
    assert r[0] == pytest.approx(1 / (1 + eta_max - step))  # noisier times count as those of eta_max
    end = t + 0.01 * (1 - t)
    assert bool((rule.nearer(t, end) <= end).all())


def test_the_weight_is_that_of_the_paper() -> None:
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64).requires_grad_()
    log_snr = 2 * torch.log(t / (1 - t))
    (slope,) = torch.autograd.grad(log_snr.sum(), t)
    for a in (1.0, 2.0):
        expected = 0.5 * torch.sigmoid(5.0 - log_snr) * slope * t**a / (t**2 + (1 - t) ** 2)
        torch.testing.assert_close(Inductive(a=a).weight(t), expected, rtol=1e-10, atol=1e-10)
    ends = Inductive().weight(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.tolist() == [1 / (1.0), 0.0]
    assert Inductive(a=2.0).weight(torch.zeros(1)).item() == 0


# ---------------------------------------------------------------- what is asked


def test_targets_are_those_of_a_cut_interval() -> None:
    """Those of consistency training, where the share that is cut off is ``(r - t) / d``."""
    query, velocity = asked(8, seed=1, size=1)
    rule, context = Inductive(k=6), Context(flow, flow, null=1)
    answer = rule(query, velocity, Groups(size=1), context).target
    for i in range(8):
        row = query.take(slice(i, i + 1))
        share = min(((rule.nearer(row.t, row.t + row.d) - row.t) / row.d).item(), 1.0)
        leap = Leap("sample", share)(row, velocity[i : i + 1], Groups(size=1), context).target
        torch.testing.assert_close(answer[i : i + 1], leap, rtol=1e-9, atol=1e-9)


def test_one_row_and_squares_are_consistency_training() -> None:
    query, velocity = asked(16, seed=2, size=1)
    target = Inductive(k=6)(query, velocity, Groups(size=1), Context(flow, flow, null=1)).target
    s = flow(*query) + 0.1 * torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = Discrepancy(size=1, kernel="square")(s, target, query)
    expected = 2 * query.d**2 * (s - target).square().sum(1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def loops(s: Tensor, target: Tensor, query: Query, size: int, sigma_data: float) -> list[float]:
    """The discrepancy of every group, written out."""
    found = []
    for first in range(0, len(s), size):
        rows = range(first, first + size)
        ends = [(query.x[i] + query.d[i] * s[i]).flatten().tolist() for i in rows]
        theirs = [(query.x[i] + query.d[i] * target[i]).flatten().tolist() for i in rows]
        unit = query.d[first].item() * sigma_data * len(ends[0])
        total = 0.0
        for a, b, sign in ((ends, ends, 1), (theirs, theirs, 1), (ends, theirs, -2)):
            for p in a:
                for q in b:
                    total += sign * math.exp(-max(math.dist(p, q), 1e-8) / unit) / size**2
        found.append(total)
    return found


@pytest.mark.parametrize("shape", [(2,), (3, 4, 4)])
def test_the_discrepancy_is_that_of_loops(shape: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(3)
    s, target, x = torch.randn(3, 12, *shape, generator=rng, dtype=torch.float64)
    t, d = (torch.rand(3, generator=rng, dtype=torch.float64).repeat_interleave(4) for _ in "td")
    query = Query(x, t, d, torch.zeros(12), torch.zeros(12).long())
    found = Discrepancy(size=4, sigma_data=0.7)(s, target, query).view(3, 4).mean(1)
    assert found.tolist() == pytest.approx(loops(s, target, query, 4, 0.7), rel=1e-12)
    assert bool((found > 0).all())


def test_a_row_has_its_own_part_of_the_discrepancy() -> None:
    """Of two rows: half of each kernel between its ends and the other's, so that logs say which row is far."""
    s, target = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.5], [3.0]])
    zero = torch.zeros(2)
    query = Query(torch.zeros(2, 1), zero, zero + 1, zero, zero.long())
    found = Discrepancy(size=2, sigma_data=1.0)(s, target, query)

    def k(a: float, b: float) -> float:
        return math.exp(-abs(a - b))

    first = (2 + k(0, 1) + k(0.5, 3) - 2 * k(0, 0.5) - k(0, 3) - k(1, 0.5)) / 2
    second = (2 + k(0, 1) + k(0.5, 3) - 2 * k(1, 3) - k(1, 0.5) - k(0, 3)) / 2
    assert found.tolist() == pytest.approx([first, second], rel=1e-6)


def test_equal_sets_are_at_distance_0_in_any_order_and_the_gradient_is_finite() -> None:
    rng = torch.Generator().manual_seed(4)
    s = torch.randn(4, 2, generator=rng, dtype=torch.float64)
    t, zero = torch.full((4,), 0.25, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    query = Query(zero[:, None].expand(4, 2), t, 3 * t, zero, zero.long())
    order = torch.tensor([2, 0, 3, 1])
    prediction = s.clone().requires_grad_()
    total = Discrepancy()(prediction, s[order], query).mean()
    assert abs(total.item()) < 1e-12
    total.backward()
    assert prediction.grad is not None
    assert prediction.grad.abs().max() < 1e-12


def test_the_exact_flow_has_no_gradient_on_average() -> None:
    """Both ends of a step have the distribution of x_s: over many groups the gradient vanishes, that of others not.

    The cleaner point is far here, k = 4. The gradient in the mean of all samples is measured, in its standard error.
    """
    n = 80_000
    query, velocity = asked(n, seed=5)
    target = Inductive(k=4)(query, velocity, Groups(), Context(flow, flow, null=1)).target
    exact = flow(*query)
    errors = []
    for shift in (0.0, 0.05):
        s = (exact + shift).requires_grad_()
        Discrepancy(sigma_data=STD)(s, target, query).view(-1, 4).mean(1).sum().backward()
        assert s.grad is not None
        per_group = s.grad.view(-1, 4, 2).sum((1, 2))
        errors.append((per_group.mean() / (per_group.std() / len(per_group) ** 0.5)).item())
    assert abs(errors[0]) < 4
    assert abs(errors[1]) > 8


def test_what_does_not_fit_is_refused() -> None:
    query, velocity = asked(8)
    with pytest.raises(TypeError, match="query must be what was asked, a Query, got NoneType"):
        Discrepancy()(velocity, velocity)
    with pytest.raises(ValueError, match="prediction must hold a multiple of 3 rows, a group's, got 8"):
        Discrepancy(size=3)(velocity, velocity, query)


# ---------------------------------------------------------------- training


@pytest.mark.slow
def test_one_step_learns_eight_gaussians() -> None:
    """A guard against regressions, whose bound was set after the measurement: 0.25, 0.20, 0.10; untrained 1.9."""
    assert w2_of_one_step(NEIGHBOURS["imm"], steps=300, seed=0) < 0.4


def test_shares_of_the_groups_end_at_the_data_and_begin_at_the_noise() -> None:
    rows = Groups(size=2, to_data=0.25, from_noise=0.5, label_dropout=0.0)
    x, rng = torch.zeros(16, 1), torch.Generator().manual_seed(0)
    query, _ = rows(x, x, torch.zeros(16).long(), 1, rng)
    end = query.t + query.d
    torch.testing.assert_close(end[:4], torch.ones_like(end[:4]))
    assert (query.t[:4] > 0).all()
    assert (query.t[4:12] == 0).all()
    assert (query.t[12:] > 0).all()
    assert (end[4:] < 1).all()
    assert query.d[::2].equal(query.d[1::2])
