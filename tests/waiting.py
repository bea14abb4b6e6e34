"""Waiting with an end: for a condition, for processes to be gone, and for those of a parent that ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import ROOT

SECONDS = 200  # for what takes a moment, unless the machine is busy


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)  # some conditions read files, and take the core from those they wait for


def gone(pids: Iterable[int]) -> bool:
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
    return True


#: The ways in which a parent ends, and what its two workers do meanwhile.
ENDS = pytest.mark.parametrize(
    ("number", "how"),
    [
        (signal.SIGKILL, "without prctl"),
        pytest.param(signal.SIGKILL, "busy", marks=pytest.mark.skipif(sys.platform != "linux", reason="prctl")),
        (signal.SIGTERM, ""),
        (signal.SIGINT, ""),
    ],
)
# ``work()`` is what each of two workers does; the last line, which starts them, is the test's.
PARENT = """
import ctypes, os, signal, sys, time
from ismkit.utils import workers

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for what they start in the background
folder, how = sys.argv[1:]

def work(*_):
    if how == "without prctl" and sys.platform == "linux":
        ctypes.CDLL(None).prctl(workers.PR_SET_PDEATHSIG, 0)
    open(os.path.join(folder, str(os.getpid())), "w").close()
    if how == "busy":
        ctypes.PyDLL(None).sleep(600)  # as a long call in C that keeps other threads of Python waiting
    time.sleep(600)

"""


def check_that_workers_end_with_their_parent(start: str, folder: Path, number: int, how: str) -> None:
    """However it ends: nothing is left, and nothing started again. SIGINT reaches the group, as Ctrl-C does."""
    command = [sys.executable, "-c", PARENT + start, str(folder), how]
    pipes: dict[str, Any] = {"cwd": ROOT, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, **pipes) as parent:
        wait_until(lambda: len(list(folder.iterdir())) == 2)
        pids = [int(path.name) for path in folder.iterdir()]
        assert {child.pid for child in psutil.Process(parent.pid).children(recursive=True)} == {*pids}
        (os.killpg if number == signal.SIGINT else os.kill)(parent.pid, number)
        _, err = parent.communicate(timeout=SECONDS)
    wait_until(lambda: gone(pids))
    assert parent.returncode == -number
    assert ("KeyboardInterrupt" in err) == (number == signal.SIGINT)
    assert len(list(folder.iterdir())) == 2
