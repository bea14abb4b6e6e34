"""The league: every method of few steps under one training step, at equal network passes, over five paired seeds.

`python book/studies/league.py checkerboard` trains and scores points and writes `league-checkerboard.parquet`, `...
gaussians` the same for another set, `... clothes` for latents of Fashion-MNIST; each has a second division, such as
`checkerboard-coupled`. `... choices` writes `league-choices.parquet`, what each choice of improved MeanFlow is worth on
the checkerboard; `... reasons` `league-reasons.parquet`, why one method is behind; `... raised`
`league-raised.parquet`, what is tried to raise `ism_plus` on clothes; `... replicated`
`league-replicated.parquet`, the best of that over ten more seeds; `... emoji` `league-emoji.parquet`, the same beside
its forerunners on emoji; `... seconds` `league-seconds.csv`. Stopped, the same command resumes. What the leagues do:

1. *Tuning.* Each method is trained seven times at half the length from one seed that the league does not use: as it is
   adapted to the data, at half and at twice the learning rate, and with four changes of its own, one at a time, of the
   sampling of times, the share of rows, the distance, or what it has in their place (`Method.own`). The one with the
   lowest score is taken, the geometric mean over one and two network calls (one call for methods of one step).
2. *League.* Each method as tuned, from five other seeds. Equal seeds have equal initial weights, data order and noise.
   There are two divisions, since a first tuning, in which coupling was one of the changes, showed that in the plane it
   counts for more than the method: all with independent noise, `ism` too, and all coupled within the classes.

What is equal is the number of network passes in training: forward passes of rows, a backward pass counted twice, a
derivative in forward mode once more, teachers' answers and half of the passes for the teacher's own training. The base
is the step of `ism`, and the number of steps that the league's run has. Methods with a time in their targets get the
network's time scale of their rows, 10; the others 1000.

Rules, written before the league was run. The score is the 2-Wasserstein distance in the plane, and the Frechet distance
in the kit's own features for clothes. Clothes are scored from two sets of noise: the strength of guidance is chosen on
one, and what is reported is the other. Differences from `ism` are paired by seed, in logarithms, by Student's test; its
probabilities are corrected after Holm over all comparisons of one data set, one number of calls and one kind
(unguided, or at the best strength).

Changed after results were seen: trainings of clothes are twice as long as planned, since 250 steps, at first the length
of their tuning, left every method with Frechet distances from 9 to 20, in an order of who blurs least. Coupling is no
change of the tuning any more, but a division. The strength 3.5, the largest that is trained, was added, since guided
MeanFlow was best at 2, the largest of the first table. `alpha_flow` and `soflow` were tuned and trained again, since
plain squares had left the residuals of their small cuts without a weight (:func:`ismkit.training.runs.for_points`). A
comparison with papers and authors' code, line by line, found what was not theirs, and the methods were tuned and
trained again: `tcm`, whose second stage had begun with random weights and not with those of the first, whose rows at
the boundary had weighed too little, and whose boundary was at half of the noise; `facm` and `dual_end`, which had begun
with random weights instead of their teacher's; `imm`, whose kernel was made for data of half the deviation; `ect` and
`sct`, whose tuning had not tried the times of their papers; then `meanflow` and `imf`, whose rows with d = 0 had one
time and not the noisier of two; `alpha_flow`, whose targets had been bounded at the cut 0 too; `soflow`, which had
steps in half of its rows and not in a quarter; `drifting`, which had no floor under its affinities and another unit;
and `shortcut`, which had paid for a null label that it multiplied by 0.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from ismkit.data.batches import Batches
from ismkit.data.sets import Labelled, checkerboard, eight_gaussians
from ismkit.evaluation.judges import Setting
from ismkit.method.coupling import Coupling
from ismkit.method.guidance import Strengths
from ismkit.method.recipes import RECIPES, BakedIn, Intrinsic, Recipe
from ismkit.method.rows import Intervals
from ismkit.method.wavelet import Normalised, l2
from ismkit.neighbours.drifting import DRIFTING, Drift, SinkhornDrift
from ismkit.neighbours.leap import ExponentialCut, Gap, HalvingCut, Leap, SigmoidCut
from ismkit.neighbours.recipes import NEIGHBOURS, guided
from ismkit.neighbours.teachers import Trained, dual_end, facm, truncated
from ismkit.sweeps.ladder import SWEEPS
from ismkit.sweeps.runner import run_trials
from ismkit.sweeps.sweep import Trial, read_table, settings, write_table
from ismkit.training.loop import fit
from ismkit.training.runs import RUNS, Run, equal_passes
from ismkit.utils.files import out_dir
from ismkit.utils.settings import change

HERE = Path(__file__).parent
SEEDS, TUNING_SEED = range(5), 1000
# Noise and data are assigned within classes, as in `ism`. An exact plan over the 8192 rows of its 32 batches takes
# seconds in the plane, where classes are few and so large; so the pools there are smaller.
PLANE_POOL, POOL = 4, 32
AS_IT_IS, RATES = "as it is", {"rate / 2": 0.5, "rate x 2": 2.0}
CHOSEN, REPORTED = 0, 1  # seeds of the samples' noise

#: What one setting of a recipe becomes: values by their paths, or a function of the recipe.
Changes = Mapping[str, Any] | Callable[[Recipe], Recipe]


@dataclass(frozen=True)
class Method:
    """One row of the league.

    Attributes:
        recipe: as it stands, or, of a teacher, a function of it.
        own: four changes that it is tuned by, one at a time.
        teacher: the method of its teacher.
        calls: the numbers of network calls at which it can sample.
        guided: whether it takes a strength.
        coupled: whether it may be trained on noise that is coupled with data.
        continues: whether it begins with the weights of its teacher.
    """

    recipe: Recipe | Callable[[Any], Recipe]
    own: Mapping[str, Changes]
    teacher: str = ""
    calls: tuple[int, ...] = (1, 2, 4, 128)
    guided: bool = True
    coupled: bool = True
    continues: bool = False


def share(value: float) -> Callable[[Recipe], Recipe]:
    """Another share of rows with d > 0; the loss stays one mean over the batch if it was."""

    def changed(recipe: Recipe) -> Recipe:
        rows = replace(recipe.rows, consistency=value)
        one_mean = math.isclose(sum(recipe.weights), 1)
        rest = 1 - rows.guidance - value
        weights = (rest, rows.guidance, value) if one_mean else recipe.weights
        return replace(recipe, rows=rows, weights=weights)

    return changed


def other_times(recipe: Recipe) -> Recipe:
    """Times with a normal logit, as the papers draw them, where they are uniform; else uniform ones."""
    assert isinstance(recipe.rows, Intervals)
    return replace(recipe, rows=replace(recipe.rows, logit=(0.4, 1.0) if recipe.rows.logit is None else None))


def levels_of_noise(recipe: Recipe) -> Recipe:
    """Times as consistency models draw them: a normal logarithm of the level of the noise, of deviation 2 (ECT)."""
    assert isinstance(recipe.rows, Intervals)
    return replace(recipe, rows=replace(recipe.rows, logit=(0.4, 2.0)))


def other_distance(recipe: Recipe) -> Recipe:
    """Squares where the distance is not squares; else squares over their root."""
    return replace(recipe, distance=Normalised(l2, 0.5) if recipe.distance is l2 else l2)


def boundary(recipe: Recipe, value: float) -> Recipe:
    """A truncated consistency model with another boundary."""
    rows = replace(recipe.rows, boundary=value)
    return replace(recipe, rows=rows, target=replace(recipe.target, boundary=value))


def of_intervals(low: float, high: float) -> dict[str, Changes]:
    """The four changes of methods that cut intervals."""
    return {
        "times": other_times,
        f"share {low:.2g}": share(low),
        f"share {high:.2g}": share(high),
        "distance": other_distance,
    }


_DYADIC: dict[str, Changes] = {
    "times": {"rows.time_power": 1.5},
    "share 1/8": share(1 / 8),
    "share 1/2": share(1 / 2),
    "distance": other_distance,
}
_FLOW: dict[str, Changes] = {
    "times": {"rows.time_power": 1.5},
    "times the other way": {"rows.time_power": 0.7},
    "no label dropped": {"rows.label_dropout": 0.0},
    "distance": other_distance,
}
_TO_DATA: dict[str, Changes] = {"times": levels_of_noise, "share 3/4": share(3 / 4), "distance": other_distance}
_TAUGHT = of_intervals(1 / 3, 3 / 4)
_HALVED: dict[str, Changes] = {"cut to 1/32": {"target.cut": HalvingCut(6)}}
# The guidance that SM bakes into its targets is left out: with its scale of 1.5 nothing is unguided.
_SHORTCUT = replace(RECIPES["shortcut_every_level"], name="shortcut", target=BakedIn(cfg_scale=1.0))
_UNGUIDED_ISM = replace(
    RECIPES["ism"],
    name="ism_unguided",
    rows=replace(RECIPES["ism"].rows, guidance=0.0, strengths=Strengths(0.0)),
)

METHODS: dict[str, Method] = {
    "flow": Method(RECIPES["flow"], _FLOW),
    "shortcut": Method(
        _SHORTCUT,
        {name: change for name, change in _DYADIC.items() if name != "share 1/8"} | {"share 1/4": share(1 / 4)},
        guided=False,
    ),
    "ism": Method(RECIPES["ism"], _DYADIC),
    "ism without guidance": Method(_UNGUIDED_ISM, _DYADIC, guided=False),
    "ism_plus": Method(RECIPES["ism_plus"], {**_DYADIC, "times": {"rows.time_power": 1.0}}),
    "meanflow": Method(NEIGHBOURS["meanflow"], of_intervals(1 / 8, 1 / 2)),
    "imf": Method(NEIGHBOURS["imf"], of_intervals(1 / 4, 3 / 4)),
    "alpha_flow": Method(NEIGHBOURS["alpha_flow"], of_intervals(1 / 4, 3 / 4)),
    "split_meanflow": Method(NEIGHBOURS["split_meanflow"], of_intervals(1 / 4, 3 / 4)),
    "soflow": Method(NEIGHBOURS["soflow"], of_intervals(1 / 8, 1 / 2)),
    "ect": Method(NEIGHBOURS["ect"], _TO_DATA | _HALVED),
    "sct": Method(NEIGHBOURS["sct"], _TO_DATA | _HALVED, coupled=False),
    "imm": Method(
        NEIGHBOURS["imm"],
        {
            "times": other_times,
            "a quarter from the noise": {"rows.from_noise": 0.25},
            "groups of 8": {"rows.size": 8, "distance.size": 8},
            "k = 11": {"target.k": 11},
        },
        guided=False,
    ),
    "drifting": Method(
        NEIGHBOURS["drifting"],
        {
            "radii (0.1, 0.3, 1)": {"target.radii": (0.1, 0.3, 1.0)},
            "radii (0.05, 0.2, 0.5)": {"target.radii": (0.05, 0.2, 0.5)},
            "one radius": {"target.radii": (0.2,)},
            "drift not normalised": {"target.radii": (0.1, 0.3, 1.0), "target.normalised": False},
        },
        calls=(1,),
        guided=False,
    ),
    "sinkhorn drifting": Method(
        replace(DRIFTING, name="sinkhorn_drifting", target=SinkhornDrift()),
        {
            "epsilon 0.02": {"target.epsilon": 0.02},
            "epsilon 0.1": {"target.epsilon": 0.1},
            "epsilon 0.2": {"target.epsilon": 0.2},
            "100 iterations": {"target.iterations": 100},
        },
        calls=(1,),
        guided=False,
    ),
    "facm": Method(facm, {**_TAUGHT, "distance": {"distance": l2}}, teacher="flow", guided=False, continues=True),
    "dual_end": Method(dual_end, _TAUGHT, teacher="flow", guided=False, continues=True),
    # Beyond its boundary the first stage answers: at 1 and 2 calls nothing is asked there.
    "tcm": Method(
        truncated,
        {
            "times": levels_of_noise,
            "boundary 1/2": partial(boundary, value=0.5),
            "distance": other_distance,
            "cut to 1/32": {"target.leap.cut": HalvingCut(2, first=1 / 16)},
        },
        teacher="ect",
        calls=(1, 2),
        guided=False,
        continues=True,
    ),
}


class Place(NamedTuple):
    """Where trainings are done and kept.

    Attributes:
        folder: of results, models and checkpoints.
        workers: trainings at one time; by default one per core.
        gpus: share of a GPU for each; 0 for the CPU.
    """

    folder: Path
    workers: int | None = None
    gpus: float = 0.0

    def run(self, trials: Iterable[Trial]) -> pd.DataFrame:
        """Do what is left of some trials, and give their table."""
        return run_trials(trials, self.folder, workers=self.workers, gpus=self.gpus)


class Entry(NamedTuple):
    """One training: a method, what is changed of it, and the seed."""

    method: str
    change: str
    seed: int


@dataclass(frozen=True)
class League:
    """One data set: what is trained, and how it is scored.

    Attributes:
        name: of the table.
        run: data, network, optimiser, and as many steps as `ism` makes.
        metric: the score, of which less is better.
        tuned: settings of the tuning, by whether a method is guided.
        scored: settings of the league.
        methods: those that take part.
        coupled: whether noise is coupled with data; tuning is with independent noise all the same.
        pool: batches in one assignment, where it is.
        guidance: whether methods that can be are guided.
        levels: of the wavelet transform in whose bands drifting compares samples; 0 for points.
    """

    name: str
    run: Run
    metric: str
    tuned: tuple[Setting, ...]
    scored: tuple[Setting, ...]
    methods: tuple[str, ...]
    coupled: bool = False
    pool: int = PLANE_POOL
    guidance: bool = False
    levels: int = 0

    def recipe(self, method: Method, teacher: Any = None) -> Recipe:
        """The recipe of a method, adapted to the data, and guided where that is wanted."""
        recipe = method.recipe if isinstance(method.recipe, Recipe) else method.recipe(teacher)
        if self.guidance and method.guided and isinstance(recipe.rows, Intervals):
            recipe = guided(recipe)
        if isinstance(recipe.target, Drift):
            recipe = change(recipe, "target.levels", self.levels)
        return self.run.adapt(recipe)

    def trial(self, entry: Entry, length: float, settings: tuple[Setting, ...], teacher: Trained | None) -> Trial:
        """One training of a method with one change of it."""
        name, label, seed = entry
        method = METHODS[name]
        base = replace(self.run, recipe=self.run.adapt(RECIPES["ism"]), steps=round(length * self.run.steps))
        recipe, rate = self.recipe(method, teacher), RATES.get(label, 1.0)
        if label in method.own:
            recipe = changed(recipe, method.own[label])
        recipe = replace(recipe, coupling=Coupling(pool=self.pool if self.coupled else 0))
        run = equal_passes(base, recipe, 0.5 if method.teacher else 1.0)
        run = replace(run, optim=replace(run.optim, lr=rate * run.optim.lr))
        if method.continues and isinstance(teacher, Trained):
            run = replace(run, net=teacher.copy)
        takes = self.guidance and method.guided
        chosen = tuple(s for s in settings if s.nfe in method.calls and (takes or s.w == 0))
        division = "coupled" if self.coupled else "independent"
        columns = {"league": self.name, "division": division, "method": name, "change": label}
        return Trial(name, run, seed, chosen, tuple(columns.items()))

    def teacher(self, entry: Entry, length: float) -> Trial:
        """The training of a method's teacher, by half of the passes."""
        method = METHODS[entry.method]
        taught = entry._replace(method=method.teacher, change=AS_IT_IS)
        alike = replace(self, guidance=self.guidance and method.guided)
        found = alike.trial(taught, length / 2, self.tuned[:1], None)
        if method.continues:  # with the time scale of the rows that its weights are trained on afterwards
            found = replace(found, run=replace(found.run, net=partial(found.run.net, time_scale=Intervals.time_scale)))
        return replace(found, variant=f"{found.variant}, a teacher")

    def trials(
        self, entries: Iterable[Entry], length: float, settings: tuple[Setting, ...], place: Place
    ) -> list[Trial]:
        """The trainings of methods; teachers that are not there are trained first."""
        entries = list(entries)
        teachers = {entry: self.teacher(entry, length) for entry in entries if METHODS[entry.method].teacher}
        if teachers:
            place.run(teachers.values())
        models = place.folder / "models"
        trained = {entry: Trained.at(models / f"{trial.key}.safetensors") for entry, trial in teachers.items()}
        return [self.trial(entry, length, settings, trained.get(entry)) for entry in entries]

    def tuning(self, place: Place) -> pd.DataFrame:
        """The table of all trainings that a change is chosen by."""
        grid = [(name, label) for name in self.methods for label in (AS_IT_IS, *RATES, *METHODS[name].own)]
        alone, entries = replace(self, coupled=False), [Entry(*pair, TUNING_SEED) for pair in grid]
        return place.run(alone.trials(entries, 0.5, self.tuned, place)).assign(stage="tuning")

    def played(self, chosen: Mapping[str, str], place: Place) -> pd.DataFrame:
        """The table of all methods as tuned."""
        entries = [Entry(name, chosen[name], seed) for seed in SEEDS for name in self.methods]
        return place.run(self.trials(entries, 1.0, self.scored, place)).assign(stage="league")


def changed(recipe: Recipe, changes: Changes) -> Recipe:
    """A recipe with changes."""
    if callable(changes):
        return changes(recipe)
    for path, value in changes.items():
        recipe = change(recipe, path, value)
    return recipe


def eight_gaussians_without_labels() -> Labelled:
    """The ring of eight Gaussians as one class: with a class each, one step has a single Gaussian to draw."""
    return Labelled.of(eight_gaussians(20_000, 0).x)


_PLANE = replace(RUNS["gaussians"], steps=1000)
_CLOTHES = replace(RUNS["fashion"], steps=1000, batch_size=128)
_POINTS: dict[str, Any] = {
    "metric": "w2",
    "tuned": settings((1, 2), (0.0,), 2000),
    "scored": settings((1, 2, 4, 128), (0.0,), 2000),
    "methods": tuple(name for name in METHODS if name != "ism_plus"),
}


def _twice(nfe: Iterable[int], w: Iterable[float]) -> tuple[Setting, ...]:
    """Settings with both sets of noise."""
    return tuple(s._replace(seed=noise) for noise in (CHOSEN, REPORTED) for s in settings(nfe, list(w), 1000))


_ALONE: dict[str, League] = {
    "checkerboard": League("checkerboard", replace(_PLANE, load=partial(checkerboard, 20_000, 0)), **_POINTS),
    "gaussians": League("eight Gaussians", replace(_PLANE, load=eight_gaussians_without_labels), **_POINTS),
    "clothes": League(
        "clothes",
        _CLOTHES,
        metric="frechet",
        tuned=settings((1, 2), (0.0, 1.0), 1000),
        scored=(*_twice((1, 2, 4), (0.0, 0.5, 1.0, 2.0, 3.5)), *_twice((128,), (0.0, 1.0))),
        methods=tuple(name for name in METHODS if name != "ism without guidance"),
        pool=POOL,
        guidance=True,
        levels=3,
    ),
}


def _coupled(league: League) -> League:
    """The other division, of the methods that may be coupled."""
    return replace(league, coupled=True, methods=tuple(name for name in league.methods if METHODS[name].coupled))


LEAGUES = _ALONE | {f"{name}-coupled": _coupled(league) for name, league in _ALONE.items()}

_IMF = NEIGHBOURS["imf"]
#: One choice of improved MeanFlow changed at a time, on the checkerboard.
CHOICES: dict[str, Changes] = {
    "imf": {},
    "tangent: sample": {"target.tangent": "first"},
    "velocity: predicted too": {"target.first": "net"},
    "cut 0.1 to 0.002": {"target": Leap("sample", ExponentialCut(), weight=-1.0)},
    "cut 1 to 0": {"target": Leap("sample", SigmoidCut(), weight=-1.0)},
    "cut 1/2, own step": {"target": Leap("own", 0.5)},
    "cut at random, own step": {"target": Leap("own", "uniform")},
    "targets: average 0.95": {"fast": 0.95},
    "targets: average 0.999": {"fast": 0.999},
    "coupling": {"coupling": Coupling(pool=PLANE_POOL)},
    "time scale 1000": {"rows.time_scale": 1000.0},
}


def choices(place: Place) -> pd.DataFrame:
    """The table of improved MeanFlow and its variants, at equal passes."""
    league = LEAGUES["checkerboard"]
    base, columns = replace(league.run, recipe=league.run.adapt(RECIPES["ism"])), (("league", league.name),)
    recipes = {label: changed(league.run.adapt(_IMF), changes) for label, changes in CHOICES.items()}
    return place.run(
        Trial(label, equal_passes(base, recipe), seed, league.scored, columns)
        for seed in SEEDS
        for label, recipe in recipes.items()
    )


#: Methods that are trained four times as long, as each was tuned: the one that is behind, and what it is held against.
LONGER = {"checkerboard": {"tcm": "rate / 2", "ism": "rate x 2"}, "gaussians": {"tcm": "distance", "ism": "rate / 2"}}


def reasons(place: Place) -> pd.DataFrame:
    """The table of why one method is behind: it and `ism` with four times the passes, its first stage too."""
    trials = []
    for name, tuned in LONGER.items():
        league, columns = LEAGUES[name], (("league", LEAGUES[name].name),)
        entries = [Entry(method, label, seed) for seed in SEEDS for method, label in tuned.items()]
        for trial in league.trials(entries, 4, league.scored, place):
            trials.append(replace(trial, variant=f"{trial.variant}, 4 times the passes", labels=columns))
    return place.run(trials)


def any_length(cut: Any = "uniform", **rows: Any) -> Callable[[Recipe], Recipe]:
    """Steps of any length in the place of dyadic ones: own steps over both parts of a cut, as in SplitMeanFlow."""

    def changed(recipe: Recipe) -> Recipe:
        old, target = recipe.rows, recipe.target
        assert isinstance(target, Intrinsic)
        of_old = {"guidance": old.guidance, "consistency": old.consistency, "strengths": old.strengths}
        new = Intervals(**of_old, drop_consistency=old.drop_consistency, **rows)
        return replace(recipe, rows=new, target=Leap("own", cut, guide=Gap(target.t_interval, steps=False)))

    return changed


def with_derivative(**rows: Any) -> Callable[[Recipe], Recipe]:
    """Improved MeanFlow's target in the place of half steps: a derivative along the network's own velocity."""

    def changed(recipe: Recipe) -> Recipe:
        intervals = any_length(**rows)(recipe)
        assert isinstance(intervals.target, Leap)
        guide = replace(intervals.target.guide, steps=True)
        return replace(intervals, target=replace(intervals.target, first="sample", cut=0.0, tangent="net", guide=guide))

    return changed


#: What is tried to raise `ism_plus`: parts of the neighbours, one at a time, on clothes with coupled noise.
RAISED: dict[str, Changes] = {
    AS_IT_IS: {},
    **{name: {} for name in RATES},
    "velocity: predicted": {"target.predicted": True},
    "targets: average 0.9": {"fast": 0.9},
    "targets: average 0.99": {"fast": 0.99},
    "root distance": other_distance,
    "steps weigh 1/2": {"weights": (1.0, 1.0, 0.5)},
    "steps weigh 2": {"weights": (1.0, 1.0, 2.0)},
    "half of the rows are steps": share(1 / 2),
    "any length": any_length(),
    "any length, cut 1/2": any_length(0.5),
    "any length, time scale 1000": any_length(time_scale=1000.0),
    "any length, a quarter from the noise": any_length(from_noise=0.25),
    "any length, half from the noise": any_length(from_noise=0.5),
    "derivative": with_derivative(),
    "derivative, half from the noise": with_derivative(from_noise=0.5),
}


def as_meanflow(recipe: Recipe) -> Recipe:
    """MeanFlow, guided, with the strengths and the coupling of another recipe."""
    meanflow = LEAGUES["clothes"].recipe(METHODS["meanflow"])
    return replace(meanflow, rows=replace(meanflow.rows, strengths=recipe.rows.strengths), coupling=recipe.coupling)


#: The second round, after the first was seen, and after the league: what helped together, and what `meanflow`, which
#: was ahead there, has to gain from `ism_plus`.
AND_THEN: dict[str, Changes] = {
    "meanflow": as_meanflow,
    "interval from 0.1": {"target.guide.t_interval": 0.1},
    "a quarter from the noise": {"rows.from_noise": 0.25},
}
_FAST = "targets: average 0.9"
TOGETHER = (
    f"{_FAST} + steps weigh 2",
    f"{_FAST} + any length, cut 1/2",
    f"{_FAST} + derivative, half from the noise",
    "meanflow",
    f"meanflow + {_FAST}",
    "meanflow + interval from 0.1",
    f"meanflow + interval from 0.1 + {_FAST}",
    "meanflow + interval from 0.1 + a quarter from the noise",
)
BESIDE = ("ism", "ism_plus", "meanflow", "imf")  # the base, and the best of the league at one call and at two
FRESH = range(10, 15)  # seeds of neither the league nor a tuning
# Decided before they were trained: ten more seeds, two comparisons, with `imf` at one call and with `meanflow` at two.
# Five seeds had not resolved them (0.88 and 0.81 times as far, corrected probability 0.08).
AGAIN, PLANNED = range(15, 25), {1: "imf", 2: "meanflow"}


def raised(
    seeds: Iterable[int], labels: Iterable[str], length: float = 1.0, league: League = LEAGUES["clothes-coupled"]
) -> list[Trial]:
    """Trials of `ism_plus` and what is tried to raise it, several changes joined by " + ", at the passes of `ism`."""
    base = replace(league.run, recipe=league.run.adapt(RECIPES["ism"]), steps=round(length * league.run.steps))
    trials = []
    for seed, label in product(seeds, labels):
        recipe, rate = league.run.adapt(RECIPES["ism_plus"]), 1.0
        for part in label.split(" + "):
            recipe, rate = changed(recipe, (RAISED | AND_THEN)[part]), rate * RATES.get(part, 1.0)
        run = equal_passes(base, recipe)
        run = replace(run, optim=replace(run.optim, lr=rate * run.optim.lr))
        columns = {"league": league.name, "division": "coupled", "method": "ism_plus raised", "change": label}
        settings = league.scored if length == 1 else league.tuned
        trials.append(Trial("ism_plus raised", run, seed, settings, tuple(columns.items())))
    return trials


def raising(place: Place) -> pd.DataFrame:
    """The table of two rounds, one change and then several, and of what was best beside methods of the league."""
    league, rounds = LEAGUES["clothes-coupled"], []
    for name, labels in (("one change", tuple(RAISED)), ("several", TOGETHER)):
        rounds.append(place.run(raised((TUNING_SEED,), labels, 0.5)).assign(stage=name))
    best = best_changes(pd.concat(rounds), league.metric)["ism_plus raised"]
    chosen = best_changes(replace(league, methods=BESIDE).tuning(place), league.metric)
    entries = [Entry(name, chosen[name], seed) for seed in FRESH for name in BESIDE]
    trials = [*league.trials(entries, 1.0, league.scored, place), *raised(FRESH, [best])]
    return pd.concat([*rounds, place.run(trials).assign(stage="league")], ignore_index=True)


def again(league: League, seeds: Iterable[int], beside: Iterable[str], place: Place) -> pd.DataFrame:
    """The table of what `ism_plus` was raised to, beside other methods, each as it was chosen on clothes."""
    frame, seeds = read_table(HERE / "league-raised.parquet"), tuple(seeds)
    chosen = frame[frame.stage == "league"].groupby("variant").change.first()
    entries = [Entry(name, chosen[name], seed) for seed, name in product(seeds, beside)]
    trials = league.trials(entries, 1.0, league.scored, place)
    trials += raised(seeds, [chosen["ism_plus raised"]], league=league)
    return place.run(sorted(trials, key=lambda trial: trial.seed))


#: The second set of latents, with the network and the length of its ladder. Nothing is tuned on it.
EMOJI = replace(LEAGUES["clothes-coupled"], name="emoji", run=SWEEPS["power-emoji"].runs["ism"])


def seconds(rounds: int = 7, steps: int = 10) -> pd.DataFrame:
    """CPU time of the training of each method as tuned, over that of `ism`: medians of rounds in which all take turns.

    One thread; the teachers' training is counted, by the time of its own steps.
    """
    league = LEAGUES["checkerboard"]
    frame = read_table(HERE / "league-checkerboard.parquet")
    chosen = frame[frame.stage == "league"].groupby("variant").change.first()
    still = league.run.build(2).eval().requires_grad_(False)  # a teacher costs the same, whatever it has learnt
    runs = {}
    for name in league.methods:
        found = league.trial(Entry(name, chosen[name], 0), 1.0, league.scored, still if METHODS[name].teacher else None)
        runs[name] = [found.run]
        if METHODS[name].teacher:
            runs[name].append(league.teacher(Entry(name, chosen[name], 0), 1.0).run)
    data, taken = league.run.load(), {name: [] for name in runs}
    for _ in range(rounds):
        for name, stages in runs.items():
            total = 0.0
            for run in stages:
                net, batches = run.build(data.num_classes), Batches(data, run.batch_size, 0)
                began = time.process_time()
                fit(run.recipe, net, batches, steps=steps, optim=run.optim, progress=False)
                total += (time.process_time() - began) / steps * run.steps
            taken[name].append(total)
    ratios = pd.DataFrame(taken).div(taken["ism"], axis=0).median()
    return ratios.rename("seconds").rename_axis("method").reset_index().assign(rounds=rounds, steps=steps)


#: Tables beside the leagues', by name.
TABLES: dict[str, Callable[[Place], pd.DataFrame]] = {
    "choices": choices,
    "reasons": reasons,
    "raised": raising,
    "replicated": partial(again, LEAGUES["clothes-coupled"], AGAIN, tuple(PLANNED.values())),
    "emoji": partial(again, EMOJI, SEEDS, ("ism", "ism_plus")),
}


def best_changes(frame: pd.DataFrame, metric: str) -> dict[str, str]:
    """The change of each method with the lowest score: the mean of logarithms over settings at the better strength."""
    best = frame.groupby(["method", "change", "nfe"], sort=False)[metric].min()
    score = best.map(math.log).groupby(["method", "change"], sort=False).mean()
    return dict(score.groupby("method", sort=False).idxmin().to_list())


def main(arguments: list[str] | None = None) -> None:
    """Do some leagues, or the choices, and write the table of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="+", choices=[*LEAGUES, *TABLES, "seconds"])
    parser.add_argument("--workers", type=int, help="trainings at one time (default: one per core)")
    parser.add_argument("--gpus", type=float, default=0.0, help="share of a GPU for each (default: 0, the CPU)")
    options = parser.parse_args(arguments)
    place = Place(out_dir() / "league", options.workers, options.gpus)
    for name in options.names:
        if name == "seconds":
            torch.set_num_threads(1)
            seconds().round(3).to_csv(HERE / "league-seconds.csv", index=False)
            continue
        if name in TABLES:
            found = TABLES[name](place)
        else:
            league = LEAGUES[name]
            tuning = league.tuning(place)
            league_table = league.played(best_changes(tuning, league.metric), place)
            found = pd.concat([tuning, league_table], ignore_index=True)
        write_table(found, HERE / f"league-{name}.parquet")


if __name__ == "__main__":
    main()
