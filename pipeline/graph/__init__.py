"""The graph of nearest keys, its communities and its map."""
