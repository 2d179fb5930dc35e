"""The scoring engine: exact top-k and self statistics of whole rows of scores."""
