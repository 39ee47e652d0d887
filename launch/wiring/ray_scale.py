"""How many replicas answer, and what each needs: flags of `launch.serve --engine=ray`."""

from __future__ import annotations

import dataclasses

from absl import flags

from launch.wiring.program import UsageError

_NAMES = ("replicas", "max_replicas", "target_ongoing", "replica_cpus", "replica_gpus")
_NAMES += ("replica_tpus", "ray_address")
_REPLICAS = flags.DEFINE_integer("replicas", 1, "Of --engine=ray: replicas.", lower_bound=1)
_MAX_REPLICAS = flags.DEFINE_integer(
    "max_replicas",
    None,
    "Of --engine=ray: as many at most, as queues grow; default: --replicas.",
    lower_bound=1,
)
_TARGET_ONGOING = flags.DEFINE_float(
    "target_ongoing",
    32.0,
    "Of --max_replicas: requests a replica, above which more are started.",
    lower_bound=1.0,
)
_REPLICA_CPUS = flags.DEFINE_float(
    "replica_cpus", 1.0, "Of --engine=ray: cores a replica.", lower_bound=0.0
)
_REPLICA_GPUS = flags.DEFINE_float(
    "replica_gpus", 0.0, "Of --engine=ray: GPUs a replica.", lower_bound=0.0
)
_REPLICA_TPUS = flags.DEFINE_integer(
    "replica_tpus", 0, "Of --engine=ray: TPU chips a replica.", lower_bound=0
)
_RAY_ADDRESS = flags.DEFINE_string(
    "ray_address",
    None,
    "Of --engine=ray: a cluster's address, or auto; default: Ray is started on this machine.",
)


@dataclasses.dataclass(frozen=True)
class Scale:
    """How many replicas there are, and what each needs.

    Attributes:
        replicas: at the start, and at least.
        max_replicas: at most, as queues grow; None: as many as at the start.
        target_ongoing: requests a replica, above which more are started.
        cpus: cores a replica.
        gpus: GPUs a replica.
        tpus: TPU chips a replica.
        address: of a cluster; None: Ray is started on this machine.
        drain_s: seconds that a replica which ends gets for those it has taken on.
    """

    replicas: int = 1
    max_replicas: int | None = None
    target_ongoing: float = 32.0
    cpus: float = 1.0
    gpus: float = 0.0
    tpus: int = 0
    address: str | None = None
    drain_s: float = 30.0

    def __post_init__(self):
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise UsageError(
                f"--max_replicas={self.max_replicas}: must be at least --replicas={self.replicas}"
            )


def from_flags(engine: str, drain_s: float) -> Scale | None:
    """Returns what the flags say; None where one process answers.

    Args:
        engine: "local" or "ray".
        drain_s: see `Scale`.

    Raises:
        UsageError: a flag is given that nothing would heed, or two do not fit.
    """
    if engine == "local":
        given = [f"--{name}" for name in _NAMES if flags.FLAGS[name].present]
        if given:
            raise UsageError(f"{', '.join(given)}: of --engine=ray only")
        return None
    if flags.FLAGS["target_ongoing"].present and _MAX_REPLICAS.value is None:
        raise UsageError("--target_ongoing: of --max_replicas only")
    return Scale(
        _REPLICAS.value,
        _MAX_REPLICAS.value,
        _TARGET_ONGOING.value,
        _REPLICA_CPUS.value,
        _REPLICA_GPUS.value,
        _REPLICA_TPUS.value,
        _RAY_ADDRESS.value,
        drain_s,
    )
