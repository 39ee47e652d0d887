"""What the processes of one run agree on. Where there is one process, nobody is asked."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from minirec.models.sharding import put_rows, replicated
from minirec.training.interrupts import StopSignals


def is_first() -> bool:
    """Returns whether this is the process that writes and prints."""
    return jax.process_index() == 0


def everywhere(holds: bool) -> bool:
    """Returns whether something holds in every process; each must call it, and all wait."""
    if jax.process_count() == 1:
        return holds
    return bool(np.all(multihost_utils.process_allgather(np.asarray(holds))))


def first_says(holds: bool) -> bool:
    """Returns whether something holds in the first process; each must call it, and all wait.

    For what a file says: the others may not see yet what the first has written.
    """
    if jax.process_count() == 1:
        return holds
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(holds)))


def first_alone(work: Callable[[], None]) -> None:
    """Runs `work` in the first process, while the others wait.

    Raises:
        ValueError: in the others, where the first failed; there its own error is raised.
    """
    error = None
    if is_first():
        try:
            work()
        except Exception as raised:  # Handed on below, once the others know.
            error = raised
    if not everywhere(error is None):
        raise error or ValueError("the first process failed; its output says why")


class StopAgreement:
    """Whether a signal has stopped any process, known to all of them at the same step.

    Each call starts a sum of the processes' flags on the devices and reads the one that the call
    before started, so that neither host nor device waits for it.
    """

    def __init__(self, signals: StopSignals, mesh: Mesh | None) -> None:
        self._signals = signals
        self._stopped = False
        self._mesh = mesh if jax.process_count() > 1 else None
        self._started: jax.Array | None = None
        if self._mesh is not None:
            self._any = jax.jit(jnp.any, out_shardings=replicated(self._mesh))

    def __call__(self) -> bool:
        """Returns whether to stop here; every process must call it as often as the others."""
        if self._mesh is None:
            return self._signals.requested
        before = self._started
        flags = np.full(jax.local_device_count(), self._signals.requested)
        self._started = self._any(put_rows(flags, self._mesh))
        self._stopped = self._stopped or (before is not None and bool(before))
        return self._stopped
