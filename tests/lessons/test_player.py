"""The player of animations in Chromium: by mouse and by keyboard, with less motion, on dark pages, without scripts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from traitlets.config import Config

from ismkit.lessons import plot
from tests.browser import chromium, logged, served

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CORNER = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0]])[:, None]  # one point, which goes around a corner
ALONE = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])[:, None]

# The middle of the coloured pixels of a canvas, in the units of the points.
WHERE = """
const [canvas, reach] = arguments, { width, height } = canvas;
const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
let [sum, across, down] = [0, 0, 0];
for (let i = 0; i < width * height; i += 1) {
  if (pixels[4 * i + 3] < 150) continue; // trails and marks are paler than points
  sum += 1; across += i % width; down += Math.floor(i / width);
}
return [reach * (2 * (across / sum + 0.5) / width - 1), reach * (1 - 2 * (down / sum + 0.5) / height)];
"""
INK = """
const canvas = arguments[0], pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
let best = [0, 0, 0, 0];
for (let i = 0; i < pixels.length; i += 4) if (pixels[i + 3] > best[3]) best = [...pixels.slice(i, i + 4)];
return best.slice(0, 3);
"""


def page(panels: dict[str, torch.Tensor], **settings: Any) -> str:
    """The HTML of an animation."""
    with capture_output() as captured:
        plot.animate(panels, "a point that moves", reach=3, **settings)
    return captured.outputs[0].data["text/html"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a folder with the pages."""
    folder: Path = tmp_path_factory.mktemp("pages")
    quiet = Config({"HistoryManager": {"enabled": False}, "InteractiveShell": {"history_load_length": 0}})
    InteractiveShell.instance(config=quiet)  # without which nothing is displayed
    paths = page({"around": CORNER}, trails=True)
    bodies = {"paths": paths, "twice": paths * 2, "frames": page({"alone": ALONE}, moments=["1", "2", "4"])}
    bodies["black"] = page({"black": CORNER}, labels=[6])
    InteractiveShell.clear_instance()
    for name, body in bodies.items():
        head = '<!doctype html><link rel="icon" href="data:,"><meta charset="utf-8">'
        (folder / f"{name}.html").write_text(f'{head}<body style="max-width:500px">{body}')
    with served(folder) as home:
        yield home


class Player:
    """The only player of the page that is open."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser
        WebDriverWait(browser, 20).until(lambda driver: driver.find_element(By.CSS_SELECTOR, "[data-ready] canvas"))
        find = lambda css: browser.find_element(By.CSS_SELECTOR, f"[data-ready] {css}")  # noqa: E731
        self.button, self.slider, self.canvas = find("button"), find("input"), find("canvas")

    def keys(self, target: WebElement, *keys: str) -> None:
        self.browser.execute_script("arguments[0].focus()", target)
        ActionChains(self.browser).send_keys(*keys).perform()

    @property
    def moment(self) -> str | None:
        return self.slider.get_attribute("aria-valuetext")

    @property
    def place(self) -> Any:
        """Where the point is."""
        return pytest.approx(self.browser.execute_script(WHERE, self.canvas, 3), abs=0.06)


@pytest.fixture
def opened(browser: Chrome, home: str) -> Iterator[Callable[[str], Player]]:
    def open_page(name: str) -> Player:
        browser.get(f"{home}{name}.html")
        return Player(browser)

    yield open_page
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert logged(browser, home) == []


def test_slider_is_moved_by_keys_and_points_lie_between_frames(opened: Callable[[str], Player]) -> None:
    player = opened("paths")
    assert player.moment == "t = 1.00"  # complete, as the picture is
    assert player.place == [2, 2]
    player.keys(player.slider, Keys.HOME)
    assert (player.moment, player.place) == ("t = 0.00", [0, 0])
    player.keys(player.slider, *[Keys.ARROW_RIGHT] * 25)  # half of the first of two steps
    assert (player.moment, player.place) == ("t = 0.25", [1, 0])
    assert "t = 0.25" in (player.canvas.get_attribute("aria-label") or "")


def test_page_around_it_does_not_take_the_focus_at_a_key(opened: Callable[[str], Player]) -> None:
    """As JupyterLab does at a key below its notebook: then the second key would be a cell's."""
    player = opened("paths")
    player.browser.execute_script("document.body.addEventListener('keydown', () => document.activeElement.blur())")
    player.keys(player.slider, Keys.HOME, Keys.ARROW_RIGHT)
    assert player.moment == "t = 0.01"


def test_slider_is_moved_by_the_mouse(opened: Callable[[str], Player]) -> None:
    player = opened("paths")
    ActionChains(player.browser).move_to_element(player.slider).click().perform()
    assert player.moment in ("t = 0.49", "t = 0.50", "t = 0.51")
    assert player.place == [2, 0]


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_it_plays_from_the_start_to_the_end_and_pauses(opened: Callable[[str], Player], by: str) -> None:
    player = opened("paths")
    press = player.button.click if by == "mouse" else lambda: player.keys(player.button, Keys.SPACE)
    assert player.button.text == "Play"
    press()
    assert player.button.text == "Pause"
    # Else a screen reader would read every moment that it passes.
    assert player.browser.find_element(By.TAG_NAME, "output").get_attribute("aria-live") == "off"
    WebDriverWait(player.browser, 20).until(lambda _: "t = 0.1" < str(player.moment) < "t = 0.95")
    press()
    assert player.button.text == "Play"
    paused = player.moment
    player.browser.execute_async_script("setTimeout(arguments[0], 300)")
    assert player.moment == paused
    press()
    WebDriverWait(player.browser, 30).until(lambda _: player.moment == "t = 1.00" and player.button.text == "Play")
    assert player.place == [2, 2]


def test_frames_that_stand_alone_have_names_and_nothing_between(opened: Callable[[str], Player]) -> None:
    player = opened("frames")
    assert (player.moment, player.place) == ("4", [0, 2])
    player.keys(player.slider, Keys.ARROW_LEFT)
    assert (player.moment, player.place) == ("2", [2, 0])
    player.button.click()
    WebDriverWait(player.browser, 20).until(lambda _: player.button.text == "Play")
    assert player.moment == "4"


def test_less_motion_continues_by_presses_alone(opened: Callable[[str], Player]) -> None:
    player = opened("paths")
    media = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    player.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    WebDriverWait(player.browser, 10).until(lambda _: player.button.text == "Next")
    player.button.click()
    assert player.moment == "t = 0.00"
    player.button.click()
    first = player.moment
    assert first != "t = 0.00"
    player.browser.execute_async_script("setTimeout(arguments[0], 300)")
    assert player.moment == first


def test_black_points_have_the_colour_of_the_text(browser: Chrome, home: str, opened: Callable[[str], Player]) -> None:
    player = opened("black")
    assert browser.execute_script(INK, player.canvas) == [0, 0, 0]
    browser.execute_script("document.body.style.cssText += 'background: #111; color: rgb(240, 240, 240)'")
    WebDriverWait(browser, 10).until(lambda _: min(browser.execute_script(INK, player.canvas)) > 220)


def test_one_page_may_show_it_twice(opened: Callable[[str], Player]) -> None:
    player = opened("twice")
    sliders = player.browser.find_elements(By.CSS_SELECTOR, "[data-ready] input")
    assert len(sliders) == 2
    player.keys(sliders[1], Keys.HOME)
    assert [slider.get_attribute("aria-valuetext") for slider in sliders] == ["t = 1.00", "t = 0.00"]


def test_a_player_that_is_replaced_leaves_nothing_in_memory(browser: Chrome, home: str) -> None:
    """As a cell that is run again does, time after time."""
    browser.get(f"{home}paths.html")  # no element is asked for: WebDriver would hold it
    ready = "return Boolean(document.querySelector('[data-ready] canvas'))"
    WebDriverWait(browser, 20).until(lambda _: browser.execute_script(ready))
    browser.execute_script(
        "const root = document.querySelector('[data-ready]'); window.held = new WeakRef(root); root.remove()"
    )

    def gone(_: Chrome) -> bool:
        browser.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
        return browser.execute_script("return window.held.deref() === undefined")

    WebDriverWait(browser, 20).until(gone)
    browser.execute_script("document.body.dataset.theme = 'dark'")  # what looked after it finds nothing, and ends
    assert logged(browser, home) == []


def test_canvases_are_as_fine_as_the_screen_once_the_page_is_enlarged(
    browser: Chrome, opened: Callable[[str], Player]
) -> None:
    player = opened("paths")
    shown = "return arguments[0].width / arguments[0].clientWidth"
    for ratio in (2, 1.5):
        screen = {"height": 600, "deviceScaleFactor": ratio, "mobile": False}
        width = round(1400 / ratio)
        # A browser changes both at once; the emulation may tell of the width before the pixels have their new size.
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen | {"width": width - 50})
        WebDriverWait(browser, 10).until(
            lambda _, ratio=ratio: browser.execute_script("return window.devicePixelRatio") == ratio
        )
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen | {"width": width})
        WebDriverWait(browser, 10).until(
            lambda _, ratio=ratio: browser.execute_script(shown, player.canvas) == pytest.approx(ratio, abs=0.02)
        )
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_without_scripts_the_picture_stays(browser: Chrome, home: str, opened: Callable[[str], Player]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(f"{home}paths.html")
    (image,) = browser.find_elements(By.CSS_SELECTOR, "[data-animation] img")
    assert image.get_attribute("alt") == "a point that moves"
    assert image.size["width"] > 100
    assert not browser.find_elements(By.CSS_SELECTOR, "canvas")
