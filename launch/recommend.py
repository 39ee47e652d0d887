"""Recommendations for given histories, as JSON lines.

`python -m launch.recommend --config=amazon_beauty --workdir=W --history=12,7,340` prints one line
a recommended item: user, rank (from 0), item id, title, SID, score (log-probability; null where
that is of 0, behind all that the system weighs). Instead of item ids, `--history` takes a file with
one JSON list of item ids a line.

`--rank_by=system`, the default, ranks by the search, the item table, the transition count and the
items' text together, as the validation users chose; `--rank_by=model` by the search alone;
`--rank_by=model_head` ranks what the search finds by the model's item table. A feed's run ranks by
`--rank_by=feed`, all of its sources together, which is then the default, by `ranker` or by
`two_tower`; its lines have no SID.

Item ids that the catalogue lacks are an error; `--unknown=skip` leaves them out and counts them. A
line has a `note` where a user has no history left to go by, and one with nothing else but `user`
and `note` stands for a user to whom no item is left.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from launch.wiring import feed_recommend, program, serving
from launch.wiring.histories import KnownItems, read_histories
from minirec import files
from minirec.recommend.sources import FEED, MODEL, MODEL_HEAD, RANKER, SYSTEM, TWO_TOWER
from minirec.serving.query import Query
from minirec.serving.recommender import answered
from minirec.sids import sid_string
from minirec.training.processes import is_first

_HISTORY = flags.DEFINE_string(
    "history", None, "Item ids as the log names them, oldest first, with commas; or a file."
)
_TOP = flags.DEFINE_integer("top", 10, "Items to recommend a user.", lower_bound=1)
_RANK_BY = flags.DEFINE_enum(
    "rank_by", SYSTEM, [SYSTEM, MODEL, MODEL_HEAD, FEED, RANKER, TWO_TOWER], "What ranks the items."
)
_EXCLUDE = flags.DEFINE_list("exclude", [], "Item ids that must not be recommended (no stock).")
_UNKNOWN = flags.DEFINE_enum(
    "unknown", "error", ["error", "skip"], "What to do about item ids that the catalogue lacks."
)


def recommend(
    job: program.Job,
    histories: Sequence[Sequence[str]],
    *,
    top: int,
    exclude: Sequence[str] = (),
    rank_by: str = SYSTEM,
    skip_unknown: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yields a row a recommended item: user, rank, item_id, title, sid, score.

    Rows of users without a history have a note; a user without an item has a row of user and note.

    Args:
        job: whose run recommends.
        histories: raw item ids, oldest first, a list a user; it may be empty.
        top: items a user.
        exclude: raw item ids that nobody shall get.
        rank_by: "system", "model" or "model_head"; for a feed's run "feed", which "system" stands
            for there, "ranker" or "two_tower".
        skip_unknown: leave out items that the catalogue lacks; standard error tells how many.

    Raises:
        ValueError: an item that the catalogue lacks, unless such are left out; or a run that does
            not fit the data.
    """
    if job.config.get("family") == FEED:
        found_by = {"top": top, "exclude": exclude, "skip_unknown": skip_unknown}
        yield from _by_feed(job, histories, rank_by=rank_by, **found_by)
        return
    if rank_by in (FEED, RANKER, TWO_TOWER):
        raise program.UsageError(f"--rank_by={rank_by}: only runs of the family feed rank by it")
    server = serving.load(job, at_least=top)
    served = server.served
    if rank_by == SYSTEM and served.system is None:
        rank_by = MODEL  # No validation users could choose how the sources are fused.
    if rank_by not in served.rankings:
        raise program.UsageError(
            f"--rank_by={rank_by}: this run has no item table that has learnt to rank "
            "(config.loss.item_weight, config.model.positions); use --rank_by=model"
        )
    catalogue = served.catalogue
    raw_item_ids, titles = catalogue.raw_item_ids, catalogue.titles
    known = KnownItems(raw_item_ids, server.run.catalogue.prepared, skip=skip_unknown)
    items = known({f"--history, user {user}": history for user, history in enumerate(histories)})
    allowed = np.ones(len(raw_item_ids), bool)
    allowed[known({"--exclude": exclude})[0]] = False
    if known.unknown and is_first():
        print(files.shown(f"note: {known.summary()}; they were left out"), file=sys.stderr)
    nothing = np.zeros(0, np.int32)
    queries = [
        Query(history, np.unique(history) if job.config.search.exclude_seen else nothing, rank_by)
        for history in items
    ]
    for user, found in enumerate(answered(server.recommender, served, queries, allowed)):
        best, scores = found.item[:top], found.score
        if not len(best):
            yield {"user": user, "note": _nothing_left(items[user], allowed)}
        for rank, item in enumerate(best):
            yield {
                "user": user,
                "rank": rank,
                "item_id": raw_item_ids[item],
                "title": titles[item],
                "sid": sid_string(catalogue.codes[item]),
                "score": round(float(scores[rank]), 6) if np.isfinite(scores[rank]) else None,
            } | ({} if len(items[user]) else {"note": _no_history(histories[user])})


def _by_feed(
    job: program.Job,
    histories: Sequence[Sequence[str]],
    *,
    top: int,
    exclude: Sequence[str],
    rank_by: str,
    skip_unknown: bool,
) -> Iterator[dict[str, Any]]:
    """Yields `recommend`'s rows of a feed's run."""
    by = FEED if rank_by == SYSTEM else rank_by
    run, recommend_to = feed_recommend.recommender(job, top=top, rank_by=by)
    prepared = run.catalogue.prepared
    raw_item_ids, titles = prepared.raw_item_ids, prepared.titles
    known = KnownItems(raw_item_ids, prepared, skip=skip_unknown)
    items = known({f"--history, user {user}": history for user, history in enumerate(histories)})
    allowed = np.ones(len(raw_item_ids), bool)
    allowed[known({"--exclude": exclude})[0]] = False
    if known.unknown and is_first():
        print(files.shown(f"note: {known.summary()}; they were left out"), file=sys.stderr)
    for user, (best, scores) in enumerate(recommend_to(items, allowed)):
        if not len(best):
            yield {"user": user, "note": _nothing_left(items[user], allowed)}
        for rank, (item, score) in enumerate(zip(best[:top], scores[:top], strict=True)):
            yield {
                "user": user,
                "rank": rank,
                "item_id": raw_item_ids[item],
                "title": titles[item],
                "score": round(float(score), 6) if np.isfinite(score) else None,
            } | ({} if len(items[user]) else {"note": _no_history(histories[user])})


def _no_history(raw: Sequence[str]) -> str:
    why = f": none of the {len(raw)} items given is known" if raw else ""
    return f"recommended without a history{why}"


def _nothing_left(history: np.ndarray, allowed: np.ndarray) -> str:
    return (
        f"no item is left: of {len(allowed)} items {int((~allowed).sum())} are excluded, and "
        f"{len(np.unique(history))} are in the history"
    )


def main(job: program.Job) -> None:
    """Prints the recommendations for each history."""
    if _HISTORY.value is None:
        raise program.UsageError("--history is missing: item ids with commas, or a file")
    histories = read_histories(_HISTORY.value)
    rows = recommend(
        job,
        histories,
        top=_TOP.value,
        exclude=_EXCLUDE.value,
        rank_by=_RANK_BY.value,
        skip_unknown=_UNKNOWN.value == "skip",
    )
    for row in rows:
        if is_first():
            print(files.json_line(row))


if __name__ == "__main__":
    program.run(main, many_processes=True)
