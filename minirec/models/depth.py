"""One dial for a language model's size: its depth, from which all other sizes follow.

The rule is nanochat's (karpathy/nanochat, `scripts/base_train.py`): 64 of width a layer, as many
heads as their width asks for, all of them with keys and values, and AdamW's learning rate by the
inverse root of the width. Heads are 64 wide here instead of 128, so that a model of a laptop's size
has several; the feed-forward is SwiGLU, which is two thirds as wide as four times the model's for
as many parameters.
"""

from __future__ import annotations

import math

from minirec.files.schema import require_whole
from minirec.models.config import TrunkConfig

WIDTH_A_LAYER = 64
HEAD_DIM = 64
_MULTIPLE = 32  # of the feed-forward's width
_RATE, _RATE_WIDTH = 1.5e-3, 768
_BY_HAND = ("num_layers", "width", "num_heads", "num_kv_heads", "head_dim", "mlp_width")


def trunk_of_depth(depth: int, **fields: int | float | bool | str) -> TrunkConfig:
    """Returns the trunk of a depth.

    Args:
        depth: layers.
        **fields: others of `TrunkConfig`; of its sizes, 0 stands for what follows from the depth.

    Raises:
        ValueError: a depth below 1, or sizes that do not fit each other.
    """
    require_whole("depth", depth)
    width = int(fields.get("width") or depth * WIDTH_A_LAYER)
    heads = int(fields.get("num_heads") or math.ceil(width / HEAD_DIM))
    sizes = {
        "num_layers": depth,
        "width": width,
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": 2 * math.ceil(width / heads / 2),
        "mlp_width": _MULTIPLE * math.ceil(8 * width / 3 / _MULTIPLE),
    }
    given = {name: value for name, value in fields.items() if value or name not in _BY_HAND}
    return TrunkConfig(**sizes | given)  # pyrefly: ignore[bad-argument-type]


def learning_rate_of_width(width: int) -> float:
    """Returns AdamW's peak learning rate: 0.0015 at a width of 768, by the inverse root else."""
    return _RATE * (width / _RATE_WIDTH) ** -0.5
