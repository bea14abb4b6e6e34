"""All that training changes, as one flat table of whole tensors: the same for one process, DDP and FSDP2.

A shard is put together, one tensor at a time, before it is written, and taken from the whole after it has been read. So
a run goes on with any number of processes, in either mode: what a checkpoint holds does not depend on them. The main
process alone holds the table and touches the disk; it needs the memory for it (13.5 GB for XL/2).
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.optim import Optimizer

from ismkit import checkpoint
from ismkit.checkpoint import CheckpointError, State, Tensors, check_fit
from ismkit.parallel import agreed, reshard, spread, whole

Modules = Mapping[str, nn.Module]
MOMENT = "optimizer.state."  # begins the names of the optimiser's tensors
RANDOM = "random."  # begins those of the global random streams


def collect(
    net: nn.Module, optimizer: Optimizer, extra_modules: Modules, *, keep: bool = True
) -> tuple[dict[str, Tensor], State]:
    """Copy to the CPU all that training changes: flat (tensors, scalars), scalars being JSON hyperparameters.

    Names begin with ``net.``, ``extra.<name>.``, ``optimizer.`` and are those of the plain modules, whether they are
    compiled, wrapped or sharded. Where they are sharded every process must call this.

    Args:
        net: the network.
        optimizer: its optimiser.
        extra_modules: further modules by name.
        keep: False takes part in the gathering and returns no tensors.
    """
    state, parameters = _layout(net, optimizer, extra_modules)
    for name, p in parameters.items():
        state |= {f"{MOMENT}{name}.{key}": value for key, value in optimizer.state.get(p, {}).items()}
    tensors = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            gathered = whole(value.detach())
            if keep:
                tensors[name] = gathered.to("cpu", copy=True)
    return tensors, {name: value for name, value in state.items() if not isinstance(value, Tensor)}


def restore(
    tensors: Tensors,
    scalars: Mapping[str, Any],
    net: nn.Module,
    optimizer: Optimizer,
    extra_modules: Modules,
    accelerator: Accelerator,
) -> None:
    """Put back, bit for bit, what :func:`collect` gave; CheckpointError, before any change, if it misfits.

    Every process calls this; what counts is what the main one gives.
    """
    expected, parameters = _layout(net, optimizer, extra_modules)

    def form(name: str) -> Any:
        """What the entry ``name`` should look like; a moment like its parameter."""
        owner, _, key = name.removeprefix(MOMENT).rpartition(".")
        if not name.startswith(MOMENT) or owner not in parameters:
            return expected.get(name)
        return torch.tensor(0.0) if key == "step" else parameters[owner]

    def checked() -> tuple[list[str], State]:
        settings = {name: tuple(value) if isinstance(value, list) else value for name, value in scalars.items()}
        moments = [name.removeprefix(MOMENT).rpartition(".") for name in tensors if name.startswith(MOMENT)]
        owners, keys = {owner for owner, _, _ in moments}, {key for _, _, key in moments}
        # A parameter that has never had a gradient has no moments; any other has all.
        named = [f"{MOMENT}{owner}.{key}" for owner in owners & parameters.keys() for key in keys]
        wanted = expected | {name: form(name) for name in named}
        check_fit("the checkpoint", {**tensors, **settings}, wanted, "Use the settings that the run was started with.")
        return list(tensors), settings

    names, settings = agreed(accelerator, checked)
    moments: dict[str, State] = {}
    with torch.no_grad():
        for name in names:
            # A clone, for the optimiser keeps what it is given.
            value = spread(tensors[name].clone() if name in tensors else None, form(name), accelerator)
            if name.startswith(MOMENT):
                owner, _, key = name.removeprefix(MOMENT).rpartition(".")
                moments.setdefault(owner, {})[key] = value
            else:
                expected[name].copy_(value)
    packed = optimizer.state_dict()
    for index, group in enumerate(packed["param_groups"]):
        group |= {key: settings[f"optimizer.group.{index}.{key}"] for key in group if key != "params"}
    packed["state"] = {i: moments[name] for i, name in enumerate(parameters) if name in moments}
    optimizer.load_state_dict(packed)


def random_state() -> dict[str, Tensor]:
    """State of the global random streams: torch (CPU, and this process's GPU), ``random`` and numpy, as uint8."""
    states = {"python": random.getstate(), "numpy": np.random.get_state(legacy=False)}  # noqa: NPY002
    texts = {name: json.dumps(state, default=np.ndarray.tolist) for name, state in states.items()}
    tensors = {name: torch.tensor(list(text.encode()), dtype=torch.uint8) for name, text in texts.items()}
    gpu = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {**tensors, "torch": torch.get_rng_state(), **gpu}


def set_random_state(state: Tensors) -> None:
    """Put back what :func:`random_state` returned; CheckpointError for anything else.

    The stream of a GPU is put back where there is one, and left out where there is none, here or in ``state``: nothing
    in this kit draws from it, but a network with dropout does.
    """
    if state.keys() | {"cuda"} != (streams := {"python", "numpy", "torch", "cuda"}):
        raise CheckpointError(f"the random streams must be {sorted(streams)}, those saved are {sorted(state)}.")
    version, words, gauss = json.loads(bytes(state["python"].tolist()))
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(json.loads(bytes(state["numpy"].tolist())))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def save_run(
    run_dir: str | os.PathLike[str],
    step: int,
    net: nn.Module,
    optimizer: Optimizer,
    ema: nn.Module,
    settings: Mapping[str, Any],
    accelerator: Accelerator,
) -> None:
    """Write the checkpoint of ``step``; every process calls this, and all get the main one's CheckpointError.

    The global random streams saved are the main process's.
    """
    tensors, scalars = collect(net, optimizer, {"ema": ema}, keep=accelerator.is_main_process)
    tensors |= {RANDOM + name: value for name, value in random_state().items()}
    meta = {"settings": settings, "scalars": scalars}
    agreed(accelerator, lambda: checkpoint.save(run_dir, step, tensors, meta))


def resume_run(
    run_dir: str | os.PathLike[str],
    step: int | None,
    net: nn.Module,
    optimizer: Optimizer,
    ema: nn.Module,
    settings: Mapping[str, Any],
    accelerator: Accelerator,
) -> int:
    """Go on from the checkpoint of ``step`` (the newest, if None); later ones are deleted. Every process calls this.

    Returns:
        Its step; 0, and nothing is changed, where None was asked for and there is no checkpoint.

    Raises:
        ValueError: if the run was saved with other settings; the message names them.
        CheckpointError: if the checkpoint is missing, damaged, or does not fit.
    """
    tensors: dict[str, Tensor] = {}
    scalars: State = {}

    def read() -> int | None:
        if step is None and not checkpoint.steps(run_dir):
            return None
        saved = checkpoint.load(run_dir, step)
        old = saved.meta["settings"]
        if changed := [key for key in settings if old.get(key) != settings[key]]:
            lines = "; ".join(f"{key}: saved {old.get(key)}, now {settings[key]}" for key in changed)
            raise ValueError(f"{run_dir} was trained with other settings; use them, or another run_dir. {lines}")
        tensors.update(saved.tensors)
        scalars.update(saved.meta["scalars"])
        return saved.step

    if (start := agreed(accelerator, read)) is None:
        return 0
    streams = {name.removeprefix(RANDOM): tensors.pop(name) for name in list(tensors) if name.startswith(RANDOM)}
    restore(tensors, scalars, net, optimizer, {"ema": ema}, accelerator)
    agreed(accelerator, lambda: set_random_state(streams))
    # What was trained after the step asked for is trained anew.
    agreed(accelerator, lambda: checkpoint.rewind(run_dir, start))
    return start


def _layout(net: nn.Module, optimizer: Optimizer, extra_modules: Modules) -> tuple[State, State]:
    """What the modules and the optimiser's settings are (the tensors themselves), and its parameters by name."""
    net = extract_model_from_parallel(net, keep_torch_compile=False)
    reshard(net)
    state: State = {f"net.{name}": value for name, value in net.state_dict().items()}
    for prefix, module in extra_modules.items():
        reshard(module)
        state |= {f"extra.{prefix}.{name}": value for name, value in module.state_dict().items()}
    for i, group in enumerate(optimizer.param_groups):
        state |= {f"optimizer.group.{i}.{key}": value for key, value in group.items() if key != "params"}
    names = {p: name for name, p in net.named_parameters()}
    return state, {names[p]: p for group in optimizer.param_groups for p in group["params"]}
