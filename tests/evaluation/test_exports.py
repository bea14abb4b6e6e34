"""Exported samples are the samples, in the forms that other programs read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ismkit.evaluation.samples import SampleError, export_npz, export_png
from tests.evaluation.test_samples import flip
from tests.images import drawn

pytestmark = pytest.mark.usefixtures("own_folder")


def test_npz_is_what_numpy_would_write(tmp_path: Path) -> None:
    samples = drawn(tmp_path / "s")
    path = export_npz(samples, tmp_path / "new" / "s.npz")
    with np.load(path, allow_pickle=False) as file:
        assert file.files == ["arr_0", "arr_1"]
        images, labels = file["arr_0"], file["arr_1"]
    assert (images.shape, images.dtype) == ((50, 8, 8, 3), np.uint8)
    assert np.array_equal(images, torch.cat([x for x, _ in samples]).movedim(1, 3).numpy())
    assert np.array_equal(labels, np.arange(50) % 4)


def test_png_files_are_lossless_and_in_order(tmp_path: Path) -> None:
    samples = drawn(tmp_path / "s")
    folder = export_png(samples, tmp_path / "png")
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"{i:07}.png" for i in range(50)]
    read = np.stack([np.asarray(Image.open(file)) for file in files])
    assert np.array_equal(read, torch.cat([x for x, _ in samples]).movedim(1, 3).numpy())


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path) -> None:
    samples = drawn(tmp_path / "s")
    flip(samples.folder)
    with pytest.raises(SampleError, match=r"00001\.safetensors is altered"):
        export_npz(samples, tmp_path / "new" / "s.npz")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(ValueError, match=r"path must end in \.npz, got .*s\.npy"):
        export_npz(samples, tmp_path / "s.npy")
