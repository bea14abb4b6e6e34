"""The run at full scale on one device: the iSM step of SiT-XL/2 at batch 256, its sampler with decoding, 300 steps.

On a CPU the same code runs at a size that fits, and gives the ratios. Nothing optional is needed: without diffusers the
decoder is left out, without latents (``ISMKIT_LATENTS``) fields of their spectrum and variance take their place.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ismkit.data.batches import Batches
from ismkit.method.sampling import sample
from ismkit.training.costs import step_flops
from ismkit.training.runs import imagenet_latents
from ismkit.training.tracking import peak_flops
from ismkit.utils.seeding import stream
from tests.bench.common import RestingFit, Row, Sizes, fresh_accelerator, latents, median, ratio, recipe, take_turns

STEPS = 300
#: Of sd-vae-ft-mse, as its ``config.json`` has it: with drawn weights it takes as long. A CPU gets narrow
#: layers.
DECODER: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
WIDTHS = {"cuda": (128, 256, 512, 512), "cpu": (32, 32, 64, 64)}


def run(sizes: Sizes) -> Iterator[Row]:
    """The step, its memory and its compilation; then the sampler."""
    sizes = replace(sizes, net=sizes.large)
    yield Row("parameters of the network", sum(p.numel() for p in sizes.build().parameters()) / 1e6, "million")
    yield from _steps(sizes)
    torch.cuda.empty_cache()
    yield from _sampling(sizes)


def _data(n: int) -> Any:
    return imagenet_latents("imagenet256") if "ISMKIT_LATENTS" in os.environ else latents(n, 1000)


def _micro_batch(sizes: Sizes, data: Any) -> int:
    """The most rows, a halving of the batch, that fit beside the other network's weights, tried without compilation."""
    rows = sizes.large_batch // 2
    while sizes.device == "cuda":
        fits = [_fit(sizes, name, data, rows, compile=False) for name in ("flow", "ism")]
        try:
            for fit in fits:
                fit.step()
            break
        except torch.OutOfMemoryError:
            rows //= 2
        finally:
            for fit in fits:
                fit.close()
            fits.clear()
            torch.cuda.empty_cache()
    return rows


def _fit(sizes: Sizes, name: str, data: Any, rows: int, **options: Any) -> RestingFit:
    accelerator = fresh_accelerator(sizes, sizes.precisions[-1])
    micro_batches = sizes.large_batch // rows
    return RestingFit(
        sizes, recipe(name), sizes.build(), Batches(data, rows, 0), accelerator, micro_batches=micro_batches, **options
    )


def _steps(sizes: Sizes) -> Iterator[Row]:
    data, cuda = _data(4 * sizes.large_batch), sizes.device == "cuda"
    rows = _micro_batch(sizes, data)
    precision = "fp32" if sizes.precisions[-1] == "no" else sizes.precisions[-1]
    how = f"batch {sizes.large_batch} in {sizes.large_batch // rows}, {precision}{', compiled' * sizes.compile}"
    fits, first, peaks = {}, {}, {}
    for name in ("flow", "ism"):
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        fits[name] = _fit(sizes, name, data, rows, compile=sizes.compile)
        began = time.perf_counter()
        fits[name].step()
        first[name] = time.perf_counter() - began
        if cuda:
            fits[name].step()
            peaks[name] = torch.cuda.max_memory_allocated() - before
    seconds = take_turns({name: fit.step for name, fit in fits.items()}, sizes.rounds, sizes.device)
    fits.pop("flow").close()

    yield median(f"flow step, {how}", seconds["flow"], "s")
    yield median(f"iSM step, {how}", seconds["ism"], "s")
    yield ratio(f"iSM step over flow step, {how}", seconds["ism"], seconds["flow"], at_most=1.5)
    parts = sizes.large_batch // rows
    flops = {name: parts * step_flops(sizes.build().config, recipe(name), rows) for name in seconds}
    yield Row("count: network passes of iSM over flow, a backward being two", flops["ism"] / flops["flow"], "x")
    yield median(f"images per second, iSM, {how}", [sizes.large_batch / s for s in seconds["ism"]], "per s")
    yield Row("model FLOPs of an iSM step, all passes counted", flops["ism"] / 1e12, "TFLOP")
    peak = peak_flops(torch.cuda.get_device_name()) if cuda else None
    if peak is not None:
        shares = [100 * flops["ism"] / (s * peak) for s in seconds["ism"]]
        yield median(f"MFU of the iSM step, {how}", shares, "%", at_least=45)
    for name, value in peaks.items():
        yield Row(f"{name}: peak memory, {how}", value / 2**30, "GiB")
    if cuda:
        for name, value in first.items():
            usual = sorted(seconds[name])[len(seconds[name]) // 2]
            what = "compilation and preparation" if sizes.compile else "preparation"
            yield Row(f"{name}: first step less a later one: {what}", value - usual, "s")
    yield from _many(sizes, fits.pop("ism"), done=len(seconds["ism"]) + 2 + cuda, how=how)


def _many(sizes: Sizes, fit: RestingFit, done: int, how: str) -> Iterator[Row]:
    """``fit`` stops at a loss or gradient that is not finite. On a CPU a small network takes the place of the large."""
    if sizes.device == "cpu":
        fit.close()
        net, rows = replace(sizes, net=sizes.small), min(32, sizes.rows)
        data = latents(4 * rows, sizes.small["num_classes"])
        fit = RestingFit(net, recipe("ism"), net.build(), Batches(data, rows, 0), fresh_accelerator(net, "no"))
        done, how = 0, f"batch {rows}, small network"
    while done < sizes.steps:
        fit.step()
        done += 1
    fit.close()
    yield Row(f"steps without NaN or infinity, {how}", done, "steps", goal=f">= {STEPS}",
              verdict="holds" if done >= STEPS else "")  # fmt: skip


def _decoder(device: str) -> Callable[[Tensor], Tensor] | None:
    if find_spec("diffusers") is None:
        return None
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(**DECODER, block_out_channels=WIDTHS[device]).to(device).eval().requires_grad_(False)
    return lambda x: vae.decode(x / 0.18215).sample


def _sampling(sizes: Sizes) -> Iterator[Row]:
    """Guided samples at 1, 2 and 4 NFE, as latents and as images."""
    half, n = sizes.precisions[-1] == "bf16", max(1, sizes.large_batch // 8)
    net: nn.Module = sizes.build().eval().requires_grad_(False).to(sizes.device)
    x0 = torch.randn(n, 4, 32, 32, generator=stream(0, "samples")).to(sizes.device)
    y = (torch.arange(n) % 1000).to(sizes.device)
    decode = _decoder(sizes.device)

    @torch.no_grad()
    def draw(steps: int, decoded: bool) -> None:
        with torch.autocast(sizes.device, torch.bfloat16) if half else nullcontext():
            x = sample(net, x0, y, w=1.0, nfe=steps)
            x = decode(x) if decoded and decode else x
        assert math.isfinite(x.float().sum().item())

    images = "decoded images" if sizes.device == "cuda" else "images, decoded by narrow layers,"
    kinds = {"latents": False} | ({images: True} if decode else {})
    jobs = {(k, what): partial(draw, k, decoded) for what, decoded in kinds.items() for k in (1, 2, 4)}
    seconds = take_turns({str(key): job for key, job in jobs.items()}, max(2, sizes.rounds // 2), sizes.device)
    for k, what in jobs:
        values = [n / s for s in seconds[str((k, what))]]
        yield median(f"{what} per second, {k} NFE, batch {n}, {'bf16' if half else 'fp32'}", values, "per s")
    if decode is None:
        yield Row("decoding: left out, diffusers is not installed", 0, "images")
