"""Weights & Biases, as `config.wandb` asks for it; the key stays out of every file."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from minirec import files
from minirec.training.processes import is_first

MODES = ("online", "offline", "disabled")
_KEY = "WANDB_API_KEY"
_RUN_FILE = "wandb.json"

type Log = Callable[[Mapping[str, Any]], None]


def check(config: ConfigDict, dotenv: Path | None = None) -> None:
    """Checks `config.wandb` before anything is written.

    Args:
        config: the experiment.
        dotenv: the file that may hold the key; default: `.env` in the working folder.

    Raises:
        ValueError: an unknown mode, "online" without a key, or no `wandb` where it is needed.
    """
    mode = config.wandb.mode
    if mode not in MODES:
        raise ValueError(f"config.wandb.mode={mode!r}: must be one of {', '.join(MODES)}")
    if mode == "disabled":
        return
    if mode == "online" and not _key(dotenv):
        raise ValueError(
            f"config.wandb.mode='online' needs a key: set {_KEY} in the environment or in .env "
            "(see .env.example), or set config.wandb.mode=offline"
        )
    try:
        import wandb  # noqa: F401  # An extra.
    except ImportError as error:
        raise ValueError(
            f"config.wandb.mode={mode!r} needs wandb: pip install 'minirec[wandb]', or set "
            "config.wandb.mode=disabled"
        ) from error


@contextlib.contextmanager
def started(
    config: ConfigDict, run_folder: Path, dotenv: Path | None = None
) -> Iterator[Log | None]:
    """Yields what takes lines of `metrics.jsonl` to W&B; None where it is disabled.

    The run's id is kept in `wandb.json`, so that a run that goes on is the same run there. Files of
    "offline" lie in the run's folder; `wandb sync` sends them.

    Args:
        config: the experiment; all of it is recorded but the key, which is not in it.
        run_folder: the run's folder.
        dotenv: as for `check`.
    """
    mode = config.wandb.mode
    if mode == "disabled" or not is_first():
        yield None
        return
    import wandb

    settings = wandb.Settings(
        silent=True, console="off", api_key=_key(dotenv) if mode == "online" else None
    )
    run = wandb.init(
        mode=mode,
        project=config.wandb.project,
        entity=config.wandb.entity or None,
        name=run_folder.name,
        id=run_id(run_folder),
        resume="allow" if mode == "online" else None,
        dir=str(run_folder),
        config=config.to_dict(),
        settings=settings,
    )
    if url := getattr(run, "url", None):  # Offline there is none.
        print(f"wandb={url}")

    def log(line: Mapping[str, Any]) -> None:
        kind = line["kind"]
        values = {
            name if "/" in name else f"{kind}/{name}": value
            for name, value in line.items()
            if isinstance(value, int | float) and name != "step"
        }
        run.log(values, step=line["step"])

    try:
        yield log
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def run_id(run_folder: Path) -> str:
    """Returns the id that the run has at W&B, chosen where it has none yet.

    Raises:
        DamagedError: `wandb.json` is not as it was written.
    """
    path = run_folder / _RUN_FILE
    if not path.is_file():
        files.write_sealed(path, {"id": uuid.uuid4().hex[:12]})
    return files.read_sealed(path, "remove it: the run goes on under a new id", {"id": str})["id"]


def _key(dotenv: Path | None) -> str | None:
    """Returns the key from the environment, or from the file of variables."""
    return os.environ.get(_KEY) or read_dotenv(dotenv or Path(".env")).get(_KEY)


def read_dotenv(path: Path) -> dict[str, str]:
    """Returns the variables of a file of lines NAME=VALUE; none where there is no such file.

    `export` before a name, quotes around a value, empty lines and lines that begin with `#` are
    allowed; nothing is expanded.

    Raises:
        ValueError: the file is not text in UTF-8, or a line is not NAME=VALUE; the message names
            file and line and shows no value.
    """
    variables: dict[str, str] = {}
    if not path.is_file():
        return variables
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:  # It shows what it could not read.
        raise ValueError(f"{path}: not a text file in UTF-8") from None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip().removeprefix("export ").strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ValueError(f"{path}, line {number}: must be NAME=VALUE")
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        variables[name.strip()] = value
    return variables
