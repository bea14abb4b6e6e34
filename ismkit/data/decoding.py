"""Pictures found, read and decoded: one way for latents, references and photographs, so that a file has one meaning.

What is decided here, for every door of the kit:

* Formats are those of ``ENDINGS``; which one a file has is read from its content, not from its name.
* 16 bits become the upper 8, in grey as in colour. Floating point numbers, signed ones and integers of 32 bits do not
  say which value is white: they are refused.
* What is transparent lies on white.
* Of several pictures in a file, the first one counts.
* An orientation that a camera noted (EXIF) and colour profiles are ignored, as ADM (arXiv 2105.05233) does. A TIFF
  file's own orientation is applied: it says how the pixels are stored.
* Hidden files and folders, and those that systems leave behind (``is_hidden``), are left alone. Other files that are
  no pictures, and linked folders further down than the first level, are left alone too, and named.
* Pictures of more than ``MAX_PIXELS``, and whatever is no regular file, are refused before they are read.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ismkit.utils.checks import shown
from ismkit.utils.files import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

#: Of the names of pictures.
ENDINGS = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
#: By Pillow's names. Others are not tried: for some of them Pillow starts another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
#: Of a picture, and of what a resize makes of it: from here on Pillow warns of decompression bombs. A decoded picture
#: takes 0.4 GB, its decoding up to 0.9 GB.
MAX_PIXELS = 89_478_485
#: Of a file: no picture within ``MAX_PIXELS`` needs more.
MAX_BYTES = 2**30
#: A progressive JPEG is refined scan by scan; encoders write about ten, and each costs the time of a whole picture.
MAX_SCANS = 100
_LEFT_BEHIND = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "lost+found", "$recycle.bin"}
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # of JPEG: neither stuffing nor restarts, which stand within a scan


class PictureError(DataError):
    """A file is no picture that can be used; the message says why, and what would be right, without the file's name."""


class NoPictureError(PictureError):
    """A file that nothing says is a picture: left out without being an error."""


def decode_picture(data: bytes) -> Image:
    """Decode the bytes of a picture file, as the kit does everywhere.

    16 bits become the upper 8; what is transparent lies on white; of several pictures the first one counts; neither an
    orientation that a camera noted nor a colour profile is applied.

    Args:
        data: the bytes of the file: JPEG, PNG, WebP, BMP, GIF or TIFF.

    Returns:
        A Pillow image in RGB.

    Raises:
        PictureError: if they are no such picture, a damaged one, one of more than ``MAX_PIXELS``, or one whose numbers
            do not say which value is white: floating point, signed, integers of 32 bits.
        TypeError: if ``data`` are no bytes.
        MemoryError: if there is too little for a picture of ``MAX_PIXELS``.

    Example:
        A transparent red pixel lies on white, and white in 16 bits stays white:

        >>> import io
        >>> import numpy as np
        >>> from PIL import Image
        >>> from ismkit.data import decode_picture
        >>> def as_file(image):
        ...     file = io.BytesIO()
        ...     image.save(file, "PNG")
        ...     return file.getvalue()
        >>> decode_picture(as_file(Image.new("RGBA", (1, 1), (255, 0, 0, 0)))).getpixel((0, 0))
        (255, 255, 255)
        >>> ramp = np.array([[0, 128 * 256, 65535]], dtype=np.uint16)
        >>> np.asarray(decode_picture(as_file(Image.fromarray(ramp))))[0, :, 0].tolist()
        [0, 128, 255]
    """
    from PIL import Image, UnidentifiedImageError

    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"data must be the bytes of a picture file, got {shown(data)}")
    try:
        if data[:2] == b"\xff\xd8":
            _check_scans(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            _check_size(file)
            file.load()
            return _on_white(_eight_bits(file, data))
    except PictureError:
        raise
    except UnidentifiedImageError:
        names = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise PictureError(
            f"it is not a {names} file that can be read: convert it to PNG" if data else "it is empty"
        ) from None
    except MemoryError as error:
        np.empty(12 * MAX_PIXELS, np.uint8)  # memory is short, and no picture is to blame
        raise PictureError("it asks for more memory than any picture needs: it is damaged") from error
    except Exception as error:  # Pillow's formats raise many kinds
        raise PictureError(f"{error}" or type(error).__name__) from error


def _check_scans(data: bytes) -> None:
    """Refuse a JPEG file of very many scans, up to the end of its first picture."""
    at = scans = 0
    while (found := _MARKER.search(data, at)) and (marker := found[0][1]) != 0xD9:
        at = found.end()
        if marker != 0xD8:  # all others have a length
            at += int.from_bytes(data[at : at + 2], "big")
        scans += marker == 0xDA
    if scans > MAX_SCANS:
        raise PictureError(f"it has {scans} scans, at most {MAX_SCANS} are read: save it again")


def check_pixels(what: str, width: int, height: int) -> None:
    """Refuse a picture before it takes memory.

    Args:
        what: the picture, for the message.
        width: in pixels.
        height: in pixels.

    Raises:
        PictureError: if it has more than ``MAX_PIXELS``.

    Example:
        >>> from ismkit.data.decoding import PictureError, check_pixels
        >>> check_pixels("it", 5000, 5000)
        >>> try:
        ...     check_pixels("it", 50_000, 5000)
        ... except PictureError as error:
        ...     print(error)
        it has 50000 x 5000 pixels, at most 89478485 are read
    """
    if width * height > MAX_PIXELS:
        raise PictureError(f"{what} has {width} x {height} pixels, at most {MAX_PIXELS} are read")


def _check_size(file: Image) -> None:
    check_pixels("it", *file.size)
    if file.format == "TIFF":  # a tile is decoded as a whole, however little of it the picture needs
        width, height = (file.tag_v2.get(tag, 1) for tag in (322, 323))  # type: ignore[attr-defined]
        check_pixels("a tile of it", width, height)


def _eight_bits(file: Image, data: bytes) -> Image:
    """The picture in a mode of 8 bits or less, a transparent value among its own."""
    key = file.info.get("transparency")
    if file.format == "PNG" and file.mode in ("L", "RGB") and key is not None:  # stored in the file's own depth
        depth = data[24]
        if depth == 16 and isinstance(key, tuple):
            file.info["transparency"] = tuple(value >> 8 for value in key)
        elif depth < 8 and isinstance(key, int):
            file.info["transparency"] = key * 255 // (2**depth - 1)
    if not file.mode.startswith(("I", "F")):
        return file
    if not (file.mode.startswith("I;16") or (file.mode == "I" and file.format == "PNG")):
        kind = "floating point numbers" if file.mode == "F" else "signed integers, or such of 32 bits"
        raise PictureError(f"its pixels are {kind}, which do not say which value is white: save it in 8 or 16 bits")
    from PIL import Image

    levels, bits = np.asarray(file).astype(np.uint16), 16
    grey = (levels >> 8).astype(np.uint8)
    if file.format == "TIFF":
        tags = file.tag_v2  # type: ignore[attr-defined]
        bits = tags.get(258, (16,))[0]
        grey = (levels >> (bits - 8)).astype(np.uint8)
        grey = 255 - grey if tags.get(262) == 0 else grey  # WhiteIsZero
    if key is not None:
        grey[levels == key] = 255
    return Image.fromarray(grey)


def _on_white(image: Image) -> Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    from PIL import Image

    layer = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(layer, mask=layer.getchannel("A"))
    return white


def picture_bytes(path: str | os.PathLike[str]) -> int:
    """Say how large a picture file is, without opening it.

    Args:
        path: of the file, or a link to it.

    Returns:
        Its size in bytes.

    Raises:
        PictureError: if it is a link to nothing, no regular file (a folder, FIFO, socket or device), or one of more
            than ``MAX_BYTES``.
        DataError: if it is gone, or the disk cannot be asked.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ismkit.data.decoding import PictureError, picture_bytes
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "0.png"
        ...     path.symlink_to("elsewhere.png")
        ...     try:
        ...         picture_bytes(path)
        ...     except PictureError as error:
        ...         print(error)
        it is a link to nothing
    """
    try:
        status = os.stat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR) and os.path.islink(path):
            raise PictureError("it is a link to nothing") from error
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise PictureError("it is no regular file")
    if status.st_size > MAX_BYTES:
        raise PictureError(f"it has {status.st_size} bytes, at most {MAX_BYTES} are read")
    return status.st_size


def read_picture(path: str | os.PathLike[str]) -> bytes:
    """Read a picture file, which is not decoded yet.

    Args:
        path: of the file, or a link to it.

    Returns:
        Its bytes.

    Raises:
        PictureError: as :func:`picture_bytes`, and if reading is not permitted.
        DataError: if it is gone, or the disk fails.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from ismkit.data import decode_picture, read_picture
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "0.png"
        ...     Image.new("L", (3, 2), 7).save(path)
        ...     decode_picture(read_picture(path)).getpixel((0, 0))
        (7, 7, 7)
    """
    picture_bytes(path)
    try:
        return Path(path).read_bytes()
    except PermissionError as error:
        raise PictureError("reading it is not permitted") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class PictureFiles:
    """The pictures of a folder, see :func:`picture_files`.

    Attributes:
        folder: that was searched.
        names: of the pictures, relative to it.
        left_alone: name and reason of what is no picture, and of linked folders that were not searched.

    Example:
        >>> from ismkit.data import PictureFiles
        >>> PictureFiles("pictures", ("a/0.png",), (("a/notes.txt", "no picture by its ending"),)).said
        '1 left alone: a/notes.txt (no picture by its ending)'
    """

    folder: str
    names: tuple[str, ...]
    left_alone: tuple[tuple[str, str], ...]

    @property
    def paths(self) -> list[Path]:
        """Of the pictures."""
        return [Path(self.folder) / name for name in self.names]

    @property
    def said(self) -> str:
        """What was left alone in one line; empty if nothing was."""
        return in_one_line(self.left_alone)


def in_one_line(left_alone: Sequence[tuple[str, str]], most: int = 5) -> str:
    """Say in one line how many files were left alone, which and why.

    Args:
        left_alone: name and reason of each.
        most: so many are named.

    Returns:
        The line; empty if there are none.

    Example:
        >>> from ismkit.data.decoding import in_one_line
        >>> in_one_line([("a.txt", "no picture"), ("b", "a linked folder")], most=1)
        '2 left alone: a.txt (no picture) and 1 more'
    """
    if not left_alone:
        return ""
    named = [f"{as_printed(name)} ({reason})" for name, reason in left_alone[:most]]
    more = f" and {len(left_alone) - most} more" if len(left_alone) > most else ""
    return f"{len(left_alone)} left alone: {', '.join(named)}{more}"


def as_printed(name: str) -> str:
    r"""Make a file's name safe to print: it may hold line ends, or bytes that are no UTF-8.

    Args:
        name: of the file.

    Returns:
        The name, or if it cannot be printed, as Python would write it.

    Example:
        >>> from ismkit.data.decoding import as_printed
        >>> as_printed("a b.png"), as_printed("a\n.png")
        ('a b.png', "'a\\n.png'")
    """
    return name if name.isprintable() else ascii(name)


def is_hidden(name: str) -> bool:
    """Say whether a file or folder is hidden, or one that systems leave behind.

    Args:
        name: without the folders above it.

    Returns:
        True for names that begin with a dot, ``__MACOSX``, ``Thumbs.db``, ``desktop.ini``, ``@eaDir``.

    Example:
        >>> from ismkit.data.decoding import is_hidden
        >>> [is_hidden(name) for name in (".ipynb_checkpoints", "._0.png", "__MACOSX", "Thumbs.db", "0.png")]
        [True, True, True, True, False]
    """
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def is_picture(name: str) -> bool:
    """Say whether a file's name has the ending of a picture.

    Args:
        name: of the file.

    Returns:
        True for the endings in ``ENDINGS``, whatever their case.

    Example:
        >>> from ismkit.data.decoding import is_picture
        >>> is_picture("n01440764_10026.JPEG"), is_picture("notes.txt")
        (True, False)
    """
    return name.lower().endswith(ENDINGS)


def picture_files(folder: str | os.PathLike[str]) -> PictureFiles:
    """Find the pictures in a folder and those below it.

    Hidden files and folders are left alone. Folders directly in ``folder`` may be links, such as classes that are
    chosen from a larger set; links further down, and those that lead up, are not followed.

    Args:
        folder: that is searched.

    Returns:
        The pictures, in order of their names, folder by folder; and what was left alone.

    Raises:
        DataError: if a folder cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ismkit.data import picture_files
        >>> with tempfile.TemporaryDirectory() as name:
        ...     for file in ("cat/1.png", "cat/0.JPEG", "cat/._0.JPEG", "cat/notes.txt", ".cache/2.png"):
        ...         path = Path(name) / file
        ...         path.parent.mkdir(exist_ok=True)
        ...         path.touch()
        ...     found = picture_files(name)
        >>> found.names, found.left_alone
        (('cat/0.JPEG', 'cat/1.png'), (('cat/notes.txt', 'no picture by its ending'),))
    """
    found = sorted(search(folder), key=lambda pair: pair[0].split(os.sep))
    names = tuple(name for name, reason in found if reason is None)
    left = tuple((name, reason) for name, reason in found if reason is not None)
    return PictureFiles(os.fspath(folder), names, left)


def search(folder: str | os.PathLike[str]) -> Iterator[tuple[str, str | None]]:
    """Search a folder as :func:`picture_files` does, in whatever order.

    Args:
        folder: that is searched.

    Yields:
        Names relative to it, with None for a picture, else the reason why it is left alone.

    Raises:
        DataError: if a folder cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ismkit.data.decoding import search
        >>> with tempfile.TemporaryDirectory() as name:
        ...     (Path(name) / "0.png").touch()
        ...     list(search(name))
        [('0.png', None)]
    """
    waiting = [""]
    while waiting:
        at = waiting.pop()
        try:
            with os.scandir(os.path.join(folder, at)) as entries:
                seen = [entry for entry in entries if not is_hidden(entry.name)]
        except OSError as error:
            raise DataError(f"{os.path.join(folder, at)} cannot be read: {error.strerror}") from error
        for entry in seen:
            name = os.path.join(at, entry.name)
            if os.path.isdir(entry.path):
                linked = entry.is_symlink()
                if linked and (at or _leads_up(folder, entry.path)):
                    yield name, "a linked folder"
                else:
                    waiting.append(name)
            elif is_picture(name):
                yield name, None
            else:
                broken = entry.is_symlink() and not os.path.exists(entry.path)
                yield name, "a link to nothing" if broken else "no picture by its ending"


def _leads_up(folder: str | os.PathLike[str], link: str) -> bool:
    """Whether a link leads to the folder itself or to one above it: it would hold everything once more."""
    here, there = os.path.realpath(folder), os.path.realpath(link)
    return os.path.commonpath([here, there]) == there
