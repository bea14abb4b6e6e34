"""FID, sFID, IS, precision, recall and FD-DINOv2 of samples on disk, each with the protocol that it depends on.

torch-fidelity gives the feature networks and the inception score. Fréchet distances are this kit's: torch-fidelity
takes the eigenvalues of a product of two covariances, a matrix that is not symmetric, and keeps the real parts of their
roots. Where a covariance is singular (fewer samples than features) each zero eigenvalue comes out at rounding size, and
its root far above it; :func:`ismkit.evaluation.metrics.frechet` never leaves symmetric matrices and stays at rounding.
Precision and recall are this kit's too, in float64 (ADM's suite computes distances in float16 first).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from ismkit.evaluation.extractors import Extractor
from ismkit.evaluation.judges import Setting
from ismkit.evaluation.metrics import Moments, frechet, precision_recall
from ismkit.evaluation.reference import Reference, real_features
from ismkit.evaluation.samples import SampleError, SampleSet, draw
from ismkit.method.path import Source
from ismkit.models.drawing import Decoder
from ismkit.utils.checks import as_tuple
from ismkit.utils.files import json_sum
from ismkit.utils.progress import progress_bar
from ismkit.utils.store import Store

NEIGHBOURS, SPLITS = 3, 10  # of precision and recall; of the inception score


class Metric(NamedTuple):
    """What a metric is called, which network's features it reads, and in which layer."""

    title: str
    extractor: str
    layer: str


#: The metrics that ``ismkit evaluate`` knows by name: title, feature network, and layer.
METRICS: dict[str, Metric] = {
    "fid": Metric("FID", "inception", "pool"),
    "sfid": Metric("sFID", "inception", "spatial"),
    "is": Metric("IS", "inception", "logits"),
    "precision": Metric("precision", "inception", "pool"),
    "recall": Metric("recall", "inception", "pool"),
    "fd_dinov2": Metric("FD-DINOv2", "dinov2", "pool"),
}


def choose(names: Sequence[str], features: str | None = None) -> dict[str, Metric]:
    """Choose metrics by name.

    Args:
        names: keys of :data:`METRICS`.
        features: name of a feature network that all of them read instead of their own; their titles then say so.

    Returns:
        The metrics by name, in the order of :data:`METRICS`.

    Raises:
        ValueError: for an unknown name.
    """
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"metrics must be among {', '.join(METRICS)}, got {unknown[0]!r}")
    found = {name: METRICS[name] for name in METRICS if name in names}
    if features is None:
        return found
    return {name: Metric(f"{metric.title} [{features}]", features, metric.layer) for name, metric in found.items()}


@dataclass(frozen=True)
class FeatureSet:
    """Features of a set of samples on disk, one for each file of samples.

    Attributes:
        folder: where they are.
        samples: what they are features of.
        key: sum of the feature network's identity.
    """

    folder: Path
    samples: SampleSet
    key: str

    def file(self, k: int) -> dict[str, Tensor]:
        """Features (m, F) by layer of file ``k``; SampleError if they are missing, altered or of other samples."""
        return self.store(k).read(f"{k:05}.safetensors").tensors

    def store(self, k: int) -> Store:
        """Where file ``k`` is kept: features of these samples, by this network."""
        identity = {"samples": self.samples.manifest["files"][k], "extractor": self.key}
        return Store(self.folder, identity, error=SampleError, remedy="delete it, and the next call makes it again")

    def layer(self, name: str) -> Iterator[Tensor]:
        """Features (m, F) of one layer, file by file."""
        return (self.file(k)[name] for k in range(self.samples.files))

    def moments(self, name: str) -> Moments:
        """Mean and covariance of one layer over all samples, in float64; one file is in memory at a time."""
        moments = Moments()
        for part in self.layer(name):
            moments.update(part)
        return moments


def embed(samples: SampleSet, extractor: Extractor, *, batch: int = 100, progress: bool | None = None) -> FeatureSet:
    """Run the feature network over a set, once: what is on disk is kept. Each process takes its share of the files."""
    key = json_sum(extractor.identity)
    folder = samples.folder / f"features-{extractor.name}-{key[:8]}"
    found, state = FeatureSet(folder, samples, key), PartialState()
    mine = range(state.process_index, samples.files, state.num_processes)
    show = False if not state.is_main_process else progress
    for k in progress_bar(mine, show=show, desc=f"features of {extractor.name}", unit="file"):
        store, name = found.store(k), f"{k:05}.safetensors"
        if name in store:
            continue
        images, _ = samples.file(k)
        parts = [extractor(part) for part in images.split(batch)]
        store.write(name, {}, {layer: torch.cat([part[layer] for part in parts]) for layer in parts[0]})
    state.wait_for_everyone()
    return found


def inception_score(logits: Tensor) -> float:
    """Exponential of the mean Kullback-Leibler divergence of p(y | x) from p(y), mean of ten parts (Salimans 2016).

    By torch-fidelity, in float64, the parts in the order of the samples; ``logits`` (n, classes) with n >= 10.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    if len(logits) < SPLITS:
        raise ValueError(f"the inception score takes {SPLITS} parts: at least as many samples, got {len(logits)}")
    return isc_features_to_metric(logits, splits=SPLITS, shuffle=False)[KEY_METRIC_ISC_MEAN]


@dataclass(frozen=True)
class ImageJudge:
    """Scores a model of image latents, setting by setting, and keeps samples and features.

    Metrics: FID (arXiv 1706.08500), sFID (arXiv 2103.03841), inception score (arXiv 1606.03498), precision and recall
    (arXiv 1904.06991), FD-DINOv2 (arXiv 2306.04675); see :data:`METRICS`.

    Attributes:
        vae: decodes the latents; on the device.
        metrics: of :func:`choose`.
        extractors: the feature networks that they read, by name.
        references: the statistics that they compare with, by the name of the feature network.
        folder: of all settings; each has its own in it.
        model: JSON that identifies the model: ``sha256`` of its file, and ``weights`` in words.
        batch: images at one time.
        per_file: samples per file.
        source: the distribution of the noise, that of the model's recipe.
        tf32: draw with products in TF32, as :func:`ismkit.evaluation.samples.draw` says.

    Example:
        A tiny model, scored in the features of the small network, which every figure then names:

        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from ismkit import DiT, ImageJudge, ImageVAE, SampleSet, Setting, write_tiny_vae
        >>> from ismkit.evaluation import load_extractor, make_reference
        >>> from ismkit.evaluation.fidelity import choose, embed
        >>> net = DiT(size=4, channels=4, patch=2, width=16, depth=1, heads=2, num_classes=3).eval()
        >>> small, rng = load_extractor("small"), torch.Generator().manual_seed(0)
        >>> real = [torch.randint(256, (20, 3, 32, 32), generator=rng, dtype=torch.uint8)]
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     vae = ImageVAE.load(write_tiny_vae(folder / "vae"))
        ...     reference = make_reference(real, small, folder / "real.safetensors", {}, progress=False)
        ...     metrics = choose(["fid", "precision"], features="small")
        ...     judge = ImageJudge(vae, metrics, {"small": small}, {"small": reference}, folder, {"sha256": "0"})
        ...     setting = Setting(nfe=1, w=0.0, n=20)
        ...     judge.check(net, [setting])
        ...     (row,) = judge.table(net, [setting])
        ...     features = embed(SampleSet.open(judge.place(setting)), small)  # on disk, and not made again
        ...     print(judge.score(net, setting) == judge.score_features({"small": features}))
        ...     print(judge.place(setting).name, judge.protocol(setting)["labels"])
        True
        nfe1_w0_n20_seed0 in turn: sample i has label i mod the number of classes (3)
        >>> metrics["fid"].title, row["nfe"], row["n"]
        ('FID [small]', 1, 20)
        >>> row["fid"] > 0.1, row["precision"]  # what an untrained model draws is nothing like noise of pixels
        (True, 0.0)
    """

    vae: Decoder
    metrics: Mapping[str, Metric]
    extractors: Mapping[str, Extractor]
    references: Mapping[str, Reference]
    folder: Path
    model: Mapping[str, Any]
    batch: int = 100
    per_file: int = 500
    source: Source | None = None
    tf32: bool = False

    def check(self, net: nn.Module, settings: Sequence[Setting]) -> None:
        """Refuse, before any work, what cannot be scored with what is here.

        Args:
            net: the network.
            settings: all that are wanted.

        Raises:
            ValueError: for a setting that the sampler cannot do with this network, too few samples, or a metric whose
                feature network or reference is missing or does not fit.
        """
        for setting in as_tuple("settings", settings, Setting):
            setting.check(net)
            if setting.n < SPLITS:
                raise ValueError(f"n must be at least {SPLITS} samples, got {setting.n}")
        for name, metric in self.metrics.items():
            if metric.extractor not in self.extractors:
                raise ValueError(f"{name} needs the feature network {metric.extractor}")
            if metric.layer == "logits":
                continue
            if (reference := self.references.get(metric.extractor)) is None:
                raise ValueError(f"{name} needs a reference in the features of {metric.extractor}: give --reference")
            size = self.extractors[metric.extractor](torch.zeros(1, 3, 64, 64, dtype=torch.uint8))[metric.layer].shape[
                1
            ]
            held = {layer: len(moments.mean) for layer, moments in reference.moments.items()}
            if held.get(metric.layer) != size:
                raise ValueError(f"{name}: {metric.extractor} has {size} features, {reference.path} has {held}")
            if name in ("precision", "recall") and reference.features is None and not reference.about.get("images"):
                raise ValueError(f"{name} needs features or images, {reference.path} has neither: leave it out")
            made = reference.about.get("extractor", {}).get("sha256")
            if made not in (None, self.extractors[metric.extractor].identity["sha256"]):
                raise ValueError(f"{reference.path} was made with other weights of {metric.extractor}: {made}")

    def place(self, setting: Setting) -> Path:
        """The folder of one setting."""
        products = "_tf32" if self.tf32 else ""
        return self.folder / f"nfe{setting.nfe}_w{setting.w:g}_n{setting.n}_seed{setting.seed}{products}"

    def score(self, net: nn.Module, setting: Setting) -> dict[str, float]:
        """All metrics of one setting. Under several processes each draws and embeds its share, the first one scores."""
        place = self.place(setting)
        options: dict[str, Any] = {"model": self.model, "batch": self.batch, "per_file": self.per_file}
        samples = draw(net, self.vae, setting, place, source=self.source, tf32=self.tf32, **options)
        used = dict.fromkeys(metric.extractor for metric in self.metrics.values())
        features = {name: embed(samples, self.extractors[name], batch=self.batch) for name in used}
        scores = [self.score_features(features) if PartialState().is_main_process else None]
        broadcast_object_list(scores)
        assert scores[0] is not None
        return scores[0]

    def score_features(self, features: Mapping[str, FeatureSet]) -> dict[str, float]:
        """Metrics by name from features by the name of the network."""
        scores: dict[str, float] = {}
        for name, (_, network, layer) in self.metrics.items():
            if name == "is":
                scores[name] = inception_score(torch.cat(list(features[network].layer(layer))))
            elif name in ("precision", "recall"):
                if name not in scores:
                    cache, extractor = self.folder, self.extractors[network]
                    real = real_features(self.references[network], extractor, cache).to(extractor.device)
                    drawn = torch.cat(list(features[network].layer(layer))).to(extractor.device)
                    pair = precision_recall(drawn, real, NEIGHBOURS)
                    scores |= dict(zip(("precision", "recall"), pair, strict=True))
            else:
                scores[name] = frechet(features[network].moments(layer), self.references[network].moments[layer])
        return {name: scores[name] for name in self.metrics}

    def table(self, net: nn.Module, settings: Sequence[Setting]) -> list[dict[str, Any]]:
        """Score a network in some settings.

        Args:
            net: in eval mode, on this process's device.
            settings: of the sampler.

        Returns:
            A row for each setting: ``nfe``, ``w``, ``n``, ``seed`` and the metrics by name.

        Raises:
            ValueError: before any work, if a setting cannot be scored.
        """
        self.check(net, settings)
        return [{**setting._asdict(), **self.score(net, setting)} for setting in settings]

    def protocol(self, setting: Setting) -> dict[str, str]:
        """All that the figures depend on beside NFE, w, n and the seed, in words, from the manifest of one setting."""
        held = SampleSet.open(self.place(setting)).manifest["set"]
        vae = " ".join(f"{key} {value}" for key, value in held["vae"].items() if value is not None)
        text = {
            "labels": f"{held['labels']} ({held['num_classes']})",
            **{key: held[key] for key in ("sampler", "noise", "source", "products", "rounding") if key in held},
            "model": f"SHA-256 {held['model']['sha256']}, {held['model'].get('weights', 'weights not described')}",
            "decoder": vae,
            "resolution": " x ".join(map(str, held["images"][1:])),
        }
        for name in dict.fromkeys(metric.extractor for metric in self.metrics.values()):
            identity = self.extractors[name].identity
            about = f"{', '.join(identity['layers'].values())}; torch-fidelity {identity['torch_fidelity']}"
            text[f"features of {name}"] = f"{about}; weights SHA-256 {identity['sha256']}"
            text[f"resize of {name}"] = identity["resize"]
            if reference := self.references.get(name):
                n = reference.about.get("images")
                many = f", {n} images" if type(n) is int else ""
                text[f"reference of {name}"] = (
                    f"{reference.about.get('source', 'source not stated')}{many}; SHA-256 {reference.sha256}"
                )
        if "is" in self.metrics:
            text["inception score"] = f"{SPLITS} parts in the order of the samples"
        if {"precision", "recall"} & set(self.metrics):
            text["precision and recall"] = f"k = {NEIGHBOURS}, float64, all samples against the reference's images"
        return text
