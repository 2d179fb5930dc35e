"""A headless Chromium without a network. Tests that need one are skipped, with the reason, where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")

_HOW = "for these tests: pip install -e '.[test,browser]' && apt-get install chromium"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium: the one QKATLAS_CHROMIUM names, one on the PATH, or the one Playwright installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason=f"no playwright; {_HOW}")
    named = os.environ.get("QKATLAS_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    with sync_api.sync_playwright() as playwright:
        if named is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip(f"no Chromium; {_HOW}")
        # A sandbox needs user namespaces, which containers that run as root seldom have.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        launched = playwright.chromium.launch(executable_path=named, args=arguments)
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a file as a double click does; anything it says to the console or asks of a network fails the test."""
    contexts, complaints = [], []

    def open_(file: Path, scheme: str = "light", **options: Any) -> Any:
        context = browser.new_context(
            color_scheme=scheme, offline=True, viewport={"width": 1320, "height": 1000}, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request", lambda asked: None if asked.url == file.as_uri() else complaints.append(f"request: {asked.url}")
        )
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready=true]", state="attached")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []
