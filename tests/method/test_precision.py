"""bf16 under autocast, as ``fit`` computes with it: how far loss, gradient and samples are from float32."""

import math
from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from ismkit.data.batches import Batches
from ismkit.data.sets import eight_gaussians
from ismkit.method.sampling import sample
from ismkit.neighbours.recipes import NAMED
from ismkit.training.loop import fit, needs_float32
from tests.steps import Kind, network, pair, recipe, step

# bf16 keeps 8 bits, so that rounding changes a number by at most U of it.
U = 2.0**-8
DEPTH = 2
SEEDS = range(3)
# Layers in the longest chain from t, d, w and y to the answer: two of the embedding, one of the modulation, the head;
# in a block of the MLP two, in one of the transformer six (q, k and v; their two products; the output; the MLP's two).
LAYERS: dict[Kind, int] = {"points": 4 + 2 * DEPTH, "images": 4 + 6 * DEPTH}


def bound(layers: int) -> float:
    """How far bf16 may be off, relative to the norm.

    Each layer rounds its input, its weight and its answer, by at most U each; errors of 3 n roundings add up by their
    squares. That layers neither amplify nor damp errors is an assumption. What was measured here before the bound was
    kept is at most 0.15 of it for losses, 0.51 for gradients and 0.44 for samples: it guards against worse.
    """
    return math.sqrt(3 * layers) * U


# Drifting's narrowest kernels, a fiftieth of the mean distance wide, amplify errors: measured 0.032 of the gradient.
AMPLIFIED = {"drifting": 2.0}


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("name", [name for name, value in NAMED.items() if not needs_float32(value)])
def test_loss_and_gradient_of_a_step(name: str, kind: Kind) -> None:
    more = AMPLIFIED.get(name, 1.0)
    for seed in SEEDS:
        loss, gradient = step(recipe(name, kind), network(kind, DEPTH, seed), kind, seed=seed)
        half, slopes = step(recipe(name, kind), network(kind, DEPTH, seed), kind, seed=seed, half=True)
        assert half.dtype == slopes.dtype == torch.float32
        assert not slopes.equal(gradient)  # a loss of power 1 is 1 whatever was rounded
        assert abs(half - loss) <= more * bound(LAYERS[kind]) * loss
        assert (slopes - gradient).norm() <= more * bound(2 * LAYERS[kind]) * gradient.norm()  # there and back


@pytest.fixture
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps its precision for the process: not for the tests that follow."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.mark.usefixtures("fresh_accelerator")
def test_moments_are_lost_in_bf16_and_refused_there() -> None:
    """Its two sets of ends are nearer than bf16 can tell: the gradient's cosine to float32's was 0.33 to 0.98."""
    cosines = []
    for seed in SEEDS:
        _, gradient = step(recipe("imm", "points"), network("points", DEPTH, seed), "points", seed=seed)
        _, slopes = step(recipe("imm", "points"), network("points", DEPTH, seed), "points", seed=seed, half=True)
        cosines.append(torch.cosine_similarity(slopes, gradient, dim=0).item())
    assert min(cosines) < 0.9
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    batches = Batches(eight_gaussians(64, 0), 16, seed=0)
    with pytest.raises(ValueError, match="the recipe imm needs precision='no', got 'bf16': what it compares"):
        fit(
            recipe("imm", "points"),
            network("points", classes=8),
            batches,
            steps=1,
            accelerator=accelerator,
            progress=False,
        )


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("nfe", [1, 4, 128])
def test_samples(nfe: int, kind: Kind) -> None:
    """Errors of the steps add up no further than the path itself: relative to its length."""
    for seed in SEEDS[: 1 if nfe == 128 else None]:
        net, (x0, _, y) = network(kind, DEPTH, seed).eval(), pair(kind, seed)
        w = torch.linspace(0, 3.5, len(y))
        full = sample(net, x0, y, w=w, nfe=nfe)
        with torch.autocast("cpu", torch.bfloat16):
            half = sample(net, x0, y, w=w, nfe=nfe)
        assert half.dtype == torch.float32  # the state is not rounded
        assert not half.equal(full)
        assert (half - full).norm() <= bound(LAYERS[kind]) * (full - x0).norm()
