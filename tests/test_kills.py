"""A few kills of what no other test kills as a whole; ``python -m tests.kills`` does all jobs, many times."""

import random
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from tests.kills import JOBS, contents, try_job, unreadable


@pytest.mark.parametrize("name", ["training of two processes", "evaluation"])
def test_what_is_killed_ends_as_if_it_had_not_been(name: str) -> None:
    count = try_job(JOBS[name], 1, random.Random(0))
    assert (count.unread, count.differ) == ((), ())
    assert count.kills
    assert count.rounds


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
