"""The fused head in plain XLA: the logits of one block of the vocabulary at a time.

A block's logits are reduced to their log-sum-exp before the next block's are computed. The
children's logits are computed once more, apart, from their own rows of the head: on a CPU that
takes a fiftieth of the time that picking them from every block takes. Nodes with very many children
are the exception. The default where there is no kernel for the chip.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from kernels.beam_step import xla as beam_step_xla
from kernels.beam_step.types import Beams, BeamStep
from kernels.head_beam_step.logits import logits_of
from kernels.trie import Live, Trie
from kernels.trie.tables import MaskTable

# A block is as large as keeps its rows of the head and its logits in a CPU's cache.
_BLOCK = 4096
_BLOCK_BYTES = 1 << 23
_LOGITS_BYTES = 1 << 22
# A GPU has no such cache, and each block costs it the start of several kernels: there only the
# memory that the logits take bounds a block.
_GPU_LOGITS_BYTES = 1 << 26
# From this share of the vocabulary on, a node's children are picked from the blocks.
_MANY_CHILDREN = 1 / 16
# Bytes of the head that are gathered at a time, where only the children's rows are read.
_GATHERED = 1 << 22


@functools.partial(jax.jit, static_argnames=("level", "num_beams", "normalize"))
def head_beam_step(
    hidden: Float[Array, "B M D"],
    head: Float[Array, "V D"],
    beams: Beams,
    trie: Trie,
    level: int,
    *,
    num_beams: int,
    normalize: str,
    live: Live | None,
) -> BeamStep:
    """Returns the best beams; see `kernels.head_beam_step.head_beam_step`."""
    log_probs = candidate_log_probs(hidden, head, beams, trie, level, normalize)
    return beam_step_xla.beam_select(log_probs, beams, trie, level, num_beams=num_beams, live=live)


def candidate_log_probs(
    hidden: Float[Array, "B M D"],
    head: Float[Array, "V D"],
    beams: Beams,
    trie: Trie,
    level: int,
    normalize: str,
) -> Float32[Array, "B M C"]:
    """Returns what `beam_select` needs of the children; `log_probs_of` says what of broken rows."""
    rows = hidden.reshape(-1, hidden.shape[-1])
    child = trie.children(beams.node.reshape(-1), level)
    table = trie.table_at(level)
    if isinstance(table, MaskTable):
        sizes = table.capacities
        first, end = (
            min(token, head.shape[0])
            for token in (sizes.first_token, sizes.first_token + sizes.span)
        )
        picked, normalizer = _by_span(rows, head, first, end, normalize)
        padding = [(0, 0), (0, sizes.span - picked.shape[1])]
        picked = jnp.pad(picked, padding, constant_values=-jnp.inf)
    elif normalize == "children":
        picked, normalizer = _gather(rows, head, child.token), None
    elif child.token.shape[1] > _MANY_CHILDREN * head.shape[0]:
        picked, normalizer = _stream(rows, head, child.token, 0, head.shape[0])
    else:
        picked = _gather(rows, head, child.token)
        nothing = jnp.zeros((rows.shape[0], 0), jnp.int32)
        _, normalizer = _stream(rows, head, nothing, 0, head.shape[0])
    picked = jnp.where(child.valid & (child.token < head.shape[0]), picked, -jnp.inf)
    if normalizer is None:
        normalizer = log_sum_exp(picked)
    return log_probs_of(picked, normalizer).reshape(*hidden.shape[:2], -1)


def log_probs_of(
    logits: Float32[Array, "R C"], normalizer: Float32[Array, " R"]
) -> Float32[Array, "R C"]:
    """Returns log-probabilities of children: all NaN, which kills the beam, in a broken row.

    A row is broken where NaN or `+inf` reached its normaliser.
    """
    return logits - jnp.where(normalizer < jnp.inf, normalizer, jnp.nan)[:, None]


def log_sum_exp(values: Float32[Array, "R X"]) -> Float32[Array, " R"]:
    """Returns the log-sum-exp of rows; NaN and `+inf` go through it, `-inf` for nothing else."""
    maximum = jnp.max(values, axis=-1, initial=-jnp.inf)
    # -inf - -inf would be NaN of a row that is -inf throughout; NaN and +inf end in the sum.
    shift = jnp.where(jnp.isfinite(maximum), maximum, 0.0)
    return shift + jnp.log(jnp.sum(jnp.exp(values - shift[:, None]), axis=-1))


def _by_span(
    rows: Float[Array, "R D"], head: Float[Array, "V D"], first: int, end: int, normalize: str
) -> tuple[Float32[Array, "R X"], Float32[Array, " R"] | None]:
    """Returns the logits of the tokens `[first, end)`, and the whole row's normaliser.

    Those tokens are one block, and the blocks before and after it stream.
    """
    picked = logits_of(rows, head[first:end])
    if normalize == "children":
        return picked, None
    nothing = jnp.zeros((rows.shape[0], 0), jnp.int32)
    _, before = _stream(rows, head, nothing, 0, first)
    _, after = _stream(rows, head, nothing, end, head.shape[0])
    parts = jnp.stack([before, log_sum_exp(picked), after], axis=-1)
    return picked, log_sum_exp(parts)


def _stream(
    rows: Float[Array, "R D"],
    head: Float[Array, "V D"],
    token: Int32[Array, "R C"],
    start: int,
    stop: int,
) -> tuple[Float32[Array, "R C"], Float32[Array, " R"]]:
    """Returns the logits of `token` and the log-sum-exp of the logits of `[start, stop)`.

    Tokens outside get zero.
    """

    def block(picked: Array, first: Array | int, size: int) -> tuple[Array, Array]:
        logits = logits_of(rows, jax.lax.dynamic_slice_in_dim(head, first, size))
        column = token - first
        # Tokens of other blocks read anything, and keep what they had.
        here = jnp.take_along_axis(logits, jnp.clip(column, 0, size - 1), axis=1)
        picked = jnp.where((column >= 0) & (column < size), here, picked)
        return picked, log_sum_exp(logits)

    size = _block_size(rows.shape[0], head)

    def step(picked: Array, index: Array) -> tuple[Array, Array]:
        return block(picked, start + index * size, size)

    picked = jnp.zeros(token.shape, jnp.float32)
    whole, rest = divmod(stop - start, size)
    # The log-sum-exp of nothing, where no block is whole.
    parts = jnp.full((1, rows.shape[0]), -jnp.inf, jnp.float32)
    if whole:
        picked, parts = jax.lax.scan(step, picked, jnp.arange(whole, dtype=jnp.int32))
    if rest:
        # The rest has a shape of its own, so it stands outside the loop.
        picked, last = block(picked, stop - rest, rest)
        parts = jnp.concatenate([parts, last[None]])
    return picked, log_sum_exp(parts.T)


def _block_size(num_rows: int, head: Array) -> int:
    """Returns tokens a block, a multiple of 128."""
    if jax.default_backend() == "gpu":
        return max(_GPU_LOGITS_BYTES // (4 * num_rows) // 128, 1) * 128
    row_bytes = head.shape[1] * head.dtype.itemsize
    size = min(_BLOCK, _BLOCK_BYTES // row_bytes, _LOGITS_BYTES // (4 * num_rows))
    return max(size // 128, 1) * 128


def _gather(
    rows: Float[Array, "R D"], head: Float[Array, "V D"], token: Int32[Array, "R C"]
) -> Float32[Array, "R C"]:
    """Returns the logits of `token`, from those rows of the head alone, some beams at a time."""

    def one(arguments: tuple[Array, Array]) -> Array:
        row, token = arguments
        chosen = head.at[token].get(mode="clip", wrap_negative_indices=False)
        return logits_of(row[None], chosen)[0]

    row_bytes = token.shape[1] * head.shape[1] * head.dtype.itemsize
    return jax.lax.map(one, (rows, token), batch_size=max(1, _GATHERED // row_bytes))
