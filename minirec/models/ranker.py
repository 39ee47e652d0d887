"""The ranker: what a user would do with each of some candidates, each judged by itself.

A history of events is read once; a candidate sees it and itself, and no other candidate, so that
its score does not depend on who else is scored (candidate isolation, as in the ranker of
xai-org/x-algorithm). All candidates share one position. What an item is, hash embeddings of its
identities say: of itself, its brand, its category, whatever it has, of items that came after
training as well. Times are what lies between events, in buckets of powers of two, so that a
history's keys and values stay good for the user's next request: how old the newest event is, the
candidates say.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from minirec.files.schema import require_whole
from minirec.models.cache import PrefixCache, SuffixCache
from minirec.models.config import TrunkConfig
from minirec.models.hash_embedding import HashEmbedding, joined
from minirec.models.layers import RMSNorm, named_param, normal_param
from minirec.models.masks import CausalMask
from minirec.models.products import project
from minirec.models.sid_reader import places_in_example
from minirec.models.trunk import Trunk

NUM_AGES = 33
"""Buckets of a time: 0 for none, then by powers of two of seconds, up to 68 years."""

_PLACES = 17  # of a candidate in its user's history: never, newest to 15th distinct item, older
_COUNTS = 8
_RARE = -8.0  # Logit of an action before anything is learnt: of one item it is hardly ever next.


@dataclasses.dataclass(frozen=True)
class RankerConfig:
    """Shape of a ranker.

    Attributes:
        trunk: shape of the trunk.
        num_actions: event types `A`.
        num_identities: identities `F` of an item: its own, its brand's, its category's, …
        num_buckets: rows of the table that an identity has.
        num_hashes: rows of an id.
        hash_width: width of a row.
        seen_features: whether a candidate says when and how often the user met it before.
    """

    trunk: TrunkConfig
    num_actions: int
    num_identities: int
    num_buckets: int = 16_384
    num_hashes: int = 2
    hash_width: int = 32
    seen_features: bool = True

    def __post_init__(self):
        for name in ("num_actions", "num_identities", "num_hashes", "hash_width"):
            require_whole(f"RankerConfig.{name}", getattr(self, name))
        require_whole("RankerConfig.num_buckets", self.num_buckets, least=2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Events:
    """Histories, packed or padded; of the padding any number may be given.

    Attributes:
        item: item ids.
        action: the event's type, below `A`.
        gap: seconds since the event before in the same example; 0 at its first.
        segment: example of each event, from 1; 0 is padding.
    """

    item: Int[Array, "B P"]
    action: Int[Array, "B P"]
    gap: Int[Array, "B P"]
    segment: Int[Array, "B P"]

    def with_place_behind(self, lengths: Int[Array, " B"]) -> Events:
        """Returns histories with a place more, `[B, P + 1]`, that of what comes next.

        Args:
            lengths: events of each history, which stand at its left; `segment` is not read.
        """
        padded = jax.tree.map(lambda array: jnp.pad(array, ((0, 0), (0, 1))), self)
        held = jnp.arange(padded.item.shape[1], dtype=jnp.int32) <= lengths[:, None]
        return dataclasses.replace(padded, segment=held.astype(jnp.int32))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reading:
    """A history that has been read, to be kept for the user's next request.

    Attributes:
        prefix: its keys and values.
        events: what was read.
        lengths: events of each history; they stand at its left.
    """

    prefix: PrefixCache
    events: Events
    lengths: Int[Array, " B"]


def age_buckets(seconds: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Returns the bucket of a time: 1 below a second, 2 below two, 3 below four, …"""
    # Exact where logarithms of float32 are not: how many powers of two it reaches.
    powers = jnp.left_shift(jnp.int32(1), jnp.arange(31, dtype=jnp.int32))
    reached = jnp.maximum(seconds, 0)[..., None] >= powers
    return 1 + reached.sum(axis=-1, dtype=jnp.int32)


class CandidateRanker(nnx.Module):
    """Scores candidates: the logits of what the user would do, and of which would be the next.

    An item is its number; `identities [N, F, hashes]`, an argument beside it, has its rows in the
    tables (`minirec.models.hash_embedding`).
    """

    def __init__(self, config: RankerConfig, *, rngs: nnx.Rngs):
        self.config = config
        D, dtype = config.trunk.width, config.trunk.param_dtype
        self.tables = nnx.List(
            [
                HashEmbedding(config.num_buckets, config.hash_width, rngs=rngs, param_dtype=dtype)
                for _ in range(config.num_identities)
            ]
        )
        width = config.num_identities * config.num_hashes * config.hash_width
        self.identity = normal_param(rngs, (width, D), ("mlp", "embed"), width**-0.5, dtype)
        actions = (config.num_actions, D)
        self.action = normal_param(rngs, actions, ("vocab", "embed"), 0.1, dtype)
        self.gap = normal_param(rngs, (NUM_AGES, D), ("vocab", "embed"), 0.1, dtype)
        self.begin = normal_param(rngs, (D,), ("embed",), 0.1, dtype)
        self.as_candidate = normal_param(rngs, (D,), ("embed",), 0.1, dtype)
        self.wait = normal_param(rngs, (NUM_AGES, D), ("vocab", "embed"), 0.1, dtype)
        self.seen = nnx.data(None)
        if config.seen_features:
            sizes = (_PLACES, _COUNTS, config.num_actions + 1, NUM_AGES)
            self.seen = nnx.List(
                [normal_param(rngs, (size, D), ("vocab", "embed"), 0.1, dtype) for size in sizes]
            )
        self.input_norm = RMSNorm(D, "embed", eps=config.trunk.norm_eps, param_dtype=dtype)
        self.trunk = Trunk(config.trunk, rngs=rngs)
        outputs = config.num_actions + 1
        self.head = normal_param(rngs, (D, outputs), ("embed", "vocab"), D**-0.5, dtype)
        rare = jnp.full((outputs,), _RARE, dtype).at[-1].set(0.0)
        self.bias = named_param(rare, ("vocab",))

    def __call__(
        self,
        events: Events,
        identities: Int[Array, "N F hashes"],
        candidates: Int[Array, "B P C"],
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B P C A1"]:
        """Returns the logits of candidates at every place of histories, each seeing those before.

        Args:
            events: the histories.
            identities: rows of every item's identities.
            candidates: item ids; those at a place are judged at its event's time.
            dropout_key: the source of dropout's bits; `None` turns dropout off.

        Returns:
            Float32; the last axis has the actions, and behind them the logit of the next item.
        """
        B, P, C = candidates.shape
        place = jnp.arange(P, dtype=jnp.int32)
        same = events.segment[:, :, None] == events.segment[:, None, :]
        before = same & (place < place[:, None])  # [B, place, event]
        tokens = self._tokens(events, identities)
        asked = self._candidates(events, identities, candidates, before, events.gap)
        positions = places_in_example(events.segment)
        hidden = self.trunk.with_candidates(
            tokens,
            positions,
            CausalMask(),
            segment_ids=events.segment,
            candidates=asked.reshape(B, P * C, -1),
            candidate_positions=jnp.repeat(positions + 1, C, axis=1),
            visible=jnp.repeat(same & (place <= place[:, None]), C, axis=1),
            dropout_key=dropout_key,
        )
        return self._logits(hidden).reshape(B, P, C, -1)

    def read(
        self,
        events: Events,
        identities: Int[Array, "N F hashes"],
        lengths: Int[Array, " B"],
    ) -> Reading:
        """Returns histories as candidates see them.

        Args:
            events: one history a row, from its left; `segment` is not read.
            identities: rows of every item's identities.
            lengths: events of each; it may be 0.
        """
        padded = events.with_place_behind(lengths)
        tokens = self._tokens(padded, identities)
        _, prefix = self.trunk.prefill(tokens, lengths + 1, CausalMask())
        return Reading(prefix, padded, lengths)

    def score(
        self,
        reading: Reading,
        identities: Int[Array, "N F hashes"],
        candidates: Int[Array, "B C"],
        wait: Int[Array, " B"],
    ) -> Float[Array, "B C A1"]:
        """Returns the logits of candidates, as `__call__` does, of histories that have been read.

        Args:
            reading: the histories.
            identities: rows of every item's identities.
            candidates: item ids, any number of them: none changes another's logits.
            wait: seconds since each history's newest event.
        """
        B, C = candidates.shape
        events, lengths = reading.events, reading.lengths
        P = events.item.shape[1]
        before = (jnp.arange(P, dtype=jnp.int32) < lengths[:, None])[:, None]
        asked = self._candidates(events, identities, candidates[:, None], before, wait[:, None])[
            :, 0
        ]
        # A candidate stands behind the place that stands for what comes next.
        suffix = SuffixCache.empty(self.config.trunk, B, C, 1)
        hidden, _ = self.trunk.decode_step(asked, 0, lengths + 1, reading.prefix, suffix)
        return self._logits(hidden)

    def _tokens(self, events: Events, identities: Array) -> Float[Array, "B P D"]:
        """Returns what enters the trunk at each place: the event before it, or the beginning."""
        token = self._embed(events.item, identities) + self.action[...][events.action]
        token += self.gap[...][age_buckets(events.gap)]
        first = (places_in_example(events.segment) == 0)[..., None]
        token = jnp.where(first, self.begin[...], jnp.roll(token, 1, axis=1))
        return self.input_norm(token.astype(self.config.trunk.dtype))

    def _candidates(
        self,
        events: Events,
        identities: Array,
        candidates: Int[Array, "B Q C"],
        before: Bool[Array, "B Q P"],
        wait: Int[Array, "B Q"],
    ) -> Float[Array, "B Q C D"]:
        """Returns what enters the trunk for candidates at places of histories.

        Args:
            events: the histories.
            identities: rows of every item's identities.
            candidates: item ids.
            before: the events that happened before each place.
            wait: seconds since the newest of them.
        """
        token = self._embed(candidates, identities) + self.as_candidate[...]
        token += self.wait[...][age_buckets(wait)][:, :, None]
        if self.seen is not None:
            for table, number in zip(
                self.seen, self._seen(events, candidates, before, wait), strict=True
            ):
                token += table[...][number]
        return self.input_norm(token.astype(self.config.trunk.dtype))

    def _seen(
        self,
        events: Events,
        candidates: Int[Array, "B Q C"],
        before: Bool[Array, "B Q P"],
        wait: Int[Array, "B Q"],
    ) -> tuple[Array, Array, Array, Array]:
        """Returns place, count, last action and age of each candidate in its history, in buckets.

        The place counts distinct items from the newest: 1 is the item of the newest event.
        """
        P = events.item.shape[1]
        number = jnp.arange(P, dtype=jnp.int32)
        met = (candidates[..., None] == events.item[:, None, None]) & before[:, :, None]
        newest = jnp.max(jnp.where(met, number, -1), axis=-1)  # [B, Q, C]
        is_seen = newest >= 0
        # Events after which their item did not come again before the place: one a distinct item.
        same = events.item[:, :, None] == events.item[:, None, :]
        later = number > number[:, None]
        again = jnp.einsum(
            "bqt,bpt->bqp", before.astype(jnp.int32), (same & later).astype(jnp.int32)
        )
        distinct = before & (again == 0)
        newer = distinct[:, :, None] & (number > newest[..., None])
        place = jnp.minimum(1 + newer.sum(-1, dtype=jnp.int32), _PLACES - 1)
        count = jnp.minimum(met.sum(-1, dtype=jnp.int32), _COUNTS - 1)
        at = jnp.maximum(newest, 0)
        rows = jnp.arange(at.shape[0], dtype=jnp.int32)[:, None, None]
        action = events.action[rows, at] + 1
        # Seconds from the event to the newest one before the place, and from there to the place.
        # Sums over a row may run over; differences below 68 years come out right all the same.
        passed = jnp.cumsum(events.gap, axis=1)
        end = jnp.maximum(jnp.max(jnp.where(before, number, -1), axis=-1), 0)
        between = passed[rows[..., 0], end][..., None] - passed[rows, at]
        half = 2**30
        age = jnp.clip(between, 0, half) + jnp.minimum(wait, half - 1)[..., None]
        place, count, action, age = (
            jnp.where(is_seen, part, 0) for part in (place, count, action, age_buckets(age))
        )
        return place, count, action, age

    def _embed(self, item: Int[Array, "*shape"], identities: Array) -> Float[Array, "*shape D"]:
        dtype = self.config.trunk.dtype
        rows = joined(self.tables, identities, item).astype(dtype)
        return project(rows, self.identity[...].astype(dtype))

    def _logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch A1"]:
        dtype = self.config.trunk.dtype
        logits = project(hidden, self.head[...].astype(dtype)).astype(jnp.float32)
        return logits + self.bias[...].astype(jnp.float32)
