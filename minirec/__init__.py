"""minirec: a generative recommender in JAX (semantic IDs, an NNX decoder, constrained search)."""

__version__ = "0.1.0"
