"""Trials side by side: training, scoring, and files that survive a kill; the scheduling is Ray's.

What a trial has done lies in files of one folder (on a cluster: one that all machines see), each written whole or not
at all::

    trials/KEY.json           settings, and one row of scores per setting of the protocol, written after each setting
    models/KEY.safetensors    the trained network (slow average, half precision)
    runs/KEY/                 checkpoints while it trains

So a sweep that was killed goes on where it was: what is trained is not trained again, what is scored is not scored
again, and a later protocol with more settings only adds these. The key is a checksum of the settings and the seed, not
of names, so that sweeps in one folder share what they have in common.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ismkit.evaluation.judges import FashionJudge, Judge, PointJudge, Setting
from ismkit.models.saved import load_sampler, save_model
from ismkit.sweeps.sweep import Trial, table
from ismkit.training.options import Saving
from ismkit.training.runs import train_run
from ismkit.utils.files import replacing
from ismkit.utils.progress import progress_bar
from ismkit.utils.settings import describe

if TYPE_CHECKING:
    import pandas as pd

CHECKPOINTS = 10  # per training: a kill costs at most a tenth of one


class SweepError(RuntimeError):
    """Trials failed; the others are done and kept."""


@cache
def _fashion_judge(device: str) -> FashionJudge:
    return FashionJudge.load(device)  # it keeps the features of the reference


def work(trial: Trial, folder: str | os.PathLike[str], report: Callable[[float], Any] = lambda cost: None) -> Path:
    """Do what is left of one trial in this process; returns its file of results.

    Args:
        trial: what to train and to score.
        folder: of the sweep.
        report: told the share of :attr:`ismkit.sweeps.sweep.Trial.cost` that each piece of work was.
    """
    folder = Path(folder)
    path, model = folder / "trials" / f"{trial.key}.json", folder / "models" / f"{trial.key}.safetensors"
    for parent in (path.parent, model.parent):
        parent.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    result = json.loads(path.read_text()) if path.exists() else {"settings": []}
    done = {Setting(*setting["setting"]) for setting in result["settings"]}
    left = [setting for setting in trial.settings if setting not in done]
    training = trial.cost - sum(setting.cost for setting in trial.settings)
    here = {"device": device, "torch": torch.__version__.partition("+")[0], "python": platform.python_version()}
    runs = folder / "runs" / trial.key
    if not left:
        report(trial.cost)
        return path
    if not model.exists():
        per_step = training / trial.run.steps
        began, new = time.perf_counter(), True

        def tick(state: Any, step: Any) -> None:
            nonlocal new
            report(per_step * (step.step if new else 1))  # what an earlier call trained counts too
            new = False

        every = max(1, trial.run.steps // CHECKPOINTS)
        saving = Saving(runs, save_every=every, resume=True)
        state = train_run(trial.run, trial.seed, saving=saving, hooks=[tick], progress=False)
        seconds = (time.perf_counter() - began) / len(state.losses) if state.losses else None
        card = {"run": describe(trial.run), "seed": trial.seed, "licence": "Apache-2.0"}
        trained = {"steps": state.step, "seconds_per_step": seconds, **here}
        save_model(state.ema.slow, model, card | {"trained": trained}, torch.float16)
    else:
        report(training)
    if runs.exists():  # also what a kill had left, between the model and this line
        shutil.rmtree(runs)
    net, card = load_sampler(model)
    net = net.to(device)
    judge: Judge = _fashion_judge(device) if trial.run.images else PointJudge(trial.run.load(), torch.device(device))
    for setting in trial.settings:
        if setting in left:
            began = time.perf_counter()
            scores = judge.score(net, setting)
            seconds = time.perf_counter() - began
            scored = {f"scored_{name}": value for name, value in here.items()}
            result["settings"].append(
                {"setting": tuple(setting), "scores": scores, "seconds": seconds, "scored": scored}
            )
            about = {name: card[name] for name in ("run", "seed", "trained")}
            with replacing(path) as file:
                file.write(json.dumps({**about, **result}).encode())
        report(setting.cost)
    return path


class _Counter:
    """What all workers together have done; lives in a process of its own."""

    def __init__(self) -> None:
        self.total = 0.0

    def add(self, cost: float) -> None:
        self.total += cost

    def read(self) -> float:
        return self.total


def _tell(counter: Any, cost: float) -> None:
    counter.add.remote(cost)


def run_trials(
    trials: Iterable[Trial],
    folder: str | os.PathLike[str],
    *,
    workers: int | None = None,
    gpus: float = 0.0,
    address: str | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Do what is left of all trials, side by side.

    Args:
        trials: of a sweep.
        folder: of results, models and checkpoints.
        workers: trials at one time on this machine, by default one per core; each computes on one thread.
        gpus: of one trial: 1/8 trains eight on one GPU, which small networks leave idle otherwise.
        address: of a Ray cluster (``HOST:6379``, or ``auto``), where all machines see ``folder``; by default this
            machine alone.
        progress: show a progress bar; by default unless the environment says CI.

    Returns:
        :func:`ismkit.sweeps.sweep.table` of the trials.

    Raises:
        ValueError: if another sweep works in the folder, before any work.
        SweepError: when all others are done, if trials failed; their messages in its text.
    """
    import ray
    from filelock import FileLock, Timeout

    trials, folder = list(trials), Path(folder).absolute()
    if not trials:
        raise ValueError("trials must be one or more, got none")
    for trial in trials:
        trial.run.recipe.rows.blocks(trial.run.batch_size)
        trial.run.build(1)  # a network that cannot be is refused here, not once per trial
        for setting in trial.settings:
            setting.check()
            if trial.run.images and setting.n > 10_000:
                raise ValueError(f"n must be at most 10000, the number of test images, got {setting.n}")
    merged: dict[str, Trial] = {}
    for trial in trials:
        same = merged.get(trial.key, trial)
        merged[trial.key] = dataclasses.replace(same, settings=tuple(dict.fromkeys((*same.settings, *trial.settings))))
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"another sweep works in {folder}: wait for it, or name another folder") from error
    failures: list[str] = []
    local: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False} if address is None else {}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
        counter: Any = ray.remote(num_cpus=0)(_Counter).remote()
        # A worker that dies (out of memory, a lost machine) is started anew by Ray, and goes on where it was.
        submit: Any = ray.remote(num_cpus=1, num_gpus=gpus)(work)
        tasks = {submit.remote(trial, folder, partial(_tell, counter)): trial for trial in merged.values()}
        left, total = list(tasks), sum(trial.cost for trial in merged.values())
        with progress_bar(show=progress, total=round(total), desc="sweep", unit="row", unit_scale=True) as bar:
            while left:
                ready, left = ray.wait(left, timeout=1.0)
                bar.update(min(round(ray.get(counter.read.remote())), bar.total) - bar.n)
                bar.set_postfix(trials=f"{len(merged) - len(left)}/{len(merged)}", refresh=False)
                for task in ready:
                    try:
                        ray.get(task)
                    except ray.exceptions.RayError as error:
                        trial = tasks[task]
                        failures.append(f"{trial.variant}, seed {trial.seed}: {str(error).strip().splitlines()[-1]}")
                        bar.write(f"failed: {failures[-1]}")
    finally:
        ray.shutdown()
        lock.release()
    if failures:
        raise SweepError(
            f"{len(failures)} of {len(merged)} trials failed; what was done is in {folder}, and the same command goes "
            "on with the rest. " + "; ".join(failures)
        )
    return table(trials, folder)
