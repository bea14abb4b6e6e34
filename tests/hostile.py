"""Input of every kind for property-based tests, and the outcomes allowed: a result, or an error of the kit's own."""

import math
import os
import re
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import strategies as st
from torch import Tensor

import ismkit

#: Examples of each property of the files test_hostile_*: a multiple of CI's is set by hand.
TRIES = int(os.environ.get("ISMKIT_TRIES", "10"))
PACKAGE = Path(ismkit.__file__).parent
REFUSED = object()

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
OTHERS = (torch.bool, torch.complex64)
VALUES = (0.0, 1.0, -1.0, 2.0, 3.0, 0.5, 7.0, 1e30, -1e4, math.nan, math.inf, -math.inf)

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def of_the_kit(error: BaseException) -> bool:
    """Whether the kit's own code raised an error, by a ``raise``: Python's and PyTorch's own name no argument."""
    if isinstance(error, OSError) and error.filename is not None:
        return True  # of the system, with the file's name
    last = traceback.extract_tb(error.__traceback__)[-1]
    kind = isinstance(error, ValueError | TypeError) or type(error).__module__.startswith("ismkit.")
    return kind and Path(last.filename).is_relative_to(PACKAGE) and (last.line or "").startswith("raise ")


def outcome(call: Callable[[], Any], *names: str) -> Any:
    """The result, or ``REFUSED`` if the kit itself refused an argument, in one line that has one of the names."""
    try:
        return call()
    except Exception as error:
        refusal = error
    message = str(refusal)
    assert of_the_kit(refusal), f"not the kit's own: {refusal!r} from {traceback.extract_tb(refusal.__traceback__)[-1]}"
    assert "\n" not in message
    if not isinstance(refusal, OSError):
        assert any(re.search(rf"\b{re.escape(name)}\b", message) for name in names), f"names no argument: {message}"
    return REFUSED


@st.composite
def tensors(
    draw: st.DrawFn,
    shape: st.SearchStrategy[tuple[int, ...]] = shapes,
    dtypes: tuple[torch.dtype, ...] = FLOATS + INTEGERS + OTHERS,
) -> Tensor:
    """A tensor of any type and shape, whose values may be anything that the type holds."""
    dims = draw(shape)
    values = draw(st.lists(st.sampled_from(VALUES), min_size=math.prod(dims), max_size=math.prod(dims)))
    dtype = draw(st.sampled_from(dtypes))
    if not dtype.is_floating_point and not dtype.is_complex:
        values = [value if abs(value) < 100 else -3.0 for value in values]  # a cast of NaN is not defined
    return torch.tensor(values, dtype=torch.float64).reshape(dims).to(dtype)


def normal_or(hostile: st.SearchStrategy[Any], *shape: int) -> st.SearchStrategy[Any]:
    """Ordinary numbers of a shape, as often as anything else: else nothing would ever fit."""
    ordinary = st.integers(0, 99).map(lambda seed: torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
    return st.one_of(ordinary, hostile)


@st.composite
def anything(draw: st.DrawFn) -> Any:
    """A tensor, an array, lists of numbers, or what is no number at all."""
    x = draw(tensors())
    form = draw(st.sampled_from(["tensor", "array", "list", "object", "other"]))
    if form == "tensor" or x.dtype == torch.bfloat16:
        return x
    if form in ("array", "list"):
        return x.numpy() if form == "array" else x.tolist()
    if form == "object":
        return np.array(["a", None, 3], dtype=object)
    return draw(st.sampled_from([None, "text", 3, 0.5, {}, {"x": 1}, object, b"bytes", Path("x")]))


#: What an argument may be by mistake, whatever it should be.
MISTAKEN = (
    *(None, True, False, 0, 1, 2, 3, -1, 1000, 0.0, 0.5, 1.0, 2.5, -0.5, 1e30, math.nan, math.inf, -math.inf, 1 + 2j),
    *(np.int64(2), np.float32(0.5), np.bool_(True), np.zeros(3), np.array(["a", None], dtype=object)),
    *(
        "",
        "text",
        "3",
        "0.5",
        "None",
        "é\u2028",
        b"bytes",
        Path("x"),
        object,
        [],
        (),
        {},
        [1.0, None],
        (0, 1),
        {"x": 1},
    ),
    *([0, 1], (0.5, 0.5), range(3), torch.tensor(1.0), torch.zeros(0), torch.zeros(3, 2).long(), torch.device("cpu")),
)


def _spoil(x: Tensor, how: str) -> Any:
    """A tensor of other values, of another type or shape, on another device, or no tensor any more."""
    if how == "one bad number":
        spoilt = x.clone()
        spoilt.view(-1)[-1:] = math.nan if x.is_floating_point() else -1
        return spoilt
    spoils: dict[str, Callable[[], Any]] = {
        "half": x.half,
        "double": x.double,
        "bfloat16": x.bfloat16,
        "long": x.long,
        "byte": x.byte,
        "bool": x.bool,
        "complex": x.cfloat,
        "no rows": lambda: x[:0],
        "one row": lambda: x[:1],
        "first row": lambda: x[0] if x.ndim else x,
        "one more axis": lambda: x[None],
        "one more axis at the end": lambda: x[..., None],
        "one column": lambda: x[..., :1],
        "no columns": lambda: x[..., :0],
        "twice the rows": lambda: torch.cat([x, x]) if x.ndim else x,
        "not finite": lambda: x.float() * math.inf,
        "large": lambda: 1e30 * x.float() if x.is_floating_point() else x + 1000,
        "negative": lambda: -x if x.is_floating_point() else x - 5,
        "all equal": lambda: torch.ones_like(x),
        "elsewhere": lambda: x.to("meta"),
        "sparse": x.to_sparse,
        "gradient": lambda: x.float().clone().requires_grad_(),
        "array": x.numpy,
        "list": x.tolist,
    }
    return spoils[how]()


_HOW = (
    *("half", "double", "bfloat16", "long", "byte", "bool", "complex", "no rows", "one row", "first row"),
    *("one more axis", "one more axis at the end", "one column", "no columns", "twice the rows", "not finite", "large"),
    *("negative", "all equal", "elsewhere", "sparse", "gradient", "array", "list", "one bad number"),
)


def _without(frame: pd.DataFrame, name: str, how: str) -> pd.DataFrame:
    """A table whose column is missing, of another name or kind, twice there, or that has no rows any more."""
    spoils: dict[str, Callable[[], pd.DataFrame]] = {
        "missing": lambda: frame.drop(columns=name),
        "renamed": lambda: frame.rename(columns={name: f"{name} "}),
        "texts": lambda: frame.astype({name: str}),
        "not finite": lambda: frame.assign(**{name: math.nan}),
        "twice": lambda: pd.concat([frame, frame[[name]]], axis=1),
        "no rows": lambda: frame[:0],
        "one row": lambda: frame[:1],
    }
    return spoils[how]()


_COLUMN = ("missing", "renamed", "texts", "not finite", "twice", "no rows", "one row")


@st.composite
def spoilt(draw: st.DrawFn, given: dict[str, Any], keep: Collection[str] = ()) -> dict[str, Any]:
    """Those of some ordinary arguments, mostly one, that are mistaken now; the others fit."""
    names = sorted(given.keys() - set(keep))
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=1 + draw(st.integers(0, 1)), unique=True))
    changed = {}
    for name in chosen:
        value = given[name]
        if isinstance(value, Tensor) and draw(st.integers(0, 3)):
            changed[name] = _spoil(value, draw(st.sampled_from(_HOW)))
        elif isinstance(value, pd.DataFrame) and draw(st.integers(0, 3)):
            changed[name] = _without(value, draw(st.sampled_from(list(value))), draw(st.sampled_from(_COLUMN)))
        else:
            changed[name] = draw(st.one_of(st.sampled_from(MISTAKEN), tensors()))
    return changed


def says(message: str, value: Any) -> bool:
    """Whether a message has a value, if it is a number or a text that fits a line, or the type that is wrong."""
    if not isinstance(value, bool | int | float | str | None):
        return True
    seen = (repr(value), str(value).partition(".")[0] if isinstance(value, str) else str(value), type(value).__name__)
    return any(text in message for text in seen)
