"""Keeping a job running: a VM that was taken away is made anew, and the job goes on there."""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from collections.abc import Callable

from launch.tpu import commands
from launch.tpu.commands import Package
from launch.tpu.job import Job
from launch.tpu.spec import TpuSpec
from launch.tpu.tpu_vm import WORD
from launch.wiring import shell
from launch.wiring.shell import Command

LOST = ("PREEMPTED", "TERMINATED", "STOPPED")
"""States of a VM that will not come back by itself."""

ENDED = ("FAILED", "SUSPENDED")
"""States of a request that will give no VM any more."""

_USAGE = 2  # The launchers' exit status for what a person has to mend.

# Codes and words of Google's errors. The word quota alone will not do: gcloud speaks of the "quota
# project" in warnings, whatever the error is.
_SCARCE = re.compile(
    r"resource_(pool_)?exhausted|stockout|no more capacity|insufficient \w* ?capacity"
    r"|not have enough resources|quota[^\n]*exceed|exceed[^\n]*quota"
    r"|(insufficient|not enough|out of) quota",
    re.IGNORECASE,
)


@dataclasses.dataclass
class Watch:
    """Sees to it that a job runs to its end.

    Attributes:
        spec: the VM.
        job: what shall run there.
        package: what is installed there.
        poll_seconds: between two looks.
        restarts: how often a job that failed is started again; status 2 never is.
        max_failures: how many commands may fail in a row; one that makes the VM and fails for
            lack of capacity or quota does not count, however often.
        sleep: waits so many seconds.
    """

    spec: TpuSpec
    job: Job
    package: Package
    poll_seconds: float = 60.0
    restarts: int = 3
    max_failures: int = 30
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        # Built once: later changes of the source are not for a job that is under way.
        self._build, self.package = commands.build(self.package)
        self._failures = 0
        self._restarted = 0
        self._uneven = False
        self._begun = False

    def run(self) -> int:
        """Returns the job's exit status, once it has run to its end.

        Raises:
            CommandFailedError: too many commands failed in a row; it is the last of them.
            ValueError: another job runs on the VM.
        """
        shell.run(self._build)
        while True:
            try:
                status = self._look()
                self._failures = 0
            except shell.CommandFailedError as error:
                self._failures += 1
                if self._failures > self.max_failures:
                    raise
                _say(f"{error}\n{error.errors}".strip())
                status = None
            if status is not None:
                return status
            self.sleep(self.poll_seconds)

    def plan(self) -> list[str | Command]:
        """Returns what `run` would do, as comments and commands."""
        request = [commands.describe_request(self.spec)] if self.spec.queued else []
        return [
            *self._build,
            f"# Every {self.poll_seconds:g} seconds: is the VM there, and is the job running?",
            commands.describe(self.spec),
            *request,
            commands.status(self.spec, self.job),
            f"# Where it is {', '.join(LOST)}:",
            *commands.delete(self.spec),
            "# Where there is none:",
            *commands.create(self.spec),
            "# Where it is new:",
            *commands.setup(self.spec, self.package),
            "# Where the job is not running and has not ended, or failed before this watch:",
            commands.start(self.spec, self.job),
            f"# Where it failed, {self.restarts} times a VM:",
            *self._anew(),
            "# Where it failed once more, or with status 2:",
            *self._over(),
        ]

    def _look(self) -> int | None:
        """Takes the next step; returns the job's exit status, or None if it is not over."""
        state = _state(commands.describe(self.spec))
        if state in LOST:
            _say(f"{self.spec.name} is {state}: making it anew")
            shell.run(commands.delete(self.spec))
            state = None
        elif state is None and self.spec.queued:
            request = _state(commands.describe_request(self.spec))
            if request in ENDED:
                _say(f"the request {self.spec.name} is {request}: making it anew")
                shell.run(commands.delete(self.spec))
            elif request is not None:
                _say(f"the request {self.spec.name} is {request}")
                return None
        if state is None:
            made = self._create()
            return self._look_at_job() if made and not self.spec.queued else None
        if state == "READY":
            return self._look_at_job()
        _say(f"{self.spec.name} is {state}")
        return None

    def _create(self) -> bool:
        """Makes the VM or the request for it; returns False where there is no room for it now."""
        self._restarted = 0
        self._uneven = False
        try:
            shell.run(commands.create(self.spec), keep_errors=True)
        except shell.CommandFailedError as error:
            if _SCARCE.search(error.errors) is None:
                raise
            _say(f"{error}\n{error.errors}".strip())
            return False
        return True

    def _look_at_job(self) -> int | None:
        said = self._job_states()
        if "new" in said:
            shell.run(commands.setup(self.spec, self.package))
            said = self._job_states()
        if "busy" in said:
            raise ValueError(f"{self.spec.name}: another job is running there")
        if not self._begun and any(_failed(state) for state in said):
            # It failed before this watch, which is a new try. Hosts where an earlier watch stopped
            # it then have no status: all begin together.
            said = ["idle" if state.startswith("exited") else state for state in said]
        kinds = {state.partition(" ")[0] for state in said}
        self._begun = self._begun or "running" in kinds
        if len(kinds) > 1:
            # Some are gone and the others wait for them: all together can go on. At first sight
            # the others may just be about to end as well.
            self._uneven = not self._uneven
            return None if self._uneven else self._again(1)
        self._uneven = False
        if kinds == {"idle"}:
            shell.run([commands.start(self.spec, self.job)])
            self._begun = True
        elif kinds == {"exited"}:
            return self._ended([int(state.partition(" ")[2]) for state in said])
        return None

    def _ended(self, statuses: list[int]) -> int | None:
        status = next((status for status in statuses if status), 0)
        return self._again(status) if status not in (0, _USAGE) else self._close(status)

    def _again(self, status: int) -> int | None:
        if self._restarted >= self.restarts:
            return self._close(status)
        self._restarted += 1
        _say(f"the job ended with status {status}: start {self._restarted} of {self.restarts} more")
        shell.run(self._anew())
        self._begun = True
        return None

    def _close(self, status: int) -> int:
        _say(f"the job ended with status {status}")
        if status:
            shell.run(self._over())
        return status

    def _anew(self) -> list[Command]:
        return [commands.stop(self.spec, self.job), commands.start(self.spec, self.job)]

    def _over(self) -> list[Command]:
        # Other hosts may still wait for the one that failed.
        return [commands.stop(self.spec, self.job), commands.log(self.spec, self.job)]

    def _job_states(self) -> list[str]:
        lines = shell.read(commands.status(self.spec, self.job)).splitlines()
        said = [line.partition(WORD)[2].strip() for line in lines if WORD in line]
        if not said:
            raise shell.CommandFailedError(
                commands.status(self.spec, self.job), 1, "no worker said how its job is"
            )
        return said


def _failed(state: str) -> bool:
    return state.startswith("exited") and state.partition(" ")[2] != "0"


def _state(command: Command) -> str | None:
    """Returns what a describing command says, None where there is nothing to describe."""
    try:
        return shell.read(command).strip()
    except shell.CommandFailedError as error:
        text = error.errors.lower()
        if "not_found" in text or "not found" in text or "was not found" in text:
            return None
        raise


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
