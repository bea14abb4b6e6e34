"""From noise to samples in 1 to N steps: one sampler for every method, one network call per step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ismkit.method.path import Network, StepGrid, check_labels, grid_of
from ismkit.utils.checks import check_finite, shown


def _check(net: Network, x0: Tensor, y: Tensor) -> None:
    """Raise unless noise and labels fit each other and the network."""
    if not callable(net) or isinstance(net, type):
        raise TypeError(f"net must be a network, a function (x, t, d, w, y) -> s, got {shown(net)}")
    check_finite("x0", x0)
    check_labels(y, x0, "x0")
    if y.device != x0.device:
        raise ValueError(f"y must be on the device of x0, {x0.device}, got {y.device}")
    weights = next(net.parameters(), None) if isinstance(net, nn.Module) else None
    if weights is not None and weights.device != x0.device:
        raise ValueError(f"x0 must be on the device of net, {weights.device}, got {x0.device}")
    null = getattr(net, "num_classes", None)
    low, high = (int(y.min()), int(y.max())) if len(y) else (0, 0)
    if low < 0 or (isinstance(null, int) and high > null):
        labels = f"0 .. {null} ({null} leaves the class open)" if isinstance(null, int) else "0, 1, ..."
        raise ValueError(f"y must hold labels in {labels}, got labels from {low} to {high}")


def _strengths(w: Any, x0: Tensor) -> Tensor:
    """Guidance strengths as one number per row, (B,), in the type of ``x0``."""
    try:
        if isinstance(w, Tensor) and (w.is_complex() or w.layout != torch.strided or w.is_meta):
            raise TypeError(f"got {w.dtype}, {w.layout} on {w.device}")
        strength = torch.as_tensor(w, dtype=x0.dtype, device=x0.device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"w must be a number or hold one per row, got {shown(w)}") from error
    if strength.ndim and strength.shape != x0.shape[:1]:
        raise ValueError(f"w must be a number or hold one per row, {tuple(x0.shape[:1])}, got {tuple(strength.shape)}")
    if not (torch.isfinite(strength) & (strength >= 0)).all():
        raise ValueError(f"w, the guidance strength, must be finite and at least 0 (0 = unguided), got {shown(w)}")
    return strength.expand(len(x0))


def _grid(net: Network, grid: StepGrid | None) -> StepGrid:
    """The grid given, which must be the network's if that names one; else the network's, else N = 128."""
    if grid is not None and not isinstance(grid, StepGrid):
        raise TypeError(f"grid must be a StepGrid, got {shown(grid)}")
    own = grid_of(net)
    if own is not None and grid not in (None, own):
        raise ValueError(f"grid must be that of net, n = {own.n}, got {grid}")
    return own or grid or StepGrid()


def _states(
    net: Network, x0: Tensor, y: Tensor, w: float | Tensor, nfe: int, grid: StepGrid | None
) -> Iterator[Tensor]:
    """The sampler's states from noise to data, ``nfe + 1`` of them."""
    grid = _grid(net, grid)
    d = grid.check_nfe(nfe)
    _check(net, x0, y)
    strength = _strengths(w, x0)
    ask = grid.ask(torch.full(y.shape, d, dtype=x0.dtype, device=x0.device))
    x = x0
    yield x
    for k in range(nfe):
        x = x + d * net(x, torch.full_like(ask, k * d), ask, strength, y)
        yield x


@torch.no_grad()
def sample(
    net: Network, x0: Tensor, y: Tensor, *, w: float | Tensor = 0.0, nfe: int = 1, grid: StepGrid | None = None
) -> Tensor:
    """Draw samples in ``nfe`` Euler steps, ``x <- x + d * s(x, t, d, w, y)`` with ``d = 1 / nfe`` (SM, Alg. 2).

    Exactly one network call per step, guided or not.

    Args:
        net: a network in eval mode, usually ``state.ema.slow``.
        x0: noise, (B, ...); its device and dtype are used.
        y: labels, (B,) long, in ``0 .. num_classes`` of the network; the last leaves the class open.
        w: guidance strength >= 0, one number or (B,); ignored by networks trained without it.
        nfe: NFE, a power of two in 1 .. N; N steps ask for the instantaneous velocity.
        grid: the dyadic grid of training; by default the network's, or N = 128 where it has no attribute ``grid``.

    Returns:
        Samples shaped like ``x0``.

    Raises:
        TypeError: if ``x0``, ``y`` or ``w`` hold no numbers of their kind.
        ValueError: if ``nfe`` is no level of the grid, ``w`` or ``y`` do not fit, or noise, labels and network are not
            on one device.

    Example:
        A network that answers the velocity of ``dx/dt = x`` whatever the step size makes Euler steps, which need many
        evaluations to come near ``e = 2.7183``. One that answers the average velocity needs a single one:

        >>> import torch
        >>> from ismkit import sample
        >>> one, y = torch.ones(1, 1), torch.tensor([0])
        >>> [round(sample(lambda x, t, d, w, y: x, one, y, nfe=nfe).item(), 4) for nfe in (1, 2, 4, 128)]
        [2.0, 2.25, 2.4414, 2.7077]
        >>> def shortcut(x, t, d, w, y):
        ...     return x * torch.expm1(d)[:, None] / d[:, None]
        >>> [round(sample(shortcut, one, y, nfe=nfe).item(), 4) for nfe in (1, 2, 4)]
        [2.7183, 2.7183, 2.7183]
    """
    x = x0
    for state in _states(net, x0, y, w, nfe, grid):
        x = state
    return x


@torch.no_grad()
def trajectory(
    net: Network, x0: Tensor, y: Tensor, *, w: float | Tensor = 0.0, nfe: int = 128, grid: StepGrid | None = None
) -> Tensor:
    """Draw samples like :func:`sample` and keep every state on the way.

    Args:
        net: a network in eval mode, usually ``state.ema.slow``.
        x0: noise, (B, ...); its device and dtype are used.
        y: labels, (B,) long, in ``0 .. num_classes`` of the network; the last leaves the class open.
        w: guidance strength >= 0, one number or (B,).
        nfe: NFE, a power of two in 1 .. N.
        grid: the dyadic grid of training; by default the network's, or N = 128 where it has no attribute ``grid``.

    Returns:
        The states, (nfe + 1, B, ...): the first is ``x0``, the last what :func:`sample` returns.

    Raises:
        TypeError: if ``x0``, ``y`` or ``w`` hold no numbers of their kind.
        ValueError: if ``nfe`` is no level of the grid, ``w`` or ``y`` do not fit, or noise, labels and network are not
            on one device.

    Example:
        >>> import torch
        >>> from ismkit import trajectory
        >>> states = trajectory(lambda x, t, d, w, y: x, torch.ones(1, 1), torch.tensor([0]), nfe=2)
        >>> states.shape, states.flatten()
        (torch.Size([3, 1, 1]), tensor([1.0000, 1.5000, 2.2500]))
    """
    return torch.stack(list(_states(net, x0, y, w, nfe, grid)))
