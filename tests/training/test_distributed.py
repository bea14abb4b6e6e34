"""On one process: what an accelerator is made with, the parts of a network, errors; ``test_loop.py`` has two."""

import os
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn

from ismkit.models.nets import Block, DiT, ToyMLP
from ismkit.training import distributed
from ismkit.utils.workers import WorkerError


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def transformer() -> DiT:
    return DiT(size=4, channels=1, patch=2, width=8, depth=3, heads=2, num_classes=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "zero"}, "mode must be one of ddp, fsdp, got 'zero'"),
        ({"precision": "fp16"}, "precision must be one of no, bf16, got 'fp16'"),
    ],
)
def test_other_modes_and_precisions_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distributed.accelerator(**options)


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_one_process_shares_with_nobody_and_leaves_no_setting_behind(mode: Any) -> None:
    before = dict(os.environ)
    made = distributed.accelerator(mode, "bf16", cpu=True)
    assert (made.mixed_precision, made.device.type) == ("bf16", "cpu")
    assert not distributed.is_sharding(made)
    assert "ACCELERATE_USE_FSDP" not in os.environ.keys() - before.keys()


def test_the_first_version_of_fsdp_is_refused() -> None:
    made = distributed.accelerator("fsdp", cpu=True)
    made.state.fsdp_plugin.fsdp_version = 1
    with pytest.raises(ValueError, match="accelerator must have fsdp_version=2, got 1"):
        distributed.is_sharding(made)


def test_blocks_are_those_that_can_be_called() -> None:
    found = distributed.blocks(transformer())
    assert [type(block) for block in found] == [Block] * 3
    assert distributed.blocks(ToyMLP(width=8)) == []
    assert not distributed.recompute(ToyMLP(width=8))


def test_plain_networks_are_told_from_others() -> None:
    net = transformer()
    assert not distributed.is_wrapped(net)
    assert distributed.unsharded(net) is net
    distributed.compile_blocks(net)  # in place: the names stay, and so does the class
    assert not distributed.is_wrapped(net)
    assert list(net.state_dict()) == list(transformer().state_dict())
    assert distributed.is_wrapped(torch.compile(net))  # type: ignore[arg-type]


def test_work_is_done_and_its_error_raised() -> None:
    made = Accelerator(cpu=True)
    assert distributed.on_main_process(made, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        distributed.on_main_process(made, lambda: 1 // 0)


def test_an_error_that_no_other_process_can_read_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickling it raised on the main process alone, and the others waited for what never came."""

    class NotebookError(Exception):
        pass

    def fail() -> None:
        raise NotebookError("no space left")

    monkeypatch.setattr(distributed, "broadcast_object_list", lambda held: pickle.loads(pickle.dumps(held)))
    two: Any = SimpleNamespace(num_processes=2, is_main_process=True)
    with pytest.raises(WorkerError, match=r"^NotebookError: no space left\n"):
        distributed.on_main_process(two, fail)
    with pytest.raises(ZeroDivisionError):
        distributed.on_main_process(two, lambda: 1 // 0)


@pytest.mark.parametrize("wants", [True, False])
def test_one_process_votes_alone_and_is_answered_at_once(wants: bool) -> None:
    loss = torch.tensor(0.1)
    mean, ending = distributed.StopVote(Accelerator(cpu=True), active=True)(loss, wants)
    assert mean is loss
    assert ending is wants


def test_a_tensor_that_is_no_shard_is_whole() -> None:
    value = nn.Parameter(torch.ones(2))
    assert distributed.full_tensor(value) is value
