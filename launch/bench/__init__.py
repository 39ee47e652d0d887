"""Benchmarks beside named alternatives: `python -m launch.bench [--only=NAME,…]`."""
