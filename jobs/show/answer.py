"""How tokens of a run are printed: side by side, as JSON or as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qkatlas.jobs.show.look import Listed, Own, Seen
from qkatlas.pipeline.text.vocabulary import Vocabulary

_LISTS = (
    ("attends", "attends to"), ("attended_by", "attended by"), ("promotes", "promotes"), ("suppresses", "suppresses")
)  # fmt: skip
_COLUMNS = ("token_id", "token", "relation", "place", "other_id", "other", "score")


def printed(seen: Sequence[Seen], vocabulary: Vocabulary, title: str) -> None:
    """Print tokens side by side for people.

    Args:
        seen: the tokens.
        vocabulary: of the model.
        title: what they are seen in.
    """
    console = Console(highlight=False, soft_wrap=len(seen) == 1)
    console.print(title, markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True, style="dim")
    for one in seen:
        table.add_column(Text(f"{vocabulary.shown(one.token_id)} #{one.token_id}"))
    for name, cells in _cells(seen, vocabulary):
        table.add_row(name, *(Text(cell) for cell in cells))
    console.print(table)


def _cells(seen: Sequence[Seen], vocabulary: Vocabulary) -> Iterator[tuple[str, list[str]]]:
    size = len(vocabulary.spellings)
    if any(one.own is not None for one in seen):
        yield "own rank", [_own(one.own, size) for one in seen]
    for name, label in _LISTS[:2]:
        if any(getattr(one, name) is not None for one in seen):
            yield label, [_listed(getattr(one, name), vocabulary, name) + _rest(one, name) for one in seen]
    if any(one.written is not None for one in seen):
        yield "own rank, attended", [_own(one.written, size) for one in seen]
    for name, label in _LISTS[2:]:
        if any(getattr(one, name) is not None for one in seen):
            yield label, [_listed(getattr(one, name), vocabulary, name) for one in seen]
    if any(one.community is not None for one in seen):
        yield (
            "community",
            [
                ""
                if one.community is None
                else f"{one.community.number} ({one.community.size} tokens): "
                + ", ".join(vocabulary.shown(member) for member in one.community.members)
                for one in seen
            ],
        )


def _own(own: Own | None, size: int) -> str:
    if own is None:
        return ""
    return f"{own.rank} of {size}, score {own.score:.2f}" + ("" if own.z is None else f", z {own.z:.2f}")


def _listed(listed: Sequence[Listed] | None, vocabulary: Vocabulary, name: str) -> str:
    if name == "attended_by":
        return "\n".join(f"{vocabulary.shown(one.token_id)} (at {one.place})" for one in listed or ())
    return "\n".join(f"{vocabulary.shown(one.token_id)} {one.score:.2f}" for one in listed or ())


def _rest(one: Seen, name: str) -> str:
    if name != "attended_by" or one.attended_by_count is None:
        return ""
    return f"\n{one.attended_by_count} of all, in their {one.kept} best" if one.attended_by_count else "nobody"


def json_text(seen: Sequence[Seen], vocabulary: Vocabulary, where: dict[str, Any]) -> str:
    """Tokens as JSON, with the texts of all ids in them."""
    records = []
    for one in seen:
        record = {"token": vocabulary.text(one.token_id), **asdict(one)}
        for name, _ in _LISTS:
            for listed in record[name] or ():
                listed["token"] = vocabulary.text(listed["token_id"])
        if record["community"] is not None:
            record["community"]["tokens"] = [vocabulary.text(member) for member in record["community"]["members"]]
        records.append(record)
    return json.dumps({**where, "tokens": records}, indent=1, ensure_ascii=False)


def csv_text(seen: Sequence[Seen], vocabulary: Vocabulary) -> str:
    """Tokens as CSV: one line for each token in a list; own ranks are lines too."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for one in seen:

        def line(relation: str, place: int, other: int, score: float | None, token: int = one.token_id) -> None:
            texts = vocabulary.text(token), vocabulary.text(other)
            values = (token, texts[0], relation, place, other, texts[1], score)
            writer.writerow(dict(zip(_COLUMNS, values, strict=True)))

        for relation, own in (("own_rank", one.own), ("own_rank_written", one.written)):
            if own is not None:
                line(relation, own.rank, one.token_id, own.score)
        for name, _ in _LISTS:
            for listed in getattr(one, name) or ():
                line(name, listed.place, listed.token_id, listed.score)
        if one.community is not None:
            for place, member in enumerate(one.community.members, start=1):
                line("community", place, member, None)
    return stream.getvalue()
