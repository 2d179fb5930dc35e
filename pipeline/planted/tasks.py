"""Heads for a planted checkpoint that solve tasks: induction with the token before, copying, and succession.

They are no part of the planted design, whose checkpoints stay what they are: one of its heads, induction, gets an
output that says what it looks at, and two others take the place of random heads. What they write is large beside the
stream, so that a task is solved by them or not at all.

- previous-token, as planted, hands each token's code to the next position;
- induction looks for that code at its own token's, or else at BOS, and writes the code of what it finds;
- copying looks at prepositions, which get a mark, or else at BOS, and writes the code of what it finds;
- succession looks at its own position and writes what follows a day of the week.

Shapes: V vocabulary, D model, H head dimension, N directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.planted.checkpoint import Float32, PlantedCheckpoint, PlantedDesign
from qkatlas.pipeline.planted.codes import BOS, POSITION, STREAM_NORM, TOKEN, Subspaces, split_space
from qkatlas.pipeline.planted.free import EMBEDDING, without_direction
from qkatlas.pipeline.planted.heads import PATTERN_SCORE
from qkatlas.pipeline.planted.vocabulary import PlantedVocabulary, build_vocabulary
from qkatlas.pipeline.tasks.kinds import BLOCK, INTEGERS, PREFIXES
from qkatlas.pipeline.tasks.kinds import PREPOSITIONS as PREPOSITION_TASK
from qkatlas.pipeline.tasks.words import LISTS, PREPOSITIONS
from qkatlas.pipeline.text import streams

Array = NDArray[np.float64]

COPYING, SUCCESSION, INDUCTION, PREVIOUS = "copying prepositions", "succession", "induction", "previous-token"

WRITE = 6.0
"""Length of what a head writes that found what it looks for; the residual stream has about 2."""

RESTING_SCORE = 13.0
"""What BOS gets from a query that finds nothing, nats; what is looked for gets PATTERN_SCORE."""

MARK = 1.0
"""Length of the marks of prepositions and days in their embeddings."""


@dataclass(frozen=True)
class _Circuit:
    """Queries, keys, values and output of one head, on normalised states."""

    w_q: Array  # [D, H]
    b_q: Array  # [H]
    w_k: Array  # [D, H]
    w_v: Array  # [D, H]
    w_o: Array  # [H, D]


def with_tasks(planted: PlantedCheckpoint) -> PlantedCheckpoint:
    """The same checkpoint with heads that solve tasks, named in its truth beside the tasks that they serve.

    Args:
        planted: the checkpoint.
    """
    design = PlantedDesign(**planted.truth["design"])
    shape, width = design.shape, planted.truth["shape"]["d_head"]
    vocabulary = build_vocabulary(
        size=shape.n_vocab, n_categories=shape.n_categories, rng=streams.PLANTED.generator(design.seed, 0)
    )
    spaces = split_space(
        d_model=shape.d_model, d_head=width, n_categories=shape.n_categories,
        n_category_dims=shape.n_category_dims, n_structured=width - max(2, width // 8),
        rng=streams.PLANTED.generator(design.seed, 1),
    )  # fmt: skip
    roles = dict(planted.truth["heads"])
    places = {role: Head.parse(name) for name, role in roles.items() if role in (INDUCTION, PREVIOUS)}
    last = shape.n_layer - 1
    free = [Head(last, head) for head in range(shape.n_head) if str(Head(last, head)) not in roles]
    places |= {COPYING: free[0], SUCCESSION: free[1]}

    days = _tokens(vocabulary, LISTS["days"])
    marks_ND = spaces.filler[: 1 + len(days)]
    tensors = dict(planted.tensors)
    for mark_D in marks_ND:
        tensors |= without_direction(tensors, mark_D)
    embedding_VD = tensors[EMBEDDING].astype(np.float64)
    embedding_VD[_tokens(vocabulary, PREPOSITIONS)] += MARK * marks_ND[0]
    embedding_VD[days] += MARK * marks_ND[1:]
    # A head at rest looks at BOS and has nothing to write there.
    embedding_VD[vocabulary.bos_token_id] -= embedding_VD[vocabulary.bos_token_id] @ spaces.token.T @ spaces.token
    tensors[EMBEDDING] = embedding_VD.astype(np.float32)

    gain_D = tensors["transformer.ln_f.weight"].astype(np.float64)
    follows_ND = embedding_VD[days[1:] + days[:1]]
    circuits = {
        INDUCTION: _finding(spaces.token, spaces.previous, spaces, width, gain_D),
        COPYING: _finding(None, marks_ND[:1], spaces, width, gain_D),
        SUCCESSION: _succession(marks_ND[1:], follows_ND, spaces, width, gain_D),
    }
    for role, circuit in circuits.items():
        tensors |= _placed(tensors, places[role], circuit)
        roles[str(places[role])] = role
    pair = [str(places[PREVIOUS]), str(places[INDUCTION])]
    tasks = dict.fromkeys((BLOCK, *PREFIXES, INTEGERS), pair)
    tasks |= {PREPOSITION_TASK: [str(places[COPYING])], "succession-days": [str(places[SUCCESSION])]}
    return replace(planted, tensors=tensors, truth=planted.truth | {"heads": roles, "tasks": tasks})


def _unit(norm: float, d_model: int) -> float:
    """Length of a part of some length after normalisation of the residual stream."""
    return norm * float(np.sqrt(d_model)) / STREAM_NORM


def _finding(queries_ND: Array | None, keys_ND: Array, spaces: Subspaces, width: int, gain_D: Array) -> _Circuit:
    """A head that looks for keys, or else at BOS, and writes the code of the token that it finds.

    Args:
        queries_ND: what queries read; None = all queries look for the same.
        keys_ND: what keys read.
        spaces: planted subspaces.
        width: H.
        gain_D: of the final norm, which is taken out of what is written.
    """
    count, d_model = keys_ND.shape
    w_q, w_k, b_q = np.zeros((d_model, width)), np.zeros((d_model, width)), np.zeros(width)
    w_k[:, :count] = keys_ND.T
    scale = np.sqrt(width)
    if queries_ND is None:
        b_q[0] = PATTERN_SCORE * scale / _unit(MARK, d_model)
    else:
        w_q[:, :count] = queries_ND.T * (PATTERN_SCORE * scale / _unit(TOKEN, d_model) ** 2)
    w_k[:, count] = spaces.bos[0]
    b_q[count] = RESTING_SCORE * scale / _unit(BOS, d_model)
    codes = len(spaces.token)
    w_v, w_o = np.zeros((d_model, width)), np.zeros((width, d_model))
    w_v[:, :codes] = spaces.token.T
    w_o[:codes] = spaces.token / gain_D * (WRITE / _unit(TOKEN, d_model))
    return _Circuit(w_q, b_q, w_k, w_v, w_o)


def _succession(marks_ND: Array, follows_ND: Array, spaces: Subspaces, width: int, gain_D: Array) -> _Circuit:
    """A head that looks at its own position and writes the unembedding of what follows a marked token."""
    count, d_model = spaces.position.shape
    w_q, w_k = np.zeros((d_model, width)), np.zeros((d_model, width))
    w_k[:, :count] = spaces.position.T
    w_q[:, :count] = spaces.position.T * (PATTERN_SCORE * np.sqrt(width) / _unit(POSITION, d_model) ** 2)
    words = len(marks_ND)
    w_v, w_o = np.zeros((d_model, width)), np.zeros((width, d_model))
    w_v[:, :words] = marks_ND.T
    unit_ND = follows_ND / np.linalg.norm(follows_ND, axis=1, keepdims=True)
    w_o[:words] = unit_ND / gain_D * (WRITE / _unit(MARK, d_model))
    return _Circuit(w_q, np.zeros(width), w_k, w_v, w_o)


def _placed(tensors: Mapping[str, Float32], head: Head, circuit: _Circuit) -> dict[str, Float32]:
    """The tensors of a block with one head replaced; the gain and bias of its norm are taken out of the weights."""
    block = f"transformer.h.{head.layer}"
    d_model, width = circuit.w_q.shape
    gain_D, shift_D = (tensors[f"{block}.ln_1.{name}"].astype(np.float64) for name in ("weight", "bias"))
    names = ("attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight")
    changed = {name: tensors[f"{block}.{name}"].copy() for name in names}
    parts = ((circuit.w_q, circuit.b_q), (circuit.w_k, np.zeros(width)), (circuit.w_v, np.zeros(width)))
    for part, (weight, bias) in enumerate(parts):
        own = slice(part * d_model + head.index * width, part * d_model + (head.index + 1) * width)
        unfolded = weight / gain_D[:, None]
        changed["attn.c_attn.weight"][:, own] = unfolded
        changed["attn.c_attn.bias"][own] = bias - shift_D @ unfolded
    changed["attn.c_proj.weight"][head.index * width : (head.index + 1) * width] = circuit.w_o
    return {f"{block}.{name}": tensor for name, tensor in changed.items()}


def _tokens(vocabulary: PlantedVocabulary, words: Sequence[str]) -> list[int]:
    """Ids of those of some words that are tokens with a space before them."""
    found = [vocabulary.find(f" {word}") for word in words]
    return [token for token in found if token is not None]
