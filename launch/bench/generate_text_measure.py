"""Our side of the benchmark `generate_text`, in a process of its own so that its memory is known.

    python -m launch.bench.generate_text_measure FOLDER

FOLDER is as `tests/oracles/transformers_text.py` says. Prints the same line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from minirec import files
from minirec.decoding import Sampler, SamplingSettings
from minirec.files.schema import COUNT, NUMBER
from minirec.models.hf import load_checkpoint

_CONFIG = {
    "batches": [COUNT],
    "new_tokens": COUNT,
    "rounds": COUNT,
    "temperature": NUMBER,
    "top_p": NUMBER,
}


def measure(folder: Path) -> dict[str, Any]:
    """Returns the seconds of each round by mode and batch, and the peak memory."""
    config = files.read_json(folder / "config.json", _CONFIG)
    tokens, lengths = (
        files.read_npy(folder / f"{name}.npy", shape=[None] * axes)
        for name, axes in (("tokens", 2), ("lengths", 1))
    )
    prompts = [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]
    sampler = Sampler(load_checkpoint(folder / "model"))
    modes = {
        mode: SamplingSettings(
            greedy=mode == "greedy",
            temperature=config["temperature"],
            top_p=config["top_p"],
            max_new_tokens=config["new_tokens"],
        )
        for mode in ("greedy", "drawn")
    }
    seconds: dict[str, list[float]] = {}
    found: dict[str, np.ndarray] = {}
    for batch in config["batches"]:
        for mode, settings in modes.items():
            given = prompts[:batch], settings, range(batch)
            sampler.generate(*given)
            for _ in range(config["rounds"]):
                begin = time.perf_counter()
                answers = sampler.generate(*given)
                seconds.setdefault(f"{mode}_{batch}", []).append(time.perf_counter() - begin)
                found[f"{mode}_{batch}"] = np.array([one.tokens for one in answers], np.int32)
    np.savez(folder / "found.npz", **found)  # pyrefly: ignore[bad-argument-type]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "peak_gb": peak}


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
