"""The networks that the kit ships: released models draw what their cards say, and how they were trained."""

import hashlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ismkit.data.colour import emoji, emoji_changes
from ismkit.data.fashion import CLOTHES
from ismkit.data.sets import Labelled, eight_gaussians
from ismkit.evaluation.judges import JUDGES, FashionJudge, FeatureNet, Setting
from ismkit.method.ema import TwinEMA
from ismkit.method.path import Query, interpolate
from ismkit.method.recipes import RECIPES, Context, Intrinsic
from ismkit.models.autoencoder import reconstruction_error
from ismkit.models.nets import DiT, ToyMLP
from ismkit.models.saved import (
    RELEASED,
    load_gaussians,
    load_generator,
    load_model,
    released,
    released_file,
    save_model,
    space_of,
)
from ismkit.models.spaces import SHAPE, SPACES, EmojiAutoencoder, FashionAutoencoder
from ismkit.training.runs import RUNS
from ismkit.utils.files import WEIGHT_SUMS, WEIGHTS, weights_file
from ismkit.utils.settings import describe
from ismkit.utils.weights import CheckpointError, read_weights
from tests.options import train_run

spec = importlib.util.spec_from_file_location("training", WEIGHTS / "train.py")
assert spec
assert spec.loader
training = importlib.util.module_from_spec(spec)
spec.loader.exec_module(training)


def few(count: int = 40) -> Labelled:
    rng = torch.Generator().manual_seed(0)
    return Labelled(torch.randn(count, *SHAPE, generator=rng), torch.arange(count) % 10, 10, CLOTHES)


# ---------------------------------------------------------------- loading


judge_of = cache(lambda space: JUDGES[space].load())


@pytest.mark.parametrize("name", RELEASED)
def test_released_models_draw_what_their_cards_say(name: str) -> None:
    """The allowance is for other processors; the file says more digits than the card that people read."""
    net, card = released(name)
    space = training.run_of(name).space
    assert space_of(net) == space
    judge = judge_of(space)
    held = card["scores"]["1 NFE, w = 1"]
    scores = judge.score(net, Setting(1, 1.0, held["n"], 1))
    assert scores["frechet"] == pytest.approx(held["frechet"], rel=0.02)
    assert scores["agreement"] == pytest.approx(held["agreement"], abs=0.005)
    text = (WEIGHTS / "README.md").read_text()
    assert RELEASED[name] in text
    line = next(line for line in text.splitlines() if line.startswith(f"| `{name}` | "))
    shown = 2 if name == "emoji" else 1
    for setting in (f"1 NFE, w = {shown}", f"4 NFE, w = {shown}", f"128 NFE, w = {shown}"):
        score = card["scores"][setting]
        assert f"| {score['frechet']:.2f} / {100 * score['agreement']:.1f} % " in line


@pytest.mark.parametrize(("space", "w", "agreement"), [("clothes", 1, 0.93), ("emoji", 2, 0.7)])
def test_the_default_of_each_space_is_a_good_model(space: str, w: int, agreement: float) -> None:
    """What the kit promises of it, on its card: close to its own 128 steps, and of the class that was asked for."""
    scores = released(SPACES[space].model)[1]["scores"]
    assert scores[f"1 NFE, w = {w}"]["frechet"] <= 1.5 * scores[f"128 NFE, w = {w}"]["frechet"]
    assert scores[f"1 NFE, w = {w}"]["agreement"] >= agreement


#: What settings that came later are where they change nothing: as it was without them.
AT_REST = {"source": None, "terms": [], "time_scale": 1000.0}


def without_later(now: Any, card: Any) -> Any:
    """The settings of now without those that came after the card was written, which must be at rest."""
    if not isinstance(now, dict) or not isinstance(card, dict):
        return now
    later = now.keys() - card.keys()
    assert all(now[key] == AT_REST.get(key) for key in later), later
    return {key: without_later(value, card[key]) for key, value in now.items() if key not in later}


@pytest.mark.parametrize("name", RELEASED)
def test_released_models_are_of_the_run_with_their_recipe(name: str) -> None:
    run = training.run_of(name)
    assert run.recipe.name == (name if name in RECIPES else "ism_plus")
    card = load_model(weights_file(released_file(name)))[1]
    now = json.loads(json.dumps(describe(run)))
    recipe = card["run"]["recipe"]
    if "gap" in recipe:  # since then a setting of the rule that makes the gap
        gap = recipe.pop("gap")
        if "t_interval" in recipe["target"]:
            recipe["target"]["gap"] = gap
    for key in ("recipe", "steps", "batch_size", "optim", "net"):
        assert without_later(now[key], card["run"][key]) == card["run"][key]
    assert (card["steps"], card["seed"], card["licence"]) == (run.steps, 0, "Apache-2.0")


def test_released_models_are_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.glob("*.safetensors")) <= 30e6


@pytest.mark.slow
def test_one_step_of_the_shipped_gaussians_shows_eight_modes() -> None:
    """What the card promises, on other noise than it was scored on; 98.9 % of the data are as near to a mode."""
    net, card = load_gaussians()
    text = (WEIGHTS / "README.md").read_text()
    assert WEIGHT_SUMS["gaussians_shortcut"] in text
    (line,) = [line for line in text.splitlines() if line.startswith("| samples near a mode | ")]
    for nfe in (1, 2, 4, 128):
        held = card["scores"][f"{nfe} NFE"]
        assert training.modes(net, nfe) == pytest.approx(held, abs=1e-3)  # other processors round otherwise
        fresh = training.modes(net, nfe, n=4000, seed=2)  # 500 of a mode: 4 % either way by chance
        assert fresh["near"] >= 0.95
        assert 1 / 1.5 <= fresh["least"] <= fresh["most"] <= 1.5
        assert f"{100 * held['near']:.1f} %" in line


def test_shipped_gaussians_are_of_their_run() -> None:
    card = load_gaussians()[1]
    run = training.gaussians_run()
    now = json.loads(json.dumps(describe(run)))
    for recipe in (now["recipe"], card["run"]["recipe"]):
        assert recipe.pop("target").endswith(".exact_velocity")  # of a script: its module has another name here
    for key in ("recipe", "steps", "batch_size", "optim", "net"):
        assert without_later(now[key], card["run"][key]) == card["run"][key]
    assert (card["steps"], card["seed"], card["licence"]) == (run.steps, 0, "Apache-2.0")


def test_exact_velocity_is_the_mean_of_the_targets_of_velocity_rows() -> None:
    """Near one place, over many pairs; consistency rows get what ``Intrinsic`` gives them."""
    run = training.gaussians_run()
    net = run.build(8)
    average = TwinEMA(net)
    n, rng = 400_000, torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(n, 2, generator=rng), eight_gaussians(n, 1).x
    x, velocity = interpolate(x0, x1, torch.full((n,), 0.5))
    near = (x - torch.tensor([0.45, 0.25])).norm(dim=1) < 0.1
    x, velocity, count = x[near], velocity[near], int(near.sum())
    zero, null = torch.zeros(count), torch.full((count,), 8)
    context = Context(average.fast, average.slow, 8)
    query = Query(x, zero + 0.5, zero, zero, null)
    rows = replace(run.recipe.rows, consistency=0.0)
    answer = training.exact_velocity(query, velocity, rows, context)
    torch.testing.assert_close(answer.target.mean(0), velocity.mean(0), rtol=0, atol=0.08)
    assert answer.target.var(0).max() < 0.1 * velocity.var(0).min()
    rows = replace(run.recipe.rows, consistency=1.0)
    asked = query._replace(d=zero + 0.5)
    given = Intrinsic()(asked, velocity, rows, context)
    torch.testing.assert_close(training.exact_velocity(asked, velocity, rows, context), given)


def test_unknown_release_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="name must be one of shortcut_finest_level, ism, ism_plus, emoji, got 'flow'"):
        released("flow")


@pytest.mark.parametrize("kind", ["DiT", "ToyMLP"])
def test_generator_of_clothes_is_loaded(kind: str, tmp_path: Path) -> None:
    saved = DiT(**SIZES) if kind == "DiT" else ToyMLP(dim=256, width=16, depth=1, num_classes=10)
    save_model(saved, tmp_path / "model.safetensors", {})
    loaded = load_generator(tmp_path / "model.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), saved.parameters(), strict=True))


def test_generator_of_the_runs_is_loaded(tmp_path: Path) -> None:
    for run in (run for run in RUNS.values() if not run.name.startswith("imagenet")):
        net = run.build(SPACES[run.space].num_classes if run.space else 8)
        assert space_of(net) == run.space
        save_model(net, tmp_path / "model.safetensors", {})
        if run.space == "clothes":
            load_generator(tmp_path / "model.safetensors")
        else:
            with pytest.raises(ValueError, match="draws no clothes: use a model of fashion-laptop"):
                load_generator(tmp_path / "model.safetensors")


def test_generator_is_named_by_its_recipe_or_by_a_file() -> None:
    default, named = load_generator(), load_generator("ism_plus")
    by_file = load_generator(weights_file("fashion_ism_plus"))
    for a, b, c in zip(default.parameters(), named.parameters(), by_file.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    emoji_too = load_generator(space="emoji")
    for a, b in zip(emoji_too.parameters(), released("emoji")[0].parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match=r"emoji holds a [A-Za-z]+ that draws no clothes"):
        load_generator("emoji")
    other = load_generator("ism")
    assert any(not torch.equal(a, b) for a, b in zip(default.parameters(), other.parameters(), strict=True))


def test_altered_release_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ismkit.utils.files.WEIGHTS", tmp_path)
    with pytest.raises(CheckpointError, match=r"fashion_ism_plus\.safetensors is missing"):
        load_generator()
    net = ToyMLP(dim=256, width=16, depth=1, num_classes=10)
    save_model(net, tmp_path / "fashion_ism_plus.safetensors", {})
    with pytest.raises(CheckpointError, match="altered or truncated"):
        load_generator()


SIZES: dict[str, Any] = {"size": 8, "channels": 4, "patch": 2, "width": 16, "depth": 1, "heads": 2, "num_classes": 10}


@pytest.mark.parametrize(
    "other",
    [
        lambda: ToyMLP(dim=2, width=16, depth=1, num_classes=10),
        lambda: ToyMLP(dim=256, width=16, depth=1, num_classes=8),
        lambda: DiT(**SIZES | {"size": 16}),
        lambda: DiT(**SIZES | {"channels": 3}),
        lambda: DiT(**SIZES | {"num_classes": 9}),
    ],
)
def test_generator_of_anything_else_is_refused(other: Callable[[], torch.nn.Module], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    net = other()
    save_model(net, path, {})
    with pytest.raises(ValueError, match=f"holds a {type(net).__name__} that draws no clothes"):
        load_generator(path)
    with pytest.raises(CheckpointError, match="missing"):
        load_generator(tmp_path / "none.safetensors")


# ---------------------------------------------------------------- training again


class Half(FashionAutoencoder):
    """An autoencoder that gives back half of what it got."""

    def encode(self, images: Tensor) -> Tensor:
        return images / 2

    def decode(self, latents: Tensor) -> Tensor:
        return latents


def test_train_shipped_writes_the_measured_figure_and_trains_on_the_training_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(40) % 10
    splits = {name: Labelled(torch.rand(40, 1, 28, 28, generator=rng), y, 10, CLOTHES) for name in ("train", "test")}
    asked: list[Any] = []
    classifier, autoencoder = FeatureNet().eval(), Half().eval()
    monkeypatch.setattr(training, "fashion_mnist", splits.__getitem__)
    monkeypatch.setattr(training, "train_features", lambda data, seed: asked.append((data, seed)) or classifier)
    monkeypatch.setattr(
        training, "train_autoencoder", lambda make, x, steps, seed: asked.append((make, x, steps, seed)) or autoencoder
    )

    path = tmp_path / "features.safetensors"
    card, digest = training.train("fashion_features", path, seed=5)
    with torch.no_grad():
        right = (classifier(splits["test"].x).argmax(1) == y).sum().item()
    assert card == {"accuracy": f"{right / 40:.4f}", "seed": "5", "licence": "Apache-2.0"}
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    tensors, metadata = read_weights(path)
    assert metadata == card
    assert all(torch.equal(tensors[name], value) for name, value in classifier.state_dict().items())

    card, _ = training.train("fashion_autoencoder", tmp_path / "autoencoder.safetensors")
    error = (splits["test"].x.double() / 2).square().mean().item()
    assert float(card["test_mse"]) == pytest.approx(error, abs=6e-6)
    assert (card["seed"], card["steps"]) == ("0", "6000")
    assert asked == [(splits["train"], 5), (FashionAutoencoder, splits["train"].x, 6000, 0)]


def test_networks_of_emoji_are_trained_on_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    classifier, autoencoder = FeatureNet((3, 32, 32), 99).eval(), EmojiAutoencoder().eval().requires_grad_(False)
    monkeypatch.setattr(training, "train_features", lambda *a, **k: asked.append((*a, k)) or classifier)
    monkeypatch.setattr(training, "train_autoencoder", lambda *a, **k: asked.append((*a, k)) or autoencoder)
    monkeypatch.setattr(training, "accuracy", lambda net, data: len(data) / 1e4)

    card, _ = training.train("emoji_features", tmp_path / "features.safetensors", seed=5)
    data, changes, options = asked.pop()
    assert (len(data), changes, options) == (99 * 150, emoji_changes(2), {"epochs": 24, "seed": 5})
    assert card == {"accuracy": "0.4950", "seed": "5", "licence": "Apache-2.0"}  # of 99 * 50 others

    card, digest = training.train("emoji_autoencoder", tmp_path / "autoencoder.safetensors")
    make, images, options = asked.pop()
    assert (make, len(images), options) == (EmojiAutoencoder, 99 * 200, {"steps": 3500, "seed": 0})
    tensors, metadata = read_weights(tmp_path / "autoencoder.safetensors", digest)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert metadata == card
    stored = EmojiAutoencoder().half()
    stored.load_state_dict(tensors)
    error = reconstruction_error(stored.float().eval().requires_grad_(False), emoji("test").x)
    assert float(card["test_mse"]) == pytest.approx(error, abs=6e-6)


def test_released_generators_are_trained_and_scored_in_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISMKIT_OUT", str(tmp_path))
    net = partial(ToyMLP, dim=256, width=16, depth=1)
    tiny = replace(RUNS["fashion"], name="tiny", load=few, net=net, steps=4, batch_size=16)
    monkeypatch.setitem(RUNS, "fashion", tiny)
    monkeypatch.setattr(training, "SCORED", {"nfe": (1, 2), "w": (0.0, 1.0), "n": 100, "seed": 1})
    card, digest = training.train("ism", tmp_path / "generator.safetensors", seed=2)
    loaded, about = load_model(tmp_path / "generator.safetensors", digest)
    assert json.loads(json.dumps(card)) == about
    run = replace(tiny, recipe=tiny.adapt(RECIPES["ism"]))
    state = train_run(run, seed=2, save_every=500)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state.ema.slow.state_dict()[name].half().float()), name
    assert (about["seed"], about["steps"], about["run"]["name"]) == (2, 4, "tiny")
    assert about["run"]["recipe"]["name"] == "ism"
    assert list(about["scores"]) == ["1 NFE, w = 0", "1 NFE, w = 1", "2 NFE, w = 0", "2 NFE, w = 1"]
    again = FashionJudge.load().score(loaded, Setting(2, 1.0, 100, 1))
    assert about["scores"]["2 NFE, w = 1"] == {"nfe": 2, "w": 1.0, "n": 100, **again}


def test_no_other_network_is_trained() -> None:
    with pytest.raises(ValueError, match=r"name must be one of fashion_features, .*, ism_plus, emoji, got 'flow'"):
        training.train("flow", "model.safetensors")
