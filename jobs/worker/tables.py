"""Arrow tables from what was computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.table import Table
from qkatlas.jobs.worker.prompt_shards import CATEGORY_PROMPTS, prompt_part
from qkatlas.outputs.runs.layout import OF_HEAD, OF_LAYER
from qkatlas.outputs.schemas import head_scan as schemas_heads
from qkatlas.outputs.schemas import ov as schemas_ov
from qkatlas.outputs.schemas import prompts as schemas_prompts
from qkatlas.outputs.schemas import scores as schemas
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.scoring.rows import RowScores

TOKENS = Table(name="tokens", rows="one row a token", schema=schemas.TOKENS)
TOPK = Table(name="topk", rows="one row a query token", schema=schemas.topk(10), file=f"topk/{OF_HEAD}")
SELF = Table(name="self", rows="one row a token", schema=schemas.SELF, file=f"self/{OF_HEAD}")
SELF_WITH_KIN = Table(name="self", rows="one row a token", schema=schemas.SELF_WITH_KIN, file=f"self/{OF_HEAD}")
KIN = Table(
    name="kin", rows="one row a token", schema=schemas.kin(16), file=f"kin/{OF_LAYER}",
    kinds=("kin",),
)  # fmt: skip
PROMPTS = Table(name="prompts", rows="one row a prompt", schema=schemas_prompts.prompts(65, spelled=True))
PROMPT_SCORES = Table(
    name="prompt_scores", rows="one row for each prompt and head", schema=schemas_heads.PROMPT_SCORES,
    file="prompt_scores/part-{part:05d}.parquet", fields=prompt_part, kinds=(CATEGORY_PROMPTS,),
)  # fmt: skip
"""Tables that several jobs have."""


def topk_table(token_ids_R: np.ndarray, scores: RowScores, schema: pa.Schema | None = None) -> pa.Table:
    """The `topk` rows of some query tokens.

    Args:
        token_ids_R: int32 [R], the query tokens.
        scores: their rows.
        schema: of the table; `schemas.topk(k)` if not given.
    """
    schema = schema or schemas.topk(scores.key_ids_RK.shape[1])
    return _lists_table(token_ids_R, scores.key_ids_RK, scores.scores_RK, schema)


def _lists_table(token_ids_R: np.ndarray, ids_RK: np.ndarray, values_RK: np.ndarray, schema: pa.Schema) -> pa.Table:
    """Query tokens, each with a list of ids and a list of values."""
    width = ids_RK.shape[1]
    lists = [
        pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(flat).reshape(-1)), width)
        for flat in (ids_RK, values_RK)
    ]
    return pa.Table.from_arrays([pa.array(token_ids_R), *lists], schema=schema)


def self_table(token_ids_R: np.ndarray, scores: RowScores, kin_score_R: np.ndarray | None = None) -> pa.Table:
    """The `self` rows of some query tokens.

    Args:
        token_ids_R: int32 [R], the query tokens.
        scores: their rows.
        kin_score_R: float64 [R], mean score of each token to its kin, NaN without kin; None if kin were not asked for.

    Returns:
        A table of schema `schemas.SELF`, or `schemas.SELF_WITH_KIN` where kin were asked for.
    """
    self_score_R = scores.self_score_R.astype(np.float64)
    self_z_R = row_z(self_score_R, scores)
    alone_R = np.ma.getmaskarray(scores.best_other_id_R)
    best_other_R = np.ma.getdata(scores.best_other_score_R)
    columns = [
        pa.array(token_ids_R),
        pa.array(scores.self_score_R),
        pa.array(scores.self_rank_R),
        pa.array(scores.row_mean_R.astype(np.float32)),
        pa.array(scores.row_std_R.astype(np.float32)),
        _nullable(self_z_R),
        pa.array(np.ma.getdata(scores.best_other_id_R), mask=alone_R),
        pa.array(best_other_R, mask=alone_R),
        pa.array((best_other_R.astype(np.float64) - self_score_R).astype(np.float32), mask=alone_R),
    ]
    if kin_score_R is None:
        return pa.Table.from_arrays(columns, schema=schemas.SELF)
    kin_z_R = row_z(kin_score_R, scores)
    columns += [_nullable(kin_z_R), _nullable(kin_z_R - self_z_R)]
    return pa.Table.from_arrays(columns, schema=schemas.SELF_WITH_KIN)


def row_z(score_R: np.ndarray, scores: RowScores) -> np.ndarray:
    """Scores of some rows in standard deviations of their row.

    Args:
        score_R: float64 [R], one score a row.
        scores: the rows.

    Returns:
        float64 [R]; NaN where the row does not vary.
    """
    std_R = np.where(scores.row_std_R > 0, scores.row_std_R, np.nan)
    z_R: np.ndarray = (score_R - scores.row_mean_R) / std_R
    return z_R


def _nullable(values_R: np.ndarray) -> pa.Array:
    return pa.array(values_R.astype(np.float32), mask=np.isnan(values_R))


def kin_table(token_ids_R: np.ndarray, kin_ids_RN: np.ndarray, cosines_RN: np.ndarray) -> pa.Table:
    """The `kin` rows of some tokens.

    Args:
        token_ids_R: int32 [R], the tokens.
        kin_ids_RN: int32 [R, N], their kin.
        cosines_RN: float32 [R, N], cosine similarities.

    Returns:
        A table of schema `schemas.kin(N)`.
    """
    return _lists_table(token_ids_R, kin_ids_RN, cosines_RN, schemas.kin(kin_ids_RN.shape[1]))


def heads_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema = schemas_heads.HEADS) -> pa.Table:
    """One row a head; columns that a row lacks are null."""
    return pa.Table.from_pylist(list(rows), schema=schema)


def ov_spectrum_table(summaries: Sequence[tuple[Head, Mapping[str, Any]]]) -> pa.Table:
    """H rows a head of what it writes, descending, from its shard's summary."""
    rows = [
        {"layer": head.layer, "head": head.index, "index": index, **dict(zip(names, values, strict=True))}
        for head, summary in summaries
        for names in (tuple(summary["ov_spectrum"]),)
        for index, values in enumerate(zip(*summary["ov_spectrum"].values(), strict=True))
    ]
    return pa.Table.from_pylist(rows, schema=schemas_ov.SPECTRUM)


def spectrum_table(summaries: Sequence[tuple[Head, Mapping[str, Any]]]) -> pa.Table:
    """2H rows a head, descending, from its shard's summary; none of a head without a bilinear form."""
    rows = [
        {
            "layer": head.layer,
            "head": head.index,
            "index": index,
            **dict(zip(schemas_heads.SPECTRUM_VALUES, values, strict=True)),
        }
        for head, summary in summaries
        for index, values in enumerate(
            zip_longest(*(summary["spectrum"][name] for name in schemas_heads.SPECTRUM_VALUES))
        )
    ]
    return pa.Table.from_pylist(rows, schema=schemas_heads.SPECTRUM)


def tokens_table(model: Model) -> pa.Table:
    """The `tokens` table of a model."""
    vocabulary = model.vocabulary
    size = len(vocabulary.spellings)
    columns = [
        pa.array(np.arange(size, dtype=np.int32)),
        pa.array(vocabulary.texts()),
        pa.array(vocabulary.spellings, pa.binary()),
        pa.array(vocabulary.special),
    ]
    return pa.Table.from_arrays(columns, schema=schemas.TOKENS)
