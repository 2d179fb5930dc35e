"""`submit head-scan`."""
