"""Measurements; see `benchmarks/README.md`. Run as `python -m benchmarks.X`."""
