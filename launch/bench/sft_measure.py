"""One training of the benchmark `sft_training`, in a process of its own so its memory is known.

    python -m launch.bench.sft_measure FOLDER

FOLDER is as `tests/oracles/transformers_trainer.py` says; besides, `variant.json` holds `pack` and
`dtype`. Prints the same line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from minirec import files
from minirec.files.schema import COUNT, NUMBER
from minirec.models.hf import load_checkpoint
from minirec.training import OptimizerConfig, Stage, TokenTask
from minirec.training.loop import new_optimizer
from minirec.training.optimizer import make_schedule
from minirec.training.step import TrainStep
from pipelines.batches.packing import pack

LOGITS_AT_ONCE = 128
_CONFIG = {
    "warmup": COUNT,
    "steps": COUNT,
    "row_tokens": COUNT,
    "rows": COUNT,
    "batch_size": COUNT,
    "learning_rate": NUMBER,
}


def measure(folder: Path) -> dict[str, Any]:
    """Returns losses, seconds and tokens of the steps that count, and the peak memory."""
    config = files.read_json(folder / "config.json", _CONFIG)
    variant = files.read_json(folder / "variant.json", {"pack": bool, "dtype": str})
    arrays = {
        name: files.read_npy(folder / f"{name}.npy", shape=[None])
        for name in ("tokens", "offsets", "prompts")
    }
    warmup = config["warmup"]
    lengths = np.diff(arrays["offsets"]) - 1  # the last token is a target only
    if variant["pack"]:
        packing = pack(lengths, config["row_tokens"], seed=0)
        rows = np.split(packing.examples, packing.offsets[1:-1])
        rows_a_step, row_tokens = config["rows"], config["row_tokens"]
    else:
        rows = list(np.arange(len(lengths))[:, None])
        rows_a_step, row_tokens = config["batch_size"], int(lengths.max())
    batches = [
        make_batch(arrays, rows[step * rows_a_step :][:rows_a_step], row_tokens)
        for step in range(config["warmup"] + config["steps"])
    ]
    model = load_checkpoint(folder / "model", dtype=variant["dtype"], param_dtype="float32")
    optimizer_config = OptimizerConfig(learning_rate=config["learning_rate"], schedule="constant")
    stage = Stage("sft", lambda: iter(batches), len(batches), optimizer_config)
    task = TokenTask(lambda _: {}, logits_at_once=LOGITS_AT_ONCE)
    train_step = TrainStep(
        model,
        new_optimizer(model, stage, None),
        task,
        schedule=make_schedule(optimizer_config, len(batches)),
        accumulate=1,
        seed=0,
    )
    state, losses, started = train_step.start(), [], 0.0
    del model
    for number, batch in enumerate(batches):
        if number == warmup:
            started = time.perf_counter()
        state, metrics = train_step(state, task.inputs(batch), number)
        total, count = metrics.ratios["loss"]
        losses.append(float(total) / float(count))
    return {
        "losses": losses,
        "seconds": time.perf_counter() - started,
        "tokens": sum(int(np.count_nonzero(batch["segment_ids"])) for batch in batches[warmup:]),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def make_batch(
    arrays: dict[str, np.ndarray], rows: Sequence[Int[np.ndarray, " n"]], row_tokens: int
) -> dict[str, np.ndarray]:
    """Returns a batch whose rows hold the examples given for each, one behind the other."""
    shape = (len(rows), row_tokens)
    names = ("tokens", "targets", "positions", "segment_ids", "loss_mask")
    batch: dict[str, np.ndarray] = {
        name: np.zeros(shape, np.float32 if name == "loss_mask" else np.int32) for name in names
    }
    for row, examples in enumerate(rows):
        filled = 0
        for number, example in enumerate(examples, 1):
            tokens = arrays["tokens"][arrays["offsets"][example] : arrays["offsets"][example + 1]]
            size = len(tokens) - 1
            at = slice(filled, filled + size)
            filled += size
            batch["tokens"][row, at], batch["targets"][row, at] = tokens[:-1], tokens[1:]
            batch["positions"][row, at] = np.arange(size)
            batch["segment_ids"][row, at] = number
            batch["loss_mask"][row, at] = np.arange(size) >= arrays["prompts"][example] - 1
    return batch


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
