"""A group of contextual heads for a planted checkpoint, and neurons that read known things of it.

They are no part of the planted design, whose checkpoints stay what they are. Ten directions that nothing else reads or
writes are taken from the filler. Along the first positions climb evenly, which makes kernels exponential; along the
second they keep their length. A key's own content and that of BOS have one each. Three hold codes of tokens, and the
heads of the group copy these to the last three, which neurons read. All rows of tokens get the same length, so that
what the first norm divides by is one number, and a bag of these heads is exact but for its denominators. Codes are
divided by the content factors that the heads have, so that extended embeddings are proportional to what is planted:

- the log ratio ln (a + 1/2) / (b + 1/2) of counts a, b of some tokens in two texts, read by one neuron, and by another
  of opposite output;
- two topics: sets of tokens, each along a direction of its own, both read by one neuron.

Shapes: V vocabulary, D model, T positions, H head dimension, J neurons, N filler, F free directions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.planted.checkpoint import Float32, PlantedCheckpoint
from qkatlas.pipeline.planted.positions import CLIMB, CONTEXTUAL
from qkatlas.pipeline.text import streams

Array = NDArray[np.float64]

HEADS, LENGTH, CONTENT = 3, 25.0, 0.9
"""Heads of the group, the positions over which their attention falls by a factor e, and the standard deviation over
tokens of what a key has of its own, in nats."""

TOPIC, CLASSED = 128, 256
"""Tokens of each topic, and tokens of the log ratio, at most."""

_CODE, _TOPIC_CODE = 0.06, 2.0
"""Size of codes in the units of the planted codes, and that of a topic relative to it."""

_WRITE, _READ = 0.3, 6.0
"""What a head of the group writes of a code, and what a neuron reads of the normalised stream."""

_OTHER, _WRITE_OTHER = 4, 0.1
"""Directions of the filler that a head copies into others, and how much: other neurons read more than codes."""

_BOS = -9.0
"""Content of BOS, in nats: it takes next to no attention."""

_LEAST_FILLER = 0.1
"""Square of the length of the filler that every token keeps."""

_EMBEDDING, _POSITION = "transformer.wte.weight", "transformer.wpe.weight"


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is planted for neurons to read.

    Attributes:
        code_V3: float64 [V, 3], of the log ratio and of the two topics.
        classed: tokens of the log ratio, and their counts in both texts.
        topics: tokens of each topic.
    """

    code_V3: Array
    classed: list[tuple[int, int, int]]
    topics: list[list[int]]


def with_neurons(planted: PlantedCheckpoint, *, content: float = CONTENT) -> PlantedCheckpoint:
    """The same checkpoint with a contextual group in layer 0 and neurons that read it, named in its truth.

    Args:
        planted: the checkpoint.
        content: standard deviation over tokens of what a key has of its own, in nats; 0 makes the bag exact.
    """
    shape, heads = planted.truth["shape"], dict(planted.truth["heads"])
    bos: int = planted.truth["bos_token_id"]
    rng = streams.PLANTED.generator(planted.truth["design"]["seed"], 50)
    tensors = dict(planted.tensors)
    free_FD, filler_ND = _free_directions(tensors, 10)
    tensors |= _without(tensors, free_FD)
    known = _known(planted.tokenizer_files, len(tensors[_EMBEDDING]), bos, rng)
    content_V = rng.uniform(-np.sqrt(3), np.sqrt(3), len(tensors[_EMBEDDING]))
    content_V[bos] = 0
    code_VF = np.zeros((len(content_V), len(free_FD)))
    code_VF[:, 2] = _CODE * content_V
    code_VF[bos, 3] = 1.0
    code_VF[:, 4:7] = _CODE * known.code_V3 / np.exp(content * content_V)[:, None]
    tensors[_EMBEDDING] = _of_one_length(tensors[_EMBEDDING].astype(np.float64), filler_ND, code_VF @ free_FD)
    climb_T = np.linspace(-CLIMB, CLIMB, shape["n_ctx"])
    moved_TD = climb_T[:, None] * free_FD[0] + np.sqrt(CLIMB**2 - climb_T**2)[:, None] * free_FD[1]
    tensors[_POSITION] = (tensors[_POSITION] + moved_TD).astype(np.float32)
    row_D = tensors[_EMBEDDING][0].astype(np.float64), tensors[_POSITION][0].astype(np.float64)
    sigma = float(np.sqrt(sum(np.square(row).sum() for row in row_D) / len(row_D[0])))
    group = [head for head in range(shape["n_head"]) if str(Head(0, head)) not in heads][:HEADS]
    for head in group:
        step = 2 * CLIMB / (shape["n_ctx"] - 1)
        tensors |= _head(
            tensors, head, shape["d_head"], free_FD, filler_ND, sigma=sigma, step=step, content=content, rng=rng
        )
        heads[str(Head(0, head))] = CONTEXTUAL
    neurons = _free_neurons(tensors, filler_ND, rng)
    tensors |= _readers(tensors, neurons, free_FD[7:])
    truth = {
        "group": [str(Head(0, head)) for head in group],
        "log_ratio": {"neuron": neurons[0], "opposite": neurons[1], "counts": [list(one) for one in known.classed]},
        "topics": {"neuron": neurons[2], "token_ids": known.topics},
    }
    return replace(planted, tensors=tensors, truth=planted.truth | {"heads": heads, "neurons": truth})


def _free_directions(tensors: Mapping[str, Float32], count: int) -> tuple[Array, Array]:
    """Directions of the filler in which tokens differ least [F, D], and the rest of the filler [N, D], orthonormal."""
    written_JD = tensors["transformer.h.1.mlp.c_proj.weight"].astype(np.float64)
    _, size, rows_DD = np.linalg.svd(written_JD, full_matrices=False)
    filler_ND = rows_DD[size > 1e-4 * size[0]]
    coordinates_VN = tensors[_EMBEDDING].astype(np.float64) @ filler_ND.T
    _, vectors = np.linalg.eigh(coordinates_VN.T @ coordinates_VN)
    return vectors[:, :count].T @ filler_ND, vectors[:, count:].T @ filler_ND


def _without(tensors: Mapping[str, Float32], free_FD: Array) -> dict[str, Float32]:
    """What writes to the residual stream, with nothing along some directions."""
    free = free_FD.astype(np.float32)
    names = [name for name in tensors if ".c_proj." in name or name in (_EMBEDDING, _POSITION)]
    return {name: (tensors[name] - (tensors[name] @ free.T) @ free).astype(np.float32) for name in names}


def _known(files: Mapping[str, str], size: int, bos: int, rng: np.random.Generator) -> Known:
    """Draw tokens and their codes: words behind a space, which spell themselves wherever they stand."""
    vocabulary: dict[str, int] = json.loads(files["tokenizer.json"])["model"]["vocab"]
    words = [token for text, token in vocabulary.items() if text[0] == "\u0120" and text[1:].isascii()]
    words = [token for token in words if token != bos]
    texts = {token: text for text, token in vocabulary.items()}
    common = [token for token in words if texts[token][1:].isalpha() and len(texts[token]) < 5]
    classed = rng.permutation([token for token in words if texts[token][1:].isalpha()]).tolist()
    # Short words are in every text, so that the neuron of the log ratio has something to read there.
    classed = list(dict.fromkeys([*common, *classed]))[:CLASSED]
    counts = rng.integers(0, 9, (len(classed), 2))
    counts[counts.sum(axis=1) == 0] = 1
    code_V3 = np.zeros((size, 3))
    ratio = np.log(counts[:, 0] + 0.5) - np.log(counts[:, 1] + 0.5)
    code_V3[classed, 0] = ratio
    left = rng.permutation([token for token in range(size) if token != bos and token not in set(classed)])
    topics = [sorted(left[:TOPIC].tolist()), sorted(left[TOPIC : 2 * TOPIC].tolist())]
    for number, tokens in enumerate(topics):
        code_V3[tokens, 1 + number] = _TOPIC_CODE
    listed = [(int(token), int(a), int(b)) for token, (a, b) in zip(classed, counts, strict=True)]
    return Known(code_V3=code_V3, classed=listed, topics=topics)


def _of_one_length(row_VD: Array, filler_ND: Array, code_VD: Array) -> Float32:
    """Rows with codes added and their filler stretched, so that all have one length."""
    filler_VD = (row_VD @ filler_ND.T) @ filler_ND
    kept_VD = row_VD - filler_VD + code_VD
    kept_V, own_V = np.square(kept_VD).sum(axis=1), np.square(filler_VD).sum(axis=1)
    wanted_V = kept_V.max() + _LEAST_FILLER - kept_V
    found: Float32 = (kept_VD + np.sqrt(wanted_V / own_V)[:, None] * filler_VD).astype(np.float32)
    return found


def _head(
    tensors: Mapping[str, Float32],
    head: int,
    width: int,
    free_FD: Array,
    filler_ND: Array,
    *,
    sigma: float,
    step: float,
    content: float,
    rng: np.random.Generator,
) -> dict[str, Float32]:
    """The tensors of layer 0's attention with one head replaced; on normalised states, then unfolded."""
    d_model = free_FD.shape[1]
    w_q, w_k, w_v = (np.zeros((d_model, width)) for _ in range(3))
    b_q, none = np.zeros(width), np.zeros(width)
    score = width**-0.5 / sigma
    b_q[:3] = 1 / (LENGTH * step * score), content / (_CODE * score), _BOS / score
    w_k[:, 0], w_k[:, 1], w_k[:, 2] = free_FD[0], free_FD[2], free_FD[3]
    w_v[:, :3] = free_FD[4:7].T
    w_v[:, 3 : 3 + _OTHER] = filler_ND[rng.permutation(len(filler_ND))[:_OTHER]].T
    gain_D, shift_D = (tensors[f"transformer.h.0.ln_1.{name}"].astype(np.float64) for name in ("weight", "bias"))
    changed = {
        f"transformer.h.0.attn.{name}": tensors[f"transformer.h.0.attn.{name}"].copy()
        for name in ("c_attn.weight", "c_attn.bias", "c_proj.weight")
    }
    for part, (weight, bias) in enumerate(((w_q, b_q), (w_k, none), (w_v, none))):
        own = slice(part * d_model + head * width, part * d_model + (head + 1) * width)
        unfolded = weight / gain_D[:, None]
        changed["transformer.h.0.attn.c_attn.weight"][:, own] = unfolded
        changed["transformer.h.0.attn.c_attn.bias"][own] = bias - shift_D @ unfolded
    rows = changed["transformer.h.0.attn.c_proj.weight"][head * width : (head + 1) * width]
    rows[:] = 0
    rows[:3] = _WRITE * free_FD[7:]
    rows[3 : 3 + _OTHER] = _WRITE_OTHER * filler_ND[rng.permutation(len(filler_ND))[:_OTHER]]
    return changed


def _free_neurons(tensors: Mapping[str, Float32], filler_ND: Array, rng: np.random.Generator) -> list[int]:
    """Three neurons of the first MLP that write into the filler alone, as those of no category do."""
    write_JD = tensors["transformer.h.0.mlp.c_proj.weight"].astype(np.float64)
    inside_J = np.square(write_JD @ filler_ND.T).sum(axis=1) / np.square(write_JD).sum(axis=1)
    return [int(neuron) for neuron in rng.choice(np.flatnonzero(inside_J > 0.99), 3, replace=False)]


def _readers(tensors: Mapping[str, Float32], neurons: Sequence[int], out_3D: Array) -> dict[str, Float32]:
    """The tensors of the first MLP with neurons that read the log ratio, it again, and both topics."""
    gain_D, shift_D = (tensors[f"transformer.h.0.ln_2.{name}"].astype(np.float64) for name in ("weight", "bias"))
    changed = {name: tensors[f"transformer.h.0.mlp.{name}"].copy() for name in ("c_fc.weight", "c_fc.bias")}
    for neuron, read_D in zip(neurons, (out_3D[0], out_3D[0], out_3D[1] + out_3D[2]), strict=True):
        unfolded_D = _READ * read_D / gain_D
        changed["c_fc.weight"][:, neuron] = unfolded_D
        changed["c_fc.bias"][neuron] = -shift_D @ unfolded_D
    write_JD = tensors["transformer.h.0.mlp.c_proj.weight"].copy()
    write_JD[neurons[1]] = -write_JD[neurons[0]]
    return {f"transformer.h.0.mlp.{name}": tensor for name, tensor in (changed | {"c_proj.weight": write_JD}).items()}
