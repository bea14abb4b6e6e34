"""The modules of the figures to explore, joined into one script that a page opened as a file runs too."""

import shutil
import subprocess
from pathlib import Path

import pytest

from book.bundle import bundle
from tests.conftest import ROOT

FIGURES = ROOT / "book" / "_static" / "explore"
MODULES = {
    "a.js": """import { one, Two } from "./b.js";
import {
  three,
} from "./c.js";
const own = 10; // also in another file
export const sum = () => own + one() + new Two().value + three;
""",
    "b.js": """import { three } from "./c.js";
const own = 5;
export function one() {
  return own - three - 1;
}
export class Two {
  value = 2;
}
""",
    "c.js": "globalThis.loads = (globalThis.loads ?? 0) + 1;\nexport const three = 3;\n",
}
START = 'console.log(modules["a.js"].sum(), loads, Object.keys(modules).join());'


def written(folder: Path, files: dict[str, str]) -> Path:
    """The files in a folder; returns the one to start with."""
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder / "page.js"


@pytest.mark.skipif(not shutil.which("node"), reason="no Node here")
def test_a_script_does_what_its_modules_do_and_leaves_no_name(tmp_path: Path) -> None:
    start = written(tmp_path, {**MODULES, "page.js": START})
    script = tmp_path / "script.cjs"
    script.write_text(bundle(tmp_path, start) + "console.log(typeof modules, typeof own);")
    run = subprocess.run(["node", str(script)], capture_output=True, text=True, timeout=60)
    assert run.stderr == ""
    assert run.stdout.splitlines() == ["16 1 c.js,b.js,a.js", "undefined undefined"]  # 10 + 1 + 2 + 3, each loaded once


def test_every_module_of_the_figures_is_in_the_script_after_what_it_imports() -> None:
    script = bundle(FIGURES, FIGURES / "page.js")
    names = sorted(path.name for path in FIGURES.glob("*.js") if path.name != "page.js")
    place = {name: script.index(f'modules["{name}"] = ') for name in names}
    for name in names:
        for other in names:
            if f'from "./{other}"' in (FIGURES / name).read_text():
                assert place[other] < place[name]
    assert script.index('querySelectorAll("[data-explore]")') > max(place.values())


@pytest.mark.parametrize(
    "line",
    [
        "export default 3;",
        'import * as c from "./c.js";',
        'import { three as four } from "./c.js";',
        'import c from "./c.js";',
        'const c = await import("./c.js");',
        "const here = import.meta.url;",
        "const x = 1;\nexport { x };",
    ],
)
def test_what_a_script_cannot_say_is_refused_with_the_line(tmp_path: Path, line: str) -> None:
    start = written(tmp_path, {"a.js": f"{line}\n", "c.js": MODULES["c.js"], "page.js": START})
    with pytest.raises(ValueError, match=r"^a\.js must import names from a file beside it and export declarations: "):
        bundle(tmp_path, start)
