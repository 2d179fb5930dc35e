"""What a similarity run computes on workers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.loop.step import Produced
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import similarity as schemas
from qkatlas.pipeline.circuit.projection import HeadInputs
from qkatlas.pipeline.circuit.similarity import ScoreRange, pair_sums


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The tokens whose pairs are taken: unit states, queries and keys, and the range of their differences."""

    unit_VD: np.ndarray
    inputs: HeadInputs
    scores: ScoreRange


def sum_pairs(grant: Grant, shard: Shard, pairs: Pairs, bins: int) -> Produced:
    """Sum up the pairs of one range of queries; runs on a worker, on CPUs.

    Args:
        grant: what the worker may use.
        shard: the range.
        pairs: all tokens.
        bins: of cosine.
    """
    scores = pairs.scores
    sums = pair_sums(pairs.unit_VD, pairs.inputs, shard.rows, scores, bins, threads=grant.cpus)
    cosine_bin, score_bin = np.nonzero(sums.counts_CB)
    columns = [
        pa.array(cosine_bin.astype(np.int32)),
        pa.array(score_bin.astype(np.int32)),
        pa.array(scores.low + (score_bin + 0.5) * scores.step),
        pa.array(sums.counts_CB[cosine_bin, score_bin]),
    ]
    summary = {
        "sums": sums.sums_C.tolist(),
        "squares": sums.squares_C.tolist(),
        "self_pairs": sums.self_pairs_C.tolist(),
        "score_low": scores.low,
        "score_step": scores.step,
    }
    measures = {"pairs": int(sums.counts_CB.sum()), "device": "cpu"}
    return Produced({"histogram": pa.Table.from_arrays(columns, schema=schemas.HISTOGRAM)}, summary, measures)
