"""One training of the benchmark `text_training`, in a process of its own so its memory is known.

    python -m launch.bench.text_measure FOLDER

FOLDER is as `tests/oracles/torch_text_trainer.py` says. Prints the same line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from minirec import files
from minirec.files.schema import COUNT, NUMBER
from minirec.models.hf import load_checkpoint
from minirec.training import OptimizerConfig, Stage, TokenTask
from minirec.training.loop import new_optimizer
from minirec.training.optimizer import make_schedule
from minirec.training.step import TrainStep

LOGITS_AT_ONCE = 1024
_CONFIG = {"warmup": COUNT, "learning_rate": NUMBER}


def measure(folder: Path) -> dict[str, Any]:
    """Returns losses of all steps, seconds of those that count, and the peak memory."""
    config = files.read_json(folder / "config.json", _CONFIG)
    dtype = files.read_json(folder / "variant.json", {"dtype": str})["dtype"]
    steps = files.read_npy(folder / "tokens.npy", shape=[None] * 3)
    model = load_checkpoint(folder / "model", dtype=dtype, param_dtype="float32")
    optimizer = OptimizerConfig(learning_rate=config["learning_rate"], schedule="constant")
    stage = Stage("text", lambda: iter(()), len(steps), optimizer)
    task = TokenTask(lambda _: {}, logits_at_once=LOGITS_AT_ONCE)
    train_step = TrainStep(
        model,
        new_optimizer(model, stage, None),
        task,
        schedule=make_schedule(optimizer, len(steps)),
        accumulate=1,
        seed=0,
    )
    state, losses, seconds = train_step.start(), [], []
    del model
    for number, tokens in enumerate(steps):
        begin = time.perf_counter()
        state, metrics = train_step(state, _batch(tokens), number)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - begin)
        total, count = metrics.ratios["loss"]
        losses.append(float(total) / float(count))
    return {
        "losses": losses,
        "seconds": seconds[config["warmup"] :],
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _batch(tokens: np.ndarray) -> dict[str, np.ndarray]:
    shape = (len(tokens), tokens.shape[1] - 1)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "positions": np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
        "segment_ids": np.ones(shape, np.int32),
        "loss_mask": np.ones(shape, np.float32),
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
