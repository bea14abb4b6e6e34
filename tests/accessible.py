"""What axe-core (https://github.com/dequelabs/axe-core) finds in a page."""

import gzip
from functools import cache
from pathlib import Path
from typing import Literal

from selenium.webdriver import Chrome

FOLDER = Path(__file__).parent / "axe-core"

# Rules that the colours of a page decide; all others answer alike on light and dark pages.
COLOURS = ["color-contrast", "link-in-text-block"]
_RUN = """
const [rules, within, done] = arguments;
const options = { resultTypes: ["violations"], elementRef: false, preload: false };
if (rules) options.runOnly = rules;
const still = Promise.all(document.getAnimations().map(({ finished }) => finished));  // colours fade into a theme
still.then(() => axe.run(within ?? document, options)).then(({ violations }) => done(
  violations.filter(({ impact }) => impact !== "minor").flatMap(({ id, impact, nodes }) =>
    nodes.map(({ target, html, any }) =>
      `${id} (${impact}): ${target.join(" ")}: ${html.slice(0, 120)}: ${any.map(({ message }) => message).join("; ")}`))
), (error) => done([`axe-core failed: ${error}`]));
"""


@cache
def _source() -> str:
    return gzip.decompress((FOLDER / "axe.min.js.gz").read_bytes()).decode()


def violations(
    browser: Chrome, theme: Literal["light", "dark"], rules: list[str] | None = None, within: str | None = None
) -> list[str]:
    """Every violation in the open page that axe-core calls moderate or worse.

    Args:
        browser: whose page is looked at; it is left in the theme.
        theme: of the book.
        rules: which of axe-core's, by default all that it runs by default, its best practices among them.
        within: a selector of what is looked at, by default the page.
    """
    browser.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
    if not browser.execute_script("return Boolean(window.axe)"):
        browser.execute_script(_source())
    return [f"{theme}: {found}" for found in browser.execute_async_script(_RUN, rules, within)]
