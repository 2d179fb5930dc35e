"""How relation scores are printed: a table, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qkatlas.jobs.relations.measure import Score
from qkatlas.jobs.relations.spec import Relations


def form_of(spec: Relations) -> str:
    """What the scores are of, in a word."""
    if not spec.as_published:
        return "as defined"
    return "as published" if spec.first_mlp else "as published, without the first MLP"


def printed(spec: Relations, scores: Sequence[Score]) -> None:
    """Print the best heads of each relation for people.

    Args:
        spec: what was asked for.
        scores: of all heads.
    """
    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("relation", "pairs", "head", f"top {spec.k}", f"low {spec.k}", "chance", "p", "p, any"):
        table.add_column(name, justify="left" if name in ("relation", "head") else "right", no_wrap=name != "relation")
    for relation in dict.fromkeys(score.relation for score in scores):
        here = [one for one in scores if one.relation == relation]
        of = sorted(here, key=lambda one: (-one.promoted, one.p, one.head))
        for number, one in enumerate(of[: spec.top]):
            table.add_row(
                Text("" if number else relation), "" if number else str(one.pairs), str(one.head),
                f"{one.promoted:.0%}", f"{one.suppressed:.0%}", f"{one.chance:.1%}", f"{one.p:.4f}", f"{one.p_any:.4f}",
            )  # fmt: skip
    console.print(table)
    console.print(f"scores {form_of(spec)}; the best {spec.top} heads of each relation; p, any: in any head")


def records(spec: Relations, scores: Sequence[Score]) -> list[dict[str, Any]]:
    """One flat record for each head and relation.

    Args:
        spec: what was asked for.
        scores: of all heads.
    """
    return [
        {
            "layer": one.head.layer,
            "head": one.head.index,
            "relation": one.relation,
            "form": form_of(spec),
            "k": spec.k,
            "pairs": one.pairs,
            "promoted": one.promoted,
            "suppressed": one.suppressed,
            "chance": one.chance,
            "p": one.p,
            "p_any": one.p_any,
            "p_suppressed": one.p_suppressed,
        }
        for one in scores
    ]


def json_text(spec: Relations, scores: Sequence[Score]) -> str:
    """All heads and relations as JSON."""
    said = {"model": spec.model, "states": spec.states, "form": form_of(spec), "shuffles": spec.shuffles}
    return json.dumps({**said, "seed": spec.seed, "scores": records(spec, scores)}, indent=1)


def csv_text(spec: Relations, scores: Sequence[Score]) -> str:
    """All heads and relations as CSV."""
    rows = records(spec, scores)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
