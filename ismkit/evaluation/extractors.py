"""The networks in whose features images are compared: torch-fidelity's with pinned weights, and a small one for tests.

All of them take uint8 images (B, 3, H, W) and resize them by their own rule, which is part of the protocol. Weights are
looked for where torch keeps its own (``$TORCH_HOME/hub/checkpoints``), checked against a SHA-256 sum before they are
read, and downloaded only on request, after the file, its size and its sum have been named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ismkit.utils.checks import check_name
from ismkit.utils.files import DataError, file_sum
from ismkit.utils.seeding import stream

DINOV2_CODE = "facebookresearch/dinov2:7764ea0f912e53c92e82eb78a2a1631e92725fc8"  # the network's code, by commit
SPATIAL_CHANNELS = 7  # of sFID (ADM): 7 channels of 17 x 17 make 2023 numbers


@dataclass(frozen=True)
class Weights:
    """A file of published weights.

    Attributes:
        url: where it is published; its last part is the file's name.
        size: in bytes.
        sha256: of the file.
    """

    url: str
    size: int
    sha256: str

    def find(self, *, download: bool = False) -> Path:
        """The verified file.

        Args:
            download: fetch it if it is missing, after a line that names it; else a missing file is an error.

        Raises:
            DataError: if it is missing, cannot be fetched, or is not the file that the sum names.
        """
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(self.url).name
        what = f"{self.url} ({self.size / 1e6:.0f} MB, SHA-256 {self.sha256})"
        if not path.is_file() and not download:
            raise DataError(f"{path} is missing: put {what} there, or allow the download (--download)")
        if not path.is_file():
            print(f"downloading {what} into {path.parent}", flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(self.url, str(path), hash_prefix=self.sha256, progress=False)
            except (OSError, RuntimeError) as error:
                raise DataError(f"{what} cannot be fetched: {error}") from error
        if (digest := file_sum(path)) != self.sha256:
            raise DataError(
                f"{path} is truncated or altered: its SHA-256 is {digest}, expected {self.sha256}; delete it"
            )
        return path


@dataclass(frozen=True)
class Kind:
    """A feature network as torch-fidelity knows it.

    Attributes:
        registered: its name in torch-fidelity's registry.
        layers: our name of each layer (``pool``, ``spatial``, ``logits``) and torch-fidelity's.
        resize: what it does to images before its first layer.
        weights: the file, or None if there is none.
    """

    registered: str
    layers: Mapping[str, str]
    resize: str
    weights: Weights | None = None


EXTRACTORS: dict[str, Kind] = {
    "inception": Kind(
        "ismkit-inception-adm",
        {"pool": "2048", "spatial": "spatial", "logits": "logits_unbiased"},
        "299 x 299, bilinear as TensorFlow 1 does it, without antialiasing",
        Weights(
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
            95_628_359,
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        ),
    ),
    "dinov2": Kind(
        "ismkit-dinov2-vit-l-14",
        {"pool": "dinov2"},
        "224 x 224, bilinear as TensorFlow 1 does it (torch-fidelity's; dgm-eval takes Pillow's bicubic)",
        Weights(
            "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
            1_217_586_395,
            "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        ),
    ),
    "small": Kind(
        "ismkit-small",
        {"pool": "pool", "spatial": "spatial", "logits": "logits"},
        "64 x 64, means of areas",
    ),
}


class SmallNet(nn.Module):
    """Two convolutions with fixed random weights, the same on every machine: features for tests, not for papers."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced below
            self.first = nn.Conv2d(3, 16, 4, stride=2)
            self.second = nn.Conv2d(16, 32, 4, stride=2)
            self.head = nn.Linear(48, 10)
        rng = stream(0, "small features")
        with torch.no_grad():
            for weight in self.parameters():  # He's initialisation: activations of order 1
                fan_in = weight[0].numel()
                weight.normal_(0, (2 / fan_in) ** 0.5 if weight.ndim > 1 else 0.1, generator=rng)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``pool`` (B, 48), ``spatial`` (B, 112) and ``logits`` (B, 10) of uint8 images (B, 3, H, W)."""
        x = F.adaptive_avg_pool2d(images.float() / 127.5 - 1, 64)  # (B, 3, 64, 64)
        first = self.first(x).relu()  # (B, 16, 31, 31)
        second = self.second(first).relu()  # (B, 32, 14, 14)
        pool = torch.cat([first.mean((2, 3)), second.mean((2, 3))], 1)  # (B, 48)
        spatial = F.adaptive_avg_pool2d(second[:, :SPATIAL_CHANNELS], 4).flatten(1)  # (B, 112)
        return {"pool": pool, "spatial": spatial, "logits": 4 * self.head(pool)}


@cache
def _register() -> None:
    """Make the three networks known to torch-fidelity, once per process."""
    from torch_fidelity import register_feature_extractor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Inception(FeatureExtractorBase):
        """torch-fidelity's port of the TensorFlow graph of FID, with ADM's spatial features as one more layer.

        ``spatial`` is ``mixed_6/conv``, the 1 x 1 branch of Mixed_6d behind its rectifier, of which ADM keeps the first
        7 channels; in TensorFlow's order (height, width, channel), which the published ``mu_s`` and ``sigma_s`` have.
        """

        def __init__(self, name: str, features_list: list[str], **options: Any) -> None:
            super().__init__(name, features_list)
            asked = [layer for layer in features_list if layer != "spatial"]
            self.net = FeatureExtractorInceptionV3("inception-v3-compat", asked or ["2048"], **options)

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            seen: list[Tensor] = []
            handle = self.net.Mixed_6d.branch1x1.register_forward_hook(lambda _, inputs, output: seen.append(output))
            try:
                found = self.net.convert_features_tuple_to_dict(self.net(images))
            finally:
                handle.remove()
            found["spatial"] = seen[0][:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1).float()
            return tuple(found[layer] for layer in self.features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return (*FeatureExtractorInceptionV3.get_provided_features_list(), "spatial")

    class DinoV2(FeatureExtractorDinoV2):
        """torch-fidelity's, which takes whatever code and weights are newest; here both are pinned."""

        def __init__(self, name: str, features_list: list[str], **options: Any) -> None:
            FeatureExtractorBase.__init__(self, name, features_list)
            self.feature_extractor_internal_dtype = torch.float32
            self.model = torch.hub.load(DINOV2_CODE, "dinov2_vitl14", pretrained=False, trust_repo=True, verbose=False)
            weights = torch.load(options["feature_extractor_weights_path"], map_location="cpu", weights_only=True)
            self.model.load_state_dict(weights)

    class Small(FeatureExtractorBase):
        """:class:`SmallNet` as torch-fidelity wants it."""

        def __init__(self, name: str, features_list: list[str], **options: Any) -> None:
            super().__init__(name, features_list)
            self.net = SmallNet()

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            found = self.net(images)
            return tuple(found[layer] for layer in self.features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("pool", "spatial", "logits")

    for name, cls in (("inception", Inception), ("dinov2", DinoV2), ("small", Small)):
        register_feature_extractor(EXTRACTORS[name].registered, cls)


class Extractor:
    """A feature network on its device: images in, features by layer out.

    Attributes:
        name: a key of ``EXTRACTORS``.
        identity: what figures depend on: name, layers, resize, SHA-256 of the weights, torch-fidelity's version.
    """

    def __init__(self, name: str, net: nn.Module, device: torch.device, sha256: str) -> None:
        kind = EXTRACTORS[name]
        self.name, self.net, self.device = name, net.to(device).eval().requires_grad_(False), device
        self.identity: dict[str, Any] = {
            "name": name,
            "layers": dict(kind.layers),
            "resize": kind.resize,
            "sha256": sha256,
            "torch_fidelity": version("torch-fidelity"),
        }

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Features by layer, each (B, F) float32 on the CPU, of images (B, 3, H, W).

        Raises:
            ValueError: unless the images are uint8 of three channels.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (B, 3, H, W) uint8, got {tuple(images.shape)} {images.dtype}")
        found = self.net(images.to(self.device))
        names = EXTRACTORS[self.name].layers
        return {layer: features.float().cpu() for layer, features in zip(names, found, strict=True)}


def load_extractor(name: str, device: torch.device | str = "cpu", *, download: bool = False) -> Extractor:
    """Load a feature network, created through torch-fidelity, its weights verified.

    Args:
        name: ``inception`` (FID, arXiv 1706.08500, sFID, IS, precision, recall), ``dinov2`` (FD-DINOv2, arXiv
            2306.04675) or ``small`` (tests).
        device: where it runs.
        download: fetch missing weights. DINOv2's code, at a pinned commit, is fetched by ``torch.hub`` where it is
            missing, in either case.

    Returns:
        The network: called with uint8 images (B, 3, H, W), it returns features by layer, each (B, F).

    Raises:
        ValueError: for another name.
        DataError: if the weights are missing or altered.

    Example:
        >>> import torch
        >>> from ismkit.evaluation import load_extractor
        >>> extractor = load_extractor("small")
        >>> features = extractor(torch.zeros(2, 3, 256, 256, dtype=torch.uint8))
        >>> {layer: tuple(values.shape) for layer, values in features.items()}
        {'pool': (2, 48), 'spatial': (2, 112), 'logits': (2, 10)}

        The network of FID is a file of 96 MB, fetched once:

        >>> inception = load_extractor("inception", download=True)  # doctest: +SKIP
    """
    check_name("extractor", name, EXTRACTORS)
    kind = EXTRACTORS[name]
    options: dict[str, Any] = {}
    if kind.weights is not None:
        if name == "dinov2" and download:
            print(f"DINOv2's code: {DINOV2_CODE}, by torch.hub unless it is there", flush=True)
        options["feature_extractor_weights_path"] = str(kind.weights.find(download=download))
    from torch_fidelity.utils import create_feature_extractor

    _register()
    layers = list(kind.layers.values())
    net = create_feature_extractor(kind.registered, layers, cuda=False, verbose=False, **options)
    return Extractor(name, net, torch.device(device), kind.weights.sha256 if kind.weights else _sum(net))


def _sum(net: nn.Module) -> str:
    """SHA-256 of a network's numbers."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
