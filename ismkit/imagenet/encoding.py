"""Images to a folder of latents: by many processes, whole files at a time, so that a kill loses one file at most.

Each unit of a source becomes one file with the entry for the manifest beside it (``latents-00000.json``), in this order
and each atomically. The process that finds the entries of all units writes the manifest. What is there is not encoded
again, and what is written is a function of the source, the VAE and the batch size alone (the plan also says when the
source was last touched).

An entry has the checksum of the unit's images. A later call trusts it as long as the sizes and times of the source's
files are those of the plan, as ``make`` does; where they are not, the images of all finished units are read again, and
other ones are refused.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ismkit.data.decoding import NoPictureError, in_one_line
from ismkit.data.values import missing_classes, warn_of_missing
from ismkit.imagenet.latents import (
    FILE,
    Latents,
    latents_store,
    moment_sums,
    statistics,
    write_file,
    write_manifest,
)
from ismkit.imagenet.latents import PLAN as FORM_OF_PLAN
from ismkit.imagenet.pixels import THREADS, Item, decoded
from ismkit.imagenet.sources import Source, open_source, read_class_names
from ismkit.imagenet.vae import ImageVAE
from ismkit.utils.checks import as_integer, check_count, check_kind, shown
from ismkit.utils.files import DataError, bytes_sum, expanded, json_sum, out_dir, replacing
from ismkit.utils.progress import progress_bar
from ismkit.utils.settings import check_types
from ismkit.utils.store import Store
from ismkit.utils.workers import Tell, WorkerError, run_group

#: Called with the numbers of images and of files that were done since the last call.
Tick = Callable[[int, int], None]

PATIENCE = 2 * 3600.0  # seconds without a batch from any worker, however large and on however slow a machine

PLAN, CORRUPT = "plan.json", "corrupt.txt"
#: The form of what stands beside each file.
ENTRY = {
    "file": FILE,
    "sums": {name: [float] for name in ("mean", "square", "variance", "low", "high")},
    "corrupt": [[str]],
    "labels": int,
    "contents": str,
}


@dataclass(frozen=True)
class Encoding:
    """A job: which images, with which VAE, into which folder. Given again, the same job resumes.

    Attributes:
        source: the images, see :func:`ismkit.imagenet.sources.open_source`.
        vae: name or folder for :meth:`ismkit.imagenet.vae.ImageVAE.load`, once in each process.
        folder: of the latents.
        revision: of the VAE.
        side: of the images in pixels, after the centre crop.
        batch_size: images in one pass through the VAE; it moves the last bits of the latents, no more.
        threads: that decode images, in each process.
        skip_corrupt: list images that cannot be read or decoded and leave them out; else the first one is an error.

    Raises:
        ValueError: if ``side``, ``batch_size`` or ``threads`` is below 1, or a value of another type.
        TypeError: if the source is none.

    Example:
        Two units, done one at a time by two processes that share a folder:

        >>> import tempfile
        >>> from pathlib import Path
        >>> from ismkit import Encoding, ImageFolder, photo_folder, write_tiny_vae
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     pictures = ImageFolder(photo_folder(folder / "pictures", per_class=1, side=32), per_unit=2)
        ...     vae = write_tiny_vae(folder / "vae")
        ...     job = Encoding(pictures, str(vae), folder / "latents", side=32, threads=1)
        ...     job.begin()
        ...     print(job.missing(), job.run(rank=0, world=2))
        ...     print(job.missing(), job.run(rank=1, world=2).name)
        ...     print(job.file(1).name, job.finish().name)
        [0, 1] None
        [1] manifest.json
        latents-00001.arrow manifest.json
    """

    source: Source
    vae: str
    folder: Path
    revision: str | None = None
    side: int = 256
    batch_size: int = 32
    threads: int = THREADS
    skip_corrupt: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        if not callable(getattr(self.source, "read", None)):
            raise TypeError(f"source must be the images, see open_source, got {shown(self.source)}")
        object.__setattr__(self, "folder", Path(self.folder))
        for name in ("side", "batch_size", "threads"):
            object.__setattr__(self, name, check_count(name, getattr(self, name)))

    def begin(self) -> None:
        """Make the folder, or check that what it holds is of the same job, and that the disk has room for the rest.

        Raises:
            ValueError: if ``side`` is no multiple of the VAE's pixels per cell.
            DataError: if the folder is of other images, another VAE or another side, or the disk too small.
        """
        vae = ImageVAE.load(self.vae, self.revision)
        if self.side % vae.factor:
            raise ValueError(f"side must be a multiple of {vae.factor}, the VAE's pixels per cell, got {self.side}")
        cells = self.side // vae.factor
        plan: dict[str, Any] = {"source": self.source.identity, "vae": vae.identity, "side": self.side}
        plan |= {"shape": [vae.channels, cells, cells], "units": self.source.units}
        state = {"state": self.source.state}
        store = latents_store(self.folder)
        if PLAN not in store:
            if self.folder.is_dir() and any(_is_strange(found) for found in self.folder.iterdir()):
                raise DataError(f"{self.folder} holds other files: give a folder that is new, empty or of latents")
            store.write(PLAN, plan | state)
        held = store.read(PLAN, FORM_OF_PLAN).value
        if other := [key for key in plan if held.get(key) != plan[key]]:
            raise DataError(
                f"{self.folder} is of another {other[0]}: {held.get(other[0])} there, {plan[other[0]]} now. "
                "Give another folder"
            )
        if not state.items() <= held.items():
            self._check_contents()
            store.write(PLAN, plan | state)
        if self.source.images is not None:
            left = self.source.images * len(self.missing()) / self.source.units
            needed, free = int(left * row_bytes(plan["shape"]) * 2), shutil.disk_usage(self.folder).free
            if needed > free:
                raise DataError(
                    f"{self.folder} needs {needed / 1e9:.1f} GB more, the disk has {free / 1e9:.1f} GB free"
                )

    def file(self, unit: int) -> Path:
        """Where a unit's file goes; its entry lies beside it, with the ending ``.json``."""
        return self.folder / f"latents-{unit:05d}.arrow"

    def _check_contents(self) -> None:
        """Raise DataError unless the images of the finished units are those that were encoded."""
        store, missing = self._entries(), set(self.missing())
        finished = [unit for unit in range(self.source.units) if unit not in missing]
        for unit in progress_bar(finished, desc="comparing with the images that were encoded", unit="file"):
            digest = hashlib.sha256()
            for _ in _summed(self.source.read(unit), digest):
                pass
            if store.read(f"{self.file(unit).stem}.json", ENTRY).value["contents"] != digest.hexdigest():
                raise DataError(
                    f"{self.folder} is of other images of the same names: those of {self.file(unit).name} have changed "
                    "since. Give another folder, or delete this one to encode all of them again"
                )

    def _plan(self) -> dict[str, Any]:
        """What latents of this folder are a function of."""
        return {key: value for key, value in latents_store(self.folder).value(PLAN).items() if key != "state"}

    def _entries(self) -> Store:
        return latents_store(self.folder, self._plan())

    def missing(self) -> list[int]:
        """Units without a finished file."""
        store = self._entries()

        def finished(path: Path) -> bool:
            name = path.with_suffix(".json").name
            there = name in store and path.exists()
            return there and store.read(name, ENTRY).value["file"]["bytes"] == path.stat().st_size

        return [unit for unit in range(self.source.units) if not finished(self.file(unit))]

    def run(self, rank: int = 0, world: int = 1, tick: Tick = lambda images, files: None) -> Path | None:
        """Encode the share of process ``rank`` of ``world``: units rank, rank + world, ... that are missing.

        Args:
            rank: of this process, 0 .. world - 1.
            world: number of processes; not the same each time.
            tick: called after each batch and each file with the numbers of images and of files that were added; what
                it raises ends the work.

        Returns:
            The manifest, or None while files of other processes are missing.
        """
        vae = ImageVAE.load(self.vae, self.revision)
        if torch.cuda.is_available():
            vae.cuda(rank % torch.cuda.device_count())
        with ThreadPoolExecutor(self.threads) as pool:
            for unit in self.missing():
                if unit % world == rank:
                    self._encode(unit, vae, pool, tick)
        return self.finish()

    def _encode(self, unit: int, vae: ImageVAE, pool: ThreadPoolExecutor, tick: Tick) -> None:
        path = self.file(unit)
        for stale in self.folder.glob(f".{path.stem}.*.partial-*"):
            stale.unlink()
        moments: list[np.ndarray] = []
        kept: list[tuple[str, int]] = []
        corrupt: list[list[str]] = []
        batch: list[np.ndarray] = []

        def flush() -> None:
            moments.append(_moments(vae, np.stack(batch)))
            tick(len(batch), 0)
            batch.clear()

        digest = hashlib.sha256()
        for item, pixels in decoded(_summed(self.source.read(unit), digest), self.side, pool, 2 * self.batch_size):
            if isinstance(pixels, Exception):
                if not (self.skip_corrupt or isinstance(pixels, NoPictureError)):
                    raise DataError(
                        f"{item.name} is no image that can be decoded ({pixels}): mend or remove it, or choose to "
                        "list such images and to carry on without them (--skip-corrupt)"
                    ) from pixels
                corrupt.append([item.name, str(pixels)])
                continue
            kept.append((item.name, item.label))
            batch.append(pixels)
            if len(batch) == self.batch_size:
                flush()
        if batch:
            flush()
        cells = self.side // vae.factor
        rows = np.concatenate([np.empty((0, 2, vae.channels, cells, cells), np.float16), *moments])
        doubled = [image for image in kept for _ in range(2)]  # each image, then its mirror image
        written = write_file(path, rows, [y for _, y in doubled], [False, True] * len(kept), [n for n, _ in doubled])
        entry: dict[str, Any] = {"file": written, "sums": moment_sums(rows), "corrupt": corrupt}
        entry |= {"labels": max((y for _, y in kept), default=-1) + 1, "contents": digest.hexdigest()}
        self._entries().write(path.with_suffix(".json").name, entry)
        tick(0, 1)

    def finish(self) -> Path | None:
        """Write the manifest if all files are there. Called again, it writes the same bytes.

        Returns:
            Its path, or None while files are missing.

        Raises:
            DataError: if no image could be decoded.
        """
        if self.missing():
            return None
        store = self._entries()
        entries = [store.read(f"{self.file(unit).stem}.json", ENTRY).value for unit in range(self.source.units)]
        plan = self._plan()
        rows = sum(entry["file"]["rows"] for entry in entries)
        if not rows:
            raise DataError(f"{self.folder}: no image could be decoded")
        names = self.source.class_names or tuple(map(str, range(max(entry["labels"] for entry in entries))))
        corrupt = [pair for entry in entries for pair in entry["corrupt"]]
        with replacing(self.folder / CORRUPT) as file:
            file.write("".join(f"{name}\t{reason}\n" for name, reason in corrupt).encode())
        manifest = {key: plan[key] for key in ("source", "vae", "side", "shape")}
        manifest |= {"class_names": list(names), "images": rows // 2, "rows": rows, "corrupt": corrupt}
        cells = rows * plan["shape"][1] * plan["shape"][2]
        manifest["statistics"] = statistics([entry["sums"] for entry in entries], cells)
        return write_manifest(self.folder, manifest | {"files": [entry["file"] for entry in entries]})


def _summed(items: Iterable[Item], digest: Any) -> Iterator[Item]:
    """The items; their names, labels and bytes go into the checksum ``digest`` on their way."""
    for item in items:
        of_bytes = bytes_sum(item.data) if isinstance(item.data, bytes) else type(item.data).__name__
        digest.update(json_sum([item.name, item.label, of_bytes]).encode())
        yield item


def row_bytes(shape: Iterable[int]) -> int:
    """Bytes of one row of latents (C, h, w): two numbers of float16 for each."""
    return 4 * int(np.prod(list(shape)))


def encode(
    job: Encoding, *, workers: int = 1, rank: int = 0, world: int = 1, progress: bool | None = None
) -> dict[str, Any] | None:
    """Do a job, or one machine's share of it, in some processes, with a bar that shows the time left.

    With GPUs the workers share them out; several for each keep it busy where decoding images takes longer.

    Args:
        job: what to encode.
        workers: processes here.
        rank: of this call among ``world`` of them, on one machine or many that share the folder.
        world: number of calls; not the same each time.
        progress: show a progress bar; by default unless the environment says CI.

    Returns:
        The manifest, or None if all that is missing is the share of other calls.

    Raises:
        ValueError: if workers is below 1, or the job is not possible.
        DataError: for a corrupt image, a full disk, a worker that died; finished files are kept.
        UserWarning: a warning, when all is encoded, for classes without images.

    Example:
        Every image is stored twice, as it is and mirrored:

        >>> import tempfile
        >>> from pathlib import Path
        >>> from ismkit import Encoding, encode, open_source, photo_folder, write_tiny_vae
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     pictures = open_source([photo_folder(folder / "pictures", per_class=1, side=32)])
        ...     vae = write_tiny_vae(folder / "vae")
        ...     manifest = encode(Encoding(pictures, str(vae), folder / "latents", side=32, threads=1), progress=False)
        ...     print(sorted(path.name for path in (folder / "latents").iterdir()))
        ['corrupt.txt', 'latents-00000.arrow', 'latents-00000.json', 'manifest.json', 'plan.json']
        >>> manifest["images"], manifest["rows"], manifest["shape"]
        (4, 8, [4, 4, 4])
    """
    check_kind("job", job, Encoding)
    workers, world, rank = check_count("workers", workers), check_count("world", world), as_integer(rank, "rank")
    if not 0 <= rank < world:
        raise ValueError(f"rank must lie in [0, world = {world}), got {rank}")
    job.begin()
    todo, images = sum(unit // workers % world == rank for unit in job.missing()), job.source.images
    counted = {"total": todo, "unit": "file"} if images is None else {"total": images * todo // job.source.units}
    with progress_bar(show=progress, desc="encoding", **{"unit": "image"} | counted) as bar:

        def tick(images: int, files: int) -> None:
            bar.update(files if counted.get("unit") else images)

        if workers == 1:
            job.run(rank, world, tick)
        elif todo:
            _encode_in_processes(job, workers, rank, world, tick)
    if job.finish() is None:
        return None
    data = Latents(job.folder)
    missing = missing_classes(data.y, data.num_classes)
    warn_of_missing(missing, data.num_classes, "no network that is trained on these latents learns them")
    return data.manifest


def latents_folder(side: int) -> Path:
    """Where the latents of images of ``side`` pixels go by default: ``$ISMKIT_LATENTS``, or in ``out/latents``."""
    return expanded(os.environ.get("ISMKIT_LATENTS") or out_dir() / "latents" / f"imagenet{side}")


def launched_as() -> tuple[int, int]:
    """The rank of this process under ``torchrun`` or a like launcher, and their number: (0, 1) without one."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def make_latents(
    names: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str] | None = None,
    *,
    vae: str = "sd-vae-ft-mse",
    revision: str | None = None,
    split: str = "train",
    class_names: str | os.PathLike[str] | None = None,
    side: int = 256,
    workers: int = 1,
    report: Callable[[str], Any] = lambda line: None,
    **options: Any,
) -> Latents | None:
    """Encode a set of images into a folder of latents, or resume that: ``ismkit latents``.

    Under ``torchrun`` or a like launcher (``RANK``, ``WORLD_SIZE``) each process does its share.

    Args:
        names: of the images, as for :func:`ismkit.imagenet.sources.open_source`.
        folder: of the latents; by default ``$ISMKIT_LATENTS``, or ``out/latents/imagenetSIDE``.
        vae: name or folder for :meth:`ismkit.imagenet.vae.ImageVAE.load`.
        revision: of the images, a commit of the hub; ImageNet's is pinned.
        split: of the images on the hub.
        class_names: for tar files, a file with the name of each class, one a line.
        side: of the images in pixels, after the centre crop.
        workers: processes here.
        report: called with a line on what will be encoded, and one on files that are no pictures, if there are any.
        options: of :class:`Encoding`: ``batch_size``, ``threads``, ``skip_corrupt``; ``vae_revision`` is the VAE's
            revision; and ``progress`` of :func:`encode`.

    Returns:
        The latents, or None if all that is missing is the share of other processes.

    Raises:
        ValueError: for images, or settings of the job, that cannot be.
        DataError: as :func:`encode`, and if the source holds no images.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ismkit import make_latents, photo_folder, write_tiny_vae
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     pictures, vae = photo_folder(folder / "pictures", per_class=1, side=32), write_tiny_vae(folder / "vae")
        ...     latents = make_latents([pictures], folder / "latents", vae=str(vae), side=32, threads=1, progress=False)
        ...     print(len(latents), latents.shape, latents.num_classes)
        8 (4, 4, 4) 4
    """
    check_count("workers", workers)
    if isinstance(names, str | os.PathLike):
        names = [names]
    listed = read_class_names(class_names) if class_names else None
    images = open_source(names, revision=revision, split=split, class_names=listed)
    folder = latents_folder(side) if folder is None else expanded(folder)
    shown = {"progress": options.pop("progress", None)}
    options |= {"side": side, "revision": options.pop("vae_revision", None)}
    job = Encoding(images, vae, folder, **options)
    report(f"{images.units} files of {images.identity['kind']} images, VAE {vae}; in {folder}")
    if images.left_alone:
        report(in_one_line(images.left_alone))
    rank, world = launched_as()
    manifest = encode(job, workers=workers, rank=rank, world=world, **shown)
    return None if manifest is None else Latents(folder)


def _encode_in_processes(job: Encoding, workers: int, rank: int, world: int, tick: Tick) -> None:
    """Let new processes do the shares ``rank * workers``, ... of ``world * workers``, on PyTorch's threads in all."""

    def share(k: int, tell: Tell) -> None:
        job.run(rank * workers + k, world * workers, lambda images, files: tell((images, files)))

    try:
        run_group(
            share,
            workers,
            report=lambda k, done: tick(*done),
            threads=max(1, torch.get_num_threads() // workers),
            patience=PATIENCE,
        )
    except WorkerError as error:
        raise DataError(
            f"a worker died or hung: {error}. What was finished is kept: the same command resumes"
        ) from error


def report(folder: Path, manifest: dict[str, Any]) -> str:
    """What a folder of latents holds, in a few lines."""
    scale, vae, files = manifest["vae"]["scaling_factor"], manifest["vae"], manifest["files"]
    size = sum(file["bytes"] for file in files)
    amount = f"{size / 1e9:.3g} GB" if size > 1e9 else f"{size / 1e6:.3g} MB"
    spread = " ".join(f"{scale * std:.3f}" for std in manifest["statistics"]["std"])
    posterior = " ".join(f"{scale * std:.4f}" for std in manifest["statistics"]["posterior_std"])
    return "\n".join(
        [
            f"latents: {folder}",
            f"{manifest['images']} images of {len(manifest['class_names'])} classes, each with its mirror image: "
            f"{manifest['rows']} rows of {tuple(manifest['shape'])} in {len(files)} files, {amount}",
            f"VAE {vae['name']}, revision {vae['revision']}, SHA-256 {vae['sha256']}, scaling factor {scale:g}",
            f"scaled, per channel: standard deviation of the means {spread}, of the posterior {posterior}",
            f"corrupt images left out: {len(manifest['corrupt'])}"
            + (f", listed in {folder / CORRUPT}" if manifest["corrupt"] else ""),
        ]
    )


def _moments(vae: ImageVAE, pixels: np.ndarray) -> np.ndarray:
    """Rows of images (B, 3, H, W) uint8, each followed by its mirror image: (2 B, 2, C, h, w) float16."""
    images = torch.from_numpy(pixels).to(vae.vae.device).float().div_(127.5).sub_(1)
    copies = torch.stack([torch.stack(vae.moments(x), dim=1) for x in (images, images.flip(-1))], dim=1)
    return copies.flatten(0, 1).half().cpu().numpy()


def _is_strange(path: Path) -> bool:
    """Neither the plan nor a hidden file, which another process may be writing at the moment."""
    return path.name != PLAN and not path.name.startswith(".")
