"""Make the instructor's pack: slides, plan, exam, notebooks without solutions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

EXAMPLES = ("ismkit course course", "ismkit course ~/teaching/shortcut-models")


def command(out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]) -> int:
    """Make the pack.

    Args:
        out: folder to make; it must be missing or empty.
    """
    from ismkit.lessons.course import make_course

    print(f"instructor's pack: {make_course(out) / 'index.html'}")
    return 0
