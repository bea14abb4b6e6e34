"""Weights on disk: safetensors files, written atomically and used only after they have been verified.

Pickle files are refused, since they can run code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ismkit.utils.files import file_sum

PathLike = str | os.PathLike[str]
Tensors = Mapping[str, Tensor]


class CheckpointError(Exception):
    """A file cannot be written or used; the message names it, what is wrong, and the way on."""


def save_weights(module: nn.Module, path: PathLike, metadata: Mapping[str, str]) -> str:
    """Write the state of ``module`` to a .safetensors file, atomically; return its SHA-256.

    Equal weights and metadata give equal bytes. Tied tensors are stored once per name. Raises CheckpointError
    if the file cannot be written.
    """
    path, state = _weights_path(path), module.state_dict()
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        write_tensors(partial, state, metadata)
        digest = file_sum(partial)
        os.replace(partial, path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written ({nbytes(state)} bytes needed): {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return digest


def load_weights(module: nn.Module, path: PathLike, sha256: str | None = None) -> dict[str, str]:
    """Copy the .safetensors file ``path`` into ``module``; return the metadata it was saved with.

    The file must have the ``sha256`` given (without it, altered numbers go unnoticed) and the names, shapes
    and dtypes of ``module``. Raises CheckpointError and leaves ``module`` as it was.
    """
    tensors, metadata = read_weights(path, sha256)
    check_fit(str(path), tensors, module.state_dict(), "Build the module as it was when it was saved.")
    module.load_state_dict(tensors)
    return metadata


def read_weights(path: PathLike, sha256: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and metadata of a .safetensors file, checked as in :func:`load_weights`."""
    path = _weights_path(path)
    try:
        if sha256 is not None and (digest := file_sum(path)) != sha256.lower():
            raise CheckpointError(f"{path} is altered or truncated: SHA-256 is {digest}, expected {sha256}.")
        with safe_open(path, framework="pt") as file:  # clones, because the tensors are windows on the file
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads((file.metadata() or {}).get("ismkit", "{}"))
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} is missing, truncated or no safetensors file: {error}.") from error


def check_fit(where: str, found: Mapping[str, Any], expected: Mapping[str, Any], remedy: str) -> None:
    """Raise CheckpointError, naming the first five, unless ``found`` has the names, shapes and dtypes ``expected``."""

    def form(state: Mapping[str, Any], name: str) -> str:
        value, kind = state.get(name), "a setting" if name in state else "missing"
        return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else kind

    forms = {name: (form(found, name), form(expected, name)) for name in {**expected, **found}}
    wrong = [f"{name} is {has}, expected {wants}" for name, (has, wants) in forms.items() if has != wants]
    if wrong:
        raise CheckpointError(f"{where} does not fit in {len(wrong)} names: {'; '.join(wrong[:5])}. {remedy}")


def _weights_path(path: PathLike) -> Path:
    if Path(path).suffix != ".safetensors":
        raise CheckpointError(f"{path} is no .safetensors file; pickle files can run code and are not read.")
    return Path(path)


def nbytes(tensors: Tensors) -> int:
    """Bytes that the numbers of ``tensors`` take on disk; TypeError if one is no tensor."""
    if wrong := [name for name, value in tensors.items() if not isinstance(value, Tensor)]:
        raise TypeError(f"tensors must hold tensors only, {wrong[0]} is a {type(tensors[wrong[0]]).__name__}")
    return sum(value.nbytes for value in tensors.values())


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file with one JSON object as its metadata, and flush it to the disk."""
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
    sync(path)


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
