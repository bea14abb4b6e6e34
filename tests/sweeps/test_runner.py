"""Trials side by side: the files they leave, kills, failures; with real workers on tiny networks of points."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from ismkit.data.sets import eight_gaussians
from ismkit.evaluation.judges import PointJudge, Setting
from ismkit.method.guidance import TwoPassCFG
from ismkit.method.recipes import RECIPES
from ismkit.models.nets import ToyMLP
from ismkit.models.saved import load_model, load_sampler
from ismkit.sweeps import runner
from ismkit.sweeps.sweep import Sweep, Trial, table
from ismkit.training.runs import RUNS, Run, for_points
from tests.options import train_run

SETTINGS = (Setting(1, 0.0, 64), Setting(4, 1.0, 64, 3))


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


def test_flow_is_sampled_with_two_calls_a_step(tmp_path: Path) -> None:
    trial = Trial("flow", tiny("flow"), 0, SETTINGS[1:])
    runner.work(trial, tmp_path)
    assert table([trial], tmp_path).calls.tolist() == [8]
    net, _ = load_sampler(tmp_path / "models" / f"{trial.key}.safetensors")
    assert isinstance(net, TwoPassCFG)


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial("ism", tiny(), 0, SETTINGS[:1])
    path = runner.work(trial, tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(runner, "train_run", lambda *_, **__: pytest.fail("trained again"))
    runner.work(trial, tmp_path)
    assert path.read_bytes() == before
    told: list[float] = []
    more = replace(trial, settings=SETTINGS)
    runner.work(more, tmp_path, told.append)  # a longer protocol: the new setting only
    held = json.loads(path.read_text())["settings"]
    assert held[0] == json.loads(before)["settings"][0]
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
    runner.work(trial, tmp_path, told.append)  # goes on from the checkpoint of step 12
    assert sum(told) == pytest.approx(trial.cost)
    assert len(told) == 8 + len(SETTINGS)


# ---------------------------------------------------------------- with workers


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("sweep")
    sweep = Sweep("test", "", {name: tiny(name) for name in ("flow", "ism")}, (0, 1), SETTINGS)
    return sweep, folder, runner.run_trials(sweep.trials(), folder, workers=2, progress=False)


@pytest.mark.slow
def test_side_by_side_equals_one_after_the_other(finished: tuple[Sweep, Path, pd.DataFrame], tmp_path: Path) -> None:
    sweep, _, frame = finished
    for trial in sweep.trials():
        runner.work(trial, tmp_path)
    same(frame, table(sweep.trials(), tmp_path))
    assert len(frame) == 2 * 2 * 2


@pytest.mark.slow
def test_a_failed_trial_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    runs = {"good": tiny(), "bad": tiny(optim=replace(RUNS["gaussians"].optim, lr=1e30))}
    trials = Sweep("test", "", runs, (0,), SETTINGS).trials()
    with pytest.raises(runner.SweepError, match=r"1 of 2 trials failed; .*bad, seed 0: .*DivergenceError.*step \d+"):
        runner.run_trials(trials, tmp_path, workers=2, progress=False)
    assert table(trials, tmp_path).variant.unique().tolist() == ["good"]


def test_bad_plans_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trials must be one or more"):
        runner.run_trials([], tmp_path / "a")
    with pytest.raises(ValueError, match="a batch of 2 gives no guidance row"):
        runner.run_trials([Trial("ism", tiny(batch_size=2), 0, SETTINGS)], tmp_path / "a")
    with pytest.raises(ValueError, match="nfe must be one of"):
        runner.run_trials([Trial("ism", tiny(), 0, (Setting(3, 0.0, 64),))], tmp_path / "a")
    with pytest.raises(ValueError, match="width must be"):
        runner.run_trials([Trial("ism", tiny(net=partial(ToyMLP, width=0)), 0, SETTINGS)], tmp_path / "a")
    with pytest.raises(ValueError, match="n must be at most 10000, the number of test images, got 20000"):
        runner.run_trials([Trial("ism", tiny(images=True), 0, (Setting(1, 0.0, 20_000),))], tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_two_sweeps_in_one_folder_are_refused(tmp_path: Path) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="another sweep works in"):
        runner.run_trials([Trial("ism", tiny(), 0, SETTINGS)], tmp_path)


SCRIPT = """
import sys
from tests.sweeps.test_runner import SETTINGS, tiny
from ismkit.sweeps import runner
from ismkit.sweeps.sweep import Sweep
if __name__ == "__main__":
    sweep = Sweep("test", "", {"flow": tiny("flow", steps=600), "ism": tiny(steps=600)}, (0, 1), SETTINGS)
    runner.run_trials(sweep.trials(), sys.argv[1], workers=2, progress=False)
"""


@pytest.mark.slow
def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    script = tmp_path / "sweep.py"
    script.write_text(SCRIPT)
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    root = Path(__file__).parents[2]
    command = [sys.executable, str(script), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    killed = subprocess.Popen(command, env=environment, cwd=root, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (list(folder.glob("trials/*.json")) or len(list(folder.glob("runs/*/step_*"))) > 3):
        assert killed.poll() is None, "the sweep ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    kept = {path: path.read_bytes() for path in folder.glob("trials/*.json")}
    sweep = Sweep("test", "", {"flow": tiny("flow", steps=600), "ism": tiny(steps=600)}, (0, 1), SETTINGS)
    frame = runner.run_trials(sweep.trials(), folder, workers=2, progress=False)
    for path, content in kept.items():
        if len(json.loads(content)["settings"]) == len(SETTINGS):
            assert path.read_bytes() == content
    for trial in sweep.trials():
        runner.work(trial, whole)
    same(frame, table(sweep.trials(), whole))
