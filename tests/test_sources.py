"""Sources: the same images, labels and order from folders, tar files and the hub; what is wrong is named."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest

from ismkit.data import DataError
from ismkit.sources import REVISIONS, HubImages, ImageFolder, Item, NestedTar, Source, TarShards, open_source


def content(k: int) -> bytes:
    return f"image {k}".encode()


def everything(source: Source) -> list[Item]:
    return [item for unit in range(source.units) for item in source.read(unit)]


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    path.write_bytes(file.getvalue())
    return file.getvalue()


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
    with pytest.raises(DataError, match="holds no class folders"):
        open_source([tmp_path / "bare"])
    with pytest.raises(ValueError, match="class names are for tar files"):
        open_source([folder], class_names=["a"])


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


def test_a_tar_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no\.tar is no file"):
        open_source([tmp_path / "no.tar"])
