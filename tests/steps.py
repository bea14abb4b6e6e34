"""One training step of each recipe, on points and on images, for the tests of devices, compilation and precision."""

from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from ismkit.method.ema import TwinEMA
from ismkit.method.recipes import Recipe, training_step
from ismkit.models.nets import DiT, ToyMLP
from ismkit.neighbours.recipes import NAMED
from ismkit.training.runs import for_points, for_side
from ismkit.utils.seeding import stream

Kind = Literal["points", "images"]
CLASSES, BATCH = 3, 16
SHAPES: dict[Kind, tuple[int, ...]] = {"points": (2,), "images": (2, 8, 8)}


def network(kind: Kind, depth: int = 1, seed: int = 0, classes: int = CLASSES) -> nn.Module:
    """A small network none of whose parameters is zero: else many gradients are at first."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: nn.Module = (
            ToyMLP(width=32, depth=depth, num_classes=classes)
            if kind == "points"
            else DiT(size=8, channels=2, patch=2, width=32, depth=depth, heads=2, num_classes=classes)
        )
        for parameter in net.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
    return net


def recipe(name: str, kind: Kind) -> Recipe:
    return for_points(NAMED[name]) if kind == "points" else for_side(NAMED[name], 8)


def pair(kind: Kind, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    x0, x1 = (torch.randn(BATCH, *SHAPES[kind], generator=stream(seed, name)) for name in ("noise", "data"))
    return x0, x1, torch.arange(BATCH) % CLASSES


def step(
    recipe: Recipe, net: nn.Module, kind: Kind, device: str = "cpu", seed: int = 0, half: bool = False
) -> tuple[Tensor, Tensor]:
    """Loss of one step, and the gradient of all parameters in one row, both on the device, where ``net`` is."""
    ema = TwinEMA(net, recipe.fast, recipe.slow)
    x0, x1, y = (part.to(device, non_blocking=True) for part in pair(kind, seed))
    rng = stream(seed, "rows", device=device)
    with torch.autocast(device, torch.bfloat16) if half else nullcontext():
        loss, _, _ = training_step(recipe, net, ema, (x0, x1, y), CLASSES, rng)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in net.parameters()])  # type: ignore[union-attr]
