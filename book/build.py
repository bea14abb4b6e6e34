"""Build the book: ``python book/build.py [FOLDER]``, by default in ``book/_build``; its pages are in ``FOLDER/html``.

The sources are laid out in ``FOLDER/source``: the start page, the committed notebooks, and what is made from them, from
the ledger, the benchmarks and the modules. Notebooks that are not written yet are left out.
"""

from __future__ import annotations

import ast
import csv
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from conf import anchor
from sphinx.cmd.build import main as sphinx_build

import ismkit
from ismkit.lessons import ledger
from ismkit.lessons.notebooks import NOTEBOOKS, solutions
from ismkit.sweeps import ladder, studies, sweep
from ismkit.sweeps.studies import FOLDER

BOOK = Path(__file__).resolve().parent
ROOT = BOOK.parent
PACKAGE = ROOT / "ismkit"
#: The rooms of the library from the ground up, as its docstring lists them.
ROOMS = re.findall(r"^\* ``ismkit\.(\w+)``", ismkit.__doc__ or "", re.MULTILINE)

#: The parts of the book: a caption, and the numbers of its notebooks or the names of its pages.
PARTS = {
    "Start": ["installing", "00"],
    "Flows and shortcuts": ["01", "02"],
    "Guidance": ["03", "04"],
    "Frequency, paths, averages": ["05", "06", "07"],
    "Integration": ["08", "09"],
    "Full scale": ["10", "11", "12", "failures"],
    "Claims": ["13", "ledger"],
    "Reference": ["sweeps", "pools", "timings", "api", "solutions"],
}


def build(folder: Path) -> int:
    """Lay out the sources in ``folder/source`` and build ``folder/html``; returns Sphinx's exit status."""
    for made in ("source", "doctrees", "html"):  # anew each time: Sphinx does not repeat the warnings of an old page
        shutil.rmtree(folder / made, ignore_errors=True)
    source = folder / "source"
    lay_out(source)
    options = ["-n", "-W", "--keep-going", "-q", "-b", "html", "-c", str(BOOK), "-d", str(folder / "doctrees")]
    return sphinx_build([*options, str(source), str(folder / "html")])


def lay_out(source: Path) -> None:
    """Write every source of the book into an empty folder."""
    shutil.copytree(NOTEBOOKS, source / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(ROOT / "docs" / "samples.png", source)
    for name in ("installing.md", "failures.md"):
        shutil.copy(BOOK / name, source)
    shutil.copy(ROOT / "tests" / "bench" / "RESULTS.md", source / "timings.md")
    (source / "ledger.md").write_text("\n".join(ledger_page()))
    (source / "sweeps.md").write_text("\n".join(sweeps_page()))
    (source / "pools.md").write_text(pools_page())
    if answers := list(solutions_page()):
        (source / "solutions.md").write_text("\n".join(["# Solutions of the exercises", "", *answers]))
    (source / "api.md").write_text("\n".join(api_page()))
    for page, name in api_modules():
        path = source / f"{page}.rst"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([name, "=" * len(name), "", f".. automodule:: {name}", "   :members:"]) + "\n")
    start = (BOOK / "index.md").read_text()
    (source / "index.md").write_text(start + "\n" + "\n".join(contents(source)))


def contents(source: Path) -> Iterator[str]:
    """The table of contents: a hidden toctree for each part of which something is there."""
    for caption, names in PARTS.items():
        pages = [page for name in names for page in [*source.glob(f"{name}.md"), *source.glob(f"notebooks/{name}_*")]]
        if pages:
            entries = [str(page.relative_to(source).with_suffix("")) for page in pages]
            yield from ["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```", ""]


def ledger_page() -> Iterator[str]:
    """The ledger as a table; the name of a claim leads to the cell that tested it."""
    tested = {row.claim for row in ledger.book_entries()}
    yield from ["# Every claim and its cell", "", (BOOK / "ledger.md").read_text()]
    columns = ["statement", "source", "verdict", "want", "measured", "spread", "seeds"]
    yield from ["| claim | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for entry in ledger.table(ledger.book_entries()):
        claim = entry["claim"]
        cells = [f"{{ref}}`{claim} <{anchor(claim)}>`" if claim in tested else claim]
        cells += [re.sub(r"([|$\\])", r"\\\1", str(entry[column])) for column in columns]
        yield "| " + " | ".join(cells) + " |"
    yield ""


def sweeps_page() -> Iterator[str]:
    """The tables behind notebook 08: mean and deviation over the seeds of each sweep, read from its Parquet file."""
    frame = sweep.read_table(FOLDER / "ladder.parquet")
    yield from ["# The sweeps", "", (BOOK / "sweeps.md").read_text()]
    for name, plan in ladder.SWEEPS.items():
        part = frame[frame["sweep"] == name]
        part = part[part.n == part.n.min()]
        if part.empty:
            continue
        where = [f"seeds: {part.seed.nunique()}", f"samples: {part.n.min()}"]
        where += [f"{column}: {', '.join(part[column].unique())}" for column in ("device", "torch")]
        yield from [f"## {name}", "", f"{plan.about[0].upper()}{plan.about[1:]}. {'; '.join(where)}.", ""]
        shown = {"each variant at its best w": sweep.at_best(part, "frechet").assign(w=0.0)}
        shown |= {f"w = {w:g}": part[part.w == w] for w in sorted(part.w.unique())}
        for where, frame_there in shown.items():
            text = sweep.summary(frame_there, "frechet").droplevel("w", axis=1)
            rows = [["variant", *(f"{nfe} NFE" for nfe in text)], ["---"] * (len(text.columns) + 1)]
            rows += [[variant, *cells] for variant, cells in zip(text.index, text.to_numpy(), strict=True)]
            lines = (f"| {' | '.join(row)} |".replace(" ± ", "\u202f±\u202f") for row in rows)
            yield from [f"Frechet distance, {where}", "", *lines, ""]


def pools_page() -> str:
    """The study of pools of many classes: its text with the table of couplings and that of trained networks."""
    with (FOLDER / "pools.csv").open() as file:
        couplings = list(csv.reader(file))
    results = studies.read("pools")
    measures = [f"{what}, {nfe} NFE, w = {w}" for what in ("frechet", "agreement") for nfe in (1, 4) for w in (0, 1)]
    trained = [["noise", "seeds", "loss", *measures]]
    for name in dict.fromkeys(result["variant"] for result in results):
        values = [studies.column(results, name, key) for key in ("loss", *measures)]
        trained.append([name, str(len(values[0])), *(f"{value.mean().item():.3g}" for value in values)])

    def table(rows: list[list[str]]) -> str:
        cells = [[cell.replace("|", r"\|") for cell in row] for row in rows]
        lines = [cells[0], ["---"] * len(cells[0]), *cells[1:]]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    text = (BOOK / "pools.md").read_text()
    text = text.replace("<!-- table -->", table(couplings)).replace("<!-- training -->", table(trained))
    return f"# Pools of many classes\n\n{text}"


def solutions_page() -> Iterator[str]:
    """The solution of every exercise, notebook by notebook."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        for i, (stub, solution) in enumerate(solutions(notebook)):
            if i == 0:
                title = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
                yield from [f"## {title}", "", f"[The notebook](notebooks/{path.name})", ""]
            name = re.search(r'\bexercise\("([^"]+)"', stub.source)
            yield from [f"### Exercise {name[1] if name else i + 1}", "", "```python", solution.rstrip(), "```", ""]


def api_page() -> Iterator[str]:
    """The rooms from the ground up, the files of each with the first sentence of its docstring, and their toctree."""
    yield from ["# The library", ""]
    for room in ROOMS:
        yield from [f"## {room}", "", sentence(PACKAGE / room / "__init__.py"), "", "| file | purpose |", "|---|---|"]
        for page, name in api_modules():
            if name.startswith(f"ismkit.{room}."):
                file = PACKAGE.parent / f"{name.replace('.', '/')}.py"
                yield f"| {{doc}}`{file.stem} <{page}>` | {sentence(file)} |"
        yield ""
    yield from ["```{toctree}", ":hidden:", "", *(page for page, _ in api_modules()), "```", ""]


def api_modules() -> list[tuple[str, str]]:
    """Page and name of every module, room by room: ``api/method/path`` and ``ismkit.method.path``."""
    files = [path for room in ROOMS for path in sorted((PACKAGE / room).glob("[!_]*.py"))]
    return [(f"api/{path.parent.name}/{path.stem}", f"ismkit.{path.parent.name}.{path.stem}") for path in files]


def sentence(path: Path) -> str:
    """The first paragraph of a module's docstring."""
    return " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0].split())


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1]) if len(sys.argv) > 1 else BOOK / "_build"))
