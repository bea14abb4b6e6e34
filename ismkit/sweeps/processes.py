"""The engine of one machine: calls in processes of their own, which end with the process that started them.

It is ``subprocess`` and a pipe to each worker, because the process pools of joblib (loky) and
``concurrent.futures`` give up all running calls when one worker dies, cannot say whose it was, and leave their
workers behind when the parent is killed.

An *engine*, this one or :func:`ismkit.sweeps.cluster.run`, calls ``task(item, tell)`` for each item in some worker. The
task fails by an exception; it gives ``tell`` how much of the item is done so far, a number, which the engine hands to
``report(item, done)`` in the caller's process. An item whose worker dies is started again, a few times. The engine
yields each item when it ends, with None or one line that says why it failed; closed early, it ends all work at once.
"""

from __future__ import annotations

import ctypes
import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any, TypeVar, cast

Item = TypeVar("Item")
Tell = Callable[[float], Any]

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
PR_SET_PDEATHSIG = 1  # of Linux's prctl


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


def run(
    task: Callable[[Item, Tell], Any],
    items: Sequence[Item],
    report: Callable[[Item, float], Any],
    *,
    restarts: int,
    environments: Sequence[Mapping[str, str]],
) -> Generator[tuple[Item, str | None]]:
    """Do all items in processes of this machine, each on one thread. See the contract at the top of this module.

    Args:
        task: is pickled with each item by cloudpickle, so that functions of a notebook or a script do, too.
        items: to be done, in this order.
        report: told how much of an item is done.
        restarts: how often an item is started again when its worker dies.
        environments: environment variables of each worker, besides those of this process; as many workers.

    Yields:
        Each item when it ends, with None, or with the reason if it failed.
    """
    from cloudpickle import dumps

    waiting = deque((item, dumps(partial(task, item))) for item in items)
    deaths: Counter[bytes] = Counter()
    workers: dict[Connection, _Worker] = {}
    with ExitStack() as outputs:

        def start(environment: Mapping[str, str]) -> None:
            worker = _Worker(environment, outputs.enter_context(tempfile.TemporaryFile()))
            workers[worker.connection] = worker
            worker.give(*waiting.popleft())

        try:
            for environment in environments[: len(items)]:
                start(environment)
            while workers:
                for connection in wait(list(workers)):
                    worker = workers[cast(Connection, connection)]
                    item = worker.item
                    ended, value = worker.receive()
                    if ended is None:  # the worker died
                        del workers[worker.connection]
                        deaths[worker.call] += 1
                        if ended := deaths[worker.call] > restarts:
                            value = f"its worker died {deaths[worker.call]} times, the last time {value}"
                        else:
                            waiting.appendleft((item, worker.call))
                        if waiting:
                            start(worker.environment)
                    elif not ended:
                        report(item, value)
                    elif waiting:
                        worker.give(*waiting.popleft())
                    else:
                        workers.pop(worker.connection).end()
                    if ended:
                        yield item, value
        finally:
            _end(list(workers.values()))


def _end(workers: list[_Worker]) -> None:
    """Kill them all first, and wait for each then."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.end()


class _Worker:
    """A process that does one call after another.

    Args:
        environment: variables of its environment, besides those of this process.
        output: where what it prints goes.
    """

    item: Any
    call: bytes

    def __init__(self, environment: Mapping[str, str], output: IO[bytes]) -> None:
        self.environment, self.output = environment, output
        self.connection, there = Pipe()
        program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({there.fileno()})"
        with there:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program],
                env={**os.environ, **ONE_THREAD, **environment},
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def give(self, item: Any, call: bytes) -> None:
        """Let it do ``call``, which is that of ``item``."""
        self.item, self.call = item, call
        with suppress(OSError):  # it died already: the next attempt to receive finds that
            self.connection.send_bytes(call)

    def end(self) -> None:
        """Kill it: what it leaves on disk is whole at any moment."""
        self.process.kill()
        self.process.wait()
        self.connection.close()

    def receive(self) -> tuple[bool | None, Any]:
        """Whether its call has ended, with the reason of a failure, or how much is done; None and how if it died."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None, self.died()

    def died(self) -> str:
        """How it ended of itself."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)  # its pipe closes a moment before the process ends
        self.end()
        status = self.process.returncode
        how = f"with status {status}" if status >= 0 else f"by signal {-status} ({signal.strsignal(-status)})"
        self.output.seek(0)
        return ": ".join([how, *self.output.read().decode(errors="replace").strip().splitlines()[-1:]])


def serve(handle: int) -> None:
    """What a worker runs: one call after another, as long as its parent lives.

    Args:
        handle: the file descriptor of its end of the pipe.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches workers, too; the parent ends them
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # at once, whatever a worker is doing
    connection = Connection(handle)
    calls: SimpleQueue[bytes] = SimpleQueue()

    def receive() -> None:
        with suppress(EOFError, OSError):
            while True:
                calls.put(connection.recv_bytes())
        os._exit(1)  # the parent is no more: on other systems, or when it died before prctl

    Thread(target=receive, daemon=True).start()
    while True:
        connection.send((True, do(calls.get(), lambda done: connection.send((False, done)))))


def do(call: bytes, tell: Tell) -> str | None:
    """Do a pickled call in this process; returns what went wrong, in one line. Both engines run it in their workers."""
    try:
        pickle.loads(call)(tell)
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None
