"""Training on a TPU VM: `python -m launch.tpu create | setup | run | collect | delete`.

    python -m launch.tpu create --flagfile=tpu.flags --dry-run
    python -m launch.tpu run --flagfile=tpu.flags --watch -- launch.train --config=amazon_beauty \\
        --workdir=beauty

`tpu.flags` holds a flag a line (--name=…, --project=…, --zone=…, --accelerator_type=…, --disk=…).
What `run` starts comes after `--`, several steps with `--` between them; their --workdir lies on
the disk or share that outlives the VM. With `--watch` a VM that was taken away is made anew and the
job goes on from its checkpoint. `--dry-run` prints the commands instead of running them, and needs
no cloud tools. docs/tpu_runbook.md walks through them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from launch.tpu import commands
from launch.tpu.commands import ROOT, Package
from launch.tpu.job import job_from
from launch.tpu.spec import PROVISIONING, TpuSpec
from launch.tpu.watch import Watch
from launch.wiring import program, shell, verbs
from launch.wiring.shell import Command

_NAME = flags.DEFINE_string("name", "", "Name of the TPU VM.")
_PROJECT = flags.DEFINE_string("project", "", "Google Cloud's project.")
_ZONE = flags.DEFINE_string("zone", "", "Zone, such as us-west4-a.")
_ACCELERATOR_TYPE = flags.DEFINE_string("accelerator_type", "", "Such as v5litepod-8.")
_RUNTIME_VERSION = flags.DEFINE_string(
    "runtime_version", "", "The VM's image; default: the usual one of the accelerator type."
)
_PROVISIONING = flags.DEFINE_enum(
    "provisioning", "on_demand", PROVISIONING, "Spot and preemptible VMs can be taken away."
)
_QUEUED = flags.DEFINE_bool("queued", False, "Ask for it by a queued resource.")
_CREATE_FLAG = flags.DEFINE_multi_string(
    "create_flag", [], "A further flag of gcloud's create, such as --network=x; may be repeated."
)
_DISK = flags.DEFINE_string("disk", "", "Name of the disk where runs live; create makes it.")
_DISK_SIZE = flags.DEFINE_integer("disk_size_gb", 100, "Its size.", lower_bound=10)
_DISK_DEVICE = flags.DEFINE_string(
    "disk_device", "/dev/disk/by-id/google-persistent-disk-1", "Where the VM shows the disk."
)
_NFS = flags.DEFINE_string("nfs", "", "SERVER:/share where runs live, for several hosts.")
_MOUNT = flags.DEFINE_string("mount", "/mnt/minirec", "Where the VM mounts disk or share.")
_WHEEL = flags.DEFINE_string("wheel", "", "This project's wheel; default: it is built.")
_CONSTRAINTS = flags.DEFINE_string(
    "constraints", None, "File of versions to install; default: requirements.lock where there is."
)
_EXTRAS = flags.DEFINE_string("extras", "tpu", "The wheel's extras, with commas between.")
_DATA = flags.DEFINE_multi_string(
    "data", [], "setup: a file or folder to copy to MOUNT/data; may be repeated."
)
_WORKER = flags.DEFINE_string("worker", "all", "run: the worker that runs the steps, or all.")
_WATCH = flags.DEFINE_bool("watch", False, "run: stay, and see to it that the job ends.")
_POLL_SECONDS = flags.DEFINE_float(
    "poll_seconds", 60.0, "watch: seconds between two looks.", lower_bound=0.0
)
_RESTARTS = flags.DEFINE_integer(
    "restarts", 3, "watch: how often a job that failed is started again.", lower_bound=0
)
_MAX_FAILURES = flags.DEFINE_integer(
    "max_failures",
    30,
    "watch: how many commands may fail in a row; lack of capacity never counts.",
    lower_bound=0,
)
_DELETE_WHEN_DONE = flags.DEFINE_bool(
    "delete_when_done", False, "watch: delete the VM once the job has ended with status 0."
)
_TO = flags.DEFINE_string("to", "collected", "collect: the local folder.")
_CHECKPOINTS = flags.DEFINE_bool("checkpoints", False, "collect: bring checkpoints as well.")
_DELETE_DISK = flags.DEFINE_bool("delete_disk", False, "delete: the disk with all runs as well.")
flags.adopt_module_key_flags(verbs)


def create() -> None:
    """Makes the VM, and its disk where there is none."""
    _carry_out(commands.create(_spec()))


def setup() -> None:
    """Mounts the storage, copies data and installs this project."""
    build, package = commands.build(_package())
    _carry_out([*build, *commands.setup(_spec(), package, _DATA.value)])


def run(arguments: Sequence[str]) -> None:
    """Starts a job, or keeps it running until it ends."""
    spec = _spec()
    spec.require_accelerator()
    spec.require_storage()
    job = job_from(arguments, spec, _WORKER.value)
    if not _WATCH.value:
        if _DELETE_WHEN_DONE.value:
            raise program.UsageError("--delete_when_done needs --watch, which sees the end")
        _carry_out([commands.start(spec, job)])
        return
    watch = Watch(
        spec,
        job,
        _package(),
        poll_seconds=_POLL_SECONDS.value,
        restarts=_RESTARTS.value,
        max_failures=_MAX_FAILURES.value,
    )
    afterwards = commands.delete(spec) if _DELETE_WHEN_DONE.value else []
    if verbs.DRY_RUN.value:
        done = ["# Once it has ended with status 0:", *afterwards] if afterwards else []
        for line in (*watch.plan(), *done):
            print(line)
        return
    try:
        status = watch.run()
    except KeyboardInterrupt:
        print("VM and job go on; the same command watches again", file=sys.stderr)
        sys.exit(130)
    if status:
        sys.exit(status)
    shell.run(afterwards)


def collect() -> None:
    """Brings results here."""
    workdir = program.given_workdir()
    if not workdir:
        raise program.UsageError("--workdir is missing: the folder on the disk or share")
    _carry_out(commands.collect(_spec(), workdir, _TO.value, checkpoints=_CHECKPOINTS.value))


def delete() -> None:
    """Deletes the VM."""
    _carry_out(commands.delete(_spec(), disk=_DELETE_DISK.value))


def _spec() -> TpuSpec:
    return TpuSpec(
        name=_NAME.value,
        project=_PROJECT.value,
        zone=_ZONE.value,
        accelerator_type=_ACCELERATOR_TYPE.value,
        runtime_version=_RUNTIME_VERSION.value,
        provisioning=_PROVISIONING.value,
        queued=_QUEUED.value,
        disk=_DISK.value,
        disk_size_gb=_DISK_SIZE.value,
        disk_device=_DISK_DEVICE.value,
        nfs=_NFS.value,
        mount=_MOUNT.value,
        create_flags=tuple(_CREATE_FLAG.value),
    )


def _package() -> Package:
    constraints = _CONSTRAINTS.value
    if constraints is None:
        lock = ROOT / "requirements.lock"
        constraints = commands.short(lock) if lock.is_file() else ""
    return Package(_WHEEL.value, constraints, _EXTRAS.value)


def _carry_out(chosen: Sequence[Command]) -> None:
    if verbs.DRY_RUN.value:
        for command in chosen:
            print(command)
    else:
        shell.run(chosen)


def main(argv: Sequence[str]) -> None:
    """Runs the verb; a failed command's exit status is this program's."""
    # What comes after `--` are other programs' flags.
    end = list(argv).index("--") if "--" in argv else len(argv)
    own, rest = argv[:end], argv[end + 1 :]

    def taking_no_steps(verb):
        def body() -> None:
            if rest:
                raise program.UsageError(f"-- {rest[0]}: only run takes programs to run")
            verb()

        return body

    known = {verb.__name__: taking_no_steps(verb) for verb in (create, setup)}
    known["run"] = lambda: run(rest)
    known |= {verb.__name__: taking_no_steps(verb) for verb in (collect, delete)}
    try:
        verbs.start(known, own)
    except shell.CommandFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.errors:
            print(error.errors.rstrip(), file=sys.stderr)
        sys.exit(error.status)


if __name__ == "__main__":
    main(sys.argv)
