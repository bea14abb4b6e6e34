"""The sampler against the closed form of Gaussian data, under guidance too, and how often it calls the network.

For data N(m, sigma^2 I) the marginal at time t is N(t m, A(t)^2 I) with A(t)^2 = (1 - t)^2 + sigma^2 t^2, the velocity
is m + A'(t) / A(t) (x - t m), and its flow takes x0 to t m + A(t) x0. The mean enters linearly and the gap between two
such fields does not depend on x, so guidance by w is the same field with the mean m_null + (1 + w) (m_y - m_null).
"""

import math
import re
import sys
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ismkit.method.guidance import TwoPassCFG
from ismkit.method.path import StepGrid, expand_as
from ismkit.method.sampling import SOLVERS, check_nfe, renoise_options, renoises, sample, solve, trajectory
from ismkit.utils.seeding import stream

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


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


# ------------------------------------------------------------------------------------------- steps of any length


class AnyLength(Gaussian):
    """The same, by its own word trained on steps of any length."""

    step_lengths = "any"


class ToData(Gaussian):
    """The same, by its own word trained on steps to the data alone."""

    step_lengths = "to data"


partitions = st.lists(st.floats(0.01, 0.99), max_size=6, unique=True).map(lambda inner: [0.0, *sorted(inner), 1.0])


@given(sigmas, partitions, seeds)
@settings(max_examples=40)
def test_exact_shortcuts_land_on_the_closed_form_by_any_times(sigma: float, times: list[float], seed: int) -> None:
    net = Gaussian(sigma)
    x0, w, y = noise(3, seed)
    torch.testing.assert_close(sample(net, x0, y, w=w, times=times), net.samples(x0, w, y), rtol=1e-9, atol=1e-9)
    assert [asked[1][0].item() for asked in net.asked] == times[:-1]
    assert [asked[2][0].item() for asked in net.asked] == [b - a for a, b in pairwise(times)]


@pytest.mark.parametrize("nfe", [1, 3, 7, 100])
def test_a_network_of_any_steps_makes_any_number(nfe: int) -> None:
    net = AnyLength()
    x0, w, y = noise(4)
    torch.testing.assert_close(sample(net, x0, y, w=w, nfe=nfe), net.samples(x0, w, y), rtol=1e-9, atol=1e-9)
    assert len(net.asked) == nfe
    states = trajectory(net, x0, y, w=w, nfe=nfe)
    for k, state in enumerate(states):
        t = torch.tensor(k / nfe, dtype=torch.float64)
        torch.testing.assert_close(state, t * net.mean(w, y) + net.scale(t) * x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("nfe", [1, 4, 128])
def test_times_of_equal_steps_are_those_of_nfe(nfe: int) -> None:
    x0, w, y = noise(4)
    expected = sample(Gaussian(), x0, y, w=w, nfe=nfe)
    for times in ([k / nfe for k in range(nfe + 1)], torch.linspace(0, 1, nfe + 1)):
        assert torch.equal(sample(Gaussian(), x0, y, w=w, times=times, grid=StepGrid()), expected)
        assert torch.equal(sample(Gaussian(), x0, y, w=w, times=times, grid=StepGrid(), nfe=nfe), expected)


def test_steps_below_the_grid_ask_for_the_velocity() -> None:
    net, (x0, _, y) = AnyLength(), noise(2)
    sample(net, x0, y, times=(0, 1 / 8, 1 / 8 + 1 / 16, 1 / 2, 1), grid=StepGrid(8))
    assert [d[0].item() for _, _, d, _, _ in net.asked] == [0, 0, 0.3125, 0.5]


def test_two_pass_cfg_asks_for_the_velocity_and_so_makes_any_number_of_steps() -> None:
    velocity, (x0, w, y) = Gaussian(), noise(3)
    sample(TwoPassCFG(velocity, NULL), x0, y, w=w, nfe=3)
    assert [t[0].item() for _, t, _, _, _ in velocity.asked[::2]] == [0, 1 / 3, 2 / 3]
    assert all((d == 0).all() for _, _, d, _, _ in velocity.asked)


@pytest.mark.parametrize("draw", [sample, trajectory])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"nfe": 3},
            "got 3, those of net: train on rows of Intervals for others; sample and trajectory also take times",
        ),
        ({"nfe": 3, "times": (0, 0.5, 1)}, "nfe must be left out beside times, which have 2 steps, got 3"),
        ({"times": (0.5, 1)}, "times must begin at 0, grow, and end at 1, such as (0, 0.3, 1), got (0.5, 1)"),
        ({"times": (0, 0.5)}, "end at 1"),
        ({"times": (0, 0.5, 0.5, 1)}, "grow"),
        ({"times": (0, math.nan, 1)}, "grow"),
        ({"times": ()}, "times must begin at 0"),
        ({"generator": torch.Generator()}, "generator goes with renoise=True"),
        ({"renoise": True, "generator": torch.Generator(), "nfe": 4}, "nfe must be 1 or 2 with renoise, got 4"),
    ],
)
def test_steps_that_cannot_be_are_refused(draw: type, options: dict[str, object], message: str) -> None:
    x0, _, y = noise(2)
    with pytest.raises(ValueError, match=re.escape(message)):
        draw(never, x0, y, **options)


def test_a_network_of_steps_to_the_data_makes_one_or_adds_noise() -> None:
    x0, _, y = noise(2)
    net = ToData()
    with pytest.raises(ValueError, match="nfe must be 1 without renoise=True, got 2: net was trained on steps to the"):
        sample(net, x0, y, nfe=2)
    assert not net.asked
    sample(net, x0, y)
    sample(net, x0, y, times=(0, 0.5, 1))
    sample(net, x0, y, nfe=3, renoise=True, generator=torch.Generator())


@pytest.mark.parametrize("nfe", [1, 2, 3, 4, 16, 128])
@pytest.mark.parametrize("renoise", [None, False, True])
@pytest.mark.parametrize("grid", [None, StepGrid(8)])
@pytest.mark.parametrize("kind", [Gaussian, AnyLength, ToData])
def test_what_is_refused_before_drawing_is_what_the_sampler_refuses(
    kind: type[Gaussian], grid: StepGrid | None, renoise: bool | None, nfe: int
) -> None:
    """Without a word about noise, it is drawn as judges draw."""
    net, (x0, w, y) = kind(), noise(2)
    given = {} if renoise is None else {"renoise": renoise, **({"generator": generator(0)} if renoise else {})}
    options: dict[str, Any] = given if renoise is not None else renoise_options(net, 0)
    try:
        sample(net, x0, y, w=w, nfe=nfe, grid=grid, **options)
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            check_nfe(net, nfe, grid, renoise=renoise)
    else:
        assert check_nfe(net, nfe, grid, renoise=renoise) == nfe == len(net.asked)


def test_fresh_noise_goes_with_networks_of_steps_to_the_data_alone() -> None:
    assert [renoises(kind()) for kind in (Gaussian, AnyLength, ToData)] == [False, False, True]
    assert renoise_options(Gaussian(), 3) == {}
    found = renoise_options(ToData(), 3, 7)
    assert found["renoise"] is True
    assert torch.equal(torch.rand(4, generator=found["generator"]), torch.rand(4, generator=stream(3, "renoise", 7)))


# ------------------------------------------------------------------------------------------------- noise added again


def test_with_new_noise_each_step_asks_for_the_data() -> None:
    net, (x0, w, y) = ToData(), noise(2)
    states = trajectory(net, x0, y, w=w, times=(0, 0.25, 0.7, 1), renoise=True, generator=generator(5))
    assert [(t[0].item(), d[0].item()) for _, t, d, _, _ in net.asked] == [(0, 1), (0.25, 0.75), (0.7, 1 - 0.7)]
    again, expected = generator(5), [x0]
    for start, end in ((0, 0.25), (0.25, 0.7), (0.7, 1)):
        x, t = expected[-1], torch.full((2,), start, dtype=torch.float64)
        data = x + (1 - start) * net(x, t, 1 - t, w, y)
        fresh = 0 if end == 1 else torch.randn(x0.shape, generator=again).double()
        expected.append(end * data + (1 - end) * fresh)
    torch.testing.assert_close(states, torch.stack(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nfe", [1, 2, 4])
def test_with_the_exact_consistency_function_the_distribution_is_exact(nfe: int) -> None:
    """Each jump ends at the data's distribution, and the noise added again at that of the next time."""
    net, n = ToData(sigma=0.5), 40_000
    x0 = torch.randn(n, DIM, dtype=torch.float64, generator=generator(1))
    y = torch.zeros(n, dtype=torch.long)
    x1 = sample(net, x0, y, nfe=nfe, renoise=True, generator=generator(2))
    # Four standard errors, of the mean and of the variance of n normal numbers.
    assert ((x1.mean(0) - MEANS[0]).abs() < 4 * 0.5 / math.sqrt(n)).all()
    assert ((x1.var(0) - 0.25).abs() < 4 * 0.25 * math.sqrt(2 / n)).all()
    if nfe > 1:  # it is new noise: the sample no longer says where its path began
        assert abs(torch.corrcoef(torch.stack([x0[:, 0], x1[:, 0]]))[0, 1]) < 0.99
        assert torch.equal(x1, sample(net, x0, y, nfe=nfe, renoise=True, generator=generator(2)))
        assert not torch.equal(x1, sample(net, x0, y, nfe=nfe, renoise=True, generator=generator(3)))


def test_the_noise_added_again_is_of_the_source() -> None:
    def ones(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.ones(shape)

    def still(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(x)

    x0, y = torch.zeros(2, DIM), torch.tensor([0, 1])
    states = trajectory(still, x0, y, nfe=2, renoise=True, generator=generator(0), source=ones)
    assert torch.equal(states, torch.stack([x0, x0 + 0.5, x0 + 0.5]))


@pytest.mark.parametrize("renoise", [1, None, "yes"])
def test_adding_noise_is_true_or_false_and_needs_a_generator(renoise: object) -> None:
    x0, _, y = noise(2)
    with pytest.raises(TypeError, match="renoise must be True or False"):
        sample(never, x0, y, renoise=renoise, generator=generator(0))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator, for the noise of renoise, got None"):
        sample(never, x0, y, renoise=True)


# ------------------------------------------------------------------------------------------------- adaptive steps


@pytest.mark.parametrize("method", SOLVERS)
def test_solvers_come_nearer_by_more_calls(method: str) -> None:
    net, (x0, w, y) = Gaussian(sigma=0.5), noise(16)
    errors, calls = [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        solution = solve(net, x0, y, w=w, method=method, rtol=tolerance, atol=tolerance)
        assert solution.calls == len(net.asked)
        net.asked.clear()
        errors.append((solution.samples - net.samples(x0, w, y)).abs().max().item())
        calls.append(solution.calls)
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 1e-4
    assert calls == sorted(set(calls))


def test_a_solver_asks_for_velocities_up_to_the_data_and_no_further() -> None:
    net, (x0, w, y) = Gaussian(sigma=0.1), noise(4)
    solve(net, x0, y, w=w)
    assert all((d == 0).all() for _, _, d, _, _ in net.asked)
    assert all(0 <= t.min() <= t.max() <= 1 for _, t, _, _, _ in net.asked)
    assert all(torch.equal(strength, w) and torch.equal(labels, y) for *_, strength, labels in net.asked)


def test_calls_of_two_pass_cfg_count_twice() -> None:
    velocity, (x0, w, y) = Gaussian(sigma=0.5), noise(8)
    samples, calls = solve(TwoPassCFG(velocity, NULL), x0, y, w=w, rtol=1e-8, atol=1e-8)
    assert calls == len(velocity.asked)
    assert calls % 2 == 0
    torch.testing.assert_close(samples, velocity.samples(x0, w, y), rtol=0, atol=1e-6)


def test_a_solver_keeps_shape_dtype_and_no_gradient() -> None:
    layer = torch.nn.Linear(4, 4)
    x0 = torch.randn(3, 2, 4, generator=generator(0))
    samples, _ = solve(lambda x, *_: layer(x), x0, torch.zeros(3).long())
    assert samples.shape == x0.shape
    assert samples.dtype == torch.float32
    assert not samples.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "euler"}, "method must be one of dopri8, dopri5, bosh3, adaptive_heun, fehlberg2, got 'euler'"),
        ({"rtol": 0.0}, "rtol must be a number above 0, got 0.0"),
        ({"atol": -1.0}, "atol must be a number above 0, got -1.0"),
        ({"w": -1.0}, "w, the guidance strength, must be finite and at least 0"),
    ],
)
def test_solvers_name_what_does_not_fit(options: dict[str, object], message: str) -> None:
    x0, _, y = noise(2)
    with pytest.raises(ValueError, match=re.escape(message)):
        solve(never, x0, y, **options)  # type: ignore[arg-type]


def test_a_tolerance_that_is_never_met_is_named() -> None:
    x0, _, y = noise(2)
    with pytest.raises(ValueError, match=r"rtol=1e-05 and atol=1e-05 are not met by dopri5 in torch\.float64, its"):
        solve(lambda x, *_: math.nan * x, x0, y)


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    x0, _, y = noise(2)
    with pytest.raises(ImportError, match="solve needs torchdiffeq, which is missing: pip install torchdiffeq"):
        solve(never, x0, y)
