"""Fashion-MNIST: what is on disk is what was published, wherever it is found, and nothing is fetched unasked."""

import gzip
import hashlib
import math
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from ismkit.data import fashion
from ismkit.data.fashion import FASHION_MNIST_FILES, fashion_mnist, find_fashion_mnist
from ismkit.utils import files
from ismkit.utils.files import DataError, data_folders
from tests.conftest import ROOT

SHIPPED = ROOT / "data" / "fashion-mnist"
LABELS = "t10k-labels-idx1-ubyte.gz"


def test_fashion_mnist_holds_every_class_equally_often_and_all_grey_levels() -> None:
    for split, n in (("train", 60000), ("test", 10000)):
        clothes = fashion_mnist(split)  # type: ignore[arg-type]
        assert clothes.x.shape == (n, 1, 28, 28)
        assert clothes.x.dtype == torch.float32
        assert clothes.y.bincount().tolist() == [n // 10] * 10
        grey = (clothes.x + 1) * 127.5
        assert (grey - grey.round()).abs().max() < 1e-4
        counts = grey.round().int().flatten().bincount()
        assert len(counts) == 256
        assert (counts > 0).all()


def test_fashion_mnist_has_the_published_mean_and_deviation() -> None:
    """0.2860 and 0.3530 on the scale of [0, 1]: the normalisation in common use for this set."""
    x = fashion_mnist("train").x
    mean = x.mean(dtype=torch.float64).item()
    deviation = math.sqrt(x.square().mean(dtype=torch.float64).item() - mean**2)
    assert (mean + 1) / 2 == pytest.approx(0.2860, abs=5e-5)
    assert deviation / 2 == pytest.approx(0.3530, abs=5e-5)


def test_sums_of_the_files_are_those_listed_beside_them() -> None:
    lines = (SHIPPED / "SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split() for line in lines)}
    assert listed == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in SHIPPED.glob("*.gz")}
    assert listed.keys() == FASHION_MNIST_FILES.keys()


def authors(name: str) -> bytes:
    """A file as its authors publish it: the same stream of data, another gzip header, which names it."""
    content = (SHIPPED / name).read_bytes()
    time = (0x59A7E9F3 - 21 * name.startswith("train")).to_bytes(4, "little")  # when it was packed
    return content[:3] + b"\x08" + time + content[8:10] + name.removesuffix(".gz").encode() + b"\0" + content[10:]


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        (LABELS, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        ("train-labels-idx1-ubyte.gz", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        ("t10k-images-idx3-ubyte.gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        ("train-images-idx3-ubyte.gz", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    ],
)
def test_the_authors_copy_has_the_sum_known_for_it_and_serves_as_well(name: str, sha256: str, tmp_path: Path) -> None:
    """So what a download brings is accepted: the sums are those that other projects hold it to."""
    (tmp_path / name).write_bytes(authors(name))
    assert hashlib.sha256(authors(name)).hexdigest() == sha256
    assert fashion.read_fashion_mnist(tmp_path / name) == gzip.decompress((SHIPPED / name).read_bytes())


@pytest.fixture
def test_split(tmp_path: Path) -> Path:
    """A copy of the files of the test split, free to be damaged."""
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for file in SHIPPED.glob("t10k-*"):
        shutil.copy(file, folder)
    return folder


def test_missing_file_is_named(test_split: Path) -> None:
    (test_split / LABELS).unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is missing: restore it with `git checkout"):
        fashion_mnist("test", test_split.parent)


def test_truncated_file_is_named(test_split: Path) -> None:
    file = test_split / LABELS
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is truncated, it ends after 5025 bytes: restore"):
        fashion_mnist("test", test_split.parent)


def test_one_altered_bit_is_noticed(test_split: Path) -> None:
    file = test_split / "t10k-images-idx3-ubyte.gz"
    content = bytearray(file.read_bytes())
    content[1_000_000] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz is altered \(.+\): restore it"):
        fashion_mnist("test", test_split.parent)


@pytest.mark.parametrize("change", [lambda content: content[:-1] + b"?", lambda content: content + b"?"])
def test_one_altered_byte_in_a_sound_archive_is_noticed_and_both_sums_are_shown(
    change: Callable[[Any], bytes], test_split: Path
) -> None:
    file = test_split / LABELS
    altered = change(gzip.decompress(file.read_bytes()))
    file.write_bytes(gzip.compress(altered))
    (test_split / "SHA256SUMS").write_text("whatever")  # the sums in the code are the ones that count
    actual, expected = hashlib.sha256(altered).hexdigest(), FASHION_MNIST_FILES[LABELS][1]
    with pytest.raises(
        DataError, match=f"is altered, the SHA-256 sum of its contents is {actual}, expected {expected}"
    ):
        fashion_mnist("test", test_split.parent)


def test_wrong_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be one of train, test, got 'val'"):
        fashion_mnist("val")  # type: ignore[arg-type]


# ---------------------------------------------------------------- places


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The places to look in, none of them there: of a checkout, of Debian and of the user."""
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "pyproject.toml").touch()
    monkeypatch.setattr(files, "CHECKOUT", tmp_path / "checkout")
    monkeypatch.setattr(files, "DEBIAN", tmp_path / "datasets")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ISMKIT_DATA", raising=False)
    return [tmp_path / place / "fashion-mnist" for place in ("checkout/data", "datasets", "cache/ismkit")]


def test_places_in_their_order(places: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_folders("fashion-mnist") == places
    for place in reversed(places):  # each goes before those that follow it
        place.mkdir(parents=True)
        assert find_fashion_mnist() == place
    monkeypatch.setenv("ISMKIT_DATA", str(tmp_path / "named"))  # and no other is looked at
    assert data_folders("fashion-mnist") == [tmp_path / "named" / "fashion-mnist"]
    monkeypatch.delenv("ISMKIT_DATA")
    (tmp_path / "checkout" / "pyproject.toml").unlink()  # as in site-packages: a folder data there is another's
    assert data_folders("fashion-mnist") == places[1:]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data_folders("fashion-mnist")[-1] == tmp_path / "home" / ".cache" / "ismkit" / "fashion-mnist"


def test_debians_place_is_that_of_its_package() -> None:
    """From the list of files of dataset-fashion-mnist 0.0~git20200523."""
    assert Path("/usr/share/datasets") == files.DEBIAN


def test_a_set_that_is_nowhere_is_said_where_to_get(
    places: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError) as caught:
        fashion_mnist("test")
    message = str(caught.value)
    assert message.startswith(
        f"Fashion-MNIST is not in {places[0]} or {places[1]} or {places[2]}: fetch it (31 MB) by "
    )
    assert "download=True" in message
    assert "dataset-fashion-mnist" in message
    assert "set ISMKIT_DATA to the data/ folder of a clone" in message
    assert "\n" not in message
    monkeypatch.setenv("ISMKIT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"Fashion-MNIST is not in .*/nowhere/fashion-mnist: fetch it"):
        fashion_mnist("test")


# ---------------------------------------------------------------- fetching


@dataclass
class Server:
    """Answers on this machine with the authors' copies, or as ``answers`` says for a name."""

    url: str = ""
    answers: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            state.asked.append(name)
            content = authors(name)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(state.answers.get(name, content))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        state.url = f"http://127.0.0.1:{httpd.server_port}/data"
        monkeypatch.setattr(fashion, "FASHION_MNIST_URL", state.url)
        yield state
        httpd.shutdown()


def test_the_address_is_the_authors_at_a_commit() -> None:
    start, _, commit = fashion.FASHION_MNIST_URL.removesuffix("/data/fashion").rpartition("/")
    assert start == "https://github.com/zalandoresearch/fashion-mnist/raw"
    assert len(commit) == 40
    assert int(commit, 16)


def test_nothing_is_fetched_unasked(places: list[Path], server: Server) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match="is not in"):
            fashion_mnist("test")
    places[2].mkdir(parents=True)
    with pytest.raises(DataError, match="is missing"):
        fashion_mnist("test")
    assert server.asked == []


def test_what_is_fetched_is_the_set_and_is_fetched_once(
    places: list[Path], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched = fashion_mnist("test", download=True)
    shipped = fashion_mnist("test", ROOT / "data")
    assert torch.equal(fetched.x, shipped.x)
    assert torch.equal(fetched.y, shipped.y)
    assert sorted(server.asked) == sorted(FASHION_MNIST_FILES)
    assert capsys.readouterr().out.splitlines() == [
        f"fetching {server.url}/{name} into {places[2]}" for name in FASHION_MNIST_FILES
    ]
    assert sorted(path.name for path in places[2].iterdir()) == sorted(FASHION_MNIST_FILES)  # and nothing else
    fashion_mnist("train", download=True)
    fashion_mnist("train")
    assert len(server.asked) == len(FASHION_MNIST_FILES)


def cut(name: str) -> bytes:
    return authors(name)[:-100]


def bent(name: str) -> bytes:
    content = bytearray(authors(name))
    content[len(content) // 2] ^= 1
    return bytes(content)


def page(name: str) -> bytes:
    return b"<html>Sign in to this network</html>"


@pytest.mark.parametrize(
    ("answer", "message"),
    [(cut, "is truncated|cannot be fetched: IncompleteRead"), (bent, "is altered"), (page, "is altered|cannot be")],
)
@pytest.mark.parametrize("before", [None, b"faulty"])
def test_a_faulty_answer_is_refused_and_the_call_can_be_repeated(
    answer: Callable[[Any], bytes], message: str, before: bytes | None, places: list[Path], server: Server
) -> None:
    """What had arrived is not fetched again; the faulty answer leaves nothing."""
    first, second, *_ = FASHION_MNIST_FILES
    places[2].mkdir(parents=True)
    if before:
        (places[2] / second).write_bytes(before)
    server.answers[second] = answer(second)
    with pytest.raises(DataError, match=rf"{server.url}/{second} ({message}).*repeat the call"):
        fashion_mnist("train", download=True)
    assert {path.name for path in places[2].iterdir()} == ({first, second} if before else {first})
    assert not before or (places[2] / second).read_bytes() == before
    server.answers.clear()
    server.asked.clear()
    fashion_mnist("train", download=True)
    assert server.asked == [name for name in FASHION_MNIST_FILES if name != first]


def test_no_answer_is_said(places: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion, "FASHION_MNIST_URL", "http://127.0.0.1:9/data")
    with pytest.raises(
        DataError, match=r"127\.0\.0\.1:9/data/t10k.* cannot be fetched: .*refused.*; repeat the call, or "
    ):
        fashion_mnist("test", download=True)
    assert not places[2].exists()


def test_a_folder_that_takes_no_files_is_said(places: list[Path], server: Server) -> None:
    places[2].parent.parent.mkdir()
    places[2].parent.touch()  # a file where a folder should be
    with pytest.raises(
        DataError, match=r"t10k-images.* cannot be written: .*; set ISMKIT_DATA to a folder of your own"
    ):
        fashion_mnist("test", download=True)


def test_a_set_that_is_there_is_not_fetched_elsewhere(places: list[Path], server: Server) -> None:
    shutil.copytree(SHIPPED, places[1])
    assert len(fashion_mnist("test", download=True)) == 10_000
    assert server.asked == []
    (places[1] / LABELS).unlink()
    assert len(fashion_mnist("test", download=True)) == 10_000  # it is mended where it is
    assert server.asked == [LABELS]
    assert not places[2].exists()
