"""What each command of the command line does and leaves."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from ismkit.cli import doctor, lab
from ismkit.data.photos import photo_folder
from ismkit.data.pictures import write_png
from ismkit.evaluation import judges
from ismkit.evaluation.judges import FashionJudge, Setting
from ismkit.imagenet.vae import write_tiny_vae
from ismkit.lessons import ledger
from ismkit.lessons.claims import CLAIMS, Claim
from ismkit.lessons.notebooks import _choices
from ismkit.lessons.plot import PALETTE
from ismkit.method import recipes
from ismkit.method.sampling import sample
from ismkit.models.drawing import draw_clothes
from ismkit.models.nets import ToyMLP
from ismkit.models.saved import load_model, save_model
from ismkit.sweeps import ladder
from ismkit.sweeps.sweep import Trial, read_table, summary, write_table
from ismkit.training import runs
from ismkit.training.checkpoint import saved_steps
from ismkit.training.loop import TrainState, fit
from ismkit.utils.seeding import stream
from ismkit.utils.workers import run_group
from tests.commandline import PARAMETERS, Answer, Ismkit, a_file, fill, tiny
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("own_folder")
PALETTE_RGB = [ImageColor.getrgb(colour) for colour in PALETTE]


# ---------------------------------------------------------------- doctor and lab


@pytest.mark.parametrize(("status", "expected"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_doctor_fails_if_a_check_does(
    status: str, expected: int, ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ismkit.doctor import Check

    found = [Check("disk", "ok", "roomy"), Check("kernel", status, "is what it is", "do this")]  # type: ignore[arg-type]
    monkeypatch.setattr("ismkit.doctor.checks", lambda deep: found)
    answer = ismkit_("doctor")
    assert answer.status == expected
    assert "is what it is" in answer.out


@pytest.mark.usefixtures("notebooks")
def test_lab_opens_the_notebook_after_the_check(
    tmp_path: Path, ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[list[str]] = []
    monkeypatch.setattr(lab, "subprocess", SimpleNamespace(call=lambda command: opened.append(command) or 5))
    monkeypatch.setattr(doctor, "command", lambda: 0)
    assert ismkit_("lab").status == 5
    assert ismkit_("lab", "01", "--no-browser", "--port=9000").status == 5
    assert ismkit_("lab", "--port", "8917").status == 5  # 8917 is no notebook
    start = [sys.executable, "-m", "jupyterlab"]
    folder = tmp_path / "notebooks"
    assert opened == [
        [*start, str(folder / "00_tiny.ipynb")],
        [*start, str(folder / "01_other.ipynb"), "--no-browser", "--port=9000"],
        [*start, str(folder / "00_tiny.ipynb"), "--port", "8917"],
    ]
    monkeypatch.setattr(doctor, "command", lambda: 1)
    assert ismkit_("lab").status == 1
    assert ismkit_("lab", "99").status == 2
    assert len(opened) == 3


# ---------------------------------------------------------------- run


@pytest.mark.usefixtures("notebooks")
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("flag", "maybe", "parameter flag must be true or false, such as False, got 'maybe'"),
        ("flag", "1", "parameter flag must be true or false, such as False, got '1'"),
        ("seed", "2.5", "parameter seed must be an integer, such as 0, got '2.5'"),
        ("seed", "None", "parameter seed must be an integer, such as 0, got 'None'"),
    ],
)
def test_a_parameter_of_another_type_is_refused(name: str, text: str, message: str, ismkit_: Ismkit) -> None:
    answer = ismkit_("notebook", "00", "-p", name, text)
    assert (answer.status, answer.err) == (2, f"ismkit notebook: {message}\n")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in papermill and its dependencies
def test_run_in_its_folder_with_typed_parameters(notebooks: Path, tmp_path: Path, ismkit_: Ismkit) -> None:
    out = tmp_path / "results"
    out.mkdir()
    (out / "00_tiny.ipynb").write_text("from an earlier run")
    (out / "figures").mkdir()
    (out / "figures" / "00_9_0.png").write_bytes(b"from an earlier run")
    (out / "figures" / "01_0_0.png").write_bytes(b"other")
    before = (notebooks / "00_tiny.ipynb").read_bytes()
    options = ["-p", "seed", "3", "-p", "flag", "true", "--profile", "smoke", "--out", "results"]
    answer = ismkit_("notebook", "00", *options)
    assert answer.status == 0, answer.err
    assert answer.out.endswith("executed notebook: results/00_tiny.ipynb\n")
    seen = json.loads((out / "seen.json").read_text())
    assert seen == {"profile": "smoke", "seed": 3, "flag": True, "text": "none", "cwd": str(notebooks)}
    executed = nbformat.read(out / "00_tiny.ipynb", as_version=4)
    assert executed.cells[-2].outputs[0].text == "seen\n"
    assert (notebooks / "00_tiny.ipynb").read_bytes() == before
    assert sorted(path.name for path in out.iterdir()) == ["00_tiny.ipynb", "figures", "seen.json"]
    figures = {path.name: path.read_bytes() for path in (out / "figures").iterdir()}
    assert figures == {"00_3_0.png": b"first", "00_3_1.png": b"second", "01_0_0.png": b"other"}


FAILING = ["print('first')", "raise KeyError('no such cloth')", "print('never')"]
RUN = """
import sys
from pathlib import Path
from ismkit import cli
from ismkit.lessons import notebooks
notebooks.NOTEBOOKS = Path(sys.argv[1])
sys.exit(cli.main(sys.argv[2:]))
"""


def test_failing_cell_is_named_and_the_notebook_is_kept(notebooks: Path, tmp_path: Path) -> None:
    """In a process of its own, as from a shell, with the folder of ``ISMKIT_OUT``."""
    nbformat.write(tiny(FAILING, PARAMETERS), notebooks / "00_tiny.ipynb")
    command = [sys.executable, "-c", RUN, str(notebooks), "notebook", "00"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    target = tmp_path / "out" / "00_tiny.ipynb"
    line = done.stderr.splitlines()[-1]
    assert line == (
        "ismkit notebook: cell [3] of 00_tiny.ipynb failed: KeyError: 'no such cloth'; "
        f"the notebook as far as it got: {target}"
    )
    assert "Traceback" not in done.stderr
    cells = {cell.source: cell for cell in nbformat.read(target, as_version=4).cells}
    assert cells[FAILING[0]].outputs[0].text == "first\n"
    assert cells[FAILING[1]].outputs[-1].ename == "KeyError"
    assert cells[FAILING[2]].outputs == []


# ---------------------------------------------------------------- train


TOY = ["train", "gaussians", "--steps", "6", "--batch-size", "32"]


def digest(answer: Answer) -> str:
    assert answer.status == 0, answer.err
    return re.search(r"SHA-256 ([0-9a-f]{64})\)\n$", answer.out)[1]  # type: ignore[index]


def test_resumed_training_makes_the_same_file(ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = digest(ismkit_(*TOY, "--folder", "whole"))
    assert saved_steps("whole") == [6]
    assert digest(ismkit_(*TOY, "--folder", "other", "--seed", "1")) != whole

    # Stopped in step 5 and taken up at the checkpoint of step 3.
    done, step = [], recipes.training_step

    def stopping(*args: Any) -> Any:
        done.append(len(done) + 1)
        if done[-1] == 5:
            raise KeyboardInterrupt
        return step(*args)

    saving = [*TOY, "--folder", "parts", "--save-every", "3"]
    with monkeypatch.context() as patch:
        patch.setattr("ismkit.training.loop.training_step", stopping)
        assert ismkit_(*saving).status == 130
    assert saved_steps("parts") == [3]
    assert not Path("parts/model.safetensors").exists()
    answer = ismkit_(*saving)
    assert answer.status == 2
    assert "holds checkpoints up to step 3: add --resume, or take another --folder" in answer.err
    assert digest(ismkit_(*saving, "--resume")) == whole
    assert saved_steps("parts") == [3, 6]

    Path("parts/model.safetensors").unlink()
    assert digest(ismkit_(*saving, "--resume", "--from-step", "3")) == whole
    assert Path("parts/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()

    answer = ismkit_(*saving, "--resume", "--lr", "0.5")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "was trained with other settings" in answer.err


def test_a_resumed_run_that_starts_at_step_0_says_so_and_what_else_is_there(tmp_path: Path, ismkit_: Ismkit) -> None:
    """A forgotten -p began a second run in another folder without a word."""
    toy = ["train", "gaussians", "--steps", "2", "--batch-size", "32", "--resume"]
    answer = ismkit_(*toy, "-p", "recipe.coupling.pool", "3")
    assert answer.status == 0, answer.err
    (first,) = (tmp_path / "out" / "runs").iterdir()
    starts = "no checkpoint in {}: the run starts at step 0\n"
    assert answer.out.startswith(starts.format(first))
    answer = ismkit_(*toy)
    (second,) = {*(tmp_path / "out" / "runs").iterdir()} - {first}
    pool = runs.RUNS["gaussians"].recipe.coupling.pool
    told = f"{first} holds checkpoints up to step 2 of other settings: recipe.coupling.pool is 3 there, {pool} here\n"
    assert answer.out.startswith(told + starts.format(second))
    for options in ([], ["-p", "recipe.coupling.pool", "3"]):  # both are there now
        assert "starts at step 0" not in ismkit_(*toy, *options).out
    out = ismkit_(*toy, "-p", "net.width", "8", "--seed", "1").out
    assert "holds checkpoints" not in out  # another seed is another run
    out = ismkit_(*toy, "-p", "net.width", "8").out
    assert f"{second} holds checkpoints up to step 2 of other settings: its network, data or batch size\n{first}" in out
    assert ismkit_(*toy, "--folder", "own").out.startswith(starts.format("own"))  # not where the others are
    assert "starts at step 0" not in ismkit_(*toy, "--folder", "none", "--from-step", "1").out


def test_resuming_with_more_steps_names_the_folder_with_fewer(tmp_path: Path, ismkit_: Ismkit) -> None:
    """faults A10: it began at step 0 in another folder without a word."""
    toy = ["train", "gaussians", "--batch-size", "32", "-p", "optim.cooldown", "0", "--resume"]
    answer = ismkit_(*toy, "--steps", "2")
    assert answer.status == 0, answer.err
    assert "to lengthen" not in answer.out
    (first,) = (tmp_path / "out" / "runs").iterdir()
    answer = ismkit_(*toy, "--steps", "4")
    assert (
        f"{first} holds this run with 2 steps. With 4 it is another run and begins at step 0; to lengthen that one: "
        f"--folder {first} --resume\n"
    ) in answer.out
    assert "to lengthen" not in ismkit_(*toy, "--steps", "4").out  # its own folder holds checkpoints now
    out = ismkit_(*toy, "--steps", "3", "--lr", "0.5").out  # another run altogether
    assert "to lengthen" not in out
    assert f"{first} holds checkpoints up to step 2 of other settings: optim.lr is 0.002 there, 0.5 here; steps" in out
    assert ismkit_(*toy, "--steps", "4", "--folder", first).status == 0
    assert saved_steps(first)[-1] == 4
    answer = ismkit_(*toy, "--steps", "3", "--folder", first)
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert f"steps must be at least the 4 that are done in {first}, got 3" in answer.err


@pytest.mark.parametrize("options", [["--batch-size", "1"], ["--lr", "0"], ["--folder", "file"], ["--folder", "run"]])
def test_mistakes_are_found_before_the_data_are_loaded(
    options: list[str], tmp_path: Path, ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data of fashion-laptop take half a minute the first time."""
    a_file(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "step_00000003.safetensors").touch()
    preset = replace(runs.RUNS["gaussians"], load=lambda: pytest.fail("loaded"))
    monkeypatch.setitem(runs.RUNS, "gaussians", preset)
    answer = ismkit_("train", "gaussians", *options)
    assert (answer.status, answer.err.count("\n")) == (2, 1)


def test_trained_model_and_its_card(tmp_path: Path, ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file holds the slow average; the card says what was asked for; the folder is the run's own."""
    states: list[TrainState] = []

    def kept(recipe: Any, net: Any, batches: Any, **options: Any) -> TrainState:
        assert options["seed"] == batches.seed == 4
        states.append(fit(recipe, net, batches, **options))
        return states[0]

    monkeypatch.setattr("ismkit.training.runs.fit", kept)
    options = ["--recipe", "shortcut_finest_level", "--lr", "0.01", "--seed", "4"]
    answer = ismkit_(*TOY, *options)
    digest(answer)
    folder = next((tmp_path / "out" / "runs").iterdir())
    assert folder.name.startswith("gaussians-4-")
    assert f"6 steps of 32; in {folder}\n" in answer.out
    net, card = load_model(folder / "model.safetensors")
    slow = states[0].ema.slow
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), slow.parameters(), strict=True))
    assert (card["steps"], card["seed"]) == (6, 4)
    assert card["run"]["recipe"]["name"] == "shortcut_finest_level"
    assert (card["run"]["optim"]["lr"], card["run"]["batch_size"], card["run"]["steps"]) == (0.01, 32, 6)


# ---------------------------------------------------------------- sweep


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Trial], Path, dict[str, Any]]]:
    """What the runner is asked; it answers with one row per trial and does nothing."""
    import pandas as pd

    asked: list[tuple[list[Trial], Path, dict[str, Any]]] = []

    def run(trials: list[Trial], folder: Path, **resources: Any) -> pd.DataFrame:
        asked.append((trials, folder, resources))
        row = {"nfe": 1, "w": 0.0, "n": 100, "frechet": 2.0}
        return pd.DataFrame([{"variant": t.variant, "seed": t.seed, **dict(t.labels), **row} for t in trials])

    monkeypatch.setattr("ismkit.sweeps.runner.run_trials", run)
    return asked


def test_prepared_sweeps_keep_their_plans(swept: list[Any], tmp_path: Path, ismkit_: Ismkit) -> None:
    answer = ismkit_("sweep", "ladder-laptop", "tried")
    assert answer.status == 0, answer.err
    folder = tmp_path / "out" / "sweeps"
    machine = {"workers": None, "gpus": 0.0, "address": None}
    plans = [ladder.SWEEPS[name] for name in ("ladder-laptop", "tried")]
    assert swept == [([trial for plan in plans for trial in plan.trials()], folder, machine)]
    for plan in plans:
        assert f"{plan.name}: {len(plan.runs)} variants, {len(plan.seeds)} seeds; in {folder}\n" in answer.out
    assert answer.out.count("\nism_plus without ") == len(ladder.OURS)  # in the summary of its own sweep only
    assert answer.out.endswith(f"table: {folder / 'ladder-laptop_tried.parquet'}\n")
    frame = read_table(folder / "ladder-laptop_tried.parquet")
    assert frame["sweep"].value_counts().to_dict() == {plan.name: len(plan.trials()) for plan in plans}


def test_sweep_of_a_run_with_all_its_options(swept: list[Any], tmp_path: Path, ismkit_: Ismkit) -> None:
    methods = ["--recipe", "flow", "ism", "-p", "recipe.fast", "0.5", "0.9", "-p", "optim.lr", "1e-3"]
    protocol = ["--seeds", "2", "--nfe", "1", "8", "--w", "0", "1.5", "-n", "200"]
    machine = ["--workers", "3", "--gpus", "0.25", "--address", "10.0.0.1:6379"]
    answer = ismkit_("sweep", "gaussians", *methods, *protocol, *machine, "--out", "there", "--table", "new/t.parquet")
    assert answer.status == 0, answer.err
    ((trials, folder, resources),) = swept
    assert (folder, resources) == (Path("there"), {"workers": 3, "gpus": 0.25, "address": "10.0.0.1:6379"})
    assert [(trial.run.recipe.name, trial.run.recipe.fast, trial.seed) for trial in trials] == [
        (name, fast, seed) for seed in (0, 1) for name in ("flow", "ism") for fast in (0.5, 0.9)
    ]
    assert {trial.run.optim.lr for trial in trials} == {1e-3}
    assert {trial.settings for trial in trials} == {tuple(Setting(nfe, w, 200) for nfe in (1, 8) for w in (0.0, 1.5))}
    assert (tmp_path / "new" / "t.parquet").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["recipe.coupling.pool", "0", "100000"], "recipe.coupling.pool must be at most 2005 with a batch_size of 256"),
        (["batch_size", "64", "20001"], "batch_size 20001 x micro_batches 1 exceeds the 20000 samples"),
    ],
)
def test_a_sweep_of_a_value_that_does_not_fit_ends_in_one_line(
    options: list[str], message: str, tmp_path: Path, ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ismkit.sweeps.processes.run", lambda *_, **__: pytest.fail("begun"))
    answer = ismkit_("sweep", "gaussians", "-p", *options)
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith(f"ismkit sweep: {message}")
    assert not (tmp_path / "out" / "sweeps").exists()


def test_a_table_of_other_trials_is_not_replaced(
    tmp_path: Path, ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two sweeps of one name replaced the table of the first."""
    import pandas as pd

    begun = []

    def run(trials: list[Trial], folder: Path, **_: Any) -> pd.DataFrame:
        begun.append(len(trials))
        rows = [(t.variant, "gaussians", t.seed, *s, 2.0, t.key) for t in trials for s in t.settings]
        return pd.DataFrame(rows, columns=["variant", "sweep", "seed", "nfe", "w", "n", "noise", "w2", "key"])

    monkeypatch.setattr("ismkit.sweeps.runner.run_trials", run)
    short = ["--nfe", "1", "--w", "0", "--seeds", "2"]
    assert ismkit_("sweep", "gaussians", "--recipe", "ism", *short).status == 0
    assert ismkit_("sweep", "gaussians", "--recipe", "ism", "flow", "--nfe", "1", "4", *short[2:]).status == 0
    path = tmp_path / "out" / "sweeps" / "gaussians.parquet"
    before, trained = path.read_bytes(), len(begun)
    for argv, lost in (
        (
            ["--recipe", "flow", "--nfe", "1", "4", *short[2:]],
            f"{path} has 4 rows .*, such as variant ism, seed 0, nfe 1, w 0.0,",
        ),
        (
            ["--recipe", "ism", "flow", *short],
            f"{path} has 4 rows .*, such as variant ism, seed 0, nfe 4, w 0.0, n 1000: name",
        ),
    ):
        answer = ismkit_("sweep", "gaussians", *argv)
        assert (answer.status, answer.err.count("\n")) == (2, 1)
        assert re.search(lost, answer.err), answer.err
        assert path.read_bytes() == before
        assert ismkit_("sweep", "gaussians", *argv, "--table", f"{len(begun)}.parquet").status == 0
    path.write_bytes(b"mine")
    assert "is no Parquet file, truncated or altered" in ismkit_("sweep", "gaussians", *short).err
    write_table(pd.DataFrame({"mine": [1]}), path)
    assert f"table {path} is not of a sweep, it has no column key: name another" in ismkit_("sweep", "gaussians").err
    assert len(begun) == trained + 2


def test_sweep_takes_a_judge_for_all_its_trials(swept: list[Any], ismkit_: Ismkit) -> None:
    """It is looked for before any work; with one, points and clothes may be swept together."""
    answer = ismkit_(
        "sweep", "gaussians", "fashion-smoke", "--seeds", "1", "--judge", "tests.sweeps.test_runner:SETTINGS"
    )
    assert (answer.status, answer.out, swept) == (2, "", [])
    assert "judge must have a method score(net, setting), or make what has, got tests.sweeps" in answer.err
    both = ["sweep", "gaussians", "fashion-smoke", "--seeds", "1"]
    assert "points and pictures are scored by other metrics" in ismkit_(*both).err
    answer = ismkit_(*both, "--judge", "tests.sweeps.test_runner:by_quarters")
    assert answer.status == 0, answer.err
    ((trials, _, _),) = swept
    assert [(trial.run.space, trial.judge.__name__) for trial in trials] == [
        (None, "by_quarters"),
        ("clothes", "by_quarters"),
    ]
    assert "gaussians: frechet, mean" in answer.out  # the first score of the table


@pytest.mark.slow
def test_sweep_trains_scores_and_repeats_nothing(tmp_path: Path, ismkit_: Ismkit) -> None:
    settings = ["-p", "steps", "2", "3", "-p", "batch_size", "32", "-p", "recipe.coupling.pool", "0"]
    protocol = ["--nfe", "1", "--w", "0", "-n", "100", "--seeds", "1", "--workers", "1"]
    answer = ismkit_("sweep", "gaussians", *settings, *protocol)
    assert answer.status == 0, answer.err
    folder = tmp_path / "out" / "sweeps"
    frame = read_table(folder / "gaussians.parquet")
    assert frame.variant.tolist() == [f"ism, steps={k}, batch_size=32, pool=0" for k in (2, 3)]
    columns = ["recipe", "steps", "batch_size", "recipe.coupling.pool", "seed", "nfe", "calls", "w", "n", "noise"]
    assert frame[columns].to_numpy().tolist() == [["ism", k, 32, 0, 0, 1, 1, 0.0, 100, 0] for k in (2, 3)]
    assert {"w2", "curvature", "seconds_per_step", "device", "torch", "scored_torch", "key"} <= {*frame.columns}
    assert (frame.w2 > 0).all()
    assert f"gaussians: 2 variants, 1 seeds; in {folder}\n" in answer.out
    assert (
        f"gaussians: w2, mean ± standard deviation over the seeds\n{summary(frame, 'w2').to_string()}\n" in answer.out
    )

    def files() -> dict[Path, tuple[int, bytes]]:
        kept = [*folder.glob("models/*"), *folder.glob("trials/*")]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in kept}

    before = files()
    assert {path.name.partition(".")[0] for path in before} == set(frame.key)
    assert len(before) == 4
    again = ismkit_("sweep", "gaussians", *settings, *protocol)
    assert (again.status, again.out) == (0, answer.out)
    assert files() == before
    assert read_table(folder / "gaussians.parquet").equals(frame)


# ---------------------------------------------------------------- latents


def test_latents_of_a_folder_and_their_verification(
    tmp_path: Path, ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two calls as of two processes, then the same again; a spoilt byte is found."""
    photos, vae = photo_folder(tmp_path / "photos", per_class=2, side=16), write_tiny_vae(tmp_path / "tiny")
    (photos / "cat" / "0001.png").write_bytes(b"")
    (photos / "cat" / "notes.txt").touch()
    command = ["latents", photos, "--vae", vae, "--side", "16", "--threads", "1", "--skip-corrupt"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    other = ismkit_(*command)
    assert (other.status, other.err) == (0, "")
    assert "process 1 of 2 is done; others are at work" in other.out
    assert "\n1 left alone: cat/notes.txt (no picture by its ending)\n" in other.out
    monkeypatch.setenv("RANK", "0")
    answer = ismkit_(*command)
    folder = tmp_path / "out" / "latents" / "imagenet16"
    assert (answer.status, answer.err) == (0, "")
    assert "7 images of 4 classes, each with its mirror image: 14 rows of (4, 2, 2) in 1 files" in answer.out
    assert f"corrupt images left out: 1, listed in {folder / 'corrupt.txt'}" in answer.out
    said = answer.out[answer.out.index("latents: ") :]
    assert ismkit_(*command).out.endswith(said)
    assert ismkit_("latents", "--verify", folder).out == said
    file = folder / "latents-00000.arrow"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    spoilt = ismkit_("latents", "--verify", folder)
    assert spoilt.status == 2
    assert "latents-00000.arrow is altered" in spoilt.err


# ---------------------------------------------------------------- sample and evaluate


def test_sample_draws_each_class_in_a_column(
    model: Path, tmp_path: Path, ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISMKIT_DATA", str(tmp_path))  # which is empty: to draw takes no data set
    options = ["--classes", "5", "7", "-n", "3", "--nfe", "2", "--w", "1.5", "--seed", "6"]
    answer = ismkit_("sample", model, *options, "-o", "new/shoes.png")
    assert (answer.status, answer.out) == (0, "6 images, 2 NFE, w = 1.5: new/shoes.png\n")
    expected = draw_clothes([5, 7] * 3, load_model(model)[0], w=1.5, nfe=2, seed=6)
    assert np.ptp(expected.numpy()) > 0.5
    write_png(expected, tmp_path / "expected.png", columns=2)
    assert (tmp_path / "new" / "shoes.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_sample_takes_classes_by_their_names(model: Path, tmp_path: Path, ismkit_: Ismkit) -> None:
    options = ["-n", "2", "--seed", "6", "-o"]
    assert ismkit_("sample", model, "--classes", "Bag", "5", *options, "named.png").status == 0
    assert ismkit_("sample", model, "--classes", "8", "5", *options, "numbered.png").status == 0
    assert (tmp_path / "named.png").read_bytes() == (tmp_path / "numbered.png").read_bytes()
    found = ismkit_("sample", "emoji", "--classes", "cat")
    assert found.status == 2
    assert "classes must be labels 0 .. 98 or names, such as cat-face" in found.err


def test_sample_draws_pictures_of_your_own_in_colour(tmp_path: Path, ismkit_: Ismkit) -> None:
    """A network of pixels needs no decoder; classes that are many stand in blocks."""
    net = ToyMLP(dim=3 * 8 * 8, width=8, depth=1, num_classes=20).eval()
    save_model(net, tmp_path / "mine.safetensors", {"shape": [3, 8, 8]})
    answer = ismkit_("sample", "mine.safetensors", "--w", "0", "--seed", "4", "-o", "mine.png")
    assert (answer.status, answer.out) == (0, "20 images, 1 NFE, w = 0: mine.png\n")
    x0 = torch.randn(20, 3, 8, 8, generator=stream(4, "samples"))
    expected = sample(load_model("mine.safetensors")[0], x0, torch.arange(20)).clamp(-1, 1)
    write_png(expected, tmp_path / "expected.png", columns=10)
    assert (tmp_path / "mine.png").read_bytes() == (tmp_path / "expected.png").read_bytes()
    assert ismkit_("sample", "mine.safetensors", "-n", "3").out.startswith("60 images")


def test_sample_draws_by_times_and_with_new_noise(model: Path, tmp_path: Path, ismkit_: Ismkit) -> None:
    options = ["--times", "0", "0.5", "0.75", "1", "--renoise", "--seed", "6", "-n", "1"]
    answer = ismkit_("sample", model, *options, "-o", "few.png")
    assert (answer.status, answer.out) == (0, "10 images, 3 NFE, w = 1: few.png\n")
    expected = draw_clothes(range(10), load_model(model)[0], times=(0, 0.5, 0.75, 1), renoise=True, seed=6)
    write_png(expected, tmp_path / "expected.png")
    assert (tmp_path / "few.png").read_bytes() == (tmp_path / "expected.png").read_bytes()
    assert "--nfe is what --times are, less one" in ismkit_("sample", model, "--times", "0", "1", "--nfe", "1").err
    assert "times must begin at 0" in ismkit_("sample", model, "--times", "0.5", "1").err


def test_sample_draws_all_classes_into_the_output_folder_by_default(
    model: Path, tmp_path: Path, ismkit_: Ismkit
) -> None:
    answer = ismkit_("sample", model, "-n", "1")
    path = tmp_path / "out" / "samples.png"
    assert answer.out == f"10 images, 1 NFE, w = 1: {path}\n"
    write_png(draw_clothes(range(10), load_model(model)[0], w=1.0), tmp_path / "expected.png")
    assert path.read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_sample_of_points_is_a_scatter_plot_by_class(tmp_path: Path, ismkit_: Ismkit) -> None:
    """It said that the model draws no clothes."""
    save_model(fill(ToyMLP(width=8, depth=1, num_classes=3)), tmp_path / "points.safetensors", {})
    answer = ismkit_("sample", "points.safetensors", "-n", "40", "--nfe", "2")
    assert (answer.status, answer.err) == (0, "")
    assert answer.out == f"120 points, 2 NFE, w = 1: {tmp_path / 'out' / 'samples.png'}\n"
    with Image.open(tmp_path / "out" / "samples.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(10**6)}
    assert min(picture.size) > 300
    near = [min(sum(abs(a - b) for a, b in zip(c, wanted, strict=True)) for c in colours) for wanted in PALETTE_RGB[:3]]
    assert max(near) < 120  # a point of each class, a little transparent
    one = ismkit_("sample", "points.safetensors", "--classes", "1", "-n", "5", "-o", "one.png")
    assert one.out == "5 points, 1 NFE, w = 1: one.png\n"
    answer = ismkit_("sample", "points.safetensors", "--w", "1e38")
    assert "net draws NaN or infinity in 750 of 750 points" in answer.err


def test_evaluate_prints_and_writes_the_table(
    model: Path, judge: FashionJudge, ismkit_: Ismkit, tmp_path: Path
) -> None:
    options = ["--nfe", "1", "2", "--w", "0", "1.5", "-n", "100", "--seed", "6"]
    answer = ismkit_("evaluate", model, *options, "-o", "new/scores.csv")
    assert answer.status == 0, answer.err
    rows = judge.table(load_model(model)[0], nfe=[1, 2], w=[0.0, 1.5], n=100, seed=6)
    assert answer.out == f"{judges.as_text(rows)}\ntable: new/scores.csv\n"
    with (tmp_path / "new" / "scores.csv").open(newline="") as file:
        assert [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)] == rows


CHECKS = """
from ismkit.lessons.claims import CLAIMS, Claim
from ismkit.lessons.ledger import Ledger
for claim in ("C01.good", "C01.bad"):
    CLAIMS[claim] = Claim("a claim of the tests alone", "kit")
book = Ledger("01", profile, seed)
book.check("C01.bad", 2.0 if seed < 1000 else 1.0 + seed / 1e6, 2.0, 0.5)
book.check("C01.good", 1.0 + seed / 1e6, 1.0, 0.5)
"""


@pytest.fixture
def measured(notebooks: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A notebook whose claims were measured with two seeds, and the file of its rows."""
    (notebooks / "01_other.ipynb").unlink()
    nbformat.write(tiny([CHECKS], PARAMETERS), notebooks / "01_tiny.ipynb")
    for claim in ("C01.good", "C01.bad"):
        monkeypatch.setitem(CLAIMS, claim, Claim("a claim of the tests alone", "kit"))
    common = ("01", 2, "laptop", 0, "cpu", "2")
    good = ledger.Entry("C01.good", *common, 1.0, "==", 1.0, 0.5, seeds={"0": 1.0, "1": 1.000001})
    bad = ledger.Entry("C01.bad", *common, 2.0, "==", 2.0, 0.5, seeds={"0": 2.0, "1": 2.01})
    return ledger.write([bad, good], notebooks.parent / "book" / "ledger" / "01.json")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in papermill and its dependencies
def test_fresh_seeds_confirm_what_holds_and_keep_what_fails(measured: Path, ismkit_: Ismkit) -> None:
    """The seeds are the next ones each time, the rows stay as they were measured, a failed check stops nothing."""
    before = ledger.read(measured)
    answer = ismkit_("ledger", "01", "--seeds", "2", "--fresh")
    assert answer.status == 0, answer.err
    assert "C01.good: confirmed on fresh seeds (1000, 1001)\n" in answer.out
    assert "C01.bad: failed on 2 of 2 fresh seeds (1000, 1001)\n" in answer.out
    bad, good = ledger.read(measured)
    assert good.fresh == {"1000": 1.001, "1001": 1.001001}
    assert bad.fresh == {"1000": 1.001, "1001": 1.001001}
    assert bad.processors == good.processors == dict.fromkeys(["1000", "1001"], ledger.processor())
    assert [replace(row, fresh={}, processors={}) for row in (bad, good)] == before
    assert ismkit_("ledger", "01", "--seeds", "1", "--fresh").status == 0
    assert [list(row.fresh) for row in ledger.read(measured)] == [["1000", "1001", "1002"]] * 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rows_that_claim_too_much_are_not_written(measured: Path, ismkit_: Ismkit) -> None:
    """The notebook gives its claim C01.bad one value for every seed below 1000: no trainings."""
    before = measured.read_bytes()
    answer = ismkit_("ledger", "01", "--seeds", "2")
    assert answer.status == 2
    assert "C01.bad is declared trained, but its 2 seeds gave 1 values" in answer.err
    assert measured.read_bytes() == before


def test_fresh_seeds_are_asked_for_with_a_notebook_and_none_is_used_before(ismkit_: Ismkit) -> None:
    answer = ismkit_("ledger", "--fresh")
    assert (answer.status, "--fresh must have the numbers of notebooks" in answer.err) == (2, True)
    answer = ismkit_("ledger", "03", "--seeds", "1001")
    assert (answer.status, "seeds must be at most 1000: those from there on are fresh" in answer.err) == (2, True)


def test_rows_are_kept_of_the_kits_notebooks_alone(measured: Path, tmp_path: Path, ismkit_: Ismkit) -> None:
    """A notebook of your own with a number of the kit's replaced the rows of that one."""
    before = measured.read_bytes()
    nbformat.write(tiny([CHECKS], PARAMETERS), tmp_path / "01_own.ipynb")
    answer = ismkit_("ledger", str(tmp_path / "01_own.ipynb"))
    assert (answer.status, "must be numbers of the kit's, whose rows the ledger keeps" in answer.err) == (2, True)
    assert measured.read_bytes() == before
    measured.unlink()
    answer = ismkit_("ledger", "01", "--fresh")
    assert (answer.status, "--fresh confirms rows that are there" in answer.err) == (2, True)
    assert not measured.exists()


def test_a_profile_that_a_notebook_has_not_is_refused(notebooks: Path, tmp_path: Path, ismkit_: Ismkit) -> None:
    """faults A9: it ran the code of the laptop, and the ledger said "gpu"."""
    choice = 'profile = "laptop"  # smoke | laptop: the same here\nkind = "a"  # a | b c\nfree = "x"  # a path: or | so'
    nbformat.write(tiny([], choice), notebooks / "00_tiny.ipynb")
    for name, value, choices in (
        ("profile", "gpu", "smoke, laptop"),
        ("profile", "Laptop", "smoke, laptop"),
        ("kind", "b", "a, b c"),
    ):
        message = f"parameter {name} of 00_tiny.ipynb must be one of {choices}, got {value!r}"
        answer = ismkit_("notebook", "00", "-p", name, value)
        assert (answer.status, answer.err) == (2, f"ismkit notebook: {message}\n")
    assert not (tmp_path / "out").exists()


def test_the_profiles_of_every_notebook_are_those_that_it_lists() -> None:
    """faults A9: what `execute` compares with."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        (cell,) = (c for c in nbformat.read(path, 4).cells if "parameters" in c.metadata.get("tags", []))
        comment = re.search(r'^profile = "laptop"  # (.*)$', cell.source, re.M)[1]  # type: ignore[index]
        assert {"smoke", "laptop"} <= {*_choices(comment)} <= {"smoke", "laptop", "gpu", "paper"}, path.name


@pytest.mark.parametrize("name", ["a{b}", "{}", "{0.x}", "}{"])
def test_braces_in_the_folder_of_a_notebook(name: str, notebooks: Path, tmp_path: Path, ismkit_: Ismkit) -> None:
    """faults D9: papermill puts values in their place, and ended in a traceback."""
    nbformat.write(tiny([], PARAMETERS), notebooks / "00_tiny.ipynb")
    (there := tmp_path / name).mkdir()
    (notebooks / "00_tiny.ipynb").rename(there / "own.ipynb")
    answer = ismkit_("notebook", there / "own.ipynb", "-p", "seed", "3", "--out", there / "out")
    assert answer.status == 0, answer.err
    assert (there / "out" / "own.ipynb").is_file()


def test_a_notebook_is_not_written_where_it_cannot_be(notebooks: Path, tmp_path: Path, ismkit_: Ismkit) -> None:
    """faults B9, D9."""
    answer = ismkit_("notebook", "00", "--out", os.fsdecode(b"n\xff"))
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "has bytes that are no UTF-8, which notebooks cannot hold" in answer.err
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "00_tiny.ipynb")
    answer = ismkit_("notebook", "00")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "00_tiny.ipynb is a FIFO, and not replaced: name a file" in answer.err


# ---------------------------------------------------------------- names that are not plain, terminals that are


def ascii_terminal(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """Standard output that takes ASCII alone, as under LC_ALL=C or PYTHONIOENCODING=ascii."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held := io.BytesIO(), encoding="ascii", write_through=True))
    return held


@pytest.mark.parametrize(
    ("argv", "left", "said"),
    [
        (["sample", "-n", "1", "-o", "é.png"], "é.png", "1: \\xe9.png"),
        (["evaluate", "--nfe", "1", "--w", "0", "-n", "100", "-o", "e\u0301.csv"], "e\u0301.csv", "e\\u0301.csv"),
        ([*TOY, "--folder", "ø"], "ø/model.safetensors", "model: \\xf8/model.safetensors"),
        (["sweep", "gaussians", "--out", "表"], "表/gaussians.parquet", "table: \\u8868/gaussians.parquet"),
    ],
)
@pytest.mark.usefixtures("judge")
def test_what_a_terminal_cannot_show_stops_no_command(
    argv: list[str],
    left: str,
    said: str,
    swept: list[Any],
    ismkit_: Ismkit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """faults B3: a sweep ended before its table was written, others after all work."""
    out = ascii_terminal(monkeypatch)
    answer = ismkit_(*argv)
    assert (answer.status, answer.err) == (0, "")
    assert said in out.getvalue().decode()
    assert (tmp_path / left).is_file()
    assert sys.stdout.errors == "strict"


def test_the_table_of_a_sweep_is_shown_on_an_ascii_terminal(
    swept: list[Any], ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """faults B3: at the sign of plus or minus."""
    out = ascii_terminal(monkeypatch)
    assert ismkit_("sweep", "gaussians", "--seeds", "2").status == 0
    assert "mean \\xb1 standard deviation over the seeds" in out.getvalue().decode()


def test_workers_print_on_an_ascii_terminal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """faults B3: a process of a group ended at a sign."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    run_group(lambda rank, tell: print("é"), 1)
    assert capfd.readouterr().out == "\\xe9\n"


@pytest.mark.usefixtures("judge")
def test_a_tilde_is_the_home_folder_in_every_command(
    swept: list[Any], ismkit_: Ismkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """faults B9: a shell leaves it as it is in --out=~/x, and folders of that name were made."""
    monkeypatch.setenv("HOME", str(home := tmp_path / "home"))
    small = ["--nfe", "1", "--w", "0", "-n", "100"]
    pictures, vae = photo_folder(home / "photos", per_class=1, side=16), write_tiny_vae(home / "vae")
    assert pictures, vae
    encoded = ["latents", "~/photos", "--vae=~/vae", "--side=16", "--threads=1", "--out=~/latents"]
    for argv in (
        [*TOY, "--folder=~/run"],
        ["sample", "-n", "1", "--out=~/s.png"],
        ["evaluate", *small, "--out=~/e.csv"],
        ["sweep", "gaussians", "--out=~/sweeps", "--table=~/t.parquet"],
        encoded,
        ["latents", "--verify", "~/latents"],
    ):
        answer = ismkit_(*argv)
        assert (answer.status, answer.err) == (0, ""), argv
    assert "holds a ToyMLP that draws no clothes" in ismkit_("evaluate", "~/run/model.safetensors").err
    monkeypatch.setenv("ISMKIT_OUT", "~/out")
    assert ismkit_("sample", "-n", "1").status == 0
    made = {"run", "s.png", "e.csv", "t.parquet", "latents", "out"}
    assert {path.name for path in home.iterdir()} == {"photos", "vae", *made}
    assert not (tmp_path / "~").exists()
    answer = ismkit_("sample", "-n", "1", "--out=~nobody-of-this-name/x.png")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "~nobody-of-this-name/x.png begins with a home folder that is not known here" in answer.err


@pytest.mark.skipif(sys.platform != "linux", reason="macOS takes UTF-8 alone")
@pytest.mark.usefixtures("judge")
def test_names_that_are_no_utf8(ismkit_: Ismkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """faults B9: "surrogates not allowed", in the end; a model that was written could not be read."""
    out = ascii_terminal(monkeypatch)
    name = os.fsdecode(b"n\xff")
    for argv in (
        [*TOY, "--folder", name],
        [*TOY, "--folder", name, "--resume"],
        ["sample", "-n", "1", "-o", f"{name}.png"],
        ["evaluate", "--nfe", "1", "--w", "0", "-n", "100", "-o", f"{name}.csv"],
    ):
        answer = ismkit_(*argv)
        assert (answer.status, answer.err) == (0, ""), argv
    assert "n\\udcff.png" in out.getvalue().decode()
    assert load_model(f"{name}/model.safetensors")[1]["steps"] == 6
    assert "holds a ToyMLP that draws no clothes" in ismkit_("evaluate", f"{name}/model.safetensors").err


@pytest.mark.parametrize(
    "argv",
    [
        ["sample", "-n", "1", "-o"],
        ["evaluate", "--nfe", "1", "--w", "0", "-n", "100", "-o"],
        ["sweep", "gaussians", "--table"],
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(
    argv: list[str], ismkit_: Ismkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """faults D9: a FIFO, and as root /dev/null itself, was replaced by a table."""
    monkeypatch.setattr("ismkit.sweeps.runner.run_trials", lambda *_, **__: pytest.fail("started"))
    monkeypatch.setattr("ismkit.models.saved.released", lambda *_: pytest.fail("loaded"))
    os.mkfifo(tmp_path / "fifo.png")
    answer = ismkit_(*argv, "fifo.png")
    assert (answer.status, answer.err) == (2, f"ismkit {argv[0]}: fifo.png is a FIFO, and not replaced: name a file\n")
    assert (tmp_path / "fifo.png").is_fifo()
    if argv[0] != "sample":
        assert "/dev/null is a device, and not replaced" in ismkit_(*argv, "/dev/null").err
        assert Path("/dev/null").is_char_device()


def test_a_fifo_is_not_opened(ismkit_: Ismkit, tmp_path: Path) -> None:
    """faults D9: to read one waits forever."""
    os.mkfifo(tmp_path / "m.safetensors")
    os.mkfifo(tmp_path / "names.txt")
    os.mkfifo(tmp_path / "shards.tar")
    answer = ismkit_("sample", "m.safetensors")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "m.safetensors is missing, truncated or no safetensors file: it is a FIFO" in answer.err
    answer = ismkit_("latents", "shards.tar", "--class-names", "names.txt")
    assert (answer.status, answer.err) == (2, "ismkit latents: names.txt is a FIFO: give a file of names, one a line\n")
