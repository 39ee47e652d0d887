"""The commands of each verb, as argument lists: no shell of this machine ever parses a name."""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import minirec
from launch.tpu.job import Job
from launch.tpu.spec import TpuSpec
from launch.tpu.tpu_vm import WORD
from launch.wiring.program import UsageError
from launch.wiring.shell import Command

ROOT = Path(__file__).resolve().parent.parent.parent
_SCRIPT = Path(__file__).parent / "tpu_vm.py"
_WHEEL = re.compile(r"[A-Za-z0-9_.+-]+\.whl", re.ASCII)
_EXTRAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,-]*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Package:
    """What is installed on the VM.

    Attributes:
        wheel: this project's wheel; empty where it is to be built.
        constraints: a file of versions, or empty.
        extras: extras of the wheel, such as `tpu,lm`.
    """

    wheel: str = ""
    constraints: str = ""
    extras: str = "tpu"


def _gcloud(spec: TpuSpec, verb: str, what: str, *arguments: str, group: str = "tpu-vm") -> Command:
    place = (f"--project={spec.project}", f"--zone={spec.zone}")
    return Command(("gcloud", "compute", "tpus", group, verb, what, *place, *arguments))


def create(spec: TpuSpec) -> list[Command]:
    """Returns what makes the disk, where there is none yet, and the VM or the request for it."""
    spec.require_accelerator()
    commands = []
    disk = ()
    if spec.disk:
        place = (f"--project={spec.project}", f"--zone={spec.zone}")
        commands.append(
            Command(
                (
                    *("gcloud", "compute", "disks", "create", spec.disk, *place),
                    f"--size={spec.disk_size_gb}GB",
                    f"--type={spec.disk_type}",
                ),
                unless=("gcloud", "compute", "disks", "describe", spec.disk, *place),
            )
        )
        source = f"projects/{spec.project}/zones/{spec.zone}/disks/{spec.disk}"
        disk = (f"--data-disk=source={source},mode=read-write",)
    accelerator = f"--accelerator-type={spec.accelerator_type}"
    tier = () if spec.provisioning == "on_demand" else (f"--{spec.provisioning}",)
    rest = (*tier, *disk, *spec.create_flags)
    if spec.queued:
        arguments = (f"--node-id={spec.name}", accelerator, f"--runtime-version={spec.image}")
        commands.append(
            _gcloud(spec, "create", spec.name, *arguments, *rest, group="queued-resources")
        )
    else:
        commands.append(
            _gcloud(spec, "create", spec.name, accelerator, f"--version={spec.image}", *rest)
        )
    return commands


def describe(spec: TpuSpec) -> Command:
    """Returns what tells the VM's state, such as READY or PREEMPTED."""
    return _gcloud(spec, "describe", spec.name, "--format=value(state)")


def describe_request(spec: TpuSpec) -> Command:
    """Returns what tells the state of the queued request, such as WAITING_FOR_RESOURCES."""
    return _gcloud(
        spec, "describe", spec.name, "--format=value(state.state)", group="queued-resources"
    )


def build(package: Package) -> tuple[list[Command], Package]:
    """Returns what builds the wheel, where none is named, and the package with its wheel."""
    if package.wheel:
        return [], package
    if not (ROOT / "pyproject.toml").is_file():
        raise UsageError("--wheel is missing: there is no source here to build one from")
    wheel = f"dist/minirec-{minirec.__version__}-py3-none-any.whl"
    arguments = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", "dist", short(ROOT))
    return [Command(arguments)], dataclasses.replace(package, wheel=wheel)


def setup(spec: TpuSpec, package: Package, data: Sequence[str] = ()) -> list[Command]:
    """Returns what mounts the storage, copies data to it, and installs this project.

    Args:
        spec: the VM.
        package: what is installed; its wheel is there, or `build` has come before.
        data: local files and folders, which come to `MOUNT/data`.
    """
    spec.require_storage()
    name = Path(package.wheel).name
    if _WHEEL.fullmatch(name) is None:
        raise UsageError(f"--wheel={package.wheel!r}: expected the path of a wheel, NAME.whl")
    if package.extras and _EXTRAS.fullmatch(package.extras) is None:
        raise UsageError(f"--extras={package.extras!r}: expected names with commas between")
    sources = [
        _local(path) for path in (short(_SCRIPT), package.wheel, package.constraints) if path
    ]
    storage = f"--nfs={spec.nfs}" if spec.nfs else f"--disk={spec.disk_device}"
    constraints = Path(package.constraints).name
    fixed = [f"--constraints={constraints}"] if constraints else []
    return [
        copy_to(spec, sources, "", "all"),
        on_vm(spec, ["mount", spec.mount, storage]),
        *(copy_to(spec, [_local(path)], f"{spec.mount}/data/", "0") for path in data),
        on_vm(spec, ["install", name, *fixed, f"--extras={package.extras}"]),
    ]


def start(spec: TpuSpec, job: Job) -> Command:
    """Returns what starts a job."""
    return on_vm(spec, ["start", spec.mount, job.key(spec), "--", *job.arguments(spec)], job.worker)


def status(spec: TpuSpec, job: Job) -> Command:
    """Returns what tells how a job is; a VM that is not set up has no script to say so."""
    ask = shlex.join(["python3", _SCRIPT.name, "status", spec.mount, job.key(spec)])
    new = f"if [ -e {_SCRIPT.name} ]; then {ask}; else echo {WORD} new; fi"
    return ssh(spec, new, job.worker)


def stop(spec: TpuSpec, job: Job) -> Command:
    """Returns what ends a job."""
    return on_vm(spec, ["stop"], job.worker)


def log(spec: TpuSpec, job: Job) -> Command:
    """Returns what shows the end of a job's log."""
    return on_vm(spec, ["log", spec.mount], job.worker)


def collect(spec: TpuSpec, workdir: str, to: str, *, checkpoints: bool) -> list[Command]:
    """Returns what brings results here."""
    folder = spec.inside(workdir, "--workdir")
    to = _local(to)
    packed = f"{to}/.collect.tar.gz"
    return [
        on_vm(spec, ["pack", spec.mount, *(["--checkpoints"] if checkpoints else []), folder], "0"),
        Command(("mkdir", "-p", to)),
        _scp(spec, [f"{spec.name}:minirec/collect.tar.gz"], packed, "0"),
        Command(("tar", "-xzf", packed, "-C", to)),
        Command(("rm", packed)),
    ]


def delete(spec: TpuSpec, *, disk: bool = False) -> list[Command]:
    """Returns what deletes the VM and, if asked, the disk with all runs."""
    if spec.queued:
        arguments = ("--force", "--quiet")
        commands = [_gcloud(spec, "delete", spec.name, *arguments, group="queued-resources")]
    else:
        commands = [_gcloud(spec, "delete", spec.name, "--quiet")]
    if disk:
        if not spec.disk:
            raise UsageError("--delete_disk needs --disk, the disk's name")
        place = (f"--project={spec.project}", f"--zone={spec.zone}")
        what = ("gcloud", "compute", "disks", "delete", spec.disk)
        commands.append(Command((*what, *place, "--quiet")))
    return commands


def on_vm(spec: TpuSpec, arguments: Sequence[str], worker: str = "all") -> Command:
    """Returns what calls `tpu_vm.py` on workers of the VM."""
    return ssh(spec, shlex.join(["python3", _SCRIPT.name, *arguments]), worker)


def ssh(spec: TpuSpec, command: str, worker: str = "all") -> Command:
    """Returns what runs shell text on workers of the VM; its values are quoted for that shell."""
    return _gcloud(spec, "ssh", spec.name, f"--worker={worker}", "--quiet", f"--command={command}")


def copy_to(spec: TpuSpec, sources: Sequence[str], target: str, worker: str) -> Command:
    """Returns what copies local files and folders to the VM; `target` may hold no special sign."""
    return _scp(spec, sources, f"{spec.name}:{target}", worker)


def _scp(spec: TpuSpec, sources: Sequence[str], target: str, worker: str) -> Command:
    place = (f"--project={spec.project}", f"--zone={spec.zone}")
    flags = (f"--worker={worker}", "--recurse", "--quiet")
    return Command(("gcloud", "compute", "tpus", "tpu-vm", "scp", *sources, target, *place, *flags))


def short(path: Path) -> str:
    """Returns a path relative to the current folder where it lies in it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _local(path: str) -> str:
    """Returns a local path that is taken for neither an option nor a host's."""
    if ":" in path:
        raise UsageError(f"{path!r}: gcloud takes what stands before a ':' for a VM's name")
    return f"./{path}" if path.startswith("-") else path
