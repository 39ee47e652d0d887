"""A feed over HTTP and gRPC: its services, their clients, and a page."""
