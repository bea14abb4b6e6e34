"""Twin EMA: a fast average of the weights makes the targets, a slow one samples (iSM, section on twin EMA)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ismkit.utils.checks import check_count, shown

#: Where the classes are that wrap a network besides PyTorch's own for DDP: what is not imported has wrapped nothing.
_WRAPPERS = ("torch._dynamo", "torch.distributed.fsdp", "deepspeed")


def unwrapped(net: nn.Module) -> nn.Module:
    """The plain network in one that is compiled or wrapped, by Accelerate's ``extract_model_from_parallel``.

    Accelerate imports PyTorch's compiler and FSDP to look for them, in more than a second; if neither was imported, the
    network is plain.
    """
    parallel = isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel)
    if parallel or any(name in sys.modules for name in _WRAPPERS):
        return extract_model_from_parallel(net, keep_torch_compile=False)
    return net


def ramped(decay: float, updates: int) -> float:
    """Decay of update number ``updates`` (0, 1, ...): ``min(decay, (1 + updates) / (10 + updates))``.

    The ramp is this kit's choice: without it a slow average still holds the initial weights after a short run. It
    leaves 0.95 alone after 170 updates and 0.9999 after 90 000.
    """
    return min(decay, (1 + updates) / (10 + updates))


def shares(decay: float, updates: int) -> Tensor:
    """Compute how much of each past state of the weights an average holds, with its warm-up ramp.

    The weights of an exponential average, written out; the ramp is this kit's choice.

    Args:
        decay: of the average, in [0, 1).
        updates: how many it has had.

    Returns:
        (updates + 1,) float64, oldest first, with sum 1: entry 0 belongs to the initial weights, entry k to those of
        update number k. ``sum_k share_k (updates - k)``, the mean age, is the lag in steps behind a linear drift:
        ``updates / 10`` while the ramp lasts, ``decay / (1 - decay)`` long after it.

    Raises:
        ValueError: for a decay outside [0, 1), or a number of updates that is none.

    Example:
        >>> import torch
        >>> from ismkit.method import shares
        >>> def lag(decay, updates):
        ...     return round((shares(decay, updates) * torch.arange(updates, -1, -1)).sum().item(), 2)
        >>> lag(0.95, 50), lag(0.9999, 50)  # within the ramp both decays lag alike
        (5.0, 5.0)
        >>> lag(0.95, 2000), lag(0.9999, 2000)
        (19.0, 200.0)
    """
    check_decay("decay", decay)
    check_count("updates", updates, 0)
    kept = torch.tensor([ramped(decay, k) for k in range(updates)], dtype=torch.float64)
    later = kept.flip(0).cumprod(0).flip(0)  # entry k: what updates k, k + 1, ... leave of all that was there before
    one = torch.ones(1, dtype=torch.float64)
    return torch.cat([one, 1 - kept]) * torch.cat([later, one])


def check_decay(name: str, decay: float) -> None:
    """Raise ValueError unless ``decay``, the one of this name, is a number in [0, 1)."""
    if not isinstance(decay, Real) or isinstance(decay, bool) or not 0 <= decay < 1:
        raise ValueError(f"{name} must be in [0, 1), got {shown(decay)}")


class TwinEMA(nn.Module):
    """Two exponential moving averages of one network, each a plain module in eval mode, without gradients.

    iSM's twin EMA: the fast one makes the targets, the slow one samples. The warm-up ramp is this kit's choice.

    ``average <- decay * average + (1 - decay) * weights`` per :meth:`update`, with the decay ramped up by
    :func:`ramped`. Both start at the network's initial weights. Buffers are copied. A decay of 0 follows the network. A
    network may be compiled or wrapped: its averages are those of the plain one, under its names. Where
    :func:`ismkit.training.distributed.shard` has sharded the network and both averages alike, each process updates its
    share.

    Args:
        net: the network, with its initial weights.
        fast: decay of the fast average, in [0, 1) (iSM: 0.95).
        slow: decay of the slow average, at least ``fast`` (iSM: 0.9999).

    Attributes:
        fast: makes the targets.
        slow: samples; ``fast`` itself where both decays are equal (a single EMA, as in SM).

    Raises:
        TypeError: if ``net`` is not a module.
        ValueError: for a decay outside [0, 1), a fast one above the slow one, or weights in half precision, which
            would round away what a slow average adds.

    Example:
        One weight that moves by 1 per step. After 200 steps the fast average lags ``0.5 / (1 - 0.5)`` steps behind, the
        slow one, still in its ramp, a tenth of the run:

        >>> import torch
        >>> from torch import nn
        >>> from ismkit import TwinEMA
        >>> net = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(net.weight)
        >>> ema = TwinEMA(net, fast=0.5, slow=0.9999)
        >>> for step in range(1, 201):
        ...     _ = nn.init.constant_(net.weight, step)
        ...     ema.update(net)
        >>> [round(200 - average.weight.item(), 1) for average in (ema.fast, ema.slow)]
        [1.0, 20.0]
    """

    def __init__(self, net: nn.Module, fast: float = 0.95, slow: float = 0.9999) -> None:
        check_decay("fast decay", fast)
        check_decay("slow decay", slow)
        if fast > slow:
            raise ValueError(f"the fast decay must not exceed the slow one, got fast={fast}, slow={slow}")
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, got {shown(net)}")
        super().__init__()
        net = unwrapped(net)
        if halves := [name for name, p in net.named_parameters() if p.dtype in (torch.float16, torch.bfloat16)]:
            held = net.get_parameter(halves[0]).dtype
            raise ValueError(
                f"net must have weights in float32, got {held} in {halves[0]}: their slow average would stand still; "
                "bf16 is a precision of the training, not of the weights"
            )
        decays = {fast: None, slow: None}  # one average where the two are equal
        self.averages = nn.ModuleList(_Average(net, decay) for decay in decays)

    @property
    def fast(self) -> nn.Module:
        """The fast average, for targets."""
        return self.averages[0].module  # type: ignore[return-value]

    @property
    def slow(self) -> nn.Module:
        """The slow average, for sampling."""
        return self.averages[-1].module  # type: ignore[return-value]

    def update(self, net: nn.Module) -> None:
        """Add the weights of a network to both averages, after an optimiser step.

        Args:
            net: the network that is trained, wrapped or not.

        Raises:
            TypeError: if ``net`` is not a module.
        """
        self.following(net)()

    def following(self, net: nn.Module) -> Callable[[], None]:
        """Make the update for one network, which looks up the weights once.

        Args:
            net: the network that is trained, wrapped or not.

        Returns:
            A function without arguments, to be called after each optimiser step: what :meth:`update` does.

        Raises:
            TypeError: if ``net`` is not a module.

        Example:
            >>> from torch import nn
            >>> from ismkit import TwinEMA
            >>> net = nn.Linear(1, 1)
            >>> ema = TwinEMA(net, fast=0.0)
            >>> follow = ema.following(net)
            >>> _ = nn.init.constant_(net.weight, 7)
            >>> follow()
            >>> ema.fast.weight.item()
            7.0
        """
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, got {shown(net)}")
        net = unwrapped(net)
        updates = [average.following(net) for average in self.averages]  # type: ignore[operator]

        def follow() -> None:
            for update in updates:
                update()

        return follow

    def train(self, mode: bool = True) -> TwinEMA:
        """Stay in eval mode: averages never train."""
        return super().train(False)


class _Average(AveragedModel):
    """An average whose update waits for no device.

    That of ``AveragedModel`` copies the number of updates to the device, and a GPU lets the CPU wait for such a copy
    until all its work is done: in every step, before the next one can be launched.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        super().__init__(net)
        self.decay = decay
        # AveragedModel copies the weights at its first update; an EMA starts from the initial ones instead.
        self.n_averaged.fill_(1)
        self.eval().requires_grad_(False)

    def update_parameters(self, model: nn.Module) -> None:
        self.following(model)()

    def following(self, net: nn.Module) -> Callable[[], None]:
        """The update towards a network."""
        weights = list(zip(self.module.parameters(), net.parameters(), strict=True))
        buffers = list(zip(_buffers(self.module), _buffers(net), strict=True))

        @torch.no_grad()
        def follow() -> None:
            updates = int(self.n_averaged) - 1  # the counter stays on the CPU
            averages, values = _local(a for a, _ in weights), _local(w.to(a.device) for a, w in weights)
            torch._foreach_lerp_(averages, values, 1 - ramped(self.decay, updates))
            for average, value in buffers:
                getattr(*average).copy_(getattr(*value))
            self.n_averaged += 1

        return follow


def _buffers(net: nn.Module) -> list[tuple[nn.Module, str]]:
    """The module and the name of each buffer, since a network may replace the tensor."""
    places = [name.rpartition(".") for name, _ in net.named_buffers()]
    return [(net.get_submodule(owner), name) for owner, _, name in places]


def _local(tensors: Iterable[Any]) -> list[Tensor]:
    """The share of each that this process holds."""
    return [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
