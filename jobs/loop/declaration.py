"""How a job makes itself known: a package of `jobs/` that holds a `JOB`; nothing else has to name it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import qkatlas.jobs
from qkatlas.jobs.loop.option import Option, options_of


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What is known of a job before any of its code is loaded, so that help and refusals come at once.

    Attributes:
        name: of the command.
        summary: one sentence, for `--help`.
        spec: the dataclass of its settings; each option is declared on its field.
        package: the package, such as `qkatlas.jobs.full_vocab`.
        job: its `Job`, as `module:name` in the package.
        plan: what makes its `submit plan` of a shape and a spec, as `module:name`; empty = it is not modelled.
        sections: its sections of a report, as `module:name`; empty = it shows nothing.
        opens_model: whether `--model` names what it is about.
        uses_gpus: whether its workers can use GPUs.
        example: of its command, for `--help`; empty = none.
    """

    name: str
    summary: str
    spec: type
    package: str
    job: str = "job:JOB"
    plan: str = ""
    sections: str = ""
    opens_model: bool = True
    uses_gpus: bool = True
    example: str = ""

    @property
    def options(self) -> tuple[Option, ...]:
        """The options of its own."""
        return options_of(self.spec)

    def load(self, reference: str) -> Any:
        """What a reference names, its module loaded now.

        Args:
            reference: `module:name`, in the package.
        """
        module, _, name = reference.partition(":")
        return getattr(importlib.import_module(f"{self.package}.{module}"), name)


def declarations() -> Mapping[str, Declaration]:
    """Every job there is, by its command's name: the packages of `jobs/` that declare one."""
    found = {}
    for module in sorted(pkgutil.iter_modules(qkatlas.jobs.__path__), key=lambda module: module.name):
        if module.ispkg:
            package = importlib.import_module(f"qkatlas.jobs.{module.name}")
            declared = getattr(package, "JOB", None)
            if isinstance(declared, Declaration):
                found[declared.name] = declared
    return MappingProxyType(found)
