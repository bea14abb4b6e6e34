"""The training step, on one screen, and the loop around it: the same for a 2D toy and for SiT-XL/2 on many GPUs.

``python -m ismkit.train ARGUMENTS`` is ``ismkit train ARGUMENTS``, for ``torchrun`` and ``accelerate launch``.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ismkit import parallel, preemption
from ismkit.config import Optim, describe
from ismkit.data import Batches
from ismkit.ema import TwinEMA
from ismkit.guards import DivergenceError as DivergenceError  # one of the errors of `fit`
from ismkit.guards import check, check_run, finite_losses
from ismkit.objectives import Recipe
from ismkit.path import Query
from ismkit.progress import progress as progress_bar
from ismkit.seeding import stream
from ismkit.state import resume_run, save_run

FLUSH_EVERY = 20  # steps between looks at the losses: a look waits for the device


@dataclass
class TrainState:
    """What :func:`fit` returns and its hooks see.

    Attributes:
        net: the online network, unwrapped; sharded under FSDP2.
        ema: its twin averages, sharded alike; sample with ``ema.slow``, on one process with
            ``parallel.unsharded(ema.slow)``.
        optimizer: AdamW.
        step: optimiser steps done.
        losses: the loss of every step done in this call, the mean over all processes.
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
        loss: scalar, the mean over all processes.
        query: what the last micro-batch was asked.
        distance: its error per row, (B,), on this process: average it by ``query.t, query.d, query.w``.
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
    compile: bool = False,
    activation_checkpointing: bool = False,
    run_dir: str | os.PathLike[str] | None = None,
    save_every: int | None = None,
    resume: bool | int = False,
    hooks: Sequence[Hook] = (),
    progress: bool | None = None,
    accelerator: Accelerator | None = None,
) -> TrainState:
    """Train ``net`` by ``recipe`` until ``steps`` optimiser steps are done.

    Every random number is a function of (seed, step, shard), so a resumed run equals an uninterrupted one, and so does
    one with another number of processes, in the same mode or another, as long as ``shards`` stays.

    What can go wrong loses the steps since the last checkpoint at most: a kill or a full disk while one is written
    leaves the earlier ones (:mod:`ismkit.checkpoint`); a number that is not finite ends the run before the next is
    written; a process that dies or hangs ends the others (:mod:`ismkit.parallel`); a scheduler's signal loses nothing
    (:mod:`ismkit.preemption`). An error on the main process while it reads or writes is raised on all of them.

    Args:
        recipe: the method, a value of ``RECIPES`` or your own.
        net: a network with the attribute ``num_classes``; trained in place.
        batches: the data; its ``batch_size`` is the size of one micro-batch.
        steps: optimiser steps in all, those of a resumed run included.
        optim: AdamW's settings and schedule.
        seed: seed of noise, rows and labels dropped.
        shards: micro-batches per optimiser step over all processes, a multiple of their number (its default); more
            of them accumulate gradients.
        compile: compile the network and the averages that make targets by ``torch.compile``, block by block where it
            has blocks; the first steps take minutes.
        activation_checkpointing: keep the blocks' inputs alone and compute the rest anew in the backward pass: memory
            for a third more time of the online network, equal gradients.
        run_dir: where checkpoints go; none are written without it.
        save_every: steps between checkpoints (and one at the end); default ``steps``.
        resume: True goes on from the newest checkpoint in ``run_dir`` (or starts, where there is none); a number from
            the checkpoint of that step; False refuses a folder that has checkpoints.
        hooks: called after each step with (state, report), on the main process; one that has the attribute
            ``everywhere``, true, on every process, as it must be if it runs a network that is sharded.
        progress: show a progress bar; by default unless the environment says CI.
        accelerator: DDP or FSDP2 and precision, see :func:`ismkit.parallel.accelerator`; by default
            Accelerate's own, as the launcher has set it.

    Returns:
        The final state.

    Raises:
        ValueError: for settings that do not fit, before any work.
        DivergenceError: if a loss or gradient is not finite; no checkpoint is written from that step on.
        CheckpointError: if the checkpoint asked for is missing, truncated or altered, or one cannot be written.
        Preempted: after SIGTERM or SIGUSR1, if there is a ``run_dir``, when its checkpoint has been written.
    """
    accelerator = accelerator or Accelerator()
    sharding = parallel.is_sharding(accelerator)
    optim = optim or Optim()
    shards = accelerator.num_processes if shards is None else shards
    check(recipe, net, batches, steps, seed, shards, accelerator)
    check_run(accelerator, run_dir, save_every, resume)
    if activation_checkpointing and not parallel.recompute(net):
        raise ValueError(
            f"activation_checkpointing needs a network with blocks, such as DiT, {type(net).__name__} has none"
        )
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
    (net if sharding else net.to(accelerator.device)).train()  # sharding moves one block at a time
    parallel.synchronise(net, accelerator)  # DDP does so too, but the averages must start there as well
    ema = TwinEMA(net, recipe.fast, recipe.slow)
    asked = dict.fromkeys([ema.fast, getattr(ema, recipe.gap)])
    if compile:
        for module in (net, *asked):
            parallel.compile_blocks(module)
    if sharding:
        for module in dict.fromkeys([net, ema.fast, ema.slow]):
            parallel.shard(module, accelerator, keep_gathered=module in asked)
    optimizer = torch.optim.AdamW(  # fused: on a CPU too it takes a tenth of the time of the plain one
        net.parameters(), lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=True
    )
    state = TrainState(net, ema, optimizer)
    if run_dir is not None and resume is not False:
        at = None if resume is True else resume
        state.step = resume_run(run_dir, at, net, optimizer, ema, settings, accelerator)
    start = state.step
    if start >= steps:
        return state
    wrapped, stepper = (net, optimizer) if sharding else accelerator.prepare(net, optimizer)

    local = range(accelerator.process_index, shards, accelerator.num_processes)
    first, size = recipe.coupling.first_batch(start), max(recipe.coupling.pool, 1)
    needed = -(-steps // size) * size - first  # whole pools: the last is the same whatever ``steps`` is
    pairs = [
        recipe.coupling.pairs(islice(batches.stream(first, shard, shards), needed), seed, start, shard)
        for shard in local
    ]
    called = [hook for hook in hooks if accelerator.is_main_process or getattr(hook, "everywhere", False)]
    recent: list[Tensor] = []
    show = progress if accelerator.is_main_process else False
    with ExitStack() as at_end:
        for source in pairs:
            at_end.callback(source.close)  # ends its thread
        bar = at_end.enter_context(progress_bar(show=show, total=steps, initial=start, desc=recipe.name, unit="step"))
        asked_to_end = at_end.enter_context(preemption.listening(run_dir is not None))
        end = parallel.Vote(accelerator, active=run_dir is not None)
        for step in range(start, steps):
            lr = optim.rate(step, steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            mean = torch.zeros((), device=accelerator.device)
            for shard, source in zip(local, pairs, strict=True):
                rng = stream(seed, "rows", shard, step, device=accelerator.device)
                x0, x1, y = (part.to(accelerator.device, non_blocking=True) for part in next(source))
                sync = nullcontext() if shard == local[-1] else parallel.accumulating(wrapped, accelerator)
                with sync:
                    with accelerator.autocast():
                        loss, query, distance = training_step(recipe, wrapped, ema, (x0, x1, y), null, rng)
                    # Outside of autocast, which would take the float32 distance's gradient in bf16.
                    accelerator.backward(loss / len(local))
                mean += loss.detach() / len(local)
            grad_norm = parallel.whole(accelerator.clip_grad_norm_(wrapped.parameters(), optim.clip))
            stepper.step()
            stepper.zero_grad(set_to_none=True)
            ema.update(net)
            state.step = step + 1

            mean, ending = end(mean, asked_to_end())
            recent.append(torch.stack([mean, grad_norm.to(mean)]))
            save = run_dir is not None and (state.step % (save_every or steps) == 0 or state.step == steps or ending)
            if len(recent) == FLUSH_EVERY or save or state.step == steps:
                state.losses += finite_losses(recent, state.step, run_dir)
                bar.set_postfix(loss=f"{state.losses[-1]:.4f}", refresh=False)
            if save:
                save_run(run_dir, state.step, net, optimizer, ema, settings, accelerator)  # type: ignore[arg-type]
            report = StepReport(state.step, mean, query, distance.detach(), grad_norm, lr)
            for hook in called:
                hook(state, report)
            bar.update()
            if ending and state.step < steps:
                message = f"ended by a signal at step {state.step}; its checkpoint is in {run_dir}"
                accelerator.print(f"ismkit: {message}", file=sys.stderr)
                raise preemption.Preempted(message, state.step)
    accelerator.wait_for_everyone()
    return state


if __name__ == "__main__":
    sys.argv.insert(1, "train")
    runpy.run_module("ismkit.cli", run_name="__main__")
