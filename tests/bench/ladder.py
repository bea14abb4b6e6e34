"""The ladder of notebook 08 at the scale of the released models: what each fix costs, and how fast one step draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from statistics import median as middle

import torch
from torch import Tensor, nn

from ismkit.data.batches import Batches
from ismkit.data.fashion import CLOTHES
from ismkit.data.sets import Labelled
from ismkit.evaluation.judges import FashionJudge
from ismkit.method.coupling import Coupling
from ismkit.method.sampling import sample
from ismkit.models.spaces import SHAPE
from ismkit.sweeps.ladder import LADDER
from ismkit.training.runs import RUNS
from ismkit.utils.seeding import stream
from tests.bench.common import RestingFit, Row, Sizes, fresh_accelerator, median, ratio, take_turns

RUN = RUNS["fashion"]
STEPS = 20  # per turn, so that each has one of fit's looks at the losses
BATCH = 500  # rows of one network call when sampling


def run(sizes: Sizes) -> Iterator[Row]:
    """One thread for torch, as each trial of a sweep has; ``sizes.rows`` is the batch and ``sizes.pool`` is K."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = _latents(sizes.pool * sizes.rows)
        seconds = _steps(sizes, data)
        how = f"batch {sizes.rows}, one thread"
        parameters = sum(p.numel() for p in RUN.build(data.num_classes).parameters()) / 1e6
        yield Row("parameters of the network of the released models", parameters, "million")
        yield median(f"flow: step, {how}", seconds["flow"], "s")
        for name in list(seconds)[1:]:
            yield ratio(f"{name}: step over flow's, independent noise", seconds[name], seconds["flow"])
        for before, name in list(pairwise(seconds))[1:]:
            yield ratio(f"{name}: step over that of {before}", seconds[name], seconds[before])
        yield from _coupling(sizes, data, middle(seconds["+wavelet"]))
        yield from _sampling(sizes)
    finally:
        torch.set_num_threads(threads)


def _latents(n: int) -> Labelled:
    """Gaussian stand-ins for latents of clothes, (n, 4, 8, 8) of unit variance; half of it lies between the classes."""
    rng = stream(0, "latents")
    y = torch.randint(len(CLOTHES), (n,), generator=rng)
    means = torch.randn(len(CLOTHES), *SHAPE, generator=rng)
    x = (means[y] + torch.randn(n, *SHAPE, generator=rng)) / 2**0.5
    return Labelled(x, y, len(CLOTHES), CLOTHES)


def _steps(sizes: Sizes, data: Labelled) -> dict[str, list[float]]:
    """Seconds per step of ``fit`` in turns, by recipe; sOT changes no step but what is done beside it."""
    batches, accelerator = Batches(data, sizes.rows, 0), fresh_accelerator(sizes, sizes.precisions[0])
    recipes = [replace(RUN.adapt(recipe), coupling=Coupling()) for recipe in LADDER if "sot" not in recipe.name]
    fits = {
        recipe.name: RestingFit(sizes, recipe, RUN.build(data.num_classes), batches, accelerator) for recipe in recipes
    }

    def turn(fit: RestingFit) -> None:
        for _ in range(STEPS):
            fit.step()

    seconds = take_turns({name: partial(turn, fit) for name, fit in fits.items()}, sizes.rounds, sizes.device)
    for fit in fits.values():
        fit.close()
    return {name: [s / STEPS for s in values] for name, values in seconds.items()}


def _coupling(sizes: Sizes, data: Labelled, step: float) -> Iterator[Row]:
    """The solver of sOT alone; ``fit`` runs it in a thread of its own, on a second core where there is one."""
    noise = torch.randn(data.x.shape, generator=stream(0, "noise"))
    kinds = {
        recipe.name: replace(recipe.coupling, pool=min(recipe.coupling.pool, sizes.pool))
        for recipe in LADDER
        if "sot" in recipe.name
    }

    def pool(kind: Coupling) -> Callable[[], Tensor]:
        n = kind.pool * sizes.rows
        return lambda: kind.couple(noise[:n], data.x[:n], data.y[:n])

    seconds = take_turns({name: pool(kind) for name, kind in kinds.items()}, 3, "cpu")
    for name, kind in kinds.items():
        what = f"{name}: solver, {'within' if kind.class_aware else 'across'} classes, K = {kind.pool}"
        per_step = [s / kind.pool for s in seconds[name]]
        yield median(f"{what}, {kind.pool * sizes.rows} points: per step, one core", per_step, "s")
        yield median(f"{what}: that over a step of +wavelet", [s / step for s in per_step], "x")


def _sampling(sizes: Sizes) -> Iterator[Row]:
    """Guided samples in one step, as latents, and decoded by the released autoencoder."""
    n = min(10_000, 40 * sizes.rows)
    net: nn.Module = RUN.build(len(CLOTHES)).to(sizes.device).eval().requires_grad_(False)
    judge = FashionJudge.load(sizes.device)
    x0 = torch.randn(n, *SHAPE, generator=stream(0, "samples")).to(sizes.device)
    y = (torch.arange(n) % len(CLOTHES)).to(sizes.device)

    def latents() -> None:
        for x, labels in zip(x0.split(BATCH), y.split(BATCH), strict=True):
            sample(net, x, labels, w=1.0, nfe=1)

    jobs = {"latents": latents, "images": lambda: judge.draw(net, y, w=1.0, nfe=1, batch=BATCH)}
    seconds = take_turns(jobs, max(2, sizes.rounds // 2), sizes.device)
    for what, values in seconds.items():
        yield median(f"{n} samples at 1 NFE as {what}, batches of {BATCH}", values, "s")
        yield median(f"samples per second at 1 NFE as {what}", [n / s for s in values], "per s")
