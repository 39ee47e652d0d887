"""A trained run that answers requests: the engine, and HTTP and gRPC around it."""
