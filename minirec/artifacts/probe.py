"""What a checkpoint is: loaded once, counted, and run once."""

from __future__ import annotations

import dataclasses
import os
import resource
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from minirec.models import SidDecoder

_TOKENS = 8


@dataclasses.dataclass(frozen=True)
class Probe:
    """What was seen of a checkpoint.

    Attributes:
        parameters: how many numbers its parameters are; tied ones count once.
        dtype: of the parameters; several are joined by `,`.
        parameter_bytes: what they take in memory.
        peak_bytes: the most memory that this process has held, the program itself included; on a
            device with memory of its own, the most held there.
        load_seconds: from files to arrays.
        forward_seconds: one pass over a row of 8 tokens, compiling included.
        logit_mean: mean of the last token's logits over the vocabulary.
        top_token: the token with the largest of them.
    """

    parameters: int
    dtype: str
    parameter_bytes: int
    peak_bytes: int
    load_seconds: float
    forward_seconds: float
    logit_mean: float
    top_token: int

    def lines(self) -> list[str]:
        """Returns `parameters=494032768`, …, one line a figure."""
        return [
            f"{name}={value:.4f}" if isinstance(value, float) else f"{name}={value}"
            for name, value in dataclasses.asdict(self).items()
        ]


def probe_checkpoint(folder: str | os.PathLike[str]) -> Probe:
    """Loads a Hugging Face checkpoint and returns what it is.

    Raises:
        ValueError: there is no checkpoint, it is not one that can be loaded, or its logits are not
            finite.
    """
    from minirec.models.hf import load_checkpoint  # pyrefly: ignore[missing-import]

    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder}: no checkpoint: config.json is missing; download it first")
    started = time.monotonic()
    model = load_checkpoint(folder)
    jax.block_until_ready(nnx.state(model))
    return probe_model(model, load_seconds=time.monotonic() - started)


def probe_model(model: SidDecoder, *, load_seconds: float = 0.0) -> Probe:
    """Returns what a model is, after one forward pass.

    Raises:
        ValueError: the logits are not finite.
    """
    parameters = jax.tree.leaves(nnx.state(model, nnx.Param))
    graph, state = nnx.split(model)

    @jax.jit
    def forward(state: nnx.State, tokens: jax.Array) -> jax.Array:
        decoder = nnx.merge(graph, state)
        positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        hidden = decoder(tokens, positions, jnp.ones_like(tokens))
        return decoder.logits(hidden[0, -1])

    tokens = jnp.arange(_TOKENS, dtype=jnp.int32)[None] % model.config.vocab_size
    started = time.monotonic()
    logits = np.asarray(forward(state, tokens))
    seconds = time.monotonic() - started
    if not np.isfinite(logits).all():
        raise ValueError(
            f"{np.count_nonzero(~np.isfinite(logits))} of {len(logits)} logits are not finite"
        )
    return Probe(
        parameters=sum(leaf.size for leaf in parameters),
        dtype=",".join(sorted({str(leaf.dtype) for leaf in parameters})),
        parameter_bytes=sum(leaf.nbytes for leaf in parameters),
        peak_bytes=_peak_bytes(),
        load_seconds=load_seconds,
        forward_seconds=seconds,
        logit_mean=float(logits.mean()),
        top_token=int(logits.argmax()),
    )


def _peak_bytes() -> int:
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
