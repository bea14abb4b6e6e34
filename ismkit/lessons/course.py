"""The instructor's pack: slides, plan, exam and notebooks without solutions, from the notebooks and ``book/course``.

``book/course`` has a Markdown file for each hour. Its second-level headings are six blocks of ten minutes,
misconceptions, and what follows the hour; third-level headings are slides. A slide shows what a notebook has committed:
``![](01#paths)`` alone on a line is the figure of the cell of notebook 01 that is tagged ``slide-paths``,
``![code](01#exact)`` its source (if the cell begins with a function, that alone), ``![output](01#mean)`` what it
printed. In a text, ``{01#paths}`` names the cell, and ``{01 "path: measured"}`` is the number after these words (…
stands for others) in what notebook 01 printed. Quoted lines are what the lecturer says; lines that begin with
``Small:`` are in small print below the slide. The example after a block's facts computes the numbers in bold, for the
tests only. ``plan.md`` comes before the hours.
"""

from __future__ import annotations

import ast
import base64
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mistune

from ismkit.lessons import notebooks
from ismkit.lessons.notebooks import PICTURED, SLIDES, NotebookError, picture_sum, solutions, solve
from ismkit.utils.files import CHECKOUT, expanded, replacing_folder

if TYPE_CHECKING:
    from nbformat import NotebookNode

#: The texts of the course, and the style and the script of its pages.
TEXTS = CHECKOUT / "book" / "course"
MINUTES = 10
FACTS = ("Show", "Students", "Answer", "Cells", "Ask")
#: What follows the blocks of an hour.
LAST = ("Misconceptions", "Afterwards")
#: A fold, with what is said of it afterwards: up to the next fold, question or heading.
FOLDED = re.compile(
    r"<details>\s*<summary>(.*?)</summary>.*?</details>\s*?(?:\n.*?)??(?=^<details>|^\*\*|^#|^[^\w\n]*\d+\.\d|\Z)",
    re.DOTALL | re.MULTILINE,
)
#: Notebook 00 says what is folded away below exercises.
SOLUTIONS_TOO = re.compile(r"Hints and a solution(?=\s+are folded)")
SHOWN = re.compile(r"^!\[(.*?)\]\((\w+#[\w-]+)\)\s*$", re.MULTILINE)
NAMED = re.compile(r"\{(\w+#[\w-]+)\}")
READ = re.compile(r'\{(\w+) "([^"]+)"\}')
#: A number as notebooks print it, alone and with its interval.
PLAIN = r"[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?"
NUMBER = rf"{PLAIN}(?: ± [\d.]+)?(?: ?%)?"
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n?", re.DOTALL | re.MULTILINE)
#: What :func:`ismkit.lessons.exercises.score_guess` prints for the committed notebooks, in which nothing was guessed.
UNGUESSED = re.compile(r"^.*: \w+ (\S+)\. No guess was made.*$\n?", re.MULTILINE)
#: The room for a figure on a slide, in pixels, with its text below the title and beside it; and a line of that text.
BELOW, BESIDE, LINE, LETTERS = (1236, 550), (630, 550), 38, 85
#: Panels of a figure can be seen one by one if each is at most this share wider than the others, and gains this much.
ALIKE, GAIN = 1.35, 1.3
#: Narrower parts, as a share of the figure, are no panels: labels of an axis, a scale of colours.
NARROW = 0.13
#: The width and height of a figure that fills a slide.
FILLED = (1256, 696)
#: How much larger than the text formulas are: their letters are small.
LARGER = 1.15
#: Makes the name of a cell, and the path of its notebook, a link.
Link = Callable[[str, Path], str]
#: Lines of code that are drawn large.
SHORT = 16


class CourseError(ValueError):
    """A text of the course that cannot be made into slides, or a folder that the pack cannot fill."""


@dataclass(frozen=True)
class Slide:
    """One slide: its title, what it shows in Markdown, what the lecturer says, and the small print below it."""

    title: str
    body: str
    notes: str
    small: str


@dataclass(frozen=True)
class Block:
    """Ten minutes: a title, a list of what is shown, done and asked in Markdown, the slides, and the tested example."""

    title: str
    facts: str
    slides: tuple[Slide, ...]
    example: str


@dataclass(frozen=True)
class Hour:
    """One session: its number and title, what students learn, six blocks, misconceptions, and what follows it."""

    number: int
    title: str
    goal: str
    blocks: tuple[Block, ...]
    misconceptions: str
    afterwards: str


@dataclass(frozen=True)
class Question:
    """One question of the exam, with its level, its points and its answer in Markdown."""

    title: str
    level: str
    points: int
    text: str
    answer: str


def make_course(out: str | os.PathLike[str]) -> Path:
    """Make the instructor's pack in a new folder, from the committed notebooks of a clone.

    It has a start page, six decks of slides that need no network, the plan, the exam, the notebooks without solutions
    (``students``), and the answers and solved notebooks (``lecturer``).

    Args:
        out: the folder; it must be missing or empty, and is unchanged if the pack cannot be completed.

    Returns:
        The folder.

    Raises:
        CourseError: if the folder is not empty or is a file, or a text refers to what no notebook shows.
        NotebookError: outside of a clone, or if an exercise has no solution.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ismkit.lessons import make_course
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pack = make_course(Path(folder) / "course")
        ...     sorted(path.name for path in pack.iterdir())
        ['exam.html', 'index.html', 'lecturer', 'plan.html', 'slides', 'students']
    """
    out = expanded(out)
    if not out.name or out.is_symlink() or (out.exists() and not out.is_dir()):
        raise CourseError(f"{str(out)!r} is not a folder: name a new one")
    if out.is_dir() and any(out.iterdir()):
        raise CourseError(f"{out} is not empty: name a new folder, or remove what is in it")
    pages = dict(_pages(hours(), questions(), Shown()))
    made = dict(_notebooks())
    with replacing_folder(out) as partial:
        for name, text in (pages | made).items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return out


def hours() -> list[Hour]:
    """The sessions, read from ``book/course``; raises CourseError if one does not have six blocks of ten minutes."""
    return [_hour(path) for path in sorted(TEXTS.glob("[0-9]_*.md"))]


def _hour(path: Path) -> Hour:
    head, *parts = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    title, _, goal = head.removeprefix("# ").partition("\n")
    titles = [part.partition("\n")[0] for part in parts]
    if len(parts) != 8 or tuple(titles[6:]) != LAST:
        raise CourseError(f"{path.name} must have six blocks, then {' and '.join(LAST)}, got: {', '.join(titles)}")
    blocks = tuple(_block(part, path.name) for part in parts[:6])
    last = [part.partition("\n")[2].strip() for part in parts[6:]]
    return Hour(int(path.name[0]), title, goal.strip(), blocks, *last)


def _block(text: str, where: str) -> Block:
    head, *slides = re.split(r"^### ", text, flags=re.MULTILINE)
    title, _, facts = head.partition("\n")
    if missing := [fact for fact in FACTS if f"- **{fact}:** " not in facts]:
        raise CourseError(f"block {title!r} of {where} must say {', '.join(FACTS)}, lacks {', '.join(missing)}")
    example = "".join(EXAMPLE.findall(facts))
    return Block(title, EXAMPLE.sub("", facts).strip(), tuple(_slide(slide) for slide in slides), example)


def _slide(text: str) -> Slide:
    title, _, rest = text.partition("\n")
    lines = rest.strip().splitlines()
    notes = " ".join(line.removeprefix(">").strip() for line in lines if line.startswith(">"))
    small = " ".join(line.removeprefix("Small:").strip() for line in lines if line.startswith("Small:"))
    body = "\n".join(line for line in lines if not line.startswith((">", "Small:"))).strip()
    return Slide(title, body, notes, small)


def questions() -> list[Question]:
    """The exam, read from ``book/course/exam.md``: ``## Title (level, N points)``, question, answer."""
    found = []
    for part in re.split(r"^## ", (TEXTS / "exam.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        head, _, rest = part.partition("\n")
        text, _, answer = rest.partition("**Answer.**")
        if not (match := re.fullmatch(r"(.*) \((warm-up|core|stretch), (\d+) points?\)", head)) or not answer.strip():
            raise CourseError(f"question {head!r} of exam.md must be '## Title (core, 3 points)' with an **Answer.**")
        found.append(Question(match[1], match[2], int(match[3]), text.strip(), answer.strip()))
    return found


class Shown:
    """What the committed notebooks show, by the tags of their cells."""

    def __init__(self) -> None:
        import nbformat

        paths = sorted(notebooks.NOTEBOOKS.glob("*.ipynb"))
        if not paths:
            raise NotebookError(f"there are no notebooks in {notebooks.NOTEBOOKS}: work in a clone of the repository")
        self.paths = {path.stem.partition("_")[0]: path for path in paths}
        self._notebooks = {number: nbformat.read(path, as_version=4) for number, path in self.paths.items()}

    def cell(self, reference: str, where: str) -> NotebookNode:
        """The code cell that ``01#paths`` names; raises CourseError with the place that asks unless there is one."""
        number, _, name = reference.partition("#")
        cells = self._notebooks[number].cells if number in self._notebooks else []
        found = [cell for cell in cells if f"slide-{name}" in cell.metadata.get("tags", [])]
        if len(found) != 1:
            raise CourseError(
                f"{where} refers to {reference}, but {len(found)} cells of notebook {number} have the tag "
                f"slide-{name}, must be one: tag it"
            )
        return found[0]

    def named(self, text: str, where: str, link: Link | None = None) -> str:
        """A text with its numbers read, and ``{01#paths}`` as ``01 [9]``, the cell's count, by default not a link."""

        def name(match: re.Match[str]) -> str:
            number = match[1].partition("#")[0]
            cell = f"{number} [{self.cell(match[1], where).execution_count}]"
            return cell if link is None else link(cell, self.paths[number])

        return NAMED.sub(name, READ.sub(lambda match: self.number(match[1], match[2], where), text))

    def number(self, notebook: str, words: str, where: str) -> str:
        """The number that follows the words in what a notebook printed; raises CourseError unless it is there once."""
        printed = [
            output.get("text") or output.get("data", {}).get("text/plain", "")
            for cell in (self._notebooks[notebook].cells if notebook in self._notebooks else [])
            for output in cell.get("outputs", [])
        ]
        text = " ".join("\n".join(printed).replace("±", " ± ").split())
        sought = re.escape(words).replace("…", ".*?")
        found = re.findall(rf"(?<!\w){sought} ?({NUMBER})", text)
        if len(found) != 1:
            raise CourseError(
                f"{where} reads the number after {words!r}, but notebook {notebook} printed {len(found)} such numbers, "
                "must be one"
            )
        return f"{float(found[0]):.1e}" if "e" in found[0] else str(found[0])

    def figure(self, reference: str, where: str) -> tuple[str, float]:
        """The figure of a cell as HTML, as SVG if there is one, and its width over its height."""
        for output in self.cell(reference, where).get("outputs", []):
            if (content := output.get("data", {}).get("image/png")) is None:
                continue
            about, kind, data = output.metadata.get("image/png", {}), "image/png", "".join(content.split())
            png = base64.b64decode(content)
            try:  # rows of pictures belong together
                boxes = [(0.0, 0.0, 1.0, 1.0)] if about.get("pictures") else panels(png)
            except OSError as error:
                raise CourseError(f"{where} shows the figure of {reference}, which is damaged: {error}") from error
            number, _, name = reference.partition("#")
            drawing = self.paths[number].parent / SLIDES / f"{number}-{name}.svg"
            if drawing.is_file():
                svg = drawing.read_text(encoding="utf-8")
                if not svg.startswith(mark := PICTURED.format(picture_sum(content))):
                    raise CourseError(f"{drawing} is not of the figure that {reference} has now: refresh the notebook")
                kind, data = "image/svg+xml", base64.b64encode(svg.removeprefix(mark).encode()).decode()
            attributes = f'alt="{escape(about.get("alt", ""))}" data-panels="{[list(box) for box in boxes]}"'
            # Each picture is a document of its own: names within one drawing do not meet those of another.
            return f'<img {attributes} src="data:{kind};base64,{data}">', _shape(png)
        raise CourseError(f"{where} shows the figure of {reference}, but that cell has none: run the notebook")

    def output(self, reference: str, where: str) -> str:
        """What a cell printed, without the answer to a guess that was not made."""
        outputs = self.cell(reference, where).get("outputs", [])
        printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
        if not (text := UNGUESSED.sub("", printed).strip()):
            raise CourseError(f"{where} shows the output of {reference}, but that cell printed nothing")
        return text


def _shape(png: bytes) -> float:
    """Width over height of a picture."""
    return int.from_bytes(png[16:20], "big") / int.from_bytes(png[20:24], "big")


def panels(png: bytes) -> list[tuple[float, float, float, float]]:
    """The panels of a figure: left, top, width and height of each, as shares of the picture.

    Blank columns separate them, if need be below a common title. The result is one box, the complete figure, if these
    parts differ in width, as with row names to the left of the first, or would not be much larger alone.
    """
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        colours = np.asarray(picture.convert("RGB"), dtype=np.int16)
    ink = (np.abs(colours - colours[0, 0]) > 8).any(2)
    height, width = ink.shape
    whole = [(0.0, 0.0, 1.0, 1.0)]
    if not ink.any():
        return whole
    lines = [(start, end) if end - start < height / 10 else (0, 0) for start, end in _runs(ink.any(1))]
    if np.ptp(colours[slice(*lines[-1])], axis=2).max(initial=0) > 40:
        return whole  # coloured keys below all panels are their legend
    top = lines[0][1]
    parts = _parts(ink[top:])
    apart = [
        ink[:top, max(end - width // 100, 0) : start + width // 100].any() for (_, end), (start, _) in pairwise(parts)
    ]
    if not any(apart):  # no title of all, but one of each
        top = 0
    sizes = [end - start for start, end in parts]
    if len(parts) < 2 or max(sizes) > ALIKE * min(sizes):
        return whole
    rows = ink[top:].any(1).nonzero()[0]
    first, high = top + int(rows[0]), int(rows[-1] - rows[0]) + 1
    drawn = ink[first : first + high]
    if any(drawn[:, start:end].mean(0).max() < 0.5 for start, end in parts):
        return whole  # one has no axis: names of the rows of the next
    alone, together = (min(FILLED[0] / wide, FILLED[1] / tall) for wide, tall in ((max(sizes), high), (width, height)))
    if alone < GAIN * together:
        return whole
    shares = [(start / width, first / height, (end - start) / width, high / height) for start, end in parts]
    return [(round(a, 4), round(b, 4), round(c, 4), round(d, 4)) for a, b, c, d in shares]


def _parts(ink: Any) -> list[tuple[int, int]]:
    """Start and end of the parts between blank columns; a narrow one joins what is nearest."""
    width = ink.shape[1]
    parts = _runs(ink.any(0))
    while len(parts) > 1 and min(end - start for start, end in parts) < NARROW * width:
        i = min(range(len(parts)), key=lambda i: parts[i][1] - parts[i][0])
        before = parts[i][0] - parts[i - 1][1] if i else width
        after = parts[i + 1][0] - parts[i][1] if i + 1 < len(parts) else width
        j = i - 1 if before < after else i
        parts[j : j + 2] = [(parts[j][0], parts[j + 1][1])]
    return parts


def _runs(flags: Any) -> list[tuple[int, int]]:
    """Start and end of each run of true in a row of flags."""
    import numpy as np

    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


# ---------------------------------------------------------------- pages


def _pages(sessions: list[Hour], asked: list[Question], shown: Shown) -> Iterator[tuple[str, str]]:
    """Every page of the pack, by its name."""
    style, script = ((TEXTS / f"deck.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    decks = []
    for hour in sessions:
        slides = list(_deck(hour, shown))
        decks.append(f"- [Hour {hour.number}: {hour.title}](slides/{hour.number}.html): {len(slides)} slides")
        yield f"slides/{hour.number}.html", _page(f"{hour.number} {hour.title}", "".join(slides), style, "deck", script)
    texts = {
        "index.html": ("A course on shortcut models", start_page(decks)),
        "plan.html": ("The plan", "\n".join(["# The plan", "", *plan(shown, sessions), *_traps(sessions, shown)])),
        "exam.html": ("Exam", "\n".join(exam(asked, answers=False))),
        "lecturer/answers.html": ("Answers to the exam", "\n".join(exam(asked, answers=True))),
    }
    for name, (title, text) in texts.items():
        yield name, _page(title, html(text, name), style, "document")


def start_page(decks: Iterable[str]) -> str:
    """What is in the pack, in Markdown."""
    return "\n".join([(TEXTS / "start.md").read_text(encoding="utf-8").replace("<!-- decks -->", "\n".join(decks))])


def plan(shown: Shown, sessions: Iterable[Hour], link: Link | None = None) -> Iterator[str]:
    """The plan of the sessions in Markdown, ten minutes by ten minutes, with what the lecturer says.

    With links, for the book, the blocks of an hour are folded away: the page would be too long otherwise.
    """
    yield from [(TEXTS / "plan.md").read_text(encoding="utf-8"), ""]
    for hour in sessions:
        yield from [f"## Hour {hour.number}: {hour.title}", "", hour.goal, ""]
        if link is not None:
            yield f"<details><summary>{' · '.join(block.title for block in hour.blocks)}</summary>\n"
        for i, block in enumerate(hour.blocks):
            where = f"hour {hour.number}, block {block.title!r}"
            title = f"{i * MINUTES} to {(i + 1) * MINUTES} min: {block.title}"
            yield from [f"### {title}" if link is None else f"**{title}**", ""]
            yield from [shown.named(block.facts, where, link), "", "Talking points:", ""]
            yield from [f"- *{slide.title}.* {shown.named(slide.notes, where, link)}" for slide in block.slides]
            yield ""
        if link is not None:
            yield "</details>\n"
        yield from [f"**After hour {hour.number}.** {hour.afterwards}", ""]


def misconceptions(shown: Shown, sessions: Iterable[Hour], link: Link | None = None) -> list[str]:
    """What students often believe, with the cell that refutes it, as one list in Markdown."""
    return [shown.named(hour.misconceptions, f"misconceptions of hour {hour.number}", link) for hour in sessions]


def _traps(sessions: list[Hour], shown: Shown) -> list[str]:
    return ["", "## Misconceptions", "", *misconceptions(shown, sessions)]


def exam(asked: list[Question], *, answers: bool) -> Iterator[str]:
    """The exam in Markdown, with the answers or without."""
    total = sum(question.points for question in asked)
    terms = f"{len(asked)} questions, {total} points. 90 minutes; one page of notes is allowed."
    if answers:
        short = sum(question.points for question in asked if question.level != "stretch")
        terms += f" In 60 minutes, leave out the questions marked *stretch*: {short} points."
    yield from [f"# Exam{': answers' if answers else ''}", "", terms, ""]
    for i, question in enumerate(asked, 1):
        points = f"{question.points} point{'s' if question.points > 1 else ''}"
        yield from [f"## {i}. {question.title}", "", f"*{question.level}, {points}*", "", question.text, ""]
        if answers:
            yield from [f"**Answer.** {question.answer}", ""]


def _deck(hour: Hour, shown: Shown) -> Iterator[str]:
    """The slides of an hour as HTML."""
    title = f"<h1>{html(hour.title, 'title', inline=True)}</h1>{html(hour.goal, 'goal')}"
    outline = "".join(f"<li>{html(block.title, 'title', inline=True)}</li>" for block in hour.blocks)
    yield f'<section class="title"><p class="hour">Hour {hour.number} of 6</p>{title}<ol>{outline}</ol></section>'
    for i, block in enumerate(hour.blocks):
        for slide in block.slides:
            where = f"slide {slide.title!r} of hour {hour.number}"
            figures = list(_figures(slide, shown, where))
            text = html(shown.named(SHOWN.sub("", slide.body), where), where).strip()
            alone = all('class="short"' in figure for figure, _ in figures)
            below = not text or "$$" in slide.body or not _larger_beside(slide, figures)
            layout = "alone" if alone else "below" if below else "beside"
            body = f'<div class="text">{text}</div>' * bool(text) + "".join(figure for figure, _ in figures)
            minutes = f"{i * MINUTES}\N{EN DASH}{(i + 1) * MINUTES} min"
            notes = html(shown.named(slide.notes, where), where)
            small = f'<p class="small">{html(slide.small, where, inline=True)}</p>' * bool(slide.small)
            yield (
                f"<section><h2>{html(slide.title, where, inline=True)}</h2>"
                f'<div class="body {layout}">{body}</div>{small}<aside class="notes">{notes}</aside>'
                f"<footer>{hour.number} {escape(hour.title)} · {escape(block.title)} · {minutes}</footer></section>"
            )


def _larger_beside(slide: Slide, figures: list[tuple[str, float]]) -> bool:
    """Whether the figures of a slide are larger beside its text than below it."""
    lines = SHOWN.sub("", slide.body).strip().splitlines()
    taken = LINE * sum(-(-len(line) // LETTERS) for line in lines)
    return all(min(BESIDE[0], BESIDE[1] * shape) > min(BELOW[0], (BELOW[1] - taken) * shape) for _, shape in figures)


def _figures(slide: Slide, shown: Shown, where: str) -> Iterator[tuple[str, float]]:
    """What a slide shows of the notebooks, as HTML, and its width over its height, without limit for code and text."""
    for label, reference in SHOWN.findall(slide.body):
        if label == "code":
            code = first_function(shown.cell(reference, where).source)
            size = "long" if code.count("\n") > SHORT else "short"
            yield f'<figure class="{size}">{coloured(code)}</figure>', float("inf")
        elif label == "output":
            yield f'<figure class="short"><pre>{escape(shown.output(reference, where))}</pre></figure>', float("inf")
        elif label:
            raise CourseError(f"{where}: ![{label}]({reference}) must have no text, or be code or output")
        else:
            picture, shape = shown.figure(reference, where)
            yield f"<figure>{picture}</figure>", shape


def _page(title: str, body: str, style: str, kind: str, script: str = "") -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f'<body class="{kind}"><main>{body}</main>{f"<script>{script}</script>" if script else ""}</body></html>\n'
    )


def html(text: str, where: str, *, inline: bool = False) -> str:
    """Markdown as HTML, formulas as drawings; ``inline`` without the paragraph. ``where`` is for messages."""
    try:
        made = str(mistune.create_markdown(renderer=_Html(), plugins=["math", "table"])(text))
    except ValueError as error:  # Matplotlib's, over several lines
        raise CourseError(f"{where}: a formula cannot be drawn: {' '.join(str(error).split())}") from error
    return made.strip().removeprefix("<p>").removesuffix("</p>") if inline else made


class _Html(mistune.HTMLRenderer):
    """Code in colours, formulas as drawings: pages without a script and without fonts of their own."""

    def block_code(self, code: str, info: str | None = None) -> str:
        return coloured(code) if (info or "").startswith("python") else f"<pre>{escape(code)}</pre>"

    def inline_math(self, text: str) -> str:
        return formula(text)

    def block_math(self, text: str) -> str:
        return f'<p class="formula">{formula(text)}</p>'


def first_function(source: str) -> str:
    """The function that a cell begins with, or the complete source of a cell that begins otherwise."""
    first = ast.parse(source).body[0]
    return (ast.get_source_segment(source, first) or source) if isinstance(first, ast.FunctionDef) else source


def coloured(code: str) -> str:
    """Python as HTML, in colours that are part of it."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonConsoleLexer, PythonLexer

    lexer = PythonConsoleLexer() if code.startswith(">>>") else PythonLexer()
    return str(highlight(code, lexer, HtmlFormatter(noclasses=True, nobackground=True, style="default")))


@cache
def formula(tex: str) -> str:
    """A formula as a drawing that sits on the line and grows with the text; its TeX is the alternative text."""
    from matplotlib import rc_context
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image

    size, drawn = 20, io.BytesIO()
    tex = " ".join(tex.split())
    with rc_context({"mathtext.fontset": "stix", "svg.fonttype": "path", "svg.hashsalt": "course"}):
        depth = math_to_image(f"${tex}$", drawn, prop=FontProperties(size=size), dpi=72, format="svg")
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", drawn.getvalue().decode(), flags=re.DOTALL)
    height = float(re.search(r'<svg height="([\d.]+)|height="([\d.]+)pt"', svg)[2])  # type: ignore[index]
    data = base64.b64encode(svg.encode()).decode()
    em = size / LARGER
    style = f"height:{height / em:.3f}em;vertical-align:{-depth / em:.3f}em"
    return f'<img class="formula" alt="{escape(tex)}" style="{style}" src="data:image/svg+xml;base64,{data}">'


# ---------------------------------------------------------------- notebooks


def _notebooks() -> Iterator[tuple[str, str]]:
    """Each notebook without its solutions, and with them in place of the exercises, by the name in the pack."""
    import nbformat

    for path in sorted(notebooks.NOTEBOOKS.glob("*.ipynb")):
        for folder, change in (("students", without_solutions), ("lecturer/notebooks", solved)):
            notebook = nbformat.read(path, as_version=4)
            change(notebook)
            yield f"{folder}/{path.name}", nbformat.writes(notebook) + "\n"


def without_solutions(notebook: NotebookNode) -> None:
    """Take out everything folded away except hints (solutions, answers, rubrics), and what would spoil a task.

    What follows a fold, up to the next fold, question or heading, discusses it and is removed with it. Exercises
    lose their output. Guesses are to be made before the number is seen: outputs that show it are removed, too.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    asked = {number for cell in code for output in cell.outputs for number in UNGUESSED.findall(output.get("text", ""))}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = FOLDED.sub(lambda fold: fold[0] if fold[1].startswith("Hint") else "", cell.source).strip()
            cell.source = SOLUTIONS_TOO.sub("Hints", cell.source)
        elif "score_guess(" in cell.source:
            cell.outputs, cell.execution_count = [], None
        else:
            cell.outputs = [output for output in cell.outputs if not _tells(output, asked)]
        _clear(cell)
    notebook.cells = [cell for cell in notebook.cells if cell.source or cell.cell_type != "markdown"]


def _tells(output: NotebookNode, asked: set[str]) -> bool:
    """Whether an output prints a number that readers are to guess. One or two digits may agree by chance: no match."""
    rounded = {f"{float(number.replace(',', '')):.3g}" for number in re.findall(PLAIN, output.get("text", ""))}
    return any(len(re.sub(r"\D|^0\.0*", "", number)) > 2 for number in asked & rounded)


def solved(notebook: NotebookNode) -> None:
    """Put the solutions in place of the exercises, which are to be run again."""
    for stub, solution in solutions(notebook):
        stub.source = solve(stub.source, solution)
    for cell in notebook.cells:
        _clear(cell)


def _clear(cell: Any) -> None:
    """Clear what an exercise printed."""
    if "exercise" in cell.metadata.get("tags", []):
        cell.outputs, cell.execution_count = [], None
