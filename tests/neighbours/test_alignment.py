"""Representation alignment: where its gradient goes, what it is worth, and that sampling knows nothing of it."""

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ismkit.data.batches import Batches
from ismkit.data.sets import Labelled
from ismkit.method.ema import TwinEMA
from ismkit.method.path import Query, step_lengths_of
from ismkit.method.recipes import RECIPES, training_step
from ismkit.method.sampling import sample
from ismkit.models.nets import DiT, ToyMLP
from ismkit.neighbours import Aligned, RepaTerm
from ismkit.training.loop import Optim, fit
from ismkit.training.options import Engine, Saving

NOTHING: Any = None


def transformer(depth: int = 3) -> DiT:
    torch.manual_seed(0)
    net = DiT(size=8, channels=1, patch=2, width=16, depth=depth, heads=2, num_classes=3)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return net


def asked(n: int = 4) -> tuple[Query, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x, v = torch.randn(2, n, 1, 8, 8, generator=rng)
    t, d, w = torch.rand(n, generator=rng), torch.zeros(n), torch.zeros(n)
    return Query(x, t, d, w, torch.arange(n) % 3), v


def patches(x1: Tensor) -> Tensor:
    return F.unfold(x1, 2, stride=2).mT  # (B, 16, 4)


@pytest.mark.parametrize("block", [1, 2, 3])
def test_the_gradient_reaches_the_head_and_the_blocks_up_to_its_own(block: int) -> None:
    net, (query, velocity) = Aligned(transformer(), block, dim=4, hidden=8), asked()
    answer = net(*query)
    RepaTerm(patches)(net, answer, query, velocity, NOTHING).backward()
    for k, part in enumerate(net.net.blocks):
        reached = any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
        assert reached == (k < block)
    assert all(p.grad is not None and p.grad.any() for p in net.head.parameters())
    assert net.net.head.weight.grad is None


def test_equal_features_are_worth_minus_the_weight_whatever_their_length() -> None:
    net, (query, velocity) = Aligned(transformer(), 2, dim=4, hidden=8), asked()
    net(*query)
    made = net.take()
    for factor, expected in ((3.0, -0.5), (-1.0, 0.5)):
        net(*query)
        found = RepaTerm(lambda x1, factor=factor: factor * made.detach())(net, NOTHING, query, velocity, NOTHING)
        assert found.item() == pytest.approx(expected, abs=1e-6)


def test_the_encoder_gets_the_clean_data() -> None:
    net, (query, velocity) = Aligned(transformer(), 2, dim=4, hidden=8), asked()
    seen = []

    def encoder(x1: Tensor) -> Tensor:
        seen.append(x1)
        return patches(x1)

    net(*query)
    RepaTerm(encoder)(net, NOTHING, query, velocity, NOTHING)
    torch.testing.assert_close(seen[0], query.x + (1 - query.t)[:, None, None, None] * velocity)


def test_answers_are_those_of_the_transformer_and_averages_have_no_head_to_run() -> None:
    dit = transformer()
    query, _ = asked()
    expected = dit(*query)
    net = Aligned(dit, 2, dim=4)
    torch.testing.assert_close(net(*query), expected)
    ema = TwinEMA(net)  # a copy, although the head has made something
    assert ema.fast.net is not dit
    calls: list[int] = []
    ema.fast.head.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    torch.testing.assert_close(sample(ema.fast, query.x, query.y), sample(dit, query.x, query.y))
    with pytest.raises(ValueError, match="net must be in training mode and have answered with gradient"):
        ema.fast.take()  # type: ignore[operator]
    assert not calls
    other = copy.deepcopy(net)
    other(*query)
    assert other.take().shape == net.take().shape  # each its own hook


def test_the_steps_that_were_trained_stand_on_the_transformer_that_is_saved() -> None:
    net = Aligned(transformer(), 2, dim=4)
    assert step_lengths_of(net) == step_lengths_of(net.net) == "dyadic"
    net.step_lengths = "to data"
    assert step_lengths_of(net) == step_lengths_of(net.net) == "to data"
    assert step_lengths_of(TwinEMA(net).slow.net) == "to data"  # type: ignore[arg-type]


def test_a_head_made_for_one_step_is_taken_once() -> None:
    net, (query, _) = Aligned(transformer(), 2, dim=4), asked()
    with torch.no_grad():
        net(*query)
    with pytest.raises(ValueError, match="the head has made nothing"):
        net.take()
    net(*query)
    net.take()
    with pytest.raises(ValueError, match="the head has made nothing"):
        net.take()


def test_what_does_not_fit_is_refused() -> None:
    query, velocity = asked()
    with pytest.raises(ValueError, match="block must be one of net's, at most 3, got 4"):
        Aligned(transformer(), 4, dim=4)
    with pytest.raises(ValueError, match="net must be Aligned, a transformer with a head, got ToyMLP"):
        RepaTerm(patches)(ToyMLP(), NOTHING, query, velocity, NOTHING)
    net = Aligned(transformer(), 2, dim=5)
    net(*query)
    with pytest.raises(ValueError, match=r"encoder must give features \(4, 16, 5\), got \(4, 16, 4\)"):
        RepaTerm(patches)(net, NOTHING, query, velocity, NOTHING)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo looks at it
@pytest.mark.parametrize("how", ["plain", "recompute", "compile"])
def test_it_trains_and_resumes(how: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head learns what the tokens hold: the mean cosine rises. A resumed run ends like an uninterrupted one.

    Graphs are traced, and run as they are: to generate code for them takes a hundred times as long as the training.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    recipe = replace(RECIPES["flow"], terms=(RepaTerm(patches, weight=1.0),))
    rng = torch.Generator().manual_seed(0)
    data = Labelled(torch.randn(64, 1, 8, 8, generator=rng), torch.arange(64) % 3, 3, ("a", "b", "c"))
    engine = Engine(recompute=how == "recompute", compile=how == "compile")

    def train(steps: int, folder: Any, resume: bool = False) -> Aligned:
        torch.manual_seed(0)
        net = Aligned(transformer(), 2, dim=4, hidden=32)
        saving = Saving(folder, resume=resume)
        fit(
            recipe,
            net,
            Batches(data, 16, 0),
            steps=steps,
            optim=Optim(lr=1e-2),
            engine=engine,
            saving=saving,
            progress=False,
        )
        return net

    def cosine(net: Aligned) -> float:
        query, velocity = asked(16)
        net(*query)
        return -RepaTerm(patches, weight=1.0)(net, NOTHING, query, velocity, NOTHING).item()

    net = train(20, tmp_path / "a")
    assert cosine(net) > 0.3 + cosine(Aligned(transformer(), 2, dim=4, hidden=32))
    if how == "plain":
        train(8, tmp_path / "b")
        resumed = train(20, tmp_path / "b", resume=True)
        for a, b in zip(net.parameters(), resumed.parameters(), strict=True):
            assert a.equal(b)


def test_the_step_is_that_of_the_recipe_plus_the_term() -> None:
    net, x = Aligned(transformer(), 2, dim=4), asked()[0].x
    losses = []
    for terms in ((), (RepaTerm(patches),)):
        rng = torch.Generator().manual_seed(0)
        recipe = replace(RECIPES["flow"], terms=terms)
        loss, _, distance = training_step(recipe, net, TwinEMA(net), (x, x.flip(0), asked()[0].y), 3, rng)
        losses.append(loss.item() - distance.mean().item())
    assert losses[0] == pytest.approx(0, abs=1e-6)
    assert 1e-6 < abs(losses[1]) <= 0.5


def test_ddp_reduces_the_gradient_of_the_head_too(tmp_path: Path) -> None:
    """One process: its wrapper waits for a gradient of every parameter, or the second pass is an error."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        net, (query, velocity) = Aligned(transformer(), 3, dim=4), asked()
        wrapped = nn.parallel.DistributedDataParallel(net)
        for _ in range(2):
            answer = wrapped(*query)
            term = RepaTerm(patches)(wrapped, answer, query, velocity, NOTHING)
            (term + answer.square().mean()).backward()
        assert all(p.grad is not None and p.grad.any() for p in net.head.parameters())
    finally:
        torch.distributed.destroy_process_group()
