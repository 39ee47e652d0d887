"""Ports of this machine that nobody listens at."""

import socket


def free_port():
    """Returns a port that was free just now."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]
