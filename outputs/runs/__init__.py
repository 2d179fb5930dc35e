"""Runs: plan, journal, parts, manifest, and how they are read."""
