"""Widgets in JupyterLab, as a reader has them: run a notebook in a browser, move a slider, see another picture."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from ismkit.lessons.notebooks import refresh
from tests.browser import chromium
from tests.conftest import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

START = 120  # seconds that JupyterLab, or a kernel, may take to be there on a busy machine
RUN = 240  # seconds that a notebook may take at smoke
REDRAW = 60  # seconds from the slider to the picture

T = TypeVar("T")

(FIRST,) = (ROOT / "notebooks").glob("00_*.ipynb")

# Cells with a number, not an empty [ ] or a star; scrolled out of sight or not.
RAN = """
const prompts = [...document.querySelectorAll(".jp-Notebook .jp-CodeCell .jp-InputPrompt")];
return prompts.filter((prompt) => /\\d/.test(prompt.textContent)).length;
"""
TRACEBACKS = """
const red = [...document.querySelectorAll(".jp-Notebook [data-mime-type='application/vnd.jupyter.stderr']")];
return red.map((output) => output.textContent).filter((text) => text.includes("Traceback"));
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder for the notebooks."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[str]:
    """The address of a JupyterLab on the folder, with no settings but its own defaults."""
    tmp_path = tmp_path_factory.mktemp("lab")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = ["JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR"]
    places += ["JUPYTERLAB_WORKSPACES_DIR", "ISMKIT_OUT"]
    environment = os.environ | {place: str(tmp_path / place.lower()) for place in places}
    environment |= {"JUPYTER_PREFER_ENV_PATH": "1", "OMP_NUM_THREADS": "1", "CI": "true"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={folder}"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += ["--IdentityProvider.token=", "--ServerApp.password="]
    log = tmp_path / "jupyterlab.log"
    with log.open("w") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as server:
        try:
            until = time.monotonic() + START
            while not answers(f"http://127.0.0.1:{port}/api"):
                assert server.poll() is None, f"JupyterLab ended: {log.read_text()[-2000:]}"
                assert time.monotonic() < until, f"no JupyterLab after {START} s: {log.read_text()[-2000:]}"
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/lab"
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def at_smoke(source: Path, target: Path) -> int:
    """Copy a notebook without its outputs, its parameters set to the profile smoke; gives its number of code cells."""
    notebook = nbformat.read(source, as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert 'profile = "laptop"' in parameters.source
    parameters.source = parameters.source.replace('profile = "laptop"', 'profile = "smoke"')
    notebook.metadata.pop("widgets", None)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        cell.update(outputs=[], execution_count=None)
        cell.metadata.pop("jupyter", None)  # a folded cell shows no number
    nbformat.write(notebook, target)
    return len(cells)


def wait(browser: Chrome, seconds: float, condition: Callable[[], T], complaint: str) -> T:
    """What the condition gives once that is true; fails after these seconds, and at once when a cell has failed."""
    until = time.monotonic() + seconds
    while True:
        assert not (errors := browser.execute_script(TRACEBACKS)), "\n".join(errors)[-3000:]
        with suppress(StaleElementReferenceException):
            if result := condition():
                return result
        assert time.monotonic() < until, f"after {seconds} s: {complaint}"
        time.sleep(0.2)


def find(browser: Chrome, xpath: str) -> WebElement | None:
    """The first element there that is visible."""
    return next((element for element in browser.find_elements(By.XPATH, xpath) if element.is_displayed()), None)


def run_all(browser: Chrome, cells: int) -> None:
    """Run all code cells by the menu, and wait for the last."""
    # Before the status bar says so there is no kernel, and JupyterLab would ask for one.
    ready = "//*[@id='jp-main-statusbar']//*[starts-with(normalize-space(), 'Python 3') and contains(., '| Idle')]"
    wait(browser, START, lambda: find(browser, ready), "the kernel is not ready")
    for entry in ("//*[contains(@class, 'lm-MenuBar-item')][.='Run']", "//li[@data-command='runmenu:run-all']"):
        wait(browser, START, partial(find, browser, entry), f"no menu {entry}").click()
    wait(browser, RUN, lambda: browser.execute_script(RAN) == cells, f"not all of {cells} cells have run")


def widget(browser: Chrome, label: str) -> tuple[WebElement, WebElement]:
    """The handle of the slider with this label, and the box that holds it and its picture."""
    slider = f"//*[contains(@class, 'widget-slider')][.//label[normalize-space()='{label}']]"
    holder = f"{slider}/ancestor::*[contains(@class, 'widget-vbox')][.//img][1]"
    box = wait(browser, REDRAW, lambda: find(browser, holder), f"no slider {label} beside a picture")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
    return box.find_element(By.XPATH, f".{slider}//*[contains(@class, 'noUi-handle')]"), box


def changed(browser: Chrome, box: WebElement, before: str) -> str:
    """The content of the picture in a box, once there is one and it is another than ``before``."""

    def picture() -> str:
        images = box.find_elements(By.CSS_SELECTOR, "img")  # none while it is drawn again
        source = images[0].get_property("src") if images and images[0].get_property("naturalWidth") else ""
        return "" if source == before else str(source)

    return wait(browser, REDRAW, picture, "the slider was moved, and the picture is the same")


def move(browser: Chrome, label: str) -> None:
    """Move a slider by keyboard and by mouse, and see the picture change each time."""
    handle, box = widget(browser, label)
    first = changed(browser, box, "")
    at_the_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
    key, way = (Keys.ARROW_LEFT, -40) if at_the_end else (Keys.ARROW_RIGHT, 40)
    handle.send_keys(key)
    second = changed(browser, box, first)
    ActionChains(browser).drag_and_drop_by_offset(handle, way, 0).perform()
    assert changed(browser, box, second) != first


def test_a_network_draws_again_for_the_strength_that_a_slider_has(folder: Path, lab: str, tmp_path: Path) -> None:
    """In the first notebook, all of whose cells run before."""
    cells = at_smoke(FIRST, folder / FIRST.name)
    with chromium(tmp_path / "profile") as browser:
        try:
            browser.get(f"{lab}/tree/{FIRST.name}?reset")  # what another test had open is closed
            run_all(browser, cells)
            move(browser, "w")
        except BaseException:
            shot = tmp_path / "failure.png"
            browser.save_screenshot(str(shot))
            print(f"what the browser showed: {shot}")
            raise


MOVING = """import torch
from ismkit.lessons import plot

plot.animate({"a": torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]]])}, alt="a point that moves")"""
DRAWN = """import matplotlib.pyplot as plt
from ipywidgets import FloatSlider


def draw(drift: float) -> None:
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([0, 1], [0, drift])
    plot.show(figure, alt="a line")


plot.explore(draw, drift=FloatSlider(min=0, max=2, step=0.25, value=1, description="drift"))"""


def test_animation_plays_once_it_is_run_and_a_formula_is_drawn_again(folder: Path, lab: str, tmp_path: Path) -> None:
    """JupyterLab takes the scripts out of what it did not run itself, as in a notebook that was just downloaded."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = folder / "moving.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(MOVING), new_code_cell(DRAWN)], metadata=kernel), path)
    refresh(path)
    stored = nbformat.read(path, as_version=4)
    for cell in stored.cells:
        cell.execution_count = None  # so that it is seen to run again
    nbformat.write(stored, path)
    with chromium(tmp_path / "profile") as browser:
        browser.get(f"{lab}/tree/{path.name}?reset")
        picture = "//*[contains(@class, 'jp-OutputArea')]//img[@alt='a point that moves']"
        image = wait(browser, START, partial(find, browser, picture), "no picture in a notebook that was only opened")
        assert wait(browser, REDRAW, lambda: image.get_property("naturalWidth"), "the picture is empty")
        assert not browser.find_elements(By.TAG_NAME, "canvas")
        run_all(browser, 2)
        slider = wait(browser, REDRAW, partial(find, browser, "//*[@data-ready]//input[@type='range']"), "no player")
        moment = partial(slider.get_attribute, "aria-valuetext")
        slider.send_keys(Keys.HOME, Keys.ARROW_RIGHT)
        wait(browser, REDRAW, lambda: moment() == "t = 0.01", f"the arrow key moves something else: {moment()}")
        button = browser.find_element(By.XPATH, "//*[@data-ready]//button")
        button.click()
        wait(browser, REDRAW, lambda: (moment(), button.text) == ("t = 1.00", "Play"), "it does not end")
        move(browser, "drift")
