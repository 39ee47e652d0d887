"""The beam step with the output head in it, on a TPU, in Pallas."""
