"""The command line: what each command takes, and how its mistakes are told; :mod:`ismkit.commands` does the work."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ismkit import __version__
from ismkit.commands import UsageError, doctor, evaluate, lab, latents, ledger, notebook, sample, sweep, train

# Names of other modules, repeated so that the parser need not import torch; a test holds them equal.
RUNS = ("gaussians", "fashion-smoke", "fashion-laptop", "fashion")
IMAGENET: tuple[str, ...] = ("imagenet-smoke", "imagenet256-s2", "imagenet256-b2", "imagenet256-l2")
IMAGENET += ("imagenet256-xl2", "imagenet512-xl2")
RECIPES: tuple[str, ...] = ("flow", "shortcut_every_level", "shortcut_finest_level")
RECIPES += ("ism_guidance", "+interval", "+wavelet", "+sot", "ism", "ism_plus")
SWEEPS = ("ladder", "ladder-gpu", "ladder-laptop", "ladder-smoke", "sensitivity", "tried")
RELEASED = ("shortcut_finest_level", "ism", "ism_plus")
VAES = ("sd-vae-ft-mse", "sd-vae-ft-ema")
METRICS = ("fid", "sfid", "is", "precision", "recall", "fd_dinov2")


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
        epilog="examples:\n  ismkit doctor\n  ismkit notebook 00\n  ismkit train gaussians\n  ismkit train --help",
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

    sub = add(notebook, "ismkit notebook 00 --profile smoke", "ismkit notebook 00 -p seed 3 --out results")
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
        "ismkit train imagenet256-xl2 --latents /data/latents --precision bf16 --compile --accumulate 4",
        "ismkit train imagenet256-xl2 -p recipe.coupling.pool 0            # no optimal transport",
        "",
        "on many GPUs, started again by the same command after a kill, with as many processes or others:",
        "  torchrun --nproc-per-node 8 -m ismkit train imagenet256-xl2 --precision bf16 --compile --resume",
        "  accelerate launch --multi_gpu -m ismkit train imagenet256-xl2 --mode fsdp --precision bf16 --resume",
    )
    names = RUNS + IMAGENET
    sub.add_argument("run", metavar="RUN", choices=names, help=", ".join(names))
    sub.add_argument("--recipe", metavar="NAME", choices=RECIPES, help=f"method: {', '.join(RECIPES)} (default: ism)")
    sub.add_argument("--steps", type=_at_least(1), metavar="K", help="optimiser steps")
    sub.add_argument("--batch-size", type=_at_least(1), metavar="B", help="rows per step, over all processes")
    sub.add_argument("--lr", type=float, help="peak learning rate")
    help_p = "any other setting by its path, as in a sweep: recipe.coupling.class_aware False; repeatable"
    sub.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("PATH", "VALUE"), help=help_p)
    help_o = "classes in each pool of the coupling, about (default: rows in any order)"
    sub.add_argument("--classes-per-pool", type=_at_least(1), metavar="C", help=help_o)
    sub.add_argument("--seed", type=int, default=0, help="seed of weights, data order and noise (default: 0)")
    sub.add_argument("--run-dir", metavar="DIR", help="folder of the checkpoints (default: out/runs/...)")
    help_s = "steps between checkpoints (default: 5000, and one at the end)"
    sub.add_argument("--save-every", type=_at_least(1), metavar="K", help=help_s)
    help_r = "go on from the newest checkpoint, or from that of STEP; give the options of the first call again"
    sub.add_argument("--resume", nargs="?", type=_at_least(1), const=True, default=False, metavar="STEP", help=help_r)
    help_l = "folder of the latents of ImageNet (default: $ISMKIT_LATENTS, or out/latents/NAME)"
    sub.add_argument("--latents", metavar="DIR", help=help_l)
    help_m = "of several processes: ddp (a whole network each; default) or fsdp (a share of it each, FSDP2)"
    sub.add_argument("--mode", choices=("ddp", "fsdp"), help=help_m)
    sub.add_argument("--precision", choices=("no", "bf16"), help="of the passes: no (float32, default) or bf16")
    sub.add_argument("--compile", action="store_true", help="compile the network's blocks: minutes at the start")
    help_c = "compute activations anew in the backward pass: less memory, a third more time"
    sub.add_argument("--activation-checkpointing", action="store_true", help=help_c)
    help_a = "micro-batches per step and process when the run begins (default: 1); --resume keeps their number in all"
    sub.add_argument("--accumulate", type=_at_least(1), metavar="K", help=help_a)
    help_t = "logs, in the folder logs beside the checkpoints (default: tensorboard for runs of ImageNet)"
    sub.add_argument("--tracker", choices=("tensorboard", "none"), help=help_t)
    help_e = "steps per line of the logs, a divisor of --save-every (default: the largest up to 100)"
    sub.add_argument("--log-every", type=_at_least(1), metavar="K", help=help_e)
    help_v = "the VAE that made the latents, a name or a folder: sample grids go to the logs"
    sub.add_argument("--vae", metavar="VAE", help=help_v)
    help_g = "steps between sample grids (default: as --save-every)"
    sub.add_argument("--samples-every", type=_at_least(1), metavar="K", help=help_g)

    sub = add(
        latents,
        "ismkit latents imagenet/train --workers 8 --out latents/imagenet256",
        "ismkit latents ILSVRC2012_img_train.tar --side 512",
        "ismkit latents shards/*.tar --class-names synsets.txt --skip-corrupt",
        "ismkit latents ILSVRC/imagenet-1k               # streamed from the hub",
        "ismkit latents --verify latents/imagenet256     # every byte against the manifest",
    )
    help_s = "a folder of class folders, .tar files (or their folder), or OWNER/NAME on the hub"
    sub.add_argument("source", nargs="*", metavar="SOURCE", help=help_s)
    help_o = "folder of the latents (default: $ISMKIT_LATENTS, or out/latents/imagenetSIDE)"
    sub.add_argument("--out", metavar="DIR", help=help_o)
    help_v = f"{', '.join(VAES)}, a folder, or OWNER/NAME on the hub (default: {VAES[0]})"
    sub.add_argument("--vae", default=VAES[0], metavar="NAME", help=help_v)
    sub.add_argument("--vae-revision", metavar="COMMIT", help="of the VAE on the hub (default: the pinned one)")
    sub.add_argument("--revision", metavar="COMMIT", help="of the images on the hub (ImageNet's is pinned)")
    sub.add_argument("--split", default="train", help="of the images on the hub (default: train)")
    sub.add_argument("--class-names", metavar="FILE", help="for .tar files: the name of each class, one a line")
    sub.add_argument("--side", type=_at_least(8), default=256, help="pixels after the centre crop (default: 256)")
    sub.add_argument("--batch-size", type=_at_least(1), default=32, metavar="B", help="images at a time (default: 32)")
    sub.add_argument("--workers", type=_at_least(1), default=1, metavar="K", help="processes here (default: 1)")
    sub.add_argument("--threads", type=_at_least(1), metavar="K", help="that decode images, in each process")
    help_c = "list images that cannot be decoded, and go on without them"
    sub.add_argument("--skip-corrupt", action="store_true", help=help_c)
    sub.add_argument("--verify", metavar="DIR", help="verify a folder of latents instead")

    sub = add(
        sweep,
        "ismkit sweep ladder-laptop",
        "ismkit sweep fashion-laptop --recipe flow ism --seeds 3 --nfe 1 4 --w 0 1 -n 10000",
        "ismkit sweep gaussians -p recipe.fast 0.5 0.95 -p optim.lr 1e-3 2e-3",
        "ismkit sweep ladder --address 10.0.0.1:6379 --gpus 0.25 --out /shared/sweeps",
    )
    what = f"a prepared sweep ({', '.join(SWEEPS)}) or a run ({', '.join(RUNS)})"
    sub.add_argument("name", nargs="+", metavar="NAME", choices=SWEEPS + RUNS, help=f"{what}; several share trainings")
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
    help_model = (
        f"a model.safetensors that `ismkit train` wrote, of a fashion run, or a released one: {', '.join(RELEASED)}"
    )
    common.add_argument("model", nargs="?", default="ism_plus", help=f"{help_model} (default: ism_plus)")
    common.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    help_d = "cpu or cuda (default: a GPU where there is one)"
    common.add_argument("--device", choices=("cpu", "cuda"), help=help_d)
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
    sub.add_argument("-o", "--out", metavar="FILE", help="PNG file to write (default: out/samples.png)")

    sub = add(
        evaluate,
        f"ismkit evaluate {file} --nfe 1 4 --w 0 1 2 -n 10000 -o scores.csv",
        f"ismkit evaluate {file} --vae sd-vae-ft-mse --reference VIRTUAL_imagenet256_labeled.npz --metrics fid is",
        parents=[common],
    )
    sub.add_argument("--nfe", nargs="+", default=[1, 2, 4], help=f"{help_nfe} (default: 1 2 4)", **nfe)
    sub.add_argument("--w", type=_at_least(0, float), nargs="+", default=[0, 1, 2], help=f"{help_w} (default: 0 1 2)")
    help_n = "samples per setting: 100 .. 10000 of clothes (default: 2000), of images any number (default: 50000)"
    sub.add_argument("-n", type=_at_least(10), help=help_n)
    help_o = "CSV file to write; for images the folder of samples, features and scores (default: out/evaluation/...)"
    sub.add_argument("-o", "--out", help=help_o)
    images = sub.add_argument_group("a model of image latents (its card names a VAE, or --vae does)")
    images.add_argument("--vae", metavar="NAME", help="sd-vae-ft-mse, sd-vae-ft-ema or a folder (default: its card's)")
    help_r = "statistics, one file per feature network: ADM's .npz, a .safetensors made here, or a folder of pictures"
    images.add_argument("--reference", nargs="+", metavar="FILE", help=help_r)
    images.add_argument("--metrics", nargs="+", choices=METRICS, metavar="NAME", help=f"{', '.join(METRICS)} (all)")
    help_f = "small: read a small random network instead, to try things out; comparable with nothing published"
    images.add_argument("--features", choices=("small",), help=help_f)
    images.add_argument("--batch", type=_at_least(1), metavar="B", help="images at one time (default: 100)")
    images.add_argument("--npz", action="store_true", help="write the samples as ADM's .npz too")
    images.add_argument("--png", action="store_true", help="write the samples as PNG files too")
    images.add_argument("--download", action="store_true", help="fetch missing weights of feature networks")
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
