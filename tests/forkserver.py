"""A process that imports libraries and then forks others on request, each of which becomes a fresh Python process.

``tests/forks.py`` starts it, as a script, and asks by a socket: for each process the file descriptors it is to have,
and a pickled :class:`dict` of what ``subprocess.Popen`` was asked. The answer is its number. When the socket is closed,
this process ends; those that it forked do not.
"""

import atexit
import builtins
import contextlib
import fcntl
import gc
import importlib
import io
import os
import pickle
import runpy
import signal
import socket
import struct
import sys
import threading
import time
import types
from typing import Any

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
        if asked["group"] is not None:
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
        _begin(asked["command"], asked["path"])
        status = _carry_out(asked["command"][1:])
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


def _begin(command: list[str], path: list[str]) -> None:
    """What the interpreter does before it runs anything."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    at_once = bool(os.environ.get("PYTHONUNBUFFERED"))
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        old = getattr(sys, f"__{name}__")
        raw: Any = open(number, "wb" if number else "rb", 0 if at_once and number else -1)  # noqa: SIM115
        lines = not at_once and (number == 2 or os.isatty(number))
        new = io.TextIOWrapper(raw, old.encoding, old.errors, line_buffering=lines, write_through=at_once)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    sys.orig_argv[:] = command
    sys.argv[:] = ["-m" if command[1] == "-m" else "-c", *command[3:]]
    sys.path[:] = path
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    if random := sys.modules.get("numpy.random"):
        random.seed()  # Python's own generator has another seed in each process already
    gc.unfreeze()


def _carry_out(asked: list[str]) -> int:
    """Run ``-c`` a program or ``-m`` a module as the interpreter does; returns the exit status."""
    how, what = asked[:2]
    try:
        if how == "-m":
            runpy._run_module_as_main(what)  # type: ignore[attr-defined]
        else:
            exec(compile(what, "<string>", "exec"), sys.modules["__main__"].__dict__)
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


def main(handle: int, libraries: list[str]) -> None:
    """Import libraries, and fork until the socket of this number is closed."""
    for name in libraries:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a process that is forked would copy all that it visits
    with socket.socket(fileno=handle) as connection:
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
    main(int(sys.argv[1]), sys.argv[2:])
