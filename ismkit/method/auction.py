"""Assignment of large pools by a Jacobi auction: nearly optimal, always a permutation, on a CPU or a GPU.

Data rows bid for noise rows, whose prices rise until (nearly) every row has one (Bertsekas 1988, Annals of Operations
Research 14). Every row without a partner bids at once, so a round is a few large tensor operations, and a GPU is asked
for a number once in ``CHECK_EVERY`` rounds only.
"""

from __future__ import annotations

import math
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ismkit.method.coupling import assign, checked_pair
from ismkit.utils.settings import check_types

CHECK_EVERY = 8  # rounds between looks at how many rows are left: a look waits for the device


def auction(values: Tensor, epsilon: float, stop: float = 0.0) -> tuple[Tensor, Tensor]:
    """Assign rows to columns so that the sum of their values is within ``n * epsilon`` of the largest.

    The bound holds for ``stop = 0``; where a share of the rows is left over, these and the columns left over are
    assigned exactly among themselves, and :func:`duality_gap` bounds what is lost.

    Args:
        values: what column j is worth to row i, (n, n) float.
        epsilon: the least rise of a price, in the unit of ``values``: large is quick, small is exact.
        stop: end once this share of the rows is left over.

    Returns:
        The column of each row, (n,) long, a permutation; and the prices of the columns, (n,); both on the device of
        ``values``.

    Raises:
        ValueError: if ``values`` is not square and finite, ``stop`` not in [0, 1], or ``epsilon`` is too small for
            prices in this precision ever to rise.
    """
    if values.ndim != 2 or len(values) != len(values.T) or not values.is_floating_point():
        raise ValueError(f"values must be (n, n) floating point, got {tuple(values.shape)} {values.dtype}")
    if not 0 <= stop <= 1:
        raise ValueError(f"stop must be a share in [0, 1], got {stop}")
    largest = float(values.abs().max()) if values.numel() else 0.0
    if not math.isfinite(largest):
        raise ValueError("values must be finite, and some are not")
    # A price can pass the largest value, and grows by the spread of the values between two rounds.
    if not epsilon > (least := 16 * torch.finfo(values.dtype).eps * largest):
        raise ValueError(f"epsilon must exceed {least:.3g}, the resolution of values up to {largest:.3g}: {epsilon}")
    n, device = len(values), values.device
    prices = torch.zeros(n, dtype=values.dtype, device=device)
    owner = torch.full((n,), -1, device=device)  # the row that holds a column
    left, allowed = n, int(stop * n)
    while left > allowed:
        for _ in range(CHECK_EVERY):
            _round(values, prices, owner, epsilon, left)
        left = int((owner < 0).sum())  # never grows: a row that bids takes at most one partner away
    column = torch.full((n + 1,), -1, device=device)
    column[torch.where(owner < 0, n, owner)] = torch.arange(n, device=device)
    column = column[:n]
    if left:
        from scipy.optimize import linear_sum_assignment

        rows, free = (column < 0).nonzero().flatten(), (owner < 0).nonzero().flatten()
        rest = linear_sum_assignment(values[rows][:, free].double().cpu().numpy(), maximize=True)[1]
        column[rows] = free[torch.from_numpy(rest).to(device)]
    return column, prices


def _round(values: Tensor, prices: Tensor, owner: Tensor, epsilon: float, most: int) -> None:
    """One round in place: the rows without a column, at most ``most``, bid; every column goes to its best bid."""
    n = len(prices)
    has = torch.zeros(n + 1, dtype=torch.uint8, device=prices.device)
    has[torch.where(owner < 0, n, owner)] = 1
    # The shape is that of the last look, so that nothing waits: rows that have found a column fill it up and sit out.
    rows = has[:n].argsort(stable=True)[:most]
    worth = values[rows] - prices  # (most, n)
    best, wanted = worth.max(1)
    second = worth.scatter_(1, wanted[:, None], -math.inf).amax(1) if n > 1 else best
    bids = torch.where(has[rows] > 0, -math.inf, prices[wanted] + (best - second) + epsilon)
    highest = torch.full_like(prices, -math.inf).scatter_reduce_(0, wanted, bids, "amax")
    # Of equal bids the last row's: which one wins must not depend on the order of writing.
    bidder = torch.where((bids == highest[wanted]) & (bids > -math.inf), rows, -1)
    winner = torch.full_like(owner, -1).scatter_reduce_(0, wanted, bidder, "amax")
    owner.copy_(torch.where(winner < 0, owner, winner))
    prices.copy_(torch.where(winner < 0, prices, highest))


def duality_gap(values: Tensor, column: Tensor, prices: Tensor) -> float:
    """How much the sum of the values of an assignment can be below the largest possible, by weak duality.

    For any prices the largest sum is at most ``sum_j prices_j + sum_i max_j (values_ij - prices_j)``.

    Args:
        values: (n, n).
        column: the column of each row, (n,) long.
        prices: (n,).

    Returns:
        A number of at least 0 (but for rounding): 0 proves the assignment optimal.
    """
    rows = torch.arange(len(column), device=column.device)
    bound = prices.double().sum() + (values - prices).amax(1).double().sum()
    return float(bound - values[rows, column].double().sum())


def gains(x0: Tensor, x1: Tensor) -> Tensor:
    """What pairing data row i with noise row j is worth, (n, n) float32: their product, both centred.

    Centring changes every permutation's sum by the same amount, and keeps prices from having to make up for it.

    Args:
        x0: noise, (n, ...).
        x1: data, (n, ...), on the same device.
    """
    noise, data = (x.detach().flatten(1).float() for x in (x0, x1))
    return (data - data.mean(0)) @ (noise - noise.mean(0)).T


@dataclass(frozen=True)
class Auction:
    """A solver for :class:`~ismkit.method.coupling.Coupling`: :func:`auction` for many points, exact for few.

    Source: the Jacobi auction of Bertsekas (1988, Annals of Operations Research 14). Its use here is this kit's choice.

    Attributes:
        epsilon: the least rise of a price, as a fraction of the standard deviation of the values, 1e-4 or more.
        stop: the share of rows, in [0, 1], at which the auction ends; they are assigned exactly among themselves.
        exact: up to this many points the exact solver is used, which is faster there.
        device: where auctions run: ``cpu``, ``cuda`` (this process's) or ``cuda:N``. It counts for the key of a run:
            another device adds up in another order, and a last bit can decide which pairs are made.

    Raises:
        ValueError: for a value outside these ranges.

    Example:
        The pairs cost nearly as little as those of the exact assignment, and every noise is used once:

        >>> import torch
        >>> from ismkit import Auction, Coupling
        >>> rng = torch.Generator().manual_seed(0)
        >>> x0, x1 = torch.randn(2, 256, 8, generator=rng)
        >>> y = torch.zeros(256).long()
        >>> exact = Coupling(pool=1).couple(x0, x1, y)
        >>> auctioned = Coupling(pool=1, solver=Auction(exact=0)).couple(x0, x1, y)
        >>> len(auctioned.unique(dim=0))
        256
        >>> costs = [(noise - x1).square().sum().item() for noise in (exact, auctioned, x0)]
        >>> costs[0] <= costs[1] < 1.05 * costs[0] < costs[2] / 2
        True
    """

    epsilon: float = 0.1
    stop: float = 0.01
    exact: int = 512
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_types(self)
        if not 1e-4 <= self.epsilon < math.inf:
            raise ValueError(f"epsilon must be at least 1e-4 of the standard deviation, got {self.epsilon}")
        if not 0 <= self.stop <= 1:
            raise ValueError(f"stop must be a share in [0, 1], got {self.stop}")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"device must be cpu, cuda or cuda:N, got {self.device!r}")

    def __call__(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Find a permutation that couples noise to data, by an auction above ``exact`` points.

        Args:
            x0: noise, (n, ...).
            x1: data, (n, ...).

        Returns:
            ``p``, (n,) long on the CPU: ``x0[p]`` is coupled to ``x1``.

        Raises:
            TypeError: if one of them holds no floating point numbers.
            ValueError: if the shapes or devices differ, or anything is not finite.
        """
        checked_pair(x0, x1)
        if len(x1) <= max(self.exact, 1):
            return assign(x0, x1)
        with own_stream(self.device):
            values = gains(x0.to(self.device), x1.to(self.device))
            spread = float(values.std()) or 1.0  # all equal: any permutation will do
            return auction(values, self.epsilon * spread, self.stop)[0].cpu()


def own_stream(device: str) -> AbstractContextManager[object]:
    """On CUDA a stream of its own, so that an auction does not queue behind the training step; else nothing."""
    return torch.cuda.stream(torch.cuda.Stream(device)) if device.startswith("cuda") else nullcontext()
