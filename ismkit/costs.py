"""What a run costs before it is started: FLOPs, memory, storage, hours and money, from closed forms.

A multiply-add counts as two FLOPs, as in hardware's figures; the Gflops published for DiT count it once. Only products
of matrices and convolutions are counted: norms, activations and the distance are below a hundredth of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ismkit.nets import FREQUENCIES
from ismkit.objectives import Recipe


def forward_flops(config: Mapping[str, Any]) -> float:
    """FLOPs of one forward pass of one sample through a ``DiT``.

    Args:
        config: the network's shape, as ``DiT.config`` holds it.

    Returns:
        ``depth (24 T D^2 + 4 T^2 D + 12 D^2)`` for T tokens of width D, and the layers around the blocks. The
        published count of DiT-XL/2, 118.64 G multiply-adds, is half of this to 2 in 10^4.
    """
    tokens, pixels = (config["size"] // config["patch"]) ** 2, config["patch"] ** 2 * config["channels"]
    D = config["width"]
    projections = 24 * tokens * D**2  # qkv 6, output 2, MLP 16
    attention = 4 * tokens**2 * D  # scores and their product with the values
    modulation = 12 * D**2
    ends = 2 * (2 * tokens * pixels * D)  # patches in and out
    conditioning = 3 * (2 * 2 * FREQUENCIES * D + 2 * D**2)  # t, d and w; the label is looked up
    return float(config["depth"] * (projections + attention + modulation) + ends + conditioning + 4 * D**2)


class Passes(NamedTuple):
    """Rows that go through a network in one step: with gradient, and those that make targets."""

    online: int
    target: int


def passes(recipe: Recipe, batch: int) -> Passes:
    """Network passes of one training step of any recipe, counted by making its targets with a network that counts.

    iSM: every row once with gradient; guidance rows twice for the gap, consistency rows once per half step.

    Args:
        recipe: the method.
        batch: rows of one micro-batch.
    """
    rows, counted = recipe.rows, 0

    def count(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        nonlocal counted
        counted += len(x)
        return torch.zeros_like(x)

    x = torch.zeros(batch, 1)
    query, velocity = rows(x, x, torch.zeros(batch, dtype=torch.long), 1, torch.Generator().manual_seed(0))
    recipe.target(count, query, velocity, rows, 1, count)
    return Passes(batch, counted)


def step_flops(config: Mapping[str, Any], recipe: Recipe, batch: int) -> float:
    """FLOPs of one training step of ``batch`` rows, a backward pass taken as two forward ones.

    These are the model's FLOPs, what MFU counts: passes that make targets are in, activations that checkpointing
    computes again are not. A step really needs slightly less (no gradient goes to what enters the network: 0.05 % of
    XL/2) and a fused attention slightly more (its backward computes the scores again: a fifth of its own products).

    Args:
        config: the network's shape, as ``DiT.config`` holds it.
        recipe: the method.
        batch: rows of one micro-batch.
    """
    online, target = passes(recipe, batch)
    return forward_flops(config) * (3 * online + target)
