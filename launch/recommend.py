"""Recommendations for given histories, as JSON lines.

`python -m launch.recommend --config=amazon_beauty --workdir=W --history=12,7,340` prints one line
a recommended item: user, rank, item id, title, SID, score (log-probability). Instead of item ids,
`--history` takes a file with one JSON list of item ids a line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from launch import program, wiring
from minirec.decoding.ranking import rank_users
from minirec.sids import sid_string
from minirec.training import load_best
from pipelines.batches import prompt_batch

_HISTORY = flags.DEFINE_string(
    "history", None, "Item ids as the log names them, oldest first, with commas; or a file."
)
_TOP = flags.DEFINE_integer("top", 10, "Items to recommend a user.", lower_bound=1)
_EXCLUDE = flags.DEFINE_list("exclude", [], "Item ids that must not be recommended (no stock).")


def read_histories(text: str) -> list[list[str]]:
    """Returns the histories that `--history` names, each a list of raw item ids.

    Raises:
        ValueError: the file has a line that is not a JSON list of ids.
    """
    if not Path(text).is_file():
        return [[part.strip() for part in text.split(",") if part.strip()]]
    histories = []
    with Path(text).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{text}, line {number}: not JSON: {line.strip()!r}") from error
            if not isinstance(value, list):
                raise ValueError(f"{text}, line {number}: expected a list of item ids, got {value}")
            histories.append([str(raw_item_id) for raw_item_id in value])
    return histories


def item_ids(raw: list[str], index: dict[str, int], what: str) -> np.ndarray:
    """Returns the dense ids of raw item ids.

    Raises:
        ValueError: an id that the catalogue does not have.
    """
    for raw_item_id in raw:
        if raw_item_id not in index:
            raise ValueError(f"{what}: the catalogue has no item {raw_item_id!r}")
    return np.array([index[raw_item_id] for raw_item_id in raw], np.int32)


def prompts(histories: list[np.ndarray], item_tokens: np.ndarray, config: ConfigDict):
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
    catalogue = wiring.load_catalogue(job.prepared, job.run)
    raw_item_ids = catalogue.prepared.items["raw_item_id"].to_list()
    index = {raw_item_id: item for item, raw_item_id in enumerate(raw_item_ids)}
    histories = [
        item_ids(raw, index, f"--history, user {user}")
        for user, raw in enumerate(read_histories(_HISTORY.value))
    ]
    model = load_best(job.run, wiring.abstract_model(job.config, catalogue.vocab.size))
    allowed = np.ones(len(raw_item_ids), bool)
    allowed[item_ids(_EXCLUDE.value, index, "--exclude")] = False
    titles = catalogue.prepared.items["title"].to_list()
    ranked = rank_users(
        model,
        prompts(histories, catalogue.item_tokens, job.config),
        wiring.make_searcher(job.config),
        catalogue.trie,
        exclude_seen=job.config.search.exclude_seen,
        allowed=allowed,
    )
    for user, (items, scores) in enumerate(zip(ranked.item, ranked.item_score, strict=True)):
        for rank, item in enumerate(items[: _TOP.value]):
            if item < 0:
                break
            line = {
                "user": user,
                "rank": rank,
                "item_id": raw_item_ids[item],
                "title": titles[item],
                "sid": sid_string(catalogue.table.codes[item]),
                "score": round(float(scores[rank]), 6),
            }
            sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    program.run(main)
