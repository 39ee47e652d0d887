"""The item decoder: one trunk position an item, then a small decoder that writes the next SID.

What an item is, its SID's tokens and its own row say together, so that the trunk reads a history of
`n` items in `n` positions where a decoder of tokens takes `n · L`. At every position a gated
feed-forward decoder writes the SID of the next item level by level, from the trunk's state and the
levels written so far; the item table, read the other way round, scores all items at once.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from minirec.models.config import ItemDecoderConfig
from minirec.models.layers import RMSNorm, dropout, named_param, normal_param, rms_norm
from minirec.models.masks import CausalMask
from minirec.models.products import project, unembed
from minirec.models.sharding import gathered
from minirec.models.trunk import Trunk
from minirec.sids.vocab import SidVocab


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WrittenLevels:
    """What each beam has written so far: all that the SID decoder needs of it.

    Attributes:
        total: `[B, M, D]`, the sum of the written tokens' embeddings.
    """

    total: Float[Array, "B M D"]

    @property
    def num_beams(self) -> int:
        """`M`, how many beams a user it has room for."""
        return self.total.shape[1]

    def reorder(self, parent: Int[Array, "B M"], used: int | None = None) -> WrittenLevels:
        """Returns the state whose beam `m` continues the present beam `parent[:, m]`."""
        del used  # It holds a sum, however many levels are written.
        return WrittenLevels(jnp.take_along_axis(self.total, parent[:, :, None], axis=1))


def prompt_tokens(
    item_tokens: Int[np.ndarray, "N L"], vocab_size: int
) -> Int[np.ndarray, "N L_and_1"]:
    """Returns the tokens that an `ItemDecoder` reads for each item: its SID's, then its own."""
    own = vocab_size + np.arange(len(item_tokens), dtype=np.int32)
    return np.concatenate([item_tokens, own[:, None]], axis=1).astype(np.int32)


class ItemDecoder(nnx.Module):
    """A model of item histories that writes SIDs and scores items.

    An item comes as `L + 1` tokens: those of its SID, then its own, which is `vocab_size` plus its
    number (`prompt_tokens` makes them). An item whose number has no row in the item table, one
    added after training, is known by its SID alone.

    Training calls the model, `written`, `level_logits` and `item_logits`; search calls `prefill`,
    `init_suffix`, `decode_step` and `logits`, as it does with a `SidDecoder`.
    """

    def __init__(self, config: ItemDecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        V, N, L, F = config.vocab_size, config.num_items, config.num_levels, config.level_width
        D, dtype = config.trunk.width, config.trunk.param_dtype
        self.embedding = normal_param(rngs, (V, D), ("vocab", "embed"), 0.02, dtype)
        self.head = nnx.data(None)
        if not config.tie_embeddings:
            self.head = normal_param(rngs, (V, D), ("vocab", "embed"), 0.02, dtype)
        self.items = normal_param(rngs, (N, D), ("vocab", "embed"), 0.02, dtype)
        self.input_norm = RMSNorm(D, "embed", eps=config.trunk.norm_eps, param_dtype=dtype)
        self.trunk = Trunk(config.trunk, rngs=rngs)
        matrix = functools.partial(normal_param, rngs, dtype=dtype)
        names = ("levels", "embed", "mlp")
        self.level_gate = matrix((L, 2 * D, F), names, (2 * D) ** -0.5)
        self.level_up = matrix((L, 2 * D, F), names, (2 * D) ** -0.5)
        self.level_down = matrix((L, F, D), ("levels", "mlp", "embed"), 0.3 * F**-0.5)
        self.level_norm = named_param(jnp.ones((L, D), dtype), ("levels", "embed"))

    @property
    def item_width(self) -> int:
        """Tokens of an item in a prompt, `L + 1`."""
        return self.config.num_levels + 1

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B P D"]:
        """Returns the state after every item, which speaks of the item behind it.

        Place `p` of a row stands for its tokens from `p · (L + 1)` on: the first of them is BOS, or
        the last token of the item before, and what place `p` sees ends with that item.

        Args:
            tokens: packed or padded rows, in which each example is BOS and its items' tokens.
            positions: place of each token in its own example, from 0.
            segment_ids: example of each token, from 1; 0 is padding.
            dropout_key: the source of dropout's bits; `None` turns dropout off.
        """
        width = self.item_width
        B, T = tokens.shape
        P = T // width
        end = P * width
        # The token behind place p's first is the first of the item that p is to predict.
        rows = jnp.pad(tokens[:, 1:end], ((0, 0), (0, 1))).reshape(B, P, width)
        before = jnp.roll(self._embed_items(rows), 1, axis=1)
        positions = positions[:, :end:width] // width
        embeddings = jnp.where((positions == 0)[..., None], self._begin(), before)
        return self.trunk(
            embeddings,
            positions,
            CausalMask(),
            segment_ids=segment_ids[:, :end:width],
            dropout_key=dropout_key,
        )

    def written(
        self,
        state: Float[Array, "*batch D"],
        total: Float[Array, "*batch D"] | None,
        level: int,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "*batch D"]:
        """Returns the hidden state whose products with the head's rows are a level's logits.

        Args:
            state: the trunk's state after the history.
            total: the sum of the embeddings of the levels before; `None` where there is none.
            level: static, in `[0, L)`.
            dropout_key: the source of dropout's bits; `None` turns dropout off.
        """
        dtype, D = state.dtype, state.shape[-1]
        weights = [
            gathered(weight[...])[level].astype(dtype)
            for weight in (self.level_gate, self.level_up, self.level_down)
        ]
        if total is None:
            x, (gate, up, down) = state, (weights[0][:D], weights[1][:D], weights[2])
        else:
            x, (gate, up, down) = jnp.concatenate([state, total.astype(dtype)], axis=-1), weights
        inner = jax.nn.silu(project(x, gate)) * project(x, up)
        hidden = state + dropout(project(inner, down), self.config.trunk.dropout, dropout_key)
        return rms_norm(hidden, self.level_norm[...][level], self.config.trunk.norm_eps)

    def embed(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Returns the embeddings of SID tokens, in the compute dtype."""
        rows = gathered(self.embedding[...])
        return jnp.take(rows, tokens, axis=0, mode="clip").astype(self.config.trunk.dtype)

    def head_rows(self) -> Float[Array, "V D"]:
        """Returns the head's matrix, one row a SID token, in the parameters' dtype."""
        head = self.embedding if self.head is None else self.head
        return gathered(head[...])

    def logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Returns float32 logits over the SID tokens, of what `written` or a step returned."""
        return unembed(hidden, self.head_rows().astype(hidden.dtype))

    def item_rows(self) -> Float[Array, "N D"]:
        """Returns the item table, in the parameters' dtype."""
        return gathered(self.items[...])

    def item_logits(self, state: Float[Array, "*batch D"]) -> Float[Array, "*batch N"]:
        """Returns float32 logits over all items, of the trunk's states."""
        return unembed(state, self.item_rows().astype(state.dtype))

    def read(self, tokens: Int[Array, "B S"], lengths: Int[Array, " B"]) -> Float[Array, "B D"]:
        """Returns the trunk's state after each prompt.

        Args:
            tokens: BOS and the items' tokens; what stands behind a row's length is never seen.
            lengths: valid tokens of each prompt, at least 1.
        """
        width = self.item_width
        B, S = tokens.shape
        shown = (S - 1) // width
        rows = tokens[:, 1 : 1 + shown * width].reshape(B, shown, width)
        begin = jnp.broadcast_to(self._begin(), (B, 1, self.config.trunk.width))
        embeddings = jnp.concatenate([begin, self._embed_items(rows)], axis=1)
        hidden, _ = self.trunk.prefill(embeddings, 1 + (lengths - 1) // width, CausalMask())
        return hidden

    def prefill(
        self, tokens: Int[Array, "B S"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
        """Reads right-padded prompts once.

        Returns:
            The hidden state that the first level's logits are made of, and the trunk's state.
        """
        state = self.read(tokens, lengths)
        return self.written(state, None, 0), state

    def init_suffix(self, batch: int, num_beams: int, capacity: int) -> WrittenLevels:
        """Returns beams that have written nothing; any number of levels has room."""
        del capacity
        shape = (batch, num_beams, self.config.trunk.width)
        return WrittenLevels(jnp.zeros(shape, self.config.trunk.dtype))

    def decode_step(
        self,
        tokens: Int[Array, "B M"],
        step: int,
        lengths: Int[Array, " B"],
        prefix: Float[Array, "B D"],
        suffix: WrittenLevels,
    ) -> tuple[Float[Array, "B M D"], WrittenLevels]:
        """Returns the hidden states of the next level's logits, and the suffix with one more level.

        Args:
            tokens: each beam's newest token, of level `step`.
            step: levels written before it; a Python int.
            lengths: not read: the trunk's state stands for the whole prompt.
            prefix: the trunk's states, as `prefill` returned them.
            suffix: what the beams have written.

        Raises:
            ValueError: a SID has no level behind `step`.
        """
        del lengths
        if not 0 <= step < self.config.num_levels - 1:
            raise ValueError(
                f"step={step}: a SID has {self.config.num_levels} levels, so that it must lie in "
                f"[0, {self.config.num_levels - 1})"
            )
        total = suffix.total + self.embed(tokens)
        state = jnp.broadcast_to(prefix[:, None], total.shape)
        return self.written(state, total, step + 1), WrittenLevels(total)

    def _begin(self) -> Float[Array, " D"]:
        """Returns what stands before the first item, as it enters the trunk."""
        return self.input_norm(self.embed(jnp.int32(SidVocab.BOS)))

    def _embed_items(self, rows: Int[Array, "B P L_and_1"]) -> Float[Array, "B P D"]:
        """Returns what of each item enters the trunk."""
        summed = self.embed(rows[..., :-1]).sum(axis=-2)
        number = rows[..., -1] - self.config.vocab_size
        known = (number >= 0) & (number < self.config.num_items)
        own = jnp.take(gathered(self.items[...]), number, axis=0, mode="clip")
        own = jnp.where(known[..., None], own, 0.0).astype(summed.dtype)
        return self.input_norm(summed + own)
