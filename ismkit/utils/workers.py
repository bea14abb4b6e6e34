"""Work in new processes of this machine, which end with the process that started them.

Nothing is forked here. A forked process has the memory of its parent but none of its threads: where torch has computed
before the fork, on more than one thread, the first parallel loop in the new process waits forever for threads that are
not there. So a worker is a new interpreter (``subprocess``). It gets its work through a pipe, by cloudpickle: a
function of a notebook does as well as one of a module. It ends with its parent, however that ends: on Linux the system
kills it, and on any system it ends when the pipe closes.

:func:`run_group` is for work that all processes do together; :mod:`ismkit.sweeps.processes` hands out one item after
another.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection, Pipe, wait
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any, cast

Tell = Callable[[Any], Any]

PR_SET_PDEATHSIG = 1  # of Linux's prctl
PATIENCE = 900.0  # seconds; more than the 600 after which processes give up waiting for each other
GRACE = 30.0  # seconds between SIGTERM and SIGKILL, as torchrun has it
LOOK = 0.5  # seconds between two looks at what workers print
CHUNK = 1 << 20  # bytes of it that are read at once


class WorkerError(RuntimeError):
    """A process died, or all were silent for too long; the message says which, and how.

    Example:
        >>> import os
        >>> from ismkit.utils import WorkerError, run_group
        >>> try:
        ...     run_group(lambda rank, tell: os._exit(5), 1)
        ... except WorkerError as error:
        ...     print(error)
        process 0 of 1 ended with status 5
    """


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause garbage collection, which visits objects that are kept, such as those of a large import, again and again.

    Example:
        >>> import gc
        >>> from ismkit.utils.workers import collection_paused
        >>> with collection_paused():
        ...     import decimal
        ...     print(gc.isenabled())
        False
        >>> gc.isenabled()
        True
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def thread_limit(threads: int) -> dict[str, str]:
    """The environment variables that let a new process compute on so many threads."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def run_group(
    task: Callable[[int, Tell], Any],
    processes: int,
    *,
    report: Callable[[int, Any], Any] = lambda rank, value: None,
    threads: int = 1,
    patience: float = PATIENCE,
) -> None:
    """Call ``task(rank, tell)`` in new processes, all at once, and wait until all have returned.

    Several processes find each other as under ``torchrun``: ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and the like are
    set, and Accelerate takes them for one group. So this stands in a notebook for ``accelerate launch`` in a shell, and
    for ``accelerate.notebook_launcher``, which forks. What the processes print is printed here, line by line. If one of
    them fails, the others get SIGTERM, and SIGKILL 30 seconds later; if this process ends, so do they.

    Args:
        task: gets its rank, 0 .. processes - 1, and a function to tell this process how far it is. It is pickled by
            cloudpickle, so it may be a function of a notebook; what it returns is dropped.
        processes: at least 1.
        report: called in this process with the rank and the value of each ``tell``.
        threads: that torch computes on in each process.
        patience: seconds in which all processes may be silent. If none tells or prints anything, or ends, all are
            ended.

    Raises:
        ValueError: if ``processes`` or ``threads`` is below 1, or ``patience`` is not positive.
        WorkerError: if a process died, or all were silent for too long.
        Exception: what the task raised first, with its traceback as a note.

    Example:
        Two processes add up their ranks, by gloo:

        >>> from ismkit.utils import run_group
        >>> def add(rank, tell):
        ...     import torch.distributed as dist
        ...
        ...     dist.init_process_group("gloo")
        ...     tell("ready")
        ...     ranks = [None, None]
        ...     dist.all_gather_object(ranks, rank)
        ...     if rank == 0:
        ...         print("sum of the ranks:", sum(ranks))
        >>> run_group(add, 2, report=lambda rank, value: None)
        sum of the ranks: 1
        >>> run_group(add, 0)
        Traceback (most recent call last):
        ValueError: processes must be at least 1, got 0
    """
    from cloudpickle import dumps

    for name, number in (("processes", processes), ("threads", threads)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if not patience > 0:
        raise ValueError(f"patience must be positive, got {patience}")
    calls = [dumps(partial(_carry_out, task, rank)) for rank in range(processes)]
    environments = _group_environments(processes, threads)
    with ExitStack() as stack:
        workers = []
        for rank, call in enumerate(calls):
            out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            worker = Worker(environments[rank], out, err)
            stack.callback(worker.end)
            worker.give(rank, call)
            workers.append(worker)
        _Group(workers, report, patience).wait()


def _group_environments(processes: int, threads: int) -> list[dict[str, str]]:
    """What tells the processes of a group apart, with a free port at which they meet."""
    shared = {**thread_limit(threads), "PYTHONUNBUFFERED": "1"}  # what is printed arrives when it is printed
    if processes == 1:
        return [shared]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def readable(error: Exception) -> Exception:
    """Give an error as another process can read it: itself, or its text and traceback as a :class:`WorkerError`.

    Example:
        >>> from ismkit.utils.workers import readable
        >>> class OwnError(Exception):
        ...     def __init__(self, what, where):
        ...         super().__init__(f"{what} at {where}")
        >>> readable(KeyError("x")), type(readable(OwnError("nothing", "home"))).__name__
        (KeyError('x'), 'WorkerError')
    """
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # of a class of a notebook, or one with arguments of its own
        where = "".join(traceback.format_exception(error))
        return WorkerError(f"{type(error).__name__}: {error}\n{where}")
    return error


class _Failure:
    """An exception on its way to the parent, as bytes, so that what cannot be read there does no harm."""

    def __init__(self, error: Exception) -> None:
        error.add_note(f"in a process of its own:\n{''.join(traceback.format_exception(error))}")
        self.pickled = pickle.dumps(readable(error))

    def error(self) -> Exception:
        return cast(Exception, pickle.loads(self.pickled))


def _carry_out(task: Callable[[int, Tell], Any], rank: int, tell: Tell) -> None:
    try:
        task(rank, tell)
    except Exception as error:
        tell(_Failure(error))


class _Group:
    """Workers that succeed or fail together.

    Args:
        workers: with their work given, in the order of their ranks.
        report: as for :func:`run_group`.
        patience: as for :func:`run_group`.
    """

    def __init__(self, workers: list[Worker], report: Callable[[int, Any], Any], patience: float) -> None:
        self.workers, self.report, self.patience = workers, report, patience
        self.busy = {worker.connection: worker for worker in workers}
        self.failures: list[Exception] = []
        self.deadline = float("inf")  # of those that were asked to end
        self.killed = False

    def wait(self) -> None:
        """Wait until all have returned; raise what went wrong first."""
        heard = time.monotonic()
        while self.busy:
            ready = wait(list(self.busy), LOOK)
            for connection in ready:
                self._receive(self.busy[cast(Connection, connection)])
            printed = [worker.pass_on() for worker in self.workers]  # each, not up to the first that did
            now = time.monotonic()
            if ready or any(printed):
                heard = now
            if not self.failures and now - heard > self.patience:
                silent = f"{len(self.workers)} processes were silent for {self.patience:g} s and were ended"
                self._fail(WorkerError(silent))
            if now > self.deadline and not self.killed:
                self.killed = True
                for worker in self.busy.values():
                    worker.process.kill()
        for worker in self.workers:
            while worker.pass_on(all_of_it=True):
                pass
        if self.failures:
            raise self.failures[0]

    def _receive(self, worker: Worker) -> None:
        ended, value = worker.receive()
        if ended is False and isinstance(value, _Failure):
            self._fail(value.error())
        elif ended is False:
            self.report(worker.item, value)
        else:
            del self.busy[worker.connection]  # one that has returned lives until all have: others may still ask it
            if ended is None:
                self._died(worker, value)
            elif value is not None:
                self._fail(WorkerError(f"process {worker.item} of {len(self.workers)} failed: {value}"))

    def _died(self, worker: Worker, how: str) -> None:
        error = WorkerError(f"process {worker.item} of {len(self.workers)} ended {how}")
        status = worker.process.returncode
        if self.failures and status < 0 and status != -signal.SIGTERM and not self.killed:
            # A process that loses another in an exchange may report that first: the death is the cause.
            self.failures.insert(0, error)
        else:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self.failures:
            self.deadline = time.monotonic() + GRACE
            for worker in self.busy.values():
                worker.process.terminate()
        self.failures.append(error)


class Worker:
    """A process that does one call after another, on one thread if its environment does not say otherwise.

    Args:
        environment: variables of its environment, besides those of this process.
        out: a temporary file, for what it prints.
        err: one for its standard error; by default the same.
        preload: names of modules that it imports before its first call, while its parent does something else.
    """

    item: Any
    call: bytes

    def __init__(
        self,
        environment: Mapping[str, str],
        out: IO[bytes],
        err: IO[bytes] | None = None,
        preload: Sequence[str] = (),
    ) -> None:
        self.environment, self.out, self.err = environment, out, err
        self._passed = {out: 0, err: 0}
        self.connection, there = Pipe()
        served = f"{there.fileno()}, {list(preload)!r}"
        # While torch is imported, garbage collection would visit all of its objects again and again.
        program = f"import gc, sys; gc.disable(); sys.path[:] = {sys.path!r}; "
        program += f"from {__name__} import serve; serve({served})"
        with there:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program],
                env={**os.environ, **thread_limit(1), **environment},
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err or subprocess.STDOUT,
            )

    def give(self, item: Any, call: bytes) -> None:
        """Let it do ``call``, which is that of ``item``: see :func:`do`."""
        self.item, self.call = item, call
        with suppress(OSError):  # it died already: the next attempt to receive finds that
            self.connection.send_bytes(call)

    def end(self) -> None:
        """Kill it: what it leaves on disk is complete at any moment."""
        self.process.kill()
        self.process.wait()
        self.connection.close()

    def receive(self) -> tuple[bool | None, Any]:
        """Whether its call has ended, with the reason of a failure, or what it tells; None and how if it died."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None, self._how()

    def pass_on(self, *, all_of_it: bool = False) -> bool:
        """Print what it has printed since the last call, up to the end of a line; whether there was anything."""
        return any([self._pass_on(self.out, sys.stdout, all_of_it), self._pass_on(self.err, sys.stderr, all_of_it)])

    def _pass_on(self, file: IO[bytes] | None, stream: IO[str], all_of_it: bool) -> bool:
        if file is None:
            return False
        # Not `read`: the worker writes at the place in the file that this process would move.
        new = os.pread(file.fileno(), CHUNK, self._passed[file])
        end = max(new.rfind(b"\n"), new.rfind(b"\r")) + 1
        if not all_of_it and (end or len(new) < CHUNK):
            new = new[:end]
        self._passed[file] += len(new)
        if new:
            stream.write(new.decode(errors="replace"))
            stream.flush()
        return bool(new)

    def _how(self) -> str:
        """How it ended of itself."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)  # its pipe closes a moment before the process ends
        self.end()
        status = self.process.returncode
        how = f"with status {status}" if status >= 0 else f"by signal {-status} ({signal.strsignal(-status)})"
        said = (self.err or self.out).fileno()
        last = os.pread(said, 10_000, max(0, os.fstat(said).st_size - 10_000))
        return ": ".join([how, *last.decode(errors="replace").strip().splitlines()[-1:]])


def serve(handle: int, preload: Sequence[str] = ()) -> None:
    """What a worker runs: one call after another, as long as its parent lives.

    Args:
        handle: the file descriptor of its end of the pipe.
        preload: names of modules to import first.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # no print may end the work
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
    for name in preload:
        with suppress(Exception):  # the call that needs the module fails by the same error, and can report it
            import_module(name)
    while True:
        connection.send((True, do(calls.get(), lambda value: connection.send((False, value)))))


def do(call: bytes, tell: Tell) -> str | None:
    """Do a pickled call, which gets ``tell``; returns what went wrong, in one line."""
    try:
        task = pickle.loads(call)
        if not gc.isenabled():  # the first call of a worker: the modules that it needs are imported, and are kept
            gc.freeze()
            gc.enable()
        task(tell)
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None
