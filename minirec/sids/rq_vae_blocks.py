"""A trained RQ-VAE over many vectors, in blocks of one shape.

A block looks alike for any number of vectors, so that making SIDs and encoding new items run the
same compiled program and agree to the bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float32, Int, Int32

from minirec.sids.rq_vae_model import RQVAE

_ROWS = 1024


def encoder_output(model: RQVAE, vectors: Float32[np.ndarray, "N D"]) -> Float32[np.ndarray, "N Z"]:
    """Returns what the codebooks are given."""
    return _over_blocks(_encoder_output, model, vectors)


def encode(
    model: RQVAE, vectors: Float32[np.ndarray, "N D"], alive: Sequence[Bool[np.ndarray, " K"]]
) -> Int32[np.ndarray, "N L"]:
    """Returns the codes of vectors; only codes that are `alive` are given."""
    return _over_blocks(_encode, model, vectors, shared=tuple(map(jnp.asarray, alive)))


def decode(model: RQVAE, codes: Int[np.ndarray, "N L"]) -> Float32[np.ndarray, "N D"]:
    """Returns the vectors that codes stand for."""
    return _over_blocks(_decode, model, codes.astype(np.int32))


def prefix_errors(
    model: RQVAE, vectors: Float32[np.ndarray, "N D"], codes: Int32[np.ndarray, "N L"]
) -> Float32[np.ndarray, "N L"]:
    """Returns each vector's squared distance from what its codes up to each level decode to."""
    return _over_blocks(_prefix_errors, model, vectors, codes)


def _over_blocks(
    function: Callable[..., Array], model: RQVAE, *rows: np.ndarray, shared: tuple = ()
) -> np.ndarray:
    graph, state = nnx.split(model)
    parts = []
    for start in range(0, len(rows[0]), _ROWS):
        block = [array[start : start + _ROWS] for array in rows]
        missing = _ROWS - len(block[0])
        if missing:
            block = [np.concatenate([part, np.repeat(part[-1:], missing, 0)]) for part in block]
        part = np.asarray(function(graph, state, shared, *block))
        parts.append(part[: _ROWS - missing])
    return np.concatenate(parts)


_compiled = functools.partial(jax.jit, static_argnums=0)


@_compiled
def _encoder_output(
    graph: nnx.GraphDef, state: nnx.State, shared: tuple, vectors: Float32[Array, "R D"]
) -> Float32[Array, "R Z"]:
    del shared
    return nnx.merge(graph, state).encoder(vectors)


@_compiled
def _encode(
    graph: nnx.GraphDef,
    state: nnx.State,
    alive: tuple[Bool[Array, " K"], ...],
    vectors: Float32[Array, "R D"],
) -> Int32[Array, "R L"]:
    model = nnx.merge(graph, state)
    return jnp.stack(model.quantise(model.encoder(vectors), alive).codes, axis=1)


@_compiled
def _decode(
    graph: nnx.GraphDef, state: nnx.State, shared: tuple, codes: Int32[Array, "R L"]
) -> Float32[Array, "R D"]:
    del shared
    model = nnx.merge(graph, state)
    return model.decoder(_prefix_sums(model, codes)[-1])


@_compiled
def _prefix_errors(
    graph: nnx.GraphDef,
    state: nnx.State,
    shared: tuple,
    vectors: Float32[Array, "R D"],
    codes: Int32[Array, "R L"],
) -> Float32[Array, "R L"]:
    del shared
    model = nnx.merge(graph, state)
    errors = [
        jnp.square(vectors - model.decoder(latent)).sum(axis=1)
        for latent in _prefix_sums(model, codes)
    ]
    return jnp.stack(errors, axis=1)


def _prefix_sums(model: RQVAE, codes: Int32[Array, "R L"]) -> list[Float32[Array, "R Z"]]:
    total, sums = jnp.float32(0), []
    for level, codebook in enumerate(model.codebooks):
        total = total + codebook.vectors[...][codes[:, level]]
        sums.append(total)
    return sums
