"""What the plan of a run says, and what grouping an epoch by class takes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ismkit.data.batches import ClassGroups
from ismkit.method.recipes import RECIPES
from ismkit.models.nets import PRESETS
from ismkit.training.budget import Cluster, plan
from ismkit.training.costs import step_flops
from tests.bench.common import Row, Sizes, median, take_turns


def run(sizes: Sizes) -> Iterator[Row]:
    """The ideal ratio, the hours of 800 000 steps of 256 at the assumed MFU, and seconds of an epoch's order."""
    shapes = {name: {"size": 32, "channels": 4, "patch": 2, **PRESETS[name], "num_classes": 1000} for name in PRESETS}
    flops = {name: step_flops(shapes["XL"], RECIPES[name], 256) for name in ("flow", "ism")}
    yield Row("model: FLOPs of an iSM step over a flow step", flops["ism"] / flops["flow"], "x")
    for gpus, mode in ((1, "ddp"), (8, "fsdp"), (64, "fsdp")):
        for name in ("S", "B", "L", "XL"):
            row = plan(name, shapes[name], RECIPES["ism"], Cluster(gpus), price=1.0, mode=mode)  # type: ignore[arg-type]
            what = f"model: 800K steps of 256, {name}/2, {gpus} H100 by {mode}, MFU {row['MFU %']:.0f} %"
            yield Row(what, row["GPU hours"], "GPU hours")
    for images in (1_281_167, 2 * 1_281_167) if sizes.pool == 32 else (10_000,):
        y = torch.arange(images) % 1000
        order = partial(ClassGroups(32, 128).order, y, 8192, 0, 0)
        yield median(f"order of an epoch of {images} rows, grouped", take_turns({"": order}, 3, "cpu")[""], "s")
