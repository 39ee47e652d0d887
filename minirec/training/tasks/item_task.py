"""What an `ItemDecoder` learns: the next item's SID, level by level, and the item itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from minirec.models.products import unembed
from minirec.training.tasks.sid_prefixes import SidPrefixes
from minirec.training.tasks.sid_task import FIELDS, cross_entropy

_NEVER = -1e9  # Finite, so that a mean over allowed and forbidden logits has no NaN.
_SMOOTHED = 0.5  # Power of the counts that negatives are drawn by, between even and as they are.


@dataclasses.dataclass(frozen=True, eq=False)
class ItemTask:
    """Cross-entropy of the next item's SID and of the item, where `loss_mask` asks for it.

    A batch is what `SidTask` takes, made of items of `L + 1` tokens (`prompt_tokens`). A level's
    probabilities are normalised over the codes that the catalogue has behind the levels before it:
    none is wasted on SIDs of no item, and search does the same with `normalize="children"`. So the
    sum over the levels is the exact negative log-probability of the SID.

    Attributes:
        evaluator: takes the model and returns its metrics.
        prefixes: the catalogue's SIDs.
        vocab_size: SID tokens `V`; an item's own token is `V` plus its number.
        select_metric: the metric that selects; larger is better.
        sid_weight: weight of the SID's loss.
        item_weight: weight of the item's loss; 0 leaves the item table's reading untrained.
        label_smoothing: share of the target's probability that is spread over what is normalised
            over (Szegedy et al., 2016).
        num_negatives: items that the item's loss is normalised over beside the target, drawn for
            each step by the root of their training count and corrected for it (sampled softmax;
            Bengio and Senécal, 2008). 0, or a catalogue no larger: all items.
        train_count: `[N]`, training interactions of each item; needed where negatives are drawn.
        max_targets: the most items of a row that `loss_mask` asks for. Given, the losses are
            computed at so many places a row only: 1 with examples "windows". None: at all places.
    """

    evaluator: Callable[[Any], dict[str, float]]
    prefixes: SidPrefixes
    vocab_size: int
    select_metric: str = "ndcg@10"
    sid_weight: float = 1.0
    item_weight: float = 1.0
    label_smoothing: float = 0.0
    num_negatives: int = 0
    train_count: Int[np.ndarray, " N"] | None = None
    max_targets: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(
                f"ItemTask.label_smoothing={self.label_smoothing!r}: must lie in [0, 1)"
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

    def inputs(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns what the loss reads: the model's arguments, and an entry a place with a loss.

        These are `place` int32 `[B, P]`, `item` int32 `[B, P]`, the item to be predicted there,
        `weight` float32 `[B, P]`, `codes` int32 `[B, P, L]`, the item's SID, and `allowed` uint32
        `[B, P, W]`, which codes the catalogue has at each of its levels, as bits.

        Raises:
            ValueError: a field is missing, a target is no item's, or a row asks for more than
                `max_targets`.
        """
        missing = [name for name in FIELDS if name not in batch]
        if missing:
            raise ValueError(f"batch lacks {missing[0]!r}; it holds {sorted(batch)}")
        width = self.prefixes.num_levels + 1
        places = batch["targets"].shape[1] // width
        last = slice(width - 1, places * width, width)
        weight, target = batch["loss_mask"][:, last], batch["targets"][:, last]
        place = np.broadcast_to(np.arange(places, dtype=np.int32), weight.shape)
        if self.max_targets is not None:
            asked = np.count_nonzero(weight, axis=1)
            if asked.max(initial=0) > self.max_targets:
                row = int(asked.argmax())
                raise ValueError(
                    f"batch row {row}: loss_mask asks for {asked[row]} items, "
                    f"ItemTask.max_targets={self.max_targets} allows fewer"
                )
            place = np.argsort(weight == 0, axis=1, kind="stable")[:, : self.max_targets]
            weight, target = (np.take_along_axis(x, place, axis=1) for x in (weight, target))
        item = np.where(weight > 0, target - self.vocab_size, 0)
        if item.min(initial=0) < 0 or item.max(initial=0) >= self.prefixes.num_items:
            raise ValueError(
                f"batch: targets name the items {item.min()} to {item.max()}; "
                f"must lie in [0, {self.prefixes.num_items})"
            )
        return {
            **{name: batch[name] for name in ("tokens", "positions", "segment_ids")},
            "place": place.astype(np.int32),
            "item": item.astype(np.int32),
            "weight": weight.astype(np.float32),
            "codes": self.prefixes.codes[item],
            "allowed": self.prefixes.allowed(item),
        }

    def count_examples(self, batch: Mapping[str, np.ndarray]) -> int:
        """Returns how many sequences are packed into the batch."""
        return int(np.max(batch["segment_ids"], axis=1).sum())

    def loss(
        self, model: Any, batch: Mapping[str, Array], *, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, tuple[Array, Array]]]:
        """Returns the weighted sum of losses in nats, that of weights, and the parts."""
        trunk_key, level_key, negative_key = jax.random.split(key, 3)
        state = model(
            batch["tokens"], batch["positions"], batch["segment_ids"], dropout_key=trunk_key
        )
        if self.max_targets is not None:
            state = jnp.take_along_axis(state, batch["place"][:, :, None], axis=1)
        state = state.reshape(-1, state.shape[-1])
        batch = {name: value.reshape(-1, *value.shape[2:]) for name, value in batch.items()}
        weight = batch["weight"]
        count = jnp.sum(weight)
        total, parts = jnp.float32(0.0), {}
        if self.sid_weight:
            sid = self._sid_loss(model, state, batch, level_key)
            total, parts = total + self.sid_weight * sid, parts | {"sid_loss": (sid, count)}
        if self.item_weight:
            item = self._item_loss(model, state, batch, negative_key)
            total, parts = total + self.item_weight * item, parts | {"item_loss": (item, count)}
        return total, count, parts

    def evaluate(self, model: Any) -> dict[str, float]:
        """Returns what the evaluator says of the model."""
        return self.evaluator(model)

    def _sid_loss(self, model: Any, state: Array, batch: Mapping[str, Array], key: Array) -> Array:
        rows = model.head_rows()
        written, loss = None, jnp.float32(0.0)
        for level, tokens in enumerate(self.prefixes.tokens):
            code = batch["codes"][:, level]
            hidden = model.written(state, written, level, jax.random.fold_in(key, level))
            logits = unembed(hidden, rows[tokens].astype(hidden.dtype))
            allowed = self.prefixes.unpack(batch["allowed"], level)
            loss += _masked_cross_entropy(
                logits, code, batch["weight"], allowed, self.label_smoothing
            )
            embedded = model.embed(jnp.asarray(tokens)[code])
            written = embedded if written is None else written + embedded
        return loss

    def _item_loss(self, model: Any, state: Array, batch: Mapping[str, Array], key: Array) -> Array:
        item, weight = batch["item"], batch["weight"]
        if not self.draws_negatives:
            logits = model.item_logits(state)
            return cross_entropy(logits, item, weight, label_smoothing=self.label_smoothing)[0]
        drawn, log_expected = self._draw(key)
        rows = model.item_rows().astype(state.dtype)
        others = unembed(state, rows[drawn]) - log_expected
        own = jnp.sum(state.astype(jnp.float32) * rows[item].astype(jnp.float32), axis=-1)
        is_other = drawn[None] != item[:, None]
        return _sampled_cross_entropy(own, others, weight, is_other, self.label_smoothing)

    def _draw(self, key: Array) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
        """Returns drawn items and the logarithm of how often each is to be expected among them."""
        chance = (np.asarray(self.train_count, np.float64) + 1.0) ** _SMOOTHED
        edges = np.cumsum(chance / chance.sum()).astype(np.float32)
        edges[-1] = 1.0
        # By the rounded edges, which are what is drawn by; a rare item may have lost its share.
        shares = np.maximum(np.diff(edges, prepend=np.float32(0)), np.finfo(np.float32).tiny)
        spots = jax.random.uniform(key, (self.num_negatives,), jnp.float32)
        drawn = jnp.searchsorted(jnp.asarray(edges), spots, side="right")
        drawn = jnp.minimum(drawn, len(edges) - 1)
        return drawn, jnp.log(self.num_negatives * jnp.asarray(shares)[drawn])


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
