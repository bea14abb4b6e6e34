"""Ending early, with a checkpoint, when a scheduler asks for it by a signal, so that the job can be queued again.

SIGTERM (Slurm at its time limit, Kubernetes, a launcher that is told to end) and SIGUSR1 (Slurm with
``--signal=USR1@300``, five minutes before the limit) do the same: the step under way is finished (by several processes
one more, to agree on it), a checkpoint is written, and each process exits with the status 75. SIGINT, the
Ctrl-C of a terminal, stays what it is: it ends a run at once. A launcher gives its processes 30 seconds after SIGTERM
and exits with a status of its own: where writing takes longer, send SIGUSR1 to the processes themselves.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: try again
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Preempted(SystemExit):
    """A run was asked to end, and has; where nothing catches it, the process exits with status 75, ``REQUEUE``.

    Attributes:
        step: optimiser steps done, and saved.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(REQUEUE)
        self.message, self.step = message, step

    def __str__(self) -> str:
        return self.message


@contextmanager
def listening(active: bool = True) -> Iterator[Callable[[], bool]]:
    """Within the block ``SIGNALS`` end nothing; the function that it gives says whether one has come.

    Python takes signals in the main thread only: in another, and if not ``active``, they keep their meaning.
    """
    came: list[int] = []
    if not active or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in SIGNALS}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
