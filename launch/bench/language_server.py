"""Serves the random language model of `launch.bench.generate`, by the engine of `launch.serve`.

    python -m launch.bench.language_server PLAN.json

The plan says `folder` (of `launch.bench.serving_language`), `tile`, `num_beams`, `cache_bytes` and
`port`, and `longest`, the tokens of the longest prompt. A line is printed once the server is ready.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from kernels.trie import build_trie
from minirec import files
from minirec.decoding import BeamSearcher
from minirec.models.hf import load_checkpoint
from minirec.recommend import ItemTransition
from minirec.recommend.ranker import Ranker
from minirec.serving import server
from minirec.serving.catalogue import Catalogue
from minirec.serving.engine import Engine
from minirec.serving.metrics import Metrics
from minirec.serving.programs import Programs, Weights
from minirec.serving.reading_cache import ReadingCache
from minirec.serving.recommender import Recommender, Served
from minirec.serving.rules import Columns
from minirec.serving.service import Service

_SWITCH_S = 0.0005  # as in `launch.serve`
_NORMALIZE = "vocab"


class PromptsOfSids:
    """A text that all prompts begin with, then the SIDs of the history.

    Attributes:
        widths: one, a power of two, as `launch.wiring.language.TextPrompts` has them.
    """

    def __init__(self, text: Int[np.ndarray, " t"], sids: Int[np.ndarray, "N L"], longest: int):
        """Finds the width.

        Args:
            text: tokens that prompts begin with.
            sids: tokens of each item's SID.
            longest: items of a history at most.
        """
        self._text, self._sids, self._longest = text, sids, longest
        self.widths: Sequence[int] = (
            1 << int(len(text) + longest * sids.shape[1] - 1).bit_length(),
        )

    def __call__(self, history: Int[np.ndarray, " H"]) -> Int32[np.ndarray, " n"]:
        """Returns a prompt's tokens; of longer histories the newest items."""
        newest = self._sids[history[-self._longest :]].reshape(-1)
        return np.concatenate([self._text, newest]).astype(np.int32)


def service(plan: dict[str, Any]) -> Service:
    """Returns what answers by a plan, with all compiled that a request needs."""
    folder = Path(plan["folder"])
    answers = files.read_npy(folder / "answers.npy", "int32", (None, None))
    text = files.read_npy(folder / "text.npy", "int32", (None,))
    model = load_checkpoint(folder / "model")
    vocab_size, num_items = model.config.vocab_size, len(answers)
    sids = answers[:, :-2]  # A newline and the end stand behind them.
    trie = build_trie(answers, codebook_sizes=[vocab_size] * answers.shape[1])
    names = tuple(map(str, range(num_items)))
    catalogue = Catalogue(
        1, names, names, sids - sids.min(), answers, np.ones(num_items, bool), trie, Columns([])
    )
    num_beams = plan["num_beams"]
    ranker = Ranker(
        model=model,
        trie=trie,
        searcher=BeamSearcher(num_beams=num_beams, normalize=_NORMALIZE),
        item_tokens=answers,
        train_count=np.zeros(num_items, np.int64),
        transition=ItemTransition(np.zeros(2, np.int64), np.array([0, 2]), num_items),
        length=num_beams,
        exclude_seen=False,
    )
    programs = Programs(tile=plan["tile"], num_beams=num_beams, normalize=_NORMALIZE, num_items=0)
    prompts = PromptsOfSids(text, sids, plan["longest"])
    recommender = Recommender(programs, prompts, ReadingCache(plan["cache_bytes"]))
    metrics = Metrics(programs.tile)
    engine = Engine(
        recommender,
        Served("random@0", Weights.of(model), ranker, None, catalogue),
        exclude_seen=False,
        deadline_s=600.0,
        observer=metrics,
    )
    metrics.watch(engine)
    versions: Any = None  # Nobody changes this catalogue.
    return Service(engine, versions, metrics, lambda user: None)


def main() -> None:
    """Serves until it is killed."""
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    sys.setswitchinterval(_SWITCH_S)
    addresses = server.Addresses(http_port=plan["port"])

    def ready(_: Service) -> None:
        print(json.dumps({"ready": True}), flush=True)

    run(server.serve(lambda: service(plan), addresses, drain_s=0.0, on_ready=ready))


if __name__ == "__main__":
    main()
