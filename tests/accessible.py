"""What axe-core (https://github.com/dequelabs/axe-core) finds in a page."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from selenium.webdriver import Chrome

FOLDER = Path(__file__).parent / "axe-core"

_THEME = "document.documentElement.dataset.theme = arguments[0]"
# Of pieces of code with one class and colour on one ground the first is looked at: a page has thousands of them. The
# others become plain text of what is around them. Of texts that stand in alike elements, in one size and colour on one
# ground, the first is asked for its contrast.
_ALIKE = """
for (const move of document.getAnimations()) move.finish();  // colours fade into a theme
const grounds = new Map();
const groundOf = (part) => {
  if (!part) return "";
  if (!grounds.has(part)) {
    const own = getComputedStyle(part).backgroundColor;
    grounds.set(part, own === "rgba(0, 0, 0, 0)" ? groundOf(part.parentElement) : own);
  }
  return grounds.get(part);
};
const known = new Set(), alike = [];
for (const piece of document.querySelectorAll(":is(pre, dt.sig) span[class]")) {
  if (piece.childElementCount) continue;
  const key = [piece.className, getComputedStyle(piece).color, groundOf(piece)].join();
  if (known.has(key)) alike.push(piece);
  known.add(key);
}
for (const piece of alike) piece.replaceWith(...piece.childNodes);  // not while styles are asked for
for (const code of document.querySelectorAll("pre")) code.normalize();  // axe-core asks each text where it is
const mark = (part, above) => {
  const kind = `${above} ${part.localName}.${part.className.baseVal ?? part.className}`;
  if ([...part.childNodes].some(({ nodeType, data }) => nodeType === Node.TEXT_NODE && /\\S/.test(data))) {
    const { color, fontSize, fontWeight, opacity } = getComputedStyle(part);
    const key = [kind, color, groundOf(part), fontSize, fontWeight, opacity].join();
    if (known.has(key)) part.dataset.alike = "";
    known.add(key);
  }
  for (const child of part.children) mark(child, kind);
};
mark(document.body, "");
axe.configure({ rules: [{ id: "color-contrast", selector: "*:not([data-alike])" }] });
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
for (const move of document.getAnimations()) move.finish();
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
# Links that a text holds and that are shown are underlined, which is more than axe-core asks: it would also take those
# that differ enough by their colour from the text, and is three times as long about it.
_UNDERLINED = """
const [theme, within] = arguments;
const inText = (link) => {
  let block = link.parentElement;
  while (block && getComputedStyle(block).display.startsWith("inline")) block = block.parentElement;
  const rest = block?.cloneNode(true);
  for (const other of rest?.querySelectorAll("a[href]") ?? []) other.remove();
  return /\\S/.test(rest?.textContent ?? "");
};
return [...(within ? document.querySelector(within) : document).querySelectorAll("a[href]")]
  .filter((link) => /\\S/.test(link.textContent))
  .filter((link) => link.checkVisibility({ visibilityProperty: true, opacityProperty: true }))
  .filter((link) => !getComputedStyle(link).textDecorationLine.includes("underline") && inText(link))
  .map((link) => `${theme}: a link is told from the text by its colour alone: ${link.outerHTML.slice(0, 120)}`);
"""
# Colours fade into a theme: they are set to the end of the move, which is not waited for.
_RUN = """
const [within, listed, done] = arguments;
const options = { resultTypes: ["violations", "incomplete"], elementRef: true, preload: false };
options.rules = { "link-in-text-block": { enabled: false } };
for (const move of document.getAnimations()) move.finish();
axe.run(within ?? document, options).then(({ violations, incomplete }) => done([
  ...violations.filter(({ impact }) => impact !== "minor").flatMap(({ id, impact, nodes }) =>
    nodes.map(({ target, html, any }) =>
      `light: ${id} (${impact}): ${target.join(" ")}: ${html.slice(0, 120)}: `
      + any.map(({ message }) => message).join("; "))),
  ...incomplete.filter(({ id }) => id === "color-contrast").flatMap(({ nodes }) => nodes)
    .filter(({ element }) => !listed || !element.matches(listed))
    .map(({ element, target, html }) => [decided(element), target, html])
    .filter(([wrong]) => wrong)
    .map(([wrong, target, html]) =>
      `light: contrast left open: ${target.join(" ")}: ${html.slice(0, 120)}: ${wrong}`),
]), (error) => done([`light: axe-core failed: ${error}`]));
"""
# What axe-core can tell of an element, and of those that it is in: names and attributes, a text or none, whether it is
# wider than its box, the heading before a heading, what a list or table is made of. Of addresses and texts for a screen
# reader it asks whether there are any, of the page how many landmarks it has.
KINDS = """
const kindsOf = (page, known) => {
  const values = ["class", "style", "role", "type", "lang", "tabindex", "scope", "dir", "open", "hidden", "hreflang"];
  const describe = (part) => {
    const { children, clientWidth, localName, scrollWidth, textContent } = part;
    const attributes = part.getAttributeNames().map((name) => {
      const value = part.getAttribute(name);
      const names = /^aria-(label|labelledby|describedby|controls|owns)$/.test(name);
      return values.includes(name) || (name.startsWith("aria-") && !names)
        ? `${name}=${value}` : `${name}${value.trim() ? "" : " empty"}`;
    });
    const text = textContent.trim() ? "text" : "";
    const wide = clientWidth && scrollWidth > clientWidth + 1 ? "wide" : "";
    const made = /^(dl|ul|ol|table|thead|tbody|tr|details|figure)$/.test(localName)
      ? [...children].map((child) => child.localName).filter((name, k, all) => name !== all[k - 1]).join("+") : "";
    return [localName, ...attributes.sort(), text, wide, made].join(" ");
  };
  const landmarks = ["title", "h1", "main", "header", "footer", "nav", "aside", "form", "section[aria-label]"];
  const kinds = new Set([landmarks.map((css) => `${page.querySelectorAll(css).length} ${css}`).join(" ")]);
  let heading = "";
  const walk = (part, above) => {
    if (known && part.matches(known)) return;
    let kind = `${above} > ${describe(part)}`;
    if (/^h[1-6]$/.test(part.localName)) {
      kind += ` after ${heading}`;
      heading = part.localName;
    }
    kinds.add(kind);
    for (const child of part.children) walk(child, kind);
  };
  walk(page.documentElement, "");
  return [...kinds];
};
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
    what colours decide. Where axe-core cannot tell the contrast of a text, and on the dark page, the colours that are
    declared must be enough, or :data:`UNDECIDED` has the reason why it is right. Links in a text must be underlined on
    either. The page is left dark, its code less colourful.

    Args:
        browser: whose page is looked at.
        known: a selector of parts that are looked at on other pages; they are removed before.
        within: a selector of what is looked at, by default the page.
    """
    if known:
        browser.execute_script("for (const part of document.querySelectorAll(arguments[0])) part.remove()", known)
    if not browser.execute_script("return 'axe' in window"):
        browser.execute_script(_source())
    known_right = ", ".join(UNDECIDED)
    browser.execute_script(_THEME, "light")
    browser.execute_script(_ALIKE + _DECIDE)
    found = browser.execute_async_script(_RUN, within, known_right)
    found += browser.execute_script(_UNDERLINED, "light", within)
    browser.execute_script(_THEME, "dark")
    found += browser.execute_script(_UNDERLINED, "dark", within)
    return found + browser.execute_script(_CONTRAST, within, known_right)


def kinds(browser: Chrome, known: str = "") -> set[str]:
    """The elements of the open page, each by what axe-core can tell of it: two that are of one kind it judges alike.

    Args:
        browser: whose page is looked at.
        known: a selector of parts that are looked at on other pages.
    """
    return set(browser.execute_script(KINDS + "return kindsOf(document, arguments[0])", known))
