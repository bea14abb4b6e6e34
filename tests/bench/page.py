"""One step of one image by the released models in a page of the book, in Chromium without a window."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from ismkit.models.spaces import SPACES
from tests.bench.common import Row, Sizes, median
from tests.browser import chromium, served
from tests.live_page import LIMIT, make, open_model, seconds_of_one_image


def run(sizes: Sizes) -> Iterator[Row]:
    """Medians after warm-up; the goal is that of the book. The page uses the CPU alone, so a GPU adds nothing."""
    if sizes.device != "cpu":
        return
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder) / "profile") as browser:
        site = Path(folder) / "site"
        make(site)
        with served(site) as home:
            for name in SPACES:
                browser.get(f"{home}live.html")
                network, image = seconds_of_one_image(browser, open_model(browser, name))
                yield median(f"{name}: one call for one image, in the page", [1000 * s for s in network], "ms")
                what = f"{name}: one step of one image with its decoder, in the page"
                yield median(what, [1000 * s for s in image], "ms", at_most=1000 * LIMIT)
