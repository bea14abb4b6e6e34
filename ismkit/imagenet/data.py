"""The data of the ImageNet runs: a folder of latents, found or missed; and photographs in its place, to try it all.

The runs themselves, ``imagenet256-s2`` to ``-xl2``, ``imagenet512-xl2`` and ``imagenet-smoke``, stand with the others
in :mod:`ismkit.training.runs`.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ismkit.utils.files import DataError

if TYPE_CHECKING:
    from ismkit.imagenet.latents import Latents

SMOKE = "imagenet-smoke"
PER_CLASS = 12  # pictures of the small set, in four classes


def open_latents(name: str, folder: Path) -> Latents:
    """The latents in ``folder``; those of ``imagenet-smoke`` are made where there are none, in seconds.

    Raises:
        DataError: if none are there, with the command that makes them; or if they cannot be used.
    """
    if name == SMOKE and not folder.is_dir():
        return photograph_latents(folder)
    if not folder.is_dir():
        raise DataError(
            f"no latents of {name} at {folder}: make them with `ismkit latents IMAGES --out {folder}`, or name the "
            "folder of yours with --latents or ISMKIT_LATENTS"
        )
    from ismkit.imagenet.latents import Latents

    return Latents(folder)


def small_vae(folder: Path) -> Path:
    """Where :func:`photograph_latents` leaves the VAE of the latents in ``folder``."""
    return folder.with_name(f"{folder.name}-vae")


def photograph_latents(folder: Path, per_class: int = PER_CLASS, seed: int = 0) -> Latents:
    """Latents (4, 32, 32) of photographs in four classes, by an untrained VAE of the full one's class and shape.

    They are made by the code that makes those of ImageNet: a folder of pictures of 256 pixels, the encoder, files and
    a manifest. The VAE is left in :func:`small_vae`.
    """
    from ismkit.data.photos import photo_folder
    from ismkit.imagenet.encoding import Encoding, encode
    from ismkit.imagenet.latents import Latents
    from ismkit.imagenet.sources import open_source
    from ismkit.imagenet.vae import write_tiny_vae

    shutil.rmtree(small_vae(folder), ignore_errors=True)
    vae = write_tiny_vae(small_vae(folder), seed)
    with tempfile.TemporaryDirectory() as temporary:
        pictures = photo_folder(Path(temporary) / "photographs", per_class, seed=seed)
        encode(Encoding(open_source([pictures]), str(vae), folder, batch_size=8, threads=1), progress=False)
    return Latents(folder)
