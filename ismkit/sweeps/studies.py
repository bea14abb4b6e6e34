"""Studies: one run with one part changed, over seeds, and a JSON file of results that grows run by run.

The scripts are in ``book/studies/`` beside their results; notebooks read and plot these. JSON and Parquet files state
the sum of their contents; those of the CSV files are in ``SHA256SUMS``, which ``sha256sum *.csv > SHA256SUMS`` renews.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ismkit.training.runs import Run
from ismkit.utils.checks import as_integer, as_tuple, check_finite, check_kind, shown
from ismkit.utils.files import CHECKOUT, locked
from ismkit.utils.keys import identity_sum
from ismkit.utils.settings import describe
from ismkit.utils.store import Store

#: The studies of a checkout: scripts, and beside them their results.
FOLDER = CHECKOUT / "book" / "studies"
#: The form of the file of a study.
FORM = {"variants": dict, "results": [{"variant": str, "seed": int}]}


def run_study(
    path: str | os.PathLike[str],
    variants: Mapping[str, Run],
    seeds: Iterable[int],
    work: Callable[[Run, int], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Do what the file of a study does not hold yet, seed by seed, and write it after each run, atomically.

    Args:
        path: of the JSON file: ``variants`` (the settings of each, to be read), ``keys`` (a checksum of each),
            ``results`` (one entry per variant and seed).
        variants: the run of each, by name.
        seeds: each trains every variant with the same initial weights, data and noise, so that differences pair.
        work: trains a run with a seed and returns what it measured, anything JSON.

    Returns:
        All results in the file.

    Raises:
        TypeError: for an argument of another type.
        ValueError: if the file holds results of a variant of this name with other settings, settings cannot be told
            from others, or another study is at work in the folder.

    Example:
        A third seed is added; the first two are not done again:

        >>> import tempfile
        >>> from ismkit import RUNS
        >>> from ismkit.sweeps import run_study
        >>> def work(run, seed):
        ...     print(f"training {run.name} with seed {seed}")
        ...     return {"loss": 1.0 / (1 + seed)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for seeds in (range(2), range(3)):
        ...         results = run_study(f"{folder}/study.json", {"plain": RUNS["gaussians"]}, seeds, work)
        training gaussians with seed 0
        training gaussians with seed 1
        training gaussians with seed 2
        >>> [result["loss"] for result in results][:2]
        [1.0, 0.5]
    """
    check_kind("variants", variants, Mapping)
    for name, run in variants.items():
        check_kind(f"variants[{shown(name)}]", run, Run)
    if not callable(work):
        raise TypeError(f"work must be a function of a run and a seed, got {shown(work)}")
    seeds = [as_integer(seed) for seed in as_tuple("seeds", seeds)]  # the file holds Python's integers
    path = Path(path)
    with locked(path.parent, "study"):
        return _run_study(path, variants, list(dict.fromkeys(seeds)), work)


def _run_study(
    path: Path, variants: Mapping[str, Run], seeds: list[int], work: Callable[[Run, int], dict[str, Any]]
) -> list[dict[str, Any]]:
    """What :func:`run_study` does while no other one works in the folder."""
    store = _store(path.parent)
    found = store.read(path.name, FORM).value if path.name in store else {}
    held = {"variants": {}, "keys": {}, "results": []} | found
    keys = {name: identity_sum(run, name) for name, run in variants.items()}
    for name in keys.keys() & held["variants"].keys():
        if keys[name] != held["keys"].get(name):
            raise ValueError(f"{path} holds results of {name!r} with other settings: name another file")
    held["variants"] |= {name: describe(run) for name, run in variants.items()}
    held["keys"] |= keys
    done = {(result["variant"], result["seed"]) for result in held["results"]}
    for seed in seeds:
        for name, run in variants.items():
            if (name, seed) in done:
                continue
            began = time.process_time()
            measured = work(run, seed)
            held["results"].append(
                {
                    "variant": name,
                    "seed": seed,
                    "device": "cuda" if torch.cuda.is_available() else "cpu",
                    "torch": torch.__version__.partition("+")[0],
                    "python": platform.python_version(),
                    "cpu_seconds": round(time.process_time() - began),
                    **measured,
                }
            )
            store.write(path.name, held)
    return held["results"]


def read(name: str) -> list[dict[str, Any]]:
    """The results of the study ``name``, committed as ``book/studies/NAME.json``."""
    return _store(FOLDER).read(f"{name}.json", FORM).value["results"]


def _store(folder: Path) -> Store:
    return Store(folder, "ismkit study", remedy="restore it, or delete it to measure again")


def column(results: Iterable[Mapping[str, Any]], variant: str, key: str) -> Tensor:
    """What a variant measured under ``key``, by seed, (seeds,) float64.

    Raises:
        ValueError: if there is no result of that variant, or one lacks the key.
    """
    chosen = {result["seed"]: result for result in results if result["variant"] == variant}
    if not chosen:
        raise ValueError(f"no results of variant {variant!r}")
    if lacking := [seed for seed, result in chosen.items() if key not in result]:
        raise ValueError(f"key must be what {variant!r} measured, got {key!r}, which seed {lacking[0]} has not")
    by_seed = {seed: result[key] for seed, result in chosen.items()}
    return torch.tensor([by_seed[seed] for seed in sorted(by_seed)], dtype=torch.float64)


def mean_interval(values: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Compute the mean of some values, and half the width of Student's interval for it.

    Of paired differences: those whose interval leaves out 0 are resolved by these n seeds.

    Args:
        values: (n,), n >= 2.
        level: confidence of the interval, in (0, 1).

    Returns:
        The mean, and half the width, both in the unit of the values.

    Raises:
        TypeError: if the values are no floating point numbers.
        ValueError: for another shape, fewer than two values, some that are not finite, or a level outside (0, 1).

    Example:
        For three values the interval is 4.303 standard errors to each side:

        >>> import torch
        >>> from ismkit.sweeps import mean_interval
        >>> mean, half = mean_interval(torch.tensor([1.0, 2.0, 3.0]))
        >>> mean, round(half, 3)
        (2.0, 2.484)
    """
    check_finite("values", values)
    if not isinstance(level, float) or not 0 < level < 1:
        raise ValueError(f"level must be a number in (0, 1), got {shown(level)}")
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values must be (n,) with n >= 2, got {tuple(values.shape)}")
    from scipy.stats import t as student  # here: half a second that the workers of a sweep can do without

    half = student.ppf((1 + level) / 2, len(values) - 1) * values.double().std().item() / math.sqrt(len(values))
    return values.double().mean().item(), float(half)
