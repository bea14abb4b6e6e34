"""What a step costs: FLOPs against PyTorch's own counter, parameters and saved bytes against real networks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import DataParallel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ismkit.method.ema import TwinEMA
from ismkit.method.path import Query
from ismkit.method.recipes import RECIPES, Answer, Context, Recipe, training_step
from ismkit.method.rows import Blocked, Rows
from ismkit.models.nets import FREQUENCIES, PRESETS, DiT, ToyMLP
from ismkit.neighbours import (
    Brightness,
    FrechetTerm,
    NegativeClass,
    RepaTerm,
    RewardTerm,
    reward_tuning,
)
from ismkit.neighbours.drifting import Drift
from ismkit.neighbours.leap import Leap, SigmoidCut
from ismkit.neighbours.recipes import NEIGHBOURS
from ismkit.training.costs import (
    Passes,
    activation_bytes,
    checkpoint_bytes,
    forward_flops,
    latent_bytes,
    parameters,
    passes,
    row_cost,
    step_flops,
)
from ismkit.training.runs import RUNS, equal_passes, for_points, for_side, shape_and_classes


def config(name: str, size: int = 32) -> dict[str, Any]:
    return {"size": size, "channels": 4, "patch": 2, **PRESETS[name], "num_classes": 1000}


SMALL = {"size": 8, "channels": 3, "patch": 2, "width": 24, "depth": 2, "heads": 3, "num_classes": 5}


def counted(work: Callable[[], Any]) -> int:
    # A fused attention on the CPU is not in PyTorch's tables; its plain form is two products, as the formula has it.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("shape", [SMALL, config("S")])
def test_forward_flops_are_pytorchs_count(shape: dict[str, Any]) -> None:
    net = DiT(**shape)
    x, t, y = torch.zeros(1, shape["channels"], shape["size"], shape["size"]), torch.zeros(1), torch.zeros(1).long()
    with torch.no_grad():
        assert counted(lambda: net(x, t, t, t, y)) == forward_flops(shape)


@pytest.mark.parametrize(("name", "published"), [("S", 6.06), ("B", 23.01), ("L", 80.71), ("XL", 118.64)])
def test_published_gflops_count_multiply_adds_once(name: str, published: float) -> None:
    # DiT (arXiv 2212.09748, table 4). Theirs has twice the outputs and one embedder less, and counts norms.
    assert forward_flops(config(name)) / 2e9 == pytest.approx(published, abs=0.025)


def test_512_pixels_cost_what_is_published() -> None:
    assert forward_flops(config("XL", 64)) / 2e9 == pytest.approx(524.6, rel=2e-3)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("flow", Passes(16, 0, 0)),
        ("shortcut_every_level", Passes(16, 8, 2)),  # 2 rows, two half steps, with and without their label
        ("ism", Passes(16, 16, 2)),  # 4 guidance rows with and without label, 4 consistency rows at two half steps
    ],
)
def test_passes_of_a_step(recipe: str, expected: Passes) -> None:
    assert passes(RECIPES[recipe], 16) == expected


def test_the_cost_of_a_row_is_the_mean_over_a_run_that_changes() -> None:
    # alpha-Flow cuts half of its rows: no further pass while the cut is 1, one while it falls, two (a derivative) at 0.
    recipe = NEIGHBOURS["alpha_flow"]
    assert isinstance(recipe.target, Leap)
    assert isinstance(recipe.target.cut, SigmoidCut)
    shares = [recipe.target.cut((k + 0.5) / 50) for k in range(50)]
    further = sum(0 if c == 1 else 2 if c == 0 else 1 for c in shares) / 50
    assert row_cost(recipe, 64) == pytest.approx(3 + further / 2)


def late(query: Query, velocity: Tensor, rows: Blocked, context: Context) -> Answer:
    """A rule that asks once in the second half of a run, and takes the progress from the context as a part."""
    fast, _, _, progress, _ = context
    if progress > 1 / 2:
        fast(*query)
    return Answer(velocity)


@pytest.mark.parametrize(
    "recipe", [RECIPES["ism"], *NEIGHBOURS.values(), Recipe("late", Rows(), late)], ids=lambda recipe: recipe.name
)
def test_the_cost_of_a_row_is_the_mean_over_a_run_whether_it_reads_its_progress_or_not(recipe: Recipe) -> None:
    """One step is counted if nothing reads the progress, fifty if something does."""
    counts = [passes(recipe, 16, (k + 0.5) / 50) for k in range(50)]
    wanted = sum(3 * count.online + count.target for count in counts) / 50 / 16
    assert row_cost(recipe, 16) == pytest.approx(wanted, rel=1e-12)
    if recipe.name == "late":
        assert wanted == 3.5


@pytest.mark.parametrize("name", ["flow", "meanflow", "imf", "ect", "imm", "drifting"])
def test_equal_passes_are_equal(name: str) -> None:
    recipe, run = for_points({**RECIPES, **NEIGHBOURS}[name]), RUNS["gaussians"]
    other = equal_passes(run, recipe, share=0.5)
    spent, wanted = (row_cost(r.recipe, r.batch_size, (2,), 8) * r.steps * r.batch_size for r in (other, run))
    assert spent == pytest.approx(wanted / 2, rel=1 / other.steps)
    assert other.recipe == recipe
    assert other.optim == run.optim


def test_drifting_in_bands_costs_what_it_does_without() -> None:
    recipe = NEIGHBOURS["drifting"]
    assert row_cost(replace(recipe, target=Drift(levels=4)), 16, (1, 16, 16)) == row_cost(recipe, 16) == 4


# ---------------------------------------------------------------- your own rules and terms


class Half(nn.Module):
    """A network that is frozen, for three numbers alone."""

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        raise AssertionError("a network that is counted is not asked")


def half(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
    raise AssertionError("a network that is counted is not asked")


HALF = Half()


@dataclass(frozen=True)
class Taught:
    """All rows are a teacher's, whatever holds it; nothing says which field it is."""

    teacher: Any

    def __call__(self, query: Query, velocity: Tensor, rows: Any, context: Context) -> Answer:
        return Answer(self.teacher(*query))


@dataclass(frozen=True)
class Once:
    """A term that asks once more; ``by`` says for what."""

    by: Any

    def __call__(self, net: nn.Module, prediction: Tensor, query: Query, velocity: Tensor, context: Context) -> Tensor:
        return (self.by(net, prediction, query, context) - prediction).square().mean()


def of_module(query: Query, velocity: Tensor, rows: Any, context: Context) -> Answer:
    return Answer(HALF(*query))


def of_closure(teacher: nn.Module) -> Any:
    return lambda query, velocity, rows, context: Answer(teacher(**query._asdict()))


def of_argument(teacher: nn.Module, query: Query, velocity: Tensor, rows: Any, context: Context) -> Answer:
    return Answer(teacher(*query))


@pytest.mark.parametrize(
    "target",
    [
        *(Taught(Half()), Taught(half), Taught(partial(half)), Taught(DataParallel(Half()))),
        *(of_module, of_closure(Half()), partial(of_argument, Half())),
    ],
)
def test_a_teacher_is_counted_wherever_it_is_and_not_asked(target: Any) -> None:
    recipe = replace(RECIPES["flow"], name="taught", target=target)
    assert passes(recipe, 16) == Passes(16, 16, 1)
    assert passes(recipe, 16, shape=(2,), num_classes=8) == Passes(16, 16, 1)


@pytest.mark.parametrize("inner", [half, Half()])
def test_a_network_that_asks_others_costs_what_these_do(inner: Any) -> None:
    away = NegativeClass(inner, label=0, null=1, beta=1.0)  # three questions, of one call
    assert passes(replace(RECIPES["flow"], name="away", target=Taught(away)), 16) == Passes(16, 3 * 16, 1)


@pytest.mark.parametrize(
    ("by", "further"),
    [
        (lambda net, prediction, query, context: net(*query), (16, 0, 0)),
        (lambda net, prediction, query, context: net(*query.take(slice(4))), (4, 0, 0)),
        (lambda net, prediction, query, context: net(*query).detach(), (0, 16, 1)),
        (lambda net, prediction, query, context: context.slow(*query), (0, 16, 1)),
        (lambda net, prediction, query, context: HALF(*query), (0, 16, 1)),
        # There and back again, since what enters needs a gradient and no weight does.
        (lambda net, prediction, query, context: HALF(prediction, *query[1:]), (0, 2 * 16, 1)),
        (lambda net, prediction, query, context: context.fast(prediction, *query[1:]), (0, 2 * 16, 1)),
    ],
)
def test_passes_of_a_term_are_counted(by: Any, further: tuple[int, int, int]) -> None:
    def term(net: nn.Module, prediction: Tensor, query: Query, velocity: Tensor, context: Context) -> Tensor:
        return prediction.square().mean() + by(net, prediction, query, context).square().mean()

    recipe = replace(RECIPES["flow"], name="once more", terms=(term,))
    online, target, calls = further
    assert passes(recipe, 16) == Passes(16 + online, target, calls)
    assert row_cost(recipe, 16) == 3 + (3 * online + target) / 16
    # Beside the rule's own, and for samples of another shape.
    assert passes(replace(recipe, target=RECIPES["ism"].target, rows=RECIPES["ism"].rows), 16, shape=(3, 4, 4)) == (
        Passes(16 + online, 16 + target, 2 + calls)
    )


def test_a_term_leaves_no_gradient_in_a_teacher() -> None:
    teacher = ToyMLP(width=8, depth=1, num_classes=2)
    term = Once(lambda net, prediction, query, context: teacher(*query))
    recipe = replace(RECIPES["flow"], name="taught", terms=(term,))
    assert passes(recipe, 16) == Passes(32, 0, 0)  # its weights are not frozen
    assert all(p.grad is None for p in teacher.parameters())


def test_the_terms_of_the_kit_ask_no_network() -> None:
    mean, cov = torch.zeros(2), torch.eye(2)
    terms = (RepaTerm(lambda x: x), FrechetTerm(mean, cov), RewardTerm(Brightness()))
    assert passes(replace(RECIPES["ism"], name="terms", terms=terms), 16) == passes(RECIPES["ism"], 16)
    assert passes(reward_tuning(half, Brightness(), beta=1.0), 16) == Passes(16, 16, 1)


def turned(query: Query, velocity: Tensor, rows: Any, context: Context) -> Answer:
    assert context.null == 8
    scale = sum(p.sum() for _, p in context.fast.named_parameters())  # type: ignore[attr-defined]
    return Answer(context.fast(*query) + scale * velocity[:, [1, 0]])


def test_a_rule_for_the_plane_is_counted_in_the_plane() -> None:
    run, recipe = RUNS["gaussians"], replace(RECIPES["flow"], name="turned", target=turned)
    assert row_cost(recipe, 16, (2,), num_classes=8) == 4
    assert equal_passes(run, recipe).steps == run.steps
    with pytest.raises(
        ValueError, match=r"shape must be that of samples which turned can be trained on, got \(1, 1, 1\)"
    ):
        row_cost(recipe, 16, num_classes=8)
    with pytest.raises(ValueError, match=r"shape must be that of a sample, such as \(2,\) in the plane, got 2"):
        row_cost(recipe, 16, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gaussians", ((2,), 8)), ("emoji", ((8, 8, 8), 99)), ("imagenet256-xl2", ((4, 32, 32), 1))],
)
def test_the_shape_of_a_run_needs_no_data_that_may_be_elsewhere(name: str, expected: Any) -> None:
    assert shape_and_classes(RUNS[name]) == expected


def test_annotations_of_a_rule_are_not_read() -> None:
    @dataclass(frozen=True)
    class Shrunk:
        scale: "NowhereDefined"  # type: ignore[name-defined]  # noqa: F821

        def __call__(self, query: Query, velocity: Tensor, rows: Any, context: Context) -> Answer:
            return Answer(self.scale * velocity)

    assert row_cost(replace(RECIPES["flow"], name="shrunk", target=Shrunk(0.9)), 16) == 3


def test_modules_are_called_as_ever_beside_a_count_and_after_it() -> None:
    net, call = ToyMLP(width=8, depth=1, num_classes=2), nn.Module.__call__
    zero = torch.zeros(3)
    found: list[Tensor] = []

    def beside(query: Query, velocity: Tensor, rows: Any, context: Context) -> Answer:
        thread = Thread(target=lambda: found.append(net(torch.zeros(3, 2) + 1, zero, zero, zero, zero.long())))
        thread.start()
        thread.join()
        return Answer(velocity)

    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(0.1)
    assert passes(replace(RECIPES["flow"], name="beside", target=beside), 16) == Passes(16, 0, 0)
    assert found[0].abs().min() > 0
    with pytest.raises(ValueError, match="AssertionError"):
        passes(replace(RECIPES["flow"], name="broken", target=half_of_it), 16)
    assert nn.Module.__call__ is call


def half_of_it(query: Query, velocity: Tensor, rows: Any, context: Context) -> Answer:
    raise AssertionError


def test_ism_costs_four_thirds_of_a_flow_step() -> None:
    flow, ism = (step_flops(config("XL"), RECIPES[name], 256) for name in ("flow", "ism"))
    assert ism / flow == pytest.approx(4 / 3, rel=1e-12)
    assert flow == 3 * 256 * forward_flops(config("XL"))


@pytest.mark.parametrize("recipe", ["flow", "shortcut_every_level", "ism"])
def test_a_whole_step_is_what_pytorch_counts_less_the_gradients_of_inputs(recipe: str) -> None:
    net, batch, method = DiT(**SMALL), 8, for_side(RECIPES[recipe], 8)
    ema = TwinEMA(net, 0.9, 0.9)
    x = torch.randn(batch, 3, 8, 8)
    y = torch.zeros(batch, dtype=torch.long)

    def step() -> None:
        pair = (torch.randn_like(x), x, y)
        training_step(method, net, ema, pair, 5, torch.Generator().manual_seed(0))[0].backward()

    tokens, pixels, D = 16, 12, SMALL["width"]
    # Nothing is asked for the gradient of what enters: patches, and the sinusoids of t, d and w.
    inputs = batch * (2 * tokens * pixels * D + 3 * 2 * 2 * FREQUENCIES * D)
    distance = counted(lambda: _distance_alone(method, x))
    assert counted(step) - distance == step_flops(SMALL, method, batch) - inputs


def _distance_alone(method: Any, x: Tensor) -> None:
    answer = torch.randn_like(x, requires_grad=True)
    method.distance(answer, x).sum().backward()


@pytest.mark.parametrize("shape", [SMALL, *(config(name) for name in PRESETS), config("XL", 64)])
def test_parameters_are_those_of_the_network(shape: dict[str, Any]) -> None:
    with torch.device("meta"):
        net = DiT(**shape)
    assert parameters(shape) == sum(p.numel() for p in net.parameters())


def test_xl_has_the_published_parameters_but_for_what_is_said() -> None:
    # DiT's 675.13 M: 256 fixed positions and outputs for a variance more, two embedders less.
    width = 1152
    ours = parameters(config("XL")) - 2 * (256 * width + width**2 + 2 * width) + 256 * width + 16 * (width + 1)
    assert ours / 1e6 == pytest.approx(675.13, abs=0.005)


def saved_bytes(net: nn.Module, work: Callable[[], Tensor]) -> int:
    """Bytes of all that autograd keeps, parameters and their copies in bf16 left out."""
    own = {p.shape for p in net.parameters()} | {p.T.shape for p in net.parameters() if p.ndim == 2}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.shape not in own:
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_activations_are_what_autograd_keeps(precision: str) -> None:
    shape = {"size": 16, "channels": 2, "patch": 2, "width": 96, "depth": 5, "heads": 3, "num_classes": 5}
    net, rows = DiT(**shape), 2
    x, t, y = torch.randn(rows, 2, 16, 16), torch.rand(rows), torch.zeros(rows).long()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        kept = saved_bytes(net, lambda: net(x, t, t, t, y))
    # Embedders, modulations, statistics of norms and the head are the rest.
    assert 1 <= kept / (rows * activation_bytes(shape, precision)) < 1.1


def test_checkpointing_keeps_one_input_per_block() -> None:
    shape = config("XL")
    tokens, width, depth = 256, 1152, 28
    less = activation_bytes(shape) - activation_bytes(shape, checkpointing=True)
    assert less == tokens * width * (48 * (depth - 1) - 4 * depth)
    with pytest.raises(ValueError, match="precision must be one of"):
        activation_bytes(shape, "fp16")


def test_stored_bytes() -> None:
    assert latent_bytes(images=1, copies=1) == 2 * 4096 * 2  # mean and deviation, half precision
    assert latent_bytes() / 1e9 == pytest.approx(41.98, abs=0.01)
    assert latent_bytes(size=64) == 4 * latent_bytes()
    assert checkpoint_bytes(config("XL")) == 20 * parameters(config("XL"))
