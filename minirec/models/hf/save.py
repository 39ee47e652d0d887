"""A decoder into a Hugging Face folder, a tensor at a time."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from minirec.files import atomic_folder, write_json
from minirec.models.config import SidDecoderConfig
from minirec.models.hf.config_json import CONFIG, config_json, read_config, read_config_json
from minirec.models.hf.folder import INDEX, WEIGHTS
from minirec.models.hf.layout import EMBEDDING, Layout, abstract_decoder, layouts
from minirec.models.hf.safetensors_file import write_safetensors
from minirec.models.sid_decoder import SidDecoder

# What goes along from another folder, where it is there: all that is neither config nor weights.
COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
_BLOCK_BYTES = 1 << 20
_FETCHED_BYTES = 16 << 20
# What makes the decoder of a checkpoint the same as another's, but for the vocabulary.
_SHAPE = (
    "num_layers",
    "width",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "mlp_width",
    "rope_theta",
    "norm_eps",
    "qk_norm",
    "qkv_bias",
)


def save_checkpoint(
    model: SidDecoder,
    folder: str | os.PathLike[str],
    *,
    like: str | os.PathLike[str] | None = None,
    model_type: str | None = None,
    max_file_bytes: int = 5_000_000_000,
    overwrite: bool = False,
) -> None:
    """Writes a decoder as a Hugging Face folder, which transformers reads as well.

    The folder appears whole or not at all. Tensors are fetched from the devices one at a time. Of
    several processes all must call it, and the first writes.

    Args:
        model: a decoder with the bias of Qwen2 or the query-key norm of Qwen3; its parameters are
            written in their own dtype.
        folder: where to; it must be missing or empty, unless `overwrite`.
        like: a folder whose tokenizer files are copied and whose `config.json` gives the fields
            that the decoder has none for. Its decoder must be the same but for the vocabulary.
        model_type: "qwen2" or "qwen3"; None takes the one that the model is of.
        max_file_bytes: tensors of this many bytes go into a file, and more into several behind an
            index; a single tensor may be larger.
        overwrite: replace what `folder` holds.

    Raises:
        ValueError: the model is of neither family, has parameters that a checkpoint has no tensor
            for, or is not that of `like`; the folder is not empty.
    """
    folder = Path(folder).absolute()
    if max_file_bytes < 1:
        raise ValueError(f"max_file_bytes={max_file_bytes} must be at least 1")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not overwrite:
        raise ValueError(f"{folder}: is there already; overwrite=True would replace it")
    source = None
    if like is not None:
        _check_like(Path(like), model.config)
        source = read_config_json(like)
    state = dict(nnx.to_flat_state(nnx.state(model)))
    found = layouts(model)
    dtype = _check_state(model.config, found, state)
    trunk = dataclasses.replace(model.config.trunk, param_dtype=dtype.name)
    config = dataclasses.replace(model.config, trunk=trunk)
    fields = config_json(config, source, model_type)
    files = _files(_in_order(found), dtype.itemsize, max_file_bytes)

    def blocks(file: list[_Tensor]) -> Iterator[np.ndarray]:
        for tensor in file:
            yield from _blocks(state[tensor.layout.path].get_value(), tensor)

    if jax.process_index() == 0:
        _write(folder, files, blocks, dtype, fields, None if like is None else Path(like))
    else:
        for file in files.values():  # A tensor split over processes comes together in all.
            for _ in blocks(file):
                pass
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("save_checkpoint")


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A tensor to be written: one layer of a parameter, or all of it."""

    name: str
    layer: int
    layout: Layout


def _in_order(found: dict[tuple, Layout]) -> list[_Tensor]:
    """Returns all tensors: the embedding, layer after layer, and what comes behind them."""
    tensors = [
        _Tensor(name, layer, layout)
        for layout in found.values()
        for layer, name in enumerate(layout.names)
    ]

    def place(tensor: _Tensor) -> tuple[int, int]:
        if tensor.layout.per_layer:
            return 1, tensor.layer
        return (0 if tensor.name == EMBEDDING else 2), 0

    return sorted(tensors, key=place)


def _files(tensors: list[_Tensor], itemsize: int, max_bytes: int) -> dict[str, list[_Tensor]]:
    """Returns which tensors go into which file."""
    files: list[list[_Tensor]] = []
    room = 0
    for tensor in tensors:
        size = math.prod(tensor.layout.stored_shape) * itemsize
        if not files or size > room:
            files.append([])
            room = max_bytes
        files[-1].append(tensor)
        room -= size
    if len(files) == 1:
        return {WEIGHTS: files[0]}
    stem, suffix = WEIGHTS.split(".")
    return {
        f"{stem}-{number:05d}-of-{len(files):05d}.{suffix}": file
        for number, file in enumerate(files, start=1)
    }


def _write(
    folder: Path,
    files: dict[str, list[_Tensor]],
    blocks: Callable[[list[_Tensor]], Iterator[np.ndarray]],
    dtype: np.dtype,
    fields: dict[str, Any],
    like: Path | None,
) -> None:
    with atomic_folder(folder) as new:
        for file, tensors in files.items():
            header = {tensor.name: (dtype, tensor.layout.stored_shape) for tensor in tensors}
            write_safetensors(new / file, header, blocks(tensors))
        if len(files) > 1:
            sizes = [math.prod(t.layout.stored_shape) for file in files.values() for t in file]
            index = {
                "metadata": {"total_size": dtype.itemsize * sum(sizes)},
                "weight_map": {t.name: file for file, tensors in files.items() for t in tensors},
            }
            write_json(new / INDEX, index)
        if like is not None:
            for name in COPIED:
                if (like / name).is_file():
                    shutil.copyfile(like / name, new / name)
        write_json(new / CONFIG, fields)


def _blocks(value: jax.Array, tensor: _Tensor) -> Iterator[np.ndarray]:
    """Yields a tensor's elements in the file's order."""
    layout = tensor.layout
    width = layout.stored_shape[-1] if len(layout.stored_shape) == 2 else 1
    itemsize = np.dtype(value.dtype).itemsize
    if layout.per_layer:
        fetched = iter([jax.lax.dynamic_index_in_dim(value, tensor.layer, keepdims=False)])
    else:
        # Not whole: an array keeps the copy that the host once had of it.
        step = max(_FETCHED_BYTES // (width * itemsize), 1)
        fetched = (
            jax.lax.dynamic_slice_in_dim(value, start, min(step, value.shape[0] - start))
            for start in range(0, value.shape[0], step)
        )
    rows = max(_BLOCK_BYTES // (width * itemsize), 1)
    for part in fetched:
        stored = layout.as_stored(_on_host(part))
        for start in range(0, stored.shape[0], rows):
            yield stored[start : start + rows]


def _on_host(array: jax.Array) -> np.ndarray:
    if not array.is_fully_addressable and not array.is_fully_replicated:
        sharding = array.sharding
        assert isinstance(sharding, NamedSharding)
        array = jax.device_put(array, NamedSharding(sharding.mesh, PartitionSpec()))
    return np.asarray(array)


def _check_state(
    config: SidDecoderConfig, found: dict[tuple, Layout], state: dict[tuple, nnx.Variable]
) -> np.dtype:
    """Returns the dtype of the parameters, once they are those of the config."""
    wanted = layouts(abstract_decoder(config))
    for path in sorted({*wanted, *found}, key=str):
        shapes = [where[path].shape if path in where else None for where in (found, wanted)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{'.'.join(map(str, path))}: shape {shapes[0]}, but the model's config asks for "
                f"{shapes[1]}"
            )
    first = np.dtype(state[("embedding",)].get_value().dtype)
    for path, variable in state.items():
        if variable.get_value().dtype != first:
            raise ValueError(
                f"{'.'.join(map(str, path))}: dtype {variable.get_value().dtype}, but the "
                f"embedding has {first}: a checkpoint has one dtype"
            )
    return first


def _check_like(like: Path, config: SidDecoderConfig) -> None:
    theirs = read_config(like).trunk
    for name in _SHAPE:
        there, here = getattr(theirs, name), getattr(config.trunk, name)
        if there != here:
            raise ValueError(f"{like / CONFIG}: {name}={there}, but the model has {here}")
