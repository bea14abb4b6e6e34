"""A run as a launcher starts it: processes, data, logs, checkpoints, the model in the end.

:func:`launch` is what ``ismkit train`` calls, under ``torchrun``, ``accelerate launch`` or Slurm's ``srun`` in each
process, and what ``accelerate.notebook_launcher`` starts from a notebook.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator

from ismkit.imagenet.latents import Latents, check_vae
from ismkit.models.nets import DiT
from ismkit.models.saved import save_model
from ismkit.training import checkpoint, costs, distributed, tracking
from ismkit.training.loop import StepReport, TrainState
from ismkit.training.runs import Run, train_run
from ismkit.utils import settings

SAVE_EVERY = 5000  # steps between checkpoints, and at most so many
LOG_EVERY = 100
SAMPLED = (207, 360, 387, 974, 88, 979, 417, 279)  # classes of the sample grids: as in DiT's figures


@dataclass(frozen=True)
class KillAt:
    """A hook for rehearsals: this process gets a signal when ``step`` is done, as a scheduler or a fault would send it.

    Attributes:
        step: optimiser steps done.
        number: of the signal, such as ``signal.SIGTERM`` (ends with a checkpoint) or ``signal.SIGKILL`` (ends at once).
    """

    step: int
    number: int = signal.SIGKILL

    def __call__(self, state: TrainState, report: StepReport) -> None:
        """See :data:`ismkit.training.loop.Hook`."""
        if report.step == self.step:
            os.kill(os.getpid(), self.number)


def launch(
    run: Run,
    seed: int = 0,
    *,
    folder: str | os.PathLike[str] | None = None,
    latents: str | os.PathLike[str] | None = None,
    mode: Literal["ddp", "fsdp"] = "ddp",
    precision: Literal["no", "bf16"] = "no",
    compile: bool = False,
    activation_checkpointing: bool = False,
    accumulate: int | None = None,
    classes_per_pool: int | None = None,
    save_every: int | None = None,
    resume: bool | int = False,
    tracker: tracking.Open | str | None = None,
    log_every: int | None = None,
    vae: str | None = None,
    samples_every: int | None = None,
    hooks: Sequence[Callable[[TrainState, StepReport], Any]] = (),
) -> TrainState:
    """Train a run in this process and in those that a launcher has started beside it.

    Args:
        run: a value of ``RUNS`` or your own.
        seed: of weights, data order and noise.
        folder: of the checkpoints, by default ``run.folder(seed)``; the model goes there as ``model.safetensors``.
        latents: folder of the latents of an ImageNet run, see :func:`ismkit.training.runs.imagenet_latents`.
        mode: ``"ddp"`` or ``"fsdp"``, see :func:`ismkit.training.distributed.accelerator`.
        precision: ``"no"`` (float32) or ``"bf16"``.
        compile: as in :func:`ismkit.training.loop.fit`, and so
        activation_checkpointing.
        accumulate: micro-batches per optimiser step and process when the run begins, by default 1. When it goes on,
            with other processes too, their number over all processes stays as it was.
        classes_per_pool: as in :func:`ismkit.training.runs.train_run`.
        save_every: steps between checkpoints, by default 5000.
        resume: as in :func:`ismkit.training.loop.fit`.
        tracker: ``"tensorboard"``, a function that opens trackers (see :class:`ismkit.training.tracking.Tracking`), or
            None.
        log_every: steps per window of the logs, a divisor of ``save_every``; by default the largest up to 100.
        vae: name or folder of the VAE that made the latents, to log decoded samples.
        samples_every: steps between them, a multiple of ``log_every``; by default ``save_every``.
        hooks: further hooks of ``fit``.

    Returns:
        The final state.

    Raises:
        ValueError: for settings that do not fit, before any work.
        DataError: if the latents are missing, altered or of another VAE.
        Preempted, DivergenceError, CheckpointError: see :func:`ismkit.training.loop.fit`.
    """
    folder = Path(folder or run.folder(seed))
    save_every = save_every or min(SAVE_EVERY, run.steps)
    log_every = log_every or max(k for k in range(1, LOG_EVERY + 1) if save_every % k == 0)
    if save_every % log_every:
        why = "else a killed run leaves a gap in its logs"
        raise ValueError(f"save_every must be a multiple of log_every={log_every}, got {save_every}: {why}")
    load = partial(run.load, latents) if latents else run.load
    accelerator = distributed.accelerator(mode, precision, cpu=not torch.cuda.is_available())
    if accelerator.num_processes > 1:  # the main process first, for it may have to make them
        distributed.on_main_process(accelerator, lambda: len(load()))
    data = load()
    micro_batches = _micro_batches(accelerator, accumulate, folder, resume)
    options: dict[str, Any] = {"compile": compile, "activation_checkpointing": activation_checkpointing}
    options |= {"save_every": save_every, "resume": resume, "micro_batches": micro_batches, "accelerator": accelerator}
    options["classes_per_pool"] = classes_per_pool
    if tracker is None:
        state = train_run(run, seed, data=data, folder=folder, hooks=hooks, **options)
    else:
        open_ = tracking.tensorboard(folder / "logs") if tracker == "tensorboard" else tracker
        if not callable(open_):
            raise ValueError(f"tracker must be 'tensorboard', a function or None, got {tracker!r}")
        grid = _samples(vae, data, accelerator) if vae else None
        with tracking.Tracking(
            open_,
            rows=run.batch_size,
            grid=run.recipe.rows.grid,
            every=log_every,
            flops=_flops(run, data.num_classes),
            devices=accelerator.num_processes,
            samples=grid,
            samples_every=samples_every or save_every,
        ) as hook:
            state = train_run(run, seed, data=data, folder=folder, hooks=[hook, *hooks], **options)
    net = distributed.unsharded(state.ema.slow)
    if accelerator.is_main_process:
        card = {"run": settings.describe(run), "steps": state.step, "seed": seed, "licence": "Apache-2.0"}
        if isinstance(data, Latents):
            card["vae"] = data.manifest["vae"]  # that decodes what this model draws
        digest = save_model(net, folder / "model.safetensors", card)
        print(f"model: {folder / 'model.safetensors'} (SHA-256 {digest})")
    accelerator.end_training()  # else every process warns that its group was not taken down
    return state


def worker(run: Run, seed: int, options: Mapping[str, Any]) -> None:
    """:func:`launch` for ``accelerate.notebook_launcher``, which starts functions without keywords.

    On a CPU each process gets one thread: one that was forked from a notebook cannot begin parallel work.
    """
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    launch(run, seed, **options)


def _micro_batches(accelerator: Accelerator, accumulate: int | None, folder: Path, resume: bool | int) -> int:
    """Micro-batches per optimiser step over all processes; a run that goes on keeps those it was begun with."""
    asked = accelerator.num_processes * (accumulate or 1)
    if resume is False or not (saved := checkpoint.saved_steps(folder)):
        return asked
    step = saved[-1] if resume is True else resume
    try:
        manifest = json.loads((folder / f"step_{step:08d}" / checkpoint.MANIFEST).read_bytes())
        kept = int(manifest["meta"]["settings"]["micro_batches"])
    except (OSError, ValueError, KeyError):
        return asked  # `fit` says what is wrong with this checkpoint
    if kept != asked:
        processes = f"{accelerator.num_processes} processes"
        accelerator.print(f"going on with {kept} micro-batches per step, as the run was begun, on {processes}")
    return kept


def _flops(run: Run, num_classes: int) -> float | None:
    """Model FLOPs of one optimiser step, of a transformer; of other networks nobody asks."""
    with torch.device("meta"):
        net = run.net(num_classes=num_classes)
    return costs.step_flops(net.config, run.recipe, run.batch_size) if isinstance(net, DiT) else None


def _samples(vae: str, data: Any, accelerator: Accelerator) -> tracking.SampleGrid:
    from ismkit.imagenet.vae import ImageVAE

    decoder = ImageVAE.load(vae).to(accelerator.device)
    check_vae(data.folder, data.manifest, decoder)
    few = tuple(c for c in SAMPLED if c < data.num_classes)
    return tracking.SampleGrid(decoder.decode, data.shape, few or tuple(range(min(8, data.num_classes))))
