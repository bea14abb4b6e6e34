"""Run the benchmarks: ``python -m tests.bench [--device cpu|cuda] [--append FILE] [--only NAME] [--no-compile]``."""

from __future__ import annotations

import argparse
import gc
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import accelerate
import numpy
import scipy
import torch

import ismkit
from ismkit.lessons.ledger import processor
from tests.bench import coupling, imagenet, imports, ladder, memory, page, plan, sampling, step
from tests.bench.common import SIZES, Row, Sizes, tiny

BENCHES: dict[str, Callable[[Sizes], Iterator[Row]]] = {
    "step": step.run,
    "coupling": coupling.run,
    "solvers": coupling.solvers,
    "auction": coupling.auctions,
    "plan": plan.run,
    "sampling": sampling.run,
    "page": page.run,
    "ladder": ladder.run,
    "memory": memory.run,
    "imagenet": imagenet.run,
    "imports": imports.run,
}
HEAD = ("what", "median", "quartiles", "n", "goal", "")


def machine(device: str) -> list[str]:
    """What the figures depend on, as lines."""
    lines = [f"CPU: {processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads for torch"]
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        lines.append(f"GPU: {properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
    lines.append(
        f"Python {platform.python_version()}, torch {torch.__version__}, accelerate {accelerate.__version__}, "
        f"numpy {numpy.__version__}, scipy {scipy.__version__}, ismkit {ismkit.__version__}, {platform.system()}"
    )
    return lines


def load() -> str:
    """Load average of the last minute: above zero at the start, something else was running."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def table(rows: Iterable[Row]) -> list[str]:
    """The rows as a Markdown table."""
    lines = [HEAD, ("---",) * len(HEAD), *(row.cells() for row in rows)]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--device", choices=sorted(SIZES), default="cpu")
    parser.add_argument("--append", type=Path, metavar="FILE", help="append the report to this Markdown file")
    parser.add_argument("--only", choices=list(BENCHES), action="append", metavar="NAME",
                        help=f"one of {', '.join(BENCHES)}; may be repeated")  # fmt: skip
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction,
                        help="compile the step of imagenet or not (by default on cuda alone)")  # fmt: skip
    parser.add_argument(
        "--tiny", action="store_true", help="small sizes, to see that all runs: the numbers mean nothing"
    )
    options = parser.parse_args(arguments)
    if options.tiny and options.append:
        parser.error("--tiny gives no numbers worth keeping: leave out --append")
    if options.append and not options.append.parent.is_dir():
        parser.error(f"--append: there is no folder {options.append.parent}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device cuda: torch {torch.__version__} sees no CUDA device here")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run, print, append; 1 if a benchmark could not run to its end (a goal that is missed is marked, not an error)."""
    options = parse(arguments)
    sizes = tiny(SIZES[options.device]) if options.tiny else SIZES[options.device]
    if options.compile is not None:
        sizes = replace(sizes, compile=options.compile)
    began, load_before = time.perf_counter(), load()
    report, stopped = [], False
    for name in options.only or BENCHES:
        bench = BENCHES[name]
        print(f"== {name}", file=sys.stderr, flush=True)
        started, rows = time.perf_counter(), []
        report += [f"### {name}", ""]
        try:
            for row in bench(sizes):
                rows.append(row)
                print("  ".join(cell for cell in row.cells() if cell), file=sys.stderr, flush=True)
        except Exception as error:  # one that fails, for want of memory or a package, must not take the rest along
            traceback.print_exc()
            report += [f"Stopped by {type(error).__name__}: {str(error).splitlines()[0]}", ""]
            stopped = True
        report += [*table(rows), "", f"{time.perf_counter() - started:.0f} s.", ""]
        gc.collect()
    head = [f"## {datetime.now(UTC):%Y-%m-%d}, {options.device}", ""]
    head += [f"- {line}" for line in machine(options.device)]
    head += [
        f"- Load average {load_before} at the start, {load()} at the end; {time.perf_counter() - began:.0f} s in all."
    ]
    text = "\n".join([*head, "", *report])
    print(text)
    if options.append:
        with options.append.open("a") as file:
            file.write(("\n" if file.tell() else "") + text.rstrip() + "\n")
    return int(stopped)


if __name__ == "__main__":
    sys.exit(main())
