"""What an item's own text says of it, as a model reads it: a few weighted terms an item.

Every term has a row that is learnt, and an item's terms add their rows to the item's own. So what
is learnt of one item is learnt of all that share its words, as in content-aware tables of
recommenders (LightFM; Kula, 2015), and an item that nobody has taken yet has a row, too.
"""

from __future__ import annotations

import dataclasses
from typing import Self, cast

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float, Float32, Int, Int32

TERMS_PER_ITEM = 24
MAX_TERMS = 65_536  # Rows that are learnt by every step: 32 MiB of float32 at a width of 128.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ItemTerms:
    """Every item's terms; a pytree.

    Attributes:
        term: int32 `[N, W]`, the rows of an item's terms, ascending; unused places are 0.
        weight: float32 `[N, W]`, how much of each an item has, of length one in all, or all 0
            where nothing is known of an item; unused places are 0.
        num_terms: `T`, rows that there are.
    """

    term: Int32[Array | np.ndarray, "N W"]
    weight: Float32[Array | np.ndarray, "N W"]
    num_terms: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(
        cls,
        rows: scipy.sparse.csr_array,
        *,
        num_items: int | None = None,
        per_item: int = TERMS_PER_ITEM,
        max_terms: int = MAX_TERMS,
    ) -> Self | None:
        """Returns the heaviest terms of every item, or `None` where no item has any.

        Of the terms those count that most items have, of as many the ones of lower columns; of an
        item's the heaviest, of as heavy the ones of lower columns.

        Args:
            rows: `[M, columns]`, an item's weight of each term, 0 or more, such as
                `minirec.recommend.content.content_rows` makes.
            num_items: the terms are those of the first `num_items` rows, whatever the rows behind
                them have; `None`: of all.
            per_item: terms that an item keeps at most, `W`.
            max_terms: terms in all at most.

        Raises:
            ValueError: `per_item` or `max_terms` is below 1.
        """
        for name, value in (("per_item", per_item), ("max_terms", max_terms)):
            if value < 1:
                raise ValueError(f"ItemTerms.of: {name}={value!r}: must be at least 1")
        num_rows, num_columns = cast(tuple[int, int], rows.shape)
        first = num_rows if num_items is None else num_items
        known = scipy.sparse.csr_array(rows[:first])
        items_with = np.bincount(known.indices[known.data > 0], minlength=num_columns)
        most = np.argsort(-items_with, kind="stable")[:max_terms]
        kept = np.zeros(num_columns, bool)
        kept[most[items_with[most] > 0]] = True
        item, column, weight = _heaviest(known, kept, per_item)
        if not len(item):
            return None
        kept = np.zeros_like(kept)
        kept[column] = True
        if first < num_rows:
            later = _heaviest(scipy.sparse.csr_array(rows[first:]), kept, per_item)
            item = np.concatenate([item, later[0] + first])
            column = np.concatenate([column, later[1]])
            weight = np.concatenate([weight, later[2]])
        number = np.bincount(item, minlength=num_rows)
        place = np.arange(len(item)) - np.repeat(np.cumsum(number) - number, number)
        length = np.sqrt(np.bincount(item, weight.astype(np.float64) ** 2, num_rows))
        shape = (num_rows, int(number.max()))
        terms, weights = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        terms[item, place] = (np.cumsum(kept) - 1)[column]
        weights[item, place] = weight / length[item]
        return cls(terms, weights, int(kept.sum()))

    @property
    def num_items(self) -> int:
        """`N`, items whose terms are known, those that came after training included."""
        return len(self.term)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class WholeRows:
    """The rows of all items with their terms' added, made once to be read often; a pytree.

    Attributes:
        rows: `[N, D]`, of the items that `ItemTerms` has.
    """

    rows: Float[Array, "N D"]

    @property
    def num_items(self) -> int:
        """`N`, items that have a row here."""
        return self.rows.shape[0]


def summed_terms(
    rows: Float[Array, "T D"],
    terms: ItemTerms,
    item: Int[Array, "*batch"] | None = None,
) -> Float[Array, "*batch D"]:
    """Returns the weighted sums of items' terms, in the dtype of `rows`.

    Args:
        rows: one a term.
        terms: every item's.
        item: numbers of items, a sum of 0 for those that have no terms; `None`: all items.
    """
    term, weight = jnp.asarray(terms.term), jnp.asarray(terms.weight)
    if item is not None:
        known = (item >= 0) & (item < terms.num_items)
        term = jnp.take(term, item, axis=0, mode="clip")
        weight = jnp.where(known[..., None], jnp.take(weight, item, axis=0, mode="clip"), 0.0)

    # A term of every item at a time: [N, W, D] would be 12 GB for a million items.
    def add(total: Array, place: tuple[Array, Array]) -> tuple[Array, None]:
        index, share = place
        taken = jnp.take(rows, index, axis=0, mode="clip")
        return total + share[..., None] * taken, None

    start = jnp.zeros((*term.shape[:-1], rows.shape[1]), jnp.float32)
    places = (jnp.moveaxis(term, -1, 0), jnp.moveaxis(weight, -1, 0))
    return jax.lax.scan(add, start, places)[0].astype(rows.dtype)


def _heaviest(
    rows: scipy.sparse.csr_array, kept: np.ndarray, number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (row, column, weight) of each row's heaviest entries in columns that are kept.

    They stand by row, then by column.
    """
    row = np.repeat(np.arange(len(rows.indptr) - 1), np.diff(rows.indptr))
    wanted = kept[rows.indices] & (rows.data > 0)
    row, column, weight = row[wanted], rows.indices[wanted], rows.data[wanted]
    order = np.lexsort((column, -weight, row))
    count = np.bincount(row, minlength=len(rows.indptr) - 1)
    place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    chosen = order[place < number]
    chosen = chosen[np.lexsort((column[chosen], row[chosen]))]
    return row[chosen], column[chosen], weight[chosen]
