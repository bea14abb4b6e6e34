"""Steps of the neighbours on a device that stands for a GPU: as on the CPU, and none waits."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ismkit.method.recipes import RECIPES, Recipe
from ismkit.neighbours import (
    NEIGHBOURS,
    Aligned,
    ClassReward,
    Drift,
    FrechetTerm,
    Ink,
    RepaTerm,
    SinkhornDrift,
    reward_tuning,
)
from tests.fake_cuda import CUDA, fake_cuda
from tests.steps import Kind, network, step


def still(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
    return torch.zeros_like(x)


def logits(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :3]


STEPS: dict[str, tuple[Recipe, Kind]] = {
    "drifting in bands": (replace(NEIGHBOURS["drifting"], target=Drift(levels=2)), "images"),
    "drifting by plans": (replace(NEIGHBOURS["drifting"], target=SinkhornDrift()), "images"),
    "class reward": (reward_tuning(still, ClassReward(logits), 0.5), "images"),
    "ink": (reward_tuning(still, Ink(), 0.5), "images"),
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


def test_alignment_waits_for_nothing() -> None:
    recipe = replace(RECIPES["flow"], terms=(RepaTerm(lambda x1: F.unfold(x1, 2, stride=2).mT),))
    net = Aligned(network("images"), 1, dim=8)  # type: ignore[arg-type]
    loss, _ = step(recipe, net, "images")
    net.zero_grad()
    with fake_cuda() as waits:
        net = net.to("cuda")
        waits.clear()
        there, _ = step(recipe, net, "images", "cuda")
        assert not waits
        assert there.item() == pytest.approx(loss.item(), rel=1e-5)


def test_the_frechet_distance_copies_its_moments_once() -> None:
    """On a GPU the solver of eigenvalues waits besides, inside of it, where the stand-in does not see it."""
    recipe = replace(reward_tuning(still, Ink(), 0.5), terms=(FrechetTerm(torch.ones(2), torch.eye(2)),))
    loss, _ = step(recipe, network("points"), "points")
    with fake_cuda() as waits:
        net = network("points").to("cuda")
        step(recipe, net, "points", "cuda")
        waits.clear()
        there, _ = step(recipe, net, "points", "cuda")
        assert not waits
        assert there.item() == pytest.approx(loss.item(), rel=1e-5)
