"""How many tokens a second a language model of one's own is trained on, beside PyTorch.

Models of depth 6 and 12 by the dial of `minirec.models.depth`, a vocabulary of 8,192, rows of 512
random tokens, AdamW on all parameters. The peer is a program as small as nanoGPT, with this model's
layers: RMSNorm, rotary positions, normed queries and keys, SwiGLU, a tied head; attention is
PyTorch's `scaled_dot_product_attention`, bfloat16 its autocast. It runs as written and through
`torch.compile` where that works, and the better of both is what `ratio` is over. Both sides read
the same first weights and batches, each in a process of its own, on all cores; loading, compiling
and the first steps count nothing.

The floor is the time of the matrix products that a step cannot leave out, at the best rates that
the machine showed in the same run; `launch.bench.training_floor` says what counts.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from launch.bench import peer
from launch.bench.evaluate_floor import Products, floor_seconds, measure_rates
from launch.bench.training_floor import Places, token_products
from minirec import files
from minirec.models import SidDecoder, SidDecoderConfig
from minirec.models.depth import trunk_of_depth
from minirec.models.hf import save_checkpoint

PROGRAM = "torch_text_trainer.py"
DTYPES = ("float32", "bfloat16")
_PEERS = {"pytorch": False, "pytorch_compiled": True}
_LOSS_ERROR = {"float32": 1e-3, "bfloat16": 0.05}  # of a loss of some 9 nats


@dataclasses.dataclass(frozen=True)
class Setting:
    """One training problem.

    Attributes:
        depth: of the model.
        width: of the model; 0: as its depth asks for.
        vocab_size: tokens.
        rows: rows a step.
        row_tokens: tokens of a row.
        warmup: steps before those that count.
        steps: steps that count.
        learning_rate: AdamW's.
        seed: of everything that is drawn.
    """

    depth: int = 6
    width: int = 0
    vocab_size: int = 8192
    rows: int = 8
    row_tokens: int = 512
    warmup: int = 2
    steps: int = 5
    learning_rate: float = 1e-3
    seed: int = 0

    @property
    def decoder(self) -> SidDecoderConfig:
        """The model's shape."""
        trunk = trunk_of_depth(self.depth, width=self.width, qk_norm=True)
        return SidDecoderConfig(trunk, self.vocab_size)


SETTINGS = (Setting(), Setting(depth=12, rows=4, steps=3))


def run(
    settings: Sequence[Setting] = SETTINGS, dtypes: Sequence[str] = DTYPES
) -> Iterator[dict[str, Any]]:
    """Yields a row an implementation, dtype and setting.

    A row holds `tokens_per_second`, by the median step that counts, and by the best one
    `best_tokens_per_second`; `ratio`: the former over the better peer's; `peak_gb`: the most memory
    that the process held; `first_loss` and, of ours, `same_first_loss`: whether it is the peer's;
    `floor_seconds` a step and, of ours, `of_floor`: that over the median step.

    Raises:
        RuntimeError: a process failed.
    """
    for setting in settings:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _write_inputs(folder, setting)
            for dtype in dtypes:
                yield from _rows(folder, setting, dtype)


def _rows(folder: Path, setting: Setting, dtype: str) -> Iterator[dict[str, Any]]:
    theirs: list[dict[str, Any]] = []
    for implementation, compiles in _PEERS.items():
        command = peer.command(PROGRAM, folder, "text_training")
        if command is None:
            break
        files.write_json(folder / "variant.json", {"dtype": dtype, "compile": compiles})
        measured = peer.measured(command)
        if measured.get("left_out"):
            yield _shared(implementation, setting, dtype) | measured
            continue
        theirs.append(measured)
        yield _row(implementation, measured, setting, dtype, theirs)
    products = _products(setting)
    rates: Products = {}
    measure_rates(products, rates, dtype, repeats=3)
    files.write_json(folder / "variant.json", {"dtype": dtype, "compile": True})
    measured = peer.measured(peer.own_command("launch.bench.text_measure", folder))
    measure_rates(products, rates, dtype, repeats=3)
    floor = floor_seconds(products, rates)
    row = _row("minirec", measured, setting, dtype, theirs)
    row |= {
        "floor_seconds": float(f"{floor:.4g}"),
        "of_floor": round(floor / float(np.median(measured["seconds"])), 3),
    }
    if theirs:
        error = abs(measured["losses"][0] - theirs[0]["losses"][0])
        row["same_first_loss"] = error < _LOSS_ERROR[dtype]
    yield row


def _shared(implementation: str, setting: Setting, dtype: str) -> dict[str, Any]:
    return {
        "benchmark": "text_training",
        "implementation": implementation,
        "dtype": dtype,
        "depth": setting.depth,
        "width": setting.decoder.trunk.width,
        "vocab": setting.vocab_size,
        "tokens_a_step": setting.rows * setting.row_tokens,
        "steps": setting.steps,
    }


def _row(
    implementation: str,
    measured: dict[str, Any],
    setting: Setting,
    dtype: str,
    theirs: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    tokens = setting.rows * setting.row_tokens
    seconds = float(np.median(measured["seconds"]))
    rival = min((float(np.median(one["seconds"])) for one in theirs), default=None)
    return _shared(implementation, setting, dtype) | {
        "tokens_per_second": round(tokens / seconds, 1),
        "best_tokens_per_second": round(tokens / min(measured["seconds"]), 1),
        "ratio": None if rival is None else round(rival / seconds, 2),
        "peak_gb": round(measured["peak_gb"], 2),
        "first_loss": round(measured["losses"][0], 4),
        "last_loss": round(measured["losses"][-1], 4),
    }


def _products(setting: Setting) -> Products:
    """Returns the operations of a step, each token of a row seeing those before it and itself."""
    seen = np.tile(np.arange(1, setting.row_tokens + 1), setting.rows)
    return token_products(setting.decoder, Places(seen, seen))


def _write_inputs(folder: Path, setting: Setting) -> None:
    random = np.random.default_rng(setting.seed)
    shape = (setting.warmup + setting.steps, setting.rows, setting.row_tokens + 1)
    tokens = random.integers(0, setting.vocab_size, shape, dtype=np.int32)
    np.save(folder / "tokens.npy", tokens, allow_pickle=False)
    model = SidDecoder(setting.decoder, rngs=nnx.Rngs(setting.seed))
    save_checkpoint(model, folder / "model", model_type="qwen3")
    files.write_json(
        folder / "config.json",
        {"warmup": setting.warmup, "learning_rate": setting.learning_rate},
    )
