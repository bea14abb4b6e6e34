"""Dependencies, import cost, shape of the package, what may be committed, and the Makefile."""

import ast
import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import types
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import ismkit
from ismkit import doctor
from ismkit.doctor import PURPOSE
from tests.conftest import MACHINE_PATH, ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = {name: list(map(Requirement, listed)) for name, listed in PROJECT["optional-dependencies"].items()}
NAMED = [
    *map(Requirement, PROJECT["dependencies"]),
    *(r for name in EXTRAS if name != "all" for r in EXTRAS[name]),
]

MODULES = sorted(
    path for path in (ROOT / "ismkit").glob("*/*.py") if path.stem != "__init__" and path.parent.name != "cli"
)
#: The rooms from the ground up, and what each may import beside itself.
ROOMS = {
    "utils": [],
    "method": ["utils"],
    "data": ["utils"],
    "models": ["utils", "method", "data"],
    "neighbours": ["utils", "method", "data", "models"],
    "imagenet": ["utils", "data"],
    "training": ["utils", "method", "data", "models", "neighbours", "imagenet"],
    "evaluation": ["utils", "method", "data", "models", "imagenet"],
    "sweeps": ["utils", "method", "data", "models", "neighbours", "training", "evaluation"],
    "lessons": ["utils", "method", "data", "training"],
}
TOP = ["doctor"]  # beside the rooms, and above them the commands in ``cli``
HEAVY = [
    "IPython",
    "datasets",
    "diffusers",
    "jupyter_client",
    "lapjv",
    "matplotlib",
    "nbformat",
    "ot",
    "pandas",
    "papermill",
    "pywt",
    "skimage",
    "sklearn",
    "tensorboard",
    "torch_fidelity",
    "torchdiffeq",
    "torchvision",
]
IMPORT_SECONDS = 2.0


def constraints() -> dict[str, Version]:
    """The pins of constraints.txt by canonical name; every line that is not a comment must be one."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            assert name not in pins, f"two pins of {name}"
            assert name == canonicalize_name(name)
            pins[name] = Version(version)
    return pins


def installed_closure() -> set[str]:
    """Canonical names of all that the extra ``all`` installs in this environment, ismkit itself aside."""
    found: set[tuple[str, str]] = set()
    queue = [(requirement.name, extra) for requirement in NAMED for extra in ["", *requirement.extras]]
    while queue:
        name, extra = queue.pop()
        key = (canonicalize_name(name), extra)
        if key in found:
            continue
        found.add(key)
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                queue += [(requirement.name, extra) for extra in ["", *requirement.extras]]
    return {name for name, _ in found}


def test_every_dependency_has_a_pin_within_its_bounds() -> None:
    pins = constraints()
    for requirement in NAMED:
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"no pin of {requirement.name}"
        assert requirement.specifier.contains(pin), f"{requirement} does not allow {pin}"
        assert [bound.operator for bound in requirement.specifier] == [">="], f"{requirement}: one lower bound"


def test_everything_that_gets_installed_has_a_pin() -> None:
    try:
        closure = installed_closure()
    except importlib.metadata.PackageNotFoundError as error:
        pytest.skip(f"the extra 'all' is not installed here: {error}")
    assert len(closure) > 100
    assert sorted(closure - constraints().keys()) == []


def test_every_package_installs_on_the_oldest_python() -> None:
    """Debian 12 has Python 3.11.2: with a pin that asked for 3.11.5 the book could not be built there."""
    oldest = f"{PROJECT['requires-python'].removeprefix('>=')}.0"
    wanted = {one.metadata["Name"]: one.metadata["Requires-Python"] for one in importlib.metadata.distributions()}
    pins = constraints()
    pinned = {name: text for name, text in wanted.items() if canonicalize_name(name) in pins}
    assert len(pinned) > 50
    assert {name: text for name, text in pinned.items() if text and oldest not in SpecifierSet(text)} == {}


def test_extra_all_is_every_other_extra() -> None:
    (everything,) = EXTRAS["all"]
    assert everything.name == PROJECT["name"]
    assert everything.extras == EXTRAS.keys() - {"all"}


def test_doctor_knows_what_each_package_and_each_extra_is_for() -> None:
    assert {canonicalize_name(requirement.name) for requirement in NAMED} == PURPOSE.keys()
    assert doctor.EXTRAS.keys() == EXTRAS.keys() - {"all"}


def test_extras_are_by_what_one_does_and_each_has_its_size_in_the_book() -> None:
    page = (ROOT / "book" / "installing.md").read_text()
    listed = re.findall(r"^\| `(\w+)`.* \| [\d.]+ [MG]B \| [\d.]+ [MG]B \|$", page, re.MULTILINE)
    assert listed == ["core", *EXTRAS]


def test_core_has_all_that_it_imports() -> None:
    """Of the modules that draw clothes, train and load, at their top and in their functions; by what pip calls each."""
    called = {"ot": "POT", "PIL": "pillow", "lazy_loader": "lazy-loader"}
    # By name only: other wavelets than Haar, logs, latents of ImageNet, adaptive solvers, ONNX files, CIFAR-10.
    optional = {"pywt", "tensorboard", "skimage", "torchdiffeq", "onnx", "onnxruntime", "torchvision"}
    core = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    for path in MODULES:
        if path.parent.name in ("utils", "method", "data", "models", "training"):
            names = {name for name in foreign(path) if name not in sys.stdlib_module_names} - optional
            missing = {name for name in names if canonicalize_name(called.get(name, name)) not in core}
            assert not missing, f"{path.relative_to(ROOT)} imports {', '.join(sorted(missing))}"


def test_conda_environment_equals_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    assert environment["channels"] == ["conda-forge"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    *conda, pip = environment["dependencies"]
    assert conda == [f"python={oldest}", "make", "pip"]
    # Not a second list to keep equal but the very extra and the very pins.
    assert pip == {"pip": ["-c constraints.txt", "-e .[all]"]}


def test_version_and_python_are_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == ismkit.__version__
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert PYPROJECT["tool"]["mypy"]["python_version"] == oldest
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"


@pytest.mark.fresh_process
def test_import_is_quick_and_light() -> None:
    names = ["ismkit", *(f"ismkit.{module(path)}" for path in MODULES if path.stem != "plot")]
    # Processor time, which unlike wall time does not grow when other tests use the core.
    program = f"""
import importlib, sys, time
import torch
before, start = set(sys.modules), time.process_time()
for name in {names}:
    importlib.import_module(name)
print(time.process_time() - start)
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}} & set({HEAVY})))
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    seconds, heavy = run.stdout.split("\n")[:2]
    assert heavy == ""
    assert float(seconds) < IMPORT_SECONDS


@pytest.mark.fresh_process
def test_a_notebook_is_run_without_torch() -> None:
    """Its kernel imports torch, in two seconds; the process that waits for it needs none."""
    program = "import sys, ismkit.cli.notebook, ismkit.lessons.notebooks; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


def test_every_room_is_drawn() -> None:
    """The rooms stand in one order, from the ground up, and hold at most about eight files each."""
    assert {path.parent.name for path in (ROOT / "ismkit").glob("*/__init__.py")} == {*ROOMS, "cli"}
    for room in ROOMS:
        assert len([path for path in MODULES if path.parent.name == room]) <= 9, room
    assert sorted(path.stem for path in (ROOT / "ismkit").glob("*.py")) == sorted(["__init__", "__main__", *TOP])


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_downwards_only(room: str) -> None:
    """A file imports its own room and those that stand below it in ``ROOMS``, less the pairs that do not meet."""
    allowed = {room, *ROOMS[room]}
    for path in MODULES:
        if path.parent.name == room:
            found = {name.partition(".")[0] for name in imported(path)}
            assert found <= allowed, f"{path.relative_to(ROOT)} imports from {', '.join(sorted(found - allowed))}"


def test_no_import_cycles() -> None:
    graph = {module(path): imported(path) & {module(path) for path in MODULES} for path in MODULES}
    settled: set[str] = set()
    while ready := {name for name, needs in graph.items() if needs <= settled} - settled:
        settled |= ready
    assert not graph.keys() - settled, {name: graph[name] - settled for name in graph.keys() - settled}


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_of_a_room(room: str) -> None:
    """Each can be imported; none has the name of a file, which would make ``from room import name`` ambiguous."""
    package = importlib.import_module(f"ismkit.{room}")
    files = {path.stem for path in MODULES if path.parent.name == room}
    assert files <= set(package.__all__)
    assert package.__doc__
    for name in package.__all__:
        assert isinstance(getattr(package, name), types.ModuleType) == (name in files), name


def test_public_names_of_the_kit_are_those_of_its_rooms() -> None:
    assert set(ROOMS) < set(ismkit.__all__)
    for name in set(ismkit.__all__) - set(ROOMS):
        value = getattr(ismkit, name)
        homes = [room for room in ROOMS if name in importlib.import_module(f"ismkit.{room}").__all__]
        assert len(homes) == 1, name
        assert getattr(importlib.import_module(f"ismkit.{homes[0]}"), name) is value


def test_the_package_lists_its_rooms() -> None:
    assert re.findall(r"^\* ``ismkit\.(\w+)``", ismkit.__doc__ or "", re.MULTILINE) == [*ROOMS]


def test_the_package_lists_its_names_by_room() -> None:
    """So that ``help(ismkit)`` begins with them: what pydoc makes of them fills 12 000 lines, by base class."""
    stub = re.findall(r"^from \.(\w+) import (\w+) as", (ROOT / "ismkit" / "__init__.pyi").read_text(), re.MULTILINE)
    _, _, text = (ismkit.__doc__ or "").partition("The names by room:")
    listed = re.findall(r"^\* (\w+): ([^.]*)\.$", text, re.MULTILINE)
    assert [room for room, _ in listed] == [room for room in ROOMS if room in dict(stub)]
    assert [(room, name) for room, names in listed for name in re.split(r",\s+", names)] == sorted(
        stub, key=lambda pair: [*ROOMS].index(pair[0])
    )


def test_tests_mirror_the_rooms() -> None:
    """Each test of a room stands in a folder of its name; what serves all rooms stands beside the folders."""
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders - {"bench"} == {*ROOMS}


def module(path: Path) -> str:
    """``method.rows`` for the file of that module."""
    return ".".join(path.relative_to(ROOT / "ismkit").with_suffix("").parts)


def foreign(path: Path) -> set[str]:
    """The packages of others that a module imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names} - {"ismkit"}


def imported(path: Path) -> set[str]:
    """The modules of ismkit that a module imports, anywhere in it, as ``method.rows``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    names = {tuple(name.split(".")[1:3]) for name in found if name.startswith("ismkit.")}
    return {".".join(name) for name in names if name[0] != "__version__"}


def test_nothing_of_one_machine_is_committed() -> None:
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    run = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("not a git checkout")
    registry = re.compile(
        r"py[p]i\.org|pythonhosted\.or[g]|--(?:extra-)?index-ur[l][ =]\S|--find-link[s][ =]\S|file:/[/]"
    )
    found = []
    for name in filter(None, run.stdout.split("\0")):
        if name.startswith("book/_static/onnxruntime-web/"):  # as published by others
            continue
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):  # binary; deleted but still in the index
            continue
        for pattern in (MACHINE_PATH, registry):
            found += [f"{name}: {match[0]!r}" for match in pattern.finditer(text)]
    assert found == []


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


@needs_make
def test_make_lists_its_targets() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    run = make()
    assert run.returncode == 0
    for target in set(phony[1].split()) - {"force"}:
        assert re.search(rf"^  {target} +\S", run.stdout, re.MULTILINE), target


@needs_make
def test_make_names_a_python_that_is_too_old(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit\nexit 1\n')
    old.chmod(0o755)
    run = make("venv", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert run.returncode != 0
    assert "needs Python 3.11 or later" in run.stderr
    assert "is Python 3.9.2" in run.stderr
    assert not (tmp_path / "venv").exists()


@needs_make
def test_make_names_a_python_that_is_missing(tmp_path: Path) -> None:
    run = make("venv", "PYTHON=python-that-is-not-there", f"VENV={tmp_path / 'venv'}")
    assert run.returncode != 0
    assert "no 'python-that-is-not-there' here" in run.stderr


PYTHON = """#!/bin/sh
echo "python $*" >> "$LOG"
[ "$1 $2" = "-m pip" ] && [ "$3" = install ] && exit "${PIP_STATUS:-0}"
exit 0
"""


class Checkouts:
    """Two checkouts that share one environment, whose programs only write down how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        for name in ("one", "other"):
            (folder / name).mkdir()
            for file in ("Makefile", "pyproject.toml", "constraints.txt"):
                shutil.copy(ROOT / file, folder / name)
        (folder / "venv" / "bin").mkdir(parents=True)
        for program in ("python", "ismkit"):
            (folder / "venv" / "bin" / program).write_text(PYTHON)
            (folder / "venv" / "bin" / program).chmod(0o755)

    def make(self, *arguments: str, checkout: str = "one", status: int = 0, **environment: str) -> list[str]:
        """What pip was asked to install."""
        self.log.write_text("")
        environment = {**os.environ, "LOG": str(self.log), "ISMKIT_OUT": str(self.folder), **environment}
        command = ["make", *arguments, f"VENV={self.folder / 'venv'}"]
        run = subprocess.run(command, cwd=self.folder / checkout, env=environment, capture_output=True, text=True)
        assert (run.returncode != 0) == bool(status), run.stderr
        return re.findall(r"^python -m pip install (.*)$", self.log.read_text(), re.MULTILINE)


@pytest.fixture
def checkouts(tmp_path: Path) -> Checkouts:
    return Checkouts(tmp_path)


def installs(extra: str) -> list[str]:
    return ["-c constraints.txt setuptools", f"-c constraints.txt --no-build-isolation -e .[{extra}]"]


@needs_make
def test_make_installs_what_the_target_needs_once(checkouts: Checkouts) -> None:
    for target in ("demo", "lab"):
        assert checkouts.make(target) == (installs("learn") if target == "demo" else [])
    assert checkouts.make("lint") == installs("all")
    for target in ("demo", "lab", "types", "unit", "book", "venv"):  # who has all has learn
        assert checkouts.make(target) == [], target
    later = time.time() + 10
    os.utime(checkouts.folder / "one" / "pyproject.toml", (later, later))
    assert checkouts.make("lint") == installs("all")


@needs_make
def test_make_notices_that_another_checkout_has_the_environment(checkouts: Checkouts) -> None:
    assert checkouts.make("lint") == installs("all")
    assert checkouts.make("demo", checkout="other") == installs("learn")
    assert checkouts.make("lint") == installs("all")
    assert checkouts.make("demo", checkout="other", status=2, PIP_STATUS="1") == installs("learn")[:1]
    assert checkouts.make("lint") == installs("all")
    assert checkouts.make("lint", checkout="other") == installs("all")
    assert checkouts.make("demo") == installs("learn")
    assert checkouts.make("lint") == installs("all")


@needs_make
def test_make_does_not_take_a_failed_installation_for_a_whole_one(checkouts: Checkouts) -> None:
    assert checkouts.make("lint") == installs("all")
    later = time.time() + 10
    os.utime(checkouts.folder / "one" / "pyproject.toml", (later, later))
    assert checkouts.make("demo", status=2, PIP_STATUS="1") == installs("learn")[:1]
    assert checkouts.make("demo") == installs("learn")
    assert checkouts.make("lint") == installs("all")


@needs_make
def test_make_takes_another_build_of_torch_first(checkouts: Checkouts) -> None:
    """And alone, so that nothing else comes from where that build is."""
    first, last = installs("learn")
    torch_alone = "--some option --no-deps -c constraints.txt torch torchvision"
    assert checkouts.make("demo", "TORCH=--some option", "PIP_FLAGS=-q") == [f"-q {first}", torch_alone, f"-q {last}"]


@needs_make
def test_make_refuses_a_path_with_spaces_for_the_environment() -> None:
    run = make("help", "VENV=a b")
    assert run.returncode != 0
    assert "one path without spaces" in run.stderr


@needs_make
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_make_gpu_says_when_there_is_none() -> None:
    run = make("gpu", f"PYTHON_GPU={sys.executable}")
    assert run.returncode != 0
    assert "sees no CUDA device here" in run.stderr
