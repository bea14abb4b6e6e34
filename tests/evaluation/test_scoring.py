"""``ismkit evaluate`` tells clothes from images by the model's card, and scores each its own way."""

import io
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ismkit.data.pictures import write_png
from ismkit.data.sets import eight_gaussians
from ismkit.evaluation import scoring
from ismkit.evaluation.judges import FashionJudge, PointJudge, Setting
from ismkit.evaluation.options import ImageOptions
from ismkit.evaluation.samples import WAIT, SampleSet, latent_shape
from ismkit.evaluation.scoring import evaluate
from ismkit.imagenet.vae import ImageVAE, write_tiny_vae
from ismkit.method.sampling import sample
from ismkit.models import saved
from ismkit.models.nets import DiT, ToyMLP
from ismkit.models.saved import load_model, load_sampler, save_model
from ismkit.utils.files import DataError
from ismkit.utils.seeding import stream
from ismkit.utils.workers import Tell, run_group
from tests.commandline import Ismkit, fill
from tests.images import pictures

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture
def setting(tmp_path: Path) -> dict[str, Path]:
    """A tiny VAE, a model of its latents whose card names it, and a folder of pictures."""
    vae = write_tiny_vae(tmp_path / "vae")
    card = {"vae": ImageVAE.load(vae).identity, "steps": 30, "run": {"recipe": {"slow": 0.9999}}}
    net = DiT(size=2, channels=4, patch=1, width=16, depth=2, heads=2, num_classes=4)
    save_model(fill(net), tmp_path / "model.safetensors", card)
    (tmp_path / "real").mkdir()
    for i, image in enumerate(pictures(60)):
        Image.fromarray(image.movedim(0, 2).numpy()).save(tmp_path / "real" / f"{i:02}.png")
    (tmp_path / "real" / "notes.txt").touch()
    (tmp_path / "real" / "._00.png").touch()
    return {"model": tmp_path / "model.safetensors", "vae": vae, "real": tmp_path / "real"}


def test_images_are_drawn_scored_and_kept(setting: dict[str, Path], ismkit_: Ismkit, tmp_path: Path) -> None:
    options = ["--vae", setting["vae"], "--reference", setting["real"], "--features", "small", "-n", 40, "--npz"]
    command = ["evaluate", setting["model"], *options, "--nfe", 1, 2, "--w", 0.5, "-o", tmp_path / "out"]
    answer = ismkit_(*command)
    assert answer.status == 0, answer.err
    assert "slow EMA, decay 0.9999, 30 steps" in answer.out
    assert "60 pictures of the folder real (1 left alone: notes.txt (no picture by its ending))" in answer.out
    assert "FID [small]" in answer.out
    held = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [(row["nfe"], row["w"], row["n"]) for row in held["rows"]] == [(1, 0.5, 40), (2, 0.5, 40)]
    for row in held["rows"]:
        assert f"{row['fid']:.3f}" in answer.out
        assert row["fid"] > 0
    samples = SampleSet.open(tmp_path / "out" / "nfe1_w0.5_n40_seed0")
    with np.load(tmp_path / "out" / "nfe1_w0.5_n40_seed0.npz", allow_pickle=False) as file:  # one for each strength
        assert file["arr_0"].shape == (40, 16, 16, 3)
    before = {path: path.stat().st_mtime_ns for path in samples.folder.rglob("*.safetensors")}
    again = ismkit_(*command)
    assert again.out == answer.out
    assert {path: path.stat().st_mtime_ns for path in samples.folder.rglob("*.safetensors")} == before


def test_other_pictures_of_the_same_names_and_sizes_are_another_reference(
    setting: dict[str, Path], ismkit_: Ismkit, tmp_path: Path
) -> None:
    """They were told apart by names and sizes alone."""
    options = ["--vae", setting["vae"], "--reference", setting["real"], "--features", "small", "-n", 40]
    command = ["evaluate", setting["model"], *options, "--nfe", 1, "--w", 0.5, "-o", tmp_path / "out"]

    def fid() -> float:
        answer = ismkit_(*command)
        assert answer.status == 0, answer.err
        return float(json.loads((tmp_path / "out" / "scores.json").read_text())["rows"][0]["fid"])

    before = fid()
    for path in setting["real"].glob("[0-9]*.png"):
        with Image.open(path) as image:
            grey, content = Image.new("RGB", image.size, "grey"), io.BytesIO()
        grey.save(content, "PNG")
        path.write_bytes(content.getvalue().ljust(path.stat().st_size, b"\0"))  # what follows a PNG is not read
    assert fid() > before
    assert len(list(tmp_path.rglob("reference-small-*"))) == 2


def test_model_is_not_decoded_by_another_vae(setting: dict[str, Path], ismkit_: Ismkit, tmp_path: Path) -> None:
    answer = ismkit_("evaluate", setting["model"], "--features", "small")
    assert answer.status == 2
    assert "--vae: give the folder of the VAE of this model's latents, vae" in answer.err
    other = write_tiny_vae(tmp_path / "other", seed=1)
    answer = ismkit_("evaluate", setting["model"], "--vae", other, "--features", "small")
    assert answer.status == 2
    assert re.search(
        r"model.safetensors was trained on latents of another VAE: its sha256 is \w+, that of .*other is", answer.err
    )


def test_a_model_of_image_latents_draws_with_its_vae_and_with_no_other(
    setting: dict[str, Path], ismkit_: Ismkit, tmp_path: Path
) -> None:
    answer = ismkit_("sample", setting["model"], "-o", tmp_path / "none.png")
    assert answer.status == 2
    assert re.search(r"decoder must be the VAE of the latents that \S+ draws, vae, got none: .*--vae", answer.err)
    other = write_tiny_vae(tmp_path / "other", seed=1)
    answer = ismkit_("sample", setting["model"], "--vae", other, "-o", tmp_path / "none.png")
    assert answer.status == 2
    assert "was trained on latents of another VAE" in answer.err
    assert not (tmp_path / "none.png").exists()
    options = ["--vae", setting["vae"], "-n", 3, "--w", 0.5, "--seed", 4]
    answer = ismkit_("sample", setting["model"], *options, "-o", tmp_path / "some.png")
    assert answer.status == 0, answer.err
    net, _ = load_model(setting["model"])
    vae, classes = ImageVAE.load(setting["vae"]), int(net.num_classes)  # type: ignore[arg-type]
    y = torch.arange(classes).repeat(3)
    x0 = torch.randn(len(y), *latent_shape(net), generator=stream(4, "samples"))
    write_png(vae.decode(sample(net, x0, y, w=0.5)), tmp_path / "expected.png", classes)
    assert (tmp_path / "some.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_missing_reference_and_weights_are_told_in_one_line_before_any_work(
    setting: dict[str, Path], ismkit_: Ismkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    common = ["evaluate", setting["model"], "--vae", setting["vae"], "-o", tmp_path / "out"]
    cases = [
        (["--features", "small"], "fid needs a reference in the features of small: give --reference"),
        (["--metrics", "fd_dinov2"], "dinov2_vitl14_pretrain.pth is missing: put https://"),
        (["--features", "small", "--reference", tmp_path / "none.npz"], "none.npz is missing"),
        (["--features", "small", "--reference", tmp_path / "vae"], "holds no pictures"),
    ]
    for options, message in cases:
        answer = ismkit_(*common, *options)
        assert (answer.status, answer.err.count("\n")) == (2, 1)
        assert message in answer.err
    assert not (tmp_path / "out").exists()


def test_scores_of_products_in_tf32_say_so(setting: dict[str, Path], ismkit_: Ismkit, tmp_path: Path) -> None:
    options = ["--vae", setting["vae"], "--features", "small", "--metrics", "is", "-n", 40, "--nfe", 1, "--w", 0.5]
    for extra in ([], ["--tf32"]):
        answer = ismkit_("evaluate", setting["model"], *options, "-o", tmp_path / "out", *extra)
        assert answer.status == 0, answer.err
        assert ("products: TF32" in answer.out) == bool(extra)
    assert sorted(path.name for path in (tmp_path / "out").glob("nfe*")) == [
        "nfe1_w0.5_n40_seed0",
        "nfe1_w0.5_n40_seed0_tf32",
    ]
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["protocol"]["products"].startswith("TF32")


# ---------------------------------------------------------------- many processes


def evaluated(setting: dict[str, Path], out: Path, real: Path) -> list[dict[str, Any]]:
    options = ImageOptions(vae=str(setting["vae"]), reference=(str(real),), features="small")
    return evaluate(setting["model"], nfe=[1], w=[0.5], n=40, device="cpu", out=out, images=options).rows


def evaluate_share(setting: dict[str, Path], folder: Path, rank: int, tell: Tell) -> None:
    read: list[Path] = []
    content = scoring._content
    scoring._content = lambda path: read.append(path) or content(path)
    with pytest.raises(DataError, match="holds no pictures"):
        evaluated(setting, folder, setting["vae"])
    group = torch.distributed.distributed_c10d._get_default_group()
    wait = group._get_backend(torch.device("cpu")).options._timeout
    torch.save((evaluated(setting, folder, setting["real"]), len(read), wait), folder / f"rank{rank}.pt")


def test_one_of_two_processes_reads_a_folder_and_both_score_as_one(setting: dict[str, Path], tmp_path: Path) -> None:
    """Every process read all of it, and those that waited for the first one gave up after ten minutes."""
    (row,) = evaluated(setting, tmp_path / "one", setting["real"])
    (tmp_path / "two").mkdir()
    run_group(partial(evaluate_share, setting, tmp_path / "two"), 2)
    (first, read, wait), (second, none, other) = [
        torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=False) for rank in range(2)
    ]
    assert (read, none) == (60, 0)
    assert wait == other == WAIT
    assert first == second
    assert first[0] == pytest.approx(row, rel=1e-6)


# ---------------------------------------------------------------- how many steps


@pytest.mark.parametrize("lengths", ["dyadic", "any", "to data"])
def test_a_model_is_scored_in_as_many_steps_as_it_was_trained_on(
    lengths: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was 1, 2, 4 .. 128 whatever the model says."""
    net = fill(ToyMLP(width=8, depth=1, num_classes=8))
    net.step_lengths = lengths
    save_model(net, tmp_path / "points.safetensors", {})
    judge = PointJudge(eight_gaussians(80, 0), torch.device("cpu"))
    asked: dict[str, Any] = {"w": [0.0], "n": 16, "judge": judge, "device": "cpu"}
    if lengths != "dyadic":
        rows = evaluate(tmp_path / "points.safetensors", nfe=[3, 5], **asked).rows
        assert [row["nfe"] for row in rows] == [3, 5]
        assert rows[1]["w2"] == judge.score(load_sampler(tmp_path / "points.safetensors")[0], Setting(5, 0.0, 16))["w2"]
    else:
        monkeypatch.setattr(PointJudge, "score", lambda *_: pytest.fail("drawn"))
        with pytest.raises(ValueError, match=r"nfe must be one of \[1, 2, 4, .*, got 3, those of net"):
            evaluate(tmp_path / "points.safetensors", nfe=[1, 3], **asked)


@pytest.mark.parametrize("kind", ["released", "clothes", "images"])
def test_steps_that_a_model_was_not_trained_on_are_refused_before_anything_is_drawn(
    kind: str, setting: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ismkit.evaluation.judges.FashionJudge.score", lambda *_: pytest.fail("drawn"))
    monkeypatch.setattr("ismkit.evaluation.scoring._images", lambda *_: pytest.fail("read"))
    save_model(fill(ToyMLP(dim=256, width=8, depth=1, num_classes=10)), tmp_path / "clothes.safetensors", {})
    model = {"released": "ism", "clothes": tmp_path / "clothes.safetensors", "images": setting["model"]}[kind]
    with pytest.raises(ValueError, match=r"nfe must be one of \[1, 2, 4, .*, got 3, those of net"):
        evaluate(model, nfe=[1, 3], w=[0.0], n=100)


def test_a_file_of_a_model_is_read_once(
    tmp_path: Path, judge: FashionJudge, ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sample` and `evaluate` read that of clothes twice."""
    net = fill(ToyMLP(dim=256, width=8, depth=1, num_classes=10))
    save_model(net, tmp_path / "m.safetensors", {"shape": [4, 8, 8]})
    read: list[Path] = []
    read_weights = saved.read_weights
    monkeypatch.setattr(
        saved, "read_weights", lambda path, *given: read.append(Path(path)) or read_weights(path, *given)
    )
    for command in (["sample", "-n", "1"], ["evaluate", "-n", "100", "--nfe", "1", "--w", "0"]):
        read.clear()
        answer = ismkit_(command[0], "m.safetensors", *command[1:])
        assert answer.status == 0, answer.err
        assert read == [Path("m.safetensors")]


# ---------------------------------------------------------------- judges of one's own


class Counting:
    """A judge of any model: it counts what it is asked."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def check(self, setting: Setting) -> None:
        if setting.n > 5000:
            raise ValueError(f"n must be at most 5000, got {setting.n}")

    def score(self, net: Any, setting: Setting) -> dict[str, Any]:
        assert not net.training
        return {"cost": setting.cost, "half of w": torch.tensor(setting.w / 2)}


def counting(device: torch.device) -> Counting:
    return Counting(device)


JUDGE = Counting(torch.device("cpu"))
NAMES = ["Counting", "counting", "JUDGE"]


@pytest.fixture
def points(tmp_path: Path) -> Path:
    """A model of points, which the kit has no judge for."""
    save_model(fill(ToyMLP(width=8, depth=1, num_classes=3)), tmp_path / "points.safetensors", {})
    return tmp_path / "points.safetensors"


@pytest.mark.parametrize("name", NAMES)
def test_a_judge_of_ones_own_scores_a_model_of_anything(name: str, points: Path, ismkit_: Ismkit) -> None:
    options = ["--nfe", 1, 4, "--w", 0, 1.5, "-n", 100, "-o", "scores.csv"]
    answer = ismkit_("evaluate", points, "--judge", f"{__name__}:{name}", *options)
    assert answer.status == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[0].split(maxsplit=4) == ["NFE", "w", "n", "cost", "half of w"]
    assert [line.split() for line in lines[1:5]] == [
        [str(nfe), f"{w:g}", "100", f"{100 * (nfe + 10):.4g}", f"{w / 2:.4g}"] for nfe in (1, 4) for w in (0.0, 1.5)
    ]
    assert lines[5] == "table: scores.csv"
    assert Path("scores.csv").read_text().splitlines()[2] == "1,1.5,100,1100.0,0.75"
    given = {"Counting": Counting, "counting": counting, "JUDGE": JUDGE}[name]
    rows = evaluate(points, nfe=[4], w=[1.5], n=100, judge=given).rows
    assert rows == [{"nfe": 4, "w": 1.5, "n": 100, "cost": 1400.0, "half of w": 0.75}]
    assert evaluate("ism", nfe=[1], w=[0.0], judge=given).rows[0]["n"] == 2000


class Returns:
    """A judge that returns one thing after another."""

    def __init__(self, *found: Any) -> None:
        self.found = iter(found)

    def score(self, net: Any, setting: Setting) -> Any:
        return next(self.found)


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (3, r"judge must have a method score\(net, setting\), or make what has, got 3"),
        (lambda device: 3, r"judge must have a method score\(net, setting\), or make what has, got .*: 3"),
        (f"{__name__}:NAMES", r"judge must have a method score\(net, setting\), .*:NAMES: \['Counting'"),
        (f"{__name__}:Nobody", "has no Nobody"),
        ("judge", "judge must be module:attribute, such as my_runs:moons, got 'judge'"),
        (Returns(3), "judge must return numbers by their names, got 3"),
        (Returns({"a": "b"}), "what judge calls a must be a number, got 'b'"),
        (Returns({"a": 1}, {"b": 1}), "judge must return the same names for every setting, got b"),
        (Returns({}), "judge must return numbers by their names, got {}"),
        (Returns({3: 1}), "judge must return numbers by their names, got {3: 1}"),
        (Returns({"n": 1}), "judge must call no number n: the table has a column of that name"),
    ],
)
def test_what_is_no_judge_is_refused(judge: Any, message: str, points: Path) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(points, nfe=[1, 2], w=[0.0], n=100, judge=judge)


def test_a_judge_refuses_a_setting_before_the_model_is_read() -> None:
    with pytest.raises(ValueError, match="n must be at most 5000, got 6000"):
        evaluate("none.safetensors", nfe=[1], w=[0.0], n=6000, judge=JUDGE)
    with pytest.raises(ValueError, match="--vae goes with a model of image latents: a judge of your own has settings"):
        evaluate("none.safetensors", nfe=[1], w=[0.0], judge=JUDGE, images=ImageOptions(vae="tiny"))
