"""The feature classifier: the released weights do what their card says, and training is what made them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ismkit.data.fashion import fashion_mnist
from ismkit.data.sets import Labelled
from ismkit.evaluation import judges
from ismkit.evaluation.judges import FeatureNet, accuracy, embed, load_features, train_features
from ismkit.utils.files import weights_file
from ismkit.utils.weights import CheckpointError, load_weights, save_weights

WEIGHTS = weights_file("fashion_features")


def stripes(n: int, classes: int = 10) -> Labelled:
    """Images of class k: a white row at height 2 k + 2 under noise."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % classes
    x = 0.2 * torch.randn(n, 1, 28, 28, generator=generator) - 0.8
    x[torch.arange(n), 0, 2 * y + 2] += 1.5
    return Labelled(x, y, classes, tuple(map(str, range(classes))))


def test_shipped_weights_reach_their_recorded_accuracy() -> None:
    """The full test split, which the training has not seen; arithmetic may move a few borderline images."""
    test = fashion_mnist("test")
    measured = accuracy(load_features(), test)
    assert measured >= 0.91
    metadata = load_weights(FeatureNet(), WEIGHTS)
    assert measured == pytest.approx(float(metadata["accuracy"]), abs=5e-4)
    assert metadata["licence"] == "Apache-2.0"
    card = (WEIGHTS.parent / "README.md").read_text()
    assert judges.FEATURES_SHA256 in card
    assert f"{100 * float(metadata['accuracy']):.2f} %" in card


def test_shipped_features_are_alive_and_normalised() -> None:
    """Mean 0 and variance 1, loosely: the normalisation saw dropout, and other averages of the weights."""
    values, _ = embed(load_features(), fashion_mnist("train").x[:4000])
    assert values.shape == (4000, 64)
    assert values.mean(dim=0).abs().max() < 0.25
    assert values.std(dim=0).min() > 0.5
    assert values.std(dim=0).max() < 1.5


def test_shipped_weights_are_small_and_single_precision() -> None:
    assert WEIGHTS.stat().st_size < 2_000_000
    assert {p.dtype for p in load_features().parameters()} == {torch.float32}


def test_logits_come_from_the_features_alone() -> None:
    net, x = FeatureNet().eval(), torch.randn(7, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    values, logits = embed(net, x, batch_size=3)
    with torch.no_grad():
        torch.testing.assert_close(values, net.features(x))
        torch.testing.assert_close(logits, net(x))
        by_hand = values.clamp(min=0) @ net.head.weight.T + net.head.bias
    torch.testing.assert_close(logits, by_hand)


def test_training_learns_repeats_and_leaves_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    first, other = (train_features(stripes(320), epochs=3, seed=s, batch_size=32) for s in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)  # what the caller drew before must not matter
    again = train_features(stripes(320), epochs=3, seed=0, batch_size=32)
    assert not first.training
    assert accuracy(first, stripes(200)) > 0.9
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.head.weight, other.head.weight)


def test_accuracy_counts() -> None:
    net, data = FeatureNet().eval(), stripes(50)
    hits = sum(int(net(data.x[i : i + 1]).argmax()) == int(data.y[i]) for i in range(50))
    assert accuracy(net, data) == pytest.approx(hits / 50)


def test_other_sizes_and_classes_have_a_network_of_their_own() -> None:
    for shape, classes in (((3, 32, 32), 99), ((1, 17, 17), 3)):
        net = FeatureNet(shape, classes).eval()
        assert net(torch.zeros(2, *shape)).shape == (2, classes)
        assert net.features(torch.zeros(2, *shape)).shape == (2, 64)


def test_saved_weights_load_again(tmp_path: Path) -> None:
    net = FeatureNet().eval()
    save_weights(net, tmp_path / "net.safetensors", {})
    for name, value in load_features(tmp_path / "net.safetensors").state_dict().items():
        assert torch.equal(value, net.state_dict()[name])


def test_altered_and_missing_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ismkit.utils.files.WEIGHTS", tmp_path)
    with pytest.raises(CheckpointError, match=r"fashion_features\.safetensors"):
        load_features()
    content = bytearray(WEIGHTS.read_bytes())
    content[-1] ^= 1
    (tmp_path / WEIGHTS.name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"(?s)fashion_features\.safetensors.*{judges.FEATURES_SHA256}"):
        load_features()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FeatureNet()(torch.zeros(2, 1, 32, 32)), "x must be (B, 1, 28, 28), got (2, 1, 32, 32)"),
        (lambda: embed(FeatureNet(), torch.zeros(2, 1, 28, 28)), "net must be in eval mode, call net.eval()"),
        (lambda: train_features(stripes(20), epochs=0), "epochs must be at least 1, got 0"),
        (
            lambda: train_features(Labelled.of(torch.zeros(4, 2))),
            "data must hold images (n, C, H, H) of at least 8 x 8",
        ),
        (lambda: train_features(stripes(20), batch_size=32), "batch_size 32 x micro_batches 1 exceeds the 20 samples"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
