"""Loads and saves a checkpoint in a process of its own; `test_hf_memory.py` reads its result.

    python tests/models/hf_memory.py CHECKPOINT COPY [COORDINATOR NUM_PROCESSES PROCESS]

COPY.PROCESS.json gets one JSON object: bytes of the parameters that the process holds, the most
memory that loading and saving took beyond what it held before, bytes read, and what share of a
parameter the largest shard is.
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


def held(array):
    """Bytes of an array that this process holds; what several devices hold alike counts once."""
    return sum({str(shard.index): shard.data.nbytes for shard in array.addressable_shards}.values())


def main():
    checkpoint, copy, *together = sys.argv[1:]
    if together:
        coordinator, num_processes, process = together
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(coordinator, int(num_processes), int(process))
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
        "parameters": sum(held(array) for array in arrays),
        "load_peak": load_peak,
        "save_peak": save_peak,
        "read": read,
        "shares": {
            "matrices": max(s for s, a in zip(shares, arrays, strict=True) if a.size > 100_000),
            "vectors": min(s for s, a in zip(shares, arrays, strict=True) if a.size <= 100_000),
        },
    }
    pathlib.Path(f"{copy}.{jax.process_index()}.json").write_text(json.dumps(result))
    if together:
        jax.distributed.shutdown()
    os._exit(0)  # What is left to free is of no interest.


if __name__ == "__main__":
    main()
