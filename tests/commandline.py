"""Fixtures for the tests of the command line: a folder of its own, `ismkit` called in this process, tiny models.

Every test loads this file. What only notebooks need is imported where it is used: a GPU machine may be without.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from matplotlib import pyplot as plt

from ismkit import cli
from ismkit.data.fashion import fashion_mnist
from ismkit.data.sets import Labelled
from ismkit.evaluation import judges
from ismkit.evaluation.judges import FashionJudge, FeatureNet
from ismkit.models.nets import DiT
from ismkit.models.saved import save_model
from ismkit.models.spaces import FashionAutoencoder

if TYPE_CHECKING:
    import nbformat


@dataclass
class Answer:
    """What a command answered."""

    status: int
    out: str
    err: str


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder to work in; no progress bars; fresh settings of Accelerate."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISMKIT_OUT", str(tmp_path / "out"))
    monkeypatch.setenv("CI", "1")
    monkeypatch.setenv("ISMKIT_PROGRESS", "")  # `run` changes these for its kernel: put back afterwards
    monkeypatch.setenv("ISMKIT_CHECKS", "")
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    yield
    plt.close("all")


@pytest.fixture
def ismkit_(own_folder: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run a command line in this process."""

    def call(*argv: object) -> Answer:
        try:
            status = cli.main([str(arg) for arg in argv])
        except SystemExit as exit_:
            status = exit_.code  # type: ignore[assignment]
        out, err = capsys.readouterr()
        return Answer(status, out, err)

    return call


Ismkit = Callable[..., Answer]


def fill(net: torch.nn.Module) -> torch.nn.Module:
    """Weights as of training: a fresh network answers zero."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.1, generator=rng)
    return net.eval()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model of clothes in a file."""
    net = DiT(size=8, channels=4, patch=2, width=16, depth=1, heads=2, num_classes=10)
    save_model(fill(net), tmp_path / "model.safetensors", {})
    return tmp_path / "model.safetensors"


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> FashionJudge:
    """In place of the released one: untrained networks, and 300 test images as the reference."""
    test = fashion_mnist("test")
    few = Labelled(test.x[:300], test.y[:300], 10, test.class_names)
    monkeypatch.setattr(judges, "fashion_mnist", lambda split: few)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = FashionJudge(FeatureNet().eval(), FashionAutoencoder().eval(), torch.device("cpu"))
    monkeypatch.setattr(FashionJudge, "load", lambda *_: judge)
    return judge


def tiny(cells: list[str], parameters: str = "") -> nbformat.NotebookNode:
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    first = new_code_cell(parameters, metadata={"tags": ["parameters"]}) if parameters else new_markdown_cell("# 01")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    language = {"name": "python"}
    metadata = {"kernelspec": kernel, "language_info": language}
    return new_notebook(cells=[first, *map(new_code_cell, cells)], metadata=metadata)


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"


FIGURE = """
from IPython.display import Image, display
for text in ("first", "second"):
    display(Image(text.encode(), format="png", alt=text))
"""
PARAMETERS = 'profile = "laptop"  # smoke | laptop\nseed = 0\nflag = False\ntext = "none"'
WRITE = """
import json, os
from pathlib import Path
seen = {"profile": profile, "seed": seed, "flag": flag, "text": text, "cwd": os.getcwd()}
Path(os.environ["ISMKIT_OUT"], "seen.json").write_text(json.dumps(seen))
print("seen")
"""


@pytest.fixture
def notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two notebooks: one with parameters, which writes down what it is given, and one without."""
    import nbformat

    folder = tmp_path / "notebooks"
    folder.mkdir()
    nbformat.write(tiny([WRITE, FIGURE], PARAMETERS), folder / "00_tiny.ipynb")
    nbformat.write(tiny(["pass"]), folder / "01_other.ipynb")
    monkeypatch.setattr("ismkit.lessons.notebooks.NOTEBOOKS", folder)
    return folder


def parses(command: str, arguments: list[str]) -> None:
    """The arguments fit the command; it is not called."""
    module = importlib.import_module(f"ismkit.cli.{command}")
    if not hasattr(module, "call"):
        assert cli.parse(module, arguments).keys() <= inspect.signature(module.command).parameters.keys()
