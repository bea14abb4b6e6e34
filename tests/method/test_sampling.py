"""The sampler against the closed form of Gaussian data, under guidance too, and how often it calls the network.

For data N(m, sigma^2 I) the marginal at time t is N(t m, A(t)^2 I) with A(t)^2 = (1 - t)^2 + sigma^2 t^2, the velocity
is m + A'(t) / A(t) (x - t m), and its flow takes x0 to t m + A(t) x0. The mean enters linearly and the gap between two
such fields does not depend on x, so guidance by w is the same field with the mean m_null + (1 + w) (m_y - m_null).
"""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ismkit.method.guidance import TwoPassCFG
from ismkit.method.path import StepGrid, expand_as
from ismkit.method.sampling import sample, trajectory

DIM, NULL = 3, 4
MEANS = torch.randn(NULL + 1, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

seeds = st.integers(0, 2**32 - 1)
sigmas = st.floats(0.05, 3)
exponents = st.integers(0, 7)


class Gaussian:
    """The exact network for Gaussian data; counts its calls and keeps what it was asked."""

    def __init__(self, sigma: float = 0.3, finest: float = 0.0) -> None:
        """``finest``: length of the step asked as d = 0; 0 answers the instantaneous velocity there."""
        self.sigma, self.finest = sigma, finest
        self.asked: list[tuple[Tensor, ...]] = []

    def mean(self, w: Tensor, y: Tensor) -> Tensor:
        return MEANS[NULL] + (1 + w[:, None]) * (MEANS[y] - MEANS[NULL])

    def scale(self, t: Tensor) -> Tensor:
        return ((1 - t) ** 2 + (self.sigma * t) ** 2).sqrt()

    def __call__(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        self.asked.append((x, t, d, w, y))
        m, t = self.mean(w, y), t[:, None]
        length = torch.where(d > 0, d, self.finest)[:, None]
        end = (t + length) * m + self.scale(t + length) / self.scale(t) * (x - t * m)
        slope = (self.sigma**2 * t - (1 - t)) / self.scale(t) ** 2  # A' / A
        return torch.where(length > 0, (end - x) / length.clamp(min=1e-9), m + slope * (x - t * m))

    def samples(self, x0: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return self.mean(w, y) + self.sigma * x0


def noise(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """(x0, w, y) of n rows."""
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(n, DIM, dtype=dtype, generator=generator)
    w = torch.randint(0, 15, (n,), generator=generator).to(dtype) / 4
    return x0, w, torch.randint(0, NULL + 1, (n,), generator=generator)


# ------------------------------------------------------------------------------------------------- the closed form


@given(sigmas, exponents, st.integers(1, 5), seeds)
@settings(max_examples=40)
def test_any_number_of_exact_shortcuts_lands_on_the_closed_form(sigma: float, k: int, n: int, seed: int) -> None:
    net = Gaussian(sigma, finest=1 / 128)
    x0, w, y = noise(n, seed)
    x1 = sample(net, x0, y, w=w, nfe=2**k)
    torch.testing.assert_close(x1, net.samples(x0, w, y), rtol=1e-9, atol=1e-9)


@given(st.integers(1, 9), st.data())
@settings(max_examples=20)
def test_the_same_holds_on_any_grid(levels: int, data: st.DataObject) -> None:
    grid = StepGrid(2**levels)
    steps = 2 ** data.draw(st.integers(0, levels))
    net = Gaussian(finest=1 / grid.n)
    x0, w, y = noise(4)
    torch.testing.assert_close(
        sample(net, x0, y, w=w, nfe=steps, grid=grid), net.samples(x0, w, y), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("steps", [1, 8, 128])
def test_the_states_on_the_way_are_those_of_the_flow(steps: int) -> None:
    net = Gaussian(finest=1 / 128)
    x0, w, y = noise(4)
    states = trajectory(net, x0, y, w=w, nfe=steps)
    for k, state in enumerate(states):
        t = torch.tensor(k / steps, dtype=torch.float64)
        torch.testing.assert_close(state, t * net.mean(w, y) + net.scale(t) * x0, rtol=1e-9, atol=1e-9)


def test_euler_on_the_velocity_converges_at_first_order() -> None:
    net = Gaussian(sigma=0.5)
    x0, w, y = noise(16)
    errors = []
    for steps in (16, 32, 64, 128, 256, 512):  # each the finest level of its grid, and so asked as d = 0
        x1 = sample(net, x0, y, w=w, nfe=steps, grid=StepGrid(steps))
        errors.append((x1 - net.samples(x0, w, y)).norm().item())
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(abs(order - 1) < 0.1 for order in orders)
    assert abs(orders[-1] - 1) < abs(orders[0] - 1) < 0.1


def test_euler_with_two_pass_cfg_converges_to_the_guided_closed_form() -> None:
    velocity = Gaussian(sigma=0.5)
    net = TwoPassCFG(velocity, NULL)
    x0, w, y = noise(16)
    expected = velocity.samples(x0, w, y)
    errors = [(sample(net, x0, y, w=w, nfe=steps) - expected).norm().item() for steps in (32, 64, 128)]
    assert all(abs(math.log2(a / b) - 1) < 0.1 for a, b in pairwise(errors))
    assert errors[-1] < 0.02 * expected.norm()
    assert len(velocity.asked) == 2 * (32 + 64 + 128)


# ------------------------------------------------------------------------------------------- what the network is asked


@pytest.mark.parametrize("w", [0.0, 2.0])
@pytest.mark.parametrize("steps", [2**k for k in range(8)])
def test_one_call_per_step_on_the_whole_batch_guided_or_not(steps: int, w: float) -> None:
    net = Gaussian()
    x0, _, y = noise(5)
    sample(net, x0, y, w=w, nfe=steps)
    assert len(net.asked) == steps
    for k, (x, t, d, strength, label) in enumerate(net.asked):
        assert x.shape == x0.shape
        assert t.tolist() == [k / steps] * 5
        assert d.tolist() == [1 / steps if steps < 128 else 0] * 5
        assert strength.tolist() == [w] * 5
        assert torch.equal(label, y)


def test_a_guidance_strength_per_sample_equals_one_at_a_time() -> None:
    net = Gaussian(finest=1 / 128)
    x0, w, y = noise(6)
    together = sample(net, x0, y, w=w, nfe=4)
    for i in range(6):
        alone = sample(net, x0[i : i + 1], y[i : i + 1], w=w[i].item(), nfe=4)
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("w", [1.5, torch.tensor(1.5), torch.full((6,), 1.5), torch.full((6,), 1.5).double()])
def test_one_strength_for_all_equals_a_vector_of_it(w: float | Tensor) -> None:
    x0, _, y = noise(6)
    expected = sample(Gaussian(), x0, y, w=torch.full((6,), 1.5), nfe=4)
    assert torch.equal(sample(Gaussian(), x0, y, w=w, nfe=4), expected)


def test_unguided_is_the_default() -> None:
    x0, _, y = noise(6)
    assert torch.equal(sample(Gaussian(), x0, y), sample(Gaussian(), x0, y, w=0.0, nfe=1))


@given(exponents, st.integers(1, 4), st.sampled_from([torch.float32, torch.float64]), seeds)
@settings(max_examples=25)
def test_a_trajectory_begins_at_the_noise_and_ends_at_the_sample(k: int, n: int, dtype: torch.dtype, seed: int) -> None:
    x0, w, y = noise(n, seed, dtype)
    kept = x0.clone()
    net = Gaussian()
    states = trajectory(net, x0, y, w=w, nfe=2**k)
    assert states.shape == (2**k + 1, n, DIM)
    assert torch.equal(states[0], x0)
    assert torch.equal(states[-1], sample(net, x0, y, w=w, nfe=2**k))
    assert torch.equal(x0, kept)  # not changed in place


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 4, 8, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_have_the_shape_and_dtype_of_the_noise(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    def net(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        assert t.dtype == d.dtype == w.dtype == dtype
        return x * expand_as(t + d + w, x)

    x1 = sample(net, torch.ones(shape, dtype=dtype), torch.zeros(3, dtype=torch.long), w=1.0, nfe=2)
    # 1 + (0 + 1/2 + 1) / 2 = 7/4; times 1 + (1/2 + 1/2 + 1) / 2 = 2.
    assert torch.equal(x1, torch.full(shape, 3.5, dtype=dtype))


def test_no_gradient_is_kept() -> None:
    layer = torch.nn.Linear(DIM, DIM).double()
    x0, _, y = noise(2)
    for result in (sample, trajectory):
        assert not result(lambda x, *_: layer(x), x0, y, nfe=2).requires_grad


# ------------------------------------------------------------------------------------------------------- bad input


def never(*_: Tensor) -> Tensor:
    raise AssertionError("the network was called before the input was checked")


@pytest.mark.parametrize("draw", [sample, trajectory])
@pytest.mark.parametrize("steps", [-1, 0, 3, 127, 256])
def test_steps_that_no_level_has_are_refused(draw: type, steps: int) -> None:
    x0, _, y = noise(2)
    with pytest.raises(ValueError, match=rf"nfe must be one of \[1, 2, 4, 8, 16, 32, 64, 128\] .*, got {steps}"):
        draw(never, x0, y, nfe=steps)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1)])
def test_labels_that_are_not_one_per_row_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"y must hold one label per row of x0, shape \(2,\), got \("):
        sample(never, torch.zeros(2, DIM), torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1)])
def test_strengths_that_are_not_one_per_row_are_refused(shape: tuple[int, ...]) -> None:
    x0, _, y = noise(2)
    with pytest.raises(ValueError, match=r"w must be a number or hold one per row, \(2,\), got \("):
        sample(never, x0, y, w=torch.zeros(shape))


@pytest.mark.parametrize("w", [-0.25, math.nan, math.inf, torch.tensor([0.5, -1.0])])
def test_strengths_below_zero_or_not_finite_are_refused(w: float | Tensor) -> None:
    x0, _, y = noise(2)
    with pytest.raises(ValueError, match=r"w, the guidance strength, must be finite and at least 0 .*, got "):
        sample(never, x0, y, w=w)
