"""Checks of numbers that several rooms make: a figure of numbers that are not finite would look like a finding."""

from __future__ import annotations

import operator
from typing import Any


def check_finite(name: str, x: Any) -> None:
    """Refuse what is no floating point tensor, or not finite.

    Args:
        name: of the argument, for the message.
        x: the argument.

    Raises:
        TypeError: if it is no tensor, or not floating point.
        ValueError: if it has NaN or infinite values.

    Example:
        >>> import torch
        >>> from ismkit.utils.checks import check_finite
        >>> check_finite("x0", torch.tensor([1.0, float("nan")]))
        Traceback (most recent call last):
        ValueError: x0 must be finite, got 1 NaN or infinite of 2 values
    """
    from torch import Tensor  # the command line's help counts without torch

    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}")
    if bad := x.numel() - int(x.isfinite().sum()):
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite of {x.numel()} values")


def as_integer(value: Any, name: str = "seed") -> int:
    """Read a seed, or another whole number, as Python's int, whose text names a stream; NumPy's have other texts.

    Args:
        value: an integer of any kind, but no truth value.
        name: of the argument, for the message.

    Returns:
        The number.

    Raises:
        ValueError: for anything else.

    Example:
        >>> import numpy as np
        >>> from ismkit.utils.checks import as_integer
        >>> as_integer(np.int64(3))
        3
        >>> as_integer(3.0)
        Traceback (most recent call last):
        ValueError: seed must be an integer, got 3.0
    """
    try:
        return operator.index(None if isinstance(value, bool) else value)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(f"{name} must be an integer, got {value!r}") from error


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Read an integer of any kind as Python's int, and refuse what is none of at least ``least``.

    Args:
        name: of the argument, for the message.
        value: the argument.
        least: the smallest value allowed.

    Returns:
        The number.

    Raises:
        ValueError: if it is another number, or none.

    Example:
        >>> from ismkit.utils.checks import check_count
        >>> check_count("repeats", 0)
        Traceback (most recent call last):
        ValueError: repeats must be an integer of at least 1, got 0
    """
    try:
        count = as_integer(value, name)
    except ValueError:
        count = least - 1
    if count < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return count


def check_form(what: str, value: Any, form: Any) -> None:
    """Refuse JSON of another form than expected: what was read from a file may hold anything.

    Args:
        what: the file, and the place in it, for the message.
        value: as read.
        form: a type, or a tuple of types; a dict of forms by key, all of which must be there; a list with the form of
            each of its parts.

    Raises:
        ValueError: naming the place that differs, what it holds, and what it should.

    Example:
        >>> from ismkit.utils.checks import check_form
        >>> check_form("plan.json", {"side": 256, "more": None}, {"side": int})
        >>> check_form("plan.json", {"files": [{"rows": 3}, {"rows": "3"}]}, {"files": [{"rows": int}]})
        Traceback (most recent call last):
        ValueError: plan.json: files[1].rows must be an integer, got '3'
    """
    _check_form(what, "", value, form)


def _check_form(what: str, place: str, value: Any, form: Any) -> None:
    kinds = form if isinstance(form, tuple) else (type(form) if isinstance(form, dict | list) else form,)
    if type(value) not in kinds and not (type(value) is int and float in kinds):
        wanted = " or ".join(_FORMS[kind] for kind in kinds)
        shown = repr(value) if len(repr(value)) < 40 else type(value).__name__
        raise ValueError(f"{what}{f': {place}' if place else ''} must be {wanted}, got {shown}")
    if isinstance(form, dict):
        if missing := [key for key in form if key not in value]:
            raise ValueError(f"{what}{f': {place}' if place else ''} has no {missing[0]}")
        for key, part in form.items():
            _check_form(what, f"{place}.{key}" if place else key, value[key], part)
    elif isinstance(form, list):
        for i, part in enumerate(value):
            _check_form(what, f"{place}[{i}]", part, form[0])


_FORMS: dict[Any, str] = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
