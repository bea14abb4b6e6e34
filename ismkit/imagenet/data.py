"""The data of the ImageNet runs: a folder of latents, found or missed; and photographs in its place, to try it all.

The runs themselves, ``imagenet256-s2`` to ``-xl2``, ``imagenet512-xl2`` and ``imagenet-smoke``, stand with the others
in :mod:`ismkit.training.runs`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from ismkit.imagenet.latents import MANIFEST, Latents
from ismkit.utils.files import DataError

SMOKE = "imagenet-smoke"
PER_CLASS = 12  # pictures of the small set, in four classes


def open_latents(name: str, folder: Path) -> Latents:
    """Open the latents of an ImageNet run; those of ``imagenet-smoke`` are made if there are none, in seconds.

    Args:
        name: of the run's latents, for the message; ``imagenet-smoke`` stands for photographs and a tiny VAE.
        folder: that holds them.

    Returns:
        The data set.

    Raises:
        DataError: if none are there, with the command that makes them; or if they cannot be used.

    Example:
        >>> from pathlib import Path
        >>> from ismkit import DataError
        >>> from ismkit.imagenet import open_latents
        >>> try:
        ...     open_latents("imagenet256", Path("latents"))
        ... except DataError as error:
        ...     print(str(error).partition(",")[0])
        no latents of imagenet256 at latents: make them with `ismkit latents IMAGES --out latents`

        Latents of photographs, which take some ten seconds to make:

        >>> data = open_latents("imagenet-smoke", Path("smoke"))  # doctest: +SKIP
        >>> len(data), data.shape, data.class_names  # doctest: +SKIP
        (96, (4, 32, 32), ('astronaut', 'cat', 'coffee', 'rocket'))
    """
    if name == SMOKE and not (folder / MANIFEST).is_file():  # none, or not all: a kill may have ended the making
        return photograph_latents(folder)
    if not folder.is_dir():
        raise DataError(
            f"no latents of {name} at {folder}: make them with `ismkit latents IMAGES --out {folder}`, or name the "
            "folder of yours with --latents or ISMKIT_LATENTS"
        )
    return Latents(folder)


def small_vae(folder: Path) -> Path:
    """Name the folder of the VAE that made the latents of ``imagenet-smoke``: beside theirs.

    Args:
        folder: of the latents.

    Returns:
        The folder; :func:`open_latents` writes it together with the latents.

    Example:
        >>> from pathlib import Path
        >>> from ismkit import small_vae
        >>> small_vae(Path("out/latents/imagenet-smoke")).as_posix()
        'out/latents/imagenet-smoke-vae'
    """
    return folder.with_name(f"{folder.name}-vae")


def photograph_latents(folder: Path, per_class: int = PER_CLASS, seed: int = 0) -> Latents:
    """Make latents (4, 32, 32) of photographs in four classes, by an untrained VAE of the full one's class and shape.

    They are made by the code that makes those of ImageNet: a folder of pictures of 256 pixels, the encoder, files and a
    manifest. The VAE is left in :func:`small_vae`. After a kill the same call makes what is missing.

    Args:
        folder: of the latents.
        per_class: pictures of each class.
        seed: of the pictures and of the VAE's weights.

    Returns:
        The data set.
    """
    from ismkit.data.photos import photo_folder
    from ismkit.imagenet.encoding import Encoding, encode
    from ismkit.imagenet.sources import open_source
    from ismkit.imagenet.vae import write_tiny_vae

    vae = write_tiny_vae(small_vae(folder), seed)
    with tempfile.TemporaryDirectory() as temporary:
        pictures = photo_folder(Path(temporary) / "photographs", per_class, seed=seed)
        encode(Encoding(open_source([pictures]), str(vae), folder, batch_size=8, threads=1), progress=False)
    return Latents(folder)
