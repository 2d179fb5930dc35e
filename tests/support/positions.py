"""Heads of random numbers, for what is said of positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from qkatlas.pipeline.circuit.projection import HeadWeights
from qkatlas.pipeline.models.architecture import Architecture, Norm
from qkatlas.pipeline.models.rotary import Rotary
from qkatlas.pipeline.positions.embedded import Embedded
from qkatlas.pipeline.positions.windows import Windows

WIDTH, MODEL, LENGTH, TOKENS = 8, 20, 24, 37
NORM = Norm(kind="layer", eps=1e-5)


def architecture(rotary: Rotary | None = None) -> Architecture:
    """One layer of one head."""
    return Architecture(
        family="gpt2" if rotary is None else "llama", n_layers=1, n_heads=1, n_kv_heads=1, d_model=MODEL, d_head=WIDTH,
        d_mlp=4, vocab_size=TOKENS, n_ctx=LENGTH, bos_token_id=0, tied=True, norm=NORM, activation="gelu",
        score_width=WIDTH, rotary=rotary,
    )  # fmt: skip


def head(rng: np.random.Generator, rotary: Rotary | None = None) -> HeadWeights:
    """A head of random weights, gain, bias and biases."""
    return HeadWeights(
        gain_D=rng.uniform(0.4, 1.6, MODEL), shift_D=0.2 * rng.standard_normal(MODEL),
        w_qk_D2H=0.4 * rng.standard_normal((MODEL, 2 * WIDTH)), b_qk_2H=0.3 * rng.standard_normal(2 * WIDTH),
        eps=NORM.eps, scale=WIDTH**-0.5, rotary=rotary, d_head=WIDTH,
    )  # fmt: skip


def rows(rng: np.random.Generator) -> Embedded:
    """Random rows of tokens and of positions."""
    token_VD, position_TD = (rng.standard_normal((n, MODEL)).astype(np.float32) for n in (TOKENS, LENGTH))
    return Embedded(token_VD=token_VD, position_TD=0.5 * position_TD, norm=NORM)


def windows(rng: np.random.Generator, count: int = 6, **given: Any) -> Windows:
    """Windows of random queries and keys."""
    tokens_BT = rng.integers(1, TOKENS, (count, LENGTH))
    tokens_BT[:, 0] = 0
    query_BTH, key_BTH = (torch.from_numpy(rng.standard_normal((count, LENGTH, WIDTH))) for _ in range(2))
    return Windows(**{"tokens_BT": tokens_BT, "query_BTH": query_BTH, "key_BTH": key_BTH, **given})
