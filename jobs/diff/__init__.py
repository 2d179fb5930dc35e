"""`submit diff`: two finished runs, head by head."""
