"""A run planned on paper: hours, money, memory and storage; where optimal transport runs on many ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ismkit.cluster import Cluster, Parallel, memory_bytes, micro_batch, step
from ismkit.costs import checkpoint_bytes, latent_bytes, step_flops
from ismkit.objectives import Recipe


def plan(
    name: str,
    config: Mapping[str, Any],
    recipe: Recipe,
    cluster: Cluster,
    *,
    price: float,
    batch: int = 256,
    steps: int = 800_000,
    parallel: Parallel = "ddp",
    checkpointing: bool = False,
    measured: float | None = None,
    kept: int = 3,
) -> dict[str, Any]:
    """One row of the cost table.

    Args:
        name: of the network, for the row.
        config: the network's shape.
        recipe: the method.
        cluster: the GPUs.
        price: of one GPU for one hour.
        batch: rows of one optimiser step over all GPUs.
        steps: optimiser steps.
        parallel: ``ddp`` or ``fsdp``.
        checkpointing: of activations.
        measured: images per second of one GPU with large batches; it takes the place of ``cluster.mfu``.
        kept: checkpoints on disk.
    """
    if measured is not None:
        cluster = replace(cluster, mfu=measured * step_flops(config, recipe, batch) / batch / cluster.flops)
    rows = micro_batch(config, recipe, batch, cluster, parallel, checkpointing)
    simulated = step(config, recipe, batch, cluster, parallel, checkpointing)
    hours = steps * simulated.seconds / 3600
    held = memory_bytes(config, rows, cluster, parallel, checkpointing)
    return {
        "network": name,
        "method": recipe.name,
        "GPUs": cluster.gpus,
        "by": parallel,
        "rows": rows,
        "s / step": simulated.seconds,
        "images / s": batch / simulated.seconds,
        "MFU %": 100 * step_flops(config, recipe, batch) / (simulated.seconds * cluster.gpus * cluster.flops),
        "hours": hours,
        "GPU hours": hours * cluster.gpus,
        "money": hours * cluster.gpus * price,
        "GB / GPU": sum(held.values()) / 1e9,
        "storage GB": (latent_bytes(size=config["size"]) + kept * checkpoint_bytes(config)) / 1e9,
        "source": "model" if measured is None else "measured",
    }


def pools(
    config: Mapping[str, Any], seconds: float, cluster: Cluster, *, batch: int = 256, rows: int = 8192, pool: int = 32
) -> list[dict[str, Any]]:
    """Where scaling OT can run on many ranks: what a pool then is, what it sends, and what solving takes.

    Args:
        config: the network's shape, for the size of a latent.
        seconds: of an optimiser step.
        cluster: the GPUs, one rank each.
        batch: rows of an optimiser step over all ranks.
        rows: of the pool that is wanted; 32 batches of 256 are the paper's.
        pool: K of the paper.

    Returns:
        For pools per rank at the paper's K, pools per rank of as many rows, and one pool gathered from all ranks: K,
        the rows of a pool, GB that a rank holds of two pools (noise and data, float32), seconds between pools, seconds
        of gathering, and how many cores an exact solver keeps busy on all ranks together (:func:`exact_seconds`).
    """
    numbers, p = config["channels"] * config["size"] ** 2, cluster.gpus
    table = []
    for name, K, size, solvers in (
        ("per rank, the same K", pool, pool * batch // p, p),
        ("per rank, as many rows", rows * p // batch, rows, p),
        ("one pool of all ranks", rows // batch, rows, 1),
    ):
        held, period = 2 * 2 * size * numbers * 4, K * seconds
        table.append(
            {
                "where": name,
                "K": K,
                "rows": size,
                "GB / rank": (held / (p if solvers == 1 else 1)) / 1e9,
                "s between pools": period,
                "s gathering": cluster.gather(size * numbers * 4) if solvers == 1 else 0.0,
                "exact solver s": exact_seconds(size),
                "busy cores": solvers * exact_seconds(size) / period,
            }
        )
    return table


def exact_seconds(n: int) -> float:
    """CPU seconds of the exact solver on n points in 4096 dimensions: 12 at 8192, as n^2.3 (tests/bench/RESULTS.md)."""
    return 12.0 * (n / 8192) ** 2.3


def text(rows: list[dict[str, Any]]) -> str:
    """Rows of one kind as a table of text, numbers to three digits."""

    def cell(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

    lines = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(item.rjust(width) for item, width in zip(line, widths, strict=True)) for line in lines)
