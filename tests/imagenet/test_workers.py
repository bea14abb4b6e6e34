"""Workers: ranks, the sums of their reports, and an error that ends the others."""

import time
from pathlib import Path

import pytest

from ismkit.imagenet.encoding import Tick, run_workers


def leave_a_mark(rank: int, world: int, tick: Tick) -> None:
    """Of a folder named by the working directory: a file for this rank."""
    tick(10**rank, 1)
    Path(f"{rank} of {world}").touch()


def fail_or_wait(rank: int, world: int, tick: Tick) -> None:
    if rank == 0:
        raise ValueError("no such image")
    for _ in range(6000):
        tick(0, 0)  # ends this worker once the other has failed
        time.sleep(0.1)
    Path("went on").touch()


@pytest.mark.slow
def test_workers_have_their_ranks_and_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reports: list[tuple[int, int]] = []
    run_workers(leave_a_mark, 2, 1, 3, lambda *report: reports.append(report))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2 of 6", "3 of 6"]
    assert [sum(column) for column in zip(*reports, strict=True)] == [1100, 2]
    with pytest.raises(ValueError, match="no such image"):
        run_workers(fail_or_wait, 2, 0, 1, lambda *report: None)
    assert not (tmp_path / "went on").exists()
