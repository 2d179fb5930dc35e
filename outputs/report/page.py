"""The page: the hand-written parts in `assets/` and the packed data, put together into one HTML file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from qkatlas.outputs.places import target
from qkatlas.outputs.places.local_folder import without_traces, write_whole

MARK = "<!doctype html><!-- QK Atlas report -->"
"""How every report begins; a file that begins otherwise is never replaced."""

SCRIPTS = (
    "data.js",
    "dom.js",
    "colour.js",
    "chart.js",
    "grid.js",
    "points.js",
    "map.js",
    "search.js",
    "token.js",
    "tokens.js",
    "spectrum.js",
    "heads.js",
    "positions.js",
    "features.js",
    "neurons.js",
    "steering.js",
    "ablation.js",
    "tasks.js",
    "similarity.js",
    "reproduction.js",
    "runs.js",
    "table.js",
    "main.js",
)
"""The page's program, in the order in which its files stand in one scope."""


def render(title: str, blocks: Mapping[str, str]) -> str:
    """Put a page together.

    The content policy names the hashes of the one style sheet and the one script, so that a browser runs nothing else
    and fetches nothing, even if a token found a way to be read as markup.

    Args:
        title: of the window; any text.
        blocks: packed data by name, as `pack.Pack.close` gives them.

    Returns:
        The HTML file.
    """
    style = _asset("style.css")
    script = '"use strict";\n(() => {\n' + "\n".join(_asset(name) for name in SCRIPTS) + "\n})();"
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_source_hash(script)}'",
            f"style-src '{_source_hash(style)}'",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
    data = "\n".join(f'<script type="text/plain" id="{name}">{block}</script>' for name, block in blocks.items())
    page = Template(_asset("page.html"))
    return page.substitute(
        mark=MARK, policy=escape(policy), title=escape(_printable(title)), style=style, script=script, data=data
    )


def write(file: Path, page: str) -> int:
    """Put a report in place at once.

    Args:
        file: where; a report that is there is replaced.
        page: what `render` gave.

    Returns:
        Its size in bytes.

    Raises:
        ValueError: if something else is there, or the folder cannot be written.
    """
    require_replaceable(file)
    content = page.encode()
    try:
        with without_traces(file.parent):
            write_whole(file, content)
    except OSError as error:
        raise ValueError(f"--out {file} cannot be written ({error.strerror or error}); choose another file") from error
    return len(content)


def require_replaceable(file: Path) -> None:
    """Check that writing a report there destroys nothing but a report.

    Raises:
        ValueError: if something else is there, or the folder belongs to a run.
    """
    if file.is_dir():
        raise ValueError(f"--out {file} is a folder; name a file in it, such as {file / 'report.html'}")
    target.require_replaceable(file, "--out", mark=MARK.encode(), within=len(MARK), kind="report")


def _asset(name: str) -> str:
    return resources.files("qkatlas.outputs.report").joinpath("assets", name).read_text(encoding="utf-8")


def _source_hash(source: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
