"""The book builds without a warning, and every page of it works in a browser that reaches nothing but the book."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urldefrag

import nbformat
import pytest
from selenium.webdriver import Chrome

from ismkit.lessons.ledger import book_entries, read, verdicts
from ismkit.lessons.notebooks import solutions
from tests.browser import chromium, logged, served
from tests.conftest import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]  # the first test builds the book

BOOK = ROOT / "book"
#: The files of the rooms; the commands have a page of their own, ``commands.md``.
FILES = [path for path in (ROOT / "ismkit").glob("*/[a-z]*.py") if path.parent.name != "cli"]
TEXTS = {f"{path.stem}.html" for path in BOOK.glob("*.md")}
TEXTS |= {f"{name}.html" for name in ("api", "changelog", "contributing", "solutions", "timings")}
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}

# Waits for mathematics, widgets and images, then tells what the page shows.
LOOK = """
const done = arguments[0], all = (css, root = document) => [...root.querySelectorAll(css)];
const seconds = (n) => new Promise((resolve) => setTimeout(resolve, 1000 * n));
(async () => {
  const found = [];
  if (window.MathJax?.startup?.promise) await MathJax.startup.promise;
  const views = all('script[type="application/vnd.jupyter.widget-view+json"]').map((view) => view.parentElement);
  for (const view of views) {
    const shown = () => all(".widget-subarea *", view).some((part) => part.offsetHeight);
    for (let i = 0; i < 100 && !shown(); i++) await seconds(0.1);
    if (!shown()) found.push("widget is not displayed");
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
  const text = document.querySelector("article, body").cloneNode(true);
  for (const code of all("pre, code, script, mjx-container", text)) code.remove();
  for (const [left] of text.textContent.matchAll(/\\$[^\\s$][^$]*\\$/g)) found.push(`TeX in the text: ${left}`);
  done({
    problems: found,
    links: all("a[href]").map((link) => link.href),
    ids: all("[id]").map((part) => part.id),
    claims: all("article td a[href*='#claim-']").length,
    cells: all("article td").map((cell) => cell.innerText.trim()),
    drawings: all("article svg.architecture").map((drawing) => drawing.getBoundingClientRect().width > 600),
    widgets: views.length,
    solutions: all("article details").map((part) => [part.open, all(".highlight-python", part).length]),
  });
})();
"""


@dataclass
class Site:
    """What a browser saw of the pages of a folder.

    Attributes:
        problems: everything that is wrong, by page.
        pages: what each page shows, as ``LOOK`` tells it.
    """

    problems: dict[str, list[str]] = field(default_factory=dict)
    pages: dict[str, dict] = field(default_factory=dict)


def visit(browser: Chrome, folder: Path) -> Site:
    """Open every page of a folder, and look where each link leads that stays inside."""
    site = Site()
    with served(folder) as home:
        for path in sorted(folder.rglob("*.html")):
            if "_static" in path.relative_to(folder).parts:
                continue
            page = path.relative_to(folder).as_posix()
            browser.get(home + page)
            site.pages[page] = seen = browser.execute_async_script(LOOK)
            site.problems[page] = seen["problems"] + logged(browser, home)
    for page, seen in site.pages.items():
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
def site(browser: Chrome, book: Path) -> Site:
    return visit(browser, book)


def test_book_builds_without_a_warning(book: Path) -> None:
    assert (book / "index.html").is_file()


def test_no_page_has_a_problem(site: Site) -> None:
    found = [f"{page}: {problem}" for page, problems in site.problems.items() for problem in problems]
    assert not found, "\n".join(found)


LOADED = """
const entries = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
return entries.reduce((sum, { encodedBodySize }) => sum + encodedBodySize, 0);
"""


def test_start_page_takes_less_than_a_megabyte(browser: Chrome, book: Path) -> None:
    with served(book) as home:
        browser.get(f"{home}index.html")
        assert browser.execute_async_script("document.fonts.ready.then(() => arguments[0](true))")
        assert 500_000 < browser.execute_script(LOADED) < 1_000_000
        icons = browser.find_elements("css selector", "i.fa-solid")
        assert icons
        shown = "return getComputedStyle(arguments[0], '::before').content"
        assert all('"' in browser.execute_script(shown, icon) for icon in icons)  # by the font of the style sheet
        browser.get(f"{home}search.html?q=wavelet")
        found = "const [done] = arguments; (function look() {"
        found += "const all = document.querySelectorAll('#search-results li a').length;"
        found += "if (!all) return setTimeout(look, 100); done(all); })()"
        assert browser.execute_async_script(found) > 3
        assert logged(browser, home) == []
        browser.get("about:blank")  # it is still fetching what it found
        logged(browser, home)


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
        path = BOOK / "ledger" / f"{name[:2]}.json"
        without = "all of them" if name[:2] == "13" else "none"
        assert (verdicts(read(path)) if path.is_file() else without) in site.pages["index.html"]["cells"], name


def test_architecture_page_shows_the_drawing_and_every_file(site: Site) -> None:
    page = site.pages["architecture.html"]
    assert page["drawings"] == [True]
    assert {path.stem for path in FILES} <= set(page["cells"])


def test_ledger_leads_to_the_cell_of_every_row(site: Site) -> None:
    assert site.pages["ledger.html"]["claims"] == len(book_entries())


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_widgets_and_solutions_of_a_notebook_are_shown(site: Site, name: str) -> None:
    page, notebook = site.pages[f"notebooks/{name}.html"], NOTEBOOKS[name]
    views = [
        o for cell in notebook.cells for o in cell.get("outputs", []) if "widget-view" in str(o.get("data", {}).keys())
    ]
    assert page["widgets"] == len(views)
    # Folded, and with one block of highlighted code.
    assert page["solutions"] == [[False, 1]] * len(solutions(notebook))


OPENED = """
const [done] = arguments, root = document.querySelector(".live");
const early = performance.getEntriesByType("resource").map(({ name, encodedBodySize }) => [name, encodedBodySize]);
root.querySelector(".live-load").click();
(function wait(left) {
  if (!root.live && left) return setTimeout(wait, 100, left - 1);
  const canvas = root.querySelector("canvas");
  done({
    early,
    status: root.querySelector("[role=status]").textContent,
    side: canvas.getBoundingClientRect().width,
    width: document.documentElement.scrollWidth,
    numbers: new Set(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data).size,
  });
})(500);
"""


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("page", ["index.html", "live.html"])
def test_a_model_draws_in_the_page_after_one_click(browser: Chrome, book: Path, page: str, width: int) -> None:
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        with served(book) as home:
            browser.get(home + page)
            seen = browser.execute_async_script(OPENED)
            assert logged(browser, home) == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert seen["numbers"] > 50, seen["status"]  # levels of grey: the canvas is not blank
    assert 250 < seen["side"] < 390
    assert seen["width"] <= width
    model = {name.removeprefix(home): size for name, size in seen["early"] if "/live/" in name or "/models/" in name}
    assert "_static/live/start.js" in model
    assert sum(model.values()) < 100_000
    assert not [name for name, _ in seen["early"] if "onnx" in name or name.endswith("element.js")]


def test_files_of_the_widget_manager_are_those_published() -> None:
    folder = BOOK / "_static" / "html-manager"
    listed = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert {path.name for path in folder.iterdir()} == listed.keys() | {"SHA256SUMS", "README.md", "LICENSE"}
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
STATE = json.dumps({"version_major": 2, "version_minor": 0, "state": {}})

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
    "widget not shown": (
        f'<div><script type="application/vnd.jupyter.widget-view+json">{STATE}</script></div>',
        "widget is not displayed",
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_seeded_defect_is_found(browser: Chrome, tmp_path: Path, name: str) -> None:
    seeded, complaint = DEFECTS[name]
    good = f'<!doctype html><link rel="icon" href="data:,"><p id="here"><img src="{PIXEL}" alt="x">'
    good += '<a href="#here">x</a> <a href="sub/other.html#there">x</a> <a href="https://example.org">x</a>'
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.html").write_text('<!doctype html><link rel="icon" href="data:,"><p id="there">')
    page = tmp_path / "page.html"
    page.write_text(good)
    assert visit(browser, tmp_path).problems == {"page.html": [], "sub/other.html": []}
    page.write_text(good + seeded)
    problems = visit(browser, tmp_path).problems
    assert any(complaint in problem for problem in problems["page.html"]), problems
