"""A negative class at sampling, after NASA (arXiv 2412.02687): what a one-step generator should keep away from.

NASA subtracts, inside a network of one step, the cross-attention output of a negative prompt from that of the prompt:
classifier-free guidance between answers blends both pictures there. The kit's networks have classes, and neither text
nor cross-attention. So its two spaces are compared by their likes: of answers (:class:`NegativeClass`), and of the
embedding by which a label enters every block (:func:`shifted`).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from ismkit.method.path import Network, Query, check_network, expand_as, grid_of, step_lengths_of
from ismkit.method.recipes import ask
from ismkit.models.nets import DiT, ToyMLP
from ismkit.utils.checks import check_count, check_kind, check_number


class NegativeClass(nn.Module):
    """Keeps away from a class in the space of answers: ``s(w, y) - beta (s(0, y_neg) - s(0, null))``.

    It wraps a network, so that the sampler treats it like any other. The three questions are one call of three times
    the rows. A row whose label is null keeps away as well; one with the negative label itself stays as it is.

    Args:
        net: the network.
        label: the negative class, y_neg.
        null: the null label, ``num_classes``.
        beta: how strongly; 0 for not at all.

    Raises:
        TypeError: if ``net`` is not a function.
        ValueError: if ``label`` is no class below null, or ``beta`` not finite.

    Example:
        >>> import torch
        >>> from ismkit.neighbours import NegativeClass
        >>> def net(x, t, d, w, y):  # answers 3, 1 and 0 for the labels 0, 1 and 2, which is null
        ...     return torch.tensor([3.0, 1.0, 0.0])[y][:, None]
        >>> zero = torch.zeros(3)
        >>> NegativeClass(net, label=1, null=2, beta=2.0)(zero[:, None], zero, zero, zero, torch.arange(3)).flatten()
        tensor([ 1.,  1., -2.])
    """

    def __init__(self, net: Network, label: int, null: int, beta: float) -> None:
        super().__init__()
        check_network("net", net)
        self.net = net
        self.step_lengths, self.grid = step_lengths_of(net), grid_of(net)  # for the sampler
        self.null = self.num_classes = check_count("null", null)
        self.label, self.beta = _label(label, self.null), _beta(beta)

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        """Compute the average velocity.

        Args:
            x: states, (B, ...).
            t: times in [0, 1], (B,).
            d: step sizes, (B,).
            w: guidance strengths, (B,), of the first answer.
            y: labels, (B,) long.

        Returns:
            The velocity, shaped like ``x``.
        """
        zero = torch.zeros_like(w)
        away = (Query(x, t, d, zero, torch.full_like(y, label)) for label in (self.label, self.null))
        answer, negative, null = ask(*((self.net, query) for query in (Query(x, t, d, w, y), *away)))
        strength = torch.where(y == self.label, 0.0, self.beta).to(answer.dtype)
        return answer - expand_as(strength, x) * (negative - null)


def shifted(net: ToyMLP | DiT, label: int, beta: float) -> ToyMLP | DiT:
    """Keep away from a class in the space of the conditioning: ``c(y) - beta (e(y_neg) - e(null))``.

    ``c`` is the embedding that modulates every block, the sum of those of t, d, w and y; ``e`` that of a label. Since
    they are summed, the shift is one of the label's embeddings: a copy of the network has it in its weights, and costs
    nothing at sampling (NASA: 1.89 % more FLOPs). The negative label itself stays as it is, the null label does not.

    Args:
        net: the network, which is not changed.
        label: the negative class, y_neg.
        beta: how strongly; 0 for not at all.

    Returns:
        A copy.

    Raises:
        TypeError: if ``net`` is another network.
        ValueError: if ``label`` is none of its classes, or ``beta`` not finite.

    Example:
        >>> import torch
        >>> from ismkit import ToyMLP
        >>> from ismkit.neighbours import shifted
        >>> net = ToyMLP(width=16, depth=1, num_classes=3)
        >>> before, after = (n.conditioning.y.weight for n in (net, shifted(net, label=1, beta=0.5)))
        >>> torch.allclose(after[0], before[0] - 0.5 * (before[1] - before[3])), after[1].equal(before[1])
        (True, True)
    """
    check_kind("net", net, ToyMLP, DiT)
    label, beta = _label(label, net.num_classes), _beta(beta)
    found = copy.deepcopy(net)
    with torch.no_grad():
        weight = found.conditioning.y.weight
        strength = torch.full((len(weight), 1), beta, dtype=weight.dtype, device=weight.device)
        strength[label] = 0
        weight -= strength * (weight[label] - weight[-1]).clone()
    return found


def _label(label: int, null: int) -> int:
    label = check_count("label", label, 0)
    if label >= null:
        raise ValueError(f"label must be a class, below null = {null}, got {label}")
    return label


def _beta(beta: float) -> float:
    check_number("beta", beta, "that is finite", -math.inf)
    return float(beta)
