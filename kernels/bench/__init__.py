"""Microbenchmarks of the kernels; each yields JSON-able rows."""
