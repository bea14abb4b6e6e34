"""What a batch asks: how its rows are split, and which times, step sizes and guidance strengths they get."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ismkit.method.guidance import Strengths
from ismkit.method.path import Query, StepGrid, StepLengths, check_labels, interpolate
from ismkit.utils.checks import check_count, check_number, check_tensor, shown
from ismkit.utils.settings import check_types


class Blocks(NamedTuple):
    """The rows of a batch by their purpose: three slices that partition it."""

    velocity: slice
    guidance: slice
    consistency: slice


@dataclass(frozen=True)
class Blocked(ABC):
    """What all rows have in common: blocks, dropped labels, strengths. How long the steps are is up to a subclass.

    Attributes:
        guidance: fraction of guidance rows; they keep their label.
        consistency: fraction of consistency rows; the velocity rows are the rest.
        label_dropout: probability that a velocity row (and, with ``drop_consistency``, a consistency row) has its label
            replaced by null.
        drop_consistency: train the null label at ``d > 0`` too: needed where a target asks for it there.
        strengths: the guidance strengths drawn; ``Strengths(0)`` for methods without ``w``.
        grid: the dyadic grid that networks embed step sizes on.
        time_scale: by which networks multiply times before they embed them.

    Raises:
        ValueError: for fractions outside [0, 1] or above 1 together, guidance rows without strengths above 0, or a
            scale that is not positive.

    Example:
        Both kinds of rows are divided in the same way:

        >>> from ismkit import Rows
        >>> from ismkit.method import Blocked, Intervals
        >>> for rows in (Rows(consistency=0.5), Intervals(consistency=0.5)):
        ...     print(isinstance(rows, Blocked), rows.blocks(8).consistency)
        True slice(4, 8, None)
        True slice(4, 8, None)
    """

    guidance: float = 0.0
    consistency: float = 0.0
    label_dropout: float = 0.1
    drop_consistency: bool = False
    strengths: Strengths = field(default_factory=lambda: Strengths(0.0))
    grid: StepGrid = field(default_factory=StepGrid)
    time_scale: float = 1000.0

    def __post_init__(self) -> None:
        check_types(self)
        check_number("time_scale", self.time_scale, "above 0", 1e-300)
        for name in ("guidance", "consistency", "label_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a fraction in [0, 1], got {getattr(self, name)}")
        if self.guidance + self.consistency > 1:
            raise ValueError(f"guidance + consistency must not exceed 1, got {self.guidance} + {self.consistency}")
        if self.guidance and not self.strengths.count:
            raise ValueError(f"guidance={self.guidance} needs strengths above 0, got w_max={self.strengths.w_max}")

    @property
    def step_lengths(self) -> StepLengths:
        """Which steps a network learns from these rows; ``fit`` writes it on the network, for the sampler to read."""
        return "dyadic"

    def blocks(self, batch: int) -> Blocks:
        """Split a batch into its blocks.

        Args:
            batch: number of rows.

        Returns:
            Three slices that partition the rows.

        Raises:
            ValueError: if ``batch`` is no integer of at least 0, or a block with a fraction above zero gets no row.
        """
        batch = check_count("batch", batch, 0)
        # A fraction such as 1/49 is rounded down in binary: without the allowance 49 rows would hold none of it.
        guidance, consistency = (int(fraction * batch + 1e-9) for fraction in (self.guidance, self.consistency))
        for name, rows in (("guidance", guidance), ("consistency", consistency)):
            if getattr(self, name) and not rows:
                raise ValueError(
                    f"a batch of {batch} gives no {name} row at fraction {getattr(self, name)}: "
                    f"use a batch of at least {math.ceil(1 / getattr(self, name) - 1e-9)}"
                )
        velocity = batch - guidance - consistency
        return Blocks(slice(0, velocity), slice(velocity, batch - consistency), slice(batch - consistency, batch))

    def __call__(
        self, x0: Tensor, x1: Tensor, y: Tensor, null: int, generator: torch.Generator
    ) -> tuple[Query, Tensor]:
        """Draw what every row is asked.

        Args:
            x0: coupled noise, (B, ...).
            x1: data, (B, ...).
            y: labels, (B,) long.
            null: the null label, ``num_classes``.
            generator: on the device of ``x1``.

        Returns:
            The query, and the velocity ``x1 - x0`` (B, ...).

        Raises:
            TypeError: if noise or data hold other numbers than those of PyTorch's default type, which is float32, or
                labels no whole ones.
            ValueError: for shapes or devices that do not match, or a batch too small for its blocks.
        """
        check_tensor("x1", x1)
        check_labels(y, x1, "x1")
        if y.device != x1.device:
            raise ValueError(f"y must be on the device of x1, {x1.device}, got {y.device}")
        if y.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"y must hold int64, got {y.dtype}: use y.long()")
        check_count("null", null, 0)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator, got {shown(generator)}")
        rows = self.blocks(len(x1))
        t, d, w = self.draw(len(x1), generator, x1.device)
        dropped = torch.rand(len(y), generator=generator, device=x1.device) < self.label_dropout
        dropped[rows.guidance] = False
        dropped[rows.consistency] &= self.drop_consistency
        y = torch.where(dropped, null, y)
        # No guidance exists where the label is null: both fields are equal there, so those rows say w = 0.
        w = torch.where(dropped, 0.0, w)

        x_t, velocity = interpolate(x0, x1, t)
        return Query(x_t, t, d, w, y), velocity

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Draw times, step sizes and strengths: what rows of your own replace.

        Args:
            n: number of rows; :meth:`blocks` says which block each is in.
            generator: on ``device``; nothing else may be random, or a resumed run would not be the same.
            device: of what is drawn.

        Returns:
            ``t`` in [0, 1], ``d`` in [0, 1 - t], which is 0 outside of the consistency rows, and ``w`` >= 0: (n,) each.

        Example:
            Velocity and guidance rows nearer to the noise; the others stay, since their times lie on a grid:

            >>> from dataclasses import dataclass
            >>> import torch
            >>> from ismkit import Rows
            >>> @dataclass(frozen=True)
            ... class Early(Rows):
            ...     def draw(self, n, generator, device):
            ...         t, d, w = super().draw(n, generator, device)
            ...         return torch.where(d > 0, t, t**3), d, w
            >>> rng = torch.Generator().manual_seed(0)
            >>> t, d, w = Early(consistency=1 / 4).draw(1000, rng, torch.device("cpu"))
            >>> round((t[d == 0] < 1 / 8).float().mean().item(), 1)
            0.5
        """

    def _strengths(self, w: Tensor, rows: slice, guided: bool, generator: torch.Generator) -> None:
        """Draw the strengths of some rows into ``w``."""
        if count := len(w[rows]):
            w[rows] = self.strengths.draw(count, generator, w.device, guided=guided)


@dataclass(frozen=True)
class Rows(Blocked):
    """How a batch is split into rows, and what each row is asked: steps of the dyadic grid.

    The three blocks are iSM's velocity, guidance and consistency losses; their fractions are this kit's choice, since
    the paper does not give them. Labels are dropped as in arXiv 2207.12598.

    Attributes:
        guidance: fraction of guidance rows; they keep their label.
        consistency: fraction of consistency rows; the velocity rows are the rest.
        label_dropout: probability that a velocity row (and, with ``drop_consistency``, a consistency row) has its label
            replaced by null.
        drop_consistency: train the null label at ``d > 0`` too: needed where a target asks for it there.
        strengths: the guidance strengths drawn; ``Strengths(0)`` for methods without ``w``.
        grid: the dyadic grid of step sizes and times.
        time_scale: by which networks multiply times before they embed them.
        level_ratio: how often a step size is drawn among the consistency rows, relative to its half; 1 for all equally
            often (in SM's code d = 1 comes twice as often as each other), above 1 for more of the large steps.
        time_power: velocity and guidance rows draw ``t = u^time_power`` with u uniform: 1 is uniform (SM), above 1
            means more rows near the noise.

    Raises:
        ValueError: for fractions outside [0, 1] or above 1 together, a ratio or power that is not positive, or guidance
            rows without strengths above 0.

    Example:
        iSM's rows for a batch of 8: ``w`` and ``d`` say which block a row is in.

        >>> import torch
        >>> from ismkit import Rows, Strengths
        >>> rows = Rows(guidance=1 / 4, consistency=1 / 4, strengths=Strengths(3.5))
        >>> rows.blocks(8)
        Blocks(velocity=slice(0, 4, None), guidance=slice(4, 6, None), consistency=slice(6, 8, None))
        >>> x0, x1, y = torch.zeros(8, 2), torch.ones(8, 2), torch.zeros(8).long()
        >>> query, velocity = rows(x0, x1, y, null=1, generator=torch.Generator().manual_seed(0))
        >>> (query.d > 0).tolist()
        [False, False, False, False, False, False, True, True]
        >>> (query.w > 0).tolist()[:6]
        [False, False, False, False, True, True]
    """

    level_ratio: float = 1.0
    time_power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("level_ratio", "time_power"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")

    def draw(self, n: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Blocked.draw`."""
        rows = self.blocks(n)
        d, w = torch.zeros(2, n, device=device)
        if count := len(d[rows.consistency]):
            d[rows.consistency] = self.grid.step_size(self._levels(count, generator, device))
        self._strengths(w, rows.consistency, False, generator)
        self._strengths(w, rows.guidance, True, generator)
        return self.grid.random_times(d, generator, self.time_power), d, w

    def _levels(self, n: int, generator: torch.Generator, device: torch.device) -> Tensor:
        """Levels 1 .. ``grid.levels`` of n consistency rows."""
        levels = self.grid.levels
        if self.level_ratio == 1:
            # Every level in turn from a random one on: each gets its share of every batch, up to one row.
            first = torch.randint(levels, (1,), generator=generator, device=device)
            return 1 + (first + torch.arange(n, device=device)) % levels
        # Stratified: the n rows are spread evenly over the cumulated shares.
        shares = self.level_ratio ** torch.arange(levels, dtype=torch.float64, device=device)
        u = (
            torch.rand(1, generator=generator, device=device, dtype=torch.float64) + torch.arange(n, device=device)
        ) / n
        return 1 + torch.searchsorted((shares.cumsum(0) / shares.sum())[:-1].contiguous(), u, right=True)


@dataclass(frozen=True)
class Intervals(Blocked):
    """Rows whose steps have any length: from one time to another, or to the data.

    Attributes:
        guidance: fraction of guidance rows; they keep their label.
        consistency: fraction of consistency rows; the velocity rows are the rest.
        label_dropout: probability that a velocity row (and, with ``drop_consistency``, a consistency row) has its label
            replaced by null.
        drop_consistency: train the null label at ``d > 0`` too: needed where a target asks for it there.
        strengths: the guidance strengths drawn; ``Strengths(0)`` for methods without ``w``.
        grid: the dyadic grid that networks embed step sizes on.
        time_scale: by which networks multiply times before they embed them; smaller than for dyadic rows, since methods
            with a derivative in time break where it is long.
        logit: mean and standard deviation of the logit of the times, as in MeanFlow's code (arXiv 2505.13447: 0.4, 1,
            which in its direction of time is -0.4); None for uniform times. A normal logit is hardly ever at the ends:
            then ``t = 0``, where one step starts, is not trained.
        to_data: share of the consistency rows that end at the data, ``d = 1 - t``: 1 for consistency models (arXiv
            2406.14548).
        from_noise: share of them that begin at the noise, ``t = 0``; with ``to_data`` 1 at most.
        noisier: velocity and guidance rows are at the earlier of two times drawn, as in MeanFlow's code, which draws
            two for every row and sets ``d = 0`` in some afterwards.

    Raises:
        ValueError: as :class:`Blocked`, for a deviation that is not positive, or shares that are none.

    Example:
        Half of the rows ask for a step between two times:

        >>> import torch
        >>> from ismkit.method import Intervals
        >>> rows = Intervals(consistency=1 / 2, label_dropout=0.0)
        >>> x0, x1, y = torch.zeros(8, 2), torch.ones(8, 2), torch.zeros(8).long()
        >>> query, velocity = rows(x0, x1, y, null=1, generator=torch.Generator().manual_seed(0))
        >>> (query.d > 0).tolist()
        [False, False, False, False, True, True, True, True]
        >>> bool((query.t + query.d <= 1).all())
        True
    """

    time_scale: float = 10.0
    logit: tuple[float, float] | None = None
    to_data: float = 0.0
    from_noise: float = 0.0
    noisier: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.logit is not None and not (math.isfinite(self.logit[0]) and 0 < self.logit[1] < math.inf):
            raise ValueError(f"logit must be a finite mean and a positive deviation, or None, got {self.logit}")
        for name in ("to_data", "from_noise"):
            check_number(name, getattr(self, name), "in [0, 1]", 0, 1)
        if self.to_data + self.from_noise > 1:
            raise ValueError(f"to_data + from_noise must not exceed 1, got {self.to_data} + {self.from_noise}")

    @property
    def step_lengths(self) -> StepLengths:
        """See :attr:`Blocked.step_lengths`; those that all touch noise or data leave jumps to the data alone."""
        if not self.consistency:
            return "dyadic"
        return "to data" if self.to_data + self.from_noise == 1 else "any"

    def draw(self, n: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Blocked.draw`."""
        rows = self.blocks(n)
        t, d, w = self._times(n, generator, device), *torch.zeros(2, n, device=device)
        self._strengths(w, rows.consistency, False, generator)
        self._strengths(w, rows.guidance, True, generator)
        t[rows.consistency], d[rows.consistency] = self._steps(t[rows.consistency], generator)
        if self.noisier:
            still = slice(0, rows.consistency.start)
            t[still] = torch.minimum(t[still], self._times(still.stop, generator, device))
        return t, d, w

    def _steps(self, drawn: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Start and length of steps between times drawn, (n,), and others; or to the data, or from the noise."""
        count, start, end = len(drawn), drawn.clone(), torch.ones_like(drawn)
        to_data, touching = (round(share * count) for share in (self.to_data, self.to_data + self.from_noise))
        for name, rows in (("to_data", to_data), ("from_noise", touching - to_data)):
            if count and getattr(self, name) and not rows:
                raise ValueError(f"{count} consistency rows give none at {name}={getattr(self, name)}: use more")
        start[to_data:touching] = 0.0
        end[to_data:] = self._ends(start[to_data:], generator)
        return torch.minimum(start, end), (end - start).abs()

    def _ends(self, start: Tensor, generator: torch.Generator) -> Tensor:
        """The other times of steps, (n,): of the same law as those drawn."""
        return self._times(len(start), generator, start.device)

    def _times(self, n: int, generator: torch.Generator, device: torch.device) -> Tensor:
        """Times of n rows, (n,)."""
        if self.logit is None:
            return torch.rand(n, generator=generator, device=device)
        mean, std = self.logit
        return torch.sigmoid(mean + std * torch.randn(n, generator=generator, device=device))
