"""Live models: the released networks as files that a page draws with, and the elements of the pages.

A :class:`View` says what an element shows: one field of pictures, or a table of fields whose rows and columns differ in
what is asked of the network. The generators and decoders are exported to ONNX files, each once, and the kit draws a
picture of every field for readers who do not load them. ``_static/live`` brings the elements to life.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ismkit.data.pictures import tile
from ismkit.method.path import Source, StepGrid, grid_of, step_lengths_of
from ismkit.method.sampling import check_nfe, sample
from ismkit.models.autoencoder import SmallAutoencoder
from ismkit.models.exporting import export, export_decoder
from ismkit.models.saved import released
from ismkit.models.spaces import SPACES, Space
from ismkit.sweeps.studies import FOLDER
from ismkit.sweeps.sweep import read_table
from ismkit.utils.seeding import stream

STATIC = Path(__file__).resolve().parent / "_static"
RUNTIME = ("onnxruntime-web/ort.wasm.bundle.min.js", "onnxruntime-web/ort-wasm-simd-threaded.wasm.gz")
MODELS = "models"  # the folder beside the pages
#: The folder of the scripts there, of another name whenever one of them changed: a browser that has read an older book
#: must not run one of each.
_SUM = hashlib.sha256(b"".join(path.read_bytes() for path in sorted((STATIC / "live").glob("*.js"))))
SCRIPTS = f"_static/live-{_SUM.hexdigest()[:12]}"
CALLS = (1, 2, 4, 8, 16)
SCALE = 3  # pixels of a picture for one of what is drawn: few browsers' own enlargements are sharp
START = {"label": 0, "w": 1.0, "nfe": 1}  # what is drawn first
CONTROLS = ("label", "w", "nfe", "seed", "walk")


@dataclass(frozen=True)
class View:
    """What an element shows.

    A field is what it sets: ``network``, ``label``, ``w`` or ``nfe``, for which the controls are not asked; with
    ``renoise`` each step jumps to the data, and fresh noise leads back. ``from`` is the number of the field that its
    pictures are measured from.

    Attributes:
        space: of what is drawn.
        networks: keys of :data:`ismkit.models.saved.RELEASED`; the first draws where a field names none.
        columns: their heads, none for a single column.
        rows: their names, none for a single row, and the fields of each.
        pictures: in a field, ``across`` of them side by side.
        controls: of :data:`CONTROLS`.
        calls: that the control offers.
        start: what differs from :data:`START` at first; ``label`` may be a list, one for each picture.
        pictured: labels in the picture for readers who do not load the model, if not those at first.
        measure: the name of what is measured on the fields, in ``_static/live/measure.js``.
        legend: what the numbers below the fields are.
    """

    space: Space
    networks: tuple[str, ...]
    rows: tuple[tuple[str, tuple[dict[str, Any], ...]], ...] = (("", ({},)),)
    columns: tuple[str, ...] = ()
    pictures: int = 9
    across: int = 3
    controls: tuple[str, ...] = CONTROLS
    calls: tuple[int, ...] = CALLS
    start: dict[str, Any] = field(default_factory=dict)
    pictured: tuple[int, ...] = ()
    measure: str = ""
    legend: str = ""

    @property
    def fields(self) -> list[dict[str, Any]]:
        """Row by row, what each field sets."""
        return [one for _, fields in self.rows for one in fields]


@dataclass(frozen=True)
class Live:
    """An element whose model can be loaded in a page.

    Attributes:
        name: of the view.
        view: what it shows.
        about: what the page has to know, see :func:`described`.
    """

    name: str
    view: View
    about: dict[str, Any]


def label_of(space: Space, *names: str) -> list[int]:
    """The labels of some classes."""
    return [space.classes.index(name) for name in names]


def calls_of(nfe: int) -> str:
    """The number of calls as text."""
    return f"{nfe} call" + "s" * (nfe > 1)


def plain(space: Space) -> View:
    """One field that follows every control; pictured with classes that are spread over all."""
    return View(space, (space.model,), pictured=tuple(k * space.num_classes // 9 for k in range(9)))


def at_calls(sets: dict[str, Any], calls: tuple[int, ...], first: int) -> tuple[dict[str, Any], ...]:
    """Fields from the number ``first`` on, of several numbers of calls; all are measured from the last of them."""
    *some, last = ({**sets, "nfe": nfe} for nfe in calls)
    return (*({**one, "from": first + len(some)} for one in some), last)


def views() -> dict[str, View]:
    """Every view by its name: the plain ones by that of their space, the others by what they show."""
    clothes, emoji = SPACES["clothes"], SPACES["emoji"]
    strengths, calls = (0.0, 1.0, 2.0, 3.5), (1, 4, 16)
    several = ("face-smiling", "cat-face", "heart", "animal-bird", "plant-flower", "food-fruit", "flag", "clothing")
    shortcut = {"network": "shortcut_finest_level", "w": 0.0}  # trained at w = 0 alone
    recipes, spread = (shortcut, {"network": "ism_plus"}), (1, 4, 128)
    return {
        "clothes": plain(clothes),
        "emoji": plain(emoji),
        "strengths": View(
            emoji,
            (emoji.model,),
            tuple((calls_of(nfe), tuple({"nfe": nfe, "w": w} for w in strengths)) for nfe in calls),
            tuple(f"w = {w:g}" for w in strengths),
            pictures=4,
            across=2,
            controls=("label", "seed", "walk"),
            start={"label": label_of(emoji, "animal-bird")[0]},
            measure="deviation",
            legend="standard deviation of the latents (the data's is 1)",
        ),
        "dial": View(
            emoji,
            (emoji.model,),
            (
                ("no class", ({"label": emoji.num_classes, "w": 0.0},)),
                ("w = 0", ({"w": 0.0},)),
                ("your w", ({},)),
            ),
            pictures=len(several),
            across=len(several),
            controls=("w", "nfe", "seed", "walk"),
            calls=(1, 4, 16),
            start={"label": label_of(emoji, *several)},
            measure="strength",
            legend="strength found in the samples",
        ),
        "ladder": View(
            clothes,
            tuple(of["network"] for of in recipes[::-1]),
            tuple((of["network"], at_calls(of, spread, 3 * k)) for k, of in enumerate(recipes)),
            tuple(calls_of(nfe) for nfe in spread),
            pictures=4,
            across=2,
            controls=("label", "w", "seed", "walk"),
            start={"label": label_of(clothes, "Sandal")[0]},
            measure="apart",
            legend=f"distance from the pictures in {calls_of(spread[-1])}, in percent of black to white",
        ),
        "walk": View(
            emoji,
            (emoji.model,),
            (("", ({"nfe": 1}, {"from": 0}, {"from": 0, "renoise": True})),),
            ("one call", "steps", "jumps"),
            calls=CALLS[1:4],
            start={"nfe": 4, "label": label_of(emoji, "face-smiling")[0]},
            measure="apart",
            legend="distance from the pictures in one call, in percent of black to white",
        ),
    }


def export_all(folder: Path) -> list[Live]:
    """Write the files of every view into a folder, each network and decoder once, and describe the views."""
    chosen = views()
    spaces = {name: view.space for view in chosen.values() for name in view.networks}
    nets = {name: released(name)[0] for name in spaces}
    autoencoders = {space.name: space.load() for space in spaces.values()}
    for name, net in nets.items():
        export(net, folder / f"{name}.generator.onnx", spaces[name].shape, half=True)
    for name, autoencoder in autoencoders.items():
        export_decoder(autoencoder, folder / f"{name}.decoder.onnx", half=True)
    models = []
    for name, view in chosen.items():
        autoencoder = autoencoders[view.space.name]
        draw_fields(nets, autoencoder, name, view, folder)
        models.append(Live(name, view, described(nets[view.networks[0]], autoencoder, view, folder)))
    return models


def described(net: nn.Module, autoencoder: SmallAutoencoder, view: View, folder: Path) -> dict[str, Any]:
    """What the page has to know of a view: its files and their bytes, its shapes, its fields, the steps it can make."""
    generators = {name: f"{name}.generator.onnx" for name in view.networks}
    decoder = f"{view.space.name}.decoder.onnx"
    files = [*(STATIC / name for name in RUNTIME), *(folder / name for name in (*generators.values(), decoder))]
    grid = grid_of(net) or (StepGrid() if step_lengths_of(net) == "dyadic" else None)
    return {
        "generators": {name: f"{MODELS}/{file}" for name, file in generators.items()},
        "decoder": f"{MODELS}/{decoder}",
        "runtime": f"_static/{RUNTIME[1]}",
        "bytes": sum(path.stat().st_size for path in files),
        "script": (STATIC / RUNTIME[0]).stat().st_size,  # of these, what is imported and not fetched
        "shape": view.space.shape,
        "picture": autoencoder.shape[:2],
        "n": grid.n if grid else None,
        "calls": [nfe for nfe in view.calls if can_make(net, nfe)],
        "names": [*view.space.classes, "any class"],  # the label after the last is null
        "start": START | {"network": view.networks[0]} | view.start,
        "rows": [name for name, fields in view.rows for _ in fields],
        "fields": view.fields,
        "pictures": view.pictures,
        "across": view.across,
        "measure": view.measure,
        "legend": view.legend,
    }


def can_make(net: nn.Module, nfe: int) -> bool:
    """Whether a network was trained on so many equal steps."""
    try:
        return bool(check_nfe(net, nfe))
    except ValueError:
        return False


def halving(nfe: int) -> list[float]:
    """Times from noise to data, each half as far from the data as the one before: jumps of lengths of the grid."""
    return [0.0, *(1 - 2.0**-k for k in range(1, nfe)), 1.0]


def draw_field(
    nets: dict[str, nn.Module], view: View, sets: dict[str, Any], x0: Tensor, source: Source | None = None
) -> Tensor:
    """Latents of a field by the kit; what it does not set is as at first. ``source`` is of the noise between jumps."""
    asked = START | {"network": view.networks[0]} | view.start | sets
    y, net = torch.as_tensor(asked["label"]).expand(len(x0)), nets[asked["network"]]
    if not asked.get("renoise"):
        return sample(net, x0, y, w=asked["w"], nfe=asked["nfe"])
    fresh = {"generator": stream(0, "renoise", view.space.name), "source": source}
    return sample(net, x0, y, w=asked["w"], times=halving(asked["nfe"]), renoise=True, **fresh)


def draw_fields(nets: dict[str, nn.Module], autoencoder: SmallAutoencoder, name: str, view: View, folder: Path) -> None:
    """Write a picture of each field, for readers who do not load the model."""
    x0 = torch.randn(view.pictures, *view.space.shape, generator=stream(0, "picture", view.space.name))
    pictured = {"label": view.pictured} if view.pictured else {}
    for k, sets in enumerate(view.fields):
        table = tile(autoencoder.decode(draw_field(nets, view, pictured | sets, x0)), view.across)
        picture = Image.fromarray((255 * table).round().astype("uint8"))
        larger = picture.resize((SCALE * picture.width, SCALE * picture.height), Image.Resampling.NEAREST)
        larger.save(folder / f"{name}-{k}.png", optimize=True)


def filled(text: str, models: list[Live], home: str = "") -> str:
    """Put elements where comments such as ``<!-- live emoji -->`` are, with what starts them after the last.

    Args:
        text: of a page, Markdown.
        models: of the book.
        home: the way from the page to the start of the book, ``../`` or empty.
    """
    named = {model.name: model for model in models}
    comments = re.compile(r"^<!-- live (\w+) -->$", re.MULTILINE)
    made = comments.sub(lambda found: raw(element(named[found[1]], home)), text)
    start = f'<script src="{home}{SCRIPTS}/start.js" defer></script>'
    return made if made == text else f"{made.rstrip()}\n\n{raw([start])}\n"


def raw(lines: Iterator[str] | list[str]) -> str:
    """HTML as a block of Markdown."""
    return "\n".join(["```{raw} html", *lines, "```"])


def element(model: Live, home: str = "") -> Iterator[str]:
    """The fields, a button and the controls, which are hidden until the model is there."""
    view, about = model.view, model.about
    size = f"{about['bytes'] / 1e6:.1f} MB"
    title = f"{view.space.name.capitalize()}, drawn here"
    kind = "live" if len(view.fields) == 1 else "live wide"
    yield f'<div class="{kind}" id="live-{model.name}" role="group" aria-label="{title}">'
    known = json.dumps(about).replace("<", "\\u003c")  # a name such as </script> would end the element
    yield f'<script type="application/json" class="live-about">{known}</script>'
    yield '<div class="live-picture">'
    yield from picture(model, home)
    yield "</div>"
    yield '<div class="live-panel">'
    models = f"released model{'s' * (len(view.networks) > 1)}"
    hint = f"The {models} run{'s' * (len(view.networks) == 1)} in this page, on your machine."
    yield f'<p class="live-hint">{hint}</p>'
    yield f'<button type="button" class="live-load" hidden>Load the model, {size}</button>'
    yield f"<noscript><p>The model, {size}, needs JavaScript.</p></noscript>"
    yield '<progress hidden aria-label="Loading the model"></progress>'
    yield from controls(model)
    yield '<p role="status" aria-live="polite"></p>'
    yield "</div>"
    yield "</div>"


def picture(model: Live, home: str) -> Iterator[str]:
    """The field, or the table of the fields, with the name of each row and column."""
    view = model.view
    if len(view.fields) == 1:
        yield from shown_field(model, 0, home)
        return
    named = any(name for name, _ in view.rows)
    yield "<table>"
    if view.legend:
        yield f"<caption>Numbers below the pictures, once they are drawn here: {escape(view.legend)}.</caption>"
    if view.columns:
        yield f"<thead><tr>{'<td></td>' * named}"
        yield from (f'<th scope="col">{escape(head)}</th>' for head in view.columns)
        yield "</tr></thead>"
    yield "<tbody>"
    k = 0
    for name, fields in view.rows:
        yield "<tr>"
        if named:
            yield f'<th scope="row">{escape(name).replace("_", "_<wbr>")}</th>'
        for _ in fields:
            yield "<td>"
            yield from shown_field(model, k, home)
            yield "</td>"
            k += 1
        yield "</tr>"
    yield "</tbody></table>"


def shown_field(model: Live, k: int, home: str) -> Iterator[str]:
    """A picture by the kit, and the canvas that takes its place."""
    view, about = model.view, model.about
    labels = view.pictured or about["start"]["label"]
    labels = view.fields[k].get("label", labels)
    names = ", ".join(about["names"][label] for label in ([labels] if isinstance(labels, int) else labels))
    _, side = about["picture"]
    rows = view.pictures // view.across
    width, height = (count * (side + 1) - 1 for count in (view.across, rows))
    size = f'width="{width}" height="{height}"'
    text = escape(f"{view.pictures} drawings: {names}")
    yield f'<img src="{home}{MODELS}/{model.name}-{k}.png" {size} alt="{text}">'
    yield f'<canvas role="img" {size} aria-label="Nothing is drawn yet" hidden></canvas>'
    if view.measure:
        yield '<span class="live-number"></span>'


def controls(model: Live) -> Iterator[str]:
    """The form; every control has a label, and those of two models on one page have different ones."""
    about, place = model.about, f"live-{model.name}"
    start, classes = about["start"], dict(enumerate(about["names"]))
    calls = {nfe: str(nfe) for nfe in about["calls"]}
    made = {
        "label": lambda: choice(place, "label", "Class", classes, start["label"]),
        "w": lambda: slider(place, "w", "Guidance w", start["w"], 3.5, 0.05),
        "nfe": lambda: choice(place, "nfe", "Calls of the network", calls, start["nfe"]),
        "seed": lambda: seed(place),
        "walk": lambda: slider(place, "walk", "Walk to the next seed", 0, 1, 0.01),
    }
    yield "<form hidden>"
    for name in model.view.controls:
        yield "<div>"
        yield from made[name]()
        yield "</div>"
    yield "</form>"


def choice(place: str, name: str, title: str, options: dict[int, str], start: int) -> Iterator[str]:
    """A choice of one of several values."""
    made = (
        f'<option value="{value}"{" selected" * (value == start)}>{escape(text)}</option>'
        for value, text in options.items()
    )
    yield f'<label for="{place}-{name}">{title}</label>'
    yield f'<select id="{place}-{name}" name="{name}" autocomplete="off">{"".join(made)}</select>'


def slider(place: str, name: str, title: str, start: float, most: float, step: float) -> Iterator[str]:
    """A slider from 0, with its value beside its name."""
    shown = f'<output name="{name}Shown" for="{place}-{name}" aria-live="off"></output>'  # the slider says it itself
    yield f'<label for="{place}-{name}">{title} {shown}</label>'
    limits = f'min="0" max="{most:g}" step="{step:g}" value="{start:g}"'
    yield f'<input id="{place}-{name}" name="{name}" type="range" {limits} autocomplete="off">'


def seed(place: str) -> Iterator[str]:
    """A field for the seed, and a button for the next one."""
    yield f'<label for="{place}-seed">Seed of the noise</label>'
    yield '<span class="live-seed">'
    yield f'<input id="{place}-seed" name="seed" type="number" min="0" max="999999" value="0"'
    yield ' autocomplete="off"><button type="button" name="next">Next seed</button></span>'


def compounding() -> list[str]:
    """What notebook 03's networks draw, from its study: the standard deviation of the latents by calls."""
    study = read_table(FOLDER / "colour.parquet").set_index(["recipe", "nfe"]).latent_std
    numbers = ", ".join(f"{study['shortcut_every_level', nfe]:.2f} in {calls_of(nfe)}" for nfe in (1, 4, 128))
    how = "`colour.parquet`, one seed, 1000 samples of all classes"
    return [f"With the push at every level the deviation was {numbers} ({how})."]


def recorded() -> Iterator[str]:
    """What the files of the ladder's networks record: Fréchet distances at w = 1, or at the w they are drawn at."""
    ladder = views()["ladder"]
    fixed = {field["network"]: field["w"] for field in ladder.fields if "w" in field}
    for name in ladder.networks[::-1]:
        _, card = released(name)
        w = f"w = {fixed.get(name, 1.0):g}"
        scores = [card["scores"][f"{nfe} NFE, {w}"] for nfe in (1, 4, 128)]
        numbers = ", ".join(f"{score['frechet']:.2f}" for score in scores)
        yield f"- `{name}`: {numbers} in 1, 4 and 128 calls ({scores[0]['n']} samples, {w}, one training)."
