"""What stops a training: settings that do not fit, before any work, and numbers that are not finite."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ismkit import checkpoint
from ismkit.data import Batches
from ismkit.objectives import Recipe
from ismkit.parallel import agreed, is_wrapped


class DivergenceError(RuntimeError):
    """A loss or a gradient was not finite; the message names the step and the last good checkpoint."""


def check(
    recipe: Recipe, net: nn.Module, batches: Batches, steps: int, seed: int, shards: int, accelerator: Accelerator
) -> None:
    """Raise ValueError unless the parts of a training fit together; nothing is read or computed."""
    for name, value in (("steps", steps), ("shards", shards)):
        _check_count(name, value)
    if type(seed) is not int:
        raise ValueError(f"seed must be an integer, got {seed!r}")
    if accelerator.num_processes == 1 < (launched := int(os.environ.get("WORLD_SIZE", "1"))):
        raise ValueError(  # each would train by itself, all into one folder
            f"accelerator knows of 1 process, but {launched} were launched: make it by ismkit.parallel.accelerator()"
        )
    if shards % accelerator.num_processes:
        raise ValueError(f"shards must be a multiple of the {accelerator.num_processes} processes, got {shards}")
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            "accelerator must have gradient_accumulation_steps=1, got "
            f"{accelerator.gradient_accumulation_steps}: accumulate with shards"
        )
    if accelerator.mixed_precision == "fp16":  # its loss scaling steps over gradients that are not finite
        raise ValueError("accelerator has mixed_precision 'fp16': use 'bf16' or 'no'")
    if is_wrapped(net):
        raise ValueError(
            f"net must be the plain network, got a {type(net).__name__}: fit compiles, wraps and shards it"
        )
    if not isinstance(getattr(net, "num_classes", None), int):
        raise ValueError(f"net must have the attribute num_classes (int), {type(net).__name__} has none")
    if (classes := getattr(batches.data, "num_classes", 0)) > net.num_classes:  # type: ignore[operator]
        raise ValueError(f"net knows {net.num_classes} classes, but the data has {classes}")
    recipe.rows.blocks(batches.batch_size)


def check_run(
    accelerator: Accelerator, run_dir: str | os.PathLike[str] | None, save_every: int | None, resume: bool | int
) -> None:
    """Raise ValueError unless what is asked of the folder of checkpoints fits what it holds; on every process alike."""
    if save_every is not None:
        _check_count("save_every", save_every)
    if not isinstance(resume, int) or resume < 0:
        raise ValueError(f"resume must be True, False or the step of a checkpoint, got {resume!r}")
    if run_dir is None and (resume is not False or save_every is not None):
        raise ValueError("resume and save_every need run_dir, the folder of the checkpoints")
    if run_dir is not None and resume is False and (done := agreed(accelerator, lambda: checkpoint.steps(run_dir))):
        raise ValueError(f"{run_dir} holds checkpoints up to step {done[-1]}: pass resume=True, or another run_dir")


def _check_count(name: str, value: int) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def finite_losses(recent: list[Tensor], step: int, run_dir: str | os.PathLike[str] | None) -> list[float]:
    """The losses of the latest steps, emptied out of ``recent``; raises at the first that is not finite."""
    rows = torch.stack(recent).tolist()
    recent.clear()
    for i, (loss, grad_norm) in enumerate(rows):
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            saved = checkpoint.steps(Path(run_dir)) if run_dir is not None else []
            kept = f"the last good checkpoint is of step {saved[-1]} in {run_dir}" if saved else "no checkpoint exists"
            raise DivergenceError(
                f"step {step - len(rows) + i + 1}: loss {loss}, gradient norm {grad_norm}; {kept}. "
                "A lower learning rate or a bound on the gradient (Optim.clip) is the usual cure."
            )
    return [loss for loss, _ in rows]
