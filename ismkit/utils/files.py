"""Files and folders of the kit: written atomically, verified by checksum, found where they belong."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ismkit.utils.checks import shown

try:
    import fcntl
except ImportError:
    # Here and not where a lock is taken: a training should not run for hours and fail when it saves.
    # An OSError, which the command line reports in one line.
    raise OSError("ismkit needs Linux, macOS or Windows with WSL 2: this Python cannot lock files (no fcntl)") from None

#: The folder that holds the package: the top of a checkout, or site-packages.
CHECKOUT = Path(__file__).resolve().parents[2]
#: The released networks: a part of the package.
WEIGHTS = Path(__file__).resolve().parents[1] / "models" / "weights"
#: SHA-256 sums of the released networks, by the names of their files there.
WEIGHT_SUMS = {
    "emoji_autoencoder": "49eef46d5be1d03717041e228bb58630c0a7f0f886a794a1acf0984494d9f815",
    "emoji_features": "9c6d7e39e4b24f147030439ca9de94349fd00b9560b7426a9ec3af8328db9068",
    "emoji_ism_plus": "4f6e248d0d1b1dd12b00e777849a81092fc7f103b302bd4ada4241dfd032bdb8",
    "fashion_features": "e7e1f71219246579d008f178ed4c0630e2c9991dc9b5f4a8fc46ec38c6abba42",
    "fashion_autoencoder": "5ceb6324f812045386fe7b5f09d77b03a61c5377dafbe02d4f393519e1a27963",
    "fashion_shortcut_finest_level": "031acb65391aa1505d8c006446b21ed62e4d17fed33b707c08cf58b254a201bd",
    "fashion_ism": "2c963bcae2a441dc410d3be0bbe9b505a08ee288bdede796e71ec1c824667385",
    "gaussians_shortcut": "4d52ea9bfb0aec7b608a509bc86d3b27eb355badb8397909f6a53355bdd9eff0",
    "fashion_ism_plus": "239de3e6241a97169c942f42ac7ae1c2674c28ab666ca3b5dbb2e8b918eb831c",
}
#: Where Debian's packages put data sets.
DEBIAN = Path("/usr/share/datasets")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for binary writing that replaces ``path``, atomically, when the block ends.

    The folder is made. If the block or the disk fails, an earlier ``path`` stays as it was and no other file is left. A
    link stays: the file that it leads to is written.

    Args:
        path: the file to write.

    Yields:
        A file open for writing bytes.

    Raises:
        OSError: if the file cannot be written, or what is there is no regular file.

    Example:
        A write that fails leaves the earlier file alone:

        >>> import tempfile
        >>> from pathlib import Path
        >>> from ismkit.utils import replacing
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "results" / "table.csv"
        ...     with replacing(path) as file:
        ...         _ = file.write(b"first")
        ...     try:
        ...         with replacing(path) as file:
        ...             _ = file.write(b"half of the sec")
        ...             raise KeyboardInterrupt
        ...     except KeyboardInterrupt:
        ...         path.read_bytes(), [entry.name for entry in path.parent.iterdir()]
        (b'first', ['table.csv'])
    """
    with replacing_path(path) as partial, open(partial, "wb") as file:
        yield file


@contextmanager
def replacing_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """As :func:`replacing`, for callers that write the file by its path.

    Args:
        path: the file to write.

    Yields:
        A path in the same folder, which the block must write.

    Raises:
        OSError: if the file cannot be written, or what is there is no regular file.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ismkit.utils import replacing_path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing_path(f"{folder}/notes.txt") as partial:
        ...         _ = partial.write_text("whole")
        ...     [(path.name, path.read_text()) for path in Path(folder).iterdir()]
        [('notes.txt', 'whole')]
    """
    path = destination(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Threads have one process number, and so have processes of two machines or containers that share the folder.
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """As :func:`replacing_path`, for a folder that is new or empty. A link stays: the folder it leads to is written.

    Args:
        path: the folder to write.

    Yields:
        A folder beside it, which is empty and becomes ``path`` when the block ends.

    Raises:
        OSError: if the folder cannot be written, or has something in it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ismkit.utils.files import replacing_folder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing_folder(f"{folder}/pack") as partial:
        ...         _ = (partial / "notes.txt").write_text("whole")
        ...     [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.txt")]
        ['pack/notes.txt']
    """
    path = Path(path).resolve()
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, path)
        sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def destination(path: str | os.PathLike[str]) -> Path:
    """Find the file that writing to a path replaces; for commands, before they compute what they will write.

    Args:
        path: of a file, which may be missing, or a link.

    Returns:
        The path; of a link, that which it leads to.

    Raises:
        OSError: if there is a folder, device, FIFO or socket, or a link that leads nowhere.

    Example:
        >>> from ismkit.utils.files import destination
        >>> destination("scores.csv").as_posix()
        'scores.csv'
        >>> destination("/dev/null")
        Traceback (most recent call last):
        OSError: /dev/null is a device, and not replaced: name a file
    """
    found = Path(path)
    if found.is_symlink():
        found = Path(os.path.realpath(found))
        if found.is_symlink() or not found.parent.is_dir():
            raise OSError(f"{path} is a link that leads nowhere: remove it, or name another file")
    if (kind := irregular(found)) is not None:
        raise OSError(f"{path} is {kind}, and not replaced: name a file")
    return found


def irregular(path: str | os.PathLike[str]) -> str | None:
    """Say what is at a path, if it is no regular file: to open it may wait without end.

    Args:
        path: links are followed.

    Returns:
        What it is, or None for a regular file, and where nothing is.

    Example:
        >>> from ismkit.utils.files import irregular
        >>> irregular("/dev/null"), irregular("/"), irregular("none.csv")
        ('a device', 'a folder', None)
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:  # who opens it says why it cannot
        return None
    if stat.S_ISREG(mode):
        return None
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def expanded(path: str | os.PathLike[str]) -> Path:
    """Put the home folder for a leading ``~``, which a shell leaves in ``--out=~/results``.

    Args:
        path: with or without it.

    Returns:
        The path.

    Raises:
        ValueError: for the home of a user whom this machine does not know.

    Example:
        >>> import os
        >>> from unittest.mock import patch
        >>> from ismkit.utils.files import expanded
        >>> with patch.dict(os.environ, HOME="/srv/ada"):
        ...     expanded("~/out").as_posix(), expanded("out").as_posix()
        ('/srv/ada/out', 'out')
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path} begins with a home folder that is not known here: write it out") from error


#: Thread and folder of the locks that this process holds.
_LOCKED: set[tuple[int, str]] = set()


@contextmanager
def locked(folder: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Keep other processes, and other threads of this one, from the same work in a folder while the block runs.

    The lock ends with the process, however that ends: a killed one leaves a file ``.lock``, which locks no one out.
    Within the block the same thread may take it again.

    Args:
        folder: made if missing, and removed again if nothing was put into it. On a network file system the lock reaches
            as far as ``flock`` does there.
        what: the work, for the message.

    Raises:
        ValueError: if another one has the lock; the message names the folder and the process.
        OSError: if the file cannot be made.

    Example:
        >>> import os
        >>> import tempfile
        >>> from ismkit.utils.files import locked
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with locked(folder, "training"):
        ...         print(os.listdir(folder))
        ...     print(os.listdir(folder))
        ['.lock']
        []
    """
    folder = Path(folder)
    new = not folder.exists()
    place = threading.get_ident(), os.path.realpath(folder)
    if place in _LOCKED:
        yield
        return
    path = folder / ".lock"
    descriptor = _lock(path, f"another {what} works in {folder}")
    _LOCKED.add(place)
    try:
        yield
    finally:
        _LOCKED.discard(place)
        path.unlink(missing_ok=True)  # while it is locked: see there
        os.close(descriptor)
        if new:
            with suppress(OSError):  # nothing was refused, and something is in it
                folder.rmdir()


def _lock(path: Path, taken: str) -> int:
    """Lock a file and write into it whose it is; returns its descriptor, or raises ValueError."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(
                f"folder must be one that can be made, got {path.parent}: a file is in its place"
            ) from error
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:  # who was refused has just removed the folder
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have deleted it meanwhile: then this is no longer the file that others lock.
            if _is_at(path, descriptor):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
                return descriptor
        except BlockingIOError as error:
            holder = os.read(descriptor, 1000).decode(errors="replace")
            os.close(descriptor)
            who = f" ({holder})" if holder else ""
            raise ValueError(f"{taken}{who}: wait for it, or name another folder") from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sum(path: str | os.PathLike[str]) -> str:
    """Compute the SHA-256 checksum of a file.

    Args:
        path: the file; it is read in pieces, so it may be larger than memory.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: if the file cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ismkit import file_sum
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "abc.txt"
        ...     _ = path.write_bytes(b"abc")
        ...     file_sum(path)
        'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bytes_sum(data: bytes | bytearray | memoryview) -> str:
    """Compute the SHA-256 checksum of bytes.

    Args:
        data: the bytes.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> from ismkit.utils.files import bytes_sum
        >>> bytes_sum(b"abc")
        'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
    """
    return hashlib.sha256(data).hexdigest()


def json_sum(value: Any) -> str:
    """Compute the SHA-256 checksum of a JSON value, whatever the order of its keys.

    Args:
        value: numbers, texts, lists and dicts, as ``json.dumps`` takes them.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: for a value that JSON cannot hold.

    Example:
        >>> from ismkit.utils import json_sum
        >>> json_sum({"steps": 500, "lr": 0.002}) == json_sum({"lr": 0.002, "steps": 500})
        True
        >>> json_sum({"steps": 500}) == json_sum({"steps": 500.0})  # written differently in JSON
        False
    """
    try:
        text = json.dumps(value, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"value must be JSON, got {shown(value)}: {error}") from error
    return bytes_sum(text.encode())


class DataError(Exception):
    """A data file or folder is missing, truncated or altered; the message names it and the remedy."""


def weights_file(name: str) -> Path:
    """Find the file of a released network, inside the package.

    Args:
        name: such as ``fashion_ism_plus``.

    Returns:
        The path; whether the file is whole is checked when it is read.

    Example:
        >>> from ismkit.utils import weights_file
        >>> weights_file("fashion_ism_plus").is_file()
        True
    """
    return WEIGHTS / f"{name}.safetensors"


def data_folders(name: str) -> list[Path]:
    """List where a data set is looked for, in this order; the last place is where it is fetched to.

    With ``$ISMKIT_DATA`` set that is the folder ``name`` in it, and no other place. Without, it is ``data/`` of a
    checkout, the place of Debian's packages, and the user's cache (``$XDG_CACHE_HOME``, by default ``~/.cache``).

    Args:
        name: of the data set's folder.

    Returns:
        The folders, whether they are there or not.

    Example:
        >>> import os
        >>> from unittest.mock import patch
        >>> from ismkit.utils import data_folders
        >>> with patch.dict(os.environ, ISMKIT_DATA="somewhere"):
        ...     print(*data_folders("fashion-mnist"))
        somewhere/fashion-mnist
    """
    if named := os.environ.get("ISMKIT_DATA"):
        return [expanded(named) / name]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ismkit"
    checkout = [CHECKOUT / "data"] if in_checkout() else []
    return [folder / name for folder in (*checkout, DEBIAN, cache)]


def in_checkout() -> bool:
    """Say whether the package stands in a checkout of the kit, and not in site-packages.

    Returns:
        True in a checkout.

    Example:
        >>> from ismkit.utils import in_checkout
        >>> isinstance(in_checkout(), bool)
        True
    """
    return (CHECKOUT / "pyproject.toml").is_file()


def verify_sha256(path: Path, expected: str, size: int | None = None, remedy: str | None = None) -> None:
    """Check that a file exists and has this SHA-256 checksum.

    Args:
        path: the file.
        expected: its checksum, 64 hexadecimal digits in lower case.
        size: its size in bytes; with it, the message distinguishes a truncated file from an altered one.
        remedy: how to repair the file, the end of the message; by default what to do for a file of the repository.

    Raises:
        DataError: if the file is missing, truncated or altered.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ismkit import DataError
        >>> from ismkit.utils import verify_sha256
        >>> from ismkit.utils.files import bytes_sum
        >>> expected = bytes_sum(b"0123456789")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "digits"
        ...     _ = path.write_bytes(b"0123456789")
        ...     verify_sha256(path, expected)  # the right file: nothing happens
        ...     _ = path.write_bytes(b"01234")
        ...     try:
        ...         verify_sha256(path, expected, size=10, remedy="download it again")
        ...     except DataError as error:
        ...         print(str(error).removeprefix(f"{folder}/"))
        digits is truncated, it holds 5 of 10 bytes: download it again
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
    """Find the folder for the files of runs and notebooks: ``$ISMKIT_OUT``, or ``out`` in the working directory.

    Anywhere in a checkout of the kit it is ``out`` at the top of the checkout, because a notebook's kernel starts in
    the notebook's own folder.

    Returns:
        The folder. It may not exist yet.

    Example:
        >>> import os
        >>> from unittest.mock import patch
        >>> from ismkit import out_dir
        >>> with patch.dict(os.environ, ISMKIT_OUT="results/today"):
        ...     out_dir().parts
        ('results', 'today')
    """
    if named := os.environ.get("ISMKIT_OUT"):
        return expanded(named)
    here = Path.cwd()
    inside = here.is_relative_to(CHECKOUT) and in_checkout()
    return (CHECKOUT if inside else here) / "out"
