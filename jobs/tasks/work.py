"""What a tasks run computes on its workers.

Shapes: P prompts of a shard, L layers, N heads of a layer, H head dimension.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.loop.step import Produced
from qkatlas.jobs.tasks.corpus import LAYERS_PER_SHARD
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import tasks as schemas
from qkatlas.pipeline.models.forward import Forward, for_batches, prompt_batches
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.attribution import Answers, measure_answers
from qkatlas.pipeline.passes.prefixes import Examples, attention_between, text_examples
from qkatlas.pipeline.passes.questions import Questions, measure_without
from qkatlas.pipeline.passes.readout import Readout
from qkatlas.pipeline.tasks.prompts import TaskPrompts


@dataclass(frozen=True)
class Unchanged:
    """What all shards share that ablate nothing: the model."""

    weights: ModelWeights

    def identity(self) -> str:
        """SHA-256 of the weights."""
        return self.weights.key


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """What all shards share that ablate heads.

    Attributes:
        weights: the model.
        kind: what takes the place of an output.
        heads: by the number of a task, the heads that are ablated.
        means: by the number of a task and the layer, mean outputs, float32 [N * H].
        losses: by the number of a task, losses with nothing ablated, float64 [P, 2, W]: prompt and control.
        made_from: hash of the weights, and of what the same prompts gave with nothing ablated.
    """

    weights: ModelWeights
    kind: str
    heads: Mapping[int, Sequence[Head]]
    means: Mapping[int, Mapping[int, np.ndarray]]
    losses: Mapping[int, np.ndarray]
    made_from: str

    def identity(self) -> str:
        """See `made_from`."""
        return self.made_from


@dataclass(frozen=True, kw_only=True)
class Text:
    """What all shards of natural text share.

    Attributes:
        weights: the model.
        alike_V: int64, a number for each token; tokens that count as the same have one number.
        ordinary: int64, ids that corrupted prefixes are drawn from.
        seed: of these draws.
    """

    weights: ModelWeights
    alike_V: np.ndarray
    ordinary: np.ndarray
    seed: int

    def identity(self) -> str:
        """Hash of it all."""
        digest = hashlib.sha256(f"{self.weights.key} {self.seed}".encode())
        for values in (self.alike_V, self.ordinary):
            digest.update(np.ascontiguousarray(values, "<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Piece:
    """A task, whole, and for each of its prompts the partner that outputs are resampled from; None = they are not."""

    prompts: TaskPrompts
    partner_P: np.ndarray | None


def run_unchanged(grant: Grant, shard: Shard, shared: Unchanged, piece: Piece) -> Produced:
    """Measure some prompts of a task and their controls with nothing ablated; runs on a worker."""
    prompts, readout = piece.prompts, Readout.of(shared.weights)
    rows = shard.rows

    def batch_of(model: Forward, batch: slice) -> tuple[Answers, np.ndarray | None]:
        taken = slice(rows.start + batch.start, rows.start + batch.stop)
        found = measure_answers(model, Questions.of(prompts, piece.partner_P, taken), readout, prompts.source)
        corrupted = None
        if prompts.corrupted_PT is not None and prompts.source is not None:
            last = prompts.tokens_PT.shape[1] - 1
            corrupted = attention_between(model, prompts.corrupted_PT[taken], last, prompts.source)
        return found, corrupted

    batches = prompt_batches(rows.stop - rows.start)
    done = for_batches(shared.weights, batches, batch_of, threads=grant.cpus, device=grant.device)
    answers = [each for each, _ in done]
    corrupted = [each for _, each in done if each is not None]
    a = shared.weights.architecture
    losses = np.concatenate([_halves(each.losses_PW) for each in answers])
    tables = {
        "task_losses": losses_table(prompts.task, [None], losses[None], rows),
        "head_sums": _sums_table(prompts.task, answers, a.d_head),
        "task_dla": _dla_table(prompts.task, answers, np.concatenate(corrupted) if corrupted else None, rows),
        "source_sums": _sources_table(prompts.task, answers),
    }
    return Produced(tables, _parts(answers))


def run_replaced(grant: Grant, shard: Shard, shared: Replaced, piece: Piece) -> Produced:
    """Measure some prompts of a task and their controls with heads of a few layers ablated; runs on a worker."""
    first, rows, number = shard.bounds["layer"], shard.rows, shard.bounds["task"]
    heads = [head for head in shared.heads[number] if first <= head.layer < first + LAYERS_PER_SHARD]
    if not heads:
        return Produced({"task_losses": schemas.TASK_LOSSES.empty_table()})
    unchanged_PCW = shared.losses[number]

    def batch_of(model: Forward, batch: slice) -> np.ndarray:
        taken = slice(rows.start + batch.start, rows.start + batch.stop)
        questions = Questions.of(piece.prompts, piece.partner_P, taken)
        unchanged_PW = np.concatenate([unchanged_PCW[taken, 0], unchanged_PCW[taken, 1]])
        losses_MPW = measure_without(
            model, questions, heads, unchanged_PW, kind=shared.kind, means=shared.means.get(number, {})
        )
        return np.stack([_halves(losses_PW) for losses_PW in losses_MPW])

    batches = prompt_batches(rows.stop - rows.start)
    done = for_batches(shared.weights, batches, batch_of, threads=grant.cpus, device=grant.device)
    losses_MPCW = np.concatenate(done, axis=1)
    return Produced({"task_losses": losses_table(piece.prompts.task, heads, losses_MPCW, rows)})


def run_text(grant: Grant, shard: Shard, shared: Text, windows_BT: np.ndarray) -> Produced:
    """Find repeated prefixes in some windows of text, and corrupt them; runs on a worker."""

    def batch_of(model: Forward, batch: slice) -> Examples:
        return text_examples(
            model, windows_BT[batch], shared.alike_V, shared.ordinary, seed=shared.seed,
            first=shard.rows.start + batch.start,
        )  # fmt: skip

    one_by_one = [slice(start, start + 1) for start in range(len(windows_BT))]
    done = for_batches(shared.weights, one_by_one, batch_of, threads=grant.cpus, device=grant.device)
    rows = np.concatenate([each.rows for each in done]).astype(np.int32)
    after = np.concatenate([each.after_X for each in done])
    columns = [pa.array(rows[:, place]) for place in range(6)]
    columns += [pa.array(np.concatenate([each.before_X for each in done])), pa.array(after, mask=np.isnan(after))]
    return Produced({"prefix_examples": pa.Table.from_arrays(columns, schema=schemas.PREFIX_EXAMPLES)})


def losses_table(task: str, heads: Sequence[Head | None], losses_MPCW: np.ndarray, rows: slice) -> pa.Table:
    """Losses, head by head and prompt by prompt; C: prompt and control, W: answers that were looked up."""
    count = losses_MPCW.shape[1]
    numbers = np.tile(np.arange(rows.start, rows.stop, dtype=np.int32), len(heads))
    layers = [None if head is None else head.layer for head in heads for _ in range(count)]
    indices = [None if head is None else head.index for head in heads for _ in range(count)]
    columns = [
        pa.array([task] * len(numbers)),
        *(pa.array(values, pa.int32()) for values in (layers, indices)),
        pa.array(numbers),
        *(pa.array(losses_MPCW[:, :, c, w].reshape(-1)) for w in (0, 1) for c in (0, 1)),
    ]
    return pa.Table.from_arrays(columns, schema=schemas.TASK_LOSSES)


def _halves(values_PX: np.ndarray) -> np.ndarray:
    """Prompts and, after them, their controls, side by side: [P, 2, X]."""
    half = len(values_PX) // 2
    return np.stack([values_PX[:half], values_PX[half:]], axis=1)


def _place_columns(shape: tuple[int, int], times: int) -> list[pa.Array]:
    """Layers and heads of rows that go through all heads, so many rows for each head."""
    layer, head = (np.repeat(index.reshape(-1), times).astype(np.int32) for index in np.indices(shape))
    return [pa.array(layer), pa.array(head)]


def _sums_table(task: str, answers: Sequence[Answers], d_head: int) -> pa.Table:
    shape = answers[0].sums_LNH.shape[:2]
    heads = shape[0] * shape[1]
    total = np.sum([each.sums_LNH for each in answers], axis=0).reshape(-1)
    count = sum(each.count for each in answers)
    prompts = sum(len(each.losses_PW) for each in answers) // 2
    columns = []
    for control in (0, 1):
        of = {
            name: np.sum([_halves(getattr(each, name).reshape(len(each.losses_PW), -1))[:, control].sum(axis=0)
                          for each in answers], axis=0)
            for name in ("gradient_PLNH", "product_PLN", "resampled_PLN")
        }  # fmt: skip
        numbers = [pa.FixedSizeListArray.from_arrays(pa.array(flat), d_head) for flat in (of["gradient_PLNH"], total)]
        arrays = [
            pa.array([task] * heads), *_place_columns(shape, 1), pa.array([bool(control)] * heads), numbers[0],
            pa.array(of["product_PLN"]), pa.array(of["resampled_PLN"]), numbers[1],
            pa.array([count] * heads, pa.int64()), pa.array([prompts] * heads, pa.int64()),
        ]  # fmt: skip
        columns.append(pa.Table.from_arrays(arrays, schema=schemas.head_sums(d_head)))
    return pa.concat_tables(columns).combine_chunks()


def _dla_table(task: str, answers: Sequence[Answers], corrupted_PLN: np.ndarray | None, rows: slice) -> pa.Table:
    dla_PLNC = np.concatenate([each.dla_PLNC[: len(each.dla_PLNC) // 2] for each in answers])
    count, *shape = dla_PLNC.shape[:3]
    numbers = np.tile(np.arange(rows.start, rows.stop, dtype=np.int32), shape[0] * shape[1])
    size = len(numbers)

    def column(values_PLN: np.ndarray | None) -> pa.Array:
        if values_PLN is None:
            return pa.nulls(size, pa.float64())
        return pa.array(np.moveaxis(values_PLN, 0, 2).reshape(-1))

    halves = [None if each.source_PLN is None else _halves(each.source_PLN) for each in answers]
    own, control = (
        None if halves[0] is None else np.concatenate([each[:, half] for each in halves if each is not None])
        for half in (0, 1)
    )
    columns = [
        pa.array([task] * size), *_place_columns((shape[0], shape[1]), count), pa.array(numbers),
        column(dla_PLNC[..., 0]), column(dla_PLNC[..., 1]), column(own), column(control), column(corrupted_PLN),
    ]  # fmt: skip
    return pa.Table.from_arrays(columns, schema=schemas.TASK_DLA)


def _sources_table(task: str, answers: Sequence[Answers]) -> pa.Table:
    dla_LNO, attention_LNO = (
        np.sum([getattr(each, name) for each in answers], axis=0) for name in ("sources_LNO", "attention_LNO")
    )
    times_O = np.sum([each.times_O for each in answers], axis=0).astype(np.int32)
    layers, heads, length = dla_LNO.shape
    offsets = np.tile(np.arange(length, dtype=np.int32), layers * heads)
    kept = np.tile(times_O > 0, layers * heads)
    columns = [
        pa.array([task] * len(offsets)), *_place_columns((layers, heads), length), pa.array(offsets),
        pa.array(dla_LNO.reshape(-1)), pa.array(attention_LNO.reshape(-1)), pa.array(np.tile(times_O, layers * heads)),
    ]  # fmt: skip
    return pa.Table.from_arrays(columns, schema=schemas.SOURCE_SUMS).filter(pa.array(kept)).combine_chunks()


def _parts(answers: Sequence[Answers]) -> dict[str, Any]:
    """Sums over prompts of what parts that are no heads add to logits, and how far the sum of all is from the logit."""
    sums: dict[str, list[float]] = {}
    residual = 0.0
    for each in answers:
        half = len(each.losses_PW) // 2
        heads_PC = each.dla_PLNC.sum(axis=(1, 2))
        total_PC = heads_PC + sum(each.parts_PC.values())
        residual = max(residual, float(np.abs(total_PC - each.logits_PC)[:, 1].max()))
        named = {f"{part.kind}|{'' if part.layer is None else part.layer}": of for part, of in each.parts_PC.items()}
        for name, of_PC in {**named, "heads|": heads_PC, "total|": each.logits_PC}.items():
            own = of_PC[:half].sum(axis=0)
            sums[name] = [float(x) for x in np.add(sums.get(name, [0.0, 0.0]), own)]
    return {"components": sums, "residual": residual}
