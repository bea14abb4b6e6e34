"""Changes that leave a picture what it is, and sets in which every class weighs the same."""

import re
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from ismkit import Labelled
from ismkit.data.pictures import Mirror, Shift, balanced


def rng(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("most", "fill"), [(1, -1.0), (2, 0.25)])
def test_shifts_move_every_image_and_all_ways_occur(most: int, fill: float) -> None:
    x = torch.rand(600, 2, 9, 7, generator=rng(0))
    shifted = Shift(most, fill)(x, torch.zeros(600).long(), rng())

    def moved(image: Tensor, down: int, right: int) -> Tensor:
        canvas = torch.full((2, 9 + 2 * most, 7 + 2 * most), fill)
        canvas[:, most + down : most + down + 9, most + right : most + right + 7] = image
        return canvas[:, most : most + 9, most : most + 7]

    ways = list(product(range(-most, most + 1), repeat=2))
    seen = [[way for way in ways if torch.equal(moved(a, *way), b)] for a, b in zip(x, shifted, strict=True)]
    assert all(len(found) == 1 for found in seen)
    assert {found[0] for found in seen} == set(ways)


def test_mirrors_turn_half_of_the_pictures_of_their_classes_and_no_others() -> None:
    x, y = torch.rand(900, 1, 4, 5, generator=rng(0)), torch.arange(900) % 3
    turned = Mirror((0, 2))(x, y, rng())
    as_is = (turned == x).flatten(1).all(1)
    assert ((turned == x.flip(3)).flatten(1).all(1) | as_is).all()
    assert as_is[y == 1].all()
    assert 0.4 < as_is[y != 1].float().mean() < 0.6  # 600 draws: five deviations are 0.1


def some(counts: tuple[int, ...]) -> Labelled:
    """Pictures that say which row they are, so many of each class."""
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return Labelled(torch.arange(float(len(y)))[:, None, None, None].expand(-1, 1, 2, 2), y, len(counts), ("a", "b"))


def test_every_class_weighs_the_same_and_its_rows_too() -> None:
    data = some((3, 10))
    even = balanced(data, 25, seed=0)
    assert even.y.bincount().tolist() == [25, 25]
    assert torch.equal(data.y[even.x[:, 0, 0, 0].long()], even.y)
    taken = even.x[:, 0, 0, 0].long().bincount()
    assert sorted(taken[:3].tolist()) == [8, 8, 9]
    assert sorted(taken[3:].tolist()) == [2] * 5 + [3] * 5


def test_equal_seeds_give_equal_sets_and_changes_are_made_in_their_order() -> None:
    def half(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return x / 2

    def one_more(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return x + torch.rand(x.shape, generator=generator)

    sets = [balanced(some((3, 10)), 25, seed, (half, one_more)).x for seed in (0, 0, 1)]
    assert torch.equal(sets[0], sets[1])
    assert not torch.equal(sets[0], sets[2])
    plain = balanced(some((3, 10)), 25, 0).x
    assert ((sets[0] - plain / 2 >= 0) & (sets[0] - plain / 2 <= 1)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Shift(0), "most must be an integer of at least 1, got 0"),
        (lambda: Shift(1, fill=2.0), "fill must be a number in [-1, 1], got 2.0"),
        (lambda: Shift(2)(torch.zeros(1, 1, 2, 2), torch.zeros(1), rng()), "most must be below the size"),
        (lambda: Mirror(("cat",)), "labels"),  # type: ignore[arg-type]
        (lambda: balanced(some((3, 10)), 0), "per_class must be an integer of at least 1, got 0"),
        (lambda: balanced(some((3, 10)), 5, changes=(Shift,)), "each of the changes must be a function"),  # type: ignore[arg-type]
        (lambda: balanced(torch.zeros(3), 5), "data must be a Labelled"),  # type: ignore[arg-type]
        (lambda: balanced(some((0, 10)), 5), "data must have rows of every class, got none of 'a'"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        call()
