"""Write a trained network for other programs, as ONNX or torch.export, compared with itself before it stays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ismkit.cli import UsageError
from ismkit.cli.sample import names as names

if TYPE_CHECKING:
    from ismkit.models.exporting import Exported

EXAMPLES = (
    "ismkit export out/runs/NAME/model.safetensors",
    "ismkit export ism_plus --format torch -o ism_plus.pt2",
    "ismkit export ism_plus --half -o ism_plus.onnx",
    "ismkit export emoji --half --decoder -o emoji.onnx   # and emoji.decoder.onnx",
    "ismkit export model.safetensors --network my_nets:UNet -o unet.onnx",
)


def command(
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = "ism_plus",
    format: Literal["onnx", "torch"] = "onnx",
    network: str | None = None,
    half: bool = False,
    decoder: bool = False,
    out: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None,
) -> int:
    """Export a model; its card goes into the file.

    Args:
        model: a model.safetensors that `ismkit train` wrote, or the name of a released one.
        format: onnx, for ONNX Runtime and others (needs the extra export), or torch, for torch.export.load.
        network: module:attribute of the class, if the model is a network of your own: its code is run.
        half: store in half precision what it holds without loss, as all weights of the released models: half the size,
            the same results. For onnx alone.
        decoder: also write the decoder of what the model draws, as NAME.decoder.onnx in the same folder: for models of
            clothes and of emoji.
        out: file to write, which ends in .onnx or .pt2 (default: in out/, by the name of the model, or
            of its run's folder).
    """
    from ismkit.models.exporting import FORMATS, check_installed, export, export_decoder
    from ismkit.models.saved import RELEASED, load_named, sample_shape, space_of
    from ismkit.models.spaces import SPACES
    from ismkit.utils.files import destination, out_dir

    if format == "onnx":
        check_installed()
    net, card = load_named(model, network=network)
    space = space_of(net) if decoder or model in RELEASED else None
    if decoder and space is None:
        spaces = " and ".join(f"{each.name} {each.shape}" for each in SPACES.values())
        raise UsageError(f"--decoder needs a model that draws latents of the kit's spaces, {spaces}; {model} does not")
    shape = SPACES[space].shape if space else sample_shape(net, card)
    name = Path(model).absolute().parent.name if Path(model).name == "model.safetensors" else Path(model).stem
    path = out or out_dir() / f"{name}{FORMATS[format]}"
    if decoder:
        destination(path.with_suffix(f".decoder{path.suffix}"))  # refused before the network is exported
    found = export(net, path, shape, format, half=half, card=card if isinstance(card, dict) else {})
    report(found, "net(x, t, d, w, y) -> s for x", shape, "network")
    if space and decoder:
        autoencoder = SPACES[space].load()
        found = export_decoder(autoencoder, path.with_suffix(f".decoder{path.suffix}"), format, half=half)
        report(found, "decoder(z) -> image for z", shape, "decoder")
    return 0


def report(found: Exported, call: str, shape: tuple[int, ...], of: str) -> None:
    """Print what a file holds, and how near its answers are to those of what it was made from."""
    print(f"{found.path} (SHA-256 {found.sha256}): {call} of (B, {', '.join(map(str, shape))})")
    print(f"largest difference from the {of} {found.difference:.2g}, largest answer {found.largest:.3g}")
