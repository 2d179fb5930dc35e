"""The answer a person wants at the end of a job: what some well-known words attend to."""

from __future__ import annotations

import pyarrow.parquet as pq
from rich.table import Table
from rich.text import Text

from jobs.model import Model
from outputs.reader import read_rows
from outputs.run import Run
from pipeline.categories import Categories

KNOWN_WORDS = ("red", "69", "Monday", "Italy", "cat", "1989", "apple", "rain")
"""Words of the published keyword categories; those that are one token are shown."""

_ROWS, _KEYS, _HEADS, _DROPPED = 6, 8, 10, 20


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
    rows = pq.read_table(run.folder / "heads.parquet").to_pylist()
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


def dropped_words(categories: Categories) -> str:
    """A line on the words of categories that are not used."""
    dropped = categories.dropped
    listed = ", ".join(dropped[:_DROPPED]) + (", ..." if len(dropped) > _DROPPED else "")
    kept = sum(map(len, categories.token_ids))
    return (
        f"prompts use {kept} words of {len(categories.token_ids)} categories; dropped {len(dropped)} that are not one "
        f"token, or whose category keeps fewer than two: {listed}"
    )


def shown(model: Model, token_id: int) -> str:
    """A token's text with its leading space made visible, as `_red`."""
    text = model.vocabulary.text(token_id)
    return f"_{text[1:]}" if text.startswith(" ") else text


def _known_tokens(model: Model) -> list[int]:
    find = model.vocabulary.find
    forms = [next((t for t in (find(f" {word}"), find(word)) if t is not None), None) for word in KNOWN_WORDS]
    found = [token for token in forms if token is not None]
    if found:
        return found[:_ROWS]
    size = len(model.vocabulary.spellings)
    return sorted({size * place // _ROWS for place in range(_ROWS)})
