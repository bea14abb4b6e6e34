"""Data: what is on disk is what was published, and the order of batches is a pure function of the seed."""

import math
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset

from ismkit.data import sets
from ismkit.data.batches import Batches
from ismkit.data.sets import Labelled
from tests.conftest import ROOT
from tests.waiting import gone, wait_until

TOYS = [sets.eight_gaussians, sets.two_moons, sets.checkerboard, sets.spirals]


def numbered(n: int) -> Labelled:
    """A set whose samples are their own numbers."""
    return Labelled(torch.arange(n).float()[:, None], torch.arange(n), n, tuple(map(str, range(n))))


def order(batches: Batches, steps: int, **start: int) -> Tensor:
    return torch.stack([y for _, y in islice(batches.stream(**start), steps)])


# Labelled sets

POINTS, LABELS = torch.zeros(3, 2), torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    ("x", "y", "classes", "names", "error", "message"),
    [
        (POINTS.long(), LABELS, 2, "ab", TypeError, "x must be floating point, got torch.int64"),
        (POINTS, LABELS.float(), 2, "ab", TypeError, "y must be int64, got torch.float32"),
        (POINTS, LABELS[:2], 2, "ab", ValueError, "with n >= 1, got (3, 2) and (2,)"),
        (POINTS[:0], LABELS[:0], 2, "ab", ValueError, "with n >= 1, got (0, 2) and (0,)"),
        (POINTS, LABELS + 1, 2, "ab", ValueError, "y must lie in [0, 2), got labels from 1 to 2"),
        (POINTS, LABELS - 1, 2, "ab", ValueError, "y must lie in [0, 2), got labels from -1 to 0"),
        (POINTS, LABELS, 2, "abc", ValueError, "class_names must hold 2 names, got 3"),
    ],
)
def test_labelled_refuses(x: Tensor, y: Tensor, classes: int, names: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        Labelled(x, y, classes, tuple(names))


@pytest.mark.parametrize("toy", TOYS)
def test_toys_are_deterministic_and_of_unit_scale(toy: type) -> None:
    a, b, other = toy(4000, 3), toy(4000, 3), toy(4000, 4)
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.y, b.y)
    assert not torch.equal(a.x, other.x)
    assert a.x.dtype == torch.float32
    assert 1.6 < a.x.square().sum(dim=1).mean() < 3
    # Classes are drawn uniformly: a binomial count, within 6 standard deviations.
    p = 1 / a.num_classes
    assert ((a.y.bincount() - 4000 * p).abs() < 6 * math.sqrt(4000 * p * (1 - p))).all()


def test_eight_gaussians_is_the_stated_mixture() -> None:
    n, std = 80_000, sets.EIGHT_GAUSSIANS_STD
    toy = sets.eight_gaussians(n, 0)
    assert sets.EIGHT_GAUSSIANS_MEANS.norm(dim=1) == pytest.approx(math.sqrt(2))
    residual = (toy.x - sets.EIGHT_GAUSSIANS_MEANS[toy.y]).double()
    for k in range(8):
        mine = residual[toy.y == k]
        assert (mine.mean(dim=0).abs() < 6 * std / math.sqrt(len(mine))).all()
        error = mine.T @ mine / len(mine) - std**2 * torch.eye(2)
        assert (error.abs() < 6 * std**2 * math.sqrt(2 / len(mine))).all()


def test_checkerboard_fills_the_dark_squares_evenly() -> None:
    n = 40_000
    toy = sets.checkerboard(n, 0)
    column, row = (toy.x + 2).floor().long().T
    assert torch.equal(toy.y, row % 2)
    squares = (4 * row + column).bincount(minlength=16).reshape(4, 4)
    dark = (torch.arange(4)[:, None] + torch.arange(4)) % 2 == 0
    assert squares[~dark].sum() == 0
    assert ((squares[dark] - n / 8).abs() < 6 * math.sqrt(n / 8)).all()


def test_moons_and_spirals_are_their_curves_and_symmetric() -> None:
    moons = sets.two_moons(20_000, 0)
    upper = torch.where(moons.y[:, None] == 0, moons.x, -moons.x) / math.sqrt(2) + torch.tensor([0.5, 0.25])
    assert upper.norm(dim=1).sub(1).abs().max() < 6 * 0.08
    spirals = sets.spirals(20_000, 0)
    first = torch.where(spirals.y[:, None] == 0, spirals.x, -spirals.x)
    reach = torch.linspace(0, 1, 2000)
    arm = 2 * reach[:, None] * torch.stack([(3 * math.pi * reach).cos(), (3 * math.pi * reach).sin()], dim=1)
    assert torch.cdist(first, arm).amin(dim=1).max() < 6 * 0.05


@pytest.mark.parametrize("toy", TOYS)
def test_toys_refuse_no_points(toy: type) -> None:
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got 0"):
        toy(0, 0)


# Batches


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int]:
    """Shards, batch size, and a number of samples that is at least enough for one step."""
    micro_batches, batch_size = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    return micro_batches, batch_size, draw(st.integers(micro_batches * batch_size, micro_batches * batch_size + 50))


@given(sizes(), st.integers(0, 2**31), st.integers(0, 40))
@settings(max_examples=60)
def test_a_resumed_stream_continues_where_it_stopped(size: tuple[int, int, int], seed: int, step: int) -> None:
    micro_batches, batch_size, n = size
    batches = Batches(numbered(n), batch_size, seed)
    whole = order(batches, step + 5, micro_batch=micro_batches - 1, micro_batches=micro_batches)
    assert torch.equal(
        order(batches, 5, step=step, micro_batch=micro_batches - 1, micro_batches=micro_batches), whole[step:]
    )


@given(sizes(), st.integers(0, 2**31), st.integers(0, 40))
@settings(max_examples=60)
def test_shards_make_up_the_batches_of_a_single_stream(size: tuple[int, int, int], seed: int, step: int) -> None:
    micro_batches, batch_size, n = size
    parts = [
        order(Batches(numbered(n), batch_size, seed), 4, step=step, micro_batch=j, micro_batches=micro_batches)
        for j in range(micro_batches)
    ]
    single = order(Batches(numbered(n), batch_size * micro_batches, seed), 4, step=step)
    assert torch.equal(torch.cat(parts, dim=1), single)


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), st.integers(0, 2**31))
@settings(max_examples=60)
def test_every_epoch_holds_every_sample_once(size: tuple[int, int], seed: int) -> None:
    n, batch_size = size
    row = order(Batches(numbered(n), batch_size, seed), math.ceil(3 * n / batch_size)).flatten()
    for epoch in range(3):
        assert row[epoch * n : (epoch + 1) * n].sort().values.tolist() == list(range(n))


def test_epochs_and_seeds_have_different_orders() -> None:
    rows = [order(Batches(numbered(500), 500, seed), 4) for seed in range(4)]
    orders = torch.cat(rows)
    fixed = (orders[:, None] == orders[None]).sum(dim=2)
    fixed.fill_diagonal_(0)
    assert fixed.max() < 10  # agreements of two random permutations are Poisson with mean 1


def test_x_and_y_stay_together() -> None:
    for x, y in islice(Batches(numbered(10), 3, 0).stream(), 20):
        assert torch.equal(x[:, 0], y.float())


def squares() -> Dataset[tuple[Tensor, int]]:
    """A map-style set that is not in memory, of a class that no other process could import."""

    class Squares(Dataset[tuple[Tensor, int]]):
        transform = staticmethod(lambda number: torch.tensor([float(number)]))

        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            assert not hasattr(sys, "seen_by_forked_processes")
            return self.transform(index), index

    return Squares()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_dataset_read_by_a_loader_gives_the_same_batches(num_workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(squares(), 3, 5, num_workers=num_workers)  # reads row 0 here
    if num_workers:
        monkeypatch.setattr(sys, "seen_by_forked_processes", True, raising=False)
    before = torch.get_rng_state()
    stream = batches.stream(step=2, micro_batch=1, micro_batches=2)
    read = list(islice(stream, 6))
    assert torch.equal(torch.get_rng_state(), before), "reading must not touch the global random stream"
    kept = list(islice(Batches(numbered(10), 3, 5).stream(step=2, micro_batch=1, micro_batches=2), 6))
    for (x, y), (x_kept, y_kept) in zip(read, kept, strict=True):
        assert torch.equal(x, x_kept)
        assert torch.equal(y, y_kept)


READER = """
import sys, time
import torch
from ismkit.data.batches import Batches

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        import os, pathlib
        pathlib.Path(folder, str(os.getpid())).touch()
        time.sleep(0.2)
        return torch.zeros(1), 0

if __name__ == "__main__":
    folder = sys.argv[1]
    for _ in Batches(Slow(), 1, 0, num_workers=2).stream():
        pass
"""


@pytest.mark.slow
def test_processes_that_read_end_with_their_parent(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", READER, str(tmp_path)], cwd=ROOT) as parent:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 3)  # the parent has read row 0
        parent.kill()
    wait_until(lambda: gone(int(path.name) for path in tmp_path.iterdir()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        (
            {"batch_size": 11},
            "batch_size 11 x micro_batches 1 exceeds the 10 samples: a step would hold a sample twice",
        ),
        ({"batch_size": 4, "num_workers": -1}, "num_workers must be an integer of at least 0, got -1"),
    ],
)
def test_batches_refuse(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Batches(numbered(10), seed=0, **arguments)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"step": -1}, "step must be an integer of at least 0, got -1"),
        ({"micro_batch": 2, "micro_batches": 2}, "micro_batch must lie in [0, micro_batches = 2), got 2"),
        ({"micro_batches": 3}, "batch_size 4 x micro_batches 3 exceeds the 10 samples"),
    ],
)
def test_streams_refuse_at_once(start: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Batches(numbered(10), 4, 0).stream(**start)
