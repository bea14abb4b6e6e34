"""Trials side by side: the files they leave, kills, failures; with real workers on tiny networks of points."""

import importlib
import json
import math
import os
import re
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from cloudpickle import dumps, loads

from ismkit.data.sets import Labelled, eight_gaussians
from ismkit.evaluation.judges import FeatureJudge, PointJudge, Setting
from ismkit.method.guidance import TwoPassCFG
from ismkit.method.path import StepGrid
from ismkit.method.recipes import RECIPES
from ismkit.method.rows import Intervals
from ismkit.method.wavelet import WaveletDistance
from ismkit.models.nets import ToyMLP
from ismkit.models.saved import load_model, load_sampler
from ismkit.sweeps import runner
from ismkit.sweeps.sweep import Sweep, Trial, table
from ismkit.training.runs import RUNS, Run, change_run, check_run, for_points
from ismkit.utils.files import DataError, locked
from ismkit.utils.keys import UNKEYED
from ismkit.utils.progress import progress_bar
from ismkit.utils.seeding import stream
from ismkit.utils.weights import CheckpointError
from tests.conftest import ROOT
from tests.options import train_run
from tests.waiting import gone, wait_until

SETTINGS = (Setting(1, 0.0, 64), Setting(4, 1.0, 64, 3))
THREE = Setting(3, 0.0, 64)


def tiny(recipe: str = "ism", **changes: Any) -> Run:
    changed = for_points(RECIPES[recipe])
    changed = replace(changed, coupling=replace(changed.coupling, pool=min(changed.coupling.pool, 2)))
    net, load = partial(ToyMLP, width=16, depth=1), partial(eight_gaussians, 500, 0)
    settings = {"recipe": changed, "net": net, "load": load, "steps": 20, "batch_size": 32, **changes}
    return replace(RUNS["gaussians"], **settings)


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a.drop(columns="seconds_per_step"), b.drop(columns="seconds_per_step"))


# ---------------------------------------------------------------- one trial, in this process


def test_a_trial_is_what_training_and_judging_by_hand_give(tmp_path: Path) -> None:
    run = tiny()
    trial = Trial("ism", run, 5, SETTINGS, (("extra", "yes"),))
    runner.work(trial, tmp_path)
    row = table([trial], tmp_path).iloc[1]
    state = train_run(run, 5, folder=tmp_path / "by hand", progress=False)
    net, card = load_model(tmp_path / "models" / f"{trial.key}.safetensors")
    for held, trained in zip(net.parameters(), state.ema.slow.parameters(), strict=True):
        assert torch.equal(held, trained.half().float())
    scores = PointJudge(run.load(), torch.device("cpu")).score(net, SETTINGS[1])
    assert {name: row[name] for name in scores} == scores
    assert (row.variant, row.extra, row.seed, row.nfe, row.calls, row.w, row.n, row.noise) == (
        "ism",
        "yes",
        5,
        4,
        4,
        1,
        64,
        3,
    )
    assert (row.steps, row.key, card["trained"]["steps"]) == (20, trial.key, 20)
    assert not (tmp_path / "runs" / trial.key).exists()  # checkpoints go when the model is there


def shifted(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """A source of another module than the kit's."""
    return 2 + torch.randn(shape, generator=generator)


def test_a_trial_is_judged_from_the_source_it_was_trained_from(tmp_path: Path) -> None:
    run = tiny()
    run = replace(run, recipe=replace(run.recipe, source=shifted), steps=2)
    trial = Trial("ism", run, 5, SETTINGS[1:])
    assert trial.key != Trial("ism", replace(run, recipe=replace(run.recipe, source=None)), 5, SETTINGS[1:]).key
    runner.work(trial, tmp_path)
    net, _ = load_model(tmp_path / "models" / f"{trial.key}.safetensors")
    scores = PointJudge(run.load(), torch.device("cpu"), shifted).score(net, SETTINGS[1])
    assert table([trial], tmp_path).iloc[0].w2 == scores["w2"]
    assert scores["w2"] != PointJudge(run.load(), torch.device("cpu")).score(net, SETTINGS[1])["w2"]


@pytest.mark.parametrize("to_data", [0.0, 1.0])
def test_a_trial_of_steps_of_any_length_is_scored_in_any_number(to_data: float, tmp_path: Path) -> None:
    """A sweep took 1, 2, 4 .. 128 alone."""
    recipe = tiny().recipe
    rows = Intervals(guidance=0.25, consistency=0.25, to_data=to_data, strengths=recipe.rows.strengths)
    run = replace(tiny(), recipe=replace(recipe, name="any", rows=rows), steps=2)
    trial = Trial("any", run, 0, (THREE,))
    assert runner._merged([trial]) == {trial.key: trial}
    runner.work(trial, tmp_path)
    (row,) = table([trial], tmp_path).to_dict("records")
    net, _ = load_model(tmp_path / "models" / f"{trial.key}.safetensors")
    assert net.step_lengths == ("to data" if to_data else "any")
    assert (row["nfe"], row["w2"]) == (3, PointJudge(run.load(), torch.device("cpu")).score(net, THREE)["w2"])


def test_flow_makes_any_number_of_steps(tmp_path: Path) -> None:
    """Two-pass CFG asks for the velocity alone, as the sampler knows."""
    trial = Trial("flow", tiny("flow", steps=2), 0, (THREE,))
    assert runner._merged([trial]) == {trial.key: trial}
    runner.work(trial, tmp_path)
    assert table([trial], tmp_path).calls.tolist() == [6]


def test_flow_is_sampled_with_two_calls_a_step(tmp_path: Path) -> None:
    trial = Trial("flow", tiny("flow"), 0, SETTINGS[1:])
    runner.work(trial, tmp_path)
    assert table([trial], tmp_path).calls.tolist() == [8]
    net, _ = load_sampler(tmp_path / "models" / f"{trial.key}.safetensors")
    assert isinstance(net, TwoPassCFG)


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial("ism", tiny(), 0, SETTINGS[:1])
    runner.work(trial, tmp_path)
    path = tmp_path / "trials" / f"{trial.key}.json"
    before = path.read_bytes()
    monkeypatch.setattr(runner, "train_run", lambda *_, **__: pytest.fail("trained again"))
    runner.work(trial, tmp_path)
    assert path.read_bytes() == before
    told: list[float] = []
    more = replace(trial, settings=SETTINGS)
    runner.work(more, tmp_path, told.append)  # a longer protocol: the new setting only
    held = json.loads(path.read_text())["value"]["settings"]
    assert held[0] == json.loads(before)["value"]["settings"][0]
    assert [Setting(*setting["setting"]) for setting in held] == list(SETTINGS)
    assert sum(told) == pytest.approx(more.cost)


def test_each_score_says_where_it_was_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial("ism", tiny(), 0, SETTINGS[:1])
    runner.work(trial, tmp_path)
    (tmp_path / "runs" / trial.key).mkdir(parents=True)  # as after a kill just before its removal
    monkeypatch.setattr(runner.platform, "python_version", lambda: "9.9")
    runner.work(replace(trial, settings=SETTINGS), tmp_path)
    frame = table([replace(trial, settings=SETTINGS)], tmp_path)
    assert frame.scored_python.tolist() == [frame.python[0], "9.9"]
    assert frame.python.nunique() == 1
    assert not (tmp_path / "runs" / trial.key).exists()


def test_progress_adds_up_to_the_cost_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial, told = Trial("ism", tiny(), 0, SETTINGS), []

    def cut(*args: Any, hooks: Any, **options: Any) -> Any:
        def stop(state: Any, report: Any) -> None:
            if state.step == 13:
                raise KeyboardInterrupt

        return train_run(*args, hooks=[*hooks, stop], **options)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "train_run", cut)
        with pytest.raises(KeyboardInterrupt):
            runner.work(trial, tmp_path)
    runner.work(trial, tmp_path, told.append)  # resumes from the checkpoint of step 12
    assert sum(told) == pytest.approx(trial.cost)
    assert len(told) == 8 + len(SETTINGS)


# ---------------------------------------------------------------- before and around the engines


def test_bad_plans_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trials must be one or more"):
        runner.run_trials([], tmp_path / "a")
    with pytest.raises(ValueError, match="a batch of 2 gives no guidance row"):
        runner.run_trials([Trial("ism", tiny(batch_size=2), 0, SETTINGS)], tmp_path / "a")
    with pytest.raises(ValueError, match="nfe must be one of"):
        runner.run_trials([Trial("ism", tiny(), 0, (Setting(3, 0.0, 64),))], tmp_path / "a")
    small = replace(tiny().recipe, rows=replace(tiny().recipe.rows, grid=StepGrid(8)))
    with pytest.raises(ValueError, match=r"nfe must be one of \[1, 2, 4, 8\] \(the levels of this grid\), got 16"):
        runner.run_trials([Trial("ism", replace(tiny(), recipe=small), 0, (Setting(16, 0.0, 64),))], tmp_path / "a")
    with pytest.raises(ValueError, match="width must be"):
        runner.run_trials([Trial("ism", tiny(net=partial(ToyMLP, width=0)), 0, SETTINGS)], tmp_path / "a")
    for n in (99, 20_000):
        with pytest.raises(ValueError, match=rf"n must be 100 \.\. 10000 samples, as many as .*, got {n}"):
            runner.run_trials([Trial("ism", tiny(space="clothes"), 0, (Setting(1, 0.0, n),))], tmp_path / "a")
    trials = [Trial("ism", tiny(), 0, SETTINGS)]
    for gpus in (-0.5, 1.5):
        with pytest.raises(ValueError, match=f"gpus must be 0, or the share of a GPU .* up to 1, got {gpus}"):
            runner.run_trials(trials, tmp_path / "a", gpus=gpus)
    for address in ("", "local"):  # with these Ray would start a cluster of its own
        with pytest.raises(ValueError, match=f"address must be that of a Ray cluster, .* got {address!r}"):
            runner.run_trials(trials, tmp_path / "a", address=address)
    with pytest.raises(ValueError, match="workers is for this machine alone, got 3 beside the address 'auto'"):
        runner.run_trials(trials, tmp_path / "a", workers=3, address="auto")
    assert not (tmp_path / "a").exists()


def no_permutation(x0: torch.Tensor, x1: torch.Tensor) -> torch.Tensor:
    """A solver that assigns nothing."""
    return torch.zeros(len(x0))


def bad_source(shape: tuple[int, ...]) -> torch.Tensor:
    """A source that takes no generator."""
    return torch.zeros(shape)


def fails(query: Any, velocity: Any, rows: Any, context: Any) -> Any:
    """A rule with a mistake."""
    return query.x @ velocity, 1.0


class Brief(torch.nn.Module):
    """A network that answers one number, whatever it is asked."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.weight = num_classes, torch.nn.Parameter(torch.ones(()))
        self.config = {"num_classes": num_classes}

    def forward(self, x: Any, t: Any, d: Any, w: Any, y: Any) -> Any:
        return self.weight * x.sum()


def seven() -> str:
    return "7"


#: What fits no run of the eight Gaussians, each of another kind, and what is said.
UNFIT = {
    "batch_size": (501, r"batch_size 501 x micro_batches 1 exceeds the 500 samples"),
    "recipe.coupling.pool": (20_000, r"recipe\.coupling\.pool must be at most .* with a batch_size of 32, got 20000"),
    "recipe.coupling.classes": (3, r"groups\.pool 40 x batch_size 32 .* = 1280 exceeds the 500 samples"),
    "recipe.coupling.solver": (no_permutation, "recipe.coupling fails: solver must return a permutation of"),
    "recipe.source": (bad_source, "recipe.source fails: "),
    "recipe.target": (fails, "the recipe ism fails in its first step: RuntimeError, mat1 and mat2"),
    "recipe.distance": (WaveletDistance((1.0, 1.0)), "WaveletDistance needs "),
    "net.dim": (3, r"net must take samples \(2,\), as the data has: x must have 3 numbers per sample"),
    "net.num_classes": (3, "net.num_classes must be that of the data, 8, or left out, got 3"),
    "net.width": (10_000_000, r"net must fit into the .* GiB of this machine, got a ToyMLP of "),
    "net": (Brief, r"net must return samples \(2,\), as the data has, one for each row, got "),
    "load": (seven, "load must make a data set without arguments: data must be "),
    "space": ("clothes", r"data must be latents of clothes, .*, got \(500, 2\) in 8"),
}


@pytest.mark.parametrize("path", UNFIT)
def test_a_value_that_does_not_fit_is_refused_before_any_trial(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each trial was begun, and failed. The other values of the sweep fit, and are not trained either."""
    monkeypatch.setattr(runner.processes, "run", lambda *_, **__: pytest.fail("begun"))
    value, message = UNFIT[path]
    run = tiny()
    if path == "recipe.coupling.classes":
        run = change_run(run, "recipe.coupling.pool", 40)
    trials = [Trial("ism", each, 0, (Setting(1, 0.0, 100),)) for each in (run, change_run(run, path, value))]
    with pytest.raises(ValueError, match=message) as error:
        runner.run_trials(trials if path != "recipe.coupling.classes" else trials[1:], tmp_path / "new")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()


def test_workers_start_before_the_checks_and_a_refusal_ends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They import torch meanwhile; more than there are trials are not started."""
    before, begun = set(psutil.Process().children()), []

    def check(trials: Any, folder: Path, device: str) -> None:
        begun.extend(set(psutil.Process().children()) - before)
        raise ValueError("refused")

    monkeypatch.setattr(runner, "_check_trainings", check)
    trials = [Trial("ism", tiny(), seed, SETTINGS) for seed in range(2)]
    with pytest.raises(ValueError, match="refused"):
        runner.run_trials(trials, tmp_path / "new", workers=5)
    assert len(begun) == 2
    assert gone([worker.pid for worker in begun])
    assert not (tmp_path / "new").exists()


START = """
import sys, time
import torch
began = time.process_time()
from ismkit import named_sweep
from ismkit.sweeps import runner
from ismkit.utils.workers import Worker

class Started(Exception):
    pass

def stop(*_, **__):
    raise Started

runner.processes.run = stop
try:
    runner.run_trials(named_sweep("gaussians").trials(), sys.argv[1], workers=1)
except Started:
    print(time.process_time() - began)
"""


@pytest.mark.slow
@pytest.mark.fresh_process
def test_the_first_trial_starts_within_3_seconds_of_computing_beyond_torch(tmp_path: Path) -> None:
    """In CPU seconds, which a busy machine hardly stretches: of the parent up to its engine, and then of a worker."""

    def task(item: int, tell: Callable[[float], Any]) -> None:  # pickled as it is, without what this module imports
        import torch  # noqa: F401

        began = time.process_time()
        importlib.import_module("ismkit.sweeps.runner")
        tell(time.process_time() - began)

    command = [sys.executable, "-c", START, str(tmp_path)]
    taken = [float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)]
    with runner.processes.started([{}]) as begun:
        engine = runner.processes.run(task, [0], lambda _, s: taken.append(s), restarts=0, workers=begun)
        assert list(engine) == [(0, None)]
    assert len(taken) == 2
    assert sum(taken) < 3, taken


MEASURED = torch.randn(500, 2, generator=stream(0, "measured"))


def measured() -> Labelled:
    """What a reader measured: it may be another thing tomorrow."""
    return Labelled.of(np.load("measured.npy"))


def test_results_of_other_data_are_not_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same function reads another file: the key of a trial does not see it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner.processes, "started", lambda *_, **__: nullcontext([]))
    monkeypatch.setattr(runner.processes, "run", lambda *_, **__: (_ for _ in ()))
    np.save("measured.npy", MEASURED.numpy())
    trials = [Trial("ism", replace(tiny(steps=2), load=measured), 0, SETTINGS[:1])]
    runner.run_trials(trials, "sweep")
    runner.work(trials[0], "sweep")
    before = runner.run_trials(trials, "sweep")  # the same data, read again
    np.save("measured.npy", 5 + MEASURED.numpy())
    with pytest.raises(ValueError, match=r"load must give the data of the trials that are in .*sweep, but they have"):
        runner.run_trials(trials, "sweep")
    np.save("measured.npy", MEASURED.numpy())
    assert runner.run_trials(trials, "sweep").equals(before)


def test_what_is_trained_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that is finished gives its table, and its data are compared; each set is loaded once for all runs."""
    asked: list[bool] = []
    monkeypatch.setattr(runner, "check_run", lambda run, data: asked.append(data is None) or check_run(run, data))
    run = tiny(steps=2)
    done = [Trial("ism", run, seed, SETTINGS[:1]) for seed in (0, 1)]
    assert len(runner._check_trainings([*done, Trial("flow", tiny("flow"), 0, SETTINGS[:1])], tmp_path)) == 1
    assert asked == [True, False]
    for trial in done:
        runner.work(trial, tmp_path)
    monkeypatch.setattr(runner, "check_run", lambda *_: pytest.fail("tried"))
    monkeypatch.setattr(runner.processes, "run", lambda *_, **__: (_ for _ in ()))
    assert len(runner.run_trials(done, tmp_path)) == 2


def test_gpus_are_named_where_there_are_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    visible = [[environment["CUDA_VISIBLE_DEVICES"] for environment in runner._environments(3, 0.5)]]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,GPU-7,8")  # CUDA stops at the first that is not there
    visible += [[environment["CUDA_VISIBLE_DEVICES"] for environment in runner._environments(8, 0.5)]]
    assert visible == [["0", "1", "0"], ["6", "GPU-7", "6", "GPU-7"]]
    assert runner._environments(3, 0.0) == [{}] * 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"gpus must be 0 where PyTorch sees no CUDA device, got 0\.5"):
        runner.run_trials([Trial("ism", tiny(), 0, SETTINGS)], tmp_path / "a", gpus=0.5)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("gpus", "visible"), [(0.0, ""), (0.5, "3")])
def test_an_attempt_is_on_one_thread_on_its_device_and_reports_sparingly(
    gpus: float, visible: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)

    def work(trial: Trial, folder: Path, report: Callable[[float], Any]) -> None:
        assert (threads, os.environ["CUDA_VISIBLE_DEVICES"]) == ([1], visible)
        for _ in range(1000):
            report(trial.cost / 1000)

    monkeypatch.setattr(runner, "work", work)
    trial, told = Trial("ism", tiny(), 0, SETTINGS), []
    runner.attempt(trial, told.append, folder=tmp_path, gpus=gpus)
    assert told[0] == pytest.approx(trial.cost / 1000)  # that it has begun is known at once
    assert told[-1] == pytest.approx(trial.cost)
    assert len(told) < 100


class Own(ToyMLP):
    """A network that is no part of the kit."""


class Forgetful(Own):
    """One that cannot be built again."""

    def __init__(self, num_classes: int, secret: int = 8) -> None:
        super().__init__(width=secret, depth=1, num_classes=num_classes)


class Far(Own):
    """One with a number that half precision does not reach."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(width=8, depth=1, num_classes=num_classes)
        self.config = {"num_classes": num_classes}
        self.register_buffer("far", torch.tensor([1e6]))


@dataclass(frozen=True)
class Unread:
    """Data with a part that has a key, since it changes nothing, and no text."""

    rest: Any = field(metadata=UNKEYED)

    def __call__(self) -> Labelled:
        raise AssertionError("loaded")


def other_images() -> Labelled:
    return Labelled.of(torch.zeros(64, 1, 8, 8), torch.arange(64) % 10)


def nine_clothes() -> Labelled:
    return Labelled.of(torch.zeros(64, 4, 8, 8), torch.arange(64) % 9)


def test_a_network_that_cannot_be_saved_is_refused_before_any_work(tmp_path: Path) -> None:
    """faults B1: each trial trained it to the end."""
    run = tiny(net=Forgetful, load=partial(pytest.fail, "loaded"))
    with pytest.raises(CheckpointError, match="net cannot be saved, the argument secret of Forgetful is not known"):
        runner.run_trials([Trial("own", run, 0, SETTINGS)], tmp_path / "new")
    with pytest.raises(
        CheckpointError, match=r"net cannot be saved: far holds 1e\+06, and torch\.float16 ends at 65504"
    ):
        runner.run_trials([Trial("own", replace(run, net=Far), 0, SETTINGS)], tmp_path / "new")
    undescribed = replace(run, net=Own, load=Unread(torch.Generator()))
    with pytest.raises(ValueError, match=r"own cannot be described in its model's file: TypeError, .*, not Generator"):
        runner.run_trials([Trial("own", undescribed, 0, SETTINGS)], tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("load", "changes", "message"),
    [
        (other_images, {}, r"data must be points \(n, F\) .*, got \(64, 1, 8, 8\)"),
        (
            other_images,
            {"space": "clothes"},
            r"data must be latents of clothes, \(n, 4, 8, 8\) in 10 .*, got \(64, 1, 8, 8\)",
        ),
        (nine_clothes, {"space": "clothes"}, r"data must be latents of clothes, .*, got \(64, 4, 8, 8\) in 9"),
        (partial(eight_gaussians, 500, 0), {}, "n must be at least 8 samples, one of each class, got 7"),
    ],
)
def test_what_cannot_be_scored_is_not_trained(
    load: Callable[[], Labelled],
    changes: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """faults B1: own images failed at the judge, after the training."""
    monkeypatch.setattr(runner, "train_run", lambda *_, **__: pytest.fail("trained"))
    run = tiny(load=load, net=partial(ToyMLP, dim=64, width=8, depth=1), **changes)
    with pytest.raises(ValueError, match=message):
        runner.work(Trial("own", run, 0, (Setting(1, 0.0, 7),)), tmp_path)


# ---------------------------------------------------------------- judges of one's own


def greys() -> Labelled:
    return Labelled.of(torch.rand(64, 1, 8, 8, generator=stream(0, "greys")), torch.arange(64) % 2)


def quarters(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


def seven_of(device: torch.device) -> int:
    return 7


def by_quarters(device: torch.device) -> FeatureJudge:
    return FeatureJudge(greys(), quarters, device)


@dataclass(frozen=True)
class Scaled:
    """A judge that is told from others by a number."""

    scale: float
    name: str = "scaled nfe"

    def score(self, net: Any, setting: Setting) -> dict[str, float]:
        return {self.name: self.scale * setting.nfe}


@dataclass(frozen=True)
class Changing:
    """One that calls what it measures by other names each time."""

    def score(self, net: Any, setting: Setting) -> dict[str, float]:
        return {f"nfe {setting.nfe}": 1.0}


class Loose:
    """One that is not told from others."""

    def score(self, net: Any, setting: Setting) -> dict[str, float]:
        return {"a": 1.0}


def pictures(**changes: Any) -> Run:
    return tiny(load=greys, net=partial(ToyMLP, dim=64, width=8, depth=1), steps=2, **changes)


@pytest.mark.parametrize("judge", [by_quarters, f"{__name__}:by_quarters"])
def test_a_run_that_draws_neither_points_nor_clothes_is_scored_by_a_judge_of_ones_own(
    judge: Any, tmp_path: Path
) -> None:
    trial = Trial("grey", pictures(), 0, SETTINGS, judge=judge)
    assert runner._merged([trial]) == {trial.key: trial}
    runner.work(trial, tmp_path)
    frame = table([trial], tmp_path)
    net, _ = load_model(tmp_path / "models" / f"{trial.key}.safetensors")
    by_hand = [by_quarters(torch.device("cpu")).score(net, setting) for setting in SETTINGS]
    assert frame[[*by_hand[0]]].to_dict("records") == by_hand
    sweep = Sweep("own", "", {"grey": pictures()}, (0,), SETTINGS, judge=judge)
    assert [(each.key, each.result_name) for each in sweep.trials()] == [(trial.key, trial.result_name)]


def test_scores_of_two_judges_are_not_mixed_and_one_training_serves_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, *trials = (Trial("ism", tiny(steps=2), 0, SETTINGS, judge=judge) for judge in (None, Scaled(1), Scaled(2)))
    runner.work(plain, tmp_path)
    monkeypatch.setattr(runner, "train_run", lambda *_, **__: pytest.fail("trained again"))
    for trial in trials:
        assert table([trial], tmp_path).empty
        runner.work(trial, tmp_path)
    assert [table([trial], tmp_path)["scaled nfe"].tolist() for trial in trials] == [[1, 4], [2, 8]]
    assert "scaled nfe" not in table([plain], tmp_path)
    files = {path.name: path.read_bytes() for path in (tmp_path / "trials").iterdir()}
    assert len(files) == 3
    assert plain.result_name == f"{plain.key}.json"  # as it was before there were others
    assert json.loads(files[plain.result_name])["store"]["identity"] == plain.identity
    for trial in (plain, trials[1]):  # a file under the name of another's
        (tmp_path / "trials" / trial.result_name).write_bytes(files[trials[0].result_name])
        with pytest.raises(DataError, match=r"is of something else .*judge\.scale is 1 there, "):
            table([trial], tmp_path)


def test_an_edited_judge_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    monkeypatch.syspath_prepend(tmp_path)
    source = "def score(net, setting):\n    return {'a': 1.0}\ndef judge(device):\n    return Made()\n"
    source += "class Made:\n    def score(self, net, setting):\n        return score(net, setting)\n"
    for text in (source, f"# said otherwise\n{source}", source.replace("1.0", "2.0")):
        monkeypatch.delitem(sys.modules, "my_edited_judges", raising=False)
        (tmp_path / "my_edited_judges.py").write_text(text)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        names.append(Trial("ism", tiny(), 0, SETTINGS, judge="my_edited_judges:judge").result_name)
    monkeypatch.delitem(sys.modules, "my_edited_judges")
    assert names[0] == names[1] != names[2]


def test_a_trial_and_its_judge_are_the_same_in_a_worker() -> None:
    for judge in (by_quarters, Scaled(3), partial(FeatureJudge, greys(), quarters)):
        trial = Trial("ism", tiny(), 0, SETTINGS, judge=judge)
        again = loads(dumps(trial))
        assert (again.result_name, again.judged_by) == (trial.result_name, trial.judged_by)


def test_judges_that_cannot_be_are_refused_before_any_work(tmp_path: Path) -> None:
    trials = [Trial("ism", tiny(), 0, SETTINGS)]
    for judge, message in (
        (3, r"judge must have a method score\(net, setting\), or make what has, got 3"),
        ("nowhere:judge", "judge nowhere:judge: there is no module nowhere"),
        (lambda device: Loose(), "judge is a lambda, which has no identity"),
        (Loose(), r"judge is an object \(Loose\), which has no identity"),
    ):
        with pytest.raises(ValueError, match=message):
            runner.run_trials(trials, tmp_path / "a", judge=judge)
    two = [replace(trials[0], judge=judge) for judge in (None, Scaled(1))]
    with pytest.raises(ValueError, match="judge must be one for all trials of one training, got two for ism"):
        runner.run_trials(two, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (Scaled(math.nan), "what judge calls scaled nfe must be finite to be kept, got nan"),
        (Scaled(1, "seed"), "judge must call no number seed: the table has a column of that name"),
        (Scaled(1, "extra"), "judge must call no number extra"),
    ],
)
def test_what_a_judge_returns_is_read_before_it_is_kept(judge: Scaled, message: str, tmp_path: Path) -> None:
    trial = Trial("ism", tiny(steps=2), 0, SETTINGS, (("extra", 1),), judge)
    with pytest.raises(ValueError, match=message):
        runner.work(trial, tmp_path)
    assert table([trial], tmp_path).empty


def test_a_judge_returns_the_names_that_are_kept(tmp_path: Path) -> None:
    first = Trial("ism", tiny(steps=2), 0, SETTINGS[:1], judge=Changing())
    runner.work(first, tmp_path)
    with pytest.raises(ValueError, match="judge must return the same names for every setting, got nfe 4"):
        runner.work(replace(first, settings=SETTINGS), tmp_path)


def test_a_judge_of_ones_own_refuses_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "train_run", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ValueError, match=r"n must be 4 \.\. 64 samples"):
        runner.work(Trial("grey", pictures(), 0, (Setting(1, 0.0, 65),), judge=by_quarters), tmp_path)


def of_large_pictures(device: torch.device) -> FeatureJudge:
    return FeatureJudge(torch.rand(64, 1, 16, 16, generator=stream(0, "large")), quarters, device)


def broken(device: torch.device) -> FeatureJudge:
    raise RuntimeError("no\nsuch file")


def says_good(net: Any, setting: Setting) -> Any:
    return "good"


@dataclass(frozen=True)
class Scoring:
    """A judge that is a function, told from others by it; it notes how many samples it is asked for."""

    of: Callable[[Any, Setting], Any]
    asked: list[int] = field(default_factory=list, metadata=UNKEYED)

    def score(self, net: Any, setting: Setting) -> Any:
        self.asked.append(setting.n)
        return self.of(net, setting)


def of_forty(net: Any, setting: Setting) -> dict[str, float]:
    """Scores 40 samples or more."""
    if setting.n < 40:
        raise RuntimeError("too few")
    torch.rand(1)
    return {"a": float(net.num_classes)}


@pytest.mark.parametrize(
    ("judge", "n", "message"),
    [
        (by_quarters, 65, r"n must be 4 \.\. 64 samples, the rows of the data, got 65"),
        (of_large_pictures, 64, "x must have 64 numbers per sample, got shape "),
        (broken, 64, "RuntimeError, no such file"),
        (seven_of, 64, r"judge must have a method score\(net, setting\), or make what has"),
        (Scoring(says_good), 64, "judge must return numbers by their names, got 'good'"),
        (Scaled(1, "seed"), 64, "judge must call no number seed: the table has a column of that name"),
        (Scoring(of_forty), 39, "RuntimeError, too few"),
    ],
)
def test_a_judge_that_fails_is_refused_before_any_trial(
    judge: Any, n: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainings were made first, or each trial began."""
    monkeypatch.setattr(runner.processes, "started", lambda *_, **__: nullcontext([]))
    monkeypatch.setattr(runner.processes, "run", lambda *_, **__: pytest.fail("begun"))
    trials = [Trial("grey", pictures(), seed, (Setting(1, 0.0, n),)) for seed in (0, 1)]
    with pytest.raises(ValueError, match=f"^judge cannot score grey: {message}") as error:
        runner.run_trials(trials, tmp_path / "new", judge=judge)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("recipe", ["ism", "flow"])
def test_a_judge_is_tried_once_with_few_samples_or_else_with_those_of_the_cheapest_setting(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_OWN", {})
    judge = Scoring(of_forty)
    trials = [Trial("grey", pictures(), seed, (*SETTINGS, Setting(128, 0.0, 64)), judge=judge) for seed in (0, 1)]
    trials += [Trial(recipe, replace(tiny(recipe), steps=2), 0, SETTINGS)]  # the kit's own judge is not tried
    before = torch.random.get_rng_state()
    runner._check_trainings(trials, tmp_path)
    assert judge.asked == [16, 64]
    assert torch.equal(torch.random.get_rng_state(), before)
    judge.asked.clear()
    done = replace(trials[0], settings=SETTINGS)
    runner.work(done, tmp_path)
    assert judge.asked == [64, 64]
    judge.asked.clear()
    runner._check_trainings([done], tmp_path)  # nothing is left to score
    assert judge.asked == []


@pytest.mark.slow
def test_a_sweep_takes_a_judge_of_ones_own(tmp_path: Path) -> None:
    trials = [Trial("grey", pictures(), seed, SETTINGS) for seed in (0, 1)]
    frame = runner.run_trials(trials, tmp_path, judge=by_quarters, workers=1, progress=False)
    assert frame.seed.tolist() == [0, 0, 1, 1]
    assert (frame.frechet > 0).all()


def test_two_sweeps_in_one_folder_are_refused(tmp_path: Path) -> None:
    trials = [Trial("ism", tiny(), 0, SETTINGS)]
    with locked(tmp_path, "sweep"), ThreadPoolExecutor(1) as other:
        refused = other.submit(runner.run_trials, trials, tmp_path).exception()
    assert isinstance(refused, ValueError)
    assert f"another sweep works in {tmp_path} (process {os.getpid()} on " in str(refused)


def one_by_one(trials: list[Trial], folder: Path) -> pd.DataFrame:
    """The table of trials that are done in this process."""
    for trial in trials:
        runner.work(trial, folder)
    return table(trials, folder)


@pytest.mark.slow
def test_progress_comes_to_the_whole_cost_and_what_is_done_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[Any] = []

    def bar(**options: Any) -> Any:
        bars.append(progress_bar(**options | {"show": True}))
        return bars[-1]

    monkeypatch.setattr(runner, "progress_bar", bar)
    trials = good()
    frame = runner.run_trials(trials, tmp_path, workers=2)
    same(frame, one_by_one(trials, tmp_path / "by_hand"))
    before = files(tmp_path)
    assert runner.run_trials(trials, tmp_path, workers=2).equals(frame)  # finds all done
    assert files(tmp_path) == before
    assert [bar.n for bar in bars] == [bar.total for bar in bars] == [sum(trial.cost for trial in trials)] * 2
    assert {bar.postfix for bar in bars} == {"trials=4/4"}


# ---------------------------------------------------------------- both engines


def good(**changes: Any) -> list[Trial]:
    """Four trials; with ``changes`` of their runs."""
    runs = {name: tiny(name, **changes) for name in ("flow", "ism")}
    return Sweep("test", "", runs, (0, 1), SETTINGS).trials()


def plan() -> list[Trial]:
    """The trials that the script is given, of which the last fails."""
    bad = tiny(optim=replace(RUNS["gaussians"].optim, lr=1e30))
    return [*good(steps=300), Trial("bad", bad, 0, SETTINGS)]


# No guard of __main__: workers do not run the script.
SCRIPT = """
import json, sys
from pathlib import Path
from cloudpickle import loads
from ismkit.sweeps import cluster, runner

cluster.CONNECT_SECONDS = 120  # a busy machine is waited for
trials = loads(bytes.fromhex(sys.argv[2]))
print("ready", flush=True)
runner.run_trials(trials, Path(sys.argv[1]), progress=False, **json.loads(sys.argv[3]))
"""
# Ends with its standard input, and all that it started with it.
CLUSTER = """
import ray, sys
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[1])
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
# Of the cluster and of those who connect to it: it listens on the loopback only, asks for a token, gives a busy machine
# time to start it, and its workers the same priority as other processes.
RAY = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_worker_niceness": "0",
}


def name_of(process: psutil.Process) -> str:
    """Of a process that lives, or nothing."""
    with suppress(psutil.NoSuchProcess):
        return "" if process.status() == psutil.STATUS_ZOMBIE else str(process.name())
    return ""


@dataclass(frozen=True)
class Engine:
    """How the script's sweeps are run, and where their workers are.

    Attributes:
        options: of ``run_trials``.
        host: the process that workers descend from, by default the script's.
        environment: variables of the script, besides those of this process.
    """

    options: dict[str, Any]
    host: int | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, folder: Path) -> "subprocess.Popen[str]":
        """The script, as soon as its sweep begins."""
        command = [sys.executable, "-c", SCRIPT, str(folder), dumps(plan()).hex(), json.dumps(self.options)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        script = subprocess.Popen(command, env={**os.environ, **self.environment}, cwd=ROOT, **pipes)
        assert script.stdout
        assert script.stdout.readline() == "ready\n"
        return script

    def workers(self, script: "subprocess.Popen[str]") -> list[psutil.Process]:
        """What works for the script now."""
        found = psutil.Process(self.host or script.pid).children(recursive=True)
        return [process for process in found if name_of(process).startswith("ray::_do" if self.host else "")]


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A cluster of this machine alone. A slow start is waited for; one that fails is repeated, for two minutes.

    Scripts join it from a long temporary folder: a path of a socket holds 107 characters, and Ray's sockets are where
    the cluster runs.
    """
    deadline = time.monotonic() + 120
    long = tmp_path_factory.mktemp("long" * 30)
    with tempfile.TemporaryDirectory(prefix="ray") as folder, open(Path(folder) / "log", "w+") as log:
        while True:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
            head = subprocess.Popen([sys.executable, "-c", CLUSTER, folder], env={**os.environ, **RAY}, **pipes)
            assert head.stdin
            assert head.stdout
            select.select([head.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if time.monotonic() < deadline and (address := head.stdout.readline().strip()):
                break
            for process in [*psutil.Process(head.pid).children(recursive=True), head]:
                process.kill()
            head.communicate()
            assert time.monotonic() < deadline, f"Ray does not start here: {Path(log.name).read_text()[-2000:]}"
        yield Engine({"address": address}, head.pid, {**RAY, "TMPDIR": str(long)})
        started = psutil.Process(head.pid).children(recursive=True)
        head.communicate()
        wait_until(lambda: not any(map(name_of, started)))


@pytest.fixture(scope="module", params=["processes", "cluster"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return Engine({"workers": 2}) if request.param == "processes" else request.getfixturevalue("ray_cluster")


@pytest.fixture
def start(engine: Engine) -> Iterator[Callable[[Path], "subprocess.Popen[str]"]]:
    """Starts the script; one that a failed test has left is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(folder: Path) -> "subprocess.Popen[str]":
        started.append(engine.start(folder))
        return started[-1]

    yield begin
    for script in started:
        script.kill()
        script.communicate()


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The table of trials that were done in this process, one after the other, and never interrupted."""
    return one_by_one(plan()[:-1], tmp_path_factory.mktemp("by_hand"))


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Trained networks, and results that are complete, with the times of writing."""
    written = folder.glob("trials/*.json")  # without those that are being written
    results = {path: json.loads(path.read_text())["value"] for path in written}
    done = [path for path, result in results.items() if len(result["settings"]) == len(SETTINGS)]
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in [*folder.glob("models/*.safetensors"), *done]
    }


def checkpoints(folder: Path) -> dict[Path, int]:
    """Those that are whole, with the times of writing."""
    found = {}
    for path in map(Path, glob(str(folder / "runs/*/step_*"))):  # Path.glob fails at a folder that goes meanwhile
        with suppress(FileNotFoundError):
            found[path] = path.stat().st_mtime_ns
    return found


def killed(
    engine: Engine, start: Callable[[Path], "subprocess.Popen[str]"], folder: Path
) -> dict[Path, tuple[int, bytes]]:
    """What a script had done, and left for another, when it was killed with its workers at work."""
    script = start(folder)
    wait_until(lambda: script.poll() is not None or (files(folder) and checkpoints(folder)))
    with pytest.raises(ValueError, match="another sweep works in"):
        runner.run_trials(plan(), folder)
    workers = engine.workers(script)
    assert script.poll() is None, "the sweep ended before it was killed"
    script.kill()
    script.communicate()
    assert len(workers) == 2
    wait_until(lambda: not any(map(name_of, workers)))
    before = files(folder)
    assert 1 <= len(before) < 2 * 4
    return before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_9_of_a_sweep_and_then_of_a_worker_loses_nothing_and_leaves_nothing_behind(
    engine: Engine, start: Callable[[Path], "subprocess.Popen[str]"], by_hand: pd.DataFrame, tmp_path: Path
) -> None:
    """The table is that of trials done one after the other, and a trial that fails is named.

    On a cluster a worker alone is killed: it is Ray that ends those of a script, and what is left is the same files.
    """
    before = {} if engine.host else killed(engine, start, tmp_path)
    saved = checkpoints(tmp_path)
    script = start(tmp_path)
    wait_until(lambda: script.poll() is not None or not checkpoints(tmp_path).keys() <= saved.keys())
    victim = engine.workers(script)[0]
    victim.kill()
    saved = checkpoints(tmp_path)
    while script.poll() is None:  # no step that was saved is taken again
        now = checkpoints(tmp_path)
        assert {path: now[path] for path in saved if path in now} == {p: saved[p] for p in saved if p in now}
        time.sleep(0.1)  # each look reads the files, and a core that looks all the time does not train
    _, err = script.communicate()
    pattern = r"SweepError: 1 of 5 trials failed; .*bad, seed 0: DivergenceError: .*step \d+"
    assert script.returncode == 1
    assert err.startswith("Traceback")  # nothing else was written
    assert re.search(pattern, err.splitlines()[-1]), err
    assert not name_of(victim)
    after = files(tmp_path)
    assert {path: after[path] for path in before} == before
    frame = table(plan(), tmp_path)
    assert len(frame) == 2 * 2 * 2
    same(frame, by_hand)
