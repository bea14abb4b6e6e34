"""Methods with a teacher: fixed points in float64 against a known flow, and who answers which rows."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ismkit.method.ema import TwinEMA
from ismkit.method.path import Query
from ismkit.method.recipes import Context, Recipe, training_step
from ismkit.method.rows import Intervals
from ismkit.method.sampling import sample
from ismkit.models.nets import ToyMLP
from ismkit.models.saved import save_model
from ismkit.neighbours import (
    Anchored,
    Leap,
    Staged,
    Trained,
    Truncated,
    TruncatedRows,
    anchored_distance,
    dual_end,
    facm,
    truncated,
)
from ismkit.training.costs import Passes, passes
from ismkit.utils.keys import identity_sum
from tests.neighbours.exact import CONTEXT, NULL, asked, flow

pytestmark = pytest.mark.usefixtures("float64")


def unlike(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """A network that is far from the flow."""
    return torch.sin(x + t[:, None]) * d[:, None] + 2 * x


UNLIKE = Context(unlike, unlike, NULL)


def teaching(recipe: Recipe) -> Intervals:
    """The recipe's rows without dropped labels."""
    assert isinstance(recipe.rows, Intervals)
    return replace(recipe.rows, label_dropout=0.0)


# ---------------------------------------------------------------- truncated consistency models


def test_truncated_rows_sit_at_noisy_times_and_a_quarter_at_the_boundary() -> None:
    rows = TruncatedRows(consistency=1.0, label_dropout=0.0, boundary=0.4)
    query, _ = asked(n=400, rows=rows)
    torch.testing.assert_close(query.t[:100], torch.full((100,), 0.4, dtype=query.t.dtype), rtol=0, atol=1e-7)
    assert bool((query.t[100:] < 0.4).all())
    assert abs(query.t[100:].mean().item() - 0.2) < 4 * 0.4 / 12**0.5 / 300**0.5  # uniform
    torch.testing.assert_close(query.t + query.d, torch.ones_like(query.t), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cut", [0.0, 0.02, 0.3, 0.9])
def test_the_first_stage_answers_from_the_boundary_on(cut: float) -> None:
    rows = TruncatedRows(consistency=1.0, label_dropout=0.0, boundary=0.5)
    query, velocity = asked(rows=rows)
    query = query._replace(t=torch.where(query.t > 0.4999, 0.5, query.t))  # what float32 draws is exact there
    answer = Truncated(flow, Leap("sample", cut, weight=-1.0), boundary=0.5)(query, velocity, rows, UNLIKE)
    at = query.t == 0.5
    assert at.sum() == 16
    assert isinstance(answer.weight, Tensor)
    others = 1 / cut if cut else 1.0
    # A quarter of the rows is there: the sum over all is 48 times (the mean over the others + 0.1 that over these).
    torch.testing.assert_close(answer.weight, torch.where(at, 0.1 * 48 / 16 * others, others))
    beyond = query.t + cut * query.d >= 0.5
    plain = Leap("sample", cut)
    for asks, which in ((CONTEXT, beyond), (UNLIKE, ~beyond)):
        torch.testing.assert_close(answer.target[which], plain(query, velocity, rows, asks).target[which])
    assert ((beyond & ~at).sum() > 4) == (cut >= 0.3)  # a small cut leads beyond it from its vicinity alone


def test_a_staged_network_of_two_equal_stages_is_either() -> None:
    query, _ = asked()
    assert torch.equal(Staged(flow, flow, 0.5)(*query), flow(*query))
    mixed = Staged(flow, unlike, 0.5)(*query)
    late = query.t >= 0.5
    assert torch.equal(mixed[late], flow(*query)[late])
    assert torch.equal(mixed[~late], unlike(*query)[~late])


def test_a_staged_network_is_sampled_as_its_second_stage_was_trained() -> None:
    net = ToyMLP(width=16, depth=1, num_classes=NULL, time_scale=10.0)
    net.step_lengths = truncated(unlike).rows.step_lengths  # type: ignore[assignment]  # what `fit` writes
    staged = Staged(net, net, 0.5)
    x0, y = torch.randn(4, 2), torch.arange(4) % NULL
    with pytest.raises(ValueError, match="nfe must be 1 without renoise=True, got 2: net was trained on steps to the"):
        sample(staged, x0, y, nfe=2)
    with pytest.raises(ValueError, match=r"y must hold labels in 0 \.\. 2"):
        sample(staged, x0, y + 2)
    rng = [torch.Generator().manual_seed(0) for _ in range(2)]
    drawn = [sample(n, x0, y, nfe=3, renoise=True, generator=g) for n, g in zip((staged, net), rng, strict=True)]
    assert torch.equal(*drawn)


def test_another_boundary_in_the_rows_is_refused() -> None:
    recipe = truncated(unlike, boundary=0.4)
    with pytest.raises(ValueError, match=r"rows must be TruncatedRows with boundary=0.4, got TruncatedRows"):
        replace(recipe, rows=TruncatedRows(consistency=1.0))
    with pytest.raises(ValueError, match=r"rows must be TruncatedRows with boundary=0.4, got Intervals"):
        replace(recipe, rows=Intervals(consistency=1.0, to_data=1.0))
    with pytest.raises(ValueError, match=r"to_data must be 1, got 0\.5"):
        TruncatedRows(consistency=1.0, to_data=0.5)


# ---------------------------------------------------------------- FACM, dual-end consistency


def test_the_exact_flow_is_a_fixed_point_of_facm() -> None:
    recipe = facm(flow)
    rows = teaching(recipe)
    query, velocity = asked(rows=rows)
    answer = recipe.target(query, torch.full_like(velocity, torch.nan), rows, CONTEXT)  # the sample is not asked
    torch.testing.assert_close(answer.target, flow(*query), rtol=1e-10, atol=1e-10)
    distance = recipe.distance(flow(*query), answer.target, query)
    assert distance.abs().max() < 1e-9


def test_facm_pulls_by_a_bounded_error_that_is_0_at_the_data() -> None:
    rows = Intervals(consistency=1.0, label_dropout=0.0, to_data=1.0)
    query, velocity = asked(rows=rows)
    target = Anchored(flow, clip=0.05, relax=2.0)(query, velocity, rows, UNLIKE).target
    net = unlike(*query)
    limit = Leap("sample", 0.0)(query, velocity, rows, UNLIKE).target
    expected = net - (1 - query.t[:, None] ** 2) * (net - limit).clamp(-0.05, 0.05)
    torch.testing.assert_close(target, expected)
    assert ((target - net).abs() <= 0.05 * (1 - query.t[:, None] ** 2) + 1e-12).all()


def test_facms_distance_written_out() -> None:
    p, q = torch.tensor([[3.0, 4.0]] * 2), torch.tensor([[4.0, 3.0]] * 2)
    zero, t = torch.zeros(2), torch.tensor([0.0, 0.5])
    found = anchored_distance(p, q, Query(p, t, torch.tensor([0.0, 0.5]), zero, zero.long()))
    anchor = 1.0 + 1 - 24 / 25
    step = 2**-0.5 / (1 + 1e-3) ** 0.5
    torch.testing.assert_close(found, torch.tensor([anchor, step]))


def test_facms_cosine_is_that_of_the_channels_at_each_place() -> None:
    p, q = (torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    zero = torch.zeros(3).double()
    found = anchored_distance(p, q, Query(p, zero, zero, zero, zero.long()))
    dots, lengths = (p * q).sum(1), (p.square().sum(1) * q.square().sum(1)).sqrt()
    torch.testing.assert_close(found, (p - q).square().mean((1, 2, 3)) + 1 - (dots / lengths).mean((1, 2)))


def test_facms_times_have_nearly_the_law_of_its_code() -> None:
    """There log tan(pi (1 - t) / 2) is normal with mean -0.8 and deviation 1.6; here the logit is, with 1.0 and 2.0."""
    mean, std = facm(flow).rows.logit
    quantiles = torch.linspace(0.02, 0.98, 49).double()
    z = 2**0.5 * torch.erfinv(2 * quantiles - 1)
    theirs = 1 - 2 / torch.pi * torch.atan(torch.exp(-0.8 - 1.6 * z))
    assert (torch.sigmoid(mean + std * z) - theirs).abs().max() < 0.011


def test_dual_ends_are_steps_to_the_data_and_from_the_noise() -> None:
    recipe = dual_end(flow)
    rows = teaching(recipe)
    query, velocity = asked(n=60, rows=rows)
    assert (query.d[:20] == 0).all()
    torch.testing.assert_close((query.t + query.d)[20:40], torch.ones(20), rtol=0, atol=1e-6)
    assert (query.t[20:40] > 0).all()
    assert (query.t[40:] == 0).all()
    assert len(set(query.d[40:].tolist())) == 20
    answer = recipe.target(query, torch.full_like(velocity, torch.nan), rows, CONTEXT)
    torch.testing.assert_close(answer.target, flow(*query), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n", [8, 128])  # 5 and 85 steps: halves do not divide them
def test_every_step_of_dual_ends_touches_the_data_or_the_noise(n: int) -> None:
    rows = teaching(dual_end(flow))
    query, _ = asked(n=n, rows=rows)
    steps = query.take(rows.blocks(n).consistency)
    assert ((steps.t == 0) | ((steps.t + steps.d - 1).abs() < 1e-6)).all()


def test_each_end_has_its_own_derivative() -> None:
    """Of a network that is no flow: by central differences, in the start for steps to the data, else in the end."""
    recipe = dual_end(flow)
    query, velocity = asked(n=60, rows=teaching(recipe))
    target = recipe.target(query, velocity, teaching(recipe), UNLIKE).target
    h = 1e-5

    def v(x: Tensor, t: Tensor, rows: slice) -> Tensor:
        return flow(x, t, torch.zeros_like(t), query.w[rows], query.y[rows])

    rows = slice(20, 40)
    x, t, d, w, y = query.take(rows)
    step = v(x, t, rows)
    slope = (unlike(x + h * step, t + h, d - h, w, y) - unlike(x - h * step, t - h, d + h, w, y)) / (2 * h)
    torch.testing.assert_close(target[rows], step + d[:, None] * slope, rtol=1e-6, atol=1e-6)
    rows = slice(40, 60)
    x, t, d, w, y = query.take(rows)
    slope = (unlike(x, t, d + h, w, y) - unlike(x, t, d - h, w, y)) / (2 * h)
    end = v(x + d[:, None] * unlike(x, t, d, w, y), d, rows)
    torch.testing.assert_close(target[rows], end - d[:, None] * slope, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"rows must be Intervals with to_data \+ from_noise = 1, got Intervals"):
        replace(recipe, rows=Intervals(consistency=1.0, to_data=0.5))


# ---------------------------------------------------------------- any of them


@pytest.mark.parametrize("make", [truncated, facm, dual_end])
def test_a_step_trains_the_network_and_not_its_teacher(make: object) -> None:
    torch.manual_seed(0)
    net, teacher = (ToyMLP(width=16, depth=1, num_classes=NULL, time_scale=10.0) for _ in range(2))
    recipe = make(teacher)  # type: ignore[operator]
    pair = torch.randn(32, 2), torch.randn(32, 2), torch.arange(32) % NULL
    for parameter in [*net.parameters(), *teacher.parameters()]:
        parameter.data += 0.05 * torch.randn_like(parameter)
    loss, _, distance = training_step(recipe, net, TwinEMA(net), pair, NULL, torch.Generator().manual_seed(0), 0.5)
    loss.backward()
    assert torch.isfinite(distance).all()
    assert sum(p.grad.abs().sum() for p in net.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in teacher.parameters())


def test_a_teachers_passes_count_and_it_is_not_asked() -> None:
    def never(*query: Tensor) -> Tensor:
        raise AssertionError("a teacher of any shape")

    # The teacher of all rows; the derivative and the answer of the steps.
    assert passes(facm(never), 16) == Passes(16, 16 + 2 * 8 + 8, 3)
    # Where a step from the noise ends, too.
    assert passes(dual_end(never), 15) == Passes(15, 15 + 2 * 10 + 5, 6)
    # Both stages for what is beyond the cut.
    assert passes(truncated(never), 16) == Passes(16, 16 + 16, 2)


def test_what_is_no_network_is_refused() -> None:
    for make, name in ((truncated, "first_stage"), (facm, "teacher"), (dual_end, "teacher")):
        with pytest.raises(TypeError, match=f"{name} must be a network, a function"):
            make("flow.safetensors")  # type: ignore[operator]


def test_a_trained_teacher_is_keyed_by_its_weights_and_checked_when_it_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    nets = [ToyMLP(width=16, depth=1, num_classes=NULL).float() for _ in range(2)]
    for parameter in nets[1].parameters():
        parameter.data += 1
    for net, name in zip([*nets, nets[0]], "abc", strict=True):
        save_model(net, tmp_path / f"{name}.safetensors", {})
    a, b, c = (Trained.at(tmp_path / f"{name}.safetensors") for name in "abc")
    with pytest.raises(ValueError, match=r"recipe.target.teacher is a network, .*: save it with save_model, and name"):
        identity_sum(facm(nets[0]), "recipe")
    keys = [identity_sum(facm(teacher)) for teacher in (a, b, c)]
    assert keys[0] == keys[2] != keys[1]
    x, t, y = torch.randn(3, 2).float(), torch.rand(3).float(), torch.arange(3)
    assert torch.equal(b(x, t, 1 - t, t, y), nets[1](x, t, 1 - t, t, y))
    save_model(nets[1], tmp_path / "c.safetensors", {})
    with pytest.raises(ValueError, match=r"c.safetensors is not the file that was named: its SHA-256 is"):
        c(x, t, 1 - t, t, y)


def test_a_copy_begins_with_the_weights_of_its_file_and_is_trained_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = ToyMLP(width=8, depth=1, num_classes=NULL)
    for weight in net.parameters():
        torch.nn.init.normal_(weight)
    save_model(net, tmp_path / "first.safetensors", {})
    trained, (query, _) = Trained.at(tmp_path / "first.safetensors"), asked()
    query = Query(*(column.float() for column in query[:4]), query.y)  # as models are loaded
    before, copy = trained(*query), trained.copy(num_classes=NULL)
    assert torch.equal(copy(*query), before)
    optimizer = torch.optim.SGD(copy.parameters(), lr=0.1)
    copy(*query).square().mean().backward()
    optimizer.step()
    assert not torch.equal(copy(*query), before)
    assert torch.equal(trained(*query), before), "the teacher learnt, too"
    assert torch.equal(trained.copy(num_classes=NULL)(*query), before)
