"""Trains an RQ-VAE: mini-batches in a compiled loop, codebooks from the encoder's first output."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float32, Int32, Int64, Key

from minirec.sids.latent_codebooks import over_rows
from minirec.sids.rq_kmeans import rq_kmeans
from minirec.sids.rq_vae_codebooks import revive, update_running_sums
from minirec.sids.rq_vae_config import RQVAEConfig
from minirec.sids.rq_vae_model import RQVAE, CodebookState, losses

# Steps between two looks at the loss.
_CHUNK = 200
_START_ITERATIONS = 10


class History(NamedTuple):
    """What training said of itself, a value a step, of the batch before the step.

    Attributes:
        loss: all parts, in units of the vectors' variance a dimension.
        reconstruction: mean squared distance of the vectors from the decoder's output, relative to
            the vectors' variance.
        revived: how many codes of all levels were moved to a residual.
    """

    loss: Float32[np.ndarray, " S"]
    reconstruction: Float32[np.ndarray, " S"]
    revived: Int32[np.ndarray, " S"]


class _Carry(NamedTuple):
    params: nnx.State
    codebooks: nnx.State
    optimizer: optax.OptState
    loss: Float32[Array, " chunk"]
    reconstruction: Float32[Array, " chunk"]
    revived: Int32[Array, " chunk"]


def train(
    model: RQVAE,
    vectors: Float32[np.ndarray, "N D"],
    config: RQVAEConfig,
    seed: int,
    counts: Sequence[Int64[np.ndarray, " K"]] | None = None,
) -> History:
    """Trains `model` in place on vectors of mean 0 and variance 1 a dimension.

    Args:
        model: encoder, codebooks, decoder.
        vectors: an item each.
        config: how to train.
        seed: of batches, the k-means start and the draws for dead codes.
        counts: of codebooks that the model has already, how many items had each code; None: it has
            none, and they start from the encoder's output.

    Raises:
        FloatingPointError: the loss is NaN or infinite; the message names the step.
    """
    random = np.random.default_rng(seed)
    batch_size = min(config.batch_size, len(vectors))
    if counts is None:
        counts = _start_codebooks(model, vectors, config, random)
    for codebook, count in zip(model.codebooks, counts, strict=True):
        a_batch = jnp.asarray(count * (batch_size / count.sum()), jnp.float32)
        codebook.counts[...] = a_batch
        codebook.sums[...] = codebook.vectors[...] * a_batch[:, None]
    graph, params, codebooks = nnx.split(model, nnx.Param, CodebookState)
    carry = _Carry(
        params,
        codebooks,
        _optimizer(config).init(params),
        jnp.zeros(_CHUNK, jnp.float32),
        jnp.zeros(_CHUNK, jnp.float32),
        jnp.zeros(_CHUNK, jnp.int32),
    )
    rows, key = _Rows(len(vectors), random), jax.random.key(seed)
    on_device = jnp.asarray(vectors)
    parts = []
    for first in range(0, config.num_steps, _CHUNK):
        num_steps = min(_CHUNK, config.num_steps - first)
        batches = np.zeros((_CHUNK, batch_size), np.int32)
        batches[:num_steps] = rows.take(num_steps * batch_size).reshape(num_steps, -1)
        carry = _steps(graph, config, on_device, batches, key, first, num_steps, carry)
        part = History(*(np.asarray(value)[:num_steps] for value in carry[3:]))
        finite = np.isfinite(part.loss)
        if not finite.all():
            step = int(finite.argmin())
            raise FloatingPointError(
                f"RQ-VAE: the loss is {part.loss[step]} at step {first + step} of "
                f"{config.num_steps}; a learning_rate below {config.learning_rate:g} may help"
            )
        parts.append(part)
    nnx.update(model, carry.params, carry.codebooks)
    return History(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _start_codebooks(
    model: RQVAE,
    vectors: Float32[np.ndarray, "N D"],
    config: RQVAEConfig,
    random: np.random.Generator,
) -> Sequence[Int64[np.ndarray, " K"]]:
    """Fills the codebooks from what the untrained encoder makes of a sample of the vectors.

    Returns:
        How many of the sample have each code.
    """
    sizes = tuple(codebook.counts.shape[0] for codebook in model.codebooks)
    wanted = max(4096, 32 * max(sizes))
    if len(vectors) > wanted:
        vectors = vectors[np.sort(random.choice(len(vectors), wanted, replace=False))]
    encoded = over_rows(model.encoder.weights(), vectors)
    if config.kmeans_start:
        start = rq_kmeans(
            encoded,
            len(sizes),
            sizes,
            seed=int(random.integers(2**31)),
            num_iterations=_START_ITERATIONS,
        )
        books, counts = start.codebooks, start.counts
    else:
        spread = np.sqrt(np.square(encoded - encoded.mean(axis=0)).mean())
        books = [spread * random.standard_normal((size, config.latent_dim)) for size in sizes]
        counts = [np.ones(size, np.int64) for size in sizes]
    for codebook, book in zip(model.codebooks, books, strict=True):
        codebook.vectors[...] = jnp.asarray(book, jnp.float32)
    return counts


def _optimizer(config: RQVAEConfig) -> optax.GradientTransformation:
    warmup = max(1, config.num_steps // 20)
    schedule = optax.warmup_cosine_decay_schedule(
        config.learning_rate / warmup,
        config.learning_rate,
        warmup,
        max(config.num_steps, warmup + 1),
        config.learning_rate / 100,
    )

    def decayed(params: nnx.State) -> nnx.State:
        # Codes are not weights: decay would pull them off the residuals that they stand for.
        return jax.tree_util.tree_map_with_path(
            lambda path, _: any(getattr(part, "key", None) == "kernel" for part in path), params
        )

    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, weight_decay=config.weight_decay, mask=decayed),
    )


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=7)
def _steps(
    graph: nnx.GraphDef,
    config: RQVAEConfig,
    vectors: Float32[Array, "N D"],
    batches: Int32[Array, "chunk B"],
    key: Key[Array, ""],
    first: Int32[Array, ""],
    num_steps: Int32[Array, ""],
    carry: _Carry,
) -> _Carry:
    """Takes `num_steps` optimizer steps on the first rows of `batches`."""
    optimizer = _optimizer(config)

    def loss_of(params: nnx.State, codebooks: nnx.State, batch: Array) -> tuple[Array, tuple]:
        parts, quantised = losses(nnx.merge(graph, params, codebooks), batch, config)
        loss = parts.reconstruction + parts.codebook + config.commitment * parts.commitment
        return loss, (parts.reconstruction, quantised)

    def step(number: Array, carry: _Carry) -> _Carry:
        batch = vectors[batches[number]]
        (loss, (reconstruction, quantised)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            carry.params, carry.codebooks, batch
        )
        updates, state = optimizer.update(gradients, carry.optimizer, carry.params)
        params = optax.apply_updates(carry.params, updates)
        model = nnx.merge(graph, params, carry.codebooks, copy=True)
        revived = jnp.int32(0)
        step_key = jax.random.fold_in(key, first + number)
        for level, codebook in enumerate(model.codebooks):
            codes, residuals = quantised.codes[level], quantised.residuals[level]
            update_running_sums(
                codebook, codes, residuals, config.ema_decay, move=config.codebook_update == "ema"
            )
            if config.revive_below > 0:
                level_key = jax.random.fold_in(step_key, level)
                revived += revive(codebook, codes, residuals, level_key, config.revive_below)
        _, params, codebooks = nnx.split(model, nnx.Param, CodebookState)
        return _Carry(
            params,
            codebooks,
            state,
            carry.loss.at[number].set(loss),
            carry.reconstruction.at[number].set(reconstruction),
            carry.revived.at[number].set(revived),
        )

    return jax.lax.fori_loop(0, num_steps, step, carry)


class _Rows:
    """Item ids for batches: one permutation after another, cut without regard to their ends."""

    def __init__(self, num_items: int, random: np.random.Generator):
        self._num_items, self._random = num_items, random
        self._left: Int64[np.ndarray, " n"] = np.zeros(0, np.int64)

    def take(self, count: int) -> Int64[np.ndarray, " count"]:
        parts = [self._left]
        while sum(map(len, parts)) < count:
            parts.append(self._random.permutation(self._num_items))
        rows = np.concatenate(parts)
        self._left = rows[count:]
        return rows[:count]
