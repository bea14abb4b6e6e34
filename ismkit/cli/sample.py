"""Draw images with a trained model into a PNG file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from ismkit.cli import UsageError

EXAMPLES = (
    "ismkit sample",
    "ismkit sample out/runs/NAME/model.safetensors --nfe 4 --w 1 --classes 5 7 9 -o shoes.png",
)


LARGEST = 10_000  # images in one picture


def names() -> dict[str, dict[str, str]]:
    """The released models."""
    from ismkit.models.saved import RELEASED

    return {"released models": dict.fromkeys(RELEASED, "")}


def command(
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = "ism_plus",
    nfe: int = 1,
    w: float = 1.0,
    n: Annotated[int, tyro.conf.arg(aliases=("-n",))] = 8,
    classes: tuple[int, ...] = tuple(range(10)),
    seed: int = 0,
    network: str | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    out: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None,
) -> int:
    """Draw clothes.

    Args:
        model: a model.safetensors that `ismkit train` wrote, of a fashion run, or the name of a released one.
        nfe: network evaluations per sample: 1, 2, 4 ... 128.
        w: guidance strength, 0 = unguided.
        n: images per class.
        classes: labels 0 .. 9.
        seed: of the noise.
        network: module:attribute of the class, if the model is a network of your own: its code is run.
        device: cpu or cuda (default: a GPU where there is one).
        out: PNG file to write (default: out/samples.png).
    """
    from ismkit.data.pictures import write_png
    from ismkit.evaluation.judges import Setting
    from ismkit.evaluation.scoring import device_at_hand
    from ismkit.models.drawing import draw_clothes
    from ismkit.models.saved import load_generator
    from ismkit.utils.checks import check_count
    from ismkit.utils.files import destination, out_dir

    path = out or out_dir() / "samples.png"
    if path.suffix != ".png":
        raise UsageError(f"--out must end in .png, got {str(path)!r}")
    destination(path)  # what cannot be written is refused before anything is drawn
    check_count("n", n)
    Setting(nfe, w, n, seed).check()
    if not classes or len(classes) * n > LARGEST:
        raise UsageError(
            f"--classes must be one label or more, and images {LARGEST} or fewer, got {len(classes)} x {n}"
        )
    if wrong := [label for label in classes if not 0 <= label < 10]:
        raise UsageError(f"--classes must be labels 0 .. 9, got {wrong[0]}")
    where = device_at_hand(device)
    net = load_generator(model, network=network).to(where)
    images = draw_clothes(classes * n, net, w=w, nfe=nfe, seed=seed, device=where)
    print(f"{len(images)} images, {nfe} NFE, w = {w:g}: {write_png(images, path, len(classes))}")
    return 0
