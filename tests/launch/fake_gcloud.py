"""Plays gcloud and a TPU VM for tests/launch/test_tpu.py.

It records how it was called, and runs what is meant for the VM in a shell of this machine. The
folder `FAKE_TPU` holds: `calls` (a JSON list a line); `state`, the VM's, missing where there is
none; `fail`, JSON: `{verb: [status, text, times]}`; `image`, what a new VM's home holds, and
`home`, the VM's; `bin`, its programs; `preempt_when`, the path of a file at which the VM is lost.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

ROOT = pathlib.Path(os.environ["FAKE_TPU"])
STATE, HOME, FAIL, DISK = ROOT / "state", ROOT / "home", ROOT / "fail", ROOT / "disk"


def main(arguments):
    with (ROOT / "calls").open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    kind = arguments[1]
    verb = arguments[2] if kind == "disks" else arguments[3]
    fail_if_told(verb)
    if kind == "disks":
        if verb == "describe" and not DISK.exists():
            sys.exit(1)
        DISK.touch()
    else:
        VERBS[verb](arguments[4:])


def fail_if_told(verb):
    failures = json.loads(FAIL.read_text()) if FAIL.exists() else {}
    if verb in failures:
        status, text, times = failures.pop(verb)
        if times > 1:
            failures[verb] = [status, text, times - 1]
        FAIL.write_text(json.dumps(failures))
        print(text, file=sys.stderr)
        sys.exit(status)


def create(arguments):
    shutil.copytree(ROOT / "image", HOME)
    STATE.write_text("READY")


def delete(arguments):
    lose()
    STATE.unlink()


def lose():
    """The VM is gone at once, with all that runs on it."""
    current = HOME / "minirec" / "current"
    if current.exists():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(current.read_text().split()[1]), signal.SIGKILL)
    shutil.rmtree(HOME, ignore_errors=True)
    (ROOT / "mounted").unlink(missing_ok=True)


def describe(arguments):
    if not STATE.exists():
        print("ERROR: (gcloud) NOT_FOUND: Resource was not found", file=sys.stderr)
        sys.exit(1)
    when = ROOT / "preempt_when"
    if when.exists() and pathlib.Path(when.read_text()).exists():
        when.unlink()
        lose()
        STATE.write_text("PREEMPTED")
    print(STATE.read_text())


def scp(arguments):
    *sources, target = [name for name in arguments if not name.startswith("--")]
    for source in sources:
        path = HOME / source.partition(":")[2] if ":" in source else pathlib.Path(source)
        place = HOME / target.partition(":")[2] if ":" in target else pathlib.Path(target)
        if path.is_dir():
            shutil.copytree(path, place / path.name)
        else:
            shutil.copy(path, place)


def ssh(arguments):
    command = next(name for name in arguments if name.startswith("--command="))
    path = f"{ROOT / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(HOME), "PATH": path}
    shell = ["sh", "-c", command.partition("=")[2]]
    sys.exit(subprocess.run(shell, cwd=HOME, env=environment, check=False).returncode)


VERBS = {"create": create, "delete": delete, "describe": describe, "scp": scp, "ssh": ssh}

if __name__ == "__main__":
    main(sys.argv[1:])
