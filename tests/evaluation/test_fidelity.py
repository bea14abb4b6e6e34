"""Scores of images: known sets get known scores, features are made once, and many processes find what one does."""

import math
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from accelerate import PartialState
from torch import Tensor

from ismkit.evaluation.extractors import Extractor, load_extractor
from ismkit.evaluation.fidelity import METRICS, ImageJudge, choose, embed, inception_score
from ismkit.evaluation.judges import Setting
from ismkit.evaluation.metrics import Gaussian, Moments, frechet, precision_recall
from ismkit.evaluation.reference import Reference, make_reference
from ismkit.evaluation.samples import SampleError, SampleSet
from ismkit.utils.workers import Tell, WorkerError, run_group
from tests.evaluation.test_samples import contents, flip
from tests.images import MODEL, Doubled, drawn, pictures, tiny_dit

pytestmark = pytest.mark.usefixtures("own_folder")


def judge(folder: Path, extractor: Extractor, reference: Reference, vae: Any = None, **options: Any) -> ImageJudge:
    metrics = choose(list(METRICS), "small")
    networks, references = {"small": extractor}, {"small": reference}
    options = {"batch": 10, "per_file": 20} | options
    return ImageJudge(vae or Doubled(), metrics, networks, references, folder, MODEL, **options)


@pytest.fixture
def reference(tmp_path: Path, small: Extractor) -> Reference:
    return make_reference([pictures(60)], small, tmp_path / "reference.safetensors", {"source": "tests"})


# ---------------------------------------------------------------- features


class Counted(Extractor):
    """Counts the images it sees."""

    seen = 0

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        self.seen += len(images)
        return super().__call__(images)


def counted(small: Extractor) -> Counted:
    return Counted("small", small.net, small.device, small.identity["sha256"])


def test_features_are_those_of_the_images_and_are_made_once(tmp_path: Path, small: Extractor) -> None:
    samples, network = drawn(tmp_path / "s"), counted(small)
    features = embed(samples, network, batch=10)
    assert network.seen == 50
    images = torch.cat([images for images, _ in samples])
    for layer, expected in small(images).items():
        torch.testing.assert_close(torch.cat(list(features.layer(layer))), expected, rtol=1e-5, atol=1e-6)
    whole = Moments(small(images)["pool"])
    torch.testing.assert_close(features.moments("pool").cov, whole.cov, rtol=1e-4, atol=1e-9)
    (features.folder / "00001.safetensors").unlink()  # a kill between two files
    embed(samples, network, batch=10)
    assert network.seen == 70


def test_features_that_are_altered_or_of_other_samples_are_refused(tmp_path: Path, small: Extractor) -> None:
    features = embed(drawn(tmp_path / "s"), small)
    before = contents(features.folder)
    flip(features.folder)
    with pytest.raises(SampleError, match=r"00001\.safetensors is altered, its contents do not match the checksum"):
        features.moments("pool")
    (features.folder / "00001.safetensors").write_bytes(before["00001.safetensors"][:-1])
    with pytest.raises(SampleError, match=r"truncated.*: delete it, and the next call makes it again"):
        features.moments("pool")
    (features.folder / "00001.safetensors").write_bytes(before["00000.safetensors"])
    with pytest.raises(SampleError, match=r"00001\.safetensors is of something else \(samples is \w+ there, \w+ now\)"):
        features.moments("pool")


# ---------------------------------------------------------------- metrics


def statistics(seed: int, n: int, size: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=rng, dtype=torch.float64)
    return torch.randn(n, size, generator=rng, dtype=torch.float64) @ mix + seed


def torch_fidelity_distance(a: Tensor, b: Tensor) -> float:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    return fid_statistics_to_metric(*map(fid_features_to_statistics, (a, b)), verbose=False)[KEY_METRIC_FID]


def test_distance_is_torch_fidelitys_where_covariances_are_regular_and_exact_where_not() -> None:
    a, b = statistics(0, 400, 20), statistics(1, 500, 20)
    ours = frechet(Moments(a), Moments(b))
    assert ours == pytest.approx(torch_fidelity_distance(a, b), rel=1e-9)
    cov_a, cov_b = Moments(a).cov.numpy(), Moments(b).cov.numpy()
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    shift = (a.mean(0) - b.mean(0)).square().sum().item()
    assert ours == pytest.approx(shift + np.trace(cov_a + cov_b - 2 * root), rel=1e-8)
    # 30 samples in 100 dimensions: the distance of a set to itself is 0.
    few = statistics(2, 30, 100)
    scale = Moments(few).cov.trace().item()
    assert abs(frechet(Moments(few), Moments(few))) < 1e-12 * scale
    assert abs(torch_fidelity_distance(few, few)) > 100 * abs(frechet(Moments(few), Moments(few)))


def test_precision_and_recall_are_torch_fidelitys() -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    drawn_, real = statistics(0, 120, 5), statistics(0, 100, 5).flip(1) * 0.7
    found = prc_features_to_metric(drawn_, real, verbose=False)
    assert precision_recall(drawn_, real, 3) == pytest.approx((found["precision"], found["recall"]), abs=1e-6)
    assert 0 < found["precision"] < 1
    assert 0 < found["recall"] < 1


def test_inception_score_of_certain_and_of_uncertain_classes() -> None:
    assert inception_score(torch.zeros(100, 7)) == pytest.approx(1, rel=1e-12)
    certain = 100.0 * torch.eye(5)[torch.arange(100) % 5]
    assert inception_score(certain) == pytest.approx(5, rel=1e-6)
    logits = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = logits.softmax(1)
    parts = [(part * (part / part.mean(0)).log()).sum(1).mean().exp() for part in p.split(4)]
    assert inception_score(logits) == pytest.approx(torch.stack(parts).mean().item(), rel=1e-12)
    with pytest.raises(ValueError, match="takes 10 parts: at least as many samples, got 9"):
        inception_score(torch.zeros(9, 3))


def test_samples_are_at_distance_zero_of_themselves(tmp_path: Path, small: Extractor) -> None:
    images = torch.cat([images for images, _ in drawn(tmp_path / "s")])
    same = make_reference(images.split(20), small, tmp_path / "r.safetensors", {"source": "the samples"})
    scores = judge(tmp_path / "out", small, same).score(tiny_dit(), Setting(1, 1.0, 50))
    assert scores["fid"] == pytest.approx(0, abs=1e-9)
    assert scores["sfid"] == pytest.approx(0, abs=1e-9)
    assert (scores["precision"], scores["recall"]) == (1, 1)
    logits = small(images)["logits"]
    assert scores["is"] == pytest.approx(inception_score(logits), rel=1e-5)
    shift = torch.zeros(48, dtype=torch.float64)
    shift[0] = 3
    moved = {layer: Gaussian(m.mean + shift if layer == "pool" else m.mean, m.cov) for layer, m in same.moments.items()}
    far = judge(tmp_path / "out", small, replace(same, moments=moved)).score(tiny_dit(), Setting(1, 1.0, 50))
    assert far["fid"] == pytest.approx(9, rel=1e-6)
    assert far["sfid"] == pytest.approx(0, abs=1e-9)


def test_table_has_a_row_for_each_setting_and_the_protocol_names_what_it_depends_on(
    tmp_path: Path, small: Extractor, reference: Reference
) -> None:
    settings = [Setting(1, 0.0, 30), Setting(2, 1.5, 30, 4)]
    scorer = judge(tmp_path / "out", small, reference)
    rows = scorer.table(tiny_dit(), settings)
    assert [(row["nfe"], row["w"], row["n"], row["seed"]) for row in rows] == [(1, 0.0, 30, 0), (2, 1.5, 30, 4)]
    assert [list(row)[4:] for row in rows] == [list(METRICS)] * 2
    assert all(math.isfinite(row[name]) for row in rows for name in METRICS)
    told = "\n".join(scorer.protocol(settings[0]).values())
    facts = [MODEL["sha256"], "slow EMA", Doubled.identity["sha256"], small.identity["sha256"], reference.sha256]
    for fact in [*facts, "Euler", "in turn", "127.5 x + 128", "64 x 64, means of areas", "8 x 8", "60 images", "k = 3"]:
        assert fact in told


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.rand(shape, generator=generator)


def test_the_protocol_names_the_source_and_the_fresh_noise(
    tmp_path: Path, small: Extractor, reference: Reference
) -> None:
    scorer = replace(judge(tmp_path / "out", small, reference), source=uniform)
    net = tiny_dit()
    net.step_lengths = "to data"  # type: ignore[assignment]
    (row,) = scorer.table(net, [setting := Setting(3, 0.0, 30)])
    assert row["nfe"] == 3
    told = scorer.protocol(setting)
    assert told["sampler"] == "jumps to the data and back by fresh noise, one network call per step"
    assert told["source"].startswith(f"{__name__}.uniform, source ")
    assert told["noise"].startswith("of the recipe's source")


# ---------------------------------------------------------------- refusals


def test_metrics_are_chosen_by_name() -> None:
    assert choose(["recall", "fid"]) == {"fid": METRICS["fid"], "recall": METRICS["recall"]}
    stand_in = choose(["fd_dinov2"], "small")["fd_dinov2"]
    assert (stand_in.title, stand_in.extractor, stand_in.layer) == ("FD-DINOv2 [small]", "small", "pool")
    with pytest.raises(ValueError, match=r"metrics must be among fid, sfid, is, .*, got 'kid'"):
        choose(["fid", "kid"])


def test_what_cannot_be_scored_is_refused_before_any_work(
    tmp_path: Path, small: Extractor, reference: Reference
) -> None:
    good = judge(tmp_path / "out", small, reference)
    few = {layer: Gaussian(m.mean[:9], m.cov[:9, :9]) for layer, m in reference.moments.items()}
    other = {**reference.about, "extractor": {"sha256": "2" * 64}}
    cases: list[tuple[ImageJudge, Setting, str]] = [
        (good, Setting(3, 0.0, 50), "nfe must be one of"),
        (good, Setting(1, 0.0, 9), "n must be at least 10 samples, got 9"),
        (replace(good, extractors={}), Setting(1, 0.0, 50), "fid needs the feature network small"),
        (replace(good, references={}), Setting(1, 0.0, 50), "fid needs a reference in the features of small"),
        (replace(good, references={"small": replace(reference, moments=few)}), Setting(1, 0.0, 50), "has 48 features"),
        (
            replace(good, references={"small": replace(reference, about=other)}),
            Setting(1, 0.0, 50),
            "with other weights",
        ),
        (
            replace(
                good,
                metrics={"recall": METRICS["recall"]._replace(extractor="small")},
                references={"small": replace(reference, features=None, about={"extractor": {}})},
            ),
            Setting(1, 0.0, 50),
            "recall needs features or images, .* has neither",
        ),
    ]
    for scorer, setting, message in cases:
        with pytest.raises(ValueError, match=message):
            scorer.table(tiny_dit(), [Setting(1, 0.0, 50), setting])
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- many processes


class Killed(Doubled):
    """Kills its process, as the system would, when it has decoded so many batches."""

    def decode(self, latents: Tensor) -> Tensor:
        if len(self.decoded) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decode(latents)


def score_share(folder: Path, kill: bool, rank: int, tell: Tell) -> None:
    assert PartialState(cpu=True).num_processes == 2
    from ismkit.evaluation.reference import load_reference

    scorer = judge(
        folder / "two",
        load_extractor("small"),
        load_reference(folder / "reference.safetensors"),
        Killed() if kill and rank == 1 else Doubled(),
    )
    net = tiny_dit()
    scores = scorer.score(net, Setting(1, 1.0, 90))
    torch.save((scores, len(scorer.vae.decoded)), folder / f"rank{rank}.pt")  # type: ignore[attr-defined]


def test_two_processes_one_of_them_killed_then_resumed_find_what_one_finds(
    tmp_path: Path, small: Extractor, reference: Reference
) -> None:
    one = judge(tmp_path / "one", small, reference)
    scores = one.score(tiny_dit(), Setting(1, 1.0, 90))
    whole = one.place(Setting(1, 1.0, 90))
    with pytest.raises(WorkerError, match=r"process 1 of 2 ended by signal 9"):
        run_group(partial(score_share, tmp_path, True), 2)
    cut = judge(tmp_path / "two", small, reference).place(Setting(1, 1.0, 90))
    left = contents(cut)
    assert 0 < len(left) < 5  # the second process wrote its first file, of 1 and 3, and no more
    assert "00003.safetensors" not in left
    with pytest.raises(SampleError, match="no complete set"):
        SampleSet.open(cut)
    run_group(partial(score_share, tmp_path, False), 2)
    assert contents(cut) == contents(whole)
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    assert found[0][0] == found[1][0]
    assert found[0][0] == pytest.approx(scores, rel=1e-9)
    batches = math.ceil(90 / 10) - sum(2 if name != "00004.safetensors" else 1 for name in left)
    assert found[0][1] + found[1][1] == batches  # nothing is drawn twice
    (features,) = cut.glob("features-*")
    (alone,) = whole.glob("features-*")
    assert contents(features) == contents(alone)
