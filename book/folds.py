"""What the page of a notebook folds: long code, exercises, and the table of claims; a reader opens them on demand.

The notebooks are unchanged. ``details`` of HTML do the folding, so it works without JavaScript and by keyboard;
``_static/reading.js`` opens what a link leads to, everything before printing, and has a button for all of them.
"""

from __future__ import annotations

import ast
import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

#: A cell with more lines of code is folded; shorter ones, such as a call of the library, are read with the text.
LINES = 6
NUMBER = re.compile(r"(\d\d\w?\.(?:\d+|your))\b\.?")  # of an exercise
CHECK = re.compile(r'\bcheck\(\s*"(C\d\d\.\w+)"')


class Folded(nodes.General, nodes.Element):
    """What is shown after a click on its first child, a :class:`Summary`."""


class Summary(nodes.General, nodes.TextElement):
    """The line that stands for what is folded."""


def fold(app: Sphinx, doctree: nodes.document) -> None:
    """Fold the page of a notebook."""
    for cell in doctree.findall(nodes.container):
        if cell.get("nb_element") == "cell_code" and "tag_exercise" not in cell["classes"]:
            fold_code(cell)
    for section in list(doctree.findall(nodes.section)):
        if section[0].astext() in ("Exercises", "Your own file"):
            fold_exercises(section)
        elif section[0].astext() == "Claims tested here":
            for table in [part for part in section.children if isinstance(part, nodes.table)]:
                rows = sum(1 for _ in table.findall(nodes.row)) - 1  # one is the head
                name = Summary("", f"What each claim says, and what is tested ({rows} rows)")
                fold_parts(section, [table], name, "claims-and-tests")


def fold_code(cell: nodes.container) -> None:
    """Fold the code of a cell that is long, or that the notebook hides; what it shows stays."""
    code = cell[0].astext().rstrip()
    lines = code.count("\n") + 1
    if cell[0].get("nb_element") != "cell_code_source" or (lines <= LINES and not cell.get("hide_mode")):
        return
    cell["hide_mode"] = cell.get("hide_mode") or "input"
    cell["prompt_show"] = cell["prompt_hide"] = f"{what_code_does(cell, code)} ({lines} line{'s' * (lines > 1)})"


def what_code_does(cell: nodes.container, code: str) -> str:
    """A few words for the line above folded code: what it draws, defines or checks."""
    if any(True for _ in cell.findall(nodes.image)):
        return "Code of the figure"
    if all(line.startswith(("import ", "from ", " ", ")")) for line in code.splitlines() if line):
        return "Imports"
    names = [part.name for part in ast.parse(code).body if isinstance(part, ast.FunctionDef | ast.ClassDef)]
    if names:
        return f"Code: {', '.join(names)}"
    return "Code of a check" if CHECK.search(code) else "Code"


def fold_exercises(section: nodes.section) -> None:
    """Fold each exercise of a section with its hints, its check and its solution, below its name and level."""
    found: list[list[nodes.Node]] = []
    for part in section.children[1:]:
        if isinstance(part, nodes.paragraph) and NUMBER.match(part.astext()):
            found.append([])
        if found:  # what comes before the first is an introduction
            found[-1].append(part)
    for question, *rest in found:
        number = NUMBER.match(question.astext())[1].replace(".", "-")
        name, left = named(question)
        section.replace(question, left)
        fold_parts(section, [*left, *rest], name, f"exercise-{number}")


def named(question: nodes.paragraph) -> tuple[Summary, list[nodes.paragraph]]:
    """The name and the level of an exercise, and the rest of its paragraph: all is name if it has a number only."""
    parts = [part for part in question.children if part.astext()]
    if len(parts) < 4:
        raise ValueError(f"an exercise must begin like **03.1 Name** (*core*) Text, got {question.astext()[:80]!r}")
    name, _, level, more, *rest = parts
    if NUMBER.fullmatch(name.astext()):
        return Summary("", "", *question.children), []
    more = nodes.Text(re.sub(r"^[).]*\s+", "", more.astext()))
    return Summary("", "", name, nodes.Text(f" ({level.astext().strip('()')})")), [nodes.paragraph("", "", more, *rest)]


def fold_parts(section: nodes.section, parts: list[nodes.Node], name: Summary, anchor: str) -> None:
    """Put neighbouring parts of a section behind their name."""
    place = section.index(parts[0])
    for part in parts:
        section.remove(part)
    section.insert(place, Folded("", name, *parts, ids=[anchor]))


def open_folded(writer: HTML5Translator, node: Folded) -> None:
    """Begin it in HTML."""
    writer.body.append(writer.starttag(node, "details", CLASS="folded"))


def open_summary(writer: HTML5Translator, node: Summary) -> None:
    """Begin it in HTML."""
    writer.body.append(writer.starttag(node, "summary", ""))


def setup(app: Sphinx) -> None:
    """Teach Sphinx what is folded; :func:`fold` comes after the alternative texts of the figures."""
    app.add_node(Folded, html=(open_folded, lambda writer, _: writer.body.append("</details>\n")))
    app.add_node(Summary, html=(open_summary, lambda writer, _: writer.body.append("</summary>\n")))
    app.connect("doctree-read", fold)
