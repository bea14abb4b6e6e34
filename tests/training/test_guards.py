"""Numbers that are not finite by themselves; what `fit` refuses before any work is tried in ``test_loop.py``."""

import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from ismkit.data.batches import Batches
from ismkit.data.sets import eight_gaussians
from ismkit.method.recipes import RECIPES
from ismkit.training import checkpoint
from ismkit.training.loop import DivergenceError, Optim, check_folder, finite_losses
from ismkit.training.options import Saving


def rows(*pairs: tuple[float, float]) -> list[torch.Tensor]:
    return [torch.tensor(pair) for pair in pairs]


def test_finite_losses_are_handed_over_once() -> None:
    recent = rows((1.5, 2.0), (0.5, 3.0))
    assert finite_losses(recent, 7, None) == [1.5, 0.5]
    assert recent == []


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (1.0, math.inf), (-math.inf, math.nan)])
def test_the_first_number_that_is_not_finite_is_named_by_its_step(bad: tuple[float, float], tmp_path: Path) -> None:
    recent = rows((1.0, 1.0), bad, (math.nan, math.nan))
    with pytest.raises(DivergenceError, match=rf"^step 8: loss {bad[0]}, gradient norm {bad[1]}; no checkpoint exists"):
        finite_losses(list(recent), 9, None)
    checkpoint.save(tmp_path, 6, {"a": torch.ones(1)}, {})
    with pytest.raises(DivergenceError, match="the last good checkpoint is of step 6 in "):
        finite_losses(recent, 9, tmp_path)


def test_a_folder_with_checkpoints_is_resumed_or_refused(tmp_path: Path) -> None:
    alone = Accelerator(cpu=True)
    parts = RECIPES["ism_plus"], Batches(eight_gaussians(64, 0), 16, seed=0)
    check_folder(Saving(tmp_path / "new"), Optim(), *parts, 8, alone)
    checkpoint.save(tmp_path, 6, {"a": torch.ones(1)}, {})
    check_folder(Saving(tmp_path, 2, resume=True), Optim(), *parts, 8, alone)
    with pytest.raises(ValueError, match="holds checkpoints up to step 6: resume, or take another folder"):
        check_folder(Saving(tmp_path, 2), Optim(), *parts, 8, alone)
