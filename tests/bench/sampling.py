"""One-step sampling: network calls and seconds per sample, against classic guidance with two calls per step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ismkit.method.guidance import TwoPassCFG
from ismkit.method.sampling import sample
from tests.bench.common import Row, Sizes, median, ratio, take_turns


def run(sizes: Sizes) -> Iterator[Row]:
    """Counts for every way of asking, then seconds in turns."""
    n = max(1, sizes.batch // 16)
    net = sizes.build().eval().to(sizes.device)
    two_pass = TwoPassCFG(net, net.num_classes).eval()
    rng = torch.Generator().manual_seed(0)
    x0 = torch.randn(n, 4, 32, 32, generator=rng).to(sizes.device)
    y = torch.randint(1000, (n,), generator=rng).to(sizes.device)
    for name, w in (("unguided", 0.0), ("guided", 2.0), ("w per sample", torch.linspace(0, 3, n).to(x0))):
        calls = _count(net, lambda w=w: sample(net, x0, y, w=w, nfe=1))
        yield Row(
            f"network calls of a one-step sample, {name}",
            len(calls),
            "calls",
            goal="= 1",
            verdict="holds" if calls == [n] else "MISSED",
        )
    jobs: dict[str, Any] = {f"iSM, {k}": lambda k=k: sample(net, x0, y, w=2.0, nfe=k) for k in (1, 2, 4)}
    jobs |= {f"CFG, {k}": lambda k=k: sample(two_pass, x0, y, w=2.0, nfe=k) for k in (1, 2, 4)}
    seconds = take_turns(jobs, sizes.rounds, sizes.device)
    for k in (1, 2, 4):
        yield median(
            f"seconds per sample, guided, {k} NFE, batch {n}, fp32", [s / n for s in seconds[f"iSM, {k}"]], "s"
        )
    for k in (1, 2, 4):
        what = f"two-pass CFG over w as input, {k} steps ({2 * k} calls against {k})"
        yield ratio(what, seconds[f"CFG, {k}"], seconds[f"iSM, {k}"])


def _count(net: nn.Module, job: Any) -> list[int]:
    """Rows of each call of ``net`` that ``job`` makes."""
    rows: list[int] = []
    handle = net.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    try:
        out: Tensor = job()
    finally:
        handle.remove()
    assert out.isfinite().all()
    return rows
