"""What a run logs while it trains: losses by (t, d, w), throughput, MFU, memory, sample grids, to any tracker.

:class:`Tracking` is a hook of :func:`ismkit.training.loop.fit`. It sums on the device and reads the sums once per
window, because a read waits for the device. A resumed run continues its logs: values logged after the checkpoint are
removed (TensorBoard's ``purge_step``), so every step is in one window.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from ismkit.method.path import Query, Source, StepGrid, draw_noise
from ismkit.method.sampling import renoise_options, sample
from ismkit.training.loop import StepReport, TrainState
from ismkit.training.options import named_tracker
from ismkit.utils.checks import check_count
from ismkit.utils.seeding import stream

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

#: Dense bf16 FLOP/s by the name that CUDA gives a device, from NVIDIA's data sheets (half of their figures "with
#: sparsity"). The longest name that fits counts: a PCIe card is slower than the one on a board.
PEAKS: dict[str, float] = {
    "NVIDIA A100": 312e12,
    "NVIDIA A10": 125e12,
    "NVIDIA A40": 149.7e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA GeForce RTX 3090": 71e12,
    "NVIDIA GeForce RTX 4090": 165.2e12,
}

TIMES = 4  # equal parts of [0, 1], each with its own loss
STRENGTHS = (0.0, 1.0, 2.0)  # upper ends of the bands of w; the last band is above
BANDS = ("0", "0-1", "1-2", "above_2")


def peak_flops(device: str) -> float | None:
    """Dense bf16 FLOP/s of a device by its name, as ``torch.cuda.get_device_name()`` gives it; None if unknown."""
    if "GeForce" in device:  # a Ti, a D or one for laptops is another card
        return PEAKS.get(device)
    fits = [name for name in PEAKS if device == name or device.startswith((f"{name} ", f"{name}-"))]
    return PEAKS[max(fits, key=len)] if fits else None


class LossTable:
    """Distances of rows added up by (d, t, w), on their device.

    Args:
        grid: the grid of step sizes: one part for ``d = 0`` and one for each larger level.
        device: where the queries are.
    """

    def __init__(self, grid: StepGrid, device: torch.device | str = "cpu") -> None:
        self.grid = grid
        self.shape = (grid.levels + 1, TIMES, len(BANDS))
        self.edges = torch.tensor(STRENGTHS, device=device)
        self.sums = torch.zeros(2, math.prod(self.shape), device=device)  # of distances, and of rows

    @torch.no_grad()
    def add(self, query: Query, distance: Tensor) -> None:
        """Add the rows of a micro-batch: their queries, and their distances (B,)."""
        level = torch.log2((query.d.float() * self.grid.n).clamp(min=1)).round().long()
        t = (query.t.float() * TIMES).long().clamp(max=TIMES - 1)
        w = torch.bucketize(query.w.float(), self.edges)
        cell = (level * TIMES + t) * len(BANDS) + w
        self.sums.index_add_(1, cell, torch.stack([distance.float(), torch.ones_like(distance, dtype=torch.float32)]))

    def read(self) -> dict[str, float]:
        """Means by purpose, by d, by (t, d) and by w, of those that had rows; then all is zero again.

        Keys: ``loss/velocity | guidance | consistency``, ``loss_by_d/1_4``, ``loss_by_t_d/0.25_1_4`` (t from 0.25 on),
        ``loss_by_w/0-1`` (above 0, up to 1).
        """
        distance, rows = self.sums.double().cpu().view(2, *self.shape)
        self.sums.zero_()
        purposes = {
            "velocity": (0, slice(None), 0),
            "guidance": (0, slice(None), slice(1, None)),
            "consistency": (slice(1, None),),
        }
        parts: dict[str, tuple[Any, ...]] = {f"loss/{name}": part for name, part in purposes.items()}
        for level in range(self.shape[0]):
            d = size_name(2**level / self.grid.n if level else 0)
            parts[f"loss_by_d/{d}"] = (level,)
            parts |= {f"loss_by_t_d/{k / TIMES:g}_{d}": (level, k) for k in range(TIMES)}
        parts |= {f"loss_by_w/{name}": (..., k) for k, name in enumerate(BANDS)}
        return {
            name: float(distance[part].sum() / rows[part].sum()) for name, part in parts.items() if rows[part].sum()
        }


def size_name(d: float) -> str:
    """A step size as part of a tag, where ``/`` would begin a group: ``0``, ``1_64``, ..., ``1_1``."""
    return f"1_{round(1 / d)}" if d else "0"


@dataclass(frozen=True)
class SampleGrid:
    """Samples of fixed noise and classes, a row for each NFE, decoded.

    Attributes:
        decode: latents (B, C, h, w) -> images (B, 3, H, W) in [-1, 1], such as ``ImageVAE.decode``; called on the main
            process alone, so that others may have None.
        shape: (C, h, w) of a latent.
        classes: the labels drawn, one column each.
        nfe: numbers of network evaluations, one row each.
        w: guidance strength.
        seed: of the noise.
        source: the distribution of the noise, the recipe's.
    """

    decode: Callable[[Tensor], Tensor] | None
    shape: tuple[int, ...]
    classes: tuple[int, ...]
    nfe: tuple[int, ...] = (1, 2, 4)
    w: float = 1.0
    seed: int = 0
    source: Source | None = None

    def latents(self, net: nn.Module) -> list[Tensor]:
        """Samples (B, C, h, w) for each NFE; if the network is sharded, every process must call this."""
        device = next(net.parameters()).device
        x0 = draw_noise(self.source, (len(self.classes), *self.shape), stream(self.seed, "grid")).to(device)
        y = torch.tensor(self.classes, device=device)
        options = {"w": self.w, "source": self.source, **renoise_options(net, self.seed)}
        return [sample(net, x0, y, nfe=steps, **options) for steps in self.nfe]

    @torch.no_grad()
    def sheet(self, latents: list[Tensor]) -> Tensor:
        """The decoded sheet (rows * H, columns * W, 3) as uint8 on the CPU."""
        assert self.decode is not None
        rows = [torch.cat(list(self.decode(x)), -1) for x in latents]  # each (3, H, columns * W)
        return ((torch.cat(rows, -2).float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu()


#: Opens trackers when the first step of a call is done. It is given that step; earlier logs from it on are removed.
Open = Callable[[int], "Sequence[GeneralTracker]"]


def tensorboard(folder: str | os.PathLike[str]) -> Open:
    """TensorBoard's files in ``folder``, through Accelerate's tracker."""

    def open_(step: int) -> Sequence[GeneralTracker]:
        from accelerate.tracking import TensorBoardTracker

        return [TensorBoardTracker("", folder, purge_step=step)]

    return open_


def named(tracker: str, project: str, folder: str | os.PathLike[str]) -> Open:
    """Open a tracker by its name, see :func:`ismkit.training.options.named_tracker`; a class as Accelerate opens it.

    Only TensorBoard's logs are continued by a resumed run: in those of others it is a run of its own.
    """
    if tracker == "tensorboard":
        return tensorboard(folder)
    found = named_tracker(tracker)
    is_class = inspect.isclass(found)

    def open_(step: int) -> Sequence[GeneralTracker]:
        if not is_class:
            return [found]
        os.makedirs(folder, exist_ok=True)
        return [found(project, *([folder] if found.requires_logging_directory else []))]

    return open_


def scalars(folder: str | os.PathLike[str]) -> dict[str, list[tuple[int, float]]]:
    """Read what :func:`tensorboard` has written to a folder.

    Args:
        folder: of TensorBoard's files.

    Returns:
        Pairs (step, value) by tag; of steps that a resumed run has trained again, the later values only.

    Example:
        A run of five steps with a window of two; the last window is not full:

        >>> import tempfile
        >>> from ismkit import RUNS, Batches, ToyMLP, eight_gaussians, fit
        >>> from ismkit.training import Tracking, scalars
        >>> from ismkit.training.tracking import tensorboard
        >>> recipe, batches = RUNS["gaussians"].recipe, Batches(eight_gaussians(512, seed=0), 64, seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Tracking(tensorboard(folder), rows=64, every=2) as hook:
        ...         state = fit(recipe, ToyMLP(width=16, depth=1), batches, steps=5, hooks=[hook], progress=False)
        ...     logs = scalars(folder)
        >>> [step for step, _ in logs["loss/all"]]
        [2, 4, 5]
        >>> [name for name in logs if name.startswith("loss/")]
        ['loss/all', 'loss/velocity', 'loss/guidance', 'loss/consistency']
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of every restart that it has handled
    events = EventAccumulator(os.fspath(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@dataclass
class Tracking:
    """The hook that logs: make one per call of ``fit``, in a ``with`` block, which closes it after errors too.

    Every step counts in one window. A window ends at multiples of ``every`` and at :meth:`close`; let the steps
    between checkpoints be a multiple of ``every``, and a run that is killed and resumed leaves the logs of one that
    was not. The losses by (t, d, w) are those of the main process's last micro-batch of each step. Only the main
    process logs; where samples are drawn, ``fit`` calls the hook on every process.

    Attributes:
        open: gives the trackers, such as :func:`tensorboard`; any :class:`accelerate.tracking.GeneralTracker` will do.
        rows: samples per optimiser step, over all processes.
        grid: of step sizes.
        every: steps per window.
        flops: model FLOPs of one optimiser step over all processes (``costs.step_flops``), for MFU.
        devices: how many share them.
        samples: the grid to draw from the slow average, or None.
        samples_every: steps between grids, a multiple of ``every``.
        settings: of the run, for trackers that show them beside the logs.

    Raises:
        ValueError: for a count below 1, or if ``samples_every`` is no multiple of ``every``.

    Example:
        A tracker that prints; ``launch`` opens TensorBoard's in this way:

        >>> from accelerate.tracking import GeneralTracker
        >>> from ismkit import RUNS, Batches, ToyMLP, eight_gaussians, fit
        >>> from ismkit.training import Tracking
        >>> class Printer(GeneralTracker):
        ...     name, requires_logging_directory, tracker = "printer", False, None
        ...     def log(self, values, step=None, **_):
        ...         print(f"step {step}: lr {values['lr']:g},", "speed/images_per_second" in values)
        >>> recipe, batches = RUNS["gaussians"].recipe, Batches(eight_gaussians(512, seed=0), 64, seed=0)
        >>> with Tracking(lambda step: [Printer()], rows=64, every=2) as hook:
        ...     state = fit(recipe, ToyMLP(width=16, depth=1), batches, steps=4, hooks=[hook], progress=False)
        step 2: lr 0.0001, True
        step 4: lr 0.0001, True

        The end of ``with`` closes the trackers. A step of 64 rows that takes half a second:

        >>> hook.close()
        >>> hook.speed(0.5)["speed/images_per_second"]
        128.0
    """

    open: Open
    rows: int
    grid: StepGrid = field(default_factory=StepGrid)
    every: int = 100
    flops: float | None = None
    devices: int = 1
    samples: SampleGrid | None = None
    samples_every: int = 5000
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("rows", "every", "devices", "samples_every"):
            setattr(self, name, check_count(name, getattr(self, name)))
        if self.samples_every % self.every:
            raise ValueError(f"samples_every must be a multiple of every={self.every}, got {self.samples_every}")
        self._trackers: Sequence[GeneralTracker] = ()
        self._table: LossTable | None = None
        self._step = self._count = 0

    @property
    def everywhere(self) -> bool:
        """Whether ``fit`` must call this on every process: to run a network that may be sharded."""
        return self.samples is not None

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, state: TrainState, report: StepReport) -> None:
        """Log one step; see :data:`ismkit.training.loop.Hook`."""
        main = PartialState().is_main_process
        if main:
            self._take(report)
        if self.samples is not None and report.step % self.samples_every == 0:
            began = time.perf_counter()
            latents = self.samples.latents(state.ema.slow)
            if main:
                self._log_sheet(self.samples.sheet(latents))
                self._began += time.perf_counter() - began  # drawing is no training

    def _take(self, report: StepReport) -> None:
        if self._table is None:
            self._start(report)
        assert self._table is not None
        self._table.add(report.query, report.distance)
        self._sums += torch.stack([report.loss, report.grad_norm]).to(self._sums)
        self._count, self._step, self._lr = self._count + 1, report.step, report.lr
        if report.step % self.every == 0:
            self._log()

    def close(self) -> None:
        """Log the steps of a window that is not full, and close the trackers."""
        if self._count:
            self._log()
        for tracker in self._trackers:
            tracker.finish()
        self._trackers, self._table = (), None

    def _start(self, report: StepReport) -> None:
        device = report.distance.device
        self._table, self._sums = LossTable(self.grid, device), torch.zeros(2, device=device)
        self._peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self._trackers = self.open(report.step)
        for tracker in self._trackers:
            tracker.start()
            if self.settings and tracker.name != "tensorboard":  # which takes numbers alone
                tracker.store_init_configuration(dict(self.settings))
        self._began, self._timed = time.perf_counter(), -1  # the first step, with all preparation, is not timed

    def _log(self) -> None:
        assert self._table is not None
        loss, grad_norm = (self._sums / self._count).tolist()  # waits for the device
        now = time.perf_counter()
        values = {"loss/all": loss, "grad_norm": grad_norm, "lr": self._lr, **self._table.read(), **self._memory()}
        timed = self._count + self._timed
        if timed:
            values |= self.speed((now - self._began) / timed)
        for tracker in self._trackers:
            tracker.log(values, step=self._step)
        self._sums.zero_()
        self._count = self._timed = 0
        self._began = time.perf_counter()

    def speed(self, seconds: float) -> dict[str, float]:
        """Throughput and, where FLOPs and the device's peak are known, MFU, from the seconds of one step."""
        values = {"speed/images_per_second": self.rows / seconds, "speed/seconds_per_step": seconds}
        if self.flops is not None and self._peak is not None:
            values["speed/mfu"] = self.flops / (seconds * self._peak * self.devices)
        return values

    def _memory(self) -> Mapping[str, float]:
        assert self._table is not None
        device = self._table.sums.device
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            return {"memory/peak_gib": peak / 2**30}
        import psutil

        return {"memory/resident_gib": psutil.Process().memory_info().rss / 2**30}

    def _log_sheet(self, sheet: Tensor) -> None:
        """To the trackers that take pictures; TensorBoard's needs to know that channels come last."""
        for tracker in self._trackers:
            if hasattr(tracker, "log_images"):
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"samples": sheet[None].numpy()}, step=self._step, **layout)
