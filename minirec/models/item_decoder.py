"""The item decoder: one trunk position an item, then a small decoder that writes the next SID.

What an item is, its SID's tokens and its row say together, so that the trunk reads a history of `n`
items in `n` positions where a decoder of tokens takes `n · L`. An item's row is its own and, where
its text is known, the weighted sum of its terms' rows (`minirec.models.item_terms`). At every
position a gated feed-forward decoder writes the SID of the next item level by level, from the
trunk's state and the levels written so far; the item table, read the other way round, scores all
items at once.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from minirec.models.config import ItemDecoderConfig
from minirec.models.item_terms import ItemTerms, WholeRows, summed_terms
from minirec.models.layers import RMSNorm, dropout, named_param, normal_param, rms_norm
from minirec.models.masks import CausalMask
from minirec.models.products import project, unembed
from minirec.models.sharding import gathered
from minirec.models.sid_reader import places_in_example
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


class ItemDecoder(nnx.Module):
    """A model of item histories that writes SIDs and scores items.

    An item is its number; `item_tokens [N, L]`, an argument beside it, has the tokens of its SID.
    So has `terms` the items' terms, where the config has any: `ItemTerms`, or the `WholeRows` that
    were made of them. An item whose number has no row in the item table, one added after training,
    is known by its SID and its terms alone.

    Training calls the model, `written`, `logits` and `item_logits`; search goes through an
    `ItemReader`, which holds `item_tokens`.
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
        # Of a step that holds some of the table's rows alone (`minirec.training.touched_rows`).
        self.items_touched = nnx.data(None)
        self.terms = nnx.data(None)
        self.input_norm = RMSNorm(D, "embed", eps=config.trunk.norm_eps, param_dtype=dtype)
        self.trunk = Trunk(config.trunk, rngs=rngs)
        matrix = functools.partial(normal_param, rngs, dtype=dtype)
        names = ("levels", "embed", "mlp")
        self.level_gate = matrix((L, 2 * D, F), names, (2 * D) ** -0.5)
        self.level_up = matrix((L, 2 * D, F), names, (2 * D) ** -0.5)
        self.level_down = matrix((L, F, D), ("levels", "mlp", "embed"), 0.3 * F**-0.5)
        self.level_norm = named_param(jnp.ones((L, D), dtype), ("levels", "embed"))
        if config.num_terms:  # Drawn last, so that all else is drawn as without it.
            shape = (config.num_terms, D)
            self.terms = normal_param(rngs, shape, ("vocab", "embed"), 0.05, dtype)

    def __call__(
        self,
        item: Int[Array, "B P"],
        segment: Int[Array, "B P"],
        item_tokens: Int[Array, "N L"],
        dropout_key: Key[Array, ""] | None = None,
        terms: ItemTerms | WholeRows | None = None,
    ) -> Float[Array, "B P D"]:
        """Returns the state that each item is to be told from: it has seen those before it.

        Args:
            item: packed or padded rows; any number where `segment` is 0.
            segment: example of each item, from 1; 0 is padding.
            item_tokens: the tokens of every item's SID.
            dropout_key: the source of dropout's bits; `None` turns dropout off.
            terms: every item's terms; `None` where the config has none.

        Raises:
            ValueError: terms are missing, or there are some that the model has no rows for.
        """
        before = jnp.roll(self._embed_items(item, item_tokens, terms), 1, axis=1)
        positions = places_in_example(segment)
        embeddings = jnp.where((positions == 0)[..., None], self._begin(), before)
        return self.trunk(
            embeddings, positions, CausalMask(), segment_ids=segment, dropout_key=dropout_key
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

    def whole_rows(self, terms: ItemTerms | None) -> WholeRows | None:
        """Returns all items' rows with their terms', to be given in the terms' place.

        Args:
            terms: every item's terms, those of items behind the item table included; `None`
                returns `None`.

        Raises:
            ValueError: as a call.
        """
        self._check_terms(terms)
        if terms is None:
            return None
        assert self.terms is not None
        return _whole_rows(gathered(self.items[...]), gathered(self.terms[...]), terms)

    def item_rows(
        self,
        item: Int[Array, "*batch"] | None = None,
        terms: ItemTerms | WholeRows | None = None,
    ) -> Float[Array, "*rows D"]:
        """Returns the item table with the items' terms, or rows of it, in the parameters' dtype.

        Args:
            item: numbers of items; `None`: all that the item table has.
            terms: as for a call.

        Raises:
            ValueError: as a call.
        """
        self._check_terms(terms)
        N = self.config.num_items
        if isinstance(terms, ItemTerms) and item is None:
            terms = self.whole_rows(terms)
        if isinstance(terms, WholeRows):
            rows = gathered(terms.rows)
            return rows[:N] if item is None else jnp.take(rows, item, axis=0, mode="clip")
        rows = gathered(self.items[...])
        if item is None:
            return rows
        place = item
        if self.items_touched is not None:
            place = jnp.searchsorted(self.items_touched[...], item)
        own = jnp.take(rows, place, axis=0, mode="clip")
        if terms is None:
            return own
        assert self.terms is not None
        own = jnp.where(((item >= 0) & (item < N))[..., None], own, 0.0)
        return own + summed_terms(gathered(self.terms[...]), terms, item)

    def item_logits(
        self,
        state: Float[Array, "*batch D"],
        terms: ItemTerms | WholeRows | None = None,
    ) -> Float[Array, "*batch N"]:
        """Returns float32 logits over all items, of the trunk's states; `terms` as for a call."""
        return unembed(state, self.item_rows(terms=terms).astype(state.dtype))

    def read(
        self,
        item: Int[Array, "B P"],
        lengths: Int[Array, " B"],
        item_tokens: Int[Array, "N L"],
        terms: ItemTerms | WholeRows | None = None,
    ) -> Float[Array, "B D"]:
        """Returns the trunk's state after each history.

        Args:
            item: histories, oldest item first; what stands behind a row's length is never seen.
            lengths: items of each history, 0 or more.
            item_tokens: the tokens of every item's SID.
            terms: as for a call.
        """
        begin = jnp.broadcast_to(self._begin(), (len(item), 1, self.config.trunk.width))
        embeddings = jnp.concatenate([begin, self._embed_items(item, item_tokens, terms)], axis=1)
        hidden, _ = self.trunk.prefill(embeddings, 1 + lengths, CausalMask())
        return hidden

    def prefill(
        self,
        item: Int[Array, "B P"],
        lengths: Int[Array, " B"],
        item_tokens: Int[Array, "N L"],
        terms: ItemTerms | WholeRows | None = None,
    ) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
        """Reads right-padded histories once; arguments as `read`.

        Returns:
            The hidden state that the first level's logits are made of, and the trunk's state.
        """
        state = self.read(item, lengths, item_tokens, terms)
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

    def _check_terms(self, terms: ItemTerms | WholeRows | None) -> None:
        if (terms is None) != (self.terms is None):
            given = "none" if terms is None else f"those of {terms.num_items} items"
            raise ValueError(
                f"terms: {given} were given, but ItemDecoderConfig.num_terms is "
                f"{self.config.num_terms}"
            )
        if terms is not None and terms.num_items < self.config.num_items:
            raise ValueError(
                f"terms: those of {terms.num_items} items were given, but "
                f"ItemDecoderConfig.num_items is {self.config.num_items}"
            )
        if isinstance(terms, ItemTerms) and terms.num_terms != self.config.num_terms:
            raise ValueError(
                f"terms: num_terms is {terms.num_terms}, but ItemDecoderConfig.num_terms is "
                f"{self.config.num_terms}"
            )

    def _embed_items(
        self,
        item: Int[Array, "B P"],
        item_tokens: Int[Array, "N L"],
        terms: ItemTerms | WholeRows | None,
    ) -> Float[Array, "B P D"]:
        """Returns what of each item enters the trunk."""
        tokens = jnp.take(item_tokens, item, axis=0, mode="clip")
        summed = self.embed(tokens).sum(axis=-2)
        num_rows = self.config.num_items if terms is None else terms.num_items
        known = (item >= 0) & (item < num_rows)
        rows = self.item_rows(item, terms)
        own = jnp.where(known[..., None], rows, 0.0).astype(summed.dtype)
        return self.input_norm(summed + own)


@jax.jit
def _whole_rows(own: Float[Array, "N D"], rows: Float[Array, "T D"], terms: ItemTerms) -> WholeRows:
    summed = summed_terms(rows, terms)
    return WholeRows(summed.at[: len(own)].add(own.astype(summed.dtype)))
