"""The device that stands for a GPU finds what it is there to find: waits, and tensors left on another device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.fake_cuda import CUDA, FakeCuda, Wait, fake_cuda

WAITS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x[0].item(),
    "bool": lambda x: bool((x > 0).any()),
    "int": lambda x: int(x[0]),
    "float": lambda x: float(x.sum()),
    "if": lambda x: 1 if x[0] > 0 else 0,
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to cpu": lambda x: x.to("cpu", non_blocking=True),
    "to its type on the CPU": lambda x: x.to(torch.zeros(2)),
    "copied to the CPU": lambda x: torch.zeros(4).copy_(x),
    "from the CPU": lambda x: torch.zeros(2).to(x.device),
    "copied from the CPU": lambda x: x.copy_(torch.zeros(4)),
    "as_tensor": lambda x: torch.as_tensor([1.0, 2.0], device=x.device),
    "tensor": lambda x: torch.tensor(3.0, device="cuda"),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "tensor of a tensor": lambda x: torch.tensor([x[0], 1.0]),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "mask": lambda x: x[x > 0],
    "set by a mask": lambda x: x.index_put_((x > 0,), torch.ones(4, device=x.device)[x > 0]),
    "masked_select": lambda x: x.masked_select(x > 0),
    "index of the CPU": lambda x: x[torch.tensor([0, 1])],
    "list as index": lambda x: x[[0, 1]],
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.long().bincount(),
    "equal": lambda x: x.equal(x.clone()),
    "repeat_interleave": lambda x: x.repeat_interleave(torch.ones(4, device=x.device).long()),
    "in inference mode": torch.inference_mode()(lambda x: x.to("cpu")),
}


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
def test_a_wait_is_found(name: str) -> None:
    with fake_cuda() as waits:
        x = torch.arange(4.0, device="cuda")
        assert not waits
        WAITS[name](x)
        assert waits
        assert {wait.place for wait in waits} == {"the test"}


def test_what_does_not_wait_is_not_noted() -> None:
    with fake_cuda() as waits:
        x = torch.rand(4, device="cuda", generator=torch.Generator("cuda").manual_seed(0)).requires_grad_()
        y = torch.ones(4).to("cuda", non_blocking=True)
        mask = y > 0
        y[1:3] = 2.0
        y[mask] = 3.0
        y = torch.where(mask, 0.0, y).masked_fill(mask, 1.0) + torch.tensor(1.0)
        (x[:2] * y[torch.arange(2, device=y.device)]).sum().backward()
        assert x.grad is not None
        made = [x.grad, x.double(), x.new_zeros(3), torch.zeros_like(x), torch.zeros(3, device=x.device), x.cuda()]
        for value in made:
            assert isinstance(value, FakeCuda)
            assert value.device == CUDA
        assert not waits


REFUSED: dict[str, Callable[[Tensor], Any]] = {
    "sum": lambda x: x + torch.zeros(4),
    "product of matrices": lambda x: x[None] @ torch.zeros(4, 1),
    "cat": lambda x: torch.cat([x, torch.zeros(4)]),
    "stack of numbers": lambda x: torch.stack([x.sum(), torch.tensor(0.0)]),
    "in place": lambda x: torch.zeros(4).add_(x),
    "where": lambda x: torch.where(x > 0, torch.zeros(4), x),
    "index of the device": lambda x: torch.zeros(4)[x.long()],
    "generator of the CPU": lambda x: torch.rand(4, device=x.device, generator=torch.Generator()),
    "generator of the device": lambda x: torch.rand(4, generator=torch.Generator("cuda")),
    "in place by a generator": lambda x: x.normal_(generator=torch.Generator()),
    "in inference mode": torch.inference_mode()(lambda x: x + torch.zeros(4)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_two_devices_in_one_operation_are_refused(name: str) -> None:
    with fake_cuda():
        x = torch.arange(4.0, device="cuda")
        with pytest.raises(RuntimeError, match=r"to be on the same device|device type for generator"):
            REFUSED[name](x)


def test_numpy_needs_the_cpu() -> None:
    with fake_cuda(), pytest.raises(TypeError, match="numpy"):
        torch.zeros(2, device="cuda").numpy()


def test_a_wait_names_the_function_of_the_kit() -> None:
    from ismkit.utils.checks import check_finite

    with fake_cuda() as waits:
        check_finite("x", torch.zeros(2, device="cuda"))
        assert waits == [Wait("_local_scalar_dense", "utils.checks.check_finite")]
