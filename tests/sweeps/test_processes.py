"""The engine of one machine, with small tasks: outcomes, workers that die, and what is left when the parent ends."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ismkit.sweeps import processes
from ismkit.sweeps.processes import cores, share_devices
from ismkit.utils import workers
from ismkit.utils.workers import Tell
from tests.waiting import ENDS, check_that_workers_end_with_their_parent, gone

pytestmark = pytest.mark.fresh_process


def outcomes(task: Callable[[Any, Tell], Any], items: list[Any], workers: int = 2, **options: Any) -> dict[Any, Any]:
    environments = options.pop("environments", [{}] * workers)
    report = options.pop("report", lambda item, done: None)
    with processes.started(environments[: len(items)]) as begun:
        return dict(processes.run(task, items, report, restarts=2, workers=begun, **options))


# ---------------------------------------------------------------- outcomes


def test_each_item_is_done_once_and_reported_here(tmp_path: Path) -> None:
    def task(item: int, tell: Tell) -> None:  # of no module that a worker could import: pickled as it is
        for done in range(item):
            tell(done)
        (tmp_path / f"{item}-{os.getpid()}").touch()

    reported: list[tuple[int, float]] = []
    items = list(range(5))
    report = lambda item, done: reported.append((item, done))  # noqa: E731
    assert outcomes(task, items, report=report) == dict.fromkeys(items)
    assert sorted(reported) == [(item, done) for item in items for done in range(item)]
    done = [path.name.split("-") for path in tmp_path.iterdir()]
    assert sorted(int(item) for item, _ in done) == items
    assert len({pid for _, pid in done} - {str(os.getpid())}) == 2  # workers are kept for the next item


def test_what_fails_is_said_in_one_line_and_the_rest_is_done() -> None:
    def task(item: int, tell: Tell) -> None:
        if item == 1:
            raise ValueError("width must be\n  positive")

    assert outcomes(task, [0, 1, 2]) == {0: None, 1: "ValueError: width must be positive", 2: None}


def test_what_a_worker_cannot_read_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text("def task(item, tell):\n    pass\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        import elsewhere  # type: ignore[import-not-found]

    (tmp_path / "elsewhere.py").unlink()
    monkeypatch.delitem(sys.modules, "elsewhere", raising=False)
    monkeypatch.setitem(sys.modules, "elsewhere", elsewhere)
    assert outcomes(elsewhere.task, [0]) == {0: "ModuleNotFoundError: No module named 'elsewhere'"}


def test_workers_compute_on_one_thread_see_their_environment_and_listen_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """faults D8: Ray listened on every interface, also for a sweep of this machine alone."""

    def listening() -> list[int]:
        found = psutil.Process().net_connections("inet")
        return [connection.laddr.port for connection in found if connection.status == psutil.CONN_LISTEN]

    before = listening()
    names = workers.thread_limit(1)
    for name in names:
        monkeypatch.setenv(name, "7")

    def task(item: int, tell: Tell) -> None:
        tell([os.environ[name] for name in (*names, "DEVICE")] + [listening()])  # type: ignore[arg-type,operator]
        time.sleep(0.5)  # so that the other worker takes the other item

    seen: list[Any] = []
    environments = [{"DEVICE": "a"}, {"DEVICE": "b"}]
    outcomes(task, [0, 1], environments=environments, report=lambda item, done: seen.append(done))
    assert [row[:-2] for row in seen] == [["1"] * len(names)] * 2
    assert {row[-2] for row in seen} <= {"a", "b"}
    assert [row[-1] for row in seen] == [[], []]
    assert listening() == before


@pytest.mark.parametrize(
    ("devices", "share", "workers", "expected"),
    [
        (["0"], 1.0, 8, ["0"]),
        (["0"], 0.6, 8, ["0"]),
        (["0"], 0.3, 8, ["0"] * 3),
        (["4", "5"], 0.5, 8, ["4", "5", "4", "5"]),
        (["4", "5"], 0.25, 3, ["4", "5", "4"]),
        (["GPU-1", "GPU-2"], 1.0, 1, ["GPU-1"]),
        (["0"], 1 / 49, 100, ["0"] * 49),  # 1 / (1 / 49) is less than 49
        (["0"], 0.1, 100, ["0"] * 10),
    ],
)
def test_devices_are_shared_out(devices: list[str], share: float, workers: int, expected: list[str]) -> None:
    assert share_devices(devices, share, workers) == expected


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 4), ("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), (None, 4)],
)
def test_cores_are_those_that_this_process_may_use(
    quota: str | None, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 4, 5}, raising=False)
    monkeypatch.setattr(processes, "CPU_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert cores() == expected


# ---------------------------------------------------------------- workers that die


def test_an_item_whose_worker_is_killed_is_started_again(tmp_path: Path) -> None:
    def task(item: int, tell: Tell) -> None:
        count = len(list(tmp_path.glob(f"{item}-*")))
        (tmp_path / f"{item}-{count}").touch()
        if item == 1 and count < 2:
            os.kill(os.getpid(), signal.SIGKILL)

    assert outcomes(task, [0, 1, 2, 3]) == dict.fromkeys(range(4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-0", "1-0", "1-1", "1-2", "2-0", "3-0"]


def test_an_item_whose_worker_always_dies_fails_by_name_and_the_rest_is_done() -> None:
    def task(item: int, tell: Tell) -> None:
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if item == 2:
            print("no memory left", flush=True)
            os._exit(5)

    found = outcomes(task, [0, 1, 2, 3])
    assert (found[0], found[3]) == (None, None)
    assert found[1] == "its worker died 3 times, the last time by signal 9 (Killed)"
    assert found[2] == "its worker died 3 times, the last time with status 5: no memory left"


# ---------------------------------------------------------------- the end

START = """
from ismkit.sweeps import processes
with processes.started([{}] * 2) as begun:
    list(processes.run(work, [0, 1, 2], lambda item, done: None, restarts=0, workers=begun))
"""


@ENDS
def test_workers_end_with_their_parent(number: int, how: str, tmp_path: Path) -> None:
    check_that_workers_end_with_their_parent(START, tmp_path, number, how)


def test_closed_early_nothing_is_left() -> None:
    def task(item: int, tell: Tell) -> None:
        if item:
            time.sleep(600)

    before = set(psutil.Process().children())  # others' tests may have left one that still ends
    with processes.started([{}] * 2) as begun:
        engine = processes.run(task, [0, 1, 2], lambda item, done: None, restarts=0, workers=begun)
        assert next(engine) == (0, None)
        workers = set(psutil.Process().children()) - before
        assert len(workers) == 2
        engine.close()
        assert gone([worker.pid for worker in workers])


def test_workers_import_before_they_are_given_anything_and_end_unused() -> None:
    def task(item: int, tell: Tell) -> None:
        tell("colorsys" in sys.modules)  # type: ignore[arg-type]

    seen: list[Any] = []
    with processes.started([{}] * 2, preload=["no_such_module", "colorsys"]) as begun:
        found = list(processes.run(task, [0], lambda item, done: seen.append(done), restarts=0, workers=begun))
    assert (found, seen) == ([(0, None)], [True])
    assert gone([worker.process.pid for worker in begun])
