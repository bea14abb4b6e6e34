"""What `fit` asks of a network and of rows of your own before step 1."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ismkit.data.batches import Batches
from ismkit.data.sets import Labelled
from ismkit.method.path import Query
from ismkit.method.recipes import RECIPES
from ismkit.method.rows import Rows
from ismkit.training import loop
from ismkit.training.loop import Optim, fit
from ismkit.training.options import Saving
from ismkit.training.runs import for_points

DATA = Labelled.of(torch.randn(64, 2, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3)
FLOW, ISM = for_points(RECIPES["flow"]), for_points(RECIPES["ism_guidance"])


class Own(nn.Module):
    """A network without ``config``, with settings as attributes."""

    def __init__(self, scale: float = 1.0, labels: int = 4, act: Callable[[Tensor], Tensor] = F.silu) -> None:
        super().__init__()
        self.num_classes, self._scale, self.act = 3, scale, act
        self.label, self.first, self.last = nn.Embedding(labels, 4), nn.Linear(9, 16), nn.Linear(16, 2)

    def answer(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        given = torch.cat([x, torch.stack([t, d, w], 1), self.label(y)], 1)
        return self._scale * self.last(self.act(self.first(given)))

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Any:
        return self.answer(x, t, d, w, y)


class MovesSamples(Own):
    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        return self.answer(x.add_(1), *rest)


class ScalesTimes(Own):
    def forward(self, x: Tensor, t: Tensor, *rest: Tensor) -> Tensor:
        t *= 1000
        return self.answer(x, t, *rest)


class Narrow(Own):
    def forward(self, *query: Tensor) -> Tensor:
        return self.answer(*query)[:, :1]


class Wrapped(Own):
    def forward(self, *query: Tensor) -> tuple[Tensor]:
        return (self.answer(*query),)


class Double(Own):
    def forward(self, *query: Tensor) -> Tensor:
        return self.answer(*query).double()


class Detached(Own):
    def forward(self, *query: Tensor) -> Tensor:
        return self.answer(*query).detach()


def train(net: nn.Module, recipe: Any = ISM, steps: int = 2, **options: Any) -> Any:
    optim = Optim(lr=1e-3)
    return fit(recipe, net, Batches(DATA, 16, seed=0), steps=steps, optim=optim, progress=False, **options)


def plain(prediction: Tensor, target: Tensor, query: Query) -> Tensor:
    return (prediction - target).square().mean(1)


def cut_off(prediction: Tensor, target: Tensor, query: Query) -> Tensor:
    return plain(prediction.detach(), target, query)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (MovesSamples, "net must leave its inputs as they are, got one that changes x in place"),
        (ScalesTimes, "net must leave its inputs as they are, got one that changes t in place"),
        (Narrow, r"net must return samples \(2,\), as the data has, one for each row, got Tensor \(16, 1\)"),
        (Wrapped, r"net must return samples \(2,\), as the data has, one for each row, got tuple"),
        (Double, "net must return numbers of the type of its samples, torch.float32, got torch.float64"),
        (Detached, "net must return what its weights can be trained by, got a tensor without a gradient"),
        (lambda: Own(labels=3), "net must take the null label 3, its num_classes, beside the classes: IndexError"),
        (lambda: Own(labels=2), r"net must take samples \(2,\), as the data has: IndexError"),
    ],
)
def test_a_network_that_does_not_answer_as_a_training_needs_is_named(
    net: Callable[[], nn.Module], message: str
) -> None:
    """With a distance of your own a wrong shape would be broadcast; a changed input trains well and draws wrong."""
    with pytest.raises(ValueError, match=message):
        train(net(), replace(ISM, distance=plain))


def test_a_distance_without_a_gradient_is_named() -> None:
    with pytest.raises(
        ValueError, match="distance must return what has a gradient for the prediction, cut_off returns"
    ):
        train(Own(), replace(FLOW, distance=cut_off))


class Noisy(nn.Module):
    """A layer that draws from the global generator, also in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.rand_like(x)


def test_the_trial_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the global generator nor what is trained."""
    ends = []
    for tried in (True, False):
        if not tried:
            monkeypatch.setattr(loop, "_check_first_rows", lambda *parts: None)
        torch.manual_seed(3)
        net = Own()
        net.first = nn.Sequential(net.first, Noisy(), nn.BatchNorm1d(16))
        ends.append((train(net).losses, torch.get_rng_state(), net.training, net.first[2].running_mean))
    assert ends[0][0] == ends[1][0]
    assert ends[0][1].equal(ends[1][1])
    assert ends[0][2] == ends[1][2] is True
    assert ends[0][3].equal(ends[1][3])


@dataclass(frozen=True)
class Late(Rows):
    """Rows with one thing wrong."""

    wrong: str = ""

    def draw(self, n: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        t, d, w = super().draw(n, generator, device)
        wrong = {"t": (t + 5, d, w), "d": (t, -1 - d, w), "t + d": (t, 0 * d + 1, w), "w": (t, d, w - 1)}
        return wrong.get(self.wrong, (t, d, w))

    def __call__(self, *given: Any) -> Any:
        query, velocity = super().__call__(*given)
        match self.wrong:
            case "query alone":
                return query
            case "plain tuple":
                return tuple(query), velocity
            case "half":
                return query.take(slice(8)), velocity[:8]
            case "velocity":
                return query, velocity[:, :1]
            case "label":
                return query._replace(y=query.y + 9), velocity
        return query, velocity


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("t", r"recipe.rows must draw t in \[0, 1\], got 5"),
        ("d", r"recipe.rows must draw d in \[0, 1\], got -1"),
        ("t + d", r"recipe.rows must draw t \+ d in \[0, 1\], got 1"),
        ("w", r"recipe.rows must draw w in \[0, inf\], got -1"),
        ("label", r"recipe.rows must draw y in \[0, 3\], got 9 to"),
        ("query alone", r"recipe.rows must return \(query, velocity\), a Query and a tensor like the data, got Query"),
        ("plain tuple", r"recipe.rows must return \(query, velocity\), .*, got tuple of 2"),
        ("half", r"recipe.rows must return velocity of shape \(16, 2\), got Tensor \(8, 2\)"),
        ("velocity", r"recipe.rows must return velocity of shape \(16, 2\), got Tensor \(16, 1\)"),
    ],
)
def test_rows_that_ask_what_cannot_be_asked_are_named(wrong: str, message: str) -> None:
    assert train(Own(), replace(FLOW, rows=Late())).step == 2
    with pytest.raises(ValueError, match=message):
        train(Own(), replace(FLOW, rows=Late(wrong=wrong)))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"scale": 5.0}, "net.config._scale: saved 1.0, now 5.0"),
        ({"act": F.relu}, r"net.config.act: saved .*silu.*, now .*relu"),
        ({"labels": 5}, r"net.config\['label.num_embeddings'\]: saved 4, now 5"),
    ],
)
def test_a_network_without_config_is_recognised_by_its_attributes(
    changed: dict[str, Any], named: str, tmp_path: Path
) -> None:
    """What it prints does not show them; and a resumed run would have overwritten the model of another."""
    saving = Saving(tmp_path, save_every=1, resume=True)
    train(Own(), saving=saving)
    with pytest.raises(ValueError, match=f"was trained with other settings.*{named}"):
        train(Own(**changed), steps=3, saving=saving)
    assert train(Own(), steps=3, saving=saving).step == 3


def test_attributes_that_are_no_settings_are_not_compared(tmp_path: Path) -> None:
    """Lists of weights, such as those of recurrent layers, and what changes from call to call."""
    saving = Saving(tmp_path, save_every=1, resume=True)
    for steps in (1, 2):
        net = Own()
        net.weights_of_parts, net.random = [net.first.weight], torch.Generator()
        train(net, steps=steps, saving=saving)
