"""Train and score many variants over seeds, side by side; after a kill the same command resumes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from ismkit.cli import UsageError

EXAMPLES = (
    "ismkit sweep ladder-laptop",
    "ismkit sweep fashion-laptop --recipe flow ism --seeds 3 --nfe 1 4 --w 0 1 -n 10000",
    "ismkit sweep gaussians -p recipe.fast 0.5 0.95 -p optim.lr 1e-3 2e-3",
    "ismkit sweep my_runs:moons --recipe ism my_methods:robust   # a Run and a Recipe of your own",
    "ismkit sweep my_runs:cats --judge my_judges:judge   # scored by a judge of your own",
    "ismkit sweep ladder --address 10.0.0.1:6379 --gpus 0.25 --out /shared/sweeps",
)


def names() -> dict[str, dict[str, str]]:
    """The prepared sweeps, the runs and the recipes."""
    from ismkit.cli import train
    from ismkit.sweeps.ladder import SWEEPS

    return {"prepared sweeps": {name: plan.about for name, plan in SWEEPS.items()}, **train.names()}


def command(
    name: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME ...")] = (),
    recipe: tuple[str, ...] = (),
    parameter: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]],
        tyro.conf.arg(aliases=("-p",), metavar="PATH VALUE ..."),
    ] = (),
    seeds: int | None = None,
    nfe: tuple[int, ...] = (),
    w: tuple[float, ...] = (),
    n: Annotated[int | None, tyro.conf.arg(aliases=("-n",))] = None,
    judge: str | None = None,
    workers: int | None = None,
    gpus: float = 0.0,
    address: str | None = None,
    out: Path | None = None,
    table: Path | None = None,
) -> int:
    """Run sweeps.

    Args:
        name: prepared sweeps or runs, or module:attribute of your own; several share their trainings.
        recipe: methods, or module:attribute of your own, with a run (default: ism; of your own run, its recipe).
        parameter: a setting by its path and the values to try, such as recipe.fast 0.5 0.95; repeatable, all
            combinations.
        seeds: seeds 0 .. K - 1 (default: its own; a run: 3).
        nfe: network evaluations per sample: 1, 2, 4 ... 128, or any number for recipes that train steps of any length
            (default: its own; a run: 1 4).
        w: guidance strengths (default: its own; a run: 0 1).
        n: samples per setting, as many as the judge can score (default: its own; a run: 1000).
        judge: module:attribute of your own, an object with score(net, setting), or a function that makes one for a
            device (default: its own; of points, clothes and emoji the kit's).
        workers: trials at one time (default: one per core).
        gpus: share of a GPU for each trial: 0.125 trains eight on one (default: 0, the CPU).
        address: of a Ray cluster, HOST:PORT (default: this machine alone).
        out: folder of results (default: out/sweeps); in a cluster a shared one.
        table: Parquet file of the table (default: NAME.parquet in that folder); one with other trials is not replaced.
    """
    from ismkit.sweeps.ladder import named_sweep
    from ismkit.sweeps.runner import run_sweeps
    from ismkit.utils.checks import check_count

    if workers is not None and check_count("workers", workers) > 1_000_000:
        raise UsageError(f"workers must be at most 1000000, got {workers}")
    if not 0 <= gpus < float("inf"):
        raise UsageError(f"gpus, the share of a GPU for each trial, must be at least 0, got {gpus}")
    if not name:
        raise UsageError("name one or more prepared sweeps or runs (more: ismkit sweep --help)")
    values = _values(parameter)
    protocol: dict[str, Any] = {"values": values, "seeds": seeds, "nfe": nfe, "w": w, "n": n}
    plans = [named_sweep(each, recipe, **protocol) for each in dict.fromkeys(name)]
    options: dict[str, Any] = {"workers": workers, "gpus": gpus, "address": address}
    swept = run_sweeps(plans, out, path=table, judge=judge, report=partial(print, flush=True), **options)
    print(f"{swept.text}\ntable: {swept.path}")
    return 0


def _values(parameter: tuple[tuple[str, ...], ...]) -> dict[str, list[str]]:
    """The values to try, by the path of their setting."""
    if any(len(values) < 2 for values in parameter):
        raise UsageError("each -p takes a path and one or more values")
    parameters = {path: values for path, *values in parameter}
    if len(parameters) < len(parameter):
        raise UsageError("each -p names another setting: give all values of one after it")
    return parameters
