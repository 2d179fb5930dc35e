"""Maps what attention heads do over a whole vocabulary."""

__version__ = "0.1.0"
