"""Names of choices about circuits, without the code that they choose: requests are checked before it is loaded."""

from __future__ import annotations

STATES = ("mlp", "mean", "bos")
"""Ways to take token states (`--states`)."""

SCORES = ("attention", "bilinear")
"""Forms of a score (`--scores`)."""

QK, OV, BOTH = "qk", "ov", "both"

CIRCUITS = (QK, OV, BOTH)
"""Circuits of a head (`--circuit`): whom it attends to, what it then writes, or both."""

FOLDED, RAW = "folded", "raw"

UNEMBEDDINGS = (FOLDED, RAW)
"""How what a head writes is read (`--unembed`): with the final norm's gain and both sides centred, or as it is."""

METHODS = ("eigen", "singular", "gradient")
"""Ways to steer (`--methods`)."""

SKEW = ("keep", "drop")
EIGENVALUES = ("all", "top")
MOVES = ("queries", "keys", "both")

PREFIX, CONTEXT, EMBEDDING = "prefix", "context", "embedding"

ALL_STATES = (*STATES, PREFIX, CONTEXT, EMBEDDING)
"""These, those behind tokens that a request chooses (a prefix, or windows of text that a token is likely behind), and
the embedding alone in front of every layer: what reaches a head from the token by the direct path."""

AUTO = "auto"
"""The kind that predicts the model's own scores best."""

HUB_SHARE = 0.05
"""Share of all rows from which a key that is their best is a hub, where nobody says another."""

WINDOWS, DRAWS = 512, 4
"""Of the states `context`: windows to choose from, and windows that a token is read behind."""
