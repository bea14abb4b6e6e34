"""Sweeps: which trials there are, what makes two of them one, and the table."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from ismkit.evaluation.judges import Setting
from ismkit.method.auction import Auction
from ismkit.method.coupling import assign
from ismkit.method.recipes import RECIPES
from ismkit.models.nets import ToyMLP
from ismkit.sweeps.ladder import SWEEPS
from ismkit.sweeps.sweep import (
    Sweep,
    Trial,
    against,
    at_best,
    change_in_percent,
    compare_pairs,
    paired,
    read_table,
    settings,
    summary,
    table,
    write_table,
)
from ismkit.training.runs import RUNS, Run
from ismkit.utils.files import DataError
from ismkit.utils.settings import change

RUN = RUNS["gaussians"]
SETTING = Setting(1, 0.0, 100)


def sweep(**runs: Run) -> Sweep:
    return Sweep("test", "", runs or {"ism": RUN}, (0, 1), (SETTING,))


# ---------------------------------------------------------------- change


@pytest.mark.parametrize(
    ("path", "value", "get"),
    [
        ("steps", 7, lambda run: run.steps),
        ("optim.lr", 0.5, lambda run: run.optim.lr),
        ("recipe.rows.strengths.w_max", 1.0, lambda run: run.recipe.rows.strengths.w_max),
        ("recipe.coupling.pool", 3, lambda run: run.recipe.coupling.pool),
        ("net.width", 5, lambda run: run.net.keywords["width"]),
        ("net.num_classes", 5, lambda run: run.net.keywords["num_classes"]),
    ],
)
def test_one_setting_changes_and_no_other(path: str, value: Any, get: Any) -> None:
    changed = change(RUN, path, value)
    assert get(changed) == value
    assert get(RUN) != value if path != "net.num_classes" else "num_classes" not in RUN.net.keywords
    if not path.startswith("net"):
        assert change(changed, path, get(RUN)) == RUN
    else:
        assert replace(changed, net=RUN.net) == RUN


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("recipe.fats", 0.5, "no setting 'fats' in Recipe: it has name, rows"),
        ("steps.more", 1, "no setting 'more' in int: it has no settings"),
        ("optim.lr", -1, "lr must be positive"),
        ("recipe.rows.consistency", 2, "consistency must be a fraction"),
        ("steps", 0, "steps must be an integer of at least 1, got 0"),
        ("batch_size", 2.5, "batch_size must be an integer, got 2.5"),
        ("recipe.target", 3, "target must be a function, such as those of RECIPES, got 3"),
        ("recipe.distance", "l2", "recipe.distance must be module:attribute, or set in Python, got 'l2'"),
        ("", 1, "no setting '' in Run"),
        ("net.widht", 1, "no setting 'widht' in ToyMLP: it has dim, width, depth, num_classes, grid"),
    ],
)
def test_what_cannot_be_changed_is_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change(RUN, path, value)


def test_whole_numbers_and_fractions_are_one_setting() -> None:
    one, other = (Trial("a", change(RUN, "optim.weight_decay", value), 0, ()) for value in (1, 1.0))
    assert one.key == other.key


# ---------------------------------------------------------------- trials


def test_names_do_not_change_the_key_and_settings_do() -> None:
    named = replace(RUN, name="x", about="y", recipe=replace(RUN.recipe, name="z"))
    assert Trial("a", RUN, 0, ()).key == Trial("b", named, 0, (SETTING,)).key
    others = [change(RUN, "recipe.fast", 0.5), change(RUN, "net.width", 64), change(RUN, "steps", 1)]
    keys = {Trial("a", RUN, 0, ()).key, Trial("a", RUN, 1, ()).key, *(Trial("a", run, 0, ()).key for run in others)}
    assert len(keys) == 5


def test_every_variant_has_every_seed_seed_by_seed() -> None:
    trials = sweep(ism=RUN, flow=replace(RUN, recipe=RECIPES["flow"])).trials()
    assert [(trial.variant, trial.seed) for trial in trials] == [("ism", 0), ("flow", 0), ("ism", 1), ("flow", 1)]


def test_parameters_make_all_combinations_and_columns() -> None:
    varied = sweep().vary({"recipe.fast": [0.5, 0.9], "steps": [3, 4]})
    assert list(varied.runs) == [f"ism, fast={fast}, steps={steps}" for fast in (0.5, 0.9) for steps in (3, 4)]
    assert [(run.recipe.fast, run.steps) for run in varied.runs.values()] == [(0.5, 3), (0.5, 4), (0.9, 3), (0.9, 4)]
    assert varied.trials()[1].labels == (("sweep", "test"), ("recipe.fast", 0.5), ("steps", 4))
    assert sweep().vary({}).trials() == sweep().trials()


def test_functions_and_parts_are_varied_and_their_table_can_be_written(tmp_path: Path) -> None:
    varied = sweep().vary({"recipe.coupling.solver": [None, assign, Auction(exact=64)]})
    solvers = ["None", "assign", "Auction(epsilon=0.1, stop=0.01, exact=64, device='cpu')"]
    assert list(varied.runs) == [f"ism, solver={solver}" for solver in solvers]
    assert [run.recipe.coupling.solver for run in varied.runs.values()] == [None, assign, Auction(exact=64)]
    assert len({trial.key for trial in varied.trials()}) == 6
    frame = pd.DataFrame([dict(trial.labels) for trial in varied.trials()])
    again = read_table(write_table(frame, tmp_path / "table.parquet"))
    assert again["recipe.coupling.solver"].dropna().tolist() == solvers[1:] * 2


def test_two_values_of_one_name_are_refused() -> None:
    def twin(*given: Any) -> Any:
        return assign(*given)

    twin.__qualname__ = "assign"
    with pytest.raises(ValueError, match="must have values of different names, got two 'ism, solver=assign'"):
        sweep().vary({"recipe.coupling.solver": [assign, twin]})
    assert list(sweep().vary({"steps": [3, 3]}).runs) == ["ism, steps=3"]


def test_a_parameter_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="parameter 'steps' needs one value or more, got none"):
        sweep().vary({"recipe.fast": [0.5], "steps": []})


def test_cells_are_every_nfe_with_every_strength() -> None:
    assert settings([1, 4], (w for w in (0, 2)), 50) == (
        (1, 0.0, 50, 0),
        (1, 2.0, 50, 0),
        (4, 0.0, 50, 0),
        (4, 2.0, 50, 0),
    )


def test_numbers_of_numpy_are_those_of_python() -> None:
    """Results are JSON: after the training they could not be written."""
    asked = (
        *settings(np.arange(1, 2), np.arange(1.0), 50),
        Setting(np.int64(2), np.float64(1), np.int64(50), np.int64(3)),
    )
    for setting in replace(sweep().trials()[0], settings=asked).settings:
        assert list(map(type, setting)) == [int, float, int, int]


# ---------------------------------------------------------------- table


def test_table_file_comes_back_as_it_was(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"variant": ["a", "b"], "w": [0.0, 1.0], "nfe": [1, 2], "value": [None, 3.0]})
    pd.testing.assert_frame_equal(read_table(write_table(frame, tmp_path / "new" / "t.parquet")), frame)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["t.parquet"]


def test_summary_is_mean_and_deviation_over_seeds_in_order() -> None:
    import pandas as pd

    rows = [("b", 0, 1.0), ("b", 1, 3.0), ("a", 0, 5.0)]
    frame = pd.DataFrame([{"variant": v, "seed": s, "nfe": 1, "w": 0.5, "frechet": x} for v, s, x in rows])
    text = summary(frame, "frechet")
    assert list(text.index) == ["b", "a"]
    assert text[1, 0.5].tolist() == ["2.0 ± 1.4", "5"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([37.94, 37.982], "37.961 ± 0.030"),
        ([1.0, 1.0], "1 ± 0"),
        ([0.0, 0.14], "0.070 ± 0.099"),
        ([0.0, 0.141], "0.07 ± 0.10"),
        ([4000.0, 4300.0], "4150 ± 210"),
        ([5.0], "5"),
    ],
)
def test_a_mean_has_the_digits_of_its_deviation(values: list[float], text: str) -> None:
    """They were rounded apart: 38 ± 0.029."""
    frame = pd.DataFrame({"variant": "a", "seed": range(len(values)), "nfe": 1, "w": 0.0, "w2": values})
    assert summary(frame, "w2").to_numpy().tolist() == [[text]]


@pytest.mark.parametrize("name", ["noise", "seed", "w", "scored_torch"])
def test_a_label_that_would_be_lost_in_the_table_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"labels must have names that are no columns of the table, got '{name}'"):
        Trial("own", RUN, 0, (SETTING,), (("parameter", 1), (name, 2)))


def test_nothing_done_gives_an_empty_table(tmp_path: Path) -> None:
    assert table(sweep().trials(), tmp_path).empty


def test_the_network_of_a_trial_may_be_any_partial() -> None:
    run = replace(RUN, net=partial(ToyMLP, 2, width=8))
    assert change(run, "net.depth", 2).build(8).config["depth"] == 2


def by_seed(values: dict[str, list[float]]) -> Any:
    import pandas as pd

    rows = [
        (variant, seed, nfe, x * nfe) for variant, xs in values.items() for seed, x in enumerate(xs) for nfe in (1, 4)
    ]
    return pd.DataFrame(rows, columns=["variant", "seed", "nfe", "frechet"])


def test_changes_are_paired_by_seed() -> None:
    frame = by_seed({"a": [1.1, 2.4, 4.0], "b": [1.0, 2.0, 4.0], "c": [0.0, 0.0, 0.0]})
    assert paired(frame, ["b", "a"], "frechet", nfe=4).to_numpy().tolist() == [[4, 4.4], [8, 9.6], [16, 16]]
    mean, half = change_in_percent(frame.sample(frac=1, random_state=0), "a", "b", "frechet", nfe=4)
    assert mean == pytest.approx(10)  # of 10, 20 and 0 percent, whose deviation is 10; t = 4.303 with 2 degrees
    assert half == pytest.approx(4.30265 * 10 / 3**0.5, rel=1e-5)


def test_probabilities_are_student_s_and_corrected_after_holm() -> None:
    rng = np.random.default_rng(0)
    values = {
        name: np.exp(rng.normal(shift, 0.1, 5)).tolist()
        for name, shift in zip("abcde", (0, 0.3, 0.2, 0.1, 0.0), strict=False)
    }
    found = against(by_seed(values).sample(frac=1, random_state=0), "a", "frechet", nfe=4)
    for name in "bcde":
        test = ttest_rel(np.log(values[name]), np.log(values["a"]))
        assert found.p[name] == pytest.approx(test.pvalue)
        assert np.log(found.loc[name, ["low", "high"]].astype(float)).tolist() == pytest.approx(
            test.confidence_interval()
        )
        assert found.ratio[name] == pytest.approx(np.exp(np.mean(np.log(values[name]) - np.log(values["a"]))))
    # Step by step: the k-th smallest is compared with level / (m - k), and nothing after the first that fails passes.
    ordered = found.p.sort_values()
    for level in (0.001, 0.01, 0.05, 0.2, 0.5):
        passed = []
        for k, (name, p) in enumerate(ordered.items()):
            if p > level / (len(ordered) - k):
                break
            passed.append(name)
        assert set(found.index[found.holm <= level]) == set(passed)


def test_equal_probabilities_are_corrected_alike() -> None:
    ours = [1.1, 1.3, 1.2, 1.25]
    frame = by_seed({"a": [1.0, 1.0, 1.0, 1.1], "b": ours, "c": ours, "d": [2.0, 2.1, 2.3, 1.9]})
    found = against(frame, "a", "frechet", nfe=1)
    assert found.p["d"] < found.p["b"] == found.p["c"]
    assert found.holm.tolist() == pytest.approx([2 * found.p["b"], 2 * found.p["b"], 3 * found.p["d"]])


def test_pairs_are_corrected_for_all_of_them_at_once() -> None:
    """A pair is compared as ``against`` compares it; only the correction knows of the others, at every NFE."""
    rng = np.random.default_rng(1)
    values = {
        name: np.exp(rng.normal(shift, 0.1, 5)).tolist() for name, shift in zip("abc", (0, 0.3, 0.9), strict=True)
    }
    frame = by_seed(values).sample(frac=1, random_state=0)
    found = compare_pairs(frame, [("b", "a"), ("c", "b")], "frechet", within="nfe")
    assert found.index.names == ["nfe", "variant", "reference"]
    assert list(found.index) == [(nfe, *pair) for nfe in sorted({*frame.nfe}) for pair in (("b", "a"), ("c", "b"))]
    for nfe, variant, reference in found.index:
        alone = against(frame[frame.variant.isin([variant, reference])], reference, "frechet", nfe=nfe).loc[variant]
        assert alone[["ratio", "low", "high", "p"]].tolist() == pytest.approx(
            found.loc[(nfe, variant, reference), ["ratio", "low", "high", "p"]].tolist()
        )
        assert alone.holm == alone.p  # of one comparison
    ordered = found.sort_values("p")
    steps = np.maximum.accumulate(ordered.p.to_numpy() * np.arange(len(found), 0, -1))
    assert ordered.holm.tolist() == pytest.approx(np.minimum(steps, 1).tolist())


def test_a_pair_at_the_least_ratio_has_a_probability_of_five_in_a_hundred_over_all_pairs() -> None:
    values = {"a": [1.0, 1.0, 1.0, 1.0], "b": [1.1, 1.3, 1.2, 1.25], "c": [2.0, 2.1, 2.3, 1.9]}
    frame = by_seed(values)
    frame = frame[frame.nfe == 1]
    pairs = [("b", "a"), ("c", "a"), ("c", "b")]
    least = compare_pairs(frame, pairs, "frechet").least[("b", "a")]
    assert least > 1
    gaps = np.log(values["b"])
    moved = np.exp(gaps - gaps.mean() + np.log(least)).tolist()
    again = compare_pairs(by_seed(values | {"b": moved}).query("nfe == 1"), pairs, "frechet").loc[("b", "a")]
    assert (again.ratio, 3 * again.p) == pytest.approx((least, 0.05))


def test_seeds_that_all_agree_leave_no_doubt() -> None:
    found = against(by_seed({"a": [1.0, 2.0], "b": [1.0, 2.0], "c": [2.0, 4.0]}), "a", "frechet", nfe=1)
    assert found.p.tolist() == [1.0, 0.0]
    assert found[["ratio", "low", "high"]].to_numpy().tolist() == [[1.0] * 3, [2.0] * 3]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reference must be one of the variants, beside others, got 'b', of \['a'\]"):
        against(by_seed({"a": [1.0, 2.0]}), "b", "frechet", nfe=1)
    with pytest.raises(ValueError, match="two seeds or more"):
        against(by_seed({"a": [1.0], "b": [1.0]}), "b", "frechet", nfe=1)
    with pytest.raises(ValueError, match="frechet must be positive"):
        against(by_seed({"a": [1.0, 0.0], "b": [1.0, 1.0]}), "b", "frechet", nfe=1)


def test_pairs_that_are_none_are_refused() -> None:
    frame = by_seed({"a": [1.0, 2.0], "b": [1.0, 3.0]})
    with pytest.raises(ValueError, match="pairs must hold one comparison or more"):
        compare_pairs(frame, [], "frechet", within="nfe")
    for pairs in ("ab", ["ab"], [("a", "b", "c")]):
        with pytest.raises(TypeError, match="pairs must be a list of"):
            compare_pairs(frame, pairs, "frechet", within="nfe")  # type: ignore[arg-type]
    several = (
        r"it has 2 of a, seed 0, which differ in nfe \(1, 4\): choose .*, such as frame\[\(frame\['nfe'\] == 1\)\]$"
    )
    with pytest.raises(ValueError, match=several):
        compare_pairs(frame, [("a", "b")], "frechet")
    with pytest.raises(ValueError, match=r"frame must have a variant 'rmap', it has a, b$"):
        compare_pairs(frame, [("a", "rmap")], "frechet", within="nfe")
    gap = frame.drop(frame.index[(frame.variant == "b") & (frame.nfe == 4) & (frame.seed == 1)])
    with pytest.raises(ValueError, match=r"for every seed where nfe = 4, it has none of b, seed 1$"):
        compare_pairs(gap, [("a", "b")], "frechet", within="nfe")


def test_what_does_not_pair_is_refused() -> None:
    frame = by_seed({"a": [1.0, 2.0], "b": [1.0]})
    with pytest.raises(
        ValueError, match=r"frechet of every variant for every seed where nfe = 1, it has none of b, seed 1"
    ):
        paired(frame, ["a", "b"], "frechet", nfe=1)
    with pytest.raises(ValueError, match=r"frechet of every variant for every seed, it has none of b, seed 1"):
        paired(frame[frame.nfe == 1], ["a", "b"], "frechet")
    with pytest.raises(ValueError, match=r"for every seed where nfe = 4, it has none of b$"):
        paired(frame[(frame.variant == "a") | (frame.nfe == 1)], ["b"], "frechet", nfe=4)
    with pytest.raises(
        ValueError, match=r"it has 2 of a, seed 0, which differ in nfe \(1, 4\): choose among them first"
    ):
        paired(frame, ["a"], "frechet")
    with pytest.raises(ValueError, match=r"it has 2 of a, seed 0$"):
        paired(pd.concat([frame[frame.nfe == 1]] * 2), ["a"], "frechet")
    with pytest.raises(ValueError, match=r"frame must have a row where nfe = 2, its nfe is 1, 4$"):
        against(frame, "a", "frechet", nfe=2)
    with pytest.raises(ValueError, match="variants must be one or more, got none"):
        paired(frame, [], "frechet")


@pytest.mark.parametrize("name", ["n", "sweep", "noise"])
def test_rows_that_a_mean_would_mix_are_refused(name: str) -> None:
    frame = by_seed({"a": [1.0, 2.0]}).assign(w=0.0)
    both = pd.concat([frame.assign(**{name: 0}), frame.assign(**{name: 1}, frechet=frame.frechet + 10)])
    with pytest.raises(ValueError, match=rf"frame must hold rows of one {name}, got \[0, 1\]"):
        at_best(both, "frechet")
    if name == "noise":  # of one training: its mean counts
        assert summary(both, "frechet").loc["a", (1, 0.0)] == "6.50 ± 0.71"
    else:
        with pytest.raises(ValueError, match=rf"frame must hold rows of one {name}, got \[0, 1\]"):
            summary(both, "frechet")
    alone = both[both[name] == 0]
    with pytest.raises(ValueError, match=f"^frame must have one column '{name}', it has 2$"):
        at_best(pd.concat([alone, alone[[name]]], axis=1), "frechet")


def test_the_best_strength_is_chosen_by_the_mean_for_each_variant_and_nfe() -> None:
    import pandas as pd

    values = {("a", 1): {0.0: [3, 3], 1.0: [1, 4], 2.0: [5, 2]}, ("a", 4): {0.0: [1, 1], 1.0: [2, 2]}}
    values[("b", 1)] = {0.0: [9, 9], 2.0: [8, 9]}
    rows = [(v, k, w, s, x) for (v, k), held in values.items() for w, xs in held.items() for s, x in enumerate(xs)]
    frame = pd.DataFrame(rows, columns=["variant", "nfe", "w", "seed", "frechet"]).sample(frac=1, random_state=1)
    best = at_best(frame, "frechet").groupby(["variant", "nfe"]).w.unique()
    assert {key: held.tolist() for key, held in best.items()} == {("a", 1): [1.0], ("a", 4): [0.0], ("b", 1): [2.0]}
    assert len(at_best(frame, "frechet")) == 6


def test_a_strength_is_chosen_on_one_noise_and_reported_on_another() -> None:
    values = {(0, 0.0): 3.0, (0, 1.0): 2.0, (1, 0.0): 1.0, (1, 1.0): 5.0}  # by noise and w: the other noise disagrees
    rows = [
        {"variant": "a", "nfe": 1, "seed": seed, "noise": noise, "w": w, "frechet": value + seed}
        for (noise, w), value in values.items()
        for seed in (0, 1)
    ]
    frame = pd.DataFrame(rows)
    assert at_best(frame, "frechet", (0, 1))[["noise", "w", "frechet"]].to_numpy().tolist() == [[1, 1, 5], [1, 1, 6]]
    assert at_best(frame, "frechet", (1, 0)).frechet.tolist() == [3, 4]
    with pytest.raises(ValueError, match=r"noise must be two seeds of \[0, 1\], got \(0, 2\)"):
        at_best(frame, "frechet", (0, 2))


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"settings": 3, "trained": {}},
        {"settings": [3], "trained": {}},
        {"settings": [{"scores": {}, "scored": {}}], "trained": {}},
        {"settings": [{"setting": [1, 0.0], "scores": {}, "scored": {}}], "trained": {}},
        {"settings": [{"setting": [1, 0.0, 100, "0"], "scores": {}, "scored": {}}], "trained": {}},
        {"settings": []},
    ],
)
def test_a_trials_file_of_another_form_is_refused(value: Any, tmp_path: Path) -> None:
    """faults D11: KeyError, without the file's name."""
    trial = SWEEPS["ladder-smoke"].trials()[0]
    trial.results(tmp_path).write(f"{trial.key}.json", value)
    with pytest.raises(DataError, match=rf"{trial.key}\.json.*: delete it, and the same command does the trial again$"):
        table([trial], tmp_path)
