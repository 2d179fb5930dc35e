"""Two more heads for a planted checkpoint: one that copies what it attends to, and one that suppresses it.

They are no part of the planted design, whose checkpoints stay what they are: they take the place of two random heads of
a checkpoint that is made already. Their values read the directions in which unembeddings differ most, and write them
back with the sign that is wanted; the gains of both norms on the way are taken out of the weights.

Shapes: V vocabulary, D model, H head dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.planted.checkpoint import Float32, PlantedCheckpoint

COPYING, SUPPRESSING = "copying", "suppressing"


def with_writers(planted: PlantedCheckpoint, *, copying: Head, suppressing: Head) -> PlantedCheckpoint:
    """The same checkpoint with both heads, named in its truth.

    Args:
        planted: the checkpoint.
        copying: a random head to replace; best in the last layer, where no other head reads what it writes.
        suppressing: another one.

    Raises:
        ValueError: if one of them is planted already.
    """
    roles = {copying: COPYING, suppressing: SUPPRESSING}
    for head in roles:
        if str(head) in planted.truth["heads"]:
            raise ValueError(f"head {head} is planted already, as {planted.truth['heads'][str(head)]}; choose another")
    tensors = dict(planted.tensors)
    for head, role in roles.items():
        tensors |= _head(tensors, head, planted.truth["shape"]["d_head"], 1.0 if role == COPYING else -1.0)
    heads = planted.truth["heads"] | {str(head): role for head, role in roles.items()}
    return replace(planted, tensors=tensors, truth=planted.truth | {"heads": heads})


def _head(tensors: Mapping[str, Float32], head: Head, width: int, sign: float) -> dict[str, Float32]:
    """The tensors of a block with one head replaced."""
    block = f"transformer.h.{head.layer}"
    unembedding_VD = tensors["transformer.wte.weight"].astype(np.float64)
    d_model = unembedding_VD.shape[1]
    centred_VD = unembedding_VD - unembedding_VD.mean(axis=0)
    _, directions_DD = np.linalg.eigh(centred_VD.T @ centred_VD)
    read_DH = directions_DD[:, -width:]
    gain_D, shift_D = (tensors[f"{block}.ln_1.{name}"].astype(np.float64) for name in ("weight", "bias"))
    own = slice(head.index * width, (head.index + 1) * width)
    of_values = slice(2 * d_model + own.start, 2 * d_model + own.stop)
    values_DH = read_DH / gain_D[:, None]
    names = ("attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight")
    changed = {name: tensors[f"{block}.{name}"].copy() for name in names}
    changed["attn.c_attn.weight"][:, of_values] = values_DH
    changed["attn.c_attn.bias"][of_values] = -shift_D @ values_DH
    changed["attn.c_proj.weight"][own] = sign * (read_DH / tensors["transformer.ln_f.weight"][:, None]).T
    return {f"{block}.{name}": tensor for name, tensor in changed.items()}
