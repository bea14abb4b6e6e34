"""How often each promise of the page of guarantees is tried: ``python -m tests.tried`` writes the numbers into it.

A test counts as often as it has cases, and a property-based one as often as it draws examples for each case.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "book" / "guarantees.md"
PROMISE = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`(?:,\s+tried (?:once|[\d ]+ times))?")


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """As a plugin of pytest: print how often each test is tried."""
    print(json.dumps(counted(items)))


def counted(items: list[Any]) -> Counter[str]:
    """How often each of the tests that pytest has collected is tried."""
    found: Counter[str] = Counter()
    for item in items:
        settings = getattr(item.function, "_hypothesis_internal_use_settings", None)
        drawn = settings.max_examples if settings and hasattr(item.function, "hypothesis") else 1
        found[f"{Path(item.path).relative_to(ROOT).as_posix()}::{item.originalname}"] += drawn
    return found


def tried(text: str) -> dict[str, int]:
    """How often the tests named in a text are tried."""
    files = sorted({file for file, _ in PROMISE.findall(text)})
    options = ["--collect-only", "-q", "-n", "0", "-p", "tests.order", "-p", "tests.tried"]
    environment = {name: value for name, value in os.environ.items() if name != "ISMKIT_TRIES"}
    command = [sys.executable, "-m", "pytest", *options, *files]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


def with_numbers(text: str, counts: Mapping[str, int] | None = None) -> str:
    """The text with the number behind each test; by default they are counted."""
    counts = tried(text) if counts is None else counts

    def numbered(match: re.Match[str]) -> str:
        file, test = match.groups()
        times = f"{counts[f'{file}::{test}']:,} times".replace(",", " ") if counts[f"{file}::{test}"] > 1 else "once"
        return f"`{file}::{test}`, tried {times}"

    return PROMISE.sub(numbered, text)


if __name__ == "__main__":
    PAGE.write_text(with_numbers(PAGE.read_text()))
