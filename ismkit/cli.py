"""The command line. Heavy imports wait for the command: help is quick, and ``doctor`` works where torch does not."""

from __future__ import annotations

import argparse
import ast
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ismkit import __version__

# Names of other modules, repeated so that the parser need not import torch; a test holds them equal.
RUNS = ("gaussians", "fashion-smoke", "fashion-laptop", "fashion")
RECIPES: tuple[str, ...] = ("flow", "shortcut_every_level", "shortcut_finest_level")
RECIPES += ("ism_guidance", "+interval", "+wavelet", "+sot", "ism", "ism_plus")
SWEEPS = ("ladder", "ladder-gpu", "ladder-laptop", "ladder-smoke", "sensitivity", "tried")
SHIPPED = ("features", "autoencoder", "generator")


class UsageError(ValueError):
    """A mistake of the user; printed without a traceback."""


def lab(args: argparse.Namespace) -> int:
    """Check the machine, then open a notebook in JupyterLab, which gets all further options."""
    from ismkit.notebooks import find

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


def run(args: argparse.Namespace) -> int:
    """Execute a notebook, with parameters, into the output folder."""
    from ismkit.config import out_dir
    from ismkit.notebooks import execute, find

    parameters = {name: _literal(value) for name, value in args.parameter}
    if args.profile:
        parameters["profile"] = args.profile
    target = execute(find(args.notebook), Path(args.out or out_dir()), parameters)
    print(f"executed notebook: {target}")
    return 0


def ledger(args: argparse.Namespace) -> int:
    """Show what came out of every claim, or measure a notebook's claims anew over several seeds."""
    from ismkit.config import out_dir
    from ismkit.ledger import as_text, book_rows, table, write
    from ismkit.notebooks import NOTEBOOKS, find, measure

    for source in [find(name) for name in args.notebooks]:
        rows = measure(source, range(args.seeds), out_dir() / "measured")
        print(f"ledger: {write(rows, NOTEBOOKS.parent / 'book' / 'ledger' / f'{source.stem[:2]}.json')}")
    print(as_text(table(book_rows())))
    return 0


def train(args: argparse.Namespace) -> int:
    """Train a model, or anew a network that the kit ships."""
    if args.run in SHIPPED:
        return _train_shipped(args)
    from dataclasses import replace

    from ismkit import checkpoint, config, objectives
    from ismkit.models import save_model, train_run

    preset = config.RUNS[args.run]
    if args.recipe:
        preset = replace(preset, recipe=preset.adapt(objectives.RECIPES[args.recipe]))
    if args.lr is not None:
        preset = replace(preset, optim=replace(preset.optim, lr=args.lr))
    preset = replace(preset, steps=args.steps or preset.steps, batch_size=args.batch_size or preset.batch_size)
    preset.recipe.rows.blocks(preset.batch_size)  # too small a batch is refused before the data are loaded
    folder = Path(args.run_dir or preset.folder(args.seed))
    if args.resume is False and (done := checkpoint.steps(folder)):
        raise UsageError(f"{folder} holds checkpoints up to step {done[-1]}: add --resume, or take another --run-dir")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{preset.name}: recipe {preset.recipe.name}, {preset.steps} steps of {preset.batch_size}; in {folder}")
    state = train_run(preset, args.seed, folder=folder, save_every=args.save_every, resume=args.resume)
    card = {"run": config.describe(preset), "steps": state.step, "seed": args.seed, "licence": "Apache-2.0"}
    digest = save_model(state.ema.slow, folder / "model.safetensors", card)
    print(f"model: {folder / 'model.safetensors'} (SHA-256 {digest})")
    return 0


def _train_shipped(args: argparse.Namespace) -> int:
    """Train one of the networks in ``data/weights`` as the shipped one was trained."""
    options = ("recipe", "steps", "batch_size", "lr", "save_every", "resume")
    if given := [f"--{name.replace('_', '-')}" for name in options if getattr(args, name)]:
        raise UsageError(f"{args.run} takes --seed and --run-dir only, got {', '.join(given)}")
    from ismkit.config import out_dir
    from ismkit.models import train_shipped

    path = Path(args.run_dir or out_dir() / args.run) / f"fashion_{args.run}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    result, digest = train_shipped(args.run, path, args.seed)
    print(f"{result}\nweights: {path} (SHA-256 {digest})")
    return 0


def sample(args: argparse.Namespace) -> int:
    """Draw images with a trained model into a PNG file."""
    import torch

    from ismkit import plot
    from ismkit.evaluation import FashionJudge, load_generator

    if Path(args.out).suffix != ".png":
        raise UsageError(f"--out must end in .png, got {args.out!r}")
    net = load_generator(args.model)
    labels = torch.tensor(args.classes).repeat(args.n)
    images = FashionJudge.load().draw(net, labels, w=args.w, steps=args.nfe, seed=args.seed)
    figure = plot.picture(images, len(args.classes), f"{args.nfe} NFE, w = {args.w:g}")
    print(f"{len(images)} images: {plot.save(figure, args.out)}")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Score a trained model: a row of metrics for each NFE and w."""
    from ismkit.evaluation import FashionJudge, as_text, load_generator, write_csv

    net = load_generator(args.model)
    rows = FashionJudge.load().table(net, nfe=args.nfe, w=args.w, n=args.n, seed=args.seed)
    print(as_text(rows))
    if args.out:
        print(f"table: {write_csv(rows, args.out)}")
    return 0


def sweep(args: argparse.Namespace) -> int:
    """Train and score many variants over seeds, side by side; after a kill the same command goes on."""
    from dataclasses import replace

    from ismkit import config, ladder, runner
    from ismkit.sweep import cells, summary, write

    if args.name in ladder.SWEEPS:
        if args.recipe:
            raise UsageError(f"{args.name} has its own recipes; --recipe goes with a run: {', '.join(RUNS)}")
        plan = ladder.SWEEPS[args.name]
    else:
        plan = ladder.of_run(config.RUNS[args.name], args.recipe or ["ism"])
    if args.nfe or args.w or args.n:
        protocol = cells(args.nfe or (1, 4), args.w or (0.0, 1.0), args.n or 1000)
        plan = replace(plan, cells=protocol)
    parameters = {path: [_literal(value) for value in values] for path, *values in args.parameter}
    plan = plan.vary(parameters)
    if args.seeds:
        plan = replace(plan, seeds=tuple(range(args.seeds)))
    folder = Path(args.out or config.out_dir() / "sweeps")
    target = Path(args.table or folder / f"{plan.name}.parquet")
    trials = plan.trials()
    print(
        f"{plan.name}: {len(trials)} trials, {len(plan.runs)} variants with {len(plan.seeds)} seeds; in {folder}",
        flush=True,
    )
    resources = {"workers": args.workers, "gpus": args.gpus, "address": args.address}
    frame = runner.run(trials, folder, **resources)
    metric = "frechet" if "frechet" in frame else "w2"
    print(f"{metric}, mean ± standard deviation over the seeds\n{summary(frame, metric).to_string()}")
    print(f"table: {write(frame, target)}")
    return 0


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _at_least(least: int, kind: type = int) -> Callable[[str], Any]:
    """An argument's type: a finite number of at least ``least``."""

    def number(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            what = {int: "a whole number", float: "a number"}[kind]
            raise argparse.ArgumentTypeError(f"must be {what} of at least {least}, got {text!r}")
        return value

    return number


class _Parser(argparse.ArgumentParser):
    """Answers a mistake with one line and the way to the help, and not with the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (more: {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    form = argparse.RawDescriptionHelpFormatter
    root = _Parser(
        prog="ismkit",
        formatter_class=form,
        description="Improved shortcut models (iSM): train, sample and look, from a 2D toy to images.",
        epilog="examples:\n  ismkit doctor\n  ismkit run 00\n  ismkit train gaussians\n  ismkit train --help",
    )
    root.add_argument("--version", action="version", version=f"ismkit {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(function: Callable[[argparse.Namespace], int], *examples: str, **options: Any) -> argparse.ArgumentParser:
        options |= {"description": function.__doc__, "help": function.__doc__, "formatter_class": form}
        sub = commands.add_parser(function.__name__, epilog="\n  ".join(["examples:", *examples]), **options)
        sub.set_defaults(function=function)
        return sub

    sub = add(lab, "ismkit lab", "ismkit lab 00 --no-browser --port=9000")
    sub.add_argument("notebook", nargs="?", default="00", help="number of the notebook (default: 00)")

    add(doctor, "ismkit doctor")

    sub = add(run, "ismkit run 00 --profile smoke", "ismkit run 00 -p seed 3 --out results")
    sub.add_argument("notebook", help="number of the notebook, such as 00")
    sub.add_argument("--profile", help="smoke (seconds), laptop (minutes): short for -p profile VALUE")
    help_p = "set a parameter of the notebook; VALUE as in Python (3, 0.5, True), anything else is text; repeatable"
    sub.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=help_p)
    sub.add_argument("--out", metavar="DIR", help="folder of the executed notebook and its files (default: out)")

    sub = add(ledger, "ismkit ledger", "ismkit ledger 03 04 --seeds 5    # into book/ledger/")
    sub.add_argument("notebooks", nargs="*", metavar="NN", help="notebooks to run anew (default: none, only show)")
    sub.add_argument("--seeds", type=_at_least(1), default=5, metavar="K", help="seeds 0 .. K - 1 (default: 5)")

    sub = add(
        train,
        "ismkit train gaussians",
        "ismkit train fashion-laptop --recipe shortcut_finest_level --seed 1 --save-every 200",
        "ismkit train fashion-laptop --resume            # from the newest checkpoint",
        "ismkit train fashion-laptop --resume 400        # from the checkpoint of step 400",
        "ismkit train autoencoder                        # a network that the kit ships, anew",
    )
    sub.add_argument("run", metavar="RUN", choices=RUNS + SHIPPED, help=", ".join(RUNS + SHIPPED))
    sub.add_argument("--recipe", metavar="NAME", choices=RECIPES, help=f"method: {', '.join(RECIPES)} (default: ism)")
    sub.add_argument("--steps", type=_at_least(1), metavar="K", help="optimiser steps")
    sub.add_argument("--batch-size", type=_at_least(1), metavar="B", help="rows per step")
    sub.add_argument("--lr", type=float, help="peak learning rate")
    sub.add_argument("--seed", type=int, default=0, help="seed of weights, data order and noise (default: 0)")
    sub.add_argument("--run-dir", metavar="DIR", help="folder of the checkpoints (default: out/runs/...)")
    sub.add_argument("--save-every", type=_at_least(1), metavar="K", help="steps between checkpoints (one at the end)")
    help_r = "go on from the newest checkpoint, or from that of STEP; give the options of the first call again"
    sub.add_argument("--resume", nargs="?", type=_at_least(1), const=True, default=False, metavar="STEP", help=help_r)

    sub = add(
        sweep,
        "ismkit sweep ladder-laptop",
        "ismkit sweep fashion-laptop --recipe flow ism --seeds 3 --nfe 1 4 --w 0 1 -n 10000",
        "ismkit sweep gaussians -p recipe.fast 0.5 0.95 -p optim.lr 1e-3 2e-3",
        "ismkit sweep ladder --address 10.0.0.1:6379 --gpus 0.25 --out /shared/sweeps",
    )
    what = f"a prepared sweep ({', '.join(SWEEPS)}) or a run ({', '.join(RUNS)})"
    sub.add_argument("name", metavar="NAME", choices=SWEEPS + RUNS, help=what)
    sub.add_argument("--recipe", nargs="+", metavar="NAME", choices=RECIPES, help="methods, with a run (default: ism)")
    help_p = "a setting by its path and the values to try, such as recipe.fast 0.5 0.95; repeatable, all combinations"
    sub.add_argument("-p", "--parameter", nargs="+", action="append", default=[], metavar="PATH VALUE", help=help_p)
    sub.add_argument("--seeds", type=_at_least(1), metavar="K", help="seeds 0 .. K - 1 (default: its own; a run: 3)")
    cell: dict[str, Any] = {"nargs": "+", "help": "protocol (default: its own; a run: NFE 1 4, w 0 1, n 1000)"}
    sub.add_argument("--nfe", type=int, metavar="NFE", choices=[2**k for k in range(8)], **cell)
    sub.add_argument("--w", type=_at_least(0, float), **cell)
    sub.add_argument("-n", type=_at_least(100), help="samples per setting")
    sub.add_argument("--workers", type=_at_least(1), metavar="K", help="trials at one time (default: one per core)")
    help_g = "share of a GPU for each trial: 0.125 trains eight on one (default: 0, the CPU)"
    sub.add_argument("--gpus", type=_at_least(0, float), default=0.0, metavar="SHARE", help=help_g)
    sub.add_argument("--address", help="of a Ray cluster, HOST:PORT (default: this machine alone)")
    sub.add_argument("--out", metavar="DIR", help="folder of results (default: out/sweeps); in a cluster a shared one")
    sub.add_argument("--table", metavar="FILE", help="Parquet file of the table (default: NAME.parquet in that folder)")

    common = argparse.ArgumentParser(add_help=False)
    help_model = "a model.safetensors that `ismkit train` wrote, of a fashion run (default: the released one)"
    common.add_argument("model", nargs="?", help=help_model)
    common.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    nfe: dict[str, Any] = {"type": int, "metavar": "NFE", "choices": [2**k for k in range(8)]}
    help_nfe, help_w = "network evaluations per sample: 1, 2, 4 ... 128", "guidance strength, 0 = unguided"
    file = "out/runs/NAME/model.safetensors"

    shoes = "--nfe 4 --w 1 --classes 5 7 9 -o shoes.png"
    sub = add(sample, "ismkit sample", f"ismkit sample {file} {shoes}", parents=[common])
    sub.add_argument("--nfe", default=1, help=f"{help_nfe} (default: 1)", **nfe)
    sub.add_argument("--w", type=_at_least(0, float), default=1.0, help=f"{help_w} (default: 1)")
    sub.add_argument("-n", type=_at_least(1), default=8, help="images per class (default: 8)")
    labels: dict[str, Any] = {"type": int, "metavar": "LABEL", "choices": range(10), "default": [*range(10)]}
    sub.add_argument("--classes", nargs="+", help="labels 0 .. 9 (default: all)", **labels)
    sub.add_argument("-o", "--out", default="samples.png", help="PNG file to write (default: samples.png)")

    sub = add(evaluate, f"ismkit evaluate {file} --nfe 1 4 --w 0 1 2 -n 10000 -o scores.csv", parents=[common])
    sub.add_argument("--nfe", nargs="+", default=[1, 2, 4], help=f"{help_nfe} (default: 1 2 4)", **nfe)
    sub.add_argument("--w", type=_at_least(0, float), nargs="+", default=[0, 1, 2], help=f"{help_w} (default: 0 1 2)")
    sub.add_argument("-n", type=_at_least(100), default=2000, help="samples per setting, 100 .. 10000 (default: 2000)")
    sub.add_argument("-o", "--out", help="CSV file to write")
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a mistake ends with one line on standard error and status 2."""
    args, rest = parser().parse_known_args(argv)
    args.jupyter = rest
    try:
        if rest and args.function is not lab:
            raise UsageError(f"unknown arguments: {' '.join(rest)}")
        return int(args.function(args))
    except KeyboardInterrupt:
        print(f"ismkit {args.command}: interrupted", file=sys.stderr)
        return 130
    except ImportError as error:
        message = f"{error}; `ismkit doctor` says what to install"
    except Exception as error:  # the kit's own errors by module: to import their classes here would import torch
        if not (isinstance(error, ValueError | OSError) or type(error).__module__.startswith("ismkit.")):
            raise
        message = str(error)
    print(f"ismkit {args.command}: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
