"""Chromium without a window, for the tests of the book and of JupyterLab; only this machine is within its reach."""

import io
import json
import os
import shutil
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """Start Chromium with its profile in a folder; skip where there is none, fail if ISMKIT_BROWSER is ``required``."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    driver = shutil.which("chromedriver")
    if not program or not driver:
        lack = f"no {'Chromium' if not program else 'chromedriver'} here (Debian: apt install chromium chromium-driver)"
        if os.environ.get("ISMKIT_BROWSER") == "required":
            pytest.fail(lack)
        pytest.skip(lack)
    options = ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    switches = ["headless=new", "disable-dev-shm-usage", "disable-gpu", "force-device-scale-factor=1"]
    switches += ["window-size=1400,1000", f"user-data-dir={profile}"]
    switches += ["host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]
    if os.geteuid() == 0:
        switches += ["no-sandbox"]  # which Chromium has not for root
    for switch in switches:
        options.add_argument(f"--{switch}")
    browser = Chrome(options=options, service=ChromeService(driver))
    try:
        browser.set_script_timeout(180)  # axe-core on a long page, on a busy machine
        browser.command_executor.client_config.timeout = 300  # of one call; 120 s were too few for a page there
        browser.get("about:blank")
        logged(browser, "")  # of the page that it opened with
        yield browser
    finally:
        browser.quit()


def logged(browser: Chrome, home: str) -> list[str]:
    """What went wrong since the last call: errors on the console, failed requests, requests outside of ``home``."""
    found = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    urls = {}
    for entry in browser.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        given = event["params"]
        if event["method"] == "Network.requestWillBeSent":
            url = urls[given["requestId"]] = given["request"]["url"]
            if not url.startswith((home, "data:", "blob:")):
                found.append(f"request to the outside: {url}")
        elif event["method"] == "Network.responseReceived" and given["response"]["status"] >= 400:
            found.append(f"status {given['response']['status']}: {given['response']['url']}")
        elif event["method"] == "Network.loadingFailed" and not given.get("canceled"):
            found.append(f"failed request: {urls.get(given['requestId'], '?')}: {given.get('errorText')}")
    return found


#: Widths of the screens, in pixels, and themes of a page's screenshots.
WIDTHS, THEMES = (1400, 390), ("light", "dark")
_STRIP = 4000  # pixels of height that are taken at a time: Chromium repeats what is beyond its largest texture


def screenshots(browser: Chrome, page: str, folder: Path) -> None:
    """Take the open page at its full height, wide and narrow, light and dark; it is left as it was, but light.

    Args:
        browser: whose page is taken.
        page: its name; the pictures are called ``NAME-1400-light.png`` and so on, with ``+`` for a slash.
        folder: where they go; it is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    still = [{"name": "prefers-reduced-motion", "value": "reduce"}]  # else the sidebar is on its way when it is taken
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": still})
    stem = page.removesuffix(".html").replace("/", "+")
    for width in WIDTHS:
        metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        for theme in reversed(THEMES):
            browser.execute_script(_THEME, theme)
            height = browser.execute_script("return document.documentElement.scrollHeight")
            sheet = Image.new("RGB", (width, height))
            for top in range(0, height, _STRIP):
                clip = {"x": 0, "y": top, "width": width, "height": min(_STRIP, height - top), "scale": 1}
                asked = {"captureBeyondViewport": True, "clip": clip}
                data = browser.execute_cdp_cmd("Page.captureScreenshot", asked)["data"]
                with Image.open(io.BytesIO(b64decode(data))) as strip:
                    sheet.paste(strip, (0, top))
            sheet.save(folder / f"{stem}-{width}-{theme}.png")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


# Colours fade into a theme: they are set to the end of the move.
_THEME = """
document.documentElement.dataset.theme = arguments[0];
document.documentElement.dataset.mode = arguments[0];
for (const move of document.getAnimations()) move.finish();
"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of 127.0.0.1; gives the address, which ends in a slash."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
