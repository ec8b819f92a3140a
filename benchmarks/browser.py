"""A browser as scripts need one, without a window."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page


@contextmanager
def chromium() -> Iterator[Page]:
    """A page of the size of a small laptop's screen; the variable CURATION_CHROMIUM names the browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = os.environ.get("CURATION_CHROMIUM", "/usr/bin/chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--headless", "--no-sandbox"])
        yield browser.new_page(viewport={"width": 1366, "height": 768})
        browser.close()
