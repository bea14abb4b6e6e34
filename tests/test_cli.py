"""The command line: help with examples that parse, mistakes answered in one line, and what each command leaves."""

import csv
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from matplotlib import pyplot as plt
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from safetensors.torch import save_file
from torch import Tensor

import ismkit
from ismkit import cli, config, evaluation, models, objectives, plot, train
from ismkit.checkpoint import CheckpointError, steps
from ismkit.data import DataError, Labelled, fashion_mnist
from ismkit.evaluation import FashionJudge
from ismkit.features import FeatureNet
from ismkit.latents import FashionAutoencoder
from ismkit.models import load_model, save_model
from ismkit.nets import DiT, ToyMLP
from ismkit.train import DivergenceError
from tests.conftest import ROOT

COMMANDS = ("lab", "doctor", "run", "ledger", "train", "sample", "evaluate")


@dataclass
class Answer:
    """What a command answered."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder to work in; no progress bars; fresh settings of Accelerate."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISMKIT_OUT", str(tmp_path / "out"))
    monkeypatch.setenv("CI", "1")
    monkeypatch.setenv("ISMKIT_PROGRESS", "")  # `run` changes it for its kernel: put back afterwards
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    yield
    plt.close("all")


@pytest.fixture
def ismkit_(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
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
    """In place of the shipped one: untrained networks, and 300 test images as the reference."""
    test = fashion_mnist("test")
    few = Labelled(test.x[:300], test.y[:300], 10, test.class_names)
    monkeypatch.setattr(evaluation, "fashion_mnist", lambda split: few)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = FashionJudge(FeatureNet().eval(), FashionAutoencoder().eval(), torch.device("cpu"))
    monkeypatch.setattr(FashionJudge, "load", lambda: judge)
    return judge


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_the_command_does_and_gives_examples(command: str, ismkit_: Ismkit) -> None:
    answer = ismkit_(command, "--help")
    assert (answer.status, answer.err) == (0, "")
    assert getattr(cli, command).__doc__ in answer.out
    examples = re.findall(r"^  (ismkit .*?)(?:  +#.*)?$", answer.out.split("examples:\n")[1], re.M)
    assert examples
    for example in examples:
        name, *arguments = shlex.split(example)
        assert name == "ismkit"
        assert arguments[0] == command
        parsed, rest = cli.parser().parse_known_args(arguments)
        assert parsed.function is getattr(cli, command)
        assert not rest or command == "lab"


def test_help_lists_the_commands(ismkit_: Ismkit) -> None:
    answer = ismkit_("--help")
    assert answer.status == 0
    assert re.findall(r"^    (\w+) ", answer.out, re.M) == list(COMMANDS)
    assert "examples:\n  ismkit doctor\n" in answer.out
    assert ismkit_("--version").out == f"ismkit {ismkit.__version__}\n"


def test_commands_of_the_readme_parse() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    commands = re.findall(r"^ismkit (.*?)(?:  +#.*)?$", "\n".join(blocks), re.M)
    assert len(commands) >= 5
    for command in commands:
        cli.parser().parse_args(shlex.split(command))


def test_names_repeated_for_the_parser_are_those_of_the_library() -> None:
    assert tuple(config.RUNS) == cli.RUNS
    assert tuple(objectives.RECIPES) == cli.RECIPES
    grid = cli.parser().parse_args(["evaluate", "m", "--nfe", *map(str, (2**k for k in range(8)))])
    assert grid.nfe == [2**k for k in range(8)]


def test_help_and_doctor_do_without_torch() -> None:
    """Help is quick, and a broken installation is reported and not raised."""
    program = """
import sys
sys.modules["torch"] = None  # any import of it fails
from ismkit import cli
try:
    cli.main(["train", "--help"])
except SystemExit as exit_:
    assert exit_.code == 0
status = cli.main(["doctor"])
assert cli.main(["train", "gaussians"]) == 2
sys.exit(status)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr  # of doctor: something is missing
    assert re.search(r"torch", done.stdout)
    assert "Traceback" not in done.stderr
    assert "`ismkit doctor` says what to install" in done.stderr


# ---------------------------------------------------------------- mistakes


def toy_model(folder: Path) -> Path:
    save_model(ToyMLP(width=8, depth=1), folder / "toy.safetensors", {})
    return folder / "toy.safetensors"


def foreign_file(folder: Path) -> Path:
    save_file({"weight": torch.zeros(2)}, folder / "foreign.safetensors")
    return folder / "foreign.safetensors"


def cut_off(folder: Path) -> Path:
    path = toy_model(folder)
    path.write_bytes(path.read_bytes()[:-9])
    return path


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"


MISTAKES: dict[str, tuple[list[Any], str]] = {
    "no command": ([], "arguments are required: COMMAND (more: ismkit --help)"),
    "unknown command": (["fly"], "invalid choice: 'fly' (choose from"),
    "no run": (["train"], "required: RUN (more: ismkit train --help)"),
    "unknown run": (["train", "cats"], "argument RUN: invalid choice: 'cats' (choose from"),
    "unknown recipe": (["train", "gaussians", "--recipe", "ddpm"], "argument --recipe: invalid choice: 'ddpm'"),
    "unknown option": (["train", "gaussians", "--epochs=3"], "ismkit train: unknown arguments: --epochs=3"),
    "no steps": (["train", "gaussians", "--steps", "0"], "--steps: must be a whole number of at least 1, got '0'"),
    "steps in words": (["train", "gaussians", "--steps", "many"], "at least 1, got 'many'"),
    "half a step": (["train", "gaussians", "--steps", "2.5"], "at least 1, got '2.5'"),
    "no batch": (["train", "gaussians", "--batch-size", "0"], "--batch-size: must be a whole number of at least 1"),
    "small batch": (["train", "gaussians", "--batch-size", "1"], "a batch of 1 gives no"),
    "batch beyond the data": (["train", "gaussians", "--batch-size", "20001"], "exceeds the 20000 samples"),
    "no rate": (["train", "gaussians", "--lr", "0"], "lr must be positive and finite, got 0.0"),
    "never saved": (["train", "gaussians", "--save-every", "0"], "--save-every: must be a whole number"),
    "resume from a word": (["train", "gaussians", "--resume", "latest"], "--resume: must be a whole number"),
    "resume from nowhere": (["train", "gaussians", "--resume", "7"], "no checkpoint step_00000007"),
    "run folder is a file": (["train", "gaussians", "--run-dir", a_file], "File exists"),
    "option of another run": (["train", "features", "--steps", "5"], "--seed and --run-dir only, got --steps"),
    "no such notebook": (["run", "99"], "'99' names 0 notebooks, must name one of: 00_tiny, 01_other"),
    "two notebooks": (["run", "0"], "'0' names 2 notebooks, must name one of: 00_tiny, 01_other"),
    "notebook elsewhere": (["run", "/some/where/07.ipynb"], "names 0 notebooks"),
    "unknown parameter": (["run", "00", "-p", "sed", "3"], "has no parameter sed, but: flag, profile, seed, text"),
    "parameter of none": (["run", "01", "--profile", "smoke"], "has no parameter profile, but: none"),
    "parameter without value": (["run", "00", "-p", "seed"], "-p/--parameter: expected 2 arguments"),
    "output over the source": (["run", "00", "--out", "notebooks"], "would replace the notebook itself"),
    "no model": (["sample", "none.safetensors"], "none.safetensors is missing"),
    "pickled model": (["sample", "model.pt"], "model.pt is no .safetensors file"),
    "foreign model": (["sample", foreign_file], "names no network of this kit"),
    "truncated model": (["evaluate", cut_off], "truncated"),
    "model of points": (["sample", toy_model], "holds a ToyMLP that draws no clothes: use a model of fashion-laptop"),
    "no power of two": (["sample", "m.safetensors", "--nfe", "3"], "invalid choice: 3 (choose from 1, 2, 4, 8"),
    "too many steps": (["evaluate", "m.safetensors", "--nfe", "1", "256"], "--nfe: invalid choice: 256"),
    "negative w": (["sample", "m.safetensors", "--w", "-1"], "--w: must be a number of at least 0, got '-1'"),
    "no w": (["evaluate", "m.safetensors", "--w", "0", "nan"], "at least 0, got 'nan'"),
    "endless w": (["sample", "m.safetensors", "--w", "inf"], "at least 0, got 'inf'"),
    "bad class": (["sample", "m.safetensors", "--classes", "3", "10"], "--classes: invalid choice: 10"),
    "no images": (["sample", "m.safetensors", "-n", "0"], "-n: must be a whole number of at least 1, got '0'"),
    "no picture": (["sample", "m.safetensors", "-o", "clothes.jpg"], "--out must end in .png, got 'clothes.jpg'"),
    "few samples": (["evaluate", "m.safetensors", "-n", "50"], "-n: must be a whole number of at least 100"),
}


def tiny(cells: list[str], parameters: str = "") -> nbformat.NotebookNode:
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]}) if parameters else new_markdown_cell("# 01")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    language = {"name": "python"}
    metadata = {"kernelspec": kernel, "language_info": language}
    return new_notebook(cells=[first, *map(new_code_cell, cells)], metadata=metadata)


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
    folder = tmp_path / "notebooks"
    folder.mkdir()
    nbformat.write(tiny([WRITE, FIGURE], PARAMETERS), folder / "00_tiny.ipynb")
    nbformat.write(tiny(["pass"]), folder / "01_other.ipynb")
    monkeypatch.setattr("ismkit.notebooks.NOTEBOOKS", folder)
    return folder


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.usefixtures("notebooks")
def test_mistake_ends_with_one_line_and_status_2(name: str, tmp_path: Path, ismkit_: Ismkit) -> None:
    argv, message = MISTAKES[name]
    answer = ismkit_(*(arg(tmp_path) if callable(arg) else arg for arg in argv))
    assert answer.status == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert re.match(r"ismkit( [a-z]+)?: ", answer.err)


def test_too_many_samples(model: Path, judge: FashionJudge, ismkit_: Ismkit) -> None:
    answer = ismkit_("evaluate", model, "-n", "20000")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "n must be 100 .. 10000 samples" in answer.err


def test_errors_of_the_kit_are_told_and_bugs_are_raised(ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(error: BaseException) -> Callable[..., Any]:
        def fit(*args: Any, **options: Any) -> None:
            raise error

        return fit

    for error in (DivergenceError("step 7"), CheckpointError("step 7"), DataError("step 7"), OSError("step 7")):
        monkeypatch.setattr("ismkit.models.fit", failing(error))
        answer = ismkit_("train", "gaussians")
        assert (answer.status, answer.err) == (2, "ismkit train: step 7\n")
    monkeypatch.setattr("ismkit.models.fit", failing(KeyboardInterrupt()))
    answer = ismkit_("train", "gaussians")
    assert (answer.status, answer.err) == (130, "ismkit train: interrupted\n")
    monkeypatch.setattr("ismkit.models.fit", failing(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        ismkit_("train", "gaussians")


def test_missing_package_points_to_the_doctor(ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "papermill", None)
    answer = ismkit_("run", "00")
    assert answer.status == 2
    assert re.fullmatch(r"ismkit run: .*papermill.*; `ismkit doctor` says what to install\n", answer.err)


# ---------------------------------------------------------------- doctor and lab


@pytest.mark.parametrize(("status", "expected"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_doctor_fails_if_a_check_does(
    status: str, expected: int, ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ismkit.doctor import Check

    found = [Check("disk", "ok", "roomy"), Check("kernel", status, "is what it is", "do this")]  # type: ignore[arg-type]
    monkeypatch.setattr("ismkit.doctor.checks", lambda: found)
    answer = ismkit_("doctor")
    assert answer.status == expected
    assert "is what it is" in answer.out


@pytest.mark.usefixtures("notebooks")
def test_lab_opens_the_notebook_after_the_check(
    tmp_path: Path, ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[list[str]] = []
    monkeypatch.setattr(cli, "subprocess", SimpleNamespace(call=lambda command: opened.append(command) or 5))
    monkeypatch.setattr(cli, "doctor", lambda args: 0)
    assert ismkit_("lab").status == 5
    assert ismkit_("lab", "01", "--no-browser", "--port=9000").status == 5
    lab = [sys.executable, "-m", "jupyterlab"]
    folder = tmp_path / "notebooks"
    assert opened == [
        [*lab, str(folder / "00_tiny.ipynb")],
        [*lab, str(folder / "01_other.ipynb"), "--no-browser", "--port=9000"],
    ]
    monkeypatch.setattr(cli, "doctor", lambda args: 1)
    assert ismkit_("lab").status == 1
    assert ismkit_("lab", "99").status == 2
    assert len(opened) == 2


# ---------------------------------------------------------------- run


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("1e-3", 1e-3), ("True", True), ("None", None), ("[1, 2]", [1, 2]), ("smoke", "smoke")],
)
def test_values_of_parameters_are_python_literals_or_text(text: str, value: object) -> None:
    assert cli._literal(text) == value
    assert type(cli._literal(text)) is type(value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in papermill and its dependencies
def test_run_in_its_folder_with_typed_parameters(notebooks: Path, tmp_path: Path, ismkit_: Ismkit) -> None:
    out = tmp_path / "results"
    out.mkdir()
    (out / "00_tiny.ipynb").write_text("from an earlier run")
    (out / "figures").mkdir()
    (out / "figures" / "00_9_0.png").write_bytes(b"from an earlier run")
    (out / "figures" / "01_0_0.png").write_bytes(b"other")
    before = (notebooks / "00_tiny.ipynb").read_bytes()
    options = ["-p", "seed", "3", "-p", "flag", "True", "--profile", "smoke", "--out", "results"]
    answer = ismkit_("run", "00", *options)
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
from ismkit import cli, notebooks
notebooks.NOTEBOOKS = Path(sys.argv[1])
sys.exit(cli.main(sys.argv[2:]))
"""


def test_failing_cell_is_named_and_the_notebook_is_kept(notebooks: Path, tmp_path: Path) -> None:
    """In a process of its own, as from a shell, with the folder of ``ISMKIT_OUT``."""
    nbformat.write(tiny(FAILING, PARAMETERS), notebooks / "00_tiny.ipynb")
    command = [sys.executable, "-c", RUN, str(notebooks), "run", "00"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    target = tmp_path / "out" / "00_tiny.ipynb"
    line = done.stderr.splitlines()[-1]
    assert line == (
        "ismkit run: cell [3] of 00_tiny.ipynb failed: KeyError: 'no such cloth'; "
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
    whole = digest(ismkit_(*TOY, "--run-dir", "whole"))
    assert steps("whole") == [6]
    assert digest(ismkit_(*TOY, "--run-dir", "other", "--seed", "1")) != whole

    # Stopped in step 5 and taken up at the checkpoint of step 3.
    done, step = [], train.training_step

    def stopping(*args: Any) -> Any:
        done.append(len(done) + 1)
        if done[-1] == 5:
            raise KeyboardInterrupt
        return step(*args)

    saving = [*TOY, "--run-dir", "parts", "--save-every", "3"]
    with monkeypatch.context() as patch:
        patch.setattr(train, "training_step", stopping)
        assert ismkit_(*saving).status == 130
    assert steps("parts") == [3]
    assert not Path("parts/model.safetensors").exists()
    answer = ismkit_(*saving)
    assert answer.status == 2
    assert "holds checkpoints up to step 3: add --resume, or take another --run-dir" in answer.err
    assert digest(ismkit_(*saving, "--resume")) == whole
    assert steps("parts") == [3, 6]

    Path("parts/model.safetensors").unlink()
    assert digest(ismkit_(*saving, "--resume", "3")) == whole
    assert Path("parts/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()

    answer = ismkit_(*saving, "--resume", "--lr", "0.5")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "was trained with other settings" in answer.err


@pytest.mark.parametrize("options", [["--batch-size", "1"], ["--lr", "0"], ["--run-dir", "file"], ["--run-dir", "run"]])
def test_mistakes_are_found_before_the_data_are_loaded(
    options: list[str], tmp_path: Path, ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data of fashion-laptop take half a minute the first time."""
    a_file(tmp_path)
    (tmp_path / "run" / "step_00000003").mkdir(parents=True)
    preset = replace(config.RUNS["gaussians"], load=lambda: pytest.fail("loaded"))
    monkeypatch.setitem(config.RUNS, "gaussians", preset)
    answer = ismkit_("train", "gaussians", *options)
    assert (answer.status, answer.err.count("\n")) == (2, 1)


def test_trained_model_and_its_card(tmp_path: Path, ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file holds the slow average; the card says what was asked for; the folder is the run's own."""
    states: list[train.TrainState] = []
    fit = train.fit

    def kept(recipe: Any, net: Any, batches: Any, **options: Any) -> train.TrainState:
        assert options["seed"] == batches.seed == 4
        states.append(fit(recipe, net, batches, **options))
        return states[0]

    monkeypatch.setattr("ismkit.models.fit", kept)
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


@pytest.mark.parametrize("name", cli.SHIPPED)
def test_train_shipped_networks(name: str, tmp_path: Path, ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(models, "train_shipped", lambda *args: asked.append(args) or ({"seed": "4"}, "ab" * 32))
    answer = ismkit_("train", name, "--seed", "4")
    path = tmp_path / "out" / name / f"fashion_{name}.safetensors"
    assert asked == [(name, path, 4)]
    assert path.parent.is_dir()
    assert digest(answer) == "ab" * 32


# ---------------------------------------------------------------- sample and evaluate


def test_sample_draws_each_class_in_a_column(
    model: Path, judge: FashionJudge, tmp_path: Path, ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Tensor, int, str]] = []
    picture = plot.picture
    monkeypatch.setattr(plot, "picture", lambda *args: drawn.append(args) or picture(*args))
    options = ["--classes", "5", "7", "-n", "3", "--nfe", "2", "--w", "1.5", "--seed", "6"]
    answer = ismkit_("sample", model, *options, "-o", "new/shoes.png")
    assert (answer.status, answer.out) == (0, "6 images: new/shoes.png\n")
    ((images, columns, title),) = drawn
    expected = judge.draw(load_model(model)[0], torch.tensor([5, 7] * 3), w=1.5, steps=2, seed=6)
    assert torch.equal(images, expected)
    assert (columns, title) == (2, "2 NFE, w = 1.5")
    pixels = plt.imread(tmp_path / "new" / "shoes.png")[..., :3]
    assert np.ptp(pixels) > 0.5


def test_sample_draws_all_classes_by_default(model: Path, judge: FashionJudge, tmp_path: Path, ismkit_: Ismkit) -> None:
    answer = ismkit_("sample", model, "-n", "1")
    assert answer.out == "10 images: samples.png\n"
    assert (tmp_path / "samples.png").is_file()


def test_evaluate_prints_and_writes_the_table(
    model: Path, judge: FashionJudge, ismkit_: Ismkit, tmp_path: Path
) -> None:
    options = ["--nfe", "1", "2", "--w", "0", "1.5", "-n", "100", "--seed", "6"]
    answer = ismkit_("evaluate", model, *options, "-o", "new/scores.csv")
    assert answer.status == 0, answer.err
    rows = judge.table(load_model(model)[0], nfe=[1, 2], w=[0.0, 1.5], n=100, seed=6)
    assert answer.out == f"{evaluation.as_text(rows)}\ntable: new/scores.csv\n"
    with (tmp_path / "new" / "scores.csv").open(newline="") as file:
        assert [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)] == rows
