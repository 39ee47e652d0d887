"""The beam step on a GPU, in Triton."""
