"""`submit similarity`."""
