"""The matrix products that a training step cannot leave out.

Counted are the products of the model as it is defined, for what a step asks for and nothing else:

- the trunk at places that are no padding. In the last layer a place without a target gives keys
  and values alone: context of a long history's later windows, and without `loader.first_items` an
  example's first item;
- attention over what a place really sees, `p + 1` places for place `p` of its example;
- heads and level decoder at places with a target alone: all rows of the head of tokens, a level's
  codes of the level decoder's, all items or the drawn ones of the item table.

A product's gradients are two products of as many operations, `d_out W^T` and `x^T d_out`. Every
input and every weight has a gradient here, so that a step is three times the forward products.

The rates are those of plain products of a row-major `[rows, depth]` with `[depth, width]`:

- forward, by the weight's depth and width;
- the input's gradient by width and depth, as the product with a weight of the turned shape;
- the weight's gradient, `[depth, rows]` with `[rows, width]`, at the forward product's rate: it
  has the same two short axes and one long one;
- attention, forward and backward, at the best rate of all.

Softmax, losses, norms, activations, dropout, rotary positions, look-ups, the clipping and AdamW
count nothing, nor does what `remat` computes twice. It is not taken off that a product over one
token's embedding, such as the second level's of the level decoder, could be looked up by token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from launch.bench.evaluate_floor import ATTENTION, Products, operations
from minirec.models import ItemDecoderConfig, SidDecoderConfig, TrunkConfig

_Shapes = list[tuple[tuple[int, int], float]]
"""Weights' shapes, each with the rows that are multiplied with it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """The places of a batch that a step needs, each as the number of places that it sees.

    Attributes:
        read: all that are no padding.
        asked: those with a target.
    """

    read: Int[np.ndarray, " n"]
    asked: Int[np.ndarray, " m"]

    @classmethod
    def of_items(cls, inputs: Mapping[str, np.ndarray]) -> Places:
        """Returns those of a model with a position an item, of what a task's `inputs` returns."""
        return cls.of_tokens(inputs, 1)

    @classmethod
    def of_tokens(cls, inputs: Mapping[str, np.ndarray], num_levels: int) -> Places:
        """Returns those of a model with `num_levels` positions an item."""
        segment = inputs["segment"]
        place = np.arange(segment.shape[1])
        begins = np.diff(segment, axis=1, prepend=0) != 0
        begin = np.maximum.accumulate(np.where(begins, place, 0), axis=1)
        seen = (place - begin)[..., None] * num_levels + 1 + np.arange(num_levels)
        return cls(seen[segment > 0].reshape(-1), seen[inputs["target_weight"] > 0].reshape(-1))


def token_products(config: SidDecoderConfig, places: Places) -> Products:
    """Returns the operations of a step of a `SidDecoder`."""
    shapes, attention = _trunk(config.trunk, places)
    shapes.append(((config.trunk.width, config.vocab_size), len(places.asked)))
    return _with_gradients(shapes, attention)


def item_products(
    config: ItemDecoderConfig, places: Places, num_codes: Sequence[int], num_scored: int
) -> Products:
    """Returns the operations of a step of an `ItemDecoder`.

    Args:
        config: of the model.
        places: what the batch asks for.
        num_codes: codes of each level; empty where SIDs are not learned.
        num_scored: items that the item's loss is normalised over; 0 where it is not learned.
    """
    shapes, attention = _trunk(config.trunk, places)
    asked, width, inner = len(places.asked), config.trunk.width, config.level_width
    for level, codes in enumerate(num_codes):
        entering = 2 * width if level else width  # Nothing is written before the first.
        shapes += [((entering, inner), 2 * asked), ((inner, width), asked), ((width, codes), asked)]
    if num_scored:
        shapes.append(((width, num_scored), asked))
    return _with_gradients(shapes, attention)


def mean_products(batches: Iterable[Products]) -> Products:
    """Returns the operations of a step, on average over some batches."""
    products = list(batches)
    shapes = {shape for one in products for shape in one}
    return {
        shape: sum(one.get(shape, 0.0) for one in products) / len(products)
        for shape in sorted(shapes)
    }


def _trunk(trunk: TrunkConfig, places: Places) -> tuple[_Shapes, float]:
    """Returns the trunk's forward products, and the operations of attention."""
    heads, kv_heads = (n * trunk.head_dim for n in (trunk.num_heads, trunk.num_kv_heads))
    below, read, asked = trunk.num_layers - 1, len(places.read), len(places.asked)
    whole = below * read + asked
    pairs = below * float(places.read.sum()) + float(places.asked.sum())
    shapes: _Shapes = [
        ((trunk.width, heads), whole),
        ((trunk.width, kv_heads), 2 * trunk.num_layers * read),
        ((heads, trunk.width), whole),
        ((trunk.width, trunk.mlp_width), 2 * whole),
        ((trunk.mlp_width, trunk.width), whole),
    ]
    return shapes, 2 * 2.0 * heads * pairs  # scores, then values


def _with_gradients(shapes: _Shapes, attention: float) -> Products:
    turned = [((width, depth), rows) for (depth, width), rows in shapes]
    return {ATTENTION: 3 * attention} | operations([*shapes, *shapes, *turned])
