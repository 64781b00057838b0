"""Chromium looks at Prefect's UI as a person does, and keeps pictures of what it saw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
# No sandbox: tests run as root in containers. The rest keeps a browser of the tests off the network.
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_PATIENCE_SECONDS = 300
"""A busy machine draws the UI in a minute."""


class Browser:
    """A window on the UI.

    Args:
        page: The window.
        ui_url: Where the UI is.
        folder: Where pictures are kept.

    """

    def __init__(self, page: Page, ui_url: str, folder: Path) -> None:
        self.page, self._ui_url, self._folder = page, ui_url, folder

    def open(self, path: str) -> None:
        """Go to a page of the UI."""
        self.page.goto(f"{self._ui_url}/v2{path}")

    def keep(self, name: str) -> None:
        """Keep a picture of the whole page."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self._folder / f"{name}.png", full_page=True)

    def field(self, label: str) -> Locator:
        """Find the number field of the form that bears a label."""
        named = self.page.locator("label", has_text=label)
        return named.locator("xpath=ancestor::div[contains(@class,'group')][1]//input[@type='number']")

    def open_form(self, deployment: str) -> None:
        """Go from a deployment to the form of a custom run."""
        self.open(f"/deployments/deployment/{deployment}")
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Custom run").click()
        self.page.locator("label", has_text="Epochs").wait_for()


@contextmanager
def browser(ui_url: str, folder: Path) -> Iterator[Browser]:
    """Open a window; it closes with the block."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        page = chromium.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(1000 * _PATIENCE_SECONDS)
        try:
            yield Browser(page, ui_url, folder)
        finally:
            chromium.close()
