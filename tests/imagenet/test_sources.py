"""Sources: images, labels and order from folders and the hub; what is wrong is named."""

import os
import pickle
from pathlib import Path

import pytest

from ismkit.data.decoding import PictureError
from ismkit.imagenet.pixels import Item
from ismkit.imagenet.sources import REVISIONS, HubImages, ImageFolder, Source, open_source, read_class_names
from ismkit.utils.files import DataError


def content(k: int) -> bytes:
    return f"image {k}".encode()


def everything(source: Source) -> list[Item]:
    return [item for unit in range(source.units) for item in source.read(unit)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 3 and 2 images, with a file that is no image."""
    for k, name in enumerate(["b/2.png", "b/1.JPEG", "b/more/0.jpg", "a/9.png", "a/10.png"]):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(content(k))
    (tmp_path / "photos" / "a" / "Thumbs.db").write_bytes(b"")
    (tmp_path / "photos" / "readme.txt").write_bytes(b"")
    return tmp_path / "photos"


def test_a_folder_gives_classes_and_files_by_name(folder: Path) -> None:
    source = open_source([folder])
    assert source.class_names == ("a", "b")
    assert everything(source) == [
        Item("a/10.png", 0, content(4)),
        Item("a/9.png", 0, content(3)),
        Item("b/1.JPEG", 1, content(1)),
        Item("b/2.png", 1, content(0)),
        Item("b/more/0.jpg", 1, content(2)),
    ]
    in_pairs = ImageFolder(folder, per_unit=2)
    assert (in_pairs.units, in_pairs.images) == (3, 5)
    assert everything(in_pairs) == everything(source)
    assert everything(pickle.loads(pickle.dumps(in_pairs))) == everything(source)


def test_a_folder_is_known_by_its_files(folder: Path) -> None:
    before = ImageFolder(folder).identity
    assert ImageFolder(folder).identity == before
    (folder / "a" / "9.png").rename(folder / "a" / "8.png")
    assert ImageFolder(folder).identity != before


def test_folders_without_images_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no images \(\.jpeg"):
        ImageFolder(folder)
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="holds no images, in class folders or without"):
        open_source([tmp_path / "bare"])
    with pytest.raises(ValueError, match="class names are for tar files"):
        open_source([folder], class_names=["a"])


def test_a_folder_without_folders_is_one_class(tmp_path: Path) -> None:
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(content(k))
    (tmp_path / "notes.txt").touch()
    source = ImageFolder(tmp_path, per_unit=2)
    assert (source.class_names, source.images, source.units) == (("all",), 3, 2)
    assert [(item.name, item.label, item.data) for unit in range(2) for item in source.read(unit)] == [
        (f"{k}.png", 0, content(k)) for k in range(3)
    ]
    assert source.left_alone == (("notes.txt", "no picture by its ending"),)
    (tmp_path / "cat").mkdir()  # now the pictures beside it are of no class
    with pytest.raises(DataError, match="cat holds no images"):
        open_source([tmp_path])


def test_the_hub_gives_its_files_as_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ape", "bee"])})
    for k in range(2):
        rows = {"image": [{"bytes": content(3 * k + i), "path": f"n{i}.JPEG"} for i in range(3)], "label": [k, 0, 1]}
        made = datasets.Dataset.from_dict(rows, features=features)
        (tmp_path / "set" / "data").mkdir(parents=True, exist_ok=True)
        made.to_parquet(tmp_path / "set" / "data" / f"train-0000{k}-of-00002.parquet")
    source = HubImages(str(tmp_path / "set"), "0" * 40)
    assert source.class_names == ("ape", "bee")
    assert source.units == 2
    assert source.images is None
    wanted = [
        Item(f"train/{k}/{i}/n{i}.JPEG", label, content(3 * k + i))
        for k in range(2)
        for i, label in enumerate([k, 0, 1])
    ]
    assert everything(source) == wanted
    with pytest.raises(DataError, match="split nowhere at 0000"):
        _ = HubImages(str(tmp_path / "set"), "0" * 40, "nowhere").units


def test_names_on_the_hub_need_a_commit() -> None:
    source = open_source(["ILSVRC/imagenet-1k"], split="validation")
    assert source.identity == {
        "kind": "hub",
        "name": "ILSVRC/imagenet-1k",
        "revision": REVISIONS["ILSVRC/imagenet-1k"],
        "split": "validation",
    }
    with pytest.raises(ValueError, match="of the hub, its revision is needed: the commit, 40"):
        open_source(["owner/name"])
    with pytest.raises(ValueError, match="revision must be a commit, got 'main'"):
        open_source(["owner/name"], revision="main")
    with pytest.raises(ValueError, match="the hub names its classes"):
        open_source(["ILSVRC/imagenet-1k"], class_names=["a"])


@pytest.mark.parametrize("names", [[], ["nowhere"], ["a/b", "c/d"]])
def test_names_of_nothing_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"a source is a folder, \.tar files, or OWNER/NAME on the hub, and not: "):
        open_source(names)


def test_hidden_files_are_no_images_and_hidden_folders_no_classes(folder: Path) -> None:
    before = ImageFolder(folder)
    hidden = (".ipynb_checkpoints/9.png", "__MACOSX/a/9.png", "a/._9.png", "a/.ipynb_checkpoints/9.png", ".DS_Store")
    for name in hidden:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    after = ImageFolder(folder)
    assert (after.class_names, after.identity) == (("a", "b"), before.identity)
    assert everything(after) == everything(before)
    assert after.left_alone == before.left_alone == (("readme.txt", "no picture by its ending"),)


def test_images_of_all_endings_are_read_and_what_is_left_alone_is_named(folder: Path) -> None:
    for name in ("a/1.gif", "a/2.tif", "a/3.TIFF", "a/4.webp", "a/5.bmp", "a/notes.txt", "top.png"):
        (folder / name).write_bytes(content(7))
    (folder / "a" / "more").symlink_to(folder / "b")
    (folder / "c").symlink_to(folder / "b")
    (folder / "all").symlink_to(".")
    source = open_source([folder])
    assert source.class_names == ("a", "b", "c")
    assert source.images == 13
    assert dict(source.left_alone) == {
        "a/more": "a linked folder",
        "a/notes.txt": "no picture by its ending",
        "all": "a linked folder",
        "readme.txt": "no picture by its ending",
        "top.png": "outside of the class folders",
    }


def test_a_tar_file_beside_class_folders_is_left_alone(folder: Path) -> None:
    (folder / "train.tar").write_bytes(b"")
    source = open_source([folder])
    assert isinstance(source, ImageFolder)
    assert ("train.tar", "no picture by its ending") in source.left_alone
    with pytest.raises(ValueError, match="class names are for tar files"):
        open_source([folder], class_names=["a"])


def test_links_to_nothing_and_fifos_have_a_reason_in_place_of_bytes(folder: Path) -> None:
    (folder / "a" / "dangling.png").symlink_to("nothing.png")
    os.mkfifo(folder / "a" / "fifo.png")
    found = {item.name: item.data for item in everything(open_source([folder]))}
    assert str(found["a/dangling.png"]) == "it is a link to nothing"
    assert str(found["a/fifo.png"]) == "it is no regular file"
    (folder / "a" / "9.png").unlink()
    source = ImageFolder(folder)
    (folder / "b" / "2.png").unlink()
    with pytest.raises(DataError, match=r"b/2\.png cannot be read: No such file") as error:
        everything(source)  # it was there: no fault of the picture
    assert not isinstance(error.value, PictureError)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"cat\ndog\n", ["cat", "dog"]),
        (b"\xef\xbb\xbfcat\r\ndog", ["cat", "dog"]),
        (b"cat  \n dog\n\n \n\n", ["cat", "dog"]),
        ("Kätzchen\nhot dog".encode(), ["Kätzchen", "hot dog"]),
    ],
)
def test_class_names_are_read_as_written(content: bytes, names: list[str], tmp_path: Path) -> None:
    """faults B9: the byte-order mark was a part of the first name, and a blank line was a class."""
    (tmp_path / "names.txt").write_bytes(content)
    assert read_class_names(tmp_path / "names.txt") == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\n\ndog\n", "line 2 is blank, and would name class 1: remove it"),
        (b"\ncat\n", "line 1 is blank, and would name class 0: remove it"),
        (b"", "holds no names: one a line"),
        (b"\xef\xbb\xbf\r\n", "holds no names: one a line"),
        (b"cat\n\xff\xfed\0o\0g\0", "cannot be read as names in UTF-8, one a line: "),
        (None, "cannot be read as names in UTF-8, one a line: .*No such file"),
    ],
)
def test_class_names_that_are_none(content: bytes | None, message: str, tmp_path: Path) -> None:
    """faults B9."""
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(DataError, match=f"names.txt:? {message}"):
        read_class_names(tmp_path / "names.txt")
