"""The league: equal passes, equal tuning, and tables that hold what the notebook reads."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from torch import Tensor

from ismkit.evaluation.tables import PAPER_FID
from ismkit.method.coupling import Coupling
from ismkit.method.recipes import RECIPES
from ismkit.models.saved import save_model
from ismkit.neighbours import NEIGHBOURS, Trained
from ismkit.sweeps.studies import FOLDER
from ismkit.sweeps.sweep import against, at_best, compare_pairs, read_table
from ismkit.training.costs import row_cost
from ismkit.training.runs import RUNS, shape_and_classes


def script() -> ModuleType:
    """The study's script as a module."""
    spec = importlib.util.spec_from_file_location("league", FOLDER / "league.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["league"] = module  # its dataclasses look their annotations up there
    spec.loader.exec_module(module)
    return module


LEAGUE = script()


def teacher(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
    return x


def trainings(league: Any, name: str, change: str) -> list[Any]:
    """The training of a method with a change, and of its teacher."""
    entry = LEAGUE.Entry(name, change, seed=0)
    taught = bool(LEAGUE.METHODS[name].teacher)
    trial = league.trial(entry, 1.0, league.scored, teacher if taught else None)
    return [trial.run, *([league.teacher(entry, 1.0).run] if taught else [])]


COUNTED: dict[Any, float] = {}


def counted(recipe: Any, *of: Any) -> float:
    """The cost of a row, counted once: leagues share most of their recipes, and a coupling asks no network."""
    key = repr(replace(recipe, coupling=Coupling())), *of
    if key not in COUNTED:
        COUNTED[key] = row_cost(recipe, *of)
    return COUNTED[key]


def spent_by(run: Any) -> float:
    """The passes of a training, for each row of its batch."""
    return run.steps * counted(run.recipe, run.batch_size, *shape_and_classes(run))


@pytest.mark.parametrize("name", LEAGUE.LEAGUES)
def test_every_method_spends_as_much_whatever_is_changed_of_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ismkit.training.runs.row_cost", counted)
    league = LEAGUE.LEAGUES[name]
    (ism,) = trainings(league, "ism", LEAGUE.AS_IT_IS)
    spent = spent_by(ism)
    for method in league.methods:
        changes = [LEAGUE.AS_IT_IS, *LEAGUE.RATES, *LEAGUE.METHODS[method].own]
        assert len(changes) == 7, "an equal budget of tuning"
        settings = set()
        for change in changes:
            runs = trainings(league, method, change)
            passes = sum(map(spent_by, runs))
            assert passes == pytest.approx(spent, rel=0.01), (method, change)
            settings.add(repr((runs[0].recipe, runs[0].optim)))
        assert len(settings) == 7, f"{method}: two changes are one"


def test_a_student_begins_with_the_weights_of_its_teacher(tmp_path: Path) -> None:
    league = LEAGUE.LEAGUES["checkerboard"]
    save_model(league.run.build(2), tmp_path / "first.safetensors", {})
    first = Trained.at(tmp_path / "first.safetensors")
    for name in ("tcm", "facm", "dual_end"):
        entry = LEAGUE.Entry(name, LEAGUE.AS_IT_IS, seed=0)
        run = league.trial(entry, 1.0, league.scored, first).run
        assert run.net == first.copy
        teacher = league.teacher(entry, 1.0).run.build(2)
        assert teacher.config["time_scale"] == run.recipe.rows.time_scale  # its weights are for these times


@pytest.mark.parametrize("name", LEAGUE.LEAGUES)
def test_drifting_compares_the_bands_of_latents_and_points_as_they_are(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ismkit.training.runs.row_cost", counted)
    league = LEAGUE.LEAGUES[name]
    for change in [LEAGUE.AS_IT_IS, *LEAGUE.METHODS["drifting"].own]:
        (run,) = trainings(league, "drifting", change)
        assert run.recipe.target.levels == (3 if "clothes" in name else 0), change


def test_the_best_change_is_chosen_at_the_better_strength_by_the_mean_of_logarithms() -> None:
    columns = ["method", "change", "nfe", "w", "w2"]
    rows = [
        ("a", "x", 1, 0, 1.0),
        ("a", "x", 2, 0, 9.0),
        ("a", "y", 1, 0, 4.0),
        ("a", "y", 1, 1, 2.0),
        ("a", "y", 2, 0, 3.0),
    ]
    rows += [("b", "x", 1, 0, 5.0), ("b", "y", 1, 0, 4.0)]
    assert LEAGUE.best_changes(pd.DataFrame(rows, columns=columns), "w2") == {"a": "y", "b": "y"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("league-*.parquet")), ids=lambda path: path.stem)
def test_committed_tables_are_complete(path: Any) -> None:
    """Every variant with the same five seeds or more, and every training once."""
    frame = read_table(path)
    groups = [*({"league", "division"} & {*frame}), "variant", "nfe", "w", "noise"]
    if "stage" in frame:
        tuning, frame = frame[frame.stage != "league"], frame[frame.stage == "league"]
        tried = len(LEAGUE.RAISED) + len(LEAGUE.TOGETHER) if path.stem == "league-raised" else 7
        assert set(tuning.groupby("method").change.nunique()) == {tried}
        assert not set(frame.seed) & set(tuning.seed), "a seed of the tuning is in the league"
    seeds = frame.groupby(groups).seed.agg(set)
    assert len(seeds.iloc[0]) >= 5
    assert all(found == seeds.iloc[0] for found in seeds)
    assert not frame.duplicated([*groups, "seed"]).any()


def test_the_recipe_that_was_raised_is_the_one_that_was_trained() -> None:
    frame = read_table(FOLDER / "league-raised.parquet")
    raised = frame[frame.variant == "ism_plus raised"]
    (label,) = set(raised[raised.stage == "league"].change)
    assert LEAGUE.best_changes(raised[raised.stage != "league"], "frechet") == {"ism_plus raised": label}
    (trial,) = LEAGUE.raised([10], [label])
    named = LEAGUE.LEAGUES["clothes-coupled"].run.adapt(NEIGHBOURS["meanflow_plus"])
    assert replace(trial.run.recipe, name=named.name) == named


def test_what_the_page_says_of_what_was_raised_is_in_its_table() -> None:
    frame = read_table(FOLDER / "league-raised.parquet")
    played, rounds = frame[frame.stage == "league"], frame[frame.stage != "league"]
    assert rounds.change.nunique() == 25
    best = at_best(played, "frechet", (0, 1))
    means = best.groupby(["nfe", "variant"]).frechet.mean().unstack()
    assert set(means.idxmin(axis=1)) == {"ism_plus raised"}
    own = means["ism_plus raised"]
    assert own[128] == pytest.approx(own[2], rel=0.05)
    ratios, probabilities = {}, []
    for nfe, other in ((1, "imf"), (2, "meanflow")):
        assert means.drop(columns="ism_plus raised").idxmin(axis=1)[nfe] == other
        found = against(best[best.nfe == nfe], other, "frechet").loc["ism_plus raised"]
        assert found.high < 1
        ratios[nfe] = f"{found.ratio:.2f}"
        probabilities.append(found.p)
        for worse in ("ism", "ism_plus", "meanflow", "imf"):
            assert against(best[best.nfe == nfe], worse, "frechet").loc["ism_plus raised"].high < 1
    assert ratios == {1: "0.88", 2: "0.81"}
    assert f"{2 * min(probabilities):.2f}" == f"{max(2 * min(probabilities), max(probabilities)):.2f}" == "0.08"
    plain = played[(played.noise == played.noise.max()) & (played.w == 0) & (played.nfe == 1)]
    assert plain.groupby("variant").frechet.mean().idxmin() == "ism_plus"
    first = rounds[rounds.stage == "one change"].groupby(["change", "nfe"]).frechet.min().unstack()
    score = (first[1] * first[2]) ** 0.5 / (first.loc["as it is", 1] * first.loc["as it is", 2]) ** 0.5
    assert set(score[score < 0.95].index) == {"targets: average 0.9"}
    assert score["derivative"] > 5


def test_the_planned_comparisons_were_repeated_with_other_seeds() -> None:
    before, frame = (read_table(FOLDER / f"league-{name}.parquet") for name in ("raised", "replicated"))
    assert set(frame.seed) == set(LEAGUE.AGAIN)
    for path in FOLDER.glob("league-*.parquet"):
        assert path.stem == "league-replicated" or not set(read_table(path).seed) & set(frame.seed), path
    played = before[before.stage == "league"].groupby("variant").change.first()
    assert frame.groupby("variant").change.unique().map(list).to_dict() == {
        name: [played[name]] for name in ("ism_plus raised", *LEAGUE.PLANNED.values())
    }
    best = at_best(frame, "frechet", (0, 1))
    best = best.assign(variant=best.variant + best.nfe.map(" {}".format))
    pairs = [(f"ism_plus raised {nfe}", f"{other} {nfe}") for nfe, other in LEAGUE.PLANNED.items()]
    found = compare_pairs(best, pairs, "frechet")
    assert found.ratio.round(2).tolist() == [0.89, 0.88]
    assert found.holm.round(3).tolist() == [0.017, 0.001]
    rest = compare_pairs(best, [("ism_plus raised 4", "meanflow 4")], "frechet").iloc[0]
    assert [f"{rest[name]:.2f}" for name in ("ratio", "low", "high")] == ["0.97", "0.95", "1.00"]
    assert rest.high > 1
    means = best.groupby("variant").frechet.mean()
    others = [means[f"{name} 128"] for name in ("meanflow", "imf")]
    assert means["ism_plus raised 128"] / others[0] == pytest.approx(3 / 4, abs=0.02)
    assert means["ism_plus raised 128"] / others[1] == pytest.approx(2 / 3, abs=0.02)


def test_what_is_trained_on_emoji_is_what_was_chosen_on_clothes_at_equal_passes(tmp_path: Path) -> None:
    league, frame = LEAGUE.EMOJI, read_table(FOLDER / "league-raised.parquet")
    chosen = frame[frame.stage == "league"].groupby("variant").change.first()
    (plus,) = LEAGUE.raised([0], [chosen["ism_plus raised"]], league=league)
    named = RUNS["emoji"].adapt(NEIGHBOURS["meanflow_plus"])
    assert replace(plus.run.recipe, name=named.name) == named
    entries = [LEAGUE.Entry(name, chosen[name], 0) for name in ("ism", "ism_plus")]
    trials = [plus, *league.trials(entries, 1.0, league.scored, LEAGUE.Place(tmp_path))]
    assert {(trial.run.space, trial.run.batch_size) for trial in trials} == {("emoji", RUNS["emoji"].batch_size)}
    assert [trial.run.recipe.rows.consistency for trial in trials[1:]] == [1 / 8, 1 / 8]  # as tuned on clothes
    base = spent_by(replace(league.run, recipe=league.run.adapt(RECIPES["ism"])))
    assert [spent_by(trial.run) for trial in trials] == pytest.approx([base] * 3, rel=1e-3)


def test_what_the_page_says_of_emoji_is_in_its_table() -> None:
    chosen, frame = (read_table(FOLDER / f"league-{name}.parquet") for name in ("raised", "emoji"))
    played = chosen[chosen.stage == "league"].groupby("variant").change.first()
    names, calls = ["ism", "ism_plus", "ism_plus raised"], (1, 2, 4, 128)
    assert frame.groupby("variant").change.unique().map(list).to_dict() == {name: [played[name]] for name in names}
    assert set(frame.seed) == set(LEAGUE.SEEDS)
    best = at_best(frame, "frechet", (0, 1))
    best = best.assign(variant=best.variant + best.nfe.map(" {}".format))
    upper = [("ism_plus", "ism"), ("ism_plus raised", "ism_plus"), ("ism_plus raised", "ism")]
    found = compare_pairs(best, [(f"{a} {nfe}", f"{b} {nfe}") for a, b in upper for nfe in calls], "frechet")
    assert len(found) == 12, "corrected for all of them"
    ratios = found.ratio.round(2).to_list()
    assert ratios[:8] == [0.84, 0.87, 0.89, 0.77, 1.02, 0.93, 0.90, 0.90]
    assert list(found.holm < 0.05) == [True] * 4 + [False] + [True] * 7
    assert [f"{found.iloc[4][name]:.2f}" for name in ("low", "high")] == ["0.98", "1.07"]
    clothes = chosen[chosen.stage == "league"]
    for scored, first in ((frame, calls), (clothes[clothes.variant.isin(names)], (1, 2))):
        plain = scored[(scored.noise == 1) & (scored.w == 0)]
        lowest = plain.groupby(["nfe", "variant"]).frechet.mean().unstack().idxmin(axis=1)
        assert tuple(lowest[lowest == "ism_plus"].index) == first


def test_longer_trainings_are_of_the_league_s_methods_as_tuned() -> None:
    for name, tuned in LEAGUE.LONGER.items():
        frame = read_table(FOLDER / f"league-{name}.parquet")
        chosen = frame[frame.stage == "league"].groupby("variant").change.first()
        assert {method: chosen[method] for method in tuned} == tuned


def test_what_the_page_says_of_the_method_that_is_behind_is_in_the_tables() -> None:
    longer, ratios = read_table(FOLDER / "league-reasons.parquet"), {}
    for name in LEAGUE.LONGER:
        frame = read_table(FOLDER / f"league-{name}.parquet")
        frame = frame[(frame.stage == "league") & frame.variant.isin(["ism", "tcm"])]
        shown = pd.concat([frame, longer[longer.league == frame.league.iloc[0]]])
        shown = shown[shown.nfe == 1].replace(
            {"variant": {"tcm, 4 times the passes": "more", "ism, 4 times the passes": "base"}}
        )
        to_ism = against(shown, "ism", "w2")
        at_four = against(shown, "base", "w2").ratio["more"]
        assert to_ism.low["more"] < 1 < to_ism.high["more"]
        ratios[name] = to_ism.ratio["tcm"].round(2), at_four.round(2)
    assert ratios == {"checkerboard": (1.68, 1.18), "gaussians": (2.16, 1.10)}


def test_the_map_agrees_with_the_paper_s_tables() -> None:
    papers = pd.read_csv(FOLDER / "field.csv").set_index("paper")
    for name, row in {"SM": "Shortcut model XL/2", "IMM": "IMM XL/2", "iSM": "iSM XL/2"}.items():
        for calls in (1, 2, 4):
            found = papers.loc[row, f"calls_{calls}"]
            assert (PAPER_FID[name].get(calls) == found) or (pd.isna(found) and calls not in PAPER_FID[name])


def test_what_the_page_says_of_the_league_of_clothes_is_in_its_table() -> None:
    frame = read_table(FOLDER / "league-clothes.parquet")
    played = frame[frame.stage == "league"]
    assert set(played.variant) == set(LEAGUE.LEAGUES["clothes"].methods)
    assert set(played[played.nfe <= 4].w) == {0.0, 0.5, 1.0, 2.0, 3.5}
    plain = played[(played.noise == played.noise.max()) & (played.w == 0)]
    means = plain.groupby(["nfe", "variant"]).frechet.mean().unstack()
    assert means.idxmin(axis=1)[1] == "ism_plus"
    found = against(plain[plain.nfe == 1], "ism", "frechet")
    assert set(found[(found.ratio < 1) & (found.holm < 0.05)].index) == {"ism_plus", "imm", "facm"}
    for nfe in (2, 4, 128):
        assert (means.loc[nfe].dropna() < means.loc[nfe, "ism"]).mean() > 0.5
    assert set(means.loc[128].nsmallest(2).index) == {"facm", "dual_end"}


def test_what_the_page_says_of_the_best_strengths_is_in_its_table() -> None:
    frame = read_table(FOLDER / "league-clothes.parquet")
    best = at_best(frame[frame.stage == "league"], "frechet", (0, 1))
    ahead = ["imf", "alpha_flow", "meanflow"]
    for nfe in (1, 2, 4, 128):
        found = against(best[best.nfe == nfe], "ism", "frechet").loc[ahead]
        assert (found.ratio < 1).all()
        assert (found.holm < 0.05).all()
    few = best[best.variant.isin(["ism_plus", *ahead])]
    to_plus = {nfe: against(few[few.nfe == nfe], "ism_plus", "frechet").loc[ahead] for nfe in (1, 2, 4)}
    assert [f"{ratio:.2f}" for ratio in to_plus[1].ratio] == ["0.87", "0.90", "0.92"]
    assert [f"{ratio:.2f}" for ratio in to_plus[2].ratio] == ["0.86", "0.81", "0.81"]
    assert [bool((to_plus[nfe].holm < 0.05).all()) for nfe in to_plus] == [False, True, True]
    assert (to_plus[1].holm > 0.05).all()
    assert set(best[best.variant.isin(ahead) & (best.nfe <= 4)].w) == {2.0}
    assert set(best[(best.variant == "ism") & (best.nfe == 1)].w) == {3.5}
    means = best.groupby(["nfe", "variant"]).frechet.mean().unstack()
    assert set(means.loc[128].nsmallest(2).index) == {"flow", "ism_plus"}
    assert set(means.loc[1].nlargest(2).index) == {"drifting", "sinkhorn drifting"}
    for name in ("ect", "sct"):
        assert means.loc[128, name] > means.loc[4, name]
