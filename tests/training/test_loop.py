import copy
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ismkit.data.batches import Batches
from ismkit.data.sets import EIGHT_GAUSSIANS_MEANS, EIGHT_GAUSSIANS_STD, Labelled, eight_gaussians
from ismkit.method.auction import Auction
from ismkit.method.coupling import Coupling
from ismkit.method.ema import TwinEMA, ramped
from ismkit.method.path import Network, Query, StepGrid, interpolate, step_lengths_of
from ismkit.method.recipes import RECIPES, Answer, Context, Recipe, training_step
from ismkit.method.rows import Intervals, Rows
from ismkit.method.sampling import sample
from ismkit.method.wavelet import Normalised, WaveletDistance, geometric_weights, l2
from ismkit.models.nets import DiT, ToyMLP
from ismkit.neighbours.recipes import NEIGHBOURS
from ismkit.training import checkpoint, distributed, loop
from ismkit.training.checkpoint import collect
from ismkit.training.distributed import REQUEUE, Preempted
from ismkit.training.loop import FLUSH_EVERY, DivergenceError, Optim, StepReport, TrainState
from ismkit.training.options import Engine
from ismkit.training.runs import for_points, for_side
from ismkit.utils import store
from ismkit.utils.seeding import stream
from ismkit.utils.weights import CheckpointError
from ismkit.utils.workers import Tell, run_group
from tests.options import fit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    """Accelerate keeps its settings in process-wide singletons: give every test its own."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


# ---------------------------------------------------------------- the problems that the tests train

Problem = tuple[Recipe, Any, Batches]  # recipe, network, data


class DropoutMLP(ToyMLP):
    """A network that draws from the global generator, which a resumed run must have put back."""

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x, t, d, w, y), 0.1, self.training)


OPTIM = Optim(lr=3e-3, warmup=3, clip=1.0)


def _pooled(recipe: Recipe) -> Recipe:
    """Pools of four batches: steps 5 and 10 lie inside one."""
    return replace(recipe, coupling=Coupling(pool=4))


def toy(seed: int = 0) -> Problem:
    torch.manual_seed(seed)
    net = DropoutMLP(width=16, depth=1)
    return _pooled(for_points(RECIPES["ism"])), net, Batches(eight_gaussians(256, 0), 16, seed=1)


def images(seed: int = 0) -> Problem:
    """Synthetic 8 x 8 images in 3 classes, a tiny transformer, and the wavelet distance."""
    torch.manual_seed(seed)
    net = DiT(size=8, channels=1, patch=2, width=16, depth=1, heads=2, num_classes=3)
    rng = stream(0, "images")
    y = torch.randint(3, (96,), generator=rng)
    x = torch.rand(96, 1, 8, 8, generator=rng) * (1 + y)[:, None, None, None] - 1
    recipe = _pooled(for_side(RECIPES["ism"], 8))
    assert isinstance(recipe.distance, WaveletDistance)
    assert recipe.distance.levels == 3
    return recipe, net, Batches(Labelled(x, y, 3, ("a", "b", "c")), 16, seed=1)


def derivative(seed: int = 0) -> Problem:
    """The images with improved MeanFlow, whose targets hold a derivative of the network."""
    _, net, batches = images(seed)
    return for_side(NEIGHBOURS["imf"], 8), net, batches


PROBLEMS: dict[str, Callable[[], Problem]] = {"toy": toy, "images": images}


def train(problem: str, steps: int, *, optim: Optim = OPTIM, **options: Any) -> TrainState:
    return fit(*PROBLEMS[problem](), steps=steps, optim=optim, progress=False, **options)


def contents(state: TrainState) -> dict[str, Tensor]:
    """All that training changes: the net, both averages, the optimiser's moments and settings."""
    tensors, scalars = collect(state.net, state.optimizer, {"ema": state.ema})
    return tensors | {name: torch.tensor(value) for name, value in scalars.items() if value is not None}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    differing = [name for name in expected if not torch.equal(actual[name], expected[name])]
    assert not differing, differing


# ---------------------------------------------------------------- the loop is the plain loop


def plain_loop(
    recipe: Recipe, net: Any, batches: Batches, steps: int, optim: Optim, micro_batches: int = 1
) -> dict[str, Tensor]:
    """``fit`` written out without Accelerate, from the documented streams; returns all that it changed."""
    ema = TwinEMA(net, recipe.fast, recipe.slow)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=True
    )
    pairs = [recipe.coupling.pairs(batches.stream(0, j, micro_batches), 0, 0, j) for j in range(micro_batches)]
    for step in range(steps):
        for micro_batch in range(micro_batches):
            rng = stream(0, "rows", micro_batch, step)
            loss, _, _ = training_step(recipe, net, ema, next(pairs[micro_batch]), net.num_classes, rng)
            (loss / micro_batches).backward()
        nn.utils.clip_grad_norm_(net.parameters(), optim.clip)
        optimizer.param_groups[0]["lr"] = optim.lr * min(1.0, (step + 1) / (optim.warmup + 1))
        optimizer.step()
        optimizer.zero_grad()
        ema.update(net)
    return contents(TrainState(net, ema, optimizer))


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_fit_is_the_plain_loop(problem: str, micro_batches: int) -> None:
    recipe, net, batches = PROBLEMS[problem]()
    expected = plain_loop(recipe, net.train(), batches, 6, OPTIM, micro_batches)
    assert_same(contents(train(problem, 6, micro_batches=micro_batches)), expected)


#: The first and last of 8 losses, and the sum of |weights| of the slow average, before the loop could micro_batch.
RECORDED = {
    ("toy", 1): ("0x1.1994b40000000p+2", "0x1.da3df40000000p+1", "0x1.9e26d38dbfdf4p+8"),
    # Recorded again when the transformer's positions got the order of DiT's code; with the former order, the losses are
    # those recorded before, bit for bit.
    ("images", 1): ("0x1.19c3900000000p+1", "0x1.20e3e60000000p+1", "0x1.62592da5a1e8fp+9"),
    ("images", 3): ("0x1.2cc5440000000p+1", "0x1.41c2cc0000000p+1", "0x1.6533780319f0ap+9"),
}


@pytest.mark.parametrize(("problem", "micro_batches"), RECORDED)
def test_one_process_trains_as_it_always_did(problem: str, micro_batches: int) -> None:
    """To rounding here, for other processors sum in another order; where they were recorded the bits were equal."""
    state = train(problem, 8, micro_batches=micro_batches)
    size = sum(float(p.double().abs().sum()) for p in state.ema.slow.parameters())
    expected = [float.fromhex(number) for number in RECORDED[problem, micro_batches]]
    assert [state.losses[0], state.losses[-1], size] == pytest.approx(expected, rel=1e-5)


def test_averages_follow_the_weights_of_every_step() -> None:
    recipe, net, batches = toy()

    def weight(net: Any) -> Tensor:
        return net.head[1].weight.detach().double().clone()

    weights = [weight(net)]
    state = fit(
        recipe, net, batches, steps=7, progress=False, hooks=[lambda state, _: weights.append(weight(state.net))]
    )
    for average, decay in ((state.ema.fast, recipe.fast), (state.ema.slow, recipe.slow)):
        expected = weights[0]
        for k, new in enumerate(weights[1:]):
            rate = ramped(decay, k)
            expected = rate * expected + (1 - rate) * new
        torch.testing.assert_close(weight(average), expected, rtol=1e-5, atol=1e-8)


def test_hooks_get_step_rate_loss_and_rows() -> None:
    optim = Optim(lr=2e-3, warmup=2, cooldown=0.5, clip=1.0)
    reports: list[StepReport] = []
    steps_seen: list[int] = []

    def hook(state: TrainState, report: StepReport) -> None:
        reports.append(report)
        steps_seen.append(state.step)
        assert {group["lr"] for group in state.optimizer.param_groups} == {report.lr}

    state = train("toy", 8, optim=optim, hooks=[hook])
    assert [report.step for report in reports] == steps_seen == list(range(1, 9))
    # Warm-up over 2 steps, then constant, and over the last 4 of 8 steps down to a quarter.
    assert [report.lr / 2e-3 for report in reports] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 3 / 4, 1 / 2, 1 / 4])
    assert [float(report.loss) for report in reports] == state.losses
    recipe, _, _ = toy()
    for report in reports:
        assert report.distance.shape == report.query.t.shape == (16,)
        assert not report.distance.requires_grad
        torch.testing.assert_close(recipe.loss(report.distance), report.loss)
        assert report.grad_norm > 0


def test_reported_gradient_norm_is_the_one_before_clipping() -> None:
    norms: dict[float, list[float]] = {}
    for clip in (1e-3, float("inf")):
        norms[clip] = []
        train("toy", 1, optim=Optim(clip=clip), hooks=[lambda _, r, n=norms[clip]: n.append(float(r.grad_norm))])
    assert norms[1e-3] == norms[float("inf")]
    assert norms[1e-3][0] > 1e-3


def test_a_rule_gets_both_averages_and_what_it_answers_is_weighed() -> None:
    made: list[tuple[Context, bool]] = []

    def spy(query: Query, velocity: Tensor, rows: Rows, context: Context) -> Answer:
        made.append((context, torch.is_grad_enabled()))
        assert rows is recipe.rows
        return Answer(velocity + 1, weight)

    recipe, net, batches = toy()
    recipe, weight = replace(recipe, target=spy), torch.arange(16.0)
    ema = TwinEMA(net, 0.5, 0.9)
    assert ema.fast is not ema.slow
    (pair,) = recipe.coupling.pairs(iter([next(batches.stream(0, 0, 1))]), 0)
    rng = stream(0, "rows")
    loss, query, distance = training_step(recipe, net.eval(), ema, pair, net.num_classes, rng, 0.25)
    ((context, with_gradient),) = made
    assert context[:4] == (ema.fast, ema.slow, net.num_classes, 0.25)
    assert context.rng is rng
    assert not with_gradient
    x0, x1, _ = pair
    torch.testing.assert_close(distance, l2(net(*query), x1 - x0 + 1))  # and what it answers is the target
    torch.testing.assert_close(loss, recipe.loss(weight * distance))


# ---------------------------------------------------------------- network calls


@pytest.mark.parametrize(
    ("name", "target_rows"),
    [
        ("flow", []),
        ("shortcut_every_level", [4, 4]),  # an eighth of the rows, two half steps, each with and without label
        ("ism", [12, 4]),  # a quarter: the gap with and without label; a quarter: two half steps, one beside the gap
    ],
)
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_one_online_call_per_micro_batch(name: str, target_rows: list[int], micro_batches: int) -> None:
    calls: list[tuple[bool, int]] = []

    class Counting(ToyMLP):
        def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
            calls.append((torch.is_grad_enabled(), len(x)))
            assert self.training == torch.is_grad_enabled()  # the online net trains, the averages do not
            return super().forward(x, t, d, w, y)

    recipe = for_points(RECIPES[name])
    batches = Batches(eight_gaussians(600, 0), 16, seed=0)
    steps = 3
    fit(replace(recipe, coupling=Coupling()), Counting(width=8, depth=1), batches,
        steps=steps, micro_batches=micro_batches, progress=False)  # fmt: skip
    assert [rows for online, rows in calls if online] == [16] * micro_batches * steps
    assert [rows for online, rows in calls if not online] == [16, *target_rows * micro_batches * steps], (
        "one is a trial"
    )


# ---------------------------------------------------------------- resume


@pytest.mark.parametrize("problem", PROBLEMS)
def test_ten_steps_are_five_and_five_bit_for_bit(problem: str, tmp_path: Path) -> None:
    whole = train(problem, 10)
    first = train(problem, 5, folder=tmp_path)
    assert checkpoint.saved_steps(tmp_path) == [5]
    torch.manual_seed(99)  # a resumed run must not depend on what the process drew before
    recipe, net, batches = PROBLEMS[problem]()
    for parameter in net.parameters():
        nn.init.normal_(parameter)  # nor on the weights that it was given
    second = fit(recipe, net, batches, steps=10, optim=OPTIM, folder=tmp_path, resume=True, progress=False)
    assert_same(contents(second), contents(whole))
    assert first.losses + second.losses == whole.losses
    assert second.step == whole.step == 10


def resume_elsewhere(problem: str, run_dir: str, steps: int) -> None:
    """What the subprocess of the next test does."""
    train(problem, steps, folder=run_dir, resume=True)


def python(code: str, **options: Any) -> subprocess.Popen[str]:
    """A Python process that can import this module, with one thread as here."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CI": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", f"import torch; torch.set_num_threads({torch.get_num_threads()}); {code}"],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def test_resume_in_a_fresh_process(tmp_path: Path) -> None:
    run_dirs = {problem: tmp_path / problem for problem in PROBLEMS}
    for problem, run_dir in run_dirs.items():
        train(problem, 5, folder=run_dir)
    calls = "; ".join(f"resume_elsewhere({problem!r}, {str(path)!r}, 10)" for problem, path in run_dirs.items())
    child = python(f"from tests.training.test_loop import resume_elsewhere; {calls}")
    expected = {}
    for problem in PROBLEMS:  # meanwhile
        train(problem, 10, folder=tmp_path / f"{problem}-whole")
        expected[problem] = checkpoint.load(tmp_path / f"{problem}-whole")
    _, errors = child.communicate()
    assert child.returncode == 0, errors
    for problem, run_dir in run_dirs.items():
        resumed = checkpoint.load(run_dir, 10)
        assert_same(resumed.tensors, expected[problem].tensors)  # the random streams are among them
        assert resumed.meta == expected[problem].meta


def test_interrupted_run_resumes_with_its_schedule(tmp_path: Path) -> None:
    optim = replace(OPTIM, cooldown=0.5)

    def stop(state: TrainState, report: StepReport) -> None:
        if report.step == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("toy", 12, optim=optim, folder=tmp_path, save_every=2, hooks=[stop])
    assert checkpoint.saved_steps(tmp_path) == [6, 8]
    resumed = train("toy", 12, optim=optim, folder=tmp_path, save_every=2, resume=True)
    assert_same(contents(resumed), contents(train("toy", 12, optim=optim)))


def test_resume_from_a_named_step_trains_the_later_ones_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train("toy", 8, folder=tmp_path, save_every=4)
    assert checkpoint.saved_steps(tmp_path) == [4, 8]
    resumed = train("toy", 8, folder=tmp_path, save_every=4, resume=True, from_step=4)
    said = "starts from step 4 again, as asked: deletes the checkpoints up to step 8; to resume from the newest"
    assert said in capsys.readouterr().err
    assert_same(contents(resumed), contents(whole))
    assert resumed.losses == whole.losses[4:]
    assert checkpoint.saved_steps(tmp_path) == [4, 8]
    train("toy", 8, folder=tmp_path, save_every=4, resume=True, from_step=8)
    assert "deletes" not in capsys.readouterr().err


def test_resume_starts_where_there_is_no_checkpoint(tmp_path: Path) -> None:
    started = train("toy", 3, folder=tmp_path / "new", resume=True)
    assert_same(contents(started), contents(train("toy", 3)))
    assert checkpoint.saved_steps(tmp_path / "new") == [3]


def test_resume_of_a_finished_run_does_nothing(tmp_path: Path) -> None:
    done = train("toy", 3, folder=tmp_path)
    again = train("toy", 3, folder=tmp_path, resume=True)
    assert (again.step, again.losses) == (3, [])
    assert_same(contents(again), contents(done))


def test_default_settings_can_be_saved_and_resumed(tmp_path: Path) -> None:
    """The default bound on the gradient is infinite, which JSON does not have."""
    optim = Optim()
    assert optim.clip == float("inf")
    train("toy", 2, optim=optim, folder=tmp_path)
    resumed = train("toy", 4, optim=optim, folder=tmp_path, resume=True)
    assert_same(contents(resumed), contents(train("toy", 4, optim=optim)))


def test_checkpoints_without_resume_are_refused(tmp_path: Path) -> None:
    train("toy", 2, folder=tmp_path)
    with pytest.raises(ValueError, match=r"holds checkpoints up to step 2: resume, or take another folder"):
        train("toy", 4, folder=tmp_path)


@pytest.mark.parametrize("step", [1, 3])
def test_missing_step_is_named(step: int, tmp_path: Path) -> None:
    train("toy", 2, folder=tmp_path)
    with pytest.raises(CheckpointError, match=f"step_0000000{step}.*step_00000002"):
        train("toy", 4, folder=tmp_path, resume=True, from_step=step)


def test_truncated_checkpoint_is_named_and_left(tmp_path: Path) -> None:
    train("toy", 4, folder=tmp_path, save_every=2)
    state = tmp_path / "step_00000004.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"step_00000004.*truncated.*step=2"):
        train("toy", 6, folder=tmp_path, save_every=2, resume=True)
    # Used only because it was asked for.
    resumed = train("toy", 6, folder=tmp_path, save_every=2, resume=True, from_step=2)
    assert_same(contents(resumed), contents(train("toy", 6)))


def _wider() -> Problem:
    recipe, _, batches = toy()
    return recipe, DropoutMLP(width=32, depth=1), batches


def _other_batch_size() -> Problem:
    recipe, net, batches = toy()
    return recipe, net, Batches(batches.data, 32, seed=1)


def _other_data_seed() -> Problem:
    recipe, net, batches = toy()
    return recipe, net, Batches(batches.data, 16, seed=2)


def _other_recipe() -> Problem:
    recipe, net, batches = toy()
    return replace(recipe, fast=0.9), net, batches


@pytest.mark.parametrize(
    ("problem", "options", "named"),
    [
        (toy, {"optim": Optim(lr=1e-3)}, r"optim\.lr: saved 0\.003, now 0\.001; "),
        (toy, {"seed": 1}, "seed: saved 0, now 1"),
        (toy, {"micro_batches": 2}, "micro_batches: saved 1, now 2"),
        (_wider, {}, r"net\.config\.width: saved 16, now 32$"),
        (_other_batch_size, {}, r"data\.batch_size: saved 16, now 32$"),
        (_other_data_seed, {}, r"data\.seed: saved 1, now 2$"),
        (_other_recipe, {}, r"recipe\.fast: saved 0\.95, now 0\.9$"),
    ],
)
def test_other_settings_are_refused_and_named(
    problem: Callable[[], Problem], options: dict[str, Any], named: str, tmp_path: Path
) -> None:
    train("toy", 2, folder=tmp_path)
    before = checkpoint.load(tmp_path).tensors
    with pytest.raises(ValueError, match=f"was trained with other settings; .*{named}"):
        fit(*problem(), steps=4, **{"optim": OPTIM} | options, folder=tmp_path, resume=True, progress=False)
    assert_same(checkpoint.load(tmp_path).tensors, before)


def test_a_network_that_the_saved_weights_do_not_fit_is_not_proposed(tmp_path: Path) -> None:
    train("toy", 2, folder=tmp_path)
    with pytest.raises(ValueError, match="the weights that were saved do not fit this network") as refused:
        fit(*_wider(), steps=4, optim=OPTIM, folder=tmp_path, resume=True, progress=False)
    assert "--accept" not in str(refused.value)
    recipe, net, batches = toy()
    with pytest.raises(ValueError, match=r"or change them from here on by --accept recipe\.fast, "):
        fit(replace(recipe, fast=0.9), net, batches, steps=4, optim=OPTIM, folder=tmp_path, resume=True, progress=False)


def test_accepted_settings_hold_from_the_checkpoint_on_and_are_recorded(tmp_path: Path) -> None:
    other = replace(OPTIM, lr=OPTIM.lr / 2, betas=(0.9, 0.99))
    train("toy", 2, folder=tmp_path)
    options: dict[str, Any] = {"optim": other, "folder": tmp_path, "resume": True}
    refused = (
        r"change them from here on by --accept optim\.lr optim\.betas\[1\], in Python .*\. optim\.betas\[1\]: saved"
    )
    with pytest.raises(ValueError, match=refused):
        train("toy", 4, **options, accept=("optim.lr",))
    state = train("toy", 4, **options, accept=("optim.lr", "optim.betas[1]"))
    changes = [
        {"step": 2, "setting": "optim.lr", "saved": "0.003", "now": "0.0015"},
        {"step": 2, "setting": "optim.betas[1]", "saved": "0.999", "now": "0.99"},
    ]
    assert state.changes == checkpoint.load(tmp_path).meta["changes"] == changes
    assert state.optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    # The changed run is resumed without a word, and changes once more.
    again = train("toy", 5, **options)
    assert again.changes == changes
    back = train("toy", 6, folder=tmp_path, resume=True, accept=("optim.lr", "optim.betas[1]", "seed"))
    assert [change["step"] for change in back.changes] == [2, 2, 5, 5]
    assert back.optimizer.param_groups[0]["betas"] == OPTIM.betas


def test_a_run_with_an_accepted_rate_is_the_one_that_had_it(tmp_path: Path) -> None:
    """Step 0 of a warm-up of one is the same at half the rate of twice the warm-up: then the two are one run."""
    slow, fast = Optim(lr=1e-3), Optim(lr=2e-3, warmup=1)
    train("toy", 1, optim=fast, folder=tmp_path)
    state = train("toy", 4, optim=slow, folder=tmp_path, resume=True, accept=("optim.lr", "optim.warmup"))
    assert_same(contents(state), contents(train("toy", 4, optim=slow)))


def test_accepted_are_settings_of_the_run(tmp_path: Path) -> None:
    train("toy", 2, folder=tmp_path)
    with pytest.raises(ValueError, match=r"accept must name settings of this run, such as optim\.lr, got 'lr'"):
        train("toy", 4, folder=tmp_path, resume=True, accept=("lr",))
    with pytest.raises(ValueError, match="accept goes with resume=True"):
        train("toy", 4, folder=tmp_path, accept=("optim.lr",))


# ---------------------------------------------------------------- kill -9


LONG, EVERY = 160, 8


def train_long(run_dir: str) -> None:
    """What the killed process does."""
    train("toy", LONG, folder=run_dir, save_every=EVERY, resume=True)


def test_kill_9_at_random_moments_loses_only_the_steps_since_the_last_checkpoint(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    began: list[int] = [0]
    for _ in range(2):
        child = python(f"from tests.training.test_loop import train_long; train_long({str(run_dir)!r})")
        seen = []
        for k in (1, 2):
            while child.poll() is None and checkpoint.saved_steps(run_dir)[-1:] < [began[-1] + k * EVERY]:
                time.sleep(0.002)
            seen.append(time.perf_counter())
        # Anywhere in a step or in the writing of a checkpoint: the next interval is about as long as the last.
        time.sleep(random.uniform(0, seen[1] - seen[0]))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert child.returncode == -signal.SIGKILL, "the process ended before it was killed: make LONG longer"
        began.append(checkpoint.saved_steps(run_dir)[-1])
    assert 0 < began[1] < began[2] < LONG
    resumed = train("toy", LONG, folder=run_dir, save_every=EVERY, resume=True)
    assert len(resumed.losses) == LONG - began[2]
    assert_same(contents(resumed), contents(train("toy", LONG)))


# ---------------------------------------------------------------- divergence


@dataclass(frozen=True)
class Poisoned:
    """L2, to which ``poison(prediction)`` (B,) is added in the distance's call number ``step`` only."""

    step: int
    poison: Callable[[Tensor], Tensor]
    calls: list[None] = field(default_factory=list)

    def __call__(self, prediction: Tensor, target: Tensor, query: Query) -> Tensor:
        self.calls.append(None)
        return l2(prediction, target) + (self.poison(prediction) if len(self.calls) == self.step else 0)


def nan_loss(prediction: Tensor) -> Tensor:
    return prediction.flatten(1).sum(1) * float("nan")


def nan_gradient_only(prediction: Tensor) -> Tensor:
    """Zero, with a gradient that is not finite: the root's at zero."""
    return (0 * prediction.flatten(1).sum(1)).abs().sqrt()


@pytest.mark.parametrize("poison", [nan_loss, nan_gradient_only])
@pytest.mark.parametrize("step", [1, 4, 7, FLUSH_EVERY, FLUSH_EVERY + 1])
def test_divergence_names_its_step_and_keeps_the_last_good_checkpoint(
    step: int, poison: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    recipe, net, batches = toy()
    recipe = replace(recipe, distance=Poisoned(step, poison))
    loss = "nan" if poison is nan_loss else r"\d+\.\d+"
    good = (step - 1) // 3 * 3  # the last multiple of save_every before it
    cure = rf".*cure\. From there: --folder {tmp_path} --resume --accept optim\.lr, or optim\.clip\.$"
    kept = f"the last good checkpoint is of step {good} in{cure}" if good else r"no checkpoint exists\..*cure\.$"
    with pytest.raises(DivergenceError, match=rf"^step {step}: loss {loss}, gradient norm (nan|inf); {kept}"):
        fit(recipe, net, batches, steps=40, folder=tmp_path, save_every=3, progress=False)
    assert checkpoint.saved_steps(tmp_path)[-1:] == ([good] if good else [])
    if good:
        saved = checkpoint.load(tmp_path)
        assert all(tensor.isfinite().all() for tensor in saved.tensors.values() if tensor.is_floating_point())
        clean = replace(recipe, distance=l2)
        expected = fit(clean, toy()[1], batches, steps=good, progress=False)
        net_saved = {k[4:]: v for k, v in saved.tensors.items() if k.startswith("net.")}
        assert_same(net_saved, expected.net.state_dict())


@pytest.mark.parametrize("steps", [5, 30])
def test_divergence_is_found_without_checkpoints(steps: int) -> None:
    recipe, net, batches = toy()
    with pytest.raises(DivergenceError, match=r"^step 5: loss nan.*no checkpoint exists"):
        fit(replace(recipe, distance=Poisoned(5, nan_loss)), net, batches, steps=steps, progress=False)


def _data_with_a_bad_row(value: float) -> Batches:
    """It turned bad after it was admitted, where NaN is refused."""
    batches = Batches(eight_gaussians(256, 0), 16, seed=1)
    batches.data.x[100] = value
    return batches


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_optimal_transport_refuses_data_that_is_not_finite(value: float) -> None:
    recipe, net, _ = toy()
    with pytest.raises(ValueError, match="x1 has 2 values that are not finite"):
        fit(recipe, net, _data_with_a_bad_row(value), steps=20, progress=False)


def test_without_transport_the_first_step_with_bad_data_is_named() -> None:
    batches = _data_with_a_bad_row(float("nan"))
    bad = next(k for k, (x, _) in enumerate(batches.stream(), 1) if x.isnan().any())
    with pytest.raises(DivergenceError, match=rf"^step {bad}: "):
        fit(RECIPES["flow"], toy()[1], batches, steps=20, progress=False)


# ---------------------------------------------------------------- several processes


def double_toy(seed: int = 0) -> Problem:
    """The toy in float64, with optimiser settings under which the first moment *is* the last gradient."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    data = eight_gaussians(256, 0)
    data = Labelled(data.x.double(), data.y, 8, data.class_names)
    return _pooled(for_points(RECIPES["ism"])), ToyMLP(width=16, depth=2), Batches(data, 16, seed=1)


GRADIENT = Optim(lr=1e-3, betas=(0.0, 0.999))


def multi(problem: Callable[[], Problem], steps: int, **options: Any) -> TrainState:
    options = {"optim": OPTIM, "micro_batches": 2, "progress": False, "accelerator": Accelerator(cpu=True)} | options
    return fit(*problem(), steps=steps, **options)


def in_default_dtype(function: Callable[[], TrainState]) -> dict[str, Tensor]:
    try:
        return contents(function())
    finally:
        torch.set_default_dtype(torch.float32)


#: What both one process and two do; the folders hold checkpoints of step 3.
RUNS: dict[str, Callable[[str], TrainState]] = {
    "gradient": lambda _: multi(double_toy, 1, optim=GRADIENT),
    "float64, 2 shards": lambda _: multi(double_toy, 3),
    "float64, 4 shards": lambda _: multi(double_toy, 3, micro_batches=4),
    "float32, 2 shards": lambda _: multi(images, 3),
    "float32, 4 shards": lambda _: multi(images, 3, micro_batches=4),
    "save": lambda mine: multi(images, 3, folder=mine),
}


QUERY = Query(
    torch.randn(2, 1, 8, 8, generator=stream(0, "query")), *torch.tensor([[0.2, 0.5], [0.5, 0.0], [0.0, 1.0]]),
    torch.tensor([0, 3]),
)  # fmt: skip


def full_disk(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def _worker(folder: str, rank: int, tell: Tell) -> None:
    os.environ |= {"ACCELERATE_USE_CPU": "yes", "CI": "1"}
    results: dict[str, Any] = {}
    for name, run in RUNS.items():
        results[name] = in_default_dtype(partial(run, f"{folder}/two"))
    results["resumed"] = contents(multi(images, 6, folder=f"{folder}/one", resume=True))

    # A process that starts from other weights, or from none that are finite, must not matter.
    results["other weights"] = contents(multi(partial(images, seed=rank), 3))

    def sharded(*args: Any, precision: Any = "no", **options: Any) -> TrainState:
        AcceleratorState._reset_state(False)
        GradientState._reset_state()
        return multi(*args, accelerator=distributed.accelerator("fsdp", precision, cpu=True), **options)

    results["fsdp, 2 shards"] = contents(sharded(images, 3, folder=f"{folder}/fsdp"))
    results["fsdp, 4 shards"] = contents(sharded(images, 3, micro_batches=4))
    results["fsdp, other weights"] = contents(sharded(partial(images, seed=rank), 3))
    results["fsdp, resumed"] = contents(sharded(images, 6, folder=f"{folder}/one-again", resume=True))
    results["fsdp, recomputed"] = contents(sharded(images, 3, recompute=True))
    results["fsdp, derivative"] = sharded(derivative, 3, recompute=True).losses
    answers: list[Tensor] = []

    def ask(state: TrainState, report: StepReport) -> None:
        answers.append(state.ema.slow(*QUERY).detach())

    ask.everywhere = True  # type: ignore[attr-defined]
    state = sharded(images, 3, hooks=[ask])
    results["fsdp, losses"] = state.losses
    plain = distributed.unsharded(state.ema.slow)
    results["fsdp, answer"] = ([*answers], plain(*QUERY).detach(), type(plain).__name__, dict(plain.named_parameters()))
    held = [*state.net.parameters(), *state.ema.fast.parameters(), *state.ema.slow.parameters()]
    results["fsdp, held"] = [(p.dtype, p.to_local().numel(), p.numel()) for p in held]  # type: ignore[attr-defined]
    half = sharded(images, 3, precision="bf16", hooks=[ask])
    results["fsdp, bf16"] = (half.losses, {p.dtype for p in (*half.net.parameters(), *half.ema.parameters())})
    results["fsdp, bf16, answer"] = (answers[-1], distributed.unsharded(half.ema.slow)(*QUERY).detach())
    AcceleratorState._reset_state(False)
    GradientState._reset_state()

    # A signal that one process gets ends both, after the same step.
    def signalled(state: TrainState, report: StepReport) -> None:
        if rank == 1 and report.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    signalled.everywhere = True  # type: ignore[attr-defined]
    try:
        multi(images, 6, folder=f"{folder}/ended", hooks=[signalled])
    except Preempted as end:
        results["ended"] = (end.step, end.code, checkpoint.saved_steps(f"{folder}/ended"))
    results["ended, then resumed"] = contents(multi(images, 6, folder=f"{folder}/ended", resume=True))

    # What fails on the main process alone is told to both.
    write = store.write_tensors
    if rank == 0:
        store.write_tensors = full_disk
    try:
        multi(images, 6, save_every=2, folder=f"{folder}/full")
    except CheckpointError as error:
        results["full disk"] = str(error)
    store.write_tensors = write

    # The wrapped network is called, once per micro-batch, and gradients meet in the last one only.
    synced = []
    wrapper: Any = DistributedDataParallel
    forward = wrapper.forward

    def counted(self: Any, *args: Any) -> Any:
        synced.append(self.require_backward_grad_sync)
        return forward(self, *args)

    wrapper.forward = counted
    hooked: list[int] = []
    state = multi(images, 2, micro_batches=6, hooks=[lambda _, report: hooked.append(report.step)])
    results |= {"synced": synced, "hooked": hooked, "losses": state.losses}
    wrapper.forward = forward

    for name, options in {"micro_batches": {"micro_batches": 3}, "steps": {"steps": 0}}.items():
        try:
            multi(images, **{"steps": 2} | options)
        except ValueError as error:
            results[f"error, {name}"] = str(error)
    recipe, net, batches = images()
    try:
        fit(replace(recipe, distance=Poisoned(5 if rank else 0, nan_loss)), net, batches,
            steps=8, save_every=2, folder=f"{folder}/nan", progress=False)  # fmt: skip
    except DivergenceError as error:
        results["diverged"] = str(error)
    torch.save(results, f"{folder}/rank{rank}.pt")
    Accelerator().end_training()


@dataclass
class Two:
    """What two gloo processes did, and what one did."""

    folder: Path
    ranks: list[dict[str, Any]]
    one: dict[str, Any]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    folder = tmp_path_factory.mktemp("two")
    AcceleratorState._reset_state(True)
    one = {name: in_default_dtype(partial(run, f"{folder}/one")) for name, run in RUNS.items()}
    shutil.copytree(folder / "one", folder / "one-again")  # FSDP resumes from there
    run_group(partial(_worker, str(folder)), 2)
    return Two(folder, [torch.load(folder / f"rank{rank}.pt") for rank in range(2)], one)


def test_two_processes_have_the_first_gradient_of_one(two: Two) -> None:
    recipe, net, batches = double_toy()
    try:
        net.train()
        ema = TwinEMA(net, recipe.fast, recipe.slow)
        for micro_batch in range(2):
            pair = next(recipe.coupling.pairs(batches.stream(0, micro_batch, 2), 0, 0, micro_batch))
            loss, _, _ = training_step(recipe, net, ema, pair, 8, stream(0, "rows", micro_batch, 0))
            (loss / 2).backward()
    finally:
        torch.set_default_dtype(torch.float32)
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        for run in (two.one, *two.ranks):
            gradient = run["gradient"][f"optimizer.state.{name}.exp_avg"]
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", [name for name in RUNS if name != "gradient"])
def test_two_processes_train_like_one(name: str, two: Two) -> None:
    assert_same(two.ranks[0][name], two.ranks[1][name])
    if "4 shards" not in name:
        # Each process halves its gradient, which is exact, and a + b = b + a: the same bits.
        assert_same(two.ranks[0][name], two.one[name])
        return
    # Four gradients are summed as (0 + 2) + (1 + 3) by two processes, as ((0 + 1) + 2) + 3 by one.
    for key, expected in two.one[name].items():
        torch.testing.assert_close(two.ranks[0][name][key], expected, rtol=0, atol=SUM_ORDER[expected.dtype])


# Measured after 3 steps: 1e-16 and 3e-8. A gradient that is missed or counted twice moves a weight by up to 1e-3.
SUM_ORDER = {torch.float64: 1e-13, torch.float32: 1e-6, torch.int64: 0, torch.bool: 0}


def test_resume_on_another_number_of_processes(two: Two) -> None:
    whole = contents(multi(images, 6))
    for rank in two.ranks:
        assert_same(rank["resumed"], whole)  # one process, then two
    assert checkpoint.saved_steps(two.folder / "two") == [3]
    back = multi(images, 6, folder=two.folder / "two", resume=True)
    assert_same(contents(back), whole)  # two, then one


def test_processes_start_from_the_weights_of_the_first(two: Two) -> None:
    for rank in two.ranks:
        assert_same(rank["other weights"], two.one["float32, 2 shards"])


def test_the_wrapped_network_is_called_once_per_micro_batch(two: Two) -> None:
    for rank in two.ranks:
        assert rank["synced"] == [False, False, True] * 2
    assert [rank["hooked"] for rank in two.ranks] == [[1, 2], []]
    assert len(two.ranks[0]["losses"]) == 2


def test_every_process_refuses_and_diverges_alike(two: Two) -> None:
    for rank in two.ranks:
        assert rank["error, micro_batches"] == "micro_batches must be a multiple of the 2 processes, got 3"
        assert rank["error, steps"] == "steps must be an integer of at least 1, got 0"
        assert rank["diverged"].startswith("step 5: ")
        assert "gradient norm nan; the last good checkpoint is of step 4" in rank["diverged"]
    assert checkpoint.saved_steps(two.folder / "nan") == [2, 4]


def test_sharded_processes_train_like_one(two: Two) -> None:
    for name in ("2 shards", "4 shards"):
        assert_same(two.ranks[0][f"fsdp, {name}"], two.ranks[1][f"fsdp, {name}"])
        expected = two.one[f"float32, {name}"]
        assert two.ranks[0][f"fsdp, {name}"].keys() == expected.keys()
        for key, value in expected.items():  # the norm is summed up by micro_batches: measured 6e-8
            torch.testing.assert_close(
                two.ranks[0][f"fsdp, {name}"][key], value, rtol=0, atol=SUM_ORDER[value.dtype], msg=key
            )
    assert_same(two.ranks[0]["fsdp, other weights"], two.ranks[0]["fsdp, 2 shards"])
    assert_same(two.ranks[0]["fsdp, recomputed"], two.ranks[0]["fsdp, 2 shards"])


def test_sharded_and_replicated_losses_are_those_of_one(two: Two) -> None:
    losses = multi(images, 3).losses
    for rank in two.ranks:
        assert rank["fsdp, losses"] == pytest.approx(losses, rel=1e-6)
        assert rank["losses"] == pytest.approx(multi(images, 2, micro_batches=6).losses, rel=1e-6)
        half, kept = rank["fsdp, bf16"]
        assert half == pytest.approx(losses, rel=0.02)  # bf16 rounds at 0.4 %
        assert half != losses
        assert kept == {torch.float32}


def test_a_derivative_passes_through_shards_and_recomputed_blocks(two: Two) -> None:
    losses = multi(derivative, 3).losses
    assert losses != multi(images, 3).losses
    for rank in two.ranks:
        assert rank["fsdp, derivative"] == pytest.approx(losses, rel=1e-6)


def test_each_process_holds_its_share_in_float32(two: Two) -> None:
    one, other = (rank["fsdp, held"] for rank in two.ranks)
    assert len(one) == len(other) == 3 * len(list(images()[1].parameters()))
    for (dtype, mine, whole), (_, theirs, _) in zip(one, other, strict=True):
        assert dtype == torch.float32
        assert mine + theirs == whole


def test_a_sharded_average_answers_as_its_whole_copy(two: Two) -> None:
    saved = two.ranks[0]["fsdp, 2 shards"]
    for rank in two.ranks:
        answers, plain, kind, weights = rank["fsdp, answer"]
        assert len(answers) == 3  # the hook was called on each process
        assert kind == "DiT"
        torch.testing.assert_close(answers[-1], plain, rtol=1e-6, atol=1e-7)
        assert not torch.equal(answers[-1], answers[-2])  # and sees what the last update left
        assert_same(weights, {name: saved[f"extra.ema.averages.1.module.{name}"] for name in weights})
        torch.testing.assert_close(*rank["fsdp, bf16, answer"], rtol=1e-6, atol=1e-7)  # in float32, as sampling is


def test_resume_between_one_process_and_shards(two: Two) -> None:
    whole = contents(multi(images, 6))
    back = contents(multi(images, 6, folder=two.folder / "fsdp", resume=True))
    for found in (back, *(rank["fsdp, resumed"] for rank in two.ranks)):
        assert found.keys() == whole.keys()
        for key, value in whole.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=SUM_ORDER[value.dtype], msg=key)


def test_a_signal_to_one_process_ends_all_after_one_step_more(two: Two) -> None:
    whole = contents(multi(images, 6))
    for rank in two.ranks:
        assert rank["ended"] == (4, REQUEUE, [4])  # sent after step 2, told in step 3, answered after step 4
        assert_same(rank["ended, then resumed"], whole)


def test_a_disk_that_is_full_on_the_main_process_is_told_to_all(two: Two) -> None:
    for rank in two.ranks:
        assert "step_00000002.safetensors cannot be written" in rank["full disk"]
        assert "No space left on device" in rank["full disk"]
    assert checkpoint.saved_steps(two.folder / "full") == []


# ---------------------------------------------------------------- signals, and processes that die or hang


def test_a_signal_saves_and_ends_with_the_status_that_a_scheduler_queues_again(tmp_path: Path) -> None:
    """By the module's own command line, which is that of `ismkit train`."""
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "ismkit", "train", "gaussians", "--batch-size", "64", "--save-every", "100"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CI": "1", "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([*command, "--folder", str(run_dir)], cwd=ROOT, env=environment, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    while child.poll() is None and not checkpoint.saved_steps(run_dir):
        time.sleep(0.01)
    child.send_signal(signal.SIGUSR1)
    _, errors = child.communicate()
    assert child.returncode == REQUEUE == 75, errors
    last = checkpoint.saved_steps(run_dir)[-1]
    assert last > 100
    assert errors == f"ismkit: ended by a signal at step {last}; its checkpoint is in {run_dir}\n"
    assert not (run_dir / "model.safetensors").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_loses_nothing_and_is_nobodys_without_a_folder(number: signal.Signals, tmp_path: Path) -> None:
    def send(state: TrainState, report: StepReport) -> None:
        if report.step == 3:
            os.kill(os.getpid(), number)

    came: list[int] = []
    before = signal.signal(number, lambda number, _: came.append(number))
    try:
        with pytest.raises(Preempted, match="ended by a signal at step 4") as info:
            train("toy", 6, folder=tmp_path, hooks=[send])
        assert (info.value.step, info.value.code, came) == (4, REQUEUE, [])
        train("toy", 6, hooks=[send])  # there is nowhere to save: the handler that was there gets it
        assert came == [number]
    finally:
        signal.signal(number, before)
    assert checkpoint.saved_steps(tmp_path) == [4]
    resumed = train("toy", 6, folder=tmp_path, resume=True)
    assert_same(contents(resumed), contents(train("toy", 6)))


def test_a_signal_in_the_last_step_is_the_end_that_it_asks_for(tmp_path: Path) -> None:
    def send(state: TrainState, report: StepReport) -> None:
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    assert train("toy", 3, folder=tmp_path, hooks=[send]).step == 3


def lose_a_process(run_dir: str, rank: int, port: int, how: str) -> None:
    """What each process of the next test does: the second dies, or hangs, after step 5."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "yes"}  # fmt: skip

    def lost(state: TrainState, report: StepReport) -> None:
        if rank == 1 and report.step == 5:
            os.kill(os.getpid(), signal.SIGKILL if how == "dies" else signal.SIGSTOP)

    lost.everywhere = True  # type: ignore[attr-defined]
    timeout = 600 if how == "dies" else 5
    accelerator = distributed.accelerator(cpu=True, timeout=timeout)
    multi(images, 100, folder=run_dir, save_every=2, hooks=[lost], accelerator=accelerator)


def test_no_process_waits_forever_for_one_that_died_or_hangs(tmp_path: Path) -> None:
    pairs: dict[str, list[subprocess.Popen[str]]] = {}
    for how in ("dies", "hangs"):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        place = str(tmp_path / how)
        call = f"from tests.training import test_loop as t; t.lose_a_process({place!r}, {{}}, {port}, {how!r})"
        pairs[how] = [python(call.format(rank)) for rank in range(2)]
    try:
        for how, (left, _) in pairs.items():
            _, errors = left.communicate(timeout=120)
            assert left.returncode == 1, errors
            assert ("Timed out" if how == "hangs" else "Connection") in errors, errors
            assert checkpoint.saved_steps(tmp_path / how) == [2, 4]
    finally:
        for pair in pairs.values():
            for process in pair:
                process.kill()
                process.communicate()
    resumed = multi(images, 6, folder=tmp_path / "dies", save_every=2, resume=True)  # one process resumes
    assert_same(contents(resumed), contents(multi(images, 6)))


# ---------------------------------------------------------------- compiled, recomputed


def test_recomputed_blocks_give_the_same_bits() -> None:
    expected = contents(train("images", 4))
    calls: list[bool] = []

    def count(state: TrainState, report: StepReport) -> None:
        calls.append(all(block.recompute for block in state.net.blocks))  # type: ignore[union-attr, attr-defined]

    recomputed = train("images", 4, recompute=True, hooks=[count])
    assert_same(contents(recomputed), expected)
    assert calls == [True] * 4


def test_a_recomputed_block_keeps_its_input_alone() -> None:
    _, net, _ = images()
    saved: dict[bool, int] = {}
    for recompute in (False, True):
        net.blocks[0].recompute = recompute
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.numel()) or x, lambda x: x):
            net.blocks[0](torch.randn(4, 16, 16, requires_grad=True), torch.randn(4, 16))
        saved[recompute] = sum(kept)
    assert saved[True] <= 4 * 16 * 16 + 4 * 16 < saved[False] / 10


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """`torch.compile` without its code generator, which takes a minute: the graphs are traced and run as they are.

    One that breaks is an error, and so is one that is traced more often than Dynamo's limit allows.
    """
    graphs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(len(graph.graph.nodes))
        return aot_eager(graph, inputs)

    aot_eager = torch._dynamo.lookup_backend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend, fullgraph=True))
    torch._dynamo.reset()
    return graphs


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo looks at it
@pytest.mark.parametrize("problem", PROBLEMS)
def test_compiled_networks_train_as_eager_ones_under_their_own_names(problem: str, traced: list[int]) -> None:
    expected = train(problem, 3)
    assert not traced
    state = train(problem, 3, compile=True)
    assert traced
    assert state.losses == pytest.approx(expected.losses, rel=1e-5)
    found = contents(state)
    assert found.keys() == contents(expected).keys()
    for key, value in contents(expected).items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("name", ["flow", "shortcut_every_level", "ism_plus"])
def test_blocks_are_traced_once_for_each_number_of_rows_however_many_there_are(name: str, traced: list[int]) -> None:
    _, net, batches = images()
    net.blocks.extend(copy.deepcopy(net.blocks[0]) for _ in range(10))
    recipe = replace(for_side(RECIPES[name], 8), coupling=Coupling())
    fit(recipe, net, batches, steps=3, compile=True, progress=False)
    # The batch with gradients; without, the gap beside the first half step, and the second half step.
    assert len(traced) == {"flow": 1, "shortcut_every_level": 2, "ism_plus": 3}[name]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_derivative_passes_through_compiled_blocks(traced: list[int]) -> None:
    losses = fit(*derivative(), steps=3, optim=OPTIM, progress=False).losses
    assert fit(*derivative(), steps=3, optim=OPTIM, compile=True, progress=False).losses == pytest.approx(
        losses, rel=1e-5
    )
    assert traced


# ---------------------------------------------------------------- mixed precision


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_bf16_takes_the_distance_and_its_gradient_in_float32(wavelet: str) -> None:
    recipe, net, batches = images()
    wavelets = WaveletDistance(geometric_weights(3, 0.7), norm="root", wavelet=wavelet)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def distance(prediction: Tensor, target: Tensor, query: Query) -> Tensor:
        prediction.retain_grad()
        seen.append((prediction, target, wavelets(prediction, target)))
        return seen[-1][-1]

    computed: set[torch.dtype] = set()
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, _, out: computed.add(out.dtype) if isinstance(module, nn.Linear) else None
    )
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    try:
        state = fit(replace(recipe, distance=distance), net, batches, steps=6, optim=OPTIM,
                    progress=False, accelerator=accelerator)  # fmt: skip
    finally:
        handle.remove()
    assert computed == {torch.bfloat16}
    assert len(state.losses) == 6
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in state.net.parameters())
    for prediction, target, got in seen:
        assert got.dtype == torch.float32
        reference = prediction.detach().double().requires_grad_()
        expected = wavelets(reference, target.double())
        recipe.loss(expected).backward()
        assert prediction.grad is not None
        assert reference.grad is not None
        # Float32 rounds at 6e-8, bf16 at 4e-3.
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-7)
        error = (prediction.grad.double() - reference.grad).norm() / reference.grad.norm()
        assert error < 1e-5


def test_bf16_resumes_bit_for_bit(tmp_path: Path) -> None:
    def run(steps: int, **options: Any) -> TrainState:
        return train("images", steps, accelerator=Accelerator(mixed_precision="bf16", cpu=True), **options)

    whole = run(6)
    run(3, folder=tmp_path)
    assert_same(contents(run(6, folder=tmp_path, resume=True)), contents(whole))


# ---------------------------------------------------------------- training works


def exact_velocity(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    """``E[x1 - x0 | x_t = x]`` for the eight Gaussians, given the class or (``y`` None) not."""
    t = t[:, None]
    variance = (1 - t) ** 2 + t**2 * EIGHT_GAUSSIANS_STD**2  # of x_t given the class
    slope = (t * EIGHT_GAUSSIANS_STD**2 - (1 - t)) / variance
    means = EIGHT_GAUSSIANS_MEANS.to(x)
    velocity = means + slope[..., None] * (x[:, None] - t[..., None] * means)  # (B, 8, 2)
    if y is not None:
        return velocity[torch.arange(len(y)), y]
    logits = -(x[:, None] - t[..., None] * means).square().sum(-1) / (2 * variance)
    return (logits.softmax(-1)[..., None] * velocity).sum(1)


def velocity_error(net: Network, null: int, conditional: bool) -> float:
    """Mean squared error of the field at ``d = 0, w = 0`` along the path, as a share of the mean square."""
    data, rng = eight_gaussians(4000, 7), stream(7, "test")
    t = torch.rand(4000, generator=rng)
    x, _ = interpolate(torch.randn(4000, 2, generator=rng), data.x, t)
    zero = torch.zeros_like(t)
    exact = exact_velocity(x, t, data.y if conditional else None)
    with torch.no_grad():
        answer = net(x, t, zero, zero, data.y if conditional else torch.full_like(data.y, null))
    return float((answer - exact).square().mean() / exact.square().mean())


def test_the_exact_velocity_is_the_regression_on_the_path() -> None:
    """Monte Carlo: no function of (x_t, y) leaves a smaller residual, and the residual is orthogonal to it."""
    data, rng = eight_gaussians(200_000, 3), stream(3, "test")
    t = torch.rand(200_000, generator=rng)
    x, velocity = interpolate(torch.randn(200_000, 2, generator=rng), data.x, t)
    for y in (data.y, None):
        exact = exact_velocity(x, t, y)
        for probe in (exact, x, torch.ones_like(x), x * t[:, None]):
            product = ((velocity - exact) * probe).sum(1)
            assert abs(product.mean()) < 5 * product.std() / len(product) ** 0.5


#: Error with label and without: mean plus five standard deviations over ten seeds.
ERRORS = {
    "flow": (0.0059 + 5 * 0.0006, 0.201 + 5 * 0.022),
    "ism": (0.0301 + 5 * 0.0052, 0.298 + 5 * 0.065),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ERRORS)
def test_the_learnt_velocity_is_that_of_the_mixture(name: str) -> None:
    conditional, unconditional, losses = learn(name, seed=0)
    assert conditional < ERRORS[name][0]
    assert unconditional < ERRORS[name][1]
    assert sum(losses[-20:]) < sum(losses[:20]) / 2


def learn(name: str, seed: int) -> tuple[float, float, list[float]]:
    """Errors of the field with and without label after a short training, and the losses."""
    torch.manual_seed(seed)
    recipe = replace(for_points(RECIPES[name]), coupling=Coupling())
    optim = Optim(lr=3e-3, weight_decay=0.0, warmup=20, cooldown=0.5, clip=1.0)
    batches = Batches(eight_gaussians(20_000, 0), 256, seed=seed)
    state = fit(recipe, ToyMLP(width=64, depth=2), batches, steps=250, optim=optim, seed=seed, progress=False)
    net = state.ema.slow
    return velocity_error(net, 8, conditional=True), velocity_error(net, 8, conditional=False), state.losses


# ---------------------------------------------------------------- progress and bad settings


@pytest.mark.parametrize(
    ("ci", "progress", "shown"), [("1", None, False), ("", None, True), ("1", True, True), ("", False, False)]
)
def test_progress_bar_is_off_under_ci_unless_asked_for(
    ci: str, progress: bool | None, shown: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", ci)
    fit(*toy(), steps=2, progress=progress)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert ("ism" in captured.err and "step" in captured.err) == shown
    assert bool(captured.err) == shown


class Untouched(Batches):
    """Data that must not be read."""

    def stream(self, *args: Any, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
        pytest.fail("a batch was read before the settings were checked")


POINTS = for_points(RECIPES["ism"])


class NoClasses(nn.Module):
    def forward(self, *args: Tensor) -> Tensor:
        raise AssertionError("the network was called before the settings were checked")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"steps": -3}, "steps must be an integer of at least 1, got -3"),
        ({"steps": 10.0}, r"steps must be an integer of at least 1, got 10\.0"),
        ({"steps": True}, "steps must be an integer of at least 1, got True"),
        ({"micro_batches": 0}, "micro_batches must be an integer of at least 1, got 0"),
        ({"micro_batches": -2}, "micro_batches must be an integer of at least 1, got -2"),
        ({"save_every": 0, "folder": "x"}, "save_every must be an integer of at least 1, got 0"),
        ({"model_every": -1, "folder": "x"}, "model_every must be an integer of at least 0, got -1"),
        ({"save_every": 5}, "resume, save_every and model_every need a folder"),
        ({"model_every": 5}, "resume, save_every and model_every need a folder"),
        ({"resume": True}, "resume, save_every and model_every need a folder"),
        ({"resume": True, "from_step": 100}, "resume, save_every and model_every need a folder"),
        ({"resume": True, "from_step": -1, "folder": "x"}, "from_step must be an integer of at least 1, got -1"),
        ({"from_step": 4, "folder": "x"}, "from_step goes with resume=True"),
        ({"resume": "latest", "folder": "x"}, "resume must be True or False, got 'latest'; from_step names"),
        ({"resume": None, "folder": "x"}, "resume must be True or False, got None"),
        ({"seed": "a"}, "seed must be an integer, got 'a'"),
        ({"net": NoClasses()}, r"net must have the attribute num_classes \(int\), NoClasses has none"),
        ({"net": ToyMLP(width=8, num_classes=5)}, "net knows 5 classes, but the data has 8"),
        ({"net": ToyMLP(width=8).half()}, r"net must have its weights in torch\.float32, got torch\.float16: .*'bf16'"),
        ({"net": ToyMLP(width=8).double()}, r"got torch\.float64: net\.to\(torch\.float32\)"),
        ({"net": ToyMLP(width=8).requires_grad_(False)}, "ToyMLP has none: all are frozen, net.requires_grad_"),
        ({"batch_size": 3}, "a batch of 3 gives no guidance row at fraction 0.25: use a batch of at least 4"),
        (
            {"recipe": replace(POINTS, fast=0.99, slow=0.9)},
            "the fast decay must not exceed the slow one, got fast=0.99, slow=0.9",
        ),
        ({"accumulate": 2}, "gradient_accumulation_steps=1, got 2: accumulate by Engine"),
        ({"recompute": True}, "recompute needs a network with blocks, such as DiT"),
        ({"net": torch.compile(ToyMLP(width=8))}, "net must be the plain network, got a OptimizedModule"),
        (
            {"net": ToyMLP(width=8, grid=StepGrid(512))},
            r"recipe\.rows\.grid must be that of net, n = 512, got n = 128: build the network with grid=",
        ),
        (
            {"recipe": RECIPES["ism"]},
            r"needs images \(B, C, H, W\), got shape \(16, 2\); use l2, .*for_points\(recipe\)",
        ),
        (
            {"recipe": replace(POINTS, distance=Normalised(WaveletDistance((1.0, 1.0))))},
            r"needs images .*for_points\(recipe\)",
        ),
        (
            {"recipe": RECIPES["ism"], "data": Labelled.of(torch.zeros(32, 1, 8, 8))},
            r"levels=5 needs sides above 16, got shape \(16, 1, 8, 8\); use fewer, .*for_side\(recipe, 8\)",
        ),
    ],
)
def test_settings_are_refused_before_any_work(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = dict(options)
    recipe, net = options.pop("recipe", POINTS), options.pop("net", ToyMLP(width=8))
    batches = Untouched(options.pop("data", eight_gaussians(64, 0)), options.pop("batch_size", 16), seed=0)
    if "accumulate" in options:
        options["accelerator"] = Accelerator(gradient_accumulation_steps=options.pop("accumulate"))
    with pytest.raises(ValueError, match=message):
        fit(recipe, net, batches, progress=False, **{"steps": 4} | options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("scale", "said"), [(120.0, "of 1.2e+02, .* x / 127.5 - 1"), (0.01, "of 0.01, "), (3.0, "")])
def test_data_of_another_size_than_the_noise_are_told(scale: float, said: str) -> None:
    data = Labelled.of(scale * torch.randn(64, 2).sign())
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit(replace(POINTS, coupling=Coupling()), ToyMLP(width=8), Batches(data, 16, 0), steps=1, progress=False)
    told = [warning for warning in found if "root mean square" in str(warning.message)]
    assert len(told) == bool(said)
    for warning in told:
        assert re.search(said.replace("+", r"\+"), str(warning.message))
        assert warning.filename == fit.__code__.co_filename  # where it is called: the wrapper of these tests


@pytest.mark.parametrize("batches", [DataLoader(eight_gaussians(64, 0), 16), eight_gaussians(64, 0)])
def test_data_without_an_order_is_refused(batches: Any) -> None:
    with pytest.raises(ValueError, match=rf"batches must be Batches\(.*\), got {type(batches).__name__}"):
        fit(POINTS, ToyMLP(width=8), batches, steps=1, progress=False)


def _pairs(labels: list[int]) -> list[tuple[Tensor, int]]:
    return [(torch.zeros(2), label) for label in labels]


def test_labels_of_a_data_set_that_says_no_classes_are_compared_with_the_network() -> None:
    recipe, data = replace(POINTS, coupling=Coupling()), _pairs([1, 2, 1, 2] * 4)
    state = fit(recipe, ToyMLP(width=8, num_classes=3), Batches(data, 16, 0), steps=1, progress=False)
    assert state.step == 1
    # Class 2 of a network of two classes is the null label: it was trained as such without a word.
    with pytest.raises(ValueError, match=r"data must give labels in \[0, 2\), got 2 in row "):
        fit(recipe, ToyMLP(width=8, num_classes=2), Batches(data, 16, 0), steps=1, progress=False)


def test_a_small_field_trains_with_the_remedy_that_the_message_names() -> None:
    data, net = Labelled.of(torch.randn(32, 1, 4, 4)), ToyMLP(dim=16, width=8, num_classes=1)
    recipe = replace(RECIPES["ism"], distance=Normalised(RECIPES["ism"].distance), coupling=Coupling())
    for remedy in (for_side(recipe, 4), for_points(recipe)):
        assert fit(remedy, net, Batches(data, 16, 0), steps=1, progress=False).step == 1


@pytest.mark.parametrize(
    ("coupling", "classes", "rows"),
    [
        (Coupling(pool=32), 1, 8192),
        (Coupling(pool=32), 8, None),
        (Coupling(pool=32, class_aware=False), 8, 8192),
        (Coupling(pool=0), 1, None),
        (Coupling(pool=32, solver=Auction()), 1, None),
    ],
)
def test_assignments_that_take_most_of_the_time_are_said_once_before_the_first_pool(
    coupling: Coupling, classes: int, rows: int | None
) -> None:
    batches = Untouched(Labelled.of(torch.zeros(8192, 2), torch.arange(8192) % classes), 256, 0)
    recipe, net = replace(POINTS, coupling=coupling), ToyMLP(width=8, num_classes=classes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            loop.check(recipe, net, batches, 1, 0, Engine(), Accelerator(cpu=True))
    said = [str(warning.message) for warning in caught]
    assert len(said) == (rows is not None)
    if rows:
        assert said[0].startswith(f"about {rows} rows are in one assignment (pool 32 x batch_size 256, the largest")
        assert said[0].endswith("recipe.coupling.pool 16 has at most 4096")


@pytest.mark.parametrize(
    ("coupling", "said"),
    [
        (Coupling(pool=128), r"a pool has about 1 rows of a class \(pool 128 x batch_size 8\)"),
        (Coupling(pool=249), "a pool has about 2 rows of a class"),
        (Coupling(pool=250), None),
        (Coupling(pool=128, class_aware=False), None),
        (Coupling(pool=128, classes=32), None),
        (Coupling(pool=0), None),
    ],
)
def test_pools_with_too_few_rows_of_a_class_are_said_and_the_message_names_one_with_eight(
    coupling: Coupling, said: str | None
) -> None:
    data = Labelled.of(torch.zeros(4000, 2), torch.arange(4000) % 1000)
    recipe, net = replace(POINTS, coupling=coupling), ToyMLP(width=8, num_classes=1000)
    with nullcontext() if said is None else pytest.warns(UserWarning, match=said) as caught:
        loop.check_parts(recipe, net, Batches(data, 8, 0))
    if said is not None:
        (message,) = (str(warning.message) for warning in caught)
        named = re.search(r"recipe\.coupling\.pool (\d+) has 8, 0 spares the work$", message)
        assert named is not None
        assert int(named[1]) * 8 == 8 * 1000


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Accelerator(cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="accelerator knows of 1 process, but 2 were launched: make it"):
        train("toy", 1, accelerator=alone)


def test_more_shards_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 16 x micro_batches 32 exceeds the 256 samples"):
        train("toy", 1, micro_batches=32)


class Unnamed:
    def __call__(self, prediction: Tensor, target: Tensor, query: Query) -> Tensor:
        return l2(prediction, target)


@pytest.mark.parametrize(
    ("distance", "what"),
    [
        (Unnamed(), r"is an object \(Unnamed\), which has no identity"),
        (lambda prediction, target, query: l2(prediction, target), "is a lambda, which has no identity"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_only_where_it_would_be_keyed(
    distance: Any, what: str, tmp_path: Path
) -> None:
    """faults A1: a second lambda got the first one's weights."""
    recipe, net, batches = toy()
    recipe = replace(recipe, distance=distance)
    remedy = "make it a frozen dataclass or a function of a module"
    with pytest.raises(ValueError, match=rf"^recipe\.distance {what}: {remedy}$"):
        fit(recipe, net, batches, steps=1, folder=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    assert fit(recipe, net, batches, steps=1, progress=False).step == 1


class Own(nn.Module):
    """A network without ``config``."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.num_classes, self.net = 8, nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(gain))

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return self.net(x)


class OtherOwn(Own):
    pass


def _data(x: Tensor, y: Tensor | None = None) -> Batches:
    return Batches(Labelled(x, torch.arange(len(x)) % 2 if y is None else y, 2, ("a", "b")), 8, seed=1)


GIVEN = torch.linspace(-1, 1, 64).view(32, 2)


@pytest.mark.parametrize(
    ("net", "data", "options", "named"),
    [
        (Own(), GIVEN * 2, {}, r"data\.set\.x: saved torch\.float32 \(32, 2\) .*, now torch\.float32 \(32, 2\) "),
        (Own(), GIVEN.double().float().flip(0), {}, r"data\.set\.x: "),
        (OtherOwn(), GIVEN, {}, r"net\.class: saved .*\.Own, .*, now .*\.OtherOwn, "),
        (Own(0.5), GIVEN, {}, r"net\.config\["),
        (Own(), GIVEN, {"precision": "bf16"}, "precision: saved 'no', now 'bf16'"),
    ],
)
def test_other_data_networks_and_precision_are_refused(
    net: nn.Module, data: Tensor, options: dict[str, Any], named: str, tmp_path: Path
) -> None:
    """faults A3: a run was resumed with other numbers of equal size."""
    fit(RECIPES["flow"], Own(), _data(GIVEN), steps=1, folder=tmp_path, progress=False)
    AcceleratorState._reset_state(True)
    with pytest.raises(ValueError, match=f"was trained with other settings; .*{named}"):
        fit(RECIPES["flow"], net, _data(data), steps=2, folder=tmp_path, resume=True, progress=False, **options)
    AcceleratorState._reset_state(True)


def test_other_labels_are_refused_and_other_names_are_not(tmp_path: Path) -> None:
    y = torch.arange(32) % 2
    fit(RECIPES["flow"], Own(), _data(GIVEN, y), steps=1, folder=tmp_path, progress=False)
    renamed = Batches(Labelled(GIVEN.clone(), y, 2, ("left", "right")), 8, seed=1, num_workers=2)
    recipe = replace(RECIPES["flow"], name="renamed")
    assert fit(recipe, Own(), renamed, steps=2, folder=tmp_path, resume=True, progress=False).step == 2
    with pytest.raises(ValueError, match=r"was trained with other settings; .*data\.set\.y: "):
        fit(RECIPES["flow"], Own(), _data(GIVEN, 1 - y), steps=3, folder=tmp_path, resume=True, progress=False)


class Listed(torch.utils.data.Dataset[tuple[Tensor, int]]):
    num_classes = 2

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return GIVEN[index], index % 2


def test_a_data_set_of_another_class_says_what_it_holds(tmp_path: Path) -> None:
    data: Any = Listed()
    with pytest.raises(ValueError, match=r"^data\.set\.data is an object \(Listed\).*attribute `identity`"):
        fit(RECIPES["flow"], Own(), Batches(data, 8, 1), steps=1, folder=tmp_path, progress=False)
    assert fit(RECIPES["flow"], Own(), Batches(data, 8, 1), steps=1, progress=False).step == 1
    data.identity = "v1"
    fit(RECIPES["flow"], Own(), Batches(data, 8, 1), steps=1, folder=tmp_path, progress=False)
    data.identity = "v2"
    with pytest.raises(ValueError, match=r"data\.set\.data\.identity: saved 'v1', now 'v2'"):
        fit(RECIPES["flow"], Own(), Batches(data, 8, 1), steps=2, folder=tmp_path, resume=True, progress=False)


def test_numpy_seeds_and_steps_are_python_ones(tmp_path: Path) -> None:
    """faults A5: they gave another stream."""
    python = fit(RECIPES["flow"], toy()[1], toy()[2], steps=2, seed=3, progress=False)
    batches = Batches(toy()[2].data, np.int64(16), seed=np.int32(1))  # type: ignore[arg-type]
    numpy = fit(RECIPES["flow"], toy()[1], batches, steps=np.int64(2), seed=np.int64(3), progress=False)
    assert_same(contents(numpy), contents(python))


@pytest.mark.parametrize(("cooldown", "longer"), [(0.0, True), (0.5, False)])
def test_a_run_is_lengthened_where_its_rate_has_not_fallen_yet(cooldown: float, longer: bool, tmp_path: Path) -> None:
    """faults A10: a run with a cooldown got another schedule without a word, and fewer steps returned more."""
    optim = replace(OPTIM, cooldown=cooldown)
    train("toy", 4, optim=optim, folder=tmp_path, save_every=2)
    with pytest.raises(ValueError, match=r"^steps must be at least the 4 that are done in .*, got 3$"):
        train("toy", 3, optim=optim, folder=tmp_path, resume=True)
    if not longer:
        with pytest.raises(ValueError, match=r"^steps must be 4, as .* was started with, got 6: its learning rate had"):
            train("toy", 6, optim=optim, folder=tmp_path, resume=True)
    options = {} if longer else {"from_step": 2}  # the rate is the same until then
    state = train("toy", 6, optim=optim, folder=tmp_path, resume=True, **options)
    assert_same(contents(state), contents(train("toy", 6, optim=optim)))


@pytest.mark.parametrize(("name", "longer"), [("imf", True), ("soflow", False), ("alpha_flow", False)])
def test_a_run_whose_recipe_changes_on_the_way_is_not_lengthened(name: str, longer: bool, tmp_path: Path) -> None:
    recipe, optim = for_points(NEIGHBOURS[name]), replace(OPTIM, cooldown=0.0)
    batches = Batches(eight_gaussians(64, 0), 16, seed=1)

    def trained(steps: int, **options: Any) -> TrainState:
        torch.manual_seed(0)
        net = ToyMLP(width=16, depth=1, time_scale=10.0)
        return fit(recipe, net, batches, steps=steps, optim=optim, progress=False, **options)

    trained(4, folder=tmp_path, save_every=2)
    again = {"folder": tmp_path, "resume": True}
    if longer:
        assert_same(contents(trained(6, **again)), contents(trained(6)))
    else:
        message = (
            rf"^steps must be 4, as .* was started with, got 6: the recipe {name} changes with the share of the run"
        )
        with pytest.raises(ValueError, match=message):
            trained(6, **again)
        assert trained(4, **again).step == 4


@pytest.mark.filterwarnings("error")
def test_a_pool_that_no_machine_can_assign_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """faults D12: no answer in a minute, and no bound."""
    monkeypatch.setattr("ismkit.training.loop._prepare", lambda *_: pytest.fail("began"))
    recipe = for_points(RECIPES["ism"])
    recipe = replace(recipe, coupling=replace(recipe.coupling, pool=100_000))
    batches = Batches(eight_gaussians(2000, seed=0), 256, seed=0)
    with pytest.raises(ValueError, match=r"coupling.pool must be at most \d+ with a batch_size of 256, got 100000"):
        fit(recipe, ToyMLP(width=8, depth=1), batches, steps=2, progress=False)


# ---------------------------------------------------------------- what a training leaves for the sampler


@pytest.mark.parametrize(
    "rows", [Rows(consistency=0.5), Intervals(consistency=0.5), Intervals(consistency=0.5, to_data=1.0)]
)
def test_a_network_says_which_steps_it_was_trained_on(rows: Rows) -> None:
    net = ToyMLP(width=16, depth=1, time_scale=rows.time_scale)
    net.step_lengths = "to data"  # of a training before
    recipe = replace(RECIPES["flow"], rows=rows)
    state = fit(recipe, net, Batches(eight_gaussians(64, 0), 16, 0), steps=1, progress=False)
    x0, y = torch.zeros(2, 2), torch.tensor([0, 1])
    for trained in (state.net, state.ema.fast, state.ema.slow):
        assert step_lengths_of(trained) == rows.step_lengths
    if rows.step_lengths == "any":
        assert sample(state.ema.slow, x0, y, nfe=3).shape == x0.shape
    else:
        with pytest.raises(ValueError, match="nfe must be"):
            sample(state.ema.slow, x0, y, nfe=3)


def test_a_training_draws_its_noise_from_the_source_of_the_recipe() -> None:
    drawn: list[Tensor] = []

    def source(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        drawn.append(torch.rand(shape, generator=generator))
        return drawn[-1]

    recipe = replace(RECIPES["flow"], source=source, rows=Rows(label_dropout=0.0))
    data = eight_gaussians(64, 0)
    queries = []
    fit(
        recipe,
        ToyMLP(width=16, depth=1),
        Batches(Labelled(torch.zeros_like(data.x), data.y, 8, data.class_names), 16, 0),
        steps=2,
        progress=False,
        hooks=[lambda state, report: queries.append(report.query)],
    )
    for x0, query in zip(drawn, queries, strict=False):  # the data are 0
        torch.testing.assert_close(query.x, (1 - query.t)[:, None] * x0)
