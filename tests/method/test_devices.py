"""Steps, samples and assignments on a device that stands for a GPU: nothing is left on the CPU, and no step waits."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from ismkit.method.auction import CHECK_EVERY, Auction
from ismkit.method.coupling import Coupling, Solver
from ismkit.method.ema import TwinEMA
from ismkit.method.guidance import TwoPassCFG
from ismkit.method.path import Query
from ismkit.method.recipes import Answer, Context
from ismkit.method.rows import Rows
from ismkit.method.sampling import sample, solve, trajectory
from ismkit.method.wavelet import Distance, Normalised, WaveletDistance, candidates, dwt, idwt, l2
from ismkit.neighbours import NAMED, Leap
from ismkit.utils.seeding import stream
from tests.fake_cuda import CUDA, Wait, fake_cuda
from tests.steps import Kind, network, pair, recipe, step

KINDS = get_args(Kind)

# ---------------------------------------------------------------- the step


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMED)
def test_a_step_is_that_of_the_cpu_and_waits_for_nothing(name: str, kind: Kind) -> None:
    value = recipe(name, kind)
    if isinstance(value.target, Leap) and value.target.cut == 0:  # the stand-in has no derivative in forward mode
        value = replace(value, target=replace(value.target, differences=0.01))
    loss, gradient = step(value, network(kind), kind)
    with fake_cuda() as waits:
        net = network(kind).to("cuda")
        waits.clear()
        there, slopes = step(value, net, kind, "cuda")
        assert not waits
        assert there.device == slopes.device == CUDA
        # In a discrepancy kernels near 1 cancel, and their rounding stays.
        cancels = name == "imm"
        assert there.item() == pytest.approx(loss.item(), rel=1e-6, abs=1e-7 * cancels)
        torch.testing.assert_close(slopes.cpu(), gradient, rtol=1e-4, atol=1e-5 if cancels else 1e-6)


def test_targets_by_the_levels_that_a_ratio_favours_wait_for_nothing() -> None:
    value = recipe("ism", "points")
    with fake_cuda() as waits:
        net = network("points").to("cuda")
        waits.clear()
        step(replace(value, rows=replace(value.rows, level_ratio=2.0, time_power=1.5)), net, "points", "cuda")
        assert not waits


DISTANCES: dict[str, Distance] = {
    **candidates(2),
    "huber": WaveletDistance((1.0, 1.0, 1.0), norm="huber"),
    "normalised": Normalised(l2),
    "db2": WaveletDistance((1.0, 1.0, 1.0), wavelet="db2"),
}


@pytest.mark.parametrize("name", DISTANCES)
def test_every_distance_waits_for_nothing_from_the_second_call_on(name: str) -> None:
    with fake_cuda() as waits:
        a, b, _ = (part.to("cuda") for part in pair("images"))
        DISTANCES[name](a, b)  # a wavelet's matrices are copied there once
        waits.clear()
        DISTANCES[name](a.requires_grad_(), b).sum().backward()
        assert a.grad is not None
        assert not waits


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_transforms_stay_on_the_device(wavelet: str) -> None:
    with fake_cuda():
        x = pair("images")[0].to("cuda")
        back = idwt(dwt(x, 2, wavelet), wavelet)
        assert back.device == CUDA
        torch.testing.assert_close(back.cpu(), x.cpu())


def test_averages_are_updated_without_waiting() -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("seen", torch.zeros(()))

    with fake_cuda() as waits:
        net = Counting().to("cuda")
        ema = TwinEMA(net, fast=0.5, slow=0.9)
        waits.clear()
        with torch.no_grad():
            net.weight += 1.0
            net.seen += 1.0
        for _ in range(3):
            ema.update(net)
        assert not waits
        assert {tensor.device for tensor in [*ema.fast.parameters(), *ema.slow.buffers()]} == {CUDA}
        assert ema.fast.seen.item() == 1.0  # type: ignore[operator, union-attr]


# ---------------------------------------------------------------- a step that is wrong is found


def waiting_target(query: Query, velocity: Tensor, rows: Rows, context: Context) -> Answer:
    return Answer(velocity * min(1.0, velocity.abs().max().item()))


def masking_target(query: Query, velocity: Tensor, rows: Rows, context: Context) -> Answer:
    target = velocity.clone()
    target[query.d == 0] = velocity[query.d == 0]
    return Answer(target)


def copying_target(query: Query, velocity: Tensor, rows: Rows, context: Context) -> Answer:
    return Answer(velocity * torch.tensor(1.0, device=velocity.device))


@pytest.mark.parametrize("target", [waiting_target, masking_target, copying_target])
def test_a_target_that_waits_is_found(target: Any) -> None:
    with fake_cuda() as waits:
        net = network("points").to("cuda")
        waits.clear()
        step(replace(recipe("flow", "points"), target=target), net, "points", "cuda")
        assert waits


def left_behind(prediction: Tensor, target: Tensor, query: Query) -> Tensor:
    return l2(prediction, target) * torch.ones(len(prediction))


def test_a_distance_with_a_tensor_left_on_the_cpu_is_found() -> None:
    with fake_cuda():
        net = network("points").to("cuda")
        with pytest.raises(RuntimeError, match="to be on the same device"):
            step(replace(recipe("flow", "points"), distance=left_behind), net, "points", "cuda")


# ---------------------------------------------------------------- the sampler

# Before the first step: is the noise finite, are labels and strengths in range, and the strengths as a tensor.
AT_THE_DOOR = {"utils.checks.check_finite", "method.sampling._check", "method.sampling._strengths"}


@pytest.mark.parametrize(("strengths", "most"), [("number", 128), ("one per row", 4), ("two passes", 2)])
def test_a_sampler_waits_at_its_door_alone(strengths: str, most: int) -> None:
    x0, _, y = pair("points")
    w: Any = torch.linspace(0, 3.5, len(y)) if strengths == "one per row" else 1.0
    net: nn.Module = network("points").eval()
    net = TwoPassCFG(net, 3) if strengths == "two passes" else net
    expected = {nfe: sample(net, x0, y, w=w, nfe=nfe) for nfe in (1, 2, most)}
    path = trajectory(net, x0, y, w=w, nfe=4)
    counts = set()
    with fake_cuda() as waits:
        net, x0, y = net.to("cuda"), x0.to("cuda"), y.to("cuda")
        w = w.to("cuda") if isinstance(w, Tensor) else w
        for nfe, drawn in expected.items():
            waits.clear()
            found = sample(net, x0, y, w=w, nfe=nfe)
            assert {wait.place for wait in waits} == AT_THE_DOOR
            counts.add(len(waits))
            assert found.device == CUDA
            torch.testing.assert_close(found.cpu(), drawn, rtol=1e-4, atol=1e-5)
        waits.clear()
        states = trajectory(net, x0, y, w=w, nfe=4)
        assert {wait.place for wait in waits} == AT_THE_DOOR
        torch.testing.assert_close(states.cpu(), path, rtol=1e-4, atol=1e-5)
    assert len(counts) == 1  # however many steps


def test_images_are_sampled_on_the_device() -> None:
    x0, _, y = pair("images")
    net = network("images").eval()
    expected = sample(net, x0, y, w=2.0, nfe=4)
    with fake_cuda():
        found = sample(net.to("cuda"), x0.to("cuda"), y.to("cuda"), w=2.0, nfe=4)
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)


def test_new_noise_is_brought_to_the_device() -> None:
    x0, _, y = pair("points")
    net, options = network("points").eval(), {"times": (0, 0.3, 0.6, 1), "renoise": True}
    expected = sample(net, x0, y, generator=torch.Generator().manual_seed(1), **options)
    with fake_cuda() as waits:
        net, x0, y = net.to("cuda"), x0.to("cuda"), y.to("cuda")
        waits.clear()
        found = sample(net, x0, y, generator=torch.Generator().manual_seed(1), **options)
        assert {wait.place for wait in waits} == AT_THE_DOOR
        assert found.device == CUDA
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)


def test_a_solver_works_on_the_device() -> None:
    x0, _, y = pair("points")
    net = network("points").eval()
    expected = solve(net, x0, y, rtol=1e-2, atol=1e-2)
    with fake_cuda():
        found = solve(net.to("cuda"), x0.to("cuda"), y.to("cuda"), rtol=1e-2, atol=1e-2)
        assert (found.samples.device, found.calls) == (CUDA, expected.calls)
        torch.testing.assert_close(found.samples.cpu(), expected.samples, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("wrong", ["net", "x0", "y"])
def test_a_sampler_names_what_is_on_another_device(wrong: str) -> None:
    x0, _, y = pair("points")
    net = network("points").eval()
    with fake_cuda():
        there = {"net": net if wrong == "net" else net.to("cuda")}
        noise, labels = (part if wrong == name else part.to("cuda") for name, part in (("x0", x0), ("y", y)))
        with pytest.raises(ValueError, match=r"must be on the device of"):
            sample(there["net"], noise, labels, nfe=1)


# ---------------------------------------------------------------- assignments

SOLVERS: dict[str, Solver | None] = {"exact": None, "auction": Auction(exact=0, stop=0.2, device="cuda")}


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("class_aware", [True, False])
@pytest.mark.parametrize("name", SOLVERS)
def test_noise_is_coupled_as_on_the_cpu(name: str, class_aware: bool, device: str) -> None:
    x0, x1 = (torch.randn(60, 8, generator=stream(0, place)) for place in ("noise", "data"))
    y = torch.randint(3, (60,), generator=stream(0, "labels"))
    solver = replace(value, device="cpu") if isinstance(value := SOLVERS[name], Auction) else value
    expected = Coupling(pool=1, class_aware=class_aware, solver=solver).couple(x0, x1, y)
    with fake_cuda():
        coupling = Coupling(pool=1, class_aware=class_aware, solver=SOLVERS[name])
        found = coupling.couple(x0.to(device), x1.to(device), y.to(device))
        assert found.device.type == device
        assert found.cpu().equal(expected)


@pytest.mark.parametrize("stop", [0.0, 0.1])
def test_an_auction_waits_between_looks_alone(stop: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from ismkit.method import auction

    rounds = 0

    def counted(*args: Any, _round: Callable[..., None] = auction._round) -> None:
        nonlocal rounds
        rounds += 1
        _round(*args)

    monkeypatch.setattr(auction, "_round", counted)
    x0, x1 = (torch.randn(80, 8, generator=stream(0, place)) for place in ("noise", "data"))
    with fake_cuda() as waits:
        found = Auction(exact=0, stop=stop, device="cuda")(x0, x1)
    assert found.sort().values.equal(torch.arange(80))
    places = Counter(waits)
    # The largest value, a look after each CHECK_EVERY rounds.
    assert places.pop(Wait("_local_scalar_dense", "method.auction.auction")) == 1 + rounds // CHECK_EVERY
    # There and back; the spread of the values, which sets epsilon.
    assert places.pop(Wait("_to_copy", "method.auction.Auction.__call__")) == 3
    assert places.pop(Wait("_local_scalar_dense", "method.auction.Auction.__call__")) == 1
    # The rows left over: which they are, their values, and their columns back.
    left = {wait.operation: count for wait, count in places.items()}
    assert left == ({"nonzero": 2, "_to_copy": 2} if stop else {})
