"""The engine of a cluster where there is none; tests/sweeps/test_runner.py has sweeps on one."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from ismkit.sweeps import cluster


def refused(address: str) -> Any:
    """The message of a cluster that cannot be joined."""
    with pytest.raises(cluster.ClusterError) as caught:
        next(cluster.run(print, [1], print, restarts=0, address=address, gpus=0.0))
    return str(caught.value)


def test_a_cluster_that_does_not_answer_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """faults D12: 90 s of warnings. A process of its own asks first, and is ended when it has taken too long."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda **_: pytest.fail("asked in this process")))
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1.0)
    message = refused("203.0.113.1:6379")  # an address that is for documents alone
    assert message.startswith("no Ray cluster at 203.0.113.1:6379 (no answer within 1 s): start the sweep on a machine")
    assert "\n" not in message


def test_what_ray_said_last_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())
    failed = subprocess.CalledProcessError(1, "ray", stderr="a warning\nConnectionError: no such port\n")
    monkeypatch.setattr(subprocess, "run", mock.Mock(side_effect=failed))
    assert refused("auto").startswith("no Ray cluster at auto (ConnectionError: no such port): start the sweep")


def test_without_ray_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install -c constraints.txt -e '.[cluster]'; without an address" in refused("auto")
