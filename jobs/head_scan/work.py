"""What a head scan computes on workers, layer by layer: kin, then heads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.head_scan.written import WrittenTo, scan_written
from qkatlas.jobs.loop.step import Produced
from qkatlas.jobs.worker.kin import UnitStates, find_kin
from qkatlas.jobs.worker.prepared import prepared_keys
from qkatlas.jobs.worker.tables import row_z, self_table, topk_table
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas.head_scan import SPECTRUM_VALUES
from qkatlas.pipeline.circuit.hubs import Hubs, most_hubs, without_keys
from qkatlas.pipeline.circuit.kin import kin_scores
from qkatlas.pipeline.circuit.ov import OvWeights
from qkatlas.pipeline.circuit.projection import HeadWeights, head_inputs
from qkatlas.pipeline.circuit.spectrum import compare_with_null, head_spectrum
from qkatlas.pipeline.circuit.summary import hub_summary, self_summary, spectrum_summary
from qkatlas.pipeline.models.forward import forget_models
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.rotary import Offsets
from qkatlas.pipeline.scoring.engine import score_rows
from qkatlas.pipeline.text import streams


@dataclass(frozen=True, kw_only=True)
class LayerInputs:
    """What the heads of a layer share.

    Attributes:
        states_VD: token states in front of the layer.
        kin_ids_VN: everyone's kin, found from the same states.
        moment_DD: second moment of the normalised states.
        made_from: hash of the states.
        collapse: how far they have become one.
        written_to: what its heads write to; None where that is not asked for.
    """

    states_VD: np.ndarray
    kin_ids_VN: np.ndarray
    moment_DD: np.ndarray
    made_from: str
    collapse: Mapping[str, float]
    written_to: WrittenTo | None = None

    def identity(self) -> str:
        """Hash of the states, which kin and moments follow from."""
        return self.made_from


@dataclass(frozen=True, kw_only=True)
class HeadTask:
    """One head, and what is asked of it.

    Attributes:
        head: the head.
        weights: for its scores; None where these are not asked for.
        factors: W'_Q and W'_K, for its spectrum; None where the head has no bilinear form.
        top_k: keys kept for each query token.
        exclude_hubs: share of all rows from which their best key is left out of the lists; None = none is.
        seed: of the bootstrap intervals and of the spectrum's null.
        offset: positions between key and query, where the model turns them.
        ov: for what it writes; None where that is not asked for.
    """

    head: Head
    weights: HeadWeights | None
    factors: tuple[np.ndarray, np.ndarray] | None
    top_k: int
    seed: int
    exclude_hubs: float | None = None
    offset: Offsets | None = None
    ov: OvWeights | None = None


def find_layer_kin(grant: Grant, shard: Shard, states: UnitStates, each: None) -> Produced:
    """Find the kin of some of a layer's tokens; runs on a worker."""
    forget_models()  # the prompts come first
    return find_kin(grant, shard, states, each)


def scan_head(grant: Grant, shard: Shard, layer: LayerInputs, task: HeadTask) -> Produced:
    """Score every token against every token through one head, rank what it writes, and sum up; runs on a worker.

    Args:
        grant: what the worker may use.
        shard: of the head.
        layer: what the heads of its layer share.
        task: the head.
    """
    forget_models()
    tables: dict[str, pa.Table] = {}
    summary: dict[str, Any] = {"head": {}, "spectrum": {name: [] for name in SPECTRUM_VALUES}}
    best_keys_VK = None
    if task.weights is not None:
        inputs = head_inputs(task.weights, layer.states_VD, offset=task.offset, threads=grant.cpus)
        token_ids_V = np.arange(len(inputs.keys_VH), dtype=np.int32)
        # Query heads that read the same key head follow each other, and need its keys prepared once.
        keys = prepared_keys(hashlib.sha256(inputs.keys_VH.data).hexdigest(), inputs.keys_VH, grant.device)
        # As many keys more as there can be hubs, which are known only when every row is.
        kept = task.top_k + (0 if task.exclude_hubs is None else most_hubs(task.exclude_hubs))
        scores = score_rows(
            inputs.queries_VH, keys, row_ids_R=token_ids_V, k=kept, scale=inputs.scale, threads=grant.cpus
        )
        best_id_V = scores.key_ids_RK[:, 0].copy()
        best_keys_VK = scores.key_ids_RK[:, : task.top_k]  # hubs among them: what is summed up leaves out none
        if task.exclude_hubs is not None:
            found = Hubs.among(best_id_V, task.exclude_hubs)
            scores = without_keys(scores, found.ids_N, task.top_k)
            summary["hubs"] = [found.ids_N.tolist(), found.rows_N.tolist()]
        kin_score_V = kin_scores(inputs.queries_VH, inputs.keys_VH, layer.kin_ids_VN, inputs.scale)
        self_z_V = row_z(scores.self_score_R.astype(np.float64), scores)
        # A child of the head's seed, whose own stream draws the null.
        bootstrap = streams.TOKENS.sequence(task.seed, task.head.layer, task.head.index)
        tables = {"topk": topk_table(token_ids_V, scores), "self": self_table(token_ids_V, scores, kin_score_V)}
        of_self = self_summary(scores.self_rank_R, self_z_V, row_z(kin_score_V, scores), bootstrap)
        of_hub = hub_summary(best_id_V)
        of_form, summary["spectrum"] = _spectrum(layer, task)
        summary["head"] = {**of_self, **of_hub, **layer.collapse, **of_form}
    if task.ov is not None:
        assert layer.written_to is not None, "the layer is made for the same request"
        of_ov, columns, summary["ov_spectrum"] = scan_written(
            grant,
            task.ov,
            layer.written_to,
            states_VD=layer.states_VD,
            kin_ids_VN=layer.kin_ids_VN,
            head=task.head,
            top_k=task.top_k,
            seed=task.seed,
            best_keys_VK=best_keys_VK,
        )
        tables |= of_ov
        summary["head"] = {**layer.collapse, **summary["head"], **columns}
    return Produced(tables, summary)


def _spectrum(layer: LayerInputs, task: HeadTask) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """What a head's bilinear form adds to its row, and its spectrum; nothing where it has no form."""
    if task.factors is None:
        return {}, {name: [] for name in SPECTRUM_VALUES}
    own = head_spectrum(*task.factors)
    null = compare_with_null(own, layer.moment_DD, task.head, seed=task.seed)
    values = (own.eigenvalues_2H, own.singular_values_H, own.sym_singular_values_2H, own.skew_singular_values_2H)
    return spectrum_summary(own, null), {name: of.tolist() for name, of in zip(SPECTRUM_VALUES, values, strict=True)}
