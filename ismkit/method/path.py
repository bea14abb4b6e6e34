"""The straight path between noise and data, the network's query, and the dyadic grid of step sizes.

Conventions of the whole kit: ``t = 0`` is noise, ``t = 1`` is data; ``x_t = (1 - t) x0 + t x1`` and the velocity
along that path is ``v = x1 - x0``. A shortcut network answers ``s(x, t, d, w, y)``, the *average* velocity over
``[t, t + d]``, so that ``x_{t+d} = x_t + d * s``; ``d = 0`` asks for the instantaneous velocity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from ismkit.utils.checks import as_integer, check_count, check_number, check_tensor, shown


class Network(Protocol):
    """The one call signature of the kit: ``net(x, t, d, w, y) -> s`` with ``s`` shaped like ``x``.

    The arguments are those of a :class:`Query`. Any function with this signature is a network, trained or not.

    Example:
        The exact velocity towards one point, 2, needs no training. One step lands there from any noise:

        >>> import torch
        >>> from ismkit import sample
        >>> def to_two(x, t, d, w, y):
        ...     return (2 - x) / (1 - t)[:, None]
        >>> sample(to_two, torch.tensor([[-1.0], [0.5]]), torch.tensor([0, 0]), nfe=1)
        tensor([[2.],
                [2.]])
    """

    def __call__(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor, /) -> Tensor:
        """Average velocity over [t, t + d]."""
        ...


class Query(NamedTuple):
    """What a network is asked, one row per sample; unpacked as ``net(*query)``.

    Attributes:
        x: states, (B, ...).
        t: times, (B,) float, ``0 <= t <= t + d <= 1``: 0 is noise, 1 is data.
        d: step sizes, (B,) float; 0 asks for the instantaneous velocity.
        w: guidance strengths, (B,) float, ``w >= 0``: 0 is unguided, the CFG scale is ``1 + w``.
        y: labels, (B,) long, in ``0 .. num_classes``; the last one is null.

    Example:
        >>> import torch
        >>> from ismkit import Query
        >>> query = Query(torch.randn(4, 2), *torch.zeros(3, 4), torch.tensor([0, 1, 2, 3]))
        >>> part = query.take(slice(1, 3))
        >>> tuple(part.x.shape), part.y
        ((2, 2), tensor([1, 2]))
    """

    x: Tensor
    t: Tensor
    d: Tensor
    w: Tensor
    y: Tensor

    def take(self, rows: slice) -> Query:
        """Take some of the rows.

        Args:
            rows: which, such as a block of :meth:`ismkit.method.rows.Blocked.blocks`.

        Returns:
            The same query for these rows.

        Raises:
            TypeError: if ``rows`` is no slice.
        """
        if not isinstance(rows, slice):
            raise TypeError(f"rows must be a slice, got {shown(rows)}")
        return Query(*(column[rows] for column in self))


class Source(Protocol):
    """Where paths begin, the distribution of the noise: a function ``(shape, generator) -> x0``.

    A recipe names its own, ``None`` for N(0, I); what samples its networks must draw from the same.

    Example:
        Points on a circle. A function of a module has an identity, so that runs from other sources are other runs:

        >>> import math
        >>> import torch
        >>> from dataclasses import replace
        >>> from ismkit import RECIPES
        >>> def circle(shape, generator):
        ...     angle = 2 * math.pi * torch.rand(shape[0], generator=generator, device=generator.device)
        ...     return torch.stack([angle.cos(), angle.sin()], 1)
        >>> recipe = replace(RECIPES["flow"], name="from a circle", source=circle)
        >>> x0 = recipe.source((4, 2), torch.Generator().manual_seed(0))
        >>> [round(radius, 4) for radius in x0.norm(dim=1).tolist()]
        [1.0, 1.0, 1.0, 1.0]
    """

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator, /) -> Tensor:
        """Noise of a shape (B, ...) on the device of the generator, each row drawn by itself."""
        ...


def draw_noise(source: Source | None, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw noise, the only way in the kit: what a source returns is checked here.

    Args:
        source: of the recipe; None is N(0, I).
        shape: (B, ...).
        generator: on the device of the result.

    Returns:
        Noise of that shape.

    Raises:
        TypeError: if ``source`` is not a function, or returns anything but floating point numbers, or ``generator`` is
            none.
        ValueError: if it returns another shape, or ``shape`` is none.

    Example:
        >>> import torch
        >>> from ismkit.method import draw_noise
        >>> x0 = draw_noise(None, (1000, 2), torch.Generator().manual_seed(0))
        >>> round(x0.mean().item(), 1) + 0.0, round(x0.std().item(), 1)
        (0.0, 1.0)
        >>> draw_noise(lambda shape, generator: torch.zeros(3), (2, 3), torch.Generator())
        Traceback (most recent call last):
        ValueError: source must return noise of shape (2, 3), got (3,)
    """
    check_source(source)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {shown(generator)}")
    if not isinstance(shape, tuple):
        raise ValueError(f"shape must be a tuple of counts, got {shown(shape)}")
    shape = tuple(check_count("each part of shape", count, 0) for count in shape)
    if source is None:
        return torch.randn(shape, generator=generator, device=generator.device)
    x0 = source(shape, generator)
    check_tensor("the noise of source", x0)
    if x0.shape != shape:
        raise ValueError(f"source must return noise of shape {shape}, got {tuple(x0.shape)}")
    return x0


def check_network(name: str, net: Any) -> None:
    """Raise TypeError unless ``net`` can be asked as a network."""
    if not callable(net) or isinstance(net, type):
        raise TypeError(f"{name} must be a network, a function (x, t, d, w, y) -> s, got {shown(net)}")


def check_source(source: Source | None) -> None:
    """Raise TypeError unless ``source`` is a function or None."""
    if source is not None and (not callable(source) or isinstance(source, type)):
        raise TypeError(f"source must be a function (shape, generator) -> noise, or None, got {shown(source)}")


def check_labels(y: Tensor, x: Tensor, of: str) -> None:
    """Raise unless ``y`` is a tensor with one whole number per row of ``x``, which the message calls ``of``."""
    if not isinstance(y, Tensor):
        raise TypeError(f"y must be a tensor of labels, got {shown(y)}: use torch.tensor(labels)")
    if y.layout != torch.strided:
        raise TypeError(f"y must be a dense tensor, got {y.layout}")
    if x.ndim < 1:
        raise ValueError(f"{of} must be (B, ...), got {tuple(x.shape)}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"y must hold one label per row of {of}, shape {tuple(x.shape[:1])}, got {tuple(y.shape)}")
    if y.dtype.is_floating_point or y.dtype.is_complex or y.dtype == torch.bool:
        raise TypeError(f"y must hold whole numbers, got {y.dtype}: use y.long()")


def expand_as(values: Tensor, x: Tensor) -> Tensor:
    """Shape ``values`` (B,) as (B, 1, ..., 1) so that it multiplies ``x`` (B, ...) row by row."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def interpolate(x0: Tensor, x1: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the point on the straight path from noise to data, and its velocity (flow matching; SM Eq. 1).

    Args:
        x0: noise, (B, ...).
        x1: data, (B, ...), shaped like ``x0``.
        t: times in [0, 1], (B,).

    Returns:
        ``x_t = (1 - t) x0 + t x1`` and ``v = x1 - x0``, both (B, ...).

    Raises:
        TypeError: if one of them holds no floating point numbers, or they are of two types.
        ValueError: if the shapes or devices do not match.

    Example:
        The velocity is constant along the path, so following it for the time that is left ends at the data:

        >>> import torch
        >>> from ismkit import interpolate
        >>> x0, x1, t = torch.tensor([[0.0], [4.0]]), torch.tensor([[2.0], [0.0]]), torch.tensor([0.25, 0.75])
        >>> x_t, v = interpolate(x0, x1, t)
        >>> x_t.flatten(), v.flatten()
        (tensor([0.5000, 1.0000]), tensor([ 2., -4.]))
        >>> (x_t + (1 - t)[:, None] * v).equal(x1)
        True
    """
    check_tensor("x1", x1)
    for name, values in (("x0", x0), ("t", t)):
        check_tensor(name, values, ("x1", x1))
    if x0.shape != x1.shape or x1.ndim < 1:
        raise ValueError(f"x0 and x1 must have one shape (B, ...), got {tuple(x0.shape)} and {tuple(x1.shape)}")
    if not x0.dtype == x1.dtype == t.dtype:
        raise TypeError(f"x0, x1 and t must be of one floating point type, got {x0.dtype}, {x1.dtype} and {t.dtype}")
    if t.shape != x1.shape[:1]:
        raise ValueError(f"t must hold one time per row, shape {tuple(x1.shape[:1])}, got {tuple(t.shape)}")
    return torch.lerp(x0, x1, expand_as(t, x1)), x1 - x0


@dataclass(frozen=True)
class StepGrid:
    """Dyadic times and step sizes: ``n`` finest steps, ``n`` a power of two (SM, section 3).

    Step sizes ``2/n, 4/n, ..., 1`` are each learnt from two half steps. Half of the smallest is ``1/n``, and the finest
    level *is* the flow-matching level: the network is asked for it as ``d = 0``. So every half step that is ever
    queried is itself trained.

    Attributes:
        n: number of finest steps from noise to data, 2 or more.

    Raises:
        ValueError: if ``n`` is no power of two or below 2.

    Example:
        >>> import torch
        >>> from ismkit import StepGrid
        >>> grid = StepGrid(8)
        >>> grid.levels, grid.step_size(torch.tensor([1, 2, 3]))
        (3, tensor([0.2500, 0.5000, 1.0000]))

        Half of ``d = 1/2`` is asked as 1/4, but half of 1/4, the finest step of 1/8, is asked as 0:

        >>> length, ask = grid.half(torch.tensor([0.5, 0.25]))
        >>> length, ask
        (tensor([0.2500, 0.1250]), tensor([0.2500, 0.0000]))
        >>> grid.ask(length).equal(ask)
        True

        Steps of 1/4 start at multiples of 1/4, and a sampler makes 1, 2, 4 or 8 of a level:

        >>> grid.random_times(torch.full((4,), 0.25), torch.Generator().manual_seed(0)) * 4 % 1
        tensor([0., 0., 0., 0.])
        >>> grid.check_nfe(4)
        0.25
    """

    n: int = 128

    def __post_init__(self) -> None:
        if type(self.n) is not int or self.n < 2 or self.n & (self.n - 1):
            raise ValueError(
                f"n, the number of finest steps, must be a power of two and at least 2, got {shown(self.n)}"
            )

    @property
    def levels(self) -> int:
        """How often the step size is doubled from the finest level to one step: log2(n)."""
        return self.n.bit_length() - 1

    def step_size(self, level: Tensor) -> Tensor:
        """Compute the step size ``2^level / n`` after ``level`` doublings.

        Args:
            level: 1 .. ``levels``, a tensor of any shape.

        Returns:
            Step sizes of that shape, in the default dtype.

        Raises:
            TypeError: if ``level`` is no tensor of numbers.
        """
        if not isinstance(level, Tensor) or level.layout != torch.strided or level.is_complex():
            raise TypeError(f"level must be a tensor of whole numbers, got {shown(level)}")
        return torch.exp2(level.to(torch.get_default_dtype())) / self.n

    def half(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Halve step sizes ``d > 0``: the length of a half step, and the ``d`` under which the network is asked for it.

        The two differ at the finest level only, where a step of length ``1/n`` is asked as ``d = 0``.

        Args:
            d: step sizes above 0, (B,).

        Returns:
            Lengths and what to ask, both (B,).

        Raises:
            TypeError: if ``d`` holds no floating point numbers.
        """
        check_tensor("d", d)
        length = d / 2
        return length, self.ask(length)

    def ask(self, length: Tensor) -> Tensor:
        """Compute the ``d`` under which a network is asked for a step of this length: 0 up to the finest level ``1/n``.

        Args:
            length: of steps, (B,).

        Returns:
            ``d`` of each, (B,).
        """
        return torch.where(length * self.n > 1.001, length, torch.zeros_like(length))  # 1/n may have been rounded

    def random_times(self, d: Tensor, generator: torch.Generator | None = None, power: float = 1.0) -> Tensor:
        """Draw a start time for each ``d``, uniformly from that level's own grid {0, d, 2d, ..., 1 - d}.

        ``d = 0`` draws from the finest grid, {0, 1/n, ..., 1 - 1/n} (SM code).

        Args:
            d: step sizes, (B,).
            generator: on the device of ``d``.
            power: at ``d = 0``, times are ``u^power``, u uniform, rounded down to the grid: above 1 means more of them
                near the noise (this kit's choice; SM: 1).

        Returns:
            Times, (B,).

        Raises:
            TypeError: if ``d`` holds no floating point numbers, or ``generator`` is none.
            ValueError: if ``power`` is not positive and finite.
        """
        check_tensor("d", d)
        check_number("power", power, "above 0", 1e-300)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator or None, got {shown(generator)}")
        length = d.clamp(min=1 / self.n)
        u = torch.rand(d.shape, generator=generator, device=d.device, dtype=d.dtype)
        # The clamp changes no grid point, but keeps a root from rounding up to 1.
        u = torch.where(d == 0, (u**power).clamp(max=1 - 0.5 / self.n), u)
        return torch.floor(u / length) * length

    def check_nfe(self, nfe: int) -> float:
        """Compute the step size ``1 / nfe`` of a sampler, if a level of the grid has it.

        Args:
            nfe: network evaluations per sample.

        Returns:
            The step size.

        Raises:
            ValueError: unless ``nfe`` is a power of two in 1 .. ``n``.
        """
        allowed = [2**k for k in range(self.levels + 1)]
        try:
            known = as_integer(nfe, "nfe") in allowed
        except ValueError:
            known = False
        if not known:
            raise ValueError(f"nfe must be one of {allowed} (the levels of this grid), got {shown(nfe)}")
        return 1 / nfe


#: Which steps a network was trained on: those of the dyadic grid, between any two times, or from any time to the data.
StepLengths = Literal["dyadic", "any", "to data"]


def step_lengths_of(net: Network) -> StepLengths:
    """The steps that a network was trained on, its attribute ``step_lengths``; the dyadic ones if it does not say."""
    said = getattr(net, "step_lengths", None)
    return next((lengths for lengths in get_args(StepLengths) if said == lengths), "dyadic")


def grid_of(net: Network) -> StepGrid | None:
    """The grid that a network was built for, if it says so by its attribute ``grid``."""
    grid = getattr(net, "grid", None)
    return grid if isinstance(grid, StepGrid) else None
