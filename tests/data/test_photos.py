"""The photographs of scikit-image's wheel: whole, never fetched, and patches that are functions of the seed."""

import builtins
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from ismkit.data import photos
from ismkit.data.photos import COLOURED, PHOTOGRAPHS, photo_folder, photograph, photographs
from ismkit.evaluation.metrics import radial_spectrum
from ismkit.utils.files import DataError


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_are_whole_and_spread_over_the_range(name: str) -> None:
    x = photograph(name)
    assert x.dtype == torch.float32
    assert min(x.shape) >= 300
    assert -1 <= x.min() < -0.5
    assert 0.5 < x.max() <= 1


def test_a_photograph_may_be_changed() -> None:
    mean = photograph("camera").mul_(0).mean()
    assert mean == 0 != photograph("camera").mean()


def test_grey_is_what_scikit_image_reads() -> None:
    camera = torch.from_numpy(skimage.data.camera().astype(np.float32)) / 127.5 - 1
    torch.testing.assert_close(photograph("camera"), camera, rtol=0, atol=0)
    colours = torch.from_numpy(skimage.data.astronaut()).double()  # (H, W, 3)
    luma = colours @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    torch.testing.assert_close(photograph("astronaut").double(), luma / 127.5 - 1, rtol=0, atol=1.1 / 127.5)


def test_patches_are_windows_of_their_photograph() -> None:
    data = photographs(10, 16, seed=3, shrink=1)  # one of each
    assert data.x.shape == (10, 1, 16, 16)
    for x, y in zip(data.x[:, 0], data.y, strict=True):
        windows = photograph(data.class_names[int(y)]).unfold(0, 16, 1).unfold(1, 16, 1)
        both = [(windows == patch).all(dim=(-1, -2)).any() for patch in (x, x.flip(1))]
        assert any(both)


def test_a_shrunk_patch_has_block_means_and_the_window_stays_inside() -> None:
    largest = photographs(10, 75, seed=0, shrink=4)  # 300 pixels: in two photographs one side leaves no choice
    cat = photograph("cat")  # (300, 451)
    [patch] = largest.x[largest.y == list(PHOTOGRAPHS).index("cat"), 0]
    means = cat.unfold(1, 300, 1).reshape(75, 4, -1, 75, 4).mean(dim=(1, 4)).permute(1, 0, 2)  # (places, 75, 75)
    gaps = [(means - want).abs().amax(dim=(1, 2)).min() for want in (patch, patch.flip(1))]
    assert min(gaps) < 1e-5
    with pytest.raises(ValueError, match=r"shrink \* side must be at most 300 pixels, got 4 \* 76"):
        photographs(10, 76, seed=0, shrink=4)


def test_the_seed_decides_and_classes_are_equal() -> None:
    a, b, c = (photographs(50, 8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.y, b.y)
    assert not torch.equal(a.x, c.x)
    assert torch.equal(a.y.bincount(), torch.full((10,), 5))
    assert not torch.equal(a.y, a.y.sort().values)


@pytest.mark.parametrize("shrink", [1, 2, 4])
def test_power_falls_with_frequency_by_about_a_square(shrink: int) -> None:
    """Field (1987): the power of natural images falls about as f^-2, at whatever scale they are seen."""
    for seed in range(3):
        power = radial_spectrum(photographs(1000, 32, seed, shrink).x)[1][2:16]
        slope = math.log(power[13] / power[0]) / math.log(15 / 2)
        assert -2.8 < slope < -2.2  # nine runs lie in -2.57 .. -2.45


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"name must be one of astronaut, .*got 'moon'"):
        photograph("moon")
    for arguments, message in [
        ((0, 8, 0), "n must be an integer of at least 1, got 0"),
        ((1, 0, 0), "side must be an integer of at least 1, got 0"),
        ((1, 8, 0, 0), "shrink must be an integer of at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            photographs(*arguments)


def test_without_the_wheel_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(photos, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install scikit-image"):
        photos._grey.__wrapped__("camera")
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(photos, "find_spec", lambda name: spec)
    with pytest.raises(DataError, match=r"camera\.png is missing: install the wheel"):
        photos._grey.__wrapped__("camera")


def test_importing_and_reading_load_no_scikit_image() -> None:
    code = (
        "import sys; from ismkit.data import photos; photos.photograph('camera'); assert 'skimage' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_pooch(name: str, *rest: Any) -> Any:
        assert not name.startswith("pooch"), "asked for the downloader"
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_pooch)
    for name in PHOTOGRAPHS:
        photos._grey.__wrapped__(name)


def test_photo_folder_is_pictures_in_class_folders(tmp_path: Path) -> None:
    """Each one is a window of its photograph: the means of its colours lie in the photograph's range."""
    folder = photo_folder(tmp_path / "photos", per_class=2, side=24, seed=3)
    assert sorted(path.name for path in folder.iterdir()) == sorted(COLOURED)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert files == sorted(f"{name}/{k:04d}.png" for name in COLOURED for k in range(2))
    pictures = {}
    for file in files:
        with Image.open(folder / file) as picture:
            assert (picture.size, picture.mode) == ((24, 24), "RGB")
            pictures[file] = np.asarray(picture)
    assert not np.array_equal(pictures["cat/0000.png"], pictures["cat/0001.png"])
    again = photo_folder(tmp_path / "again", per_class=2, side=24, seed=3)
    other = photo_folder(tmp_path / "other", per_class=2, side=24, seed=4)
    for file in files:
        assert (again / file).read_bytes() == (folder / file).read_bytes()
        assert (other / file).read_bytes() != (folder / file).read_bytes()
    rocket, coffee = pictures["rocket/0000.png"].mean((0, 1)), pictures["coffee/0000.png"].mean((0, 1))
    assert rocket[2] > rocket[0], "a blue sky"
    assert coffee[0] > coffee[2], "a brown table"


def test_photo_folder_overwrites_nothing_and_refuses_nonsense(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty: give a new folder"):
        photo_folder(tmp_path, per_class=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    for options in ({"per_class": 0}, {"per_class": 1, "side": 0}):
        with pytest.raises(ValueError, match="must be an integer of at least 1, got 0"):
            photo_folder(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_photo_folder_that_is_stopped_leaves_nothing_and_one_that_is_empty_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, files = Image.Image.save, []

    def third_time_full(picture: Image.Image, path: Path) -> None:
        files.append(path)
        if len(files) == 3:
            raise OSError("no space left")
        write(picture, path)

    monkeypatch.setattr(Image.Image, "save", third_time_full)
    with pytest.raises(OSError, match="no space left"):
        photo_folder(tmp_path / "photos", per_class=2, side=8)
    assert not list(tmp_path.iterdir())
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    assert photo_folder(tmp_path / "link", per_class=1, side=8) == tmp_path / "link"
    assert len(list((tmp_path / "photos").rglob("*.png"))) == len(COLOURED)
