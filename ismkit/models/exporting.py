"""A network for other programs: as an ONNX file or a program of ``torch.export``, compared with itself before it stays.

What is exported is one call, ``net(x, t, d, w, y) -> s``, for batches of any size. The sampler is a loop around it:
``x <- x + s / nfe`` with ``t = k / nfe`` and ``d = 1 / nfe`` (``d = 0`` at the finest level).
"""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ismkit.method.path import Query, grid_of
from ismkit.utils.checks import check_kind, check_name, shown
from ismkit.utils.files import destination, file_sum, replacing_path
from ismkit.utils.seeding import stream

#: The ending of a file of each format.
FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
INPUTS, OUTPUT = Query._fields, "s"
BATCHES = (1, 2, 7)  # sizes that are compared; it is traced with another
TOLERANCE = 1e-4  # the largest difference allowed, as a share of the largest answer: 100 times what float32 rounds
NEEDED = ("onnx", "onnxscript", "onnxruntime")


class ExportError(RuntimeError):
    """A network cannot be exported, or its export answers otherwise; nothing is written."""


class Exported(NamedTuple):
    """The result of :func:`export`.

    Attributes:
        path: of the file.
        sha256: its checksum.
        difference: the largest difference between its answers and the network's, on random inputs.
        largest: the largest answer of the network.

    Example:
        >>> from pathlib import Path
        >>> from ismkit.models import Exported
        >>> Exported(Path("net.onnx"), "0" * 64, difference=2e-6, largest=3.5).path.name
        'net.onnx'
    """

    path: Path
    sha256: str
    difference: float
    largest: float


def export(
    net: nn.Module,
    path: str | os.PathLike[str],
    shape: Sequence[int],
    format: Literal["onnx", "torch"] = "onnx",
) -> Exported:
    """Write a network as a file that other programs run, once its answers are known to be the network's.

    The file is run on random inputs, batches of 1, 2 and 7 rows, by ONNX Runtime or by ``torch.export``, and compared
    with the network. Inputs are ``x`` (B, ...), ``t``, ``d``, ``w`` (B,) float32 and ``y`` (B,) int64, the output is
    ``s``, like ``x``.

    Args:
        net: in eval mode, on the CPU, in float32.
        path: ends in ``.onnx``, or ``.pt2`` for torch; written atomically.
        shape: of one sample, see :func:`ismkit.models.saved.sample_shape`.
        format: ``onnx``, or ``torch`` for ``torch.export``.

    Returns:
        The path, the checksum of the file and the largest difference.

    Raises:
        TypeError: if ``net`` is no module.
        ValueError: for another format, ending or shape; for a network in training mode or on another device.
        ImportError: for ``onnx`` without the extra ``export``.
        ExportError: if the network cannot be exported, or its export answers otherwise. What was there stays.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from ismkit import ToyMLP
        >>> from ismkit.models import export
        >>> net = ToyMLP(dim=2, width=8, depth=1, num_classes=3).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = export(net, f"{folder}/net.pt2", (2,), "torch")
        ...     again = torch.export.load(found.path).module()
        >>> found.difference
        0.0
        >>> again(torch.zeros(5, 2), *torch.zeros(3, 5), torch.zeros(5).long()).shape
        torch.Size([5, 2])
    """
    check_kind("net", net, nn.Module)
    check_name("format", format, FORMATS)
    if not isinstance(path, str | os.PathLike) or Path(path).suffix != FORMATS[format]:
        raise ValueError(f"path must end in {FORMATS[format]} for the format {format}, got {shown(path)}")
    if not isinstance(shape, Sequence) or not shape or not all(type(side) is int and side > 0 for side in shape):
        raise ValueError(f"shape must be the sizes of one sample, such as (4, 8, 8), got {shown(shape)}")
    if net.training or any(p.device.type != "cpu" or p.dtype != torch.float32 for p in net.parameters()):
        raise ValueError("net must be in eval mode, on the CPU and in float32, as load_sampler gives it")
    if format == "onnx":
        check_installed()
    destination(path)
    with torch.no_grad(), replacing_path(path) as partial:
        run = _quietly(_WRITERS[format], net, partial, tuple(shape))
        difference, largest = _compared(net, run, tuple(shape))
        if not difference <= TOLERANCE * largest:  # NaN too
            raise ExportError(
                f"{path} is not written: the exported network answers otherwise, by {difference:.3g} where the largest "
                f"answer is {largest:.3g}"
            )
    return Exported(Path(path), file_sum(path), difference, largest)


def check_installed() -> None:
    """Raise ImportError, with the remedy, unless all that ONNX needs is installed."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ImportError(f"--format onnx needs {', '.join(missing)}: pip install 'ismkit[export]'")


def _quietly(write: Callable[..., Any], net: nn.Module, path: Path, shape: tuple[int, ...]) -> Any:
    """Write the file, without what the exporters say of their own insides; ExportError in one line."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(redirect_stdout(StringIO()))
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.ERROR)
        try:
            return write(net, path, shape)
        except (ImportError, OSError):
            raise
        except Exception as error:  # the exporters raise many kinds
            why = str(error).strip().splitlines() or [type(error).__name__]
            raise ExportError(f"net cannot be exported, a {type(net).__name__}: {why[0]}") from error


def _program(net: nn.Module, shape: tuple[int, ...]) -> torch.export.ExportedProgram:
    """One call of a network as a graph, for batches of any size."""
    batch = torch.export.Dim("batch", min=1)
    inputs = tuple(_inputs(net, 4, shape))
    return torch.export.export(net, inputs, dynamic_shapes=({0: batch},) * len(inputs))


Run = Callable[[Query], Tensor]


def _write_torch(net: nn.Module, path: Path, shape: tuple[int, ...]) -> Run:
    with path.open("wb") as file:
        torch.export.save(_program(net, shape), file)
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return lambda query: module(*query)


def _write_onnx(net: nn.Module, path: Path, shape: tuple[int, ...]) -> Run:
    import onnxruntime

    torch.onnx.export(
        _program(net, shape),
        (),
        path,
        dynamo=True,
        external_data=False,
        input_names=INPUTS,
        output_names=[OUTPUT],
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def run(query: Query) -> Tensor:
        (answer,) = session.run([OUTPUT], {name: part.numpy() for name, part in query._asdict().items()})
        return torch.from_numpy(answer)

    return run


_WRITERS: dict[str, Callable[..., Run]] = {"onnx": _write_onnx, "torch": _write_torch}


def _inputs(net: nn.Module, rows: int, shape: tuple[int, ...]) -> Query:
    """Random questions of all kinds: times, step sizes of every level, strengths, labels and null."""
    rng = stream(0, "export", rows)
    levels = getattr(grid_of(net), "levels", 7)
    d = 2.0 ** -torch.randint(0, levels + 1, (rows,), generator=rng)
    t = torch.rand(rows, generator=rng) * (1 - d)
    labels = torch.randint(0, int(getattr(net, "num_classes", 0)) + 1, (rows,), generator=rng)
    return Query(torch.randn(rows, *shape, generator=rng), t, d, 3 * torch.rand(rows, generator=rng), labels)


def _compared(net: nn.Module, run: Run, shape: tuple[int, ...]) -> tuple[float, float]:
    """The largest difference and the largest answer; infinite where shapes differ or it cannot be run."""
    differences, sizes = [], []
    for rows in BATCHES:
        query = _inputs(net, rows, shape)
        wanted = net(*query)
        try:
            got = run(query)
        except Exception as error:  # of the runtime, of any kind
            raise ExportError(f"the exported network fails with {rows} rows: {shown(error)}") from error
        if got.shape != wanted.shape:
            raise ExportError(f"the exported network answers {tuple(got.shape)} for {tuple(wanted.shape)}")
        differences.append(float((got - wanted).abs().max()))
        sizes.append(float(wanted.abs().max()))
    return max(differences), max(sizes)
