"""A run as a launcher starts it: processes, data, logs, checkpoints, and the model at the end.

:func:`launch` is what ``ismkit train`` calls, under ``torchrun``, ``accelerate launch`` or Slurm's ``srun`` in each
process; :func:`launch_processes` starts such processes from a notebook.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ismkit.imagenet.latents import Latents, check_vae
from ismkit.models.saved import check_saveable, save_model
from ismkit.training import costs, distributed, tracking
from ismkit.training.loop import Hook, StepReport, TrainState, check_options, in_one_line, with_micro_batches
from ismkit.training.options import Engine, Logging, Saving
from ismkit.training.runs import Run, loaded, train_run, transformer_config
from ismkit.utils.checks import check_kind, shown
from ismkit.utils.settings import describe
from ismkit.utils.weights import PathLike
from ismkit.utils.workers import PATIENCE, Tell, run_group

# Steps between checkpoints for each process, and at most all: n processes make n times as many in a time. By a model
# XL/2 on H100s takes 47 minutes for them. With 5000 for eight processes too, it wrote 13.6 GB every 7 minutes.
SAVE_EVERY = 5000
MODEL_EVERY = 50_000  # steps between the models of ImageNet runs that stay: 16 of the paper's run, 2.7 GB each for XL/2
LOG_EVERY = 100
SAMPLED = (207, 360, 387, 974, 88, 979, 417, 279)  # classes of the sample grids: as in DiT's figures


@dataclass(frozen=True)
class KillAt:
    """A hook for rehearsals: this process gets a signal when ``step`` is done, as a scheduler or a fault would send it.

    Attributes:
        step: optimiser steps done.
        number: of the signal, such as ``signal.SIGTERM`` (ends with a checkpoint) or ``signal.SIGKILL`` (ends at once).

    Example:
        The signal comes when step 2 is done, so the run finishes step 3, saves it and ends. Then it is resumed:

        >>> import dataclasses, signal, tempfile
        >>> from ismkit import RUNS, Preempted, Saving, train_run
        >>> from ismkit.training import KillAt
        >>> run = dataclasses.replace(RUNS["gaussians"], steps=5, batch_size=32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saving = Saving(folder, resume=True)
        ...     try:
        ...         train_run(run, saving=saving, hooks=[KillAt(2, signal.SIGTERM)], progress=False)
        ...     except Preempted as preempted:
        ...         print("ended at step", preempted.step)
        ...     state = train_run(run, saving=saving, progress=False)
        ended at step 3
        >>> state.step, len(state.losses)  # the losses of steps 4 and 5
        (5, 2)
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
    latents: PathLike | None = None,
    engine: Engine | None = None,
    saving: Saving | None = None,
    logging: Logging | None = None,
    trackers: tracking.Open | None = None,
    hooks: Sequence[Hook] = (),
) -> TrainState:
    """Train a run in this process and in those that a launcher has started beside it.

    Args:
        run: a value of ``RUNS`` or your own.
        seed: of weights, data order and noise.
        latents: folder of the latents of an ImageNet run, see :func:`ismkit.training.runs.imagenet_latents`.
        engine: processes, precision, compilation, memory, micro-batches.
        saving: ``folder`` is by default ``run.folder(seed)``, ``save_every`` at most 5000 for each process; the model
            goes into the folder as ``model.safetensors``, and every ``model_every`` steps as
            ``model-STEP.safetensors``, which no later step deletes.
        logging: losses, throughput and samples, to TensorBoard or another tracker.
        trackers: opens trackers in its place, see :class:`ismkit.training.tracking.Tracking`.
        hooks: further hooks of :func:`ismkit.training.loop.fit`.

    Returns:
        The final state.

    Raises:
        TypeError: for an argument of another type.
        ValueError: for settings that do not fit, before any work; also if another training works in the folder.
        CheckpointError: for a network that no model file can hold, before step 1, see
            :func:`ismkit.models.saved.check_saveable`; and as in :func:`ismkit.training.loop.fit`.
        DataError: if the latents are missing, altered or of another VAE.
        Preempted, DivergenceError: see :func:`ismkit.training.loop.fit`.

    Example:
        >>> import dataclasses, tempfile
        >>> from ismkit import RUNS, Saving, launch
        >>> run = dataclasses.replace(RUNS["gaussians"], steps=2, batch_size=32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     state = launch(run, saving=Saving(folder))  # doctest: +ELLIPSIS
        model: ...model.safetensors (SHA-256 ...)
    """
    check_kind("run", run, Run)
    _, engine, saving = check_options(None, engine, saving, hooks)
    logging = Logging() if logging is None else logging
    check_kind("logging", logging, Logging)
    if trackers is not None and not callable(trackers):
        raise TypeError(f"trackers must be a function of the step, got {shown(trackers)}")
    folder = saving.folder or run.folder(seed)
    accelerator = distributed.accelerator(engine.mode, engine.precision, cpu=not torch.cuda.is_available())
    longest = min(SAVE_EVERY * accelerator.num_processes, run.steps)
    saving = replace(saving, folder=folder, save_every=saving.save_every or longest)
    if saving.model_every is None and run.takes_latents and run.steps > MODEL_EVERY:
        saving = replace(saving, model_every=MODEL_EVERY - MODEL_EVERY % (logging.log_every or 1))
    logging = _windows(logging, saving)
    load = partial(run.load, latents) if latents else run.load
    with distributed.alone_in(folder, accelerator):
        return _launch(run, seed, load, engine, saving, logging, trackers, hooks, accelerator)


def _launch(
    run: Run,
    seed: int,
    load: Callable[[], Any],
    engine: Engine,
    saving: Saving,
    logging: Logging,
    trackers: tracking.Open | None,
    hooks: Sequence[Hook],
    accelerator: Accelerator,
) -> TrainState:
    """The training, its logs and its models, when no other writes into the folder."""
    folder = saving.folder
    assert folder is not None
    # What cannot be described is refused before the training.
    described = in_one_line("run cannot be described in the model's file", describe, run)
    card = {"run": described, "steps": run.steps, "seed": seed, "licence": "Apache-2.0"}
    if accelerator.num_processes > 1:  # the main process first, for it may have to make them
        distributed.on_main_process(accelerator, lambda: len(load()))
    data = loaded(load)
    if (shape := getattr(data, "shape", None)) is not None:
        card["shape"] = list(shape)  # of what this model draws
    if isinstance(data, Latents):
        card["vae"] = data.manifest["vae"]  # that decodes what this model draws
    write = partial(_write_model, folder, card, accelerator)
    hooks = [_Models(saving.model_every or 0, write), *hooks]
    engine = with_micro_batches(engine, saving, accelerator)
    options: dict[str, Any] = {"data": data, "engine": engine, "saving": saving, "accelerator": accelerator}
    options["check"] = check_saveable
    if trackers is None and logging.tracker not in (None, "none"):
        trackers = tracking.named(logging.tracker, run.name, folder / "logs")
    if trackers is None:
        state = train_run(run, seed, hooks=hooks, **options)
    else:
        with _tracking(trackers, run, data, logging, accelerator) as hook:
            state = train_run(run, seed, hooks=[hook, *hooks], **options)
    write(state, "model.safetensors")
    accelerator.end_training()  # else every process warns that its group was not taken down
    return state


def _write_model(folder: Path, card: dict[str, Any], accelerator: Accelerator, state: TrainState, name: str) -> None:
    """Write the slow average with its card; every process calls this, and all get the main one's error."""
    net, path = distributed.unsharded(state.ema.slow), folder / name
    card = card | {"steps": state.step} | ({"changes": state.changes} if state.changes else {})
    digest = distributed.on_main_process(accelerator, lambda: save_model(net, path, card))
    if accelerator.is_main_process:
        print(f"model: {path} (SHA-256 {digest})")


@dataclass(frozen=True)
class _Models:
    """A hook that writes a model every so many steps (0: none), under a name that no other step has."""

    every: int
    write: Callable[[TrainState, str], None]
    everywhere = True  # a sharded average is gathered by all

    def __call__(self, state: TrainState, report: StepReport) -> None:
        self.resumed(state)

    def resumed(self, state: TrainState) -> None:
        """Also where a run is resumed: a kill may have come between this step's checkpoint and its model."""
        if self.every and state.step % self.every == 0:
            self.write(state, f"model-{state.step:08d}.safetensors")


def _windows(logging: Logging, saving: Saving) -> Logging:
    """The logging with its intervals: a window of the logs must end where a checkpoint is saved."""
    intervals = {"save_every": saving.save_every or 0, "model_every": saving.model_every or 0}
    shared = math.gcd(*intervals.values())
    every = logging.log_every or max(k for k in range(1, LOG_EVERY + 1) if shared % k == 0)
    for name, interval in intervals.items():
        if interval % every:
            why = "else a killed run leaves a gap in its logs"
            raise ValueError(f"{name} must be a multiple of log_every={every}, got {interval}: {why}")
    return replace(logging, log_every=every, samples_every=logging.samples_every or saving.save_every)


def _tracking(
    trackers: tracking.Open, run: Run, data: Any, logging: Logging, accelerator: Accelerator
) -> tracking.Tracking:
    """The hook that logs."""
    return tracking.Tracking(
        trackers,
        rows=run.batch_size,
        grid=run.recipe.rows.grid,
        every=logging.log_every or LOG_EVERY,
        flops=_flops(run, data.num_classes),
        devices=accelerator.num_processes,
        samples=_samples(run, logging.vae, data, accelerator) if logging.vae else None,
        samples_every=logging.samples_every or SAVE_EVERY,
        settings=describe(run),
    )


def launch_processes(
    run: Run, seed: int = 0, *, processes: int, patience: float = PATIENCE, hooks: Sequence[Hook] = (), **options: Any
) -> None:
    """:func:`launch` in new processes of this machine, from a notebook: in a shell ``torchrun`` does that.

    On a CPU each process computes on one thread, as under ``torchrun``.

    Args:
        run: a value of ``RUNS`` or your own.
        seed: of weights, data order and noise.
        processes: at least 1; one for each GPU.
        patience: seconds without a step or a line of output, after which all are ended: more than the first step
            takes, with data to be checked and a network to be compiled.
        hooks: further hooks of :func:`ismkit.training.loop.fit`.
        options: the other keyword arguments of :func:`launch`.

    Raises:
        WorkerError: if a process died, was ended by a signal (status 75 once its checkpoint was written) or hung, see
            :func:`ismkit.utils.workers.run_group`.
        ValueError: and other errors, as in :func:`launch`.

    Example:
        >>> import dataclasses, tempfile
        >>> from pathlib import Path
        >>> from ismkit import RUNS, Saving
        >>> from ismkit.training import launch_processes
        >>> run = dataclasses.replace(RUNS["gaussians"], steps=2, batch_size=32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     launch_processes(run, processes=2, saving=Saving(folder))  # doctest: +ELLIPSIS
        ...     sorted(path.name for path in Path(folder).iterdir())
        model: ...model.safetensors (SHA-256 ...)
        ['model.safetensors', 'step_00000002.safetensors']
    """

    def task(rank: int, tell: Tell) -> None:
        launch(run, seed, hooks=[lambda state, report: tell(report.step), *hooks], **options)

    run_group(task, processes, patience=patience)


def _flops(run: Run, num_classes: int) -> float | None:
    """Model FLOPs of one optimiser step, of a transformer; None for other networks."""
    config = transformer_config(run, num_classes)
    return None if config is None else costs.step_flops(config, run.recipe, run.batch_size)


def _samples(run: Run, vae: str, data: Any, accelerator: Accelerator) -> tracking.SampleGrid:
    """What is drawn; the main process alone loads the decoder, which takes seconds and memory of its device."""
    decoders: list[Callable[[Tensor], Tensor]] = []

    def load() -> None:
        from ismkit.imagenet.vae import ImageVAE

        decoder = ImageVAE.load(vae).to(accelerator.device)
        check_vae(data.folder, data.manifest, decoder)
        decoders.append(decoder.decode)

    distributed.on_main_process(accelerator, load)
    few = tuple(c for c in SAMPLED if c < data.num_classes)
    classes = few or tuple(range(min(8, data.num_classes)))
    decode = decoders[0] if decoders else None
    return tracking.SampleGrid(decode, data.shape, classes, source=run.recipe.source)
