"""Where images come from: a folder of class folders, tar files, or the hub; each read in units of some thousand images.

A unit is read, encoded and written at once, so the order of images does not depend on the process that reads it. Tar
files are ImageNet's own archive of archives, or shards as WebDataset writes them.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ismkit.data.decoding import (
    ENDINGS,
    MAX_BYTES,
    NoPictureError,
    PictureError,
    in_one_line,
    is_hidden,
    is_picture,
    picture_files,
    read_picture,
    search,
)
from ismkit.imagenet.pixels import Item
from ismkit.imagenet.vae import HOW_TO_PIN, check_commit
from ismkit.utils.checks import shown
from ismkit.utils.files import DataError, bytes_sum, irregular, json_sum

# Name and reason of each file that is no picture.
LeftAlone = tuple[tuple[str, str], ...]
#: Classes of tar files without names for them: a label beyond is a mistake, and would be found only after all images.
MAX_CLASSES = 1_000_000
MAX_LABEL_BYTES = 2**24


def nested_or_sharded(
    paths: Sequence[Path], class_names: Sequence[str] | None = None, left_alone: LeftAlone = ()
) -> NestedTar | TarShards:
    """A tar file of tar files, as ImageNet's own, or tar files of images with labels, whichever the first one is."""
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path} is no file")
    with _opened(paths[0]) as archive:
        files = (member.name for member in _members(archive, paths[0]) if member.isfile())
        first = next((name for name in files if name.lower().endswith((".tar", ".cls", ".json", *ENDINGS))), None)
    if first is None:
        raise DataError(f"{paths[0]} is empty, or holds neither images nor a tar file for each class")
    if not first.endswith(".tar"):
        return TarShards(tuple(paths), None if class_names is None else tuple(class_names), left_alone)
    if len(paths) > 1 or class_names is not None:
        raise ValueError(f"{paths[0]} holds a tar file for each class: give it alone, without class names")
    return NestedTar(paths[0], left_alone)


class NestedTar:
    """ImageNet's own ``ILSVRC2012_img_train.tar``: inside is one tar file for each class, which has its name.

    A class is a unit.
    """

    def __init__(self, path: Path, left_alone: LeftAlone = ()) -> None:
        self.path = path
        with _opened(path) as archive:
            names = [member.name for member in _members(archive, path) if not member.isdir()]
        self.inner = inner = sorted(name for name in names if name.endswith(".tar"))
        others = [(_plain(name), "no tar file of a class") for name in names if not name.endswith(".tar")]
        self.left_alone: LeftAlone = (*left_alone, *others)
        self.units, self.images = len(inner), None
        self.class_names: tuple[str, ...] | None = tuple(Path(name).stem for name in inner)
        self.identity: dict[str, Any] = {"kind": "tar of tars", "name": path.name, "bytes": path.stat().st_size}
        self.state = _state([path])

    @cached_property
    def _classes(self) -> dict[str, tarfile.TarInfo]:
        with _opened(self.path) as archive:
            return {member.name: member for member in _members(archive, self.path)}

    def read(self, unit: int) -> Iterator[Item]:
        """The images of class ``unit``; among them, without its bytes, whatever is none."""
        with _opened(self.path) as archive:
            inside = archive.extractfile(self._classes[self.inner[unit]])
            if inside is None:
                raise DataError(f"{self.path}: {self.inner[unit]} is no regular file")
            with _opened(self.path, inside) as images:
                for member in _members(images, self.path):
                    if not member.isdir():
                        yield Item(_plain(member.name), unit, _picture(images, member, self.path))


@dataclass
class TarShards:
    """Tar files as WebDataset writes them: an image, and beside it its label as ``.cls`` or as ``label`` in ``.json``.

    Files of a sample share their name up to the first dot of its last part, and follow each other. A tar file is a
    unit: a thousand images or a few in each are best.
    """

    paths: tuple[Path, ...]
    class_names: tuple[str, ...] | None = None
    left_alone: LeftAlone = ()
    images: None = field(default=None, init=False)

    @property
    def units(self) -> int:
        """Number of tar files."""
        return len(self.paths)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Names and sizes of the files, by their sum."""
        listing = [[path.name, path.stat().st_size] for path in self.paths]
        return {"kind": "tar", "files": len(self.paths), "listing_sha256": json_sum(listing)}

    @cached_property
    def state(self) -> str:
        """Sizes and times of the files, by their sum."""
        return _state(self.paths)

    def read(self, unit: int) -> Iterator[Item]:
        """The images of tar file ``unit``."""
        path, key, sample = self.paths[unit], "", {}  # type: ignore[var-annotated]
        with _opened(path) as archive:
            for member in _members(archive, path):
                if not member.isfile():
                    continue
                folder, base = os.path.split(_plain(member.name))
                stem, dot, ending = base.partition(".")
                if os.path.join(folder, stem) != key:
                    if sample:
                        yield self._item(path, key, sample)
                    key, sample = os.path.join(folder, stem), {}
                sample[(dot + ending).lower()] = _part(archive, member, path, (dot + ending).lower())
        if sample:
            yield self._item(path, key, sample)

    def _item(self, path: Path, key: str, sample: dict[str, bytes | PictureError]) -> Item:
        images = [ending for ending in sample if ending in ENDINGS]
        if len(images) != 1:
            raise DataError(
                f"{path}: {key} must be one image with its label, got {', '.join(sample)}. Files of a sample follow "
                "each other: `tar --sort=name` writes them so"
            )
        try:
            label = int(sample[".cls"]) if ".cls" in sample else json.loads(sample[".json"])["label"]  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise DataError(
                f"{path}: {key} has no label, neither as .cls nor as `label` in .json ({error}). A tar file of class "
                "folders must be unpacked, and the folder given"
            ) from error
        return Item(key + images[0], _label(f"{path}: the label of {key}", label, self.class_names), sample[images[0]])


def _state(paths: Iterable[Path]) -> str:
    """Whether files were touched, without reading them: a checksum of their sizes and times of change."""
    touched: list[Any] = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:  # a link to nothing: listed as corrupt when it is read
            touched.append(error.errno)
        else:
            touched.append([stat.st_size, stat.st_mtime_ns])
    return json_sum(touched)


#: What the standard library raises for damaged archives, compressed ones too.
_DAMAGES = (tarfile.TarError, zlib.error, EOFError, ValueError, OverflowError, OSError)


def _opened(path: Path, file: Any = None) -> tarfile.TarFile:
    try:
        return tarfile.open(path if file is None else None, fileobj=file)
    except _DAMAGES as error:
        raise DataError(f"{path} is no tar file, or a truncated one ({shown(error)})") from error


def _members(archive: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """What an archive holds, less what is hidden; DataError if it ends too early."""
    members = iter(archive)
    while True:
        try:
            member = next(members, None)
        except _DAMAGES as error:
            raise DataError(f"{path} is truncated or damaged ({shown(error)})") from error
        if member is None:
            return
        if member.size < 0:  # the next one would be sought before this one, again and again
            raise DataError(f"{path} is damaged: {member.name} has {member.size} bytes")
        if not any(is_hidden(part) for part in _plain(member.name).split("/")):
            yield member


def _plain(name: str) -> str:
    """A member's name without the ``./`` that ``tar -C FOLDER .`` puts first; bytes that are no UTF-8 spelt out."""
    return os.fsencode(name.removeprefix("./")).decode(errors="backslashreplace")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    try:
        return archive.extractfile(member).read()  # type: ignore[union-attr]
    except _DAMAGES as error:
        raise DataError(f"{path} is truncated or damaged ({shown(error)})") from error


def _picture(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes | PictureError:
    """The bytes of a picture, or why there are none."""
    if not is_picture(member.name):
        return NoPictureError("no picture by its ending")
    if not member.isfile():
        return PictureError("it is no regular file, but a link or a device")
    if member.size > MAX_BYTES:
        return PictureError(f"it has {member.size} bytes, at most {MAX_BYTES} are read")
    return _content(archive, member, path)


def _part(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, ending: str) -> bytes | PictureError:
    """The bytes of a part of a sample, which are read if it is the picture or its label."""
    if ending in ENDINGS:
        return _picture(archive, member, path)
    if ending not in (".cls", ".json"):
        return b""
    if member.size > MAX_LABEL_BYTES:
        raise DataError(f"{path}: {member.name} has {member.size} bytes, a label at most {MAX_LABEL_BYTES}")
    return _content(archive, member, path)


def _label(whose: str, label: Any, class_names: Sequence[str] | None) -> int:
    """A label that is the number of a class; else DataError."""
    classes = "the number of a class" if class_names is None else f"a number in [0, {len(class_names)})"
    if type(label) is not int or label < 0 or (class_names is not None and label >= len(class_names)):
        raise DataError(f"{whose} must be {classes}, got {label!r}")
    if label >= MAX_CLASSES and class_names is None:
        raise DataError(f"{whose} must be below {MAX_CLASSES}, got {label}; more classes need names (--class-names)")
    return label


#: Commits of data sets on the hub, by name.
REVISIONS = {"ILSVRC/imagenet-1k": "49e2ee26f3810fb5a7536bbf732a7b07389a47b5"}


class Source(Protocol):
    """A labelled set of images in ``units`` parts.

    Attributes:
        identity: JSON object that says which set it is, by what is known without reading all images.
        state: text that stays the same as long as no file is touched; where it has changed, contents are compared.
        units: number of parts.
        images: number of images, or None where only reading all of them tells.
        class_names: one name per class, or None where only reading all of them tells how many there are.
        left_alone: name and reason of the files that are no pictures, so far as they are known without reading all.
    """

    @property
    def left_alone(self) -> LeftAlone: ...  # noqa: D102

    @property
    def identity(self) -> dict[str, Any]: ...  # noqa: D102

    @property
    def state(self) -> str: ...  # noqa: D102

    @property
    def units(self) -> int: ...  # noqa: D102

    @property
    def images(self) -> int | None: ...  # noqa: D102

    @property
    def class_names(self) -> tuple[str, ...] | None: ...  # noqa: D102

    def read(self, unit: int) -> Iterator[Item]:
        """The images of a unit, in an order that is always the same."""


def open_source(
    names: Sequence[str | os.PathLike[str]],
    *,
    revision: str | None = None,
    split: str = "train",
    class_names: Sequence[str] | None = None,
) -> Source:
    """Open a set of images: a folder, tar files, or a data set on the hub.

    Args:
        names: one folder (of class folders, of images without classes, or of .tar files), one or more .tar files, or
            one name OWNER/NAME on the hub.
        revision: commit of the hub, 40 hexadecimal digits; files have none.
        split: of the hub; of files all are read.
        class_names: one name per class, in the order of the labels; for tar files only, where labels are numbers.

    Returns:
        The source, see :class:`Source`. Its ``left_alone`` says which files were found that are no pictures: hidden
        ones are not among them. Where a folder holds class folders and tar files, the tar files are left alone.

    Raises:
        ValueError: if the names or options fit no source.
        DataError: if the source holds no images.

    Example:
        >>> import tempfile
        >>> from ismkit import open_source, photo_folder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     source = open_source([photo_folder(folder, per_class=2, side=32)])
        ...     items = list(source.read(0))
        >>> source.images, source.class_names
        (8, ('astronaut', 'cat', 'coffee', 'rocket'))
        >>> items[2].name, items[2].label, items[2].data[1:4]
        ('cat/0000.png', 1, b'PNG')

        ImageNet on the hub, whose commit is pinned in ``REVISIONS``; its terms must be accepted first:

        >>> open_source(["ILSVRC/imagenet-1k"]).images  # doctest: +SKIP
        1281167
    """
    paths = [Path(name) for name in names]
    if len(paths) == 1 and paths[0].is_dir():
        tars = sorted(path for path in paths[0].iterdir() if path.suffix == ".tar" and not is_hidden(path.name))
        if not tars or any(reason is None and os.sep in name for name, reason in search(paths[0])):
            if class_names is not None:
                raise ValueError("class names are for tar files: those of a folder are the names of its folders")
            return ImageFolder(paths[0])
        others = [found for found in search(paths[0]) if paths[0] / found[0] not in tars]
        return nested_or_sharded(tars, class_names, tuple((name, reason or "no tar file") for name, reason in others))
    if paths and all(path.suffix == ".tar" for path in paths):
        return nested_or_sharded(paths, class_names)
    name = os.fspath(names[0]) if len(names) == 1 else ""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        listed = ", ".join(str(name) for name in names) or "nothing"
        raise ValueError(f"a source is a folder, .tar files, or OWNER/NAME on the hub, and not: {listed}")
    if class_names is not None:
        raise ValueError("class names are for tar files: the hub names its classes")
    if (revision := revision or REVISIONS.get(name)) is None:
        raise ValueError(f"{name} is no folder here; of the hub, its revision is needed: {HOW_TO_PIN}")
    return HubImages(name, revision, split)


def read_class_names(path: str | os.PathLike[str]) -> list[str]:
    r"""Read the names of classes from a file: one a line, in the order of the labels.

    Spaces around a name, a byte-order mark and blank lines at the end are left out.

    Args:
        path: of the file, in UTF-8.

    Returns:
        The names.

    Raises:
        DataError: if it is missing, no text or empty, or a line between the names is blank.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ismkit.imagenet.sources import read_class_names
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "names.txt"
        ...     _ = path.write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n\r\n")
        ...     read_class_names(path)
        ['cat', 'dog']
    """
    if (kind := irregular(path)) is not None:
        raise DataError(f"{path} is {kind}: give a file of names, one a line")
    try:
        # Not splitlines: a name may hold a separator of Unicode, which would shift all labels after it.
        names = [line.strip() for line in Path(path).read_text("utf-8-sig").rstrip().split("\n")]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as names in UTF-8, one a line: {error}") from error
    if names == [""]:
        raise DataError(f"{path} holds no names: one a line")
    if "" in names:
        raise DataError(
            f"{path}: line {names.index('') + 1} is blank, and would name class {names.index('')}: remove it"
        )
    return names


class ImageFolder:
    """Folders of images, one for each class; classes and files in order of their names.

    A class has the name of its folder. Images may lie in folders further down. A folder that holds images and no
    folders is one class, ``all``. Hidden folders are no classes, and files
    with other endings than ``ENDINGS`` are left alone: :func:`ismkit.data.decoding.picture_files` finds the images.

    Args:
        folder: that holds the class folders, or images without classes.
        per_unit: images in a unit, which is read, encoded and written in one go.

    Attributes:
        class_names: names of the class folders.
        files: the images, by their paths below the folder.
        labels: the number of each image's class.
        images: number of images.
        units: number of units.
        identity: JSON that says which set it is, with a checksum of the list of files.
        state: a checksum of the files' sizes and times of change.
        left_alone: name and reason of the files that are no pictures of a class, and of linked folders in a class.

    Raises:
        DataError: if there are no images, a class folder holds none, or one cannot be read.

    Example:
        >>> import tempfile
        >>> from ismkit import ImageFolder, photo_folder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     source = ImageFolder(photo_folder(folder, per_class=3, side=32), per_unit=5)
        ...     labels = [[item.label for item in source.read(unit)] for unit in range(source.units)]
        >>> source.images, source.units, labels
        (12, 3, [[0, 0, 0, 1, 1], [1, 2, 2, 2, 3], [3, 3]])
    """

    def __init__(self, folder: str | os.PathLike[str], per_unit: int = 2048) -> None:
        self.folder, self.per_unit = Path(folder), per_unit
        self.files: list[str] = []
        self.labels: list[int] = []
        found = picture_files(self.folder)
        linked = {name for name, _ in found.left_alone}  # the folder itself, say, which is no class
        names = sorted(
            name
            for name in os.listdir(self.folder)
            if not is_hidden(name) and name not in linked and (self.folder / name).is_dir()
        )
        by_class: dict[str, list[str]] = {name: [] for name in names} if names else {"all": list(found.names)}
        for file in found.names if names else ():
            if os.sep in file:
                by_class[file.partition(os.sep)[0]].append(file)
        beside = [(name, "outside of the class folders") for name in found.names if names and os.sep not in name]
        self.left_alone: LeftAlone = tuple(sorted([*found.left_alone, *beside]))
        for label, (name, files) in enumerate(by_class.items()):
            if not files and names:
                raise DataError(f"{self.folder / name} holds no images ({', '.join(ENDINGS)}): remove it, or fill it")
            self.files += sorted(files)
            self.labels += [label] * len(files)
        if not self.files:
            told = f"; {in_one_line(self.left_alone)}" if self.left_alone else ""
            raise DataError(f"{self.folder} holds no images, in class folders or without, and no .tar files{told}")
        self.class_names: tuple[str, ...] | None = tuple(by_class)
        self.images: int | None = len(self.files)
        self.units = -(-len(self.files) // per_unit)
        listing = bytes_sum(os.fsencode("\n".join(self.files)))
        self.identity: dict[str, Any] = {"kind": "folder", "name": self.folder.resolve().name}
        self.identity |= {"images": self.images, "listing_sha256": listing}

    @cached_property
    def state(self) -> str:  # noqa: D102 - an attribute: a look at each file takes a while
        return _state(self.folder / file for file in self.files)

    def read(self, unit: int) -> Iterator[Item]:
        """Images ``unit * per_unit`` and following."""
        part = slice(unit * self.per_unit, (unit + 1) * self.per_unit)
        for file, label in zip(self.files[part], self.labels[part], strict=True):
            yield Item(os.fsencode(file).decode(errors="backslashreplace"), label, _from_disk(self.folder / file))


def _from_disk(path: Path) -> bytes | PictureError:
    """The bytes of a picture, or why there are none; an error of the disk is none of the picture."""
    try:
        return read_picture(path)
    except PictureError as error:
        return error


@dataclass
class HubImages:
    """A data set on the hub, streamed: nothing but what is being read is kept. A file of it is a unit.

    Some, such as ImageNet, want their terms accepted first, and then a login (``hf auth login``).
    """

    name: str
    revision: str
    split: str = "train"
    left_alone: LeftAlone = ()

    def __post_init__(self) -> None:
        check_commit(self.revision)

    @cached_property
    def _stream(self) -> Any:
        import datasets

        try:
            return datasets.load_dataset(self.name, split=self.split, revision=self.revision, streaming=True)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise DataError(
                f"{self.name}, split {self.split} at {self.revision}, cannot be had from the hub: {error}. If it asks "
                "you to accept its terms, do so on its page, then log in with `hf auth login`"
            ) from error

    @cached_property
    def _columns(self) -> tuple[str, str]:
        import datasets

        found: dict[type, str] = {}
        for name, feature in (self._stream.features or {}).items():
            found.setdefault(type(feature), name)
        try:
            return found[datasets.Image], found[datasets.ClassLabel]
        except KeyError as error:
            raise DataError(f"{self.name} must hold an image and a class label, got {self._stream.features}") from error

    @property
    def identity(self) -> dict[str, Any]:
        """Name, commit and split."""
        return {"kind": "hub", "name": self.name, "revision": self.revision, "split": self.split}

    @property
    def state(self) -> str:
        """The commit, which pins the contents."""
        return self.revision

    @property
    def units(self) -> int:
        """Number of files."""
        return int(self._stream.num_shards)

    @property
    def images(self) -> int | None:
        """Number of images, where the data set says it."""
        splits = self._stream.info.splits or {}
        return int(splits[self.split].num_examples) or None if self.split in splits else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self._stream.features[self._columns[1]].names)

    def read(self, unit: int) -> Iterator[Item]:
        """The images of file ``unit``."""
        import datasets

        image, label = self._columns
        stream = self._stream.cast_column(image, datasets.Image(decode=False))
        for row, sample in enumerate(stream.shard(num_shards=self.units, index=unit)):
            held = sample[image] or {"path": None, "bytes": None}
            name = f"{self.split}/{unit}/{row}/{Path(held['path'] or 'image').name}"
            data = held["bytes"]
            if data is None:
                data = _from_disk(Path(held["path"])) if held["path"] else PictureError("the row holds no image")
            yield Item(name, _label(f"{self.name}: the label of {name}", sample[label], self.class_names), data)
