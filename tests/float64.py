"""What the tests of the methods share: two classes, random numbers and comparisons in float64."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from ismkit.method.path import StepGrid

NULL = 2  # two classes and the null label
seeds = st.integers(0, 2**32 - 1)
grids = st.integers(1, 8).map(lambda k: StepGrid(2**k))


@pytest.fixture(scope="module")
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=rng(seed), dtype=torch.float64)


def close(a: Tensor, b: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=atol)
