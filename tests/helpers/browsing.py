"""Pages of the server in a real browser. Imports playwright: call ``pytest.importorskip`` before."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from serving import TOKEN, Served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium on this machine: apt-get install chromium"
)
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
PICTURES = Path(__file__).parents[2] / "build" / "screenshots"
CUT_OFF = """() => [...document.querySelectorAll("main *, header *")].filter((item) => {
  const box = item.getBoundingClientRect();
  return box.width && !item.closest("svg, .skip, .cards thead") && (box.right > innerWidth + 1 || box.left < -1);
}).map((item) => item.outerHTML.slice(0, 80))"""
"""What reaches beyond the window."""

Opener = Callable[..., Page]
expect.set_options(timeout=30_000)  # a machine may have other work


@contextmanager
def open_browser() -> Iterator[Browser]:
    with sync_playwright() as found:
        opened = found.chromium.launch(executable_path=CHROMIUM, args=OPTIONS.split())
        yield opened
        opened.close()


@contextmanager
def open_pages(browser: Browser, server: Served) -> Iterator[Opener]:
    """Give a function that opens a page with the token; at the end no page has complained, or asked any other host."""
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def opened(path: str, width: int = 1280, scheme: Any = "light", token: str = TOKEN) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(server.url) else wrong.append(asked.url))
        page.goto(f"{server.url}{path}" + (f"#token={token}" if token else ""), wait_until="commit")
        return page

    yield opened
    for context in contexts:
        context.close()
    # what is refused on purpose is a line of the browser's own
    assert [line for line in wrong if not line.startswith("Failed to load resource: the server responded")] == []


def picture(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True)
