"""Sweeps: which runs are trained with which seeds, how they are scored, and the tidy table of what came out.

A *trial* is one run with one seed; :mod:`ismkit.sweeps.runner` does trials side by side.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ismkit.evaluation.judges import Setting
from ismkit.method.recipes import velocity_target
from ismkit.sweeps.studies import mean_interval
from ismkit.training.runs import Run, change_run
from ismkit.utils.files import json_sum, replacing
from ismkit.utils.settings import describe, get

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Trial:
    """One run with one seed, to be scored.

    Attributes:
        variant: its name in the table.
        run: what is trained.
        seed: of weights, data order and noise; trials with equal seeds pair.
        settings: the protocol: what is measured of the trained network.
        labels: more columns of the table, such as the value of a swept parameter.
    """

    variant: str
    run: Run
    seed: int
    settings: tuple[Setting, ...]
    labels: tuple[tuple[str, Any], ...] = ()

    @property
    def key(self) -> str:
        """Checksum of what is trained (run and seed), 12 hexadecimal digits."""
        recipe = dataclasses.replace(self.run.recipe, name="")
        settings = dataclasses.replace(self.run, name="", about="", recipe=recipe)  # what it is called changes nothing
        return json_sum([describe(settings), self.seed])[:12]

    @property
    def cost(self) -> float:
        """Roughly how many rows pass through the network: the unit of the progress bar."""
        return 4 * self.run.steps * self.run.batch_size + sum(setting.cost for setting in self.settings)


@dataclass(frozen=True)
class Sweep:
    """Runs, seeds and a protocol.

    Attributes:
        name: as on the command line.
        about: one line for the list of sweeps.
        runs: by variant.
        seeds: each trains every variant with the same weights, data and noise.
        settings: the protocol.
        labels: more columns of the table, by variant.
    """

    name: str
    about: str
    runs: Mapping[str, Run]
    seeds: tuple[int, ...]
    settings: tuple[Setting, ...]
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def trials(self) -> list[Trial]:
        """All of them, seed by seed; the name of the sweep is a label of each."""
        return [
            Trial(variant, run, seed, self.settings, (("sweep", self.name), *self.labels.get(variant, {}).items()))
            for seed, (variant, run) in product(self.seeds, self.runs.items())
        ]

    def vary(self, parameters: Mapping[str, Sequence[Any]]) -> Sweep:
        """Every run with every combination of the values given by path; the paths become columns.

        See :func:`ismkit.training.runs.change_run`: a text is read as the type of the setting.
        """
        for path, given in parameters.items():
            if not len(given):
                raise ValueError(f"parameter {path!r} needs one value or more, got none")
        runs, labels = {}, {}
        for (variant, run), chosen in product(self.runs.items(), product(*parameters.values())):
            values = dict(zip(parameters, chosen, strict=True))
            for path, value in values.items():
                run = change_run(run, path, value)
                if isinstance(value, str) and path != "recipe":
                    values[path] = get(run, path)  # the value that the text was read as
            name = ", ".join([variant, *(f"{path.rpartition('.')[2]}={value}" for path, value in values.items())])
            runs[name], labels[name] = run, {**self.labels.get(variant, {}), **values}
        return dataclasses.replace(self, runs=runs, labels=labels)


def settings(nfe: Iterable[int], w: Iterable[float], n: int) -> tuple[Setting, ...]:
    """Every NFE with every strength."""
    return tuple(Setting(evaluations, float(strength), n) for evaluations, strength in product(nfe, list(w)))


def table(trials: Iterable[Trial], folder: str | os.PathLike[str]) -> pd.DataFrame:
    """The rows of what is done, one per trial and setting; those of ``trials`` only.

    Columns: variant, recipe, the labels, seed; nfe, calls of the network, w, n, noise (its seed); the scores; where
    each was taken (scored_device, scored_torch, scored_python); the training (steps, seconds_per_step, device, torch,
    python); key.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for trial in trials:
        path = Path(folder) / "trials" / f"{trial.key}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        held = {Setting(*entry["setting"]): {**entry["scores"], **entry["scored"]} for entry in result["settings"]}
        who = {"variant": trial.variant, "recipe": trial.run.recipe.name, **dict(trial.labels), "seed": trial.seed}
        calls = 2 if trial.run.recipe.target is velocity_target else 1
        for setting in trial.settings:
            if setting in held:
                what = {
                    "nfe": setting.nfe,
                    "calls": calls * setting.nfe,
                    "w": setting.w,
                    "n": setting.n,
                    "noise": setting.seed,
                }
                rows.append({**who, **what, **held[setting], **result["trained"], "key": trial.key})
    return pd.DataFrame(rows)


def write_table(frame: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write a table as Parquet, atomically."""
    with replacing(path) as file:
        frame.to_parquet(file, index=False)
    return Path(path)


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """A table of :func:`write_table`."""
    import pandas as pd

    return pd.read_parquet(path)


def summary(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean and standard deviation of a metric over the seeds, as text: variants by (NFE, w), in the table's order."""
    grouped = frame.groupby(["variant", "nfe", "w"], sort=False)[metric]
    text = grouped.agg(lambda values: f"{values.mean():.3g}" + (f" ± {values.std():.2g}" if len(values) > 1 else ""))
    return text.unstack(["nfe", "w"])


def paired(frame: pd.DataFrame, variants: Sequence[str], metric: str, **where: Any) -> pd.DataFrame:
    """A metric by seed: one row per seed, one column for each of the variants, in the setting ``where`` (nfe, w, n).

    Raises:
        ValueError: unless every variant has exactly one value per seed there, with the same seeds.
    """
    chosen = frame[frame.variant.isin(variants)]
    for column, value in where.items():
        chosen = chosen[chosen[column] == value]
    if chosen.duplicated(["variant", "seed"]).any():
        raise ValueError(f"several values per variant and seed where {where}: name more columns")
    wide = chosen.pivot(index="seed", columns="variant", values=metric).reindex(columns=list(variants))
    if wide.empty or wide.isna().any(axis=None):
        raise ValueError(f"{metric} of {', '.join(variants)} is not there for every seed where {where}")
    return wide


def change_in_percent(
    frame: pd.DataFrame, variant: str, reference: str, metric: str, **where: Any
) -> tuple[float, float]:
    """By how many percent a metric changes from ``reference`` to ``variant``: mean over seeds, and half its interval.

    The changes are paired by seed; the interval is Student's at 95 % (:func:`ismkit.sweeps.studies.mean_interval`).
    """
    wide = paired(frame, [variant, reference], metric, **where)
    return mean_interval(torch.tensor((100 * (wide[variant] / wide[reference] - 1)).to_numpy()))


def at_best(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of each variant and NFE at the guidance strength where the mean of the metric over the seeds is lowest.

    What a paper reports as its figure. The strength is chosen on the data that it is shown for, for all variants alike.
    """
    mean = frame.groupby(["variant", "nfe", "w"])[metric].mean()
    best = mean.groupby(["variant", "nfe"]).idxmin()
    return frame[frame.set_index(["variant", "nfe", "w"]).index.isin(best)]
