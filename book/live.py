"""Live models: the released networks as files that a page draws with, and the element of the page.

Every space of :data:`ismkit.models.spaces.SPACES` whose generator is released gets one: the generator and the decoder
as ONNX files, a picture for those who do not load them, and the controls, which ``_static/live`` brings to life.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from ismkit.data.pictures import tile
from ismkit.method.path import StepGrid, grid_of, step_lengths_of
from ismkit.method.sampling import check_nfe, sample
from ismkit.models.autoencoder import SmallAutoencoder
from ismkit.models.exporting import export, export_decoder
from ismkit.models.saved import RELEASED, released
from ismkit.models.spaces import SPACES, Space
from ismkit.utils.seeding import stream

STATIC = Path(__file__).resolve().parent / "_static"
RUNTIME = ("onnxruntime-web/ort.wasm.bundle.min.js", "onnxruntime-web/ort-wasm-simd-threaded.wasm.gz")
MODELS = "models"  # the folder beside the pages
CALLS = (1, 2, 4, 8, 16)
SHOWN = 9  # pictures, three by three, as the page shows them
SCALE = 4  # pixels of the picture for one of what is drawn: few browsers' own enlargements are sharp


@dataclass(frozen=True)
class Live:
    """A space whose model can be loaded in a page.

    Attributes:
        space: of the model.
        about: what the page has to know, see :func:`described`.
    """

    space: Space
    about: dict[str, Any]


def export_all(folder: Path) -> list[Live]:
    """Write the files of every space with a released generator into a folder, and describe them."""
    return [export_space(space, folder) for space in SPACES.values() if space.model in RELEASED]


def export_space(space: Space, folder: Path) -> Live:
    """Write the generator, the decoder and the picture of a space."""
    (net, _), autoencoder = released(space.model), space.load()
    export(net, folder / f"{space.name}.generator.onnx", space.shape, half=True)
    export_decoder(autoencoder, folder / f"{space.name}.decoder.onnx", half=True)
    draw_picture(net, autoencoder, space, folder / f"{space.name}.png")
    return Live(space, described(net, autoencoder, space, folder))


def described(net: nn.Module, autoencoder: SmallAutoencoder, space: Space, folder: Path) -> dict[str, Any]:
    """What the page has to know of a model: its files and their bytes, its shapes, the steps that it can make."""
    names = {part: f"{space.name}.{part}.onnx" for part in ("generator", "decoder")}
    files = [*(STATIC / name for name in RUNTIME), *(folder / name for name in names.values())]
    grid = grid_of(net) or (StepGrid() if step_lengths_of(net) == "dyadic" else None)
    return {
        **{part: f"{MODELS}/{name}" for part, name in names.items()},
        "runtime": f"_static/{RUNTIME[1]}",
        "bytes": sum(path.stat().st_size for path in files),
        "shape": space.shape,
        "picture": autoencoder.shape[:2],
        "n": grid.n if grid else None,
        "calls": [nfe for nfe in CALLS if can_make(net, nfe)],
    }


def can_make(net: nn.Module, nfe: int) -> bool:
    """Whether a network was trained on so many equal steps."""
    try:
        return bool(check_nfe(net, nfe))
    except ValueError:
        return False


def shown_classes(space: Space) -> list[int]:
    """The classes in the picture, spread over all."""
    return [k * space.num_classes // SHOWN for k in range(SHOWN)]


def draw_picture(net: nn.Module, autoencoder: SmallAutoencoder, space: Space, path: Path) -> None:
    """Draw some classes in one step, as the page draws them once the model is there."""
    y = torch.tensor(shown_classes(space))
    x0 = torch.randn(len(y), *space.shape, generator=stream(0, "picture", space.name))
    table = tile(autoencoder.decode(sample(net, x0, y, w=1.0, nfe=1)), 3)
    picture = Image.fromarray((255 * table).round().astype("uint8"))
    picture.resize((SCALE * picture.width, SCALE * picture.height), Image.Resampling.NEAREST).save(path, optimize=True)


def elements(models: list[Live]) -> Iterator[str]:
    """The models of a page one after the other, as Markdown; one alone without a heading."""
    for model in models:
        if len(models) > 1:
            yield from [f"## {model.space.name.capitalize()}", ""]
        yield from ["```{raw} html", *element(model), "```", ""]
    if models:
        yield from ["```{raw} html", '<script src="_static/live/start.js" defer></script>', "```"]


def element(model: Live) -> Iterator[str]:
    """A picture, a button and the controls, which are hidden until the model is there."""
    space, about = model.space, model.about
    classes = ", ".join(escape(space.classes[k]) for k in shown_classes(space))
    size = f"{about['bytes'] / 1e6:.1f} MB"
    yield f'<div class="live" id="live-{space.name}" role="group" aria-label="{space.name.capitalize()}, drawn here">'
    yield f'<script type="application/json" class="live-about">{json.dumps(about)}</script>'
    yield '<div class="live-picture">'
    yield f'<img src="{MODELS}/{space.name}.png" alt="{space.name.capitalize()} drawn in one step: {classes}">'
    yield '<canvas role="img" aria-label="Nothing is drawn yet" hidden></canvas>'
    yield "</div>"
    yield '<div class="live-panel">'
    yield '<p class="live-hint">The released model runs in this page, on your machine.</p>'
    yield f'<button type="button" class="live-load" hidden>Load the model, {size}</button>'
    yield f"<noscript><p>The model, {size}, needs JavaScript.</p></noscript>"
    yield '<progress hidden aria-label="Loading the model"></progress>'
    yield from controls(space, about["calls"])
    yield '<p role="status" aria-live="polite"></p>'
    yield "</div>"
    yield "</div>"


def controls(space: Space, calls: list[int]) -> Iterator[str]:
    """The form; every control has a label, and those of two models on one page have different ones."""
    names = [*space.classes, "any class"]  # the label after the last is null
    labels = "".join(f'<option value="{k}">{escape(name)}</option>' for k, name in enumerate(names))
    numbers = "".join(f"<option>{nfe}</option>" for nfe in calls)
    place = f"live-{space.name}"
    yield "<form hidden>"
    yield f'<label for="{place}-label">Class</label>'
    yield f'<select id="{place}-label" name="label">{labels}</select>'
    yield f'<label for="{place}-w">Guidance w <output name="wShown" for="{place}-w"></output></label>'
    yield f'<input id="{place}-w" name="w" type="range" min="0" max="3.5" step="0.05" value="1" autocomplete="off">'
    yield f'<label for="{place}-nfe">Calls of the network</label>'
    yield f'<select id="{place}-nfe" name="nfe" autocomplete="off">{numbers}</select>'
    yield f'<label for="{place}-seed">Seed of the noise</label>'
    yield '<span class="live-seed">'
    yield f'<input id="{place}-seed" name="seed" type="number" min="0" max="999999" value="0"'
    yield ' autocomplete="off"><button type="button" name="next">Next seed</button></span>'
    yield f'<label for="{place}-walk">Walk to the next seed'
    yield f'<output name="walkShown" for="{place}-walk"></output></label>'
    yield f'<input id="{place}-walk" name="walk" type="range" min="0" max="1" step="0.01" value="0" autocomplete="off">'
    yield "</form>"
