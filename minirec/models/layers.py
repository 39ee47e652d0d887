"""The small parts of a block: named parameters, RMSNorm, rotary positions, SwiGLU, dropout."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from minirec.models.config import TrunkConfig
from minirec.models.products import project

# The standard deviation of a unit normal cut off at two: dividing by it restores unit variance.
_TRUNCATED_STD = 0.87962566103423978

# Random arrays are drawn flat and reshaped: XLA's CPU backend takes a second and more to compile
# a draw of several axes, and a fifth of that for the same draw of one.


class AddedParam(nnx.Param):
    """A parameter that was put beside a trained model's own, to be trained while those stay."""


def named_param(
    value: Array, names: tuple[str, ...], kind: type[nnx.Param] = nnx.Param
) -> nnx.Param:
    """Returns a parameter whose axes carry logical names.

    The names are metadata only (`param.out_sharding`); `nnx.get_partition_spec` under
    `flax.core.spmd.logical_axis_rules` turns them into mesh axes. Sharding at creation is off, so
    that one device needs no mesh.
    """
    if value.ndim != len(names):
        raise ValueError(f"parameter of shape {value.shape} has {len(names)} axis names: {names}")
    return kind(value, out_sharding=names, eager_sharding=False)


def normal_param(
    rngs: nnx.Rngs, shape: tuple[int, ...], names: tuple[str, ...], std: float, dtype: str
) -> nnx.Param:
    """Returns a named parameter drawn from a normal cut off at two standard deviations."""
    value = jax.random.truncated_normal(rngs.params(), -2.0, 2.0, (math.prod(shape),), jnp.float32)
    return named_param((value * (std / _TRUNCATED_STD)).astype(dtype).reshape(shape), names)


def rms_norm(
    x: Float[Array, "*batch D"], scale: Float[Array, " D"], eps: float
) -> Float[Array, "*batch D"]:
    """Returns `x` divided by its root mean square, in float32, then scaled, in `x`'s dtype."""
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    normed = x32 * jax.lax.rsqrt(mean_square + eps)
    return (normed * scale.astype(jnp.float32)).astype(x.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square norm with a learned scale (Zhang and Sennrich, 2019)."""

    def __init__(self, width: int, axis: str, *, eps: float, param_dtype: str):
        self.eps = eps
        self.scale = named_param(jnp.ones((width,), param_dtype), (axis,))

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Returns the normed `x`, same shape and dtype."""
        return rms_norm(x, self.scale[...], self.eps)


def rope_angles(
    positions: Int[Array, "*batch"], head_dim: int, theta: float
) -> tuple[Float[Array, "*batch 1 R"], Float[Array, "*batch 1 R"]]:
    """Returns cosine and sine of the rotary angles, float32, with an axis for the heads.

    `R` is `head_dim / 2`; the angle of pair `r` is `position · theta^(−2r / head_dim)`.
    """
    # The last bit of a frequency is a thousandth of a radian at position 10,000, so the powers are
    # exact and rounded where the code of published checkpoints rounds.
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    powers = (theta ** exponent.astype(np.float64)).astype(np.float32)
    frequencies = np.float32(1.0) / powers
    angles = positions.astype(jnp.float32)[..., None, None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rope(
    x: Float[Array, "*batch H K"],
    angles: tuple[Float[Array, "*batch 1 R"], Float[Array, "*batch 1 R"]],
) -> Float[Array, "*batch H K"]:
    """Returns `x` turned by the rotary angles (Su et al., RoFormer).

    Pair `r` is `(x[r], x[r + K/2])`, the half-split order of the Llama and Qwen checkpoints.
    """
    cos, sin = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def adapted_project(
    x: Float[Array, "*batch *inner"],
    weight: nnx.Param,
    adapter: Callable[[Array], Array] | None,
    dtype: str,
    num_inner: int = 1,
) -> Float[Array, "*batch *outer"]:
    """Returns the product with a weight, in the compute dtype, plus what its adapter adds."""
    out = project(x, weight[...].astype(dtype), num_inner)
    return out if adapter is None else out + adapter(x)


def dropout(x: Float[Array, "*shape"], rate: float, key: Key[Array, ""] | None) -> Array:
    """Returns `x` with a share `rate` of its elements zeroed, the rest scaled up.

    The same key gives the same bits. No key, or a rate of zero, gives `x` itself.
    """
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, jnp.float32(1.0 - rate), (x.size,)).reshape(x.shape)
    return jnp.where(keep, x * (1.0 / (1.0 - rate)), jnp.zeros((), x.dtype)).astype(x.dtype)


class SwiGLU(nnx.Module):
    """Gated feed-forward: `down(silu(gate(x)) * up(x))` (Shazeer, 2020)."""

    def __init__(self, config: TrunkConfig, *, rngs: nnx.Rngs):
        D, F, dtype = config.width, config.mlp_width, config.param_dtype
        self.dtype = config.dtype
        self.gate = normal_param(rngs, (D, F), ("embed", "mlp"), D**-0.5, dtype)
        self.up = normal_param(rngs, (D, F), ("embed", "mlp"), D**-0.5, dtype)
        # What a block adds to the residual stream starts small, so that its sum over the depth
        # keeps unit scale (GPT-2).
        down_std = (2 * config.num_layers * F) ** -0.5
        self.down = normal_param(rngs, (F, D), ("mlp", "embed"), down_std, dtype)
        self.adapters = nnx.Dict()

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Returns the block's feed-forward output, same shape."""
        gate, up = self._project(x, "gate"), self._project(x, "up")
        return self._project(jax.nn.silu(gate) * up, "down")

    def _project(self, x: Array, name: str) -> Array:
        return adapted_project(x, getattr(self, name), self.adapters.get(name), self.dtype)
