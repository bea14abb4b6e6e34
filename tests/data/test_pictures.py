"""Pictures: pixels where they belong, in an array and in a file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ismkit.data.pictures import read_sheet, tile, write_png
from ismkit.utils.files import DataError


def images(n: int, height: int = 3, width: int = 4) -> Tensor:
    return 2 * torch.rand(n, 1, height, width, generator=torch.Generator().manual_seed(n)) - 1


@pytest.mark.parametrize(("n", "columns"), [(6, 3), (6, 1), (6, 6), (1, 1)])
def test_tile_places_every_pixel(n: int, columns: int) -> None:
    batch = images(n)
    sheet = tile(batch, columns)
    rows = n // columns
    assert sheet.shape == (rows * 4 - 1, columns * 5 - 1)
    expected = np.ones(sheet.shape)  # white gaps
    for k in range(n):
        for i in range(3):
            for j in range(4):
                expected[k // columns * 4 + i, k % columns * 5 + j] = (batch[k, 0, i, j].item() + 1) / 2
    np.testing.assert_array_equal(sheet, expected)


def test_colour_is_three_tiles(tmp_path: Path) -> None:
    batch = 2 * torch.rand(6, 3, 3, 4, generator=torch.Generator().manual_seed(0)) - 1
    sheet = tile(batch, 3)
    for channel in range(3):
        np.testing.assert_array_equal(sheet[..., channel], tile(batch[:, channel : channel + 1], 3))
    with Image.open(write_png(batch, tmp_path / "six.png", 3, 1)) as file:
        assert file.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(file), (255 * sheet).round().astype(np.uint8))


def test_tile_maps_the_range_exactly() -> None:
    sheet = tile(torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1).requires_grad_(), 3)
    assert sheet.tolist() == [[0.0, 1.0, 0.5, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("batch", "columns", "message"),
    [
        (images(6), 4, "columns must divide the 6 images, got 4"),
        (images(6), 0, "columns must be an integer of at least 1, got 0"),
        (images(6), -3, "got -3"),
        (images(6).expand(6, 2, 3, 4), 3, r"images must be \(n, 1 or 3, H, W\) with n, .* got \(6, 2, 3, 4\)"),
        (images(6)[0], 1, r"got \(1, 3, 4\)"),
        (images(6)[:0], 1, r"got \(0, 1, 3, 4\)"),
    ],
)
def test_tile_refuses(batch: Tensor, columns: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tile(batch, columns)


@pytest.mark.parametrize(("columns", "rows"), [(3, 2), (None, 1)])
@pytest.mark.parametrize("scale", [1, 3])
def test_file_holds_the_tile_enlarged(columns: int | None, rows: int, scale: int, tmp_path: Path) -> None:
    """Each pixel is a square of its grey level, rounded; levels beyond the range are clamped, and by nothing else."""
    batch = images(6) * 1.5
    path = write_png(batch, tmp_path / "new" / "six.png", columns, scale)
    assert path == tmp_path / "new" / "six.png"
    with Image.open(path) as file:
        assert (file.format, file.mode) == ("PNG", "L")
        pixels = np.asarray(file)
    sheet = tile(batch.clamp(-1, 1), columns or 6)
    assert pixels.shape == (scale * sheet.shape[0], scale * sheet.shape[1])
    assert sheet.shape[0] == 4 * rows - 1
    for i in range(scale):
        for j in range(scale):
            np.testing.assert_array_equal(pixels[i::scale, j::scale], np.round(255 * sheet))
    assert pixels.min() == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("six.jpg", {}, r"path must end in \.png, got .*six\.jpg"),
        ("six.png", {"columns": 4}, "columns must divide the 6 images, got 4"),
        ("six.png", {"scale": 0}, "scale must be an integer of at least 1, got 0"),
    ],
)
def test_no_file_is_left_by_what_cannot_be(name: str, options: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_png(images(6), tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    images = torch.zeros(2, 1, 4, 4)
    images[1, 0, 0, 0] = value
    with pytest.raises(ValueError, match="images must be finite, got 1 NaN or infinite of 32 values"):
        write_png(images, tmp_path / "sheet.png")
    assert not list(tmp_path.iterdir())


def test_a_sheet_is_read_as_it_was_written(tmp_path: Path) -> None:
    images = torch.randint(256, (6, 3, 5, 5), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    path = write_png(images, tmp_path / "sheet.png", columns=2, scale=1)
    assert torch.equal(read_sheet(path, 5), ((images + 1) * 127.5).round().byte())
    with pytest.raises(ValueError, match=r"sheet.png of 11 x 17 pixels holds no whole number of pictures of side 4"):
        read_sheet(path, 4)
    with pytest.raises(DataError, match=r"none\.png is missing"):
        read_sheet(tmp_path / "none.png", 5)
