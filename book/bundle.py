"""The modules of the figures to explore as one classic script: browsers refuse modules to a page opened as a file.

In Node the modules are tested as they are. They keep to what is read here: imports of names from a file beside, and
exports of functions, constants and classes where these are declared.
"""

from __future__ import annotations

import re
from pathlib import Path

IMPORT = re.compile(r'^import (\{(?![^}]* as )[^}]*\}) from "\./([\w.]+)";$', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:function|const|class) (\w+))", re.MULTILINE)
OTHER = re.compile(r"^(?:import|export)\b.*|\bimport[(.].*", re.MULTILINE)


def bundle(folder: Path, start: Path) -> str:
    """Join the modules of a folder, each after those that it imports, and end with a script that starts them.

    Args:
        folder: of the modules.
        start: the script that uses them; there ``modules["flow.js"]`` has what ``flow.js`` exports.

    Returns:
        The script, which leaves no name behind in the page.

    Raises:
        ValueError: for an import or an export of another form.
    """
    parts: dict[str, str] = {}

    def add(path: Path) -> None:
        if path.name in parts:
            return
        text = path.read_text()
        for _, used in IMPORT.findall(text):
            add(folder / used)
        names = ", ".join(EXPORT.findall(text))
        body = EXPORT.sub("", IMPORT.sub(r'const \1 = modules["\2"];', text))
        if other := OTHER.search(body):
            raise ValueError(f"{path.name} must import names from a file beside it and export declarations: {other[0]}")
        parts[path.name] = f'modules["{path.name}"] = (() => {{\n{body}\nreturn {{ {names} }};\n}})();'

    for path in sorted(folder.glob("*.js")):
        if path != start:
            add(path)
    return "\n".join(['(() => {\n"use strict";\nconst modules = {};', *parts.values(), start.read_text(), "})();\n"])
