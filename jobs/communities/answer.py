"""The closing table of a communities run: the largest communities."""

from __future__ import annotations

import pyarrow.compute as pc
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qkatlas.jobs.inputs.hubs import left_out
from qkatlas.jobs.inputs.source import SourceRun
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.text.vocabulary import visible

_COMMUNITIES, _KEYS = 12, 8


def closing(run: Run, source: SourceRun, exclude_hubs: float | None) -> RenderableType:
    """The largest communities, and which keys were left out of the graph.

    Args:
        run: a finished communities run.
        source: the run it goes on from.
        exclude_hubs: `--exclude-hubs`.
    """
    table = largest_communities(run, source)
    if exclude_hubs is None:
        return table
    texts = source.tokens["text"]
    return Group(table, Text(left_out(read_whole(run, "hubs"), exclude_hubs, lambda key: visible(texts[key].as_py()))))


def largest_communities(run: Run, source: SourceRun) -> Table:
    """The largest communities with their most linked tokens, and how far the restarts agree.

    Args:
        run: a finished communities run.
        source: the run it goes on from.

    Returns:
        A table to print; below it the isolated tokens are counted.
    """
    names = {name: read_whole(run, name) for name in ("communities", "restarts", "edges")}
    tokens, restarts = names["communities"], names["restarts"].to_pylist()
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    for name in ("community", "tokens", "stability"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("tokens of the highest degree")
    texts = source.tokens["text"]
    for community in range(min(_COMMUNITIES, pc.max(tokens["community"]).as_py() + 1)):
        members = tokens.filter(pc.equal(tokens["community"], community))
        steady = pc.mean(members["stability"]).as_py()
        top = members.sort_by([("degree", "descending"), ("token_id", "ascending")])["token_id"][:_KEYS]
        listed = ", ".join(visible(texts[token].as_py()) for token in top.to_pylist())
        table.add_row(str(community), str(len(members)), "" if steady is None else f"{steady:.2f}", Text(listed))
    isolated = pc.sum(pc.equal(tokens["degree"], 0)).as_py()
    best = next(row for row in restarts if row["is_best"])
    agreed = [row["ari_mean"] for row in restarts if row["ari_mean"] is not None]
    caption = (
        f"{len(tokens)} tokens, {len(names['edges'])} edges, {isolated} isolated tokens, "
        f"{best['n_communities']} communities of two tokens or more"
    )
    if agreed:
        caption += f"; {len(restarts)} restarts agree by an adjusted Rand index of {sum(agreed) / len(agreed):.3f}"
    table.caption = Text(caption)
    return table
