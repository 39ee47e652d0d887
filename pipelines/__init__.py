"""Raw logs to prepared records (Polars), prepared records to batches (Grain).

`pipelines.prepare.prepare` writes a prepared folder, `pipelines.prepared.Prepared` reads it, and
`pipelines.batches.train_batches` turns it into batches. No model and no JAX computation live here.
"""
