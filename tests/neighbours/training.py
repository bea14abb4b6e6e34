"""Short trainings in the plane: how far one step is from the eight Gaussians."""

import torch

from ismkit.data.batches import Batches
from ismkit.data.sets import eight_gaussians
from ismkit.evaluation.judges import PointJudge, Setting
from ismkit.method.recipes import Recipe
from ismkit.models.nets import ToyMLP
from ismkit.training.loop import Optim, fit


def w2_of_one_step(recipe: Recipe, steps: int, seed: int) -> float:
    """Distance of samples of one step to fresh data, the mean over the classes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = ToyMLP(width=64, depth=2, num_classes=8, time_scale=recipe.rows.time_scale)
        optim = Optim(lr=2e-3, weight_decay=0.0, warmup=steps // 10, cooldown=0.5, clip=1.0)
        batches = Batches(eight_gaussians(20_000, 0), 256, seed=seed)
        state = fit(recipe, net, batches, steps=steps, seed=seed, optim=optim, progress=False)
        judge = PointJudge(eight_gaussians(4000, 1), torch.device("cpu"))
        return judge.score(state.ema.slow, Setting(1, w=0.0, n=1000))["w2"]
    finally:
        torch.set_default_dtype(before)
