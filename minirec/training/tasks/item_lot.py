"""Items drawn by lot, as negatives of a loss."""

from __future__ import annotations

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ItemLot:
    """A lot with a share for every item.

    Attributes:
        edge: `[N]`, where each item's share ends, ascending to 1.
        share: `[N]`, what each item is drawn by, above 0.
    """

    edge: Float[Array, " N"]
    share: Float[Array, " N"]

    @classmethod
    def by_count(cls, count: Int[np.ndarray, " N"], power: float) -> Self:
        """Returns the lot of shares in proportion to powers of counts, each taken one higher.

        Args:
            count: training interactions of each item.
            power: 1 draws by popularity, 0 evenly.
        """
        chance = (np.asarray(count, np.float64) + 1.0) ** power
        edge = np.cumsum(chance / chance.sum()).astype(np.float32)
        edge[-1] = 1.0
        # By the rounded edges, which are what is drawn by; a rare item may have lost its share.
        share = np.maximum(np.diff(edge, prepend=np.float32(0)), np.finfo(np.float32).tiny)
        return cls(jnp.asarray(edge), jnp.asarray(share))

    def draw(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Int[Array, "*shape"]:
        """Returns drawn items, each independent of the others."""
        spots = jax.random.uniform(key, shape, jnp.float32)
        drawn = jnp.searchsorted(self.edge, spots, side="right")
        return jnp.minimum(drawn, len(self.edge) - 1)
