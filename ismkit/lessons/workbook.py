"""The reader's own shortcut model: a file that grows exercise by exercise, and checks that name common mistakes.

First the pieces of a complete model in pure PyTorch, as notebook 01b has them in its solutions: each stands in for the
reader's until that is written. Then what each piece is tested against. :class:`Workbook` keeps the file.
"""

from __future__ import annotations

import ast
import copy
import inspect
import linecache
import math
import os
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ismkit.method.coupling import Coupling
from ismkit.method.ema import TwinEMA
from ismkit.method.guidance import intrinsic_velocity
from ismkit.method.path import StepGrid
from ismkit.method.recipes import average_of_half_steps
from ismkit.method.sampling import sample
from ismkit.method.wavelet import WaveletDistance
from ismkit.utils.checks import shown
from ismkit.utils.files import out_dir, replacing

# ---------------------------------------------------------------- the pieces

N = 128  # the shortest step is 1/N, and is asked for as d = 0


def condition(t: Tensor, d: Tensor, w: Tensor) -> Tensor:
    """Features (B, F) of times, step sizes and strengths, each (B,): all that the network knows of them."""
    level = torch.log2((N * d).clamp(min=1)) / 7  # 0 at d = 0 and 1/N, 1 at d = 1, evenly spaced between
    angles = torch.stack([t, level], 1)[..., None] * math.pi * torch.tensor([0.5, 1.0, 2.0, 4.0])
    return torch.cat([angles.sin(), angles.cos()], 2).flatten(1)


class Net(nn.Module):
    """The network s(x, t, d, w, y): states (B, ...) of dim numbers; labels 0 .. classes, of which the last is null."""

    def __init__(self, dim: int = 2, width: int = 128, classes: int = 2) -> None:
        super().__init__()
        features = condition(*torch.zeros(3, 1)).shape[1]
        self.null = classes
        self.label = nn.Embedding(classes + 1, 16)
        self.first = nn.Linear(dim + features + 16, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.last = nn.Linear(width, dim)

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        """The average velocity, shaped like x, for steps of size d from time t."""
        h = self.first(torch.cat([x.flatten(1), condition(t, d, w), self.label(y)], 1))
        for layer in self.hidden:
            h = h + layer(nn.functional.silu(h))
        return self.last(nn.functional.silu(h)).view_as(x)


def rows(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Times and step sizes, (n,) each: three quarters are flow rows, d = 0, the last quarter are consistency rows."""
    t, d = torch.rand(n, generator=generator), torch.zeros(n)
    first, count = n - n // 4, n // 4
    turn = torch.randint(7, (1,), generator=generator)
    d[first:] = 2.0 ** (1 + (turn + torch.arange(count)) % 7) / N
    t[first:] = (t[first:] / d[first:]).floor() * d[first:]
    return t, d


def half_steps(net: nn.Module, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """The target (B, ...) for steps of size d > 0 from states x (B, ...): the average of two half steps."""
    half = d / 2
    ask = torch.where(half > 1 / N, half, 0.0)
    length = half.view(-1, *[1] * (x.ndim - 1))
    with torch.no_grad():
        first = net(x, t, ask, w, y)
        second = net(x + length * first, t + half, ask, w, y)
        return (first + second) / 2


def averaged(old: Tensor, new: Tensor, decay: float, updates: int) -> Tensor:
    """A running average after update number updates (0, 1, ...), from its old value and the new weights."""
    decay = min(decay, (1 + updates) / (10 + updates))
    return decay * old + (1 - decay) * new


def velocity_target(teacher: nn.Module, x: Tensor, t: Tensor, w: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """The target (B, ...) at d = 0, where v (B, ...) is the velocity of each row: so far v itself."""
    return v


def distance(prediction: Tensor, target: Tensor) -> Tensor:
    """The error of each row, (B,): so far the mean square."""
    return (prediction - target).square().flatten(1).mean(1)


def strengths(n: int, generator: torch.Generator) -> Tensor:
    """The guidance strengths of n rows, (n,): so far none."""
    return torch.zeros(n)


def couple(x0: Tensor, x1: Tensor, y: Tensor) -> Tensor:
    """The noise (n, ...) in the order in which it goes with the data x1 (n, ...): so far as it was drawn."""
    return x0


def averages(net: nn.Module) -> list[tuple[nn.Module, float]]:
    """The running averages of a network, each with its decay: the first makes targets, the last one samples."""
    return [(copy.deepcopy(net), 0.99)]


def loss(
    net: nn.Module, teacher: nn.Module, x0: Tensor, x1: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor
) -> Tensor:
    """The mean error of the flow rows plus that of the consistency rows, whose targets the teacher makes."""
    at = t.view(-1, *[1] * (x0.ndim - 1))
    x, v = (1 - at) * x0 + at * x1, x1 - x0
    flow, step = d == 0, d > 0
    target = v.clone()
    target[flow] = velocity_target(teacher, x[flow], t[flow], w[flow], y[flow], v[flow])
    target[step] = half_steps(teacher, x[step], t[step], d[step], w[step], y[step])
    error = distance(net(x, t, d, w, y), target)
    return error[flow].mean() + error[step].mean()


def pairs(x: Tensor, y: Tensor, batch: int, generator: torch.Generator, pool: int = 4) -> Iterator[tuple[Tensor, ...]]:
    """Batches of noise, data and labels without end; the noise of so many batches is coupled together."""
    while True:
        drawn = torch.randint(len(x), (pool * batch,), generator=generator)
        noise = couple(torch.randn(x[drawn].shape, generator=generator), x[drawn], y[drawn])
        yield from zip(noise.split(batch), x[drawn].split(batch), y[drawn].split(batch), strict=True)


def train(
    net: Net,
    x: Tensor,
    y: Tensor,
    steps: int,
    seed: int = 0,
    batch: int = 256,
    lr: float = 3e-3,
    watch: Any = None,
) -> nn.Module:
    """Train a network on data x (n, ...) and labels y (n,); returns the average that samples.

    After each step, watch(step, average) is called, if there is one.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = averages(net)
    optimiser = torch.optim.Adam(net.parameters(), lr)
    for step, (x0, x1, label) in zip(range(steps), pairs(x, y, batch, generator), strict=False):
        optimiser.param_groups[0]["lr"] = lr * min(1, 2 * (1 - step / steps))
        t, d = rows(batch, generator)
        dropped = (torch.rand(batch, generator=generator) < 0.1) & (d == 0)
        label, w = torch.where(dropped, net.null, label), torch.where(dropped, 0.0, strengths(batch, generator))
        optimiser.zero_grad()
        loss(net, kept[0][0], x0, x1, t, d, w, label).backward()
        optimiser.step()
        for average, decay in kept:
            for old, new in zip(average.parameters(), net.parameters(), strict=True):
                old.data = averaged(old.data, new.data, decay, step)
        if watch:
            watch(step + 1, kept[-1][0])
    return kept[-1][0]


def sampler(net: nn.Module, x0: Tensor, y: Tensor, w: Tensor, nfe: int) -> Tensor:
    """Samples shaped like the noise x0 (B, ...), in nfe equal steps: one call of the network each."""
    x, ones = x0, torch.ones(len(x0))
    ask = 0.0 if nfe == N else 1 / nfe
    with torch.no_grad():
        for k in range(nfe):
            x = x + net(x, ones * k / nfe, ones * ask, w, y) / nfe
    return x


#: What a file of its own needs before the pieces.
HEADER = '''"""My shortcut model. Notebook 01b writes this file, later ones add to it; it runs without the kit."""

import copy
import math
from typing import Any, Iterator

import torch
from torch import Tensor, nn

N = 128  # the shortest step is 1/N, and is asked for as d = 0
'''
ORDER = (
    condition,
    Net,
    rows,
    half_steps,
    averaged,
    velocity_target,
    distance,
    strengths,
    couple,
    averages,
    loss,
    pairs,
    train,
    sampler,
)
PIECES: dict[str, str] = {piece.__name__: inspect.getsource(piece).rstrip() for piece in ORDER}

# ---------------------------------------------------------------- what each piece is tested against

Slip = tuple[str, Callable[..., Any]]  # a sentence that names a mistake, and a function that makes it


def _drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _field(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """A smooth field that depends on all that it is asked."""
    each = (-1, *[1] * (x.ndim - 1))
    return (torch.sin(x + (1 + t).view(each)) - 0.2 * x * (1 + y).view(each)) * (1 + d + 0.3 * w).view(each)


def _asked(w: Tensor, y: Tensor, x: Tensor, t: Tensor, d: Tensor) -> Tensor:
    """The same, at fixed strengths and labels."""
    return _field(x, t, d, w, y)


def _compare(
    found: Any, want: Tensor, what: str, slips: tuple[Slip, ...] = (), given: tuple[Any, ...] = ()
) -> str | None:
    """What is wrong with a result, in a sentence that names the mistake if it is one of the slips; None if nothing."""
    if found is None:
        return f"{what} returned None: is its `return` missing?"
    if not isinstance(found, Tensor):
        return f"{what} must return a tensor, got {shown(found)}"
    if found.shape != want.shape:
        return f"{what} must have shape {tuple(want.shape)}, got {tuple(found.shape)}"
    if found.requires_grad and not want.requires_grad:
        return f"{what} has a gradient: targets are constants, make them under torch.no_grad()"
    if torch.allclose(found.double(), want.double(), rtol=1e-4, atol=1e-6):
        return None
    for sentence, slip in slips:
        if torch.allclose(found.double(), slip(*given).double(), rtol=1e-4, atol=1e-6):
            return sentence
    off = (found.double() - want.double()).abs().max().item()
    return f"{what} differs from the right one by up to {off:.2g}"


def _check_condition(own: ModuleType) -> str | None:
    d = torch.tensor([0.0, *(2.0**k / N for k in range(1, 8))])
    half, zero = torch.full((8,), 0.5), torch.zeros(8)
    features = own.condition(half, d, zero)
    if not isinstance(features, Tensor):
        return f"condition must return a tensor (B, F), got {shown(features)}"
    if features.ndim != 2 or len(features) != 8:
        return f"condition must return features (B, F): one row per time, got {tuple(features.shape)} for 8 times"
    if not torch.isfinite(features).all():
        return "condition is not finite at d = 0: log2(0) is -inf, so bound N d from below by 1"
    each = [own.condition(half[:1], d[k : k + 1], zero[:1]) for k in range(8)]
    if any(row.shape != features[:1].shape for row in each) or not torch.allclose(features, torch.cat(each)):
        return "the features of a row change with the other rows: each row must depend on its own numbers alone"
    times = torch.linspace(0, 1, 9)
    of_times = own.condition(times, torch.zeros(9), torch.zeros(9))
    if torch.equal(of_times, of_times[:1].expand_as(of_times)):
        return "condition does not see t: states at different times would be alike"
    if alike := _alike(of_times, 0.01):
        return f"t = {times[alike[0]]:g} and {times[alike[1]]:g} look almost alike: a sine needs a longer period"
    if torch.equal(features, features[:1].expand_as(features)):
        return "condition does not see d: the network could not know how far it may go"
    if alike := _alike(features, 0.1):
        cure = "use the level, log2(N d), not d itself" if alike[1] == alike[0] + 1 else "a sine needs a longer period"
        return f"d = {d[alike[0]]:g} and {d[alike[1]]:g} look almost alike: {cure}"
    return None


def _alike(features: Tensor, share: float) -> tuple[int, int] | None:
    """The two rows (B, F) that differ least, if by less than this share of the most that neighbours differ by."""
    apart = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    largest = apart.diagonal(1).max()
    apart.fill_diagonal_(math.inf)
    first, second = divmod(int(apart.argmin()), len(features))
    return (first, second) if apart.min() < share * largest else None


def _check_net(own: ModuleType) -> str | None:
    torch.manual_seed(0)
    net = own.Net(dim=2, width=16, classes=3)
    if getattr(net, "null", None) != 3:
        return "Net must keep the number of the null label: self.null = classes"
    if not list(net.parameters()):
        return "Net has no parameters: make its layers in __init__, after super().__init__()"
    x, zero, y = _drawn(5, 2).float(), torch.zeros(5), torch.tensor([0, 1, 2, 3, 3])
    answer = net(x, zero, zero, zero, y)
    if answer is None or answer is ...:
        return "forward returned nothing: is its `return` missing?"
    if answer.shape != x.shape:
        return f"the answer must have the shape of x, {tuple(x.shape)}, got {tuple(answer.shape)}"
    if complaint := _check_images(own, zero, y) or _check_more_features(own, x, zero, y):
        return complaint
    if unseen := [name for name, value in vars(net).items() if name[0] != "_" and _holds_layers(value)]:
        return f"the layers in self.{unseen[0]} are never trained: a plain list hides them, use nn.ModuleList"
    sum(parameter.sum() for parameter in net.parameters()).backward()
    net.zero_grad()
    with torch.no_grad():  # a network may begin with zeros in its last layer
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return _check_answers(net, x, zero, y)


def _check_answers(net: nn.Module, x: Tensor, zero: Tensor, y: Tensor) -> str | None:
    answer = net(x, zero, zero, zero, y)
    if not torch.allclose(answer, net(x, zero, zero, zero, y), atol=1e-5):
        return "equal inputs get other answers the next time: leave dropout out, whose noise would be in the targets"
    if not torch.allclose(answer[:2], net(x[:2], zero[:2], zero[:2], zero[:2], y[:2]), atol=1e-5):
        return "the answer to a row changes with the other rows: leave batch normalisation out, which mixes them"
    others = {
        "x": net(x + 1, zero, zero, zero, y),
        "t": net(x, zero + 0.5, zero, zero, y),
        "d": net(x, zero, zero + 1, zero, y),
        "y": net(x, zero, zero, zero, (y + 1) % 4),
    }
    for name, other in others.items():
        if torch.allclose(answer, other):
            return f"the answer does not change with {name}: is it among the inputs of the first layer?"
    low, middle, high = (net(x + shift, zero, zero, zero, y) for shift in (-8, 0, 8))
    if torch.allclose(low + high, 2 * middle, rtol=1e-4, atol=1e-4):
        return "the answer is linear in x: put a nonlinearity, such as nn.functional.silu, between the layers"
    return None


def _holds_layers(value: Any) -> bool:
    """Whether an attribute of a module is a list, tuple or dictionary of layers, which PyTorch does not look into."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(isinstance(item, nn.Module) for item in items)


def _check_images(own: ModuleType, zero: Tensor, y: Tensor) -> str | None:
    image = _drawn(4, 2, 3, 3).float()
    said = f"states may be images, {tuple(image.shape)}: flatten x at the start, and give its shape back at the end"
    try:
        answered = own.Net(dim=18, width=16, classes=3)(image, zero[:4], zero[:4], zero[:4], y[:4])
    except RuntimeError:
        return said
    return said if answered.shape != image.shape else None


def _check_more_features(own: ModuleType, x: Tensor, zero: Tensor, y: Tensor) -> str | None:
    """Notebook 04 adds features of w: a network that has their number written into it would crash there."""
    condition, asked = own.condition, []

    def more(t: Tensor, d: Tensor, w: Tensor) -> Tensor:
        asked.append(len(t))
        return torch.cat([condition(t, d, w), w[:, None]], 1)

    own.condition = more  # type: ignore[attr-defined]
    try:
        net = own.Net(dim=2, width=16, classes=3)
        asked.clear()
        net(x, zero, zero, zero, y)
        if not asked:
            return "forward does not call condition(t, d, w): its features are what the network reads of t, d and w"
    except RuntimeError:
        return (
            "the number of features is fixed, and condition gets more of them in notebook 04: ask for it, "
            "condition(*torch.zeros(3, 1)).shape[1]"
        )
    finally:
        own.condition = condition  # type: ignore[attr-defined]
    return None


def _check_rows(own: ModuleType) -> str | None:
    t, d = own.rows(1120, torch.Generator().manual_seed(0))
    if t.shape != (1120,) or d.shape != (1120,):
        return f"t and d must have shape (1120,) for 1120 rows, got {tuple(t.shape)} and {tuple(d.shape)}"
    share = (d == 0).float().mean().item()
    if abs(share - 0.75) > 0.001:
        return f"three quarters of the rows must have d = 0, got a share of {share:.2f}"
    if (d[-280:] == 0).any():
        return "the consistency rows must be the last quarter"
    step, start = d[-280:], t[-280:]
    level = torch.log2(N * step)
    if not torch.allclose(level, level.round(), atol=1e-5) or level.max() > 7:
        return "step sizes must be 2/128, 4/128, ..., 1: powers of two"
    if level.min() < 0.5:
        return "d = 1/128 needs no rows: the shortest step is learnt as d = 0, and 2/128 is the first that has targets"
    counts = torch.bincount(level.round().long(), minlength=8)[1:]
    if counts.min() == 0:
        return f"steps of {2.0 ** (1 + int(counts.argmin())) / N:g} get no rows: that level would never be learnt"
    if counts.min() < 25 or counts.max() > 60:
        return f"the seven step sizes must be equally frequent, got {counts.tolist()} of 280 rows"
    small = own.rows(28, torch.Generator().manual_seed(0))[1]
    if len(small) != 28 or int((small > 0).sum()) != 7:
        return f"of 28 rows 7 must be consistency rows, got {int((small > 0).sum())}"
    return _check_times(own, t, start, step)


def _check_times(own: ModuleType, t: Tensor, start: Tensor, step: Tensor) -> str | None:
    """The times of flow rows, the first 840, and those of consistency rows with their steps."""
    if (start + step > 1 + 1e-6).any():
        return "some steps end after t = 1, at no data: start at 0, d, ..., 1 - d"
    if not torch.allclose(start / step, (start / step).round(), atol=1e-3):
        return "times of consistency rows are off the grid 0, d, ..., 1 - d: the sampler never starts a step there"
    if t[:840].min() < 0 or t[:840].max() >= 1 or abs(t[:840].mean() - 0.5) > 0.05 or t[:840].std() < 0.25:
        return "times of flow rows must be uniform in [0, 1)"
    again, other = (own.rows(1120, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    if torch.equal(t, other[0]):
        return "the same times come for every seed: draw from the generator"
    if not torch.equal(t, again[0]) or not torch.equal(start + step, again[0][-280:] + again[1][-280:]):
        return "one seed gives different rows: draw all random numbers from the generator"
    t, d = (part[-2800:] for part in own.rows(11200, torch.Generator().manual_seed(0)))
    for size in (2.0**k / N for k in range(1, 7)):
        mean = (t[d == size] / (1 - size)).mean().item()  # of 400 rows: five times the deviation at d = 1/2
        if not abs(mean - 0.5) < 0.125:
            return f"steps of {size:g} must start at 0, d, ..., 1 - d equally often: the mean is {mean:.2f} (1 - d)"
    return None


def _walk(
    half: float = 0.5, asked: float = 0.5, moved: float = 1.0, later: float = 1.0, finest: bool = True, by: float = 0.5
) -> Callable[..., Tensor]:
    """Two half steps with one thing done otherwise."""

    def wrong(net: Any, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        length, ask = half * d, asked * d
        ask = torch.where((ask <= 1 / N) & finest, 0.0, ask)
        first = net(x, t, ask, w, y)
        middle = x + moved * length.view(-1, *[1] * (x.ndim - 1)) * first
        return by * (first + net(middle, t + later * length, ask, w, y))

    return wrong


HALF_STEP_SLIPS: tuple[Slip, ...] = (
    ("the second half step is taken from x: it must start where the first one ended, at x + d/2 s", _walk(moved=0.0)),
    ("the second half step is asked at time t: it starts at t + d/2", _walk(later=0.0)),
    ("d was not halved: both steps go as far as the one they replace; their length is d/2", _walk(1.0, 1.0)),
    ("the network is asked for d, though it makes steps of d/2: halve what it is asked, too", _walk(asked=1.0)),
    ("the first step goes as far as d: it must end at x + d/2 s", _walk(moved=2.0)),
    ("the two answers were added: the target is their average, half of that", _walk(by=1.0)),
    ("a half step of 1/128 must be asked for as d = 0: that is where the velocity is learnt", _walk(finest=False)),
)


def _of_shapes(error: RuntimeError, shape: tuple[int, ...]) -> str:
    """What PyTorch says, and its usual cause if two shapes do not fit."""
    cause = f"; does a (B,) tensor multiply a {shape} one? Give it the shape (B, 1, ...)"
    return f"at states {shape}: {error}" + cause * ("must match the size" in str(error))


def _check_half_steps(own: ModuleType) -> str | None:
    grid = StepGrid(N)
    for shape in ((14, 2), (14, 2, 4, 4)):
        d = torch.tensor([2.0**k / N for k in range(1, 8)], dtype=torch.float64).repeat(2)
        t, w, y = (0.4 * (1 - d)), torch.linspace(0, 2, 14, dtype=torch.float64), torch.arange(14) % 3
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)  # the network's only weight

        def net(x: Tensor, *asked: Tensor, scale: Tensor = scale) -> Tensor:
            return scale * _field(x, *asked)

        x = _drawn(*shape)
        want = average_of_half_steps(partial(_asked, w, y), x, t, d, grid)
        given = (_field, x, t, d, w, y)
        try:
            found = own.half_steps(net, x, t, d, w, y)
        except RuntimeError as error:
            return _of_shapes(error, shape)
        if complaint := _compare(found, want, "the target", HALF_STEP_SLIPS, given):
            return complaint
        if not torch.equal(x, _drawn(*shape)):
            return "the states x themselves were changed: += writes into them, x = x + ... does not"
    return None


def _check_averaged(own: ModuleType) -> str | None:
    net = nn.Linear(3, 1, bias=False)
    ema = TwinEMA(net, fast=0.5, slow=0.5)
    mine = net.weight.detach().clone()
    wrong = [mine.clone() for _ in range(2)]
    for step in range(30):
        with torch.no_grad():
            net.weight.add_(_drawn(1, 3, seed=step).float())
        ema.update(net)
        mine = own.averaged(mine, net.weight.detach(), 0.5, step)
        ramp = min(0.5, (1 + step) / (10 + step))
        wrong[0] = 0.5 * wrong[0] + 0.5 * net.weight.detach()
        wrong[1] = (1 - ramp) * wrong[1] + ramp * net.weight.detach()
        slips: list[Slip] = [
            ("the ramp is missing: the decay of update k is min(decay, (1 + k) / (10 + k))", lambda: wrong[0]),
            ("old and new are swapped: the decay belongs to the old value", lambda: wrong[1]),
        ]
        if complaint := _compare(mine, next(ema.fast.parameters()).detach(), "the average", tuple(slips)):
            return f"after update {step}: {complaint}"
    return None


def _of_points_and_images(check: Callable[[ModuleType, Any], str | None], own: ModuleType, rows: int) -> str | None:
    """A check with states of both shapes."""
    for shape in ((rows, 2), (rows, 2, 4, 4)):
        try:
            if complaint := check(own, shape):
                return complaint
        except RuntimeError as error:
            return _of_shapes(error, shape)
    return None


def _check_velocity_target(own: ModuleType) -> str | None:
    return _of_points_and_images(_check_guided, own, 8)


def _check_guided(own: ModuleType, shape: tuple[int, ...]) -> str | None:
    x, v, y = _drawn(*shape), _drawn(*shape, seed=1), torch.arange(8) % 3  # the label 2 is the last, 3 is null
    t = torch.tensor([0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 0.9, 0.95], dtype=torch.float64)
    w = torch.tensor([0, 0.5, 1, 2, 0, 3.5, 1, 2], dtype=torch.float64)

    class Teacher(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.null, self.scale = 3, nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, *asked: Tensor) -> Tensor:
            return self.scale * _field(*asked)

    zero = torch.zeros_like(t)
    null = torch.full_like(y, 3)

    def gap(at_w: Tensor, at_d: Tensor) -> Tensor:
        return _field(x, t, at_d, at_w, y) - _field(x, t, at_d, at_w, null)

    def guided(gap: Tensor, start: float = 0.3, more: float = 0.0) -> Tensor:
        return intrinsic_velocity(v, gap, w + more, t, start)

    want = guided(gap(zero, zero))
    slips: tuple[Slip, ...] = (
        ("there is no guidance yet: add w times the gap", lambda: v),
        ("the interval is missing: no guidance where t is below 0.3", lambda: guided(gap(zero, zero), start=0.0)),
        ("the gap must be asked at w = 0: at w it is guided already, and grows", lambda: guided(gap(w, zero))),
        ("the gap has the wrong sign: conditional minus unconditional", lambda: guided(-gap(zero, zero))),
        ("the factor is w, not 1 + w: v itself is there already", lambda: guided(gap(zero, zero), more=1.0)),
    )
    return _compare(own.velocity_target(Teacher(), x, t, w, y, v), want, "the target", slips)


def _check_strengths(own: ModuleType) -> str | None:
    w = own.strengths(40_000, torch.Generator().manual_seed(0))
    if not isinstance(w, Tensor) or w.shape != (40_000,):
        return f"strengths must return a tensor (n,), got {shown(w)}"
    if w.min() < 0 or w.max() > 3.5 or not torch.allclose(4 * w, (4 * w).round(), atol=1e-4):
        return "strengths must be 0, 0.25, ..., 3.5"
    share = (w == 0).float().mean().item()
    if not 0.485 < share < 0.515:  # six times the deviation
        return f"half of the rows must be unguided, w = 0, got a share of {share:.2f}"
    counts = torch.bincount((4 * w).round().long(), minlength=15)[1:]
    if (counts == 0).any():
        return f"all of 0, 0.25, ..., 3.5 must be drawn, got {len(w.unique())} values of 15"
    if counts.max() > 1.3 * counts.min():  # each is about 1430, with a deviation of 37
        return f"the strengths above 0 must be equally frequent, got {counts.tolist()} of 0.25, 0.5, ..., 3.5"
    last = (w[-10_000:] == 0).float().mean().item()
    if not 0.45 < last < 0.55:
        return f"rows must be unguided at random: of the last quarter, the consistency rows, a share of {last:.2f} is"
    if not torch.equal(w, own.strengths(40_000, torch.Generator().manual_seed(0))):
        return "one seed gives different strengths: draw all random numbers from the generator"
    return None


def _check_strong_condition(own: ModuleType) -> str | None:
    zero, w = torch.zeros(15), torch.arange(15) / 4
    features = own.condition(zero, zero, w)
    if torch.equal(features, own.condition(zero, zero, zero)):
        return "condition does not see w: the network could not know how strong the guidance is to be"
    if alike := _alike(features, 0.01):
        return f"w = {w[alike[0]]:g} and {w[alike[1]]:g} look almost alike: a sine needs a longer period"
    return _check_condition(own)


def _check_distance(own: ModuleType) -> str | None:
    weights = (1.0, 0.5, 0.25, 0.25)
    one, other = _drawn(6, 2, 8, 8), _drawn(6, 2, 8, 8, seed=1)
    want = WaveletDistance(weights, norm="square")(one, other)
    slips: tuple[Slip, ...] = (
        (
            "this is the plain mean square: weigh the bands of each level",
            lambda: (one - other).square().flatten(1).mean(1),
        ),
        (
            "the weights are in the wrong order: fine bands come first",
            lambda: WaveletDistance((0.25, 0.5, 1.0, 0.25))(one, other),
        ),
        (
            "the Haar transform must be orthonormal: sums and differences of four, divided by 2",
            lambda: by_hand(one - other, divisor=4),
        ),
        (
            "divide by the number of values in the image, not in the band: a mean per band weighs a level l by 4^l",
            lambda: by_hand(one - other, means=True),
        ),
    )

    def by_hand(x: Tensor, divisor: int = 2, means: bool = False) -> Tensor:
        total, size = torch.zeros(len(x), dtype=x.dtype), x[0].numel()

        def error(band: Tensor) -> Tensor:
            return band.square().flatten(1).sum(1) / (band[0].numel() if means else size)

        for weight in weights[:3]:
            a, b, c, e = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
            for band in (a + b - c - e, a - b + c - e, a - b - c + e):
                total = total + weight * error(band / divisor)
            x = (a + b + c + e) / divisor
        return total + weights[3] * error(x)

    if complaint := _compare(own.distance(one, other), want, "the distance", slips):
        return complaint
    points, others = _drawn(5, 2), _drawn(5, 2, seed=1)
    want = (points - others).square().mean(1)
    return _compare(own.distance(points, others), want, "the distance of points (B, 2), which have no bands,")


def _check_couple(own: ModuleType) -> str | None:
    x0, x1, y = _drawn(48, 2), _drawn(48, 2, seed=1), torch.arange(48) % 3
    want = Coupling(pool=1).couple(x0, x1, y)
    slips: tuple[Slip, ...] = (
        ("the noise is as it was drawn: nothing is coupled yet", lambda: x0),
        (
            "the noise was assigned across classes, so it tells the class: assign within each",
            lambda: Coupling(pool=1, class_aware=False).couple(x0, x1, y),
        ),
    )
    found = own.couple(x0.clone(), x1, y)
    if isinstance(found, Tensor) and found.shape == x0.shape:
        rows = torch.cdist(found, x0).argmin(1)
        if len(rows.unique()) != len(x0) or not torch.allclose(found, x0[rows]):
            return "the noise must be permuted, each row used once: some rows are missing or new"
        same = (y[rows] == y).float().mean().item()
        if same == 1 and not torch.allclose(found, want) and not torch.allclose(found, x0):
            cost, least = ((a - x1).square().sum().item() for a in (found, want))
            worse = f"the squared distance is {cost:.1f}, and {least:.1f} is possible"
            return f"classes are kept, but {worse}: is the assignment inverted?"
    return _compare(found, want, "the noise", slips) or _check_coupled_images(own, x0, x1, y, want)


def _check_coupled_images(own: ModuleType, x0: Tensor, x1: Tensor, y: Tensor, want: Tensor) -> str | None:
    shape = (len(x0), 2, 1, 1)
    try:
        found = own.couple(x0.view(shape), x1.view(shape), y)
    except (IndexError, RuntimeError, ValueError) as error:
        return f"states may be images, {shape}: {error}; flatten(1) them for the distances"
    return _compare(found, want.view(shape), "the noise of images")


def _check_averages(own: ModuleType) -> str | None:
    net = nn.Linear(2, 2)
    kept = own.averages(net)
    if not isinstance(kept, list) or len(kept) != 2:
        return f"averages must return a list of two pairs (network, decay), fast and slow, got {shown(kept)}"
    if any(average is net for average, _ in kept) or kept[0][0] is kept[1][0]:
        return "each average must be a copy of its own: use copy.deepcopy(net)"
    decays = [decay for _, decay in kept]
    if decays[0] > decays[1]:
        return "the fast average must come first: it makes the targets"
    if decays != [0.95, 0.9999]:
        return f"the decays must be 0.95 and 0.9999, got {decays}"
    return None


class _Toy(nn.Module):
    """A network of one weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight, self.null = nn.Parameter(torch.tensor(weight, dtype=torch.float64)), 3

    def forward(self, *asked: Tensor) -> Tensor:
        return self.weight * _field(*asked)


def _of_teacher(teacher: nn.Module, x: Tensor, t: Tensor, w: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """In place of velocity_target: constants that depend on everything it is given."""
    with torch.no_grad():
        return v + 0.1 * teacher(x, t, torch.zeros_like(t), w, y)


def _fourth_power(prediction: Tensor, target: Tensor) -> Tensor:
    """In place of distance."""
    return (prediction - target).square().square().flatten(1).mean(1)


def _check_loss(own: ModuleType) -> str | None:
    own.velocity_target, own.distance = _of_teacher, _fourth_power  # type: ignore[attr-defined]
    return _of_points_and_images(_check_loss_of, own, 16)


def _check_loss_of(own: ModuleType, shape: tuple[int, ...]) -> str | None:
    d = torch.tensor([0.0] * 12 + [2 / N, 0.125, 0.5, 1.0], dtype=torch.float64)
    t, w, y = 0.4 * (1 - d), torch.linspace(0, 3, 16, dtype=torch.float64).flip(0), torch.arange(16) % 3
    x0, x1 = _drawn(*shape), _drawn(*shape, seed=1)
    net, teacher = _Toy(1.0), _Toy(0.7)

    def value(
        answer: nn.Module = net,
        tutor: nn.Module = teacher,
        forward: bool = True,
        split: bool = True,
        rule: Callable[..., Tensor] = _of_teacher,
        measure: Callable[..., Tensor] = _fourth_power,
    ) -> Tensor:
        at = (t if forward else 1 - t).view(-1, *[1] * (len(shape) - 1))
        x, step = torch.lerp(x0, x1, at), d > 0
        target = rule(teacher, x, t, w, y, x1 - x0)
        target[step] = half_steps(tutor, x[step], t[step], d[step], w[step], y[step])
        error = measure(answer(x, t, d, w, y), target)
        return error[~step].mean() + error[step].mean() if split else error.mean()

    slips: tuple[Slip, ...] = (
        ("the path runs backwards: x_t = (1 - t) x0 + t x1, noise at t = 0", lambda: value(forward=False)),
        (
            "one mean over all rows: the mean of the flow rows and that of the consistency rows are added",
            lambda: value(split=False),
        ),
        ("net makes its own targets: half_steps must ask the teacher", lambda: value(tutor=net)),
        (
            "net makes its own targets: velocity_target must ask the teacher",
            lambda: value(rule=lambda _, *rest: _of_teacher(net, *rest)),
        ),
        ("the teacher answers: it only makes targets, net is what is trained", lambda: value(teacher)),
        (
            "velocity_target(...) must make the targets of the flow rows: notebook 04 changes it",
            lambda: value(rule=velocity_target),
        ),
        ("distance(...) must measure the error: notebook 05 changes it", lambda: value(measure=distance)),
    )
    found = own.loss(net, teacher, x0, x1, t, d, w, y)
    if isinstance(found, Tensor) and not found.requires_grad:
        return "the loss has no gradient: only targets belong under torch.no_grad()"
    if complaint := _compare(found, value(), "the loss", slips):
        return complaint
    found.backward()
    if teacher.weight.grad is not None:
        return "the loss has a gradient through its target: targets are constants, make them under torch.no_grad()"
    return None


SLOPE = 4.0  # of the loss that `train` gets here, in each weight


def _check_train(own: ModuleType) -> str | None:
    calls: list[tuple[Any, Any, Tensor, Tensor]] = []
    twin: list[nn.Module] = []
    updates: set[int] = set()
    averaged = own.averaged

    def counted(net: nn.Module, teacher: nn.Module, *batch: Tensor) -> Tensor:
        calls.append((net, teacher, batch[0], next(net.parameters()).detach().clone()))
        return SLOPE * sum((parameter.sum() for parameter in net.parameters()), torch.zeros(()))

    def averages(net: nn.Module) -> list[tuple[nn.Module, float]]:
        twin.extend(copy.deepcopy(net) for _ in range(2))
        return [(twin[-2], 0.5), (twin[-1], 0.9)]

    def update(old: Tensor, new: Tensor, decay: float, count: int) -> Any:
        updates.add(count)
        return averaged(old, new, decay, count)

    own.loss, own.averages, own.averaged = counted, averages, update  # type: ignore[attr-defined]
    torch.manual_seed(0)
    net = own.Net(width=8)
    before = copy.deepcopy(net)
    x, y = _drawn(64, 2).float(), torch.arange(64) % 2
    seen: list[tuple[int, Any]] = []
    average = own.train(net, x, y, steps=20, batch=16, lr=0.01, watch=lambda *told: seen.append(told))
    if average is None:
        return "train returned None: return the average that samples, the last of averages(net)"
    if len(calls) != 20:
        return f"20 steps must make 20 losses, got {len(calls)}"
    if any(call[0] is not net for call in calls):
        return "net must be trained itself: the optimiser has its parameters"
    if torch.equal(calls[0][2], calls[1][2]):
        return "every step sees the same batch: take the next one of pairs(...) each time"
    if all(torch.equal(a, b) for a, b in zip(net.parameters(), before.parameters(), strict=True)):
        return "the weights did not change: is optimiser.step() there, after backward()?"
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    if any((gradient.abs() > 1.5 * SLOPE).any() for gradient in gradients):
        return "gradients add up from step to step: call optimiser.zero_grad() before each backward()"
    if [step for step, _ in seen] != list(range(1, 21)):
        return f"watch must be called with steps 1 to 20, got {[step for step, _ in seen]}"
    return (
        _check_twin(net, twin, before, {call[1] for call in calls}, [average, *(one for _, one in seen)])
        or _check_rate(torch.stack([call[3] for call in calls]), net, updates)
        or _check_dropped(own)
    )


def _check_twin(
    net: nn.Module, twin: list[nn.Module], before: nn.Module, teachers: set[Any], sampling: list[Any]
) -> str | None:
    """Notebook 07 adds a second average: the first is the only teacher, the last one is watched and returned."""
    if net in teachers:
        return "net is its own teacher: the teacher is the first of averages(net)"
    if sampling[0] is net:
        return "train returned the network itself: return the average that samples"
    if len(twin) != 2:
        return f"averages(net) must be called once, before the first step, got {len(twin) // 2} calls"
    if teachers != {twin[0]}:
        return "of averages(net), the first must be the teacher in each step: notebook 07 has two"
    if any(shown is not twin[1] for shown in sampling):
        return "of averages(net), the last must be watched and returned: notebook 07 has two"
    for average in twin:
        if all(torch.equal(a, b) for a, b in zip(average.parameters(), before.parameters(), strict=True)):
            return "the average stayed as it was: update each of averages(net) after optimiser.step()"
    return None


def _check_rate(weights: Tensor, net: nn.Module, updates: set[int]) -> str | None:
    """Adam moves each weight by its rate where gradients are all alike: weights before each step are (20, ...)."""
    moved = torch.cat([weights, next(net.parameters()).detach()[None]]).diff(dim=0).abs().flatten(1).mean(1) / 0.01
    if abs(moved[0] - SLOPE) < 0.2:
        return "a step is as long as the gradient: the optimiser must be Adam, whose steps are as long as its rate"
    k = int((moved[:10] - 1).abs().argmax())
    if abs(moved[k] - 1) > 0.15:
        return f"the rate must be lr in the first half of the run, got {moved[k]:.2f} lr in step {k + 1} of 20"
    if moved[-1] > 0.3:
        return f"the rate must fall to 0 over the second half of the run, got {moved[-1]:.2f} lr in step 20 of 20"
    if updates and updates != set(range(20)):
        return f"updates of the average must be counted from 0, got {min(updates)} to {max(updates)} in 20 steps"
    return None


def _check_dropped(own: ModuleType) -> str | None:
    """A tenth of the flow rows has the null label and w = 0; the others keep label and strength."""
    calls: list[tuple[Tensor, ...]] = []

    def counted(net: nn.Module, teacher: nn.Module, *batch: Tensor) -> Tensor:
        calls.append(batch)
        return sum((parameter.sum() for parameter in net.parameters()), torch.zeros(()))

    own.loss, own.strengths = counted, lambda n, generator: torch.ones(n)  # type: ignore[attr-defined]
    own.couple = lambda x0, x1, y: x0  # type: ignore[attr-defined]  # an assignment of so many rows takes seconds
    torch.manual_seed(0)
    net, y = own.Net(width=8), torch.arange(64) % 2
    own.train(net, torch.stack([y, 1 - y], 1).float(), y, steps=5, batch=1024)
    _, x1, _, d, w, label = (torch.cat(column) for column in zip(*calls, strict=True))
    dropped, flow = label == net.null, d == 0
    if not dropped.any():
        return (
            "no label is dropped: in a random tenth of the flow rows, net.null must replace it, so that w has its zero"
        )
    if (dropped & ~flow).any():
        return "labels of consistency rows are dropped: only those of flow rows, d == 0, may be"
    share = dropped[flow].float().mean().item()
    if not 0.07 < share < 0.13:  # of 3840 rows: six times the deviation of a share of 0.1
        return f"a tenth of the flow rows must lose their labels, got a share of {share:.2f}"
    if not torch.equal(label[~dropped], x1[~dropped, 1].eq(0).long()):
        return "rows that are not dropped must keep the labels that pairs yields for them"
    if (w[dropped] != 0).any():
        return "rows without a label have strengths: w must be 0 there, no class is to be strengthened"
    if (w[~dropped] != 1).any():
        return "rows with a label must get the strengths that strengths(batch, generator) gives"
    return None


def _sampled(
    shift: float = 0.0, asked: float | None = None, long: bool = False, finest: bool = True
) -> Callable[..., Tensor]:
    def wrong(net: Any, x0: Tensor, y: Tensor, w: Tensor, nfe: int) -> Tensor:
        x, ones = x0, torch.ones(len(x0), dtype=x0.dtype)
        for k in range(nfe):
            ask = asked if asked is not None else 0.0 if nfe == N and finest else 1 / nfe
            x = x + net(x, ones * (k + shift) / nfe, ones * ask, w, y) / (1 if long else nfe)
        return x

    return wrong


def _check_sampler(own: ModuleType) -> str | None:
    x0, w, y = _drawn(6, 2), torch.linspace(0, 2, 6, dtype=torch.float64), torch.arange(6) % 3
    slips: tuple[Slip, ...] = (
        ("the time is that of the end of the step: ask at its start, k / nfe", _sampled(shift=1.0)),
        (
            "the network is asked for d = 0 at every NFE, which is an Euler step: ask for the step that is taken",
            _sampled(asked=0.0),
        ),
        ("the answer is a velocity: multiply it by the step size, 1 / nfe", _sampled(long=True)),
        (
            "steps of 1/128 must be asked for as d = 0: the network has no rows for d = 1/128",
            _sampled(finest=False),
        ),
    )
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    strange: list[Any] = []

    def net(x: Tensor, *asked: Any) -> Tensor:
        strange.extend(one for one in asked if not isinstance(one, Tensor) or one.shape != (6,))
        return scale * _field(x, *(torch.as_tensor(one).expand(6) for one in asked))

    for nfe in (1, 2, 4, N):
        given = (_field, x0, y, w, nfe)
        want = sample(_field, x0, y, w=w, nfe=nfe)
        found = own.sampler(net, x0, y, w, nfe)
        if strange:
            return f"the network is asked {shown(strange[0])}: every input has one number per row, (B,)"
        if isinstance(found, Tensor) and found.requires_grad:
            return "the sample has a gradient: call the network under torch.no_grad()"
        if complaint := _compare(found, want, f"the sample of {nfe} steps", slips, given):
            return complaint
        if not torch.equal(x0, _drawn(6, 2)):
            return "the noise x0 itself was changed: += writes into it, x = x + ... does not"
    return None


CHECKS: dict[str, Callable[[ModuleType], str | None]] = {
    "condition": _check_condition,
    "Net": _check_net,
    "rows": _check_rows,
    "half_steps": _check_half_steps,
    "averaged": _check_averaged,
    "velocity_target": _check_velocity_target,
    "distance": _check_distance,
    "strengths": _check_strengths,
    "couple": _check_couple,
    "averages": _check_averages,
    "loss": _check_loss,
    "train": _check_train,
    "sampler": _check_sampler,
}

# ---------------------------------------------------------------- the file

MARK = re.compile(r"^# ---- (\w+): (yours|the kit's)\n", re.MULTILINE)


class Workbook:
    """The reader's own shortcut model, a file that runs by itself: their pieces, and the kit's for those not written.

    Args:
        path: of the file; by default ``my_shortcut.py`` in the output folder.

    Example:
        A piece with a common mistake is not kept, and the kit's stands in:

        >>> import tempfile
        >>> from ismkit.lessons import Workbook
        >>> def averaged(old, new, decay, updates):
        ...     decay = min(decay, (1 + updates) / (10 + updates))
        ...     return (1 - decay) * old + decay * new
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mine = Workbook(f"{folder}/my_shortcut.py")
        ...     mine.check("01b.5", averaged)
        ...     mine.load().averaged(0.0, 1.0, 0.9, updates=0)
        ...     mine.lines(), mine.has("averaged")
        exercise 01b.5: not yet. averaged: after update 0: old and new are swapped: the decay belongs to the old value.
        my_shortcut.py: nothing is yours yet, the kit's pieces stand in
        0.9
        (0, False)
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path) if path is not None else out_dir() / "my_shortcut.py"

    def check(self, name: str, *pieces: Callable[..., Any]) -> None:
        """Check pieces that the reader wrote, print what came out, and put them into the file if all are right.

        Errors in a piece are printed, not raised, so that the notebook continues.

        Args:
            name: of the exercise, such as "01b.1".
            pieces: functions or classes of a notebook or a file, under the names that the file has for them; as long as
                one returns ``...`` it counts as not written.

        Raises:
            TypeError: if a piece is not a function or class.
            ValueError: for a name that the file has no place for.
        """
        written = {}
        for piece in pieces:
            if not inspect.isfunction(piece) and not inspect.isclass(piece):
                raise TypeError(f"pieces must be functions or classes, got {shown(piece)}")
            if piece.__name__ not in CHECKS:
                raise ValueError(f"pieces must be named one of {', '.join(CHECKS)}, got {piece.__name__}")
            written[piece.__name__] = source_of(piece)
        if blank := [called for called, source in written.items() if unwritten(source)]:
            print(f"exercise {name}: to do. Write the body of {' and '.join(blank)}, and run the cell again.")
            return
        together = self._own() | written  # what the reader wrote earlier must fit, not the kit's in its place
        for called in written:
            test = _check_strong_condition if called == "condition" and "strengths" in together else CHECKS[called]
            try:
                complaint = test(self._module(together))
            except Exception as error:
                complaint = f"{called} raised {type(error).__name__}: {error}"
                if isinstance(error, NameError):
                    complaint += "; the file imports copy, math, torch, Tensor and nn: import others in the function"
                elif isinstance(error, TypeError) and "NoneType" in str(error):
                    complaint += "; a function without `return` returns None"
            if complaint:
                print(f"exercise {name}: not yet. {called}: {complaint}{'' if complaint.endswith('?') else '.'}")
                return
        self._write(together)
        print(f"exercise {name}: solved")

    def has(self, *names: str) -> bool:
        """Say whether the file has the reader's own pieces under all of these names.

        Args:
            names: of pieces, such as "strengths".

        Raises:
            ValueError: for a name that the file has no place for.
        """
        for name in names:
            if name not in CHECKS:
                raise ValueError(f"names must be among {', '.join(CHECKS)}, got {shown(name)}")
        return set(names) <= set(self._own())

    def load(self) -> ModuleType:
        """Load the model that the file describes, and print in a line which of its pieces are the reader's.

        Returns:
            A module with all pieces: ``Net``, ``train``, ``sampler`` and those that they call.

        Raises:
            SyntaxError: if the file was edited and does not parse.
        """
        own = self._own()
        if not own:
            print(f"{self.path.name}: nothing is yours yet, the kit's pieces stand in")
        elif rest := [piece for piece in PIECES if piece not in own and piece in CHECKS]:
            print(f"{self.path.name}: {', '.join(own)} yours; the kit's stand in for {', '.join(rest)}")
        else:
            print(f"{self.path.name}: every piece is yours")
        return self._module(own)

    def lines(self) -> int:
        """Count the lines of the reader's own pieces, without empty ones."""
        return sum(bool(line.strip()) for source in self._own().values() for line in source.splitlines())

    def _own(self) -> dict[str, str]:
        """The reader's pieces that the file has."""
        if not self.path.is_file():
            return {}
        _, *parts = MARK.split(self.path.read_text(encoding="utf-8"))
        found = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
        return {name: source.strip() for name, whose, source in found if whose == "yours"}

    def _text(self, own: dict[str, str]) -> str:
        parts = [HEADER]
        for name, source in PIECES.items():
            parts.append(
                f"# ---- {name}: {'yours' if name in own else 'the kit' + chr(39) + 's'}\n{own.get(name, source)}\n"
            )
        return "\n\n".join(parts)

    def _write(self, own: dict[str, str]) -> None:
        with replacing(self.path) as file:
            file.write(self._text(own).encode())

    def _module(self, own: dict[str, str]) -> ModuleType:
        text, module = self._text(own), ModuleType("my_shortcut")
        # Tracebacks show the lines of a text that is no file once linecache has them.
        linecache.cache[str(self.path)] = (len(text), None, text.splitlines(keepends=True), str(self.path))
        exec(compile(text, str(self.path), "exec"), module.__dict__)
        return module


def source_of(piece: Callable[..., Any]) -> str:
    """Read the source of a function or class that was defined in a notebook's cell or in a file.

    Raises:
        OSError: if its source was not kept where it was defined.
    """
    function = inspect.unwrap(piece)  # of a decorated function the code is the decorator's
    if inspect.isclass(piece):  # inspect finds no source of a class that a cell defines
        methods = [value for value in vars(piece).values() if inspect.isfunction(value)]
        if not methods:
            return f"class {piece.__name__}:\n    ..."
        function = inspect.unwrap(methods[0])
    text = "".join(linecache.getlines(function.__code__.co_filename))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == piece.__name__:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            return textwrap.dedent("\n".join(text.splitlines()[first - 1 : node.end_lineno]))
    raise OSError(f"the source of {piece.__name__} is not to be found: define it in a cell of the notebook")


def unwritten(source: str) -> bool:
    """Say whether a function or class still holds a placeholder, ``...``, in place of code."""
    return any(
        isinstance(node, ast.Return | ast.Expr | ast.Assign)
        and isinstance(node.value, ast.Constant)
        and node.value.value is ...
        for node in ast.walk(ast.parse(source))
    )
