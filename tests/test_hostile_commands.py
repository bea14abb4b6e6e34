"""Every option of every command with values of any kind: it does its work, or one line says what is wrong.

What takes long is replaced: a training stops in its first step, and nothing is drawn, scored, encoded or executed.
"""

import importlib
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import nbformat
import pandas as pd
import pytest
import torch
import tyro
from torch import Tensor

from ismkit import cli
from ismkit.data.photos import photo_folder
from ismkit.evaluation.judges import FashionJudge
from tests.commandline import PARAMETERS, Ismkit, a_file, tiny
from tests.hostile import TRIES

VALUES = (
    *("", "x", "-1", "0", "1", "2", "3", "1000", "0.5", "-0.5", "1e3", "nan", "inf", "-inf", "1e400", "9" * 30, "None"),
    *("true", "false", "é", "\u2028", "\udcff", "a b", "a\nb", "{a}", "[1]", "1,2", "-", "--", "--help-me", "=", "~"),
    *("file", "file/below", "folder", "nowhere/new", "/dev/null/new", "ism", "cpu", "1" * 300, "optim.lr", "net.width"),
)
#: Arguments without which a command does nothing, or too much.
GIVEN: dict[str, list[str]] = {
    "doctor": [],
    "train": ["gaussians", "--batch-size", "32"],
    "latents": ["photos", "--vae", "vae"],
    "sweep": ["gaussians"],
    "sample": ["ism_plus"],
    "evaluate": ["ism_plus", "-n", "100"],
    "export": ["ism_plus", "--format", "torch"],
    "ledger": [],
    "course": ["pack"],
    "notebook": ["00"],
    "lab": [],
}
#: Lines with one value, of each option.
VALUES_EACH = max(1, TRIES // 10)
#: Names of notebooks: some that are there, and some that look like it.
NOTEBOOKS = ("00", "01", "0", "00_tiny", "00_tiny.ipynb", "notebooks/00_tiny.ipynb", "folder.ipynb", "broken.ipynb")


def copied(source: str, target: str, *_: Any, **__: Any) -> None:
    """In place of papermill, which reads braces as places for values."""
    Path(target.format()).write_bytes(Path(source.format()).read_bytes())


def stopped(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some of all that arguments may name."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "notebooks").mkdir()
    nbformat.write(tiny(["pass"], f"{PARAMETERS}\npairs = (1, 2)"), folder / "notebooks" / "00_tiny.ipynb")
    nbformat.write(tiny(["pass"]), folder / "notebooks" / "01_other.ipynb")
    (folder / "broken.ipynb").write_text('{"cells": [{}]}')
    (folder / "folder.ipynb").mkdir()
    a_file(folder)
    (folder / "folder").mkdir()
    photo_folder(folder / "photos", per_class=1, side=16)
    return folder


@pytest.fixture
def quick(ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prepared: Path) -> Ismkit:
    """The commands without what takes long."""

    def run(trials: list[Any], *_: Any, **__: Any) -> pd.DataFrame:
        row = {"nfe": 1, "w": 0.0, "n": 100, "w2": 2.0}
        return pd.DataFrame([{"variant": t.variant, "seed": t.seed, **dict(t.labels), **row} for t in trials])

    def score(self: FashionJudge, net: Any, setting: Any) -> dict[str, float]:
        setting.check()
        names = ("frechet", "precision", "recall", "agreement", "spectrum_error", "curvature")
        return dict.fromkeys(names, 1.0)

    def draw(y: Any, *_: Any, **__: Any) -> Tensor:
        return torch.zeros(len(y), 1, 2, 2)

    monkeypatch.setattr("ismkit.training.loop.training_step", stopped)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)
    monkeypatch.setattr("ismkit.sweeps.runner.run_trials", run)
    monkeypatch.setattr("ismkit.models.drawing.draw_clothes", draw)
    monkeypatch.setattr("ismkit.models.exporting._program", stopped)
    monkeypatch.setattr("ismkit.imagenet.encoding.encode", lambda *_, **__: None)
    monkeypatch.setattr("ismkit.lessons.notebooks.measure", stopped)
    monkeypatch.setattr("ismkit.lessons.course._pages", lambda *_: {"index.html": ""})
    monkeypatch.setattr("ismkit.lessons.course._notebooks", dict)
    monkeypatch.setattr(FashionJudge, "score", score)
    nothing = torch.nn.Identity()
    monkeypatch.setattr(FashionJudge, "load", lambda *_: FashionJudge(nothing, nothing, torch.device("cpu")))
    monkeypatch.setattr("papermill.execute_notebook", copied)
    monkeypatch.setattr("ismkit.cli.lab.subprocess", SimpleNamespace(call=lambda command: 0))
    monkeypatch.setattr("ismkit.cli.lab.doctor", SimpleNamespace(command=lambda: 0))
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("ismkit.lessons.notebooks.NOTEBOOKS", tmp_path / "notebooks")
    return ismkit_


POSITIONAL = get_args(tyro.conf.Positional[int])[1]
EXTRA = {"lab": ["NOTEBOOK", "--no-browser", "--port"], "notebook": ["--parameter of a notebook"]}


def options(command: str) -> list[str]:
    """Each option, and in capitals each argument that is given by its place."""
    module = importlib.import_module(f"ismkit.cli.{command}")
    if hasattr(module, "call"):  # its options are those of JupyterLab
        return EXTRA[command]
    hints = get_type_hints(module.command, include_extras=True)
    placed = {name for name, hint in hints.items() if POSITIONAL in get_args(hint)}
    named = [name.upper() if name in placed else f"--{name.replace('_', '-')}" for name in cli.kinds(module)]
    return named + EXTRA.get(command, [])


def given(command: str, option: str, values: list[str], joined: bool) -> list[str]:
    """Arguments in which one option has some values, among those without which the command does nothing."""
    found = list(GIVEN[command])
    if option.isupper():
        return [*values, *found[1:]]
    if option == "--parameter of a notebook":
        return [*found, "-p", (values or ["seed"])[0] if joined else "seed", *values[-1:]]
    if option == "--parameter" and len(values) == 1:  # it takes two
        values = ["steps", *values]
    return [*found, f"{option}={values[0]}", *values[1:]] if values and joined else [*found, option, *values]


def tries(command: str) -> Iterator[tuple[str, list[list[str]]]]:
    """Each option of a command, and lines of arguments: with a value, and with another option, of two values or none.

    Drawn by the names of the command and the option, so that a failure is one everywhere.
    """
    known = options(command)
    kinds = cli.kinds(importlib.import_module(f"ismkit.cli.{command}")) if command != "lab" else {}
    flags = {f"--{name.replace('_', '-')}" for name, kind in kinds.items() if kind is bool}
    for option in known:
        draw = random.Random(f"{command} {option}")
        values = (*VALUES, *NOTEBOOKS) if option in ("NOTEBOOK", "NOTEBOOKS") else VALUES
        single = draw.sample(values, min(VALUES_EACH, len(values)))
        lines = [given(command, option, [value], draw.random() < 0.5) for value in single]
        two = given(command, option, draw.sample(values, 0 if option in flags else draw.choice((0, 2, 2))), False)
        if other := [each for each in known if each.startswith("--")]:
            two += [draw.choice(other), *draw.sample(VALUES, 1)]
        yield option, [*lines, two]


def ends_in_words(answer: Any) -> bool:
    """Whether a command did its work, or said in one line on standard error why not."""
    assert answer.status in (0, 1, 2, 130), answer
    assert "Traceback" not in answer.err + answer.out
    if answer.status:
        assert answer.err.count("\n") == 1, answer.err
        assert answer.err.startswith("ismkit"), answer.err
        assert answer.err.strip().isprintable(), answer.err
        assert not any(
            word in answer.err for word in ("instantiated", "{None}", "object has no", "unsupported operand")
        )
    return answer.status == 0


TRIED = [(command, option, lines) for command in GIVEN for option, lines in tries(command)]
IDS = [" ".join(tried[:2]) for tried in TRIED]


@pytest.mark.parametrize(("command", "option", "lines"), TRIED, ids=IDS)
def test_every_option_is_read_or_refused_in_one_line(
    command: str, option: str, lines: list[list[str]], quick: Ismkit
) -> None:
    for arguments in lines:
        ends_in_words(quick(command, *arguments))


@pytest.mark.parametrize("command", [command for command in GIVEN if command != "lab"])
def test_these_options_are_those_of_the_help(command: str, quick: Ismkit) -> None:
    listed = re.findall(
        r"^[│|]? *(?:-\w [^,]*, |-\w, )?(--[a-z][a-z0-9-]*)", quick(command, "--help").out, re.MULTILINE
    )
    known = [option for option in options(command) if not option.isupper() and option not in EXTRA.get(command, [])]
    assert sorted(listed) == sorted([*known, "--help"])
