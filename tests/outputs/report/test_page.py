"""The page runs its own script and nothing else, loads nothing, and takes the place of nothing but a report."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

from qkatlas.outputs.report import page
from qkatlas.outputs.report.pack import Pack

TITLE = "</title><script>window.pwned=1</script>"


class Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open = ""
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": [], "title": []}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        self.open = tag
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open in self.inside:
            self.inside[self.open][-1] += data


@pytest.fixture(scope="module")
def text() -> str:
    pack = Pack()
    return page.render(TITLE, pack.close({"texts": pack.texts(["</script>", "<!--<script>"])}))


def test_the_policy_allows_one_script_and_one_style_by_hash_and_no_network(text: str) -> None:
    elements = Elements(text)
    [policy] = [
        entry["content"] or "" for tag, entry in elements.found if entry.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    scripts = [
        body
        for (_, entry), body in zip(
            [one for one in elements.found if one[0] == "script"], elements.inside["script"], strict=True
        )
        if "type" not in entry
    ]
    for source, [body] in ((rules["script-src"], scripts), (rules["style-src"], elements.inside["style"])):
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert source == f"'sha256-{digest}'"


def test_the_page_names_nothing_outside_itself(text: str) -> None:
    for tag, attributes in Elements(text).found:
        assert not {"src", "srcset", "action", "style"} & set(attributes), tag
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    # The name space of SVG is the one address in the page; it is a name that nothing fetches.
    assert set(re.findall(r"https?://[^\"'\s)]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|\bimport\b|importScripts|XMLHttpRequest|WebSocket|fetch\(", text)


def test_a_title_and_data_stay_text(text: str) -> None:
    elements = Elements(text)
    assert elements.inside["title"] == [TITLE]
    assert sum(tag == "script" for tag, _ in elements.found) == 3  # the index, one block, the program
    assert text.count("window.pwned") == 2
    assert text.count("&lt;script&gt;window.pwned") == 2


def test_no_asset_parses_markup_or_text_as_code() -> None:
    assets = {
        file.name: file.read_text() for file in resources.files("qkatlas.outputs.report").joinpath("assets").iterdir()
    }
    assert set(assets) == {*page.SCRIPTS, "page.html", "style.css"}
    for name in page.SCRIPTS:
        banned = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|</script|<!--"
        assert not re.search(banned, assets[name]), name
        assert len(assets[name].splitlines()) <= 400, name


def test_a_report_is_replaced_and_nothing_else(tmp_path: Path, text: str) -> None:
    file = tmp_path / "new" / "report.html"
    assert page.write(file, text) == file.stat().st_size
    page.write(file, page.render("again", {}))
    assert "<title>again</title>" in file.read_text(encoding="utf-8")
    assert [one.name for one in file.parent.iterdir()] == ["report.html"]

    other = tmp_path / "notes.html"
    other.write_text("<!doctype html><p>mine</p>")
    with pytest.raises(ValueError, match=r"notes\.html is no report .* choose another file"):
        page.write(other, text)
    assert other.read_text() == "<!doctype html><p>mine</p>"
    with pytest.raises(ValueError, match=r"/dev/stdout is no report"):
        page.write(Path("/dev/stdout"), text)
    with pytest.raises(ValueError, match=r"cannot be written"):
        page.write(other / "report.html", text)
