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

from ismkit import ladder, ledger, studies, sweep
from ismkit.notebooks import NOTEBOOKS, solutions
from ismkit.studies import FOLDER

BOOK = Path(__file__).resolve().parent
ROOT = BOOK.parent

#: The parts of the book: a caption, and the numbers of its notebooks or the names of its pages.
PARTS = {
    "Start": ["00"],
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
    shutil.copy(BOOK / "failures.md", source)
    shutil.copy(ROOT / "tests" / "bench" / "RESULTS.md", source / "timings.md")
    (source / "ledger.md").write_text("\n".join(ledger_page()))
    (source / "sweeps.md").write_text("\n".join(sweeps_page()))
    (source / "pools.md").write_text(pools_page())
    if answers := list(solutions_page()):
        (source / "solutions.md").write_text("\n".join(["# Solutions of the exercises", "", *answers]))
    modules = sorted(path for path in (ROOT / "ismkit").glob("*.py") if not path.stem.startswith("_"))
    (source / "api.md").write_text("\n".join(api_page(modules)))
    (source / "api").mkdir()
    for path in modules:
        title = f"ismkit.{path.stem}"
        lines = [title, "=" * len(title), "", f".. automodule:: {title}", "   :members:"]
        (source / "api" / f"{path.stem}.rst").write_text("\n".join(lines) + "\n")
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
    tested = {row.claim for row in ledger.book_rows()}
    yield from ["# Every claim and its cell", "", (BOOK / "ledger.md").read_text()]
    columns = ["statement", "source", "verdict", "want", "measured", "spread", "seeds"]
    yield from ["| claim | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for entry in ledger.table(ledger.book_rows()):
        claim = entry["claim"]
        cells = [f"{{ref}}`{claim} <{anchor(claim)}>`" if claim in tested else claim]
        cells += [re.sub(r"([|$\\])", r"\\\1", str(entry[column])) for column in columns]
        yield "| " + " | ".join(cells) + " |"
    yield ""


def sweeps_page() -> Iterator[str]:
    """The tables behind notebook 08: mean and deviation over the seeds of each sweep, read from its Parquet file."""
    frame = sweep.read(FOLDER / "ladder.parquet")
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


def api_page(modules: list[Path]) -> Iterator[str]:
    """All modules with the first sentence of each, and the toctree of their pages."""
    yield from ["# The library", "", "| module | purpose |", "|---|---|"]
    for path in modules:
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        purpose = " ".join(docstring.partition("\n\n")[0].split())
        yield f"| {{doc}}`{path.stem} <api/{path.stem}>` | {purpose} |"
    yield from ["", "```{toctree}", ":hidden:", "", *(f"api/{path.stem}" for path in modules), "```", ""]


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1]) if len(sys.argv) > 1 else BOOK / "_build"))
