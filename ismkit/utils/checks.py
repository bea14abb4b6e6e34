"""Checks of numbers that several rooms make: a figure of numbers that are not finite would look like a finding."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any


def shown(value: Any) -> str:
    """Write a value for a message: as Python does, but in one line that is not too long; of arrays what they are.

    Args:
        value: of any kind.

    Returns:
        The text.

    Example:
        >>> import numpy as np
        >>> from ismkit.utils.checks import shown
        >>> shown("3"), shown(np.zeros((2, 2)))
        ("'3'", 'ndarray (2, 2) float64')
    """
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{type(value).__name__} {tuple(shape)} {getattr(value, 'dtype', '')}".rstrip()
    text = " ".join((f"{value}" if isinstance(value, Exception) else repr(value)).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def named(function: Any) -> str:
    """Name a function, a class, or a value that is called like one, for a message.

    Args:
        function: of any kind.

    Returns:
        Its name; of what has none, as :func:`shown` writes it.

    Example:
        >>> from functools import partial
        >>> from ismkit.utils.checks import named
        >>> named(named), named(partial(print, 1))
        ('named', 'functools.partial(<built-in function print>, 1)')
    """
    return getattr(function, "__qualname__", None) or shown(function)


def check_takes(name: str, function: Any, arguments: Sequence[str]) -> None:
    """Refuse a function that cannot be called with some arguments in turn; it is not called.

    Args:
        name: of the argument, for the message.
        function: the argument; one that does not say what it takes, as some of C do not, is let through.
        arguments: what it will be called with, by their names.

    Raises:
        ValueError: if it takes fewer or needs more.

    Example:
        >>> from ismkit.utils.checks import check_takes
        >>> def mine(prediction, target):
        ...     return (prediction - target).square()
        >>> check_takes("distance", mine, ("prediction", "target", "query"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: distance must take (prediction, target, query), got mine(prediction, target): too many ... arguments
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        wanted = f"({', '.join(arguments)})"
        raise ValueError(f"{name} must take {wanted}, got {named(function)}{signature}: {error}") from error


def check_tensor(name: str, x: Any, beside: tuple[str, Any] | None = None) -> None:
    """Refuse what is no dense floating point tensor, or not on the device of another one; no value is read.

    Args:
        name: of the argument, for the message.
        x: the argument.
        beside: the other tensor, after its name.

    Raises:
        TypeError: if it is no tensor, not dense, or not floating point.
        ValueError: if it is on another device than the other one.

    Example:
        >>> import torch
        >>> from ismkit.utils.checks import check_tensor
        >>> check_tensor("x1", torch.zeros(2).long())
        Traceback (most recent call last):
        TypeError: x1 must be floating point, got torch.int64
        >>> check_tensor("x1", torch.zeros(2, device="meta"), ("x0", torch.zeros(2)))
        Traceback (most recent call last):
        ValueError: x1 must be on the device of x0, cpu, got meta
    """
    import torch  # the command line's help counts without torch

    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    if x.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {x.layout}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}")
    if beside is not None and x.device != beside[1].device:
        raise ValueError(f"{name} must be on the device of {beside[0]}, {beside[1].device}, got {x.device}")


def check_finite(name: str, x: Any) -> None:
    """Refuse what is no floating point tensor, or not finite.

    Args:
        name: of the argument, for the message.
        x: the argument.

    Raises:
        TypeError: if it is no tensor, not dense, or not floating point.
        ValueError: if it has NaN or infinite values, or none at all, on the device meta.

    Example:
        >>> import torch
        >>> from ismkit.utils.checks import check_finite
        >>> check_finite("x0", torch.tensor([1.0, float("nan")]))
        Traceback (most recent call last):
        ValueError: x0 must be finite, got 1 NaN or infinite of 2 values
    """
    check_tensor(name, x)
    if x.is_meta:
        raise ValueError(f"{name} must hold numbers, got a tensor on the device meta, which has none")
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
        truth = isinstance(value, bool) or str(getattr(value, "dtype", "")) == "torch.bool"
        return operator.index(None if truth or getattr(value, "shape", ()) != () else value)  # type: ignore[arg-type]
    except (TypeError, RuntimeError) as error:  # the second of a tensor without numbers, or on the device meta
        raise ValueError(f"{name} must be an integer, got {shown(value)}") from error


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
    if not least <= count < 2**63:
        raise ValueError(
            f"{name} must be an integer of at least {least}{' and below 2^63' * (count > 0)}, got {shown(value)}"
        )
    return count


def check_name(name: str, value: Any, known: Collection[str]) -> None:
    """Refuse what is none of some names.

    Args:
        name: of the argument, for the message.
        value: the argument.
        known: the names that there are.

    Raises:
        ValueError: for anything else; the message lists the names.

    Example:
        >>> from ismkit.utils.checks import check_name
        >>> check_name("split", "tests", ("train", "test"))
        Traceback (most recent call last):
        ValueError: split must be one of train, test, got 'tests'
    """
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {shown(value)}")


def as_number(name: str, value: Any) -> float:
    """Read what was measured as Python's number: also one of NumPy's, or the only one of a tensor.

    Args:
        name: of the argument, for the message.
        value: the argument.

    Returns:
        The number, which may be infinite or NaN.

    Raises:
        ValueError: for texts and what is no number.

    Example:
        >>> import torch
        >>> from ismkit.utils.checks import as_number
        >>> as_number("measured", torch.tensor(0.5))
        0.5
        >>> as_number("measured", "0.5")
        Traceback (most recent call last):
        ValueError: measured must be a number, got '0.5'
    """
    try:
        return float(None if isinstance(value, str | bytes) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{name} must be a number, got {shown(value)}") from error


def check_kind(name: str, value: Any, *kinds: type) -> None:
    """Refuse what is of none of some types.

    Args:
        name: of the argument, for the message.
        value: the argument.
        kinds: its types.

    Raises:
        TypeError: for another one.

    Example:
        >>> from ismkit.utils.checks import check_kind
        >>> check_kind("card", ["seed", 0], dict)
        Traceback (most recent call last):
        TypeError: card must be a dict, got ['seed', 0]
    """
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be a {' or a '.join(kind.__name__ for kind in kinds)}, got {shown(value)}")


def as_tuple(name: str, values: Any, *kinds: type, empty: bool = True) -> tuple[Any, ...]:
    """Read several values as a tuple, and refuse what is no list of them.

    Args:
        name: of the argument, for the message.
        values: a list, a tuple, a range or anything else that gives them in turn; a text is none.
        kinds: types of the values; by default they may be anything.
        empty: whether there may be none.

    Returns:
        The values.

    Raises:
        TypeError: for one value in place of several, or one of another type.
        ValueError: for none where there must be some.

    Example:
        >>> from ismkit.utils.checks import as_tuple
        >>> as_tuple("nfe", range(1, 4))
        (1, 2, 3)
        >>> as_tuple("nfe", 4)
        Traceback (most recent call last):
        TypeError: nfe must be a list, got 4
    """
    several = isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping | Path)
    if not several or getattr(values, "ndim", 1) != 1:
        raise TypeError(f"{name} must be a list, got {shown(values)}")
    read = tuple(values)
    for value in read:
        if kinds:
            check_kind(f"each of {name}", value, *kinds)
    if not read and not empty:
        raise ValueError(f"{name} must be one or more, got none: {shown(values)}")
    return read


def check_number(name: str, value: Any, rule: str, low: float, high: float = float("inf")) -> None:
    """Refuse what is no number of Python or NumPy, or one that is not between two others; bounds are allowed values.

    Args:
        name: of the argument, for the message.
        value: the argument.
        rule: what it must be, for the message.
        low: the least value allowed.
        high: the largest; by default all finite ones are.

    Raises:
        ValueError: for NaN, infinity, a truth value, a text and a number that is out of range.

    Example:
        >>> from ismkit.utils.checks import check_number
        >>> check_number("level", "high", "in [0, 1]", 0, 1)
        Traceback (most recent call last):
        ValueError: level must be a number in [0, 1], got 'high'
    """
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not real or not low <= value <= high or not math.isfinite(value):
        raise ValueError(f"{name} must be a number {rule}, got {shown(value)}")


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
        raise ValueError(f"{what}{f': {place}' if place else ''} must be {wanted}, got {shown(value)}")
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
