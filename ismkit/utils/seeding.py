"""Random streams that are functions of where they are used, so that resuming needs no saved generator state."""

from __future__ import annotations

import hashlib

import torch

from ismkit.utils.checks import as_integer


def stream(seed: int, *place: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a random generator from a seed and the place where it is used, such as ``("rows", micro_batch, step)``.

    Equal arguments give equal streams on one kind of device. Different ones give different streams, except by chance:
    the seed is a SHA-256 checksum, of which torch's generator on the CPU uses 32 bits.

    Args:
        seed: the seed of the run.
        place: whole numbers and texts that name the place.
        device: of the generator.

    Returns:
        A new generator, at the start of its stream.

    Raises:
        ValueError: if the seed or a number is no integer.

    Example:
        The noise of step 7 can be drawn without drawing that of steps 0 to 6 first:

        >>> import torch
        >>> from ismkit import stream
        >>> before = [torch.randn(4, generator=stream(0, "noise", step)) for step in range(8)]
        >>> torch.randn(4, generator=stream(0, "noise", 7)).equal(before[7])
        True
        >>> before[6].equal(before[7])
        False
    """
    where = tuple(part if type(part) in (int, str) else as_integer(part, "place") for part in place)
    digest = hashlib.sha256(repr((as_integer(seed), *where)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
