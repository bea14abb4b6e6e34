"""No text for readers has a phrase that CONTRIBUTING lists to avoid, as far as a pattern can tell."""

import ast
import re
from collections.abc import Iterator

import nbformat
import pytest

from ismkit.lessons.claims import CLAIMS
from tests.conftest import ROOT

#: Phrases of the list that are wrong in any sentence. Others depend on it: "held" is right of a lock.
AVOIDED = ("gone on with", "anew", "for ever", "in silence", "doomed", "is no function", "are no pairs", "one's own")
AVOIDED += ("in the place of", "the network of now", "nobody", "whoever", "ruins", "a per mille", "leads to a cell")


def texts() -> Iterator[tuple[str, str]]:
    """Where each text is, and the text: Markdown of pages and notebooks, docstrings, claims."""
    for folder in ("book", "docs", "ismkit"):
        for path in sorted((ROOT / folder).rglob("*.md")):
            place = path.relative_to(ROOT)
            if not any(part.startswith(("_", ".")) for part in place.parts):  # `make book` leaves copies
                yield str(place), path.read_text(encoding="utf-8")
    for name in ("README.md", "CHANGELOG.md"):
        yield name, (ROOT / name).read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        yield path.name, "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for path in sorted((ROOT / "ismkit").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'module')}", text
    yield from ((key, claim.statement) for key, claim in CLAIMS.items())


def pattern(phrase: str) -> str:
    """A phrase as whole words, in any letters, across lines, with either article and of any noun "of now"."""
    words = phrase.replace("the network of now", "of now").replace("to a cell", "to (?:a|the) cell")
    return r"(?i)\b" + words.replace(" ", r"\s+") + r"\b"


@pytest.mark.parametrize("phrase", AVOIDED)
def test_no_text_has_a_phrase_to_avoid(phrase: str) -> None:
    listed = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| instead of | write |")[2]
    assert phrase in listed, "what is refused here is listed there, with what to write"
    assert [where for where, text in texts() if re.search(pattern(phrase), text)] == []


@pytest.mark.parametrize(
    "text", ["The weights of\nnow.", "It leads to the cell.", "Nobody asks.", "a judge of one's own"]
)
def test_a_phrase_to_avoid_is_found(text: str) -> None:
    assert any(re.search(pattern(phrase), text) for phrase in AVOIDED)
