"""Class-grouped pools: few classes in each, every sample once per epoch, and streams that resume and split exactly."""

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ismkit.data.batches import Batches, ClassGroups
from ismkit.data.sets import Labelled

sizes = st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(sum)


def labels(counts: list[int]) -> Tensor:
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]


def numbered(y: Tensor) -> Labelled:
    """Rows that say which they are."""
    classes = int(y.max()) + 1
    return Labelled(torch.arange(float(len(y)))[:, None], y, classes, ("",) * classes)


def rows(batches: Batches, steps: int, step: int = 0, micro_batch: int = 0, micro_batches: int = 1) -> list[list[int]]:
    return [x[:, 0].long().tolist() for x, _ in islice(batches.stream(step, micro_batch, micro_batches), steps)]


@given(sizes, st.integers(1, 60), st.integers(1, 9), st.integers(0, 3))
@settings(max_examples=60)
def test_an_epoch_is_a_permutation_in_pieces_of_one_class(
    counts: list[int], pool: int, classes: int, epoch: int
) -> None:
    y = labels(counts)
    order = ClassGroups(4, classes).order(y, pool, 1, epoch)
    assert sorted(order.tolist()) == list(range(len(y)))
    changes = int((y[order].diff() != 0).sum()) + 1
    # Pieces of one class may happen to be neighbours; there are never more runs than pieces.
    assert changes <= sum(max(1, round(n * classes / pool)) for n in counts if n)


def test_pieces_have_the_rows_asked_for_and_differ_by_one() -> None:
    counts, pool, classes = [260, 100, 30, 500], 400, 4  # pieces of 100 rows are wanted
    y = labels(counts)
    lengths: dict[int, set[int]] = {c: set() for c in range(4)}
    for epoch in range(20):
        grouped = y[ClassGroups(8, classes).order(y, pool, 0, epoch)].tolist()
        begin = 0
        for i in range(1, len(grouped) + 1):
            if i == len(grouped) or grouped[i] != grouped[begin]:
                lengths[grouped[begin]].add(i - begin)
                begin = i
    assert lengths[1] == {100}
    assert lengths[2] == {30}
    # 260 in three pieces of 86 or 87, 500 in five of 100, alone or side by side.
    assert {n for n in lengths[0] if n < 150} == {86, 87}
    assert all(n % 100 == 0 for n in lengths[3])


def test_orders_are_functions_of_seed_and_epoch() -> None:
    y, groups = labels([50, 50, 50]), ClassGroups(4, 2)
    orders = [groups.order(y, 40, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert groups.order(y, 40, 0, 0).equal(orders[0])
    assert len({tuple(order.tolist()) for order in orders}) == 3


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.integers(0, 30))
@settings(max_examples=40)
def test_streams_resume_at_any_step(pool: int, size: int, micro_batches: int, classes: int, step: int) -> None:
    batches = Batches(numbered(labels([29, 17, 24])), size, 3, groups=ClassGroups(pool, classes))
    for micro_batch in range(micro_batches):
        assert (
            rows(batches, 8, step, micro_batch, micro_batches)
            == rows(batches, step + 8, 0, micro_batch, micro_batches)[step:]
        )


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=40)
def test_every_sample_is_handed_out_once_per_epoch(pool: int, size: int, micro_batches: int) -> None:
    n, epochs = 70, 3
    batches = Batches(numbered(labels([29, 17, 24])), size, 3, groups=ClassGroups(pool, 2))
    period = pool * size * micro_batches
    turns = -(-epochs * n // period)
    drawn = [rows(batches, turns * pool, 0, micro_batch, micro_batches) for micro_batch in range(micro_batches)]
    # The micro_batches of a period in turn, the epochs follow one another.
    pools = [
        one
        for p in range(turns)
        for micro_batch in range(micro_batches)
        for one in drawn[micro_batch][p * pool : (p + 1) * pool]
    ]
    counts = torch.tensor(pools).flatten().bincount(minlength=n)
    whole, rest = divmod(turns * period, n)
    assert int(counts.min()) == whole
    assert int(counts.max()) == whole + (rest > 0)
    assert int((counts > whole).sum()) == rest


def test_a_pool_has_few_classes_and_every_batch_all_of_them() -> None:
    y = labels([64] * 50)
    batches = Batches(numbered(y), 32, 0, groups=ClassGroups(8, 4))
    for micro_batch in range(2):
        for k in range(4):
            pool = [y[one] for one in rows(batches, 8, 8 * k, micro_batch, 2)]
            classes = torch.cat(pool).unique()
            assert 4 <= len(classes) <= 5  # one more where a piece is cut by the end of the pool
            # 32 rows of 4 classes: that one of 20 rows or more is missing in a batch has a chance below 1e-4.
            common = [c for c in classes.tolist() if int((torch.cat(pool) == c).sum()) >= 64]
            assert all((one == c).any() for one in pool for c in common)
    assert len(torch.cat([y[one] for one in rows(Batches(numbered(y), 32, 0), 8)]).unique()) > 45


def test_shards_have_classes_of_their_own() -> None:
    y = labels([64] * 50)
    batches = Batches(numbered(y), 32, 0, groups=ClassGroups(8, 4))
    seen = [{int(c) for one in rows(batches, 8, 0, micro_batch, 4) for c in y[one]} for micro_batch in range(4)]
    assert len(set.union(*seen)) > 12


def test_settings_tell_grouped_orders_apart() -> None:
    data = numbered(labels([10, 10]))
    plain = {"set": data, "batch_size": 2, "seed": 1}
    assert Batches(data, 2, 1).settings == plain
    assert Batches(data, 2, 1, groups=ClassGroups(2, 1)).settings == plain | {"groups": ClassGroups(2, 1)}


def test_what_does_not_fit_is_refused() -> None:
    data = numbered(labels([10, 10]))
    with pytest.raises(
        ValueError, match=r"groups\.pool 6 x batch_size 4 x micro_batches 1 = 24 exceeds the 20 samples"
    ):
        Batches(data, 4, 0, groups=ClassGroups(6, 1))
    with pytest.raises(ValueError, match=r"x micro_batches 2 = 32 exceeds the 20"):
        Batches(data, 4, 0, groups=ClassGroups(4, 1)).stream(0, 0, 2)
    with pytest.raises(ValueError, match=r"classes of all rows as y \(n,\), list has none"):
        Batches(list(zip(data.x, data.y, strict=True)), 4, 0, groups=ClassGroups(2, 1))
    for settings_ in ({"pool": 0, "classes": 1}, {"pool": 1, "classes": 1.5}):
        with pytest.raises(ValueError, match="must be an integer of at least 1"):
            ClassGroups(**settings_)  # type: ignore[arg-type]
