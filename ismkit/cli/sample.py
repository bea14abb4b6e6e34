"""Draw with a trained model into a PNG file: a sheet of clothes, or a scatter plot of points."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ismkit.cli import UsageError

EXAMPLES = (
    "ismkit sample",
    "ismkit sample out/runs/NAME/model.safetensors --nfe 4 --w 1 --classes 5 7 9 -o shoes.png",
    "ismkit sample --times 0 0.5 0.75 1 --renoise",
    "ismkit sample points.safetensors --network my_nets:Own -n 500   # points of a network of your own",
)


LARGEST = {"images": 10_000, "points": 1_000_000}  # in one picture
EACH = {"images": 8, "points": 250}  # of a class, by default


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
    classes: tuple[int, ...] = (),
    seed: int = 0,
    network: str | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    out: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None,
) -> int:
    """Draw clothes or points.

    Args:
        model: a model.safetensors that `ismkit train` wrote, of clothes or of points in the plane, or the name of a
            released one.
        nfe: network evaluations per sample, by equal steps: 1, 2, 4 ... 128, or any number for a model that was trained
            on steps of any length (default: 1).
        times: where steps begin and end, from 0 to 1, in place of --nfe: for a model that was trained on such steps.
        renoise: jump to the data in each step, and go back to the next time by fresh noise.
        w: guidance strength, 0 = unguided.
        n: samples per class (default: 8 images, 250 points).
        classes: labels (default: all).
        seed: of the noise.
        network: module:attribute of the class, if the model is a network of your own: its code is run.
        device: cpu or cuda (default: a GPU where there is one).
        out: PNG file to write (default: out/samples.png).
    """
    from ismkit.data.fashion import SHAPE
    from ismkit.evaluation.judges import Setting
    from ismkit.evaluation.scoring import device_at_hand
    from ismkit.models.saved import RELEASED, check_clothes, check_normal, load_named, sample_shape
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
    where = device_at_hand(device)
    net, card = load_named(model, network=network)
    check_normal(card, model)
    shape = tuple(SHAPE) if model in RELEASED else sample_shape(net, card)
    what = "points" if shape == (2,) else "images"
    if what == "images":
        check_clothes(net, model)
    net = net.to(where)
    if not isinstance(num_classes := getattr(net, "num_classes", None), int):
        raise UsageError(f"{model} must hold a network with the attribute num_classes, {type(net).__name__} has none")
    y = _labels(classes, n or EACH[what], num_classes, what)
    options: dict[str, Any] = {"w": w, "nfe": nfe, "times": times or None, "renoise": renoise}
    made = len(times) - 1 if times else nfe
    if what == "images":
        written = _sheet(y, net, seed, path, len(y) // (n or EACH[what]), options)
    else:
        written = _scatter(y, net, seed, path, f"{made} NFE, w = {w:g}", options)
    print(f"{len(y)} {what}, {made} NFE, w = {w:g}: {written}")
    return 0


def _labels(classes: tuple[int, ...], n: int, num_classes: int, what: str) -> list[int]:
    """The label of each sample, ``n`` of each class."""
    known = num_classes if what == "points" else 10
    if wrong := [label for label in classes if not 0 <= label < known]:
        raise UsageError(f"--classes must be labels 0 .. {known - 1}, got {wrong[0]}")
    chosen = classes or tuple(range(known))
    if len(chosen) * n > LARGEST[what]:
        raise UsageError(f"{what} must be {LARGEST[what]} or fewer, got {len(chosen)} classes x {n}")
    return list(chosen) * n


def _sheet(y: list[int], net: Any, seed: int, path: Path, columns: int, options: dict[str, Any]) -> Path:
    from ismkit.data.pictures import write_png
    from ismkit.models.drawing import draw_clothes

    images = draw_clothes(y, net, seed=seed, device=next(net.parameters()).device, **options)
    return write_png(images, path, columns)


def _scatter(y: list[int], net: Any, seed: int, path: Path, title: str, options: dict[str, Any]) -> Path:
    import torch

    from ismkit.lessons import plot
    from ismkit.method.path import draw_noise
    from ismkit.method.sampling import sample
    from ismkit.utils.seeding import stream

    device = next(net.parameters()).device
    labels = torch.tensor(y)
    x0 = draw_noise(None, (len(y), 2), stream(seed, "samples")).to(device)
    if options["renoise"]:
        options["generator"] = stream(seed, "renoise")
    points = sample(net, x0, labels.to(device), **options).cpu()
    if bad := int((~points.isfinite()).any(1).sum()):
        raise ValueError(f"net draws NaN or infinity in {bad} of {len(y)} points: {title}")
    return plot.save(plot.scatter(points, labels, title), path)
