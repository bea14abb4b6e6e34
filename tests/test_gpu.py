"""What can differ on a GPU. ``DEVICE`` is a name so that the bodies can be tried on a CPU while writing them."""

import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts: makes cuBLAS deterministic

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor

from ismkit.data.batches import Batches
from ismkit.data.sets import Labelled
from ismkit.evaluation.judges import FashionJudge
from ismkit.method.auction import Auction
from ismkit.method.coupling import Coupling, assign
from ismkit.method.path import Query
from ismkit.method.recipes import RECIPES, Recipe
from ismkit.method.rows import Blocked
from ismkit.method.sampling import sample, trajectory
from ismkit.method.wavelet import WaveletDistance, dwt, geometric_weights, idwt
from ismkit.models.nets import DiT
from ismkit.models.saved import released
from ismkit.neighbours.recipes import NAMED
from ismkit.training import checkpoint, distributed
from ismkit.training.checkpoint import collect
from ismkit.training.loop import Optim, StepReport, TrainState, needs_float32
from ismkit.training.runs import for_side
from ismkit.utils.seeding import stream
from ismkit.utils.workers import Tell, run_group
from tests.method.test_precision import AMPLIFIED, LAYERS, bound
from tests.options import fit
from tests.steps import Kind, network, recipe, step

DEVICE = "cuda"
pytestmark = pytest.mark.gpu


@contextmanager
def exact() -> Iterator[None]:
    """Deterministic kernels, and float32 that is float32 (cuDNN's convolutions take TF32 otherwise)."""
    tf32, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32, matmul


@contextmanager
def waits_are_errors() -> Iterator[None]:
    """Let whatever makes the CPU wait for the device raise a RuntimeError."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_host(rows: Blocked) -> Blocked:
    """The rows, of any kind, drawn on the CPU: a seed gives other numbers on a GPU."""

    class Host(type(rows)):  # type: ignore[misc]
        def __call__(
            self, x0: Tensor, x1: Tensor, y: Tensor, null: int, generator: torch.Generator
        ) -> tuple[Query, Tensor]:
            query, velocity = super().__call__(x0.cpu(), x1.cpu(), y.cpu(), null, stream(0, "host"))
            return Query(*(column.to(x0.device) for column in query)), velocity.to(x0.device)

    return Host(**vars(rows))


def without_draws(value: Recipe) -> Recipe:
    """The recipe, cut at one share where each row has its own by chance: a seed gives other numbers on a GPU."""
    target = value.target
    return replace(value, target=replace(target, cut=0.3)) if getattr(target, "cut", 0) == "uniform" else value


#: IMM's loss is a difference of means that nearly cancel: in float32 the CPU itself misses the loss in float64 by up to
#: 1.5e-4 of it, and the gradient by 8e-4 (three seeds, both kinds).
ROUNDED = {"imm": 50.0}
RECIPE = replace(for_side(RECIPES["ism"], 8), coupling=Coupling(pool=4))
OPTIM = Optim(lr=3e-3, warmup=3, clip=1.0)


def problem(depth: int = 2, batch_size: int = 16) -> tuple[DiT, Batches]:
    torch.manual_seed(0)
    net = DiT(size=8, channels=2, patch=2, width=32, depth=depth, heads=2, num_classes=3)
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)  # else many gradients are zero at first
    rng = stream(0, "images")
    y = torch.randint(3, (96,), generator=rng)
    x = torch.rand(96, 2, 8, 8, generator=rng) * (1 + y)[:, None, None, None] - 1
    return net, Batches(Labelled(x, y, 3, ("a", "b", "c")), batch_size, seed=1)


def train(
    steps: int, device: str = DEVICE, precision: str = "no", task: tuple[DiT, Batches] | None = None, **options: Any
) -> TrainState:
    AcceleratorState._reset_state(True)  # Accelerate keeps its settings in process-wide singletons
    GradientState._reset_state()
    accelerator = Accelerator(mixed_precision=precision, cpu=device == "cpu")
    assert accelerator.device.type == device
    net, batches = task or problem()
    defaults: dict[str, Any] = {"recipe": RECIPE, "optim": OPTIM, "progress": False}
    return fit(net=net, batches=batches, steps=steps, accelerator=accelerator, **defaults | options)


def contents(state: TrainState) -> dict[str, Tensor]:
    tensors, _ = collect(state.net, state.optimizer, {"ema": state.ema})
    return tensors


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_resume_is_bit_for_bit(precision: str, tmp_path: Path) -> None:
    with exact():
        whole = train(10, precision=precision)
        first = train(5, precision=precision, folder=tmp_path)
        second = train(10, precision=precision, folder=tmp_path, resume=True)
    assert first.losses + second.losses == whole.losses
    expected, resumed = contents(whole), contents(second)
    assert expected.keys() == resumed.keys()
    differing = [name for name in expected if not torch.equal(resumed[name], expected[name])]
    assert not differing, differing
    assert {p.device.type for p in second.net.parameters()} == {DEVICE}


def test_one_step_is_that_of_the_cpu() -> None:
    """Loss, gradient (the first moment after one step, since beta_1 = 0) and weights."""
    recipe = replace(RECIPE, rows=on_host(RECIPE.rows))
    options: dict[str, Any] = {"recipe": recipe, "optim": Optim(lr=1e-3, betas=(0.0, 0.999))}
    with exact():
        here, there = train(1, DEVICE, **options), train(1, "cpu", **options)
    assert here.losses[0] == pytest.approx(there.losses[0], rel=1e-5)
    ours, theirs = contents(here), contents(there)
    for name, expected in theirs.items():
        if name.endswith("exp_avg"):
            assert (ours[name] - expected).norm() <= 1e-4 * expected.norm() + 1e-7, name


@pytest.mark.parametrize("kind", ["points", "images"])
@pytest.mark.parametrize("name", NAMED)
def test_a_step_of_each_recipe_is_that_of_the_cpu(name: str, kind: Kind) -> None:
    value = without_draws(recipe(name, kind))
    value, rounded = replace(value, rows=on_host(value.rows)), ROUNDED.get(name, 1.0)
    with exact():
        loss, gradient = step(value, network(kind, depth=2), kind)
        found, slopes = step(value, network(kind, depth=2).to(DEVICE), kind, DEVICE)
    assert float(found) == pytest.approx(float(loss), rel=rounded * 1e-5)
    assert (slopes.cpu() - gradient).norm() <= rounded * 1e-4 * gradient.norm()
    if needs_float32(value):
        return
    more = AMPLIFIED.get(name, 1.0)
    with exact():
        half, halved = step(value, network(kind, depth=2).to(DEVICE), kind, DEVICE, half=True)
    assert float(half) == pytest.approx(float(loss), rel=more * bound(LAYERS[kind]))
    assert (halved.cpu() - gradient).norm() <= more * bound(2 * LAYERS[kind]) * gradient.norm()


@pytest.mark.parametrize("name", NAMED)
def test_no_step_waits_for_the_device(name: str) -> None:
    """As tests/training/test_devices.py says without one."""
    with pytest.raises(RuntimeError, match="synchronizing"), waits_are_errors():
        torch.zeros(1, device=DEVICE).item()
    checked: list[int] = []
    with ExitStack() as until_third:

        def watch(state: TrainState, report: StepReport) -> None:
            if report.step == 1:  # preparation is over
                until_third.enter_context(waits_are_errors())
            if report.step == 3:  # the fourth and last reads the losses
                until_third.close()
            checked.append(report.step)

        train(4, recipe=replace(for_side(NAMED[name], 8), coupling=Coupling()), hooks=[watch])
    assert checked == [1, 2, 3, 4]


def test_memory_does_not_grow_from_step_to_step_and_recomputing_takes_less() -> None:
    peaks = []
    for recompute in (False, True):
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        before, held = torch.cuda.memory_allocated(), []
        watch = [lambda *_, held=held: held.append(torch.cuda.memory_allocated())]
        train(8, task=problem(8, 96), recompute=recompute, hooks=watch)  # activations are most of what is held
        peaks.append(torch.cuda.max_memory_allocated() - before)
        # The optimiser has its state by step 3, all workspaces are there; losses, 512 bytes each, are kept until read.
        assert max(held[2:]) - held[2] <= 8 * 512
    assert peaks[1] < 0.7 * peaks[0]


def test_a_run_with_its_assignments_on_the_gpu_repeats_itself() -> None:
    """They run in a thread of their own, on a stream of their own."""
    coupled = replace(RECIPE, coupling=Coupling(pool=4, solver=Auction(exact=0, device=DEVICE)))
    with exact():
        first, second = (train(6, recipe=coupled) for _ in range(2))
    assert first.losses == second.losses
    assert first.losses[-1] < 2 * first.losses[0]


def test_recomputed_blocks_give_the_same_bits() -> None:
    with exact():
        expected, recomputed = train(4), train(4, recompute=True)
    assert recomputed.losses == expected.losses


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo looks at it
def test_compiled_networks_train_as_eager_ones(precision: str) -> None:
    expected, compiled = train(6, precision=precision), train(6, precision=precision, compile=True)
    # Fused kernels round less often, by 0.4 % each time in bf16.
    assert compiled.losses == pytest.approx(expected.losses, rel=0.02 if precision == "bf16" else 1e-3)
    assert contents(compiled).keys() == contents(expected).keys()


def test_a_run_of_a_gpu_continues_where_another_number_of_them_is_in_sight(tmp_path: Path) -> None:
    with exact():
        whole = train(6)
        train(3, folder=tmp_path)
        saved = checkpoint.load(tmp_path)
        assert {name for name in saved.tensors if "cuda" in name} == {"random.cuda"}  # one, however many there are
        bare = {name: value for name, value in saved.tensors.items() if name != "random.cuda"}
        (tmp_path / "step_00000003.safetensors").unlink()
        checkpoint.save(tmp_path, 3, bare, saved.meta)  # as a machine without a GPU writes it
        resumed = train(6, folder=tmp_path, resume=True)
    assert resumed.losses == whole.losses[3:]


def _two(folder: str, rank: int, tell: Tell) -> None:
    os.environ["CI"] = "1"
    results = {}
    for mode in ("ddp", "fsdp"):
        for precision in ("no", "bf16"):
            AcceleratorState._reset_state(False)
            GradientState._reset_state()
            net, batches = problem()
            state = fit(RECIPE, net, batches, steps=4, micro_batches=2, optim=OPTIM, progress=False,
                        folder=f"{folder}/{mode}-{precision}",
                        accelerator=distributed.accelerator(mode, precision))  # type: ignore[arg-type]  # fmt: skip
            results[f"{mode}, {precision}"] = state.losses
    torch.save(results, f"{folder}/rank{rank}.pt")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_two_gpus_train_like_one_replicated_and_sharded(tmp_path: Path) -> None:
    run_group(partial(_two, str(tmp_path)), 2)
    for precision, tolerance in (("no", 1e-3), ("bf16", 0.02)):
        one = train(4, precision=precision, micro_batches=2)
        for rank in range(2):
            losses = torch.load(tmp_path / f"rank{rank}.pt")
            for mode in ("ddp", "fsdp"):
                assert losses[f"{mode}, {precision}"] == pytest.approx(one.losses, rel=tolerance)
    resumed = train(6, micro_batches=2, folder=tmp_path / "fsdp-no", resume=True)
    assert resumed.losses == pytest.approx(train(6, micro_batches=2).losses[4:], rel=1e-3)


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_wavelets_are_those_of_the_cpu(wavelet: str, dtype: torch.dtype, tolerance: float) -> None:
    if wavelet != "haar":
        pytest.importorskip("pywt")
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=dtype)
    with exact():
        bands, there = dwt(x.to(DEVICE), 5, wavelet), dwt(x, 5, wavelet)
        for ours, theirs in zip(bands, there, strict=True):
            torch.testing.assert_close(ours.cpu(), theirs, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(idwt(bands, wavelet).cpu(), x, rtol=tolerance, atol=tolerance)
        distance = WaveletDistance(geometric_weights(5, 0.7), norm="root", wavelet=wavelet)
        gradients = []
        for device in (DEVICE, "cpu"):
            leaf = x.to(device, copy=True).requires_grad_()
            distance(leaf, torch.zeros_like(leaf)).sum().backward()
            gradients.append(leaf.grad.cpu())  # type: ignore[union-attr]
    torch.testing.assert_close(*gradients, rtol=100 * tolerance, atol=tolerance)


def test_bf16_trains_with_finite_numbers_near_float32() -> None:
    half, full = train(20, precision="bf16"), train(20)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in half.net.parameters())
    # bf16 rounds at 0.4 %; the same data, noise and rows are seen by both.
    assert half.losses == pytest.approx(full.losses, rel=0.05)
    assert half.losses != full.losses


@pytest.mark.parametrize("steps", [1, 4, 128])
def test_samples_are_those_of_the_cpu(steps: int) -> None:
    net, _ = problem()
    rng = stream(0, "noise")
    x0, y = torch.randn(6, 2, 8, 8, generator=rng), torch.arange(6) % 4
    w = torch.linspace(0, 3.5, 6)
    there = sample(net, x0, y, w=w, nfe=steps)
    net.to(DEVICE)
    with exact():
        ours = sample(net, x0.to(DEVICE), y.to(DEVICE), w=w.to(DEVICE), nfe=steps)
    assert ours.device.type == DEVICE
    assert (ours.cpu() - there).norm() < 1e-4 * there.norm()
    assert trajectory(net, x0.to(DEVICE), y.to(DEVICE), nfe=2).shape == (3, *x0.shape)


@pytest.mark.parametrize("dimension", [2, 64])
@pytest.mark.parametrize("class_aware", [True, False])
def test_noise_on_the_gpu_is_coupled_as_on_the_cpu(dimension: int, class_aware: bool) -> None:
    if dimension == 2:
        pytest.importorskip("ot")
    rng = stream(0, "points")
    x0, x1 = torch.randn(2, 60, dimension, generator=rng)
    y = torch.randint(3, (60,), generator=rng)
    permutation = assign(x0.to(DEVICE), x1.to(DEVICE))
    assert permutation.device.type == "cpu"
    assert torch.equal(permutation, assign(x0, x1))
    coupling = Coupling(pool=1, class_aware=class_aware)
    coupled = coupling.couple(x0.to(DEVICE), x1.to(DEVICE), y.to(DEVICE))
    assert coupled.device.type == DEVICE
    assert torch.equal(coupled.cpu(), coupling.couple(x0, x1, y))


def test_clothes_are_drawn_and_scored_as_on_the_cpu() -> None:
    y, scores = torch.arange(200) % 10, []
    for device in (DEVICE, "cpu"):
        judge, net = FashionJudge.load(device), released("ism_plus")[0].to(device)
        with exact():
            images = judge.draw(net, y, w=1.0, nfe=2)
            scores.append(judge.score_images(images, y))
        assert images.device.type == device
    assert scores[0] == pytest.approx(scores[1], rel=0.02)  # a neighbour more or less changes precision by 0.005


def test_the_auction_pairs_as_well_as_on_the_cpu() -> None:
    x0, x1 = (torch.randn(700, 40, generator=stream(0, name)) for name in ("noise", "data"))
    there, here = (Auction(exact=0, device=device)(x0, x1) for device in (DEVICE, "cpu"))
    assert sorted(there.tolist()) == list(range(700))
    saved = [float(((x0 - x0.mean(0))[p] * x1).double().sum()) for p in (there, here, assign(x0, x1))]
    # Both lose about half a per cent of the exact gain; products rounded in another order may change bids.
    assert saved[0] == pytest.approx(saved[1], rel=5e-3)
    assert 0.98 * saved[2] < saved[0] <= saved[2] * (1 + 1e-6)
