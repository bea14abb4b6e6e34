"""A negative class in two spaces: closed forms, and that a copy alone is changed."""

import pytest
import torch
from torch import Tensor, nn

from ismkit.lessons.closed_forms import ClassMixture
from ismkit.method.path import Query
from ismkit.method.sampling import sample
from ismkit.models.nets import DiT, ToyMLP
from ismkit.neighbours import NegativeClass, shifted

NULL, NEGATIVE, BETA = 3, 1, 0.7


def network(kind: str) -> ToyMLP | DiT:
    torch.manual_seed(0)
    net: ToyMLP | DiT = ToyMLP(width=16, depth=2, num_classes=NULL)
    if kind == "dit":
        net = DiT(size=4, channels=1, patch=2, width=16, depth=2, heads=2, num_classes=NULL)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return net.eval()


def asked(kind: str) -> Query:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(8, *((2,) if kind == "mlp" else (1, 4, 4)), generator=rng)
    return Query(x, torch.rand(8, generator=rng), torch.ones(8) / 4, torch.rand(8, generator=rng), torch.arange(8) % 4)


@pytest.mark.parametrize("kind", ["mlp", "dit"])
def test_answers_are_those_of_the_formula(kind: str) -> None:
    net, query = network(kind), asked(kind)
    zero = torch.zeros(8)
    x, t, d, _, y = query
    away = net(x, t, d, zero, torch.full_like(y, NEGATIVE)) - net(x, t, d, zero, torch.full_like(y, NULL))
    strength = torch.where(y == NEGATIVE, 0.0, BETA).view(-1, *[1] * (x.ndim - 1))
    found = NegativeClass(net, NEGATIVE, NULL, BETA)(*query)
    torch.testing.assert_close(found, net(*query) - strength * away, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["mlp", "dit"])
def test_the_conditioning_is_that_of_the_formula_in_a_copy(kind: str) -> None:
    net, query = network(kind), asked(kind)
    before = net.conditioning.y.weight.clone()
    found = shifted(net, NEGATIVE, BETA)
    assert net.conditioning.y.weight.equal(before)
    _, t, d, w, y = query
    away = before[NEGATIVE] - before[NULL]
    strength = torch.where(y == NEGATIVE, 0.0, BETA)[:, None]
    expected = net.conditioning(t, d, w, y) - strength * away
    torch.testing.assert_close(found.conditioning(t, d, w, y), expected, rtol=1e-5, atol=1e-6)
    assert not found(*query)[:1].allclose(net(*query)[:1])


@pytest.mark.parametrize("kind", ["mlp", "dit"])
def test_without_strength_it_is_the_network(kind: str) -> None:
    net, query = network(kind), asked(kind)
    torch.testing.assert_close(NegativeClass(net, NEGATIVE, NULL, 0.0)(*query), net(*query))
    torch.testing.assert_close(shifted(net, NEGATIVE, 0.0)(*query), net(*query))


def test_both_spaces_agree_where_answers_are_linear_in_the_embedding() -> None:
    """A network whose head alone sees the conditioning: a shift of the one is a shift of the other."""

    class Linear(ToyMLP):
        def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
            return self.head[1](self.conditioning(t, d, w, y))

    torch.manual_seed(0)
    net, query = Linear(width=16, depth=1, num_classes=NULL), asked("mlp")
    nn.init.normal_(net.head[1].weight)
    query = query._replace(w=torch.zeros(8))
    expected = NegativeClass(net, NEGATIVE, NULL, BETA)(*query)
    torch.testing.assert_close(shifted(net, NEGATIVE, BETA)(*query), expected, rtol=1e-5, atol=1e-6)


def test_samples_of_the_open_class_avoid_the_negative_one() -> None:
    """With the exact velocity of two classes at -1 and 1, fewer than half as many end at the other one."""
    mixture = ClassMixture(means=((-1.0, 0.0), (1.0, 0.0)), classes=(0, 1), std=0.2)

    def net(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return mixture.velocity(x, t, y)

    x0, y = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)), torch.full((500,), 2)
    plain = sample(net, x0, y, nfe=32)
    avoiding = sample(NegativeClass(net, 1, 2, 1.0), x0, y, nfe=32)
    assert 0.4 < (plain[:, 0] > 0).float().mean() < 0.6
    assert (avoiding[:, 0] > 0).float().mean() < (plain[:, 0] > 0).float().mean() / 2


def test_it_makes_the_steps_that_the_network_was_trained_on() -> None:
    net = network("mlp")
    net.step_lengths = "to data"  # type: ignore[assignment]
    query = asked("mlp")
    with pytest.raises(ValueError, match="renoise") as plain:
        sample(net, query.x, query.y, nfe=2)
    with pytest.raises(ValueError, match="renoise") as avoiding:
        sample(NegativeClass(net, NEGATIVE, NULL, BETA), query.x, query.y, nfe=2)
    assert str(plain.value) == str(avoiding.value)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="label must be a class, below null = 3, got 3"):
        NegativeClass(network("mlp"), 3, NULL, 1.0)
    with pytest.raises(ValueError, match="label must be a class, below null = 3, got 3"):
        shifted(network("mlp"), 3, 1.0)
    with pytest.raises(TypeError, match="net must be a ToyMLP or a DiT"):
        shifted(NegativeClass(network("mlp"), 1, NULL, 1.0), 1, 1.0)  # type: ignore[arg-type]
