"""A picture has the same pixels by every door: latents from folders and tar files, references, photographs.

The files are of every format that the kit reads.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ismkit.data import photos
from ismkit.data.decoding import decode_picture, picture_files
from ismkit.evaluation.reference import folder_images
from ismkit.imagenet.pixels import center_crop, decoded
from ismkit.imagenet.sources import Source, open_source
from tests.formats import pictures
from tests.imagenet.test_tars import write_tar

SIDE = 16


def encoded(source: Source) -> dict[str, np.ndarray]:
    """The pixels that the VAE would get, by the file's name."""
    with ThreadPoolExecutor(2) as pool:
        items = [item for unit in range(source.units) for item in source.read(unit)]
        return {Path(item.name).name: np.asarray(pixels) for item, pixels in decoded(iter(items), SIDE, pool, 4)}


def test_every_door_gives_the_same_pixels(tmp_path: Path) -> None:
    (tmp_path / "set" / "cat").mkdir(parents=True)
    for picture in pictures():
        (tmp_path / "set" / "cat" / picture.name).write_bytes(picture.data)
    wanted = {picture.name: center_crop(picture.data, SIDE) for picture in pictures()}
    files = [(picture.name, picture.data) for picture in pictures()]
    write_tar(tmp_path / "nested.tar", [("cat.tar", write_tar(tmp_path / "inner", files))])
    samples = [
        pair for name, data in files for pair in ((f"{name}/{name}", data), (f"{name}/{Path(name).stem}.cls", b"0"))
    ]
    write_tar(tmp_path / "samples.tar", samples)
    found = picture_files(tmp_path / "set")
    batches = np.concatenate([batch.numpy() for batch in folder_images(found.paths, SIDE, batch=7)])
    doors = {
        "folder": encoded(open_source([tmp_path / "set"])),
        "nested": encoded(open_source([tmp_path / "nested.tar"])),
        "samples": encoded(open_source([tmp_path / "samples.tar"])),
        "reference": {path.name: pixels for path, pixels in zip(found.paths, batches, strict=True)},
    }
    for door, seen in doors.items():
        assert seen.keys() == wanted.keys(), door
        for name, pixels in seen.items():
            np.testing.assert_array_equal(pixels, wanted[name], err_msg=f"{door}: {name}")


def test_photographs_are_decoded_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for picture in pictures():
        path = tmp_path / picture.name
        path.write_bytes(picture.data)
        monkeypatch.setattr(photos, "_path", lambda name, path=path: path)
        grey = np.asarray(decode_picture(picture.data).convert("L"), np.float32) / 127.5 - 1
        np.testing.assert_array_equal(photos._grey.__wrapped__("camera"), grey)
