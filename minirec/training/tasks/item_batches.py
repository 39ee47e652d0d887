"""What tasks over batches of items share: what goes to the device, and where the targets stand."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

FIELDS = ("item", "segment", "target_weight")


def item_inputs(
    batch: Mapping[str, np.ndarray], num_items: int, max_targets: int | None
) -> dict[str, np.ndarray]:
    """Returns the fields of a batch that a loss over items reads, `FIELDS`, each `[B, P]`.

    Raises:
        ValueError: a field is missing, an item is none of the catalogue's, or a row asks for more
            than `max_targets`.
    """
    missing = [name for name in FIELDS if name not in batch]
    if missing:
        raise ValueError(f"batch lacks {missing[0]!r}; it holds {sorted(batch)}")
    item = batch["item"][batch["segment"] > 0]
    if item.min(initial=0) < 0 or item.max(initial=0) >= num_items:
        raise ValueError(
            f"batch: holds the items {item.min()} to {item.max()}; must lie in [0, {num_items})"
        )
    if max_targets is not None:
        asked = np.count_nonzero(batch["target_weight"], axis=1)
        if asked.max(initial=0) > max_targets:
            row = int(asked.argmax())
            raise ValueError(
                f"batch row {row}: target_weight asks for {asked[row]} items, "
                f"max_targets={max_targets} allows fewer"
            )
    return {name: batch[name] for name in FIELDS}


def count_examples(batch: Mapping[str, np.ndarray]) -> int:
    """Returns how many examples are packed into a batch."""
    return int(np.max(batch["segment"], axis=1).sum())


def target_places(weight: Float[Array, "B P"], max_targets: int | None) -> Int[Array, "B K"] | None:
    """Returns where the targets of each row stand, or `None` where all places are looked at.

    Args:
        weight: 0 where nothing is asked.
        max_targets: the most targets of a row, `K`; `None`: all places.
    """
    if max_targets is None or max_targets >= weight.shape[1]:
        return None
    # top_k takes the lowest index first among equals, so nothing asked for is left out.
    return jax.lax.top_k((weight > 0).astype(jnp.int32), max_targets)[1]


def at_places(values: Array, place: Int[Array, "B K"] | None) -> Array:
    """Returns the values `[B, P, …]` at `target_places`, `[B, K, …]`."""
    if place is None:
        return values
    return jnp.take_along_axis(values, jnp.expand_dims(place, range(2, values.ndim)), axis=1)
