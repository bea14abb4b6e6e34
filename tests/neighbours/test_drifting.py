"""Drifting: the field against its sums written out, its antisymmetry, and what the rule makes of it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ismkit.method.ema import TwinEMA
from ismkit.method.path import Query
from ismkit.method.recipes import Context, training_step
from ismkit.method.rows import Rows
from ismkit.models.nets import ToyMLP
from ismkit.neighbours import NEIGHBOURS, Drift, OneStep, SinkhornDrift, drift
from tests.neighbours.training import w2_of_one_step

pytestmark = pytest.mark.usefixtures("float64")


def draw(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loops(x: Tensor, attracting: Tensor, repelling: Tensor, radius: float, floor: float = 0.0) -> Tensor:
    """The drift, sum by sum."""
    points = [*attracting, *repelling]
    kernel = [[math.exp(-math.dist(a.tolist(), b.tolist()) / radius) for b in points] for a in x]
    affinity = [
        [max(k / (sum(row) * sum(other[j] for other in kernel)) ** 0.5, floor) for j, k in enumerate(row)]
        for row in kernel
    ]
    moved = torch.zeros_like(x)
    for i, row in enumerate(affinity):
        for j, p in enumerate(row[: len(attracting)]):
            for k, q in enumerate(row[len(attracting) :]):
                moved[i] += p * q * (attracting[j] - repelling[k])
    return moved


def test_the_field_is_that_of_loops() -> None:
    x, attracting, repelling = draw(4, 3), draw(5, 3, seed=1), draw(3, 3, seed=2)
    found = drift(x, attracting, repelling, 0.7)
    torch.testing.assert_close(found, loops(x, attracting, repelling, 0.7), rtol=1e-11, atol=1e-12)
    raised = drift(x, attracting, repelling, 0.7, floor=0.2)
    torch.testing.assert_close(raised, loops(x, attracting, repelling, 0.7, 0.2), rtol=1e-11, atol=1e-12)
    assert not torch.allclose(raised, found, rtol=0.01)
    with pytest.raises(ValueError, match="floor must be a number of at least 0, got -1"):
        drift(x, attracting, repelling, 0.7, floor=-1.0)


def test_a_floor_draws_samples_that_are_far_from_all_points() -> None:
    """In units of the radius sample and data are 1000 apart: their affinity is 0 but for the floor."""
    x, data = torch.tensor([[0.0], [0.1]]), torch.tensor([[1000.0]])
    alone = torch.ones(2, 1, dtype=torch.bool), ~torch.eye(2, dtype=torch.bool)
    assert drift(x, data, x, 1.0, alone)[0].abs() < 0.01 * drift(x, data, x, 1.0, alone, floor=1e-3)[0].abs()


def test_it_changes_its_sign_with_the_sets_and_is_0_where_they_are_equal() -> None:
    x, a, b = draw(6, 2), draw(5, 2, seed=1), draw(7, 2, seed=2)
    torch.testing.assert_close(drift(x, a, b, 0.5), -drift(x, b, a, 0.5), rtol=1e-12, atol=1e-14)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert drift(x, a, a[order], 0.5).abs().max() < 1e-14
    assert drift(x, a, b, 0.5).abs().max() > 1e-3


def test_it_is_the_mean_shift_times_the_share_of_the_other_set() -> None:
    """With a radius above all distances every affinity is alike: to the mean of the one, from that of the other."""
    x, a, b = draw(6, 2), draw(5, 2, seed=1), draw(7, 2, seed=2)
    alike = 1 / (6 * 12) ** 0.5
    expected = (5 * alike) * (7 * alike) * (a.mean(0) - b.mean(0))
    torch.testing.assert_close(drift(x, a, b, 1e9), expected.expand(6, 2), rtol=1e-6, atol=1e-9)


def test_labels_drift_apart_from_each_other() -> None:
    """The rows of one label have the drift that they have alone, and a row that is alone stays."""
    x, data = draw(7, 2), draw(7, 2, seed=1)
    y = torch.tensor([0, 1, 0, 2, 1, 0, 1])
    fits = y[:, None] == y, (y[:, None] == y) & ~torch.eye(7, dtype=torch.bool)
    found = drift(x, data, x, 0.7, fits)
    for label in (0, 1):
        rows = y == label
        n = int(rows.sum())
        alone = drift(
            x[rows], data[rows], x[rows], 0.7, (torch.ones(n, n, dtype=torch.bool), ~torch.eye(n, dtype=torch.bool))
        )
        torch.testing.assert_close(found[rows], alone, rtol=1e-10, atol=1e-12)
    assert found[3].tolist() == [0.0, 0.0]


def still(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
    return 0.5 * x


def rule_of(rule: Drift | SinkhornDrift, x0: Tensor, x1: Tensor, y: Tensor) -> Tensor:
    """The drift in a rule's target."""
    query, velocity = OneStep(label_dropout=0.0)(x0, x1, y, 9, torch.Generator().manual_seed(0))
    answer = rule(query, velocity, OneStep(), Context(still, still, null=9))
    return answer.target - still(*query)


@pytest.mark.parametrize("normalised", [False, True])
def test_the_rule_adds_up_the_drifts_of_its_radii(normalised: bool) -> None:
    x0, x1, y = draw(8, 2), draw(8, 2, seed=1), torch.arange(8) % 2
    same = y[:, None] == y
    fits, samples = (same, same & ~torch.eye(8, dtype=torch.bool)), 1.5 * x0
    unit = torch.cat([torch.cdist(samples, points)[same] for points in (samples, x1)]).mean()
    expected = torch.zeros_like(x0)
    for radius in (0.02, 1.0):
        moved = drift(samples, x1, samples, radius * unit, fits, floor=1e-3)
        expected += moved / moved.square().mean().sqrt() if normalised else moved
    found = rule_of(Drift((0.02, 1.0), normalised), x0, x1, y)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def test_bands_drift_each_by_itself() -> None:
    """Fields that are constant have one coefficient alone, four times their value at two levels: it drifts in 1D."""
    values, data, y = draw(6), draw(6, seed=1) + 2.0, torch.zeros(6).long()
    found = rule_of(
        Drift((1.0,), False, levels=2), *(x[:, None, None, None].expand(6, 1, 4, 4) for x in (values, data)), y
    )
    in_1d = rule_of(Drift((1.0,), False), 4 * values[:, None], 4 * data[:, None], y)
    torch.testing.assert_close(found, (in_1d / 4)[..., None, None].expand(6, 1, 4, 4), rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- by plans


def test_plans_are_those_of_a_library() -> None:
    import ot

    x0, x1 = draw(12, 2), draw(12, 2, seed=1) + 1
    found = rule_of(SinkhornDrift(0.1, iterations=400), x0, x1, torch.zeros(12).long())
    samples, uniform = 1.5 * x0, torch.full((12,), 1 / 12)
    expected = torch.zeros_like(x0)
    for points, sign in ((x1, 1), (samples, -1)):
        cost = torch.cdist(samples, points).square()
        plan = ot.sinkhorn(uniform, uniform, cost, 0.1 * cost.mean().item(), numItermax=5000, stopThr=1e-13)
        expected += sign * 12 * plan @ points
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_plans_do_not_move_samples_that_are_the_data() -> None:
    x0, order = draw(8, 2), torch.tensor([2, 3, 0, 1, 6, 7, 4, 5])
    y = torch.arange(8) % 2
    assert rule_of(SinkhornDrift(), x0, 1.5 * x0[order], y).abs().max() < 1e-12
    assert rule_of(SinkhornDrift(), x0, 1.5 * x0[order] + 1, y).abs().min() > 0.1


def test_a_large_entropy_moves_all_samples_by_the_difference_of_the_means() -> None:
    x0, x1, y = draw(8, 2), draw(8, 2, seed=1), torch.arange(8) % 2
    found = rule_of(SinkhornDrift(1e9), x0, x1, y)
    for label in (0, 1):
        expected = (x1 - 1.5 * x0)[y == label].mean(0)
        torch.testing.assert_close(found[y == label], expected.expand(4, 2), rtol=1e-6, atol=1e-7)


def test_rows_are_one_step_from_the_noise() -> None:
    x0, x1, y = draw(4, 2), draw(4, 2, seed=1), torch.arange(4)
    query, velocity = OneStep(drop_consistency=True, label_dropout=1.0)(x0, x1, y, 9, torch.Generator())
    assert query.x.equal(x0)
    assert velocity.equal(x1 - x0)
    assert query.y.tolist() == [9] * 4
    assert OneStep().blocks(4).consistency == slice(0, 4)


def test_a_recipe_with_other_rows_or_an_average_is_refused() -> None:
    with pytest.raises(ValueError, match="rows must be OneStep for drifting, got Rows"):
        replace(NEIGHBOURS["drifting"], rows=Rows(consistency=1.0))
    with pytest.raises(ValueError, match="fast must be 0 for drifting"):
        replace(NEIGHBOURS["drifting"], fast=0.5)
    with pytest.raises(ValueError, match=r"consistency must be 1, all rows are steps to the data, got 0.5"):
        OneStep(consistency=0.5)


# ---------------------------------------------------------------- training


@pytest.mark.slow
def test_one_step_learns_eight_gaussians() -> None:
    """A guard against regressions, whose bound was set after the measurement: 0.11, 0.11, 0.10; untrained 1.9."""
    assert w2_of_one_step(NEIGHBOURS["drifting"], steps=300, seed=0) < 0.2


def test_one_step_learns_small_latents_in_their_bands() -> None:
    """Two classes with a pattern each: a guard against regressions, whose bound was set after the measurement.

    The squared error of the means falls from 2.5 to 0.017 in 200 steps; compared as they are, it is 0.68 after 300.
    """
    torch.manual_seed(0)
    net = ToyMLP(dim=16, width=64, depth=1, num_classes=2)
    patterns = torch.stack([torch.ones(1, 4, 4), torch.ones(1, 4, 4).cumsum(2) - 2.5])
    recipe = replace(NEIGHBOURS["drifting"], target=Drift(levels=2))
    optimizer, rng = torch.optim.Adam(net.parameters(), lr=1e-2), torch.Generator().manual_seed(0)
    y, ema = torch.arange(32) % 2, TwinEMA(net, 0.0, 0.0)

    def noise() -> Tensor:
        return torch.randn(32, 1, 4, 4, generator=rng)

    def error() -> float:
        x0, one = noise(), torch.ones(32)
        with torch.no_grad():
            x = x0 + net(*Query(x0, 0 * one, one, 0 * one, y))
        return sum((x[y == c].mean(0) - patterns[c]).square().mean().item() for c in (0, 1))

    before = error()
    for _ in range(200):
        x1 = patterns[y] + 0.1 * noise()
        loss, _, _ = training_step(recipe, net, ema, (noise(), x1, y), 2, rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(net)
    assert error() < 0.1 * before
