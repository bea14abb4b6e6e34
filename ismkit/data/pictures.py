"""Images, grey or in colour, as one picture: an array to show, or a PNG file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from torch import Tensor

from ismkit.utils.checks import check_count, check_finite, shown
from ismkit.utils.files import replacing


def tile(images: Tensor, columns: int) -> np.ndarray:
    """Lay images out as one picture, with white gaps of one pixel.

    Args:
        images: (n, 1, H, W), or in colour (n, 3, H, W), in [-1, 1].
        columns: images in a row, a divisor of n.

    Returns:
        The picture in [0, 1], (H', W'), or in colour (H', W', 3).

    Raises:
        TypeError: if they are not floating point.
        ValueError: for other shapes, images that are not finite, or columns that do not divide n.

    Example:
        >>> import torch
        >>> from ismkit.data import tile
        >>> tile(torch.zeros(4, 1, 2, 2), columns=2).shape
        (5, 5)
    """
    check_finite("images", images)  # NaN would be drawn as a blank sheet
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.numel() == 0:
        raise ValueError(f"images must be (n, 1 or 3, H, W) with n, H and W >= 1, got {tuple(images.shape)}")
    check_count("columns", columns)
    if len(images) % columns:
        raise ValueError(f"columns must divide the {len(images)} images, got {columns}")
    n, channels, h, w = images.shape
    canvas = np.ones((n // columns, columns, h + 1, w + 1, channels))
    pixels = (images.detach().cpu().double().permute(0, 2, 3, 1).numpy() + 1) / 2
    canvas[:, :, :h, :w] = pixels.reshape(-1, columns, h, w, channels)
    sheet = canvas.transpose(0, 2, 1, 3, 4).reshape(n // columns * (h + 1), columns * (w + 1), channels)[:-1, :-1]
    return sheet[..., 0] if channels == 1 else sheet


def write_png(images: Tensor, path: str | os.PathLike[str], columns: int | None = None, scale: int = 3) -> Path:
    """Write images as one PNG picture, atomically, making its folder.

    Args:
        images: (n, 1, H, W), or in colour (n, 3, H, W), in [-1, 1]; values beyond are clamped.
        path: ends in ``.png``.
        columns: images in a row, a divisor of n; by default all.
        scale: side of a square of the picture that each pixel becomes.

    Returns:
        The path.

    Raises:
        TypeError: if images are not floating point.
        ValueError: before anything is written, if an argument is not as it should be, or images are not finite.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from ismkit import write_png
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_png(torch.zeros(4, 1, 28, 28), f"{folder}/grey.png", columns=2).name
        'grey.png'
    """
    from PIL import Image

    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a path, got {shown(path)}")
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"path must end in .png, got {path}")
    check_count("scale", scale)
    check_finite("images", images)  # a clamp would hide infinity
    sheet = tile(images.clamp(-1, 1), len(images) if columns is None else columns)
    pixels = (255 * sheet).round().astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
    with replacing(path) as file:
        Image.fromarray(pixels).save(file, "PNG")
    return path
