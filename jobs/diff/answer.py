"""How the difference of two runs is printed: tables, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qkatlas.jobs.diff.compare import Interval, Moved
from qkatlas.jobs.diff.report import Compared
from qkatlas.jobs.loop.terminal import harmless


def printed(compared: Compared, names: tuple[str, str], top: int) -> None:
    """Print what differs for people, the heads that changed most first.

    Args:
        compared: both runs.
        names: of their folders.
        top: heads to print.
    """
    console = Console(highlight=False, soft_wrap=True)
    model = "the same weights" if compared.same_model else "other weights"
    console.print(
        f"{names[0]} -> {names[1]}: {model}, {len(compared.common)} common tokens of {compared.sizes[0]} and "
        f"{compared.sizes[1]}, {compared.k} best keys",
        markup=False,
    )
    for name, (before, after) in compared.settings.items():
        console.print(harmless(f"  {name}: {before} -> {after}", one_line=True), markup=False)
    changed = sorted(compared.heads, key=lambda one: (-one.changed.mean, one.head))[:top]
    if changed:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("head", no_wrap=True)
        for name in ("other best keys (95%)", "own rank (95%)", "own z (95%)"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("moved most")
        for one in changed:
            moved = ", ".join(_moved(compared, token) for token in one.moved[:4])
            figures = (_shown(one.changed, ".1%"), _shown(one.rank_shift, "+.1%"), _shown(one.z_shift, "+.2f"))
            table.add_row(str(one.head), *figures, Text(moved))
        console.print(table)
        console.print(f"the {len(changed)} of {len(compared.heads)} heads at the same place that changed most")
    if compared.chance is not None:
        console.print(f"unrelated heads: {compared.chance[0]:.1%} other best keys, s.d. {compared.chance[1]:.1%}")
    if compared.matches:
        _print_matches(console, compared, top)


def _print_matches(console: Console, compared: Compared, top: int) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("head", "matched with", "distance", "next best", "same best keys", "labels"):
        table.add_column(name, no_wrap=name != "labels", justify="left" if name in ("head", "labels") else "right")
    chosen = sorted(
        compared.matches, key=lambda pair: ((pair.label or "none") in ("none", "unreliable"), pair.distance, pair.head)
    )
    for pair in chosen[:top]:
        nearest = "" if pair.next_distance is None else f"{pair.next_distance:.2f}"
        labels = pair.label if pair.label == pair.other_label else f"{pair.label} -> {pair.other_label}"
        table.add_row(
            str(pair.head), str(pair.other), f"{pair.distance:.2f}", nearest, f"{pair.overlap:.1%}", labels or ""
        )
    console.print(table)
    moved = sum(pair.head != pair.other for pair in compared.matches)
    console.print(f"{len(compared.matches)} heads are matched, {moved} with one at another place")


def _shown(interval: Interval, form: str) -> str:
    return f"{interval.mean:{form}} ({interval.low:{form}} to {interval.high:{form}})"


def _moved(compared: Compared, token: Moved) -> str:
    return f"{compared.common.first.shown(token.token_id)} {token.before:.0%} to {token.after:.0%}"


def json_text(compared: Compared, names: tuple[str, str]) -> str:
    """Everything as JSON; what is undefined is null."""
    vocabulary = compared.common.first
    heads = []
    for record, one in zip(records(compared), compared.heads, strict=True):
        moved = [
            {
                "token_id": token.token_id,
                "token": vocabulary.text(token.token_id),
                "before": token.before,
                "after": token.after,
            }
            for token in one.moved
        ]
        heads.append({**record, "moved": moved})
    matches = [
        {
            "head": str(pair.head),
            "other": str(pair.other),
            "distance": pair.distance,
            "next_distance": pair.next_distance,
            "overlap": pair.overlap,
            "label": pair.label,
            "other_label": pair.other_label,
        }
        for pair in compared.matches
    ]
    chance = compared.chance and {"changed_mean": compared.chance[0], "changed_std": compared.chance[1]}
    return json.dumps(
        {
            "runs": names,
            "same_weights": compared.same_model,
            "settings": compared.settings,
            "common_tokens": len(compared.common),
            "vocabularies": compared.sizes,
            "k": compared.k,
            "heads": heads,
            "matches": matches,
            "unrelated": chance,
        },
        indent=1,
    )


def csv_text(compared: Compared) -> str:
    """The heads that both runs have, as CSV."""
    rows = list(records(compared))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else ["layer", "head"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def records(compared: Compared) -> Iterator[dict[str, Any]]:
    """One flat record a head that both runs have.

    Args:
        compared: both runs.
    """
    matched = {pair.head: pair for pair in compared.matches}
    for one in compared.heads:
        record: dict[str, Any] = {"layer": one.head.layer, "head": one.head.index}
        for name, interval in (("changed", one.changed), ("rank_shift", one.rank_shift), ("z_shift", one.z_shift)):
            for end, value in (("", interval.mean), ("_low", interval.low), ("_high", interval.high)):
                record[f"{name}{end}"] = None if math.isnan(value) else value
        pair = matched.get(one.head)
        record |= {"match": str(pair.other) if pair else None, "match_distance": pair.distance if pair else None}
        yield record
