"""STATIC's JAX code, run beside ours: its index, one step of it, and its whole decode.

STATIC (`youtube/static-constraint-decoding`, arXiv 2602.22647) is not part of this project: a
checkout is read where the environment's `STATIC_PATH` names one.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from kernels.beam_step import Beams
from kernels.trie import Trie

STATIC_PATH = "STATIC_PATH"
"""The environment variable that names a checkout."""

# The width of what its decode keeps of each beam at a dense level, unless told otherwise.
DEFAULT_TOKENS_PER_BEAM = 30
# A square table of codes by codes, five bytes each: past this it takes over a gigabyte.
_MOST_DENSE_CODES = 16_384


class StaticBeams(NamedTuple):
    """What STATIC's search carries from level to level.

    Attributes:
        state: int32 `[B, M]`, its number of each beam's prefix; 0 for the root and for a leaf.
        score: float32 `[B, M]`, sum of log-probabilities.
    """

    state: Int32[Array, "B M"]
    score: Float32[Array, "B M"]


class StaticStep(NamedTuple):
    """One step's new beams, best first.

    Attributes:
        token: int32 `[B, num_beams]`.
        parent: int32 `[B, num_beams]`.
        state: int32 `[B, num_beams]`.
        score: float32 `[B, num_beams]`.
    """

    token: Int32[Array, "B num_beams"]
    parent: Int32[Array, "B num_beams"]
    state: Int32[Array, "B num_beams"]
    score: Float32[Array, "B num_beams"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StaticIndex:
    """STATIC's index of a catalogue; a pytree. Its names are kept.

    Attributes:
        packed_csr: int32 `[edges + V, 2]`: token and next state of each edge.
        csr_indptr: int32 `[states + 2]`.
        start_mask: bool `[V]`: tokens that start a SID.
        dense_mask: bool `[V] * d_dense`: prefixes of `d_dense` tokens that there are.
        dense_states: int32 `[V] * d_dense`: their states.
        max_branch_factors: most children a level; static.
        vocab_size: `V`; static.
        d_dense: levels with dense tables; static.
    """

    packed_csr: Int32[Array, "edges 2"]
    csr_indptr: Int32[Array, " states"]
    start_mask: Bool[Array, " V"]
    dense_mask: Bool[Array, " ..."]
    dense_states: Int32[Array, " ..."]
    max_branch_factors: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    vocab_size: int = dataclasses.field(metadata={"static": True})
    d_dense: int = dataclasses.field(metadata={"static": True})


def is_named() -> bool:
    """Returns whether the environment names a checkout of STATIC."""
    return bool(os.environ.get(STATIC_PATH))


@functools.cache
def _module(path: str, name: str) -> ModuleType:
    """Returns a module of the checkout, loaded by its file: its package asks for more than JAX."""
    file = Path(path).expanduser() / "static_decoding" / f"{name}.py"
    if not file.is_file():
        raise FileNotFoundError(
            f"{STATIC_PATH}={path}: there is no file {file}; it must name a checkout of "
            "youtube/static-constraint-decoding"
        )
    spec = importlib.util.spec_from_file_location(f"_static_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def load(name: str) -> ModuleType:
    """Returns a module of STATIC: `"csr_utils"` or `"decoding_jax"`.

    Raises:
        ValueError: the environment does not name a checkout.
        FileNotFoundError: what it names is not a checkout of STATIC.
    """
    if not is_named():
        raise ValueError(
            f"{STATIC_PATH} is not set; it must name a checkout of "
            "youtube/static-constraint-decoding"
        )
    return _module(os.environ[STATIC_PATH], name)


def sorted_sids(sids: Int[np.ndarray, "N L"]) -> Int32[np.ndarray, "N L"]:
    """Returns the rows in lexicographic order, as STATIC's builder wants them."""
    return np.ascontiguousarray(sids[np.lexsort(sids.T[::-1])], np.int32)


def build_index(sids: Int[np.ndarray, "N L"], vocab_size: int) -> StaticIndex:
    """Returns STATIC's index of a catalogue in any order, on the device.

    Two dense levels, its own choice, where such a table can be held; one where the vocabulary is a
    language model's or the SIDs have two codes.

    Raises:
        ValueError: no checkout is named.
        FileNotFoundError: what is named is not a checkout of STATIC.
    """
    d_dense = 2 if vocab_size <= _MOST_DENSE_CODES and sids.shape[1] > 2 else 1
    packed_csr, csr_indptr, branches, start_mask, dense_mask, dense_states = load(
        "csr_utils"
    ).build_static_index(sorted_sids(sids), vocab_size, d_dense)
    return StaticIndex(
        packed_csr=jnp.asarray(packed_csr),
        csr_indptr=jnp.asarray(csr_indptr, jnp.int32),
        start_mask=jnp.asarray(start_mask),
        dense_mask=jnp.asarray(dense_mask),
        dense_states=jnp.asarray(dense_states),
        max_branch_factors=tuple(int(branches) for branches in branches),
        vocab_size=vocab_size,
        d_dense=d_dense,
    )


def beams_of(
    index: StaticIndex, trie: Trie, beams: Beams, level: int, sids: Int[np.ndarray, "N L"]
) -> StaticBeams:
    """Returns our beams as STATIC's, of the same prefixes and scores.

    Args:
        index: STATIC's index of `sids`.
        trie: our trie of `sids`.
        beams: beams of depth `level`, none of them dead.
        level: static.
        sids: the catalogue that both were made of.
    """
    node = beams.node
    for deeper in range(level, trie.num_levels):
        child = trie.children(node, deeper)
        first = jnp.argmax(child.valid, axis=-1)
        node = jnp.take_along_axis(child.node, first[..., None], axis=-1)[..., 0]
    prefixes = sids[np.asarray(trie.items(node, width=1))[..., 0], :level]
    return StaticBeams(state=states_of(index, prefixes), score=beams.score)


def states_of(index: StaticIndex, prefixes: Int[np.ndarray, "*B depth"]) -> Int32[Array, "*B"]:
    """Returns STATIC's states of prefixes, int32 `[...]`, by following its own edges.

    Raises:
        ValueError: a prefix that the index does not have.
    """
    if not prefixes.shape[-1]:
        return jnp.zeros(prefixes.shape[:-1], jnp.int32)
    indptr, packed = np.asarray(index.csr_indptr), np.asarray(index.packed_csr)
    flat = prefixes.reshape(-1, prefixes.shape[-1])
    states = flat[:, 0].astype(np.int32) + 1
    for row, tokens in enumerate(flat):
        for token in tokens[1:]:
            first, end = indptr[states[row]], indptr[states[row] + 1]
            place = first + np.searchsorted(packed[first:end, 0], token)
            if place == end or packed[place, 0] != token:
                raise ValueError(f"prefixes: {tokens} is not in STATIC's index")
            states[row] = packed[place, 1]
    return jnp.asarray(states.reshape(prefixes.shape[:-1]))


@functools.partial(jax.jit, static_argnames=("level", "num_beams", "tokens_per_beam"))
def step(
    logits: Float[Array, "B M V"],
    beams: StaticBeams,
    index: StaticIndex,
    level: int,
    *,
    num_beams: int,
    tokens_per_beam: int | None = None,
) -> StaticStep:
    """Returns what one level of STATIC's decode makes of logits and beams.

    Log-softmax of the whole rows; the root's mask, the dense tables or its sparse lookup, whichever
    the level has; `top_k` over all candidates. The tokens of earlier levels, which its decode
    reorders here, are left to the caller, as our step leaves them.

    Args:
        logits: `[B, M, V]`; `M` is 1 at level 0.
        beams: states of depth `level`.
        index: the catalogue.
        level: static.
        num_beams: static.
        tokens_per_beam: candidates kept a beam at a dense level; all, so exact, by default.
    """
    batch, num_parents, vocab = logits.shape
    log_probs = jax.nn.log_softmax(logits.reshape(-1, vocab).astype(jnp.float32))
    if level == 0:
        score, token = jax.lax.top_k(jnp.where(index.start_mask, log_probs, -jnp.inf), num_beams)
        return StaticStep(token, jnp.zeros_like(token), token + 1, score)

    state = beams.state.reshape(-1)
    if level < index.d_dense:
        parent_token = state - 1
        allowed = jnp.where(index.dense_mask[parent_token], log_probs, -jnp.inf)
        width = vocab if tokens_per_beam is None else tokens_per_beam
        candidate, token = jax.lax.top_k(allowed, width)
        next_state = index.dense_states[parent_token[:, None], token]
    else:
        width = index.max_branch_factors[level]
        candidate, token, next_state = load("decoding_jax").generate_and_apply_logprobs_mask(
            log_probs, state, index.packed_csr, index.csr_indptr, width, index.vocab_size
        )
    score = beams.score[..., None] + candidate.reshape(batch, num_parents, width)
    score, best = jax.lax.top_k(score.reshape(batch, -1), num_beams)

    def chosen(values: Array) -> Array:
        return jnp.take_along_axis(values.reshape(batch, -1), best, axis=1)

    return StaticStep(chosen(token), best // width, chosen(next_state), score)


def decode(
    logits: Sequence[Float[Array, "B M V"]],
    index: StaticIndex,
    *,
    num_beams: int,
    tokens_per_beam: int = DEFAULT_TOKENS_PER_BEAM,
) -> Int32[Array, "B num_beams L"]:
    """Returns the SIDs of STATIC's whole decode, best first, over logits made beforehand.

    Args:
        logits: one array a level: `[B, 1, V]`, then `[B, num_beams, V]` of each next one.
        index: the catalogue.
        num_beams: static.
        tokens_per_beam: static: candidates kept a beam at a dense level.
    """
    batch, _, vocab = logits[0].shape
    decode_all: Callable[..., Any] = load("decoding_jax").sparse_transition_jax
    return decode_all(
        model=_replay,
        key=tuple(level.reshape(-1, 1, vocab) for level in logits),
        batch_size=batch,
        beam_size=num_beams,
        tokens_per_beam=tokens_per_beam,
        start_token=0,
        max_sample_len=len(logits),
        vocab_size=vocab,
        max_branch_factors=index.max_branch_factors,
        packed_csr=index.packed_csr,
        csr_indptr=index.csr_indptr,
        start_mask=index.start_mask,
        dense_mask=index.dense_mask,
        dense_states=index.dense_states,
        d_dense=index.d_dense,
    )


def replayed(logits: Float[Array, "*B V"], tokens: Int[Array, "*B"]) -> Float[Array, "*B V"]:
    """Returns the logits of a level, as a model would that has read the tokens: not before them.

    Without this the normalisers of all levels are known before the search has begun. What is added
    is 0 for every token that there is, so the logits are the same.
    """
    return logits + (tokens >> 31).astype(logits.dtype)[..., None]


def _replay(tokens: Array, left: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
    """A model for STATIC: gives the next level's logits; its random key is what is left."""
    return replayed(left[0], tokens), left[1:]
