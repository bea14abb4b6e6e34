"""Pictures from a trained network: latents drawn by it, decoded by the autoencoder; no data set is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ismkit.data.values import as_tensor
from ismkit.method.path import Network, Source, draw_noise
from ismkit.method.sampling import sample, trajectory
from ismkit.models.autoencoder import SmallAutoencoder, in_batches
from ismkit.models.saved import load_generator
from ismkit.models.spaces import SPACES
from ismkit.utils.checks import check_count, check_name, shown
from ismkit.utils.seeding import stream

#: Which classes to draw: their numbers, or their names.
Labels = Tensor | Sequence[int] | Sequence[str]


def draw_clothes(y: Labels, net: Network | None = None, **options: Any) -> Tensor:
    """Draw images of clothes.

    Args:
        y: the class of each image, (n,): numbers in 0 .. 9 or names of ``ismkit.CLOTHES``; 10 leaves it open.
        net: draws the latents, on the device; by default the released ``ism_plus``.
        options: as for :func:`draw_pictures`: ``w``, ``nfe``, ``seed``, ``device`` and more.

    Returns:
        (n, 1, 28, 28) in [-1, 1], on the device.

    Raises:
        ValueError: as :func:`draw_pictures`.
        CheckpointError: if a released file is missing or altered.

    Example:
        >>> from ismkit import draw_clothes
        >>> draw_clothes([7, 8, 9], w=1.0, nfe=1).shape
        torch.Size([3, 1, 28, 28])
    """
    return draw_pictures("clothes", y, net, **options)


def draw_emoji(y: Labels, net: Network | None = None, **options: Any) -> Tensor:
    """Draw emoji.

    Args:
        y: the class of each, (n,): numbers in 0 .. 98 or names of ``ismkit.EMOJI``, Unicode's subgroups; 99 leaves it
            open.
        net: draws the latents, on the device; by default the released ``emoji``.
        options: as for :func:`draw_pictures`: ``w``, ``nfe``, ``seed``, ``device`` and more.

    Returns:
        (n, 3, 32, 32) in [-1, 1], on the device.

    Raises:
        ValueError: as :func:`draw_pictures`.
        CheckpointError: if a released file is missing or altered.

    Example:
        >>> from ismkit import draw_emoji
        >>> draw_emoji(["face-smiling", "cat-face", "heart"], w=1.0, nfe=1).shape
        torch.Size([3, 3, 32, 32])
    """
    return draw_pictures("emoji", y, net, **options)


def draw_pictures(
    space: str,
    y: Labels,
    net: Network | None = None,
    *,
    device: torch.device | str = "cpu",
    autoencoder: SmallAutoencoder | None = None,
    **options: Any,
) -> Tensor:
    """Draw pictures of any of the small latent spaces.

    Args:
        space: of the network, a key of :data:`ismkit.models.spaces.SPACES`.
        y: the class of each picture, (n,): numbers, or names of the space's classes; the number of classes leaves it
            open.
        net: draws the latents, on the device; by default the space's released one.
        device: where all of this runs.
        autoencoder: decodes the latents, on the device; by default the released one.
        options: those of :func:`draw_samples`: ``w`` (default 1), ``nfe`` (1), ``seed`` (0: equal arguments give equal
            pictures), ``batch``, ``times``, ``renoise``, ``source``.

    Returns:
        (n, C, H, H) in [-1, 1], on the device.

    Raises:
        ValueError: for labels that are none, what :func:`ismkit.method.sampling.sample` refuses, another space, or a
            network that draws NaN or infinity.
        CheckpointError: if a released file is missing or altered.

    Example:
        >>> from ismkit import load_generator
        >>> from ismkit.models import draw_pictures
        >>> draw_pictures("clothes", ["Sneaker", "Bag"], load_generator("ism"), w=1.0, nfe=1).shape
        torch.Size([2, 1, 28, 28])
    """
    check_name("space", space, SPACES)
    labels = asked_labels(y, SPACES[space].classes).to(device)
    net = load_generator(space=space).to(device) if net is None else net
    latents, _ = draw_samples(labels, net, SPACES[space].shape, **options)
    if autoencoder is None:
        autoencoder = SPACES[space].load().to(latents.device)
    return in_batches(autoencoder.decode, latents)


def asked_labels(y: Labels, classes: Sequence[str]) -> Tensor:
    """Read the labels that samples are asked for.

    Args:
        y: whole numbers in 0 .. the number of classes, or names of classes, (n,).
        classes: of the network, by their names.

    Returns:
        The labels, (n,) int64.

    Raises:
        ValueError: for other labels.

    Example:
        >>> from ismkit import CLOTHES
        >>> from ismkit.models.drawing import asked_labels
        >>> asked_labels([7, 8, 10], CLOTHES), asked_labels(["Bag", "Coat"], CLOTHES)
        (tensor([ 7,  8, 10]), tensor([8, 4]))
    """
    if isinstance(y, list | tuple) and y and all(isinstance(name, str) for name in y):
        for name in y:
            check_name("y", name, classes)
        return torch.tensor([classes.index(name) for name in y])
    labels = as_tensor(y, "y")
    if (
        labels.ndim != 1
        or labels.is_floating_point()
        or labels.is_complex()
        or not len(labels)
        or not ((labels >= 0) & (labels <= len(classes))).all()
    ):
        raise ValueError(f"y must hold whole numbers in 0 .. {len(classes)}, one per image, got {shown(y)}")
    return labels.long()


def draw_samples(
    y: Tensor,
    net: Network,
    shape: Sequence[int],
    *,
    w: float = 1.0,
    nfe: int = 1,
    seed: int = 0,
    batch: int = 500,
    paths: int = 0,
    times: Sequence[float] | None = None,
    renoise: bool = False,
    source: Source | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw samples of any shape in batches, and keep the paths of the first ones.

    Args:
        y: the class of each, (n,) int64, on the device where all of this runs.
        net: on the same device.
        shape: of one sample.
        w: guidance strength >= 0.
        nfe: network evaluations per sample.
        seed: of the noise: equal arguments give equal samples.
        batch: samples at a time.
        paths: so many are kept, up to ``batch``.
        times: where steps begin and end, in place of ``nfe``.
        renoise: jump to the data and go back by fresh noise.
        source: the distribution of the noise.

    Returns:
        The samples (n, ...), and the states of the first ones from noise to sample, (nfe + 1, paths, ...).

    Raises:
        ValueError: for what :func:`ismkit.method.sampling.sample` refuses, or a network that draws NaN or infinity.

    Example:
        >>> import torch
        >>> from ismkit import load_generator
        >>> from ismkit.models.drawing import draw_samples
        >>> y, net = torch.tensor([7, 8, 9]), load_generator()
        >>> latents, path = draw_samples(y, net, (4, 8, 8), nfe=2, paths=2)
        >>> latents.shape, path.shape, path[-1].equal(latents[:2])
        (torch.Size([3, 4, 8, 8]), torch.Size([3, 2, 4, 8, 8]), True)
    """
    batch = check_count("batch", batch)
    x0 = draw_noise(source, (len(y), *shape), stream(seed, "samples")).to(y.device)
    options: dict[str, Any] = {"w": w, "nfe": nfe, "times": times, "renoise": renoise, "source": source}
    drawn, kept = [], None
    for k, (noise, part) in enumerate(zip(x0.split(batch), y.split(batch), strict=True)):
        if renoise:
            options["generator"] = stream(seed, "renoise", k)
        if paths and not k:
            kept = trajectory(net, noise, part, **options)
        drawn.append(sample(net, noise, part, **options) if kept is None or k else kept[-1])
    samples, nfe = torch.cat(drawn), nfe if times is None else len(times) - 1
    if bad := int((~samples.isfinite()).flatten(1).any(1).sum()):
        raise ValueError(
            f"net draws NaN or infinity in {bad} of {len(samples)} images at w = {w:g}, {nfe} NFE: its weights are "
            "broken, or w is far above what it was trained on"
        )
    return samples, x0.new_empty(nfe + 1, 0, *shape) if kept is None else kept[:, :paths]
