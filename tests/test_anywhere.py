"""Where the kit can be started besides a clone: workflows, Binder, a container, Colab, and the buttons of the book."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.building import builder
from tests.conftest import ROOT
from tests.test_packaging import EXTRAS, PROJECT, constraints

PAGE = (ROOT / "book" / "anywhere.md").read_text()
CONF = (ROOT / "book" / "conf.py").read_text()
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
TARGETS = set(re.findall(r"^([a-z]+):.*?## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
CI = (ROOT / ".ci" / "run").read_text()


def steps(workflow: str) -> list[dict]:
    return [step for job in WORKFLOWS[workflow]["jobs"].values() for step in job["steps"]]


def made(text: str) -> list[str]:
    """The targets that a script asks make for."""
    return re.findall(r"\bmake ([a-z]+)", text)


# ---------------------------------------------------------------- workflows


def test_workflows_call_targets_of_the_makefile() -> None:
    wanted = {"test": ["test"], "pages": ["book"]}
    found = {name: made("\n".join(step.get("run", "") for step in steps(name))) for name in WORKFLOWS}
    assert found == wanted
    assert {target for targets in wanted.values() for target in targets} <= TARGETS
    assert made(CI.splitlines()[-1]) == wanted["test"]


def test_the_workflow_of_tests_has_the_environment_of_ci() -> None:
    exported = re.search(r"^export (.*)$", CI, re.MULTILINE)
    assert exported
    wanted = dict(pair.split("=") for pair in exported[1].split())
    (job,) = WORKFLOWS["test"]["jobs"].values()
    assert wanted.items() <= job["env"].items()


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_by_their_major_version(name: str) -> None:
    used = [step["uses"] for step in steps(name) if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[\w-]+@v\d+", action), action


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_cache_pip_and_take_the_oldest_python(name: str) -> None:
    (setup,) = (step["with"] for step in steps(name) if step.get("uses", "").startswith("actions/setup-python@"))
    assert setup["python-version"] == PROJECT["requires-python"].removeprefix(">=")
    assert setup["cache"] == "pip"
    for file in setup["cache-dependency-path"].split():
        assert (ROOT / file).is_file()


def test_the_workflow_of_pages_publishes_what_make_book_builds() -> None:
    (upload,) = (step for step in steps("pages") if "upload-pages-artifact" in step.get("uses", ""))
    recipe = re.search(r"^book:.*?(?:\n\t.*)+", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    assert f"{upload['with']['path']}/index.html" in recipe[0]
    assert WORKFLOWS["pages"]["permissions"] == {"contents": "read", "pages": "write", "id-token": "write"}
    assert "ISMKIT_REPOSITORY" in WORKFLOWS["pages"]["jobs"]["build"]["env"]


# ---------------------------------------------------------------- Binder and the container


def test_conda_gives_binder_the_pytorch_of_pyproject() -> None:
    environment = yaml.safe_load((ROOT / ".binder" / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    python, pip, torch, vision = environment["dependencies"]
    assert python == f"python={PROJECT['requires-python'].removeprefix('>=')}"
    assert pip == "pip"
    bounds = {r.name: str(r.specifier) for r in [*map(Requirement, PROJECT["dependencies"]), *EXTRAS["learn"]]}
    assert torch == f"pytorch-cpu{bounds['torch']}"
    assert vision == f"torchvision{bounds['torchvision']}"


def test_binder_installs_the_extra_for_learners_at_every_other_pin(tmp_path: Path) -> None:
    """The script runs with a stand-in for Python, which keeps what pip gets."""
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / "python"
    stub.write_text(
        '#!/bin/sh\necho "$@" > "$KEPT/asked"\nwhile [ "$1" != -c ]; do shift; done\ncp "$2" "$KEPT/pins"\n'
    )
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "KEPT": str(tmp_path)}
    script = ROOT / ".binder" / "postBuild"
    assert os.access(script, os.X_OK)  # Binder runs nothing else
    subprocess.run([script], cwd=ROOT, env={**environment, "TMPDIR": str(tmp_path)}, check=True, timeout=60)
    asked = (tmp_path / "asked").read_text()
    assert re.fullmatch(r"-m pip install --no-cache-dir -c \S+ -e \.\[learn\]\n", asked)
    pins = (tmp_path / "pins").read_text().splitlines()
    named = {line.split("==")[0] for line in pins if line and not line.startswith("#")}
    left_out = constraints().keys() - named
    assert {"torch", "torchvision"} <= left_out
    of_torch = {canonicalize_name(r.name) for r in map(Requirement, importlib.metadata.requires("torch") or [])}
    others = {name for name in left_out if not re.match(r"(torch|torchvision|triton)$|cuda-|nvidia-", name)}
    assert others == set(), "a pin of something else was left out"
    bound_to = {name for name in of_torch & constraints().keys() if re.match(r"triton|cuda-|nvidia-", name)}
    assert bound_to <= left_out, "PyTorch asks for its very version"
    (pattern,) = re.findall(r"grep -vE ('.*?')", script.read_text())
    assert f"!grep -vE {pattern} ismkit-clone/constraints.txt > pins.txt" in PAGE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asked", "bin", "pins"]  # and leaves nothing behind


def test_container_runs_a_target_of_the_makefile_with_its_interpreter() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert made(container["postCreateCommand"]) == ["venv"]
    assert {"venv"} <= TARGETS
    settings = container["customizations"]["vscode"]["settings"]
    assert settings["python.defaultInterpreterPath"] == "${containerWorkspaceFolder}/.venv/bin/python"
    assert re.search(r"^VENV \?= \.venv$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert PROJECT["requires-python"].removeprefix(">=") in container["image"]
    assert "chromium chromium-driver" in container["onCreateCommand"]
    assert "chromium chromium-driver" in CI


# ---------------------------------------------------------------- the page


def pip_commands() -> list[str]:
    """What follows `pip install` in the blocks of the page."""
    scripts = "\n".join(re.findall(r"^```(?:bash|ipython3)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    return re.findall(r"^%?pip install (.*)$", scripts, re.MULTILINE)


def test_cells_for_colab_parse() -> None:
    transform = pytest.importorskip("IPython.core.inputtransformer2").TransformerManager().transform_cell
    cells = re.findall(r"^```ipython3\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(cells) == 2
    for cell in cells:
        calls = ast.parse(transform(cell)).body
        assert len(calls) == len(cell.splitlines())
        assert all("system" in ast.unparse(call) or "run_line_magic" in ast.unparse(call) for call in calls)


def test_pip_takes_the_commands_of_the_page() -> None:
    commands = pytest.importorskip("pip._internal.commands")
    assert len(pip_commands()) == 5
    for command in pip_commands():
        words = [word.strip("'") for word in command.split()]
        options, rest = commands.create_command("install").parse_args(words)
        assert rest or options.editables
        for name in options.constraints:
            assert name == "pins.txt" or (ROOT / name.removeprefix("ismkit-clone/")).is_file()
        for editable in options.editables:
            folder, extra = re.fullmatch(r"(\.|\./ismkit-clone)\[(\w+)\]", editable).groups()  # type: ignore[union-attr]
            assert extra in EXTRAS, folder


def test_commands_of_the_page_are_those_of_the_makefile() -> None:
    """With pip alone one installs what `make lab` does."""
    recipe = (ROOT / "Makefile").read_text()
    for line in ["-c constraints.txt setuptools", "-c constraints.txt --no-build-isolation -e '.[learn]'"]:
        assert line in pip_commands()
        assert line.replace("[learn]", "[$(1)]") in recipe
    assert set(made(PAGE)) <= TARGETS


# ---------------------------------------------------------------- buttons


def book_of_one_notebook(folder: Path, repository: str) -> str:
    """Build a notebook and its start page with the settings of the book; returns the notebook's page."""
    source = folder / "source"
    (source / "notebooks").mkdir(parents=True)
    (source / "index.md").write_text("# Start\n\n```{toctree}\nnotebooks/01_flow_matching\n```\n")
    notebook = json.loads((ROOT / "notebooks" / "01_flow_matching.ipynb").read_text())
    notebook["cells"] = notebook["cells"][:1]
    (source / "notebooks" / "01_flow_matching.ipynb").write_text(json.dumps(notebook))
    environment = {**os.environ, "ISMKIT_REPOSITORY": repository}
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-c", str(ROOT / "book"), str(source), str(folder / "html")]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    return (folder / "html" / "notebooks" / "01_flow_matching.html").read_text()


def test_buttons_lead_to_the_repository_if_it_has_an_address(tmp_path: Path) -> None:
    pytest.importorskip("sphinx_book_theme")
    page = book_of_one_notebook(tmp_path, "https://github.com/owner/name")
    notebook = "notebooks/01_flow_matching.ipynb"
    assert f'href="https://colab.research.google.com/github/owner/name/blob/main/{notebook}"' in page
    assert f'href="https://mybinder.org/v2/gh/owner/name/main?urlpath=lab/tree/{notebook}"' in page
    assert (ROOT / notebook).is_file()
    assert "https://mybinder.org/v2/gh/OWNER/NAME/main?urlpath=lab/tree/notebooks/00_start_here.ipynb" in PAGE


def test_no_buttons_without_an_address(tmp_path: Path) -> None:
    pytest.importorskip("sphinx_book_theme")
    page = book_of_one_notebook(tmp_path, "")
    assert "mybinder" not in page
    assert "colab" not in page


ADDRESS = "https://github.com/owner/name"


def test_a_book_with_an_address_has_the_commands_with_it() -> None:
    page = builder().with_address(PAGE, ADDRESS)
    assert f"!git clone --depth 1 {ADDRESS} ismkit-clone\n%pip install" in page
    assert f"git clone {ADDRESS} ismkit\n" in page
    assert "https://mybinder.org/v2/gh/owner/name/main" in page
    assert "`ISMKIT_REPOSITORY`" in page  # the variable keeps its name
    assert not re.search(r"\bREPOSITORY\b|OWNER|NAME\b", page.replace("ISMKIT_REPOSITORY", ""))
    assert builder().with_address(PAGE, "") == PAGE


def test_the_page_of_a_notebook_with_a_button_leads_to_the_first_cell_for_colab() -> None:
    (link,) = re.findall(r"\]\(\.\./(anywhere\.md#[\w-]+)\)", builder().on_colab(ADDRESS))
    assert link == "anywhere.md#google-colab"
    assert "## Google Colab" in PAGE
    assert builder().on_colab("") == ""


def test_the_address_has_one_place() -> None:
    """One file reads the setting, and none of what it serves names an owner."""
    files = [*(ROOT / "book").glob("*.py"), *(ROOT / "ismkit").rglob("*.py")]
    assert [path.name for path in files if "ISMKIT_REPOSITORY" in path.read_text()] == ["conf.py"]
    setting = re.search(r'^REPOSITORY = os.environ.get\("ISMKIT_REPOSITORY", "(.*)"\)$', CONF, re.MULTILINE)
    assert setting
    assert re.fullmatch(r"|https://github\.com/[\w-]+/[\w.-]+", setting[1])
    for text in (PAGE, (ROOT / "pyproject.toml").read_text(), (ROOT / "CITATION.cff").read_text()):
        assert "github.com/" not in text
