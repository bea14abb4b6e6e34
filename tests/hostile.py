"""Input of every kind for property-based tests, and the outcomes allowed: a result, or an error of the kit's own."""

import math
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

import ismkit
from ismkit.utils.weights import CheckpointError

PACKAGE = Path(ismkit.__file__).parent
REFUSED = object()

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
OTHERS = (torch.bool, torch.complex64)
VALUES = (0.0, 1.0, -1.0, 2.0, 3.0, 0.5, 7.0, 1e30, -1e4, math.nan, math.inf, -math.inf)

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def outcome(call: Callable[[], Any], *names: str) -> Any:
    """The result, or ``REFUSED`` if the kit itself refused an argument, in one line that has one of the names."""
    try:
        return call()
    except (ValueError, TypeError, CheckpointError) as error:
        refusal = error
    last, message = traceback.extract_tb(refusal.__traceback__)[-1], str(refusal)
    assert Path(last.filename).is_relative_to(PACKAGE), f"not the kit's own: {refusal!r} from {last.filename}"
    assert "\n" not in message
    assert any(re.search(rf"\b{name}\b", message) for name in names), f"names no argument: {message}"
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
