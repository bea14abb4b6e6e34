"""Check the machine, then open a notebook in JupyterLab, which gets all further options."""

from __future__ import annotations

import subprocess
import sys

from ismkit.cli import doctor

EXAMPLES = ("ismkit lab", "ismkit lab 04", "ismkit lab 00 --no-browser --port 9000")


def call(arguments: list[str]) -> int:
    """A leading number or path is the notebook (default: 00); all the rest belongs to JupyterLab."""
    from ismkit.lessons.notebooks import find

    named = bool(arguments) and not arguments[0].startswith("-")
    path = find(arguments[0] if named else "00")
    if doctor.command():
        return 1
    return subprocess.call([sys.executable, "-m", "jupyterlab", str(path), *arguments[named:]])
