"""The instructor's pack is complete, needs no network, gives no answers away, and its exam is right."""

import base64
import doctest
import html.parser
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By

from ismkit.lessons import course, notebooks
from ismkit.lessons.course import CourseError, make_course
from ismkit.lessons.notebooks import PICTURED, SLIDES, picture_sum
from tests.browser import chromium, logged
from tests.commandline import Ismkit
from tests.conftest import ROOT
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(900)
HOUR = """# Title

Goal.
{blocks}
## Misconceptions

- *"Wrong."* Refuted by {{01#figure}}.

## Afterwards

Homework.
"""
BLOCK = """
## Block

- **Show:** it.
- **Students:** do it.
- **Answer:** It is {01 "It is"}.
- **Cells:** {01#figure}.
- **Ask:** why?

### Slide

![](01#figure)

Small: Author 2025,
Small: a title.

> Say this.
"""


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack of the committed notebooks."""
    return make_course(tmp_path_factory.mktemp("course") / "pack")


def committed() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def exercises(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if "exercise" in cell.metadata.get("tags", [])]


# ---------------------------------------------------------------- the pages


class Parts(html.parser.HTMLParser):
    """What a page asks the browser to fetch, its links, pictures and the number of its slides."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.pictures: list[str | None] = []
        self.slides = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "a":
            self.links.append(given["href"] or "")
        elif source := given.get("src") or given.get("href"):
            self.fetched.append(source)
        if tag == "img":
            self.pictures.append(given.get("alt"))
        self.slides += tag == "section"


def test_pages_hold_all_that_they_show(pack: Path) -> None:
    pages = sorted(pack.rglob("*.html"))
    assert len(pages) == 4 + 6
    for path in pages:
        text = path.read_text()
        parts = Parts(text)
        assert all(source.startswith("data:") for source in parts.fetched), path
        assert not re.search(r"@import|url\((?!data:)", text), path
        assert all(parts.pictures), f"{path}: a picture without alternative text"
        for link in parts.links:
            assert (path.parent / link).resolve().is_file(), f"{path} leads to {link}"


def test_each_hour_has_six_blocks_and_a_slide_or_more_in_each(pack: Path) -> None:
    hours = course.hours()
    assert [hour.number for hour in hours] == [1, 2, 3, 4, 5, 6]
    for hour in hours:
        assert all(block.slides for block in hour.blocks)
        assert all(slide.notes and slide.body for block in hour.blocks for slide in block.slides)
        slides = 1 + sum(len(block.slides) for block in hour.blocks)
        assert Parts((pack / "slides" / f"{hour.number}.html").read_text()).slides == slides
        assert 8 <= slides <= 16


def test_slides_show_what_the_notebooks_have_committed(pack: Path) -> None:
    shown = course.Shown()
    figure, _ = shown.figure("08#ladder", "here")
    assert figure in (pack / "slides" / "5.html").read_text()
    (cell,) = [c for c in nbformat.read(shown.paths["08"], as_version=4).cells if "slide-ladder" in str(c.metadata)]
    drawing = shown.paths["08"].parent / SLIDES / "08-ladder.svg"
    mark, _, svg = drawing.read_text().partition("\n")
    assert f"{mark}\n" == PICTURED.format(picture_sum(cell.outputs[-1].data["image/png"]))
    assert base64.b64encode(svg.encode()).decode() in figure
    assert cell.outputs[-1].metadata["image/png"]["alt"] in html.unescape(figure)
    assert f"08 [{cell.execution_count}]" in (pack / "plan.html").read_text()


def test_plan_has_every_ten_minutes_and_every_misconception(pack: Path) -> None:
    text = (pack / "plan.html").read_text()
    assert len(re.findall(r"<strong>After hour \d\.</strong> (?:<strong>Lab|Homework)", text)) == 6
    for minutes in ("0 to 10", "10 to 20", "20 to 30", "30 to 40", "40 to 50", "50 to 60"):
        assert text.count(f"<h3>{minutes} min: ") == 6
    assert not any(mark in text for mark in ("{0", "{1", "&gt;&gt;&gt;"))
    traps = [line for hour in course.hours() for line in hour.misconceptions.splitlines() if line.startswith("- ")]
    assert len(traps) >= 20
    assert all(re.search(r'^- \*".*"\*', line) for line in traps)
    assert all(course.NAMED.search(hour.misconceptions) for hour in course.hours())


@pytest.mark.browser
def test_a_second_window_has_the_notes_and_turns_with_the_first(pack: Path, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as browser:

        def number() -> str:
            return browser.execute_script("return document.querySelector('.current .number').textContent")

        def notes() -> bool:
            return browser.execute_script("return document.querySelector('.current .notes')?.checkVisibility()")

        def press(key: str) -> None:
            browser.execute_script("dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0]}))", key)

        browser.get((pack / "slides" / "2.html").as_uri())
        wall = browser.current_window_handle
        press("ArrowRight")
        press("p")
        wait_until(lambda: len(browser.window_handles) == 2)
        (speaker,) = set(browser.window_handles) - {wall}
        browser.switch_to.window(speaker)
        wait_until(notes)
        assert number().startswith("2 /")
        press("ArrowRight")
        browser.switch_to.window(wall)
        wait_until(lambda: number().startswith("3 /"))
        assert not notes()
        press("End")
        last = number()
        browser.switch_to.window(speaker)
        wait_until(lambda: number() == last)
        press("Home")
        press("ArrowRight")
        browser.execute_script(
            "show(slides.findIndex((slide) => slide.querySelectorAll('[data-panels]').length)); tell()"
        )
        press("z")
        assert seen(browser) is not None
        assert notes()
        browser.switch_to.window(wall)
        wait_until(lambda: seen(browser) is not None)
        press("Escape")
        browser.switch_to.window(speaker)
        wait_until(lambda: seen(browser) is None)
        browser.switch_to.window(wall)
        browser.refresh()
        browser.switch_to.window(speaker)
        press("Home")
        browser.switch_to.window(wall)
        wait_until(lambda: number().startswith("1 /"))
        press("ArrowRight")
        browser.switch_to.window(speaker)
        wait_until(lambda: number().startswith("2 /"))


SEEN = """
const [box] = document.querySelectorAll(".current .lens > div");
if (!box) return null;
const [shown, image] = [box, box.firstChild].map((each) => each.getBoundingClientRect());
const slide = document.querySelector(".current").getBoundingClientRect();
const beyond = [slide.left - shown.left, shown.right - slide.right, slide.top - shown.top, shown.bottom - slide.bottom];
const [across, down] = [image.width, image.height];
const part = [(shown.x - image.x) / across, (shown.y - image.y) / down, shown.width / across, shown.height / down];
return [part, across, Math.max(...beyond) <= 0];
"""


def seen(browser: Chrome) -> tuple[list[float], float, bool] | None:
    """What of a figure is seen over the slide, in shares of it, how wide all of it would be, and whether it fits in."""
    return browser.execute_script(SEEN)


@pytest.mark.browser
def test_figures_are_seen_as_large_as_the_slide_panel_by_panel(pack: Path, tmp_path: Path) -> None:
    def width() -> float:  # of the figure on the slide
        return browser.execute_script(
            "const image = document.querySelector('.current [data-panels]');"
            "const { width, height } = image.getBoundingClientRect();"
            "return Math.min(width, (height * image.naturalWidth) / image.naturalHeight)"
        )

    def press(key: str) -> None:
        browser.execute_script("dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0]}))", key)

    several = 0
    with chromium(tmp_path / "profile") as browser:
        for path in sorted((pack / "slides").iterdir()):
            browser.get(path.as_uri())
            for i in browser.execute_script(
                "return slides.flatMap((slide, i) => (slide.querySelector('[data-panels]') ? [i] : []))"
            ):
                browser.execute_script("show(arguments[0])", i)
                boxes = json.loads(
                    browser.execute_script("return document.querySelector('.current [data-panels]').dataset.panels")
                )
                for box in boxes:
                    press("z")
                    part, across, inside = seen(browser) or pytest.fail(f"slide {i + 1} of {path.name} shows no figure")
                    assert part == pytest.approx(box, abs=1e-3)
                    assert inside
                    assert across > (1.25 if len(boxes) > 1 else 1.01) * width()
                press("z")
                assert seen(browser) is None
                several += len(boxes) > 1
        assert several > 10
        press("Home")
        browser.execute_script("show(slides.findIndex((slide) => slide.querySelector('[data-panels]')))")
        image = browser.find_element(By.CSS_SELECTOR, ".current [data-panels]")
        before = browser.execute_script("return at")
        last = json.loads(image.get_attribute("data-panels") or "")[-1]
        place = round((last[0] + last[2] / 2 - 0.5) * width())
        ActionChains(browser).move_to_element_with_offset(image, place, 0).click().perform()
        assert (seen(browser) or ([], 0, False))[0] == pytest.approx(last, abs=1e-3)
        ActionChains(browser).click().perform()
        assert seen(browser) is None
        press("z")
        press("ArrowRight")
        assert seen(browser) is None
        assert browser.execute_script("return at") == before + 1


def drawn(labels: bool = False, legend: bool = False, title: str = "") -> list[tuple[float, float, float, float]]:
    """The panels that are found in a figure of three."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3), sharey=labels, layout="constrained")
    for k, each in enumerate(axes):
        each.plot([0, 1, 2], [1, k, 2], label=f"line {k}")
        each.set(title=f"panel {k}", xlabel="x", ylabel="" if labels else "a number")
    if labels:
        axes[0].set_yticks([0, 1, 2], ["a long name of a row", "another name of a row", "and one more"])
    if legend:
        figure.legend(loc="outside lower center", ncols=3)
    if title:
        figure.suptitle(title)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    plt.close(figure)
    return course.panels(file.getvalue())


def test_panels_are_told_apart_where_each_can_stand_alone() -> None:
    for title in ("", "A title that stands above all three of the panels and is longer than any one of them is wide"):
        found = drawn(title=title)
        assert len(found) == 3
        for (left, _, width, _), start in zip(found, (0, 1 / 3, 2 / 3), strict=True):
            assert start - 0.02 < left < left + width < start + 1 / 3 + 0.02
        tops = {top for _, top, _, _ in found}
        assert (tops.pop() > 0.06) == bool(title)  # their own titles stay, the common one does not
        assert not tops
    whole = [(0.0, 0.0, 1.0, 1.0)]
    assert drawn(labels=True) == whole
    assert drawn(legend=True) == whole


@pytest.mark.browser
def test_no_slide_is_fuller_than_its_page(pack: Path, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as browser:
        for path in sorted((pack / "slides").iterdir()):
            browser.get(path.as_uri())
            for i in range(browser.execute_script("return slides.length")):
                overflow = browser.execute_script(
                    "show(arguments[0]);"
                    "const body = document.querySelector('.current .body') ?? document.querySelector('.current');"
                    "return [body.scrollHeight - body.clientHeight, body.scrollWidth - body.clientWidth]",
                    i,
                )
                assert max(overflow) <= 2, f"slide {i + 1} of {path.name}"


@pytest.mark.browser
def test_slides_turn_by_keys_and_print_a_page_each(pack: Path, tmp_path: Path) -> None:
    address = (pack / "slides" / "3.html").as_uri()
    with chromium(tmp_path / "profile") as browser:

        def press(key: str) -> str:
            browser.execute_script("dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0]}))", key)
            return browser.execute_script("return document.querySelector('.current .number').textContent")

        def notes() -> bool:
            return browser.execute_script("return document.querySelector('.current .notes').checkVisibility()")

        browser.get(address)
        count = browser.execute_script("return document.querySelectorAll('section').length")
        assert press("ArrowRight") == f"2 / {count}"
        assert press(" ") == f"3 / {count}"
        assert press("ArrowLeft") == f"2 / {count}"
        assert press("End") == f"{count} / {count}"
        assert press("ArrowRight") == f"{count} / {count}"
        assert press("Home") == f"1 / {count}"
        press("PageDown")
        assert not notes()
        assert press("n") == f"2 / {count}"
        assert notes()
        press("n")
        assert not notes()
        printed = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
        assert logged(browser, address) == []
    assert len(re.findall(rb"/Type\s*/Page\b", base64.b64decode(printed))) == count


# ---------------------------------------------------------------- the notebooks


@pytest.mark.parametrize("path", committed(), ids=lambda path: path.stem[:2])
def test_students_get_all_but_the_solutions(path: Path, pack: Path) -> None:
    ours, theirs = nbformat.read(path, 4), nbformat.read(pack / "students" / path.name, 4)
    text = "\n".join(cell.source for cell in theirs.cells)
    assert re.findall(r"<summary>(?!Hint)", text) == []
    for _, solution in notebooks.solutions(ours):
        assert solution.strip() not in text
    unfolded = re.sub(r"<details>.*?</details>", "", "\n".join(cell.source for cell in ours.cells), flags=re.DOTALL)
    starts = re.compile(r"^(?:#+ .*|\*\*\d.*)$", re.MULTILINE)  # of sections and of exercises
    assert starts.findall(text) == starts.findall(unfolded)
    for old, new in zip(*([c for c in nb.cells if c.cell_type == "code"] for nb in (ours, theirs)), strict=True):
        if "exercise" in old.metadata.get("tags", []):
            assert not new.outputs
        assert old.source == new.source
    assert len(exercises(theirs)) == len(exercises(ours))


@pytest.mark.parametrize("path", committed(), ids=lambda path: path.stem[:2])
def test_students_do_not_see_what_they_are_to_guess(path: Path, pack: Path) -> None:
    """The cells that score a guess have no output, and no other prints the number; what else was printed stays."""
    ours, theirs = (code_of(nbformat.read(file, 4)) for file in (path, pack / "students" / path.name))
    printed = "".join(output.get("text", "") for cell in ours for output in cell.outputs)
    guessed = re.findall(r": \w+ (\S+)\. No guess was made", printed)
    asked = {number for number in guessed if len(number.replace(".", "").lstrip("0")) > 2}
    for old, new in zip(ours, theirs, strict=True):
        lost = [output for output in old.outputs if output not in new.outputs]
        if "score_guess(" in old.source:
            assert not new.outputs
        elif "exercise" not in old.metadata.get("tags", []):
            numbers = [re.findall(r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?", output.text) for output in lost]
            assert all(asked & {f"{float(number):.3g}" for number in found} for found in numbers)
        for number in asked:
            shown = "".join(output.get("text", "") for output in new.outputs)
            assert not re.search(rf"(?<![\d.]){re.escape(number)}\b", shown), number


def code_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_numbers_to_be_guessed_go_and_others_stay() -> None:
    texts = ("ratio: measured 1.34. No guess was made: write one", "PASS want = 2 | measured 1.3406", "loss 1.21")
    cells = [new_code_cell(f"score_guess({k})" if k == 0 else f"print({k})") for k in range(3)]
    for cell, text in zip(cells, texts, strict=True):
        cell.outputs = [new_output("stream", text=text)]
    course.without_solutions(new_notebook(cells=cells))
    assert [len(cell.outputs) for cell in cells] == [0, 0, 1]


@pytest.mark.parametrize("path", committed(), ids=lambda path: path.stem[:2])
def test_lecturers_get_the_solutions_in_place(path: Path, pack: Path) -> None:
    ours, theirs = nbformat.read(path, 4), nbformat.read(pack / "lecturer" / "notebooks" / path.name, 4)
    for (stub, solution), cell in zip(notebooks.solutions(ours), exercises(theirs), strict=True):
        assert cell.source == notebooks.solve(stub.source, solution)
        assert not cell.outputs


def test_what_is_said_of_a_solution_goes_with_it() -> None:
    fold = "<details><summary>Solution</summary>\n\n**4**.\n</details>"
    hint = "<details>\n<summary>Hint 1</summary>Halve it.</details>"
    text = f"Why?\n\n{fold}\n\nSo it is 4.\n\n**1.2** Next?\n\n{hint}\n\n{fold}\nThis, too.\n\n## Summary\n\nDone."
    notebook = new_notebook(cells=[new_markdown_cell(text)])
    course.without_solutions(notebook)
    assert notebook.cells[0].source == f"Why?\n\n**1.2** Next?\n\n{hint}\n\n## Summary\n\nDone."


def test_hints_stay_and_all_else_that_is_folded_goes() -> None:
    folds = ["Hint 1", "Solution: by hand", "What a good answer contains", "Rubric", "Hint 2"]
    text = "**1.1** Do it.\n\n" + "\n\n".join(
        f"<details>\n<summary>{name}</summary>\n\n{name} it is.\n</details>" for name in folds
    )
    notebook = new_notebook(
        cells=[new_markdown_cell(text), new_markdown_cell("<details><summary>Solution</summary>x</details>")]
    )
    course.without_solutions(notebook)
    (cell,) = notebook.cells
    assert cell.source.startswith("**1.1** Do it.")
    assert re.findall(r"(.*) it is\.", cell.source) == ["Hint 1", "Hint 2"]


# ---------------------------------------------------------------- the exam

EXAM = course.questions()


def test_exam_is_graded(pack: Path) -> None:
    assert len(EXAM) >= 15
    assert {question.level for question in EXAM} == {"warm-up", "core", "stretch"}
    sheet, answers = (pack / "exam.html").read_text(), (pack / "lecturer" / "answers.html").read_text()
    stretch = sum(question.points for question in EXAM if question.level == "stretch")
    total = sum(question.points for question in EXAM)
    assert f"{len(EXAM)} questions, {total} points." in sheet
    assert f"{total - stretch} points" in answers
    assert "90 minutes" in sheet
    assert "Answer" not in sheet
    assert answers.count("<strong>Answer.</strong>") == len(EXAM)


@pytest.mark.parametrize("question", EXAM, ids=lambda question: question.title)
def test_points_of_an_answer_are_those_of_its_question(question: course.Question) -> None:
    given = [int(points) for points in re.findall(r"\((\d+)\s+points?\)", question.answer)]
    assert sum(given) == question.points


@pytest.mark.parametrize("question", EXAM, ids=lambda question: question.title)
def test_every_number_of_an_answer_is_computed(question: course.Question) -> None:
    codes = re.findall(r"^```python\n(.*?)^```$", question.answer, re.DOTALL | re.MULTILINE)
    assert_computed(question.answer, "".join(codes))


def assert_computed(text: str, code: str) -> None:
    """The example runs, and among its results are the numbers that the text has in bold."""
    bold = {float(number) for number in re.findall(r"\*\*(-?\d+(?:\.\d+)?)\*\*", text)}
    example = doctest.DocTestParser().get_doctest(code, {}, text[:40], "course", 0)
    assert doctest.DocTestRunner().run(example).failed == 0
    results = " ".join(part.want for part in example.examples)
    assert bold <= {float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", results)}
    assert bool(bold) == bool(code)


@pytest.mark.parametrize("hour", course.hours(), ids=lambda hour: str(hour.number))
def test_every_number_in_the_plan_is_computed(hour: course.Hour) -> None:
    for block in hour.blocks:
        assert_computed(block.facts, block.example)


def test_numbers_of_the_comparison_with_meanflow_are_computed() -> None:
    page = (ROOT / "book" / "neighbours.md").read_text()
    section = re.search(r"^## Is iSM better than MeanFlow\?\n(.*?)(?=^## )", page, re.DOTALL | re.MULTILINE)
    assert section
    assert_computed(section[1], "".join(course.EXAMPLE.findall(section[1])))


def test_exam_asks_other_numbers_than_the_plan() -> None:
    plan = " ".join(block.facts for hour in course.hours() for block in hour.blocks)
    vectors = re.compile(r"=\(-?\d+, ?-?\d+\)|\d, \d, \d, \d")
    given = {match for question in EXAM for match in vectors.findall(question.text)}
    assert len(given) >= 3
    assert [match for match in given if match in plan] == []


def test_book_has_no_answers_to_the_exam() -> None:
    pages = "".join(path.read_text() for path in (ROOT / "book").glob("*.md"))
    assert not any(question.answer[:40] in pages for question in EXAM)


def test_a_hand_out_has_no_solutions(pack: Path, tmp_path: Path) -> None:
    """The commands of the page for lecturers, but for the last, which packs the folder."""
    found = subprocess.run(
        ["git", "rev-parse", "--absolute-git-dir"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip("this is no clone")
    page = (ROOT / "book" / "lecturers.md").read_text()
    (commands,) = (
        block for block in re.findall(r"^```bash\n(.*?)^```", page, re.DOTALL | re.M) if "git archive" in block
    )
    shutil.copytree(pack, tmp_path / "teaching")
    script = commands[: commands.index("tar -czf")]
    subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, env=os.environ | {"GIT_DIR": found.stdout.strip()}, check=True
    )
    handed = tmp_path / "handout"
    assert (handed / "Makefile").is_file()
    assert not (handed / ".git").exists()
    assert len(list(handed.glob("notebooks/*.ipynb"))) == len(committed())
    texts = [path.read_text() for kind in ("md", "ipynb") for path in handed.rglob(f"*.{kind}")]
    assert not any("<summary>Solution" in text or question.answer[:40] in text for text in texts for question in EXAM)


# ---------------------------------------------------------------- what is refused


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course of one hour about one notebook, instead of the real one."""
    texts, folder = tmp_path / "texts", tmp_path / "notebooks"
    texts.mkdir()
    folder.mkdir()
    for name in ("deck.css", "deck.js", "start.md", "plan.md", "exam.md"):
        (texts / name).write_bytes((course.TEXTS / name).read_bytes())
    (texts / "1_title.md").write_text(HOUR.format(blocks=BLOCK * 6))
    png = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAIAAAB7QOjdAAAAD0lEQVR4nGM8wcDAwMAAAAS+AMq34uUzAAAAAElFTkSuQmCC"
    picture = new_output("display_data", {"image/png": png}, metadata={"image/png": {"alt": 'a "dot" & more'}})
    told = new_output("stream", text="It  is\n1.5 ± 0.2 %, and so is it.")
    tags = {"tags": ["slide-figure"]}
    cell = new_code_cell("draw()", metadata=tags, outputs=[picture, told], execution_count=3)
    guess = new_output("stream", text="Its size: measured 3.14. No guess was made: write one")
    nothing = new_code_cell("", metadata={"tags": ["slide-nothing"]}, outputs=[guess])
    nbformat.write(new_notebook(cells=[cell, nothing]), folder / "01_one.ipynb")
    monkeypatch.setattr(course, "TEXTS", texts)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", folder)
    return texts / "1_title.md"


def test_a_course_of_ones_own(small: Path, tmp_path: Path) -> None:
    out = make_course(tmp_path / "new" / "pack")
    deck = (out / "slides" / "1.html").read_text()
    assert Parts(deck).pictures == ['a "dot" & more'] * 6
    assert deck.count('<p class="small">Author 2025, a title.</p>') == 6
    plan = (out / "plan.html").read_text()
    assert "01 [3]" in plan
    assert "<strong>Answer:</strong> It is 1.5 ± 0.2 %." in plan
    assert [path.name for path in out.parent.iterdir()] == ["pack"]


def test_a_drawing_is_preferred_to_a_picture(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "notebooks" / "01_one.ipynb"
    notebook = nbformat.read(path, 4)
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 10"></svg>'
    drawing = path.parent / SLIDES / "01-figure.svg"
    drawing.parent.mkdir()
    drawing.write_text(PICTURED.format(picture_sum(notebook.cells[0].outputs[0].data["image/png"])) + svg)
    picture, shape = course.Shown().figure("01#figure", "here")
    before, _, data = picture.removesuffix('">').partition(' src="data:image/svg+xml;base64,')
    assert before == '<img alt="a &quot;dot&quot; &amp; more" data-panels="[[0.0, 0.0, 1.0, 1.0]]"'
    assert base64.b64decode(data).decode() == svg
    assert shape == 2
    drawing.write_text(PICTURED.format("0123456789abcdef") + svg)
    with pytest.raises(CourseError, match=r"01-figure\.svg is not of the figure that 01#figure has now: refresh"):
        make_course(tmp_path / "pack")


@pytest.mark.parametrize("path", committed(), ids=lambda path: path.stem.partition("_")[0])
def test_a_notebook_has_drawings_for_all_of_its_slides(path: Path) -> None:
    """`make refresh` draws them."""
    shown = re.findall(r"^!\[\]\((\w+)#([\w-]+)\)", "\n".join(map(Path.read_text, course.TEXTS.glob("?_*.md"))), re.M)
    wanted = {f"{number}-{name}.svg" for number, name in shown if number == path.stem.partition("_")[0]}
    drawn = {drawing.name for drawing in (path.parent / SLIDES).glob(f"{path.stem.partition('_')[0]}-*.svg")}
    assert wanted <= drawn


FIGURE = """import matplotlib.pyplot as plt
from ismkit.lessons import plot

figure, panels = plt.subplots(1, 2, figsize=(9, 3))
panels[0].plot([0, 1], [0, 1], label="a line")
panels[0].legend()
panels[1].scatter(range(400), range(400))
plot.show(figure, alt="A line, and many dots")"""


@pytest.mark.browser
def test_a_refreshed_notebook_has_drawings_for_its_slides_alone(small: Path, tmp_path: Path) -> None:
    """Sharp at any size: lines and letters are outlines, many dots are pixels. On the slide it fills its room."""
    path = tmp_path / "notebooks" / "01_one.ipynb"
    notebook = nbformat.read(path, 4)
    slide, other = (new_code_cell(FIGURE, metadata={"tags": tags}) for tags in (["slide-figure"], []))
    notebook.cells = [slide, other, new_code_cell("print('It is 1')")]
    nbformat.write(notebook, path)
    notebooks.refresh(path)
    assert all(set(cell.outputs[0].data) == {"image/png", "text/plain"} for cell in code_of(nbformat.read(path, 4))[:2])
    assert [drawing.name for drawing in (path.parent / SLIDES).iterdir()] == ["01-figure.svg"]
    picture, _ = course.Shown().figure("01#figure", "here")
    svg = base64.b64decode(picture.partition("base64,")[2].removesuffix('">')).decode()
    assert svg.count("<image ") == 1, "the dots"
    assert "<text" not in svg, "letters would change with the fonts that a machine has"
    with chromium(tmp_path / "profile") as browser:
        browser.get((make_course(tmp_path / "pack") / "slides" / "1.html").as_uri() + "#2.5")  # taken as the second
        image = browser.find_element(By.CSS_SELECTOR, "section.current figure img")
        assert [image.get_property(f"natural{side}") for side in ("Width", "Height")] == [864, 288], "9 by 3 inches"
        browser.execute_script("dispatchEvent(new KeyboardEvent('keydown', {key: 'z'}))")
        part, across, inside = seen(browser) or pytest.fail("the figure is not enlarged")
        assert inside
        assert part[2] < 0.6, "a panel alone"
        assert across > 1.25 * image.size["width"]


def test_a_damaged_picture_is_refused(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "notebooks" / "01_one.ipynb"
    path.write_text(path.read_text().replace("nGM8wcDAwMAAAAS", "nGM8wcDAwMAAAAT"))
    with pytest.raises(CourseError, match="shows the figure of 01#figure, which is damaged: "):
        make_course(tmp_path / "pack")


WRONG = {
    "no such tag": ("![](01#figure)", "![](01#none)", r"slide 'Slide' of hour 1 refers to 01#none, but 0 cells"),
    "no such notebook": ("{01#figure}", "{77#figure}", "refers to 77#figure, but 0 cells of notebook 77"),
    "no output": ("![](01#figure)", "![output](01#nothing)", "that cell printed nothing"),
    "no such number": ('{01 "It is"}', '{01 "It was"}', "'It was', but notebook 01 printed 0 such numbers"),
    "a label": ("![](01#figure)", "![picture](01#figure)", "must have no text, or be code or output"),
    "no question": ("- **Ask:** why?\n", "", "lacks Ask"),
    "no homework": ("\n## Afterwards\n\nHomework.\n", "", "six blocks, then Misconceptions and Afterwards"),
    "five blocks": (BLOCK * 6, BLOCK * 5, "1_title.md must have six blocks"),
    "a formula": ("> Say this.", r"$\nonsense{x}$", r"slide 'Slide' of hour 1: a formula cannot be drawn"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_text_that_cannot_be_shown_is_refused_and_leaves_nothing(name: str, small: Path, tmp_path: Path) -> None:
    old, new, complaint = WRONG[name]
    small.write_text(small.read_text().replace(old, new))
    with pytest.raises(CourseError, match=complaint):
        make_course(tmp_path / "pack")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notebooks", "texts"]


def test_a_figure_that_was_not_drawn_is_refused(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "notebooks" / "01_one.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells[0].outputs = []
    nbformat.write(notebook, path)
    with pytest.raises(CourseError, match=r"shows the figure of 01#figure, but that cell has none: run the notebook"):
        make_course(tmp_path / "pack")


def test_an_exercise_without_a_solution_is_refused(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "notebooks" / "01_one.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells.append(new_code_cell("def f(): ...", metadata={"tags": ["exercise"]}))
    nbformat.write(notebook, path)
    with pytest.raises(notebooks.NotebookError, match="no folded solution"):
        make_course(tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


def test_only_a_new_or_empty_folder_is_filled(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full, file, empty = tmp_path / "full", tmp_path / "file", tmp_path / "empty"
    full.mkdir()
    empty.mkdir()
    (full / "mine.txt").write_text("mine")
    file.write_text("mine")
    with pytest.raises(CourseError, match="full is not empty: name a new folder"):
        make_course(full)
    with pytest.raises(CourseError, match=r"file' is not a folder"):
        make_course(file)
    monkeypatch.chdir(empty)
    with pytest.raises(CourseError, match=r"'\.' is not a folder: name a new one"):
        make_course(".")
    assert [path.name for path in full.iterdir()] == ["mine.txt"]
    assert (make_course(empty) / "index.html").is_file()


def test_a_failure_in_the_middle_leaves_nothing(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def full_disk(path: Path, *given: object, **named: object) -> int:
        written.append(path)
        if len(written) == 3:
            raise OSError("no space left on device")
        return path.write_bytes(b"")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        make_course(tmp_path / "pack")
    assert len(written) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notebooks", "texts"]


def test_outside_of_a_clone_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    with pytest.raises(notebooks.NotebookError, match="work in a clone"):
        make_course(tmp_path / "pack")


def test_command(small: Path, tmp_path: Path, ismkit_: Ismkit) -> None:
    answer = ismkit_("course", "pack")
    assert (answer.status, answer.err) == (0, "")
    assert answer.out == f"instructor's pack: {Path('pack') / 'index.html'}\n"
    assert (tmp_path / "pack" / "students" / "01_one.ipynb").is_file()
    again = ismkit_("course", "pack")
    assert (again.status, again.err.count("\n")) == (2, 1)
    assert "pack is not empty" in again.err
    assert ismkit_("course").status == 2
