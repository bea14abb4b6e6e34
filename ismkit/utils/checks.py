"""Checks of numbers that several rooms make: a figure of numbers that are not finite would look like a finding."""

from __future__ import annotations

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


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is no integer of at least ``least``.

    Args:
        name: of the argument, for the message.
        value: the argument.
        least: the smallest value allowed.

    Raises:
        ValueError: if it is another number, or none.

    Example:
        >>> from ismkit.utils.checks import check_count
        >>> check_count("repeats", 0)
        Traceback (most recent call last):
        ValueError: repeats must be an integer of at least 1, got 0
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
