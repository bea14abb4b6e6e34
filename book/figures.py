"""Figures of the notebooks on dark pages: their colours are turned, the pictures in them unchanged.

:func:`ismkit.lessons.plot.show` saves the boxes of the pictures with each figure: clothes must not turn into negatives.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

#: What white paper becomes: the ground of the theme's dark pages.
GROUND = (0x12, 0x12, 0x12)
#: A turn of hue by half a circle that keeps grey, as the ``hue-rotate`` of CSS has it: with the lightness turned too,
#: a dark blue line becomes a light blue one, not an orange one.
_HALF_TURN = np.array([[-0.574, 1.430, 0.144], [0.426, 0.430, 0.144], [0.426, 1.430, -0.856]])


def dark(png: bytes, pictures: Sequence[Sequence[float]]) -> bytes:
    """The same figure for a dark page.

    Args:
        png: the figure, on white.
        pictures: boxes that keep their colours: left, top, right and bottom, as shares of the width and the height.

    Returns:
        The figure on :data:`GROUND`, a PNG of the same size.
    """
    with Image.open(io.BytesIO(png)) as image:
        light = image.convert("RGB")
    ground = np.array(GROUND)
    scale = (255 - ground) / 255
    # White to the ground, black to white: ground + scale (255 - turned).
    matrix = np.column_stack([-scale[:, None] * _HALF_TURN, ground + 255 * scale])
    turned = light.convert("RGB", tuple(matrix.ravel()))
    size = np.array([*light.size, *light.size])
    for box in pictures:
        left, top, right, bottom = np.round(np.array(box) * size).astype(int).tolist()
        turned.paste(light.crop((left, top, right, bottom)), (left, top))
    return saved(turned)


def saved(image: Image.Image) -> bytes:
    """A picture as a PNG file: in grey, which takes a third less, if it has no colours."""
    full, grey = image.convert("RGB"), image.convert("L")
    buffer = io.BytesIO()
    # In full colour: of 256 the pictures would get too few. Not optimised: 1 % smaller files take twice the time.
    (grey if grey.convert("RGB").tobytes() == full.tobytes() else full).save(buffer, "PNG")
    return buffer.getvalue()
