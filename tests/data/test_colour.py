"""Colour: the emoji of the repository, the script that drew them, and CIFAR-10 from a file made here."""

import hashlib
import importlib.util
import pickle
import shutil
import sys
import tarfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from ismkit import DataError, Labelled, cifar10, emoji
from ismkit.data.colour import EMOJI, EMOJI_FILES, emoji_changes, emoji_names
from ismkit.models.spaces import EmojiAutoencoder
from ismkit.utils.files import CHECKOUT

FOLDER = CHECKOUT / "data" / "emoji"


def script() -> ModuleType:
    """The script that drew the set, as a module."""
    spec = importlib.util.spec_from_file_location("make_emoji", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_emoji"] = module
    spec.loader.exec_module(module)
    return module


def test_images_are_the_tiles_of_the_sheet_in_the_order_of_the_table() -> None:
    data, table = emoji(), emoji_names()
    with Image.open(FOLDER / "emoji.png") as sheet:
        for k in (0, 63, 64, 1000, 3654):
            y, x = 32 * (k // 64), 32 * (k % 64)
            tile = np.asarray(sheet.crop((x, y, x + 32, y + 32)).convert("RGB"))
            assert np.array_equal(((data.x[k] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), tile)
    assert (data.x.amin(), data.x.amax()) == (-1, 1)
    assert [data.class_names[label] for label in data.y] == list(table.subgroups)
    assert (data.x == 1).float().mean() > 0.2, "on white"


def test_the_names_of_the_classes_are_those_of_the_table() -> None:
    assert emoji().class_names == EMOJI
    assert len(EMOJI) == len({*EMOJI}) == 99


def test_a_red_heart_is_red_and_a_green_one_green() -> None:
    table = emoji_names()
    for name, channel in (("red heart", 0), ("green heart", 1), ("blue heart", 2)):
        middle = emoji().x[table.names.index(name), :, 14:18, 14:18].mean((1, 2))
        assert middle.argmax() == channel
    rows = [table.names.index(name) for name in ("flag: France", "frog")]
    assert [table.groups[k] for k in rows] == ["Flags", "Animals & Nature"]


def test_families_are_in_one_part_and_large_subgroups_have_a_test() -> None:
    table = emoji_names()
    parts, families = defaultdict(set), defaultdict(set)
    for family, subgroup, part in zip(table.families, table.subgroups, table.parts, strict=True):
        parts[subgroup, family].add(part)
        families[subgroup].add(family)
    assert all(len(found) == 1 for found in parts.values())
    tested = {subgroup for (subgroup, _), found in parts.items() if found == {"test"}}
    assert tested == {subgroup for subgroup, found in families.items() if len(found) >= 5}
    train, test = emoji("train"), emoji("test")
    assert len(train) + len(test) == len(emoji())
    assert (train.missing, train.class_names) == ((), test.class_names)


def test_groups_hold_subgroups() -> None:
    fine, coarse = emoji(kind="subgroup"), emoji(kind="group")
    assert (fine.num_classes, coarse.num_classes) == (99, 9)
    assert torch.equal(fine.x, coarse.x)
    assert all(len(coarse.y[fine.y == label].unique()) == 1 for label in range(99))


def test_the_script_reads_the_list_as_the_table_has_it(tmp_path: Path) -> None:
    lines = ["# group: People & Body", "", "# subgroup: person"]
    names = [
        "man",
        "woman: dark skin tone",
        "man: light skin tone, blond hair",
        "women holding hands",
        "person with beard",
    ]
    lines += [f"1F46{k}   ; fully-qualified     # x E0.6 {name}" for k, name in enumerate(names)]
    lines += ["263A   ; unqualified   # x E0.6 smiling face", "# group: Flags", "# subgroup: country-flag"]
    lines += [f"1F1E{k} 1F1F{k} ; fully-qualified # x E2.0 flag: {k}" for k in range(6)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    rows = script().read(tmp_path / "list.txt")
    assert [row.family for row in rows[:5]] == ["person", "person", "person", "holding hands", "with beard"]
    assert [(row.group, row.family, row.split) for row in rows[5:]] == [
        ("Flags", f"flag: {k}", "test" if k == 4 else "train") for k in range(6)
    ]
    assert rows[5].code_points == "1F1E0 1F1F0"


def test_the_table_is_what_the_script_makes_of_its_own_columns() -> None:
    """Without the list of Unicode: families and parts are those that the script's rules give for the names."""
    make, table = script(), emoji_names()
    assert table.families == tuple(map(make.family_of, table.names, table.groups))
    counts, parts = Counter[str](), {}
    for subgroup, family in zip(table.subgroups, table.families, strict=True):
        if (subgroup, family) not in parts:
            parts[subgroup, family] = "test" if counts[subgroup] % make.EVERY == make.FIRST else "train"
            counts[subgroup] += 1
    assert table.parts == tuple(parts[key] for key in zip(table.subgroups, table.families, strict=True))


def test_sums_are_those_of_the_folder() -> None:
    lines = dict(reversed(line.split("  ")) for line in (FOLDER / "SHA256SUMS").read_text().splitlines())
    assert lines == {name: digest for name, (_, digest) in EMOJI_FILES.items()}


@pytest.mark.parametrize("name", EMOJI_FILES)
@pytest.mark.parametrize(("damage", "message"), [("cut", "truncated"), ("flip", "altered"), ("remove", "missing")])
def test_damaged_files_are_refused(tmp_path: Path, name: str, damage: str, message: str) -> None:
    shutil.copytree(FOLDER, tmp_path / "emoji")
    path = tmp_path / "emoji" / name
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:-1])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} is {message}"):
        emoji(root=tmp_path)


def test_a_missing_set_says_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISMKIT_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"the emoji are not in .*emoji: clone the repository"):
        emoji()


def test_mirrored_classes_have_no_writing() -> None:
    names = emoji().class_names
    mirrored = {names[label] for label in emoji_changes()[1].labels}  # type: ignore[attr-defined]
    assert {"face-smiling", "animal-bird", "food-fruit"} <= mirrored
    assert not mirrored & {"country-flag", "keycap", "alphanum", "time", "arrow", "zodiac"}


def test_the_autoencoder_is_trained_and_scaled() -> None:
    from ismkit.models.autoencoder import reconstruction_error, train_autoencoder

    x = emoji().x[:64]
    trained = train_autoencoder(EmojiAutoencoder, x, steps=30, batch=16)
    latents = trained.encode(x)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(8), atol=1e-4)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(8), atol=1e-4)
    assert reconstruction_error(trained, x) < 0.6 * float(x.var())


# ------------------------------------------------------------------------------------------------------------- CIFAR-10


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder, and a server of it, with an archive of the form of CIFAR-10's: two images in each of its files."""
    folder = tmp_path / "archive" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    sums = {}

    def write(name: str, content: dict[str, object]) -> None:
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()

    random = np.random.default_rng(0)
    for name, _ in CIFAR10.train_list + CIFAR10.test_list:
        write(name, {"data": random.integers(0, 256, (2, 3072), np.uint8), "labels": [3, 7]})
    write("batches.meta", {"label_names": [f"class {k}" for k in range(10)]})
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, sums[name]] for name, _ in CIFAR10.test_list])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    archive = tmp_path / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
    yield tmp_path
    server.shutdown()
    server.server_close()


def test_cifar_10_is_fetched_checked_and_read(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = cifar10("train", made / "here", download=True)
    assert f"fetching {CIFAR10.url} into {made / 'here'}" in capsys.readouterr().out
    assert isinstance(data, Labelled)
    assert (data.shape, len(data), data.num_classes, data.class_names[3]) == ((3, 32, 32), 10, 10, "class 3")
    assert data.y.tolist() == [3, 7] * 5
    first = pickle.loads((made / "here" / CIFAR10.base_folder / "data_batch_1").read_bytes())["data"][0]
    assert torch.equal(((data.x[0] + 1) * 127.5).round().byte().flatten(), torch.from_numpy(first))
    assert len(cifar10("test", made / "here", download=True)) == 2
    assert "fetching" not in capsys.readouterr().out, "it is there"


def test_altered_and_missing_cifar_10_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"CIFAR-10 is not in .*elsewhere, or its files are altered: fetch it"):
        cifar10("train", made / "elsewhere")
    path = made / "archive" / CIFAR10.base_folder / "data_batch_3"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="CIFAR-10"):
        cifar10("train", made / "archive")
    monkeypatch.setattr(CIFAR10, "url", CIFAR10.url.replace(CIFAR10.filename, "nothing"))
    with pytest.raises(DataError, match="CIFAR-10"):
        cifar10("train", made / "third", download=True)
    with pytest.raises(ValueError, match="split must be one of train, test, got 'all'"):
        cifar10("all", made)  # type: ignore[arg-type]
