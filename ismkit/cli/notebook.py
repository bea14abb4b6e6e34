"""Execute a notebook, with parameters, into the output folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

EXAMPLES = ("ismkit notebook 00 --profile smoke", "ismkit notebook 00 -p seed 3 --out results")


def command(
    notebook: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NOTEBOOK")],
    profile: str | None = None,
    parameter: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[str, str], ...]], tyro.conf.arg(aliases=("-p",), metavar="NAME VALUE")
    ] = (),
    out: Path | None = None,
) -> int:
    """Execute a notebook.

    Args:
        notebook: number of the notebook, such as 00, or its path.
        profile: smoke (seconds), laptop (minutes), gpu, paper: short for -p profile VALUE.
        parameter: set a parameter of the notebook; the value is read as the type that it has there.
        out: folder of the executed notebook and its files (default: out).
    """
    from ismkit.lessons.notebooks import execute, find
    from ismkit.utils.files import out_dir

    parameters: dict[str, str] = dict(parameter)
    if profile:
        parameters["profile"] = profile
    print(f"executed notebook: {execute(find(notebook), out or out_dir(), parameters)}")
    return 0
