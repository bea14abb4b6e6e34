"""A figure to explore on a page that is open in Chromium: its controls by their labels, by mouse and by keyboard."""

from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

NEXT = "const [done] = arguments; requestAnimationFrame(() => requestAnimationFrame(() => done()))"


class Explorable:
    """The figure of this name on the page that is open, once its module has filled the block."""

    def __init__(self, browser: Chrome, name: str) -> None:
        self.browser = browser
        css = f'[data-explore="{name}"].ready'
        self.block = WebDriverWait(browser, 20).until(lambda driver: driver.find_element(By.CSS_SELECTOR, css))
        browser.execute_script("arguments[0].scrollIntoView({behavior: 'instant'})", self.block)

    def settle(self) -> None:
        """Wait for the frame in which what was moved is drawn."""
        self.browser.execute_async_script(NEXT)

    @property
    def number(self) -> str:
        """The line below the controls."""
        self.settle()
        return self.block.find_element(By.CSS_SELECTOR, ".number").text

    @property
    def picture(self) -> WebElement:
        """The drawing."""
        return self.block.find_element(By.CSS_SELECTOR, "svg[role=img]")

    @property
    def shown(self) -> str:
        """The line below the controls, and the drawing as its source."""
        return f"{self.number} {self.picture.get_attribute('innerHTML')}"

    @property
    def alternative(self) -> str:
        """What stands for the drawing where it is not seen."""
        self.settle()
        return self.picture.get_attribute("aria-label") or ""

    def control(self, label: str) -> WebElement:
        """What a label of this beginning, or a button of this text, stands for."""
        found = self.block.find_elements(By.XPATH, f".//label[starts-with(., '{label}')]")
        if not found:
            return self.block.find_element(By.XPATH, f".//button[.='{label}']")
        return self.block.find_element(By.ID, found[0].get_attribute("for") or "")

    def value(self, label: str) -> str | None:
        """What a slider says its value is."""
        return self.control(label).get_attribute("aria-valuetext")

    def keys(self, label: str, *keys: str) -> None:
        """Press keys on a control that has the focus, without the mouse."""
        self.browser.execute_script("arguments[0].focus({focusVisible: true})", self.control(label))
        ActionChains(self.browser).send_keys(*keys).perform()

    def click(self, label: str, part: float = 0.5) -> None:
        """Click on a control, at a part of its width."""
        self.click_at(self.control(label), part, 0.5)

    def click_at(self, target: WebElement, across: float, down: float) -> None:
        """Click into an element, at parts of its width and height."""
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", target)
        x, y = ((part - 0.5) * (target.size[side] - 4) for part, side in ((across, "width"), (down, "height")))
        ActionChains(self.browser).move_to_element_with_offset(target, round(x), round(y)).click().perform()
