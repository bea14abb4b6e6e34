"""Processes that `tests/forks.py` forks cannot be told from others, but by what they have in memory."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client import KernelManager

from ismkit.utils.workers import thread_limit
from tests import forks, forkserver
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone"),
    pytest.mark.timeout(300),
]

WAYS = pytest.mark.parametrize(
    "way", [pytest.param("forked"), pytest.param("as ever", marks=pytest.mark.fresh_process)], ids=lambda way: way
)
# The hook that six makes when it is imported is in memory with it.
ABOUT = """
import json, os, sys
names = sorted(name for name in sys.modules if name.split(".")[0] in ("ismkit", "tests", "pytest", "_pytest"))
print(json.dumps({
    "folder": os.getcwd(), "group": [os.getpgid(0) == os.getpid(), os.getsid(0) == os.getpid()], "parent": os.getppid(),
    "modules": names, "environment": dict(os.environ), "path": sys.path,
    "main": [__name__, sys.modules["__main__"].__dict__ is globals(), __spec__ is None], "arguments": sys.argv,
    "command": sys.orig_argv, "streams": [[s.encoding, s.errors, s.line_buffering] for s in
    (sys.stdin, sys.stdout, sys.stderr)], "hooks": len([h for h in sys.meta_path if type(h).__module__ != "six"]),
    "descriptors": {n: os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                    if os.path.exists(f"/proc/self/fd/{n}")},
    "threads": __import__("threading").active_count(), "daemon": __import__("multiprocessing").current_process().name,
    "interrupt": repr(__import__("signal").getsignal(2)), "mask": os.umask(0),
    "faults": __import__("faulthandler").is_enabled(), "bars": __import__("tqdm.auto").auto.tqdm.__module__,
}))
"""


@pytest.fixture
def plugin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[forkserver.Forks]:
    """The plugin at work; where the tests are run without it, one of this test's."""
    if forks.forks:
        yield forks.forks
        return
    own = forks.started_here()
    own.allowed = request.node.get_closest_marker("fresh_process") is None
    monkeypatch.setattr(forks, "forks", own)
    monkeypatch.setattr(subprocess.Popen, "_execute_child", forkserver.forked_by(own))
    yield own
    own.end()


def python(program: str, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", program, *arguments], **{**pipes, **options})


@pytest.mark.parametrize("first", [[], ["first"], ["", "first"]])
def test_one_knows_of_itself_what_others_do(
    plugin: forkserver.Forks, first: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OF_THIS_TEST", "here")
    if first:
        monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    path = {"PYTHONPATH": os.pathsep.join(place and str(tmp_path / place) for place in first)}
    found = []
    for allowed in (True, False):
        monkeypatch.setattr(plugin, "allowed", allowed)
        with open(tmp_path / "errors", "w") as errors, open(tmp_path / "kept", "w") as kept:
            options: dict[str, Any] = {"cwd": tmp_path, "env": {**os.environ, **path}, "stderr": errors}
            process = python(ABOUT, "-x", "1", pass_fds=[kept.fileno()], start_new_session=True, **options)
            out, _ = process.communicate(timeout=120)
        assert process.forked == allowed
        assert (process.returncode, (tmp_path / "errors").read_text()) == (0, "")
        found.append(json.loads(out))
        for descriptor, place in found[-1]["descriptors"].items():
            if place.startswith("pipe:"):
                found[-1]["descriptors"][descriptor] = "pipe"
    forked, fresh = found
    assert not {*forked["modules"]} & {"tests", "tests.forks", "pytest"}
    assert forked["path"][: len(first) + 1] == ["", *(str(tmp_path / place) for place in first)]
    assert forked["parent"] == os.getpid()
    assert forked["faults"] == bool(first)
    assert forked == fresh


@pytest.mark.parametrize("folder", [".", "scripts"])
def test_a_script_knows_of_itself_what_others_do(plugin: forkserver.Forks, folder: str, tmp_path: Path) -> None:
    script = tmp_path / "scripts" / "about.py"
    script.parent.mkdir()
    script.write_text(f"{ABOUT}\nprint(__file__, __import__('beside').here)\nimport nothing_of_this_name")
    (script.parent / "beside.py").write_text("here = 'beside'")
    found = []
    for plugin.allowed in (True, False):
        command = [sys.executable, os.path.relpath(script, tmp_path / folder), "-x"]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        pipes |= {"stdin": subprocess.DEVNULL, "env": dict(os.environ)}
        process = subprocess.Popen(command, cwd=tmp_path / folder, **pipes)
        out, err = process.communicate(timeout=120)
        assert process.forked == plugin.allowed
        found.append([process.returncode, re.sub(r"pipe:\[\d+]", "pipe", out), err])
    assert found[0] == found[1]
    assert "beside" in found[0][1]
    assert found[0][2].startswith("Traceback")


THREADS = "import torch; from torch import __config__ as c; print(torch.get_num_threads(), c.parallel_info())"


def test_one_computes_on_as_many_threads_as_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is forked for a reader, who sets no limit, and what that starts with a limit."""
    for name in forkserver.THREADS:
        monkeypatch.delenv(name, raising=False)
    server = forkserver.Forks(forkserver.read_once(os.environ), forks.started_here().path, libraries=["torch"])
    monkeypatch.setattr(subprocess.Popen, "_execute_child", forkserver.forked_by(server))
    for limit in ({}, thread_limit(1)):
        found = []
        for server.allowed in (True, False):
            process = python(THREADS, env={**os.environ, **limit})
            found.append(process.communicate(timeout=120))
            assert process.forked == server.allowed
        assert found[0] == found[1]
        assert found[0][0].startswith("1 " if limit else "")
    server.end()


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_DYNAMIC"])
def test_other_limits_are_read_by_a_process_itself(name: str) -> None:
    without = forkserver.Forks({}, [])
    assert [without._told(env) for env in ({}, thread_limit(3), {name: "2,1"})] == [0, 3, None]
    assert forkserver.Forks({"OMP_NUM_THREADS": "1"}, [])._told(thread_limit(3)) is None


@pytest.mark.parametrize("way", [signal.SIG_IGN, signal.default_int_handler, lambda *_: None])
def test_what_is_done_about_an_interruption_is_handed_on(plugin: forkserver.Forks, way: Any) -> None:
    program = "import signal; print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)"
    before = signal.signal(signal.SIGINT, way)
    try:
        out = [python(program).communicate(timeout=120)[0] for plugin.allowed in (True, False)]
    finally:
        signal.signal(signal.SIGINT, before)
        plugin.allowed = True
    assert out == [f"{way == signal.SIG_IGN}\n"] * 2


PRINTS = "import sys, time; print('out'); time.sleep(600)"


def test_what_is_printed_arrives_when_it_is_asked_for(plugin: forkserver.Forks) -> None:
    process = python(PRINTS, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.forked
    assert process.stdout
    assert process.stdout.readline() == "out\n"
    process.kill()
    process.communicate()


@WAYS
@pytest.mark.parametrize(
    ("program", "status", "said"),
    [
        ("print(input())", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('why')", 1, "why\n"),
        ("1 / 0", 1, 'Traceback (most recent call last):\n  File "<string>", line 1, in <module>\nZeroDivisionError'),
        ("raise KeyboardInterrupt", -signal.SIGINT, "Traceback (most recent call last):\n  File"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("import atexit; atexit.register(print, 'given'); import os; os.closerange(3, 9)", 0, ""),
        (
            "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('given'))).start()",
            0,
            "",
        ),
        ("import tempfile; folder = tempfile.TemporaryDirectory(dir='.'); print('given')", 0, ""),
    ],
    ids=["reads", "status", "text", "error", "interrupted", "killed", "at its end", "thread", "folder"],
)
def test_one_ends_as_others_do(
    plugin: forkserver.Forks, way: str, program: str, status: int, said: str, tmp_path: Path
) -> None:
    process = python(program, cwd=tmp_path)
    out, err = process.communicate("given", timeout=120)
    assert process.forked == (way == "forked")
    assert process.returncode == status
    assert out == ("given\n" if status == 0 else "")
    assert err.startswith(said)
    assert "forkserver" not in err
    assert not [*tmp_path.iterdir()]


@WAYS
def test_its_group_is_its_own_from_the_beginning(plugin: forkserver.Forks, way: str) -> None:
    """Else what is sent to the group of a process that has just been started ends the tests."""
    for _ in range(20):
        process = python("import time; time.sleep(600)", start_new_session=True)
        assert os.getpgid(process.pid) == os.getsid(process.pid) == process.pid
        process.kill()
        process.communicate()
    process = python("import time; time.sleep(600)")
    assert (os.getpgid(process.pid), os.getsid(process.pid)) == (os.getpgrp(), os.getsid(0))
    process.kill()
    process.communicate()
    process = python("import time; time.sleep(600)", process_group=0)
    assert (os.getpgid(process.pid), os.getsid(process.pid)) == (process.pid, os.getsid(0))
    process.kill()
    process.communicate()


@WAYS
def test_one_that_waits_is_polled_and_ended(plugin: forkserver.Forks, way: str) -> None:
    process = python("import time; time.sleep(600)")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    assert psutil.Process(process.pid).parent() == psutil.Process()
    process.terminate()
    process.communicate()
    assert process.returncode == -signal.SIGTERM


def test_two_draw_different_numbers(plugin: forkserver.Forks) -> None:
    program = "import random, numpy, uuid; print(random.random(), numpy.random.rand(), uuid.uuid4())"
    first, second = (python(program).communicate()[0].split() for _ in range(2))
    assert not {*first} & {*second}


def test_orphans_of_others_are_not_adopted(plugin: forkserver.Forks) -> None:
    """Only while one is forked: a test that waits for a process to be gone would wait for ever."""
    program = "import os, sys, time\nif os.fork(): os._exit(0)\ntime.sleep(0.5)\nprint(os.getppid())"
    out, _ = python(program).communicate(timeout=120)
    assert int(out) != os.getpid()


@pytest.fixture
def kernel(plugin: forkserver.Forks, tmp_path: Path) -> Iterator[KernelManager]:
    """One in a folder of its own."""
    manager = KernelManager(kernel_name="python3")
    with open(tmp_path / "errors", "w") as errors:
        manager.start_kernel(cwd=str(tmp_path), stderr=errors)
    try:
        yield manager
    finally:
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)


@WAYS
def test_a_kernel_is_interrupted_and_ends_when_it_is_told_to(kernel: KernelManager, way: str) -> None:
    assert kernel.provisioner.process.forked == (way == "forked")
    client = kernel.client()
    client.start_channels()
    client.wait_for_ready(timeout=120)
    asked = client.execute("import time\nprint('sleeps', flush=True)\nfor _ in range(600):\n    time.sleep(0.1)")
    while client.get_iopub_msg(timeout=60)["msg_type"] != "stream":
        pass
    kernel.interrupt_kernel()
    reply = client.get_shell_msg(timeout=60)
    assert (reply["parent_header"]["msg_id"], reply["content"]["ename"]) == (asked, "KeyboardInterrupt")
    client.stop_channels()
    pid, began = kernel.provisioner.pid, time.monotonic()
    kernel.shutdown_kernel()
    assert time.monotonic() - began < kernel.shutdown_wait_time / 2  # it was not made to
    assert not kernel.is_alive()
    wait_until(lambda: not psutil.pid_exists(pid))


STARTS = """
import json, subprocess, sys
from ismkit.utils import run_group
told = []
def task(rank, tell):
    import sys
    tell((rank, "pandas" in sys.modules))
run_group(task, 2, report=lambda _, value: told.append(value))
import os
command = [sys.executable, "-c", "import os; print(os.getppid(), os.getpgrp())"]
process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
print(json.dumps([sorted(told), process.communicate()[0].split() == [str(os.getpid()), str(os.getpgrp())]]))
"""


@WAYS
def test_a_kernel_ends_with_the_process_that_started_it(kernel: KernelManager, way: str) -> None:
    """Else those of tests that are ended go on for ever."""
    client, said = kernel.client(), []
    client.start_channels()
    client.wait_for_ready(timeout=120)
    asks = "import threading\nfrom ipykernel.kernelapp import IPKernelApp\nprint(IPKernelApp.instance().parent_handle, "
    asks += "[thread.name for thread in threading.enumerate() if 'Poller' in type(thread).__name__])"
    client.execute_interactive(asks, output_hook=lambda message: said.append(message["content"].get("text", "")))
    client.stop_channels()
    handle, _, pollers = "".join(said).partition(" ")
    assert int(handle) == os.getpid()
    assert pollers.count("'") == 2  # one thread


@WAYS
def test_a_notebook_starts_processes_as_a_test_does(kernel: KernelManager, way: str) -> None:
    client, said = kernel.client(), []
    client.start_channels()
    client.wait_for_ready(timeout=120)
    reply = client.execute_interactive(
        STARTS, timeout=120, output_hook=lambda message: said.append(message["content"].get("text", ""))
    )
    client.stop_channels()
    assert reply["content"]["status"] == "ok", reply
    forked = way == "forked"
    assert json.loads("".join(said)) == [[[0, forked], [1, forked]], True]
    others = psutil.Process(kernel.provisioner.pid).children(recursive=True)
    assert len(others) == forked  # the spare one
    kernel.shutdown_kernel(now=True)
    wait_until(lambda: not any(other.is_running() for other in others))


@WAYS
def test_a_kernel_that_dies_is_known_to_have_died(kernel: KernelManager, way: str) -> None:
    assert kernel.is_alive()
    psutil.Process(kernel.provisioner.pid).kill()
    wait_until(lambda: not kernel.is_alive())


def test_the_libraries_are_there() -> None:
    assert all(map(find_spec, forks.LIBRARIES))


@pytest.mark.parametrize(
    "changed",
    [
        {"args": ["/of/another/python", "-c", "pass"]},
        {"args": [sys.executable, "-P", "-c", "pass"]},
        {"args": [sys.executable, "-m", "pytest"]},
        {"args": [sys.executable, forkserver.__file__]},
        {"args": [sys.executable]},
        {"args": f"{sys.executable} -c pass"},
        {"env": {**os.environ, "OMP_NUM_THREADS": "7"}},
        {"env": {**os.environ, "PYTHONIOENCODING": "ascii"}},
        {"cwd": "/nowhere"},
        {"preexec_fn": os.getpid},
        {"close_fds": False},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_a_fork_cannot_do_is_done_as_ever(plugin: forkserver.Forks, changed: dict[str, Any]) -> None:
    none = dict.fromkeys(("executable", "preexec_fn", "gid", "gids", "uid", "cwd", "env"))
    plain = {**none, "args": [sys.executable, "-c", "pass"], "close_fds": True, "umask": -1}
    assert plugin.can(plain)
    assert not plugin.can(plain | changed)


def test_threads_are_those_of_openmp() -> None:
    """`ismkit.utils.workers` names each library's."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    assert forkserver.read_once({"OMP_NUM_THREADS": "1"}) == forkserver.read_once(dict.fromkeys(names, "1"))
    assert forkserver.read_once({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "2"}) != forkserver.read_once(
        {"OMP_NUM_THREADS": "1"}
    )
