"""What runs on the VM: programs of this project, one after the other."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

from launch.tpu.spec import TpuSpec
from launch.wiring.program import UsageError

_SEPARATOR = "--"


@dataclasses.dataclass(frozen=True)
class Job:
    """Programs that run on a VM in this order; each ends the job if it fails.

    Attributes:
        steps: for each the program and its arguments, such as `("launch.train", "--workdir=w")`.
        worker: the worker that runs them, or "all".
    """

    steps: tuple[tuple[str, ...], ...]
    worker: str = "all"

    def arguments(self, spec: TpuSpec) -> list[str]:
        """Returns the steps as one list, with `--` between them.

        On several hosts each program finds the others through the slice's own metadata.
        """
        auto = ["--coordinator_address=auto"] if spec.several_hosts and self.worker == "all" else []
        arguments: list[str] = []
        for step in self.steps:
            arguments += [_SEPARATOR, *step, *auto]
        return arguments[1:]

    def key(self, spec: TpuSpec) -> str:
        """Returns what tells this job from others on the same VM."""
        text = "\0".join([spec.mount, self.worker, *self.arguments(spec)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def job_from(arguments: Sequence[str], spec: TpuSpec, worker: str) -> Job:
    """Returns the job that a command line describes.

    Args:
        arguments: `launch.prepare --config=x -- launch.train --config=x`: steps, with `--` between.
        spec: where it shall run.
        worker: the number of a worker, or "all".

    Raises:
        UsageError: there are no steps, one is not a program of this project, or one would leave
            its results where they are gone with the VM.
    """
    steps: list[list[str]] = [[]]
    for argument in arguments:
        if argument == _SEPARATOR:
            steps.append([])
        else:
            steps[-1].append(argument)
    if worker != "all" and not (worker.isascii() and worker.isdigit()):
        raise UsageError(f"--worker={worker!r}: expected a number from 0, or all")
    for step in steps:
        program = step[0] if step else ""
        names = program.split(".")
        if len(names) < 2 or names[0] != "launch" or not all(map(str.isidentifier, names)):
            raise UsageError(
                f"run: {program!r} is not a program of this project; after `--` comes what shall "
                "run, such as: -- launch.train --config=amazon_beauty --workdir=beauty"
            )
        for place, argument in enumerate(step):
            name, equals, value = argument.partition("=")
            if name in ("--workdir", "-workdir"):
                spec.inside(value if equals else "".join(step[place + 1 : place + 2]), "--workdir")
    return Job(tuple(map(tuple, steps)), worker)
