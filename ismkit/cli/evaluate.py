"""Score a trained model: a row of metrics for each NFE and w."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from ismkit.cli.sample import names as names
from ismkit.evaluation.options import ImageOptions

FILE = "out/runs/NAME/model.safetensors"
EXAMPLES = (
    f"ismkit evaluate {FILE} --nfe 1 4 --w 0 1 2 -n 10000 -o scores.csv",
    f"ismkit evaluate {FILE} --judge my_judges:cats -n 2000",
    f"ismkit evaluate {FILE} --vae sd-vae-ft-mse --reference VIRTUAL_imagenet256_labeled.npz --metrics fid is",
)


def command(
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = "ism_plus",
    nfe: tuple[int, ...] = (1, 2, 4),
    w: tuple[float, ...] = (0.0, 1.0, 2.0),
    n: Annotated[int | None, tyro.conf.arg(aliases=("-n",))] = None,
    seed: int = 0,
    network: str | None = None,
    judge: str | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    out: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None,
    images: ImageOptions = ImageOptions(),
) -> int:
    """Score a model.

    Args:
        model: a model.safetensors that `ismkit train` wrote, or the name of a released one.
        nfe: network evaluations per sample: 1, 2, 4 ... 128, or any number for a model that was trained on steps of any
            length.
        w: guidance strengths, 0 = unguided.
        n: samples per setting: 100 .. 10000 of clothes and emoji (default: 2000), of images 10 or more (default:
            50000).
        seed: of the noise.
        network: module:attribute of the class, if the model is a network of your own: its code is run.
        judge: module:attribute of your own, an object with score(net, setting), or a function that makes one for a
            device.
        device: cpu or cuda (default: a GPU where there is one).
        out: CSV file to write; for images the folder of samples, features and scores (default: out/evaluation/...).
        images: for a model of image latents (its card names a VAE, or --vae does).
    """
    from ismkit.evaluation.scoring import evaluate

    scores = evaluate(
        model, nfe=nfe, w=w, n=n, seed=seed, network=network, judge=judge, device=device, out=out, images=images
    )
    if scores.text:
        print("\n".join([scores.text, *(f"{kind}: {path}" for kind, path in scores.files)]))
    return 0
