"""Encoding: rows are those of the VAE called directly; one process, two, and a resumed one, equal bytes."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ismkit.data.photos import photo_folder
from ismkit.imagenet.encoding import Encoding, encode, row_bytes
from ismkit.imagenet.latents import Latents, read_manifest
from ismkit.imagenet.pixels import Item, center_crop
from ismkit.imagenet.sources import ImageFolder, open_source
from ismkit.imagenet.vae import ImageVAE, write_tiny_vae
from ismkit.utils.files import DataError
from tests.conftest import ROOT
from tests.imagenet.test_tars import write_tar
from tests.waiting import gone, wait_until

pytest.importorskip("diffusers")
pytest.importorskip("pyarrow")
SIDE = 32


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_vae(tmp_path_factory.mktemp("vae") / "tiny"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("images") / "photos", per_class=5, side=40)


def job(photos: Path, vae: str, folder: Path, **options: Any) -> Encoding:
    return Encoding(ImageFolder(photos, per_unit=6), vae, folder, side=SIDE, batch_size=4, threads=2, **options)


@pytest.fixture(scope="module")
def made(photos: Path, vae: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 photographs in 4 files, encoded in one go."""
    folder = tmp_path_factory.mktemp("made") / "latents"
    encode(job(photos, vae, folder), progress=False)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_rows_are_the_moments_of_images_and_their_mirror_images(made: Path, photos: Path, vae: str) -> None:
    data, loaded = Latents(made, vae=ImageVAE.load(vae), verify=True), ImageVAE.load(vae)
    files = sorted(photos.rglob("*.png"))
    assert len(data) == 2 * len(files) == 40
    assert data.shape == (4, SIDE // 8, SIDE // 8)
    assert data.class_names == ("astronaut", "cat", "coffee", "rocket")
    assert [data.class_names[k] for k in data.y[::2]] == [file.parent.name for file in files]
    assert torch.equal(data.y[::2], data.y[1::2])
    pixels = torch.from_numpy(np.stack([center_crop(file.read_bytes(), SIDE) for file in files]))
    images = pixels.float() / 127.5 - 1
    for row, x in ((0, images), (1, torch.from_numpy(images.numpy()[..., ::-1].copy()))):
        batches = [batch for unit in x.split(6) for batch in unit.split(4)]  # other ones would move the last bits
        wanted = torch.cat([torch.stack(loaded.moments(batch), dim=1) for batch in batches])
        assert torch.equal(data.moments(torch.arange(row, 40, 2)), wanted.half())
    flipped = (data.moments(torch.arange(1, 40, 2)) - data.moments(torch.arange(0, 40, 2))).abs().amax()
    assert flipped > 0.05, "the mirror image is the image"


def test_the_manifest_says_what_was_done(made: Path, photos: Path, vae: str) -> None:
    manifest = read_manifest(made)
    assert manifest["source"] == ImageFolder(photos).identity
    assert manifest["vae"] == ImageVAE.load(vae).identity
    assert (manifest["side"], manifest["images"], manifest["rows"], manifest["corrupt"]) == (SIDE, 20, 40, [])
    assert [file["rows"] for file in manifest["files"]] == [12, 12, 12, 4]
    mean, std = Latents(made).moments(torch.arange(40)).double().unbind(1)
    for key, wanted in {
        "mean": mean.mean((0, 2, 3)),
        "std": mean.std((0, 2, 3), correction=0),
        "posterior_std": std.square().mean((0, 2, 3)).sqrt(),
        "low": mean.amin((0, 2, 3)),
        "high": mean.amax((0, 2, 3)),
    }.items():
        np.testing.assert_allclose(manifest["statistics"][key], wanted, rtol=1e-10)
    assert row_bytes([4, 32, 32]) == 2 * 2 * 4 * 32 * 32
    assert (made / "corrupt.txt").read_text() == ""


class Killed(BaseException):
    """As of a signal that nothing catches."""


@pytest.mark.parametrize("moment", range(1, 12, 3))
def test_going_on_after_a_kill_gives_the_same_bytes(
    made: Path, photos: Path, vae: str, tmp_path: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the moment-th batch or file: what is finished stays as it is, and the rest is as if nothing was."""
    calls, this = [], job(photos, vae, tmp_path / "latents")

    def tick(images: int, files: int) -> None:
        calls.append((images, files))
        if len(calls) == moment:
            raise Killed

    this.begin()
    with pytest.raises(Killed):
        this.run(tick=tick)
    with pytest.raises(DataError, match="is not finished"):
        Latents(this.folder)
    before = {path: path.stat().st_mtime_ns for path in this.folder.glob("latents-*")}
    assert len(before) == 2 * sum(files for _, files in calls)
    (this.folder / f".{this.file(3).name}.partial-1").write_bytes(b"of a process that was killed")
    read = []
    original = ImageFolder.read

    def recorded(source: ImageFolder, unit: int) -> Iterator[Item]:
        read.append(unit)
        return original(source, unit)

    monkeypatch.setattr(ImageFolder, "read", recorded)
    encode(this, progress=False)
    assert read == [unit for unit in range(4) if this.file(unit) not in before], "finished units were read again"
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert contents(this.folder) == contents(made)


def test_processes_share_the_units_and_the_last_writes_the_manifest(
    made: Path, photos: Path, vae: str, tmp_path: Path
) -> None:
    this = job(photos, vae, tmp_path / "latents")
    this.begin()
    assert [this.run(rank, 3) is not None for rank in (2, 0)] == [False, False]
    assert this.missing() == [1]
    assert this.run(1, 3) == this.folder / "manifest.json"
    assert contents(this.folder) == contents(made)


@dataclass
class Deadly:
    """A source whose reader kills its own process at unit 2, once: the second time its mark is there."""

    photos: ImageFolder
    mark: Path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "photos":
            raise AttributeError(name)
        return getattr(self.photos, name)

    def read(self, unit: int) -> Iterator[Item]:
        if unit == 2 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.photos.read(unit)


@pytest.mark.parametrize("how", ["labels", "corrupt"])
def test_classes_without_images_are_said(how: str, vae: str, photos: Path, tmp_path: Path) -> None:
    """faults A4: labels 0 and 5 became six classes without a word, and so did a class of corrupt images alone."""
    if how == "labels":
        pictures = sorted(photos.rglob("*.png"))[:3]
        files = [(f"{k}.png", path.read_bytes()) for k, path in enumerate(pictures)]
        write_tar(tmp_path / "own.tar", sorted([*files, ("0.cls", b"0"), ("1.cls", b"5"), ("2.cls", b"0")]))
        source = open_source([tmp_path / "own.tar"])
        missing = r"data has no rows of 4 of its 6 classes \(1, 2, 3, 4\): no network that is trained on"
    else:
        copied = tmp_path / "photos"
        shutil.copytree(photos, copied)
        for path in (copied / "cat").iterdir():
            path.write_bytes(b"none")
        source = open_source([copied])
        missing = r"data has no rows of 1 of its 4 classes \(1\)"
    this = Encoding(source, vae, tmp_path / "latents", side=SIDE, threads=1, skip_corrupt=True)
    with pytest.warns(UserWarning, match=missing):
        encode(this, progress=False)


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed_give_the_same_bytes(
    made: Path, photos: Path, vae: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    this = job(photos, vae, tmp_path / "latents")
    this = replace(this, source=Deadly(this.source, tmp_path / "mark"))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"a worker died.*the same command resumes"):
        encode(this, workers=2, progress=False)
    assert 2 in this.missing()
    assert not (this.folder / "manifest.json").exists()
    manifest = encode(this, workers=2, progress=False)
    assert manifest["rows"] == 40
    assert contents(this.folder) == contents(made)


@pytest.mark.slow
def test_processes_share_the_units_of_one_call_of_several(
    made: Path, photos: Path, vae: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    this = job(photos, vae, tmp_path / "latents")
    assert encode(this, workers=2, rank=1, world=2, progress=False) is None
    assert this.missing() == [0, 1]
    for rank in (0, 1):  # of four alone: processes divide the units in the same way
        encode(this, rank=rank, world=4, progress=False)
    assert contents(this.folder) == contents(made)


def test_what_a_process_cannot_read_is_the_error_of_one(photos: Path, vae: str, tmp_path: Path) -> None:
    this = job(spoilt(photos, tmp_path / "photos"), vae, tmp_path / "latents")
    with pytest.raises(DataError, match=r"^\S+ is no image that can be decoded .*--skip-corrupt"):
        encode(this, workers=2, progress=False)


SLOW = """
import os, sys, time
from pathlib import Path
from ismkit.imagenet.encoding import Encoding, encode
from ismkit.imagenet.sources import ImageFolder

photos, vae, latents, pids = map(Path, sys.argv[1:])

class Slow(ImageFolder):
    def read(self, unit):
        (pids / str(os.getpid())).touch()
        time.sleep(600)

encode(Encoding(Slow(photos, per_unit=6), str(vae), latents, side=32, threads=1), workers=2, progress=False)
"""


def test_workers_end_with_their_parent(photos: Path, vae: str, tmp_path: Path) -> None:
    """Else they hold their memory, and do the job beside a new call of the same command.

    They are those of `run_group`, which `tests/utils/test_workers.py` tries with every way in which a parent ends.
    """
    (pids := tmp_path / "pids").mkdir()
    command = [sys.executable, "-c", SLOW, *map(str, (photos, vae, tmp_path / "latents", pids))]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}) as parent:
        wait_until(lambda: len(list(pids.iterdir())) == 2)
        parent.kill()
        assert parent.wait(60) == -signal.SIGKILL
    wait_until(lambda: gone(int(path.name) for path in pids.iterdir()))


def spoilt(photos: Path, into: Path) -> Path:
    """A copy with a truncated and an empty file."""
    shutil.copytree(photos, into)
    (into / "cat" / "0001.png").write_bytes((photos / "cat" / "0001.png").read_bytes()[:-300])
    (into / "rocket" / "0004.png").write_bytes(b"")
    return into


def test_corrupt_images_are_an_error_or_listed(made: Path, photos: Path, vae: str, tmp_path: Path) -> None:
    spoilt_photos = spoilt(photos, tmp_path / "photos")
    this = job(spoilt_photos, vae, tmp_path / "latents")
    with pytest.raises(DataError, match=r"cat/0001\.png is no image that can be decoded .*--skip-corrupt"):
        encode(this, progress=False)
    manifest = encode(replace(this, skip_corrupt=True), progress=False)
    assert (manifest["images"], manifest["rows"]) == (18, 36)
    assert [name for name, _ in manifest["corrupt"]] == ["cat/0001.png", "rocket/0004.png"]
    lines = (this.folder / "corrupt.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["cat/0001.png", "rocket/0004.png"]
    data, whole = Latents(this.folder), Latents(made)
    kept = [row for row in range(40) if row // 2 not in (6, 19)]
    assert torch.equal(data.y, whole.y[kept])
    torch.testing.assert_close(data[:][0], whole[kept][0], rtol=1e-3, atol=1e-4)


def test_hostile_files_are_listed_and_never_waited_for(photos: Path, vae: str, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    os.mkfifo(tmp_path / "photos" / "cat" / "fifo.png")
    (tmp_path / "photos" / "cat" / "dangling.png").symlink_to("nothing.png")
    Image.fromarray(np.zeros((20_000_000, 1), np.uint8)).save(tmp_path / "photos" / "cat" / "narrow.png")
    this = job(tmp_path / "photos", vae, tmp_path / "latents")
    with pytest.raises(
        DataError, match=r"cat/dangling\.png is no image that can be decoded \(it is a link to nothing\)"
    ):
        encode(this, progress=False)
    manifest = encode(replace(this, skip_corrupt=True), progress=False)
    assert manifest["images"] == 20
    reasons = dict(manifest["corrupt"])
    assert set(reasons) == {"cat/dangling.png", "cat/fifo.png", "cat/narrow.png"}
    assert "1 x 20000000 pixels, and resized to a shorter edge of 32 it has" in reasons["cat/narrow.png"]


def test_what_is_no_picture_is_listed_without_being_an_error(photos: Path, vae: str, tmp_path: Path) -> None:
    inner = tmp_path / "cat.tar"
    picture = sorted(photos.rglob("*.png"))[0].read_bytes()
    write_tar(inner, [("0.png", picture), ("notes.txt", b"")])
    write_tar(tmp_path / "train.tar", [("cat.tar", inner.read_bytes())])
    this = replace(job(photos, vae, tmp_path / "latents"), source=open_source([tmp_path / "train.tar"]))
    manifest = encode(this, progress=False)
    assert (manifest["images"], manifest["corrupt"]) == (1, [["notes.txt", "no picture by its ending"]])


def test_a_set_of_nothing_but_corrupt_images_is_refused(vae: str, tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="no image could be decoded"):
        encode(job(tmp_path / "photos", vae, tmp_path / "latents", skip_corrupt=True), progress=False)


def test_a_full_disk_leaves_whole_files_only(
    made: Path, photos: Path, vae: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    this = job(photos, vae, tmp_path / "latents")
    this.begin()
    synced, sync = [], os.fsync

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 4:  # file 0 and its entry, and the folder after each
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr("ismkit.utils.files.os.fsync", full)
        with pytest.raises(DataError, match="cannot be written: No space left on device"):
            this.run()
    assert sorted(contents(this.folder)) == ["latents-00000.arrow", "latents-00000.json", "plan.json"]
    encode(this, progress=False)
    assert contents(this.folder) == contents(made)


def test_a_disk_that_is_too_small_is_refused_at_once(
    photos: Path, vae: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 40 * row_bytes([4, 4, 4])
    usage = shutil.disk_usage(tmp_path)._replace(free=needed - 1)
    monkeypatch.setattr("ismkit.imagenet.encoding.shutil.disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"GB more, the disk has 0\.0 GB free"):
        encode(job(photos, vae, tmp_path / "latents"), progress=False)


def other_vae(tmp_path: Path) -> dict[str, Any]:
    return {"vae": str(write_tiny_vae(tmp_path / "other", seed=1))}


def more_photos(tmp_path: Path) -> dict[str, Any]:
    return {"source": ImageFolder(photo_folder(tmp_path / "more", per_class=6, side=8), per_unit=6)}


@pytest.mark.parametrize(
    ("change", "said"),
    [(other_vae, "vae"), (more_photos, "source"), (lambda tmp_path: {"side": 40}, "side")],
)
def test_a_folder_of_another_job_is_refused(
    made: Path, photos: Path, vae: str, tmp_path: Path, change: Callable[[Path], dict[str, Any]], said: str
) -> None:
    shutil.copytree(made, tmp_path / "latents")
    before = contents(tmp_path / "latents")
    with pytest.raises(DataError, match=f"is of another {said}: "):
        encode(replace(job(photos, vae, tmp_path / "latents"), **change(tmp_path)), progress=False)
    assert contents(tmp_path / "latents") == before


def repainted(photos: Path, folder: Path, *, unit: int = 0) -> Path:
    """The same names and sizes; of one unit the first image is another."""
    shutil.copytree(photos, folder)
    first = folder / ImageFolder(folder, per_unit=6).files[6 * unit]
    size = first.stat().st_size
    picture = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(picture, "PNG", compress_level=9)
    assert picture.tell() <= size
    first.write_bytes(picture.getvalue().ljust(size, b"\0"))  # what follows the end of a PNG is not read
    return folder


def test_latents_of_other_images_of_the_same_names_are_refused(
    made: Path, photos: Path, vae: str, tmp_path: Path
) -> None:
    latents = tmp_path / "latents"
    shutil.copytree(made, latents)
    before = contents(latents)
    other = repainted(photos, tmp_path / "other" / photos.name)
    assert ImageFolder(other).identity == ImageFolder(photos).identity  # names tell nothing
    with pytest.raises(DataError, match=r"is of other images of the same names: those of latents-00000\.arrow have"):
        encode(job(other, vae, latents), progress=False)
    assert contents(latents) == before


def test_latents_of_the_same_images_elsewhere_resume(made: Path, photos: Path, vae: str, tmp_path: Path) -> None:
    latents, copy = tmp_path / "latents", tmp_path / "copy" / photos.name
    shutil.copytree(made, latents)
    shutil.copytree(photos, copy, copy_function=shutil.copyfile)  # with times of now
    (latents / "latents-00001.json").unlink()
    before = contents(made)
    encode(job(copy, vae, latents), progress=False)
    assert {name: held for name, held in contents(latents).items() if name != "plan.json"} == {
        name: held for name, held in before.items() if name != "plan.json"
    }


def test_images_are_read_again_only_if_they_were_touched(
    made: Path, photos: Path, vae: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = tmp_path / "latents"
    shutil.copytree(made, latents)
    read: list[int] = []
    monkeypatch.setattr(ImageFolder, "read", lambda self, unit: read.append(unit) or iter(()))
    encode(job(photos, vae, latents), progress=False)
    assert not read


def test_a_folder_of_other_files_is_refused(photos: Path, vae: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="holds other files"):
        encode(job(photos, vae, tmp_path), progress=False)
    assert contents(tmp_path) == {"thesis.txt": b"mine"}


def test_a_truncated_shard_is_made_again(made: Path, photos: Path, vae: str, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "latents")
    file = tmp_path / "latents" / "latents-00001.arrow"
    file.write_bytes(file.read_bytes()[:-1])
    encode(job(photos, vae, tmp_path / "latents"), progress=False)
    assert contents(tmp_path / "latents") == contents(made)


def test_options_out_of_range_are_refused(photos: Path, vae: str, tmp_path: Path) -> None:
    this = job(photos, vae, tmp_path / "latents")
    for name in ("side", "batch_size", "threads"):
        with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got 0"):
            replace(this, **{name: 0})
    with pytest.raises(ValueError, match="side must be a multiple of 8"):
        encode(replace(this, side=20), progress=False)
    with pytest.raises(ValueError, match="workers must be an integer of at least 1, got 0"):
        encode(this, workers=0)
    assert not this.folder.exists()
