"""The shared figures: pixels where they belong, plotted numbers that are the data's, alt text, whole files."""

import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import RichOutput, capture_output
from ipywidgets import Dropdown, FloatSlider, IntSlider
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from PIL import Image
from skimage.color import rgb2lab
from skimage.data import astronaut
from torch import Tensor
from traitlets.config import Config

from ismkit.lessons import plot
from ismkit.lessons.notebooks import COMMITTED

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    with plt.rc_context():
        yield
    plt.close("all")


def images(n: int, height: int = 3, width: int = 4) -> Tensor:
    return 2 * torch.rand(n, 1, height, width, generator=torch.Generator().manual_seed(n)) - 1


def test_what_cannot_be_tiled_leaves_no_figure_behind() -> None:
    with pytest.raises(ValueError, match="columns must divide the 6 images, got 4"):
        plot.picture(images(6), 4)
    assert plt.get_fignums() == []


def test_picture_shows_the_tile_in_full_range() -> None:
    figure = plot.picture(images(6), 3, title="six")
    (axes,) = figure.axes
    (shown,) = axes.images
    np.testing.assert_array_equal(np.asarray(shown.get_array()), plot.tile(images(6), 3))
    assert shown.get_clim() == (0, 1)  # not stretched to the values that happen to be there
    assert shown.get_cmap().name == "gray"
    assert axes.get_title() == "six"
    assert not axes.axison


@pytest.mark.parametrize("title", ["", "1 NFE, w = 1", "T-shirt/top, 128 NFE, w = 3.25"])
@pytest.mark.parametrize("columns", [1, 10])
def test_title_is_not_cut_off(title: str, columns: int) -> None:
    figure = plot.picture(images(10, 28, 28), columns, title)
    figure.canvas.draw()
    (axes,) = figure.axes
    box, page = axes.title.get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 <= box.x1 <= page.x1 or not title
    assert page.y0 <= box.y0 <= box.y1 <= page.y1 or not title


def png(path: Path) -> np.ndarray:
    return plt.imread(BytesIO(path.read_bytes()), format="png")


def test_save_writes_a_whole_png_and_returns_its_path(tmp_path: Path) -> None:
    figure = plt.figure(figsize=(2, 1))
    target = tmp_path / "new" / "folder" / "figure.png"
    assert plot.save(figure, str(target)) == target
    assert png(target).shape == (120, 240, 4)
    assert list(target.parent.iterdir()) == [target]


def test_save_leaves_the_old_file_if_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "figure.png"
    plot.save(plt.figure(figsize=(1, 1)), target)
    before = target.read_bytes()

    def half(figure: Figure, file: BytesIO, **options: object) -> None:
        file.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="No space left"):
        plot.save(plt.figure(), target)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["figure.jpg", "figure", "figure.png.bak"])
def test_save_refuses_another_format(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"path must end in \.png, got .*{name}"):
        plot.save(plt.figure(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def shell() -> Iterator[None]:
    """IPython, without which ``display`` prints objects and keeps no metadata."""
    quiet = Config({"HistoryManager": {"enabled": False}, "InteractiveShell": {"history_load_length": 0}})
    InteractiveShell.instance(config=quiet)
    yield
    InteractiveShell.clear_instance()


def shown(figure: Figure, alt: str) -> tuple[bytes, dict[str, Any]]:
    """The PNG that a notebook gets of a figure, and what is said about it."""
    with capture_output() as captured:
        plot.show(figure, alt)
    (output,) = captured.outputs
    assert isinstance(output, RichOutput)
    data = output.data["image/png"]
    return data if isinstance(data, bytes) else b64decode(data), output.metadata["image/png"]


@pytest.mark.usefixtures("shell")
def test_show_displays_a_png_with_alt_text_and_closes_the_figure() -> None:
    figure = plt.figure(figsize=(2, 1), dpi=100)
    raw, about = shown(figure, 'a "white" <square> & nothing else')
    assert about["alt"] == 'a "white" <square> & nothing else'
    assert plt.imread(BytesIO(raw), format="png").shape[:2] == (200, 400)
    assert about["width"] == 200  # twice the pixels in the same place
    assert plt.get_fignums() == []


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize(("inches", "pixels"), [(8, 1600), (12, 1600), (20, 2000)])
def test_show_saves_no_pixels_that_a_page_has_no_room_for(inches: int, pixels: int) -> None:
    figure = plt.figure(figsize=(inches, 1), dpi=100)
    raw, about = shown(figure, "wide")
    assert plt.imread(BytesIO(raw)).shape[:2] == (pixels // inches, pixels)
    assert about["width"] == 100 * inches


@pytest.mark.usefixtures("shell")
def test_committed_figures_save_bytes_and_keep_the_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMITTED, "1")
    figure, axes = plt.subplots(1, 2, figsize=(6, 3), dpi=100)
    axes[0].imshow(np.linspace(0, 1, 4096).reshape(64, 64), cmap="cividis")
    for k, colour in enumerate(plot.PALETTE):
        axes[1].scatter(*np.random.default_rng(k).normal(size=(2, 50)), color=colour)
    whole = BytesIO()
    figure.savefig(whole, format="png", dpi=200)
    raw = shown(figure, "colours")[0]
    before, after = (plt.imread(BytesIO(png))[..., :3] for png in (whole.getvalue(), raw))
    assert np.abs(before - after).max() < 20 / 255
    assert (after[before.min(axis=2) == 1] == 1).all(), "white stays white"
    assert len(raw) < 0.4 * len(whole.getvalue())


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize(("inches", "scale"), [(2, 2), (4, 1)])
def test_committed_colour_photographs_are_in_full_colour(
    inches: int, scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 colours are too few for them; where all colours are heavy, the picture has fewer pixels instead."""
    monkeypatch.setenv(COMMITTED, "1")
    figure, axes = plt.subplots(figsize=(inches, inches), dpi=100)
    axes.imshow(astronaut())
    axes.set_axis_off()
    whole = BytesIO()
    figure.savefig(whole, format="png", dpi=scale * 100)
    raw = shown(figure, "an astronaut")[0]
    before, after = (255 * plt.imread(BytesIO(png))[..., :3] for png in (whole.getvalue(), raw))
    assert after.shape[:2] == (scale * inches * 100, scale * inches * 100)
    assert np.abs(before - after).max() < 2.5
    assert (after[before.min(axis=2) == 255] == 255).all(), "white stays white"
    assert len(raw) < 0.65 * len(whole.getvalue())


@pytest.mark.usefixtures("shell")
def test_figures_that_are_not_committed_keep_every_pixel() -> None:
    """They are shown at once: to choose 256 colours takes a second where there are many."""
    figure, axes = plt.subplots(figsize=(4, 4), dpi=100)
    axes.imshow(astronaut())
    whole = BytesIO()
    figure.savefig(whole, format="png", dpi=200)
    raw = shown(figure, "an astronaut")[0]
    before, after = (plt.imread(BytesIO(png)) for png in (whole.getvalue(), raw))
    assert np.array_equal(before, after)


def crowded() -> Figure:
    """A figure whose panels have to be moved for what is about them."""
    figure, axes = plt.subplots(2, 2, figsize=(6, 4), dpi=100, sharex="col", width_ratios=[1, 2], layout="constrained")
    rng = np.random.default_rng(0)
    figure.colorbar(axes[0, 0].imshow(rng.normal(size=(8, 8)), cmap="cividis"), ax=axes[0, 0], label="level")
    axes[0, 1].plot(1e6 + rng.normal(size=40), label="far from 0")
    axes[0, 1].legend()
    axes[0, 1].annotate("here", (3, 1e6), (20, 20), textcoords="offset points", arrowprops={"arrowstyle": "->"})
    axes[1, 0].set(aspect="equal", ylabel="a long name\nin two lines")
    axes[1, 1].tick_params(axis="x", rotation=40)
    axes[1, 1].bar(["one", "two hundred and two", "three"], [1, 2, 3])
    axes[1, 1].set_yscale("log")
    figure.suptitle("several")
    figure.legend(loc="outside right upper")
    return figure


@pytest.mark.usefixtures("shell")
def test_a_figure_that_is_drawn_once_is_the_one_that_is_saved() -> None:
    whole = BytesIO()
    (figure := crowded()).savefig(whole, format="png", dpi=200)
    plt.close(figure)
    raw, about = shown(figure := crowded(), "several")
    before, after = (plt.imread(BytesIO(png)) for png in (whole.getvalue(), raw))
    assert np.array_equal(before, after)
    assert (figure.dpi, about["width"], plt.get_fignums()) == (100, 600, [])


@pytest.mark.usefixtures("shell")
def test_a_drawing_for_slides_keeps_the_pixels_of_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(9, 12, 3), dtype=np.uint8)  # more colours than a panel keeps
    for slides in ("", "1"):
        monkeypatch.setenv(COMMITTED, slides)
        figure, axes = plt.subplots()
        axes.imshow(pixels, interpolation="nearest")
        with capture_output() as captured:
            plot.show(figure, alt="108 colours")
        data = captured.outputs[0].data
        assert set(data) == {"image/png", "text/plain"} | ({"image/svg+xml"} if slides else set())
    (stored,) = re.findall(r'base64,([^"]+)"', data["image/svg+xml"])
    with Image.open(BytesIO(b64decode(stored))) as image:
        found = np.asarray(image.convert("RGB"))
    assert any(np.array_equal(found, way) for way in (pixels, pixels[::-1]))  # the drawing may turn it upright


@pytest.mark.usefixtures("shell")
def test_show_says_where_a_figure_has_pictures() -> None:
    figure, panels = plt.subplots(1, 3, figsize=(9, 3))
    panels[0].imshow(np.zeros((8, 8)), cmap="gray", vmin=0, vmax=1)
    panels[0].set_axis_off()
    panels[1].plot([0, 1])
    panels[2].pcolormesh(np.zeros((2, 2)))
    raw, about = shown(figure, "black, a line, a map of colour")
    drawn, pictures = plt.imread(BytesIO(raw))[..., :3], about["pictures"]
    height, width = drawn.shape[:2]
    boxes = [np.round(np.array(box) * [width, height, width, height]).astype(int) for box in pictures]
    black, colour = (drawn[top:bottom, left:right] for left, top, right, bottom in boxes)
    assert (black[2:-2, 2:-2] == 0).all()
    assert np.ptp(colour[6:-6, 6:-6], axis=(0, 1)).max() == 0
    _, top, right, bottom = boxes[0]
    assert (drawn[top:bottom, right + 2 : right + 6] > 0.9).all(), "the box ends where the picture ends"


@pytest.mark.parametrize("alt", ["", "  \n"])
def test_show_refuses_a_figure_without_alt_text(alt: str) -> None:
    with pytest.raises(ValueError, match="alt must say what the figure shows"):
        plot.show(plt.figure(), alt)


def test_grid_puts_each_panel_at_its_labels() -> None:
    panels = [[images(10) + 0.01 * (3 * i + j) for j in range(3)] for i in range(2)]
    figure = plot.grid(panels, ["1 NFE", "4 NFE"], ["w = 0", "w = 1", "w = 2"], title="all")
    axes = np.array(figure.axes).reshape(2, 3)
    for i in range(2):
        for j in range(3):
            (shown,) = axes[i, j].images
            np.testing.assert_array_equal(np.asarray(shown.get_array()), plot.tile(panels[i][j], 5))
            assert shown.get_clim() == (0, 1)
    assert [ax.get_title() for ax in axes.flat] == ["w = 0", "w = 1", "w = 2", "", "", ""]
    assert [ax.get_ylabel() for ax in axes.flat] == ["1 NFE", "", "", "4 NFE", "", ""]
    assert figure.get_suptitle() == "all"


def test_lines_of_a_grid_have_their_labels_beside_them() -> None:
    """A word along a single line of pictures would lie on the words above and below."""
    figure = plot.grid([[images(6)], [images(12)]], ["one line", "two lines"], [""], across=6)
    beside, along = figure.axes
    assert [axes.yaxis.label.get_rotation() for axes in (beside, along)] == [0, 90]
    assert [axes.get_ylabel() for axes in (beside, along)] == ["one line", "two lines"]
    for axes, lines in ((beside, 1), (along, 2)):
        (shown,) = axes.images
        np.testing.assert_array_equal(np.asarray(shown.get_array()), plot.tile(images(6 * lines), 6))
    heights = [axes.get_gridspec().get_height_ratios() for axes in figure.axes]
    assert heights[0][1] == 2 * heights[0][0]


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (["a"], ["x", "y"], r"panels must be 1 rows of 2, as the labels are, got \[2, 2\]"),
        (["a", "b"], ["x"], "2 rows of 1"),
        (["a", "b"], ["x", "y", "z"], "2 rows of 3"),
    ],
)
def test_grid_refuses_labels_that_do_not_fit(rows: list[str], columns: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot.grid([[images(10)] * 2] * 2, rows, columns)
    assert plt.get_fignums() == []


@pytest.mark.parametrize(("n", "smooth", "width"), [(40, 25, 25), (40, 1, 1), (10, 25, 10), (1, 25, 1)])
def test_losses_are_plotted_with_their_moving_average(n: int, smooth: int, width: int) -> None:
    values = np.random.default_rng(0).random(n).tolist()
    (axes,) = plot.losses(values, smooth, label="error").axes
    every, average = axes.lines
    np.testing.assert_array_equal(every.get_xdata(), np.arange(1, n + 1))
    np.testing.assert_array_equal(every.get_ydata(), values)
    steps = range(width, n + 1)  # the first full window ends at step `width`
    np.testing.assert_array_equal(average.get_xdata(), list(steps))
    expected = [sum(values[step - width : step]) / width for step in steps]
    np.testing.assert_allclose(average.get_ydata(), expected, rtol=1e-12)
    assert axes.get_xlabel() == "step"
    assert average.get_label() == f"error, mean of {width} steps"


@pytest.mark.parametrize(("values", "smooth"), [([], 25), ([1.0], 0)])
def test_losses_refuse_nothing(values: list[float], smooth: int) -> None:
    with pytest.raises(ValueError, match=f"got {len(values)} values and smooth = {smooth}"):
        plot.losses(values, smooth)
    assert plt.get_fignums() == []


def test_style_draws_in_the_palette_on_white() -> None:
    plot.use_style()
    figure, axes = plt.subplots()
    for _ in plot.PALETTE:
        axes.plot([0, 1])
    assert [line.get_color() for line in axes.lines] == plot.PALETTE
    assert figure.get_facecolor() == to_rgba("white")


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
BLIND = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def nearest(colours: list[str], matrix: list[list[float]]) -> float:
    """Smallest distance in Lab (a just noticeable difference is about 2.3) between any two colours, or to white."""
    rgb = np.array([to_rgb(colour) for colour in [*colours, "white"]])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = (linear @ np.array(matrix).T).clip(0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)[None])[0]
    gaps = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return float(gaps[np.triu_indices(len(lab), 1)].min())


@pytest.mark.parametrize("kind", BLIND)
def test_palette_can_be_told_apart_by_the_colour_blind(kind: str) -> None:
    assert len(set(plot.PALETTE)) == len(plot.PALETTE) == 7
    assert nearest(plot.PALETTE, BLIND[kind]) > 10


def test_the_measure_of_colours_sees_a_bad_pair() -> None:
    assert nearest(["#008000", "#a05000"], BLIND["deuteranopia"]) < 10


def test_scores_draws_one_line_per_nfe_sorted_by_strength_in_each_panel():
    rows = [
        {"nfe": nfe, "w": w, "frechet": nfe + w, "agreement": nfe - w} for w in (2.0, 0.0, 1.0) for nfe in (4, 1)
    ] + [{"nfe": 128, "w": 1.0, "frechet": 7.0, "agreement": 8.0}]
    figure = plot.scores(rows, {"frechet": "Frechet distance", "agreement": "class agreement"})
    for axes, sign in zip(figure.axes, (1, -1), strict=True):
        one, four, many = axes.get_lines()
        assert [line.get_label() for line in (one, four, many)] == ["1 NFE", "4 NFE", "128 NFE"]
        for line, nfe in ((one, 1), (four, 4)):
            assert list(line.get_xdata()) == [0.0, 1.0, 2.0]
            assert list(line.get_ydata()) == [nfe, nfe + sign, nfe + 2 * sign]
        assert list(many.get_xdata()) == [1.0]


# ---------------------------------------------------------------- animations

STRAIGHT = torch.tensor([[[0.0, 0.0], [0.5, -1.0]], [[1.0, 1.0], [-1.5, 2.0]]])  # two points in two frames
BENT = torch.tensor([[[0.0, 0.0], [0.5, -1.0]], [[1.0, 0.0], [0.5, 2.0]], [[1.0, 1.0], [-1.5, 2.0]]])


def animated(**changes: Any) -> dict[str, str]:
    """What an animation displays, by its kind."""
    given = {"panels": {"straight": STRAIGHT, "bent": BENT}, "alt": "two points", "trails": True} | changes
    with capture_output() as captured:
        plot.animate(**given)
    (output,) = captured.outputs
    return output.data


def stored(page: str) -> dict[str, Any]:
    """The data that a page holds for its player."""
    (data,) = re.findall(r'\}\)\("[0-9a-f]{12}", (\{.*\})\);</script>$', page, re.DOTALL)
    return json.loads(data)


@pytest.mark.usefixtures("shell")
def test_animation_holds_the_points_and_a_picture_of_them() -> None:
    shown = animated(labels=[3, 0], marks=torch.tensor([[1.0, 1.0]]))
    assert shown["text/plain"] == "two points"
    data = stored(shown["text/html"])
    for panel, frames in zip(data["panels"], (STRAIGHT, BENT), strict=True):
        points = np.frombuffer(b64decode(panel["points"]), "<i2").reshape(panel["frames"], 2, 2) * data["unit"]
        np.testing.assert_allclose(points, frames, atol=1e-4)
    assert [panel["title"] for panel in data["panels"]] == ["straight", "bent"]
    assert (data["labels"], data["marks"]) == ([3, 0], [[1.0, 1.0]])
    image = re.search(r'<img alt="two points" [^>]*src="data:image/png;base64,([^"]+)">', shown["text/html"])
    assert image
    assert plt.imread(BytesIO(b64decode(image[1])), format="png").std() > 0.01
    assert plt.get_fignums() == []


@pytest.mark.usefixtures("shell")
def test_animation_is_the_same_in_every_run_and_asks_the_network_for_nothing() -> None:
    page = animated()["text/html"]
    assert page == animated()["text/html"]
    assert "://" not in page
    assert len(page) < 40_000
    other = animated(panels={"straight": STRAIGHT, "bent": BENT + 0.1})["text/html"]
    assert page.partition("data-animation=")[2][:14] != other.partition("data-animation=")[2][:14]


@pytest.mark.usefixtures("shell")
def test_no_text_ends_the_script_of_an_animation() -> None:
    page = animated(panels={"</script><b>": STRAIGHT}, alt='"></script> & more')["text/html"]
    assert page.count("</script>") == 1
    assert stored(page)["panels"][0]["title"] == "</script><b>"


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize(("moments", "trails", "panels"), [(None, True, 2), (None, False, 10), (["a", "b"], False, 4)])
def test_picture_of_an_animation_has_its_paths_or_its_frames(
    moments: list[str] | None, trails: bool, panels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    png = plot._png
    monkeypatch.setattr(plot, "_png", lambda figure: (figures.append(figure), png(figure))[1])
    frames = {"straight": STRAIGHT, "bent": BENT if moments is None else STRAIGHT}
    animated(panels=frames, moments=moments, trails=trails)
    axes = figures[0].axes
    assert len(axes) == panels
    last = axes[-1].collections[-1].get_offsets()
    np.testing.assert_allclose(last, STRAIGHT[-1])  # both end there


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"alt": " "}, "alt must say what the figure shows"),
        ({"panels": {}}, "panels must hold at least one panel"),
        ({"panels": {"a": STRAIGHT[:1]}}, r"panels must be points .* at least two frames, got \(1, 2, 2\) in 'a'"),
        ({"panels": {"a": STRAIGHT[0]}}, r"panels must be points .*, got \(2, 2\) in 'a'"),
        ({"panels": {"a": STRAIGHT, "b": BENT[:, :1]}}, r"panels must be points \(frames, 2, 2\) .* in 'b'"),
        ({"panels": {"a": STRAIGHT / 0}}, "panels must be finite"),
        ({"moments": ["now"], "trails": False}, "moments must name the 2 frames of 'straight', got 1 names"),
        ({"panels": {"a": STRAIGHT}, "moments": ["a", "b"]}, "trails must be False for frames that stand alone"),
        ({"labels": [0]}, r"labels must be \(2,\) whole numbers in 0 .. 7"),
        ({"labels": [0, 8]}, r"labels must be \(2,\) whole numbers in 0 .. 7"),
        ({"labels": [0, 0.5]}, r"labels must be \(2,\) whole numbers in 0 .. 7"),
        ({"marks": torch.zeros(2)}, r"marks must be \(k, 2\), got \(2,\)"),
        ({"reach": 0}, "reach must be positive and finite, got 0"),
    ],
)
def test_what_cannot_be_animated_is_refused_by_name(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        animated(**changes)


def lines(count: int) -> None:
    """A figure of so many lines."""
    figure, axes = plt.subplots(figsize=(2, 1))
    axes.plot(np.arange(2 * count).reshape(2, count))
    plot.show(figure, alt=f"lines: {count}")


def explored(draw: Callable[..., None], **given: Any) -> dict[str, Any]:
    """What the output of controls has besides them."""
    with capture_output() as captured:
        plot.explore(draw, **given)
    output = captured.outputs[-1]
    assert "application/vnd.jupyter.widget-view+json" in output.data
    return output.metadata


@pytest.mark.usefixtures("shell")
def test_explore_stores_a_frame_for_each_combination_of_values() -> None:
    seen = []

    def draw(count: int, colour: str, least: float) -> None:
        seen.append((count, colour, least))
        lines(count)

    stored = explored(
        draw,
        count=IntSlider(min=1, max=9, value=2, description="lines"),
        colour=Dropdown(options=[("red", "r"), ("blue", "b")], value="b", description="ink"),
        least=FloatSlider(value=0.5),
        stored={"colour": ["r", "b"], "count": [1, 2, 3]},
    )["frames"]
    assert seen[:6] == [(count, colour, 0.5) for colour in "rb" for count in (1, 2, 3)]
    assert stored["controls"] == [
        {"label": "ink", "values": ["red", "blue"], "first": 1},
        {"label": "lines", "values": ["1", "2", "3"], "first": 1},
    ]
    assert [frame["about"]["alt"] for frame in stored["frames"]] == [f"lines: {count}" for count in (1, 2, 3)] * 2
    assert {frame["about"]["width"] for frame in stored["frames"]} == {200}
    pictures = [plt.imread(BytesIO(b64decode(frame["png"]))) for frame in stored["frames"]]
    assert (pictures[1] == pictures[4]).all()
    assert (pictures[0] != pictures[1]).any()
    json.dumps(stored)  # as the notebook has it


@pytest.mark.usefixtures("shell")
def test_explore_stores_nothing_that_is_not_asked_for() -> None:
    assert "frames" not in explored(lines, count=IntSlider(min=1, max=9, value=2))


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize(
    ("stored", "complaint"),
    [
        ({"colour": ["r"]}, r"stored must name controls \(count\), got 'colour'"),
        ({"count": [1, 3]}, r"stored must have the first value of count, 2, got \[1, 3\]"),
        ({"count": range(1, 42)}, "stored must give at most 40 frames, got 41"),
        ({"count": [2, 0]}, r"draw must show one figure for each frame, got 0 for \(0,\)"),
    ],
)
def test_frames_that_cannot_be_stored_are_refused_by_name(stored: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        explored(lambda count: lines(count) if count else None, count=IntSlider(max=50, value=2), stored=stored)
    assert plt.get_fignums() == []
