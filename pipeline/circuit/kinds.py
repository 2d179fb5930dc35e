"""Names of choices about circuits, without the code that they choose: requests are checked before it is loaded."""

from __future__ import annotations

STATES = ("mlp", "mean", "bos")
"""Ways to take token states (`--states`)."""

SCORES = ("attention", "bilinear")
"""Forms of a score (`--scores`)."""

METHODS = ("eigen", "singular", "gradient")
"""Ways to steer (`--methods`)."""

SKEW = ("keep", "drop")
EIGENVALUES = ("all", "top")
MOVES = ("queries", "keys", "both")

PREFIX = "prefix"
"""States behind a prefix of any tokens."""
