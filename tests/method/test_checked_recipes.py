"""Parts of your own that return what a training cannot use: one line that names the function and what is right."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ismkit.data.batches import Batches
from ismkit.data.sets import eight_gaussians
from ismkit.method.ema import TwinEMA
from ismkit.method.recipes import RECIPES, Answer, Recipe, checked, training_step
from ismkit.models.nets import ToyMLP
from ismkit.training.loop import fit
from ismkit.training.runs import RUNS, check_run

ISM = RUNS["gaussians"].recipe


def rule(answer: Callable[[Tensor], Any]) -> Recipe:
    """A recipe with a rule that answers so, given the velocity."""

    def own(query: Any, velocity: Tensor, rows: Any, context: Any) -> Any:
        return answer(velocity)

    return replace(RECIPES["flow"], name="own", target=own)


def distance(answer: Callable[[Tensor], Any]) -> Recipe:
    def own(prediction: Tensor, target: Tensor, query: Any) -> Any:
        return answer(prediction - target)

    return replace(RECIPES["flow"], name="own", distance=own)


def term(answer: Callable[[Tensor], Any]) -> Recipe:
    def own(net: Any, prediction: Tensor, query: Any, velocity: Tensor, context: Any) -> Any:
        return answer(prediction)

    return replace(RECIPES["flow"], name="own", terms=(own,))


WRONG: dict[str, tuple[Recipe, str]] = {
    "tensor": (rule(lambda v: v), r"target must return Answer\(target, weight\), .*own returns Tensor \(2, 2\)"),
    "nothing": (rule(lambda v: None), r"target must return Answer\(target, weight\), .*own returns None"),
    "columns": (rule(lambda v: Answer(v[:, :1])), r"targets like the velocity, \(2, 2\), .*returns Tensor \(2, 1\)"),
    "number": (rule(lambda v: Answer(1.0)), r"target must return targets like the velocity, .*own returns 1.0"),  # type: ignore[arg-type]
    "weight": (rule(lambda v: Answer(v, v[:, :1])), r"a weight for each row, \(2,\), .*own returns Tensor \(2, 1\)"),
    "mean": (distance(lambda e: e.square().mean()), r"distance must return one number per row, \(2,\), .*own returns"),
    "squares": (distance(lambda e: e.square()), r"distance must return one number per row, .*Tensor \(2, 2\)"),
    "rows": (term(lambda p: p.square()), r"each of the terms must return one number, .*own returns Tensor \(2, 2\)"),
    "no term": (term(lambda p: None), r"each of the terms must return one number, .*own returns None"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_part_returns_is_named_where_it_cannot_be_trained_on(name: str) -> None:
    """Two rows were unpacked as a target and a weight, and trained."""
    recipe, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        fit(recipe, ToyMLP(width=8, depth=1), Batches(eight_gaussians(256, 0), 2, 0), steps=1, progress=False)


def bare(query: Any, velocity: Tensor, rows: Any, context: Any) -> Any:
    return velocity


def test_a_sweep_names_it_too() -> None:
    run = replace(RUNS["gaussians"], recipe=replace(ISM, name="bare", target=bare))
    with pytest.raises(ValueError, match=r"the recipe bare fails in its first step: target must return Answer.*, bare"):
        check_run(run, eight_gaussians(256, 0))


RIGHT: dict[str, Recipe] = {
    "pair": rule(lambda v: (v, 1.0)),
    "one weight": rule(lambda v: Answer(v, torch.ones(1))),
    "weights": rule(lambda v: Answer(v, v.square().sum(1))),
    "a term of Python": term(lambda p: 0.5),
    "ism": ISM,
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_has_the_same_loss(name: str) -> None:
    net, x = ToyMLP(width=8, depth=1, num_classes=3), torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    losses = [
        training_step(
            recipe, net, TwinEMA(net), (x, x.flip(0), torch.arange(16) % 3), 3, torch.Generator().manual_seed(1)
        )[0]
        for recipe in (RIGHT[name], checked(RIGHT[name]))
    ]
    assert losses[0].equal(losses[1])
