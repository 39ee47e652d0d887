"""Gives a gate a hidden layer, trained on the likelihood of users' targets."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Float32, Int

from minirec.recommend.gated.candidates import Candidates
from minirec.recommend.gated.gate import Gate

_UNITS = 64
_EPOCHS = 20
_BATCH = 128
_LEARNING_RATE = 4e-3
_WEIGHT_DECAY = 0.1


def with_hidden_layer(
    gate: Gate, found: Candidates, target: Int[np.ndarray, " n"], seed: int = 0
) -> Gate:
    """Returns a gate with a hidden layer beside its weights, from which training goes on.

    AdamW for 20 passes over the users whose target is a candidate, in batches of 128.

    Args:
        gate: fitted on the same users.
        found: the candidates.
        target: the item that came next, of each user; of one at least it is a candidate.
        seed: of the layer's first weights and of the order of users.
    """
    hit = found.item == target[found.user]
    starts = np.searchsorted(found.user, np.arange(found.num_users))
    place = np.arange(len(found.user)) - starts[found.user]
    told = np.zeros(found.num_users, bool)
    told[found.user[hit]] = True
    number, kept = np.cumsum(told) - 1, told[found.user]
    user = number[found.user[kept]]
    tile = np.zeros((int(told.sum()), found.per_user, len(gate.names)), np.float32)
    tile[user, place[kept]] = gate.scaled(found.features[kept])
    there = np.zeros(tile.shape[:2], bool)
    there[user, place[kept]] = True
    right = np.zeros(len(tile), np.int32)
    right[number[found.user[hit]]] = place[hit]

    rng = np.random.default_rng(seed)
    num_features = len(gate.names)
    layer = rng.normal(size=(num_features, _UNITS)) / np.sqrt(num_features)
    # Of a feature that never varied nothing is learnt; where it does later it must not count.
    layer[~tile.any(axis=(0, 1))] = 0.0
    params = {
        "weight": jnp.asarray(gate.weight, jnp.float32),
        "hidden": jnp.asarray(layer, jnp.float32),
        "bias": jnp.zeros(_UNITS),
        "out": jnp.zeros(_UNITS),
    }
    batch = min(_BATCH, len(tile))
    per_epoch = len(tile) // batch
    state = _optimizer(_EPOCHS * per_epoch).init(params)
    for _ in range(_EPOCHS):
        order = rng.permutation(len(tile))[: per_epoch * batch].reshape(per_epoch, batch)
        for users in order:
            params, state = _step(
                params, state, tile[users], there[users], right[users], _EPOCHS * per_epoch
            )
    names = ("weight", "hidden", "bias", "out")
    weight, hidden, bias, out = (np.asarray(params[name], np.float64) for name in names)
    return dataclasses.replace(gate, weight=weight, hidden=hidden, bias=bias, out=out)


def _optimizer(num_steps: int) -> optax.GradientTransformation:
    return optax.adamw(
        optax.cosine_decay_schedule(_LEARNING_RATE, num_steps), weight_decay=_WEIGHT_DECAY
    )


@functools.partial(jax.jit, static_argnums=5)
def _step(
    params: dict[str, Array],
    state: Any,
    tile: Float32[np.ndarray, "B C F"],
    there: Bool[np.ndarray, "B C"],
    right: Int[np.ndarray, " B"],
    num_steps: int,
) -> tuple[Any, Any]:
    def loss(params: dict[str, Array]) -> Float[Array, ""]:
        units = jax.nn.relu(tile @ params["hidden"] + params["bias"])
        score = tile @ params["weight"] + units @ params["out"]
        share = jax.nn.log_softmax(jnp.where(there, score, -jnp.inf), axis=-1)
        return -jnp.take_along_axis(share, right[:, None], axis=-1).mean()

    updates, state = _optimizer(num_steps).update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state
