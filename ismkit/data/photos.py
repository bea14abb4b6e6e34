"""Natural photographs, from those inside scikit-image's wheel: patches whose spectrum falls as that of the world does.

Nothing is downloaded: files that scikit-image would fetch are not asked for.
"""

from __future__ import annotations

import math
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ismkit.data.decoding import PictureError, decode_picture, read_picture
from ismkit.data.sets import Labelled
from ismkit.utils.checks import as_integer, check_count, check_name
from ismkit.utils.files import DataError, replacing_folder
from ismkit.utils.seeding import stream

if TYPE_CHECKING:
    from PIL.Image import Image

#: Scenes, things and textures seen by a camera. Left out of the wheel's pictures: drawings, print and test patterns,
#: microscopy and astronomy, whose spectra are others, and the second view of a stereo pair.
PHOTOGRAPHS = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
#: Those of them that are in colour and differ at a glance: classes for a trial with colour images.
COLOURED = ("astronaut", "cat", "coffee", "rocket")


def photograph(name: str) -> Tensor:
    """Read a photograph of scikit-image's wheel as grey values.

    Args:
        name: a key of ``PHOTOGRAPHS``.

    Returns:
        The picture, (H, W) float32 in [-1, 1]; both sides have 300 pixels or more.

    Raises:
        ValueError: for another name.
        DataError: if scikit-image is not installed, or without its pictures.

    Example:
        >>> from ismkit.data import photograph
        >>> picture = photograph("camera")
        >>> picture.shape, (picture.min().item(), picture.max().item())
        (torch.Size([512, 512]), (-1.0, 1.0))
    """
    check_name("name", name, PHOTOGRAPHS)
    return _grey(name).clone()  # which may be changed


@cache
def _grey(name: str) -> Tensor:
    grey = np.asarray(_picture(name).convert("L"), dtype=np.float32)  # luma, ITU-R 601
    return torch.from_numpy(grey / 127.5 - 1)


def _picture(name: str) -> Image:
    """A photograph in RGB, decoded as all pictures are."""
    path = _path(name)
    try:
        return decode_picture(read_picture(path))
    except PictureError as error:
        raise DataError(f"{path} cannot be read: {error}; install the wheel of scikit-image again") from error


def _path(name: str) -> Path:
    check_name("name", name, PHOTOGRAPHS)
    package = find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise DataError("the photographs are those inside scikit-image, which is missing: pip install scikit-image")
    path = Path(package.submodule_search_locations[0]) / "data" / PHOTOGRAPHS[name]
    if not path.is_file():
        raise DataError(f"{path} is missing: install the wheel of scikit-image again, which holds it")
    return path


def photographs(n: int, side: int, seed: int, shrink: int = 2) -> Labelled:
    """Draw random patches of natural photographs; the class is the photograph, an equal share of each.

    A patch is a window of ``shrink * side`` pixels, mirrored or not, averaged in blocks of ``shrink`` pixels: what a
    camera further away would see.

    Args:
        n: number of patches, 1 or more.
        side: of a patch in pixels.
        seed: equal arguments give equal patches.
        shrink: pixels of the photograph along a pixel of the patch.

    Returns:
        Patches (n, 1, side, side) float32 in [-1, 1].

    Raises:
        ValueError: if n, side or shrink is below 1, or a window larger than the smallest photograph.
        DataError: if scikit-image is not installed, or without its pictures.

    Example:
        Natural pictures have much power at low frequencies and little at high ones:

        >>> from ismkit import photographs, radial_spectrum
        >>> data = photographs(200, side=16, seed=0)
        >>> data.x.shape, data.y.bincount().tolist()
        (torch.Size([200, 1, 16, 16]), [20, 20, 20, 20, 20, 20, 20, 20, 20, 20])
        >>> frequencies, power = radial_spectrum(data.x)
        >>> (power[1] > 20 * power[8]).item()
        True
    """
    n, side, shrink = check_count("n", n), check_count("side", side), check_count("shrink", shrink)
    window = shrink * side
    sheets = [photograph(name) for name in PHOTOGRAPHS]
    smallest = min(min(sheet.shape) for sheet in sheets)
    if window > smallest:
        raise ValueError(f"shrink * side must be at most {smallest} pixels, got {shrink} * {side}")
    rng = stream(seed, "photographs", n, side, shrink)
    y = torch.arange(n) % len(sheets)
    u, v, mirrored = torch.rand(3, n, generator=rng).tolist()
    parts = []
    for k in range(n):
        sheet = sheets[k % len(sheets)]
        top, left = (
            math.floor(share * (size - window + 1)) for share, size in zip((u[k], v[k]), sheet.shape, strict=True)
        )
        patch = sheet[top : top + window, left : left + window]
        parts.append(patch.flip(1) if mirrored[k] < 0.5 else patch)
    x = F.avg_pool2d(torch.stack(parts)[:, None], shrink)
    order = torch.randperm(n, generator=rng)
    return Labelled(x[order], y[order], len(sheets), tuple(PHOTOGRAPHS))


def photo_folder(folder: str | os.PathLike[str], per_class: int, side: int = 256, seed: int = 0) -> Path:
    """Write photographs as a folder of class folders: for a trial, what ImageNet is for the full run.

    The folder is there whole or not at all. The classes are the photographs in ``COLOURED``. A picture is a
    random square window of one, between half and all of its shorter edge, resized.

    Args:
        folder: where the class folders go; new or empty.
        per_class: PNG files in each class.
        side: of a picture in pixels.
        seed: equal arguments give equal pictures.

    Returns:
        The folder.

    Raises:
        ValueError: if per_class or side is below 1.
        DataError: if the folder holds other files, or scikit-image is missing.

    Example:
        >>> import tempfile
        >>> from ismkit import photo_folder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pictures = photo_folder(folder, per_class=2, side=32)
        ...     for path in sorted(pictures.rglob("c*/*.png")):
        ...         print(path.relative_to(folder).as_posix())
        cat/0000.png
        cat/0001.png
        coffee/0000.png
        coffee/0001.png
    """
    per_class, side = check_count("per_class", per_class), check_count("side", side)
    seed = as_integer(seed)
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty: give a new folder")
    pictures = {name: _picture(name) for name in COLOURED}
    from PIL.Image import Resampling

    with replacing_folder(folder) as partial:
        for name, picture in pictures.items():
            (partial / name).mkdir()
            places = torch.rand(per_class, 3, generator=stream(seed, "photo folder", name, per_class, side))
            for k, (size, u, v) in enumerate(places.tolist()):
                window = round(min(picture.size) * (1 + size) / 2)
                left, top = int(u * (picture.width - window + 1)), int(v * (picture.height - window + 1))
                box = (left, top, left + window, top + window)
                picture.resize((side, side), Resampling.BICUBIC, box).save(partial / name / f"{k:04d}.png")
    return folder
