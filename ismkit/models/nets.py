"""Networks of one call signature, ``net(x, t, d, w, y) -> s``: an MLP for points, a DiT for fields."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ismkit.method.path import StepGrid, check_labels
from ismkit.utils.checks import check_number, shown

FREQUENCIES = 128  # sines and cosines per embedded number: 256 features, as in DiT
W_UNIT = 0.25  # spacing of the guidance strengths trained on, and so the unit in which w is embedded


def sinusoids(values: Tensor, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal features of numbers of order 1 to 1000: (..., B) -> (..., B, 2 * FREQUENCIES), float32 (DiT)."""
    exponents = torch.arange(FREQUENCIES, device=values.device, dtype=torch.float32) / FREQUENCIES
    angles = values.float()[..., None] * torch.exp(-math.log(max_period) * exponents)
    return torch.cat([angles.cos(), angles.sin()], -1)


class Conditioning(nn.Module):
    """Embeds (t, d, w, y) into one vector per sample, as the sum of four embeddings.

    ``d`` is embedded by its level: 0 at ``d = 0`` (and ``1/n``), 1 at ``d = 1``, evenly spaced on a log scale, so
    that neighbouring step sizes are equally easy to tell apart. Times and levels are scaled to 0 .. ``time_scale``,
    strengths so that neighbours, 0.25 apart, differ by 10. The scales are this kit's choice.
    """

    def __init__(self, width: int, num_classes: int, grid: StepGrid, time_scale: float) -> None:
        super().__init__()
        check_number("time_scale", time_scale, "above 0", 1e-300)
        self.grid, self.time_scale = grid, time_scale
        self.t, self.d, self.w = (
            nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(3)
        )
        self.y = nn.Embedding(num_classes + 1, width)  # the last row is the null label

    def forward(self, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        """Embedding (B, width) of times, step sizes, strengths and labels, each (B,)."""
        if not t.shape == d.shape == w.shape == y.shape:
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in zip("tdwy", (t, d, w, y), strict=True))
            raise ValueError(f"t, d, w and y must hold one number per row of x each, got {shapes}")
        n, levels = self.grid.n, self.grid.levels
        level = torch.log2((d.float() * n).clamp(min=1.0)) / levels
        numbers = torch.stack([self.time_scale * t, self.time_scale * level, 10 * w / W_UNIT])
        t, d, w = sinusoids(numbers).to(self.y.weight.dtype)  # each (B, 2 * FREQUENCIES)
        return self.t(t) + self.d(d) + self.w(w) + self._label(y)  # (B, width)

    def _label(self, y: Tensor) -> Tensor:
        try:
            return self.y(y)
        except IndexError as error:  # on a CPU; to look first would have a GPU wait in every call
            null = self.y.num_embeddings - 1
            found = f"labels from {int(y.min())} to {int(y.max())}"
            raise ValueError(f"y must hold labels in 0 .. {null} ({null} is null), got {found}") from error


def _zero_(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def _init_conditioning(conditioning: Conditioning) -> None:
    for parameter in conditioning.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.02)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x * (1 + scale) + shift`` with (B, width) modulations of x (B, tokens, width) or (B, width)."""
    if x.ndim == 3:
        shift, scale = shift[:, None], scale[:, None]
    return x * (1 + scale) + shift


class ToyMLP(nn.Module):
    """Residual MLP with AdaLN-Zero modulation, for points (B, 2) and for small latents (B, C, H, W).

    The modulation is DiT's (arXiv 2212.09748); the network is this kit's.

    Args:
        dim: numbers per sample; keep ``width`` well above it, or the net cannot cancel the noise.
        width: hidden width.
        depth: residual blocks.
        num_classes: labels are 0 .. num_classes - 1, null is num_classes.
        grid: the dyadic grid, for the embedding of d; by default N = 128.
        time_scale: times are embedded as sinusoids of ``time_scale * t``. Methods whose targets have a derivative in
            time need a small one, such as 10: with 1000 the derivative is a hundred times as long.

    Raises:
        ValueError: if a size is below 1, or ``time_scale`` not positive.

    Example:
        A new network answers 0 to everything:

        >>> import torch
        >>> from ismkit import Query, ToyMLP
        >>> net = ToyMLP(dim=2, width=64, depth=2, num_classes=8)
        >>> query = Query(torch.randn(5, 2), *torch.zeros(3, 5), torch.tensor([0, 1, 2, 3, 8]))  # 8 is null
        >>> s = net(*query)
        >>> s.shape, s.abs().max().item()
        (torch.Size([5, 2]), 0.0)
        >>> net(torch.zeros(5, 3), *query[1:])
        Traceback (most recent call last):
            ...
        ValueError: x must have 2 numbers per sample, got shape (5, 3)
    """

    def __init__(
        self,
        dim: int = 2,
        width: int = 128,
        depth: int = 3,
        num_classes: int = 8,
        grid: StepGrid | None = None,
        time_scale: float = 1000.0,
    ) -> None:
        super().__init__()
        _check_shape(grid, dim=dim, width=width, depth=depth, num_classes=num_classes)
        sizes = {"dim": dim, "width": width, "depth": depth, "num_classes": num_classes}
        self.config: dict[str, Any] = sizes | {"time_scale": time_scale}
        self.dim, self.num_classes, self.grid = dim, num_classes, grid or StepGrid()
        self.embed = nn.Linear(dim, width)
        self.conditioning = Conditioning(width, num_classes, self.grid, time_scale)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(width, elementwise_affine=False),
                    "mlp": nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)),
                    "modulation": nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width)),
                }
            )
            for _ in range(depth)
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))
        self.apply(_init_linear)
        _init_conditioning(self.conditioning)
        for block in self.blocks:
            _zero_(block["modulation"][-1])  # type: ignore[index]
        _zero_(self.head[-1])  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        """Compute the average velocity.

        Args:
            x: states of ``dim`` numbers each, (B, ...).
            t: times in [0, 1], (B,).
            d: step sizes, (B,).
            w: guidance strengths, (B,).
            y: labels, (B,) long.

        Returns:
            The velocity, shaped like ``x``.

        Raises:
            TypeError: if ``y`` holds no whole numbers.
            ValueError: if ``x`` has another size, the others are not (B,), or a label is out of range (on a GPU PyTorch
                ends the process instead).
        """
        if x.shape[1:].numel() != self.dim:
            raise ValueError(f"x must have {self.dim} numbers per sample, got shape {tuple(x.shape)}")
        check_labels(y, x, "x")
        c = self.conditioning(t, d, w, y)  # (B, width)
        h = self.embed(x.flatten(1))  # (B, width)
        for block in self.blocks:
            shift, scale, gate = block["modulation"](c).chunk(3, -1)  # type: ignore[index]
            h = h + gate * block["mlp"](modulate(block["norm"](h), shift, scale))  # type: ignore[index]
        return self.head(h).view_as(x)


class Attention(nn.Module):
    """Multi-head self-attention (B, T, D) -> (B, T, D) by PyTorch's fused kernel."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend among tokens: (B, T, D) -> (B, T, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, T, D / H)
        h = F.scaled_dot_product_attention(q, k, v)  # (B, H, T, D / H)
        return self.out(h.transpose(1, 2).flatten(-2))  # (B, T, D)


class Block(nn.Module):
    """Transformer block with AdaLN-Zero: shift, scale and gate of attention and MLP come from the conditioning.

    Attributes:
        recompute: keep its input alone for the backward pass, and compute the rest again there (activation
            checkpointing): the same numbers, less memory, a forward pass more.
    """

    recompute = False

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens (B, T, D) under the conditioning c (B, D) -> (B, T, D)."""
        if self.recompute and torch.is_grad_enabled():  # nothing here is random: no generator's state is kept
            return checkpoint(self._forward, x, c, use_reentrant=False, preserve_rng_state=False)
        return self._forward(x, c)

    def _forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c).chunk(6, -1)  # each (B, D)
        x = x + gate1[:, None] * self.attention(modulate(self.norm1(x), shift1, scale1))  # (B, T, D)
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))  # (B, T, D)


class DiT(nn.Module):
    """Diffusion transformer in SiT's form, conditioned on t, d, w and y.

    As in DiT (arXiv 2212.09748) and SiT (arXiv 2401.08740): AdaLN-Zero, and fixed sin-cos positions in the order of
    their public code, columns before rows. SiT's code embeds the time itself, ``time_scale=1``, DiT's the number of a
    step, 0 to 999. The embeddings of d and w are this kit's choice.

    Args:
        size: side of the square input, a multiple of ``patch``.
        channels: channels of the input.
        patch: side of a patch; there are ``(size / patch)^2`` tokens.
        width: width of a token, a multiple of ``heads`` and of 4.
        depth: transformer blocks.
        heads: attention heads.
        num_classes: labels are 0 .. num_classes - 1, null is num_classes.
        grid: the dyadic grid, for the embedding of d; by default N = 128.
        time_scale: times are embedded as sinusoids of ``time_scale * t``, see :class:`ToyMLP`.

    Raises:
        ValueError: if a size is below 1, ``time_scale`` not positive, or the sizes do not divide as stated.

    Example:
        >>> import torch
        >>> from ismkit import PRESETS, DiT, Query
        >>> net = DiT(size=8, channels=4, patch=2, num_classes=10, **PRESETS["toy"])
        >>> net(*Query(torch.randn(2, 4, 8, 8), *torch.zeros(3, 2), torch.tensor([0, 10]))).shape
        torch.Size([2, 4, 8, 8])

        The paper's SiT-XL/2 for ImageNet at 256 pixels, built without memory for its weights:

        >>> with torch.device("meta"):
        ...     xl = DiT(size=32, channels=4, patch=2, num_classes=1000, **PRESETS["XL"])
        >>> f"{sum(weight.numel() for weight in xl.parameters()) / 1e6:.0f} million weights"
        '678 million weights'
    """

    def __init__(
        self,
        size: int,
        channels: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        num_classes: int,
        grid: StepGrid | None = None,
        time_scale: float = 1000.0,
    ) -> None:
        super().__init__()
        config = {"size": size, "channels": channels, "patch": patch, "width": width, "depth": depth, "heads": heads}
        config |= {"num_classes": num_classes}
        self.config: dict[str, Any] = config | {"time_scale": time_scale}
        _check_shape(grid, **config)
        if size % patch:
            raise ValueError(f"size must be a multiple of patch={patch}, got {size}")
        if width % heads or width % 4:
            raise ValueError(f"width must be a multiple of heads={heads} and of 4, got {width}")
        self.size, self.channels, self.patch, self.num_classes = size, channels, patch, num_classes
        self.grid = grid or StepGrid()
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.register_buffer("positions", _sincos_positions(size // patch, width), persistent=False)
        self.conditioning = Conditioning(width, num_classes, self.grid, time_scale)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.head = nn.Linear(width, patch * patch * channels)

        self.apply(_init_linear)
        nn.init.xavier_uniform_(self.embed.weight.flatten(1))
        nn.init.zeros_(self.embed.bias)  # type: ignore[arg-type]
        _init_conditioning(self.conditioning)
        for block in self.blocks:
            _zero_(block.modulation[-1])  # type: ignore[index, arg-type]
        _zero_(self.modulation[-1])  # type: ignore[arg-type]
        _zero_(self.head)

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        """Compute the average velocity of images or latents.

        Args:
            x: states, (B, channels, size, size).
            t: times in [0, 1], (B,).
            d: step sizes, (B,).
            w: guidance strengths, (B,).
            y: labels, (B,) long.

        Returns:
            The velocity, shaped like ``x``.

        Raises:
            TypeError: if ``y`` holds no whole numbers.
            ValueError: if ``x`` has another shape, the others are not (B,), or a label is out of range (on a GPU
                PyTorch ends the process instead).
        """
        if x.shape[1:] != (self.channels, self.size, self.size):
            expected = f"(B, {self.channels}, {self.size}, {self.size})"
            raise ValueError(f"x must have shape {expected}, got {tuple(x.shape)}")
        check_labels(y, x, "x")
        h = self.embed(x).flatten(2).mT + self.positions  # (B, T, D)
        c = self.conditioning(t, d, w, y)  # (B, D)
        for block in self.blocks:
            h = block(h, c)  # (B, T, D)
        shift, scale = self.modulation(c).chunk(2, -1)  # each (B, D)
        h = self.head(modulate(self.norm(h), shift, scale))  # (B, T, P * P * C)
        side = self.size // self.patch
        h = h.unflatten(1, (side, side)).unflatten(-1, (self.patch, self.patch, self.channels))  # (B, S, S, P, P, C)
        return h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # (B, C, size, size)


def _sincos_positions(side: int, width: int) -> Tensor:
    """Fixed 2D sin-cos position embedding, (side * side, width): first the features of the column, then of the row."""
    planned = torch.empty(side * side, width)
    if planned.is_meta:  # to compute no numbers PyTorch imports its compiler, in over 1 s
        return planned
    frequencies = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies  # (S, D / 4)
    axis = torch.cat([angles.sin(), angles.cos()], 1)  # (S, D / 2)
    rows, columns = axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)
    return torch.cat([columns, rows], -1).flatten(0, 1).float()


def _check_shape(grid: StepGrid | None, **sizes: int) -> None:
    for name, value in sizes.items():
        if type(value) is not int or value < 1:  # NumPy's would not go into a card
            raise ValueError(f"{name} must be an integer of at least 1, got {shown(value)}")
    if grid is not None and not isinstance(grid, StepGrid):
        raise TypeError(f"grid must be a StepGrid or None, got {shown(grid)}")


#: Shapes of the published transformers (DiT, SiT); S/2 means ``DiT(..., patch=2, **PRESETS["S"])``.
PRESETS: dict[str, dict[str, int]] = {
    "toy": {"width": 128, "depth": 4, "heads": 4},
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "XL": {"width": 1152, "depth": 28, "heads": 16},
}
