"""Where images come from: a folder of class folders, tar files, or the hub; each read in units of some thousand images.

A unit is what is read, encoded and written in one go, so the order of images is the same whoever reads it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ismkit.data import DataError
from ismkit.pixels import ENDINGS, Item
from ismkit.tars import nested_or_sharded
from ismkit.vae import HOW_TO_PIN, check_commit

#: Commits of data sets on the hub, by name.
REVISIONS = {"ILSVRC/imagenet-1k": "49e2ee26f3810fb5a7536bbf732a7b07389a47b5"}


class Source(Protocol):
    """A labelled set of images in ``units`` parts.

    Attributes:
        identity: JSON object that says which set it is; other content has another.
        units: number of parts.
        images: number of images, or None where only reading all of them tells.
        class_names: one name per class, or None where only reading all of them tells how many there are.
    """

    @property
    def identity(self) -> dict[str, Any]: ...  # noqa: D102

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
    """The source of a name: a folder, tar files, or OWNER/NAME on the hub.

    Args:
        names: one folder (of class folders, or of .tar files), one or more .tar files, or one name on the hub.
        revision: commit of the hub.
        split: of the hub.
        class_names: one name per class, in the order of the labels; for tar files only, where labels are numbers.

    Raises:
        ValueError: if the names or options fit no source.
        DataError: if the source holds no images.
    """
    paths = [Path(name) for name in names]
    if len(paths) == 1 and paths[0].is_dir():
        if tars := sorted(path for path in paths[0].iterdir() if path.suffix == ".tar"):
            paths = tars
        elif class_names is not None:
            raise ValueError("class names are for tar files: those of a folder are the names of its folders")
        else:
            return ImageFolder(paths[0])
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


class ImageFolder:
    """Folders of images, one for each class, which has the folder's name; classes and files in order of their names.

    Images may lie in folders further down. Files with other endings than ``ENDINGS`` are not read.
    """

    def __init__(self, folder: str | os.PathLike[str], per_unit: int = 2048) -> None:
        self.folder, self.per_unit = Path(folder), per_unit
        self.files: list[str] = []
        self.labels: list[int] = []
        names = sorted(entry.name for entry in os.scandir(self.folder) if entry.is_dir())
        for label, name in enumerate(names):
            found = [
                os.path.relpath(os.path.join(at, file), self.folder)
                for at, _, files in os.walk(self.folder / name)
                for file in files
                if file.lower().endswith(ENDINGS)
            ]
            if not found:
                raise DataError(f"{self.folder / name} holds no images ({', '.join(ENDINGS)}): remove it, or fill it")
            self.files += sorted(found)
            self.labels += [label] * len(found)
        if not self.files:
            raise DataError(f"{self.folder} holds no class folders with images, and no .tar files")
        self.class_names: tuple[str, ...] | None = tuple(names)
        self.images: int | None = len(self.files)
        self.units = -(-len(self.files) // per_unit)
        listing = hashlib.sha256("\n".join(self.files).encode()).hexdigest()
        self.identity: dict[str, Any] = {"kind": "folder", "name": self.folder.resolve().name}
        self.identity |= {"images": self.images, "listing_sha256": listing}

    def read(self, unit: int) -> Iterator[Item]:
        """Images ``unit * per_unit`` and following."""
        part = slice(unit * self.per_unit, (unit + 1) * self.per_unit)
        for file, label in zip(self.files[part], self.labels[part], strict=True):
            yield Item(file, label, (self.folder / file).read_bytes())


@dataclass
class HubImages:
    """A data set on the hub, streamed: nothing but what is being read is kept. A file of it is a unit.

    Some, such as ImageNet, want their terms accepted first, and then a login (``hf auth login``).
    """

    name: str
    revision: str
    split: str = "train"

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
            held = sample[image]
            data = Path(held["path"]).read_bytes() if held["bytes"] is None else held["bytes"]
            yield Item(f"{self.split}/{unit}/{row}/{Path(held['path'] or 'image').name}", sample[label], data)
