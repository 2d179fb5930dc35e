"""The search: all heads of a model over a sample of keys, then the first ones over the whole vocabulary.

The heads are judged layer by layer, from the states of the asked words, of random words in their place, and of a
background of keys. Only the first heads are worth the states of all tokens, which take seconds a layer.

Shapes: S states, V vocabulary, P pairs, T random tuples, N heads of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qkatlas.cluster.cpus import local_cpus
from qkatlas.jobs.find.pairs import AskedPair, asked_pairs, look_alike_frequencies, random_tuples
from qkatlas.jobs.find.spec import Find
from qkatlas.jobs.inputs.chosen_states import ChosenStates
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.offset import fitted_offset
from qkatlas.pipeline.circuit.pairs import Margins, PairRows, margins
from qkatlas.pipeline.circuit.projection import head_inputs, head_weights, layer_weights
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.rotary import Offsets
from qkatlas.pipeline.text import streams


@dataclass(frozen=True, kw_only=True)
class Found:
    """One head.

    Attributes:
        head: its name.
        margin: z of the worst pair, turned round where it is not wanted.
        worst: that pair.
        percentile: of its key within the query's row, 0 to 1.
        keys: keys that row was judged by.
        p: share of random tuples with at least this margin in this head, the own one counted.
        p_any: the same of the best margin in any head: what is left once all heads have been tried.
        z: of each pair.
        percentiles: of each pair.
    """

    head: Head
    margin: float
    worst: AskedPair
    percentile: float
    keys: int
    p: float
    p_any: float
    z: tuple[float, ...]
    percentiles: tuple[float, ...]


def search(spec: Find, model: Model) -> tuple[list[AskedPair], list[Found]]:
    """Judge every head.

    Args:
        spec: what is asked for.
        model: the model.

    Returns:
        The pairs, and all heads by descending margin; the first `spec.exact` of them have been judged by the whole
        vocabulary, and keep their place.

    Raises:
        ValueError: if a word is no single token, or the model does not have these states or this offset.
    """
    a, vocabulary = model.checkpoint.architecture, model.vocabulary
    vocabulary.require_readable()
    pairs = asked_pairs(spec.attends or (), spec.avoids or (), vocabulary)
    asked = sorted({token for pair in pairs for token in (pair.query_id, pair.key_id)})
    if spec.frequencies is not None:
        spec.frequencies.require_inside(a.vocab_size)
    offset = fitted_offset(spec.offset, a, range(a.n_layers))
    states = ChosenStates.fitted(spec, model)
    others = look_alike_frequencies(asked, vocabulary, spec.frequencies)
    tuples_TP2 = random_tuples(pairs, others, draws=spec.tuples, seed=spec.seed)
    background = _background(a.vocab_size, spec)
    tokens_S = np.unique(np.concatenate([background, np.array(asked), *others.values()]))
    rows = _rows(pairs, tuples_TP2, background, tokens_S)
    layers = _judge(model, states, offset, rows, tokens_S, last=a.n_layers - 1)
    best_T = np.max([layer.random_NT.max(axis=0) for layer in layers], axis=0)
    found = [
        _found(Head(number, index), pairs, rows, layer, index, best_T, len(background))
        for number, layer in enumerate(layers)
        for index in range(a.n_heads)
    ]
    found.sort(key=lambda one: (-one.margin, one.head))
    if len(background) < a.vocab_size and spec.exact:
        first = found[: spec.exact]
        found[: spec.exact] = _exactly(model, states, offset, pairs, first)
    return pairs, found


def _background(vocab_size: int, spec: Find) -> np.ndarray:
    if vocab_size <= spec.sample:
        return np.arange(vocab_size)
    rng = streams.BACKGROUND_KEYS.generator(spec.seed)
    return np.sort(rng.choice(vocab_size, spec.sample, replace=False))


def _rows(pairs: Sequence[AskedPair], tuples_TP2: np.ndarray, background: np.ndarray, tokens_S: np.ndarray) -> PairRows:
    pairs_P2 = np.array([(pair.query_id, pair.key_id) for pair in pairs])
    return PairRows(
        background_B=np.searchsorted(tokens_S, background),
        pairs_P2=np.searchsorted(tokens_S, pairs_P2),
        random_TP2=np.searchsorted(tokens_S, tuples_TP2),
        wanted_P=np.array([1.0 if pair.wanted else -1.0 for pair in pairs]),
    )


def _judge(
    model: Model, chosen: ChosenStates, offset: Offsets | None, rows: PairRows, tokens_S: np.ndarray, *, last: int
) -> list[Margins]:
    """Margins of all heads, layer by layer."""
    threads = local_cpus()
    states = chosen.begin(model, layer=last, token_ids=tokens_S.tolist(), threads=threads)
    found = []
    for layer in range(last + 1):
        inputs = head_inputs(
            layer_weights(model.checkpoint, layer), states.advance_to(layer), offset=offset, threads=threads
        )
        found.append(margins(inputs, rows, model.checkpoint.architecture.n_heads))
    return found


def _exactly(
    model: Model, chosen: ChosenStates, offset: Offsets | None, pairs: Sequence[AskedPair], first: Sequence[Found]
) -> list[Found]:
    """The same heads, their rows judged by the whole vocabulary; p-values stay those of the sample."""
    size, threads = model.checkpoint.architecture.vocab_size, local_cpus()
    pairs_P2 = np.array([(pair.query_id, pair.key_id) for pair in pairs])
    rows = _rows(pairs, pairs_P2[None], np.arange(size), np.arange(size))
    states = chosen.begin(model, layer=max(one.head.layer for one in first), threads=threads)
    exact: dict[Head, Found] = {}
    for one in sorted(first, key=lambda one: one.head):
        layer = one.head.layer
        weights = head_weights(model.checkpoint, one.head)
        here = margins(head_inputs(weights, states.advance_to(layer), offset=offset, threads=threads), rows, 1)
        judged = _found(one.head, pairs, rows, here, 0, here.random_NT[0], size)
        exact[one.head] = replace(judged, p=one.p, p_any=one.p_any)
    return [exact[one.head] for one in first]


def _found(
    head: Head,
    pairs: Sequence[AskedPair],
    rows: PairRows,
    layer: Margins,
    index: int,
    best_T: np.ndarray,
    keys: int,
) -> Found:
    margin = float(layer.margin_N[index])
    worst = int((rows.wanted_P * layer.z_NP[index]).argmin())
    drawn_T = layer.random_NT[index]
    return Found(
        head=head,
        margin=margin,
        worst=pairs[worst],
        percentile=float(layer.percentile_NP[index, worst]),
        keys=keys,
        p=float((1 + (drawn_T >= margin).sum()) / (1 + len(drawn_T))),
        p_any=float((1 + (best_T >= margin).sum()) / (1 + len(best_T))),
        z=tuple(layer.z_NP[index].tolist()),
        percentiles=tuple(layer.percentile_NP[index].tolist()),
    )
