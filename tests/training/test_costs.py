"""What a step costs: FLOPs against PyTorch's own counter, parameters and saved bytes against real networks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ismkit.method.ema import TwinEMA
from ismkit.method.recipes import RECIPES, training_step
from ismkit.models.nets import FREQUENCIES, PRESETS, DiT
from ismkit.neighbours.drifting import Drift
from ismkit.neighbours.leap import Leap, SigmoidCut
from ismkit.neighbours.recipes import NEIGHBOURS
from ismkit.training.costs import (
    Passes,
    activation_bytes,
    checkpoint_bytes,
    forward_flops,
    latent_bytes,
    parameters,
    passes,
    row_cost,
    step_flops,
)
from ismkit.training.runs import RUNS, equal_passes, for_points, for_side


def config(name: str, size: int = 32) -> dict[str, Any]:
    return {"size": size, "channels": 4, "patch": 2, **PRESETS[name], "num_classes": 1000}


SMALL = {"size": 8, "channels": 3, "patch": 2, "width": 24, "depth": 2, "heads": 3, "num_classes": 5}


def counted(work: Callable[[], Any]) -> int:
    # A fused attention on the CPU is not in PyTorch's tables; its plain form is two products, as the formula has it.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("shape", [SMALL, config("S")])
def test_forward_flops_are_pytorchs_count(shape: dict[str, Any]) -> None:
    net = DiT(**shape)
    x, t, y = torch.zeros(1, shape["channels"], shape["size"], shape["size"]), torch.zeros(1), torch.zeros(1).long()
    with torch.no_grad():
        assert counted(lambda: net(x, t, t, t, y)) == forward_flops(shape)


@pytest.mark.parametrize(("name", "published"), [("S", 6.06), ("B", 23.01), ("L", 80.71), ("XL", 118.64)])
def test_published_gflops_count_multiply_adds_once(name: str, published: float) -> None:
    # DiT (arXiv 2212.09748, table 4). Theirs has twice the outputs and one embedder less, and counts norms.
    assert forward_flops(config(name)) / 2e9 == pytest.approx(published, abs=0.025)


def test_512_pixels_cost_what_is_published() -> None:
    assert forward_flops(config("XL", 64)) / 2e9 == pytest.approx(524.6, rel=2e-3)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("flow", Passes(16, 0, 0)),
        ("shortcut_every_level", Passes(16, 8, 2)),  # 2 rows, two half steps, with and without their label
        ("ism", Passes(16, 16, 2)),  # 4 guidance rows with and without label, 4 consistency rows at two half steps
    ],
)
def test_passes_of_a_step(recipe: str, expected: Passes) -> None:
    assert passes(RECIPES[recipe], 16) == expected


def test_the_cost_of_a_row_is_the_mean_over_a_run_that_changes() -> None:
    # alpha-Flow cuts half of its rows: no further pass while the cut is 1, one while it falls, two (a derivative) at 0.
    recipe = NEIGHBOURS["alpha_flow"]
    assert isinstance(recipe.target, Leap)
    assert isinstance(recipe.target.cut, SigmoidCut)
    shares = [recipe.target.cut((k + 0.5) / 50) for k in range(50)]
    further = sum(0 if c == 1 else 2 if c == 0 else 1 for c in shares) / 50
    assert row_cost(recipe, 64) == pytest.approx(3 + further / 2)


@pytest.mark.parametrize("name", ["flow", "meanflow", "imf", "ect", "imm", "drifting"])
def test_equal_passes_are_equal(name: str) -> None:
    recipe, run = for_points({**RECIPES, **NEIGHBOURS}[name]), RUNS["gaussians"]
    other = equal_passes(run, recipe, share=0.5)
    spent, wanted = (row_cost(r.recipe, r.batch_size) * r.steps * r.batch_size for r in (other, run))
    assert spent == pytest.approx(wanted / 2, rel=1 / other.steps)
    assert other.recipe == recipe
    assert other.optim == run.optim


def test_drifting_in_bands_costs_what_it_does_without() -> None:
    recipe = NEIGHBOURS["drifting"]
    assert row_cost(replace(recipe, target=Drift(levels=4)), 16) == row_cost(recipe, 16) == 4


def test_ism_costs_four_thirds_of_a_flow_step() -> None:
    flow, ism = (step_flops(config("XL"), RECIPES[name], 256) for name in ("flow", "ism"))
    assert ism / flow == pytest.approx(4 / 3, rel=1e-12)
    assert flow == 3 * 256 * forward_flops(config("XL"))


@pytest.mark.parametrize("recipe", ["flow", "shortcut_every_level", "ism"])
def test_a_whole_step_is_what_pytorch_counts_less_the_gradients_of_inputs(recipe: str) -> None:
    net, batch, method = DiT(**SMALL), 8, for_side(RECIPES[recipe], 8)
    ema = TwinEMA(net, 0.9, 0.9)
    x = torch.randn(batch, 3, 8, 8)
    y = torch.zeros(batch, dtype=torch.long)

    def step() -> None:
        pair = (torch.randn_like(x), x, y)
        training_step(method, net, ema, pair, 5, torch.Generator().manual_seed(0))[0].backward()

    tokens, pixels, D = 16, 12, SMALL["width"]
    # Nothing is asked for the gradient of what enters: patches, and the sinusoids of t, d and w.
    inputs = batch * (2 * tokens * pixels * D + 3 * 2 * 2 * FREQUENCIES * D)
    distance = counted(lambda: _distance_alone(method, x))
    assert counted(step) - distance == step_flops(SMALL, method, batch) - inputs


def _distance_alone(method: Any, x: Tensor) -> None:
    answer = torch.randn_like(x, requires_grad=True)
    method.distance(answer, x).sum().backward()


@pytest.mark.parametrize("shape", [SMALL, *(config(name) for name in PRESETS), config("XL", 64)])
def test_parameters_are_those_of_the_network(shape: dict[str, Any]) -> None:
    with torch.device("meta"):
        net = DiT(**shape)
    assert parameters(shape) == sum(p.numel() for p in net.parameters())


def test_xl_has_the_published_parameters_but_for_what_is_said() -> None:
    # DiT's 675.13 M: 256 fixed positions and outputs for a variance more, two embedders less.
    width = 1152
    ours = parameters(config("XL")) - 2 * (256 * width + width**2 + 2 * width) + 256 * width + 16 * (width + 1)
    assert ours / 1e6 == pytest.approx(675.13, abs=0.005)


def saved_bytes(net: nn.Module, work: Callable[[], Tensor]) -> int:
    """Bytes of all that autograd keeps, parameters and their copies in bf16 left out."""
    own = {p.shape for p in net.parameters()} | {p.T.shape for p in net.parameters() if p.ndim == 2}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.shape not in own:
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_activations_are_what_autograd_keeps(precision: str) -> None:
    shape = {"size": 16, "channels": 2, "patch": 2, "width": 96, "depth": 5, "heads": 3, "num_classes": 5}
    net, rows = DiT(**shape), 2
    x, t, y = torch.randn(rows, 2, 16, 16), torch.rand(rows), torch.zeros(rows).long()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        kept = saved_bytes(net, lambda: net(x, t, t, t, y))
    # Embedders, modulations, statistics of norms and the head are the rest.
    assert 1 <= kept / (rows * activation_bytes(shape, precision)) < 1.1


def test_checkpointing_keeps_one_input_per_block() -> None:
    shape = config("XL")
    tokens, width, depth = 256, 1152, 28
    less = activation_bytes(shape) - activation_bytes(shape, checkpointing=True)
    assert less == tokens * width * (48 * (depth - 1) - 4 * depth)
    with pytest.raises(ValueError, match="precision must be one of"):
        activation_bytes(shape, "fp16")


def test_stored_bytes() -> None:
    assert latent_bytes(images=1, copies=1) == 2 * 4096 * 2  # mean and deviation, half precision
    assert latent_bytes() / 1e9 == pytest.approx(41.98, abs=0.01)
    assert latent_bytes(size=64) == 4 * latent_bytes()
    assert checkpoint_bytes(config("XL")) == 20 * parameters(config("XL"))
