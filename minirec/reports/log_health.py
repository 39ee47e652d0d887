"""What people are told of a log's health: the manifest's block `health`, in words.

`pipelines.prepare.log_health` counts it and says what each entry is.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Health = Mapping[str, Any]

NOT_NEGLIGIBLE = 0.01
"""A share of the targets from which on a person is warned."""

_LEAST_GAP = datetime.timedelta(days=31)


def health_rows(health: Health) -> list[tuple[str, str]]:
    """Returns what there is to know, as names and texts in plain words."""
    rows = [("times", _times(health["times"]))]
    times = health["times"]
    if times is not None:
        rows.append(
            (
                "outside the window",
                f"{times['before']:,} rows before time_from, {times['after']:,} at time_to or "
                "later, left out",
            )
        )
    duplicates, read = health["duplicates"], health["read"]
    if duplicates["read"] is None:
        exact = "no times to tell them by"
    else:
        exact = f"{_of(duplicates['read'], read)} of the events read"
    rows.append(("exact duplicates", exact))
    mode = duplicates["mode"]
    rows.append(
        ("duplicates", f"{_of(duplicates['dropped'], read)} events dropped, duplicates={mode}")
    )
    repeats = _of(health["repeats"], health["interactions"])
    rows.append(("repeats", f"{repeats} of the events are with an item that the user had before"))
    for split, targets in health["targets"].items():
        rows.append((f"{split} targets", _targets(targets, health["ties"])))
    if health["k_core"] is not None:
        rows += _cores(health["k_core"])
    return rows


def health_lines(health: Health) -> list[str]:
    """Returns a line for each of `health_rows`, for a terminal."""
    return [f"log {name}: {text}" for name, text in health_rows(health)]


def health_notes(
    health: Health, splits: Iterable[str] = ("valid", "test"), *, exclude_seen: bool = False
) -> list[str]:
    """Returns what a person should mind before they trust a figure; nothing where all is well.

    Args:
        health: of the log.
        splits: those whose targets matter.
        exclude_seen: whether lists leave out the items of a user's history.
    """
    notes = [_far_times(health["times"])]
    for split in splits:
        targets = health["targets"][split]
        notes.append(tied_note(targets, health["ties"], split))
        if targets["views"]:
            hidden = targets["in_history"] / targets["views"]
            notes.append(hidden_note(hidden, exclude_seen=exclude_seen, split=split))
    return [note for note in notes if note]


def tied_note(targets: Mapping[str, Any], ties: str, split: str) -> str:
    """Returns what to say of targets that tie with a neighbour; "" if few."""
    tied, views = targets["tied"], targets["views"]
    if not tied or tied / views <= NOT_NEGLIGIBLE:
        return ""
    start = f"{tied / views:.1%} of the {split} targets have the time of an event next to them"
    if ties == "shuffled":
        return f"note: {start}; which of them is the target was drawn by lot (ties=shuffled)"
    return (
        f"warning: {start}, so that the order of the log's rows decides which of them is the "
        "target; config.data.ties=shuffled draws it by lot"
    )


def hidden_note(share: float, *, exclude_seen: bool, split: str = "") -> str:
    """Returns what to say of targets that `exclude_seen` hides from all lists; "" if few.

    Args:
        share: of the targets that are items of their user's history.
        exclude_seen: whether lists leave those out.
        split: whose targets, if it is to be said.
    """
    if not exclude_seen or share <= NOT_NEGLIGIBLE:
        return ""
    targets = f"{split} targets" if split else "targets"
    return (
        f"note: {share:.1%} of the {targets} are items of their user's history, which "
        "config.search.exclude_seen=True leaves out of every list; set it to False if items are to "
        "be recommended again"
    )


def tied_text(targets: Mapping[str, Any]) -> str:
    """Returns in a few words how many targets tie with a neighbour."""
    if targets["tied"] is None:
        return "no times"
    return _of(targets["tied"], targets["views"])


def tied_targets(health: Health, split: str) -> str:
    """Returns a sentence on the targets of a split that tie with a neighbour, for a table."""
    targets, ties = health["targets"][split], health["ties"]
    if note := tied_note(targets, ties, split):
        return f"{note[0].upper()}{note[1:]}."
    return f"Tied {split} targets: {tied_text(targets)}."


def _times(times: Mapping[str, Any] | None) -> str:
    if times is None:
        return "no times; the log is taken in its order"
    if times["earliest"] is None:
        return "no rows"
    text = f"{times['earliest']} to {times['latest']}"
    if times["bulk"] is not None:
        text += "; all but the outermost 0.1% of rows at each end in {} to {}".format(
            *times["bulk"]
        )
    return text


def _far_times(times: Mapping[str, Any] | None) -> str:
    """Returns what to say of times far from all others; "" if there are none."""
    if times is None or times["bulk"] is None:
        return ""
    low, high = (datetime.date.fromisoformat(day) for day in times["bulk"])
    ends = [datetime.date.fromisoformat(times[name][:10]) for name in ("earliest", "latest")]
    least = max(high - low, _LEAST_GAP)
    far = [
        f"the {name} row is of {times[name]}"
        for name, gap in (("earliest", low - ends[0]), ("latest", ends[1] - high))
        if gap > least
    ]
    if not far:
        return ""
    return (
        f"warning: {' and '.join(far)}, but all but the outermost 0.1% of rows lie within {low} to "
        f"{high}: is that a mistake? config.data.time_from and config.data.time_to leave such rows "
        "out"
    )


def _targets(targets: Mapping[str, Any], ties: str) -> str:
    views = targets["views"]
    if not views:
        return "none"
    text = f"{views:,}, of which {_of(targets['in_history'], views)} are items of their history"
    if targets["tied"] is None:
        return f"{text}; no times that could tie"
    tied = f"{text} and {_of(targets['tied'], views)} have the time of an event next to them"
    return f"{tied} (ties={ties})"


def _cores(cores: Mapping[str, Any]) -> list[tuple[str, str]]:
    name = f"k_core={_k(cores['k'])}"
    rows = [(name, f"dropped {_sizes(cores['dropped'])}")]
    for following in cores["next"]:
        rows.append((f"k_core={_k(following['k'])}", f"would leave {_sizes(following)}"))
    return rows


def _k(ks: Sequence[int]) -> str:
    return str(ks[0]) if ks[0] == ks[1] else f"{ks[0]},{ks[1]}"


def _sizes(sizes: Mapping[str, int]) -> str:
    names = ("users", "items", "interactions")
    return ", ".join(f"{sizes[name]:,} {name}" for name in names)


def _of(part: int, whole: int) -> str:
    """Returns a count and its share."""
    return f"{part:,} ({part / whole:.1%})" if whole else f"{part:,}"
