"""Answers to questions from what was read: passages found, a model's words checked against them."""
