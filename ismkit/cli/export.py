"""Write a trained network for other programs, as ONNX or torch.export, compared with itself before it stays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from ismkit.cli.sample import names as names

EXAMPLES = (
    "ismkit export out/runs/NAME/model.safetensors",
    "ismkit export ism_plus --format torch -o ism_plus.pt2",
    "ismkit export ism_plus --half -o ism_plus.onnx",
    "ismkit export model.safetensors --network my_nets:UNet -o unet.onnx",
)


def command(
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = "ism_plus",
    format: Literal["onnx", "torch"] = "onnx",
    network: str | None = None,
    half: bool = False,
    out: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None,
) -> int:
    """Export a model.

    Args:
        model: a model.safetensors that `ismkit train` wrote, or the name of a released one.
        format: onnx, for ONNX Runtime and others (needs the extra export), or torch, for torch.export.load.
        network: module:attribute of the class, if the model is a network of your own: its code is run.
        half: store in half precision what it holds without loss, as all weights of the released models: half the size,
            the same results. For onnx alone.
        out: file to write, which ends in .onnx or .pt2 (default: out/NAME.onnx).
    """
    from ismkit.models.exporting import FORMATS, check_installed, export
    from ismkit.models.saved import RELEASED, load_named, sample_shape, space_of
    from ismkit.models.spaces import SPACES
    from ismkit.utils.files import out_dir

    if format == "onnx":
        check_installed()
    net, card = load_named(model, network=network)
    space = space_of(net) if model in RELEASED else None
    shape = SPACES[space].shape if space else sample_shape(net, card)
    found = export(net, out or out_dir() / f"{Path(model).stem}{FORMATS[format]}", shape, format, half=half)
    print(f"{found.path} (SHA-256 {found.sha256}): net(x, t, d, w, y) -> s for x of (B, {', '.join(map(str, shape))})")
    print(f"largest difference from the network {found.difference:.2g}, largest answer {found.largest:.3g}")
    return 0
