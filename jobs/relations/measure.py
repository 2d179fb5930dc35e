"""The share of a relation's pairs whose target is among the first, or the last, that attending to the source promotes.

Targets that are shuffled among the pairs of the same relation are what chance gives: they are as frequent and as often
promoted as the true ones.

Shapes: S source tokens, V vocabulary, H head dimension, P pairs of a relation, T shuffles, K tokens of either end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qkatlas.cluster.cpus import local_cpus
from qkatlas.jobs.inputs.chosen_states import ChosenStates
from qkatlas.jobs.inputs.heads import heads_within
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.relations.spec import Relations
from qkatlas.pipeline.circuit.kinds import FOLDED, RAW
from qkatlas.pipeline.circuit.ov import OvInputs, ov_inputs, ov_weights, unembedding_of
from qkatlas.pipeline.circuit.published_maps import published_states, published_values
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.scoring.engine import score_rows
from qkatlas.pipeline.scoring.rows import PreparedKeys
from qkatlas.pipeline.text import streams
from qkatlas.pipeline.text.relations import TokenRelation


@dataclass(frozen=True, kw_only=True)
class Score:
    """One head and relation.

    Attributes:
        head: the head.
        relation: its name.
        pairs: how many pairs.
        promoted: share of pairs with the target among the K that are promoted most.
        suppressed: the same of those that are suppressed most.
        chance: mean of `promoted` over shuffled targets.
        p: share of shuffles with at least this score in this head, the own one counted.
        p_any: the same of the best score in any head.
        p_suppressed: as p, of `suppressed`.
    """

    head: Head
    relation: str
    pairs: int
    promoted: float
    suppressed: float
    chance: float
    p: float
    p_any: float
    p_suppressed: float


def measure(spec: Relations, model: Model, relations: Sequence[TokenRelation]) -> list[Score]:
    """Score every head on every relation, in order of the heads.

    Args:
        spec: what is asked for.
        model: the model.
        relations: pairs of tokens.

    Raises:
        ValueError: if the model has no such layer, gives no logits, or does not have these states.
    """
    sources = sorted({token for relation in relations for token in relation.source_ids})
    place = {token: at for at, token in enumerate(sources)}
    shuffled = {
        relation.name: streams.SHUFFLES.generator(spec.seed, number).permuted(
            np.tile(np.arange(len(relation.source_ids)), (spec.shuffles, 1)), axis=1
        )
        for number, relation in enumerate(relations)
    }
    of: dict[tuple[Head, str], tuple[np.ndarray, np.ndarray]] = {}
    for head, ends in _ends(spec, model, sources):
        for relation in relations:
            rows = [place[token] for token in relation.source_ids]
            own = []
            for ids_SK in ends:
                hit_PP = (ids_SK[rows][:, :, None] == np.array(relation.target_ids)).any(axis=1)
                pairs = np.arange(len(rows))
                # The true targets first, then the shuffles.
                own.append(np.array([hit_PP[pairs, pairs].mean(), *_shuffled(hit_PP, shuffled[relation.name])]))
            of[head, relation.name] = own[0], own[1]
    found = []
    for relation in relations:
        here = {head: scores for (head, name), scores in of.items() if name == relation.name}
        best_T = np.max([promoted[1:] for promoted, _ in here.values()], axis=0)
        for head, (promoted, suppressed) in here.items():
            found.append(
                Score(
                    head=head,
                    relation=relation.name,
                    pairs=len(relation.source_ids),
                    promoted=float(promoted[0]),
                    suppressed=float(suppressed[0]),
                    chance=float(promoted[1:].mean()),
                    p=_share(promoted[1:], promoted[0]),
                    p_any=_share(best_T, promoted[0]),
                    p_suppressed=_share(suppressed[1:], suppressed[0]),
                )
            )
    return sorted(found, key=lambda score: score.head)


def _ends(
    spec: Relations, model: Model, sources: Sequence[int]
) -> Iterator[tuple[Head, tuple[np.ndarray, np.ndarray]]]:
    """The ids that attending to each source promotes and suppresses most, [S, K] each, head by head."""
    checkpoint, threads = model.checkpoint, local_cpus()
    a = checkpoint.architecture
    checkpoint.require_unembedding("give a checkpoint that has it")
    heads = heads_within(spec.layers, None, n_layers=a.n_layers, n_heads=a.n_heads)
    unembedding = unembedding_of(checkpoint, RAW if spec.as_published else FOLDED)
    states = None
    if not spec.as_published:
        chosen = ChosenStates.fitted(spec, model)
        states = chosen.begin(model, layer=heads[-1].layer, token_ids=sources, threads=threads)
    for head in heads:
        weights = ov_weights(checkpoint, head, unembedding)
        if states is None:
            x_SD = published_states(checkpoint, sources, head.layer, first_mlp=spec.first_mlp)
            made = ov_inputs(weights, x_SD, unembedding.rows_VD, threads=threads)
            inputs = OvInputs(published_values(weights, x_SD), made.outputs_VH)
        else:
            inputs = ov_inputs(weights, states.advance_to(head.layer), unembedding.rows_VD, threads=threads)
        outputs = PreparedKeys(inputs.outputs_VH)
        k = min(spec.k, a.vocab_size)
        top, bottom = (
            score_rows(inputs.values_VH, outputs, k=k, threads=threads, lowest=lowest).key_ids_RK
            for lowest in (False, True)
        )
        yield head, (top, bottom)


def _shuffled(hit_PP: np.ndarray, shuffles_TP: np.ndarray) -> np.ndarray:
    """Shares of pairs that hit with shuffled targets: [T]."""
    shares: np.ndarray = hit_PP[np.arange(len(hit_PP)), shuffles_TP].mean(axis=1)
    return shares


def _share(drawn_T: np.ndarray, own: float) -> float:
    return float((1 + (drawn_T >= own).sum()) / (1 + len(drawn_T)))
