"""The loop around the training step: the same for a 2D toy in a notebook and for SiT-XL/2 on many GPUs.

The step itself is :func:`ismkit.method.recipes.training_step`. What stops a training stands here too: settings that do
not fit, before any work, and numbers that are not finite.
"""

from __future__ import annotations

import math
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ismkit.data.batches import Batches
from ismkit.method.ema import TwinEMA
from ismkit.method.path import Query
from ismkit.method.recipes import Recipe, training_step
from ismkit.training import checkpoint, distributed
from ismkit.training.checkpoint import resume_run, save_run
from ismkit.training.distributed import is_wrapped, on_main_process
from ismkit.utils.progress import progress_bar
from ismkit.utils.seeding import stream
from ismkit.utils.settings import describe


@dataclass(frozen=True)
class Optim:
    """AdamW and its schedule: linear warm-up, constant, linear cool-down to zero.

    Attributes:
        lr: peak learning rate (SM: 1e-4).
        betas: AdamW's (SM: 0.9, 0.999).
        weight_decay: AdamW's (SM: 0.1).
        warmup: steps of linear warm-up.
        cooldown: fraction of all steps, at the end, in which the rate falls to zero; 0 keeps it constant (SM).
        clip: bound on the gradient's norm; infinite for none.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.1
    warmup: int = 0
    cooldown: float = 0.0
    clip: float = float("inf")

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive and finite, got {self.lr}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0 and finite, got {self.weight_decay}")
        if self.warmup < 0:
            raise ValueError(f"warmup must be 0 or more steps, got {self.warmup}")
        if not 0 <= self.cooldown <= 1:
            raise ValueError(f"cooldown must be a fraction of the steps in [0, 1], got {self.cooldown}")
        if not self.clip > 0:
            raise ValueError(f"clip must be positive (infinite for none), got {self.clip}")

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step ``step`` (0 .. steps - 1)."""
        up = (step + 1) / (self.warmup + 1)
        down = (steps - step) / (self.cooldown * steps) if self.cooldown else 1.0
        return self.lr * min(1.0, up, down)


class DivergenceError(RuntimeError):
    """A loss or a gradient was not finite; the message names the step and the last good checkpoint."""


def check(
    recipe: Recipe,
    net: nn.Module,
    batches: Batches,
    steps: int,
    seed: int,
    micro_batches: int,
    accelerator: Accelerator,
) -> None:
    """Raise ValueError unless the parts of a training fit together; nothing is read or computed."""
    for name, value in (("steps", steps), ("micro_batches", micro_batches)):
        _check_count(name, value)
    if type(seed) is not int:
        raise ValueError(f"seed must be an integer, got {seed!r}")
    if accelerator.num_processes == 1 < (launched := int(os.environ.get("WORLD_SIZE", "1"))):
        raise ValueError(  # each would train by itself, all into one folder
            f"accelerator knows of 1 process, but {launched} were launched: "
            "make it by ismkit.training.distributed.accelerator()"
        )
    if micro_batches % accelerator.num_processes:
        raise ValueError(
            f"micro_batches must be a multiple of the {accelerator.num_processes} processes, got {micro_batches}"
        )
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
    if (
        run_dir is not None
        and resume is False
        and (done := on_main_process(accelerator, lambda: checkpoint.saved_steps(run_dir)))
    ):
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
            saved = checkpoint.saved_steps(Path(run_dir)) if run_dir is not None else []
            kept = f"the last good checkpoint is of step {saved[-1]} in {run_dir}" if saved else "no checkpoint exists"
            raise DivergenceError(
                f"step {step - len(rows) + i + 1}: loss {loss}, gradient norm {grad_norm}; {kept}. "
                "A lower learning rate or a bound on the gradient (Optim.clip) is the usual cure."
            )
    return [loss for loss, _ in rows]


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


def fit(
    recipe: Recipe,
    net: nn.Module,
    batches: Batches,
    *,
    steps: int,
    optim: Optim | None = None,
    seed: int = 0,
    micro_batches: int | None = None,
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

    Every random number is a function of (seed, step, micro_batch), so a resumed run equals an uninterrupted one, and so
    does one with another number of processes, in the same mode or another, as long as ``micro_batches`` stays.

    What can go wrong loses the steps since the last checkpoint at most: a kill or a full disk while one is written
    leaves the earlier ones (:mod:`ismkit.training.checkpoint`); a number that is not finite ends the run before the
    next is written; a process that dies or hangs ends the others (:mod:`ismkit.training.distributed`); a scheduler's
    signal loses nothing (:mod:`ismkit.training.distributed`). An error on the main process while it reads or writes is
    raised on all of them.

    Args:
        recipe: the method, a value of ``RECIPES`` or your own.
        net: a network with the attribute ``num_classes``; trained in place.
        batches: the data; its ``batch_size`` is the size of one micro-batch.
        steps: optimiser steps in all, those of a resumed run included.
        optim: AdamW's settings and schedule.
        seed: seed of noise, rows and labels dropped.
        micro_batches: micro-batches per optimiser step over all processes, a multiple of their number (its default);
            more of them accumulate gradients.
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
        accelerator: DDP or FSDP2 and precision, see :func:`ismkit.training.distributed.accelerator`; by default
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
    sharding = distributed.is_sharding(accelerator)
    optim = optim or Optim()
    micro_batches = accelerator.num_processes if micro_batches is None else micro_batches
    check(recipe, net, batches, steps, seed, micro_batches, accelerator)
    check_run(accelerator, run_dir, save_every, resume)
    if activation_checkpointing and not distributed.recompute(net):
        raise ValueError(
            f"activation_checkpointing needs a network with blocks, such as DiT, {type(net).__name__} has none"
        )
    settings = describe(
        {
            "recipe": recipe,
            "optim": optim,
            "seed": seed,
            "micro_batches": micro_batches,
            "data": batches.settings,
            "net": {"class": type(net).__name__, **getattr(net, "config", {})},
        }
    )

    null: int = net.num_classes  # type: ignore[assignment]
    (net if sharding else net.to(accelerator.device)).train()  # sharding moves one block at a time
    distributed.synchronise(net, accelerator)  # DDP does so too, but the averages must start there as well
    ema = TwinEMA(net, recipe.fast, recipe.slow)
    asked = dict.fromkeys([ema.fast, getattr(ema, recipe.gap)])
    if compile:
        for module in (net, *asked):
            distributed.compile_blocks(module)
    if sharding:
        for module in dict.fromkeys([net, ema.fast, ema.slow]):
            distributed.shard(module, accelerator, keep_gathered=module in asked)
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

    local = range(accelerator.process_index, micro_batches, accelerator.num_processes)
    first, size = recipe.coupling.first_batch(start), max(recipe.coupling.pool, 1)
    needed = -(-steps // size) * size - first  # whole pools: the last is the same whatever ``steps`` is
    pairs = [
        recipe.coupling.pairs(
            islice(batches.stream(first, micro_batch, micro_batches), needed), seed, start, micro_batch
        )
        for micro_batch in local
    ]
    called = [hook for hook in hooks if accelerator.is_main_process or getattr(hook, "everywhere", False)]
    recent: list[Tensor] = []
    show = progress if accelerator.is_main_process else False
    with ExitStack() as at_end:
        for source in pairs:
            at_end.callback(source.close)  # ends its thread
        bar = at_end.enter_context(progress_bar(show=show, total=steps, initial=start, desc=recipe.name, unit="step"))
        asked_to_end = at_end.enter_context(distributed.listening(run_dir is not None))
        end = distributed.StopVote(accelerator, active=run_dir is not None)
        for step in range(start, steps):
            lr = optim.rate(step, steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            mean = torch.zeros((), device=accelerator.device)
            for micro_batch, source in zip(local, pairs, strict=True):
                rng = stream(seed, "rows", micro_batch, step, device=accelerator.device)
                x0, x1, y = (part.to(accelerator.device, non_blocking=True) for part in next(source))
                sync = nullcontext() if micro_batch == local[-1] else distributed.accumulating(wrapped, accelerator)
                with sync:
                    with accelerator.autocast():
                        loss, query, distance = training_step(recipe, wrapped, ema, (x0, x1, y), null, rng)
                    # Outside of autocast, which would take the float32 distance's gradient in bf16.
                    accelerator.backward(loss / len(local))
                mean += loss.detach() / len(local)
            grad_norm = distributed.full_tensor(accelerator.clip_grad_norm_(wrapped.parameters(), optim.clip))
            stepper.step()
            stepper.zero_grad(set_to_none=True)
            distributed.reshard(ema)  # else the next pass would use the weights gathered for the last one
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
                raise distributed.Preempted(message, state.step)
    accelerator.wait_for_everyone()
    return state


if __name__ == "__main__":
    sys.argv.insert(1, "train")
    runpy.run_module("ismkit.cli", run_name="__main__")
