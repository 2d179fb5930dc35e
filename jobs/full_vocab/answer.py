"""The answer a person wants at the end of a job: what some well-known words attend to."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.inputs.circuit import attends
from qkatlas.jobs.inputs.hubs import left_out
from qkatlas.jobs.inputs.model import Model
from qkatlas.outputs.runs.reader import read_rows, read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.text.categories import KNOWN_WORDS

_ROWS, _KEYS, _ENDS = 6, 8, 4


def closing(run: Run, model: Model, spec: FullVocab) -> RenderableType:
    """What known words attend to, or what attending to them promotes, and which keys were left out.

    Args:
        run: a finished full-vocab run.
        model: its model.
        spec: what was asked for.
    """
    table = top_attended(run, model) if attends(spec) else most_promoted(run, model)
    if spec.exclude_hubs is None:
        return table
    return Group(table, Text(left_out(read_whole(run, "hubs"), spec.exclude_hubs, model.vocabulary.shown)))


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
        listed = ", ".join(f"{model.vocabulary.shown(key)} {score:.1f}" for key, score in keys)
        table.add_row(Text(model.vocabulary.shown(token)), Text(str(ranks[token])), Text(listed))
    return table


def most_promoted(run: Run, model: Model) -> Table:
    """What attending to known category words promotes and suppresses most, with the rank of the word itself.

    Args:
        run: a finished full-vocab run of the OV circuit.
        model: its model.
    """
    tokens = _known_tokens(model)
    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    table.add_column("attended token", no_wrap=True)
    table.add_column("own rank", justify="right")
    table.add_column("promotes most (logits)")
    table.add_column("suppresses most")
    own = {row["token_id"]: row for row in read_rows(run, "ov_self", tokens).to_pylist()}
    ends = [
        {row["token_id"]: row for row in read_rows(run, name, tokens).to_pylist()} for name in ("ov_topk", "ov_bottomk")
    ]
    for token in tokens:
        listed = [
            ", ".join(
                f"{model.vocabulary.shown(key)} {score:.1f}"
                for key, score in zip(end[token]["key_ids"][:_ENDS], end[token]["scores"][:_ENDS], strict=True)
            )
            for end in ends
        ]
        rank = str(own[token]["self_rank"])
        table.add_row(Text(model.vocabulary.shown(token)), Text(rank), *(Text(text) for text in listed))
    return table


def _known_tokens(model: Model) -> list[int]:
    forms = [model.vocabulary.find_word(word) for word in KNOWN_WORDS]
    found = [token for token in forms if token is not None]
    if found:
        return found[:_ROWS]
    size = len(model.vocabulary.spellings)
    return sorted({size * place // _ROWS for place in range(_ROWS)})
