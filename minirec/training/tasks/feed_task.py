"""What a `FeedModel` learns: which item comes next, and what the user does with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Key

from minirec.models.products import unembed
from minirec.models.ranker import Events
from minirec.training.tasks import item_batches
from minirec.training.tasks.item_lot import ItemLot

_NEVER = -1e9  # Finite: a sum of many of them has no NaN.
_MOST_GAP = 2**31 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class FeedTask:
    """The losses of ranker and towers, at every place of a history at once.

    The candidates of a place are its target, the newest items before it (what a user goes back to
    is the hardest to tell from it), and negatives: some drawn by a power of popularity, some that
    are targets elsewhere in the batch. A negative stands for the catalogue's items that are drawn
    as rarely, so that what is learnt is of the whole catalogue:

    - the logit of the next item: cross-entropy of the target among the candidates, the logarithm
      of how often a negative is to be expected taken off its logit (log-Q correction);
    - the logit of each action: binary cross-entropy, 1 for what the target's event is, a negative
      counted as often as it is rare; its sigmoid is the chance that the user's next event is this
      action on this item;
    - the towers: cross-entropy of the target among the negatives of the whole batch, with the same
      correction.

    Attributes:
        evaluator: takes the model and returns its metrics.
        identities: `[N, F, hashes]`, rows of every item's identities.
        train_count: `[N]`, training interactions of each item.
        action_weights: `[A]`, of the losses of the actions.
        select_metric: the metric that selects; larger is better.
        num_recent: newest items before a place that are candidates there; their duplicates are not.
        num_negatives: drawn negatives of each place.
        num_shared: negatives of each place that are targets elsewhere in the batch.
        num_retrieved: negatives that all places of a batch share, of the towers.
        power: of popularity, by which negatives are drawn.
        next_weight: weight of the loss of the next item.
        action_weight: weight of the loss of actions.
        retrieval_weight: weight of the towers' loss.
        identity_dropout: chance that a step does not know an item's first identity, its own, so
            that the others learn to speak for it as they must for a new one.
    """

    evaluator: Callable[[Any], dict[str, float]]
    identities: Int32[np.ndarray, "N F hashes"]
    train_count: Int[np.ndarray, " N"]
    action_weights: Sequence[float]
    select_metric: str = "ndcg@10"
    num_recent: int = 8
    num_negatives: int = 8
    num_shared: int = 4
    num_retrieved: int = 2048
    power: float = 0.75
    next_weight: float = 1.0
    action_weight: float = 0.1
    retrieval_weight: float = 1.0
    identity_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("num_recent", "num_negatives", "num_shared", "num_retrieved"):
            if (value := getattr(self, name)) < (0 if name != "num_negatives" else 1):
                raise ValueError(f"FeedTask.{name}={value!r}: too few")
        for name in ("next_weight", "action_weight", "retrieval_weight"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"FeedTask.{name}={value!r}: must be 0 or more")
        if not 0.0 <= self.identity_dropout < 1.0:
            raise ValueError(
                f"FeedTask.identity_dropout={self.identity_dropout!r}: must lie in [0, 1)"
            )

    @property
    def tables(self) -> tuple[Any, ...]:
        """The items' identities, and what negatives are drawn by."""
        drawn = ItemLot.by_count(np.asarray(self.train_count), self.power)
        shared = ItemLot.by_count(np.asarray(self.train_count), 1.0)
        return self.identities, drawn, shared

    def with_tables(self, tables: tuple[Any, ...]) -> _WithTables:
        """Returns the task with other arrays in the place of `tables`."""
        return _WithTables(self, *tables)

    def inputs(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the fields that the loss reads: items, events, gaps, segments, weights.

        Raises:
            ValueError: a field is missing, or an item or an event is unknown.
        """
        fields = item_batches.item_inputs(batch, len(self.identities), None)
        event = batch["event"][batch["segment"] > 0]
        if event.max(initial=0) >= len(self.action_weights):
            raise ValueError(
                f"batch: holds event type {event.max()}; there are {len(self.action_weights)}"
            )
        return fields | {"event": batch["event"], "gap": gaps(batch["time"], batch["segment"])}

    def count_examples(self, batch: Mapping[str, np.ndarray]) -> int:
        """Returns how many examples are packed into the batch."""
        return item_batches.count_examples(batch)

    def loss(
        self, model: Any, batch: Mapping[str, Array], *, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, tuple[Array, Array]]]:
        """Returns the weighted sum of losses in nats, that of weights, and the parts."""
        return self.with_tables(self.tables).loss(model, batch, key=key)

    def evaluate(self, model: Any) -> dict[str, float]:
        """Returns what the evaluator says of the model."""
        return self.evaluator(model)


def gaps(time: Int[np.ndarray, "B P"], segment: Int[np.ndarray, "B P"]) -> Int32[np.ndarray, "B P"]:
    """Returns the seconds since the event before in the same example; 0 at its first, and in none.

    Args:
        time: of events, in seconds.
        segment: example of each, from 1; 0 is padding.
    """
    gap = np.zeros(time.shape, np.int64)
    same = (segment[:, 1:] == segment[:, :-1]) & (segment[:, 1:] > 0)
    gap[:, 1:] = np.where(same, time[:, 1:] - time[:, :-1], 0)
    return np.clip(gap, 0, _MOST_GAP).astype(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class _WithTables:
    """A task in a compiled step, whose tables are arguments."""

    task: FeedTask
    identities: Int[Array, "N F hashes"]
    drawn: ItemLot
    shared: ItemLot

    def loss(
        self, model: Any, batch: Mapping[str, Array], *, key: Key[Array, ""]
    ) -> tuple[Array, Array, dict[str, tuple[Array, Array]]]:
        task = self.task
        keys = dict(zip(("ranker", "towers", "drawn", "shared", "all", "known"),
                        jax.random.split(key, 6), strict=True))  # fmt: skip
        events = Events(batch["item"], batch["event"], batch["gap"], batch["segment"])
        weight = batch["target_weight"].astype(jnp.float32)
        count = jnp.sum(weight)
        identities = self._known(keys["known"])
        total, parts = jnp.float32(0.0), {}
        if task.next_weight or task.action_weight:
            candidates, is_one, log_expected = self._candidates(events, weight, keys)
            logits = model.ranker(events, identities, candidates, dropout_key=keys["ranker"])
            if task.next_weight:
                corrected = jnp.where(is_one, logits[..., -1] - log_expected, _NEVER)
                share = jax.nn.log_softmax(corrected, axis=-1)
                loss = -jnp.sum(share[..., 0] * weight)
                total, parts = total + task.next_weight * loss, parts | {"next_loss": (loss, count)}
            if task.action_weight:
                stands_for = jnp.where(is_one, jnp.exp(-log_expected), 0.0)
                loss = self._action_loss(logits[..., :-1], events.action, stands_for, weight)
                total += task.action_weight * loss
                parts |= {"action_loss": (loss, count)}
        if task.retrieval_weight:
            loss = self._retrieval_loss(model.towers, events, identities, weight, keys)
            total += task.retrieval_weight * loss
            parts |= {"retrieval_loss": (loss, count)}
        return total, count, parts

    def _known(self, key: Array) -> Array:
        """Returns the identities, of some items without their own."""
        rate, table = self.task.identity_dropout, jnp.asarray(self.identities)
        if not rate:
            return table
        unknown = jax.random.bernoulli(key, rate, (len(table),))
        return table.at[:, 0].set(jnp.where(unknown[:, None], 0, table[:, 0]))

    def _candidates(
        self, events: Events, weight: Array, keys: Mapping[str, Array]
    ) -> tuple[Int[Array, "B P C"], Bool[Array, "B P C"], Float[Array, "B P C"]]:
        """Returns candidates, the target first, which of them count, and what to take off each.

        That is the logarithm of how often it is to be expected; 0 of what is there for certain.
        """
        task, item = self.task, events.item
        B, P = item.shape
        target = item[:, :, None]
        recent, is_recent = self._recent(events)
        drawn = self.drawn.draw(keys["drawn"], (B, P, task.num_negatives))
        others, lots = [drawn], [(task.num_negatives, self.drawn)]
        if task.num_shared:
            # A target of another place stands for its share of all events.
            there = jnp.cumsum(weight.reshape(-1) > 0)
            shape = (B, P, task.num_shared)
            lot = jax.random.randint(keys["shared"], shape, 0, jnp.maximum(there[-1], 1))
            others.append(item.reshape(-1)[jnp.searchsorted(there, lot, side="right")])
            lots.append((task.num_shared, self.shared))
        negative = jnp.concatenate(others, axis=-1)
        expected = sum(number * lot.share[negative] for number, lot in lots)
        is_met = (negative[..., None] == recent[:, :, None]) & is_recent[:, :, None]
        is_other = (negative != target) & ~is_met.any(axis=-1)
        candidates = jnp.concatenate([target, recent, negative], axis=-1)
        is_one = jnp.concatenate(
            [jnp.ones((B, P, 1), bool), is_recent & (recent != target), is_other], axis=-1
        )
        certain = jnp.zeros((B, P, 1 + recent.shape[-1]), jnp.float32)
        log_expected = jnp.concatenate([certain, jnp.log(expected)], axis=-1)
        return candidates, is_one, log_expected

    def _recent(self, events: Events) -> tuple[Int[Array, "B P R"], Bool[Array, "B P R"]]:
        """Returns the newest items before each place, and which stand there for the first time."""
        number = self.task.num_recent
        P = events.item.shape[1]
        place = jnp.arange(P)[:, None] - 1 - jnp.arange(number)
        at = jnp.maximum(place, 0)
        recent = events.item[:, at]
        there = (place >= 0) & (events.segment[:, at] == events.segment[:, :, None])
        same = (recent[..., None] == recent[:, :, None]) & there[:, :, None]
        newer = jnp.tril(jnp.ones((number, number), bool), -1)
        return recent, there & ~(same & newer).any(axis=-1)

    def _action_loss(
        self,
        logits: Float[Array, "B P C A"],
        action: Int[Array, "B P"],
        stands_for: Float[Array, "B P C"],
        weight: Float[Array, "B P"],
    ) -> Array:
        weights = jnp.asarray(self.task.action_weights, jnp.float32)
        # log(1 + e^x) of all candidates, less x where the event was just that.
        loss = jnp.sum(jax.nn.softplus(logits) * stands_for[..., None], axis=2)
        done = jax.nn.one_hot(action, len(weights), dtype=jnp.float32)
        loss -= logits[:, :, 0] * done
        return jnp.sum(jnp.sum(loss * weights, axis=-1) * weight)

    def _retrieval_loss(
        self,
        towers: Any,
        events: Events,
        identities: Array,
        weight: Array,
        keys: Mapping[str, Array],
    ) -> Array:
        task, target = self.task, events.item.reshape(-1)
        users = towers.users(events, identities, dropout_key=keys["towers"])
        users = users.reshape(len(target), -1)
        if task.num_retrieved < len(self.identities):
            others = self.drawn.draw(keys["all"], (task.num_retrieved,))
            correction = jnp.log(task.num_retrieved * self.drawn.share[others])
        else:
            others, correction = jnp.arange(len(self.identities)), jnp.float32(0.0)
        scale = towers.scale
        logits = scale * unembed(users, towers.items(others, identities)) - correction
        own = towers.items(jnp.maximum(target, 0), identities)
        own = scale * jnp.sum(users * own, axis=-1)
        logits = jnp.where(others == target[:, None], _NEVER, logits)
        loss = jnp.logaddexp(own, jax.nn.logsumexp(logits, axis=-1)) - own
        return jnp.sum(loss * weight.reshape(-1))
