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

from ismkit.method.path import Network, StepLengths, check_network, expand_as
from ismkit.utils.checks import check_count, check_number, check_tensor, shown
from ismkit.utils.settings import check_types


def cfg(conditional: Tensor, unconditional: Tensor, cfg_scale: float | Tensor) -> Tensor:
    """Apply classifier-free guidance: ``u + cfg_scale * (c - u)`` (Ho and Salimans, arXiv 2207.12598).

    Their own parameter is ``w = cfg_scale - 1``, as everywhere in this kit.

    Args:
        conditional: the answer for the label, ``c``, (B, ...).
        unconditional: the answer for the null label, ``u``, (B, ...).
        cfg_scale: one number, or a tensor that broadcasts: 0 gives ``u``, 1 is unguided, above 1 is guided.

    Returns:
        The guided answer, (B, ...).

    Raises:
        TypeError: if an answer is no tensor of floating point numbers.
        ValueError: if the shapes or devices do not match, or the scale is no number.

    Example:
        >>> import torch
        >>> from ismkit import cfg
        >>> conditional, unconditional = torch.tensor([3.0]), torch.tensor([1.0])
        >>> [cfg(conditional, unconditional, scale).item() for scale in (0, 1, 1.5, 4.5)]
        [1.0, 3.0, 4.0, 10.0]
    """
    check_tensor("conditional", conditional)
    check_tensor("unconditional", unconditional, ("conditional", conditional))
    if conditional.shape != unconditional.shape:
        shapes = f"{tuple(conditional.shape)} and {tuple(unconditional.shape)}"
        raise ValueError(f"conditional and unconditional must have one shape, got {shapes}")
    if isinstance(cfg_scale, Tensor):
        check_tensor("cfg_scale", cfg_scale, ("conditional", conditional))
        check_broadcast("cfg_scale", cfg_scale, conditional)
    else:
        check_number("cfg_scale", cfg_scale, "that is finite", -math.inf)
    return unconditional + cfg_scale * (conditional - unconditional)


def check_broadcast(name: str, values: Tensor, x: Tensor) -> None:
    """Raise ValueError unless ``values`` can multiply ``x`` without changing its shape."""
    sides = list(zip(reversed(values.shape), reversed(x.shape), strict=False))
    if values.ndim > x.ndim or any(mine not in (1, its) for mine, its in sides):
        raise ValueError(f"{name} must broadcast to the shape {tuple(x.shape)}, got {tuple(values.shape)}")


def in_interval(t: Tensor, t_interval: float) -> Tensor:
    """Compute where guidance acts: 1 for ``t >= t_interval``, else 0, the high-noise side (iSM, interval guidance)."""
    return (t >= t_interval).to(t.dtype)


def intrinsic_velocity(velocity: Tensor, gap: Tensor, w: Tensor, t: Tensor, t_interval: float) -> Tensor:
    """Compute the target of the guidance rows: ``v + w * 1[t >= t_interval] * gap`` (iSM, guidance loss).

    Args:
        velocity: ``x1 - x0``, (B, ...).
        gap: ``s(x_t, t, 0, 0, y) - s(x_t, t, 0, 0, null)``, (B, ...), without gradient.
        w: guidance strength >= 0, (B,).
        t: times in [0, 1], (B,).
        t_interval: guidance is off below this time (iSM: 0.3).

    Returns:
        The target, (B, ...).

    Raises:
        TypeError: if one of them holds no floating point numbers.
        ValueError: if the shapes or devices do not match, or ``t_interval`` is no number.

    Example:
        The same gap with strength 2, before the interval and in it:

        >>> import torch
        >>> from ismkit import intrinsic_velocity
        >>> velocity, gap, w = torch.ones(2, 1), torch.full((2, 1), 0.5), torch.tensor([2.0, 2.0])
        >>> intrinsic_velocity(velocity, gap, w, t=torch.tensor([0.1, 0.6]), t_interval=0.3).flatten()
        tensor([1., 2.])
    """
    check_tensor("velocity", velocity)
    for name, values in (("gap", gap), ("w", w), ("t", t)):
        check_tensor(name, values, ("velocity", velocity))
    check_number("t_interval", t_interval, "that is finite", -math.inf)
    if gap.shape != velocity.shape:
        raise ValueError(f"gap must have the shape of velocity, {tuple(velocity.shape)}, got {tuple(gap.shape)}")
    for name, values in (("w", w), ("t", t)):
        if values.shape != velocity.shape[:1]:
            expected = tuple(velocity.shape[:1])
            raise ValueError(f"{name} must hold one number per row, shape {expected}, got {tuple(values.shape)}")
    if velocity.ndim < 1:
        raise ValueError(f"velocity must be (B, ...), got {tuple(velocity.shape)}")
    return velocity + expand_as(w * in_interval(t, t_interval), velocity) * gap


@dataclass(frozen=True)
class Strengths:
    """The guidance strengths that a network is trained on: ``{0, step, 2 step, ..., w_max}``, each equally likely.

    The default is the paper's set (iSM: up to 3.5, 0.25 apart).

    Attributes:
        w_max: the largest strength, a multiple of ``step``; 0 for methods without guidance as an input.
        step: between neighbouring strengths.

    Raises:
        ValueError: if ``step`` is not positive and finite, or ``w_max`` is negative or no multiple of it.

    Example:
        >>> import torch
        >>> from ismkit import Strengths
        >>> Strengths().count
        14
        >>> rng = torch.Generator().manual_seed(0)
        >>> w = Strengths(w_max=1.0).draw(1000, rng, torch.device("cpu"), guided=True)
        >>> w.unique()
        tensor([0.2500, 0.5000, 0.7500, 1.0000])
    """

    w_max: float = 3.5
    step: float = 0.25

    def __post_init__(self) -> None:
        check_types(self)
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
        """Draw strengths.

        Args:
            n: how many.
            generator: on ``device``.
            device: of the result.
            guided: from those above zero only; else from all of them.

        Returns:
            Strengths, (n,) float.

        Raises:
            TypeError: if ``guided`` is no truth value, or ``generator`` none.
            ValueError: if ``n`` is no count, or ``guided`` and there are none above zero.
        """
        check_count("n", n, 0)
        if not isinstance(guided, bool):
            raise TypeError(f"guided must be True or False, got {shown(guided)}")
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator or None, got {shown(generator)}")
        low = int(guided)
        if low > self.count:
            raise ValueError(f"no guidance strength above zero to draw: w_max={self.w_max}")
        index = torch.randint(low, self.count + 1, (n,), generator=generator, device=device)
        return index * self.step


class TwoPassCFG(nn.Module):
    """Classic CFG at sampling, for a network that does not know ``w``: two calls per step, ``cfg_scale = 1 + w``.

    It wraps a network trained with the recipe ``flow``, so that the sampler treats it like any other. It always asks
    for the instantaneous velocity (``d = 0``), whatever step size the sampler takes: so any number of steps will do.
    Source: arXiv 2207.12598.

    Args:
        net: the network, asked twice per step; each sampler step then costs two network evaluations.
        null: the null label, ``num_classes``.

    Raises:
        TypeError: if ``net`` is not a function.
        ValueError: if ``null`` is no integer of at least 0.

    Example:
        >>> import torch
        >>> from ismkit import TwoPassCFG
        >>> def net(x, t, d, w, y):  # answers 3 for label 0 and 1 for label 1, here the null label
        ...     return torch.where(y == 0, 3.0, 1.0)[:, None].expand_as(x)
        >>> guided = TwoPassCFG(net, null=1)
        >>> w, zero = torch.tensor([0.0, 0.5, 2.0]), torch.zeros(3)
        >>> guided(torch.zeros(3, 1), zero, zero, w, zero.long()).flatten()
        tensor([3., 4., 7.])
    """

    step_lengths: StepLengths = "any"
    calls = 2  # of the network inside, for each of its own

    def __init__(self, net: Network, null: int) -> None:
        super().__init__()
        check_network("net", net)
        self.net = net
        self.null = self.num_classes = check_count("null", null, 0)

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        """Compute the guided velocity.

        Args:
            x: states, (B, ...).
            t: times in [0, 1], (B,).
            d: step sizes, (B,); not used.
            w: guidance strengths, (B,).
            y: labels, (B,) long.

        Returns:
            The velocity, shaped like ``x``.
        """
        zero = torch.zeros_like(d)
        conditional = self.net(x, t, zero, zero, y)
        unconditional = self.net(x, t, zero, zero, torch.full_like(y, self.null))
        return cfg(conditional, unconditional, expand_as(1 + w, x))
