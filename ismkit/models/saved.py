"""Trained networks as files: one safetensors file that says which network it holds and how it was trained.

The released ones are part of the package (``ismkit/models/weights``), and loaded with their checksums verified.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ismkit.data.fashion import CLOTHES, SHAPE
from ismkit.method.guidance import TwoPassCFG
from ismkit.method.path import StepGrid
from ismkit.method.recipes import velocity_target
from ismkit.models.nets import DiT, ToyMLP
from ismkit.utils.files import weights_file
from ismkit.utils.weights import CheckpointError, load_weights, read_weights, save_weights

NETWORKS: dict[str, type[nn.Module]] = {"DiT": DiT, "ToyMLP": ToyMLP}


def save_model(
    net: nn.Module, path: str | os.PathLike[str], card: dict[str, Any], dtype: torch.dtype = torch.float32
) -> str:
    """Write a network, usually ``state.ema.slow``, with its shape and a card; returns the file's SHA-256.

    Args:
        net: a network of this kit.
        path: ends in ``.safetensors``; written atomically.
        card: anything JSON that a reader should know: run, recipe, steps, seed, figures, licence.
        dtype: in which the numbers are stored; float16 halves the file.
    """
    kind = type(net).__name__
    if NETWORKS.get(kind) is not type(net):
        raise TypeError(f"net must be one of {', '.join(NETWORKS)}, got {kind}")
    config = {"class": kind, **net.config, "grid": net.conditioning.grid.n}  # type: ignore[dict-item, union-attr]
    metadata = {"net": json.dumps(config), "dtype": str(dtype).removeprefix("torch."), "card": json.dumps(card)}
    return save_weights(copy.deepcopy(net).to(dtype), path, metadata)


def load_model(path: str | os.PathLike[str], sha256: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """The network in a file of :func:`save_model`, in float32 and eval mode without gradients, and its card.

    Raises:
        CheckpointError: if the file is missing, truncated, altered or no such file.
    """
    _, metadata = read_weights(path, sha256)
    try:
        config = json.loads(metadata["net"])
        net = NETWORKS[config.pop("class")](**config | {"grid": StepGrid(config["grid"])})
        net.to(getattr(torch, metadata["dtype"]))
        card = json.loads(metadata["card"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{Path(path)} names no network of this kit ({error!r}): use a file that `ismkit train` wrote"
        ) from error
    load_weights(net, path)
    return net.float().eval().requires_grad_(False), card


def load_sampler(path: str | os.PathLike[str], sha256: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Like :func:`load_model`, ready for the sampler: a network that knows no ``w`` and no ``d`` gets two-pass CFG.

    That is one whose card says that the recipe ``flow`` trained it.
    """
    net, card = load_model(path, sha256)
    if card.get("run", {}).get("recipe", {}).get("target") == velocity_target.__qualname__:
        net = TwoPassCFG(net, net.num_classes).eval()  # type: ignore[arg-type]
    return net, card


#: The released generators of clothes, alike in all but the recipe that each is named after: SHA-256 of its file.
RELEASED = {
    "shortcut_finest_level": "031acb65391aa1505d8c006446b21ed62e4d17fed33b707c08cf58b254a201bd",
    "ism": "2c963bcae2a441dc410d3be0bbe9b505a08ee288bdede796e71ec1c824667385",
    "ism_plus": "239de3e6241a97169c942f42ac7ae1c2674c28ab666ca3b5dbb2e8b918eb831c",
}


def released(recipe: str = "ism_plus") -> tuple[nn.Module, dict[str, Any]]:
    """A released generator by its recipe, ready to be sampled, and its card.

    The card holds ``run``, ``steps``, ``seed``, ``licence``, and ``scores`` as
    :class:`ismkit.evaluation.judges.FashionJudge` took them: 1000 samples in each setting, noise of seed 1.

    Raises:
        ValueError: for a recipe of which none is released.
        CheckpointError: if the file is missing, truncated or altered.
    """
    if recipe not in RELEASED:
        raise ValueError(f"recipe must be one of {', '.join(RELEASED)}, got {recipe!r}")
    return load_sampler(weights_file(f"fashion_{recipe}"), RELEASED[recipe])


def load_generator(model: str | os.PathLike[str] = "ism_plus") -> nn.Module:
    """A network that draws latents of clothes, ready to be sampled.

    Args:
        model: the recipe of a released one, or a file of :func:`ismkit.models.saved.save_model`.

    Raises:
        CheckpointError: if the file cannot be used.
        ValueError: if it holds a network of other data.
    """
    net, _ = released(str(model)) if model in RELEASED else load_sampler(model)
    one = torch.ones(1)
    try:
        net(torch.ones(1, *SHAPE), one, one, one, one.long())
        fits = net.num_classes == len(CLOTHES)
    except ValueError:  # what the networks of this kit say to samples of another shape
        fits = False
    if not fits:
        raise ValueError(f"{model} holds a {type(net).__name__} that draws no clothes: use a model of fashion-laptop")
    return net
