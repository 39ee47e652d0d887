"""Kills every program at random moments, runs it again and compares what is left.

    python -m tests.attacks.kill --times=100 [--programs=prepare,train] [--seed=0]

What a killed and repeated program leaves must be what one leaves that was never killed (but for
times of day and durations), with no temporary file beside it and no process alive. Prints a row a
program; exit code 1 where anything differs.

Programs are forks of this process, which has imported what they import, so that the moments fall
into their work. Children that they start themselves are processes like any other.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import hashlib
import importlib
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import uuid

import numpy as np

from tests.forked import become
from tests.pipelines import watch_data

_HEAVY = (
    *("jax", "flax.nnx", "optax", "orbax.checkpoint", "grain", "polars", "tensorboardX"),
    *("matplotlib.pyplot", "ml_collections", "rich.progress"),
)
# Of this project, what the programs share and what defines no flag of a program's own.
_OURS = (
    *("launch", "launch.wiring.append", "launch.wiring.experiment", "launch.wiring.fusion_run"),
    *("launch.wiring.language", "launch.wiring.quantisers", "launch.wiring.sid"),
)
_CACHE = pathlib.Path(__file__).parents[2] / ".cache" / "jax"
_MARK = "MINIREC_KILL_TEST"
_RUN = "runs/quickstart_smoke"
_SMALL = {
    "train.num_steps": 4,
    "train.eval_every": 2,
    "train.checkpoint_every": 2,
    "train.log_every": 1,
    "search.num_beams": 10,
    "loader.max_items": 4,
    "evaluate.valid_users": 64,
    "evaluate.fusion_users": 64,
    "evaluate.test_users": 64,
    "evaluate.resamples": 10,
}
_SMALL_SFT = {
    "data.source.num_users": 60,
    "data.source.num_items": 200,
    "sids.codebook_sizes": "(12,12)",
    "sids.dim": 8,
    "model.scratch.num_layers": 1,
    "model.scratch.width": 32,
    "sft.compare_new_rows": 2,
    "train.num_steps": 4,
    "train.eval_every": 2,
    "train.checkpoint_every": 2,
    "train.log_every": 1,
    "search.num_beams": 10,
    "evaluate.valid_users": 32,
    "evaluate.test_users": 32,
    "evaluate.resamples": 10,
}


def _flags(changes: dict[str, object]) -> list[str]:
    return [f"--config.{name}={value}" for name, value in changes.items()]


_CONFIG = ["--config=quickstart:smoke", "--workdir={W}", *_flags(_SMALL)]


_WATCH = [
    *("--config=anime", "--workdir={W}", "--config.tasks.folder={W}/lists"),
    *_flags(
        {
            "tasks.source_db": "lists.sqlite",
            "tasks.semantic_ids_path": "sids.jsonl",
            "tasks.target_examples": 2000,
            "tasks.task_b_max_history": 6,
        }
    ),
]


@dataclasses.dataclass(frozen=True)
class Program:
    """A program to kill.

    Attributes:
        verb: the module of `launch`.
        arguments: its command line; `{W}` stands for the work folder.
        after: programs whose results it needs, in order.
    """

    verb: str
    arguments: list[str]
    after: tuple[str, ...] = ()


_TEXT = ["--config=text_quickstart:smoke", "--workdir={W}"]
_MADE = ("prepare", "make_sids")
PROGRAMS = {
    "prepare": Program("prepare", _CONFIG),
    "make_sids": Program("make_sids", _CONFIG, ("prepare",)),
    "append": Program("make_sids", [*_CONFIG, "--append={W}/new_items.csv"], _MADE),
    "compare_sids": Program("compare_sids", [*_CONFIG, "--quantisers=rq_kmeans"], ("prepare",)),
    "train": Program("train", _CONFIG, _MADE),
    "train_workers": Program("train", [*_CONFIG, "--config.loader.num_workers=2"], _MADE),
    "recommend": Program("recommend", [*_CONFIG, "--history="], (*_MADE, "train")),
    "evaluate": Program("evaluate", _CONFIG, (*_MADE, "train")),
    "metrics": Program(
        "metrics",
        [
            f"--predictions={{W}}/{_RUN}/report/predictions.json",
            f"--item_info={{W}}/{_RUN}/sids.json",
            "--output={W}/metrics.json",
        ],
        (*_MADE, "train", "evaluate"),
    ),
    "artifacts": Program("artifacts", ["init", "--manifest={W}/a/artifacts.json", "--overwrite"]),
    "quickstart": Program("quickstart", _CONFIG),
    "sweep": Program("sweep", [*_CONFIG, "--grid=seed=0"]),
    "tasks": Program("tasks", _WATCH),
    "prepare_text": Program("prepare_text", _TEXT),
    "train_tokenizer": Program("train_tokenizer", _TEXT, ("prepare_text",)),
    "prepare_qa": Program(
        "prepare_qa", [*_TEXT, "--pairs={W}/pairs.jsonl"], ("prepare_text", "train_tokenizer")
    ),
    "sft": Program("sft", ["--config=sid_sft:smoke", "--workdir={W}", *_flags(_SMALL_SFT)]),
}


# The first run of a program compiles what the next ones read, which takes so much of its time.
_COMPILING = 0.4
_durations: dict[pathlib.Path, float] = {}


@dataclasses.dataclass
class Row:
    """What was found of a program."""

    kills: int = 0
    reruns: int = 0
    failed: int = 0
    differences: int = 0
    leftovers: int = 0
    orphans: int = 0

    @property
    def bad(self) -> bool:
        """Whether anything was wrong."""
        return any((self.failed, self.differences, self.leftovers, self.orphans))


def start(program: Program, work: pathlib.Path, log: pathlib.Path, mark: str) -> int:
    """Starts a program as a fork of this process and returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.environ[_MARK] = mark  # What it starts is known by this.
        become(program.verb, [argument.replace("{W}", str(work)) for argument in program.arguments])
    except BaseException:  # Its output could not be opened: a fork must not go on as its parent.
        traceback.print_exc()
    os._exit(1)


def finish(child: int) -> int:
    """Waits for a program and returns its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_after(child: int, seconds: float) -> bool:
    """Kills a program after a time; returns whether it was alive still."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        ended, _ = os.waitpid(child, os.WNOHANG)
        if ended:
            return False
        time.sleep(min(left, 0.005))
    os.kill(child, signal.SIGKILL)
    finish(child)
    return True


def alive(mark: str) -> list[int]:
    """Returns the processes that carry a mark in their environment."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{_MARK}={mark}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def orphans(mark: str, patience: float = 20.0) -> list[int]:
    """Returns the processes of a killed program that do not end within a time."""
    deadline = time.monotonic() + patience
    while (left := alive(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return left


def leftovers(folder: pathlib.Path) -> list[str]:
    """Returns the temporary files and folders below a folder."""
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")))
    return [
        name
        for name in names
        if "orbax-checkpoint-tmp" in name
        or (name.rpartition("/")[2][0] == "." and ".lock" not in name)
    ]


def content(folder: pathlib.Path) -> dict[str, object]:
    """Returns what must be equal in equal runs, by name; made in a process of its own."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            found = json.dumps(_content(folder)).encode()
            with os.fdopen(write, "wb") as file:
                file.write(found)
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        data = file.read()
    if finish(child):
        raise RuntimeError(f"{folder}: cannot be compared")
    return json.loads(data)


def _content(folder: pathlib.Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if "/checkpoints/" in name:
            parts = name.split("/")
            if path.is_dir() and parts[-3] == "checkpoints" and parts[-1].isdigit():
                found[name] = _checkpoint(path)
        elif path.is_file() and "/tensorboard/" not in name and path.name != ".lock":
            found[name] = _file(path)
    return found


def _checkpoint(step: pathlib.Path) -> dict[str, object]:
    import orbax.checkpoint as ocp

    found: dict[str, object] = {}
    for item in ("model", "optimizer"):
        if (step / item).is_dir():
            arrays = ocp.PyTreeCheckpointer().restore(step / item)
            found[item] = {name: _digest(value) for name, value in sorted(arrays.items())}
    return found


def _file(path: pathlib.Path) -> object:
    if path.suffix in (".html", ".svg", ".md"):
        return "there"  # They show seconds.
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _digest(arrays[name]) for name in sorted(arrays)}
    if path.suffix == ".jsonl":
        return [_without_times(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return _without_times(json.loads(path.read_text()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(value: object) -> str:
    array = np.ascontiguousarray(value)
    return f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()}"


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        return {
            name: _without_times(entry)
            for name, entry in value.items()
            # A digest of a file that holds seconds differs with them, and so does its size.
            if not name.endswith(("seconds", "_per_second", "sha256"))
            and name != "time"
            and not (name == "bytes" and "sha256" in value)
        }
    return [_without_times(entry) for entry in value] if isinstance(value, list) else value


def attack(name: str, times: int, seed: int, place: pathlib.Path) -> Row:
    """Kills a program so many times, each time in a fresh copy of what it needs."""
    program, row = PROGRAMS[name], Row()
    before, work, log = _made(program.after, place), place / "W", place / "log.txt"
    reference = _made((*program.after, name), place)
    duration = (1 - _COMPILING) * _durations[reference]
    if times > 1:  # Worth another run, to know it better.
        shutil.copytree(before, work)
        begun = time.monotonic()
        finish(start(program, work, log, "reference"))
        duration = time.monotonic() - begun
        shutil.rmtree(work)
    expected = content(reference)
    if found := leftovers(reference):
        raise RuntimeError(f"{name} leaves {found} without a kill")
    chance = random.Random(f"{seed} {name}")
    for number in range(times):
        mark = uuid.UUID(int=chance.getrandbits(128)).hex
        moment = duration * (number + chance.random()) / times
        while True:
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(before, work)
            begun = time.monotonic()
            if kill_after(start(program, work, log, mark), moment):
                break
            # It was faster this time, and had ended.
            moment *= min(0.8, (time.monotonic() - begun) / duration)
        row.kills += 1
        said = []
        if left := orphans(mark):
            row.orphans += 1
            said.append(f"alive: {left}")
        row.reruns += 1
        if finish(start(program, work, log, mark)):
            row.failed += 1
            said.append(f"failed: {log.read_text()[-2000:]}")
        elif differing := _differing(expected, content(work)):
            row.differences += 1
            said.append(f"differing: {differing}")
        if found := leftovers(work):
            row.leftovers += 1
            said.append(f"left: {found}")
        for line in said:
            print(f"{name}, killed after {moment:.3f} of {duration:.3f} s: {line}", flush=True)
    shutil.rmtree(work)
    return row


def _made(names: tuple[str, ...], place: pathlib.Path) -> pathlib.Path:
    """Returns a folder with what some programs leave that nobody kills; each is made once."""
    folder = place / "-".join(("made", *names))
    if not folder.is_dir():
        work = place / "W"
        if names:
            shutil.copytree(_made(names[:-1], place), work)
            log, begun = place / "log.txt", time.monotonic()
            if finish(start(PROGRAMS[names[-1]], work, log, "reference")):
                raise RuntimeError(f"{names[-1]} fails without a kill:\n{log.read_text()}")
            _durations[folder] = time.monotonic() - begun
        else:
            work.mkdir()
            (work / "new_items.csv").write_text(
                "raw_item_id,title,colour,price\n"
                "new_1,Blue Nylon Radio,blue,19.5\nnew_2,Black Bar Stool,,40\n"
            )
            pair = {"question": "How is the beam step of a trie normalised?", "answer": "By a sum."}
            (work / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
            (work / "lists").mkdir()
            watch_data.write(work / "lists")
        work.rename(folder)
    return folder


def _differing(expected: dict[str, object], found: dict[str, object]) -> list[str]:
    names = sorted({*expected, *found})
    return [name for name in names if expected.get(name) != found.get(name)]


def main() -> None:
    """Attacks the programs and prints a row each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1, help="kills a program")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help="which, with commas")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = parser.parse_args()
    names = asked.programs.split(",")
    if unknown := sorted(set(names) - set(PROGRAMS)):
        parser.error(f"--programs: {unknown} are unknown; known are {', '.join(PROGRAMS)}")
    # Forks must not share threads: nothing here may use a device or a pool of threads.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    # What one fork compiles the others find; to be attacked is what programs write.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0"
        " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
    )
    for name in (*_HEAVY, *_OURS):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # The collector of a fork does not go through these again, nor copies their pages.
    gc.set_threshold(50_000, 20, 20)  # As in `tests/conftest.py`.
    columns = [field.name for field in dataclasses.fields(Row)]
    print(f"{'program':<14}", *(f"{name:>11}" for name in columns), flush=True)
    bad = False
    # Not a TemporaryDirectory, which every fork would remove at its end.
    place = tempfile.mkdtemp()
    try:
        for name in names:
            row = attack(name, asked.times, asked.seed, pathlib.Path(place))
            print(
                f"{name:<14}", *(f"{value:>11}" for value in dataclasses.astuple(row)), flush=True
            )
            bad = bad or row.bad
    finally:
        shutil.rmtree(place, ignore_errors=True)
    sys.exit(int(bad))


if __name__ == "__main__":
    main()
