"""Tar files: images with their labels, in order; what is wrong or truncated is named."""

import gzip
import io
import json
import pickle
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from ismkit.data.decoding import NoPictureError
from ismkit.imagenet.pixels import Item
from ismkit.imagenet.sources import NestedTar, TarShards, open_source
from ismkit.utils.files import DataError
from tests.imagenet.test_sources import content, everything


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    path.write_bytes(file.getvalue())
    return file.getvalue()


def test_tar_shards_give_images_with_their_labels(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "0.tar", [("x/00.jpg", content(0)), ("x/00.cls", b"2\n"), ("x/01.cls", b"0"), ("x/01.png", b"")]
    )
    more = json.dumps({"label": 1, "height": 3}).encode()
    write_tar(tmp_path / "1.tar", [("y.a.json", more), ("y.a.JPEG", content(1)), ("y.cls", b"9")])
    items = [Item("x/00.jpg", 2, content(0)), Item("x/01.png", 0, b"")]
    (tmp_path / "2.tar").write_bytes((tmp_path / "1.tar").read_bytes())
    source = open_source([tmp_path / "0.tar"])
    assert isinstance(source, TarShards)
    assert (everything(source), source.images, source.class_names) == (items, None, None)
    both = open_source([tmp_path])
    assert both.units == 3
    assert pickle.loads(pickle.dumps(both)).identity == both.identity != source.identity
    assert list(both.read(0)) == items
    with pytest.raises(DataError, match=r"1\.tar: y must be one image with its label, got \.a\.json, \.a\.jpeg, \.cls"):
        list(both.read(1))


@pytest.mark.parametrize(
    ("files", "names", "message"),
    [
        ([("a.jpg", b""), ("b.jpg", b""), ("b.cls", b"0")], None, "a has no label"),
        ([("a.jpg", b""), ("a.cls", b"cat")], None, "a has no label"),
        ([("a.jpg", b""), ("a.json", b"[]")], None, "a has no label"),
        ([("a.jpg", b""), ("a.png", b""), ("a.cls", b"0")], None, "a must be one image with its label"),
        ([("a.cls", b"0"), ("b.jpg", b""), ("b.cls", b"0")], None, "a must be one image with its label"),
        ([("a.jpg", b""), ("a.cls", b"-1")], None, "the label of a must be the number of a class, got -1"),
        ([("a.jpg", b""), ("a.json", b'{"label": true}')], None, "must be the number of a class, got True"),
        ([("a.jpg", b""), ("a.cls", b"50000000")], None, "the label of a must be below 1000000, got 50000000; more"),
        ([("a.jpg", b""), ("a.cls", b"0" * 2**25)], None, "a.cls has 33554432 bytes, a label at most"),
        ([("a.jpg", b""), ("a.cls", b"2")], ["x", "y"], r"must be a number in \[0, 2\), got 2"),
    ],
)
def test_samples_that_are_not_whole_are_refused(
    tmp_path: Path, files: list[tuple[str, bytes]], names: list[str] | None, message: str
) -> None:
    write_tar(tmp_path / "0.tar", files)
    with pytest.raises(DataError, match=message):
        everything(open_source([tmp_path], class_names=names))


def test_a_tar_of_tars_gives_a_class_for_each(tmp_path: Path) -> None:
    inner = [("n2.JPEG", content(2)), ("n1.JPEG", content(1))]
    second = write_tar(tmp_path / "b", inner)
    first = write_tar(tmp_path / "a", [("n0.JPEG", content(0))])
    write_tar(tmp_path / "train.tar", [("n02.tar", second), ("n01.tar", first)])
    source = open_source([tmp_path / "train.tar"])
    assert isinstance(source, NestedTar)
    assert (source.units, source.class_names) == (2, ("n01", "n02"))
    wanted = [Item("n0.JPEG", 0, content(0)), Item("n2.JPEG", 1, content(2)), Item("n1.JPEG", 1, content(1))]
    assert everything(source) == everything(pickle.loads(pickle.dumps(source))) == wanted
    with pytest.raises(ValueError, match="give it alone, without class names"):
        open_source([tmp_path / "train.tar"], class_names=["a", "b"])


def test_truncated_tar_files_are_refused(tmp_path: Path) -> None:
    files = [(f"{k}.jpg", bytes(600)) for k in range(3)] + [("3.jpg", bytes(600)), ("3.cls", b"0")]
    whole = write_tar(
        tmp_path / "0.tar", [pair for name, data in files[:1] for pair in [(name, data), ("0.cls", b"0")]]
    )
    path = tmp_path / "0.tar"
    for cut in (700, 1600):  # in the image; in the header of the label
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"0\.tar"):
            everything(open_source([path]))
    path.write_bytes(b"no archive" * 100)
    with pytest.raises(DataError, match="is no tar file"):
        open_source([path])
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"0\.tar"):
        open_source([path])


def test_a_tar_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no\.tar is no file"):
        open_source([tmp_path / "no.tar"])


def packed(folder: Path, path: Path, *options: str) -> Path:
    """What ``tar cf PATH -C FOLDER .`` writes: the folder itself first, names that begin with ``./``."""
    subprocess.run(["tar", "cf", path, *options, "-C", folder, "."], check=True)
    return path


def test_an_archive_of_a_folder_is_recognised(tmp_path: Path) -> None:
    for name in ("images", "classes"):
        (tmp_path / name).mkdir()
    for name, data in (("0.jpg", content(0)), ("0.cls", b"1"), ("._0.jpg", b""), (".DS_Store", b"")):
        (tmp_path / "images" / name).write_bytes(data)
    samples = open_source([packed(tmp_path / "images", tmp_path / "samples.tar", "--sort=name")])
    assert isinstance(samples, TarShards)
    assert everything(samples) == [Item("0.jpg", 1, content(0))]
    write_tar(tmp_path / "classes" / "n01.tar", [("n1.JPEG", content(1))])
    write_tar(tmp_path / "classes" / "._n01.tar", [])
    (tmp_path / "classes" / "readme.txt").write_text("")
    nested = open_source([packed(tmp_path / "classes", tmp_path / "train.tar")])
    assert isinstance(nested, NestedTar)
    assert nested.class_names == ("n01",)
    assert nested.left_alone == (("readme.txt", "no tar file of a class"),)
    assert everything(nested) == [Item("n1.JPEG", 0, content(1))]


def test_what_is_no_picture_in_the_tar_file_of_a_class_is_named(tmp_path: Path) -> None:
    inner = write_tar(tmp_path / "b", [("n1.JPEG", content(1)), ("notes.txt", b""), ("__MACOSX/._n1.JPEG", b"")])
    write_tar(tmp_path / "train.tar", [("n01.tar", inner)])
    first, second = everything(open_source([tmp_path / "train.tar"]))
    assert first == Item("n1.JPEG", 0, content(1))
    assert (second.name, str(second.data)) == ("notes.txt", "no picture by its ending")
    assert isinstance(second.data, NoPictureError)


def test_damaged_tar_files_end_in_an_error_that_names_them(tmp_path: Path) -> None:
    """Flipped bits, cuts and compression: never another error, never an endless search."""
    whole = write_tar(tmp_path / "0.tar", [pair for k in range(3) for pair in ((f"{k}.jpg", b"x"), (f"{k}.cls", b"0"))])
    rng = random.Random(0)
    for data in (whole, gzip.compress(whole)):
        for _ in range(150):
            spoilt = bytearray(data[: rng.choice([len(data), rng.randrange(len(data))])] or b"x")
            for _ in range(rng.choice([0, 1, 5])):
                spoilt[rng.randrange(min(len(spoilt), 2000))] ^= 1 << rng.randrange(8)
            (tmp_path / "0.tar").write_bytes(spoilt)
            try:
                everything(open_source([tmp_path / "0.tar"]))
            except DataError as error:
                said = str(error)
                assert "0.tar" in said
