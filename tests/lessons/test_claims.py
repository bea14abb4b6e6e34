"""The list of claims is in order, and each is one sentence with a source."""

import re
from typing import get_args

import pytest

from ismkit.lessons.claims import (
    BASES,
    BOUNDS,
    CLAIMS,
    HEADLINES,
    SOURCES,
    VERDICTS,
    Basis,
    Bound,
    Claim,
    Source,
    Verdict,
)


def test_keys_name_a_notebook_and_stand_in_its_order() -> None:
    assert all(re.fullmatch(r"C(0[0-9]|1[0-2])\.[a-z][a-z0-9_]*", key) for key in CLAIMS)
    numbers = [key[:3] for key in CLAIMS]
    assert numbers == sorted(numbers)


def test_statements_are_single_sentences_with_a_source() -> None:
    for key, claim in CLAIMS.items():
        assert claim.source in get_args(Source), key
        assert 20 <= len(claim.statement) <= 200, key
        assert claim.statement[0].isupper() or claim.statement[0] in "aiw0123456789", key
        assert not claim.statement.endswith("."), f"{key}: the tables set no full stop"
        assert "|" not in claim.statement, f"{key}: a bar would break the tables"
    assert len({claim.statement for claim in CLAIMS.values()}) == len(CLAIMS)


def test_every_word_is_defined_in_one_sentence() -> None:
    for words, kind in ((SOURCES, Source), (VERDICTS, Verdict), (BASES, Basis), (BOUNDS, Bound)):
        assert set(words) == set(get_args(kind))
        assert len(set(words.values())) == len(words)
    for words in (VERDICTS, BASES, BOUNDS):
        assert all(meaning.endswith(".") and ". " not in meaning for meaning in words.values())


def test_headlines_are_claims_that_hold_and_repeat_no_figure() -> None:
    for claim, why in HEADLINES.items():
        assert CLAIMS[claim].verdict in ("exact", "holds here", "toys only")
        assert not re.search(r"\d", why), claim


def test_claims_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="verdict must be one of exact, holds here"):
        Claim("a sentence", "kit", "verified")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="an exact claim must have the basis computed, got trained"):
        Claim("a sentence", "kit", "exact")
    for basis, trainings in (("study", 0), ("trained", 5)):
        with pytest.raises(ValueError, match=f"for a study alone, got {trainings}"):
            Claim("a sentence", "kit", basis=basis, trainings=trainings)  # type: ignore[arg-type]


def test_what_the_paper_is_said_to_get_wrong_is_the_papers() -> None:
    """faults C8: remarks of this kit's own that failed are no contradiction of the paper."""
    for key, claim in CLAIMS.items():
        if claim.verdict in ("opposite here", "weaker here"):
            assert claim.source != "kit", key
