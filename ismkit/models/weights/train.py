"""Train a network of this folder again as it was trained: ``python ismkit/models/weights/train.py NAME``.

NAME is ``fashion_features`` or ``emoji_features`` (the classifiers of the metrics), ``fashion_autoencoder`` or
``emoji_autoencoder`` (of the small latent spaces), ``gaussians_shortcut`` (of points in the plane), or a released
generator. The file goes to ``out/NAME/``; to release
it, copy it here and replace the old checksum.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ismkit.data.colour import emoji, emoji_changes
from ismkit.data.fashion import fashion_mnist
from ismkit.data.pictures import balanced
from ismkit.evaluation.judges import JUDGES, accuracy, train_features
from ismkit.lessons.closed_forms import EIGHT_GAUSSIANS
from ismkit.method.path import Query
from ismkit.method.recipes import RECIPES, Answer, Context, Intrinsic, Recipe
from ismkit.method.rows import Blocked, Rows
from ismkit.method.sampling import sample
from ismkit.models.autoencoder import in_batches, reconstruction_error, train_autoencoder
from ismkit.models.nets import ToyMLP
from ismkit.models.saved import RELEASED, released_file, save_model
from ismkit.models.spaces import EmojiAutoencoder, FashionAutoencoder
from ismkit.training.loop import TrainState
from ismkit.training.options import Saving
from ismkit.training.runs import RUNS, Run, train_run
from ismkit.utils.files import out_dir
from ismkit.utils.settings import describe
from ismkit.utils.weights import save_weights

SCORED = {"nfe": (1, 4, 128), "w": (0.0, 1.0, 2.0), "n": 1000, "seed": 1}  # what the cards of the released ones hold
STEPS = {"fashion": 6000, "emoji": 3500}  # of the autoencoders


def train(name: str, path: str | os.PathLike[str], seed: int = 0) -> tuple[dict[str, Any], str]:
    """Train a network of this folder as the released one was trained; returns its card and the file's SHA-256.

    Args:
        name: of the file, or of a released generator, see :func:`run_of`.
        path: ends in ``.safetensors``; written atomically.
        seed: the released files have seed 0; another machine or version of torch gives other bytes all the same.

    Raises:
        ValueError: for another name.
    """
    common = {"seed": str(seed), "licence": "Apache-2.0"}
    if name in RELEASED:
        state = train_run(run := run_of(name), seed, saving=Saving(save_every=500, resume=True))
        return release(run, state, seed, path)
    if name == "gaussians_shortcut":
        state = train_run(run := gaussians_run(), seed, saving=Saving(save_every=2000, resume=True))
        scores = {f"{nfe} NFE": modes(copy.deepcopy(state.ema.slow).half().float(), nfe) for nfe in (1, 2, 4, 128)}
        return _save(run, state, seed, path, scores)
    if name == "fashion_features":
        classifier = train_features(fashion_mnist("train"), seed=seed)
        text = {"accuracy": f"{accuracy(classifier, fashion_mnist('test')):.4f}"}
        return text | common, save_weights(classifier, path, text | common)
    if name == "emoji_features":  # of all drawings, told apart in other changes than it was trained on
        changes = emoji_changes(2)
        classifier = train_features(balanced(emoji(), 150), changes, epochs=24, seed=seed)
        text = {"accuracy": f"{accuracy(classifier, balanced(emoji(), 50, 7, changes)):.4f}"}
        return text | common, save_weights(classifier, path, text | common)
    if name == "fashion_autoencoder":
        steps = STEPS["fashion"]
        autoencoder = train_autoencoder(FashionAutoencoder, fashion_mnist("train").x, steps=steps, seed=seed)
        error = reconstruction_error(autoencoder, fashion_mnist("test").x)
    elif name == "emoji_autoencoder":
        steps = STEPS["emoji"]
        images = balanced(emoji("train"), 200, changes=emoji_changes()).x
        autoencoder = train_autoencoder(EmojiAutoencoder, images, steps=steps, seed=seed).half()
        error = reconstruction_error(copy.deepcopy(autoencoder).float(), emoji("test").x)
    else:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    text = {"test_mse": f"{error:.5f}", "steps": str(steps)}
    return text | common, save_weights(autoencoder, path, text | common)


def run_of(name: str) -> Run:
    """The run of a released generator: of emoji the one of that name, of clothes `fashion` with the recipe it names."""
    if name in RUNS:
        return RUNS[name]
    run = RUNS["fashion"]
    return dataclasses.replace(run, recipe=run.adapt(RECIPES[name]))


def exact_velocity(query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Answer:
    """The rule of ``Intrinsic``, with the exact velocity of the eight Gaussians in place of a sample's ``x1 - x0``.

    It is the mean of the targets that these rows get otherwise, without the noise; README.md says what that is worth.
    """
    return Intrinsic()(query, EIGHT_GAUSSIANS.velocity(query.x, query.t), rows, context)


def gaussians_run() -> Run:
    """The run of ``gaussians_shortcut``: no labels, no guidance, and more of the large steps, which are learnt last."""
    rows = Rows(consistency=0.6, label_dropout=1.0, drop_consistency=True, level_ratio=1.4, time_scale=10.0)
    run = RUNS["gaussians"]
    return dataclasses.replace(
        run,
        name="gaussians-shortcut",
        about="the shortcut model of the eight Gaussians that the kit ships: about four minutes on one CPU core",
        recipe=Recipe("shortcut_exact", rows, exact_velocity, fast=0.95),
        net=partial(ToyMLP, width=32, depth=4),
        steps=16_000,
        batch_size=512,
        optim=dataclasses.replace(run.optim, lr=1e-2, betas=(0.9, 0.99), warmup=200, cooldown=0.7),
    )


def modes(net: nn.Module, nfe: int, n: int = 20_000, seed: int = 1) -> dict[str, float]:
    """How many of n samples are near a mode, within 3 standard deviations, and the shares of the modes, of 1 in 8."""
    x0 = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    # In batches that fit into a processor's cache: quicker, with the same bits.
    samples = in_batches(lambda part: sample(net, part, torch.full((len(part),), 8), nfe=nfe), x0, batch=2000)
    distance, mode = torch.cdist(samples, EIGHT_GAUSSIANS.means.to(samples)).min(1)
    near = distance <= 3 * EIGHT_GAUSSIANS.std
    shares = 8 * torch.bincount(mode[near], minlength=8) / n
    return {"near": near.double().mean().item(), "least": shares.min().item(), "most": shares.max().item(), "n": n}


def release(run: Run, state: TrainState, seed: int, path: str | os.PathLike[str]) -> tuple[dict[str, Any], str]:
    """Score the slow average in half precision, and write it with its card."""
    assert run.space is not None
    net = copy.deepcopy(state.ema.slow).half().float()
    rows = JUDGES[run.space].load().table(net, **SCORED)  # type: ignore[arg-type]
    scores = {f"{row['nfe']} NFE, w = {row['w']:g}": dict(row) for row in rows}
    return _save(run, state, seed, path, scores)


def _save(
    run: Run, state: TrainState, seed: int, path: str | os.PathLike[str], scores: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    card = {"run": describe(run), "steps": state.step, "seed": seed, "licence": "Apache-2.0", "scores": scores}
    return card, save_model(state.ema.slow, path, card, torch.float16)


#: What can be trained here.
NAMES = (
    *(f"{data}_{what}" for what in ("features", "autoencoder") for data in ("fashion", "emoji")),
    "gaussians_shortcut",
    *RELEASED,
)


def main() -> None:
    """Train what the command line names, and print its card and checksum."""
    parser = argparse.ArgumentParser(description="Train a released network again.")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--seed", type=int, default=0, help="the released files have 0")
    parser.add_argument("--out", type=Path, help="folder of the file (default: out/NAME)")
    args = parser.parse_args()
    name = released_file(args.name) if args.name in RELEASED else args.name
    path = (args.out or out_dir() / args.name) / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    card, digest = train(args.name, path, args.seed)
    print(f"{card}\nweights: {path} (SHA-256 {digest})")


if __name__ == "__main__":
    main()
