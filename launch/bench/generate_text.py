"""How many tokens a second a language model writes, beside transformers' `generate`.

A model of depth 6 by the dial of `minirec.models.depth`, in Qwen3's layout, a vocabulary of 8,192,
random weights that spread logits as after training; prompts of 48 to 128 tokens, each answered with
96 tokens, alone and 32 together, by the likeliest token ("greedy") or drawn at temperature 0.7 and
top-p 0.9 ("drawn"). Both read the same files, each in a process of its own, float32, on all cores;
loading, compiling and a first answer count nothing.

transformers gets prompts padded on the left with a mask, as its documentation asks for.
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
from minirec import files
from minirec.models import SidDecoder, SidDecoderConfig
from minirec.models.depth import trunk_of_depth
from minirec.models.hf import save_checkpoint

PROGRAM = "transformers_text.py"
MODES = ("greedy", "drawn")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is written.

    Attributes:
        depth: of the model.
        width: of the model; 0: as its depth asks for.
        vocab_size: tokens.
        prompt_tokens: the shortest and the longest prompt.
        new_tokens: tokens of an answer.
        batches: answers that are written together.
        rounds: measurements, of which the best counts.
        seed: of everything that is drawn.
    """

    depth: int = 6
    width: int = 0
    vocab_size: int = 8192
    prompt_tokens: tuple[int, int] = (48, 128)
    new_tokens: int = 96
    batches: tuple[int, ...] = (1, 32)
    rounds: int = 3
    seed: int = 0


def run(setting: Setting | None = None) -> Iterator[dict[str, Any]]:
    """Yields a row an implementation, mode and batch.

    A row holds `tokens_per_second`, of the best round; `ratio`: that over transformers'; `peak_gb`;
    and, of ours, `same_tokens`: the share of the greedy answers' tokens that are transformers' up
    to the first that differs. Float32 sums in another order can swap two tokens that tie.

    Raises:
        RuntimeError: a process failed.
    """
    setting = setting or Setting()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_inputs(folder, setting)
        programs = {
            peer.NAME: peer.command(PROGRAM, folder, "generate_text"),
            "minirec": peer.own_command("launch.bench.generate_text_measure", folder),
        }
        found: dict[str, dict[str, Any]] = {}
        for implementation, command in programs.items():
            if command is None:
                continue
            measured = found[implementation] = peer.measured(command)
            tokens = files.read_npz(folder / "found.npz")
            for batch in setting.batches:
                for mode in MODES:
                    yield _row(implementation, mode, batch, setting, found) | _same(
                        folder, implementation, mode, batch, tokens
                    )
            if implementation == peer.NAME:
                np.savez(folder / "theirs.npz", **tokens)  # pyrefly: ignore[bad-argument-type]
            del measured


def _row(
    implementation: str, mode: str, batch: int, setting: Setting, found: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    def rate(name: str) -> float:
        return batch * setting.new_tokens / min(found[name]["seconds"][f"{mode}_{batch}"])

    ours = rate(implementation)
    return {
        "benchmark": "generate_text",
        "implementation": implementation,
        "mode": mode,
        "batch": batch,
        "tokens_per_second": round(ours, 1),
        "ratio": round(ours / rate(peer.NAME), 2) if peer.NAME in found else None,
        "peak_gb": round(found[implementation]["peak_gb"], 2),
        "depth": setting.depth,
        "vocab": setting.vocab_size,
        "new_tokens": setting.new_tokens,
        "dtype": "float32",
    }


def _same(
    folder: Path, implementation: str, mode: str, batch: int, ours: dict[str, np.ndarray]
) -> dict[str, float]:
    path = folder / "theirs.npz"
    if implementation == peer.NAME or mode != "greedy" or not path.is_file():
        return {}
    theirs = files.read_npz(path)[f"{mode}_{batch}"]
    same = np.cumprod(ours[f"{mode}_{batch}"] == theirs, axis=1)
    return {"same_tokens": round(float(same.mean()), 4)}


def _write_inputs(folder: Path, setting: Setting) -> None:
    random = np.random.default_rng(setting.seed)
    trunk = trunk_of_depth(setting.depth, width=setting.width, qk_norm=True)
    model = SidDecoder(SidDecoderConfig(trunk, setting.vocab_size), rngs=nnx.Rngs(setting.seed))
    # The logits' standard deviation is then about 2.5.
    model.embedding[...] = model.embedding[...] * (2.5 / trunk.width**0.5 / 0.02)
    save_checkpoint(model, folder / "model", model_type="qwen3")
    shortest, longest = setting.prompt_tokens
    lengths = random.integers(shortest, longest + 1, max(setting.batches)).astype(np.int32)
    tokens = random.integers(0, setting.vocab_size, (len(lengths), longest), dtype=np.int32)
    np.save(folder / "tokens.npy", tokens, allow_pickle=False)
    np.save(folder / "lengths.npy", lengths, allow_pickle=False)
    files.write_json(
        folder / "config.json",
        {
            "batches": list(setting.batches),
            "new_tokens": setting.new_tokens,
            "rounds": setting.rounds,
            "temperature": 0.7,
            "top_p": 0.9,
        },
    )
