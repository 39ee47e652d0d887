"""Keys and values that decoding keeps: one prefix a user, one short suffix a beam."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from minirec.models.config import TrunkConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PrefixCache:
    """The history's keys and values, read once and shared by all beams of a user.

    Attributes:
        key: `[layers, B, S, kv_heads, head_dim]`, rotary positions applied.
        value: the same shape.
    """

    key: Float[Array, "layers B S KV K"]
    value: Float[Array, "layers B S KV K"]

    @classmethod
    def empty(cls, config: TrunkConfig, batch: int, width: int) -> PrefixCache:
        """Returns a prefix of zeros with room for `width` tokens a user."""
        shape = (config.num_layers, batch, width, config.num_kv_heads, config.head_dim)
        return cls(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))

    def widened(self, capacity: int) -> PrefixCache:
        """Returns the same entries with room for `capacity` tokens a row."""
        room = ((0, 0), (0, 0), (0, capacity - self.key.shape[2]), (0, 0), (0, 0))
        return PrefixCache(jnp.pad(self.key, room), jnp.pad(self.value, room))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SuffixCache:
    """The keys and values of the tokens that each beam has added to the history.

    Attributes:
        key: `[layers, B, M, capacity, kv_heads, head_dim]`, rotary positions applied.
        value: the same shape.
    """

    key: Float[Array, "layers B M C KV K"]
    value: Float[Array, "layers B M C KV K"]

    @classmethod
    def empty(cls, config: TrunkConfig, batch: int, num_beams: int, capacity: int) -> SuffixCache:
        """Returns a suffix of zeros with room for `capacity` tokens a beam."""
        shape = (
            config.num_layers,
            batch,
            num_beams,
            capacity,
            config.num_kv_heads,
            config.head_dim,
        )
        return cls(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))

    @property
    def num_beams(self) -> int:
        """`M`, how many beams a user it has room for."""
        return self.key.shape[2]

    @property
    def capacity(self) -> int:
        """How many tokens a beam may add."""
        return self.key.shape[3]

    def reorder(self, parent: Int[Array, "B M"], used: int | None = None) -> SuffixCache:
        """Returns the suffix whose beam `m` continues the present beam `parent[:, m]`.

        Args:
            parent: the beam that each new beam grew from.
            used: how many tokens a beam holds so far; the rest of the capacity is not moved.
                `None` moves all.
        """
        used = self.capacity if used is None else used
        index = parent[None, :, :, None, None, None]

        def move(entries: Array) -> Array:
            moved = jnp.take_along_axis(entries[:, :, :, :used], index, axis=2)
            return jax.lax.dynamic_update_slice(entries, moved, (0,) * entries.ndim)

        if used == 0:
            return self
        return SuffixCache(move(self.key), move(self.value))
