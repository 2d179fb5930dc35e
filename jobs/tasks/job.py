"""How `tasks` is planned, computed and finished."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Group

from qkatlas.jobs.inputs.heads import heads_within
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.opening import ModelJob
from qkatlas.jobs.loop.step import AnyStep, Context, Step
from qkatlas.jobs.tasks.answer import heads_of_tasks
from qkatlas.jobs.tasks.chosen import Chosen, choose
from qkatlas.jobs.tasks.committed import Linear, read_linear, read_losses
from qkatlas.jobs.tasks.corpus import REPLACED, TEXT, UNCHANGED, Corpus, alike_tokens, text_shards, text_windows
from qkatlas.jobs.tasks.effects import TaskResult, tables_of
from qkatlas.jobs.tasks.prefixes import synthetic_tables, text_tables
from qkatlas.jobs.tasks.spec import Tasks
from qkatlas.jobs.tasks.tables import TABLES, prompts_table, sources_table
from qkatlas.jobs.tasks.work import Piece, Replaced, Text, Unchanged, run_replaced, run_text, run_unchanged
from qkatlas.jobs.worker.tables import tokens_table
from qkatlas.outputs.runs.reader import read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import tasks as schemas
from qkatlas.pipeline.models.random import shuffled
from qkatlas.pipeline.models.weights import ModelWeights


class TasksJob(ModelJob[Tasks]):
    """Prompts and controls with nothing ablated, from which heads are chosen; then the same with these ablated.

    Args:
        spec: what is asked for.
        model: the model.

    Attributes:
        corpus: the tasks.
        heads: the heads to choose from, ascending.

    Raises:
        ValueError: if the request does not fit the model.
    """

    name = "tasks"
    tables = TABLES
    shows = ("tasks", "task_heads", "task_counts")
    look = ("task_heads.parquet", '.nlargest(10, "specific")')

    def __init__(self, spec: Tasks, model: Model) -> None:
        super().__init__(spec, model)
        a = model.checkpoint.architecture
        model.checkpoint.require_unembedding("give a checkpoint that has it")
        self.heads = heads_within(spec.layers, spec.heads, n_layers=a.n_layers, n_heads=a.n_heads)
        self.corpus = Corpus.draw(spec, model)
        self._windows_BT = text_windows(spec, model) if spec.prefixes else None

    def settings(self) -> dict[str, Any]:
        """The settings that change results; prompts and text count by the tokens they are."""
        windows = self._windows_BT
        return {
            "tasks": [prompts.task for prompts in self.corpus.tasks],
            "prompts_sha256": [prompts.sha256() for prompts in self.corpus.tasks],
            "heads": list(map(str, self.heads)),
            "text_sha256": None if windows is None else hashlib.sha256(windows.astype("<i8").tobytes()).hexdigest(),
            **{name: getattr(self.spec, name) for name in ("kind", "exact", "audit", "random_weights", "seed")},
        }

    def notes(self) -> Iterable[str]:
        """Tasks that the vocabulary cannot write."""
        return [f"task {task} is left out: {reason}" for task, reason in self.corpus.left_out.items()]

    def steps(self) -> Sequence[AnyStep]:
        """Every task with nothing ablated, natural text, then every task with heads ablated."""
        unchanged = Step(
            kind=UNCHANGED,
            shards=self.corpus.unchanged(),
            share=lambda context: Unchanged(self._weights()),
            each=self._piece,
            compute=run_unchanged,
            preparing="reading weights",
        )
        replaced = Step(
            kind=REPLACED,
            shards=self.corpus.replaced(self.heads),
            share=self._replaced,
            each=self._piece,
            compute=run_replaced,
            after=(unchanged,),
            preparing="reading weights",
        )
        return [unchanged, *self._text_steps(), replaced]

    def _text_steps(self) -> list[AnyStep]:
        windows_BT = self._windows_BT
        if windows_BT is None:
            return []

        def share(context: Context) -> Text:
            ordinary = np.array(self.model.ordinary_tokens(), np.int64)
            return Text(
                weights=self._weights(), alike_V=alike_tokens(self.model), ordinary=ordinary, seed=self.spec.seed
            )

        step = Step(
            kind=TEXT,
            shards=text_shards(len(windows_BT)),
            share=share,
            each=lambda shard: windows_BT[shard.rows],
            compute=run_text,
            preparing="reading weights",
        )
        return [step]

    def _piece(self, shard: Shard) -> Piece:
        number = shard.bounds["task"]
        partner_P = self.corpus.partners(number, self.spec.seed) if self.spec.kind == "resample" else None
        return Piece(self.corpus.tasks[number], partner_P)

    def _weights(self) -> ModelWeights:
        weights = self.model.weights()
        return shuffled(weights, self.spec.seed) if self.spec.random_weights else weights

    def _replaced(self, context: Context) -> Replaced | None:
        parts = context.run.parts_of(self.corpus.unchanged())
        if parts is None:
            return None
        weights = self._weights()
        digest = hashlib.sha256(weights.key.encode())
        for part in parts:
            digest.update(part.sha256.encode())
        linear = {number: self._linear(context.run, number) for number in range(len(self.corpus.tasks))}
        return Replaced(
            weights=weights,
            kind=self.spec.kind,
            heads={number: self._chosen(number, one).measured for number, one in linear.items()},
            means={
                number: {layer: of.reshape(-1).astype(np.float32) for layer, of in enumerate(one.means_LNH)}
                for number, one in linear.items()
            }
            if self.spec.kind == "mean"
            else {},
            losses={number: self._clean(context.run, number) for number in linear},
            made_from=digest.hexdigest(),
        )

    @cached_property
    def _shape(self) -> tuple[int, int]:
        a = self.model.checkpoint.architecture
        return a.n_layers, a.n_heads

    def _unchanged_of(self, number: int) -> list[Shard]:
        return [shard for shard in self.corpus.unchanged() if shard.bounds["task"] == number]

    def _read(self, run: Run, number: int, name: str) -> pa.Table:
        parts = run.parts_of(self._unchanged_of(number))
        assert parts is not None, "all of it was committed"
        return read_parts(run, parts, name)

    def _linear(self, run: Run, number: int) -> Linear:
        return read_linear(self._read(run, number, "head_sums"), self._shape, self.spec.kind)

    def _chosen(self, number: int, linear: Linear) -> Chosen:
        return choose(self.spec, self.heads, linear.estimates, number)

    def _clean(self, run: Run, number: int) -> np.ndarray:
        losses: np.ndarray = read_losses(self._read(run, number, "task_losses"), [None])[0]
        return losses

    def _result(self, run: Run, number: int) -> TaskResult:
        linear = self._linear(run, number)
        chosen = self._chosen(number, linear)
        shards = [shard for shard in self.corpus.replaced(self.heads) if shard.bounds["task"] == number]
        parts = run.parts_of(shards)
        assert parts is not None, "all of it was committed"
        summaries = [run.receipts()[shard.name].summary for shard in self._unchanged_of(number)]
        components = {
            name: np.sum([summary["components"][name] for summary in summaries], axis=0).tolist()
            for name in summaries[0]["components"]
        }
        table = self._dla(run, number)
        dla = np.stack([table[name].to_numpy() for name in ("dla", "dla_centred")], axis=1)
        return TaskResult(
            prompts=self.corpus.tasks[number],
            heads=self.heads,
            chosen=chosen,
            linear=linear,
            clean=self._clean(run, number),
            ablated=read_losses(read_parts(run, parts, "task_losses"), chosen.measured),
            dla=dla.reshape(*self._shape, -1, 2).mean(axis=2),
            components=components,
            residual=max(summary["residual"] for summary in summaries),
        )

    def _dla(self, run: Run, number: int) -> pa.Table:
        """Rows of `task_dla` of a task, head by head in order of prompts."""
        return self._read(run, number, "task_dla").sort_by(
            [(name, "ascending") for name in ("layer", "head", "prompt")]
        )

    def reduce(self, run: Run) -> Mapping[str, pa.Table]:
        """What heads do to tasks and which they serve, the prefix study, and where attribution comes from."""
        numbers = range(len(self.corpus.tasks))
        rows = tables_of([self._result(run, number) for number in numbers], self.spec.seed)
        found = {
            name: pa.Table.from_pylist(rows[name], schema=schema)
            for name, schema in (
                ("tasks", schemas.TASKS), ("task_heads", schemas.TASK_HEADS), ("task_counts", schemas.TASK_COUNTS),
                ("dla_components", schemas.DLA_COMPONENTS),
            )
        }  # fmt: skip
        by_task = {self.corpus.tasks[number].task: self._dla(run, number) for number in numbers}
        prefix, corrupted = synthetic_tables(by_task, self._shape, self.spec.seed)
        if self._windows_BT is not None:
            parts = run.parts_of(text_shards(len(self._windows_BT)))
            assert parts is not None, "all of it was committed"
            found["prefix_text"], more = text_tables(read_parts(run, parts, "prefix_examples"), self.spec.seed)
            corrupted = pa.concat_tables([corrupted, pa.Table.from_pylist(more, schema=schemas.PREFIX_CORRUPTED)])
        return {
            **found,
            "prefix": prefix,
            "prefix_corrupted": corrupted.combine_chunks(),
            "dla_sources": sources_table([self._read(run, number, "source_sums") for number in numbers]),
            "task_prompts": prompts_table(self.corpus.tasks),
            "tokens": tokens_table(self.model),
        }

    def scores_in(self, shard: Shard) -> int:
        """Work of a shard in products as wide as a score's."""
        a = self.model.checkpoint.architecture
        if shard.kind == TEXT:
            return 0
        prompts = self.corpus.tasks[shard.bounds["task"]]
        tokens = 2 * (shard.bounds["stop"] - shard.bounds["start"]) * int(prompts.tokens_PT.shape[1])
        a_layer = (4 * a.d_model + 2 * a.d_mlp) * a.d_model
        passes = 3.0 * a.n_layers
        if shard.kind == REPLACED:
            measured = self.spec.exact + self.spec.audit if self.spec.exact else len(self.heads)
            blocks = len({one.bounds["layer"] for one in self.corpus.replaced(self.heads)})
            passes = min(measured, len(self.heads)) / blocks * (a.n_layers - shard.bounds["layer"])
        return int(tokens * passes * a_layer) // a.d_head

    def answer(self, run: Run) -> Group:
        """The tasks, solved ones first, and the heads that serve them."""
        return heads_of_tasks(run)
