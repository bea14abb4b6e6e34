"""Scaling OT beside the trainer, and the exact solvers by dimension."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from statistics import median as middle

import torch
from torch import Tensor

from ismkit.data import fashion, sets
from ismkit.data.batches import Batches
from ismkit.method import coupling
from ismkit.method.auction import Auction, auction, gains
from ismkit.method.coupling import Coupling, assign
from ismkit.utils.seeding import stream
from tests.bench.common import RestingFit, Row, Sizes, fresh_accelerator, latents, median, ratio, recipe, take_turns

CLASSES = 10


def run(sizes: Sizes) -> Iterator[Row]:
    """What sOT takes from a trainer that runs beside it, in seconds per pool, and that as a share of K real steps.

    The trainer has one thread (which also feeds a GPU, where there is one) and the solver another. Within classes,
    ``fit`` runs over whole pools, with sOT and with independent noise in turns. Without classes, one pool is solved
    beside ``fit`` while its steps are timed. Where M rows of the real network take minutes (CPU), ``fit`` trains a
    smaller one meanwhile, and the step that the share refers to is measured with fewer rows and scaled to M.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        real = _fit(sizes, Coupling(), small=False)
        seconds = take_turns({"real": real.step}, 1, sizes.device)["real"]
        real.close()
        scale = sizes.rows / sizes.batch
        step = middle(seconds) * scale
        yield median(f"real step of M = {sizes.rows} rows: {scale:g} times one of {sizes.batch}, one thread",
                     [s * scale for s in seconds], "s")  # fmt: skip
        yield from _whole_pools(sizes, step)
        yield from _beside(sizes, step)
    finally:
        torch.set_num_threads(threads)


def _fit(sizes: Sizes, kind: Coupling, *, small: bool) -> RestingFit:
    points = latents(sizes.pool * sizes.rows, CLASSES)
    batches = Batches(points, sizes.rows if small else sizes.batch, 0)
    accelerator = fresh_accelerator(sizes, sizes.precisions[-1])
    return RestingFit(sizes, replace(recipe("ism"), coupling=kind), sizes.build(small=small), batches, accelerator)


def _whole_pools(sizes: Sizes, real: float) -> Iterator[Row]:
    """``fit`` over pools of K steps: in each, it gathers a pool, and the thread solves the next."""
    rounds, K = 2, sizes.pool
    fits = {
        name: _fit(sizes, kind, small=True)
        for name, kind in (("independent", Coupling()), ("sot", Coupling(K, class_aware=True)))
    }

    def pool_of(fit: RestingFit) -> Callable[[], None]:
        def pool() -> None:
            for _ in range(K):
                fit.step()

        return pool

    seconds = take_turns({name: pool_of(fit) for name, fit in fits.items()}, rounds, sizes.device)
    for fit in fits.values():
        fit.close()
    million = sum(p.numel() for p in sizes.build(small=True).parameters()) / 1e6
    step = f"step of {middle(seconds['independent']) / K:.3g} s ({million:.2g} million parameters)"
    pool = f"K = {K}, M = {sizes.rows}, 4096 dimensions, {CLASSES} classes"
    yield ratio(f"sOT within classes over independent noise, whole pools, {pool}, beside a {step}",
                seconds["sot"], seconds["independent"])  # fmt: skip
    extra = [a - b for a, b in zip(seconds["sot"], seconds["independent"], strict=True)]
    yield median("sOT within classes: seconds more per pool", extra, "s")
    yield median(f"sOT within classes: that over {K} real steps", [100 * s / (K * real) for s in extra], "%", 2.0)


def _beside(sizes: Sizes, real: float) -> Iterator[Row]:
    """How the trainer's steps slow down while one pool is solved without classes beside them."""
    points, fit, K = latents(sizes.pool * sizes.rows, CLASSES), _fit(sizes, Coupling(), small=True), sizes.pool
    noise = torch.randn(points.x.shape, generator=stream(0, "noise"))

    def steps(n: int) -> list[float]:
        return take_turns({"step": fit.step}, n, sizes.device, warm=0)["step"]

    def solve() -> None:
        solver.extend(take_turns({"": lambda: assign(noise, points.x)}, 1, "cpu", warm=0)[""])

    steps(2)
    solver: list[float] = []
    alone = steps(10)
    beside: list[float] = []
    thread = threading.Thread(target=solve)
    thread.start()
    while not beside or thread.is_alive():
        beside += steps(1)
    alone += steps(10)
    fit.close()
    slower = middle(beside) / middle(alone)
    extra = solver[0] * (1 - 1 / slower)
    yield Row(f"sOT without classes: one pool of {len(noise)} points, one core, beside the trainer", solver[0], "s")
    yield Row("sOT without classes: the trainer's step meanwhile over its step alone", slower, "x", len(beside))
    yield Row(f"sOT without classes: share of {K} real steps that solving takes", 100 * solver[0] / (K * real), "%")
    # The trainer waits for a solver that needs more than K steps.
    lost = 100 * max(extra, solver[0] - K * real) / (K * real)
    yield median(f"sOT without classes: seconds more over {K} real steps, waiting included", [lost], "%", 2.0)


def solvers(sizes: Sizes) -> Iterator[Row]:
    """Both solvers of ``assign``, one thread; for many points the one that is not chosen only where it is close."""
    threads, rule = torch.get_num_threads(), coupling.LOW_DIMENSION
    torch.set_num_threads(1)
    chosen = {"POT": 10**9, "SciPy": 0}  # the value of LOW_DIMENSION that selects each
    if importlib.util.find_spec("ot") is None:
        del chosen["POT"]
    try:
        for limit in chosen.values():
            coupling.LOW_DIMENSION = limit
            assign(torch.zeros(1, 1), torch.zeros(1, 1))  # imports the solver
        for n in sizes.solver_sizes:
            for dimension in (2, 4, 8, 64, 784, 4096):
                x0, x1 = torch.randn(n, dimension, generator=stream(0, "noise", n)), _points(n, dimension)
                for name, limit in chosen.items():
                    preferred = name == ("POT" if dimension <= rule else "SciPy")
                    if n > 1024 and (dimension == 4 or (not preferred and dimension != 8)):
                        continue
                    coupling.LOW_DIMENSION = limit
                    job = partial(assign, x0, x1)
                    seconds = take_turns({"": job}, 3 if n <= 1024 else 1, "cpu", warm=0)
                    yield median(f"{name}{' (chosen)' * preferred}, n = {n}, {dimension} dimensions", seconds[""], "s")
    finally:
        coupling.LOW_DIMENSION = rule
        torch.set_num_threads(threads)


def auctions(sizes: Sizes) -> Iterator[Row]:
    """The auction against the exact solver: seconds in turns, one CPU thread, and the share of the exact gain.

    On a GPU, from tensors on the CPU and back (as training does it), and the auction alone.
    """
    threads, largest = torch.get_num_threads(), max(sizes.solver_sizes)
    torch.set_num_threads(1)
    try:
        for n in (*sizes.solver_sizes, *((2 * largest,) if sizes.device == "cuda" else ())):
            for dimension in (2, 784, 4096):
                x0, x1 = torch.randn(n, dimension, generator=stream(0, "noise", n)), _points(n, dimension)
                solvers = {name: Auction(exact=0, device=name) for name in {"cpu", sizes.device}}
                jobs: dict[str, Callable[[], object]] = {"exact": partial(assign, x0, x1)}
                jobs |= {name: partial(solver, x0, x1) for name, solver in solvers.items()}
                if sizes.device == "cuda":
                    values = gains(x0.cuda(), x1.cuda())
                    jobs["cuda, alone"] = partial(auction, values, 0.1 * float(values.std()), 0.01)
                seconds = take_turns(jobs, 3 if n <= 1024 else 1, sizes.device, warm=int(n <= 1024))
                where = f"n = {n}, {dimension} dimensions"
                for name in jobs:
                    if name != "exact":
                        yield median(f"auction on {name}, {where}", seconds[name], "s")
                        yield ratio(
                            f"exact solver over the auction on {name}, {where}", seconds["exact"], seconds[name]
                        )
                best, found = (_gain(x0, x1, p) for p in (assign(x0, x1), solvers[sizes.device](x0, x1)))
                yield Row(f"share of the exact gain over random pairing, {where}", 100 * found / best, "%")
    finally:
        torch.set_num_threads(threads)


def _gain(x0: Tensor, x1: Tensor, p: Tensor) -> float:
    """What a permutation saves of half the squared distances, against random pairing."""
    return float(((x0 - x0.mean(0))[p] * (x1 - x1.mean(0))).double().sum())


def _points(n: int, dimension: int) -> Tensor:
    """Data of this dimension: eight Gaussians, corners of 1/f fields, Fashion-MNIST, or 1/f fields."""
    if dimension == 2:
        return sets.eight_gaussians(n, 0).x
    if dimension == 784:
        return fashion.fashion_mnist("train").x[:n].flatten(1)
    x = latents(n, CLASSES).x
    return x.flatten(1) if dimension == 4096 else x[:, 0, :8, :8].flatten(1)[:, :dimension].contiguous()
