"""Draw with a trained model into a PNG file: a sheet of pictures, or a scatter plot of points."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ismkit.cli import UsageError

EXAMPLES = (
    "ismkit sample",
    "ismkit sample emoji --classes cat-face heart food-fruit -n 6",
    "ismkit sample out/runs/NAME/model.safetensors --nfe 4 --w 1 --classes 5 7 9 -o shoes.png",
    "ismkit sample --times 0 0.5 0.75 1 --renoise",
    "ismkit sample out/runs/NAME/model.safetensors --vae sd-vae-ft-mse --classes 88 207 -n 4   # image latents",
    "ismkit sample points.safetensors --network my_nets:Own -n 500   # points of a network of your own",
)


def names() -> dict[str, dict[str, str]]:
    """The released models."""
    from ismkit.models.saved import RELEASED

    return {"released models": dict.fromkeys(RELEASED, "")}


def command(
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = "ism_plus",
    nfe: int | None = None,
    times: tuple[float, ...] = (),
    renoise: bool = False,
    w: float = 1.0,
    n: Annotated[int | None, tyro.conf.arg(aliases=("-n",))] = None,
    classes: tuple[str, ...] = (),
    seed: int = 0,
    network: str | None = None,
    vae: str | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    out: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None,
) -> int:
    """Draw pictures or points.

    Args:
        model: a model.safetensors that `ismkit train` wrote, of clothes, emoji, pictures of your own or points in the
            plane, or the name of a released one.
        nfe: network evaluations per sample, by equal steps: 1, 2, 4 ... 128, or any number for a model that was trained
            on steps of any length (default: 1).
        times: where steps begin and end, from 0 to 1, in place of --nfe: for a model that was trained on such steps.
        renoise: jump to the data in each step, and go back to the next time by fresh noise.
        w: guidance strength, 0 = unguided.
        n: samples per class (default: 8 images, or 1 where the classes are more than 16, and 250 points).
        classes: labels, or names of clothes (as Bag) or of Unicode's subgroups (as cat-face) (default: all).
        seed: of the noise.
        network: module:attribute of the class, if the model is a network of your own: its code is run.
        vae: for a model of image latents: sd-vae-ft-mse, sd-vae-ft-ema or a folder.
        device: cpu or cuda (default: a GPU where there is one).
        out: PNG file to write (default: out/samples.png).
    """
    from ismkit.data.pictures import write_png
    from ismkit.evaluation.judges import Setting
    from ismkit.evaluation.scoring import device_at_hand
    from ismkit.models.drawing import draw_model
    from ismkit.utils.checks import check_count
    from ismkit.utils.files import destination, out_dir

    path = out or out_dir() / "samples.png"
    if path.suffix != ".png":
        raise UsageError(f"--out must end in .png, got {str(path)!r}")
    destination(path)  # what cannot be written is refused before anything is drawn
    if n is not None:
        check_count("n", n)
    if nfe is not None and times:
        raise UsageError(f"--nfe is what --times are, less one: give one of them, got {nfe} and {len(times)} times")
    nfe = 1 if nfe is None else nfe
    Setting(nfe, w, n or 1, seed).check()  # whether the network makes so many steps, the sampler says
    where, decoder = device_at_hand(device), None
    if vae is not None:
        from ismkit.imagenet.vae import ImageVAE

        decoder = ImageVAE.load(vae).to(where)
    steps: dict[str, Any] = {"nfe": nfe, "times": times or None, "renoise": renoise}
    drawn = draw_model(model, classes, n=n, w=w, seed=seed, network=network, decoder=decoder, device=where, **steps)
    if drawn.samples.ndim == 4:
        kind, written = "images", write_png(drawn.samples, path, drawn.columns)
    else:
        from ismkit.lessons import plot

        kind, written = "points", plot.save(plot.scatter(drawn.samples.cpu(), drawn.y, drawn.title), path)
    print(f"{len(drawn.y)} {kind}, {drawn.title}: {written}")
    return 0
