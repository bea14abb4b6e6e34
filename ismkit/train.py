"""The training step, on one screen, and the loop around it: the same for a 2D toy and for SiT-XL/2 on many GPUs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from ismkit import checkpoint
from ismkit.config import Optim, describe
from ismkit.data import Batches
from ismkit.ema import TwinEMA
from ismkit.objectives import Recipe
from ismkit.path import Query
from ismkit.progress import progress as progress_bar
from ismkit.seeding import stream

FLUSH_EVERY = 20  # steps between looks at the losses: a look waits for the device


class DivergenceError(RuntimeError):
    """A loss or a gradient was not finite; the message names the step and the last good checkpoint."""


@dataclass
class TrainState:
    """What :func:`fit` returns and its hooks see.

    Attributes:
        net: the online network, unwrapped.
        ema: its twin averages; sample with ``ema.slow``.
        optimizer: AdamW.
        step: optimiser steps done.
        losses: the loss of every step done in this call, on the main process.
    """

    net: nn.Module
    ema: TwinEMA
    optimizer: torch.optim.Optimizer
    step: int = 0
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class StepReport:
    """What a hook is told after each step (tensors stay on the device: reading them waits for it).

    Attributes:
        step: optimiser steps done, from 1 on.
        loss: scalar, this process's mean.
        query: what the last micro-batch was asked.
        distance: its error per row, (B,): average it by ``query.t, query.d, query.w``.
        grad_norm: norm of the gradient before clipping, over all processes.
        lr: learning rate of this step.
    """

    step: int
    loss: Tensor
    query: Query
    distance: Tensor
    grad_norm: Tensor
    lr: float


Hook = Callable[[TrainState, StepReport], Any]


def training_step(
    recipe: Recipe, net: nn.Module, ema: TwinEMA, pair: tuple[Tensor, Tensor, Tensor], null: int, rng: torch.Generator
) -> tuple[Tensor, Query, Tensor]:
    """One step of any method: every fix of iSM is one line, and a recipe without it has another value there.

    Args:
        recipe: the method.
        net: the online network, wrapped or not; called once.
        ema: its averages; the fast one makes the targets.
        pair: coupled ``(x0, x1, y)``: noise (B, ...), data (B, ...), labels (B,).
        null: the null label.
        rng: generator of this step's random numbers, on the device of ``pair``.

    Returns:
        The loss (scalar, with gradient), the query, and the distance per row (B,).
    """
    x0, x1, y = pair  # ......................................................... scaling OT (coupled one pool ahead)
    query, velocity = recipe.rows(x0, x1, y, null, rng)  # ................... velocity | guidance | consistency rows
    with torch.no_grad():
        guide = getattr(ema, recipe.gap)
        target = recipe.target(ema.fast, query, velocity, recipe.rows, null, guide)  # . intrinsic guidance, twin EMA
    distance = recipe.distance(net(*query), target)  # ....................................... multi-level wavelet loss
    return recipe.loss(distance), query, distance


def fit(
    recipe: Recipe,
    net: nn.Module,
    batches: Batches,
    *,
    steps: int,
    optim: Optim | None = None,
    seed: int = 0,
    shards: int | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    save_every: int | None = None,
    resume: bool | int = False,
    hooks: Sequence[Hook] = (),
    progress: bool | None = None,
    accelerator: Accelerator | None = None,
) -> TrainState:
    """Train ``net`` by ``recipe`` until ``steps`` optimiser steps are done.

    Every random number is a function of (seed, step, shard), so a resumed run equals an uninterrupted one, and so does
    one with another number of processes as long as ``shards`` stays (and the number of CUDA devices in sight: the
    global random streams, which nothing in this kit draws from, are saved too).

    Args:
        recipe: the method, a value of ``RECIPES`` or your own.
        net: a network with the attribute ``num_classes``; trained in place.
        batches: the data; its ``batch_size`` is the size of one micro-batch.
        steps: optimiser steps in all, those of a resumed run included.
        optim: AdamW's settings and schedule.
        seed: seed of noise, rows and labels dropped.
        shards: micro-batches per optimiser step over all processes, a multiple of their number (its default); more
            of them accumulate gradients.
        run_dir: where checkpoints go; none are written without it.
        save_every: steps between checkpoints (and one at the end); default ``steps``.
        resume: True goes on from the newest checkpoint in ``run_dir`` (or starts, where there is none); a number from
            the checkpoint of that step; False refuses a folder that has checkpoints.
        hooks: called on the main process after each step with (state, report).
        progress: show a progress bar; by default unless the environment says CI.
        accelerator: Accelerate's; by default one for this machine's device.

    Returns:
        The final state.

    Raises:
        ValueError: for settings that do not fit, before any work.
        DivergenceError: if a loss or gradient is not finite; no checkpoint is written from that step on.
        CheckpointError: if the checkpoint asked for is missing, truncated or altered.
    """
    accelerator = accelerator or Accelerator()
    optim = optim or Optim()
    shards = accelerator.num_processes if shards is None else shards
    _check(recipe, net, batches, steps, seed, shards, accelerator, run_dir, save_every, resume)
    settings = describe(
        {
            "recipe": recipe,
            "optim": optim,
            "seed": seed,
            "shards": shards,
            "data": batches.settings,
            "net": {"class": type(net).__name__, **getattr(net, "config", {})},
        }
    )

    null: int = net.num_classes  # type: ignore[assignment]
    net.to(accelerator.device).train()
    for tensor in net.state_dict().values():
        broadcast(tensor)  # DDP does so too, but the averages must start from the weights of process 0 as well
    ema = TwinEMA(net, recipe.fast, recipe.slow)
    optimizer = torch.optim.AdamW(  # fused: on a CPU too it takes a tenth of the time of the plain one
        net.parameters(), lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=True
    )
    state = TrainState(net, ema, optimizer)
    if run_dir is not None and resume is not False:
        _resume(state, Path(run_dir), None if resume is True else resume, settings)
        if accelerator.is_main_process and checkpoint.steps(run_dir):
            checkpoint.rewind(run_dir, state.step)  # what was trained after the step asked for is trained anew
    start = state.step
    if start >= steps:
        return state
    wrapped, stepper = accelerator.prepare(net, optimizer)

    local = range(accelerator.process_index, shards, accelerator.num_processes)
    first, size = recipe.coupling.first_batch(start), max(recipe.coupling.pool, 1)
    needed = -(-steps // size) * size - first  # whole pools: the last is the same whatever ``steps`` is
    pairs = [
        recipe.coupling.pairs(islice(batches.stream(first, shard, shards), needed), seed, start, shard)
        for shard in local
    ]
    recent: list[Tensor] = []
    show = progress if accelerator.is_main_process else False
    bar = progress_bar(show=show, total=steps, initial=start, desc=recipe.name, unit="step")
    try:
        for step in range(start, steps):
            lr = optim.rate(step, steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            mean = torch.zeros((), device=accelerator.device)
            for shard, source in zip(local, pairs, strict=True):
                rng = stream(seed, "rows", shard, step, device=accelerator.device)
                x0, x1, y = (part.to(accelerator.device, non_blocking=True) for part in next(source))
                sync = nullcontext() if shard == local[-1] else accelerator.no_sync(wrapped)
                with sync:
                    with accelerator.autocast():
                        loss, query, distance = training_step(recipe, wrapped, ema, (x0, x1, y), null, rng)
                    # Outside of autocast, which would take the float32 distance's gradient in bf16.
                    accelerator.backward(loss / len(local))
                mean += loss.detach() / len(local)
            grad_norm = accelerator.clip_grad_norm_(wrapped.parameters(), optim.clip)
            stepper.step()
            stepper.zero_grad(set_to_none=True)
            ema.update(net)
            state.step = step + 1

            recent.append(torch.stack([mean, grad_norm.to(mean)]))
            save = run_dir is not None and (state.step % (save_every or steps) == 0 or state.step == steps)
            if len(recent) == FLUSH_EVERY or save or state.step == steps:
                state.losses += _flush(recent, state.step, run_dir)
                bar.set_postfix(loss=f"{state.losses[-1]:.4f}", refresh=False)
            if save and accelerator.is_main_process:
                _save(state, Path(run_dir), settings)  # type: ignore[arg-type]
            if hooks and accelerator.is_main_process:
                report = StepReport(state.step, mean, query, distance.detach(), grad_norm, lr)
                for hook in hooks:
                    hook(state, report)
            bar.update()
    finally:
        bar.close()
        for source in pairs:
            source.close()  # ends its thread
    accelerator.wait_for_everyone()
    return state


def _check(recipe, net, batches, steps, seed, shards, accelerator, run_dir, save_every, resume) -> None:  # type: ignore[no-untyped-def]
    for name, value in (("steps", steps), ("shards", shards), ("save_every", save_every)):
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    if type(seed) is not int:
        raise ValueError(f"seed must be an integer, got {seed!r}")
    if not isinstance(resume, int) or resume < 0:
        raise ValueError(f"resume must be True, False or the step of a checkpoint, got {resume!r}")
    if shards % accelerator.num_processes:
        raise ValueError(f"shards must be a multiple of the {accelerator.num_processes} processes, got {shards}")
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            "accelerator must have gradient_accumulation_steps=1, got "
            f"{accelerator.gradient_accumulation_steps}: accumulate with shards"
        )
    if accelerator.mixed_precision == "fp16":  # its loss scaling steps over gradients that are not finite
        raise ValueError("accelerator has mixed_precision 'fp16': use 'bf16' or 'no'")
    if run_dir is None and (resume is not False or save_every is not None):
        raise ValueError("resume and save_every need run_dir, the folder of the checkpoints")
    if not isinstance(getattr(net, "num_classes", None), int):
        raise ValueError(f"net must have the attribute num_classes (int), {type(net).__name__} has none")
    if (classes := getattr(batches.data, "num_classes", 0)) > net.num_classes:
        raise ValueError(f"net knows {net.num_classes} classes, but the data has {classes}")
    recipe.rows.blocks(batches.batch_size)
    if run_dir is not None and resume is False and (done := checkpoint.steps(Path(run_dir))):
        raise ValueError(f"{run_dir} holds checkpoints up to step {done[-1]}: pass resume=True, or another run_dir")


def _flush(recent: list[Tensor], step: int, run_dir: Any) -> list[float]:
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


def _save(state: TrainState, run_dir: Path, settings: dict[str, Any]) -> None:
    tensors, scalars = checkpoint.collect(state.net, state.optimizer, {"ema": state.ema})
    random = {f"random.{name}": value for name, value in checkpoint.random_state().items()}
    checkpoint.save(run_dir, state.step, tensors | random, {"settings": settings, "scalars": scalars})


def _resume(state: TrainState, run_dir: Path, step: int | None, settings: dict[str, Any]) -> None:
    if step is None and not checkpoint.steps(run_dir):
        return
    saved = checkpoint.load(run_dir, step)
    changed = [key for key in settings if saved.meta["settings"].get(key) != settings[key]]
    if changed:
        lines = [f"{key}: saved {saved.meta['settings'].get(key)}, now {settings[key]}" for key in changed]
        raise ValueError(
            f"{run_dir} was trained with other settings; use them, or another run_dir. " + "; ".join(lines)
        )
    random = {name[7:]: value for name, value in saved.tensors.items() if name.startswith("random.")}
    tensors = {name: value for name, value in saved.tensors.items() if not name.startswith("random.")}
    checkpoint.restore(tensors, saved.meta["scalars"], state.net, state.optimizer, {"ema": state.ema})
    checkpoint.set_random_state(random)
    state.step = saved.step
