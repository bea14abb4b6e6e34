"""Images in tar files: ImageNet's own archive of archives, and shards as WebDataset writes them."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ismkit.data import DataError
from ismkit.pixels import ENDINGS, Item


def nested_or_sharded(paths: Sequence[Path], class_names: Sequence[str] | None = None) -> NestedTar | TarShards:
    """A tar file of tar files, as ImageNet's own, or tar files of images with labels, whichever the first one is."""
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path} is no file")
    with _opened(paths[0]) as archive:
        first = archive.next()
    if first is None:
        raise DataError(f"{paths[0]} is empty")
    if not first.name.endswith(".tar"):
        return TarShards(tuple(paths), None if class_names is None else tuple(class_names))
    if len(paths) > 1 or class_names is not None:
        raise ValueError(f"{paths[0]} holds a tar file for each class: give it alone, without class names")
    return NestedTar(paths[0])


class NestedTar:
    """ImageNet's own ``ILSVRC2012_img_train.tar``: inside is one tar file for each class, which has its name.

    A class is a unit.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _opened(path) as archive:
            inner = sorted(member.name for member in archive if member.name.endswith(".tar"))
        self.inner = inner
        self.units, self.images = len(inner), None
        self.class_names: tuple[str, ...] | None = tuple(Path(name).stem for name in inner)
        self.identity: dict[str, Any] = {"kind": "tar of tars", "name": path.name, "bytes": path.stat().st_size}

    @cached_property
    def _members(self) -> dict[str, tarfile.TarInfo]:
        with _opened(self.path) as archive:
            return {member.name: member for member in archive}

    def read(self, unit: int) -> Iterator[Item]:
        """The images of class ``unit``."""
        with _opened(self.path) as archive:
            inside = archive.extractfile(self._members[self.inner[unit]])
            with _opened(self.path, inside) as images:
                for name, data in _files(images, self.path):
                    yield Item(name, unit, data)


@dataclass
class TarShards:
    """Tar files as WebDataset writes them: an image, and beside it its label as ``.cls`` or as ``label`` in ``.json``.

    Files of a sample share their name up to the first dot of its last part, and follow each other. A tar file is a
    unit: a thousand images or a few in each are best.
    """

    paths: tuple[Path, ...]
    class_names: tuple[str, ...] | None = None
    images: None = field(default=None, init=False)

    @property
    def units(self) -> int:
        """Number of tar files."""
        return len(self.paths)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Names and sizes of the files, by their sum."""
        listing = json.dumps([[path.name, path.stat().st_size] for path in self.paths])
        return {"kind": "tar", "files": len(self.paths), "listing_sha256": hashlib.sha256(listing.encode()).hexdigest()}

    def read(self, unit: int) -> Iterator[Item]:
        """The images of tar file ``unit``."""
        path, key, sample = self.paths[unit], "", {}  # type: ignore[var-annotated]
        with _opened(path) as archive:
            for name, data in _files(archive, path):
                folder, base = os.path.split(name)
                stem, dot, ending = base.partition(".")
                if os.path.join(folder, stem) != key:
                    if sample:
                        yield self._item(path, key, sample)
                    key, sample = os.path.join(folder, stem), {}
                sample[(dot + ending).lower()] = data
        if sample:
            yield self._item(path, key, sample)

    def _item(self, path: Path, key: str, sample: dict[str, bytes]) -> Item:
        images = [ending for ending in sample if ending in ENDINGS]
        if len(images) != 1:
            raise DataError(f"{path}: {key} must be one image with its label, got {', '.join(sample)}")
        try:
            label = int(sample[".cls"]) if ".cls" in sample else json.loads(sample[".json"])["label"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: {key} has no label, neither as .cls nor as `label` in .json ({error})") from error
        classes = "the number of a class" if self.class_names is None else f"a number in [0, {len(self.class_names)})"
        if type(label) is not int or label < 0 or (self.class_names is not None and label >= len(self.class_names)):
            raise DataError(f"{path}: the label of {key} must be {classes}, got {label!r}")
        return Item(key + images[0], label, sample[images[0]])


def _opened(path: Path, file: Any = None) -> tarfile.TarFile:
    try:
        return tarfile.open(path if file is None else None, fileobj=file)
    except tarfile.ReadError as error:
        raise DataError(f"{path} is no tar file, or a truncated one ({error})") from error


def _files(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of an archive; DataError if it ends too early."""
    try:
        for member in archive:
            if member.isfile():
                yield member.name, archive.extractfile(member).read()  # type: ignore[union-attr]
    except tarfile.ReadError as error:
        raise DataError(f"{path} is truncated or damaged ({error})") from error
