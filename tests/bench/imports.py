"""How long ``import ismkit`` takes with torch already imported, and what it drags in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bench.common import Row, Sizes, median

HEAVY = ("diffusers", "datasets", "torch_fidelity", "ot", "pywt", "sklearn", "skimage", "pandas", "matplotlib")
CODE = """
import importlib, json, sys, time
import torch
before, began = set(sys.modules), time.perf_counter()
for name in sys.argv[1:]:
    importlib.import_module(name)
seconds = time.perf_counter() - began
new = {name.partition(".")[0] for name in set(sys.modules) - before}
new -= {name.partition(".")[0] for name in before} | sys.stdlib_module_names
print(json.dumps([seconds, sorted(name for name in new if not name.startswith("_"))]))
"""


def run(sizes: Sizes) -> Iterator[Row]:
    """Fresh processes, in turns: the package, the trainer, and every module but the plots."""
    package = Path(__file__).resolve().parents[2] / "ismkit"
    paths = [path for path in sorted(package.glob("*/*.py")) if path.stem not in ("__init__", "plot")]
    modules = [f"ismkit.{path.parent.name}.{path.stem}" for path in paths]
    cases = {
        "ismkit": ["ismkit"],
        "ismkit.training.loop": ["ismkit.training.loop"],
        "every module of ismkit but plot": modules,
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    dragged: dict[str, list[str]] = {}
    for _ in range(max(2, min(sizes.rounds, 3))):
        for name, names in cases.items():
            done = subprocess.run(
                [sys.executable, "-c", CODE, *names], cwd=package.parent, check=True, capture_output=True, text=True
            )
            taken, dragged[name] = json.loads(done.stdout)
            seconds[name].append(taken)
    for name, values in seconds.items():
        others = [module for module in dragged[name] if module != "ismkit"]
        yield median(f"import {name} (brings {', '.join(others) or 'nothing else'})", values, "s", 2.0)
    found = sorted(set(HEAVY) & {module for modules in dragged.values() for module in modules})
    what = f"of {', '.join(HEAVY)}: imported{': ' + ', '.join(found) if found else ''}"
    yield Row(what, len(found), "modules", goal="= 0", verdict="MISSED" if found else "holds")
