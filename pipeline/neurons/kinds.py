"""Sizes and names of what is said of neurons, without the code that measures it."""

from __future__ import annotations

LISTED = 32
"""Tokens that a neuron's lists name at either end."""

STRONGEST = 256
"""Tokens that a neuron's latents are found among: those whose contributions are furthest from the mean one."""

LEIDEN, ICA = "leiden", "ica"
"""How latents are found: communities of a neuron's strongest tokens, or independent components of a layer."""

METHODS = (LEIDEN, ICA)

AUTO = "auto"
"""`--group`: the heads that a positions run calls contextual."""
