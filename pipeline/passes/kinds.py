"""Names of choices about passes, without the code that they choose: requests are checked before it is loaded."""

from __future__ import annotations

KINDS = ("mean", "zero", "resample")
"""What takes the place of an output (`--kind`).

- mean: its mean over all passages and positions, BOS's among them;
- zero: nothing;
- resample: the output of another passage at the same position.

Of the residual around an MLP the first two leave nothing, so that only the MLP's output goes on.
"""
