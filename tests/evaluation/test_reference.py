"""References: statistics are those of the images, files are refused unless they are whole and free of pickles."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor

from ismkit.data.decoding import picture_files
from ismkit.evaluation.extractors import Extractor, load_extractor
from ismkit.evaluation.metrics import Moments
from ismkit.evaluation.reference import (
    _Statistics,
    folder_images,
    folder_reference,
    load_reference,
    make_reference,
    npz_images,
    real_features,
)
from ismkit.utils.files import DataError
from ismkit.utils.workers import Tell, run_group
from tests.images import pictures

Arrays = dict[str, Any]


def adm(change: Callable[[Arrays], object] = lambda arrays: None) -> Arrays:
    """Arrays in ADM's form, small."""
    rng = np.random.default_rng(0)
    arrays: Arrays = {"arr_0": pictures(12).movedim(1, 3).numpy()}
    for end, size in (("", 5), ("_s", 7)):
        x = rng.normal(size=(20, size))
        arrays |= {f"mu{end}": x.mean(0), f"sigma{end}": np.cov(x, rowvar=False)}
    change(arrays)
    return arrays


def written(folder: Path, arrays: Arrays) -> Path:
    np.savez(folder / "ref.npz", **arrays)
    return folder / "ref.npz"


def test_adm_statistics_are_read_as_they_are(tmp_path: Path) -> None:
    arrays = adm()
    reference = load_reference(written(tmp_path, arrays))
    assert reference.extractor == "inception"
    for layer, end in (("pool", ""), ("spatial", "_s")):
        moments = reference.moments[layer]
        assert moments.mean.dtype == moments.cov.dtype == torch.float64
        assert np.array_equal(moments.mean, arrays[f"mu{end}"])
        np.testing.assert_allclose(moments.cov, arrays[f"sigma{end}"], rtol=1e-15)
    assert reference.features is None


class Payload:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("unpickled",)


FAULTS: dict[str, tuple[Callable[[Arrays], object], str]] = {
    "pickle": (lambda a: a.update(mu=np.array([Payload()], dtype=object)), "cannot be read without pickles"),
    "no mean": (lambda a: a.pop("mu_s"), r"has no mu_s, but: arr_0, mu, sigma, sigma_s"),
    "shape": (lambda a: a.update(sigma=np.eye(4)), r"sigma must be \(5, 5\) beside a mean \(F,\), got \(4, 4\)"),
    "mean of matrices": (lambda a: a.update(mu=np.zeros((5, 1))), "beside a mean"),
    "NaN": (lambda a: a["sigma"].__setitem__((1, 1), np.nan), "sigma or its mean holds NaN or infinity"),
    "infinite": (lambda a: a["mu_s"].__setitem__(2, np.inf), "sigma_s or its mean holds NaN or infinity"),
    "not symmetric": (lambda a: a["sigma"].__setitem__((0, 3), 9.0), "sigma is not symmetric"),
    "negative": (lambda a: a["sigma_s"].__setitem__((0, 0), -1.0), "sigma_s has a negative variance, -1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_statistics_that_are_none_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fault, message = FAULTS[name]
    path = written(tmp_path, adm(fault))
    with pytest.raises(DataError, match=message):
        load_reference(path)
    assert not (tmp_path / "unpickled").exists()


def test_asymmetry_of_rounding_is_forgiven(tmp_path: Path) -> None:
    reference = load_reference(
        written(tmp_path, adm(lambda a: a["sigma"].__setitem__((0, 3), a["sigma"][3, 0] + 1e-9)))
    )
    cov = reference.moments["pool"].cov
    assert torch.equal(cov, cov.T)


def test_missing_truncated_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npz is missing; ADM's reference .* published at https"):
        load_reference(tmp_path / "none.npz")
    path = written(tmp_path, adm())
    path.write_bytes(path.read_bytes()[:-40])
    for read in (lambda: load_reference(path), lambda: list(npz_images(path))):
        with pytest.raises(DataError, match=r"cannot be read|no images arr_0 that can be read"):
            read()
    (tmp_path / "ref.pkl").touch()
    with pytest.raises(DataError, match=r"a reference is a \.npz file .*, got .*ref\.pkl"):
        load_reference(tmp_path / "ref.pkl")
    (tmp_path / "ref.safetensors").write_bytes(b"12345678901234567890")
    with pytest.raises(DataError, match="holds no statistics made here"):
        load_reference(tmp_path / "ref.safetensors")


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("compressed", [False, True])
def test_images_of_an_npz_come_in_batches(tmp_path: Path, compressed: bool) -> None:
    images = pictures(12)
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "i.npz", images.movedim(1, 3).numpy())
    batches = list(npz_images(tmp_path / "i.npz", batch=5))
    assert [len(batch) for batch in batches] == [5, 5, 2]
    assert torch.equal(torch.cat(batches), images)


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 4, 4, 3)), np.zeros((2, 3, 4, 4), np.uint8), np.array([Payload()]), np.zeros((2, 4), np.uint8)],
)
def test_arrays_that_are_no_images_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.savez(tmp_path / "i.npz", array)
    with pytest.raises(DataError, match=r"arr_0 must be \(n, H, W, 3\) uint8 in C order"):
        next(npz_images(tmp_path / "i.npz"))
    np.savez(tmp_path / "i.npz", other=array[:0].astype(float))
    with pytest.raises(DataError, match="holds no images arr_0"):
        next(npz_images(tmp_path / "i.npz"))


def test_pictures_are_cropped_at_the_centre_and_halved_by_areas(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    exact, wide = rng.integers(0, 256, (16, 16, 3), np.uint8), rng.integers(0, 256, (16, 30, 3), np.uint8)
    large = rng.integers(0, 256, (32, 32, 3), np.uint8)
    (tmp_path / "b").mkdir()
    for name, pixels in (("a0", exact), ("a1", wide), ("b/c", large)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    files = picture_files(tmp_path).paths
    assert [file.name for file in files] == ["a0.png", "a1.png", "c.png"]
    batches = list(folder_images(files, 16, batch=2))
    assert [len(batch) for batch in batches] == [2, 1]
    first, second, third = torch.cat(batches).movedim(1, 3).numpy()
    assert np.array_equal(first, exact)
    assert np.array_equal(second, wide[:, 7:23])
    means = large.reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(third - means).max() <= 1  # Pillow rounds in two passes


def test_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "dangling.png").symlink_to("nothing.png")
    os.mkfifo(tmp_path / "fifo.png")
    for name, reason in (("bad", "it is not a JPEG"), ("dangling", "it is a link"), ("fifo", "it is no regular file")):
        with pytest.raises(DataError, match=rf"{name}\.png is no picture that can be used: {reason}"):
            list(folder_images([tmp_path / f"{name}.png"], 16))


def test_pictures_keep_their_order_however_long_each_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_at_first(path: Path) -> bytes:
        time.sleep(0.05 * (path.name in ("0", "4")))
        return path.name.encode()

    monkeypatch.setattr("ismkit.evaluation.reference.read_picture", slow_at_first)
    crop = "ismkit.evaluation.reference.center_crop"
    monkeypatch.setattr(crop, lambda data, side: np.full((3, side, side), int(data), np.uint8))
    for n in (0, 1, 4, 9):
        batches = list(folder_images([Path(str(i)) for i in range(n)], 2, batch=4))
        assert [batch[:, 0, 0, 0].tolist() for batch in batches] == [
            list(range(n))[start : start + 4] for start in range(0, n, 4)
        ]


# ---------------------------------------------------------------- made here


def test_statistics_are_those_of_all_images_one_batch_at_a_time(tmp_path: Path, small: Extractor) -> None:
    images = pictures(50)

    def batches() -> Iterator[Tensor]:
        yield from images.split(7)

    made = make_reference(batches(), small, tmp_path / "new" / "r.safetensors", {"source": "tests"})
    for layer in ("pool", "spatial"):
        whole = Moments(small(images)[layer])
        torch.testing.assert_close(made.moments[layer].mean, whole.mean, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(made.moments[layer].cov, whole.cov, rtol=1e-4, atol=1e-8)
    assert made.features is not None
    torch.testing.assert_close(made.features, small(images)["pool"], rtol=1e-5, atol=1e-6)
    assert (made.extractor, made.about["images"], made.about["source"]) == ("small", 50, "tests")
    again = load_reference(made.path)
    assert (again.sha256, again.about) == (made.sha256, made.about)
    assert torch.equal(again.moments["pool"].cov, made.moments["pool"].cov)


def test_kept_features_are_a_uniform_draw_without_repeats(tmp_path: Path, small: Extractor) -> None:
    images = pictures(200)
    made = make_reference(images.split(16), small, tmp_path / "r.safetensors", {}, keep=40)
    assert made.features is not None
    rows = torch.cdist(made.features, small(images)["pool"]).argmin(1)
    assert len(rows.unique()) == 40
    # The mean number of a uniform draw is 99.5, and spreads by 8.2 (40 of 200, without replacement).
    assert abs(rows.double().mean() - 99.5) < 4 * 8.2


@pytest.mark.parametrize("cuts", [(0, 61), (0, 30, 61), (0, 0, 5, 5, 40, 61)])
def test_shares_are_joined_to_the_statistics_of_all(cuts: tuple[int, ...], tmp_path: Path, small: Extractor) -> None:
    images = pictures(61)
    whole = make_reference(images.split(10), small, tmp_path / "r.safetensors", {}, keep=20)
    joined = _Statistics(20)
    for low, high in itertools.pairwise(cuts):
        share = _Statistics(20)
        share.pass_by(low)
        if low < high:
            share.add(small(images[low:high]))
        joined.merge(share.moments, share.kept)
    for layer, moments in whole.moments.items():
        assert joined.moments[layer].n == 61
        torch.testing.assert_close(joined.moments[layer].mean, moments.mean, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(joined.moments[layer].cov, moments.cov, rtol=1e-4, atol=1e-8)
    kept = torch.stack([joined.kept[place] for place in range(20)])
    torch.testing.assert_close(kept, whole.features, rtol=1e-5, atol=1e-6)


def reference_share(folder: Path, rank: int, tell: Tell) -> None:
    assert PartialState(cpu=True).num_processes == 2
    small, seen = load_extractor("small"), 0

    class Counted(Extractor):
        def __call__(self, images: Tensor) -> dict[str, Tensor]:
            nonlocal seen
            seen += len(images)
            return super().__call__(images)

    counted = Counted("small", small.net, small.device, small.identity["sha256"])
    files = picture_files(folder / "real").paths
    made = folder_reference(files, 16, counted, folder / "two.safetensors", {"source": "tests"}, keep=20)
    torch.save((seen, made.sha256), folder / f"rank{rank}.pt")


def test_two_processes_share_the_pictures_of_a_folder_and_find_what_one_finds(tmp_path: Path, small: Extractor) -> None:
    """The first one embedded them all while the others waited."""
    (tmp_path / "real").mkdir()
    for i, image in enumerate(pictures(61)):
        Image.fromarray(image.movedim(0, 2).numpy()).save(tmp_path / "real" / f"{i:02}.png")
    files = picture_files(tmp_path / "real").paths
    whole = make_reference(folder_images(files, 16), small, tmp_path / "r.safetensors", {"source": "tests"}, keep=20)
    run_group(partial(reference_share, tmp_path), 2)
    made = load_reference(tmp_path / "two.safetensors")
    assert made.about == whole.about
    for layer, moments in whole.moments.items():
        torch.testing.assert_close(made.moments[layer].mean, moments.mean, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(made.moments[layer].cov, moments.cov, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(made.features, whole.features, rtol=1e-5, atol=1e-6)
    assert [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)] == [(30, made.sha256), (31, made.sha256)]


def test_too_few_images(tmp_path: Path, small: Extractor) -> None:
    with pytest.raises(DataError, match="at least 2 images, got 1"):
        make_reference([pictures(1)], small, tmp_path / "r.safetensors", {})
    with pytest.raises(DataError, match="at least 2 images, got 1"):  # on every process alike, so before any work
        folder_reference([tmp_path / "0.png"], 16, small, tmp_path / "r.safetensors", {})
    assert list(tmp_path.iterdir()) == []


def test_features_of_adm_images_are_made_once(tmp_path: Path, small: Extractor) -> None:
    reference = load_reference(written(tmp_path, adm()))
    calls: list[int] = []

    class Counted(Extractor):
        def __call__(self, images: Tensor) -> dict[str, Tensor]:
            calls.append(len(images))
            return super().__call__(images)

    counted = Counted("small", small.net, small.device, small.identity["sha256"])
    for _ in range(2):
        features = real_features(reference, counted, tmp_path / "cache")
        torch.testing.assert_close(features, small(pictures(12))["pool"], rtol=1e-5, atol=1e-6)
    assert calls == [12]
    without = load_reference(written(tmp_path, adm(lambda a: a.pop("arr_0"))))
    with pytest.raises(DataError, match="neither features nor images"):
        real_features(without, counted, tmp_path / "cache")


def test_fid_needs_no_more_than_mu_and_sigma(tmp_path: Path) -> None:
    """faults B9: what pytorch-fid and others write was refused."""
    arrays = {name: value for name, value in adm().items() if name in ("mu", "sigma")}
    reference = load_reference(written(tmp_path, arrays))
    assert list(reference.moments) == ["pool"]
    assert np.array_equal(reference.moments["pool"].mean, arrays["mu"])
    assert reference.about == {"source": "statistics in ref.npz", "images": False}


@pytest.mark.parametrize("missing", ["mu", "sigma", "mu_s", "sigma_s"])
def test_half_of_the_statistics_of_a_layer_is_refused(missing: str, tmp_path: Path) -> None:
    arrays = adm(lambda arrays: arrays.pop(missing))
    with pytest.raises(DataError, match=f"has no {missing}, but: "):
        load_reference(written(tmp_path, arrays))


@pytest.mark.parametrize("name", ["ref", "ref.npz", "ref.safetensors.bak"])
def test_another_ending_is_refused_before_any_image_is_read(name: str, tmp_path: Path, small: Extractor) -> None:
    """faults B9: all was computed, and then the file could not be read back."""

    def images() -> Iterator[Tensor]:
        pytest.fail("read")
        yield torch.empty(0)

    with pytest.raises(ValueError, match=f"path must end in .safetensors, got .*{name}"):
        make_reference(images(), small, tmp_path / name, {})
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(OSError, match="is a folder, and not replaced"):
        make_reference(images(), small, tmp_path / "folder.safetensors", {})
