"""The parts of a recipe with their answers checked: those of your own may return anything, and much of it broadcasts.

A rule that returns a tensor of two rows would be unpacked as a target and a weight, and train another loss. So the loop
trains by :func:`checked`, and :func:`ismkit.method.recipes.training_step` stays without a question.
"""

from __future__ import annotations

from dataclasses import replace
from numbers import Real
from typing import Any

from torch import Tensor, nn

from ismkit.method.path import Query
from ismkit.method.recipes import Answer, Context, Recipe, Term
from ismkit.method.rows import Blocked
from ismkit.utils.checks import named, shown


def checked(recipe: Recipe) -> Recipe:
    """Make a recipe whose target, distance and terms are those of another, and raise if they return something else.

    Only types and shapes are read, so no device waits.

    Args:
        recipe: the method.

    Returns:
        A recipe with the same loss. A ValueError of its parts names the function, what it returned, and what is right.

    Example:
        >>> from dataclasses import replace
        >>> import torch
        >>> from ismkit import RECIPES, ToyMLP, TwinEMA, training_step
        >>> from ismkit.training.parts import checked
        >>> def shrunk(query, velocity, rows, context):
        ...     return 0.9 * velocity
        >>> recipe, net = replace(RECIPES["flow"], target=shrunk), ToyMLP(width=16, depth=1, num_classes=3)
        >>> pair, rng = (torch.zeros(8, 2), torch.ones(8, 2), torch.arange(8) % 3), torch.Generator().manual_seed(0)
        >>> training_step(checked(recipe), net, TwinEMA(net), pair, null=3, rng=rng)
        Traceback (most recent call last):
        ValueError: target must return Answer(target, weight), shrunk returns Tensor (8, 2) torch.float32
    """

    def target(query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Answer:
        answer = recipe.target(query, velocity, rows, context)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise _wrong("target", recipe.target, "Answer(target, weight)", answer)
        wanted, weight = answer
        if _shape(wanted) != velocity.shape:
            raise _wrong("target", recipe.target, f"targets like the velocity, {tuple(velocity.shape)}", wanted)
        if _shape(weight) not in ((), (1,), velocity.shape[:1]):
            raise _wrong("target", recipe.target, f"a weight for each row, ({len(velocity)},), or one number", weight)
        return Answer(wanted, weight)

    def distance(prediction: Tensor, target: Tensor, query: Query | None = None) -> Tensor:
        found = recipe.distance(prediction, target, query)
        if _shape(found) != prediction.shape[:1]:
            raise _wrong("distance", recipe.distance, f"one number per row, ({len(prediction)},)", found)
        return found

    terms = tuple(_scalar(term) for term in recipe.terms)
    return replace(recipe, target=target, distance=distance, terms=terms)


def _scalar(term: Term) -> Term:
    """A term that raises ValueError unless it is one number."""

    def part(net: nn.Module, prediction: Tensor, query: Query, velocity: Tensor, context: Context) -> Tensor:
        found = term(net, prediction, query, velocity, context)
        if _shape(found) != ():
            raise _wrong("each of the terms", term, "one number, as .mean() gives it", found)
        return found

    return part


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of a tensor or a number, None of anything else."""
    if isinstance(value, Real):
        return ()
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _wrong(argument: str, part: Any, right: str, found: Any) -> ValueError:
    """The error for what a part returned."""
    return ValueError(f"{argument} must return {right}, {named(part)} returns {shown(found)}")
