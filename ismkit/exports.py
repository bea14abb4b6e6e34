"""Samples in the forms that other programs read: ADM's .npz, and a folder of PNG files."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from ismkit.drawing import SampleSet
from ismkit.files import replacing
from ismkit.progress import progress as progress_bar


def export_npz(samples: SampleSet, path: str | os.PathLike[str], *, progress: bool | None = None) -> Path:
    """Write ``arr_0`` (n, H, W, 3) uint8 and ``arr_1`` (n,) int64, the labels, as ADM's evaluation suite reads them.

    One shard at a time is in memory. The file is not compressed, written atomically, and without pickles.

    Raises:
        ValueError: unless ``path`` ends in ``.npz``.
        SampleError: for an altered shard; nothing is written.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"path must end in .npz, got {path}")
    channels, height, width = samples.manifest["set"]["images"]
    bar = progress_bar(samples, show=progress, total=samples.shards, desc=path.name, unit="shard")
    labels = []
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            shape = (len(samples), height, width, channels)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            for images, y in bar:
                member.write(images.movedim(1, 3).contiguous().numpy().data)
                labels.append(y.numpy())
        with archive.open("arr_1.npy", "w") as member:
            np.lib.format.write_array(member, np.concatenate(labels), allow_pickle=False)
    return path


def export_png(samples: SampleSet, folder: str | os.PathLike[str], *, progress: bool | None = None) -> Path:
    """Write sample i as ``folder/000000i.png``, lossless; returns the folder."""
    from PIL import Image

    folder, i = Path(folder), 0
    for images, _ in progress_bar(samples, show=progress, total=samples.shards, desc="PNG files", unit="shard"):
        for image in images:
            with replacing(folder / f"{i:07}.png") as file:
                Image.fromarray(image.movedim(0, 2).contiguous().numpy()).save(file, "PNG")
            i += 1
    return folder
