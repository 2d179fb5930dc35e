"""A planted checkpoint with two more heads: one that copies what it attends to, and one that suppresses it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

COPYING, SUPPRESSING = (2, 3), (2, 5)
"""Layer and place of both: random heads of planted designs of three layers, in the last, which nobody reads."""


def plant_writers(planted: Path, folder: Path) -> Path:
    """Write a copy of a planted checkpoint with both heads; returns its folder.

    Their values read the directions in which unembeddings differ most, and write them back, with the sign that is
    wanted; the gains of both norms on the way are taken out of the weights.
    """
    shutil.copytree(planted, folder, dirs_exist_ok=True)
    tensors = load_file(folder / "model.safetensors")
    unembedding_VD = tensors["transformer.wte.weight"].astype(np.float64)
    d_model = unembedding_VD.shape[1]
    centred_VD = unembedding_VD - unembedding_VD.mean(axis=0)
    width = d_model // 8
    _, _, directions_DD = np.linalg.svd(centred_VD, full_matrices=False)
    read_DH = directions_DD[:width].T
    final_D = tensors["transformer.ln_f.weight"].astype(np.float64)
    for (layer, head), sign in ((COPYING, 1.0), (SUPPRESSING, -1.0)):
        block = f"transformer.h.{layer}"
        gain_D, shift_D = (tensors[f"{block}.ln_1.{name}"].astype(np.float64) for name in ("weight", "bias"))
        own = slice(head * width, (head + 1) * width)
        of_values = slice(2 * d_model + own.start, 2 * d_model + own.stop)
        values_DH = read_DH / gain_D[:, None]
        tensors[f"{block}.attn.c_attn.weight"][:, of_values] = values_DH
        tensors[f"{block}.attn.c_attn.bias"][of_values] = -shift_D @ values_DH
        tensors[f"{block}.attn.c_proj.weight"][own] = sign * (read_DH / final_D[:, None]).T
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
