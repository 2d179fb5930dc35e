"""More heads for a planted checkpoint, whose kernels are known: positional, contextual and detokenisation heads.

They are no part of the planted design, whose checkpoints stay what they are: they take the place of random heads of a
checkpoint that is made already. Positions get one direction more, along which they climb evenly from first to last.
Nothing else reads or writes it. A head whose keys read it, and whose query is the same everywhere, prefers each key to
the one before by the same step: its kernel is exponential.

Shapes: V vocabulary, D model, T positions, H head dimension, J neurons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.planted.checkpoint import Float32, PlantedCheckpoint
from qkatlas.pipeline.planted.free import without_direction
from qkatlas.pipeline.text import streams

Array = NDArray[np.float64]

POSITIONAL, CONTEXTUAL, DETOKENISATION = "positional", "contextual", "detokenisation"

CLIMB = 0.4
"""How far the positions' direction goes to either side, in the units of the planted codes."""

_EMBEDDING, _POSITION = "transformer.wte.weight", "transformer.wpe.weight"


@dataclass(frozen=True)
class Kernel:
    """A planted kernel.

    Attributes:
        length: positions over which attention falls by a factor e.
        of_key: standard deviation over tokens of what a key has of its own, nats.
        of_pair: the same of what a query and a key have together.
    """

    length: float
    of_key: float
    of_pair: float


KERNELS: Mapping[str, Kernel] = {
    POSITIONAL: Kernel(length=12.0, of_key=0.1, of_pair=0.0),
    CONTEXTUAL: Kernel(length=25.0, of_key=0.7, of_pair=0.1),
    DETOKENISATION: Kernel(length=3.0, of_key=0.3, of_pair=1.5),
}
"""What is planted, by role."""


def with_positions(planted: PlantedCheckpoint, *, layers: tuple[int, ...] = (0, 2)) -> PlantedCheckpoint:
    """The same checkpoint with one head of each role in some layers, named in its truth.

    Args:
        planted: the checkpoint.
        layers: where they stand, in place of the first random heads.
    """
    shape, truth = planted.truth["shape"], dict(planted.truth["heads"])
    tensors = dict(planted.tensors)
    climb_D, filler_ND = _free_direction(tensors)
    tensors |= without_direction(tensors, climb_D)
    at_T = np.linspace(-CLIMB, CLIMB, shape["n_ctx"])
    tensors[_POSITION] = (tensors[_POSITION] + at_T[:, None] * climb_D).astype(np.float32)
    for layer in layers:
        free = [head for head in range(shape["n_head"]) if str(Head(layer, head)) not in truth]
        for head, role in zip(free, KERNELS, strict=False):
            rng = streams.PLANTED.generator(planted.truth["design"]["seed"], 100 + layer * 1000 + head)
            place = Head(layer, head)
            tensors |= _head(tensors, place, KERNELS[role], climb_D, filler_ND, shape["d_head"], rng)
            truth[str(place)] = role
    return replace(planted, tensors=tensors, truth=planted.truth | {"heads": truth})


def with_shuffled_positions(planted: PlantedCheckpoint, seed: int) -> PlantedCheckpoint:
    """The same checkpoint with its positions in another order, so that no head keeps a kernel.

    Args:
        planted: the checkpoint.
        seed: of the order.
    """
    position_TD = planted.tensors[_POSITION]
    order = streams.PLANTED.generator(seed, 99).permutation(len(position_TD))
    return replace(planted, tensors={**planted.tensors, _POSITION: position_TD[order]})


def _free_direction(tensors: Mapping[str, Float32]) -> tuple[Array, Array]:
    """The direction of the filler in which tokens differ least, and the rest of the filler, both orthonormal."""
    written_JD = tensors["transformer.h.1.mlp.c_proj.weight"].astype(np.float64)
    _, size, rows_DD = np.linalg.svd(written_JD, full_matrices=False)
    filler_ND = rows_DD[size > 1e-4 * size[0]]
    coordinates_VN = tensors[_EMBEDDING].astype(np.float64) @ filler_ND.T
    _, vectors = np.linalg.eigh(coordinates_VN.T @ coordinates_VN)
    return vectors[:, 0] @ filler_ND, vectors[:, 1:].T @ filler_ND


def _head(
    tensors: Mapping[str, Float32],
    head: Head,
    kernel: Kernel,
    climb_D: Array,
    filler_ND: Array,
    width: int,
    rng: np.random.Generator,
) -> dict[str, Float32]:
    """The tensors of a block with the queries and keys of one head replaced; on normalised states, then unfolded."""
    embedding_VD = tensors[_EMBEDDING].astype(np.float64)
    position_TD = tensors[_POSITION].astype(np.float64)
    d_model = embedding_VD.shape[1]
    norm = np.sqrt(np.square(embedding_VD).sum(1).mean() + np.square(position_TD).sum(1).mean())
    unit_VD = embedding_VD * np.sqrt(d_model) / norm
    scale = width**-0.5
    step = 2 * CLIMB / (len(position_TD) - 1) * np.sqrt(d_model) / norm
    w_q, w_k = np.zeros((d_model, width)), np.zeros((d_model, width))
    b_q, b_k = np.zeros(width), np.zeros(width)
    b_q[0], w_k[:, 0] = 1 / (kernel.length * step * scale), climb_D
    of_key_V = unit_VD @ filler_ND[-1]
    b_q[1], w_k[:, 1] = kernel.of_key / (scale * of_key_V.std()), filler_ND[-1]
    count = min(width - 2, len(filler_ND) - 1)
    pair_ND = filler_ND[-1 - count : -1]
    w_q[:, 2 : 2 + count] = pair_ND[rng.permutation(count)].T
    w_k[:, 2 : 2 + count] = pair_ND.T
    pair_VV = (unit_VD[:512] @ w_q[:, 2:]) @ (unit_VD[:512] @ w_k[:, 2:]).T
    w_q[:, 2:] *= kernel.of_pair / (scale * pair_VV.std())
    block = f"transformer.h.{head.layer}"
    gain_D, shift_D = (tensors[f"{block}.ln_1.{name}"].astype(np.float64) for name in ("weight", "bias"))
    changed = {name: tensors[f"{block}.attn.c_attn.{name}"].copy() for name in ("weight", "bias")}
    for part, (weight, bias) in enumerate(((w_q, b_q), (w_k, b_k))):
        own = slice(part * d_model + head.index * width, part * d_model + (head.index + 1) * width)
        unfolded = weight / gain_D[:, None]
        changed["weight"][:, own] = unfolded
        changed["bias"][own] = bias - shift_D @ unfolded
    return {f"{block}.attn.c_attn.{name}": tensor for name, tensor in changed.items()}
