"""The SID decoder: token embedding, trunk, and a head over the vocabulary."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from minirec.models.cache import PrefixCache, SuffixCache
from minirec.models.config import SidDecoderConfig
from minirec.models.layers import normal_param
from minirec.models.masks import CausalMask
from minirec.models.products import unembed
from minirec.models.sharding import gathered
from minirec.models.trunk import Trunk


class SidDecoder(nnx.Module):
    """An autoregressive model of SID token sequences.

    Training calls the decoder and `logits`; search calls `prefill`, `init_suffix`, `decode_step`
    and `logits`.
    """

    def __init__(self, config: SidDecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        V, D = config.vocab_size, config.trunk.width
        dtype = config.trunk.param_dtype
        self.embedding = normal_param(rngs, (V, D), ("vocab", "embed"), 0.02, dtype)
        self.head = nnx.data(None)
        if not config.tie_embeddings:
            self.head = normal_param(rngs, (V, D), ("vocab", "embed"), 0.02, dtype)
        # The last rows of both, where only these are trained (`minirec.models.vocabulary`).
        self.embedding_tail = self.head_tail = nnx.data(None)
        self.trunk = Trunk(config.trunk, rngs=rngs)

    def embed(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Returns the embeddings of `tokens`, in the compute dtype."""
        dtype = self.config.trunk.dtype
        rows = jnp.take(gathered(self.embedding[...]), tokens, axis=0, mode="clip").astype(dtype)
        if self.embedding_tail is None:
            return rows
        place = tokens - self.embedding.shape[0]
        tail = jnp.take(gathered(self.embedding_tail[...]), place, axis=0, mode="clip")
        return jnp.where(place[..., None] >= 0, tail.astype(dtype), rows)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T D"]:
        """Returns the hidden state of every token; its logits speak of the token after it.

        Args:
            tokens: packed or padded rows.
            positions: place of each token in its own example, from 0.
            segment_ids: example of each token, from 1; 0 is padding.
            dropout_key: the source of dropout's bits; `None` turns dropout off.
        """
        return self.trunk(
            self.embed(tokens),
            positions,
            CausalMask(),
            segment_ids=segment_ids,
            dropout_key=dropout_key,
        )

    def head_rows(self) -> Float[Array, "V D"]:
        """Returns the head's matrix, one row a token, in the parameters' dtype."""
        parts = self.head_parts()
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)

    def head_parts(self) -> tuple[Float[Array, "part D"], ...]:
        """Returns the head's matrix cut into the parts that are stored apart, in their order."""
        tied = self.head is None
        parts = (self.embedding, self.embedding_tail) if tied else (self.head, self.head_tail)
        return tuple(gathered(part[...]) for part in parts if part is not None)

    def logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Returns float32 logits over the vocabulary."""
        parts = [unembed(hidden, rows.astype(hidden.dtype)) for rows in self.head_parts()]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)

    def prefill(
        self, tokens: Int[Array, "B S"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B D"], PrefixCache]:
        """Reads right-padded prompts once.

        Args:
            tokens: prompts; what stands behind a row's length is never seen.
            lengths: valid tokens of each prompt, at least 1.

        Returns:
            The hidden state of each prompt's last valid token, and the prompts' keys and values.
        """
        return self.trunk.prefill(self.embed(tokens), lengths, CausalMask())

    def init_prefix(self, batch: int, width: int) -> PrefixCache:
        """Returns an empty prefix for prompts of `width` tokens at most."""
        return PrefixCache.empty(self.config.trunk, batch, width)

    def prefill_block(
        self,
        tokens: Int[Array, "B n"],
        start: Int[Array, ""],
        lengths: Int[Array, " B"],
        prefix: PrefixCache,
    ) -> tuple[Float[Array, "B D"], PrefixCache]:
        """Reads the next `n` tokens of prompts; see `Trunk.prefill_block`."""
        return self.trunk.prefill_block(self.embed(tokens), start, lengths, prefix)

    def init_suffix(self, batch: int, num_beams: int, capacity: int) -> SuffixCache:
        """Returns an empty suffix cache for `num_beams` beams a user of `capacity` tokens each."""
        return SuffixCache.empty(self.config.trunk, batch, num_beams, capacity)

    def decode_step(
        self,
        tokens: Int[Array, "B M"],
        step: int,
        lengths: Int[Array, " B"],
        prefix: PrefixCache,
        suffix: SuffixCache,
    ) -> tuple[Float[Array, "B M D"], SuffixCache]:
        """Reads one more token a beam; arguments and errors as in `Trunk.decode_step`."""
        return self.trunk.decode_step(self.embed(tokens), step, lengths, prefix, suffix)

    def extend(
        self, tokens: Int[Array, " B"], lengths: Int[Array, " B"], cache: PrefixCache
    ) -> tuple[Float[Array, "B D"], PrefixCache]:
        """Reads one more token a row of a cache; arguments as in `Trunk.extend`."""
        return self.trunk.extend(self.embed(tokens), lengths, cache)
