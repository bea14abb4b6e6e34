"""The list of claims is in order, and each is one sentence with a source."""

import re
from typing import get_args

from ismkit.lessons.claims import CLAIMS, Source


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
