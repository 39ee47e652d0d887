"""`launch.tpu`: the commands it prints, and the same against a gcloud that is played here."""

import ast
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import time

import pytest
from absl import flags
from absl.testing import flagsaver

from launch.tpu import commands, tpu_vm
from launch.tpu.commands import Package
from launch.tpu.job import Job, job_from
from launch.tpu.spec import TpuSpec
from launch.tpu.watch import Watch
from launch.wiring import program, shell
from launch.wiring.program import UsageError

ROOT = pathlib.Path(__file__).parent.parent.parent
FAKE = pathlib.Path(__file__).parent / "fake_gcloud.py"
SPEC = TpuSpec(
    name="beauty",
    project="my-project",
    zone="us-west4-a",
    accelerator_type="v5litepod-8",
    provisioning="spot",
    disk="beauty-disk",
)
FLAGS = (
    "--name=beauty",
    "--project=my-project",
    "--zone=us-west4-a",
    "--accelerator-type=v5litepod-8",
    "--provisioning=spot",
    "--disk=beauty-disk",
    "--wheel=dist/minirec.whl",
)
PLACE = ["--project=my-project", "--zone=us-west4-a"]
VM = ["gcloud", "compute", "tpus", "tpu-vm"]
DISKS = ["gcloud", "compute", "disks"]
SSH = [*VM, "ssh", "beauty", *PLACE, "--worker=all", "--quiet"]
FORCE = ("--force", "--quiet")
STEPS = ("--", "launch.prepare", "--config=x", "--workdir=w", "--", "launch.train", "--workdir=w")
ODD = ["a b", "it's", 'say "x"', "$HOME", "a;rm -rf /", "`id`", "new\nline", "日本", "*", "\\", "#"]


def launch(*arguments, env=None):
    return subprocess.run(
        [sys.executable, "-m", "launch.tpu", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": ""} | (env or {}),
    )


def printed(*arguments):
    """The commands of a dry run, as argument lists; there are no cloud tools on its PATH."""
    done = launch(*arguments)
    assert done.returncode == 0, done.stderr
    return [words for line in done.stdout.splitlines() if (words := shlex.split(line, True))]


def test_create_makes_the_disk_where_there_is_none_and_the_vm():
    disk, vm = printed("create", *FLAGS, "--dry-run")
    either = disk.index("||")
    assert disk[:either] == [*DISKS, "describe", "beauty-disk", *PLACE, ">", "/dev/null", "2>&1"]
    size = ["--size=100GB", "--type=pd-balanced"]
    assert disk[either + 1 :] == [*DISKS, "create", "beauty-disk", *PLACE, *size]
    assert vm == [
        *VM,
        "create",
        "beauty",
        *PLACE,
        "--accelerator-type=v5litepod-8",
        "--version=v2-alpha-tpuv5-lite",
        "--spot",
        "--data-disk=source=projects/my-project/zones/us-west4-a/disks/beauty-disk,mode=read-write",
    ]


def test_a_queued_vm_is_asked_for_by_a_request_with_the_images_other_flag():
    spec = dataclasses.replace(SPEC, queued=True, accelerator_type="v6e-4", create_flags=("--x=1",))
    disk, request = commands.create(spec)
    assert disk.arguments[-1] == "--type=hyperdisk-balanced"  # a v6e can have no other
    assert request.arguments[:6] == (*VM[:3], "queued-resources", "create", "beauty")
    asked = {"--node-id=beauty", "--runtime-version=v2-alpha-tpuv6e", "--spot", "--x=1"}
    assert asked < set(request.arguments)
    (gone,) = commands.delete(spec)
    assert gone.arguments[3:] == ("queued-resources", "delete", "beauty", *PLACE, *FORCE)


def test_setup_copies_mounts_and_installs():
    files = ["launch/tpu/tpu_vm.py", "dist/minirec.whl", "requirements.lock"]
    to_all = [*PLACE, "--worker=all", "--recurse", "--quiet"]
    to_one = [*PLACE, "--worker=0", "--recurse", "--quiet"]
    device = "/dev/disk/by-id/google-persistent-disk-1"
    fixed = "--constraints=requirements.lock --extras=tpu"
    assert printed("setup", *FLAGS, "--data=/x/amazon_beauty", "--dry_run") == [
        [*VM, "scp", *files, "beauty:", *to_all],
        [*SSH, f"--command=python3 tpu_vm.py mount /mnt/minirec --disk={device}"],
        [*VM, "scp", "/x/amazon_beauty", "beauty:/mnt/minirec/data/", *to_one],
        [*SSH, f"--command=python3 tpu_vm.py install minirec.whl {fixed}"],
    ]
    build, package = commands.build(Package())
    assert build[0].arguments[1:4] == ("-m", "pip", "wheel")
    assert package.wheel.startswith("dist/minirec-")


def test_run_starts_the_steps_on_all_workers():
    (line,) = printed("run", *FLAGS, "--dry-run", *STEPS)
    assert line[:-1] == SSH
    remote = shlex.split(line[-1].removeprefix("--command="))
    assert remote[:4] == ["python3", "tpu_vm.py", "start", "/mnt/minirec"]
    assert remote[5:] == list(STEPS)


def test_a_watched_run_says_what_it_does_when_the_vm_is_taken_away():
    lines = printed("run", *FLAGS, "--watch", "--delete_when_done", "--dry-run", *STEPS)
    verbs = [line[4] for line in lines if line[:4] == VM]
    assert verbs[:2] == ["describe", "ssh"]
    assert verbs[2:7] == ["delete", "create", "scp", "ssh", "ssh"]
    remote = [line[-1].split()[2] for line in lines if line[:5] == [*VM, "ssh"]]
    assert remote[-5:] == ["start", "stop", "start", "stop", "log"]
    assert verbs[-1] == "delete"


def test_collect_and_delete():
    packing, *rest = printed("collect", *FLAGS, "--workdir=w", "--to=out", "--dry-run")
    assert packing[-1] == "--command=python3 tpu_vm.py pack /mnt/minirec w"
    packed = ["beauty:minirec/collect.tar.gz", "out/.collect.tar.gz"]
    assert rest == [
        ["mkdir", "-p", "out"],
        [*VM, "scp", *packed, *PLACE, "--worker=0", "--recurse", "--quiet"],
        ["tar", "-xzf", "out/.collect.tar.gz", "-C", "out"],
        ["rm", "out/.collect.tar.gz"],
    ]
    assert printed("delete", *FLAGS, "--delete-disk", "--dry-run") == [
        [*VM, "delete", "beauty", *PLACE, "--quiet"],
        [*DISKS, "delete", "beauty-disk", *PLACE, "--quiet"],
    ]


def test_the_runbook_shows_what_the_dry_runs_print(tmp_path):
    text = (ROOT / "docs" / "tpu_runbook.md").read_text()
    (tmp_path / "tpu.flags").write_text(re.search(r"```text\n(.*?)```", text, re.S)[1])
    shown = re.findall(r"```console\n\$ ((?:[^\n]*\\\n)*[^\n]*)\n(.*?)```", text, re.S)
    assert len(shown) == 7
    for command, output in shown:
        arguments = shlex.split(command.replace("\\\n", " "))
        assert arguments[:3] == ["python", "-m", "launch.tpu"]
        flagfile = f"--flagfile={tmp_path / 'tpu.flags'}"
        arguments = [name.replace("--flagfile=tpu.flags", flagfile) for name in arguments]
        assert launch(*arguments[3:]).stdout == output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "--name is missing"),
        ({"project": ""}, "--project is missing"),
        ({"zone": ""}, "--zone is missing"),
        ({"name": "-rf"}, "--name='-rf': expected lower-case letters"),
        ({"project": "x,mode=read-only"}, "--project='x,mode=read-only': expected"),
        ({"project": "x/y"}, "--project='x/y': expected"),
        ({"zone": "a\0b"}, "--zone='a.x00b': expected"),
        ({"zone": "us-west4-a\n"}, "--zone='us-west4-a.n': expected"),
        ({"disk": "a b"}, "--disk='a b': expected"),
        ({"disk": "", "nfs": "-o:/share"}, "--nfs='-o:/share': expected SERVER:/share"),
        ({"disk": "", "nfs": "x:/a b"}, "--nfs='x:/a b': expected"),
        ({"disk_device": "sdb"}, "--disk_device='sdb': expected an absolute path"),
        ({"disk_device": "/dev/../etc"}, "--disk_device='/dev/../etc': expected"),
        ({"runtime_version": "x --spot"}, "--runtime_version='x --spot': expected"),
        ({"create_flags": ("network=x",)}, "--create_flag='network=x': expected --FLAG"),
        ({"create_flags": ("--x=1", "--data-disk=y")}, "--create_flag='--data-disk=y': expected"),
        ({"create_flags": ("--x=a\x1b[2J",)}, "--create_flag='--x=a.x1b.2J': expected"),
        ({"accelerator_type": "v5e"}, "--accelerator_type='v5e': expected a type and a size"),
        ({"disk": "a,mode=x"}, "--disk='a,mode=x'"),
        ({"nfs": "x:/y"}, "--disk and --nfs"),
        ({"disk": "", "nfs": "share"}, "--nfs='share': expected SERVER:/share"),
        ({"accelerator_type": "v5litepod-16"}, "has several hosts.*--nfs"),
        ({"mount": "/mnt/a b"}, "--mount='/mnt/a b'"),
        ({"mount": "mnt"}, "--mount='mnt'"),
        ({"queued": True, "provisioning": "preemptible"}, "--queued"),
    ],
)
def test_a_bad_spec_is_an_error_that_names_the_flag(changes, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(SPEC, **changes)


def test_what_a_verb_needs_besides_is_an_error_that_names_the_flag():
    with pytest.raises(UsageError, match="--accelerator_type is missing"):
        commands.create(dataclasses.replace(SPEC, accelerator_type=""))
    with pytest.raises(UsageError, match="--runtime_version is missing"):
        commands.create(dataclasses.replace(SPEC, accelerator_type="v99-4"))
    with pytest.raises(UsageError, match="--disk is missing"):
        commands.setup(dataclasses.replace(SPEC, disk=""), Package("x.whl"))
    with pytest.raises(UsageError, match="expected the path of a wheel"):
        commands.setup(SPEC, Package("x y.whl"))
    with pytest.raises(UsageError, match="takes what stands before a ':'"):
        commands.collect(SPEC, "w", "a:b", checkpoints=False)
    done = launch("create", *FLAGS[1:], "--dry-run")
    assert done.returncode == 2
    assert done.stderr.strip().startswith("error: --name is missing")
    assert "only run takes" in launch("create", *FLAGS, "--", "launch.train").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "'' is not a program of this project"),
        (["rm", "-rf"], "'rm' is not a program"),
        (["launch.train", "--", "launch.x;y"], "'launch.x;y' is not a program"),
        (["launch.train", "--workdir=/tmp/w"], "--workdir=/tmp/w: must be a folder below /mnt"),
        (["launch.train", "--workdir", "../w"], r"--workdir=\.\./w: must be a folder below"),
        (["launch.train", "--workdir="], "--workdir=: must be a folder below"),
    ],
)
def test_a_job_that_would_not_outlive_the_vm_is_an_error(arguments, message):
    with pytest.raises(UsageError, match=message):
        job_from(arguments, SPEC, "all")


def test_on_several_hosts_each_program_is_told_to_find_the_others():
    spec = dataclasses.replace(SPEC, accelerator_type="v5litepod-16", disk="", nfs="10.0.0.2:/w")
    steps = (("launch.train", "--workdir=w"),)
    auto = "--coordinator_address=auto"
    assert Job(steps).arguments(spec) == ["launch.train", "--workdir=w", auto]
    assert Job(steps, worker="0").arguments(spec) == ["launch.train", "--workdir=w"]
    assert Job(steps).arguments(SPEC) == ["launch.train", "--workdir=w"]


def test_processes_of_a_slice_are_joined_by_what_jax_finds(monkeypatch):
    import jax
    from jax.experimental import multihost_utils

    called = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **_: called.append(args))
    monkeypatch.setattr(multihost_utils, "sync_global_devices", called.append)
    with flagsaver.flagsaver():
        flags.FLAGS(["train", "--coordinator_address=auto"])
        with program.joined_processes(allowed=True):
            pass
        flags.FLAGS(["train", "--num_processes=2"])
        with pytest.raises(UsageError, match="--process_id must be given"):  # noqa: SIM117
            with program.joined_processes(allowed=True):
                pass
    assert called[0] == (None, None, None)


def test_the_vms_script_is_python_3_10_with_the_standard_library_alone():
    source = pathlib.Path(tpu_vm.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 10))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in imported}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


# What runs on the played VM. `python` stands for the installed project: it notes how it was called;
# training notes that it began, and waits to be killed unless it finds that it had begun before.
PROGRAMS = {
    "mountpoint": '#!/bin/sh\n[ -e "$FAKE_TPU/mounted" ]',
    "sudo": '#!/bin/sh\nexec "$@"',
    "blkid": '#!/bin/sh\n[ -e "$FAKE_TPU/formatted" ] || exit 2',
    "mkfs.ext4": '#!/bin/sh\necho formatted >> "$FAKE_TPU/formatted"',
    "mount": '#!/bin/sh\ntouch "$FAKE_TPU/mounted"',
    "python3": f'#!/bin/sh\n[ "$2" = pip ] || exec {sys.executable} "$@"',
    "uv": '#!/bin/sh\n[ "$1" != venv ] || { mkdir -p "$5/bin" && cp "$FAKE_TPU/python" "$5/bin"; }',
    "python": f"""#!{sys.executable}
import json, os, pathlib, signal, sys
if sys.argv[1] == "-m":
    root = pathlib.Path(os.environ["FAKE_TPU"])
    with (root / "ran").open("a") as ran:
        ran.write(json.dumps([sys.argv[2:], os.getcwd(), os.environ["MINIREC_DATA"]]) + "\\n")
    if sys.argv[2] == "launch.train":
        if (root / "status").exists():
            print("the reason")
            sys.exit(int((root / "status").read_text()))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        if not (root / "mnt" / "begun").exists():
            (root / "mnt" / "begun").touch()
            while True:
                signal.pause()
""",
}


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """A played cloud; `cloud / "calls"` tells how gcloud was called, "ran" what ran on the VM."""
    (tmp_path / "bin").mkdir()
    for name, source in PROGRAMS.items():
        place = tmp_path / "image" / ".local" / "bin" if name == "uv" else tmp_path / "bin"
        place = tmp_path if name == "python" else place
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(source + "\n")
        (place / name).chmod(0o755)
    (tmp_path / "path").mkdir()
    gcloud = tmp_path / "path" / "gcloud"
    gcloud.write_text(f'#!/bin/sh\nexec {sys.executable} -S {FAKE} "$@"\n')
    gcloud.chmod(0o755)
    monkeypatch.setenv("FAKE_TPU", str(tmp_path))
    monkeypatch.setenv("PATH", f"{gcloud.parent}:{os.environ['PATH']}")
    (tmp_path / "mnt").mkdir()
    (tmp_path / "minirec.whl").touch()
    yield tmp_path
    current = tmp_path / "home" / "minirec" / "current"
    if current.exists():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(current.read_text().split()[1]), signal.SIGKILL)


def spec_in(cloud, **changes):
    device = cloud / "device"
    device.touch()
    return dataclasses.replace(SPEC, mount=str(cloud / "mnt"), disk_device=str(device), **changes)


def package_in(cloud):
    return Package(str(cloud / "minirec.whl"))


def verbs(cloud):
    calls = [json.loads(line) for line in (cloud / "calls").read_text().splitlines()]
    return [call[3] for call in calls if call[1] == "tpus"]


def ran(cloud):
    return [json.loads(line) for line in (cloud / "ran").read_text().splitlines()]


def watch(cloud, job, **options):
    until = time.monotonic() + 60

    def sleep(seconds):
        assert time.monotonic() < until, "the job does not end"
        time.sleep(0.02)

    return Watch(spec_in(cloud), job, package_in(cloud), sleep=sleep, **options)


TRAIN = Job((("launch.prepare", "--config=x"), ("launch.train", "--config=x", "--workdir=w")))


def test_a_preempted_run_resumes_by_itself(cloud, capfd):
    (cloud / "preempt_when").write_text(str(cloud / "mnt" / "begun"))
    assert watch(cloud, TRAIN).run() == 0
    assert [call[0] for call in ran(cloud)] == [list(step) for step in TRAIN.steps] * 2
    assert {(call[1], call[2]) for call in ran(cloud)} == {
        (str(cloud / "mnt"), str(cloud / "mnt" / "data"))
    }
    done = [verb for verb in verbs(cloud) if verb in ("create", "delete", "scp")]
    assert done == ["create", "scp", "delete", "create", "scp"]
    assert (cloud / "formatted").read_text() == "formatted\n"  # the second VM found it formatted
    assert "beauty is PREEMPTED: making it anew" in capfd.readouterr().err


def test_every_value_arrives_as_it_was_given(cloud):
    spec = spec_in(cloud)
    shell.run([*commands.create(spec), *commands.setup(spec, package_in(cloud))])
    job = Job((("launch.prepare", *ODD, *[f"--x={odd}" for odd in ODD], "-", "--name=-rf"),))
    assert watch(cloud, job).run() == 0
    assert ran(cloud)[-1][0] == list(job.steps[0])


def test_printed_commands_are_what_a_shell_reads_back():
    job = Job((("launch.prepare", *ODD),))
    for command in (commands.start(SPEC, job), commands.describe(SPEC)):
        assert tuple(shlex.split(str(command))) == command.arguments


def test_no_name_can_become_an_option_of_its_own():
    for odd in [*ODD, "a,b", "a=b", "^:^a", "-a", "A", "a/b", "..", "\u202ea", "a\x1b"]:
        for field in ("name", "project", "zone", "disk", "runtime_version", "disk_device", "mount"):
            if (field, odd) == ("runtime_version", "A"):
                continue
            with pytest.raises(UsageError, match=f"--{field}="):
                dataclasses.replace(SPEC, **{field: odd})
        with pytest.raises(UsageError, match="--create_flag="):
            dataclasses.replace(SPEC, create_flags=(odd,))
    assert dataclasses.replace(SPEC, project="example.com:my-project", name="a-1").name == "a-1"
    with pytest.raises(UsageError, match="--extras='tpu] x': expected"):
        commands.setup(SPEC, Package("x.whl", extras="tpu] x"))


def test_a_stopped_job_goes_on_and_a_second_one_must_wait(cloud):
    spec = spec_in(cloud)
    shell.run([*commands.create(spec), *commands.setup(spec, package_in(cloud))])
    how = commands.status(spec, TRAIN)
    assert shell.read(how) == "minirec-job: idle\n"
    shell.run([commands.start(spec, TRAIN)])
    until = time.monotonic() + 60
    while not (cloud / "mnt" / "begun").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    assert shell.read(how) == "minirec-job: running\n"
    assert "running already" in shell.read(commands.start(spec, TRAIN))
    other = Job((("launch.train", "--workdir=other"),))
    assert shell.read(commands.status(spec, other)) == "minirec-job: busy\n"
    with pytest.raises(shell.CommandFailedError) as error:
        shell.read(commands.start(spec, other))
    assert error.value.status == 1
    assert "another job is running on this VM" in error.value.errors
    shell.run([commands.stop(spec, TRAIN)])  # as a VM does that is shut down
    assert shell.read(how) == "minirec-job: idle\n"
    (cloud / "mounted").unlink()  # and started again
    assert shell.read(how) == "minirec-job: new\n"
    assert watch(cloud, TRAIN).run() == 0
    assert shell.read(how) == "minirec-job: exited 0\n"


@pytest.mark.parametrize(("status", "starts"), [(2, 1), (3, 3)])
def test_a_job_that_fails_is_started_again_unless_a_person_has_to_mend_it(
    status, starts, cloud, capfd
):
    (cloud / "status").write_text(str(status))
    assert watch(cloud, TRAIN, restarts=2).run() == status
    assert [call[0][0] for call in ran(cloud)].count("launch.train") == starts
    assert "the reason" in capfd.readouterr().out
    (cloud / "status").unlink()  # mended
    (cloud / "mnt" / "begun").touch()
    assert watch(cloud, TRAIN, restarts=0).run() == 0
    assert [call[0][0] for call in ran(cloud)].count("launch.train") == starts + 1


def test_a_command_that_fails_is_tried_again_and_in_the_end_told(cloud, capfd):
    (cloud / "mnt" / "begun").touch()
    (cloud / "fail").write_text(json.dumps({"create": [1, "ERROR: no capacity", 2]}))
    assert watch(cloud, TRAIN).run() == 0
    (cloud / "fail").write_text(json.dumps({"describe": [13, "ERROR: no permission", 9]}))
    with pytest.raises(shell.CommandFailedError, match="exit status 13") as error:
        watch(cloud, TRAIN, max_failures=1).run()
    assert "no permission" in error.value.errors
    capfd.readouterr()


SCARCE = (
    'ERROR: There is no more capacity in the zone "us-west4-a"; you can try in another zone',
    "ERROR: Quota limit 'TPUV5sPreemptiblePerProjectPerZone' has been exceeded. Limit: 8",
    '{"code": 8, "status": "RESOURCE_EXHAUSTED"}',
    "ERROR: Insufficient capacity.",
    "Insufficient reserved capacity. Contact customer support",
    "code: ZONE_RESOURCE_POOL_EXHAUSTED",
    "reason: stockout",
    "Code: QUOTA_EXCEEDED",
)
DENIED = "WARNING: Your active project does not match the quota project\nERROR: PERMISSION_DENIED"


def test_capacity_is_waited_for_however_long_and_nothing_else_is(monkeypatch):
    errors = [*SCARCE * 10, DENIED]
    kept = []

    def run(many, keep_errors=False):
        if many:
            kept.append(keep_errors)
            raise shell.CommandFailedError(commands.describe(SPEC), 5, errors.pop(0))

    def read(command):
        raise shell.CommandFailedError(command, 1, "NOT_FOUND")

    monkeypatch.setattr(shell, "run", run)
    monkeypatch.setattr(shell, "read", read)
    with pytest.raises(shell.CommandFailedError) as error:
        Watch(SPEC, TRAIN, Package("x.whl"), max_failures=0, sleep=lambda _: None).run()
    assert error.value.errors == DENIED
    assert not errors
    assert all(kept)


def test_the_watch_reads_what_create_says_in_its_errors(cloud, capfd):
    (cloud / "mnt" / "begun").touch()
    (cloud / "fail").write_text(json.dumps({"create": [1, SCARCE[0], 3]}))
    assert watch(cloud, TRAIN, max_failures=0).run() == 0
    assert capfd.readouterr().err.count(SCARCE[0]) == 3


def test_a_failed_commands_status_and_stderr_are_the_programs(cloud):
    (cloud / "fail").write_text(json.dumps({"delete": [7, "ERROR: quota", 1]}))
    env = {name: os.environ[name] for name in ("PATH", "FAKE_TPU")}
    done = launch("delete", *FLAGS, env=env)
    assert done.returncode == 7
    assert "ERROR: quota" in done.stderr
    assert "error: exit status 7: gcloud compute tpus tpu-vm delete beauty" in done.stderr
    assert "install the Google Cloud CLI" in launch("delete", *FLAGS).stderr


def test_collecting_brings_results_and_logs_without_checkpoints(cloud, tmp_path):
    spec = spec_in(cloud)
    shell.run([*commands.create(spec), *commands.setup(spec, package_in(cloud))])
    run = cloud / "mnt" / "it's" / "runs" / "r"
    for name in ("report/report.json", "checkpoints/last/1", "metrics.jsonl"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    (cloud / "mnt" / "it's" / "prepared").mkdir()
    (cloud / "mnt" / "logs" / "host.log").write_text("said")
    to = tmp_path / "out"
    for checkpoints in (False, True):
        shell.run(commands.collect(spec, "it's", str(to), checkpoints=checkpoints))
        assert (to / "it's" / "runs" / "r" / "checkpoints").exists() == checkpoints
    assert (to / "it's" / "runs" / "r" / "report" / "report.json").read_text()
    assert (to / "logs" / "host.log").read_text() == "said"
    assert not (to / "it's" / "prepared").exists()
    with pytest.raises(shell.CommandFailedError):
        shell.run(commands.collect(spec, "none", str(to), checkpoints=False))


def test_collecting_from_a_running_job_leaves_out_what_is_unfinished_or_gone(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    last = tmp_path / "mnt" / "w" / "checkpoints" / "last"
    unfinished = ("4.orbax-checkpoint-tmp-12/model", "4.orbax-checkpoint-tmp/model", ".x/model")
    for name in ("2/model", "3/model", *unfinished):
        (last / name).parent.mkdir(parents=True)
        (last / name).write_bytes(b"x" * 9)
    for name in ("same", "too"):
        (last / "2" / name).hardlink_to(last / "2" / "model")
    (tmp_path / "mnt" / "logs").mkdir()
    listdir, gettarinfo = os.listdir, tarfile.TarFile.gettarinfo

    def with_one_gone(path):
        return [*listdir(path), "gone"]

    def then_changed(*arguments, **options):
        entry = gettarinfo(*arguments, **options)
        if entry.name.endswith("2/model"):
            (last / "2" / "model").unlink()
        if entry.name.endswith("3/model"):
            os.truncate(last / "3" / "model", 4)
        return entry

    monkeypatch.setattr(os, "listdir", with_one_gone)
    monkeypatch.setattr(tarfile.TarFile, "gettarinfo", then_changed)
    tpu_vm.pack(str(tmp_path / "mnt"), "w", True)
    assert "./w/checkpoints/last/2/model: gone while it was packed" in capsys.readouterr().err
    with tarfile.open(tmp_path / "home" / "minirec" / "collect.tar.gz") as packed:
        entries = {entry.name: entry for entry in packed if not entry.isdir()}
        held = {name: packed.extractfile(entry).read() for name, entry in entries.items()}
    place = "./w/checkpoints/last"
    assert held == {
        f"{place}/2/same": b"x" * 9,
        f"{place}/2/too": b"x" * 9,
        f"{place}/3/model": b"x" * 4,
    }


def test_a_queued_vm_is_waited_for_and_asked_for_anew(monkeypatch):
    """The request waits, is granted, and is asked for again once it is suspended."""
    none = shell.CommandFailedError(commands.describe(SPEC), 1, "NOT_FOUND")
    answers = [
        *("none", "none"),  # neither VM nor request: it is asked for
        *("none", "WAITING_FOR_RESOURCES"),
        *("READY", "minirec-job: running"),
        *("none", "SUSPENDED"),  # taken away: request and VM are made anew
        *("READY", "minirec-job: exited 0"),
    ]
    done = []

    def read(command):
        answer = answers.pop(0)
        if answer == "none":
            raise none
        return answer

    monkeypatch.setattr(shell, "read", read)
    monkeypatch.setattr(shell, "run", lambda many, **_: done.extend(c.arguments[3:5] for c in many))
    spec = dataclasses.replace(SPEC, queued=True)
    assert Watch(spec, TRAIN, Package("x.whl"), sleep=lambda _: None).run() == 0
    made = [words[1] for words in done if words[0] == "queued-resources"]
    assert made == ["create", "delete", "create"]
    assert not answers


@pytest.mark.parametrize("queued", [False, True])
def test_a_new_vm_has_all_its_restarts_however_the_old_one_went(queued, monkeypatch):
    gone = ("none", "SUSPENDED") if queued else ("none",)  # as by hand, with no state to tell
    back = ("READY", "minirec-job: running") if queued else ("minirec-job: running",)
    failed = ("READY", "minirec-job: exited 3")
    ended = ("READY", "minirec-job: exited 0")
    answers = ["READY", "minirec-job: running", *failed, *gone, *back, *failed, *ended]

    def read(command):
        answer = answers.pop(0)
        if answer == "none":
            raise shell.CommandFailedError(command, 1, "NOT_FOUND")
        return answer

    monkeypatch.setattr(shell, "read", read)
    monkeypatch.setattr(shell, "run", lambda many, **_: None)
    spec = dataclasses.replace(SPEC, queued=queued)
    watched = Watch(spec, TRAIN, Package("x.whl"), restarts=1, sleep=lambda _: None)
    assert watched.run() == 0
    assert not answers


def test_hosts_where_an_earlier_watch_gave_up_begin_together(monkeypatch):
    """One host failed, and the other, which waited for it, was stopped: it has no status."""
    answers = ["READY", "minirec-job: exited 2\nminirec-job: idle"]
    answers += ["READY", "minirec-job: exited 0\n" * 2]
    done = []
    monkeypatch.setattr(shell, "read", lambda command: answers.pop(0))
    monkeypatch.setattr(shell, "run", lambda many: done.extend(c.arguments[-1] for c in many))
    spec = dataclasses.replace(SPEC, accelerator_type="v5litepod-16", disk="", nfs="10.0.0.2:/w")
    assert Watch(spec, TRAIN, Package("x.whl"), sleep=lambda _: None).run() == 0
    assert [command.split()[2] for command in done] == ["start"]


def test_hosts_that_do_not_stand_alike_are_started_together(monkeypatch):
    """One host of a slice has lost the job, the other waits for it: both are stopped and begin."""
    both = "minirec-job: idle\nminirec-job: running"
    answers = ["READY", both, "READY", both, "READY", "minirec-job: exited 0\n" * 2]
    done = []
    monkeypatch.setattr(shell, "read", lambda command: answers.pop(0))
    monkeypatch.setattr(shell, "run", lambda many: done.extend(c.arguments[-1] for c in many))
    spec = dataclasses.replace(SPEC, accelerator_type="v5litepod-16", disk="", nfs="10.0.0.2:/w")
    assert Watch(spec, TRAIN, Package("x.whl"), sleep=lambda _: None).run() == 0
    assert [command.split()[2] for command in done] == ["stop", "start"]
