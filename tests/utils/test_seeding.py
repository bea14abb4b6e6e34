"""Random streams as functions of their place: equal places give equal streams, any other place another."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ismkit.utils.seeding import stream

places = st.lists(st.integers(0, 1000) | st.text(max_size=5), max_size=4).map(tuple)


def draw(generator: torch.Generator, n: int = 4) -> list[float]:
    return torch.rand(n, generator=generator).tolist()


@given(st.integers(0, 2**40), places)
def test_equal_places_give_equal_streams(seed: int, place: tuple[int | str, ...]) -> None:
    assert draw(stream(seed, *place)) == draw(stream(seed, *place))


@given(st.integers(0, 2**40), places, st.integers(0, 2**40), places)
def test_unequal_places_give_unequal_streams(
    seed: int, place: tuple[int | str, ...], other_seed: int, other: tuple[int | str, ...]
) -> None:
    equal = (seed, *place) == (other_seed, *other)
    assert (draw(stream(seed, *place)) == draw(stream(other_seed, *other))) == equal


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, "rows", 1, 23), (0, "rows", 12, 3)),  # no running together of neighbours
        ((0, "rows", 1, 2), (0, "rows", 2, 1)),  # order counts
        ((0, "1"), (0, 1)),  # so does the type
        ((0, "ab", "c"), (0, "a", "bc")),
        ((0,), (0, 0)),
    ],
)
def test_places_that_read_alike_are_told_apart(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert draw(stream(*one)) != draw(stream(*other))


@given(st.integers(0, 2**40), st.integers(0, 10**6), st.integers(0, 10**6))
@settings(max_examples=25)
def test_the_seed_is_the_one_stated(seed: int, shard: int, step: int) -> None:
    # Written out by hand, so that a resumed run meets the numbers of the version that began it.
    digest = hashlib.sha256(f"({seed}, 'rows', {shard}, {step})".encode()).digest()
    assert stream(seed, "rows", shard, step).initial_seed() == int.from_bytes(digest[:8], "little") // 2


def test_neighbouring_steps_are_uncorrelated() -> None:
    n = 10_000
    steps = torch.stack([torch.randn(n, generator=stream(0, "noise", 0, step)) for step in range(6)])
    correlation = torch.corrcoef(steps) - torch.eye(6)
    assert correlation.abs().max() < 6 / n**0.5  # six standard deviations


def test_the_global_stream_is_left_alone() -> None:
    before = torch.get_rng_state()
    draw(stream(3, "noise"))
    assert torch.equal(torch.get_rng_state(), before)
