"""Encode images into a folder of latents, or verify one; after a kill the same command resumes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from ismkit.cli import UsageError

EXAMPLES = (
    "ismkit latents imagenet/train --workers 8 --out latents/imagenet256",
    "ismkit latents ILSVRC2012_img_train.tar --side 512",
    "ismkit latents shards/*.tar --class-names synsets.txt --skip-corrupt",
    "ismkit latents ILSVRC/imagenet-1k               # streamed from the hub",
    "ismkit latents --verify latents/imagenet256     # every byte against the manifest",
)


def command(
    source: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SOURCE ...")] = (),
    out: Path | None = None,
    vae: str = "sd-vae-ft-mse",
    vae_revision: str | None = None,
    revision: str | None = None,
    split: str = "train",
    class_names: Path | None = None,
    side: int = 256,
    batch_size: int = 32,
    workers: int = 1,
    threads: int | None = None,
    skip_corrupt: bool = False,
    verify: Path | None = None,
) -> int:
    """Encode or verify.

    Args:
        source: a folder of class folders, .tar files (or their folder), or OWNER/NAME on the hub.
        out: folder of the latents (default: $ISMKIT_LATENTS, or out/latents/imagenetSIDE).
        vae: sd-vae-ft-mse, sd-vae-ft-ema, a folder, or OWNER/NAME on the hub.
        vae_revision: commit of the VAE on the hub (default: the pinned one).
        revision: commit of the images on the hub (ImageNet's is pinned).
        split: of the images on the hub.
        class_names: for .tar files, a file with the name of each class, one a line.
        side: pixels after the centre crop.
        batch_size: images at a time.
        workers: processes here.
        threads: that decode images, in each process.
        skip_corrupt: list images that cannot be read or decoded, and carry on without them.
        verify: verify a folder of latents instead.
    """
    from ismkit.data.decoding import in_one_line
    from ismkit.imagenet.encoding import Encoding, encode, report
    from ismkit.imagenet.latents import Latents
    from ismkit.imagenet.sources import open_source, read_class_names
    from ismkit.utils.checks import check_count
    from ismkit.utils.files import expanded, out_dir

    if bool(source) == bool(verify):
        raise UsageError("give either the source of the images, or --verify and a folder of latents")
    if verify:
        data = Latents(verify, verify=True)
        print(report(data.folder, data.manifest))
        return 0
    for name, value in (("batch_size", batch_size), ("workers", workers), ("threads", threads or 1)):
        check_count(name, value)
    listed = read_class_names(class_names) if class_names else None
    images = open_source(list(source), revision=revision, split=split, class_names=listed)
    folder = out or expanded(os.environ.get("ISMKIT_LATENTS") or out_dir() / "latents" / f"imagenet{side}")
    job = Encoding(images, vae, folder, vae_revision, side=side, batch_size=batch_size, skip_corrupt=skip_corrupt)
    if threads:
        job = replace(job, threads=threads)
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    print(f"{images.units} files of {images.identity['kind']} images, VAE {vae}; in {folder}", flush=True)
    if images.left_alone:
        print(in_one_line(images.left_alone), flush=True)
    manifest = encode(job, workers=workers, rank=rank, world=world)
    print(report(folder, manifest) if manifest else f"process {rank} of {world} is done; others are at work")
    return 0
