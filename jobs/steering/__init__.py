"""`submit steering`."""
