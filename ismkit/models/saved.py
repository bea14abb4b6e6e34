"""Trained networks as files: one safetensors file that says which network it holds and how it was trained.

The released ones are part of the package (``ismkit/models/weights``), and loaded with their checksums verified.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ismkit.data.fashion import CLOTHES, SHAPE
from ismkit.method.guidance import TwoPassCFG
from ismkit.method.path import StepGrid, StepLengths, step_lengths_of
from ismkit.method.recipes import velocity_target
from ismkit.models.nets import DiT, ToyMLP
from ismkit.utils.checks import check_name, shown
from ismkit.utils.files import WEIGHT_SUMS, weights_file
from ismkit.utils.weights import CheckpointError, check_fit, load_weights, read_weights, save_weights

#: Numbers that a network may derive from its sizes, such as the positions of tokens, however few weights it has.
MAX_DERIVED = 2**24
NETWORKS: dict[str, type[nn.Module]] = {"DiT": DiT, "ToyMLP": ToyMLP}


def save_model(
    net: nn.Module, path: str | os.PathLike[str], card: dict[str, Any], dtype: torch.dtype = torch.float32
) -> str:
    """Write a network, usually ``state.ema.slow``, with its shape and a card, to one safetensors file.

    Args:
        net: a network of this kit.
        path: ends in ``.safetensors``; written atomically.
        card: anything JSON that a reader should know: run, recipe, steps, seed, figures, licence.
        dtype: in which the numbers are stored; float16 halves the file.

    Returns:
        The SHA-256 of the file.

    Raises:
        TypeError: for a network of another class.
        CheckpointError: if the file cannot be written, or a weight is not finite in ``dtype``.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from ismkit import ToyMLP, load_model, save_model
        >>> net = ToyMLP(dim=2, width=16, depth=1, num_classes=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sha256 = save_model(net, f"{folder}/points.safetensors", {"steps": 500, "licence": "Apache-2.0"})
        ...     loaded, card = load_model(f"{folder}/points.safetensors", sha256)
        >>> card["licence"], loaded.config
        ('Apache-2.0', {'dim': 2, 'width': 16, 'depth': 1, 'num_classes': 3, 'time_scale': 1000.0})
    """
    check_saveable(net)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating point type, such as torch.float16, got {shown(dtype)}")
    config = {"class": type(net).__name__, **net.config, "grid": net.conditioning.grid.n}  # type: ignore[dict-item, union-attr]
    if (lengths := step_lengths_of(net)) != "dyadic":
        config["step_lengths"] = lengths
    stored = copy.deepcopy(net).to(dtype)
    numbers = stored.state_dict()
    for name, value in net.state_dict().items():
        if value.isfinite().all() and not numbers[name].isfinite().all():
            largest = f"{value.abs().max():g}, and {dtype} ends at {torch.finfo(dtype).max:g}"
            raise CheckpointError(f"{path} is not written: {name} holds {largest}. Store it in torch.float32.")
    metadata = {"net": json.dumps(config), "dtype": str(dtype).removeprefix("torch."), "card": _as_json(card)}
    return save_weights(stored, path, metadata)


def _as_json(card: dict[str, Any]) -> str:
    try:
        return json.dumps(card)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"card must be JSON, got {shown(card)}: {error}") from error


def check_saveable(net: nn.Module) -> None:
    """Refuse a network that :func:`save_model` cannot write: a file says of it no more than class and sizes.

    Args:
        net: a network, trained or not.

    Raises:
        TypeError: for a network of another class than those of this kit.

    Example:
        >>> from torch import nn
        >>> from ismkit import ToyMLP
        >>> from ismkit.models.saved import check_saveable
        >>> check_saveable(ToyMLP(width=16, depth=1))
        >>> try:
        ...     check_saveable(nn.Linear(2, 2))
        ... except TypeError as error:
        ...     print(str(error).partition(":")[0])
        net must be one of DiT, ToyMLP to be saved as a model, got Linear
    """
    kind = type(net).__name__
    if NETWORKS.get(kind) is not type(net):
        raise TypeError(
            f"net must be one of {', '.join(NETWORKS)} to be saved as a model, got {kind}: train it by `train_run`, "
            "whose checkpoints hold any network, and score or save its `state.ema.slow` in your own code"
        )


def load_model(path: str | os.PathLike[str], sha256: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Load the network in a file of :func:`save_model`, and its card.

    Args:
        path: of the file.
        sha256: the checksum that the file must have; that of its contents is in the file, and always compared.

    Returns:
        The network, in float32 and eval mode, without gradients; and the card.

    Raises:
        CheckpointError: if the file is missing, truncated, altered or no such file.

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
    try:
        config, card = json.loads(metadata["net"]), json.loads(metadata["card"])
        net = _build(config, getattr(torch, metadata["dtype"]), str(path), tensors)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise CheckpointError(
            f"{Path(path)} names no network of this kit ({error!r}): use a file that `ismkit train` wrote"
        ) from error
    load_weights(net, path)
    return net.float().eval().requires_grad_(False), card


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
    check_name("step_lengths", lengths := sizes.pop("step_lengths", "dyadic"), get_args(StepLengths))
    with torch.device("meta"):
        planned = kind(**sizes).to(dtype)
    check_fit(path, tensors, planned.state_dict(), "Build the module as it was when it was saved.")
    if (derived := sum(buffer.numel() for buffer in planned.buffers())) > max(MAX_DERIVED, 16 * numbers):
        raise ValueError(f"its sizes ask for {derived} numbers beside the {numbers} of the file")
    net = kind(**sizes).to(dtype)
    net.step_lengths = lengths
    return net


def load_sampler(path: str | os.PathLike[str], sha256: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Load a network like :func:`load_model`, ready for the sampler.

    A network trained by the recipe ``flow``, as its card says, knows no ``w`` and no ``d``: it gets two-pass CFG.

    Args:
        path: of a file of :func:`save_model`.
        sha256: the checksum that the file must have; that of its contents is in the file, and always compared.

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
    net, card = load_model(path, sha256)
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


#: The released generators of clothes, alike in all but the recipe that each is named after: SHA-256 of its file.
RELEASED = {name: WEIGHT_SUMS[f"fashion_{name}"] for name in ("shortcut_finest_level", "ism", "ism_plus")}


def released(recipe: str = "ism_plus") -> tuple[nn.Module, dict[str, Any]]:
    """Load a released generator of clothes by its recipe, ready for the sampler, and its card.

    The card holds ``run``, ``steps``, ``seed``, ``licence``, and ``scores`` as
    :class:`ismkit.evaluation.judges.FashionJudge` took them: 1000 samples in each setting, noise of seed 1.

    Args:
        recipe: a key of :data:`RELEASED`.

    Returns:
        The network, in eval mode without gradients, and the card.

    Raises:
        ValueError: for a recipe of which none is released.
        CheckpointError: if the file is missing, truncated or altered.
        DataError: if there is no ``data/`` folder.

    Example:
        >>> import torch
        >>> from ismkit import released, sample
        >>> net, card = released("ism")
        >>> sample(net, torch.randn(10, 4, 8, 8), torch.arange(10), w=1.0, nfe=1).shape
        torch.Size([10, 4, 8, 8])
        >>> {setting: round(scores["frechet"], 2) for setting, scores in card["scores"].items() if "w = 1" in setting}
        {'1 NFE, w = 1': 2.25, '4 NFE, w = 1': 1.99, '128 NFE, w = 1': 1.86}
    """
    check_name("recipe", recipe, RELEASED)
    return load_sampler(weights_file(f"fashion_{recipe}"), RELEASED[recipe])


def load_generator(model: str | os.PathLike[str] = "ism_plus") -> nn.Module:
    """Load a network that draws latents of clothes, ready for the sampler.

    Args:
        model: the recipe of a released one, or a file of :func:`ismkit.models.saved.save_model`.

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
    net, card = released(str(model)) if model in RELEASED else load_sampler(model)
    check_normal(card, model)
    one = torch.ones(1)
    try:
        net(torch.ones(1, *SHAPE), one, one, one, one.long())
        fits = net.num_classes == len(CLOTHES)
    except ValueError:  # what the networks of this kit say to samples of another shape
        fits = False
    if not fits:
        raise ValueError(f"{model} holds a {type(net).__name__} that draws no clothes: use a model of fashion-laptop")
    return net
