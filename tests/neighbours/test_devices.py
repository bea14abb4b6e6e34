"""Steps of the neighbours on a device that stands for a GPU: as on the CPU, and none waits."""

from dataclasses import replace

import pytest
import torch

from ismkit.method.recipes import Recipe
from ismkit.neighbours import NEIGHBOURS, Drift
from tests.fake_cuda import CUDA, fake_cuda
from tests.steps import Kind, network, step

STEPS: dict[str, tuple[Recipe, Kind]] = {
    "imm": (NEIGHBOURS["imm"], "images"),
    "drifting": (NEIGHBOURS["drifting"], "points"),
    "drifting in bands": (replace(NEIGHBOURS["drifting"], target=Drift(levels=2)), "images"),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_that_of_the_cpu_and_waits_for_nothing(name: str) -> None:
    recipe, kind = STEPS[name]
    loss, gradient = step(recipe, network(kind), kind)
    with fake_cuda() as waits:
        net = network(kind).to("cuda")
        waits.clear()
        there, slopes = step(recipe, net, kind, "cuda")
        assert not waits
        assert there.device == slopes.device == CUDA
        assert there.item() == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)  # kernels of order 1, in float32
        torch.testing.assert_close(slopes.cpu(), gradient, rtol=1e-3, atol=1e-5)
