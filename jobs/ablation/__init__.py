"""`submit ablation`."""
