"""Benchmarks of this service's own parts; run by hand, imported by nothing."""
