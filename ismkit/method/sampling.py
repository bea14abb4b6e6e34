"""From noise to samples in 1 to N steps: one sampler for every method, one network call per step.

Which steps a network may be asked for is what it was trained on. ``fit`` writes that on it (``net.step_lengths``, from
the rows of the recipe), files of networks keep it, and the sampler reads it: by ``nfe`` alone a network is asked for no
other kind of steps. Two count as dyadic and learnt fewer: a network of one step
(:class:`~ismkit.neighbours.rows.OneStep`), and a flow, which learnt ``d = 0`` alone and is sampled as
:func:`ismkit.models.saved.load_sampler` gives it. ``times`` are the caller's word for it, and are taken as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ismkit.method.path import (
    Network,
    Source,
    StepGrid,
    check_labels,
    check_network,
    check_source,
    draw_noise,
    grid_of,
    step_lengths_of,
)
from ismkit.utils.checks import check_count, check_finite, check_name, check_number, shown
from ismkit.utils.seeding import stream


def _check(net: Network, x0: Tensor, y: Tensor) -> None:
    """Raise unless noise and labels fit each other and the network."""
    check_network("net", net)
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


def _grid(net: Network, grid: StepGrid | None) -> StepGrid | None:
    """The grid given, which must be the network's if that names one; else the network's."""
    if grid is not None and not isinstance(grid, StepGrid):
        raise TypeError(f"grid must be a StepGrid, got {shown(grid)}")
    own = grid_of(net)
    if own is not None and grid not in (None, own):
        raise ValueError(f"grid must be that of net, n = {own.n}, got {grid}")
    return own or grid


def _check_times(times: Any) -> list[float]:
    """Times of a partition as Python's numbers."""
    try:
        found = times.tolist() if hasattr(times, "tolist") else list(times)
        found = [float(None if isinstance(t, str | bytes | bool) else t) for t in found]  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError, NotImplementedError) as error:
        raise TypeError(f"times must be numbers from 0 to 1, such as (0, 0.3, 1), got {shown(times)}") from error
    if found[:1] != [0.0] or found[-1:] != [1.0] or not all(a < b for a, b in pairwise(found)):
        raise ValueError(f"times must begin at 0, grow, and end at 1, such as (0, 0.3, 1), got {shown(times)}")
    return found


def renoises(net: Network) -> bool:
    """Whether a network is sampled with fresh noise between its steps: one of steps to the data alone is.

    Judges and what else draws without being told how go by this. The noise is that of :func:`renoise_options`.

    Args:
        net: a network.

    Returns:
        The value of ``renoise`` for :func:`sample`.

    Example:
        >>> from ismkit.method.sampling import renoises
        >>> def net(x, t, d, w, y):
        ...     return x
        >>> renoises(net)
        False
        >>> net.step_lengths = "to data"
        >>> renoises(net)
        True
    """
    return step_lengths_of(net) == "to data"


def renoise_options(net: Network, seed: int, *place: int | str) -> dict[str, Any]:
    """Name the options of :func:`sample` by which a network makes any number of the steps that it was trained on.

    Args:
        net: a network.
        seed: of the fresh noise.
        place: more of its place, such as the number of a batch: see :func:`ismkit.utils.seeding.stream`.

    Returns:
        ``renoise`` and a ``generator`` where :func:`renoises` says so, else nothing.

    Example:
        >>> import torch
        >>> from ismkit import sample
        >>> from ismkit.method.sampling import renoise_options
        >>> def net(x, t, d, w, y):  # jumps to 1, from anywhere
        ...     return (1 - x) / (1 - t)[:, None]
        >>> renoise_options(net, 0)
        {}
        >>> net.step_lengths = "to data"
        >>> sample(net, torch.zeros(2, 1), torch.tensor([0, 0]), nfe=3, **renoise_options(net, 0)).flatten()
        tensor([1., 1.])
    """
    return {"renoise": True, "generator": stream(seed, "renoise", *place)} if renoises(net) else {}


def check_nfe(net: Network, nfe: int, grid: StepGrid | None = None, *, renoise: bool | None = None) -> int:
    """Refuse a number of equal steps that a network was not trained on, before anything is drawn.

    This is the one rule of the sampler, of judges and of sweeps.

    Args:
        net: says by its attribute ``step_lengths`` which steps it was trained on; see :func:`sample`.
        nfe: NFE, the number of equal steps.
        grid: the dyadic grid of training; by default the network's, or N = 128 where it has no attribute ``grid``.
        renoise: whether there is fresh noise between the steps; by default as :func:`renoises` says.

    Returns:
        The number.

    Raises:
        ValueError: if the network was not trained on such steps, or ``nfe`` is no number of steps.

    Example:
        >>> from ismkit.method.sampling import check_nfe
        >>> def net(x, t, d, w, y):
        ...     return x
        >>> check_nfe(net, 4)
        4
        >>> net.step_lengths = "any"
        >>> check_nfe(net, 3)
        3
    """
    lengths = step_lengths_of(net)
    renoise = renoises(net) if renoise is None else renoise
    if lengths == "dyadic":
        try:
            (grid or grid_of(net) or StepGrid()).check_nfe(nfe)
        except ValueError as error:
            others = "train on rows of Intervals for others; sample and trajectory also take times, (0, 0.3, 1)"
            raise ValueError(f"{error}, those of net: {others}") from error
        if renoise and nfe > 2:
            why = (
                "net was trained on steps of the dyadic grid; renoise with times=(0, 1/2, 3/4, 1) asks for those alone"
            )
            raise ValueError(f"nfe must be 1 or 2 with renoise, got {nfe}: {why}")
    nfe = check_count("nfe", nfe)
    if lengths == "to data" and not renoise and nfe > 1:
        raise ValueError(
            f"nfe must be 1 without renoise=True, got {nfe}: net was trained on steps to the data alone; "
            "times=(0, 0.3, 1) are taken as they are"
        )
    return nfe


def _check_renoise(renoise: Any, generator: Any) -> None:
    if not isinstance(renoise, bool):
        raise TypeError(f"renoise must be True or False, got {shown(renoise)}")
    if renoise and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, for the noise of renoise, got {shown(generator)}")
    if not renoise and generator is not None:
        raise ValueError(f"generator goes with renoise=True: nothing else is drawn, got {shown(generator)}")


def _plan(
    net: Network, nfe: Any, usual: int, times: Any, grid: StepGrid | None, renoise: Any, generator: Any
) -> tuple[list[float], StepGrid | None]:
    """When steps begin and end, and the grid that says what is asked for them; ``usual`` is the default of ``nfe``."""
    _check_renoise(renoise, generator)
    grid = _grid(net, grid)
    if times is None:
        if grid is None and step_lengths_of(net) == "dyadic":
            grid = StepGrid()
        count = check_nfe(net, nfe, grid, renoise=renoise)
        return [k / count for k in range(count + 1)], grid
    partition = _check_times(times)
    if nfe not in (usual, len(partition) - 1):
        raise ValueError(f"nfe must be left out beside times, which have {len(partition) - 1} steps, got {shown(nfe)}")
    return partition, grid


def _states(
    net: Network,
    x0: Tensor,
    y: Tensor,
    w: float | Tensor,
    partition: list[float],
    grid: StepGrid | None,
    renoise: bool,
    generator: torch.Generator | None,
    source: Source | None,
) -> Iterator[Tensor]:
    """The sampler's states from noise to data, one more than steps."""
    check_source(source)
    _check(net, x0, y)
    strength = _strengths(w, x0)
    t = torch.empty(y.shape, dtype=x0.dtype, device=x0.device)
    x = x0
    yield x
    for start, end in pairwise(partition):
        d = 1 - start if renoise else end - start
        length = torch.full_like(t, d)
        x = x + d * net(x, torch.full_like(t, start), length if grid is None else grid.ask(length), strength, y)
        if renoise and end < 1:
            fresh = draw_noise(source, tuple(x0.shape), generator)  # type: ignore[arg-type]
            x = torch.lerp(fresh.to(x, non_blocking=True), x, end)
        yield x


@torch.no_grad()
def sample(
    net: Network,
    x0: Tensor,
    y: Tensor,
    *,
    w: float | Tensor = 0.0,
    nfe: int = 1,
    times: Sequence[float] | Tensor | None = None,
    grid: StepGrid | None = None,
    renoise: bool = False,
    generator: torch.Generator | None = None,
    source: Source | None = None,
) -> Tensor:
    """Draw samples in ``nfe`` Euler steps, ``x <- x + d * s(x, t, d, w, y)`` with ``d = 1 / nfe`` (SM, Alg. 2).

    Exactly one network call per step, guided or not.

    How many steps a network can make is what it was trained on, its attribute ``step_lengths``, which ``fit`` sets and
    files keep: the levels of the dyadic grid, where it has none; ``"any"`` number (rows of
    :class:`~ismkit.method.rows.Intervals`, :class:`~ismkit.method.guidance.TwoPassCFG`); or steps ``"to data"`` alone,
    which are one, or several with ``renoise``.

    Args:
        net: a network in eval mode, usually ``state.ema.slow``.
        x0: noise, (B, ...); its device and dtype are used.
        y: labels, (B,) long, in ``0 .. num_classes`` of the network; the last leaves the class open.
        w: guidance strength >= 0, one number or (B,); ignored by networks trained without it.
        nfe: NFE, the number of equal steps: a power of two in 1 .. N, or any positive number if the network was trained
            on steps of any length. N steps, and shorter ones, ask for the instantaneous velocity.
        times: where steps begin and end, from 0 to 1, in place of ``nfe``, which is then one less than they are. The
            caller answers for it that the network was trained on such steps: any times are taken. By a grid, steps up
            to ``1 / N`` ask for the velocity.
        grid: the dyadic grid of training; by default the network's, or N = 128 where it has no attribute ``grid``.
        renoise: the sampler of consistency models (arXiv 2303.01469): each step jumps to the data, ``d = 1 - t``, and
            all but the last go back to the next time by fresh noise, ``x = (1 - t) noise + t x``.
        generator: draws that noise, on any device; with ``renoise``, and only then.
        source: the distribution of that noise, the recipe's.

    Returns:
        Samples shaped like ``x0``.

    Raises:
        TypeError: if ``x0``, ``y``, ``w`` or ``times`` hold no numbers of their kind, or ``generator`` is none.
        ValueError: if the network was not trained on ``nfe`` steps, ``times``, ``w`` or ``y`` do not fit, or noise,
            labels and network are not on one device.

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

        It makes steps of any length:

        >>> round(sample(shortcut, one, y, times=(0, 0.3, 0.9, 1)).item(), 4)
        2.7183
        >>> sample(shortcut, one, y, nfe=3)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: nfe must be one of [1, 2, 4, 8, 16, 32, 64, 128] (the levels of this grid), got 3, those of net: ...
        >>> shortcut.step_lengths = "any"
        >>> round(sample(shortcut, one, y, nfe=3).item(), 4)
        2.7183
    """
    x, (partition, grid) = x0, _plan(net, nfe, 1, times, grid, renoise, generator)
    for state in _states(net, x0, y, w, partition, grid, renoise, generator, source):
        x = state
    return x


@torch.no_grad()
def trajectory(
    net: Network,
    x0: Tensor,
    y: Tensor,
    *,
    w: float | Tensor = 0.0,
    nfe: int = 128,
    times: Sequence[float] | Tensor | None = None,
    grid: StepGrid | None = None,
    renoise: bool = False,
    generator: torch.Generator | None = None,
    source: Source | None = None,
) -> Tensor:
    """Draw samples like :func:`sample` and keep every state on the way.

    The states of SM, Alg. 2.

    Args:
        net: as in :func:`sample`, and so are all others.
        x0: noise, (B, ...).
        y: labels, (B,) long.
        w: guidance strength >= 0, one number or (B,).
        nfe: NFE, the number of equal steps.
        times: where steps begin and end, in place of ``nfe``.
        grid: the dyadic grid of training.
        renoise: jump to the data and go back by fresh noise; then the states are those after the noise was added.
        generator: draws that noise.
        source: the distribution of that noise.

    Returns:
        The states, (nfe + 1, B, ...): the first is ``x0``, the last what :func:`sample` returns.

    Raises:
        TypeError: as in :func:`sample`.
        ValueError: as in :func:`sample`.

    Example:
        >>> import torch
        >>> from ismkit import trajectory
        >>> states = trajectory(lambda x, t, d, w, y: x, torch.ones(1, 1), torch.tensor([0]), nfe=2)
        >>> states.shape, states.flatten()
        (torch.Size([3, 1, 1]), tensor([1.0000, 1.5000, 2.2500]))
    """
    partition, grid = _plan(net, nfe, 128, times, grid, renoise, generator)
    return torch.stack(list(_states(net, x0, y, w, partition, grid, renoise, generator, source)))


class Solution(NamedTuple):
    """What :func:`solve` returns.

    Attributes:
        samples: shaped like the noise.
        calls: how often the network was called, each time for the full batch; two-pass CFG calls its own twice.

    Example:
        >>> import torch
        >>> from ismkit.method import Solution
        >>> samples, calls = Solution(torch.zeros(4, 2), calls=26)
        >>> calls
        26
    """

    samples: Tensor
    calls: int


#: Solvers with adaptive steps, of torchdiffeq, by their orders.
SOLVERS = {"dopri8": 8, "dopri5": 5, "bosh3": 3, "adaptive_heun": 2, "fehlberg2": 2}


@torch.no_grad()
def solve(
    net: Network,
    x0: Tensor,
    y: Tensor,
    *,
    w: float | Tensor = 0.0,
    method: str = "dopri5",
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Solution:
    """Draw samples by the ODE of the instantaneous velocity, ``dx/dt = s(x, t, 0, w, y)``, with adaptive steps.

    The ODE is that of flow matching (arXiv 2210.02747). The steps are torchdiffeq's, which the extra ``learn`` brings.
    They are the same for all rows: so the error of a row depends a little on the others. Network calls are counted, for
    no setting says how many there will be.

    Args:
        net: a network in eval mode, also :class:`~ismkit.method.guidance.TwoPassCFG`.
        x0: noise, (B, ...); its device and dtype are used.
        y: labels, (B,) long, in ``0 .. num_classes`` of the network; the last leaves the class open.
        w: guidance strength >= 0, one number or (B,).
        method: a key of :data:`SOLVERS`.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step.

    Returns:
        The samples, and the number of network calls.

    Raises:
        ImportError: without torchdiffeq.
        TypeError: if ``x0``, ``y`` or ``w`` hold no numbers of their kind.
        ValueError: for a solver that there is not, tolerances that are not positive or that ``x0``'s dtype cannot meet,
            or what :func:`sample` refuses.

    Example:
        The ODE ``dx/dt = x`` ends at ``e = 2.718282``. A tenth of the tolerance takes more calls:

        >>> import torch
        >>> from ismkit import solve
        >>> one, y = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0])
        >>> samples, calls = solve(lambda x, t, d, w, y: x, one, y, rtol=1e-9, atol=1e-9)
        >>> round(samples.item(), 6)
        2.718282
        >>> calls > solve(lambda x, t, d, w, y: x, one, y).calls
        True
    """
    check_name("method", method, SOLVERS)
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        check_number(name, tolerance, "above 0", 1e-300)
    _check(net, x0, y)
    strength = _strengths(w, x0)
    odeint = _odeint()
    calls, zero = 0, torch.zeros(y.shape, dtype=x0.dtype, device=x0.device)

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        nonlocal calls
        calls += getattr(net, "calls", 1)
        return net(x, zero + t, zero, strength, y).to(x)

    ends = torch.tensor([0.0, 1.0], dtype=x0.dtype, device=x0.device)
    try:
        # A step must end at the data: by default the last one goes beyond, where no network was trained.
        states = odeint(velocity, x0, ends, rtol=rtol, atol=atol, method=method, options={"step_t": ends[1:]})
    except AssertionError as error:
        why = "its steps became too short: use larger ones, or x0 in float64, and see that net answers no NaN"
        raise ValueError(f"rtol={rtol} and atol={atol} are not met by {method} in {x0.dtype}, {why}") from error
    return Solution(states[-1], calls)


def _odeint() -> Any:
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise ImportError("solve needs torchdiffeq, which is missing: pip install torchdiffeq") from error
    return odeint
