"""The command line: help with examples that parse, mistakes answered in one line, errors told and bugs raised."""

import importlib
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import ismkit
from ismkit import cli
from ismkit.evaluation.judges import FashionJudge
from ismkit.method.recipes import RECIPES
from ismkit.models.nets import ToyMLP
from ismkit.models.saved import RELEASED, save_model
from ismkit.sweeps.ladder import SWEEPS
from ismkit.training.loop import DivergenceError
from ismkit.training.runs import RUNS
from ismkit.utils.files import DataError
from ismkit.utils.weights import CheckpointError
from tests.commandline import Ismkit, a_file, parses
from tests.conftest import ROOT

COMMANDS = (
    *("lab", "doctor", "notebook", "ledger", "course"),
    *("train", "latents", "sweep", "sample", "evaluate", "export"),
)
pytestmark = pytest.mark.usefixtures("own_folder")


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_the_command_does_and_gives_examples(command: str, ismkit_: Ismkit) -> None:
    answer = ismkit_(command, "--help")
    assert (answer.status, answer.err) == (0, "")
    assert cli.summary(importlib.import_module(f"ismkit.cli.{command}")) in answer.out
    examples = re.findall(r"^  (ismkit .*?)(?:  +#.*)?$", answer.out.split("examples:\n")[1], re.M)
    assert examples
    for example in examples:
        name, *arguments = shlex.split(example)
        assert name == "ismkit"
        assert arguments[0] == command
        parses(command, arguments[1:])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    """The help is read from the docstrings: each parameter of a command has a line there."""
    module = importlib.import_module(f"ismkit.cli.{command}")
    if not hasattr(module, "call"):
        for name in inspect.signature(module.command).parameters:
            assert re.search(rf"^        {name}: ", module.command.__doc__ or "", re.M), name


def test_help_lists_the_commands(ismkit_: Ismkit) -> None:
    answer = ismkit_("--help")
    assert answer.status == 0
    assert re.findall(r"^  ([a-z]+)  +[A-Z]", answer.out, re.M) == list(COMMANDS) == list(cli.COMMANDS)
    assert "examples:\n  ismkit doctor\n" in answer.out
    assert ismkit_("--version").out == f"ismkit {ismkit.__version__}\n"


def test_names_below_the_help_are_those_of_the_library(ismkit_: Ismkit) -> None:
    train, sweep, sample = (ismkit_(name, "--help").out for name in ("train", "sweep", "sample"))
    for name in [*RUNS, *RECIPES]:
        assert f"\n  {name}" in train
        assert f"\n  {name}" in sweep
    assert all(f"\n  {name}" in sweep for name in SWEEPS)
    assert all(f"\n  {name}" in sample for name in RELEASED)


@pytest.mark.fresh_process
def test_help_and_doctor_are_quick() -> None:
    """Processor time of a fresh process, which unlike wall time does not grow when other tests use the core."""
    code = "import sys, time, ismkit.cli; ismkit.cli.main(sys.argv[1:]); print(time.process_time(), file=sys.stderr)"
    for arguments in (["--help"], ["doctor"]):
        best = min(
            float(
                subprocess.run(
                    [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
                ).stderr
            )
            for _ in range(3)
        )
        assert best < 0.5, arguments


@pytest.mark.fresh_process
def test_help_and_doctor_do_without_torch() -> None:
    """Help is quick, and a broken installation is reported and not raised."""
    program = """
import gc, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'")
sys.meta_path.insert(0, Missing())
from ismkit import cli
assert cli.main(["--help"]) == 0
assert cli.main(["train", "--help"]) == 0
assert cli.main(["doctor"]) in (0, 1)
status = cli.main(["doctor", "--deep"])
assert cli.main(["train", "gaussians"]) == 2
assert gc.isenabled() and gc.get_freeze_count()
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


def in_space(folder: Path) -> Path:
    save_model(ToyMLP(dim=3, width=8, depth=1), folder / "space.safetensors", {})
    return folder / "space.safetensors"


def foreign_file(folder: Path) -> Path:
    save_file({"weight": torch.zeros(2)}, folder / "foreign.safetensors")
    return folder / "foreign.safetensors"


def cut_off(folder: Path) -> Path:
    path = toy_model(folder)
    path.write_bytes(path.read_bytes()[:-9])
    return path


def class_folder(folder: Path) -> Path:
    (folder / "photos" / "cat").mkdir(parents=True)
    (folder / "photos" / "cat" / "0.png").write_bytes(b"not read")
    return folder / "photos"


MISTAKES: dict[str, tuple[list[Any], str]] = {
    "unknown command": (["fly"], "ismkit: no command 'fly': (more: ismkit --help)"),
    "no run": (
        ["train"],
        "RUN name of the run, or module:attribute of your own. (required) (more: ismkit train --help)",
    ),
    "unknown run": (["train", "cats"], "run must be one of gaussians, fashion-smoke, "),
    "unknown recipe": (
        ["train", "gaussians", "--recipe", "ddpm"],
        "recipe must be one of flow, shortcut_every_level, ",
    ),
    "unknown option": (["train", "gaussians", "--epochs=3"], "ismkit train: Unrecognized options: --epochs=3"),
    "no steps": (["train", "gaussians", "--steps", "0"], "steps must be an integer of at least 1, got 0"),
    "steps in words": (
        ["train", "gaussians", "--steps", "many"],
        "--steps must be an integer, got 'many'",
    ),
    "half a step": (["train", "gaussians", "--steps", "2.5"], "--steps must be an integer, got '2.5'"),
    "no batch": (["train", "gaussians", "--batch-size", "0"], "batch_size must be an integer of at least 1, got 0"),
    "small batch": (["train", "gaussians", "--batch-size", "1"], "a batch of 1 gives no"),
    "batch beyond the data": (["train", "gaussians", "--batch-size", "20001"], "exceeds the 20000 samples"),
    "no rate": (["train", "gaussians", "--lr", "0"], "lr must be positive and finite, got 0.0"),
    "never saved": (["train", "gaussians", "--save-every", "0"], "save_every must be an integer of at least 1, got 0"),
    "resume from a word": (["train", "gaussians", "--resume", "latest"], "Unrecognized options: latest"),
    "resume from nowhere": (
        ["train", "gaussians", "--resume", "--from-step", "7"],
        "no checkpoint step_00000007.safetensors",
    ),
    "run folder is a file": (["train", "gaussians", "--folder", a_file], "a file is in its place"),
    "no such notebook": (["notebook", "99"], "'99' names 0 notebooks, must name one of: 00_tiny, 01_other"),
    "two notebooks": (["notebook", "0"], "'0' names 2 notebooks, must name one of: 00_tiny, 01_other"),
    "notebook elsewhere": (["notebook", "/some/where/07.ipynb"], "/some/where/07.ipynb is not there"),
    "unknown parameter": (["notebook", "00", "-p", "sed", "3"], "has no parameter sed, but: flag, profile, seed, text"),
    "parameter of none": (["notebook", "01", "--profile", "smoke"], "has no parameter profile, but: none"),
    "parameter without value": (
        ["notebook", "00", "-p", "seed"],
        "Missing value for argument '-p/--parameter'. Expected 2 values.",
    ),
    "output over the source": (["notebook", "00", "--out", "notebooks"], "would replace the notebook itself"),
    "no model": (["sample", "none.safetensors"], "none.safetensors is missing"),
    "pickled model": (["sample", "model.pt"], "model.pt is no .safetensors file"),
    "foreign model": (["sample", foreign_file], "names no network of this kit"),
    "truncated model": (["evaluate", cut_off], "truncated"),
    "model of points in space": (
        ["sample", in_space],
        "holds a ToyMLP that draws no clothes or emoji: use a model of fashion-",
    ),
    "class of points": (["sample", toy_model, "--classes", "0", "8"], "classes must be labels 0 .. 7, got 8"),
    "too many points": (
        ["sample", toy_model, "-n", "200000"],
        "points must be 1000000 or fewer, got 8 classes x 2",
    ),
    "too many images": (["sample", "-n", "2000"], "images must be 10000 or fewer, got 10 classes x 2000"),
    "points by clothes": (
        ["evaluate", toy_model],
        "models of anything else are scored by a judge of your own, --judge",
    ),
    "no power of two": (["sample", "--nfe", "3"], "nfe must be one of [1, 2, 4, 8, 16, 32, 64, 128]"),
    "no step": (["sample", "m.safetensors", "--nfe", "0"], "nfe must be an integer of at least 1, got 0"),
    "too many steps": (
        ["evaluate", "--nfe", "1", "256"],
        "nfe must be one of [1, 2, 4, 8, 16, 32, 64, 128]",
    ),
    "negative w": (
        ["sample", "m.safetensors", "--w", "-1"],
        "w, the guidance strength, must be finite and at least 0, got -1.0",
    ),
    "no w": (["evaluate", "m.safetensors", "--w", "0", "nan"], "at least 0, got nan"),
    "endless w": (["sample", "m.safetensors", "--w", "inf"], "at least 0, got inf"),
    "overflowing w": (
        ["sample", "--w", "1e38", "-n", "1"],
        "net draws NaN or infinity in 10 of 10 images at w = 1e+38",
    ),
    "bad class": (
        ["sample", "--classes", "3", "10"],
        "classes must be labels 0 .. 9 or names, such as T-shirt/top",
    ),
    "no images": (["sample", "m.safetensors", "-n", "0"], "n must be an integer of at least 1, got 0"),
    "no picture": (["sample", "m.safetensors", "-o", "clothes.jpg"], "--out must end in .png, got 'clothes.jpg'"),
    "no images to encode": (["latents"], "give either the source of the images, or --verify and a folder of latents"),
    "encode and verify": (["latents", "photos", "--verify", "latents"], "give either the source of the images, or"),
    "no source": (
        ["latents", "nowhere"],
        "a source is a folder, .tar files, or OWNER/NAME on the hub, and not: nowhere",
    ),
    "unpinned images": (["latents", "owner/images"], "of the hub, its revision is needed: the commit, 40 hexadecimal"),
    "images of a branch": (["latents", "owner/images", "--revision", "main"], "must be a commit, got 'main'"),
    "unknown VAE": (
        ["latents", class_folder, "--vae", "vae"],
        "a VAE is sd-vae-ft-mse, sd-vae-ft-ema, a folder or OWNER",
    ),
    "unpinned VAE": (["latents", class_folder, "--vae", "owner/vae"], "of the hub, its revision is needed"),
    "folder of no images": (["latents", "--vae", "x", "notebooks"], "notebooks holds no images, in class folders or"),
    "no workers": (["latents", "photos", "--workers", "0"], "workers must be an integer of at least 1, got 0"),
    "no latents": (["latents", "--verify", "nowhere"], "nowhere/manifest.json is missing"),
    "few samples": (["evaluate", "m.safetensors", "-n", "5"], "n, the samples per setting, must be at least 10, got 5"),
    "few clothes": (["evaluate", "-n", "50"], "n must be 100 .. 10000 samples"),
    "no GPU": (["evaluate", "--device", "cuda"], "--device cuda: torch sees no CUDA device here"),
    "unknown device": (["sample", "--device", "tpu"], "--device must be one of cpu, cuda, got 'tpu'"),
    "unknown metric": (["evaluate", "m.safetensors", "--metrics", "kid"], "metrics must be among fid, sfid, is, "),
    "reference of clothes": (["evaluate", "--reference", "r.npz"], "--reference goes with a model of image latents"),
    "no VAE": (["evaluate", toy_model, "--vae", "none"], "a VAE is sd-vae-ft-mse, sd-vae-ft-ema, a folder or"),
    "no sweep": (["sweep"], "name one or more prepared sweeps or runs (more: ismkit sweep --help)"),
    "unknown sweep": (["sweep", "snakes"], "name must be a prepared sweep (ladder, "),
    "unknown method": (
        ["sweep", "gaussians", "--recipe", "ism", "ddpm"],
        "recipe must be one of flow, shortcut_every_level, ",
    ),
    "methods of a prepared sweep": (
        ["sweep", "ladder-smoke", "--recipe", "ism"],
        "ladder-smoke has its own recipes; --recipe goes with a run: gaussians, fashion-smoke",
    ),
    "sweep over no power of two": (["sweep", "gaussians", "--nfe", "1", "3"], "nfe must be one of [1, 2, 4, "),
    "sweep over a negative w": (
        ["sweep", "gaussians", "--w", "-1"],
        "w, the guidance strength, must be finite and at least 0, got -1.0",
    ),
    "sweep over few samples": (
        ["sweep", "gaussians", "-n", "7"],
        "n must be at least 8 samples, one of each class, got 7",
    ),
    "sweep over few clothes": (["sweep", "fashion-smoke", "-n", "99"], "n must be 100 .. 10000 samples"),
    "table of another kind": (
        ["sweep", "gaussians", "--table", "a.csv"],
        "table must be a Parquet file, NAME.parquet, got a.csv",
    ),
    "sweep over no seeds": (["sweep", "gaussians", "--seeds", "0"], "seeds must be an integer of at least 1, got 0"),
    "sweep without workers": (
        ["sweep", "gaussians", "--workers", "0"],
        "workers must be an integer of at least 1, got 0",
    ),
    "less than no GPU": (
        ["sweep", "gaussians", "--gpus", "-0.5"],
        "gpus, the share of a GPU for each trial, must be at least 0, got -0.5",
    ),
    "unknown setting": (["sweep", "gaussians", "-p", "recipe.fats", "0.5"], "no setting 'fats' in Recipe: it has name"),
    "setting refused": (["sweep", "gaussians", "-p", "optim.lr", "1e-3", "0"], "lr must be positive and finite, got 0"),
    "no value of a setting": (["sweep", "gaussians", "-p"], "each -p takes a path and one or more values"),
    "points beside images": (["sweep", "gaussians", "fashion-smoke"], "points and pictures are scored by other"),
    "sweep over small batches": (["sweep", "gaussians", "-p", "batch_size", "64", "2"], "a batch of 2 gives no"),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.usefixtures("notebooks")
def test_mistake_ends_with_one_line_and_status_2(name: str, tmp_path: Path, ismkit_: Ismkit) -> None:
    argv, message = MISTAKES[name]
    answer = ismkit_(*(arg(tmp_path) if callable(arg) else arg for arg in argv))
    assert answer.status == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert re.match(r"ismkit( [a-z]+)?: ", answer.err)


@pytest.mark.parametrize("name", [name for name, (argv, _) in MISTAKES.items() if argv[:1] == ["sweep"]])
def test_mistakes_of_a_sweep_are_found_before_any_work(
    name: str, tmp_path: Path, ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ismkit.sweeps.processes.run", lambda *_, **__: pytest.fail("started"))
    assert ismkit_(*MISTAKES[name][0]).status == 2
    assert list(tmp_path.iterdir()) == []


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
        monkeypatch.setattr("ismkit.training.runs.fit", failing(error))
        answer = ismkit_("train", "gaussians")
        assert (answer.status, answer.err) == (2, "ismkit train: step 7\n")
    monkeypatch.setattr("ismkit.training.runs.fit", failing(KeyboardInterrupt()))
    answer = ismkit_("train", "gaussians")
    assert (answer.status, answer.err) == (130, "ismkit train: interrupted\n")
    monkeypatch.setattr("ismkit.training.runs.fit", failing(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        ismkit_("train", "gaussians")


def test_missing_package_points_to_the_doctor(ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "papermill", None)
    answer = ismkit_("notebook", "00")
    assert answer.status == 2
    assert re.fullmatch(r"ismkit notebook: .*papermill.*; `ismkit doctor` says what to install\n", answer.err)
