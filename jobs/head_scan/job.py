"""`submit head-scan`: every head over the whole vocabulary, with the kin of every token and the head's spectrum."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from qkatlas.cluster.executor import Executor, Grant
from qkatlas.jobs.head_scan.shards import CATEGORY_PROMPTS, head_scan_shards, shard_files
from qkatlas.jobs.inputs.heads import heads_within
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.prompts import DrawnPrompts
from qkatlas.jobs.inputs.settings import require_prompts, require_scoring, require_top_k_fits
from qkatlas.jobs.loop.clock import Clock
from qkatlas.jobs.loop.cost import cost_of
from qkatlas.jobs.worker.head_prompts import HeadPrompts, run_prompts, run_sequences
from qkatlas.jobs.worker.kin import committed_kin, find_kin
from qkatlas.jobs.worker.kin_shards import kin_shards
from qkatlas.jobs.worker.tables import heads_table, row_z, self_table, spectrum_table, tokens_table, topk_table
from qkatlas.outputs.places.folder import Folder
from qkatlas.outputs.runs.journal import Receipt
from qkatlas.outputs.runs.part import Part, write_part
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.pipeline.circuit.kin import kin_scores, unit_states
from qkatlas.pipeline.circuit.labels import label
from qkatlas.pipeline.circuit.projection import HeadWeights, bilinear_factors, head_inputs, head_weights
from qkatlas.pipeline.circuit.spectrum import compare_with_null, head_spectrum, second_moment
from qkatlas.pipeline.circuit.states import TokenStates, normalise
from qkatlas.pipeline.circuit.summary import self_summary, spectrum_summary
from qkatlas.pipeline.models.forward import forget_models
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.scoring.engine import score_rows
from qkatlas.pipeline.scoring.rows import PreparedKeys
from qkatlas.pipeline.text import streams


@dataclass(frozen=True, kw_only=True)
class HeadScan:
    """Every head of a model, or some of them, over the whole vocabulary."""

    heads: tuple[str, ...]
    """The heads, by layer and place, both from 0."""
    states: str = "mlp"
    """How token states are taken: `mlp`, `mean` or `bos`."""
    scores: str = "attention"
    """Form of the score: `attention` (nats, with biases and scale) or `bilinear` (neither)."""
    top_k: int = 10
    """Keys kept for each query token."""
    prompts: int = 128
    """Prompts of category words."""
    length: int | None = None
    """Words in a prompt; None = 64, or as many as the model reads after BOS."""
    categories: tuple[tuple[str, ...], ...] | None = None
    """The words of each category; None = the project's list."""
    seed: int = 0
    """Seed of the prompts, of the bootstrap intervals and of the spectrum's null."""

    def __post_init__(self) -> None:
        if not self.heads:
            raise ValueError("--heads names no head; name at least one, for example L1H5")
        for head in self.heads:
            Head.parse(head)
        require_scoring(self.states, self.scores, self.top_k)
        require_prompts(self.prompts, self.length, self.seed)


def choose_heads(layers: str | None, heads: str | None, model: Model) -> tuple[str, ...]:
    """The heads that `--layers` and `--heads` mean.

    Args:
        layers: numbers and ranges such as `0-3,7`; None = every layer.
        heads: numbers and ranges for each of these layers, or names such as `L1H5,L4H11`; None = every head.
        model: the model.

    Returns:
        The heads' names, by layer and place, each once.

    Raises:
        ValueError: if the text is malformed, or names what the model does not have.
    """
    shape = model.checkpoint.architecture
    return heads_within(layers, heads, n_layers=shape.n_layers, n_heads=shape.n_heads)


@dataclass(frozen=True)
class LayerInputs:
    """What the heads of a layer share: token states, everyone's kin, and the states' second moment."""

    states_VD: np.ndarray
    kin_ids_VN: np.ndarray
    moment_DD: np.ndarray


class HeadScanJob:
    """How `head-scan` is planned, computed and finished.

    The kin of a layer's tokens and its heads are computed from the same token states, the kin first.

    Args:
        spec: what is asked for.
        model: the model.

    Raises:
        ValueError: if the request does not fit the model.
    """

    name = "head-scan"

    def __init__(self, spec: HeadScan, model: Model) -> None:
        shape = model.checkpoint.architecture
        require_top_k_fits(spec.top_k, shape.vocab_size)
        self.spec = spec
        self.model = model
        self._heads = [Head.parse(name) for name in spec.heads]
        for head in self._heads:
            head.require_inside(shape.n_layers, shape.n_heads)
        self.drawn = DrawnPrompts.draw(
            model, words=spec.categories, count=spec.prompts, length=spec.length, seed=spec.seed
        )
        self.prompts = HeadPrompts(model, self._heads, self.drawn, seed=spec.seed)
        self._states: TokenStates | None = None
        self._hashed: tuple[int, np.ndarray, str] | None = None  # the newest layer with its states

    def settings(self) -> dict[str, Any]:
        """The settings that change results; words count by the tokens they are."""
        settings = asdict(replace(self.spec, categories=None))
        del settings["categories"]
        return {**settings, **self.drawn.identity()}

    def plan(self) -> list[Shard]:
        """The prompts; then for each layer the kin of fixed ranges of tokens, and one shard a head."""
        prompts, kinds = self.prompts.counts()
        vocab_size = self.model.checkpoint.architecture.vocab_size
        return head_scan_shards(self._heads, vocab_size, prompts=prompts, kinds=kinds)

    def _kin_shards(self, layer: int) -> list[Shard]:
        return kin_shards(layer, self.model.checkpoint.architecture.vocab_size, f"L{layer}")

    def covers(self, shards: Sequence[Shard]) -> bool:
        """Whether shards are the plan, which only the vocabulary and the heads decide."""
        return list(shards) == self.plan()

    def prepare(self, threads: int, clock: Clock) -> None:
        """Begin the token states, which are computed layer by layer.

        Raises:
            ValueError: if the model cannot give this kind of states.
        """
        self._states = self._begin_states(threads)
        clock.lap("token states")

    def scores_in(self, shard: Shard) -> int:
        """Scores that a shard computes; a cosine counts as many as its width is to a head's, and prompts for none."""
        shape = self.model.checkpoint.architecture
        if "layer" not in shard.bounds:
            return 0
        if "head" in shard.bounds:
            return shape.vocab_size**2
        return (shard.bounds["stop"] - shard.bounds["start"]) * shape.vocab_size * shape.d_model // shape.d_head

    def stages(self, missing: Sequence[Shard]) -> list[list[Shard]]:
        """The prompts and the first layer's kin; then a layer's heads and the next one's kin.

        So the workers are busy while the driver takes the states to the next layer, and wait once a layer.
        """
        layers = sorted({head.layer for head in self._heads})

        def stage_of(shard: Shard) -> int:
            if "layer" not in shard.bounds:
                return 0
            return layers.index(shard.bounds["layer"]) + ("head" in shard.bounds)

        return [list(stage) for _, stage in groupby(missing, key=stage_of)]

    def tasks(
        self, stage: Sequence[Shard], run: Run, executor: Executor, threads: int, clock: Clock
    ) -> Iterator[tuple[Shard, tuple[Any, ...]]]:
        """The shards of a stage with what a worker needs for them; a layer's states are computed once and shared."""

        def kind_of(shard: Shard) -> tuple[bool, bool]:
            return "layer" in shard.bounds, "head" in shard.bounds

        for (with_layer, with_head), shards in groupby(stage, key=kind_of):
            if not with_layer:
                yield from self.prompts.tasks(list(shards), run, executor, threads, clock)
            elif with_head:
                yield from self._head_tasks(list(shards), run, executor, threads, clock)
            else:
                yield from self._kin_tasks(list(shards), run, executor, threads, clock)
            clock.lap("computing and writing")

    def _kin_tasks(
        self, shards: Sequence[Shard], run: Run, executor: Executor, threads: int, clock: Clock
    ) -> Iterator[tuple[Shard, tuple[Any, ...]]]:
        states_VD, digest = self._states_of(shards[0].bounds["layer"], threads)
        shared = executor.put(unit_states(states_VD, threads=threads))
        clock.lap("token states")
        for shard in shards:
            yield shard, (run.folder, digest, shared)

    def _head_tasks(
        self, shards: Sequence[Shard], run: Run, executor: Executor, threads: int, clock: Clock
    ) -> Iterator[tuple[Shard, tuple[Any, ...]]]:
        layer = shards[0].bounds["layer"]
        states_VD, digest = self._states_of(layer, threads)
        kin_ids_VN = committed_kin(run, self._kin_shards(layer), digest, len(states_VD))
        if kin_ids_VN is None:
            return
        normalised_VD = normalise(states_VD, self.model.checkpoint.architecture.layer_norm_eps, threads=threads)
        moment_DD = second_moment(normalised_VD, threads=threads)
        shared = executor.put(LayerInputs(states_VD, kin_ids_VN, moment_DD))
        clock.lap("token states")
        for shard in shards:
            head = Head(layer, shard.bounds["head"])
            weights = head_weights(self.model.checkpoint, head, scores=self.spec.scores)
            factors = bilinear_factors(self.model.checkpoint, head)
            yield shard, (run.folder, digest, shared, weights, factors, self.spec.top_k, self.spec.seed)

    def _states_of(self, layer: int, threads: int) -> tuple[np.ndarray, str]:
        """Token states of a layer and their hash, taken on from those of the layer before where these are at hand."""
        if self._states is None or self._states.layer > layer:
            self._states = self._begin_states(threads)
        if self._hashed is None or self._hashed[0] != layer:
            states_VD = self._states.advance_to(layer)
            self._hashed = layer, states_VD, hashlib.sha256(states_VD.data).hexdigest()
        return self._hashed[1:]

    def _begin_states(self, threads: int) -> TokenStates:
        return self.model.token_states(self.spec.states, layer=self._heads[-1].layer, threads=threads)

    @staticmethod
    def run_shard(grant: Grant, shard: Shard, *arguments: Any) -> Receipt:
        """Compute one shard and write its parts; runs on a worker.

        Raises:
            OSError: if a part cannot be written.
        """
        started = time.perf_counter()
        work = _work_of(shard)
        digest, parts, summary = work(grant, shard, *arguments)
        measures = cost_of(grant, started)
        return Receipt(shard=shard.name, inputs=digest, parts=parts, measures=measures, summary=summary)

    def reduce(self, run: Run) -> list[Part]:
        """Write the tables of the whole run."""
        receipts = run.receipts()
        summaries = [(head, receipts[str(head)].summary) for head in self._heads]
        columns = self.prompts.columns(run)
        rows = [self._row(head, {**summary["head"], **columns[head]}) for head, summary in summaries]
        return [
            run.write_table("tokens.parquet", tokens_table(self.model)),
            run.write_table("prompts.parquet", self.drawn.table()),
            run.write_table("heads.parquet", heads_table(rows)),
            run.write_table("spectrum.parquet", spectrum_table(summaries)),
        ]

    def _row(self, head: Head, columns: dict[str, Any]) -> dict[str, Any]:
        fidelity = columns.get(f"fidelity_{self.spec.states}")
        name = label(columns, self.model.checkpoint.architecture.vocab_size)
        return {"layer": head.layer, "head": head.index, **columns, "fidelity": fidelity, "label": name}


_Work = tuple[str, tuple[Part, ...], dict[str, Any]]


def _work_of(shard: Shard) -> Callable[..., _Work]:
    if "layer" in shard.bounds:
        return _scan_head if "head" in shard.bounds else _find_kin
    return run_prompts if shard.group == CATEGORY_PROMPTS else run_sequences


def _find_kin(grant: Grant, shard: Shard, folder: Folder, digest: str, unit_VD: np.ndarray) -> _Work:
    forget_models()  # the prompts come first
    return digest, (find_kin(grant, shard, folder, digest, unit_VD),), {}


def _scan_head(
    grant: Grant,
    shard: Shard,
    folder: Folder,
    digest: str,
    layer: LayerInputs,
    weights: HeadWeights,
    factors: tuple[np.ndarray, np.ndarray],
    k: int,
    seed: int,
) -> _Work:
    forget_models()
    place = shard.bounds["layer"], shard.bounds["head"]
    inputs = head_inputs(weights, layer.states_VD, threads=grant.cpus)
    token_ids_V = np.arange(len(inputs.keys_VH), dtype=np.int32)
    keys = PreparedKeys(inputs.keys_VH, device=grant.device)
    scores = score_rows(inputs.queries_VH, keys, row_ids_R=token_ids_V, k=k, scale=inputs.scale, threads=grant.cpus)
    kin_score_V = kin_scores(inputs.queries_VH, inputs.keys_VH, layer.kin_ids_VN, inputs.scale)
    self_z_V = row_z(scores.self_score_R.astype(np.float64), scores)
    bootstrap = streams.TOKENS.sequence(seed, *place)
    own = head_spectrum(*factors)
    null = compare_with_null(own, layer.moment_DD, Head(*place), seed=seed)
    summary = {
        "head": {
            **self_summary(scores.self_rank_R, self_z_V, row_z(kin_score_V, scores), bootstrap),
            **spectrum_summary(own, null),
        },
        "spectrum": {
            "eigenvalue": own.eigenvalues_2H.tolist(),
            "singular_value": own.singular_values_H.tolist(),
            "sym_singular_value": own.sym_singular_values_2H.tolist(),
            "skew_singular_value": own.skew_singular_values_2H.tolist(),
        },
    }
    topk_file, self_file = shard_files(shard)
    parts = (
        write_part(folder, topk_file, topk_table(token_ids_V, scores)),
        write_part(folder, self_file, self_table(token_ids_V, scores, kin_score_V)),
    )
    return digest, parts, summary
