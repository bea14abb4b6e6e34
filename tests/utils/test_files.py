"""Files that are whole or not there."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ismkit.utils.files import destination, expanded, locked, replacing
from tests.conftest import ROOT


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


def test_two_writers_of_one_file_do_not_write_into_each_other(tmp_path: Path) -> None:
    """Threads of one process wrote into one partial file, and the first to end took it from the other."""
    path = tmp_path / "file"
    with replacing(path) as first, replacing(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"  # whose block ends last
    assert list(tmp_path.iterdir()) == [path]


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


# ---------------------------------------------------------------- links, and what is no file


def test_a_link_stays_and_the_file_behind_it_is_written(tmp_path: Path) -> None:
    """faults D9: tables replaced the link."""
    (tmp_path / "elsewhere").mkdir()
    for name in ("there.csv", "missing.csv"):
        (tmp_path / f"link to {name}").symlink_to(f"elsewhere/{name}")
    (tmp_path / "elsewhere" / "there.csv").write_bytes(b"old")
    for name in ("there.csv", "missing.csv"):
        with replacing(tmp_path / f"link to {name}") as file:
            file.write(b"new")
        assert (tmp_path / f"link to {name}").is_symlink()
        assert (tmp_path / "elsewhere" / name).read_bytes() == b"new"
    assert len(list(tmp_path.rglob("*"))) == 5


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _dangling(path: Path) -> None:
    path.symlink_to("no such folder/file")


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _to_a_device(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (_fifo, "is a FIFO, and not replaced: name a file"),
        (Path.mkdir, "is a folder, and not replaced: name a file"),
        (_to_a_device, "is a device, and not replaced: name a file"),
        (_dangling, "is a link that leads nowhere: remove it, or name another file"),
        (_loop, "is a link that leads nowhere: remove it, or name another file"),
    ],
)
def test_what_is_no_file_is_never_replaced(make: object, what: str, tmp_path: Path) -> None:
    """faults D9: as root a table replaced /dev/null itself."""
    make(path := tmp_path / "scores.csv")  # type: ignore[operator]
    before = os.lstat(path)
    for attempt in (destination, lambda path: replacing(path).__enter__()):
        with pytest.raises(OSError, match=f"^{path} {what}$"):
            attempt(path)
    assert os.lstat(path)[:3] == before[:3]
    assert list(tmp_path.iterdir()) == [path]


def test_devices_are_never_replaced() -> None:
    """faults D9."""
    with pytest.raises(OSError, match=r"^/dev/null is a device, and not replaced"):
        destination("/dev/null")


@pytest.mark.parametrize("given", ["~", "~/a", Path("~/a/b")])
def test_a_tilde_is_the_home_folder(given: str | Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """faults B9."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded(given) == Path(str(given).replace("~", str(tmp_path)))


def test_the_home_of_an_unknown_user_is_refused() -> None:
    """faults B9: a traceback of pathlib."""
    with pytest.raises(ValueError, match="~nobody-of-this-name/x begins with a home folder that is not known here"):
        expanded("~nobody-of-this-name/x")


# ---------------------------------------------------------------- locks


HOLD = """
import sys, time
from ismkit.utils.files import locked
with locked(sys.argv[1], "training"):
    print("locked", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_names_its_process_and_ends_with_it(number: int, tmp_path: Path) -> None:
    """faults B10, D6: two trainings in one folder deleted each other's files."""
    with holder(tmp_path) as process:
        for _ in range(2):  # who is refused leaves the name of the holder
            with pytest.raises(ValueError, match=rf"^another sweep works in .* \(process {process.pid} on .*\): wait"):
                locked(tmp_path, "sweep").__enter__()
        process.send_signal(number)
        process.wait()
        assert (tmp_path / ".lock").exists()
        with locked(tmp_path, "training"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_whose_way_a_file_is_is_refused(tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    for folder in (file, file / "below"):
        refused = pytest.raises(ValueError, match=f"folder must be one that can be made, got {folder}: a file is in")
        with refused, locked(folder, "training"):
            raise AssertionError
    assert [*tmp_path.iterdir()] == [file]


def test_a_lock_is_for_one_thread_which_may_take_it_again(tmp_path: Path) -> None:
    refused: list[Exception] = []

    def other() -> None:
        try:
            with locked(tmp_path, "training"):
                pass
        except ValueError as error:
            refused.append(error)

    with locked(tmp_path / "new", "training"), locked(tmp_path, "training"), locked(tmp_path / ".", "training"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert [f"(process {os.getpid()} on " in str(error) for error in refused] == [True]
    with locked(tmp_path, "training"):
        pass


def test_who_locks_a_file_that_is_deleted_meanwhile_locks_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a third process would lock a new file beside the one who holds the deleted one."""
    import fcntl

    real, calls = fcntl.flock, []

    def flock(descriptor: int, how: int) -> None:
        real(descriptor, how)
        calls.append(how)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path, "training"):
        assert len(calls) == 2
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")


@pytest.mark.fresh_process
@pytest.mark.parametrize("command", ["doctor", "train gaussians"])
def test_a_system_without_locks_is_named_in_one_line(command: str, tmp_path: Path) -> None:
    """Windows: no command ends in a traceback, and each says where the kit runs."""
    code = f"import sys; sys.modules['fcntl'] = None; from ismkit.cli import main; sys.exit(main({command.split()}))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 2
    assert re.fullmatch(rf"ismkit {command.split()[0]}: ismkit needs .* Windows with WSL 2: .*\n", ended.stderr)
