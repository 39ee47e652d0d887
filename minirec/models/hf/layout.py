"""Which tensor of a Hugging Face checkpoint is which parameter of the decoder, and how it lies."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from flax import nnx

from minirec.models.config import SidDecoderConfig
from minirec.models.sid_decoder import SidDecoder

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

# A parameter's tensor, and how many of its axes (without that of the layers) come in: a projection
# `[in…, out…]` is stored as the matrix `[out, in]`. None: the axes are stored as they are, merged
# into one unless they are an embedding's.
_LAYER = "model.layers.{layer}."
_TENSORS: dict[tuple[str, ...], tuple[str, int | None]] = {
    ("embedding",): (EMBEDDING, None),
    ("head",): (HEAD, None),
    ("trunk", "norm", "scale"): ("model.norm.weight", None),
    **{
        ("trunk", "blocks", *path.split(".")): (_LAYER + name, axes_in)
        for path, name, axes_in in (
            ("attention_norm.scale", "input_layernorm.weight", None),
            ("attention.query", "self_attn.q_proj.weight", 1),
            ("attention.key", "self_attn.k_proj.weight", 1),
            ("attention.value", "self_attn.v_proj.weight", 1),
            ("attention.output", "self_attn.o_proj.weight", 2),
            ("attention.query_bias", "self_attn.q_proj.bias", None),
            ("attention.key_bias", "self_attn.k_proj.bias", None),
            ("attention.value_bias", "self_attn.v_proj.bias", None),
            ("attention.query_norm.scale", "self_attn.q_norm.weight", None),
            ("attention.key_norm.scale", "self_attn.k_norm.weight", None),
            ("mlp_norm.scale", "post_attention_layernorm.weight", None),
            ("mlp.gate", "mlp.gate_proj.weight", 1),
            ("mlp.up", "mlp.up_proj.weight", 1),
            ("mlp.down", "mlp.down_proj.weight", 1),
        )
    },
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one parameter lies in a checkpoint: as one tensor, or as one a layer.

    Attributes:
        path: the parameter's path in the model's state.
        shape: its shape; the layers' axis first, where it has one.
        template: the tensor's name; `{layer}` where there is one a layer.
        axes_in: see `_TENSORS`.
    """

    path: tuple[Any, ...]
    shape: tuple[int, ...]
    template: str
    axes_in: int | None

    @property
    def per_layer(self) -> bool:
        """Whether the first axis is that of the layers."""
        return "{layer}" in self.template

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, layer after layer."""
        if not self.per_layer:
            return (self.template,)
        return tuple(self.template.format(layer=layer) for layer in range(self.shape[0]))

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of each tensor."""
        return tuple(stop for _, stop in self._ranges([(0, size) for size in self._axes]))

    def ranges(self, index: tuple[slice, ...]) -> list[tuple[int, int]]:
        """Returns which part of each stored tensor a part of the parameter is, an axis a range.

        Args:
            index: the part, as JAX's shardings give it; the layers' axis is whole.

        Raises:
            ValueError: the part is not one range of each stored axis.
        """
        ranges = [part.indices(size)[:2] for part, size in zip(index, self.shape, strict=True)]
        if self.per_layer:
            layers, *ranges = ranges
            if layers != (0, self.shape[0]):
                raise ValueError(f"{self.template}: the axis of the layers is split: {index}")
        return self._ranges(ranges)

    def as_stored(self, part: np.ndarray) -> np.ndarray:
        """Returns a view of one layer's part of the parameter, shaped as in the file.

        Args:
            part: contiguous, without the layers' axis.
        """
        if self.axes_in is not None:
            return part.reshape(math.prod(part.shape[: self.axes_in]), -1).T
        return part if self._is_embedding else part.reshape(-1)

    @property
    def _axes(self) -> tuple[int, ...]:
        return self.shape[1:] if self.per_layer else self.shape

    @property
    def _is_embedding(self) -> bool:
        return not self.per_layer and len(self.shape) == 2

    def _ranges(self, ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
        axes = self._axes
        if self.axes_in is not None:
            n = self.axes_in
            return [_merged(ranges[n:], axes[n:]), _merged(ranges[:n], axes[:n])]
        return ranges if self._is_embedding else [_merged(ranges, axes)]


def _merged(ranges: list[tuple[int, int]], axes: tuple[int, ...]) -> tuple[int, int]:
    """Returns the range that ranges of several axes are once the axes are one."""
    (start, stop), width = ranges[0], math.prod(axes[1:])
    if any(part != (0, size) for part, size in zip(ranges[1:], axes[1:], strict=True)):
        raise ValueError(f"{ranges} of axes {axes} are not one range of their product")
    return start * width, stop * width


def abstract_decoder(config: SidDecoderConfig) -> SidDecoder:
    """Returns a decoder whose parameters have shapes and no values."""
    return nnx.eval_shape(lambda: SidDecoder(config, rngs=nnx.Rngs(0)))


def layouts(model: SidDecoder) -> dict[tuple[Any, ...], Layout]:
    """Returns how each parameter of a decoder, abstract or not, is stored.

    Raises:
        ValueError: the model has a variable that a checkpoint has no tensor for.
    """
    found = {}
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        if path not in _TENSORS:
            raise ValueError(
                f"{'.'.join(map(str, path))}: a Hugging Face checkpoint has no tensor for it; "
                "adapters must be merged into the parameters first"
            )
        template, axes_in = _TENSORS[path]
        found[path] = Layout(path, tuple(variable.get_value().shape), template, axes_in)
    return found
