"""Serves a shop's feed: trains one where there is none, then answers with live events.

`python -m launch.feed --config=feed_quickstart --workdir=W` prepares and trains on a generated shop
and answers at `http://127.0.0.1:8000` until SIGTERM or Ctrl-C:

    curl -s localhost:8000/v1/feed -d '{"user": "u000001", "num": 5, "explain": true}'
    curl -s localhost:8000/v1/events \\
        -d '{"events": [{"user": "u000001", "action": "addtocart", "item": "i00007"}]}'

Feed, ranker, towers and event store share one process; `--role=` starts one of them alone, and
`--ranker_at`, `--retrieval_at` and `--store_at` say where the others are. Standard output has a
line of JSON once it is ready. docs/feed.md tells the rest.
"""

from __future__ import annotations

import json
from typing import Any

from absl import flags

from launch import prepare, train
from launch.wiring import feed_server, listening, program
from launch.wiring.compiled import keep_programs

_COMPILED = ".compiled"
_ROLE = flags.DEFINE_enum("role", "all", list(feed_server.ROLES), "What this process serves.")
_RANKER_AT = flags.DEFINE_list("ranker_at", [], "HOST:PORT of rankers, with commas.")
_RETRIEVAL_AT = flags.DEFINE_list("retrieval_at", [], "HOST:PORT of towers, with commas.")
_STORE_AT = flags.DEFINE_list("store_at", [], "HOST:PORT of event stores, with commas.")
_KAFKA = flags.DEFINE_string(
    "kafka", "", "Addresses of Kafka's brokers that feed the event store; none: its own log."
)
_GROUP = flags.DEFINE_string("group", "minirec", "Kafka's consumer group of the event store.")
_WORKERS = flags.DEFINE_integer("workers", 4, "Threads that answer.", lower_bound=1)


def trained(job: program.Job) -> bool:
    """Prepares and trains what is missing, and returns whether there is a model to serve."""
    if not (job.prepared / "manifest.json").is_file():
        prepare.main(job)
    feed_server.check(job)
    return not train.run_training(job).interrupted


def main(job: program.Job) -> None:
    """Serves the job's feed."""
    try:
        from minirec.serving import server
        from minirec.serving.feed.http import application
    except ImportError as error:
        raise program.UsageError(
            f"{error.name} is missing: a feed needs pip install 'minirec[feed]'"
        ) from error
    if job.config.get("family") != "feed":
        raise program.UsageError(
            f"config.family={job.config.get('family')!r}: only runs of the family feed are feeds"
        )
    asked = feed_server.Asked(
        role=_ROLE.value,
        ranker_at=_RANKER_AT.value,
        retrieval_at=_RETRIEVAL_AT.value,
        store_at=_STORE_AT.value,
        kafka=_KAFKA.value,
        group=_GROUP.value,
        workers=_WORKERS.value,
        max_queue=listening.MAX_QUEUE.value,
        deadline_s=listening.DEADLINE_MS.value / 1e3,
    )
    keep_programs(job.workdir / _COMPILED)
    if asked.role == "all" and not trained(job):
        print("stopped; the same command goes on from here")
        return
    try:
        from uvloop import run
    except ImportError:  # Where it is not to be had, such as on Windows.
        from asyncio import run
    addresses = server.Addresses(
        listening.HOST.value, listening.HTTP_PORT.value, listening.GRPC_PORT.value
    )
    listening.log_to_stderr(("minirec.serving", "minirec.recommend", "pipelines.events"))

    def load() -> Any:
        return feed_server.services_of(job, asked)

    def grpc_server(services: Any, address: str) -> Any:
        from minirec.serving.feed.grpc_service import FeedGrpcServer  # Takes a while to import.

        return FeedGrpcServer(services, address)

    def ready(services: Any) -> None:
        at = {"http": addresses.http_port, "grpc": addresses.grpc_port}
        line = {"ready": True, "role": services.role, "model": services.version}
        line |= {name: f"{addresses.host}:{port}" for name, port in at.items() if port}
        print(json.dumps(line), flush=True)

    fronts = server.Fronts(application, None, grpc_server)
    run(
        server.serve(
            load, addresses, fronts=fronts, drain_s=listening.DRAIN_S.value, on_ready=ready
        )
    )


if __name__ == "__main__":
    program.run(main, deadline_ms="2000")  # Several parts answer, one after the other.
