"""What a run costs before it is started: FLOPs, memory, storage, hours and money, from closed forms.

A multiply-add counts as two FLOPs, as in hardware's figures; the Gflops published for DiT count it once. Only products
of matrices and convolutions are counted: norms, activations and the distance are below a hundredth of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args, get_type_hints

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ismkit.method.path import Network
from ismkit.method.recipes import Context, Recipe
from ismkit.models.nets import FREQUENCIES
from ismkit.utils.checks import check_count, shown


def forward_flops(config: Mapping[str, Any]) -> float:
    """FLOPs of one forward pass of one sample through a ``DiT``.

    Args:
        config: the network's shape, as ``DiT.config`` holds it.

    Returns:
        ``depth (24 T D^2 + 4 T^2 D + 12 D^2)`` for T tokens of width D, and the layers around the blocks. The
        published count of DiT-XL/2, 118.64 G multiply-adds, is half of this to 2 in 10^4.
    """
    if not isinstance(config, Mapping) or not {"size", "patch", "channels", "width", "depth"} <= config.keys():
        raise ValueError(
            f"config must be that of a DiT, with size, patch, channels, width and depth, got {shown(config)}"
        )
    tokens, pixels = (config["size"] // config["patch"]) ** 2, config["patch"] ** 2 * config["channels"]
    D = config["width"]
    projections = 24 * tokens * D**2  # qkv 6, output 2, MLP 16
    attention = 4 * tokens**2 * D  # scores and their product with the values
    modulation = 12 * D**2
    ends = 2 * (2 * tokens * pixels * D)  # patches in and out
    conditioning = 3 * (2 * 2 * FREQUENCIES * D + 2 * D**2)  # t, d and w; the label is looked up
    return float(config["depth"] * (projections + attention + modulation) + ends + conditioning + 4 * D**2)


class Passes(NamedTuple):
    """What goes through networks in one step: rows with gradient, rows that make targets, and calls for these."""

    online: int
    target: int
    calls: int


def passes(recipe: Recipe, batch: int, progress: float = 0.0) -> Passes:
    """Network passes of one training step of any recipe, counted by making its targets with a network that counts.

    iSM: every row once with gradient; guidance rows twice for the gap, consistency rows once per half step. The gap and
    the first half step are one call, the second half step another.

    Args:
        recipe: the method.
        batch: rows of one micro-batch.
        progress: the share of the run that is done, for recipes that change on the way.

    Returns:
        The number of rows with gradient, of rows that make targets, and of calls for these. A row of which a
        derivative is taken in forward mode counts twice, one of a teacher as one.

    Raises:
        TypeError: if ``recipe`` is none.
        ValueError: if the batch cannot be divided as the recipe's ``Rows`` say.

    Example:
        An iSM step makes targets from as many rows as it trains; flow matching needs no network for its targets:

        >>> from ismkit import RECIPES
        >>> from ismkit.training import passes
        >>> passes(RECIPES["flow"], batch=256)
        Passes(online=256, target=0, calls=0)
        >>> passes(RECIPES["ism"], batch=256)
        Passes(online=256, target=256, calls=2)

        MeanFlow takes the derivative of a quarter of its rows, and has no other call:

        >>> from ismkit.neighbours import NEIGHBOURS
        >>> passes(NEIGHBOURS["meanflow"], batch=256)
        Passes(online=256, target=128, calls=1)
    """
    counted: list[int] = []

    def net(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        moved = any(forward_ad.unpack_dual(given).tangent is not None for given in (x, t, d))
        counted.append(len(x) * (2 if moved else 1))
        return torch.zeros_like(x)

    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, such as one of RECIPES, got {shown(recipe)}")
    batch = check_count("batch", batch)
    side = 2 ** getattr(recipe.target, "levels", 0)  # a rule that compares wavelet bands takes no points
    x = torch.zeros(batch, 1, side, side)
    query, velocity = recipe.rows(x, x, torch.zeros(batch, dtype=torch.long), 1, torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(0)
    asking(recipe.target, net)(query, velocity, recipe.rows, Context(net, net, 1, progress, rng))
    return Passes(batch, sum(counted), len(counted))


def asking(rule: Any, net: Network) -> Any:
    """The rule with another network for each that it holds, such as a teacher."""
    if not dataclasses.is_dataclass(rule) or isinstance(rule, type):
        return rule
    changes: dict[str, Any] = {}
    for name, kind in get_type_hints(type(rule)).items():
        held = getattr(rule, name)
        if callable(held) and Network in (kind, *get_args(kind)):
            changes[name] = net
        elif (inner := asking(held, net)) is not held:
            changes[name] = inner
    return dataclasses.replace(rule, **changes) if changes else rule


def row_cost(recipe: Recipe, batch: int) -> float:
    """Cost of one row of a training step in forward passes, the mean over a run.

    A backward pass counts as two forward ones, a derivative in forward mode as one more, a pass of a teacher as one.

    Args:
        recipe: the method.
        batch: rows of one micro-batch.

    Returns:
        Forward passes for each row: 3 for flow matching, which needs none for its targets.

    Raises:
        TypeError: if ``recipe`` is none.
        ValueError: if the batch cannot be divided as the recipe's ``Rows`` say.

    Example:
        >>> from ismkit import RECIPES
        >>> from ismkit.neighbours import NEIGHBOURS
        >>> from ismkit.training import row_cost
        >>> row_cost(RECIPES["flow"], batch=256), row_cost(RECIPES["ism"], batch=256)
        (3.0, 4.0)
        >>> row_cost(NEIGHBOURS["meanflow"], batch=256)
        3.5
    """
    counts = [passes(recipe, batch, (k + 0.5) / _MOMENTS) for k in range(_MOMENTS)]
    return sum(3 * count.online + count.target for count in counts) / _MOMENTS / batch


_MOMENTS = 50  # of a run at which passes are counted: recipes that change do so in stages or slowly


def step_flops(config: Mapping[str, Any], recipe: Recipe, batch: int) -> float:
    """FLOPs of one training step of ``batch`` rows, a backward pass taken as two forward ones.

    These are the model's FLOPs, what MFU counts: passes that make targets are in, activations that checkpointing
    computes again are not. A step really needs slightly less (no gradient goes to what enters the network: 0.05 % of
    XL/2) and a fused attention slightly more (its backward computes the scores again: a fifth of its own products).

    Args:
        config: the network's shape, as ``DiT.config`` holds it.
        recipe: the method.
        batch: rows of one micro-batch.

    Returns:
        FLOPs, a multiply-add counted as two.

    Raises:
        ValueError: if the batch cannot be divided as the recipe's ``Rows`` say.

    Example:
        A step of XL/2 in TFLOPs, and how much more an iSM step costs than one of flow matching:

        >>> from ismkit import PRESETS, RECIPES
        >>> from ismkit.training import step_flops
        >>> config = {**PRESETS["XL"], "size": 32, "channels": 4, "patch": 2}
        >>> flow, ism = (step_flops(config, RECIPES[name], batch=256) for name in ("flow", "ism"))
        >>> round(flow / 1e12, 1), round(ism / 1e12, 1), round(ism / flow, 2)
        (182.2, 242.9, 1.33)
    """
    count = passes(recipe, batch)
    return forward_flops(config) * (3 * count.online + count.target)


def parameters(config: Mapping[str, Any]) -> int:
    """Parameters of a ``DiT``.

    XL/2 has 678.06 M: the published 675.13 M, without its fixed positions (0.29 M) and the half of its outputs that
    predicts a variance (0.02 M), with the embedders of d and w (3.24 M).
    """
    D, pixels = config["width"], config["patch"] ** 2 * config["channels"]
    block = 18 * D**2 + 15 * D  # qkv 3, output 1, MLP 8, modulation 6, and their biases
    embedder = 2 * FREQUENCIES * D + D**2 + 2 * D
    ends = (pixels + 1) * D + (D + 1) * pixels + 2 * D**2 + 2 * D
    return config["depth"] * block + 3 * embedder + (config["num_classes"] + 1) * D + ends


STATE_BYTES = {"weights": 4, "gradients": 4, "AdamW": 8, "two averages": 8}  # per parameter, all float32
SAVED_BYTES = {"no": 80, "bf16": 48}  # per token and unit of width: what one block keeps for its backward pass


def activation_bytes(config: Mapping[str, Any], precision: str = "bf16", checkpointing: bool = False) -> float:
    """Bytes that the forward pass of one sample keeps for the backward pass, without compilation.

    Per block and token of width D, in units of D numbers: the input and the normed input of both halves and what is
    modulated of them (2 x 3), qkv 3, the attention's output and its projection 2, the hidden layer before and after
    its activation 8, and the second output 1. Autocast keeps 4 of these 20 in float32. A compiler keeps fewer.

    Args:
        config: the network's shape.
        precision: Accelerate's name: ``no`` (float32) or ``bf16`` (autocast).
        checkpointing: keep only the input of every block, and all of one block while it is computed again.

    Raises:
        ValueError: for another precision.
    """
    if precision not in SAVED_BYTES:
        raise ValueError(f"precision must be one of {list(SAVED_BYTES)}, got {precision!r}")
    tokens = (config["size"] // config["patch"]) ** 2
    block = SAVED_BYTES[precision] * tokens * config["width"]
    if checkpointing:
        return float(4 * tokens * config["width"] * config["depth"] + block)
    return float(block * config["depth"])


def latent_bytes(images: int = 1_281_167, channels: int = 4, size: int = 32, copies: int = 2) -> int:
    """Bytes of stored latents: mean and deviation of the posterior in half precision, ``copies`` of each image.

    Args:
        images: of the set; ImageNet's training set has 1 281 167.
        channels: of a latent.
        size: side of a latent: 32 for 256 pixels, 64 for 512.
        copies: 2 with the flipped images.
    """
    return images * copies * 2 * channels * size**2 * 2


def checkpoint_bytes(config: Mapping[str, Any]) -> int:
    """Bytes of one checkpoint: weights, AdamW's moments and two averages, in float32."""
    return (sum(STATE_BYTES.values()) - STATE_BYTES["gradients"]) * parameters(config)
