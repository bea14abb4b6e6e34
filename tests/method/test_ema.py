"""The twin average against its closed form: weights given to past steps, lag behind a drift, one average or two."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ismkit.method.ema import TwinEMA, ramped, shares

decays = st.floats(0, 0.9999)


class Number(nn.Module):
    """One weight and one buffer in float64."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.count: Tensor

    def set(self, value: float) -> None:
        with torch.no_grad():
            self.weight.fill_(value)
            self.count += 1


def value(average: nn.Module) -> float:
    assert isinstance(average, Number)
    return average.weight.item()


def follow(ema: TwinEMA, net: Number, values: list[float]) -> None:
    for number in values:
        net.set(number)
        ema.update(net)


@given(decays, st.integers(0, 100_000))
def test_the_ramp(decay: float, updates: int) -> None:
    assert ramped(decay, updates) == min(decay, (1 + updates) / (10 + updates))
    assert 0 <= ramped(decay, updates) <= ramped(decay, updates + 1) <= decay


@pytest.mark.parametrize(("decay", "over"), [(0.95, 170), (0.9999, 89_990)])
def test_the_ramp_is_over_when_stated(decay: float, over: int) -> None:
    assert ramped(decay, over - 1) < decay
    assert math.isclose(ramped(decay, over), decay, rel_tol=1e-12)


@given(
    st.floats(0, 0.99),
    st.floats(0.99, 0.9999),
    st.lists(st.floats(-10, 10), min_size=1, max_size=40),
    st.floats(-10, 10),
)
@settings(max_examples=30)
def test_closed_form(fast: float, slow: float, values: list[float], start: float) -> None:
    net = Number(start)
    ema = TwinEMA(net, fast, slow)
    follow(ema, net, values)
    for average, decay in ((ema.fast, fast), (ema.slow, slow)):
        # Step k keeps (1 - decay_k) of itself, times every later decay; the start keeps the product of all.
        used = [min(decay, (1 + k) / (10 + k)) for k in range(len(values))]
        shares = [(1 - used[k]) * math.prod(used[k + 1 :]) for k in range(len(values))]
        assert math.prod(used) + sum(shares) == pytest.approx(1)
        expected = math.prod(used) * start + sum(share * v for share, v in zip(shares, values, strict=True))
        assert value(average) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(st.floats(0, 0.9999), st.lists(st.floats(-10, 10), max_size=30), st.floats(-10, 10))
@settings(max_examples=30)
def test_shares_make_up_the_average(decay: float, values: list[float], start: float) -> None:
    net = Number(start)
    ema = TwinEMA(net, decay, decay)
    follow(ema, net, values)
    held = shares(decay, len(values))
    assert held.sum().item() == pytest.approx(1, rel=1e-12)
    expected = (held * torch.tensor([start, *values], dtype=torch.float64)).sum().item()
    assert value(ema.slow) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("updates", [0, 1, 7, 500])
def test_the_ramp_lags_a_tenth_of_the_run_and_forgets_the_start(updates: int) -> None:
    held = shares(0.9999, updates)
    age = torch.arange(updates, -1, -1, dtype=torch.float64)
    assert (held * age).sum().item() == pytest.approx(updates / 10, rel=1e-10)
    assert held[0].item() == pytest.approx(1 / math.comb(updates + 9, 9), rel=1e-10)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95])
def test_long_after_the_ramp_shares_fall_geometrically(decay: float) -> None:
    held = shares(decay, 1000).flip(0)
    expected = (1 - decay) * decay ** torch.arange(50, dtype=torch.float64)
    torch.testing.assert_close(held[:50], expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.95])
def test_the_lag_behind_a_linear_drift(decay: float) -> None:
    net = Number()
    ema = TwinEMA(net, decay, 0.9999)
    drift, steps = 0.3, 1000  # the ramp ends at 170 at the latest, and 0.95^830 = 3e-19
    follow(ema, net, [drift * (k + 1) for k in range(steps)])
    assert net.weight.item() - value(ema.fast) == pytest.approx(drift * decay / (1 - decay), rel=1e-9)


def test_both_begin_at_the_initial_weights_and_a_constant_stays() -> None:
    net = Number(3.0)
    ema = TwinEMA(net, 0.95, 0.9999)
    assert value(ema.fast) == value(ema.slow) == 3
    follow(ema, net, [3.0] * 20)
    assert value(ema.fast) == value(ema.slow) == 3


def test_a_decay_of_zero_follows_the_network() -> None:
    net = Number()
    ema = TwinEMA(net, 0.0, 0.5)
    for number in (2.0, -7.0, 0.1):
        follow(ema, net, [number])
        assert value(ema.fast) == number


def test_the_fast_average_is_nearer_to_the_network_than_the_slow_one() -> None:
    net = Number()
    ema = TwinEMA(net, 0.95, 0.9999)
    follow(ema, net, [float(k) for k in range(500)])
    assert net.weight.item() - 20 < value(ema.fast) < net.weight.item() - 18  # lag 19
    assert value(ema.slow) < value(ema.fast) - 10


def test_equal_decays_are_one_average() -> None:
    net = Number(1.0)
    ema = TwinEMA(net, 0.9, 0.9)
    assert ema.fast is ema.slow
    assert len(list(ema.parameters())) == 1
    alone = TwinEMA(net, 0.9, 0.99)
    follow(ema, net, [2.0, 3.0])
    follow(alone, net, [2.0, 3.0])
    assert value(ema.slow) == value(alone.fast)
    assert alone.fast is not alone.slow
    assert len(list(alone.parameters())) == 2


def test_buffers_are_copied_and_the_network_is_not_touched() -> None:
    net = Number(1.0)
    ema = TwinEMA(net)
    follow(ema, net, [2.0] * 5)
    for average in (ema.fast, ema.slow):
        assert isinstance(average, Number)
        assert average.count.item() == 5
        assert average.count is not net.count
        assert average.weight is not net.weight
    assert net.weight.item() == 2
    assert net.weight.requires_grad


class Replacing(Number):
    """Replaces its buffer in each step."""

    def set(self, value: float) -> None:
        super().set(value)
        self.count = self.count.clone()


@pytest.mark.parametrize("kind", [Number, Replacing])
def test_weights_that_are_looked_up_once_are_followed_alike(kind: type[Number]) -> None:
    net, nested = kind(), nn.Sequential(kind())
    ema, once = TwinEMA(net, 0.5, 0.9), TwinEMA(nested, 0.5, 0.9)
    update, alone = once.following(nested), TwinEMA(kind(), 0.5, 0.9).averages[1]
    for number in (3.0, -1.0, 7.0):
        net.set(number)
        nested[0].set(number)
        ema.update(net)
        update()
        alone.update_parameters(net)
    assert value(alone.module) == value(ema.slow)
    for average, other in ((ema.fast, once.fast), (ema.slow, once.slow)):
        assert value(average) == value(other[0]) != 0
        assert average.count == other[0].count == 3


def test_averages_stay_in_eval_mode_without_gradients() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train()
    ema = TwinEMA(net)
    for _ in range(2):
        for average in (ema.fast, ema.slow):
            assert not any(module.training for module in average.modules())
            assert not any(parameter.requires_grad for parameter in average.parameters())
            x = torch.ones(4, 3)
            assert torch.equal(average(x), average(x))  # no dropout
        ema.train()
        ema.update(net)
    assert net.training


@given(st.sampled_from([torch.float32, torch.float64]), st.integers(0, 2**32 - 1), st.floats(0.1, 0.99))
@settings(max_examples=15)
def test_every_tensor_of_a_network_is_averaged_alike(dtype: torch.dtype, seed: int, decay: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Embedding(2, 5)).to(dtype)
    ema = TwinEMA(net, decay, 0.999)
    expected = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    for k in range(5):
        for name, parameter in net.named_parameters():
            parameter.data = torch.randn(parameter.shape, dtype=dtype, generator=generator)
            used = ramped(decay, k)
            expected[name] = used * expected[name] + (1 - used) * parameter.detach()
        ema.update(net)
    for name, parameter in ema.fast.named_parameters():
        assert parameter.dtype == dtype
        torch.testing.assert_close(parameter, expected[name])


def test_a_state_dict_carries_everything_that_the_next_update_needs() -> None:
    net = Number(1.0)
    ema = TwinEMA(net, 0.95, 0.9999)
    follow(ema, net, [float(k) for k in range(30)])
    restored = TwinEMA(Number(-5.0), 0.95, 0.9999)
    restored.load_state_dict(copy.deepcopy(ema.state_dict()))
    for one in (ema, restored):
        follow(one, Number(), [4.0, 5.0])  # the ramp continues, not from its start
    assert value(restored.fast) == value(ema.fast)
    assert value(restored.slow) == value(ema.slow)
    assert restored.state_dict().keys() == ema.state_dict().keys()


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("bad", [-0.1, 1.0, 1.5, math.nan])
def test_a_decay_outside_the_unit_interval_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=rf"fast decay must be in \[0, 1\), got {bad}"):
        TwinEMA(Number(), fast=bad)
    with pytest.raises(ValueError, match=rf"slow decay must be in \[0, 1\), got {bad}"):
        TwinEMA(Number(), slow=bad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_refused(dtype: torch.dtype) -> None:
    """The slow average of them never moved: 1 + (2 - 1) / 10 000 is 1."""
    with pytest.raises(ValueError, match=rf"net must have weights in float32, got {dtype} in weight"):
        TwinEMA(nn.Linear(1, 1).to(dtype))


def test_a_fast_average_slower_than_the_slow_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must not exceed the slow one, got fast=0.99, slow=0.9$"):
        TwinEMA(Number(), fast=0.99, slow=0.9)
