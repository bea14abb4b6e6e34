"""Latents on disk: files of posterior moments, read through memory maps, and the manifest that says what they are.

A folder of latents holds ``manifest.json`` and ``latents-00000.arrow``, ... (Arrow IPC files, one record batch each).
A row is one image or its mirror image: ``moments``, mean and standard deviation of the posterior as float16 (2, C, h,
w), not scaled; ``label`` int64; ``flipped`` bool; ``name`` of the image in its source. Mean and deviation of a row lie
side by side, so that a random row is one read of 16 KiB at 4 x 32 x 32.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ismkit.imagenet.vae import ImageVAE
from ismkit.utils.files import DataError, bytes_sum, replacing, verify_sha256
from ismkit.utils.progress import progress_bar
from ismkit.utils.store import Store

FORMAT, VERSION = "ismkit latents", 3
MANIFEST = "manifest.json"
LARGEST = 65504.0  # in float16
_VERIFYING = threading.Lock()
REMEDY = "delete it and give the command that made the folder again, which makes the missing files again"
#: Forms of a file's entry, of a VAE's identity, of the plan and of the manifest, for ``Store.read``.
FILE = {"name": str, "rows": int, "bytes": int, "sha256": str}
VAE = {"name": str, "revision": (str, type(None)), "sha256": str, "scaling_factor": float}
PLAN = {"source": dict, "vae": VAE, "side": int, "shape": [int], "units": int, "state": str}
FIELDS: dict[str, Any] = {
    "source": dict,
    "vae": VAE,
    "side": int,
    "shape": [int],
    "class_names": [str],
    "images": int,
    "rows": int,
    "corrupt": [list],
    "statistics": {name: [float] for name in ("mean", "std", "posterior_std", "low", "high")},
    "files": [FILE],
}


def write_file(
    path: Path, moments: np.ndarray, labels: Sequence[int], flipped: Sequence[bool], names: Sequence[str]
) -> dict[str, Any]:
    """Write one file, atomically.

    Args:
        path: of the file.
        moments: (rows, 2, C, h, w) float16: mean and standard deviation of the posterior, not scaled.
        labels: class of each row.
        flipped: whether the row is a mirror image.
        names: of each row's image in its source.

    Returns:
        Its entry in the manifest: ``name``, ``rows``, ``bytes``, ``sha256``.

    Raises:
        ValueError: if a number is not finite (float16 reaches to 65504).
        DataError: if the disk takes no more; nothing is left of the file then.
    """
    import pyarrow as pa

    if moments.dtype != np.float16 or moments.ndim != 5 or moments.shape[1] != 2:
        raise ValueError(f"moments must be float16 (rows, 2, C, h, w), got {moments.dtype} {moments.shape}")
    if len(broken := np.flatnonzero(~np.isfinite(moments).all((1, 2, 3, 4)))):
        raise ValueError(f"{path.name}: latents of {names[broken[0]]} are not finite in float16")
    size = math.prod(moments.shape[1:])
    columns = {
        "moments": pa.FixedSizeListArray.from_arrays(pa.array(moments.reshape(-1)), size),
        "label": pa.array(labels, pa.int64()),
        "flipped": pa.array(flipped, pa.bool_()),
        "name": pa.array(names, pa.string()),
    }
    batch = pa.RecordBatch.from_pydict(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    content = sink.getvalue()
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}. What was finished before is kept: "
            "make room, and the same command resumes"
        ) from error
    return {"name": path.name, "rows": len(moments), "bytes": content.size, "sha256": bytes_sum(content)}


def moment_sums(moments: np.ndarray) -> dict[str, list[float]]:
    """Sum moments over rows and cells, per channel in float64; :func:`statistics` makes those of the whole set of them.

    Args:
        moments: (rows, 2, C, h, w): mean and standard deviation of the posterior.

    Returns:
        Sums (``mean``, ``square``, ``variance``) and the range (``low``, ``high``), each with C numbers.
    """
    mean, std = moments[:, 0].astype(np.float64), moments[:, 1].astype(np.float64)
    axes = (0, 2, 3)
    return {
        "mean": mean.sum(axes).tolist(),
        "square": np.square(mean).sum(axes).tolist(),
        "variance": np.square(std).sum(axes).tolist(),
        "low": mean.min(axes, initial=LARGEST).tolist(),  # also of no rows: JSON knows no infinity
        "high": mean.max(axes, initial=-LARGEST).tolist(),
    }


def statistics(sums: Sequence[dict[str, list[float]]], cells: int) -> dict[str, list[float]]:
    """Per channel, of latents that are not scaled, from the sums of all files over ``cells`` cells in each channel.

    Returns:
        ``mean`` and ``std`` of the posterior means, ``low`` and ``high``, their range, and ``posterior_std``, the root
        of the mean posterior variance.
    """
    columns = {key: np.array([part[key] for part in sums]) for key in sums[0]}
    mean = columns["mean"].sum(0) / cells
    return {
        "mean": mean.tolist(),
        "std": np.sqrt(np.maximum(columns["square"].sum(0) / cells - mean**2, 0)).tolist(),
        "posterior_std": np.sqrt(columns["variance"].sum(0) / cells).tolist(),
        "low": columns["low"].min(0).tolist(),
        "high": columns["high"].max(0).tolist(),
    }


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> Path:
    """Write the manifest, atomically. The same content gives the same bytes."""
    store = latents_store(folder)
    store.write(MANIFEST, manifest)
    return store.path(MANIFEST)


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a folder of latents, verified, and its ``sha256``.

    Raises:
        DataError: if it is missing, truncated, altered, of another version, or at odds with itself.
    """
    store = latents_store(folder)
    if MANIFEST not in store:
        started = ": encoding it is not finished, give the same command again" if Path(folder).is_dir() else ""
        raise DataError(
            f"{store.path(MANIFEST)} is missing{started}; `ismkit latents --help` says how latents are made"
        )
    manifest, _, digest = store.read(MANIFEST, FIELDS)
    if not is_shape(manifest["shape"]):
        raise DataError(f"{store.path(MANIFEST)}: shape must be three numbers of at least 1: {REMEDY}")
    if not 0 < manifest["vae"]["scaling_factor"] < math.inf:
        raise DataError(f"{store.path(MANIFEST)}: vae.scaling_factor must be positive and finite: {REMEDY}")
    return {**manifest, "sha256": digest}


def is_shape(shape: Sequence[int]) -> bool:
    """Whether numbers can be the shape (C, h, w) of a latent."""
    return len(shape) == 3 and min(shape) >= 1


def latents_store(folder: str | os.PathLike[str], plan: Any = None) -> Store:
    """Where the manifest and the plan of a folder of latents are kept; with the plan, the entries of its files."""
    return Store(folder, {"format": FORMAT, "version": VERSION, "plan": plan}, remedy=REMEDY)


def check_vae(folder: Path, manifest: Mapping[str, Any], vae: ImageVAE | Mapping[str, Any]) -> None:
    """Raise DataError unless the latents are those of this VAE: its weights, its revision and its scaling factor.

    A revision that either side does not name (the VAE of a folder has none) is not compared; the weights always are.
    """
    held = manifest["vae"]
    given = vae.identity if isinstance(vae, ImageVAE) else vae
    for key in ("sha256", "revision", "scaling_factor"):
        if held[key] != given[key] and not (key == "revision" and None in (held[key], given[key])):
            what = {"sha256": "SHA-256 of the weights"}.get(key, key.replace("_", " "))
            raise DataError(
                f"the latents in {folder} are of another VAE: {what} {held[key]} ({held['name']}), and that of the VAE "
                f"given is {given[key]} ({given['name']}). Give the VAE that made them, or encode the images again"
            )


class Latents(Dataset[tuple[Tensor, Tensor]]):
    """A folder of latents as a data set with quick random access; only the labels are kept in memory.

    ``data[i]`` gives scaled posterior means (..., C, h, w) float32 and labels (...,) for whole numbers or int64 tensors
    ``i``: always the same. :meth:`take` draws from the posteriors, which is what training wants. An image and its
    mirror image are two rows.

    Args:
        folder: that ``ismkit latents`` or :func:`ismkit.imagenet.encoding.encode` wrote.
        vae: refuse latents of another VAE than this one, or than that of this ``identity``.
        verify: read all bytes and compare their checksums at once (42 GB for ImageNet at 256 pixels: minutes). Else
            the manifest and the sizes of the files are verified now, and each file when the first row of it is read:
            once in a process, and not again in those that it gives the data set to.

    Attributes:
        manifest: source, VAE, counts, statistics, files.
        num_classes: number of classes.
        class_names: one name per class.
        shape: (C, h, w) of a latent.
        y: labels (n,) int64.

    Raises:
        DataError: if the manifest or a file is missing, truncated or altered, or the VAE another.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from ismkit import Encoding, Latents, encode, open_source, photo_folder, stream, write_tiny_vae
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     pictures = open_source([photo_folder(folder / "pictures", per_class=2, side=32)])
        ...     vae = write_tiny_vae(folder / "vae")
        ...     _ = encode(Encoding(pictures, str(vae), folder / "latents", side=32, threads=1), progress=False)
        ...     data = Latents(folder / "latents", verify=True)
        ...     index = torch.tensor([0, 1, 5])
        ...     means, y = data[index]
        ...     drawn, _ = data.take(index, stream(0, "example"))
        ...     stored = data.moments(index)
        ...     data.verify(progress=False)
        >>> len(data), data.shape, [data.class_names[label] for label in y]
        (16, (4, 4, 4), ['astronaut', 'astronaut', 'cat'])
        >>> drawn.equal(means), (drawn - means).std().item() < 0.2  # the posterior is narrow
        (False, True)
        >>> stored.shape, stored.dtype  # mean and standard deviation
        (torch.Size([3, 2, 4, 4, 4]), torch.float16)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        vae: ImageVAE | Mapping[str, Any] | None = None,
        verify: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        if vae is not None:
            check_vae(self.folder, self.manifest, vae)
        for file in self.manifest["files"]:
            path = self.folder / file["name"]
            if not path.is_file() or path.stat().st_size != file["bytes"]:
                held = f"holds {path.stat().st_size} of {file['bytes']} bytes" if path.is_file() else "is missing"
                raise DataError(f"{path} {held}: {REMEDY}")
        self._verified: set[str] = set()  # names of files
        if verify:
            self.verify()
        self.class_names: tuple[str, ...] = tuple(self.manifest["class_names"])
        self.num_classes = len(self.class_names)
        self.shape: tuple[int, ...] = tuple(self.manifest["shape"])
        self.scaling_factor: float = self.manifest["vae"]["scaling_factor"]
        opened = [_map_file(self.folder / file["name"], self.shape) for file in self.manifest["files"]]
        self._maps = [moments for moments, _ in opened]
        self._ends = np.cumsum([len(moments) for moments in self._maps])
        self.y = torch.from_numpy(np.concatenate([labels for _, labels in opened]))
        if len(self.y) != self.manifest["rows"] or len(self.y) == 0:
            raise DataError(f"{self.folder} holds {len(self.y)} rows, its manifest says {self.manifest['rows']}")
        if int(self.y.min()) < 0 or int(self.y.max()) >= self.num_classes:
            raise DataError(f"{self.folder} holds labels outside its {self.num_classes} classes")

    def verify(self, *, progress: bool | None = None) -> None:
        """Compare the SHA-256 checksums of all files with the manifest.

        Args:
            progress: show a progress bar; by default unless the environment says CI.

        Raises:
            DataError: for the first file that differs.
        """
        for file in progress_bar(self.manifest["files"], show=progress, desc="verifying", unit="file"):
            self._verify(file)

    def _verify(self, file: Mapping[str, Any]) -> None:
        verify_sha256(self.folder / file["name"], file["sha256"], file["bytes"], REMEDY)
        self._verified.add(file["name"])

    @property
    def identity(self) -> str:
        """The checksum of the manifest, which has those of all files."""
        return self.manifest["sha256"]

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the files itself: pickled maps would carry all latents along.
        return type(self), (self.folder,), {"_verified": self._verified}

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        if isinstance(index, slice):
            index = range(len(self))[index]
        index = torch.as_tensor(index)
        mean = self.moments(index.reshape(-1))[:, 0].float() * self.scaling_factor
        return mean.reshape(*index.shape, *self.shape), self.y[index]

    def take(self, index: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw from the posteriors of some rows.

        Args:
            index: of the rows, (B,) int64.
            rng: a generator on the CPU, on which alone the draws depend; see :class:`ismkit.data.batches.Batches`.

        Returns:
            Scaled latents (B, C, h, w) float32, and labels (B,).
        """
        mean, std = self.moments(index).float().unbind(1)
        noise = torch.randn(mean.shape, generator=rng)
        return noise.mul_(std).add_(mean).mul_(self.scaling_factor), self.y[index]

    def moments(self, index: Tensor) -> Tensor:
        """Read mean and standard deviation as stored, not scaled.

        Args:
            index: of the rows, (B,) int64.

        Returns:
            Moments (B, 2, C, h, w) float16.

        Raises:
            TypeError: if ``index`` is not int64 (B,).
            IndexError: if a row is out of range.
            DataError: if the file of a row is altered, which is found when it is first read.
        """
        if index.dtype != torch.int64 or index.ndim != 1:
            raise TypeError(f"index must be int64 (B,), got {index.dtype} {tuple(index.shape)}")
        rows = index.numpy()
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"index must lie in [0, {len(self)}), got {rows.min()} .. {rows.max()}")
        files = np.searchsorted(self._ends, rows, side="right")
        offsets = rows - (self._ends[files] - [len(self._maps[k]) for k in files])
        for k in np.unique(files).tolist():
            file = self.manifest["files"][k]
            if file["name"] not in self._verified:
                with _VERIFYING:  # the threads of several micro-batches would read 42 GB each
                    if file["name"] not in self._verified:
                        self._verify(file)
        out = np.empty((len(rows), 2, *self.shape), dtype=np.float16)
        for i, (k, offset) in enumerate(zip(files.tolist(), offsets.tolist(), strict=True)):
            out[i] = self._maps[k][offset]
        return torch.from_numpy(out)


def _map_file(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Moments (rows, 2, C, h, w) float16, a view of the mapped file, and labels (rows,) int64 of a file."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file:
            batch = pa.ipc.open_file(file).get_batch(0)
        moments = batch.column("moments").values.to_numpy(zero_copy_only=True)
        return moments.reshape(-1, 2, *shape), batch.column("label").to_numpy(zero_copy_only=True)
    except (pa.ArrowException, KeyError, ValueError, AttributeError, OSError) as error:
        raise DataError(f"{path} is no file of latents {shape} ({error}): {REMEDY}") from error
