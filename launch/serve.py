"""Serves a trained run over HTTP and gRPC, with a page that shows what the model thinks.

`python -m launch.serve --config=quickstart --workdir=quickstart` answers at
`http://127.0.0.1:8000` until SIGTERM or Ctrl-C:

    curl -s localhost:8000/v1/recommend -d '{"history": ["i00001", "i00002"], "num": 3}'

Standard output has a line of JSON once it is ready, standard error a line of JSON a request.
docs/serving.md tells the rest.
"""

from __future__ import annotations

import json
import os
import sys

from absl import flags

from launch.wiring import listening, program, serving
from launch.wiring.compiled import keep_programs

_COMPILED = ".compiled"
_SWITCH_S = 0.0005
_ADMIN_HOST = flags.DEFINE_string(
    "admin_host",
    "127.0.0.1",
    "Address that admins come to; one that others reach needs MINIREC_ADMIN_TOKEN in the "
    "environment.",
)
_ADMIN_PORT = flags.DEFINE_integer(
    "admin_port", 8002, "Port of the admins' HTTP; 0: none.", lower_bound=0
)
_MAX_WAIT_MS = flags.DEFINE_float(
    "max_wait_ms", 0.0, "How long a request waits for company; 0: it does not.", lower_bound=0.0
)
_CACHE_MB = flags.DEFINE_integer(
    "cache_mb", 64, "Memory for what histories were read into.", lower_bound=0
)
_LOG_HISTORIES = flags.DEFINE_bool(
    "log_histories", False, "Let these lines show what was recommended."
)


def main(job: program.Job) -> None:
    """Serves the job's run."""
    try:
        from minirec.serving import server
        from minirec.serving.engine import Engine
        from minirec.serving.metrics import Metrics
        from minirec.serving.service import Service
        from minirec.serving.versions import Versions
    except ImportError as error:
        raise program.UsageError(
            f"{error.name} is missing: serving needs pip install 'minirec[serve]'"
        ) from error
    keep_programs(job.workdir / _COMPILED)
    try:
        from uvloop import run
    except ImportError:  # Where it is not to be had, such as on Windows.
        from asyncio import run
    addresses = server.Addresses(
        listening.HOST.value,
        listening.HTTP_PORT.value,
        listening.GRPC_PORT.value,
        _ADMIN_HOST.value,
        _ADMIN_PORT.value,
        os.environ.get("MINIREC_ADMIN_TOKEN") or None,
    )
    listening.log_to_stderr()

    def load() -> Service:
        started = serving.load(job, cache_bytes=_CACHE_MB.value * 2**20, like=True)
        builder = serving.RunBuilder(job, started)
        folder = job.run / serving.FOLDER
        versions = Versions(folder, builder, started.served, started.listing)
        metrics = Metrics(started.recommender.tile)
        engine = Engine(
            started.recommender,
            versions.served,
            exclude_seen=job.config.search.exclude_seen,
            stock=versions.stock,
            max_queue=listening.MAX_QUEUE.value,
            max_wait_s=_MAX_WAIT_MS.value / 1e3,
            deadline_s=listening.DEADLINE_MS.value / 1e3,
            observer=metrics,
        )
        metrics.watch(engine)
        versions.serve(engine)
        histories = serving.user_histories(started.run)
        return Service(engine, versions, metrics, histories, _LOG_HISTORIES.value)

    def ready(service: Service) -> None:
        at = {
            "http": (addresses.host, addresses.http_port),
            "grpc": (addresses.host, addresses.grpc_port),
            "admin": (addresses.admin_host, addresses.admin_port),
        }
        line = {"ready": True, "model": service.engine.served.model_version}
        line |= {name: f"{host}:{port}" for name, (host, port) in at.items() if port}
        print(json.dumps(line), flush=True)

    # Who answers and who searches take turns: at the usual 5 ms each answer would wait for several.
    sys.setswitchinterval(_SWITCH_S)
    run(server.serve(load, addresses, drain_s=listening.DRAIN_S.value, on_ready=ready))


if __name__ == "__main__":
    program.run(main)
