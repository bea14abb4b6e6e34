"""Settings as plain JSON values: what runs, trials and cards are described by."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any


def describe(value: Any) -> Any:
    """Write settings as plain JSON values: dataclasses become dicts with their class, functions their names.

    Args:
        value: numbers, texts, None, dataclasses, functions, ``functools.partial`` calls, and lists, tuples and dicts of
            them.

    Returns:
        The same as dicts, lists, numbers and texts. Infinity and NaN, which JSON does not have, become texts.

    Raises:
        TypeError: for what has no such form (tensors, modules).

    Example:
        >>> from ismkit import Coupling, describe, l2
        >>> describe({"coupling": Coupling(pool=32), "distance": l2, "bound": float("inf")})
        {'coupling': {'class': 'Coupling', 'pool': 32, 'class_aware': True}, 'distance': 'l2', 'bound': 'inf'}
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
