"""The iSM step over the plain flow-matching step, and the wavelet distance's share of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ismkit.data.batches import Batches
from ismkit.method.wavelet import l2
from ismkit.models.nets import DiT
from tests.bench.common import RestingFit, Row, Sizes, fresh_accelerator, latents, median, ratio, recipe, take_turns


def run(sizes: Sizes) -> Iterator[Row]:
    """Whole steps of ``fit``, and the distances alone."""
    ism = recipe("ism")
    recipes = {"flow": recipe("flow"), "ism, L2": replace(ism, distance=l2), "ism": ism}
    passes = {name: _passes(sizes, name) for name in ("flow", "ism")}
    yield Row("parameters of the network", sum(p.numel() for p in sizes.build().parameters()) / 1e6, "million")
    yield Row(
        f"count: network passes of iSM over flow, a backward being two ({passes['ism']} against {passes['flow']} rows)",
        (3 * passes["ism"][0] + passes["ism"][1]) / (3 * passes["flow"][0] + passes["flow"][1]), "x",
    )  # fmt: skip

    extra = _distances(sizes)
    for precision in sizes.precisions:
        accelerator = fresh_accelerator(sizes, precision)
        data = latents(8 * sizes.batch, 1000)
        fits = {
            name: RestingFit(sizes, value, sizes.build(), Batches(data, sizes.batch, 0), accelerator)
            for name, value in recipes.items()
        }
        seconds = take_turns({name: fit.step for name, fit in fits.items()}, sizes.rounds, sizes.device)
        for fit in fits.values():
            fit.close()
        how = f"batch {sizes.batch}, {'fp32' if precision == 'no' else precision}"
        yield median(f"flow step, {how}", seconds["flow"], "s")
        yield median(f"iSM step, {how}", seconds["ism"], "s")
        yield ratio(f"iSM step over flow step, {how}", seconds["ism"], seconds["flow"], at_most=1.5)
        yield ratio(f"iSM step over the same step with L2, {how}", seconds["ism"], seconds["ism, L2"], at_most=1.01)
        # A GPU is still busy with the network while the distance is launched, so that alone it seems to take longer.
        share = [100 * a / b for a, b in zip(extra, seconds["ism, L2"], strict=True)]
        what = f"wavelet distance less L2, forward and backward alone, over that step, {how}"
        yield median(what, share, "%", at_most=1.0 if sizes.device == "cpu" else None)


def _distances(sizes: Sizes) -> list[float]:
    """Seconds that the wavelet distance takes more than L2, forward and backward, once per round."""
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(sizes.batch, 4, 32, 32, generator=rng).to(sizes.device) for _ in range(2))
    a.requires_grad_()
    distance, repeats = recipe("ism").distance, 20

    def many(function: Any) -> None:
        for _ in range(repeats):
            function(a, b).mean().backward()

    seconds = take_turns({"l2": lambda: many(l2), "wavelet": lambda: many(distance)}, sizes.rounds, sizes.device)
    return [(w - p) / repeats for w, p in zip(seconds["wavelet"], seconds["l2"], strict=True)]


def _passes(sizes: Sizes, name: str) -> tuple[int, int]:
    """Rows that go through the network in one step of ``fit``: with gradient, and without."""
    rows = {True: 0, False: 0}

    def count(module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, DiT):
            rows[torch.is_grad_enabled()] += len(args[0])

    tiny = replace(sizes, net={**sizes.net, "patch": 8, "width": 16, "depth": 1, "heads": 2})
    handle = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        batches = Batches(latents(sizes.batch, 1000), sizes.batch, 0)
        fit = RestingFit(tiny, recipe(name), tiny.build(), batches, fresh_accelerator(tiny, "no"))
        fit.step()
        fit.close()
    finally:
        handle.remove()
    return rows[True], rows[False]
