"""A page of a real Chromium. What it logs as an error, or asks of another machine, fails the test."""

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.browser import chromium

HERE = ("127.0.0.1", "localhost", "", None)  # data: and about: have no host


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium by Playwright; without one the tests skip, and in CI they fail. Its event loop ends with the file."""
    reason = chromium.absent()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        reason = "no Playwright: pip install 'guie[browser]'"
    if reason:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=str(chromium.FOLDER / "chromium"), args=chromium.FLAGS, env=chromium.environment()
        )
        yield running
        running.close()


@pytest.fixture
def page(browser) -> Iterator[Any]:
    """A page of 1400 × 900 px in a fresh profile; a step may take 10 seconds. `page.wrong` grows with what went wrong.

    A test that wants an error, such as an upload that is refused, takes it out of `page.wrong`.
    """
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(10_000)
    page = context.new_page()
    page.wrong = []
    page.on("console", lambda said: page.wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("request", lambda asked: None if _is_here(asked.url) else page.wrong.append(f"asked {asked.url}"))
    yield page
    wrong = list(page.wrong)
    context.close()
    assert not wrong, wrong


def _is_here(url: str) -> bool:
    return urlsplit(url).hostname in HERE
