"""Preparation past one machine, on Spark (extra `spark`): the engine, and what its tasks do."""
