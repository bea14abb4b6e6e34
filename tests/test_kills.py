"""A few kills of what no other test kills as a whole; ``python -m tests.kills`` does all jobs, many times.

The others are killed by hand alone: a round starts each job three times. Trainings, of one process and of several, are
killed in tests/training and in notebook 11, sweeps in tests/sweeps, and what encodes photographs in tests/imagenet.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from tests import kills
from tests.kills import JOBS, Count, contents, try_job, unreadable


@pytest.mark.slow
def test_an_evaluation_that_is_killed_ends_as_if_it_had_not_been() -> None:
    count = try_job(JOBS["evaluation"], 1, "evaluation")
    assert (count.unread, count.differ) == ((), ())
    assert count.kills
    assert count.rounds


def test_counts_of_rounds_that_ended_outlive_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call adds what is missing; other code and another seed begin from scratch."""
    asked: list[tuple[int, int]] = []

    def stopped(job: Any, wanted: int, seed: str, count: Count, report: Any, keep: Any) -> None:
        asked.append((count.kills, count.rounds))
        keep(Count(count.kills + 2, 1, count.rounds + 1))
        if count.kills < 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(kills, "try_job", stopped)
    command = ["sweep", "--kills", "6", "--counts", str(tmp_path / "counts.json")]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            kills.main(command)
    for _ in range(2):  # the second has nothing left to do
        kills.main(command)
    assert asked == [(0, 0), (2, 1), (4, 2)]
    kills.main([*command, "--kills", "2"])
    monkeypatch.setattr(kills, "source_sum", lambda: "other")
    with pytest.raises(KeyboardInterrupt):
        kills.main(command)
    with pytest.raises(KeyboardInterrupt):
        kills.main([*command, "--seed", "1"])
    assert asked[3:] == [(0, 0), (0, 0)]
    rows = json.loads((tmp_path / "counts.json").read_text())
    assert [(row["job"], row["seed"], row["kills"], row["rounds"]) for row in rows] == [
        ("sweep", 0, 6, 3),
        ("sweep", 0, 2, 1),
        ("sweep", 1, 2, 1),
    ]


def test_what_cannot_be_read_is_named_and_partial_files_are_not(tmp_path: Path) -> None:
    for name in ("whole.json", "cut.json", ".left.json.partial-1"):
        (tmp_path / name).write_text("{}" if name == "whole.json" else "{")
    save_file({"x": torch.ones(3)}, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-1])
    assert sorted(said.partition(":")[0] for said in unreadable(tmp_path)) == ["cut.json", "cut.safetensors"]


def test_results_differ_by_their_numbers_and_not_by_what_no_two_runs_share(tmp_path: Path) -> None:
    def checkpoint(x: float, state: float) -> str:
        save_file({"net": torch.tensor([x]), "random.torch": torch.tensor([state])}, tmp_path / "a.safetensors")
        return contents(tmp_path / "a.safetensors")

    def scores(w2: float, seconds: float) -> str:
        pd.DataFrame({"w2": [w2], "seconds_per_step": [seconds]}).to_parquet(tmp_path / "a.parquet")
        return contents(tmp_path / "a.parquet")

    for made in (checkpoint, scores):
        assert made(1.0, 2.0) == made(1.0, 3.0) != made(1.0 + 1e-6, 2.0)
