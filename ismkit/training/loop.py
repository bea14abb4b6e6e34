"""The loop around the training step: the same for a 2D toy in a notebook and for SiT-XL/2 on many GPUs.

The step itself is :func:`ismkit.method.recipes.training_step`. The checks are here too: of settings that do not fit,
before any work, and of losses that are not finite.
"""

from __future__ import annotations

import inspect
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ismkit.data.batches import Batches
from ismkit.method.coupling import Coupling
from ismkit.method.ema import TwinEMA
from ismkit.method.path import Query, grid_of
from ismkit.method.recipes import Context, Recipe, checked, training_step
from ismkit.training import checkpoint, distributed
from ismkit.training.checkpoint import resume_run, save_run
from ismkit.training.costs import StandIn, networks_answer, with_stand_ins
from ismkit.training.distributed import is_wrapped, on_main_process
from ismkit.training.options import Engine, Saving
from ismkit.utils.checks import as_integer, check_count, check_kind, shown
from ismkit.utils.keys import identity
from ismkit.utils.progress import progress_bar
from ismkit.utils.seeding import stream
from ismkit.utils.settings import check_types
from ismkit.utils.workers import collection_paused


@dataclass(frozen=True)
class Optim:
    """AdamW and its schedule: linear warm-up, constant, linear cool-down to zero.

    Attributes:
        lr: peak learning rate (SM: 1e-4).
        betas: AdamW's (SM: 0.9, 0.999).
        weight_decay: AdamW's (SM: 0.1).
        warmup: steps of linear warm-up.
        cooldown: fraction of all steps, at the end, in which the rate falls to zero; 0 keeps it constant (SM).
        clip: bound on the gradient's norm; infinite for none.

    Raises:
        ValueError: for a setting outside its range; the message names it.

    Example:
        >>> from ismkit import Optim
        >>> optim = Optim(lr=1.0, warmup=3, cooldown=0.4)
        >>> [optim.rate(step, steps=10) for step in range(10)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
        >>> Optim(cooldown=50)
        Traceback (most recent call last):
        ValueError: cooldown must be a fraction of the steps in [0, 1], got 50
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.1
    warmup: int = 0
    cooldown: float = 0.0
    clip: float = float("inf")

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive and finite, got {self.lr}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0 and finite, got {self.weight_decay}")
        if self.warmup < 0:
            raise ValueError(f"warmup must be 0 or more steps, got {self.warmup}")
        if not 0 <= self.cooldown <= 1:
            raise ValueError(f"cooldown must be a fraction of the steps in [0, 1], got {self.cooldown}")
        if not self.clip > 0:
            raise ValueError(f"clip must be positive (infinite for none), got {self.clip}")

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step ``step`` (0 .. steps - 1)."""
        up = (step + 1) / (self.warmup + 1)
        down = (steps - step) / (self.cooldown * steps) if self.cooldown else 1.0
        return self.lr * min(1.0, up, down)


class DivergenceError(RuntimeError):
    """A loss or a gradient was not finite; the message names the step and the last good checkpoint."""


def check(
    recipe: Recipe,
    net: nn.Module,
    batches: Batches,
    steps: int,
    seed: int,
    engine: Engine,
    accelerator: Accelerator,
) -> tuple[int, int]:
    """Steps and seed as Python's integers; ValueError unless the parts of a training fit together."""
    steps, seed = check_count("steps", steps), as_integer(seed)
    check_kind("recipe", recipe, Recipe)
    check_kind("net", net, nn.Module)
    if not isinstance(batches, Batches):
        remedy = "Batches(loader.dataset, batch_size, seed)" if hasattr(batches, "dataset") else "Batches(data, ...)"
        raise ValueError(f"batches must be {remedy}, got {type(batches).__name__}")
    _check_accelerator(accelerator, engine)
    check_parts(recipe, net, batches, accelerator.mixed_precision, warn=accelerator.is_main_process)
    if not distributed.is_sharding(accelerator):  # there may be no room for all of it on one device
        on_main_process(accelerator, partial(_check_first_rows, recipe, net, batches, accelerator))
    return steps, seed


def check_parts(recipe: Recipe, net: nn.Module, batches: Batches, precision: str = "no", warn: bool = True) -> None:
    """Raise ValueError unless recipe, network and data fit together; ``warn`` of assignments that take long."""
    if is_wrapped(net):
        raise ValueError(
            f"net must be the plain network, got a {type(net).__name__}: fit compiles, wraps and shards it"
        )
    if not isinstance(getattr(net, "num_classes", None), int):
        raise ValueError(f"net must have the attribute num_classes (int), {type(net).__name__} has none")
    _check_weights(net)
    if (classes := batches.num_classes or 0) > net.num_classes:  # type: ignore[operator]
        raise ValueError(f"net knows {net.num_classes} classes, but the data has {classes}")
    recipe.rows.blocks(batches.batch_size)
    if needs_float32(recipe) and precision != "no":
        raise ValueError(
            f"the recipe {recipe.name} needs precision='no', got {precision!r}: what it compares is "
            "nearer than that can tell"
        )
    if (grid := grid_of(net)) not in (None, recipe.rows.grid):
        raise ValueError(
            f"recipe.rows.grid must be that of net, n = {grid.n}, got n = {recipe.rows.grid.n}: "
            "build the network with grid=recipe.rows.grid"
        )
    shape, fits = getattr(batches.data, "shape", None), getattr(recipe.distance, "check_shape", None)
    if shape is not None and fits is not None:
        fits((batches.batch_size, *shape))
    _check_assignments(recipe.coupling, batches, warn)
    if warn:
        _warn_of_scale(batches)


def _check_weights(net: nn.Module) -> None:
    """Raise ValueError unless there are weights to train, in the type of the data."""
    wanted, weights = torch.get_default_dtype(), list(net.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    if not trained:
        remedy = ": all are frozen, net.requires_grad_(True) trains them" if weights else ""
        raise ValueError(f"net must have weights to train, {type(net).__name__} has none{remedy}")
    if other := [weight.dtype for weight in trained if weight.dtype != wanted]:
        raise ValueError(
            f"net must have its weights in {wanted}, got {other[0]}: net.to({wanted}). To compute in half of the bits, "
            "Engine(precision='bf16')"
        )


FEW = 16  # rows that a network is asked before step 1


def _check_first_rows(recipe: Recipe, net: nn.Module, batches: Batches, accelerator: Accelerator) -> None:
    """Refuse rows and a network that a step cannot be made of: asked of one sample, where and how it will compute."""
    null, device, size = int(net.num_classes), accelerator.device, batches.batch_size  # type: ignore[arg-type]
    # Global generators that layers may draw from.
    drawn = [device] if device.type == "cuda" and torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=drawn), accelerator.autocast():
        x1 = torch.as_tensor(batches.data[0][0]).to(device, torch.get_default_dtype())
        x1, y = x1.expand(size, *x1.shape), torch.arange(size, device=device) % null
        rng = stream(0, "tried", device=device)
        rows = in_one_line("recipe.rows fails", recipe.rows, torch.zeros_like(x1), x1, y, null, rng)
        try_network(net.to(device), check_query(rows, x1, null).take(slice(FEW)), null)


def check_query(drawn: Any, x1: Tensor, null: int) -> Query:
    """Give the query that rows have drawn for data; ValueError for what is none, or asks what cannot be asked.

    Args:
        drawn: what rows return, a query and the velocity.
        x1: the data, (B, ...).
        null: the null label.

    Example:
        >>> import torch
        >>> from ismkit.method.path import Query
        >>> from ismkit.training.loop import check_query
        >>> x1, y = torch.zeros(3, 2), torch.tensor([0, 1, 2])
        >>> query = Query(x1, torch.rand(3), torch.zeros(3), torch.zeros(3), y)
        >>> check_query((query, x1), x1, null=2) is query
        True
        >>> check_query((query._replace(t=query.t + 5), x1), x1, null=2)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: recipe.rows must draw t in [0, 1], got 5...
    """
    if not isinstance(drawn, tuple) or len(drawn) != 2 or not isinstance(drawn[0], Query):
        got = type(drawn).__name__ + f" of {len(drawn)}" * isinstance(drawn, tuple)
        raise ValueError(f"recipe.rows must return (query, velocity), a Query and a tensor like the data, got {got}")
    query, velocity = drawn
    shapes = {"velocity": x1.shape, "x": x1.shape} | dict.fromkeys("tdwy", x1.shape[:1])
    for name, shape in shapes.items():
        value = velocity if name == "velocity" else getattr(query, name)
        if getattr(value, "shape", None) != shape:
            raise ValueError(f"recipe.rows must return {name} of shape {tuple(shape)}, got {shown(value)}")
    slack = 1e-4  # of sums of float32, and of lower precisions
    allowed: dict[str, tuple[Tensor, float, float]] = {
        "t": (query.t, 0, 1),
        "d": (query.d, 0, 1),
        "t + d": (query.t + query.d, 0, 1),
    }
    allowed |= {"w": (query.w, 0, math.inf), "y": (query.y, 0, null)}
    for name, (values, low, high) in allowed.items():
        ends = values.min().item(), values.max().item()
        if not low - slack <= ends[0] <= ends[1] <= high + slack:
            raise ValueError(f"recipe.rows must draw {name} in [{low}, {high}], got {ends[0]:g} to {ends[1]:g}")
    return query


def try_network(net: nn.Module, query: Query, null: int) -> None:
    """Ask a network; ValueError if it does not take the samples, or does not answer as a training needs.

    Args:
        net: left in eval mode.
        query: of a few rows.
        null: the null label, which the last of them is asked for.

    Example:
        >>> import torch
        >>> from ismkit import ToyMLP
        >>> from ismkit.method.path import Query
        >>> from ismkit.training.loop import try_network
        >>> zero, y = torch.zeros(3), torch.tensor([0, 1, 2])
        >>> net = ToyMLP(dim=2, width=8, depth=1, num_classes=4)
        >>> try_network(net, Query(torch.zeros(3, 2), zero, zero, zero, y), null=4)
        >>> try_network(net, Query(torch.zeros(3, 5), zero, zero, zero, y), null=4)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: net must take samples (5,), as the data has: ...
    """
    samples = f"samples {tuple(query.x.shape[1:])}, as the data has"
    asked = query._replace(y=torch.cat([query.y[:-1], torch.full_like(query.y[-1:], null)]))
    versions = [part._version for part in asked]
    with torch.no_grad():
        try:
            answer = net.eval()(*asked)
        except Exception:  # code of anyone
            named = query._replace(y=query.y.masked_fill(query.y == null, 0))
            in_one_line(f"net must take {samples}", net, *named)
            answer = in_one_line(
                f"net must take the null label {null}, its num_classes, beside the classes", net, *asked
            )
    if getattr(answer, "shape", None) != query.x.shape:
        got = shown(answer) if isinstance(answer, Tensor) else type(answer).__name__
        raise ValueError(f"net must return {samples}, one for each row, got {got}")
    if answer.dtype not in (query.x.dtype, torch.bfloat16, torch.float16):
        raise ValueError(f"net must return numbers of the type of its samples, {query.x.dtype}, got {answer.dtype}")
    changed = [
        name for name, part, before in zip(Query._fields, asked, versions, strict=True) if part._version > before
    ]
    if changed:
        raise ValueError(f"net must leave its inputs as they are, got one that changes {changed[0]} in place")


def in_one_line(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that may be code of anyone.

    Args:
        what: fails, for the message.
        function: to be called.
        arguments: of it.

    Returns:
        What it returns.

    Raises:
        ValueError: of one line, for whatever it raises.

    Example:
        >>> from ismkit.training.loop import in_one_line
        >>> in_one_line("judge fails", int, "two")
        Traceback (most recent call last):
        ValueError: judge fails: invalid literal for int() with base 10: 'two'
    """
    try:
        return function(*arguments)
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}, "
        raise ValueError(f"{what}: {kind}{' '.join(str(error).split())}") from error


def _warn_of_scale(batches: Batches) -> None:
    """Warn of samples in memory that are far larger or smaller than the noise they are mixed with."""
    x = getattr(batches.data, "x", None)
    if not isinstance(x, Tensor) or x.is_meta:
        return
    size = x[:SOME].float().square().mean().sqrt().item()
    if UNLIKE < size < math.inf or 0 < size < 1 / UNLIKE:  # what is not finite is refused elsewhere
        remedy = ": pictures of 0 .. 255 are scaled by x / 127.5 - 1" if size > UNLIKE else ""
        warnings.warn(
            f"the data has a root mean square of {size:.2g}, the noise one of 1: the recipes' times and weights are "
            f"for data of about the size of the noise{remedy}",
            stacklevel=5,
        )


def needs_float32(recipe: Recipe) -> bool:
    """Whether a recipe's rule says, by an attribute of this name, that it is lost in a lower precision."""
    return getattr(recipe.target, "needs_float32", False) is True


def check_options(
    optim: Optim | None, engine: Engine | None, saving: Saving | None, hooks: Any
) -> tuple[Optim, Engine, Saving]:
    """The groups of options, by default as they come; TypeError for other types."""
    found: list[Any] = []
    for name, given, kind in (("optim", optim, Optim), ("engine", engine, Engine), ("saving", saving, Saving)):
        found.append(kind() if given is None else given)
        check_kind(name, found[-1], kind)
    if not isinstance(hooks, Sequence) or not all(map(callable, hooks)):
        raise TypeError(f"hooks must be functions (state, report), got {shown(hooks)}")
    return found[0], found[1], found[2]


ALIKE = 2  # rows of a class in a pool, below which most of them have no other to be exchanged with
PAPERS = 8  # rows of a class in the paper's pool of 8192, if classes are as many and as even as ImageNet's
SOME = 1000  # rows that the size of the data is taken from
UNLIKE = 10  # times the noise, or a tenth of it: no recipe is meant for such data
LARGE = 4096  # rows in one assignment, above which exact ones take longer than the steps that they serve
MOST = 65_536  # rows in one assignment, above which the products of all pairs take more than 17 GB


def _check_assignments(coupling: Coupling, batches: Batches, warn: bool) -> None:
    """Refuse assignments that no machine can make; warn of those that take most of the time, or pair nothing."""
    labels, rows = getattr(batches.data, "y", None), coupling.pool * batches.batch_size
    largest = typical = 1.0  # shares of a pool that one class has: the largest, and that of a row drawn at random
    if coupling.class_aware and isinstance(labels, Tensor):
        counts, grouped = labels.bincount(), 1 / (coupling.classes or math.inf)
        largest = max(int(counts.max()) / batches.size, grouped)
        typical = max(int(counts.square().sum()) / batches.size**2, grouped)
    if coupling.pool and (together := round(rows * largest)) > MOST:
        enough = int(MOST / largest) // batches.batch_size
        raise ValueError(
            f"recipe.coupling.pool must be at most {enough} with a batch_size of {batches.batch_size}, got "
            f"{coupling.pool}: {together} rows would be in one assignment, and at most {MOST} can be"
        )
    if warn and coupling.solver is None and (together := round(rows * largest)) > LARGE:
        enough = max(1, int(LARGE / largest) // batches.batch_size)
        warnings.warn(
            f"about {together} rows are in one assignment (pool {coupling.pool} x batch_size {batches.batch_size}, the "
            f"largest class {largest:.0%}): 8192 take some 12 s of a core for {coupling.pool} steps, twice as many "
            f"five times as long; recipe.coupling.pool {enough} has at most {LARGE}",
            stacklevel=5,
        )
    if warn and coupling.pool and (alike := rows * typical) < ALIKE:
        enough = math.ceil(PAPERS / typical / batches.batch_size)
        warnings.warn(
            f"noise is assigned within classes, but a pool has about {alike:.2g} rows of a class (pool {coupling.pool} "
            f"x batch_size {batches.batch_size}): next to nothing is coupled. recipe.coupling.pool {enough} has "
            f"{PAPERS}, 0 spares the work",
            stacklevel=5,
        )


def _check_accelerator(accelerator: Accelerator, engine: Engine) -> None:
    processes, count = accelerator.num_processes, engine.micro_batches or 0
    if processes == 1 < (launched := int(os.environ.get("WORLD_SIZE", "1"))):
        raise ValueError(  # each would train alone, all into one folder
            f"accelerator knows of 1 process, but {launched} were launched: "
            "make it by ismkit.training.distributed.accelerator()"
        )
    if count % processes:
        raise ValueError(f"micro_batches must be a multiple of the {processes} processes, got {count}")
    if (steps := accelerator.gradient_accumulation_steps) != 1:
        raise ValueError(
            f"accelerator must have gradient_accumulation_steps=1, got {steps}: accumulate by Engine(micro_batches=...)"
        )
    if accelerator.mixed_precision == "fp16":  # its loss scaling steps over gradients that are not finite
        raise ValueError("accelerator has mixed_precision 'fp16': use 'bf16' or 'no'")


def check_folder(
    saving: Saving, optim: Optim, recipe: Recipe, batches: Batches, steps: int, accelerator: Accelerator
) -> None:
    """Raise ValueError, on every process, unless ``saving`` fits the checkpoints that its folder holds."""
    if (folder := saving.folder) is None:
        if saving.resume or saving.save_every is not None or saving.model_every:
            raise ValueError("resume, save_every and model_every need a folder, that of the checkpoints")
    elif not saving.resume and (done := on_main_process(accelerator, lambda: checkpoint.saved_steps(folder))):
        raise ValueError(f"{folder} holds checkpoints up to step {done[-1]}: resume, or take another folder")
    else:
        planned = _check_length(folder, saving, optim, steps, accelerator)
        if planned not in (None, steps) and _changes(recipe, batches, planned, steps):
            raise ValueError(
                f"steps must be {planned}, as {folder} was started with, got {steps}: the recipe {recipe.name} changes "
                "with the share of the run that is done. Take another folder"
            )


def _check_length(folder: Path, saving: Saving, optim: Optim, steps: int, accelerator: Accelerator) -> int | None:
    """The steps a run was started with; ValueError, on every process, unless it can be resumed to ``steps`` in all."""

    def read() -> tuple[int, int | None] | None:
        done = [saving.from_step] if saving.from_step else checkpoint.saved_steps(folder)
        return (done[-1], checkpoint.saved_setting(folder, done[-1], "steps")) if done else None

    if (held := on_main_process(accelerator, read)) is None:
        return None
    done, planned = held
    if steps < done:
        raise ValueError(f"steps must be at least the {done} that are done in {folder}, got {steps}")
    if planned and optim.rate(done - 1, steps) != optim.rate(done - 1, planned):
        raise ValueError(
            f"steps must be {planned}, as {folder} was started with, got {steps}: its learning rate had begun to fall "
            f"by step {done}. Resume from an earlier step, or take another folder"
        )
    return planned


def _changes(recipe: Recipe, batches: Batches, planned: int, steps: int) -> bool:
    """Whether a run of ``steps`` has other targets on the way than one of ``planned``: tried on a few rows."""
    rng, x = torch.Generator().manual_seed(0), torch.as_tensor(batches.data[0][0]).float()
    x = x * torch.linspace(-1, 1, 64).reshape(-1, *[1] * x.ndim)
    query, velocity = recipe.rows(x, x.flip(0) ** 2, torch.zeros(64, dtype=torch.long), 1, rng)

    def wave(net: nn.Module, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return torch.sin(x + (t + 2 * d + 3 * w + y).reshape(-1, *[1] * (x.ndim - 1)))

    rule, net = with_stand_ins(recipe.target, wave), StandIn(wave)

    @torch.no_grad()
    def answer(progress: float) -> list[Tensor]:
        context = Context(net, net, 1, progress, torch.Generator().manual_seed(0))
        with networks_answer(wave):
            return [torch.as_tensor(part) for part in rule(query, velocity, recipe.rows, context)]

    shares = [step / 16 for step in range(16)]
    return any(
        not torch.equal(a, b)
        for share in shares
        for a, b in zip(answer(share), answer(share * planned / steps), strict=True)
    )


def settings_of(
    recipe: Recipe, net: nn.Module, batches: Batches, optim: Optim, seed: int, engine: Engine, accelerator: Accelerator
) -> dict[str, Any]:
    """What a training depends on, for its checkpoints; ValueError for what cannot be told from something else.

    A network counts by its class and ``config``; where it has none, by what it prints and the numbers, texts and
    functions that its modules hold as attributes. The number of steps does not count: it only changes the schedule, see
    :func:`check_folder`.
    """
    grid = getattr(getattr(net, "conditioning", None), "grid", None)
    settings = {
        "recipe": recipe,
        "optim": optim,
        "seed": seed,
        "data": batches.settings,
        "net": {"class": type(net), "config": getattr(net, "config", None) or _attributes(net), "grid": grid},
        "precision": accelerator.mixed_precision,
    }
    return {**identity(settings), "micro_batches": engine.micro_batches}  # a number: a resumed run reads it


def _attributes(net: nn.Module) -> dict[str, Any]:
    """What a network prints, and the settings in attributes of its modules, by their path."""
    known = {*vars(nn.Module()), "step_lengths"}  # which `fit` writes
    found: dict[str, Any] = {"printed": str(net)}
    for path, part in net.named_modules():
        held = {name: value for name, value in vars(part).items() if name not in known and _is_setting(value)}
        found |= {f"{path}.{name}" if path else name: value for name, value in held.items()}
    return found


def _is_setting(value: Any) -> bool:
    """Whether a value is made of numbers, texts and functions that are recognised, and of nothing else."""
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return all(map(_is_setting, value.values() if isinstance(value, Mapping) else value))
    if not callable(value):
        return value is None or isinstance(value, bool | int | float | complex | str)
    with suppress(ValueError):
        return bool(identity(value))
    return False


def finite_losses(recent: list[Tensor], step: int, folder: Path | None) -> list[float]:
    """The losses of the latest steps, emptied out of ``recent``; raises at the first that is not finite."""
    rows = torch.stack(recent).tolist()
    recent.clear()
    for i, (loss, grad_norm) in enumerate(rows):
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            saved = checkpoint.saved_steps(folder) if folder is not None else []
            kept = f"the last good checkpoint is of step {saved[-1]} in {folder}" if saved else "no checkpoint exists"
            how = f". From there: --folder {folder} --resume --accept optim.lr, or optim.clip" if saved else ""
            raise DivergenceError(
                f"step {step - len(rows) + i + 1}: loss {loss}, gradient norm {grad_norm}; {kept}. "
                f"A lower learning rate or a bound on the gradient (Optim.clip) is the usual cure{how}."
            )
    return [loss for loss, _ in rows]


FLUSH_EVERY = 20  # steps between reads of the losses: a read waits for the device


@dataclass
class TrainState:
    """What :func:`fit` returns and its hooks see.

    Attributes:
        net: the online network, unwrapped; sharded under FSDP2.
        ema: its twin averages, sharded alike; sample with ``ema.slow``, on one process with
            ``distributed.unsharded(ema.slow)``.
        optimizer: AdamW.
        step: optimiser steps done.
        losses: the loss of every step done in this call, the mean over all processes.
        changes: settings that were changed on the way, see ``Saving.accept``: of each the step from which on, its name,
            and what was saved and is now, as texts.

    Example:
        >>> import torch
        >>> from ismkit import RECIPES, Batches, Optim, ToyMLP, eight_gaussians, fit, sample
        >>> _, data = torch.manual_seed(0), eight_gaussians(2048, seed=0)
        >>> net, batches = ToyMLP(width=32, depth=1), Batches(data, 128, seed=0)
        >>> state = fit(RECIPES["flow"], net, batches, steps=100, optim=Optim(lr=1e-2), progress=False)
        >>> state.step, sum(state.losses[-10:]) < 0.7 * sum(state.losses[:10])
        (100, True)
        >>> x1 = sample(state.ema.slow, torch.randn(64, 2), torch.arange(64) % 8, nfe=4)
        >>> tuple(x1.shape)
        (64, 2)
    """

    net: nn.Module
    ema: TwinEMA
    optimizer: torch.optim.Optimizer
    step: int = 0
    losses: list[float] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class StepReport:
    """What a hook gets after each step (tensors stay on the device: reading them waits for it).

    Attributes:
        step: optimiser steps done, from 1 on.
        loss: scalar, the mean over all processes.
        query: the network's inputs in the last micro-batch.
        distance: its error per row, (B,), on this process: average it by ``query.t, query.d, query.w``.
        grad_norm: norm of the gradient before clipping, over all processes.
        lr: learning rate of this step.

    Example:
        A hook that prints the learning rate and counts the consistency rows of each step, those with ``d > 0``:

        >>> from ismkit import RUNS, Batches, Optim, ToyMLP, eight_gaussians, fit
        >>> def show(state, report):
        ...     consistency = report.query.d > 0
        ...     print(f"step {report.step}: lr {report.lr:g}, {int(consistency.sum())} of {len(consistency)} rows")
        >>> batches = Batches(eight_gaussians(512, seed=0), 64, seed=0)
        >>> optim = Optim(lr=0.004, warmup=3)
        >>> recipe = RUNS["gaussians"].recipe
        >>> state = fit(recipe, ToyMLP(width=16, depth=1), batches, steps=2, optim=optim, hooks=[show], progress=False)
        step 1: lr 0.001, 16 of 64 rows
        step 2: lr 0.002, 16 of 64 rows
    """

    step: int
    loss: Tensor
    query: Query
    distance: Tensor
    grad_norm: Tensor
    lr: float


Hook = Callable[[TrainState, StepReport], Any]


def fit(
    recipe: Recipe,
    net: nn.Module,
    batches: Batches,
    *,
    steps: int,
    optim: Optim | None = None,
    seed: int = 0,
    engine: Engine | None = None,
    saving: Saving | None = None,
    hooks: Sequence[Hook] = (),
    progress: bool | None = None,
    accelerator: Accelerator | None = None,
) -> TrainState:
    """Train ``net`` by ``recipe`` until ``steps`` optimiser steps are done.

    Every random number is a function of (seed, step, micro-batch), so a resumed run equals an uninterrupted one, and so
    does one with another number of processes, in the same mode or another, as long as ``engine.micro_batches`` stays.

    What can go wrong loses the steps since the last checkpoint at most: a kill or a full disk while one is written
    leaves the earlier ones (:mod:`ismkit.training.checkpoint`); a number that is not finite ends the run before the
    next is written; a process that dies or hangs ends the others, and a scheduler's signal loses nothing
    (:mod:`ismkit.training.distributed`). An error on the main process while it reads or writes is raised on all of
    them.

    Args:
        recipe: the method, a value of ``RECIPES`` or your own.
        net: a network ``net(x, t, d, w, y)`` with the attribute ``num_classes``; trained in place.
        batches: the data; its ``batch_size`` is the size of one micro-batch.
        steps: optimiser steps in all, those of a resumed run included.
        optim: AdamW's settings and schedule.
        seed: seed of noise, rows and labels dropped.
        engine: processes, precision, compilation, memory, micro-batches; by default one process in float32.
        saving: folder and interval of the checkpoints, and whether to resume; by default nothing is written.
        hooks: called after each step with (state, report), on the main process; one that has the attribute
            ``everywhere``, true, on every process, as it must be if it runs a network that is sharded. One that has
            a method ``resumed(state)`` has it called where a run is resumed, before its next step.
        progress: show a progress bar; by default unless the environment says CI.
        accelerator: Accelerate's, where there is one already; by default made for ``engine``.

    Returns:
        The final state.

    Raises:
        ValueError: for settings that do not fit, before any work: a network of fewer classes than the data or of
            another grid than the recipe's, a wavelet distance on samples that it cannot split, rows that ask what
            cannot be asked, a network that does not answer as it must, and others; also if another training works in
            the folder.
        UserWarning: a warning, if the assignments of the coupling are so large that they will take most of the time,
            if a pool that is assigned within classes has fewer than two rows of a class, or if the data are far larger
            or smaller than the noise.
        DivergenceError: if a loss or gradient is not finite; no checkpoint is written from that step on.
        CheckpointError: if the checkpoint to resume from is missing, truncated or altered, or one cannot be written.
        Preempted: after SIGTERM or SIGUSR1, if there is a folder, when its checkpoint has been written.

    Example:
        >>> from ismkit import RECIPES, Batches, ToyMLP, eight_gaussians, fit
        >>> data = eight_gaussians(512, seed=0)
        >>> state = fit(RECIPES["flow"], ToyMLP(width=16, depth=1), Batches(data, 64, seed=0), steps=3, progress=False)
        >>> state.step, len(state.losses)
        (3, 3)
    """
    optim, engine, saving = check_options(optim, engine, saving, hooks)
    accelerator = accelerator or distributed.accelerator(engine.mode, engine.precision)
    engine = with_micro_batches(engine, saving, accelerator)
    steps, seed = check(recipe, net, batches, steps, seed, engine, accelerator)
    with distributed.alone_in(saving.folder, accelerator):
        return _fit(recipe, net, batches, steps, optim, seed, engine, saving, hooks, progress, accelerator)


def _fit(
    recipe: Recipe,
    net: nn.Module,
    batches: Batches,
    steps: int,
    optim: Optim,
    seed: int,
    engine: Engine,
    saving: Saving,
    hooks: Sequence[Hook],
    progress: bool | None,
    accelerator: Accelerator,
) -> TrainState:
    """The training, when its parts are known to fit and no other writes into its folder."""
    check_folder(saving, optim, recipe, batches, steps, accelerator)
    saves = saving.folder is not None
    settings = settings_of(recipe, net, batches, optim, seed, engine, accelerator) if saves else {}
    state = _prepare(recipe, net, optim, engine, accelerator)
    if saving.folder is not None and saving.resume:
        state.step = resume_run(saving, state, settings, accelerator)
    called = [hook for hook in hooks if accelerator.is_main_process or getattr(hook, "everywhere", False)]
    for hook in called if state.step else []:
        getattr(hook, "resumed", lambda state: None)(state)
    if (start := state.step) >= steps:
        return state
    intervals = [every for every in (saving.save_every, saving.model_every) if every]
    micro = _MicroBatches(recipe, state, batches, seed, steps, engine, accelerator)
    recent: list[Tensor] = []
    show = progress if accelerator.is_main_process else False
    with micro, ExitStack() as at_end:
        bar = at_end.enter_context(progress_bar(show=show, total=steps, initial=start, desc=recipe.name, unit="step"))
        asked_to_end = at_end.enter_context(distributed.listening(saves))
        vote = distributed.StopVote(accelerator, active=saves)
        for step in range(start, steps):
            lr = optim.rate(step, steps)
            loss, query, distance = micro.backward(step)
            grad_norm = micro.update(lr, optim.clip)
            state.step = step + 1

            loss, ending = vote(loss, asked_to_end())
            recent.append(torch.stack([loss, grad_norm.to(loss)]))
            due = state.step == steps or any(state.step % every == 0 for every in intervals)
            save = saves and (due or ending)
            if len(recent) == FLUSH_EVERY or save or state.step == steps:
                state.losses += finite_losses(recent, state.step, saving.folder)
                bar.set_postfix(loss=f"{state.losses[-1]:.4f}", refresh=False)
            if save:
                save_run(saving.folder, state, settings | {"steps": steps}, accelerator)  # type: ignore[arg-type]
            report = StepReport(state.step, loss, query, distance.detach(), grad_norm, lr)
            for hook in called:
                hook(state, report)
            bar.update()
            if ending and state.step < steps:
                message = f"ended by a signal at step {state.step}; its checkpoint is in {saving.folder}"
                accelerator.print(f"ismkit: {message}", file=sys.stderr)
                raise distributed.Preempted(message, state.step)
    accelerator.wait_for_everyone()
    return state


def with_micro_batches(engine: Engine, saving: Saving, accelerator: Accelerator) -> Engine:
    """The engine with a number of micro-batches: its own, else that of the run it resumes, else one per process."""
    count = engine.micro_batches
    if count is None and saving.folder is not None and saving.resume:
        place = (saving.folder, saving.from_step)
        count = on_main_process(accelerator, lambda: checkpoint.saved_setting(*place, "micro_batches"))
        if count not in (None, processes := accelerator.num_processes):
            accelerator.print(f"resuming with {count} micro-batches per step, as the run was started, on {processes}")
    return replace(engine, micro_batches=count or accelerator.num_processes)


class _AdamW(torch.optim.AdamW):
    """PyTorch's, without its compiler.

    What PyTorch marks as never compiled imports the compiler when it is first called, beginning with the constructor:
    over a second, before the first step of every training. Without the mark the methods are the same.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)


def _prepare(recipe: Recipe, net: nn.Module, optim: Optim, engine: Engine, accelerator: Accelerator) -> TrainState:
    """Network, averages and optimiser where they compute: on the device, compiled, sharded."""
    sharding = distributed.is_sharding(accelerator)
    if engine.recompute and not distributed.recompute(net):
        raise ValueError(f"recompute needs a network with blocks, such as DiT, {type(net).__name__} has none")
    (net if sharding else net.to(accelerator.device)).train()  # sharding moves one block at a time
    net.step_lengths = recipe.rows.step_lengths  # type: ignore[assignment]  # for the sampler; its averages copy it
    distributed.synchronise(net, accelerator)  # DDP does so too, but the averages must start there as well
    ema = TwinEMA(net, recipe.fast, recipe.slow)
    evaluated = dict.fromkeys([ema.fast, getattr(ema, getattr(recipe.target, "gap", "fast"))])
    if engine.compile:
        for module in (net, *evaluated):
            distributed.compile_blocks(module)
    if sharding:
        for module in dict.fromkeys([net, ema.fast, ema.slow]):
            # Hooks draw with the slow average, outside of autocast.
            slow = module is ema.slow
            distributed.shard(module, accelerator, keep_gathered=module in evaluated, full_precision=slow)
    optimizer = _AdamW(  # fused: on a CPU too it takes a tenth of the time of the plain one
        net.parameters(), lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=True
    )
    return TrainState(net, ema, optimizer)


class _MicroBatches:
    """One optimiser step at a time, over this process's micro-batches: passes forward and back, then the update."""

    def __init__(
        self,
        recipe: Recipe,
        state: TrainState,
        batches: Batches,
        seed: int,
        steps: int,
        engine: Engine,
        accelerator: Accelerator,
    ) -> None:
        self.recipe, self.state, self.seed, self.steps = checked(recipe), state, seed, steps
        self.accelerator = accelerator
        self.null: int = state.net.num_classes  # type: ignore[assignment]
        self.net: nn.Module = state.net
        self.sharding = distributed.is_sharding(accelerator)
        if not self.sharding:  # it is on the device; to see whether it may move, Accelerate imports DTensor
            with collection_paused():  # DDP imports PyTorch's compiler
                self.net = accelerator.prepare(state.net, device_placement=[False])
        self.weights = list(state.net.parameters())
        self.follow = state.ema.following(state.net)
        count: int = engine.micro_batches  # type: ignore[assignment]
        self.local = range(accelerator.process_index, count, accelerator.num_processes)
        first, size = recipe.coupling.first_batch(state.step), max(recipe.coupling.pool, 1)
        needed = -(-steps // size) * size - first  # whole pools: the last is the same whatever ``steps`` is
        self.pairs = [
            recipe.coupling.pairs(
                islice(batches.stream(first, k, count, classes=self.null), needed), seed, state.step, k, recipe.source
            )
            for k in self.local
        ]

    def __enter__(self) -> _MicroBatches:
        return self

    def __exit__(self, *_: object) -> None:
        for source in self.pairs:
            source.close()  # ends its thread

    def backward(self, step: int) -> tuple[Tensor, Query, Tensor]:
        """Gradients of one step; returns its loss on this process, and the last query with its distances."""
        loss = torch.zeros((), device=self.accelerator.device)
        for k, source in zip(self.local, self.pairs, strict=True):
            rng = stream(self.seed, "rows", k, step, device=self.accelerator.device)
            x0, x1, y = (part.to(self.accelerator.device, non_blocking=True) for part in next(source))
            last = k == self.local[-1]
            with nullcontext() if last else distributed.accumulating(self.net, self.accelerator):
                with self.accelerator.autocast():
                    part, query, distance = training_step(
                        self.recipe, self.net, self.state.ema, (x0, x1, y), self.null, rng, step / self.steps
                    )
                # Outside of autocast, which would take the float32 distance's gradient in bf16.
                self.accelerator.backward(part / len(self.local))
            loss += part.detach() / len(self.local)
        return loss, query, distance

    def update(self, lr: float, clip: float) -> Tensor:
        """Step the optimiser and the averages; returns the norm of the gradient before clipping."""
        for group in self.state.optimizer.param_groups:
            group["lr"] = lr
        grad_norm = distributed.full_tensor(nn.utils.clip_grad_norm_(self.weights, clip))
        # Not by Accelerate's wrapper, which is for loss scaling and looks for a package on the disk in each step.
        self.state.optimizer.step()
        self.state.optimizer.zero_grad(set_to_none=True)
        if self.sharding:
            distributed.reshard(self.state.ema)  # else the next pass would use the weights gathered for the last one
        self.follow()
        return grad_norm
