"""What axe-core (https://github.com/dequelabs/axe-core) finds in a page."""

import gzip
from functools import cache
from pathlib import Path

from selenium.webdriver import Chrome

FOLDER = Path(__file__).parent / "axe-core"

# Rules that the colours of a page decide; all others answer alike on light and dark pages.
COLOURS = ["color-contrast", "link-in-text-block"]
# Of pieces of code with one class on one ground the first is looked at: their colours are the same, and a page has
# thousands. The others become plain text of what is around them.
_ALIKE = """
const seen = new Set(), alike = [];
for (const piece of document.querySelectorAll("pre span[class]")) {
  if (piece.childElementCount) continue;
  let ground = piece;
  while (ground.parentElement && getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") {
    ground = ground.parentElement;
  }
  const key = `${piece.className} ${ground.className} ${getComputedStyle(ground).backgroundColor}`;
  if (seen.has(key)) alike.push(piece);
  seen.add(key);
}
for (const piece of alike) piece.replaceWith(...piece.childNodes);
"""
# Colours fade into a theme: they are set to the end of the move, which is not waited for.
_RUN = """
const [theme, rules, within, done] = arguments;
const options = { resultTypes: ["violations"], elementRef: false, preload: false };
if (rules) options.runOnly = rules;
document.documentElement.dataset.theme = theme;
for (const move of document.getAnimations()) move.finish();
axe.run(within ?? document, options).then(({ violations }) => done(
  violations.filter(({ impact }) => impact !== "minor").flatMap(({ id, impact, nodes }) =>
    nodes.map(({ target, html, any }) =>
      `${theme}: ${id} (${impact}): ${target.join(" ")}: ${html.slice(0, 120)}: `
      + any.map(({ message }) => message).join("; ")))
), (error) => done([`${theme}: axe-core failed: ${error}`]));
"""


@cache
def _source() -> str:
    return gzip.decompress((FOLDER / "axe.min.js.gz").read_bytes()).decode()


def violations(browser: Chrome, known: str = "", within: str | None = None) -> list[str]:
    """Every violation in the open page that axe-core calls moderate or worse, the theme of the page first.

    On the light page all rules are tried that axe-core has by default, its best practices among them; on the dark one
    those that colours decide. The page is left dark, its code less colourful.

    Args:
        browser: whose page is looked at.
        known: a selector of parts that are looked at on other pages; they are removed before.
        within: a selector of what is looked at, by default the page.
    """
    if known:
        browser.execute_script("for (const part of document.querySelectorAll(arguments[0])) part.remove()", known)
    browser.execute_script(_source() + _ALIKE)
    return [
        found
        for theme, rules in (("light", None), ("dark", COLOURS))
        for found in browser.execute_async_script(_RUN, theme, rules, within)
    ]
