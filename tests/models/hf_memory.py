"""Loads and saves a checkpoint in a process of its own; `test_hf_memory.py` reads what it prints.

    python tests/models/hf_memory.py CHECKPOINT COPY

Printed is one JSON object: bytes of the parameters, the most memory that loading and saving took
beyond what the process held before, bytes read, and what the parameters' largest shard is of each.
"""

import json
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
from flax import nnx

from minirec.models.hf import load_checkpoint, save_checkpoint
from minirec.models.sharding import make_mesh


def status(field):
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) * 1024


def peak_of(work):
    """Returns what `work` returns, and the most memory it took beyond what was held before."""
    before = status("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # The peak starts anew.
    done = work()
    return done, status("VmHWM") - before


def bytes_read():
    return int(pathlib.Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


def main():
    checkpoint, copy = sys.argv[1:]
    mesh = make_mesh(1, -1) if jax.device_count() > 1 else None
    jax.jit(lambda x: x + 1)(jnp.zeros(3)).block_until_ready()  # The backend is there.
    read = bytes_read()
    model, load_peak = peak_of(lambda: load_checkpoint(checkpoint, mesh=mesh))
    read = bytes_read() - read
    arrays = [variable.get_value() for _, variable in nnx.to_flat_state(nnx.state(model))]
    _, save_peak = peak_of(lambda: save_checkpoint(model, copy, like=checkpoint))
    shares = [
        max(shard.data.size for shard in array.addressable_shards) / array.size for array in arrays
    ]
    result = {
        "devices": jax.device_count(),
        "parameters": sum(array.nbytes for array in arrays),
        "load_peak": load_peak,
        "save_peak": save_peak,
        "read": read,
        "shares": {
            "matrices": max(s for s, a in zip(shares, arrays, strict=True) if a.size > 100_000),
            "vectors": min(s for s, a in zip(shares, arrays, strict=True) if a.size <= 100_000),
        },
    }
    print(json.dumps(result), flush=True)
    os._exit(0)  # What is left to free is of no interest.


if __name__ == "__main__":
    main()
