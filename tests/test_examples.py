"""iSM in one file: on the same random numbers it is the library's method, to rounding in float64, and it runs alone."""

import ast
import copy
import os
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import image
from matplotlib import pyplot as plt
from torch import Tensor, nn

from ismkit.data.sets import EIGHT_GAUSSIANS_MEANS, EIGHT_GAUSSIANS_STD
from ismkit.method.ema import TwinEMA
from ismkit.method.path import Query
from ismkit.method.recipes import Context, training_step
from ismkit.method.sampling import sample
from ismkit.models.nets import ToyMLP
from ismkit.training.runs import RUNS
from tests.conftest import ROOT
from tests.float64 import close, rng, seeds

pytestmark = pytest.mark.usefixtures("float64")

PATH = ROOT / "examples" / "ism_in_one_file.py"
RECIPE = RUNS["gaussians"].recipe
NULL = 8


@pytest.fixture(scope="module")
def ism(float64: None) -> ModuleType:
    spec = spec_from_file_location("ism_in_one_file", PATH)
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["the library's network", "the example's network"])
def nets(request: pytest.FixtureRequest, ism: ModuleType) -> tuple[nn.Module, nn.Module]:
    """Two networks of one kind with weights of their own, none of them zero: online, and one that makes targets."""
    library = request.param == "the library's network"
    both = [ToyMLP(width=16, depth=2) if library else ism.Net(width=16) for _ in range(2)]
    for seed, net in enumerate(both):
        stir(net, seed)
    return both[0], both[1]


def stir(net: nn.Module, seed: int, scale: float = 0.3) -> None:
    generator = rng(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)


def pairs(seed: int, n: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, points and labels, the same for both."""
    generator = rng(seed)
    y = torch.randint(NULL, (n,), generator=generator)
    x0, noise = torch.randn(2, n, 2, generator=generator)
    return x0, EIGHT_GAUSSIANS_MEANS.double()[y] + EIGHT_GAUSSIANS_STD * noise, y


def asked(ism: ModuleType, seed: int) -> tuple[Query, Tensor]:
    """What the example asks about the pairs of this seed; it draws from the global generator, seeded alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        query, velocity = ism.ask(*pairs(seed))
    return Query(*query), velocity


# ------------------------------------------------------------------------------------------------------ the method


@given(seeds)
@settings(max_examples=25)
def test_the_query(ism: ModuleType, seed: int) -> None:
    query, velocity = asked(ism, seed)
    expected, expected_velocity = RECIPE.rows(*pairs(seed), NULL, rng(seed))
    for name in Query._fields:
        assert torch.equal(getattr(query, name), getattr(expected, name)), name
    assert torch.equal(velocity, expected_velocity)
    assert (query.y == NULL).any()  # labels are dropped


def test_the_rows(ism: ModuleType) -> None:
    assert RECIPE.rows.blocks(ism.BATCH) == (ism.V, ism.G, ism.C)


@pytest.mark.parametrize("seed", range(5))
def test_the_targets_of_each_block(ism: ModuleType, nets: tuple[nn.Module, nn.Module], seed: int) -> None:
    query, velocity = asked(ism, seed)
    _, fast = nets
    with torch.no_grad():
        target = ism.targets(fast, velocity, *query)
        expected = RECIPE.target(query, velocity, RECIPE.rows, Context(fast, fast, NULL)).target
    for name, rows in RECIPE.rows.blocks(len(velocity))._asdict().items():
        close(target[rows], expected[rows])
        assert torch.equal(expected[rows], velocity[rows]) == (name == "velocity")


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_and_every_gradient(ism: ModuleType, nets: tuple[nn.Module, nn.Module], seed: int) -> None:
    net, other = nets
    ema = TwinEMA(other, RECIPE.fast, RECIPE.slow)
    expected, *_ = training_step(RECIPE, net, ema, pairs(seed), NULL, rng(seed))
    loss = ism.loss(net, ema.fast, *asked(ism, seed))
    close(loss, expected)
    names, parameters = zip(*net.named_parameters(), strict=True)
    gradients = (torch.autograd.grad(value, parameters) for value in (loss, expected))
    for name, gradient, reference in zip(names, *gradients, strict=True):
        assert reference.any(), name
        close(gradient, reference)


def test_the_averages(ism: ModuleType) -> None:
    net = ism.Net(width=2)
    ema = TwinEMA(net, RECIPE.fast, RECIPE.slow)
    fast, slow = (copy.deepcopy(net).requires_grad_(False) for _ in range(2))
    for k in range(200):  # the ramp of the fast one is over after 170
        stir(net, k)
        ema.update(net)
        ism.average(fast, net, RECIPE.fast, k)
        ism.average(slow, net, RECIPE.slow, k)
        for average, reference in ((fast, ema.fast), (slow, ema.slow)):
            for a, b in zip(average.parameters(), reference.parameters(), strict=True):
                close(a, b)


@pytest.mark.parametrize("nfe", [1, 2, 4, 8, 16, 32, 64, 128])
@pytest.mark.parametrize("w", [0, 1.75])
def test_the_sampler(ism: ModuleType, nets: tuple[nn.Module, nn.Module], nfe: int, w: float) -> None:
    net, _ = nets
    x0, _, y = pairs(0, 16)
    with torch.no_grad():
        close(ism.sample(net, x0, y, w, nfe), sample(net, x0, y, w=w, nfe=nfe))


@given(seeds, st.integers(1, 200))
@settings(max_examples=25)
def test_the_coupling_costs_as_little(ism: ModuleType, seed: int, n: int) -> None:
    x0, x1, y = pairs(seed, n)
    coupled, reference = ism.couple(x0, x1, y), RECIPE.coupling.couple(x0, x1, y)
    close((x1 - coupled).square().mean(), (x1 - reference).square().mean(), atol=1e-6)
    for c in range(NULL):
        assert sorted(coupled[y == c].tolist()) == sorted(x0[y == c].tolist())


@pytest.mark.parametrize("seed", range(5))
def test_the_coupling_is_the_same_permutation(ism: ModuleType, seed: int) -> None:
    # Of fixed pools alone: the library assigns in float32, where two permutations may cost the same.
    x0, x1, y = pairs(seed, 500)
    assert torch.equal(ism.couple(x0, x1, y), RECIPE.coupling.couple(x0, x1, y))


def test_the_data(ism: ModuleType) -> None:
    close(ism.MEANS, EIGHT_GAUSSIANS_MEANS.double(), atol=1e-6)
    assert (ism.STD, ism.NULL) == (EIGHT_GAUSSIANS_STD, NULL)


# ---------------------------------------------------------------------------------------------------------- the file


def test_the_file_is_short_and_needs_no_kit() -> None:
    text = PATH.read_text()
    assert len(text.splitlines()) <= 120
    assert max(map(len, text.splitlines())) <= 120
    imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [n.name if isinstance(node, ast.Import) else node.module or "" for node in imported for n in node.names]
    roots = {name.split(".")[0] for name in names}
    assert roots <= {*sys.stdlib_module_names, "torch", "scipy", "matplotlib"}
    assert "ismkit" not in text


def test_each_fix_stands_in_one_place() -> None:
    assert sorted(re.findall(r"FIX, ([\w ]+):", PATH.read_text())) == [
        "intrinsic guidance",
        "scaling OT",
        "twin EMA",
        "wavelet loss",
    ]


def test_the_decays_of_the_run() -> None:
    decays = dict(re.findall(r"average\((fast|slow), net, ([\d.]+), k\)", PATH.read_text()))
    assert {name: float(decay) for name, decay in decays.items()} == {"fast": RECIPE.fast, "slow": RECIPE.slow}


class DrawingError(Exception):
    """The training is over."""


def draw_nothing(*_: Any, **__: Any) -> NoReturn:
    raise DrawingError


@pytest.mark.slow
def test_a_short_run_ends_where_the_library_does(
    ism: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 20
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(PATH), "--steps", str(steps)])
    monkeypatch.setattr(plt, "subplots", draw_nothing)  # the picture, which takes longer, is the next test's
    with torch.random.fork_rng(devices=[]):
        trained: dict[str, Any] = {"__name__": "__main__"}
        with pytest.raises(DrawingError):
            exec(compile(PATH.read_text(), PATH, "exec"), trained)
        torch.manual_seed(0)
        net = ism.Net()
        ema = TwinEMA(net, RECIPE.fast, RECIPE.slow)
        optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.0)
        for k in range(steps):
            if k % ism.POOL == 0:
                y = torch.randint(NULL, (ism.POOL * ism.BATCH,))
                x1 = ism.MEANS[y] + EIGHT_GAUSSIANS_STD * torch.randn(len(y), 2)
                x0 = RECIPE.coupling.couple(torch.randn(len(y), 2), x1, y)
            rows = slice(k % ism.POOL * ism.BATCH, (k % ism.POOL + 1) * ism.BATCH)
            optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, (k + 1) / 100, (steps - k) / (steps / 2))
            optimizer.zero_grad()
            loss, *_ = training_step(
                RECIPE, net, ema, (x0[rows], x1[rows], y[rows]), NULL, torch.random.default_generator
            )
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            ema.update(net)
    for name, reference in (("net", net), ("fast", ema.fast), ("slow", ema.slow)):
        for a, b in zip(trained[name].parameters(), reference.parameters(), strict=True):
            close(a, b, atol=1e-8)


@pytest.mark.slow
def test_it_runs_in_any_folder_and_draws_its_picture(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MPLBACKEND")}
    run = subprocess.run(
        [sys.executable, str(PATH), "--steps", "20"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    printed = [(w, nfe) for w in ("0", "2") for nfe in ("1", "2", "4", "128")]
    assert re.findall(r"w = (\d), NFE (\d+): ", run.stdout) == printed
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == ["out/ism_in_one_file.png"]
    picture = image.imread(tmp_path / "out" / "ism_in_one_file.png")
    assert picture.shape[:2] == (600, 1200)
    assert len({tuple(pixel) for pixel in picture.reshape(-1, 4)}) > 8  # eight colours on white
