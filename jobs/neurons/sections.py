"""The section of a report that shows neurons: tokens up and down with their latents, the fit on text, the opposite.

Shapes: J neurons that are shown, K tokens at either end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qkatlas.jobs.report.section import Section, Shown, columns, printable_cell
from qkatlas.outputs.runs.reader import list_matrix
from qkatlas.pipeline.text.vocabulary import printable

SHOWN = 128
"""Neurons that a page keeps: those of the largest share of variance between documents, and those with latents."""

_ENDS = 16
"""Tokens that are named at either end."""

_COLUMNS = (
    "layer", "neuron", "contextuality", "contextuality_shuffled", "contextuality_weights", "bias", "contribution_mean",
    "contribution_std", "opposite_id", "opposite_cosine", "r_group", "fvu_group", "r_common", "fvu_common", "r_pre",
    "fvu_pre", "noise_sd", "agreement", "r_group_shuffled", "fvu_group_shuffled", "r_pre_shuffled", "fvu_pre_shuffled",
    "r_group_null", "r_group_null_std", "fvu_group_null", "naive_bayes_r", "n_latents", "n_latents_null",
    "latent_stability",
)  # fmt: skip


def all_neurons(shown: Shown) -> dict[str, Any]:
    """What a run found, one row a neuron, with the ends of its contributions.

    Args:
        shown: a finished run.

    Raises:
        ValueError: if a table is damaged.
    """
    neurons = shown.table("neurons").sort_by("neuron")
    tokens = shown.table("neuron_tokens").sort_by("neuron")
    contextuality_J = neurons["contextuality"].to_numpy()
    with_latents_J = ~np.isnan(neurons["n_latents"].to_numpy().astype(np.float64))
    order = np.lexsort((np.arange(len(contextuality_J)), -np.nan_to_num(contextuality_J, nan=-2.0), ~with_latents_J))
    rows = order[:SHOWN]
    rows = rows[np.argsort(-np.nan_to_num(contextuality_J[rows], nan=-2.0), kind="stable")]
    texts = [printable(text.encode()) for text in shown.table("tokens").sort_by("token_id")["text"].to_pylist()]
    kept, ids, values, latents = tokens.take(rows), [], [], []
    for end in ("top", "bottom"):
        ids.append(list_matrix(kept, f"{end}_ids")[:, :_ENDS])
        values.append(list_matrix(kept, f"{end}_values")[:, :_ENDS])
        latents.append([row[:_ENDS] for row in kept[f"{end}_latents"].to_pylist()])
    named, index = np.unique(np.stack(ids, axis=1), return_inverse=True)
    each = ids[0].shape[1]
    latent_J2K = np.array([[-1 if one is None else one for row in end for one in row] for end in latents], np.float32)
    bags = shown.table("bags").to_pylist()
    return {
        "table": columns(neurons.take(rows), _COLUMNS, cell=printable_cell),
        "of": neurons.num_rows,
        "texts": shown.pack.texts([texts[token] for token in named]),
        "ends": shown.pack.ids(index.reshape(len(rows), 2, each)),
        "values": shown.pack.array(np.stack(values, axis=1).astype(np.float32)),
        "latents": shown.pack.array(
            np.ascontiguousarray(latent_J2K.reshape(2, len(rows), each).transpose(1, 0, 2))
        ),
        "each": each,
        "group": [f"L{row['layer']}H{row['head']}" for row in bags if row["in_group"]],
    }  # fmt: skip


SECTIONS = (
    Section(
        kind="neurons", place=23, needs=("neurons", "neuron_tokens", "bags", "tokens"), build=all_neurons
    ),
)  # fmt: skip
