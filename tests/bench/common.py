"""What the benchmarks share: sizes, timing in turns, and the rows of the report."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from ismkit.data.batches import Batches
from ismkit.data.sets import Labelled
from ismkit.method.coupling import Coupling
from ismkit.method.recipes import RECIPES, Recipe
from ismkit.models.nets import PRESETS, DiT
from ismkit.training.loop import Optim, StepReport, TrainState
from ismkit.training.runs import for_side
from ismkit.utils.seeding import stream
from tests.options import fit


@dataclass(frozen=True)
class Sizes:
    """How large the measurements are.

    Attributes:
        device: cpu or cuda.
        net: settings of the transformer of the step, sampling and memory benchmarks.
        batch: its rows per step.
        precisions: Accelerate's names of those measured.
        rounds: interleaved repetitions.
        small: the transformer that is trained beside the solver.
        large: the transformer of the run at full scale.
        large_batch: its rows per step.
        steps: how many of them must be free of NaN.
        pool, rows: K and M of scaling OT.
        solver_sizes: numbers of points for the table of solvers.
        compile: whether the step of the run at full scale is compiled.
    """

    device: str
    net: dict[str, Any]
    batch: int
    precisions: tuple[str, ...]
    rounds: int
    small: dict[str, Any]
    large: dict[str, Any]
    large_batch: int
    steps: int = 300
    pool: int = 32
    rows: int = 256
    solver_sizes: tuple[int, ...] = (1024, 4096)
    compile: bool = False

    def build(self, *, small: bool = False) -> DiT:
        """The network, with every weight drawn: where the published initial zeros stay, gradients are zero too."""
        torch.manual_seed(0)
        net = DiT(**(self.small if small else self.net))
        for parameter in net.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
        return net


_LATENTS = {"size": 32, "channels": 4}
_S2 = {**_LATENTS, "patch": 2, **PRESETS["S"], "num_classes": 1000}
_SMALL = {**_LATENTS, "patch": 8, "width": 64, "depth": 2, "heads": 2, "num_classes": 10}
_TINY = {**_LATENTS, "patch": 8, "width": 16, "depth": 1, "heads": 2, "num_classes": 10}

SIZES = {
    "cpu": Sizes("cpu", _S2, batch=16, precisions=("no",), rounds=5, small=_SMALL, large=_S2, large_batch=8),
    "cuda": Sizes(
        "cuda",
        _S2,
        batch=128,
        precisions=("no", "bf16"),
        rounds=10,
        small={**_S2, "num_classes": 10},
        large={**_S2, **PRESETS["XL"]},
        large_batch=256,
        compile=True,
    ),
}


def tiny(sizes: Sizes) -> Sizes:
    """The same measurements in seconds, to see that they run; the numbers mean nothing."""
    return replace(
        sizes,
        net={**_TINY, "num_classes": 1000},
        small=_TINY,
        batch=8,
        rounds=2,
        pool=4,
        rows=16,
        solver_sizes=(64,),
        large={**_TINY, "num_classes": 1000},
        large_batch=16,
        steps=5,
    )


@dataclass(frozen=True)
class Row:
    """One line of the report: a value, its quartiles over ``n`` repetitions, and the goal where there is one."""

    what: str
    value: float
    unit: str
    n: int = 1
    quartiles: tuple[float, float] | None = None
    goal: str = ""
    verdict: str = ""

    def cells(self) -> tuple[str, ...]:
        """The line as texts."""
        spread = f"{self.quartiles[0]:.4g} to {self.quartiles[1]:.4g}" if self.quartiles else ""
        return self.what, f"{self.value:.4g} {self.unit}", spread, str(self.n), self.goal, self.verdict


def median(
    what: str, values: list[float], unit: str, at_most: float | None = None, at_least: float | None = None
) -> Row:
    """The median of repetitions; a goal that lies between the quartiles is neither held nor missed."""
    middle = statistics.median(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (middle,) * 3
    quartiles = (low, high) if len(values) > 1 else None
    if at_least is not None:
        verdict = "holds" if low >= at_least else "MISSED" if high < at_least else "not resolved"
        return Row(what, middle, unit, len(values), quartiles, f">= {at_least:g} {unit}", verdict)
    if at_most is None:
        return Row(what, middle, unit, len(values), quartiles)
    verdict = "holds" if high <= at_most else "MISSED" if low > at_most else "not resolved"
    return Row(what, middle, unit, len(values), quartiles, f"<= {at_most:g} {unit}", verdict)


def ratio(what: str, over: list[float], under: list[float], at_most: float | None = None) -> Row:
    """The median ratio of repetitions that took turns."""
    return median(what, [a / b for a, b in zip(over, under, strict=True)], "x", at_most)


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def take_turns(
    jobs: Mapping[str, Callable[[], Any]], rounds: int, device: str, warm: int = 1
) -> dict[str, list[float]]:
    """Seconds of each job in each round; A, B, ..., A, B, ... after ``warm`` rounds that are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for k in range(warm + rounds):
        for name, job in jobs.items():
            synchronize(device)
            began = time.perf_counter()
            job()
            synchronize(device)
            if k >= warm:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def recipe(name: str) -> Recipe:
    """A recipe for 32 x 32 latents with independent noise: the coupling has a benchmark of its own."""
    return replace(for_side(RECIPES[name], 32), coupling=Coupling())


@cache
def latents(n: int, classes: int) -> Labelled:
    """Stand-ins for latents: Gaussian fields (n, 4, 32, 32) of the 1/f spectrum that natural images have."""
    rng = stream(0, "latents")
    side = torch.fft.fftfreq(32)
    frequency = (side[:, None] ** 2 + side[None] ** 2).sqrt().clamp(min=1 / 32)
    x = torch.fft.ifft2(torch.fft.fft2(torch.randn(n, 4, 32, 32, generator=rng)) / frequency).real
    y = torch.randint(classes, (n,), generator=rng)
    return Labelled(x / x.std(), y, classes, tuple(str(c) for c in range(classes)))


def fresh_accelerator(sizes: Sizes, precision: str) -> Accelerator:
    """An Accelerator of this precision; the singletons of an earlier one are dropped."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    return Accelerator(mixed_precision=precision, cpu=sizes.device == "cpu")


class RestingFit:
    """``fit`` in a thread of its own that rests after every step, so that several can take turns.

    What is timed is ``fit`` itself: data, coupling, step, optimiser, averages, and its looks at the losses.
    """

    def __init__(
        self, sizes: Sizes, recipe: Recipe, net: DiT, batches: Batches, accelerator: Accelerator, **options: Any
    ) -> None:
        self._device = sizes.device
        self._go, self._rests, self._end = threading.Semaphore(0), threading.Semaphore(0), False
        self._failure: BaseException | None = None
        arguments = (recipe, net, batches, accelerator)
        self._thread = threading.Thread(target=self._run, args=arguments, kwargs=options, daemon=True)
        self._thread.start()

    def _run(self, recipe: Recipe, net: DiT, batches: Batches, accelerator: Accelerator, **options: Any) -> None:
        self._go.acquire()
        try:
            optim = Optim(clip=1.0)
            fit(recipe, net, batches, steps=10**6, optim=optim, hooks=[self._rest], progress=False,
                accelerator=accelerator, **options)  # fmt: skip
        except BaseException as error:
            self._failure = error
        self._rests.release()

    def _rest(self, state: TrainState, report: StepReport) -> None:
        synchronize(self._device)
        self._rests.release()
        self._go.acquire()
        if self._end:
            raise KeyboardInterrupt

    def step(self) -> None:
        """One step; the first includes all preparation."""
        self._go.release()
        self._rests.acquire()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Interrupt ``fit``."""
        self._end = True
        self._go.release()
        self._thread.join()
