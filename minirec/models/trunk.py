"""The decoder trunk: scanned blocks from embeddings to hidden states, and cached decoding."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from minirec.models.attention import Attention, attend, attend_apart, attend_beams
from minirec.models.cache import PrefixCache, SuffixCache
from minirec.models.config import TrunkConfig
from minirec.models.layers import RMSNorm, SwiGLU, dropout, rope_angles
from minirec.models.masks import MaskRule
from minirec.models.sharding import gathered


class Block(nnx.Module):
    """One pre-norm layer: attention, then SwiGLU, each added to the residual stream."""

    def __init__(self, config: TrunkConfig, *, rngs: nnx.Rngs):
        norm = functools.partial(
            RMSNorm, config.width, "embed", eps=config.norm_eps, param_dtype=config.param_dtype
        )
        self.dropout = config.dropout
        self.attention_norm = norm()
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm = norm()
        self.mlp = SwiGLU(config, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        angles: tuple[Array, Array],
        attention: Callable[[Array, Array, Array], Array],
        dropout_key: Key[Array, ""] | None = None,
        last: Int[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B T D"], tuple[Array, Array]]:
        """Returns the new residual stream and this layer's keys and values `[B, T, KV, K]`.

        Args:
            x: the residual stream.
            angles: cosine and sine of the tokens' rotary angles.
            attention: what happens between queries, keys and values; training, prefill and
                decoding differ in nothing else.
            dropout_key: see `Trunk.__call__`.
            last: the one token of each row whose residual stream is asked for, `[B, 1, D]`; None
                asks for all. Keys and values are those of all tokens in either case.
        """
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        normed = self.attention_norm(x)
        key, value = self.attention.keys_and_values(normed, angles)
        if last is not None:
            x, normed, cos, sin = (_at(array, last) for array in (x, normed, *angles))
            angles = cos, sin
        query = self.attention.queries(normed, angles)
        attended = self.attention.merge_heads(attention(query, key, value))
        x = x + dropout(attended, self.dropout, keys[0])
        x = x + dropout(self.mlp(self.mlp_norm(x)), self.dropout, keys[1])
        return x, (key, value)


def _at(array: Array, place: Int[Array, " B"]) -> Array:
    """Returns the entries `[B, 1, …]` of one place of each row."""
    index = place.reshape(-1, *(1 for _ in array.shape[1:]))
    return jnp.take_along_axis(array, index, axis=1)


class Trunk(nnx.Module):
    """Blocks between an embedding and a head, which live outside.

    The parameters of all layers are stacked along a first axis named "layers", and one scan runs
    over them. Every axis of every parameter has a logical name: `layers`, `embed`, `heads`,
    `kv_heads`, `head_dim`, `mlp`.
    """

    def __init__(self, config: TrunkConfig, *, rngs: nnx.Rngs):
        self.config = config

        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"})
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs=rngs)

        self.blocks = stack(rngs)
        self.norm = RMSNorm(
            config.width, "embed", eps=config.norm_eps, param_dtype=config.param_dtype
        )

    def __call__(
        self,
        embeddings: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask_rule: MaskRule,
        *,
        segment_ids: Int[Array, "B T"],
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T D"]:
        """Returns the hidden state of every token, in the compute dtype.

        Args:
            embeddings: what enters the first block.
            positions: place of each token in its own example, from 0.
            mask_rule: which token sees which; see `minirec.models.masks`.
            segment_ids: example of each token in a packed row, from 1; 0 is padding, whose hidden
                states are finite and mean nothing.
            dropout_key: the source of dropout's bits; `None` turns dropout off.
        """
        x, _ = self._blocks(embeddings, positions, mask_rule(segment_ids), dropout_key)
        return self.norm(x)

    def with_candidates(
        self,
        embeddings: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask_rule: MaskRule,
        *,
        segment_ids: Int[Array, "B T"],
        candidates: Float[Array, "B M D"],
        candidate_positions: Int[Array, "B M"],
        visible: Bool[Array, "B M T"],
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B M D"]:
        """Returns the hidden states of candidates, each of which sees a row's tokens and itself.

        One pass over a packed row with candidates at each of its places: what `prefill` and
        `decode_step` return of each place's history and candidates, up to the order of sums.

        Args:
            embeddings: the rows' tokens; this and the next three as in `__call__`.
            positions: of these.
            mask_rule: of these.
            segment_ids: of these.
            candidates: what enters the first block of each candidate.
            candidate_positions: of the candidates; those of one place share one.
            visible: which tokens of its row each candidate sees.
            dropout_key: the source of dropout's bits; `None` turns dropout off.
        """
        config = self.config
        mask = mask_rule(segment_ids)
        angles, own_angles = self._angles(positions), self._angles(candidate_positions)
        graphdef, stacked = nnx.split(self.blocks)
        x, own = embeddings.astype(config.dtype), candidates.astype(config.dtype)
        layer_keys = None
        if dropout_key is not None:
            input_keys, *layer_keys = jax.random.split(dropout_key, 3)
            x, own = (
                dropout(part, config.dropout, key)
                for part, key in zip((x, own), jax.random.split(input_keys), strict=True)
            )
            layer_keys = tuple(jax.random.split(key, config.num_layers) for key in layer_keys)

        def layer(streams, inputs):
            (x, own), (state, keys) = streams, inputs
            block = nnx.merge(graphdef, gathered(state))
            key, own_key = (None, None) if keys is None else keys

            def attention(query, key, value):
                return attend(query, key, value, mask)

            x, (read_key, read_value) = block(x, angles, attention, key)

            def apart(query, key, value):
                return attend_apart(query, read_key, read_value, visible, key, value)

            own, _ = block(own, own_angles, apart, own_key)
            return (x, own), None

        if config.remat:
            layer = jax.checkpoint(layer, prevent_cse=False)
        unroll = min(config.scan_unroll, config.num_layers)
        (_, own), _ = jax.lax.scan(layer, (x, own), (stacked, layer_keys), unroll=unroll)
        return self.norm(own)

    def residual_stream(
        self,
        embeddings: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask_rule: MaskRule,
        *,
        segment_ids: Int[Array, "B T"],
    ) -> Float[Array, "layers_and_1 B T D"]:
        """Returns what enters the first block and what each block leaves, before the last norm.

        For looking into a model; arguments as `__call__`.
        """
        mask = mask_rule(segment_ids)
        x, after = self._blocks(embeddings, positions, mask, keep_residual=True)
        return jnp.concatenate([embeddings.astype(x.dtype)[None], after])

    def prefill(
        self, embeddings: Float[Array, "B S D"], lengths: Int[Array, " B"], mask_rule: MaskRule
    ) -> tuple[Float[Array, "B D"], PrefixCache]:
        """Returns the hidden state of each row's last valid token, and all keys and values.

        Args:
            embeddings: the histories, right-padded.
            lengths: valid tokens of each row, at least 1.
            mask_rule: which token sees which.
        """
        B, S = embeddings.shape[:2]
        positions = jnp.broadcast_to(jnp.arange(S, dtype=jnp.int32), (B, S))
        segment_ids = (positions < lengths[:, None]).astype(jnp.int32)
        # Of the last layer's tokens all but one are asked for nothing but keys and values.
        mask, last = mask_rule(segment_ids), lengths - 1
        x, cache = self._blocks(embeddings, positions, mask, keep_cache=True, stop=-1)
        graphdef, stacked = nnx.split(self.blocks)
        block = nnx.merge(graphdef, jax.tree.map(lambda layers: layers[-1], stacked))

        def attention(query, key, value):
            return attend(query, key, value, _at(mask, last))

        x, top = block(x, self._angles(positions), attention, last=last)
        key, value = (
            jnp.concatenate([below, new[None]]) for below, new in zip(cache, top, strict=True)
        )
        return self.norm(x)[:, 0], PrefixCache(key, value)

    def prefill_block(
        self,
        embeddings: Float[Array, "B n D"],
        start: Int[Array, ""],
        lengths: Int[Array, " B"],
        prefix: PrefixCache,
    ) -> tuple[Float[Array, "B D"], PrefixCache]:
        """Reads the next `n` tokens of causal histories whose tokens before are read.

        As `prefill` with `CausalMask`, up to the order of sums, when it has gone over all blocks
        from the first: the keys and values of a block depend on the tokens until its end alone, so
        that those of a history serve every longer one that begins with it.

        Args:
            embeddings: the tokens; what stands behind a row's length is never seen.
            start: place of the first one, of all rows; traced, so that one program reads them all.
            lengths: valid tokens of each whole history.
            prefix: keys and values of the tokens before; there is room for these.

        Returns:
            The hidden state of each row's last valid token, where that lies in this block (else it
            means nothing), and the prefix with the block's keys and values.
        """
        B, n = embeddings.shape[:2]
        S = prefix.key.shape[2]
        places = start + jnp.arange(n, dtype=jnp.int32)
        angles = self._angles(jnp.broadcast_to(places, (B, n)))
        visible = jnp.arange(S, dtype=jnp.int32) <= places[:, None]
        mask = jnp.broadcast_to(visible, (B, n, S))
        last = jnp.clip(lengths - 1 - start, 0, n - 1)
        graphdef, stacked = nnx.split(self.blocks)

        def read(block, x, key, value, mask, last=None):
            def attention(query, new_key, new_value):
                keys, values = (
                    jax.lax.dynamic_update_slice(old, new, (0, start, 0, 0))
                    for old, new in ((key, new_key), (value, new_value))
                )
                return attend(query, keys, values, mask)

            return block(x, angles, attention, last=last)

        def layer(x, inputs):
            state, key, value = inputs
            return read(nnx.merge(graphdef, gathered(state)), x, key, value, mask)

        below = jax.tree.map(lambda layers: layers[:-1], (stacked, prefix.key, prefix.value))
        unroll = min(self.config.scan_unroll, self.config.num_layers)
        x, added = jax.lax.scan(layer, embeddings.astype(self.config.dtype), below, unroll=unroll)
        # Of the last layer's tokens all but one are asked for nothing but keys and values.
        state, key, value = jax.tree.map(
            lambda layers: layers[-1], (stacked, prefix.key, prefix.value)
        )
        x, top = read(nnx.merge(graphdef, state), x, key, value, _at(mask, last), last)
        key, value = (
            jax.lax.dynamic_update_slice(
                old, jnp.concatenate([parts, part[None]]), (0, 0, start, 0, 0)
            )
            for old, parts, part in zip((prefix.key, prefix.value), added, top, strict=True)
        )
        return self.norm(x)[:, 0], PrefixCache(key, value)

    def decode_step(
        self,
        embeddings: Float[Array, "B M D"],
        step: int,
        lengths: Int[Array, " B"],
        prefix: PrefixCache,
        suffix: SuffixCache,
    ) -> tuple[Float[Array, "B M D"], SuffixCache]:
        """Returns the hidden states of one more token a beam, and the suffix with it written.

        Args:
            embeddings: each beam's newest token.
            step: its place behind the history, from 0; a Python int.
            lengths: valid tokens of each history.
            prefix: the histories' keys and values.
            suffix: the beams' own; entries before `step` are read, entry `step` is written.

        Raises:
            ValueError: `step` does not lie within the suffix's capacity.
        """
        if not 0 <= step < suffix.capacity:
            raise ValueError(
                f"step={step} lies outside the suffix capacity {suffix.capacity}: "
                "make the suffix with room for every decoded token"
            )
        B, M = embeddings.shape[:2]
        config = self.config
        positions = jnp.broadcast_to((lengths + step)[:, None], (B, M))
        angles = self._angles(positions)
        graphdef, stacked = nnx.split(self.blocks)

        def layer(x, inputs):
            state, prefix_key, prefix_value, suffix_key, suffix_value = inputs

            def attention(query, key, value):
                return attend_beams(
                    query,
                    prefix_key,
                    prefix_value,
                    lengths,
                    jnp.concatenate([suffix_key, key[:, :, None]], axis=2),
                    jnp.concatenate([suffix_value, value[:, :, None]], axis=2),
                )

            return nnx.merge(graphdef, state)(x, angles, attention)

        x, (key, value) = jax.lax.scan(
            layer,
            embeddings.astype(config.dtype),
            (
                stacked,
                prefix.key,
                prefix.value,
                suffix.key[:, :, :, :step],
                suffix.value[:, :, :, :step],
            ),
            unroll=min(config.scan_unroll, config.num_layers),
        )
        suffix = SuffixCache(
            suffix.key.at[:, :, :, step].set(key), suffix.value.at[:, :, :, step].set(value)
        )
        return self.norm(x), suffix

    def extend(
        self,
        embeddings: Float[Array, "B D"],
        lengths: Int[Array, " B"],
        cache: PrefixCache,
    ) -> tuple[Float[Array, "B D"], PrefixCache]:
        """Returns the hidden states of one more token a row, and the cache with it written.

        The token stands behind what its row holds, at a place that need not be known when the
        program is compiled; `decode_step` is for few tokens of many beams.

        Args:
            embeddings: each row's newest token.
            lengths: valid entries of each row of the cache, less than it has room for.
            cache: keys and values; entry `lengths` of each row is written, and those behind it are
                never seen.
        """
        B, S = len(embeddings), cache.key.shape[2]
        angles = self._angles(lengths[:, None])
        visible = (jnp.arange(S, dtype=jnp.int32) < lengths[:, None])[:, None]
        graphdef, stacked = nnx.split(self.blocks)

        def layer(x, inputs):
            state, kept_key, kept_value = inputs

            def attention(query, key, value):
                return attend_apart(query, kept_key, kept_value, visible, key, value)

            return nnx.merge(graphdef, state)(x, angles, attention)

        x, (key, value) = jax.lax.scan(
            layer,
            embeddings.astype(self.config.dtype)[:, None],
            (stacked, cache.key, cache.value),
            unroll=min(self.config.scan_unroll, self.config.num_layers),
        )
        row = jnp.arange(B, dtype=jnp.int32)
        cache = PrefixCache(
            cache.key.at[:, row, lengths].set(key[:, :, 0]),
            cache.value.at[:, row, lengths].set(value[:, :, 0]),
        )
        return self.norm(x)[:, 0], cache

    def _angles(self, positions: Array) -> tuple[Array, Array]:
        return rope_angles(positions, self.config.head_dim, self.config.rope_theta)

    def _blocks(
        self,
        embeddings: Array,
        positions: Array,
        mask: Array,
        dropout_key: Array | None = None,
        keep_cache: bool = False,
        keep_residual: bool = False,
        stop: int | None = None,
    ) -> tuple[Array, Any]:
        """Returns the residual stream after the layers before `stop`, and what of each is kept.

        Kept are a layer's keys and values, or the residual stream after it, or neither.
        """
        config = self.config
        if embeddings.shape[-1] != config.width:
            raise ValueError(
                f"embeddings have width {embeddings.shape[-1]}, the trunk has {config.width}"
            )
        angles = self._angles(positions)
        graphdef, stacked = nnx.split(self.blocks)
        layer_keys = None
        x = embeddings.astype(config.dtype)
        if dropout_key is not None:
            layer_keys = jax.random.split(dropout_key, config.num_layers + 1)
            x = dropout(x, config.dropout, layer_keys[-1])
            layer_keys = layer_keys[:-1]

        def layer(x, inputs):
            state, layer_key = inputs

            def attention(query, key, value):
                return attend(query, key, value, mask)

            x, cache = nnx.merge(graphdef, gathered(state))(x, angles, attention, layer_key)
            return x, cache if keep_cache else x if keep_residual else None

        if config.remat:
            layer = jax.checkpoint(layer, prevent_cse=False)
        layers = jax.tree.map(lambda array: array[:stop], (stacked, layer_keys))
        unroll = min(config.scan_unroll, config.num_layers)
        return jax.lax.scan(layer, x, layers, unroll=unroll)
