"""What `launch.serve` answers with: an engine over a run, in this process or in a replica."""

from __future__ import annotations

import dataclasses
import sys

from launch.wiring import serving
from launch.wiring.compiled import keep_programs
from launch.wiring.program import Job
from minirec.serving.engine import Engine
from minirec.serving.metrics import Metrics
from minirec.serving.replica import Replica
from minirec.serving.service import Service
from minirec.serving.shared_versions import SharedVersions
from minirec.serving.versions import Versions

_COMPILED = ".compiled"
_SWITCH_S = 0.0005


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an engine is started with.

    Attributes:
        cache_bytes: of readings that are kept.
        max_queue: requests that may wait.
        max_wait_s: seconds that a request waits for company.
        deadline_s: seconds in which an answer must be there where a request does not say.
        log_histories: whether the log lines of requests show what was recommended.
    """

    cache_bytes: int
    max_queue: int
    max_wait_s: float
    deadline_s: float
    log_histories: bool


def service(job: Job, settings: Settings) -> Service:
    """Returns what answers with a job's run, once everything is compiled.

    Raises:
        ValueError: the data, the SIDs and the run do not belong together, or are damaged.
        FileNotFoundError: a step before serving has not run.
    """
    started, builder = _loaded(job, settings)
    folder = job.run / serving.FOLDER
    versions = Versions(folder, builder, started.served, started.listing)
    return _service(job, settings, started, versions)


def replica(job: Job, settings: Settings, name: str, session: str) -> Replica:
    """Returns one of several that answer together; see `minirec.serving.shared_versions`.

    Args:
        job: whose run; its folder is that of all replicas.
        settings: what its engine is started with.
        name: tells it from the others.
        session: what the replicas of one start have in common.

    Raises:
        ValueError: see `service`, or the run has been trained anew since the session began.
        FileNotFoundError: a step before serving has not run.
    """
    started, builder = _loaded(job, settings)
    folder = job.run / serving.FOLDER
    versions = SharedVersions(folder, builder, started.served, started.listing, session)
    return Replica(name, _service(job, settings, started, versions), versions)


def _loaded(job: Job, settings: Settings) -> tuple[serving.Server, serving.RunBuilder]:
    # Who answers and who searches take turns: at the usual 5 ms each answer would wait for several.
    sys.setswitchinterval(_SWITCH_S)
    keep_programs(job.workdir / _COMPILED)
    started = serving.load(job, cache_bytes=settings.cache_bytes, like=True)
    return started, serving.RunBuilder(job, started)


def _service(job: Job, settings: Settings, started: serving.Server, versions: Versions) -> Service:
    metrics = Metrics(started.recommender.tile)
    engine = Engine(
        started.recommender,
        versions.served,
        exclude_seen=job.config.search.exclude_seen,
        stock=versions.stock,
        max_queue=settings.max_queue,
        max_wait_s=settings.max_wait_s,
        deadline_s=settings.deadline_s,
        observer=metrics,
    )
    metrics.watch(engine)
    versions.serve(engine)
    histories = serving.user_histories(started.run)
    return Service(engine, versions, metrics, histories, settings.log_histories)
