"""Weights on disk: safetensors files, written atomically and used only after they have been verified.

Pickle files are refused, since they can run code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ismkit.utils.checks import check_kind
from ismkit.utils.files import file_sum, irregular, json_sum, replacing_path

SUM = "contents_sha256"  # the entry of the metadata with the sum of all others and of the tensors
PathLike = str | os.PathLike[str]
Tensors = Mapping[str, Tensor]


class CheckpointError(Exception):
    """A file cannot be written or used; the message names it, what is wrong, and what to do."""


@contextmanager
def without_numbers() -> Iterator[None]:
    """Build networks on PyTorch's meta device: they have shapes, and no memory.

    Example:
        >>> from torch import nn
        >>> from ismkit.utils.weights import without_numbers
        >>> with without_numbers():
        ...     planned = nn.Embedding(10**9, 10**4)  # 40 TB, if it had them
        >>> planned.weight.shape, planned.weight.is_meta
        (torch.Size([1000000000, 10000]), True)
    """
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Normal draws on the meta device are left out: for this no-op alone PyTorch imports its compiler, in over 1 s."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, nn.init.normal_):
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


def save_weights(module: nn.Module, path: PathLike, metadata: Mapping[str, str]) -> str:
    """Write the state of a module to a .safetensors file, atomically.

    Equal weights and metadata give equal bytes. Tied tensors are stored once per name.

    Args:
        module: its ``state_dict`` is written, from any device.
        path: of the file, which must end in ``.safetensors``.
        metadata: texts by name, stored in the file.

    Returns:
        The SHA-256 of the file, for :func:`load_weights`.

    Raises:
        TypeError: if ``module`` is none, or ``metadata`` no dict.
        CheckpointError: if the file has another ending or cannot be written, or a tensor is not finite.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> from ismkit.utils import load_weights, save_weights
        >>> trained, fresh = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sha256 = save_weights(trained, f"{folder}/linear.safetensors", {"steps": "500"})
        ...     metadata = load_weights(fresh, f"{folder}/linear.safetensors", sha256)
        >>> metadata, fresh.weight.equal(trained.weight)
        ({'steps': '500'}, True)
    """
    check_kind("module", module, nn.Module)
    check_kind("metadata", metadata, dict)
    path, state = _weights_path(path), module.state_dict()
    check_finite_weights(f"{path} is not written", state)
    try:
        with replacing_path(path) as partial:
            write_tensors(partial, state, {**metadata, SUM: contents_sum(dict(metadata), state)})
            digest = file_sum(partial)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written ({nbytes(state)} bytes needed): {error}") from error
    return digest


def load_weights(module: nn.Module, path: PathLike, sha256: str | None = None) -> dict[str, str]:
    """Copy a .safetensors file into a module that has its names, shapes and dtypes.

    Args:
        module: takes the tensors; after an error it is as it was.
        path: of the file.
        sha256: the checksum that the file must have; that of its contents is in the file, and always compared.

    Returns:
        The metadata that the file was saved with.

    Raises:
        CheckpointError: if the file is missing, truncated or altered, does not fit the module, or is not finite.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> from ismkit import CheckpointError
        >>> from ismkit.utils import load_weights, save_weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/linear.safetensors"
        ...     _ = save_weights(nn.Linear(2, 3), path, {})
        ...     try:
        ...         load_weights(nn.Linear(2, 4), path)
        ...     except CheckpointError as error:
        ...         print(str(error).partition("names: ")[2].partition(";")[0])
        weight is torch.float32 [3, 2], expected torch.float32 [4, 2]
    """
    tensors, metadata = read_weights(path, sha256)
    check_fit(str(path), tensors, module.state_dict(), "Build the module as it was when it was saved.")
    check_finite_weights(f"{path} cannot be used", tensors)
    module.load_state_dict(tensors)
    return metadata


def read_weights(path: PathLike, sha256: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the metadata of a .safetensors file.

    Args:
        path: of the file, which must end in ``.safetensors``.
        sha256: the checksum that the file must have. Without it, altered numbers are noticed only in files of
            :func:`save_weights`, which state the sum of their contents.

    Returns:
        The tensors by name, on the CPU, and the metadata.

    Raises:
        CheckpointError: if the file is missing, truncated or altered.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> from ismkit.utils import read_weights, save_weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sha256 = save_weights(nn.Linear(2, 3), f"{folder}/linear.safetensors", {"seed": "0"})
        ...     tensors, metadata = read_weights(f"{folder}/linear.safetensors", sha256)
        >>> sorted((name, tuple(tensor.shape)) for name, tensor in tensors.items()), metadata
        ([('bias', (3,)), ('weight', (3, 2))], {'seed': '0'})
    """
    path = _weights_path(path)
    try:
        with opened(path) as file:
            if sha256 is not None and (digest := file_sum(path)) != sha256.lower():
                raise CheckpointError(f"{path} is altered or truncated: SHA-256 is {digest}, expected {sha256}.")
            # Clones, because the tensors are windows on the file.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            metadata = header(path, file)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} is missing, truncated or no safetensors file: {error}.") from error
    stated = metadata.pop(SUM, None)
    if stated is not None and stated != contents_sum(metadata, tensors):
        raise CheckpointError(f"{path} is altered, its contents do not match the checksum that it states.")
    return tensors, metadata


@contextmanager
def opened(path: PathLike) -> Iterator[Any]:
    """Open a safetensors file to read, whose name may hold bytes that are no UTF-8; OSError for what is no file."""
    if (kind := irregular(path)) is not None:
        raise OSError(f"it is {kind}")
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:  # safetensors takes text alone
        with open(path, "rb") as held, safe_open(f"/dev/fd/{held.fileno()}", framework="pt") as file:
            yield file
    else:
        with safe_open(path, framework="pt") as file:
            yield file


def header(path: PathLike, file: Any) -> dict[str, Any]:
    """The JSON object that an opened file was written with; CheckpointError if it holds something else."""
    found = json.loads((file.metadata() or {}).get("ismkit", "{}"))
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no metadata of this kit, but {type(found).__name__}.")
    return found


def check_fit(where: str, found: Mapping[str, Any], expected: Mapping[str, Any], remedy: str) -> None:
    """Raise CheckpointError, naming the first five, unless ``found`` has the names, shapes and dtypes ``expected``."""

    def form(state: Mapping[str, Any], name: str) -> str:
        value, kind = state.get(name), "a setting" if name in state else "missing"
        return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else kind

    forms = {name: (form(found, name), form(expected, name)) for name in {**expected, **found}}
    wrong = [f"{name} is {has}, expected {wants}" for name, (has, wants) in forms.items() if has != wants]
    if wrong:
        raise CheckpointError(f"{where} does not fit in {len(wrong)} names: {'; '.join(wrong[:5])}. {remedy}")


def check_finite_weights(what: str, tensors: Tensors) -> None:
    """Raise CheckpointError, beginning with ``what``, for the first tensor that holds NaN or infinity."""
    for name, value in tensors.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
            bad = int((~value.isfinite()).sum())
            raise CheckpointError(f"{what}: {name} holds {bad} NaN or infinite of {value.numel()} numbers.")


def _weights_path(path: PathLike) -> Path:
    if Path(path).suffix != ".safetensors":
        raise CheckpointError(f"{path} is no .safetensors file; pickle files can run code and are not read.")
    return Path(path)


def nbytes(tensors: Tensors) -> int:
    """Bytes that the numbers of ``tensors`` take on disk; TypeError if one is no dense tensor with numbers."""
    check_kind("tensors", tensors, Mapping)
    if wrong := [name for name, value in tensors.items() if not _has_numbers(value)]:
        raise TypeError(f"tensors must hold dense tensors only, {wrong[0]} is a {type(tensors[wrong[0]]).__name__}")
    return sum(value.nbytes for value in tensors.values())


def _has_numbers(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def contents_sum(value: Any, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a JSON value and of the names, types, shapes and numbers of tensors."""
    digest = hashlib.sha256(json_sum(value).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file with one JSON object as its metadata."""
    # safetensors orders several metadata entries at random, refuses shared memory and shuts out other users.
    one = {"ismkit": json.dumps(dict(metadata), sort_keys=True)}
    alone: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        value = value.detach().cpu()
        memory = value.untyped_storage()
        shared = memory.data_ptr() in seen or memory.nbytes() != value.nbytes
        alone[name] = value.contiguous().clone() if shared or not value.is_contiguous() else value
        seen.add(memory.data_ptr())
    save_file(alone, path, one)
    path.chmod(0o644)
