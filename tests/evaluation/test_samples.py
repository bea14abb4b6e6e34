"""Sets of samples: a function of the seed and the number alone, drawn once, and never used where they are not whole."""

import json
import math
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from torch import Tensor

from ismkit.evaluation import samples
from ismkit.evaluation.judges import Setting
from ismkit.evaluation.samples import MANIFEST, PROTOCOL, SampleError, SampleSet, draw, latent_shape, noise, to_uint8
from ismkit.method.guidance import TwoPassCFG
from ismkit.method.sampling import sample
from ismkit.models.nets import DiT, ToyMLP
from ismkit.utils import store
from tests.images import MODEL, Doubled, drawn, tiny_dit

pytestmark = pytest.mark.usefixtures("own_folder")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


# ---------------------------------------------------------------- what a sample is


def test_noise_is_a_function_of_the_seed_and_the_number() -> None:
    whole = noise(3, 0, 350, (2, 5))
    for start, stop in ((0, 1), (99, 101), (130, 350), (200, 300)):
        assert torch.equal(noise(3, start, stop, (2, 5)), whole[start:stop])
    both = torch.cat([whole, noise(4, 0, 350, (2, 5))]).flatten(1)
    assert len(both.unique(dim=0)) == 700
    values = whole.flatten()  # of 3500 numbers: means spread by 0.017, variances by 0.024
    assert abs(values.mean()) < 0.09
    assert abs(values.var() - 1) < 0.12


def test_every_level_comes_back_and_numbers_go_to_the_nearest() -> None:
    levels = torch.arange(256)
    assert torch.equal(to_uint8(levels / 127.5 - 1), levels.to(torch.uint8))
    x = torch.linspace(-1.2, 1.2, 10_001, dtype=torch.float64)
    exact = (127.5 * x + 127.5).clamp(0, 255)
    off = (to_uint8(x).double() - exact).abs()
    assert off.max() <= 0.5 + 1e-9
    assert abs((to_uint8(x).double() - exact).mean()) < 1e-3  # truncation would be off by half a level


def test_set_holds_the_samples_of_the_sampler_with_labels_in_turn(tmp_path: Path) -> None:
    vae = Doubled()
    samples = draw(tiny_dit(), vae, Setting(2, 1.5, 50, seed=7), tmp_path / "s", model=MODEL, batch=10, per_file=20)
    assert (len(samples), samples.files) == (50, 3)
    y = torch.arange(50) % 4
    x0 = noise(7, 0, 50, (4, 4, 4))
    images = torch.cat([images for images, _ in samples])
    assert torch.equal(torch.cat([labels for _, labels in samples]), y)
    parts = [sample(tiny_dit(), x, c, w=1.5, nfe=2) for x, c in zip(x0.split(10), y.split(10), strict=True)]
    assert torch.equal(images, to_uint8(Doubled().decode(torch.cat(parts))))
    held = samples.manifest["set"]
    assert {key: held[key] for key in PROTOCOL} == PROTOCOL
    facts = {"model": MODEL, "vae": Doubled.identity, "nfe": 2, "w": 1.5, "n": 50, "seed": 7, "num_classes": 4}
    assert {key: held[key] for key in facts} == facts


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A source of another module than the kit's."""
    return torch.rand(shape, generator=generator)


def zeros(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.zeros(shape)


def to_data() -> DiT:
    net = tiny_dit()
    net.step_lengths = "to data"  # type: ignore[assignment]
    return net


def latents_of(folder: Path, n: int, batch: int = 10, **options: Any) -> tuple[SampleSet, Tensor]:
    """A set of a network of jumps to the data in three steps, and the latents that it decoded."""
    vae = Doubled()
    samples = draw(to_data(), vae, Setting(3, 1.0, n), folder, model=MODEL, batch=batch, **options)
    return samples, torch.cat(vae.decoded)


@pytest.mark.parametrize("source", [None, uniform])
def test_a_set_of_jumps_to_the_data_has_fresh_noise_that_is_a_function_of_sample_and_step(
    source: Callable[..., Tensor] | None, tmp_path: Path
) -> None:
    samples, latents = latents_of(tmp_path / "s", 12, source=source)
    net, y = to_data(), torch.arange(12) % 4
    x = noise(0, 0, 12, (4, 4, 4), source)
    t, w = torch.zeros(12), torch.ones(12)
    with torch.no_grad():
        for k in range(3):
            x = x + (1 - t)[:, None, None, None] * net(x, t, 1 - t, w, y)
            t = torch.full_like(t, (k + 1) / 3)
            if k < 2:
                x = torch.lerp(noise(0, 0, 12, (4, 4, 4), source, ("renoise", k + 1)), x, (k + 1) / 3)
    torch.testing.assert_close(latents, x, rtol=1e-4, atol=1e-4)
    _, others = latents_of(tmp_path / "more", 20, batch=7, source=source)
    torch.testing.assert_close(others[:12], latents, rtol=1e-4, atol=1e-4)
    held = samples.manifest["set"]
    assert held["sampler"] == "jumps to the data and back by fresh noise, one network call per step"
    assert held["labels"] == PROTOCOL["labels"]


def test_a_set_says_where_its_noise_is_from_and_is_of_no_other_source(tmp_path: Path) -> None:
    held = draw(tiny_dit(), Doubled(), Setting(1, 1.0, 8), tmp_path / "s", model=MODEL, source=uniform).manifest["set"]
    assert held["source"].startswith(f"{__name__}.uniform, source ")
    assert held["noise"] == "of the recipe's source, one stream for every 100 samples"
    for source, told in ((None, "now"), (zeros, "zeros, source")):
        with pytest.raises(SampleError, match=f"holds other samples: .*source is .*uniform.* there and .*{told}"):
            draw(tiny_dit(), Doubled(), Setting(1, 1.0, 8), tmp_path / "s", model=MODEL, source=source)
    with pytest.raises(ValueError, match="source is a lambda, which has no identity"):
        draw(tiny_dit(), Doubled(), Setting(1, 1.0, 8), tmp_path / "t", model=MODEL, source=lambda *_: zeros(*_))
    with pytest.raises(TypeError, match="source must be a function"):
        draw(tiny_dit(), Doubled(), Setting(1, 1.0, 8), tmp_path / "t", model=MODEL, source=3)  # type: ignore[arg-type]
    assert not (tmp_path / "t").exists()


def test_sets_in_which_nothing_changes_keep_their_identity(tmp_path: Path) -> None:
    """Of normal noise, along the path or in one jump."""
    held = draw(tiny_dit(), Doubled(), Setting(2, 1.0, 8), tmp_path / "path", model=MODEL).manifest["set"]
    shape = {"num_classes": 4, "latents": [4, 4, 4], "images": [3, 8, 8], "per_file": 500}
    drawn = {"model": MODEL, "vae": Doubled.identity, "nfe": 2, "w": 1.0, "n": 8, "seed": 0}
    words = {
        "labels": "in turn: sample i has label i mod the number of classes",
        "noise": "standard normal, float32, one stream for every 100 samples",
        "sampler": "Euler, one network call per step",
        "rounding": "floor of clamp(127.5 x + 128, 0, 255), the nearest of 256 levels (as DiT and SiT)",
    }
    assert held == drawn | shape | words
    one = draw(to_data(), Doubled(), Setting(1, 1.0, 8), tmp_path / "one", model=MODEL).manifest["set"]
    assert one == held | {"nfe": 1}


def test_fewer_samples_are_the_first_of_more(tmp_path: Path) -> None:
    few, more = drawn(tmp_path / "few", 30), drawn(tmp_path / "more", 50)
    first = torch.cat([images for images, _ in few])
    assert torch.equal(first, torch.cat([images for images, _ in more])[:30])


def test_another_batch_size_changes_rounding_alone(tmp_path: Path) -> None:
    a, b = (torch.cat([x for x, _ in drawn(tmp_path / str(n), batch=n)]).int() for n in (10, 7))
    assert (a - b).abs().max() <= 1


def test_shape_of_latents_is_that_of_the_network() -> None:
    assert latent_shape(tiny_dit()) == (4, 4, 4)
    assert latent_shape(TwoPassCFG(tiny_dit(), 4)) == (4, 4, 4)
    with pytest.raises(ValueError, match=r"must be a DiT, .* got ToyMLP"):
        latent_shape(ToyMLP())


# ---------------------------------------------------------------- kills


class Cut(Doubled):
    """Fails when it has decoded so many batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def decode(self, latents: Tensor) -> Tensor:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().decode(latents)


@pytest.mark.parametrize("batches", range(5))  # of 5, of which a file holds 2
def test_interrupted_set_is_resumed_and_complete_files_are_not_drawn_again(tmp_path: Path, batches: int) -> None:
    whole = drawn(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path / "cut", vae=Cut(batches))
    with pytest.raises(SampleError, match="holds no complete set"):
        SampleSet.open(tmp_path / "cut")
    (tmp_path / "cut" / ".00002.safetensors.partial-1").write_text("left by a kill")
    vae = Doubled()
    again = drawn(tmp_path / "cut", vae=vae)
    assert sum(map(len, vae.decoded)) == 50 - batches // 2 * 20
    assert contents(again.folder) == contents(whole.folder)
    assert again.manifest == whole.manifest
    assert not list(again.folder.glob(".*"))
    vae = Doubled()
    drawn(tmp_path / "cut", vae=vae)
    assert not vae.decoded


def test_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path / "s", vae=Cut(2))
    before = contents(tmp_path / "s")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_tensors", full)
    with pytest.raises(SampleError, match=r"\.safetensors cannot be written \(\d+ bytes needed\): .*No space left"):
        drawn(tmp_path / "s")
    assert contents(tmp_path / "s") == before
    assert not list((tmp_path / "s").glob(".*"))


def test_disk_that_is_too_small_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 9599))  # 50 images of 3 x 8 x 8 are 9600 bytes
    vae = Doubled()
    with pytest.raises(SampleError, match=r"0\.0 GB free, and the samples need 0\.0 GB"):
        drawn(tmp_path / "s", vae=vae)
    assert not vae.decoded
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 9600))
    drawn(tmp_path / "s")


# ---------------------------------------------------------------- refusals


def truncate(folder: Path) -> None:
    path = folder / "00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder: Path, file: str = "00001.safetensors") -> None:
    data = bytearray((folder / file).read_bytes())
    data[-1] ^= 1
    (folder / file).write_bytes(bytes(data))


def swap(folder: Path) -> None:
    first, second = (folder / f"0000{k}.safetensors" for k in (0, 1))
    held = first.read_bytes(), second.read_bytes()
    second.write_bytes(held[0])
    first.write_bytes(held[1])


def edit(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["value"]["set"]["w"] = 2.0
    (folder / MANIFEST).write_text(json.dumps(manifest))


def cut_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:100])


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated file": (truncate, r"00001\.safetensors is (missing, )?truncated"),
    "altered file": (flip, r"00001\.safetensors is altered, its contents do not match the checksum"),
    "files swapped": (swap, r"00000\.safetensors was written as 00001\.safetensors"),
    "altered manifest": (edit, r"manifest\.json is altered, its contents do not match the checksum"),
    "truncated manifest": (cut_manifest, r"manifest\.json is truncated or altered"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_by_file_and_repaired_as_the_message_says(tmp_path: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    whole = contents(drawn(tmp_path / "s").folder)
    damage(tmp_path / "s")
    for use in (lambda: list(SampleSet.open(tmp_path / "s")), lambda: drawn(tmp_path / "s")):
        with pytest.raises(SampleError, match=message):
            use()
    for file in ("00000.safetensors", "00001.safetensors", MANIFEST):
        if ("manifest" in name) == (file == MANIFEST):
            (tmp_path / "s" / file).unlink()
    vae = Doubled()
    assert contents(drawn(tmp_path / "s", vae=vae).folder) == whole
    assert len(vae.decoded) == (0 if "manifest" in name else 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"sha256": "f" * 64}}, r"model is \{'sha256': '000.* there and \{'sha256': 'fff.* now"),
        ({"per_file": 25}, "per_file is 20 there and 25 now"),
        ({"n": 49}, "n is 50 there and 49 now"),
    ],
)
def test_folder_of_other_samples_is_refused_and_kept(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    before = contents(drawn(tmp_path / "s").folder)
    for _ in range(2):  # with its manifest, and without
        with pytest.raises(SampleError, match=message):
            drawn(tmp_path / "s", **change)
        (tmp_path / "s" / MANIFEST).unlink(missing_ok=True)
        message = r"00000\.safetensors is of something else \(\w+ is .* there, .* now\)"
    assert contents(tmp_path / "s") == before


def test_complete_set_whose_manifest_names_other_files_is_refused(tmp_path: Path) -> None:
    manifest = drawn(tmp_path / "s").manifest
    samples._manifest(tmp_path / "s").write(MANIFEST, manifest | {"files": [manifest["files"][0]] * 3})
    for use in (lambda: list(SampleSet.open(tmp_path / "s")), lambda: drawn(tmp_path / "s")):
        with pytest.raises(SampleError, match=r"00001\.safetensors is not the file that manifest\.json names"):
            use()


@pytest.mark.parametrize(("value", "where"), [(math.nan, "latent"), (math.inf, "latent"), (math.nan, "image")])
def test_sample_that_is_no_image_is_named(tmp_path: Path, value: float, where: str) -> None:
    class Spoilt(Doubled):
        def decode(self, latents: Tensor) -> Tensor:
            images = super().decode(latents)
            if len(self.decoded) == 4 and where == "image":
                images[3, 1, 2, 2] = value
            return images

    net = tiny_dit()
    if where == "latent":
        forward, calls = net.forward, []

        def spoil(x: Tensor, *query: Tensor) -> Tensor:
            calls.append(x)
            s = forward(x, *query)
            if len(calls) == 4:
                s[3, 0, 0, 0] = value
            return s

        net.forward = spoil  # type: ignore[method-assign]
    message = rf"the {where} of sample 33 \(label 1, 1 NFE, w = 1, seed 0\) holds NaN or infinity"
    with pytest.raises(SampleError, match=message):
        draw(net, Spoilt(), Setting(1, 1.0, 50), tmp_path / "s", model=MODEL, batch=10, per_file=20)
    assert list(contents(tmp_path / "s")) == ["00000.safetensors"]


@pytest.mark.parametrize(
    ("setting", "options", "message"),
    [
        (Setting(3, 0.0, 10), {}, "nfe must be one of"),
        (Setting(1, -1.0, 10), {}, "w, the guidance strength"),
        (Setting(1, 0.0, 0), {}, "n must be an integer of at least 1, got 0"),
        (Setting(1, 0.0, 10), {"batch": 0}, "batch must be an integer of at least 1, got 0"),
    ],
)
def test_settings_are_refused_before_a_folder_is_made(
    tmp_path: Path, setting: Setting, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw(tiny_dit(), Doubled(), setting, tmp_path / "s", model=MODEL, **options)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_draw_wait_longer_than_nccl_does_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shares are unequal, and its 600 seconds ended a set that others had drawn."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(samples, "PartialState", lambda **given: asked.append(given) or PartialState())
    drawn(tmp_path / "set", 4)
    assert asked == [{"timeout": samples.WAIT}]


def test_products_in_tf32_are_another_set_and_end_with_it(tmp_path: Path) -> None:
    class Noting(Doubled):
        def decode(self, latents: Tensor) -> Tensor:
            seen.append(torch.get_float32_matmul_precision())
            return super().decode(latents)

    seen: list[str] = []
    with_it, without = drawn(tmp_path / "a", 10, vae=Noting(), tf32=True), drawn(tmp_path / "b", 10, vae=Noting())
    assert seen == ["high", "highest"]
    assert torch.get_float32_matmul_precision() == "highest"
    assert with_it.manifest["set"] == without.manifest["set"] | {"products": samples.TF32}
    with pytest.raises(SampleError, match=r"holds other samples: products is TF32 .* there and None now"):
        drawn(tmp_path / "a", 10)
    with pytest.raises(SampleError, match="products is None there and TF32 "):
        drawn(tmp_path / "b", 10, tf32=True)
