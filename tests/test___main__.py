"""``python -m ismkit`` is ``ismkit``."""

import subprocess
import sys

import pytest

import ismkit
from tests.conftest import ROOT


@pytest.mark.fresh_process
def test_python_m_ismkit_is_ismkit() -> None:
    done = subprocess.run([sys.executable, "-m", "ismkit", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"ismkit {ismkit.__version__}\n")
