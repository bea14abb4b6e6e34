"""The exact velocity of a mixture: the score, the continuity equation, Bayes' rule, and plain averages of samples."""

import re

import pytest
import torch
from torch import Tensor

from ismkit.data.sets import eight_gaussians
from ismkit.lessons.closed_forms import EIGHT_GAUSSIANS, Mixture, turned
from ismkit.method.path import interpolate
from ismkit.utils.seeding import stream

UNEVEN = Mixture(torch.tensor([[1.0, -0.5, 0.3], [-1.2, 0.4, 0.0]], dtype=torch.float64), 0.6)
MIXTURES = [EIGHT_GAUSSIANS, UNEVEN]


def states(mixture: Mixture, n: int = 64) -> tuple[Tensor, Tensor]:
    """States in float64 all over the plane, likely or not, at times in (0.05, 0.95)."""
    generator = stream(0, "states")
    x = 1.5 * torch.randn(n, mixture.means.shape[1], generator=generator, dtype=torch.float64)
    return x, 0.05 + 0.9 * torch.rand(n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("mixture", MIXTURES)
def test_velocity_follows_from_the_score(mixture: Mixture) -> None:
    """x_t = (1 - t) x0 + t x1 and score = -E[x0 | x_t] / (1 - t) give v = (x + (1 - t) score) / t."""
    x, t = states(mixture)
    x.requires_grad_()
    (score,) = torch.autograd.grad(mixture.log_density(x, t).sum(), x)
    want = (x + (1 - t)[:, None] * score) / t[:, None]
    torch.testing.assert_close(mixture.velocity(x, t), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mixture", MIXTURES)
def test_velocity_carries_the_density_along(mixture: Mixture) -> None:
    """The continuity equation, d log p / dt + v . grad log p + div v = 0, at every point."""
    x, t = states(mixture)
    x.requires_grad_()
    t.requires_grad_()
    change, score = torch.autograd.grad(mixture.log_density(x, t).sum(), (t, x))
    velocity = mixture.velocity(x, t)
    parts = [torch.autograd.grad(velocity[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(x.shape[1])]
    divergence = torch.stack(parts).sum(0)
    left = change + (velocity * score).sum(1) + divergence
    assert (left.abs() < 1e-9 * (1 + change.abs() + divergence.abs())).all()


@pytest.mark.parametrize("mixture", MIXTURES)
def test_density_and_responsibilities_are_those_of_torch(mixture: Mixture) -> None:
    x, t = states(mixture)
    scale = ((1 - t) ** 2 + (t * mixture.std) ** 2).sqrt()
    normal = torch.distributions.Normal(t[:, None, None] * mixture.means.to(x), scale[:, None, None])
    joint = normal.log_prob(x[:, None]).sum(2).exp() / len(mixture.means)
    likely = joint.sum(1) > 1e-250  # where the sum of plain densities does not underflow
    assert likely.sum() > len(x) // 2
    torch.testing.assert_close(mixture.log_density(x, t)[likely], joint.sum(1).log()[likely], rtol=1e-10, atol=1e-10)
    bayes = joint / joint.sum(1, keepdim=True)
    torch.testing.assert_close(mixture.responsibilities(x, t)[likely], bayes[likely], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("at", [0.0, 0.3, 0.8, 1.0])
def test_velocity_and_its_variance_are_averages_over_samples(mixture: Mixture, at: float) -> None:
    """E[v | x_t] and Var[v | x_t] from many pairs, each weighed by the density of the noise it would need.

    Given x1, the noise that leads to x_t is (x_t - t x1) / (1 - t); at t = 1 the data is known and v = x1 - noise.
    """
    n, dim = 400_000, mixture.means.shape[1]
    generator = stream(1, "samples")
    component = torch.randint(len(mixture.means), (n,), generator=generator)
    x1 = mixture.means[component].double() + mixture.std * torch.randn(n, dim, generator=generator, dtype=torch.float64)
    x = torch.full((1, dim), 0.4, dtype=torch.float64)
    if at < 1:
        x0 = (x - at * x1) / (1 - at)
        v, weight = x1 - x0, (-x0.square().sum(1) / 2).exp()
    else:
        v, weight = x - torch.randn(n, dim, generator=generator, dtype=torch.float64), torch.ones(n).double()
    weight = weight / weight.sum()
    mean = (weight[:, None] * v).sum(0)
    variance = (weight[:, None] * (v - mean).square()).sum(0)
    error = 6 * (variance.max() * weight.square().sum()).sqrt()
    t = torch.full((1,), at, dtype=torch.float64)
    assert (mixture.velocity(x, t)[0] - mean).abs().max() < error
    assert mixture.velocity_variance(x, t).item() == pytest.approx(variance.mean().item(), rel=0.03, abs=error.item())


def test_the_loss_of_the_exact_velocity_is_its_variance() -> None:
    """E|v(x_t, t) - (x1 - x0)|^2 = E Var[x1 - x0 | x_t], within six standard errors."""
    n = 200_000
    generator = stream(2, "loss")
    x0, t = torch.randn(n, 2, generator=generator), torch.rand(n, generator=generator)
    x_t, v = interpolate(x0, eight_gaussians(n, 5).x, t)
    gap = (EIGHT_GAUSSIANS.velocity(x_t, t) - v).square().mean(1) - EIGHT_GAUSSIANS.velocity_variance(x_t, t)
    assert gap.mean().abs() < 6 * gap.std() / n**0.5


def test_ends_are_the_closed_forms() -> None:
    """At t = 0 the velocity is E[x1] - x and its variance that of the data; at t = 1 it is x, and 1."""
    x, _ = states(UNEVEN, 8)
    zero, one = torch.zeros(8, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    torch.testing.assert_close(UNEVEN.velocity(x, zero), UNEVEN.means.mean(0) - x)
    spread = (UNEVEN.means - UNEVEN.means.mean(0)).square().mean() + UNEVEN.std**2
    torch.testing.assert_close(UNEVEN.velocity_variance(x, zero), spread.expand(8))
    torch.testing.assert_close(UNEVEN.velocity(x, one), x)
    torch.testing.assert_close(UNEVEN.velocity_variance(x, one), one)


def test_single_precision_stays_and_is_accurate() -> None:
    x, t = states(EIGHT_GAUSSIANS)
    low = EIGHT_GAUSSIANS.velocity(x.float(), t.float())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), EIGHT_GAUSSIANS.velocity(x, t), rtol=1e-3, atol=1e-3)


def test_turned_points_are_symmetric_and_turn_to_the_left() -> None:
    x = torch.randn(5, 2, generator=stream(3, "turned"), dtype=torch.float64)
    quarter = turned(x, 4)[5:10]
    torch.testing.assert_close(quarter, torch.stack([-x[:, 1], x[:, 0]], 1))
    eighth = turned(x)
    torch.testing.assert_close(eighth[:5], x)
    torch.testing.assert_close(turned(eighth[5:10])[:-5], eighth[5:])  # one turn on is the same ring, begun later
    torch.testing.assert_close(EIGHT_GAUSSIANS.means, turned(EIGHT_GAUSSIANS.means[:1]))


def test_turned_refuses() -> None:
    with pytest.raises(ValueError, match=re.escape("x must be (n, 2), got (4, 3)")):
        turned(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="turns must be an integer of at least 1, got 0"):
        turned(torch.zeros(4, 2), 0)


@pytest.mark.parametrize(
    ("means", "std", "message"),
    [
        (torch.zeros(3), 0.1, "means must be (K, D) with K, D >= 1, got (3,)"),
        (torch.zeros(0, 2), 0.1, "means must be (K, D) with K, D >= 1, got (0, 2)"),
        (torch.zeros(3, 2), 0.0, "std must be positive and finite, got 0.0"),
    ],
)
def test_mixture_refuses(means: Tensor, std: float, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Mixture(means, std)


def test_states_must_fit() -> None:
    with pytest.raises(ValueError, match=re.escape("x and t must be (B, 2) and (B,), got (4, 3) and (4,)")):
        EIGHT_GAUSSIANS.velocity(torch.zeros(4, 3), torch.zeros(4))
    with pytest.raises(ValueError, match=re.escape("x and t must be (B, 2) and (B,), got (4, 2) and ()")):
        EIGHT_GAUSSIANS.velocity(torch.zeros(4, 2), torch.tensor(0.5))
