"""The README, the pages of the book and the drawing of the rooms say what the code is."""

import inspect
import itertools
import json
import os
import re
import shlex
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

import ismkit
from book import architecture
from ismkit import cli, neighbours
from ismkit.data import read_sheet
from ismkit.evaluation import judges
from ismkit.lessons.ledger import Entry, write
from ismkit.lessons.notebooks import REFRESHED
from ismkit.method import path as straight
from ismkit.method import recipes
from ismkit.sweeps import ladder, sweep
from ismkit.sweeps.studies import FOLDER
from ismkit.training import RUNS, budget
from ismkit.training.costs import row_cost
from ismkit.training.runs import check_run
from tests.building import builder
from tests.colours import contrast
from tests.commandline import parses
from tests.conftest import ROOT
from tests.tried import counted, with_numbers

README = (ROOT / "README.md").read_text()
PAGES = {path: path.read_text() for path in sorted([*ROOT.glob("*.md"), *(ROOT / "book").glob("*.md")])}
ROOMS = re.findall(r"^\* ``ismkit\.(\w+)``", ismkit.__doc__ or "", re.MULTILINE)
#: What a reader of the README's tree should find at once, and where.
TOPICS = {
    "atomic writes": "utils",
    "random streams": "utils",
    "wavelet loss": "method",
    "optimal transport pools": "method",
    "twin EMA": "method",
    "training step": "method",
    "sampler": "method",
    "Fashion-MNIST": "data",
    "DiT": "models",
    "released weights": "models",
    "VAE": "imagenet",
    "checkpoints": "training",
    "DDP": "training",
    "FSDP": "training",
    "FID": "evaluation",
    "precision and recall": "evaluation",
    "curvature": "evaluation",
    "seeds": "sweeps",
    "claims ledger": "lessons",
    "exercises that check themselves": "lessons",
    "papermill": "lessons",
}


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language, lines that go on in the next one joined."""
    return [block.replace("\\\n", " ") for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.M)]


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ---------------------------------------------------------------- the README


def test_readme_is_short() -> None:
    assert len(README.split()) <= 900


def test_three_lines_of_the_readme_draw_emoji_and_clothes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = blocks(README, "python")[0]
    assert len([line for line in first.splitlines() if line]) == 3
    exec(first, {})
    assert {path.name for path in tmp_path.iterdir()} == {"clothes.png", "emoji.png"}
    with Image.open("clothes.png") as picture:
        assert picture.convert("L").getextrema() == (0, 255)
        assert picture.width > 5 * picture.height  # eight in a row
    with Image.open("emoji.png") as picture:
        assert 1.1 < picture.width / picture.height < 1.4  # eleven by nine


def test_emoji_of_the_readme_are_what_its_lines_draw() -> None:
    """The allowance is for other processors."""
    shown = read_sheet(ROOT / "docs" / "emoji.png", side=64, gap=2)[:, :, ::2, ::2].float() / 127.5 - 1
    assert (shown - ismkit.draw_emoji(ismkit.EMOJI, w=2.0, nfe=1)).abs().mean() < 0.02


def test_step_of_the_readme_is_the_librarys() -> None:
    source = inspect.getsource(recipes.training_step)
    body = source[source.rindex('"""') + 3 :].strip("\n")
    wanted = re.sub(r"# [. ]+", "# ", inspect.cleandoc(body))  # there dots lead to the comments
    assert blocks(README, "python")[1].strip() == wanted


def test_hours_of_the_full_run_are_those_of_the_plan_wherever_they_are_said() -> None:
    preset = RUNS["imagenet256-xl2"]
    with torch.device("meta"):
        shape = preset.net(num_classes=1000).config
    row = budget.plan("XL/2", shape, preset.recipe, budget.Cluster(), price=1.0)
    measured = (ROOT / "tests" / "bench" / "RESULTS.md").read_text()
    seconds = re.findall(r"^\| iSM step, batch 256 in 2, bf16 \| ([\d.]+) s", measured, re.MULTILINE)
    page = " ".join((ROOT / "book" / "imagenet.md").read_text().split())
    readme = " ".join(README.split())
    assert preset.about.endswith(f"by a model {row['GPU hours']:.0f} hours of an H100")
    assert f"XL/2 costs {row['GPU hours']:.0f} hours of one H100" in page
    assert f"{row['GPU hours']:.0f} H100 hours by a model" in readme
    hours = float(seconds[-1]) * preset.steps / 3600
    assert f"so {hours:.0f} hours for the run" in page
    assert f"{hours:.0f} H200 hours by uncompiled steps" in readme


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    commands = [line.split("#")[0].split() for line in blocks(README, "bash")[0].splitlines()]
    assert commands == [["make", "demo"], ["make", "test"]]
    for _, target in commands:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def tree() -> dict[str, str]:
    """The rooms in the README's tree, each with its phrase."""
    (block,) = blocks(README, "text")
    top, *lines = block.splitlines()
    assert top == "ismkit/"
    rooms = [re.fullmatch(r"[├└]── (\w+)/ +(\S.*)", line) for line in lines]
    return {room[1]: room[2] for room in rooms if room}


def test_tree_of_the_readme_has_the_rooms_from_the_ground_up() -> None:
    folders = {path.parent.name for path in (ROOT / "ismkit").glob("*/__init__.py")}
    assert list(tree()) == ROOMS
    assert {*ROOMS, "cli"} == folders  # the commands stand above the rooms


@pytest.mark.parametrize("topic", TOPICS)
def test_tree_of_the_readme_names_one_room_for_a_topic(topic: str) -> None:
    assert [room for room, phrase in tree().items() if topic in phrase] == [TOPICS[topic]]


def test_figures_of_the_readme_are_those_of_the_sweep() -> None:
    frame = ladder.reported(sweep.read_table(FOLDER / "power-clothes.parquet"))
    frame = frame[frame.variant != "shortcut_finest_level"].replace(
        {"variant": {ladder.BEST_SCALE: "shortcut_finest_level"}}
    )
    means = frame.groupby(["variant", "nfe"]).frechet.mean()
    network = ladder.SWEEPS["power-clothes"].runs["flow"].net()
    assert f"network of {sum(p.numel() for p in network.parameters()) / 1e6:.1f} million parameters" in README
    rows = re.findall(r"^\| `(\w+)`.*?((?: \| [\d.]+){3}) \|$", README, re.MULTILINE)
    assert [name for name, _ in rows] == ["flow", "shortcut_finest_level", "ism_guidance", "ism", "ism_plus"]
    for name, figures in rows:
        assert figures == "".join(f" | {means[name, nfe]:.2f}" for nfe in (1, 4, 128)), name


@pytest.mark.parametrize("space", ["clothes", "emoji"])
def test_ladder_of_the_book_is_bold_where_the_corrected_test_resolves_a_change(
    space: str,
) -> None:
    frame = ladder.reported(sweep.read_table(FOLDER / f"power-{space}.parquet"))
    pairs = [(upper, lower) for upper, lower, _ in ladder.RUNGS]
    found = sweep.compare_pairs(frame, pairs, "frechet", within="nfe")
    page = builder().with_made(f"Before.\n\n<!-- ladder of {space} -->\n\nAfter.\n")
    (table,) = ([*rows] for bar, rows in itertools.groupby(page.splitlines(), lambda line: line[:1] == "|") if bar)
    lines = {cells[1].strip(" `"): cells[6:9] for cells in (line.split("|") for line in table[2:])}
    assert {name for name, cells in lines.items() if any(map(str.strip, cells))} == {upper for upper, _ in pairs}
    for upper, lower in dict(pairs).items():  # of guidance the comparison with the baseline that is tuned
        for nfe, cell in zip((1, 4, 128), lines[upper], strict=True):
            change = found.loc[nfe, upper, lower]
            assert ("**" in cell) == (change.holm < 0.05), (upper, nfe)
            percent = int(re.findall(r"[+\N{MINUS SIGN}]\d+", cell)[0].replace("\N{MINUS SIGN}", "-"))
            assert percent == round(100 * (change.ratio - 1)), (upper, nfe)


@pytest.mark.parametrize("space", ["clothes", "emoji"])
def test_shortcut_models_guided_by_a_second_call_stand_beside_what_they_are_unguided(space: str) -> None:
    asked = f"shortcut models of {space} with two calls"
    page = builder().with_made(f"Before.\n\n<!-- {asked} -->\n\nAfter.\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    assert [row[0] for row in rows[2:]] == [f"{scale:g}" for scale in ladder.SCALES]
    one, two = (sweep.read_table(FOLDER / f"power-{space}{calls}.parquet") for calls in ("", "-two-calls"))
    one = one[one.nfe == 128]
    ism = one[one.variant == "ism"].pivot_table("frechet", "seed", ["noise", "w"])
    best = ism[1][ism[0].mean().idxmin()]  # the strength of all seeds
    one = one[one.seed.isin(two.seed)]
    for scale, plain, guided, w, ratio, _ in rows[2:]:
        unguided, scores = (
            frame[frame.cfg_scale == float(scale)].pivot_table("frechet", "seed", ["noise", "w"])
            for frame in (one, two)
        )
        assert plain == f"{unguided[1][0.0].mean():.2f}"
        assert float(w) == scores[0].mean().idxmin()
        assert guided == f"{scores[1][float(w)].mean():.2f}"
        assert ratio.startswith(f"{np.exp(np.log(scores[1][float(w)] / best).mean()):.2f} (")


def test_caption_of_the_readme_is_what_the_card_says() -> None:
    _, card = ismkit.released("ism_plus")
    one, many = (card["scores"][f"{nfe} NFE, w = 1"]["frechet"] for nfe in (1, 128))
    assert f"scores a Frechet distance of {one:.2f}, 128 steps {many:.2f}" in " ".join(README.split())


# ---------------------------------------------------------------- all pages


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        name = link.partition("#")[0]
        if "://" not in link:
            assert (page.parent / name).exists(), f"{ids(page)}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    for name in re.findall(r"[` ]((?:ismkit|tests|book|data|examples|docs|notebooks|\.ci)/[\w./-]*)", PAGES[page]):
        if not re.search(r"NN_|NAME|_build", name):
            assert (ROOT / name).exists(), f"{ids(page)}: {name}"


def test_commands_in_the_pages_parse() -> None:
    scripts = "\n".join(block for text in PAGES.values() for block in blocks(text, "bash")).replace("\\\n", " ")
    commands = re.findall(r"^ismkit (.*?)(?:  +#.*)?$", scripts, re.M)
    assert {command.split()[0] for command in commands} == {*cli.COMMANDS}
    for command in commands:
        name, *arguments = shlex.split(command)
        parses(name, arguments)


def test_code_of_the_page_on_your_own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "own"}
    for block in blocks(PAGES[ROOT / "book" / "own.md"], "python"):
        exec(block, scope)
    assert scope["drawn"].shape == (4, 3, 32, 32)  # type: ignore[attr-defined]
    assert scope["state"].step == 3  # type: ignore[attr-defined]
    check_run(scope["cats"])  # type: ignore[arg-type]


def test_the_sweep_of_the_page_of_comparisons_spends_the_same_on_each() -> None:
    scope: dict[str, Any] = {"__name__": "comparing"}
    (block,) = blocks(PAGES[ROOT / "book" / "comparing.md"], "python")
    exec(block, scope)
    trials = scope["mine"].trials()
    assert len(trials) == 9
    passes = [trial.run.steps * row_cost(trial.run.recipe, trial.run.batch_size, (2,), 8) for trial in trials]
    assert passes == pytest.approx([passes[0]] * 9, rel=1e-3)


def test_every_guarantee_names_a_test_that_is_there() -> None:
    text = PAGES[ROOT / "book" / "guarantees.md"]
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)
    assert len(named) == len(re.findall(r"^- ", text, re.MULTILINE)) > 10
    for file, test in named:
        assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{test}"


def test_every_neighbour_stands_on_its_page() -> None:
    text = PAGES[ROOT / "book" / "neighbours.md"]
    named = set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) | {"shortcut_every_level", "ism", "flow"}
    assert neighbours.NEIGHBOURS.keys() <= named
    assert named <= neighbours.NAMED.keys() | {"truncated", "facm", "dual_end", "reward_tuning"}


@pytest.mark.slow
def test_guarantees_say_how_often_they_are_tried(request: pytest.FixtureRequest) -> None:
    text, counts = PAGES[ROOT / "book" / "guarantees.md"], None
    option, among = request.config.getoption, map(os.path.abspath, request.config.args)
    ignored = [path for path in option("ignore") or [] if Path(path).suffix != ".ipynb"]
    chosen = [ignored, *map(option, ("keyword", "markexpr", "deselect")), os.environ.get("ISMKIT_TRIES")]
    if str(ROOT / "tests") in among and not any(chosen):
        counts = counted([item for item in request.session.items if item.path.suffix == ".py"])
    assert with_numbers(text, counts) == text, "python -m tests.tried writes the numbers"


def test_contracts_are_the_signatures() -> None:
    (contracts,) = blocks(PAGES[ROOT / "book" / "architecture.md"], "python")
    calls = re.findall(r"^([\w.]+)\((.*?)\)", contracts, re.MULTILINE)
    assert len(calls) == len(contracts.strip().splitlines())
    values = {"net": straight.Network, "Judge": judges.Judge, "TargetRule": recipes.TargetRule, "Term": recipes.Term}
    for name, written in calls:
        owner, _, method = name.partition(".")
        value = values.get(owner) or getattr(ismkit, owner)
        if inspect.isclass(value):
            value = getattr(value, method or "__call__")
        parameters = list(inspect.signature(value).parameters.values())
        names = [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
        keywords = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        wanted = [*names, *(["*"] if keywords else []), *keywords]
        assert written.split(", ") == [name for name in wanted if name != "self"], name


def test_a_comment_that_stands_for_nothing_is_an_error() -> None:
    with pytest.raises(KeyError, match="ladder of shoes"):
        builder().with_made("# Title\n\n<!-- ladder of shoes -->\n")


def test_status_shows_what_a_refresh_noted_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [
        nbformat.v4.new_markdown_cell("# 98 Own"),
        nbformat.v4.new_code_cell('profile = "laptop"', metadata={"tags": ["parameters"]}),
    ]
    versions = {"python": "3.12.1", "torch": "2.11.0", "ismkit": "0.1.0"}
    noted = {REFRESHED: {"seconds": 187, "day": "2026-11-27", **versions}}
    for name, metadata in (("98_own", noted), ("99_other", {})):
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), tmp_path / f"{name}.ipynb")
    row = Entry("C03.law", "98", 1, "laptop", 0, "cpu", "2.11.0", 1.0, "==", 1.0, 0.5, seeds={"0": 1.0, "1": 1.0})
    write([row, replace(row, processors=dict.fromkeys("01", "P5 with SIMD"))], tmp_path / "ledger" / "98.json")
    monkeypatch.setattr(builder(), "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(builder(), "BOOK", tmp_path)
    head, _, own, other = ([cell.strip() for cell in line.strip("|").split("|")] for line in builder().status_table())
    wanted = {"time": "3 min 07 s", "day": "2026-11-27"}
    shown = dict(
        zip(head, [re.sub(r"[\u202f\u2011]", lambda c: {"\u202f": " "}.get(c[0], "-"), c) for c in own], strict=True)
    )
    assert {name: shown[name] for name in wanted} == wanted
    assert {name.casefold(): shown[name] for name in ("Python", "torch", "ismkit")} == versions
    assert shown["rows in the ledger"] == "1 (laptop, cpu, 2 seeds); 1 (laptop, P5 with SIMD, 2 seeds)"
    for name in ("time", "day", "Python", "torch", "ismkit"):
        assert other[head.index(name)] == "not recorded"


# ---------------------------------------------------------------- sizes of an installation

BYTES = {"MB": 1, "GB": 1000}


def megabytes(text: str) -> float:
    number, unit = text.split()
    return float(number) * BYTES[unit]


def sizes() -> dict[str, tuple[float, float]]:
    """Megabytes to download and on disk: of each extra in the page's table, and of the core without CUDA."""
    page = " ".join(PAGES[ROOT / "book" / "installing.md"].split("\n"))
    size = r"([\d.]+ [MG]B)"
    rows = re.findall(rf"\| `(\w+)`[^|]*\|[^|]*\| \d+ \| {size} \| {size} \|", page)
    (without,) = re.findall(rf"the core then is about {size} to download and {size} on disk", page)
    return {name: (megabytes(down), megabytes(disk)) for name, down, disk in [*rows, ("without CUDA", *without)]}


def agrees(said: str, parts: list[float]) -> bool:
    """Whether a rounded size is the sum of rounded sizes: each may be off by half of its last digit."""
    digits = said.split()[0].partition(".")[2]
    own = 0.5 * 10.0 ** -len(digits) * BYTES[said.split()[1]]
    of_parts = sum(0.5 * 10 ** (len(str(round(part))) - 2) for part in parts)  # all have two digits
    return abs(megabytes(said) - sum(parts)) <= own + of_parts


@pytest.mark.parametrize(("extra", "variable"), [("learn", "LEARN_SIZE"), ("all", "ALL_SIZE")])
def test_sizes_that_make_tells_are_those_of_the_page(extra: str, variable: str) -> None:
    makefile, known = (ROOT / "Makefile").read_text(), sizes()
    (told,) = re.findall(rf"^{variable} := \$\(if \$\(TORCH\),(.*),(.*)\)$", makefile, re.MULTILINE)
    for text, core in zip(told, ("without CUDA", "core"), strict=True):
        said = re.fullmatch(r"(.*) to download and (.*) on disk", text)
        assert said
        for k in (0, 1):
            assert agrees(said[k + 1], [known[core][k], known[extra][k]]), (text, said[k + 1])


def test_sizes_that_lecturers_read_are_those_of_the_page() -> None:
    page, known = " ".join(PAGES[ROOT / "book" / "lecturers.md"].split("\n")), sizes()
    (said,) = re.findall(r"that is ([\d.]+ [MG]B) to download and ([\d.]+ [MG]B) on disk", page)
    (with_cuda,) = re.findall(r"Linux fetches ([\d.]+ [MG]B) for each: \d+ GB for thirty", page)
    for k in (0, 1):
        assert agrees(said[k], [known["without CUDA"][k], known["learn"][k]])
    assert agrees(with_cuda, [known["core"][0], known["learn"][0]])
    (class_of_thirty,) = re.findall(r"for each: (\d+) GB for thirty", page)
    assert abs(30 * megabytes(with_cuda) / 1000 - float(class_of_thirty)) <= 2
    installing = " ".join(PAGES[ROOT / "book" / "installing.md"].split("\n"))
    assert f"with `learn` {said[0]} and {said[1]}" in installing


# ---------------------------------------------------------------- words, symbols and papers


GLOSSARY = PAGES[ROOT / "book" / "glossary.md"]
NOTATION = PAGES[ROOT / "book" / "notation.md"]
NOTEBOOKS = {
    path.name: " ".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}


#: What a reader may search for, although the kit says it otherwise.
FOR_SEARCH = ["confidence interval", "fast EMA", "mixture of Gaussians", "sub-band"]


def entries() -> list[tuple[list[str], str]]:
    """The entries of the glossary: names of a thing, and what it is."""
    (body,) = blocks(GLOSSARY, "{glossary}")
    found = []
    for entry in body.strip().split("\n\n"):
        lines = entry.splitlines()
        names = [line for line in lines if not line.startswith("  ")]
        assert names == lines[: len(names)], entry
        found.append((names, " ".join(line.strip() for line in lines[len(names) :])))
    return found


def plain(text: str) -> str:
    """Without accents, case and line ends."""
    bare = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return " ".join(bare.split()).casefold()


def uses(text: str, name: str) -> bool:
    return re.search(rf"(?<![a-z0-9_]){re.escape(plain(name))}", plain(text)) is not None


def test_glossary_is_in_order_and_names_no_thing_twice() -> None:
    firsts = [plain(names[0]) for names, _ in entries()]
    assert firsts == sorted(firsts)
    every = [name.casefold() for names, _ in entries() for name in names]
    assert len(every) == len(set(every)) > 150


def test_every_entry_of_the_glossary_leads_to_a_notebook_that_uses_the_word() -> None:
    for names, meaning in entries():
        links = re.findall(r"\[(\d\d[a-z]?)\]\(\.\./notebooks/([\w.]+)\)", meaning)
        assert len(links) == 1, names
        number, file = links[0]
        assert file.startswith(f"{number}_"), names
        assert any(uses(NOTEBOOKS[file], name) for name in names), f"{names} in {file}"
        assert 1 <= len(re.findall(r"[.:](?= [A-Z]|$)", meaning)) <= 5, names


def test_every_word_of_the_glossary_is_used_elsewhere() -> None:
    texts = [*NOTEBOOKS.values(), *(text for text in PAGES.values() if text != GLOSSARY)]
    unused = [name for names, _ in entries() for name in names if not any(uses(text, name) for text in texts)]
    assert sorted(unused) == sorted(FOR_SEARCH)


def test_terms_in_the_pages_are_in_the_glossary() -> None:
    known = {name.casefold() for names, _ in entries() for name in names}
    used = [term for text in PAGES.values() for term in re.findall(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`", text)]
    assert len(used) > 20
    assert {" ".join(term.casefold().split()) for term in used} <= known


def test_frechet_is_found_with_and_without_its_accent() -> None:
    (names,) = (names for names, _ in entries() if "Fr\u00e9chet distance" in names)
    assert "Frechet distance" in names


def test_symbols_have_the_names_that_the_code_has() -> None:
    """Each name in the column "in the code": an attribute, a parameter, a function or a class."""
    lines = [line for line in NOTATION.splitlines() if line.startswith(("| $", "| NFE", "| sg"))]
    cells = [line.split(" | ")[2] for line in lines]
    written = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert len(written) > 40
    for name in written:
        called = re.fullmatch(r"(?P<path>[\w.]+)(?:\((?P<parameter>\w+)\))?", name)
        assert called, name
        first, *rest = called["path"].split(".")
        homes = (ismkit, straight, recipes, neighbours, ismkit.lessons, ismkit.evaluation)
        owner = torch if first == "torch" else next(getattr(home, first) for home in homes if hasattr(home, first))
        for part in rest:
            fields = {*getattr(owner, "__annotations__", {}), *dir(owner)}
            assert part in fields, name
            owner = getattr(owner, part, None)
        if called["parameter"]:
            call = owner.__call__ if getattr(owner, "_is_protocol", False) else owner
            assert called["parameter"] in inspect.signature(call).parameters, name


ARXIV = re.compile(r"(?<![\d.])\d\d(?:0[1-9]|1[0-2])\.\d{5}(?!\d)")


def test_every_paper_that_is_named_stands_in_the_bibliography() -> None:
    listed = ARXIV.findall(re.sub(r"\]\([^)]*\)", "]", PAGES[ROOT / "book" / "bibliography.md"]))
    assert len(listed) == len(set(listed))
    places = {ids(path): text for path, text in PAGES.items()} | NOTEBOOKS
    places |= {ids(path): path.read_text() for path in (ROOT / "ismkit").rglob("*.py")}
    for place, text in places.items():
        assert set(ARXIV.findall(text)) <= set(listed), place


def test_links_of_the_bibliography_lead_to_the_number_that_they_show() -> None:
    links = re.findall(r"\[([\d.]+)\]\(https://arxiv\.org/abs/([\d.]+)\)", PAGES[ROOT / "book" / "bibliography.md"])
    assert len(links) > 50
    assert [shown for shown, target in links if shown != target] == []


# ---------------------------------------------------------------- the drawing


def imports_by_line() -> Counter[tuple[str, str]]:
    """How many lines of a room's files import from another room, read without parsing Python."""
    found: Counter[tuple[str, str]] = Counter()
    for path in (ROOT / "ismkit").glob("*/*.py"):
        if path.parent.name == "cli":
            continue
        for line in path.read_text().splitlines():
            if match := re.match(r"\s*(?:from ismkit\.|import ismkit\.|from ismkit import )(\w+)", line):
                found[path.parent.name, match[1]] += 1
    return Counter({pair: count for pair, count in found.items() if pair[0] != pair[1] and pair[1] in ROOMS})


@pytest.fixture(scope="module")
def drawn() -> ElementTree.Element:
    svg = architecture.drawing(architecture.ROOMS, architecture.arrows())
    return ElementTree.fromstring(svg.replace(' xmlns="http://www.w3.org/2000/svg"', ""))


def boxes(drawn: ElementTree.Element) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right and bottom of every room that is drawn."""
    places = {}
    for room in drawn.iterfind("g[@class='room']"):
        (rectangle,) = room.iterfind("rect")
        x, y, width, height = (float(rectangle.attrib[key]) for key in ("x", "y", "width", "height"))
        places[room.attrib["data-room"]] = (x, y, x + width, y + height)
    return places


def test_every_room_is_drawn_once_with_its_name(drawn: ElementTree.Element) -> None:
    rooms = drawn.findall("g[@class='room']")
    assert sorted(room.attrib["data-room"] for room in rooms) == sorted(ROOMS)
    for room in rooms:
        name, *phrase = ("".join(text.itertext()) for text in room.iterfind("text"))
        assert name == room.attrib["data-room"]
        assert " ".join(phrase) == architecture.ROOMS[name]


def test_arrows_are_the_imports(drawn: ElementTree.Element) -> None:
    arrows = {}
    for arrow in drawn.iterfind("g[@class='arrow']"):
        pair = arrow.attrib["data-from"], arrow.attrib["data-to"]
        assert pair not in arrows
        (label,) = ("".join(text.itertext()).strip() for text in arrow.iterfind("text"))
        name, arrows[pair] = label.split()
        assert name == pair[1]
    assert {pair: int(count) for pair, count in arrows.items()} == imports_by_line()


def test_an_arrow_leads_from_the_importer_down_to_what_it_imports(drawn: ElementTree.Element) -> None:
    places = boxes(drawn)
    for arrow in drawn.iterfind("g[@class='arrow']"):
        line, head = ([float(n) for n in re.findall(r"-?\d+", path.attrib["d"])] for path in arrow.iterfind("path"))
        left, top, right, bottom = places[arrow.attrib["data-from"]]
        assert line[0] in (left, right)
        assert top < line[1] < bottom
        left, below, right, end = places[arrow.attrib["data-to"]]
        assert (head[0] in (left, right) and below < head[1] < end) or (left < head[0] < right and head[1] == below)
        assert below > bottom


def test_boxes_and_labels_do_not_overlap(drawn: ElementTree.Element) -> None:
    places = list(boxes(drawn).values())
    for i, (left, top, right, bottom) in enumerate(places):
        for other in places[i + 1 :]:
            assert left >= other[2] or right <= other[0] or top >= other[3] or bottom <= other[1]
    marks = Counter((t.attrib["x"], t.attrib["y"]) for t in drawn.iterfind("g[@class='arrow']/text"))
    assert max(marks.values()) == 1


def test_drawing_has_its_arrows_in_words(drawn: ElementTree.Element) -> None:
    for (source, target), count in imports_by_line().items():
        assert f" {source} {target} ({count})" in drawn.attrib["aria-label"]


@pytest.mark.parametrize("ground", ["#ffffff", "#121212"])
def test_lanes_can_be_seen_on_light_and_dark_pages(drawn: ElementTree.Element, ground: str) -> None:
    lanes = {arrow.attrib["style"].removeprefix("--lane: ") for arrow in drawn.iterfind("g[@class='arrow']")}
    assert len(lanes) == len({target for _, target in imports_by_line()})
    for lane in lanes:
        assert contrast(lane, ground) >= 3, lane


def test_floors_refuse_a_room_that_imports_upwards() -> None:
    assert architecture.floors(["a", "b", "c"], {("c", "a"): 1, ("b", "a"): 2}) == [["a"], ["b", "c"]]
    with pytest.raises(ValueError, match="a imports b, which must stand before it"):
        architecture.floors(["a", "b"], {("a", "b"): 1})
    with pytest.raises(ValueError, match="every room with an arrow, x missing"):
        architecture.floors(["a"], {("x", "a"): 1})
