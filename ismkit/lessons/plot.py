"""The figures that the notebooks share: one look, colours that the colour-blind can tell apart, and alt text."""

from __future__ import annotations

import hashlib
import html
import io
import json
import math
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import cycle, product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from PIL import Image as Pictures
from PIL import ImageChops
from PIL.Image import Image as Picture
from torch import Tensor

from ismkit.data.pictures import tile
from ismkit.lessons.notebooks import COMMITTED
from ismkit.utils.checks import shown
from ismkit.utils.files import replacing

#: Okabe and Ito's palette, without its yellow (too pale on white).
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
#: Pixels: twice the width that the book gives a figure.
_WIDEST = 1600
#: A palette is too poor for a figure if more than this share of its pixels is off by more than so many of 255 levels.
_OFF_SHARE, _OFF_LEVELS = 0.05, 10
#: Bytes of a figure in full colour above which it is saved at its plain resolution.
_HEAVY = 250_000
#: Panels with more marks than this are pixels in a drawing: as SVG each mark takes about 100 bytes.
_MARKS = 250
#: Pixels for an inch of such a panel, and its colours: the files are committed.
_FINE, _COLOURS = 160, 64
#: Frames that `explore` stores: each is a picture in the notebook.
_MOST_FRAMES = 40


def use_style() -> None:
    """Set Matplotlib's look for all figures that follow: white panels, which read well on dark pages too."""
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": cycler(color=PALETTE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "font.size": 11,
        }
    )


def show(figure: Figure, alt: str) -> None:
    """Show a figure in a notebook with alt text, as PNG of twice the resolution, and close it.

    A figure of more than 800 pixels is saved 1600 pixels wide, or as wide as it is: the book has no room for more.

    The boxes of the pictures in the figure are saved with the alt text: left, top, right and bottom, as shares of the
    width and the height. On dark pages the book inverts the colours of a figure outside these boxes.

    Where ``$ISMKIT_REFRESH`` is set, as by :func:`ismkit.lessons.notebooks.refresh`, outputs are committed with their
    notebook: the picture keeps 256 colours, each within a few of 255 levels, which takes a quarter of the bytes, and
    some time. Where that would spoil it, as with colour photographs, it keeps all colours within two levels; above
    250 kB it is then saved at the figure's plain resolution. The output also has the figure as SVG, for the slides.
    Letters are outlines, which look alike without the fonts; pictures, and panels with many marks, are pixels in it.

    Args:
        figure: Matplotlib's.
        alt: what the figure shows, for readers who cannot see it.

    Raises:
        ValueError: if ``alt`` is empty.
    """
    from IPython.display import Image, display

    _check_alt(alt)
    data, pictures = _png(figure), {"pictures": _pictures(figure)}
    image = Image(data, format="png", alt=alt, width=round(figure.bbox.width), metadata=pictures)
    if not os.environ.get(COMMITTED):
        display(image)
        return
    bundle, about = image._repr_mimebundle_()
    display(
        bundle | {"image/svg+xml": _svg(figure).decode(), "text/plain": repr(image)},
        raw=True,
        metadata=about,
    )


def _check_alt(alt: str) -> None:
    if not alt.strip():
        raise ValueError("alt must say what the figure shows, got an empty text")


def _png(figure: Figure) -> bytes:
    """A figure as PNG, to be committed with as many colours as it needs; it is closed."""
    scale = min(2.0, max(1.0, _WIDEST / figure.bbox.width))
    if os.environ.get(COMMITTED):
        data, full = _compressed(_drawn(figure, scale))
        if full and len(data) > _HEAVY:
            data, _ = _compressed(_drawn(figure, 1.0))
    else:  # at once: under a slider a reader waits for it
        data = _saved(figure, scale).getvalue()
    plt.close(figure)
    return data


def _saved(figure: Figure, scale: float, **options: Any) -> io.BytesIO:
    """A figure as PNG, ``scale`` times its resolution; ``savefig`` draws twice. The options are Pillow's."""
    canvas, dpi, buffer = figure.canvas, figure.dpi, io.BytesIO()
    figure.dpi = scale * dpi
    try:
        FigureCanvasAgg(figure).print_png(buffer, pil_kwargs=options)
    finally:
        figure.dpi = dpi
        figure.set_canvas(canvas)
    return buffer


def _drawn(figure: Figure, scale: float) -> Picture:
    """The pixels of a figure, ``scale`` times its resolution."""
    return Pictures.open(_saved(figure, scale, compress_level=0)).convert("RGB")  # not compressed: it is read at once


def _svg(figure: Figure) -> bytes:
    """A figure as SVG, the same in every run: pictures have their own pixels, panels with many marks a few colours."""
    for axes in figure.axes:
        for image in axes.images:
            if image.get_interpolation() == "nearest":
                image.set_interpolation("none")
        if _marks(axes) > _MARKS:
            for part in (*axes.collections, *axes.lines, *axes.patches):
                if not isinstance(part, FancyArrowPatch):  # it cannot be pixels
                    part.set_rasterized(True)
    buffer = io.BytesIO()
    with plt.rc_context({"svg.fonttype": "path", "svg.hashsalt": "slides"}):
        figure.savefig(buffer, format="svg", dpi=_FINE, metadata={"Date": None, "Creator": None})
    return _PANEL.sub(_fewer_colours, buffer.getvalue())


#: The pixels of a panel: of a picture with its own pixels, which keeps its colours, the size comes before the place.
_PANEL = re.compile(rb"(?<=xlink:href=\"data:image/png;base64,)[^\"]+(?=\" id=\"\w+\" transform=\"scale)")


def _fewer_colours(found: re.Match[bytes]) -> bytes:
    buffer = io.BytesIO()
    panel = Pictures.open(io.BytesIO(b64decode(found[0]))).convert("RGBA")
    panel.quantize(_COLOURS, Pictures.Quantize.FASTOCTREE).save(buffer, "PNG", optimize=True)
    return b64encode(buffer.getvalue())


def _marks(axes: Axes) -> int:
    """About how many paths a panel has: dots, pieces of lines, cells."""
    dotted = [line for line in axes.lines if line.get_marker() not in ("None", None, "", " ")]
    dots = sum(np.asarray(line.get_xydata()).shape[0] for line in dotted)
    parts = sum(max(np.asarray(part.get_offsets()).shape[0], len(part.get_paths())) for part in axes.collections)
    return dots + parts + len(axes.lines) + len(axes.patches)


def _compressed(picture: Picture) -> tuple[bytes, bool]:
    """A picture as PNG in 256 colours or, where they are too few, in full colour; and whether it is in full colour."""
    kept = picture.quantize(256, Pictures.Quantize.MAXCOVERAGE, dither=Pictures.Dither.NONE)
    off = reduce(ImageChops.lighter, ImageChops.difference(picture, kept.convert("RGB")).split()).histogram()
    full = sum(off[_OFF_LEVELS + 1 :]) > _OFF_SHARE * sum(off)
    if full:  # multiples of 5 are within two levels, have black, white and greys, and halve the bytes
        kept = picture.point([5 * round(level / 5) for level in range(256)] * 3)
    buffer = io.BytesIO()
    kept.save(buffer, "PNG", optimize=True)
    return buffer.getvalue(), full


def animate(
    panels: Mapping[str, Tensor],
    alt: str,
    *,
    moments: Sequence[str] | None = None,
    labels: Sequence[int] | Tensor | None = None,
    marks: Tensor | None = None,
    trails: bool = False,
    reach: float = 2.4,
) -> None:
    """Show points of the plane that move, in a notebook or the book: played and scrubbed without a kernel or network.

    The output holds the points themselves and a small player in JavaScript: about 8 kB, and 5.3 bytes for a point in a
    frame. (Matplotlib's ``to_jshtml`` stores each frame as a picture, and fetches its buttons from the network.) A
    figure of the same points is shown wherever scripts do not run, as in a notebook that JupyterLab does not trust.

    Args:
        panels: by the title of each: points (frames, n, 2), at least two frames. Frames along paths are at equally
            spaced times from 0 to 1, with straight lines between them: panels may have different numbers of frames.
        alt: what the animation shows, for readers who cannot see it.
        moments: what each frame is called, where frames stand alone, such as steps of training: then no point is drawn
            between two of them, and every panel has these frames.
        labels: the colour of each point, (n,), in 0 .. 7.
        marks: places to mark in grey, (k, 2).
        trails: draw the path of each point behind it.
        reach: panels show the square from ``-reach`` to ``reach``.

    Raises:
        ValueError: if ``alt`` is empty, the points are not finite, or sizes do not fit together.

    Example:
        One step along a straight line, beside two steps around a corner:

        >>> import torch
        >>> from ismkit.lessons import plot
        >>> straight, bent = torch.tensor([[0.0, 0], [1, 1]]), torch.tensor([[0.0, 0], [1, 0], [1, 1]])
        >>> panels = {"1 step": straight[:, None], "2 steps": bent[:, None]}
        >>> plot.animate(panels, alt="A point goes to a corner, and another goes around", trails=True)
        A point goes to a corner, and another goes around
    """
    from IPython.display import display

    _check_alt(alt)
    points = {title: torch.as_tensor(frames).detach().cpu().float() for title, frames in panels.items()}
    _check_frames(points, moments)
    if trails and moments is not None:
        raise ValueError("trails must be False for frames that stand alone, got moments")
    if not 0 < reach < np.inf:
        raise ValueError(f"reach must be positive and finite, got {reach}")
    count = next(iter(points.values())).shape[1]
    kinds = torch.zeros(count) if labels is None else torch.as_tensor(labels).cpu()
    if kinds.shape != (count,) or not set(kinds.tolist()) <= set(range(len(_KINDS))):
        raise ValueError(f"labels must be ({count},) whole numbers in 0 .. {len(_KINDS) - 1}, got {shown(labels)}")
    places = torch.zeros(0, 2) if marks is None else torch.as_tensor(marks).cpu().float()
    if places.ndim != 2 or places.shape[1] != 2:
        raise ValueError(f"marks must be (k, 2), got {tuple(places.shape)}")

    chosen = kinds.long().tolist()
    unit = max(frames.abs().max().item() for frames in points.values()) / 32767 or 1.0  # of 16 bits
    given = {
        "panels": [
            {
                "title": title,
                "frames": len(frames),
                "points": b64encode((frames / unit).round().numpy().astype("<i2").tobytes()).decode(),
            }
            for title, frames in points.items()
        ],
        "alt": alt,
        "moments": None if moments is None else list(moments),
        "labels": chosen,
        "colours": _KINDS,
        "marks": [[round(value, 3) for value in place] for place in places.tolist()],
        "trails": trails,
        "reach": reach,
        "unit": unit,
        "count": count,
    }
    data = json.dumps(given, separators=(",", ":")).replace("<", "\\u003c")  # nothing in it ends the script
    name = hashlib.sha256(data.encode()).hexdigest()[:12]  # the same in every run: two displays of it are two players
    stills = _stills(points, moments, chosen, places, trails, reach)
    picture, width = b64encode(_png(stills)).decode(), round(stills.bbox.width)
    image = (
        f'<img alt="{html.escape(alt)}" width="{width}" style="max-width:100%" src="data:image/png;base64,{picture}">'
    )
    script = f"<script>({_PLAYER.read_text().split(chr(10), 1)[1].strip()})({json.dumps(name)}, {data});</script>"
    page = f'<div class="animation" data-animation="{name}">{image}</div>\n{script}'
    display(_Page(page, alt))


class _Page:
    """HTML for a notebook, and what is read if there is none."""

    def __init__(self, page: str, alt: str) -> None:
        self._page, self._alt = page, alt

    def __repr__(self) -> str:
        return self._alt

    def _repr_html_(self) -> str:
        return self._page


#: Colours of labels, and the player, which is a function of the name of its block and of the points.
_KINDS = [*PALETTE, "#8C8C8C"]
_PLAYER = Path(__file__).with_name("player.js")


def _check_frames(points: Mapping[str, Tensor], moments: Sequence[str] | None) -> None:
    """Refuse points that cannot be moved: the panels show the same points, in frames of their own or in ``moments``."""
    if not points:
        raise ValueError("panels must hold at least one panel, got none")
    count = next(iter(points.values())).shape[1:2]
    for title, frames in points.items():
        if frames.ndim != 3 or frames.shape[1:] != (*count, 2) or frames.shape[1] < 1 or len(frames) < 2:
            wanted = f"(frames, {count[0] if count else 'n'}, 2) with at least two frames"
            raise ValueError(f"panels must be points {wanted}, got {tuple(frames.shape)} in {title!r}")
        if not frames.isfinite().all():
            raise ValueError(f"panels must be finite, got {shown(frames)} in {title!r}")
        if moments is not None and len(frames) != len(moments):
            raise ValueError(f"moments must name the {len(frames)} frames of {title!r}, got {len(moments)} names")


def _stills(
    points: Mapping[str, Tensor],
    moments: Sequence[str] | None,
    labels: Sequence[int],
    marks: Tensor,
    trails: bool,
    reach: float,
) -> Figure:
    """The figure that replaces an animation: paths with their ends, or up to five frames of each panel in a row."""
    colours = [_KINDS[label] for label in labels]
    shares = [1.0] if trails else np.linspace(0, 1, 5 if moments is None else min(5, len(moments))).tolist()
    size = (len(points), len(shares)) if not trails else (1, len(points))
    figure, axes = plt.subplots(*size, figsize=(2.5 * size[1], 2.7 * size[0]), squeeze=False)
    for k, (title, frames) in enumerate(points.items()):
        for i, share in enumerate(shares):
            panel, frame = axes[0, k] if trails else axes[k, i], round(share * (len(frames) - 1))
            panel.scatter(*marks.T, s=120, color="0.9")
            if trails:
                for path, colour in zip(frames.transpose(0, 1), colours, strict=True):
                    panel.plot(*path.T, color=colour, lw=0.7, alpha=0.4)
            panel.scatter(*frames[frame].T, s=60 / len(labels) ** 0.4, color=colours, zorder=3)
            panel.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
            panel.grid(False)
            moment = f"t = {share:g}" if moments is None else moments[frame]
            panel.set_title(title if trails else f"{title}, {moment}" if i == 0 else moment, fontsize=10)
    return figure


def _pictures(figure: Figure) -> list[list[float]]:
    """The boxes of the panels that show images or maps of colour, and of their colour bars."""
    width, height = figure.bbox.width, figure.bbox.height
    boxes = []
    for axes in figure.axes:
        if axes.images or any(isinstance(part, QuadMesh) for part in axes.collections):
            box = axes.get_window_extent()
            shares = box.x0 / width, 1 - box.y1 / height, box.x1 / width, 1 - box.y0 / height
            boxes.append([round(min(max(float(share), 0.0), 1.0), 4) for share in shares])
    return boxes


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG, atomically, making its folder; returns the path, which must end in ``.png``."""
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"path must end in .png, got {path}")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=120)
    return path


def picture(images: Tensor, columns: int, title: str = "", inches: float = 0.6) -> Figure:
    """A figure of images (n, 1, H, W) in [-1, 1], ``columns`` per row, ``inches`` wide each; the title fits in."""
    sheet, rows = tile(images, columns), len(images) // columns
    width = max(inches * columns, 0.12 * len(title))
    figure, axes = plt.subplots(figsize=(width, inches * rows + 0.4 * bool(title)))
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    if title:
        axes.set_title(title)
    return figure


def grid(
    panels: Sequence[Sequence[Tensor]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    *,
    across: int = 5,
) -> Figure:
    """A table of sheets: a labelled panel of images (n, C, H, W), ``across`` in a line, for each row and column."""
    if len(panels) != len(rows) or any(len(line) != len(columns) for line in panels):
        shape = [len(line) for line in panels]
        raise ValueError(f"panels must be {len(rows)} rows of {len(columns)}, as the labels are, got {shape}")
    sheets = [[tile(images, across) for images in line] for line in panels]
    heights = [0.725 * max(-(-len(images) // across) for images in line) for line in panels]
    figure, axes = plt.subplots(
        len(rows),
        len(columns),
        figsize=(0.68 * across * len(columns), sum(heights) + 0.6),
        height_ratios=heights,
        squeeze=False,
    )
    for i, line in enumerate(sheets):
        for j, sheet in enumerate(line):
            ax = axes[i, j]
            ax.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(False)
            ax.spines[:].set_visible(False)
            if i == 0:
                ax.set_title(columns[j], fontsize=11)
            if j == 0 and heights[i] < 1:  # along one line of images there is no room for words
                ax.set_ylabel(rows[i], fontsize=11, rotation=0, ha="right", va="center")
            elif j == 0:
                ax.set_ylabel(rows[i], fontsize=11)
    if title:
        figure.suptitle(title)
    return figure


def scatter(points: Tensor, y: Tensor, title: str = "") -> Figure:
    """A figure of points in the plane, (n, 2), coloured by their labels (n,), on axes of one scale."""
    if points.ndim != 2 or points.shape[1] != 2 or y.shape != points.shape[:1]:
        raise ValueError(f"points must be (n, 2) and y (n,), got {tuple(points.shape)} and {tuple(y.shape)}")
    labels = sorted({*y.tolist()})
    colours = PALETTE if len(labels) <= len(PALETTE) else plt.get_cmap("turbo")(np.linspace(0.05, 0.95, len(labels)))
    figure, axes = plt.subplots(figsize=(5.2, 4.8), layout="constrained")
    for label, colour in zip(labels, colours, strict=False):
        chosen = points[y == label].detach().cpu().numpy()
        axes.scatter(
            chosen[:, 0],
            chosen[:, 1],
            s=36 / len(points) ** 0.25,
            color=colour,
            linewidths=0,
            alpha=0.7,
            label=f"{label}",
        )
    axes.set_aspect("equal", adjustable="datalim")
    if 1 < len(labels) <= 20:
        axes.legend(title="class", loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=2, frameon=False)
    if title:
        axes.set_title(title)
    return figure


def losses(values: Sequence[float], smooth: int = 25, label: str = "loss") -> Figure:
    """Loss against the step: every value faintly, and its moving average over ``smooth`` steps."""
    if len(values) == 0 or smooth < 1:
        raise ValueError(f"values and smooth must be at least one each, got {len(values)} values and smooth = {smooth}")
    figure, axes = plt.subplots(figsize=(6.4, 3.0))
    axes.plot(np.arange(1, len(values) + 1), values, alpha=0.25, lw=0.8, color=PALETTE[0])
    width = min(smooth, len(values))
    average = np.convolve(values, np.ones(width) / width, mode="valid")
    axes.plot(np.arange(width, len(values) + 1), average, color=PALETTE[0], label=f"{label}, mean of {width} steps")
    axes.set(xlabel="step", ylabel=label)
    axes.legend()
    return figure


def scores(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, str]) -> Figure:
    """Scores against the guidance strength w, one panel for each metric and one line for each NFE.

    Args:
        rows: dicts with ``nfe``, ``w`` and the metrics, as :meth:`ismkit.evaluation.judges.SpaceJudge.table` gives
            them.
        metrics: the key of each metric to draw, and the label of its axis.
    """
    figure, panels = plt.subplots(1, len(metrics), figsize=(4.6 * len(metrics), 3.4), squeeze=False)
    for axes, (metric, label) in zip(panels[0], metrics.items(), strict=True):
        for nfe, marker in zip(sorted({row["nfe"] for row in rows}), cycle("osD^vPX*"), strict=False):
            points = sorted((row["w"], row[metric]) for row in rows if row["nfe"] == nfe)
            axes.plot(*zip(*points, strict=True), marker=marker, label=f"{nfe} NFE")
        axes.set(xlabel="guidance strength w", ylabel=label)
    panels[0][0].legend()
    return figure


def explore(draw: Callable[..., None], *, stored: Mapping[str, Sequence[Any]] | None = None, **controls: Any) -> None:
    """Show controls in a notebook above what ``draw`` shows for their values; moving one draws again.

    That needs a kernel. The book, which has none, shows the frames that are stored with the output, and lets its reader
    move through them. Each is a picture in the notebook, and all of their values together are drawn when the cell runs.

    Args:
        draw: called with the values, by name; it shows a figure or prints.
        stored: for some of the controls, by name, the values for which frames are stored, those of the other controls
            being what they are at first. The first value of each of these is among them. ``draw`` then shows one
            figure, by :func:`show`.
        controls: widgets of ipywidgets, by the name of the argument that each sets.

    Raises:
        ValueError: before anything is drawn, if ``stored`` names no control, has not the first value of one, or asks
            for more than 40 frames; and if ``draw`` shows another number of figures than one.

    Example:
        >>> from ipywidgets import IntSlider
        >>> explore(print_square, n=IntSlider(min=0, max=9))  # doctest: +SKIP
        >>> explore(plot_square, n=IntSlider(min=0, max=9), stored={"n": [0, 3, 9]})  # doctest: +SKIP
    """
    from IPython.display import display
    from ipywidgets import VBox, interactive_output

    about = {"frames": _frames(draw, stored, controls)} if stored else None
    display(VBox([*controls.values(), interactive_output(draw, controls)]), metadata=about)


def _frames(
    draw: Callable[..., None], stored: Mapping[str, Sequence[Any]], controls: Mapping[str, Any]
) -> dict[str, Any]:
    """The controls with the texts of their values, and a picture for each combination, the last control's next."""
    from IPython.utils.capture import capture_output

    for name, values in stored.items():
        if name not in controls:
            raise ValueError(f"stored must name controls ({', '.join(controls)}), got {name!r}")
        if controls[name].value not in values:
            raise ValueError(
                f"stored must have the first value of {name}, {controls[name].value!r}, got {shown(values)}"
            )
    if (count := math.prod(map(len, stored.values()))) > _MOST_FRAMES:
        raise ValueError(f"stored must give at most {_MOST_FRAMES} frames, got {count}")
    first = {name: control.value for name, control in controls.items()}
    frames = []
    for chosen in product(*stored.values()):
        with capture_output() as captured:
            draw(**(first | dict(zip(stored, chosen, strict=True))))
        pictures = [output for output in captured.outputs if "image/png" in output.data]
        if len(pictures) != 1:
            raise ValueError(f"draw must show one figure for each frame, got {len(pictures)} for {shown(chosen)}")
        data, about = pictures[0].data["image/png"], pictures[0].metadata["image/png"]
        frames.append({"png": (data if isinstance(data, str) else b64encode(data).decode()).strip(), "about": about})
    moved = [
        {
            "label": controls[name].description,
            "values": [_text(controls[name], value) for value in values],
            "first": list(values).index(controls[name].value),
        }
        for name, values in stored.items()
    ]
    return {"controls": moved, "frames": frames}


def _text(control: Any, value: Any) -> str:
    """What a control calls a value."""
    named = (option for option in getattr(control, "options", ()) if isinstance(option, tuple))
    return next(
        (text for text, meant in named if meant == value), f"{value:g}" if isinstance(value, float) else f"{value}"
    )
