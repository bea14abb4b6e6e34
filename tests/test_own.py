"""What a user brings, named as ``module:attribute``: runs, recipes, networks, trackers and judges."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ismkit.models.saved import load_model
from ismkit.sweeps.ladder import named_sweep
from ismkit.sweeps.sweep import read_table
from ismkit.training.runs import change_run, named_run
from ismkit.utils.settings import import_named
from tests.commandline import Answer, Ismkit
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("own_folder", "own_modules")

MODULE = '''
from dataclasses import replace
from functools import partial

from torch import nn

from ismkit import RECIPES, Run, ToyMLP, two_moons
from ismkit.sweeps import Sweep
from ismkit.training.runs import for_points
import my_helper


def moons():
    return two_moons(400, seed=my_helper.SEED)


def near(prediction, target, query):
    return (prediction - target).abs().flatten(1).mean(1)


class Own(nn.Module):
    """Three numbers and a label in, a velocity out."""

    def __init__(self, num_classes, width=8):
        super().__init__()
        self.num_classes, self.width = num_classes, width
        self.label = nn.Embedding(num_classes + 1, 3)
        self.body = nn.Sequential(nn.Linear(8, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, x, t, d, w, y):
        import torch

        return self.body(torch.cat([x, torch.stack([t, d, w], 1), self.label(y)], 1))


robust = replace(RECIPES["ism_guidance"], name="robust", distance=near)
run = Run(
    name="moons",
    about="two moons",
    load=moons,
    net=partial(ToyMLP, width=8, depth=1),
    adapt=for_points,
    recipe=robust,
    steps=4,
    batch_size=32,
)
'''


@pytest.fixture
def own_modules(tmp_path: Path) -> Iterator[None]:
    """Modules in the current folder, and none of them left when the test is over."""
    (tmp_path / "my_helper.py").write_text("SEED = 0\n")
    (tmp_path / "my_runs.py").write_text(MODULE)
    path, loaded = list(sys.path), {*sys.modules}
    yield
    sys.path[:] = path
    for name in {*sys.modules} - loaded:
        if name.startswith("my_"):
            del sys.modules[name]


def shell(*argv: object) -> Answer:
    """The installed command in a process of its own, whose path does not have the current folder."""
    program = "import sys; sys.path.remove(''); from ismkit.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, *map(str, argv)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    return Answer(done.returncode, done.stdout, done.stderr)


# ---------------------------------------------------------------- by the command line, as from a shell


def test_an_own_run_is_trained_and_resumed(tmp_path: Path) -> None:
    done = shell("train", "my_runs:run")
    assert done.status == 0, done.err
    assert "moons: recipe robust, 4 steps of 32" in done.out
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    assert folder.name.startswith("moons-0-")
    net, card = load_model(folder / "model.safetensors")
    assert type(net).__name__ == "ToyMLP"
    assert card["run"]["load"] == "my_runs.moons"
    assert card["run"]["recipe"]["distance"] == "my_runs.near"
    again = shell("train", "my_runs:run", "--resume")  # its key is the same in another process
    assert again.status == 0, again.err
    assert [path.name for path in (tmp_path / "out" / "runs").iterdir()] == [folder.name]
    text = (tmp_path / "my_runs.py").read_text()
    (tmp_path / "my_runs.py").write_text(text.replace(".abs()", ".square()"))
    other = shell("train", "my_runs:run")  # edited: another run
    assert other.status == 0, other.err
    assert len([*(tmp_path / "out" / "runs").iterdir()]) == 2


@pytest.mark.slow
def test_an_own_run_is_swept_in_workers_over_own_recipes(tmp_path: Path) -> None:
    protocol = ["--nfe", "1", "--w", "0", "-n", "100", "--seeds", "1", "--workers", "2"]
    done = shell("sweep", "my_runs:run", "--recipe", "ism", "my_runs:robust", *protocol)
    assert done.status == 0, done.err
    frame = read_table(tmp_path / "out" / "sweeps" / "moons.parquet")
    assert frame.variant.tolist() == ["ism", "my_runs:robust"]
    assert frame.recipe.tolist() == ["ism", "robust"]
    assert (frame.w2 > 0).all()
    assert frame.key.nunique() == 2


JUDGES = """
from ismkit import Labelled, PointJudge, Run, sample, stream
import torch

REFERENCE = {reference}


class Mean:
    def score(self, net, setting):
        x0 = torch.randn(setting.n, 2, generator=stream(setting.seed, "samples"))
        y = torch.arange(setting.n) % 2
        drawn = sample(net, x0, y, w=setting.w, nfe=setting.nfe)
        return {{"off": float((drawn.mean(0) - REFERENCE).norm())}}


def judge(device):
    return Mean()
"""


@pytest.mark.slow
def test_an_own_run_is_swept_with_an_own_judge_and_an_edited_one_scores_again(tmp_path: Path, ismkit_: Ismkit) -> None:
    argv = ["sweep", "my_runs:run", "--nfe", "1", "--w", "0", "-n", "100", "--seeds", "1", "--workers", "1"]
    argv += ["--judge", "my_judges:judge"]
    found = []
    for reference, run in ((0.0, shell), (0.0, ismkit_), (9.0, shell)):  # the names are the same in another process
        (tmp_path / "my_judges.py").write_text(JUDGES.format(reference=reference))
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)  # it tells files of one size apart by the second
        done = run(*argv)
        assert done.status == 0, done.err
        assert "moons: off, mean" in done.out
        found.append(read_table(tmp_path / "out" / "sweeps" / "moons.parquet").off[0])
        models = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "sweeps" / "models").iterdir()}
        assert len(models) == 1
    assert found[0] == found[1] != found[2]
    assert len([*(tmp_path / "out" / "sweeps" / "trials").iterdir()]) == 2


# ---------------------------------------------------------------- in Python


def test_python_takes_the_same_names(tmp_path: Path) -> None:
    run = named_run("my_runs:run")
    assert run.name == "moons"
    assert named_run("my_runs:run") is run
    assert run.folder(0) == named_run("my_runs:run").folder(0)
    changed = change_run(named_run("gaussians"), "recipe", "my_runs:robust")
    assert changed.recipe.name == "robust"
    changed = change_run(named_run("gaussians"), "recipe.distance", "my_runs:near")
    assert changed.recipe.distance is import_named("my_runs:near", "distance")
    changed = change_run(change_run(run, "net", "my_runs:Own"), "net.width", "16")
    assert changed.build(2).width == 16
    assert list(named_sweep("my_runs:run").runs) == ["robust"]
    assert list(named_sweep("my_runs:run", ["ism", "my_runs:robust"]).runs) == ["ism", "my_runs:robust"]
    swept = named_sweep("my_runs:run").vary({"net": ["my_runs:Own"], "net.width": ["4", "8"]})
    assert list(swept.runs) == [f"robust, net=Own, width={width}" for width in (4, 8)]


def test_what_an_own_wavelet_recipe_is_on_points(tmp_path: Path) -> None:
    """A recipe by its name is adapted to the data of the run, as one of the kit's is."""
    (tmp_path / "my_methods.py").write_text(
        "from dataclasses import replace\nfrom ismkit import RECIPES\nmine = replace(RECIPES['ism'], name='mine')\n"
    )
    run = change_run(named_run("gaussians"), "recipe", "my_methods:mine")
    assert (run.recipe.name, run.recipe.distance) == ("mine", named_run("gaussians").recipe.distance)


# ---------------------------------------------------------------- mistakes


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no module": (
        ["train", "nowhere:run"],
        r"run nowhere:run: there is no module nowhere; looked for in /.* and among",
    ),
    "near module": (["train", "my_run:run"], "run my_run:run: there is no module my_run; did you mean my_runs?"),
    "no package": (
        ["train", "my_runs.run:x"],
        r"run my_runs\.run:x: there is no module my_runs\.run; did you mean my_",
    ),
    "a file": (["train", "my_runs.py:run"], "run must name a module, not its file: my_runs:run in its folder, got "),
    "a path": (["train", "./my_runs.py:run"], "run must name a module, not its file: my_runs:run in its folder, got "),
    "no attribute": (["train", "my_runs:runn"], r"my_runs \(/.*/my_runs\.py\) has no runn; did you mean run"),
    "no name": (["train", "my_runs:"], "run must be module:attribute, such as my_runs:moons, got 'my_runs:'"),
    "no module's name": (["train", ":run"], "run must be module:attribute, such as my_runs:moons, got ':run'"),
    "two colons": (["train", "my_runs:run:x"], "run must be module:attribute, such as my_runs:moons, got"),
    "code": (["train", "os:system('true')"], "run must be module:attribute, such as my_runs:moons, got"),
    "a function": (["train", "my_runs:moons"], "run my_runs:moons must be a Run, got the function moons"),
    "a class": (["train", "my_runs:Run"], "run my_runs:Run must be a Run, got the class Run"),
    "a recipe for a run": (["train", "my_runs:robust"], "run my_runs:robust must be a Run, got the Recipe Recipe"),
    "a run for a recipe": (
        ["train", "gaussians", "--recipe", "my_runs:run"],
        "recipe my_runs:run must be a Recipe, got the Run Run",
    ),
    "a number for a network": (
        ["train", "gaussians", "--network", "my_helper:SEED"],
        "net must be a function, got my_helper:SEED, the int 0",
    ),
    "a network from nothing": (
        ["train", "gaussians", "--network", "torch.nn:Linear"],
        "net must be built from num_classes alone, Linear",
    ),
    "a function for a network": (
        ["train", "gaussians", "--network", "my_broken_net:net"],
        "net must make a torch.nn.Module, got 3",
    ),
    "a setting that an own network has not": (
        ["train", "gaussians", "--network", "my_runs:Own", "-p", "net.depth", "3"],
        "no setting 'depth' in Own: it has num_classes, width",
    ),
    "an unknown word": (["train", "gaussians", "-p", "recipe.distance", "l2"], "must be module:attribute, or set in"),
    "syntax": (["train", "my_syntax:run"], r"importing my_syntax failed: SyntaxError: .* \(my_syntax\.py, line 1\)"),
    "an error": (["train", "my_error:run"], r"importing my_error failed: KeyError: 'x' \(/.*/my_error\.py, line 2\)"),
    "its import": (
        ["train", "my_import:run"],
        r"importing my_import failed: ModuleNotFoundError: No module named 'no_",
    ),
    "it ends": (["train", "my_exit:run"], r"importing my_exit failed: SystemExit: 0 \(/.*/my_exit\.py, line 1\)"),
    "sweep": (["sweep", "my_runs:robust"], "name my_runs:robust must be a Sweep or a Run, got the Recipe"),
    "a number for a judge": (
        ["sweep", "my_runs:run", "--judge", "my_helper:SEED"],
        "judge must have a method score(net, setting), or make what has, got my_helper:SEED: 0",
    ),
    "recipe of a sweep": (
        ["sweep", "gaussians", "--recipe", "my_runs:nope"],
        r"recipe my_runs:nope: my_runs \(/.*\) has no nope",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, tmp_path: Path, ismkit_: Ismkit) -> None:
    for module, text in {
        "my_syntax": "def (",
        "my_error": "\n{}['x']",
        "my_import": "import no_such_package_here",
        "my_exit": "raise SystemExit(0)",
        "my_broken_net": "def net(num_classes):\n    return 3\n",
    }.items():
        (tmp_path / f"{module}.py").write_text(text)
    argv, message = MISTAKES[name]
    answer = ismkit_(*argv)
    assert answer.status == 2
    assert re.search(message if "\\" in message or ".*" in message else re.escape(message), answer.err), answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "out" / "runs").exists() or not any((tmp_path / "out" / "runs").glob("*/step*"))


def test_the_current_folder_is_not_searched_where_python_is_told_not_to(tmp_path: Path) -> None:
    program = "from ismkit.training.runs import named_run; named_run('my_runs:run')"
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-P", "-c", program], env=environment, capture_output=True, text=True)
    assert "ValueError: run my_runs:run: there is no module my_runs" in done.stderr


# ---------------------------------------------------------------- an own network, through every command


def test_an_own_network_is_trained_drawn_and_loaded_by_its_name(tmp_path: Path, ismkit_: Ismkit) -> None:
    done = shell("train", "my_runs:run", "--network", "my_runs:Own", "-p", "net.width", "16", "--folder", "net")
    assert done.status == 0, done.err
    digest = re.search(r"SHA-256 ([0-9a-f]{64})", done.out)[1]  # type: ignore[index]
    net, card = load_model("net/model.safetensors", digest, network="my_runs:Own")
    assert (type(net).__qualname__, net.width, card["steps"]) == ("Own", 16, 4)
    refused = ismkit_("evaluate", "net/model.safetensors")
    assert refused.status == 2
    assert "holds a network of other code, my_runs:Own, which is imported only if you name it" in refused.err
    assert refused.err.count("\n") == 1
    drawn = ismkit_("sample", "net/model.safetensors", "--network", "my_runs:Own", "-n", "20", "-o", "points.png")
    assert (drawn.status, drawn.out) == (0, "40 points, 1 NFE, w = 1: points.png\n"), drawn.err
    assert (tmp_path / "points.png").read_bytes().startswith(b"\x89PNG")
    options = ["--network", "my_runs:Own", "--judge", "my_judges:judge", "--nfe", "1", "--w", "0", "-n", "100"]
    (tmp_path / "my_judges.py").write_text(
        "from ismkit import PointJudge\nfrom my_runs import moons\n\n\n"
        "def judge(device):\n    return PointJudge(moons(), device)\n"
    )
    scored = ismkit_("evaluate", "net/model.safetensors", *options)
    assert scored.status == 0, scored.err
    assert scored.out.split()[:5] == ["NFE", "w", "n", "w2", "curvature"]


REFUSED = {
    "network": (
        ("train", "gaussians", "--network", "my_parts:Pixels"),
        "net must take samples (2,), as the data has: RuntimeError",
    ),
    "rule": (
        ("train", "gaussians", "--recipe", "my_parts:bare"),
        "target must return Answer(target, weight), bare_rule",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_part_of_your_own_that_does_not_fit_is_refused_in_a_line_and_leaves_no_folder(
    name: str, ismkit_: Ismkit, tmp_path: Path
) -> None:
    """A sweep said so; `ismkit train` ended with a traceback, and an empty folder."""
    (tmp_path / "my_parts.py").write_text(PIXELS)
    arguments, message = REFUSED[name]
    answer = ismkit_(*arguments)
    assert answer.status == 2
    assert message in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not [*tmp_path.glob("out/runs/*")]


PIXELS = """
from dataclasses import replace

from torch import nn

from ismkit import RECIPES


class Pixels(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes, self.layer = num_classes, nn.Conv2d(3, 3, 1)

    def forward(self, x, t, d, w, y):
        return self.layer(x)


def bare_rule(query, velocity, rows, context):
    return velocity


bare = replace(RECIPES["flow"], name="bare", target=bare_rule)
"""
