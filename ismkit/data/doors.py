"""The door of all data: what a training or a judge may be given, and what it then reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from ismkit.data.sets import Labelled
from ismkit.data.values import as_label, as_labels, as_samples, as_tensor

Admitted = Any  # Labelled | Mapped | StochasticDataset: of the last only its methods are known


@runtime_checkable
class StochasticDataset(Protocol):
    """A data set whose samples are drawn each time they are read, such as :class:`ismkit.imagenet.latents.Latents`.

    Example:
        Noisy copies of three points; every draw depends on the generator alone:

        >>> import torch
        >>> from ismkit import Batches
        >>> class Noisy:
        ...     num_classes = 1
        ...     def __len__(self):
        ...         return 3
        ...     def take(self, index, rng):
        ...         return index[:, None] + 0.1 * torch.randn(len(index), 1, generator=rng), 0 * index
        >>> x, y = next(Batches(Noisy(), batch_size=3, seed=0).stream())
        >>> x.round().flatten().sort().values
        tensor([0., 1., 2.])
        >>> Noisy().take(torch.tensor([2]), torch.Generator().manual_seed(0))[1]
        tensor([0])
    """

    def take(self, index: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Samples x (B, ...) and y (B,) of rows ``index`` (B,) int64, by draws from ``rng`` alone."""


@dataclass(frozen=True, eq=False)
class Mapped(Dataset[tuple[Tensor, Tensor]]):
    """A map-style data set of (x, y), or of x alone, whose rows are converted and checked as they are read.

    Attributes:
        data: gives row i as ``data[i]``.
        shape: of a sample, that of row 0.
        labelled: whether rows are (x, y); else all are of class 0.
        num_classes: how many classes there are, None where the data does not say.
        y: the labels of all rows, (n,) long, where the data has them in memory (``y``, or torchvision's ``targets``).

    Example:
        >>> import torch
        >>> from ismkit.data import Mapped, admit
        >>> squares = [(torch.tensor([float(i * i)]), i % 2) for i in range(4)]
        >>> data = admit(squares)
        >>> data.shape, data.num_classes, data.__getitems__([1, 3])
        ((1,), None, (tensor([[1.],
                [9.]]), tensor([1, 1])))
    """

    data: Any
    shape: tuple[int, ...]
    labelled: bool
    num_classes: int | None
    y: Tensor | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows by their numbers, as one batch: the call of PyTorch's loader.

        Args:
            indices: of the rows.

        Returns:
            x (B, ...) and y (B,) long.

        Raises:
            TypeError: for rows that hold no numbers.
            ValueError: for samples of another shape or not finite, and labels that are no class; the message names
                the row.
        """
        many = getattr(self.data, "__getitems__", None)
        rows = many(list(indices)) if many else [self.data[i] for i in indices]
        pairs = [_split(row, i) for row, i in zip(rows, indices, strict=True)]
        samples = [as_tensor(x, f"x of row {i}") for (x, _), i in zip(pairs, indices, strict=True)]
        for x, i in zip(samples, indices, strict=True):
            if x.shape != self.shape:
                raise ValueError(
                    f"data must hold samples of one shape, row 0 has {self.shape}, row {i} {tuple(x.shape)}"
                )
        labels = [as_label(y, i) if self.labelled else 0 for (_, y), i in zip(pairs, indices, strict=True)]
        for y, i in zip(labels, indices, strict=True):
            if y < 0 or y >= (self.num_classes or y + 1):
                classes = f"[0, {self.num_classes})" if self.num_classes else "0, 1, ..."
                raise ValueError(f"data must give labels in {classes}, got {y} in row {i}")
        return as_samples(torch.stack(samples), rows=indices), torch.tensor(labels)


def admit(data: Any) -> Admitted:
    """Admit data to training or judging: convert what can be converted, and refuse the rest by name.

    Args:
        data: one of

            * a :class:`~ismkit.data.sets.Labelled` set;
            * an array of samples, a tensor or NumPy's, or a tuple ``(x, y)`` of samples and labels: see
              :meth:`Labelled.of <ismkit.data.sets.Labelled.of>`; so is a ``TensorDataset``;
            * a :class:`StochasticDataset`;
            * any map-style data set, with ``len(data)`` and ``data[i]`` as ``(x, y)`` or ``x`` alone, such as those of
              torchvision. Row 0 is read here and the others when they are needed. How many classes it has is read from
              its ``num_classes``, ``classes`` or labels in memory.

    Returns:
        A set of the first kind where all rows are in memory, the same one if nothing had to be converted; else of the
        third, or a :class:`Mapped` one.

    Raises:
        TypeError: for anything else, such as a ``DataLoader``; the message says what to give instead.
        ValueError: for values, shapes or labels that cannot be trained on.

    Example:
        >>> import numpy as np
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from ismkit.data import admit
        >>> data = admit((np.zeros((3, 2)), np.array([0, 1, 1])))
        >>> type(data).__name__, data.num_classes
        ('Labelled', 2)
        >>> admit(data) is data
        True
        >>> admit(DataLoader(data, batch_size=2))
        Traceback (most recent call last):
        TypeError: data must be a data set, got a DataLoader: give loader.dataset, which is shuffled and batched here
    """
    if isinstance(data, Tensor | np.ndarray):  # both have a ``take`` of their own
        return Labelled.of(data)
    if isinstance(data, Labelled):
        x = as_samples(data.x)
        return data if x.dtype == data.x.dtype else replace(data, x=x)
    own_take = type(data).__module__.partition(".")[0] not in ("numpy", "pandas")  # whose ``take`` is another
    if isinstance(data, StochasticDataset | Mapped) and not isinstance(data, type) and own_take:
        return data
    arrays = data.tensors if isinstance(data, TensorDataset) else data
    if isinstance(arrays, tuple) and 1 <= len(arrays) <= 2 and all(isinstance(a, Tensor | np.ndarray) for a in arrays):
        return Labelled.of(*arrays)
    if isinstance(arrays, tuple) and all(isinstance(a, Tensor | np.ndarray) for a in arrays):
        raise TypeError(f"data must be (x, y) where it is a tuple of arrays, got {len(arrays)} of them")
    _refuse_by_name(data)
    if len(data) == 0:
        raise ValueError(f"data must have one row or more, the {type(data).__name__} has none")
    return _subset(data) if isinstance(data, Subset) else _mapped(data)


def _refuse_by_name(data: Any) -> None:
    if isinstance(data, DataLoader):
        raise TypeError(
            "data must be a data set, got a DataLoader: give loader.dataset, which is shuffled and batched here"
        )
    if isinstance(data, IterableDataset):
        raise TypeError(
            f"data must be map-style, with len(data) and data[i], got the IterableDataset {type(data).__name__}: any "
            "step must be able to resume"
        )
    mapped = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    if type(data).__module__.partition(".")[0] == "pandas":
        raise TypeError(f"data must hold numbers, got a {type(data).__name__} of pandas: give frame.to_numpy()")
    if not mapped or isinstance(data, Mapping | str | bytes | os.PathLike | type):
        raise TypeError(
            "data must be a Labelled set, an array, a tuple (x, y) of arrays or a data set with len(data) and data[i], "
            f"got {type(data).__name__}"
        )


class _Part(Subset[Any]):
    """Some rows, with what they are: those of a set that says what it is."""

    @property
    def identity(self) -> dict[str, Any]:
        return {"set": self.dataset, "rows": torch.as_tensor(self.indices)}


def _subset(data: Subset[Any]) -> Admitted:
    """Some rows of a data set, as :func:`torch.utils.data.random_split` makes them."""
    whole, rows = admit(data.dataset), torch.as_tensor(data.indices)
    if isinstance(whole, Labelled):
        return Labelled(whole.x[rows], whole.y[rows], whole.num_classes, whole.class_names)
    if not isinstance(whole, Mapped):
        raise TypeError(
            f"data must not be a Subset of {type(whole).__name__}, whose samples are drawn as they are read"
        )
    y = None if whole.y is None else whole.y[rows]
    return Mapped(_Part(whole.data, data.indices), whole.shape, whole.labelled, whole.num_classes, y)


def _mapped(data: Any) -> Mapped:
    with torch.random.fork_rng(devices=[]):  # a random transform must not move the global stream
        x, y = _split(data[0], 0)
    sample = as_samples(as_tensor(x, "x of row 0")[None], rows=[0])
    if y is None:
        return Mapped(data, tuple(sample.shape[1:]), False, 1)
    as_label(y, 0)
    labels = _labels(data)
    return Mapped(data, tuple(sample.shape[1:]), True, _classes(data, labels), labels)


def _split(row: Any, number: int) -> tuple[Any, Any]:
    """Sample and label of one row; None for the label if there is none."""
    if isinstance(row, tuple | list):
        if len(row) == 2:
            return row[0], row[1]
        if len(row) != 1:
            raise TypeError(f"data must give rows (x, y) or x, row {number} has {len(row)} parts")
        return row[0], None
    if isinstance(row, Mapping):
        raise TypeError(
            f"data must give rows (x, y) or x, row {number} is a dict of {', '.join(map(str, row))}: wrap the data set "
            "in one whose data[i] is a tuple"
        )
    return row, None


def _labels(data: Any) -> Tensor | None:
    """The labels of all rows, where they are in memory and are those that rows are read with."""
    if getattr(data, "target_transform", None) is not None:
        return None
    for name in ("y", "targets"):
        if (found := getattr(data, name, None)) is not None and not callable(found):
            return as_labels(found, len(data), f"data.{name}")
    return None


def _classes(data: Any, labels: Tensor | None) -> int | None:
    """How many classes a data set says that it has."""
    count = getattr(data, "num_classes", None)
    if count is None and isinstance(names := getattr(data, "classes", None), Sequence):
        count = len(names)
    if count is None:
        return None if labels is None else int(labels.max()) + 1
    if not isinstance(count, int | np.integer) or count < 1:
        raise ValueError(f"data.num_classes must be an integer of at least 1, got {count!r}")
    if labels is not None and not 0 <= int(labels.min()) <= int(labels.max()) < count:
        raise ValueError(
            f"data must give labels in [0, {count}), got labels from {int(labels.min())} to {int(labels.max())}"
        )
    return int(count)
