"""Rows of a log to prepared records: order, k-core, splits, dense ids."""
