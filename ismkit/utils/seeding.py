"""Random streams that are functions of where they are used, so that resuming needs no saved generator state."""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, *place: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by ``seed`` and its place in the run, such as ``("rows", micro_batch, step)``.

    Equal arguments give equal streams on one kind of device; different ones give different streams, but for chance:
    the seed is a SHA-256 sum, of which torch's generator on the CPU uses 32 bits.
    """
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
