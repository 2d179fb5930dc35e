"""What `features` would take.

Shapes: V vocabulary, D model, N heads, T positions, P positions of all windows, X width of what a dictionary reads, F
features.
"""

from __future__ import annotations

from pathlib import Path

from qkatlas.jobs.features.corpus import length_of
from qkatlas.jobs.features.spec import WINDOWS, Features
from qkatlas.jobs.features.tables import (
    CONTEXTS,
    SHARD_FEATURES,
    TEXTS,
    all_shards,
    feature_shards,
)
from qkatlas.jobs.inputs.heads import heads_within
from qkatlas.jobs.inputs.resolve import PLANTED
from qkatlas.jobs.plan import memory as held
from qkatlas.jobs.plan.load import passing_states, running
from qkatlas.jobs.plan.plan import Plan
from qkatlas.jobs.plan.shape import Shape
from qkatlas.jobs.plan.step import DRIVER, WORKERS, Load, Step
from qkatlas.jobs.plan.table import PlannedTable
from qkatlas.jobs.worker.tables import TOKENS
from qkatlas.outputs.places.open import at_home
from qkatlas.outputs.schemas import features as schemas
from qkatlas.pipeline.circuit.text_streams import BLOCK_POSITIONS
from qkatlas.pipeline.features.config import DictionaryConfig
from qkatlas.pipeline.features.convention import CALIBRATION_POSITIONS
from qkatlas.pipeline.features.dictionary import read_configs
from qkatlas.pipeline.features.encoder import BLOCK_FEATURES
from qkatlas.pipeline.features.kinds import Z
from qkatlas.pipeline.features.similarity import DRAWS, FEATURES
from qkatlas.pipeline.features.sources import RELATIONS
from qkatlas.pipeline.planted.checkpoint import PlantedDesign
from qkatlas.pipeline.planted.features import planned

_RELATIONS = 16
"""Relations of sources that occur up to a feature's firings, of those there are."""


def plan_features(shape: Shape, spec: Features) -> Plan:
    """Plan a run of `features`, with a text that is long enough; of dictionaries configurations alone are read.

    Args:
        shape: the model.
        spec: what is asked for.

    Raises:
        ValueError: if there are no dictionaries, or the request does not fit the model.
    """
    configs = _configs(shape, spec)
    t = length_of(spec.length, shape.n_ctx)
    windows = spec.windows or WINDOWS
    n, v, d = shape.n_heads, shape.vocab_size, shape.d_model
    p, tokens = windows * (t - 1), windows * t
    of_z = [config for config in configs if config.reads == Z]
    of_residual = [config for config in configs if config.reads != Z]
    features, last = sum(config.d_sae for config in configs), configs[-1].layer
    owned = sum(config.d_sae for config in of_z)
    files = sum(len(feature_shards(config)) for config in configs)
    ranges = sum(len(feature_shards(config)) for config in of_z)
    per_head = sum(n * min(config.d_sae, spec.per_head) for config in of_z)
    met = sum(n * (2 * config.d_sae + v) for config in of_residual)
    tables = [
        PlannedTable(name="tokens", files=1, rows=v, schema=TOKENS.schema),
        PlannedTable(name="texts", files=1, rows=tokens, schema=TEXTS.schema),
        PlannedTable(name="dictionaries", files=1, rows=len(configs), schema=schemas.DICTIONARIES),
        PlannedTable(name="features", files=files, rows=features, schema=schemas.features(spec.top_k, n)),
        PlannedTable(name="contexts", files=files, rows=features * spec.firings, schema=CONTEXTS.schema),
    ]
    if of_z:
        tables += [
            PlannedTable(name="dfa", files=ranges, rows=owned * _RELATIONS, schema=schemas.DFA),
            PlannedTable(name="attribution", files=len(of_z) * n, rows=per_head, schema=schemas.ATTRIBUTION),
            PlannedTable(name="heads", files=1, rows=len(of_z) * n, schema=schemas.HEADS),
        ]
    if of_residual:
        tables += [
            PlannedTable(name="qk", files=len(of_residual) * n, rows=met, schema=schemas.qk(spec.top_k)),
            PlannedTable(name="qk_heads", files=1, rows=len(of_residual) * n, schema=schemas.QK_HEADS),
        ]
    text = running(shape, tokens, last) + Load(hashed=4.0 * tokens * d * len(configs))
    calibrated = min(p, CALIBRATION_POSITIONS)
    fitted, described, judged, met_load = Load(), Load(), Load(), Load()
    for config in configs:
        x, f = float(config.d_in), float(config.d_sae)
        mixed = Load(float64=2.0 * tokens * (3 * d * x + 2 * t * x))
        # Both conventions are encoded and decoded at some positions; the k-th largest is looked for at all.
        limits = 2.0 * x * f * (p if config.k is not None else 0)
        fitted += mixed + Load(float64=8.0 * calibrated * x * f + limits, values=f * p if config.k else 0.0)
        logits = Load(float32=4.0 * f * v * d, scores=2.0 * f * v, kept=2.0 * f * spec.top_k * d / 64)
        described += mixed * len(feature_shards(config)) + logits + Load(float64=2.0 * p * x * f, values=3.0 * p * f)
        if config.reads == Z:
            firings = f * spec.firings
            sources = 2.0 * firings * t * (x + len(RELATIONS) * (n + 2))
            described += Load(float64=4.0 * p * x * f + sources, values=(4.0 * n + 4) * p * f + 3.0 * firings * t * n)
            judged += Load(values=2.0 * n * DRAWS * FEATURES * (d + x), float64=2.0 * f * d * (x + d))
        else:
            pairs = f * v * 2 + f * f
            met_load += passing_states(shape, config.layer, spec.states)
            of_heads = Load(float32=2.0 * pairs * shape.d_head, scores=pairs, kept=(2 * f + v) * spec.top_k)
            met_load += (of_heads + Load(float64=4.0 * (v + f) * d * shape.d_head)) * n
    shards = all_shards(configs, n)
    written = sum(table.bytes(v) for table in tables if table.files > 1)
    most = -(-len(shards) // len(configs))
    steps = [
        Step(name="opening the model", place=DRIVER, load=Load(hashed=8.0 * shape.weights + 8.0 * _weights(configs)),
             one_thread=True),
        Step(name="text, and conventions", place=DRIVER, load=text + fitted),
        Step(name="features", place=WORKERS, load=described, shards=files),
        Step(name="heads", place=WORKERS, load=judged + met_load, shards=most),
        Step(name="writing", place=WORKERS, load=Load(written=written), shards=most, one_thread=True),
    ]  # fmt: skip
    memory = _memory(shape, configs, spec, tokens, t)
    return Plan(job="features", shape=shape, shards=shards, tables=tables, steps=steps, memory=memory)


def _memory(shape: Shape, configs: list[DictionaryConfig], spec: Features, tokens: int, length: int) -> held.Memory:
    """Memory of a run: it grows with text and with a dictionary's weights, and not with features times positions."""
    v, d, n = shape.vocab_size, shape.d_model, shape.n_heads
    x, f = max(config.d_in for config in configs), max(config.d_sae for config in configs)
    stream, unembedding, weights = 4.0 * tokens * d, 4.0 * v * d, 8.0 * x * f
    mixed = 3 * 8.0 * tokens * x
    # Arrays of one block of features on each of two threads, and what is gathered of a shard.
    blocks = 2 * 10 * 8.0 * tokens * BLOCK_FEATURES
    gathered = 8.0 * min(f, SHARD_FEATURES) * (len(RELATIONS) * (n + 3) + 6 * spec.firings + x)
    pattern = 3 * 8.0 * n * length**2
    running_scores = 2 * 3 * 4.0 * max(BLOCK_POSITIONS, length) * length * n
    return held.Memory(
        worker=held.WORKER_LIBRARIES + held.ALLOCATORS + mixed + blocks + gathered + pattern + 2 * unembedding,
        shared=2 * (stream + weights + unembedding),
        driver=held.DRIVER_LIBRARIES + held.tokenizer(shape, 0.0) + 2 * stream + 2 * unembedding + weights + mixed
        + running_scores + (held.GGUF_WEIGHTS if shape.in_gguf else 0.0),
        gpu=0.0,
    )  # fmt: skip


def _weights(configs: list[DictionaryConfig]) -> float:
    return sum(8.0 * config.d_in * config.d_sae for config in configs)


def _configs(shape: Shape, spec: Features) -> list[DictionaryConfig]:
    if spec.directory is not None:
        found = list(read_configs(Path(at_home(spec.directory))).values())
    elif shape.name in PLANTED:
        found = planned(PlantedDesign(size=PLANTED[shape.name]))
    else:
        raise ValueError(f"--model {shape.name} comes without dictionaries of features; give SAE_DIR")
    layers = {head.layer for head in heads_within(spec.layers, None, n_layers=shape.n_layers, n_heads=1)}
    chosen = [config for config in found if config.layer in layers]
    if not chosen:
        raise ValueError(f"no dictionary is of a layer of the model that is asked for; {shape.name} has "
                         f"{shape.n_layers}")  # fmt: skip
    return chosen
