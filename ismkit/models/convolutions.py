"""The convolutions of the small autoencoders: on two levels, the second with half of the side.

They are those of diffusers' ``AutoencoderKL`` (arXiv 2112.10752), the class of the full run's, with the same names and
the same numbers, which a test compares. They are written out because diffusers itself takes twice as long to import as
PyTorch does, in each process that draws a picture.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8  # of channels that are normalised together
_EPS = 1e-6


class Posterior(NamedTuple):
    """A diagonal Gaussian over latents (B, c, h, w).

    Attributes:
        mean: (B, c, h, w).
        logvar: logarithm of the variance, as ``mean``.

    Example:
        The divergence of N(1, 1) from N(0, 1) is 1/2 for each number:

        >>> import torch
        >>> from ismkit.models.convolutions import Posterior
        >>> posterior = Posterior(torch.ones(3, 4, 2, 2), torch.zeros(3, 4, 2, 2))
        >>> posterior.std.mean(), posterior.kl(), posterior.sample().shape
        (tensor(1.), tensor([8., 8., 8.]), torch.Size([3, 4, 2, 2]))
    """

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation, as ``mean``."""
        return torch.exp(0.5 * self.logvar)

    def sample(self) -> Tensor:
        """Draw from it by the global generator, differentiably."""
        return self.mean + self.std * torch.randn_like(self.mean, memory_format=torch.contiguous_format)

    def kl(self) -> Tensor:
        """Kullback-Leibler divergence from N(0, I), summed over each latent, (B,)."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar).sum((1, 2, 3))


class Residual(nn.Module):
    """A block of two convolutions 3 x 3, added to its input."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, before, eps=_EPS)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, width, eps=_EPS)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(before, width, 1) if before != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, before, h, w) to (B, width, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


def _named(**parts: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(parts))


def _residuals(*widths: int) -> nn.Sequential:
    """A block from each width to the next."""
    return nn.Sequential(*map(Residual, widths, widths[1:]))


def _halve(width: int) -> nn.Sequential:
    return _named(pad=nn.ZeroPad2d((0, 1, 0, 1)), conv=nn.Conv2d(width, width, 3, stride=2))


def _double(width: int) -> nn.Sequential:
    return _named(repeat=nn.Upsample(scale_factor=2.0), conv=nn.Conv2d(width, width, 3, padding=1))


def _ends(width: int, channels: int) -> dict[str, nn.Module]:
    norm = nn.GroupNorm(GROUPS, width, eps=_EPS)
    return {"conv_norm_out": norm, "conv_act": nn.SiLU(), "conv_out": nn.Conv2d(width, channels, 3, padding=1)}


def _encoder(channels: int, widths: tuple[int, int], latent: int) -> nn.Sequential:
    one, two = widths
    return _named(
        conv_in=nn.Conv2d(channels, one, 3, padding=1),
        down_blocks=nn.Sequential(
            _named(resnets=_residuals(one, one), downsamplers=nn.Sequential(_halve(one))),
            _named(resnets=_residuals(one, two)),
        ),
        mid_block=_named(resnets=_residuals(two, two, two)),
        **_ends(two, 2 * latent),
    )


def _decoder(channels: int, widths: tuple[int, int], latent: int) -> nn.Sequential:
    one, two = widths
    return _named(
        conv_in=nn.Conv2d(latent, two, 3, padding=1),
        mid_block=_named(resnets=_residuals(two, two, two)),
        up_blocks=nn.Sequential(
            _named(resnets=_residuals(two, two, two), upsamplers=nn.Sequential(_double(two))),
            _named(resnets=_residuals(two, one, one)),
        ),
        **_ends(one, channels),
    )


class ConvolutionalVAE(nn.Module):
    """Variational autoencoder of pictures, to latents of half the side, and back.

    Args:
        channels: of a picture.
        widths: channels of the two levels, multiples of 8.
        latent: channels of a latent.

    Example:
        >>> import torch
        >>> from ismkit.models.convolutions import ConvolutionalVAE
        >>> vae = ConvolutionalVAE(4, (16, 32), latent=3)
        >>> posterior = vae.encode(torch.zeros(2, 4, 8, 8))
        >>> posterior.mean.shape, vae.decode(posterior.sample()).shape
        (torch.Size([2, 3, 4, 4]), torch.Size([2, 4, 8, 8]))
    """

    def __init__(self, channels: int, widths: tuple[int, int], latent: int) -> None:
        super().__init__()
        self.encoder = _encoder(channels, widths, latent)
        self.decoder = _decoder(channels, widths, latent)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)

    def encode(self, x: Tensor) -> Posterior:
        """Compute the posterior over latents (B, latent, H / 2, W / 2) of pictures (B, channels, H, W)."""
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))

    def decode(self, z: Tensor) -> Tensor:
        """Map latents (B, latent, h, w) to pictures (B, channels, 2 h, 2 w)."""
        return self.decoder(self.post_quant_conv(z))
