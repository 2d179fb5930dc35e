"""`submit communities`."""
