"""What experiments share beside their blocks: variants, short runs, where data lie."""

from __future__ import annotations

import os
from pathlib import Path

from ml_collections import ConfigDict


def data_folder(name: str) -> str:
    """Returns the folder `name` below the one that the environment's MINIREC_DATA names.

    Where that is unset the name itself stands in the path, so that an error shows it.
    """
    return str(Path(os.environ.get("MINIREC_DATA") or "$MINIREC_DATA") / name)


def check_variant(variant: str, known: tuple[str, ...]) -> None:
    """Checks the part of `--config=NAME:VARIANT` behind the colon.

    Raises:
        ValueError: it is not one of `known`.
    """
    if variant not in known:
        names = ", ".join(repr(name) for name in known)
        raise ValueError(f"config variant {variant!r} is not known; there are {names}")


def make_smoke(config: ConfigDict, num_steps: int = 30) -> None:
    """Makes a config run in well under a minute: a tiny model, few steps, few users."""
    config.model.num_layers = 1
    config.model.width = 32
    config.model.num_heads = 2
    config.model.num_kv_heads = 1
    config.model.head_dim = 16
    config.model.mlp_width = 64
    config.model.dropout = 0.0
    config.loader.batch_size = 16
    config.train.num_epochs = 0
    config.train.num_steps = num_steps
    config.train.learning_rate = 5e-3
    config.train.warmup_steps = 5
    config.train.eval_every = num_steps // 2
    config.train.checkpoint_every = num_steps // 3
    config.train.log_every = num_steps // 6
    config.search.num_beams = 20
    config.evaluate.batch_size = 64
    config.evaluate.valid_users = 128
    config.evaluate.fusion_users = 128
    config.evaluate.test_users = 512
    config.evaluate.resamples = 100
