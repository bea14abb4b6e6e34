"""Round trips bit for bit, kills in the middle of a save, full disks, and what every damaged file is told."""

import copy
import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ismkit.training import checkpoint
from ismkit.utils import weights
from ismkit.utils.store import Store
from ismkit.utils.weights import CheckpointError
from tests.conftest import ROOT

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7), "b": torch.tensor([True, False, True])}
META = {"seed": 3, "lr": 1e-4 / 3, "name": "café", "nested": {"list": [1, None, True]}}


class Net(nn.Module):
    """A layer, a buffer, an embedding, a frozen parameter, and one that never gets a gradient."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.first = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        self.label = nn.Embedding(4, width)
        self.last = nn.Linear(width, 3)
        self.frozen = nn.Parameter(torch.randn(2), requires_grad=False)
        self.unused = nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x)) + self.label(y)))


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """The same names, and under each the same dtype, shape and bits."""
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert one[name].shape == other[name].shape, name
        assert one[name].numpy().tobytes() == other[name].numpy().tobytes(), name


def rewrite(path: Path, change: Callable[[bytearray], Any]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def name(step: int) -> str:
    return f"step_{step:08d}.safetensors"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with checkpoints of steps 900 and 1000."""
    for step in (900, 1000):
        checkpoint.save(tmp_path / "run", step, {**TENSORS, "step": torch.tensor(step)}, {**META, "step": step})
    return tmp_path / "run"


# ------------------------------------------------------------------------------------------------- round trips


def test_checkpoint_round_trip(run: Path) -> None:
    found = checkpoint.load(run)
    assert found.step == 1000
    assert found.meta == {**META, "step": 1000}
    assert_equal(found.tensors, {**TENSORS, "step": torch.tensor(1000)})
    assert checkpoint.load(run, 900).meta["step"] == 900
    assert sorted(path.name for path in run.iterdir()) == [name(900), name(1000)]


def test_a_setting_is_read_without_the_numbers(run: Path) -> None:
    checkpoint.save(run, 1100, TENSORS, {"settings": {"steps": 5}})
    flip(run / name(1100))
    assert checkpoint.saved_setting(run, None, "steps") == checkpoint.saved_setting(run, 1100, "steps") == 5
    for step, setting in ((None, "no such"), (1000, "steps"), (7, "steps")):
        assert checkpoint.saved_setting(run, step, setting) is None


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from([*DTYPES, torch.bool]), st.lists(st.integers(0, 4), max_size=4)),
        max_size=6,
    )
)
def test_every_shape_dtype_and_name_comes_back(tmp_path: Path, spec: dict[str, Any]) -> None:
    tensors = {}
    for name, (dtype, shape) in spec.items():
        bits = torch.randint(0, 256, [*shape, dtype.itemsize], dtype=torch.uint8)
        tensors[name] = bits[..., 0] > 127 if dtype == torch.bool else bits.view(dtype).reshape(shape)
    step = max(checkpoint.saved_steps(tmp_path), default=0) + 1
    checkpoint.save(tmp_path, step, tensors, {})
    found = checkpoint.load(tmp_path).tensors
    assert_equal(
        {k: v.view(torch.uint8) if v.dim() else v.reshape(1).view(torch.uint8) for k, v in found.items()},
        {k: v.view(torch.uint8) if v.dim() else v.reshape(1).view(torch.uint8) for k, v in tensors.items()},
    )
    assert all(found[name].dtype == tensors[name].dtype for name in tensors)


def test_views_and_shared_memory_are_saved_whole(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    views = {"base": base, "same": base, "transposed": base.T, "row": base[1], "wide": base[:1].expand(5, 4)}
    checkpoint.save(tmp_path, 0, views, {})
    assert_equal(checkpoint.load(tmp_path).tensors, {k: v.contiguous() for k, v in views.items()})


def test_loaded_tensors_do_not_depend_on_the_file(run: Path) -> None:
    tensors = checkpoint.load(run).tensors
    rewrite(run / name(1000), lambda data: data.__setitem__(slice(None), b"\xff" * len(data)))
    assert torch.equal(tensors["a"], TENSORS["a"])


def test_weights_round_trip_is_exact_and_reproducible(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, other = Net(), Net()
    metadata = {f"key {i}": f"value {i}" for i in range(20)}
    digest = weights.save_weights(net, tmp_path / "a.safetensors", metadata)
    assert digest == hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    assert weights.save_weights(net, tmp_path / "b.safetensors", dict(reversed(metadata.items()))) == digest
    assert weights.load_weights(other, tmp_path / "a.safetensors", digest.upper()) == metadata
    assert_equal(other.state_dict(), net.state_dict())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert set(file.keys()) == net.state_dict().keys()
    tensors, found = weights.read_weights(tmp_path / "a.safetensors", digest)
    assert_equal(tensors, dict(net.state_dict()))
    assert found == metadata


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        net[1].weight = net[0].weight
        return net

    one, other = tied(), tied()
    weights.save_weights(one, tmp_path / "a.safetensors", {})
    weights.load_weights(other, tmp_path / "a.safetensors")
    assert other[0].weight is other[1].weight
    assert torch.equal(other[1].weight, one[1].weight)


def test_weights_written_by_others_are_read(tmp_path: Path) -> None:
    net = Net()
    save_file({name: value + 1 for name, value in net.state_dict().items()}, tmp_path / "a.safetensors")
    before = net.first.weight.clone()
    assert weights.load_weights(net, tmp_path / "a.safetensors") == {}
    assert torch.equal(net.first.weight, before + 1)


# ------------------------------------------------------------------------------------------ retention, partials


def test_retention_keeps_the_newest(tmp_path: Path) -> None:
    for step in (0, 5, 10, 99_999_999, 123_456_789):
        assert checkpoint.save(tmp_path, step, TENSORS, {}, keep=3).is_file()
    assert checkpoint.saved_steps(tmp_path) == [10, 99_999_999, 123_456_789]
    checkpoint.save(tmp_path, 123_456_790, TENSORS, {}, keep=1)
    assert checkpoint.saved_steps(tmp_path) == [123_456_790]
    assert len(list(tmp_path.iterdir())) == 1


def test_old_ones_go_only_after_the_new_one_is_in_place(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    discard = checkpoint._discard
    monkeypatch.setattr(
        checkpoint, "_discard", lambda *args: (seen.append(checkpoint.saved_steps(run)), discard(*args))
    )
    checkpoint.save(run, 1100, TENSORS, {})
    assert seen == [[900, 1000, 1100]]
    assert checkpoint.saved_steps(run) == [1000, 1100]


def test_partial_leftovers_are_ignored_then_removed(run: Path) -> None:
    leftover = run / f".{name(1100)}.partial-4242"
    leftover.write_bytes(b"half")
    (run / "step_0001200.safetensors").touch()  # not a name that save gives
    (run / "step_00001300").mkdir()
    assert checkpoint.saved_steps(run) == [900, 1000]
    assert checkpoint.load(run).step == 1000
    checkpoint.save(run, 1050, TENSORS, {})
    assert not leftover.exists()
    assert (run / "step_0001200.safetensors").exists()


def test_rewind_makes_room_to_go_on_from_an_earlier_step(run: Path) -> None:
    with pytest.raises(CheckpointError, match=r"step 950 would not be the latest of \[900, 1000\]; .*rewind"):
        checkpoint.save(run, 950, TENSORS, {})
    with pytest.raises(CheckpointError, match="step 1000 would not be the latest"):
        checkpoint.save(run, 1000, TENSORS, {})
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 950; there are \[900, 1000\]"):
        checkpoint.rewind(run, 950)
    checkpoint.rewind(run, 1000)
    assert checkpoint.saved_steps(run) == [900, 1000]
    checkpoint.rewind(run, 900)
    assert checkpoint.saved_steps(run) == [900]
    checkpoint.save(run, 950, TENSORS, {})
    assert checkpoint.saved_steps(run) == [900, 950]


# ------------------------------------------------------------------------------------------------ kills, full disk

# One process that imports torch once, and forks the ones to be killed: on one thread, or they could wait forever for
# threads that only their parent has.
PROGRAM = """
import itertools, os, pathlib, random, resource, signal, sys, time, torch
from ismkit.training import checkpoint
from ismkit.utils import weights
torch.set_num_threads(1)
base = pathlib.Path(sys.argv[1])

run, draw, met = base / "random", random.Random(0), 0
for kill in range(200):
    start, told = max(checkpoint.saved_steps(run), default=0), os.pipe()
    child = os.fork()
    if child == 0:
        for step in range(start + 1, 10**6):
            checkpoint.save(run, step, {f"t{i}": torch.full((9999,), float(step)) for i in range(5)}, {"step": step})
            os.write(told[1], bytes(1))
    os.close(told[1])
    saved = len(os.read(told[0], 1))
    time.sleep(draw.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(told[0], 4096):
        saved += len(more)
    kept = [checkpoint.load(run, step) for step in checkpoint.saved_steps(run)]
    assert checkpoint.load(run).step == kept[-1].step
    for c in kept:
        assert c.meta == {"step": c.step} and len(c.tensors) == 5
        assert all((tensor == c.step).all() for tensor in c.tensors.values())
    partial = len(list(run.glob(".step_*")))
    print('random', kept[-1].step - start - saved, len(kept), partial)
    met += partial
    if kill >= 11 and met:
        break

POINTS = [(os, "fsync"), (os, "replace"), (pathlib.Path, "unlink"), (weights, "save_file"), (pathlib.Path, "mkdir"),
          (pathlib.Path, "chmod")]
calls = 0

def deadly(real, fatal, after):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == fatal and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if calls == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

for fatal, after in itertools.product(range(1, 100), (False, True)):
    run = base / f"{fatal}{after}"
    for step in (1, 2):
        checkpoint.save(run, step, {"t": torch.full((9,), float(step))}, {"step": step})
    child = os.fork()
    if child == 0:
        for owner, name in POINTS:
            setattr(owner, name, deadly(getattr(owner, name), fatal, after))
        checkpoint.save(run, 3, {"t": torch.full((9,), 3.0)}, {"step": 3})
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    found = checkpoint.load(run)
    every = [checkpoint.load(run, step) for step in checkpoint.saved_steps(run)]
    assert all((c.tensors["t"] == c.step).all() and c.meta == {"step": c.step} for c in every)
    checkpoint.save(run, 4, {"t": torch.zeros(1)}, {})
    assert not list(run.glob(".*")), list(run.glob(".*"))
    print('every', int(killed), found.step, *[c.step for c in every])
    if not killed:
        break

run = base / "limit"
checkpoint.save(run, 1, {"t": torch.zeros(100)}, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
big = torch.nn.Linear(1000, 100, bias=False)
for attempt in (lambda: checkpoint.save(run, 2, {"t": big.weight}, {}),
                lambda: weights.save_weights(big, run / "w.safetensors", {})):
    try:
        attempt()
    except weights.CheckpointError as error:
        print('limit', error)
checkpoint.load(run, 1)
"""


Ordeal = tuple[Path, dict[str, list[str]]]


@pytest.fixture(scope="module")
def ordeal(tmp_path_factory: pytest.TempPathFactory) -> Ordeal:
    """Where PROGRAM ran and what each of its parts printed."""
    base = tmp_path_factory.mktemp("ordeal")
    command = [sys.executable, "-c", PROGRAM, str(base)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stderr
    lines = [line.split(" ", 1) for line in process.stdout.splitlines()]
    return base, {part: [text for name, text in lines if name == part] for part in ("random", "every", "limit")}


def test_kill_at_any_moment_loses_at_most_the_save_in_progress(ordeal: Ordeal) -> None:
    rows = [tuple(map(int, line.split())) for line in ordeal[1]["random"]]
    assert len(rows) >= 12
    for beyond, kept, _ in rows:
        assert beyond in (0, 1)  # 1: killed when the new one was in place, before anybody was told
        assert kept in (1, 2, 3)  # 3: killed before the oldest was gone
    assert any(partial for *_, partial in rows)  # else no kill met a save


def test_kill_before_and_after_every_call_that_touches_the_disk(ordeal: Ordeal) -> None:
    *killed, last = [list(map(int, line.split())) for line in ordeal[1]["every"]]
    assert last[0] == 0  # the save that nothing interrupted
    assert last[1:] == [3, 2, 3]
    assert len(killed) == 2 * 8  # calls that touch the disk
    assert {row[1] for row in killed} == {2, 3}
    assert {tuple(row[2:]) for row in killed} == {(1, 2), (1, 2, 3), (2, 3)}  # the old one goes last


def full_disk_at(nth: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Let the nth call that writes fail for want of space; returns whether it has."""
    calls = 0

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == nth:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(weights, "save_file", failing(weights.save_file))
    for owner, name in ((os, "fsync"), (os, "replace"), (Path, "mkdir")):
        monkeypatch.setattr(owner, name, failing(getattr(owner, name)))
    return lambda: calls >= nth


@pytest.mark.parametrize("nth", range(1, 6))
def test_full_disk_leaves_the_earlier_checkpoints(run: Path, nth: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        failed = full_disk_at(nth, patch)
        with pytest.raises(CheckpointError) as info:
            checkpoint.save(run, 1100, TENSORS, META)
        assert failed()
    needed = sum(value.nbytes for value in TENSORS.values()) + len(json.dumps(META, indent=1))
    assert str(info.value).startswith(f"{run / name(1100)} cannot be written ({needed} bytes needed)")
    assert "No space left on device" in str(info.value)
    assert "The earlier checkpoints [900, 1000] are intact." in str(info.value)
    assert not list(run.glob(".*"))
    # The last call is made when the new one is in place already; until then there are the old ones alone.
    assert checkpoint.saved_steps(run) == [900, 1000, 1100][: 3 if nth == 5 else 2]
    for step in checkpoint.saved_steps(run):
        checkpoint.load(run, step)


def test_a_full_disk_at_the_first_checkpoint_names_no_earlier_ones(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        full_disk_at(2, patch)
        with pytest.raises(CheckpointError) as info:
            checkpoint.save(tmp_path / "run", 100, TENSORS, META)
    assert "No space left on device" in str(info.value)
    assert "intact" not in str(info.value)


def test_a_write_that_the_system_refuses(ordeal: Ordeal) -> None:
    run, (one, two) = ordeal[0] / "limit", ordeal[1]["limit"]
    assert one.startswith(f"{run}/{name(2)} cannot be written (400002 bytes needed): ")
    assert "File too large" in one
    assert one.endswith("The earlier checkpoints [1] are intact.")
    assert two.startswith(f"{run}/w.safetensors cannot be written (400000 bytes needed): ")
    assert [path.name for path in run.iterdir()] == [name(1)]


@pytest.mark.parametrize("nth", range(1, 4))
def test_full_disk_leaves_the_earlier_weights(tmp_path: Path, nth: int) -> None:
    path, net = tmp_path / "a.safetensors", Net()
    digest = weights.save_weights(net, path, {})
    with pytest.MonkeyPatch.context() as patch:
        full_disk_at(nth, patch)
        with pytest.raises(CheckpointError, match=r"a\.safetensors cannot be written \(\d+ bytes needed\): .*No space"):
            weights.save_weights(Net(), path, {})
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


# -------------------------------------------------------------------------------------------------- bad checkpoints


def cut(path: Path) -> None:
    rewrite(path, lambda data: data.__delitem__(slice(-5, None)))


def flip(path: Path) -> None:
    rewrite(path, lambda data: data.__setitem__(-3, data[-3] ^ 1))


def edit_meta(path: Path) -> None:
    rewrite(path, lambda data: data.__setitem__(slice(None), data.replace(b"caf", b"cof")))


def other_version(path: Path) -> None:
    Store(path.parent, {**checkpoint.IDENTITY, "version": 1}).write(path.name, META, TENSORS)


def folder_for_file(path: Path) -> None:
    path.unlink()
    path.mkdir()


NO_FILE = r"{path} is missing, truncated or no safetensors file"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (cut, NO_FILE),
    "cut in the header": (lambda path: path.write_bytes(path.read_bytes()[:40]), NO_FILE),
    "longer": (lambda path: rewrite(path, lambda data: data.append(0)), NO_FILE),
    "flipped bit": (flip, r"{path} is altered, its contents do not match the checksum that it states"),
    "edited meta": (edit_meta, r"{path} is altered, its contents do not match the checksum that it states"),
    "empty": (lambda path: path.write_bytes(b""), NO_FILE),
    "pickle": (lambda path: torch.save(TENSORS, path), NO_FILE),
    "folder": (folder_for_file, NO_FILE),
    "of another": (lambda path: save_file({"a": torch.ones(1)}, path), r"{path} is no file of this kit, or of another"),
    "another version": (other_version, r"{path} is of something else \(version is 1 there, 2 now\)"),
    "copied from another step": (
        lambda path: path.write_bytes((path.parent / name(900)).read_bytes()),
        r"{path} was written as step_00000900\.safetensors",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_refused(run: Path, kind: str) -> None:
    path = run / name(1000)
    damage, pattern = DAMAGE[kind]
    damage(path)
    pattern = pattern.replace("{path}", re.escape(str(path)))
    call = r"load\(run_dir, step=900\), on the command line --resume --from-step 900"
    remedy = rf"To resume from the one before, name it: {call}\."
    for step in (None, 1000):
        with pytest.raises(CheckpointError, match=rf"{pattern}.* {remedy}$"):
            checkpoint.load(run, step)
    assert checkpoint.load(run, 900).step == 900
    if kind == "folder":
        path.rmdir()
    checkpoint.rewind(run, 900)
    checkpoint.save(run, 1000, TENSORS, {})
    assert checkpoint.load(run).step == 1000


def test_the_only_checkpoint_damaged(run: Path) -> None:
    flip(run / name(900))
    with pytest.raises(CheckpointError, match=r"altered, .* There is no earlier checkpoint\.$"):
        checkpoint.load(run, 900)


def test_no_checkpoint_lists_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"run: no checkpoint step_00001000.safetensors or the like here, but: no such folder"
    ):
        checkpoint.load(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"here, but: \[\]"):
        checkpoint.load(tmp_path)
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".step_00000001.safetensors.partial-1").touch()
    with pytest.raises(CheckpointError, match=r"here, but: \['.step_00000001.safetensors.partial-1', 'notes.txt'\]"):
        checkpoint.load(tmp_path)
    assert checkpoint.saved_steps(tmp_path) == checkpoint.saved_steps(tmp_path / "none") == []


def test_a_step_that_is_not_there(run: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"no checkpoint step_00000950.safetensors here, but: \['step_00000900.safetensors', 'step_",
    ):
        checkpoint.load(run, 950)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"keep": 0}, ValueError, "keep must be an integer of at least 1, got 0"),
        ({"keep": True}, ValueError, "keep must be an integer of at least 1, got True"),
        ({"step": -1}, ValueError, "step must be an integer of at least 0, got -1"),
        ({"step": 1.5}, ValueError, "step must be an integer of at least 0, got 1.5"),
        (
            {"meta": {"loss": float("nan")}},
            ValueError,
            "safetensors must be JSON without NaN: Out of range",
        ),
        ({"meta": {"t": torch.ones(1)}}, ValueError, "must be JSON without NaN: .*Tensor is not JSON"),
        ({"tensors": {"a": torch.ones(1), "n": 3}}, TypeError, "n is a int"),
    ],
)
def test_save_refuses_bad_arguments(run: Path, arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        checkpoint.save(**{"run_dir": run, "step": 1100, "tensors": TENSORS, "meta": {}, **arguments})
    assert sorted(path.name for path in run.iterdir()) == [name(900), name(1000)]


def test_save_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(CheckpointError, match=r"cannot be written .*File exists"):
        checkpoint.save(tmp_path / "run", 1, TENSORS, {})


# ------------------------------------------------------------------------------------------------------ bad weights


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    weights.save_weights(Net(), tmp_path / "w.safetensors", {})
    return tmp_path / "w.safetensors"


def state_changed(path: Path, **changes: Tensor | None) -> None:
    state = {**Net().state_dict(), **{name.replace("__", "."): value for name, value in changes.items()}}
    save_file({name: value for name, value in state.items() if value is not None}, path)


WRONG_WEIGHTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (lambda p: rewrite(p, lambda d: d.__delitem__(slice(-1, None))), "truncated or no safetensors"),
    "cut in the header": (lambda p: p.write_bytes(p.read_bytes()[:40]), "truncated or no safetensors"),
    "longer": (lambda p: rewrite(p, lambda d: d.append(0)), "truncated or no safetensors"),
    "empty": (lambda p: p.write_bytes(b""), "truncated or no safetensors"),
    "text": (lambda p: p.write_text("weights " * 20), "truncated or no safetensors"),
    "pickle": (lambda p: torch.save(Net().state_dict(), p), "truncated or no safetensors"),
    "missing file": (lambda p: p.unlink(), "is missing, .*No such file"),
    "folder": (lambda p: (p.unlink(), p.mkdir()), "w.safetensors is missing, truncated or no safetensors file"),
    "missing name": (
        lambda p: state_changed(p, first__weight=None),
        r"does not fit in 1 names: first.weight is missing, expected torch.float32 \[5, 3\]\. Build the module",
    ),
    "unexpected name": (
        lambda p: state_changed(p, more=torch.ones(2)),
        r"does not fit in 1 names: more is torch.float32 \[2\], expected missing",
    ),
    "wrong shape": (
        lambda p: state_changed(p, first__weight=torch.ones(3, 5)),
        r"first.weight is torch.float32 \[3, 5\], expected torch.float32 \[5, 3\]",
    ),
    "wrong dtype": (
        lambda p: state_changed(p, first__weight=torch.ones(5, 3).double()),
        r"first.weight is torch.float64 \[5, 3\], expected torch.float32 \[5, 3\]",
    ),
}


@pytest.mark.parametrize("kind", WRONG_WEIGHTS)
def test_wrong_weights_are_refused_whole(weights_file: Path, kind: str) -> None:
    change, message = WRONG_WEIGHTS[kind]
    change(weights_file)
    net = Net()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(CheckpointError, match=message) as info:
        weights.load_weights(net, weights_file)
    assert str(weights_file) in str(info.value)
    assert_equal(net.state_dict(), before)


def test_altered_weights_are_found_by_their_sum(weights_file: Path) -> None:
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    rewrite(weights_file, lambda data: data.__setitem__(-1, data[-1] ^ 1))
    net = Net()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(CheckpointError, match=rf"w.safetensors is altered or truncated: SHA-256 .*expected {digest}"):
        weights.load_weights(net, weights_file, digest)
    assert_equal(net.state_dict(), before)


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.ckpt", "w"])
def test_pickles_are_refused_by_name(tmp_path: Path, name: str) -> None:
    torch.save(Net().state_dict(), tmp_path / name)
    before = (tmp_path / name).read_bytes()
    with pytest.raises(CheckpointError, match=rf"{name} is no \.safetensors file; pickle files can run code"):
        weights.load_weights(Net(), tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"{name} is no \.safetensors file"):
        weights.save_weights(Net(), tmp_path / name, {})
    assert (tmp_path / name).read_bytes() == before


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_is_either_read_or_a_clear_error(tmp_path: Path, data: st.DataObject) -> None:
    net, path = nn.Linear(2, 2), tmp_path / "w.safetensors"
    weights.save_weights(net, path, {"a": "b"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    before = copy.deepcopy(net.state_dict())
    try:
        weights.load_weights(net, path)
    except CheckpointError:
        assert_equal(net.state_dict(), before)
