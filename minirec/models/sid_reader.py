"""Decoders that read items: what they read of an item is looked up in a table of SIDs.

Batches and prompts speak of items, one place an event. The table `[N, L]` holds the tokens of every
item's SID; it lies on the device and is an argument of the compiled program, so that a catalogue
with new items, or other SIDs, is another argument and not another program.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Int32, Key

from minirec.models.item_terms import ItemTerms, WholeRows
from minirec.sids.vocab import SidVocab


class ItemTokens(nnx.Variable):
    """A table `[N, L]` of the tokens of every item's SID; nothing that is learnt."""


class ItemRows(nnx.Variable):
    """A table `[N, D]` of items' rows with their terms', made of what is learnt."""


class TokenRows(NamedTuple):
    """Rows of items as a decoder of tokens has them, `L` places an item.

    Attributes:
        tokens: each example is BOS and its items' tokens but the last.
        targets: the tokens that stand one place further.
        positions: place of each token in its own example, from 0.
        segment_ids: example of each token, from 1; 0 is padding.
    """

    tokens: Int32[Array, "B T"]
    targets: Int32[Array, "B T"]
    positions: Int32[Array, "B T"]
    segment_ids: Int32[Array, "B T"]


def places_in_example(segment: Int[Array, "B P"]) -> Int32[Array, "B P"]:
    """Returns the place of each event in its own example, from 0; 0 in padding.

    Examples of a row stand side by side, each under a number of its own.
    """
    index = jnp.arange(segment.shape[1], dtype=jnp.int32)
    begins = jnp.pad(segment[:, 1:] != segment[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    begin = jax.lax.cummax(jnp.where(begins, index, 0), axis=1)
    return jnp.where(segment > 0, index - begin, 0)


def token_rows(
    item: Int[Array, "B P"], segment: Int[Array, "B P"], item_tokens: Int[Array, "N L"]
) -> TokenRows:
    """Returns rows of items as rows of `T = P · L` tokens, packed as they are.

    Args:
        item: any number where `segment` is 0.
        segment: example of each event, from 1; 0 is padding.
        item_tokens: the tokens of every item's SID.
    """
    B, P = item.shape
    L = item_tokens.shape[1]
    levels = jnp.arange(L, dtype=jnp.int32)
    inside = jnp.repeat(segment > 0, L, axis=1)
    targets = jnp.take(item_tokens, item, axis=0, mode="clip").reshape(B, P * L)
    targets = jnp.where(inside, targets, SidVocab.PAD)
    positions = (places_in_example(segment)[:, :, None] * L + levels).reshape(B, P * L)
    positions = jnp.where(inside, positions, 0)
    before = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
    tokens = jnp.where(inside & (positions == 0), SidVocab.BOS, before)
    tokens = jnp.where(inside, tokens, SidVocab.PAD)
    return TokenRows(tokens, targets, positions, jnp.repeat(segment, L, axis=1))


def token_prompts(
    item: Int[Array, "B P"], lengths: Int[Array, " B"], item_tokens: Int[Array, "N L"]
) -> tuple[Int32[Array, "B S"], Int32[Array, " B"]]:
    """Returns histories as prompts of `S = 1 + P · L` tokens, BOS first, and their lengths.

    Args:
        item: histories, oldest item first; any number behind a row's length.
        lengths: items of each history, 0 or more.
        item_tokens: the tokens of every item's SID.
    """
    B, P = item.shape
    L = item_tokens.shape[1]
    tokens = jnp.take(item_tokens, item, axis=0, mode="clip").reshape(B, P * L)
    shown = jnp.arange(P * L, dtype=jnp.int32) < lengths[:, None] * L
    tokens = jnp.where(shown, tokens, SidVocab.PAD)
    return jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=SidVocab.BOS), 1 + lengths * L


class _Reader(nnx.Module):
    """A decoder and the SIDs of the items that it reads, as a search has it (`SearchModel`)."""

    reads = "item"

    def __init__(self, decoder: Any, item_tokens: Int[Array | np.ndarray, "N L"]):
        """Puts the two together.

        Args:
            decoder: a decoder of the kind that the class names, or what is called as one.
            item_tokens: the tokens of every item's SID.
        """
        self.decoder = decoder
        self.item_tokens = ItemTokens(jnp.asarray(item_tokens, jnp.int32))

    @property
    def head_rows(self) -> Any:
        """The decoder's, where it has one."""
        return getattr(self.decoder, "head_rows", None)

    def logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Returns logits over the SID tokens."""
        return self.decoder.logits(hidden)

    def init_suffix(self, batch: int, num_beams: int, capacity: int) -> Any:
        """Returns an empty suffix."""
        return self.decoder.init_suffix(batch, num_beams, capacity)

    def decode_step(
        self,
        tokens: Int[Array, "B M"],
        step: int,
        lengths: Int[Array, " B"],
        prefix: Any,
        suffix: Any,
    ) -> tuple[Float[Array, "B M D"], Any]:
        """Reads one more token a beam; `lengths` are the histories', in items."""
        # In tokens, BOS first. A decoder with a position an item does not look at them.
        lengths = 1 + lengths * self.item_tokens.shape[1]
        return self.decoder.decode_step(tokens, step, lengths, prefix, suffix)


class SidReader(_Reader):
    """A `SidDecoder`, with a position a token, that reads items; training calls it."""

    def __call__(
        self,
        item: Int[Array, "B P"],
        segment: Int[Array, "B P"],
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B P L D"]:
        """Returns the states that each level of every item is to be told from.

        Args:
            item: packed or padded rows; any number where `segment` is 0.
            segment: example of each item, from 1; 0 is padding.
            dropout_key: the source of dropout's bits; `None` turns dropout off.
        """
        rows = token_rows(item, segment, self.item_tokens[...])
        hidden = self.decoder(
            rows.tokens, rows.positions, rows.segment_ids, dropout_key=dropout_key
        )
        return hidden.reshape(*item.shape, -1, hidden.shape[-1])

    def prefill(
        self, item: Int[Array, "B P"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B D"], Any]:
        """Reads right-padded histories once.

        Args:
            item: histories, oldest item first; what stands behind a row's length is never seen.
            lengths: items of each history, 0 or more.
        """
        tokens, lengths = token_prompts(item, lengths, self.item_tokens[...])
        return self.decoder.prefill(tokens, lengths)


class ItemReader(_Reader):
    """An `ItemDecoder`, with a position an item, as a search and a ranking of all items have it.

    Where the decoder has terms, the items' rows are made here, once: what reads with it is not to
    change it afterwards.
    """

    def __init__(
        self,
        decoder: Any,
        item_tokens: Int[Array | np.ndarray, "N L"],
        terms: ItemTerms | None = None,
    ):
        """Puts them together.

        Args:
            decoder: an `ItemDecoder`.
            item_tokens: the tokens of every item's SID.
            terms: every item's terms, where the decoder has rows for them.

        Raises:
            ValueError: the terms are not those that the decoder has rows for.
        """
        super().__init__(decoder, item_tokens)
        rows = None if terms is None else decoder.whole_rows(terms)
        self.rows = nnx.data(None) if rows is None else ItemRows(rows.rows)

    @property
    def _whole_rows(self) -> WholeRows | None:
        return None if self.rows is None else WholeRows(self.rows[...])

    def read(self, item: Int[Array, "B P"], lengths: Int[Array, " B"]) -> Float[Array, "B D"]:
        """Returns the trunk's state after each history; arguments as a `SidReader`'s `prefill`."""
        return self.decoder.read(item, lengths, self.item_tokens[...], self._whole_rows)

    def prefill(
        self, item: Int[Array, "B P"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B D"], Any]:
        """Reads right-padded histories once; arguments as a `SidReader`'s."""
        return self.decoder.prefill(item, lengths, self.item_tokens[...], self._whole_rows)

    def item_rows(self) -> Float[Array, "N D"]:
        """Returns the rows of all items that the decoder's table has, with their terms'."""
        return self.decoder.item_rows(None, self._whole_rows)

    def item_logits(self, state: Float[Array, "*batch D"]) -> Float[Array, "*batch N"]:
        """Returns logits over all items that the decoder's table has."""
        return self.decoder.item_logits(state, self._whole_rows)

    def item_scores(
        self, prefix: Float[Array, "B D"], item: Int[Array, "B M"]
    ) -> Float[Array, "B M"]:
        """Returns some items' entries of `item_logits`; -inf for items that the table lacks.

        Args:
            prefix: the trunk's states, as `prefill` returned them.
            item: M items a user, or negative numbers.
        """
        rows = self.decoder.item_rows(item, self._whole_rows).astype(prefix.dtype)
        score = jnp.einsum("bd,bmd->bm", prefix, rows, preferred_element_type=jnp.float32)
        known = (item >= 0) & (item < self.decoder.config.num_items)
        return jnp.where(known, score, -jnp.inf)
