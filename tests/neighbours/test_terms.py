"""Terms: the Frechet distance against the metric's and finite differences, rewards against optima in closed form."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ismkit.evaluation.metrics import Gaussian, frechet
from ismkit.method.ema import TwinEMA
from ismkit.method.path import Query
from ismkit.method.recipes import Recipe, training_step
from ismkit.neighbours import (
    Brightness,
    ClassReward,
    FrechetTerm,
    Imitation,
    Ink,
    OneStep,
    RewardTerm,
    one_step_samples,
    reward_tuning,
)

pytestmark = pytest.mark.usefixtures("float64")
NOTHING: Any = None  # what a term gets and does not use


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_step(x0: Tensor) -> Query:
    zero = torch.zeros(len(x0), dtype=x0.dtype)
    return Query(x0, zero, zero + 1, zero, zero.long())


def distance(term: FrechetTerm, s: Tensor, query: Query) -> Tensor:
    return term(NOTHING, s, query, NOTHING, NOTHING)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), torch.cov(x.T)


# ---------------------------------------------------------------- the Frechet distance


@pytest.mark.parametrize(("n", "dims"), [(50, 3), (4, 8)])  # with more samples than numbers, and with fewer
def test_the_value_is_that_of_the_metric(n: int, dims: int) -> None:
    x0, s, data = draw(n, dims), draw(n, dims, seed=1), 2 * draw(100, dims, seed=2) + 1
    found = distance(FrechetTerm(*moments(data)), s, one_step(x0))
    assert found.item() == pytest.approx(frechet(Gaussian(*moments(x0 + s)), Gaussian(*moments(data))), rel=1e-9)


def test_the_gradient_is_that_of_differences() -> None:
    x0, s, data = draw(12, 3), draw(12, 3, seed=1).requires_grad_(), draw(100, 3, seed=2) + 1
    term, query = (
        FrechetTerm(*moments(data), features=lambda x: torch.stack([x[:, 0], x[:, 1] * x[:, 2], x.sin().sum(1)], 1)),
        one_step(x0),
    )
    assert torch.autograd.gradcheck(lambda s: distance(term, s, query), (s,), eps=1e-6, atol=1e-6)


def test_equal_moments_have_no_distance_and_no_gradient() -> None:
    x0, s = draw(40, 3), draw(40, 3, seed=1).requires_grad_()
    found = distance(FrechetTerm(*moments((x0 + s).detach())), s, one_step(x0))
    assert abs(found.item()) < 1e-10
    found.backward()
    assert s.grad is not None
    assert s.grad.abs().max() < 1e-7


def test_only_rows_of_one_step_count() -> None:
    x0, s, data = draw(30, 2), draw(30, 2, seed=1), draw(100, 2, seed=2) + 1
    query = one_step(x0)
    mixed = query._replace(
        t=torch.where(torch.arange(30) < 20, 0.0, 0.5), d=torch.where(torch.arange(30) < 10, 0.0, 1.0)
    )
    term = FrechetTerm(*moments(data))
    expected = distance(term, s[10:20], one_step(x0[10:20]))
    torch.testing.assert_close(distance(term, s, mixed), expected, rtol=1e-10, atol=1e-10)
    none = s.clone().requires_grad_()
    found = distance(term, none, query._replace(t=query.t + 0.5))
    found.backward()
    assert found.item() == 0
    assert none.grad is not None
    assert not none.grad.any()
    assert one_step_samples(s, mixed)[1].sum() == 10


def test_fewer_samples_than_features_have_a_finite_gradient() -> None:
    x0, s, data = draw(4, 8), draw(4, 8, seed=1).requires_grad_(), draw(100, 8, seed=2)
    distance(FrechetTerm(*moments(data)), s, one_step(x0)).backward()
    assert s.grad is not None
    assert bool(s.grad.isfinite().all())


@pytest.mark.parametrize(("dims", "n"), [(2, 256), (8, 256)])
def test_the_bias_of_a_batch_is_that_of_the_docstring(dims: int, n: int) -> None:
    """Samples with the right distribution, 400 times: the mean distance within a tenth of its closed form."""
    term, zero = FrechetTerm(torch.zeros(dims), torch.eye(dims)), torch.zeros(n, dims)
    found = sum(distance(term, zero, one_step(draw(n, dims, seed=k))).item() for k in range(400)) / 400
    assert found == pytest.approx((dims + dims * (dims + 1) / 4) / n, rel=0.1)


@pytest.mark.parametrize(("dims", "n"), [(2, 64), (16, 128)])
def test_its_minimum_has_less_spread_than_the_data(dims: int, n: int) -> None:
    """Samples ``scale * x0`` of many batches: the mean gradient at 1 is the curvature times the docstring's share."""
    term, slopes = FrechetTerm(torch.zeros(dims), torch.eye(dims)), []
    for k in range(400):
        x0, scale = draw(n, dims, seed=k), torch.ones((), requires_grad=True)
        distance(term, (scale - 1) * x0, one_step(x0)).backward()
        slopes.append(scale.grad.item())  # type: ignore[union-attr]
    mean = torch.tensor(slopes).mean().item()
    error = torch.tensor(slopes).std().item() / 20
    share, curvature = (dims + 9) / (8 * n), 2 * dims
    assert mean > 4 * error
    assert mean == pytest.approx(curvature * share, abs=4 * error, rel=0.1)


@pytest.mark.parametrize(
    ("mean", "cov", "message"),
    [
        (torch.zeros(2), torch.eye(3), r"mean and cov must be \(F,\) and \(F, F\), got \(2,\) and \(3, 3\)"),
        (torch.zeros(2), torch.tensor([[1.0, 1.0], [0.0, 1.0]]), "cov must be symmetric"),
        (torch.zeros(2), -torch.eye(2), "cov must have no negative eigenvalue, got -1"),
        (torch.zeros(2), torch.full((2, 2), torch.nan), "cov must be finite"),
    ],
)
def test_moments_that_are_none_are_refused(mean: Tensor, cov: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrechetTerm(mean, cov)


def test_features_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features must be \(4, 3\), as the moments are, got \(4, 2\)"):
        distance(FrechetTerm(torch.zeros(3), torch.eye(3)), draw(4, 2), one_step(draw(4, 2)))


# ---------------------------------------------------------------- rewards


class Constant(nn.Module):
    """A network that answers its one weight."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(x) + self.value


def tuned_gradient(recipe: Recipe, value: float, n: int = 8) -> float:
    net, zero = Constant(value), torch.zeros(n, 1)
    pair = zero, zero, torch.zeros(n).long()
    loss, _, _ = training_step(recipe, net, TwinEMA(net, 0.0), pair, 1, torch.Generator())
    loss.backward()
    return net.value.grad.item()  # type: ignore[union-attr]


def test_a_quadratic_reward_has_its_optimum_in_closed_form() -> None:
    """``beta (s - s_ref)^2 + a (s - m)^2 / 2`` is least at ``(2 beta s_ref + a m) / (2 beta + a)``."""
    beta, a, m, reference = 0.7, 1.9, 2.0, -0.4

    def reward(samples: Tensor, labels: Tensor) -> Tensor:
        return -a / 2 * (samples - m).square().sum(1)

    recipe = reward_tuning(Constant(reference), reward, beta)
    best = (2 * beta * reference + a * m) / (2 * beta + a)
    assert tuned_gradient(recipe, best) == pytest.approx(0, abs=1e-12)
    assert tuned_gradient(recipe, best + 1) == pytest.approx(2 * beta + a)


def test_a_reward_pushes_by_its_slope_over_the_price() -> None:
    beta = 3.0
    recipe = reward_tuning(Constant(0.5), Brightness(), beta)
    assert tuned_gradient(recipe, 0.5) == pytest.approx(-1)
    assert tuned_gradient(recipe, 0.5 + 1 / (2 * beta)) == pytest.approx(0, abs=1e-12)


def test_rewards_are_what_they_say() -> None:
    pictures = torch.full((2, 1, 4, 4), -1.0)
    pictures[1, :, :2] = 1.0
    assert Brightness()(pictures, NOTHING).tolist() == [-1.0, 0.0]
    torch.testing.assert_close(Ink()(pictures, NOTHING), torch.tensor([0.0, 0.5]), rtol=0, atol=1e-4)
    torch.testing.assert_close(Ink(softness=-0.1)(pictures, NOTHING), torch.tensor([1.0, 0.5]), rtol=0, atol=1e-4)
    assert Brightness(decode=lambda x: 0 * x + 0.25)(pictures, NOTHING).tolist() == [0.25, 0.25]

    def classifier(x: Tensor) -> Tensor:
        return torch.stack([x.mean((1, 2, 3)), torch.zeros(len(x))], 1)

    logits = classifier(pictures)
    own = ClassReward(classifier)(pictures, torch.tensor([1, 2]))  # 2 is null
    assert own.tolist() == pytest.approx([logits.log_softmax(1)[0, 1].item(), 0.0])
    fixed = ClassReward(classifier, label=0)(pictures, torch.tensor([1, 2]))
    torch.testing.assert_close(fixed, logits.log_softmax(1)[:, 0], rtol=1e-6, atol=1e-6, check_dtype=False)
    with pytest.raises(ValueError, match="label must be one of the classifier's 2 classes, got 2"):
        ClassReward(classifier, label=2)(pictures, torch.tensor([0, 1]))


def test_a_reward_is_that_of_the_rows_of_one_step() -> None:
    x0, s = draw(6, 2), draw(6, 2, seed=1)
    query = one_step(x0)._replace(d=torch.tensor([1.0, 1.0, 0.0, 0.5, 1.0, 0.0]))
    rows = [0, 1, 4]
    term = RewardTerm(Brightness(), weight=2.0)
    expected = -2 * (x0 + s)[rows].mean()
    torch.testing.assert_close(term(NOTHING, s, query, NOTHING, NOTHING), expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"reward must give one number per row, \(6,\), got \(6, 2\)"):
        RewardTerm(lambda x, y: x)(NOTHING, s, query, NOTHING, NOTHING)


def test_a_reference_answers_what_was_asked() -> None:
    query = one_step(draw(4, 2))
    found = Imitation(lambda x, t, d, w, y: x * d[:, None] + t[:, None])(query, query.x, OneStep(), NOTHING)
    assert found.target.equal(query.x)
