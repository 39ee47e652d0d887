"""Grouped-query attention: over a packed row, and of beams over a shared history."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from minirec.models.config import TrunkConfig
from minirec.models.layers import RMSNorm, adapted_project, named_param, normal_param, rope

_MASKED = -1e30  # Finite: a difference of two of them is 0, not NaN.


def attend(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S KV K"],
    value: Float[Array, "B S KV K"],
    mask: Bool[Array, "B T S"],
) -> Float[Array, "B T H K"]:
    """Returns softmax attention of every query over the keys that its mask allows.

    `H` is a multiple of `KV`: query head `h` reads key and value head `h // (H / KV)`. Scores are
    softmaxed in float32. Differentiable once, in reverse mode.
    """
    B, T, H, K = query.shape
    KV = key.shape[2]
    query = query * K**-0.5
    if KV < H:
        query = query.reshape(B, T, KV, H // KV, K)
    return _attend(query, key, value, mask).reshape(B, T, H, K)


# The backward pass is written out because XLA's CPU backend is two times (float32) to eight times
# (bfloat16) slower on the products that automatic differentiation emits: they contract over axes
# that lie apart in memory. For the same reason the group axis `g` is there only where groups are.
@jax.custom_vjp
def _attend(query: Array, key: Array, value: Array, mask: Array) -> Array:
    return _attend_forward(query, key, value, mask)[0]


def _attend_forward(query, key, value, mask):
    g = _group_axis(query)
    scores = jnp.einsum(f"btn{g}d,bsnd->bn{g}ts", query, key, preferred_element_type=jnp.float32)
    mask = mask[:, None, None] if g else mask[:, None]
    probabilities = jax.nn.softmax(jnp.where(mask, scores, _MASKED), axis=-1).astype(value.dtype)
    output = jnp.einsum(f"bn{g}ts,bsnd->btn{g}d", probabilities, value)
    return output, (query, key, value, probabilities, output)


def _attend_backward(residuals, d_output):
    query, key, value, probabilities, output = residuals
    g = _group_axis(query)
    d_value = jnp.einsum(f"bn{g}ts,btn{g}d->bsnd", probabilities, d_output)
    d_probabilities = jnp.einsum(
        f"btn{g}d,bsnd->bn{g}ts", d_output, value, preferred_element_type=jnp.float32
    )
    # sum_s(P · dP) is the same as sum_d(output · d_output), and the latter is K long, not S.
    correction = jnp.einsum(
        f"btn{g}d,btn{g}d->bn{g}t", d_output, output, preferred_element_type=jnp.float32
    )
    d_scores = probabilities * (d_probabilities - correction[..., None])
    d_scores = d_scores.astype(query.dtype)
    d_query = jnp.einsum(f"bn{g}ts,bsnd->btn{g}d", d_scores, key)
    d_key = jnp.einsum(f"bn{g}ts,btn{g}d->bsnd", d_scores, query)
    return d_query, d_key, d_value, None


_attend.defvjp(_attend_forward, _attend_backward)


def _group_axis(query: Array) -> str:
    return "g" if query.ndim == 5 else ""


def attend_beams(
    query: Float[Array, "B M H K"],
    prefix_key: Float[Array, "B S KV K"],
    prefix_value: Float[Array, "B S KV K"],
    lengths: Int[Array, " B"],
    suffix_key: Float[Array, "B M C KV K"],
    suffix_value: Float[Array, "B M C KV K"],
) -> Float[Array, "B M H K"]:
    """Returns the attention of each beam's token over its user's prefix and its own suffix.

    The prefix enters the products as it is: the beams of a user are rows of one matrix product
    with it, so that no key or value of the history is ever copied a beam.

    Args:
        query: one token a beam.
        prefix_key: keys of the history, right-padded.
        prefix_value: values of the history.
        lengths: valid tokens of each history.
        suffix_key: keys of the tokens that a beam added, the querying token's last; all valid.
        suffix_value: values of the same tokens.
    """
    B, M, H, K = query.shape
    S, KV = prefix_key.shape[1:3]
    grouped = (query * K**-0.5).reshape(B, M, KV, H // KV, K)
    prefix_scores = jnp.einsum(
        "bmngd,bsnd->bnmgs", grouped, prefix_key, preferred_element_type=jnp.float32
    )
    valid = jnp.arange(S, dtype=jnp.int32) < lengths[:, None]
    prefix_scores = jnp.where(valid[:, None, None, None], prefix_scores, _MASKED)
    # The suffix is a few tokens: sums of products fuse into one loop where a batched matrix
    # product would run B·M·KV tiny ones.
    suffix_scores = jnp.sum(
        grouped[:, :, None].astype(jnp.float32) * suffix_key[:, :, :, :, None], axis=-1
    )  # [B, M, C, KV, G]
    suffix_scores = suffix_scores.transpose(0, 3, 1, 4, 2)

    # One softmax over both parts: a common maximum, one sum, and the division last.
    highest = jnp.maximum(prefix_scores.max(-1), suffix_scores.max(-1))[..., None]
    prefix_weights = jnp.exp(prefix_scores - highest)
    suffix_weights = jnp.exp(suffix_scores - highest)
    total = prefix_weights.sum(-1) + suffix_weights.sum(-1)  # [B, KV, M, G]

    output = jnp.einsum(
        "bnmgs,bsnd->bmngd",
        prefix_weights.astype(prefix_value.dtype),
        prefix_value,
        preferred_element_type=jnp.float32,
    )
    # Term by term: XLA's CPU backend takes three times as long for a sum over an inner axis.
    weights = suffix_weights.transpose(0, 2, 4, 1, 3)[..., None]
    output += sum(
        weights[:, :, place] * suffix_value[:, :, place, :, None]
        for place in range(suffix_value.shape[2])
    )
    output /= total.transpose(0, 2, 1, 3)[..., None]
    return output.reshape(B, M, H, K).astype(query.dtype)


def attend_apart(
    query: Float[Array, "B M H K"],
    key: Float[Array, "B S KV K"],
    value: Float[Array, "B S KV K"],
    visible: Bool[Array, "B M S"],
    own_key: Float[Array, "B M KV K"],
    own_value: Float[Array, "B M KV K"],
) -> Float[Array, "B M H K"]:
    """Returns the attention of tokens that see some of a row's tokens and themselves alone.

    None of them sees another, so that what one of them attends to depends on no other.

    Args:
        query: of the tokens apart.
        key: of the row's tokens.
        value: of the same.
        visible: which token of the row each sees; it may be none.
        own_key: of the tokens apart.
        own_value: of the same.
    """
    B, M, H, K = query.shape
    KV = key.shape[2]
    grouped = (query * K**-0.5).reshape(B, M, KV, H // KV, K)
    scores = jnp.einsum("bmngd,bsnd->bnmgs", grouped, key, preferred_element_type=jnp.float32)
    scores = jnp.where(visible[:, None, :, None], scores, _MASKED)
    own = jnp.einsum("bmngd,bmnd->bnmg", grouped, own_key, preferred_element_type=jnp.float32)
    highest = jax.lax.stop_gradient(jnp.maximum(scores.max(-1), own))
    weights, own = jnp.exp(scores - highest[..., None]), jnp.exp(own - highest)
    total = weights.sum(-1) + own
    output = jnp.einsum(
        "bnmgs,bsnd->bmngd",
        weights.astype(value.dtype),
        value,
        preferred_element_type=jnp.float32,
    )
    own, total = (part.transpose(0, 2, 1, 3)[..., None] for part in (own, total))
    output = (output + own * own_value[:, :, :, None].astype(jnp.float32)) / total
    return output.reshape(B, M, H, K).astype(query.dtype)


class Attention(nnx.Module):
    """Projections around attention; bias and query-key norm as the config says.

    Parameters are stored apart, one a projection, heads and head width as axes of their own.
    """

    def __init__(self, config: TrunkConfig, *, rngs: nnx.Rngs):
        D, H, KV, K = config.width, config.num_heads, config.num_kv_heads, config.head_dim
        dtype = config.param_dtype
        self.dtype = config.dtype

        def projection(heads: int, axis: str) -> nnx.Param:
            return normal_param(rngs, (D, heads, K), ("embed", axis, "head_dim"), D**-0.5, dtype)

        self.query = projection(H, "heads")
        self.key = projection(KV, "kv_heads")
        self.value = projection(KV, "kv_heads")
        # What a block adds to the residual stream starts small, as in `SwiGLU`.
        output_std = (2 * config.num_layers * H * K) ** -0.5
        self.output = normal_param(
            rngs, (H, K, D), ("heads", "head_dim", "embed"), output_std, dtype
        )
        self.query_bias = self.key_bias = self.value_bias = nnx.data(None)
        self.query_norm = self.key_norm = nnx.data(None)
        self.adapters = nnx.Dict()
        if config.qkv_bias:
            self.query_bias = named_param(jnp.zeros((H, K), dtype), ("heads", "head_dim"))
            self.key_bias = named_param(jnp.zeros((KV, K), dtype), ("kv_heads", "head_dim"))
            self.value_bias = named_param(jnp.zeros((KV, K), dtype), ("kv_heads", "head_dim"))
        if config.qk_norm:
            self.query_norm = RMSNorm(K, "head_dim", eps=config.norm_eps, param_dtype=dtype)
            self.key_norm = RMSNorm(K, "head_dim", eps=config.norm_eps, param_dtype=dtype)

    def queries(
        self, x: Float[Array, "B T D"], angles: tuple[Array, Array]
    ) -> Float[Array, "B T H K"]:
        """Returns queries, normed and turned to their positions."""
        query = self._project(x, "query", self.query_bias)
        if self.query_norm is not None:
            query = self.query_norm(query)
        return rope(query, angles)

    def keys_and_values(
        self, x: Float[Array, "B T D"], angles: tuple[Array, Array]
    ) -> tuple[Float[Array, "B T KV K"], Float[Array, "B T KV K"]]:
        """Returns keys, normed and turned to their positions, and values."""
        key = self._project(x, "key", self.key_bias)
        if self.key_norm is not None:
            key = self.key_norm(key)
        return rope(key, angles), self._project(x, "value", self.value_bias)

    def _project(self, x: Array, name: str, bias: nnx.Param | None) -> Array:
        out = adapted_project(x, getattr(self, name), self.adapters.get(name), self.dtype)
        return out if bias is None else out + bias[...].astype(self.dtype)

    def merge_heads(self, x: Float[Array, "B T H K"]) -> Float[Array, "B T D"]:
        """Returns the output projection of the attended values."""
        return adapted_project(x, self.output, self.adapters.get("output"), self.dtype, 2)
