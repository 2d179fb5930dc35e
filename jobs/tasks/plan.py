"""What `tasks` would take.

Shapes: D model, P prompts, T positions.
"""

from __future__ import annotations

from qkatlas.jobs.inputs.heads import heads_within
from qkatlas.jobs.plan import memory as held
from qkatlas.jobs.plan.load import running
from qkatlas.jobs.plan.plan import Plan
from qkatlas.jobs.plan.shape import Shape
from qkatlas.jobs.plan.step import DRIVER, WORKERS, Load, Step
from qkatlas.jobs.plan.table import PlannedTable
from qkatlas.jobs.tasks.corpus import (
    LAYERS_PER_SHARD,
    MOST_WINDOWS,
    TEXT_POSITIONS,
    UNCHANGED,
    ranges,
    replaced_shards,
    text_shards,
)
from qkatlas.jobs.tasks.spec import Tasks
from qkatlas.jobs.worker.tables import TOKENS
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import tasks as schemas
from qkatlas.pipeline.passes.prefixes import CORRUPTED_PER_WINDOW
from qkatlas.pipeline.tasks.kinds import BLOCK, INTEGERS, PREFIXES, URLS, chosen_tasks
from qkatlas.pipeline.tasks.synthetic import BLOCK_TOKENS, FILLER

_SHORT = 8
"""Positions of a prompt of words."""


def positions_of(task: str) -> int:
    """Positions of a task's prompts, as they are planned; a vocabulary may take a few more or fewer."""
    if task in PREFIXES:
        return 2 * (FILLER + PREFIXES[task]) + 2
    return {BLOCK: 2 * BLOCK_TOKENS, URLS: 16, INTEGERS: 12}.get(task, _SHORT)


def plan_tasks(shape: Shape, spec: Tasks) -> Plan:
    """Plan a run of `tasks`, all of whose tasks the vocabulary can write; those of --file are left out.

    Args:
        shape: the model.
        spec: what is asked for.

    Raises:
        ValueError: if the request does not fit the model.
    """
    heads = heads_within(spec.layers, spec.heads, n_layers=shape.n_layers, n_heads=shape.n_heads)
    names = [task for task in chosen_tasks(spec.tasks) if positions_of(task) <= shape.n_ctx]
    count, prompts = len(names), spec.prompts
    measured = len(heads) if not spec.exact else min(len(heads), spec.exact + spec.audit)
    clean = [
        Shard(f"clean-T{number:02d}-{bounds['start']:06d}", UNCHANGED, {"task": number, **bounds}, UNCHANGED)
        for number in range(count)
        for bounds in ranges(prompts)
    ]
    ablated = replaced_shards([prompts] * count, heads)
    windows = text_shards(MOST_WINDOWS if spec.prefixes else 0)
    tokens = sum(2 * prompts * positions_of(task) for task in names)
    everywhere = count * shape.heads
    lengths = sum(task in PREFIXES for task in names)
    tables = [
        PlannedTable(name="tokens", files=1, rows=shape.vocab_size, schema=TOKENS.schema),
        PlannedTable(name="tasks", files=1, rows=count, schema=schemas.TASKS),
        PlannedTable(name="task_heads", files=1, rows=count * len(heads), schema=schemas.TASK_HEADS),
        PlannedTable(name="task_counts", files=1, rows=len(heads), schema=schemas.TASK_COUNTS),
        PlannedTable(name="dla_sources", files=1, rows=sum(map(positions_of, names)) * shape.heads,
                     schema=schemas.DLA_SOURCES),
        PlannedTable(name="dla_components", files=1, rows=count * (2 * shape.n_layers + 5),
                     schema=schemas.DLA_COMPONENTS),
        PlannedTable(name="prefix", files=1, rows=lengths * shape.heads, schema=schemas.PREFIX),
        PlannedTable(name="prefix_corrupted", files=1, rows=2 * shape.heads, schema=schemas.PREFIX_CORRUPTED),
        PlannedTable(name="task_prompts", files=1, rows=count * prompts, schema=schemas.TASK_PROMPTS),
        PlannedTable(name="task_losses", files=len(clean) + len(ablated), rows=count * prompts * (1 + measured),
                     schema=schemas.TASK_LOSSES),
        PlannedTable(name="task_dla", files=len(clean), rows=everywhere * prompts, schema=schemas.TASK_DLA),
        PlannedTable(name="head_sums", files=len(clean), rows=2 * len(clean) * shape.heads,
                     schema=schemas.head_sums(shape.d_head)),
    ]  # fmt: skip
    layers = shape.n_layers
    # A pass backward takes two forward; what follows a head's layer is half the model, on the mean.
    suffix = sum(layers - head.layer - 1 for head in heads) / len(heads) * measured
    below = layers / 2 * len({head.layer // LAYERS_PER_SHARD for head in heads})
    questions = tokens / max(1, sum(map(positions_of, names))) * count
    unembedding = Load(float32=2.0 * questions * shape.vocab_size * shape.d_model)
    steps = [
        Step(name="opening the model", place=DRIVER, load=Load(hashed=8.0 * shape.weights), one_thread=True),
        Step(name="as it is", place=WORKERS, shards=len(clean),
             load=running(shape, tokens, 4 * layers) + unembedding * 3),
        *([Step(name="natural text", place=WORKERS, shards=len(windows),
                load=running(shape, MOST_WINDOWS * TEXT_POSITIONS * (1 + CORRUPTED_PER_WINDOW), layers))]
          if windows else []),
        Step(name="heads ablated", place=WORKERS, shards=len(ablated),
             load=running(shape, tokens, int(suffix + below)) + unembedding * measured),
    ]  # fmt: skip
    weights = 4.0 * shape.weights
    memory = held.Memory(
        worker=held.PROMPT_WORKER_LIBRARIES + held.ALLOCATORS + 256 * 8.0 * shape.vocab_size,
        shared=2 * weights,
        driver=held.PROMPT_DRIVER_LIBRARIES + weights + (held.GGUF_WEIGHTS if shape.in_gguf else 0.0),
        gpu=0.0,
    )
    shards = [*clean, *windows, *ablated]
    return Plan(job="tasks", shape=shape, shards=shards, tables=tables, steps=steps, memory=memory)
