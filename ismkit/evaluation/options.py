"""How images of a VAE are scored; light, so that the command line can read it without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageOptions:
    """For a model that draws latents of images, whose card names a VAE, or which is given one here.

    Attributes:
        vae: sd-vae-ft-mse, sd-vae-ft-ema or a folder (default: its card's).
        reference: statistics, one file per feature network: ADM's .npz, a .safetensors made here, or a folder of
            pictures.
        metrics: fid, sfid, is, precision, recall, fd_dinov2 (default: all).
        features: small: read a small random network instead, to try things out; comparable with nothing published.
        batch: images at one time.
        tf32: draw with matrix products in TF32 where the GPU has it, as SiT's and DiT's code do. Such samples have a
            folder of their own, and the protocol names it. Convolutions round so either way, PyTorch's default.
        npz: write the samples as ADM's .npz too.
        png: write the samples as PNG files too.
        download: fetch missing weights of feature networks.

    Example:
        >>> from ismkit import ImageOptions
        >>> ImageOptions(vae="sd-vae-ft-mse", metrics=("fid", "is")).batch
        100
    """

    vae: str | None = None
    reference: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    features: str | None = None
    batch: int = 100
    tf32: bool = False
    npz: bool = False
    png: bool = False
    download: bool = False
