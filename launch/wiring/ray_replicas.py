"""Replicas of a served run as a Ray Serve deployment, on this machine or on a cluster.

Ray starts them, looks after them, starts new ones where they end and, by the length of their
queues, more or fewer of them; its consistent-hash router brings what has the same key to the same
replica. HTTP, gRPC and admins come to `minirec.serving.front`, not to Ray's own proxies.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import launch
from launch.wiring import answering
from launch.wiring.program import Job, UsageError
from launch.wiring.ray_scale import Scale
from minirec.serving.wire import ReplicaLostError

APPLICATION = "minirec"
"""What Ray calls it."""

_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
_LOCAL_STORE = 128 * 2**20  # bytes; answers are small


class RunReplica:
    """What a process of Ray's runs: a replica of a job's run."""

    def __init__(self, job: Job, settings: answering.Settings, session: str):
        """Loads the run and compiles everything; Ray calls the replica ready after that."""
        name = importlib.import_module("ray.serve").get_replica_context().replica_tag
        self._replica = answering.replica(job, settings, name, session)

    async def call(self, method: str, *args: Any) -> Any:
        """Calls a method; see `minirec.serving.replica.Replica.call`."""
        return await self._replica.call(method, *args)


class RayReplicas:
    """The deployment's replicas, as `minirec.serving.fleet` calls them."""

    def __init__(self, handle: Any):
        """Calls by Ray's handle of the deployment."""
        self._handle = handle
        ended = importlib.import_module("ray.exceptions")
        unavailable = importlib.import_module("ray.serve.exceptions")
        self._ended = (
            ended.RayActorError,
            unavailable.DeploymentUnavailableError,
            unavailable.ReplicaUnavailableError,
        )

    async def one(self, key: str, method: str, *args: Any) -> Any:
        """Calls the key's replica; see `minirec.serving.fleet.Replicas`."""
        handle = self._handle.options(method_name="call", session_id=key)
        response = handle.remote(method, *args)
        try:
            return await response
        except self._ended as error:
            raise ReplicaLostError(str(error)) from error
        except BaseException:  # Whoever asked has gone, or is told that it is late.
            response.cancel()
            raise

    async def every(self, method: str, *args: Any) -> Sequence[Any]:
        """Calls all replicas; see `minirec.serving.fleet.Replicas`."""
        try:
            response = self._handle.broadcast("call", method, *args)
            results = await response.results_async(return_exceptions=True)
        except self._ended as error:
            raise ReplicaLostError(str(error)) from error
        for place, result in enumerate(results):
            if isinstance(result, self._ended):
                results[place] = ReplicaLostError(str(result))
            elif isinstance(result, BaseException):
                raise result
        return results

    def close(self) -> None:
        """Ends the replicas, and Ray where it was started for them."""
        self._handle.shutdown()  # It would go on to report how many wait.
        importlib.import_module("ray.serve").delete(APPLICATION)
        importlib.import_module("ray").shutdown()


def started(job: Job, settings: answering.Settings, scale: Scale) -> RayReplicas:
    """Returns the replicas of a job's run, once all of them have compiled everything.

    Raises:
        UsageError: Ray is missing, there is no such cluster, or a replica cannot be started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What of Ray's still runs after its end would start it again, without being asked.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    try:
        ray = importlib.import_module("ray")
        serve = importlib.import_module("ray.serve")
        router = importlib.import_module("ray.serve.config").RequestRouterConfig
    except ImportError as error:
        raise UsageError(
            f"{error.name} is missing: --engine=ray needs pip install 'minirec[serve,ray]'"
        ) from error
    _join(ray, scale)
    # Clients come to the front: no proxy of Ray's listens.
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    serve.start(proxy_location="Disabled", logging_config=quiet)
    options: dict[str, Any] = {
        "name": "replica",
        "ray_actor_options": {
            "num_cpus": scale.cpus,
            "num_gpus": scale.gpus,
            "resources": {"TPU": scale.tpus} if scale.tpus else {},
        },
        # A replica refuses by itself who would wait too long; Ray lets as many come as may wait
        # there, and those that are being searched for.
        "max_ongoing_requests": 2 * settings.max_queue,
        "request_router_config": router(request_router_class=_ROUTER),
        "graceful_shutdown_timeout_s": scale.drain_s,
        "logging_config": quiet,
    }
    if scale.max_replicas is None:
        options["num_replicas"] = scale.replicas
    else:
        options["autoscaling_config"] = {
            "min_replicas": scale.replicas,
            "initial_replicas": scale.replicas,
            "max_replicas": scale.max_replicas,
            "target_ongoing_requests": scale.target_ongoing,
        }
    application = serve.deployment(**options)(RunReplica).bind(job, settings, secrets.token_hex(8))
    try:
        handle = serve.run(application, name=APPLICATION, route_prefix=None)
    except RuntimeError as error:
        serve.delete(APPLICATION)
        ray.shutdown()
        raise UsageError(f"the replicas cannot be started: {error}") from error
    return RayReplicas(handle)


def _join(ray: Any, scale: Scale) -> None:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if scale.address is not None:
        try:
            ray.init(address=scale.address, logging_level="warning")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"--ray_address={scale.address}: {error}") from error
        return
    most = scale.max_replicas or scale.replicas
    # A process of Ray's finds what this one runs, installed or not.
    root = str(Path(launch.__path__[0]).parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    ray.init(
        num_cpus=max(1, int(-(-most * scale.cpus // 1))),
        include_dashboard=False,
        object_store_memory=_LOCAL_STORE,
        log_to_driver=False,  # Standard output has one line; Ray keeps what replicas write.
        logging_level="warning",
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
    )
