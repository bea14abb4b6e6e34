"""Weights and checkpoints on disk: written atomically, used only after they have been verified.

A checkpoint is a folder ``<run>/step_00001000/`` with ``state.safetensors`` (tensors and ``meta``) and
``manifest.json`` (version, step, size and SHA-256 of the former, ``meta``). It is written under a hidden name,
flushed to the disk and renamed: a kill at any moment leaves all of it or none. Nothing is overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

VERSION = 1
STATE, MANIFEST = "state.safetensors", "manifest.json"
PathLike = str | os.PathLike[str]
State = dict[str, Any]
Tensors = Mapping[str, Tensor]


class CheckpointError(Exception):
    """A file cannot be written or used; the message names it, what is wrong, and the way on."""


class Checkpoint(NamedTuple):
    """A verified checkpoint: its step, its tensors (on the CPU) and the JSON object saved with them."""

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def save_weights(module: nn.Module, path: PathLike, metadata: Mapping[str, str]) -> str:
    """Write the state of ``module`` to a .safetensors file, atomically; return its SHA-256.

    Equal weights and metadata give equal bytes. Tied tensors are stored once per name. Raises CheckpointError
    if the file cannot be written.
    """
    path, state = _weights_path(path), module.state_dict()
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        _write_tensors(partial, state, metadata)
        digest = _sum(partial)
        os.replace(partial, path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written ({_nbytes(state)} bytes needed): {error}") from error
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
        if sha256 is not None and (digest := _sum(path)) != sha256.lower():
            raise CheckpointError(f"{path} is altered or truncated: SHA-256 is {digest}, expected {sha256}.")
        with safe_open(path, framework="pt") as file:  # clones, because the tensors are windows on the file
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads((file.metadata() or {}).get("ismkit", "{}"))
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} is missing, truncated or no safetensors file: {error}.") from error


def save(run_dir: PathLike, step: int, tensors: Tensors, meta: Mapping[str, Any], keep: int = 2) -> Path:
    """Write the checkpoint of ``step``, then delete all but the newest ``keep``; return its folder.

    ``step`` must be later than every checkpoint there (see :func:`rewind`); ``meta`` is JSON without NaN. One
    process calls this. CheckpointError if a file cannot be written (disk full); earlier ones are intact then.
    """
    for name, value, least in (("step", step, 0), ("keep", keep, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    run_dir, earlier = Path(run_dir), steps(run_dir)
    if earlier and step <= earlier[-1]:
        way_on = "take another folder, or rewind(run_dir, step) before training on"
        raise CheckpointError(f"{run_dir}: step {step} would not be the latest of {earlier}; {way_on}.")
    try:
        meta = json.loads(json.dumps(meta, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"meta must be JSON without NaN: {error}") from error
    folder, writing, needed = run_dir / f"step_{step:08d}", STATE, _nbytes(tensors)
    partial = run_dir / f".{folder.name}.partial-{os.getpid()}"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        for leftover in run_dir.glob(".step_*.partial-*"):
            shutil.rmtree(leftover)
        partial.mkdir()
        _write_tensors(partial / STATE, tensors, meta)
        text, writing = json.dumps(_facts(partial / STATE, step) | {"meta": meta}), MANIFEST
        (partial / MANIFEST).write_text(text)
        _sync(partial / MANIFEST)
        _sync(partial)
        os.rename(partial, folder)
        _sync(run_dir)
    except (OSError, SafetensorError) as error:
        problem = f"{folder / writing} cannot be written ({needed} bytes needed): {error}"
        raise CheckpointError(f"{problem}. The earlier checkpoints {earlier} are intact.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _discard(run_dir, [*earlier, step][:-keep])
    return folder


def steps(run_dir: PathLike) -> list[int]:
    """Steps of the checkpoints in ``run_dir``, ascending; partial ones do not count. No folder, no steps."""
    names = [path.name for path in Path(run_dir).glob("step_*") if path.is_dir()]
    return sorted(int(name[5:]) for name in names if re.fullmatch(r"step_(\d{8}|[1-9]\d{8,})", name))


def rewind(run_dir: PathLike, step: int) -> None:
    """Delete the checkpoints later than ``step``, which must be one, to train on from there."""
    if step not in (found := steps(run_dir)):
        raise CheckpointError(f"{run_dir}: no checkpoint of step {step}; there are {found}.")
    _discard(Path(run_dir), found[found.index(step) + 1 :])


def load(run_dir: PathLike, step: int | None = None) -> Checkpoint:
    """Verify and read the checkpoint of ``step`` (the newest, if None); CheckpointError if it is damaged."""
    run_dir, found = Path(run_dir), steps(run_dir)
    if not found or (step is not None and step not in found):
        holds = sorted(path.name for path in run_dir.glob("*"))[:10] if run_dir.is_dir() else "no such folder"
        wanted = "step_00001000 or the like" if step is None else f"step_{step:08d}"
        raise CheckpointError(f"{run_dir}: no checkpoint {wanted} here, but: {holds}.")
    step = found[-1] if step is None else step
    try:
        return _read(run_dir / f"step_{step:08d}", step)
    except (CheckpointError, OSError) as error:
        way_on = "There is no earlier checkpoint."
        if at := found.index(step):
            ask = f"load(run_dir, step={found[at - 1]}), on the command line --resume {found[at - 1]}"
            way_on = f"To go on from the one before, ask for it: {ask}."
        raise CheckpointError(f"{error} {way_on}") from error


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


def _nbytes(tensors: Tensors) -> int:
    if wrong := [name for name, value in tensors.items() if not isinstance(value, Tensor)]:
        raise TypeError(f"tensors must hold tensors only, {wrong[0]} is a {type(tensors[wrong[0]]).__name__}")
    return sum(value.nbytes for value in tensors.values())


def _write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, Any]) -> None:
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
    _sync(path)


def _facts(path: Path, step: int) -> State:
    return {"version": VERSION, "step": step, "bytes": path.stat().st_size, "sha256": _sum(path)}


def _read(folder: Path, step: int) -> Checkpoint:
    try:
        stated = dict(json.loads((folder / MANIFEST).read_bytes()))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / MANIFEST} is truncated or altered: {error}.") from error
    if stated.get("version") != VERSION:
        raise CheckpointError(f"{folder} has format version {stated.get('version')}, expected {VERSION}.")
    facts = {key: (value, stated.get(key)) for key, value in _facts(folder / STATE, step).items()}
    if wrong := [f"{key} is {a}, {b} in {MANIFEST}" for key, (a, b) in facts.items() if a != b]:
        raise CheckpointError(f"{folder / STATE} is truncated or altered: {'; '.join(wrong)}.")
    tensors, meta = read_weights(folder / STATE)
    if stated.get("meta") != meta:
        raise CheckpointError(f"{folder / MANIFEST} is altered: its meta is not that of {STATE}.")
    return Checkpoint(step, tensors, meta)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(run_dir: Path, old: list[int]) -> None:
    for step in old:  # renamed first: a kill in between must not leave half a checkpoint under a good name
        doomed = run_dir / f".step_{step:08d}.partial-{os.getpid()}"
        os.rename(run_dir / f"step_{step:08d}", doomed)
        shutil.rmtree(doomed)


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
