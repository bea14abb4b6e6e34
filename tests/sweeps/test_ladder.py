"""The sweeps of notebook 08: the order of the ladder, equal compute, and names that say what is set."""

import math
import re
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise, product
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from ismkit.evaluation.judges import FashionJudge, Setting
from ismkit.evaluation.tables import PAPER
from ismkit.method.recipes import RECIPES, Context
from ismkit.models.saved import released
from ismkit.models.spaces import SPACES
from ismkit.sweeps.ladder import (
    ANY_CLASS,
    BEST_SCALE,
    LADDER,
    OURS,
    SWEEPS,
    TRIED,
    TwoCalls,
    named_sweep,
    of_run,
    reported,
)
from ismkit.sweeps.ladder import RUNGS as COMPARED
from ismkit.sweeps.studies import FOLDER
from ismkit.sweeps.sweep import Sweep, Trial, compare_pairs, read_table
from ismkit.training.runs import RUNS, Run
from ismkit.utils.settings import describe
from tests.method.test_recipes import changes

LADDERS = [name for name in SWEEPS if name.startswith("ladder")]
LAPTOP, SENSITIVITY, TRIALS = SWEEPS["ladder-laptop"], SWEEPS["sensitivity"], SWEEPS["tried"]


def key(run: Run) -> str:
    return Trial("", run, 0, ()).key


def at(settings: Any, path: str) -> Any:
    for name in path.split("."):
        settings = getattr(settings, name)
    return settings


# ---------------------------------------------------------------- all sweeps


def test_sweeps_go_by_their_names() -> None:
    assert tuple(SWEEPS) == tuple(sweep.name for sweep in SWEEPS.values())
    assert all(named_sweep(name) is sweep for name, sweep in SWEEPS.items())
    assert not SWEEPS.keys() & RUNS.keys()  # the command line takes both in one place


@pytest.mark.parametrize("name", SWEEPS)
def test_every_trial_can_be_trained_and_scored(name: str) -> None:
    sweep = SWEEPS[name]
    assert sweep.about
    assert len(set(sweep.seeds)) == len(sweep.seeds)
    assert len(set(sweep.settings)) == len(sweep.settings)
    for trial in sweep.trials():
        recipe = trial.run.recipe
        recipe.rows.blocks(trial.run.batch_size)
        assert recipe.fast <= recipe.slow  # or the averages refuse them
        space = SPACES[trial.run.space]
        for setting in trial.settings:
            setting.check()
            assert 100 <= setting.n <= 10_000  # as many as there are test images
            assert space.name == "emoji" or setting.n % 10 == 0  # as many of each class
    latents = torch.randn(2, 3, *space.shape, generator=torch.Generator().manual_seed(0))
    for run in sweep.runs.values():  # the recipe is adapted: its wavelets fit
        assert run.recipe.distance(*latents).shape == (3,)
        assert run.adapt(run.recipe) == run.recipe


@pytest.mark.parametrize("name", SWEEPS)
def test_variants_are_distinct(name: str) -> None:
    twins = {"sensitivity": 3}  # one setting, where the tables of two parameters meet
    keys = {key(run) for run in SWEEPS[name].runs.values()}
    assert len(keys) == len(SWEEPS[name].runs) - twins.get(name, 0)


@pytest.mark.parametrize("name", SWEEPS)
def test_variants_train_one_network_on_the_same_data_for_as_long(name: str) -> None:
    runs = [run for variant, run in SWEEPS[name].runs.items() if not variant.endswith(" rate")]
    described = [describe(replace(run, recipe=RECIPES["flow"])) for run in runs]
    assert described == described[:1] * len(described)
    emoji = name.startswith("power-emoji")
    released = RUNS["emoji" if emoji else "fashion-smoke" if name == "ladder-smoke" else "fashion"]
    for part in ("load", "adapt") if name.startswith("power") else ("net", "load", "adapt"):
        assert describe(getattr(runs[0], part)) == describe(getattr(released, part))
    assert len({trial.cost for trial in SWEEPS[name].trials()}) == 1


def test_larger_ladders_train_longer_and_all_have_enough_seeds_and_settings() -> None:
    steps = {name: next(iter(SWEEPS[name].runs.values())).steps for name in LADDERS}
    assert steps["ladder-smoke"] < steps["ladder-laptop"] < steps["ladder"] < steps["ladder-gpu"]
    assert [len(SWEEPS[name].seeds) for name in ("ladder", "ladder-gpu", "ladder-laptop")] == [3, 3, 5]
    scored = {(setting.nfe, setting.w) for setting in SWEEPS["ladder-gpu"].settings}
    assert scored == {(nfe, w) for nfe in (1, 2, 4, 8, 128) for w in (0, 0.25, 0.5, 1, 2)}
    assert scored - {(c.nfe, c.w) for c in SWEEPS["ladder"].settings} == {(128, 0.25), (128, 0.5)}
    assert Setting(1, 1.0, 10_000) in SWEEPS["ladder"].settings


@pytest.mark.parametrize("space", SPACES)
def test_the_ladder_with_power_pairs_eight_seeds_and_tunes_the_baseline(space: str) -> None:
    power, twice = SWEEPS[f"power-{space}"], SWEEPS[f"power-{space}-two-calls"]
    assert len(power.seeds) == len(twice.seeds) == 8
    assert {recipe.name for recipe in LADDER} < power.runs.keys()
    scaled = {power.runs[name].recipe.target.cfg_scale: name for name in power.labels}  # type: ignore[attr-defined]
    assert len(scaled) == 4
    assert scaled[1.5] == "shortcut_finest_level"
    assert {name: labels["cfg_scale"] for name, labels in power.labels.items()} == {v: k for k, v in scaled.items()}
    assert [key(twice.runs[name]) for name in twice.runs] == [key(power.runs[name]) for name in scaled.values()]
    noises = {setting.seed for setting in power.settings}
    assert noises == {0, 1}, "one to choose the strength on, one to report"
    assert len(power.settings) == 2 * len({setting._replace(seed=0) for setting in power.settings})
    assert {(c.nfe, c.w > 0) for c in twice.settings} == {(128, True)}
    assert {*twice.settings} < {*power.settings}


def test_strengths_and_scales_are_chosen_on_one_noise_and_reported_from_another() -> None:
    """A strength that is best on the reported noise alone is not taken, nor a scale."""
    label, scaled = {"ism": math.nan}, {"shortcut_finest_level": 1.5, "shortcut_finest_level, scale 3": 3.0}
    rows = []
    for variant, scale in {**label, **scaled}.items():
        for seed, noise, w in product((0, 1), (0, 1), (0.0, 1.0)):
            best = w == noise if variant == "ism" else (scale == 3) == (noise == 0)
            score = (1.0 if best else 2.0) + noise / 10 + seed / 100
            rows.append({"variant": variant, "seed": seed, "noise": noise, "w": w, "nfe": 1, "frechet": score})
            rows[-1]["cfg_scale"] = scale
    frame = pd.DataFrame(rows)
    found = reported(frame)
    assert {*found.noise} == {1}
    ism, tuned = (found[found.variant == name] for name in ("ism", BEST_SCALE))
    assert ({*ism.w}, ism.frechet.tolist()) == ({0.0}, pytest.approx([2.1, 2.11]))
    assert ({*tuned.w}, tuned.frechet.tolist()) == ({3.0}, pytest.approx([2.1, 2.11]))
    assert {"shortcut_finest_level", "shortcut_finest_level, scale 3"} < {*found.variant}
    with pytest.raises(ValueError, match="must be the table of a ladder with power, with cfg_scale"):
        reported(frame.drop(columns="cfg_scale"))


def test_verdicts_that_the_other_noise_changes_are_those_that_the_book_names() -> None:
    changed = set()
    for space in ("clothes", "emoji"):
        frame = read_table(FOLDER / f"power-{space}.parquet")
        for noise in (frame.noise, 1 - frame.noise):
            rows = reported(frame.assign(noise=noise))
            found = compare_pairs(rows, [(upper, lower) for upper, lower, _ in COMPARED], "frechet", within="nfe")
            changed ^= {(space, *pair) for pair in found.index[found.holm < 0.05]}
    assert changed == {("clothes", 1, "ism_plus", "ism"), ("emoji", 4, "ism_guidance", BEST_SCALE)}


def test_every_rung_is_compared_with_the_one_that_it_stands_on() -> None:
    pairs = {(upper, lower) for upper, lower, _ in COMPARED}
    assert len(pairs) == len(COMPARED)
    assert {(upper, lower) for lower, upper, _ in RUNGS[1:]} < pairs
    names = {recipe.name for recipe in LADDER}
    assert {upper for upper, _ in pairs} == names - {*BASELINES}
    assert {lower for _, lower in pairs} < names | {BEST_SCALE}


def test_a_shortcut_model_is_guided_by_a_second_call_where_it_is_not_by_itself() -> None:
    """At 128 steps nothing is baked in; two calls make as much of it as is asked, the same as by hand."""
    net, _ = released("shortcut_finest_level")
    judge, setting = FashionJudge.load(), Setting(128, 2.0, 100)
    alone, guided = judge.score(net, setting._replace(w=0.0)), TwoCalls("clothes").score(net, setting)
    assert guided["agreement"] > alone["agreement"]

    def by_hand(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        some, none = net(x, t, d, 0 * w, y), net(x, t, d, 0 * w, torch.full_like(y, 10))
        return some + w[:, None, None, None] * (some - none)

    assert guided == pytest.approx(judge.score(by_hand, setting), rel=1e-3)


# ---------------------------------------------------------------- the ladder

BASELINES = ("flow", "shortcut_every_level", "shortcut_finest_level")
FIXES = ("ism_guidance", "+interval", "+wavelet", "+sot_any_class", "+sot", "ism")
RUNGS = [
    ("shortcut_every_level", "shortcut_finest_level", "recipe.target.every_level"),
    ("ism_guidance", "+interval", "recipe.target.t_interval"),
    ("+interval", "+wavelet", "recipe.distance"),
    ("+wavelet", "+sot", "recipe.coupling.pool"),
    ("+sot", "ism", "recipe.fast"),
]


def test_the_ladder_is_the_papers_after_the_baselines() -> None:
    assert tuple(recipe.name for recipe in LADDER) == (*BASELINES, *FIXES, "ism_plus")
    for recipe in LADDER:
        assert recipe == (ANY_CLASS if recipe.name == "+sot_any_class" else RECIPES[recipe.name])


def test_the_papers_figures_are_of_rungs_in_order_and_fall() -> None:
    assert list(PAPER) == [recipe.name for recipe in LADDER if recipe.name in PAPER]
    assert {*FIXES} - PAPER.keys() == {"+sot_any_class"}  # which the paper does not tell apart
    for one, other in pairwise(PAPER.values()):
        assert (one[0] > other[0], one[1] > other[1]) == (True, True)


def test_transport_over_any_class_ignores_the_labels_in_smaller_pools() -> None:
    assert changes(RECIPES["+sot"], ANY_CLASS) == {
        "name": ("+sot", "+sot_any_class"),
        "coupling.pool": (32, 8),  # one plan over 8192 rows is too dear on a CPU
        "coupling.class_aware": (True, False),
    }
    # What it is to be compared with: the same pools within the classes.
    within, across = table_of("K")[8], LAPTOP.runs["+sot_any_class"]
    assert changes(within, across).keys() == {"recipe.name", "recipe.coupling.class_aware"}


@pytest.mark.parametrize("name", LADDERS)
def test_every_ladder_has_every_rung_in_order(name: str) -> None:
    runs = SWEEPS[name].runs
    assert list(runs) == [recipe.name for recipe in LADDER]
    assert all(run.recipe.name == variant for variant, run in runs.items())


@pytest.mark.parametrize("name", LADDERS)
@pytest.mark.parametrize(("lower", "upper", "part"), RUNGS, ids=[rung[1] for rung in RUNGS])
def test_a_rung_differs_from_the_one_before_in_one_part(name: str, lower: str, upper: str, part: str) -> None:
    runs = SWEEPS[name].runs
    assert changes(runs[lower], runs[upper]).keys() == {"recipe.name", part}


# ---------------------------------------------------------------- sensitivities

PARAMETERS = {  # where it is set, the paper's value, and the rung of the ladder that has it
    "w_max": ("rows.strengths.w_max", 3.5, "ism_guidance"),
    "t_interval": ("target.t_interval", 0.3, "+interval"),
    "levels": ("distance.levels", 3, "+wavelet"),  # of five, as many as 8 x 8 latents have
    "K": ("coupling.pool", 32, "+sot"),
    "target EMA": ("fast", 0.95, "ism"),
}


def table_of(parameter: str) -> dict[Any, Run]:
    """The runs of one table, by value."""
    labels = SENSITIVITY.labels
    return {labels[v]["value"]: run for v, run in SENSITIVITY.runs.items() if labels[v]["parameter"] == parameter}


def test_every_variant_is_labelled_by_name_parameter_and_value() -> None:
    for trial in SENSITIVITY.trials():
        labels = dict(trial.labels)
        assert SENSITIVITY.labels[trial.variant].items() <= labels.items()
        assert trial.variant == f"{labels['parameter']} {labels['value']:g}"
    assert {labels["parameter"] for labels in SENSITIVITY.labels.values()} == PARAMETERS.keys()
    assert SENSITIVITY.labels.keys() == SENSITIVITY.runs.keys()


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_a_label_is_the_value_that_is_set_and_nothing_else_changes(parameter: str) -> None:
    path, paper, rung = PARAMETERS[parameter]
    runs = table_of(parameter)
    assert len(runs) >= 3
    assert paper in runs
    place = "distance" if parameter == "levels" else path
    for value, run in runs.items():
        assert at(run.recipe, path) == value
        assert changes(LAPTOP.runs[rung], run).keys() <= {f"recipe.{place}"}


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_the_papers_value_is_a_rung_of_the_ladder_and_is_not_trained_twice(parameter: str) -> None:
    _, paper, rung = PARAMETERS[parameter]
    assert key(table_of(parameter)[paper]) == key(LAPTOP.runs[rung])


@pytest.mark.parametrize("sweep", [SENSITIVITY, TRIALS], ids=lambda sweep: sweep.name)
def test_what_the_ladder_has_scored_is_not_scored_again(sweep: Sweep) -> None:
    assert set(sweep.seeds) <= set(LAPTOP.seeds)
    assert set(sweep.settings) <= set(LAPTOP.settings)


# ---------------------------------------------------------------- what was tried


@pytest.mark.parametrize("name", TRIED)
def test_a_trial_changes_one_setting_of_ism(name: str) -> None:
    path, value = TRIED[name]
    run = TRIALS.runs[name]
    assert at(run.recipe, path) == value != at(TRIALS.runs["ism"].recipe, path)
    places = changes(TRIALS.runs["ism"], run)
    assert all(f"{place}.".startswith(f"recipe.{path}.") for place in places)
    for part in ("guidance", "consistency"):  # rows, where the name tells how many
        if told := re.search(rf"{part}(?: rows)? (\d/\d)", name):
            assert places[f"recipe.rows.{part}"][1] == Fraction(told[1])


def test_parts_that_were_tried_make_ism_plus() -> None:
    ism, plus = TRIALS.runs["ism"], TRIALS.runs["ism_plus"]
    assert (key(ism), key(plus)) == (key(LAPTOP.runs["ism"]), key(LAPTOP.runs["ism_plus"]))
    parts = dict(TRIED[name] for name in OURS)
    assert changes(ism.recipe, plus.recipe).keys() == {"name", *parts}
    assert {path: at(plus.recipe, path) for path in parts} == parts


def test_ism_plus_asks_its_target_network_as_often_as_ism() -> None:
    asked: dict[str, int] = {}
    for name in ("ism", "ism_plus"):
        rows = TRIALS.runs[name].recipe.rows
        x0, x1 = torch.randn(2, 128, 2, generator=torch.Generator().manual_seed(0))
        query, velocity = rows(x0, x1, torch.arange(128) % 10, 10, torch.Generator().manual_seed(0))
        calls: list[int] = []

        def count(x: Tensor, *_: Tensor, calls: list[int] = calls) -> Tensor:
            calls.append(len(x))
            return x

        TRIALS.runs[name].recipe.target(query, velocity, rows, Context(count, count, 10))
        asked[name] = sum(calls)
    assert asked == {"ism": 128, "ism_plus": 128}


@pytest.mark.parametrize("name", OURS)
def test_ism_plus_without_a_part_has_the_value_of_ism_there(name: str) -> None:
    path, value = TRIED[name]
    ism, plus = TRIALS.runs["ism"].recipe, TRIALS.runs["ism_plus"].recipe
    without = TRIALS.runs[f"ism_plus without {name}"].recipe
    assert changes(plus, without) == {path: (value, at(ism, path))}
    assert changes(ism, without).keys() == {"name", *(TRIED[other][0] for other in OURS if other != name)}


def test_a_constant_rate_of_learning_changes_nothing_else() -> None:
    ism = TRIALS.runs["ism"]
    assert changes(ism, TRIALS.runs["constant rate"]) == {"optim.cooldown": (ism.optim.cooldown, 0.0)}


def test_every_trial_says_of_which_kind_it_is() -> None:
    kinds = {name: labels["kind"] for name, labels in TRIALS.labels.items()}
    one = dict.fromkeys([*TRIED, "constant rate"], "ism, one change")
    less = {f"ism_plus without {name}": "ism_plus, one part less" for name in OURS}
    assert kinds == {"ism": "recipe", "ism_plus": "recipe"} | one | less
    assert kinds.keys() == TRIALS.runs.keys()


# ---------------------------------------------------------------- sweeps of runs


@pytest.mark.parametrize("name", RUNS)
def test_a_sweep_of_a_run_is_the_run_with_each_recipe(name: str) -> None:
    sweep = of_run(RUNS[name], ["flow", "+wavelet"])
    assert (sweep.name, sweep.seeds) == (name, (0, 1, 2))
    assert {(setting.nfe, setting.w, setting.n) for setting in sweep.settings} == {
        (k, w, 1000) for k in (1, 4) for w in (0.0, 1.0)
    }
    assert list(sweep.runs) == ["flow", "+wavelet"]
    for recipe, run in sweep.runs.items():
        assert run == replace(RUNS[name], recipe=RUNS[name].adapt(RECIPES[recipe]))
