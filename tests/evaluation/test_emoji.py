"""The judge of emoji: known images get the scores that they must, and copies are found however they lie."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ismkit import ToyMLP, class_agreement, emoji, evaluate, save_model
from ismkit.data.colour import emoji_changes
from ismkit.data.pictures import balanced
from ismkit.evaluation.judges import JUDGES, EmojiJudge, FashionJudge, Setting, load_emoji_features
from ismkit.models.spaces import SPACES


def by_pixels(latents: Tensor) -> Tensor:
    """A decoder that needs no training."""
    return latents[:, :3].repeat_interleave(4, 2).repeat_interleave(4, 3).tanh()


@pytest.fixture(scope="module")
def judge() -> EmojiJudge:
    """One for all tests, so that the reference passes through the classifier once."""
    decoder = SimpleNamespace(decode=by_pixels, shape=(3, 32, 32), latent=(8, 8, 8))
    return EmojiJudge(load_emoji_features(), decoder, torch.device("cpu"))  # type: ignore[arg-type]


def test_each_space_has_its_judge() -> None:
    assert {"clothes": FashionJudge, "emoji": EmojiJudge} == JUDGES


def test_drawings_score_as_drawings_and_grey_ones_do_not(judge: EmojiJudge) -> None:
    data = balanced(emoji(), 20, seed=5, changes=emoji_changes())
    own = judge.score_images(data.x, data.y)
    assert own["frechet"] < 0.5
    assert own["agreement"] > 0.99
    assert min(own["precision"], own["recall"]) > 0.8
    grey = judge.score_images(data.x.mean(1, keepdim=True).expand(-1, 3, -1, -1), data.y)
    assert grey["frechet"] > 10
    noise = torch.randn(len(data), 3, 32, 32, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    scored = judge.score_images(noise, data.y)
    assert scored["frechet"] > 30
    assert scored["agreement"] < 0.05


def test_a_model_of_emoji_is_found_and_scored_as_such(judge: EmojiJudge, tmp_path: Path) -> None:
    """By `evaluate`, from a file: the numbers are those of the judge with the released autoencoder."""
    net = ToyMLP(dim=512, width=8, depth=1, num_classes=99).eval()
    save_model(net, tmp_path / "model.safetensors", {"shape": [8, 8, 8]})
    (row,) = evaluate(tmp_path / "model.safetensors", nfe=[1], w=[0.0], n=100, device="cpu").rows
    own = EmojiJudge(judge.classifier, SPACES["emoji"].load(), judge.device)
    vars(own).update(_of_the_reference=judge._of_the_reference)
    assert row == {"nfe": 1, "w": 0.0, "n": 100, **own.score(net, Setting(1, 0.0, 100, 0))}


def test_copies_are_found_shifted_and_mirrored(judge: EmojiJudge) -> None:
    x = emoji("train").x[::280]
    moved = torch.full_like(x, 1.0)
    moved[..., 1:, :-1] = x[..., :-1, 1:]
    for copies in (x, x.flip(3), moved):
        found = judge.copying(copies)
        # What a shift pushes over the edge is lost: of some drawings a moved one is no copy to the last pixel.
        assert found["nearest"] < 1e-6
        assert found["copied"] > 0.9
    blurred = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    assert judge.copying(x)["nearest"] < judge.copying(blurred)["nearest"] < judge.copying(-x)["nearest"]


def test_the_distance_is_the_root_of_the_mean_square(judge: EmojiJudge) -> None:
    """By hand, for one image: over all drawings, shifts and mirrors."""
    image = emoji("test").x[100:101]
    train = emoji("train").x
    wide = torch.nn.functional.pad(train, (1, 1, 1, 1), value=1.0)
    least = min(
        float((way - image).double().square().mean((1, 2, 3)).min())
        for down in range(3)
        for right in range(3)
        for shifted in [wide[..., down : down + 32, right : right + 32]]
        for way in (shifted, shifted.flip(3))
    )
    assert judge.copying(image)["nearest"] == pytest.approx(least**0.5, rel=1e-5)


def test_drawings_kept_apart_are_copies_by_definition_of_one_in_twenty(judge: EmojiJudge) -> None:
    found = judge.copying(emoji("test").x)
    assert found["copied"] == pytest.approx(0.05, abs=0.005)
    assert found["nearest"] == found["kept_apart"] > 0.1


def test_colour_is_measured_beside_the_drawings_by_the_definitions(judge: EmojiJudge) -> None:
    x, drawings = emoji("test").x[::10], balanced(emoji(), 10).x

    def by_hand(images: Tensor) -> tuple[float, float]:
        red, green, blue = images.double().unbind(1)
        spread = torch.stack([(a - b).abs() for a, b in ((red, green), (green, blue), (blue, red))]).amax(0)
        brightness = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        return float(spread.mean()), float((brightness - brightness.mean()).square().mean().sqrt())

    mine, theirs = by_hand(x), by_hand(drawings)
    expected = {"saturation": mine[0] / theirs[0], "contrast": mine[1] / theirs[1]}
    assert judge.colour(x) == pytest.approx(expected, rel=1e-4)
    assert judge.colour(drawings) == {"saturation": 1.0, "contrast": 1.0}
    half = judge.colour(drawings / 2)
    assert half == pytest.approx({"saturation": 0.5, "contrast": 0.5}, rel=1e-5)


def test_images_of_another_shape_are_refused(judge: EmojiJudge) -> None:
    with pytest.raises(ValueError, match=r"images must be \(n, 3, 32, 32\), got \(2, 1, 32, 32\)"):
        judge.copying(torch.zeros(2, 1, 32, 32))
    with pytest.raises(ValueError, match=r"images must be \(n, 3, 32, 32\), got \(0, 3, 32, 32\)"):
        judge.colour(torch.zeros(0, 3, 32, 32))
    with pytest.raises(ValueError, match=r"data must be latents of emoji, \(n, 8, 8, 8\) in 99 classes"):
        EmojiJudge.check_data(emoji())


def test_the_classifier_knows_the_drawings_apart() -> None:
    net, data = load_emoji_features(), emoji()
    with torch.no_grad():
        assert class_agreement(net(data.x[::10]), data.y[::10]) > 0.98
