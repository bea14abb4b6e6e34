"""Scores: known samples get the scores that they must, the protocol is kept, and tables are complete."""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ismkit.data.fashion import fashion_mnist
from ismkit.data.sets import Labelled, eight_gaussians
from ismkit.evaluation import judges
from ismkit.evaluation.judges import (
    FashionJudge,
    FeatureJudge,
    PointJudge,
    Score,
    Setting,
    as_text,
    load_features,
    write_csv,
)
from ismkit.evaluation.metrics import Moments, curvature, frechet, spectrum_error
from ismkit.method.path import Query, StepGrid
from ismkit.method.sampling import trajectory
from ismkit.models.nets import DiT
from ismkit.models.spaces import SHAPE
from ismkit.utils.seeding import stream

N = 1000


def enlarge(z: Tensor) -> Tensor:
    """A decoder that needs no training: latents (n, 4, 8, 8) -> images (n, 1, 28, 28) in [-1, 1]."""
    return F.interpolate(z.mean(1, keepdim=True), size=28, mode="bilinear").tanh()


def judged_by(decode: Any) -> FashionJudge:
    """A judge with the released classifier and this decoder."""
    return FashionJudge(load_features(), SimpleNamespace(decode=decode), torch.device("cpu"))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def test_set() -> Labelled:
    return fashion_mnist("test")


@pytest.fixture(scope="module")
def judge() -> FashionJudge:
    """One for all tests, so that the 10 000 test images pass through the classifier once."""
    return judged_by(enlarge)


@dataclass
class Catalogue:
    """A "network" that draws real images of the classes asked for: a latent holds the image's number."""

    data: Labelled
    taken: dict[int, Iterator[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for c in range(10):
            self.taken[c] = iter((self.data.y == c).nonzero().flatten().tolist())

    def __call__(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        numbers = torch.tensor([next(self.taken[c]) for c in y.tolist()])
        return numbers[:, None, None, None] - x  # one step of length 1 leads there

    def decode(self, z: Tensor) -> Tensor:
        return self.data.x[z[:, 0, 0, 0].round().long()]


def test_real_images_score_as_real(judge: FashionJudge, test_set: Labelled) -> None:
    catalogue = Catalogue(test_set)
    real = judged_by(catalogue.decode)
    real.__dict__["_real"] = judge._real
    y = torch.arange(N) % 10
    images = real.draw(catalogue, y, w=1.0, nfe=1)
    score = real.score_images(images, y)
    with torch.no_grad():
        right = (judge.classifier(images).argmax(1) == y).double().mean().item()
    assert score["agreement"] == pytest.approx(right, abs=1e-12)
    # Its accuracy on all test images is 93.3 %; a share of 1000 spreads by 0.8 % around that.
    assert score["agreement"] == pytest.approx(0.933, abs=0.04)
    # 1000 images of the training split are at 0.25 (ismkit/models/weights/README.md), noise at 60.
    assert 0 < score["frechet"] < 0.3
    assert score["precision"] > 0.8
    assert score["recall"] > 0.8

    wrong = real.score_images(images, (y + 1) % 10)  # what was asked for changes the agreement and nothing else
    assert wrong["agreement"] < 0.1
    assert {**wrong, "agreement": 0} == {**score, "agreement": 0}


def test_the_reference_itself_scores_perfectly(test_set: Labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    few = Labelled(test_set.x[:300], test_set.y[:300], 10, test_set.class_names)
    monkeypatch.setattr(judges, "fashion_mnist", lambda split: few if split == "test" else pytest.fail(split))
    score = judged_by(enlarge).score_images(few.x, few.y)
    assert score["frechet"] == pytest.approx(0, abs=1e-9)
    assert (score["precision"], score["recall"]) == (1, 1)


def test_noise_scores_badly(judge: FashionJudge) -> None:
    noise = torch.randn(200, 1, 28, 28, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    score = judge.score_images(noise, torch.arange(200) % 10)
    assert score["frechet"] > 40
    assert score["agreement"] < 0.3
    assert score["recall"] < 0.01
    assert 0.1 < score["precision"] < 0.5  # not 0: among 200 real images some stand alone, with wide balls


# ---------------------------------------------------------------- drawing


@pytest.fixture
def net() -> DiT:
    """Small, with weights as of training: a fresh one answers zero."""
    rng = torch.Generator().manual_seed(0)
    net = DiT(size=8, channels=4, patch=2, width=16, depth=1, heads=2, num_classes=10).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.1, generator=rng)
    return net


def test_draw_is_a_function_of_the_seed(judge: FashionJudge, net: DiT) -> None:
    y = torch.arange(12) % 10
    before = torch.get_rng_state()
    first, again, other = (judge.draw(net, y, w=1.0, nfe=2, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (12, 1, 28, 28)
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 0.1


def test_draw_does_not_depend_on_the_batch(judge: FashionJudge, net: DiT) -> None:
    y = torch.arange(12) % 10
    whole = judge.draw(net, y, w=1.0, nfe=2)
    for batch in (1, 5, 12):  # kernels of another size round otherwise
        torch.testing.assert_close(judge.draw(net, y, w=1.0, nfe=2, batch=batch), whole, rtol=0, atol=1e-5)


def test_draw_decodes_the_noise_of_its_stream(judge: FashionJudge) -> None:
    still = judge.draw(lambda x, *query: torch.zeros_like(x), torch.zeros(5).long(), w=0.0, nfe=4, seed=7)
    x0 = torch.randn(5, *SHAPE, generator=stream(7, "samples"))
    assert torch.equal(still, enlarge(x0))


@pytest.mark.parametrize("steps", [1, 4, 128])
def test_network_is_called_once_per_step_and_batch(judge: FashionJudge, steps: int) -> None:
    calls: list[tuple[int, float, list[int]]] = []

    def counted(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        calls.append((len(x), float(w.unique()), y.tolist()))
        return torch.zeros_like(x)

    y = torch.arange(20) % 10
    judge.draw(counted, y, w=1.5, nfe=steps, batch=8)
    assert calls == [(len(part), 1.5, part.tolist()) for part in y.split(8) for _ in range(steps)]


# ---------------------------------------------------------------- tables


def test_table_has_a_row_for_each_setting_in_order(judge: FashionJudge, net: DiT) -> None:
    strengths = (w for w in (0, 1.5))  # may be used up in one pass
    rows = judge.table(net, nfe=[1, 2], w=strengths, n=100, seed=5, progress=False)
    assert [(row["nfe"], row["w"], row["n"]) for row in rows] == [
        (1, 0.0, 100),
        (1, 1.5, 100),
        (2, 0.0, 100),
        (2, 1.5, 100),
    ]
    for row in rows:
        assert list(row) == list(Score.__annotations__)
        assert all(math.isfinite(value) for value in row.values())  # type: ignore[call-overload]
    y = torch.arange(100) % 10
    images = judge.draw(net, y, w=1.5, nfe=2, seed=5)
    score = judge.score_images(images, y) | {"spectrum_error": spectrum_error(images, fashion_mnist("test").x)}
    noise = torch.randn(100, *SHAPE, generator=stream(5, "samples"))
    score["curvature"] = float(curvature(trajectory(net, noise, y, w=1.5, nfe=2)).mean())
    assert rows[-1] == {"nfe": 2, "w": 1.5, "n": 100, **score}


def test_settings_of_a_table_share_their_noise(judge: FashionJudge) -> None:
    rows = judge.table(lambda x, *query: torch.zeros_like(x), nfe=[1, 4], w=[0, 2], n=100, progress=False)
    scores = [{key: row[key] for key in ("frechet", "agreement", "precision", "recall")} for row in rows]  # type: ignore[literal-required]
    assert scores == [scores[0]] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 99}, r"n must be 100 \.\. 10000 samples, .*, got 99"),
        ({"n": 10_001}, "got 10001"),
        ({"nfe": [1, 3]}, r"nfe must be one of \[1, 2, 4, .* got 3"),
        ({"nfe": [256]}, "got 256"),
        ({"w": [0.0, -1.0]}, r"w, the guidance strength, must be finite and at least 0, got -1\.0"),
        ({"w": [math.nan]}, "got nan"),
    ],
)
def test_table_refuses_before_any_work(judge: FashionJudge, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge.table(lambda *query: pytest.fail("called"), **{"nfe": [1], "w": [0.0], "n": 100, **change})


def score(**change: Any) -> Score:
    row: dict[str, Any] = {"nfe": 4, "w": 0.1, "n": 100, "frechet": 1 / 3, "agreement": 0.5, "precision": 1.0}
    return row | {"recall": 0.25, "spectrum_error": 1e-3, "curvature": 2 / 7} | change  # type: ignore[return-value]


def test_csv_holds_every_number_exactly(tmp_path: Path) -> None:
    rows = [score(), score(w=2.0, frechet=1e-17, recall=2 / 3)]
    path = tmp_path / "new" / "scores.csv"
    for table in ([score(nfe=128)] * 5, rows):  # the second replaces the first
        assert write_csv(table, str(path)) == path
    assert list(path.parent.iterdir()) == [path]
    with path.open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [{key: float(value) for key, value in row.items()} for row in read] == rows
    assert list(read[0]) == list(rows[0])


def test_csv_is_whole_or_as_before(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    write_csv([score()], path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="surprise"):
        write_csv([score(), score(surprise=1)], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_printed_table_names_and_aligns_its_columns() -> None:
    text = as_text([score(), score(nfe=128, n=10_000, frechet=12.3456)])
    head, *lines = text.splitlines()
    names = ["NFE", "w", "n", "Frechet", "agreement", "precision", "recall", "spectrum", "curvature"]
    assert head.split() == names
    assert [line.split() for line in lines] == [
        ["4", "0.1", "100", "0.333", "0.500", "1.000", "0.250", "0.0010", "0.2857"],
        ["128", "0.1", "10000", "12.346", "0.500", "1.000", "0.250", "0.0010", "0.2857"],
    ]
    assert {len(line) for line in lines} == {len(head)}


# ---------------------------------------------------------------- one setting


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (Setting(0, 0.0, 100), "nfe must be an integer of at least 1, got 0"),
        (Setting(-4, 0.0, 100), "nfe must be an integer of at least 1, got -4"),
        (Setting(1.5, 0.0, 100), r"nfe must be an integer of at least 1, got 1\.5"),  # type: ignore[arg-type]
        (Setting(True, 0.0, 100), "nfe must be an integer of at least 1, got True"),
        (Setting(1, -0.5, 100), r"w, the guidance strength, must be finite and at least 0, got -0\.5"),
        (Setting(1, math.inf, 100), "got inf"),
        (Setting(1, math.nan, 100), "got nan"),
        (Setting(1, 0.0, 0), "n must be an integer of at least 1, got 0"),
    ],
)
def test_setting_that_cannot_be_scored_is_refused(setting: Setting, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        setting.check()


def test_settings_that_can_be_scored() -> None:
    for nfe in (1, 2, 3, 4, 7, 8, 128, 1000):
        Setting(nfe, 0.0, 1).check()
        Setting(nfe, 3.5, 10_000, 7).check()


@pytest.mark.parametrize(
    ("lengths", "grid", "known", "unknown"),
    [
        ("dyadic", None, (1, 2, 4, 128), {3: "one of", 256: "one of"}),
        ("dyadic", StepGrid(8), (1, 8), {16: r"one of \[1, 2, 4, 8\]"}),
        ("any", None, (1, 3, 1000), {}),
        ("to data", None, (1, 3, 1000), {}),  # with fresh noise, as judges draw
    ],
)
def test_a_setting_is_one_that_the_network_can_do(
    lengths: str, grid: StepGrid | None, known: tuple[int, ...], unknown: dict[int, str]
) -> None:
    def net(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(x)

    net.step_lengths, net.grid = lengths, grid  # type: ignore[attr-defined]
    judge = PointJudge(points(80), torch.device("cpu"))
    for nfe in known:
        Setting(nfe, 0.0, 8).check(net)
    assert math.isfinite(judge.score(net, Setting(known[1], 0.0, 8))["w2"])
    for nfe, message in unknown.items():
        for refused in (lambda s: s.check(net), lambda s: judge.score(net, s)):
            with pytest.raises(ValueError, match=rf"nfe must be {message}.*, got {nfe}, those of net"):
                refused(Setting(nfe, 0.0, 8))


def points(n: int, seed: int = 0) -> Labelled:
    return eight_gaussians(n, seed)


def of_class(data: Labelled, y: Tensor) -> Tensor:
    """Points of the classes asked for, of each the first ones in turn."""
    taken = [iter(data.x[data.y == c]) for c in range(data.num_classes)]
    return torch.stack([next(taken[c]) for c in y.tolist()])


@dataclass
class Leading:
    """A network whose samples are known points: it answers the way that is left, over the time that is left."""

    ends: Tensor
    asked: list[Query] = field(default_factory=list)

    def __call__(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        self.asked.append(Query(x, t, d, w, y))
        return (self.ends - x) / (1 - t[:, None])


@pytest.mark.parametrize("n", [80, 84])  # ten of each class, or eleven of the first four
def test_points_are_scored_by_the_exact_distance_per_class(n: int) -> None:
    data, other = points(400), points(400, 1)
    judge, y = PointJudge(data, torch.device("cpu")), torch.arange(n) % 8
    net = Leading(of_class(other, y))
    score = judge.score(net, Setting(1, 1.5, n, seed=3))
    distances = []
    for c in range(8):
        drawn, real = net.ends[y == c].double(), data.x[data.y == c][: int((y == c).sum())].double()
        cost = torch.cdist(drawn, real).square().numpy()
        rows, columns = linear_sum_assignment(cost)  # clouds of equal size: an optimal plan is a permutation
        distances.append(math.sqrt(cost[rows, columns].mean()))
    assert score["w2"] == pytest.approx(sum(distances) / 8, rel=1e-5)
    assert score["w2"] > 0.01
    (asked,) = net.asked
    assert torch.equal(asked.x, torch.randn(n, 2, generator=stream(3, "samples")))
    assert torch.equal(asked.y, y)
    assert (asked.w == 1.5).all()


def test_points_are_drawn_from_the_source_of_the_judge() -> None:
    def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=generator)

    data, y = points(400), torch.arange(80) % 8
    net = Leading(of_class(data, y))
    PointJudge(data, torch.device("cpu"), uniform).score(net, Setting(1, 0.0, 80, seed=3))
    assert torch.equal(net.asked[0].x, uniform((80, 2), stream(3, "samples")))
    with pytest.raises(TypeError, match="source must be a function"):
        PointJudge(data, torch.device("cpu"), "uniform")  # type: ignore[arg-type]


def test_networks_of_steps_to_the_data_are_sampled_as_such() -> None:
    data, y = points(400), torch.arange(80) % 8
    net = Leading(of_class(data, y))
    net.step_lengths = "to data"  # type: ignore[attr-defined]
    judge = PointJudge(data, torch.device("cpu"))
    assert judge.score(net, Setting(4, 0.0, 80, seed=3))["w2"] == pytest.approx(0, abs=1e-6)
    assert [(query.t[0].item(), query.d[0].item()) for query in net.asked] == [(k / 4, 1 - k / 4) for k in range(4)]
    fresh = stream(3, "renoise")
    for query in net.asked[1:]:
        expected = torch.lerp(torch.randn(80, 2, generator=fresh), net.ends, query.t[0].item())
        torch.testing.assert_close(query.x, expected)


def test_points_of_the_data_themselves_are_at_distance_zero_and_shifted_ones_at_the_shift() -> None:
    data, y = points(400), torch.arange(160) % 8
    judge = PointJudge(data, torch.device("cpu"))
    assert judge.score(Leading(of_class(data, y)), Setting(1, 0.0, 160))["w2"] == pytest.approx(0, abs=1e-6)
    shifts = torch.stack([torch.arange(8.0), torch.zeros(8)], 1)  # 0 .. 7 by class: the mean over the classes is 3.5
    score = judge.score(Leading(of_class(data, y) + shifts[y]), Setting(1, 0.0, 160))
    assert score["w2"] == pytest.approx(3.5, rel=1e-5)
    swapped = judge.score(Leading(of_class(data, (y + 1) % 8)), Setting(1, 0.0, 160))
    assert swapped["w2"] > 1  # all points are there, but under other labels


def test_straight_paths_of_points_have_no_curvature_and_bent_ones_have() -> None:
    data, y = points(400), torch.arange(80) % 8
    judge = PointJudge(data, torch.device("cpu"))
    for nfe in (1, 4):
        score = judge.score(Leading(of_class(data, y)), Setting(nfe, 0.0, 80))
        assert score["curvature"] == pytest.approx(0, abs=1e-5)
    bent = judge.score(lambda x, t, *_: torch.stack([1 + 0 * t, (t < 0.5).float()], 1), Setting(4, 0.0, 80))
    # Steps of (1, 1), (1, 1), (1, 0), (1, 0) quarters: 4 * 6/16 over |(1, 1/2)|^2, less 1.
    assert bent["curvature"] == pytest.approx(1.5 / 1.25 - 1, rel=1e-5)


def test_curvature_is_that_of_the_samples_that_moved_and_undefined_where_none_did() -> None:
    def bent(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return torch.stack([1 + 0 * t, (t < 0.5).float()], 1) * (y[:, None] % 2)

    judge = PointJudge(points(400), torch.device("cpu"))
    assert judge.score(bent, Setting(4, 0.0, 80))["curvature"] == pytest.approx(0.2, rel=1e-5)
    still = judge.score(lambda x, *_: torch.zeros_like(x), Setting(4, 0.0, 80))
    assert math.isnan(still["curvature"])
    assert math.isfinite(still["w2"])


def test_shipped_judge_sees_test_images_through_the_latents_as_their_class(test_set: Labelled) -> None:
    """The best that a model of these latents can do: 93.3 % of the images themselves are seen as their class."""
    shipped = FashionJudge.load()
    assert shipped.device == torch.device("cpu")
    x, y = test_set.x[:500], test_set.y[:500]
    with torch.no_grad():
        images = shipped.autoencoder.decode(shipped.autoencoder.encode(x))
        agreement = (shipped.classifier(images).argmax(1) == y).double().mean().item()
    assert agreement > 0.85


def test_test_images_are_read_once_and_each_sample_is_drawn_once(
    judge: FashionJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """faults B11: each setting read 10 000 images again, and drew 250 samples a second time for their paths."""
    read, rows = [], []
    few = judges.fashion_mnist("test")
    judge = FashionJudge(judge.classifier, judge.autoencoder, judge.device)
    monkeypatch.setattr(judges, "fashion_mnist", lambda split: read.append(split) or few)

    def net(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        rows.append(len(x))
        return x * (t + w)[:, None, None, None]

    scores = [judge.score(net, Setting(nfe, 1.0, 600)) for nfe in (1, 4)]
    assert read == ["test"]
    assert rows == [500, 100, *[500] * 4, *[100] * 4]
    x0 = torch.randn(600, 4, 8, 8, generator=stream(0, "samples"))[:250]
    path = trajectory(net, x0, torch.arange(250) % 10, w=1.0, nfe=4)
    assert scores[1]["curvature"] == pytest.approx(float(curvature(path).mean()), rel=1e-6)
    images = judge.draw(net, torch.arange(600) % 10, w=1.0, nfe=4)
    assert scores[1]["spectrum_error"] == spectrum_error(images, few.x)


# ---------------------------------------------------------------- features of one's own


def test_the_judge_of_own_features_is_the_metrics_by_hand() -> None:
    """What is drawn is known up to rounding in float32; the classes without rows are not drawn."""
    rng = torch.Generator().manual_seed(0)
    data = Labelled(torch.randn(90, 1, 2, 2, generator=rng), torch.arange(90) % 2 * 2, 3, ("a", "b", "c"))
    asked: list[Tensor] = []

    def net(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        asked.append(y)
        return y[:, None, None, None] - x

    def features(x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2]

    with pytest.warns(UserWarning, match="scored"):
        judge = FeatureJudge(data, features, torch.device("cpu"), batch=7)
    found = judge.score(net, Setting(1, 0.0, 40))
    y = torch.cat(asked)
    assert y.tolist() == [0, 2] * 20
    drawn = y[:, None].expand(-1, 2).double()
    assert found["frechet"] == pytest.approx(frechet(Moments(drawn), Moments(features(data.x).double())), rel=1e-6)
    assert found["precision"] <= 1
    assert judge.score(net, Setting(1, 0.0, 40)) == found
    perfect = FeatureJudge(torch.zeros(8, 3), lambda x: x, torch.device("cpu"))
    assert perfect.score(lambda x, *_: -x, Setting(1, 0.0, 8))["frechet"] == pytest.approx(0, abs=1e-9)


def test_the_judge_of_own_features_draws_from_the_source_of_the_recipe_with_fresh_noise_of_it() -> None:
    def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=generator)

    asked: list[tuple[Tensor, Tensor]] = []

    def net(x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        asked.append((x, t))
        return (3 - x) / (1 - t[:, None])  # jumps to 3

    judge = FeatureJudge(torch.zeros(16, 3), lambda x: x, torch.device("cpu"), batch=5, source=uniform)
    judge.score(net, Setting(1, 0.0, 10, seed=3))
    x0 = uniform((10, 3), stream(3, "samples"))
    assert [torch.equal(x, part) for (x, _), part in zip(asked, x0.split(5), strict=True)] == [True, True]
    asked.clear()
    net.step_lengths = "to data"  # type: ignore[attr-defined]
    judge.score(net, Setting(3, 0.0, 10, seed=3))
    for k, (first, *others) in enumerate((asked[:3], asked[3:])):
        assert torch.equal(first[0], x0[5 * k : 5 * k + 5])
        fresh = stream(3, "renoise", k)
        for x, t in others:
            torch.testing.assert_close(x, torch.lerp(uniform((5, 3), fresh), torch.full((5, 3), 3.0), t[0].item()))
    with pytest.raises(TypeError, match="source must be a function"):
        FeatureJudge(torch.zeros(8, 3), lambda x: x, torch.device("cpu"), source=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (lambda x: x.sum(), r"features must give \(B, F\) for B = 8 samples"),
        (lambda x: x[:3], r"features must give \(B, F\) for B = 8 samples, got Tensor \(3, 3\)"),
        (lambda x: x * float("nan"), "features of what net draws must be finite|features must be finite"),
        (3, r"features must be a function, \(B, \.\.\.\) -> \(B, F\), got 3"),
    ],
)
def test_features_that_are_none_are_refused(features: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureJudge(torch.zeros(8, 3), features, torch.device("cpu")).score(lambda x, *_: -x, Setting(1, 0.0, 8))
    with pytest.raises(ValueError, match=r"n must be 4 \.\. 8 samples, the rows of the data, got 9"):
        FeatureJudge(torch.zeros(8, 3), lambda x: x, torch.device("cpu")).check(Setting(1, 0.0, 9))
