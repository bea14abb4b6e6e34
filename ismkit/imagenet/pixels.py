"""From image files to the pixels that a VAE encodes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ismkit.data.decoding import PictureError, check_pixels, decode_picture
from ismkit.utils.checks import check_count

THREADS = min(8, os.cpu_count() or 1)  # that read or decode pictures, in each process


class Item(NamedTuple):
    """An image as stored, not decoded: its name in the source, its class, the bytes of its file.

    In place of the bytes stands the error that says why there are none: a link to nothing, say.
    """

    name: str
    label: int
    data: bytes | PictureError


def center_crop(data: bytes, side: int) -> np.ndarray:
    """Decode an image file and cut out the centre: the crop of ADM (arXiv 2105.05233).

    The image is halved, by averaging blocks of 2 x 2, as long as its shorter edge stays at least ``side``; resized with
    a bicubic filter, which gives the shorter edge ``side`` pixels; and cut in the middle. As there, an orientation that
    a camera noted is ignored. Depths, transparency and all else that formats differ in:
    :func:`ismkit.data.decoding.decode_picture`.

    Args:
        data: the bytes of the file.
        side: of the crop in pixels.

    Returns:
        The crop in RGB, (3, side, side) uint8.

    Raises:
        ValueError: if side is below 1.
        PictureError: if the data cannot be decoded, or the picture is so narrow that resized it would have more than
            ``MAX_PIXELS``.

    Example:
        A picture twice as wide as high, black on the left and white on the right, loses a quarter on each side:

        >>> import io
        >>> import numpy as np
        >>> from PIL import Image
        >>> from ismkit.imagenet import center_crop
        >>> wide = np.zeros((16, 32, 3), dtype=np.uint8)
        >>> wide[:, 16:] = 255
        >>> file = io.BytesIO()
        >>> Image.fromarray(wide).save(file, "PNG")
        >>> crop = center_crop(file.getvalue(), side=4)
        >>> crop.shape, crop[0, 0].tolist()
        ((3, 4, 4), [0, 0, 255, 255])
    """
    from PIL import Image

    side = check_count("side", side)
    image = decode_picture(data)
    shape = f"it has {image.width} x {image.height} pixels"
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    check_pixels(f"{shape}, and resized to a shorter edge of {side} it", *size)
    image = image.resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side].transpose(2, 0, 1))


def decoded(
    items: Iterator[Item], side: int, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[Item, np.ndarray | PictureError]]:
    """Items in order, each with its pixels (3, side, side) uint8, or why it has none; ``ahead`` of them are decoded in
    advance by the threads of ``pool``.
    """

    def pixels(item: Item) -> np.ndarray | PictureError:
        if isinstance(item.data, PictureError):
            return item.data
        try:
            return center_crop(item.data, side)
        except PictureError as error:
            return error

    queue: deque[tuple[Item, Future[np.ndarray | PictureError]]] = deque()
    for item in items:
        queue.append((item, pool.submit(pixels, item)))
        if len(queue) > ahead:
            first, future = queue.popleft()
            yield first, future.result()
    for first, future in queue:
        yield first, future.result()
