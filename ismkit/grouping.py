"""Pools of a few classes each, for assignment within classes where there are many of them.

A pool of 8192 of ImageNet's 1000 classes holds 8 rows of each, and among 8 there is little to choose. Here an epoch is
cut into pieces of one class, the pieces are put in random order, and every pool takes the next rows of that order. The
rows of a pool are then shuffled over its batches, and each shard has pools of its own: a step of S shards sees about S
times as many classes as one pool.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ismkit.seeding import stream


@dataclass(frozen=True)
class ClassGroups:
    """How the pools of a stream are grouped by class.

    Attributes:
        pool: K, the batches in one pool: that of the coupling, ``Coupling.pool``.
        classes: how many classes a pool holds, about. Pieces of a class are equal, and as near to ``K M / classes``
            rows as that allows: a class with fewer rows is one piece, and a pool that begins or ends within a piece
            holds one class more.
    """

    pool: int
    classes: int

    def __post_init__(self) -> None:
        for name in ("pool", "classes"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")

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
