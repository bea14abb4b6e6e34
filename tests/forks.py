"""Python processes that begin with the libraries in memory: to import them takes each two to five seconds.

A plugin of pytest, ``-p tests.forks``. What tests start by ``python -c`` or ``python -m`` is a process of its own, as
ever, the kernels of notebooks among them. It is forked from one that has imported the libraries and done nothing else
(``tests/forkserver.py``), and so has no threads that a fork would leave behind. The kit is not among them. Processes
begin with nothing where the environment asks for another Python than that of the tests, where those that tests have
started start them, and in tests with the mark ``fresh_process``, which ask how a process begins.
"""

import ctypes
import inspect
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import Any

import pytest

from tests import forkserver

#: What a kernel does, and what most notebooks and commands import, some of it in passing.
LIBRARIES = ["IPython.core.completer", "ipykernel.ipkernel", "ipykernel.kernelapp", "ipywidgets"]
LIBRARIES += ["matplotlib.pyplot", "matplotlib_inline.backend_inline", "pandas", "pyarrow.parquet", "pywt"]
LIBRARIES += ["scipy.optimize", "scipy.stats", "torch", "torch._dynamo", "torch.distributed.tensor"]
LIBRARIES += ["accelerate", "diffusers.models", "ot", "safetensors.torch", "torchdiffeq"]
MODULES = ("ismkit", "ipykernel_launcher")  # that are run by ``-m``
#: Beginnings of variables that are read when Python starts or a library is imported.
READ_ONCE = ("PYTHON", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "MALLOC_", "GLIBC_", "LD_", "LC_", "LANG", "MPL")
READ_ONCE += ("TORCH_", "ATEN_", "HF_", "DIFFUSERS_")
HERE = ("PYTHONPATH", "PYTHONUNBUFFERED")  # those that can be set later
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl


def read_once(env: Mapping[str, str]) -> dict[str, str]:
    """What an environment says that a process cannot be told later; the libraries' threads are those of OpenMP."""
    found = {name: value for name, value in env.items() if name.startswith(READ_ONCE) and name not in HERE}
    if threads := found.get(THREADS[0]):
        found = dict.fromkeys(THREADS, threads) | found
    return found


class Forks:
    """The process that forks, started when it is first asked, and how it is asked."""

    def __init__(self) -> None:
        self.allowed = True
        self.connection: socket.socket | None = None
        self.server: subprocess.Popen[bytes] | None = None
        self.environment = read_once(os.environ)
        self.lock = Lock()
        shown = subprocess.check_output(
            [sys.executable, "-c", "import sys; print(*sys.path[1:], sep='\\n')"], text=True
        )
        inherited = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
        self.path = shown.splitlines()[len(inherited) :]

    def can(self, asked: Mapping[str, Any]) -> bool:
        """Whether a fork can do what ``subprocess.Popen`` is asked."""
        command, env = asked["args"], asked["env"]
        if not self.allowed or not isinstance(command, list | tuple) or len(command) < 3:
            return False
        if not all(isinstance(part, str) for part in command) or command[0] != sys.executable:
            return False
        if command[1] not in ("-c", "-m") or (command[1] == "-m" and command[2] not in MODULES):
            return False
        if not asked["close_fds"] or asked["umask"] != -1 or not os.path.isdir(asked["cwd"] or "."):
            return False
        if any(asked[name] is not None for name in ("executable", "preexec_fn", "gid", "gids", "uid")):
            return False
        given = os.environ if env is None else env
        return all(isinstance(name, str) for name in given) and read_once(given) == self.environment

    def start(self, asked: Mapping[str, Any]) -> int:
        """Fork a process, a child of this one; returns its number."""
        command, folder = list(asked["args"]), str(asked["cwd"] or os.getcwd())
        env = dict(os.environ if asked["env"] is None else asked["env"])
        pairs = (("p2cread", 0), ("c2pwrite", 1), ("errwrite", 2))
        descriptors = {number: number if asked[name] == -1 else asked[name] for name, number in pairs}
        descriptors |= {number: number for number in asked["pass_fds"]}
        places = [place or folder for place in (env.get("PYTHONPATH") or os.devnull).split(os.pathsep)]
        group = asked["process_group"]
        request = {
            "command": command,
            "env": env,
            "folder": folder,
            "numbers": [*descriptors],
            "path": [folder if command[1] == "-m" else "", *places, *self.path],
            "session": asked["start_new_session"],
            "group": None if group == -1 else group,
        }
        with self.lock:
            connection = self.connection = self.connection or self._server()
            adopt(True)
            try:
                forkserver.send(connection, request, [*descriptors.values()])
                return forkserver.receive(connection)[0]
            finally:
                adopt(False)

    def _server(self) -> socket.socket:
        here, there = socket.socketpair()
        command = [sys.executable, forkserver.__file__, str(there.fileno()), *LIBRARIES]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with there:
            self.server = subprocess.Popen(
                command, pass_fds=[there.fileno()], env=environment, stdin=subprocess.DEVNULL
            )
        return here

    def end(self) -> None:
        """End the process that forks; those that it forked go on."""
        if self.connection and self.server:
            self.connection.close()
            self.server.wait()


def adopt(yes: bool) -> None:
    """Be the parent of processes that lose theirs, or not."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0):
        raise OSError("a process cannot adopt others here")


forks: Forks | None = None
as_ever = subprocess.Popen._execute_child  # type: ignore[attr-defined]
_signature = inspect.signature(as_ever)


def execute(self: Any, *given: Any) -> None:
    """What ``subprocess.Popen`` does to start a process, by a fork if it can be done so."""
    asked = _signature.bind(self, *given).arguments
    self.forked = forks is not None and forks.can(asked)
    if not self.forked:
        as_ever(self, *given)
        return
    assert forks is not None
    self.pid = forks.start(asked)
    self._child_created = True
    self._close_pipe_fds(*(asked[name] for name in inspect.signature(self._close_pipe_fds).parameters))


def pytest_configure() -> None:
    """Where processes can be forked without harm."""
    global forks
    if sys.platform == "linux":
        forks = Forks()
        subprocess.Popen._execute_child = execute  # type: ignore[attr-defined]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Fork nothing for tests with the mark."""
    if forks:
        forks.allowed = item.get_closest_marker("fresh_process") is None
    try:
        return (yield)
    finally:
        if forks:
            forks.allowed = True


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    if forks:
        subprocess.Popen._execute_child = as_ever  # type: ignore[attr-defined]
        forks.end()
