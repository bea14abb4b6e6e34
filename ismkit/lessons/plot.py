"""The figures that the notebooks share: one look, colours that the colour-blind can tell apart, and alt text."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from torch import Tensor

from ismkit.data.pictures import tile
from ismkit.utils.files import replacing

#: Okabe and Ito's palette, without its yellow (too pale on white).
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
#: Pixels: twice the width that the book gives a figure.
_WIDEST = 1600


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
    The picture keeps 256 colours, each within a few of 255 levels: a quarter of the bytes, in notebooks that are
    committed with their outputs. The boxes of the pictures in the figure are saved with the alt text: left, top, right
    and bottom, as shares of the width and the height. On dark pages the book turns the colours of a figure outside of
    these boxes.

    Args:
        figure: Matplotlib's.
        alt: what the figure shows, for those who cannot see it.

    Raises:
        ValueError: if ``alt`` is empty.
    """
    from IPython.display import Image, display
    from PIL import Image as Pictures

    if not alt.strip():
        raise ValueError("alt must say what the figure shows, got an empty text")
    drawn, buffer = io.BytesIO(), io.BytesIO()
    scale = min(2.0, max(1.0, _WIDEST / figure.bbox.width))
    figure.savefig(drawn, format="png", dpi=scale * figure.dpi)
    shown = {"alt": alt, "width": round(figure.bbox.width), "metadata": {"pictures": _pictures(figure)}}
    plt.close(figure)
    few = Pictures.open(drawn).convert("RGB").quantize(256, Pictures.Quantize.MAXCOVERAGE, dither=Pictures.Dither.NONE)
    few.save(buffer, "PNG", optimize=True)
    display(Image(buffer.getvalue(), format="png", **shown))


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


def explore(draw: Callable[..., None], **controls: Any) -> None:
    """Show controls in a notebook above what ``draw`` shows for their values; moving one draws again.

    Args:
        draw: called with the values, by name; it shows a figure or prints.
        controls: widgets of ipywidgets, by the name of the argument that each sets.

    Example:
        >>> from ipywidgets import IntSlider
        >>> explore(print_square, n=IntSlider(min=0, max=9))  # doctest: +SKIP
    """
    from IPython.display import display
    from ipywidgets import VBox, interactive_output

    display(VBox([*controls.values(), interactive_output(draw, controls)]))
