"""The neighbours by name: what each asks and costs, where the exact flow is a fixed point, and a short training."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ismkit.method.path import Query
from ismkit.method.recipes import RECIPES, Answer, Context
from ismkit.method.rows import Intervals, Rows
from ismkit.method.wavelet import Normalised, l2
from ismkit.models.nets import ToyMLP
from ismkit.neighbours import NAMED, NEIGHBOURS, Gap, Leap, guided
from ismkit.training.costs import Passes, passes, row_cost
from ismkit.training.runs import RUNS, change_run, for_points, for_side
from tests.neighbours.exact import MEANS, NULL, asked, flow, towards

LEAPS = [name for name, recipe in NEIGHBOURS.items() if isinstance(recipe.target, Leap) and recipe.target.guide is None]


def test_each_stands_under_its_own_name_beside_the_ladder() -> None:
    assert [recipe.name for recipe in NAMED.values()] == list(NAMED)
    assert NAMED.keys() == {*RECIPES, *NEIGHBOURS}
    assert not RECIPES.keys() & NEIGHBOURS.keys()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", LEAPS)
@pytest.mark.parametrize("progress", [0.0, 0.5, 0.999])
def test_the_exact_flow_is_a_fixed_point(name: str, progress: float) -> None:
    """Exactly, where the network's own step or the limit is asked; else to the second order of the cut."""
    recipe = NEIGHBOURS[name]
    leap = recipe.target
    assert isinstance(leap, Leap)
    assert isinstance(recipe.rows, Intervals)
    query, velocity = asked(rows=replace(recipe.rows, label_dropout=0.0, logit=None))
    # The posterior of a batch has the spread of its few data: with the exact velocity in its place it is ECT.
    leap = replace(leap, first="sample" if leap.first == "posterior" else leap.first, clip=None)
    context = Context(flow, flow, NULL, progress, torch.Generator().manual_seed(0))
    found = leap(query, velocity, recipe.rows, context).target
    share = leap.cut(progress) if callable(leap.cut) else leap.cut
    exact = leap.first == "own" or share == 0
    if exact:
        torch.testing.assert_close(found, flow(*query), rtol=1e-10, atol=1e-10)
    else:
        assert isinstance(share, float)
        # The second part of L(v, c) starts off the path by (c d)^2 |dv/dt| / 2 at most; 4 bounds it for this flow.
        assert (found - flow(*query)).abs().max() < 4 * share**2
        assert (found - flow(*query)).abs().max() > 1e-9


def guided_from_a_tenth(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """The average velocity of the exact flow that is guided at scale 1 + w from t = 0.1 on.

    All classes have one deviation, and the null label too: the guided velocity is that to a mean further off.
    """
    null = MEANS[NULL]
    mean, further = MEANS[y], null + (1 + w)[:, None] * (MEANS[y] - null)
    early = torch.minimum((0.1 - t).clamp(min=0), d)
    middle = x + early[:, None] * towards(mean, x, t, early)
    end = middle + (d - early)[:, None] * towards(further, middle, t + early, d - early)
    velocity = towards(torch.where((t < 0.1)[:, None], mean, further), x, t, 0 * d)
    return torch.where((d == 0)[:, None], velocity, (end - x) / torch.where(d == 0, 1.0, d)[:, None])


@pytest.mark.usefixtures("float64")
def test_the_exact_flow_that_is_guided_from_a_tenth_on_is_the_fixed_point_of_meanflow_plus() -> None:
    recipe = NEIGHBOURS["meanflow_plus"]
    assert isinstance(recipe.rows, Intervals)
    rows = replace(recipe.rows, label_dropout=0.0, logit=None)
    query, velocity = asked(512, rows=rows)
    crosses = (query.t < 0.1) & (query.t + query.d > 0.1) & (query.w > 0)
    assert crosses.sum() > 5
    context = Context(guided_from_a_tenth, guided_from_a_tenth, NULL)
    found = recipe.target(query, velocity, rows, context).target
    torch.testing.assert_close(found, guided_from_a_tenth(*query), rtol=1e-10, atol=1e-10)
    assert (found - flow(*query)).abs()[query.w > 0].max() > 1


@pytest.mark.parametrize(
    ("name", "progress", "expected"),
    [
        ("meanflow", 0.0, Passes(16, 8, 1)),  # the derivative of four rows
        ("meanflow_plus", 0.0, Passes(16, 20, 2)),  # the gap of seven rows, and the derivative of three
        ("imf", 0.0, Passes(16, 24, 2)),  # that of eight, and their velocity
        ("alpha_flow", 0.0, Passes(16, 0, 0)),  # flow matching at first
        ("alpha_flow", 0.5, Passes(16, 8, 1)),
        ("alpha_flow", 0.99, Passes(16, 16, 1)),  # MeanFlow at last
        ("split_meanflow", 0.0, Passes(16, 16, 2)),
        ("soflow", 0.0, Passes(16, 4, 1)),
        ("ect", 0.0, Passes(16, 0, 0)),
        ("ect", 0.5, Passes(16, 16, 1)),
        ("sct", 0.5, Passes(16, 16, 1)),
    ],
)
def test_passes_of_a_step(name: str, progress: float, expected: Passes) -> None:
    assert passes(NEIGHBOURS[name], 16, progress) == expected


def test_guidance_costs_two_passes_of_the_rows_with_a_strength() -> None:
    recipe = guided(NEIGHBOURS["imf"])
    assert recipe.rows.blocks(16)[1:] == (slice(6, 10), slice(10, 16))
    assert passes(recipe, 16) == Passes(16, 2 * 10 + 3 * 6, 3)


@pytest.mark.usefixtures("float64")
def test_meanflow_and_imf_differ_in_the_tangent_alone() -> None:
    """The loss |s - d sg(D) - v|^2 of improved MeanFlow has the gradient of a regression on the stopped v + d D."""
    query, velocity = asked()
    rows = Intervals(consistency=1.0)
    noisy = velocity + torch.randn(velocity.shape, generator=torch.Generator().manual_seed(1))

    def target(name: str, v: Tensor) -> Tensor:
        rule = NEIGHBOURS[name].target
        return rule(query, v, rows, Context(flow, flow, NULL)).target

    # With the sample's noise in the tangent, MeanFlow's target has it twice; iMF's once.
    noise = noisy - velocity
    torch.testing.assert_close(target("imf", noisy) - target("imf", velocity), noise)
    torch.testing.assert_close(target("meanflow", velocity), target("imf", velocity))
    assert not torch.allclose(target("meanflow", noisy) - target("meanflow", velocity), noise)


def test_the_weight_of_alpha_flow_is_its_share() -> None:
    rule = NEIGHBOURS["alpha_flow"].target
    zero = torch.zeros(4)
    query = Query(zero[:, None], zero, torch.tensor([0.0, 0.0, 0.5, 0.5]), zero, zero.long())

    def net(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(x)

    answer: Answer = rule(query, torch.full((4, 1), 9.0), Intervals(consistency=0.5), Context(net, net, 1, 0.5))
    assert isinstance(answer.weight, Tensor)
    assert answer.weight.tolist() == [1.0, 1.0, 0.5, 0.5]
    assert answer.target.flatten().tolist() == [9.0, 9.0, 4.0, 4.0]  # the velocity rows are not bounded
    limit = rule(query, torch.full((4, 1), 9.0), Intervals(consistency=0.5), Context(net, net, 1, 0.9))
    assert limit.target.flatten().tolist() == [9.0] * 4  # nor is the cut 0, as in the authors' code


# ---------------------------------------------------------------- fitted to data


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_in_the_plane_distances_are_plain_and_times_uniform(name: str) -> None:
    recipe = for_points(NEIGHBOURS[name])
    assert not isinstance(recipe.distance, Normalised)
    if isinstance(recipe.rows, Intervals):
        assert recipe.rows.logit is None
        assert recipe.rows.consistency == NEIGHBOURS[name].rows.consistency
    assert for_side(NEIGHBOURS[name], 8) == NEIGHBOURS[name]
    normalised = replace(RECIPES["ism_plus"], distance=Normalised(l2))
    assert for_points(normalised) == normalised  # what is asked for of the paper's recipes stays


def test_the_minimum_of_a_normalised_distance_is_not_the_mean_in_few_dimensions() -> None:
    """Why the plane has plain squares: targets +1 with probability 0.8 and -1 else, in all D coordinates at once.

    The gradient at the mean, 0.6, of D(s) / sg(D(s)): 0 for squares. The minimum is where the pull of both is equal.
    """

    def minimum(dimensions: int, power: float) -> float:
        distance = Normalised(l2, power, c=1e-6)
        s = torch.zeros(1, requires_grad=True)
        optimiser = torch.optim.SGD([s], lr=0.05)
        rng = torch.Generator().manual_seed(0)
        noise = torch.randn(2000, dimensions, generator=rng)
        targets = torch.where(torch.rand(2000, 1, generator=rng) < 0.8, 1.0, -1.0) + 0.3 * noise
        for _ in range(400):
            optimiser.zero_grad()
            distance(s.expand_as(targets), targets, None).mean().backward()
            optimiser.step()
        return s.item()

    assert minimum(2, 0.0) == pytest.approx(0.6, abs=0.05)
    assert minimum(2, 1.0) > 0.8  # towards the mode


def test_a_run_gives_its_network_the_scale_of_its_rows() -> None:
    run = RUNS["gaussians"]
    assert run.build(8).conditioning.time_scale == 1000.0
    imf = change_run(run, "recipe", "imf")
    assert imf.build(8).conditioning.time_scale == 10.0
    assert change_run(imf, "recipe.rows.time_scale", 100.0).build(8).conditioning.time_scale == 100.0


def test_own_steps_need_no_guided_velocity_and_do_not_pay_for_one() -> None:
    rng = torch.Generator().manual_seed(0)
    x0, x1, y = torch.randn(32, 2, generator=rng), torch.randn(32, 2, generator=rng), torch.arange(32) % 3
    net = ToyMLP(width=16, depth=1, num_classes=3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) / 4)
    answers, costs = [], []
    for steps in (False, True):
        recipe = for_points(guided(NEIGHBOURS["split_meanflow"], Gap(steps=steps)))
        query, velocity = recipe.rows(x0, x1, y, 3, torch.Generator().manual_seed(1))
        context = Context(net, net, 3, rng=torch.Generator().manual_seed(2))
        answers.append(recipe.target(query, velocity, recipe.rows, context).target)
        costs.append(row_cost(recipe, 32))
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-5, atol=1e-6)
    share = recipe.rows.consistency
    assert costs[1] - costs[0] == pytest.approx(2 * share, abs=0.07)
    assert guided(NEIGHBOURS["split_meanflow"]).target.guide == Gap(steps=False)
    assert guided(NEIGHBOURS["imf"]).target.guide == Gap(steps=True)


def test_guided_refuses_what_it_cannot_guide() -> None:
    with pytest.raises(ValueError, match="with a Leap and without guidance, got ism"):
        guided(RECIPES["ism"])
    with pytest.raises(ValueError, match="with a Leap and without guidance, got imf_guided"):
        guided(guided(NEIGHBOURS["imf"]), Gap())
    with pytest.raises(ValueError, match=r"share must be a number in \(0, 1/2\), got 1"):
        guided(NEIGHBOURS["imf"], share=1)
    assert isinstance(guided(NEIGHBOURS["ect"]).rows, Intervals)
    assert guided(NEIGHBOURS["ect"]).rows.blocks(16).velocity == slice(0, 4)  # else nothing learns the gap
    assert not isinstance(guided(NEIGHBOURS["ect"]).rows, Rows)
