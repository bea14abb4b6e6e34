"""What the tests of image evaluation share: a tiny network of latents, a decoder, pictures, and sets of samples."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ismkit.evaluation.extractors import Extractor, load_extractor
from ismkit.evaluation.judges import Setting
from ismkit.evaluation.samples import SampleSet, draw
from ismkit.models.nets import DiT
from tests.commandline import fill

MODEL = {"sha256": "0" * 64, "weights": "slow EMA"}


class Doubled:
    """A decoder that needs no training: three of four channels, each cell two pixels wide; it counts its images."""

    identity: ClassVar[dict[str, Any]] = {
        "name": "doubled",
        "revision": None,
        "sha256": "1" * 64,
        "scaling_factor": 1.0,
    }
    factor = 2

    def __init__(self) -> None:
        self.decoded: list[Tensor] = []

    def decode(self, latents: Tensor) -> Tensor:
        self.decoded.append(latents)
        return F.interpolate(latents[:, :3], scale_factor=2).tanh()


def tiny_dit() -> DiT:
    """Four classes, latents (4, 4, 4), weights as of training."""
    net = DiT(size=4, channels=4, patch=2, width=16, depth=2, heads=2, num_classes=4)
    fill(net)
    return net


def drawn(folder: Path, n: int = 50, *, vae: Any = None, **options: Any) -> SampleSet:
    """A set of one-step samples, 20 to a file."""
    options = {"model": MODEL, "batch": 10, "per_file": 20} | options
    return draw(tiny_dit(), vae or Doubled(), Setting(1, 1.0, n), folder, **options)


def pictures(n: int, side: int = 16, seed: int = 0) -> Tensor:
    """Random images (n, 3, side, side) uint8, smooth enough to differ from one another."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 4, 4, generator=rng)
    return (255 * F.interpolate(coarse, size=side, mode="bilinear")).to(torch.uint8)


@pytest.fixture(scope="session")
def small() -> Extractor:
    """The small feature network."""
    return load_extractor("small")
