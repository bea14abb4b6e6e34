"""Clothes and emoji in two lines: what is drawn is the sampler's, decoded; no data set is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ismkit.data.colour import EMOJI
from ismkit.evaluation.scoring import evaluate
from ismkit.method.sampling import sample
from ismkit.models.drawing import draw_clothes, draw_emoji, draw_model, draw_pictures, draw_samples
from ismkit.models.nets import ToyMLP
from ismkit.models.saved import load_generator, released
from ismkit.models.spaces import SHAPE, SPACES, load_autoencoder, load_emoji_autoencoder
from ismkit.utils.seeding import stream


@pytest.fixture(autouse=True)
def _no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISMKIT_DATA", str(tmp_path))


def test_clothes_are_the_released_models_samples_decoded() -> None:
    images = draw_clothes([7, 8, 9], w=2.0, nfe=4, seed=3)
    x0 = torch.randn(3, *SHAPE, generator=stream(3, "samples"))
    latents = sample(released("ism_plus")[0], x0, torch.tensor([7, 8, 9]), w=2.0, nfe=4)
    assert torch.equal(images, load_autoencoder().decode(latents))
    assert not torch.equal(images, draw_clothes([7, 8, 9], w=2.0, nfe=4, seed=4))


def test_clothes_by_times_with_new_noise_and_from_another_source() -> None:
    net, y = released("ism_plus")[0], torch.tensor([7, 8, 9])
    x0 = torch.randn(3, *SHAPE, generator=stream(3, "samples"))
    latents = sample(net, x0, y, w=1.0, times=(0, 0.5, 0.75, 1))
    decode = load_autoencoder().decode
    assert torch.equal(draw_clothes(y, net, times=(0, 0.5, 0.75, 1), seed=3), decode(latents))
    latents = sample(net, x0, y, w=1.0, nfe=2, renoise=True, generator=stream(3, "renoise", 0))
    assert torch.equal(draw_clothes(y, net, nfe=2, renoise=True, seed=3), decode(latents))
    assert torch.equal(draw_samples(y, net, SHAPE, nfe=2, renoise=True, seed=3, paths=2)[1][-1], latents[:2])

    def zero(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.zeros(shape)

    assert torch.equal(draw_clothes(y, net, source=zero), decode(sample(net, torch.zeros(3, *SHAPE), y, w=1.0)))


def test_pictures_of_another_space_and_samples_of_any_shape() -> None:
    net = ToyMLP(dim=512, width=8, depth=1, num_classes=99).eval()
    images = draw_pictures("emoji", [3, 99], net, seed=1)
    assert images.shape == (2, 3, 32, 32)
    x0 = torch.randn(2, *SPACES["emoji"].shape, generator=stream(1, "samples"))
    assert torch.equal(images, SPACES["emoji"].load().decode(sample(net, x0, torch.tensor([3, 99]), w=1.0)))
    with pytest.raises(ValueError, match="space must be one of clothes, emoji, got 'cats'"):
        draw_pictures("cats", [3], net)
    with pytest.raises(ValueError, match=r"y must hold whole numbers in 0 \.\. 99"):
        draw_pictures("emoji", [100], net)


def test_emoji_are_the_released_models_samples_decoded_and_classes_have_names() -> None:
    images = draw_emoji(["cat-face", "heart"], w=2.0, nfe=2, seed=3)
    y = torch.tensor([EMOJI.index("cat-face"), EMOJI.index("heart")])
    x0 = torch.randn(2, *SPACES["emoji"].shape, generator=stream(3, "samples"))
    assert torch.equal(images, load_emoji_autoencoder().decode(sample(released("emoji")[0], x0, y, w=2.0, nfe=2)))
    assert torch.equal(draw_clothes(("Bag", "Coat")), draw_clothes([8, 4]))
    with pytest.raises(ValueError, match=r"y must be one of T-shirt/top, .*, got 'cat-face'"):
        draw_clothes(["Bag", "cat-face"])
    with pytest.raises(TypeError, match="y must hold numbers"):
        draw_clothes(["Bag", 1])


def test_one_step_at_the_guidance_of_the_card_is_the_default() -> None:
    assert torch.equal(draw_clothes([1, 2]), draw_clothes(torch.tensor([1, 2]), w=1.0, nfe=1, seed=0))


def test_a_network_of_ones_own_and_the_null_label() -> None:
    asked: list[Tensor] = []

    def net(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        asked.append(y)
        return torch.zeros_like(x)

    images = draw_clothes(torch.tensor([10, 0, 10]), net, batch=2)
    assert [y.tolist() for y in asked] == [[10, 0], [10]]
    torch.testing.assert_close(
        images, load_autoencoder().decode(torch.randn(3, *SHAPE, generator=stream(0, "samples"))), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("y", [[0.5], [11], [-1], torch.tensor([[1, 2]]), [], torch.tensor(3)])
def test_labels_that_are_none_are_refused_before_anything_is_loaded(y: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ismkit.models.drawing.load_generator", lambda: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=r"y must hold whole numbers in 0 \.\. 10, one per image, got"):
        draw_clothes(y)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_no_blank_sheet(bad: float) -> None:
    def net(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return torch.where((y == 3)[:, None, None, None], bad, x)

    with pytest.raises(ValueError, match=r"net draws NaN or infinity in 1 of 3 images at w = 1, 1 NFE: its weights"):
        draw_clothes([1, 2, 3], net)
    assert draw_clothes([1, 2], net).isfinite().all()


def test_a_strength_that_overflows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"net draws NaN or infinity in 10 of 10 images at w = 1e\+38"):
        draw_clothes(range(10), w=1e38)


def test_a_strength_far_beyond_those_of_the_training_is_warned_of_once() -> None:
    """Only the card knows the range."""
    with pytest.warns(
        UserWarning, match=r"ism_plus was trained on w from 0 to 3\.5: what it draws at w = 50"
    ) as warned:
        draw_model("ism_plus", ["Bag"], n=2, w=50.0)
    assert len(warned) == 1
    for model, w in (("ism_plus", 3.5), ("ism_plus", 5.0), ("shortcut_finest_level", 8.0)):
        assert draw_model(model, ["Bag"], n=1, w=w).samples.isfinite().all()


@pytest.mark.parametrize("call", [draw_model, evaluate, load_generator])
def test_a_mistyped_model_is_answered_with_the_names_the_nearest_first(call: Callable[[str], Any]) -> None:
    """It was "no .safetensors file"."""
    with pytest.raises(ValueError, match=r"model must be one of ism_plus, ism, .*, or a .* file, got 'ism_pl"):
        call("ism_pluss")


def test_one_name_is_one_picture() -> None:
    """It was "y must be numbers in a tensor"."""
    assert draw_clothes("Bag").equal(draw_clothes(["Bag"]))
    with pytest.raises(ValueError, match=r"y must be one of .*Bag.*, got 'Bagg'"):
        draw_clothes("Bagg")
