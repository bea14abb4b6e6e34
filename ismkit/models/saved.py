"""Trained networks as files: one safetensors file that says which network it holds and how it was trained.

The released ones are part of the package (``ismkit/models/weights``), and loaded with their checksums verified.

A network of your own class is saved with ``module:class`` and the arguments of its constructor. Its code is run only if
the caller names the class again: a file alone never has anything imported.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ismkit.method.guidance import TwoPassCFG
from ismkit.method.path import StepGrid, StepLengths, step_lengths_of
from ismkit.method.recipes import velocity_target
from ismkit.models.nets import DiT, ToyMLP
from ismkit.models.spaces import SPACES
from ismkit.utils.checks import check_form, check_kind, check_name, shown
from ismkit.utils.files import WEIGHT_SUMS, weights_file
from ismkit.utils.settings import import_named, plain
from ismkit.utils.weights import CheckpointError, check_fit, load_weights, read_weights, save_weights, without_numbers

#: Numbers that a network may derive from its sizes, such as the positions of tokens, however few weights it has.
MAX_DERIVED = 2**24
NETWORKS: dict[str, type[nn.Module]] = {"DiT": DiT, "ToyMLP": ToyMLP}
#: A class of networks, or a function that makes one, called with the settings in the file; or its ``module:attribute``.
Maker = Callable[..., nn.Module] | str


def save_model(
    net: nn.Module, path: str | os.PathLike[str], card: dict[str, Any], dtype: torch.dtype = torch.float32
) -> str:
    """Write a network, usually ``state.ema.slow``, with its shape and a card, to one safetensors file.

    Args:
        net: a network of this kit, or of your own class, see :func:`check_saveable`.
        path: ends in ``.safetensors``; written atomically.
        card: anything JSON that a reader should know: run, recipe, steps, seed, figures, licence.
        dtype: in which the numbers are stored; float16 halves the file.

    Returns:
        The SHA-256 of the file.

    Raises:
        TypeError: if ``net`` is not a module, or ``card`` no JSON.
        CheckpointError: if the file cannot be written, a weight is not finite in ``dtype``, or the network cannot be
            built again from what it says of itself.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from ismkit import ToyMLP, load_model, save_model
        >>> net = ToyMLP(dim=2, width=16, depth=1, num_classes=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sha256 = save_model(net, f"{folder}/points.safetensors", {"steps": 500, "licence": "Apache-2.0"})
        ...     loaded, card = load_model(f"{folder}/points.safetensors", sha256)
        >>> card, loaded.config  # doctest: +NORMALIZE_WHITESPACE
        ({'steps': 500, 'licence': 'Apache-2.0'},
         {'dim': 2, 'width': 16, 'depth': 1, 'num_classes': 3, 'time_scale': 1000.0})
    """
    config = _description(net)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating point type, such as torch.float16, got {shown(dtype)}")
    if (lengths := step_lengths_of(net)) != "dyadic":
        config["step_lengths"] = lengths
    _check_range(f"{path} is not written", net, dtype, "Store it in torch.float32.")
    metadata = {"net": json.dumps(config), "dtype": str(dtype).removeprefix("torch."), "card": _as_json(card)}
    return save_weights(_cast(copy.deepcopy(net), dtype), path, metadata)


def _cast(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network with its floating point numbers in ``dtype``, but for buffers that no file holds.

    ``net.to`` would make complex ones real as well, and round those buffers, which loading would not undo.
    """
    unsaved = [(part, name, part._buffers[name]) for part in net.modules() for name in part._non_persistent_buffers_set]
    net._apply(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
    for part, name, buffer in unsaved:
        part._buffers[name] = buffer
    return net


def _check_range(what: str, net: nn.Module, dtype: torch.dtype, remedy: str) -> None:
    """Raise CheckpointError, beginning with ``what``, for finite numbers that ``dtype`` is too small for."""
    for name, value in net.state_dict().items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        if value.isfinite().all() and not value.to(dtype).isfinite().all():
            largest = f"{value.abs().max():g}, and {dtype} ends at {torch.finfo(dtype).max:g}"
            raise CheckpointError(f"{what}: {name} holds {largest}. {remedy}")


def _as_json(card: dict[str, Any]) -> str:
    try:
        return json.dumps(card)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"card must be JSON, got {shown(card)}: {error}") from error


def check_saveable(net: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Refuse a network that :func:`save_model` cannot write, because it could not be built again.

    A file has the class of a network and the arguments of its constructor, which must be numbers, texts, truth values,
    None, a :class:`~ismkit.method.path.StepGrid`, or lists and dicts of them. Those of your own class are found

    * in its attribute ``config``, a dict or a dataclass,
    * in what ``PyTorchModelHubMixin`` of huggingface_hub has noted, if the class has that base,
    * in attributes of the same names: ``self.width = width``.

    A second network is built from what was found, and must have the same weights and the same arguments.

    Args:
        net: a network, trained or not.
        dtype: in which its numbers will be stored.

    Raises:
        TypeError: if it is not a module.
        CheckpointError: if an argument is not found, is of another kind, or builds another network; or if a number is
            too large for ``dtype``.

    Example:
        >>> from torch import nn
        >>> from ismkit import CheckpointError
        >>> from ismkit.models.saved import check_saveable
        >>> class Forgetful(nn.Module):
        ...     def __init__(self, num_classes, width=8):
        ...         super().__init__()
        ...         self.num_classes, self.layer = num_classes, nn.Linear(width, width)
        >>> try:
        ...     check_saveable(Forgetful(num_classes=3))
        ... except CheckpointError as error:
        ...     print(str(error).partition(":")[0])
        net cannot be saved, the argument width of Forgetful is not known
        >>> class Own(Forgetful):
        ...     def __init__(self, num_classes, width=8):
        ...         super().__init__(num_classes, width)
        ...         self.width = width
        >>> check_saveable(Own(num_classes=3))
    """
    _description(net)
    remedy = "Scale it down, or where the constructor makes it, register it with persistent=False."
    _check_range("net cannot be saved", net, dtype, remedy)


def _description(net: nn.Module) -> dict[str, Any]:
    """What a file says of a network, JSON."""
    check_kind("net", net, nn.Module)
    kind = type(net)
    if NETWORKS.get(kind.__name__) is kind:
        return {"class": kind.__name__, **net.config, "grid": net.conditioning.grid.n}  # type: ignore[dict-item, union-attr]
    settings = _arguments(net)
    why = f"net cannot be saved, {kind.__name__} built again from {json.dumps(settings)}"
    try:
        again = _planned(kind, settings)
    except Exception as error:  # its code may raise anything
        raise CheckpointError(f"{why} fails: {type(error).__name__}: {error}") from error
    remedy = "Keep each argument of its constructor in an attribute of that name, or in a dict `config`."
    check_fit(why, net.state_dict(), again.state_dict(), remedy)
    found = _arguments(again)
    if other := [name for name in settings if found[name] != settings[name]]:
        changed = f"{other[0]} = {found[other[0]]!r} instead of {settings[other[0]]!r}"
        raise CheckpointError(f"{why} has {changed}. {remedy}")
    return {"class": f"{kind.__module__}:{kind.__qualname__}", "settings": settings}


def _arguments(net: nn.Module) -> dict[str, Any]:
    """The arguments of the constructor of an own class as JSON; CheckpointError for one that is not known."""
    kind, config = type(net), getattr(net, "config", None)
    if not isinstance(config, Mapping) and not is_dataclass(config):
        config = getattr(net, "_hub_mixin_config", None)
    given: dict[str, Any] = {}
    if is_dataclass(config) and not isinstance(config, type):
        config = asdict(config)
    if isinstance(config, Mapping):
        given |= config
    found: dict[str, Any] = {}
    missing = object()
    parameters = inspect.signature(kind).parameters
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            others = sorted(given.keys() - parameters.keys(), key=str)  # a set has another order in each process
            found |= {key: _as_setting(kind, key, given[key]) for key in others}
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            value = given[name] if name in given else getattr(net, name, missing)
            if value is missing:
                raise CheckpointError(
                    f"net cannot be saved, the argument {name} of {kind.__name__} is not known: have its constructor "
                    f"say `self.{name} = {name}`, or keep all in a dict `self.config`"
                )
            if given and name not in given and isinstance(value, nn.Module | Tensor):  # what was made of the argument
                raise CheckpointError(
                    f"net cannot be saved, config of {kind.__name__} lacks {name!r}, and its attribute {name} is no "
                    f"setting but a {type(value).__name__}: have its constructor keep in `self.config` what it was "
                    f"given as {name}, a number, a text or None"
                )
            found[name] = _as_setting(kind, name, value)
    return found


def _as_setting(kind: type, name: str, value: Any) -> Any:
    """An argument as it comes back out of JSON; CheckpointError for what does not."""
    value = {"StepGrid": value.n} if isinstance(value, StepGrid) else plain(value)
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"net cannot be saved, its {name} is {shown(value)}, which is no JSON: keep what its constructor was "
            f"given, numbers or texts, in a dict `config` of {kind.__name__}"
        ) from error


def _planned(kind: Callable[..., nn.Module], settings: Mapping[str, Any]) -> nn.Module:
    """The network that settings ask for, without memory for its weights if its constructor can do that."""
    arguments = _decoded(settings)
    with torch.random.fork_rng(devices=[]):
        try:
            with without_numbers():
                return kind(**arguments)
        except (RuntimeError, NotImplementedError):  # a constructor that looks at its numbers
            return kind(**arguments)


def _decoded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments out of JSON, see :func:`_as_setting`."""
    return {
        name: StepGrid(value["StepGrid"]) if isinstance(value, dict) and [*value] == ["StepGrid"] else value
        for name, value in settings.items()
    }


def load_model(
    path: str | os.PathLike[str], sha256: str | None = None, *, network: Maker | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Load the network in a file of :func:`save_model`, and its card.

    Args:
        path: of the file.
        sha256: the checksum that the file must have; that of its contents is in the file, and always compared.
        network: of a network of your own, its class, or ``module:class``; the file never decides what is imported.

    Returns:
        The network, in float32 and eval mode, without gradients; and the card.

    Raises:
        CheckpointError: if the file is missing, truncated, altered or no such file; if it holds a network of a class
            that is not named, or weights that do not fit it.
        ValueError: if ``network`` cannot be imported.

    Example:
        >>> import os
        >>> import tempfile
        >>> from ismkit import CheckpointError, ToyMLP, load_model, save_model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/points.safetensors"
        ...     _ = save_model(ToyMLP(width=16, depth=1), path, {"seed": 0})
        ...     net, card = load_model(path)
        ...     print(type(net).__name__, card, net.training)
        ...     os.truncate(path, 1000)
        ...     try:
        ...         load_model(path)
        ...     except CheckpointError as error:
        ...         print("missing, truncated or no safetensors file" in str(error))
        ToyMLP {'seed': 0} False
        True
    """
    tensors, metadata = read_weights(path, sha256)
    _refuse_checkpoint(path, metadata)
    try:
        config, card = json.loads(metadata["net"]), json.loads(metadata["card"])
        dtype, kind = getattr(torch, metadata["dtype"]), config["class"] if isinstance(config, dict) else None
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{dtype} is no type of numbers")
        check_name("step_lengths", lengths := config.pop("step_lengths", "dyadic"), get_args(StepLengths))
        own = isinstance(kind, str) and (":" in kind or network is not None)
        net = None if own else _build(config, dtype, str(path), tensors)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise CheckpointError(
            f"{Path(path)} names no network of this kit ({error!r}): use a file that `ismkit train` wrote"
        ) from error
    if net is None:
        net = _build_own(config, dtype, str(path), tensors, network)
    load_weights(net, path)
    net.step_lengths = lengths
    return net.float().eval().requires_grad_(False), card


def _refuse_checkpoint(path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> None:
    """Raise CheckpointError, with where the model is, for a file that a training resumes from."""
    if "store" in metadata and re.fullmatch(r"step_\d{8,}", Path(path).stem):
        model = Path(path).parent / "model.safetensors"
        where = f"{model} is" if model.exists() else f"`ismkit train ... --resume` ends with {model},"
        raise CheckpointError(f"{path} is a checkpoint, from which a training is resumed: {where} the model")


def _build(config: dict[str, Any], dtype: torch.dtype, path: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network that a file names, when its sizes are known to be those of the file: they may ask for any memory."""
    sizes = copy.copy(config)
    kind = NETWORKS[sizes.pop("class")]
    known = {*inspect.signature(kind).parameters} - {"time_scale"}  # which asks for no memory
    for name, size in sizes.items():
        if name in known and type(size) is not int:
            raise TypeError(f"{name} must be an integer, got {size!r}")
    numbers = sum(tensor.numel() for tensor in tensors.values())
    largest = max((name for name in sizes if name in known and name != "grid"), key=lambda name: sizes[name])
    if sizes.get("depth", 0) > len(tensors):
        raise ValueError(f"depth is {sizes['depth']}, but the file holds {len(tensors)} tensors in all")
    if sizes[largest] > numbers:  # of a network that fits, the largest size is far below the number of its weights
        raise ValueError(f"{largest} is {sizes[largest]}, but the file holds {numbers} numbers in all")
    sizes["grid"] = StepGrid(sizes["grid"])
    with without_numbers():
        planned = _cast(kind(**sizes), dtype)
    check_fit(path, tensors, planned.state_dict(), "Build the module as it was when it was saved.")
    if (derived := sum(buffer.numel() for buffer in planned.buffers())) > max(MAX_DERIVED, 16 * numbers):
        raise ValueError(f"its sizes ask for {derived} numbers beside the {numbers} of the file")
    return _cast(kind(**sizes), dtype)


def _build_own(
    config: dict[str, Any], dtype: torch.dtype, path: str, tensors: Mapping[str, Tensor], network: Maker | None
) -> nn.Module:
    """A network of a class that the caller names, from the settings in a file."""
    named = config["class"]
    if network is None:
        raise CheckpointError(
            f"{path} holds a network of other code, {named}, which is imported only if you name it: "
            f"load_model(path, network=...) in Python, --network {named} on the command line"
        )
    if ":" not in named:
        raise CheckpointError(f"{path} holds a {named} of this kit: leave out network, got {shown(network)}")
    check_form(f"the description in {path}", config, {"settings": dict})
    kind: Any = import_named(network, "network") if isinstance(network, str) else network
    if not callable(kind):
        raise ValueError(f"network must be the class of the network, or its module:attribute, got {shown(network)}")
    name = getattr(kind, "__qualname__", shown(kind))
    try:
        planned = _planned(kind, config["settings"])
        check_kind("network", planned, nn.Module)
    except Exception as error:  # its code may raise anything
        raise CheckpointError(
            f"{path} holds settings from which {name} cannot be built, {json.dumps(config['settings'])}: "
            f"{type(error).__name__}: {error}"
        ) from error
    remedy = f"Name the class that was saved, {named}, as it was then; got {name}."
    check_fit(path, tensors, _cast(planned, dtype).state_dict(), remedy)
    with torch.random.fork_rng(devices=[]):
        return _cast(kind(**_decoded(config["settings"])), dtype)


def load_sampler(
    path: str | os.PathLike[str], sha256: str | None = None, *, network: Maker | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Load a network like :func:`load_model`, ready for the sampler.

    A network trained by the recipe ``flow``, as its card says, knows no ``w`` and no ``d``: it gets two-pass CFG.

    Args:
        path: of a file of :func:`save_model`.
        sha256: the checksum that the file must have; that of its contents is in the file, and always compared.
        network: the class of a network of your own, as for :func:`load_model`.

    Returns:
        The network, or :class:`~ismkit.method.guidance.TwoPassCFG` around it, in eval mode; and the card.

    Raises:
        CheckpointError: if the file is missing, truncated, altered or no such file.

    Example:
        >>> import tempfile
        >>> from ismkit import RECIPES, ToyMLP, describe, load_sampler, save_model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for recipe in ("flow", "ism"):
        ...         card = {"run": {"recipe": describe(RECIPES[recipe])}}
        ...         _ = save_model(ToyMLP(width=16, depth=1), f"{folder}/{recipe}.safetensors", card)
        ...         net, card = load_sampler(f"{folder}/{recipe}.safetensors")
        ...         print(recipe, type(net).__name__)
        flow TwoPassCFG
        ism ToyMLP
    """
    net, card = load_model(path, sha256, network=network)
    if _of_recipe(card, "target") == velocity_target.__qualname__:
        net = TwoPassCFG(net, net.num_classes).eval()  # type: ignore[arg-type]
    return net, card


def _of_recipe(card: Any, part: str) -> Any:
    """A part of the recipe that a card describes, None where it does not; a card is any JSON."""
    for name in ("run", "recipe", part):
        card = card.get(name) if isinstance(card, dict) else None
    return card


def check_normal(card: Any, model: str | os.PathLike[str]) -> None:
    """Refuse a model whose noise no command can draw: a card names a source, and has no function.

    Args:
        card: of the model.
        model: its name, for the message.

    Raises:
        ValueError: if its recipe has another source than normal noise.

    Example:
        >>> from ismkit.models.saved import check_normal
        >>> check_normal({"run": {"recipe": {"source": "mine.circle"}}}, "model.safetensors")
        Traceback (most recent call last):
        ValueError: model.safetensors was trained from the source mine.circle: draw x0 from it, and call `sample`
    """
    if (source := _of_recipe(card, "source")) is not None:
        name = source if isinstance(source, str) else shown(source)
        raise ValueError(f"{model} was trained from the source {name}: draw x0 from it, and call `sample`")


def warn_of_strength(card: Any, w: float, model: str | os.PathLike[str]) -> None:
    """Warn of a guidance strength far beyond those that a network was trained on, as its card says them.

    One that was trained without strengths, and with two calls for each step, has no range.

    Args:
        card: of the model.
        w: guidance strength.
        model: its name, for the message.

    Raises:
        UserWarning: a warning, above twice the largest strength.

    Example:
        >>> import warnings
        >>> from ismkit.models.saved import warn_of_strength
        >>> card = {"run": {"recipe": {"rows": {"strengths": {"w_max": 3.5}}}}}
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_of_strength(card, 2.0, "model.safetensors")
        ...     warn_of_strength(card, 50.0, "model.safetensors")
        >>> [str(warning.message) for warning in caught]
        ['model.safetensors was trained on w from 0 to 3.5: what it draws at w = 50 means little']
    """
    rows = _of_recipe(card, "rows")
    strengths = rows.get("strengths") if isinstance(rows, dict) else None
    largest = strengths.get("w_max") if isinstance(strengths, dict) else None
    if isinstance(largest, int | float) and w > 2 * largest > 0:
        warnings.warn(
            f"{model} was trained on w from 0 to {largest:g}: what it draws at w = {w:g} means little", stacklevel=3
        )


_FILES = {recipe: f"fashion_{recipe}" for recipe in ("shortcut_finest_level", "ism", "ism_plus")}
_FILES["emoji"] = "emoji_ism_plus"
#: The released generators: SHA-256 of the file of each. Those of clothes differ in the recipe that each is named after.
RELEASED = {name: WEIGHT_SUMS[file] for name, file in _FILES.items()}


def released_file(name: str) -> str:
    """The file of a released generator in ``ismkit/models/weights``, without its ending; ValueError for another."""
    check_name("name", name, RELEASED)
    return _FILES[name]


def released(name: str = "ism_plus") -> tuple[nn.Module, dict[str, Any]]:
    """Load a released generator, ready for the sampler, and its card.

    The card holds ``run``, ``steps``, ``seed``, ``licence``, and ``scores`` as the judge of its space took them
    (:data:`ismkit.evaluation.judges.JUDGES`): 1000 samples in each setting, noise of seed 1.

    Args:
        name: a key of :data:`RELEASED`: of clothes a recipe, or ``emoji``.

    Returns:
        The network, in eval mode without gradients, and the card.

    Raises:
        ValueError: for a name of which nothing is released.
        CheckpointError: if the file is missing, truncated or altered.

    Example:
        >>> import torch
        >>> from ismkit import released, sample
        >>> net, card = released("ism")
        >>> sample(net, torch.randn(10, 4, 8, 8), torch.arange(10), w=1.0, nfe=1).shape
        torch.Size([10, 4, 8, 8])
        >>> {setting: round(scores["frechet"], 2) for setting, scores in card["scores"].items() if "w = 1" in setting}
        {'1 NFE, w = 1': 2.25, '4 NFE, w = 1': 1.99, '128 NFE, w = 1': 1.86}
    """
    return load_sampler(weights_file(released_file(name)), RELEASED[name])


def load_gaussians() -> tuple[nn.Module, dict[str, Any]]:
    """Load the small shortcut model of the eight Gaussians in the plane that the kit ships, and its card.

    A :class:`~ismkit.models.nets.ToyMLP` of 58,000 numbers without classes: the label is always 8, null. One step of it
    shows all eight modes. The card holds ``run``, ``steps``, ``seed``, ``licence``, and ``scores`` by NFE: the fraction
    of samples within 3 standard deviations of a mode, and the least and the largest share of a mode, of 1 in 8.

    Returns:
        The network, in eval mode without gradients, and the card.

    Raises:
        CheckpointError: if the file is missing, truncated or altered.

    Example:
        >>> import torch
        >>> from ismkit import sample
        >>> from ismkit.models import load_gaussians
        >>> net, card = load_gaussians()
        >>> sample(net, torch.randn(10, 2), torch.full((10,), 8), nfe=1).shape
        torch.Size([10, 2])
        >>> card["scores"]["1 NFE"]["near"] > 0.95
        True
    """
    name = "gaussians_shortcut"
    return load_model(weights_file(name), WEIGHT_SUMS[name])


def load_named(model: str | os.PathLike[str], *, network: Maker | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Load a released generator by its name, or a network from a file; both as :func:`load_sampler` does."""
    check_model(model)
    return released(str(model)) if model in RELEASED else load_sampler(model, network=network)


def check_model(model: str | os.PathLike[str]) -> None:
    """Refuse a text that is neither the name of a released model nor that of a file.

    Args:
        model: as it is given to a command.

    Raises:
        ValueError: for such a text; the message has the names, the nearest first.

    Example:
        >>> from ismkit.models.saved import check_model
        >>> check_model("model.safetensors")
        >>> check_model("ism_pluss")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: model must be one of ism_plus, ism, ..., or a .safetensors file, got 'ism_pluss'
    """
    if not isinstance(model, str) or model in RELEASED or Path(model).suffix or os.sep in model or Path(model).exists():
        return
    near = difflib.get_close_matches(model, RELEASED, len(RELEASED), 0)
    raise ValueError(f"model must be one of {', '.join(near)}, or a .safetensors file, got {shown(model)}")


def sample_shape(net: nn.Module, card: Any = None) -> tuple[int, ...]:
    """Find the shape of what a network draws: as its card says, else from the sizes of a network of this kit.

    Args:
        net: also :class:`~ismkit.method.guidance.TwoPassCFG` around one.
        card: of its file, which may be any JSON; of a trained model it holds ``shape``.

    Returns:
        The shape of one sample.

    Raises:
        ValueError: if neither says it.

    Example:
        >>> from ismkit import ToyMLP
        >>> from ismkit.models.saved import sample_shape
        >>> sample_shape(ToyMLP(dim=2, width=8, depth=1)), sample_shape(ToyMLP(dim=256), {"shape": [4, 8, 8]})
        ((2,), (4, 8, 8))
    """
    shape = card.get("shape") if isinstance(card, dict) else None
    if isinstance(shape, list) and shape and all(type(side) is int and side > 0 for side in shape):
        return tuple(shape)
    inner = net.net if isinstance(net, TwoPassCFG) else net
    if isinstance(inner, DiT):
        return inner.channels, inner.size, inner.size
    if isinstance(inner, ToyMLP):
        return (inner.dim,)
    raise ValueError(
        f"net must be one whose card says the shape of its samples, as `ismkit train` writes it, or a network of this "
        f"kit, got a {type(inner).__name__}"
    )


def load_generator(
    model: str | os.PathLike[str] | None = None, *, space: str = "clothes", network: Maker | None = None
) -> nn.Module:
    """Load a network that draws latents of clothes or of emoji, ready for the sampler.

    Args:
        model: the name of a released one, or a file of :func:`ismkit.models.saved.save_model`; by default the released
            one of the space.
        space: a key of :data:`ismkit.models.spaces.SPACES`.
        network: the class of a network of your own, as for :func:`load_model`.

    Returns:
        The network, in eval mode without gradients.

    Raises:
        CheckpointError: if the file cannot be used.
        ValueError: if it holds a network of other data, or from another source than normal noise.

    Example:
        Ten clothes, one of each class, in one step:

        >>> import torch
        >>> from ismkit import load_autoencoder, load_generator, sample
        >>> net = load_generator("ism_plus")
        >>> x0 = torch.randn(10, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> images = load_autoencoder().decode(sample(net, x0, torch.arange(10), w=1.0, nfe=1))
        >>> images.shape
        torch.Size([10, 1, 28, 28])
        >>> brightness = ((images + 1) / 2).mean((1, 2, 3))
        >>> (brightness[2] > 2 * brightness[5]).item()  # a pullover fills more of the picture than a sandal
        True
    """
    check_name("space", space, SPACES)
    model = SPACES[space].model if model is None else model
    net, card = load_named(model, network=network)
    check_normal(card, model)
    check_space(net, model, space)
    return net


def space_of(net: nn.Module) -> str | None:
    """Find the small latent space in which a network draws.

    Args:
        net: on the CPU.

    Returns:
        A key of :data:`ismkit.models.spaces.SPACES`, or None for a network of samples of another shape, or of other
        classes.

    Example:
        >>> from ismkit import ToyMLP
        >>> from ismkit.models.saved import space_of
        >>> space_of(ToyMLP(dim=256, width=8, depth=1, num_classes=10))
        'clothes'
        >>> space_of(ToyMLP(dim=2, width=8, depth=1)) is None
        True
    """
    one = torch.ones(1)
    for name, space in SPACES.items():
        if getattr(net, "num_classes", None) == space.num_classes:
            try:
                net(torch.ones(1, *space.shape), one, one, one, one.long())
            except (ValueError, RuntimeError, IndexError):  # what networks say to samples of another shape
                continue
            return name
    return None


def check_space(net: nn.Module, model: str | os.PathLike[str], space: str | None = None) -> str:
    """Refuse a network that draws in none of the small latent spaces, or in another one.

    Args:
        net: of a model, on the CPU.
        model: its name, for the message.
        space: a key of :data:`ismkit.models.spaces.SPACES`; by default any of them.

    Returns:
        The space of the network.

    Raises:
        ValueError: for a network of samples of another shape, or of other classes.

    Example:
        >>> from ismkit import ToyMLP
        >>> from ismkit.models.saved import check_space
        >>> check_space(ToyMLP(dim=256, width=8, depth=1, num_classes=10), "model.safetensors")
        'clothes'
        >>> check_space(ToyMLP(dim=2, width=8, depth=1), "model.safetensors", "clothes")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: model.safetensors holds a ToyMLP that draws no clothes: use a model of fashion-laptop
    """
    found = space_of(net)
    if found is None or space not in (None, found):
        asked = [SPACES[space]] if space is not None else list(SPACES.values())
        what, like = " or ".join(one.name for one in asked), " or ".join(one.like for one in asked)
        raise ValueError(f"{model} holds a {type(net).__name__} that draws no {what}: use a model of {like}")
    return found
