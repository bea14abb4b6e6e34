"""Signals within the block and after it, in the main thread and in another, and the status of who is ended."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from ismkit.training.distributed import REQUEUE, SIGNALS, Preempted, listening


def test_signals_are_heard_within_the_block_alone() -> None:
    assert {signal.SIGTERM, signal.SIGUSR1} == set(SIGNALS)
    before = [signal.getsignal(number) for number in SIGNALS]
    for number in SIGNALS:
        with listening() as heard:
            assert not heard()
            os.kill(os.getpid(), number)
            assert heard()
        with listening() as again:
            assert not again()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_interrupts_are_left_alone() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the background jobs of a shell ignore it
    try:
        with pytest.raises(KeyboardInterrupt), listening():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("inactive", [True, False])
def test_without_a_folder_or_in_a_thread_signals_keep_their_meaning(inactive: bool) -> None:
    found = []

    def look() -> None:
        with listening(active=not inactive) as heard:
            found.append((signal.getsignal(signal.SIGTERM), heard()))

    before = signal.getsignal(signal.SIGTERM)
    if inactive:
        look()
    else:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert found == [(before, False)]


def test_a_process_that_is_ended_exits_with_the_status_to_try_again() -> None:
    code = "from ismkit.training import Preempted\ntry:\n    raise Preempted('ended', 3)\nexcept Exception:\n    pass"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (REQUEUE, "")  # no `except Exception` holds it up
    assert str(Preempted("ended at step 3", 3)) == "ended at step 3"
