"""Rows that other papers ask for: groups that share their times, and steps from the noise to the data alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ismkit.method.rows import Blocked, Blocks, Intervals
from ismkit.utils.checks import check_count


@dataclass(frozen=True)
class Groups(Intervals):
    """Steps of any length between two times, the same for the rows of a group: what moments are compared within.

    Rows ``0 .. size - 1`` of a batch are the first group, and so on; data, noise and labels differ within it, as in
    inductive moment matching (arXiv 2503.07565), whose groups have 4 rows. All rows are consistency rows.

    Attributes:
        guidance: 0.
        consistency: 1.
        label_dropout: probability that a row has its label replaced by null.
        drop_consistency: whether labels are dropped at all, since all rows are consistency rows.
        strengths: the guidance strengths drawn, one for each group.
        grid: the dyadic grid that networks embed step sizes on.
        time_scale: by which networks multiply times before they embed them.
        logit: mean and standard deviation of the logit of the times; None for uniform ones.
        to_data, from_noise: shares of the groups whose steps end at the data, or begin at the noise.
        noisier: of no effect, since no row has ``d = 0``.
        size: rows in a group, M.

    Raises:
        ValueError: as :class:`ismkit.method.rows.Intervals`, for rows of another kind, or an empty group; by the call,
            if a batch is no multiple of the group.

    Example:
        >>> import torch
        >>> from ismkit.neighbours import Groups
        >>> x, y = torch.zeros(8, 2), torch.arange(8)
        >>> query, _ = Groups(size=4)(x, x, y, null=8, generator=torch.Generator().manual_seed(0))
        >>> query.t.unique().numel(), query.d[:4].unique().numel(), query.y.tolist()
        (2, 1, [0, 1, 2, 3, 4, 5, 6, 7])
        >>> Groups(size=4).blocks(6)
        Traceback (most recent call last):
            ...
        ValueError: a batch must be a multiple of the group's size, 4, got 6
    """

    consistency: float = 1.0
    size: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("size", self.size)
        if self.consistency != 1:
            raise ValueError(f"consistency must be 1, all rows are in groups, got {self.consistency}")

    def blocks(self, batch: int) -> Blocks:
        """Split a batch into its blocks: all of its rows are consistency rows.

        Args:
            batch: number of rows.

        Returns:
            Three slices that partition the rows.

        Raises:
            ValueError: if ``batch`` is no integer of at least 0, or no multiple of the size of a group.
        """
        if check_count("batch", batch, 0) % self.size:
            raise ValueError(f"a batch must be a multiple of the group's size, {self.size}, got {batch}")
        return super().blocks(batch)

    def _ends(self, start: Tensor, generator: torch.Generator) -> Tensor:
        """The ends of steps, (n,): uniform beyond their starts, as in the paper."""
        return start + (1 - start) * torch.rand(len(start), generator=generator, device=start.device)

    def draw(self, n: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`ismkit.method.rows.Blocked.draw`."""
        self.blocks(n)
        count = n // self.size
        t, d = self._steps(self._times(count, generator, device), generator)
        w = torch.zeros(count, device=device)
        self._strengths(w, slice(None), False, generator)
        drawn = t, d, w
        t, d, w = (value[:, None].expand(-1, self.size).reshape(-1) for value in drawn)
        return t, d, w


@dataclass(frozen=True)
class OneStep(Blocked):
    """One step from the noise to the data in every row: ``t = 0``, ``d = 1``.

    For methods that train nothing else: by distributions, or by a reward.

    Attributes:
        guidance: 0.
        consistency: 1: all rows are consistency rows.
        label_dropout: probability that a row has its label replaced by null.
        drop_consistency: whether labels are dropped at all.
        strengths: the guidance strengths drawn.
        grid: the dyadic grid that networks embed step sizes on.
        time_scale: by which networks multiply times before they embed them.

    Raises:
        ValueError: as :class:`ismkit.method.rows.Blocked`, or for rows of another kind.

    Example:
        >>> import torch
        >>> from ismkit.neighbours import OneStep
        >>> x0, x1, y = torch.zeros(4, 2), torch.ones(4, 2), torch.arange(4)
        >>> query, velocity = OneStep()(x0, x1, y, null=4, generator=None)
        >>> query.x.equal(x0), query.t.tolist(), query.d.tolist(), query.y.tolist()
        (True, [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0, 1, 2, 3])
    """

    consistency: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.consistency != 1:
            raise ValueError(f"consistency must be 1, all rows are steps to the data, got {self.consistency}")

    def draw(self, n: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`ismkit.method.rows.Blocked.draw`."""
        t, w = torch.zeros(2, n, device=device)
        self._strengths(w, slice(None), False, generator)
        return t, torch.ones(n, device=device), w
