"""Pictures of every format: their pixels, whatever is damaged or hostile, and what is found in a folder."""

import os
import random
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ismkit.data import decoding
from ismkit.data.decoding import (
    MAX_PIXELS,
    MAX_SCANS,
    PictureError,
    decode_picture,
    in_one_line,
    picture_files,
    read_picture,
)
from ismkit.utils.files import DataError
from tests.conftest import ROOT
from tests.formats import Written, photograph, pictures, png, saved, tiff, without_white

# ---------------------------------------------------------------- pixels


@pytest.mark.parametrize("picture", pictures(), ids=lambda picture: picture.name)
def test_each_format_gives_the_pixels_that_it_stores(picture: Written) -> None:
    image = decode_picture(picture.data)
    assert image.mode == "RGB"
    pixels = np.asarray(image)
    assert pixels.shape == picture.pixels.shape
    error = np.abs(pixels.astype(int) - picture.pixels)
    assert error.max() <= picture.within
    assert error.mean() <= picture.within / 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_plain_pictures_are_what_pillow_makes_of_them(kind: str, tmp_path: Path) -> None:
    """Bit by bit: latents that were made before stay as they are."""
    for image in (Image.fromarray(photograph()), Image.fromarray(photograph()[..., 0])):
        image.save(tmp_path / "picture", kind)
        with Image.open(tmp_path / "picture") as file:
            np.testing.assert_array_equal(decode_picture(read_picture(tmp_path / "picture")), file.convert("RGB"))


def test_an_orientation_that_a_camera_noted_is_ignored() -> None:
    by_name = {picture.name: picture.data for picture in pictures()}
    plain, turned = (decode_picture(by_name[name]) for name in ("rgb.jpg", "turned.jpg"))
    np.testing.assert_array_equal(plain, turned)


def test_a_ramp_in_16_bits_keeps_its_levels() -> None:
    ramp = np.linspace(0, 65535, 512).astype(np.uint16)[None].repeat(2, 0)
    pixels = np.asarray(decode_picture(saved(ramp, "PNG")))
    np.testing.assert_array_equal(pixels[0, :, 0], ramp[0] // 256)
    assert len(np.unique(pixels)) == 256


@pytest.mark.parametrize("name", without_white())
def test_numbers_without_a_white_are_refused_with_the_remedy(name: str) -> None:
    with pytest.raises(PictureError, match=r"do not say which value is white: save it in 8 or 16 bits"):
        decode_picture(without_white()[name])


# ---------------------------------------------------------------- damaged and hostile


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"no picture", "it is not a JPEG, PNG, WEBP, BMP, GIF or TIFF file that can be read: convert it to PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n", "it is not a JPEG, PNG"),
        (saved(photograph(), "PPM"), "it is not a JPEG, PNG"),
    ],
)
def test_what_is_no_picture_is_told_the_same_each_time(data: bytes, message: str) -> None:
    """The reasons are written to disk, and no other run may write other bytes."""
    said = []
    for _ in range(2):
        with pytest.raises(PictureError, match=message) as error:
            decode_picture(data)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert " at 0x" not in said[0]


def mangled(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Truncated, bits flipped, bytes overwritten, the head of another format, or a part twice."""
    kind = rng.randrange(5)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        flipped = bytearray(data)
        for _ in range(rng.choice([1, 3, 30])):
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if kind == 2:  # most of all in the head, where the sizes stand
        at, size = rng.randrange(min(len(data), rng.choice([64, 4096]))), rng.choice([1, 2, 4])
        return data[:at] + rng.choice([b"\xff", b"\0", b"\x7f"]) * size + data[at + size :]
    if kind == 3:
        cut = rng.choice([4, 12, 30, 100])
        return other[:cut] + data[cut:]
    at, end = sorted(rng.sample(range(len(data)), 2))
    return data[:end] + data[at:]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
def test_mangled_files_give_pixels_or_a_picture_error_soon(seed: int) -> None:
    rng = random.Random(seed)
    files = [picture.data for picture in pictures()] + list(without_white().values())
    refused = decoded = 0
    for data in files:
        for _ in range(12):
            spoilt = mangled(data, rng.choice(files), rng)
            start = time.process_time()
            try:
                image = decode_picture(spoilt)
            except PictureError:
                refused += 1
            else:
                assert image.mode == "RGB"
                assert image.width * image.height <= MAX_PIXELS
                decoded += 1
            assert time.process_time() - start < 20
    assert min(refused, decoded) > 50


def resized(data: bytes, width: int, height: int) -> bytes:
    """The PNG file with other sizes in its head, and a checksum that fits."""
    head = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


def test_sizes_are_refused_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 000 x 9 000 pixels are more than the bound; from twice the bound on, Pillow refuses."""
    data = saved(photograph(), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # whatever another library set
    with pytest.raises(PictureError, match="it has 10000 x 9000 pixels, at most 89478485 are read"):
        decode_picture(resized(data, 10_000, 9_000))
    with pytest.raises(PictureError, match="it has 100000 x 100000 pixels"):
        decode_picture(resized(data, 100_000, 100_000))
    tile = bytearray(tiff(photograph(), photometric="rgb", tile=(16, 16), compression="zlib"))
    for tag, size in ((322, 20_000), (323, 20_000)):
        at = tile.index(struct.pack("<HHI", tag, 4, 1))
        tile[at : at + 12] = struct.pack("<HHII", tag, 4, 1, size)
    with pytest.raises(PictureError, match="a tile of it has 20000 x 20000 pixels"):
        decode_picture(bytes(tile))


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    """A scan of some bytes costs the time of the whole picture."""
    data = saved(photograph(), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    scan = data[start:-2]
    assert decode_picture(data[:-2] + scan * 3 + data[-2:]).mode == "RGB"
    with pytest.raises(PictureError, match=rf"it has \d+ scans, at most {MAX_SCANS} are read"):
        decode_picture(data[:-2] + scan * MAX_SCANS + data[-2:])
    moving = data + b"\xff\xda" * 1000  # phones append a film, whose bytes are no scans
    assert decode_picture(moving).size == decode_picture(data).size


BOMBS = """
import resource
import numpy as np
from tests.formats import png
from tests.data.test_decoding import resized
from ismkit.imagenet.pixels import center_crop
from ismkit.data.decoding import PictureError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for width, height in ((1, 5000), (1, 20000), (20000, 1), (1, 2**31 - 1), (30000, 30000)):
    rows = np.zeros((min(height, 20000), min(width, 20000)), np.uint8)[: 2000000 // min(width, 20000)]
    try:
        center_crop(resized(png(rows, 8, 0), width, height), 256)
    except PictureError as error:
        print(width, height, error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_bombs_take_no_memory() -> None:
    """A picture of 1 x 5000 would be resized to 256 x 1 280 000 pixels: 3.5 GB from 90 bytes."""
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", BOMBS], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    *refused, megabytes = run.stdout.splitlines()
    assert len(refused) == 5
    assert "1 x 5000 pixels, and resized to a shorter edge of 256 it has 256 x 1280000 pixels, at most" in refused[0]
    assert int(megabytes) < 200


def test_a_file_that_asks_for_too_much_memory_is_refused_and_too_little_memory_is_not_its_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = saved(photograph(), "PNG")

    def greedy(file: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr(decoding, "_check_size", greedy)
    with pytest.raises(PictureError, match="asks for more memory than any picture needs"):
        decode_picture(data)

    def short(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decoding.np, "empty", short)
    with pytest.raises(MemoryError):
        decode_picture(data)


# ---------------------------------------------------------------- files


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """Opening a FIFO would never return."""
    os.mkfifo(tmp_path / "fifo.png")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tmp_path)  # names of sockets are short
        try:
            server.bind("socket.png")
        finally:
            os.chdir(here)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "to_fifo.png").symlink_to("fifo.png")
    for name in ("fifo", "socket", "folder", "device", "to_fifo"):
        with pytest.raises(PictureError, match="it is no regular file"):
            read_picture(tmp_path / f"{name}.png")
    (tmp_path / "dangling.png").symlink_to("nothing.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name in ("dangling", "loop"):
        with pytest.raises(PictureError, match="it is a link to nothing"):
            read_picture(tmp_path / f"{name}.png")
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(PictureError, match="it has 1099511627776 bytes, at most 1073741824 are read"):
        read_picture(tmp_path / "sparse.png")
    (tmp_path / "link.png").symlink_to("real.png")
    (tmp_path / "real.png").write_bytes(b"content")
    assert read_picture(tmp_path / "link.png") == b"content"


def test_a_file_that_is_gone_is_the_fault_of_the_disk_and_not_of_the_picture(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png cannot be read: No such file") as error:
        read_picture(tmp_path / "gone.png")
    assert not isinstance(error.value, PictureError)


HIDDEN = [
    ".hidden.png",
    "a/._0.png",
    "a/.ipynb_checkpoints/0-checkpoint.png",
    "a/.DS_Store",
    "a/Thumbs.db",
    "a/desktop.ini",
    "__MACOSX/a/0.png",
    ".ipynb_checkpoints/1.png",
    "@eaDir/0.png",
]


def fill(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_a_folder_gives_its_pictures_and_names_what_is_left_alone(tmp_path: Path) -> None:
    names = ["a-b/0.png", "a/0.gif", "a/1.TIF", "a/2.webp", "a/3.bmp", "a/b/4.JPEG", "a/b.jpg", "top.tiff"]
    fill(tmp_path / "set", names + HIDDEN + ["a/notes.txt", "a/drawing.svg", "labels.csv"])
    fill(tmp_path / "elsewhere", ["5.png"])
    (tmp_path / "set" / "chosen").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "up").symlink_to(tmp_path)
    (tmp_path / "set" / "here").symlink_to(".")
    (tmp_path / "set" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "a" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "set" / "n01").symlink_to("nowhere")
    found = picture_files(tmp_path / "set")
    assert list(found.names) == [
        path.relative_to(found.folder).as_posix()
        for path in sorted(Path(found.folder) / name for name in [*names, "a/gone.png", "chosen/5.png"])
    ]
    assert dict(found.left_alone) == {
        "a/drawing.svg": "no picture by its ending",
        "a/more": "a linked folder",
        "a/notes.txt": "no picture by its ending",
        "here": "a linked folder",
        "labels.csv": "no picture by its ending",
        "n01": "a link to nothing",
        "up": "a linked folder",
    }
    assert found.said.startswith("7 left alone: a/drawing.svg (no picture by its ending), a/more (a linked folder), ")
    assert found.said.endswith(" and 2 more")
    assert found.paths[0] == tmp_path / "set" / found.names[0]


def test_a_folder_without_more_has_nothing_to_say(tmp_path: Path) -> None:
    fill(tmp_path, ["0.png", *HIDDEN])
    found = picture_files(tmp_path)
    assert (found.names, found.left_alone, found.said) == (("0.png",), (), "")
    with pytest.raises(DataError, match=r"nowhere/? cannot be read: No such file"):
        picture_files(tmp_path / "nowhere")


def test_names_can_be_printed(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\n.txt")
    assert in_one_line([(name, "no picture")]).encode("ascii") == b"1 left alone: '\\udcff\\n.txt' (no picture)"


def test_a_very_deep_folder_is_searched(tmp_path: Path) -> None:
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)
    fill(tmp_path, ["0.png"])
    assert picture_files(tmp_path).names == ("0.png",)
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)


def test_a_bit_of_the_helper_that_writes_png() -> None:
    rows = np.arange(12, dtype=np.uint8).reshape(2, 6)
    np.testing.assert_array_equal(np.asarray(decode_picture(png(rows, 8, 2))), rows.reshape(2, 2, 3))
