"""Where mean queries and keys come from: names, without the code that takes them."""

from __future__ import annotations

WEIGHTS, TEXT, PREFIX = "weights", "text", "prefix"
"""Exactly from the weights, from windows of text, or from every token behind a prefix."""

CONTEXTUAL = "contextual"
"""The class of heads that gather a bag of tokens."""

SOURCES = (TEXT, PREFIX)
"""Those that can be asked for; the weights are taken wherever they suffice."""
