"""What samples are compared with: ADM's published statistics, or statistics made here from images.

ADM's file ``VIRTUAL_imagenet256_labeled.npz`` holds means and covariances of Inception's features over the training
set (``mu``, ``sigma``; ``mu_s``, ``sigma_s`` of the spatial features) and 10 000 images, ``arr_0``, for precision and
recall. Nothing here reads a pickle.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors.torch import save as to_bytes
from torch import Tensor

from ismkit.data.decoding import PictureError, read_picture
from ismkit.evaluation.extractors import Extractor
from ismkit.evaluation.metrics import Gaussian, Moments
from ismkit.imagenet.pixels import THREADS, center_crop
from ismkit.utils.checks import check_count, check_kind, shown
from ismkit.utils.files import DataError, destination, file_sum, replacing
from ismkit.utils.progress import progress_bar
from ismkit.utils.seeding import stream
from ismkit.utils.weights import SUM, CheckpointError, contents_sum, read_weights

ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/256/"
ADM += "VIRTUAL_imagenet256_labeled.npz"
ADM_LAYERS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
KEPT = 10_000  # images whose features are kept for precision and recall, as many as ADM has


@dataclass(frozen=True)
class Reference:
    """Statistics of real images in the features of one network.

    Made by :func:`make_reference`, or read from a file by :func:`load_reference`.

    Attributes:
        path: the file.
        sha256: of the file.
        extractor: name of the feature network.
        moments: mean and covariance by layer.
        features: (m, F) of some of the images in the layer ``pool``, for precision and recall; None in ADM's file.
        about: JSON: source, number of images where it is known, how they were made.

    Example:
        What ADM's published file holds, at a hundredth of its size, and how far its two layers are from each other:

        >>> import tempfile
        >>> import numpy as np
        >>> from ismkit import frechet
        >>> from ismkit.evaluation import load_reference
        >>> eye = np.eye(20)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/adm.npz", mu=np.zeros(20), sigma=eye, mu_s=np.ones(20), sigma_s=4 * eye)
        ...     reference = load_reference(f"{folder}/adm.npz")
        >>> reference.extractor, sorted(reference.moments), reference.features
        ('inception', ['pool', 'spatial'], None)
        >>> round(frechet(reference.moments["pool"], reference.moments["spatial"]), 6)  # 20 * (1 + (2 - 1)^2)
        40.0
    """

    path: Path
    sha256: str
    extractor: str
    moments: dict[str, Gaussian]
    features: Tensor | None
    about: dict[str, Any]


def checked_sum(path: Path) -> str:
    """Compute the SHA-256 of a reference; DataError if it is not there."""
    if not path.is_file():
        raise DataError(f"{path} is missing; ADM's reference for 256 pixels is published at {ADM}")
    return file_sum(path)


def load_reference(path: str | os.PathLike[str]) -> Reference:
    """Load the statistics in a file: ``.npz`` in ADM's form, or ``.safetensors`` of :func:`make_reference`.

    Args:
        path: of the file. ADM's is that of arXiv 2105.05233's evaluation suite.

    Returns:
        The statistics, in float64.

    Raises:
        DataError: if it is missing, truncated, holds pickles, or its statistics are none (shapes, symmetry, NaN).

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from ismkit import DataError
        >>> from ismkit.evaluation import load_reference
        >>> skewed = np.array([[1.0, 0.5], [0.0, 1.0]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/adm.npz", mu=np.zeros(2), sigma=skewed, mu_s=np.zeros(2), sigma_s=np.eye(2))
        ...     try:
        ...         load_reference(f"{folder}/adm.npz")
        ...     except DataError as error:
        ...         print(str(error).removeprefix(f"{folder}/"))
        adm.npz: sigma is not symmetric: entries differ by 0.5, the largest is 1
    """
    path = Path(path)
    if path.suffix == ".npz":
        return _load_adm(path)
    if path.suffix != ".safetensors":
        raise DataError(f"a reference is a .npz file in ADM's form or a .safetensors file made here, got {path}")
    digest = checked_sum(path)
    try:
        tensors, about = read_weights(path)
        extractor, layers = about["extractor"]["name"], about["layers"]
        moments = {name: (tensors[f"mean.{name}"], tensors[f"cov.{name}"]) for name in layers}
        features = tensors["features.pool"]
        said = isinstance(about.get("source", ""), str) and isinstance(extractor, str) and isinstance(layers, list)
        if not said or not layers:
            raise DataError("its source, its extractor and its layers must be texts")
    except (CheckpointError, DataError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no statistics made here: {error!r}") from error
    checked = {name: _checked(path, name, *pair) for name, pair in moments.items()}
    return Reference(path, digest, extractor, checked, features, about)


def _load_adm(path: Path) -> Reference:
    digest, moments, images = checked_sum(path), {}, 0
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            for layer, names in ADM_LAYERS.items():
                missing = [name for name in names if name not in file.files]
                if layer != "pool" and len(missing) == len(names):
                    continue  # FID needs no more than mu and sigma, which is what pytorch-fid writes
                if missing:
                    raise DataError(f"{path} has no {missing[0]}, but: {', '.join(file.files) or 'nothing'}")
                mean, cov = (torch.from_numpy(np.array(file[name], dtype=np.float64)) for name in names)
                moments[layer] = _checked(path, names[1], mean, cov)
            images = "arr_0" in file.files
    except DataError:
        raise
    except Exception as error:  # NumPy and zipfile raise many kinds
        raise DataError(f"{path} cannot be read without pickles, or is truncated: {shown(error)}") from error
    adm = path.name == ADM.rpartition("/")[2]
    source = "ADM's statistics of ImageNet's training set" if adm else f"statistics in {path.name}"
    about = {"source": source, "images": bool(images)}
    return Reference(path, digest, "inception", moments, None, about)


def _checked(path: Path, name: str, mean: Tensor, cov: Tensor) -> Gaussian:
    size = len(mean) if mean.ndim else 0
    if mean.ndim != 1 or cov.shape != (size, size) or size == 0:
        raise DataError(f"{path}: {name} must be ({size}, {size}) beside a mean (F,), got {tuple(cov.shape)}")
    if not (mean.isfinite().all() and cov.isfinite().all()):
        raise DataError(f"{path}: {name} or its mean holds NaN or infinity")
    scale = cov.abs().max()
    if (gap := (cov - cov.T).abs().max()) > 1e-6 * scale:
        raise DataError(f"{path}: {name} is not symmetric: entries differ by {gap:.3g}, the largest is {scale:.3g}")
    if (cov.diagonal() < -1e-6 * scale).any():
        raise DataError(f"{path}: {name} has a negative variance, {cov.diagonal().min():.3g}")
    return Gaussian(mean.double(), (cov + cov.T).double() / 2)


def npz_images(path: str | os.PathLike[str], batch: int = 100) -> Iterator[Tensor]:
    """The images ``arr_0`` (n, H, W, 3) uint8 of a .npz file, as (b, 3, H, W), without loading all of them.

    Raises:
        DataError: if there are none, they are of another form, or the file is truncated.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
            major, _ = np.lib.format.read_magic(file)
            head = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = head(file)
            if dtype != np.uint8 or fortran or len(shape) != 4 or shape[3] != 3:
                raise DataError(f"{path}: arr_0 must be (n, H, W, 3) uint8 in C order, got {shape} {dtype}")
            each = shape[1] * shape[2] * 3
            for start in range(0, shape[0], batch):
                rows = min(batch, shape[0] - start)
                data = file.read(rows * each)
                if len(data) < rows * each:
                    raise DataError(f"{path} is truncated: arr_0 ends after {start} of {shape[0]} images")
                yield torch.frombuffer(bytearray(data), dtype=torch.uint8).view(rows, *shape[1:]).movedim(3, 1)
    except DataError:
        raise
    except Exception as error:  # NumPy and zipfile raise many kinds
        raise DataError(f"{path} holds no images arr_0 that can be read: {shown(error)}") from error


def folder_images(files: Sequence[Path], side: int, batch: int = 100) -> Iterator[Tensor]:
    """Pictures as (b, 3, side, side) uint8 by :func:`ismkit.imagenet.pixels.center_crop`, ADM's.

    They come in the order of the files. Threads decode the next batch while one is used.

    Raises:
        DataError: naming the file, for a picture that cannot be read or decoded.
    """

    def pixels(path: Path) -> np.ndarray:
        try:
            return center_crop(read_picture(path), side)
        except PictureError as error:
            raise PictureError(f"{path} is no picture that can be used: {error}") from error

    with ThreadPoolExecutor(THREADS) as pool:
        ahead = pool.map(pixels, files[:batch])
        for start in range(batch, len(files) + batch, batch):
            here, ahead = ahead, pool.map(pixels, files[start : start + batch])
            yield torch.from_numpy(np.stack(list(here)))


class _Statistics:
    """Moments by layer of the images of one process, and the features that it keeps, by their place.

    The draw of those that are kept counts the images of the other processes too: however the images are shared, it is
    the same.
    """

    def __init__(self, keep: int) -> None:
        self.moments: dict[str, Moments] = {}
        self.kept: dict[int, Tensor] = {}
        self.n, self._keep, self._rng = 0, keep, stream(0, "reference")

    def pass_by(self, count: int) -> list[int]:
        """Count images, here or elsewhere; the place of each among those kept, if it is below ``keep``."""
        images = range(self.n, self.n + count)
        self.n += count
        # Reservoir sampling (Vitter 1985): image i takes the place of a kept one with probability keep / (i + 1).
        return [i if i < self._keep else int(torch.randint(i + 1, (), generator=self._rng)) for i in images]

    def add(self, features: Mapping[str, Tensor]) -> None:
        """Add images by their features (b, F) of each layer."""
        for layer in features.keys() & set(ADM_LAYERS):
            self.moments.setdefault(layer, Moments()).update(features[layer])
        for place, row in zip(self.pass_by(len(features["pool"])), features["pool"], strict=True):
            if place < self._keep:
                self.kept[place] = row.clone()

    def merge(self, moments: Mapping[str, Moments], kept: Mapping[int, Tensor]) -> None:
        """Add the share of a process whose images come after all of these."""
        for layer, found in moments.items():
            self.moments.setdefault(layer, Moments()).merge(found)
        self.kept |= kept


def make_reference(
    images: Iterable[Tensor],
    extractor: Extractor,
    path: str | os.PathLike[str],
    about: Mapping[str, Any],
    *,
    keep: int = KEPT,
    total: int | None = None,
    progress: bool | None = None,
) -> Reference:
    """Compute the statistics of a stream of images, write them to a .safetensors file and read it back.

    Args:
        images: batches (b, 3, H, W) uint8; one at a time is in memory.
        extractor: makes the features.
        path: of the file, written atomically.
        about: JSON: where the images come from and what was done to them.
        keep: so many images' features are kept for precision and recall, a uniform draw among all of them (Vitter
            1985).
        total: number of batches, for the bar.
        progress: show a bar; by default unless the environment says CI.

    Returns:
        The statistics.

    Raises:
        TypeError: for images of another form, or ``about`` that is no dict.
        ValueError: for images without pixels, or ``keep`` below 1.
        DataError: for fewer than two images.
        ValueError: before any image is read, for another ending of ``path``.
        OSError: if what is at ``path`` is no file.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from ismkit.evaluation import load_extractor, make_reference
        >>> rng = torch.Generator().manual_seed(0)
        >>> batches = [torch.randint(256, (10, 3, 16, 16), generator=rng, dtype=torch.uint8) for _ in range(3)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/noise.safetensors"
        ...     reference = make_reference(batches, load_extractor("small"), path, {"source": "noise"}, progress=False)
        >>> reference.about["images"], reference.moments["pool"].cov.shape, reference.features.shape
        (30, torch.Size([48, 48]), torch.Size([30, 48]))
    """
    check_kind("about", about, dict)
    keep = check_count("keep", keep)
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {path}")
    destination(path)
    found = _Statistics(keep)
    _embed(images, extractor, found, total, progress)
    _require_two(found.n)
    return _write(found, found.n, extractor, path, about)


def folder_reference(
    files: Sequence[Path],
    side: int,
    extractor: Extractor,
    path: str | os.PathLike[str],
    about: Mapping[str, Any],
    *,
    keep: int = KEPT,
    progress: bool | None = None,
) -> Reference:
    """Compute the statistics of picture files as :func:`make_reference` does, over all processes.

    Every process calls this with the same files and embeds its share; the first one writes. The features that are kept
    are those of one process, and the moments are to rounding.

    Args:
        files: the pictures.
        side: of the square that is cut out of each, in pixels.
        extractor: makes the features; on this process's device.
        path: of the file, which all processes can read.
        about: as for :func:`make_reference`.
        keep: as for :func:`make_reference`.
        progress: show a bar; by default in the first process unless the environment says CI.

    Returns:
        The statistics.

    Raises:
        DataError: for fewer than two pictures, or naming the file, for one that cannot be read or decoded.
    """
    _require_two(len(files))
    state = PartialState()
    low, high = (len(files) * k // state.num_processes for k in (state.process_index, state.process_index + 1))
    share, whole = _Statistics(keep), _Statistics(keep)
    share.pass_by(low)
    show = progress if state.is_main_process else False
    _embed(folder_images(files[low:high], side), extractor, share, -(-(high - low) // 100), show)
    for rank in range(state.num_processes):  # one after another: all at once would take memory for each process
        sent: list[Any] = [(share.moments, share.kept) if rank == state.process_index else None]
        broadcast_object_list(sent, from_process=rank)
        whole.merge(*sent[0])
    if state.is_main_process:
        _write(whole, len(files), extractor, path, about)
    state.wait_for_everyone()
    return load_reference(path)


def _require_two(n: int) -> None:
    if n < 2:
        raise DataError(f"statistics need at least 2 images, got {n}")


def _embed(
    images: Iterable[Tensor], extractor: Extractor, into: _Statistics, total: int | None, progress: bool | None
) -> None:
    for batch in progress_bar(images, show=progress, total=total, desc=f"statistics in {extractor.name}", unit="batch"):
        if not isinstance(batch, Tensor) or batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[1] != 3:
            what = f"{tuple(batch.shape)} {batch.dtype}" if isinstance(batch, Tensor) else shown(batch)
            raise TypeError(f"images must be tensors (b, 3, H, W) of uint8, got {what}")
        if batch.layout != torch.strided or not batch.numel() or batch.is_meta:
            where = f"{tuple(batch.shape)}, {batch.layout} on {batch.device}"
            raise ValueError(f"images must have pixels, dense and not on the device meta, got {where}")
        into.add(extractor(batch))


def _write(
    found: _Statistics, n: int, extractor: Extractor, path: str | os.PathLike[str], about: Mapping[str, Any]
) -> Reference:
    tensors = {f"mean.{layer}": moments.mean for layer, moments in found.moments.items()}
    tensors |= {f"cov.{layer}": moments.cov for layer, moments in found.moments.items()}
    tensors["features.pool"] = torch.stack([found.kept[place] for place in range(len(found.kept))])
    text = {**about, "images": n, "layers": sorted(found.moments), "extractor": extractor.identity}
    text[SUM] = contents_sum(text, tensors)
    with replacing(path) as file:
        file.write(to_bytes(tensors, {"ismkit": json.dumps(text, sort_keys=True)}))
    return load_reference(path)


def real_features(reference: Reference, extractor: Extractor, cache: Path) -> Tensor:
    """Features (m, F), layer ``pool``, of a reference's images: in its file, or of ADM's, embedded once into ``cache``.

    Raises:
        DataError: if the reference has no images.
    """
    if reference.features is not None:
        return reference.features
    if not reference.about.get("images"):
        raise DataError(f"{reference.path} has neither features nor images: precision and recall need them")
    key = f"{reference.sha256[:12]}-{extractor.name}-{extractor.identity['sha256'][:12]}"
    path = cache / f"reference-{key}.safetensors"
    about = {"source": f"arr_0 of {reference.path.name}", "sha256": reference.sha256}
    made = (
        load_reference(path) if path.is_file() else make_reference(npz_images(reference.path), extractor, path, about)
    )
    assert made.features is not None
    return made.features
