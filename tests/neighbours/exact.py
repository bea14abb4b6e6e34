"""A flow that is known: noise N(0, 1) to one Gaussian for each class, and what rows ask of it. In float64."""

import torch
from torch import Tensor

from ismkit.method.path import Query
from ismkit.method.recipes import Context
from ismkit.method.rows import Intervals

MEANS = torch.tensor([[1.0, -0.5], [-2.0, 0.3], [0.4, 0.1]], dtype=torch.float64)  # the last: null
STD, NULL = 0.7, 2
ROWS = Intervals(consistency=1.0, label_dropout=0.0)


def scale(t: Tensor) -> Tensor:
    """Standard deviation of x_t: noise N(0, 1), data N(mean, STD^2)."""
    return ((1 - t) ** 2 + (STD * t) ** 2).sqrt()


def flow(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """The average velocity over [t, t + d] of the exact flow; the velocity at d = 0."""
    return towards(MEANS[y], x, t, d)


def towards(mean: Tensor, x: Tensor, t: Tensor, d: Tensor) -> Tensor:
    """The same of the flow to a Gaussian around some mean."""
    t, d = t[:, None], d[:, None]
    end = (t + d) * mean + scale(t + d) / scale(t) * (x - t * mean)
    rate = (-(1 - t) + STD**2 * t) / scale(t) ** 2
    return torch.where(d == 0, mean + rate * (x - t * mean), (end - x) / torch.where(d == 0, 1.0, d))


CONTEXT = Context(flow, flow, null=NULL)


def asked(n: int = 64, seed: int = 0, rows: Intervals = ROWS) -> tuple[Query, Tensor]:
    """What rows ask, and the exact velocity there in the place of a sample's."""
    rng = torch.Generator().manual_seed(seed)
    x0, x1 = torch.randn(2, n, 2, generator=rng, dtype=torch.float64)
    query, _ = rows(x0, x1, torch.arange(n) % 2, NULL, rng)
    query = Query(*(column.double() for column in query[:4]), query.y)
    return query, flow(query.x, query.t, torch.zeros_like(query.d), query.w, query.y)
