"""The shapes and choices that define a model: plain, frozen, hashable."""

from __future__ import annotations

import dataclasses

from minirec.files.schema import require_whole

_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class TrunkConfig:
    """Shape of a decoder trunk; the fields of Qwen2, Qwen2.5 and Qwen3 configs map onto it.

    Attributes:
        num_layers: number of blocks, scanned.
        width: model width `D`.
        num_heads: query heads.
        num_kv_heads: key and value heads; divides `num_heads` (grouped-query attention).
        head_dim: width of one head, even, independent of `width`.
        mlp_width: inner width of SwiGLU.
        rope_theta: base of the rotary angles.
        norm_eps: epsilon of every RMSNorm.
        qk_norm: RMSNorm over each head of queries and keys (Qwen3).
        qkv_bias: a bias on the query, key and value projections (Qwen2, Qwen2.5).
        dropout: rate on the input and on what each block adds to the residual stream; it acts
            only where a key is given.
        remat: recompute a block's activations in the backward pass instead of keeping them.
        dtype: compute dtype, "float32" or "bfloat16". Norms, softmax and rotary angles are always
            computed in float32.
        param_dtype: dtype of the stored parameters.
        scan_unroll: how many layers one trip of the layer loop holds; it changes the speed and the
            size of the program, not the result.
    """

    num_layers: int = 4
    width: int = 128
    num_heads: int = 4
    num_kv_heads: int = 4
    head_dim: int = 32
    mlp_width: int = 384
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    qk_norm: bool = False
    qkv_bias: bool = False
    dropout: float = 0.0
    remat: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"
    scan_unroll: int = 1

    def __post_init__(self):
        for name in (
            "num_layers",
            "width",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "mlp_width",
            "scan_unroll",
        ):
            require_whole(f"TrunkConfig.{name}", getattr(self, name))
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"TrunkConfig.num_kv_heads={self.num_kv_heads} must divide "
                f"num_heads={self.num_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"TrunkConfig.head_dim={self.head_dim} must be even: rotary positions turn pairs"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"TrunkConfig.dropout={self.dropout} must lie in [0, 1)")
        if not self.rope_theta > 0.0:
            raise ValueError(f"TrunkConfig.rope_theta={self.rope_theta} must be positive")
        if not self.norm_eps > 0.0:
            raise ValueError(f"TrunkConfig.norm_eps={self.norm_eps} must be positive")
        for name in ("dtype", "param_dtype"):
            if getattr(self, name) not in _DTYPES:
                raise ValueError(
                    f"TrunkConfig.{name}={getattr(self, name)!r} must be one of {_DTYPES}"
                )


@dataclasses.dataclass(frozen=True)
class SidDecoderConfig:
    """A trunk with a token embedding below it and a head above it.

    Attributes:
        trunk: shape of the trunk.
        vocab_size: number of tokens `V`, padding and BOS included.
        tie_embeddings: use the embedding's rows as the head's.
    """

    trunk: TrunkConfig
    vocab_size: int
    tie_embeddings: bool = True

    def __post_init__(self):
        require_whole("SidDecoderConfig.vocab_size", self.vocab_size)


@dataclasses.dataclass(frozen=True)
class ItemDecoderConfig:
    """A trunk over items, with a small decoder of SIDs and a table of items on top of it.

    Attributes:
        trunk: shape of the trunk; its dropout is the SID decoder's too.
        vocab_size: number of SID tokens `V`, padding and BOS included.
        num_items: items `N` that have a row in the item table.
        num_levels: levels `L` of a SID.
        level_width: inner width `F` of the SID decoder.
        tie_embeddings: use the tokens' embeddings as the head's rows.
        num_terms: terms of the items' text that have a row; 0: the text is not read.
    """

    trunk: TrunkConfig
    vocab_size: int
    num_items: int
    num_levels: int
    level_width: int = 256
    tie_embeddings: bool = True
    num_terms: int = 0

    def __post_init__(self):
        for name in ("vocab_size", "num_items", "num_levels", "level_width"):
            require_whole(f"ItemDecoderConfig.{name}", getattr(self, name))
        require_whole("ItemDecoderConfig.num_terms", self.num_terms, least=0)
