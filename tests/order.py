"""How ``make test`` deals out its tests: a file or a notebook at a time, what takes long first.

A plugin of pytest, ``-p tests.order``. Tests of one file share what they set up, and cells of one notebook its kernel,
so they stay together; each process takes the next file when it has done its own. What takes long comes first: at the
end, when one process has nothing left, the other has little.

It also saves some seconds of each process: what modules and tests are made of lives to the end, so that Python's
collector of garbage need not look at it again and again.
"""

import gc
import sys
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

#: Tests that share nothing with the others of their file: each is dealt out by itself.
ALONE = "tests/lessons/test_notebooks.py::test_smoke_profile_runs_by_papermill"
#: The longest, with two browsers at once.
FIRST = "tests/test_book.py"
NOTEBOOK = ".ipynb"
PATIENCE = 2500  # seconds for a cell, on a busy machine

# With it jsonschema checks addresses by a grammar that is built in each process, for 2 s; no notebook has such a check.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def together(nodeid: str) -> str:
    """The name of what a test is dealt out with."""
    return nodeid if nodeid.startswith(ALONE) else nodeid.partition("::")[0]


class ByFile(LoadScopeScheduling):
    """Files in the order of collection."""

    def _split_scope(self, nodeid: str) -> str:
        return together(nodeid)


def pytest_configure() -> None:
    """Collect no garbage until all is imported, and all tests are found."""
    gc.disable()


@pytest.hookimpl
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Called if tests are run in several processes."""
    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with slow tests first."""
    for item in items:
        if item.path.suffix == NOTEBOOK:
            item.add_marker(pytest.mark.timeout(PATIENCE))
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(together(item.nodeid), []).append(item)

    def rank(name: str) -> int:
        if name == FIRST:
            return 0
        slow = (item.get_closest_marker(mark) for item in files[name] for mark in ("slow", "browser"))
        return 1 if name.endswith(NOTEBOOK) or any(slow) else 2

    items[:] = [item for name in sorted(files, key=rank) for item in files[name]]


def pytest_collection_finish() -> None:
    """Leave alone what is there, and look at the rest ten times less often than Python would.

    Hypothesis must be there by then: its plugin imports it at the end if no test has, and it asks the collector about
    an object that would be left alone.
    """
    import hypothesis  # noqa: F401

    gc.freeze()
    gc.set_threshold(7000, 10, 10)
    gc.enable()
