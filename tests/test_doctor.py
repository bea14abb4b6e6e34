"""The doctor: what it reports of a sound machine, and that each fault it knows is found with its remedy."""

import gzip
import hashlib
import importlib.metadata
import os
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import jupyter_client.kernelspec
import jupyter_core.paths
import psutil
import pytest
import torch
from jupyter_client.kernelspec import KernelSpecManager

from ismkit import doctor
from ismkit.doctor import GIB, Check, checks, report
from ismkit.utils import files
from ismkit.utils.files import WEIGHT_SUMS, WEIGHTS
from tests.commandline import Ismkit


def named(found: list[Check], name: str) -> Check:
    (check,) = [check for check in found if check.name == name]
    return check


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one small data file and one of weights, and their true sums."""
    for folder, file, content in (
        ("fashion-mnist", "clothes.gz", gzip.compress(b"clothes" * 9)),
        ("weights", "net.safetensors", b"net" * 9),
        ("emoji", "emoji.png", b"emoji" * 9),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_bytes(content)
    monkeypatch.setattr("ismkit.utils.files.WEIGHT_SUMS", {"net": hashlib.sha256(b"net" * 9).hexdigest()})
    monkeypatch.setattr("ismkit.utils.files.WEIGHTS", tmp_path / "weights")
    clothes = (len(b"clothes" * 9), hashlib.sha256(b"clothes" * 9).hexdigest())
    monkeypatch.setattr("ismkit.data.fashion.FASHION_MNIST_FILES", {"clothes.gz": clothes})
    drawings = (len(b"emoji" * 9), hashlib.sha256(b"emoji" * 9).hexdigest())
    monkeypatch.setattr("ismkit.data.colour.EMOJI_FILES", {"emoji.png": drawings})
    monkeypatch.setenv("ISMKIT_DATA", str(tmp_path))
    return tmp_path


def requires(monkeypatch: pytest.MonkeyPatch, *lines: str) -> list[Check]:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: list(lines))
    versions = {"ismkit": "0.1.0", "torch": "2.14.1+cu130", "POT": "0.9.7"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    return list(doctor.packages())


def test_checks_cover_the_machine_and_name_a_remedy_for_every_complaint() -> None:
    found = checks()
    names = [check.name for check in found]
    assert len(set(names)) == len(names)
    for name in (
        "Python",
        "device",
        "threads",
        "memory",
        "disk",
        "Fashion-MNIST",
        "emoji",
        "weights",
        "notebook kernel",
    ):
        assert name in names
    for check in found:
        assert check.detail
        assert bool(check.remedy) == (check.status != "ok"), check


def test_quick_checks_cover_the_machine_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "device", lambda: pytest.fail("torch was asked"))
    names = [check.name for check in checks(deep=False)]
    for name in ("Python", "device", "memory", "disk", "Fashion-MNIST", "weights", "notebook kernel"):
        assert names.count(name) == 1


def test_this_repository_ships_what_it_should() -> None:
    assert [check for check in doctor.data_files() if check.status != "ok"] == []
    assert {path.stem for path in WEIGHTS.glob("*.safetensors")} == WEIGHT_SUMS.keys()


def test_report_shows_each_check_its_remedy_and_the_count() -> None:
    text = report(
        [Check("a", "ok", "fine"), Check("long", "warn", "odd", "mend it"), Check("b", "fail", "broken", "!")]
    )
    assert text.splitlines() == [
        "ok    a     fine",
        "warn  long  odd",
        "            -> mend it",
        "fail  b     broken",
        "            -> !",
        "1 ok, 1 to look at, 1 to repair",
    ]


def test_old_python_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.python_version().status == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 10, 14))
    check = doctor.python_version()
    assert (check.status, check.detail) == ("fail", "3.10.14")
    assert "python3.11" in check.remedy


def test_packages_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = requires(monkeypatch, "torch>=2.11", 'POT>=0.9.5; extra == "learn"', 'ismkit[learn]; extra == "all"')
    assert [(check.name, check.status) for check in found] == [
        ("ismkit", "ok"),
        ("torch", "ok"),
        ("POT", "ok"),
    ]
    assert "2-Wasserstein" in found[2].detail


def test_core_package_too_old_fails_and_optional_one_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    found = requires(monkeypatch, "torch>=3", 'POT>=1.0; extra == "learn"')
    assert [check.status for check in found] == ["ok", "fail", "warn"]
    assert "2.14.1+cu130, wanted >=3" in found[1].detail
    assert ".[learn]" in found[2].remedy


def test_missing_core_package_names_its_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    found = requires(monkeypatch, "scipy>=1.13", "torch>=2.11")
    assert [check.status for check in found] == ["ok", "fail", "ok"]
    assert found[1].detail == "missing, wanted >=1.13: exact assignment, matrix square roots"
    assert found[1].remedy == "pip install -c constraints.txt -e '.'"


def test_extra_names_its_purpose_and_all_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each extra; a package of two of them is missing from both."""
    lines = ["matplotlib>=3.9", "POT>=0.9", "pandas>=2.2"]
    found = requires(
        monkeypatch, *(f'{line}; extra == "learn"' for line in lines), 'pandas>=2.2; extra == "sweep"', "torch>=2.11"
    )
    assert [(check.name, check.status) for check in found] == [
        ("ismkit", "ok"),
        ("POT", "ok"),
        ("torch", "ok"),
        ("extra learn", "warn"),
        ("extra sweep", "warn"),
    ]
    assert found[3].detail == "for the notebooks, on a CPU; missing: matplotlib>=3.9, pandas>=2.2"
    assert found[3].remedy == "pip install -c constraints.txt -e '.[learn]'"
    assert found[4].detail == "for many trainings, compared; missing: pandas>=2.2"


def test_outside_a_checkout_pip_is_given_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHECKOUT", tmp_path)
    found = requires(monkeypatch, "scipy>=1.13", 'pandas>=2.2; extra == "learn"')
    assert [check.remedy for check in found] == ["", "pip install 'ismkit'", "pip install 'ismkit[learn]'"]


def test_running_from_a_folder_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    (check,) = doctor.packages()
    assert check.status == "warn"
    assert "not installed as a package" in check.detail


def test_torch_that_does_not_load_is_reported_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    check = named(checks(), "import torch")
    assert check.status == "fail"
    assert "make venv" in check.remedy


def test_driver_without_cuda_in_torch_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert doctor.device().status == "ok"
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert doctor.device().status == "warn"


def test_cuda_device_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (30 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Card")
    assert doctor.device() == Check("device", "ok", "2 x Card, 30.0 of 80.0 GiB free, no bfloat16")


def test_threads_are_held_against_cores_and_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    for used, load, remedy in ((2, 0.1, ""), (1, 5.0, ""), (2, 1.9, "=1:"), (4, 0.0, "=2")):
        monkeypatch.setattr(torch, "get_num_threads", lambda used=used: used)
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0), raising=False)
        check = doctor.threads()
        assert check.status == ("warn" if remedy else "ok"), (used, load)
        assert check.remedy.startswith(f"export OMP_NUM_THREADS{remedy}" if remedy else ""), (used, load)


def test_little_memory_or_disk_warns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Memory = namedtuple("Memory", "available total")
    Usage = namedtuple("Usage", "free")
    for free, status in ((1 * GIB, "warn"), (9 * GIB, "ok")):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: Memory(free, 16 * GIB))
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: Usage(free))
        assert doctor.memory().status == status
        assert doctor.disk(tmp_path).status == status


def test_the_disk_is_that_of_the_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ISMKIT_OUT", str(tmp_path / "not" / "yet"))
    assert doctor.disk().detail.endswith(f"GiB free at {tmp_path}")


@pytest.mark.parametrize("package", ["psutil", "tyro"])
def test_a_missing_package_of_its_own_is_reported_not_raised(
    package: str, monkeypatch: pytest.MonkeyPatch, ismkit_: Ismkit
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    answer = ismkit_("doctor")
    assert "GiB free" in answer.out
    assert ("not known: " in answer.out) == (package == "psutil")


def test_data_and_weights_as_published(shipped: Path) -> None:
    assert [check.status for check in doctor.data_files()] == ["ok", "ok", "ok"]
    assert [check.name for check in doctor.data_files(deep=False)] == ["weights", "Fashion-MNIST", "emoji"]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("fashion-mnist/clothes.gz", "Fashion-MNIST"),
        ("weights/net.safetensors", "weights"),
        ("emoji/emoji.png", "emoji"),
    ],
)
@pytest.mark.parametrize("fault", ["missing", "altered", "truncated"])
def test_faulty_file_fails_and_is_named(shipped: Path, file: str, name: str, fault: str) -> None:
    path = shipped / file
    content = path.read_bytes()
    path.unlink()
    if fault != "missing":
        path.write_bytes(content[:-1] + (b"?" if fault == "altered" else b""))
    check = named(list(doctor.data_files()), name)
    assert check.status == "fail"
    assert path.name in check.detail


def test_no_data_folder_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISMKIT_DATA", str(tmp_path / "none"))
    check = named(list(doctor.data_files()), "Fashion-MNIST")
    assert check.status == "fail"
    assert "ISMKIT_DATA" in check.remedy
    assert check.detail == f"not in {tmp_path / 'none' / 'fashion-mnist'}"


def test_without_the_data_set_only_the_weights_must_be_there(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a wheel: to draw takes no data set, and the remedy says how to get it."""
    monkeypatch.delenv("ISMKIT_DATA")
    for name in ("CHECKOUT", "DEBIAN"):
        monkeypatch.setattr(files, name, tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    found = list(doctor.data_files())
    assert [(check.name, check.status) for check in found] == [
        ("weights", "ok"),
        ("Fashion-MNIST", "warn"),
        ("emoji", "warn"),
    ]
    assert "download=True" in found[1].remedy
    (shipped / "weights" / "net.safetensors").unlink()
    assert named(list(doctor.data_files()), "weights").remedy == "install ismkit again"


def kernelspec(folder: Path, program: str) -> None:
    spec = folder / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = f'["{program}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    (spec / "kernel.json").write_text(f'{{"argv": {argv}, "display_name": "x", "language": "python"}}')


@pytest.mark.parametrize(
    ("program", "status"), [("python", "ok"), (sys.executable, "ok"), ("/opt/other/python", "warn")]
)
def test_kernel_must_be_this_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, status: str
) -> None:
    kernelspec(tmp_path, program)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    check = doctor.kernel()
    assert check.status == status
    assert str(tmp_path) in check.detail or program in check.detail


def test_kernel_is_the_one_that_jupyter_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our short way to its file against Jupyter's own manager: two folders on the path, and none."""
    for place in ("first", "second"):
        kernelspec(tmp_path / place, f"/opt/{place}/python")
    empty = tmp_path / "empty"
    for path in ([], ["second"], ["second", "first"], ["first", "second"], ["nowhere", "second"]):
        monkeypatch.setenv("JUPYTER_PATH", os.pathsep.join(str(tmp_path / place) for place in path))
        spec = KernelSpecManager().get_kernel_spec("python3")
        assert doctor._kernel_named("python3") == (spec.argv[0], Path(spec.resource_dir))
    for module in (jupyter_core.paths, jupyter_client.kernelspec):
        monkeypatch.setattr(module, "jupyter_path", lambda *_: [str(empty)])
    program, folder = doctor._kernel_named("python3")  # ipykernel brings one, in no file of the path
    assert (program, folder.parent.name) == (sys.executable, "ipykernel")


@pytest.mark.parametrize("content", ["{", "[]", '{"argv": []}', "{}"])
def test_a_kernel_that_cannot_be_read_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    kernelspec(tmp_path, "python")
    file = tmp_path / "kernels" / "python3" / "kernel.json"
    file.write_text(content)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    check = doctor.kernel()
    assert (check.status, check.detail) == ("warn", f"{file} names no program")
    assert "ipykernel install" in check.remedy
