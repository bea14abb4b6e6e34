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
