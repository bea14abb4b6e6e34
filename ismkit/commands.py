"""What the commands of the command line do. Heavy imports wait for the command that needs them: help is quick, and
``doctor`` works where torch does not.
"""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


class UsageError(ValueError):
    """A mistake of the user; printed without a traceback."""


def lab(args: argparse.Namespace) -> int:
    """Check the machine, then open a notebook in JupyterLab, which gets all further options."""
    from ismkit.lessons.notebooks import find

    notebook = find(args.notebook)
    if doctor(args):
        return 1
    return subprocess.call([sys.executable, "-m", "jupyterlab", str(notebook), *args.jupyter])


def doctor(args: argparse.Namespace) -> int:
    """Say what this machine lacks, and what to do about it."""
    from ismkit.doctor import checks, report

    found = checks()
    print(report(found))
    return int(any(check.status == "fail" for check in found))


def notebook(args: argparse.Namespace) -> int:
    """Execute a notebook, with parameters, into the output folder."""
    from ismkit.lessons.notebooks import execute, find
    from ismkit.utils.files import out_dir

    parameters = {name: _literal(value) for name, value in args.parameter}
    if args.profile:
        parameters["profile"] = args.profile
    target = execute(find(args.notebook), Path(args.out or out_dir()), parameters)
    print(f"executed notebook: {target}")
    return 0


def ledger(args: argparse.Namespace) -> int:
    """Show what came out of every claim, or measure a notebook's claims anew over several seeds."""
    from ismkit.lessons.ledger import as_text, book_entries, table, write
    from ismkit.lessons.notebooks import NOTEBOOKS, find, measure
    from ismkit.utils.files import out_dir

    for source in [find(name) for name in args.notebooks]:
        rows = measure(source, range(args.seeds), out_dir() / "measured")
        print(f"ledger: {write(rows, NOTEBOOKS.parent / 'book' / 'ledger' / f'{source.stem[:2]}.json')}")
    print(as_text(table(book_entries())))
    return 0


def train(args: argparse.Namespace) -> int:
    """Train a model."""
    from dataclasses import replace

    from ismkit.method import recipes
    from ismkit.training import checkpoint, runs
    from ismkit.training.launcher import launch

    imagenet = args.run.startswith("imagenet")
    if not imagenet and (given := [name for name in ("latents", "vae") if getattr(args, name)]):
        raise UsageError(f"{args.run} has data of its own: --{given[0]} goes with the runs of ImageNet")
    preset = runs.RUNS[args.run]
    if args.recipe:
        preset = replace(preset, recipe=preset.adapt(recipes.RECIPES[args.recipe]))
    if args.lr is not None:
        preset = replace(preset, optim=replace(preset.optim, lr=args.lr))
    preset = replace(preset, steps=args.steps or preset.steps, batch_size=args.batch_size or preset.batch_size)
    for path, value in args.parameter:
        from ismkit.sweeps.sweep import change

        preset = change(preset, path, _literal(value))
    preset.recipe.rows.blocks(preset.batch_size)  # too small a batch is refused before the data are loaded
    folder = Path(args.run_dir or preset.folder(args.seed))
    if args.resume is False and (done := checkpoint.saved_steps(folder)):
        raise UsageError(f"{folder} holds checkpoints up to step {done[-1]}: add --resume, or take another --run-dir")
    folder.mkdir(parents=True, exist_ok=True)
    if os.environ.get("RANK", "0") == "0":  # of the processes that a launcher has started
        print(f"{preset.name}: recipe {preset.recipe.name}, {preset.steps} steps of {preset.batch_size}; in {folder}")
    tracker = args.tracker or ("tensorboard" if imagenet else "none")
    launch(
        preset,
        args.seed,
        folder=folder,
        latents=args.latents,
        mode=args.mode or "ddp",
        precision=args.precision or "no",
        compile=args.compile,
        activation_checkpointing=args.activation_checkpointing,
        accumulate=args.accumulate,
        classes_per_pool=args.classes_per_pool,
        save_every=args.save_every,
        resume=args.resume,
        tracker=None if tracker == "none" else tracker,
        log_every=args.log_every,
        vae=args.vae,
        samples_every=args.samples_every,
    )
    return 0


def sample(args: argparse.Namespace) -> int:
    """Draw images with a trained model into a PNG file."""
    from ismkit.evaluation.scoring import device_at_hand
    from ismkit.models.drawing import draw_clothes
    from ismkit.models.saved import load_generator
    from ismkit.utils.files import out_dir
    from ismkit.utils.pictures import write_png

    path = Path(args.out or out_dir() / "samples.png")
    if path.suffix != ".png":
        raise UsageError(f"--out must end in .png, got {args.out!r}")
    device = device_at_hand(args.device)
    net = load_generator(args.model).to(device)
    images = draw_clothes(args.classes * args.n, net, w=args.w, nfe=args.nfe, seed=args.seed, device=device)
    print(f"{len(images)} images, {args.nfe} NFE, w = {args.w:g}: {write_png(images, path, len(args.classes))}")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Score a trained model: a row of metrics for each NFE and w."""
    from ismkit.evaluation import scoring

    return scoring.evaluate(args)


def latents(args: argparse.Namespace) -> int:
    """Encode images into a folder of latents, or verify one; after a kill the same command goes on."""
    from ismkit.imagenet.encoding import Encoding, encode, report
    from ismkit.imagenet.latents import Latents
    from ismkit.imagenet.sources import open_source
    from ismkit.utils.files import out_dir

    if bool(args.source) == bool(args.verify):
        raise UsageError("give either the source of the images, or --verify and a folder of latents")
    if args.verify:
        data = Latents(args.verify, verify=True)
        print(report(data.folder, data.manifest))
        return 0
    names = Path(args.class_names).read_text().splitlines() if args.class_names else None
    source = open_source(args.source, revision=args.revision, split=args.split, class_names=names)
    folder = Path(args.out or os.environ.get("ISMKIT_LATENTS") or out_dir() / "latents" / f"imagenet{args.side}")
    options = {name: getattr(args, name) for name in ("side", "batch_size", "skip_corrupt")}
    options |= {"threads": args.threads} if args.threads else {}
    job = Encoding(source, args.vae, folder, args.vae_revision, **options)
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    print(f"{source.units} files of {source.identity['kind']} images, VAE {args.vae}; in {folder}", flush=True)
    manifest = encode(job, workers=args.workers, rank=rank, world=world)
    print(report(folder, manifest) if manifest else f"process {rank} of {world} is done; others are at work")
    return 0


def sweep(args: argparse.Namespace) -> int:
    """Train and score many variants over seeds, side by side; after a kill the same command goes on."""
    from dataclasses import replace

    from ismkit.sweeps import ladder, runner
    from ismkit.sweeps.sweep import settings, summary, write_table
    from ismkit.training import runs
    from ismkit.utils import files

    if args.recipe and (prepared := [name for name in args.name if name in ladder.SWEEPS]):
        raise UsageError(f"{prepared[0]} has its own recipes; --recipe goes with a run: {', '.join(runs.RUNS)}")
    recipes = args.recipe or ["ism"]
    plans = [ladder.SWEEPS.get(name) or ladder.of_run(runs.RUNS[name], recipes) for name in dict.fromkeys(args.name)]
    parameters = {path: [_literal(value) for value in values] for path, *values in args.parameter}
    if len(parameters) < len(args.parameter):
        raise UsageError("each -p names another setting: give all values of one after it")
    plans = [plan.vary(parameters) for plan in plans]
    if args.nfe or args.w or args.n:
        protocol = settings(args.nfe or (1, 4), args.w or (0.0, 1.0), args.n or 1000)
        plans = [replace(plan, settings=protocol) for plan in plans]
    if args.seeds:
        plans = [replace(plan, seeds=tuple(range(args.seeds))) for plan in plans]
    if len({run.images for plan in plans for run in plan.runs.values()}) > 1:
        raise UsageError("points and images are scored by other metrics: sweep one kind at a time")
    folder = Path(args.out or files.out_dir() / "sweeps")
    target = Path(args.table or folder / f"{'_'.join(args.name)}.parquet")
    for plan in plans:
        print(f"{plan.name}: {len(plan.runs)} variants, {len(plan.seeds)} seeds; in {folder}", flush=True)
    trials = [trial for plan in plans for trial in plan.trials()]
    frame = runner.run_trials(trials, folder, workers=args.workers, gpus=args.gpus, address=args.address)
    metric = "frechet" if "frechet" in frame else "w2"
    for plan in plans:
        part = frame[frame["sweep"] == plan.name]
        smallest = part[part.n == part.n.min()]
        print(
            f"{plan.name}: {metric}, mean ± standard deviation over the seeds\n{summary(smallest, metric).to_string()}"
        )
    print(f"table: {write_table(frame, target)}")
    return 0


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
