"""Checkpoints and texts by their names on the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from launch.wiring.wandb_log import read_dotenv

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_TOKEN = "HF_TOKEN"
_OF_CHECKPOINT = ("*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.json")
_OF_TEXTS = ("*.parquet", "*.jsonl", "*.json")
_SECONDS = 5.0  # until a hub that does not answer is given up


def is_name(name: str) -> bool:
    """Returns whether a name may be a repository's, such as `Qwen/Qwen2.5-0.5B`."""
    return _NAME.fullmatch(name) is not None


def checkpoint(name: str) -> Path:
    """Returns the folder of a hub's checkpoint, fetched where it is not there yet.

    A token is taken from HF_TOKEN of the environment or of `.env`.

    Raises:
        ValueError: it cannot be had; the message says why.
    """
    return _fetch(name, "model", _OF_CHECKPOINT)


def texts(name: str) -> list[Path]:
    """Returns the files of a hub's data set, fetched where they are not there yet.

    Raises:
        ValueError: it cannot be had, or has no file of a kind that is read.
    """
    folder = _fetch(name, "dataset", _OF_TEXTS)
    kinds = {".parquet", ".jsonl"}
    found = sorted(path for path in folder.rglob("*") if path.suffix in kinds)
    if not found:
        raise ValueError(f"{name}: holds no {' or '.join(sorted(kinds))} file")
    return found


def _fetch(name: str, kind: str, patterns: tuple[str, ...]) -> Path:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            f"{name} is fetched with the Python package huggingface-hub: pip install 'minirec[lm]'"
        ) from error
    token = os.environ.get(_TOKEN) or read_dotenv(Path(".env")).get(_TOKEN)
    try:
        # One small file first: a hub that cannot be reached is found out without long patience.
        huggingface_hub.HfApi(token=token).repo_info(name, repo_type=kind, timeout=_SECONDS)
        found = huggingface_hub.snapshot_download(
            name, repo_type=kind, allow_patterns=list(patterns), token=token
        )
    except Exception as error:  # Whatever it is, the name leads to nothing here.
        try:  # What was fetched before will do.
            found = huggingface_hub.snapshot_download(
                name, repo_type=kind, allow_patterns=list(patterns), local_files_only=True
            )
        except Exception:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
            told = f"{type(error).__name__}: {reason}".rstrip(": ")
            raise ValueError(
                f"the hub's {name} cannot be had ({told:.200}); is there a network, and a token in "
                f"{_TOKEN} or .env where one is needed?"
            ) from error
    return Path(found)
