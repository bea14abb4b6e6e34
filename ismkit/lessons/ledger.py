"""The claims ledger: every claim that the kit tests, the cell that tests it, and what came out.

A notebook opens a :class:`Ledger` and calls ``check``, which raises where the claim's test fails and else leaves a row
in ``out/ledger/``. ``ismkit ledger`` runs the notebooks with several seeds and joins their rows into ``book/ledger/``.
``ismkit ledger NN --fresh`` confirms them on seeds that no bound has seen: there a check that fails is recorded too
(``ISMKIT_CHECKS=record`` in the environment of the notebook), and stays in the row.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from ismkit.lessons.claims import CLAIMS, VERDICTS, Basis
from ismkit.utils.checks import as_integer, as_number, check_name, check_number, shown
from ismkit.utils.files import CHECKOUT, out_dir, replacing
from ismkit.utils.settings import check_types

Relation = Literal["==", "<=", ">="]
PROFILES = ("smoke", "laptop", "gpu", "paper")
SIGNS = {"==": "=", "<=": "<=", ">=": ">="}

#: The bases on which another seed is another measurement, and what such a measurement is called.
SEEDED: dict[Basis, str] = {"drawn": "draw", "trained": "training"}

#: What a table says of when a bound was set.
WHOSE_BOUND = {"given": "the statement's", "before": "this kit's, set before", "after": "this kit's, regression guard"}

FRESH = 1000  # seeds from here on are never used while bounds are set
ROUNDING = 1e-3  # the largest tolerance of an exact claim, relative to what is expected (absolute where that is 0)
LEVEL, POWER = 0.05, 0.8  # of the tests, two-sided, and about how often the smallest effect would be found

#: Why a row of these bases was not tried on fresh seeds: its seeds change nothing, but other trainings would.
UNSEEN: dict[Basis, str] = {
    "study": "not yet: needs new trainings",
    "released": "not yet: needs another model or data set",
}


class ClaimError(AssertionError):
    """A check of a claim failed; the message gives the claim, what was measured and what was expected."""


@dataclass(frozen=True)
class Entry:
    """One check of one claim.

    Attributes:
        claim: its key in ``CLAIMS``.
        notebook: number of the notebook.
        cell: execution count of the cell.
        profile, seed, device, torch: how it was run.
        measured: what came out.
        relation: how measured should relate to expected: ``==`` (within the tolerance), ``<=`` or ``>=``.
        expected: the closed form, the bound or the reference.
        tolerance: allowance on ``expected``, in its unit.
        half_width: half of the 95 % interval of ``measured``, where it is read from a study.
        interval: its two ends instead, where it is not symmetric.
        seeds: what each seed measured, once several runs are joined.
        fresh: what each seed measured that no bound has seen, whether or not the check held there.
        spent: the same under bounds that have been changed since: these seeds are fresh no longer.
        failed: which of the spent seeds failed, and the bound that each of them failed, in words.
        processors: what each of these seeds was computed by, as :func:`processor` names it, where that was recorded.
    """

    claim: str
    notebook: str
    cell: int | None
    profile: str
    seed: int
    device: str
    torch: str
    measured: float
    relation: Relation
    expected: float
    tolerance: float
    half_width: float | None = None
    interval: list[float] | None = None
    seeds: dict[str, float] = field(default_factory=dict)
    fresh: dict[str, float] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    processors: dict[str, str] = field(default_factory=dict)

    def holds(self, measured: float) -> bool:
        """Whether the check of this row holds for another measured value."""
        return holds(measured, self.relation, self.expected, self.tolerance)

    def want(self, digits: int = 4) -> str:
        """What the check demands, such as ``= 1 within 0.5``."""
        within = f" within {self.tolerance:.2g}" if self.tolerance else ""
        return f"{SIGNS[self.relation]} {self.expected:.{digits}g}{within}"

    def uncertainty(self) -> str:
        """The interval of a row that is read from a study, such as `` ± 0.5`` or `` (27 to 2450)``; else empty."""
        if self.interval is not None:
            low, high = (f"{float(f'{end:.3g}'):g}" for end in self.interval)  # 2450, not 2.45e+03
            return f" ({low} to {high})"
        return "" if self.half_width is None else f" \N{PLUS-MINUS SIGN} {self.half_width:.2g}"


def holds(measured: float, relation: Relation, expected: float, tolerance: float) -> bool:
    """Whether ``measured`` relates to ``expected`` as it should; never for NaN."""
    gap = measured - expected
    return {"==": abs(gap) <= tolerance, "<=": gap <= tolerance, ">=": gap >= -tolerance}[relation]


def to_rounding(relation: Relation, expected: float, tolerance: float) -> bool:
    """Whether a check is two-sided and so tight that passing it is an identity up to rounding."""
    return relation == "==" and tolerance <= ROUNDING * (abs(expected) or 1)


@dataclass
class Ledger:
    """The checks of one run of a notebook.

    Args:
        notebook: its number, such as "03".
        profile: smoke, laptop, gpu or paper.
        seed: of this run.
        device: what the measured numbers come from, such as "cpu".
        rows: the checks that passed, or were recorded, by claim; none at first.

    Raises:
        ValueError: for an unknown profile.

    Example:
        A check that passes is written to ``out/ledger/03.json``; one that fails raises. What the line says behind the
        bar is left out where notebooks are compared with their committed outputs (``tests/nbval.cfg``):

        >>> import os
        >>> import tempfile
        >>> from unittest.mock import patch
        >>> from ismkit.lessons import ClaimError, Ledger
        >>> ledger = Ledger("03", profile="smoke", seed=0)
        >>> with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, ISMKIT_OUT=folder):
        ...     ledger.check("C03.law", measured=17.0859, expected=1.5**7, tolerance=1e-3)
        ...     print(ledger.path.relative_to(folder).as_posix(), ledger.path.is_file())
        ...     try:
        ...         ledger.check("C03.finest", measured=1.62, expected=1.5, tolerance=0.001)
        ...     except ClaimError as error:
        ...         print(str(error).partition(" (")[0])
        PASS C03.law: want = 17.0859 within 0.001 | measured 17.0859 | exact
        ledger/03.json True
        C03.finest: measured 1.62, want = 1.5 within 0.001
    """

    notebook: str
    profile: str
    seed: int
    device: str = "cpu"
    rows: dict[str, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_types(self)
        as_integer(self.seed)
        check_name("profile", self.profile, PROFILES)

    @property
    def path(self) -> Path:
        """Where the rows go: ``out/ledger/NN.json``."""
        return out_dir() / "ledger" / f"{self.notebook}.json"

    def check(
        self,
        claim: str,
        measured: float,
        expected: float,
        tolerance: float = 0.0,
        *,
        relation: Relation = "==",
        half_width: float | None = None,
        interval: Sequence[float] | None = None,
        at: str = "smoke",
    ) -> None:
        """Test a claim, print one line, and record the row.

        What passing says of the claim, and what stands behind the measured value, is declared in ``CLAIMS``.

        Args:
            claim: its key in ``CLAIMS``, which starts with the number of this notebook: ``C03.law``.
            measured: what came out.
            expected: the closed form, the bound or the reference.
            tolerance: allowance on ``expected``, in its unit: from the spread over at least five seeds. If a claim is
                not resolved, ``expected`` is no effect; beside an interval the tolerance is left out, and is the
                smallest effect that would have been found.
            relation: ``==``, ``<=`` or ``>=``: how measured should relate to expected.
            half_width: half of the 95 % interval of ``measured``, in its unit, where it is read from a study.
            interval: its two ends, (low, high), instead: for a ratio, whose interval is not symmetric.
            at: the least profile that can judge: at a smaller one nothing is tested or recorded.

        Raises:
            ValueError: for a claim that is not listed or is another notebook's, for one that is declared exact if the
                check is one-sided or allows more than a thousandth, for one that is not resolved if the check is
                one-sided or has both an interval and a tolerance, and for an interval that does not contain
                ``measured`` or is given beside a ``half_width``.
            ClaimError: if the check fails, unless ``ISMKIT_CHECKS`` is "record".
        """
        if not isinstance(claim, str) or claim not in CLAIMS or not claim.startswith(f"C{self.notebook}."):
            known = ", ".join(key for key in CLAIMS if key.startswith(f"C{self.notebook}.")) or "none"
            raise ValueError(f"claim must be one of notebook {self.notebook}'s ({known}), got {shown(claim)}")
        measured, expected = as_number("measured", measured), as_number("expected", expected)
        check_number("tolerance", tolerance, "of at least 0", 0)
        check_name("relation", relation, SIGNS)
        if half_width is not None:
            check_number("half_width", half_width, "of at least 0", 0)
        ends = None if interval is None else _ends(interval, measured, half_width)
        check_name("at", at, PROFILES)
        declared = CLAIMS[claim]
        if declared.verdict == "exact" and not to_rounding(relation, expected, tolerance):
            raise ValueError(
                f"{claim} is declared exact: relation must be ==, and tolerance at most {ROUNDING:g} of expected, "
                f"got {relation} and {tolerance:g} of {expected:g}"
            )
        if declared.verdict == "not resolved" and relation != "==":
            raise ValueError(f"{claim} is declared not resolved: relation must be ==, from no effect, got {relation}")
        row = Entry(
            claim=claim,
            notebook=self.notebook,
            cell=_cell(),
            profile=self.profile,
            seed=self.seed,
            device=self.device,
            torch=version("torch").partition("+")[0],
            measured=measured,
            relation=relation,
            expected=expected,
            tolerance=tolerance,
            half_width=None if half_width is None else float(half_width),
            interval=ends,
            processors={str(self.seed): processor(self.device)},
        )
        if declared.verdict == "not resolved" and (half_width is not None or ends is not None):
            if tolerance:
                raise ValueError(f"tolerance of {claim} must be left out beside an interval, got {tolerance:g}")
            row = replace(row, tolerance=smallest_effect(row))
        want = f"want {row.want(6)}"
        if PROFILES.index(self.profile) < PROFILES.index(at):
            print(f"LATER {claim}: {want}, judged from profile {at} on")
            return
        passed = row.holds(measured)
        if not passed and os.environ.get("ISMKIT_CHECKS") != "record":
            raise ClaimError(f"{claim}: measured {measured:.6g}, {want} ({declared.statement})")
        self.rows[claim] = row
        write(self.rows.values(), self.path)
        found = f"measured {measured:.6g}{_recorded(claim)}"
        print(f"{'PASS' if passed else 'FAIL'} {claim}: {want} | {found} | {declared.verdict}")


def _ends(interval: Any, measured: float, half_width: float | None) -> list[float]:
    """An interval as two numbers; raises where it is none of ``measured``, or not the only one."""
    if half_width is not None:
        raise ValueError(f"interval must be left out where half_width is given, got both: {shown(interval)}")
    if not isinstance(interval, tuple | list) or len(interval) != 2:
        raise ValueError(f"interval must be two numbers, (low, high), got {shown(interval)}")
    low, high = (as_number("interval", end) for end in interval)
    if not low <= measured <= high:
        raise ValueError(f"interval must contain measured ({shown(measured)}), got {shown(interval)}")
    return [low, high]


def _recorded(claim: str) -> str:
    """What ``book/ledger/`` has beside a claim's measured value: ", spread 0.02 over 5 trainings", and what failed."""
    row = _in_book(claim[1:3]).get(claim)
    if row is None:
        return ""
    if uncertainty := row.uncertainty():
        return f"{uncertainty} over {behind(row)}"
    over = spread(row.seeds) if CLAIMS[claim].basis in SEEDED else math.nan
    fresh = on_fresh_seeds(row)
    failed = f"; {fresh}" if "failed" in fresh else ""
    return failed if math.isnan(over) else f", spread {over:.2g} over {behind(row)}{failed}"


@lru_cache
def _in_book(notebook: str) -> dict[str, Entry]:
    """The committed rows of one notebook, by claim; none outside of a checkout."""
    path = CHECKOUT / "book" / "ledger" / f"{notebook}.json"
    return {row.claim: row for row in read(path)} if path.is_file() else {}


def processor(device: str = "cpu") -> str:
    """What computes on a device, such as "AMD EPYC with AVX512"; the device itself if its name is not known.

    Sums are in another order on another maker's processor or with other vector instructions, and a short training at a
    high learning rate makes of that another training: the same seed gives other values there.

    Args:
        device: as :class:`Ledger` has it: "cpu", or that of a GPU, such as "cuda".
    """
    import torch

    if device != "cpu":
        return torch.cuda.get_device_name(device) if "cuda" in device and torch.cuda.is_available() else device
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():  # there platform knows the architecture at most
        named = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M)
        name = named[1].strip() if named else name
    return f"{name} with {torch.backends.cpu.get_cpu_capability()}"


def _cell() -> int | None:
    """Execution count of the running cell, None outside of a notebook."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    shell = get_ipython()
    # Its execution_count is that of the running cell or the next one, as IPython's version has it; In ends with it.
    return None if shell is None else len(shell.user_ns["In"]) - 1


def write(rows: Iterable[Entry], path: str | os.PathLike[str]) -> Path:
    """Write rows as JSON, atomically, making the folder; returns the path."""
    text = json.dumps([asdict(row) for row in rows], indent=1) + "\n"
    with replacing(path) as file:
        file.write(text.encode())
    return Path(path)


def read(path: str | os.PathLike[str]) -> list[Entry]:
    """The rows of a file of :func:`write`.

    Raises:
        ValueError: if it is no such file.
    """
    try:
        return [Entry(**entry) for entry in json.loads(Path(path).read_text())]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is no file of ledger rows: {error}") from error


def book_entries() -> list[Entry]:
    """All rows of ``book/ledger/`` beside the package, by claim."""
    folder = CHECKOUT / "book" / "ledger"
    return sorted((row for path in folder.glob("*.json") for row in read(path)), key=lambda row: row.claim)


def joined(runs: Iterable[Iterable[Entry]]) -> list[Entry]:
    """Rows of runs with several seeds as one row per claim: that of the least seed, with what each seed measured.

    Raises:
        ValueError: if two runs share a seed, or differ in profile, device, PyTorch or bound.
    """
    by_claim: dict[str, dict[int, Entry]] = {}
    for run in runs:
        for row in run:
            of_seeds = by_claim.setdefault(row.claim, {})
            if row.seed in of_seeds:
                raise ValueError(f"{row.claim} was measured twice with seed {row.seed}")
            of_seeds[row.seed] = row
    result = []
    for claim, of_seeds in sorted(by_claim.items()):
        first = of_seeds[min(of_seeds)]
        for row in of_seeds.values():
            changed = [k for k in ("profile", "device", "torch", "relation") if getattr(row, k) != getattr(first, k)]
            changed += [] if same_bound(row, first) or changed else ["expected or tolerance"]
            if changed:
                raise ValueError(f"{claim}: seeds {first.seed} and {row.seed} differ in {', '.join(changed)}")
        measured = {str(seed): of_seeds[seed].measured for seed in sorted(of_seeds)}
        processors = {key: name for seed in sorted(of_seeds) for key, name in of_seeds[seed].processors.items()}
        result.append(replace(first, seeds=measured, processors=processors))
    return result


def spread(seeds: Mapping[str, float]) -> float:
    """Standard deviation over the seeds (n - 1), NaN below two."""
    import torch  # what only runs notebooks does without

    values = torch.tensor(list(seeds.values()), dtype=torch.float64)
    return float(values.std()) if len(values) > 1 else math.nan


def independent(row: Entry) -> int:
    """How many independent measurements stand behind a row: its seeds only where each of them measures something else.

    A study counts the seeds it was trained with, a released model or a computed value is one, however often the
    notebook ran.
    """
    claim = CLAIMS[row.claim]
    if claim.basis in SEEDED:
        return len(row.seeds) or 1
    return claim.trainings or 1


def behind(row: Entry) -> str:
    """The same in words: "5 trainings", "3 trainings, read from a study"."""
    claim, n = CLAIMS[row.claim], independent(row)
    if claim.basis == "computed":
        return "computed"
    if claim.basis == "released":
        return "1 released model or data set"
    counted = f"{n} {SEEDED.get(claim.basis, 'training')}{'s' * (n > 1)}"
    return f"{counted}, read from a study" if claim.basis == "study" else counted


def faults(row: Entry) -> list[str]:
    """What a row says of itself that its check or its seeds do not bear out; an honest row has none."""
    claim, values = CLAIMS[row.claim], set(row.seeds.values())
    found = []
    if claim.verdict == "exact" and not to_rounding(row.relation, row.expected, row.tolerance):
        found.append(f"{row.claim} is declared exact, but its check wants {row.want()}")
    if claim.basis in SEEDED and len(row.seeds) > 1 and len(values) < len(row.seeds):
        found.append(f"{row.claim} is declared {claim.basis}, but its {len(row.seeds)} seeds gave {len(values)} values")
    if claim.basis == "study" and len(values) > 1:
        found.append(f"{row.claim} is declared read from a study, but the seeds of the notebook differ")
    if claim.basis == "study" and claim.trainings > 1 and row.half_width is None and row.interval is None:
        found.append(f"{row.claim} is read from a study of {claim.trainings} trainings, but has no interval")
    if claim.verdict == "not resolved" and row.relation != "==":
        found.append(f"{row.claim} is declared not resolved, but its check is one-sided: it wants {row.want()}")
    if claim.verdict == "not resolved" and resolved(row):
        found.append(f"{row.claim} is declared not resolved, but its corrected interval leaves out {row.expected:g}")
    return found


def resolved(row: Entry) -> bool:
    """Whether the 95 % interval of a row, corrected for its comparisons, leaves out what is expected.

    The level is divided by the number of comparisons made side by side (Bonferroni); of an interval that is not
    symmetric the side towards the expected value counts. The check of such a row is no such test: it allows as much as
    :func:`smallest_effect`.

    Args:
        row: whose spread over its trainings, or whose interval, gives the standard error; without either it is False.
    """
    values = list(row.seeds.values())
    seeded = CLAIMS[row.claim].basis in SEEDED and values
    measured = sum(values) / len(values) if seeded else row.measured
    half = row.half_width
    if row.interval is not None:
        half = abs(row.interval[row.expected > measured] - measured)
    error, quantile, _ = _test(row, half)
    return abs(measured - row.expected) > quantile * error


def smallest_effect(row: Entry) -> float:
    """The smallest effect that would have been found: at 5 %, two-sided, in about four of five such experiments.

    It is the standard error times the sum of two quantiles of Student's distribution; the level is divided by the
    number of comparisons made side by side (Bonferroni). The sum is the usual approximation. With few trainings and
    many comparisons it is too small: with eight and 24 the effect is found in 75 of 100 experiments, with three and
    18 in 67.

    Args:
        row: whose spread over its trainings, or whose interval, gives the standard error.

    Returns:
        The effect in the unit of ``measured``; NaN where there is neither.
    """
    half = row.half_width
    if row.interval is not None:  # the wider side: what lies there is the hardest to find
        half = max(abs(end - row.measured) for end in row.interval)
    error, quantile, of_power = _test(row, half)
    return error * (quantile + of_power)


def _test(row: Entry, half: float | None) -> tuple[float, float, float]:
    """The standard error of a row, from half of its interval or its spread, and the quantiles of level and power.

    NaN where there is no such error.
    """
    from scipy.stats import t

    freedom = independent(row) - 1
    if freedom < 1:
        return math.nan, math.nan, math.nan
    if half is not None:
        error = half / float(t.ppf(1 - LEVEL / 2, freedom))
    elif CLAIMS[row.claim].basis in SEEDED:
        error = spread(row.seeds) / math.sqrt(freedom + 1)
    else:
        error = math.nan
    level = LEVEL / CLAIMS[row.claim].comparisons
    return error, float(t.ppf(1 - level / 2, freedom)), float(t.ppf(POWER, freedom))


def fresh_seeds(rows: Iterable[Entry], count: int) -> range:
    """The next seeds that no row of a notebook has used, 1000 or more."""
    used = [int(seed) for row in rows for seed in (*row.seeds, *row.fresh, *row.spent)]
    first = max([FRESH - 1, *used]) + 1
    return range(first, first + count)


def confirmed(rows: Iterable[Entry], fresh: Iterable[Entry]) -> list[Entry]:
    """Rows with what fresh seeds measured written beside them, for each claim where a seed is a measurement.

    Args:
        rows: of the book.
        fresh: of a run with fresh seeds, joined; also of checks that failed there.

    Raises:
        ValueError: for a seed that has been used, and for a check with another bound than the row's.
    """
    rows, measured = list(rows), {row.claim: row for row in fresh}
    unused = fresh_seeds(rows, 1)[0]
    for row in measured.values():
        if old := [seed for seed in row.seeds if int(seed) < unused]:
            raise ValueError(f"{row.claim}: seeds must be {unused} or more to be fresh, got {', '.join(old)}")
    result = []
    for row in rows:
        again = measured.get(row.claim)
        if again is None or CLAIMS[row.claim].basis not in SEEDED:
            result.append(row)
            continue
        if not same_bound(row, again):
            raise ValueError(
                f"{row.claim}: the notebook wants {again.want(6)}, its row {row.want(6)}: measure it again first"
            )
        result.append(replace(row, fresh=row.fresh | again.seeds, processors=row.processors | again.processors))
    return result


def same_bound(row: Entry, other: Entry) -> bool:
    """Whether two rows of a claim were judged alike."""
    return row.relation == other.relation and all(
        math.isclose(a, b, rel_tol=1e-9) for a, b in ((row.expected, other.expected), (row.tolerance, other.tolerance))
    )


def remeasured(rows: Iterable[Entry], before: Iterable[Entry]) -> list[Entry]:
    """New rows with what fresh seeds had measured: where the bound has changed since, those seeds are spent.

    What failed on them stays, with the bound that it failed.
    """
    old = {row.claim: row for row in before}
    result = []
    for row in rows:
        was = old.get(row.claim)
        if was is None:
            result.append(row)
            continue
        kept = {seed: name for seed, name in was.processors.items() if seed in was.fresh or seed in was.spent}
        row = replace(row, fresh=was.fresh, spent=was.spent, failed=was.failed, processors=row.processors | kept)
        if not same_bound(row, was):
            failed = {seed: was.want() for seed, value in was.fresh.items() if not was.holds(value)}
            row = replace(row, fresh={}, spent=was.spent | was.fresh, failed=was.failed | failed)
        result.append(row)
    return result


def computed_by(row: Entry) -> str:
    """What computed the seeds of a row, in words, such as "AMD EPYC with AVX512"; its device if not recorded."""
    return " and ".join(dict.fromkeys(row.processors.get(seed, row.device) for seed in row.seeds)) or row.device


def on_fresh_seeds(row: Entry) -> str:
    """How a row did on fresh seeds, in words, also under earlier bounds; empty if nothing could change it."""
    basis = CLAIMS[row.claim].basis
    if basis not in SEEDED:
        return UNSEEN.get(basis, "")
    failed = [seed for seed, value in row.fresh.items() if not row.holds(value)]
    if failed:
        found = f"failed on {len(failed)} of {len(row.fresh)} fresh seeds ({', '.join(failed)})"
    else:
        found = f"confirmed on fresh seeds ({', '.join(row.fresh)})" if row.fresh else "not yet"
    return "; ".join([found, *(f"seed {seed} had failed {bound}" for seed, bound in row.failed.items())])


def table(rows: Iterable[Entry]) -> list[dict[str, Any]]:
    """The ledger to show: one entry per claim of ``CLAIMS``.

    Those without a row were "not measured", unless they are declared to need a GPU.
    """
    by_claim = {row.claim: row for row in rows}
    result = []
    for key, claim in CLAIMS.items():
        entry: dict[str, Any] = {"claim": key, "statement": claim.statement, "source": claim.source}
        row = by_claim.get(key)
        if row is None:
            verdict = claim.verdict if claim.verdict == "needs a GPU" else "not measured"
            entry |= {"verdict": verdict, "want": "", "bound": "", "measured": "", "spread": "", "behind": ""}
            entry |= {"smallest": "", "fresh": "", "cell": None}
        else:
            values = list(row.seeds.values()) or [row.measured]
            over = spread(row.seeds) if claim.basis in SEEDED else math.nan
            least = smallest_effect(row) if claim.verdict == "not resolved" else None
            entry |= {
                "verdict": claim.verdict,
                "want": row.want(),
                "bound": WHOSE_BOUND[claim.bound],
                "measured": f"{sum(values) / len(values):.4g}",
                "spread": "" if math.isnan(over) else f"{over:.2g}",
                "behind": behind(row),
                "smallest": "" if least is None else "cannot be computed" if math.isnan(least) else f"{least:.2g}",
                "fresh": on_fresh_seeds(row),
                "cell": row.cell,
            }
        result.append(entry)
    return result


def as_text(entries: Iterable[Mapping[str, Any]]) -> str:
    """The table of :func:`table` to print, one line for each claim."""
    line = "{claim:<18} {verdict:<13} {want:<24} {measured:>9} {spread:>8}  {behind:<30} {bound:<28}  {statement}"
    names = ("claim", "verdict", "want", "measured", "spread", "behind", "bound", "statement")
    return "\n".join(line.format(**entry).rstrip() for entry in ({name: name for name in names}, *entries))


def as_markdown(entries: Iterable[Mapping[str, Any]]) -> str:
    """The table of :func:`table` in Markdown, one row for each claim."""
    columns = ["claim", "statement", "source", "verdict", "want", "bound", "measured", "spread", "behind", "fresh"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for entry in entries:
        lines.append(f"| `{entry['claim']}` | {' | '.join(str(entry[column]) for column in columns[1:])} |")
    return "\n".join(lines)


def verdicts(rows: Iterable[Entry]) -> str:
    """How often each verdict was given, in words: "3 exact, 1 toys only"."""
    counts = Counter(CLAIMS[row.claim].verdict for row in rows)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
