"""Prints src/qkatlas/__init__.pyi, the types of the library's names, from what jobs declare."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from typing import Any

from qkatlas.jobs.library.functions import signature_of
from qkatlas.jobs.loop.declaration import declarations

HEAD = '''"""Written by `python docs/library.py > src/qkatlas/__init__.pyi` from what jobs declare."""

import os
from pathlib import Path
from typing import Any

{imports}

__version__: str
open = open_run
'''

PUBLIC = (
    "from qkatlas.jobs.library.listed import RunList as RunList",
    "from qkatlas.jobs.library.listed import runs as runs",
    "from qkatlas.jobs.library.opened import OpenedRun as OpenedRun",
    "from qkatlas.jobs.library.opened import open_run",
    "from qkatlas.jobs.library.rows import Rows as Rows",
    "from qkatlas.jobs.loop.result import IncompleteError as IncompleteError",
)
"""Imports of the names that are no jobs."""


def page() -> str:
    """The file's text."""
    found = {name.replace("-", "_"): one for name, one in declarations().items()}
    own = {kind for one in found.values() for kind in _classes(list(typing.get_type_hints(one.spec).values()))}
    kinds = {f"from {kind.__module__} import {kind.__name__}" for kind in own}
    imports = "\n".join(sorted({*PUBLIC, *kinds}))
    stubs = [_stub(name, signature_of(one)) for name, one in found.items()]
    return "\n".join([HEAD.format(imports=imports), *stubs])


def _classes(hints: list[Any]) -> Iterator[type]:
    for hint in hints:
        if isinstance(hint, type) and hint.__module__.startswith("qkatlas."):
            yield hint
        yield from _classes([inner for inner in typing.get_args(hint) if inner is not Ellipsis])


def _stub(name: str, signature: inspect.Signature) -> str:
    lines = [f"def {name}("]
    starred = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            lines.append("    *,")
            starred = True
        kind = "Any" if parameter.annotation is parameter.empty else parameter.annotation
        default = "" if parameter.default is parameter.empty else " = ..."
        lines.append(f"    {parameter.name}: {kind}{default},")
    return "\n".join([*lines, ") -> OpenedRun: ..."])


if __name__ == "__main__":
    print(page())
