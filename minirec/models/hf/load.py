"""A Hugging Face folder into a decoder, without a second copy of its parameters anywhere."""

from __future__ import annotations

import dataclasses
import math
import os

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from minirec.models.hf.config_json import CONFIG, read_config
from minirec.models.hf.folder import TensorFolder
from minirec.models.hf.layout import EMBEDDING, HEAD, Layout, abstract_decoder, layouts
from minirec.models.hf.safetensors_file import DTYPES
from minirec.models.sharding import sharding_of
from minirec.models.sid_decoder import SidDecoder

# What is read at a time: small enough for a cache, since a projection is turned on its way.
_BLOCK_BYTES = 1 << 20
_SHOWN = 5


def load_checkpoint(
    folder: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    param_dtype: str | None = None,
    mesh: Mesh | None = None,
    remat: bool = False,
    scan_unroll: int = 1,
    dropout: float = 0.0,
) -> SidDecoder:
    """Returns the decoder that a local Hugging Face folder of Qwen2, Qwen2.5 or Qwen3 holds.

    All of it is checked before a parameter is read. Parameters are made one after the other, each
    from its tensors block by block, so that a CPU's memory holds little more than the parameters; a
    device's memory holds them and nothing else. A device gets its part of each, and a process reads
    only what its devices hold.

    Args:
        folder: holds `config.json`, and `model.safetensors` or several files behind
            `model.safetensors.index.json`.
        dtype: compute dtype, "float32" or "bfloat16".
        param_dtype: dtype of the parameters; None keeps the files'.
        mesh: where the parameters lie, by the table of `minirec.models.sharding`; None puts them
            on one device.
        remat: see `TrunkConfig`.
        scan_unroll: see `TrunkConfig`.
        dropout: see `TrunkConfig`.

    Raises:
        ValueError: another architecture or computation than the decoder's; a tensor that is
            missing, left over, or of another shape or type; a truncated file; an index that does
            not fit. The message names the file and the tensor or field.
    """
    config = read_config(folder)
    with TensorFolder(folder) as tensors:
        trunk = dataclasses.replace(
            config.trunk, dtype=dtype, remat=remat, scan_unroll=scan_unroll, dropout=dropout
        )
        config = dataclasses.replace(config, trunk=trunk)
        # By the layers' number names are made, and what the file says there may be anything.
        if trunk.num_layers > len(tensors.names()):
            raise ValueError(
                f"{tensors.folder / CONFIG}: num_hidden_layers={trunk.num_layers}: there are only "
                f"{len(tensors.names())} tensors beside it"
            )
        found = layouts(abstract_decoder(config))
        stored_dtype = _check(tensors, found, config.tie_embeddings, param_dtype)
        trunk = dataclasses.replace(trunk, param_dtype=param_dtype or stored_dtype)
        model = abstract_decoder(dataclasses.replace(config, trunk=trunk))
        loaded = []
        for path, variable in nnx.to_flat_state(nnx.state(model)):
            if mesh is None:
                sharding: Sharding = SingleDeviceSharding(jax.local_devices()[0])
            else:
                sharding = sharding_of(variable, mesh)
            target = np.dtype(variable.get_value().dtype)
            loaded.append((path, variable.replace(_load(tensors, found[path], sharding, target))))
        graphdef, _ = nnx.split(model)
        return nnx.merge(graphdef, nnx.from_flat_state(loaded))


def _check(
    tensors: TensorFolder,
    found: dict[tuple, Layout],
    tied: bool,
    param_dtype: str | None,
) -> str:
    """Returns the type of the tensors, once all of them are what the config asks for."""
    wanted = {name: layout for layout in found.values() for name in layout.names}
    present = tensors.names()
    if tied and HEAD in present:
        # Some files hold a tied head a second time.
        wanted[HEAD] = found[("embedding",)]
    for what, names in (
        ("tensors are missing", sorted(wanted.keys() - present)),
        ("tensors have no place in the model", sorted(present - wanted.keys())),
    ):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            where = tensors.folder if names[0] not in tensors else tensors.path(names[0])
            raise ValueError(
                f"{where}: {what}: {', '.join(names[:_SHOWN])}{more}; {CONFIG} asks for "
                f"{len(wanted)} tensors"
            )
    first = tensors.info(EMBEDDING).dtype
    for name, layout in wanted.items():
        info, where = tensors.info(name), f"{tensors.path(name)}: tensor {name!r}"
        if info.dtype not in DTYPES:
            raise ValueError(f"{where}: dtype {info.dtype}; must be one of {', '.join(DTYPES)}")
        if info.shape != layout.stored_shape:
            raise ValueError(
                f"{where}: shape {list(info.shape)}; {CONFIG} asks for {list(layout.stored_shape)}"
            )
        if info.dtype != first and param_dtype is None:
            raise ValueError(
                f"{where}: dtype {info.dtype}, but {EMBEDDING!r} has {first}; param_dtype says "
                "which one all shall have"
            )
    if tied and HEAD in present:
        _check_same(tensors, EMBEDDING, HEAD)
    return DTYPES[first].name


def _check_same(tensors: TensorFolder, one: str, other: str) -> None:
    num_rows, width = tensors.info(one).shape
    step = _rows_at_a_time(width, 4)
    for start in range(0, num_rows, step):
        rows = slice(start, min(start + step, num_rows))
        if tensors.read(one, rows).tobytes() != tensors.read(other, rows).tobytes():
            raise ValueError(
                f"{tensors.path(other)}: tensor {other!r} differs from {one!r}, but "
                f"tie_word_embeddings=True in {CONFIG}; set it to false to load an untied head"
            )


def _load(tensors: TensorFolder, layout: Layout, sharding: Sharding, dtype: np.dtype) -> jax.Array:
    """Returns one parameter, each of this process's devices with its part."""
    parts: dict[tuple[tuple[int, int], ...], _Part] = {}
    for device, index in sharding.addressable_devices_indices_map(layout.shape).items():
        assert index is not None
        bounds = tuple(
            part.indices(size)[:2] for part, size in zip(index, layout.shape, strict=True)
        )
        if bounds not in parts:
            shape = tuple(stop - start for start, stop in bounds)
            parts[bounds] = _Part(_host_buffer(shape, dtype), layout.ranges(index), [])
        parts[bounds].devices.append(device)
    for layer, name in enumerate(layout.names):
        targets = []
        for part in parts.values():
            array = part.buffer[layer] if layout.per_layer else part.buffer
            targets.append((layout.as_stored(array), part.ranges))
        _fill(tensors, name, targets)
    arrays = [
        jax.device_put(part.buffer, device) for part in parts.values() for device in part.devices
    ]
    # The buffers go before the next parameter's are made.
    return jax.block_until_ready(
        jax.make_array_from_single_device_arrays(layout.shape, sharding, arrays)
    )


@dataclasses.dataclass
class _Part:
    """A part of a parameter: where it is read to, what of each tensor it is, and whose it is."""

    buffer: np.ndarray
    ranges: list[tuple[int, int]]
    devices: list[jax.Device]


def _fill(
    tensors: TensorFolder, name: str, targets: list[tuple[np.ndarray, list[tuple[int, int]]]]
) -> None:
    """Reads what the targets need of a tensor, each byte once, into all of them."""
    hull = [
        (min(start for start, _ in ranges), max(stop for _, stop in ranges))
        for ranges in zip(*(ranges for _, ranges in targets), strict=True)
    ]
    (first, last), columns = hull[0], hull[1:]
    left, right = columns[0] if columns else (0, 1)
    step = _rows_at_a_time(right - left, DTYPES[tensors.info(name).dtype].itemsize)
    for start in range(first, last, step):
        stop = min(start + step, last)
        block = tensors.read(name, slice(start, stop), slice(left, right))
        for target, ((row, row_end), *rest) in targets:
            low, high = max(row, start), min(row_end, stop)
            if low < high:
                piece = block[low - start : high - start]
                for begin, end in rest:
                    piece = piece[:, begin - left : end - left]
                target[low - row : high - row] = piece


def _rows_at_a_time(width: int, itemsize: int) -> int:
    return max(_BLOCK_BYTES // (width * itemsize), 1)


def _host_buffer(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an empty array that XLA's CPU backend takes over without a copy.

    It asks for 64 bytes' alignment, which NumPy does not give.
    """
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + 63, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
