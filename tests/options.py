"""Trainings whose options are given loose, for tests that vary one at a time."""

from typing import Any

from ismkit.training import launcher, loop, runs
from ismkit.training.loop import TrainState
from ismkit.training.options import Engine, Logging, Saving

GROUPS: dict[str, Any] = {"engine": Engine, "saving": Saving, "logging": Logging}


def grouped(**options: Any) -> dict[str, Any]:
    """``engine``, ``saving`` and ``logging`` of those options that belong to them; the others as they are."""
    found: dict[str, Any] = {}
    for group, kind in GROUPS.items():
        given = {name: options.pop(name) for name in kind.__dataclass_fields__.keys() & options.keys()}
        if given:
            assert group not in options, f"{group} is given whole and in parts: {sorted(given)}"
            found[group] = kind(**given)
    return {**options, **found}


def fit(*args: Any, **options: Any) -> TrainState:
    return loop.fit(*args, **grouped(**options))


def train_run(*args: Any, **options: Any) -> TrainState:
    """Resumed, as without options, unless they say otherwise."""
    default = {} if "saving" in options else {"resume": True}
    return runs.train_run(*args, **grouped(**(default | options)))


def launch(*args: Any, **options: Any) -> TrainState:
    return launcher.launch(*args, **grouped(**options))
