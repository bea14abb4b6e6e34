"""Train a network of this folder again as it was trained: ``python ismkit/models/weights/train.py NAME``.

NAME is ``features`` (the classifier of the metrics), ``autoencoder`` (of the small latent space) or the recipe of a
released generator. The file goes to ``out/NAME/``; to release it, copy it here and replace the old checksum.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

import torch

from ismkit.data.fashion import fashion_mnist, reconstruction_error, train_autoencoder
from ismkit.evaluation.judges import FashionJudge, accuracy, train_features
from ismkit.method.recipes import RECIPES
from ismkit.models.saved import RELEASED, save_model
from ismkit.training.options import Saving
from ismkit.training.runs import RUNS, train_run
from ismkit.utils.files import out_dir
from ismkit.utils.settings import describe
from ismkit.utils.weights import save_weights

SCORED = {"nfe": (1, 4, 128), "w": (0.0, 1.0, 2.0), "n": 1000, "seed": 1}  # what the cards of the released ones hold


def train(name: str, path: str | os.PathLike[str], seed: int = 0) -> tuple[dict[str, Any], str]:
    """Train a network of this folder as the released one was trained; returns its card and the file's SHA-256.

    Args:
        name: ``features``, the classifier of the metrics; ``autoencoder``, of the small latent space; or the recipe of
            a released generator: the run ``fashion`` with that recipe.
        path: ends in ``.safetensors``; written atomically.
        seed: the released files have seed 0; another machine or version of torch gives other bytes all the same.

    Raises:
        ValueError: for another name.
    """
    common = {"seed": seed, "licence": "Apache-2.0"}
    if name in RELEASED:
        run = RUNS["fashion"]
        run = dataclasses.replace(run, recipe=run.adapt(RECIPES[name]))
        state = train_run(run, seed, saving=Saving(save_every=500, resume=True))
        rows = FashionJudge.load().table(state.ema.slow.half().float(), **SCORED)  # type: ignore[arg-type]
        scores = {f"{row['nfe']} NFE, w = {row['w']:g}": dict(row) for row in rows}
        card = {"run": describe(run), "steps": state.step, **common, "scores": scores}
        return card, save_model(state.ema.slow, path, card, torch.float16)
    training, test = fashion_mnist("train"), fashion_mnist("test")
    if name == "features":
        classifier = train_features(training, seed=seed)
        text = {"accuracy": f"{accuracy(classifier, test):.4f}"}
        text |= {key: str(value) for key, value in common.items()}
        return text, save_weights(classifier, path, text)
    if name != "autoencoder":
        raise ValueError(f"name must be features, autoencoder or one of {', '.join(RELEASED)}, got {name!r}")
    steps = 6000
    autoencoder = train_autoencoder(training.x, steps=steps, seed=seed)
    text = {"test_mse": f"{reconstruction_error(autoencoder, test.x):.5f}", "steps": str(steps)}
    text |= {key: str(value) for key, value in common.items()}
    return text, save_weights(autoencoder, path, text)


def main() -> None:
    """Train what the command line names, and print its card and checksum."""
    parser = argparse.ArgumentParser(description="Train a released network again.")
    parser.add_argument("name", choices=["features", "autoencoder", *RELEASED])
    parser.add_argument("--seed", type=int, default=0, help="the released files have 0")
    parser.add_argument("--out", type=Path, help="folder of the file (default: out/NAME)")
    args = parser.parse_args()
    path = (args.out or out_dir() / args.name) / f"fashion_{args.name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    card, digest = train(args.name, path, args.seed)
    print(f"{card}\nweights: {path} (SHA-256 {digest})")


if __name__ == "__main__":
    main()
