"""Kill each long command at random moments, give it again, and compare what it ends with.

``python -m tests.kills [JOB ...] [--kills N] [--seed S] [--counts FILE]`` does the full counts by hand, and says of
each job how long it will take; ``tests/test_kills.py`` does a few. It may be stopped at any moment: the file has the
counts of all rounds that ended, and the same command adds what is missing, as long as the code of the kit is the same.

A job is run once without a kill. Then it is started and killed by SIGKILL again and again, each time after a random
time, and given the same command again, until it ends by itself: a *round*. A round passes if

* after each kill every file that carries a final name can be read, and no process is left;
* at its end all results are, bit for bit, those of the run without a kill, and no partial file is left.

Rounds go on until there were enough kills. Only kills of a process that had begun to work count: from the moment at
which it can have written a file of its own (the time to import is left out).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow as pa
import torch
from safetensors.torch import load_file

from ismkit.data.photos import photo_folder
from ismkit.imagenet.vae import ImageVAE, write_tiny_vae
from ismkit.models.nets import DiT
from ismkit.models.saved import save_model
from ismkit.utils.files import replacing
from tests.commandline import fill

ROOT = Path(__file__).parents[1]
ISMKIT = [sys.executable, "-m", "ismkit"]
SECONDS = 600  # that one start of a command may take, on a busy machine too
TIMED = ["seconds_per_step"]  # column of a table that no two runs share
#: Of a checkpoint: the states of the global generators. They start differently in every process, and no step of the
#: kit draws from them.
GLOBAL = "random."


@dataclass(frozen=True)
class Job:
    """One command that can be killed.

    Attributes:
        command: given the folder of the inputs and the one of the results, its arguments.
        results: given the folder of the results, what must be equal.
        kills: of a run of all counts.
        victim: the process that was started ("main"), one that it started ("worker"), or any of them ("any").
        inputs: writes what the command reads, once.
    """

    command: Callable[[Path, Path], list[str]]
    results: Callable[[Path], Iterable[Path]]
    kills: int = 20
    victim: str = "main"
    inputs: Callable[[Path], Any] = lambda folder: None


@dataclass
class Count:
    """What came out of one job.

    Attributes:
        kills: of a process that was at work.
        early: kills before that, which are not counted.
        rounds: ended by themselves, with the results of a run without a kill.
        unread: files that could not be read after a kill.
        differ: results that were others.
    """

    kills: int = 0
    early: int = 0
    rounds: int = 0
    unread: tuple[str, ...] = ()
    differ: tuple[str, ...] = ()


def _train(folder: Path, steps: int) -> list[str]:
    options = ["--steps", str(steps), "--batch-size", "64", "--save-every", "10", "--tracker", "none", "--resume"]
    return ["train", "gaussians", *options, "--folder", str(folder / "run")]


def _models(folder: Path) -> Iterator[Path]:
    yield folder / "run" / "model.safetensors"
    yield max((folder / "run").glob("step_*"))


def _pictures(folder: Path) -> None:
    photo_folder(folder / "photographs", 12, seed=0)
    write_tiny_vae(folder / "vae", 0)


def _image_model(folder: Path) -> None:
    photo_folder(folder / "photographs", 6, side=128, seed=0)
    card = {"vae": ImageVAE.load(write_tiny_vae(folder / "vae", 0)).identity}
    net = DiT(size=16, channels=4, patch=2, width=16, depth=1, heads=2, num_classes=4)
    save_model(fill(net), folder / "model.safetensors", card)


def _evaluate(inputs: Path, folder: Path) -> list[str]:
    options = ["--reference", str(inputs / "photographs"), "--features", "small", "--nfe", "1", "2", "--w", "0", "1"]
    sizes = ["-n", "24", "--batch", "2", "--out", str(folder / "scores")]
    vae = ["--vae", str(inputs / "vae")]
    return [*ISMKIT, "evaluate", str(inputs / "model.safetensors"), *vae, *options, *sizes]


def _found(*patterns: str) -> Callable[[Path], Iterator[Path]]:
    return lambda folder: (path for pattern in patterns for path in folder.glob(pattern))


JOBS = {
    "training": Job(lambda inputs, folder: [*ISMKIT, *_train(folder, 300)], _models, kills=100),
    "training of two processes": Job(
        lambda inputs, folder: [
            *[sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ismkit"],
            *_train(folder, 60),
        ],
        _models,
        victim="worker",
    ),
    "sweep": Job(
        lambda inputs, folder: [
            *[*ISMKIT, "sweep", "gaussians", "-p", "steps", "60", "-p", "recipe.fast", "0.5", "0.95", "--seeds", "3"],
            *["--nfe", "1", "--w", "0", "-n", "200", "--workers", "2", "--out", str(folder / "sweep")],
        ],
        _found("sweep/*.parquet", "sweep/models/*.safetensors"),
    ),
    "latents": Job(
        lambda inputs, folder: [
            *[*ISMKIT, "latents", str(inputs / "photographs"), "--vae", str(inputs / "vae"), "--side", "64"],
            *["--batch-size", "2", "--workers", "2", "--threads", "1", "--out", str(folder / "latents")],
        ],
        _found("latents/*"),
        victim="any",
        inputs=_pictures,
    ),
    "evaluation": Job(_evaluate, _found("scores/*.csv", "scores/**/*.safetensors"), inputs=_image_model),
    "notebook": Job(
        lambda inputs, folder: [*ISMKIT, "notebook", "08", "--profile", "smoke", "--out", str(folder / "out")],
        _found("out/*.parquet", "out/sweeps/models/*.safetensors"),
    ),
}


def environment(folder: Path) -> dict[str, str]:
    """That of a command: its outputs in the folder, one thread, no progress bars."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "ISMKIT_OUT": str(folder / "out"), "CI": "true", "PYTHONPATH": str(ROOT)}


def call(command: list[str], folder: Path) -> float:
    """Do a command to its end, and say how many seconds it took; RuntimeError if it fails."""
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}\n{done.stderr}")
    return time.monotonic() - began


@cache
def start_time() -> float:
    """Seconds that a command takes until it begins its work."""
    program = "import ismkit.training.loop, ismkit.evaluation.scoring"
    return call([sys.executable, "-c", program], ROOT)


def contents(path: Path) -> str:
    """SHA-256 of what a file holds; an error if it cannot be read. Durations are left out."""
    if path.suffix == ".safetensors":
        parts = [(name, tensor.numpy().tobytes()) for name, tensor in sorted(load_file(path).items())]
        parts = [part for part in parts if not part[0].startswith(GLOBAL)]
    elif path.suffix == ".parquet":
        table = pd.read_parquet(path).drop(columns=TIMED, errors="ignore")
        parts = [("table", table.to_csv(index=False).encode())]
    elif path.suffix == ".arrow":
        with pa.memory_map(str(path)) as file:
            pa.ipc.open_file(file).read_all()
        parts = [("bytes", path.read_bytes())]
    else:
        if path.suffix in (".json", ".ipynb"):
            json.loads(path.read_bytes())
        parts = [("bytes", path.read_bytes())]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def unreadable(folder: Path) -> list[str]:
    """The files with a final name that cannot be read."""
    bad = []
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            try:
                contents(path)
            except Exception as error:  # whatever a damaged file raises
                bad.append(f"{path.relative_to(folder)}: {error}")
    return bad


def results(job: Job, folder: Path) -> dict[str, str]:
    """What a job has come to."""
    return {str(path.relative_to(folder)): contents(path) for path in job.results(folder) if path.is_file()}


def kill_after(command: list[str], folder: Path, seconds: float, victim: str, rng: random.Random) -> int | None:
    """Start a command and kill one of its processes after some time, if it is still running.

    Returns:
        None if the process was killed; else the status with which the command ended by itself.
    """
    with open(folder / ".log", "ab") as log:
        started = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=log, stderr=log)
        main = psutil.Process(started.pid)
        with suppress(subprocess.TimeoutExpired):
            return started.wait(seconds)
        family = main.children(recursive=True)
        victims = {"main": [main], "worker": family, "any": [main, *family]}[victim]
        chosen = rng.choice(victims or [main])
        with suppress(psutil.NoSuchProcess):
            chosen.send_signal(signal.SIGKILL)
        started.wait(SECONDS)  # where a worker was killed, the command ends by itself, well or not
        _, left = psutil.wait_procs(family, timeout=60)
        if left:
            raise RuntimeError(f"{' '.join(command)} was killed and left {[process.cmdline() for process in left]}")
    return None


def try_job(
    job: Job,
    kills: int,
    seed: str,
    count: Count | None = None,
    report: Callable[[str], Any] = lambda text: None,
    keep: Callable[[Count], Any] = lambda count: None,
) -> Count:
    """Kill a job until there were so many kills, and the last round has ended.

    Args:
        job: what is killed.
        kills: how often, those of ``count`` included.
        seed: of the moments; each round has its own, wherever the count began.
        count: what was done before, by default nothing.
        report: told how it is going.
        keep: given the count after each round.
    """
    count = count or Count()
    with tempfile.TemporaryDirectory() as temporary:
        inputs, whole = Path(temporary) / "inputs", Path(temporary) / "whole"
        inputs.mkdir()
        whole.mkdir()
        job.inputs(inputs)
        start = start_time()
        duration = call(job.command(inputs, whole), whole)
        expected = results(job, whole)
        if not expected:
            raise RuntimeError("the job without a kill has no results")
        each = (0.8 * start + 1.1 * duration) / 2  # on average, before a kill; then the rest of the last start
        left = (kills - count.kills) * each + duration
        report(f"{duration:.0f} s without a kill; {kills - count.kills} kills take about {left / 60:.0f} minutes")
        while count.kills < kills:
            rng = random.Random(f"{seed} {count.rounds}")
            folder = Path(temporary) / f"round{count.rounds}"
            folder.mkdir()
            ended = None
            while ended is None:
                # Once there were enough, it may end. The time to start varies most: some kills come too early.
                after = rng.uniform(0.8 * start, 1.1 * duration) if count.kills < kills else SECONDS
                ended = kill_after(job.command(inputs, folder), folder, after, job.victim, rng)
                count.unread = (*count.unread, *unreadable(folder))
                if ended is None:
                    count.early += after < start
                    count.kills += after >= start
                    report(f"{count.kills} kills of {kills}")
            if ended:
                raise RuntimeError(
                    f"a command after a kill ended with {ended}: {(folder / '.log').read_text()[-2000:]}"
                )
            found = results(job, folder)
            others = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
            partial_files = [str(path.relative_to(folder)) for path in folder.rglob(".*.partial-*")]
            count.differ = (*count.differ, *others, *partial_files)
            count.rounds += 1
            keep(count)
            shutil.rmtree(folder)
    return count


def source_sum() -> str:
    """A checksum of the code of the kit: counts of other code are not added to."""
    parts = [path.read_bytes() for path in sorted((ROOT / "ismkit").rglob("*.py"))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


class Counts:
    """The rows of all jobs in a JSON file, or of this process alone where there is none."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = json.loads(path.read_text()) if path and path.exists() else []

    def row(self, name: str, seed: int) -> dict[str, Any]:
        """That of a job with a seed and the code as it is: an earlier one, or a new one."""
        about = {"job": name, "seed": seed, "code": source_sum()}
        for row in self.rows:
            if about.items() <= row.items():
                return row
        self.rows.append(about | vars(Count()) | {"minutes": 0.0})
        return self.rows[-1]

    def write(self) -> None:
        """Replace the file."""
        if self.path:
            with replacing(self.path) as file:
                file.write((json.dumps(self.rows, indent=1) + "\n").encode())


def main(arguments: list[str] | None = None) -> None:
    """The full counts, kept in a JSON file after each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", choices=[*JOBS, []], help="default: all", metavar="JOB")
    parser.add_argument("--kills", type=int, help="of each job (default: 100 of a training, 20 of the others)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--counts", type=Path, help="JSON file of the counts, which a later call adds to")
    options = parser.parse_args(arguments)
    counts = Counts(options.counts)
    for name in options.jobs or JOBS:
        job, row = JOBS[name], counts.row(name, options.seed)
        kills, load, began = options.kills or job.kills, os.getloadavg()[0], time.monotonic()

        def keep(count: Count, row: dict[str, Any] = row, load: float = load) -> None:
            nonlocal began
            now = time.monotonic()
            row |= vars(count) | {"minutes": round(row["minutes"] + (now - began) / 60, 2), "load": round(load, 1)}
            row["machine"] = (
                f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, "
                f"torch {torch.__version__.partition('+')[0]}"
            )
            began = now
            counts.write()

        done = Count(**{field.name: row[field.name] for field in fields(Count)})
        if done.kills < kills:
            report = partial(print, f"{name}:", flush=True)
            try_job(job, kills, f"{name} {options.seed}", done, report, keep)
        print(row, flush=True)


if __name__ == "__main__":
    main()
