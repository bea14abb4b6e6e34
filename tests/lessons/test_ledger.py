"""Checks judge and record as they say; the committed ledger agrees with the notebooks and with its own seeds."""

import ast
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import nbformat
import pytest

from ismkit.lessons import ledger
from ismkit.lessons.claims import CLAIMS, Claim
from ismkit.lessons.ledger import ClaimError, Entry, Ledger, Verdict
from tests.conftest import ROOT

LAW, OTHER = "C03.test_law", "C03.test_other"
FILES = sorted((ROOT / "book" / "ledger").glob("*.json"))
SEEDS = 5
FULL_SCALE = {"C12.fid1", "C12.fid4", "C12.ladder"}  # judged by nobody without ImageNet: no row yet


@pytest.fixture(autouse=True)
def _claims(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ISMKIT_OUT", str(tmp_path))
    for key in (LAW, OTHER):
        monkeypatch.setitem(CLAIMS, key, Claim("a law of the tests alone", "kit"))


def row(seed: int = 0, measured: float = 1.0, **changes: object) -> Entry:
    common = Entry(LAW, "03", 4, "laptop", seed, "cpu", "2.14.1", measured, "==", 1.0, 0.5, "toy only")
    return replace(common, **changes)  # type: ignore[arg-type]


# ---------------------------------------------------------------- check


@pytest.mark.parametrize(
    ("measured", "relation", "tolerance", "passes"),
    [
        (2.5, "==", 0.5, True),
        (1.5, "==", 0.5, True),
        (2.6, "==", 0.5, False),
        (1.4, "==", 0.5, False),
        (2.0, "==", 0.0, True),
        (2.5, "<=", 0.5, True),
        (2.6, "<=", 0.5, False),
        (-9.0, "<=", 0.0, True),
        (1.5, ">=", 0.5, True),
        (1.4, ">=", 0.5, False),
        (9.0, ">=", 0.0, True),
        (math.nan, "==", 9.0, False),
        (math.nan, "<=", 9.0, False),
        (math.nan, ">=", 9.0, False),
        (math.inf, "==", 9.0, False),
    ],
)
def test_check_judges_by_relation_and_tolerance(
    measured: float, relation: ledger.Relation, tolerance: float, passes: bool
) -> None:
    book = Ledger("03", "laptop", 0)
    if passes:
        book.check(LAW, measured, 2.0, tolerance, relation=relation)
        assert book.rows[LAW].measured == measured
    else:
        with pytest.raises(ClaimError, match=re.escape(LAW)):
            book.check(LAW, measured, 2.0, tolerance, relation=relation)
        assert not book.rows
        assert not book.path.exists()


def test_check_prints_what_is_wanted_and_nothing_measured(capsys: pytest.CaptureFixture[str]) -> None:
    book = Ledger("03", "laptop", 0)
    book.check(LAW, 17.08593749, 1.5**7, 1e-6)
    book.check(OTHER, 0.123, 0.4, relation="<=")
    assert (
        capsys.readouterr().out == "PASS C03.test_law: want = 17.0859 within 1e-06\nPASS C03.test_other: want <= 0.4\n"
    )


def test_smaller_profiles_leave_the_check_for_later(capsys: pytest.CaptureFixture[str]) -> None:
    book = Ledger("03", "smoke", 0)
    book.check(LAW, 99.0, 1.0, at="laptop")  # would fail
    assert capsys.readouterr().out == "LATER C03.test_law: want = 1, judged from profile laptop on\n"
    assert not book.rows
    for profile, at in (("gpu", "laptop"), ("laptop", "laptop"), ("smoke", "smoke")):
        with pytest.raises(ClaimError):
            Ledger("03", profile, 0).check(LAW, 99.0, 1.0, at=at)


def test_rows_are_recorded_one_per_claim_with_all_that_made_them(tmp_path: Path) -> None:
    book = Ledger("03", "laptop", 7)
    book.check(LAW, 1.0, 1.0, verdict="verified")
    book.check(OTHER, 1.0, 2.0, 1.0, verdict="contradicted")
    book.check(LAW, 1.25, 1.5, 0.25)  # the cell is run again
    assert book.path == tmp_path / "ledger" / "03.json"
    first, second = ledger.read(book.path)
    assert first == Entry(LAW, "03", None, "laptop", 7, "cpu", first.torch, 1.25, "==", 1.5, 0.25, "toy only")
    assert (second.claim, second.verdict) == (OTHER, "contradicted")
    assert first.torch[0].isdigit()


@pytest.mark.parametrize("claim", ["C03.nonsense", "C12.fid1", "law"])
def test_claims_of_others_are_refused(claim: str) -> None:
    with pytest.raises(ValueError, match=rf"one of notebook 03's \(.*{LAW}.*\), got '{claim}'"):
        Ledger("03", "laptop", 0).check(claim, 1.0, 1.0)


def test_profile_and_tolerance_are_checked() -> None:
    with pytest.raises(ValueError, match="profile must be one of smoke, laptop, gpu, paper, got 'fast'"):
        Ledger("03", "fast", 0)
    with pytest.raises(ValueError, match="tolerance must be a number of at least 0, got -1"):
        Ledger("03", "laptop", 0).check(LAW, 1.0, 1.0, -1.0)


# ---------------------------------------------------------------- files and tables


def test_read_refuses_other_files(tmp_path: Path) -> None:
    path = ledger.write([row()], tmp_path / "03.json")
    assert ledger.read(path) == [row()]
    for text in ("", "{}", '[{"claim": 1}]', "[1]"):
        path.write_text(text)
        if text == "{}":
            assert ledger.read(path) == []
        else:
            with pytest.raises(ValueError, match="no file of ledger rows"):
                ledger.read(path)


def test_joined_rows_keep_what_each_seed_measured() -> None:
    runs = [[row(2, 1.4)], [row(0, 1.1), row(0, 5.0, claim=OTHER)], [row(10, 0.9)]]
    law, other = ledger.joined(runs)
    assert law == row(0, 1.1, seeds={"0": 1.1, "2": 1.4, "10": 0.9})
    assert other.seeds == {"0": 5.0}
    with pytest.raises(ValueError, match="measured twice with seed 1"):
        ledger.joined([[row(1)], [row(1)]])
    with pytest.raises(ValueError, match="seeds 0 and 1 differ in device, verdict"):
        ledger.joined([[row(0)], [row(1, device="cuda", verdict="verified")]])


def test_spread_is_the_sample_standard_deviation() -> None:
    assert ledger.spread({"0": 1.0, "1": 3.0}) == pytest.approx(math.sqrt(2))
    assert math.isnan(ledger.spread({"0": 1.0}))


def test_table_has_every_claim_and_marks_those_without_a_row() -> None:
    entries = ledger.table([row(0, 1.0, seeds={"0": 1.0, "1": 1.5})])
    assert [entry["claim"] for entry in entries] == list(CLAIMS)
    (law,) = (entry for entry in entries if entry["claim"] == LAW)
    expected = {"verdict": "toy only", "want": "= 1 within 0.5", "measured": "1.25", "spread": "0.35", "seeds": 2}
    assert expected.items() <= law.items()
    (fid,) = (entry for entry in entries if entry["claim"] == "C12.fid1")
    assert (fid["verdict"], fid["seeds"]) == ("not measured", 0)  # faults A9: where nothing of notebook 12 was measured
    (fid,) = (e for e in ledger.table([replace(row(0), claim="C12.fid4")]) if e["claim"] == "C12.fid1")
    assert fid["verdict"] == "needs GPU"
    lines = ledger.as_text(entries).splitlines()
    assert len(lines) == len(CLAIMS) + 1
    assert any(line.startswith(LAW) and "toy only" in line and "1.25" in line for line in lines)
    markdown = ledger.as_markdown(entries).splitlines()
    assert len(markdown) == len(CLAIMS) + 2
    assert {line.count("|") for line in markdown} == {9}
    assert any(
        line.startswith(f"| `{LAW}` | a law of") and "| toy only | = 1 within 0.5 | 1.25 |" in line for line in markdown
    )


def test_verdicts_are_counted_in_their_order() -> None:
    rows = [row(), row(verdict="contradicted"), row(), row(verdict="verified")]
    assert ledger.verdicts(rows) == "1 verified, 2 toy only, 1 contradicted"
    assert ledger.verdicts([]) == ""


# ---------------------------------------------------------------- the committed ledger


def checked_claims(path: Path) -> set[str]:
    """First arguments of the calls of ``.check`` in a notebook."""
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    calls = [
        node
        for source in code
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "check"
    ]
    assert all(isinstance(call.args[0], ast.Constant) for call in calls), f"{path.name}: name the claim in the call"
    return {str(call.args[0].value) for call in calls}  # type: ignore[attr-defined]


NOTEBOOKS = {path.stem[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if checked_claims(path)}


def test_every_notebook_that_checks_claims_has_its_rows() -> None:
    assert [path.stem for path in FILES] == list(NOTEBOOKS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_committed_rows_are_those_of_the_notebook(path: Path) -> None:
    rows = {row.claim: row for row in ledger.read(path)}
    listed = {key for key in CLAIMS if key.startswith(f"C{path.stem}.")} - {LAW, OTHER}
    assert rows.keys() == checked_claims(NOTEBOOKS[path.stem]) - FULL_SCALE == listed - FULL_SCALE
    cells = nbformat.read(NOTEBOOKS[path.stem], as_version=4).cells
    printed = {
        line
        for cell in cells
        if cell.cell_type == "code" and "nbval-check-output" in cell.metadata.get("tags", [])
        for output in cell.outputs
        for line in output.get("text", "").splitlines()
    }
    for claim, one in rows.items():
        assert one.verdict in get_args(Verdict)
        assert (one.notebook, one.profile, one.seed) == (path.stem, "laptop", 0), claim
        within = f" within {one.tolerance:.2g}" if one.tolerance else ""
        line = f"PASS {claim}: want {ledger.SIGNS[one.relation]} {one.expected:.6g}{within}"
        assert line in printed, f"not among the compared outputs of the committed notebook: {line}"
        (cell,) = (c for c in cells if c.cell_type == "code" and f'"{claim}"' in c.source)
        assert cell.execution_count == one.cell, f"{claim}: measured by another version of the notebook"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_committed_rows_hold_for_every_seed_with_room_for_the_spread(path: Path) -> None:
    for one in ledger.read(path):
        assert len(one.seeds) >= SEEDS, one.claim
        assert one.seeds["0"] == one.measured
        for seed, measured in one.seeds.items():
            assert ledger.holds(measured, one.relation, one.expected, one.tolerance), f"{one.claim}, seed {seed}"
        mean = sum(one.seeds.values()) / len(one.seeds)
        room = one.tolerance + (0 if one.relation == "==" else abs(one.expected - mean))
        assert room >= 2 * ledger.spread(one.seeds), f"{one.claim}: tolerance is below twice the spread"


def test_committed_rows_are_plain_json() -> None:
    for path in FILES:
        for entry in json.loads(path.read_text()):
            assert all(math.isfinite(v) for v in entry.values() if isinstance(v, float)), entry
