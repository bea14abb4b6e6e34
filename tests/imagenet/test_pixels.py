"""The centre crop against its formula written out in float64; decoding ahead keeps the order."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ismkit.data.decoding import PictureError
from ismkit.imagenet.pixels import Item, center_crop, decoded

Image = pytest.importorskip("PIL.Image")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blocks of colour with edges, (H, W, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, size=(height // 3 + 1, width // 3 + 1, 3), dtype=np.uint8)
    return coarse.repeat(3, 0).repeat(3, 1)[:height, :width]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def box(x: np.ndarray) -> np.ndarray:
    return ((x > -0.5) & (x <= 0.5)).astype(float)


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel, a = -1/2."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def resampled(image: np.ndarray, height: int, width: int, kernel: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Convolution with a kernel as wide as the larger of the two grids' cells, axis by axis, in whole levels."""
    for axis, size in ((1, width), (0, height)):
        old = image.shape[axis]
        centres = (np.arange(size) + 0.5) * old / size
        weights = kernel((np.arange(old) + 0.5 - centres[:, None]) / max(old / size, 1))
        weights /= weights.sum(1, keepdims=True)
        image = np.moveaxis(np.tensordot(weights, image, axes=(1, axis)), 0, axis)
        image = np.clip(np.floor(image + 0.5), 0, 255)  # halves go up
    return image


def adm(image: np.ndarray, side: int) -> np.ndarray:
    """The crop by the formula: halve by boxes, resize by the cubic kernel, cut the middle; (side, side, 3)."""
    image = image.astype(float)
    while min(image.shape[:2]) // side >= 2:
        image = resampled(image, image.shape[0] // 2, image.shape[1] // 2, box)
    short = min(image.shape[:2])
    height, width = (round(edge * side / short) for edge in image.shape[:2])
    image = resampled(image, height, width, cubic)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


@pytest.mark.parametrize(
    ("height", "width"), [(48, 48), (80, 62), (52, 140), (24, 24), (20, 31), (16, 16), (34, 32), (200, 68)]
)
def test_crop_is_the_formula(height: int, width: int) -> None:
    image = picture(height, width)
    mine = center_crop(png(image), 16)
    assert mine.shape == (3, 16, 16)
    assert mine.dtype == np.uint8
    error = np.abs(mine.transpose(1, 2, 0).astype(float) - adm(image, 16))
    # Whole levels after every pass: which axis comes first, which Pillow chooses, moves some of them by one.
    assert error.max() <= 2
    assert error.mean() < 0.5


def test_crop_of_its_own_size_is_the_image() -> None:
    image = picture(32, 32)
    np.testing.assert_array_equal(center_crop(png(image), 32), image.transpose(2, 0, 1))


def test_grey_and_transparent_files_become_rgb() -> None:
    grey = picture(16, 16)[:, :, 0]
    np.testing.assert_array_equal(center_crop(png(grey), 16), np.stack([grey] * 3))
    rgb = picture(16, 16)
    for alpha, wanted in ((255, rgb), (0, np.full_like(rgb, 255))):  # what is transparent lies on white
        with_alpha = np.concatenate([rgb, np.full((16, 16, 1), alpha, np.uint8)], axis=2)
        np.testing.assert_array_equal(center_crop(png(with_alpha), 16), wanted.transpose(2, 0, 1))


def test_plain_pictures_are_cropped_as_before() -> None:
    """Bit by bit what Pillow makes of them by ADM's lines: latents and references stay as they are."""
    for size in ((40, 40), (75, 50), (133, 64)):
        for kind in ("JPEG", "PNG", "BMP"):
            file = io.BytesIO()
            Image.fromarray(picture(*size)).save(file, kind)
            image = Image.open(file).convert("RGB")
            while min(image.size) >= 2 * 16:
                image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
            scale = 16 / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
            left, top = (image.width - 16) // 2, (image.height - 16) // 2
            wanted = np.asarray(image.crop((left, top, left + 16, top + 16))).transpose(2, 0, 1)
            np.testing.assert_array_equal(center_crop(file.getvalue(), 16), wanted)


def test_a_picture_too_narrow_to_resize_is_refused_and_a_side_below_one() -> None:
    narrow = png(np.zeros((5000, 1), np.uint8))
    with pytest.raises(
        PictureError, match="1 x 5000 pixels, and resized to a shorter edge of 256 it has 256 x 1280000"
    ):
        center_crop(narrow, 256)
    assert center_crop(narrow, 8).shape == (3, 8, 8)
    with pytest.raises(ValueError, match="side must be an integer of at least 1, got 0"):
        center_crop(narrow, 0)


def test_decoding_ahead_keeps_the_order_and_hands_on_what_failed() -> None:
    files = [png(picture(16, 16, seed)) for seed in range(7)]
    files[2], files[5] = b"no image", files[5][:-60]
    items = [Item(str(k), k, data) for k, data in enumerate(files)]
    for ahead in (0, 3, 20):
        with ThreadPoolExecutor(3) as pool:
            out = list(decoded(iter(items), 16, pool, ahead))
        assert [item.label for item, _ in out] == list(range(7))
        for k, (_, pixels) in enumerate(out):
            if k in (2, 5):
                assert isinstance(pixels, PictureError)
            else:
                np.testing.assert_array_equal(pixels, picture(16, 16, k).transpose(2, 0, 1))
