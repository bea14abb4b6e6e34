"""Build the book: ``python book/build.py [FOLDER]``, by default in ``book/_build``; its pages are in ``FOLDER/html``.

The sources are laid out in ``FOLDER/source``: the pages beside this file, the committed notebooks, and what is made
from them, from the ledger, the benchmarks and the modules. A page says where made text belongs by a comment with its
name, such as ``<!-- ladder -->``: see :data:`MADE`. Notebooks that are not written yet are left out.
"""

from __future__ import annotations

import ast
import csv
import html
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from functools import cache, partial
from importlib.metadata import version
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import architecture
import live
import nbformat
import pandas as pd
from bundle import bundle
from conf import REPOSITORY, anchor
from figures import dark, saved
from nbformat import NotebookNode
from PIL import Image
from sphinx.cmd.build import main as sphinx_build

from ismkit import __version__
from ismkit.evaluation import tables
from ismkit.lessons import claims, course, ledger
from ismkit.lessons.claims import CLAIMS
from ismkit.lessons.notebooks import NOTEBOOKS, REFRESHED, solutions
from ismkit.sweeps import ladder, studies, sweep
from ismkit.sweeps.studies import FOLDER
from ismkit.utils.workers import collection_paused

BOOK = Path(__file__).resolve().parent
ROOT = BOOK.parent
PACKAGE = architecture.PACKAGE
ROOMS = architecture.ROOMS
EXPLORABLES = BOOK / "explore"  # NN_name.md: what stands at the end of notebook NN, drawn by _static/explore/name.js
BESIDE = BOOK / "beside"  # NN_name.md: the live model of notebook NN, which stands before its exercises

SLIDES = "slides"  # the folder of the decks, beside the pages
#: The picture of the start page: a cell of notebook 00, by its tag for the course.
SAMPLES = "00#strengths"

WIDGET = "application/vnd.jupyter.widget"
#: What moves in the page of a notebook instead of its sliders, which need a kernel, in their order: the heading of a
#: live model or of a figure to explore; ``None`` if frames are stored for them.
INSTEAD: dict[str, list[str | None]] = {
    "00": ["Clothes", "Emoji"],
    "03": ["Explore: the guidance that one step carries"],
    "04": [None, "Draw: the strength as a dial"],
    "05": [None],
    "06": ["Explore: pairs of noise and data, and what they leak"],
    "07": ["Explore: lag against noise"],
    "08": ["Draw: two recipes at 1, 4 and 128 calls"],
    "10": [None],
    "12": ["Explore: the bias of FID against n"],
}

THIN = "\N{NARROW NO-BREAK SPACE}"  # within a figure, which should stay on one line

#: The parts of the book: a caption, and the numbers of its notebooks or the names of its pages.
PARTS = {
    "Start": ["00", "live", "explore", "installing", "anywhere", "commands"],
    "Flows and shortcuts": ["01", "01b", "02"],
    "Guidance": ["03", "04"],
    "Frequency, paths, averages": ["05", "06", "07"],
    "Integration": ["08", "09", "neighbours"],
    "Your own": ["14", "own", "comparing", "league", "lecturers"],
    "Full scale": ["imagenet", "10", "11", "12", "failures", "pools"],
    "Claims": ["13", "ledger", "paper", "guarantees", "status"],
    "The library": ["architecture", "api", "timings", "contributing", "changelog"],
    "Look up": ["glossary", "notation", "bibliography", "solutions"],
}
#: Pages that stand elsewhere, and how links between files of the repository become links between pages.
ELSEWHERE = {
    "contributing": ROOT / "CONTRIBUTING.md",
    "changelog": ROOT / "CHANGELOG.md",
    "timings": ROOT / "tests" / "bench" / "RESULTS.md",
}
LINKS = {"](book/": "](", "](../notebooks/": "](notebooks/", "](../CONTRIBUTING.md": "](contributing.md"}
NOT_RECORDED = "not recorded"
#: What the table of notebooks says of those that have no rows in the ledger: the last one shows it whole.
WITHOUT_ROWS = {"13": "all of them"}
#: What changes at each rung of the ladder, in the order of the table.
RUNGS = {
    "flow": "flow matching, guided by a second call",
    "shortcut_every_level": "shortcut models as the paper describes them",
    "shortcut_finest_level": "shortcut models, guided as in their code",
    ladder.BEST_SCALE: "the same, scale of guidance tuned",
    "ism_guidance": "w is an input",
    "+interval": "no guidance below t = 0.3",
    "+wavelet": "a distance per wavelet band",
    "+sot_any_class": "optimal transport over all classes",
    "+sot": "optimal transport within the classes",
    "ism": "targets by a fast average",
    "ism_plus": "this kit's",
}


@collection_paused()  # what Sphinx makes lives to the end: garbage collection took a sixth of the time
def build(folder: Path) -> int:
    """Lay out the sources in ``folder/source`` and build ``folder/html``; returns Sphinx's exit status."""
    # Sphinx does not repeat the warnings of an old page.
    for made in ("source", "static", "doctrees", "html", live.MODELS):
        shutil.rmtree(folder / made, ignore_errors=True)
    source, models, static = folder / "source", folder / live.MODELS, folder / "html" / "_static"
    lay_out(source, live.export_all(models))
    write_explorables(folder / "static" / "explore" / "explore.js")
    options = ["-n", "-W", "--keep-going", "-q", "-b", "html", "-c", str(BOOK), "-d", str(folder / "doctrees")]
    status = sphinx_build([*options, str(source), str(folder / "html")])
    if models.is_dir():  # Sphinx knows of no files that only a page's script asks for
        shutil.copytree(models, folder / "html" / live.MODELS)
    if static.is_dir():
        (static / "live").rename(folder / "html" / live.SCRIPTS)
    write_decks(folder / "html" / SLIDES)
    return status


def write_explorables(path: Path) -> None:
    """Write the script of all figures to explore, which Sphinx takes from here (see ``made_static`` in ``conf.py``)."""
    scripts = BOOK / "_static" / "explore"
    path.parent.mkdir(parents=True)
    path.write_text(bundle(scripts, scripts / "page.js"))


def lay_out(source: Path, models: list[live.Live]) -> None:
    """Write every source of the book into an empty folder, with the models that draw in its pages."""
    shutil.copytree(NOTEBOOKS, source / "notebooks", ignore=shutil.ignore_patterns(".*"))
    for path in (source / "notebooks").glob("*.ipynb"):
        text = path.read_text().replace("](../book/", "](../")  # pages lie above the notebooks there
        notebook = nbformat.reads(text, as_version=4)
        show_without_kernel(notebook, INSTEAD.get(path.stem.partition("_")[0], []))
        notebook.cells[0].source += on_colab(REPOSITORY)
        nbformat.write(notebook, path)
    for path in EXPLORABLES.glob("*.md"):
        (notebook_path,) = (source / "notebooks").glob(f"{path.stem[:2]}_*.ipynb")
        notebook = nbformat.read(notebook_path, as_version=4)
        notebook.cells.append(nbformat.v4.new_markdown_cell(explorable(path)))
        nbformat.write(notebook, notebook_path)
    for path in BESIDE.glob("*.md"):
        (notebook_path,) = (source / "notebooks").glob(f"{path.stem[:2]}_*.ipynb")
        notebook = nbformat.read(notebook_path, as_version=4)
        (place,) = (k for k, cell in enumerate(notebook.cells) if cell.source.startswith("## Exercises"))
        text = live.filled(with_made(path.read_text()), models, "../")
        notebook.cells.insert(place, nbformat.v4.new_markdown_cell(text))
        nbformat.write(notebook, notebook_path)
    write_samples(source)
    pages = {path.stem: path for path in BOOK.glob("*.md")} | ELSEWHERE
    for name, path in pages.items():
        text = path.read_text()
        for there, here in LINKS.items():
            text = text.replace(there, here)
        if name == "anywhere":
            text = with_address(text, REPOSITORY)
        (source / f"{name}.md").write_text(live.filled(with_made(text), models))
    if answers := list(solutions_page()):
        (source / "solutions.md").write_text("\n".join(["# Solutions of the exercises", "", *answers]))
    (source / "api.md").write_text("\n".join(api_page()))
    for page, name in api_modules():
        path = source / f"{page}.rst"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([name, "=" * len(name), "", f".. automodule:: {name}", "   :members:"]) + "\n")
    with (source / "index.md").open("a") as start:
        start.write("\n" + "\n".join(contents(source)))


def with_made(text: str) -> str:
    """A page with what its comments stand for, but for live models: :func:`live.filled` puts those there."""
    return re.sub(r"^<!-- (?!live )(.+?) -->$", lambda comment: "\n".join(MADE[comment[1]]()), text, flags=re.MULTILINE)


def with_address(text: str, repository: str) -> str:
    """A page with the address of the repository instead of the words for it, if there is one."""
    if not repository:
        return text
    text = re.sub(r"\bOWNER/NAME\b", repository.removeprefix("https://github.com/"), text)
    return re.sub(r"\bREPOSITORY\b", repository, text)


def on_colab(repository: str) -> str:
    """What the page of a notebook says of its buttons, which a book without an address does not have."""
    first = "On Colab, run [this cell](../anywhere.md#google-colab) before all others: it installs the kit."
    return f"\n\n*The rocket opens this notebook on Colab or Binder. {first}*" if repository else ""


def write_samples(source: Path) -> None:
    """Write the picture of the start page, for light pages and for dark ones."""
    about, png = samples()
    with Image.open(BytesIO(png)) as image:
        (source / "samples.png").write_bytes(saved(image))
    (source / "samples.dark.png").write_bytes(dark(png, about["pictures"]))


@cache
def samples() -> tuple[dict[str, Any], bytes]:
    """What notebook 00 says of its figure of samples, and the figure."""
    outputs = course.Shown().cell(SAMPLES, "the start page").outputs
    (shown,) = (output for output in outputs if "image/png" in output.get("data", {}))
    return shown.metadata["image/png"], b64decode(shown.data["image/png"])


def samples_image() -> Iterator[str]:
    """The picture of the start page; the variant that a page does not show is not loaded."""
    about, _ = samples()
    for file, theme in (("samples.png", "light"), ("samples.dark.png", "dark")):
        options = [f":alt: {about['alt']}", f":class: only-{theme}", ":loading: lazy"]
        yield from [f"```{{image}} {file}", *options, "```", ""]


def write_decks(folder: Path) -> None:
    """Write the slides of every hour. Exam, answers and solved notebooks are for the pack of the lecturer alone."""
    folder.mkdir()
    icon = '<link rel="icon" href="../_static/favicon.svg">'
    with tempfile.TemporaryDirectory() as made:
        pack = course.make_course(Path(made) / "pack")
        for deck in (pack / "slides").iterdir():
            (folder / deck.name).write_text(deck.read_text().replace("</head>", f"{icon}</head>", 1))


def decks() -> list[str]:
    """Links to the slides of every hour."""
    lines = []
    for hour in course.hours():
        title = f"Hour {hour.number}: {course.html(hour.title, 'title', inline=True)}"
        slides = 1 + sum(len(block.slides) for block in hour.blocks)  # with the title's
        lines.append(f'<li><a href="{SLIDES}/{hour.number}.html">{title}</a>, {slides} slides</li>')
    return [live.raw(["<ul>", *lines, "</ul>"])]


def show_without_kernel(notebook: NotebookNode, instead: Iterable[str | None]) -> None:
    """Replace controls, which need a kernel, by stored frames, or by what was shown for their values and a link.

    Args:
        notebook: changed in place.
        instead: see :data:`INSTEAD`, one for each output with controls.
    """
    states = notebook.metadata.pop("widgets", {}).get(f"{WIDGET}-state+json", {}).get("state", {})
    headings = iter(instead)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [shown for output in cell.outputs for shown in without_kernel(output, states, headings)]


def without_kernel(
    output: NotebookNode, states: dict[str, Any], headings: Iterator[str | None]
) -> Iterator[NotebookNode]:
    """An output unchanged; of controls, a sentence with their values, and frames or the outputs below them."""
    view = output.get("data", {}).get(f"{WIDGET}-view+json")
    if view is None:
        yield output
        return
    children = [states[name.removeprefix("IPY_MODEL_")] for name in states[view["model_id"]]["state"]["children"]]
    *controls, below = (child["state"] for child in children)
    heading, stored = next(headings), output.metadata.get("frames")
    moved = [control["label"] for control in stored["controls"]] if stored else []
    values = [f"{control['description']}\u00a0=\u00a0{chosen(control)}" for control in controls
              if control["description"] not in moved]  # fmt: skip
    sentence = f"Shown for {', '.join(values)}. " if values else ""
    if stored:
        sentence += "These pictures are stored; JupyterLab draws them for every value."
    else:
        sentence += "The sliders need JupyterLab."
    if heading:
        sentence += f" In this page, use [{heading}](#{slug(heading)})."
    yield nbformat.v4.new_output("display_data", {"text/markdown": f"*{sentence}*", "text/plain": sentence})
    yield from frames(stored) if stored else map(nbformat.from_dict, below["outputs"])


def frames(stored: dict[str, Any]) -> Iterator[NotebookNode]:
    """Sliders, which ``_static/frames.js`` makes, and the pictures that they choose from, the first one's foremost.

    Without JavaScript the style sheet shows the first alone.
    """
    controls, pictures = stored["controls"], list(enumerate(stored["frames"]))
    first = 0
    for control in controls:
        first = first * len(control["values"]) + control["first"]
    values = (f"{control['label']}\u00a0=\u00a0{control['values'][control['first']]}" for control in controls)
    given = html.escape(json.dumps({"controls": controls, "first": first}))
    block = f'<div class="frames" data-frames="{given}"><p>Shown for {html.escape(", ".join(values))}.</p></div>'
    yield nbformat.v4.new_output("display_data", {"text/html": block, "text/plain": ", ".join(values)})
    for _, frame in sorted(pictures, key=lambda one: one[0] != first):
        metadata = {"image/png": frame["about"]}
        yield nbformat.v4.new_output("display_data", {"image/png": frame["png"]}, metadata=metadata)


def slug(heading: str) -> str:
    """The anchor of a heading, as MyST gives it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def chosen(control: dict[str, Any]) -> str:
    """The value of a control as text."""
    if "index" in control:
        return control["_options_labels"][control["index"]]
    value = control["value"]
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def contents(source: Path) -> Iterator[str]:
    """The table of contents: a hidden toctree for each part of which something is there."""
    for caption, names in PARTS.items():
        pages = [page for name in names for page in [*source.glob(f"{name}.md"), *source.glob(f"notebooks/{name}_*")]]
        if pages:
            entries = [str(page.relative_to(source).with_suffix("")) for page in pages]
            yield from ["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```", ""]


def table(rows: Iterable[Iterable[str]]) -> list[str]:
    """Rows of cells, the first of them the head, as a table in Markdown."""
    head, *body = ([cell.replace("|", r"\|") for cell in row] for row in rows)
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)]


def notebooks_table() -> list[str]:
    """Every notebook with its title, and how its claims came out."""
    rows = [["#", "notebook", "claims"]]
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        number, title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0][2:].split(" ", 1)
        tested = BOOK / "ledger" / f"{number}.json"
        came_out = ledger.verdicts(ledger.read(tested)) if tested.is_file() else WITHOUT_ROWS.get(number, "none")
        rows.append([number, f"[{title}](notebooks/{path.name})", came_out])
    return table(rows)


def targets_table() -> list[str]:
    """The targets of the Makefile, with what ``make help`` says of each."""
    targets = re.findall(r"^([a-z]+):.*?## (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return table([["target", "what it does"], *([f"`make {name}`", what] for name, what in targets)])


def address() -> list[str]:
    """Whether the book knows where the repository is, and what follows for its buttons."""
    if REPOSITORY:
        return ["The rocket on a notebook's page opens it on Colab or Binder."]
    return ["This book was built without the address of a repository, so its pages have no buttons for these places."]


def claim_link(claim: str, tested: Container[str]) -> str:
    """The name of a claim, which leads to the cell that tested it, if one did."""
    return f"{{ref}}`{claim} <{anchor(claim)}>`" if claim in tested else claim


def in_a_row(text: str) -> str:
    """A text with three seeds or more that follow each other as the first and the last."""

    def shorter(listed: re.Match[str]) -> str:
        seeds = [int(seed) for seed in listed[0].split(", ")]
        return f"{seeds[0]} to {seeds[-1]}" if seeds == [*range(seeds[0], seeds[-1] + 1)] else listed[0]

    return re.sub(r"\d+(?:, \d+){2,}", shorter, text)


def claims_table() -> list[str]:
    """The ledger as a table; the name of a claim leads to the cell that tested it."""
    by_claim = {row.claim: row for row in ledger.book_entries()}
    rows = [["claim", "statement", "whose", "verdict", "check", "measured", "behind it", "fresh seeds"]]
    for entry in ledger.table(by_claim.values()):
        row, claim = by_claim.get(entry["claim"]), CLAIMS[entry["claim"]]
        check = f"{entry['want']} ({entry['bound']})" if row else ""
        measured = entry["measured"]
        if entry["spread"]:
            measured += f", spread {entry['spread']}"
        elif row:
            measured += row.uncertainty()
        if entry["smallest"]:
            measured += f"; would have found: {entry['smallest']}"
        cells = [entry["statement"], claims.SOURCES[claim.source], entry["verdict"], check, measured, entry["behind"]]
        cells.append(in_a_row(entry["fresh"].replace(" on fresh seeds", "")))  # as the head of the column says
        rows.append([claim_link(entry["claim"], by_claim), *(re.sub(r"([$\\])", r"\\\1", cell) for cell in cells)])
    return table(rows)


def headlines() -> Iterator[str]:
    """The results that change how one works, each with its check and its numbers."""
    entries = {entry["claim"]: entry for entry in ledger.table(ledger.book_entries())}
    for claim, why in claims.HEADLINES.items():
        entry = entries[claim]
        numbers = f"measured {entry['measured']}, wanted {entry['want']}; {entry['behind']}"
        yield f"- **{entry['statement']}.** {why} {claim_link(claim, entries)}: {entry['verdict']} ({numbers})."


def claim_words() -> Iterator[str]:
    """What the words of the ledger mean, from where they are declared."""
    parts = {"Verdicts": claims.VERDICTS, "What stands behind a row": claims.BASES, "Bounds": claims.BOUNDS}
    for title, words in parts.items():
        yield from [f"### {title}", ""]
        shown = ledger.WHOSE_BOUND if words is claims.BOUNDS else {word: word for word in words}
        yield from [*table([["word", "meaning"], *([shown[word], meaning] for word, meaning in words.items())]), ""]


def ladder_table(space: str) -> list[str]:
    """What each rung of the ladder is worth, from the table of the sweep with power; resolved changes are in bold."""
    frame = ladder.reported(sweep.read_table(FOLDER / f"power-{space}.parquet"))
    means = frame.groupby(["variant", "nfe"]).frechet.mean()
    pairs = {upper: lower for upper, lower, _ in ladder.RUNGS}  # of guidance the last: the baseline that is tuned
    every = [(upper, lower) for upper, lower, _ in ladder.RUNGS]
    found = sweep.compare_pairs(frame, every, "frechet", within="nfe")
    calls = (1, 4, 128)
    rows = [["recipe", "what it is", *(f"{n} NFE" for n in calls), *(f"change at {n}" for n in calls), "paper, 1 NFE"]]
    for name, what in RUNGS.items():
        changes = [""] * len(calls)
        if name in pairs:
            changes = [change_cell(found.loc[nfe, name, pairs[name]]) + unguided(pairs[name], nfe) for nfe in calls]
        paper = f"{tables.PAPER[name][0]:.2f}" if name in tables.PAPER else ""
        rows.append(
            [f"`{name}`", what, *(f"{means[name, nfe]:.2f}{unguided(name, nfe)}" for nfe in calls), *changes, paper]
        )
    return table(rows)


def twice_table(space: str) -> list[str]:
    """The shortcut models at 128 steps: unguided, and guided by a second call, each beside `ism`, paired by seed."""
    one, two = (sweep.read_table(FOLDER / f"power-{space}{calls}.parquet") for calls in ("", "-two-calls"))
    guided = sweep.at_best(two, "frechet", (0, 1))
    best = ladder.reported(one)  # chosen on all seeds, as in the table of the ladder
    one, best = (frame[frame.seed.isin(two.seed)] for frame in (one, best))
    plain = one[one.cfg_scale.notna() & (one.nfe == 128) & (one.w == 0) & (one.noise == 1)]
    ism = best[(best.variant == "ism") & (best.nfe == 128)]
    found = sweep.against(pd.concat([ism, guided]), "ism", "frechet")
    rows = [["scale trained with", "unguided", "guided by a second call", "w", "over `ism`", "Holm"]]
    for variant, part in guided.sort_values("cfg_scale").groupby("variant", sort=False):
        over = found.loc[variant]
        cells = [f"{part.cfg_scale.iloc[0]:g}"]
        cells += [f"{scores.frechet.mean():.2f}" for scores in (plain[plain.variant == variant], part)]
        cells += [f"{part.w.iloc[0]:g}", f"{over.ratio:.2f} ({over.low:.2f} to {over.high:.2f})", f"{over.holm:.3f}"]
        rows.append(cells)
    return table(rows)


def unguided(name: str, nfe: int) -> str:
    """A mark for a shortcut model at the finest step: the guidance baked into it begins with the first doubling."""
    return r"\*" if nfe == 128 and name.startswith("shortcut") else ""


def change_cell(change: pd.Series) -> str:
    """A change in percent with half of its 95 % interval, in bold if Holm's correction leaves it."""
    text = f"{100 * (change.ratio - 1):+.0f} ± {50 * (change.high - change.low):.0f} %"
    text = text.replace("-", "\N{MINUS SIGN}").replace(" ", THIN)
    return f"**{text}**" if change.holm < 0.05 else text


def paper_fid() -> list[str]:
    """The paper's FID on ImageNet-256, with a row for ours."""
    return tables.paper_tables([], {}).splitlines()


def paper_ladder() -> Iterator[str]:
    """The paper's ablation, and our ladder of the same rungs on small data: distances and changes side by side."""
    means = paper_sweep("power-clothes").groupby(["variant", "nfe"]).frechet.mean()
    for i, nfe in enumerate((1, 4)):
        rows = [["step", "paper, FID-50K", "change", "ours, Fréchet distance", "change"]]
        for before, name in pairwise([None, *tables.PAPER]):
            figures = tables.PAPER[name]
            cells = [f"{RUNGS[name]} (`{name}`)"]
            pairs = [
                (figures[i], before and tables.PAPER[before][i]),
                (means[name, nfe], before and means[before, nfe]),
            ]
            for figure, start in pairs:
                change = f"{100 * (figure / start - 1):+.0f}{THIN}%" if start else ""
                cells += [f"{figure:.2f}", change.replace("-", "\N{MINUS SIGN}")]
            rows.append(cells)
        yield from [f"### {nfe} NFE", "", *table(rows), ""]


def paper_settings() -> Iterator[str]:
    """The paper's tables of one setting each, and ours."""
    means = paper_sweep("sensitivity").groupby(["variant", "nfe"]).frechet.mean()
    for title, figures in tables.PAPER_SETTINGS.items():
        rows = [[title, "paper, 1 NFE", "ours, 1 NFE", "paper, 4 NFE", "ours, 4 NFE"]]
        for variant in dict.fromkeys([*figures, *(name for name, _ in means.index if name.startswith(title))]):
            cells = [variant.removeprefix(title).strip()]
            for nfe in (1, 4):
                found = figures.get(variant, {}).get(nfe)
                mine = means.get((variant, nfe))
                cells += [
                    "not stated" if found is None else f"{found:.2f}",
                    "not run" if mine is None else f"{mine:.2f}",
                ]
            rows.append(cells)
        yield from [f"### {title}", "", *table(rows), ""]


def paper_512() -> list[str]:
    """The paper's table at 512 pixels."""
    rows = [["FlowDCN, 512 pixels", "FID", "precision", "recall", "ours"]]
    for (method, nfe), figures in tables.PAPER_512.items():
        rows.append([f"{method}, {nfe} NFE", *(f"{figure:.2f}" for figure in figures), tables.NOT_RUN])
    return table(rows)


def paper_protocol() -> list[str]:
    """How our figures beside the paper's were measured, from the tables of the sweeps."""
    lines = []
    for name in ("power-clothes", "sensitivity"):
        best = paper_sweep(name)
        measured = [f"{best.seed.nunique()} seeds", f"{best.n.min()} samples", f"{best.steps.max()} optimiser steps"]
        measured += [f"{column} {', '.join(sorted(best[column].unique()))}" for column in ("device", "torch")]
        lines.append(f"- `{name}`: {', '.join(measured)}.")
    return lines


def paper_sweep(name: str) -> pd.DataFrame:
    """The scores of a sweep beside the paper's, each variant at its best strength.

    Those of the ladder were chosen on other samples; of the sensitivities there are no others.
    """
    if name == "power-clothes":
        return ladder.reported(sweep.read_table(FOLDER / "power-clothes.parquet"))
    frame = sweep.read_table(FOLDER / "ladder.parquet")
    return sweep.at_best(frame[frame["sweep"] == name], "frechet")


def status_table() -> list[str]:
    """How each committed notebook was run: what it and its rows in the ledger record, and the history of its file."""
    run = ["time", "day", "Python", "torch", "ismkit"]
    rows = [["#", "notebook", "profile", *run, "rows in the ledger", "on fresh seeds", "their torch", "last change"]]
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        number, title = notebook.cells[0].source.splitlines()[0][2:].split(" ", 1)
        parameters = next(cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
        profile = re.search(r'^profile = "(\w+)"', parameters, re.MULTILINE)
        refreshed = notebook.metadata.get(REFRESHED, {})
        seconds = refreshed.get("seconds")
        tested = BOOK / "ledger" / f"{number}.json"
        entries = ledger.read(tested) if tested.is_file() else []
        run_on = (f"{row.profile}, {ledger.computed_by(row)}, {max(len(row.seeds), 1)} seeds" for row in entries)
        measured = Counter(run_on)
        cells = [profile and profile[1]]
        cells += [None if seconds is None else f"{seconds // 60} min {seconds % 60:02d} s".replace(" ", THIN)]
        cells += [unbroken(refreshed.get("day")), *(refreshed.get(name) for name in ("python", "torch", "ismkit"))]
        cells += ["; ".join(f"{count} ({how})" for how, count in measured.items()) if measured else "none"]
        fresh = Counter(words.partition(" on ")[0] for words in map(ledger.on_fresh_seeds, entries) if words)
        cells += ["; ".join(f"{count} {words}" for words, count in fresh.items()) if fresh else "none"]
        cells += [", ".join(sorted({row.torch for row in entries})), last_change(path)]
        rows.append([number, f"[{title}](notebooks/{path.name})", *(cell or NOT_RECORDED for cell in cells)])
    return table(rows)


def built_with() -> list[str]:
    """The versions that this book was built with."""
    names = ("ismkit", "torch", "sphinx", "myst-nb", "sphinx-book-theme")
    versions = ", ".join(f"{name} {version(name) if name != 'ismkit' else __version__}" for name in names)
    return [f"This book was built with {versions}, on Python {platform.python_version()}."]


def last_change(path: Path) -> str | None:
    """The day of the last commit that changed a file; none outside of a complete copy of the repository."""
    if not shutil.which("git"):
        return None
    git = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    if git(["git", "rev-parse", "--is-shallow-repository"]).stdout.strip() != "false":
        return None
    day = git(["git", "log", "-1", "--format=%cs", "--", str(path)]).stdout.strip()
    return unbroken(day)


def unbroken(day: str | None) -> str | None:
    """A day that stays on one line; none for an empty one."""
    return day.replace("-", "\N{NON-BREAKING HYPHEN}") if day else None


def sweeps_tables() -> Iterator[str]:
    """The tables behind notebook 08: mean and deviation over the seeds of each sweep, read from its Parquet file."""
    frame = sweep.read_table(FOLDER / "ladder.parquet")
    for name, plan in ladder.SWEEPS.items():
        part = frame[frame["sweep"] == name]
        part = part[part.n == part.n.min()]
        if part.empty:
            continue
        where = [f"seeds: {part.seed.nunique()}", f"samples: {part.n.min()}"]
        where += [f"{column}: {', '.join(part[column].unique())}" for column in ("device", "torch")]
        yield from [f"### {name}", "", f"{plan.about[0].upper()}{plan.about[1:]}. {'; '.join(where)}.", ""]
        shown = {"each variant at its best w": sweep.at_best(part, "frechet").assign(w=0.0)}
        shown |= {f"w = {w:g}": part[part.w == w] for w in sorted(part.w.unique())}
        for where, frame_there in shown.items():
            text = sweep.summary(frame_there, "frechet").droplevel("w", axis=1)
            rows = [["variant", *(f"{nfe} NFE" for nfe in text)]]
            rows += [[variant, *cells] for variant, cells in zip(text.index, text.to_numpy(), strict=True)]
            lines = (line.replace(" ± ", f"{THIN}±{THIN}") for line in table(rows))
            title = f"Frechet distance, {where}"
            if frame_there.w.eq(0).all():
                yield from [title, "", *lines, ""]
            else:  # folded: the page would be as long as a notebook
                yield from [f"<details><summary>{title}</summary>", "", *lines, "", "</details>", ""]


def league_tables(metric: str) -> Iterator[str]:
    """Every method of the leagues of points (`w2`) or of pictures (`frechet`), by division, beside `ism`."""
    for path in sorted(FOLDER.glob("league-*.parquet")):
        frame = sweep.read_table(path)
        if "tuning" not in {*frame.get("stage", ())} or metric not in frame or frame[metric].isna().any():
            continue  # no league, or one of another score
        for (name, division), part in frame[frame.stage == "league"].groupby(["league", "division"], sort=False):
            where = f"{name}, noise and data {division}"
            if part.w.eq(0).all():
                yield from [f"### {where}", "", *table(league_rows(part, metric)), ""]
                continue
            reported = part[part.noise == part.noise.max()]
            plain, best = reported[reported.w == 0], sweep.at_best(part, metric, (0, 1))
            for title, shown in (("unguided", plain), ("each at its best strength", best)):
                yield from [f"### {where}: {title}", "", *table(league_rows(shown, metric)), ""]


def league_rows(part: pd.DataFrame, metric: str) -> list[list[str]]:
    """The rows of one table of the league, the lowest score at one call first."""
    means = part.groupby(["variant", "nfe"])[metric].mean()
    found = sweep.against(part[part.nfe == 1], "ism", metric)
    tuned = part.groupby("variant").change.first()
    calls = sorted(int(nfe) for nfe in part.nfe.unique())
    rows = [["method", "tuned", *(f"{nfe} call" + "s" * (nfe > 1) for nfe in calls), "over `ism`, 1 call", "Holm"]]
    for variant in means.xs(1, level="nfe").sort_values().index:
        cells = [f"{means[variant, nfe]:#.3g}" if (variant, nfe) in means else "" for nfe in calls]
        row = found.loc[variant] if variant in found.index else None
        compared = (
            ["", ""] if row is None else [f"{row.ratio:.2f} ({row.low:.2f} to {row.high:.2f})", f"{row.holm:.3f}"]
        )
        rows.append([variant, tuned[variant], *cells, *compared])
    return rows


#: What tables of the league call by its origin; a test holds that they are one recipe.
RAISED = {"variant": {"ism_plus raised": "meanflow_plus"}}


def raised_tables() -> Iterator[str]:
    """What was tried to raise `ism_plus`, in two rounds, and the best of it beside the league's over fresh seeds."""
    frame = sweep.read_table(FOLDER / "league-raised.parquet")
    rounds, played = frame[frame.stage != "league"], frame[frame.stage == "league"]
    named = played.replace(RAISED)
    plain = named[(named.noise == named.noise.max()) & (named.w == 0)]
    for title, shown in (("unguided", plain), ("each at its best strength", sweep.at_best(named, "frechet", (0, 1)))):
        yield from [f"### {title}", "", *table(raised_rows(shown)), ""]
    best = rounds.groupby(["stage", "change", "nfe"], sort=False).frechet.min().unstack()
    best["mean"] = (best[1] * best[2]) ** 0.5
    rows = [["round", "change", "1 call", "2 calls", "geometric mean"]]
    for (stage, change), row in best.sort_values("mean").iterrows():
        rows.append([stage, change, *(f"{row[column]:#.3g}" for column in (1, 2, "mean"))])
    title = "Everything that was tried, one training each at half of the length, at the better strength of 0 and 1"
    yield from [f"<details><summary>{title}</summary>", "", *table(rows), "", "</details>", ""]


def again_table(name: str) -> list[str]:
    """What `ism_plus` was raised to, trained again beside two others: each at its best strength."""
    named = sweep.read_table(FOLDER / f"league-{name}.parquet").replace(RAISED)
    return table(raised_rows(sweep.at_best(named, "frechet", (0, 1))))


def raised_rows(shown: pd.DataFrame) -> list[list[str]]:
    """The rows of one table: means, and the first method's ratio to each at one call and at two."""
    means = shown.groupby(["variant", "nfe"]).frechet.mean().unstack()
    calls = [f"{nfe} call" + "s" * (nfe > 1) for nfe in means]
    rows = [["method", *calls, "`meanflow_plus` over it, 1 call", "the same, 2 calls"]]
    for variant, row in means.sort_values(1).iterrows():
        cells = [""] * 2
        if variant != "meanflow_plus":
            found = [sweep.against(shown[shown.nfe == nfe], variant, "frechet").loc["meanflow_plus"] for nfe in (1, 2)]
            cells = [f"{one.ratio:.2f} ({one.low:.2f} to {one.high:.2f})" for one in found]
        rows.append([variant, *(f"{value:#.3g}" for value in row), *cells])
    return rows


def reasons_table() -> list[str]:
    """What was tried of the method that is behind at one call, beside the leagues': each seed, lowest first."""
    longer = sweep.read_table(FOLDER / "league-reasons.parquet")
    rows = [["points", "method", "$W_2$ at one call, each seed", "over `ism`"]]
    for name in ("checkerboard", "gaussians"):
        league = sweep.read_table(FOLDER / f"league-{name}.parquet")
        league = league[(league.stage == "league") & league.variant.isin(["ism", "ect", "tcm"])]
        points = league.league.iloc[0]
        if (tried := longer[longer.league == points]).empty:
            continue
        shown = pd.concat([league, tried])
        shown = shown[shown.nfe == 1]
        found = sweep.against(shown, "ism", "w2")
        for variant, part in shown.groupby("variant", sort=False):
            row = found.loc[variant] if variant in found.index else None
            over = "" if row is None else f"{row.ratio:.2f} ({row.low:.2f} to {row.high:.2f})"
            rows.append([points, variant, ", ".join(f"{value:.2f}" for value in sorted(part.w2)), over])
    return table(rows)


def couplings_table() -> list[str]:
    """What each way to couple a pool of many classes saves and leaks."""
    with (FOLDER / "pools.csv").open() as file:
        return table(csv.reader(file))


def pools_table() -> list[str]:
    """Networks trained with each way to couple a pool of many classes."""
    results = studies.read("pools")
    measures = [f"{what}, {nfe} NFE, w = {w}" for what in ("frechet", "agreement") for nfe in (1, 4) for w in (0, 1)]
    rows = [["noise", "seeds", "loss", *measures]]
    for name in dict.fromkeys(result["variant"] for result in results):
        values = [studies.column(results, name, key) for key in ("loss", *measures)]
        rows.append([name, str(len(values[0])), *(f"{value.mean().item():.3g}" for value in values)])
    return table(rows)


def drawing() -> list[str]:
    """The rooms and what imports what, drawn from the imports."""
    picture = architecture.drawing(ROOMS, architecture.arrows())
    return ["```{raw} html", '<div class="architecture">', picture, "</div>", "```"]


def rooms_tables() -> Iterator[str]:
    """The rooms from the ground up, and the files of each with the first sentence of its docstring."""
    for room in ROOMS:
        yield from [f"### {room}", "", sentence(PACKAGE / room / "__init__.py"), ""]
        rows = [["file", "purpose"]]
        for page, name in api_modules(room):
            file = ROOT / f"{name.replace('.', '/')}.py"
            rows.append([f"{{doc}}`{file.stem} <{page}>`", sentence(file)])
        yield from [*table(rows), ""]


def solutions_page() -> Iterator[str]:
    """The solution of every exercise, notebook by notebook."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        for i, (stub, solution) in enumerate(solutions(notebook)):
            if i == 0:
                title = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
                yield from [f"## {title}", "", f"[The notebook](notebooks/{path.name})", ""]
            name = re.search(r'\b(?:exercise|check)\("([^"]+)"', stub.source)
            number = name[1] if name else f"{title.split()[0]}.{i + 1}"
            heading = "Your own file" if number.endswith(".your") else f"Exercise {number}"
            yield from [f"### {heading}", "", "<details><summary>Solution</summary>", ""]
            yield from ["```python", solution.rstrip(), "```", "", "</details>", ""]


def hours() -> list[str]:
    """The plan of the course, its cells as links to their notebooks."""
    return list(course.plan(course.Shown(), course.hours(), notebook_link))


def misconceptions() -> list[str]:
    """What students often believe, with links to the notebooks that refute it."""
    return course.misconceptions(course.Shown(), course.hours(), notebook_link)


def notebook_link(name: str, path: Path) -> str:
    """A link to the page of a notebook."""
    return f"[{name}](notebooks/{path.name})"


def explorable(path: Path) -> str:
    """The text of an explorable figure, with the block that its module fills; its sentence stays without JavaScript."""
    lack = "This figure needs JavaScript. The figures of the notebook show the same."
    block = f'<div class="explorable" data-explore="{path.stem[3:]}"><p>{lack}</p></div>'
    return path.read_text().replace("<!-- figure -->", f"```{{raw}} html\n{block}\n```")


def explorables() -> Iterator[str]:
    """Every explorable figure, with the notebook that it belongs to."""
    for path in sorted(EXPLORABLES.glob("*.md")):
        (notebook,) = NOTEBOOKS.glob(f"{path.stem[:2]}_*.ipynb")
        title = nbformat.read(notebook, as_version=4).cells[0].source.splitlines()[0].removeprefix("# ")
        yield from [explorable(path), f"Notebook: [{title}](notebooks/{notebook.name}).", ""]


def api_page() -> Iterator[str]:
    """Every module, room by room, with its public names."""
    yield from ["# Modules", "", "The rooms from the ground up; {doc}`architecture` says what each file is for.", ""]
    for room in ROOMS:
        rows = [["module", "what it defines"]]
        for page, name in api_modules(room):
            names = [
                f"{{py:obj}}`~{name}.{defined}`" for defined in public_names(PACKAGE / room / f"{Path(page).name}.py")
            ]
            rows.append([f"{{doc}}`{Path(page).name} <{page}>`", ", ".join(names)])
        pages = [page for page, _ in api_modules(room)]
        yield from [f"## {room}", "", *table(rows), "", "```{toctree}", ":hidden:", "", *pages, "```", ""]


def public_names(path: Path) -> list[str]:
    """The functions and classes that a module's page describes."""
    defined = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    return [node.name for node in defined if not node.name.startswith("_")]


def api_modules(*rooms: str) -> list[tuple[str, str]]:
    """Page and name of every module of some rooms, by default all: ``api/method/path`` and ``ismkit.method.path``."""
    files = [path for room in rooms or ROOMS for path in sorted((PACKAGE / room).glob("[!_]*.py"))]
    return [(f"api/{path.parent.name}/{path.stem}", f"ismkit.{path.parent.name}.{path.stem}") for path in files]


def sentence(path: Path) -> str:
    """The first paragraph of a module's docstring, names in it as code."""
    first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0]
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", " ".join(first.split()))


#: What the comments in the pages stand for.
MADE: dict[str, Callable[[], Iterable[str]]] = {
    "samples": samples_image,
    "notebooks": notebooks_table,
    "targets": targets_table,
    "address": address,
    "claims": claims_table,
    "headlines": headlines,
    "words": claim_words,
    **{f"ladder of {space}": partial(ladder_table, space) for space in ("clothes", "emoji")},
    **{f"shortcut models of {space} with two calls": partial(twice_table, space) for space in ("clothes", "emoji")},
    "sweeps": sweeps_tables,
    "league": partial(league_tables, "w2"),
    "league of clothes": partial(league_tables, "frechet"),
    "raised": raised_tables,
    "replicated": partial(again_table, "replicated"),
    "raised on emoji": partial(again_table, "emoji"),
    "reasons": reasons_table,
    "paper_fid": paper_fid,
    "paper_ladder": paper_ladder,
    "paper_settings": paper_settings,
    "paper_512": paper_512,
    "paper_protocol": paper_protocol,
    "status": status_table,
    "built": built_with,
    "couplings": couplings_table,
    "pools": pools_table,
    "drawing": drawing,
    "rooms": rooms_tables,
    "explorables": explorables,
    "decks": decks,
    "hours": hours,
    "misconceptions": misconceptions,
    "compounding": live.compounding,
    "recorded": live.recorded,
}


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1]) if len(sys.argv) > 1 else BOOK / "_build"))
