"""The engine of a cluster: calls on its machines, placed by Ray, on whole cores or shares of GPUs.

The contract is that of :mod:`ismkit.sweeps.processes`. A cluster that runs is joined; none is started.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from ismkit.sweeps.processes import Item
from ismkit.utils.workers import Tell, do

CONNECT_SECONDS = 30.0  # Ray itself would try for minutes


class ClusterError(RuntimeError):
    """There is no Ray, or no cluster of it that answers; the message says what to do."""


def run(
    task: Callable[[Item, Tell], Any],
    items: Sequence[Item],
    report: Callable[[Item, float], Any],
    *,
    restarts: int,
    address: str,
    gpus: float,
) -> Generator[tuple[Item, str | None]]:
    """Do all items on a Ray cluster, each on one core.

    Args:
        task: is pickled with each item by cloudpickle; what it imports must be on all machines.
        items: to be done.
        report: told how much of an item is done, about once a second.
        restarts: how often an item is started again when its worker or its machine dies.
        address: of the cluster, ``HOST:PORT`` or ``auto``.
        gpus: of one item.

    Yields:
        Each item when it ends, with None, or with the reason if it failed.

    Raises:
        ClusterError: if there is no such cluster, within about ``CONNECT_SECONDS``.
    """
    from cloudpickle import dumps

    ray = _connect(address)
    try:
        # Ray starts the counter again if its machine is lost; what it knew is told again.
        counter = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Counter).remote()
        submit = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=restarts)(_do)
        tasks = {submit.remote(dumps(partial(task, item)), counter, k): item for k, item in enumerate(items)}
        left = list(tasks)
        while left:
            ready, left = ray.wait(left, timeout=1.0)
            for index, done in ray.get(counter.read.remote()).items():
                report(items[index], done)
            for each in ready:
                try:
                    error = ray.get(each)
                except ray.exceptions.RayError as lost:
                    error = str(lost).strip().splitlines()[-1]
                yield tasks[each], error
    finally:
        ray.shutdown()


class _Counter:
    """How much of each item is done; lives in a process of its own."""

    def __init__(self) -> None:
        self.done: dict[int, float] = {}

    def add(self, index: int, done: float) -> None:
        self.done[index] = done

    def read(self) -> dict[int, float]:
        return self.done


def _do(call: bytes, counter: Any, index: int) -> str | None:
    return do(call, lambda done: counter.add.remote(index, done))


def _connect(address: str) -> Any:
    """Ray itself, connected. A process of its own tries first: where Ray fails, it can hang for minutes, or abort."""
    try:
        import ray
    except ImportError as error:
        raise ClusterError(
            f"{error}: a cluster needs Ray, pip install -c constraints.txt -e '.[cluster]'; without an address, trials "
            "run on this machine"
        ) from error
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    first = [sys.executable, "-c", f"import ray; ray.init(**{options!r})"]
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    try:
        subprocess.run(first, check=True, timeout=CONNECT_SECONDS, **pipes)
        ray.init(**options)
    except subprocess.TimeoutExpired as error:
        raise _refused(address, f"no answer within {CONNECT_SECONDS:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise _refused(address, error.stderr or f"status {error.returncode}") from error
    except Exception as error:
        raise _refused(address, str(error)) from error
    return ray


def _refused(address: str, reason: str) -> ClusterError:
    return ClusterError(
        f"no Ray cluster at {address} ({reason.strip().splitlines()[-1]}): start the sweep on a machine of the cluster "
        "with the address that `ray status` knows, and with RAY_AUTH_MODE=token if it has a token; or without an "
        "address, on this machine alone"
    )
