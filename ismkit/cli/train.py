"""Train a run; after a kill the same command with --resume resumes it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ismkit.cli import UsageError
from ismkit.training.options import Engine, Logging, Saving

if TYPE_CHECKING:
    from ismkit.training.runs import Run

EXAMPLES = (
    "ismkit train gaussians",
    "ismkit train fashion-laptop --recipe shortcut_finest_level --seed 1 --save-every 200",
    "ismkit train fashion-laptop --resume                     # from the newest checkpoint",
    "ismkit train fashion-laptop --resume --from-step 400     # from the checkpoint of step 400",
    "ismkit train imagenet256-xl2 --latents /data --precision bf16 --micro-batches 2 -p recipe.coupling.pool 256",
    "ismkit train imagenet256-xl2 -p recipe.coupling.pool 0   # no optimal transport",
    "ismkit train my_runs:moons                # a Run of your own, in my_runs.py of this folder",
    "ismkit train fashion-laptop --recipe my_methods:robust --network my_nets:UNet -p net.width 64",
    "",
    "on many GPUs, started again by the same command after a kill, with as many processes or others; pools count",
    "micro-batches, by default one a process, and the ImageNet runs mean 128 for each of a step:",
    "  torchrun --nproc-per-node 8 -m ismkit train imagenet256-xl2 --precision bf16 --compile \\",
    "      -p recipe.coupling.pool 1024 --resume",
    "  accelerate launch --multi_gpu -m ismkit train imagenet256-xl2 --mode fsdp --precision bf16 \\",
    "      -p recipe.coupling.pool 1024 --resume",
)


def names() -> dict[str, dict[str, str]]:
    """The runs and the recipes."""
    from ismkit.neighbours.recipes import NAMED
    from ismkit.training.runs import RUNS

    return {"runs": {run.name: run.about for run in RUNS.values()}, "recipes": dict.fromkeys(NAMED, "")}


def command(
    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")],
    recipe: str | None = None,
    network: str | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    parameter: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[str, str], ...]], tyro.conf.arg(aliases=("-p",), metavar="PATH VALUE")
    ] = (),
    seed: int = 0,
    latents: Path | None = None,
    engine: Engine = Engine(),
    saving: Saving = Saving(),
    logging: Logging = Logging(),
) -> int:
    """Train a run.

    Args:
        run: name of the run, or module:attribute of your own.
        recipe: name of the method, or module:attribute of your own (default: the run's).
        network: module:attribute of your own network, which is built from num_classes (default: the run's).
        steps: optimiser steps.
        batch_size: rows per step, over all processes.
        lr: peak learning rate.
        parameter: any other setting by its path, as in a sweep: recipe.coupling.class_aware false; repeatable.
        seed: of weights, data order and noise.
        latents: folder of the latents of ImageNet (default: $ISMKIT_LATENTS, or out/latents/NAME).
        engine: how it is computed.
        saving: what is kept.
        logging: what is shown.
    """
    from ismkit.training.checkpoint import saved_steps
    from ismkit.training.launcher import launch
    from ismkit.training.runs import change_run, named_run

    preset = named_run(run)
    if not preset.takes_latents and (latents or logging.vae):
        option = "latents" if latents else "vae"
        raise UsageError(f"{run} has data of its own: --{option} goes with the runs of ImageNet")
    short = {"recipe": recipe, "net": network, "steps": steps, "batch_size": batch_size, "optim.lr": lr}
    for path, value in [*((path, value) for path, value in short.items() if value is not None), *parameter]:
        preset = change_run(preset, path, value)
    preset.recipe.rows.blocks(preset.batch_size)  # too small a batch is refused before the data are loaded
    folder = saving.folder or preset.folder(seed)
    if not saving.resume and (done := saved_steps(folder)):
        raise UsageError(f"{folder} holds checkpoints up to step {done[-1]}: add --resume, or take another --folder")
    fresh = saving.resume and not saving.from_step and not saved_steps(folder)
    others = _others(preset, seed) if fresh and not saving.folder else []
    if os.environ.get("RANK", "0") == "0":  # of the processes that a launcher has started
        for line in others:
            print(line)
        if fresh:
            print(f"no checkpoint in {folder}: the run starts at step 0")
        print(f"{preset.name}: recipe {preset.recipe.name}, {preset.steps} steps of {preset.batch_size}; in {folder}")
    if logging.tracker is None and preset.takes_latents:
        logging = replace(logging, tracker="tensorboard")
    launch(preset, seed, latents=latents, engine=engine, saving=replace(saving, folder=folder), logging=logging)
    return 0


SHOWN = 4  # other folders, and settings of each: more hide the forgotten option


def _others(run: Run, seed: int) -> list[str]:
    """A line for each other folder of a run, for those that forgot an option of it."""
    from ismkit.training.checkpoint import saved_steps

    lines = []
    for other, changes in [*run.other_folders(seed).items()][:SHOWN]:
        told = [f"{name} is {there} there, {here} here" for name, (there, here) in changes.items()]
        more = [f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
        what = "; ".join([*told[:SHOWN], *more]) or "its network, data or batch size"
        line = f"{other} holds checkpoints up to step {saved_steps(other)[-1]} of other settings: {what}"
        steps, _ = changes.get("steps", (None, None))
        if isinstance(steps, int) and steps > 0 and replace(run, steps=steps).folder(seed) == other:
            line = (
                f"{other} holds this run with {steps} steps. With {run.steps} it is another run and begins at step 0; "
                f"to lengthen that one: --folder {other} --resume"
            )
        lines.append(line)
    return lines
