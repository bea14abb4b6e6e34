"""Groups of processes: what they tell and print, how they fail, and what is left when the parent ends."""

import gc
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ismkit.utils import workers
from ismkit.utils.workers import Tell, WorkerError, run_group
from tests.conftest import ROOT
from tests.waiting import ENDS, check_that_workers_end_with_their_parent, gone

pytestmark = pytest.mark.fresh_process

# ---------------------------------------------------------------- what they do


def test_each_rank_runs_once_tells_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def task(rank: int, tell: Tell) -> None:  # of no module that a process could import: pickled as it is
        (tmp_path / f"{rank}-{os.getpid()}").touch()
        print("rank", rank, end="\n" if rank else "")  # one without an end of its line
        print("to standard error:", rank, file=sys.stderr)
        for value in range(rank + 1):
            tell((os.environ["RANK"], os.environ["WORLD_SIZE"], value))

    told: list[Any] = []
    run_group(task, 2, report=lambda rank, value: told.append((rank, *value)))
    assert sorted(told) == [(0, "0", "2", 0), (1, "1", "2", 0), (1, "1", "2", 1)]
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == ["0", "1"]
    assert str(os.getpid()) not in {path.name.split("-")[1] for path in tmp_path.iterdir()}
    out, err = capsys.readouterr()
    assert out in ("rank 1\nrank 0", "rank 0rank 1\n")
    assert sorted(err.splitlines()) == ["to standard error: 0", "to standard error: 1"]


class WhileUnpickled:
    """Becomes whether garbage was collected when it was unpickled, as the modules of a task were imported."""

    def __reduce__(self) -> tuple[Any, ...]:
        return gc.isenabled, ()


def test_a_process_collects_garbage_while_it_works_and_not_while_it_imports() -> None:
    def task(imported: bool, rank: int, tell: Tell) -> None:
        tell((imported, gc.isenabled(), gc.get_freeze_count() > 10_000))

    told: list[Any] = []
    run_group(partial(task, WhileUnpickled()), 1, report=lambda rank, value: told.append(value))
    assert told == [(False, True, True)]


def test_what_is_printed_is_passed_on_while_they_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def task(rank: int, tell: Tell) -> None:
        print("begun")
        tell(None)
        while not (tmp_path / "go").exists():
            time.sleep(0.05)
            tell(None)

    def report(rank: int, value: None) -> None:
        seen.append(capsys.readouterr().out)
        if any(seen):
            (tmp_path / "go").touch()

    seen: list[str] = []
    run_group(task, 1, report=report)
    assert "".join(seen) == "begun\n"


@pytest.mark.parametrize("threads", [1, 3])
def test_processes_compute_on_the_threads_that_they_get(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    told: list[Any] = []

    def task(rank: int, tell: Tell) -> None:
        tell((os.environ["OMP_NUM_THREADS"], "RANK" in os.environ))

    run_group(task, 1, threads=threads, report=lambda rank, value: told.append(value))
    assert told == [(str(threads), False)]  # a group of one is no group


COMPUTED = """
import torch

def convolve():
    x = torch.randn(8, 16, 64, 64, requires_grad=True)
    torch.nn.functional.conv2d(x, torch.randn(16, 16, 3, 3)).square().mean().backward()

def task(rank, tell):
    convolve()
    tell(torch.get_num_threads())

assert torch.get_num_threads() == 2
convolve()
from ismkit.utils import run_group
run_group(task, 2, threads=2, report=lambda rank, value: print(rank, value), patience=60)
"""


def test_processes_compute_after_this_one_has_computed_on_several_threads() -> None:
    """Forked ones wait forever for the threads of their parent: ``accelerate.debug_launcher`` hangs here."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", COMPUTED]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["0 2", "1 2"]


FORKS = re.compile(
    r"(?:notebook|debug)_launcher\(|\bos\.fork\(|(?:get_context|set_start_method)\(|start_method\s*=|"
    r"ProcessPoolExecutor\(|multiprocessing\.(?:Process|Pool)\(|\bstart_processes\("
)


def test_nothing_else_starts_processes_that_may_be_forked() -> None:
    sources = [path for room in ("ismkit", "notebooks", "examples", "tests") for path in (ROOT / room).rglob("*.*")]
    found = {path.name for path in sources if path.suffix in (".py", ".ipynb") and FORKS.search(path.read_text())}
    # The first forks on one thread, to be killed at each of its calls; the second a process that has computed nothing.
    assert found <= {"test_checkpoint.py", "forkserver.py", "test_forks.py"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 0}, "processes must be at least 1, got 0"),
        ({"processes": 1, "threads": 0}, "threads must be at least 1, got 0"),
        ({"processes": 1, "patience": 0}, "patience must be positive, got 0"),
        ({"processes": 1, "patience": float("nan")}, "patience must be positive, got nan"),
    ],
)
def test_arguments_are_checked_first(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_group(lambda rank, tell: None, **options)


# ---------------------------------------------------------------- how they fail


class OwnError(Exception):
    """One that cannot be read again: it is made of two values, and keeps one."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")


def test_what_a_process_raises_is_raised_here_and_ends_the_others(tmp_path: Path) -> None:
    def task(rank: int, tell: Tell) -> None:
        (tmp_path / str(os.getpid())).touch()
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.02)
        if rank == 1:
            raise KeyError("no such image")
        time.sleep(600)

    with pytest.raises(KeyError, match="no such image") as caught:
        run_group(task, 2)
    assert "in task\nKeyError: 'no such image'" in caught.value.__notes__[0]
    assert gone(int(path.name) for path in tmp_path.iterdir())

    def fail(rank: int, tell: Tell) -> None:
        raise OwnError("nothing", "home")

    with pytest.raises(WorkerError, match="OwnError: nothing at home"):
        run_group(fail, 1)


def test_a_killed_process_is_named_even_if_another_reports_its_loss_first(tmp_path: Path) -> None:
    def task(rank: int, tell: Tell) -> None:
        if rank == 1:
            (tmp_path / "partial").write_text(str(os.getpid()))
            (tmp_path / "partial").rename(tmp_path / "pid")
            os.kill(os.getpid(), signal.SIGKILL)
        while not (tmp_path / "pid").exists() or not gone([int((tmp_path / "pid").read_text())]):
            time.sleep(0.02)
        raise ConnectionError("the other is lost")

    with pytest.raises(WorkerError, match=r"^process 1 of 2 ended by signal 9 \(Killed\)$"):
        run_group(task, 2)


def test_how_a_process_ended_is_told_with_its_last_words() -> None:
    def task(rank: int, tell: Tell) -> None:
        print("no memory left", file=sys.stderr)
        os._exit(5)

    with pytest.raises(WorkerError, match=re.escape("process 0 of 1 ended with status 5: no memory left")):
        run_group(task, 1)


@pytest.mark.parametrize("ignored", [False, True])
def test_silent_processes_are_ended_with_a_message(
    ignored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def task(rank: int, tell: Tell) -> None:
        if ignored:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (tmp_path / str(os.getpid())).touch()
        tell("begun")
        time.sleep(600)

    monkeypatch.setattr(workers, "GRACE", 1.0)
    with pytest.raises(WorkerError, match=re.escape("2 processes were silent for 5 s and were ended")):
        run_group(task, 2, patience=5)
    assert len(list(tmp_path.iterdir())) == 2
    assert gone(int(path.name) for path in tmp_path.iterdir())


def test_words_of_one_process_are_a_sign_of_life() -> None:
    def task(rank: int, tell: Tell) -> None:
        for _ in range(8):
            time.sleep(1)
            if rank == 0:
                print("a word")

    run_group(task, 2, patience=5)


# ---------------------------------------------------------------- the end of the parent


@ENDS
def test_a_group_ends_with_its_parent(number: int, how: str, tmp_path: Path) -> None:
    check_that_workers_end_with_their_parent("workers.run_group(work, 2)", tmp_path, number, how)
