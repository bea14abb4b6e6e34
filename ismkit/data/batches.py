"""The endless, resumable, distributed stream of batches that training reads.

:class:`Batches` is a pure function of (seed, step). :class:`ClassGroups` orders an epoch so that each pool of the
coupling holds few classes, for assignment within classes where there are many: a pool of 8192 of ImageNet's 1000
classes holds 8 rows of each, and among 8 there is little to choose. An epoch is cut into pieces of one class, the
pieces are put in random order, and every pool takes the next rows of that order. The rows of a pool are then shuffled
over its batches, and each micro-batch has pools of its own: a step of S micro-batches sees about S times as many
classes as one pool.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ismkit.data.doors import StochasticDataset, admit
from ismkit.data.sets import Labelled
from ismkit.data.values import missing_classes, warn_of_missing
from ismkit.utils.checks import as_integer, check_count, shown
from ismkit.utils.seeding import stream

READ_SECONDS = 600  # that a batch may take in the processes that read


class Batches:
    """Endless shuffled batches in an order that is a pure function of the seed, so that any step can resume.

    Every epoch is one permutation of the data, drawn from (seed, epoch). Step k takes the next ``micro_batches *
    batch_size`` samples of the endless row of permutations and micro-batch j its j-th part. So a stream from step k
    equals one from 0 after k batches, and without ``groups`` the micro-batches of a step make up the batch of a single
    stream with ``batch_size * micro_batches``. A batch may span two epochs: no sample is skipped or repeated in one.

    Args:
        data: what :func:`~ismkit.data.doors.admit` admits: arrays and :class:`~ismkit.data.sets.Labelled` sets, indexed
            directly; a :class:`~ismkit.data.doors.StochasticDataset`, whose draws are a function of (seed, micro_batch,
            step); or any map-style data set of (x, y) or x. Random transforms inside the last kind are not replayed.
        batch_size: samples in a batch, 1 .. n.
        seed: of the order.
        num_workers: processes that read a map-style dataset; 0 reads in this one. Each is a new interpreter with a copy
            of the dataset (a process that is forked after torch has computed may hang), so a script that asks for them
            begins its work under ``if __name__ == "__main__"``.
        groups: order each epoch so that the pools of the coupling hold few classes; by default not.

    Attributes:
        data: as admitted.
        num_classes: of the data; None where it does not say.

    Raises:
        TypeError: for data of another kind, such as a ``DataLoader``.
        ValueError: for values that cannot be trained on, sizes out of range, or groups for data without classes.
        UserWarning: a warning, for classes without rows.

    Example:
        Two epochs of ten samples in batches of four, then the same from step 3 on:

        >>> from itertools import islice
        >>> import torch
        >>> from ismkit import Batches, Labelled
        >>> x = torch.arange(10.0)[:, None]
        >>> batches = Batches(Labelled(x, torch.zeros(10).long(), 1, ("all",)), batch_size=4, seed=0)
        >>> drawn = torch.stack([x.flatten() for x, y in islice(batches.stream(), 5)])
        >>> [sorted(epoch) == x.flatten().tolist() for epoch in drawn.view(2, 10).tolist()]
        [True, True]
        >>> x, y = next(batches.stream(step=3))
        >>> x.flatten().equal(drawn[3])
        True
    """

    def __init__(
        self, data: Any, batch_size: int, seed: int, *, num_workers: int = 0, groups: ClassGroups | None = None
    ) -> None:
        self.batch_size = check_count("batch_size", batch_size)
        self.num_workers = check_count("num_workers", num_workers, 0)
        self.seed = as_integer(seed)
        if groups is not None and not isinstance(groups, ClassGroups):
            raise TypeError(f"groups must be ClassGroups or None, got {shown(groups)}")
        self.data = admit(data)
        self.size = len(self.data)
        self.num_classes: int | None = getattr(self.data, "num_classes", None)
        labels = getattr(self.data, "y", None)
        if groups is not None and not isinstance(labels, Tensor):
            raise ValueError(f"groups need data with the classes of all rows as y (n,), {type(data).__name__} has none")
        if self.num_classes and isinstance(labels, Tensor):
            missing = missing_classes(labels, self.num_classes)
            warn_of_missing(
                missing, self.num_classes, "they are never trained, and what is drawn of them means nothing"
            )
        self.groups = groups
        self._check_fits(micro_batches=1)

    @property
    def settings(self) -> dict[str, Any]:
        """What the batches depend on, for the checkpoints of a run, see :func:`ismkit.utils.keys.identity`.

        A :class:`~ismkit.data.sets.Labelled` set is identified by its bytes, :class:`~ismkit.imagenet.latents.Latents`
        by the checksum of their manifest, a data set of another class by its attribute ``identity``.
        """
        settings = {"set": self.data, "batch_size": self.batch_size, "seed": self.seed}
        return settings | ({"groups": self.groups} if self.groups else {})

    def stream(
        self, step: int = 0, micro_batch: int = 0, micro_batches: int = 1, *, classes: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Read the batches of one micro-batch from a step on, without end.

        Args:
            step: the first step, 0 or more.
            micro_batch: which part of each step, in [0, micro_batches).
            micro_batches: parts of a step.
            classes: of the network: the bound of labels where the data does not say how many classes it has.

        Returns:
            An iterator of ``x`` (batch_size, ...) and ``y`` (batch_size,).

        Raises:
            ValueError: for a step or micro-batch out of range, or if a step would hold a sample twice.
        """
        step = check_count("step", step, 0)
        micro_batches = check_count("micro_batches", micro_batches)
        micro_batch = check_count("micro_batch", micro_batch, 0)
        if classes is not None:
            check_count("classes", classes)
        if not 0 <= micro_batch < micro_batches:
            raise ValueError(f"micro_batch must lie in [0, micro_batches = {micro_batches}), got {micro_batch}")
        self._check_fits(micro_batches)
        indices = self._indices(step, micro_batch, micro_batches)
        if isinstance(data := self.data, StochasticDataset):
            return (
                data.take(chosen, stream(self.seed, "posterior", micro_batch, k))
                for k, chosen in enumerate(indices, step)
            )
        if isinstance(data, Labelled):
            return map(data.__getitem__, indices)
        rows = replace(data, num_classes=data.num_classes or classes)
        return iter(
            DataLoader(
                _Portable(rows) if self.num_workers else rows,
                batch_sampler=(chosen.tolist() for chosen in indices),
                collate_fn=_as_read,
                num_workers=self.num_workers,
                multiprocessing_context="spawn" if self.num_workers else None,
                timeout=READ_SECONDS if self.num_workers else 0,
                generator=stream(self.seed, "workers"),  # else each iterator draws from the global generator
            )
        )

    def _indices(self, step: int, micro_batch: int, micro_batches: int) -> Iterator[Tensor]:
        # Without groups a pool is one batch, in the order of the epochs.
        K = self.groups.pool if self.groups else 1
        rows, held = K * self.batch_size, {}  # type: ignore[var-annotated]

        def order(epoch: int) -> Tensor:
            if epoch not in held:
                held.clear()
                held[epoch] = (
                    self.groups.order(self.data.y, rows, self.seed, epoch)
                    if self.groups
                    else torch.randperm(self.size, generator=stream(self.seed, "epoch", epoch))
                )
            return held[epoch]

        for k in count(step // K):
            place = k * micro_batches + micro_batch  # of this pool among those of all micro-batches
            parts, position = [], place * rows
            while position < (place + 1) * rows:
                epoch, offset = divmod(position, self.size)
                parts.append(order(epoch)[offset : offset + (place + 1) * rows - position])
                position += len(parts[-1])
            chosen = torch.cat(parts)
            if self.groups:
                chosen = chosen[torch.randperm(rows, generator=stream(self.seed, "pool", place))]
            yield from chosen.split(self.batch_size)[max(0, step - k * K) :]

    def _check_fits(self, micro_batches: int) -> None:
        if self.batch_size * micro_batches > self.size:
            raise ValueError(
                f"batch_size {self.batch_size} x micro_batches {micro_batches} exceeds the {self.size} samples: a "
                "step would hold a sample twice"
            )
        if self.groups and (rows := self.groups.pool * self.batch_size * micro_batches) > self.size:
            raise ValueError(
                f"groups.pool {self.groups.pool} x batch_size {self.batch_size} x micro_batches {micro_batches} = "
                f"{rows} exceeds the {self.size} samples: a pool would hold a sample twice"
            )


class _Portable(Dataset[Any]):
    """Pickled, it becomes its dataset, by cloudpickle: whose class may be a notebook's, whose transforms lambdas."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        from cloudpickle import dumps

        return pickle.loads, (dumps(self.data),)


def _as_read(batch: Any) -> tuple[Tensor, Tensor]:
    return batch  # Mapped has stacked it already


@dataclass(frozen=True)
class ClassGroups:
    """How the pools of a stream are grouped by class, so that assignment within classes has enough to choose from.

    This kit's choice, for sets of many classes such as ImageNet.

    Attributes:
        pool: K, the batches in one pool: that of the coupling, ``Coupling.pool``.
        classes: how many classes a pool holds, about. Pieces of a class are equal, and as near to ``K M / classes``
            rows as that allows: a class with fewer rows is one piece, and a pool that begins or ends within a piece
            holds one class more.

    Raises:
        ValueError: if one of them is no integer of at least 1.

    Example:
        100 classes of 64 rows, pools of 4 batches of 64. Without groups a pool holds nearly all classes:

        >>> import torch
        >>> from ismkit import Batches, ClassGroups, Labelled
        >>> y = torch.arange(6400) % 100
        >>> data = Labelled(torch.zeros(6400, 1), y, 100, tuple(map(str, range(100))))
        >>> for groups in (None, ClassGroups(pool=4, classes=4)):
        ...     stream = Batches(data, 64, seed=0, groups=groups).stream()
        ...     labels = torch.cat([next(stream)[1] for batch in range(4)])
        ...     print(len(labels.unique()))
        94
        4

        One epoch has every row once:

        >>> order = ClassGroups(pool=4, classes=4).order(y, rows=256, seed=0, epoch=0)
        >>> order.sort().values.equal(torch.arange(6400))
        True
    """

    pool: int
    classes: int

    def __post_init__(self) -> None:
        for name in ("pool", "classes"):
            object.__setattr__(self, name, check_count(name, getattr(self, name)))

    def order(self, y: Tensor, rows: int, seed: int, epoch: int) -> Tensor:
        """The order of one epoch: a permutation in which pieces of one class stand together.

        Args:
            y: the class of every row, (n,) long, from 0 on.
            rows: in one pool, K M.
            seed: of the data's order.
            epoch: from 0 on.

        Returns:
            Indices, (n,) long: a function of the arguments alone.
        """
        rng = stream(seed, "groups", epoch)
        order = torch.randperm(len(y), generator=rng)
        order = order[y[order].argsort(stable=True)]  # by class, shuffled within each
        sizes = y.bincount()
        # Equal pieces of a class, so that none is a small rest.
        pieces = (sizes * self.classes / rows).round().long().clamp(min=1)
        first = pieces.cumsum(0) - pieces  # number of a class's first piece
        c = y[order]
        place = torch.arange(len(y)) - (sizes.cumsum(0) - sizes)[c]  # within the class
        piece = first[c] + place * pieces[c] // sizes[c]
        turn = torch.randperm(int(pieces.sum()), generator=rng)  # of each piece
        return order[turn[piece].argsort(stable=True)]
