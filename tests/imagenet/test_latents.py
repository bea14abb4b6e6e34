"""Shards of latents: what is written comes back, draws follow the posterior, alterations and other VAEs are refused."""

import errno
import hashlib
import json
import math
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ismkit.data.batches import Batches
from ismkit.imagenet import latents
from ismkit.imagenet.latents import Latents, moment_sums, read_manifest, statistics, write_file, write_manifest
from ismkit.utils.files import DataError
from ismkit.utils.seeding import stream
from ismkit.utils.store import Store

pa = pytest.importorskip("pyarrow")
SHAPE = (4, 2, 3)
CLASSES = ["ape", "bee", "cat"]
IDENTITY = {"name": "tiny", "revision": "a" * 40, "sha256": "b" * 64, "scaling_factor": 0.25}


def fabricate(folder: Path, sizes: tuple[int, ...] = (5, 1, 8), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A folder of latents of random moments; returns those, (rows, 2, C, h, w) float16, and labels."""
    rng = np.random.default_rng(seed)
    rows = sum(sizes)
    moments = rng.normal(size=(rows, 2, *SHAPE)).astype(np.float16)
    moments[:, 1] = np.abs(moments[:, 1])
    labels = rng.integers(len(CLASSES), size=rows)
    entries, sums, start = [], [], 0
    for k, size in enumerate(sizes):
        part = slice(start, start + size)
        names = [f"image {i}" for i in range(start, start + size)]
        entries.append(
            write_file(folder / f"latents-{k:05d}.arrow", moments[part], labels[part].tolist(), [False] * size, names)
        )
        sums.append(moment_sums(moments[part]))
        start += size
    fields: dict[str, Any] = {"source": {"kind": "random"}}
    fields |= {"vae": IDENTITY, "side": 16, "shape": list(SHAPE), "class_names": CLASSES, "images": rows, "rows": rows}
    fields |= {"corrupt": [], "statistics": statistics(sums, rows * SHAPE[1] * SHAPE[2]), "files": entries}
    write_manifest(folder, fields)
    return moments, labels


@pytest.fixture
def held(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    return tmp_path, *fabricate(tmp_path)


def test_rows_come_back_bit_for_bit(held: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, moments, labels = held
    data = Latents(folder, vae=IDENTITY, verify=True)
    assert (len(data), data.shape, data.num_classes) == (14, SHAPE, 3)
    assert data.class_names == tuple(CLASSES)
    np.testing.assert_array_equal(data.y, labels)
    order = torch.tensor([13, 0, 5, 4, 5, 6])  # first and last rows of each file, one of them twice
    np.testing.assert_array_equal(data.moments(order), moments[order])
    mean, y = data[order]
    np.testing.assert_array_equal(mean, moments[order, 0].astype(np.float32) * 0.25)
    np.testing.assert_array_equal(y, labels[order])
    one, label = data[6]
    assert one.shape == SHAPE
    assert label.shape == ()
    assert torch.equal(one, mean[-1])
    assert torch.equal(data[4:7][0], data[[4, 5, 6]][0])


def test_draws_follow_the_posterior(held: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, moments, _ = held
    data, n = Latents(folder), 4000
    index = torch.tensor([3, 9]).repeat(n)
    x, y = data.take(index, stream(0, "draws"))
    assert x.dtype == torch.float32
    assert torch.equal(y, data.y[index])
    draws = x.reshape(n, 2, *SHAPE).double().numpy()
    mean, std = moments[[3, 9]].astype(np.float64).swapaxes(0, 1) * 0.25
    # 48 numbers, each about normal with these deviations: 5 of them is exceeded once in 36 000 tests.
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * std / math.sqrt(n))
    assert np.all(np.abs(draws.std(0) / std - 1) < 5 / math.sqrt(2 * n))
    score = (draws - mean) / std
    cells = score[:, 0].reshape(n, -1)
    off = (cells.T @ cells / n)[~np.eye(cells.shape[1], dtype=bool)]
    assert np.abs(off).max() < 5.5 / math.sqrt(n), "draws of two cells depend on each other"


def test_batches_draw_as_a_function_of_seed_shard_and_step(held: tuple[Path, np.ndarray, np.ndarray]) -> None:
    data = Latents(held[0])
    batches = Batches(data, batch_size=3, seed=7)
    whole = batches.stream(micro_batch=1, micro_batches=2)
    first = [next(whole) for _ in range(6)]
    resumed = batches.stream(step=4, micro_batch=1, micro_batches=2)
    for (x, y), (x_again, y_again) in zip(first[4:], resumed, strict=False):
        assert torch.equal(x, x_again)
        assert torch.equal(y, y_again)
    chosen = list(zip(range(6), batches._indices(0, 1, 2), strict=False))
    for (x, y), (step, index) in zip(first, chosen, strict=True):
        wanted, labels = data.take(index, stream(7, "posterior", 1, step))
        assert torch.equal(x, wanted)
        assert torch.equal(y, labels)
    other_seed = next(Batches(data, batch_size=14, seed=8).stream())[0]
    again = next(Batches(data, batch_size=14, seed=8).stream())[0]
    assert torch.equal(other_seed, again)


def test_statistics_are_those_of_the_rows(held: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, moments, _ = held
    found = read_manifest(folder)["statistics"]
    mean, std = moments.astype(np.float64).swapaxes(0, 1)
    per_channel = {
        "mean": mean.mean((0, 2, 3)),
        "std": mean.std((0, 2, 3)),
        "posterior_std": np.sqrt((std**2).mean((0, 2, 3))),
        "low": mean.min((0, 2, 3)),
        "high": mean.max((0, 2, 3)),
    }
    assert found.keys() == per_channel.keys()
    for key, wanted in per_channel.items():
        np.testing.assert_allclose(found[key], wanted, rtol=1e-12)


def test_nothing_but_the_folder_travels_to_another_process(held: tuple[Path, np.ndarray, np.ndarray]) -> None:
    data = Latents(held[0])
    packed = pickle.dumps(data)
    assert len(packed) < 1000
    assert torch.equal(pickle.loads(packed)[:][0], data[:][0])


def test_wrong_indices_are_refused(held: tuple[Path, np.ndarray, np.ndarray]) -> None:
    data = Latents(held[0])
    for bad in (-1, 14):
        with pytest.raises(IndexError, match=r"index must lie in \[0, 14\)"):
            data[bad]
    with pytest.raises(TypeError, match="index must be int64"):
        data.moments(torch.tensor([True, False]))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("sha256", "c" * 64, "SHA-256"), ("revision", "c" * 40, "revision"), ("scaling_factor", 0.5, "scaling factor")],
)
def test_latents_of_another_vae_are_refused(
    held: tuple[Path, np.ndarray, np.ndarray], key: str, value: Any, said: str
) -> None:
    with pytest.raises(DataError, match=f"are of another VAE: {said}"):
        Latents(held[0], vae=IDENTITY | {key: value})


def test_a_folder_vae_is_known_by_its_weights(held: tuple[Path, np.ndarray, np.ndarray]) -> None:
    assert len(Latents(held[0], vae=IDENTITY | {"revision": None, "name": "copy"})) == 14


@pytest.mark.parametrize(
    ("key", "value"), [(k, v) for k, v in [("side", 32), ("rows", 13), ("class_names", ["a"] * 3)]]
)
def test_an_altered_manifest_is_refused(held: tuple[Path, np.ndarray, np.ndarray], key: str, value: Any) -> None:
    path = held[0] / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"value": content["value"] | {key: value}}))
    with pytest.raises(DataError, match="is altered, its contents do not match the checksum that it states"):
        Latents(held[0])


def test_manifests_that_cannot_be_used_are_refused(held: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, path = held[0], held[0] / "manifest.json"
    manifest, text = read_manifest(folder), path.read_text()
    store = latents.latents_store(folder)
    for change, message in [
        (lambda: path.write_text(text[:-20]), r"manifest\.json is truncated or altered"),
        (lambda: path.write_text("[]"), r"manifest\.json is no file of this kit"),
        (
            lambda: path.write_text(json.dumps(manifest)),
            r"manifest\.json is no file of this kit, or of another version",
        ),
        (
            lambda: Store(folder, store.identity | {"version": 1}).write(path.name, manifest),
            r"manifest\.json is of something else \(version is 1 there, 3 now\): delete it and give the command",
        ),
        (
            lambda: write_manifest(folder, {k: v for k, v in manifest.items() if k != "vae"}),
            r"manifest\.json has no vae: ",
        ),
        (
            lambda: write_manifest(folder, manifest | {"files": "all"}),
            r"manifest\.json: files must be a list, got 'all'",
        ),
    ]:
        change()
        with pytest.raises(DataError, match=message):
            Latents(folder)
    path.unlink()
    with pytest.raises(DataError, match="is not finished"):
        Latents(folder)
    with pytest.raises(DataError, match="is missing; `ismkit latents --help`"):
        Latents(folder / "nowhere")


def test_manifests_at_odds_with_the_files_are_refused(held: tuple[Path, np.ndarray, np.ndarray]) -> None:
    content = read_manifest(held[0])
    write_manifest(held[0], content | {"rows": 13})
    with pytest.raises(DataError, match="holds 14 rows, its manifest says 13"):
        Latents(held[0])
    write_manifest(held[0], content | {"class_names": CLASSES[:1]})
    with pytest.raises(DataError, match="labels outside its 1 classes"):
        Latents(held[0])
    write_manifest(held[0], content | {"shape": [4, 3, 3]})
    with pytest.raises(DataError, match="is no file of latents"):
        Latents(held[0])


def test_truncated_missing_and_altered_files_are_refused(held: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path = held[0] / "latents-00002.arrow"
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    with pytest.raises(DataError, match=f"holds {len(content) - 8} of {len(content)} bytes"):
        Latents(held[0])
    path.unlink()
    with pytest.raises(DataError, match=r"latents-00002\.arrow is missing"):
        Latents(held[0])
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    data = Latents(held[0])  # the size is right: quick opening sees nothing
    with pytest.raises(DataError, match=r"latents-00002\.arrow is altered"):
        data.verify(progress=False)
    with pytest.raises(DataError, match="is altered"):
        Latents(held[0], verify=True)
    path.write_bytes(bytes(len(content)))
    with pytest.raises(DataError, match="is no file of latents"):
        Latents(held[0])


def test_equal_rows_give_equal_files(tmp_path: Path) -> None:
    fabricate(tmp_path / "a")
    fabricate(tmp_path / "b")
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
        entry = [e for e in read_manifest(tmp_path / "a")["files"] if e["name"] == path.name]
        if entry:
            assert entry[0]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ismkit.utils.files.os.fsync", full)
    with pytest.raises(DataError, match=r"cannot be written: No space left on device.*make room"):
        fabricate(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_latents_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    moments = np.zeros((2, 2, *SHAPE), np.float16)
    moments[1, 0, 3, 1, 2] = value
    with pytest.raises(ValueError, match="latents of second are not finite"):
        write_file(tmp_path / "file.arrow", moments, [0, 1], [False, False], ["first", "second"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["moments", "label", "flipped", "name", "last byte"])
def test_a_file_altered_at_equal_size_is_found_before_a_row_of_it_is_used(
    place: str, held: tuple[Path, np.ndarray, np.ndarray]
) -> None:
    """faults D7: of 400 damages at equal size 140 gave other data without a message."""
    folder, moments, _ = held
    path = folder / "latents-00002.arrow"
    content = bytearray(path.read_bytes())
    with pa.ipc.open_file(pa.py_buffer(bytes(content))) as file:
        column = None if place == "last byte" else file.get_batch(0).column(place)
    at = len(content) - 1
    if column is not None:
        at = bytes(content).index((column.values if place == "moments" else column).buffers()[-1].to_pybytes()[:8])
    content[at] ^= 1
    path.write_bytes(content)
    try:
        data = Latents(folder)
    except DataError:  # where Arrow itself sees it
        return
    whole = torch.arange(6)  # of the other two files
    np.testing.assert_array_equal(data.moments(whole), moments[:6])
    for read in (lambda: data[13], lambda: data.take(torch.tensor([0, 6]), stream(0, "draws"))):
        with pytest.raises(DataError, match=r"latents-00002.arrow is altered, its SHA-256 sum is"):
            read()
    with pytest.raises(DataError, match=r"latents-00002.arrow is altered"):
        list(zip(range(9), Batches(data, batch_size=4, seed=0).stream(), strict=False))


def test_each_file_is_verified_once_and_not_again_in_another_process(
    held: tuple[Path, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """faults D7: the cost of it."""
    sums: list[str] = []

    def verify(path: Path, *_: Any) -> None:
        sums.append(path.name)

    monkeypatch.setattr(latents, "verify_sha256", verify)
    data = Latents(held[0])
    for index in ([0, 1], [0, 5], [5], [0, 13]):
        data.moments(torch.tensor(index))
    assert sums == [f"latents-{k:05d}.arrow" for k in range(3)]
    pickle.loads(pickle.dumps(data)).moments(torch.arange(14))
    assert len(sums) == 3


def test_threads_of_several_micro_batches_verify_a_file_once(
    held: tuple[Path, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    sums: list[str] = []

    def verify(path: Path, *_: Any) -> None:
        time.sleep(0.05)
        sums.append(path.name)

    monkeypatch.setattr(latents, "verify_sha256", verify)
    data = Latents(held[0])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(data.moments, [torch.arange(14)] * 4))
    assert sums == [f"latents-{k:05d}.arrow" for k in range(3)]
