"""The engine of one machine: calls in processes of their own, which end with the process that started them.

It has the workers of :mod:`ismkit.utils.workers`, because the process pools of joblib (loky) and
``concurrent.futures`` give up all running calls when one worker dies, cannot say whose it was, and leave their
workers behind when the parent is killed.

An *engine*, this one or :func:`ismkit.sweeps.cluster.run`, calls ``task(item, tell)`` for each item in some worker. The
task fails by an exception; it gives ``tell`` how much of the item is done so far, a number, which the engine hands to
``report(item, done)`` in the caller's process. An item whose worker dies is started again, a few times. The engine
yields each item when it ends, with None or one line that says why it failed; closed early, it ends all work at once.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar, cast

from ismkit.utils.workers import Tell, Worker

Item = TypeVar("Item")

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """CPU cores that this process may use: those it is bound to, at most the quota of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such file, or no limit: "max 100000"
        quota, period = map(int, CPU_QUOTA.read_text().split())
        count = min(count, max(1, quota // period))
    return count


def share_devices(devices: Sequence[str], share: float, workers: int) -> list[str]:
    """The device of each worker: ``floor(1 / share)`` workers to a device, the devices in turn.

    Args:
        devices: all there are, such as ``["0", "1"]``.
        share: of a device for each worker, in (0, 1].
        workers: at most so many.

    Example:
        >>> from ismkit.sweeps.processes import share_devices
        >>> share_devices(["0", "1"], 0.5, workers=8)
        ['0', '1', '0', '1']
        >>> share_devices(["0", "1"], 0.5, workers=3)
        ['0', '1', '0']
    """
    each = math.floor(1 / share + 1e-9)  # 1 / (1 / 49) is a little less than 49
    return (list(devices) * each)[:workers]


@contextmanager
def started(environments: Sequence[Mapping[str, str]], preload: Sequence[str] = ()) -> Iterator[list[Worker]]:
    """Start the workers for :func:`run`, one in each environment, and end them with the block.

    They import torch, which takes seconds, while the caller still checks what they are to do.

    Args:
        environments: environment variables of each worker, besides those of this process.
        preload: names of the modules that they import at once.

    Yields:
        The workers.
    """
    workers: list[Worker] = []
    with ExitStack() as outputs:
        try:
            for environment in environments:
                workers.append(Worker(environment, outputs.enter_context(tempfile.TemporaryFile()), preload=preload))
            yield workers
        finally:
            _end(workers)


def run(
    task: Callable[[Item, Tell], Any],
    items: Sequence[Item],
    report: Callable[[Item, float], Any],
    *,
    restarts: int,
    workers: Sequence[Worker],
) -> Generator[tuple[Item, str | None]]:
    """Do all items in processes of this machine, each on one thread. See the contract at the top of this module.

    Args:
        task: is pickled with each item by cloudpickle, so that functions of a notebook or a script do, too.
        items: to be done, in this order.
        report: told how much of an item is done.
        restarts: how often an item is started again when its worker dies.
        workers: of :func:`started`; each ends when nothing is left for it.

    Yields:
        Each item when it ends, with None, or with the reason if it failed.
    """
    from cloudpickle import dumps

    waiting = deque((item, dumps(partial(task, item))) for item in items)
    deaths: Counter[bytes] = Counter()
    busy: dict[Connection, Worker] = {}
    with ExitStack() as outputs:

        def give(worker: Worker) -> None:
            busy[worker.connection] = worker
            worker.give(*waiting.popleft())

        try:
            for worker in workers[: len(items)]:
                give(worker)
            while busy:
                for connection in wait(list(busy)):
                    worker = busy[cast(Connection, connection)]
                    item = worker.item
                    ended, value = worker.receive()
                    if ended is None:  # the worker died
                        del busy[worker.connection]
                        deaths[worker.call] += 1
                        if ended := deaths[worker.call] > restarts:
                            value = f"its worker died {deaths[worker.call]} times, the last time {value}"
                        else:
                            waiting.appendleft((item, worker.call))
                        if waiting:
                            give(Worker(worker.environment, outputs.enter_context(tempfile.TemporaryFile())))
                    elif not ended:
                        report(item, value)
                    elif waiting:
                        worker.give(*waiting.popleft())
                    else:
                        busy.pop(worker.connection).end()
                    if ended:
                        yield item, value
        finally:
            _end(list(busy.values()))


def _end(workers: list[Worker]) -> None:
    """Kill them all first, and wait for each then."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.end()
