"""What axe-core (https://github.com/dequelabs/axe-core) finds in a page."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from selenium.webdriver import Chrome

FOLDER = Path(__file__).parent / "axe-core"

# Rules that the colours of a page decide, beside contrast; all others answer alike on light and dark pages.
COLOURS = ["link-in-text-block"]
# Of pieces of code with one class and colour on one ground the first is looked at: a page has thousands of them. The
# others become plain text of what is around them.
_ALIKE = """
const seen = new Set(), alike = [];
for (const piece of document.querySelectorAll(":is(pre, dt.sig) span[class]")) {
  if (piece.childElementCount) continue;
  let ground = piece;
  while (ground.parentElement && getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") {
    ground = ground.parentElement;
  }
  const colours = `${getComputedStyle(piece).color} ${getComputedStyle(ground).backgroundColor}`;
  const key = `${piece.className} ${ground.className} ${colours}`;
  if (seen.has(key)) alike.push(piece);
  seen.add(key);
}
for (const piece of alike) piece.replaceWith(...piece.childNodes);
for (const code of document.querySelectorAll("pre")) code.normalize();  // axe-core asks each text where it is
"""
# What is not decided by its own colours, with the reason why it is right nevertheless: none yet.
UNDECIDED: dict[str, str] = {}
# axe-core leaves contrast open where something else is in the way: a drawing about the text, a box that scrolls, a
# button on top. There the colours that are declared decide: of the text, and of the grounds behind it, one on another.
_DECIDE = """
const numbers = (colour) => {
  const [red, green, blue, alpha = 1] = colour.match(/[\\d.]+/g).map(Number);
  return colour.startsWith("color(") ? [255 * red, 255 * green, 255 * blue, alpha] : [red, green, blue, alpha];
};
const onto = ([r, g, b, alpha], ground) => [r, g, b].map((level, k) => alpha * level + (1 - alpha) * ground[k]);
const luminance = (colour) => colour.map((level) => level / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, k) => sum + [0.2126, 0.7152, 0.0722][k] * c, 0);
window.decided = (text) => {
  const style = getComputedStyle(text);
  const drawn = text.ownerSVGElement;
  if (drawn && !style.fill.startsWith("rgb")) return "its colour is not known";
  const [r, g, b, alpha] = numbers(drawn ? style.fill : style.color);
  let opacity = alpha * (drawn ? Number(style.fillOpacity) : 1);
  const grounds = [];
  for (let part = text; part; part = part.parentElement) {
    const around = getComputedStyle(part);
    if (around.backgroundImage !== "none") return "an image is behind it";
    opacity *= Number(around.opacity);
    if (!(part instanceof SVGElement)) grounds.push(numbers(around.backgroundColor));
  }
  const paper = document.documentElement.dataset.theme === "dark" ? [0, 0, 0] : [255, 255, 255];
  const ground = grounds.reverse().reduce((below, colour) => onto(colour, below), paper);
  const [dark, light] = [luminance(ground), luminance(onto([r, g, b, opacity], ground))].sort((one, two) => one - two);
  const size = parseFloat(style.fontSize);
  const wanted = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
  const found = (light + 0.05) / (dark + 0.05);
  return found < wanted ? `contrast ${found.toFixed(2)} of ${wanted}` : "";
};
"""
# What lies over a text is found on the light page. On the dark one the colours that are declared decide for every text
# that is shown, which takes a tenth of the time. A control that is disabled needs no contrast.
_CONTRAST = """
const [within, listed] = arguments;
const texts = new Set();
const walker = document.createTreeWalker(within ? document.querySelector(within) : document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) if (/\\S/.test(walker.currentNode.data)) texts.add(walker.currentNode.parentElement);
return [...texts].filter((text) => !text.closest("script, style, template, noscript, title, desc, :disabled"))
  .filter((text) => !(listed && text.matches(listed)))
  .filter((text) => text.checkVisibility({ visibilityProperty: true, opacityProperty: true }))
  .filter((text) => Math.min(...["width", "height"].map((side) => text.getBoundingClientRect()[side])) > 1)
  .map((text) => [text, decided(text)])
  .filter(([, wrong]) => wrong)
  .map(([text, wrong]) => `dark: color-contrast (declared): ${text.outerHTML.slice(0, 120)}: ${wrong}`);
"""
# Colours fade into a theme: they are set to the end of the move, which is not waited for.
_RUN = """
const [theme, rules, within, listed, done] = arguments;
const options = { resultTypes: ["violations", "incomplete"], elementRef: true, preload: false };
if (rules) options.runOnly = rules;
document.documentElement.dataset.theme = theme;
for (const move of document.getAnimations()) move.finish();
axe.run(within ?? document, options).then(({ violations, incomplete }) => done([
  ...violations.filter(({ impact }) => impact !== "minor").flatMap(({ id, impact, nodes }) =>
    nodes.map(({ target, html, any }) =>
      `${theme}: ${id} (${impact}): ${target.join(" ")}: ${html.slice(0, 120)}: `
      + any.map(({ message }) => message).join("; "))),
  ...incomplete.filter(({ id }) => id === "color-contrast").flatMap(({ nodes }) => nodes)
    .filter(({ element }) => !listed || !element.matches(listed))
    .map(({ element, target, html }) => [decided(element), target, html])
    .filter(([wrong]) => wrong)
    .map(([wrong, target, html]) =>
      `${theme}: contrast left open: ${target.join(" ")}: ${html.slice(0, 120)}: ${wrong}`),
]), (error) => done([`${theme}: axe-core failed: ${error}`]));
"""


@cache
def _source() -> str:
    return gzip.decompress((FOLDER / "axe.min.js.gz").read_bytes()).decode()


@contextmanager
def in_every_page(browser: Chrome) -> Iterator[None]:
    """Pages that are opened meanwhile have axe-core, which is then not sent to each again: a tenth of the time."""
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _source()})
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def violations(browser: Chrome, known: str = "", within: str | None = None) -> list[str]:
    """Every violation in the open page that axe-core calls moderate or worse, the theme of the page first.

    On the light page all rules are tried that axe-core has by default, its best practices among them; on the dark one
    those that colours decide. Where axe-core cannot tell the contrast of a text, and on the dark page, the colours that
    are declared must be enough, or :data:`UNDECIDED` has the reason why it is right. The page is left dark, its code
    less colourful.

    Args:
        browser: whose page is looked at.
        known: a selector of parts that are looked at on other pages; they are removed before.
        within: a selector of what is looked at, by default the page.
    """
    if known:
        browser.execute_script("for (const part of document.querySelectorAll(arguments[0])) part.remove()", known)
    if not browser.execute_script("return 'axe' in window"):
        browser.execute_script(_source())
    browser.execute_script(_ALIKE + _DECIDE)
    known_right = ", ".join(UNDECIDED)
    found = [
        violation
        for theme, rules in (("light", None), ("dark", COLOURS))
        for violation in browser.execute_async_script(_RUN, theme, rules, within, known_right)
    ]
    return found + browser.execute_script(_CONTRAST, within, known_right)
