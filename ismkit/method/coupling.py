"""Which noise goes with which data: independent, mini-batch OT, and scaling OT (sOT).

Scaling OT pools K batches, solves *one* exact assignment over the pool, and splits it back into K batches (iSM). The
cost is squared L2 and only the noise is permuted, so (x1, y) pairs stay whole: both are this kit's choice, as is
``class_aware``. With labels, plain OT makes the noise depend on the class, while at inference both are drawn
independently (arXiv 2503.10636); assignment within each class removes that leak.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from ismkit.method.path import Source, check_labels, draw_noise
from ismkit.utils.checks import check_count, check_tensor, shown
from ismkit.utils.seeding import stream
from ismkit.utils.settings import check_types

#: Assigns noise x0 (n, ...) to data x1 (n, ...) by a permutation p, (n,) long, so that ``x0[p]`` is coupled to ``x1``:
#: :func:`assign`, :class:`ismkit.method.auction.Auction`, yours.
Solver = Callable[[Tensor, Tensor], Tensor]

# Below this dimension POT's network simplex is the quicker exact solver, above it SciPy's (tests/bench/RESULTS.md).
LOW_DIMENSION = 6


def checked_pair(x0: Tensor, x1: Tensor) -> None:
    """Raise unless noise and data are tensors of one shape (n, ...), finite, and have products that are."""
    check_tensor("x0", x0)
    check_tensor("x1", x1, ("x0", x0))
    if x0.is_meta:
        raise ValueError("x0 and x1 must hold numbers, got tensors on the device meta, which have none")
    if x0.shape != x1.shape:
        raise ValueError(f"x0 and x1 must have one shape, got {tuple(x0.shape)} and {tuple(x1.shape)}")
    for name, x in (("x0", x0), ("x1", x1)):
        if not torch.isfinite(x).all():
            raise ValueError(f"{name} has {int((~torch.isfinite(x)).sum())} values that are not finite: not coupled")
    if x0.ndim < 2 or not x0.numel():
        raise ValueError(f"x0 and x1 must be (n, ...) with n >= 1, got {tuple(x0.shape)}")
    if x0.detach().abs().max().item() * x1.detach().abs().max().item() * x0[0].numel() > torch.finfo(torch.float32).max:
        raise ValueError("x0 and x1 are too large: their products, in float32, are not finite")


def checked_permutation(p: Tensor, n: int) -> Tensor:
    """Return ``p`` on the CPU, and raise ValueError unless it is a permutation of n rows: else noise would repeat."""
    if isinstance(p, Tensor) and p.dtype == torch.long and p.cpu().sort().values.equal(torch.arange(n)):
        return p.cpu()
    got = (
        f"{tuple(p.shape)} {p.dtype}, {len(p.unique())} of them distinct" if isinstance(p, Tensor) else type(p).__name__
    )
    raise ValueError(f"solver must return a permutation of {n} rows, a long tensor ({n},), got {got}")


def assign(x0: Tensor, x1: Tensor) -> Tensor:
    """Find the permutation ``p`` that minimises ``sum_i |x0[p[i]] - x1[i]|^2``: exact optimal assignment.

    What mini-batch OT (arXiv 2302.00482) does with a batch, and iSM's scaling OT with a pool. Solved by SciPy's
    ``linear_sum_assignment``, in few dimensions by the network simplex of POT.

    Args:
        x0: noise, (n, ...), any device.
        x1: data, (n, ...).

    Returns:
        ``p``, (n,) long on the CPU: ``x0[p]`` is coupled to ``x1``.

    Raises:
        TypeError: if one of them holds no floating point numbers.
        ValueError: if the shapes or devices differ, or anything is not finite.
        RuntimeError: if the solver of POT stops before it has a permutation.

    Example:
        On a line, the optimal assignment keeps the order:

        >>> import torch
        >>> from ismkit import assign
        >>> x0, x1 = torch.tensor([[3.0], [1.0], [2.0]]), torch.tensor([[10.0], [20.0], [30.0]])
        >>> p = assign(x0, x1)
        >>> p, x0[p].flatten()
        (tensor([1, 2, 0]), tensor([1., 2., 3.]))
    """
    checked_pair(x0, x1)
    noise, data = x0.detach().flatten(1).cpu().float(), x1.detach().flatten(1).cpu().float()
    # -x1.x0 differs from half the squared distance by terms of rows and columns alone: the same best permutation.
    # Reducing it by its row and column minima saves the solver most of its work (67 s -> 2.7 s at n = 4096).
    cost = -(data @ noise.T)
    cost -= cost.min(1, keepdim=True).values
    cost -= cost.min(0, keepdim=True).values
    if noise.shape[1] > LOW_DIMENSION:
        from scipy.optimize import linear_sum_assignment

        return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])
    import ot

    # With uniform weights the simplex ends in a vertex of the Birkhoff polytope: one entry per row, a permutation.
    plan = ot.emd([], [], cost.double().numpy(), numItermax=10_000_000)
    p = torch.from_numpy(plan.argmax(1))
    if len(p.unique()) != len(p):
        raise RuntimeError(f"the assignment of {len(p)} points did not converge to a permutation")
    return p


@dataclass(frozen=True)
class Coupling:
    """How noise is paired with data.

    One assignment over K batches is iSM's scaling OT, over one batch the mini-batch OT of arXiv 2302.00482. This kit's
    choices are that it is exact by default, and ``class_aware``: plain OT makes the noise depend on the class (arXiv
    2503.10636).

    Attributes:
        pool: K, the batches in one assignment: 0 independent noise, 1 mini-batch OT, 32 sOT as in the paper. Where a
            step has several micro-batches, each is one of a stream of its own, and K counts those of one stream.
        class_aware: assign within each class only, so that no class leaks into the noise. Without labels (all ``y``
            equal) the same as plain OT.
        classes: let each pool hold about so many classes, where there are many and few rows of each in a pool, see
            :class:`ismkit.data.batches.ClassGroups`; by default rows come in any order.
        solver: what assigns: a function (x0, x1) -> permutation, such as an :class:`~ismkit.method.auction.Auction` for
            large pools; by default the exact :func:`assign`.

    Raises:
        ValueError: if ``pool`` is negative, ``classes`` are given without a pool, or ``solver`` is not a function.

    Example:
        Class 0 lies near 0, class 1 near 10. Plain OT gives class 0 the lower half of the noise, so the noise tells the
        class. Within classes each keeps the noise that was drawn for it:

        >>> import torch
        >>> from ismkit import Coupling
        >>> y = torch.tensor([0, 1, 0, 1])
        >>> x0, x1 = torch.tensor([[4.0], [1.0], [3.0], [2.0]]), torch.tensor([[0.0], [10.0], [1.0], [11.0]])
        >>> Coupling(pool=1, class_aware=False).couple(x0, x1, y)[y == 0].flatten()
        tensor([1., 2.])
        >>> Coupling(pool=1, class_aware=True).couple(x0, x1, y)[y == 0].flatten()
        tensor([3., 4.])

        A stream of batches, here of one row, is coupled a pool at a time. One that is to resume at step 5 needs the
        batches from the beginning of its pool on:

        >>> batches = iter(zip(x1.split(1), y.split(1)))
        >>> [tuple(x0.shape) for x0, x1, y in Coupling(pool=2).pairs(batches, seed=0)]
        [(1, 1), (1, 1), (1, 1), (1, 1)]
        >>> Coupling(pool=2).first_batch(step=5)
        4
    """

    pool: int = 0
    class_aware: bool = True
    classes: int | None = None
    solver: Solver | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if self.pool < 0:
            raise ValueError(f"pool, the number of batches in one assignment, must be 0 or more, got {self.pool}")
        if self.classes is not None and (self.classes < 1 or not self.pool):
            raise ValueError(f"classes, those in each pool, must be 1 or more and need a pool, got {self.classes}")
        if self.solver is not None and (isinstance(self.solver, type) or not callable(self.solver)):
            raise ValueError(f"solver must be None or a function (x0, x1) -> permutation, got {shown(self.solver)}")

    def couple(self, x0: Tensor, x1: Tensor, y: Tensor) -> Tensor:
        """Permute the noise of one pool.

        Args:
            x0: noise, (n, ...).
            x1: data, (n, ...).
            y: labels, (n,) long.

        Returns:
            ``x0`` in another order (a bijection), so that row i is paired with ``x1[i], y[i]``.

        Raises:
            TypeError: if ``y`` holds no whole numbers, or one of the others no floating point numbers.
            ValueError: for shapes or devices that do not match, values that are not finite, or a ``solver`` that
                returns anything but a permutation.
        """
        check_tensor("x0", x0)
        check_tensor("x1", x1, ("x0", x0))
        if x0.shape != x1.shape:
            raise ValueError(f"x0 and x1 must have one shape, got {tuple(x0.shape)} and {tuple(x1.shape)}")
        check_labels(y, x1, "x1")
        if y.device != x1.device:
            raise ValueError(f"y must be on the device of x1, {x1.device}, got {y.device}")
        if not self.pool:
            return x0
        solve = self.solver or assign
        order = torch.empty(len(x1), dtype=torch.long)
        classes = y.unique() if self.class_aware else [None]
        for c in classes:
            rows = torch.arange(len(x1)) if c is None else (y == c).nonzero().flatten().cpu()
            order[rows] = rows[checked_permutation(solve(x0[rows], x1[rows]), len(rows))]
        return x0[order.to(x0.device)]

    def pairs(
        self,
        batches: Iterator[tuple[Tensor, Tensor]],
        seed: int,
        step: int = 0,
        micro_batch: int = 0,
        source: Source | None = None,
    ) -> Generator[tuple[Tensor, Tensor, Tensor]]:
        """Couple a stream of batches, one pool ahead of the consumer, in a thread (the solvers release the GIL).

        Pool p holds batches ``p K .. p K + K - 1``, and its noise depends on (seed, micro_batch, p) alone. So a stream
        that starts at any step equals the rest of one that started at 0.

        Args:
            batches: (x1, y) batches of one size, the first being batch ``step - step % K``, see :meth:`first_batch`.
            seed: seed of the noise.
            step: the first batch to hand out.
            micro_batch: which of several parallel streams this is.
            source: the distribution of the noise.

        Yields:
            (x0, x1, y) on the CPU, one batch at a time, without end as long as ``batches`` has none.
        """
        size = max(self.pool, 1)

        def next_pool(p: int) -> list[tuple[Tensor, Tensor, Tensor]]:
            if not (pool := list(islice(batches, size))):
                return []
            x1 = torch.cat([x for x, _ in pool])
            y = torch.cat([labels for _, labels in pool])
            x0 = self.couple(draw_noise(source, tuple(x1.shape), stream(seed, "noise", micro_batch, p)), x1, y)
            lengths = [len(labels) for _, labels in pool]
            return list(zip(x0.split(lengths), x1.split(lengths), y.split(lengths), strict=True))

        with ThreadPoolExecutor(1, thread_name_prefix="coupling", initializer=_on_this_device()) as thread:
            p = step // size
            ahead = thread.submit(next_pool, p)
            while pairs := ahead.result():
                ahead = thread.submit(next_pool, p + 1)
                yield from pairs[max(0, step - p * size) :]
                p += 1

    def first_batch(self, step: int) -> int:
        """Find where a stream of batches must start for :meth:`pairs` to resume at a step: the first batch of its pool.

        Args:
            step: the next step.

        Returns:
            The number of the batch, at most ``step``.

        Raises:
            ValueError: if ``step`` is no integer of at least 0.
        """
        step = check_count("step", step, 0)
        size = max(self.pool, 1)
        return step - step % size


def _on_this_device() -> Callable[[], None] | None:
    """What a new thread must do to use the CUDA device of this one: else each starts with the first."""
    if not torch.cuda.is_initialized():
        return None
    return partial(torch.cuda.set_device, torch.cuda.current_device())
