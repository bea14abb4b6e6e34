"""The judges on a device that stands for a GPU: all of it runs there, and the scores are those of the CPU."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from ismkit.data.colour import emoji
from ismkit.data.fashion import fashion_mnist
from ismkit.data.sets import Labelled, eight_gaussians
from ismkit.evaluation.extractors import load_extractor
from ismkit.evaluation.fidelity import METRICS, ImageJudge, choose
from ismkit.evaluation.judges import EmojiJudge, FashionJudge, FeatureJudge, PointJudge, Setting, embed
from ismkit.evaluation.metrics import Moments, radial_spectrum
from ismkit.evaluation.reference import make_reference
from ismkit.imagenet.vae import ImageVAE, write_tiny_vae
from ismkit.models.saved import released
from ismkit.utils.seeding import stream
from tests.fake_cuda import CUDA, accelerator, fake_cuda, reset_accelerate
from tests.images import MODEL, pictures, tiny_dit
from tests.steps import network

pytestmark = pytest.mark.usefixtures(reset_accelerate.__name__)
T = TypeVar("T")


def on_both(run: Callable[[str], T]) -> tuple[T, T]:
    """The results on the CPU and on the other device."""
    accelerator("cpu")
    here = run("cpu")
    with fake_cuda():
        accelerator("cuda")
        return here, run("cuda")


def test_points_are_scored_as_on_the_cpu() -> None:
    pytest.importorskip("ot")

    def score(device: str) -> dict[str, float]:
        judge = PointJudge(eight_gaussians(256, 0), torch.device(device))
        return judge.score(network("points", classes=8).eval().to(device), Setting(4, 1.0, 64))

    here, there = on_both(score)
    assert there == pytest.approx(here, rel=1e-4)


def test_clothes_are_drawn_and_scored_as_on_the_cpu() -> None:
    y, few = torch.arange(60) % 10, fashion_mnist("test").x[:120]
    generator, _ = released("ism_plus")  # here, for a model is built on the device ``meta`` first

    def score(device: str) -> dict[str, float]:
        judge, net = FashionJudge.load(device), copy.deepcopy(generator).to(device)
        real = embed(judge.classifier, few.to(device))[0]
        vars(judge).update(_real=real, _real_moments=Moments(real))  # else of all 10 000 images
        images = judge.draw(net, y, w=1.0, nfe=2)
        assert images.device.type == device
        return judge.score_images(images, y)

    here, there = on_both(score)
    assert there == pytest.approx(here, rel=1e-3)


def test_emoji_are_drawn_and_scored_as_on_the_cpu() -> None:
    y, few = torch.arange(24) % 99, emoji("test").x[:48]
    generator, _ = released("emoji")

    def score(device: str) -> dict[str, float]:
        judge, net = EmojiJudge.load(device), copy.deepcopy(generator).to(device)
        real = embed(judge.classifier, few.to(device))[0]
        of_the_drawings = (real, radial_spectrum(few)[1])
        vars(judge).update(_of_the_reference=of_the_drawings, _colour_of_drawings=(0.4, 0.6))  # else of all drawings
        images = judge.draw(net, y, w=1.0, nfe=1)
        assert images.device.type == device
        return {**judge.score_images(images, y), **judge.colour(images)}

    here, there = on_both(score)
    assert there == pytest.approx(here, rel=1e-3)


def test_features_of_your_own_are_scored_as_on_the_cpu() -> None:
    images = torch.randn(60, 2, 8, 8, generator=stream(0, "images"))

    def features(x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)

    def score(device: str) -> dict[str, float]:
        judge = FeatureJudge(Labelled(images, torch.arange(60) % 3, 3, ("a", "b", "c")), features, torch.device(device))
        return judge.score(network("images").eval().to(device), Setting(2, 1.0, 40))

    here, there = on_both(score)
    assert there == pytest.approx(here, rel=1e-3)


def test_images_are_drawn_embedded_and_scored_as_on_the_cpu(tmp_path: Path) -> None:
    vae = ImageVAE.load(write_tiny_vae(tmp_path / "vae"))  # here, for diffusers loads through the device ``meta``

    def score(device: str) -> dict[str, Any]:
        folder = tmp_path / device
        small = load_extractor("small", device)
        reference = make_reference([pictures(60)], small, folder / "real.safetensors", {"source": "tests"})
        decoder, metrics = copy.deepcopy(vae).to(device), choose(list(METRICS), "small")
        judge = ImageJudge(decoder, metrics, {"small": small}, {"small": reference}, folder, MODEL, 10, 20)
        (row,) = judge.table(tiny_dit().eval().to(device), [Setting(1, 1.0, 20)])
        return row

    here, there = on_both(score)
    assert there == pytest.approx(here, rel=1e-3)


def test_features_come_back_to_the_cpu() -> None:
    with fake_cuda():
        extractor = load_extractor("small", "cuda")
        assert {weight.device for weight in extractor.net.parameters()} == {CUDA}
        assert {values.device.type for values in extractor(pictures(3)).values()} == {"cpu"}
