"""A CUDA device for machines without one: tensors that say they are on it, with numbers that the CPU computes.

Within :func:`fake_cuda` the device ``cuda`` can be used as usual. What a real one refuses is refused: tensors of two
devices in one operation, a generator of another device. Whatever makes the CPU wait for a real one is noted: reading a
number (``item``, ``bool``, ``tolist``), a shape that depends on numbers (``nonzero``, boolean masks), a copy to the
CPU, and one from it that is not ``non_blocking``. Random numbers are those of the CPU, so that what is computed can be
compared with the same on the CPU. Not imitated are kernels, autocast, memory and streams, which tests/test_gpu.py
tests. The device ``meta`` stands for this one, and so cannot be used itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, ClassVar, NamedTuple
from unittest import mock

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from ismkit.method.wavelet import _analysis_matrix

CUDA = torch.device("cuda", 0)
# What stands for it below Python: its backward passes need no device thread, and no kernel runs on it by mistake.
META = torch.device("meta")
aten = torch.ops.aten

COPIES = (aten._to_copy.default, aten.copy_.default)
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
#: Beside pointwise operations, those that take one number of the CPU with tensors of the device.
TAKES_A_NUMBER = ("fill", "fill_", "masked_fill", "masked_fill_", "index_put", "index_put_")


class Wait(NamedTuple):
    """A wait of the CPU for the device: the operation, and the function of the kit that asked for it."""

    operation: str
    place: str


class FakeCuda(Tensor):
    """A tensor that says it is on ``cuda:0``; ``host`` holds its numbers."""

    host: Tensor
    waits: ClassVar[list[Wait]] = []

    @staticmethod
    def __new__(cls, host: Tensor, requires_grad: bool = False) -> FakeCuda:
        with torch.inference_mode(False):  # a view of a tensor from outside of that mode must be none of it
            made = Tensor._make_wrapper_subclass(
                cls, host.shape, strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype,
                device=META, requires_grad=requires_grad,
            )  # fmt: skip
        made.host = host
        return made

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = is_meta = property(lambda self: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self, **_: Any) -> str:
        return f"FakeCuda({self.host!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied: Tensor = FakeCuda(self.host.clone(), self.requires_grad)
        if getattr(self, "_is_param", False):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Generator(torch.Generator):
    """A generator that keeps the device it was asked for, and draws on the CPU."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, "cpu")
        made.on = torch.device(device).type  # type: ignore[attr-defined]
        return made

    device = property(lambda self: CUDA if self.on == "cuda" else torch.device("cpu"))  # type: ignore[assignment]


class _Functions(TorchFunctionMode):
    """Lets the device be asked for by its name."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        _check_generator(args, kwargs)
        if args and isinstance(args[0], FakeCuda):
            if func is Tensor.tolist:
                return args[0].cpu().tolist()
            if func is Tensor.numpy:
                raise TypeError("can't convert cuda:0 device type tensor to numpy: use Tensor.cpu()")
            if func is Tensor.new_tensor and not isinstance(args[1], Tensor):
                kwargs = {"dtype": args[0].dtype, "device": CUDA} | kwargs
                return _from_numbers(torch.tensor, args[1:], kwargs)
        if func is Tensor.cuda:
            func, args = Tensor.to, (args[0], CUDA)
        names = (str, torch.device) if func is Tensor.to else torch.device
        args = tuple(META if isinstance(a, names) and _is_cuda(a) else a for a in args)
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            return _from_numbers(func, args, kwargs)
        if _is_cuda(kwargs.get("device")):
            kwargs = {**kwargs, "device": META}
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    """Sees those that make a tensor from none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _is_cuda(device: Any) -> bool:
    return isinstance(device, (str, torch.device)) and torch.device(device).type == "cuda"


def _from_numbers(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    """``torch.tensor`` of numbers and tensors of one number: made on the CPU, then copied, as for a real device."""
    data = tree_map(lambda value: value.item() if isinstance(value, FakeCuda) else value, args[0])
    if not _is_cuda(kwargs.get("device")):
        return func(data, *args[1:], **kwargs)
    return func(data, *args[1:], **{**kwargs, "device": "cpu"}).to(META)


def _check_generator(args: Any, kwargs: Any) -> None:
    given = [*args, *kwargs.values()]
    used = next((value for value in given if isinstance(value, torch.Generator)), None)
    on_cuda = _is_cuda(kwargs.get("device")) or any(isinstance(value, FakeCuda) for value in given)
    if used is not None and (used.device.type == "cuda") != on_cuda:
        raise RuntimeError(
            f"Expected a '{'cuda' if on_cuda else 'cpu'}' device type for generator but found '{used.device.type}'"
        )


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation on the CPU; its result is on the device if its tensors are, or if it was asked for there."""
    if torch.is_inference_mode_enabled():  # in it, what is made of other operations comes in one piece
        with _Operations():
            if (out := func.decompose(*args, **kwargs)) is not NotImplemented:
                return out
    flat, spec = tree_flatten((args, kwargs))
    ours = [value for value in flat if isinstance(value, FakeCuda)]
    others = [value for value in flat if isinstance(value, Tensor) and not isinstance(value, FakeCuda)]
    device = kwargs.get("device")
    on_cuda = bool(ours) if device is None else device == META
    if func is aten.copy_.default:
        on_cuda = isinstance(args[0], FakeCuda)
    if ours and others:
        _check_devices(func, args, ours, others)
    if _waits(func, args, kwargs, bool(ours), on_cuda):
        FakeCuda.waits.append(Wait(func.overloadpacket.__name__, _place()))
    hosts = [value.host if isinstance(value, FakeCuda) else _on_cpu(value) for value in flat]
    args, kwargs = tree_unflatten(hosts, spec)
    out = func(*args, **kwargs)
    known = {id(value.host): value for value in ours}  # what an operation in place returns
    return tree_map(lambda value: _wrapped(value, known), out) if on_cuda else out


def _on_cpu(value: Any) -> Any:
    return torch.device("cpu") if isinstance(value, torch.device) and value == META else value


def _wrapped(value: Any, known: dict[int, FakeCuda]) -> Any:
    if id(value) in known:
        return known[id(value)]
    return FakeCuda(value) if isinstance(value, Tensor) else value


def _check_devices(func: Any, args: Any, ours: list[FakeCuda], others: list[Tensor]) -> None:
    """RuntimeError for an operation that a CUDA device refuses with these tensors of the CPU."""
    if func in COPIES or (func in INDEXED and isinstance(args[0], FakeCuda)):
        return
    takes = torch.Tag.pointwise in func.tags or func.overloadpacket.__name__ in TAKES_A_NUMBER
    if not (takes and all(value.ndim == 0 for value in others)):
        shapes = [[tuple(value.shape) for value in values] for values in (ours, others)]
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {func.name()} got {shapes[0]} on cuda:0 and "
            f"{shapes[1]} on cpu"
        )


def _waits(func: Any, args: Any, kwargs: Any, ours: bool, on_cuda: bool) -> bool:
    """Whether an operation makes the CPU wait until the device has done all its work."""
    if func in COPIES:
        within = func is aten.copy_.default  # copy_(to, from, non_blocking)
        across = isinstance(args[within], FakeCuda) != on_cuda
        non_blocking = args[2:] == (True,) if within else kwargs.get("non_blocking")
        return across and not (on_cuda and non_blocking)
    if func in INDEXED and ours:  # a mask is counted first, and indices of the CPU are copied
        indices = [value for value in args[1] if value is not None]
        if func is not aten.index.Tensor and len(indices) == 1 and args[2].ndim == 0:  # x[mask] = 1.0 only fills
            return not isinstance(indices[0], FakeCuda)
        return any(i.dtype in (torch.bool, torch.uint8) or not isinstance(i, FakeCuda) for i in indices)
    return ours and bool(READS & set(func.tags))


def _place() -> str:
    """The innermost function of the kit that is running."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if (name := frame.f_globals.get("__name__", "")).startswith("ismkit."):
            return f"{name.removeprefix('ismkit.')}.{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "the test"


@contextmanager
def fake_cuda() -> Iterator[list[Wait]]:
    """Let this thread use the device ``cuda``; yields the list of the waits for it, which grows."""
    waits: list[Wait] = []
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(FakeCuda, "waits", waits))
        stack.enter_context(mock.patch("torch.Generator", Generator))
        stack.enter_context(mock.patch("torch.cuda.Stream"))
        stack.enter_context(mock.patch("torch.cuda.stream", return_value=nullcontext()))
        stack.enter_context(mock.patch("torch.cuda.get_device_name", return_value="fake"))
        stack.enter_context(mock.patch("torch.cuda.max_memory_allocated", return_value=0))
        stack.enter_context(mock.patch("torch.cuda.reset_peak_memory_stats"))
        stack.callback(_analysis_matrix.cache_clear)  # it keeps tensors of each device
        stack.enter_context(_Operations())
        stack.enter_context(_Functions())
        yield waits


def accelerator(device: str) -> Accelerator:
    """Accelerate's, for ``cuda`` or ``cpu``; it keeps settings in process-wide singletons, which this resets."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    made = Accelerator(cpu=True)
    if device == "cuda":
        PartialState().device = made.state.device = CUDA
    return made


@pytest.fixture
def reset_accelerate() -> Iterator[None]:
    """Leave no accelerator of a fake device to later tests."""
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
