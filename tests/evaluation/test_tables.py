"""Tables: every number stands beside its protocol, the paper's are the paper's, and what was not run is called so."""

import csv
import json
import math
from pathlib import Path
from typing import Any

from ismkit.evaluation.fidelity import METRICS, choose
from ismkit.evaluation.tables import as_text, ours, paper_tables, write

PROTOCOL = {"labels": "in turn", "sampler": "Euler, one network call per step"}


def row(nfe: int, w: float, fid: float, n: int = 50_000, **scores: float) -> dict[str, Any]:
    return {"nfe": nfe, "w": w, "n": n, "seed": 0, "fid": fid, **scores}


def test_printed_table_begins_with_the_protocol() -> None:
    text = as_text([row(1, 0.5, 1 / 3), row(128, 0.0, 12.5)], choose(["fid"]), PROTOCOL)
    lines = text.splitlines()
    assert lines[:2] == ["labels: in turn", "sampler: Euler, one network call per step"]
    assert lines[2].split() == ["NFE", "w", "n", "seed", "FID"]
    assert [line.split() for line in lines[3:]] == [
        ["1", "0.5", "50000", "0", "0.333"],
        ["128", "0", "50000", "0", "12.500"],
    ]
    assert len({len(line) for line in lines[2:]}) == 1


def test_files_hold_every_number_exactly_with_the_protocol_beside_it(tmp_path: Path) -> None:
    rows = [row(1, 0.5, 1 / 3), row(2, 0.0, math.pi)]
    for path in write(rows, choose(["fid"]), PROTOCOL, tmp_path / "new"):
        if path.suffix == ".json":
            held = json.loads(path.read_text())
            assert (held["rows"], held["protocol"]) == (rows, PROTOCOL)
            assert held["metrics"]["fid"]["extractor"] == "inception"
        else:
            with path.open(newline="") as file:
                read = list(csv.DictReader(file))
            assert [float(line["fid"]) for line in read] == [1 / 3, math.pi]
            assert all({key: line[key] for key in PROTOCOL} == PROTOCOL for line in read)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["scores.csv", "scores.json"]


def test_paper_stands_beside_what_was_not_run() -> None:
    text = paper_tables([], METRICS)
    lines = [[setting.strip() for setting in line.strip("|").split("|")] for line in text.splitlines()]
    assert lines[0][1:] == ["1 NFE", "2 NFE", "4 NFE", "8 NFE", "16 NFE", "128 NFE"]
    assert lines[2] == ["SM (paper)", "10.60", "-", "7.80", "-", "-", "3.80"]
    assert lines[3] == ["IMM (paper)", "-", "7.77", "3.99", "2.51", "1.99", "-"]  # two calls a step
    assert lines[4] == ["iSM (paper)", "5.27", "2.44", "2.05", "1.93", "-", "1.88"]
    assert lines[5] == ["iSM (here)", *["not run"] * 6]
    assert "IMM calls its network twice in each guided step" in text
    assert lines[11][1:4] == ["500.92 / 102.66", "329.53 / 125.66", "265.90 / 136.79"]
    assert lines[12][1:4] == ["232.31 / 223.52", "107.63 / 302.29", "83.70 / 298.23"]
    assert lines[13] == ["iSM (here)", *["not run"] * 6]


def test_ours_is_the_best_w_of_50_000_samples_in_the_networks_own_features() -> None:
    scores = {"is": 200.0, "fd_dinov2": 250.0}
    rows = [row(1, 0.0, 9.0, **scores), row(1, 1.0, 6.5, **scores | {"is": 210.0}), row(4, 1.0, 1.0, n=10_000)]
    assert ours(rows, METRICS, "fid", 1) == ("6.50", "1")
    assert ours(rows, METRICS, "is", 1) == ("210.00", "1")
    assert ours(rows, METRICS, "fid", 4) == ("not run", "")  # of 10 000 samples
    assert ours(rows, choose(["fid"], "small"), "fid", 1) == ("not run", "")
    text = paper_tables(rows, METRICS)
    assert "| iSM (here) | 6.50 (w = 1) | not run |" in text
    assert "| iSM (here) | 250.00 / 210.00 | not run |" in text
