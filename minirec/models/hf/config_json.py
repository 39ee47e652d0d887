"""`config.json` of a Qwen2, Qwen2.5 or Qwen3 checkpoint, and the decoder's config."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from minirec.files import read_json
from minirec.models.config import SidDecoderConfig, TrunkConfig

CONFIG = "config.json"
ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

# What transformers takes where a file says nothing.
_ROPE_THETA = 10_000.0
_NORM_EPS = 1e-6
_QWEN3_HEAD_DIM = 128
_MAX_WINDOW_LAYERS = 28
_MAX_POSITIONS = 32_768
_LARGEST = 2**31 - 1  # An axis of an array, by the 32 bits that XLA's shapes are often held in.


def read_config(folder: str | os.PathLike[str]) -> SidDecoderConfig:
    """Returns the decoder's config of a local Hugging Face folder.

    `param_dtype` is what the file says its tensors are, float32 where it says nothing.

    Args:
        folder: holds `config.json`.

    Raises:
        ValueError: there is none, or it is of another architecture, lacks a field, or has one that
            asks for a computation that the decoder does not do. The message names file, field and
            value.
    """
    path = Path(folder) / CONFIG
    fields = _Fields(path, read_config_json(folder))
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        fields.refuse("model_type", f"must be one of {', '.join(ARCHITECTURES)}")
    if fields.get("architectures", [ARCHITECTURES[model_type]]) != [ARCHITECTURES[model_type]]:
        fields.refuse("architectures", f"must be {[ARCHITECTURES[model_type]]} for {model_type!r}")
    width, num_heads = (
        fields.positive_int("hidden_size"),
        fields.positive_int("num_attention_heads"),
    )
    num_layers = fields.positive_int("num_hidden_layers")
    # Where no width of a head is named, Qwen3 has a fixed one and Qwen2 a share of the model's.
    if fields.get("head_dim") is not None:
        head_dim = fields.positive_int("head_dim")
    elif model_type == "qwen3":
        head_dim = _QWEN3_HEAD_DIM
    else:
        head_dim, rest = divmod(width, num_heads)
        if rest:
            fields.refuse("num_attention_heads", f"must divide hidden_size={width}")
    if fields.get("num_key_value_heads", 0) is None:
        num_kv_heads = num_heads
    else:
        num_kv_heads = fields.positive_int("num_key_value_heads")
    _refuse_other_computations(fields, model_type, num_layers)
    tied = fields.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        fields.refuse("tie_word_embeddings", "must be true or false")
    dtype = fields.get("dtype", fields.get("torch_dtype"))
    try:
        trunk = TrunkConfig(
            num_layers=num_layers,
            width=width,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            mlp_width=fields.positive_int("intermediate_size"),
            rope_theta=_rope_theta(fields),
            norm_eps=fields.positive_number("rms_norm_eps", _NORM_EPS),
            qk_norm=model_type == "qwen3",
            qkv_bias=model_type == "qwen2",
            param_dtype="bfloat16" if dtype == "bfloat16" else "float32",
        )
        return SidDecoderConfig(trunk, fields.positive_int("vocab_size"), tie_embeddings=tied)
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from error


def read_config_json(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the object in a folder's `config.json`.

    Raises:
        ValueError: there is none, or it is no JSON object.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a Hugging Face folder holds its config there")
    return read_json(path, dict)


def config_json(
    config: SidDecoderConfig, like: dict[str, Any] | None = None, model_type: str | None = None
) -> dict[str, Any]:
    """Returns the `config.json` of a decoder.

    Args:
        config: the decoder's.
        like: a file's object whose other fields (ends of text, number of positions, …) are kept.
        model_type: "qwen2" or "qwen3"; None takes the one that the config is of.

    Raises:
        ValueError: the config is of neither family, or not of `model_type`.
    """
    trunk = config.trunk
    if trunk.qkv_bias == trunk.qk_norm:
        raise ValueError(
            f"qkv_bias={trunk.qkv_bias}, qk_norm={trunk.qk_norm}: Qwen2 has the bias and Qwen3 the "
            "norm; a Hugging Face checkpoint of these families has exactly one of them"
        )
    own = "qwen2" if trunk.qkv_bias else "qwen3"
    if model_type not in (None, own):
        raise ValueError(f"model_type={model_type!r}: the model's config is that of {own!r}")
    fields: dict[str, Any] = {
        "architectures": [ARCHITECTURES[own]],
        "model_type": own,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "max_position_embeddings": _MAX_POSITIONS,
        "use_sliding_window": False,
        "use_cache": True,
        "rope_theta": trunk.rope_theta,
    }
    if own == "qwen3":
        fields["attention_bias"] = False
    if own == "qwen3" or trunk.head_dim * trunk.num_heads != trunk.width:
        fields["head_dim"] = trunk.head_dim
    # What is read above gave the config; of a given file only what may have changed is written.
    fields = dict(like) if like is not None else fields
    fields |= {
        "hidden_size": trunk.width,
        "intermediate_size": trunk.mlp_width,
        "num_attention_heads": trunk.num_heads,
        "num_hidden_layers": trunk.num_layers,
        "num_key_value_heads": trunk.num_kv_heads,
        "rms_norm_eps": trunk.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "vocab_size": config.vocab_size,
    }
    fields |= {name: trunk.param_dtype for name in ("dtype", "torch_dtype") if name in fields}
    if "dtype" not in fields:
        fields["torch_dtype"] = trunk.param_dtype
    return fields


class _Fields:
    """The fields of one file, with errors that name it."""

    def __init__(self, path: Path, fields: dict[str, Any]) -> None:
        self.path = path
        self._fields = fields

    def get(self, name: str, default: Any = None) -> Any:
        return self._fields.get(name, default)

    def refuse(self, name: str, what: str) -> None:
        value = (
            f"{name}={self._fields[name]!r:.200}" if name in self._fields else f"{name} is missing"
        )
        raise ValueError(f"{self.path}: {value}: {what}")

    def positive_int(self, name: str) -> int:
        value = self.get(name)
        if type(value) is not int or not 1 <= value <= _LARGEST:
            self.refuse(name, f"must be a positive integer, at most {_LARGEST}")
        return value

    def positive_number(self, name: str, default: float) -> float:
        value = self.get(name, default)
        if not _is_positive(value):
            self.refuse(name, "must be a positive number")
        return float(value)


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _rope_theta(fields: _Fields) -> float:
    """Returns the base of the rotary angles, wherever the file's version keeps it."""
    found: dict[str, float] = {}
    if fields.get("rope_theta") is not None:
        found["rope_theta"] = fields.positive_number("rope_theta", _ROPE_THETA)
    for name in ("rope_scaling", "rope_parameters"):
        rope = fields.get(name)
        if rope is None:
            continue
        if not isinstance(rope, dict) or any(isinstance(part, dict) for part in rope.values()):
            fields.refuse(name, "must be one object, the same for every layer")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            fields.refuse(name, f"rotary scaling {kind!r} is not supported, only 'default'")
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            fields.refuse(name, "partial_rotary_factor must be 1: the whole head is turned")
        theta = rope.get("rope_theta")
        if theta is not None:
            if not _is_positive(theta):
                fields.refuse(name, "rope_theta must be a positive number")
            found[f"{name}.rope_theta"] = float(theta)
    if len(set(found.values())) > 1:
        raise ValueError(f"{fields.path}: {found}: must be the same number")
    return next(iter(found.values()), _ROPE_THETA)


def _refuse_other_computations(fields: _Fields, model_type: str, num_layers: int) -> None:
    if fields.get("hidden_act", "silu") != "silu":
        fields.refuse("hidden_act", "must be 'silu'")
    kinds = fields.get("layer_types")
    if kinds is not None:
        # Not compared with a list of so many: the number may be anything.
        named = isinstance(kinds, list) and len(kinds) == num_layers
        if not named or any(kind != "full_attention" for kind in kinds):
            fields.refuse("layer_types", f"must be 'full_attention' for all {num_layers} layers")
    elif fields.get("use_sliding_window", False) and fields.get("sliding_window", 0) is not None:
        full = fields.get("max_window_layers", _MAX_WINDOW_LAYERS)
        if type(full) is not int or full < num_layers:
            fields.refuse(
                "use_sliding_window",
                f"a sliding window is in use from layer max_window_layers={full} on, which is not "
                "supported",
            )
    if model_type == "qwen3" and fields.get("attention_bias", False):
        fields.refuse("attention_bias", "must be false: the projections of Qwen3 have no bias here")
    if fields.get("partial_rotary_factor") not in (None, 1.0):
        fields.refuse("partial_rotary_factor", "must be 1: the whole head is turned")
    if fields.get("quantization_config") is not None:
        fields.refuse("quantization_config", "quantised weights are not supported")
