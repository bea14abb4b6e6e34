"""A run as a launcher starts it: logs, micro-batches, kills and resumes; the command line in several processes."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from accelerate import tracking as accelerate_tracking
from accelerate.tracking import GeneralTracker
from safetensors.torch import save_file
from torch import nn

from ismkit.data.sets import eight_gaussians
from ismkit.imagenet.latents import moment_sums, read_manifest, statistics, write_file, write_manifest
from ismkit.method.coupling import Coupling
from ismkit.models.nets import DiT, ToyMLP
from ismkit.models.saved import load_model
from ismkit.training import checkpoint, costs, distributed, launcher
from ismkit.training.distributed import REQUEUE, Preempted
from ismkit.training.launcher import KillAt, launch_processes
from ismkit.training.loop import DivergenceError, StepReport, TrainState
from ismkit.training.options import Engine, Logging, Saving
from ismkit.training.runs import RUNS, Run
from ismkit.training.tracking import scalars
from ismkit.utils.files import locked
from ismkit.utils.weights import CheckpointError
from tests.commandline import Ismkit
from tests.conftest import ROOT
from tests.options import launch, train_run

pytestmark = pytest.mark.usefixtures("own_folder")
N = 48


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    """Random latents of the full run's shape, in four classes."""
    folder = tmp_path / "latents"
    rng = np.random.default_rng(0)
    moments = np.stack([rng.standard_normal((N, 4, 32, 32)), np.full((N, 4, 32, 32), 0.05)], 1).astype(np.float16)
    file = write_file(folder / "latents-00000.arrow", moments, [i % 4 for i in range(N)], [False] * N, ["x"] * N)
    manifest = {
        "source": {},
        "vae": {"name": "test", "revision": None, "sha256": "0" * 64, "scaling_factor": 1.0},
        "side": 256,
        "shape": [4, 32, 32],
        "class_names": ["a", "b", "c", "d"],
        "images": N,
        "rows": N,
        "corrupt": [],
        "statistics": statistics([moment_sums(moments)], N * 32 * 32),
        "files": [file],
    }
    write_manifest(folder, manifest)
    return folder


def toy(**settings: Any) -> Run:
    run = RUNS["gaussians"]
    recipe = replace(run.recipe, coupling=Coupling())
    small = {"net": partial(ToyMLP, width=8, depth=1), "load": partial(eight_gaussians, 200, 0), "recipe": recipe}
    return replace(run, **{"steps": 12, "batch_size": 32, **small, **settings})


def flat(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def weights(folder: Path) -> torch.Tensor:
    net, _ = load_model(folder / "model.safetensors")
    return flat(net)


# ---------------------------------------------------------------- one process


def test_a_signal_ends_with_a_checkpoint_and_a_kill_without_and_both_are_made_good(tmp_path: Path) -> None:
    whole = launch(toy(), folder=tmp_path / "whole", save_every=4, tracker="tensorboard", log_every=2)
    assert len(whole.losses) == 12
    with pytest.raises(Preempted) as ended:
        launch(toy(), folder=tmp_path / "parts", save_every=4, tracker="tensorboard", log_every=2,
               hooks=[KillAt(6, signal.SIGTERM)])  # fmt: skip
    assert (ended.value.code, ended.value.step) == (REQUEUE, 7)  # the step in which the signal came was finished
    assert checkpoint.saved_steps(tmp_path / "parts") == [4, 7]
    launch(toy(), folder=tmp_path / "parts", save_every=4, tracker="tensorboard", log_every=2, resume=True)
    assert torch.equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    log, expected = (scalars(tmp_path / name / "logs")["loss/all"] for name in ("parts", "whole"))
    assert [step for step, _ in log] == [2, 4, 6, 7, 8, 10, 12]  # the window that was cut, in two
    assert dict(log) | {7: 0, 8: 0} == dict(expected) | {7: 0, 8: 0}
    assert (dict(log)[7] + dict(log)[8]) / 2 == pytest.approx(dict(expected)[8], rel=1e-6)


def test_models_stay_with_the_averages_of_their_steps_where_checkpoints_go(tmp_path: Path) -> None:
    seen: dict[int, torch.Tensor] = {}

    def look(state: TrainState, report: StepReport) -> None:
        seen[report.step] = flat(state.ema.slow)

    launch(toy(), folder=tmp_path, save_every=6, model_every=4, hooks=[look])
    assert checkpoint.saved_steps(tmp_path) == [8, 12]  # of 4, 6, 8 and 12
    assert sorted(path.name for path in tmp_path.glob("model*")) == [
        "model-00000004.safetensors", "model-00000008.safetensors", "model-00000012.safetensors", "model.safetensors"
    ]  # fmt: skip
    for step in (4, 8, 12):
        net, card = load_model(tmp_path / f"model-{step:08d}.safetensors")
        assert card["steps"] == step
        assert torch.equal(flat(net), seen[step])
    assert card == load_model(tmp_path / "model.safetensors")[1]


def test_a_model_that_a_kill_prevented_is_written_when_the_run_is_resumed(tmp_path: Path) -> None:
    """After the checkpoint of its step was complete: no later step has this average."""
    launch(toy(), folder=tmp_path, save_every=4, model_every=4)
    written = {step: tmp_path / f"model-{step:08d}.safetensors" for step in (4, 8, 12)}
    before = {step: path.read_bytes() for step, path in written.items()}
    for step, options in ((8, {"from_step": 8}), (12, {})):
        written[step].unlink()
        launch(toy(), folder=tmp_path, save_every=4, model_every=4, resume=True, **options)
        assert {step: path.read_bytes() for step, path in written.items()} == before


def test_a_diverged_run_is_resumed_with_another_rate_as_its_card_says(tmp_path: Path, ismkit_: Ismkit) -> None:
    run = tmp_path / "run"
    argv = [
        "train",
        "gaussians",
        "--batch-size",
        "32",
        "-p",
        "optim.cooldown",
        "0",
        "--folder",
        "run",
        "--save-every",
        "2",
    ]
    assert ismkit_(*argv, "--steps", "2").status == 0
    argv += ["--steps", "4", "--resume", "--lr", "1e-3"]
    answer = ismkit_(*argv)
    assert answer.status == 2
    accepted = ["--accept", "optim.lr"]
    told = f"{' '.join(accepted)}, in Python Saving(accept=...). optim.lr: saved 0.002, now 0.001"
    assert told in answer.err
    assert "changes" not in load_model(run / "model.safetensors")[1]
    assert ismkit_(*argv, *accepted).status == 0
    _, card = load_model(run / "model.safetensors")
    assert card["changes"] == [{"step": 2, "setting": "optim.lr", "saved": "0.002", "now": "0.001"}]
    assert (card["steps"], card["run"]["optim"]["lr"]) == (4, 0.001)


def test_no_model_is_written_of_a_step_whose_losses_are_not_finite(tmp_path: Path) -> None:
    def spoil(state: TrainState, report: StepReport) -> None:
        if report.step == 5:
            nn.init.constant_(next(state.net.parameters()), math.nan)

    with pytest.raises(DivergenceError, match=r"^step 6: loss nan.*the last good checkpoint is of step 4"):
        launch(toy(), folder=tmp_path, model_every=4, hooks=[spoil])
    assert [path.name for path in tmp_path.glob("model*")] == ["model-00000004.safetensors"]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("gaussians", {}, (None, 2000, 100)),
        ("gaussians", {"model_every": 30}, (30, 2000, 10)),
        ("imagenet-smoke", {}, (None, 30, 30)),
        ("imagenet256-b2", {}, (50_000, 5000, 100)),
        ("imagenet256-b2", {"model_every": 0}, (0, 5000, 100)),
        ("imagenet256-b2", {"save_every": 3000, "log_every": 30}, (49_980, 3000, 30)),
    ],
)
def test_long_runs_of_imagenet_keep_models_by_default(
    name: str, options: dict[str, int], expected: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(run: Run, seed: int, load: Any, engine: Any, saving: Saving, logging: Logging, *_: Any) -> Any:
        return saving.model_every, saving.save_every, logging.log_every

    monkeypatch.setattr(launcher, "_launch", planned)
    assert launch(RUNS[name], folder=tmp_path / "run", **options) == expected


@pytest.mark.parametrize(("processes", "steps", "expected"), [(1, 9000, 5000), (8, 90_000, 40_000), (8, 9000, 9000)])
def test_checkpoints_are_as_far_apart_in_time_on_any_number_of_processes(
    processes: int, steps: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = SimpleNamespace(num_processes=processes, is_main_process=False)
    monkeypatch.setattr(distributed, "accelerator", lambda *_, **__: accelerator)
    monkeypatch.setattr(distributed, "on_main_process", lambda accelerator, work: None)
    monkeypatch.setattr(launcher, "_launch", lambda run, seed, load, engine, saving, *_: saving.save_every)
    assert launch(toy(steps=steps), folder=tmp_path / "run") == expected


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_several_processes_write_the_models_that_one_writes(mode: Any, tmp_path: Path) -> None:
    launch(toy(steps=4), folder=tmp_path / "one", model_every=2, micro_batches=2)
    saving = Saving(tmp_path / mode, model_every=2)
    launch_processes(toy(steps=4), processes=2, engine=Engine(mode=mode, micro_batches=2), saving=saving)
    for name in ("model-00000002.safetensors", "model-00000004.safetensors", "model.safetensors"):
        (one, card), (two, other) = (load_model(tmp_path / folder / name) for folder in ("one", mode))
        assert card == other
        torch.testing.assert_close(flat(two), flat(one), rtol=0, atol=1e-6)


def test_micro_batches_stay_when_a_run_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch(toy(), folder=tmp_path / "whole", micro_batches=4)
    launch(toy(steps=5), folder=tmp_path / "parts", micro_batches=4)
    capsys.readouterr()
    state = launch(toy(), folder=tmp_path / "parts", resume=True)  # as with fewer processes: not given again
    assert "resuming with 4 micro-batches per step, as the run was started, on 1" in capsys.readouterr().out
    assert len(state.losses) == 7
    assert torch.equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("damage", ["truncated", "without settings"])
def test_a_damaged_checkpoint_is_told_by_fit(damage: str, tmp_path: Path) -> None:
    launch(toy(), folder=tmp_path, save_every=6)
    path = tmp_path / "step_00000012.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        save_file({"net.weight": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="step_00000012"):
        launch(toy(steps=13), folder=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"save_every": 4, "log_every": 3}, "save_every must be a multiple of log_every=3, got 4"),
        ({"model_every": 5, "log_every": 3}, "model_every must be a multiple of log_every=3, got 5"),
        ({"micro_batches": 5}, "batch_size must be a multiple of the 5 micro-batches of a step, got 32"),
        ({"micro_batches": 16}, "a batch of 2 gives no"),
        ({"mode": "zero"}, "mode must be one of ddp, fsdp, got 'zero'"),
        ({"precision": "fp8"}, "precision must be one of no, bf16, got 'fp8'"),
        (
            {"tracker": "notes"},
            "tracker must be none, .*, wandb, .* or module:attribute, got 'notes'; installed",
        ),
    ],
)
def test_mistakes_are_found_before_any_work(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    def net(num_classes: int) -> nn.Module:
        raise AssertionError("built")

    with pytest.raises(ValueError, match=message):
        launch(toy(net=net), folder=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def nothing() -> None:
    """What loads no data set."""


def test_what_loads_no_data_set_is_named(tmp_path: Path) -> None:
    """The command line answers a ValueError in one line, a TypeError with a traceback."""
    with pytest.raises(ValueError, match=r"load must make a data set without arguments: data must be .* got NoneType"):
        launch(toy(load=nothing), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_second_training_in_a_folder_is_refused_before_it_touches_it(tmp_path: Path) -> None:
    """faults B10, D6: they deleted each other's partial files, and one died with the message of a full disk."""
    folder = tmp_path / "run"
    run = toy(load=partial(pytest.fail, "loaded"))
    with locked(folder, "training"), ThreadPoolExecutor(1) as other:
        refused = [
            other.submit(launch, run, folder=folder, tracker="tensorboard").exception(),
            other.submit(train_run, toy(), folder=folder).exception(),
        ]
    message = (
        rf"another training works in {folder} \(process {os.getpid()} on .*\): wait for it, or name another folder"
    )
    for error in refused:
        assert isinstance(error, ValueError)
        assert re.fullmatch(message, str(error))
    assert not folder.exists()
    assert launch(toy(steps=2), folder=folder).step == 2
    assert not (folder / ".lock").exists()


class Own(nn.Module):
    """A network that is no part of the kit."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.layer = num_classes, nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class Better(ToyMLP):
    """Another one, though it is one of the kit as well."""


class Forgetful(Own):
    """One that cannot be built again."""

    def __init__(self, num_classes: int, width: int = 2) -> None:
        super().__init__(num_classes)


def test_a_network_that_cannot_be_saved_is_refused_before_step_1(tmp_path: Path) -> None:
    """faults B1: it was trained to the end, and then could not be saved."""
    with pytest.raises(CheckpointError, match=r"net cannot be saved, the argument width of Forgetful is not known"):
        launch(toy(net=Forgetful), folder=tmp_path / "run", hooks=[lambda *_: pytest.fail("trained")])
    assert not (tmp_path / "run").exists()


def unread(folder: Path) -> Any:
    raise AssertionError(folder)


def test_a_run_that_no_file_can_describe_is_refused_in_one_line_before_its_data_are_loaded(tmp_path: Path) -> None:
    """The command line showed a traceback."""
    run = toy(load=partial(unread, torch.Generator()))
    with pytest.raises(
        ValueError, match=r"^run cannot be described in the model's file: TypeError, .*, not Generator$"
    ):
        launch(run, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("net", [Own, partial(Better, width=8, depth=1), lambda num_classes: Own(num_classes)])
def test_own_networks_are_trained_saved_and_loaded_by_their_class(net: Any, tmp_path: Path) -> None:
    """faults B1: they were refused. However it is built, the file has its class and what that is built from."""
    if net is not Own and not isinstance(net, partial):  # a lambda has no key, where results are kept
        with pytest.raises(ValueError, match="is a lambda"):
            launch(toy(net=net))
    state = launch(toy(net=net, steps=2), folder=tmp_path / "run")
    kind = type(state.net)
    with pytest.raises(CheckpointError, match=rf"of other code, {__name__}:{kind.__name__}, which is imported only if"):
        load_model(tmp_path / "run" / "model.safetensors")
    loaded, card = load_model(tmp_path / "run" / "model.safetensors", network=kind)
    assert (type(loaded), card["steps"]) == (kind, 2)
    for name, value in state.ema.slow.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_flops_of_a_step_are_those_of_its_rows_and_passes(latents: Path) -> None:
    from ismkit.training.launcher import _flops

    run = RUNS["imagenet256-xl2"]
    assert _flops(toy(), 8) is None
    net = {"size": 32, "channels": 4, "patch": 2, "width": 1152, "depth": 28, "heads": 16, "num_classes": 1000}
    # Half of the rows are asked once with gradient (3), a quarter each have two passes more.
    assert _flops(run, 1000) == pytest.approx(costs.forward_flops(net) * 256 * (3 + 2 / 4 + 2 / 4))


# ---------------------------------------------------------------- the command line


def test_the_full_runs_code_in_seconds(latents: Path, tmp_path: Path, ismkit_: Ismkit) -> None:
    small = ["--steps", "2", "--batch-size", "8", "--latents", latents]
    answer = ismkit_("train", "imagenet-smoke", *small, "--folder", "run", "--micro-batches", "2")
    assert answer.status == 0, answer.err
    net, card = load_model(tmp_path / "run" / "model.safetensors")
    assert isinstance(net, DiT)
    assert (net.num_classes, net.config["depth"], card["run"]["batch_size"]) == (4, 2, 8)
    log = scalars(tmp_path / "run" / "logs")
    assert [step for step, _ in log["loss/all"]] == [2]
    assert {"loss/velocity", "loss/guidance", "loss/consistency", "grad_norm", "lr"} <= log.keys()
    meta = checkpoint.load(tmp_path / "run").meta
    assert (meta["settings"]["micro_batches"], meta["settings"]["data.batch_size"]) == (2, "4")
    assert "data.groups" not in meta["settings"]
    assert meta["settings"]["data.set.identity"] == repr(read_manifest(latents)["sha256"])


def test_coupling_is_chosen_by_its_settings_and_by_the_classes_of_a_pool(latents: Path, ismkit_: Ismkit) -> None:
    small = ["--steps", "1", "--batch-size", "8", "--latents", latents, "--folder", "run", "--tracker", "none"]
    pools = ["-p", "recipe.coupling.pool", "3", "-p", "recipe.coupling.class_aware", "False"]
    answer = ismkit_("train", "imagenet-smoke", *small, *pools, "-p", "recipe.coupling.classes", "2")
    assert answer.status == 0, answer.err
    settings = checkpoint.load("run").meta["settings"]
    coupling = {"pool": "3", "class_aware": "False", "classes": "2"}
    assert {name: settings[f"recipe.coupling.{name}"] for name in coupling} == coupling
    assert (settings["data.groups.pool"], settings["data.groups.classes"]) == ("3", "2")


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no latents": (["imagenet256-xl2"], "no latents of imagenet256 at "),
    "latents elsewhere": (
        ["imagenet256-s2", "--latents", "nowhere"],
        "no latents of imagenet256 at nowhere: make them",
    ),
    "latents for points": (["gaussians", "--latents", "here"], "gaussians has data of its own: --latents goes with"),
    "a VAE for points": (["gaussians", "--vae", "sd-vae-ft-mse"], "gaussians has data of its own: --vae goes with"),
    "unknown mode": (["gaussians", "--mode", "zero"], "--mode must be one of ddp, fsdp, got 'zero'"),
    "unknown precision": (["gaussians", "--precision", "fp8"], "--precision must be one of no, bf16, got 'fp8'"),
    "unknown tracker": (["gaussians", "--tracker", "notes"], "ismkit train: tracker must be none, aim, "),
    "logs that miss the checkpoints": (
        ["gaussians", "--save-every", "100", "--log-every", "30"],
        "save_every must be a multiple of log_every=30, got 100",
    ),
    "rows that do not divide": (["gaussians", "--micro-batches", "3"], "a multiple of the 3 micro-batches of a step"),
    "unknown setting": (["gaussians", "-p", "recipe.slower", "0.9"], "no setting 'slower' in Recipe: it has"),
    "classes of no pool": (
        ["gaussians", "--recipe", "flow", "-p", "recipe.coupling.classes", "2"],
        "classes, those in each pool, must be 1 or more and need a pool, got 2",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_with_one_line(name: str, ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ISMKIT_LATENTS", raising=False)
    monkeypatch.setattr("ismkit.training.runs.Run.build", lambda *_: pytest.fail("built"), raising=False)
    argv, message = MISTAKES[name]
    answer = ismkit_("train", *argv)
    assert answer.status == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1


# ---------------------------------------------------------------- Slurm, played

SRUN = """#!/bin/bash
# Two processes, as Slurm would start them; SIGUSR1 to each when the first checkpoint is there.
echo "$SRUN_CPUS_PER_TASK" > "$RUN/cpus.txt"
for rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & pids="$pids $!"; done
if [ -n "$SIGNALLED" ]; then
  until ls -d "$RUN"/step_* >/dev/null 2>&1 || ! kill -0 $pids 2>/dev/null; do sleep 0.1; done
  kill -USR1 $pids
fi
worst=0
for pid in $pids; do wait "$pid"; status=$?; [ $status -gt $worst ] && worst=$status; done
exit $worst
"""
SCONTROL = """#!/bin/bash
[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> "$RUN/scontrol.txt"
"""


@pytest.mark.slow
def test_slurm_job_is_queued_again_and_continues_with_other_processes(latents: Path, tmp_path: Path) -> None:
    """examples/slurm.sbatch with stand-ins for srun and scontrol; then the same run on one process."""
    tools, run = tmp_path / "tools", tmp_path / "run"
    tools.mkdir()
    for name, text in (
        ("srun", SRUN),
        ("scontrol", SCONTROL),
        ("python", f'#!/bin/bash\nexec {sys.executable} "$@"\n'),
    ):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    run.mkdir()
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "RUN": str(run), "PYTHONPATH": str(ROOT)}
    job = {
        "SLURM_NTASKS": "2",
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_JOB_NODELIST": "here",
        "SIGNALLED": "yes",
    }
    options = ["imagenet-smoke", "--latents", latents, "--folder", run, "--batch-size", "8", "--save-every", "2"]
    command = ["bash", str(ROOT / "examples" / "slurm.sbatch"), *map(str, options), "--steps", "100000"]
    port = {"MASTER_PORT": str(20_000 + os.getpid() % 20_000)}
    done = subprocess.run(command, env=environment | job | port, capture_output=True, text=True, timeout=200)
    assert done.returncode == REQUEUE, done.stderr[-2000:]
    assert (run / "scontrol.txt").read_text() == "requeue 7\n"
    assert (run / "cpus.txt").read_text() == "8\n"
    step = checkpoint.saved_steps(run)[-1]
    assert f"ended by a signal at step {step}" in done.stderr
    assert checkpoint.saved_setting(run, step, "micro_batches") == 2

    alone = [sys.executable, "-m", "ismkit", "train", *map(str, options), "--steps", str(step + 2), "--resume"]
    began = time.time()
    done = subprocess.run(alone, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "resuming with 2 micro-batches per step, as the run was started, on 1" in done.stdout
    assert (run / "model.safetensors").stat().st_mtime >= began - 1
    steps = [at for at, _ in scalars(run / "logs")["loss/all"]]
    assert steps == sorted(set(steps))
    assert steps[-1] == step + 2


# ---------------------------------------------------------------- trackers


class Remembering(GeneralTracker):
    """A tracker as a user writes one."""

    name, requires_logging_directory = "remembering", True
    opened: ClassVar[list["Remembering"]] = []

    def __init__(self, project: str, folder: Path) -> None:
        super().__init__()
        self.project, self.folder = project, folder
        self.settings: dict[str, Any] = {}
        self.steps: list[int] = []
        self.opened.append(self)

    @property
    def tracker(self) -> Any:
        return self.steps

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        assert math.isfinite(values["loss/all"])
        self.steps.append(step or 0)


class Plain(GeneralTracker):
    name, requires_logging_directory, tracker = "plain", False, None
    steps: ClassVar[list[int]] = []

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        self.steps.append(step or 0)


PLAIN = Plain()


def test_a_tracker_of_ones_own_is_named_by_its_module(tmp_path: Path) -> None:
    Remembering.opened.clear()
    launch(toy(steps=4), folder=tmp_path / "a", tracker=f"{__name__}:Remembering", log_every=2)
    (tracker,) = Remembering.opened
    assert (tracker.steps, tracker.project, tracker.folder) == ([2, 4], "gaussians", tmp_path / "a" / "logs")
    assert tracker.settings["steps"] == 4
    for name in ("Plain", "PLAIN"):
        Plain.steps.clear()
        launch(toy(steps=4), folder=tmp_path / name, tracker=f"{__name__}:{name}", log_every=2)
        assert Plain.steps == [2, 4]


def test_a_tracker_of_accelerate_is_taken_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the package of another tracker were there."""
    Remembering.opened.clear()
    monkeypatch.setitem(accelerate_tracking.LOGGER_TYPE_TO_CLASS, "wandb", Remembering)
    there = [accelerate_tracking.LoggerType.TENSORBOARD, accelerate_tracking.LoggerType.WANDB]
    monkeypatch.setattr(accelerate_tracking, "get_available_trackers", lambda: there)
    launch(toy(steps=4), folder=tmp_path / "run", tracker="wandb", log_every=4)
    assert [tracker.steps for tracker in Remembering.opened] == [[4]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlflow", r"tracker mlflow is not installed: `pip install mlflow` adds it; installed here: tensorboard$"),
        ("", r"tracker must be none, .* or module:attribute, got ''; installed here: tensorboard$"),
        ("all", r"tracker must be none, .* or module:attribute, got 'all'"),
        (f"{__name__}:toy", r"tracker .*:toy must be an accelerate\.tracking\.GeneralTracker, got <function toy"),
        (f"{__name__}:Nothing", r"has no Nothing; it has|did you mean"),
        ("no_such:Printer", "tracker no_such:Printer: there is no module no_such"),
    ],
)
def test_a_tracker_that_is_not_there_is_refused_before_any_work(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ismkit_: Ismkit
) -> None:
    there = [accelerate_tracking.LoggerType.TENSORBOARD]
    monkeypatch.setattr(accelerate_tracking, "get_available_trackers", lambda: there)
    with pytest.raises(ValueError, match=message):
        Logging(tracker=name)
    answer = ismkit_("train", "gaussians", f"--tracker={name}")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert not (tmp_path / "out").exists()


def test_only_the_main_process_loads_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process has it: it draws with the others if the network is sharded, and decodes nothing."""
    left: list[Callable[[], None]] = []
    monkeypatch.setattr(distributed, "on_main_process", lambda accelerator, work: left.append(work))
    data = SimpleNamespace(shape=(4, 4, 4), num_classes=10)
    accelerator: Any = SimpleNamespace(device="cpu")
    grid = launcher._samples(RUNS["imagenet-smoke"], "./no-vae", data, accelerator)
    assert (grid.decode, grid.shape, grid.classes) == (None, (4, 4, 4), tuple(range(8)))
    (load,) = left
    with pytest.raises(ValueError, match="no-vae is not a folder here"):
        load()
