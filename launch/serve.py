"""Serves a trained run over HTTP and gRPC, with a page that shows what the model thinks.

`python -m launch.serve --config=quickstart --workdir=quickstart` answers at
`http://127.0.0.1:8000` until SIGTERM or Ctrl-C:

    curl -s localhost:8000/v1/recommend -d '{"history": ["i00001", "i00002"], "num": 3}'

`--engine=ray --replicas=2` answers with several processes, on this machine or on a Ray cluster.

Standard output has a line of JSON once it is ready, standard error a line of JSON a request.
docs/serving.md tells the rest.
"""

from __future__ import annotations

import asyncio
import json
import os

from absl import flags

from launch.wiring import listening, program, ray_scale
from launch.wiring.engines import engine_of

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
    engine = engine_of("launch.serve", "local", "ray")
    scale = ray_scale.from_flags(engine, listening.DRAIN_S.value)
    try:
        from launch.wiring import answering, ray_replicas
        from minirec.serving import front, server
        from minirec.serving.fleet import Fleet
    except ImportError as error:
        raise program.UsageError(
            f"{error.name} is missing: serving needs pip install 'minirec[serve]'"
        ) from error
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
    settings = answering.Settings(
        cache_bytes=_CACHE_MB.value * 2**20,
        max_queue=listening.MAX_QUEUE.value,
        max_wait_s=_MAX_WAIT_MS.value / 1e3,
        deadline_s=listening.DEADLINE_MS.value / 1e3,
        log_histories=_LOG_HISTORIES.value,
    )

    def ready(model_version: str) -> None:
        at = {
            "http": (addresses.host, addresses.http_port),
            "grpc": (addresses.host, addresses.grpc_port),
            "admin": (addresses.admin_host, addresses.admin_port),
        }
        line = {"ready": True, "model": model_version}
        line |= {name: f"{host}:{port}" for name, (host, port) in at.items() if port}
        print(json.dumps(line), flush=True)

    if scale is None:
        run(
            server.serve(
                lambda: answering.service(job, settings),
                addresses,
                drain_s=listening.DRAIN_S.value,
                on_ready=lambda service: ready(service.engine.served.model_version),
            )
        )
        return

    async def serve() -> None:
        loop = asyncio.get_running_loop()

        async def joined(replicas: ray_replicas.RayReplicas) -> front.Front:
            return front.Front(
                await Fleet.joined(replicas),
                deadline_s=settings.deadline_s,
                close=replicas.close,
                log_histories=settings.log_histories,
            )

        def load() -> front.Front:
            replicas = ray_replicas.started(job, settings, scale)
            try:
                return asyncio.run_coroutine_threadsafe(joined(replicas), loop).result()
            except BaseException:
                replicas.close()
                raise

        await server.serve(
            load,
            addresses,
            drain_s=listening.DRAIN_S.value,
            on_ready=lambda service: ready(service.fleet.pin.release.model_version),
            fronts=server.Fronts(
                front.clients, front.admins, server.recommender_grpc, has_short_way=True
            ),
        )

    run(serve())


if __name__ == "__main__":
    program.run(main)
