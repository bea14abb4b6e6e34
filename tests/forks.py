"""Python processes that begin with the libraries in memory: to import them takes each two to five seconds.

A plugin of pytest, ``-p tests.forks``. What tests start by ``python -c``, ``python -m`` or as a script is a process of
its own, as ever; so are the kernels of notebooks, and the processes of pytest-xdist that run the tests. It is forked
from one that has imported the libraries and done nothing else (``tests/forkserver.py``), and so has no threads that a
fork would leave behind. The kit is not among them. Processes begin with nothing where the environment asks for another
Python than that of the tests, where something else than a test, a notebook or a command starts them, and in tests with
the mark ``fresh_process``, which ask how a process begins.
"""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import forkserver

#: What a kernel does, and what most notebooks and commands import, some of it in passing.
LIBRARIES = ["IPython.core.completer", "ipykernel.ipkernel", "ipykernel.kernelapp", "ipywidgets"]
LIBRARIES += ["matplotlib.pyplot", "matplotlib_inline.backend_inline", "pandas", "pyarrow.parquet", "pywt"]
LIBRARIES += ["scipy.optimize", "scipy.stats", "torch", "torch._dynamo", "torch.distributed.tensor"]
LIBRARIES += ["accelerate", "diffusers.models", "nbformat", "onnxscript", "ot", "safetensors.torch", "torchdiffeq"]
LIBRARIES += ["torchvision"]
forks: forkserver.Forks | None = None
#: For processes on as many threads as a reader's, who sets no limit; what waits for others lets them have the core.
unlimited: forkserver.Forks | None = None
WITHOUT_LIMIT = {"OMP_WAIT_POLICY": "passive"}


def started_here(without_limit: bool = False) -> forkserver.Forks:
    """One for this process: its own, if it was forked itself."""
    if (spare := forkserver.spare_of_this()) and not without_limit:
        return forkserver.Forks(spare.environment, spare.path, spare.connection, LIBRARIES)
    program = "import sys; print(*sys.path[1:], sep='\\n')"
    shown = subprocess.check_output([sys.executable, "-c", program], text=True)
    inherited = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    path = shown.splitlines()[len(inherited) :]
    environment = forkserver.read_once(os.environ)
    if without_limit:
        environment = {name: value for name, value in environment.items() if name not in forkserver.THREADS}
        environment |= WITHOUT_LIMIT
    return forkserver.Forks(environment, path, libraries=LIBRARIES)


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Where processes can be forked without harm. Those that run tests are forked too: what does it is begun now."""
    global forks, unlimited
    if sys.platform == "linux":
        forks, unlimited = started_here(), started_here(without_limit=True)
        subprocess.Popen._execute_child = forkserver.forked_by(forks, unlimited)  # type: ignore[attr-defined]
        if getattr(early_config.known_args_namespace, "numprocesses", None) and not os.environ.get(
            "PYTEST_XDIST_WORKER"
        ):
            forks.begin()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Fork nothing for tests with the mark."""
    for server in filter(None, (forks, unlimited)):
        server.allowed = item.get_closest_marker("fresh_process") is None
    try:
        return (yield)
    finally:
        for server in filter(None, (forks, unlimited)):
            server.allowed = True


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    subprocess.Popen._execute_child = forkserver.as_ever  # type: ignore[attr-defined]
    for server in filter(None, (forks, unlimited)):
        server.end()
