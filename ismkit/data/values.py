"""What numbers may be samples and labels: arrays of NumPy or PyTorch, converted where nothing is lost, else refused."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ismkit.utils.checks import shown

_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32)
_REMEDIES = {
    torch.uint8: "pictures are scaled first, by x.astype('float32') / 127.5 - 1 or x.float() / 127.5 - 1",
    torch.bool: "scale it first, by 2 * x.astype('float32') - 1 or 2 * x.float() - 1",
    torch.uint64: "convert it, by x.astype('int64')",
}


def as_tensor(value: Any, name: str) -> Tensor:
    """The same numbers as a plain tensor, of their own type, without gradient.

    Args:
        value: a tensor, an array of NumPy, or lists of numbers.
        name: of the argument, for the messages.

    Returns:
        A tensor; it shares its memory with ``value`` where it can.

    Raises:
        TypeError: for anything else, such as objects, texts, pictures of Pillow, sparse tensors and masked arrays.

    Example:
        >>> import numpy as np
        >>> from ismkit.data.values import as_tensor
        >>> as_tensor(np.array([1.5, 2.5], dtype=">f4"), "x")
        tensor([1.5000, 2.5000])
    """
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_nested:
            raise TypeError(f"{name} must be a dense tensor, got {value.layout}, {value.dtype}")
        if value.is_meta:
            raise TypeError(f"{name} must hold numbers, got a tensor on the device meta, which has none")
        return value.detach()
    if not isinstance(value, np.ndarray | np.generic | int | float | complex | Sequence) or isinstance(
        value, np.ma.MaskedArray | str | bytes
    ):
        raise TypeError(f"{name} must be numbers in a tensor or an array, got {_called(value)}")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # rows of unequal lengths
        raise TypeError(f"{name} must be one tensor or array, got a {type(value).__name__}: {error}") from error
    if array.dtype.kind not in "biufc":
        remedy = ": number the classes, by numpy.unique(y, return_inverse=True)[1]" if array.dtype.kind in "US" else ""
        raise TypeError(f"{name} must hold numbers, got {array.dtype}{remedy}")
    if array.dtype.itemsize > 8 and array.dtype.kind == "f":  # PyTorch has no longer type
        array = array.astype(np.float64)
    if array.dtype.itemsize > 16:
        array = array.astype(np.complex128)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():  # an array that cannot be written is only read here
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def _called(value: Any) -> str:
    """How a value is called in a message."""
    kind = type(value)
    remedy = " (turn pictures into arrays in its transform)" if kind.__module__.startswith("PIL.") else ""
    return f"{kind.__module__}.{kind.__name__}{remedy}" if kind.__module__ != "builtins" else repr(value)[:60]


def as_samples(x: Any, name: str = "x", rows: Sequence[int] | None = None) -> Tensor:
    """Samples as training reads them: finite, in PyTorch's default type, float32 unless it was set to another.

    float64, float16 and bfloat16 are converted, and integers up to 2^24, which float32 holds exactly. The values may
    round to float32; one too large for it is refused.

    Args:
        x: (n, ...), a tensor, an array of NumPy or lists of numbers; n and the numbers of a sample at least 1.
        name: of the argument, for the messages.
        rows: the numbers of the rows, for the messages; by default 0 .. n - 1.

    Returns:
        (n, ...); ``x`` itself where it is of that type already.

    Raises:
        TypeError: for complex numbers, bool, uint8 (pictures: the message says how to scale them), uint64 and what is
            no number.
        ValueError: for another shape, and values that are not finite or too large; the message names the row.

    Example:
        >>> import numpy as np
        >>> from ismkit.data.values import as_samples
        >>> as_samples(np.array([[1, 2], [3, 4]]))
        tensor([[1., 2.],
                [3., 4.]])
        >>> as_samples([[0.0], [float("nan")]])
        Traceback (most recent call last):
        ValueError: x must be finite, but row 1 holds nan (1 of 2 rows are not)
    """
    given = as_tensor(x, name)
    if given.ndim < 2 or given.numel() == 0:
        remedy = f": one number per sample is {name}[:, None]" if given.ndim == 1 and len(given) else ""
        raise ValueError(
            f"{name} must be (n, ...) with n >= 1 samples of 1 number or more, got {tuple(given.shape)}{remedy}"
            if given.ndim
            else f"{name} must be (n, ...) with n >= 1 samples, got the number {shown(x)}"
        )
    if not given.is_floating_point() and given.dtype not in _INTEGERS:
        remedy = _REMEDIES.get(given.dtype, "take its real part, or its parts as channels")
        raise TypeError(f"{name} must hold floating point numbers or integers, got {given.dtype}: {remedy}")
    converted = given.to(torch.get_default_dtype())
    if not given.is_floating_point():
        whole = given.long()
        _refuse(
            (whole > 2**24) | (whole < -(2**24)),
            whole,
            rows,
            f"{name} must hold integers up to 2^24, which float32 knows",
        )
    elif not converted.isfinite().all():
        finite = given.isfinite()
        _refuse(~finite, given, rows, f"{name} must be finite")
        _refuse(~converted.isfinite(), given, rows, f"{name} must be in the range of {converted.dtype}")
    return converted


def _refuse(wrong: Tensor, x: Tensor, rows: Sequence[int] | None, rule: str) -> None:
    """Raise ValueError with the first row that has something wrong, and what it holds."""
    bad = wrong.flatten(1).any(1).nonzero().flatten()
    if len(bad):
        first = int(bad[0])
        value = x[first][wrong[first]][0].item()
        number = first if rows is None else rows[first]
        raise ValueError(f"{rule}, but row {number} holds {value} ({len(bad)} of {len(x)} rows are not)")


def as_labels(y: Any, n: int, name: str = "y") -> Tensor:
    """Labels as int64, one per sample.

    Args:
        y: (n,) of any integer type or bool, a tensor, an array of NumPy or a list.
        n: how many samples there are.
        name: of the argument, for the messages.

    Returns:
        (n,) int64; their range is not looked at.

    Raises:
        TypeError: for floating point numbers and what is no number.
        ValueError: for another shape, such as (n, 1) or one-hot; the message says what to do.

    Example:
        >>> import numpy as np
        >>> from ismkit.data.values import as_labels
        >>> as_labels(np.array([2, 0], dtype=np.uint8), n=2)
        tensor([2, 0])
        >>> as_labels([[0, 1], [1, 0]], n=2)
        Traceback (most recent call last):
        ValueError: y must hold one label per sample, shape (2,), got (2, 2): of one-hot rows take y.argmax(1)
    """
    given = as_tensor(y, name)
    if given.shape != (n,):
        remedy, got = "", tuple(given.shape) if given.ndim else f"the number {shown(y)}"
        if given.shape == (n, 1):
            remedy = f": take {name}[:, 0]"
        elif given.ndim == 2 and len(given) == n:
            remedy = f": of one-hot rows take {name}.argmax(1)"
        raise ValueError(f"{name} must hold one label per sample, shape ({n},), got {got}{remedy}")
    if given.dtype not in (*_INTEGERS, torch.uint8, torch.bool):
        array = name if isinstance(y, np.ndarray) else f"np.array({name})"
        remedy = f"{name}.long()" if isinstance(y, Tensor) else f"{array}.astype('int64')"
        raise TypeError(f"{name} must hold integers, got {given.dtype}: convert it, by {remedy}")
    return given.long()


def as_label(value: Any, row: int) -> int:
    """The label of one row of a data set as an integer.

    Args:
        value: an integer of Python, NumPy or PyTorch, without dimensions.
        row: its number, for the messages.

    Returns:
        The label.

    Raises:
        TypeError: for what is no integer.
        ValueError: for a label with dimensions, such as a one-hot one.

    Example:
        >>> import torch
        >>> from ismkit.data.values import as_label
        >>> as_label(torch.tensor(3), row=0)
        3
    """
    if shape := tuple(getattr(value, "shape", ())):
        remedy = "take label[0]" if shape == (1,) else "of a one-hot label take label.argmax()"
        raise ValueError(f"data must give one label per row, a number, row {row} has shape {shape}: {remedy}")
    try:
        return operator.index(value)
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"data must give integers as labels, row {row} has {_called(value)}") from error


def missing_classes(y: Tensor, num_classes: int) -> tuple[int, ...]:
    """The classes that have no rows.

    Args:
        y: labels, (n,) long, in 0 .. num_classes - 1.
        num_classes: how many classes there are.

    Returns:
        Their numbers, in order.

    Example:
        >>> import torch
        >>> from ismkit.data.values import missing_classes
        >>> missing_classes(torch.tensor([0, 3, 3]), num_classes=5)
        (1, 2, 4)
    """
    return tuple((y.bincount(minlength=num_classes) == 0).nonzero().flatten().tolist())


def warn_of_missing(missing: Sequence[int], num_classes: int, what: str) -> None:
    """Warn of classes without rows, with what that means.

    Args:
        missing: their numbers.
        num_classes: how many classes there are.
        what: of it follows.

    Example:
        >>> import warnings
        >>> from ismkit.data.values import warn_of_missing
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_of_missing((1, 2), 5, "they are not trained")
        >>> str(caught[0].message)
        'data has no rows of 2 of its 5 classes (1, 2): they are not trained'
    """
    if missing:
        listed = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        message = f"data has no rows of {len(missing)} of its {num_classes} classes ({listed}): {what}"
        warnings.warn(message, stacklevel=3)
