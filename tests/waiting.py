"""Waiting with an end: for a condition, and for processes to be gone."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

SECONDS = 120  # for what takes a moment, unless the machine is busy


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pids: Iterable[int]) -> bool:
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
    return True
