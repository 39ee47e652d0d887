"""Grids of settings: `python -m launch.sweep --config=NAME --grid=… --workdir=W`."""
