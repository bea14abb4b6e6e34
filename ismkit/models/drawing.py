"""Pictures and points from a trained network; latents are decoded by the autoencoder, and no data set is read."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from numbers import Integral
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ismkit.data.values import as_tensor
from ismkit.method.path import Network, Source, draw_noise
from ismkit.method.sampling import sample, trajectory
from ismkit.models.autoencoder import SmallAutoencoder, in_batches
from ismkit.models.saved import (
    Maker,
    check_normal,
    check_space,
    load_generator,
    load_named,
    sample_shape,
    space_of,
    warn_of_strength,
)
from ismkit.models.spaces import SPACES
from ismkit.utils.checks import check_count, check_name, shown
from ismkit.utils.seeding import stream

#: Which classes to draw: their numbers, or their names.
Labels = Tensor | Sequence[int] | Sequence[str] | str

_LARGEST = {"images": 10_000, "points": 1_000_000}  # in one picture
_EACH = {"images": 8, "points": 250}  # of a class, by default; where the classes are many, one image
_IN_A_ROW = 16
_OF_LATENTS = 16  # at a time: a VAE takes 1 GB of memory for 8 pictures of 256 pixels


class Decoder(Protocol):
    """What turns latents into images, such as :class:`ismkit.imagenet.vae.ImageVAE`."""

    identity: dict[str, Any]
    factor: int

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of scaled latents (B, C, h, w)."""
        ...


def check_decoder(card: Any, decoder: Decoder, model: str | os.PathLike[str]) -> None:
    """Refuse a VAE that is not the one of the latents that a model was trained on.

    Args:
        card: of the model's file; where it names no VAE, any is right.
        decoder: has an ``identity`` with ``name``, ``sha256`` and ``scaling_factor``.
        model: its name, for the message.

    Raises:
        TypeError: if ``decoder`` is none.
        ValueError: if the two differ in weights or scale.

    Example:
        >>> import tempfile
        >>> from ismkit import ImageVAE, write_tiny_vae
        >>> from ismkit.models.drawing import check_decoder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     vae = ImageVAE.load(write_tiny_vae(f"{folder}/mine"))
        >>> check_decoder({"vae": {"scaling_factor": 4.0}}, vae, "a.safetensors")
        Traceback (most recent call last):
        ValueError: a.safetensors was trained on latents of another VAE: its scaling_factor is 4.0, that of mine is 5.0
    """
    if not callable(getattr(decoder, "decode", None)) or not isinstance(getattr(decoder, "identity", None), Mapping):
        raise TypeError(f"decoder must be an ImageVAE, or have its identity and decode, got {shown(decoder)}")
    trained = _vae_of(card)
    for key in ("sha256", "scaling_factor"):
        if trained.get(key) not in (None, decoder.identity[key]):
            difference = f"its {key} is {trained[key]}, that of {decoder.identity['name']} is {decoder.identity[key]}"
            raise ValueError(f"{model} was trained on latents of another VAE: {difference}")


def _vae_of(card: Any) -> Mapping[str, Any]:
    """What a card, which may be any JSON, says of the VAE of a model's latents."""
    found = card.get("vae") if isinstance(card, Mapping) else None
    return found if isinstance(found, Mapping) else {}


class Drawn(NamedTuple):
    """What :func:`draw_model` has drawn.

    Attributes:
        samples: images (n, C, H, H) in [-1, 1], or points (n, 2), on the device.
        y: the class of each, (n,) int64, on the CPU.
        columns: for :func:`ismkit.data.pictures.write_png`: one for each class, or where the classes are many, blocks
            of some classes side by side.
        title: the NFE and the guidance strength.

    Example:
        >>> from ismkit import draw_model
        >>> drawn = draw_model("emoji", ["cat-face", "heart"], n=3, w=2.0)
        >>> drawn.samples.shape, drawn.columns, drawn.title
        (torch.Size([6, 3, 32, 32]), 2, '1 NFE, w = 2')
    """

    samples: Tensor
    y: Tensor
    columns: int
    title: str


def draw_model(
    model: str | os.PathLike[str] = "ism_plus",
    classes: Sequence[int | str] = (),
    *,
    n: int | None = None,
    w: float = 1.0,
    nfe: int = 1,
    times: Sequence[float] | None = None,
    renoise: bool = False,
    seed: int = 0,
    network: Maker | None = None,
    decoder: Decoder | None = None,
    device: torch.device | str = "cpu",
) -> Drawn:
    """Draw with a trained model, of clothes, emoji, pictures of your own or points in the plane: ``ismkit sample``.

    Args:
        model: the name of a released one, or a file of :func:`ismkit.models.saved.save_model`, as ``ismkit train``
            writes it.
        classes: labels, or names of clothes or emoji; by default all.
        n: samples per class; by default 8 images, or 1 where the classes are more than 16, and 250 points.
        w: guidance strength >= 0.
        nfe: network evaluations per sample.
        times: where steps begin and end, in place of ``nfe``.
        renoise: jump to the data in each step, and go back by fresh noise.
        seed: of the noise: equal arguments give equal samples.
        network: the class of a network of your own, as for :func:`ismkit.models.saved.load_model`.
        decoder: of a model of a VAE's latents, :class:`ismkit.imagenet.vae.ImageVAE`, on the device.
        device: where all of this runs.

    Returns:
        The samples, their classes, and how to show them.

    Raises:
        CheckpointError: if the model cannot be read.
        TypeError: if ``decoder`` is none.
        UserWarning: a warning, for a ``w`` far beyond those that the model was trained on.
        ValueError: for classes that the model does not know, more samples than a picture shows, a model of other
            samples, or of latents without their decoder or with another, what :func:`ismkit.method.sampling.sample`
            refuses, or a network that draws NaN or infinity.

    Example:
        Two pictures of each of two classes, in one step; then the points of a model of your own as a scatter plot:

        >>> from ismkit import draw_model, write_png
        >>> drawn = draw_model("ism_plus", ["Bag", 5], n=2)
        >>> drawn.samples.shape, drawn.y, drawn.columns, drawn.title
        (torch.Size([4, 1, 28, 28]), tensor([8, 5, 8, 5]), 2, '1 NFE, w = 1')
        >>> write_png(drawn.samples, "out/samples.png", drawn.columns)  # doctest: +SKIP

        >>> from ismkit.lessons import plot
        >>> drawn = draw_model("out/runs/gaussians-0-KEY/model.safetensors", nfe=4)  # doctest: +SKIP
        >>> plot.scatter(drawn.samples, drawn.y, drawn.title)  # doctest: +SKIP
    """
    if not isinstance(model, str | os.PathLike):
        raise ValueError(f"model must be the name of a released one or a file, got {shown(model)}")
    if n is not None:
        n = check_count("n", n)
    net, card = load_named(model, network=network)
    check_normal(card, model)
    _check_latents(card, decoder, model)
    space = space_of(net) if decoder is None else None
    shape = () if space else sample_shape(net, card)
    kind = "points" if shape == (2,) else "images"
    if kind == "images" and len(shape) != 3:
        space = check_space(net, model)
    if not isinstance(num_classes := getattr(net, "num_classes", None), int):
        raise ValueError(f"{model} must hold a network with the attribute num_classes, {type(net).__name__} has none")
    labels, columns = _layout(_chosen(classes, num_classes, space), n, kind)
    y, net = torch.tensor(labels), net.to(device)
    options: dict[str, Any] = {"w": w, "nfe": nfe, "times": times, "renoise": renoise, "seed": seed}
    if space is not None:
        samples = draw_pictures(space, y, net, device=device, **options)
    elif kind == "images" and decoder is not None:
        latents, _ = draw_samples(y.to(device), net, shape, batch=_OF_LATENTS, **options)
        samples = in_batches(decoder.decode, latents, batch=_OF_LATENTS)
    elif kind == "images":
        samples = draw_samples(y.to(device), net, shape, **options)[0].clamp(-1, 1)
    else:
        samples = draw_samples(y.to(device), net, shape, batch=len(y), **options)[0]
    warn_of_strength(card, w, model)
    return Drawn(samples, y, columns, f"{nfe if times is None else len(times) - 1} NFE, w = {w:g}")


def _check_latents(card: Any, decoder: Decoder | None, model: str | os.PathLike[str]) -> None:
    """Raise ValueError unless a model of a VAE's latents comes with that VAE."""
    if decoder is not None:
        check_decoder(card, decoder, model)
    elif trained := _vae_of(card):
        raise ValueError(
            f"decoder must be the VAE of the latents that {model} draws, {trained.get('name')}, got none: "
            "ImageVAE.load(...), or --vae, with its name or its folder"
        )


def _chosen(classes: Sequence[int | str], num_classes: int, space: str | None) -> list[int]:
    """The labels of classes by number or by name."""
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise ValueError(f"classes must be a list of labels or names, got {shown(classes)}")
    names = SPACES[space].classes if space else ()
    found = []
    for given in classes:
        text = " ".join(str(given).split()) if isinstance(given, str | Integral) else shown(given)
        if text in names:
            found.append(names.index(text))
        elif text.isdecimal() and len(text) < 10 and int(text) < num_classes:
            found.append(int(text))
        else:
            near = [name for name in names if text in name] or difflib.get_close_matches(text, names) or names
            or_names = f" or names, such as {', '.join(near[:3])}" if names else ""
            raise ValueError(f"classes must be labels 0 .. {num_classes - 1}{or_names}, got {text}")
    return found or list(range(num_classes))


def _layout(classes: list[int], n: int | None, kind: str) -> tuple[list[int], int]:
    """The label of each sample and the columns of the sheet: one for each class, or where they are many, in blocks."""
    few = len(classes) <= _IN_A_ROW
    n = n or (_EACH[kind] if few or kind == "points" else 1)
    if len(classes) * n > _LARGEST[kind]:
        raise ValueError(f"{kind} must be {_LARGEST[kind]} or fewer, got {len(classes)} classes x {n}")
    if few:
        return classes * n, len(classes)
    blocks = [k for k in range(1, len(classes)) if len(classes) % k == 0 and n * k <= 1.5 * _IN_A_ROW]
    return [label for label in classes for _ in range(n)], n * max(blocks, default=1)


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
    net = _generator(space, str(device)) if net is None else net
    latents, _ = draw_samples(labels, net, SPACES[space].shape, **options)
    if autoencoder is None:
        autoencoder = _autoencoder(space, str(latents.device))
    return in_batches(autoencoder.decode, latents)


# What is released is read and verified once: a slider draws again at every move, and reading takes the longest by far.
@lru_cache(maxsize=4)
def _generator(space: str, device: str) -> nn.Module:
    return load_generator(space=space).to(device)


@lru_cache(maxsize=4)
def _autoencoder(space: str, device: str) -> SmallAutoencoder:
    return SPACES[space].load().to(device)


def asked_labels(y: Labels, classes: Sequence[str]) -> Tensor:
    """Read the labels that samples are asked for.

    Args:
        y: whole numbers in 0 .. the number of classes, or names of classes, (n,); or one name.
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
    y = [y] if isinstance(y, str) else y
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
        kind = "points" if tuple(shape) == (2,) else "images"
        raise ValueError(
            f"net draws NaN or infinity in {bad} of {len(samples)} {kind} at w = {w:g}, {nfe} NFE: its weights are "
            "broken, or w is far above what it was trained on"
        )
    return samples, x0.new_empty(nfe + 1, 0, *shape) if kept is None else kept[:, :paths]
