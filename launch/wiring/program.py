"""What every launcher shares: its flags, its config, and how an error reaches a person."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

import configs
from launch.wiring import ending, output
from minirec import files

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Name of a file in configs/ (or a path to one), with an optional :variant. "
    "--config.FIELD=VALUE changes a field.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder that this and the other steps share.")
_RUN = flags.DEFINE_string("run", None, "Name of the run in WORKDIR/runs; default: the config's.")
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Let a step replace what it left there with other settings."
)
_PRINT_CONFIG = flags.DEFINE_bool("print_config", False, "Print the config and exit.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of process 0, which the other processes can reach; auto: ask the TPU slice.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes work together.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_SHARED = ("config", "workdir", "run", "overwrite", "print_config")
_AUTO = "auto"
DRY_RUN = "dry_run"
"""The folder in a workdir that a dry run has for itself."""

_PROCESSES = ("coordinator_address", "num_processes", "process_id")


class UsageError(ValueError):
    """A mistake in what the person asked for: shown without a traceback, exit code 2."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a launcher was asked to do.

    Attributes:
        config: the experiment, with the command line's changes.
        workdir: the folder that all steps of an experiment share.
        run: the run's folder, `workdir/runs/NAME`.
        overwrite: replace what the same step left there with other settings.
    """

    config: ConfigDict
    workdir: Path
    run: Path
    overwrite: bool = False

    @property
    def prepared(self) -> Path:
        """The prepared data."""
        return self.workdir / "prepared"

    @property
    def sids(self) -> Path:
        """The folder of the semantic IDs."""
        return self.workdir / "sids"


def experiments() -> dict[str, Path]:
    """Returns the files of configs/ that are experiments, by name; others are what they share."""
    return {
        path.stem: path
        for path in Path(configs.__path__[0]).glob("*.py")
        if "\ndef get_config(" in path.read_text(encoding="utf-8")
    }


def config_path(name: str) -> str:
    """Returns `path[:variant]` of a config given by name or by path.

    Raises:
        UsageError: there is no such config; the message lists those there are.
    """
    stem, colon, variant = name.partition(":")
    known = experiments()
    path = Path(stem) if stem.endswith(".py") else known.get(stem, Path(""))
    if not path.is_file():
        names = ", ".join(sorted(known))
        raise UsageError(f"--config={name}: there is no such config; known are {names}")
    return f"{path}{colon}{variant}"


def load_config_module(name: str) -> ModuleType:
    """Returns the module of a config given by name (without variant) or by path.

    Raises:
        UsageError: there is no such config.
    """
    return load_module(Path(config_path(name)))


def load_module(path: Path) -> ModuleType:
    """Returns the module that a Python file holds, wherever that lies.

    Raises:
        UsageError: it is not a Python file.
    """
    # The file may be called as a module of ours, or of anybody's.
    spec = importlib.util.spec_from_file_location(f"{path.stem} ({path})", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Where dataclasses look their annotations up.
    spec.loader.exec_module(module)
    return module


def resolve_config_names(argv: Sequence[str]) -> list[str]:
    """Returns the command line with `--config NAME` turned into `--config=PATH`.

    `--config` comes first in the result, since `--config.FIELD=VALUE` needs it.
    """
    resolved: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument in ("--config", "-config"):
            argument = f"--config={next(arguments, '')}"
        if argument.startswith(("--config=", "-config=")):
            resolved.insert(1, f"--config={config_path(argument.partition('=')[2])}")
        else:
            resolved.append(argument)
    return resolved


def job_from_flags() -> Job:
    """Returns the job that the flags describe.

    Raises:
        UsageError: a flag is missing or impossible.
    """
    config = _CONFIG.value
    if config is None:
        raise UsageError("--config is missing: name a file of configs/, e.g. --config=quickstart")
    if not _WORKDIR.value:
        raise UsageError("--workdir is missing: name the folder that all steps share")
    workdir = Path(_WORKDIR.value).expanduser().resolve()
    name = _RUN.value or config.name
    if not name or Path(name).name != name or name in (".", ".."):
        raise UsageError(f"--run={name!r}: must be a plain name, the folder in WORKDIR/runs")
    run = workdir / "runs" / name
    try:
        str(run).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{str(run)!r}: the path cannot be told in UTF-8; take another --workdir and --run, "
            "or set PYTHONUTF8=1 where the locale hides what they are"
        ) from error
    job = Job(config, workdir, run, overwrite=_OVERWRITE.value)
    return dry(job) if config.get("dry_run", False) else job


def require_log(job: Job, step: str) -> None:
    """Raises UsageError unless the config is of a log of users and items; `step` needs one."""
    if "data" not in job.config:
        raise UsageError(
            f"{step}: config {job.config.name!r} is of the family {job.config.family!r}, which has "
            "documents and no log of users and items; use launch.prepare_text"
        )


def dry(job: Job) -> Job:
    """Returns a job as a dry run has it: with `config.when_dry` over its config, in W/dry_run.

    Raises:
        UsageError: `config.when_dry` has a field that the config lacks.
    """
    config = job.config.copy_and_resolve_references()
    try:
        config.update(config.when_dry)
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(f"config.when_dry: {str(error).strip().splitlines()[0]}") from error
    workdir = job.workdir / DRY_RUN
    print(
        f"note: config.dry_run=True: all in small, in {workdir}; --config.dry_run=False is the "
        "real run",
        file=sys.stderr,
    )
    return Job(config, workdir, workdir / "runs" / job.run.name, job.overwrite)


def clear_leftovers(job: Job) -> None:
    """Removes what killed programs left where the job's steps write; what others write stays."""
    for folder in (job.workdir, job.workdir / "runs"):
        files.clear_leftovers(folder)
    for folder in (job.prepared, job.sids, job.run):
        files.clear_leftovers(folder, recursive=True)


def may_overwrite() -> bool:
    """Returns whether `--overwrite` was given."""
    return _OVERWRITE.value


def given_workdir() -> str | None:
    """Returns `--workdir` as it was given."""
    return _WORKDIR.value


def asked_for_config() -> bool:
    """Returns whether `--print_config` was given."""
    return _PRINT_CONFIG.value


@contextlib.contextmanager
def joined_processes(*, allowed: bool) -> Iterator[None]:
    """Works together with the processes that the flags name, if any; enter before using a device.

    Args:
        allowed: whether the program can run as several processes.

    Raises:
        UsageError: a flag is missing or impossible, or there may be one process only.
    """
    address, count, index = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    values = dict(zip(_PROCESSES, (address, count, index), strict=True))
    said = ", ".join(f"--{name}={value}" for name, value in values.items() if value is not None)
    if not said:
        yield
        return
    if not allowed:
        raise UsageError(f"{said}: this step runs as one process; train and evaluate as several")
    if address == _AUTO and count is None and index is None:
        address = None  # The slice's metadata has all three.
    elif address is None or count is None or index is None:
        missing = " and ".join(f"--{name}" for name, value in values.items() if value is None)
        raise UsageError(f"{said}: {missing} must be given as well, or none of them")
    elif not re.fullmatch(r".+:\d+", address):
        raise UsageError(f"--coordinator_address={address}: must be HOST:PORT, or auto alone")
    elif count < 1 or not 0 <= index < count:
        raise UsageError(
            f"--process_id={index}: must lie in [0, num_processes), --num_processes={count}"
        )
    import jax  # Not worth its import where it is not used.
    from jax.experimental import multihost_utils

    # The launchers have a use of their own for SIGTERM.
    jax.config.update("jax_enable_preemption_service", False)
    # One that fails waits so long for the others, which wait for it.
    jax.distributed.initialize(address, count, index, shutdown_timeout_seconds=10)
    yield
    multihost_utils.sync_global_devices("the end")  # The first may have had more to do.


def run(main: Callable[[Job], None], *, many_processes: bool = False, **defaults: str) -> None:
    """Parses the command line and calls `main` with the job; the body of every launcher.

    `--print_config` prints the config and does nothing else.

    Args:
        main: does the work.
        many_processes: whether several processes may share it.
        **defaults: values of flags that are not given, such as `config="quickstart"`.
    """

    def body() -> None:
        if not _PRINT_CONFIG.value:
            job = job_from_flags()
            if not _PROCESS_ID.value:  # Of several processes, one.
                clear_leftovers(job)
            with joined_processes(allowed=many_processes):
                main(job)
        elif _CONFIG.value is None:
            raise UsageError("--print_config needs --config")
        else:
            print(_CONFIG.value)

    given = {argument.lstrip("-").partition("=")[0] for argument in sys.argv[1:]}
    missing = [f"--{name}={value}" for name, value in defaults.items() if name not in given]
    start(body, [sys.argv[0], *missing, *sys.argv[1:]])


def start(body: Callable[[], None], argv: Sequence[str]) -> None:
    """Runs `body` under absl, with config names resolved.

    What a person can mend (a wrong value, a missing file, a full disk, too little memory) ends in
    one line on stderr and exit code 2, a Ctrl-C in one line and 130; the environment's
    MINIREC_TRACEBACK=1 shows where it came from. Where nobody reads the output any more (`| head`)
    the program ends silently.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    output.escape()
    for name in (*_SHARED, *_PROCESSES):
        flags.FLAGS.register_key_flag_for_module(argv[0], flags.FLAGS[name])

    def parse(arguments: Sequence[str]) -> list[str]:
        try:
            rest = flags.FLAGS(resolve_config_names(arguments))
            if len(rest) > 1:
                raise UsageError(f"unexpected arguments: {' '.join(rest[1:])}")
            return rest
        except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
            _fail(error)

    def guarded(rest: list[str]) -> None:
        del rest
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # Orbax tells each save's story in INFO lines.
        try:
            with ending.interruptible():
                body()
                sys.stdout.flush()
        except BrokenPipeError:
            output.closed_pipe()
        except (ValueError, OSError, FloatingPointError) as error:
            _fail(error)
        except MemoryError as error:
            _fail(error, "out of memory")
        except RecursionError as error:
            _fail(error, "something is nested too deep")

    app.run(guarded, argv=list(argv), flags_parser=parse)


def _fail(error: Exception, what: str = "") -> NoReturn:
    if os.environ.get("MINIREC_TRACEBACK"):
        raise error
    # What goes wrong in a config file comes with its whole traceback: the last line says it all.
    text = str(error).strip().splitlines()[-1] if isinstance(error, flags.Error) else str(error)
    text = ": ".join(filter(None, (what, text)))
    print(f"error: {files.shown(text, lines=True)}", file=sys.stderr)
    sys.exit(2)
