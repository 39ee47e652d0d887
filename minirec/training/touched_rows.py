"""Steps whose cost follows the rows of a table that they touch, and not the table.

A step over a large catalogue reads a few thousand rows of the item table, and AdamW would decay,
average and move all of them. Here a step takes out the rows that it reads, with their moments,
learns on these as if they were the whole table, and puts them back: the lazy Adam of sparse
gradients, where a row that no step reads stays as it is, decay and momentum included. The gradient
is never as large as the table.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int


class TouchedRows(nnx.Variable):
    """Which rows of its table a model holds: ids, ascending; past the table's end, none."""


class Narrowed:
    """The rows of tables that a step touches, taken out of a model and of its optimizer.

    Both are changed in place: each table of the model, and what of the optimizer's state bears its
    name and is as long, has the touched rows alone until `widen` puts them back.
    """

    def __init__(
        self,
        model: nnx.Module,
        optimizer: nnx.Optimizer,
        touched: Mapping[str, Int[Array, " R"]],
    ):
        """Takes the rows out.

        Args:
            model: has a parameter of each name, and attributes `NAME_touched`.
            optimizer: over that parameter.
            touched: by the parameter's name, the rows' ids, ascending, none twice, those that
                fill it up past the table's end.
        """
        self._model, self._optimizer, self._touched = model, optimizer, touched
        self._whole: list[tuple[nnx.Variable, Array, Int[Array, " R"]]] = []
        for name, ids in touched.items():
            length = getattr(model, name).shape[0]
            of_both = [*_variables(model), *_variables(optimizer)]
            for path, variable in of_both:
                value = variable.get_value()
                if name in path and value.ndim and value.shape[0] == length:
                    self._whole.append((variable, value, ids))
                    variable.set_value(jnp.take(value, ids, axis=0, mode="clip"))
            setattr(model, f"{name}_touched", TouchedRows(ids))

    def widen(self) -> None:
        """Puts the rows back where they came from."""
        for variable, whole, ids in self._whole:
            rows = variable.get_value()
            variable.set_value(
                whole.at[ids].set(rows, mode="drop", indices_are_sorted=True, unique_indices=True)
            )
        for name in self._touched:
            setattr(self._model, f"{name}_touched", None)


def touched_ids(ids: Int[Array, "*shape"], num_rows: int) -> Int[Array, " R"]:
    """Returns ids of rows as `Narrowed` takes them: as many as were given, each once, ascending.

    Args:
        ids: of rows, in any order; those outside `[0, num_rows)` are of none.
        num_rows: length of the table.
    """
    ids = ids.reshape(-1)
    ids = jnp.where((ids < 0) | (ids > num_rows), num_rows, ids)
    ids = jnp.unique(ids, size=ids.size, fill_value=num_rows)
    # What stands past the end is no row's, but each once, too.
    return jnp.where(ids < num_rows, ids, num_rows + jnp.arange(ids.size, dtype=ids.dtype))


def _variables(module: nnx.Module | nnx.Optimizer) -> list[tuple[tuple[object, ...], nnx.Variable]]:
    return [(path, node) for path, node in nnx.iter_graph(module) if isinstance(node, nnx.Variable)]
