"""Representation alignment (REPA, arXiv 2410.06940): hidden tokens of a transformer near features of the clean data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ismkit.method.path import Query, StepLengths, expand_as, step_lengths_of
from ismkit.method.recipes import Context
from ismkit.models.nets import DiT
from ismkit.utils.checks import check_count, check_kind, check_number, shown
from ismkit.utils.settings import check_types


class Aligned(nn.Module):
    """A transformer with a head on the tokens after one of its blocks, for :class:`RepaTerm`.

    It has the call signature of the transformer and its answers, so it is trained, averaged and sampled like one. In
    training the head runs as a hook of the block and leaves what it made for the term, which takes it away. In eval
    mode, as averages are, there is no head: targets and samples cost what they did. Save ``aligned.net``, the plain
    transformer, as a model; checkpoints hold both.

    It works with DDP, with compiled blocks and with activation checkpointing; FSDP was not tried.

    Args:
        net: the transformer.
        block: after how many blocks the tokens are taken, from 1 on (REPA: 8 of 28).
        dim: numbers of a feature.
        hidden: width of the head's two hidden layers (REPA: 2048).

    Raises:
        TypeError: if ``net`` is no DiT.
        ValueError: if it has fewer blocks, or a size is below 1.

    Example:
        >>> import torch
        >>> from ismkit import DiT, Query
        >>> from ismkit.neighbours import Aligned
        >>> dit = DiT(size=8, channels=1, patch=2, width=16, depth=2, heads=2, num_classes=3)
        >>> net = Aligned(dit, block=1, dim=6, hidden=32)
        >>> query = Query(torch.randn(5, 1, 8, 8), *torch.zeros(3, 5), torch.zeros(5).long())
        >>> net(*query).shape, net.take().shape
        (torch.Size([5, 1, 8, 8]), torch.Size([5, 16, 6]))
    """

    def __init__(self, net: DiT, block: int, dim: int, hidden: int = 256) -> None:
        super().__init__()
        check_kind("net", net, DiT)
        block, dim, hidden = (
            check_count(name, value) for name, value in (("block", block), ("dim", dim), ("hidden", hidden))
        )
        if block > len(net.blocks):
            raise ValueError(f"block must be one of net's, at most {len(net.blocks)}, got {block}")
        self.net, self.num_classes, self.grid = net, net.num_classes, net.grid
        self.config: dict[str, Any] = {"net": net.config, "block": block, "dim": dim, "hidden": hidden}
        self.head = nn.Sequential(
            *(nn.Linear(net.config["width"], hidden), nn.SiLU()),
            *(nn.Linear(hidden, hidden), nn.SiLU()),
            nn.Linear(hidden, dim),
        )
        self._made: Tensor | None = None
        net.blocks[block - 1].register_forward_hook(self._align)

    def _align(self, block: nn.Module, given: Any, tokens: Tensor) -> None:
        if self.training and torch.is_grad_enabled():
            self._made = self.head(tokens)

    @property
    def step_lengths(self) -> StepLengths:
        """Which steps the transformer was trained on; a training writes them on it, so that its file has them."""
        return step_lengths_of(self.net)

    @step_lengths.setter
    def step_lengths(self, lengths: StepLengths) -> None:
        self.net.step_lengths = lengths  # type: ignore[assignment]

    @property
    def blocks(self) -> nn.ModuleList:
        """Those of the transformer, which are compiled and recomputed one by one."""
        return self.net.blocks

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        """The transformer's answer; see :meth:`ismkit.models.nets.DiT.forward`."""
        return self.net(x, t, d, w, y)

    def take(self) -> Tensor:
        """What the head made in the last forward pass of the training, (B, tokens, dim); once.

        Raises:
            ValueError: if there is nothing: the network is in eval mode, or has not been asked.
        """
        made, self._made = self._made, None
        if made is None:
            raise ValueError("net must be in training mode and have answered with gradient: the head has made nothing")
        return made

    def __getstate__(self) -> dict[str, Any]:
        """For copies: what the head made belongs to one step."""
        return self.__dict__ | {"_made": None}


@dataclass(frozen=True)
class RepaTerm:
    """Minus the mean cosine between the head's tokens and features of the clean data (REPA, arXiv 2410.06940).

    For any recipe whose network is an :class:`Aligned`; all rows count. The clean data are ``x + (1 - t) v``. Where
    features are those of a judge, the network is trained on the judge: judge by other features too.

    Attributes:
        encoder: maps clean data (B, ...) to features (B, tokens, dim), in the transformer's order of tokens: rows from
            the top, each from the left. Without gradient; a network must be in eval mode, on the device.
        weight: of the term, positive (REPA: 0.5).

    Raises:
        ValueError: if the encoder is not a function, or the weight not positive; by the call, for a network without a
            head, or features of another shape.

    Example:
        >>> from dataclasses import replace
        >>> import torch
        >>> from ismkit import RECIPES, DiT, TwinEMA, training_step
        >>> from ismkit.neighbours import Aligned, RepaTerm
        >>> def patches(x1):  # 4 x 4 patches of 2 x 2 pixels, as features
        ...     return torch.nn.functional.unfold(x1, 2, stride=2).mT
        >>> dit = DiT(size=8, channels=1, patch=2, width=16, depth=2, heads=2, num_classes=3)
        >>> net, rng = Aligned(dit, block=1, dim=4), torch.Generator().manual_seed(0)
        >>> recipe = replace(RECIPES["flow"], name="repa", terms=(RepaTerm(patches),))
        >>> pair = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8), torch.zeros(4).long()
        >>> loss, _, distance = training_step(recipe, net, TwinEMA(net), pair, null=3, rng=rng)
        >>> bool(abs(loss - distance.mean()) <= 0.5)
        True
    """

    asks: ClassVar[bool] = False  # the head answered with the network
    encoder: Callable[[Tensor], Tensor]
    weight: float = 0.5

    def __post_init__(self) -> None:
        check_types(self)
        if not callable(self.encoder) or isinstance(self.encoder, type):
            raise ValueError(f"encoder must be a function of clean data, got {shown(self.encoder)}")
        check_number("weight", self.weight, "above 0", 1e-300)

    def __call__(self, net: nn.Module, prediction: Tensor, query: Query, velocity: Tensor, context: Context) -> Tensor:
        """The term, a scalar; see :class:`ismkit.method.recipes.Term`."""
        plain = getattr(net, "module", net)  # of DDP
        if not isinstance(plain, Aligned):
            raise ValueError(f"net must be Aligned, a transformer with a head, got {type(plain).__name__}")
        made = plain.take()
        with torch.no_grad():
            features = self.encoder(query.x + expand_as(1 - query.t, query.x) * velocity)
        if features.shape != made.shape:
            raise ValueError(f"encoder must give features {tuple(made.shape)}, got {tuple(features.shape)}")
        return -self.weight * F.cosine_similarity(made.float(), features.float(), dim=-1).mean()
