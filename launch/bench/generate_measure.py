"""One search of the benchmark of generation, in a process of its own so that its memory is known.

    python -m launch.bench.generate_measure FOLDER

FOLDER is as `tests/oracles/transformers_generate.py` says, and its `config.json` holds `normalize`
and `head` as well. Prints one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from kernels.trie import build_trie
from minirec import files
from minirec.decoding import BeamSearcher
from minirec.decoding.ranking import rank_users
from minirec.files.schema import COUNT
from minirec.models.hf import load_checkpoint

_CONFIG = {"num_beams": COUNT, "normalize": str, "head": str, "batch_size": COUNT, "rounds": COUNT}


def measure(folder: Path) -> dict[str, Any]:
    """Returns the seconds of each round over all prompts, and the process's peak memory.

    The first batch, which compiles, is not part of a round. `found.npz` in the folder gets the
    answers found, int32 `[N, M, L]`, zeros where a beam is dead, and their scores.
    """
    config = files.read_json(folder / "config.json", _CONFIG)
    tokens, lengths, answers = (
        files.read_npy(folder / f"{name}.npy", shape=[None] * axes)
        for name, axes in (("tokens", 2), ("lengths", 1), ("answers", 2))
    )
    model = load_checkpoint(folder / "model")
    trie = build_trie(answers, codebook_sizes=[model.config.vocab_size] * answers.shape[1])
    searcher = BeamSearcher(
        num_beams=config["num_beams"], normalize=config["normalize"], head=config["head"]
    )
    size = config["batch_size"]
    # Users with prompts of about one length together, as `eval_batches` does it.
    order = np.argsort(lengths, kind="stable")
    batches = [
        {
            "tokens": tokens[rows][:, : lengths[rows].max()],
            "lengths": lengths[rows],
            "row": rows,
            "valid": np.ones(len(rows), bool),
            "history": np.zeros((len(rows), 0), np.int32),
        }
        for rows in (order[start : start + size] for start in range(0, len(order), size))
    ]

    def search(batches):
        return rank_users(model, batches, searcher, trie, exclude_seen=False)

    search(list({batch["tokens"].shape: batch for batch in batches}.values()))
    rounds = []
    for _ in range(config["rounds"]):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        found = search(batches)
        rounds.append((time.perf_counter() - begin, time.process_time() - begin_cpu))
    np.savez(folder / "found.npz", tokens=found.sid, scores=found.score)
    return {
        "seconds": [seconds for seconds, _ in rounds],
        "cpu_seconds": min(rounds)[1],
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
