"""The networks against formulas written out with plain matrix products, with every weight randomised.

A fresh network answers 0 (AdaLN-Zero), which would hide any mistake.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ismkit.method.path import StepGrid
from ismkit.models.nets import PRESETS, DiT, ToyMLP, modulate, sinusoids

Net = DiT | ToyMLP
seeds = st.integers(0, 2**32 - 1)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(net: Net, seed: int = 0, dtype: torch.dtype = torch.float64) -> Net:
    generator = rng(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            fan_in = parameter.shape[1:].numel() if parameter.ndim > 1 else 1
            parameter.normal_(std=fan_in**-0.5, generator=generator)
    return net.to(dtype)


def small_dit(**sizes: int) -> DiT:
    default = {"size": 4, "channels": 3, "patch": 2, "width": 8, "depth": 2, "heads": 2, "num_classes": 5}
    return DiT(**default | sizes)  # type: ignore[arg-type]


def question(net: Net, n: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """A query of n rows on the grid: (x, t, d, w, y)."""
    generator = rng(seed)
    shape = (net.dim,) if isinstance(net, ToyMLP) else (net.channels, net.size, net.size)
    x = torch.randn(n, *shape, dtype=dtype, generator=generator)
    d = 2.0 ** -torch.randint(0, 8, (n,), generator=generator)
    d = torch.where(d < 1 / 64, 0.0, d)
    t = torch.rand(n, generator=generator) * (1 - d)
    w = torch.randint(0, 15, (n,), generator=generator) / 4
    y = torch.randint(0, net.num_classes + 1, (n,), generator=generator)
    return x, t, d, w, y


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


# ------------------------------------------------------------------------------------------ independent formulas


class Weights:
    """The parameters of a network by name, and the layers as plain arithmetic."""

    def __init__(self, net: nn.Module) -> None:
        self.of = {name: parameter.detach() for name, parameter in net.named_parameters()}

    def linear(self, name: str, x: Tensor) -> Tensor:
        return torch.einsum("...i,oi->...o", x, self.of[f"{name}.weight"]) + self.of[f"{name}.bias"]

    def two_layers(self, name: str, x: Tensor) -> Tensor:
        return self.linear(f"{name}.2", silu(self.linear(f"{name}.0", x)))

    def conditioning(self, t: Tensor, d: Tensor, w: Tensor, y: Tensor, n: int = 128) -> Tensor:
        rows = []
        for time, step, strength, label in zip(t.tolist(), d.tolist(), w.tolist(), y.tolist(), strict=True):
            level = math.log2(max(step * n, 1)) / math.log2(n)
            rows.append(
                self.two_layers("conditioning.t", waves(1000 * time))
                + self.two_layers("conditioning.d", waves(1000 * level))
                + self.two_layers("conditioning.w", waves(40 * strength))
                + self.of["conditioning.y.weight"][label]
            )
        return torch.stack(rows)


def waves(number: float) -> Tensor:
    angles = [number * 10_000 ** (-k / 128) for k in range(128)]
    return torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles], dtype=torch.float64)


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def normalise(x: Tensor, eps: float) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def mlp_by_hand(net: ToyMLP, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
    by = Weights(net)
    c = by.conditioning(t, d, w, y)
    h = by.linear("embed", x)
    for i in range(net.config["depth"]):
        shift, scale, gate = by.linear(f"blocks.{i}.modulation.1", silu(c)).split(h.shape[1], 1)
        h = h + gate * by.two_layers(f"blocks.{i}.mlp", normalise(h, 1e-5) * (1 + scale) + shift)
    h = normalise(h, 1e-5) * by.of["head.0.weight"] + by.of["head.0.bias"]
    return by.linear("head.1", h)


def dit_by_hand(net: DiT, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
    by, p, width, heads = Weights(net), net.patch, net.config["width"], net.config["heads"]
    side, channels = net.size // p, net.channels
    # Tokens row by row, each the product of its patch with the kernel, plus sines of its column and its row.
    tokens = []
    for i in range(side):
        for j in range(side):
            patch = x[:, :, i * p : (i + 1) * p, j * p : (j + 1) * p]
            angles = [[place * 10_000 ** (-4 * k / width) for k in range(width // 4)] for place in (j, i)]
            position = [f(a) for axis in angles for f in (math.sin, math.cos) for a in axis]
            token = torch.einsum("bcpq,ocpq->bo", patch, by.of["embed.weight"]) + by.of["embed.bias"]
            tokens.append(token + torch.tensor(position, dtype=torch.float32))  # kept in float32
    h = torch.stack(tokens, 1)
    c = silu(by.conditioning(t, d, w, y))[:, None]
    for i in range(net.config["depth"]):
        name = f"blocks.{i}"
        shift1, scale1, gate1, shift2, scale2, gate2 = by.linear(f"{name}.modulation.1", c).split(width, -1)
        qkv = by.linear(f"{name}.attention.qkv", normalise(h, 1e-6) * (1 + scale1) + shift1)
        q, k, v = (part.reshape(*part.shape[:2], heads, -1) for part in qkv.split(width, -1))
        scores = torch.einsum("bthe,bshe->bhts", q, k) / math.sqrt(width / heads)
        attention = scores.exp() / scores.exp().sum(-1, keepdim=True)
        mixed = torch.einsum("bhts,bshe->bthe", attention, v).reshape(h.shape)
        h = h + gate1 * by.linear(f"{name}.attention.out", mixed)
        hidden = gelu(by.linear(f"{name}.mlp.0", normalise(h, 1e-6) * (1 + scale2) + shift2))
        h = h + gate2 * by.linear(f"{name}.mlp.2", hidden)
    shift, scale = by.linear("modulation.1", c).split(width, -1)
    h = by.linear("head", normalise(h, 1e-6) * (1 + scale) + shift)
    image = torch.empty_like(x)
    for i in range(side):
        for j in range(side):
            patch = h[:, i * side + j].reshape(-1, p, p, channels)
            image[:, :, i * p : (i + 1) * p, j * p : (j + 1) * p] = torch.einsum("bpqc->bcpq", patch)
    return image


def near(a: Tensor, b: Tensor) -> None:
    """Equal but for the features of t, d and w: float32 also in a float64 network, so up to 1000 * 6e-8 = 6e-5 off."""
    torch.testing.assert_close(a, b, rtol=4e-4, atol=4e-4)  # ten times what is seen over seeds


@pytest.mark.parametrize("seed", range(3))
def test_toy_mlp_is_its_formula(seed: int) -> None:
    net = ToyMLP(dim=3, width=6, depth=2, num_classes=4)
    randomised(net, seed)
    query = question(net, 7, seed)
    near(net(*query), mlp_by_hand(net, *query))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("size", "patch", "width", "heads"), [(4, 2, 8, 2), (6, 2, 12, 3), (4, 1, 4, 1), (3, 3, 8, 4)])
def test_dit_is_its_formula(size: int, patch: int, width: int, heads: int, seed: int) -> None:
    net = small_dit(size=size, patch=patch, width=width, heads=heads)
    randomised(net, seed)
    query = question(net, 4, seed)
    near(net(*query), dit_by_hand(net, *query))


def test_toy_mlp_takes_small_latents_as_their_numbers() -> None:
    net = ToyMLP(dim=12, width=6, depth=2, num_classes=4)
    randomised(net)
    x, *rest = question(net, 5)
    latents = x.reshape(5, 3, 2, 2)
    assert torch.equal(net(latents, *rest), net(x, *rest).reshape(5, 3, 2, 2))
    turned = latents.transpose(1, 3)  # not contiguous: read as it stands
    assert torch.equal(net(turned, *rest), net(turned.flatten(1), *rest).reshape(turned.shape))


def test_at_numbers_whose_features_are_exact_the_formulas_agree_to_float64() -> None:
    # At t = d = w = 0 every feature is cos 0 = 1 or sin 0 = 0.
    for net, formula in ((ToyMLP(dim=3, width=6, num_classes=4), mlp_by_hand), (small_dit(), dit_by_hand)):
        randomised(net)
        x, t, _, _, y = question(net, 5)
        zero = torch.zeros_like(t)
        close(net(x, zero, zero, zero, y), formula(net, x, zero, zero, zero, y))  # type: ignore[arg-type]


@given(st.floats(0, 1000))
def test_sinusoids(number: float) -> None:
    features = sinusoids(torch.tensor([number], dtype=torch.float64))
    assert features.dtype == torch.float32
    assert features.shape == (1, 256)
    torch.testing.assert_close(features[0].double(), waves(number), rtol=0, atol=2e-4)  # 1000 in float32
    torch.testing.assert_close(features[:, :128] ** 2 + features[:, 128:] ** 2, torch.ones(1, 128))


@pytest.mark.parametrize(("side", "width"), [(1, 4), (4, 8), (16, 1152)])
def test_positions_are_those_of_mae_dit_and_sit(side: int, width: int) -> None:
    """Their ``get_2d_sincos_pos_embed`` in float64: of NumPy's mesh grid the first part is the column."""
    omega = 1 / 10_000 ** (np.arange(width // 4, dtype=np.float64) / (width / 4))
    grid = np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32))  # here w goes first
    angles = [np.einsum("m,d->md", axis.reshape(-1), omega) for axis in grid]
    want = np.concatenate([f(axis) for axis in angles for f in (np.sin, np.cos)], axis=1)
    found = DiT(size=side, channels=1, patch=1, width=width, depth=1, heads=1, num_classes=1).positions
    np.testing.assert_allclose(found.numpy(), want, rtol=0, atol=1e-7)  # float32 rounds by up to 6e-8


def test_modulate_images_and_points_alike() -> None:
    x, shift, scale = torch.randn(3, 2, 4, 5, generator=rng(0))[:, :, 0], *torch.randn(2, 2, 5, generator=rng(1))
    assert x.shape == (3, 2, 5)
    tokens = torch.randn(2, 4, 5, generator=rng(2))
    out = modulate(tokens, shift, scale)
    for b in range(2):
        for token in range(4):
            close(out[b, token], tokens[b, token] * (1 + scale[b]) + shift[b])
    close(modulate(tokens[:, 0], shift, scale), out[:, 0])


# ---------------------------------------------------------------------------------------------------------- sizes


def published_size(
    width: int, depth: int, patch: int = 2, classes: int = 1000, channels: int = 4, size: int = 32
) -> int:
    """Parameters of DiT as published: embeddings of t and y, fixed positions counted, sigma predicted too."""
    embed = patch**2 * channels * width + width
    positions = (size // patch) ** 2 * width
    time = 256 * width + width + width * width + width
    labels = (classes + 1) * width
    block = 4 * (width**2 + width) + (8 * width**2 + 5 * width) + 6 * (width**2 + width)
    head = 2 * (width**2 + width) + (width + 1) * patch**2 * 2 * channels
    return embed + positions + time + labels + depth * block + head


@pytest.mark.parametrize(("name", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_parameters_of_the_published_sizes(name: str, millions: int) -> None:
    preset = PRESETS[name]
    with torch.device("meta"):
        net = DiT(32, 4, 2, num_classes=1000, **preset)  # type: ignore[arg-type]
    width = preset["width"]
    published = published_size(width, preset["depth"])
    assert int(published / 1e6 + 0.5) == millions or int(published / 1e6) == millions
    # Ours has two more embedders (d and w), no sigma head, and positions that are a buffer.
    embedders = 2 * (256 * width + width + width * width + width)
    sigma = 4 * 4 * (width + 1)
    assert sum(p.numel() for p in net.parameters()) == published + embedders - sigma - 256 * width
    if name == "XL":
        assert published == 675_129_632
        assert embedders == 3_248_640


# ------------------------------------------------------------------------------------------------------ properties


def nets() -> list[Net]:
    return [ToyMLP(dim=3, width=8, depth=2, num_classes=4), small_dit()]


@pytest.mark.parametrize("net", nets(), ids=["mlp", "dit"])
def test_a_fresh_network_answers_zero(net: Net) -> None:
    query = question(net, 4, dtype=torch.float32)
    assert not net(*query).any()


@pytest.mark.parametrize("net", nets(), ids=["mlp", "dit"])
def test_a_fresh_network_can_learn(net: Net) -> None:
    x, *rest = question(net, 4, dtype=torch.float32)
    (net(x, *rest) - 1).square().mean().backward()
    head = net.head if isinstance(net.head, nn.Linear) else net.head[-1]
    assert isinstance(head, nn.Linear)
    assert head.bias.grad is not None
    assert head.bias.grad.abs().min() > 0


@pytest.mark.parametrize("column", range(5), ids=["x", "t", "d", "w", "y"])
@pytest.mark.parametrize("net", nets(), ids=["mlp", "dit"])
def test_the_answer_depends_on_every_part_of_the_question(net: Net, column: int) -> None:
    randomised(net)
    x, *_ = question(net, 1)
    one = [x, torch.tensor([0.25]), torch.tensor([0.25]), torch.tensor([1.0]), torch.tensor([2])]
    other = [x + 0.1, torch.tensor([0.5]), torch.tensor([0.5]), torch.tensor([1.25]), torch.tensor([3])]
    changed = [*one[:column], other[column], *one[column + 1 :]]
    difference = (net(*changed) - net(*one)).abs().max() / net(*one).abs().max()
    assert difference > 1e-4  # rounding is 1e-15


@pytest.mark.parametrize("net", nets(), ids=["mlp", "dit"])
def test_neighbouring_step_sizes_and_strengths_are_told_apart(net: Net) -> None:
    randomised(net)
    x, *_ = question(net, 1)
    one = torch.ones(1)
    y = torch.tensor([0])
    sizes = [net(x, 0 * one, d * one, one, y) for d in (0, *(2.0**-k for k in range(6, -1, -1)))]
    strengths = [net(x, 0 * one, one, w / 4 * one, y) for w in range(15)]
    labels = [net(x, 0 * one, one, one, torch.tensor([c])) for c in range(net.num_classes + 1)]
    for answers in (sizes, strengths, labels):
        distances = torch.pdist(torch.stack(answers).flatten(1))
        assert distances.min() > 1e-4 * answers[0].norm()


def test_the_finest_step_is_asked_as_zero() -> None:
    net = small_dit()
    randomised(net)
    x, t, _, w, y = question(net, 3)
    assert torch.equal(net(x, t, torch.full_like(t, 1 / 128), w, y), net(x, t, torch.zeros_like(t), w, y))


def test_the_step_sizes_of_another_grid_are_embedded_by_their_level() -> None:
    nets = [ToyMLP(dim=2, width=8, depth=1, num_classes=2, grid=StepGrid(n)) for n in (4, 128)]
    for net in nets:
        randomised(net)
    x, t, _, w, y = question(nets[0], 3)
    ends = [[net(x, t, torch.full_like(t, d), w, y) for d in (0.0, 0.5, 1.0)] for net in nets]
    close(ends[0][0], ends[1][0])
    close(ends[0][2], ends[1][2])
    assert (ends[0][1] - ends[1][1]).abs().max() > 1e-3  # level 1 of 2, and level 6 of 7


@given(st.integers(1, 6), seeds, st.sampled_from([torch.float32, torch.float64]), st.integers(0, 1))
@settings(max_examples=20)
def test_rows_are_answered_one_by_one(n: int, seed: int, dtype: torch.dtype, which: int) -> None:
    net = nets()[which]
    randomised(net, seed, dtype)
    query = question(net, n, seed, dtype)
    answer = net(*query)
    assert answer.shape == query[0].shape
    assert answer.dtype == dtype
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    order = torch.randperm(n, generator=rng(seed))
    torch.testing.assert_close(net(*(column[order] for column in query)), answer[order], rtol=tolerance, atol=tolerance)
    for i in range(n):
        torch.testing.assert_close(
            net(*(column[i : i + 1] for column in query)), answer[i : i + 1], rtol=tolerance, atol=tolerance
        )


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 4))
@settings(max_examples=20)
def test_a_transformer_of_any_sizes_that_divide(
    tokens: int, patch: int, channels: int, heads: int, depth: int, classes: int
) -> None:
    net = DiT(tokens * patch, channels, patch, 4 * heads, depth, heads, classes)
    randomised(net, dtype=torch.float32)
    query = question(net, 2, dtype=torch.float32)
    answer = net(*query)
    assert answer.shape == query[0].shape
    assert torch.isfinite(answer).all()
    again = DiT(**net.config)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(*query), answer)


def test_a_toy_mlp_is_rebuilt_from_its_config() -> None:
    net = ToyMLP(dim=3, width=5, depth=1, num_classes=2)
    randomised(net, dtype=torch.float32)
    again = ToyMLP(**net.config)
    again.load_state_dict(net.state_dict())
    query = question(net, 3, dtype=torch.float32)
    assert torch.equal(again(*query), net(*query))


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", ["size", "channels", "patch", "width", "depth", "heads", "num_classes"])
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_of_a_transformer_below_one_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got {value}"):
        small_dit(**{name: value})


@pytest.mark.parametrize("name", ["dim", "width", "depth", "num_classes"])
def test_sizes_of_a_toy_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got 0"):
        ToyMLP(**{name: 0})  # type: ignore[arg-type]


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="size must be a multiple of patch=2, got 5"):
        small_dit(size=5)
    with pytest.raises(ValueError, match="width must be a multiple of heads=3 and of 4, got 8"):
        small_dit(heads=3)
    with pytest.raises(ValueError, match="width must be a multiple of heads=2 and of 4, got 6"):
        small_dit(width=6)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 4), (3, 4, 4), (2, 3, 8, 8)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    rest = torch.zeros(3, shape[0])
    with pytest.raises(ValueError, match=r"x must have shape \(B, 3, 4, 4\), got \("):
        small_dit()(torch.zeros(shape), *rest, torch.zeros(shape[0], dtype=torch.long))


@pytest.mark.parametrize("shape", [(2, 2), (2, 3, 2), (3,)])
def test_points_of_another_dimension_are_refused(shape: tuple[int, ...]) -> None:
    rest = torch.zeros(3, shape[0])
    with pytest.raises(ValueError, match=r"x must have 3 numbers per sample, got shape \("):
        ToyMLP(dim=3)(torch.zeros(shape), *rest, torch.zeros(shape[0], dtype=torch.long))


NETS = {
    "ToyMLP": lambda: ToyMLP(dim=16, width=8, depth=1, num_classes=3),
    "DiT": lambda: DiT(size=4, channels=1, patch=2, width=8, depth=1, heads=2, num_classes=3),
}


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (torch.tensor([0, 4]), ValueError, r"y must hold labels in 0 \.\. 3 \(3 is null\), got labels from 0 to 4"),
        (torch.tensor([-1, 2]), ValueError, r"y must hold labels in 0 \.\. 3 \(3 is null\), got labels from -1 to 2"),
        (torch.zeros(2), TypeError, r"y must hold whole numbers, got torch\.float32"),
        (torch.tensor([1]), ValueError, r"y must hold one label per row of x, shape \(2,\), got \(1,\)"),
        (torch.eye(2).long(), ValueError, r"y must hold one label per row of x, shape \(2,\), got \(2, 2\)"),
        ([0, 1], TypeError, r"y must be a tensor of labels, got \[0, 1\]"),
    ],
)
def test_labels_that_do_not_fit_are_named(kind: str, y: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        NETS[kind]()(torch.zeros(2, 1, 4, 4), *torch.zeros(3, 2), y)


def test_times_and_strengths_that_are_not_one_per_row_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one number per row of x each, got t \(2,\), d \(2,\), w \(1,\), y \(2,\)"):
        NETS["ToyMLP"]()(torch.zeros(2, 16), *torch.zeros(2, 2), torch.zeros(1), torch.tensor([0, 1]))
