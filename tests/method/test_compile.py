"""``torch.compile`` takes each step in one graph: a break in it would cost the time that compiling saves."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ismkit.method.ema import TwinEMA
from ismkit.method.path import Query
from ismkit.method.recipes import Answer, Context, Recipe
from ismkit.neighbours import NAMED, Leap
from ismkit.utils.seeding import stream
from tests.steps import CLASSES, Kind, network, pair, recipe


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests() -> None:
    torch._dynamo.reset()


def after_the_rows(value: Recipe, kind: Kind, compile: bool) -> tuple[Tensor, Tensor]:
    """Loss and gradient of ``training_step`` from its second line on: Dynamo takes no ``torch.Generator``."""
    net = network(kind)
    ema = TwinEMA(net, value.fast, value.slow)
    query, velocity = value.rows(*pair(kind), CLASSES, stream(0, "rows"))

    def loss(query: Query, velocity: Tensor) -> Tensor:
        with torch.no_grad():
            target, weight = value.target(query, velocity, value.rows, Context(ema.fast, ema.slow, CLASSES))
        return value.loss(weight * value.distance(net(*query), target, query))

    torch.manual_seed(0)  # for a cut at random
    found = (torch.compile(loss, backend="eager", fullgraph=True) if compile else loss)(query, velocity)
    found.backward()
    return found.detach(), torch.cat([p.grad.flatten() for p in net.parameters()])  # type: ignore[union-attr]


# A derivative in forward mode is not traced whole (torch 2.14: an assertion within layer_norm). ``fit`` compiles block
# by block, which is tried in tests/training.
TRACED = {name: r for name, r in NAMED.items() if not (isinstance(r.target, Leap) and r.target.cut == 0)}
# Points: the recipes that differ in what is compiled, not in coupling and decays alone. Images: with bands and without.
DISTINCT = {(r.rows, r.target, r.weights): name for name, r in TRACED.items()}.values()
STEPS: list[tuple[str, Kind]] = [(name, "points") for name in DISTINCT]
STEPS += [("shortcut_every_level", "images"), ("ism", "images"), ("ect", "images")]


@pytest.mark.parametrize(("name", "kind"), STEPS)
def test_a_step_is_one_graph(name: str, kind: Kind) -> None:
    value = recipe(name, kind)
    for found, expected in zip(*(after_the_rows(value, kind, compile) for compile in (True, False)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_step_that_looks_at_a_number_is_found() -> None:
    def target(query: Query, velocity: Tensor, *_: Any) -> Answer:
        return Answer(velocity / 2 if velocity.abs().max() > 1 else velocity)

    with pytest.raises(torch._dynamo.exc.Unsupported):
        after_the_rows(replace(recipe("flow", "points"), target=target), "points", compile=True)
