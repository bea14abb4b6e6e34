"""Keys: what changes a result changes its key, nothing else does, and what cannot be told apart is refused."""

import ast
import dataclasses
import importlib
import linecache
import math
import pickle
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ismkit.data.batches import Batches, ClassGroups
from ismkit.data.photos import photo_folder
from ismkit.data.sets import Labelled, two_moons
from ismkit.imagenet.sources import open_source
from ismkit.method.auction import Auction
from ismkit.method.coupling import Coupling
from ismkit.method.recipes import RECIPES, Intrinsic
from ismkit.method.wavelet import WaveletDistance, l2
from ismkit.models.nets import ToyMLP
from ismkit.sweeps.sweep import Trial
from ismkit.training.runs import RUNS, Run
from ismkit.utils import keys as keys_module
from ismkit.utils.keys import UNKEYED, identity, identity_sum
from tests.fake_cuda import fake_cuda

REMEDY = "make it a frozen dataclass or a function of a module"

# ---------------------------------------------------------------- values


@dataclass(frozen=True)
class One:
    a: Any = 1
    called: str = dataclasses.field(default="", metadata=UNKEYED)


@dataclass(frozen=True)
class Two:
    a: Any = 1


VALUES: list[Any] = [
    *(None, "None"),
    *(0, 0.0, -0.0, False, "0", "", 1, 1.0, True, "1", "true", "True", 1 + 0j, math.inf, -math.inf, "inf"),
    *(math.nan, "nan", 0.1, 0.1 + 1e-17 + 1e-16, b"1", Path("1")),
    *((), [], {}, set(), (1,), [1], {1}, (1.0,), ((1,),), (1, 2), (2, 1), ["1"], "(1,)", [[1], [2]], [[1, 2]]),
    *({"a": 1}, {"a": 1.0}, {"b": 1}, {1: 1}, {"1": 1}, {"a": {"b": 1}}, {"a.b": 1}, {"a": 1, "b": 2}),
    *(One(), Two(), One(1.0), One([1]), One((1,)), [One()], One(One())),
    *(torch.zeros(2), torch.zeros(2, 1), torch.zeros(2).double(), torch.ones(2), np.zeros(2), np.zeros(2, np.float32)),
    *(torch.zeros(0), torch.tensor(0.0), torch.float32, torch.float64),
    *(l2, ToyMLP, partial(ToyMLP), partial(ToyMLP, 2), partial(ToyMLP, dim=2), partial(ToyMLP, dim=2.0)),
]  # fmt: skip


def test_different_values_have_different_keys() -> None:
    found: dict[str, Any] = {}
    for value in VALUES:
        key = identity_sum(value)
        assert key not in found, f"{value!r} has the key of {found[key]!r}"
        found[key] = value


@pytest.mark.parametrize(
    ("value", "same"),
    [
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}),
        ({1, 2, 3}, {3, 2, 1}),
        (np.int64(3), 3),
        (np.float64(0.1), 0.1),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        ({np.int64(3): 1}, {3: 1}),
        (One(np.int64(3)), One(3)),
        (One(called="a"), One(called="b")),
        (partial(ToyMLP, dim=2, width=3), partial(ToyMLP, width=3, dim=2)),
        (torch.arange(6.0).view(2, 3).T, torch.arange(6.0).view(2, 3).T.contiguous()),
        (torch.ones(2, requires_grad=True), torch.ones(2)),
        (Labelled(torch.ones(2, 1), torch.zeros(2).long(), 1, ("a",)),
         Labelled(torch.ones(2, 1), torch.zeros(2).long(), 1, ("b",))),
    ],
)  # fmt: skip
def test_what_does_not_matter_does_not_change_the_key(value: Any, same: Any) -> None:
    assert identity(value) == identity(same)
    assert identity_sum(value) == identity_sum(same)


def test_data_in_memory_are_seen_to_the_last_bit_even_if_changed_in_place() -> None:
    data = Labelled(torch.zeros(4, 2), torch.zeros(4).long(), 2, ("a", "b"))
    keys = [identity_sum(data)]
    data.x[3, 1] = 1e-30
    keys.append(identity_sum(data))
    data.y[0] = 1
    keys += [identity_sum(data), identity_sum(replace(data, x=data.x.double())), identity_sum(data)]
    assert len(set(keys)) == 4
    assert keys[2] == keys[4]


# ---------------------------------------------------------------- functions

MODULE = '''
"""Settings of one's own."""
import enum
import functools
import math
from dataclasses import dataclass, field

import torch
from torch import nn

from ismkit.method import Rows

SCALE = 2.0

def helper(x):
    return x + 1

def plain(prediction, target, query):
    return SCALE * helper(prediction - target).square().flatten(1).mean(1)

def given(prediction, target, power=2.0, *, root=False):
    return (prediction - target) ** power

@torch.no_grad()
def decorated(prediction, target, query):
    return prediction - target

@functools.lru_cache
def cached(n):
    return math.sqrt(n)

@dataclass(frozen=True)
class Distance:
    scale: float = 1.0
    POWER = 2
    def __call__(self, prediction, target):
        return self.scale * (prediction - target) ** self.POWER
    @property
    def half(self):
        return self.scale / 2

class Child(Distance):
    pass

@dataclass(frozen=True)
class Holed(Rows):
    missing: float = 0.5
    parts: tuple = field(default_factory=lambda: (1.0, 2.0))

class Mode(enum.Enum):
    A = 0.5
    def half(self):
        return self.value / 2

mode = Mode.A

class Block(nn.Module):
    def forward(self, x):
        return x.relu()

class Net(nn.Module):
    def __init__(self, num_classes=1):
        super().__init__()
        self.block = Block()

    @torch.no_grad()
    def forward(self, x):
        return self.block(x)
'''
NAMES = ("plain", "given", "decorated", "cached", "Distance", "Child", "Holed", "mode", "Block", "Net")

Load = Callable[[str], types.ModuleType]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Import a text as the module ``own``, each time from a new file."""
    folders = iter(range(100))

    def loaded(text: str) -> types.ModuleType:
        folder = tmp_path / str(next(folders))
        folder.mkdir()
        (folder / "own.py").write_text(text)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, "own", raising=False)
        importlib.invalidate_caches()
        return importlib.import_module("own")

    yield loaded
    sys.modules.pop("own", None)


def keys(module: types.ModuleType) -> dict[str, str]:
    return {name: identity_sum(getattr(module, name)) for name in NAMES}


def test_comments_layout_and_docstrings_do_not_change_a_key(load: Load) -> None:
    text = MODULE
    for old, new in {
        "    return x + 1": '    """Add one."""\n\n    return (\n        x + 1  # one more\n    )',
        "        return self.scale / 2": "        '''Half.'''\n        return self.scale/2",
        "import math": "\n\nimport math",
    }.items():
        text = text.replace(old, new)
    before = keys(load(MODULE))
    assert len({*before.values()}) == len(NAMES)
    assert keys(load(text + "\n# the end\ndef other():\n    pass\n")) == before


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("helper(prediction - target).square()", "helper(prediction - target).abs()", {"plain"}),
        ("return x + 1", "return x + 2", {"plain"}),  # in what it calls
        ("SCALE = 2.0", "SCALE = 3.0", {"plain"}),
        ("SCALE = 2.0", "SCALE = 2", {"plain"}),
        ("power=2.0", "power=3.0", {"given"}),
        ("root=False", "root=True", {"given"}),
        ("@torch.no_grad()\ndef", "@torch.enable_grad()\ndef", {"decorated"}),
        ("math.sqrt(n)", "math.sqrt(n) + 1", {"cached"}),
        ("import math", "import cmath as math", {"cached"}),
        ("POWER = 2", "POWER = 3", {"Distance", "Child"}),
        ("scale: float = 1.0", "scale: float = 2.0", {"Distance", "Child"}),  # where it is built without
        ("scale: float = 1.0", "scale: float = field(default_factory=float)", {"Distance", "Child"}),
        ("missing: float = 0.5", "missing: float = 0.25", {"Holed"}),
        ("lambda: (1.0, 2.0)", "lambda: (1.0, 3.0)", {"Holed"}),
        ("A = 0.5", "A = 0.9", {"mode"}),
        ("self.value / 2", "self.value / 3", {"mode"}),
        ("self.scale * (", "2 * self.scale * (", {"Distance", "Child"}),
        ("self.scale / 2", "self.scale / 3", {"Distance", "Child"}),
        ("class Child(Distance):\n    pass", "class Child(Distance):\n    POWER = 3", {"Child"}),
        ("class Block(nn.Module)", "class Block(nn.Flatten)", {"Block", "Net"}),
        ("x.relu()", "x.abs()", {"Block", "Net"}),  # in a class that it uses
        ("num_classes=1", "num_classes=2", {"Net"}),
        ("self.block(x)", "2 * self.block(x)", {"Net"}),
    ],
)
def test_an_edit_changes_the_keys_of_what_it_changes(old: str, new: str, changed: set[str], load: Load) -> None:
    """faults A1: an edited body had the key of the former one."""
    assert old in MODULE
    before, after = keys(load(MODULE)), keys(load(MODULE.replace(old, new)))
    assert {name for name in NAMES if before[name] != after[name]} == changed


HELPERS = """
from deeper import base
TABLE = (1.0, 2.0)
def scale(x):
    return base(x) * TABLE[0]
def unused(x):
    return x
"""
DEEPER = "def base(x):\n    return x\n"
USES = {
    "a module": "import helpers\ndef f(x):\n    return helpers.scale(x)\n",
    "another name": "import helpers as h\ndef f(x):\n    return h.scale(x)\n",
    "its name": "from helpers import scale\ndef f(x):\n    return scale(x)\n",
    "inside": "def f(x):\n    import helpers\n    return helpers.scale(x)\n",
    "its name inside": "def f(x):\n    from helpers import scale as s\n    return s(x)\n",
    "for each": "import helpers\ndef f(x):\n    return [helpers.scale(a) for a in x]\n",
    "a method": "import helpers\nclass f:\n    def __call__(self, x):\n        return helpers.scale(x)\n",
}


@pytest.mark.parametrize("use", USES)
def test_an_edit_in_another_module_changes_the_key_of_what_uses_it(
    use: str, tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``helpers.scale`` was keyed by the name of its module alone."""

    def key(helpers: str = HELPERS, deeper: str = DEEPER) -> str:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        monkeypatch.syspath_prepend(folder)
        for name, text in (("helpers", helpers), ("deeper", deeper)):
            monkeypatch.delitem(sys.modules, name, raising=False)
            (folder / f"{name}.py").write_text(text)
        return identity_sum(load(USES[use]).f)

    before = key()
    assert key() == before
    assert key(HELPERS.replace("return x", "return 2 * x")) == before  # of what is not used
    assert key(HELPERS.replace("* TABLE[0]", "* TABLE[1]")) != before
    assert key(HELPERS.replace("TABLE = (1.0", "TABLE = (3.0")) != before
    assert key(deeper=DEEPER.replace("return x", "return x + 1")) != before
    for name in ("helpers", "deeper"):
        monkeypatch.delitem(sys.modules, name)


def test_a_module_that_is_handed_on_as_a_whole_is_refused(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "helpers", types.ModuleType("helpers"))
    own = load("import helpers\ndef f(name):\n    return getattr(helpers, name)\n")
    with pytest.raises(ValueError, match=r"\(global helpers\) is the module helpers as a whole: name what is used"):
        identity_sum(own.f)
    installed = load("import math\ndef f(name):\n    return getattr(math, name)\n")
    assert identity_sum(installed.f)


def test_fields_of_an_own_dataclass_count_too(load: Load) -> None:
    own = load(MODULE)
    assert len({identity_sum(own.Distance(scale)) for scale in (1, 1.0, 2.0)} | {identity_sum(own.Child(1.0))}) == 4
    assert identity_sum(own.Distance()) == identity_sum(own.Distance(1.0))


def test_names_and_modules_count(load: Load) -> None:
    own = load("def f(x):\n    return x\ndef g(x):\n    return x\n")
    assert identity_sum(own.f) != identity_sum(own.g)
    other = types.ModuleType("other")
    other.f = types.FunctionType(own.f.__code__, own.f.__globals__, "f")  # type: ignore[attr-defined]
    other.f.__module__ = "other"
    assert identity_sum(other.f) != identity_sum(own.f)


def test_two_functions_of_one_name_differ(load: Load) -> None:
    own = load("def f(x):\n    return x\nfirst = f\ndef f(x):\n    return 2 * x\n")
    assert own.first.__qualname__ == own.f.__qualname__
    assert identity_sum(own.first) != identity_sum(own.f)


def test_functions_that_call_each_other_have_keys(load: Load) -> None:
    text = "def f(n):\n    return g(n - 1) if n else 0\ndef g(n):\n    return f(n)\n"
    before, after = (identity_sum(load(each).f) for each in (text, text.replace("return f(n)", "return 1 + f(n)")))
    assert before != after


def test_a_file_that_was_edited_after_its_import_is_refused(load: Load) -> None:
    own = load("def f(x):\n    return x\n")
    file = Path(own.__file__ or "")
    key = identity_sum(own.f)
    file.write_text("# only a comment\n\ndef f(x):\n    return x\n")
    assert identity_sum(own.f) == key
    file.write_text("def f(x):\n    return x * 1000\n")
    with pytest.raises(
        ValueError, match=f"^load is f, whose source cannot be had, or was changed after its import: {REMEDY}"
    ):
        identity(own.f, "load")


class Object:
    def __call__(self) -> None: ...

    def method(self) -> None: ...


@dataclass
class Thawed:
    a: int = 1


def scaled(factor: float) -> Callable[[Tensor], Tensor]:
    def f(x: Tensor) -> Tensor:
        return factor * x

    return f


TABLE = Object()


def uses_an_object(x: Any) -> Any:
    return TABLE, x


SANDBOX: dict[str, Any] = {"__name__": "__main__"}
exec("def typed(x): return x", SANDBOX)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (lambda x: x, " is a lambda, which has no identity"),
        (scaled(9.0), r" is scaled\.<locals>\.f, a closure over factor, which has no identity"),
        (Object(), r" is an object \(Object\), which has no identity"),
        (Object().method, r"\.\(object\) is an object \(Object\), which has no identity"),
        (Thawed(), r" is an object \(a Thawed that is not frozen\), which has no identity"),
        (torch.Generator(), r" is an object \(Generator\), which has no identity"),
        (max, " is max, whose source cannot be had"),
        (SANDBOX["typed"], " is typed, whose source cannot be had, or was changed after its import"),
        (uses_an_object, r"\.\(global TABLE\) is an object \(Object\), which has no identity"),
        ({(1, 2): 3}, r" has the key \(1, 2\), which is no number or text"),
    ],
)
def test_what_has_no_identity_is_refused_in_a_line(value: Any, what: str) -> None:
    """faults A1: two lambdas, two closures and two objects had one key."""
    for within, place in ((value, "distance"), (partial(ToyMLP, width=[value]), r"distance\.width\[0\]")):
        with pytest.raises(ValueError, match=rf"^{place}{what}: {REMEDY}$"):
            identity({"distance": within})


def test_a_network_is_refused_with_a_remedy_of_its_own() -> None:
    message = r"^teacher is a network, whose weights may change: save it with save_model, and name the file by ismkit"
    with pytest.raises(ValueError, match=message):
        identity({"teacher": nn.Linear(1, 1)})


def test_a_function_inside_another_that_takes_nothing_from_it_has_a_key() -> None:
    def inner(x: Tensor) -> Tensor:
        return x

    def other(x: Tensor) -> Tensor:
        return 2 * x

    assert identity_sum(inner) != identity_sum(other)
    assert identity_sum(lru_cache(inner)) == identity_sum(inner)


@pytest.mark.parametrize("by_statement", [False, True])
def test_functions_of_a_notebook_have_keys_in_the_processes_of_a_sweep_too(
    by_statement: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their source is in the memory of one process; a notebook compiles each statement of a cell by itself."""
    import cloudpickle

    text = (
        "import torch.nn.functional as F\n\ndef mine(prediction, target, query):\n"
        "    return F.mse_loss(prediction, target, reduction='none').flatten(1).mean(1)\n"
    )
    file = "/nowhere/cell.py"
    monkeypatch.setitem(linecache.cache, file, (len(text), None, text.splitlines(True), file))
    cell: dict[str, Any] = {"__name__": "__main__"}
    whole = ast.parse(text)
    for part in [ast.Module([statement], []) for statement in whole.body] if by_statement else [whole]:
        exec(compile(part, file, "exec"), cell)
    run = replace(RUNS["gaussians"], recipe=replace(RECIPES["ism"], distance=cell["mine"]))
    trial = Trial("mine", run, 0, ())
    key, sent = trial.key, cloudpickle.dumps(trial)
    del linecache.cache[file]
    keys_module._CELLS.clear()
    with pytest.raises(ValueError, match=r"recipe\.distance is mine, whose source cannot be had"):
        _ = trial.key
    assert pickle.loads(sent).key == key


def test_functions_of_a_script_have_keys_in_the_processes_of_a_sweep_too(tmp_path: Path) -> None:
    """They come without the name of their file."""
    import cloudpickle

    file = tmp_path / "script.py"
    file.write_text("def mine(prediction, target, query):\n    return (prediction - target).abs().flatten(1).mean(1)\n")
    script: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(file.read_text(), str(file), "exec"), script)
    trial = Trial("mine", replace(RUNS["gaussians"], recipe=replace(RECIPES["ism"], distance=script["mine"])), 0, ())
    key, sent = trial.key, cloudpickle.dumps(trial)
    keys_module._CELLS.clear()
    assert pickle.loads(sent).key == key


# ---------------------------------------------------------------- runs and trials


def other_source(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.rand(shape, generator=generator)


def other_term(net: Any, prediction: Any, query: Any, velocity: Any, context: Any) -> Any:
    return prediction.square().mean()


def other_distance(prediction: Tensor, target: Tensor, query: object = None) -> Tensor:
    return (prediction - target).abs().flatten(1).mean(1)


#: The fields of runs that change no result.
RESTS = {"name", "about", "adapt", "recipe.name"}
#: Another value where it cannot be made from the type.
OTHER: dict[str, Any] = {
    "load": partial(two_moons, 100, 0),
    "net": partial(ToyMLP, width=7),
    "adapt": replace,
    "recipe.target": Intrinsic(predicted=True),
    "recipe.distance": other_distance,
    "recipe.distance.norm": "root",
    "recipe.distance.wavelet": "db2",
    "recipe.rows.grid.n": 64,
    "recipe.target.gap": "slow",
    "recipe.source": other_source,
    "recipe.terms": (other_term,),
}


def fields(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All fields of nested dataclasses, by path."""
    for field in dataclasses.fields(value):
        here, part = f"{path}{field.name}", getattr(value, field.name)
        yield here, part
        if dataclasses.is_dataclass(part):
            yield from fields(part, f"{here}.")


def other(path: str, value: Any) -> Any:
    if path in OTHER:
        return OTHER[path]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if isinstance(value, int) else value / 2
    if isinstance(value, tuple):
        return tuple(part / 2 for part in value)
    return {"classes": 3, "clip": 4.0, "solver": "other"}.get(path.rpartition(".")[2]) if value is None else f"{value}2"


def set_field(value: Any, path: str, new: Any) -> Any:
    """A copy of nested dataclasses with a field changed, whatever their own checks say."""
    name, _, rest = path.partition(".")
    made = object.__new__(type(value))
    made.__dict__.update(value.__dict__)
    object.__setattr__(made, name, set_field(getattr(value, name), rest, new) if rest else new)
    return made


BASE = replace(RUNS["fashion-smoke"], recipe=replace(RECIPES["ism"], distance=WaveletDistance((2.0, 1.0))))


@pytest.mark.parametrize("path", [path for path, value in fields(BASE) if not dataclasses.is_dataclass(value)])
def test_every_field_of_a_run_changes_its_key_but_for_its_names(path: str, tmp_path: Path) -> None:
    value = dict(fields(BASE))[path]
    changed = set_field(BASE, path, other(path, value))
    assert dict(fields(changed))[path] != value
    same = path in RESTS
    assert (identity_sum(changed) == identity_sum(BASE)) == same
    assert (Trial("a", changed, 0, ()).key == Trial("b", BASE, 0, ()).key) == same
    if path != "name":
        assert (changed.folder(0) == BASE.folder(0)) == same


@pytest.mark.parametrize("path", ["recipe.target", "recipe.coupling", "recipe.distance", "recipe.rows", "optim"])
def test_another_class_with_equal_fields_has_another_key(path: str) -> None:
    part = dict(fields(BASE))[path]
    twin = dataclasses.make_dataclass(
        type(part).__name__, [(f.name, Any) for f in dataclasses.fields(part)], frozen=True
    )(*(getattr(part, f.name) for f in dataclasses.fields(part)))
    assert identity_sum(set_field(BASE, path, twin)) != identity_sum(BASE)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_all_runs_of_the_kit_have_keys_of_their_own(run: Run) -> None:
    assert len(run.folder().name) == len(f"{run.name}-0-") + 8
    others = {identity_sum(other) for name, other in RUNS.items() if name != run.name}
    assert identity_sum(run) not in others


def test_seeds_count_whatever_integers_they_are() -> None:
    run = RUNS["gaussians"]
    assert run.folder(np.int64(3)) == run.folder(3) != run.folder(4)  # type: ignore[arg-type]
    assert Trial("", run, np.int32(3), ()).key == Trial("", run, 3, ()).key  # type: ignore[arg-type]
    assert replace(run, steps=np.int64(4)).folder() == replace(run, steps=4).folder()  # type: ignore[arg-type]
    for seed in (3.0, True, "3", None):
        with pytest.raises(ValueError, match="seed must be an integer, got"):
            run.folder(seed)  # type: ignore[arg-type]


def test_workers_devices_and_folders_do_not_change_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run = two_moons(64, 0), RUNS["gaussians"]
    assert identity_sum(Batches(data, 8, 0, num_workers=2).settings) == identity_sum(Batches(data, 8, 0).settings)
    seen = []
    for name, gpus in (("here", ""), ("there", "0,1")):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setenv("ISMKIT_OUT", str(tmp_path / name / "out"))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        pictures = open_source([photo_folder(Path("pictures"), per_class=1, side=16)])
        seen.append((run.folder(0).name, Trial("", run, 0, ()).key, identity_sum(pictures.identity)))
    assert seen[0] == seen[1]
    with fake_cuda():
        elsewhere = Labelled(data.x.to("cuda"), data.y.to("cuda"), 2, data.class_names)
        assert identity_sum(elsewhere) == identity_sum(data)


def test_the_device_of_an_auction_counts_for_it_may_make_other_pairs() -> None:
    assert identity_sum(Auction(device="cuda")) != identity_sum(Auction())


def test_a_run_that_cannot_be_keyed_is_built_and_shown_all_the_same() -> None:
    run = replace(RUNS["gaussians"], load=lambda: two_moons(100, 0), net=lambda num_classes: ToyMLP(width=8))
    assert "lambda" in repr(run)
    assert isinstance(run.build(2), ToyMLP)
    for keyed in (run.folder, lambda: Trial("", run, 0, ()).key):
        with pytest.raises(ValueError, match=rf"load is a lambda, which has no identity: {REMEDY}$"):
            keyed()


def test_groups_are_settings_too() -> None:
    assert identity(ClassGroups(2, 3)) != identity(ClassGroups(3, 3))
    assert identity(Coupling(2)) != identity(ClassGroups(2, 1))
