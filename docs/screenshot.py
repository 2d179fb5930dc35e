"""Draws the README's picture of a report, in a headless Chromium without a network.

submit full-vocab --model planted; submit communities full-vocab; submit head-scan --model planted
submit report communities head-scan --out report.html
pip install -e '.[browser]'; apt-get install chromium
python docs/screenshot.py report.html docs/report.png
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import click
from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1320, 1150
"""Pixels: the head of the page and the whole map."""


@click.command()
@click.option("--scheme", type=click.Choice(["light", "dark"]), default="light", show_default=True)
@click.option("--browser", default=None, help="Path of a Chromium; by default one on the PATH, or Playwright's own.")
@click.argument("report", type=click.Path(path_type=Path, exists=True))
@click.argument("target", type=click.Path(path_type=Path))
def main(scheme: str, browser: str | None, report: Path, target: Path) -> None:
    """Open the report and photograph its top."""
    with sync_playwright() as playwright:
        found = browser or shutil.which("chromium-headless-shell") or shutil.which("chromium")
        # A sandbox needs user namespaces, which containers that run as root seldom have.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=found, args=arguments)
        page = chromium.new_page(color_scheme=scheme, viewport={"width": WIDTH, "height": HEIGHT}, offline=True)
        page.goto(report.resolve().as_uri())
        page.wait_for_selector("html[data-ready=true]", state="attached")
        page.wait_for_timeout(500)
        page.screenshot(path=target)
        chromium.close()


if __name__ == "__main__":
    main()
