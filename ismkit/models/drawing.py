"""Clothes from a trained network: latents drawn by it, decoded by the autoencoder; no data set is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ismkit.data.fashion import CLOTHES, SHAPE, FashionAutoencoder, in_batches, load_autoencoder
from ismkit.data.values import as_tensor
from ismkit.method.path import Network, Source, draw_noise
from ismkit.method.sampling import sample, trajectory
from ismkit.models.saved import load_generator
from ismkit.utils.checks import check_count, shown
from ismkit.utils.seeding import stream


def draw_clothes(
    y: Tensor | Sequence[int],
    net: Network | None = None,
    *,
    w: float = 1.0,
    nfe: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
    autoencoder: FashionAutoencoder | None = None,
    batch: int = 500,
    times: Sequence[float] | None = None,
    renoise: bool = False,
    source: Source | None = None,
) -> Tensor:
    """Draw images of clothes.

    Args:
        y: the class of each image, (n,), in 0 .. 9, named in ``ismkit.CLOTHES``; 10 leaves it open.
        net: draws the latents, on ``device``; by default the released ``ism_plus``.
        w: guidance strength >= 0.
        nfe: network evaluations per image, a power of two in 1 .. 128 unless the network was trained on other steps.
        seed: of the noise: equal arguments give equal images.
        device: where all of this runs.
        autoencoder: decodes the latents, on ``device``; by default the released one.
        batch: images at a time.
        times: where steps begin and end, in place of ``nfe``, as in :func:`~ismkit.method.sampling.sample`.
        renoise: jump to the data and go back by fresh noise, as there.
        source: the distribution of the noise, that of the network's recipe.

    Returns:
        (n, 1, 28, 28) in [-1, 1], on ``device``.

    Raises:
        ValueError: for labels that are none, what :func:`ismkit.method.sampling.sample` refuses, or a network that
            draws NaN or infinity.
        CheckpointError: if a released file is missing or altered.

    Example:
        >>> from ismkit import draw_clothes
        >>> draw_clothes([7, 8, 9], w=1.0, nfe=1).shape
        torch.Size([3, 1, 28, 28])
    """
    options: dict[str, Any] = {"times": times, "renoise": renoise, "source": source}
    latents, _ = draw_latents(y, net, w=w, nfe=nfe, seed=seed, device=device, batch=batch, **options)
    if autoencoder is None:
        autoencoder = load_autoencoder().to(device)
    return in_batches(autoencoder.decode, latents)


def draw_latents(
    y: Tensor | Sequence[int],
    net: Network | None = None,
    *,
    w: float = 1.0,
    nfe: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch: int = 500,
    paths: int = 0,
    times: Sequence[float] | None = None,
    renoise: bool = False,
    source: Source | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw latents of clothes, and keep the paths of the first ones.

    Args:
        y: as in :func:`draw_clothes`, and so are the others.
        net: draws the latents, on ``device``; by default the released ``ism_plus``.
        w: guidance strength >= 0.
        nfe: network evaluations per image.
        seed: of the noise.
        device: where all of this runs.
        batch: images at a time.
        paths: so many are kept, up to ``batch``.
        times: where steps begin and end, in place of ``nfe``.
        renoise: jump to the data and go back by fresh noise.
        source: the distribution of the noise.

    Returns:
        The latents (n, 4, 8, 8), and the states of the first ones from noise to latent, (nfe + 1, paths, 4, 8, 8).

    Raises:
        ValueError: as in :func:`draw_clothes`.

    Example:
        >>> from ismkit.models.drawing import draw_latents
        >>> latents, path = draw_latents([7, 8, 9], nfe=2, paths=2)
        >>> latents.shape, path.shape, path[-1].equal(latents[:2])
        (torch.Size([3, 4, 8, 8]), torch.Size([3, 2, 4, 8, 8]), True)
    """
    labels = as_tensor(y, "y")
    batch = check_count("batch", batch)
    if (
        labels.ndim != 1
        or labels.is_floating_point()
        or labels.is_complex()
        or not len(labels)
        or not ((labels >= 0) & (labels <= len(CLOTHES))).all()
    ):
        raise ValueError(f"y must hold whole numbers in 0 .. {len(CLOTHES)}, one per image, got {shown(y)}")
    if net is None:
        net = load_generator().to(device)
    labels = labels.long().to(device)
    x0 = draw_noise(source, (len(labels), *SHAPE), stream(seed, "samples")).to(device)
    options: dict[str, Any] = {"w": w, "nfe": nfe, "times": times, "renoise": renoise, "source": source}
    latents, kept = [], None
    for k, (noise, part) in enumerate(zip(x0.split(batch), labels.split(batch), strict=True)):
        if renoise:
            options["generator"] = stream(seed, "renoise", k)
        if paths and not k:
            kept = trajectory(net, noise, part, **options)
        latents.append(sample(net, noise, part, **options) if kept is None or k else kept[-1])
    drawn, nfe = torch.cat(latents), nfe if times is None else len(times) - 1
    if bad := int((~drawn.isfinite()).flatten(1).any(1).sum()):
        raise ValueError(
            f"net draws NaN or infinity in {bad} of {len(drawn)} images at w = {w:g}, {nfe} NFE: its weights are "
            "broken, or w is far above what it was trained on"
        )
    return drawn, x0.new_empty(nfe + 1, 0, *SHAPE) if kept is None else kept[:, :paths]
