"""Debian's Chromium, driven by Playwright, and the page that it looks at."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.cluster import debian
from tests.cluster.control_plane import ControlPlane
from tests.integration.surroundings import eventually, process

PACKAGES = ("chromium", "fonts-dejavu-core")
expect.set_options(timeout=20_000)
_COLOURS = 160  # of a screenshot in the documents


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser; Debian's packages are installed where they are missing."""
    debian.install(*PACKAGES)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        yield browser
        browser.close()


@contextmanager
def dashboard(plane: ControlPlane, folder: Path, *arguments: str) -> Iterator[str]:
    """`kubectl modelrelease dashboard` on a free port. Yields the address that it prints."""
    log = folder / f"dashboard-{len(list(folder.glob('dashboard-*')))}.log"
    command = [sys.executable, "-m", "serinus_operator.cli", "dashboard", "--port", "0", "--no-browser", *arguments]
    with process(command, log, {"KUBECONFIG": str(plane.kubeconfig), "PYTHONUNBUFFERED": "1"}):
        printed = eventually("the page's address", lambda: re.match(r"http://\S+", log.read_text()), 60)
        yield printed[0]


@contextmanager
def page(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    """One tab. Fails on anything that the console says, and on a request to anywhere else."""
    complaints: list[str] = []
    context = browser.new_context(**{"viewport": {"width": 1180, "height": 460}, "locale": "en-GB"} | options)
    tab = context.new_page()
    tab.set_default_timeout(30_000)
    tab.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on(
        "request",
        lambda asked: complaints.append(asked.url) if not asked.url.startswith(address.split("#")[0]) else None,
    )
    tab.goto(address)
    tab.get_by_role("heading", level=1).wait_for()
    yield tab
    context.close()

    assert complaints == []


def accessible(tab: Page) -> None:
    """No violation of what axe-core can tell: contrast, names, roles, order of headings."""
    found = Axe().run(tab)
    assert found.violations_count == 0, found.generate_report()


def fits(tab: Page) -> None:
    """Nothing is wider than the screen."""
    wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0


def keep(tab: Page, name: str) -> None:
    """A screenshot for the documents, in the folder that SERINUS_SCREENSHOTS names."""
    if folder := os.environ.get("SERINUS_SCREENSHOTS"):
        taken = Image.open(BytesIO(tab.screenshot(full_page=True))).convert("RGB")
        few = taken.quantize(_COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(Path(folder) / f"{name}.png", optimize=True)
