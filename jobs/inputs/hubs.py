"""`--exclude-hubs`: keys that are left out of lists and graphs, which a run says by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from qkatlas.jobs.loop.table import Table
from qkatlas.outputs.schemas import scores as schemas
from qkatlas.pipeline.circuit.hubs import Hubs, most_hubs
from qkatlas.pipeline.models.head import Head

_LISTED = 8
"""Keys that a line names; more are only counted."""

HUBS = Table(name="hubs", rows="one row for each key that was left out", schema=schemas.HUBS, when="--exclude-hubs")


def require_hubs_fit(share: float | None, top_k: int, vocab_size: int) -> None:
    """Check that as many keys as asked for are left where hubs are left out.

    Args:
        share: `--exclude-hubs`.
        top_k: `--top-k`.
        vocab_size: V.

    Raises:
        ValueError: if there may not be.
    """
    if share is not None and top_k + most_hubs(share) > vocab_size:
        raise ValueError(
            f"--top-k {top_k} is too many with --exclude-hubs {share:g}, which may leave out {most_hubs(share)} of the "
            f"vocabulary's {vocab_size}; choose fewer keys, or a larger share"
        )


def settled(settings: dict[str, Any]) -> dict[str, Any]:
    """A run's settings; where nothing is left out they are what they were before there was the option."""
    return {name: value for name, value in settings.items() if name != "exclude_hubs" or value is not None}


def hubs_table(found: Mapping[Head, Hubs], texts: Sequence[str]) -> pa.Table:
    """The `hubs` table.

    Args:
        found: what was left out of each head.
        texts: of all tokens.
    """
    rows = [
        {
            "layer": head.layer,
            "head": head.index,
            "token_id": token,
            "text": texts[token],
            "rows": count,
            "share": count / hubs.of,
        }
        for head, hubs in found.items()
        for token, count in zip(hubs.ids_N.tolist(), hubs.rows_N.tolist(), strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.HUBS)


def left_out(table: pa.Table, share: float, shown: Callable[[int], str]) -> str:
    """A line that names the keys that were left out.

    Args:
        table: of a run, `hubs`.
        share: `--exclude-hubs`.
        shown: a token as people see it.
    """
    hub = f"the best key of {share:.0%} of rows or more"
    rows = sorted(table.to_pylist(), key=lambda row: -row["share"])
    if not rows:
        return f"no key was left out: none is {hub}"
    heads = {(row["layer"], row["head"]) for row in rows}
    most: dict[int, float] = {}
    for row in rows:
        most.setdefault(row["token_id"], row["share"])
    named = [f"{shown(token)} {of:.0%}" for token, of in list(most.items())[:_LISTED]]
    more = ", ..." if len(most) > _LISTED else ""
    among = "" if len(heads) == 1 else f" of {len(heads)} heads"
    return f"left out as hubs, {hub}: {len(most)} keys{among}: {', '.join(named)}{more}"
