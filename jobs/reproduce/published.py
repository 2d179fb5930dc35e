"""The published figures, as the project's data file has them: what, where, and which measured values reproduce them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_DATA = Path(__file__).parent / "data"

DEFINED, PUBLISHED = "as defined", "as published"
"""Variants: by this project's definitions, and with the slips and forms of the authors' text or code."""

RULES = ("within", "factor", "at_least", "unmeasured")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One published figure."""

    figure: str
    """Its name here."""
    what: str
    """What it says."""
    sources: tuple[str, ...]
    """Where it was published, keys of the facts' `sources`."""
    published: float | None
    """The number; None for a claim without one."""
    published_text: str
    """The same as it was published."""
    rule: str
    """How a measured value is judged, one of RULES."""
    limit: float
    """What the rule takes: a distance, a factor, or the least value."""
    why: str
    """Reason for the limit."""
    variants: tuple[str, ...]
    """In which ways it is measured."""
    unit: str = ""
    """Unit of both values."""

    def __post_init__(self) -> None:
        assert self.rule in RULES, self.rule
        assert self.published is not None or self.rule in ("at_least", "unmeasured"), self.figure

    @property
    def tolerance(self) -> str:
        """The values that count as reproduced, in words."""
        if self.rule == "within":
            return f"+- {self.limit:g}" if self.limit else "exactly"
        if self.rule == "factor":
            return f"within a factor of {self.limit:g}"
        return f"at least {self.limit:g}" if self.rule == "at_least" else "none"

    def holds(self, measured: float) -> bool:
        """Whether a measured value reproduces the figure."""
        if self.rule == "at_least":
            return measured >= self.limit
        assert self.published is not None
        if self.rule == "factor":
            return self.published / self.limit <= measured <= self.published * self.limit
        # A distance that is printed as the limit is within it, whatever its last bit.
        return abs(measured - self.published) <= self.limit * (1 + 1e-9) + 1e-12


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All published figures and what is needed to measure them.

    Attributes:
        head: the head that they are about.
        sources: short name of a source -> its title.
        figures: the figures, in the order of the table.
        data: lists and tables that belong to them, by name.
        sha256: hash of the data file.
    """

    head: str
    sources: dict[str, str]
    figures: tuple[Figure, ...]
    data: dict[str, Any]
    sha256: str


@cache
def facts() -> Facts:
    """The project's data file, `jobs/reproduce/data/published.json`."""
    content = (_DATA / "published.json").read_bytes()
    data = json.loads(content)
    return Facts(
        head=data.pop("head"),
        sources=data.pop("sources"),
        figures=tuple(_figure(entry) for entry in data.pop("figures")),
        data=data,
        sha256=hashlib.sha256(content).hexdigest(),
    )


def frequent_tokens() -> tuple[int, ...]:
    """Ids of the 8192 most frequent GPT-2 tokens, the most frequent first."""
    lines = (_DATA / "gpt2_frequent_tokens.txt").read_text(encoding="ascii").splitlines()
    return tuple(int(token) for line in lines if not line.startswith("#") for token in line.split())


def _figure(entry: dict[str, Any]) -> Figure:
    published = entry["published"]
    text = entry.pop("published_text", None) or f"{published:g}"
    limit = entry.pop("limit", 0)
    return Figure(
        **{**entry, "sources": tuple(entry["sources"]), "variants": tuple(entry["variants"])},
        published_text=text,
        limit=limit,
    )
