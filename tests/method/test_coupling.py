"""The coupling: an exact assignment, a bijection of the noise alone, class by class, one pool ahead in a thread."""

import itertools
import math
import re
import threading
from collections.abc import Iterator

import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ismkit.lessons.pairings import class_information, class_leak, crossings, pair_variance, target_variance
from ismkit.method import coupling as module
from ismkit.method.auction import Auction
from ismkit.method.coupling import LOW_DIMENSION, Coupling, assign
from ismkit.utils import seeding
from tests.waiting import wait_until

# Both solvers: POT's up to LOW_DIMENSION, SciPy's above.
DIMENSIONS = [1, 2, LOW_DIMENSION, LOW_DIMENSION + 1, 30]
dimensions = st.sampled_from(DIMENSIONS)
seeds = st.integers(0, 2**32 - 1)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(n: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    x0, x1 = torch.randn(2, n, dim, generator=rng(seed))
    return x0, 0.5 * x1.sign() + 0.3 * x1


def cost(x0: Tensor, x1: Tensor) -> float:
    return (x0.double() - x1.double()).square().sum().item()


def sorted_rows(x: Tensor) -> list[list[float]]:
    return sorted(x.flatten(1).tolist())


# --------------------------------------------------------------------------------------------- the exact assignment


@given(st.integers(1, 40), dimensions, seeds)
@settings(max_examples=60)
def test_an_assignment_is_a_permutation_no_dearer_than_the_identity_or_a_shuffle(n: int, dim: int, seed: int) -> None:
    x0, x1 = points(n, dim, seed)
    p = assign(x0, x1)
    assert p.dtype == torch.long
    assert sorted(p.tolist()) == list(range(n))
    best = cost(x0[p], x1)
    assert best <= cost(x0, x1) * (1 + 1e-6) + 1e-9
    assert best <= cost(x0[torch.randperm(n, generator=rng(seed))], x1) * (1 + 1e-6) + 1e-9


@given(st.integers(1, 6), dimensions, seeds)
@settings(max_examples=40)
def test_the_cost_is_the_least_over_all_permutations(n: int, dim: int, seed: int) -> None:
    x0, x1 = points(n, dim, seed)
    least = min(cost(x0[list(order)], x1) for order in itertools.permutations(range(n)))
    assert cost(x0[assign(x0, x1)], x1) == pytest.approx(least, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_the_cost_is_pots(dim: int) -> None:
    x0, x1 = points(150, dim, seed=dim)
    squared = torch.cdist(x1.double(), x0.double()).square().numpy()
    assert cost(x0[assign(x0, x1)], x1) == pytest.approx(150 * ot.emd2([], [], squared), rel=1e-6)


@given(st.integers(2, 50), seeds)
@settings(max_examples=30)
def test_on_the_line_the_order_is_kept(n: int, seed: int) -> None:
    x0, x1 = points(n, 1, seed)
    in_order = cost(x0.sort(dim=0).values, x1.sort(dim=0).values)
    assert cost(x0[assign(x0, x1)], x1) == pytest.approx(in_order, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_the_assignment_follows_the_geometry_alone(dim: int) -> None:
    x0, x1 = points(40, dim, seed=3)
    best = cost(x0[assign(x0, x1)], x1)
    shift = torch.randn(dim, generator=rng(1))
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=rng(2))).Q
    order = torch.randperm(40, generator=rng(4))
    permutations = {
        "data moved": assign(x0, x1 + shift),  # squared distances grow by terms of rows and columns alone
        "noise moved": assign(x0 + shift, x1),
        "scaled": assign(3 * x0, x1 / 7),
        "rotated": assign(x0 @ rotation, x1 @ rotation),
        "data in another order": assign(x0, x1[order])[order.argsort()],
        "noise in another order": order[assign(x0[order], x1)],
    }
    # Costs are compared, not permutations: near ties may fall either way in float32.
    costs = {name: cost(x0[p], x1) for name, p in permutations.items()}
    assert costs == pytest.approx(dict.fromkeys(costs, best), rel=1e-6)


@given(dimensions, seeds, st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=20)
def test_images_are_assigned_as_their_pixels(dim: int, seed: int, dtype: torch.dtype) -> None:
    x0, x1 = (x.to(dtype) for x in points(12, 4 * dim, seed))
    assert torch.equal(assign(x0.reshape(12, dim, 2, 2), x1.reshape(12, dim, 2, 2)), assign(x0, x1))


def test_points_that_coincide_are_still_assigned_one_to_one() -> None:
    for dim in DIMENSIONS:
        p = assign(torch.randn(20, dim, generator=rng(0)), torch.zeros(20, dim))  # every permutation is optimal
        assert sorted(p.tolist()) == list(range(20))


# --------------------------------------------------------------------------------------------- coupling one pool


@given(st.integers(1, 40), dimensions, st.integers(1, 5), seeds, st.booleans(), st.integers(0, 3))
@settings(max_examples=60)
def test_coupling_is_a_bijection_of_the_noise(
    n: int, dim: int, classes: int, seed: int, class_aware: bool, pool: int
) -> None:
    x0, x1 = points(n, dim, seed)
    y = torch.randint(classes, (n,), generator=rng(seed))
    coupled = Coupling(pool, class_aware).couple(x0, x1, y)
    assert sorted_rows(coupled) == sorted_rows(x0)
    assert cost(coupled, x1) <= cost(x0, x1) * (1 + 1e-6) + 1e-9
    if not pool:
        assert torch.equal(coupled, x0)


@given(st.integers(1, 40), dimensions, st.integers(1, 5), seeds)
@settings(max_examples=40)
def test_class_aware_pairs_never_cross_classes(n: int, dim: int, classes: int, seed: int) -> None:
    x0, x1 = points(n, dim, seed)
    y = torch.randint(classes, (n,), generator=rng(seed))
    coupled = Coupling(1).couple(x0, x1, y)
    for c in y.unique():
        assert sorted_rows(coupled[y == c]) == sorted_rows(x0[y == c])  # its noise is drawn without regard to it
        assert torch.equal(coupled[y == c], x0[y == c][assign(x0[y == c], x1[y == c])])


@given(dimensions, seeds)
@settings(max_examples=20)
def test_one_class_or_none_is_plain_ot(dim: int, seed: int) -> None:
    x0, x1 = points(20, dim, seed)
    one = torch.zeros(20, dtype=torch.long)
    plain = Coupling(1, class_aware=False)
    assert torch.equal(Coupling(1).couple(x0, x1, one), plain.couple(x0, x1, one))
    assert torch.equal(plain.couple(x0, x1, one), plain.couple(x0, x1, torch.arange(20)))


def test_a_larger_pool_is_never_dearer() -> None:
    x0, x1 = points(96, 2, seed=0)
    y = torch.zeros(96, dtype=torch.long)
    plain = Coupling(1)
    costs = [
        sum(cost(plain.couple(a, b, c), b) for a, b, c in zip(*(z.split(size) for z in (x0, x1, y)), strict=True))
        for size in (1, 8, 32, 96)
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] == pytest.approx(cost(x0, x1))


def half_rings(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, data on a ring, and which half of the ring (the class)."""
    generator = rng(seed)
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    x1 = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    return torch.randn(n, 2, generator=generator), x1, (x1[:, 1] > 0).long()


def test_only_plain_ot_leaks_the_class_into_the_noise() -> None:
    # Plain OT gives each half ring the noise of its side: E|x0_2| = sqrt(2 / pi) = 0.80 away from the centre.
    n, runs = 200, 8
    leaks = []
    for seed in range(runs):
        x0, x1, y = half_rings(n, seed)
        independent, plain, aware = (
            class_leak(Coupling(pool, aware).couple(x0, x1, y), y) for pool, aware in ((0, True), (1, False), (1, True))
        )
        assert aware == pytest.approx(independent, rel=1e-9)  # the same noise in another order, class by class
        leaks.append((independent, plain))
    independent, plain = torch.tensor(leaks).T
    # A mean over 100 points has spread 0.1 per axis, its norm the mean 0.1 sqrt(pi / 2) and the spread 0.066.
    assert abs(independent.mean() - 0.125) < 6 * 0.066 / (2 * runs) ** 0.5
    assert abs(plain.mean() - math.sqrt(2 / math.pi)) < 0.1
    assert plain.min() > 2 * independent.max()


def test_class_leak_of_a_known_leak() -> None:
    y = torch.tensor([0, 0, 1, 1, 1])
    x0 = torch.tensor([[3.0, 4], [3, 4], [1, 1], [-1, -1], [0, 0]])
    assert class_leak(x0, y) == pytest.approx(2.5)  # |(3, 4)| and |(0, 0)|, averaged
    assert class_leak(x0.reshape(5, 1, 1, 2), y) == pytest.approx(2.5)


# --------------------------------------------------------------------------------------------- what a coupling does


def two_normals(n: int, dim: int, shift: float, seed: int) -> tuple[Tensor, Tensor]:
    """Noise whose class moves its first coordinate by +-shift."""
    generator = rng(seed)
    y = torch.randint(2, (n,), generator=generator)
    x0 = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    x0[:, 0] += shift * (2 * y - 1)
    return x0, y


def information_of_two_normals(shift: float) -> float:
    """I = ln 2 - E[ln(1 + exp(-2 shift z))], z ~ N(shift, 1): the loss of the best classifier, by quadrature."""
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    density = torch.exp(-((z - shift) ** 2) / 2) / math.sqrt(2 * math.pi)
    return math.log(2) - torch.trapezoid(density * torch.nn.functional.softplus(-2 * shift * z), z).item()


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dim", [1, 2])
def test_information_of_two_normals(shift: float, dim: int) -> None:
    found = torch.tensor([class_information(*two_normals(600, dim, shift, seed)) for seed in range(8)])
    # Six times the error of the mean (0.012 to 0.025 / sqrt(8)), and the bias at this n in two dimensions.
    assert found.mean().item() == pytest.approx(information_of_two_normals(shift), abs=0.045)


def test_information_of_classes_apart_is_their_entropy() -> None:
    y = torch.arange(4).repeat_interleave(torch.tensor([40, 80, 120, 160]))
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    x0 = 0.01 * torch.randn(400, 3, generator=rng(0)) + y[:, None]
    # Of classes apart every neighbour is of the own class: psi(n) - mean psi(n_i), whose limit is the entropy.
    sizes = 400 * shares
    exact = torch.special.digamma(torch.tensor(400.0)) - (shares * torch.special.digamma(sizes)).sum()
    assert class_information(x0, y) == pytest.approx(exact.item(), rel=1e-6)
    assert class_information(x0, y) == pytest.approx(-(shares * shares.log()).sum().item(), abs=0.01)


def test_information_equals_scikit_learns_on_the_line() -> None:
    selection = pytest.importorskip("sklearn.feature_selection")
    for seed, k in ((0, 1), (1, 3), (2, 7)):
        x0, y = two_normals(300, 1, 0.8, seed)
        theirs = selection.mutual_info_classif(x0.numpy(), y.numpy(), n_neighbors=k, random_state=0)[0]
        assert class_information(x0, y, k) == pytest.approx(theirs, abs=1e-6)


def test_information_does_not_depend_on_the_frame_or_the_names_of_the_classes() -> None:
    x0, y = two_normals(200, 3, 1.0, 0)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=rng(2), dtype=torch.float64)).Q
    assert class_information(7 * x0 @ rotation + 1, 5 - 3 * y) == pytest.approx(class_information(x0, y), abs=1e-9)
    with pytest.raises(ValueError, match=r"below the rows of each class, got 3 and \[3, 5\]"):
        class_information(torch.randn(8, 2), torch.tensor([0, 0, 0, 1, 1, 1, 1, 1]))


def test_information_sees_a_leak_that_moves_no_mean() -> None:
    generator = rng(0)
    y = torch.randint(2, (600,), generator=generator)
    x0 = torch.randn(600, 2, generator=generator) * (0.2 + 1.6 * y[:, None])
    assert class_leak(x0, y) < 0.15
    assert class_information(x0, y) > 0.3


@given(st.integers(2, 30), dimensions, seeds)
@settings(max_examples=30)
def test_crossings_are_the_swaps_that_save(n: int, dim: int, seed: int) -> None:
    x0, x1 = points(n, dim, seed)
    count, before = 0, cost(x0, x1)
    least = 2e-6 * (x0 @ x1.T).abs().max().item()  # of the two products in the cost
    for i, j in itertools.combinations(range(n), 2):
        swapped = x0.clone()
        swapped[[i, j]] = x0[[j, i]]
        count += cost(swapped, x1) < before - least
    assert crossings(x0, x1) == pytest.approx(count / (n * (n - 1) / 2), abs=1e-12)
    assert crossings(x0[assign(x0, x1)], x1) == 0
    assert crossings(x0, x0) == 0
    apart = torch.arange(float(n))[:, None].expand(n, dim)
    assert crossings(apart, 3 - 2 * apart) == 1


@pytest.mark.parametrize("dim", [1, 2, 30])
def test_half_of_all_pairs_cross_where_noise_is_independent(dim: int) -> None:
    shares = torch.tensor([crossings(*points(100, dim, seed)) for seed in range(20)])
    assert abs(shares.mean() - 0.5) < 6 * shares.std() / 20**0.5


def test_crossings_needs_pairs() -> None:
    with pytest.raises(ValueError, match=r"one shape and 2 rows or more, got \(1, 2\), \(1, 2\)"):
        crossings(torch.zeros(1, 2), torch.zeros(1, 2))


@pytest.mark.parametrize("t", [0.0, 0.3, 0.7])
def test_target_variance_of_two_normals(t: float) -> None:
    """x0 ~ N(0, 1), x1 ~ N(0, s^2): Var(v | x_t) = 1 + s^2 - (t s^2 - (1 - t))^2 / ((1 - t)^2 + t^2 s^2)."""
    s, n = 2.0, 4000

    def draw(seed: int) -> tuple[Tensor, Tensor]:
        x0, x1 = torch.randn(2, n, 2, generator=rng(seed))
        return (1 - t) * x0 + t * s * x1, s * x1 - x0

    exact = 2 * (1 + s**2 - (t * s**2 - (1 - t)) ** 2 / ((1 - t) ** 2 + t**2 * s**2))
    found = torch.tensor([target_variance(*draw(2 * seed), *draw(2 * seed + 1)) for seed in range(4)])
    assert found.mean().item() == pytest.approx(exact, rel=0.05)


def test_target_variance_of_a_function_is_small_and_of_pure_noise_its_variance() -> None:
    x, other = torch.rand(2, 3000, 2, generator=rng(0))
    assert target_variance(x, x.square(), other, other.square()) < 1e-3
    v, w = 3 * torch.randn(2, 3000, 1, generator=rng(1))
    assert target_variance(x, v, other, w) == pytest.approx(9, rel=0.12)
    with pytest.raises(ValueError, match=r"v and other_v must be \(n, D\), got \(3000, 1\) and \(3000, 2\)"):
        target_variance(x, v, other, other)


def test_pair_variance_in_pools_of_one_pair_is_that_of_the_data() -> None:
    data = torch.randn(500, 1, 2, 3, generator=rng(0))
    pools = [(torch.zeros(1, 2, 3), x1) for x1 in data]
    exact = data.flatten(1).double().var(0).sum().item()
    assert pair_variance(torch.zeros(1, 2, 3), pools) == pytest.approx(exact, rel=1e-9)


def test_pair_variance_on_the_line_is_that_of_the_order_statistic() -> None:
    # A probe far to the left gets the least of n uniform numbers: variance n / ((n + 1)^2 (n + 2)).
    n, generator = 9, rng(0)
    pools = [(torch.rand(n, 1, generator=generator), torch.rand(n, 1, generator=generator)) for _ in range(4000)]
    found = pair_variance(torch.tensor([[-5.0]]), pools)
    assert found == pytest.approx(n / ((n + 1) ** 2 * (n + 2)), rel=0.15)
    same = [(torch.rand(n, 1, generator=generator), torch.arange(n)[:, None].float()) for _ in range(5)]
    assert pair_variance(torch.tensor([[-5.0], [5.0]]), same) == 0


def test_pair_variance_needs_pools_that_hold_the_probes() -> None:
    pool = (torch.zeros(3, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="a pool must hold the 4 probes, got 3 rows"):
        pair_variance(torch.zeros(4, 2), [pool, pool])
    with pytest.raises(ValueError, match="pools must be two or more, got 1"):
        pair_variance(torch.zeros(1, 2), [pool])


# ------------------------------------------------------------------------------------------------ a stream of pools

SIZE = 6


def batch(k: int, dim: int = 2) -> tuple[Tensor, Tensor]:
    x1 = torch.randn(SIZE, dim, generator=rng(1000 + k))
    x1[:, 0] = k + torch.arange(SIZE) / 10  # says which row of which batch this is
    return x1, torch.arange(SIZE) % 2 + 2 * k


def batches(first: int, stop: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    for k in itertools.count(first) if stop is None else range(first, stop):
        yield batch(k)


@pytest.mark.parametrize("class_aware", [False, True])
@pytest.mark.parametrize("pool", [0, 1, 3])
def test_pairs_hands_out_the_batches_in_order_with_data_and_labels_whole(pool: int, class_aware: bool) -> None:
    handed = list(Coupling(pool, class_aware).pairs(batches(0, 8), seed=0))  # the last of three pools is short
    assert len(handed) == 8
    for k, (x0, x1, y) in enumerate(handed):
        expected, labels = batch(k)
        assert torch.equal(x1, expected)
        assert torch.equal(y, labels)
        assert x0.shape == x1.shape


@pytest.mark.parametrize("pool", [1, 2, 4])
def test_one_assignment_spans_the_pool(pool: int) -> None:
    noise = [x0 for x0, *_ in Coupling(0).pairs(batches(0, 8), seed=0)]
    plain = Coupling(pool, class_aware=False)
    handed = list(plain.pairs(batches(0, 8), seed=0))
    for p in range(8 // pool):
        x0, x1, y = (torch.cat(part) for part in zip(*handed[p * pool : (p + 1) * pool], strict=True))
        assert cost(plain.couple(x0, x1, y), x1) == pytest.approx(cost(x0, x1), rel=1e-6)  # no more to gain
    assert [len(x0) for x0, *_ in handed] == [SIZE] * 8
    if pool == 1:
        for (x0, *_), independent in zip(handed, noise, strict=True):
            assert sorted_rows(x0) == sorted_rows(independent)


@given(st.integers(0, 4), st.integers(0, 11), st.booleans())
@settings(max_examples=25)
def test_a_stream_started_anywhere_continues_as_if_from_the_beginning(pool: int, step: int, class_aware: bool) -> None:
    coupling = Coupling(pool, class_aware)
    whole = list(coupling.pairs(batches(0, 14), seed=5, micro_batch=1))
    first = coupling.first_batch(step)
    assert first <= step < first + max(pool, 1)
    assert first % max(pool, 1) == 0
    late = list(coupling.pairs(batches(first, 14), seed=5, step=step, micro_batch=1))
    assert len(late) == 14 - step
    for ours, expected in zip(late, whole[step:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_noise_depends_on_seed_and_shard() -> None:
    noises = [
        next(Coupling(0).pairs(batches(0), seed=seed, micro_batch=micro_batch))[0]
        for seed, micro_batch in ((0, 0), (0, 1), (1, 0))
    ]
    for one, other in itertools.combinations(noises, 2):
        assert not torch.equal(one, other)


@pytest.mark.parametrize("coupling", [Coupling(0), Coupling(4), Coupling(4, class_aware=False)])
def test_the_noise_is_standard_normal(coupling: Coupling) -> None:
    pools = 100
    stream = coupling.pairs(batches(0, 4 * pools), seed=0)
    x0 = torch.cat([x0 for x0, *_ in stream]).double().flatten()
    n = len(x0)
    # Six standard deviations of each estimate.
    assert abs(x0.mean()) < 6 * (1 / n) ** 0.5
    assert abs(x0.square().mean() - 1) < 6 * (2 / n) ** 0.5
    assert abs(x0.pow(3).mean()) < 6 * (15 / n) ** 0.5
    assert abs(x0.pow(4).mean() - 3) < 6 * (96 / n) ** 0.5


def ones_and_more(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A source: far from standard normal, and rows that can be told apart."""
    return 1 + torch.rand(shape, generator=generator)


@pytest.mark.parametrize("coupling", [Coupling(0), Coupling(2), Coupling(2, class_aware=False)])
def test_the_noise_is_of_the_source_that_is_given(coupling: Coupling) -> None:
    handed = list(coupling.pairs(batches(0, 4), seed=3, micro_batch=1, source=ones_and_more))
    size = max(coupling.pool, 1)
    for p in range(4 // size):
        x0, x1 = (torch.cat([pair[k] for pair in handed[p * size : (p + 1) * size]]) for k in (0, 1))
        drawn = ones_and_more(tuple(x1.shape), seeding.stream(3, "noise", 1, p))
        assert sorted_rows(x0) == sorted_rows(drawn)
    first = coupling.first_batch(3)
    (late,) = coupling.pairs(batches(first, 4), seed=3, step=3, micro_batch=1, source=ones_and_more)
    assert all(torch.equal(a, b) for a, b in zip(late, handed[3], strict=True))


# -------------------------------------------------------------------------------------------------------- overlap


def coupling_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("coupling")]


def test_the_consumer_does_not_wait_for_the_next_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    solved: list[str] = []
    gate = threading.Event()

    def slow_assign(x0: Tensor, x1: Tensor) -> Tensor:
        solved.append(threading.current_thread().name)
        if len(solved) > 1 and not gate.wait(20):
            raise TimeoutError("the consumer waited for the solver")
        return assign(x0, x1)

    def source() -> Iterator[tuple[Tensor, Tensor]]:
        for k in itertools.count():
            taken.append(k)
            yield batch(k)

    monkeypatch.setattr(module, "assign", slow_assign)
    stream = Coupling(3, class_aware=False).pairs(source(), seed=0)
    for _ in range(3):
        next(stream)  # all of pool 0, while pool 1 is stuck in the solver
    assert not gate.is_set()
    wait_until(lambda: len(solved) == 2)
    assert taken == list(range(6))  # one pool ahead, and no further
    gate.set()
    for k in range(3, 6):
        assert torch.equal(next(stream)[1], batch(k)[0])
    wait_until(lambda: len(solved) == 3)
    assert taken == list(range(9))
    stream.close()
    assert len(solved) == 3
    assert all(name.startswith("coupling") for name in solved)
    assert coupling_threads() == []


def test_the_thread_ends_with_the_stream() -> None:
    closed = Coupling(2).pairs(batches(0), seed=0)
    next(closed)
    assert len(coupling_threads()) == 1
    closed.close()
    assert coupling_threads() == []
    list(Coupling(2).pairs(batches(0, 5), seed=0))
    assert coupling_threads() == []
    dropped = Coupling(2).pairs(batches(0), seed=0)
    next(dropped)
    del dropped
    wait_until(lambda: coupling_threads() == [])


def test_a_failed_assignment_reaches_the_consumer_when_its_pool_is_due() -> None:
    def spoilt() -> Iterator[tuple[Tensor, Tensor]]:
        for x1, y in batches(0):
            yield (x1.clone().fill_(math.nan) if y[0] == 10 else x1), y  # batch 5, of pool 2

    stream = Coupling(2).pairs(spoilt(), seed=0)
    for k in range(4):
        assert torch.equal(next(stream)[1], batch(k)[0])
    with pytest.raises(ValueError, match="x1 has 6 values that are not finite: not coupled"):
        next(stream)  # three of the six rows of class 10 and both of their values
    assert coupling_threads() == []


def test_a_failure_of_the_data_reaches_the_consumer() -> None:
    def broken() -> Iterator[tuple[Tensor, Tensor]]:
        yield from batches(0, 3)
        raise OSError("disk gone")

    stream = Coupling(1).pairs(broken(), seed=0)
    with pytest.raises(OSError, match="disk gone"):
        list(stream)
    assert coupling_threads() == []


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("dim", [2, 20])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(dim: int, bad: float) -> None:
    good, spoilt = torch.zeros(4, dim), torch.zeros(4, dim)
    spoilt[1, 0] = spoilt[3, 1] = bad
    y = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match="x0 has 2 values that are not finite: not coupled"):
        Coupling(1).couple(spoilt, good, y)
    with pytest.raises(ValueError, match="x1 has 2 values that are not finite: not coupled"):
        Coupling(1).couple(good, spoilt, y)


@pytest.mark.parametrize("shape", [(5, 2), (3, 2), (4, 3), (4, 2, 1)])
@pytest.mark.parametrize("coupling", [Coupling(0), Coupling(1), Coupling(1, class_aware=False)])
def test_noise_and_data_of_two_shapes_are_refused(coupling: Coupling, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x0 and x1 must have one shape, got \(.*\) and \(4, 2\)"):
        coupling.couple(torch.zeros(shape), torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"x0 and x1 must have one shape, got \(.*\) and \(4, 2\)"):
        assign(torch.zeros(shape), torch.zeros(4, 2))


def test_labels_that_are_not_one_per_row_are_refused() -> None:
    x = torch.zeros(4, 2)
    for shape in ((3,), (4, 1), (4, 3), ()):  # (n, 1) and one-hot labels coupled to noise that was no permutation
        expected = rf"y must hold one label per row of x1, shape \(4,\), got {re.escape(str(shape))}"
        with pytest.raises(ValueError, match=expected):
            Coupling(1).couple(x, x, torch.zeros(shape, dtype=torch.long))
    with pytest.raises(TypeError, match=r"y must hold whole numbers, got torch\.float32: use y\.long\(\)"):
        Coupling(1).couple(x, x, torch.zeros(4))


def test_a_negative_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="pool, the number of batches in one assignment, must be 0 or more, got -1"):
        Coupling(-1)


def backwards(x0: Tensor, x1: Tensor) -> Tensor:
    return torch.arange(len(x0)).flip(0)


def test_a_solver_of_ones_own_pairs_the_noise() -> None:
    x0, x1 = points(6, 2, 0)
    y = torch.tensor([0, 0, 1, 0, 1, 0])
    assert torch.equal(Coupling(1, class_aware=False, solver=backwards).couple(x0, x1, y), x0.flip(0))
    assert torch.equal(Coupling(1, solver=backwards).couple(x0, x1, y), x0[[5, 3, 4, 1, 2, 0]])
    assert Coupling(0, solver=backwards).couple(x0, x1, y) is x0


@pytest.mark.parametrize(
    "answer",
    [[0, 0, 1, 2], [1, 2, 3, 4], [0, 1, 2], [0], [0.0, 1.0, 2.0, 3.0], [True] * 4, [[0, 1], [2, 3]]],
    ids=str,
)
def test_a_solver_that_returns_no_permutation_is_an_error(answer: list[object]) -> None:
    coupling = Coupling(1, class_aware=False, solver=lambda x0, x1: torch.tensor(answer))
    with pytest.raises(ValueError, match=r"solver must return a permutation of 4 rows, a long tensor \(4,\), got \("):
        coupling.couple(*points(4, 2, 0), torch.zeros(4, dtype=torch.long))
    coupling = Coupling(1, class_aware=False, solver=lambda x0, x1: answer)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match=r"a long tensor \(4,\), got list$"):
        coupling.couple(*points(4, 2, 0), torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("solver", ["auction", 3, Auction])
def test_a_solver_that_is_no_function_is_refused(solver: object) -> None:
    with pytest.raises(ValueError, match=r"solver must be None or a function \(x0, x1\) -> permutation, got "):
        Coupling(32, solver=solver)  # type: ignore[arg-type]


def test_a_solver_that_does_not_end_in_a_permutation_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ot, "emd", lambda *_, **__: torch.ones(4, 4).numpy())
    with pytest.raises(RuntimeError, match="the assignment of 4 points did not converge to a permutation"):
        assign(*points(4, 2, 0))
