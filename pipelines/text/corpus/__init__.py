"""Documents of any kind to the passages that a text model reads, finds and quotes."""
