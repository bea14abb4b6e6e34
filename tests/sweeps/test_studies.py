"""Studies: nothing is run twice, nothing is lost, settings are not mixed, and the interval is Student's."""

import csv
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from ismkit.sweeps.studies import FOLDER, column, mean_interval, read, run_study
from ismkit.sweeps.sweep import read_table
from ismkit.training.runs import RUNS, Run
from ismkit.utils.files import DataError, file_sum
from ismkit.utils.store import Store
from ismkit.utils.weights import SUM

VARIANTS = {name: replace(RUNS["gaussians"], steps=steps) for name, steps in (("short", 1), ("long", 2))}


def test_runs_once_each_seed_by_seed_and_continues(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []

    def work(run: Run, seed: int) -> dict[str, Any]:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append((run.steps, seed))
        return {"score": 10.0 * run.steps + seed}

    path = tmp_path / "new" / "study.json"
    with pytest.raises(KeyboardInterrupt):
        run_study(path, VARIANTS, range(2), work)
    assert done == [(1, 0), (2, 0), (1, 1)]
    assert len(json.loads(path.read_text())["value"]["results"]) == 3
    done[:] = done[:2]
    results = run_study(path, VARIANTS, range(2), work)
    assert done == [(1, 0), (2, 0), (2, 1)]  # only what was missing
    assert results == json.loads(path.read_text())["value"]["results"]
    assert [list(path.parent.iterdir())] == [[path]]
    torch.testing.assert_close(column(results, "long", "score"), torch.tensor([20.0, 21.0], dtype=torch.float64))
    assert {"device", "torch", "python", "cpu_seconds"} <= results[0].keys()


def test_a_seed_named_twice_is_trained_once_and_no_one_else_writes_the_file_meanwhile(tmp_path: Path) -> None:
    def work(run: Run, seed: int) -> dict[str, Any]:
        with ThreadPoolExecutor(1) as other:
            refused = other.submit(run_study, tmp_path / "study.json", VARIANTS, [7], work).exception()
        assert isinstance(refused, ValueError)
        assert "another study works in" in str(refused)
        return {"score": 1.0}

    results = run_study(tmp_path / "study.json", {"short": VARIANTS["short"]}, [0, 0], work)
    assert [result["seed"] for result in results] == [0]


def test_columns_are_in_the_order_of_the_seeds() -> None:
    results = [{"variant": "a", "seed": seed, "score": seed} for seed in (2, 0, 1)]
    assert column(results, "a", "score").tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="no results of variant 'b'"):
        column(results, "b", "score")
    with pytest.raises(ValueError, match="key must be what 'a' measured, got 'loss', which seed 2 has not"):
        column(results, "a", "loss")


def test_the_committed_studies_are_as_they_were_written() -> None:
    """Tables and JSON state the sum of their contents, so that damage is found; those of texts stand beside them."""
    listed = dict(reversed(line.split()) for line in (FOLDER / "SHA256SUMS").read_text().splitlines())
    sums = {path.name: file_sum(path) for path in FOLDER.glob("*.csv")}
    assert listed == sums, "after a script has written one: cd book/studies && sha256sum *.csv > SHA256SUMS"
    for path in sorted(FOLDER.iterdir()):
        if path.suffix == ".parquet":
            assert SUM in pd.read_parquet(path).attrs, path.name
            assert len(read_table(path)), path.name
        elif path.suffix == ".json":
            assert read(path.stem), path.name
        elif path.suffix == ".csv":
            head, *rows = csv.reader(path.read_text().splitlines())
            assert rows, path.name
            assert {len(row) for row in rows} == {len(set(head))}, path.name


@pytest.mark.parametrize("value", [{"variants": {}}, {"variants": {}, "results": [{}]}, []])
def test_a_study_of_another_form_is_named(value: Any, tmp_path: Path) -> None:
    """Its sum is right: someone wrote it so."""
    Store(tmp_path, "ismkit study").write("study.json", value)
    with pytest.raises(DataError, match=r"study\.json.* (has no|must be) .*: restore it, or delete it"):
        run_study(tmp_path / "study.json", {}, [], lambda run, seed: {})


def test_other_settings_are_refused_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    run_study(path, VARIANTS, [0], lambda run, seed: {})
    before = path.read_bytes()
    changed = VARIANTS | {"long": replace(VARIANTS["long"], steps=3)}
    with pytest.raises(ValueError, match="holds results of 'long' with other settings"):
        run_study(path, changed, [1], lambda run, seed: pytest.fail("worked"))
    assert path.read_bytes() == before
    run_study(path, {"third": changed["long"]}, [0], lambda run, seed: {})  # another variant may join
    assert json.loads(path.read_text())["value"]["variants"].keys() == {"short", "long", "third"}


def test_interval_of_five_values() -> None:
    """By hand: mean 3, standard deviation sqrt(2.5), t of 4 degrees of freedom at 97.5 % is 2.7764."""
    mean, half = mean_interval(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert mean == 3
    assert half == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)


@pytest.mark.parametrize("n", [2, 5])
def test_interval_covers_the_mean_as_often_as_it_says(n: int) -> None:
    draws = torch.randn(2000, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covered = sum(abs(mean) <= half for mean, half in map(mean_interval, draws)) / len(draws)
    assert abs(covered - 0.95) < 5 * math.sqrt(0.95 * 0.05 / len(draws))
    with pytest.raises(ValueError, match=r"values must be \(n,\) with n >= 2"):
        mean_interval(draws[0, :1])


@pytest.mark.parametrize("name", ["wavelet"])
def test_committed_studies_are_complete(name: str) -> None:
    """Every variant with the same seeds, at least five."""
    results = read(name)
    by_variant: dict[str, set[int]] = {}
    for result in results:
        by_variant.setdefault(result["variant"], set()).add(result["seed"])
    assert len(results) == sum(map(len, by_variant.values())), "a variant holds a seed twice"
    assert len(set(map(frozenset, by_variant.values()))) == 1
    assert len(next(iter(by_variant.values()))) >= 5
