import dataclasses
import enum
import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ismkit.data.sets import eight_gaussians
from ismkit.method.auction import Auction
from ismkit.method.coupling import Coupling
from ismkit.method.ema import TwinEMA
from ismkit.method.path import StepGrid
from ismkit.method.recipes import RECIPES, Context, Intrinsic
from ismkit.method.rows import Rows
from ismkit.method.wavelet import WaveletDistance, geometric_weights, l2
from ismkit.models.nets import PRESETS, DiT, ToyMLP
from ismkit.neighbours.leap import Leap
from ismkit.neighbours.recipes import NEIGHBOURS
from ismkit.training.loop import Optim
from ismkit.training.runs import (
    RUNS,
    Run,
    change_run,
    check_memory,
    check_run,
    for_imagenet,
    for_points,
    for_side,
    imagenet_latents,
    training_bytes,
)
from ismkit.utils.files import DataError, out_dir
from ismkit.utils.keys import identity
from ismkit.utils.settings import change, describe
from tests.conftest import ROOT
from tests.options import train_run

FULL = ("imagenet256-s2", "imagenet256-b2", "imagenet256-l2", "imagenet256-xl2", "imagenet512-xl2")
IMAGENET = ("imagenet-smoke", *FULL)

# ---------------------------------------------------------------- Optim


@given(st.integers(1, 300), st.integers(0, 50), st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]))
def test_rate_is_warm_up_times_constant_times_cool_down(steps: int, warmup: int, cooldown: float) -> None:
    optim = Optim(lr=2e-3, warmup=warmup, cooldown=cooldown)
    start = steps * (1 - cooldown)  # where the rate begins to fall, on its way to zero at `steps`
    for step in range(steps):
        up = (step + 1) / (warmup + 1) if step < warmup else 1.0
        down = (steps - step) / (steps - start) if cooldown and step > start else 1.0
        assert optim.rate(step, steps) == pytest.approx(2e-3 * min(up, down), rel=1e-9)
        assert 0 < optim.rate(step, steps) <= 2e-3


def test_rate_without_schedule_is_constant_and_the_longer_run_starts_alike() -> None:
    assert {Optim(lr=1e-4).rate(step, 1000) for step in range(1000)} == {1e-4}
    warm = Optim(warmup=10)
    assert [warm.rate(step, 20) for step in range(20)] == [warm.rate(step, 500) for step in range(20)]


def test_rate_cools_down_to_its_last_share() -> None:
    optim = Optim(lr=1.0, cooldown=0.2)
    assert [optim.rate(step, 10) for step in (7, 8, 9)] == [1.0, 1.0, 0.5]
    assert optim.rate(99, 100) == pytest.approx(1 / 20)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"lr": -1e-4}, "lr must be positive and finite, got -0.0001"),
        ({"lr": math.nan}, "lr must be positive and finite, got nan"),
        ({"lr": math.inf}, "lr must be positive and finite, got inf"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\), got \(0.9, 1.0\)"),
        ({"betas": (-0.1, 0.9)}, r"betas must be two numbers in \[0, 1\), got \(-0.1, 0.9\)"),
        ({"betas": (0.9,)}, r"betas must be a tuple \(a number, a number\), got \(0.9,\)"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0 and finite, got -0.1"),
        ({"weight_decay": math.nan}, "weight_decay must be at least 0 and finite, got nan"),
        ({"warmup": -1}, "warmup must be 0 or more steps, got -1"),
        ({"cooldown": 1.5}, r"cooldown must be a fraction of the steps in \[0, 1\], got 1.5"),
        ({"cooldown": -0.5}, r"cooldown must be a fraction of the steps in \[0, 1\], got -0.5"),
        ({"clip": 0.0}, r"clip must be positive \(infinite for none\), got 0.0"),
        ({"clip": math.nan}, r"clip must be positive \(infinite for none\), got nan"),
    ],
)
def test_bad_optimiser_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Optim(**settings)


# ---------------------------------------------------------------- describe


@dataclass(frozen=True)
class Part:
    number: float
    parts: tuple[Any, ...]


def test_description_holds_every_setting() -> None:
    value = {"a": Part(1.5, (1, True, None, "x", Part(0, ()))), 3: [partial(max, 1, key=abs)], "f": Part.__init__}
    assert describe(value) == {
        "a": {
            "class": f"{__name__}.Part",
            "number": 1.5,
            "parts": [1, True, None, "x", {"class": f"{__name__}.Part", "number": 0, "parts": []}],
        },
        "3": [{"call": "builtins.max", "key": "builtins.abs", "args": [1]}],
        "f": f"{__name__}.Part.__init__",
    }


@pytest.mark.parametrize("value", [*RECIPES.values(), *RUNS.values(), Optim()], ids=lambda v: getattr(v, "name", ""))
def test_descriptions_survive_json(value: Any) -> None:
    """Strict JSON: what a checkpoint stores must compare equal to what was written."""
    description = describe(value)
    assert json.loads(json.dumps(description, allow_nan=False)) == description


def test_numpy_numbers_are_described_as_pythons() -> None:
    described = describe({"a": np.int64(1), "b": np.float32(0.5), "c": np.bool_(True)})
    assert described == {"a": 1, "b": 0.5, "c": True}
    assert [type(value) for value in described.values()] == [int, float, bool]


def test_infinity_becomes_a_text() -> None:
    assert describe({"clip": math.inf, "low": -math.inf}) == {"clip": "inf", "low": "-inf"}


class Rounding(enum.Enum):
    up = 1


class Named:
    identity = ("pictures", 3)


def test_what_has_an_identity_has_a_description() -> None:
    """Else a run could be keyed, and not written into its model's file."""
    zeros = hashlib.sha256(bytes(8)).hexdigest()
    values = {
        Path("x"): "x",
        1j: "1j",
        b"": f"bytes {hashlib.sha256().hexdigest()}",
        Rounding.up: f"{__name__}.Rounding.up",
        frozenset({3, 1, 2}): [1, 2, 3],
        torch.zeros(2): f"torch.float32 (2,) {zeros}",
        torch.float16: "torch.float16",
        Named(): {"class": f"{__name__}.Named", "identity": ["pictures", 3]},
    }
    for value, description in values.items():
        identity(value)
        assert describe([value]) == [description]
    assert describe(np.zeros(1)) == f"numpy.float64 (1,) {zeros}"


@pytest.mark.parametrize("value", [nn.Linear(1, 1), torch.Generator()])
def test_what_is_no_setting_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=f"settings hold .*, not {type(value).__name__}"):
        describe({"setting": [value]})


def test_every_change_of_a_recipe_shows() -> None:
    ism = RECIPES["ism"]
    others = [
        replace(ism, name="other"),
        replace(ism, rows=replace(ism.rows, label_dropout=0.2)),
        replace(ism, rows=replace(ism.rows, strengths=replace(ism.rows.strengths, w_max=2.0))),
        replace(ism, rows=replace(ism.rows, grid=replace(ism.rows.grid, n=64))),
        replace(ism, target=Intrinsic(t_interval=0.5)),
        replace(ism, target=Intrinsic(clip=4.0)),
        replace(ism, weights=(1.0, 1.0, 0.5)),
        replace(ism, coupling=Coupling(pool=32, class_aware=False)),
        replace(ism, distance=l2),
        replace(ism, distance=WaveletDistance((1.0, 1.0))),
        replace(ism, fast=0.9),
        replace(ism, slow=0.999),
    ]
    texts = {json.dumps(describe(recipe), sort_keys=True) for recipe in (ism, *others)}
    assert len(texts) == 1 + len(others)
    assert {f.name for f in dataclasses.fields(ism)} | {"class"} == describe(ism).keys()
    assert len({json.dumps(describe(recipe)) for recipe in RECIPES.values()}) == len(RECIPES)


# ---------------------------------------------------------------- recipes for other data


def test_points_have_no_wavelets() -> None:
    ism = for_points(RECIPES["ism"])
    assert ism == replace(RECIPES["ism"], distance=l2)
    assert for_points(ism) is ism
    assert for_points(RECIPES["flow"]) is RECIPES["flow"]


@pytest.mark.parametrize("name", ["alpha_flow", "soflow", "ect"])
def test_rows_of_a_small_cut_pull_as_hard_in_the_plane_as_those_of_a_smaller_one(name: str) -> None:
    """The residual of a cut is of its order: without a weight its rows would count less and less."""
    recipe = for_points(NEIGHBOURS[name])
    assert isinstance(recipe.target, Leap)
    rows = replace(recipe.rows, consistency=1.0)
    net = nn.Linear(2, 2)

    def field(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return net(torch.sin(x + t[:, None]) * (1 + d[:, None]))

    x0, x1 = torch.randn(2, 64, 2, generator=torch.Generator().manual_seed(0))
    query, velocity = rows(x0, x1, torch.zeros(64).long(), 1, torch.Generator().manual_seed(0))
    pulls = []
    for cut in (1e-2, 1e-3):
        with torch.no_grad():
            answer = replace(recipe.target, cut=cut)(query, velocity, rows, Context(field, field, 1))
        loss = (answer.weight * recipe.distance(field(*query), answer.target, query)).mean()
        pulls.append(torch.autograd.grad(loss, net.weight)[0].norm().item())
    assert pulls[0] == pytest.approx(pulls[1], rel=0.05)


def test_methods_without_a_small_cut_keep_their_weights_in_the_plane() -> None:
    for name in ("meanflow", "imf", "split_meanflow"):
        assert for_points(NEIGHBOURS[name]).target == NEIGHBOURS[name].target


@pytest.mark.parametrize(("side", "levels"), [(2, 1), (4, 2), (7, 3), (8, 3), (16, 4), (28, 5), (32, 5), (256, 5)])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 4.0])
def test_levels_that_do_not_fit_are_left_out(side: int, levels: int, ratio: float) -> None:
    distance = WaveletDistance(geometric_weights(5, ratio), norm="root")
    recipe = for_side(replace(RECIPES["ism"], distance=distance), side)
    assert recipe.distance == replace(distance, weights=geometric_weights(levels, ratio))
    x = torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(0))
    assert recipe.distance(x, torch.zeros_like(x)).shape == (2,)  # and the transform takes it


def test_a_recipe_that_fits_is_left_alone() -> None:
    uneven = replace(RECIPES["ism"], distance=WaveletDistance((3.0, 2.0, 0.0)))
    for side in (4, 8, 32):
        assert for_side(uneven, side) is uneven
    assert for_side(RECIPES["flow"], 8) is RECIPES["flow"]
    assert for_side(uneven, 2).distance == WaveletDistance((3.0, 3.0))


# ---------------------------------------------------------------- runs


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_a_run_is_complete(run: Run) -> None:
    assert RUNS[run.name] is run
    run.recipe.rows.blocks(run.batch_size)  # every block gets its rows
    assert run.adapt(run.recipe) == run.recipe  # it already fits its data
    for recipe in RECIPES.values():
        adapted = run.adapt(recipe)
        assert adapted == replace(recipe, distance=adapted.distance, coupling=adapted.coupling)
        assert adapted.coupling == recipe.coupling or run.name in IMAGENET


@pytest.mark.parametrize("run", [run for run in RUNS.values() if run.name not in FULL], ids=lambda run: run.name)
def test_a_network_is_built_from_its_seed_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU's generator is set"))
    nets = [run.build(4, seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)  # the global generator is as it was
    first, again, other = (torch.cat([p.flatten() for p in net.parameters()]) for net in nets)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert nets[0].num_classes == 4


def a_source(shape: tuple[int, ...], generator: torch.Generator, width: float = 1.0) -> torch.Tensor:
    return width * torch.rand(shape, generator=generator)


def test_other_settings_have_another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ISMKIT_OUT", str(tmp_path))
    assert out_dir() == tmp_path
    run = RUNS["gaussians"]
    folder = run.folder(3)
    assert folder.parent == tmp_path / "runs"
    assert folder.name.startswith("gaussians-3-")
    assert folder == run.folder(3)
    others = [
        run.folder(4),
        replace(run, recipe=RECIPES["flow"]).folder(3),
        replace(run, optim=Optim()).folder(3),
        replace(run, batch_size=128).folder(3),
        replace(run, net=partial(ToyMLP, width=64)).folder(3),
        replace(run, recipe=replace(run.recipe, rows=Rows())).folder(3),
        replace(run, recipe=replace(run.recipe, source=a_source)).folder(3),
        replace(run, recipe=replace(run.recipe, source=partial(a_source, width=2.0))).folder(3),
    ]
    assert len({folder, *others}) == 1 + len(others)


def test_output_goes_to_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a checkout to its top, from wherever in it a notebook's kernel starts."""
    monkeypatch.delenv("ISMKIT_OUT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert out_dir() == tmp_path / "out"
    for folder in (ROOT, ROOT / "notebooks"):
        monkeypatch.chdir(folder)
        assert out_dir() == ROOT / "out"
    monkeypatch.setenv("ISMKIT_OUT", "~/results")
    assert out_dir() == Path.home() / "results"


# ---------------------------------------------------------------- ImageNet


@pytest.mark.parametrize(
    ("name", "steps", "side"), [("imagenet256-xl2", 800_000, 32), ("imagenet512-xl2", 300_000, 64)]
)
def test_the_run_of_the_paper(name: str, steps: int, side: int) -> None:
    """What the paper states, and what the public SM code does where it does not (design notes, sections 2 and 3)."""
    run = RUNS[name]
    assert (run.steps, run.batch_size) == (steps, 256)
    assert run.optim == Optim(lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1)
    assert {run.optim.rate(step, steps) for step in (0, 1, steps // 2, steps - 1)} == {1e-4}
    recipe = run.recipe
    assert (recipe.fast, recipe.slow, recipe.weights) == (0.95, 0.9999, (1.0, 1.0, 1.0))
    assert (recipe.rows.label_dropout, recipe.rows.grid.n) == (0.1, 128)
    assert (recipe.rows.strengths.w_max, recipe.rows.strengths.step) == (3.5, 0.25)
    assert recipe.target == Intrinsic(t_interval=0.3)
    assert isinstance(recipe.distance, WaveletDistance)
    assert recipe.distance.levels == 5
    with torch.device("meta"):
        net = run.net(num_classes=1000)
    assert (net.size, net.channels, net.patch) == (side, 4, 2)


# Parameters of SiT and DiT as published: DiT-XL/2's exactly, the others in millions.
PUBLISHED = {"S": 33e6, "B": 130e6, "L": 458e6, "XL": 675_129_632}


@pytest.mark.parametrize("size", PUBLISHED)
def test_networks_have_the_published_sizes_but_for_what_is_ours(size: str) -> None:
    """Two more embedders (d, w); no head for sigma; positions that are fixed are not counted."""
    with torch.device("meta"):
        net = RUNS[f"imagenet256-{size.lower()}2"].net(num_classes=1000)
    assert isinstance(net, DiT)
    width, tokens = PRESETS[size]["width"], 16 * 16
    embedder = (256 + 1) * width + (width + 1) * width
    sigma_head = (width + 1) * 2 * 2 * 4
    published = sum(p.numel() for p in net.parameters()) - 2 * embedder + sigma_head + tokens * width
    assert published == pytest.approx(PUBLISHED[size], abs=0.6e6 if size != "XL" else 0)
    if size == "XL":
        assert sum(p.numel() for p in net.parameters()) - published == 3_248_640 - 18_448 - 294_912


def test_coupling_at_a_thousand_classes_is_the_recipes_choice_only_where_it_couples() -> None:
    for side in (32, 64):
        assert for_imagenet(RECIPES["flow"], side).coupling == Coupling()
        ism = for_imagenet(RECIPES["ism"], side)
        assert ism == replace(RECIPES["ism"], coupling=ism.coupling)
        assert ism.coupling == Coupling(pool=128, class_aware=True)
        own = Coupling(pool=32, class_aware=False, classes=8, solver=Auction(exact=64))
        adapted = for_imagenet(replace(RECIPES["ism"], coupling=own), side).coupling
        assert adapted == replace(own, pool=128, class_aware=True)  # it settles nothing else
    assert for_imagenet(RECIPES["ism"], 8).distance == for_side(RECIPES["ism"], 8).distance


@pytest.mark.parametrize("how", ["default", "environment", "argument"])
def test_missing_latents_are_told_with_the_way_to_make_them(
    how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ISMKIT_OUT", str(tmp_path / "out"))
    monkeypatch.delenv("ISMKIT_LATENTS", raising=False)
    expected = tmp_path / "out" / "latents" / "imagenet256"
    if how != "default":
        monkeypatch.setenv("ISMKIT_LATENTS", str(expected := tmp_path / "mine"))
    folder = None
    if how == "argument":
        folder = expected = tmp_path / "given"  # goes before the environment
    with pytest.raises(DataError) as error:
        imagenet_latents("imagenet256", folder)
    assert f"no latents of imagenet256 at {expected}: make them with `ismkit latents " in str(error.value)


# ---------------------------------------------------------------- data and grid

TINY = Run("tiny", "", partial(eight_gaussians, 64, 0), partial(ToyMLP, width=8, depth=1), for_points,
           for_points(RECIPES["flow"]), steps=1, batch_size=16)  # fmt: skip


@pytest.mark.parametrize("data", [torch.zeros(32, 2), np.zeros((32, 2)), [torch.zeros(2)] * 32])
def test_a_run_trains_on_whatever_is_admitted(data: Any, tmp_path: Path) -> None:
    assert train_run(TINY, data=data, folder=tmp_path, progress=False).net.num_classes == 1


def test_a_run_needs_the_number_of_classes_before_its_network(tmp_path: Path) -> None:
    data = [(torch.zeros(2), 0)] * 32
    run = replace(TINY, net=lambda **_: pytest.fail("built"))
    with pytest.raises(
        ValueError, match="data must say how many classes it has: give the list the attribute num_classes"
    ):
        train_run(run, data=data, folder=tmp_path, progress=False)


def test_a_run_builds_its_network_for_the_grid_of_its_recipe(tmp_path: Path) -> None:
    """faults D3: small steps were embedded as d = 0 without a word, and another grid of the network was a KeyError."""
    run = change_run(TINY, "recipe.rows.grid.n", "512")
    assert run.build(8).grid == StepGrid(512)
    assert TINY.build(8).grid == StepGrid(128)
    assert replace(run, net=lambda num_classes: num_classes).build(8) == 8
    other = replace(run, net=partial(ToyMLP, width=8, depth=1, grid=StepGrid(64)))
    with pytest.raises(ValueError, match=r"recipe\.rows\.grid must be that of net, n = 64, got n = 512"):
        train_run(other, folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"^net\.grid\.n .* takes the grid of the recipe, recipe\.rows\.grid\.n$"):
        change_run(TINY, "net.grid.n", "256")
    message = r"^no setting 'n' in net\.grid, which is None: set net\.grid first, in Python, to a StepGrid$"
    with pytest.raises(ValueError, match=message):
        change(TINY, "net.grid.n", "256")
    assert change_run(other, "net.grid.n", "512").build(8).grid == StepGrid(512)


# ---------------------------------------------------------------- memory


@dataclass
class Memory:
    total: int


def test_what_is_counted_is_what_a_training_keeps() -> None:
    net = ToyMLP(width=16, depth=2, num_classes=3)
    net.frozen = nn.Parameter(torch.zeros(7), requires_grad=False)
    net.register_buffer("fixed", torch.zeros(5, dtype=torch.float64))
    ema, optimiser = TwinEMA(net, 0.5, 0.9), torch.optim.AdamW(net.parameters())
    sum((weight.sum() for weight in net.parameters() if weight.requires_grad), torch.zeros(())).backward()
    optimiser.step()
    kept = [state[name] for state in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]
    kept += [weight.grad for weight in net.parameters() if weight.grad is not None]
    kept += [tensor for each in (net, ema.fast, ema.slow) for tensor in (*each.parameters(), *each.buffers())]
    assert training_bytes(net) == sum(tensor.nbytes for tensor in kept)


def test_a_network_that_memory_cannot_hold_is_refused_before_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def build(run: Run, num_classes: int, seed: int = 0, build: Any = Run.build) -> nn.Module:
        net = build(run, num_classes, seed)
        built.append(next(net.parameters()).device.type)
        return net

    monkeypatch.setattr(Run, "build", build)
    needed = training_bytes(TINY.build(8))
    built.clear()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(needed))
    train_run(TINY, folder=tmp_path / "a", progress=False)
    assert built[:2] == ["meta", "cpu"]
    built.clear()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(needed - 1))
    for refused in (partial(train_run, TINY, folder=tmp_path / "b", progress=False), partial(check_run, TINY)):
        with pytest.raises(
            ValueError, match=r"^net must fit into the .* GiB of this machine, got a ToyMLP of \S+ param"
        ):
            refused()
    assert set(built) == {"meta"}
    check_memory(TINY, 8, together=False)  # the weights alone fit


@pytest.mark.parametrize("width", [10_000_000, 10**10, 10**19])
def test_absurd_sizes_are_refused_in_a_line(width: int) -> None:
    for refused in (check_run, partial(train_run, progress=False)):
        with pytest.raises(ValueError, match=r"^net must fit into the ") as error:
            refused(change_run(RUNS["gaussians"], "net.width", width))
        assert "\n" not in str(error.value)


def test_a_network_that_cannot_be_made_without_numbers_is_not_counted(tmp_path: Path) -> None:
    class Measured(ToyMLP):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.size = float(next(self.parameters()).detach().norm())  # fails on the meta device

    net = train_run(replace(TINY, net=partial(Measured, width=8, depth=1)), folder=tmp_path, progress=False).net
    assert net.size > 0  # type: ignore[operator]
