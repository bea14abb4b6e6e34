"""From noise to samples in 1 to N steps: one sampler for every method, one network call per step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ismkit.method.path import Network, StepGrid


def _states(net: Network, x0: Tensor, y: Tensor, w: float | Tensor, nfe: int, grid: StepGrid) -> Iterator[Tensor]:
    """The sampler's states from noise to data, ``nfe + 1`` of them."""
    d = grid.check_nfe(nfe)
    if y.shape != x0.shape[:1]:
        raise ValueError(f"y must hold one label per row of x0, shape {tuple(x0.shape[:1])}, got {tuple(y.shape)}")
    strength = torch.as_tensor(w, dtype=x0.dtype, device=x0.device)
    if strength.ndim and strength.shape != y.shape:
        raise ValueError(f"w must be a number or hold one per row, {tuple(y.shape)}, got {tuple(strength.shape)}")
    if not (torch.isfinite(strength) & (strength >= 0)).all():
        raise ValueError(f"w, the guidance strength, must be finite and at least 0 (0 = unguided), got {w}")
    strength = strength.expand(len(y))
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
        y: labels, (B,) long.
        w: guidance strength >= 0, one number or (B,); ignored by networks trained without it.
        nfe: NFE, a power of two in 1 .. N; N steps ask for the instantaneous velocity.
        grid: the dyadic grid of training, N = 128 by default.

    Returns:
        Samples shaped like ``x0``.

    Raises:
        ValueError: if ``nfe`` is no level of the grid, or ``w`` or ``y`` do not fit.

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
    for state in _states(net, x0, y, w, nfe, grid or StepGrid()):
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
        y: labels, (B,) long.
        w: guidance strength >= 0, one number or (B,).
        nfe: NFE, a power of two in 1 .. N.
        grid: the dyadic grid of training, N = 128 by default.

    Returns:
        The states, (nfe + 1, B, ...): the first is ``x0``, the last what :func:`sample` returns.

    Raises:
        ValueError: if ``nfe`` is no level of the grid, or ``w`` or ``y`` do not fit.

    Example:
        >>> import torch
        >>> from ismkit import trajectory
        >>> states = trajectory(lambda x, t, d, w, y: x, torch.ones(1, 1), torch.tensor([0]), nfe=2)
        >>> states.shape, states.flatten()
        (torch.Size([3, 1, 1]), tensor([1.0000, 1.5000, 2.2500]))
    """
    return torch.stack(list(_states(net, x0, y, w, nfe, grid or StepGrid())))
