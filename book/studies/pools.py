"""Which noise a pool of many classes should get: none, class-agnostic OT, OT within classes, and class-grouped pools.

`python book/studies/pools.py tables` writes `pools.csv` beside it (some minutes of one CPU core): the gain of each
coupling, what it tells the noise about the class, and what grouping does to the classes of a batch. Two data sets: a
stand-in for ImageNet's latents, 1000 Gaussian classes in 4096 dimensions, and Fashion-MNIST's latents, cut into 640
classes of about 94. `python book/studies/pools.py train 1` writes `pools.json`: the run `fashion-laptop`, made smaller,
on the 640 classes, where a pool of 4096 holds 6 of each.
"""

import csv
import io
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ismkit.data.batches import Batches, ClassGroups
from ismkit.data.sets import Labelled
from ismkit.evaluation.judges import FashionJudge
from ismkit.method.auction import Auction
from ismkit.method.coupling import Coupling
from ismkit.models.nets import ToyMLP
from ismkit.models.spaces import fashion_latents
from ismkit.sweeps.studies import run_study
from ismkit.training.loop import fit
from ismkit.training.runs import RUNS, Run
from ismkit.utils.files import replacing
from ismkit.utils.seeding import stream

HERE = Path(__file__)
CACHE = HERE.parents[2] / "out" / "cache"
CLASSES, DIM, SHARE = 1000, 4096, 0.05  # of the stand-in; the share of its variance that is between classes: assumed
K, M = 32, 256  # of the tables; the training has M = 128


def cut(data: Labelled, times: int = 6) -> Labelled:
    """Every class cut in halves ``times`` times, each at the median of its first principal component."""
    y = torch.zeros(len(data), dtype=torch.long)

    def halve(rows: Tensor, name: int, left: int) -> None:
        if not left:
            y[rows] = name
            return
        x = data.x[rows].flatten(1).double()
        x = x - x.mean(0)
        values = x @ torch.linalg.eigh(x.T @ x)[1][:, -1]
        order = rows[values.argsort()]
        for side, half in enumerate(order.tensor_split(2)):
            halve(half, 2 * name + side, left - 1)

    for c in range(data.num_classes):
        halve((data.y == c).nonzero().flatten(), c, times)
    classes = data.num_classes * 2**times
    return Labelled(data.x, y, classes, tuple(str(c) for c in range(classes)))


def stand_in() -> tuple[Callable[[Tensor, int], Tensor], Tensor]:
    """Draws x (n, 4096) of given classes, number ``k``; and the classes of 1.28 million rows.

    In the basis of the covariance's eigenvectors, which leaves noise and distances as they are: power falls as 1/k^2
    over two-dimensional frequencies, 4 channels of 32 x 32, within the classes and for their means.
    """
    side = torch.fft.fftfreq(32) * 32
    power = 1 / (side[:, None] ** 2 + side[None] ** 2).clamp(min=1)
    std = (power / power.mean()).sqrt().flatten().repeat(4)
    means = SHARE**0.5 * std * torch.randn(CLASSES, DIM, generator=stream(0, "means"))

    def draw(y: Tensor, k: int) -> Tensor:
        return means[y] + (1 - SHARE) ** 0.5 * std * torch.randn(len(y), DIM, generator=stream(0, "rows", k))

    return draw, torch.arange(CLASSES).repeat_interleave(1280)


class Leak:
    """``E |E[x0 | class]|^2`` without the bias of few rows: the mean product of two different rows of a class."""

    def __init__(self, classes: int, dim: int) -> None:
        self.sum, self.squares = torch.zeros(classes, dim), torch.zeros(classes)
        self.count = torch.zeros(classes)

    def add(self, x0: Tensor, y: Tensor) -> None:
        """Take in coupled rows x0 (n, dim) of classes y (n,)."""
        self.sum.index_add_(0, y, x0)
        self.squares.index_add_(0, y, x0.square().sum(1))
        self.count += y.bincount(minlength=len(self.count))

    def value(self) -> float:
        """The mean over the classes, each pair of rows weighing the same; about 0, of either sign, where none leaks."""
        pairs = self.count * (self.count - 1)
        return float((self.sum.square().sum(1) - self.squares).double().sum() / pairs.double().sum())


def tables() -> Iterator[dict[str, Any]]:
    """One row for each data set and coupling."""
    draw, y = stand_in()
    clothes = cut(fashion_latents(CACHE))
    flat = clothes.x.flatten(1)
    for name, labels, dim, values, pools in (
        ("1000 Gaussians", y, DIM, lambda rows, k: draw(y[rows], k), 2),
        ("Fashion-MNIST, 640 classes", clothes.y, 256, lambda rows, k: flat[rows], 4),
    ):
        for what, coupling, groups in (
            ("independent", Coupling(), None),
            ("class-agnostic", Coupling(K, class_aware=False, solver=Auction()), None),
            ("within classes", Coupling(K, solver=Auction()), None),
            ("within classes, K = 128", Coupling(4 * K, solver=Auction()), None),
            ("grouped, 128 classes, within", Coupling(K, solver=Auction()), ClassGroups(K, 128)),
            ("grouped, 32 classes, within", Coupling(K, solver=Auction()), ClassGroups(K, 32)),
            ("grouped, 8 classes, within", Coupling(K, solver=Auction()), ClassGroups(K, 8)),
            ("grouped, 32 classes, agnostic", Coupling(K, class_aware=False, solver=Auction()), ClassGroups(K, 32)),
        ):
            row = measure(labels, dim, values, pools if coupling.pool <= K else 1, coupling, groups)
            yield {"data": name, "coupling": what, **row}


def measure(
    y: Tensor,
    dim: int,
    values: Callable[[Tensor, int], Tensor],
    pools: int,
    coupling: Coupling,
    groups: ClassGroups | None,
) -> dict[str, Any]:
    """Statistics over ``pools`` pools of one stream."""
    batches = Batches(Labelled(torch.zeros(len(y), 1), y, int(y.max()) + 1, ("",) * (int(y.max()) + 1)), M, 0,
                      groups=groups)  # fmt: skip
    indices, size = batches._indices(0, 0, 1), coupling.pool or K
    leak, before, after, seconds = Leak(batches.data.num_classes, dim), 0.0, 0.0, 0.0  # type: ignore[attr-defined]
    in_batch, in_pool, drift = [], [], []
    for k in range(pools):
        chosen = [next(indices) for _ in range(size)]
        in_batch += [len(y[rows].unique()) for rows in chosen]
        rows = torch.cat(chosen)
        x1, labels = values(rows, k), y[rows]
        in_pool.append(len(labels.unique()))
        x0 = torch.randn(x1.shape, generator=stream(0, "noise", k))
        began = time.thread_time()
        coupled = coupling.couple(x0, x1, labels)
        seconds += time.thread_time() - began
        before += float((x0 - x1).double().square().sum())
        after += float((coupled - x1).double().square().sum())
        leak.add(coupled, labels)
        # Of a batch's mean from the mean of all, over what independent rows would give: 1.
        drift += [
            float(part.mean(0).square().sum() * M / part.var(0).sum()) for part in (x1 - x1_mean(values, y)).split(M)
        ]
    squared = leak.value()
    return {
        "dimensions": dim,
        "rows per class and pool": round(size * M / (sum(in_pool) / pools), 1),
        "classes per batch of 256": round(sum(in_batch) / len(in_batch), 1),
        "cost saved %": round(100 * (1 - after / before), 2),
        "|E[x0|c]|": round(max(squared, 0.0) ** 0.5, 3),
        "nats by the shift of means": round(max(squared, 0.0) / 2, 3),
        "variance of a batch's mean over independent rows": round(sum(drift) / len(drift), 2),
        "CPU seconds per pool": round(seconds / pools, 2),
        "pools": pools,
    }


_MEANS: dict[int, Tensor] = {}


def x1_mean(values: Callable[[Tensor, int], Tensor], y: Tensor) -> Tensor:
    """The mean of the data, from 8192 rows."""
    if len(y) not in _MEANS:
        _MEANS[len(y)] = values(torch.randperm(len(y), generator=stream(0, "mean"))[: K * M], -1).mean(0)
    return _MEANS[len(y)]


LAPTOP = RUNS["fashion-laptop"]
BASE = replace(
    LAPTOP, net=partial(ToyMLP, dim=256, width=256, depth=1), steps=1000, batch_size=128,
    optim=replace(LAPTOP.optim, lr=2e-3),
)  # fmt: skip
#: The coupling of each variant, and its groups: about 45 classes of 92 rows in a pool of 4096.
VARIANTS: dict[str, tuple[Coupling, ClassGroups | None]] = {
    "independent": (Coupling(), None),
    "class-agnostic": (Coupling(K, class_aware=False, solver=Auction()), None),
    "within classes": (Coupling(K, solver=Auction()), None),
    "independent, grouped": (Coupling(), ClassGroups(K, 48)),
    "within classes, grouped": (Coupling(K, solver=Auction()), ClassGroups(K, 48)),
}


def train(seeds: range) -> None:
    """Train and score what the file does not hold yet."""
    data, judge = cut(fashion_latents(CACHE)), FashionJudge.load()

    def work(run: Run, seed: int) -> dict[str, Any]:
        groups = VARIANTS[run.recipe.name][1]
        state = fit(
            run.recipe,
            run.build(data.num_classes, seed),
            Batches(data, run.batch_size, seed, groups=groups),
            steps=run.steps,
            optim=run.optim,
            seed=seed,
            progress=False,
        )
        measured: dict[str, Any] = {"groups": groups and groups.classes, "loss": sum(state.losses[-100:]) / 100}
        y = torch.arange(1280) % data.num_classes
        for nfe in (1, 4):
            for w in (0.0, 1.0):
                images = judge.draw(state.ema.slow, y, w=w, nfe=nfe, seed=seed)
                measured |= {
                    f"{key}, {nfe} NFE, w = {w:g}": v for key, v in judge.score_images(images, y // 64).items()
                }
        print(seed, run.recipe.name, measured, flush=True)
        return measured

    runs = {
        name: replace(BASE, recipe=replace(BASE.recipe, name=name, coupling=coupling))
        for name, (coupling, _) in VARIANTS.items()
    }
    run_study(HERE.with_suffix(".json"), runs, seeds, work)


def main() -> None:
    """``tables``, or ``train SEEDS``."""
    if sys.argv[1:] == ["tables"]:
        rows = []
        for row in tables():
            print(row, flush=True)
            rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with replacing(HERE.with_suffix(".csv")) as file:
            file.write(text.getvalue().encode())
    else:
        train(range(int(sys.argv[2])))


if __name__ == "__main__":
    main()
