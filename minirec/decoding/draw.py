"""How the next token is drawn from a language model's logits.

The order is that of transformers' `generate`: repetition penalty, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Key

from minirec.files.schema import require_whole

LEAST_TEMPERATURE, LEAST_TOP_P = 1e-3, 1e-6
"""Below them float32 has nothing left to draw from."""

_ONE_BITS = 0x3F800000  # float32's 1.0; the bits of numbers from 0 up are ordered as they are.


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """How an answer is drawn, and where it ends.

    Attributes:
        temperature: logits are divided by it; above 0.
        top_p: the likeliest tokens that together have at least this probability stay (Holtzman et
            al., 2020). 1: all.
        top_k: so many of the likeliest tokens stay, and those that tie with the last. 0: all.
        min_p: tokens below this share of the likeliest one's probability go (Nguyen et al., 2024).
        repetition_penalty: logits of tokens that prompt or answer hold are divided by it where they
            are positive, multiplied where not (Keskar et al., 2019). 1: none.
        greedy: take the likeliest token; of the above, only the penalty counts then.
        max_new_tokens: tokens of an answer at most.
        stop: an answer ends where it holds one of these strings.
        seed: of an answer whose caller gives no seed.
    """

    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    greedy: bool = False
    max_new_tokens: int = 160
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            # Less would vanish in float32.
            ("temperature", LEAST_TEMPERATURE, math.inf),
            ("top_p", LEAST_TOP_P, 1.0),
            ("repetition_penalty", 1e-6, math.inf),
        ):
            value = getattr(self, name)
            if not low <= value <= high or math.isinf(value):
                raise ValueError(
                    f"SamplingSettings.{name}={value!r}: must be finite and lie in [{low}, {high}]"
                )
        if not 0.0 <= self.min_p < 1.0:
            raise ValueError(f"SamplingSettings.min_p={self.min_p!r}: must lie in [0, 1)")
        require_whole("SamplingSettings.top_k", self.top_k, 0)
        require_whole("SamplingSettings.max_new_tokens", self.max_new_tokens, 1)
        require_whole("SamplingSettings.seed", self.seed, 0)
        if self.seed >= 2**32:
            raise ValueError(f"SamplingSettings.seed={self.seed}: must be below 2^32")
        if isinstance(self.stop, str) or not all(isinstance(one, str) and one for one in self.stop):
            raise ValueError(
                f"SamplingSettings.stop={self.stop!r}: must be a tuple of strings, none empty"
            )

    def numbers(self) -> DrawNumbers:
        """Returns what a compiled program is given: other settings compile nothing."""
        return DrawNumbers(
            np.float32(self.temperature),
            np.float32(self.top_p),
            np.int32(self.top_k),
            np.float32(self.min_p),
            np.float32(self.repetition_penalty),
            np.bool_(self.greedy),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DrawNumbers:
    """The settings that `draw` reads, as scalars of a program; see `SamplingSettings`."""

    temperature: Float[Array, ""] | np.float32
    top_p: Float[Array, ""] | np.float32
    top_k: Int[Array, ""] | np.int32
    min_p: Float[Array, ""] | np.float32
    repetition_penalty: Float[Array, ""] | np.float32
    greedy: Bool[Array, ""] | np.bool_


def draw(
    logits: Float[Array, "B V"],
    seen: Bool[Array, "B V"],
    keys: Key[Array, " B"],
    numbers: DrawNumbers,
) -> Int32[Array, " B"]:
    """Returns a token of each row, by nothing but that row's logits, tokens and key.

    Args:
        logits: of the next token.
        seen: which tokens the row's prompt and answer hold.
        keys: one a row, for this token alone.
        numbers: the settings.
    """
    logits = logits.astype(jnp.float32)
    penalty = numbers.repetition_penalty

    def penalised(logits: Array) -> Array:
        lowered = jnp.where(logits > 0, logits / penalty, logits * penalty)
        return jnp.where(seen, lowered, logits)

    logits = jax.lax.cond(penalty != 1, penalised, lambda same: same, logits)

    def likeliest(logits: Array) -> Array:
        return jnp.argmax(logits, axis=-1)

    def drawn(logits: Array) -> Array:
        return jax.vmap(jax.random.categorical)(keys, kept_logits(logits, numbers))

    return jax.lax.cond(numbers.greedy, likeliest, drawn, logits).astype(jnp.int32)


def kept_logits(logits: Float[Array, "B V"], numbers: DrawNumbers) -> Float[Array, "B V"]:
    """Returns logits over the temperature, `-inf` where top-k, top-p or min-p leaves a token out.

    Instead of sorting the vocabulary, each limit is found by halving the range of a probability's
    31 bits: 30 sums over the row. Tokens of equal probability stay or go together.
    """
    logits = logits / numbers.temperature
    probability = jax.nn.softmax(logits, axis=-1)

    def by_count(p: Array) -> Array:
        wanted = numbers.top_k.astype(jnp.float32)
        return _cut(p, lambda stays: jnp.sum(stays, axis=-1, dtype=jnp.float32) >= wanted)

    def by_mass(p: Array) -> Array:
        wanted = numbers.top_p * jnp.sum(p, axis=-1)
        return _cut(p, lambda stays: jnp.sum(jnp.where(stays, p, 0.0), axis=-1) >= wanted)

    def same(p: Array) -> Array:
        return p

    some = (numbers.top_k > 0) & (numbers.top_k < logits.shape[-1])
    probability = jax.lax.cond(some, by_count, same, probability)
    probability = jax.lax.cond(numbers.top_p < 1, by_mass, same, probability)
    least = numbers.min_p * jnp.max(probability, axis=-1, keepdims=True)
    return jnp.where((probability > 0) & (probability >= least), logits, -jnp.inf)


def _cut(p: Float[Array, "B V"], enough: Callable[[Array], Array]) -> Float[Array, "B V"]:
    """Returns `p` with zeros below the highest limit at which what stays is still enough."""
    bits = jax.lax.bitcast_convert_type(p, jnp.int32)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # At `low` it is enough; at `high` it is not.
        middle = low + (high - low) // 2
        is_enough = enough(bits >= middle[:, None])
        return jnp.where(is_enough, middle, low), jnp.where(is_enough, high, middle)

    rows = p.shape[0]
    first = jnp.zeros(rows, jnp.int32), jnp.full(rows, _ONE_BITS + 1, jnp.int32)
    low, _ = jax.lax.fori_loop(0, 30, halve, first)
    return jnp.where(bits >= low[:, None], p, 0.0)
