"""A process that imports libraries and then forks others on request, each of which becomes a fresh Python process.

``tests/forks.py`` starts it, as a script, by :class:`Forks`, which asks by a socket: for each process the file
descriptors it is to have, and what ``subprocess.Popen`` was asked. The answer is its number. When the socket is closed,
this process ends; those that it forked do not. A kernel has a spare one, for the processes that its notebook starts,
and so have a program that calls a command and a process that runs tests.
"""

import atexit
import builtins
import contextlib
import ctypes
import faulthandler
import fcntl
import gc
import importlib
import inspect
import io
import os
import pickle
import re
import runpy
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

KERNEL = "ipykernel_launcher"
MODULES = ("ismkit", KERNEL)  # that are run by ``-m``
WORKER = "exec(eval(sys.stdin.readline()))"  # how pytest's own begin, for pytest-xdist
#: Commands of processes that start others, which are forked too: kernels, programs that call a command of the kit, and
#: those that run tests.
STARTS_OTHERS = re.compile(rf"-m {KERNEL}|\bismkit(\.cli|\.lessons| import cli)|{re.escape(WORKER)}")
#: Beginnings of variables that are read when Python starts or a library is imported.
READ_ONCE = ("PYTHON", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "MALLOC_", "GLIBC_", "LD_", "LC_", "LANG", "MPL")
READ_ONCE += ("TORCH_", "ATEN_", "HF_", "DIFFUSERS_")
HERE = ("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONFAULTHANDLER", "MPLBACKEND")  # those that can be set later
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl


def read_once(env: Mapping[str, str]) -> dict[str, str]:
    """What an environment says that a process cannot be told later; the libraries' threads are those of OpenMP."""
    found = {name: value for name, value in env.items() if name.startswith(READ_ONCE) and name not in HERE}
    if threads := found.get(THREADS[0]):
        found = dict.fromkeys(THREADS, threads) | found
    return found


def asked_of(command: Sequence[str]) -> list[str]:
    """What a command asks of Python: ``-c``, ``-m`` or a :data:`SCRIPT`, what is to run, and the arguments."""
    asked = list(command[2 if command[1] == "-u" else 1 :])
    return [SCRIPT, *asked] if asked and asked[0].endswith(".py") else asked


SCRIPT = "a script"
LATER = ("anyio", "trio")
BARS = ("tqdm.auto", "tqdm.autonotebook")  # which choose, when they are imported, a notebook's if ipykernel was before
LENGTH = struct.Struct("!Q")
MOST = 250  # file descriptors with one message
ABOVE = 500  # no descriptor that is asked for is as high


def send(connection: socket.socket, value: Any, descriptors: list[int] | tuple[int, ...] = ()) -> None:
    """Send a value, and file descriptors with it."""
    packed = pickle.dumps(value)
    head = LENGTH.pack(len(packed))
    if descriptors:
        socket.send_fds(connection, [head], descriptors)
    else:
        connection.sendall(head)
    connection.sendall(packed)


def receive(connection: socket.socket) -> tuple[Any, list[int]]:
    """Receive what :func:`send` has sent; EOFError if the other end is closed."""
    head, descriptors, _, _ = socket.recv_fds(connection, LENGTH.size, MOST)
    if not head:
        raise EOFError
    (left,) = LENGTH.unpack(head)
    parts = []
    while left:
        parts.append(connection.recv(left))
        if not parts[-1]:
            raise EOFError
        left -= len(parts[-1])
    return pickle.loads(b"".join(parts)), descriptors


def fork(asked: dict[str, Any], descriptors: list[int]) -> int:
    """Fork a process that is not a child of this one: its parent ends at once, and the nearest that adopts has it.

    Returns:
        Its number, when it has been adopted and leads its session and group, if it is to lead any.
    """
    reading, writing = os.pipe()
    between = os.fork()
    if not between:
        between = os.getpid()
        if os.fork():
            os._exit(0)
        if asked["session"]:
            os.setsid()
        else:
            os.setpgid(0, asked["group"])
        os.write(writing, str(os.getpid()).encode())  # not before: who asked may send signals to its group
        os.close(writing)
        while os.getppid() == between:
            time.sleep(0.0005)
        os._exit(become(asked, descriptors))
    os.close(writing)
    os.waitpid(between, 0)
    with open(reading) as file:
        return int(file.read())


def become(asked: dict[str, Any], descriptors: list[int]) -> int:
    """Be the process that is asked for, from its file descriptors to its exit status."""
    status = 1
    try:
        _take(dict(zip(asked["numbers"], descriptors, strict=True)))
        os.environ.clear()
        os.environ.update(asked["env"])
        os.chdir(asked["folder"])
        if STARTS_OTHERS.search(" ".join(asked["command"])):
            forks = Forks(asked["environment"], asked["libraries"], _spare())
            subprocess.Popen._execute_child = forked_by(forks)  # type: ignore[attr-defined]
        # As a shell has it ignored for what it starts in the background, and those that it starts.
        signal.signal(signal.SIGINT, signal.SIG_IGN if asked["deaf"] else signal.default_int_handler)
        _begin(asked["command"], asked["path"])
        if asked["threads"]:
            sys.modules["torch"].set_num_threads(asked["threads"])
        status = _carry_out(*asked_of(asked["command"])[:2])
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the interpreter does
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
    return status


def _take(wanted: dict[int, int]) -> None:
    """Have these file descriptors, each under its number, and no others."""
    held = {number: fcntl.fcntl(descriptor, fcntl.F_DUPFD, ABOVE) for number, descriptor in wanted.items()}
    for number, descriptor in held.items():
        os.dup2(descriptor, number)
    for number in {int(name) for name in os.listdir("/proc/self/fd")} - wanted.keys():
        with contextlib.suppress(OSError):  # that of the list itself
            os.close(number)


def _spare() -> socket.socket:
    """Fork another such server, for the processes that this one will start; gives the socket by which it is asked.

    It must be a child of this process, to which the processes belong that it forks. Like this process at its beginning
    it has done nothing.
    """
    here, there = socket.socketpair()
    if not os.fork():
        os.setpgid(0, 0)  # a kernel that is to end waits for all of its group to end
        _take({**dict.fromkeys((0, 1, 2), os.open(os.devnull, os.O_RDWR)), ABOVE - 1: there.detach()})
        main(socket.socket(fileno=ABOVE - 1))
        os._exit(0)
    there.close()
    high = fcntl.fcntl(here.fileno(), fcntl.F_DUPFD_CLOEXEC, ABOVE)
    here.close()
    return socket.socket(fileno=high)


def _begin(command: list[str], path: list[str]) -> None:
    """What the interpreter does before it runs anything."""
    at_once = bool(os.environ.get("PYTHONUNBUFFERED")) or command[1] == "-u"
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        old = getattr(sys, f"__{name}__")
        raw: Any = open(number, "wb" if number else "rb", 0 if at_once and number else -1)  # noqa: SIM115
        lines = not at_once and (number == 2 or os.isatty(number))
        new = io.TextIOWrapper(raw, old.encoding, old.errors, line_buffering=lines, write_through=at_once)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    sys.orig_argv[:] = command
    how, what, *arguments = asked_of(command)
    sys.argv[:] = [what if how == SCRIPT else how, *arguments]
    if what == KERNEL:  # which reads this when it is imported, and ends when that process has
        sys.argv.append(f"--IPKernelApp.parent_handle={os.environ.get('JPY_PARENT_PID') or 0}")
    else:
        for name in [name for name in sys.modules if name.split(".")[0] == "ipykernel" or name in BARS]:
            del sys.modules[name]
    sys.path[:] = path
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    if os.environ.get("PYTHONFAULTHANDLER"):
        faulthandler.enable()
    if random := sys.modules.get("numpy.random"):
        random.seed()  # Python's own generator has another seed in each process already
    if (matplotlib := sys.modules.get("matplotlib")) and os.environ.get("MPLBACKEND"):
        matplotlib.rcParams["backend"] = os.environ["MPLBACKEND"]


def _carry_out(how: str, what: str) -> int:
    """Run ``-c`` a program or ``-m`` a module as the interpreter does; returns the exit status."""
    try:
        main = sys.modules["__main__"]
        if how == "-m":
            runpy._run_module_as_main(what)  # type: ignore[attr-defined]
        elif how == SCRIPT:
            main.__file__ = os.path.abspath(what)
            with open(what, "rb") as file:
                program = compile(file.read(), main.__file__, "exec")
            exec(program, main.__dict__)
        else:
            exec(compile(what, "<string>", "exec"), main.__dict__)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # without this function
        sys.excepthook(type(error), error, error.__traceback__)
        if isinstance(error, KeyboardInterrupt):  # ended by the signal, so that a shell knows
            sys.stderr.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return 1
    return 0


class Forks:
    """The process that forks for this one, and how it is asked.

    Args:
        environment: what it was told when it began, see :func:`read_once`.
        path: where modules are looked for, without a program's own folder and those of ``PYTHONPATH``.
        connection: to it, where it has been started already.
        libraries: that it imports, where it is started when it is first asked.
    """

    def __init__(
        self,
        environment: dict[str, str],
        path: list[str],
        connection: socket.socket | None = None,
        libraries: Sequence[str] = (),
    ) -> None:
        self.environment, self.path, self.connection, self.libraries = environment, path, connection, libraries
        self.allowed = True
        self.server: subprocess.Popen[bytes] | None = None
        self.lock, self.process = threading.Lock(), os.getpid()

    def can(self, asked: Mapping[str, Any]) -> bool:
        """Whether a fork can do what ``subprocess.Popen`` is asked."""
        command, env = asked["args"], asked["env"]
        if not self.allowed or self.process != os.getpid() or not isinstance(command, list | tuple) or len(command) < 2:
            return False
        if not all(isinstance(part, str) for part in command) or command[0] != sys.executable:
            return False
        how, what = [*asked_of(command), "", ""][:2]
        if how not in ("-c", "-m", SCRIPT) or not what or what == __file__ or (how == "-m" and what not in MODULES):
            return False
        if not asked["close_fds"] or asked["umask"] != -1 or not os.path.isdir(asked["cwd"] or "."):
            return False
        if any(asked[name] is not None for name in ("executable", "preexec_fn", "gid", "gids", "uid")):
            return False
        given = os.environ if env is None else env
        return all(isinstance(name, str) for name in given) and self._told(given) is not None

    def _told(self, env: Mapping[str, str]) -> int | None:
        """The threads that a process must be told of, 0 if none; None if its environment asks for another Python.

        One that was forked from a process without a limit can be limited, as it has computed nothing yet.
        """
        wanted = read_once(env)
        limits = {wanted.pop(name, "") for name in THREADS} if not self.environment.keys() & {*THREADS} else {""}
        if wanted != self.environment or len(limits) > 1 or not (limit := limits.pop() or "0").isdecimal():
            return None
        return int(limit)

    def start(self, asked: Mapping[str, Any]) -> int:
        """Fork a process, a child of this one; returns its number."""
        command, folder = list(asked["args"]), str(asked["cwd"] or os.getcwd())
        env = dict(os.environ if asked["env"] is None else asked["env"])
        pairs = (("p2cread", 0), ("c2pwrite", 1), ("errwrite", 2))
        descriptors = {number: number if asked[name] == -1 else asked[name] for name, number in pairs}
        descriptors |= {number: number for number in asked["pass_fds"]}
        places = [place or folder for place in env.get("PYTHONPATH", "").split(os.pathsep)]
        how, what = asked_of(command)[:2]
        own = {"-c": "", "-m": folder, SCRIPT: os.path.dirname(os.path.realpath(os.path.join(folder, what)))}[how]
        first = [own, *(places if env.get("PYTHONPATH") else [])]
        group = asked["process_group"]
        request = {
            "command": command,
            "env": env,
            "folder": folder,
            "numbers": [*descriptors],
            "path": [*first, *self.path],
            "libraries": self.path,
            "environment": self.environment,
            "deaf": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
            "session": asked["start_new_session"],
            "group": os.getpgrp() if group in (-1, None) else group,
            "threads": self._told(env),
        }
        with self.lock:
            self.begin()
            adopt(True)
            try:
                send(self.connection, request, [*descriptors.values()])
                return receive(self.connection)[0]
            finally:
                adopt(False)

    def begin(self) -> None:
        """Start the process that forks, before it is asked for the first time."""
        self.connection = self.connection or self._server()

    def _server(self) -> socket.socket:
        here, there = socket.socketpair()
        command = [sys.executable, __file__, str(there.fileno()), *self.libraries]
        others = read_once(os.environ).keys() | {"PYTHONPATH"}
        environment = {name: value for name, value in os.environ.items() if name not in others} | self.environment
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


here = subprocess.Popen._execute_child  # type: ignore[attr-defined]
as_ever = getattr(here, "as_ever", here)  # in a process that was forked itself it is not what it was
_signature = inspect.signature(as_ever)


def spare_of_this() -> Any:
    """What this process was given to fork others with, if it was forked itself: a :class:`Forks`, or None."""
    return getattr(here, "spare", None)


def forked_by(*servers: Forks) -> Callable[..., None]:
    """What ``subprocess.Popen`` does to start a process, by a fork if one of these can do it so."""

    def execute(self: Any, *given: Any) -> None:
        asked = _signature.bind(self, *given).arguments
        forks = next((server for server in servers if server.can(asked)), None)
        self.forked = forks is not None
        if forks is None:
            as_ever(self, *given)
            return
        self.pid = forks.start(asked)
        self._child_created = True
        self._close_pipe_fds(*(asked[name] for name in inspect.signature(self._close_pipe_fds).parameters))

    execute.as_ever, execute.spare = as_ever, servers[0]  # type: ignore[attr-defined]
    return execute


def main(connection: socket.socket) -> None:
    """Fork until the socket is closed."""
    with connection:
        while True:
            try:
                asked, descriptors = receive(connection)
            except EOFError:
                return
            send(connection, fork(asked, descriptors))
            for descriptor in descriptors:
                os.close(descriptor)


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of the tests
    # Tests look for these where they begin, and want to be there first. A library is content without them.
    sys.modules |= dict.fromkeys(LATER)  # type: ignore[arg-type]
    for name in sys.argv[2:]:
        with contextlib.suppress(ImportError):  # who needs it will say so
            importlib.import_module(name)
    for name in LATER:
        del sys.modules[name]
    gc.collect()
    gc.freeze()  # a collection in a process that is forked would copy all that it visits, and they are kept there too
    main(socket.socket(fileno=int(sys.argv[1])))
