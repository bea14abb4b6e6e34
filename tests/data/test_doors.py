"""The door of data: what is converted, what is refused by name, and that nothing else passes."""

import math
import re
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, random_split

from ismkit.data.batches import Batches
from ismkit.data.doors import Mapped, admit
from ismkit.data.sets import Labelled
from ismkit.utils.keys import identity
from tests.hostile import REFUSED, anything, normal_or, outcome, tensors

POINTS = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])


@pytest.mark.parametrize(
    "x",
    [
        POINTS,
        POINTS.double(),
        POINTS.half(),
        POINTS.bfloat16(),
        POINTS.long(),
        POINTS.short(),
        POINTS.numpy(),
        POINTS.double().numpy().astype(">f8"),
        POINTS.numpy().astype(np.longdouble),
        POINTS.numpy().astype(np.uint16),
        POINTS.flip(0).numpy()[::-1],
        np.broadcast_to(POINTS.numpy(), (3, 2)),  # read-only
        POINTS.tolist(),
        POINTS.clone().requires_grad_(),
    ],
    ids=lambda x: f"{type(x).__name__} {getattr(x, 'dtype', '')}",
)
@pytest.mark.parametrize("y", [[0, 2, 1], np.array([0, 2, 1], np.uint8), torch.tensor([0, 2, 1], dtype=torch.int32)])
def test_numbers_of_every_type_become_what_training_reads(x: Any, y: Any) -> None:
    data = Labelled.of(x, y)
    assert data.x.dtype == torch.float32
    assert data.x.equal(POINTS)
    assert not data.x.requires_grad
    assert data.y.dtype == torch.int64
    assert (data.y.tolist(), data.num_classes, data.class_names) == ([0, 2, 1], 3, ("0", "1", "2"))


def test_memory_is_shared_where_nothing_is_converted() -> None:
    assert Labelled.of(POINTS).x.data_ptr() == POINTS.data_ptr()
    array = POINTS.numpy().copy()
    assert Labelled.of(array).x.data_ptr() == array.ctypes.data


def test_another_default_type_is_followed() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert Labelled.of(POINTS).x.dtype == torch.float64
        assert admit(Labelled.of(POINTS)).x.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    double = Labelled(POINTS.double(), torch.zeros(3).long(), 1, ("all",))
    assert admit(double).x.dtype == torch.float32


NAN, INF = POINTS.clone(), POINTS.double()
NAN[2, 1], INF[1, 0] = math.nan, -math.inf
BIG, LONG = POINTS.double(), POINTS.long()
BIG[1, 1], LONG[1, 0] = 1e300, 2**24 + 1


@pytest.mark.parametrize(
    ("x", "y", "names", "error", "message"),
    [
        (NAN, None, None, ValueError, "x must be finite, but row 2 holds nan (1 of 3 rows are not)"),
        (INF.numpy(), None, None, ValueError, "x must be finite, but row 1 holds -inf (1 of 3 rows are not)"),
        (BIG, None, None, ValueError, "x must be in the range of torch.float32, but row 1 holds 1e+300"),
        (
            LONG,
            None,
            None,
            ValueError,
            "x must hold integers up to 2^24, which float32 knows, but row 1 holds 16777217",
        ),
        (LONG - 2**63 - 2**24, None, None, ValueError, "integers up to 2^24"),
        (
            POINTS.byte(),
            None,
            None,
            TypeError,
            "got torch.uint8: pictures are scaled first, by x.astype('float32') / 127",
        ),
        (POINTS.bool(), None, None, TypeError, "got torch.bool: scale it first"),
        (POINTS.cfloat(), None, None, TypeError, "got torch.complex64: take its real part"),
        (POINTS.numpy().astype(np.uint64), None, None, TypeError, "got torch.uint64: convert it, by x.astype('int64')"),
        (POINTS.numpy().astype(object), None, None, TypeError, "x must hold numbers, got object"),
        (POINTS.to_sparse(), None, None, TypeError, "x must be a dense tensor, got torch.sparse_coo"),
        (np.ma.array(POINTS.numpy(), mask=True), None, None, TypeError, "x must be numbers in a tensor or an array"),
        ([[1.0], [2.0, 3.0]], None, None, TypeError, "x must be one tensor or array, got a list"),
        ("pictures", None, None, TypeError, "x must be numbers in a tensor or an array, got 'pictures'"),
        (POINTS[:, 0], None, None, ValueError, "got (3,): one number per sample is x[:, None]"),
        (POINTS[:0], None, None, ValueError, "x must be (n, ...) with n >= 1 samples of 1 number or more, got (0, 2)"),
        (
            POINTS,
            [[0], [1], [1]],
            None,
            ValueError,
            "y must hold one label per sample, shape (3,), got (3, 1): take y[:",
        ),
        (POINTS, torch.eye(3).long(), None, ValueError, "got (3, 3): of one-hot rows take y.argmax(1)"),
        (POINTS, [0, 1], None, ValueError, "y must hold one label per sample, shape (3,), got (2,)"),
        (
            POINTS,
            [0.0, 1.0, 1.0],
            None,
            TypeError,
            "y must hold integers, got torch.float64: convert it, by np.array(y).astype('int64')",
        ),
        (POINTS, torch.ones(3), None, TypeError, "y must hold integers, got torch.float32: convert it, by y.long()"),
        (
            POINTS,
            ["cat", "dog", "cat"],
            None,
            TypeError,
            "number the classes, by numpy.unique(y, return_inverse=True)[1]",
        ),
        (POINTS, [1, 2, 3], "abc", TypeError, "names must be one text per class, got the single text 'abc'"),
        (
            POINTS,
            [1, 2, 3],
            ["a", "b", "c"],
            ValueError,
            "y must lie in [0, 3), got labels from 1 to 3: classes are numbered from 0 on, take y - 1",
        ),
        (POINTS, [0, -1, 1], None, ValueError, "y must lie in [0, 2), got labels from -1 to 1"),
        (POINTS, [0, 5 * 10**7, 1], None, ValueError, "from 0 on, or names be given, got labels up to 50000000"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_by_name(
    x: Any, y: Any, names: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        Labelled.of(x, y, names)


def test_without_labels_there_is_one_class() -> None:
    data = Labelled.of(POINTS)
    assert (data.num_classes, data.class_names, data.y.tolist()) == (1, ("all",), [0, 0, 0])
    assert Labelled.of(POINTS, names=["point"]).class_names == ("point",)


def test_classes_without_rows_are_listed_and_said_once() -> None:
    data = Labelled.of(POINTS, [0, 3, 3], names=["a", "b", "c", "d", "e"])
    assert data.missing == (1, 2, 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            Batches(data, 2, 0)
    (said,) = caught
    assert "data has no rows of 3 of its 5 classes (1, 2, 4): they are never trained" in str(said.message)
    assert said.filename == __file__


class Pictures(Dataset[Any]):
    """Like the sets of torchvision: rows are read one by one, labels are in memory."""

    classes = ("cat", "dog", "fox")

    def __init__(self, row: Any = None, target_transform: Any = None) -> None:
        self.row, self.target_transform = row, target_transform
        self.targets = [0, 1, 2, 1, 0, 2]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        torch.rand(1)  # a random transform
        if self.row is not None:
            return self.row(index)
        return torch.full((1, 2, 2), float(index), dtype=torch.float64), self.targets[index]


def test_a_data_set_of_torchvisions_kind_is_read_row_by_row() -> None:
    before = torch.get_rng_state()
    data = admit(Pictures())
    assert torch.get_rng_state().equal(before)
    assert (data.shape, data.num_classes, data.labelled, len(data)) == ((1, 2, 2), 3, True, 6)
    assert data.y.tolist() == [0, 1, 2, 1, 0, 2]
    x, y = data[5]
    assert (x.dtype, x.shape, x[0, 0, 0].item(), y.item()) == (torch.float32, (1, 2, 2), 5.0, 2)
    for x, y in islice(Batches(Pictures(), 3, 0).stream(), 4):
        assert x.dtype == torch.float32
        assert y.tolist() == [Pictures().targets[int(i)] for i in x[:, 0, 0, 0]]
    assert admit(data) is data


def test_labels_that_a_transform_changes_are_not_taken_from_memory() -> None:
    assert admit(Pictures(target_transform=lambda y: 0)).y is None


@pytest.mark.parametrize("row", [lambda i: torch.tensor([float(i)]), lambda i: (np.array([float(i)]),)])
def test_rows_without_labels_are_of_one_class(row: Any) -> None:
    data = admit(Pictures(row))
    assert (data.labelled, data.num_classes) == (False, 1)
    x, y = next(Batches(data, 6, 0).stream())
    assert sorted(x.flatten().tolist()) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert y.tolist() == [0] * 6


def _late(index: int, late: Any) -> Any:
    """Row 4 is the bad one, which the door does not see."""
    return late if index == 4 else (torch.zeros(2), 1)


@pytest.mark.parametrize(
    ("late", "error", "message"),
    [
        ((torch.tensor([0.0, math.nan]), 1), ValueError, "x must be finite, but row 4 holds nan"),
        ((torch.zeros(3), 1), ValueError, "data must hold samples of one shape, row 0 has (2,), row 4 (3,)"),
        ((torch.zeros(2), 3), ValueError, "data must give labels in [0, 3), got 3 in row 4"),
        ((torch.zeros(2), -1), ValueError, "data must give labels in [0, 3), got -1 in row 4"),
        ((torch.zeros(2), torch.tensor([1])), ValueError, "row 4 has shape (1,): take label[0]"),
        ((torch.zeros(2), np.eye(3)[1]), ValueError, "row 4 has shape (3,): of a one-hot label take label.argmax()"),
        ((torch.zeros(2), 1.0), TypeError, "data must give integers as labels, row 4 has 1.0"),
        ((torch.zeros(2), None), TypeError, "data must give integers as labels, row 4 has None"),
        ((torch.zeros(2), 1, 2), TypeError, "data must give rows (x, y) or x, row 4 has 3 parts"),
        ({"image": 1, "label": 2}, TypeError, "row 4 is a dict of image, label: wrap the data set"),
        ((Image.new("L", (2, 2)), 1), TypeError, "PIL.Image.Image (turn pictures into arrays in its transform)"),
    ],
)
def test_a_bad_row_is_named_when_it_is_read(late: Any, error: type[Exception], message: str) -> None:
    batches = Batches(Pictures(lambda i: _late(i, late)), 6, 0)
    with pytest.raises(error, match=re.escape(message)):
        next(batches.stream())


def test_pictures_in_uint8_are_refused_at_the_door() -> None:
    with pytest.raises(TypeError, match=r"got torch\.uint8: pictures are scaled first"):
        admit(Pictures(lambda i: (torch.zeros(1, 2, 2, dtype=torch.uint8), 1)))


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield POINTS[0], 0


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (DataLoader(TensorDataset(POINTS), 2), TypeError, "got a DataLoader: give loader.dataset"),
        (Endless(), TypeError, "data must be map-style, with len(data) and data[i], got the IterableDataset Endless"),
        (None, TypeError, "with len(data) and data[i], got NoneType"),
        ({"x": POINTS}, TypeError, "with len(data) and data[i], got dict"),
        ("folder", TypeError, "with len(data) and data[i], got str"),
        (Path("folder"), TypeError, "with len(data) and data[i], got "),
        (Labelled, TypeError, "with len(data) and data[i], got type"),
        ([], ValueError, "data must have one row or more, the list has none"),
        (TensorDataset(POINTS, torch.ones(3, 1).long()), ValueError, "y must hold one label per sample"),
        ((POINTS, POINTS, POINTS), TypeError, "data must be (x, y) where it is a tuple of arrays, got 3 of them"),
        (TensorDataset(POINTS, POINTS, POINTS), TypeError, "where it is a tuple of arrays, got 3 of them"),
        (Labelled(NAN, torch.zeros(3).long(), 1, ("all",)), ValueError, "x must be finite, but row 2 holds nan"),
    ],
)
def test_other_data_is_refused_with_the_remedy(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        Batches(data, 1, 0)


@pytest.mark.parametrize("data", [POINTS, (POINTS,), (POINTS.numpy(), np.array([0, 1, 1])), TensorDataset(POINTS)])
def test_arrays_are_in_memory(data: Any) -> None:
    assert isinstance(Batches(data, 2, 0).data, Labelled)


def test_parts_of_a_data_set_keep_its_classes() -> None:
    whole = Labelled.of(torch.arange(12.0)[:, None], torch.arange(12) % 3, names=["a", "b", "c"])
    part, _ = random_split(whole, [9, 3], generator=torch.Generator().manual_seed(0))
    found = admit(part)
    assert (type(found), len(found), found.class_names) == (Labelled, 9, ("a", "b", "c"))
    assert (found.x[:, 0].long() % 3).equal(found.y)
    mapped = admit(Subset(Pictures(), [1, 3]))
    assert (type(mapped), len(mapped), mapped.num_classes, mapped.y.tolist()) == (Mapped, 2, 3, [1, 1])
    whole, texts = [(torch.ones(2), 0), (torch.ones(2), 1), (torch.zeros(2), 1)], set[str]()
    for rows in ([0, 1], [1, 0], [0, 2]):
        texts.add(str(identity(admit(Subset(whole, rows)))))
    texts.add(str(identity(admit(Subset(whole[:2] * 2, [0, 1])))))
    for outer in ([0, 1], [1, 0]):  # a part of a part
        texts.add(str(identity(admit(Subset(Subset(whole, [2, 0, 1]), outer)))))
    assert len(texts) == 6
    twice = admit(Subset(Subset(Pictures(), [3, 1, 0]), [2, 0]))
    assert twice.y.tolist() == twice.__getitems__([0, 1])[1].tolist() == [0, 1]
    assert admit(Subset(admit(Pictures()), [1, 3, 5])).__getitems__([0, 1, 2])[1].tolist() == [1, 1, 2]
    with pytest.raises(ValueError, match=r"\.set is an object \(Pictures\)"):
        identity(admit(Subset(Pictures(), [1, 3])))

    class Drawn(Pictures):
        def take(self, index: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
            raise AssertionError

    assert isinstance(admit(Drawn()), Drawn)
    with pytest.raises(TypeError, match="data must not be a Subset of Drawn, whose samples are drawn as they are read"):
        admit(Subset(Drawn(), [1]))


@given(normal_or(anything(), 3, 2), st.one_of(st.none(), st.just([0, 1, 1]), anything()), st.integers(1, 3))
@settings(max_examples=300)
def test_whatever_is_given_is_admitted_whole_or_refused_by_the_kit(x: Any, y: Any, size: int) -> None:
    data = outcome(lambda: Labelled.of(x, y), "x", "y")
    if data is REFUSED:
        return
    given_x = torch.as_tensor(np.asarray(x)) if not isinstance(x, Tensor) else x
    assert data.x.dtype == torch.float32
    assert data.x.isfinite().all()
    torch.testing.assert_close(data.x.double(), given_x.double(), rtol=1e-6, atol=0)
    assert data.y.tolist() == ([0] * len(data.x) if y is None else [int(label) for label in y])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batches = outcome(lambda: Batches(data, size, 0), "batch_size")
    if batches is not REFUSED:
        x, y = next(batches.stream())
        assert (len(x), len(y)) == (size, size)


@given(st.one_of(anything(), st.tuples(anything(), anything()), st.lists(anything(), max_size=3)))
@settings(max_examples=300)
def test_any_object_as_data_is_read_or_refused_by_the_kit(data: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batches = outcome(lambda: Batches(data, 1, 0), "data", "x", "y")
        if batches is not REFUSED:
            row = outcome(lambda: next(batches.stream()), "data", "x")
            assert row is REFUSED or (row[0].isfinite().all() and row[1].shape == (1,))


@given(st.lists(tensors(), min_size=1, max_size=4), st.integers(-1, 3))
@settings(max_examples=200)
def test_any_rows_are_read_or_refused_by_the_kit(rows: list[Tensor], label: int) -> None:
    pairs = [(x, label) for x in rows]
    batches = outcome(lambda: Batches(pairs, len(pairs), 0), "data", "x")
    if batches is not REFUSED:
        read = outcome(lambda: next(batches.stream()), "data", "x")
        assert read is REFUSED or read[0].shape == (len(rows), *rows[0].shape)


def test_negative_labels_are_named() -> None:
    """It was "num_classes must be an integer of at least 1, got 0"."""
    with pytest.raises(ValueError, match="y must number the classes from 0 on, got no label above -1"):
        Labelled.of(torch.zeros(4, 2), -torch.ones(4).long())
