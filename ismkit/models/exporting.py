"""A network for other programs: as an ONNX file or a program of ``torch.export``, compared with itself before it stays.

What is exported is one call, ``net(x, t, d, w, y) -> s``, for batches of any size. The sampler is a loop around it:
``x <- x + s / nfe`` with ``t = k / nfe`` and ``d = 1 / nfe`` (``d = 0`` at the finest level). Of an autoencoder it is
the decoder, which makes pictures of what the loop ends with.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ismkit.method.path import Query, grid_of
from ismkit.models.autoencoder import SmallAutoencoder
from ismkit.utils.checks import check_kind, check_name, shown
from ismkit.utils.files import destination, file_sum, replacing_path
from ismkit.utils.seeding import stream

#: The ending of a file of each format.
FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
BATCHES = (1, 2, 7)  # sizes that are compared; it is traced with another
TOLERANCE = 1e-4  # the largest difference allowed, as a share of the largest answer: 100 times what float32 rounds
#: Under this name the card stands in an ONNX file's metadata; in a program of torch it is the file ``ismkit.json``.
CARD = "ismkit"
NEEDED = ("onnx", "onnxscript", "onnxruntime")


class ExportError(RuntimeError):
    """A network cannot be exported, or its export answers otherwise; nothing is written."""


class Exported(NamedTuple):
    """The result of :func:`export` and :func:`export_decoder`.

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
    *,
    half: bool = False,
    card: Mapping[str, Any] | None = None,
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
        half: store in half precision what it holds without loss, such as the released weights: the file is half as
            long, and computes in float32 all the same. For ``onnx`` alone.
        card: what is known of the model, JSON. It is kept in the file under :data:`CARD`, beside ``shape`` and, where
            the network has them, ``num_classes`` and the ``levels`` of its grid: ONNX Runtime gives it by
            ``get_modelmeta().custom_metadata_map``, ``torch.export.load`` by ``extra_files``.

    Returns:
        The path, the checksum of the file and the largest difference.

    Raises:
        TypeError: if ``net`` is not a module, or the card no JSON.
        ValueError: for another format, ending or shape; for a network in training mode or on another device; for
            ``half`` with ``torch``.
        ImportError: for ``onnx`` without the extra ``export``.
        ExportError: if the network cannot be exported, or its export answers otherwise. What was there stays.

    Example:
        >>> import json, tempfile
        >>> import torch
        >>> from ismkit import ToyMLP
        >>> from ismkit.models import export
        >>> net = ToyMLP(dim=2, width=8, depth=1, num_classes=3).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = export(net, f"{folder}/net.pt2", (2,), "torch", card={"licence": "mine"})
        ...     again = torch.export.load(found.path, extra_files=(kept := {"ismkit.json": ""})).module()
        >>> found.difference
        0.0
        >>> again(torch.zeros(5, 2), *torch.zeros(3, 5), torch.zeros(5).long()).shape
        torch.Size([5, 2])
        >>> json.loads(kept["ismkit.json"])
        {'shape': [2], 'num_classes': 3, 'levels': 7, 'card': {'licence': 'mine'}}
    """
    check_kind("net", net, nn.Module)
    if not isinstance(shape, Sequence) or not shape or not all(type(side) is int and side > 0 for side in shape):
        raise ValueError(f"shape must be the sizes of one sample, such as (4, 8, 8), got {shown(shape)}")
    about = _about(net, tuple(shape), card)
    call = _Call(net, lambda rows: _query(net, rows, tuple(shape)), Query._fields, "s", about=about)
    return _export("net", call, path, format, half)


def export_decoder(
    autoencoder: SmallAutoencoder,
    path: str | os.PathLike[str],
    format: Literal["onnx", "torch"] = "onnx",
    *,
    half: bool = False,
) -> Exported:
    """Write the decoder of an autoencoder, with its scaling, as a file that other programs run; compared as a network.

    The input is ``z`` (B, c, h, h) float32, scaled latents as the sampler draws them, the output ``image``
    (B, C, H, H), clamped to [-1, 1]. As ``.pt2`` it takes up to 63 rows at a time, as ONNX any number.

    Args:
        autoencoder: in eval mode, on the CPU, in float32.
        path: ends in ``.onnx``, or ``.pt2`` for torch; written atomically.
        format: ``onnx``, or ``torch`` for ``torch.export``.
        half: as for :func:`export`.

    Returns:
        The path, the checksum of the file and the largest difference.

    Raises:
        TypeError: if ``autoencoder`` is none.
        ValueError: for another format or ending; in training mode or on another device; for ``half`` with ``torch``.
        ImportError: for ``onnx`` without the extra ``export``.
        ExportError: if the export answers otherwise. What was there stays.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from ismkit.models import SmallAutoencoder, export_decoder
        >>> autoencoder = SmallAutoencoder((1, 8, 8), channels=2, widths=(8, 8), fill=0.0).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = export_decoder(autoencoder, f"{folder}/decoder.pt2", "torch")
        ...     decode = torch.export.load(found.path).module()
        >>> decode(torch.zeros(5, 2, 2, 2)).shape
        torch.Size([5, 1, 8, 8])
    """
    check_kind("autoencoder", autoencoder, SmallAutoencoder)
    call = _Call(_Decoder(autoencoder).train(autoencoder.training), _latents(autoencoder.latent), ("z",), "image")
    return _export("autoencoder", call, path, format, half)


def _about(net: nn.Module, shape: tuple[int, ...], card: Mapping[str, Any] | None) -> str:
    """What is kept in the file of a network: JSON, empty without a card."""
    if card is None:
        return ""
    check_kind("card", card, Mapping)
    known = {"num_classes": getattr(net, "num_classes", None), "levels": getattr(grid_of(net), "levels", None)}
    try:
        return json.dumps({"shape": shape, **{k: v for k, v in known.items() if v is not None}, "card": dict(card)})
    except (TypeError, ValueError) as error:
        raise TypeError(f"card must be JSON, got {shown(card)}: {error}") from error


class _Decoder(nn.Module):
    """The one call of an autoencoder that what draws needs."""

    def __init__(self, autoencoder: SmallAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, z: Tensor) -> Tensor:
        return self.autoencoder.decode(z)


class _Call(NamedTuple):
    """What is exported: a module, random inputs of a number of rows, the names in the file, a card."""

    module: nn.Module
    inputs: Callable[[int], tuple[Tensor, ...]]
    names: tuple[str, ...]
    output: str
    about: str = ""


def _export(argument: str, call: _Call, path: str | os.PathLike[str], format: Any, half: bool) -> Exported:
    """Write one call of a module and compare it; ``argument`` is what the caller calls the module."""
    check_name("format", format, FORMATS)
    if not isinstance(path, str | os.PathLike) or Path(path).suffix != FORMATS[format]:
        other = [name for name, ending in FORMATS.items() if str(path).endswith(ending)]
        remedy = f": give the format {other[0]}, --format {other[0]}" if other else ""
        given = f"{os.fspath(path)!r}" if isinstance(path, os.PathLike) else shown(path)
        raise ValueError(f"path must end in {FORMATS[format]} for the format {format}, got {given}{remedy}")
    if not isinstance(half, bool):
        raise TypeError(f"half must be True or False, got {shown(half)}")
    if half and format != "onnx":
        raise ValueError(f"half must be False for the format {format}, got True: only onnx stores halves")
    weights = call.module.parameters()
    if call.module.training or any(p.device.type != "cpu" or p.dtype != torch.float32 for p in weights):
        raise ValueError(f"{argument} must be in eval mode, on the CPU and in float32, as the kit loads it")
    if format == "onnx":
        check_installed()
    destination(path)
    with torch.no_grad(), replacing_path(path) as partial:
        run = _quietly(argument, _WRITERS[format], call, partial, half)
        difference, largest = _compared(call, run)
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


def _quietly(argument: str, write: Callable[..., Run], call: _Call, path: Path, half: bool) -> Run:
    """Write the file, without what the exporters say of their own insides; ExportError in one line."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(redirect_stdout(StringIO()))
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.ERROR)
        try:
            return write(call, path, half)
        except (ImportError, OSError):
            raise
        except Exception as error:  # the exporters raise many kinds
            why = str(error).strip().splitlines() or [type(error).__name__]
            kind = type(getattr(call.module, "autoencoder", call.module)).__name__
            raise ExportError(f"{argument} cannot be exported, a {kind}: {why[0]}") from error


def _program(call: _Call) -> torch.export.ExportedProgram:
    """One call of a network as a graph, for batches of any size."""
    batch = torch.export.Dim("batch", min=1)
    inputs = tuple(call.inputs(4))
    return torch.export.export(call.module, inputs, dynamic_shapes=({0: batch},) * len(inputs))


Run = Callable[[tuple[Tensor, ...]], Tensor]


def _write_torch(call: _Call, path: Path, half: bool) -> Run:
    with path.open("wb") as file:
        torch.export.save(_program(call), file, extra_files={f"{CARD}.json": call.about} if call.about else None)
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return lambda inputs: module(*inputs)


def _write_onnx(call: _Call, path: Path, half: bool) -> Run:
    import onnxruntime

    torch.onnx.export(
        _program(call),
        (),
        path,
        dynamo=True,
        external_data=False,
        input_names=call.names,
        output_names=[call.output],
        verbose=False,
    )
    _tidy(path, half, call.about)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def run(inputs: tuple[Tensor, ...]) -> Tensor:
        (answer,) = session.run([call.output], {k: v.numpy() for k, v in zip(call.names, inputs, strict=True)})
        return torch.from_numpy(answer)

    return run


def _tidy(path: Path, half: bool, about: str) -> None:
    """Replace what the exporter notes of this machine's source files by the card, and halve the numbers if asked.

    ONNX Runtime casts them back once, when it loads the file. Numbers that half precision would change stay.
    """
    import onnx

    model = onnx.load(path)
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    if half:
        casts = [cast for tensor in model.graph.initializer if (cast := _halved(tensor)) is not None]
        nodes = [*casts, *model.graph.node]  # in the order of their use
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    if about:
        model.metadata_props.add(key=CARD, value=about)
    onnx.save(model, path)


def _halved(tensor: Any) -> Any:
    """Store a tensor of an ONNX file in half precision; returns the node that casts it back, None if it must stay."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    full = numpy_helper.to_array(tensor)
    if tensor.data_type != TensorProto.FLOAT or full.size < 2:
        return None
    with np.errstate(over="ignore"):
        short = full.astype(np.float16)
    if not (short == full).all():
        return None
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(short, f"{name}.half"))
    return helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT)


_WRITERS: dict[str, Callable[..., Run]] = {"onnx": _write_onnx, "torch": _write_torch}


def _query(net: nn.Module, rows: int, shape: tuple[int, ...]) -> Query:
    """Random questions of all kinds: times, step sizes of every level, strengths, labels and null."""
    rng = stream(0, "export", rows)
    levels = getattr(grid_of(net), "levels", 7)
    d = 2.0 ** -torch.randint(0, levels + 1, (rows,), generator=rng)
    t = torch.rand(rows, generator=rng) * (1 - d)
    labels = torch.randint(0, int(getattr(net, "num_classes", 0)) + 1, (rows,), generator=rng)
    return Query(torch.randn(rows, *shape, generator=rng), t, d, 3 * torch.rand(rows, generator=rng), labels)


def _latents(shape: tuple[int, ...]) -> Callable[[int], tuple[Tensor, ...]]:
    """Random latents, which have unit variance."""
    return lambda rows: (torch.randn(rows, *shape, generator=stream(0, "export", rows)),)


def _compared(call: _Call, run: Run) -> tuple[float, float]:
    """The largest difference and the largest answer; ExportError where shapes differ or it cannot be run."""
    differences, sizes = [], []
    for rows in BATCHES:
        inputs = call.inputs(rows)
        wanted = call.module(*inputs)
        try:
            got = run(inputs)
        except Exception as error:  # of the runtime, of any kind
            raise ExportError(f"the exported network fails with {rows} rows: {shown(error)}") from error
        if got.shape != wanted.shape:
            raise ExportError(f"the exported network answers {tuple(got.shape)} for {tuple(wanted.shape)}")
        differences.append(float((got - wanted).abs().max()))
        sizes.append(float(wanted.abs().max()))
    largest = torch.tensor([differences, sizes]).amax(1)  # NaN if one is, which Python's max passes over
    return largest[0].item(), largest[1].item()
