"""A model that keeps nothing: what a search costs that reads every beam's prefix again."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from minirec.models import SidDecoder


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Suffix:
    """The tokens that each beam has added.

    Attributes:
        tokens: `[B, M, capacity]`.
    """

    tokens: Int[Array, "B M C"]

    @property
    def num_beams(self) -> int:
        """`M`, how many beams a user it has room for."""
        return self.tokens.shape[1]

    def reorder(self, parent: Int[Array, "B M"], used: int | None = None) -> Suffix:
        """Returns the suffix whose beam `m` continues the present beam `parent[:, m]`."""
        del used
        return Suffix(jnp.take_along_axis(self.tokens, parent[:, :, None], axis=1))


class Uncached(nnx.Module):
    """A `SearchModel` whose prefix and suffix are tokens; the hidden states are the model's."""

    def __init__(self, model: SidDecoder):
        self.model = model

    def prefill(
        self, tokens: Int[Array, "B S"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B D"], Int[Array, "B S"]]:
        """Returns each prompt's hidden state of the last valid token, and the prompts."""
        return self._last_hidden(tokens, lengths), tokens

    def init_suffix(self, batch: int, num_beams: int, capacity: int) -> Suffix:
        """Returns a suffix without tokens."""
        return Suffix(jnp.zeros((batch, num_beams, capacity), jnp.int32))

    def decode_step(
        self,
        tokens: Int[Array, "B M"],
        step: int,
        lengths: Int[Array, " B"],
        prefix: Int[Array, "B S"],
        suffix: Suffix,
    ) -> tuple[Float[Array, "B M D"], Suffix]:
        """Returns the hidden state of each beam's newest token, from its whole prefix."""
        B, M = tokens.shape
        added = suffix.tokens.at[:, :, step].set(tokens)
        rows = jnp.pad(prefix, ((0, 0), (0, step + 1)))
        rows = jnp.broadcast_to(rows[:, None], (B, M, rows.shape[1]))
        place = lengths[:, None, None] + jnp.arange(step + 1)
        b, m = jnp.indices((B, M))
        rows = rows.at[b[..., None], m[..., None], place].set(added[:, :, : step + 1])
        size = jnp.repeat(lengths + step + 1, M)
        hidden = self._last_hidden(rows.reshape(B * M, -1), size)
        return hidden.reshape(B, M, -1), Suffix(added)

    def logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Returns the model's logits."""
        return self.model.logits(hidden)

    def _last_hidden(
        self, tokens: Int[Array, "B S"], lengths: Int[Array, " B"]
    ) -> Float[Array, "B D"]:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        segment_ids = (positions < lengths[:, None]).astype(jnp.int32)
        hidden = self.model(tokens, positions, segment_ids)
        return jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
