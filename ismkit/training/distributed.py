"""One process or many: DDP or FSDP2, gathering what is sharded, errors that all processes share, ending on a signal.

Under DDP every process holds all of the network, its two averages and AdamW's moments; under FSDP2 each holds its share
of them, in float32, and the blocks of the network are gathered, used and freed in turn. The losses are the same.

What happens when a process dies or hangs. The others wait for it in the next exchange. With gloo the exchange fails at
once when the connection breaks; with NCCL, and wherever a process hangs without dying, it fails after ``timeout``
seconds, and each process ends. A launcher (``torchrun``, ``accelerate launch``) is quicker: it ends all processes of a
node when one of them has failed, by SIGTERM and 30 seconds later by SIGKILL. Either way only the steps since the last
checkpoint are lost.

What happens when a scheduler asks a run to end. SIGTERM (Slurm at its time limit, Kubernetes, a launcher that is
stopped) and SIGUSR1 (Slurm with ``--signal=USR1@300``, five minutes before the limit) do the same: the current step is
finished (with several processes one more, to agree on it), a checkpoint is written, and each process exits with status
75, so that the job can be queued again. SIGINT, the Ctrl-C of a terminal, still ends a run at once. A launcher gives
its processes 30 seconds after SIGTERM and exits with another status: where writing takes longer, send SIGUSR1 to the
processes themselves.
"""

from __future__ import annotations

import copy
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
    broadcast,
    broadcast_object_list,
)
from torch import Tensor, nn

from ismkit.method.ema import unwrapped
from ismkit.utils.files import locked
from ismkit.utils.workers import readable

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: try again
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Preempted(SystemExit):
    """A run has ended at a signal; where nothing catches this, the process exits with status 75, ``REQUEUE``.

    Attributes:
        message: what happened, and where the checkpoint is.
        step: optimiser steps done, and saved.

    Example:
        :class:`ismkit.training.launcher.KillAt` sends such a signal to a run. What the run raises:

        >>> from ismkit import Preempted
        >>> preempted = Preempted("ended by a signal at step 300", step=300)
        >>> preempted.step, preempted.code  # the exit status
        (300, 75)
        >>> print(preempted)
        ended by a signal at step 300
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(REQUEUE)
        self.message, self.step = message, step

    def __str__(self) -> str:
        return self.message


@contextmanager
def listening(active: bool = True) -> Iterator[Callable[[], bool]]:
    """Catch ``SIGNALS`` within the block; the function that it yields says whether one has come.

    Python takes signals in the main thread only: in another, and if not ``active``, they act as usual.
    """
    came: list[int] = []
    if not active or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in SIGNALS}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


Mode = Literal["ddp", "fsdp"]
Precision = Literal["no", "bf16"]
T = TypeVar("T")


def accelerator(
    mode: Mode = "ddp", precision: Precision = "no", *, cpu: bool = False, timeout: float = 600
) -> Accelerator:
    """The ``Accelerator`` for :func:`ismkit.training.loop.fit`: one process, or those that a launcher has started.

    Args:
        mode: ``"ddp"`` replicates the network and its averages, ``"fsdp"`` shards them (FSDP2); for one
            process they are the same.
        precision: ``"bf16"`` computes under autocast; weights, averages, moments and the sums of gradients over the
            processes stay in float32. FSDP2 sends weights in it, but for those of the slow average.
        cpu: compute on the CPU, with gloo, even if there is a GPU; without a GPU this is the default.
        timeout: seconds that a process waits for the others, and so for the main one while it writes a checkpoint.

    Returns:
        The accelerator. Accelerate keeps mode, precision and device for the whole process, from the first one made.

    Raises:
        ValueError: for another mode or precision; for ``"ddp"`` where the process has one for ``"fsdp"`` already.

    Example:
        Without a launcher there is one process, the main one:

        >>> from ismkit.training import accelerator
        >>> made = accelerator()
        >>> made.num_processes, made.is_main_process, made.mixed_precision
        (1, True, 'no')
        >>> accelerator("zero")
        Traceback (most recent call last):
        ValueError: mode must be one of ddp, fsdp, got 'zero'
    """
    for name, value, kinds in (("mode", mode, get_args(Mode)), ("precision", precision, get_args(Precision))):
        if value not in kinds:
            raise ValueError(f"{name} must be one of {', '.join(kinds)}, got {value!r}")
    # Accelerate alone would take several processes without a GPU for as many single ones.
    cpu = cpu or ("WORLD_SIZE" in os.environ and not torch.cuda.is_available())
    wait = InitProcessGroupKwargs(timeout=timedelta(seconds=timeout))
    if mode == "ddp":
        views = DistributedDataParallelKwargs(gradient_as_bucket_view=True)  # else gradients are stored twice
        made = Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=[wait, views])
        if is_sharding(made):  # Accelerate keeps what the first one of a process was made with
            raise ValueError("mode is 'ddp', but this process has an accelerator for 'fsdp' already")
        return made
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    before = os.environ.get("ACCELERATE_USE_FSDP")
    made = Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=[wait], fsdp_plugin=plugin)
    if before is None:  # Accelerate never resets it: the next one of this process would be sharded too
        os.environ.pop("ACCELERATE_USE_FSDP", None)
    made.state.fsdp_plugin = plugin  # on a CPU Accelerate forgets it, though torch shards there as well
    return made


def is_sharding(accelerator: Accelerator) -> bool:
    """Whether ``accelerator`` is for FSDP2 and has several processes; ValueError for FSDP1."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.fsdp_version != 2:
        raise ValueError(
            "accelerator must have fsdp_version=2, got 1: see ismkit.training.distributed.accelerator('fsdp')"
        )
    return plugin is not None and accelerator.num_processes > 1


def blocks(net: nn.Module) -> list[nn.Module]:
    """The equal parts of a network that are compiled, recomputed and sharded one by one: ``net.blocks``, if it has any.

    The blocks of a :class:`ismkit.models.nets.DiT`; none in a :class:`ismkit.models.nets.ToyMLP`, whose blocks are no
    functions.
    """
    parts = getattr(net, "blocks", [])
    return [part for part in parts if type(part).forward is not nn.Module.forward]


def compile_blocks(net: nn.Module) -> None:
    """Compile ``net`` in place by ``torch.compile``: each of its blocks, which share the code, or else all of it.

    Each batch size is compiled separately. Names stay as they are, and copies of the network are not compiled.
    """
    for part in blocks(net) or [net]:
        part.compile(dynamic=False)


def recompute(net: nn.Module) -> bool:
    """Checkpoint activations: blocks compute them again in the backward pass; False if ``net`` has no such blocks."""
    parts = [part for part in blocks(net) if hasattr(part, "recompute")]
    for part in parts:
        part.recompute = True  # type: ignore[assignment]
    return bool(parts)


def is_wrapped(net: nn.Module) -> bool:
    """Whether ``net`` is compiled, wrapped for DDP, or sharded."""
    return _is_sharded(net) or unwrapped(net) is not net


def shard(
    net: nn.Module, accelerator: Accelerator, *, keep_gathered: bool = False, full_precision: bool = False
) -> None:
    """Shard ``net`` in place by FSDP2, block by block, over all processes; it goes to the accelerator's device.

    Args:
        net: a plain network with the same weights on every process; its names stay as they are.
        accelerator: of :func:`accelerator`, with its precision.
        keep_gathered: keep the weights that a forward pass has gathered until ``reshard``: for an average, which is
            evaluated several times between two updates. Each process then holds all its weights in the precision of
            the pass. On two CPU processes a step took 0.7 of the computing time that it takes when every pass gathers
            them again.
        full_precision: gather the weights in float32 whatever the precision is: for an average that is also called
            outside of autocast, which would leave inputs in float32 beside weights in bf16.
    """
    from torch.distributed.device_mesh import init_device_mesh  # half a second that only sharding needs
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    half = torch.bfloat16 if accelerator.mixed_precision == "bf16" and not full_precision else None
    # Inputs stay as they are, for times in bf16 would have three digits; autocast rounds what a layer takes.
    policy = MixedPrecisionPolicy(half, torch.float32, torch.float32, cast_forward_inputs=False)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    object.__setattr__(net, "blueprint", copy.deepcopy(net).to("meta"))  # no submodule; for `unsharded`
    for part in [*blocks(net), net]:
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=not keep_gathered)


def _is_sharded(net: nn.Module) -> bool:
    return hasattr(type(net), "set_requires_gradient_sync")  # the class FSDPModule, without importing it


def is_shard(value: Tensor) -> bool:
    """Whether ``value`` is a ``DTensor``: a share of a tensor, by ``shard``."""
    return hasattr(value, "full_tensor")


def reshard(net: nn.Module) -> None:
    """Free the weights that ``net`` has gathered, if it is sharded; needed before they change."""
    module: Any
    for module in net.modules():
        if _is_sharded(module):
            module.reshard()


def full_tensor(value: Tensor) -> Tensor:
    """Gather the tensor that ``value`` is a shard of; each process must call this. Other tensors stay as they are."""
    shard: Any = value
    return shard.full_tensor() if is_shard(value) else value


def distribute(value: Tensor | None, like: Tensor, accelerator: Accelerator) -> Tensor:
    """``value``, which the main process has, in the form of ``like`` on every process: replicated, or its shard."""
    if accelerator.num_processes == 1:
        assert value is not None
        return value.to(like.device)
    sent = torch.empty(like.shape, dtype=like.dtype) if value is None else value
    sent = broadcast(sent.to(accelerator.device).contiguous())
    if is_shard(like):
        from torch.distributed.tensor import distribute_tensor

        model: Any = like
        return distribute_tensor(sent, model.device_mesh, model.placements, src_data_rank=None)
    return sent.to(like.device)


def unsharded(net: nn.Module) -> nn.Module:
    """Gather a full copy on the CPU of a sharded network, on every process; each must call this.

    For :func:`ismkit.models.saved.save_model` or for sampling with ``state.ema.slow`` on one process. A network that is
    not sharded is returned as it is.
    """
    if not _is_sharded(net):
        return net
    reshard(net)
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}  # with the buffers that no file keeps
    plain = copy.deepcopy(net.blueprint).to_empty(device="cpu")  # type: ignore[union-attr]
    with torch.no_grad():
        for name, value in {**dict(plain.named_parameters()), **dict(plain.named_buffers())}.items():
            value.copy_(full_tensor(tensors[name].detach()))
    return plain


def synchronise(net: nn.Module, accelerator: Accelerator) -> None:
    """Give every process the weights of the main one."""
    if accelerator.num_processes > 1:
        for tensor in net.state_dict().values():
            tensor.copy_(broadcast(tensor.to(accelerator.device)))


def accumulating(net: nn.Module, accelerator: Accelerator) -> AbstractContextManager[None]:
    """A context in which gradients are summed up and not yet exchanged; ``net`` as it is called in training."""
    return _unsynchronised(net) if _is_sharded(net) else accelerator.no_sync(net)


@contextmanager
def _unsynchronised(net: Any) -> Iterator[None]:
    net.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        net.set_requires_gradient_sync(True)


def on_main_process(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Call ``work`` on the main process alone; every process returns its result or raises its error."""
    if accelerator.num_processes == 1:
        return work()
    outcome: list[Any] = [None, None]  # result, error
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except Exception as error:
            outcome[1] = readable(error)  # else the others would wait for what cannot be sent
    outcome = broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


@contextmanager
def alone_in(folder: Path | None, accelerator: Accelerator) -> Iterator[None]:
    """Let no other training work in a folder while the block runs: the main process locks it, for all of them.

    Args:
        folder: of a training; None for one without.
        accelerator: of its processes, each of which must call this.

    Raises:
        ValueError: on every process, if another training works there; see :func:`ismkit.utils.files.locked`.
    """
    with ExitStack() as held:
        if folder is not None:
            on_main_process(accelerator, lambda: held.enter_context(locked(folder, "training")))
        yield


class StopVote:
    """Whether any process wants to end, and the mean of the losses: one small exchange after each step.

    The result of a vote is read one step later, from a copy that was begun with the vote: so no process waits for the
    device to finish what was queued since. All processes read the same. A single process reads its vote at once. If not
    ``active``, no vote is read.
    """

    def __init__(self, accelerator: Accelerator, *, active: bool) -> None:
        self._accelerator, self._active = accelerator, active
        self._last: Callable[[], float] = lambda: 0.0

    def __call__(self, loss: Tensor, wants: bool) -> tuple[Tensor, bool]:
        """The mean of ``loss`` (scalar) over the processes, and whether to end now."""
        if self._accelerator.num_processes == 1:
            return loss, wants
        both = self._accelerator.reduce(torch.stack([loss, torch.full_like(loss, wants)]), "mean")
        if not self._active:
            return both[0], False
        last, self._last = self._last, _read_later(both[1])
        return both[0], last() > 0


def _read_later(number: Tensor) -> Callable[[], float]:
    """Begin to copy a number to the CPU; what is returned gives it, and waits for this copy alone.

    A read of the tensor itself waits for all that was queued on a GPU before the read.
    """
    copy = number.to("cpu", non_blocking=True)  # into pinned memory, which the device writes by itself
    if number.device.type != "cuda":
        return copy.item
    arrived = torch.cuda.Event()
    arrived.record()

    def read() -> float:
        arrived.synchronize()
        return copy.item()

    return read
