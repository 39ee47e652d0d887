"""Low-rank adapters beside frozen projections (LoRA; Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from minirec.files.schema import require_whole
from minirec.models.layers import AddedParam, named_param
from minirec.models.products import project
from minirec.models.sid_decoder import SidDecoder

# By target: the module of a block that has the projection, and how many axes it reads.
_PROJECTIONS = {
    "query": ("attention", 1),
    "key": ("attention", 1),
    "value": ("attention", 1),
    "output": ("attention", 2),
    "gate": ("mlp", 1),
    "up": ("mlp", 1),
    "down": ("mlp", 1),
}
TARGETS = tuple(_PROJECTIONS)


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Which projections get adapters, and how large they are.

    Attributes:
        rank: inner width `r`.
        alpha: an adapter's output is scaled by `alpha / rank`.
        targets: projections, of `TARGETS`.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        require_whole("LoraConfig.rank", self.rank)
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"LoraConfig.alpha={self.alpha!r}: must be finite and above 0")
        unknown = [name for name in self.targets if name not in TARGETS]
        if unknown or not self.targets or len(set(self.targets)) != len(self.targets):
            raise ValueError(
                f"LoraConfig.targets={self.targets!r}: must name some of {', '.join(TARGETS)}, "
                "each once"
            )


class Adapter(nnx.Module):
    """Adds `scale · (x A) B` to a projection; all layers' are stacked, as the projections are.

    `A` starts as a normal draw of variance 1 / fan-in, `B` as zeros, so that the sum starts as the
    projection itself. Both are float32 whatever the projection is stored in.
    """

    def __init__(
        self, weight: nnx.Param, num_inner: int, rank: int, scale: float, *, rngs: nnx.Rngs
    ):
        layers, *axes = weight.shape
        inner, outer = axes[:num_inner], axes[num_inner:]
        names = tuple(weight.get_metadata()["out_sharding"])
        std = math.prod(inner) ** -0.5
        drawn = jax.random.normal(rngs.params(), (layers * math.prod(inner) * rank,), jnp.float32)
        self.num_inner, self.scale = num_inner, scale
        self.a = named_param(
            (drawn * std).reshape(layers, *inner, rank),
            (*names[: 1 + num_inner], "rank"),
            AddedParam,
        )
        self.b = named_param(
            jnp.zeros((layers, rank, *outer), jnp.float32),
            (names[0], "rank", *names[1 + num_inner :]),
            AddedParam,
        )

    def __call__(self, x: Float[Array, "*batch *inner"]) -> Float[Array, "*batch *outer"]:
        """Returns what one layer's adapter adds, in `x`'s dtype."""
        low = project(x, self.a[...].astype(x.dtype), self.num_inner)
        return project(low, self.b[...].astype(x.dtype)) * self.scale

    def delta(self) -> Float[Array, "layers ..."]:
        """Returns what all layers' adapters amount to as weights, float32."""
        product = jax.vmap(lambda a, b: jnp.tensordot(a, b, 1))
        return self.scale * product(self.a[...], self.b[...])


def add_adapters(model: SidDecoder, config: LoraConfig, *, seed: int) -> None:
    """Puts adapters beside the model's projections; `AddedParam` then tells what to train.

    Args:
        model: changed in place; at first its outputs stay what they were.
        config: which and how large.
        seed: of the adapters' first values.

    Raises:
        ValueError: the model has adapters already.
    """
    if any(True for _ in adapters(model)):
        raise ValueError("the model has adapters already; merge them first")
    rngs = nnx.Rngs(seed)
    for name in sorted(config.targets):
        part, num_inner = _PROJECTIONS[name]
        module = getattr(model.trunk.blocks, part)
        scale = config.alpha / config.rank
        module.adapters[name] = Adapter(
            getattr(module, name), num_inner, config.rank, scale, rngs=rngs
        )


def adapters(model: SidDecoder) -> Iterator[tuple[tuple[str, ...], Adapter]]:
    """Yields the path of each projection that has an adapter, with the adapter."""
    for part in ("attention", "mlp"):
        for name, adapter in getattr(model.trunk.blocks, part).adapters.items():
            yield ("trunk", "blocks", part, name), adapter
