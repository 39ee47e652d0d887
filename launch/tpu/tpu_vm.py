"""Runs on the TPU VM, whose own Python 3.10 has no package of ours: standard library only.

`setup` copies this file to the VM's home folder; the launcher calls it over ssh:

    python3 tpu_vm.py mount /mnt/minirec --disk=/dev/sdb
    python3 tpu_vm.py install minirec-0.1.0-py3-none-any.whl --extras=tpu
    python3 tpu_vm.py start /mnt/minirec KEY -- launch.prepare --config=x -- launch.train --config=x
    python3 tpu_vm.py status /mnt/minirec KEY
    python3 tpu_vm.py stop | log /mnt/minirec | pack /mnt/minirec FOLDER

A job is told from others by its key. One job runs at a time: a lock says that it does, and ends
with its last process, however that ends. A job that has ended leaves its exit status; one that a
signal ended leaves none, since a VM that is shut down has not finished.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

WORD = "minirec-job:"
"""Begins the line by which each worker says how its job is."""

_PYTHON = "3.12"
_SEPARATOR = "--"
_STOP_SECONDS = 300
_UNFINISHED = ".orbax-checkpoint-tmp"  # Orbax renames the folder once all is written
_IN_MEMORY = 1 << 26
_BLANK = 2  # blkid's status where it looked and found nothing


class _MistakeError(Exception):
    """What the person has to mend, in words."""


def mount(folder: str, disk: str, nfs: str) -> None:
    """Mounts a disk or a share; a disk without a file system gets one."""
    _call("sudo", "mkdir", "-p", folder)
    if not _is_mounted(folder):
        if nfs:
            if shutil.which("mount.nfs") is None:
                _call("sudo", "apt-get", "install", "-y", "-q", "nfs-common")
            _call("sudo", "mount", "-t", "nfs", nfs, folder)
        else:
            looked = subprocess.run(["sudo", "blkid", "-p", disk], stdout=subprocess.DEVNULL)
            # No other answer may end in a new file system over what is there.
            if looked.returncode == _BLANK and os.path.exists(disk):
                _call("sudo", "mkfs.ext4", "-q", "-m", "0", disk)
            _call("sudo", "mount", "-o", "discard", disk, folder)
    _call("sudo", "chown", f"{os.getuid()}:{os.getgid()}", folder)
    for name in ("data", "logs"):
        Path(folder, name).mkdir(exist_ok=True)


def install(wheel: str, constraints: str, extras: str) -> None:
    """Installs a wheel of the home folder into an environment of its own.

    Ubuntu's Python is too old for it, so that uv brings one.
    """
    python = _home() / "venv" / "bin" / "python"
    _home().mkdir(exist_ok=True)
    # Newer images refuse to install beside the system's packages; uv touches none of them.
    environment = {**os.environ, "PIP_BREAK_SYSTEM_PACKAGES": "1"}
    _call("python3", "-m", "pip", "install", "-q", "--user", "uv", env=environment)
    uv = str(Path.home() / ".local" / "bin" / "uv")
    if not python.exists():
        _call(uv, "venv", "-q", "--python", _PYTHON, str(_home() / "venv"))
    fixed = ["--constraint", str(Path.home() / constraints)] if constraints else []
    what = f"{Path.home() / wheel}[{extras}]"
    again = ("--reinstall-package", "minirec")
    _call(uv, "pip", "install", "-q", "--python", str(python), *again, *fixed, what)
    _call(str(python), "-c", "import jax, launch.wiring.program")
    (_home() / "ready").touch()


def start(folder: str, key: str, steps: list[str]) -> str:
    """Starts a job, which goes on when the connection ends; returns what to say."""
    if not _is_mounted(folder):
        # The job would begin anew on a disk that is gone with the VM.
        raise _MistakeError(f"{folder} is not mounted; run setup first")
    lock = _take_lock()
    if lock is None:
        if _current() == key:
            return f"{WORD} running already"
        raise _MistakeError("another job is running on this VM")
    _status_file(key).unlink(missing_ok=True)
    with Path(folder, "logs", f"{socket.gethostname()}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "work", folder, key, _SEPARATOR, *steps],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock],
        )
    (_home() / "current").write_text(f"{key} {process.pid}")
    return f"{WORD} started"


def work(folder: str, key: str, steps: list[str]) -> None:
    """Runs a job's steps, as `start` calls it, and leaves the exit status."""
    stopped = False
    child: subprocess.Popen[bytes] | None = None

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        if child is not None:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    environment = {**os.environ, "MINIREC_DATA": str(Path(folder, "data"))}
    status = 0
    for step in _split(steps):
        command = [str(_home() / "venv" / "bin" / "python"), "-m", *step]
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command)}", flush=True)
        # The lock's descriptor goes along: while anything of the job lives, it is held.
        child = subprocess.Popen(command, env=environment, close_fds=False)
        if stopped:
            child.terminate()
        status = child.wait()
        if stopped:
            return
        if status:
            break
    path = _status_file(key)
    path.with_suffix(".new").write_text(str(status if status >= 0 else 128 - status))
    os.replace(path.with_suffix(".new"), path)


def status(folder: str, key: str) -> str:
    """Returns how the job is: new (not set up), idle, running, busy (another's), exited STATUS."""
    # After a restart of the VM the storage has to be mounted again.
    if not (_home() / "ready").exists() or not _is_mounted(folder):
        return f"{WORD} new"
    lock = _take_lock()
    if lock is None:
        return f"{WORD} {'running' if _current() == key else 'busy'}"
    os.close(lock)
    path = _status_file(key)
    return f"{WORD} exited {path.read_text()}" if path.exists() else f"{WORD} idle"


def stop() -> None:
    """Ends the job that runs, which saves first, and waits for it."""
    lock = _take_lock()
    if lock is None:
        os.killpg(int((_home() / "current").read_text().split()[1]), signal.SIGTERM)
        until = time.monotonic() + _STOP_SECONDS
        while (lock := _take_lock()) is None:
            if time.monotonic() > until:
                raise _MistakeError(f"the job has not ended within {_STOP_SECONDS} s of SIGTERM")
            time.sleep(0.1)
    os.close(lock)


def log(folder: str, lines: int) -> str:
    """Returns the end of this worker's log."""
    path = Path(folder, "logs", f"{socket.gethostname()}.log")
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def pack(folder: str, workdir: str, checkpoints: bool) -> None:
    """Packs a folder of results, without prepared data, and the logs into one file.

    A job may run meanwhile: what has a temporary name stays out, and so does what is gone by the
    time it is read.
    """
    left_out = {"prepared"} if checkpoints else {"prepared", "checkpoints"}
    if not Path(folder, workdir).is_dir():
        raise _MistakeError(f"{Path(folder, workdir)}: there is no such folder")
    _home().mkdir(exist_ok=True)
    with tarfile.open(_home() / "collect.tar.gz", "w:gz") as packed:
        _pack_entry(packed, Path(folder, workdir), f"./{workdir}", left_out)
        _pack_entry(packed, Path(folder, "logs"), "./logs", set())


def _pack_entry(packed: tarfile.TarFile, path: Path, name: str, left_out: set[str]) -> None:
    try:
        entry = packed.gettarinfo(path, arcname=name)
        if entry is None:  # a socket
            return
        if entry.isreg() or entry.islnk():
            _pack_file(packed, path, entry)
            return
        names = sorted(os.listdir(path)) if entry.isdir() else []
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):  # ESTALE: what an NFS share says
            raise
        print(f"{name}: gone while it was packed", file=sys.stderr)
        return
    packed.addfile(entry)
    for child in names:
        if not child.startswith(".") and _UNFINISHED not in child and child not in left_out:
            _pack_entry(packed, path / child, f"{name}/{child}", left_out)


def _pack_file(packed: tarfile.TarFile, path: Path, entry: tarfile.TarInfo) -> None:
    """Adds a file, of which other processes may write meanwhile, with its size when it is read."""
    with open(path, "rb") as source, tempfile.SpooledTemporaryFile(_IN_MEMORY) as copy:
        shutil.copyfileobj(source, copy)
        # A link's target may have gone before it was packed.
        entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", copy.tell()
        copy.seek(0)
        packed.addfile(entry, copy)


def _home() -> Path:
    return Path.home() / "minirec"


def _status_file(key: str) -> Path:
    return _home() / f"{key}.status"


def _current() -> str:
    try:
        return (_home() / "current").read_text().split()[0]
    except (FileNotFoundError, IndexError):
        return ""


def _take_lock() -> int | None:
    """Returns the lock's descriptor, None where a job holds it."""
    descriptor = os.open(_home() / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _is_mounted(folder: str) -> bool:
    return subprocess.run(["mountpoint", "-q", folder]).returncode == 0


def _call(*arguments: str, env: dict[str, str] | None = None) -> None:
    subprocess.run(arguments, check=True, env=env)


def _split(steps: Sequence[str]) -> list[list[str]]:
    split: list[list[str]] = [[]]
    for argument in steps:
        if argument == _SEPARATOR:
            split.append([])
        else:
            split[-1].append(argument)
    return split


def main(argv: Sequence[str]) -> int:
    """Runs one verb; returns the exit status."""
    end = list(argv).index(_SEPARATOR) if _SEPARATOR in argv else len(argv)
    steps = list(argv[end + 1 :])
    parser = argparse.ArgumentParser(prog="tpu_vm.py")
    verbs = parser.add_subparsers(dest="verb", required=True)
    arguments = {
        "mount": ["folder", "--disk", "--nfs"],
        "install": ["wheel", "--constraints", "--extras"],
        "start": ["folder", "key"],
        "work": ["folder", "key"],
        "status": ["folder", "key"],
        "stop": [],
        "log": ["folder"],
        "pack": ["folder", "workdir"],
    }
    for verb, names in arguments.items():
        sub = verbs.add_parser(verb, allow_abbrev=False)
        for name in names:
            if name.startswith("--"):
                sub.add_argument(name, default="")
            else:
                sub.add_argument(name)
    verbs.choices["log"].add_argument("--lines", type=int, default=40)
    verbs.choices["pack"].add_argument("--checkpoints", action="store_true")
    options = vars(parser.parse_args(argv[:end]))
    verb = options.pop("verb")
    if verb in ("start", "work"):
        options["steps"] = steps
    functions = {
        "mount": mount,
        "install": install,
        "start": start,
        "work": work,
        "status": status,
        "stop": stop,
        "log": log,
        "pack": pack,
    }
    try:
        said = functions[verb](**options)
    except (_MistakeError, OSError) as error:
        print(f"error: {socket.gethostname()}: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: {socket.gethostname()}: {error}", file=sys.stderr)
        return error.returncode if error.returncode > 0 else 1
    if said is not None:
        print(said)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
