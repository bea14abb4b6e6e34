"""Exact fields against formulas written down in another way, and the network that a rule leads to."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ismkit.lessons.closed_forms import ClassMixture, Ideal, Mixture, guidance_applied, ring
from ismkit.method.guidance import TwoPassCFG, cfg
from ismkit.method.path import Query, StepGrid
from ismkit.method.recipes import BakedIn, Context, Intrinsic
from ismkit.method.rows import Rows
from ismkit.method.sampling import sample
from ismkit.utils.settings import describe

seeds = st.integers(0, 2**32 - 1)
# Off the centre, so that the modes differ in their norm.
NINE = ClassMixture(tuple((a + 0.4, b) for a, b in ring(9, 1.4)), (0, 0, 0, 1, 1, 1, 2, 2, 2), 0.3)
NULL = NINE.num_classes
GRID = StepGrid(16)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a: Tensor, b: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=atol)


# ----------------------------------------------------------------------------------------------------- the mixture


def test_ring_goes_round_from_the_top() -> None:
    close(torch.tensor(ring(4, 2.0)), torch.tensor([(0.0, 2.0), (-2.0, 0.0), (0.0, -2.0), (2.0, 0.0)]), atol=1e-6)


@given(seeds)
def test_each_label_has_the_velocity_of_its_own_mixture_and_null_that_of_all_modes(seed: int) -> None:
    x, t = 3 * normal(20, 2, seed=seed), uniform(20, seed=seed)
    means, classes = torch.tensor(NINE.means, dtype=torch.float64), torch.tensor(NINE.classes)
    for label in range(NULL + 1):
        chosen = means if label == NULL else means[classes == label]
        reference, y = Mixture(chosen, NINE.std), torch.full((20,), label)
        close(NINE.velocity(x, t, y), reference.velocity(x, t), atol=1e-9)
        share = NINE.responsibilities(x, t, y)
        close(share[:, (classes == label) | (label == NULL)], reference.responsibilities(x, t))
        close(share.sum(1), torch.ones(20, dtype=torch.float64))


def test_far_from_all_modes_the_velocity_is_finite() -> None:
    x = torch.tensor([[1e3, 0.0], [0.0, -1e3]])
    for t in (0.0, 0.5, 1.0):
        assert NINE.velocity(x, torch.full((2,), t), torch.tensor([0, NULL])).isfinite().all()


def test_draws_have_the_moments_of_the_mixture_and_whole_classes() -> None:
    data = NINE.draw(40_000, 0)
    assert (data.num_classes, data.x.dtype, data.x.shape) == (3, torch.float32, (40_000, 2))
    assert data.y.bincount().div(40_000).sub(1 / 3).abs().max() < 0.012  # five standard errors
    for label in range(3):
        points, modes = data.x[data.y == label], torch.tensor(NINE.means[3 * label : 3 * label + 3])
        assert (points.mean(0) - modes.mean(0)).abs().max() < 0.05
        want = torch.cov(modes.T, correction=0) + NINE.std**2 * torch.eye(2)
        assert (torch.cov(points.T) - want).abs().max() < 0.05
    assert torch.equal(data.x, NINE.draw(40_000, 0).x)
    assert not torch.equal(data.x, NINE.draw(40_000, 1).x)


def test_settings_of_a_mixture_can_be_described() -> None:
    assert describe(NINE)["std"] == 0.3


def test_agreement_and_modes_kept_of_known_samples() -> None:
    means = torch.tensor(NINE.means)
    y = torch.tensor(NINE.classes)
    assert NINE.agreement(means, y) == 1
    assert NINE.agreement(means.roll(1, 0), y) == pytest.approx(6 / 9)  # one mode in three is the neighbour's
    assert NINE.modes_kept(means, y) == pytest.approx(3)
    assert NINE.modes_kept(means[[0, 0, 4, 4]], y[[0, 0, 4, 4]]) == pytest.approx(1)
    half = torch.tensor([0, 0, 0, 1])  # shares 3/4 and 1/4
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert NINE.modes_kept(means[half], y[half]) == pytest.approx(math.exp(entropy))


@pytest.mark.parametrize(
    ("means", "classes", "std", "message"),
    [
        (ring(3, 1.0), (0, 1), 0.1, "one class for each of the 3 means"),
        (ring(3, 1.0), (0, 2, 2), 0.1, "without gaps"),
        ((), (), 0.1, "without gaps"),
        (ring(2, 1.0), (0, 1), 0.0, "std must be positive"),
        (ring(2, 1.0), (0, 1), math.inf, "std must be positive"),
    ],
)
def test_a_mixture_that_is_none_is_refused(means: tuple, classes: tuple, std: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassMixture(means, classes, std)


def test_an_empty_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="n must be an integer of at least 1"):
        NINE.draw(0, 0)


# ----------------------------------------------------------------------------------------------- the ideal network


def starts(seed: int) -> Query:
    """Rows of every level, with labels and null, guided and not."""
    level = torch.arange(GRID.levels + 1).repeat(6)
    d = torch.where(level > 0, 2.0**level / GRID.n, 0.0).double()
    t = GRID.random_times(d, torch.Generator().manual_seed(seed))
    index = torch.arange(len(d))
    return Query(1.5 * normal(len(d), 2, seed=seed), t, d, (index % 3).double(), index % (NULL + 1))


@pytest.mark.parametrize("rule", [BakedIn(1.5), BakedIn(2.0, every_level=False, clip=None), Intrinsic(0.3)])
def test_the_ideal_network_is_a_fixed_point_of_its_rule(rule: BakedIn | Intrinsic) -> None:
    net, query = Ideal(NINE.velocity, rule, NULL, GRID), starts(1)
    answer = net(*query)
    for take in (query.d > 0, query.d == 0):  # each kind of rows in one go, as training asks for them
        part = Query(*(column[take] for column in query))
        if (part.d > 0).all():
            want = rule(
                part, torch.zeros_like(part.x), Rows(consistency=1.0, grid=GRID), Context(net, net, NULL)
            ).target
        elif isinstance(rule, Intrinsic):
            # At d = 0 the velocity, guided where t lies in the interval; null has no gap.
            conditional = NINE.velocity(part.x, part.t, part.y)
            unconditional = NINE.velocity(part.x, part.t, torch.full_like(part.y, NULL))
            scale = 1 + part.w * (part.t >= 0.3)
            want = cfg(conditional, unconditional, scale[:, None])
        else:
            want = NINE.velocity(part.x, part.t, part.y)
        close(answer[take], want)


@pytest.mark.parametrize("t_interval", [0.0, 0.3, 0.5])
def test_ideal_intrinsic_samples_are_two_pass_cfg_at_every_nfe(t_interval: float) -> None:
    x0, y = normal(12, 2, seed=3), torch.arange(12) % 3
    w = torch.arange(12) / 4.0
    net = Ideal(NINE.velocity, Intrinsic(t_interval), NULL, GRID)

    def unguided_below(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        classic = TwoPassCFG(lambda x, t, d, w, y: NINE.velocity(x, t, y), NULL)
        return classic(x, t, d, torch.where(t >= t_interval, w, 0.0), y)

    reference = sample(unguided_below, x0, y, w=w, nfe=GRID.n, grid=GRID)
    for steps in (1, 2, 4, 8, 16):
        close(sample(net, x0, y, w=w, nfe=steps, grid=GRID), reference)


def test_null_is_what_the_rule_says_although_it_is_not_asked() -> None:
    # The shortcut for null must equal the rule's answer, clip included.
    rule = BakedIn(1.5, clip=1.0)
    net, x = Ideal(NINE.velocity, rule, NULL, GRID), 2 * normal(9, 2, seed=5)
    one, y = torch.ones(9, dtype=torch.float64), torch.full((9,), NULL)
    query = Query(x, 0 * one, one, 0 * one, y)
    close(net(*query), rule(query, x, Rows(consistency=1.0, grid=GRID), Context(net, net, NULL)).target)


# ------------------------------------------------------------------------------------------------- guidance applied


@given(st.floats(-2, 20), seeds)
def test_guidance_applied_recovers_w_and_ignores_what_is_across(w: float, seed: int) -> None:
    c, u, noise = normal(3, 30, 2, seed=seed)
    gap = c - u
    across = torch.stack([-gap[:, 1], gap[:, 0]], 1) * noise[:, :1]
    assert guidance_applied(c + w * gap + across, c, u) == pytest.approx(w, abs=1e-9)


def test_guidance_applied_is_the_least_squares_fit() -> None:
    guided, c, u = normal(3, 40, 1, 3, seed=2)
    fit = torch.linalg.lstsq((c - u).reshape(-1, 1), (guided - c).reshape(-1, 1)).solution.item()
    assert guidance_applied(guided, c, u) == pytest.approx(fit)
