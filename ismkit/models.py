"""Trained networks as files: one safetensors file that says which network it holds and how it was trained."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ismkit import parallel
from ismkit.checkpoint import CheckpointError, load_weights, read_weights, save_weights
from ismkit.config import Run
from ismkit.data import Batches
from ismkit.grouping import ClassGroups
from ismkit.guidance import TwoPassCFG
from ismkit.nets import DiT, ToyMLP
from ismkit.objectives import velocity_target
from ismkit.path import StepGrid
from ismkit.train import TrainState, fit

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


def train_run(
    run: Run,
    seed: int = 0,
    *,
    data: Any = None,
    folder: str | os.PathLike[str] | None = None,
    resume: bool | int = True,
    shards: int | None = None,
    classes_per_pool: int | None = None,
    accelerator: Accelerator | None = None,
    **options: Any,
) -> TrainState:
    """Train a run: load its data, build its network, fit; in its folder, where an earlier call is gone on with.

    Args:
        run: a value of ``RUNS`` or your own.
        seed: of weights, data order and noise.
        data: the training set, where it is loaded already.
        folder: of the checkpoints, by default ``run.folder(seed)``.
        resume: as in :func:`ismkit.train.fit`; a run that is finished is loaded, not trained again.
        shards: micro-batches in which the rows of a step are split, over all processes; by default one for each.
        classes_per_pool: let each pool of the recipe's coupling hold about so many classes, see
            :class:`ismkit.grouping.ClassGroups`; by default rows come in any order.
        accelerator: of :func:`ismkit.parallel.accelerator`.
        options: ``save_every``, ``hooks`` and ``progress`` of ``fit``, and so on.

    Returns:
        The final state; sample with ``state.ema.slow``. Its ``losses`` are those of this call alone.

    Raises:
        ValueError: if the rows of a step cannot be split so, or there are no pools, before the network is built.
    """
    accelerator = accelerator or parallel.accelerator()
    shards = accelerator.num_processes if shards is None else shards
    if run.batch_size % shards:
        raise ValueError(f"batch_size must be a multiple of the {shards} micro-batches of a step, got {run.batch_size}")
    run.recipe.rows.blocks(run.batch_size // shards)
    if classes_per_pool and not run.recipe.coupling.pool:
        raise ValueError(f"classes_per_pool is for a recipe that couples in pools, {run.recipe.name} does not")
    groups = ClassGroups(run.recipe.coupling.pool, classes_per_pool) if classes_per_pool else None
    data = run.load() if data is None else data
    batches = Batches(data, run.batch_size // shards, seed, groups=groups)
    folder = run.folder(seed) if folder is None else folder
    settings: dict[str, Any] = {"optim": run.optim, "run_dir": folder, "resume": resume, **options}
    settings |= {"shards": shards, "accelerator": accelerator}
    return fit(run.recipe, run.build(data.num_classes, seed), batches, steps=run.steps, seed=seed, **settings)
