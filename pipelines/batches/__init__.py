"""Prepared records to Grain batches, for training and for evaluation."""
