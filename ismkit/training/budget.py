"""A run planned on paper: hours, money, memory and storage on one GPU or many; where optimal transport runs.

A training step is simulated block by block on two queues, computation and communication, under DDP or FSDP. Every
figure that does not come from the device's data sheet is an argument and an assumption until ``make gpu`` has measured
it: see :class:`Cluster`. Compare rows of a table with each other rather than with a clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ismkit.method.recipes import Recipe
from ismkit.training.costs import (
    STATE_BYTES,
    activation_bytes,
    checkpoint_bytes,
    forward_flops,
    latent_bytes,
    parameters,
    passes,
    sample_shape,
    step_flops,
)

BUCKET = 25 * 2**20  # bytes of gradients that DDP sends at a time (its default)
Mode = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class Cluster:
    """GPUs and what joins them; the defaults are H100 SXM5 in nodes of eight with one 400 Gb/s adapter per GPU.

    From data sheets (NVIDIA H100; DGX H100): ``flops``, ``memory``, ``bandwidth``, ``nvlink``, ``network``. Assumed:
    ``mfu`` (this kit's goal), ``reached``, ``latency``, ``launch``, ``reserve``.

    Attributes:
        gpus: how many, p.
        per_node: GPUs that share a switch.
        flops: peak of dense bf16 products, FLOPs per second.
        memory: bytes of a GPU.
        bandwidth: of its memory, bytes per second.
        nvlink: bytes per second that a GPU sends within its node.
        network: bytes per second that a GPU sends out of it.
        mfu: share of ``flops`` that large batches reach.
        reached: share of every bandwidth that is reached.
        latency: seconds of one of the ``log2(p)`` stages of a collective.
        launch: least seconds of one pass through one block, however few its rows; a backward pass takes two.
        reserve: bytes of a GPU that the context, the allocator's gaps and the rest of the network take.
    """

    gpus: int = 1
    per_node: int = 8
    flops: float = 989.4e12
    memory: float = 80e9
    bandwidth: float = 3.35e12
    nvlink: float = 450e9
    network: float = 50e9
    mfu: float = 0.45
    reached: float = 0.8
    latency: float = 5e-6
    launch: float = 50e-6
    reserve: float = 6e9

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value < math.inf or (value == 0 and name not in ("latency", "launch", "reserve")):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        for name in ("mfu", "reached"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} must be a share, at most 1, got {getattr(self, name)}")
        if self.gpus > self.per_node and self.gpus % self.per_node:
            raise ValueError(f"gpus must be whole nodes of {self.per_node} or fit in one, got {self.gpus}")

    @property
    def link(self) -> float:
        """Bytes per second that each GPU sends in a ring, assumed reached.

        Within a node NVLink's; between nodes as many rings as adapters run side by side, so that the adapters of a
        node add up.
        """
        between = math.inf if self.gpus <= self.per_node else self.per_node * self.network
        return self.reached * min(self.nvlink, between)

    def gather(self, size: float) -> float:
        """Seconds in which every GPU gets ``size`` bytes of which each holds a part: ``(p - 1) / p`` of them sent.

        A reduce-scatter of as many bytes takes the same, and an all-reduce both, ``2 (p - 1) / p``.
        """
        p = self.gpus
        return 0.0 if p == 1 else (p - 1) / p * size / self.link + self.latency * math.log2(p)


@dataclass(frozen=True)
class Step:
    """One optimiser step, in seconds: what computes, what communication adds beyond it, and the update."""

    compute: float
    exposed: float
    update: float
    bytes_sent: float

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return self.compute + self.exposed + self.update


def memory_bytes(
    config: Mapping[str, Any], rows: int, cluster: Cluster, mode: Mode, checkpointing: bool = False
) -> dict[str, float]:
    """Bytes on each GPU by what they hold; under FSDP the state is shared out, and two blocks at a time are whole.

    DDP's buckets are taken as views of the gradients (``gradient_as_bucket_view``); else they hold them once more.

    Args:
        config: the network's shape.
        rows: of one micro-batch on one GPU.
        cluster: how many GPUs.
        mode: ``ddp`` or ``fsdp`` (parameters, gradients, AdamW and both averages sharded).
        checkpointing: of activations.
    """
    P, parts = parameters(config), cluster.gpus if mode == "fsdp" else 1
    held = {name: size * P / parts for name, size in STATE_BYTES.items()}
    whole = 2 * P / config["depth"] if parts > 1 else P
    held["weights in bf16"] = 2.0 * whole  # autocast's copies, or FSDP's gathered blocks
    held["activations"] = rows * activation_bytes(config, "bf16", checkpointing)
    held["reserve"] = cluster.reserve
    return held


def micro_batch(
    config: Mapping[str, Any], recipe: Recipe, batch: int, cluster: Cluster, mode: Mode, checkpointing: bool
) -> int:
    """Rows of the largest micro-batch that fits, a divisor of those of a GPU that gives each block of rows one.

    Raises:
        ValueError: if none fits, or ``batch`` is no multiple of the GPUs.
    """
    if batch % cluster.gpus:
        raise ValueError(f"batch must be a multiple of the {cluster.gpus} GPUs, got {batch}")
    mine = batch // cluster.gpus
    for rows in sorted((r for r in range(1, mine + 1) if mine % r == 0), reverse=True):
        recipe.rows.blocks(rows)  # too few for its blocks: the error says so
        if sum(memory_bytes(config, rows, cluster, mode, checkpointing).values()) <= cluster.memory:
            return rows
    raise ValueError(f"no micro-batch of width {config['width']} fits in {cluster.memory:.3g} bytes by {mode}")


def step(
    config: Mapping[str, Any],
    recipe: Recipe,
    batch: int,
    cluster: Cluster,
    mode: Mode = "ddp",
    checkpointing: bool = False,
) -> Step:
    """Simulate one optimiser step.

    Blocks are passed through one after another, each taking ``FLOPs / (mfu * flops)`` but at least ``launch``. DDP
    sends gradients, 4 bytes each, in buckets as the last backward pass frees them. FSDP gathers every block in bf16
    before it is needed, one block ahead, for every pass (those that make targets too, whose network is sharded as
    well; :func:`ismkit.training.loop.fit` keeps that one gathered within a step, and sends less), and scatters its
    gradients after it. Nothing is sent while nothing is there to send: what does not hide behind computation is
    ``exposed``. The update moves AdamW's and the averages' numbers once through memory.

    Args:
        config: the network's shape.
        recipe: the method.
        batch: rows of one optimiser step over all GPUs.
        cluster: the GPUs.
        mode: ``ddp`` or ``fsdp``.
        checkpointing: compute every block's forward pass once more in the backward pass.
    """
    rows = micro_batch(config, recipe, batch, cluster, mode, checkpointing)
    micro, P, depth = batch // cluster.gpus // rows, parameters(config), config["depth"]
    count = passes(recipe, rows, shape=sample_shape(config))
    row = forward_flops(config) / depth / (cluster.mfu * cluster.flops)

    def one(rows: float) -> float:
        return max(rows * row, cluster.launch)

    target = [one(count.target / max(count.calls, 1))] * (depth * count.calls)
    forward = [one(count.online)] * depth
    backward = [(3 if checkpointing else 2) * one(count.online)] * depth
    compute = micro * (sum(target) + sum(forward) + sum(backward))
    if cluster.gpus == 1:
        exposed, sent = 0.0, 0.0
    elif mode == "ddp":
        size = 4.0 * P
        buckets = math.ceil(size / BUCKET)
        each, done = 2 * cluster.gather(size / buckets), 0.0
        for k in range(buckets):
            done = max(done, (k + 1) / buckets * sum(backward)) + each
        exposed, sent = done - sum(backward), 2 * (cluster.gpus - 1) / cluster.gpus * size
    else:
        block = 2.0 * P / depth  # bytes in bf16
        units = [(seconds, False) for seconds in (*target, *forward)] + [(seconds, True) for seconds in backward]
        finished = _fsdp(units, cluster.gather(block), cluster.gather(2 * block))
        exposed = micro * (finished - sum(seconds for seconds, _ in units))
        sent = micro * (cluster.gpus - 1) / cluster.gpus * block * (len(units) + 2 * depth)
    parts = cluster.gpus if mode == "fsdp" else 1
    update = 52 * P / parts / (cluster.reached * cluster.bandwidth)  # AdamW 28 bytes, each average 12
    return Step(compute, exposed, update, sent)


def _fsdp(units: list[tuple[float, bool]], gather: float, scatter: float) -> float:
    """When the last of the units is done, gradients sent; a unit is (seconds, whether gradients follow).

    One queue sends, in order: the gather of a unit begins when the unit before the last is done, since two are held;
    gradients (in float32, twice the bytes) leave after their unit, behind the gather of the next one.
    """
    sent, done, before, waiting = 0.0, 0.0, 0.0, None
    for seconds, has_gradients in units:
        arrived = max(sent, before) + gather
        sent = arrived
        if waiting is not None:
            sent = max(sent, waiting) + scatter
        before, done = done, max(done, arrived) + seconds
        waiting = done if has_gradients else None
    return max(done, sent if waiting is None else max(sent, waiting) + scatter)


def plan(
    name: str,
    config: Mapping[str, Any],
    recipe: Recipe,
    cluster: Cluster,
    *,
    price: float,
    batch: int = 256,
    steps: int = 800_000,
    mode: Mode = "ddp",
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
        mode: ``ddp`` or ``fsdp``.
        checkpointing: of activations.
        measured: images per second of one GPU with large batches; it takes the place of ``cluster.mfu``.
        kept: checkpoints on disk: two that stay, and the next while it is written.
    """
    if measured is not None:
        cluster = replace(cluster, mfu=measured * step_flops(config, recipe, batch) / batch / cluster.flops)
    rows = micro_batch(config, recipe, batch, cluster, mode, checkpointing)
    simulated = step(config, recipe, batch, cluster, mode, checkpointing)
    hours = steps * simulated.seconds / 3600
    held = memory_bytes(config, rows, cluster, mode, checkpointing)
    return {
        "network": name,
        "method": recipe.name,
        "GPUs": cluster.gpus,
        "by": mode,
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


#: What a process holds while the next pool is made beside its own, in sizes of a pool's noise: measured on large pools.
HELD = 6.2


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
        the rows of a pool, GB that a rank holds while it makes the next pool (:data:`HELD`), seconds between pools,
        seconds of gathering, and how many cores an exact solver keeps busy on all ranks together
        (:func:`exact_seconds`).
    """
    numbers, p = config["channels"] * config["size"] ** 2, cluster.gpus
    table = []
    for name, K, size, solvers in (
        ("per rank, the same K", pool, pool * batch // p, p),
        ("per rank, as many rows", rows * p // batch, rows, p),
        ("one pool of all ranks", rows // batch, rows, 1),
    ):
        held, period = HELD * size * numbers * 4, K * seconds
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
