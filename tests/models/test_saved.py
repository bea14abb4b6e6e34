"""Trained networks as files: what is loaded is what was saved, and nothing else is taken for a network."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import save_file
from torch import Tensor, nn

from ismkit.data.batches import Batches
from ismkit.data.sets import eight_gaussians
from ismkit.evaluation.scoring import evaluate
from ismkit.method.guidance import TwoPassCFG
from ismkit.method.path import StepGrid, step_lengths_of
from ismkit.method.recipes import RECIPES, Recipe
from ismkit.method.sampling import sample
from ismkit.models.nets import DiT, ToyMLP
from ismkit.models.saved import NETWORKS, check_saveable, load_generator, load_model, load_sampler, save_model
from ismkit.training import checkpoint
from ismkit.training.loop import StepReport, TrainState
from ismkit.training.runs import RUNS, Run
from ismkit.utils.settings import describe
from ismkit.utils.weights import CheckpointError, read_weights, save_weights, write_tensors
from tests.options import fit, train_run

CARD = {"run": {"name": "test", "steps": 7, "lr": 1e-3, "clip": "inf"}, "seed": 3, "note": "ü", "nested": [1, [2.5]]}


def dit(grid: StepGrid | None = None) -> DiT:
    return DiT(size=8, channels=4, patch=2, width=16, depth=2, heads=2, num_classes=10, grid=grid)


def mlp(grid: StepGrid | None = None) -> ToyMLP:
    return ToyMLP(dim=3, width=16, depth=1, num_classes=5, grid=grid)


def query(net: nn.Module) -> tuple[Tensor, ...]:
    """Five questions over the whole range of t, d, w and y."""
    rng = torch.Generator().manual_seed(1)
    shape = (4, 8, 8) if isinstance(net, DiT) else (3,)
    x = torch.randn(5, *shape, generator=rng)
    t, d, w = torch.rand(3, 5, generator=rng).unbind()
    return x, t, 2.0 ** -torch.arange(5), 3 * w, torch.arange(5) + 0 * t.long() + 0 * d.long()


def trained(net: nn.Module) -> nn.Module:
    """The network with weights as of training: fresh ones answer zero to everything."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.3, generator=rng)
    return net.eval()


@pytest.mark.parametrize("make", [dit, mlp])
@pytest.mark.parametrize("grid", [None, StepGrid(32)], ids=["grid 128", "grid 32"])
def test_round_trip_bit_for_bit(make: Callable[..., nn.Module], grid: StepGrid | None, tmp_path: Path) -> None:
    net = trained(make(grid))
    path = tmp_path / "model.safetensors"
    digest = save_model(net, path, CARD)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()

    loaded, card = load_model(path, digest)
    assert card == CARD
    assert type(loaded) is type(net)
    assert loaded.config == net.config
    assert loaded.num_classes == net.num_classes
    assert loaded.conditioning.grid == net.conditioning.grid == (grid or StepGrid(128))  # type: ignore[union-attr]
    expected = net.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, expected[name]), name
        assert value.dtype == expected[name].dtype
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())

    with torch.no_grad():
        answer = net(*query(net))
        assert answer.abs().max() > 0.1
        assert torch.equal(loaded(*query(net)), answer)
    assert save_model(loaded, tmp_path / "again.safetensors", card) == digest


def test_grid_is_part_of_the_network() -> None:
    """Why the file must name it: with equal weights another grid gives another answer."""
    net, other = trained(mlp()), trained(mlp(StepGrid(32)))
    assert (net(*query(net)) - other(*query(net))).abs().max() > 1e-3


def test_every_network_of_the_list_is_tested() -> None:
    assert set(NETWORKS.values()) == {DiT, ToyMLP}


def test_what_is_no_network_or_cannot_be_built_again_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"net cannot be saved, its bias is Parameter \(2,\) torch.float32, which"
    ):
        save_model(nn.Linear(2, 2), tmp_path / "model.safetensors", {})
    with pytest.raises(TypeError, match="net must be a Module, got 3"):
        save_model(3, tmp_path / "model.safetensors", {})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_model(mlp(), tmp_path / "model.safetensors", {"tensor": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- networks of other code


class Kept(nn.Module):
    """Its arguments stand in attributes."""

    def __init__(self, num_classes: int, width: int = 8, shape: tuple[int, ...] = (2,), grid: StepGrid | None = None):
        super().__init__()
        self.num_classes, self.width, self.shape, self.grid = num_classes, width, shape, grid
        self.label = nn.Embedding(num_classes + 1, 3)
        self.norm = nn.BatchNorm1d(8)  # whose count of batches is a whole number
        self.body = nn.Sequential(nn.Linear(8, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return self.body(self.norm(torch.cat([x, torch.stack([t, d, w], 1), self.label(y)], 1)))


class Configured(Kept):
    """Its arguments stand in a dict."""

    def __init__(self, num_classes: int, size: int, **more: int) -> None:
        super().__init__(num_classes, size * 2)
        self.config = {"num_classes": num_classes, "size": size, **more}


class Noted(Kept, PyTorchModelHubMixin):
    """Its arguments are noted by huggingface_hub."""

    def __init__(self, num_classes: int, half: int = 3) -> None:
        super().__init__(num_classes, 2 * half)


class Looks(Kept):
    """It cannot be built without numbers."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        assert torch.ones(3).sum().item() == 3


class Turns(Kept):
    """It has complex numbers, of which one is in the file."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        turns = torch.polar(torch.ones(2), torch.tensor([0.3, 1.2]))
        self.register_buffer("kept", turns)
        self.register_buffer("made", turns.clone(), persistent=False)

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        turned = super().forward(x, t, d, w, y) * self.kept * self.made
        return turned.real + turned.imag


OWN: dict[str, Callable[[], nn.Module]] = {
    "attributes": lambda: Kept(3, shape=(2, 2), grid=StepGrid(16)),
    "config": lambda: Configured(3, size=2, more=5),
    "hub": lambda: Noted(3, half=4),
    "looks": lambda: Looks(3),
    "complex": lambda: Turns(3),
    "a local class": lambda: type("Local", (Kept,), {})(3, 4),
    "a child of the kit's": lambda: type("Child", (ToyMLP,), {})(width=8, depth=1, num_classes=3, grid=StepGrid(16)),
}


@pytest.mark.parametrize("name", OWN)
def test_own_networks_come_back_bit_for_bit_by_their_class(name: str, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    net, path = trained(OWN[name]()), tmp_path / "model.safetensors"
    state = torch.get_rng_state()
    digest = save_model(net, path, CARD)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    loaded, card = load_model(path, digest, network=type(net))
    assert torch.equal(torch.get_rng_state(), state)  # two networks were built, and no number was drawn
    assert (card, type(loaded), loaded.num_classes, loaded.training) == (CARD, type(net), 3, False)
    assert getattr(loaded, "grid", None) == getattr(net, "grid", None)
    for key, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    x, y, number = torch.randn(4, 2), torch.arange(4), torch.rand(4)
    assert torch.equal(loaded(x, number, number, number, y), net(x, number, number, number, y))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with pytest.raises(CheckpointError, match=r"holds a network of other code, .*, which is imported only if you name"):
        load_model(path)
    save_model(net, tmp_path / "half.safetensors", CARD, torch.float16)
    half, _ = load_model(tmp_path / "half.safetensors", network=type(net))
    assert half.state_dict().keys() == net.state_dict().keys()


def test_arguments_stand_in_the_file_in_one_order_in_all_processes(tmp_path: Path) -> None:
    """The order of a set of texts is another in each process: equal networks were files of other checksums."""
    names = ["delta", "alpha", "gamma", "beta", "epsilon", "eta", "zeta", "theta"]
    save_model(Configured(3, 2, **dict.fromkeys(names, 1)), tmp_path / "model.safetensors", CARD)
    _, metadata = read_weights(tmp_path / "model.safetensors")
    assert [*json.loads(metadata["net"])["settings"]] == ["num_classes", "size", *sorted(names)]


def test_a_file_alone_has_nothing_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file names is text: only the caller's class is run."""
    (tmp_path / "my_trap.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    save_model(Kept(3), tmp_path / "model.safetensors", {})
    tensors, metadata = read_weights(tmp_path / "model.safetensors")
    described = json.loads(metadata["net"]) | {"class": "my_trap:Net"}
    metadata["net"] = json.dumps(described)
    write_tensors(tmp_path / "model.safetensors", tensors, metadata)
    with pytest.raises(CheckpointError, match="holds a network of other code, my_trap:Net, which is imported only if"):
        load_model(tmp_path / "model.safetensors")
    assert type(load_model(tmp_path / "model.safetensors", network=Kept)[0]) is Kept  # moved to another module
    with pytest.raises(ValueError, match="importing my_trap failed: SystemExit: run"):
        load_model(tmp_path / "model.safetensors", network="my_trap:Net")


class Doubling(Kept):
    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__(num_classes, 2 * width)


class Scaling(Kept):
    def __init__(self, num_classes: int, scale: float = 4.0) -> None:
        super().__init__(num_classes)
        self.scale = 2 * scale


class Renaming(Kept):
    def __init__(self, num_classes: int, body: str | None = None) -> None:
        super().__init__(num_classes)
        self.config = {"num_classes": num_classes}  # and `body` is the name of a part


class Fixed(Kept):
    def __init__(self, num_classes: int, name: str = "a") -> None:
        super().__init__(num_classes)
        if name != "a":
            raise KeyError(name)
        self.name = "b"


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda: Doubling(3), r"does not fit in 3 names: body\.0\.weight is torch\.float32 \[8, 8\], expected .* \[16"),
        (lambda: Scaling(3), r"has scale = 16\.0 instead of 8\.0\. Keep each argument of its constructor in an attrib"),
        (lambda: Renaming(3), r"config of Renaming lacks 'body', and its attribute body is no setting but a Seq"),
        (lambda: Fixed(3), r"built again from .*\"name\": \"b\"} fails: KeyError: 'b'"),
        (lambda: Kept(3, shape=(torch.zeros(2),)), r"its shape is .*, which is no JSON"),  # type: ignore[arg-type]
        (lambda: type("Hidden", (Kept,), {"__init__": lambda self, num_classes, depth=1: Kept.__init__(self, 3)})(3),
         "the argument depth of Hidden is not known: have its constructor say `self.depth = depth`"),
    ],
)  # fmt: skip
def test_an_own_network_that_would_come_back_as_another_is_refused(
    net: Callable[[], nn.Module], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        save_model(net(), tmp_path / "model.safetensors", {})
    assert list(tmp_path.iterdir()) == []


def test_another_class_than_the_saved_one_is_refused_by_what_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(Kept(3), path, {})
    with pytest.raises(CheckpointError, match=r"settings from which Looks cannot be built, .*TypeError: .*'width'"):
        load_model(path, network=Looks)
    with pytest.raises(CheckpointError, match=r"body\.0\.bias is .*, expected missing.*Name the class that"):
        load_model(path, network=lambda **_: nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="TypeError: network must be a Module, got 3"):
        load_model(path, network=lambda **_: 3)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="network must be the class of the network, or its module:attribute, got 3"):
        load_model(path, network=3)  # type: ignore[arg-type]
    save_model(mlp(), path, {})
    with pytest.raises(CheckpointError, match="holds a ToyMLP of this kit: leave out network"):
        load_model(path, network=Kept)


def write(path: Path, change: Callable[[dict[str, Any]], object], card: str = "{}", dtype: str = "float32") -> Path:
    """The file of a ToyMLP with another description."""
    net = mlp()
    config = {"class": "ToyMLP", **net.config, "grid": 128}
    described = change(config)
    text = json.dumps(config if described is None else described)
    save_weights(net, path, {"net": text, "card": card, "dtype": dtype})
    return path


FOREIGN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "class": (lambda c: c.update({"class": "UNet"}), "names no network of this kit .KeyError.'UNet'"),
    "no class": (lambda c: {k: v for k, v in c.items() if k != "class"}, "KeyError.'class'"),
    "unknown key": (lambda c: c.update(dropout=0.1), "unexpected keyword argument 'dropout'"),
    "no grid": (lambda c: {k: v for k, v in c.items() if k != "grid"}, "KeyError.'grid'"),
    "odd grid": (lambda c: c.update(grid=100), "power of two"),
    "bad value": (lambda c: c.update(width=-1), "width must be an integer of at least 1, got -1"),
    "text for a number": (lambda c: c.update(width="16"), "width must be an integer, got '16'"),
    "list": (lambda c: [1, 2], "TypeError"),
    "number": (lambda c: 3, "AttributeError"),
    "other width": (lambda c: c.update(width=8), "does not fit"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_file_of_another_description(name: str, tmp_path: Path) -> None:
    change, message = FOREIGN[name]
    path = write(tmp_path / "model.safetensors", change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value)


def test_description_as_written_is_accepted(tmp_path: Path) -> None:
    load_model(write(tmp_path / "model.safetensors", lambda config: None))


@pytest.mark.parametrize("dtype", ["float12", "load"])
def test_unknown_number_format_is_refused(dtype: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="names no network of this kit"):
        load_model(write(tmp_path / "model.safetensors", lambda config: None, dtype=dtype))


@pytest.mark.parametrize("make", [dit, mlp])
def test_half_precision_halves_the_file_and_is_loaded_in_single(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    net = trained(make())
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_model(net, whole, CARD)
    save_model(net, half, CARD, torch.float16)
    numbers = sum(parameter.numel() for parameter in net.parameters())
    assert whole.stat().st_size - half.stat().st_size == pytest.approx(2 * numbers, abs=100)
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())  # the network itself stays
    loaded, _ = load_model(half)
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, net.state_dict()[name].half().float()), name
    for name, buffer in net.named_buffers():  # those that no file holds are not rounded
        assert torch.equal(loaded.get_buffer(name), buffer), name


def test_card_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="names no network of this kit"):
        load_model(write(tmp_path / "model.safetensors", lambda config: None, card="{"))


def test_foreign_truncated_altered_and_missing_files(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    with pytest.raises(CheckpointError, match=r"foreign.*KeyError\('net'\).*use a file that `ismkit train` wrote"):
        load_model(foreign)
    weights = tmp_path / "weights.safetensors"
    save_weights(mlp(), weights, {"licence": "Apache-2.0"})
    with pytest.raises(CheckpointError, match=r"weights.*KeyError\('net'\)"):
        load_model(weights)

    path = tmp_path / "model.safetensors"
    digest = save_model(mlp(), path, {})
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        load_model(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f"altered or truncated.*expected {digest}"):
        load_model(path, digest)
    with pytest.raises(CheckpointError, match="missing"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="pickle files can run code"):
        load_model(tmp_path / "model.pt")


def test_a_checkpoint_is_named_with_the_place_of_the_model(tmp_path: Path) -> None:
    """It "names no network of this kit (KeyError('net'))"."""
    fit(RECIPES["flow"], ToyMLP(width=8, depth=1), Batches(eight_gaussians(256, 0), 32, 0), steps=1, folder=tmp_path)
    path, model = tmp_path / "step_00000001.safetensors", tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match=rf"is a checkpoint.*--resume` ends with {model}, the model"):
        load_model(path)
    save_model(mlp(), model, {})
    with pytest.raises(CheckpointError, match=rf"1\.safetensors is a checkpoint.*resumed: {model} is the model"):
        load_model(path)


@pytest.mark.parametrize("lengths", ["dyadic", "any", "to data"])
def test_a_file_keeps_which_steps_were_trained(lengths: str, tmp_path: Path) -> None:
    net, path = trained(mlp()), tmp_path / "model.safetensors"
    plain = save_model(net, path, CARD)
    net.step_lengths = lengths
    assert (save_model(net, path, CARD) == plain) == (lengths == "dyadic")
    loaded, _ = load_model(path)
    assert step_lengths_of(loaded) == lengths
    x0, y = torch.ones(2, 3), torch.tensor([0, 1])
    if lengths == "any":
        assert torch.equal(sample(loaded, x0, y, nfe=3), sample(net, x0, y, times=(0, 1 / 3, 2 / 3, 1)))
    else:
        with pytest.raises(ValueError, match="nfe must be"):
            sample(loaded, x0, y, nfe=3)


@pytest.mark.parametrize("lengths", ["all", 3, None, ["any"]])
def test_a_file_of_other_steps_is_refused(lengths: Any, tmp_path: Path) -> None:
    net, path = mlp(), tmp_path / "model.safetensors"
    config = {"class": "ToyMLP", **net.config, "grid": 128, "step_lengths": lengths}
    save_weights(net, path, {"net": json.dumps(config), "dtype": "float32", "card": "{}"})
    with pytest.raises(
        CheckpointError, match=r"names no network of this kit .*step_lengths must be one of dyadic, any"
    ):
        load_model(path)


# ---------------------------------------------------------------- ready for the sampler


def card_of(recipe: Recipe) -> dict[str, Any]:
    return {"run": describe(replace(RUNS["gaussians"], recipe=recipe)), "steps": 7}


def test_flow_comes_back_with_two_calls(tmp_path: Path) -> None:
    net, path = trained(mlp()), tmp_path / "model.safetensors"
    digest = save_model(net, path, card_of(replace(RECIPES["flow"], name="of another name")))
    sampler, card = load_sampler(path, digest)
    assert isinstance(sampler, TwoPassCFG)
    assert (sampler.num_classes, sampler.net.training, card["steps"]) == (5, False, 7)
    assert not any(parameter.requires_grad for parameter in sampler.parameters())
    assert card == load_model(path)[1]
    rng = torch.Generator().manual_seed(2)
    x, y, w = torch.randn(6, 3, generator=rng), torch.arange(6) % 5, torch.linspace(0, 3, 6)
    drawn = sample(sampler, x, y, w=w, nfe=4)
    zero, nobody = torch.zeros(6), torch.full((6,), 5)
    for k in range(4):  # classifier-free guidance by hand, at d = 0 and w = 0 throughout
        with torch.no_grad():
            conditional, unconditional = (net(x, zero + k / 4, zero, zero, label) for label in (y, nobody))
        x = x + (unconditional + (1 + w[:, None]) * (conditional - unconditional)) / 4
    torch.testing.assert_close(drawn, x, rtol=1e-5, atol=1e-5)
    plain = sample(load_model(path)[0], torch.ones(6, 3), y, w=w, nfe=4)
    assert (sample(sampler, torch.ones(6, 3), y, w=w, nfe=4) - plain).abs().max() > 0.1  # it is not left out


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "flow"])
def test_other_recipes_come_back_as_they_are(name: str, tmp_path: Path) -> None:
    net, path = trained(mlp()), tmp_path / "model.safetensors"
    save_model(net, path, card_of(replace(RECIPES[name], name="flow")))
    sampler, _ = load_sampler(path)
    assert type(sampler) is ToyMLP
    assert torch.equal(sampler(*query(net)), net(*query(net)))


def other_source(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator)


def test_a_model_of_another_source_is_not_drawn_from_normal_noise(tmp_path: Path) -> None:
    net, path = ToyMLP(dim=256, width=16, depth=1, num_classes=10), tmp_path / "model.safetensors"
    save_model(net, path, card_of(replace(RECIPES["ism"], source=other_source)))
    assert type(load_sampler(path)[0]) is ToyMLP
    with pytest.raises(
        ValueError, match=r"was trained from the source tests\.models\.test_saved\.other_source: draw x0"
    ):
        load_generator(path)
    with pytest.raises(
        ValueError, match=r"was trained from the source tests\.models\.test_saved\.other_source: draw x0"
    ):
        evaluate(path, nfe=[1], w=[0.0], n=100)
    save_model(net, path, card_of(RECIPES["ism"]))
    assert load_generator(path).num_classes == 10


def test_network_without_a_run_on_its_card_comes_back_as_it_is(tmp_path: Path) -> None:
    save_model(trained(mlp()), tmp_path / "model.safetensors", {"note": "by hand"})
    assert type(load_sampler(tmp_path / "model.safetensors")[0]) is ToyMLP


def test_sampler_of_an_altered_file_is_refused(tmp_path: Path) -> None:
    save_model(mlp(), tmp_path / "model.safetensors", {})
    with pytest.raises(CheckpointError, match="altered or truncated"):
        load_sampler(tmp_path / "model.safetensors", "0" * 64)


# ---------------------------------------------------------------- train_run


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("ISMKIT_OUT", str(tmp_path))
    net, load = partial(ToyMLP, width=8, depth=1), partial(eight_gaussians, 200, 0)
    recipe = replace(RECIPES["ism_guidance"], fast=0.5)
    return replace(RUNS["gaussians"], name="tiny", recipe=recipe, net=net, load=load, steps=4, batch_size=16)


def weights(state: TrainState) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in state.ema.slow.parameters()])


def test_train_run_is_fit_with_the_parts_of_the_run(tiny: Run) -> None:
    state = train_run(tiny, seed=3, progress=False)
    data = tiny.load()
    net = tiny.build(data.num_classes, 3)
    by_hand = fit(tiny.recipe, net, Batches(data, 16, 3), steps=4, optim=tiny.optim, seed=3, progress=False)
    assert torch.equal(weights(state), weights(by_hand))
    assert not torch.equal(weights(state), weights(train_run(tiny, seed=4, progress=False)))
    assert checkpoint.saved_steps(tiny.folder(3)) == [4]


def test_train_run_continues_and_repeats_nothing(tiny: Run, tmp_path: Path) -> None:
    whole = train_run(tiny, progress=False)
    again = train_run(tiny, progress=False)
    assert (again.step, again.losses) == (4, [])
    assert torch.equal(weights(again), weights(whole))

    def kill(state: TrainState, report: StepReport) -> None:
        if state.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(tiny, folder=tmp_path / "cut", save_every=1, hooks=[kill], progress=False)
    resumed = train_run(tiny, folder=tmp_path / "cut", save_every=1, progress=False)
    assert len(resumed.losses) == 1
    assert torch.equal(weights(resumed), weights(whole))
    with pytest.raises(ValueError, match="holds checkpoints up to step 4"):
        train_run(tiny, folder=tmp_path / "cut", resume=False, progress=False)


# ---------------------------------------------------------------- numbers that are not finite


def _with_weight(value: float) -> ToyMLP:
    net = mlp()
    with torch.no_grad():
        net.embed.weight[0, 0] = value
    return net


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_neither_saved_nor_loaded(value: float, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    for save in (save_model, save_weights):
        with pytest.raises(
            CheckpointError, match=r"is not written: embed\.weight holds 1 NaN or infinite of 48 numbers"
        ):
            save(_with_weight(value), path, {})
    assert not path.exists()
    save_model(mlp(), path, {})
    tensors, metadata = read_weights(path)
    tensors["embed.weight"][0, 0] = value
    save_file(tensors, path, {"ismkit": json.dumps(metadata)})  # by other software, or of an earlier version
    with pytest.raises(CheckpointError, match=r"cannot be used: embed\.weight holds 1 NaN or infinite of 48 numbers"):
        load_model(path)


def test_a_weight_too_large_for_the_type_it_is_stored_in_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(
        CheckpointError,
        match=r"embed\.weight holds 1e\+06, and torch\.float16 ends at 65504\. Store it in torch\.float32",
    ):
        save_model(_with_weight(1e6), path, {}, torch.float16)
    assert not path.exists()
    with pytest.raises(CheckpointError, match=r"net cannot be saved: embed\.weight holds 1e\+06, .* Scale it down, or"):
        check_saveable(_with_weight(1e6), torch.float16)
    check_saveable(_with_weight(1e6))
    save_model(_with_weight(1e6), path, {}, torch.bfloat16)
    assert load_model(path)[0].embed.weight[0, 0].item() == pytest.approx(1e6, rel=1e-2)


@pytest.mark.parametrize("card", [{"run": "mine"}, {"run": {"recipe": "flow"}}, ["a", "list"], None, 3])
def test_a_card_of_any_form_is_loaded_for_the_sampler(card: Any, tmp_path: Path) -> None:
    save_model(mlp(), tmp_path / "net.safetensors", card)
    net, found = load_sampler(tmp_path / "net.safetensors")
    assert (type(net), found) == (ToyMLP, card)


@pytest.mark.parametrize(
    ("kind", "sizes", "message"),
    [
        ("ToyMLP", {"depth": 10**9}, "depth is 1000000000, but the file holds 31 tensors in all"),
        ("ToyMLP", {"width": 60_000}, "width is 60000, but the file holds .* numbers in all"),
        ("ToyMLP", {"num_classes": 10**10}, "num_classes is 10000000000, but the file holds"),
        ("DiT", {"depth": 10**9}, "depth is 1000000000, but the file holds .* tensors in all"),
        ("DiT", {"width": 12_000}, "does not fit in .* names"),
        ("DiT", {"size": 12_000}, "its sizes ask for .* numbers beside"),
        ("DiT", {"width": 8.0}, "width must be an integer, got 8.0"),
        ("DiT", {"heads": True}, "heads must be an integer, got True"),
        ("DiT", {"grid": "128"}, "grid must be an integer, got '128'"),
    ],
)
def test_sizes_are_compared_with_the_file_before_anything_is_built(
    kind: str, sizes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """faults D10: depth 1e9 and width 60000 were built before shapes were compared."""
    net = ToyMLP(width=16, depth=2) if kind == "ToyMLP" else DiT(8, 4, 2, 16, 1, 2, 10)
    save_model(net, path := tmp_path / "net.safetensors", {})
    tensors, metadata = read_weights(path)
    config = json.loads(metadata["net"]) | sizes
    path.unlink()
    write_tensors(path, tensors, {**metadata, "net": json.dumps(config)})

    def build(*_: Any) -> None:
        pytest.fail("built") if torch.get_default_device().type != "meta" else None

    monkeypatch.setattr("ismkit.models.nets._init_conditioning", build)
    with pytest.raises(CheckpointError, match=message):
        load_model(path)
