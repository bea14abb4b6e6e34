"""The wheel: what is in it, and that it works where there is no checkout, no data set and no room to write."""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import ismkit
from ismkit.utils.files import WEIGHT_SUMS, WEIGHTS
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that neither does the build write into the checkout nor an old one into the wheel."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "ismkit", source / "ismkit", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("tests", "data", "notebooks", "book"):  # what must stay out is there to be left out
        (source / folder).mkdir()
        (source / folder / "__init__.py").touch()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    run = subprocess.run([*command, "-w", str(target), str(source)], capture_output=True, text=True, timeout=250)
    assert run.returncode == 0, run.stderr
    (path,) = target.iterdir()
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like site-packages that holds the installed wheel and nothing else."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--target"]
    run = subprocess.run([*command, str(target), str(wheel)], capture_output=True, text=True, timeout=250)
    assert run.returncode == 0, run.stderr
    return target


def outside(site: Path, folder: Path, *command: str, status: int = 0) -> str:
    """What a command prints that runs in ``folder`` on the installed wheel, which it leaves as it is."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ISMKIT_", "PYTHON"))}
    clean |= {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1", "CI": "true"}
    clean |= {"XDG_CACHE_HOME": str(folder.parent / "cache")}
    before = contents(site)
    run = subprocess.run([sys.executable, *command], cwd=folder, env=clean, capture_output=True, text=True, timeout=250)
    assert run.returncode == status, run.stderr
    assert contents(site) == before
    assert not (folder.parent / "cache").exists()
    return run.stdout + run.stderr if status else run.stdout


def contents(folder: Path) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_wheel_holds_the_package_the_released_networks_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        sums = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in names if name.endswith(".safetensors")}
        about = archive.read(f"ismkit-{ismkit.__version__}.dist-info/METADATA").decode()
    weights = "ismkit/models/weights"
    assert sums == {f"{weights}/{name}.safetensors": digest for name, digest in WEIGHT_SUMS.items()}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ismkit").rglob("*.py") if path.parent != WEIGHTS}
    stubs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ismkit").rglob("*.pyi")}
    assert len(stubs) == 11  # of the kit and of its ten rooms
    information = {name for name in names if ".dist-info/" in name}
    others = {f"{weights}/README.md", "ismkit/lessons/player.js", "ismkit/py.typed"}
    assert names - information == {*modules, *stubs, *sums, *others}
    assert f"ismkit-{ismkit.__version__}.dist-info/licenses/LICENSE" in information
    assert "License-Expression: Apache-2.0" in about


def test_two_lines_of_python_draw_clothes(site: Path, folder: Path) -> None:
    program = "from ismkit import draw_clothes, write_png\nwrite_png(draw_clothes(range(10)), 'clothes.png')"
    outside(site, folder, "-c", program)
    with Image.open(folder / "clothes.png") as picture:
        assert picture.size == (3 * (10 * 29 - 1), 3 * 28)
        assert picture.getextrema() == (0, 255)
    assert [path.name for path in folder.iterdir()] == ["clothes.png"]


def closure(names: Iterable[str]) -> set[str]:
    """The canonical names of distributions and of all that they need in this environment."""
    found: set[str] = set()
    queue = list(names)
    while queue:
        if (name := canonicalize_name(queue.pop())) not in found:
            found.add(name)
            with suppress(importlib.metadata.PackageNotFoundError):
                needed = map(Requirement, importlib.metadata.requires(name) or [])
                queue += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def brought_by_extras() -> set[str]:
    """The modules that the extras of pyproject.toml bring besides the core; one that is not installed by its name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = closure(Requirement(line).name for line in project["dependencies"])
    extras = {Requirement(line).name for listed in project["optional-dependencies"].values() for line in listed}
    others = closure(extras - {project["name"]}) - core
    modules = importlib.metadata.packages_distributions()
    installed = {canonicalize_name(name) for names in modules.values() for name in names}
    brought = {module for module, names in modules.items() if {*map(canonicalize_name, names)} <= others}
    return brought | {name.replace("-", "_") for name in others - installed}


#: Parts of PyTorch that take over a second to import, and that neither a training on one device needs, nor what draws
#: clothes, loads a model or plans a transformer: its compiler, and what shards tensors, which imports a library of
#: symbols.
UNNEEDED = ["torch._dynamo", "torch.distributed.tensor", "sympy"]


@pytest.mark.slow
def test_core_commands_need_neither_checkout_nor_extras(site: Path, folder: Path) -> None:
    """What the extras bring cannot be imported here, as in an environment with the core alone."""
    extras = brought_by_extras()
    assert {"pandas", "matplotlib", "torchvision", "diffusers", "IPython", "nbclient", "onnx"} <= extras
    program = f"""
import runpy, sys
from importlib.machinery import PathFinder

class Core(PathFinder):  # not None in sys.modules: SciPy takes a name there for a module that is loaded
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        missing = name.partition(".")[0] in {sorted(extras)} or name in {UNNEEDED}
        return None if missing else super().find_spec(name, path, target)

sys.meta_path = [Core if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv[0] = "ismkit"
runpy.run_module("ismkit", run_name="__main__")
"""
    drawn = outside(site, folder, "-c", program, "sample", "-n", "2", "--nfe", "2")
    assert drawn == f"20 images, 2 NFE, w = 1: {folder / 'out' / 'samples.png'}\n"
    with Image.open(folder / "out" / "samples.png") as picture:
        assert picture.size == (3 * (10 * 29 - 1), 3 * (2 * 29 - 1))
    trained = outside(site, folder, "-c", program, "train", "gaussians", "--steps", "3", "--batch-size", "64")
    (run,) = (folder / "out" / "runs").iterdir()
    assert f"3 steps of 64; in {run}\n" in trained
    load = f"ismkit.load_model({str(run / 'model.safetensors')!r})"
    plan = "ismkit.training.runs.transformer_config(ismkit.RUNS['imagenet256-xl2'], 1000)"
    program = f"import sys, ismkit.training.runs; {load}; {plan}; print({{*{UNNEEDED}}} & sys.modules.keys())"
    assert outside(site, folder, "-c", program) == "set()\n"
    assert [path.name for path in folder.iterdir()] == ["out"]


def test_doctor_finds_the_weights_and_says_where_the_data_are_to_be_had(site: Path, folder: Path) -> None:
    said = outside(site, folder, "-m", "ismkit", "doctor")
    lines = [line.split(maxsplit=2) for line in said.splitlines()]
    (weights,) = [line for line in lines if line[1] == "weights"]
    assert weights[0] == "ok"
    assert weights[2] == f"9 files as released, in {site / 'ismkit' / 'models' / 'weights'}"
    assert " 0 to repair" in said
    if not Path("/usr/share/datasets/fashion-mnist").exists():
        (data,) = [line for line in lines if line[1] == "Fashion-MNIST"]
        assert data[0] == "warn"
        assert "ismkit.fashion_mnist('train', download=True)" in said
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["notebook", "00"], r"\(none in .*/notebooks: work in a clone of the repository\)"),
        (["train", "fashion-laptop", "--steps", "1"], r"Fashion-MNIST is not in .*: fetch it \(31 MB\) by `python -c"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(command: list[str], message: str, site: Path, folder: Path) -> None:
    if "train" in command and Path("/usr/share/datasets/fashion-mnist").exists():
        pytest.skip("Debian's package dataset-fashion-mnist is installed")
    said = outside(site, folder, "-m", "ismkit", *command, status=2)
    assert re.search(message, said.splitlines()[-1])
    assert "Traceback" not in said
