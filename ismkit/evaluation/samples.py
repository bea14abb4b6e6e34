"""Samples of a latent-space model on disk: drawn once, over many processes, resumed after a kill, exported.

Sample i has label ``i mod num_classes`` and noise that is a function of the seed and of i alone. So a set does not
depend on the number of processes, on when it was interrupted, or on n: the first 10 000 samples of 50 000 are the set
of 10 000. (The batch size changes how kernels round, and so does the number of threads on a CPU: with another one, some
numbers differ by one level of 255.)

A folder holds ``manifest.json`` and files ``00000.safetensors`` with ``images`` (m, 3, H, W) uint8 and ``y`` (m,)
int64; 9.8 GB for 50 000 images of 256 pixels. Each file is complete or missing: a killed process loses the one that it
was making. Other programs read them as ADM's .npz or as a folder of PNG files.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from ismkit.evaluation.judges import Setting
from ismkit.method.path import Source, check_source, draw_noise
from ismkit.method.sampling import renoises, sample
from ismkit.models.drawing import Decoder
from ismkit.utils.checks import check_count, check_kind
from ismkit.utils.files import replacing
from ismkit.utils.keys import identity
from ismkit.utils.progress import progress_bar
from ismkit.utils.seeding import stream
from ismkit.utils.store import Store

BLOCK = 100  # samples whose noise comes from one stream: 50 000 streams of 32 bits would hold pairs of equal noise
#: What is the same for all sets of steps along the path from normal noise, and stands in each manifest.
PROTOCOL = {
    "labels": "in turn: sample i has label i mod the number of classes",
    "noise": f"standard normal, float32, one stream for every {BLOCK} samples",
    "sampler": "Euler, one network call per step",
    "rounding": "floor of clamp(127.5 x + 128, 0, 255), the nearest of 256 levels (as DiT and SiT)",
}
TF32 = "TF32 where a GPU has it, as SiT and DiT"  # stands in a manifest only if it was asked for
MANIFEST = "manifest.json"
#: How long a process waits for the others. NCCL's 600 seconds end an evaluation whose processes have unequal shares, or
#: whose main one does hours of work alone: the sums of a training set. A launcher ends all when one has failed.
WAIT = timedelta(days=2)


class SampleError(Exception):
    """Samples on disk that cannot be used, or drawn ones that are no images; the message names the file or sample."""


def noise(
    seed: int,
    start: int,
    stop: int,
    shape: tuple[int, ...],
    source: Source | None = None,
    place: tuple[int | str, ...] = ("samples",),
) -> Tensor:
    """Noise of the samples ``start .. stop - 1``, ``(stop - start, *shape)``: a function of the seed and numbers.

    Example:
        >>> from ismkit.evaluation.samples import noise
        >>> noise(0, 150, 152, (3,)).equal(noise(0, 0, 200, (3,))[150:152])
        True
    """
    first, last = start // BLOCK, math.ceil(stop / BLOCK)
    blocks = [draw_noise(source, (BLOCK, *shape), stream(seed, *place, k)) for k in range(first, last)]
    return torch.cat(blocks)[start - first * BLOCK : stop - first * BLOCK]


def fresh_noise(seed: int, start: int, stop: int, source: Source | None) -> Source:
    """What the sampler of samples ``start .. stop - 1`` adds after each step but the last, in this order.

    It too is a function of the seed, the sample and the step alone, so that it needs no generator: the one that the
    sampler gives would depend on which samples are drawn together.
    """
    steps = itertools.count(1)

    def drawn(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return noise(seed, start, stop, shape[1:], source, ("renoise", next(steps)))

    return drawn


def protocol(net: nn.Module, nfe: int, source: Source | None) -> dict[str, Any]:
    """How samples are drawn, in words and by the identity of the source: a part of what they are a function of.

    Raises:
        ValueError: for a source that has no identity.
    """
    found: dict[str, Any] = dict(PROTOCOL)
    if source is not None:
        found["noise"] = f"of the recipe's source, one stream for every {BLOCK} samples"
        parts = identity(source, "source").items()
        found["source"] = ", ".join(f"{path.removeprefix('source').lstrip('.')} {text}".strip() for path, text in parts)
    if renoises(net) and nfe > 1:
        found["sampler"] = "jumps to the data and back by fresh noise, one network call per step"
    return found


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as 256 levels, each number to the nearest (see ``PROTOCOL["rounding"]``)."""
    return (127.5 * images + 128).clamp(0, 255).to(torch.uint8)


def latent_shape(net: nn.Module) -> tuple[int, int, int]:
    """Shape (C, h, w) of what a DiT draws, also inside two-pass CFG.

    Raises:
        ValueError: for a network that draws no fields.
    """
    config = getattr(net, "config", None) or getattr(getattr(net, "net", None), "config", {})
    if "size" not in config:
        raise ValueError(f"the network must be a DiT, which knows the shape of its samples, got {type(net).__name__}")
    return config["channels"], config["size"], config["size"]


class SampleSet:
    """A complete set of samples on disk, as :func:`draw` leaves it.

    Iterating gives the files one by one; ``len`` is the number of samples.

    Args:
        folder: where it is.
        manifest: what its manifest holds; :meth:`open` reads and verifies it.

    Attributes:
        folder: where it is.
        manifest: ``set`` (what the samples are a function of), ``files`` (SHA-256 of each one's contents),
            ``made`` (how).
        files: how many files.

    Example:
        >>> import tempfile
        >>> from ismkit import DiT, ImageVAE, SampleSet, Setting, write_tiny_vae
        >>> from ismkit.evaluation import draw
        >>> net = DiT(size=4, channels=4, patch=2, width=16, depth=1, heads=2, num_classes=3).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     vae = ImageVAE.load(write_tiny_vae(f"{folder}/vae"))
        ...     setting = Setting(nfe=1, w=0.0, n=8)
        ...     _ = draw(net, vae, setting, f"{folder}/set", model={"sha256": "0"}, per_file=5, progress=False)
        ...     samples = SampleSet.open(f"{folder}/set")
        ...     for images, y in samples:
        ...         print(tuple(images.shape), images.dtype, y.tolist())
        ...     _, y = samples.file(1)
        (5, 3, 32, 32) torch.uint8 [0, 1, 2, 0, 1]
        (3, 3, 32, 32) torch.uint8 [2, 0, 1]
        >>> len(samples), samples.files, y.tolist()
        (8, 2, [2, 0, 1])
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest, self.files = folder, manifest, len(manifest["files"])
        self._store = _files(folder, manifest["set"])

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> SampleSet:
        """Open the set in a folder; its files are verified as they are read.

        Args:
            folder: of the set.

        Returns:
            The set.

        Raises:
            SampleError: if there is none, it is not complete, or its manifest is altered.
        """
        found = _read_manifest(Path(folder))
        if not found.get("files"):
            raise SampleError(f"{folder} holds no complete set of samples: draw it, or resume by the same command")
        return cls(Path(folder), found)

    def __len__(self) -> int:
        return self.manifest["set"]["n"]

    def file(self, k: int) -> tuple[Tensor, Tensor]:
        """Read one file.

        Args:
            k: its number, from 0 on.

        Returns:
            ``images`` (m, 3, H, W) uint8 and ``y`` (m,).

        Raises:
            SampleError: if the file is missing, truncated or altered.
        """
        _, tensors, digest = self._store.read(name := _name(k))
        if digest != self.manifest["files"][k]:
            raise SampleError(f"{self._store.path(name)} is not the file that {MANIFEST} names: delete it, draw again")
        return tensors["images"], tensors["y"]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return map(self.file, range(self.files))


def draw(
    net: nn.Module,
    vae: Decoder,
    setting: Setting,
    folder: str | os.PathLike[str],
    *,
    model: Mapping[str, Any],
    batch: int = 100,
    per_file: int = 500,
    source: Source | None = None,
    tf32: bool = False,
    progress: bool | None = None,
) -> SampleSet:
    """Draw a complete set of samples, or resume one; under several processes every one of them calls this.

    Args:
        net: in eval mode, on this process's device, where the decoder is too; its weights are those of ``model``.
        vae: decodes its latents.
        setting: network evaluations, guidance strength, number of samples and seed.
        folder: of this set alone.
        model: JSON that identifies the model: ``sha256`` of its file.
        batch: samples at one time.
        per_file: samples per file.
        source: the distribution of the noise, that of the network's recipe.
        tf32: let matrix products on a GPU round to TF32, 10 bits of the 23; the manifest says so. Convolutions,
            those of the VAE, do so there by PyTorch's default.
        progress: show a bar; by default in the first process unless the environment says CI.

    Returns:
        The set.

    Raises:
        TypeError: before any work, for a source that is none.
        ValueError: before any work, for a setting that the sampler cannot do with this network, or a source that has no
            identity.
        SampleError: if the folder holds another set or an altered one, the disk is too small, a file cannot be written,
            or a sample is NaN; what is there stays.

    Example:
        Sample i is a function of the seed and of i alone, so the first samples of a larger set are those of a smaller
        one:

        >>> import tempfile
        >>> import torch
        >>> from ismkit import DiT, ImageVAE, Setting, write_tiny_vae
        >>> from ismkit.evaluation import draw
        >>> net = DiT(size=4, channels=4, patch=2, width=16, depth=1, heads=2, num_classes=3).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     vae = ImageVAE.load(write_tiny_vae(f"{folder}/vae"))
        ...     few, many = (
        ...         draw(net, vae, Setting(1, 0.0, n), f"{folder}/{n}", model={"sha256": "0"}, batch=4).file(0)[0]
        ...         for n in (4, 8)
        ...     )
        >>> len(few), len(many), few.equal(many[:4])
        (4, 8, True)
    """
    check_kind("setting", setting, Setting)
    setting.check(net)
    check_source(source)
    batch, per_file = check_count("batch", batch), check_count("per_file", per_file)
    folder, state, shape = Path(folder), PartialState(timeout=WAIT), latent_shape(net)
    num_classes, size = int(net.num_classes), (3, *(side * vae.factor for side in shape[1:]))  # type: ignore[arg-type]
    wanted = {
        "model": dict(model),
        "vae": dict(vae.identity),
        "nfe": setting.nfe,
        "w": float(setting.w),
        "n": setting.n,
    }
    wanted |= {"seed": setting.seed, "num_classes": num_classes, "latents": shape, "images": size, "per_file": per_file}
    if tf32:  # else nothing is added: sets on disk stay those that they were
        wanted["products"] = TF32
    wanted = json.loads(json.dumps(wanted | protocol(net, setting.nfe, source)))
    count, store = math.ceil(setting.n / per_file), _files(folder, wanted)
    # One process looks, or the others might see the first new files; a refusal is raised by all of them alike.
    plan: list[Any] = [_pending(folder, wanted, count) if state.is_main_process else None]
    broadcast_object_list(plan)
    if isinstance(plan[0], str):
        raise SampleError(plan[0])
    mine = plan[0][state.process_index :: state.num_processes]
    total = sum(min(setting.n, (k + 1) * per_file) - k * per_file for k in mine)
    show = progress if state.is_main_process else False
    with (
        progress_bar(total=total, show=show, desc=f"{setting.nfe} NFE, w = {setting.w:g}", unit="image") as bar,
        _products(tf32),
    ):
        for k in mine:
            start, stop = k * per_file, min(setting.n, (k + 1) * per_file)
            images = []
            for low in range(start, stop, batch):
                images.append(_images(net, vae, setting, low, min(stop, low + batch), shape, source))
                bar.update(len(images[-1]))
            store.write(_name(k), {}, {"images": torch.cat(images), "y": torch.arange(start, stop) % num_classes})
    state.wait_for_everyone()
    here = range(state.process_index, count, state.num_processes)
    sums = gather_object([(k, store.read(_name(k)).sum) for k in here])
    files, known = [digest for _, digest in sorted(sums)], _read_manifest(folder).get("files")
    if known and (wrong := [k for k, digest in enumerate(files) if digest != known[k]]):
        raise SampleError(
            f"{store.path(_name(wrong[0]))} is not the file that {MANIFEST} names: delete it, and draw again"
        )
    made = {"processes": state.num_processes, "batch": batch, "device": state.device.type, "torch": torch.__version__}
    state.wait_for_everyone()
    if state.is_main_process and not known:
        _manifest(folder).write(MANIFEST, {"set": wanted, "files": files, "made": made})
    state.wait_for_everyone()
    return SampleSet.open(folder)


@contextmanager
def _products(tf32: bool) -> Iterator[None]:
    """Let products round to TF32 within the block, or leave them as the caller has them."""
    if not tf32:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@torch.no_grad()
def _images(
    net: nn.Module,
    vae: Decoder,
    setting: Setting,
    start: int,
    stop: int,
    shape: tuple[int, ...],
    source: Source | None,
) -> Tensor:
    device = next(net.parameters()).device
    y = torch.arange(start, stop) % int(net.num_classes)  # type: ignore[arg-type]
    x0 = noise(setting.seed, start, stop, shape, source).to(device)
    options: dict[str, Any] = {"w": setting.w, "nfe": setting.nfe}
    if renoises(net):
        options |= {"renoise": True, "generator": torch.Generator()}
        options["source"] = fresh_noise(setting.seed, start, stop, source)
    latents = sample(net, x0, y.to(device), **options)
    images = vae.decode(latents)
    for what, x in (("latent", latents), ("image", images)):
        good = x.isfinite().flatten(1).all(1)
        if not good.all():
            i = int((~good).nonzero()[0])
            where = f"sample {start + i} (label {int(y[i])}, {setting.nfe} NFE, w = {setting.w:g}, seed {setting.seed})"
            raise SampleError(f"the {what} of {where} holds NaN or infinity; nothing of its file was written")
    return to_uint8(images.float()).cpu()


def _name(k: int) -> str:
    return f"{k:05}.safetensors"


def _files(folder: Path, wanted: dict[str, Any]) -> Store:
    return Store(folder, wanted, error=SampleError, remedy="delete the file, and draw again: the rest is kept")


def _manifest(folder: Path) -> Store:
    return Store(folder, "ismkit samples", error=SampleError, remedy="delete it, and draw again")


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, ``{}`` if there is none; SampleError if it is altered."""
    store = _manifest(folder)
    form = {"set": dict, "files": [str], "made": dict}
    return store.read(MANIFEST, form).value if MANIFEST in store else {}


def _pending(folder: Path, wanted: dict[str, Any], count: int) -> list[int] | str:
    """The files that are not there, or why the folder cannot be used."""
    store, names = _files(folder, wanted), {_name(k): k for k in range(count)}
    try:
        here = _read_manifest(folder).get("set", wanted)
        if other := [key for key in {**wanted, **here} if wanted.get(key) != here.get(key)]:
            told = "; ".join(f"{key} is {here.get(key)} there and {wanted.get(key)} now" for key in other)
            return f"{folder} holds other samples: {told}. Take another folder, or delete it"
        for name in store.names():
            if name != MANIFEST:
                store.head(name)
        store.clear_partial()
        pending = [k for name, k in names.items() if name not in store]
        if pending:  # the sums are stated again once all files are there
            _manifest(folder).write(MANIFEST, {"set": wanted, "files": [], "made": {}})
    except SampleError as error:
        return str(error)
    needed = min(wanted["n"], len(pending) * wanted["per_file"]) * math.prod(wanted["images"])
    if needed > (free := shutil.disk_usage(folder).free):
        return f"{folder} has {free / 1e9:.1f} GB free, and the samples need {needed / 1e9:.1f} GB: take another disk"
    return pending


def export_npz(samples: SampleSet, path: str | os.PathLike[str], *, progress: bool | None = None) -> Path:
    """Write samples as one .npz file, as ADM's evaluation suite reads them (arXiv 2105.05233).

    One file of the set at a time is in memory. The result is not compressed, written atomically, and without pickles.

    Args:
        samples: the set.
        path: of the file, which must end in ``.npz``.
        progress: show a bar; by default unless the environment says CI.

    Returns:
        The path. The file holds ``arr_0`` (n, H, W, 3) uint8, the images, and ``arr_1`` (n,) int64, the labels.

    Raises:
        ValueError: unless ``path`` ends in ``.npz``.
        SampleError: for an altered file; nothing is written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from ismkit import DiT, ImageVAE, Setting, write_tiny_vae
        >>> from ismkit.evaluation import draw, export_npz
        >>> net = DiT(size=4, channels=4, patch=2, width=16, depth=1, heads=2, num_classes=3).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     vae = ImageVAE.load(write_tiny_vae(f"{folder}/vae"))
        ...     setting = Setting(nfe=1, w=0.0, n=4)
        ...     samples = draw(net, vae, setting, f"{folder}/set", model={"sha256": "0"}, progress=False)
        ...     with np.load(export_npz(samples, f"{folder}/samples.npz", progress=False)) as file:
        ...         print({name: (array.shape, str(array.dtype)) for name, array in file.items()})
        {'arr_0': ((4, 32, 32, 3), 'uint8'), 'arr_1': ((4,), 'int64')}
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"path must end in .npz, got {path}")
    channels, height, width = samples.manifest["set"]["images"]
    bar = progress_bar(samples, show=progress, total=samples.files, desc=path.name, unit="file")
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
    """Write samples as PNG files, which lose nothing.

    Args:
        samples: the set.
        folder: where they go; sample i is ``0000000.png`` with i in seven digits.
        progress: show a bar; by default unless the environment says CI.

    Returns:
        The folder.

    Raises:
        SampleError: for an altered file of the set.

    Example:
        >>> import tempfile
        >>> from ismkit import DiT, ImageVAE, Setting, write_tiny_vae
        >>> from ismkit.evaluation import draw, export_png
        >>> net = DiT(size=4, channels=4, patch=2, width=16, depth=1, heads=2, num_classes=3).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     vae = ImageVAE.load(write_tiny_vae(f"{folder}/vae"))
        ...     setting = Setting(nfe=1, w=0.0, n=3)
        ...     samples = draw(net, vae, setting, f"{folder}/set", model={"sha256": "0"}, progress=False)
        ...     sorted(path.name for path in export_png(samples, f"{folder}/png", progress=False).iterdir())
        ['0000000.png', '0000001.png', '0000002.png']
    """
    from PIL import Image

    folder, i = Path(folder), 0
    for images, _ in progress_bar(samples, show=progress, total=samples.files, desc="PNG files", unit="file"):
        for image in images:
            with replacing(folder / f"{i:07}.png") as file:
                Image.fromarray(image.movedim(0, 2).contiguous().numpy()).save(file, "PNG")
            i += 1
    return folder
