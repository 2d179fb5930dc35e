"""`submit full-vocab`."""
