"""Passages of documents: found by their words, and asked whether they cover a question."""
