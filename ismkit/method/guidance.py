"""How the guidance strength is drawn, and how guidance enters a target.

Two ways are built here. *Baked-in* guidance applies classifier-free guidance (CFG) at a fixed scale while targets
are made (SM); *intrinsic* guidance makes the strength ``w`` an input of the network and lets it enter the target of
the instantaneous velocity only (iSM). The CFG scale is ``1 + w`` throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ismkit.method.path import Network, expand_as


def cfg(conditional: Tensor, unconditional: Tensor, cfg_scale: float | Tensor) -> Tensor:
    """Classifier-free guidance: ``u + cfg_scale * (c - u)``; 1 is unguided (Ho and Salimans 2022)."""
    return unconditional + cfg_scale * (conditional - unconditional)


def in_interval(t: Tensor, t_interval: float) -> Tensor:
    """1 where guidance acts, ``t >= t_interval``, else 0: none on the high-noise side (iSM, interval guidance)."""
    return (t >= t_interval).to(t.dtype)


def intrinsic_velocity(velocity: Tensor, gap: Tensor, w: Tensor, t: Tensor, t_interval: float) -> Tensor:
    """Target of the guidance rows: ``v + w * 1[t >= t_interval] * gap`` (iSM, guidance loss).

    Args:
        velocity: ``x1 - x0``, (B, ...).
        gap: ``s(x_t, t, 0, 0, y) - s(x_t, t, 0, 0, null)``, (B, ...), no gradient.
        w: guidance strength >= 0, (B,).
        t: times in [0, 1], (B,).
        t_interval: guidance is off below this time.

    Returns:
        The target, (B, ...).
    """
    return velocity + expand_as(w * in_interval(t, t_interval), velocity) * gap


@dataclass(frozen=True)
class Strengths:
    """The guidance strengths a network is trained on: ``{0, step, 2 step, ..., w_max}``, uniform (iSM: 0.25, 3.5)."""

    w_max: float = 3.5
    step: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.step < math.inf:
            raise ValueError(f"step between guidance strengths must be positive and finite, got {self.step}")
        count = self.w_max / self.step
        if not 0 <= count < math.inf or abs(count - round(count)) > 1e-6:
            raise ValueError(f"w_max must be a multiple of step={self.step} and not negative, got {self.w_max}")

    @property
    def count(self) -> int:
        """How many strengths are above zero."""
        return round(self.w_max / self.step)

    def draw(self, n: int, generator: torch.Generator | None, device: torch.device, *, guided: bool) -> Tensor:
        """``n`` strengths, (n,): from all of them, or with ``guided`` from those above zero only."""
        low = int(guided)
        if low > self.count:
            raise ValueError(f"no guidance strength above zero to draw: w_max={self.w_max}")
        index = torch.randint(low, self.count + 1, (n,), generator=generator, device=device)
        return index * self.step


class TwoPassCFG(nn.Module):
    """Classic CFG at sampling for a network that knows no ``w``: two calls per step, ``cfg_scale = 1 + w``.

    Wraps a network trained with ``flow`` so that the sampler need not know: it always asks for the instantaneous
    velocity (``d = 0``), whatever step size the sampler takes. Costs two network evaluations per step.
    """

    def __init__(self, net: Network, null: int) -> None:
        super().__init__()
        self.net = net
        self.null = self.num_classes = null

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        """The guided velocity, (B, ...)."""
        zero = torch.zeros_like(d)
        conditional = self.net(x, t, zero, zero, y)
        unconditional = self.net(x, t, zero, zero, torch.full_like(y, self.null))
        return cfg(conditional, unconditional, expand_as(1 + w, x))
