"""One task in several processes of a machine, which report how far they are."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from ismkit.data import DataError

#: Called with what was done since the last call, in two units, such as images and shards.
Tick = Callable[[int, int], None]


def run_workers(task: Callable[[int, int, Tick], object], workers: int, rank: int, world: int, tick: Tick) -> None:
    """Run ``task(rank, world, tick)`` in ``workers`` new processes, which share out PyTorch's threads.

    Args:
        task: can be pickled; what its ``tick`` raises must end it.
        workers: number of processes.
        rank: of this call among ``world`` of them: its workers are ``rank * workers``, ... of ``world * workers``.
        world: number of calls.
        tick: called in this process, twice a second or less, with the sums over all workers.

    Raises:
        DataError: if a worker dies.
        Exception: what a worker raised; the others end at their next tick.
    """
    context = multiprocessing.get_context("spawn")  # fork and CUDA do not go together
    shared = (context.Array("q", 2), context.Event())
    seen = (0, 0)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_share, initargs=(*shared, workers)) as pool:
        futures = [pool.submit(_work, task, rank * workers + k, world * workers) for k in range(workers)]
        waiting: set[Future[None]] = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=0.5)
            before, seen = seen, (shared[0][0], shared[0][1])
            tick(seen[0] - before[0], seen[1] - before[1])
            if any(future.exception() for future in done):
                shared[1].set()
    errors = [error for future in futures if (error := future.exception()) and not isinstance(error, _StoppedError)]
    if errors and isinstance(errors[0], BrokenProcessPool):
        raise DataError(
            "a worker died, by lack of memory or by a kill. What was finished is kept: the same command goes on"
        ) from errors[0]
    if errors:
        raise errors[0]


class _StoppedError(Exception):
    """Another worker failed."""


_shared: dict[str, Any] = {}


def _share(count: Any, stop: Any, workers: int) -> None:
    _shared.update(count=count, stop=stop)
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))


def _work(task: Callable[[int, int, Tick], object], rank: int, world: int) -> None:
    def tick(first: int, second: int) -> None:
        with _shared["count"].get_lock():
            _shared["count"][0] += first
            _shared["count"][1] += second
        if _shared["stop"].is_set():
            raise _StoppedError

    task(rank, world, tick)
