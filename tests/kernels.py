"""Kernels of notebooks that begin with the libraries in memory: to import them takes each some five seconds.

A plugin of pytest, ``-p tests.kernels``. A kernel is a process of its own, as ever. It is forked from one that has
imported the libraries and done nothing else, and so has no threads that a fork would leave behind. Kernels that the
command line or JupyterLab starts, and those of ``make refresh``, begin with nothing.
"""

import multiprocessing
import os
import runpy
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from jupyter_client.provisioning import local_provisioner

ROOT = Path(__file__).parent.parent
CONTEXT = multiprocessing.get_context("forkserver")
#: What a kernel does, and what most notebooks import, some of it in passing. Not the kit: it is tested.
LIBRARIES = ["IPython.core.completer", "ipykernel.ipkernel", "ipykernel.kernelapp", "ipywidgets"]
LIBRARIES += ["matplotlib.pyplot", "matplotlib_inline.backend_inline", "pandas", "pyarrow.parquet", "pywt"]
LIBRARIES += ["scipy.optimize", "scipy.stats", "torch", "torch._dynamo", "torch.distributed.tensor"]
LIBRARIES += ["accelerate", "diffusers.models", "ot", "safetensors.torch", "torchdiffeq"]
KERNEL = "ipykernel_launcher"


def kernel(arguments: list[str], env: dict[str, str], folder: str, errors: str | None) -> None:
    """All that the new process does: ``python -m ipykernel_launcher`` in a folder, its standard error in a file."""
    if errors:
        with open(errors, "a") as file:
            os.dup2(file.fileno(), sys.__stderr__.fileno())
    os.setsid()  # it is interrupted with the processes that it starts
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.path[:] = [folder, *(place for place in sys.path if place != str(ROOT))]
    sys.argv = [KERNEL, *arguments, f"--IPKernelApp.parent_handle={os.getppid()}"]  # it ends when that one ends
    runpy.run_module(KERNEL, run_name="__main__", alter_sys=True)


class Forked:
    """As much of ``subprocess.Popen`` as Jupyter asks of a kernel."""

    stdin = stdout = stderr = None

    def __init__(self, *asked: Any) -> None:
        """Start one; takes what :func:`kernel` takes."""
        self.process = CONTEXT.Process(target=kernel, args=asked, name=KERNEL)
        with patch.multiple(sys.modules["__main__"], create=True, __spec__=None, __file__=None):
            self.process.start()  # without what this process runs, which is pytest
        self.pid = int(self.process.pid or 0)
        self.kill, self.terminate = self.process.kill, self.process.terminate
        with suppress(ProcessLookupError):  # of one that has ended
            while os.getpgid(self.pid) != self.pid:  # Jupyter would take the group of the tests
                time.sleep(0.001)

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        return self.process.exitcode

    def wait(self) -> int | None:
        """Its exit status, when it has ended."""
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to it alone, if it runs."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


def launch(command: list[str], **options: Any) -> Any:
    """Start a kernel, as ``jupyter_client.launch_kernel`` does, which starts those of another Python or with more."""
    errors = getattr(options.get("stderr"), "name", options.get("stderr"))  # nbval has a file for it
    known = options.keys() <= {"env", "cwd", "stderr"} and isinstance(errors, str | None)
    if not known or command[:3] != [sys.executable, "-m", KERNEL]:
        return as_ever(command, **options)
    return Forked(command[3:], options.get("env") or {**os.environ}, str(options.get("cwd") or os.getcwd()), errors)


as_ever = local_provisioner.launch_kernel


def pytest_configure() -> None:
    """Where processes can be forked without harm."""
    if sys.platform == "linux":
        CONTEXT.set_forkserver_preload(LIBRARIES)
        local_provisioner.launch_kernel = launch


def pytest_unconfigure() -> None:
    """End what a failed test has left: Python would wait for it."""
    for process in multiprocessing.active_children():
        if process.name == KERNEL:
            process.kill()
