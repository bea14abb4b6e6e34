"""Sweeps: which runs are trained with which seeds, how they are scored, and the tidy table of what came out.

A *trial* is one run with one seed; :mod:`ismkit.sweeps.runner` does trials side by side.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ismkit.evaluation.judges import GivenJudge, Setting, named_judge
from ismkit.method.recipes import velocity_target
from ismkit.sweeps.studies import mean_interval
from ismkit.training.runs import Run, change_run
from ismkit.utils.checks import as_integer, as_tuple, check_kind, shown
from ismkit.utils.files import DataError, bytes_sum, json_sum, replacing
from ismkit.utils.keys import add_cells, cells, identity
from ismkit.utils.settings import get, plain
from ismkit.utils.store import Store
from ismkit.utils.weights import SUM

if TYPE_CHECKING:
    import pandas as pd


#: Columns of :func:`table` beside labels and scores.
COLUMNS = (
    *("variant", "recipe", "seed", "nfe", "calls", "w", "n", "noise"),
    *("scored_device", "scored_torch", "scored_python"),
    *("steps", "seconds_per_step", "device", "torch", "python", "key"),
)
#: Columns that tell the rows of one trial apart, and the sweeps of one table.
PROTOCOL = ("sweep", "nfe", "w", "n", "noise")
#: The form of a trial's file.
_RESULT = {"settings": [{"setting": [float], "scores": dict, "scored": dict}], "trained": dict}


@dataclass(frozen=True)
class Trial:
    """One run with one seed, to be scored.

    Attributes:
        variant: its name in the table.
        run: what is trained.
        seed: of weights, data order and noise; trials with equal seeds pair.
        settings: the protocol: what is measured of the trained network.
        labels: more columns of the table, such as the value of a swept parameter; ValueError for a name that the table
            has already.
        judge: what scores it, as for :func:`ismkit.evaluation.scoring.evaluate`; by default points and clothes are
            scored by the kit's own.

    Raises:
        TypeError: for settings that are none.
        ValueError: for a seed that is none, or what is no judge.

    Example:
        What is trained has a key, whatever it is called; another seed is another training:

        >>> from dataclasses import replace
        >>> from ismkit import SWEEPS
        >>> trial = SWEEPS["ladder-smoke"].trials()[0]
        >>> trial.variant, trial.seed, trial.settings[0]
        ('flow', 0, Setting(nfe=1, w=1.0, n=100, seed=0))
        >>> replace(trial, variant="baseline").key == trial.key, replace(trial, seed=1).key == trial.key
        (True, False)

        What it has come to is in the folder of the sweep, in a file that belongs to this training alone:

        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     before, store = trial.result(Path(folder)), trial.results(Path(folder))
        ...     _ = store.write(trial.result_name, {"settings": [], "trained": {"steps": 5}})
        ...     print(before, trial.result(Path(folder)))
        None {'settings': [], 'trained': {'steps': 5}}
    """

    variant: str
    run: Run
    seed: int
    settings: tuple[Setting, ...]
    labels: tuple[tuple[str, Any], ...] = ()
    judge: GivenJudge | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", as_integer(self.seed))
        # Results are JSON, which has Python's numbers alone.
        asked = as_tuple("settings", self.settings, Setting)
        object.__setattr__(self, "settings", tuple(Setting(*map(plain, setting)) for setting in asked))
        # A label of such a name would be lost in the table; those of a swept recipe or of steps say the same there.
        if taken := [name for name, _ in self.labels if name in COLUMNS and name not in ("recipe", "steps")]:
            raise ValueError(f"labels must have names that are no columns of the table, got {taken[0]!r}")
        if self.judge is not None:
            object.__setattr__(self, "judge", named_judge(self.judge))

    @property
    def identity(self) -> dict[str, str]:
        """What is trained, the run and the seed, as text; ValueError for settings that cannot be told from others."""
        return identity({"run": self.run, "seed": self.seed})

    @property
    def key(self) -> str:
        """Checksum of what is trained, 12 hexadecimal digits."""
        return json_sum(self.identity)[:12]

    @property
    def judged_by(self) -> dict[str, str]:
        """The judge as text, nothing for the kit's own; ValueError for one that cannot be told from others."""
        return {} if self.judge is None else identity(self.judge, "judge")

    @property
    def result_name(self) -> str:
        """The file of its results, ``KEY.json``; with your own judge ``KEY-JUDGE.json``."""
        judge = self.judged_by
        return f"{self.key}-{json_sum(judge)[:8]}.json" if judge else f"{self.key}.json"

    def results(self, folder: Path) -> Store:
        """Where its results are kept in the folder of a sweep, as :attr:`result_name`: those of this judge alone."""
        remedy = "delete it, and the same command does the trial again"
        return Store(folder / "trials", self.identity | self.judged_by, remedy=remedy)

    def result(self, folder: Path) -> dict[str, Any] | None:
        """What is written of it in the folder of a sweep, None if it was not begun; DataError for no such file."""
        store, name = self.results(folder), self.result_name
        if name not in store:
            return None
        found = store.read(name, _RESULT).value
        for entry in found["settings"]:
            if len(entry["setting"]) != len(Setting._fields):
                raise store.error(f"{store.path(name)} holds the setting {entry['setting']}: {store.remedy}")
        return found

    def __getstate__(self) -> dict[str, Any]:
        self.result_name  # noqa: B018 - what run and judge need of a notebook's cells is read here, and goes along
        return {**self.__dict__, "_cells": cells()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        add_cells(state.pop("_cells"))
        self.__dict__.update(state)

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
        judge: what scores all trials, as for :func:`ismkit.evaluation.scoring.evaluate`: needed for data that are
            neither points nor clothes nor emoji. Judges have keys by :func:`ismkit.utils.keys.identity`, so that an
            edited one scores again.

    Example:
        The method at three pools and two seeds:

        >>> from ismkit import RUNS, Setting, Sweep
        >>> sweep = Sweep("pools", "scaling OT", {"ism": RUNS["gaussians"]}, (0, 1), (Setting(1, 0.0, 1000),))
        >>> varied = sweep.vary({"recipe.coupling.pool": [0, 1, 8]})
        >>> list(varied.runs)
        ['ism, pool=0', 'ism, pool=1', 'ism, pool=8']
        >>> len(varied.trials()), varied.trials()[2].labels
        (6, (('sweep', 'pools'), ('recipe.coupling.pool', 8)))
    """

    name: str
    about: str
    runs: Mapping[str, Run]
    seeds: tuple[int, ...]
    settings: tuple[Setting, ...]
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    judge: GivenJudge | None = None

    def trials(self) -> list[Trial]:
        """List all trials, seed by seed; the name of the sweep is a label of each."""
        labels = {name: (("sweep", self.name), *self.labels.get(name, {}).items()) for name in self.runs}
        return [
            Trial(variant, run, seed, self.settings, labels[variant], self.judge)
            for seed, (variant, run) in product(self.seeds, self.runs.items())
        ]

    def vary(self, parameters: Mapping[str, Sequence[Any]]) -> Sweep:
        """Change every run to every combination of some values; the paths become columns of the table.

        Args:
            parameters: values by path, see :func:`ismkit.training.runs.change_run`: a text is read as the
                type of the setting.

        Returns:
            The sweep of all combinations.

        Raises:
            ValueError: for a path without values or of no setting, a value that is refused, or two of one name.
        """
        for path, given in parameters.items():
            if isinstance(given, str) or not hasattr(given, "__len__"):
                raise ValueError(f"parameter {path!r} needs a list of values, got {shown(given)}")
            if not len(given):
                raise ValueError(f"parameter {path!r} needs one value or more, got none")
        runs: dict[str, Run] = {}
        labels = {}
        for (variant, run), chosen in product(self.runs.items(), product(*parameters.values())):
            values = dict(zip(parameters, chosen, strict=True))
            for path, value in values.items():
                run = change_run(run, path, value)
                read = get(run, path) if isinstance(value, str) and path != "recipe" else value
                values[path] = _label(read)
            name = ", ".join([variant, *(f"{path.rpartition('.')[2]}={value}" for path, value in values.items())])
            if name in runs and runs[name] != run:
                raise ValueError(f"parameters must have values of different names, got two {name!r}")
            runs[name], labels[name] = run, {**self.labels.get(variant, {}), **values}
        return dataclasses.replace(self, runs=runs, labels=labels)


def _label(value: Any) -> Any:
    """A value as a table can hold it: functions by their names, dataclasses as they print."""
    if callable(value) or dataclasses.is_dataclass(value):
        return getattr(value, "__qualname__", str(value))
    return value


def settings(nfe: Iterable[int], w: Iterable[float], n: int) -> tuple[Setting, ...]:
    """Every NFE with every strength."""
    return tuple(Setting(evaluations, float(strength), n) for evaluations, strength in product(nfe, list(w)))


def table(trials: Iterable[Trial], folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Collect the rows of what is done, one per trial and setting.

    Args:
        trials: those wanted; what else is in the folder is left out.
        folder: of the sweep, with one file in ``trials`` for each trial and judge that was begun.

    Returns:
        A pandas table. Columns: variant, recipe, the labels, seed; nfe, calls of the network, w, n, noise (its seed);
        the scores; where each was taken (scored_device, scored_torch, scored_python); the training (steps,
        seconds_per_step, device, torch, python); key.

    Example:
        One trial of which one setting is scored, and one that has not been begun:

        >>> import tempfile
        >>> from pathlib import Path
        >>> from ismkit import SWEEPS
        >>> from ismkit.sweeps import table
        >>> trials = SWEEPS["ladder-smoke"].trials()[:2]
        >>> scored = {"setting": trials[0].settings[0], "scores": {"frechet": 2.5}, "scored": {"scored_device": "cpu"}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = trials[0].results(Path(folder))
        ...     _ = store.write(f"{trials[0].key}.json", {"settings": [scored], "trained": {"steps": 5}})
        ...     frame = table(trials, folder)
        >>> print(frame[["variant", "seed", "nfe", "w", "frechet", "steps"]].to_string(index=False))
        variant  seed  nfe   w  frechet  steps
           flow     0    1 1.0      2.5      5
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for trial in trials:
        if (result := trial.result(Path(folder))) is None:
            continue
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
    """Write a table as Parquet, atomically.

    Args:
        frame: a pandas table.
        path: of the file.

    Returns:
        The path.

    Raises:
        ValueError: unless it ends in ``.parquet``.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> import pandas as pd
        >>> from ismkit.sweeps import read_table, write_table
        >>> frame = pd.DataFrame({"variant": ["flow", "ism"], "frechet": [5.1, 2.2]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     read_table(write_table(frame, f"{folder}/scores.parquet")).equals(frame)
        True
    """
    import pandas as pd

    check_kind("frame", frame, pd.DataFrame)
    check_name(path)
    written = io.BytesIO()
    frame.to_parquet(written, index=False)
    stated = frame.copy(deep=False)
    stated.attrs = {SUM: _table_sum(pd.read_parquet(written))}  # as it comes back
    with replacing(path) as file:
        stated.to_parquet(file, index=False)
    return Path(path)


def check_name(path: str | os.PathLike[str]) -> None:
    """Refuse a name that says something else than what :func:`write_table` writes.

    Args:
        path: of the file.

    Raises:
        ValueError: unless it ends in ``.parquet``.

    Example:
        >>> from ismkit.sweeps.sweep import check_name
        >>> check_name("scores.csv")
        Traceback (most recent call last):
        ValueError: table must be a Parquet file, NAME.parquet, got scores.csv
    """
    if Path(path).suffix.lower() != ".parquet":
        raise ValueError(f"table must be a Parquet file, NAME.parquet, got {path}")


def check_replaced(path: str | os.PathLike[str], trials: Iterable[Trial]) -> None:
    """Refuse to replace a table by one that lacks some of its rows: for callers that train first.

    A row is a training in a setting, whatever it is called, so that a larger protocol may replace a smaller one.

    Args:
        path: of the file, which may be missing.
        trials: of which the new table will be.

    Raises:
        ValueError: for a table of other trainings or settings, or a file that is no table of a sweep.

    Example:
        >>> import tempfile
        >>> import pandas as pd
        >>> from ismkit import SWEEPS
        >>> from ismkit.sweeps import write_table
        >>> from ismkit.sweeps.sweep import check_replaced
        >>> trials = SWEEPS["ladder-smoke"].trials()
        >>> rows = [{"key": trials[0].key, **setting._asdict()} for setting in trials[0].settings]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_table(pd.DataFrame(rows).rename(columns={"seed": "noise"}), f"{folder}/t.parquet")
        ...     check_replaced(path, trials)
        ...     check_replaced(path, trials[1:])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: table .../t.parquet has 2 rows that this sweep does not make, such as nfe 1, w 1.0, n 100: ...
    """
    if not Path(path).exists():
        return
    remedy = "name another file (--table), or delete this one; what is trained and scored stays in its folder"
    columns = ["key", "nfe", "w", "n", "noise"]
    try:
        frame = read_table(path)
    except DataError as error:
        raise ValueError(f"{error}; to make another table, {remedy}") from error
    if lacking := [name for name in columns if name not in frame]:
        raise ValueError(f"table {path} is not of a sweep, it has no column {lacking[0]}: {remedy}")
    made = {(key, *setting) for trial in trials for key in [trial.key] for setting in trial.settings}
    lost = frame[[row not in made for row in frame[columns].itertuples(index=False, name=None)]]
    if len(lost):
        first = lost.iloc[0]
        what = ", ".join(f"{name} {first[name]}" for name in ("variant", "seed", "nfe", "w", "n") if name in frame)
        raise ValueError(f"table {path} has {len(lost)} rows that this sweep does not make, such as {what}: {remedy}")


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table that :func:`write_table` wrote.

    Args:
        path: of the file.

    Returns:
        The pandas table.

    Raises:
        OSError: if the file is missing or cannot be opened.
        DataError: if it is no Parquet file, truncated or altered.

    Example:
        The table behind notebook 08 is committed beside the studies:

        >>> from ismkit.sweeps import FOLDER, read_table
        >>> frame = read_table(FOLDER / "ladder.parquet")
        >>> ladder = frame[(frame["sweep"] == "ladder") & (frame.nfe == 1) & (frame.w == 1) & (frame.n == 1000)]
        >>> ladder.variant.nunique(), ladder.seed.nunique(), len(ladder)
        (10, 3, 30)
    """
    import pandas as pd

    try:
        with open(path, "rb") as file:
            content = io.BytesIO(file.read())
        frame = pd.read_parquet(content)
        stated = frame.attrs.pop(SUM, None)
        altered = stated is not None and stated != _table_sum(frame)
    except OSError as error:
        if error.filename is not None:
            raise
        raise DataError(f"{path} is no Parquet file, truncated or altered: {shown(error)}") from error
    except Exception as error:  # Arrow's readers raise many kinds
        raise DataError(f"{path} is no Parquet file, truncated or altered: {shown(error)}") from error
    if altered:
        raise DataError(
            f"{path} is altered, its contents do not match the checksum that it states: make the table again"
        )
    return frame


def _table_sum(frame: pd.DataFrame) -> str:
    """SHA-256 of the names, types and values of a table."""
    import pandas as pd

    rows = pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes()
    names = [[str(name), str(kind)] for name, kind in frame.dtypes.items()]
    return json_sum([names, len(frame), bytes_sum(rows)])


def _check_columns(frame: pd.DataFrame, metric: str, *columns: str) -> None:
    """Raise unless a table has rows and these columns, each once and without gaps, and numbers as its metric."""
    import pandas as pd

    check_kind("frame", frame, pd.DataFrame)
    check_kind("metric", metric, str)
    if lacking := [name for name in (metric, *columns) if name not in frame.columns]:
        raise ValueError(f"frame must have a column {lacking[0]!r}, it has {', '.join(map(str, frame.columns))}")
    _check_once(frame, metric, *columns)
    if frame.empty:
        raise ValueError("frame must have one row or more, got none")
    gaps = {name: int(frame[name].isna().sum()) for name in (metric, *columns)}
    if empty := [name for name, rows in gaps.items() if rows > (len(frame) - 1 if name == metric else 0)]:
        have, none = "some rows" if empty[0] == metric else "every row", gaps[empty[0]]
        raise ValueError(f"frame must have a value of {empty[0]!r} in {have}, {none} of {len(frame)} have none")
    if not pd.api.types.is_numeric_dtype(frame[metric]):
        raise ValueError(f"metric must name a column of numbers, got {metric!r}, of {frame[metric].dtype}")


def _check_once(frame: pd.DataFrame, *columns: str) -> None:
    for name in columns:
        if (n := [*frame.columns].count(name)) > 1:
            raise ValueError(f"frame must have one column {name!r}, it has {n}")


def _check_alike(frame: pd.DataFrame, *columns: str) -> None:
    """Raise for rows that differ in one of these columns, where there is one: a mean would mix them."""
    _check_once(frame, *columns)
    for name in columns:
        if name in frame.columns and len(values := frame[name].unique().tolist()) > 1:
            raise ValueError(f"frame must hold rows of one {name}, got {shown(values)}: choose some of them")


def summary(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Write mean and standard deviation of a metric over the seeds, as text, to two digits of the deviation.

    Args:
        frame: of :func:`table`. Of a seed that was scored with several noises their mean counts.
        metric: the column.

    Returns:
        A pandas table: a row for each variant, in the order of ``frame``, a column for each (NFE, w).

    Raises:
        ValueError: for columns that are not there, or rows of several n or sweeps.

    Example:
        >>> import pandas as pd
        >>> from ismkit.sweeps import summary
        >>> columns = {"variant": ["flow", "flow", "ism", "ism"], "seed": [0, 1, 0, 1], "nfe": 1, "w": 1.0}
        >>> frame = pd.DataFrame(columns | {"frechet": [6, 8, 2, 3]})
        >>> summary(frame, "frechet")[1, 1.0].to_dict()
        {'flow': '7.0 ± 1.4', 'ism': '2.50 ± 0.71'}
    """
    _check_columns(frame, metric, "variant", "seed", "nfe", "w")
    _check_alike(frame, "n", "sweep")
    seeds = frame.groupby(["variant", "nfe", "w", "seed"], sort=False)[metric].mean()
    grouped = seeds.groupby(["variant", "nfe", "w"], sort=False)
    return grouped.agg(lambda values: _mean_and_deviation(values.mean(), values.std())).unstack(["nfe", "w"])


def _mean_and_deviation(mean: float, deviation: float) -> str:
    """Both to the second digit of the deviation; the mean to three digits where that is NaN, of one value, or 0."""
    if math.isnan(deviation):
        return f"{mean:.3g}"
    if not deviation:
        return f"{mean:.3g} ± 0"
    places = 1 - int(f"{deviation:.1e}".partition("e")[2])  # of the rounded one: 0.0996 is 0.10
    digits = max(places, 0)
    return f"{round(mean, places):.{digits}f} ± {round(deviation, places):.{digits}f}"


def paired(frame: pd.DataFrame, variants: Sequence[str], metric: str, **where: Any) -> pd.DataFrame:
    """Arrange a metric by seed, to compare variants that were trained from the same weights, data and noise.

    Args:
        frame: of :func:`table`.
        variants: those wanted.
        metric: the column.
        where: values of more columns (nfe, w, n) that pick one row for each variant and seed.

    Returns:
        A pandas table: one row per seed, one column for each of the variants.

    Raises:
        TypeError: if ``frame`` is no table, or ``variants`` are no names.
        ValueError: for columns that are not there, or unless every variant has exactly one value per seed there, with
            the same seeds.

    Example:
        >>> import pandas as pd
        >>> from ismkit.sweeps import paired
        >>> columns = {"variant": ["flow", "ism"] * 4, "seed": [0, 0, 1, 1] * 2, "nfe": [1] * 4 + [4] * 4}
        >>> frame = pd.DataFrame(columns | {"frechet": [6, 2, 8, 3, 4, 2, 5, 2]})
        >>> wide = paired(frame, ["ism", "flow"], "frechet", nfe=1)
        >>> wide.to_dict("index")
        {0: {'ism': 2, 'flow': 6}, 1: {'ism': 3, 'flow': 8}}
    """
    _check_columns(frame, metric, "variant", "seed", *where)
    if not isinstance(variants, list | tuple) or not all(isinstance(name, str) for name in variants):
        raise TypeError(f"variants must be a list of names, got {shown(variants)}")
    return _paired(frame, variants, metric, where)


def _paired(frame: pd.DataFrame, variants: Sequence[str], metric: str, where: Mapping[str, Any]) -> pd.DataFrame:
    """What :func:`paired` returns."""
    if not variants:
        raise ValueError("variants must be one or more, got none")
    known = list(dict.fromkeys(frame.variant))
    if unknown := [name for name in variants if name not in known]:
        raise ValueError(f"frame must have a variant {unknown[0]!r}, it has {', '.join(map(str, known))}")
    rows = _rows_where(frame, where)
    chosen = rows[rows.variant.isin(variants)]
    if (twice := chosen.duplicated(["variant", "seed"])).any():
        raise _several(chosen, chosen[twice].iloc[0])
    wide = chosen.pivot(index="seed", columns="variant", values=metric).reindex(columns=list(variants))
    gaps = (f"{name}, seed {seed}" for name, held in wide.items() for seed in held.index[held.isna()])
    if (lacking := next(gaps, ", ".join(variants) if wide.empty else None)) is not None:
        there = f" where {_said(where)}" if where else ""
        raise ValueError(f"frame must have {metric} of every variant for every seed{there}, it has none of {lacking}")
    return wide


def _rows_where(frame: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """The rows with these values of columns; ValueError if there are none."""
    chosen = frame
    for column, value in where.items():
        there = chosen[column]
        chosen = chosen[there == value]
        if chosen.empty:
            values = ", ".join(map(str, dict.fromkeys(there)))
            raise ValueError(f"frame must have a row where {_said(where)}, its {column} is {values}")
    return chosen


def _said(where: Mapping[str, Any]) -> str:
    return ", ".join(f"{column} = {shown(value)}" for column, value in where.items())


def _several(frame: pd.DataFrame, row: Any) -> ValueError:
    """What is said where a variant and a seed have several rows: which columns of the protocol tell them apart."""
    alike = frame[(frame.variant == row.variant) & (frame.seed == row.seed)]
    found = f"frame must have one row for each variant and seed, it has {len(alike)} of {row.variant}, seed {row.seed}"
    held = {name: alike[name].unique().tolist() for name in PROTOCOL if name in alike}
    apart = {name: values for name, values in held.items() if len(values) > 1}
    if not apart:
        return ValueError(found)
    differ = " and ".join(f"{name} ({', '.join(map(str, values))})" for name, values in apart.items())
    one = " & ".join(f"(frame[{name!r}] == {values[0]!r})" for name, values in apart.items())
    return ValueError(f"{found}, which differ in {differ}: choose among them first, such as frame[{one}]")


def change_in_percent(
    frame: pd.DataFrame, variant: str, reference: str, metric: str, **where: Any
) -> tuple[float, float]:
    """Compute by how many percent a metric changes from one variant to another, paired by seed.

    The interval is Student's at 95 % (:func:`ismkit.sweeps.studies.mean_interval`).

    Args:
        frame: of :func:`table`.
        variant: the one whose change is wanted.
        reference: the one that it is compared with.
        metric: the column.
        where: values of more columns (nfe, w, n) that pick one row for each variant and seed.

    Returns:
        The mean change over the seeds, and half the width of its interval, in percent.

    Raises:
        ValueError: if a value is missing or not unique, or there is one seed only.

    Example:
        >>> import pandas as pd
        >>> from ismkit.sweeps import change_in_percent
        >>> columns = {"variant": ["a", "b"] * 3, "seed": [0, 0, 1, 1, 2, 2]}
        >>> frame = pd.DataFrame(columns | {"frechet": [4.0, 2.0, 8.0, 4.4, 5.0, 2.25]})
        >>> mean, half = change_in_percent(frame, "b", "a", "frechet")  # -50, -45 and -55 percent
        >>> round(mean, 3), round(half, 3)
        (-50.0, 12.421)
    """
    wide = paired(frame, [variant, reference], metric, **where)
    return mean_interval(torch.tensor((100 * (wide[variant] / wide[reference] - 1)).to_numpy()))


def against(frame: pd.DataFrame, reference: str, metric: str, **where: Any) -> pd.DataFrame:
    """Compare every variant with one of them, paired by seed, with probabilities corrected for how many there are.

    Ratios with intervals and Holm's correction, as in :func:`compare_pairs`.

    Args:
        frame: of :func:`table`.
        reference: the variant that the others are compared with.
        metric: the column, of positive numbers.
        where: values of more columns (nfe, w, n) that pick one row for each variant and seed.

    Returns:
        A pandas table, a row for each other variant, with the columns of :func:`compare_pairs`.

    Raises:
        TypeError: if ``frame`` is no table.
        ValueError: for columns or a reference that are not there, values that are missing, not unique or not positive,
            fewer than two seeds, or no other variant.

    Example:
        Of three seeds that agree, one variant is lower beyond doubt, the other is not:

        >>> import pandas as pd
        >>> from ismkit.sweeps import against
        >>> columns = {"variant": ["ism"] * 3 + ["a"] * 3 + ["b"] * 3, "seed": [0, 1, 2] * 3, "nfe": 1}
        >>> frame = pd.DataFrame(columns | {"w2": [1.0, 2.0, 4.0, 0.5, 1.01, 2.02, 0.9, 2.2, 4.1]})
        >>> found = against(frame, "ism", "w2")
        >>> found.loc["b", ["ratio", "low", "high", "holm"]].round(2).to_dict()
        {'ratio': 1.0, 'low': 0.78, 'high': 1.29, 'holm': 0.94}
        >>> (found.holm < 0.05).to_dict()
        {'a': True, 'b': False}
    """
    _check_columns(frame, metric, "variant", "seed", *where)
    chosen = _rows_where(frame, where)
    names = list(dict.fromkeys(chosen.variant))
    if reference not in names or len(names) < 2:
        raise ValueError(f"reference must be one of the variants, beside others, got {shown(reference)}, of {names}")
    pairs = [(name, reference) for name in names if name != reference]
    return compare_pairs(chosen, pairs, metric).droplevel("reference")


def compare_pairs(
    frame: pd.DataFrame, pairs: Sequence[tuple[str, str]], metric: str, within: str | None = None
) -> pd.DataFrame:
    """Compare two variants at a time, paired by seed, with probabilities corrected for how many pairs there are.

    Ratios, in logarithms: their mean, Student's interval at 95 % for each alone, and the probability of such a mean if
    there were no difference (two-sided, paired). Holm's correction (1979) holds the probability that any pair is called
    different without being so.

    Args:
        frame: of :func:`table`.
        pairs: a variant and the one that it is compared with, for each comparison.
        metric: the column, of positive numbers.
        within: a column, such as nfe: every pair is compared at each of its values, and the correction is for all of
            these comparisons.

    Returns:
        A pandas table, a row for each comparison, by (value of ``within``,) variant and reference: ``ratio`` of the
        metric, ``low`` and ``high`` of its interval, ``p``, ``holm``, the corrected probability, and ``least``: the
        ratio, above 1, from which on these seeds call a pair different whatever the other pairs show (Bonferroni).

    Raises:
        TypeError: if ``frame`` is no table, or ``pairs`` are not pairs of names.
        ValueError: for columns or variants that are not there, no pairs, values that are missing, not unique or not
            positive, or fewer than two seeds.

    Example:
        Each rung of a ladder against the one below it:

        >>> import pandas as pd
        >>> from ismkit.sweeps import compare_pairs
        >>> columns = {"variant": ["flow"] * 3 + ["a"] * 3 + ["b"] * 3, "seed": [0, 1, 2] * 3, "nfe": 1}
        >>> frame = pd.DataFrame(columns | {"w2": [1.0, 2.0, 4.0, 0.5, 1.01, 2.02, 0.45, 1.1, 2.05]})
        >>> found = compare_pairs(frame, [("a", "flow"), ("b", "a")], "w2", within="nfe")
        >>> found.loc[1][["ratio", "low", "high", "holm", "least"]].round(2).to_dict("index")[("b", "a")]
        {'ratio': 1.0, 'low': 0.79, 'high': 1.27, 'holm': 0.98, 'least': 1.41}
        >>> (found.holm < 0.05).to_dict()
        {(1, 'a', 'flow'): True, (1, 'b', 'a'): False}
    """
    import pandas as pd
    from scipy import stats

    _check_columns(frame, metric, "variant", "seed", *([] if within is None else [within]))
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(name, str) for name in pair) for pair in pairs
    ):
        raise TypeError(f"pairs must be a list of (variant, reference), got {shown(pairs)}")
    if not pairs:
        raise ValueError("pairs must hold one comparison or more, got none")
    parts: list[dict[str, Any]] = (
        [{}] if within is None else [{within: value} for value in frame.groupby(within).groups]
    )
    differences = {}
    for part in parts:
        key = tuple(part.values())
        for pair in pairs:
            wide = _paired(frame, pair, metric, part)
            where = ", ".join(map(str, (*key, *pair)))
            if len(wide) < 2:
                raise ValueError(f"frame must hold two seeds or more of {where}, got {len(wide)}")
            if not (wide > 0).all(axis=None):
                raise ValueError(f"{metric} must be positive to be compared by ratios, in {where}")
            logs = wide.map(math.log)
            differences[*key, *pair] = logs[pair[0]] - logs[pair[1]]
    apart = pd.DataFrame(differences)
    apart.columns.names = [*([] if within is None else [within]), "variant", "reference"]
    freedom, mean, error = apart.count() - 1, apart.mean(), apart.sem()
    half = stats.t.ppf(0.975, freedom) * error
    p = 2 * stats.t.sf((mean / error.where(error > 0)).abs(), freedom)
    columns = {"ratio": mean, "low": mean - half, "high": mean + half}
    columns["least"] = stats.t.ppf(1 - 0.025 / len(mean), freedom) * error
    result = pd.DataFrame(columns).map(math.exp).assign(p=p)
    result.p = result.p.fillna((mean == 0).astype(float))  # all seeds agree
    # The least p times the number of comparisons, the next times one less; none below the one before.
    ordered = result.p.sort_values()
    holm = (ordered * [*range(len(ordered), 0, -1)]).cummax().clip(upper=1.0)
    return result.assign(holm=holm)[["ratio", "low", "high", "p", "holm", "least"]]


def at_best(frame: pd.DataFrame, metric: str, noise: tuple[int, int] | None = None) -> pd.DataFrame:
    """Pick the rows of each variant and NFE at its best guidance strength.

    That is the strength where the mean of the metric over the seeds is lowest: what a paper reports as its figure.

    Args:
        frame: of :func:`table`.
        metric: the column, of which less is better.
        noise: seeds of the samples' noise, by which the strength is chosen and from which it is reported; by default
            the strength is chosen on the rows that are shown, for all variants alike, and so a little too well.

    Returns:
        These rows of ``frame``.

    Raises:
        ValueError: for columns that are not there, noise that is not among the rows, or rows of several n, sweeps or,
            without ``noise``, noises.

    Example:
        >>> import pandas as pd
        >>> from ismkit.sweeps import at_best
        >>> columns = {"variant": "ism", "nfe": [1, 1, 4, 4], "w": [0.0, 2.0, 0.0, 2.0]}
        >>> frame = pd.DataFrame(columns | {"frechet": [5, 2, 3, 4]})
        >>> at_best(frame, "frechet")[["nfe", "w", "frechet"]].to_dict("records")
        [{'nfe': 1, 'w': 2.0, 'frechet': 2}, {'nfe': 4, 'w': 0.0, 'frechet': 3}]
    """
    _check_columns(frame, metric, "variant", "nfe", "w", *([] if noise is None else ["noise"]))
    _check_alike(frame, "n", "sweep", *(["noise"] if noise is None else []))
    chosen, shown_rows = frame, frame
    if noise is not None:
        if not isinstance(noise, tuple | list) or len(noise) != 2 or not set(noise) <= {*frame.noise}:
            raise ValueError(f"noise must be two seeds of {sorted({*frame.noise})}, got {shown(noise)}")
        chosen, shown_rows = (frame[frame.noise == seed] for seed in noise)
    mean = chosen.groupby(["variant", "nfe", "w"])[metric].mean()
    best = mean.groupby(["variant", "nfe"]).idxmin()
    return shown_rows[shown_rows.set_index(["variant", "nfe", "w"]).index.isin(best)]
