"""Muon: momentum whose matrices are made orthogonal before they are added (Jordan et al., 2024).

A matrix of gradients has few large singular values and many small ones; made orthogonal, all its
directions are learned equally fast. A step is then scaled to the root mean square that AdamW's has
(0.2, Liu et al., "Muon is Scalable for LLM Training", 2025), so that learning rate and weight decay
are of AdamW's size. It is for the matrices between the layers alone: embeddings, heads and norms
stay with AdamW.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

MOMENTUM = 0.95
_RMS = 0.2
# Of the odd polynomial that Jordan's Newton-Schulz iteration takes: its slope at 0 is as large as
# it can be, and after five steps all singular values lie about 1 (within [0.7, 1.2]).
_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS = 5
_BLOCKS, _OUTPUT = "blocks", "output"


class MuonState(NamedTuple):
    """The running mean of gradients."""

    momentum: Any


def is_matrix(name: str, leaf: Any) -> bool:
    """Returns whether a parameter, by its path, is one of a trunk's stacked matrices."""
    *path, own = name.split("/")
    return _BLOCKS in path and jnp.ndim(leaf) >= 3 and not own.endswith("bias")


def scale_by_muon(momentum: float = MOMENTUM) -> optax.GradientTransformation:
    """Returns the direction of Muon's step, before learning rate and weight decay.

    Parameters are stacked matrices `[layers, inputs…, outputs…]` of a trunk (`is_matrix`), by their
    paths.
    """

    def init(params: Any) -> MuonState:
        return MuonState(jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, MuonState]:
        del params
        mean = jax.tree.map(
            lambda old, new: momentum * old + (1 - momentum) * new, state.momentum, updates
        )
        # Nesterov: as the mean will be after one more such gradient.
        ahead = jax.tree.map(lambda old, new: momentum * old + (1 - momentum) * new, mean, updates)
        return jax.tree_util.tree_map_with_path(_step, ahead), MuonState(mean)

    return optax.GradientTransformation(init, update)


def _step(path: tuple[Any, ...], gradient: Array) -> Array:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    num_inputs = 2 if name.rpartition("/")[2] == _OUTPUT else 1
    rows = math.prod(gradient.shape[1 : 1 + num_inputs])
    matrices = gradient.reshape(gradient.shape[0], rows, -1)
    scale = _RMS * max(matrices.shape[1:]) ** 0.5
    return (scale * orthogonal(matrices)).reshape(gradient.shape)


def orthogonal(matrices: Float[Array, "layers m n"]) -> Float[Array, "layers m n"]:
    """Returns each matrix with all its singular values about 1, and its singular vectors."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.swapaxes(1, 2) if is_tall else matrices  # The products with x x^T are smaller.
    # No singular value is above the root of the sum of squares.
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-7)

    def improve(_: int, x: Array) -> Array:
        square = x @ x.swapaxes(1, 2)
        return _A * x + (_B * square + _C * (square @ square)) @ x

    x = jax.lax.fori_loop(0, _STEPS, improve, x)
    return x.swapaxes(1, 2) if is_tall else x
