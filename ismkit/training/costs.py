"""What a run costs before it is started: FLOPs, memory, storage, hours and money, from closed forms.

A multiply-add counts as two FLOPs, as in hardware's figures; the Gflops published for DiT count it once. Only products
of matrices and convolutions are counted: norms, activations and the distance are below a hundredth of them.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ismkit.method.path import Query
from ismkit.method.recipes import Context, Recipe
from ismkit.models.nets import FREQUENCIES
from ismkit.utils.checks import check_count, shown


def forward_flops(config: Mapping[str, Any]) -> float:
    """FLOPs of one forward pass of one sample through a ``DiT``.

    Args:
        config: the network's shape, as ``DiT.config`` holds it.

    Returns:
        ``depth (24 T D^2 + 4 T^2 D + 12 D^2)`` for T tokens of width D, and the layers around the blocks. The
        published count of DiT-XL/2, 118.64 G multiply-adds, is half of this to 2 in 10^4.
    """
    if not isinstance(config, Mapping) or not {"size", "patch", "channels", "width", "depth"} <= config.keys():
        raise ValueError(
            f"config must be that of a DiT, with size, patch, channels, width and depth, got {shown(config)}"
        )
    tokens, pixels = (config["size"] // config["patch"]) ** 2, config["patch"] ** 2 * config["channels"]
    D = config["width"]
    projections = 24 * tokens * D**2  # qkv 6, output 2, MLP 16
    attention = 4 * tokens**2 * D  # scores and their product with the values
    modulation = 12 * D**2
    ends = 2 * (2 * tokens * pixels * D)  # patches in and out
    conditioning = 3 * (2 * 2 * FREQUENCIES * D + 2 * D**2)  # t, d and w; the label is looked up
    return float(config["depth"] * (projections + attention + modulation) + ends + conditioning + 4 * D**2)


class Passes(NamedTuple):
    """What goes through networks in one step: rows with gradient, rows without, and calls for these."""

    online: int
    target: int
    calls: int


POINT = (1, 1, 1)  # the smallest sample: most recipes make their targets of any shape


def passes(
    recipe: Recipe, batch: int, progress: float = 0.0, shape: tuple[int, ...] = POINT, num_classes: int = 1
) -> Passes:
    """Network passes of one training step of any recipe, counted by making the step with networks that count.

    iSM: every row once with gradient; guidance rows twice for the gap, consistency rows once per half step. The gap and
    the first half step are one call, the second half step another.

    The target rule and the terms are called on random samples. Counted is each call of a network, which is one of five
    tensors as :class:`~ismkit.method.path.Network` has it: of the trained network, of its averages, and of any module,
    wherever the rule or the term has it from. A module that holds such networks, as
    :class:`~ismkit.neighbours.negative.NegativeClass`, is asked, and what it asks is counted; no other one is. A
    network that is no module is seen where it is a field of a dataclass, such as a teacher from a file.

    Not seen is a network without a module in any other place, such as a closure, and one that is called by its method
    ``forward``. Not counted are the distance, maps of samples alone (encoders, decoders, classifiers), terms with
    ``asks = False``, and derivatives that a term takes itself by ``torch.autograd``.

    Args:
        recipe: the method.
        batch: rows of one micro-batch.
        progress: the share of the run that is done, for recipes that change on the way.
        shape: of a sample, for recipes that need one, such as (2,) in the plane.
        num_classes: of the data; this number is the null label.

    Returns:
        The number of rows with gradient, of rows without, for targets or in terms, and of calls for these. A row of
        which a derivative is taken in forward mode counts twice, one of a teacher as one; as two where a gradient goes
        through a frozen network to what enters it.

    Raises:
        TypeError: if ``recipe`` is none.
        ValueError: if the batch cannot be divided as the recipe's ``Rows`` say, or the recipe makes no step with
            samples of this shape.

    Example:
        An iSM step makes targets from as many rows as it trains; flow matching needs no network for its targets:

        >>> from ismkit import RECIPES
        >>> from ismkit.training import passes
        >>> passes(RECIPES["flow"], batch=256)
        Passes(online=256, target=0, calls=0)
        >>> passes(RECIPES["ism"], batch=256)
        Passes(online=256, target=256, calls=2)

        MeanFlow takes the derivative of a quarter of its rows, and has no other call:

        >>> from ismkit.neighbours import NEIGHBOURS
        >>> passes(NEIGHBOURS["meanflow"], batch=256)
        Passes(online=256, target=128, calls=1)

        A term that asks the network once more, with gradient:

        >>> from dataclasses import replace
        >>> def smooth(net, prediction, query, velocity, context):
        ...     return (net(query.x + 0.01, *query[1:]) - prediction).square().mean()
        >>> passes(replace(RECIPES["flow"], name="smooth", terms=(smooth,)), batch=256)
        Passes(online=512, target=0, calls=0)
    """
    return _passes(recipe, batch, progress, shape, num_classes, Context)


def _passes(
    recipe: Recipe, batch: int, progress: float, shape: tuple[int, ...], num_classes: int, kind: type[Context]
) -> Passes:
    """Those of :func:`passes`, with a context of some kind."""
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, such as one of RECIPES, got {shown(recipe)}")
    batch, null = check_count("batch", batch), check_count("num_classes", num_classes)
    if not isinstance(shape, tuple) or not shape:
        raise ValueError(f"shape must be that of a sample, such as (2,) in the plane, got {shown(shape)}")
    shape = tuple(check_count("each part of shape", count) for count in shape)
    x0, x1 = torch.randn(2, batch, *shape, generator=torch.Generator().manual_seed(1))
    rng = torch.Generator().manual_seed(0)
    pair = recipe.rows(x0, x1, torch.arange(batch) % null, null, rng)
    tally = _Tally()
    fast, slow = (StandIn(tally.answer).requires_grad_(False) for _ in range(2))
    slow = fast if recipe.fast == recipe.slow else slow  # as TwinEMA has them
    context = kind(fast, slow, null, progress, torch.Generator().manual_seed(0))
    try:
        _make_step(recipe, pair, context, tally)
    except Exception as error:  # it may be code of anyone
        raise ValueError(
            f"shape must be that of samples which {recipe.name} can be trained on, got {shape}: "
            f"{type(error).__name__}, {' '.join(str(error).split())}"
        ) from error
    return tally.total()


def _make_step(recipe: Recipe, pair: tuple[Query, Tensor], context: Context, tally: _Tally) -> None:
    """Make a step as ``training_step`` does, with stand-ins for all networks and without the distance."""
    query, velocity = pair
    net = StandIn(tally.answer)
    with networks_answer(tally.answer), torch.enable_grad():
        with torch.no_grad():
            with_stand_ins(recipe.target, tally.answer)(query, velocity, recipe.rows, context)
        prediction = net(*query)
        terms = [with_stand_ins(term, tally.answer) for term in recipe.terms if getattr(term, "asks", True)]
        loss = sum((term(net, prediction, query, velocity, context) for term in terms), prediction.sum())
        tally.go_back(loss)


class _Asked(NamedTuple):
    """One call of a network: its rows, passes of a backward pass, and what has a gradient if there is one."""

    rows: int
    backward: int
    mark: Tensor


class _Tally:
    """Counts the calls of networks, and answers 0 for them."""

    def __init__(self) -> None:
        self.asked: list[_Asked] = []

    def answer(self, net: nn.Module, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        """Zeros shaped like ``x``, with gradients where those of ``net`` would have some."""
        moved = any(forward_ad.unpack_dual(given).tangent is not None for given in (x, t, d, w))
        rows = len(x) * (2 if moved else 1)
        weights = [p for p in net.parameters() if p.requires_grad]
        followed = torch.is_grad_enabled() and (bool(weights) or x.requires_grad)
        mark = torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=followed)
        self.asked.append(_Asked(rows, 2 if weights else 1, mark))
        return x * sum((0 * p.sum().to(x) for p in weights), mark) if followed else torch.zeros_like(x)

    def go_back(self, loss: Tensor) -> None:
        """Drop the backward passes that the loss does not need; no network gets a gradient of it."""
        followed = [k for k, one in enumerate(self.asked) if one.mark.requires_grad]
        needed = torch.autograd.grad(loss, [self.asked[k].mark for k in followed], allow_unused=True)
        through = {k for k, slope in zip(followed, needed, strict=True) if slope is not None}
        self.asked = [one if k in through else one._replace(backward=0) for k, one in enumerate(self.asked)]

    def total(self) -> Passes:
        """All that was counted."""
        others = [one.rows * (1 + one.backward) for one in self.asked if one.backward < 2]
        return Passes(sum(one.rows for one in self.asked if one.backward == 2), sum(others), len(others))


def row_cost(recipe: Recipe, batch: int, shape: tuple[int, ...] = POINT, num_classes: int = 1) -> float:
    """Cost of one row of a training step in forward passes, the mean over a run.

    A backward pass counts as two forward ones, a derivative in forward mode as one more, a pass of a teacher as one.
    :func:`passes` says which calls are counted: those of terms and teachers too.

    Args:
        recipe: the method.
        batch: rows of one micro-batch.
        shape: of a sample, for recipes that need one, such as (2,) in the plane.
        num_classes: of the data.

    Returns:
        Forward passes for each row: 3 for flow matching, which needs none for its targets.

    Raises:
        TypeError: if ``recipe`` is none.
        ValueError: if the batch cannot be divided as the recipe's ``Rows`` say, or the recipe makes no step with
            samples of this shape.

    Example:
        >>> from ismkit import RECIPES
        >>> from ismkit.neighbours import NEIGHBOURS
        >>> from ismkit.training import row_cost
        >>> row_cost(RECIPES["flow"], batch=256), row_cost(RECIPES["ism"], batch=256)
        (3.0, 4.0)
        >>> row_cost(NEIGHBOURS["meanflow"], batch=256)
        3.5
    """
    read: list[bool] = []
    counts = [_passes(recipe, batch, 0.5 / _MOMENTS, shape, num_classes, _watched(read))]
    if read:  # else the rest are the same
        counts += [passes(recipe, batch, (k + 0.5) / _MOMENTS, shape, num_classes) for k in range(1, _MOMENTS)]
    return sum(3 * count.online + count.target for count in counts) / len(counts) / batch


def _watched(read: list[bool]) -> type[Context]:
    """A kind of context that adds to a list each time its progress is read, by name or as a part."""

    class Watched(Context):
        @property
        def progress(self) -> float:
            read.append(True)
            return cast(float, super().__getitem__(Context._fields.index("progress")))

        def __iter__(self) -> Iterator[Any]:
            read.append(True)
            return super().__iter__()

        def __getitem__(self, part: Any) -> Any:
            read.append(True)
            return super().__getitem__(part)

    return Watched


_MOMENTS = 50  # of a run at which passes are counted: recipes that change do so in stages or slowly


def sample_shape(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """The shape of the samples of a ``DiT``, by its shape as ``DiT.config`` holds it."""
    return config["channels"], config["size"], config["size"]


def step_flops(config: Mapping[str, Any], recipe: Recipe, batch: int) -> float:
    """FLOPs of one training step of ``batch`` rows, a backward pass taken as two forward ones.

    These are the model's FLOPs, what MFU counts: passes that make targets are in, activations that checkpointing
    computes again are not. A step really needs slightly less (no gradient goes to what enters the network: 0.05 % of
    XL/2) and a fused attention slightly more (its backward computes the scores again: a fifth of its own products).

    Args:
        config: the network's shape, as ``DiT.config`` holds it.
        recipe: the method.
        batch: rows of one micro-batch.

    Returns:
        FLOPs, a multiply-add counted as two.

    Raises:
        ValueError: if the batch cannot be divided as the recipe's ``Rows`` say.

    Example:
        A step of XL/2 in TFLOPs, and how much more an iSM step costs than one of flow matching:

        >>> from ismkit import PRESETS, RECIPES
        >>> from ismkit.training import step_flops
        >>> config = {**PRESETS["XL"], "size": 32, "channels": 4, "patch": 2}
        >>> flow, ism = (step_flops(config, RECIPES[name], batch=256) for name in ("flow", "ism"))
        >>> round(flow / 1e12, 1), round(ism / 1e12, 1), round(ism / flow, 2)
        (182.2, 242.9, 1.33)
    """
    flops = forward_flops(config)
    count = passes(recipe, batch, shape=sample_shape(config))
    return flops * (3 * count.online + count.target)


def parameters(config: Mapping[str, Any]) -> int:
    """Parameters of a ``DiT``.

    XL/2 has 678.06 M: the published 675.13 M, without its fixed positions (0.29 M) and the half of its outputs that
    predicts a variance (0.02 M), with the embedders of d and w (3.25 M).
    """
    D, pixels = config["width"], config["patch"] ** 2 * config["channels"]
    block = 18 * D**2 + 15 * D  # qkv 3, output 1, MLP 8, modulation 6, and their biases
    embedder = 2 * FREQUENCIES * D + D**2 + 2 * D
    ends = (pixels + 1) * D + (D + 1) * pixels + 2 * D**2 + 2 * D
    return config["depth"] * block + 3 * embedder + (config["num_classes"] + 1) * D + ends


STATE_BYTES = {"weights": 4, "gradients": 4, "AdamW": 8, "two averages": 8}  # per parameter, all float32
SAVED_BYTES = {"no": 80, "bf16": 48}  # per token and unit of width: what one block keeps for its backward pass


def activation_bytes(config: Mapping[str, Any], precision: str = "bf16", checkpointing: bool = False) -> float:
    """Bytes that the forward pass of one sample keeps for the backward pass, without compilation.

    Per block and token of width D, in units of D numbers: the input and the normed input of both halves and what is
    modulated of them (2 x 3), qkv 3, the attention's output and its projection 2, the hidden layer before and after
    its activation 8, and the second output 1. Autocast keeps 4 of these 20 in float32. A compiler keeps fewer.

    Args:
        config: the network's shape.
        precision: Accelerate's name: ``no`` (float32) or ``bf16`` (autocast).
        checkpointing: keep only the input of every block, and all of one block while it is computed again.

    Raises:
        ValueError: for another precision.
    """
    if precision not in SAVED_BYTES:
        raise ValueError(f"precision must be one of {list(SAVED_BYTES)}, got {precision!r}")
    tokens = (config["size"] // config["patch"]) ** 2
    block = SAVED_BYTES[precision] * tokens * config["width"]
    if checkpointing:
        return float(4 * tokens * config["width"] * config["depth"] + block)
    return float(block * config["depth"])


def latent_bytes(images: int = 1_281_167, channels: int = 4, size: int = 32, copies: int = 2) -> int:
    """Bytes of stored latents: mean and deviation of the posterior in half precision, ``copies`` of each image.

    Args:
        images: of the set; ImageNet's training set has 1 281 167.
        channels: of a latent.
        size: side of a latent: 32 for 256 pixels, 64 for 512.
        copies: 2 with the flipped images.
    """
    return images * copies * 2 * channels * size**2 * 2


def checkpoint_bytes(config: Mapping[str, Any]) -> int:
    """Bytes of one checkpoint: weights, AdamW's moments and two averages, in float32."""
    return (sum(STATE_BYTES.values()) - STATE_BYTES["gradients"]) * parameters(config)


# ---------------------------------------------------------------- stand-ins: what is asked is answered by a function

_ONE_AT_A_TIME = threading.RLock()  # the call of all modules is replaced


class StandIn(nn.Module):
    """Stands for a network, or for a function that may be one: what is called otherwise is called.

    Args:
        answer: a function of this module and the query (x, t, d, w, y).
        function: what it stands for, if that is no network of the training.
    """

    def __init__(self, answer: Callable[..., Tensor], function: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.answer, self.function = answer, function
        if function is None:
            self.scale = nn.Parameter(torch.zeros(()))  # for rules and terms that ask the network for its weights

    def forward(self, *given: Any, **named: Any) -> Any:
        """The answer; see :class:`ismkit.method.path.Network`."""
        query = _in_order(given, named)
        if self.function is None or _is_query(query):
            return self.answer(self, *query)
        return self.function(*given, **named)


@contextmanager
def networks_answer(answer: Callable[..., Tensor]) -> Iterator[None]:
    """Within it, the calls that this thread makes of networks are answered by a function; other modules are called.

    A network is a module that is called with samples (B, ...) and four times (B,), and that holds no other network: one
    that does, such as one that guides another, is called, and what it asks is answered.

    Args:
        answer: a function of the module and the query (x, t, d, w, y).
    """
    thread = threading.get_ident()

    def answered(module: nn.Module, *given: Any, **named: Any) -> Any:
        query = _in_order(given, named)
        if threading.get_ident() != thread or isinstance(module, StandIn) or not _is_query(query):
            return call(module, *given, **named)
        if _holds_networks(module):
            return call(_with_functions_standing(module, answer), *given, **named)
        return answer(module, *query)

    with _ONE_AT_A_TIME:
        call = nn.Module.__call__
        nn.Module.__call__ = answered  # type: ignore[method-assign]  # as torch.fx does while it traces
        try:
            yield
        finally:
            nn.Module.__call__ = call  # type: ignore[method-assign]


def with_stand_ins(part: Any, answer: Callable[..., Tensor]) -> Any:
    """A rule or a term with stand-ins for the networks in its fields that are no modules, such as a teacher's file.

    Args:
        part: a dataclass, the fields of which may be dataclasses too; anything else is returned unchanged.
        answer: a function of the stand-in and the query (x, t, d, w, y).
    """
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return part
    changed = copy.copy(part)
    for field in dataclasses.fields(part):
        held = getattr(part, field.name)
        plain = _takes_query(held) and not isinstance(held, nn.Module)
        # Set past the checks of the class: they are for what is trained.
        object.__setattr__(changed, field.name, StandIn(answer, held) if plain else with_stand_ins(held, answer))
    return changed


def _in_order(given: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, ...]:
    """Arguments of a network's call, those that are given by name too."""
    return (*given, *(named[name] for name in Query._fields if name in named))


def _is_query(given: tuple[Any, ...]) -> bool:
    """Whether something is called as networks are: with samples (B, ...), and with (B,) four times."""
    if len(given) != len(Query._fields) or not all(isinstance(part, Tensor) for part in given):
        return False
    return given[0].ndim > 0 and all(part.shape == given[0].shape[:1] for part in given[1:])


def _takes_query(part: Any) -> bool:
    """Whether something can be a network by its arguments: five, or, of a function, any number."""
    if not callable(part) or isinstance(part, type):
        return False
    try:
        arguments = inspect.signature(part.forward if isinstance(part, nn.Module) else part).parameters.values()
    except (TypeError, ValueError):  # some that are built in have no signature
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = sum(one.kind in positional and one.default is one.empty for one in arguments)
    # Modules without a forward of their own, such as lists of modules, have one of any number of arguments.
    any_number = any(one.kind is one.VAR_POSITIONAL for one in arguments) and not isinstance(part, nn.Module)
    return needed == len(Query._fields) or (any_number and needed < len(Query._fields))


def _holds_networks(module: nn.Module) -> bool:
    """Whether a module asks other networks, by what it has as modules and as attributes."""
    inner = [child for child in module.modules() if child is not module]
    known = any(isinstance(child, StandIn) for child in inner)
    return known or any(map(_takes_query, inner)) or any(map(_takes_query, vars(module).values()))


def _with_functions_standing(module: nn.Module, answer: Callable[..., Tensor]) -> nn.Module:
    """The module, or if it asks functions as networks, a copy with stand-ins for them and the same weights."""
    functions = {name: StandIn(answer, held) for name, held in vars(module).items() if _takes_query(held)}
    if not functions:
        return module
    changed = copy.copy(module)
    vars(changed).update(functions)  # past `nn.Module`, which would add them to what both have
    return changed
