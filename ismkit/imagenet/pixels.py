"""From image files to the pixels that a VAE encodes."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

#: Of the names of image files.
ENDINGS = (".jpeg", ".jpg", ".png", ".webp", ".bmp")


class Item(NamedTuple):
    """An image as stored, not decoded: its name in the source, its class, the bytes of its file."""

    name: str
    label: int
    data: bytes


def center_crop(data: bytes, side: int) -> np.ndarray:
    """Decode an image file and cut out the centre: the crop of ADM (arXiv 2105.05233).

    The image is halved, by averaging blocks of 2 x 2, as long as its shorter edge stays at least ``side``; resized with
    a bicubic filter, which gives the shorter edge ``side`` pixels; and cut in the middle. As there, an orientation that
    a camera noted is ignored.

    Args:
        data: the bytes of the file, in any format that Pillow reads.
        side: of the crop in pixels.

    Returns:
        The crop in RGB, (3, side, side) uint8.

    Raises:
        Exception: whatever Pillow raises for data that it cannot decode.

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

    with Image.open(io.BytesIO(data)) as file:
        image = file.convert("RGB")
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side].transpose(2, 0, 1))


def decoded(
    items: Iterator[Item], side: int, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[Item, np.ndarray | Exception]]:
    """Items in order, each with its pixels (3, side, side) uint8, or what decoding raised; ``ahead`` of them
    are decoded in advance by the threads of ``pool``.
    """
    import PIL.Image  # noqa: F401  (missing, it would make every image a corrupt one)

    def pixels(item: Item) -> np.ndarray | Exception:
        try:
            return center_crop(item.data, side)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's formats raise many kinds
            return error

    queue: deque[tuple[Item, Future[np.ndarray | Exception]]] = deque()
    for item in items:
        queue.append((item, pool.submit(pixels, item)))
        if len(queue) > ahead:
            first, future = queue.popleft()
            yield first, future.result()
    for first, future in queue:
        yield first, future.result()
