"""Recommendations for given histories, as JSON lines.

`python -m launch.recommend --config=amazon_beauty --workdir=W --history=12,7,340` prints one line
a recommended item: user, rank (from 0), item id, title, SID, score (log-probability). Instead of
item ids, `--history` takes a file with one JSON list of item ids a line.

`--rank_by=system`, the default, ranks by the search, the item table and the transition count
together, with the weights that the validation users chose; `--rank_by=model` by the search alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Int32
from ml_collections import ConfigDict

from launch import program, ranking, wiring
from minirec.decoding.ranking import rank_users
from minirec.evaluation.report import MODEL, SYSTEM
from minirec.sids import sid_string
from minirec.training.processes import is_first
from pipelines.batches import prompt_batch

_HISTORY = flags.DEFINE_string(
    "history", None, "Item ids as the log names them, oldest first, with commas; or a file."
)
_TOP = flags.DEFINE_integer("top", 10, "Items to recommend a user.", lower_bound=1)
_RANK_BY = flags.DEFINE_enum("rank_by", SYSTEM, [SYSTEM, MODEL], "What ranks the items.")
_EXCLUDE = flags.DEFINE_list("exclude", [], "Item ids that must not be recommended (no stock).")


def read_histories(text: str) -> list[list[str]]:
    """Returns the histories that `--history` names, each a list of raw item ids.

    Raises:
        ValueError: a file that holds no history, or a line that is not a JSON list of ids.
    """
    if not os.path.isfile(text):  # Path.is_file raises where the text is too long for a name
        if text.endswith((".json", ".jsonl", ".txt")):
            raise ValueError(f"--history={text}: no such file")
        return [[part.strip() for part in text.split(",") if part.strip()]]
    histories = []
    with Path(text).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{text}, line {number}: not JSON: {line.strip()!r}") from error
            if not isinstance(value, list):
                raise ValueError(f"{text}, line {number}: expected a list of item ids, got {value}")
            histories.append([str(raw_item_id) for raw_item_id in value])
    if not histories:
        raise ValueError(f"{text}: holds no history; expected a JSON list of item ids a line")
    return histories


def recommend(
    job: program.Job,
    histories: Sequence[Sequence[str]],
    *,
    top: int,
    exclude: Sequence[str] = (),
    rank_by: str = SYSTEM,
) -> Iterator[dict[str, Any]]:
    """Yields a row a recommended item: user, rank, item_id, title, sid, score.

    Args:
        job: whose run recommends.
        histories: raw item ids, oldest first, a list a user; it may be empty.
        top: items a user.
        exclude: raw item ids that nobody shall get.
        rank_by: "system" or "model".

    Raises:
        ValueError: an item that the catalogue lacks, or a run that does not fit the data.
    """
    mesh = wiring.make_mesh(job.config)
    catalogue, model = wiring.load_run(job, mesh=mesh, with_appended=True)
    raw_item_ids, titles = catalogue.table.raw_item_ids, catalogue.titles
    index = {raw_item_id: item for item, raw_item_id in enumerate(raw_item_ids)}
    items = [
        _item_ids(history, index, f"--history, user {user}")
        for user, history in enumerate(histories)
    ]
    allowed = np.ones(len(raw_item_ids), bool)
    allowed[_item_ids(exclude, index, "--exclude")] = False
    prompts = list(_prompts(items, wiring.model_tokens(job.config, catalogue), job.config))
    if rank_by == MODEL:
        ranked = rank_users(
            model,
            prompts,
            wiring.make_searcher(job.config, mesh, at_least=top),
            catalogue.trie,
            exclude_seen=job.config.search.exclude_seen,
            allowed=allowed,
        )
        best_items, best_scores = ranked.item, ranked.item_score
    else:
        best_items, best_scores = ranking.recommend(
            job, catalogue, model, prompts, items, top=top, allowed=allowed, mesh=mesh
        )
    for user, (best, scores) in enumerate(zip(best_items, best_scores, strict=True)):
        for rank, item in enumerate(best[:top]):
            if item < 0:
                break
            yield {
                "user": user,
                "rank": rank,
                "item_id": raw_item_ids[item],
                "title": titles[item],
                "sid": sid_string(catalogue.table.codes[item]),
                "score": round(float(scores[rank]), 6),
            }


def _item_ids(raw: Sequence[str], index: dict[str, int], what: str) -> Int32[np.ndarray, " n"]:
    for raw_item_id in raw:
        if raw_item_id not in index:
            raise ValueError(f"{what}: the catalogue has no item {raw_item_id!r}")
    return np.array([index[raw_item_id] for raw_item_id in raw], np.int32)


def _prompts(
    histories: list[np.ndarray], item_tokens: np.ndarray, config: ConfigDict
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the histories as batches, their `row` counted through."""
    size = min(config.evaluate.batch_size, len(histories))
    for start in range(0, len(histories), size):
        some = histories[start : start + size]
        batch = prompt_batch(some, item_tokens, config.loader.max_items, size)
        yield batch | {"row": batch["row"] + start}


def main(job: program.Job) -> None:
    """Prints the recommendations for each history."""
    if _HISTORY.value is None:
        raise program.UsageError("--history is missing: item ids with commas, or a file")
    histories = read_histories(_HISTORY.value)
    for row in recommend(
        job, histories, top=_TOP.value, exclude=_EXCLUDE.value, rank_by=_RANK_BY.value
    ):
        if is_first():
            print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    program.run(main, many_processes=True)
