"""The small latent spaces: an autoencoder for pictures of some 32 x 32 pixels, of the full run's kind.

An autoencoder maps a picture to a latent (C, h, w), a network works there, the decoder maps back.
The picture is padded to a power of two, and its 2 x 2 blocks become channels, so that the convolutions run on half of
the side: three times quicker on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ismkit.data.sets import Labelled
from ismkit.models.convolutions import GROUPS, ConvolutionalVAE, Posterior
from ismkit.utils.checks import check_count, check_number, check_tensor, shown
from ismkit.utils.progress import progress_bar
from ismkit.utils.store import Store


class SmallAutoencoder(nn.Module):
    """Autoencoder of square pictures in [-1, 1]: to latents of unit variance, and back.

    A latent has a quarter of the side that the picture has when it is padded to a power of two.

    It computes as diffusers' ``AutoencoderKL``, the class of the full run's (arXiv 2112.10752), at a size of this kit's
    choice. A new one is untrained.

    Args:
        shape: of a picture, (C, H, H).
        channels: of a latent.
        widths: channels of the two levels of the convolutions.
        fill: what stands beyond the edge: -1 is black, 1 white.

    Attributes:
        shape: of a picture.
        latent: shape of a latent.
        vae: the convolutions.
        mean, std: of the posterior means over the training set, one number per channel: the scaling of this space.

    Raises:
        ValueError: if the picture is not square, of less than 4 x 4 or an odd number of pixels a side, or another
            argument is out of range.

    Example:
        A latent has 512 numbers for 3072:

        >>> import torch
        >>> from ismkit.models.autoencoder import SmallAutoencoder
        >>> autoencoder = SmallAutoencoder((3, 32, 32), channels=8, widths=(16, 32), fill=1.0).eval()
        >>> with torch.no_grad():
        ...     latents = autoencoder.encode(torch.zeros(2, 3, 32, 32))
        ...     restored = autoencoder.decode(latents)
        >>> latents.shape, restored.shape
        (torch.Size([2, 8, 8, 8]), torch.Size([2, 3, 32, 32]))

        Latents are the means of a posterior, scaled:

        >>> with torch.no_grad():
        ...     posterior = autoencoder.posterior(torch.zeros(2, 3, 32, 32))
        ...     restored = autoencoder.reconstruct(posterior.mean)
        >>> posterior.std.shape, restored.shape
        (torch.Size([2, 8, 8, 8]), torch.Size([2, 3, 32, 32]))
    """

    def __init__(self, shape: tuple[int, int, int], *, channels: int, widths: tuple[int, int], fill: float) -> None:
        super().__init__()
        if not isinstance(shape, tuple) or len(shape) != 3 or shape[1] != shape[2]:
            raise ValueError(f"shape must be (C, H, H), got {shown(shape)}")
        for least, side in zip((1, 4, 4), shape, strict=True):
            check_count("each number of shape", side, least)
        if shape[1] % 2:  # which cannot be padded by as much on either side
            raise ValueError(f"shape must have even sides, got {shape}")
        channels = check_count("channels", channels)
        if not isinstance(widths, tuple) or len(widths) != 2 or any(check_count("widths", k) % GROUPS for k in widths):
            raise ValueError(f"widths must be two multiples of {GROUPS}, got {shown(widths)}")
        check_number("fill", fill, "in [-1, 1]", -1, 1)
        self.shape, self.fill = shape, float(fill)
        self.padded = 1 << (shape[1] - 1).bit_length()
        self.latent = (channels, self.padded // 4, self.padded // 4)
        self.vae = ConvolutionalVAE(4 * shape[0], widths, channels)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.to(memory_format=torch.channels_last)

    def posterior(self, images: Tensor) -> Posterior:
        """Compute the posterior, a diagonal Gaussian over unscaled latents.

        Args:
            images: (B, C, H, H) in [-1, 1].

        Returns:
            Its ``mean`` and ``std`` have the shape of latents.

        Raises:
            ValueError: for another shape.
        """
        self._check("images", images, self.shape)
        margin = (self.padded - self.shape[1]) // 2
        padded = F.pad(images, (margin,) * 4, value=self.fill)
        return self.vae.encode(F.pixel_unshuffle(padded, 2))

    def reconstruct(self, unscaled: Tensor) -> Tensor:
        """Decode unscaled latents.

        Args:
            unscaled: of the shape of latents.

        Returns:
            Images (B, C, H, H), not clamped.
        """
        margin = (self.padded - self.shape[1]) // 2
        inside = slice(margin, self.padded - margin)
        return F.pixel_shuffle(self.vae.decode(unscaled), 2)[..., inside, inside]

    def encode(self, images: Tensor) -> Tensor:
        """Encode images as scaled posterior means.

        Args:
            images: (B, C, H, H) in [-1, 1].

        Returns:
            Latents (B, c, h, h).

        Raises:
            ValueError: for another shape.
        """
        latents = (self.posterior(images).mean - self.mean[:, None, None]) / self.std[:, None, None]
        return latents.contiguous()  # not channels last: what reads them gets the same as from a file

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents.

        Args:
            latents: (B, c, h, h).

        Returns:
            Images (B, C, H, H), clamped to [-1, 1].

        Raises:
            ValueError: for another shape.
        """
        self._check("latents", latents, self.latent)
        return self.reconstruct(latents * self.std[:, None, None] + self.mean[:, None, None]).clamp(-1, 1)

    def _check(self, name: str, given: Tensor, shape: tuple[int, ...]) -> None:
        check_tensor(name, given, ("the autoencoder", self.mean))
        if given.dtype != self.mean.dtype:
            raise TypeError(f"{name} must be of the autoencoder's type, {self.mean.dtype}, got {given.dtype}")
        if given.shape[1:] != shape or given.shape[0] < 1:
            raise ValueError(
                f"{name} must have shape (B, {', '.join(map(str, shape))}) with B >= 1, got {tuple(given.shape)}"
            )


@torch.no_grad()
def in_batches(function: Any, x: Tensor, *, batch: int = 250, label: str = "", progress: bool | None = False) -> Tensor:
    """Apply a function in batches, without gradients.

    Args:
        function: of a batch (b, ...); what it returns has one row for each of the batch.
        x: (n, ...).
        batch: rows at one time.
        label: of the progress bar.
        progress: show one; by default not, and with None unless the environment says CI.

    Returns:
        The results, joined, (n, ...).

    Raises:
        TypeError: if ``function`` is none, or ``x`` no tensor.
        ValueError: if ``x`` has no rows, or ``batch`` is no integer of at least 1.

    Example:
        >>> import torch
        >>> from ismkit.models import in_batches
        >>> def square(x):
        ...     print(f"{len(x)} rows")
        ...     return x * x
        >>> in_batches(square, torch.arange(5), batch=2)
        2 rows
        2 rows
        1 rows
        tensor([ 0,  1,  4,  9, 16])
    """
    batch = check_count("batch", batch)
    if not isinstance(x, Tensor) or x.layout != torch.strided or not callable(function):
        raise TypeError(f"function and x must be a function and a dense tensor, got {shown(function)} and {shown(x)}")
    if x.ndim < 1 or len(x) == 0:
        raise ValueError(f"x must be (n, ...) with n >= 1, got {tuple(x.shape)}")
    parts = progress_bar(x.split(batch), show=progress, desc=label, unit="batch")
    return torch.cat([function(part) for part in parts])


def as_latents(
    images: Labelled,
    load: Callable[[], SmallAutoencoder],
    place: tuple[Path, str, dict[str, Any]] | None = None,
    *,
    progress: bool | None = False,
) -> Labelled:
    """Encode a set of images, or read what an earlier call encoded.

    Args:
        images: the set.
        load: gives the autoencoder; not called if the latents are there.
        place: folder and name of the file to keep them in, and what they were made of; by default they are not kept.
        progress: show a bar; by default not, and with None unless the environment says CI.

    Returns:
        The latents (n, c, h, h), with the labels of the images.

    Raises:
        DataError: if the file is truncated, altered, or of other images.

    Example:
        >>> import torch
        >>> from ismkit import Labelled, load_autoencoder
        >>> from ismkit.models.autoencoder import as_latents
        >>> as_latents(Labelled.of(torch.zeros(3, 1, 28, 28)), load_autoencoder).shape
        (4, 8, 8)
    """

    def encode() -> Tensor:
        return in_batches(load().encode, images.x, label="encoding", progress=progress)

    if place is None:
        x = encode()
    else:
        folder, name, identity = place
        store = Store(folder, identity, remedy="delete the file, and the next run makes it again")
        if name not in store:
            store.write(name, {}, {"x": encode()})
        x = store.read(name).tensors["x"]
    return Labelled(x, images.y, images.num_classes, images.class_names)


def train_autoencoder(
    make: Callable[[], SmallAutoencoder],
    images: Tensor,
    *,
    steps: int,
    batch: int = 64,
    lr: float = 2e-3,
    kl: float = 0.005,
    seed: int = 0,
) -> SmallAutoencoder:
    """Train an autoencoder and fix the scaling of its latents.

    Loss: squared error + half the absolute error, averaged over pixels and colours, + ``kl`` times the Kullback-Leibler
    divergence from N(0, I), summed over the latent and divided by the pixels of the padded picture.

    Args:
        make: makes the untrained one, :class:`~ismkit.models.spaces.FashionAutoencoder` for instance.
        images: (n, C, H, H) in [-1, 1].
        steps: optimiser steps (AdamW, short warm-up, linear decay to zero).
        batch: images per step.
        lr: peak learning rate.
        kl: weight of the divergence per pixel.
        seed: of initial weights, batches and posterior samples.

    Returns:
        The autoencoder in eval mode.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    with torch.random.fork_rng(devices=[]):  # initial weights come from the global generator
        torch.manual_seed(seed)
        autoencoder = make()
        optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=lr, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(1.0, (k + 1) / 100) * (1 - k / steps))
        bar = progress_bar(range(steps), desc="autoencoder", unit="step")
        for _ in bar:
            x = images[torch.randint(len(images), (batch,))]
            q = autoencoder.posterior(x)
            error = autoencoder.reconstruct(q.sample()) - x
            divergence = q.kl().mean() / autoencoder.padded**2
            loss = error.square().mean() + 0.5 * error.abs().mean() + kl * divergence
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.set_postfix(mse=f"{error.square().mean().item():.4f}", kl=f"{divergence.item():.3f}", refresh=False)
    autoencoder.eval()
    means = in_batches(lambda x: autoencoder.posterior(x).mean, images)
    autoencoder.mean.copy_(means.mean((0, 2, 3)))
    autoencoder.std.copy_(means.std((0, 2, 3)))
    return autoencoder


def reconstruction_error(autoencoder: SmallAutoencoder, images: Tensor) -> float:
    """Mean squared error per pixel of images (n, C, H, H) in [-1, 1] after encoding and decoding."""
    return float((in_batches(lambda x: autoencoder.decode(autoencoder.encode(x)), images) - images).square().mean())
