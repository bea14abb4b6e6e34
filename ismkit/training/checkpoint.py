"""Checkpoints on disk: all that training changes, written atomically, used only after it has been verified.

A checkpoint is one file of the run's folder, ``step_00001000.safetensors``, kept by :class:`ismkit.utils.store.Store`:
a kill at any moment leaves all of it or none. Nothing is overwritten.

It holds one flat table of full tensors, the same for one process, DDP and FSDP2: a sharded tensor is gathered, one at a
time, before it is written, and sharded again after it has been read. So a run resumes with any number of processes that
divides its micro-batches, in either mode. The main process alone holds the table and touches the disk; it needs the
memory for it (13.6 GB for XL/2).
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from ismkit.method.ema import unwrapped
from ismkit.training.distributed import distribute, full_tensor, on_main_process, reshard
from ismkit.training.options import Saving
from ismkit.utils.checks import check_form
from ismkit.utils.store import Store
from ismkit.utils.weights import CheckpointError, PathLike, Tensors, check_fit

IDENTITY = {"format": "ismkit checkpoint", "version": 2}
State = dict[str, Any]


class Checkpoint(NamedTuple):
    """A verified checkpoint: its step, its tensors (on the CPU) and the JSON object saved with them."""

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def save(run_dir: PathLike, step: int, tensors: Tensors, meta: Mapping[str, Any], keep: int = 2) -> Path:
    """Write the checkpoint of ``step``, then delete all but the newest ``keep``; return its path.

    ``step`` must be later than every checkpoint there (see :func:`rewind`); ``meta`` is JSON without NaN. One
    process calls this. CheckpointError if it cannot be written (disk full); earlier ones are intact then.
    """
    for name, value, least in (("step", step, 0), ("keep", keep, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    store, earlier = _store(run_dir), saved_steps(run_dir)
    if earlier and step <= earlier[-1]:
        remedy = "take another folder, or call rewind(run_dir, step) first"
        raise CheckpointError(f"{run_dir}: step {step} would not be the latest of {earlier}; {remedy}.")
    store.clear_partial()
    try:
        store.write(_name(step), meta, tensors)
    except CheckpointError as error:
        kept = f". The earlier checkpoints {earlier} are intact." if earlier else ""
        raise CheckpointError(f"{error}{kept}") from error
    _discard(run_dir, [*earlier, step][:-keep])
    return store.path(_name(step))


def saved_steps(run_dir: PathLike) -> list[int]:
    """Steps of the checkpoints in ``run_dir``, ascending; partial ones do not count. No folder, no steps."""
    found = [re.fullmatch(r"step_(\d{8}|[1-9]\d{8,})\.safetensors", name) for name in _store(run_dir).names()]
    return sorted(int(match[1]) for match in found if match)


def saved_settings(run_dir: PathLike, step: int | None = None) -> dict[str, Any]:
    """What the checkpoint of ``step`` (the newest, if None) was saved with, by name; {} where it cannot be read."""
    found = saved_steps(run_dir)
    try:
        return dict(_store(run_dir).value(_name(found[-1] if step is None else step))["settings"])
    except (CheckpointError, IndexError, KeyError, TypeError, ValueError):
        return {}  # `load` says what is wrong with this checkpoint


def saved_setting(run_dir: PathLike, step: int | None, name: str) -> Any:
    """One of :func:`saved_settings`; None where it cannot be read."""
    return saved_settings(run_dir, step).get(name)


def rewind(run_dir: PathLike, step: int) -> None:
    """Delete the checkpoints later than that of ``step``, which must exist, to resume from there."""
    if step not in (found := saved_steps(run_dir)):
        raise CheckpointError(f"{run_dir}: no checkpoint of step {step}; there are {found}.")
    if later := found[found.index(step) + 1 :]:  # said, since a command that is repeated does it again
        print(
            f"ismkit: starts from step {step} again, as asked: deletes the checkpoints up to step {later[-1]}; "
            "to resume from the newest, name no step",
            file=sys.stderr,
        )
        _discard(run_dir, later)


def load(run_dir: PathLike, step: int | None = None) -> Checkpoint:
    """Verify and read the checkpoint of ``step`` (the newest, if None); CheckpointError if it is damaged."""
    run_dir, found = Path(run_dir), saved_steps(run_dir)
    if not found or (step is not None and step not in found):
        holds = sorted(path.name for path in run_dir.glob("*"))[:10] if run_dir.is_dir() else "no such folder"
        wanted = f"{_name(1000)} or the like" if step is None else _name(step)
        raise CheckpointError(f"{run_dir}: no checkpoint {wanted} here, but: {holds}.")
    step = found[-1] if step is None else step
    try:
        entry = _store(run_dir).read(_name(step))
    except CheckpointError as error:
        remedy = "There is no earlier checkpoint."
        if at := found.index(step):
            call = f"load(run_dir, step={found[at - 1]}), on the command line --resume --from-step {found[at - 1]}"
            remedy = f"To resume from the one before, name it: {call}."
        raise CheckpointError(f"{error}. {remedy}") from error
    return Checkpoint(step, entry.tensors, entry.value)


def _store(run_dir: PathLike) -> Store:
    return Store(run_dir, IDENTITY, error=CheckpointError, remedy="it cannot be used")


def _name(step: int) -> str:
    return f"step_{step:08d}.safetensors"


def _discard(run_dir: PathLike, old: list[int]) -> None:
    for step in old:
        _store(run_dir).delete(_name(step))


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
        keep: return the tensors; if False, this process only helps to gather them.
    """
    state, parameters = _layout(net, optimizer, extra_modules)
    for name, p in parameters.items():
        state |= {f"{MOMENT}{name}.{key}": value for key, value in optimizer.state.get(p, {}).items()}
    tensors = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            gathered = full_tensor(value.detach())
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
    """Restore, bit for bit, what :func:`collect` returned; CheckpointError, before any change, if it does not fit.

    Every process calls this; the arguments of the main one count.
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
        for name, value in settings.items():
            if not name.endswith(".lr") and value != expected[name]:  # the rate follows from the step
                raise CheckpointError(
                    f"the checkpoint was saved with {name} = {value!r}, the optimiser has {expected[name]!r}: it "
                    "cannot be used"
                )
        return list(tensors), settings

    names, settings = on_main_process(accelerator, checked)
    moments: dict[str, State] = {}
    with torch.no_grad():
        for name in names:
            # A clone, for the optimiser keeps what it is given.
            value = distribute(tensors[name].clone() if name in tensors else None, form(name), accelerator)
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
    """Restore what :func:`random_state` returned; CheckpointError for anything else.

    The stream of a GPU is restored if there is a GPU and ``state`` holds one: nothing in this kit draws from it, but a
    network with dropout does.
    """
    if state.keys() | {"cuda"} != (streams := {"python", "numpy", "torch", "cuda"}):
        raise CheckpointError(f"the random streams must be {sorted(streams)}, those saved are {sorted(state)}.")
    try:
        version, words, gauss = json.loads(bytes(state["python"].tolist()))
        random.setstate((version, tuple(words), gauss))
        np.random.set_state(json.loads(bytes(state["numpy"].tolist())))  # noqa: NPY002
        torch.set_rng_state(state["torch"])
    except (ValueError, TypeError, KeyError, OverflowError, RuntimeError, RecursionError) as error:
        raise CheckpointError(f"the random streams that were saved are none ({error}): they cannot be used.") from error
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


class Trained(Protocol):
    """What is saved of a training: :class:`ismkit.training.loop.TrainState`."""

    step: int
    changes: list[dict[str, Any]]

    @property
    def net(self) -> nn.Module:
        """The network."""

    @property
    def ema(self) -> nn.Module:
        """Its averages."""

    @property
    def optimizer(self) -> Optimizer:
        """Its optimiser."""


def save_run(run_dir: PathLike, state: Trained, settings: Mapping[str, Any], accelerator: Accelerator) -> None:
    """Write the checkpoint of ``state.step``; every process calls this, and all get the main one's CheckpointError.

    The global random streams saved are the main process's.
    """
    modules = {"ema": state.ema}
    tensors, scalars = collect(state.net, state.optimizer, modules, keep=accelerator.is_main_process)
    tensors |= {RANDOM + name: value for name, value in random_state().items()}
    meta = {"settings": settings, "scalars": scalars, "changes": state.changes}
    on_main_process(accelerator, lambda: save(run_dir, state.step, tensors, meta))


def resume_run(saving: Saving, state: Trained, settings: Mapping[str, Any], accelerator: Accelerator) -> int:
    """Resume from the checkpoint that ``saving`` names; later ones are deleted. Every process calls this.

    Returns:
        Its step; 0, with nothing changed, if none is named and there is no checkpoint.

    Raises:
        ValueError: if the run was saved with other settings than ``saving`` accepts; the message names them.
        CheckpointError: if the checkpoint is missing, damaged, or does not fit.
    """
    assert saving.folder is not None
    run_dir, tensors, scalars = saving.folder, {}, {}

    def read() -> tuple[int, list[dict[str, Any]]] | None:
        if saving.from_step is None and not saved_steps(run_dir):
            return None
        saved = load(run_dir, saving.from_step)
        try:
            meta = {"changes": [], **saved.meta}  # older checkpoints have none
            form = {"settings": dict, "scalars": dict, "changes": [dict]}
            check_form(f"the JSON of step {saved.step} in {run_dir}", meta, form)
        except ValueError as error:
            raise CheckpointError(f"{error}: it cannot be used") from error
        changes = _accepted(saved, settings, saving, unwrapped(state.net))
        tensors.update(saved.tensors)
        scalars.update(saved.meta["scalars"])
        if any(change["setting"].startswith("optim.") for change in changes):
            scalars.update(_hyperparameters(state.optimizer))
        return saved.step, [*meta["changes"], *changes]

    if (found := on_main_process(accelerator, read)) is None:
        return 0
    start, state.changes = found
    streams = {name.removeprefix(RANDOM): tensors.pop(name) for name in list(tensors) if name.startswith(RANDOM)}
    restore(tensors, scalars, state.net, state.optimizer, {"ema": state.ema}, accelerator)
    on_main_process(accelerator, lambda: set_random_state(streams))
    # The steps after this one are trained again.
    on_main_process(accelerator, lambda: rewind(run_dir, start))
    return start


FEW = 4  # settings that are named for being accepted: more are another run


def _accepted(saved: Checkpoint, settings: Mapping[str, Any], saving: Saving, net: nn.Module) -> list[dict[str, Any]]:
    """The settings that are others than the checkpoint's; ValueError for those that ``saving`` does not accept."""
    old = saved.meta["settings"]
    changed = [key for key in settings if old.get(key) != settings[key]]
    if unknown := [name for name in saving.accept if name not in settings]:
        raise ValueError(f"accept must name settings of this run, such as optim.lr, got {unknown[0]!r}")
    if refused := [key for key in changed if key not in saving.accept]:
        names = " ".join([*saving.accept, *refused]) if len(refused) <= FEW else "NAME ..."
        lines = "; ".join(f"{key}: saved {old.get(key)}, now {settings[key]}" for key in refused)
        onwards = f", or change them from here on by --accept {names}, in Python Saving(accept=...)"
        if not _weights_fit(saved.tensors, net):
            onwards = ": the weights that were saved do not fit this network"
        remedy = f"use them, or another folder{onwards}"
        raise ValueError(f"{saving.folder} was trained with other settings; {remedy}. {lines}")
    return [{"step": saved.step, "setting": key, "saved": old.get(key), "now": settings[key]} for key in changed]


def _weights_fit(tensors: Tensors, net: nn.Module) -> bool:
    """Whether a checkpoint has a tensor of the right shape for each parameter of the plain network."""
    found = {name: value.shape for name, value in tensors.items()}
    return all(found.get(f"net.{name}") == parameter.shape for name, parameter in net.named_parameters())


def _hyperparameters(optimizer: Optimizer) -> State:
    """The settings of the optimiser, by the names that they have in a checkpoint."""
    groups = enumerate(optimizer.param_groups)
    return {
        f"optimizer.group.{i}.{key}": value for i, group in groups for key, value in group.items() if key != "params"
    }


def _layout(net: nn.Module, optimizer: Optimizer, extra_modules: Modules) -> tuple[State, State]:
    """What the modules and the optimiser's settings are (the tensors themselves), and its parameters by name."""
    net = unwrapped(net)
    reshard(net)
    state: State = {f"net.{name}": value for name, value in net.state_dict().items()}
    for prefix, module in extra_modules.items():
        reshard(module)
        state |= {f"extra.{prefix}.{name}": value for name, value in module.state_dict().items()}
    state |= _hyperparameters(optimizer)
    names = {p: name for name, p in net.named_parameters()}
    return state, {names[p]: p for group in optimizer.param_groups for p in group["params"]}
