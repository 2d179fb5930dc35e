"""How found heads are printed: a table, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qkatlas.jobs.find.pairs import AskedPair
from qkatlas.jobs.find.search import Found
from qkatlas.jobs.find.spec import Find
from qkatlas.pipeline.text.vocabulary import Vocabulary


def printed(pairs: Sequence[AskedPair], found: Sequence[Found], of: int, vocabulary: Vocabulary) -> None:
    """Print the first heads for people.

    Args:
        pairs: what was asked for.
        found: the heads to print.
        of: heads in all.
        vocabulary: of the model.
    """
    console = Console(highlight=False, soft_wrap=True)
    for wanted, word in ((True, "attends"), (False, "not")):
        named = [
            f"{vocabulary.shown(pair.query_id)} -> {vocabulary.shown(pair.key_id)}"
            for pair in pairs
            if pair.wanted == wanted
        ]
        if named:
            console.print(f"{word}: {', '.join(named)}", markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("head", no_wrap=True)
    for name in ("margin", "p", "p of any head"):
        table.add_column(name, justify="right")
    table.add_column("worst pair")
    table.add_column("percentile", justify="right")
    table.add_column("of keys", justify="right")
    for one in found:
        worst = f"{'' if one.worst.wanted else 'not '}{one.worst.text}"
        table.add_row(
            str(one.head), f"{one.margin:.2f}", f"{one.p:.4f}", f"{one.p_any:.4f}", Text(worst),
            f"{one.percentile:.2%}", str(one.keys),
        )  # fmt: skip
    console.print(table)
    console.print(f"the first {len(found)} of {of} heads by the worst pair's margin, in row standard deviations")


def records(pairs: Sequence[AskedPair], found: Sequence[Found]) -> Iterator[dict[str, Any]]:
    """One flat record a head.

    Args:
        pairs: what was asked for.
        found: the heads.
    """
    for one in found:
        yield {
            "layer": one.head.layer,
            "head": one.head.index,
            "margin": one.margin,
            "worst_pair": one.worst.text,
            "worst_wanted": one.worst.wanted,
            "percentile": one.percentile,
            "keys": one.keys,
            "p": one.p,
            "p_any": one.p_any,
            **{f"z {pair.text}": z for pair, z in zip(pairs, one.z, strict=True)},
            **{f"percentile {pair.text}": value for pair, value in zip(pairs, one.percentiles, strict=True)},
        }


def json_text(spec: Find, pairs: Sequence[AskedPair], found: Sequence[Found]) -> str:
    """All heads as JSON."""
    asked = [
        {"query_id": pair.query_id, "key_id": pair.key_id, "wanted": pair.wanted, "text": pair.text} for pair in pairs
    ]
    said = {"model": spec.model, "states": spec.states, "tuples": spec.tuples, "seed": spec.seed, "pairs": asked}
    return json.dumps({**said, "heads": list(records(pairs, found))}, indent=1)


def csv_text(pairs: Sequence[AskedPair], found: Sequence[Found]) -> str:
    """All heads as CSV."""
    rows = list(records(pairs, found))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
