"""What a search holds between two levels, and what it gives back."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import jax
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from kernels.beam_step import Beams


class Suffix(Protocol):
    """What a model keeps of each beam: keys and values of its tokens, or whatever it needs.

    A pytree; `minirec.models.SuffixCache` is one.
    """

    @property
    def num_beams(self) -> int:
        """`M`, how many beams a user it has room for."""
        ...

    def reorder(self, parent: Int[Array, "B M"], used: int | None = None) -> Any:
        """Returns the suffix whose beam `m` continues the present beam `parent[:, m]`.

        `used` tells how many tokens a beam holds so far; `None` takes it to be full.
        """
        ...


class SearchModel(Protocol):
    """What a search asks of a model; `SidDecoder`, `SidReader` and `ItemReader` have it.

    A prompt is a row of tokens; where the model's `reads` is "item", a row of items. What a model
    keeps of a prompt is its own affair: `prefix` is any pytree with a leading axis of
    users, or of layers and users, and goes back to `decode_step` as it came. A model may do without
    `head_rows`: it is then searched with the plain head. One that has an item table besides has
    `item_scores(prefix, item)`, which is asked for the items that a search has found.
    """

    def prefill(
        self, tokens: Int[Array, "B S"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B D"], Any]:
        """Reads right-padded prompts: hidden state of each last valid token, and the prefix."""
        ...

    def init_suffix(self, batch: int, num_beams: int, capacity: int) -> Any:
        """Returns an empty suffix."""
        ...

    def decode_step(
        self,
        tokens: Int[Array, "B M"],
        step: int,
        lengths: Int[Array, " B"],
        prefix: Any,
        suffix: Any,
    ) -> tuple[Float[Array, "B M D"], Any]:
        """Reads one more token a beam."""
        ...

    def logits(self, hidden: Float[Array, "B M D"]) -> Float[Array, "B M V"]:
        """Returns logits over the vocabulary."""
        ...

    def head_rows(self) -> Float[Array, "V D"]:
        """Returns the head's matrix: `logits` are the products of hidden states with its rows."""
        ...


def reads(model: Any) -> str:
    """Returns which field of a batch a model's prompts are: "tokens", or "item" if it says so."""
    return getattr(model, "reads", "tokens")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """A search after some levels; a pytree.

    `M` is the number of beams kept. The root is one beam, so before the first level the beams'
    axis `W` is 1 wide, and `M` after it. `level` counts the levels taken.

    Attributes:
        lengths: int32 `[B]`, the length of each prompt.
        prefix: what the model keeps of the prompts, one copy a user; a `SidDecoder` their keys and
            values, 2 × `[layers, B, S, kv_heads, head_dim]`.
        suffix: what it keeps of the beams' own tokens; a `SidDecoder` their keys and values,
            2 × `[layers, B, M, capacity, kv_heads, head_dim]`, of which the first `level` are
            filled.
        hidden: `[B, W, D]`, hidden state of each beam's newest token; `None` after the last level.
        beams: node int32 `[B, W]` of depth `level`, and score float32 `[B, W]`, best first.
        sid: int32 `[B, W, level]`, the tokens of each beam so far.
        digest: int32 `[B, 4]`, of the trie whose nodes the beams stand at; None at the root, which
            every trie has.
    """

    lengths: Int32[Array, " B"]
    prefix: Any
    suffix: Suffix
    hidden: Float[Array, "B W D"] | None
    beams: Beams
    sid: Int32[Array, "B W level"]
    digest: Int32[Array, "B words"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The best SIDs and items of each user, best first; a pytree.

    Beams and items are two lists: the items come from expanding the beams in order, and a beam
    may give several items (they share its SID) or, where only some of them were asked for, fewer.

    Attributes:
        sid: int32 `[B, M, L]`, tokens of each beam; zeros where it is dead.
        score: float32 `[B, M]`, log-probability of each beam; `-inf` where it is dead.
        leaf: int32 `[B, M]`, its leaf of the trie; `DEAD_NODE` where it is dead.
        dead: bool `[B, M]`, beams that ended without a SID. They hold nothing to show.
        item: int32 `[B, M]`, the best items; -1 where there are no more.
        item_score: float32 `[B, M]`, score of each item's SID; `-inf` where there is no item.
        table_score: float32 `[B, M]`, each item's logit in the model's item table; `-inf` where
            there is no item, or the table lacks it. None of a model without a table.
    """

    sid: Int32[Array, "B M L"]
    score: Float32[Array, "B M"]
    leaf: Int32[Array, "B M"]
    dead: Bool[Array, "B M"]
    item: Int32[Array, "B M"]
    item_score: Float32[Array, "B M"]
    table_score: Float32[Array, "B M"] | None = None
