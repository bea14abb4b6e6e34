"""Figures on dark pages: white paper becomes the ground, ink becomes light and keeps its hue, pictures stay."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image

from book import figures
from ismkit.lessons.plot import PALETTE


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def turned(pixels: np.ndarray, *pictures: list[float]) -> np.ndarray:
    with Image.open(io.BytesIO(figures.dark(png(pixels), pictures))) as image:
        return np.array(image.convert("RGB"))


def luminance(colour: np.ndarray) -> float:
    """Relative luminance of WCAG 2."""
    c = np.asarray(colour) / 255
    return float(np.where(c <= 0.03928, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


def test_paper_becomes_the_ground_and_black_ink_white() -> None:
    pixels = np.full((4, 6, 3), 255)
    pixels[0] = 0
    dark = turned(pixels)
    assert (dark[1:] == figures.GROUND).all()
    assert (dark[0] == 255).all()


@pytest.mark.parametrize("colour", PALETTE)
def test_ink_keeps_its_hue_and_stands_out(colour: str) -> None:
    ink = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
    pixels = np.full((4, 4, 3), 255)
    pixels[:2] = ink
    dark = turned(pixels)[0, 0]
    contrast = (luminance(dark) + 0.05) / (luminance(np.array(figures.GROUND)) + 0.05)
    assert contrast > 3  # what WCAG 2 asks of graphics
    if colour != "#000000":
        before, after = (colorsys.rgb_to_hls(*(c / 255))[0] for c in (ink, dark))
        assert abs((before - after + 0.5) % 1 - 0.5) < 0.1


def test_pictures_stay_as_they_are() -> None:
    pixels = np.full((10, 20, 3), 255)
    picture = pixels[2:8, 5:15] = np.random.default_rng(0).integers(256, size=(6, 10, 3))
    dark = turned(pixels, [0.25, 0.2, 0.75, 0.8])
    assert (dark[2:8, 5:15] == picture).all()
    assert (dark[:2] == figures.GROUND).all()
    assert (dark[:, 15:] == figures.GROUND).all()


def test_a_figure_without_colours_is_stored_in_grey_and_one_with_a_tint_is_not() -> None:
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    tinted = grey.copy()
    tinted.putpixel((3, 3), (50, 50, 52))
    for image, mode in ((grey, "L"), (tinted, "RGB")):
        with Image.open(io.BytesIO(figures.saved(image))) as again:
            assert again.mode == mode
            assert again.convert("RGB").tobytes() == image.tobytes()
