"""Feature networks: weights are verified before they are read, layers are those that the metrics name."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ismkit.evaluation import extractors
from ismkit.evaluation.extractors import DINOV2_CODE, EXTRACTORS, Extractor, Weights, load_extractor
from ismkit.utils.files import DataError
from tests.images import pictures


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch keeps weights: a folder of the test's own."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def put(monkeypatch: pytest.MonkeyPatch, name: str, hub: Path, state: dict[str, Tensor]) -> Path:
    """Weights of our own in the place of the published ones, with their sum."""
    weights = EXTRACTORS[name].weights
    assert weights is not None
    path = hub / Path(weights.url).name
    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    kind = replace(EXTRACTORS[name], weights=replace(weights, sha256=digest))
    monkeypatch.setitem(extractors.EXTRACTORS, name, kind)
    return path


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("name", ["inception", "dinov2"])
def test_missing_weights_are_named_with_their_sum_and_not_fetched(name: str, hub: Path) -> None:
    weights = EXTRACTORS[name].weights
    assert weights is not None
    with pytest.raises(DataError, match=r"is missing: put https://.* there, or allow the download") as caught:
        load_extractor(name)
    assert weights.sha256 in str(caught.value)
    assert weights.url in str(caught.value)
    assert len(weights.sha256) == 64
    assert Path(weights.url).name in str(caught.value)


def test_sum_of_inception_begins_as_its_name_says() -> None:
    weights = EXTRACTORS["inception"].weights
    assert weights is not None
    assert f"-{weights.sha256[:8]}.pth" in weights.url
    assert "@" not in DINOV2_CODE
    assert len(DINOV2_CODE.partition(":")[2]) == 40  # a commit, and no branch


def test_download_is_announced_and_verified(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = Weights("https://example.org/w.pth", 3, hashlib.sha256(b"abc").hexdigest())
    said: list[str] = []

    def fetch(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        said.append(capsys.readouterr().out)
        assert (url, hash_prefix) == (weights.url, weights.sha256)
        Path(path).write_bytes(b"abc")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    assert weights.find(download=True).read_bytes() == b"abc"
    assert weights.url in said[0]
    assert weights.sha256 in said[0]
    assert weights.find() == hub / "w.pth"
    assert len(said) == 1  # what is there is not fetched again
    (hub / "w.pth").write_bytes(b"abd")
    for download in (False, True):
        with pytest.raises(DataError, match=r"w\.pth is truncated or altered: its SHA-256 is"):
            weights.find(download=download)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    (hub / "w.pth").unlink()
    with pytest.raises(DataError, match="cannot be fetched: no route to host"):
        weights.find(download=True)


def test_altered_weights_are_not_read(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(monkeypatch, "inception", hub, {})
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(DataError, match="is truncated or altered"):
        load_extractor("inception")


# ---------------------------------------------------------------- features


@pytest.fixture
def inception(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Extractor:
    """Inception with random weights, in a file that it is loaded from as the published one is."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    with monkeypatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        state = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).state_dict()
    put(monkeypatch, "inception", hub, state)
    return load_extractor("inception")


def test_inception_gives_the_layers_of_fid_sfid_and_is(inception: Extractor) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    images = pictures(2, 32)
    found = inception(images)
    assert {layer: tuple(values.shape) for layer, values in found.items()} == {
        "pool": (2, 2048),
        "spatial": (2, 2023),
        "logits": (2, 1008),
    }
    # Another way to mixed_6/conv: block by block, then the first channels of all of Mixed_6d, which begins with it.
    net = inception.net.net
    x = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(299, 299), align_corners=False) / 128 - 1
    names = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]
    names += ["MaxPool_2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d"]
    with torch.no_grad():
        for name in names:
            x = getattr(net, name)(x)
        assert x.shape == (2, 768, 17, 17)
        expected = x[:, :7].permute(0, 2, 3, 1).reshape(2, 2023)  # as TensorFlow lays it out: height, width, channel
        torch.testing.assert_close(found["spatial"], expected, rtol=1e-4, atol=1e-6)
        for name in ("Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c"):
            x = getattr(net, name)(x)
        pool = x.mean((2, 3))
    torch.testing.assert_close(found["pool"], pool, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["logits"], pool @ net.fc.weight.T, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0


class Tiny(nn.Module):
    """In the place of the vision transformer: means of the three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == (3, 224, 224)
        return self.scale * x.mean((2, 3))


def test_dinov2_is_pinned_and_normalised(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def load(*args: Any, **options: Any) -> nn.Module:
        calls.append((args, options["pretrained"]))
        return Tiny()

    monkeypatch.setattr(torch.hub, "load", load)
    put(monkeypatch, "dinov2", hub, {"scale": torch.tensor([1.0, 2.0, 3.0])})
    extractor = load_extractor("dinov2")
    assert calls == [((DINOV2_CODE, "dinov2_vitl14"), False)]
    flat = torch.tensor([10, 100, 200], dtype=torch.uint8)[None, :, None, None].expand(2, 3, 16, 16)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # of ImageNet
    expected = (torch.tensor([10.0, 100, 200]) / 255 - mean) / std * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(extractor(flat)["pool"], expected.expand(2, 3), rtol=1e-4, atol=1e-4)


def test_small_network_is_the_same_everywhere_and_leaves_the_global_generator_alone(small: Extractor) -> None:
    before = torch.get_rng_state()
    again = load_extractor("small")
    assert torch.equal(torch.get_rng_state(), before)
    assert again.identity == small.identity
    images = pictures(5, 32)
    found = small(images)
    assert {layer: tuple(values.shape) for layer, values in found.items()} == {
        "pool": (5, 48),
        "spatial": (5, 112),
        "logits": (5, 10),
    }
    for layer, values in again(images).items():
        assert torch.equal(values, found[layer])
        alone = torch.cat([small(image[None])[layer] for image in images])
        torch.testing.assert_close(alone, values, rtol=1e-5, atol=1e-6)
        assert values.std(0).min() >= 0
        assert values.std(0).max() > 0.01  # it tells pictures apart


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)])
def test_only_uint8_of_three_channels(images: Tensor, small: Extractor) -> None:
    with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\) uint8"):
        small(images)


def test_unknown_network() -> None:
    with pytest.raises(ValueError, match="extractor must be one of inception, dinov2, small, got 'vgg'"):
        load_extractor("vgg")
