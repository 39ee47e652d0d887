"""Two towers: a history's vector and every item's, so near each other as one leads to the other.

The user's tower is the trunk over the events; the item's is a small network over the hash
embeddings of its identities, so that an item that came after training has a vector too. Both have
length one, and the nearest items are found by one product (`minirec.recommend.index`). As the
retrieval model of xai-org/x-algorithm, whose users' vectors are means over a history; here the
trunk's last state stands for it, so that every place of a packed row is an example.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from minirec.files.schema import require_whole
from minirec.models.config import TrunkConfig
from minirec.models.hash_embedding import HashEmbedding, joined
from minirec.models.layers import RMSNorm, named_param, normal_param
from minirec.models.masks import CausalMask
from minirec.models.products import project
from minirec.models.ranker import NUM_AGES, Events, age_buckets
from minirec.models.sid_reader import places_in_example
from minirec.models.trunk import Trunk

_EPS = 1e-12  # of a vector's squared length


@dataclasses.dataclass(frozen=True)
class TwoTowerConfig:
    """Shape of two towers.

    Attributes:
        trunk: shape of the user's tower.
        num_actions: event types `A`.
        num_identities: identities `F` of an item.
        num_buckets: rows of the table that an identity has.
        num_hashes: rows of an id.
        hash_width: width of a row.
        width: of the vectors, `E`.
    """

    trunk: TrunkConfig
    num_actions: int
    num_identities: int
    num_buckets: int = 16_384
    num_hashes: int = 2
    hash_width: int = 32
    width: int = 64

    def __post_init__(self):
        for name in ("num_actions", "num_identities", "num_hashes", "hash_width", "width"):
            require_whole(f"TwoTowerConfig.{name}", getattr(self, name))
        require_whole("TwoTowerConfig.num_buckets", self.num_buckets, least=2)


class TwoTower(nnx.Module):
    """Vectors of histories and of items; their products times `scale` are logits.

    An item is its number; `identities [N, F, hashes]`, an argument beside it, has its rows.
    """

    def __init__(self, config: TwoTowerConfig, *, rngs: nnx.Rngs):
        self.config = config
        D, E, dtype = config.trunk.width, config.width, config.trunk.param_dtype
        self.tables = nnx.List(
            [
                HashEmbedding(config.num_buckets, config.hash_width, rngs=rngs, param_dtype=dtype)
                for _ in range(config.num_identities)
            ]
        )
        width = config.num_identities * config.num_hashes * config.hash_width
        self.up = normal_param(rngs, (width, 2 * D), ("embed", "mlp"), width**-0.5, dtype)
        self.down = normal_param(rngs, (2 * D, E), ("mlp", "embed"), (2 * D) ** -0.5, dtype)
        self.event = normal_param(rngs, (width, D), ("mlp", "embed"), width**-0.5, dtype)
        actions = (config.num_actions, D)
        self.action = normal_param(rngs, actions, ("vocab", "embed"), 0.1, dtype)
        self.gap = normal_param(rngs, (NUM_AGES, D), ("vocab", "embed"), 0.1, dtype)
        self.begin = normal_param(rngs, (D,), ("embed",), 0.1, dtype)
        self.input_norm = RMSNorm(D, "embed", eps=config.trunk.norm_eps, param_dtype=dtype)
        self.trunk = Trunk(config.trunk, rngs=rngs)
        self.out = normal_param(rngs, (D, E), ("embed", "mlp"), D**-0.5, dtype)
        self.log_scale = named_param(jnp.full((1,), jnp.log(10.0), dtype), ("vocab",))

    @property
    def scale(self) -> Float[Array, ""]:
        """What products of vectors are multiplied by, learnt; 100 at most."""
        return jnp.minimum(jnp.exp(self.log_scale[...].astype(jnp.float32)[0]), 100.0)

    def users(
        self,
        events: Events,
        identities: Int[Array, "N F hashes"],
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B P E"]:
        """Returns, at every place, the vector of the history before it, float32, of length one.

        Args:
            events: packed or padded histories.
            identities: rows of every item's identities.
            dropout_key: the source of dropout's bits; `None` turns dropout off.
        """
        dtype = self.config.trunk.dtype
        token = project(self._joined(events.item, identities), self.event[...].astype(dtype))
        token += self.action[...][events.action] + self.gap[...][age_buckets(events.gap)]
        positions = places_in_example(events.segment)
        token = jnp.where((positions == 0)[..., None], self.begin[...], jnp.roll(token, 1, axis=1))
        state = self.trunk(
            self.input_norm(token.astype(dtype)),
            positions,
            CausalMask(),
            segment_ids=events.segment,
            dropout_key=dropout_key,
        )
        return _unit(project(state, self.out[...].astype(dtype)))

    def items(
        self, item: Int[Array, "*shape"], identities: Int[Array, "N F hashes"]
    ) -> Float[Array, "*shape E"]:
        """Returns the vectors of items, float32, of length one.

        Args:
            item: item ids.
            identities: rows of every item's identities.
        """
        dtype = self.config.trunk.dtype
        inner = jax.nn.silu(project(self._joined(item, identities), self.up[...].astype(dtype)))
        return _unit(project(inner, self.down[...].astype(dtype)))

    def _joined(self, item: Int[Array, "*shape"], identities: Array) -> Float[Array, "*shape W"]:
        return joined(self.tables, identities, item).astype(self.config.trunk.dtype)


def _unit(vector: Float[Array, "*shape E"]) -> Float[Array, "*shape E"]:
    vector = vector.astype(jnp.float32)
    return vector * jax.lax.rsqrt(jnp.sum(vector * vector, axis=-1, keepdims=True) + _EPS)
