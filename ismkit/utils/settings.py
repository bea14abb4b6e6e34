"""Settings as plain JSON values: what runs, trials and cards are described by."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any


def describe(value: Any) -> Any:
    """Settings as plain JSON values: dataclasses become dicts with their class, functions their names.

    Infinity, which JSON has not, becomes a text. Raises TypeError for what has no such form (tensors, modules).
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, partial):
        return {"call": describe(value.func), **describe(value.keywords), "args": describe(value.args)}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int | float | str | bool | None):
        return value
    if not hasattr(value, "__qualname__"):
        raise TypeError(f"settings hold numbers, texts, dataclasses and functions, not {type(value).__name__}")
    return value.__qualname__
