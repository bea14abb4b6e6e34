"""The small set in place of ImageNet: made once, by the code that makes the large one, and by its own VAE."""

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ismkit.imagenet.data import open_latents, photograph_latents, small_vae
from ismkit.imagenet.vae import ImageVAE
from ismkit.utils.files import DataError
from tests.conftest import ROOT
from tests.waiting import wait_until

pytest.importorskip("pyarrow")


def test_photographs_take_the_place_of_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "latents"
    before = torch.random.get_rng_state()
    data = photograph_latents(folder, per_class=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (len(data), data.shape, data.num_classes) == (4 * 2 * 2, (4, 32, 32), 4)  # each with its mirror image
    assert data.y.bincount().tolist() == [4] * 4
    assert data.manifest["vae"] == ImageVAE.load(str(small_vae(folder))).identity
    monkeypatch.setattr("ismkit.imagenet.data.photograph_latents", lambda *_: pytest.fail("made again"))
    again = open_latents("imagenet-smoke", folder)
    assert torch.equal(again[torch.arange(16)][0], data[torch.arange(16)][0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latents", "latents-vae"]


@pytest.mark.parametrize("name", ["imagenet256", "imagenet512"])
def test_nothing_takes_the_place_of_imagenet_unasked(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no latents of {name} at .*: make them with `ismkit latents IMAGES --out"):
        open_latents(name, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_folder_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        open_latents("imagenet256", tmp_path / "half")


def contents(folder: Path) -> dict[str, Any]:
    """The files of a folder of latents; of the plan all but when the photographs were written: each call makes them."""
    files: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir()}
    plan = json.loads(files["plan.json"])["value"]
    assert len(plan.pop("state")) == 64
    return files | {"plan.json": plan}


@pytest.mark.slow
def test_a_kill_while_the_photographs_are_encoded_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """faults B2: what a kill left of it, no later call could use. Few pictures, since they are made ten times."""
    few = partial(photograph_latents, per_class=2)
    monkeypatch.setattr("ismkit.imagenet.data.photograph_latents", few)
    whole = tmp_path / "whole" / "smoke"
    few(whole)
    made, whole_run = {path.name: path.read_bytes() for path in whole.iterdir()}, contents(whole)
    vae = {path.name: path.read_bytes() for path in small_vae(whole).iterdir()}
    states = [
        ([], [".config.json.partial-1"], {}),  # while the VAE is written
        ([], ["config.json"], {}),
        ([], [], {}),
        (["plan.json"], [*vae], {}),
        (["plan.json", ".latents-00000.arrow.partial-1"], [*vae], {}),
        (["plan.json", "latents-00000.arrow"], [*vae], {}),
        (["plan.json", "latents-00000.arrow", "latents-00000.json", "corrupt.txt"], [*vae], {}),
        (["plan.json", "latents-00000.arrow"], [*vae], {"latents-00000.arrow": made["latents-00000.arrow"][:999]}),
    ]
    for number, (left, left_of_vae, changed) in enumerate(states):
        folder = tmp_path / str(number) / "smoke"
        for path, names, content in ((folder, left, made | changed), (small_vae(folder), left_of_vae, vae)):
            path.mkdir(parents=True, exist_ok=True)
            for name in names:
                (path / name).write_bytes(content.get(name, b"half"))
        data = open_latents("imagenet-smoke", folder)
        assert contents(folder) == whole_run, left
        assert data.manifest["vae"] == ImageVAE.load(str(small_vae(folder))).identity
    folder = tmp_path / "killed" / "smoke"
    text = (
        "import sys, pathlib; from ismkit.imagenet import data; data.photograph_latents(pathlib.Path(sys.argv[1]), 2)"
    )
    started = subprocess.Popen([sys.executable, "-c", text, str(folder)], cwd=ROOT)
    wait_until(lambda: (folder / "plan.json").exists() or started.poll() is not None)
    started.kill()
    assert started.wait() == -signal.SIGKILL
    assert not (folder / "manifest.json").exists()
    open_latents("imagenet-smoke", folder)
    assert contents(folder) == whole_run


def test_making_the_photographs_deletes_nothing(tmp_path: Path) -> None:
    """faults B2: a folder that happens to have the VAE's name was removed."""
    (tmp_path / "mine-vae").mkdir()
    (tmp_path / "mine-vae" / "notes.txt").write_text("of mine")
    open_latents("imagenet-smoke", tmp_path / "mine")
    assert (tmp_path / "mine-vae" / "notes.txt").read_text() == "of mine"
