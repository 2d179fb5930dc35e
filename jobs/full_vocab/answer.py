"""The answer a person wants at the end of a job: what some well-known words attend to."""

from __future__ import annotations

import pyarrow.compute as pc
from rich.table import Table
from rich.text import Text

from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.source import SourceRun
from qkatlas.outputs.runs.reader import read_rows, read_whole
from qkatlas.outputs.runs.run import Run

KNOWN_WORDS = ("red", "69", "Monday", "Italy", "cat", "1989", "apple", "rain")
"""Words of the published keyword categories; those that are one token are shown."""

_ROWS, _KEYS, _HEADS, _COMMUNITIES = 6, 8, 10, 12


def top_attended(run: Run, model: Model) -> Table:
    """The keys that known category words attend to most, with the rank of the word itself.

    Args:
        run: a finished full-vocab run.
        model: its model.

    Returns:
        A table to print; for a vocabulary without these words, tokens spread over it stand in their place.
    """
    tokens = _known_tokens(model)
    top, own = read_rows(run, "topk", tokens), read_rows(run, "self", tokens)
    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    table.add_column("query token", no_wrap=True)
    table.add_column("own rank", justify="right")
    table.add_column("attends most to (score in nats)")
    rows = {row["token_id"]: row for row in top.to_pylist()}
    ranks = dict(zip(own["token_id"].to_pylist(), own["self_rank"].to_pylist(), strict=True))
    for token in tokens:
        keys = zip(rows[token]["key_ids"][:_KEYS], rows[token]["scores"][:_KEYS], strict=True)
        # Text, not str: a token such as "[bold]" is data, no markup.
        listed = ", ".join(f"{shown(model, key)} {score:.1f}" for key, score in keys)
        table.add_row(Text(shown(model, token)), Text(str(ranks[token])), Text(listed))
    return table


def most_suppressing(run: Run) -> Table:
    """The ten heads with the highest suppression index among those that prefer kin to other tokens.

    Args:
        run: a finished head-scan run.

    Returns:
        A table to print, with the index's 95% interval.
    """
    rows = read_whole(run, "heads").to_pylist()
    rows = [row for row in rows if row["suppression_index_mean"] is not None and row["kin_z_mean"] > 0]
    rows.sort(key=lambda row: -row["suppression_index_mean"])
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("head", no_wrap=True)
    for name in ("suppression (95%)", "kin z", "self z", "semantic"):
        table.add_column(name, justify="right")
    table.add_column("label", no_wrap=True)
    for row in rows[:_HEADS]:
        low, high = row["suppression_index_low"], row["suppression_index_high"]
        score = row["semantic_category_score_mean"]
        table.add_row(
            f"L{row['layer']}H{row['head']}",
            f"{row['suppression_index_mean']:.2f} ({low:.2f} to {high:.2f})",
            f"{row['kin_z_mean']:.2f}",
            f"{row['self_z_mean']:.2f}",
            "" if score is None else f"{score:.2f}",
            row["label"],
        )
    return table


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


def shown(model: Model, token_id: int) -> str:
    """A token's text with its leading space made visible, as `_red`."""
    return visible(model.vocabulary.text(token_id))


def visible(text: str) -> str:
    """A token's printable text with its leading space made visible."""
    return f"_{text[1:]}" if text.startswith(" ") else text


def _known_tokens(model: Model) -> list[int]:
    find = model.vocabulary.find
    forms = [next((t for t in (find(f" {word}"), find(word)) if t is not None), None) for word in KNOWN_WORDS]
    found = [token for token in forms if token is not None]
    if found:
        return found[:_ROWS]
    size = len(model.vocabulary.spellings)
    return sorted({size * place // _ROWS for place in range(_ROWS)})
