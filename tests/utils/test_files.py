"""Files that are whole or not there."""

import errno
import os
from pathlib import Path

import pytest

from ismkit.utils.files import replacing


def test_the_new_file_appears_whole_and_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"ne")
        assert path.read_bytes() == b"old"
        file.write(b"w")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_makes_the_folder(tmp_path: Path) -> None:
    with replacing(tmp_path / "a" / "b" / "c") as file:
        file.write(b"x")
    assert (tmp_path / "a" / "b" / "c").read_bytes() == b"x"


@pytest.mark.parametrize("failing", ["block", "fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    if failing != "block":
        monkeypatch.setattr(os, failing, full)

    def write() -> None:
        with replacing(path) as file:
            file.write(b"new")
            if failing == "block":
                full()

    with pytest.raises(OSError, match="no space left"):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_replaced_is_on_the_disk_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))[1])
    with replacing(tmp_path / "file") as file:
        file.write(b"x")
    assert calls == ["fsync", "replace", "fsync"]  # the file, then the folder
