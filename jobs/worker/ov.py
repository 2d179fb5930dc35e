"""What a head writes, for rows of attended tokens: the tables of the OV circuit.

Shapes: V vocabulary, H head dimension, R rows, K kept tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from qkatlas.jobs.loop.table import Table
from qkatlas.jobs.worker.tables import self_table, topk_table
from qkatlas.outputs.runs.layout import OF_HEAD
from qkatlas.outputs.schemas import ov as schemas
from qkatlas.pipeline.scoring.engine import score_rows
from qkatlas.pipeline.scoring.rows import PreparedKeys, RowScores

_WHEN = "--circuit ov or both"

OV_TOPK = Table(
    name="ov_topk", rows="one row an attended token", schema=schemas.topk(10), file=f"ov_topk/{OF_HEAD}",
    when=_WHEN,
)  # fmt: skip
OV_BOTTOMK = Table(
    name="ov_bottomk", rows="one row an attended token", schema=schemas.topk(10, lowest=True),
    file=f"ov_bottomk/{OF_HEAD}", when=_WHEN,
)  # fmt: skip
OV_SELF = Table(name="ov_self", rows="one row a token", schema=schemas.SELF, file=f"ov_self/{OF_HEAD}", when=_WHEN)
OV_SELF_WITH_KIN = Table(
    name="ov_self", rows="one row a token", schema=schemas.SELF_WITH_KIN, file=f"ov_self/{OF_HEAD}",
    when=_WHEN,
)  # fmt: skip
"""Tables of what heads write."""


@dataclass(frozen=True)
class Written:
    """What attending to some tokens adds to the logits of all.

    Attributes:
        promoted: the highest of each row, with self statistics.
        suppressed: the lowest, whose self rank counts from the bottom.
    """

    promoted: RowScores
    suppressed: RowScores


def score_written(
    values_RH: np.ndarray, outputs: PreparedKeys, token_ids_R: np.ndarray, *, k: int, threads: int
) -> Written:
    """Score rows of attended tokens against the outputs of the vocabulary.

    Args:
        values_RH: float32 [R, H], values of the attended tokens.
        outputs: of the vocabulary, prepared as keys.
        token_ids_R: int32 [R], the attended tokens.
        k: tokens kept at either end.
        threads: threads to use; the result does not depend on it.
    """
    promoted, suppressed = (
        score_rows(values_RH, outputs, row_ids_R=token_ids_R, k=k, threads=threads, lowest=lowest)
        for lowest in (False, True)
    )
    return Written(promoted, suppressed)


def ov_tables(token_ids_R: np.ndarray, written: Written, kin_score_R: np.ndarray | None = None) -> dict[str, pa.Table]:
    """The rows of `ov_topk`, `ov_bottomk` and `ov_self` of some attended tokens.

    Args:
        token_ids_R: int32 [R], the attended tokens.
        written: their rows.
        kin_score_R: float64 [R], what attending to each adds to its kin on average; None if kin were not asked for.
    """
    k = written.promoted.key_ids_RK.shape[1]
    own = self_table(token_ids_R, written.promoted, kin_score_R)
    return {
        "ov_topk": topk_table(token_ids_R, written.promoted, schemas.topk(k)),
        "ov_bottomk": topk_table(token_ids_R, written.suppressed, schemas.topk(k, lowest=True)),
        "ov_self": pa.Table.from_arrays(
            own.columns, schema=schemas.SELF if kin_score_R is None else schemas.SELF_WITH_KIN
        ),
    }
