"""`submit reproduce`."""
