"""What this machine has and lacks for the kit, with the remedy beside every complaint (``ismkit doctor``).

Nothing but the standard library is imported before it is checked, so that a broken installation is reported
and not raised.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Status = Literal["ok", "warn", "fail"]

GIB = 2**30
NEEDED_PYTHON = (3, 11)
NEEDED_RAM = 4 * GIB  # torch, Fashion-MNIST in float32, and two notebook kernels side by side
NEEDED_DISK = 2 * GIB  # executed notebooks and checkpoints of the laptop profiles

EXTRAS = {
    "learn": "the notebooks, on a CPU",
    "imagenet": "latents of ImageNet, training logs, FID",
    "sweep": "many trainings, compared",
    "export": "networks as ONNX files",
    "cluster": "a sweep over several machines",
    "book": "the book as web pages",
    "dev": "tests, lint, types",
}
PURPOSE = {
    "torch": "tensors, networks, training",
    "numpy": "arrays",
    "scipy": "exact assignment, matrix square roots",
    "accelerate": "devices, processes, mixed precision",
    "safetensors": "weights on disk",
    "tqdm": "progress bars",
    "lazy-loader": "names imported when they are used",
    "tyro": "the command line",
    "packaging": "this comparison of versions",
    "psutil": "memory readings",
    "pot": "exact assignment in low dimension, 2-Wasserstein",
    "pywavelets": "wavelets other than Haar",
    "torchdiffeq": "reference ODE solutions",
    "torch-fidelity": "FID, Inception score, precision and recall",
    "torchvision": "Inception features, CIFAR-10",
    "diffusers": "the VAE of the latents",
    "datasets": "images from the hub",
    "pillow": "image files",
    "pandas": "tables of results",
    "pyarrow": "tables of results as Parquet, latents",
    "cloudpickle": "work in other processes",
    "ray": "sweeps on a cluster",
    "onnx": "networks as ONNX files",
    "onnxscript": "networks written as ONNX",
    "onnxruntime": "ONNX files run, to compare them",
    "matplotlib": "figures",
    "mistune": "slides of the course",
    "pygments": "colours of code on slides",
    "ipywidgets": "sliders in notebooks",
    "jupyterlab": "notebooks by hand",
    "papermill": "notebooks with parameters",
    "nbclient": "notebooks run without a browser",
    "nbformat": "notebook files",
    "ipykernel": "the kernel of the notebooks",
    "tensorboard": "training curves",
    "scikit-image": "photographs, and an independent reference in tests",
    "sphinx": "the book",
    "myst-nb": "notebooks in the book",
    "sphinx-book-theme": "the look of the book",
    "sphinx-copybutton": "the buttons that copy code in the book",
    "sphinx-mathjax-offline": "formulas in the book",
    "pytest": "tests",
    "pytest-xdist": "tests side by side",
    "pytest-timeout": "tests that hang",
    "hypothesis": "property-based tests",
    "ruff": "lint and format",
    "mypy": "types",
    "nbval": "notebook tests",
    "selenium": "tests in a browser",
    "pyyaml": "the test of environment.yml",
}


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, how it stands, what was seen, and the remedy where it is not ``ok``."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def checks(deep: bool = True) -> list[Check]:
    """Look at everything that the kit needs of this machine, in the order of the report.

    Args:
        deep: import torch, to see what it can use, and read every byte of the data set: seconds. Without, a fraction of
            one, and no torch.
    """
    found = [python_version(), *packages()]
    if not deep:
        return [*found, driver(), memory(), disk(), *data_files(deep=False), kernel()]
    try:
        import torch  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: a CUDA library that does not load
        return [*found, Check("import torch", "fail", str(error), "pip install --force-reinstall torch, or make venv")]
    return [*found, device(), threads(), memory(), disk(), *data_files(), kernel()]


def report(checks: list[Check]) -> str:
    """The checks as aligned lines of text, each remedy under its complaint, and a closing count."""
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        lines.append(f"{check.status:<4}  {check.name:<{width}}  {check.detail}")
        if check.remedy:
            lines.append(f"{'':<4}  {'':<{width}}  -> {check.remedy}")
    count = {status: sum(check.status == status for check in checks) for status in ("ok", "warn", "fail")}
    lines.append(f"{count['ok']} ok, {count['warn']} to look at, {count['fail']} to repair")
    return "\n".join(lines)


def python_version() -> Check:
    """Python itself: 3.11 or later."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < NEEDED_PYTHON:
        needed = ".".join(map(str, NEEDED_PYTHON))
        return Check("Python", "fail", version, f"make a new environment: make venv PYTHON=python{needed}")
    return Check("Python", "ok", f"{version} at {sys.executable}")


def packages() -> Iterator[Check]:
    """Every package that ``pyproject.toml`` names, against its lower bound; only core packages can fail."""
    try:
        from packaging.requirements import Requirement

        named = importlib.metadata.requires("ismkit") or []
    except ImportError as error:  # PackageNotFoundError is one
        detail = f"not installed as a package ({error}): versions of other packages not compared"
        yield Check("ismkit", "warn", detail, _install("all"))
        return
    yield Check("ismkit", "ok", importlib.metadata.version("ismkit"))
    seen, missing = set(), dict[str, list[str]]()
    for requirement in map(Requirement, named):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in seen or name == "ismkit":
            continue
        match = re.search(r"extra == .(\w+)", str(requirement.marker))
        extra = match[1] if match else ""
        purpose = PURPOSE.get(name, "")
        bad: Status = "warn" if extra else "fail"
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            if extra:
                missing.setdefault(extra, []).append(f"{requirement.name}{requirement.specifier}")
            else:
                detail = f"missing, wanted {requirement.specifier}: {purpose}"
                yield Check(requirement.name, bad, detail, _install(extra))
            continue
        seen.add(name)
        if requirement.specifier.contains(version, prereleases=True):
            yield Check(requirement.name, "ok", f"{version}: {purpose}")
        else:
            detail = f"{version}, wanted {requirement.specifier}: {purpose}"
            yield Check(requirement.name, bad, detail, _install(extra))
    for extra, names in missing.items():
        detail = f"for {EXTRAS.get(extra, extra)}; missing: {', '.join(names)}"
        yield Check(f"extra {extra}", "warn", detail, _install(extra))


def _install(extra: str) -> str:
    """The command that installs ismkit with an extra, or without."""
    from ismkit.utils.files import in_checkout

    what = f"[{extra}]" if extra else ""
    return f"pip install -c constraints.txt -e '.{what}'" if in_checkout() else f"pip install 'ismkit{what}'"


def driver() -> Check:
    """Whether there is an NVIDIA driver, without asking torch."""
    if shutil.which("nvidia-smi"):
        return Check("device", "ok", "an NVIDIA driver is here; `ismkit doctor --deep` says what torch can use of it")
    return Check("device", "ok", "no NVIDIA driver: the profiles smoke and laptop")


def device() -> Check:
    """Where networks will run: CUDA with its memory and bfloat16, Apple's MPS, or the CPU."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        bf16 = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16"
        detail = (
            f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, "
            f"{free / GIB:.1f} of {total / GIB:.1f} GiB free, {bf16}"
        )
        return Check("device", "ok", detail)
    if shutil.which("nvidia-smi"):
        detail = f"CPU only, although there is an NVIDIA driver (torch built for CUDA {torch.version.cuda})"
        remedy = "compare the driver's CUDA version (nvidia-smi) with torch's, or install the torch that fits"
        return Check("device", "warn", detail, remedy)
    if torch.backends.mps.is_available():
        return Check("device", "ok", "Apple GPU (MPS): the profiles smoke and laptop")
    return Check("device", "ok", "CPU: the profiles smoke and laptop; gpu and paper need a CUDA device")


def threads() -> Check:
    """Threads of torch against cores that this process may use, and against other work on the machine."""
    import torch

    from ismkit.sweeps import processes

    cores = processes.cores()
    used = torch.get_num_threads()
    detail = f"torch {torch.__version__} computes on {used} of {cores} cores"
    if used > cores:
        return Check("threads", "warn", detail, f"export OMP_NUM_THREADS={cores}")
    others = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if used > 1 and others > cores - used + 0.5:
        remedy = "export OMP_NUM_THREADS=1: small steps can run 10 times slower when threads wait for a core"
        return Check("threads", "warn", f"{detail}, and other work keeps {others:.1f} busy", remedy)
    return Check("threads", "ok", detail)


def memory() -> Check:
    """Main memory that is free now."""
    try:
        import psutil
    except ImportError as error:
        return Check("memory", "warn", f"not known: {error}", "pip install psutil")
    state = psutil.virtual_memory()
    detail = f"{state.available / GIB:.1f} of {state.total / GIB:.1f} GiB free"
    if state.available < NEEDED_RAM:
        return Check("memory", "warn", detail, f"close other programs: {NEEDED_RAM / GIB:.0f} GiB are wanted")
    return Check("memory", "ok", detail)


def disk(folder: Path | None = None) -> Check:
    """Free disk where runs are written, or at another folder."""
    from ismkit.utils.files import out_dir

    folder = out_dir().absolute() if folder is None else folder
    folder = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(folder).free
    detail = f"{free / GIB:.1f} GiB free at {folder}"
    if free < NEEDED_DISK:
        return Check("disk", "warn", detail, f"make room: {NEEDED_DISK / GIB:.0f} GiB are wanted")
    return Check("disk", "ok", detail)


def data_files(deep: bool = True) -> Iterator[Check]:
    """The released weights and the data sets, each file against its SHA-256 sum; the latter only if ``deep``."""
    from ismkit.utils.files import (
        WEIGHT_SUMS,
        WEIGHTS,
        DataError,
        data_folders,
        in_checkout,
        verify_sha256,
        weights_file,
    )

    try:
        for name, digest in WEIGHT_SUMS.items():
            verify_sha256(weights_file(name), digest)
    except DataError as error:
        remedy = f"git checkout -- {WEIGHTS}" if in_checkout() else "install ismkit again"
        yield Check("weights", "fail", str(error), remedy)
    else:
        yield Check("weights", "ok", f"{len(WEIGHT_SUMS)} files as released, in {WEIGHTS}")
    places = data_folders("fashion-mnist")
    there = [place for place in places if place.is_dir()]
    if not there:
        # To draw takes none of it: missing is a fault only where a folder of it was named.
        status: Status = "fail" if os.environ.get("ISMKIT_DATA") else "warn"
        remedy = "ismkit.fashion_mnist('train', download=True) fetches it (31 MB), or set ISMKIT_DATA to its folder"
        yield Check("Fashion-MNIST", status, f"not in {' or '.join(map(str, places))}", remedy)
    elif not deep:
        yield Check("Fashion-MNIST", "ok", f"in {there[0]}; its contents are verified when they are read")
    else:
        yield clothes()
    yield drawings(deep)


def drawings(deep: bool) -> Check:
    """The emoji of the repository, their contents if ``deep``; nothing but what draws or scores emoji needs them."""
    from ismkit.utils.files import DataError, data_folders

    places = data_folders("emoji")
    there = [place for place in places if place.is_dir()]
    if not there:
        remedy = "clone the repository, or set ISMKIT_DATA to its data/ folder"
        return Check("emoji", "warn", f"not in {' or '.join(map(str, places))}", remedy)
    if not deep:
        return Check("emoji", "ok", f"in {there[0]}; its contents are verified when they are read")
    from ismkit.data.colour import EMOJI_FILES, check_emoji

    try:
        check_emoji(there[0])
    except DataError as error:
        return Check("emoji", "fail", str(error), f"git checkout -- {there[0]}")
    return Check("emoji", "ok", f"{len(EMOJI_FILES)} files as drawn, in {there[0]}")


def clothes() -> Check:
    """The contents of Fashion-MNIST against their sums."""
    from ismkit.data.fashion import FASHION_MNIST_FILES, GET_FASHION_MNIST, find_fashion_mnist, read_fashion_mnist
    from ismkit.utils.files import DataError

    try:
        folder = find_fashion_mnist()
        for name in FASHION_MNIST_FILES:
            read_fashion_mnist(folder / name)
    except DataError as error:
        return Check("Fashion-MNIST", "fail", str(error), GET_FASHION_MNIST)
    return Check("Fashion-MNIST", "ok", f"{len(FASHION_MNIST_FILES)} files as published, in {folder}")


def kernel() -> Check:
    """The Jupyter kernel ``python3``, which every notebook names, must be this interpreter."""
    try:
        program, folder = _kernel_named("python3")
    except ImportError:
        return Check("notebook kernel", "warn", "no Jupyter here", _install("learn"))
    except ValueError as error:
        remedy = f"{sys.executable} -m ipykernel install --sys-prefix --name python3"
        return Check("notebook kernel", "warn", str(error), remedy)
    # Jupyter replaces a bare name by the interpreter that it runs on itself.
    if program in ("python", "python3", f"python3.{sys.version_info.minor}", sys.executable):
        return Check("notebook kernel", "ok", f"python3, this interpreter ({folder})")
    remedy = "export JUPYTER_PREFER_ENV_PATH=1, or remove that kernel: jupyter kernelspec remove python3"
    return Check("notebook kernel", "warn", f"python3 is another interpreter: {program}", remedy)


def _kernel_named(name: str) -> tuple[str, Path]:
    """The program of a Jupyter kernel and the folder of its ``kernel.json``; ``ValueError`` if it has none to read.

    Jupyter's own manager of kernels takes half of all the time that ``ismkit doctor`` would need, nearly all of it for
    imports. It looks through these folders first, in this order, and is asked where they hold nothing.
    """
    from jupyter_core.paths import jupyter_path

    for folder in (Path(place) / name for place in jupyter_path("kernels")):
        file = folder / "kernel.json"
        if file.is_file():
            try:
                return json.loads(file.read_text(encoding="utf-8"))["argv"][0], folder
            except (ValueError, LookupError, TypeError) as error:
                raise ValueError(f"{file} names no program") from error
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager().get_kernel_spec(name)
    except NoSuchKernel as error:
        raise ValueError(f"no kernel named {name}") from error
    return spec.argv[0], Path(spec.resource_dir)
