"""What an ablation runs the model on: passages, the shards they are cut into, and what is ablated in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qkatlas.jobs.worker.prompt_shards import PROMPTS_PER_SHARD
from qkatlas.outputs.runs.shard import Shard
from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.passes.ablation import Measurement
from qkatlas.pipeline.passes.components import CLEAN, Component
from qkatlas.pipeline.text.passages import Passages

UNCHANGED, ABLATED = "clean", "ablated"
"""Kinds of shards: the model as it is, and the components of one layer ablated one by one."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Passages, what is measured on them, and what is ablated meanwhile.

    Attributes:
        name: `prompts` or `text`.
        passages: the passages.
        measurement: what is measured.
        groups: components that are ablated, of the embeddings and of each layer.
    """

    name: str
    passages: Passages
    measurement: Measurement
    groups: tuple[tuple[Component, ...], ...]

    def unchanged(self) -> list[Shard]:
        """Ranges of the passages, with nothing ablated."""
        return [
            Shard(f"clean-{self.name}-{bounds['start']:06d}", f"{UNCHANGED}-{self.name}", bounds, UNCHANGED)
            for bounds in self._ranges()
        ]

    def ablated(self) -> list[Shard]:
        """The same ranges, each once for every group of components."""
        shards = []
        for bounds in self._ranges():
            for first, *_ in self.groups:
                layer = {} if first.layer is None else {"layer": first.layer}
                place = "embeddings" if first.layer is None else f"L{first.layer}"
                name = f"{place}-{self.name}-{bounds['start']:06d}"
                shards.append(Shard(name, f"{ABLATED}-{self.name}", {**bounds, **layer}, ABLATED))
        return shards

    def components(self, shard: Shard) -> tuple[Component, ...]:
        """What is ablated in one of its shards."""
        if shard.kind == UNCHANGED:
            return (CLEAN,)
        (group,) = [group for group in self.groups if group[0].layer == shard.bounds.get("layer")]
        return group

    def shards_of(self, group: Sequence[Component]) -> list[Shard]:
        """The shards with these components, in order of their passages."""
        shards = [*self.unchanged(), *self.ablated()]
        return [shard for shard in shards if self.components(shard) == tuple(group)]

    def products(self, shard: Shard, shape: Architecture) -> int:
        """Work of a shard in products as wide as a score's, weights and unembedding included."""
        components = self.components(shard)
        first = components[0].first_layer_after
        depth = shape.n_layers if self.measurement.loss else max(self.measurement.layers()) + 1
        a_layer = (4 * shape.d_model + 2 * shape.d_mlp) * shape.d_model
        unembedding = shape.vocab_size * shape.d_model if self.measurement.loss else 0
        prefix = a_layer * first
        if shard.kind == UNCHANGED:
            prefix, passes = 0, a_layer * depth + unembedding
        else:
            passes = len(components) * (a_layer * (depth - first) + unembedding)
        tokens: int = (shard.bounds["stop"] - shard.bounds["start"]) * self.passages.tokens_PT.shape[1]
        return tokens * (prefix + passes) // shape.d_head

    def _ranges(self) -> list[dict[str, int]]:
        count = len(self.passages.tokens_PT)
        return [
            {"start": start, "stop": min(start + PROMPTS_PER_SHARD, count), "part": start // PROMPTS_PER_SHARD}
            for start in range(0, count, PROMPTS_PER_SHARD)
        ]


def of_source(shard: Shard) -> dict[str, Any]:
    """Where the ablated components of a shard lie (none, embeddings, L0, L1, ...), and the part it writes."""
    layer = shard.bounds.get("layer")
    place = "none" if shard.kind == UNCHANGED else "embeddings" if layer is None else f"L{layer}"
    return {"source": place, "part": shard.bounds["part"]}


def of_corpus(shard: Shard) -> dict[str, Any]:
    """Whose passages a shard runs, and the part it writes."""
    return {"corpus": shard.group.partition("-")[2], "part": shard.bounds["part"]}
