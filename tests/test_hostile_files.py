"""Each file that the kit reads, damaged: cut off, with other bytes, or made of parts of two valid ones.

What comes of it is exactly what was written, or an error of the kit that names the file; never other contents.
"""

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ismkit.data import colour
from ismkit.data.colour import emoji
from ismkit.data.fashion import find_fashion_mnist, read_fashion_mnist
from ismkit.data.photos import photo_folder
from ismkit.data.pictures import read_sheet, write_png
from ismkit.evaluation.extractors import load_extractor
from ismkit.evaluation.judges import FeatureNet, Setting, load_features
from ismkit.evaluation.reference import folder_images, load_reference, make_reference
from ismkit.evaluation.samples import SampleSet, draw
from ismkit.imagenet.encoding import Encoding, encode
from ismkit.imagenet.latents import Latents
from ismkit.imagenet.sources import open_source, read_class_names
from ismkit.imagenet.vae import ImageVAE, write_tiny_vae
from ismkit.lessons.notebooks import execute
from ismkit.models.nets import DiT, ToyMLP
from ismkit.models.saved import load_model, save_model
from ismkit.models.spaces import FashionAutoencoder, load_autoencoder
from ismkit.sweeps.studies import run_study
from ismkit.sweeps.sweep import read_table, write_table
from ismkit.training import checkpoint
from ismkit.training.runs import RUNS
from ismkit.utils.store import Store
from ismkit.utils.weights import save_weights
from tests.commandline import PARAMETERS, fill, tiny
from tests.conftest import ROOT
from tests.hostile import TRIES, of_the_kit


def numbers(seed: int) -> torch.Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))


def same(a: Any, b: Any) -> bool:
    """Whether two contents are equal to the bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, pd.DataFrame):
        return isinstance(b, pd.DataFrame) and a.equals(b) and a.dtypes.equals(b.dtypes)
    if isinstance(a, torch.Tensor | np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and a == b


# ---------------------------------------------------------------- what is written, and how it is read


def store_json(folder: Path, seed: int) -> Path:
    Store(folder, {"model": "a"}).write("0.json", {"rows": [1.5, seed], "names": ["cat", None]})
    return folder / "0.json"


def store_tensors(folder: Path, seed: int) -> Path:
    Store(folder, {"model": "a"}).write("0.safetensors", {"rows": seed}, {"x": numbers(seed), "y": torch.arange(4)})
    return folder / "0.safetensors"


def read_store(path: Path) -> Any:
    return tuple(Store(path.parent, {"model": "a"}).read(path.name)[:2])


def a_checkpoint(folder: Path, seed: int) -> Path:
    return checkpoint.save(folder, 3, {"net.weight": numbers(seed)}, {"settings": {"seed": seed}, "scalars": {}})


def a_model(folder: Path, seed: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        save_model(ToyMLP(width=8, depth=1), folder / "m.safetensors", {"seed": seed, "about": "points"})
    return folder / "m.safetensors"


def read_model(path: Path) -> Any:
    net, card = load_model(path)
    return type(net).__name__, net.config, net.state_dict(), card


def a_reference(folder: Path, seed: int) -> Path:
    images = torch.randint(256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return make_reference([images], load_extractor("small"), folder / "r.safetensors", {}, progress=False).path


def adm(folder: Path, seed: int) -> Path:
    folder.mkdir(exist_ok=True)
    mean = np.random.default_rng(seed).normal(size=4)
    np.savez(folder / "r.npz", mu=mean, sigma=np.eye(4), mu_s=-mean, sigma_s=2 * np.eye(4))
    return folder / "r.npz"


def read_reference(path: Path) -> Any:
    found = load_reference(path)
    return found.extractor, found.moments, found.features, found.about


def a_table(folder: Path, seed: int) -> Path:
    rows = [{"variant": v, "seed": k, "w2": k + 0.1 * seed, "pool": None if k else 3} for v in "ab" for k in range(9)]
    return write_table(pd.DataFrame(rows), folder / "t.parquet")


def a_study(folder: Path, seed: int) -> Path:
    run_study(folder / "study.json", {"short": RUNS["gaussians"]}, [seed], lambda run, seed: {"loss": 0.5 + seed})
    return folder / "study.json"


def read_study(path: Path) -> Any:
    return [{**result, "cpu_seconds": 0} for result in run_study(path, {}, [], lambda run, seed: {})]


def samples(folder: Path, seed: int) -> Path:
    net = fill(DiT(size=4, channels=4, patch=2, width=16, depth=1, heads=2, num_classes=3))
    vae = ImageVAE.load(write_tiny_vae(folder.parent / "vae"))
    draw(net, vae, Setting(1, 0.0, 3, seed), folder, model={"sha256": "0"}, progress=False)
    return folder / "00000.safetensors"


def manifest_of_samples(folder: Path, seed: int) -> Path:
    return samples(folder, seed).with_name("manifest.json")


def read_samples(path: Path) -> Any:
    found = SampleSet.open(path.parent)
    return found.manifest, list(found)


def latents(folder: Path, seed: int) -> Path:
    source = open_source([photo_folder(folder / "photos", per_class=1, side=16, seed=seed)])
    vae = write_tiny_vae(folder / "vae")
    encode(Encoding(source, str(vae), folder / "latents", side=16, threads=1), progress=False)
    return folder / "latents" / "latents-00000.arrow"


def manifest_of_latents(folder: Path, seed: int) -> Path:
    return latents(folder, seed).with_name("manifest.json")


def read_latents(path: Path) -> Any:
    data = Latents(path.parent, verify=True)
    return data.manifest, data[torch.arange(len(data))]


def picture(kind: str) -> Callable[[Path, int], Path]:
    def write(folder: Path, seed: int) -> Path:
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(seed).integers(256, size=(9, 11, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"0.{kind}")
        return folder / f"0.{kind}"

    return write


def read_image(path: Path) -> Any:
    return list(folder_images([path], side=8))


def a_tar(folder: Path, seed: int) -> Path:
    """Samples as WebDataset writes them."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "s.tar", "w") as archive:
        for k in range(3):
            for ending, content in ((".png", f"picture {seed} {k}".encode()), (".cls", str(k).encode())):
                member = tarfile.TarInfo(f"{k:04}{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return folder / "s.tar"


def read_tar(path: Path) -> Any:
    source = open_source([path])
    return [(item.name, item.label, repr(item.data)) for unit in range(source.units) for item in source.read(unit)]


def a_vae(folder: Path, seed: int) -> Path:
    return write_tiny_vae(folder / "vae", seed) / "diffusion_pytorch_model.safetensors"


def read_vae(path: Path) -> Any:
    return ImageVAE.load(path.parent).state_dict()


def an_autoencoder(folder: Path, seed: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        save_weights(FashionAutoencoder(), folder / "a.safetensors", {})
    return folder / "a.safetensors"


def a_classifier(folder: Path, seed: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        save_weights(FeatureNet(), folder / "f.safetensors", {})
    return folder / "f.safetensors"


def idx(folder: Path, seed: int) -> Path:
    """Labels of Fashion-MNIST: a file is known by its name, so that the other one is of the other split."""
    name = ("t10k", "train")[seed] + "-labels-idx1-ubyte.gz"
    folder.mkdir()
    return Path(shutil.copy(find_fashion_mnist() / name, folder / name))


def the_emoji(folder: Path, seed: int) -> Path:
    """The set as it is: a file is known by its name, so that the other one is the table."""
    shutil.copytree(ROOT / "data" / "emoji", folder / "emoji")
    return folder / "emoji" / ("emoji.png", "emoji.csv")[seed]


def read_emoji(path: Path) -> Any:
    colour._read.cache_clear()
    data = emoji("test", root=path.parent.parent)
    return path.name, data.x, data.y, data.class_names


def a_sheet(folder: Path, seed: int) -> Path:
    return write_png(numbers(seed)[:, :, None, None].expand(-1, -1, 6, 6).tanh(), folder / "s.png", columns=5, scale=1)


def names_of_classes(folder: Path, seed: int) -> Path:
    folder.mkdir()
    (folder / "names.txt").write_text("".join(f"class {seed} {name}\n" for name in ("tench", "goldfish", "Öhr")))
    return folder / "names.txt"


def a_notebook(folder: Path, seed: int) -> Path:
    folder.mkdir()
    nbformat.write(tiny([f"print({seed})", "pass"], PARAMETERS), folder / "01_own.ipynb")
    return folder / "01_own.ipynb"


def read_notebook(path: Path) -> Any:
    """What the kernel would get: papermill, which starts it, only copies the file."""
    with mock.patch("papermill.execute_notebook", lambda source, target, *_, **__: shutil.copy(source, target)):
        return execute(path, path.parent / "out", {"seed": "3"}).read_bytes()


class Format(NamedTuple):
    """How a file is written in a new folder, from a seed, and how it is read; whether it holds a sum of its contents.

    Without one, other bytes may be other contents: then the reader must give some, or refuse by the file's name.
    """

    write: Callable[[Path, int], Path]
    read: Callable[[Path], Any]
    sums: bool = True


FORMATS = {
    "store, JSON": Format(store_json, read_store),
    "store, tensors": Format(store_tensors, read_store),
    "checkpoint": Format(a_checkpoint, lambda path: tuple(checkpoint.load(path.parent))),
    "model": Format(a_model, read_model),
    "reference": Format(a_reference, read_reference),
    "ADM's reference": Format(adm, read_reference),
    "table": Format(a_table, read_table),
    "study": Format(a_study, read_study),
    "samples": Format(samples, read_samples),
    "manifest of samples": Format(manifest_of_samples, read_samples),
    "latents": Format(latents, read_latents),
    "manifest of latents": Format(manifest_of_latents, read_latents),
    "PNG": Format(picture("png"), read_image),
    "JPEG": Format(picture("jpg"), read_image, sums=False),
    "TIFF": Format(picture("tif"), read_image, sums=False),
    "WebP": Format(picture("webp"), read_image, sums=False),
    "GIF": Format(picture("gif"), read_image, sums=False),
    "BMP": Format(picture("bmp"), read_image, sums=False),
    "tar file": Format(a_tar, read_tar, sums=False),
    "autoencoder": Format(an_autoencoder, lambda path: load_autoencoder(path).state_dict()),
    "classifier": Format(a_classifier, lambda path: load_features(path).state_dict()),
    "Fashion-MNIST": Format(idx, read_fashion_mnist),
    "emoji": Format(the_emoji, read_emoji),
    "sheet": Format(a_sheet, lambda path: read_sheet(path, 6)),
    "names of classes": Format(names_of_classes, read_class_names, sums=False),
    "notebook": Format(a_notebook, read_notebook, sums=False),
    "weights of a VAE": Format(a_vae, read_vae, sums=False),  # known by the sum of the file, which latents hold
}


class Pair(NamedTuple):
    path: Path
    first: bytes
    second: bytes
    contents: tuple[Any, Any]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """Two valid files of a format, of different contents, the first in its place."""
    made: dict[str, Pair] = {}

    def of(name: str) -> Pair:
        if name not in made:
            kind = FORMATS[name]
            other, path = (kind.write(tmp_path_factory.mktemp(f"seed{seed}") / "here", seed) for seed in (1, 0))
            first, second = path.read_bytes(), other.read_bytes()
            contents = kind.read(path), kind.read(other)
            assert not same(*contents)
            made[name] = Pair(path, first, second, contents)
        return made[name]

    return of


@st.composite
def damaged(draw: st.DrawFn, first: bytes, second: bytes) -> bytes:
    """A file that is cut off, has other bytes, has grown, or is made of parts of two."""
    at = draw(st.integers(0, len(first) - 1))
    how = draw(st.sampled_from(["cut", "flip", "flips", "zeros", "grown", "head", "tail", "middle", "other"]))
    content = bytearray(first)
    if how == "cut":
        return bytes(content[:at])
    if how in ("flip", "flips"):
        for _ in range(1 if how == "flip" else draw(st.integers(2, 9))):
            content[draw(st.integers(0, len(first) - 1))] ^= draw(st.integers(1, 255))
    elif how == "zeros":
        content[at : at + 64] = bytes(len(content[at : at + 64]))
    elif how == "grown":
        content[at:at] = draw(st.binary(min_size=1, max_size=40))
    elif how == "head":
        content[:at] = second[:at]
    elif how == "tail":
        content[at:] = second[at:]
    elif how == "middle":
        end = draw(st.integers(at, len(first)))
        content[at:end] = second[at:end]
    else:
        return second
    return bytes(content)


@pytest.mark.parametrize("name", FORMATS)
@given(st.data())
@settings(max_examples=TRIES, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_gives_its_contents_or_an_error_with_its_name(
    name: str, pairs: Callable[[str], Pair], drawn: st.DataObject
) -> None:
    path, first, second, contents = pairs(name)
    data = drawn.draw(damaged(first, second))
    path.write_bytes(data)
    refusal = None
    try:
        found = FORMATS[name].read(path)
    except Exception as error:
        refusal = error
    finally:
        path.write_bytes(first)
    if refusal is None:
        assert not FORMATS[name].sums or any(same(found, each) for each in contents), "other contents"
        return
    assert of_the_kit(refusal), f"not the kit's own: {refusal!r}"
    assert path.name in str(refusal) or str(path.parent) in str(refusal), f"names no file: {refusal}"
    assert "\n" not in str(refusal)
