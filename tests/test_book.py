"""The book builds without a warning, and every page of it works in a browser that reaches nothing but the book."""

import gzip
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from urllib.parse import quote, unquote, urldefrag

import nbformat
import pytest
import torch
from PIL import Image
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from book import figures, folds, live
from ismkit.evaluation import expected_bias
from ismkit.evaluation.tables import PAPER_SETTINGS
from ismkit.lessons.claims import CLAIMS
from ismkit.lessons.ledger import book_entries, read, verdicts
from ismkit.lessons.notebooks import number, solutions
from ismkit.method import geometric_weights, shares, unit_weights
from ismkit.sweeps.studies import FOLDER
from ismkit.sweeps.sweep import read_table
from tests import accessible
from tests.browser import THEMES, WIDTHS, chromium, logged, screenshots, served
from tests.conftest import ROOT
from tests.explorable import Explorable
from tests.live_page import open_model

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]  # the first test builds the book

BOOK = ROOT / "book"
#: The files of the rooms; the commands have a page of their own, ``commands.md``.
FILES = [path for path in (ROOT / "ismkit").glob("*/[a-z]*.py") if path.parent.name != "cli"]
TEXTS = {f"{path.stem}.html" for path in BOOK.glob("*.md")}
TEXTS |= {f"{name}.html" for name in ("api", "changelog", "contributing", "solutions", "timings")}
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}

BESIDE = {path.stem[:2] for path in (BOOK / "beside").glob("*.md")}  # numbers of the notebooks with live models

TEX = """
const texIn = (page) => {
  const text = page.querySelector("article, body").cloneNode(true);
  for (const code of text.querySelectorAll("pre, code, script, mjx-container")) code.remove();
  return [...text.textContent.matchAll(/\\$[^\\s$][^$]*\\$/g)].map(([left]) => `TeX in the text: ${left}`);
};
"""
# Waits for mathematics and images, then tells what the page shows.
LOOK = (
    TEX
    + """
const done = arguments[0], all = (css, root = document) => [...root.querySelectorAll(css)];
(async () => {
  const found = [];
  if (window.MathJax?.startup?.promise) await MathJax.startup.promise;
  for (const formula of all("mjx-container:not([display])")) {
    if (formula.offsetWidth > formula.clientWidth) found.push(`a bar in a line of text: ${formula.textContent}`);
  }
  const live = ".live, .explorable, .animation, .frames, form.claims-filter, .copybtn, .unfold, .search-button-field";
  for (const control of all(`article :is(button, input, select, textarea), script[type*="widget-view"]`)) {
    if (!control.closest(live)) found.push(`dead control: ${control.outerHTML.slice(0, 80)}`);
  }
  for (const image of all("img")) {
    image.loading = "eager";
    await image.decode().catch(() => {});
    if (!image.naturalWidth) found.push(`image is missing: ${image.getAttribute("src")}`);
    if (!image.alt.trim()) found.push(`image without alt text: ${image.getAttribute("src").slice(0, 80)}`);
  }
  for (const formula of all(".math")) {
    if (!formula.querySelector("mjx-container")) found.push(`formula is not typeset: ${formula.innerText}`);
  }
  for (const wrong of all("[data-mjx-error]")) found.push(`formula is wrong: ${wrong.dataset.mjxError}`);
  done({
    problems: [...found, ...texIn(document)],
    links: all("a[href]").map((link) => link.href),
    ids: all("[id]").map((part) => part.id),
    claims: all("article td a[href*='#claim-']").length,
    cells: all("article td").map((cell) => cell.innerText.trim()),
    drawings: all("article svg.architecture").map((drawing) => drawing.getBoundingClientRect().width > 600),
    figures: all("article .cell_output img:not(.only-dark, .animation img)").length,
    dark: all("article .cell_output img.only-dark").length,
    neighbours: all(".prev-next-area a").map(({ href }) => href),
    height: document.documentElement.scrollHeight,
    code: all("article .cell:not(.tag_exercise) .cell_input pre").filter((code) => !code.closest("details"))
      .map((code) => code.textContent.trimEnd().split("\\n").length),
    exercises: all("article details.folded[id^=exercise-]").map(({ id, open }) => [id, open]),
    solutions: all("article details")  // beside hints, rubrics and folded cells
      .filter((part) => part.querySelector("summary").textContent.trim().startsWith("Solution"))
      .map((part) => [part.open, all(".highlight-python", part).length]),
  });
})();
"""
)


@dataclass
class Site:
    """What a browser saw of the pages of a folder.

    Attributes:
        problems: everything that is wrong, by page.
        pages: what each page shows, as ``LOOK`` tells it.
        barriers: what axe-core finds, with the theme first.
        kinds: of the elements of the pages that axe-core looked at, see :func:`tests.accessible.kinds`.
        written: the same of the pages that Sphinx makes and that were opened, as they were written.
        phone: the width in pixels that each page takes on a phone, with everything unfolded.
        cut: what is wider than a phone there, and does not scroll under a bar that shows it.
    """

    problems: dict[str, list[str]] = field(default_factory=dict)
    pages: dict[str, dict] = field(default_factory=dict)
    barriers: dict[str, list[str]] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    phone: dict[str, int] = field(default_factory=dict)
    cut: dict[str, list[str]] = field(default_factory=dict)


PHONE = 390  # pixels
LONGEST = 12_000  # pixels of a page on a screen 1400 wide
MADE = ("api/", "_modules/")  # folders of the pages that Sphinx makes from the modules
LISTED = ".bd-links"  # the list of all pages, the same on each
UNFOLD = "for (const part of document.querySelectorAll('details')) part.open = true"


# A box that scrolls is moved to its end and back.
CUT = """
const scrolls = (box) => {
  const { overflowX } = getComputedStyle(box);
  return ["auto", "scroll"].includes(overflowX) && box.clientWidth && box.scrollWidth > box.clientWidth + 1;
};
return [...document.querySelectorAll("article :is(table, pre, mjx-container[display], img, svg:not(svg svg))")]
  .filter((part) => !part.closest("mjx-container svg, mjx-assistive-mml"))
  .filter((part) => part.getBoundingClientRect().right > innerWidth || scrolls(part))
  .flatMap((part) => {
    let box = part;
    while (box && !scrolls(box)) box = box.parentElement.closest("article *");
    if (!box) return [`cut off: ${part.outerHTML.slice(0, 80)}`];
    const { borderTopWidth, borderBottomWidth } = getComputedStyle(box);
    const bar = box.offsetHeight - box.clientHeight - parseFloat(borderTopWidth) - parseFloat(borderBottomWidth);
    box.scrollLeft = 1e6;
    const moved = box.scrollLeft;
    box.scrollLeft = 0;
    return bar > 4 && moved > 0 ? [] : [`no bar: ${part.outerHTML.slice(0, 80)}`];
  });
"""


def barriers_of(browser: Chrome, page: str, site: Site) -> list[str]:
    """What axe-core finds in the open page; of those that Sphinx makes, if it has what none had before it.

    They are made by one template, and there are more of them than of all others. The list of all pages is looked at on
    the pages that someone wrote.
    """
    known = LISTED if page.startswith(MADE) else ""
    kinds = accessible.kinds(browser, known)
    if known and kinds <= site.kinds:
        return []
    found = accessible.violations(browser, known)
    site.kinds |= kinds
    return found


# What a page holds is told as it was written: nothing of it is laid out, and no script of it runs. The longest word of
# a block counts too, as it decides whether the block is wider than a phone. Formulas and pictures are to be seen.
READ = (
    accessible.KINDS
    + TEX
    + """
const [address, known, done] = arguments;
const block = "dt, dd, td, th, li, p, h1, h2, h3, h4";
fetch(address).then((answer) => answer.text()).then((text) => {
  const page = new DOMParser().parseFromString(text, "text/html");
  page.head.prepend(Object.assign(page.createElement("base"), { href: address }));
  const all = (css) => [...page.querySelectorAll(css)];
  const kinds = new Set(kindsOf(page, known));
  for (const part of all("article *").filter((part) => !part.closest("pre"))) {
    const words = [...part.childNodes].filter(({ nodeType }) => nodeType === Node.TEXT_NODE)
      .flatMap(({ data }) => data.split(/[^\\w]/));
    const longest = Math.max(0, ...words.map(({ length }) => length));
    for (let n = 1; n <= longest; n += 1) kinds.add(`${n} letters in ${part.closest(block)?.localName}`);
  }
  if (all("article :is(.math, img, svg, button, input, script)").length) kinds.add(address);
  done({
    kinds: [...kinds],
    problems: texIn(page),
    links: all("a[href]").map(({ href }) => href),
    ids: all("[id]").map(({ id }) => id),
  });
});
"""
)


def read_instead(browser: Chrome, home: str, page: str, site: Site) -> bool:
    """Whether it was enough to read a page: one that Sphinx makes, if all that it holds was on others of its folder."""
    folder = next((made for made in MADE if page.startswith(made)), None)
    if not folder or not browser.current_url.startswith(home):
        return False
    read = browser.execute_async_script(READ, home + page, LISTED)
    kinds = {f"{folder} {kind}" for kind in read.pop("kinds")}
    if not kinds <= site.written:
        site.written |= kinds
        return False
    site.pages[page], site.problems[page], site.barriers[page] = read, read["problems"], []
    return True


def look_at(browser: Chrome, home: str, page: str, site: Site, barriers: bool) -> None:
    """Open a page once, and note everything about it; if ISMKIT_SCREENSHOTS names a folder, take screenshots."""
    folder = os.environ.get("ISMKIT_SCREENSHOTS")
    if barriers and not folder and read_instead(browser, home, page, site):
        return
    browser.get(home + page)
    site.pages[page] = seen = browser.execute_async_script(LOOK)
    if folder:
        screenshots(browser, page, Path(folder))
    if barriers:
        browser.execute_script(UNFOLD)
        site.barriers[page] = barriers_of(browser, page, site)
        screen = {"width": PHONE, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        site.phone[page] = browser.execute_script("return document.documentElement.scrollWidth")
        site.cut[page] = browser.execute_script(CUT)
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    site.problems[page] = seen["problems"] + logged(browser, home)


def visit(folder: Path, *browsers: Chrome, barriers: bool = False) -> Site:
    """Open every page of a folder, and look where each link leads that stays inside; for barriers only if asked.

    Browsers share the pages, the large ones first: axe-core, which takes most of the time, uses one core in each.
    """
    site = Site()
    found = (path for path in folder.rglob("*.html") if "_static" not in path.relative_to(folder).parts)
    left = iter(sorted(found, key=lambda path: path.stat().st_size, reverse=True))

    def work(browser: Chrome) -> None:
        with accessible.in_every_page(browser) if barriers else nullcontext():
            for path in left:
                look_at(browser, home, path.relative_to(folder).as_posix(), site, barriers)

    with served(folder) as home, ThreadPoolExecutor(len(browsers)) as pool:
        list(pool.map(work, browsers))
    for page, seen in site.pages.items():
        site.problems[page] += [f"not the only one: #{name}" for name, n in Counter(seen["ids"]).items() if n > 1]
        for link in set(seen["links"]):
            if not link.startswith(home):
                continue
            target, fragment = urldefrag(unquote(link.removeprefix(home)))
            if target in site.pages:
                if fragment and fragment not in site.pages[target]["ids"]:
                    site.problems[page].append(f"no such place: {target}#{fragment}")
            elif not (folder / target).is_file():
                site.problems[page].append(f"no such page: {target}")
    return site


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of pages, built once, with the messages beside it."""
    folder = tmp_path_factory.mktemp("book")
    command = [sys.executable, "book/build.py", str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stderr == ""
    return folder / "html"


@pytest.fixture(scope="module")
def site(browser: Chrome, book: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    with chromium(tmp_path_factory.mktemp("second")) as second:
        return visit(book, browser, second, barriers=True)


def test_book_builds_without_a_warning(book: Path) -> None:
    assert (book / "index.html").is_file()


def test_no_page_has_a_problem(site: Site) -> None:
    found = [f"{page}: {problem}" for page, problems in site.problems.items() for problem in problems]
    assert not found, "\n".join(found)


LOADED = """
const entries = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
return entries.reduce((sum, { encodedBodySize }) => sum + encodedBodySize, 0);
"""


# Pages come one by one: they are all there when for a second none was added.
FOUND = """
const [done] = arguments;
(function look(before, same) {
  const all = [...document.querySelectorAll("#search-results li > a")].map(({ href }) => href.split(/[?#]/)[0]);
  if (all.length && all.length === before && same > 10) return done(all);
  setTimeout(look, 100, all.length, all.length === before ? same + 1 : 0);
})(0, 0);
"""


def test_start_page_takes_less_than_a_megabyte(browser: Chrome, book: Path) -> None:
    with served(book) as home:
        browser.get(f"{home}index.html")
        assert browser.execute_async_script("document.fonts.ready.then(() => arguments[0](true))")
        assert 500_000 < browser.execute_script(LOADED) < 1_000_000
        pictures = (
            "return performance.getEntriesByType('resource').filter(({ name }) => name.includes('samples')).length"
        )
        assert browser.execute_script(pictures) == 1  # of the two variants
        icons = browser.find_elements("css selector", "i.fa-solid")
        assert icons
        shown = "return getComputedStyle(arguments[0], '::before').content"
        assert all('"' in browser.execute_script(shown, icon) for icon in icons)  # by the font of the style sheet
        browser.get(f"{home}search.html?q=wavelet")
        assert len(browser.execute_async_script(FOUND)) > 3
        assert logged(browser, home) == []
        browser.get("about:blank")  # it is still fetching what it found
        logged(browser, home)


COMMENT = re.compile(r"<!-- [\w ]+ -->")


def test_every_comment_of_a_page_was_filled(book: Path) -> None:
    asked = {comment for path in BOOK.rglob("*.md") for comment in COMMENT.findall(path.read_text())}
    assert {"<!-- ladder of emoji -->", "<!-- live clothes -->", "<!-- figure -->"} <= asked
    left = {
        path.name: found for path in book.rglob("*.html") if (found := asked & {*COMMENT.findall(path.read_text())})
    }
    assert not left


def test_the_page_of_comparisons_has_the_ladder_on_both_data_sets(site: Site) -> None:
    cells = site.pages["comparing.html"]["cells"]
    what = ("the same, scale of guidance tuned", "w is an input", "a distance per wavelet band")  # in no other table
    assert [cells.count(name) for name in what] == [2, 2, 2]


def test_without_a_script_a_figure_is_shown_once(browser: Chrome, home: str, emulated: Callable[..., object]) -> None:
    emulated("Emulation.setScriptExecutionDisabled", {"value": True})
    for theme, file in (("light", "samples.png"), ("dark", "samples.dark.png")):
        emulated("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]})
        browser.get(f"{home}index.html")
        pictures = browser.find_elements(By.CSS_SELECTOR, "article img[src*='samples']")
        assert [picture.get_attribute("src").rpartition("/")[2] for picture in pictures if picture.is_displayed()] == [
            file
        ]
    logged(browser, home)  # scripts count as failed requests there; the next test is not to find them


def test_the_start_page_offers_both_models_and_a_picture_for_either_ground(browser: Chrome, home: str) -> None:
    browser.get(f"{home}index.html")
    assert {"live-clothes", "live-emoji"} == {
        root.get_attribute("id") for root in browser.find_elements(By.CLASS_NAME, "live")
    }
    for theme, file in (("light", "samples.png"), ("dark", "samples.dark.png")):
        browser.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
        pictures = browser.find_elements(By.CSS_SELECTOR, "article img[src*='samples']")
        assert [picture.get_attribute("src").rpartition("/")[2] for picture in pictures if picture.is_displayed()] == [
            file
        ]
    corner = "const [image, done] = arguments; image.loading = 'eager'; image.decode().then(() => { "
    corner += "const canvas = document.createElement('canvas'), pen = canvas.getContext('2d'); "
    corner += "pen.drawImage(image, 0, 0); done([...pen.getImageData(1, 1, 1, 1).data].slice(0, 3)); })"
    (shown,) = (picture for picture in pictures if picture.is_displayed())
    assert browser.execute_async_script(corner, shown) == [*figures.GROUND]
    assert logged(browser, home) == []


def test_lecturers_open_the_slides_of_every_hour(browser: Chrome, home: str, book: Path) -> None:
    browser.get(f"{home}lecturers.html")
    links = [link.get_attribute("href") for link in browser.find_elements(By.CSS_SELECTOR, "#slides li a")]
    assert links == [f"{home}slides/{hour}.html" for hour in range(1, 7)]
    for count, link in zip(browser.find_elements(By.CSS_SELECTOR, "#slides li"), links, strict=True):
        assert "<section" in (deck := (book / "slides" / link.rpartition("/")[2]).read_text())
        assert count.text.endswith(f", {deck.count('<section')} slides")
    browser.find_element(By.CSS_SELECTOR, "#slides li a").click()
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.ARROW_RIGHT)
    WebDriverWait(browser, 10).until(lambda _: browser.title.startswith("2 / "))
    assert logged(browser, home) == []
    # What students should not find next to the slides.
    assert not [path for path in book.rglob("*") if path.name in ("answers.html", "exam.html", "lecturer", "students")]


@pytest.mark.parametrize("page", ["notebooks/03_compounding_guidance.html", "index.html"])
def test_a_live_model_in_a_page_opened_as_a_file_says_how_to_serve_it(browser: Chrome, book: Path, page: str) -> None:
    browser.get((book / page).as_uri())
    roots = browser.find_elements(By.CLASS_NAME, "live")
    assert roots
    for root in roots:
        assert root.find_element(By.TAG_NAME, "img").get_property("naturalWidth") > 50
        hint = root.find_element(By.CLASS_NAME, "live-hint")
        assert hint.is_displayed()
        assert "opened as a file" in hint.text
        assert hint.find_element(By.TAG_NAME, "code").text == "python3 -m http.server 8000"
        link = hint.find_element(By.TAG_NAME, "a")
        assert link.get_attribute("href") == link.text == f"http://localhost:8000/{page}"
    assert logged(browser, "file:") == []  # nothing is refused before the button is pressed


def test_figures_to_explore_compute_in_a_page_opened_as_a_file(browser: Chrome, book: Path) -> None:
    browser.get((book / "explore.html").as_uri())
    for name in EXPLORABLES:
        figure = Explorable(browser, name)
        before = figure.alternative
        figure.block.find_element(By.CSS_SELECTOR, "input[type=range]").send_keys(Keys.HOME)
        assert figure.alternative != before
    figure = Explorable(browser, "guidance")
    assert "one step carries" in figure.number
    assert logged(browser, "file:") == []


def test_a_page_from_a_server_says_nothing_of_files(browser: Chrome, home: str) -> None:
    browser.get(f"{home}live.html")
    assert "opened as a file" not in browser.find_element(By.CLASS_NAME, "live").text
    assert logged(browser, home) == []


def test_every_notebook_module_and_text_has_a_page(site: Site) -> None:
    modules = {f"api/{path.parent.name}/{path.stem}.html" for path in FILES}
    notebooks = {f"notebooks/{name}.html" for name in NOTEBOOKS}
    assert modules | notebooks | TEXTS <= site.pages.keys()


def test_start_page_leads_to_every_page(site: Site) -> None:
    start = {link.rpartition("/")[2].partition("#")[0] for link in site.pages["index.html"]["links"]}
    wanted = {page.rpartition("/")[2] for page in site.pages if page.startswith("notebooks/")}
    assert wanted | TEXTS <= start


def test_start_page_counts_the_verdicts_of_every_notebook(site: Site) -> None:
    for name in NOTEBOOKS:
        path = BOOK / "ledger" / f"{number(Path(name))}.json"
        without = "all of them" if number(Path(name)) == "13" else "none"
        assert (verdicts(read(path)) if path.is_file() else without) in site.pages["index.html"]["cells"], name


def test_architecture_page_shows_the_drawing_and_every_file(site: Site) -> None:
    page = site.pages["architecture.html"]
    assert page["drawings"] == [True]
    assert {path.stem for path in FILES} <= set(page["cells"])


@pytest.mark.parametrize(
    ("seeds", "shown"),
    [("1000, 1001", "1000, 1001"), ("1002, 1003, 1004, 1005", "1002 to 1005"), ("0, 1, 5", "0, 1, 5")],
)
def test_seeds_that_follow_each_other_are_not_all_listed(seeds: str, shown: str) -> None:
    given = "confirmed ({0}); seed 7 had failed >= 0.5"
    assert book_build().in_a_row(given.format(seeds)) == given.format(shown)


def test_ledger_leads_to_the_cell_of_every_row(site: Site) -> None:
    assert site.pages["ledger.html"]["claims"] == len(book_entries())


def book_build() -> ModuleType:
    """The module ``book/build.py``, a script that imports what lies beside it."""
    spec = importlib.util.spec_from_file_location("book_build", BOOK / "build.py")
    assert spec
    assert spec.loader
    build = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BOOK))
        spec.loader.exec_module(build)
    return build


def outputs(notebook: nbformat.NotebookNode) -> Iterator[dict]:
    """What each cell shows; of a slider, what was shown below it when the notebook was saved."""
    states = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    yield from (output for cell in notebook.cells for output in cell.get("outputs", []))
    yield from (output for widget in states.values() for output in widget["state"].get("outputs", []))


ROWS = "return [...document.querySelectorAll('#all-claims tbody tr')]"


def test_ledger_is_filtered_by_keyboard_and_its_address_keeps_the_choice(browser: Chrome, home: str) -> None:
    browser.get(f"{home}ledger.html")
    form = browser.find_element("css selector", "form.claims-filter")
    assert form.find_element("css selector", "output").text == f"{len(CLAIMS)} of {len(CLAIMS)} claims"

    def shown() -> list[str]:
        return browser.execute_script(f"{ROWS}.filter((row) => row.offsetHeight).map((row) => row.cells[0].innerText)")

    assert shown() == list(CLAIMS)
    form.find_element("name", "verdict").send_keys("not resolved")
    wanted = [claim for claim in CLAIMS if CLAIMS[claim].verdict == "not resolved"]
    assert shown() == wanted
    form.find_element("name", "whose").send_keys("this kit")
    assert shown() == [claim for claim in wanted if CLAIMS[claim].source == "kit"]
    assert browser.current_url.endswith("?verdict=not+resolved&whose=this+kit")
    browser.refresh()
    form = browser.find_element("css selector", "form.claims-filter")
    assert shown() == [claim for claim in wanted if CLAIMS[claim].source == "kit"]
    form.find_element("css selector", "button").send_keys(Keys.ENTER)
    WebDriverWait(browser, 10).until(lambda _: shown() == list(CLAIMS))
    form.find_element("name", "notebook").send_keys("06")
    form.find_element("name", "text").send_keys("LOSS lower")
    assert "C06.hides" in shown() != [claim for claim in CLAIMS if claim.startswith("C06.")]
    assert form.find_element("css selector", "output").text == f"{len(shown())} of {len(CLAIMS)} claims"
    browser.get(f"{home}ledger.html?text=Frechet")
    plain = shown()
    browser.get(f"{home}ledger.html?text=" + quote("Fr\u00e9chet"))
    assert shown() == plain != []
    assert logged(browser, home) == []


def test_ledger_on_a_phone_has_every_cell_in_sight_after_the_name_of_its_column(
    browser: Chrome, home: str, emulated: Callable[..., object]
) -> None:
    screen = {"width": PHONE, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    emulated("Emulation.setDeviceMetricsOverride", screen)
    browser.get(f"{home}ledger.html?notebook=03")
    cell = "[cell.getBoundingClientRect().right, getComputedStyle(cell, '::before').content, cell.innerText.trim()]"
    rows = f"{ROWS}.filter((row) => row.offsetHeight).map((row) => [...row.cells].map((cell) => {cell}))"
    found = browser.execute_script(rows)
    assert len(found) == sum(claim.startswith("C03.") for claim in CLAIMS)
    for cells in found:
        shown = [(right, named) for right, named, text in cells if text]
        assert all(0 < right < PHONE for right, _ in shown)
        assert [named for _, named in shown[:4]] == ["none", "none", '"whose: "', '" · verdict: "']
    browser.get("about:blank")  # the address keeps a choice
    assert logged(browser, home) == []


def test_ledger_is_complete_without_javascript(browser: Chrome, home: str, emulated: Callable[..., object]) -> None:
    emulated("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(f"{home}ledger.html?verdict=exact")
    emulated("Emulation.setScriptExecutionDisabled", {"value": False})
    assert browser.execute_script(f"{ROWS}.filter((row) => row.offsetHeight).length") == len(CLAIMS)
    assert not browser.find_elements("css selector", "form.claims-filter")
    logged(browser, home)  # scripts count as failed requests there; the next test is not to find them


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_figures_and_solutions_of_a_notebook_are_shown(site: Site, name: str) -> None:
    page, notebook = site.pages[f"notebooks/{name}.html"], NOTEBOOKS[name]
    figures = [output for output in outputs(notebook) if "image/png" in output.get("data", {})]
    # Also those below the sliders, which need a kernel and are not in the page; each with a variant for dark pages.
    # Stored frames are shown instead: all of them are in the page, one at a time.
    every = (output.get("metadata", {}) for output in outputs(notebook))
    stored = [about["frames"]["frames"] for about in every if "frames" in about]
    more = sum(map(len, stored)) - len(stored)
    assert page["figures"] == len(figures) + more
    assert page["dark"] == sum("pictures" in output["metadata"].get("image/png", {}) for output in figures) + more
    # No long code stands between the text, and the exercises are folded.
    assert max(page["code"]) <= folds.LINES
    if not name.startswith("01b"):  # most of its exercises are the text
        levels = r"^\*\*\d\d\.(?:\d+|your)\b.*\(\*?(?:warm-up|core|stretch|open|project)\b"
        texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
        asked = [part for text in texts for part in re.findall(levels, text, re.MULTILINE)]
        assert len(page["exercises"]) == len(asked) > 0
    assert not [anchor for anchor, is_open in page["exercises"] if is_open]
    # Folded, and with one block of highlighted code.
    assert page["solutions"] == [[False, 1]] * len(solutions(notebook))


OPENED = """
const [root, done] = arguments;
const early = performance.getEntriesByType("resource").map(({ name, encodedBodySize }) => [name, encodedBodySize]);
root.querySelector(".live-load").click();
(function wait(left) {
  if (!root.live && left) return setTimeout(wait, 100, left - 1);
  const canvas = root.querySelector("canvas");
  done({
    early,
    drawn: Boolean(root.live),
    status: root.querySelector("[role=status]").textContent,
    side: canvas.getBoundingClientRect().width,
    width: document.documentElement.scrollWidth,
    numbers: new Set(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data).size,
  });
})(500);
"""


@contextmanager
def screen(browser: Chrome, width: int) -> Iterator[None]:
    """A screen of another width, as long as that is needed."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def loaded_early(seen: dict, home: str) -> dict[str, int]:
    """What of a live model a page loaded before the click, with the bytes: no more than a picture and a script."""
    assert not [name for name, _ in seen["early"] if "onnx" in name or name.endswith("element.js")]
    return {name.removeprefix(home): size for name, size in seen["early"] if "/live-" in name or "/models/" in name}


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("page", ["index.html", "live.html"])
def test_a_model_draws_in_the_page_after_one_click(browser: Chrome, book: Path, page: str, width: int) -> None:
    with screen(browser, width), served(book) as home:
        browser.get(home + page)
        seen = browser.execute_async_script(OPENED, browser.find_element(By.CLASS_NAME, "live"))
        assert logged(browser, home) == []
        browser.get("about:blank")  # a page that stays open would ask for pictures of a server that is gone
    assert seen["numbers"] > 50, seen["status"]  # levels of grey: the canvas is not blank
    assert 250 < seen["side"] < 390
    assert seen["width"] <= width
    model = loaded_early(seen, home)
    assert f"{live.SCRIPTS}/start.js" in model
    assert sum(model.values()) < 100_000


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if number(Path(name)) in BESIDE])
def test_the_live_models_of_a_notebook_draw_in_its_page(browser: Chrome, book: Path, name: str) -> None:
    with screen(browser, PHONE), served(book) as home:
        browser.get(f"{home}notebooks/{name}.html")
        roots = browser.find_elements(By.CLASS_NAME, "live")
        assert roots
        for root in roots:
            seen = browser.execute_async_script(OPENED, root)
            assert seen["drawn"], seen["status"]
            assert seen["numbers"] > 50
            if root == roots[0]:
                assert sum(loaded_early(seen, home).values()) < 200_000
        assert seen["width"] <= PHONE
        assert accessible.violations(browser, within=".live") == []
        assert logged(browser, home) == []
        browser.get("about:blank")


def test_without_javascript_a_picture_stands_for_a_live_model(
    browser: Chrome, home: str, emulated: Callable[..., object]
) -> None:
    emulated("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(home + "live.html")
    roots = browser.find_elements(By.CLASS_NAME, "live")
    assert len(roots) == 2
    for root in roots:
        image = root.find_element(By.TAG_NAME, "img")
        assert image.is_displayed()
        assert image.get_property("naturalWidth") > 100
        assert image.get_attribute("alt")
        assert "needs JavaScript" in root.text
        controls = root.find_elements(By.CSS_SELECTOR, "button, input, select, canvas, progress")
        assert controls
        assert not any(control.is_displayed() for control in controls)
    logged(browser, home)  # scripts count as failed requests there; the next test is not to find them


# The width of the outline of each control that has the focus by the keyboard.
FOCUSED = """
return [...arguments[0].querySelectorAll("button, input, select")].filter((one) => one.checkVisibility()).map((one) => {
  one.focus({ focusVisible: true });
  const { outlineStyle, outlineWidth } = getComputedStyle(one);
  return `${one.name || one.textContent}: ${outlineStyle} ${outlineWidth}`;
});
"""


def test_the_focus_is_seen_on_every_control_of_a_live_model_and_of_the_filter(browser: Chrome, home: str) -> None:
    browser.get(home + "live.html")
    before = browser.execute_script(FOCUSED, browser.find_element(By.ID, "live-clothes"))
    assert [line.rpartition(": ")[2] for line in before] == ["solid 3px"]  # the button that loads
    controls = browser.execute_script(FOCUSED, open_model(browser, "clothes"))
    browser.get(home + "ledger.html")
    controls += browser.execute_script(FOCUSED, browser.find_element(By.CSS_SELECTOR, "form.claims-filter"))
    assert len(controls) > 10
    assert not [line for line in controls if not line.endswith(": solid 3px")]
    assert logged(browser, home) == []


# ---------------------------------------------------------------- figures to explore

EXPLORABLES = {path.stem[3:]: path.stem[:2] for path in sorted((BOOK / "explore").glob("*.md"))}


@pytest.fixture(scope="module")
def home(book: Path) -> Iterator[str]:
    with served(book) as home:
        yield home


@pytest.fixture
def opened(browser: Chrome, home: str) -> Iterator[Callable[[str], Explorable]]:
    """Opens the page of the notebook that a figure belongs to; what it does must leave no error on the console."""

    def open_page(name: str) -> Explorable:
        (page,) = (path.stem for path in (ROOT / "notebooks").glob(f"{EXPLORABLES[name]}_*.ipynb"))
        browser.get(f"{home}notebooks/{page}.html")
        return Explorable(browser, name)

    yield open_page
    assert logged(browser, home) == []


@pytest.fixture
def emulated(browser: Chrome) -> Iterator[Callable[..., object]]:
    """Gives the browser a width or a preference, and takes it away again."""
    yield browser.execute_cdp_cmd
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_guidance_of_one_step_follows_the_controls(opened: Callable[[str], Explorable]) -> None:
    figure = opened("guidance")
    assert "one step carries 17.09 where 1.5" in figure.number
    figure.click("Scale c", 1)
    assert figure.value("Scale c") == "3.00"
    assert f"one step carries {3**7} where 3" in figure.number
    figure.keys("Finest steps", Keys.HOME, Keys.ARROW_RIGHT)
    assert figure.value("Finest steps") == "4"
    assert "one step carries 9 where 3" in figure.number
    figure.keys("Distance", Keys.HOME)
    assert "both classes are one" in figure.number
    figure.keys("Standard deviation of class A", Keys.ARROW_RIGHT)
    assert "for class A (above it)" in figure.number
    said = figure.block.find_element(By.CSS_SELECTOR, "[role=status]")
    WebDriverWait(figure.browser, 10).until(lambda _: said.get_property("textContent") == figure.number)


def test_guidance_below_the_scale_has_an_open_mark(opened: Callable[[str], Explorable]) -> None:
    figure = opened("guidance")
    marks = "return arguments[0].querySelectorAll('circle.below').length"
    assert figure.browser.execute_script(marks, figure.picture) == 0
    figure.keys("Scale c", Keys.HOME, *[Keys.ARROW_RIGHT] * 20)
    figure.keys("Finest steps", Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    figure.keys("Distance", Keys.HOME, *[Keys.ARROW_RIGHT] * 5)
    figure.keys("Standard deviation of class A", Keys.HOME, *[Keys.ARROW_RIGHT] * 6)
    figure.keys("Standard deviation of class B", Keys.END)
    assert "carry -0.0" in figure.number
    assert figure.number.endswith("Open marks are below the scale.")
    assert figure.browser.execute_script(marks, figure.picture) > 0


def test_weights_of_the_bands_follow_the_controls(opened: Callable[[str], Explorable]) -> None:
    figure = opened("wavelet")
    figure.keys("Ratio", Keys.END)
    assert f"level 1 {unit_weights(geometric_weights(3, 4.0))[0]:.3g}," in figure.number
    assert figure.number.endswith("is 1.")
    figure.click("Scale the weights")
    assert "level 1 4, level 2 16, level 3 64, low-pass 64" in figure.number
    assert figure.number.endswith(f"is {sum(4**k * 3 / 4**k for k in (1, 2, 3)) + 1:g}.")
    figure.click("Levels", 0)
    assert "Weights of a coefficient: low-pass 1." in figure.number


def test_leak_of_a_coupling_follows_the_controls(opened: Callable[[str], Explorable]) -> None:
    figure = opened("coupling")

    def leak() -> float:
        return float(re.findall(r"a leak of ([\d.]+)", figure.number)[0])

    plain = leak()
    figure.click("Assign within")
    aware = leak()
    assert plain > 0.5 > 0.3 > aware
    figure.keys("Points in one assignment", Keys.HOME)
    assert "0 % less than independent ones" in figure.number
    assert leak() == aware  # within its class each noise stays where it was drawn: the same mean
    before = figure.number
    figure.keys("Other points", Keys.ENTER)
    assert figure.number != before
    press = "for (let k = 0; k < 31; k += 1) arguments[0].click()"
    figure.browser.execute_script(press, figure.control("Other points"))  # the 33rd, where the estimate is -0.002
    assert "(0.00 nats)" in figure.number


def test_lag_of_the_averages_follows_the_controls(opened: Callable[[str], Explorable]) -> None:
    figure = opened("averages")
    figure.keys("Steps", Keys.HOME)
    kept = 100 * shares(0.9999, 10).square().sum().sqrt()
    assert f"the slow average lags 1 steps and keeps {kept:.3g} %" in figure.number
    assert figure.number.endswith("until step 89990, and its decay only then.")
    assert (1 + 89990) / (10 + 89990) >= 0.9999 > (1 + 89989) / (10 + 89989)
    figure.click("Warm-up ramp")
    assert "ramp" not in figure.number
    assert f"the slow average lags {0.9999 * (1 - 0.9999**10) / (1 - 0.9999):.4g} steps" in figure.number
    figure.click("Decay of the slow", 0)
    assert "the slow average lags 0 steps and keeps 100 %" in figure.number


def test_bias_of_fid_follows_the_controls(opened: Callable[[str], Explorable]) -> None:
    figure = opened("bias")
    assert f"the expected bias is {16 * 21 / 4 / 1000:.4g}: a distance of 0.10 reads as 0.184." in figure.number
    reads, end = (
        float(value) for value in re.findall(r"reads ([\d.]+), and its line ends at (-?\d*\.\d+)", figure.number)[0]
    )
    assert reads == pytest.approx(0.184, abs=0.05)
    assert end == pytest.approx(0.1, abs=0.05)
    before = figure.number
    figure.click("Draw another set")
    assert figure.number != before
    figure.keys("Features", Keys.END)
    assert f"the expected bias is {2048 * 2053 / 4 / 1000:.0f}:" in figure.number
    assert "too few for the law" in figure.number
    assert not figure.control("Draw another set").is_enabled()  # none is drawn of so many features
    figure.keys("Features", Keys.HOME, Keys.ARROW_RIGHT)
    figure.click("Samples", 0)
    assert f"the expected bias is {expected_bias(torch.eye(2), 100):.4g}:" in figure.number


def test_flow_goes_to_the_data_that_is_drawn(opened: Callable[[str], Explorable]) -> None:
    figure = opened("flow")

    def error() -> float:
        return float(re.findall(r"samples end ([\d.]+)", figure.number)[0])

    figure.click("Clear")
    assert "No data yet" in figure.number
    figure.click_at(figure.picture, 0.6, 0.5)
    assert "1 point." in figure.number
    figure.keys("Steps", Keys.HOME)
    figure.keys("Width", Keys.HOME, Keys.ARROW_RIGHT)
    narrow = error()
    # One Euler step ends in the point, the exact path of a single Gaussian in the point plus its width times the noise.
    figure.keys("Width", Keys.END)
    assert error() == pytest.approx(5 * narrow, abs=0.006)
    figure.keys("Shape", Keys.ARROW_DOWN)
    figure.keys("Add shape", Keys.SPACE)
    assert "49 points." in figure.number


def test_every_shape_is_another_one(opened: Callable[[str], Explorable]) -> None:
    figure = opened("flow")
    shapes, pictures = figure.control("Shape").find_elements(By.TAG_NAME, "option"), set()
    for shape in shapes:
        figure.keys("Clear", Keys.ENTER)
        figure.keys("Shape", shape.text)
        figure.keys("Add shape", Keys.ENTER)
        pictures.add(figure.shown)
    assert len(pictures) == len(shapes) > 3


@pytest.mark.parametrize("name", EXPLORABLES)
def test_every_control_of_a_figure_changes_what_it_shows(opened: Callable[[str], Explorable], name: str) -> None:
    figure = opened(name)
    moved = figure.block.find_elements(By.CSS_SELECTOR, "input")
    pressed = figure.block.find_elements(By.CSS_SELECTOR, "button")[::-1]  # so that what clears comes before what adds
    assert len(moved) + len(pressed) + len(figure.block.find_elements(By.TAG_NAME, "select")) == len(
        figure.block.find_elements(By.CSS_SELECTOR, ".controls :is(input, button, select)")
    )
    for control in [*moved, *pressed]:
        before = figure.shown
        figure.browser.execute_script("arguments[0].focus({focusVisible: true})", control)
        style = "const style = getComputedStyle(arguments[0]); return style.outlineWidth + style.outlineStyle"
        assert figure.browser.execute_script(style, control) == "3pxsolid"
        last = control.get_attribute("value") == control.get_attribute("max")
        there, back = (Keys.ARROW_LEFT, Keys.ARROW_RIGHT) if last else (Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
        slider = control.get_attribute("type") == "range"
        control.send_keys(there if slider else Keys.SPACE)
        label = control.accessible_name
        WebDriverWait(figure.browser, 10).until(lambda _, before=before: figure.shown != before, f"dead: {label}")
        if slider:  # each is tried from where all others are at first
            control.send_keys(back)
            assert figure.shown == before
        if label == "Stop":  # what plays would change the picture beside the next control
            control.send_keys(Keys.SPACE)
            assert control.text == "Play"


def test_flow_draws_data_along_a_drag(opened: Callable[[str], Explorable]) -> None:
    figure = opened("flow")
    figure.click("Clear")
    squares = (
        "return [...arguments[0].querySelectorAll('rect.three')].map(({ x, y }) => [x.baseVal.value, y.baseVal.value])"
    )

    def points() -> list[list[float]]:
        return figure.browser.execute_script(squares, figure.picture)

    assert points() == []
    figure.browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", figure.picture)
    pen = (
        ActionChains(figure.browser, duration=50).move_to_element_with_offset(figure.picture, -80, 40).click_and_hold()
    )
    for _ in range(8):
        pen.move_by_offset(20, 0)
    pen.release().move_by_offset(0, -60).perform()  # what follows the release draws nothing
    drawn = points()
    assert len(drawn) >= 8
    assert f"{len(drawn)} points." in figure.number
    assert [x for x, _ in drawn] == sorted(x for x, _ in drawn)
    assert drawn[-1][0] - drawn[0][0] == pytest.approx(160, abs=15)
    assert {round(y) for _, y in drawn} == {round(drawn[0][1])}


TAP = """
const [picture] = arguments, { x, y, width, height } = picture.getBoundingClientRect();
const at = { clientX: x + width / 2, clientY: y + height / 2, bubbles: true };
picture.dispatchEvent(new PointerEvent("pointerdown", { ...at, pointerType: "touch" }));
picture.dispatchEvent(new PointerEvent("pointerup", { ...at, pointerType: "touch" }));
picture.dispatchEvent(new MouseEvent("click", at));
"""


def test_a_tap_adds_a_point_where_a_click_does_not_say_that_it_was_one(opened: Callable[[str], Explorable]) -> None:
    """Before 18.2 a click of Safari has no type of pointer, and then for some time that of a mouse."""
    figure = opened("flow")
    figure.click("Clear")
    figure.browser.execute_script(TAP, figure.picture)
    assert "1 point." in figure.number


def test_a_pen_over_a_drawing_does_not_scroll_the_page_and_a_finger_does(opened: Callable[[str], Explorable]) -> None:
    figure = opened("flow")
    hover = "arguments[0].dispatchEvent(new PointerEvent('pointerover', { pointerType: arguments[1], bubbles: true }));"
    hover += "return getComputedStyle(arguments[0]).touchAction"
    found = {kind: figure.browser.execute_script(hover, figure.picture, kind) for kind in ("pen", "touch", "mouse")}
    assert found == {"pen": "none", "touch": "auto", "mouse": "auto"}


FRAMES = "return [...document.querySelectorAll('.scrubbed a.image-reference')].filter((one) => one.offsetHeight)"
WITH_FRAMES = [
    name
    for name, notebook in NOTEBOOKS.items()
    if any("frames" in one.get("metadata", {}) for one in outputs(notebook))
]


@pytest.mark.parametrize("name", WITH_FRAMES)
def test_every_slider_of_stored_frames_moves_to_another_picture(browser: Chrome, book: Path, name: str) -> None:
    home = f"{book.as_uri()}/"  # as a file, where browsers run less than from a server
    browser.get(f"{home}notebooks/{name}.html")
    WebDriverWait(browser, 10).until(lambda _: browser.find_elements(By.CSS_SELECTOR, ".scrubbed"))

    def picture() -> str:
        (one,) = browser.execute_script(FRAMES)
        return one.get_attribute("href")

    for slider in browser.find_elements(By.CSS_SELECTOR, ".frames input"):
        before, position = picture(), slider.get_attribute("value")
        slider.send_keys(Keys.ARROW_LEFT if position == slider.get_attribute("max") else Keys.ARROW_RIGHT)
        assert picture() != before
        assert slider.get_attribute("value") != position
    assert logged(browser, home) == []


def test_sliders_of_a_notebook_are_replaced_by_frames_or_by_a_link(site: Site) -> None:
    build = book_build()
    for name, notebook in NOTEBOOKS.items():
        cells = [cell.source for cell in notebook.cells if cell.cell_type == "code" and "plot.explore(" in cell.source]
        instead = build.INSTEAD.get(number(Path(name)), [])
        assert ["stored={" in source for source in cells] == [heading is None for heading in instead], name
        assert {build.slug(heading) for heading in instead if heading} <= {*site.pages[f"notebooks/{name}.html"]["ids"]}


# Presses play, stops at the first moment after 0.3, and tells the moments that were shown, and two frames later.
PLAY = """
const [slider, press, done] = arguments;
const moments = [];
const look = () => {
  const t = Number(slider.value);
  if (t !== moments.at(-1)) moments.push(t);
  if (t < 0.3 || moments.length < 3) return requestAnimationFrame(look);
  press.click();
  const stopped = Number(slider.value);
  requestAnimationFrame(() => requestAnimationFrame(() => done([moments, stopped, Number(slider.value)])));
};
press.click();
requestAnimationFrame(() => requestAnimationFrame(look));
"""


def test_flow_plays_and_stops(opened: Callable[[str], Explorable]) -> None:
    figure = opened("flow")
    slider, press = figure.control("Time"), figure.control("Play")
    outputs = figure.block.find_elements(By.TAG_NAME, "output")  # those of sliders: else each moment would be read out
    assert {output.get_attribute("aria-live") for output in outputs} == {"off"}
    moments, stopped, later = figure.browser.execute_async_script(PLAY, slider, press)
    assert moments == sorted(moments)
    assert stopped == later < 1
    assert press.text == "Play"
    press.click()
    figure.keys("Time", Keys.END)  # which its reader takes over
    assert (press.text, figure.value("Time")) == ("Play", "1.00")


def test_flow_goes_from_moment_to_moment_for_those_who_want_no_motion(
    opened: Callable[[str], Explorable], emulated: Callable[..., object]
) -> None:
    emulated("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]})
    figure = opened("flow")
    for moment in ("0.00", "0.10", "0.20"):
        figure.keys("Next", Keys.ENTER)
        assert figure.value("Time") == moment
    emulated("Emulation.setEmulatedMedia", {"features": []})
    press = WebDriverWait(figure.browser, 10).until(lambda _: figure.control("Play"))
    press.click()
    assert press.text == "Stop"
    emulated("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]})
    WebDriverWait(figure.browser, 10).until(lambda _: press.text == "Next")  # the wish came while it played
    stopped = figure.value("Time")
    figure.browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert figure.value("Time") == stopped


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_of_all_figures_fits_and_can_be_used(
    browser: Chrome, home: str, emulated: Callable[..., object], width: int, theme: str
) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    emulated("Emulation.setDeviceMetricsOverride", size)
    emulated("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]})
    browser.get(home + "explore.html")
    for name in EXPLORABLES:
        figure = Explorable(browser, name)
        assert (
            figure.number in figure.alternative or "leak" in figure.alternative or "coefficients" in figure.alternative
        )
        slider = figure.block.find_element(By.CSS_SELECTOR, "input[type=range]")
        before = figure.alternative
        browser.execute_script("arguments[0].focus({focusVisible: true})", slider)
        assert browser.execute_script("return getComputedStyle(arguments[0]).outlineWidth", slider) == "3px"
        slider.send_keys(Keys.HOME)
        assert figure.alternative != before
        box = figure.picture.rect
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ground, ink = browser.execute_script(
        "const style = getComputedStyle(document.querySelector('.explorable'));"
        "return [document.documentElement.dataset.theme, style.getPropertyValue('--one')]"
    )
    assert (ground, ink.strip()) == (theme, {"light": "#0072b2", "dark": "#5cb8ee"}[theme])
    assert logged(browser, home) == []


def test_without_javascript_a_sentence_stands_for_each_figure(
    browser: Chrome, home: str, emulated: Callable[..., object]
) -> None:
    emulated("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(home + "explore.html")
    blocks = browser.find_elements(By.CSS_SELECTOR, "[data-explore]")
    assert [block.text for block in blocks] == [
        "This figure needs JavaScript. The figures of the notebook show the same."
    ] * len(EXPLORABLES)
    logged(browser, home)  # scripts count as failed requests there; the next test is not to find them


def test_only_pages_with_a_figure_load_what_draws_it(book: Path) -> None:
    pages = {path: path.read_text() for path in book.rglob("*.html") if "_static" not in path.parts}
    loading = {path for path, text in pages.items() if "explore/explore.js" in text}
    assert loading == {path for path, text in pages.items() if "data-explore=" in text}
    assert len(loading) == len(EXPLORABLES) + 1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_has_a_barrier(site: Site, theme: str) -> None:
    assert site.barriers.keys() == site.pages.keys()
    found = [f"{page}: {what}" for page, seen in site.barriers.items() for what in seen if what.startswith(theme)]
    assert not found, "\n".join(found)


def test_a_barrier_is_found_in_either_theme_and_in_code(browser: Chrome, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    style = "html, .n, pre { background: #fff } [data-theme=dark] .n { color: #eee }"
    page.write_text(
        f'<!doctype html><html lang="en"><title>x</title><link rel="icon" href="data:,"><style>{style}</style>'
        f'<main><h1>x</h1><img src="{PIXEL}"><pre><span class="k">with </span><span class="k">open </span>'
        '<span class="n">some </span><span class="n">name</span></pre></main>'
    )
    with served(tmp_path) as home:
        browser.get(f"{home}page.html")
        found = accessible.violations(browser)
        logged(browser, home)
    assert [what.partition(" (")[0] for what in found] == ["light: image-alt", "dark: color-contrast"]
    assert browser.find_element("css selector", "pre").text == "with open some name"


def test_a_text_that_looks_like_no_other_and_a_link_without_a_line_are_found(browser: Chrome, tmp_path: Path) -> None:
    style = "html { background: #fff; color: #000 } li:nth-child(3) { color: #ccc } a { color: #05a }"
    style += "[data-theme=dark] .plain { text-decoration: none } .gone { opacity: 0; text-decoration: none }"
    items = "<li>one</li>" * 3
    links = '<p>see <a href="#a">this</a>, <a class="plain" href="#b">that</a> <a class="gone" href="#c">#</a></p>'
    page = f'<!doctype html><html lang="en"><title>x</title><link rel="icon" href="data:,"><style>{style}</style>'
    (tmp_path / "page.html").write_text(f"{page}<main><h1>x</h1><ul>{items}</ul>{links}</main>")
    with served(tmp_path) as home:
        browser.get(f"{home}page.html")
        found = accessible.violations(browser)
        logged(browser, home)
    assert [re.split(r" \(|: <", what)[0] for what in found] == [
        "light: color-contrast",
        "dark: a link is told from the text by its colour alone",
        "dark: color-contrast",
    ]
    assert all(part in what for part, what in zip(("nth-child(3)", "that", "<li>one"), found, strict=True))


def test_a_made_page_is_tried_if_it_has_what_none_had(browser: Chrome, tmp_path: Path) -> None:
    """What is wrong below is found wherever it first stands, and a second like it is not looked at."""
    page = '<!doctype html><html lang="en" style="background: #fff"><title>x</title><link rel="icon" href="data:,">'
    page += "<main><h1>x</h1>{}</main>"
    parts = {"1": "<p>word</p>" * 9, "2": "<p>other</p>", "3": "<p>x</p><h3>y</h3>", "4": f'<p><img src="{PIXEL}"></p>'}
    parts |= {"5": "<p></p><dl><dd>x</dd></dl>", "6": "<p>x</p><h3>z</h3>"}
    (folder := tmp_path / "api").mkdir()
    for name, part in parts.items():
        (folder / f"{name}.html").write_text(page.format(part) + " " * (900 - len(part)))
    found = visit(tmp_path, browser, barriers=True).barriers
    rules = {path[4:5]: [re.split(r": | \(", what)[1] for what in seen] for path, seen in found.items()}
    assert rules["1"] == rules["2"] == []
    assert sorted(rules["3"] + rules["6"]) == ["heading-order"]
    assert rules["4"] == ["image-alt"]
    assert rules["5"] == ["dlitem"] or rules["5"] == ["definition-list"]


def test_a_made_page_is_opened_if_it_has_what_none_of_its_folder_had(browser: Chrome, tmp_path: Path) -> None:
    """Of what is read alone, links and text are looked at as ever."""
    parts = {
        "1": "<p>written</p>",
        "api/1": '<p id="here">some <i>more</i> words</p><p id="gone">of <a href="2.html#here">it</a></p><p>so</p>',
        "api/2": '<p id="here">a few</p>',
        "api/3": "<p>lengthiest</p>",
        "api/4": "<p>a <b>bold</b> word</p>",
        "api/5": "<p>no longer</p>",
        "api/6": '<p id="x">some <a href="2.html#here">words</a></p>',
        "api/7": '<p id="x">of <a href="2.html#gone">it</a>, $x + y$</p>',
        "api/8": '<p><i class="math">x</i></p>',
        "api/9": '<p><i class="math">y</i></p>',
        "_modules/1": '<p id="here">a few</p>',
        "_modules/2": '<p id="here">and</p>',
    }
    head = '<!doctype html><html lang="en" style="background: #fff"><title>x</title><link rel="icon" href="data:,">'
    for k, (name, part) in enumerate(parts.items()):  # the longest is looked at first
        path = tmp_path / f"{name}.html"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{head}<main><article><h1>x</h1>{part}</article></main>".ljust(2000 - 10 * k))
    found = visit(tmp_path, browser, barriers=True)
    assert found.pages.keys() == found.barriers.keys() == {f"{name}.html" for name in parts}
    opened = {page.removesuffix(".html") for page in found.phone}
    assert parts.keys() - opened == {"api/2", "api/5", "api/6", "api/7", "_modules/2"}
    wrong = {page: problems for page, problems in found.problems.items() if problems}
    assert wrong.pop("api/7.html") == ["TeX in the text: $x + y$", "no such place: api/2.html#gone"]
    assert [*wrong] == ["api/8.html", "api/9.html"]  # neither is typeset


OVER = '<b style="position: absolute; top: 0; left: 0; width: 99px; height: 99px; background: #123"></b>'
OPEN = {
    "image behind": ('<p style="background: linear-gradient(#fff, #fff)">some words</p>', "an image is behind it"),
    "faint in a drawing": ('<svg><text y="20" fill="#aaa">some words</text></svg>', "contrast 2.32 of 4.5"),
    "faded in a drawing": ('<svg><text y="20" opacity="0.4">some words</text></svg>', "contrast 2.85 of 4.5"),
    "strong in a drawing": ('<svg><text y="20" fill="#555">some words</text></svg>', ""),
    "on a ground, below something": (
        f'<div style="background: #777"><p style="color: #999; background: #fff8">some words</p></div>{OVER}',
        "contrast 1.56 of 4.5",
    ),
    "strong, below something": (f"<p>some words</p>{OVER}", ""),
}


@pytest.mark.parametrize("name", OPEN)
def test_contrast_that_axe_leaves_open_is_decided(browser: Chrome, tmp_path: Path, name: str) -> None:
    part, complaint = OPEN[name]
    style = "html { background: #fff } body { margin: 0 }"
    page = f'<!doctype html><html lang="en"><title>x</title><link rel="icon" href="data:,"><style>{style}</style>'
    (tmp_path / "page.html").write_text(f"{page}<main><h1>x</h1>{part}</main>")
    with served(tmp_path) as home:
        browser.get(f"{home}page.html")
        found = accessible.violations(browser)
        logged(browser, home)
    assert [what.rpartition(": ")[2] for what in found] == [complaint] * 2 * bool(complaint), found


def test_no_page_is_too_long(site: Site) -> None:
    # Excepted: the sources of the modules, of which a line is a line; one comes there from elsewhere, to a name.
    opened = {page: seen for page, seen in site.pages.items() if page in site.phone}
    heights = {page: seen["height"] for page, seen in opened.items() if not page.startswith("_modules/")}
    assert not {page: height for page, height in heights.items() if height > LONGEST}


def test_every_page_fits_a_phone(site: Site) -> None:
    assert not {page: width for page, width in site.phone.items() if width > PHONE}


def test_what_is_wider_than_a_phone_scrolls_under_a_bar(site: Site) -> None:
    found = [f"{page}: {what}" for page, cut in site.cut.items() for what in cut]
    assert not found, "\n".join(found[:20])


@pytest.mark.parametrize(
    ("style", "complaint"), [("overflow-x: hidden", "cut off"), ("overflow-x: auto; scrollbar-width: none", "no bar")]
)
def test_a_table_that_a_phone_cuts_off_is_found(browser: Chrome, tmp_path: Path, style: str, complaint: str) -> None:
    page = '<!doctype html><link rel="icon" href="data:,"><article><div style="{}"><table><tr><td>{}</table></div>'
    (tmp_path / "page.html").write_text(page.format(style, "word" * 200))
    (tmp_path / "good.html").write_text(page.format("overflow-x: auto", "word" * 200))
    with screen(browser, PHONE), served(tmp_path) as home:
        browser.get(f"{home}good.html")
        assert browser.execute_script(CUT) == []
        browser.get(f"{home}page.html")
        (found,) = browser.execute_script(CUT)
        logged(browser, home)
    assert found.startswith(f"{complaint}: <table>")


SHOWN = """
const boxes = [...document.querySelectorAll(".cell_output > div.output")].filter(({ clientHeight }) => clientHeight);
const [whole, cut] = [false, true].map((cut) => boxes.filter((box) => box.classList.contains("continues") === cut));
const hides = (box) => box.scrollHeight > box.clientHeight + 4;
return [whole.length, whole.filter(hides).length, cut.length, cut.filter(hides).length];
"""


def test_an_output_that_continues_below_looks_like_it_until_its_end(browser: Chrome, home: str) -> None:
    browser.get(f"{home}notebooks/09_neighbours.html")
    WebDriverWait(browser, 10).until(lambda _: browser.execute_script(SHOWN)[2])
    whole, wrong, cut, right = browser.execute_script(SHOWN)
    assert whole > 5
    assert wrong == 0
    assert cut == right > 0
    box = browser.find_element("css selector", ".continues")
    assert "gradient" in box.value_of_css_property("mask-image")
    browser.execute_script("arguments[0].scrollTop = 1e6", box)
    WebDriverWait(browser, 10).until(lambda _: "continues" not in box.get_attribute("class"))


def test_printed_sentences_wrap_and_columns_do_not(browser: Chrome, home: str) -> None:
    browser.get(f"{home}notebooks/05_wavelet_loss.html")
    printed = browser.find_elements("css selector", ".cell_output pre")
    how = {part.text.split()[0]: part.value_of_css_property("white-space") for part in printed if part.text}
    assert how["PASS"] == "pre-wrap"
    assert how["Frechet"] == "pre"  # the first word of a table
    below = next(part for part in printed if "PASS C05.white:" in part.text)  # a table, and sentences below it
    sentences = [part for part in below.find_elements("css selector", ".prose") if part.text]
    assert below.value_of_css_property("white-space") == "pre"
    assert [part.value_of_css_property("white-space") for part in sentences] == ["pre-wrap"]
    assert sentences[0].text.startswith("PASS C05.white:")
    streams = {
        "".join(out.get("text", "")).strip()
        for cell in NOTEBOOKS["05_wavelet_loss"].cells
        for out in cell.get("outputs", ())
    }
    assert below.get_property("textContent").strip() in streams  # no line is lost, none moved


@pytest.mark.parametrize(
    ("page", "names"), [("guarantees", "#guarantees code .pre"), ("commands", "#environment-variables td code .pre")]
)
def test_long_names_break_between_words(browser: Chrome, home: str, page: str, names: str) -> None:
    browser.get(f"{home}{page}.html")
    shown = browser.find_elements("css selector", names)
    name = next(name for name in shown if name.text.startswith(("tests/", "ISMKIT_")))
    parts = name.get_property("innerHTML").split("<wbr>")
    assert len(parts) > 1
    assert "".join(parts) == name.text
    assert all(part[-1] in "/_:" for part in parts[:-2])


def test_a_page_leads_to_the_one_before_and_the_next(site: Site) -> None:
    pages = TEXTS | {f"notebooks/{name}.html" for name in NOTEBOOKS}
    alone = {page for page in pages if not site.pages[page]["neighbours"]}
    assert not alone


FOLDS = "return [...document.querySelectorAll('article details.folded, article details.hide')].map(({ open }) => open)"
EXERCISE = "notebooks/03_compounding_guidance.html#exercise-03-1"


def test_a_link_opens_the_exercise_that_it_leads_to(browser: Chrome, home: str) -> None:
    browser.get(home + EXERCISE)
    part = browser.find_element("id", "exercise-03-1")
    WebDriverWait(browser, 10).until(lambda _: part.get_property("open"))
    assert sum(browser.execute_script(FOLDS)) == 1
    browser.execute_script("location.hash = '#exercise-03-2'")
    WebDriverWait(browser, 10).until(lambda _: browser.find_element("id", "exercise-03-2").get_property("open"))
    box = "return document.getElementById('exercise-03-2').getBoundingClientRect().top"
    WebDriverWait(browser, 10).until(lambda _: 0 <= browser.execute_script(box) < 900)
    assert logged(browser, home) == []


def test_a_button_unfolds_a_page_by_keyboard_and_folds_it_again(browser: Chrome, home: str) -> None:
    browser.get(home + EXERCISE.partition("#")[0])
    button = WebDriverWait(browser, 10).until(lambda _: browser.find_element("css selector", "button.unfold"))
    assert not any(browser.execute_script(FOLDS))
    for wanted, text in ((True, "Fold code and exercises"), (False, "Unfold everything")):
        browser.execute_script("arguments[0].focus({focusVisible: true})", button)
        button.send_keys(Keys.ENTER)
        WebDriverWait(browser, 10).until(lambda _, text=text: button.text == text)
        assert set(browser.execute_script(FOLDS)) == {wanted}
    assert logged(browser, home) == []


def test_paper_shows_what_is_folded_and_the_page_stays_as_it_was(browser: Chrome, home: str) -> None:
    browser.get(home + EXERCISE)
    part = browser.find_element("id", "exercise-03-1")
    WebDriverWait(browser, 10).until(lambda _: part.get_property("open"))
    before = browser.execute_script(FOLDS)
    ground = "return document.documentElement.dataset.theme"
    browser.execute_script("document.documentElement.dataset.theme = 'dark'")
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert all(browser.execute_script(FOLDS))
    assert browser.execute_script(ground) == "light"
    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(FOLDS) == before
    assert browser.execute_script(ground) == "dark"
    assert logged(browser, home) == []


#: What of the code of a page paper would not show: parts that fade in, and lines that are cut off.
UNPRINTED = """
const code = [...document.querySelectorAll("article :is(div.highlight, div.output) pre")];
const folded = [...document.querySelectorAll("article details > *")];
return [
  folded.filter((part) => getComputedStyle(part).animationName !== "none").length,
  code.filter((part) => part.scrollWidth > part.clientWidth + 1).length,
  [...document.querySelectorAll("article .copybtn")].filter((part) => part.checkVisibility()).length,
];
"""


def test_paper_shows_all_code_and_all_of_its_lines(browser: Chrome, home: str, emulated: Callable[..., object]) -> None:
    browser.get(home + EXERCISE.partition("#")[0])
    WebDriverWait(browser, 10).until(lambda _: browser.find_elements(By.CSS_SELECTOR, "article .copybtn"))
    browser.execute_script(UNFOLD)
    assert min(browser.execute_script(UNPRINTED)) > 0
    emulated("Emulation.setEmulatedMedia", {"media": "print"})
    WebDriverWait(browser, 10).until(lambda _: browser.execute_script(UNPRINTED) == [0, 0, 0])
    emulated("Emulation.setEmulatedMedia", {"media": "screen"})
    assert logged(browser, home) == []


def test_of_a_figure_one_variant_is_loaded_and_its_place_is_kept(browser: Chrome, home: str, book: Path) -> None:
    browser.get(f"{home}notebooks/05_wavelet_loss.html")
    browser.execute_script("document.documentElement.dataset.theme = 'light'")
    images = browser.find_elements(By.CSS_SELECTOR, "article .cell_output img.only-light, article img.only-dark")
    assert len(images) > 20
    for image in images:
        assert image.get_property("loading") == "lazy"
        if image.is_displayed():  # as its file is, whether it was loaded by now or not
            shown = image.size["width"] / image.size["height"]
            path = unquote(image.get_attribute("src") or "").removeprefix(home)
            with Image.open(book / path) as picture:
                width, height = picture.size
            assert shown == pytest.approx(width / height, rel=0.01)
    names = browser.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert not [name for name in names if name.endswith(".dark.png")]
    assert logged(browser, home) == []


def test_scripts_that_changed_have_other_addresses(book: Path) -> None:
    """A plain server does not say how long a copy is right, and a browser keeps it for days."""
    text = {name: (book / f"{name}.html").read_text() for name in ("explore", "notebooks/04_intrinsic_guidance")}
    scripts = {"explore/explore.js": "explore", "frames.js": "notebooks/04_intrinsic_guidance", "reading.js": "explore"}
    for script, page in scripts.items():
        assert re.search(rf"_static/{script}\?v=[0-9a-f]+", text[page]), script
    assert f"{live.SCRIPTS}/start.js" in text["notebooks/04_intrinsic_guidance"]
    assert not (book / "_static" / "live").exists()


def test_what_is_folded_is_there_without_javascript_and_on_paper(
    browser: Chrome, home: str, emulated: Callable[..., object]
) -> None:
    emulated("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(home + EXERCISE.partition("#")[0])
    part = browser.find_element("id", "exercise-03-1")
    part.find_element("css selector", "summary").send_keys(Keys.ENTER)
    emulated("Emulation.setScriptExecutionDisabled", {"value": False})
    assert part.get_property("open")
    assert not browser.find_elements("css selector", "button.unfold")
    height = "return document.querySelector('#exercise-03-2 .cell_input').checkVisibility()"
    height = height.replace("()", "({contentVisibilityAuto: true})")
    wait = WebDriverWait(browser, 10)  # a page changes its medium when it is drawn again
    emulated("Emulation.setEmulatedMedia", {"media": "print"})
    wait.until(lambda _: browser.execute_script(height))
    emulated("Emulation.setEmulatedMedia", {"media": "screen"})
    wait.until_not(lambda _: browser.execute_script(height))
    logged(browser, home)  # scripts count as failed requests there; the next test is not to find them


def test_code_is_copied_by_keyboard(browser: Chrome, home: str) -> None:
    browser.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite"], "origin": home[:-1]})
    browser.get(f"{home}installing.html")
    button = WebDriverWait(browser, 10).until(lambda _: browser.find_element("css selector", "button.copybtn"))
    code = browser.find_element("css selector", "div.highlight pre").text
    assert "pip" in code or "make" in code
    browser.execute_script("arguments[0].focus({focusVisible: true})", button)
    style = "const style = getComputedStyle(arguments[0]); return [style.opacity, style.outlineWidth]"
    assert browser.execute_script(style, button) == ["1", "3px"]
    button.send_keys(Keys.ENTER)
    copied = "navigator.clipboard.readText().then(arguments[0])"
    WebDriverWait(browser, 10).until(lambda _: browser.execute_async_script(copied).strip() == code.strip())
    assert logged(browser, home) == []


def test_search_counts_accents_for_nothing(browser: Chrome, home: str) -> None:
    pages = []
    for word in ("Frechet", "Fr\u00e9chet", "Fre\u0301chet"):
        browser.get(f"{home}search.html?q={quote(word)}")
        pages.append(set(browser.execute_async_script(FOUND)))
    assert pages[0] == pages[1] == pages[2]
    texts = (f"{home}glossary.html", f"{home}notebooks/12_imagenet_evaluation.html")  # with and without the accent
    assert {*texts} <= pages[0]
    browser.get(f"{home}search.html?q=stretch")  # a level of exercises, which are folded
    assert f"{home}{EXERCISE.partition('#')[0]}" in browser.execute_async_script(FOUND)
    browser.get("about:blank")  # it is still fetching what it found
    logged(browser, home)


def test_a_dark_figure_stands_on_the_ground_of_the_page(browser: Chrome, home: str) -> None:
    browser.get(home + "glossary.html")
    ground = "document.documentElement.dataset.theme = 'dark'; return getComputedStyle(document.body).backgroundColor"
    assert browser.execute_script(ground) == f"rgb{figures.GROUND}"
    assert logged(browser, home) == []


def test_status_names_the_profile_and_the_seeds_of_every_notebook(site: Site) -> None:
    cells = site.pages["status.html"]["cells"]
    assert cells.count("laptop") == len(NOTEBOOKS)
    assert not [cell for cell in cells if not cell]


def test_our_figures_stand_beside_those_of_the_paper(site: Site) -> None:
    frame = read_table(FOLDER / "ladder.parquet")
    sensitivity = frame[(frame["sweep"] == "sensitivity") & (frame.nfe == 1) & (frame.variant == "w_max 2")]
    ours = sensitivity.groupby("w").frechet.mean().min()
    cells = site.pages["paper.html"]["cells"]
    row = cells.index("2", cells.index("iSM (here)"))
    assert cells[row : row + 3] == ["2", f"{PAPER_SETTINGS['w_max']['w_max 2'][1]:.2f}", f"{ours:.2f}"]
    assert cells.count("not run") >= 12


def test_a_page_of_a_module_shows_short_values_and_no_long_ones(book: Path) -> None:
    page = (book / "api" / "sweeps" / "ladder.html").read_text()
    text = re.sub("<[^>]+>", "", page)
    assert "ladder.SCALES = (1.25, 1.5, 2.0, 3.0)" in text
    assert "ladder.SWEEPS: dict[str, Sweep]" in text
    assert "Sweep(name=" not in text


def test_files_of_axe_are_those_published() -> None:
    listed = dict(reversed(line.split()) for line in (accessible.FOLDER / "SHA256SUMS").read_text().splitlines())
    names = {path.name.removesuffix(".gz") for path in accessible.FOLDER.iterdir()}
    assert names == listed.keys() | {"SHA256SUMS", "README.md"}
    for name, digest in listed.items():
        path = accessible.FOLDER / name
        data = path.read_bytes() if path.is_file() else gzip.decompress(path.with_name(f"{name}.gz").read_bytes())
        assert hashlib.sha256(data).hexdigest() == digest, name


PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="

DEFECTS = {
    "missing image": ('<img src="none.png" alt="x">', "image is missing: none.png"),
    "no alt text": (f'<img src="{PIXEL}">', "image without alt text"),
    "outside script": (
        '<script src="https://cdn.jsdelivr.net/npm/x.js"></script>',
        "request to the outside: https://cdn",
    ),
    "outside style": (
        '<link rel="stylesheet" href="https://fonts.googleapis.com/css">',
        "failed request: https://fonts",
    ),
    "outside fetch": ("<script>fetch('http://example.org/x').catch(() => 0)</script>", "request to the outside"),
    "missing script": ('<script src="none.js"></script>', "status 404"),
    "broken anchor": ('<a href="#none">x</a>', "no such place: page.html#none"),
    "broken anchor elsewhere": ('<a href="sub/other.html#none">x</a>', "no such place: sub/other.html#none"),
    "broken link": ('<a href="sub/none.html">x</a>', "no such page: sub/none.html"),
    "console error": ("<script>console.error('seeded')</script>", "seeded"),
    "uncaught error": ("<script>nothing.at.all()</script>", "nothing is not defined"),
    "mathematics not typeset": ('<span class="math">\\(x\\)</span>', "formula is not typeset"),
    "mathematics not parsed": ("<p>Where $x_t$ is.</p>", "TeX in the text: $x_t$"),
    "slider without a kernel": (
        '<article><script type="application/vnd.jupyter.widget-view+json">{"model_id": "x"}</script></article>',
        "dead control: <script",
    ),
    "button that nothing listens to": ("<article><button>x</button></article>", "dead control: <button>x"),
}


def test_screenshots_show_a_page_to_its_end_in_either_theme(
    browser: Chrome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    style = "body { margin: 0; background: #fff } [data-theme=dark] body { background: #000 }"
    style += "div { height: 9000px } p { margin: 0; height: 40px; background: #0a0 }"
    shown = f'<!doctype html><link rel="icon" href="data:,"><style>{style}</style><div></div><p></p>'
    (tmp_path / "site" / "sub").mkdir(parents=True)
    (tmp_path / "site" / "sub" / "page.html").write_text(shown)
    monkeypatch.setenv("ISMKIT_SCREENSHOTS", str(tmp_path / "taken"))
    assert visit(tmp_path / "site", browser).problems == {"sub/page.html": []}
    names = {f"sub+page-{width}-{theme}.png" for width in WIDTHS for theme in THEMES}
    assert {path.name for path in (tmp_path / "taken").iterdir()} == names
    for width in WIDTHS:
        for theme, ground in (("light", (255, 255, 255)), ("dark", (0, 0, 0))):
            with Image.open(tmp_path / "taken" / f"sub+page-{width}-{theme}.png") as picture:
                assert picture.size == (width, 9040)
                assert [picture.getpixel((width // 2, y)) for y in (0, 8990, 9020)] == [ground, ground, (0, 170, 0)]


@pytest.mark.parametrize("name", DEFECTS)
def test_a_seeded_defect_is_found(browser: Chrome, tmp_path: Path, name: str) -> None:
    seeded, complaint = DEFECTS[name]
    good = f'<!doctype html><link rel="icon" href="data:,"><p id="here"><img src="{PIXEL}" alt="x">'
    good += '<a href="#here">x</a> <a href="sub/other.html#there">x</a> <a href="https://example.org">x</a>'
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.html").write_text('<!doctype html><link rel="icon" href="data:,"><p id="there">')
    page = tmp_path / "page.html"
    page.write_text(good)
    assert visit(tmp_path, browser).problems == {"page.html": [], "sub/other.html": []}
    page.write_text(good + seeded)
    problems = visit(tmp_path, browser).problems
    assert any(complaint in problem for problem in problems["page.html"]), problems
