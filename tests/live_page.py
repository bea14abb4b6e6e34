"""A page with every live model, as the book has it, without Sphinx; and how long one image takes in it."""

import re
import shutil
import time
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from book import live
from tests.conftest import ROOT

STATIC = ROOT / "book" / "_static"
SECONDS = 60  # to wait for a page on a busy machine
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Live</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="_static/book.css"><body class="bd-content">{}</body></html>"""
LIMIT = 0.05  # seconds for one step of one image, its decoder included, once it is warm
REPEATS, WARM = 21, 5
# Seconds of the network and of the whole picture, with the messages to the worker and back: what a reader waits for.
_TIMES = """
const [root, warm, repeats, done] = arguments;
(async () => {
  const { live } = root;
  const x = Float32Array.from({ length: live.size }, (_, i) => Math.sin(i)); // which takes as long as any other
  const start = { label: 3, w: 1, nfe: 1 };
  const timed = async (ask) => {
    const seconds = [];
    for (let k = 0; k < warm + repeats; k += 1) {
      const began = performance.now();
      await ask();
      seconds.push((performance.now() - began) / 1000);
    }
    return seconds.slice(warm);
  };
  const network = await timed(() => live.velocity({ x, t: 0, d: 1, w: 1, y: 3 }));
  done([network, await timed(() => live.drawn(x, start))]);
})();
"""


def make(folder: Path) -> list[live.Live]:
    """Write ``live.html`` and all that it asks for into a new folder; returns its models."""
    shutil.copytree(STATIC, folder / "_static")
    (folder / "_static" / "live").rename(folder / live.SCRIPTS)
    models = live.export_all(folder / live.MODELS)
    text = live.filled("\n".join(f"<!-- live {model.name} -->" for model in models), models)
    (folder / "live.html").write_text(PAGE.format(re.sub("^```.*$", "", text, flags=re.MULTILINE)))
    return models


def until(browser: Chrome, condition: str, *given: Any) -> Any:
    """Wait for what a script returns to be true."""
    end = time.monotonic() + SECONDS
    while not (found := browser.execute_script(condition, *given)):
        assert time.monotonic() < end, (
            f"{condition}: {[s.text for s in browser.find_elements(By.CSS_SELECTOR, '.live')]}"
        )
        time.sleep(0.05)
    return found


def open_model(browser: Chrome, name: str) -> Any:
    """Press the button of a model and wait for its first picture; gives the element."""
    root = browser.find_element(By.ID, f"live-{name}")
    root.find_element(By.CSS_SELECTOR, ".live-load").click()
    until(browser, "return Boolean(arguments[0].live)", root)
    return root


def seconds_of_one_image(browser: Chrome, root: Any) -> tuple[list[float], list[float]]:
    """Seconds of one call of the network for one image, and of that with the decoder, after warm-up."""
    network, image = browser.execute_async_script(_TIMES, root, WARM, REPEATS)
    return network, image
