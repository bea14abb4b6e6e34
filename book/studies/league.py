"""The league: every method of few steps under one training step, at equal network passes, over five paired seeds.

`python book/studies/league.py plane` trains and scores points and writes `league-plane.parquet`, `... clothes` latents
of Fashion-MNIST and `league-clothes.parquet`; `... choices` writes `league-choices.parquet`, what each choice of
improved MeanFlow is worth on the checkerboard. Stopped, the same command resumes. What the first two do:

1. *Tuning.* Each method is trained eight times at half the length from one seed that the league does not use: as it is
   adapted to the data, at half and at twice the learning rate, and with five changes of its own, one at a time, of the
   sampling of times, the share of rows, the distance, the coupling, or what it has in their place (`OWN`). The one with
   the lowest score is taken, the geometric mean over one and two network calls (one call for methods of one step).
2. *League.* Each method as tuned, from five other seeds. Equal seeds have equal initial weights, data order and noise.

What is equal is the number of network passes in training: forward passes of rows, a backward pass counted twice, a
derivative in forward mode once more, teachers' answers and half of the passes for the teacher's own training. The base
is the step of `ism`, at the number of steps of `PLANE` or `CLOTHES`. Methods with a time in their targets get the
network's time scale of their rows, 10; the others 1000.

Rules, written before the league was run. The score is the 2-Wasserstein distance in the plane, and the Frechet distance
in the kit's own features for clothes. Clothes are scored from two sets of noise: the strength of guidance is chosen on
one, and what is reported is the other. Differences from `ism` are paired by seed, in logarithms, by Student's test; its
probabilities are corrected after Holm over all comparisons of one data set, one number of calls and one kind
(unguided, or at the best strength).
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ismkit.data.sets import Labelled, checkerboard, eight_gaussians
from ismkit.evaluation.judges import Setting
from ismkit.method.coupling import Coupling
from ismkit.method.guidance import Strengths
from ismkit.method.recipes import RECIPES, BakedIn, Recipe
from ismkit.method.rows import Intervals
from ismkit.method.wavelet import Normalised, l2
from ismkit.neighbours.drifting import DRIFTING, Drift, SinkhornDrift
from ismkit.neighbours.leap import ExponentialCut, HalvingCut, Leap, SigmoidCut
from ismkit.neighbours.recipes import NEIGHBOURS, guided
from ismkit.neighbours.teachers import Trained, dual_end, facm, truncated
from ismkit.sweeps.runner import run_trials
from ismkit.sweeps.sweep import Trial, settings, write_table
from ismkit.training.runs import RUNS, Run, equal_passes
from ismkit.utils.files import out_dir
from ismkit.utils.settings import change

HERE = Path(__file__).parent
SEEDS, TUNING_SEED = range(5), 1000
# Noise and data are assigned within classes, as in `ism`. An exact plan over the 8192 rows of its 32 batches takes
# seconds in the plane, where classes are few and so large; so the pools there are smaller.
PLANE_POOL, POOL = 4, 32
CHOSEN, REPORTED = 0, 1  # seeds of the samples' noise

#: What one setting of a recipe becomes: values by their paths, or a function of the recipe.
Changes = Mapping[str, Any] | Callable[[Recipe], Recipe]


@dataclass(frozen=True)
class Method:
    """One row of the league.

    Attributes:
        recipe: as it stands, or, of a teacher, a function of it.
        own: five changes that it is tuned by, one at a time.
        teacher: the method of its teacher.
        calls: the numbers of network calls at which it can sample.
        guided: whether it takes a strength.
    """

    recipe: Recipe | Callable[[Any], Recipe]
    own: Mapping[str, Changes]
    teacher: str = ""
    calls: tuple[int, ...] = (1, 2, 4, 128)
    guided: bool = True


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


def other_distance(recipe: Recipe) -> Recipe:
    """Squares where the distance is not squares; else squares over their root."""
    return replace(recipe, distance=Normalised(l2, 0.5) if recipe.distance is l2 else l2)


def boundary(recipe: Recipe, value: float) -> Recipe:
    """A truncated consistency model with another boundary."""
    rows = replace(recipe.rows, boundary=value)
    return replace(recipe, rows=rows, target=replace(recipe.target, boundary=value))


def other_coupling(recipe: Recipe) -> Recipe:
    """Noise drawn for each sample where it is coupled, else coupled; the league says in which pool."""
    return replace(recipe, coupling=Coupling(pool=0 if recipe.coupling.pool else POOL))


def of_intervals(low: float, high: float) -> dict[str, Changes]:
    """The five changes of methods that cut intervals."""
    return {
        "times": other_times,
        f"share {low:.2g}": share(low),
        f"share {high:.2g}": share(high),
        "distance": other_distance,
        "coupling": other_coupling,
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
    "coupling": other_coupling,
}
_TO_DATA: dict[str, Changes] = {"times": other_times, "share 3/4": share(3 / 4), "distance": other_distance}
_TAUGHT = of_intervals(1 / 3, 3 / 4)
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
        {"times": _DYADIC["times"], "share 1/4": share(1 / 4), "share 1/2": share(1 / 2)}
        | {"distance": other_distance, "coupling": other_coupling},
        guided=False,
    ),
    "ism": Method(RECIPES["ism"], {**_DYADIC, "coupling": other_coupling}),
    "ism without guidance": Method(_UNGUIDED_ISM, {**_DYADIC, "coupling": other_coupling}, guided=False),
    "ism_plus": Method(RECIPES["ism_plus"], {**_DYADIC, "times": {"rows.time_power": 1.0}, "coupling": other_coupling}),
    "meanflow": Method(NEIGHBOURS["meanflow"], of_intervals(1 / 8, 1 / 2)),
    "imf": Method(NEIGHBOURS["imf"], of_intervals(1 / 4, 3 / 4)),
    "alpha_flow": Method(NEIGHBOURS["alpha_flow"], of_intervals(1 / 4, 3 / 4)),
    "split_meanflow": Method(NEIGHBOURS["split_meanflow"], of_intervals(1 / 4, 3 / 4)),
    "soflow": Method(NEIGHBOURS["soflow"], of_intervals(1 / 4, 3 / 4)),
    "ect": Method(
        NEIGHBOURS["ect"], {**_TO_DATA, "cut to 1/32": {"target.cut": HalvingCut(6)}, "coupling": other_coupling}
    ),
    "sct": Method(
        NEIGHBOURS["sct"],
        {**_TO_DATA, "cut to 1/32": {"target.cut": HalvingCut(6)}, "cut to 1/1024": {"target.cut": HalvingCut(11)}},
    ),
    "imm": Method(
        NEIGHBOURS["imm"],
        {
            "times": other_times,
            "a quarter from the noise": {"rows.from_noise": 0.25},
            "groups of 8": {"rows.size": 8, "distance.size": 8},
            "k = 11": {"target.k": 11},
            "coupling": other_coupling,
        },
        guided=False,
    ),
    "drifting": Method(
        NEIGHBOURS["drifting"],
        {
            "radii (0.1, 0.3, 1)": {"target.radii": (0.1, 0.3, 1.0)},
            "radii (0.05, 0.2, 0.5)": {"target.radii": (0.05, 0.2, 0.5)},
            "one radius": {"target.radii": (0.2,)},
            "drift not normalised": {"target": Drift((0.1, 0.3, 1.0), normalised=False)},
            "coupling": other_coupling,
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
            "coupling": other_coupling,
        },
        calls=(1,),
        guided=False,
    ),
    "facm": Method(facm, {**_TAUGHT, "distance": {"distance": l2}}, teacher="flow", guided=False),
    "dual_end": Method(dual_end, _TAUGHT, teacher="flow", guided=False),
    # Beyond its boundary the first stage answers: at 1 and 2 calls nothing is asked there.
    "tcm": Method(
        truncated,
        {
            "times": other_times,
            "boundary 0.7": partial(boundary, value=0.7),
            "distance": other_distance,
            "cut to 1/32": {"target.leap.cut": HalvingCut(2, first=1 / 16)},
            "coupling": other_coupling,
        },
        teacher="ect",
        calls=(1, 2),
        guided=False,
    ),
}


@dataclass(frozen=True)
class League:
    """One data set: what is trained, and how it is scored.

    Attributes:
        name: of the table.
        run: data, network, optimiser, and as many steps as `ism` makes.
        metric: the score, of which less is better.
        tuned: settings of the tuning, by whether a method is guided.
        scored: settings of the league.
        pool: batches in one assignment, of methods that couple noise and data.
        guidance: whether methods that can be are guided.
    """

    name: str
    run: Run
    metric: str
    tuned: tuple[Setting, ...]
    scored: tuple[Setting, ...]
    pool: int = PLANE_POOL
    guidance: bool = False

    def recipe(self, method: Method, teacher: Any = None) -> Recipe:
        """The recipe of a method, adapted to the data, and guided where that is wanted."""
        recipe = method.recipe if isinstance(method.recipe, Recipe) else method.recipe(teacher)
        if self.guidance and method.guided and isinstance(recipe.rows, Intervals):
            recipe = guided(recipe)
        return self.run.adapt(recipe)

    def trial(self, name: str, label: str, seed: int, length: float, teacher: Trained | None, tuning: bool) -> Trial:
        """One training of a method with one change of it."""
        method = METHODS[name]
        base = replace(self.run, recipe=self.run.adapt(RECIPES["ism"]), steps=round(length * self.run.steps))
        recipe, rate = self.recipe(method, teacher), {"rate / 2": 0.5, "rate x 2": 2.0}.get(label, 1.0)
        if label in method.own:
            recipe = changed(recipe, method.own[label])
        if recipe.coupling.pool:
            recipe = replace(recipe, coupling=replace(recipe.coupling, pool=self.pool))
        run = equal_passes(base, recipe, 0.5 if method.teacher else 1.0)
        run = replace(run, optim=replace(run.optim, lr=rate * run.optim.lr))
        takes = self.guidance and method.guided
        chosen = tuple(
            s for s in (self.tuned if tuning else self.scored) if s.nfe in method.calls and (takes or s.w == 0)
        )
        labels = (
            ("league", self.name),
            ("method", name),
            ("change", label),
            ("cost", 4 * base.steps * base.batch_size),
        )
        return Trial(name, run, seed, chosen, labels)

    def teacher(self, name: str, seed: int, length: float) -> Trial:
        """The training of a method's teacher, by half of the passes."""
        found = self.trial(METHODS[name].teacher, "", seed, length / 2, None, True)
        return replace(found, variant=f"{found.variant}, a teacher", settings=found.settings[:1])


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
_CLOTHES = replace(RUNS["fashion"], steps=500, batch_size=128)
_POINTS = {"metric": "w2", "tuned": settings((1, 2), (0.0,), 2000), "scored": settings((1, 2, 4, 128), (0.0,), 2000)}


def _twice(nfe: Iterable[int], w: Iterable[float]) -> tuple[Setting, ...]:
    """Settings with both sets of noise."""
    return tuple(s._replace(seed=noise) for noise in (CHOSEN, REPORTED) for s in settings(nfe, list(w), 1000))


LEAGUES: dict[str, tuple[League, ...]] = {
    "plane": (
        League("checkerboard", replace(_PLANE, load=partial(checkerboard, 20_000, 0)), **_POINTS),  # type: ignore[arg-type]
        League("eight Gaussians", replace(_PLANE, load=eight_gaussians_without_labels), **_POINTS),  # type: ignore[arg-type]
    ),
    "clothes": (
        League(
            "clothes",
            _CLOTHES,
            "frechet",
            settings((1, 2), (0.0, 1.0), 1000),
            (*_twice((1, 2, 4), (0.0, 0.5, 1.0, 2.0)), *_twice((128,), (0.0, 1.0))),
            pool=POOL,
            guidance=True,
        ),
    ),
}


_IMF = NEIGHBOURS["imf"]
#: One choice of improved MeanFlow changed at a time, on the checkerboard.
CHOICES: dict[str, Changes] = {
    "imf": {},
    "tangent: sample": {"target.tangent": "first"},
    "velocity: predicted too": {"target.first": "net"},
    "cut 0.1 to 0.002": {"target": Leap("sample", ExponentialCut())},
    "cut 1 to 0": {"target": Leap("sample", SigmoidCut(), weight=1.0)},
    "cut 1/2, own step": {"target": Leap("own", 0.5)},
    "cut at random, own step": {"target": Leap("own", "uniform")},
    "targets: average 0.95": {"fast": 0.95},
    "targets: average 0.999": {"fast": 0.999},
    "coupling": other_coupling,
    "time scale 1000": {"rows.time_scale": 1000.0},
}


def choices() -> list[Trial]:
    """Trials of improved MeanFlow and its variants, at equal passes."""
    league, trials = LEAGUES["plane"][0], []
    base = replace(league.run, recipe=league.run.adapt(RECIPES["ism"]))
    for seed in SEEDS:
        for label, changes in CHOICES.items():
            recipe = changed(league.run.adapt(_IMF), changes)
            if recipe.coupling.pool:
                recipe = replace(recipe, coupling=replace(recipe.coupling, pool=league.pool))
            trials.append(Trial(label, equal_passes(base, recipe), seed, league.scored, (("league", league.name),)))
    return trials


def with_teachers(
    league: League, wanted: Iterable[tuple[str, str, int]], length: float, folder: Path, tuning: bool
) -> list[Trial]:
    """Trials of methods, changes and seeds; teachers that are not there are trained first."""
    wanted = list(wanted)
    teachers = {(name, seed): league.teacher(name, seed, length) for name, _, seed in wanted if METHODS[name].teacher}
    if teachers:
        run_trials(teachers.values(), folder)
    trained = {key: Trained.at(folder / "models" / f"{trial.key}.safetensors") for key, trial in teachers.items()}
    return [league.trial(name, label, seed, length, trained.get((name, seed)), tuning) for name, label, seed in wanted]


def best_changes(frame: pd.DataFrame, metric: str) -> dict[str, str]:
    """The change of each method with the lowest score: the mean of logarithms over settings at the better strength."""
    best = frame.groupby(["method", "change", "nfe"], sort=False)[metric].min()
    score = best.map(math.log).groupby(["method", "change"], sort=False).mean()
    return dict(score.groupby("method", sort=False).idxmin().to_list())


def main(name: str) -> None:
    """Tune, then run the league, and write both tables; or do the choices, and write theirs."""
    folder, frames = out_dir() / "league", []
    if name == "choices":
        write_table(run_trials(choices(), folder), HERE / "league-choices.parquet")
        return
    names = [method for method in METHODS if name == "clothes" or method != "ism_plus"]
    names = [method for method in names if name == "plane" or method != "ism without guidance"]
    for league in LEAGUES[name]:
        grid = [
            (method, label, TUNING_SEED)
            for method in names
            for label in ("as it is", "rate / 2", "rate x 2", *METHODS[method].own)
        ]
        tuning = run_trials(with_teachers(league, grid, 0.5, folder, True), folder).assign(stage="tuning")
        best = best_changes(tuning, league.metric)
        entries = [(method, best[method], seed) for seed in SEEDS for method in names]
        scores = run_trials(with_teachers(league, entries, 1.0, folder, False), folder).assign(stage="league")
        frames += [tuning, scores]
    write_table(pd.concat(frames, ignore_index=True), HERE / f"league-{name}.parquet")


if __name__ == "__main__":
    main(sys.argv[1])
