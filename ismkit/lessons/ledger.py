"""The claims ledger: every claim of the paper that the kit tests, the cell that tests it, and what came out.

A notebook opens a :class:`Ledger` and calls ``check``, which raises where the claim's test fails and else leaves a row
in ``out/ledger/``. ``ismkit ledger`` runs the notebooks with several seeds and joins their rows into ``book/ledger/``.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ismkit.lessons.claims import CLAIMS
from ismkit.utils.checks import as_integer, as_number, check_name, check_number, shown
from ismkit.utils.files import CHECKOUT, out_dir, replacing
from ismkit.utils.settings import check_types

#: verified: holds exactly or in closed form. toy only: measured, on small data. unresolved: less than its spread over
#: the seeds. contradicted: the opposite was measured. needs GPU: not tested yet.
Verdict = Literal["verified", "toy only", "unresolved", "contradicted", "needs GPU"]
Relation = Literal["==", "<=", ">="]
PROFILES = ("smoke", "laptop", "gpu", "paper")
SIGNS = {"==": "=", "<=": "<=", ">=": ">="}


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
        verdict: what a passed check says of the paper's claim.
        seeds: what each seed measured, once several runs are joined.
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
    verdict: Verdict
    seeds: dict[str, float] = field(default_factory=dict)


def holds(measured: float, relation: Relation, expected: float, tolerance: float) -> bool:
    """Whether ``measured`` relates to ``expected`` as it should; never for NaN."""
    gap = measured - expected
    return {"==": abs(gap) <= tolerance, "<=": gap <= tolerance, ">=": gap >= -tolerance}[relation]


@dataclass
class Ledger:
    """The checks of one run of a notebook.

    Args:
        notebook: its number, such as "03".
        profile: smoke, laptop, gpu or paper.
        seed: of this run.
        device: what the measured numbers come from, such as "cpu".
        rows: the checks that passed, by claim; none at first.

    Raises:
        ValueError: for an unknown profile.

    Example:
        A check that passes is written to ``out/ledger/03.json``; one that fails raises:

        >>> import os
        >>> import tempfile
        >>> from unittest.mock import patch
        >>> from ismkit.lessons import ClaimError, Ledger
        >>> ledger = Ledger("03", profile="smoke", seed=0)
        >>> with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, ISMKIT_OUT=folder):
        ...     ledger.check("C03.law", measured=17.0859, expected=1.5**7, tolerance=1e-3, verdict="verified")
        ...     print(ledger.path.relative_to(folder).as_posix(), ledger.path.is_file())
        ...     try:
        ...         ledger.check("C03.finest", measured=1.62, expected=1.5, tolerance=0.01)
        ...     except ClaimError as error:
        ...         print(str(error).partition(" (")[0])
        PASS C03.law: want = 17.0859 within 0.001
        ledger/03.json True
        C03.finest: measured 1.62, want = 1.5 within 0.01
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
        verdict: Verdict = "toy only",
        at: str = "smoke",
    ) -> None:
        """Test a claim, print one line without measured digits, and record the row.

        Args:
            claim: its key in ``CLAIMS``, which starts with the number of this notebook: ``C03.law``.
            measured: what came out.
            expected: the closed form, the bound or the reference.
            tolerance: allowance on ``expected``, in its unit: from the spread over at least five seeds.
            relation: ``==``, ``<=`` or ``>=``: how measured should relate to expected.
            verdict: what passing says of the paper's claim; where the check asserts the opposite, "contradicted".
            at: the least profile that can judge: at a smaller one nothing is tested or recorded.

        Raises:
            ValueError: for a claim that is not listed or is another notebook's.
            ClaimError: if the check fails.
        """
        if not isinstance(claim, str) or claim not in CLAIMS or not claim.startswith(f"C{self.notebook}."):
            known = ", ".join(key for key in CLAIMS if key.startswith(f"C{self.notebook}.")) or "none"
            raise ValueError(f"claim must be one of notebook {self.notebook}'s ({known}), got {shown(claim)}")
        measured, expected = as_number("measured", measured), as_number("expected", expected)
        check_number("tolerance", tolerance, "of at least 0", 0)
        check_name("relation", relation, SIGNS)
        check_name("verdict", verdict, get_args(Verdict))
        check_name("at", at, PROFILES)
        want = f"want {SIGNS[relation]} {expected:.6g}" + (f" within {tolerance:.2g}" if tolerance else "")
        if PROFILES.index(self.profile) < PROFILES.index(at):
            print(f"LATER {claim}: {want}, judged from profile {at} on")
            return
        if not holds(measured, relation, expected, tolerance):
            raise ClaimError(f"{claim}: measured {measured:.6g}, {want} ({CLAIMS[claim].statement})")
        self.rows[claim] = Entry(
            claim=claim,
            notebook=self.notebook,
            cell=_cell(),
            profile=self.profile,
            seed=self.seed,
            device=self.device,
            torch=torch.__version__.partition("+")[0],
            measured=measured,
            relation=relation,
            expected=expected,
            tolerance=tolerance,
            verdict=verdict,
        )
        write(self.rows.values(), self.path)
        print(f"PASS {claim}: {want}")


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
        ValueError: if two runs share a seed, or differ in more than seed and measured value.
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
            changed = [k for k in ("profile", "device", "relation", "verdict") if getattr(row, k) != getattr(first, k)]
            if changed:
                raise ValueError(f"{claim}: seeds {first.seed} and {row.seed} differ in {', '.join(changed)}")
        measured = {str(seed): of_seeds[seed].measured for seed in sorted(of_seeds)}
        result.append(Entry(**asdict(first) | {"seeds": measured}))
    return result


def spread(seeds: Mapping[str, float]) -> float:
    """Standard deviation over the seeds (n - 1), NaN below two."""
    values = torch.tensor(list(seeds.values()), dtype=torch.float64)
    return float(values.std()) if len(values) > 1 else math.nan


def table(rows: Iterable[Entry]) -> list[dict[str, Any]]:
    """The ledger to show: one entry per claim of ``CLAIMS``.

    Those without a row "need a GPU" if other claims of their notebook have one; else nothing of it was measured here.
    """
    by_claim = {row.claim: row for row in rows}
    notebooks = {claim[:3] for claim in by_claim}
    result = []
    for key, claim in CLAIMS.items():
        entry: dict[str, Any] = {"claim": key, "statement": claim.statement, "source": claim.source}
        row = by_claim.get(key)
        if row is None:
            verdict = "needs GPU" if key[:3] in notebooks else "not measured"
            entry |= {"verdict": verdict, "want": "", "measured": "", "spread": "", "seeds": 0, "cell": None}
        else:
            values = list(row.seeds.values()) or [row.measured]
            within = f" within {row.tolerance:.2g}" if row.tolerance else ""
            entry |= {
                "verdict": row.verdict,
                "want": f"{SIGNS[row.relation]} {row.expected:.4g}{within}",
                "measured": f"{sum(values) / len(values):.4g}",
                "spread": f"{spread(row.seeds):.2g}" if len(values) > 1 else "",
                "seeds": len(values),
                "cell": row.cell,
            }
        result.append(entry)
    return result


def as_text(entries: Iterable[Mapping[str, Any]]) -> str:
    """The table of :func:`table` to print, one line for each claim."""
    lines = [f"{'claim':<18} {'verdict':<13} {'want':<24} {'measured':>9} {'spread':>8} {'seeds':>5}  statement"]
    for entry in entries:
        line = "{claim:<18} {verdict:<13} {want:<24} {measured:>9} {spread:>8} {seeds:>5}  {statement}"
        lines.append(line.format(**entry))
    return "\n".join(lines)


def as_markdown(entries: Iterable[Mapping[str, Any]]) -> str:
    """The table of :func:`table` in Markdown, one row for each claim."""
    lines = ["| claim | statement | who says so | verdict | wanted | measured | spread | seeds |", "|---" * 8 + "|"]
    row = "| `{claim}` | {statement} | {source} | {verdict} | {want} | {measured} | {spread} | {seeds} |"
    return "\n".join([*lines, *(row.format(**entry) for entry in entries)])


def verdicts(rows: Iterable[Entry]) -> str:
    """How often each verdict was given, in words: "3 verified, 1 toy only"."""
    counts = Counter(row.verdict for row in rows)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in get_args(Verdict) if counts[verdict])
