"""What `head-scan` would take.

Shapes: V vocabulary, D model, H head dimension, K kept keys, N kin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from qkatlas.jobs.head_scan.job import HeadScanJob
from qkatlas.jobs.head_scan.shards import HEADS, head_scan_shards
from qkatlas.jobs.head_scan.spec import HeadScan
from qkatlas.jobs.inputs.circuit import attends, writes
from qkatlas.jobs.inputs.heads import heads_within
from qkatlas.jobs.inputs.hubs import HUBS, require_hubs_fit
from qkatlas.jobs.inputs.prompts import words_in_prompt
from qkatlas.jobs.inputs.settings import require_top_k_fits
from qkatlas.jobs.plan import memory as held
from qkatlas.jobs.plan.load import (
    REFERENCE_TOKENS,
    comparing_with_null,
    held_streams,
    passing_states,
    preparing,
    projecting,
    reads_text,
    running,
    scoring,
    scoring_kin,
)
from qkatlas.jobs.plan.plan import Plan
from qkatlas.jobs.plan.shape import Shape
from qkatlas.jobs.plan.step import DRIVER, WORKERS, Load, Step
from qkatlas.jobs.plan.table import PlannedTable
from qkatlas.jobs.worker.prompt_shards import CATEGORY_PROMPTS, SEQUENCES
from qkatlas.jobs.worker.ranges import ROWS_PER_SHARD
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import head_scan as schemas_heads
from qkatlas.outputs.schemas import ov as schemas_ov
from qkatlas.outputs.schemas import prompts as schemas_prompts
from qkatlas.outputs.schemas import scores as schemas
from qkatlas.pipeline.circuit.kin import KIN
from qkatlas.pipeline.passes.behaviour import LONGEST_PREFIX, SEQUENCES_PER_KIND, block_length

_OF_HEADS = ("topk", "self", "ov_topk", "ov_bottomk", "ov_self")
"""Tables that are written head by head."""

KINDS = 1 + LONGEST_PREFIX
"""Kinds of behaviour sequences: the whole block repeated, and each length of prefix."""


def plan_head_scan(shape: Shape, spec: HeadScan) -> Plan:
    """Plan a run of `head-scan` on a model whose tokenizer has the words of the prompts.

    Args:
        shape: the model.
        spec: what is asked for.

    Raises:
        ValueError: if the request does not fit the model.
    """
    heads = heads_within(spec.layers, spec.heads, n_layers=shape.n_layers, n_heads=shape.n_heads)
    require_top_k_fits(spec.top_k, shape.vocab_size)
    require_hubs_fit(spec.exclude_hubs, spec.top_k, shape.vocab_size)
    reads, writes_ = attends(spec), writes(spec)
    words = words_in_prompt(spec.length, shape.n_ctx) if reads else 0
    states, top_k, prompts = shape.states(spec.states), spec.top_k, spec.prompts
    pool = {"windows": spec.windows, "draws": spec.draws}
    v, d, h = shape.vocab_size, shape.d_model, shape.d_head
    kin = min(KIN, v - 1)
    block = block_length(shape.n_ctx, v - 1) if reads else 0
    shards = head_scan_shards(heads, v, prompts=prompts if words else 0, sequences=KINDS if block else 0)
    tables = _tables(shards, shape, len(heads), spec=spec, words=words, kin=kin)
    if spec.exclude_hubs is not None:
        tables.append(PlannedTable(name=HUBS.name, files=1, rows=0, schema=schemas.HUBS))  # their number is found out
    by_name = {table.name: table.bytes(v) for table in tables}

    layers = len({head.layer for head in heads})
    last = heads[-1].layer
    of_prompts = sum(shard.kind in (CATEGORY_PROMPTS, SEQUENCES) for shard in shards)
    kin_pieces = max(1, (len(shards) - of_prompts - len(heads)) // layers)
    heads_at_once = -(-len(heads) // layers)
    tokens = 0 if not reads else prompts * (words + 1) + KINDS * SEQUENCES_PER_KIND * (1 + 2 * (block or 0))
    sides, passes = reads + writes_, reads + 2 * writes_
    of_states = Load(float64=2.0 * v * d**2, values=2.5 * v * d, hashed=4.0 * v * d)

    streams = held_streams(shape, last, states, **pool)
    names = held.gguf_tokens(shape, streams) if reads_text(states, spec.prefix) else 0.0

    def each_head(load: Load) -> Load:
        return load * len(heads)

    def step(name: str, load: Load, *, kin: bool = False, **more: Any) -> Step:
        pieces = kin_pieces if kin else heads_at_once
        return Step(name=name, place=WORKERS, load=load, shards=pieces, **more)

    steps = [
        Step(name="opening the model", place=DRIVER, load=Load(hashed=8.0 * shape.weights), one_thread=True),
        Step(
            name="token states",
            place=DRIVER,
            load=passing_states(shape, last, states, **pool)
            + (running(shape, REFERENCE_TOKENS, last) if states != "mean" else Load()),
        ),
        Step(name="moments of states", place=DRIVER, load=of_states * (layers * (1 + writes_))),
        *(_prompt_steps(shape, tokens, last, of_prompts) if reads else []),
        Step(
            name="kin: preparing",
            place=WORKERS,
            load=preparing(v, d) * layers,
            each_worker=True,
            torch_threads=True,
        ),
        step("kin: cosines", scoring(v, d, kin + 1) * layers, kin=True, gpu_sweeps=2),
        step("heads: queries and keys", each_head(projecting(shape) * sides)),
        step("heads: preparing", each_head(preparing(v, h) * sides), torch_threads=True),
        step("heads: scores", each_head(scoring(v, h, top_k) * passes), gpu_sweeps=2 * passes),
        step("heads: scores of kin", each_head(scoring_kin(v, h, kin) * sides), one_thread=True),
        step("heads: spectrum", each_head(comparing_with_null(shape) * sides), one_thread=True),
        step("writing", Load(written=sum(by_name.get(name, 0.0) for name in _OF_HEADS)), one_thread=True),
        step("writing", Load(written=by_name["kin"]), kin=True, one_thread=True),
    ]
    return Plan(
        job="head-scan",
        shape=shape,
        shards=shards,
        tables=tables,
        steps=steps,
        memory=_memory(shape, layers, spec=spec, kin=kin, streams=streams + names),
    )


def _tables(
    shards: Sequence[Shard], shape: Shape, heads: int, *, spec: HeadScan, words: int, kin: int
) -> list[PlannedTable]:
    v, top_k = shape.vocab_size, spec.top_k
    files = {
        table.name: len({table.path(shard) for shard in shards if table.belongs(shard)})
        for table in HeadScanJob.tables
        if not table.whole
    }
    layers = len({shard.bounds["layer"] for shard in shards if shard.kind == HEADS})

    def table(name: str, rows: int, schema: pa.Schema, repeat: float = 1.0) -> PlannedTable:
        count = files.get(name, 1)
        return PlannedTable(name=name, files=count, rows=rows if count else 0, schema=schema, repeat=repeat)

    of_attention = [
        table("topk", heads * v, schemas.topk(top_k), shape.lists_repeat),
        table("self", heads * v, schemas.SELF_WITH_KIN),
        table("prompt_scores", spec.prompts * heads, schemas_heads.PROMPT_SCORES),
        table("prompts", spec.prompts if words else 0, schemas_prompts.prompts(1 + words)),
        table("spectrum", heads * 2 * shape.d_head, schemas_heads.SPECTRUM),
    ]
    of_writing = [
        table("ov_topk", heads * v, schemas_ov.topk(top_k)),
        table("ov_bottomk", heads * v, schemas_ov.topk(top_k, lowest=True)),
        table("ov_self", heads * v, schemas_ov.SELF_WITH_KIN),
        table("ov_spectrum", heads * shape.d_head, schemas_ov.SPECTRUM),
    ]
    of_both = [
        table("kin", layers * v, schemas.kin(kin)),
        table("tokens", v, schemas.TOKENS),
        table("heads", heads, schemas_ov.HEADS_THAT_WRITE if writes(spec) else schemas_heads.HEADS),
    ]
    asked = of_both + (of_attention if attends(spec) else []) + (of_writing if writes(spec) else [])
    return sorted(asked, key=lambda planned: [one.name for one in HeadScanJob.tables].index(planned.name))


def _prompt_steps(shape: Shape, tokens: int, last: int, pieces: int) -> list[Step]:
    """The model's own passes, with what they load."""
    return [
        Step(name="loading TransformerLens", place=DRIVER, load=Load(loads=1), one_thread=True),
        Step(name="loading TransformerLens", place=WORKERS, load=Load(loads=1), each_worker=True, one_thread=True),
        Step(
            name="prompts",
            place=WORKERS,
            load=running(shape, tokens, last + 1),
            shards=max(1, pieces),
            gpu_sweeps=1,
        ),
    ]


def _memory(shape: Shape, layers: int, *, spec: HeadScan, kin: int, streams: float) -> held.Memory:
    v, d, h, top_k = shape.vocab_size, shape.d_model, shape.d_head, spec.top_k
    state, head = 4.0 * v * d, 4.0 * v * h
    weights = 4.0 * shape.weights
    # The unit states that kin are found from, and the states with their kin and moment, of up to two layers at a time.
    # Where they write, the unembedding goes with them, and another moment.
    of_layer = 2 * state + 4.0 * v * kin + 8.0 * d**2
    of_writing = state + 8.0 * d**2 if writes(spec) else 0.0
    shared = weights + min(layers, 2) * (of_layer + of_writing)
    results = 3.0 * v * (8 * top_k + 60) * (attends(spec) + 2 * writes(spec))
    # What preparing the kin gave back is what the allocators keep.
    scoring = max(held.ALLOCATORS, held.moments(v, d), 9 * head + results)
    finding_kin = held.on_gpu(v, d, ROWS_PER_SHARD, kin + 1)
    scoring_heads = held.on_gpu(v, h, v, top_k)
    return held.Memory(
        worker=held.PROMPT_WORKER_LIBRARIES + scoring,
        shared=shared,
        driver=held.PROMPT_DRIVER_LIBRARIES
        + (held.GGUF_WEIGHTS if shape.in_gguf else 0.0)
        + of_writing
        + max(weights, 2 * state + state + streams),
        gpu=max(finding_kin, scoring_heads, weights + held.CUDA_CONTEXT),
    )
