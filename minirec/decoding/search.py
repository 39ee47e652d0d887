"""Beam search under a trie: read the history once, take a level at a time, end in items."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels.beam_step import Beams
from kernels.indices import int32_indices
from kernels.trie import DEAD_NODE, Live, Trie, digest
from minirec.decoding.head import head_step
from minirec.decoding.state import DecodeState, SearchModel, SearchResult


def beam_search(
    model: SearchModel,
    tokens: Int[Array, "B S"],
    lengths: Int[Array, " B"],
    trie: Trie,
    *,
    num_beams: int,
    normalize: str = "vocab",
    excluded: Int[Array, "B E"] | None = None,
    allowed: Bool[Array, "*B items"] | None = None,
    head: str | None = None,
    implementation: str | None = None,
) -> SearchResult:
    """Returns the best SIDs and items of the catalogue for each user, best first.

    A SID's score is the sum of its tokens' log-probabilities after the prompt. With as many beams
    as the catalogue has SIDs the search is exhaustive. `prefill`, `step` and `finish` are its
    parts. Pure: jit it, or let `BeamSearcher` do that.

    Args:
        model: what reads prompts and tokens; see `SearchModel`.
        tokens: right-padded prompts, of tokens or of what the model `reads`.
        lengths: the length of each prompt.
        trie: the catalogue, over the model's tokens.
        num_beams: beams `M` kept a user, and items returned.
        normalize: log-probabilities over the whole vocabulary, "vocab", or over the allowed
            children only, "children".
        excluded: item ids that a user shall not get (seen, out of stock), -1 pads. Exact: no beam
            is spent on a branch with nothing else in it.
        allowed: which items may be returned at all, by item id, for the batch or each user.
        head: "plain" stores the logits `[B, M, V]` of each level; "fused" never does, and with
            "children" multiplies the children's rows of the head alone. `None` picks by the size
            of the vocabulary; see `minirec.decoding.head`.
        implementation: of the beam step; `None` picks by platform.

    Raises:
        ValueError: arguments whose shapes or dtypes do not fit.
    """
    state = prefill(model, tokens, lengths, num_beams=num_beams, num_levels=trie.num_levels)
    return search_on(
        model,
        state,
        trie,
        num_beams=num_beams,
        normalize=normalize,
        excluded=excluded,
        allowed=allowed,
        head=head,
        implementation=implementation,
    )


def search_on(
    model: SearchModel,
    state: DecodeState,
    trie: Trie,
    *,
    num_beams: int,
    normalize: str = "vocab",
    excluded: Int[Array, "B E"] | None = None,
    allowed: Bool[Array, "*B items"] | None = None,
    head: str | None = None,
    implementation: str | None = None,
    on_level: Callable[[int, DecodeState], None] | None = None,
) -> SearchResult:
    """Returns what `beam_search` does, of prompts that have been read already.

    Args:
        model: the model that `state` was made with.
        state: the state before the first level, as `prefill` or `begin` returned it.
        trie: as for `beam_search`, and the same holds for the others.
        num_beams: as given to `prefill`.
        normalize: see `beam_search`.
        excluded: see `beam_search`.
        allowed: see `beam_search`.
        head: see `beam_search`.
        implementation: see `beam_search`.
        on_level: called after each level with its number and the state after it.

    Raises:
        ValueError: as `beam_search`.
    """
    excluded, allowed = _filters(excluded, allowed)
    live = _live(trie, excluded, allowed)
    for level in range(trie.num_levels):
        state = step(
            model,
            state,
            trie,
            level,
            num_beams=num_beams,
            normalize=normalize,
            live=live,
            head=head,
            implementation=implementation,
        )
        if on_level is not None:
            on_level(level, state)
    found = finish(state, trie, excluded=excluded, allowed=allowed)
    item_scores = getattr(model, "item_scores", None)
    if item_scores is None:
        return found
    return dataclasses.replace(found, table_score=item_scores(state.prefix, found.item))


def prefill(
    model: SearchModel,
    tokens: Int[Array, "B S"],
    lengths: Int[Array, " B"],
    *,
    num_beams: int,
    num_levels: int,
) -> DecodeState:
    """Returns the state before the first level: the prompts read, one beam a user at the root.

    Args:
        model: what reads the prompts.
        tokens: right-padded prompts, of tokens or of what the model `reads`.
        lengths: the length of each prompt.
        num_beams: beams that the suffix cache makes room for.
        num_levels: `L`; the suffix makes room for the `L − 1` tokens that are read again.

    Raises:
        ValueError: shapes that do not fit.
    """
    tokens, lengths = jnp.asarray(tokens), jnp.asarray(lengths)
    if tokens.ndim != 2 or lengths.shape != tokens.shape[:1]:
        raise ValueError(
            f"tokens {tokens.shape} and lengths {lengths.shape} must be [B, S] and [B]"
        )
    if num_beams < 1:
        raise ValueError(f"num_beams={num_beams} must be at least 1")
    hidden, prefix = model.prefill(tokens, lengths)
    return begin(model, hidden, prefix, lengths, num_beams=num_beams, num_levels=num_levels)


def begin(
    model: SearchModel,
    hidden: Float[Array, "B D"],
    prefix: Any,
    lengths: Int[Array, " B"],
    *,
    num_beams: int,
    num_levels: int,
) -> DecodeState:
    """Returns the state before the first level, of what the model's `prefill` returned.

    Args:
        model: what read the prompts.
        hidden: the hidden state of each prompt's last token.
        prefix: what the model keeps of the prompts.
        lengths: the length of each prompt.
        num_beams: beams that the suffix cache makes room for.
        num_levels: `L`.
    """
    B = hidden.shape[0]
    return DecodeState(
        lengths=lengths.astype(jnp.int32),
        prefix=prefix,
        suffix=model.init_suffix(B, num_beams, max(num_levels - 1, 1)),
        hidden=hidden[:, None],
        beams=Beams.root(B),
        sid=jnp.zeros((B, 1, 0), jnp.int32),
    )


def step(
    model: SearchModel,
    state: DecodeState,
    trie: Trie,
    level: int,
    *,
    num_beams: int,
    normalize: str = "vocab",
    live: Live | None = None,
    head: str | None = None,
    implementation: str | None = None,
) -> DecodeState:
    """Returns the state one level further down.

    The beams' hidden states go through head and beam step, the few suffix entries follow their
    beams, and the model reads the new tokens, unless this was the last level.

    Args:
        model: the model that `state` was made with.
        state: the state after `level` levels.
        trie: the catalogue.
        level: static, in `[0, L)`.
        num_beams: beams to keep, as given to `prefill`.
        normalize: see `beam_search`.
        live: nodes that still hold an item for this request, from `trie.live_excluding`.
        head: see `beam_search`.
        implementation: of the beam step.

    Raises:
        ValueError: `state` is not one of `level` levels, or was made for another `num_beams` or
            with another catalogue's trie; where that shows only when a jitted program runs, all
            beams are dead instead.
    """
    if state.sid.shape[-1] != level or state.hidden is None:
        raise ValueError(f"level={level}, but the state has taken {state.sid.shape[-1]} levels")
    if num_beams != state.suffix.num_beams:
        raise ValueError(
            f"num_beams={num_beams}, but the state was made for {state.suffix.num_beams} beams"
        )
    chosen = head_step(
        model,
        state.hidden,
        _beams_in(trie, state),
        trie,
        level,
        num_beams=num_beams,
        normalize=normalize,
        live=live,
        head=head,
        implementation=implementation,
    )
    sid = jnp.take_along_axis(state.sid, chosen.parent[:, :, None], axis=1)
    sid = jnp.concatenate([sid, chosen.token[:, :, None]], axis=-1)
    suffix, hidden = state.suffix, None
    if level < trie.num_levels - 1:
        if level > 0:
            suffix = suffix.reorder(chosen.parent, used=level)
        hidden, suffix = model.decode_step(chosen.token, level, state.lengths, state.prefix, suffix)
    return DecodeState(
        lengths=state.lengths,
        prefix=state.prefix,
        suffix=suffix,
        hidden=hidden,
        beams=chosen.beams,
        sid=sid,
        digest=digest.by_user(trie.digest, sid.shape[0]),
    )


def finish(
    state: DecodeState,
    trie: Trie,
    *,
    excluded: Int[Array, "B E"] | None = None,
    allowed: Bool[Array, "*B items"] | None = None,
) -> SearchResult:
    """Returns SIDs and items of a state that has taken all levels.

    Items come beam by beam, those of one SID in the trie's order (the more popular first, where
    the trie was built so); what is excluded or not allowed is left out.

    Args:
        state: the state after the last level.
        trie: the catalogue.
        excluded: as given to the search.
        allowed: as given to the search.

    Raises:
        ValueError: `state` has levels left to take, or comes of another catalogue's trie (see
            `step`), or filters whose dtype does not fit.
    """
    if state.sid.shape[-1] != trie.num_levels:
        raise ValueError(
            f"the state has taken {state.sid.shape[-1]} of the trie's {trie.num_levels} levels"
        )
    beams = _beams_in(trie, state)
    leaf, score = beams.node, beams.score
    dead = leaf == DEAD_NODE
    excluded, allowed = _filters(excluded, allowed)
    # A crowded leaf need not be read to its end: of its first M + E items at most E are excluded,
    # and no more than M are returned. What is allowed may stand anywhere.
    width = None
    if allowed is None:
        width = leaf.shape[1] + (0 if excluded is None else excluded.shape[1])
    item = trie.items(leaf, width=width)  # [B, M, I]
    B, M, items_per_leaf = item.shape
    item = item.reshape(B, M * items_per_leaf)
    wanted = item >= 0
    if allowed is not None:
        wanted &= _allows(allowed, item)
    if excluded is not None:
        wanted &= ~jnp.any(item[:, :, None] == excluded[:, None, :], axis=-1)
    # The beams are sorted, so the best M items are the first M that are wanted.
    place = jnp.where(wanted, jnp.cumsum(wanted, axis=1, dtype=jnp.int32) - 1, M)
    row = jnp.arange(B, dtype=jnp.int32)[:, None]
    item_score = jnp.repeat(score, items_per_leaf, axis=1)
    return SearchResult(
        sid=jnp.where(dead[:, :, None], 0, state.sid),
        score=score,
        leaf=leaf,
        dead=dead,
        item=jnp.full((B, M), -1, jnp.int32).at[row, place].set(item, mode="drop"),
        item_score=jnp.full((B, M), -jnp.inf, score.dtype)
        .at[row, place]
        .set(item_score, mode="drop"),
    )


def _beams_in(trie: Trie, state: DecodeState) -> Beams:
    """Returns the state's beams, dead where their nodes are another trie's."""
    if state.digest is None:
        return state.beams
    digest.check("state", state.digest, trie.digest)
    same = digest.equal(state.digest, trie.digest)[:, None]
    return Beams(
        node=jnp.where(same, state.beams.node, DEAD_NODE),
        score=jnp.where(same, state.beams.score, -jnp.inf),
    )


def _filters(excluded: Any, allowed: Any) -> tuple[Array | None, Array | None]:
    """Returns the filters as JAX arrays: NumPy's go no further than here."""
    if excluded is not None:
        excluded = jnp.asarray(int32_indices("excluded", excluded))
    return excluded, None if allowed is None else jnp.asarray(allowed)


def _live(trie: Trie, excluded: Array | None, allowed: Array | None) -> Live | None:
    if excluded is not None:
        return trie.live_excluding(excluded, allowed)
    return None if allowed is None else trie.live(allowed)


def _allows(allowed: Array, item: Array) -> Array:
    """Returns `allowed` at `item [B, n]`, False past its end, as the trie's filters have it."""

    def take(row: Array, at: Array) -> Array:
        return row.at[at].get(mode="fill", fill_value=False)

    return jax.vmap(take, in_axes=(0 if allowed.ndim == 2 else None, 0))(allowed, item)
