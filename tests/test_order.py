"""`tests/order.py` deals out every test once, with those that share something, and the long ones first."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytest.importorskip("xdist")
from tests import order

SMOKE = f"{order.ALONE}_from_the_command_line"


class Item:
    """As much of an item of pytest as the plugin reads."""

    def __init__(self, nodeid: str, *marks: str) -> None:
        self.nodeid, self.path, self.marks = nodeid, Path(nodeid.partition("::")[0]), {*marks}

    def get_closest_marker(self, name: str) -> bool:
        return name in self.marks

    def add_marker(self, mark: Any) -> None:
        self.marks.add(f"{mark.name} {mark.args}")


def test_what_is_slow_comes_first_and_files_stay_together() -> None:
    names = ["tests/a.py::one", "tests/a.py::two", f"{SMOKE}[00]", f"{SMOKE}[01]", "notebooks/00_x.ipynb::Cell 0"]
    names += ["tests/b.py::quick", "tests/b.py::slow", "tests/test_book.py::page", "notebooks/00_x.ipynb::Cell 1"]
    items: list[Any] = [Item(name, *(["slow"] if "slow" in name or SMOKE in name else [])) for name in names]
    order.pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == [
        *["tests/test_book.py::page", f"{SMOKE}[00]", f"{SMOKE}[01]"],
        *["notebooks/00_x.ipynb::Cell 0", "notebooks/00_x.ipynb::Cell 1"],
        *["tests/b.py::quick", "tests/b.py::slow", "tests/a.py::one", "tests/a.py::two"],
    ]
    assert [item.nodeid for item in items if item.marks & {f"timeout {(order.PATIENCE,)}"}] == names[4:5] + names[8:]
    groups = [order.together(item.nodeid) for item in items]
    assert groups.count("tests/b.py") == groups.count("notebooks/00_x.ipynb") == 2
    assert f"{SMOKE}[01]" in groups  # each alone


def test_a_run_without_hypothesis_ends_well(tmp_path: Path) -> None:
    """In one process, of tests that do not import it: its plugin failed at the end, since garbage was left alone."""
    (tmp_path / "test_it.py").write_text("def test_it() -> None:\n    pass\n")
    options = ["-q", "-W", "error", "-p", "tests.order", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_names_are_those_of_tests() -> None:
    file, _, test = order.ALONE.partition("::")
    assert f"def {test}" in (ROOT / file).read_text()
    assert (ROOT / order.FIRST).is_file()
