"""Which TPU VM is meant, and where what shall outlive it is kept."""

from __future__ import annotations

import dataclasses
import posixpath
import re

from launch.wiring.program import UsageError

PROVISIONING = ("on_demand", "spot", "preemptible")
_RUNTIMES = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
_ACCELERATOR = re.compile(r"([a-z][a-z0-9]*)-([1-9][0-9]*)", re.ASCII)
# What Google Cloud lets names be. Some of gcloud's flags are lists (`--data-disk=source=…,mode=…`):
# a comma, a space or a leading '-' in a name would become an option of its own.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_PROJECT = re.compile(r"([a-z0-9][a-z0-9.-]*:)?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_FOLDER = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9_.:-]*)+", re.ASCII)
_MOUNT = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+", re.ASCII)
_NFS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*:/([A-Za-z0-9_][A-Za-z0-9_.-]*/?)*", re.ASCII)
_CREATE_FLAG = re.compile(r"--([a-z][a-z0-9-]*)(=[^\x00-\x1f\x7f]*)?", re.ASCII)
_PLAIN_NAME = "lower-case letters, digits and '-', beginning with a letter"
_PATTERNS = {
    "name": (_NAME, _PLAIN_NAME),
    "project": (_PROJECT, "lower-case letters, digits and '-', perhaps after DOMAIN:"),
    "zone": (_NAME, f"{_PLAIN_NAME}, such as us-west4-a"),
    "disk": (_NAME, _PLAIN_NAME),
    "runtime_version": (_VERSION, "letters, digits, '.', '_' and '-'"),
    "disk_device": (_FOLDER, "an absolute path of plain names"),
    "mount": (_MOUNT, "an absolute folder of plain names"),
    "nfs": (_NFS, "SERVER:/share, of plain names"),
}
# Said by flags of this program; gcloud would take the last one given.
_OWN_FLAGS = (
    *("project", "zone", "accelerator-type", "version", "runtime-version", "node-id"),
    *("data-disk", "spot", "preemptible"),
)
_ONE_HOST = 8  # The largest size, in chips or cores, of which one host has all.


@dataclasses.dataclass(frozen=True)
class TpuSpec:
    """A TPU VM.

    Attributes:
        name: of the VM, and of the request where it is queued.
        project: Google Cloud's project.
        zone: where it runs.
        accelerator_type: such as `v5litepod-8`; only `create` and `run` need it.
        runtime_version: the VM's image; empty for the usual one of the accelerator type.
        provisioning: one of `PROVISIONING`; spot and preemptible VMs can be taken away.
        queued: ask for it by a queued resource, which waits for capacity.
        disk: name of a disk that is attached for writing; one host only.
        disk_size_gb: size of that disk where it has to be made.
        disk_device: where the VM shows the disk.
        nfs: `SERVER:/share`, for several hosts. Either this or `disk` is where runs live.
        mount: the folder of the VM where disk or share is mounted.
        create_flags: further flags of gcloud's create, such as `--network=x`.
    """

    name: str
    project: str
    zone: str
    accelerator_type: str = ""
    runtime_version: str = ""
    provisioning: str = "on_demand"
    queued: bool = False
    disk: str = ""
    disk_size_gb: int = 100
    disk_device: str = "/dev/disk/by-id/google-persistent-disk-1"
    nfs: str = ""
    mount: str = "/mnt/minirec"
    create_flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks what every verb needs.

        Raises:
            UsageError: a value is missing or impossible; the message names the flag.
        """
        for field in ("name", "project", "zone"):
            if not getattr(self, field):
                raise UsageError(f"--{field} is missing: a TPU VM has a name, a project and a zone")
        for field, (pattern, expected) in _PATTERNS.items():
            value = getattr(self, field)
            if value and (pattern.fullmatch(value) is None or ".." in value):
                raise UsageError(f"--{field}={value!r}: expected {expected}")
        for flag in self.create_flags:
            match = _CREATE_FLAG.fullmatch(flag)
            if match is None or match[1] in _OWN_FLAGS:
                raise UsageError(
                    f"--create_flag={flag!r}: expected --FLAG or --FLAG=VALUE of gcloud's create, "
                    f"and none of {', '.join(_OWN_FLAGS)}, which have flags here"
                )
        if self.accelerator_type and _ACCELERATOR.fullmatch(self.accelerator_type) is None:
            raise UsageError(
                f"--accelerator_type={self.accelerator_type!r}: expected a type and a size, such "
                "as v5litepod-8 or v6e-4"
            )
        if self.disk and self.nfs:
            raise UsageError("--disk and --nfs: give one of them, where runs shall live")
        if self.disk and self.accelerator_type and self.several_hosts:
            raise UsageError(
                f"--disk={self.disk}: {self.accelerator_type} has several hosts, and a disk can be "
                "written by one; use --nfs=SERVER:/share"
            )
        if not self.mount:
            raise UsageError(f"--mount is missing: expected {_PATTERNS['mount'][1]}")
        if self.queued and self.provisioning == "preemptible":
            raise UsageError("--queued: a queued VM is on_demand or spot, not preemptible")

    def require_accelerator(self) -> None:
        """Raises UsageError unless the accelerator type is given and its image is known."""
        if not self.accelerator_type:
            raise UsageError("--accelerator_type is missing: name one, such as v5litepod-8")
        if not self.image:
            raise UsageError(
                f"--runtime_version is missing: no usual one is known for {self.accelerator_type}, "
                f"only for {', '.join(_RUNTIMES)}"
            )

    def require_storage(self) -> None:
        """Raises UsageError unless there is a disk or a share, which outlives the VM."""
        if not (self.disk or self.nfs):
            raise UsageError(
                "--disk is missing: name a disk (create makes it) or --nfs=SERVER:/share; what is "
                "written elsewhere is gone with the VM"
            )

    @property
    def image(self) -> str:
        """The VM's runtime version, empty where it is not known."""
        return self.runtime_version or _RUNTIMES.get(self.accelerator_type.partition("-")[0], "")

    @property
    def disk_type(self) -> str:
        """The kind of disk that the accelerator can have."""
        return "hyperdisk-balanced" if self.accelerator_type.startswith("v6e") else "pd-balanced"

    @property
    def several_hosts(self) -> bool:
        """Whether the slice has more than one VM."""
        return int(self.accelerator_type.rpartition("-")[2]) > _ONE_HOST

    def inside(self, path: str, flag: str) -> str:
        """Returns a path relative to the mount.

        Args:
            path: absolute, or relative to the mount.
            flag: what it was given by, for errors.

        Raises:
            UsageError: it leads elsewhere, where it would be gone with the VM.
        """
        absolute = posixpath.normpath(posixpath.join(self.mount, path))
        if not path or not absolute.startswith(f"{self.mount}/"):
            raise UsageError(
                f"{flag}={path}: must be a folder below {self.mount}, which outlives the VM"
            )
        return posixpath.relpath(absolute, self.mount)
