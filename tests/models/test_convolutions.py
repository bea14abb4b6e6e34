"""The convolutions against diffusers' own class."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ismkit.models.convolutions import GROUPS, ConvolutionalVAE, Posterior

SIZES = pytest.mark.parametrize(("channels", "widths", "latent"), [(4, (32, 64), 4), (12, (48, 96), 8)])


def seeded(make: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().to(memory_format=torch.channels_last)


def both(channels: int, widths: tuple[int, int], latent: int) -> tuple[Any, ConvolutionalVAE]:
    """That of diffusers and ours, of the same seed."""
    diffusers = pytest.importorskip("diffusers")
    theirs = seeded(
        lambda: diffusers.AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=widths,
            layers_per_block=1,
            latent_channels=latent,
            norm_num_groups=GROUPS,
            mid_block_add_attention=False,
        )
    )
    return theirs, seeded(lambda: ConvolutionalVAE(channels, widths, latent))


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@SIZES
def test_a_seed_gives_the_weights_of_diffusers_under_the_same_names(
    channels: int, widths: tuple[int, int], latent: int
) -> None:
    theirs, ours = both(channels, widths, latent)
    expected = theirs.state_dict()
    assert expected.keys() == ours.state_dict().keys()
    assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())


@SIZES
@pytest.mark.parametrize("rows", [1, 5, 70])  # from 64 on diffusers asks for another layout in memory
def test_answers_are_those_of_diffusers(channels: int, widths: tuple[int, int], latent: int, rows: int) -> None:
    theirs, ours = (each.eval() for each in both(channels, widths, latent))
    x, z = noise(rows, channels, 16, 16), noise(rows, latent, 8, 8)
    with torch.no_grad():
        expected, found = theirs.encode(x).latent_dist, ours.encode(x)
        assert torch.equal(found.mean, expected.mean)
        assert torch.equal(found.std, expected.std)
        assert torch.equal(found.kl(), expected.kl())
        assert torch.equal(ours.decode(z), theirs.decode(z).sample)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        drawn = expected.sample()
        torch.manual_seed(2)
        assert torch.equal(found.sample(), drawn)


@SIZES
def test_gradients_are_those_of_diffusers(channels: int, widths: tuple[int, int], latent: int) -> None:
    theirs, ours = (each.train() for each in both(channels, widths, latent))
    x = noise(6, channels, 16, 16)
    posterior = theirs.encode(x).latent_dist
    (theirs.decode(posterior.mean).sample.square().mean() + posterior.kl().mean()).backward()
    found = ours.encode(x)
    (ours.decode(found.mean).square().mean() + found.kl().mean()).backward()
    expected = {name: weight.grad for name, weight in theirs.named_parameters()}
    assert all(torch.equal(weight.grad, expected[name]) for name, weight in ours.named_parameters())


def test_extreme_variances_stay_finite() -> None:
    """Logarithms beyond -30 and 20 are cut off, as there."""
    ours = seeded(lambda: ConvolutionalVAE(4, (8, 8), 2))
    for bias in (-100.0, 100.0):
        torch.nn.init.zeros_(ours.quant_conv.weight)
        torch.nn.init.constant_(ours.quant_conv.bias, bias)
        posterior = ours.encode(noise(2, 4, 8, 8))
        assert {*posterior.logvar.unique().tolist()} == {max(-30.0, min(20.0, bias))}
        assert posterior.sample().isfinite().all()


def test_divergence_is_that_of_pytorch() -> None:
    mean, logvar = noise(3, 2, 4, 4).double(), noise(2, 3, 2, 4, 4)[1].double()
    normal = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(Posterior(mean, logvar).kl(), expected)
