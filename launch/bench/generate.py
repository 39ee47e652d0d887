"""How many users a second a language model is searched for, beside transformers' `generate`.

Qwen2-shaped models of 50 million random parameters, one wide and one deep, the full text vocabulary
and as many SID tokens as Industrial's; prompts of about 200 tokens; 50 beams through a trie of
answers (SID, newline, end). Both searches read the same files, each in a process of its own,
float32, on all cores; loading and compiling count nothing.

The peer is given its best: transformers makes the log-probabilities over the vocabulary, and the
constraint takes what a dictionary of prefixes allows of them. Nothing is normalised twice.

The floor is the head alone: `2 V D` operations for each beam that enters a level, 1 and then 50 a
level, at the best rate that the same run shows for a product of that depth, by XLA or by NumPy's
BLAS. `products_seconds` adds the trunk's products, counted as in `launch.bench.evaluate`.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from launch.bench import peer
from launch.bench.evaluate_floor import Products, floor_seconds, matrix_products, measure_rates
from launch.bench.generate_inputs import (
    DEEP,
    WIDE,
    Setting,
    random_answers,
    random_model,
    random_prompts,
)
from minirec import files
from minirec.models.hf import save_checkpoint

_SCORE_ERROR = 2e-4  # of sums of five log-probabilities
_HEAD_BLOCKS = (2048, 8192)  # widths of the products whose rate is the head's


@dataclasses.dataclass(frozen=True)
class Search:
    """One of our searches to measure.

    Attributes:
        normalize: as in `beam_search`.
        head: as in `beam_search`.
        batch_size: users a batch.
    """

    normalize: str
    head: str
    batch_size: int


SEARCHES: dict[str, Search] = {
    "minirec_vocab": Search("vocab", "fused", 8),
    "minirec_children": Search("children", "fused", 8),
    "minirec_vocab_plain_head": Search("vocab", "plain", 4),
    "minirec_children_plain_head": Search("children", "plain", 4),
}


SETTINGS = (Setting(trunk=WIDE), Setting(trunk=DEEP))


def run(
    num_users: int = 64,
    peer_users: int = 16,
    peer_batch_size: int = 4,
    rounds: int = 3,
    setting: Setting | None = None,
    searches: Mapping[str, Search] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields a row for transformers, where `make oracles` made its environment, and for ours.

    A row holds

    - `users_per_second`: of the best of `rounds`; the peer has one round, of `peer_users`;
    - `ratio`: that over the peer's;
    - `peak_gb`: the most memory that the process held, loading and compiling included;
    - `floor_seconds`, `products_seconds` and the search's own `seconds`, all a user; `of_floor` and
      `of_products`: those over these; `gigaflop`: of the head, a user;
    - `same_lists`: for how many of the `compared` users (the peer's; all where a head is compared
      with the other one) the list of answers equals the other's, in order. `near_ties` of the rest
      have the same scores at every rank to 2e-4: float32 sums in another order swapped two answers;
    - `beside`: whose lists these are.

    Args:
        num_users: users that ours is measured on.
        peer_users: the first of them, which the peer is measured on.
        peer_batch_size: its users a batch.
        rounds: measurements, of which the best counts.
        setting: the model and the catalogue.
        searches: ours; `SEARCHES` by default.

    Raises:
        RuntimeError: a process failed, or two searches disagree about a score.
    """
    setting = setting or Setting()
    searches = SEARCHES if searches is None else searches
    answers, vocab_size = random_answers(setting)
    tokens, lengths = random_prompts(setting, answers, num_users)
    shared = {
        "beams": setting.num_beams,
        "sids": setting.num_sids,
        "vocab": vocab_size,
        "layers": setting.trunk.num_layers,
        "width": setting.trunk.width,
        "prompt_tokens": round(float(lengths.mean()), 1),
        "dtype": "float32",
    }
    counted = _Floor(setting, answers, vocab_size, lengths)
    found: dict[str, dict[str, np.ndarray]] = {}
    peer_rate = None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoint(random_model(setting, vocab_size), folder / "model", model_type="qwen2")
        np.save(folder / "answers.npy", answers, allow_pickle=False)
        command = peer.command("transformers_generate.py", folder, "generate")
        if command is not None:
            config = {"batch_size": peer_batch_size, "num_beams": setting.num_beams, "rounds": 1}
            users = slice(peer_users)
            measured = _measure(
                folder, command, config, tokens[users], lengths[users], found, peer.NAME
            )
            peer_rate = peer_users / min(measured["seconds"])
            yield {
                "benchmark": "generate",
                "implementation": peer.NAME,
                "users_per_second": round(peer_rate, 3),
                "ratio": 1.0,
                "peak_gb": round(measured["peak_gb"], 2),
                "batch_size": peer_batch_size,
                "users": peer_users,
                **shared,
            }
        command = peer.own_command("launch.bench.generate_measure", folder)
        for implementation, search in searches.items():
            config = dataclasses.asdict(search)
            config |= {"num_beams": setting.num_beams, "rounds": rounds}
            counted.measure()
            measured = _measure(folder, command, config, tokens, lengths, found, implementation)
            counted.measure()
            seconds = min(measured["seconds"]) / num_users
            yield {
                "benchmark": "generate",
                "implementation": implementation,
                "users_per_second": round(1 / seconds, 2),
                "ratio": None if peer_rate is None else round(1 / seconds / peer_rate, 1),
                "peak_gb": round(measured["peak_gb"], 2),
                **counted.fields(seconds, search.normalize),
                **_compared(found, implementation, searches),
                "seconds": _digits(seconds),
                "cpu_seconds": _digits(measured["cpu_seconds"] / num_users),
                "batch_size": search.batch_size,
                "users": num_users,
                **shared,
            }


def _measure(
    folder: Path,
    command: list[str],
    config: Mapping[str, Any],
    tokens: Int[np.ndarray, "N S"],
    lengths: Int[np.ndarray, " N"],
    found: dict[str, dict[str, np.ndarray]],
    name: str,
) -> dict[str, Any]:
    """Returns what a process measured, and puts what it found under its name."""
    files.write_json(folder / "config.json", config)
    np.save(folder / "tokens.npy", tokens, allow_pickle=False)
    np.save(folder / "lengths.npy", lengths, allow_pickle=False)
    result = peer.measured(command)
    found[name] = files.read_npz(folder / "found.npz")
    return result


def _compared(
    found: Mapping[str, Mapping[str, np.ndarray]], name: str, searches: Mapping[str, Search]
) -> dict[str, Any]:
    """Returns how the lists compare with the peer's, or with those of an earlier search of ours.

    The peer normalises over the vocabulary, so only such a search has its lists.
    """
    normalize = searches[name].normalize
    alike = [peer.NAME] if normalize == "vocab" else []
    alike += [other for other, search in searches.items() if search.normalize == normalize]
    beside = next((other for other in alike if other in found and other != name), None)
    if beside is None:
        return {}
    count = len(found[beside]["tokens"])
    mine, other = ({k: v[:count] for k, v in found[n].items()} for n in (name, beside))
    if not np.allclose(mine["scores"], other["scores"], rtol=0, atol=_SCORE_ERROR):
        raise RuntimeError(f"{name} and {beside} score differently: the comparison means nothing")
    same = (mine["tokens"] == other["tokens"]).all(axis=(1, 2))
    return {
        "same_lists": int(same.sum()),
        "near_ties": int((~same).sum()),
        "compared": count,
        "beside": beside,
    }


def _digits(value: float) -> float:
    """Returns four digits of a number."""
    return float(f"{value:.4g}")


class _Floor:
    """The products that a search cannot leave out, and the best rates that were seen for them."""

    def __init__(
        self,
        setting: Setting,
        answers: Int[np.ndarray, "N L"],
        vocab_size: int,
        lengths: Int[np.ndarray, " n"],
    ):
        nodes = [len(np.unique(answers[:, :depth], axis=0)) for depth in range(1, 5)]
        beams = [1, *(min(setting.num_beams, count) for count in nodes)]
        # One more token, as `matrix_products` takes `<bos>` for one that all users share.
        self._products = matrix_products(setting.trunk, vocab_size, lengths + 1, beams)
        self._users = len(lengths)
        self._head = (setting.trunk.width, vocab_size)
        self._trunk = {s: n for s, n in self._products.items() if s != self._head}
        self._best: Products = {}

    def measure(self) -> None:
        """Looks once more for the best rates."""
        depth = self._head[0]
        blocks = {(depth, width): 0.0 for width in _HEAD_BLOCKS}
        measure_rates(self._trunk | blocks, self._best, "float32", repeats=5)
        self._best[self._head] = max(self._best[block] for block in blocks)

    def fields(self, seconds: float, normalize: str) -> dict[str, Any]:
        """Returns a row's fields, all of one user."""
        counted = self._products if normalize == "vocab" else self._trunk
        products = floor_seconds(counted, self._best) / self._users
        fields = {
            "products_seconds": _digits(products),
            "of_products": round(products / seconds, 3),
        }
        if normalize == "vocab":
            operations = self._products[self._head] / self._users
            head = operations / self._best[self._head]
            fields |= {
                "floor_seconds": _digits(head),
                "of_floor": round(head / seconds, 3),
                "gigaflop": _digits(operations / 1e9),
                "gigaflop_per_second": round(self._best[self._head] / 1e9, 1),
            }
        return fields
