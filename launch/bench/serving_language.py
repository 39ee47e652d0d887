"""A language model behind a server: users a second, beside transformers' `generate` behind one.

The model is the deep one of `launch.bench.generate`, with its vocabulary and catalogue. Prompts are
as long as there: half a text that all have in common, then SIDs, of 24 to 36 items, oldest first.
Ours is the engine of `launch.serve` over HTTP (`launch.bench.language_server`), eight users a tile;
the peer is a handler that runs one `generate` a request (`tests/oracles/transformers_server.py`).
"""

from __future__ import annotations

import collections
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from launch.bench import generate, peer, served
from launch.bench.generate_inputs import DEEP, Setting, random_answers, random_model
from launch.wiring.child import module_command
from minirec.files import write_json
from minirec.models.hf import save_checkpoint

TILE = 8
_CLIENTS = 2 * TILE
_HISTORIES = 20_000
_USERS = 1_600  # whose histories grow
_ROUNDS = 2
_APART = 200  # requests of a client a round at most
_SECONDS = 12.0  # a round
_PEER_SECONDS = 40.0
_PEER_CLIENTS = 2
_CACHE_BYTES = 1 << 30
_NUM = 10


def run(
    setting: Setting | None = None,
    *,
    seconds: float = _SECONDS,
    peer_seconds: float = _PEER_SECONDS,
    generate_users: int = 8,
) -> Iterator[dict[str, Any]]:
    """Yields a row for transformers' handler, where it is there, and one a way of asking ours.

    `histories` of a row: "new" (each comes once), "same" (sixteen come again and again) and "grown"
    (each by an event of the one before; one in thirteen is of another user). One server, which
    keeps what it has read, is asked for each in turns. A row holds

    - `users_per_second`: saturated, by two tiles of clients that each ask again once answered;
    - `ratio`: that over the handler's; None where transformers is not there;
    - `generate_ratio`: the ratio that `--only=generate` finds in this run, and `of_generate`:
      `ratio` over it;
    - `of_search`: users a second over those of our search in `--only=generate`, by itself;
    - `of_new`: users a second over those of "new";
    - `cache_hits`, `cache_grown` (those whose beginning had been read) and `cache_misses`.

    Args:
        setting: the model and the catalogue; the deep one by default.
        seconds: that ours is asked for, each way and round.
        peer_seconds: that the handler is asked for.
        generate_users: that the searches of `--only=generate` search for; the peer for half.

    Raises:
        RuntimeError: a process failed, or a request was not answered.
    """
    setting = setting or Setting(trunk=DEEP)
    alone = {
        row["implementation"]: row
        for row in generate.run(
            generate_users,
            generate_users // 2,
            rounds=1,
            setting=setting,
            searches={"minirec_vocab": generate.SEARCHES["minirec_vocab"]},
        )
    }
    search = alone["minirec_vocab"]
    about = {"benchmark": "serving", "rank_by": "model", "beams": setting.num_beams}
    about |= {"layers": setting.trunk.num_layers, "vocab": search["vocab"]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, setting)
        handler = _handler(folder, setting, peer_seconds)
        if handler is not None:
            yield about | {
                "implementation": f"{peer.NAME}_handler",
                "users_per_second": round(handler, 3),
            }
        found = _ours(folder, setting, seconds)
        for histories, one in found.items():
            rate, generated = one["per_second"], search["ratio"]
            ratio = None if handler is None else rate / handler
            kept = None if ratio is None or not generated else round(ratio / generated, 3)
            yield about | {
                "implementation": "language_http",
                "histories": histories,
                "tile": TILE,
                "users_per_second": round(rate, 2),
                "ratio": None if ratio is None else round(ratio, 1),
                "generate_ratio": generated,
                "of_generate": kept,
                "of_search": round(rate / search["users_per_second"], 2),
                "of_new": round(rate / found["new"]["per_second"], 2),
                "cache_hits": one["hits"],
                "cache_grown": one["grown"],
                "cache_misses": one["misses"],
            }


def _write(folder: Path, setting: Setting) -> None:
    """Writes the model, the answers, what prompts begin with, and bodies of requests."""
    answers, vocab_size = random_answers(setting)
    save_checkpoint(random_model(setting, vocab_size), folder / "model", model_type="qwen2")
    random = np.random.default_rng(setting.seed + 3)
    least, most = _items(setting)
    longest = setting.prompt_tokens[1]
    text = random.integers(0, setting.text_vocab, longest - most * len(setting.codes))
    np.save(folder / "answers.npy", answers, allow_pickle=False)
    np.save(folder / "text.npy", text.astype(np.int32), allow_pickle=False)
    drawn = random.integers(0, len(answers), (_HISTORIES, most)).astype(str).tolist()
    lengths = random.integers(least, most + 1, _HISTORIES).tolist()
    some = [history[:length] for history, length in zip(drawn, lengths, strict=True)]
    num = min(_NUM, setting.num_beams)
    growing = range(least, most + 1)
    for name, histories in (
        ("new", some[_CLIENTS:]),
        ("same", some[:_CLIENTS]),
        ("grown", [history[:length] for history in drawn[:_USERS] for length in growing]),
    ):
        bodies = (json.dumps({"history": history, "num": num}) for history in histories)
        (folder / f"{name}.jsonl").write_text("\n".join(bodies) + "\n", encoding="utf-8")


def _items(setting: Setting) -> tuple[int, int]:
    """Returns how many items a history has at least and at most."""
    shortest, longest = setting.prompt_tokens
    levels = len(setting.codes)
    return max(1, -((longest // 2 - shortest) // levels)), (longest - longest // 2) // levels


def _ours(folder: Path, setting: Setting, seconds: float) -> dict[str, dict[str, float]]:
    """Returns what a saturated server of ours does with each kind of histories."""
    port, path = served.free_port(), folder / "server.json"
    plan = {
        "folder": str(folder),
        "tile": TILE,
        "num_beams": setting.num_beams,
        "longest": _items(setting)[1],
        "cache_bytes": _CACHE_BYTES,
        "port": port,
    }
    write_json(path, plan)
    command = module_command("launch.bench.language_server", str(path))
    totals: dict[str, collections.Counter[str]] = {
        name: collections.Counter() for name in ("new", "same", "grown")
    }
    with served.serving_process(command, folder):
        for number in range(_ROUNDS):
            for name, total in totals.items():
                asked = {
                    "port": port,
                    "path": "/v1/recommend",
                    "bodies": str(folder / f"{name}.jsonl"),
                    "clients": _CLIENTS,
                    "seconds": seconds,
                    "first": number * _APART,  # What was asked before would be in the cache.
                }
                before = served.get(port, "/v1/status")["cache"]
                found = served.load(folder, asked)
                after = served.get(port, "/v1/status")["cache"]
                _check(found)
                total["answered"] += found["statuses"]["200"]
                total["seconds"] += found["seconds"]
                total["hits"] += after["hits"] - before["hits"]
                total["grown"] += after["grown"] - before["grown"]
                total["misses"] += after["misses"] - before["misses"]
    return {
        name: {
            "per_second": total["answered"] / total["seconds"],
            "hits": total["hits"],
            "grown": total["grown"],
            "misses": total["misses"],
        }
        for name, total in totals.items()
    }


def _handler(folder: Path, setting: Setting, seconds: float) -> float | None:
    """Returns the users a second of transformers' handler; None where transformers is missing."""
    command = peer.command("transformers_server.py", folder, "serving")
    if command is None:
        return None
    port = served.free_port()
    write_json(folder / "config.json", {"num_beams": setting.num_beams, "port": port})
    asked = {"port": port, "path": "/v1/recommend", "bodies": str(folder / "new.jsonl")}
    with served.serving_process(command, folder):
        found = served.load(folder, asked | {"clients": _PEER_CLIENTS, "seconds": seconds})
    _check(found)
    return found["per_second"]


def _check(found: dict[str, Any]) -> None:
    if set(found["statuses"]) != {"200"}:
        raise RuntimeError(f"not all requests were answered: {found['statuses']}")
