"""Encode images into a folder of latents, or verify one; after a kill the same command resumes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

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
        source: a folder of class folders or of images, .tar files (or their folder), or OWNER/NAME on the hub.
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
    from ismkit.imagenet.encoding import launched_as, make_latents, report
    from ismkit.imagenet.latents import Latents
    from ismkit.utils.checks import check_count

    if bool(source) == bool(verify):
        raise UsageError("give either the source of the images, or --verify and a folder of latents")
    if verify:
        data = Latents(verify, verify=True)
        print(report(data.folder, data.manifest))
        return 0
    job: dict[str, Any] = {"batch_size": batch_size, "skip_corrupt": skip_corrupt, "vae_revision": vae_revision}
    if threads is not None:
        job["threads"] = threads
    for name in ("batch_size", "threads"):
        check_count(name, job.get(name, 1))
    made = make_latents(
        source,
        out,
        vae=vae,
        revision=revision,
        split=split,
        class_names=class_names,
        side=side,
        workers=workers,
        report=partial(print, flush=True),
        **job,
    )
    if made is None:
        rank, world = launched_as()
        print(f"process {rank} of {world} is done; others are at work")
    else:
        print(report(made.folder, made.manifest))
    return 0
