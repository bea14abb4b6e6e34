"""Every option of every command with values of any kind: it does its work, or one line says what is wrong.

What takes long is replaced: a training stops in its first step, and nothing is drawn, scored, encoded or executed.
"""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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


#: Names of notebooks: some that are there, and some that look like it.
NOTEBOOKS = ("00", "01", "0", "00_tiny", "00_tiny.ipynb", "notebooks/00_tiny.ipynb", "folder.ipynb", "broken.ipynb")


def copied(source: str, target: str, *_: Any, **__: Any) -> None:
    """In place of papermill, which reads braces as places for values."""
    Path(target.format()).write_bytes(Path(source.format()).read_bytes())


def stopped(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def quick(ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, notebooks: Path) -> Ismkit:
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
    nbformat.write(tiny(["pass"], f"{PARAMETERS}\npairs = (1, 2)"), notebooks / "00_tiny.ipynb")
    (tmp_path / "broken.ipynb").write_text('{"cells": [{}]}')
    (tmp_path / "folder.ipynb").mkdir()
    a_file(tmp_path)
    (tmp_path / "folder").mkdir()
    photo_folder(tmp_path / "photos", per_class=1, side=16)
    return ismkit_


def options(command: str) -> list[str]:
    module = importlib.import_module(f"ismkit.cli.{command}")
    if hasattr(module, "call"):  # its options are those of JupyterLab
        return ["--no-browser", "--port"]
    return [f"--{name.replace('_', '-')}" for name in cli.kinds(module)]


@st.composite
def arguments(draw: st.DrawFn, command: str) -> list[str]:
    """One option or two, each with a value or more, among the arguments that the command needs."""
    found = list(GIVEN[command])
    if command in ("notebook", "lab") and draw(st.booleans()):  # which notebook
        found[:1] = [draw(st.sampled_from((*VALUES, *NOTEBOOKS)))]
    if command == "notebook" and draw(st.booleans()):
        name = draw(st.sampled_from(("profile", "seed", "flag", "text", "pairs", *VALUES)))
        found += ["-p", name, draw(st.sampled_from(VALUES))]
    for option in draw(st.lists(st.sampled_from(options(command)), min_size=1, max_size=2, unique=True)):
        values = draw(st.lists(st.sampled_from(VALUES), max_size=1 + draw(st.integers(0, 1))))
        found += [f"{option}={values[0]}"] if values and draw(st.booleans()) else [option, *values]
    return found


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


@pytest.mark.parametrize("command", GIVEN)
@given(st.data())
@settings(max_examples=TRIES, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_option_is_read_or_refused_in_one_line(command: str, quick: Ismkit, drawn: st.DataObject) -> None:
    ends_in_words(quick(command, *drawn.draw(arguments(command))))
