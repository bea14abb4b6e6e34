"""Draw with a trained model into a PNG file: a sheet of pictures, or a scatter plot of points."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ismkit.cli import UsageError

EXAMPLES = (
    "ismkit sample",
    "ismkit sample emoji --classes cat-face heart food-fruit -n 6",
    "ismkit sample out/runs/NAME/model.safetensors --nfe 4 --w 1 --classes 5 7 9 -o shoes.png",
    "ismkit sample --times 0 0.5 0.75 1 --renoise",
    "ismkit sample points.safetensors --network my_nets:Own -n 500   # points of a network of your own",
)


LARGEST = {"images": 10_000, "points": 1_000_000}  # in one picture
EACH = {"images": 8, "points": 250}  # of a class, by default; where the classes are many, one image
IN_A_ROW = 16


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
        device: cpu or cuda (default: a GPU where there is one).
        out: PNG file to write (default: out/samples.png).
    """
    from ismkit.data.pictures import write_png
    from ismkit.evaluation.judges import Setting
    from ismkit.evaluation.scoring import device_at_hand
    from ismkit.models.saved import check_normal, check_space, load_named, sample_shape, space_of
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
    space = space_of(net)
    shape = () if space else sample_shape(net, card)
    what = "points" if shape == (2,) else "images"
    if what == "images" and len(shape) != 3:
        space = check_space(net, model)
    net = net.to(where)
    if not isinstance(num_classes := getattr(net, "num_classes", None), int):
        raise UsageError(f"{model} must hold a network with the attribute num_classes, {type(net).__name__} has none")
    y, columns = _layout(_labels(classes, num_classes, space), n, what)
    options: dict[str, Any] = {"w": w, "nfe": nfe, "times": times or None, "renoise": renoise}
    made = len(times) - 1 if times else nfe
    if what == "images":
        written = write_png(_images(y, net, space, shape, options | {"seed": seed, "device": where}), path, columns)
    else:
        written = _scatter(y, net, seed, path, f"{made} NFE, w = {w:g}", options)
    print(f"{len(y)} {what}, {made} NFE, w = {w:g}: {written}")
    return 0


def _labels(classes: tuple[str, ...], num_classes: int, space: str | None) -> tuple[int, ...]:
    """The labels of what was asked for by number or by name."""
    from ismkit.models.spaces import SPACES

    names = SPACES[space].classes if space else ()
    found = []
    for text in classes:
        if text in names:
            found.append(names.index(text))
        elif text.isdecimal() and int(text) < num_classes:
            found.append(int(text))
        else:
            near = [name for name in names if text in name] or difflib.get_close_matches(text, names) or names
            or_names = f" or names, such as {', '.join(near[:3])}" if names else ""
            raise UsageError(f"--classes must be labels 0 .. {num_classes - 1}{or_names}, got {text}")
    return tuple(found) or tuple(range(num_classes))


def _layout(classes: tuple[int, ...], n: int | None, what: str) -> tuple[list[int], int]:
    """The label of each sample and the columns of the sheet: one for each class, or where they are many, in blocks."""
    few = len(classes) <= IN_A_ROW
    n = n or (EACH[what] if few or what == "points" else 1)
    if len(classes) * n > LARGEST[what]:
        raise UsageError(f"{what} must be {LARGEST[what]} or fewer, got {len(classes)} classes x {n}")
    if few:
        return list(classes) * n, len(classes)
    blocks = [k for k in range(1, len(classes)) if len(classes) % k == 0 and n * k <= 1.5 * IN_A_ROW]
    return [label for label in classes for _ in range(n)], n * max(blocks, default=1)


def _images(y: list[int], net: Any, space: str | None, shape: tuple[int, ...], options: dict[str, Any]) -> Any:
    """Pictures of a latent space, or those that a network draws itself, clamped."""
    import torch

    from ismkit.models.drawing import draw_pictures, draw_samples

    if space is not None:
        return draw_pictures(space, y, net, **options)
    return draw_samples(torch.tensor(y).to(options.pop("device")), net, shape, **options)[0].clamp(-1, 1)


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
