"""``fit`` on a device that stands for a GPU: which waits there are, by name, and that there are no others."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.tracking import GeneralTracker
from torch import Tensor

from ismkit.data.batches import Batches
from ismkit.data.sets import Labelled
from ismkit.method.path import Query
from ismkit.method.recipes import RECIPES, Recipe
from ismkit.training.distributed import StopVote
from ismkit.training.loop import FLUSH_EVERY, Optim, StepReport, TrainState
from ismkit.training.tracking import SampleGrid, Tracking
from ismkit.utils.seeding import stream
from tests.fake_cuda import CUDA, Wait, accelerator, fake_cuda, reset_accelerate
from tests.options import fit
from tests.steps import CLASSES, SHAPES, Kind, network, recipe

pytestmark = pytest.mark.usefixtures(reset_accelerate.__name__)

# The places in which the CPU waits for the device, on purpose: before the first step, and in steps that read losses.
BEFORE = {"training.loop._check_first_rows", "training.loop.check_query"}
READING = {"training.loop.finite_losses"}


def train(
    kind: Kind, device: str, steps: int = 3, change: Callable[[Recipe], Recipe] = lambda value: value, **options: Any
) -> TrainState:
    value = change(recipe(options.pop("name", "ism"), kind))
    value = replace(value, coupling=replace(value.coupling, pool=min(value.coupling.pool, 2)))
    rng = stream(0, "data")
    x, y = torch.randn(96, *SHAPES[kind], generator=rng), torch.randint(CLASSES, (96,), generator=rng)
    batches = Batches(Labelled(x, y, CLASSES, tuple("abc")), 16, seed=1)
    made = accelerator(device)
    options = {"optim": Optim(lr=1e-3, clip=1.0), "progress": False} | options
    return fit(value, network(kind), batches, steps=steps, accelerator=made, **options)


def weights(state: TrainState) -> Tensor:
    """Those of the network and of its fast average, in one row on the CPU."""
    tensors = [*state.net.parameters(), *state.ema.fast.parameters()]
    return torch.cat([tensor.detach().cpu().flatten() for tensor in tensors])


def places(waits: list[Wait]) -> set[str]:
    return {wait.place for wait in waits}


@pytest.mark.parametrize(("name", "kind"), [*((name, "images") for name in RECIPES), ("ism", "points")])
def test_training_is_that_of_the_cpu_and_its_steps_wait_for_nothing(name: str, kind: Kind) -> None:
    expected = train(kind, "cpu", name=name)
    with fake_cuda() as waits:
        state = train(kind, "cuda", name=name)
        assert places(waits) == BEFORE | READING
        assert Counter(waits)[Wait("_to_copy", "training.loop.finite_losses")] == 1
        assert {tensor.device for tensor in [*state.net.parameters(), *state.ema.slow.parameters()]} == {CUDA}
        assert state.losses == pytest.approx(expected.losses, rel=1e-5)
        start = torch.cat([tensor.detach().flatten() for tensor in 2 * [*network(kind).parameters()]])
        moved = (weights(expected) - start).norm()
        # Where a gradient is zero but for rounding (the keys' biases), AdamW makes that as large as any other.
        assert (weights(state) - weights(expected)).norm() < 1e-2 * moved


@pytest.mark.parametrize("options", [{"micro_batches": 2}, {"recompute": True}], ids=["micro-batches", "recompute"])
def test_neither_micro_batches_nor_recomputed_blocks_wait(options: dict[str, Any]) -> None:
    expected = train("images", "cpu", **options)
    with fake_cuda() as waits:
        state = train("images", "cuda", **options)
        assert places(waits) == BEFORE | READING
        assert state.losses == pytest.approx(expected.losses, rel=1e-5)


def test_a_vote_of_several_processes_is_read_from_a_copy_that_was_begun_a_step_earlier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To read a number of the device would wait for the step that has just been queued."""
    done: list[str] = []

    class Event:
        def record(self) -> None:
            done.append("copied")

        def synchronize(self) -> None:
            done.append("read")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    two: Any = SimpleNamespace(num_processes=2, reduce=lambda value, how: value)
    with fake_cuda() as waits:
        vote, loss = StopVote(two, active=True), torch.zeros((), device="cuda")
        assert [vote(loss, wants)[1] for wants in (False, True, False, False)] == [False, False, True, False]
        assert done == ["copied", *["copied", "read"] * 3]
        assert {wait.operation for wait in waits} == {"_to_copy"}  # which a real device does not wait for
        assert not StopVote(two, active=False)(loss, True)[1]


def test_losses_are_read_once_in_many_steps() -> None:
    seen: list[int] = []
    with fake_cuda() as waits:

        def count(state: TrainState, report: StepReport) -> None:
            seen.append(sum(wait.place in READING for wait in waits))

        train("points", "cuda", steps=2 * FLUSH_EVERY + 1, name="flow", hooks=[count])
    assert seen == [step // FLUSH_EVERY for step in range(1, 2 * FLUSH_EVERY + 1)] + [3]


def test_a_checkpoint_of_the_device_resumes_there(tmp_path: Path) -> None:
    with fake_cuda() as waits:
        whole = train("points", "cuda", steps=4)
        waits.clear()
        first = train("points", "cuda", steps=2, folder=tmp_path)
        assert all(place in BEFORE | READING or place.startswith("training.checkpoint.") for place in places(waits))
        second = train("points", "cuda", steps=4, folder=tmp_path, resume=True)
        assert first.losses + second.losses == whole.losses
        assert weights(second).equal(weights(whole))


class Kept(GeneralTracker):
    """A tracker that keeps what it is given."""

    name, requires_logging_directory = "kept", False

    def __init__(self) -> None:
        super().__init__()
        self.logged: dict[int | None, dict[str, float]] = {}

    @property
    def tracker(self) -> None: ...

    def store_init_configuration(self, values: dict[str, Any]) -> None: ...

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        self.logged[step] = values


def test_logs_and_sheets_wait_when_they_are_due_alone() -> None:
    kept: dict[str, Kept] = {}
    at_step: list[set[str]] = []

    def run(device: str, waits: list[Wait]) -> None:
        kept[device] = Kept()
        sheets = SampleGrid(lambda x: x[:, :1].expand(-1, 3, -1, -1), SHAPES["images"], (0, 1), nfe=(1, 2))
        tracking = Tracking(lambda _: [kept[device]], rows=16, every=2, samples=sheets, samples_every=4)

        def since(state: TrainState, report: StepReport) -> None:
            at_step.append(places(waits))
            waits.clear()

        with tracking:
            train("images", device, steps=5, hooks=[tracking, since])

    run("cpu", [])
    at_step.clear()
    with fake_cuda() as waits:
        run("cuda", waits)
    losses = {step: values["loss/consistency"] for step, values in kept["cpu"].logged.items()}
    assert {step: values["loss/consistency"] for step, values in kept["cuda"].logged.items()} == pytest.approx(
        losses, rel=1e-5
    )
    log = {"training.tracking.Tracking._log", "training.tracking.LossTable.read"}
    first, second, third, fourth, fifth = at_step
    assert first == BEFORE | {"training.tracking.LossTable.__init__"}
    assert second == log
    assert third == set()
    assert log < fourth
    assert all(place.startswith(("training.tracking.", "method.sampling.", "utils.checks.")) for place in fourth)
    assert fifth == READING


def test_a_step_that_waits_is_found() -> None:
    def waiting(value: Recipe) -> Recipe:
        def distance(prediction: Tensor, target: Tensor, query: Query) -> Tensor:
            far = (prediction - target).square().flatten(1).mean(1)
            return far / max(1.0, float(far.detach().max()))

        return replace(value, distance=distance)

    with fake_cuda() as waits:
        train("points", "cuda", change=waiting)
        assert places(waits) - BEFORE - READING
