"""The section of a report that shows where heads look: kernels, classes, content factors, and the error of each.

Shapes: N heads, O offsets that are drawn, K tokens at either end, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.jobs.report.section import Section, Shown, columns, printable_cell
from qkatlas.pipeline.text.vocabulary import printable

_POINTS = 48
"""Offsets of a drawn kernel, evenly spread on a logarithmic axis."""

_ENDS = 8
"""Tokens of the highest and of the lowest content factors that are named."""

_COLUMNS = (
    "layer", "head", "kind", "source", "class", "class_margin", "width", "decay_length", "previous_share",
    "local_share", "equal_share", "translation_invariance", "destination_dependence", "content_share",
    "denominator_cv_between", "denominator_cv_model", "bos_share", "real_width", "reliability", "tv_position",
    "tv_position_p90", "tv_fixed", "tv_fixed_p90", "tv_factorised", "tv_factorised_p90", "tv_denominator",
    "tv_denominator_p90", "tv_content", "tv_content_p90", "tv_uniform", "tv_uniform_p90",
)  # fmt: skip


def drawn_offsets(length: int) -> np.ndarray:
    """Offsets that are drawn of a kernel, int64 [O], ascending and even on a logarithmic axis of offset + 1."""
    return np.unique(np.geomspace(1, length, _POINTS).round().astype(np.int64)) - 1


def all_kernels(shown: Shown) -> dict[str, Any]:
    """What a run found, one row a head, with its kernel and the ends of its content factors.

    Args:
        shown: a finished run.

    Raises:
        ValueError: if a table is damaged.
    """
    heads = shown.table("positions").sort_by([("layer", "ascending"), ("head", "ascending")])
    texts = [printable(text.encode()) for text in shown.table("tokens").sort_by("token_id")["text"].to_pylist()]
    kernels, content = (_of_heads(shown.table(name)) for name in ("kernels", "content"))
    places = list(zip(heads["layer"].to_pylist(), heads["head"].to_pylist(), strict=True))
    offset_O = drawn_offsets(max(table.num_rows for table in kernels.values()))
    drawn_N3O = np.full((len(places), 3, len(offset_O)), np.nan, np.float32)
    ids_N2K = np.zeros((len(places), 2, _ENDS), np.int64)
    ln_f_N2K = np.full((len(places), 2, _ENDS), np.nan, np.float32)
    for number, place in enumerate(places):
        kernel = kernels[place].sort_by("offset")
        reached = offset_O < kernel.num_rows
        for row, name in enumerate(("share", "low", "high")):
            drawn_N3O[number, row, reached] = kernel[name].to_numpy()[offset_O[reached]]
        ln_f, token_id = (content[place][name].to_numpy() for name in ("ln_f", "token_id"))
        order = np.argsort(-ln_f, kind="stable")
        for end, chosen in enumerate((order[:_ENDS], order[::-1][:_ENDS])):
            ids_N2K[number, end, : len(chosen)] = token_id[chosen]
            ln_f_N2K[number, end, : len(chosen)] = ln_f[chosen]
    named, index_N2K = np.unique(ids_N2K, return_inverse=True)
    spec = shown.spec
    destination = spec.get("destination")
    return {
        "table": columns(heads, _COLUMNS, cell=printable_cell),
        "offsets": offset_O.tolist(),
        "kernels": shown.pack.array(drawn_N3O),
        "texts": shown.pack.texts([texts[token] for token in named]),
        "ends": shown.pack.ids(index_N2K.reshape(ids_N2K.shape)),
        "ln_f": shown.pack.array(ln_f_N2K),
        "each": _ENDS,
        "length": spec.get("length"),
        "destination": None if destination is None else texts[destination],
    }


def _of_heads(table: pa.Table) -> dict[tuple[int, int], pa.Table]:
    """A table of all heads, head by head; rows of a head follow each other."""
    layer, head = (table[name].to_numpy() for name in ("layer", "head"))
    starts = np.flatnonzero(np.r_[True, (np.diff(layer) != 0) | (np.diff(head) != 0)])
    ends = np.r_[starts[1:], len(layer)]
    return {
        (int(layer[start]), int(head[start])): table.slice(start, end - start)
        for start, end in zip(starts, ends, strict=True)
    }


SECTIONS = (
    Section(
        kind="positions", place=22, needs=("positions", "kernels", "content", "tokens"), build=all_kernels
    ),
)  # fmt: skip
