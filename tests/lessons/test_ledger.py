"""Checks judge and record as they say; the committed ledger agrees with the notebooks and with its own seeds."""

import ast
import json
import math
import re
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from scipy import stats

from ismkit.lessons import ledger
from ismkit.lessons.claims import CLAIMS, Claim
from ismkit.lessons.ledger import ClaimError, Entry, Ledger
from ismkit.sweeps import FOLDER, compare_pairs, read_table, studies
from ismkit.sweeps.ladder import BEST_SCALE, RUNGS, reported
from tests.conftest import ROOT

LAW, OTHER, EXACT, STUDY = "C03.test_law", "C03.test_other", "C03.test_exact", "C03.test_study"
FILES = sorted((ROOT / "book" / "ledger").glob("*.json"))
SEEDS = 5
FULL_SCALE = {"C12.fid1", "C12.fid4", "C12.ladder"}  # judged by nobody without ImageNet: no row yet


@pytest.fixture(autouse=True)
def _claims(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ISMKIT_OUT", str(tmp_path))
    monkeypatch.setenv("ISMKIT_CHECKS", "")
    for key in (LAW, OTHER):
        monkeypatch.setitem(CLAIMS, key, Claim("a law of the tests alone", "kit"))
    monkeypatch.setitem(CLAIMS, EXACT, Claim("an identity of the tests alone", "kit", "exact", "computed", "given"))
    study = Claim("a difference of the tests alone", "paper", "not resolved", "study", trainings=3)
    monkeypatch.setitem(CLAIMS, STUDY, study)


def row(seed: int = 0, measured: float = 1.0, **changes: object) -> Entry:
    common = Entry(LAW, "03", 4, "laptop", seed, "cpu", "2.14.1", measured, "==", 1.0, 0.5)
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


def test_check_prints_what_is_wanted_and_behind_a_bar_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    book = Ledger("03", "laptop", 0)
    book.check(LAW, 17.08593749, 1.5**7, 1e-6)
    book.check(OTHER, 0.123, 0.4, relation="<=")
    assert capsys.readouterr().out == (
        "PASS C03.test_law: want = 17.0859 within 1e-06 | measured 17.0859 | toys only\n"
        "PASS C03.test_other: want <= 0.4 | measured 0.123 | toys only\n"
    )


def test_check_prints_the_spread_that_the_book_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ledger, "CHECKOUT", tmp_path)
    held = [row(seeds={"0": 1.0, "1": 1.5}), row(claim=STUDY, half_width=0.25, seeds={"0": 1.0, "1": 1.0})]
    ledger.write([*held, row(claim=EXACT, seeds={"0": 1.0, "1": 1.0})], tmp_path / "book" / "ledger" / "03.json")
    ledger._in_book.cache_clear()
    book = Ledger("03", "laptop", 0)
    for claim in (LAW, STUDY, EXACT, OTHER):
        book.check(claim, 1.0, 1.0)
    ledger._in_book.cache_clear()
    assert [line.partition(" | ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "measured 1, spread 0.35 over 2 trainings | toys only",
        "measured 1 ± 0.25 over 3 trainings, read from a study | not resolved",
        "measured 1 | exact",
        "measured 1 | toys only",
    ]


def test_check_prints_what_failed_on_fresh_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ledger, "CHECKOUT", tmp_path)
    third = "C03.test_third"
    monkeypatch.setitem(CLAIMS, third, CLAIMS[OTHER])
    held = [row(seeds={"0": 1.0, "1": 1.5}, fresh={"1000": 1.0, "1001": 1.7}), row(claim=OTHER, fresh={"1000": 1.0})]
    held += [row(claim=third, fresh={"1002": 1.0}, failed={"1001": ">= 2"})]
    ledger.write(held, tmp_path / "book" / "ledger" / "03.json")
    ledger._in_book.cache_clear()
    book = Ledger("03", "laptop", 0)
    for claim in (LAW, OTHER, third):
        book.check(claim, 1.0, 1.0)
    ledger._in_book.cache_clear()
    assert [line.split(" | ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "measured 1, spread 0.35 over 2 trainings; failed on 1 of 2 fresh seeds (1001)",
        "measured 1",
        "measured 1; confirmed on fresh seeds (1002); seed 1001 had failed >= 2",
    ]


def test_an_interval_that_is_not_symmetric_is_printed_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ledger, "CHECKOUT", tmp_path)
    ledger.write([row(claim=STUDY, interval=[27.02, 2450.7])], tmp_path / "book" / "ledger" / "03.json")
    ledger._in_book.cache_clear()
    book = Ledger("03", "laptop", 0)
    book.check(STUDY, 257.3, 1.0, interval=(27.02, 2450.7))
    ledger._in_book.cache_clear()
    found = capsys.readouterr().out.split(" | ")[1]
    assert found == "measured 257.3 (27 to 2450) over 3 trainings, read from a study"
    (written,) = ledger.read(book.path)
    assert (written.interval, written.half_width) == ([27.02, 2450.7], None)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"interval": (1.1, 2.0)}, r"interval must contain measured \(1\.0\), got \(1\.1, 2\.0\)"),
        ({"interval": (0.5, 0.9)}, r"interval must contain measured"),
        ({"interval": (0.5,)}, r"interval must be two numbers, \(low, high\), got \(0\.5,\)"),
        ({"interval": (0.5, 2.0), "half_width": 0.5}, r"interval must be left out where half_width is given"),
    ],
)
def test_an_interval_is_checked(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Ledger("03", "laptop", 0).check(STUDY, 1.0, 1.0, **given)


def test_exact_claims_need_a_two_sided_check_to_rounding() -> None:
    book = Ledger("03", "laptop", 0)
    book.check(EXACT, 200.0, 200.0, 0.2)
    book.check(EXACT, 0.0, 0.0, 1e-3)
    for tolerance, relation in ((0.21, "=="), (0.0, "<="), (0.0, ">=")):
        with pytest.raises(ValueError, match=r"C03\.test_exact is declared exact: relation must be =="):
            book.check(EXACT, 200.0, 200.0, tolerance, relation=relation)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tolerance at most 0\.001 of expected, got == and 0\.01 of 0"):
        book.check(EXACT, 0.0, 0.0, 0.01)


def test_what_is_not_resolved_is_compared_with_no_effect(capsys: pytest.CaptureFixture[str]) -> None:
    book = Ledger("03", "laptop", 0)
    book.check(STUDY, 3.0, 1.0, half_width=4.0)
    (written,) = ledger.read(book.path)
    assert written.tolerance == ledger.smallest_effect(written) == pytest.approx(4.986, abs=1e-3)
    assert capsys.readouterr().out.startswith("PASS C03.test_study: want = 1 within 5 | measured 3")
    book.check(STUDY, -3.9, 1.0, half_width=4.0)
    for found in (6.1, -4.1):  # an effect on either side
        with pytest.raises(ClaimError, match=r"C03\.test_study: measured"):
            book.check(STUDY, found, 1.0, half_width=4.0)
    with pytest.raises(ValueError, match="not resolved: relation must be ==, from no effect, got >="):
        book.check(STUDY, 3.0, 1.0, half_width=4.0, relation=">=")
    with pytest.raises(ValueError, match=r"tolerance of C03\.test_study must be left out beside an interval, got 9"):
        book.check(STUDY, 3.0, 1.0, 9.0, interval=(1.0, 4.0))


def test_failed_checks_are_recorded_where_fresh_seeds_are_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ISMKIT_CHECKS", "record")
    book = Ledger("03", "laptop", 1000)
    book.check(LAW, 3.0, 1.0, 0.5)
    assert capsys.readouterr().out == "FAIL C03.test_law: want = 1 within 0.5 | measured 3 | toys only\n"
    assert [(one.seed, one.measured) for one in ledger.read(book.path)] == [(1000, 3.0)]


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
    book.check(LAW, 1.0, 1.0)
    book.check(OTHER, 1.0, 2.0, 1.0, half_width=0.5)
    book.check(LAW, 1.25, 1.5, 0.25)  # the cell is run again
    assert book.path == tmp_path / "ledger" / "03.json"
    first, second = ledger.read(book.path)
    by = {"7": ledger.processor()}
    assert first == Entry(LAW, "03", None, "laptop", 7, "cpu", first.torch, 1.25, "==", 1.5, 0.25, processors=by)
    assert (second.claim, second.half_width) == (OTHER, 0.5)
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
    with pytest.raises(ValueError, match="seeds 0 and 1 differ in device, relation"):
        ledger.joined([[row(0)], [row(1, device="cuda", relation="<=")]])
    with pytest.raises(ValueError, match="seeds 0 and 1 differ in expected or tolerance"):
        ledger.joined([[row(0)], [row(1, tolerance=0.9)]])
    with pytest.raises(ValueError, match="seeds 0 and 1 differ in torch"):
        ledger.joined([[row(0)], [row(1, torch="1.0")]])


def test_rows_say_what_computed_each_seed() -> None:
    """Other processors round otherwise, which a training can make large."""
    name, _, instructions = ledger.processor().rpartition(" with ")
    assert instructions == torch.backends.cpu.get_cpu_capability()
    info = Path("/proc/cpuinfo")
    if info.is_file() and "model name" in (text := info.read_text()):
        assert f": {name}\n" in text
    other = Ledger("03", "laptop", 0, device="mps")
    other.check(LAW, 1.0, 1.0)
    assert other.rows[LAW].processors == {"0": "mps"}
    runs = [[row(seed, 1.0 + seed, processors={str(seed): f"P{seed // 2}"})] for seed in (2, 0, 1)]
    (joined,) = ledger.joined(runs)
    assert joined.processors == {"0": "P0", "1": "P0", "2": "P1"}
    assert ledger.computed_by(joined) == "P0 and P1"
    assert ledger.computed_by(replace(joined, processors={"0": "P0"})) == "P0 and cpu"  # the others: not recorded
    assert ledger.computed_by(row()) == ledger.computed_by(row(seeds={"0": 1.0})) == "cpu"
    (confirmed,) = ledger.confirmed([joined], [row(1000, seeds={"1000": 1.0}, processors={"1000": "P7"})])
    assert confirmed.processors == joined.processors | {"1000": "P7"}
    assert ledger.computed_by(confirmed) == "P0 and P1"
    for tolerance in (0.5, 0.8):  # the same bound, and another one, under which the seed is spent
        new = row(tolerance=tolerance, seeds={"0": 1.0}, processors={"0": "P9"})
        assert ledger.remeasured([new], [confirmed])[0].processors == {"0": "P9", "1000": "P7"}


def test_spread_is_the_sample_standard_deviation() -> None:
    assert ledger.spread({"0": 1.0, "1": 3.0}) == pytest.approx(math.sqrt(2))
    assert math.isnan(ledger.spread({"0": 1.0}))


def test_table_has_every_claim_and_marks_those_without_a_row() -> None:
    entries = ledger.table([row(0, 1.0, seeds={"0": 1.0, "1": 1.5}), row(claim=STUDY, half_width=2.0)])
    assert [entry["claim"] for entry in entries] == list(CLAIMS)
    found = {entry["claim"]: entry for entry in entries}
    assert (
        found[LAW].items()
        >= {
            "verdict": "toys only",
            "want": "= 1 within 0.5",
            "bound": "this kit's, regression guard",
            "measured": "1.25",
            "spread": "0.35",
            "behind": "2 trainings",
            "smallest": "",
            "fresh": "not yet",
        }.items()
    )
    study = {"behind": "3 trainings, read from a study", "smallest": "2.5", "fresh": "not yet: needs new trainings"}
    assert found[STUDY].items() >= study.items()
    assert (found["C12.fid1"]["verdict"], found[OTHER]["verdict"]) == ("needs a GPU", "not measured")
    lines = ledger.as_text(entries).splitlines()
    assert len(lines) == len(CLAIMS) + 1
    assert any(line.startswith(LAW) and "toys only" in line and "1.25" in line for line in lines)
    markdown = ledger.as_markdown(entries).splitlines()
    assert len(markdown) == len(CLAIMS) + 2
    assert {line.count("|") for line in markdown} == {11}
    assert any(
        line.startswith(f"| `{LAW}` | a law of") and "| toys only | = 1 within 0.5 | this kit's" in line
        for line in markdown
    )


def test_verdicts_are_counted_in_their_order() -> None:
    rows = [row(), row(claim=STUDY), row(claim=OTHER), row(claim=EXACT)]
    assert ledger.verdicts(rows) == "1 exact, 2 toys only, 1 not resolved"
    assert ledger.verdicts([]) == ""


# ---------------------------------------------------------------- independent measurements and power


def test_reading_one_file_five_times_is_no_five_trainings() -> None:
    same = dict.fromkeys("01234", 1.0)
    assert ledger.independent(row(seeds={"0": 1.0, "1": 1.1, "2": 0.9})) == 3
    assert ledger.behind(row(seeds={"0": 1.0})) == "1 training"
    assert ledger.independent(row(claim=STUDY, seeds=same)) == 3
    assert (ledger.independent(row(claim=EXACT, seeds=same)), ledger.behind(row(claim=EXACT))) == (1, "computed")


def test_faults_name_what_the_seeds_do_not_bear_out(monkeypatch: pytest.MonkeyPatch) -> None:
    same, other = {"0": 1.0, "1": 1.0}, {"0": 1.0, "1": 1.1}
    study = row(claim=STUDY, seeds=same, half_width=0.5)
    assert ledger.faults(row(seeds=other)) == ledger.faults(study) == []
    assert ledger.faults(row(seeds=same)) == ["C03.test_law is declared trained, but its 2 seeds gave 1 values"]
    assert "read from a study, but the seeds" in ledger.faults(replace(study, seeds=other))[0]
    assert ledger.faults(replace(study, half_width=None, interval=[0.5, 1.7])) == []
    assert ledger.faults(replace(study, half_width=None)) == [
        "C03.test_study is read from a study of 3 trainings, but has no interval"
    ]
    assert ledger.faults(replace(study, relation="<=", tolerance=0.0)) == [
        "C03.test_study is declared not resolved, but its check is one-sided: it wants <= 1"
    ]
    beyond = "C03.test_study is declared not resolved, but its corrected interval leaves out 1"
    assert ledger.faults(replace(study, measured=1.51)) == [beyond]
    assert ledger.faults(replace(study, measured=1.51, half_width=None, interval=[1.01, 3.0])) == [beyond]
    assert ledger.faults(replace(study, measured=1.51, half_width=None, interval=[0.99, 1.6])) == []
    monkeypatch.setitem(CLAIMS, STUDY, replace(CLAIMS[STUDY], comparisons=2))
    assert ledger.faults(replace(study, measured=1.51)) == []  # the correction widens the interval
    assert ledger.faults(row(claim=EXACT, tolerance=1e-3)) == []
    assert "declared exact, but its check wants = 1 within 0.5" in ledger.faults(row(claim=EXACT))[0]


@pytest.mark.parametrize(("n", "comparisons", "power"), [(8, 1, 0.80), (8, 7, 0.77), (8, 24, 0.75), (3, 18, 0.67)])
def test_smallest_effect_is_found_in_about_four_of_five_experiments(
    n: int, comparisons: int, power: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The noncentral t distribution gives the power itself; the sum of two quantiles is its usual approximation."""
    values = {str(k): v for k, v in enumerate((0.8, 1.3, 1.0, 0.9, 1.2, 1.1, 0.7, 1.4)[:n])}
    monkeypatch.setitem(CLAIMS, LAW, Claim("a law of the tests alone", "kit", comparisons=comparisons))
    least = ledger.smallest_effect(row(seeds=values))
    shift = least / (ledger.spread(values) / math.sqrt(n))
    edge = stats.t.ppf(1 - 0.05 / comparisons / 2, n - 1)
    assert stats.nct.sf(edge, n - 1, shift) == pytest.approx(power, abs=0.005)


def test_smallest_effect_of_a_study_comes_from_its_interval() -> None:
    edge = stats.t.ppf(0.975, 2)
    wanted = 4.0 / edge * (edge + stats.t.ppf(0.8, 2))
    assert ledger.smallest_effect(row(claim=STUDY, half_width=4.0)) == pytest.approx(wanted)
    uneven = row(claim=STUDY, measured=3.0, interval=[2.0, 7.0])  # found last on the wider side
    assert ledger.smallest_effect(uneven) == pytest.approx(wanted)
    for unknown in (row(claim=STUDY), row(seeds={"0": 1.0}), row(claim=EXACT)):
        assert math.isnan(ledger.smallest_effect(unknown))


# ---------------------------------------------------------------- fresh seeds


def test_fresh_seeds_start_at_a_thousand_and_are_used_once() -> None:
    assert list(ledger.fresh_seeds([row(seeds={"0": 1.0})], 2)) == [1000, 1001]
    used = [row(fresh={"1000": 1.0}), row(claim=OTHER, spent={"1004": 1.0})]
    assert list(ledger.fresh_seeds(used, 2)) == [1005, 1006]


def test_confirmed_rows_keep_what_failed_and_refuse_used_seeds() -> None:
    rows = [row(seeds={"0": 1.0, "1": 1.1}), row(claim=STUDY, seeds={"0": 1.0})]
    assert [ledger.on_fresh_seeds(one) for one in rows] == ["not yet", "not yet: needs new trainings"]
    assert ledger.on_fresh_seeds(row(claim=EXACT)) == ""
    assert ledger.on_fresh_seeds(row(claim="C00.one_step")) == "not yet: needs another model or data set"
    again = [row(seeds={"1000": 1.2}), row(claim=STUDY, seeds={"1000": 1.0})]
    law, study = ledger.confirmed(rows, again)
    assert (law.seeds, law.fresh, study.fresh) == (rows[0].seeds, {"1000": 1.2}, {})
    assert ledger.on_fresh_seeds(law) == "confirmed on fresh seeds (1000)"
    (failed,) = ledger.confirmed([law], [row(seeds={"1001": 1.7})])
    assert ledger.on_fresh_seeds(failed) == "failed on 1 of 2 fresh seeds (1001)"
    for old in ("999", "1000", "1001"):
        with pytest.raises(ValueError, match=rf"seeds must be 1002 or more to be fresh, got {old}"):
            ledger.confirmed([failed], [row(seeds={old: 1.0})])
    with pytest.raises(ValueError, match=r"wants = 1 within 0\.6, its row = 1 within 0\.5: measure it again"):
        ledger.confirmed(rows, [row(tolerance=0.6, seeds={"1000": 1.2})])


def test_a_changed_bound_spends_the_seeds_that_were_fresh() -> None:
    before = [row(fresh={"1001": 1.7}, spent={"1000": 1.0})]
    (same,) = ledger.remeasured([row()], before)
    assert (same.fresh, same.spent) == ({"1001": 1.7}, {"1000": 1.0})
    assert (same.failed, ledger.on_fresh_seeds(same)) == ({}, "failed on 1 of 1 fresh seeds (1001)")
    (changed,) = ledger.remeasured([row(tolerance=0.8)], before)
    assert (changed.fresh, changed.spent) == ({}, {"1000": 1.0, "1001": 1.7})
    assert ledger.fresh_seeds([changed], 1)[0] == 1002
    left = "seed 1001 had failed = 1 within 0.5"  # a wider bound does not make it forgotten
    assert ledger.on_fresh_seeds(changed) == f"not yet; {left}"
    (confirmed,) = ledger.confirmed([changed], [row(tolerance=0.8, seeds={"1002": 1.0})])
    assert ledger.on_fresh_seeds(confirmed) == f"confirmed on fresh seeds (1002); {left}"
    (again,) = ledger.remeasured([row(tolerance=0.9)], [replace(confirmed, fresh={"1002": 0.1})])
    assert again.failed == {"1001": "= 1 within 0.5", "1002": "= 1 within 0.8"}
    assert ledger.remeasured([row(claim=OTHER)], before) == [row(claim=OTHER)]


# ---------------------------------------------------------------- the committed ledger


def checked_claims(path: Path) -> set[str]:
    """The claims that a notebook checks: first arguments of the calls of ``.check``, but for those of a workbook."""
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    calls = [
        node
        for source in code
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "check"
    ]
    assert all(isinstance(call.args[0], ast.Constant) for call in calls), f"{path.name}: name the claim in the call"
    names = {str(call.args[0].value) for call in calls}  # type: ignore[attr-defined]
    return {name for name in names if name.startswith("C")}


NOTEBOOKS = {path.stem[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if checked_claims(path)}


def sanitized() -> tuple[str, str]:
    """What nbval leaves out of its comparison: a pattern and what takes its place."""
    config = ConfigParser(interpolation=None)
    config.read(ROOT / "tests" / "nbval.cfg")
    (section,) = config.sections()
    return config[section]["regex"], config[section]["replace"]


def test_every_notebook_that_checks_claims_has_its_rows() -> None:
    assert [path.stem for path in FILES] == list(NOTEBOOKS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_committed_rows_are_those_of_the_notebook(path: Path) -> None:
    rows = {row.claim: row for row in ledger.read(path)}
    listed = {key for key in CLAIMS if key.startswith(f"C{path.stem}.")} - {LAW, OTHER, EXACT, STUDY}
    assert rows.keys() == checked_claims(NOTEBOOKS[path.stem]) - FULL_SCALE == listed - FULL_SCALE
    cells = nbformat.read(NOTEBOOKS[path.stem], as_version=4).cells
    printed = {
        line
        for cell in cells
        if cell.cell_type == "code" and "nbval-check-output" in cell.metadata.get("tags", [])
        for output in cell.outputs
        for line in re.sub(*sanitized(), output.get("text", "")).splitlines()
    }
    for claim, one in rows.items():
        assert (one.notebook, one.profile, one.seed) == (path.stem, "laptop", 0), claim
        line = f"PASS {claim}: want {one.want(6)}"
        assert line in printed, f"not among the compared outputs of the committed notebook: {line}"
        (cell,) = (c for c in cells if c.cell_type == "code" and f'"{claim}"' in c.source)
        assert cell.execution_count == one.cell, f"{claim}: measured by another version of the notebook"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_committed_rows_hold_for_every_seed_with_room_for_the_spread(path: Path) -> None:
    for one in ledger.read(path):
        assert len(one.seeds) >= SEEDS, one.claim
        assert one.seeds["0"] == one.measured
        for seed, measured in one.seeds.items():
            assert one.holds(measured), f"{one.claim}, seed {seed}"
        mean = sum(one.seeds.values()) / len(one.seeds)
        away = abs(one.expected - mean)
        room = one.tolerance + (-away if one.relation == "==" else away)
        assert room >= 2 * ledger.spread(one.seeds), f"{one.claim}: nearer to its edge than twice the spread"


def test_committed_rows_are_plain_json() -> None:
    for path in FILES:
        for entry in json.loads(path.read_text()):
            assert all(math.isfinite(v) for v in entry.values() if isinstance(v, float)), entry


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_committed_rows_claim_no_more_than_their_checks_and_seeds_bear_out(path: Path) -> None:
    assert [fault for one in ledger.read(path) for fault in ledger.faults(one)] == []


def test_studies_have_as_many_seeds_as_the_claims_say() -> None:
    """A study that grows is counted again, and its rows are measured again."""
    ladder, power, colour, league = (
        read_table(FOLDER / f"{name}.parquet")
        for name in ("ladder", "power-clothes", "power-emoji", "league-checkerboard")
    )
    sensitivities = {f"C08.{name}" for name in ("w_max", "t_interval", "levels", "pool", "decay")}
    counted = {
        "C05": {result["seed"] for result in studies.read("wavelet")},
        "C05.spectrum": {result["seed"] for result in studies.read("why_wavelet")},
        "C08": {*power.seed},
        **{key: {*colour.seed} for key in CLAIMS if key.startswith("C08.emoji_")},
        **{key: {*ladder[ladder["sweep"] == "sensitivity"].seed} for key in sensitivities},
        "C09": {*league[league.stage == "league"].seed} | {*read_table(FOLDER / "league-choices.parquet").seed},
    }
    for key, claim in CLAIMS.items():
        if claim.basis == "study" and key != STUDY:
            assert claim.trainings == len(counted.get(key, counted[key[:3]])), key


#: Of each data set, the rows of its ladder: at which NFE, the recipe, and the one below.
RESOLVED: dict[str, dict[str, tuple[int, str, str]]] = {
    "clothes": {
        "intrinsic": (1, "ism_guidance", "shortcut_finest_level"),
        "scaled": (1, "ism_guidance", BEST_SCALE),
        "interval": (1, "+interval", "ism_guidance"),
        "interval4": (4, "+interval", "ism_guidance"),
        "wavelet": (1, "+wavelet", "+interval"),
        "sot": (1, "+sot", "+wavelet"),
        "any_class": (1, "+sot_any_class", "+wavelet"),
        "ema": (1, "ism", "+sot"),
        "plus": (1, "ism_plus", "ism"),
        "plus128": (128, "ism_plus", "ism"),
    },
    "emoji": {
        "emoji_guidance": (1, "ism_guidance", BEST_SCALE),
        "emoji_interval": (1, "+interval", "ism_guidance"),
        "emoji_wavelet": (1, "+wavelet", "+interval"),
        "emoji_ema": (1, "ism", "+sot"),
        "emoji_plus": (1, "ism_plus", "ism"),
    },
}


@pytest.mark.parametrize(("space", "rungs"), RESOLVED.items())
def test_rungs_are_resolved_where_the_corrected_test_says_so(
    space: str, rungs: dict[str, tuple[int, str, str]]
) -> None:
    """Their verdicts and the numbers in their rows are those of all comparisons of a ladder with power together."""
    table = reported(read_table(FOLDER / f"power-{space}.parquet"))
    found = compare_pairs(table, [(upper, lower) for upper, lower, _ in RUNGS], "frechet", within="nfe")
    rows = {one.claim: one for one in ledger.book_entries()}
    for name, pair in rungs.items():
        claim, one, change = CLAIMS[f"C08.{name}"], rows[f"C08.{name}"], found.loc[pair]
        assert (change.holm < 0.05) == (claim.verdict != "not resolved"), name
        assert claim.comparisons == len(found)
        assert one.measured == pytest.approx(100 * (change.ratio - 1)), name
        assert one.half_width == pytest.approx(50 * (change.high - change.low)), name


def test_what_is_not_resolved_is_smaller_than_what_would_have_been_found() -> None:
    """From no effect, which is 0 of a change in per cent and 1 of a ratio."""
    for one in ledger.book_entries():
        if CLAIMS[one.claim].verdict == "not resolved":
            assert one.expected in (0, 1), one.claim
            assert abs(one.measured - one.expected) < ledger.smallest_effect(one), one.claim
            if CLAIMS[one.claim].basis == "study":
                assert one.tolerance == pytest.approx(ledger.smallest_effect(one)), one.claim
