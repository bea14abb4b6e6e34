"""One store: what is written comes back, and what is cut off, altered, renamed or of something else is never used."""

import errno
import json
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
from torch import Tensor

from ismkit.utils import store as stores
from ismkit.utils.files import DataError
from ismkit.utils.store import Store
from tests.conftest import ROOT

IDENTITY = {"model": "a", "seed": 0, "sizes": (1, 2)}
VALUE = {"text": "café", "none": None, "list": [1, 2.5, True]}
TENSORS = {"x": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(3)}


def test_values_and_tensors_come_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "folder", IDENTITY)
    assert store.names() == []
    sums = store.write("a.json", VALUE), store.write("b.safetensors", VALUE, TENSORS)
    again = Store(tmp_path / "new" / "folder", dict(reversed(IDENTITY.items())))  # in another order
    assert again.names() == ["a.json", "b.safetensors"]
    for name, digest in zip(again.names(), sums, strict=True):
        assert name in again
        entry = again.read(name)
        assert (entry.value, entry.sum, again.value(name)) == (VALUE, digest, VALUE)
    for name, tensor in TENSORS.items():
        assert entry.tensors[name].dtype == tensor.dtype
        assert torch.equal(entry.tensors[name], tensor)
    again.delete("a.json")
    again.delete("a.json")
    assert again.names() == ["b.safetensors"]


def test_equal_contents_have_equal_bytes_and_any_difference_another_sum(tmp_path: Path) -> None:
    one, two = Store(tmp_path / "1", IDENTITY), Store(tmp_path / "2", IDENTITY)
    for store in (one, two):
        store.write("b.safetensors", VALUE, TENSORS)
    assert one.path("b.safetensors").read_bytes() == two.path("b.safetensors").read_bytes()
    others: list[tuple[Any, dict[str, Tensor]]] = [
        (VALUE, TENSORS),
        ({**VALUE, "none": 0}, TENSORS),
        (VALUE, {**TENSORS, "n": torch.tensor(4)}),
        (VALUE, {**TENSORS, "n": torch.tensor(3, dtype=torch.int32)}),
        (VALUE, {**TENSORS, "x": TENSORS["x"].reshape(3, 2)}),
        (VALUE, {**TENSORS, "y": TENSORS["x"]}),
    ]
    assert len({one.write("b.safetensors", *other) for other in others}) == len(others)


def test_identities_share_a_folder(tmp_path: Path) -> None:
    one, two = Store(tmp_path, 1), Store(tmp_path, 2)
    one.write("1.json", "one")
    two.write("2.json", "two")
    assert (one.value("1.json"), two.value("2.json")) == ("one", "two")
    with pytest.raises(DataError, match=r"2\.json is of something else: delete it"):
        one.value("2.json")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"caf", b"cof"))


def of_another(path: Path) -> None:
    Store(path.parent, {**IDENTITY, "seed": 1}).write(path.name, VALUE, TENSORS if path.suffix != ".json" else None)


TRUNCATED = "is (missing, )?truncated"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-2]), TRUNCATED),
    "empty": (lambda path: path.write_bytes(b""), TRUNCATED),
    "binary": (lambda path: path.write_bytes(b"\xff\xfe\x00" * 9), TRUNCATED),
    "edited": (edit, "is altered, its contents do not match the checksum that it states"),
    "of another": (of_another, r"is of something else \(seed is 1 there, 0 now\)"),
    "gone": (Path.unlink, "is missing"),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["a.json", "a.safetensors"])
def test_damage_is_refused_with_the_stores_error_and_remedy(tmp_path: Path, name: str, kind: str) -> None:
    damage, message = DAMAGE[kind]
    store = Store(tmp_path, IDENTITY, error=RuntimeError, remedy="make tea")
    store.write(name, VALUE, None if name == "a.json" else TENSORS)
    damage(store.path(name))
    with pytest.raises(RuntimeError, match=rf"{re.escape(str(store.path(name)))} {message}.*: make tea"):
        store.read(name)


def test_a_copy_under_another_name_and_other_files_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path, IDENTITY)
    for name, tensors in (("a.json", None), ("a.safetensors", TENSORS)):
        store.write(name, VALUE, tensors)
        copy = f"b{Path(name).suffix}"
        store.path(copy).write_bytes(store.path(name).read_bytes())
        with pytest.raises(DataError, match=rf"{re.escape(copy)} was written as {re.escape(name)}"):
            store.value(copy)
    for text in (
        "[]",
        "{}",
        '{"store": {}}',
        '{"store": 3, "value": 1}',
        '{"store": {"identity": 0, "name": "c.json"}}',
    ):
        store.path("c.json").write_text(text)
        with pytest.raises(DataError, match=r"c\.json is no file of this kit, or of another version"):
            store.value("c.json")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["a.json", "a.safetensors"]), st.data())
def test_any_change_of_bytes_is_refused_or_changes_nothing(tmp_path: Path, name: str, data: st.DataObject) -> None:
    store = Store(tmp_path, IDENTITY)
    store.write(name, VALUE, None if name == "a.json" else TENSORS)
    content = bytearray(store.path(name).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    store.path(name).write_bytes(
        content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    )
    try:
        entry = store.read(name)
    except DataError:
        return
    assert entry.value == VALUE
    assert all(torch.equal(entry.tensors[key], tensor) for key, tensor in TENSORS.items() if name != "a.json")


@pytest.mark.parametrize(
    ("name", "value", "tensors", "message"),
    [
        ("a.txt", 1, None, r"with the ending \.json or \.safetensors, got 'a\.txt'"),
        ("../a.json", 1, None, r"name must be that of a file, .* got '\.\./a\.json'"),
        ("a.json", 1, {}, r"name must end in \.safetensors, got 'a\.json'"),
        ("a.safetensors", 1, None, r"name must end in \.json, got 'a\.safetensors'"),
        ("a.json", float("nan"), None, r"the value of a\.json must be JSON without NaN"),
        ("a.json", torch.ones(1), None, r"the value of a\.json must be JSON without NaN"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path: Path, name: str, value: Any, tensors: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Store(tmp_path / "new", IDENTITY).write(name, value, tensors)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["a.json", "a.safetensors"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, tensors = Store(tmp_path, IDENTITY), None if name == "a.json" else TENSORS
    store.write(name, VALUE, tensors)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ismkit.utils.files.os.fsync", full)
        with pytest.raises(
            DataError, match=rf"{re.escape(name)} cannot be written \(\d+ bytes needed\): .*No space left"
        ):
            store.write(name, "other", tensors)
    assert store.value(name) == VALUE
    assert [path.name for path in tmp_path.iterdir()] == [name]


KILLED = """
import os, signal, sys
from ismkit.utils.store import Store
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
Store(sys.argv[1], 0).write("a.json", "second")
"""


def test_what_a_kill_leaves_is_no_file_and_is_swept(tmp_path: Path) -> None:
    store = Store(tmp_path, 0)
    store.write("a.json", "first")
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, check=False)
    assert len(list(tmp_path.iterdir())) == 2
    assert (store.names(), store.value("a.json")) == (["a.json"], "first")
    store.clear_partial()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_the_head_is_read_without_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, IDENTITY)
    store.write("a.safetensors", VALUE, TENSORS)
    flip(store.path("a.safetensors"), -1)
    monkeypatch.setattr(stores, "read_weights", lambda *_: pytest.fail("read"))
    assert store.value("a.safetensors") == VALUE
    assert json.loads(json.dumps(IDENTITY)) == store.head("a.safetensors")["store"]["identity"]


FORM = {"files": [{"name": str, "rows": int}], "scale": float, "note": (str, type(None))}
GOOD = {"files": [{"name": "a", "rows": 3}], "scale": 1, "note": None, "more": [1]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "a.json must be an object, got None"),
        ([], r"a.json must be an object, got \[\]"),
        ({**GOOD, "files": {}}, r"a.json: files must be a list, got \{\}"),
        ({**GOOD, "files": [3]}, r"a.json: files\[0\] must be an object, got 3"),
        ({**GOOD, "files": [*GOOD["files"], {"name": "b"}]}, r"a.json: files\[1\] has no rows"),
        ({**GOOD, "files": [{"name": "a", "rows": True}]}, r"a.json: files\[0\].rows must be an integer, got True"),
        ({**GOOD, "scale": "1"}, "a.json: scale must be a number, got '1'"),
        ({**GOOD, "note": 7}, "a.json: note must be a text or null, got 7"),
        ({"files": [], "scale": 1.0}, "a.json has no note"),
    ],
)
def test_json_of_another_form_is_refused_by_file_and_place(value: object, message: str, tmp_path: Path) -> None:
    """faults D11: KeyError or AttributeError, without the file's name."""
    store = Store(tmp_path, "identity")
    store.write("a.json", GOOD)
    assert store.read("a.json", FORM).value == GOOD
    store.write("a.json", value)
    with pytest.raises(DataError, match=f"{message}: delete it, and it is made again$"):
        store.read("a.json", FORM)
