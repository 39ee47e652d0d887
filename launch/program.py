"""What every launcher shares: its flags, its config, and how an error reaches a person."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

import configs

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Name of a file in configs/ (or a path to one), with an optional :variant. "
    "--config.FIELD=VALUE changes a field.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder that this and the other steps share.")
_RUN = flags.DEFINE_string("run", None, "Name of the run in WORKDIR/runs; default: the config's.")
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace what the same step left there with other settings."
)
_PRINT_CONFIG = flags.DEFINE_bool("print_config", False, "Print the config and exit.")


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


def config_path(name: str) -> str:
    """Returns `path[:variant]` of a config given by name or by path.

    Raises:
        UsageError: there is no such config; the message lists those there are.
    """
    stem, colon, variant = name.partition(":")
    if stem.endswith(".py"):
        path = Path(stem)
    else:
        spec = importlib.util.find_spec(f"configs.{stem}") if stem.isidentifier() else None
        path = Path(spec.origin) if spec and spec.origin else Path("")
    if not path.is_file():
        folder = Path(configs.__path__[0])
        known = ", ".join(sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__"))
        raise UsageError(f"--config={name}: there is no such config; known are {known}")
    return f"{path}{colon}{variant}"


def load_config_module(name: str) -> ModuleType:
    """Returns the module of a config given by name (without variant) or by path.

    Raises:
        UsageError: there is no such config.
    """
    path = config_path(name)
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def resolve_config_names(argv: Sequence[str]) -> list[str]:
    """Returns the command line with `--config NAME` turned into `--config=PATH`."""
    resolved: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument in ("--config", "-config"):
            argument = f"--config={next(arguments, '')}"
        if argument.startswith(("--config=", "-config=")):
            argument = f"--config={config_path(argument.partition('=')[2])}"
        resolved.append(argument)
    return resolved


def job_from_flags() -> Job:
    """Returns the job that the flags describe.

    Raises:
        UsageError: a flag is missing.
    """
    config = _CONFIG.value
    if config is None:
        raise UsageError("--config is missing: name a file of configs/, e.g. --config=quickstart")
    if _WORKDIR.value is None:
        raise UsageError("--workdir is missing: name the folder that all steps share")
    workdir = Path(_WORKDIR.value).expanduser().resolve()
    run_folder = workdir / "runs" / (_RUN.value or config.name)
    return Job(config=config, workdir=workdir, run=run_folder, overwrite=_OVERWRITE.value)


def run(main: Callable[[Job], None]) -> None:
    """Parses the command line and calls `main` with the job; the body of every launcher.

    `--print_config` prints the config and does nothing else. A `ValueError` or a missing file is a
    person's mistake, not the program's: its message goes to stderr and the exit code is 2.
    """

    def body(argv: list[str]) -> None:
        if len(argv) > 1:
            raise UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
        if _PRINT_CONFIG.value:
            if _CONFIG.value is None:
                raise UsageError("--print_config needs --config")
            print(_CONFIG.value)
            return
        main(job_from_flags())

    start(body)


def start(body: Callable[[list[str]], None]) -> None:
    """Runs `body` under absl with config names resolved and errors as `run` describes them."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    def guarded(argv: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # Orbax tells each save's story in INFO lines.
        try:
            body(argv)
        except (ValueError, FileNotFoundError) as error:
            if os.environ.get("MINIREC_TRACEBACK"):
                raise
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    try:
        arguments = resolve_config_names(sys.argv)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    app.run(guarded, argv=arguments)
