"""How `positions` is planned, computed and finished."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Group

from qkatlas.jobs.head_scan.shards import HEADS, by_layer, head_shards
from qkatlas.jobs.inputs.chosen_states import prefix_tokens
from qkatlas.jobs.inputs.heads import heads_within
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.opening import ModelJob
from qkatlas.jobs.inputs.windows import digest_of_windows
from qkatlas.jobs.loop.step import AnyStep, Context, Step
from qkatlas.jobs.loop.table import Table
from qkatlas.jobs.positions.answer import classes_of_heads
from qkatlas.jobs.positions.corpus import chosen_destination, text_windows, token_weights
from qkatlas.jobs.positions.spec import Positions
from qkatlas.jobs.positions.work import Exact, HeadTask, LayerText, take_apart
from qkatlas.jobs.worker.tables import TOKENS, tokens_table
from qkatlas.outputs.runs.layout import OF_HEAD
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import positions as schemas
from qkatlas.pipeline.circuit.projection import head_weights
from qkatlas.pipeline.circuit.states import TokenStates, require_room
from qkatlas.pipeline.circuit.text_streams import StreamsByLayer
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.positions.classes import classify
from qkatlas.pipeline.positions.embedded import Embedded
from qkatlas.pipeline.positions.exact_source import exact_factors, exact_means
from qkatlas.pipeline.positions.kinds import PREFIX

POSITIONS = Table(name="positions", rows="one row a head", schema=schemas.POSITIONS)
KERNELS = Table(
    name="kernels", rows="one row an offset", schema=schemas.KERNELS,
    file=f"kernels/{OF_HEAD}",
)  # fmt: skip
FREQUENCIES = Table(
    name="frequencies", rows="one row for each head and pair", schema=schemas.FREQUENCIES,
    when="models with rotary positions",
)  # fmt: skip
DENOMINATORS = Table(
    name="denominators", rows="one row for each window and destination", schema=schemas.DENOMINATORS,
    file=f"denominators/{OF_HEAD}",
)  # fmt: skip
CONTENT = Table(name="content", rows="one row a token", schema=schemas.CONTENT, file=f"content/{OF_HEAD}")


class PositionsJob(ModelJob[Positions]):
    """Windows of text taken from layer to layer, and each layer's heads taken apart, one a shard.

    Args:
        spec: what is asked for.
        model: the model.

    Attributes:
        heads: the heads, by layer and place.

    Raises:
        ValueError: if the request does not fit the model.
    """

    name = "positions"
    tables = (TOKENS, POSITIONS, KERNELS, FREQUENCIES, DENOMINATORS, CONTENT)
    shows = ("positions", "kernels", "content")
    look = ("positions.parquet", '.sort_values("width")')

    def __init__(self, spec: Positions, model: Model) -> None:
        super().__init__(spec, model)
        a = model.checkpoint.architecture
        self.heads = heads_within(spec.layers, spec.heads, n_layers=a.n_layers, n_heads=a.n_heads)
        self._learned = a.rotary is None
        if self._learned and spec.source == PREFIX and self.heads[-1].layer > 0:
            raise ValueError(
                "--source prefix reads a token at one position, and positions of this model are learned, so that later "
                "layers need them all; choose --source text, or --layers 0"
            )
        self._weight_V = token_weights(spec.frequencies, a)
        self._destination = chosen_destination(spec, model)
        self._tokens_BT = text_windows(spec, model)
        self._prefix = self._prefix_tokens() if spec.source == PREFIX and not self._learned else ()
        self._require_destination()
        self._streams = StreamsByLayer(model.checkpoint, self._tokens_BT)
        self._states: TokenStates | None = None

    def _prefix_tokens(self) -> tuple[int, ...]:
        a = self.model.checkpoint.architecture
        given = self.spec.prefix
        prefix = (a.require_bos(),) if given is None else prefix_tokens(given, self.model)
        require_room(prefix, a, PREFIX)
        return prefix

    def _require_destination(self) -> None:
        """Check that the text has the destination, where its mean query comes from there."""
        fitted_BT = self._tokens_BT[: len(self._tokens_BT) // 3 * 2, 1:]
        from_text = self._destination is not None and not self._prefix and (not self._learned or self.heads[-1].layer)
        if from_text and not (fitted_BT == self._destination).any():
            raise ValueError(
                f"--destination {self.spec.destination} does not occur in the part of the text that means are taken "
                "from; choose a frequent token, or give --text a file that has it"
            )

    def settings(self) -> dict[str, Any]:
        """The settings that change results; text, counts and words count by the tokens they are."""
        return {
            "heads": list(map(str, self.heads)),
            "source": self.spec.source,
            "prefix": list(self._prefix),
            "windows": len(self._tokens_BT) // 3,
            "length": self._tokens_BT.shape[1],
            "text_tokens_sha256": digest_of_windows(self._tokens_BT),
            "destination": self._destination,
            "counts_sha256": hashlib.sha256(self._weight_V.data).hexdigest() if self.spec.frequencies else None,
        }

    def notes(self) -> Iterable[str]:
        """What is wrong with the counts, if their texts are not the model's."""
        if self.spec.frequencies is not None:
            yield from self.spec.frequencies.notes(self.model.vocabulary)

    def steps(self) -> Sequence[AnyStep]:
        """The heads of one layer after the other."""
        return [self._step(layer, heads) for layer, heads in by_layer(self.heads)]

    def _step(self, layer: int, heads: Sequence[Head]) -> Step[LayerText, HeadTask]:
        def share(context: Context) -> LayerText:
            exact = self._exact(heads, context.threads) if self._learned and layer == 0 else None
            return LayerText(
                architecture=self.model.checkpoint.architecture,
                tokens_BT=self._tokens_BT,
                stream_BTD=self._streams.at(layer, threads=context.threads),
                weight_V=self._weight_V,
                destination=self._destination,
                states_VD=self._behind_prefix(layer, context.threads) if self._prefix else None,
                exact=exact,
                weights_sha256=self.model.identity["weights_sha256"],
            )

        return Step(
            kind=HEADS,
            shards=head_shards(heads),
            share=share,
            each=self._task,
            compute=take_apart,
            preparing="text" if layer or not self._learned else "text, and layer 0 exactly",
        )

    def _task(self, shard: Shard) -> HeadTask:
        head = Head(shard.bounds["layer"], shard.bounds["head"])
        return HeadTask(head=head, weights=head_weights(self.model.checkpoint, head))

    def _behind_prefix(self, layer: int, threads: int) -> np.ndarray:
        if self._states is None or self._states.layer > layer:
            self._states = self.model.token_states(PREFIX, layer=layer, prefix=self._prefix, threads=threads)
        return self._states.advance_to(layer)

    def _exact(self, heads: Sequence[Head], threads: int) -> Exact:
        checkpoint = self.model.checkpoint
        rows = Embedded.of(checkpoint, self._tokens_BT.shape[1])
        input_TD = rows.mean_input(self._weight_V, threads=threads)
        weights = [head_weights(checkpoint, head) for head in heads]
        means = [
            exact_means(own, checkpoint.architecture, rows, input_TD, destination=self._destination) for own in weights
        ]
        both = [(own, of_query) for own, (of_query, _) in zip(weights, means, strict=True)]
        factors = exact_factors(both, rows, self._weight_V, threads=threads)
        found = zip(heads, means, factors, strict=True)
        return Exact(rows=rows, heads={head.index: (*both_means, own) for head, both_means, own in found})

    def scores_in(self, shard: Shard) -> int:
        """Work of a shard in products as wide as a score's: what text and destinations take."""
        windows, length = map(int, self._tokens_BT.shape)
        return windows * length * (2 * self.model.checkpoint.architecture.d_model + length)

    def reduce(self, run: Run) -> Mapping[str, pa.Table]:
        """The tokens, a row for each head, and the waves of rotary kernels."""
        receipts = run.receipts()
        summaries = [(head, receipts[str(head)].summary) for head in self.heads]
        rows = []
        for head, summary in summaries:
            name, margin = classify(summary["row"])
            place = {"layer": head.layer, "head": head.index}
            rows.append({**place, **summary["row"], "class": name, "class_margin": margin})
        found = {
            "tokens": tokens_table(self.model),
            "positions": pa.Table.from_pylist(rows, schema=schemas.POSITIONS),
        }
        if not self._learned:
            waves = [
                {"layer": head.layer, "head": head.index, "pair": pair, "omega": omega, "amplitude": amplitude,
                 "phase": phase, "share": amplitude / (sum(of["amplitude"]) or 1.0)}
                for head, of in ((head, summary["frequencies"]) for head, summary in summaries)
                for pair, (omega, amplitude, phase) in enumerate(
                    zip(of["omega"], of["amplitude"], of["phase"], strict=True)
                )
            ]  # fmt: skip
            found["frequencies"] = pa.Table.from_pylist(waves, schema=schemas.FREQUENCIES)
        return found

    def answer(self, run: Run) -> Group:
        """How many heads are of each class, and the clearest of them."""
        return classes_of_heads(run)
