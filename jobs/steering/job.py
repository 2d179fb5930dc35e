"""How `steering` is planned, computed and finished."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import RenderableType

from qkatlas.jobs.inputs.chosen_states import ChosenStates
from qkatlas.jobs.inputs.form import require_scores
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.offset import fitted_offset, with_offset
from qkatlas.jobs.inputs.opening import ModelJob
from qkatlas.jobs.loop.step import AnyStep, Context, Step, nothing_more
from qkatlas.jobs.steering.answer import dose_response
from qkatlas.jobs.steering.prompts import draw_prompts, in_model_table, prompt_shards
from qkatlas.jobs.steering.spec import Steering
from qkatlas.jobs.steering.tables import TABLES, samples_table, steering_table
from qkatlas.jobs.steering.work import (
    Condition,
    FoundKin,
    GridInputs,
    HeatMaps,
    InsideModel,
    Unsteered,
    draw_heat_maps,
    give_kin,
    run_in_model,
    score_point,
)
from qkatlas.jobs.worker.kin import UnitStates, committed_kin, kin_parts
from qkatlas.jobs.worker.kin_shards import kin_shards
from qkatlas.jobs.worker.tables import tokens_table
from qkatlas.outputs.runs.reader import list_matrix, read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.pipeline.circuit import steering_measures as measures
from qkatlas.pipeline.circuit.forms import require_bilinear
from qkatlas.pipeline.circuit.kin import unit_states
from qkatlas.pipeline.circuit.point import Point
from qkatlas.pipeline.circuit.projection import HeadWeights, head_inputs, head_weights, turned
from qkatlas.pipeline.circuit.spectrum import second_moment
from qkatlas.pipeline.circuit.states import normalise
from qkatlas.pipeline.circuit.steering import SteerableHead, Steered
from qkatlas.pipeline.circuit.steering_offsets import EveryOffset
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.text.prompts import CategoryPrompts
from qkatlas.pipeline.text.word_tokens import token_categories


class SteeringJob(ModelJob[Steering]):
    """The kin of the layer's tokens, the unsteered head, every other point and the heat maps, the points inside.

    Args:
        spec: what is asked for.
        model: the model.
        kin_of: a finished run of the same layer, whose kin are copied if they were found from the same states.

    Raises:
        ValueError: if the request does not fit the model.
    """

    name = "steering"
    tables = TABLES
    shows = ("steering", "in_model", "heatmap", "steered", "samples")
    look = ("steering.parquet", ".T")

    def __init__(self, spec: Steering, model: Model, *, kin_of: Run | None = None) -> None:
        super().__init__(spec.fitted(model), model)
        self._head = Head.parse(spec.head)
        self._kin_of = kin_of
        self._points = self.spec.points()
        shape = model.checkpoint.architecture
        vocab_size = shape.vocab_size
        self._chosen = ChosenStates.fitted(self.spec, model)
        self._offset = fitted_offset(spec.offset, shape, [self._head.layer])
        require_scores(shape, spec.scores)
        require_bilinear(shape)
        place = {"layer": self._head.layer, "head": self._head.index}
        self._kin_shards = kin_shards(self._head.layer, vocab_size, spec.head)
        self._point_shards = [
            Shard(
                f"{self._head}-{number:04d}-{point.method}",
                spec.head,
                {**place, "point": number},
                "steered" if number else "unsteered",
            )
            for number, point in enumerate(self._points)
        ]
        self._heat_map_shard = Shard(f"{self._head}-heatmap", spec.head, place, "heatmap")
        self._prompt_shards = prompt_shards(self._head, self._points) if spec.in_model else []
        self._sample_R = measures.sample_rows(vocab_size, spec.sample, spec.seed)
        self._categories = token_categories(model.vocabulary)
        self._prompts: CategoryPrompts | None = None
        if spec.in_model:
            model.checkpoint.require_unembedding("leave out --in-model, or give a checkpoint that has it")
            self._prompts = draw_prompts(model, count=spec.prompts, length=spec.length, seed=spec.seed)
        self._states: tuple[np.ndarray, str] | None = None
        self._moment_DD: np.ndarray | None = None
        self._grid: SteerableHead | None = None
        self._inside: SteerableHead | None = None

    def settings(self) -> dict[str, Any]:
        """The settings that change results; those of the prompts only where these are run, words by their tokens."""
        words = [(category.name, category.token_ids.tolist()) for category in self._categories]
        settings = {**asdict(self.spec), "category_tokens_sha256": hashlib.sha256(repr(words).encode()).hexdigest()}
        controls = settings.pop("controls")
        settings = self._chosen.within(settings)
        # Their name is part of every run id that exists; in runs of the states `context` it is that of the windows.
        settings["controls" if "draws" in settings else "draws"] = controls
        if self._prompts is None:
            del settings["prompts"], settings["length"]
        else:
            settings["length"] = self._prompts.tokens_PT.shape[1] - 1
            settings["prompts_sha256"] = hashlib.sha256(self._prompts.tokens_PT.tobytes()).hexdigest()
        return with_offset(settings, self._offset)

    def steps(self) -> Sequence[AnyStep]:
        """The kin of fixed ranges of tokens, one shard a point, the heat maps, and a shard a point inside the model."""
        kin: Step[UnitStates | FoundKin, None] = Step(
            kind="kin",
            shards=self._kin_shards,
            share=self._share_kin,
            each=nothing_more,
            compute=give_kin,
            preparing="token states",
        )
        unsteered = Step(
            kind="unsteered",
            shards=self._point_shards[:1],
            share=lambda context: self._share_grid(context, None),
            each=self._steered,
            compute=score_point,
            after=[kin],
            preparing="preparing the grid",
        )
        steered = Step(
            kind="steered",
            shards=self._point_shards[1:],
            share=self._share_compared_grid,
            each=self._steered,
            compute=score_point,
            after=[unsteered],
            preparing="preparing the grid",
        )
        heat_maps = Step(
            kind="heatmap",
            shards=[self._heat_map_shard],
            share=self._share_heat_maps,
            each=nothing_more,
            compute=draw_heat_maps,
            preparing="preparing the grid",
        )
        in_model = Step(
            kind="in-model",
            shards=self._prompt_shards,
            share=self._share_model,
            each=self._steered_inside,
            compute=run_in_model,
            after=[steered],
            preparing="preparing the grid",
            per_device=True,
        )
        return [kin, unsteered, steered, heat_maps, in_model]

    def prepare(self, context: Context) -> None:
        """Compute the unsteered queries and keys, before anything is written.

        Raises:
            ValueError: if they or their scores leave the range of float32.
        """
        states_VD, _ = self._layer_states(context.threads)
        head_inputs(self._weights(), states_VD, threads=context.threads)
        context.clock.lap("token states")

    def scores_in(self, shard: Shard) -> int:
        """Scores that a shard computes; a cosine, and a token's forward pass, count by their products to a score's."""
        shape = self.model.checkpoint.architecture
        if shard.kind == "kin":
            return (shard.bounds["stop"] - shard.bounds["start"]) * shape.vocab_size * shape.d_model // shape.d_head
        if shard.kind in ("unsteered", "steered"):
            return shape.vocab_size**2
        if shard.kind == "in-model" and self._prompts is not None:
            products = 12 * shape.n_layers * shape.d_model**2 + shape.vocab_size * shape.d_model
            return self._prompts.tokens_PT.size * products // shape.d_head
        return 0

    def _share_kin(self, context: Context) -> UnitStates | FoundKin:
        """Unit states of all tokens, or what another run has found from the same states."""
        states_VD, digest = self._layer_states(context.threads)
        if self._kin_of is not None:
            other = Run(self._kin_of.folder)
            other.missing(self._kin_shards)  # reads the receipts, as far as their parts are sound
            if parts := kin_parts(other, self._kin_shards, digest):
                return FoundKin(made_from=digest, folder=other.folder, parts=parts)
        norm = self.model.checkpoint.architecture.norm
        return UnitStates(unit_states(states_VD, norm, threads=context.threads), digest)

    def _share_grid(self, context: Context, unsteered: Unsteered | None) -> GridInputs | None:
        """What points are scored from; None unless everyone's kin were found from these states."""
        states_VD, digest = self._layer_states(context.threads)
        kin_ids_VN = committed_kin(context.run, self._kin_shards, digest, len(states_VD))
        if kin_ids_VN is None:
            return None
        self._grid = self._steerable(context.threads, self._weights())
        return GridInputs(
            made_from=digest,
            states_VD=states_VD,
            kin_ids_VN=kin_ids_VN,
            sample_R=self._sample_R,
            categories=self._categories,
            top_k=self.spec.top_k,
            unsteered=unsteered,
        )

    def _share_compared_grid(self, context: Context) -> GridInputs | None:
        """The same with the committed unsteered head; None unless it was computed from these states."""
        states_VD, digest = self._layer_states(context.threads)
        receipt = context.run.receipts().get(self._point_shards[0].name)
        if receipt is None or receipt.inputs != digest:
            return None
        best = [part for part in receipt.parts if part.path.startswith("topk/")]
        inputs = head_inputs(self._weights(), states_VD, threads=context.threads)
        unsteered = Unsteered(
            key_ids_VK=list_matrix(read_parts(context.run, best), "key_ids"),
            ranks_RV=measures.row_ranks(inputs, self._sample_R, threads=context.threads),
        )
        return self._share_grid(context, unsteered)

    def _share_heat_maps(self, context: Context) -> HeatMaps:
        """The group under the unsteered head, its symmetric part, its skew part, and every alpha."""
        states_VD, digest = self._layer_states(context.threads)
        assert isinstance(self.spec.group, tuple), "lines were fitted to the model"
        found = [self.model.vocabulary.look_up(text) for text in self.spec.group]
        ids_G = np.array(list(dict.fromkeys(token for token in found if token is not None)), np.int32)
        grid = self._steerable(context.threads, self._weights())
        conditions = [
            Condition(name="base", alpha=None, weights=self._weights()),
            Condition(name="sym", alpha=None, weights=grid.symmetric()),
            Condition(name="skew", alpha=None, weights=grid.skew_symmetric()),
        ]
        for alpha in self.spec.alphas:
            weights = grid.at(Point(method="eigen", alpha=alpha)).weights
            conditions.append(Condition(name=f"alpha={alpha:.15g}", alpha=alpha, weights=weights))
        return HeatMaps(made_from=digest, states_GD=states_VD[ids_G], token_ids_G=ids_G, conditions=conditions)

    def _share_model(self, context: Context) -> InsideModel:
        """The model and its prompts; scores are attention scores inside, whatever the tables' form."""
        assert self._prompts is not None, "there are no shards without prompts"
        _, digest = self._layer_states(context.threads)
        weights = head_weights(self.model.checkpoint, self._head)
        inside = InsideModel(made_from=digest, model=self.model.weights(), prompts=self._prompts)
        if weights.rotary is None:
            self._inside = self._steerable(context.threads, weights)
            return inside
        spec = self.spec
        every_offset = EveryOffset(
            head=self._head,
            weights=weights,
            moment_DD=self._second_moment(context.threads),
            skew=spec.skew,
            eigenvalues=spec.eigenvalues,
            move=spec.move,
            seed=spec.seed,
        )
        return replace(inside, every_offset=every_offset)

    def _steered(self, shard: Shard) -> Steered:
        """The head at one point of the grid."""
        assert self._grid is not None, "the grid was shared first"
        return self._grid.at(self._points[shard.bounds["point"]])

    def _steered_inside(self, shard: Shard) -> Steered | Point:
        """The head at one point inside the model; the point alone where workers steer it at every distance."""
        point = self._points[shard.bounds["in_model"]]
        if self.model.checkpoint.architecture.rotary is not None:
            return point
        assert self._inside is not None, "the model was shared first"
        return self._inside.at(point)

    def _layer_states(self, threads: int) -> tuple[np.ndarray, str]:
        """Token states of the layer and their hash, computed once."""
        if self._states is None:
            layer = self._head.layer
            states = self._chosen.begin(self.model, layer=layer, threads=threads)
            states_VD = states.advance_to(layer)
            self._states = states_VD, hashlib.sha256(states_VD.data).hexdigest()
        return self._states

    def _weights(self) -> HeadWeights:
        """The head, turned by the offset once for all: what is steered is the form that is scored."""
        return turned(head_weights(self.model.checkpoint, self._head, scores=self.spec.scores), self._offset)

    def _second_moment(self, threads: int) -> np.ndarray:
        """Of the layer's normalised states, computed once."""
        if self._moment_DD is None:
            states_VD, _ = self._layer_states(threads)
            normalised_VD = normalise(states_VD, self.model.checkpoint.architecture.norm, threads=threads)
            self._moment_DD = second_moment(normalised_VD, threads=threads)
        return self._moment_DD

    def _steerable(self, threads: int, weights: HeadWeights) -> SteerableHead:
        return SteerableHead(
            self._head,
            weights,
            self._second_moment(threads),
            skew=self.spec.skew,
            eigenvalues=self.spec.eigenvalues,
            move=self.spec.move,
            seed=self.spec.seed,
        )

    def reduce(self, run: Run) -> Mapping[str, pa.Table]:
        """The tokens, the grid, the samples, the heat maps, and what the model did where it was run."""
        receipts = run.receipts()
        rows = [
            (point, receipts[shard.name].summary) for point, shard in zip(self._points, self._point_shards, strict=True)
        ]
        tables = {
            "tokens": tokens_table(self.model),
            "steering": steering_table(rows),
            "samples": samples_table(self._sample_R, self._categories),
            "heatmap": read_parts(run, receipts[self._heat_map_shard.name].parts),
        }
        if self._prompt_shards:
            tables["in_model"] = in_model_table(run, self._prompt_shards, self._points)
        return tables

    def answer(self, run: Run) -> RenderableType:
        """One row a point, how tokens stand to themselves there."""
        return dose_response(run)
