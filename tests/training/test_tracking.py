"""Logs: means by a plain loop over rows, every step in one window, a resumed log that is that of a run not killed."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.tracking import GeneralTracker
from torch import Tensor, nn

from ismkit.data.batches import Batches
from ismkit.data.sets import eight_gaussians
from ismkit.method.coupling import Coupling
from ismkit.method.path import Query, StepGrid
from ismkit.method.sampling import sample
from ismkit.models.nets import ToyMLP
from ismkit.training import tracking
from ismkit.training.loop import Optim, StepReport, TrainState
from ismkit.training.runs import RUNS
from ismkit.training.tracking import LossTable, SampleGrid, Tracking, peak_flops, scalars, tensorboard
from ismkit.utils.seeding import stream
from tests.options import fit

ROWS = RUNS["gaussians"].recipe.rows
RECIPE = replace(RUNS["gaussians"].recipe, coupling=Coupling())
Log = dict[str, list[tuple[int, float]]]


def asked(n: int, seed: int) -> tuple[Query, Tensor]:
    """A batch's query and the distances of its rows."""
    x0, x1 = torch.randn(2, n, 2, generator=stream(seed, "points"))
    y = torch.arange(n) % 8
    query, _ = ROWS(x0, x1, y, 8, stream(seed, "rows"))
    return query, torch.rand(n, generator=stream(seed, "distance")) + query.d


# ---------------------------------------------------------------- losses by (t, d, w)


def by_hand(batches: Sequence[tuple[Query, Tensor]]) -> dict[str, float]:
    """The means of :class:`LossTable`, row by row."""
    parts: dict[str, list[float]] = defaultdict(list)
    for query, distance in batches:
        for t, d, w, value in zip(*(c.tolist() for c in (query.t, query.d, query.w, distance)), strict=True):
            purpose = "consistency" if d else "guidance" if w else "velocity"
            size = f"1_{1 / d:.0f}" if d else "0"
            begin = next(b for b in ("0.75", "0.5", "0.25", "0") if t >= float(b))
            band = "0" if not w else "0-1" if w <= 1 else "1-2" if w <= 2 else "above_2"
            for tag in (f"/{purpose}", f"_by_d/{size}", f"_by_t_d/{begin}_{size}", f"_by_w/{band}"):
                parts[f"loss{tag}"].append(value)
    return {tag: math.fsum(values) / len(values) for tag, values in parts.items()}


@pytest.mark.parametrize("seed", range(3))
def test_losses_are_told_apart_by_t_d_and_w(seed: int) -> None:
    batches = [asked(n, 10 * seed + k) for k, n in enumerate((64, 16, 32))]
    table = LossTable(ROWS.grid)
    for query, distance in batches:
        table.add(query, distance)
    means, expected = table.read(), by_hand(batches)
    assert means.keys() == expected.keys()
    assert means == pytest.approx(expected, rel=1e-5)
    assert table.read() == {}  # all is zero again


def test_every_purpose_and_step_size_has_a_name_of_its_own() -> None:
    table = LossTable(StepGrid(8))
    d = torch.tensor([0.0, 1 / 8, 0.0, 0.25, 0.5, 1.0])  # 1/8 is the finest level: asked as 0
    t, w = torch.tensor([0.0, 1.0, 0.5, 0.75, 0.5, 0.0]), torch.tensor([0.0, 0.0, 0.25, 0.0, 1.25, 3.5])
    table.add(Query(torch.zeros(6, 2), t, d, w, torch.zeros(6, dtype=torch.long)), torch.arange(6.0))
    means = table.read()
    assert [means[f"loss/{name}"] for name in ("velocity", "guidance", "consistency")] == [0.5, 2.0, 4.0]
    assert [means[f"loss_by_d/{name}"] for name in ("0", "1_4", "1_2", "1_1")] == [1.0, 3.0, 4.0, 5.0]
    assert [means[f"loss_by_w/{name}"] for name in tracking.BANDS] == [4 / 3, 2.0, 4.0, 5.0]
    assert means["loss_by_t_d/0.75_0"] == 1.0


# ---------------------------------------------------------------- peaks


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A10G", None),  # another card than the A10
        ("NVIDIA L40", None),
        ("Tesla V100-SXM2-16GB", None),  # no bf16
        ("AMD Instinct MI300X", None),
        ("", None),
    ],
)
def test_a_peak_is_known_or_none(device: str, peak: float | None) -> None:
    assert peak_flops(device) == peak


# ---------------------------------------------------------------- the hook


class Memory(GeneralTracker):
    """A tracker that remembers."""

    name, requires_logging_directory = "memory", False

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.pictures: list[tuple[int, dict[str, Any]]] = []
        self.opened_at, self.open = 0, False

    tracker = None

    def __call__(self, step: int) -> list["Memory"]:
        self.opened_at = step
        return [self]

    def start(self) -> None:
        self.open = True

    def log(self, values: dict[str, float], step: int | None = None, **kwargs: Any) -> None:
        assert self.open
        self.rows.append((step or 0, dict(values)))

    def log_images(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        assert not kwargs
        self.pictures.append((step or 0, values))

    def finish(self) -> None:
        assert self.open
        self.open = False


def report(step: int) -> StepReport:
    query, distance = asked(32, step)
    return StepReport(step, torch.tensor(1.0 / step), query, distance, torch.tensor(float(step)), 1e-3 * step)


NO_STATE: Any = None


def test_each_step_counts_in_one_window() -> None:
    memory = Memory()
    with Tracking(memory, rows=32, every=4) as hook:
        for step in range(3, 11):  # a run resumed after step 2
            hook(NO_STATE, report(step))
    assert (memory.opened_at, memory.open) == (3, False)
    windows = [range(3, 5), range(5, 9), range(9, 11)]
    assert [step for step, _ in memory.rows] == [4, 8, 10]
    for window, (step, values) in zip(windows, memory.rows, strict=True):
        assert values["loss/all"] == pytest.approx(sum(1 / k for k in window) / len(window), rel=1e-6)
        assert values["grad_norm"] == pytest.approx(sum(window) / len(window))
        assert values["lr"] == 1e-3 * step
        assert values["memory/resident_gib"] > 0
        expected = by_hand([asked(32, k) for k in window])
        assert {tag: values[tag] for tag in values if tag in expected} == pytest.approx(expected, rel=1e-5)


def test_closing_at_the_end_of_a_window_adds_nothing() -> None:
    memory = Memory()
    with Tracking(memory, rows=32, every=2) as hook:
        for step in (1, 2):
            hook(NO_STATE, report(step))
    assert [step for step, _ in memory.rows] == [2]
    with Tracking(Memory(), rows=32):
        pass  # and a call that trains nothing opens nothing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(tracking, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    return now


def test_speed_and_share_of_the_peak(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step, with its preparation, is not timed; drawing is no training."""

    def draw(net: nn.Module) -> list[Tensor]:
        clock.seconds += 1000
        return []

    def sheet(latents: list[Tensor]) -> Tensor:
        return torch.zeros(2, 2, 3, dtype=torch.uint8)

    memory, state = Memory(), SimpleNamespace(ema=SimpleNamespace(slow=None))
    hook = Tracking(memory, rows=256, every=4, flops=2e15, devices=2, samples_every=8)
    hook.samples = SimpleNamespace(latents=draw, sheet=sheet)  # type: ignore[assignment]
    for step in range(1, 13):
        clock.seconds += 60 if step == 1 else 0.5
        hook(state, report(step))  # type: ignore[arg-type]
        if step == 4:
            monkeypatch.setattr(hook, "_peak", 1e16)
    speeds = [{k.removeprefix("speed/"): v for k, v in row.items() if k.startswith("speed/")} for _, row in memory.rows]
    plain = {"images_per_second": 512.0, "seconds_per_step": 0.5}
    assert speeds[0] == pytest.approx(plain)  # the CPU's peak is not known: no MFU is made up
    assert speeds[1] == pytest.approx(plain | {"mfu": 2e15 / (0.5 * 1e16 * 2)})
    assert speeds[2] == speeds[1]
    assert [step for step, _ in memory.pictures] == [8]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 0}, "rows must be an integer of at least 1, got 0"),
        ({"every": 2.0}, "every must be an integer of at least 1, got 2.0"),
        ({"every": 100, "samples_every": 150}, "samples_every must be a multiple of every=100, got 150"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tracking(Memory(), **{"rows": 1, **settings})


# ---------------------------------------------------------------- samples


@pytest.mark.parametrize("lengths", ["dyadic", "to data"])
def test_a_sheet_has_a_row_for_each_nfe_of_the_same_noise(lengths: str) -> None:
    net = ToyMLP(dim=16, width=8, depth=1, num_classes=4)
    net.step_lengths = lengths
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3, generator=stream(0, "weights"))

    def decode(latents: Tensor) -> Tensor:
        return latents.repeat(1, 3, 2, 2).clamp(-1, 1)

    before = torch.random.get_rng_state()
    grid = SampleGrid(decode, (1, 4, 4), classes=(2, 0, 3), nfe=(1, 4), w=1.5, seed=7)
    sheet = grid.sheet(grid.latents(net))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (sheet.dtype, sheet.shape) == (torch.uint8, (2 * 8, 3 * 8, 3))
    x0 = torch.randn(3, 1, 4, 4, generator=stream(7, "grid"))
    again = {"renoise": True, "generator": stream(7, "renoise")} if lengths == "to data" else {}
    for row, steps in enumerate((1, 4)):
        images = decode(sample(net, x0, torch.tensor([2, 0, 3]), w=1.5, nfe=steps, **again))
        for column, image in enumerate(images):
            piece = sheet[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            torch.testing.assert_close(piece.permute(2, 0, 1) / 127.5 - 1, image, rtol=0, atol=1 / 255 + 1e-6)


# ---------------------------------------------------------------- in a run, to TensorBoard


def train(folder: Path, resume: bool = False, until: int = 0, hook: Callable[..., Any] | None = None) -> TrainState:
    """Twelve steps, a checkpoint every four; killed after step ``until``."""

    def kill(state: TrainState, report: StepReport) -> None:
        if report.step == until:
            raise KeyboardInterrupt

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = ToyMLP(width=8, depth=1)
    options: dict[str, Any] = {"optim": Optim(lr=1e-3), "progress": False, "resume": resume, "save_every": 4}
    hooks = [hook, kill] if hook else [kill]
    return fit(RECIPE, net, Batches(eight_gaussians(200, 0), 16, 0), steps=12, folder=folder, hooks=hooks, **options)


def tracked(folder: Path, **options: Any) -> TrainState:
    with Tracking(tensorboard(folder / "logs"), rows=16, every=2) as hook:
        return train(folder, hook=hook, **options)


def timeless(log: Log) -> Log:
    return {tag: rows for tag, rows in log.items() if not tag.startswith(("speed/", "memory/"))}


def test_a_killed_and_resumed_run_leaves_the_log_of_one_that_was_not(tmp_path: Path) -> None:
    whole = tracked(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tracked(tmp_path / "parts", until=7)  # step 6 is logged, 7 is in a window that is cut: both are done again
    before = scalars(tmp_path / "parts" / "logs")
    assert [step for step, _ in before["loss/all"]] == [2, 4, 6, 7]
    resumed = tracked(tmp_path / "parts", resume=True)
    assert resumed.step == 12
    log, expected = (timeless(scalars(tmp_path / name / "logs")) for name in ("parts", "whole"))
    assert [step for step, _ in log["loss/all"]] == [2, 4, 6, 8, 10, 12]
    assert log == expected
    means = [(whole.losses[k - 2] + whole.losses[k - 1]) / 2 for k, _ in log["loss/all"]]
    assert [value for _, value in log["loss/all"]] == pytest.approx(means, rel=1e-5)
    assert len(scalars(tmp_path / "parts" / "logs")["memory/resident_gib"]) == 6


def test_tracking_changes_no_number_of_the_run(tmp_path: Path) -> None:
    assert tracked(tmp_path / "logged").losses == train(tmp_path / "silent").losses


def test_pictures_in_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    grid = SampleGrid(lambda x: x.reshape(-1, 1, 1, 2).repeat(1, 3, 4, 2).clamp(-1, 1), (2,), classes=(0, 1, 2))
    with Tracking(tensorboard(tmp_path), rows=16, every=1, samples=grid, samples_every=2) as hook:
        net = ToyMLP(width=8, depth=1).eval()
        for step in (1, 2, 3):
            hook(SimpleNamespace(ema=SimpleNamespace(slow=net)), report(step))  # type: ignore[arg-type]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (picture,) = events.Images("samples")
    assert (picture.step, picture.height, picture.width) == (2, 3 * 4, 3 * 4)
