"""What a steering run computes on workers: kin, one point of the grid, the heat maps, one point inside the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.loop.step import Produced
from qkatlas.jobs.steering.tables import heatmap_table, steered_table
from qkatlas.jobs.worker.kin import UnitStates, find_kin, found_kin
from qkatlas.jobs.worker.tables import row_z, self_table, topk_table
from qkatlas.outputs.places.folder import Folder
from qkatlas.outputs.runs.part import Part
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import steering as schemas
from qkatlas.pipeline.circuit import steering_measures as measures
from qkatlas.pipeline.circuit.kin import kin_scores
from qkatlas.pipeline.circuit.point import Point
from qkatlas.pipeline.circuit.projection import HeadInputs, HeadWeights, head_inputs
from qkatlas.pipeline.circuit.steering import Steered
from qkatlas.pipeline.circuit.steering_offsets import EveryOffset
from qkatlas.pipeline.circuit.summary import mean, rank_summary, std
from qkatlas.pipeline.models.forward import Forward, for_batches, prompt_batches
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.steering import InModel, run_steered, run_steered_at_distances
from qkatlas.pipeline.scoring.engine import score_rows
from qkatlas.pipeline.scoring.exact import canonical_dots
from qkatlas.pipeline.scoring.rows import PreparedKeys, RowScores
from qkatlas.pipeline.text.prompts import CategoryPrompts
from qkatlas.pipeline.text.word_tokens import TokenCategory


@dataclass(frozen=True, kw_only=True)
class OfStates:
    """What is shared was made from a layer's token states; the rest of it follows from the request.

    Attributes:
        made_from: hash of the states.
    """

    made_from: str

    def identity(self) -> str:
        """Hash of the states."""
        return self.made_from


@dataclass(frozen=True, kw_only=True)
class FoundKin(OfStates):
    """Kin that another run has found.

    Attributes:
        folder: of that run.
        parts: of each of our shards, by its name.
    """

    folder: Folder
    parts: Mapping[str, Part]


@dataclass(frozen=True, kw_only=True)
class Unsteered:
    """What steered rows are compared with: the unsteered head's best keys, and its sampled rows as ranks."""

    key_ids_VK: np.ndarray
    ranks_RV: np.ndarray


@dataclass(frozen=True, kw_only=True)
class GridInputs(OfStates):
    """What all points of the grid share.

    Attributes:
        states_VD: float32 [V, D], states of the layer.
        kin_ids_VN: int32 [V, N], everyone's kin.
        sample_R: rows whose rank correlation is taken.
        categories: tokens whose precision is taken.
        top_k: keys in a top-k list.
        unsteered: None for the unsteered point itself.
    """

    states_VD: np.ndarray
    kin_ids_VN: np.ndarray
    sample_R: np.ndarray
    categories: Sequence[TokenCategory]
    top_k: int
    unsteered: Unsteered | None


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One heat map: its name, its alpha where it has one, and the head under it."""

    name: str
    alpha: float | None
    weights: HeadWeights


@dataclass(frozen=True, kw_only=True)
class HeatMaps(OfStates):
    """What the heat maps are drawn from: the group's states and ids, and the conditions."""

    states_GD: np.ndarray
    token_ids_G: np.ndarray
    conditions: Sequence[Condition]


@dataclass(frozen=True, kw_only=True)
class InsideModel(OfStates):
    """What all points inside the model share.

    Attributes:
        model: all weights.
        prompts: what it reads.
        every_offset: the head at all distances, where the model turns queries and keys; its points are steered there.
    """

    model: ModelWeights
    prompts: CategoryPrompts
    every_offset: EveryOffset | None = None


def give_kin(grant: Grant, shard: Shard, source: UnitStates | FoundKin, each: None) -> Produced:
    """Find the kin of one shard's tokens, or take those that another run has found; runs on a worker.

    Raises:
        OSError: if the other run's part cannot be read, or is not what it was.
    """
    if isinstance(source, FoundKin):
        return Produced({"kin": found_kin(source.folder, source.parts[shard.name])})
    return find_kin(grant, shard, source, each)


def score_point(grant: Grant, shard: Shard, grid: GridInputs, steered: Steered) -> Produced:
    """Score all rows of the head steered to one point, and compare them with the unsteered; runs on a worker.

    Raises:
        ValueError: if a steered score would leave the range of float32.
    """
    inputs = head_inputs(steered.weights, grid.states_VD, threads=grant.cpus)
    token_ids_V = np.arange(len(inputs.keys_VH), dtype=np.int32)
    keys = PreparedKeys(inputs.keys_VH, device=grant.device)
    # One key more than asked for, so that the k best keys but the token itself are among them.
    count = min(grid.top_k + 1, len(token_ids_V))
    scores = score_rows(inputs.queries_VH, keys, row_ids_R=token_ids_V, k=count, scale=inputs.scale, threads=grant.cpus)
    self_z_V = row_z(scores.self_score_R.astype(np.float64), scores)
    kin_score_V = kin_scores(inputs.queries_VH, inputs.keys_VH, grid.kin_ids_VN, inputs.scale)
    kin_z_V = row_z(kin_score_V, scores)
    top_VK = np.ascontiguousarray(scores.key_ids_RK[:, : grid.top_k])
    ranks_RV = measures.row_ranks(inputs, grid.sample_R, threads=grant.cpus)
    unsteered = grid.unsteered or Unsteered(key_ids_VK=top_VK, ranks_RV=ranks_RV)
    overlap_V = measures.overlap(top_VK, unsteered.key_ids_VK)
    correlation_R = measures.spearman(ranks_RV, unsteered.ranks_RV)
    precision = measures.category_precision(scores.key_ids_RK, grid.categories)
    summary = {
        "dose": steered.dose,
        **rank_summary(scores.self_rank_R, tops=(1, 10, 128, 1024)),
        "self_z_mean": mean(self_z_V),
        "kin_z_mean": mean(kin_z_V),
        "overlap_at_k": float(overlap_V.mean()),
        "spearman": mean(correlation_R),
        "spearman_std": std(correlation_R),
        "spearman_rows": len(correlation_R),
        "category_precision_at_k": mean(precision),
        "category_tokens": len(precision),
    }
    tables = {"steered": steered_table(scores, self_z_V, kin_z_V, overlap_V)}
    if grid.unsteered is None:
        own = _first_keys(scores, grid.top_k)
        tables = {"topk": topk_table(token_ids_V, own), "self": self_table(token_ids_V, own, kin_score_V), **tables}
    return Produced(tables, summary)


def _first_keys(scores: RowScores, k: int) -> RowScores:
    """The same rows with the k best keys only."""
    fields = dict(vars(scores))
    for name in ("key_ids_RK", "scores_RK"):
        fields[name] = np.ascontiguousarray(fields[name][:, :k])
    return RowScores(**fields)


def draw_heat_maps(grant: Grant, shard: Shard, drawn: HeatMaps, each: None) -> Produced:
    """Score all pairs of a group's tokens under every condition; runs on a worker.

    Raises:
        ValueError: if a score would leave the range of float32.
    """
    maps = []
    for condition in drawn.conditions:
        group = None
        if len(drawn.token_ids_G):
            group = head_inputs(condition.weights, drawn.states_GD, threads=grant.cpus)
        maps.append(_all_scores(group) if group else np.empty((0, 0), np.float32))
    labels = [(condition.name, condition.alpha) for condition in drawn.conditions]
    return Produced({"heatmap_parts": heatmap_table(labels, drawn.token_ids_G, maps)})


def _all_scores(inputs: HeadInputs) -> np.ndarray:
    rows = [canonical_dots(query_H[None, :], inputs.keys_VH) for query_H in inputs.queries_VH]
    scores_GG: np.ndarray = (np.stack(rows) * inputs.scale).astype(np.float32)
    return scores_GG


def run_in_model(grant: Grant, shard: Shard, inside: InsideModel, steered: Steered | Point) -> Produced:
    """Run all prompts with the head steered to one point, one row a prompt; runs on a worker."""
    head = Head(shard.bounds["layer"], shard.bounds["head"])
    count, length = inside.prompts.tokens_PT.shape
    at_distances: list[HeadWeights] = []
    if inside.every_offset is not None:
        assert isinstance(steered, Point), "its forms at all distances are too many to be sent with a shard"
        distances = min(length, inside.model.architecture.window_of(head.layer) or length)
        at_distances = inside.every_offset.at(steered, distances)

    def work(forward: Forward, batch: slice) -> InModel:
        if isinstance(steered, Point):
            return run_steered_at_distances(forward, head, at_distances, inside.prompts[batch])
        return run_steered(forward, head, steered.weights, inside.prompts[batch])

    done = for_batches(inside.model, prompt_batches(count), work, threads=grant.cpus, device=grant.device)
    names = ("identical_mass", "category_mass", "bos_mass", "loss")
    measured = [np.concatenate([getattr(found, f"{name}_P") for found in done]) for name in names]
    columns = [pa.array(np.arange(count, dtype=np.int32)), *(pa.array(values_P) for values_P in measured)]
    return Produced({"in_model_prompts": pa.Table.from_arrays(columns, schema=schemas.IN_MODEL_PROMPTS)})
