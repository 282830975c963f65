"""A real Chromium, told what to do by Playwright, and pages of it that watch what they load and what they refuse."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright, expect

from tests.support.serving import token_for

# It may run as root, and has nobody to talk to but the service.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
NAMES = ("chromium", "chromium-browser", "google-chrome")
SHOTS = os.environ.get("SHOTS")  # a folder for pictures of each step
TELL_VIOLATIONS = """addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
  console.error("against the policy:", violatedDirective, blockedURI))"""
PATIENCE = 30_000  # milliseconds; a busy machine takes its time, and only a test that fails waits so long
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


expect.set_options(timeout=PATIENCE)


def executable() -> str | None:
    """The Chromium that CHROMIUM names, or the machine's; a name that leads nowhere is an error."""
    named = os.environ.get("CHROMIUM")
    if named:
        assert Path(named).exists(), f"CHROMIUM: there is no {named}"
        return named
    return next(filter(None, map(shutil.which, NAMES)), None)


def missing() -> str | None:
    return None if executable() else "the browser's tests left out: there is no Chromium (CONTRIBUTING.md)"


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable(), args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


class Watch:
    """What a page has asked for, and what has gone wrong in it."""

    def __init__(self, page: Page) -> None:
        self.hosts: set[str] = set()
        self.troubles: list[str] = []
        page.on("request", self._asked)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.troubles.append(str(error)))

    def _asked(self, request: Request) -> None:
        if not request.url.startswith(("about:", "blob:", "data:")):
            self.hosts.add(urlsplit(request.url).netloc)

    def _said(self, message: ConsoleMessage) -> None:
        """An HTTP error is told on the console, too, and some are wanted."""
        if message.type in {"error", "warning"} and not message.text.startswith("Failed to load resource"):
            self.troubles.append(message.text)


@asynccontextmanager
async def opened(
    browser: Browser, url: str, user_id: str | None = None, **options: Any
) -> AsyncIterator[Page]:
    """The page at that address, in a context of its own, signed in as that user or as the service does by itself."""
    context = await browser.new_context(**{"viewport": DESKTOP, **options})
    context.set_default_timeout(PATIENCE)
    await context.add_init_script(TELL_VIOLATIONS)
    if user_id is not None:
        await context.add_init_script(
            f"if (location.protocol === 'http:') sessionStorage.setItem('chatapi-token', '{token_for(user_id)}')"
        )
    page = await context.new_page()
    watch = Watch(page)
    try:
        await page.goto(url)
        yield page
        assert not watch.troubles, watch.troubles
        assert watch.hosts == {urlsplit(url).netloc}, watch.hosts
    finally:
        await context.close()


async def shot(page: Page, name: str) -> None:
    if SHOTS:
        await page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))
