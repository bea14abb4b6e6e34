"""The networks that the kit ships in ``data/weights``: loaded with their checksums verified, or trained anew."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import torch
from torch import nn

from ismkit.checkpoint import save_weights
from ismkit.config import RUNS, describe
from ismkit.data import CLOTHES, data_root, fashion_mnist
from ismkit.evaluation import FashionJudge
from ismkit.features import accuracy, train_features
from ismkit.latents import SHAPE, reconstruction_error, train_autoencoder
from ismkit.models import load_sampler, save_model, train_run
from ismkit.objectives import RECIPES

#: The released generators of clothes, alike in all but the recipe that each is named after: SHA-256 of its file.
RELEASED = {
    "shortcut_finest_level": "031acb65391aa1505d8c006446b21ed62e4d17fed33b707c08cf58b254a201bd",
    "ism": "2c963bcae2a441dc410d3be0bbe9b505a08ee288bdede796e71ec1c824667385",
    "ism_plus": "239de3e6241a97169c942f42ac7ae1c2674c28ab666ca3b5dbb2e8b918eb831c",
}
SCORED = {"nfe": (1, 4, 128), "w": (0.0, 1.0, 2.0), "n": 1000, "seed": 1}  # what the cards of the released ones hold


def released(recipe: str = "ism_plus") -> tuple[nn.Module, dict[str, Any]]:
    """A released generator by its recipe, ready to be sampled, and its card.

    The card holds ``run``, ``steps``, ``seed``, ``licence``, and ``scores`` as :class:`ismkit.evaluation.FashionJudge`
    took them: 1000 samples in each setting, noise of seed 1.

    Raises:
        ValueError: for a recipe of which none is released.
        CheckpointError: if the file is missing, truncated or altered.
    """
    if recipe not in RELEASED:
        raise ValueError(f"recipe must be one of {', '.join(RELEASED)}, got {recipe!r}")
    return load_sampler(data_root() / "weights" / f"fashion_{recipe}.safetensors", RELEASED[recipe])


def load_generator(model: str | os.PathLike[str] = "ism_plus") -> nn.Module:
    """A network that draws latents of clothes, ready to be sampled.

    Args:
        model: the recipe of a released one, or a file of :func:`ismkit.models.save_model`.

    Raises:
        CheckpointError: if the file cannot be used.
        ValueError: if it holds a network of other data.
    """
    net, _ = released(str(model)) if model in RELEASED else load_sampler(model)
    one = torch.ones(1)
    try:
        net(torch.ones(1, *SHAPE), one, one, one, one.long())
        fits = net.num_classes == len(CLOTHES)
    except ValueError:  # what the networks of this kit say to samples of another shape
        fits = False
    if not fits:
        raise ValueError(f"{model} holds a {type(net).__name__} that draws no clothes: use a model of fashion-laptop")
    return net


def train_shipped(name: str, path: str | os.PathLike[str], seed: int = 0) -> tuple[dict[str, Any], str]:
    """Train anew, as it was trained, a network in ``data/weights``; returns its card and the file's SHA-256.

    Args:
        name: ``features``, the classifier of the metrics; ``autoencoder``, of the small latent space; or the recipe of
            a released generator: the run ``fashion`` with that recipe.
        path: ends in ``.safetensors``; written atomically.
        seed: the shipped files have seed 0; another machine or version of torch gives other bytes all the same.

    Raises:
        ValueError: for another name.
    """
    common = {"seed": seed, "licence": "Apache-2.0"}
    if name in RELEASED:
        run = RUNS["fashion"]
        run = dataclasses.replace(run, recipe=run.adapt(RECIPES[name]))
        state = train_run(run, seed, save_every=500)
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
