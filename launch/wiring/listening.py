"""What every server is told on its command line: where it listens, and how long it waits."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from absl import flags

HOST = flags.DEFINE_string("host", "127.0.0.1", "Address that clients come to.")
HTTP_PORT = flags.DEFINE_integer("http_port", 8000, "Port of HTTP; 0: none.", lower_bound=0)
GRPC_PORT = flags.DEFINE_integer("grpc_port", 8001, "Port of gRPC; 0: none.", lower_bound=0)
DEADLINE_MS = flags.DEFINE_float(
    "deadline_ms", 1000.0, "Time for an answer where a request does not say.", lower_bound=1.0
)
MAX_QUEUE = flags.DEFINE_integer("max_queue", 1024, "Requests that may wait.", lower_bound=1)
DRAIN_S = flags.DEFINE_float(
    "drain_s", 30.0, "Time that those get who are taken on when the server ends.", lower_bound=0.0
)
LOG_REQUESTS = flags.DEFINE_bool("log_requests", True, "A line on standard error a request.")

for _flag in (HOST, HTTP_PORT, GRPC_PORT, DEADLINE_MS, MAX_QUEUE, DRAIN_S, LOG_REQUESTS):
    # So that the help of a server shows them among its own.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[_flag.name])


def log_to_stderr(names: Sequence[str] = ("minirec.serving",)) -> None:
    """Writes what servers log to standard error, and a line a request where that is asked for."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in names:
        log = logging.getLogger(name)
        log.addHandler(handler)
        log.propagate = False
        log.setLevel(logging.WARNING)
    logging.getLogger("minirec.serving.requests").setLevel(
        logging.INFO if LOG_REQUESTS.value else logging.WARNING
    )
