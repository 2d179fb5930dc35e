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
from qkatlas.outputs.schemas import prompts as schemas_prompts
from qkatlas.outputs.schemas import scores as schemas
from qkatlas.pipeline.circuit.kin import KIN
from qkatlas.pipeline.passes.behaviour import LONGEST_PREFIX, SEQUENCES_PER_KIND, block_length

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
    words = words_in_prompt(spec.length, shape.n_ctx)
    states, top_k, prompts = shape.states(spec.states), spec.top_k, spec.prompts
    pool = {"windows": spec.windows, "draws": spec.draws}
    v, d, h = shape.vocab_size, shape.d_model, shape.d_head
    kin = min(KIN, v - 1)
    block = block_length(shape.n_ctx, v - 1)
    shards = head_scan_shards(heads, v, prompts=prompts if words else 0, sequences=KINDS if block else 0)
    tables = _tables(shards, shape, len(heads), top_k=top_k, prompts=prompts, words=words, kin=kin)
    if spec.exclude_hubs is not None:
        tables.append(PlannedTable(name=HUBS.name, files=1, rows=0, schema=schemas.HUBS))  # their number is found out
    by_name = {table.name: table.bytes(v) for table in tables}

    layers = len({head.layer for head in heads})
    last = heads[-1].layer
    of_prompts = sum(shard.kind in (CATEGORY_PROMPTS, SEQUENCES) for shard in shards)
    kin_pieces = max(1, (len(shards) - of_prompts - len(heads)) // layers)
    heads_at_once = -(-len(heads) // layers)
    tokens = prompts * (words + 1) + KINDS * SEQUENCES_PER_KIND * (1 + 2 * (block or 0))
    of_states = Load(float64=2.0 * v * d**2, values=2.5 * v * d, hashed=4.0 * v * d)

    streams = held_streams(shape, last, states, **pool)
    names = held.gguf_tokens(shape, streams) if reads_text(states, spec.prefix) else 0.0

    def each_head(load: Load) -> Load:
        return _times(load, len(heads))

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
        Step(name="moments of states", place=DRIVER, load=_times(of_states, layers)),
        Step(name="loading TransformerLens", place=DRIVER, load=Load(loads=1), one_thread=True),
        Step(name="loading TransformerLens", place=WORKERS, load=Load(loads=1), each_worker=True, one_thread=True),
        Step(
            name="prompts",
            place=WORKERS,
            load=running(shape, tokens, last + 1),
            shards=max(1, of_prompts),
            gpu_sweeps=1,
        ),
        Step(
            name="kin: preparing",
            place=WORKERS,
            load=_times(preparing(v, d), layers),
            each_worker=True,
            torch_threads=True,
        ),
        step("kin: cosines", _times(scoring(v, d, kin + 1), layers), kin=True, gpu_sweeps=2),
        step("heads: queries and keys", each_head(projecting(shape))),
        step("heads: preparing", each_head(preparing(v, h)), torch_threads=True),
        step("heads: scores", each_head(scoring(v, h, top_k)), gpu_sweeps=2),
        step("heads: scores of kin", each_head(scoring_kin(v, h, kin)), one_thread=True),
        step("heads: spectrum", each_head(comparing_with_null(shape)), one_thread=True),
        step("writing", Load(written=by_name["topk"] + by_name["self"]), one_thread=True),
        step("writing", Load(written=by_name["kin"]), kin=True, one_thread=True),
    ]
    return Plan(
        job="head-scan",
        shape=shape,
        shards=shards,
        tables=tables,
        steps=steps,
        memory=_memory(shape, layers, top_k=top_k, kin=kin, streams=streams + names),
    )


def _tables(
    shards: Sequence[Shard], shape: Shape, heads: int, *, top_k: int, prompts: int, words: int, kin: int
) -> list[PlannedTable]:
    v = shape.vocab_size
    files = {
        table.name: len({table.path(shard) for shard in shards if table.belongs(shard)})
        for table in HeadScanJob.tables
        if not table.whole
    }
    layers = len({shard.bounds["layer"] for shard in shards if shard.kind == HEADS})

    def table(name: str, rows: int, schema: pa.Schema, repeat: float = 1.0) -> PlannedTable:
        count = files.get(name, 1)
        return PlannedTable(name=name, files=count, rows=rows if count else 0, schema=schema, repeat=repeat)

    return [
        table("topk", heads * v, schemas.topk(top_k), shape.lists_repeat),
        table("self", heads * v, schemas.SELF_WITH_KIN),
        table("kin", layers * v, schemas.kin(kin)),
        table("prompt_scores", prompts * heads, schemas_heads.PROMPT_SCORES),
        table("tokens", v, schemas.TOKENS),
        table("prompts", prompts if words else 0, schemas_prompts.prompts(1 + words)),
        table("heads", heads, schemas_heads.HEADS),
        table("spectrum", heads * 2 * shape.d_head, schemas_heads.SPECTRUM),
    ]


def _memory(shape: Shape, layers: int, *, top_k: int, kin: int, streams: float) -> held.Memory:
    v, d, h = shape.vocab_size, shape.d_model, shape.d_head
    state, head = 4.0 * v * d, 4.0 * v * h
    weights = 4.0 * shape.weights
    # The unit states that kin are found from, and the states with their kin and moment, of up to two layers at a time.
    of_layer = 2 * state + 4.0 * v * kin + 8.0 * d**2
    shared = weights + min(layers, 2) * of_layer
    results = 3.0 * v * (8 * top_k + 60)
    # What preparing the kin gave back is what the allocators keep.
    scoring = max(held.ALLOCATORS, held.moments(v, d), 9 * head + results)
    finding_kin = held.on_gpu(v, d, ROWS_PER_SHARD, kin + 1)
    scoring_heads = held.on_gpu(v, h, v, top_k)
    return held.Memory(
        worker=held.PROMPT_WORKER_LIBRARIES + scoring,
        shared=shared,
        driver=held.PROMPT_DRIVER_LIBRARIES
        + (held.GGUF_WEIGHTS if shape.in_gguf else 0.0)
        + max(weights, 2 * state + state + streams),
        gpu=max(finding_kin, scoring_heads, weights + held.CUDA_CONTEXT),
    )


def _times(load: Load, count: int) -> Load:
    return Load(**{name: value * count for name, value in vars(load).items()})
