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
#: The released networks: a part of the package.
WEIGHTS = Path(__file__).resolve().parents[1] / "models" / "weights"
#: Where Debian's packages put data sets.
DEBIAN = Path("/usr/share/datasets")


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


def weights_file(name: str) -> Path:
    """The file of a released network, such as ``fashion_ism_plus``, inside the package."""
    return WEIGHTS / f"{name}.safetensors"


def data_folders(name: str) -> list[Path]:
    """Where the data set ``name`` is looked for, in this order; the last place is where it is fetched to.

    With ``$ISMKIT_DATA`` set that is the folder ``name`` in it, and no other place. Without, it is ``data/`` of a
    checkout, the place of Debian's packages, and the user's cache (``$XDG_CACHE_HOME``, by default ``~/.cache``).
    """
    if named := os.environ.get("ISMKIT_DATA"):
        return [Path(named).expanduser() / name]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ismkit"
    checkout = [CHECKOUT / "data"] if in_checkout() else []
    return [folder / name for folder in (*checkout, DEBIAN, cache)]


def in_checkout() -> bool:
    """Whether the package stands in a checkout of the kit, and not in site-packages."""
    return (CHECKOUT / "pyproject.toml").is_file()


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
    inside = here.is_relative_to(CHECKOUT) and in_checkout()
    return (CHECKOUT if inside else here) / "out"
