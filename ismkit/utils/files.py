"""Files and folders of the kit: written atomically, verified by checksum, found where they belong."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

#: The folder that holds the package: the top of a checkout, or site-packages.
CHECKOUT = Path(__file__).resolve().parents[2]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for binary writing that takes the place of ``path`` when the block ends, atomically.

    Makes the folder. If the block or the disk fails, an earlier ``path`` stays as it was and nothing else is left.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def file_sum(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sum(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class DataError(Exception):
    """A data file or folder is missing, truncated or altered; the message names it and the remedy."""


def data_root() -> Path:
    """The ``data/`` folder: ``$ISMKIT_DATA`` if set, else the one beside the package in a checkout."""
    named = os.environ.get("ISMKIT_DATA")
    root = Path(named) if named else CHECKOUT / "data"
    if not root.is_dir():
        origin = "named by ISMKIT_DATA" if named else "expected beside the package"
        raise DataError(
            f"no data folder at {root} ({origin}): set ISMKIT_DATA to the data/ folder of a clone of the repository"
        )
    return root


def verify_sha256(path: Path, expected: str, size: int | None = None, remedy: str | None = None) -> None:
    """Raise :class:`DataError` unless the file exists and has this SHA-256 sum (64 hex digits).

    With the right ``size`` in bytes, the message tells a truncated file from an altered one. It ends with the
    ``remedy``, by default that for a file of the repository.
    """
    repair = remedy or f"restore it with `git checkout -- {path}`, or clone the repository again"
    if not path.is_file():
        raise DataError(f"{path} is missing: {repair}")
    held = path.stat().st_size
    if size is not None and held < size:
        raise DataError(f"{path} is truncated, it holds {held} of {size} bytes: {repair}")
    if (actual := file_sum(path)) != expected:
        raise DataError(f"{path} is altered, its SHA-256 sum is {actual}, expected {expected}: {repair}")


def out_dir() -> Path:
    """Where runs and notebooks leave their files: ``$ISMKIT_OUT``, or the folder ``out`` of the working directory.

    Anywhere in a checkout of the kit it is ``out`` at the top of the checkout: a notebook's kernel starts in the
    notebook's own folder.
    """
    if named := os.environ.get("ISMKIT_OUT"):
        return Path(named).expanduser()
    here = Path.cwd()
    inside = here.is_relative_to(CHECKOUT) and (CHECKOUT / "pyproject.toml").is_file()
    return (CHECKOUT if inside else here) / "out"
