"""Names of classes, which users give: empty, twice, of other scripts, like paths, numbers or markup, very long.

They are read as they were written, one for each class; they are printed in one line; and no result depends on them.
"""

import json
import os
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from book import live
from ismkit.data.pictures import balanced
from ismkit.data.sets import Labelled
from ismkit.evaluation.judges import PointJudge, Setting
from ismkit.imagenet.encoding import Encoding, encode
from ismkit.imagenet.latents import Latents
from ismkit.imagenet.sources import ImageFolder, read_class_names
from ismkit.imagenet.vae import write_tiny_vae
from ismkit.models.exporting import export
from ismkit.models.nets import ToyMLP
from ismkit.models.saved import load_model, save_model
from ismkit.models.spaces import SPACES
from ismkit.training.options import Saving
from ismkit.training.runs import RUNS, train_run
from tests.commandline import Ismkit
from tests.hostile import TRIES
from tests.test_hostile_commands import ends_in_words

#: Of eight classes: two are empty, and two are the same.
NAMES = ("", "", "crane", "crane", "0", "../7", "a\nb", "<script>é\u2028\udcff</script>" + "x" * 5000)
#: That a folder can have: the order of numbers is that of texts.
FOLDERS = ("10", "9", "a b", "é", "e\u0301", "表", "a\nb", "\u2028", "a\\b", "*", "~", "-n", "'\"", "\udcff", "x" * 255)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@given(st.lists(st.text(st.characters(exclude_characters="\n\r\ufeff", exclude_categories=["Cs"])), min_size=1))
@settings(max_examples=TRIES)
def test_a_file_of_names_gives_each_line_as_one_name(
    tmp_path_factory: pytest.TempPathFactory, end: str, drawn: list[str]
) -> None:
    """A separator of Unicode within a name made two of it, and shifted the labels after it."""
    names = [name.strip() or "-" for name in drawn]
    path = tmp_path_factory.mktemp("names") / "names.txt"
    path.write_bytes(end.join(names).encode())
    assert read_class_names(path) == names


def test_folders_of_any_name_are_classes(tmp_path: Path) -> None:
    for k, name in enumerate(FOLDERS):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), (10 * k, 0, 0)).save(tmp_path / "images" / name / "0.png")
    source = ImageFolder(tmp_path / "images")
    encode(Encoding(source, str(write_tiny_vae(tmp_path / "vae")), tmp_path / "latents", side=16, threads=1))
    data = Latents(tmp_path / "latents", verify=True)
    assert data.class_names == source.class_names == tuple(sorted(FOLDERS))
    assert [os.path.dirname(file) for file in source.files] == [data.class_names[label] for label in source.labels]
    assert data.y.unique().tolist() == list(range(len(FOLDERS)))


def named(names: tuple[str, ...] | None) -> Labelled:
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    return Labelled.of(x, torch.arange(64) % 8, names)


def test_no_result_depends_on_them(tmp_path: Path, ismkit_: Ismkit) -> None:
    """Trained, sampled, scored and exported; no file has them."""
    results = []
    for names in (NAMES, tuple("abcdefgh"), None):
        folder = tmp_path / str(len(results))
        net = partial(ToyMLP, width=16, depth=1)
        run = replace(RUNS["gaussians"], load=partial(named, names), net=net, steps=2, batch_size=32)
        state = train_run(run, data=run.load(), saving=Saving(folder), progress=False)
        save_model(state.ema.slow, folder / "model.safetensors", {"shape": [2]})
        judge = PointJudge(run.load(), torch.device("cpu"))
        scores = judge.score(load_model(folder / "model.safetensors")[0], Setting(1, 0.0, 16))
        if names == NAMES:
            assert export(state.ema.slow.eval(), folder / "model.pt2", (2,), "torch").path.exists()
        assert not any(b"crane" in path.read_bytes() for path in folder.iterdir())
        results.append((scores, (folder / "model.safetensors").read_bytes()))
    assert results[0] == results[1] == results[2]
    for name in NAMES:  # a model of points knows no names
        answer = ismkit_("sample", tmp_path / "0" / "model.safetensors", "--classes", name, "--out", tmp_path / "a.png")
        assert ends_in_words(answer) == (name == "0")


def test_messages_with_a_name_are_of_one_line() -> None:
    data = Labelled.of(torch.zeros(2, 1, 4, 4), [0, 2], NAMES[5:])
    with pytest.raises(ValueError, match=r"data must have rows of every class, got none of 'a\\nb'") as error:
        balanced(data, 2)
    assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match=r"class_names must be texts, got 7: Labelled\.of converts them"):
        Labelled(data.x, data.y, 3, ("a", 7, "b"))  # type: ignore[arg-type]


class Options(HTMLParser):
    """The texts of the options of a page's first selection, and what its scripts hold."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.inside = self.done = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.scripts.append("")
        self.inside = tag == "option" and not self.done
        if self.inside:
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.done |= tag == "select"
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[-1] += data
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def test_live_pages_show_them_and_run_none() -> None:
    space = replace(SPACES["clothes"], classes=NAMES)
    names = [*NAMES, "any class"]
    about = {"bytes": 1, "calls": [1, 2], "names": names, "picture": (1, 28), "start": live.START}
    found = Options("\n".join(live.element(live.Live("own", live.plain(space), about))))
    assert found.texts == names
    (known,) = found.scripts  # what the page knows of the model
    assert json.loads(known)["names"] == names
