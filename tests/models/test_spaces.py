"""The small latent space: exact geometry and scaling, a cache that is verified, and the released autoencoder."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ismkit.data.colour import emoji
from ismkit.data.fashion import CLOTHES, fashion_mnist
from ismkit.data.pictures import balanced
from ismkit.data.sets import Labelled
from ismkit.evaluation.judges import EmojiJudge
from ismkit.models import spaces
from ismkit.models.autoencoder import in_batches, reconstruction_error, train_autoencoder
from ismkit.models.spaces import (
    SHAPE,
    FashionAutoencoder,
    emoji_latents,
    fashion_latents,
    load_autoencoder,
    load_emoji_autoencoder,
)
from ismkit.utils.files import DataError, weights_file
from ismkit.utils.weights import CheckpointError, load_weights, read_weights, save_weights

WEIGHTS = weights_file("fashion_autoencoder")


def images(n: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed)) - 1


@pytest.fixture(scope="module")
def fresh() -> FashionAutoencoder:
    """An untrained autoencoder with a scaling that is not the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        autoencoder = FashionAutoencoder()
    autoencoder.mean.copy_(torch.tensor([0.5, -2.0, 0.0, 3.0]))
    autoencoder.std.copy_(torch.tensor([0.25, 1.0, 4.0, 1.5]))
    return autoencoder.eval().requires_grad_(False)


class Stub(nn.Module):
    """In place of the convolutions: keep one number of ``block`` x ``block``, and repeat it to decode."""

    def __init__(self, block: int) -> None:
        super().__init__()
        self.block = block

    def encode(self, x: Tensor) -> Any:
        return SimpleNamespace(mean=x[..., :: self.block, :: self.block])

    def decode(self, z: Tensor) -> Tensor:
        return z.repeat_interleave(self.block, -1).repeat_interleave(self.block, -2)


@pytest.fixture
def stubbed(fresh: FashionAutoencoder) -> Iterator[FashionAutoencoder]:
    vae, fresh.vae = fresh.vae, Stub(1)
    yield fresh
    fresh.vae = vae


# ---------------------------------------------------------------- geometry and scaling


def test_shapes(fresh: FashionAutoencoder) -> None:
    z = fresh.encode(images(3))
    assert z.shape == (3, *SHAPE)
    assert z.is_contiguous()  # as from a file: another layout can give other bits downstream
    assert fresh.decode(z).shape == (3, 1, 28, 28)


def test_padding_and_blocks_place_every_pixel(stubbed: FashionAutoencoder) -> None:
    x = images(2)
    inside = stubbed.posterior(x).mean
    assert inside.shape == (2, 4, 16, 16)
    for channel in range(4):
        for row in range(16):
            for column in range(16):
                i, j = 2 * row + channel // 2 - 2, 2 * column + channel % 2 - 2
                expected = x[:, 0, i, j] if 0 <= i < 28 and 0 <= j < 28 else torch.full((2,), -1.0)
                assert torch.equal(inside[:, channel, row, column], expected)


def test_reconstruct_undoes_the_geometry_exactly(stubbed: FashionAutoencoder) -> None:
    x = images(4)
    assert torch.equal(stubbed.reconstruct(stubbed.posterior(x).mean), x)
    assert torch.equal(stubbed.reconstruct(3 * stubbed.posterior(x).mean), 3 * x)  # not clamped


def test_latents_are_the_standardised_posterior_means(fresh: FashionAutoencoder) -> None:
    x = images(3)
    means, z = fresh.posterior(x).mean, fresh.encode(x)
    for channel in range(4):
        expected = (means[:, channel] - fresh.mean[channel]) / fresh.std[channel]
        assert torch.equal(z[:, channel], expected)


def test_decode_takes_the_scaling_back(fresh: FashionAutoencoder) -> None:
    z = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    unscaled = torch.stack([z[:, c] * fresh.std[c] + fresh.mean[c] for c in range(4)], 1)
    assert torch.equal(fresh.decode(z), fresh.reconstruct(unscaled).clamp(-1, 1))


def test_decode_inverts_encode_around_an_invertible_network(stubbed: FashionAutoencoder) -> None:
    """Images of equal 4 x 4 blocks, of which the stub loses nothing; the outermost blocks hold the margin too."""
    stubbed.vae = Stub(2)
    x = torch.full((3, 1, 28, 28), -1.0)
    x[..., 2:-2, 2:-2] = images(3)[..., :6, :6].repeat_interleave(4, -1).repeat_interleave(4, -2)
    z = stubbed.encode(x)
    assert z.shape == (3, *SHAPE)
    # Rounding: three operations on numbers up to 3 + 1, undone by three more.
    torch.testing.assert_close(stubbed.decode(z), x, rtol=0, atol=8 * 4 * torch.finfo(torch.float32).eps)
    assert stubbed.decode(100 * z).abs().max() == 1  # clamped


def test_wrong_shapes_are_refused(fresh: FashionAutoencoder) -> None:
    for bad in (torch.zeros(2, 1, 32, 32), torch.zeros(2, 3, 28, 28), torch.zeros(1, 28, 28)):
        with pytest.raises(ValueError, match=r"images must have shape \(B, 1, 28, 28\) with B >= 1, got"):
            fresh.encode(bad)
    for bad in (torch.zeros(2, 4, 16, 16), torch.zeros(2, 1, 8, 8), torch.zeros(4, 8, 8)):
        with pytest.raises(ValueError, match=r"latents must have shape \(B, 4, 8, 8\) with B >= 1, got"):
            fresh.decode(bad)


def test_in_batches_keeps_order_and_makes_no_graph() -> None:
    x = torch.arange(11.0, requires_grad=True)[:, None]
    seen: list[int] = []

    def double(part: Tensor) -> Tensor:
        seen.append(len(part))
        return 2 * part

    result = in_batches(double, x, batch=4)
    assert torch.equal(result, 2 * x)
    assert seen == [4, 4, 3]
    assert not result.requires_grad


# ---------------------------------------------------------------- the encoded set and its cache


@pytest.fixture
def small(fresh: FashionAutoencoder, monkeypatch: pytest.MonkeyPatch) -> Labelled:
    """Thirty images in place of the training set, a fresh autoencoder in place of the released one."""
    data = Labelled(images(30), torch.arange(30) % 10, 10, CLOTHES)
    monkeypatch.setattr(spaces, "fashion_mnist", {"train": data}.__getitem__)
    monkeypatch.setattr(spaces, "load_autoencoder", lambda: fresh)
    monkeypatch.setattr(spaces, "WEIGHTS_SHA256", "0123456789abcdef" * 4)
    return data


def no_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaces, "load_autoencoder", lambda: pytest.fail("encoded, though the cache has it"))


def test_latents_are_cached_and_read_back_bit_for_bit(
    small: Labelled, fresh: FashionAutoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "new" / "cache"
    first = fashion_latents(cache, progress=False)
    assert torch.equal(first.x, fresh.encode(small.x))
    (path,) = cache.iterdir()
    assert path.name == "fashion_latents_0123456789ab.safetensors"

    no_encoding(monkeypatch)
    again = fashion_latents(cache, progress=False)
    assert torch.equal(again.x, first.x)
    assert again.x.stride() == first.x.stride()  # the first run and the next ones must train alike
    for data in (first, again):
        assert torch.equal(data.y, small.y)
        assert (data.num_classes, data.class_names) == (10, CLOTHES)


def test_cache_of_another_autoencoder_is_not_used(
    small: Labelled, fresh: FashionAutoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fashion_latents(tmp_path, progress=False)
    monkeypatch.setattr(spaces, "WEIGHTS_SHA256", "f" * 64)
    other = deepcopy(fresh)
    other.mean += 1
    monkeypatch.setattr(spaces, "load_autoencoder", lambda: other)
    assert torch.equal(fashion_latents(tmp_path, progress=False).x, other.encode(small.x))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("where", ["first number", "last number", "truncated", "other images", "no safetensors"])
def test_altered_cache_is_refused(where: str, small: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fashion_latents(tmp_path, progress=False)
    (path,) = tmp_path.iterdir()
    whole = bytearray(path.read_bytes())
    if where == "other images":
        fewer = Labelled(small.x[:20], small.y[:20], 10, CLOTHES)
        monkeypatch.setattr(spaces, "fashion_mnist", {"train": fewer}.__getitem__)
    else:
        size = 30 * 4 * 8 * 8 * 4  # the header comes first, the numbers last
        flip = {"first number": -size, "last number": -1, "no safetensors": 0}.get(where)
        if flip is not None:
            whole[flip] ^= 1
        path.write_bytes(whole if where != "truncated" else whole[:-10])
    no_encoding(monkeypatch)
    with pytest.raises(DataError, match="delete the file, and the next run makes it again") as caught:
        fashion_latents(tmp_path, progress=False)
    assert str(path) in str(caught.value)


def test_count_encodes_the_first_images_and_writes_nothing(
    small: Labelled, fresh: FashionAutoencoder, tmp_path: Path
) -> None:
    part = fashion_latents(tmp_path, 7, progress=False)
    assert torch.equal(part.x, fresh.encode(small.x[:7]))
    assert torch.equal(part.y, small.y[:7])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [0, -5, 31])
@pytest.mark.usefixtures("small")
def test_count_out_of_range_is_refused(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_encoding(monkeypatch)
    with pytest.raises(ValueError, match=rf"count must be 1 \.\. 30 images, got {count}"):
        fashion_latents(tmp_path, count, progress=False)


# ---------------------------------------------------------------- training, and the released weights


def test_training_standardises_the_latents_and_leaves_the_global_generator_alone() -> None:
    x = images(24)
    before = torch.get_rng_state()
    first, again, other = (train_autoencoder(FashionAutoencoder, x, steps=3, batch=8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    z = first.encode(x).detach().double()
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(4).double(), rtol=1e-4, atol=0)
    assert not first.training
    same, differ = (
        [torch.equal(a, b) for a, b in zip(first.state_dict().values(), net.state_dict().values(), strict=True)]
        for net in (again, other)
    )
    assert all(same)
    assert not all(differ)


def squares() -> Tensor:
    """Four pictures of one bright square each."""
    x = torch.full((4, 1, 28, 28), -1.0)
    for k in range(4):
        x[k, 0, 4 + 4 * k : 14 + 4 * k, 6:20] = 1.0
    return x


def test_training_lowers_the_error() -> None:
    """Over eight seeds 25 steps left 14 to 25 % of the error."""
    x = squares()
    early, late = (
        reconstruction_error(train_autoencoder(FashionAutoencoder, x, steps=steps, batch=8), x) for steps in (1, 25)
    )
    assert late < 0.5 * early


def test_weight_of_the_divergence_pulls_the_posterior_to_the_standard_normal() -> None:
    """Over six seeds a weight of 30 left 6 to 11 % of the divergence."""
    x = squares()
    free, pulled = (
        train_autoencoder(FashionAutoencoder, x, steps=15, batch=8, kl=kl).posterior(x).kl().mean()
        for kl in (0.0, 30.0)
    )
    assert pulled < 0.3 * free


@pytest.mark.parametrize("steps", [0, -1])
def test_training_without_steps_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps must be at least 1, got {steps}"):
        train_autoencoder(FashionAutoencoder, images(4), steps=steps)


def test_reconstruction_error_is_the_mean_square(fresh: FashionAutoencoder) -> None:
    x = images(5)
    differences = fresh.decode(fresh.encode(x)).double() - x.double()
    assert reconstruction_error(fresh, x) == pytest.approx(differences.square().mean().item(), rel=1e-5)


def test_load_autoencoder_from_a_file_of_ones_own(fresh: FashionAutoencoder, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_weights(fresh, path, {})
    loaded = load_autoencoder(path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), fresh.parameters(), strict=True))
    assert torch.equal(loaded.mean, fresh.mean)
    assert torch.equal(loaded.std, fresh.std)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_shipped_file_is_refused_if_it_is_not_the_one(
    fresh: FashionAutoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a path the sum in the code decides, even where the file would fit."""
    digest = save_weights(fresh, tmp_path / WEIGHTS.name, {})
    monkeypatch.setattr("ismkit.utils.files.WEIGHTS", tmp_path)
    with pytest.raises(CheckpointError, match=f"altered or truncated: SHA-256 is {digest}"):
        load_autoencoder()
    monkeypatch.setattr(spaces, "WEIGHTS_SHA256", digest)
    assert torch.equal(load_autoencoder().mean, fresh.mean)


def test_shipped_autoencoder_reconstructs_the_test_images() -> None:
    """Squared error per pixel of images in [-1, 1]; always predicting the mean image gives 0.35."""
    x = fashion_mnist("test").x[:2000]
    error = reconstruction_error(load_autoencoder(), x)
    assert error < 0.008
    recorded = float(load_weights(FashionAutoencoder(), WEIGHTS)["test_mse"])  # of all 10 000
    assert error == pytest.approx(recorded, rel=0.05)


def test_shipped_latents_have_zero_mean_and_unit_variance() -> None:
    """Over all 60 000 training images they do exactly; these are every thirtieth."""
    z = in_batches(load_autoencoder().encode, fashion_mnist("train").x[::30]).double()
    assert z.mean((0, 2, 3)).abs().max() < 0.05
    assert (z.std((0, 2, 3)) - 1).abs().max() < 0.05


def test_shipped_autoencoder_is_the_one_on_its_card() -> None:
    card = (WEIGHTS.parent / "README.md").read_text()
    assert spaces.WEIGHTS_SHA256 in card
    _, metadata = read_weights(WEIGHTS, spaces.WEIGHTS_SHA256)
    assert metadata["licence"] == "Apache-2.0"
    assert WEIGHTS.stat().st_size < 5_000_000


# ---------------------------------------------------------------- emoji


def test_the_released_autoencoder_restores_emoji_that_it_was_not_trained_on() -> None:
    x = emoji("test").x
    error = reconstruction_error(load_emoji_autoencoder(), x)
    recorded = float(read_weights(weights_file("emoji_autoencoder"))[1]["test_mse"])
    assert error == pytest.approx(recorded, rel=0.01)
    assert error < 0.05 * float(x.var())


def test_emoji_are_encoded_once_and_fit_their_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = emoji_latents(tmp_path, per_class=2, progress=False)
    assert first.y.bincount().tolist() == [2] * 99
    EmojiJudge.check_data(first)
    images = balanced(emoji("train"), 2)
    torch.testing.assert_close(first.x, in_batches(load_emoji_autoencoder().encode, images.x), rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(spaces, "load_emoji_autoencoder", lambda: pytest.fail("encoded, though the cache has it"))
    assert torch.equal(emoji_latents(tmp_path, per_class=2, progress=False).x, first.x)
    more = emoji_latents(tmp_path, per_class=300, progress=False)
    assert torch.equal(more.y, torch.arange(99).repeat_interleave(300))
    whole = balanced(emoji("train"), 300).x  # some drawings are alike to the last pixel
    assert len(more.x.unique(dim=0)) == len(whole.unique(dim=0)) > 3000
