"""Peak memory of the iSM step over plain flow matching."""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ismkit.data.batches import Batches
from ismkit.training.loop import Optim, StepReport, TrainState
from tests.bench.common import Row, Sizes, fresh_accelerator, latents, median, recipe
from tests.options import fit

MIB = 2**20


def run(sizes: Sizes) -> Iterator[Row]:
    """The second step of ``fit``, when the optimiser's state exists.

    On a GPU, ``max_memory_allocated``. On the CPU, all that PyTorch's allocator hands out, from the profiler's
    record: weights, optimiser state and averages, plus the highest sum of the allocations less the releases of the
    step. It counts temporaries inside operators, but not the scratch memory of the BLAS libraries.
    """
    for precision in sizes.precisions:
        how = f"batch {sizes.batch}, {'fp32' if precision == 'no' else precision}"
        peaks = {name: _peak(sizes, name, precision) for name in ("flow", "ism")}
        rest = {}
        for name, (peak, averages) in peaks.items():
            rest[name] = peak - averages
            yield Row(f"{name}: peak, of which averages {averages / MIB:.0f} MiB, {how}", peak / MIB, "MiB")
        ratio = rest["ism"] / rest["flow"]
        yield median(f"iSM over flow, peak without averages, {how}", [ratio], "x", at_most=1.15)


def _nbytes(tensors: Iterator[Tensor]) -> int:
    return sum(t.untyped_storage().nbytes() for t in {t.data_ptr(): t for t in tensors}.values())


def _peak(sizes: Sizes, name: str, precision: str) -> tuple[int, int]:
    """Bytes at the peak of one step, and bytes of the averages."""
    gc.collect()
    cuda = sizes.device == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def watch(state: TrainState, report: StepReport) -> None:
        if report.step == 1:
            torch.cuda.reset_peak_memory_stats() if cuda else profiler.start()
        if report.step == 2 and not cuda:
            profiler.stop()

    batches = Batches(latents(8 * sizes.batch, 1000), sizes.batch, 0)
    accelerator = fresh_accelerator(sizes, precision)
    state = fit(recipe(name), sizes.build(), batches, steps=2, optim=Optim(clip=1.0), hooks=[watch],
                progress=False, accelerator=accelerator)  # fmt: skip
    averages = _nbytes(iter(state.ema.state_dict().values()))
    if cuda:
        return torch.cuda.max_memory_allocated() - before, averages
    moments = (m for s in state.optimizer.state.values() for m in s.values() if isinstance(m, Tensor))
    return _nbytes(iter(state.net.state_dict().values())) + _nbytes(moments) + averages + _highest(profiler), averages


def _highest(profiler: profile) -> int:
    """The highest running sum of bytes allocated less bytes released."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = [e for e in json.loads(trace.read_text())["traceEvents"] if e["name"] == "[memory]"]
    held = highest = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        highest = max(highest, held)
    return highest
