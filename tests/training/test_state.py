"""All that training changes, there and back bit for bit: moments, averages, random streams; and what misfits."""

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from ismkit.method.ema import TwinEMA
from ismkit.training import checkpoint
from ismkit.training.options import Saving
from ismkit.utils.weights import CheckpointError
from tests.training.test_checkpoint import Net, assert_equal


class Run:
    """A training run that draws from all global random streams."""

    def __init__(self, seed: int, width: int = 5, **adam: Any) -> None:
        torch.manual_seed(seed)
        self.net = Net(width)
        self.ema = TwinEMA(self.net, 0.5, 0.9)
        rest = [p for name, p in self.net.named_parameters() if not name.startswith("last")]
        groups = [{"params": self.net.last.parameters(), "lr": 0.03, "betas": (0.8, 0.9)}, {"params": rest}]
        self.optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1, **adam)

    def train(self, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            x = torch.randn(8, 3) + random.random() + random.gauss(0, 1)
            y = torch.from_numpy(np.random.randint(0, 4, 8) + 0 * int(np.random.normal()))  # noqa: NPY002
            loss = (self.net(x, y) - x).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            for group in self.optimizer.param_groups:
                group["lr"] *= 0.97
            self.optimizer.step()
            self.ema.update(self.net)
            losses.append(loss.item())
        return losses

    def collect(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return checkpoint.collect(self.net, self.optimizer, {"ema": self.ema})

    def restore(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        checkpoint.restore(tensors, scalars, self.net, self.optimizer, {"ema": self.ema}, Accelerator(cpu=True))


@pytest.mark.parametrize("adam", [{}, {"amsgrad": True}, {"foreach": True}, {"fused": True}], ids=str)
def test_resumed_training_equals_uninterrupted(tmp_path: Path, adam: dict[str, bool]) -> None:
    straight = Run(0, **adam)
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    straight.train(3)
    tensors, scalars = straight.collect()
    checkpoint.save(tmp_path, 3, tensors | checkpoint.random_state(), {"scalars": scalars})
    losses = straight.train(4)

    resumed = Run(99, **adam)
    resumed.train(2)
    saved = checkpoint.load(tmp_path)
    streams = checkpoint.random_state().keys()
    resumed.restore({k: v for k, v in saved.tensors.items() if k not in streams}, saved.meta["scalars"])
    checkpoint.set_random_state({k: v for k, v in saved.tensors.items() if k in streams})
    assert_equal(resumed.collect()[0], tensors)
    assert resumed.optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert isinstance(resumed.optimizer.param_groups[0]["betas"], tuple)
    assert resumed.train(4) == losses
    assert_equal(resumed.collect()[0], straight.collect()[0])
    assert resumed.collect()[1] == straight.collect()[1]
    assert_equal(saved.tensors, tensors | {k: saved.tensors[k] for k in streams})  # training wrote into a copy


def test_collect_and_restore_leave_an_optimizer_that_has_not_stepped_so() -> None:
    run, other = Run(0), Run(1)
    tensors, scalars = run.collect()
    assert not run.optimizer.state
    assert not any(name.startswith("optimizer.state.") for name in tensors)
    other.train(2)
    other.restore(tensors, scalars)
    assert not other.optimizer.state
    for each in (run, other):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        each.train(3)
    assert_equal(run.collect()[0], other.collect()[0])


def test_collect_names_all_that_training_changes() -> None:
    run = Run(0)
    before = run.collect()[0]
    run.train(1)
    tensors = run.collect()[0]
    for name in ("net.norm.running_mean", "net.norm.num_batches_tracked", "net.frozen",
                 "extra.ema.averages.0.n_averaged", "extra.ema.averages.1.module.first.weight",
                 "optimizer.state.first.weight.exp_avg_sq", "optimizer.state.last.bias.step"):  # fmt: skip
        assert name in tensors
    assert not any("frozen" in name or "unused" in name for name in tensors if name.startswith("optimizer."))
    assert not torch.equal(before["net.first.weight"], tensors["net.first.weight"])  # a copy, not a window


def test_random_streams_come_back() -> None:
    def draw() -> list[Any]:
        numpy = [*np.random.rand(3), np.random.normal()]  # noqa: NPY002
        return [torch.rand(3).tolist(), random.random(), random.gauss(0, 1), numpy]

    draw()  # an odd number of normal variables: both generators hold one back
    streams = checkpoint.random_state()
    first = draw()
    assert draw() != first
    checkpoint.set_random_state(streams)
    assert draw() == first


# ------------------------------------------------------------------------------------------------------ bad restore


def test_restore_checks_all_before_it_changes_anything() -> None:
    source, target = Run(0), Run(1)
    source.train(2)
    target.train(1)
    tensors, scalars = source.collect()
    before = copy.deepcopy(target.collect())
    cases: list[tuple[dict[str, Tensor | None], dict[str, Any], str]] = [
        ({"net.last.bias": None}, {}, r"net.last.bias is missing, expected torch.float32 \[3\]"),
        ({"net.more": torch.ones(2)}, {}, r"net.more is torch.float32 \[2\], expected missing"),
        ({"extra.ema.averages.1.n_averaged": None}, {}, r"averages.1.n_averaged is missing, expected torch.int64"),
        ({"extra.other.w": torch.ones(2)}, {}, r"extra.other.w is torch.float32 \[2\], expected missing"),
        ({"net.norm.running_var": torch.ones(4)}, {}, r"running_var is torch.float32 \[4\], .*\[5\]"),
        ({"net.last.bias": torch.ones(3).bfloat16()}, {}, r"last.bias is torch.bfloat16 \[3\]"),
        ({"optimizer.state.last.bias.exp_avg": None}, {}, r"last.bias.exp_avg is missing, expected torch.float32"),
        ({"optimizer.state.last.bias.step": None}, {}, r"last.bias.step is missing, expected torch.float32 \[\]"),
        ({"optimizer.state.last.bias.exp_avg": torch.ones(4)}, {}, r"exp_avg is torch.float32 \[4\], .*\[3\]"),
        ({"optimizer.state.other.exp_avg": torch.ones(4)}, {}, r"state.other.exp_avg is .*, expected missing"),
        ({}, {"optimizer.group.2.lr": 0.1}, r"optimizer.group.2.lr is a setting, expected missing"),
        ({}, {"optimizer.group.0.momentum": 0.1}, r"group.0.momentum is a setting, expected missing"),
    ]
    for changed, settings_, message in cases:
        wrong = {name: value for name, value in {**tensors, **changed}.items() if value is not None}
        with pytest.raises(
            CheckpointError, match=rf"the checkpoint does not fit in 1 names: .*{message}.*Use the settings"
        ):
            target.restore(wrong, {**scalars, **settings_})
        assert_equal(target.collect()[0], before[0])
        assert target.collect()[1] == before[1]
    with pytest.raises(CheckpointError, match=r"group.1.lr is missing, expected a setting"):
        target.restore(tensors, {k: v for k, v in scalars.items() if k != "optimizer.group.1.lr"})
    with pytest.raises(CheckpointError, match=r"net.first.weight is torch.float32 \[5, 3\], .*\[6, 3\]"):
        Run(0, width=6).restore(tensors, scalars)
    target.restore(tensors, scalars)
    assert_equal(target.collect()[0], tensors)


def test_streams_that_are_not_all_there_are_refused() -> None:
    streams = checkpoint.random_state()
    before = torch.get_rng_state()
    torch.rand(1)
    drawn = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=r"the random streams must be \[.*\], those saved are \[.*'cuda.99'"):
        checkpoint.set_random_state({**streams, "cuda.99": streams["torch"]})
    with pytest.raises(CheckpointError, match=r"the random streams must be .*'numpy'.*those saved are"):
        checkpoint.set_random_state({name: value for name, value in streams.items() if name != "numpy"})
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not torch.equal(before, drawn)


@pytest.mark.parametrize("saved_on", ["a GPU", "no GPU"])
def test_the_number_of_gpus_does_not_matter(saved_on: str) -> None:
    """One stream of a GPU at most is saved, whatever is in sight, and none is needed."""
    streams = checkpoint.random_state()
    assert streams.keys() - {"cuda"} == {"numpy", "python", "torch"}
    expected = torch.rand(3)
    streams.pop("cuda", None)
    if saved_on == "a GPU":
        streams["cuda"] = (
            torch.cuda.get_rng_state() if torch.cuda.is_available() else torch.zeros(16, dtype=torch.uint8)
        )
    checkpoint.set_random_state(streams)
    assert torch.equal(torch.rand(3), expected)


def test_compiled_networks_are_saved_under_their_plain_names() -> None:
    run = Run(0)
    run.train(1)
    expected, _ = run.collect()
    run.net.compile()
    names = {"in place": run.net, "wrapped": torch.compile(run.net)}
    for net in names.values():
        ema = TwinEMA(net, 0.5, 0.9)
        ema.load_state_dict(run.ema.state_dict())
        assert_equal(checkpoint.collect(net, run.optimizer, {"ema": ema})[0], expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [("maximize", True), ("betas", [0.9, 0.999]), ("eps", 1.0), ("weight_decay", 0.0), ("amsgrad", 1.5)],
)
def test_settings_of_the_optimiser_are_compared_by_value(name: str, value: Any) -> None:
    """faults D11: a forged `maximize` trained uphill."""
    run = Run(0)
    run.train(1)
    tensors, scalars = run.collect()
    before = copy.deepcopy(run.optimizer.state_dict())
    with pytest.raises(CheckpointError, match=rf"saved with optimizer\.group\.0\.{name} = .*, the optimiser has"):
        run.restore(tensors, {**scalars, f"optimizer.group.0.{name}": value})
    assert_equal(run.collect()[0], tensors)
    assert run.optimizer.state_dict()["param_groups"] == before["param_groups"]
    run.restore(tensors, {**scalars, "optimizer.group.0.lr": 0.5})  # which every step sets again


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"settings": {}},
        {"settings": 3, "scalars": {}},
        {"settings": {}, "scalars": []},
        {"settings": {}, "scalars": {}, "changes": [3]},
    ],
)
def test_a_checkpoints_json_of_another_form_is_refused(meta: dict[str, Any], tmp_path: Path) -> None:
    """faults D11: KeyError, without the file's name."""
    run = Run(0)
    checkpoint.save(tmp_path, 3, run.collect()[0], meta)
    run.step = 0  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=rf"the JSON of step 3 in {tmp_path}.*: it cannot be used"):
        checkpoint.resume_run(Saving(tmp_path, resume=True), run, {}, Accelerator(cpu=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["python", "numpy", "torch"])
def test_random_streams_that_are_none_are_refused(name: str) -> None:
    """faults D11."""
    state = checkpoint.random_state()
    for broken in (torch.zeros(0, dtype=torch.uint8), torch.tensor([91, 49, 93], dtype=torch.uint8)):
        with pytest.raises(CheckpointError, match="the random streams that were saved are none"):
            checkpoint.set_random_state({**state, name: broken})
