"""What an `ItemDecoder` learns: the next item's SID, level by level, and the item itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from minirec.models.item_terms import ItemTerms, WholeRows
from minirec.models.products import unembed
from minirec.training.tasks import item_batches
from minirec.training.tasks.item_lot import ItemLot
from minirec.training.tasks.sid_prefixes import SidPrefixes
from minirec.training.tasks.text_neighbours import TextNeighbours, newest_before
from minirec.training.tasks.token_task import cross_entropy
from minirec.training.touched_rows import touched_ids

_NEVER = -1e9  # Finite, so that a mean over allowed and forbidden logits has no NaN.
_FEW = 4  # A step reads few rows where the table has so many times as many.
_SMOOTHED = 0.5  # Power of the counts that negatives are drawn by, between even and as they are.
_NEIGHBOUR_STREAM = 3  # Behind the three of `_keys`, which are as they are without neighbours.


@dataclasses.dataclass(frozen=True, eq=False)
class ItemTask:
    """Cross-entropy of every target's SID and of the target itself.

    A batch is what `SidTask` takes. A level's
    probabilities are normalised over the codes that the catalogue has behind the levels before it:
    none is wasted on SIDs of no item, and search does the same with `normalize="children"`. So the
    sum over the levels is the exact negative log-probability of the SID.

    Attributes:
        evaluator: takes the model and returns its metrics.
        prefixes: the catalogue's SIDs; the step takes them as an argument.
        select_metric: the metric that selects; larger is better.
        sid_weight: weight of the SID's loss.
        item_weight: weight of the item's loss; 0 leaves the item table's reading untrained.
        label_smoothing: share of the target's probability that is spread over what is normalised
            over (Szegedy et al., 2016).
        num_negatives: items that the item's loss is normalised over beside the target, drawn for
            each step by the root of their training count and corrected for it (sampled softmax;
            Bengio and Senécal, 2008). 0, or a catalogue no larger: all items.
        train_count: `[N]`, training interactions of each item; needed where negatives are drawn.
        max_targets: the most targets of a row. Given, the losses are computed at so many places a
            row only: 1 with examples "windows". None: at all places.
        terms: every item's terms, where the model has rows for them.
        neighbour_share: chance that a target is replaced, for both losses, by an item whose text
            is near that of the two before it; see `TextNeighbours.replaced`. 0: never.
        neighbours: which items are near which; needed where targets are replaced.
    """

    evaluator: Callable[[Any], dict[str, float]]
    prefixes: SidPrefixes
    select_metric: str = "ndcg@10"
    sid_weight: float = 1.0
    item_weight: float = 1.0
    label_smoothing: float = 0.0
    num_negatives: int = 0
    train_count: Int[np.ndarray, " N"] | None = None
    max_targets: int | None = None
    terms: ItemTerms | None = None
    neighbour_share: float = 0.0
    neighbours: TextNeighbours | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(
                f"ItemTask.label_smoothing={self.label_smoothing!r}: must lie in [0, 1)"
            )
        if not 0.0 <= self.neighbour_share <= 1.0:
            raise ValueError(
                f"ItemTask.neighbour_share={self.neighbour_share!r}: must lie in [0, 1]"
            )
        if self.neighbour_share and self.neighbours is None:
            raise ValueError(
                f"ItemTask.neighbour_share={self.neighbour_share!r}: needs neighbours to draw from"
            )
        for name in ("sid_weight", "item_weight", "num_negatives"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"ItemTask.{name}={value!r}: must be 0 or more")
        if self.sid_weight == self.item_weight == 0:
            raise ValueError("ItemTask: sid_weight and item_weight are both 0: nothing to learn")
        if self.max_targets is not None and self.max_targets < 1:
            raise ValueError(
                f"ItemTask.max_targets={self.max_targets!r}: must be at least 1, or None"
            )
        if self.draws_negatives and self.train_count is None:
            raise ValueError("ItemTask.num_negatives: needs train_count to draw them by")

    @property
    def draws_negatives(self) -> bool:
        """Whether the item's loss is normalised over a sample of the catalogue."""
        return 0 < self.num_negatives < self.prefixes.num_items

    @property
    def tables(self) -> tuple[SidPrefixes, ItemTerms | None, TextNeighbours | None]:
        """The catalogue's SIDs, terms and neighbours."""
        return self.prefixes, self.terms, self.neighbours if self.neighbour_share else None

    def with_tables(
        self, tables: tuple[SidPrefixes, ItemTerms | None, TextNeighbours | None]
    ) -> ItemTask:
        """Returns the task with other arrays in the place of `tables`."""
        prefixes, terms, neighbours = tables
        return dataclasses.replace(self, prefixes=prefixes, terms=terms, neighbours=neighbours)

    def inputs(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the fields that the loss reads; errors as `item_batches.item_inputs`."""
        return item_batches.item_inputs(batch, self.prefixes.num_items, self.max_targets)

    def count_examples(self, batch: Mapping[str, np.ndarray]) -> int:
        """Returns how many examples are packed into the batch."""
        return item_batches.count_examples(batch)

    def loss(
        self, model: Any, batch: Mapping[str, Array], *, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, tuple[Array, Array]]]:
        """Returns the weighted sum of losses in nats, that of weights, and the parts."""
        trunk_key, level_key, negative_key = _keys(key)
        terms = self._terms_of(model, batch)
        state = model(
            batch["item"],
            batch["segment"],
            self.prefixes.item_tokens,
            dropout_key=trunk_key,
            terms=terms,
        )
        place = item_batches.target_places(batch["target_weight"], self.max_targets)
        state = item_batches.at_places(state, place)
        state = state.reshape(-1, state.shape[-1])
        weight = item_batches.at_places(batch["target_weight"], place)
        weight = weight.reshape(-1).astype(jnp.float32)
        item = jnp.where(weight > 0, self._targets(batch, place, key), 0)
        count = jnp.sum(weight)
        total, parts = jnp.float32(0.0), {}
        if self.sid_weight:
            sid = self._sid_loss(model, state, item, weight, level_key)
            total, parts = total + self.sid_weight * sid, parts | {"sid_loss": (sid, count)}
        if self.item_weight:
            loss = self._item_loss(model, state, item, weight, negative_key, terms)
            total, parts = total + self.item_weight * loss, parts | {"item_loss": (loss, count)}
        return total, count, parts

    def touched_rows(
        self, batch: Mapping[str, Array], keys: Key[Array, " parts"]
    ) -> dict[str, Int[Array, " R"]]:
        """Returns the rows of the item table that a step reads, where they are few; see `Task`."""
        read = self._num_read(batch) + self.num_negatives * bool(self.item_weight) * len(keys)
        drawn_alone = self.draws_negatives or not self.item_weight
        if not drawn_alone or _FEW * read > self.prefixes.num_items:
            return {}
        ids = [batch["item"].reshape(-1)]
        if self.item_weight:
            # Not vmap, under which some generators give other bits.
            drawn = jax.lax.map(lambda key: self._draw(_keys(key)[2])[0], keys)
            ids.append(drawn.reshape(-1))
            if self.neighbour_share:
                ids.append(self._targets_of_parts(batch, keys).reshape(-1))
        return {"items": touched_ids(jnp.concatenate(ids), self.prefixes.num_items)}

    def evaluate(self, model: Any) -> dict[str, float]:
        """Returns what the evaluator says of the model."""
        return self.evaluator(model)

    def _num_read(self, batch: Mapping[str, Array]) -> int:
        """Returns how many rows of the item table inputs and targets read at most."""
        size = batch["item"].size
        return 2 * size if self.neighbour_share and self.item_weight else size

    def _terms_of(self, model: Any, batch: Mapping[str, Array]) -> ItemTerms | WholeRows | None:
        """Returns the terms, or all items' rows with theirs where making these once is less."""
        if self.terms is None:
            return None
        drawn_alone = self.draws_negatives or not self.item_weight
        read = self.num_negatives + 2 * batch["item"].size
        if model.items_touched is not None or (drawn_alone and read < self.prefixes.num_items):
            return self.terms
        return model.whole_rows(self.terms)

    def _targets(
        self, batch: Mapping[str, Array], place: Int[Array, "B K"] | None, key: Key[Array, ""]
    ) -> Int[Array, " n"]:
        """Returns the items to be told at `target_places`, some replaced by neighbours."""
        item = item_batches.at_places(batch["item"], place).reshape(-1)
        if not self.neighbour_share:
            return item
        assert self.neighbours is not None
        before = newest_before(batch["item"], batch["segment"])
        before = item_batches.at_places(before, place).reshape(len(item), -1)
        key = jax.random.fold_in(key, _NEIGHBOUR_STREAM)
        return self.neighbours.replaced(key, item, before, self.neighbour_share)

    def _targets_of_parts(
        self, batch: Mapping[str, Array], keys: Key[Array, " parts"]
    ) -> Int[Array, "parts n"]:
        """Returns `_targets` of each part of a batch, as `minirec.training.step` cuts it."""

        def targets(part_and_key: tuple[Mapping[str, Array], Array]) -> Array:
            part, key = part_and_key
            place = item_batches.target_places(part["target_weight"], self.max_targets)
            return self._targets(part, place, key)

        parts = {
            name: jnp.reshape(batch[name], (len(keys), -1, *batch[name].shape[1:]))
            for name in item_batches.FIELDS
        }
        return jax.lax.map(targets, (parts, keys))

    def _sid_loss(self, model: Any, state: Array, item: Array, weight: Array, key: Array) -> Array:
        prefixes, rows = jax.tree.map(jnp.asarray, self.prefixes), model.head_rows()
        written, loss = None, jnp.float32(0.0)
        for level, tokens in enumerate(prefixes.tokens):
            code = prefixes.codes[item, level]
            hidden = model.written(state, written, level, jax.random.fold_in(key, level))
            logits = unembed(hidden, rows[tokens].astype(hidden.dtype))
            allowed = prefixes.allowed(item, level)
            loss += _masked_cross_entropy(logits, code, weight, allowed, self.label_smoothing)
            embedded = model.embed(tokens[code])
            written = embedded if written is None else written + embedded
        return loss

    def _item_loss(
        self,
        model: Any,
        state: Array,
        item: Array,
        weight: Array,
        key: Array,
        terms: ItemTerms | WholeRows | None,
    ) -> Array:
        if not self.draws_negatives:
            logits = model.item_logits(state, terms)
            return cross_entropy(logits, item, weight, label_smoothing=self.label_smoothing)[0]
        drawn, log_expected = self._draw(key)
        rows = model.item_rows(drawn, terms).astype(state.dtype)
        others = unembed(state, rows) - log_expected
        own_rows = model.item_rows(item, terms).astype(state.dtype)
        own = jnp.sum(state.astype(jnp.float32) * own_rows.astype(jnp.float32), axis=-1)
        is_other = drawn[None] != item[:, None]
        return _sampled_cross_entropy(own, others, weight, is_other, self.label_smoothing)

    def _draw(self, key: Array) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
        """Returns drawn items and the logarithm of how often each is to be expected among them."""
        lot = ItemLot.by_count(np.asarray(self.train_count), _SMOOTHED)
        drawn = lot.draw(key, (self.num_negatives,))
        return drawn, jnp.log(self.num_negatives * lot.share[drawn])


def _keys(key: Key[Array, ""]) -> Key[Array, " 3"]:
    """Returns the keys of the trunk's dropout, of the levels', and of the negatives."""
    return jax.random.split(key, 3)


def _sampled_cross_entropy(
    own: Float[Array, " n"],
    others: Float[Array, "n K"],
    weight: Float[Array, " n"],
    is_other: Bool[Array, "n K"],
    label_smoothing: float,
) -> Float[Array, ""]:
    """Returns the weighted sum of cross-entropies of targets among drawn items that are others.

    The target's logit stays apart: beside the drawn ones it would cost a copy of all of them.
    """
    others_sum = jax.nn.logsumexp(jnp.where(is_other, others, _NEVER), axis=-1)
    picked = own
    if label_smoothing:
        mean = own + jnp.sum(jnp.where(is_other, others, 0.0), axis=-1)
        mean /= 1 + jnp.sum(is_other, axis=-1)
        picked = (1.0 - label_smoothing) * own + label_smoothing * mean
    return jnp.sum((jnp.logaddexp(own, others_sum) - picked) * weight)


def _masked_cross_entropy(
    logits: Float[Array, "n K"],
    code: Int[Array, " n"],
    weight: Float[Array, " n"],
    allowed: Bool[Array, "n K"] | None,
    label_smoothing: float,
) -> Float[Array, ""]:
    """Returns the weighted sum of cross-entropies over the codes that are allowed."""
    if allowed is None:
        return cross_entropy(logits, code, weight, label_smoothing=label_smoothing)[0]
    loss = cross_entropy(jnp.where(allowed, logits, _NEVER), code, weight)[0]
    if label_smoothing:
        # What smoothing adds: the target's logit against the mean of the allowed ones.
        mean = jnp.sum(jnp.where(allowed, logits, 0.0), axis=-1) / jnp.sum(allowed, axis=-1)
        own = jnp.take_along_axis(logits, code[:, None], axis=-1)[:, 0]
        loss += label_smoothing * jnp.sum((own - mean) * weight)
    return loss
