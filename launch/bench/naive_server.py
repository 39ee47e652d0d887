"""What people write first: an HTTP handler that runs one search a request, one after the other.

    python -m launch.bench.naive_server PLAN.json

The plan says `config`, `changes` of its fields, `workdir` and `port`. A line is printed once it is
ready.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from launch.wiring.experiment import experiment_of
from launch.wiring.program import Job, load_config_module
from minirec.decoding import BeamSearcher, Buckets

_EXCLUDED = 64  # items of a history that are not recommended again


def main() -> None:
    """Serves until it is killed."""
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    config = load_config_module(plan["config"]).get_config()
    config.update_from_flattened_dict(plan["changes"])
    workdir = Path(plan["workdir"])
    run = experiment_of(config).load(Job(config, workdir, workdir / "runs" / config.name))
    catalogue, width = run.catalogue, config.loader.max_items
    item_of = {raw: item for item, raw in enumerate(catalogue.table.raw_item_ids)}
    searcher = BeamSearcher(
        num_beams=config.search.num_beams,
        normalize=config.search.normalize,
        batch_buckets=Buckets(sizes=(1,)),
        length_buckets=Buckets(sizes=(width,)),
        excluded_buckets=Buckets(sizes=(_EXCLUDED,)),
    )
    lock = threading.Lock()

    def recommend(history: list[str], num: int) -> list[dict]:
        items = [item_of[raw] for raw in history]
        prompt = np.zeros((1, width), np.int32)
        prompt[0, : len(items[-width:])] = items[-width:]
        # Of one width, so that no request waits for a compilation.
        excluded = np.full((1, _EXCLUDED), -1, np.int32)
        excluded[0, : len(items[-_EXCLUDED:])] = items[-_EXCLUDED:]
        with lock:
            found = searcher(
                run.model,
                prompt,
                np.array([min(len(items), width)]),
                catalogue.trie,
                excluded=excluded,
            )
        return [
            {
                "item_id": catalogue.table.raw_item_ids[item],
                "title": catalogue.titles[item],
                "score": float(score),
            }
            for item, score in zip(found.item[0][:num], found.item_score[0], strict=False)
            if item >= 0
        ]

    async def handle(request: Request) -> JSONResponse:
        asked = await request.json()
        found = await asyncio.to_thread(recommend, asked["history"], asked["num"])
        return JSONResponse({"items": found})

    recommend([], 1)
    app = Starlette(routes=[Route("/v1/recommend", handle, methods=["POST"])])
    print(json.dumps({"ready": True}), flush=True)
    uvicorn.run(app, host="127.0.0.1", port=plan["port"], log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
