"""From eight Gaussians to two moons: what each coupling is worth from another source than N(0, I)."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ismkit.data.batches import Batches
from ismkit.data.sets import EIGHT_GAUSSIANS_MEANS, EIGHT_GAUSSIANS_STD, two_moons
from ismkit.evaluation.metrics import wasserstein2
from ismkit.method.coupling import Coupling
from ismkit.method.guidance import TwoPassCFG
from ismkit.method.path import draw_noise
from ismkit.method.recipes import RECIPES
from ismkit.method.rows import Rows
from ismkit.method.sampling import sample
from ismkit.models.nets import ToyMLP
from ismkit.training.loop import Optim
from ismkit.utils.seeding import stream
from tests.options import fit

N = 1000  # samples of each moon


def eight_gaussians(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """The source, on a circle as much larger than the moons as in the paper."""
    k = torch.randint(8, shape[:1], generator=generator)
    return 5 / 3 * (EIGHT_GAUSSIANS_MEANS[k] + EIGHT_GAUSSIANS_STD * torch.randn(shape, generator=generator))


def errors(coupling: Coupling, seed: int) -> tuple[float, float]:
    """Squared W2 of one Euler step to fresh data: mean over the moons asked for, and of both together."""
    rows = Rows(label_dropout=0.0)
    recipe = replace(RECIPES["flow"], rows=rows, coupling=coupling, source=eight_gaussians, fast=0.99, slow=0.99)
    torch.manual_seed(seed)
    net, batches = ToyMLP(width=64, depth=2, num_classes=2), Batches(two_moons(20_000, seed), 256, seed)
    optim = Optim(lr=4e-3, weight_decay=0.0, cooldown=0.5, clip=1.0)
    state = fit(recipe, net, batches, steps=500, optim=optim, seed=seed, progress=False)
    y, many = torch.arange(2 * N) // N, two_moons(4 * N, 200 + seed)
    data = torch.cat([many.x[many.y == c][:N] for c in (0, 1)])
    x0 = draw_noise(eight_gaussians, (2 * N, 2), stream(seed, "samples"))
    x = sample(TwoPassCFG(state.ema.slow, 2), x0, y)
    return sum(wasserstein2(x[y == c], data[y == c]) ** 2 for c in (0, 1)) / 2, wasserstein2(x, data) ** 2


@pytest.mark.slow
def test_plain_transport_leaks_the_class_and_transport_within_classes_does_not() -> None:
    """The order of arXiv 2503.10636, figure 1: independent 2.573, plain 0.483, within classes 0.048, on its scale."""
    independent, of_both = errors(Coupling(), seed=0)
    plain, plain_of_both = errors(Coupling(2, class_aware=False), seed=0)
    class_aware, class_aware_of_both = errors(Coupling(2), seed=0)
    assert class_aware < plain / 3
    assert independent > max(plain, class_aware)
    assert of_both > 3 * max(plain_of_both, class_aware_of_both)
    assert class_aware_of_both < plain_of_both
