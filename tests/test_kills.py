"""A few kills of what no other test kills as a whole; ``python -m tests.kills`` does all jobs, many times."""

import random

import pytest

from tests.kills import JOBS, try_job


@pytest.mark.parametrize("name", ["training of two processes", "evaluation"])
def test_what_is_killed_ends_as_if_it_had_not_been(name: str) -> None:
    count = try_job(JOBS[name], 1, random.Random(0))
    assert (count.unread, count.differ) == ((), ())
    assert count.kills
    assert count.rounds
