"""Trials side by side: training, scoring, and files that survive a kill.

On one machine trials run in processes (:mod:`ismkit.sweeps.processes`), on a cluster Ray places them
(:mod:`ismkit.sweeps.cluster`); keys, files and tables are the same.

What a trial has done lies in files of one folder (on a cluster: one that all machines see), each written whole or not
at all::

    trials/KEY.json           settings, and one row of scores per setting of the protocol, written after each setting
    trials/KEY-JUDGE.json     the same by your own judge
    models/KEY.safetensors    the trained network (slow average, half precision)
    runs/KEY/                 checkpoints while it trains

So a sweep that was killed is resumed where it was: what is trained is not trained again, what is scored is not scored
again, and a later protocol with more settings only adds these. The key is a checksum of the settings and the seed, not
of names, so that sweeps in one folder share what they have in common; so is that of a judge.
"""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from ismkit.data.doors import admit
from ismkit.evaluation.judges import (
    JUDGES,
    GivenJudge,
    Judge,
    PointJudge,
    Setting,
    as_scores,
    make_judge,
    space_judge,
)
from ismkit.method.guidance import TwoPassCFG
from ismkit.method.recipes import velocity_target
from ismkit.models.saved import NETWORKS, check_saveable, load_sampler, save_model
from ismkit.sweeps import cluster, processes
from ismkit.sweeps.sweep import COLUMNS, Sweep, Trial, check_name, check_replaced, summary, table, write_table
from ismkit.training.loop import in_one_line
from ismkit.training.options import Saving
from ismkit.training.runs import Run, check_memory, check_run, loaded, train_run
from ismkit.utils.checks import as_tuple, check_count, check_kind, shown
from ismkit.utils.files import destination, expanded, locked, out_dir
from ismkit.utils.keys import identity_sum
from ismkit.utils.progress import progress_bar
from ismkit.utils.settings import describe
from ismkit.utils.store import Store

if TYPE_CHECKING:
    import pandas as pd

CHECKPOINTS = 10  # per training: a kill costs at most a tenth of one
STORED = torch.float16  # the numbers of trained networks
REPORT_SECONDS = 0.2  # between two reports of a trial: a step of a small network takes a millisecond
RESTARTS = 3  # of a trial whose worker dies: out of memory today may not be so tomorrow, a crash in a library will


#: In the folder of a sweep: checksums of the data sets.
DATA = "data.json"

#: Calls a task for each trial, as :mod:`ismkit.sweeps.processes` says.
Engine = Callable[..., "Generator[tuple[Trial, str | None]]"]


class SweepError(RuntimeError):
    """Trials failed; the others are done and kept."""


#: Your own judges that this process has made: they may keep what they know of their reference.
_OWN: dict[tuple[str, str], Judge] = {}


def work(trial: Trial, folder: str | os.PathLike[str], report: Callable[[float], Any] = lambda cost: None) -> None:
    """Do what is left of one trial in this process.

    Args:
        trial: what to train and to score.
        folder: of the sweep.
        report: told the share of :attr:`ismkit.sweeps.sweep.Trial.cost` that each piece of work was.
    """
    folder = Path(folder)
    model = _model(trial, folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    left = _left(trial, folder)
    training = trial.cost - sum(setting.cost for setting in trial.settings)
    here = {"device": device, "torch": torch.__version__.partition("+")[0], "python": platform.python_version()}
    runs = folder / "runs" / trial.key
    if not left:
        report(trial.cost)
        return
    # What cannot be scored is found before it is trained.
    data = None if (trial.run.space or trial.judge is not None) and model.exists() else trial.run.load()
    judge = _judge(trial, data, device)
    if not model.exists():
        per_step = training / trial.run.steps
        began, new = time.perf_counter(), True

        def tick(state: Any, step: Any) -> None:
            nonlocal new
            report(per_step * (step.step if new else 1))  # what an earlier call trained counts too
            new = False

        every = max(1, trial.run.steps // CHECKPOINTS)
        saving = Saving(runs, save_every=every, resume=True)
        options: dict[str, Any] = {"saving": saving, "hooks": [tick], "check": _check_saveable, "progress": False}
        state = train_run(trial.run, trial.seed, data=data, **options)
        seconds = (time.perf_counter() - began) / len(state.losses) if state.losses else None
        card = {"run": describe(trial.run), "seed": trial.seed, "licence": "Apache-2.0"}
        if (shape := getattr(admit(data), "shape", None)) is not None:
            card["shape"] = list(shape)  # of what this model draws
        trained = {"steps": state.step, "seconds_per_step": seconds, **here}
        save_model(state.ema.slow, model, card | {"trained": trained}, STORED)
    else:
        report(training)
    if runs.exists():  # also what a kill had left, between the model and this line
        shutil.rmtree(runs)
    _score(trial, folder, model, judge, left, here, report)


def _model(trial: Trial, folder: Path) -> Path:
    """Where the trained network of a trial is kept."""
    return folder / "models" / f"{trial.key}.safetensors"


def _check_saveable(net: nn.Module) -> None:
    check_saveable(net, STORED)


def _judge(trial: Trial, data: Any, device: str) -> Judge:
    """What scores a trial; ValueError or TypeError for data or a setting that it cannot."""
    if trial.judge is not None:
        kept = str(trial.judged_by), device
        _OWN[kept] = make_judge(_OWN.get(kept, trial.judge), torch.device(device), trial.settings)
        return _OWN[kept]
    if data is not None:
        _check_judged(trial, data)
    if trial.run.space:
        released, source = space_judge(trial.run.space, device), trial.run.recipe.source
        return released if source == released.source else dataclasses.replace(released, source=source)
    return PointJudge(data, torch.device(device), trial.run.recipe.source)


def _check_judged(trial: Trial, data: Any) -> None:
    """Refuse data or a setting that the kit's own judge cannot score; ValueError."""
    if trial.run.space:
        JUDGES[trial.run.space].check_data(admit(data))
        return
    try:
        judge = PointJudge(data, torch.device("cpu"), trial.run.recipe.source)
    except TypeError as error:
        raise ValueError(f"{error}; or give the sweep a judge") from error
    for setting in trial.settings:
        judge.check(setting)


def _check_trainings(trials: Iterable[Trial], folder: Path, device: str = "cpu") -> dict[str, str]:
    """Refuse what would fail once per trial: each data set is loaded once, each run and judge that is left tried once.

    Args:
        trials: of all sweeps.
        folder: of the sweeps.
        device: of judges of your own.

    Returns:
        A checksum of each data set, by that of what loads it.
    """
    by_data: dict[str, list[Trial]] = {}
    for trial in trials:
        by_data.setdefault(identity_sum(trial.run.load), []).append(trial)
    sums = {}
    for key, together in by_data.items():
        data, tried = None, set()
        for trial in together:
            if _model(trial, folder).exists():
                continue
            if id(trial.run) not in tried:
                data = check_run(trial.run, data)
                tried.add(id(trial.run))
            if trial.judge is None:
                _check_judged(trial, data)
        data = loaded(together[0].run.load) if data is None else data
        _try_judges(together, folder, data.num_classes, device)
        sums[key] = identity_sum(data, "data")
    return sums


def _try_judges(trials: list[Trial], folder: Path, num_classes: int, device: str) -> None:
    """Try each judge of your own that has something left to score, once; ValueError where it fails.

    ``trials``: of one data set.
    """
    by_judge: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.judge is not None and (left := _left(trial, folder)):
            by_judge.setdefault(str(trial.judged_by), []).append(dataclasses.replace(trial, settings=tuple(left)))
    for first, *others in by_judge.values():
        wanted = [setting for trial in (first, *others) for setting in trial.settings]
        in_one_line(f"judge cannot score {first.variant}", _try_judge, first, wanted, num_classes, device)


FEW = 16  # samples that a judge is tried with


def _try_judge(trial: Trial, wanted: list[Setting], num_classes: int, device: str) -> None:
    """Make the judge for all settings that are wanted, and let it score what an untrained network draws in one."""
    judge = make_judge(trial.judge, torch.device(device), wanted)
    net = _as_sampled(trial.run, trial.run.build(num_classes), num_classes).to(device).eval()
    cheapest = min(trial.settings, key=lambda setting: setting.cost)
    with torch.random.fork_rng(devices=[]):  # a judge may draw from the global generator
        for n in sorted({min(FEW, cheapest.n), cheapest.n}):
            try:
                _scores(trial, judge, net, cheapest._replace(n=n))
                break
            except Exception:
                if n == cheapest.n:  # fewer may not do, of many neighbours or classes
                    raise


def _check_data(folder: Path, sums: dict[str, str]) -> None:
    """Refuse data that have changed since earlier trials of a folder: a key has what loads them, not what they are."""
    store = Store(folder, {"what": "data"}, remedy="delete it if the data are those of all trials in the folder")
    before = store.read(DATA, dict).value if DATA in store else {}
    if any(before.get(key, now) != now for key, now in sums.items()):
        raise ValueError(
            f"load must give the data of the trials that are in {folder}, but they have changed since: give another "
            "folder, or delete this one to train again"
        )
    if not sums.items() <= before.items():
        store.write(DATA, before | sums)


def _score(
    trial: Trial,
    folder: Path,
    model: Path,
    judge: Judge,
    left: list[Setting],
    here: dict[str, str],
    report: Callable[[float], Any],
) -> None:
    """Score the model in the settings that are left, and write the results after each."""
    result, store = _results(trial, folder), trial.results(folder)
    kind = type(trial.run.build(1))
    net, card = load_sampler(model, network=None if kind in NETWORKS.values() else kind)
    net = net.to(here["device"])
    for setting in trial.settings:
        if setting in left:
            began = time.perf_counter()
            scores = _scores(trial, judge, net, setting, next((e["scores"] for e in result["settings"]), None))
            if bad := next((name for name, value in scores.items() if not math.isfinite(value)), None):
                raise ValueError(f"what judge calls {bad} must be finite to be kept, got {scores[bad]}")
            seconds = time.perf_counter() - began
            scored = {f"scored_{name}": value for name, value in here.items()}
            result["settings"].append(
                {"setting": tuple(setting), "scores": scores, "seconds": seconds, "scored": scored}
            )
            about = {name: card[name] for name in ("run", "seed", "trained")}
            store.write(trial.result_name, {**about, **result})
        report(setting.cost)


def _scores(
    trial: Trial, judge: Judge, net: nn.Module, setting: Setting, before: dict[str, float] | None = None
) -> dict[str, float]:
    """What a judge says in one setting, read if it is your own; ``before`` is what it said in another."""
    found = judge.score(net, setting)
    return found if trial.judge is None else as_scores(found, [*COLUMNS, *dict(trial.labels)], before)


def _left(trial: Trial, folder: Path) -> list[Setting]:
    """The settings that are not scored yet."""
    done = {Setting(*entry["setting"]) for entry in _results(trial, folder)["settings"]}
    return [setting for setting in trial.settings if setting not in done]


def _results(trial: Trial, folder: Path) -> dict[str, Any]:
    """What is written of a trial; nothing yet where there is no file."""
    return trial.result(folder) or {"settings": []}


def attempt(trial: Trial, report: Callable[[float], Any], *, folder: Path, gpus: float) -> None:
    """The task of the engines: :func:`work` on one thread, in a process of a sweep.

    Args:
        trial: what to train and to score.
        report: told what share of the trial's cost is done by now, some times a second.
        folder: of the sweep.
        gpus: of the trial; without any it stays on the CPU, wherever it runs.
    """
    torch.set_num_threads(1)
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    done, reported = 0.0, -math.inf

    def add(cost: float) -> None:
        nonlocal done, reported
        done += cost
        if time.monotonic() > reported + REPORT_SECONDS:
            report(done)
            reported = time.monotonic()

    work(trial, folder, add)
    report(done)


def _environments(workers: int, gpus: float) -> list[dict[str, str]]:
    """What tells the workers of this machine apart: the GPU that each sees."""
    if not gpus:
        return [{}] * workers
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [str(device) for device in range(torch.cuda.device_count())]
    if not devices:
        raise ValueError(f"gpus must be 0 where PyTorch sees no CUDA device, got {gpus}")
    devices = visible.split(",")[: len(devices)] if visible else devices
    return [{"CUDA_VISIBLE_DEVICES": device} for device in processes.share_devices(devices, gpus, workers)]


def _as_sampled(run: Run, net: nn.Module, num_classes: int) -> nn.Module:
    """A network as :func:`ismkit.models.saved.load_sampler` will give it, which says what steps it makes."""
    net.step_lengths = run.recipe.rows.step_lengths  # type: ignore[assignment]  # as `fit` does
    return TwoPassCFG(net, num_classes) if run.recipe.target is velocity_target else net


def _merged(trials: list[Trial]) -> dict[str, Trial]:
    """The trials by their keys, each once with all settings; ValueError for one that cannot be."""
    for trial in trials:
        trial.run.recipe.rows.blocks(trial.run.batch_size)
        check_memory(trial.run, 1, not torch.cuda.is_available())
        _check_saveable(net := trial.run.build(1))  # a network that cannot be is refused here, not once per trial
        in_one_line(f"{trial.variant} cannot be described in its model's file", describe, trial.run)
        sampler = _as_sampled(trial.run, net, 1)
        for setting in trial.settings:
            setting.check(sampler)
            if trial.run.space and trial.judge is None:
                JUDGES[trial.run.space].check(setting)
    merged: dict[str, Trial] = {}
    for trial in trials:
        same = merged.get(trial.key, trial)
        if same.result_name != trial.result_name:  # it also refuses a judge that cannot be told from others
            raise ValueError(f"judge must be one for all trials of one training, got two for {trial.variant}")
        merged[trial.key] = dataclasses.replace(same, settings=tuple(dict.fromkeys((*same.settings, *trial.settings))))
    return merged


@contextmanager
def _engine(workers: int | None, gpus: float, address: str | None, trials: int) -> Iterator[Engine]:
    """What does the trials: processes of this machine, which start here and end with the block, or a cluster."""
    if not isinstance(gpus, Real) or isinstance(gpus, bool) or not 0 <= gpus <= 1:
        raise ValueError(f"gpus must be 0, or the share of a GPU that a trial takes, up to 1, got {shown(gpus)}")
    if workers is not None:
        workers = check_count("workers", workers)
    check_kind("address", address, str, type(None))
    if address is None:
        environments = _environments(workers or processes.cores(), gpus)[:trials]
        with processes.started(environments, preload=(__name__,)) as begun:
            yield partial(processes.run, workers=begun)
        return
    if address in ("", "local"):
        raise ValueError(f"address must be that of a Ray cluster, HOST:PORT or auto, got {address!r}")
    if workers:
        raise ValueError(f"workers is for this machine alone, got {workers} beside the address {address!r}")
    yield partial(cluster.run, address=address, gpus=gpus)


def run_trials(
    trials: Iterable[Trial],
    folder: str | os.PathLike[str],
    *,
    judge: GivenJudge | None = None,
    workers: int | None = None,
    gpus: float = 0.0,
    address: str | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Do what is left of all trials, side by side.

    Args:
        trials: of a sweep.
        folder: of results, models and checkpoints.
        judge: what scores all trials, as for :func:`ismkit.evaluation.scoring.evaluate`, instead of the judge of each;
            a function that makes it is called once for a try before the first trial, and in each worker.
        workers: trials at one time on this machine, by default one per core; each computes on one thread.
        gpus: of one trial: 1/8 trains eight on one GPU, which small networks leave idle otherwise.
        address: of a Ray cluster that this machine belongs to (``HOST:6379``, or ``auto``), where all machines see
            ``folder``; by default this machine alone, without Ray.
        progress: show a progress bar; by default unless the environment says CI.

    Returns:
        :func:`ismkit.sweeps.sweep.table` of the trials.

    Raises:
        ValueError: if a trial or an argument cannot be, such as a judge that cannot be told from others, or that fails
            with a few samples of an untrained network, a recipe that does not fit the data (see
            :func:`ismkit.training.runs.check_run`), data that are no longer those of the trials in the folder, or
            another sweep that works in it, before any work.
        CheckpointError: for a network that no model file can hold, before any work.
        ClusterError: if there is no Ray, or no cluster at the address.
        SweepError: when all others are done, if trials failed; their messages in its text.

    Example:
        What does not fit is refused before the first trial:

        >>> import tempfile
        >>> from ismkit import RUNS, Setting, Sweep
        >>> from ismkit.sweeps import run_trials
        >>> sweep = Sweep("dims", "points of two numbers", {"ism": RUNS["gaussians"]}, (0, 1), (Setting(1, 0.0, 1000),))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run_trials(sweep.vary({"net.dim": [2, 3]}).trials(), folder)
        Traceback (most recent call last):
            ...
        ValueError: net must take samples (2,), as the data has: x must have 3 numbers per sample, got shape (256, 2)

        Else all are trained and scored, in a minute or two for each core:

        >>> frame = run_trials(sweep.trials(), "out/sweeps/dims")  # doctest: +SKIP
        >>> frame[["variant", "seed", "nfe", "w2"]]  # doctest: +SKIP
    """
    trials = list(as_tuple("trials", trials, Trial, empty=False))
    check_kind("folder", folder, str, os.PathLike)
    folder = expanded(folder).absolute()
    if judge is not None:
        trials = [dataclasses.replace(trial, judge=judge) for trial in trials]
    merged = _merged(trials)
    with _engine(workers, gpus, address, len(merged)) as engine:  # its processes import torch during the checks
        device = "cuda" if gpus and torch.cuda.is_available() else "cpu"
        sums = _check_trainings(merged.values(), folder, device)
        with locked(folder, "sweep"):
            _check_data(folder, sums)
            failures = _all_done(merged, folder, engine, gpus, progress)
    if failures:
        raise SweepError(
            f"{len(failures)} of {len(merged)} trials failed; what was done is in {folder}, and the same command tries "
            "them again. " + "; ".join(failures)
        )
    return table(trials, folder)


class Swept(NamedTuple):
    """The result of :func:`run_sweeps`.

    Attributes:
        frame: :func:`ismkit.sweeps.sweep.table` of all trials.
        text: mean and standard deviation of the first metric over the seeds, by variant, NFE and w; of the fewest
            samples, where settings have several n.
        path: of the Parquet file with the table.

    Example:
        The best variant of a table, such as :func:`run_sweeps` returns:

        >>> from pathlib import Path
        >>> import pandas as pd
        >>> from ismkit.sweeps import Swept
        >>> frame = pd.DataFrame({"variant": ["flow", "ism", "flow", "ism"], "w2": [0.41, 0.12, 0.39, 0.14]})
        >>> swept = Swept(frame, text="", path=Path("out/sweeps/gaussians.parquet"))
        >>> swept.frame.groupby("variant").w2.mean().idxmin()
        'ism'
    """

    frame: pd.DataFrame
    text: str
    path: Path


def run_sweeps(
    sweeps: Sweep | Iterable[Sweep],
    folder: str | os.PathLike[str] | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    judge: GivenJudge | None = None,
    report: Callable[[str], Any] = lambda line: None,
    **options: Any,
) -> Swept:
    """Train and score sweeps, which share their trainings, and write one table: ``ismkit sweep``.

    A call that was killed is resumed by the same call.

    Args:
        sweeps: one or several, as :func:`ismkit.sweeps.ladder.named_sweep` gives them, or your own.
        folder: of results, models and checkpoints; by default ``out/sweeps``.
        path: of the table, a Parquet file; by default ``NAME.parquet`` in that folder. One that is there is replaced
            if all of its rows are among those of these sweeps.
        judge: what scores all trials, instead of the judge of each sweep.
        report: called with a line on each sweep before its trials.
        options: those of :func:`run_trials`: ``workers``, ``gpus``, ``address`` and ``progress``.

    Returns:
        The table, as text and in its file.

    Raises:
        ValueError: before any work, as :func:`run_trials`; also for points and pictures at once, or two judges, for a
            table of another name than ``NAME.parquet``, or one that has other trials.
        CheckpointError, ClusterError, SweepError: as :func:`run_trials`.
        OSError: if the table cannot be written there, before any work.

    Example:
        Two learning rates, two seeds of each, in some minutes of a CPU:

        >>> from ismkit import named_sweep, run_sweeps
        >>> sweep = named_sweep("gaussians", values={"optim.lr": [1e-3, 2e-3]}, seeds=2)
        >>> swept = run_sweeps(sweep, "out/sweeps")  # doctest: +SKIP
        >>> print(swept.text)  # doctest: +SKIP

        Scores of other kinds do not go into one table:

        >>> run_sweeps([sweep, named_sweep("fashion-smoke")])
        Traceback (most recent call last):
            ...
        ValueError: points and pictures are scored by other metrics, or by two judges: sweep one kind at a time
    """
    plans = [sweeps] if isinstance(sweeps, Sweep) else list(sweeps)
    for plan in plans:
        check_kind("sweeps", plan, Sweep)
    if judge is not None:
        plans = [dataclasses.replace(plan, judge=judge) for plan in plans]
    trials = [trial for plan in plans for trial in plan.trials()]
    if len({str(trial.judged_by or trial.run.space) for trial in trials}) > 1:
        raise ValueError("points and pictures are scored by other metrics, or by two judges: sweep one kind at a time")
    folder = sweeps_folder() if folder is None else expanded(folder)
    path = folder / f"{'_'.join(plan.name for plan in plans)}.parquet" if path is None else expanded(path)
    destination(path)  # what cannot be written is refused before any work
    check_name(path)
    check_replaced(path, trials)
    for plan in plans:
        report(f"{plan.name}: {len(plan.runs)} variants, {len(plan.seeds)} seeds; in {folder}")
    frame = run_trials(trials, folder, **options)
    written = write_table(frame, path)
    others = {*COLUMNS, *(name for trial in trials for name, _ in trial.labels)}
    metric = next(name for name in frame if name not in others)
    lines = []
    for plan in plans:
        part = frame[frame["sweep"] == plan.name]
        text = summary(part[part.n == part.n.min()], metric).to_string()
        lines.append(f"{plan.name}: {metric}, mean ± standard deviation over the seeds\n{text}")
    return Swept(frame, "\n".join(lines), written)


def sweeps_folder() -> Path:
    """Where sweeps leave their results by default."""
    return out_dir() / "sweeps"


def _all_done(merged: dict[str, Trial], folder: Path, engine: Engine, gpus: float, progress: bool | None) -> list[str]:
    """Let an engine do what is left of all trials; those that failed, with the reason."""
    total, done = sum(trial.cost for trial in merged.values()), dict.fromkeys(merged, 0.0)
    ended, failures = 0, []
    with progress_bar(show=progress, total=round(total), desc="sweep", unit="row", unit_scale=True) as bar:

        def report(trial: Trial, cost: float) -> None:
            done[trial.key] = cost  # a trial that is started again falls back to its checkpoint
            bar.update(min(round(sum(done.values())), bar.total) - bar.n)

        task = partial(attempt, folder=folder, gpus=gpus)
        with closing(engine(task, list(merged.values()), report, restarts=RESTARTS)) as outcomes:
            for trial, reason in outcomes:
                ended += 1
                bar.set_postfix(trials=f"{ended}/{len(merged)}", refresh=False)
                if reason:
                    failures.append(f"{trial.variant}, seed {trial.seed}: {reason}")
                    bar.write(f"failed: {failures[-1]}")
                else:
                    report(trial, trial.cost)
    return failures
