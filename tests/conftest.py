"""What every test shares: one thread per worker, no deadlines, GPU tests skipped without a GPU."""

import os
import re
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the workers share the cores

import pytest
import torch
from hypothesis import settings

pytest_plugins = ["tests.commandline", "tests.float64", "tests.images"]
ROOT = Path(__file__).resolve().parent.parent

# A path that exists on its author's machine only.
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:home|Users|root|tmp|work)/[\w.-]|[A-Z]:\\+Users|ipykernel_\d+", re.ASCII)

# No deadline: a busy machine is not a bug. Derandomised in CI, so that a failure there is one everywhere.
settings.register_profile("ismkit", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("ismkit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` where torch sees no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
