"""The health of a log, for the manifest: what a person should know before they trust a figure."""

from __future__ import annotations

from typing import Any

from pipelines.prepare.kcore import core_sizes
from pipelines.prepare.log_options import LogOptions
from pipelines.prepare.ordered_log import OrderedLog
from pipelines.prepare.previous import targets_in_history
from pipelines.prepare.splits import Split
from pipelines.prepare.ties import tied_targets


def log_health(
    log: OrderedLog, split: Split, options: LogOptions, *, has_times: bool, as_given: bool
) -> dict[str, Any]:
    """Returns the manifest's block `health`.

    Args:
        log: as it was ordered.
        split: of it.
        options: what was done to it.
        has_times: whether its times are real ones.
        as_given: whether the split is the data set's own, which nothing may be dropped from.

    Returns:
        `times`: `earliest`, `latest`, `bulk` (see `LogTimes.report`) of the rows that were read,
        and how many rows outside the window of time were not, `before` and `after`; None where the
        log has no times. `ties`: "log" or "shuffled". `targets`: for each split how many there are
        (`views`), how many of them tie with a neighbour (`tied`, None without times) and how many
        are items of their history (`in_history`), so that a list without seen items cannot hold
        them. `repeats`: events with an item that their user had before, of the `interactions` that
        are left of those `read`.
        `duplicates`: what became of them (`mode`), how many exact ones were `read` (None without
        times) and how many events were `dropped`. `k_core`: its `k` for users and for items, what
        it `dropped`, and in `next` what the next two would leave; None for a split as given.
    """
    views = {"valid": split.valid, "test": split.test}
    repeats, hidden = targets_in_history(log.columns["item"], log.offsets, views)
    targets = {
        name: {
            "views": len(of_split),
            "tied": int(tied_targets(log.ticks, log.offsets, of_split).sum())
            if has_times
            else None,
            "in_history": hidden[name],
        }
        for name, of_split in views.items()
    }
    return {
        "times": log.times,
        "ties": options.ties,
        "targets": targets,
        "repeats": repeats,
        "read": log.counts["read"]["interactions"],
        "interactions": int(log.offsets[-1]),
        "duplicates": {"mode": options.duplicates, **log.duplicates},
        "k_core": None if as_given else _cores(log, options),
    }


def _cores(log: OrderedLog, options: LogOptions) -> dict[str, Any]:
    """Returns what the k-core has dropped, and what the next two would leave."""
    before, after = (
        log.counts.get("after_duplicates", log.counts["read"]),
        log.counts.get("after_k_core"),
    )
    names = ("users", "items", "interactions")
    dropped = {name: before[name] - after[name] if after else 0 for name in names}
    # 0 and 1 are off, so that what comes after them is 2.
    of_users, of_items = (max(k, 1) for k in options.k_core)
    following = [(of_users + step, of_items + step) for step in (1, 2)]
    sizes = core_sizes(log.columns["item"], log.offsets, len(log.items), following)
    return {
        "k": list(options.k_core),
        "dropped": dropped,
        "next": [{"k": list(ks), **left} for ks, left in zip(following, sizes, strict=True)],
    }
