"""How many tokens a second a language model is fine-tuned on, beside transformers' Trainer.

A Qwen2-shaped model of 50 million random parameters with the full text vocabulary; examples of a
prompt of 20 to 220 tokens and an answer of 5 (a SID) or 6 to 24 (a title), the loss on answers
alone. All read the same files, each in a process of its own, float32 but where the name says
otherwise, AdamW on all parameters, on all cores. Tokens are those of examples: padding counts
nothing. "padded" has the Trainer's very batches; their first losses are compared.

The Trainer pads a batch to its longest example and makes the logits of all its tokens, as it does.
Ours packs examples into rows ("packed") or gives each a row of the longest one's length ("padded"),
and makes the logits of answers only.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from launch.bench import peer
from launch.bench.generate_inputs import DEEP
from minirec import files
from minirec.models import SidDecoder, SidDecoderConfig, TrunkConfig
from minirec.models.hf import save_checkpoint

_LOSS_ERROR = 1e-3  # of a loss of some 12 nats in float32


@dataclasses.dataclass(frozen=True)
class Setting:
    """One training problem.

    Attributes:
        trunk: the model between embedding and head, which are tied.
        vocab_size: tokens.
        examples_a_step: examples a step.
        warmup: steps before those that count; the first compiles.
        steps: steps that count.
        row_tokens: length of a packed row.
        rows: packed rows a step, which hold about as many examples.
        learning_rate: AdamW's.
        seed: of everything that is drawn.
    """

    trunk: TrunkConfig = DEEP
    vocab_size: int = 152_512
    examples_a_step: int = 16
    warmup: int = 2
    steps: int = 6
    row_tokens: int = 512
    rows: int = 4
    learning_rate: float = 1e-4
    seed: int = 0


VARIANTS: dict[str, dict[str, Any]] = {
    "minirec_packed": {"pack": True, "dtype": "float32"},
    "minirec_padded": {"pack": False, "dtype": "float32"},
    "minirec_packed_bfloat16": {"pack": True, "dtype": "bfloat16"},
}


def run(setting: Setting | None = None) -> Iterator[dict[str, Any]]:
    """Yields a row for the Trainer, where `make oracles` made its environment, and rows of ours.

    A row holds `tokens_per_second`, `ratio` (that over the Trainer's), `peak_gb` (the most memory
    that the process held), `first_loss` and, of ours in the same batches, `same_first_loss`.

    Raises:
        RuntimeError: a process failed.
    """
    setting = setting or Setting()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_inputs(folder, setting)
        theirs: dict[str, Any] | None = None
        command = peer.command("transformers_trainer.py", folder, "sft_training")
        if command is not None:
            theirs = peer.measured(command)
            yield _row(peer.NAME, theirs, theirs, setting)
        for variant, options in VARIANTS.items():
            files.write_json(folder / "variant.json", options)
            measured = peer.measured(peer.own_command("launch.bench.sft_measure", folder))
            yield _row(variant, measured, theirs, setting)


def _write_inputs(folder: Path, setting: Setting) -> None:
    random = np.random.default_rng(setting.seed)
    num_examples = (setting.warmup + setting.steps + 1) * setting.examples_a_step
    prompts = random.integers(20, 221, num_examples)
    titles = random.integers(6, 25, num_examples)
    answers = np.where(random.random(num_examples) < 0.5, 5, titles)
    offsets = np.concatenate([[0], np.cumsum(prompts + answers)])
    tokens = random.integers(0, setting.vocab_size, offsets[-1], dtype=np.int32)
    for name, array in (("tokens", tokens), ("offsets", offsets), ("prompts", prompts)):
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    config = SidDecoderConfig(setting.trunk, setting.vocab_size)
    model = SidDecoder(config, rngs=nnx.Rngs(setting.seed))
    save_checkpoint(model, folder / "model", model_type="qwen2")
    fields = dataclasses.asdict(setting) | {"batch_size": setting.examples_a_step}
    fields.pop("trunk")
    files.write_json(folder / "config.json", fields)


def _row(
    name: str, measured: dict[str, Any], theirs: dict[str, Any] | None, setting: Setting
) -> dict[str, Any]:
    def rate(found: dict[str, Any]) -> float:
        return found["tokens"] / found["seconds"]

    row = {
        "benchmark": "sft_training",
        "implementation": name,
        "tokens_per_second": round(rate(measured), 1),
        "ratio": None if theirs is None else round(rate(measured) / rate(theirs), 2),
        "peak_gb": round(measured["peak_gb"], 2),
        "first_loss": round(measured["losses"][0], 4),
        "last_loss": round(measured["losses"][-1], 4),
        "steps": setting.steps,
        "examples_a_step": setting.examples_a_step,
        "vocab": setting.vocab_size,
        "layers": setting.trunk.num_layers,
        "width": setting.trunk.width,
    }
    if theirs is not None and name == "minirec_padded":
        error = abs(measured["losses"][0] - theirs["losses"][0])
        row["same_first_loss"] = error < _LOSS_ERROR
    return row
