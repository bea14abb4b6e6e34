"""`tests/kernels.py` starts kernels that cannot be told from others, but by what they have in memory."""

import json
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
from jupyter_client.provisioning import local_provisioner

from tests import kernels
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone"),
    pytest.mark.timeout(300),
]

ABOUT = """
import json, os, sys
names = sorted(name for name in sys.modules if name.split(".")[0] in ("ismkit", "tests", "pytest", "_pytest"))
main = [__name__, sys.modules["__main__"].__dict__ is globals()]
print(json.dumps({
    "folder": os.getcwd(), "leads its group": os.getpgid(0) == os.getpid() == os.getsid(0), "modules": names,
    "variable": os.environ.get("OF_THIS_TEST"), "path": sys.path, "main": main,
    "errors": os.readlink("/proc/self/fd/2"),
}))
"""


@pytest.fixture(params=[True, False], ids=["forked", "as ever"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KernelManager]:
    """One in a folder of its own, with a variable in its environment and a file for its standard error."""
    monkeypatch.setattr(local_provisioner, "launch_kernel", kernels.launch if request.param else kernels.as_ever)
    monkeypatch.setenv("OF_THIS_TEST", "here")
    manager = KernelManager(kernel_name="python3")
    with open(tmp_path / "errors", "w") as errors:
        manager.start_kernel(cwd=str(tmp_path), stderr=errors)
    try:
        yield manager
    finally:
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)


def answered(kernel: KernelManager, code: str) -> Any:
    """What a kernel prints."""
    client, said = kernel.client(), []
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        reply = client.execute_interactive(
            code, timeout=120, output_hook=lambda message: said.append(message["content"].get("text", ""))
        )
    finally:
        client.stop_channels()
    assert reply["content"]["status"] == "ok", reply
    return json.loads("".join(said))


def test_it_knows_its_place_and_nothing_of_the_tests(
    request: pytest.FixtureRequest, kernel: KernelManager, tmp_path: Path
) -> None:
    assert isinstance(kernel.provisioner.process, kernels.Forked) == request.node.callspec.params["kernel"]
    found = answered(kernel, ABOUT)
    assert found["folder"] == str(tmp_path)
    assert found["leads its group"]
    assert found["variable"] == "here"
    assert found["errors"] == str(tmp_path / "errors")
    assert {*found["modules"]} <= {"tests", "tests.kernels"}  # what it was forked by
    assert found["main"] == ["__main__", True]
    assert str(kernels.ROOT) not in found["path"]


def test_it_is_interrupted_and_ends_when_it_is_told_to(kernel: KernelManager) -> None:
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
    pid = kernel.provisioner.pid
    kernel.shutdown_kernel()
    assert not kernel.is_alive()
    wait_until(lambda: not psutil.pid_exists(pid))


def test_one_that_dies_is_known_to_have_died(kernel: KernelManager) -> None:
    assert kernel.is_alive()
    psutil.Process(kernel.provisioner.pid).kill()
    wait_until(lambda: not kernel.is_alive())


def test_what_a_failed_test_has_left_is_ended() -> None:
    left = kernels.CONTEXT.Process(target=time.sleep, args=(600,), name=kernels.KERNEL)
    left.start()
    kernels.pytest_unconfigure()
    left.join(60)
    assert left.exitcode == -signal.SIGKILL


def test_the_libraries_are_there_and_the_plugin_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python passes over a library that it does not find."""
    assert all(map(find_spec, kernels.LIBRARIES))
    told: list[list[str]] = []
    monkeypatch.setattr(kernels.CONTEXT, "set_forkserver_preload", told.append)
    monkeypatch.setattr(local_provisioner, "launch_kernel", kernels.as_ever)
    kernels.pytest_configure()
    assert told == [kernels.LIBRARIES]
    assert local_provisioner.launch_kernel is kernels.launch


@pytest.mark.parametrize(
    ("python", "others"), [("/of/another/python", {}), (sys.executable, {"stderr": subprocess.DEVNULL})]
)
def test_what_a_fork_cannot_do_is_done_as_ever(
    python: str, others: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(kernels, "as_ever", lambda *given, **options: asked.append((given, options)))
    command = [python, "-m", "ipykernel_launcher", "-f", "connection.json"]
    kernels.launch(command, env={}, cwd="/", **others)
    assert asked == [((command,), {"env": {}, "cwd": "/", **others})]
