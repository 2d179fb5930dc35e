"""`submit steering`: one head with scaled eigenvalues or singular values, or moved along a gradient."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np

from qkatlas.cluster.executor import Executor, Grant
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.clock import Clock
from qkatlas.jobs.loop.cost import cost_of
from qkatlas.jobs.steering.prompts import draw_prompts, in_model_table, prompt_shards, run_in_model
from qkatlas.jobs.steering.spec import Steering
from qkatlas.jobs.steering.tables import heatmap_table, samples_table, steered_table, steering_table
from qkatlas.jobs.worker.kin import committed_kin, copy_kin, find_kin, kin_parts
from qkatlas.jobs.worker.kin_shards import kin_shards
from qkatlas.jobs.worker.tables import row_z, self_table, tokens_table, topk_table
from qkatlas.outputs.places.folder import Folder
from qkatlas.outputs.runs.journal import Receipt
from qkatlas.outputs.runs.part import Part, partition, write_part
from qkatlas.outputs.runs.reader import list_matrix, read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.pipeline.circuit import steering_measures as measures
from qkatlas.pipeline.circuit.kin import kin_scores, unit_states
from qkatlas.pipeline.circuit.projection import HeadInputs, HeadWeights, head_inputs, head_weights
from qkatlas.pipeline.circuit.spectrum import second_moment
from qkatlas.pipeline.circuit.states import normalise
from qkatlas.pipeline.circuit.steering import Point, SteerableHead
from qkatlas.pipeline.circuit.summary import mean, rank_summary, std
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.scoring.engine import score_rows
from qkatlas.pipeline.scoring.exact import canonical_dots
from qkatlas.pipeline.scoring.rows import PreparedKeys, RowScores
from qkatlas.pipeline.text.prompts import CategoryPrompts
from qkatlas.pipeline.text.word_tokens import TokenCategory, token_categories


@dataclass(frozen=True, kw_only=True)
class Unsteered:
    """What steered rows are compared with: the unsteered head's best keys, and its sampled rows as ranks."""

    key_ids_VK: np.ndarray
    ranks_RV: np.ndarray


@dataclass(frozen=True, kw_only=True)
class GridInputs:
    """What all points of the grid share."""

    states_VD: np.ndarray
    kin_ids_VN: np.ndarray
    sample_R: np.ndarray
    categories: list[TokenCategory]
    unsteered: Unsteered | None
    """None for the unsteered point itself."""


class SteeringJob:
    """How `steering` is planned, computed and finished.

    The kin of the layer's tokens are the first stage, the unsteered head the second, every other point and the heat
    maps the third, and the points inside the model the fourth.

    Args:
        spec: what is asked for.
        model: the model.
        kin_of: a finished run of the same layer, whose kin are copied if they were found from the same states.

    Raises:
        ValueError: if the request does not fit the model.
    """

    name = "steering"

    def __init__(self, spec: Steering, model: Model, *, kin_of: Run | None = None) -> None:
        spec.require_fits(model)
        self.spec = spec
        self.model = model
        self._head = Head.parse(spec.head)
        self._kin_of = kin_of
        self._points = spec.points()
        vocab_size = model.checkpoint.architecture.vocab_size
        self._kin_shards = kin_shards(self._head.layer, vocab_size, spec.head)
        self._prompt_shards = prompt_shards(self._head, self._points) if spec.in_model else []
        self._sample_R = measures.sample_rows(vocab_size, spec.sample, spec.seed)
        self._categories = token_categories(model.vocabulary)
        self._prompts: CategoryPrompts | None = None
        if spec.in_model:
            self._prompts = draw_prompts(model, count=spec.prompts, length=spec.length, seed=spec.seed)
        self._states_VD: np.ndarray | None = None
        self._moment_DD: np.ndarray | None = None

    def settings(self) -> dict[str, Any]:
        """The settings that change results; those of the prompts only where these are run, words by their tokens."""
        words = [(category.name, category.token_ids.tolist()) for category in self._categories]
        settings = {**asdict(self.spec), "category_tokens_sha256": hashlib.sha256(repr(words).encode()).hexdigest()}
        if self._prompts is None:
            del settings["prompts"], settings["length"]
        else:
            settings["length"] = self._prompts.tokens_PT.shape[1] - 1
            settings["prompts_sha256"] = hashlib.sha256(self._prompts.tokens_PT.tobytes()).hexdigest()
        return settings

    def plan(self) -> list[Shard]:
        """The kin of fixed ranges of tokens, one shard a point, the heat maps, and a shard a point inside the model."""
        place = {"layer": self._head.layer, "head": self._head.index}
        points = [
            Shard(f"{self._head}-{number:04d}-{point.method}", self.spec.head, {**place, "point": number})
            for number, point in enumerate(self._points)
        ]
        heat_maps = Shard(f"{self._head}-heatmap", self.spec.head, place)
        return [*self._kin_shards, *points, heat_maps, *self._prompt_shards]

    def covers(self, shards: Sequence[Shard]) -> bool:
        """Whether shards are the plan, which only the vocabulary and the grid decide."""
        return list(shards) == self.plan()

    def prepare(self, threads: int, clock: Clock) -> None:
        """Compute the unsteered queries and keys, before anything is written.

        Raises:
            ValueError: if they or their scores leave the range of float32.
        """
        head_inputs(self._weights(), self._states(threads), threads=threads)
        clock.lap("token states")

    def scores_in(self, shard: Shard) -> int:
        """Scores that a shard computes; a cosine, and a token's forward pass, count by their products to a score's."""
        shape = self.model.checkpoint.architecture
        if "point" in shard.bounds:
            return shape.vocab_size**2
        if "part" in shard.bounds:
            return (shard.bounds["stop"] - shard.bounds["start"]) * shape.vocab_size * shape.d_model // shape.d_head
        if "in_model" in shard.bounds and self._prompts is not None:
            products = 12 * shape.n_layers * shape.d_model**2 + shape.vocab_size * shape.d_model
            return self._prompts.tokens_PT.size * products // shape.d_head
        return 0

    def stages(self, missing: Sequence[Shard]) -> list[list[Shard]]:
        """The kin, the unsteered head, what is compared with it, and the prompts."""
        return [list(stage) for _, stage in groupby(missing, key=_stage)]

    def tasks(
        self, stage: Sequence[Shard], run: Run, executor: Executor, threads: int, clock: Clock
    ) -> Iterator[tuple[Shard, tuple[Any, ...]]]:
        """The shards of a stage with what a worker needs for them; states, kin and unsteered rows are shared."""
        states_VD = self._states(threads)
        digest = hashlib.sha256(states_VD.data).hexdigest()
        folder = run.folder
        which = _stage(stage[0])
        if which == _KIN:
            if self._kin_of is not None:
                other = Run(self._kin_of.folder)
                other.missing(self._kin_shards)  # reads the receipts, as far as their parts are sound
                if parts := kin_parts(other, self._kin_shards, digest):
                    for shard in stage:
                        yield shard, (folder, digest, None, (other.folder, parts[shard.name]))
                    return
            shared = executor.put(unit_states(states_VD, threads=threads))
            clock.lap("token states")
            for shard in stage:
                yield shard, (folder, digest, shared, None)
            return
        if which == _PROMPTS:
            yield from self._prompt_tasks(stage, folder, digest, executor, threads)
            return
        kin_ids_VN = committed_kin(run, self._kin_shards, digest, len(states_VD))
        unsteered = None if which == _UNSTEERED else self._unsteered(run, digest, threads)
        if kin_ids_VN is None or (which == _STEERED and unsteered is None):
            return
        shared = executor.put(
            GridInputs(
                states_VD=states_VD,
                kin_ids_VN=kin_ids_VN,
                sample_R=self._sample_R,
                categories=self._categories,
                unsteered=unsteered,
            )
        )
        steerable = self._steerable_head(threads, self._weights())
        clock.lap("preparing the grid")
        for shard in stage:
            if "point" in shard.bounds:
                point = self._points[shard.bounds["point"]]
                steered = steerable.at(point)
                yield shard, (folder, digest, shared, steered.weights, steered.dose, self.spec.top_k)
            else:
                ids = np.array(self.spec.group_ids(self.model), np.int32)
                conditions = self._conditions(steerable)
                yield shard, (folder, digest, states_VD[ids], ids, conditions)

    def _prompt_tasks(
        self, stage: Sequence[Shard], folder: Folder, digest: str, executor: Executor, threads: int
    ) -> Iterator[tuple[Shard, tuple[Any, ...]]]:
        """The points inside the model, where scores are attention scores whatever the tables' form."""
        weights = executor.put(self.model.weights())
        steerable = self._steerable_head(threads, head_weights(self.model.checkpoint, self._head))
        for shard in stage:
            steered = steerable.at(self._points[shard.bounds["in_model"]])
            yield shard, (folder, digest, weights, steered.weights, self._prompts)

    def _states(self, threads: int) -> np.ndarray:
        if self._states_VD is None:
            layer = self._head.layer
            states = self.model.token_states(self.spec.states, layer=layer, threads=threads)
            self._states_VD = states.advance_to(layer)
        return self._states_VD

    def _weights(self) -> HeadWeights:
        return head_weights(self.model.checkpoint, self._head, scores=self.spec.scores)

    def _moment(self, threads: int) -> np.ndarray:
        """Second moment of the layer's normalised states, computed once."""
        if self._moment_DD is None:
            eps = self.model.checkpoint.architecture.layer_norm_eps
            normalised_VD = normalise(self._states(threads), eps, threads=threads)
            self._moment_DD = second_moment(normalised_VD, threads=threads)
        return self._moment_DD

    def _steerable_head(self, threads: int, weights: HeadWeights) -> SteerableHead:
        return SteerableHead(
            self._head,
            weights,
            self._moment(threads),
            skew=self.spec.skew,
            eigenvalues=self.spec.eigenvalues,
            move=self.spec.move,
            seed=self.spec.seed,
        )

    def _conditions(self, steerable: SteerableHead) -> list[tuple[str, float | None, HeadWeights]]:
        """The heat maps: unsteered, symmetric part, skew part, and every alpha."""
        steered = [
            (f"alpha={alpha:.15g}", alpha, steerable.at(Point(method="eigen", alpha=alpha)).weights)
            for alpha in self.spec.alphas
        ]
        return [
            ("base", None, self._weights()),
            ("sym", None, steerable.symmetric()),
            ("skew", None, steerable.skew_symmetric()),
            *steered,
        ]

    def _unsteered(self, run: Run, digest: str, threads: int) -> Unsteered | None:
        """The committed unsteered head with its sampled rows; None unless it was computed from these states."""
        name = next(shard.name for shard in self.plan() if _stage(shard) == _UNSTEERED)
        receipt = run.receipts().get(name)
        if receipt is None or receipt.inputs != digest:
            return None
        best = [part for part in receipt.parts if part.path.startswith("topk/")]
        inputs = head_inputs(self._weights(), self._states(threads), threads=threads)
        return Unsteered(
            key_ids_VK=list_matrix(read_parts(run, best), "key_ids"),
            ranks_RV=measures.row_ranks(inputs, self._sample_R, threads=threads),
        )

    @staticmethod
    def run_shard(grant: Grant, shard: Shard, folder: Folder, digest: str, *arguments: Any) -> Receipt:
        """Compute one shard and write its parts; runs on a worker.

        Raises:
            ValueError: if a steered score would leave the range of float32.
            OSError: if a part cannot be written.
        """
        started = time.perf_counter()
        summary: dict[str, Any] = {}
        parts: tuple[Part, ...]
        if "part" in shard.bounds:
            unit_VD, found = arguments
            parts = (copy_kin(folder, *found) if found else find_kin(grant, shard, folder, digest, unit_VD),)
        elif "point" in shard.bounds:
            parts, summary = _score_point(grant, shard, folder, *arguments)
        elif "in_model" in shard.bounds:
            parts = (run_in_model(grant, shard, folder, *arguments),)
        else:
            parts = (_draw_heat_maps(grant, folder, *arguments),)
        measured = cost_of(grant, started)
        return Receipt(shard=shard.name, inputs=digest, parts=parts, measures=measured, summary=summary)

    def reduce(self, run: Run) -> list[Part]:
        """Write the tables of the whole run."""
        receipts = run.receipts()
        shards = [shard for shard in self.plan() if "point" in shard.bounds]
        rows = [(point, receipts[shard.name].summary) for point, shard in zip(self._points, shards, strict=True)]
        tables = [
            run.write_table("tokens.parquet", tokens_table(self.model)),
            run.write_table("steering.parquet", steering_table(rows)),
            run.write_table("samples.parquet", samples_table(self._sample_R, self._categories)),
            run.write_table("heatmap.parquet", read_parts(run, receipts[f"{self._head}-heatmap"].parts)),
        ]
        if self._prompt_shards:
            table = in_model_table(run, self._prompt_shards, self._points)
            tables.append(run.write_table("in_model.parquet", table))
        return tables


_KIN, _UNSTEERED, _STEERED, _PROMPTS = range(4)
"""Stages."""


def _stage(shard: Shard) -> int:
    if "part" in shard.bounds:
        return _KIN
    if "in_model" in shard.bounds:
        return _PROMPTS
    return _UNSTEERED if shard.bounds.get("point") == 0 else _STEERED


def _score_point(
    grant: Grant, shard: Shard, folder: Folder, grid: GridInputs, weights: HeadWeights, dose: float, k: int
) -> tuple[tuple[Part, ...], dict[str, Any]]:
    inputs = head_inputs(weights, grid.states_VD, threads=grant.cpus)
    token_ids_V = np.arange(len(inputs.keys_VH), dtype=np.int32)
    keys = PreparedKeys(inputs.keys_VH, device=grant.device)
    # One key more than asked for, so that the k best keys but the token itself are among them.
    count = min(k + 1, len(token_ids_V))
    scores = score_rows(inputs.queries_VH, keys, row_ids_R=token_ids_V, k=count, scale=inputs.scale, threads=grant.cpus)
    self_z_V = row_z(scores.self_score_R.astype(np.float64), scores)
    kin_score_V = kin_scores(inputs.queries_VH, inputs.keys_VH, grid.kin_ids_VN, inputs.scale)
    kin_z_V = row_z(kin_score_V, scores)
    top_VK = np.ascontiguousarray(scores.key_ids_RK[:, :k])
    ranks_RV = measures.row_ranks(inputs, grid.sample_R, threads=grant.cpus)
    unsteered = grid.unsteered or Unsteered(key_ids_VK=top_VK, ranks_RV=ranks_RV)
    overlap_V = measures.overlap(top_VK, unsteered.key_ids_VK)
    correlation_R = measures.spearman(ranks_RV, unsteered.ranks_RV)
    precision = measures.category_precision(scores.key_ids_RK, grid.categories)
    summary = {
        "dose": dose,
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
    table = steered_table(scores, self_z_V, kin_z_V, overlap_V)
    number = shard.bounds["point"]
    parts = [write_part(folder, f"steered/point={number:04d}/part-00000.parquet", table)]
    if grid.unsteered is None:
        place = shard.bounds["layer"], shard.bounds["head"], 0
        own = _first_keys(scores, k)
        parts = [
            write_part(folder, partition("topk", *place), topk_table(token_ids_V, own)),
            write_part(folder, partition("self", *place), self_table(token_ids_V, own, kin_score_V)),
            *parts,
        ]
    return tuple(parts), summary


def _first_keys(scores: RowScores, k: int) -> RowScores:
    """The same rows with the k best keys only."""
    fields = dict(vars(scores))
    for name in ("key_ids_RK", "scores_RK"):
        fields[name] = np.ascontiguousarray(fields[name][:, :k])
    return RowScores(**fields)


def _draw_heat_maps(
    grant: Grant,
    folder: Folder,
    states_GD: np.ndarray,
    token_ids_G: np.ndarray,
    conditions: list[tuple[str, float | None, HeadWeights]],
) -> Part:
    """Scores between all tokens of a group under every condition."""
    maps = []
    for _, _, weights in conditions:
        group = head_inputs(weights, states_GD, threads=grant.cpus) if len(token_ids_G) else None
        maps.append(_all_scores(group) if group else np.empty((0, 0), np.float32))
    labels = [(name, alpha) for name, alpha, _ in conditions]
    return write_part(folder, "heatmap/part-00000.parquet", heatmap_table(labels, token_ids_G, maps))


def _all_scores(inputs: HeadInputs) -> np.ndarray:
    rows = [canonical_dots(query_H[None, :], inputs.keys_VH) for query_H in inputs.queries_VH]
    scores_GG: np.ndarray = (np.stack(rows) * inputs.scale).astype(np.float32)
    return scores_GG
