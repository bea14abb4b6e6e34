"""Diagnostics of a coupling: what it leaks of the class, how far paths cross, and how uncertain the target stays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ismkit.method.coupling import assign
from ismkit.method.path import check_labels
from ismkit.utils.checks import check_count, check_finite, check_tensor


def _check_noise(x0: Tensor, y: Tensor) -> None:
    """Raise unless noise is finite, (n, ...) with n >= 1, with one label per row."""
    check_finite("x0", x0)
    if x0.ndim < 2 or x0.numel() == 0:
        raise ValueError(f"x0 must be (n, ...) with n >= 1, got {tuple(x0.shape)}")
    check_labels(y, x0, "x0")
    if y.device != x0.device:
        raise ValueError(f"y must be on the device of x0, {x0.device}, got {y.device}")


def class_leak(x0: Tensor, y: Tensor) -> float:
    """Measure how far a coupling leaks the class into the noise: ``|E[x0 | class]|`` averaged over the classes.

    Args:
        x0: coupled noise, (n, ...).
        y: labels, (n,).

    Returns:
        The mean norm, >= 0; for independent noise about ``sqrt(dim / rows per class)``.

    Raises:
        TypeError: if noise or labels are not of their types.
        ValueError: if the noise is not finite, or labels are not one per row.

    Example:
        Class 0 on the left, class 1 on the right. Plain OT gives each the half of the noise on its side, whose mean is
        ``sqrt(2 / pi) = 0.8`` away; within classes nothing leaks:

        >>> import torch
        >>> from ismkit import Coupling
        >>> from ismkit.lessons import class_leak
        >>> x0, x1 = torch.randn(2, 400, 1, generator=torch.Generator().manual_seed(0))
        >>> y = torch.arange(400) % 2
        >>> x1 += 10 * y[:, None] - 5
        >>> leaks = [class_leak(Coupling(1, aware).couple(x0, x1, y), y) for aware in (False, True)]
        >>> round(leaks[0], 1), leaks[1] < 0.15
        (0.8, True)
    """
    _check_noise(x0, y)
    flat = x0.flatten(1).double()
    return float(np.mean([flat[y == c].mean(0).norm().item() for c in y.unique()]))


def class_information(x0: Tensor, y: Tensor, k: int = 3) -> float:
    """Estimate the mutual information of noise and class in nats, by nearest neighbours.

    For row i, ``m_i`` points of any class lie as near as its k-th neighbour of its own class, which has ``n_i`` rows:
    ``I = psi(n) + psi(k) - mean psi(n_i) - mean psi(m_i)`` (Ross 2014, PLoS ONE 9(2) e87357). Unlike :func:`class_leak`
    it also sees a leak that moves no mean. It is consistent, but in high dimension far too small at any affordable n:
    neighbours say little there.

    Args:
        x0: coupled noise, (n, ...); the distances of all pairs are held at once.
        y: labels, (n,) long, each class with more than ``k`` rows.
        k: neighbours.

    Returns:
        The estimate: about 0 (of either sign) for independent noise, at most about the entropy of ``y``.

    Raises:
        TypeError: if noise or labels are not of their types.
        ValueError: for a class of ``k`` rows or fewer, noise that is not finite, or labels that are not one per row.

    Example:
        The same noise with labels that have nothing to do with it, and with its sign, which it tells: ``ln 2 = 0.69``.

        >>> import torch
        >>> from ismkit.lessons import class_information
        >>> x0 = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
        >>> abs(class_information(x0, torch.arange(1000) % 2)) < 0.05
        True
        >>> round(class_information(x0, (x0[:, 0] > 0).long()), 1)
        0.7
    """
    _check_noise(x0, y)
    k = check_count("k", k)
    classes, index, sizes = y.unique(return_inverse=True, return_counts=True)
    if int(sizes.min()) <= k:
        raise ValueError(f"k must be at least 1 and below the rows of each class, got {k} and {sizes.tolist()}")
    flat = x0.detach().flatten(1).double()
    distances = torch.cdist(flat, flat).fill_diagonal_(torch.inf)
    reach = torch.empty(len(flat), 1, dtype=flat.dtype, device=flat.device)
    for c in range(len(classes)):
        own = index == c
        reach[own, 0] = distances[own][:, own].kthvalue(k, dim=1).values
    near = (distances <= reach).sum(1)
    psi = torch.special.digamma
    n, neighbours = torch.tensor([float(len(y)), float(k)], dtype=flat.dtype)
    return float(psi(n) + psi(neighbours) - psi(sizes[index].double()).mean() - psi(near.double()).mean())


def crossings(x0: Tensor, x1: Tensor) -> float:
    """Measure the share of all pairs of paths that cross.

    Two paths count as crossing if swapping their noise makes them shorter, in squared length. Swapping the noise of
    pairs i and j changes the cost by ``2 (x0_i - x0_j) . (x1_i - x1_j)``. If that is not negative, the two paths never
    meet at one time; an exact assignment leaves no pair where it is negative. Solvers see costs in float32: a gain
    below 1e-6 of the largest product ``x0_i . x1_j`` counts as none.

    Args:
        x0: noise, (n, ...), n >= 2.
        x1: the data it is coupled to, (n, ...).

    Returns:
        A number in [0, 1]: 1/2 on average for independent noise, 0 within one pool of exact OT.

    Raises:
        TypeError: if they are not floating point.
        ValueError: if the shapes differ, there are fewer than two rows, or values are not finite.

    Example:
        >>> import torch
        >>> from ismkit import assign
        >>> from ismkit.lessons import crossings
        >>> x0, x1 = torch.randn(2, 300, 2, generator=torch.Generator().manual_seed(0))
        >>> round(crossings(x0, x1), 1), crossings(x0[assign(x0, x1)], x1)
        (0.5, 0.0)
    """
    check_finite("x0", x0)
    check_finite("x1", x1)
    check_tensor("x1", x1, ("x0", x0))
    if x0.shape != x1.shape or x0.ndim < 2 or len(x0) < 2 or x0.numel() == 0:
        raise ValueError(f"x0 and x1 must have one shape and 2 rows or more, got {tuple(x0.shape)}, {tuple(x1.shape)}")
    noise, data = x0.flatten(1).double(), x1.flatten(1).double()
    products = noise @ data.T  # x0_i . x1_j
    own = products.diagonal()
    gain = own[:, None] + own - products - products.T
    crossed = int((gain < -1e-6 * products.abs().max()).sum())
    return crossed / (len(noise) * (len(noise) - 1))


def target_variance(x: Tensor, v: Tensor, other_x: Tensor, other_v: Tensor) -> float:
    """Estimate ``E |v - E[v | x]|^2``: how far the targets that a network sees at one place differ among themselves.

    The least loss of flow matching (sum over coordinates) that any network can reach, and what bends the paths. It is
    estimated by half the squared difference to the target of the nearest neighbour, so in few dimensions only.

    Args:
        x: places, (n, D): ``x_t`` of coupled pairs at one time (or at times that are a coordinate of ``x``).
        v: targets there, (n, D').
        other_x: places of an independent draw, from other pools: within one pool neighbours know of each other.
        other_v: targets there.

    Returns:
        The estimate, >= 0.

    Raises:
        TypeError: if they are not floating point.
        ValueError: if places or targets are not (n, D) with n >= 1, do not fit each other, or are not finite.

    Example:
        At t = 0 a place is the noise itself, and the targets differ by the variance of the data alone, here 4:

        >>> import torch
        >>> from ismkit import interpolate
        >>> from ismkit.lessons import target_variance
        >>> rng = torch.Generator().manual_seed(0)
        >>> def draw():
        ...     x0, x1 = torch.randn(2, 4000, 1, generator=rng)
        ...     return interpolate(x0, 2 * x1, torch.zeros(4000))
        >>> round(target_variance(*draw(), *draw()))
        4
    """
    for name, a, b in (("x", x, other_x), ("v", v, other_v)):
        check_finite(name, a)
        check_finite(f"other_{name}", b)
        check_tensor(f"other_{name}", b, (name, a))
        if a.ndim != 2 or a.shape[1:] != b.shape[1:]:
            raise ValueError(f"{name} and other_{name} must be (n, D), got {tuple(a.shape)} and {tuple(b.shape)}")
    for names, a, b in (("x and v", x, v), ("other_x and other_v", other_x, other_v)):
        if len(a) != len(b) or len(a) == 0:
            raise ValueError(f"{names} must have one number of rows, 1 or more, got {len(a)} and {len(b)}")
    nearest = torch.cdist(x.double(), other_x.double()).argmin(1)
    return (v.double() - other_v.double()[nearest]).square().sum(1).mean().item() / 2


def pair_variance(probes: Tensor, pools: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Estimate ``Var(x1 | x0)``, summed over coordinates, that exact OT leaves: the same noise is put into many pools.

    In any dimension, unlike :func:`target_variance`; at ``t = 0`` the two are one.

    Args:
        probes: noise vectors, (m, ...), few beside the rows of a pool.
        pools: fresh (x0, x1) of each pool, (n, ...); the probes take the place of the first m rows of noise.

    Returns:
        The variance of a probe's partners over the pools (unbiased), averaged over the probes.

    Raises:
        TypeError: if probes are not floating point.
        ValueError: below two pools, for a pool of fewer rows than probes or of another shape, or values that are not
            finite.

    Example:
        The larger the pool, the less a noise vector's partner varies from pool to pool; without OT it would be 1:

        >>> import torch
        >>> from ismkit.lessons import pair_variance
        >>> rng = torch.Generator().manual_seed(0)
        >>> probes = torch.tensor([[-1.0], [0.0], [1.0]])
        >>> small, large = (
        ...     pair_variance(probes, [torch.randn(2, n, 1, generator=rng) for _ in range(20)]) for n in (8, 64)
        ... )
        >>> large < small / 2 < 1 / 2
        True
    """
    check_finite("probes", probes)
    if probes.ndim < 2 or probes.numel() == 0:
        raise ValueError(f"probes must be (m, ...) with m >= 1, got {tuple(probes.shape)}")
    partners = []
    for x0, x1 in pools:
        check_tensor("the noise x0 of a pool", x0, ("probes", probes))
        check_tensor("the data x1 of a pool", x1, ("probes", probes))
        if x0.shape[1:] != probes.shape[1:]:
            raise ValueError(f"a pool must hold noise like probes, {tuple(probes.shape)}, got {tuple(x0.shape)}")
        if len(x0) < len(probes):
            raise ValueError(f"a pool must hold the {len(probes)} probes, got {len(x0)} rows")
        order = assign(torch.cat([probes, x0[len(probes) :]]), x1).argsort()
        partners.append(x1.detach()[order[: len(probes)]].flatten(1).double())
    if len(partners) < 2:
        raise ValueError(f"pools must be two or more, got {len(partners)}")
    return float(torch.stack(partners).var(0).sum(1).mean())
