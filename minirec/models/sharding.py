"""Where arrays lie on a mesh: parameters are split over `fsdp`, batches over all of it.

A mesh has two axes. Each device of it reads its own rows of a batch; devices along `fsdp` share one
copy of the parameters and of the optimizer's state, each of which is split by the table below
(fully sharded data parallelism; ZeRO, Rajbhandari et al., 2020), and devices along `data` hold
copies. A parameter comes together where it is used, a layer at a time.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")

# The axis, by its logical name, on which a matrix is split over `fsdp`: the first of these that it
# has and whose length `fsdp` divides. The optimizer's moments bear the names of their parameter.
SPLIT = ("embed", "mlp", "heads", "kv_heads", "vocab")


def make_mesh(data: int, fsdp: int) -> Mesh | None:
    """Returns the mesh of all devices of all processes; None for one device of one process.

    Args:
        data: devices along `data`; -1 takes what `fsdp` leaves.
        fsdp: devices along `fsdp`; -1 takes what `data` leaves.

    Raises:
        ValueError: a size below 1 (or two of -1), or sizes whose product is not the number of
            devices.
    """
    given = f"data={data}, fsdp={fsdp}"
    if min(data, fsdp) < -1 or 0 in (data, fsdp) or data == fsdp == -1:
        raise ValueError(f"{given}: each must be at least 1, or one of them -1 for the rest")
    devices, processes = jax.device_count(), jax.process_count()
    if (data, fsdp) == (1, 1) and processes == 1:
        return None
    rest = max(devices // max(data, fsdp), 1)
    sizes = tuple(rest if size == -1 else size for size in (data, fsdp))
    if sizes[0] * sizes[1] != devices:
        of = f" of {processes} processes" if processes > 1 else ""
        raise ValueError(
            f"{given}: must give the number of devices, {devices}{of}; "
            "data=-1 takes as many as there are"
        )
    if sizes == (1, 1):
        return None
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns where the rows of a batch lie: an equal share on each device."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns where an array lies that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def sharding_of(variable: nnx.Variable, mesh: Mesh) -> NamedSharding:
    """Returns where a variable of a model or of its optimizer lies, by the table `SPLIT`.

    Split are matrices from or to the model's width. Every device holds whole what is small (norms,
    biases), and what has no axis names or none that `fsdp` divides.
    """
    names = variable.get_metadata().get("out_sharding") or ()
    if "embed" in names and len(set(names) - {"layers"}) >= 2:
        for split in SPLIT:
            if split in names:
                axis = names.index(split)
                if variable.get_value().shape[axis] % mesh.shape["fsdp"] == 0:
                    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))
    return replicated(mesh)


def place(module: nnx.Module | nnx.Optimizer, mesh: Mesh | None) -> None:
    """Lays a module's variables out on a mesh, those of an abstract module too.

    Args:
        module: changed in place; all processes hold the same values.
        mesh: None leaves the module as it is.
    """
    if mesh is None:
        return
    placed = []
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        value, sharding = variable.get_value(), sharding_of(variable, mesh)
        if isinstance(value, jax.ShapeDtypeStruct):
            value = jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)
        else:
            value = put(value, sharding)
        placed.append((path, variable.replace(value)))
    nnx.update(module, nnx.from_flat_state(placed))


def replicate[Tree](tree: Tree, mesh: Mesh | None) -> Tree:
    """Returns a pytree of arrays, the same in all processes, whole on every device of the mesh."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda array: put(array, replicated(mesh)), tree)


def put(array: Any, sharding: NamedSharding) -> jax.Array:
    """Returns an array, the same in all processes, laid out as `sharding` says."""
    is_global = isinstance(array, jax.Array) and not array.is_fully_addressable
    if sharding.is_fully_addressable or is_global:
        return jax.device_put(array, sharding)
    values = np.asarray(array)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def put_rows[Tree](tree: Tree, mesh: Mesh) -> Tree:
    """Returns a batch over all devices, of which each process gives its own rows."""
    rows = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows, x), tree)


def gathered[Tree](parameters: Tree) -> Tree:
    """Returns parameters that are whole on each device, wherever they lie split.

    Within a computation over a mesh (`jax.set_mesh`) it asks for them to come together; elsewhere
    it returns them as they are. Without it XLA would rather split activations than gather weights.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:
        return parameters
    whole = PartitionSpec()
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, whole), parameters)
