"""The autoencoder against diffusers called directly; its identity against the file; refusals."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from ismkit.imagenet import vae
from ismkit.imagenet.vae import PINNED, WEIGHTS, ImageVAE, write_tiny_vae
from ismkit.utils.files import DataError

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_vae(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def tiny(folder: Path) -> ImageVAE:
    return ImageVAE.load(folder)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


def edited(folder: Path, into: Path, **changes: object) -> Path:
    """A copy of the tiny VAE with another configuration."""
    into.mkdir(exist_ok=True)
    (into / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    config = json.loads((folder / "config.json").read_text()) | changes
    (into / "config.json").write_text(json.dumps(config))
    return into


def test_moments_are_those_of_diffusers(folder: Path, tiny: ImageVAE, images: torch.Tensor) -> None:
    reference = diffusers.AutoencoderKL.from_pretrained(folder)
    with torch.no_grad():
        parameters = reference.quant_conv(reference.encoder(images))
    mean, log_variance = parameters.chunk(2, dim=1)
    mine = tiny.moments(images)
    assert mine[0].shape == mine[1].shape == (2, 4, 8, 6)
    torch.testing.assert_close(mine[0], mean, rtol=0, atol=0)
    torch.testing.assert_close(mine[1], log_variance.mul(0.5).exp(), rtol=1e-6, atol=0)


def test_decoding_undoes_the_scale_and_clamps(folder: Path, tmp_path: Path, images: torch.Tensor) -> None:
    scaled = ImageVAE.load(edited(folder, tmp_path / "scaled", scaling_factor=0.18215))
    latents = 3 * torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    reference = diffusers.AutoencoderKL.from_pretrained(folder)
    with torch.no_grad():
        wanted = reference.decode(latents / 0.18215).sample
    assert wanted.abs().max() > 1, "nothing to clamp"
    torch.testing.assert_close(scaled.decode(latents), wanted.clamp(-1, 1), rtol=0, atol=0)


def test_tiny_vae_has_the_shape_of_the_full_one(tiny: ImageVAE, images: torch.Tensor) -> None:
    assert (tiny.channels, tiny.factor) == (4, 8)
    mean, std = tiny.moments(images)
    assert std.mean() < 0.2 * mean.std(), "a posterior as wide as its means spread"
    assert not any(parameter.requires_grad for parameter in tiny.parameters())
    assert not tiny.vae.training


def test_tiny_vae_is_a_function_of_its_seed_alone(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again, other = write_tiny_vae(tmp_path / "again"), write_tiny_vae(tmp_path / "other", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert (again / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert (other / WEIGHTS).read_bytes() != (folder / WEIGHTS).read_bytes()


def test_identity_is_that_of_the_file(folder: Path, tiny: ImageVAE) -> None:
    sha256 = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert tiny.identity == {"name": folder.name, "revision": None, "sha256": sha256, "scaling_factor": 5.0}


@pytest.mark.parametrize("name", PINNED)
def test_pins_are_commits_and_sums(name: str) -> None:
    repository, revision, sha256 = PINNED[name]
    assert repository == f"stabilityai/{name}"
    vae.check_commit(revision)
    assert sha256 is None or (len(sha256) == 64 and int(sha256, 16))


def test_pinned_names_are_verified(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def from_hub(repository: str, revision: str) -> Path:
        asked.append((repository, revision))
        return folder

    monkeypatch.setattr(vae, "_from_hub", from_hub)
    with pytest.raises(DataError, match=r"is altered, its SHA-256 sum is .*downloads it again"):
        ImageVAE.load("sd-vae-ft-mse")
    loaded = ImageVAE.load("sd-vae-ft-ema")
    assert asked == [PINNED[name][:2] for name in ("sd-vae-ft-mse", "sd-vae-ft-ema")]
    assert loaded.identity["name"] == "sd-vae-ft-ema"
    assert loaded.identity["revision"] == PINNED["sd-vae-ft-ema"][1]
    assert ImageVAE.load("sd-vae-ft-mse", "0" * 40).identity["revision"] == "0" * 40


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("sd-vae", None, "a VAE is sd-vae-ft-mse, sd-vae-ft-ema, a folder or OWNER/NAME"),
        ("owner/name", None, "its revision is needed: the commit, 40 hexadecimal digits"),
        ("owner/name", "main", "revision must be a commit, got 'main'"),
        ("sd-vae-ft-mse", "main", "revision must be a commit, got 'main'"),
    ],
)
def test_names_that_pin_nothing_are_refused(name: str, revision: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageVAE.load(name, revision)


def test_folders_that_hold_no_vae_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="revision is for the hub"):
        ImageVAE.load(folder, "0" * 40)
    with pytest.raises(DataError, match=r"config\.json is missing"):
        ImageVAE.load(tmp_path)
    with pytest.raises(DataError, match="it is a UNet2DModel"):
        ImageVAE.load(edited(folder, tmp_path, _class_name="UNet2DModel"))
    with pytest.raises(DataError, match="shifts its latents"):
        ImageVAE.load(edited(folder, tmp_path, shift_factor=0.1))
    cut = edited(folder, tmp_path / "cut")
    (cut / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(DataError, match="no AutoencoderKL that can be read"):
        ImageVAE.load(cut)


def test_wrong_shapes_are_refused(tiny: ImageVAE) -> None:
    with pytest.raises(ValueError, match=r"multiples of 8, got \(1, 3, 60, 64\)"):
        tiny.moments(torch.zeros(1, 3, 60, 64))
    with pytest.raises(ValueError, match=r"got \(1, 1, 64, 64\)"):
        tiny.moments(torch.zeros(1, 1, 64, 64))
    with pytest.raises(ValueError, match=r"must be \(B, 4, h, w\), got \(1, 3, 8, 8\)"):
        tiny.decode(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    "changes",
    [
        {"scaling_factor": float("nan")},
        {"scaling_factor": 0},
        {"scaling_factor": -1.0},
        {"scaling_factor": float("inf")},
        {"scaling_factor": "5"},
        {"scaling_factor": None},
        {"latent_channels": "4"},
        {"block_out_channels": []},
        {"block_out_channels": [8, 16, None, 16]},
        {"down_block_types": 3},
        {"down_block_types": []},
        {"act_fn": []},
        {"act_fn": "none such"},
        {"norm_num_groups": 0},
        {"_class_name": 1},
        {"_class_name": None},
    ],
)
def test_a_configuration_that_is_none_is_refused_by_its_folder(changes: dict[str, object], tmp_path: Path) -> None:
    """faults D11: a traceback from inside, or a scaling factor of NaN that was taken."""
    folder = write_tiny_vae(tmp_path / "vae")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(DataError, match=f"^{folder} holds no AutoencoderKL that can be read: ") as refused:
        ImageVAE.load(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [None, 3, "text", [], [{}]])
def test_a_configuration_that_is_no_object_is_refused(value: object, tmp_path: Path) -> None:
    """faults D11."""
    folder = write_tiny_vae(tmp_path / "vae")
    (folder / "config.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=r"config\.json must be an object, got"):
        ImageVAE.load(folder)
