"""Names of what a dictionary of features reads, how it encodes, and by which convention it was trained."""

from __future__ import annotations

Z, RESIDUAL = "z", "residual"
"""What a dictionary reads: the mixed values of a layer's heads side by side, or the residual stream in front of one."""

STANDARD, TOPK, JUMPRELU, GATED = "standard", "topk", "jumprelu", "gated"
ARCHITECTURES = (STANDARD, TOPK, JUMPRELU, GATED)

NONE, AVERAGE, CONSTANT_NORM, LAYER_NORM = "none", "expected_average_only_in", "constant_norm_rescale", "layer_norm"
NORMALISATIONS = (NONE, AVERAGE, CONSTANT_NORM, LAYER_NORM)

AUTO, FOLDED, RAW = "auto", "folded", "raw"
CONVENTIONS = (AUTO, FOLDED, RAW)
"""Which activations a dictionary was trained on: those of a model whose value biases are folded away (or whose residual
stream is centred), those of the model as it is, or whichever of both it reconstructs better."""
