"""Ids that would be the same but for how they are written: `007` and `7`, `b00A ` and `B00a`."""

from __future__ import annotations

from collections.abc import Iterable


def plain_id(raw: str) -> str:
    """Returns an id without blanks around it, leading zeros, an integer's `.0`, and capitals."""
    text = raw.strip().casefold()
    whole, dot, rest = text.partition(".")
    if dot and whole.isdecimal() and not rest.strip("0"):
        text = whole  # As a table with gaps writes an integer.
    return text.lstrip("0") or text[-1:]


def alike(wanted: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Returns, for each wanted id that has one, the first known id that is plainly the same."""
    plain = {raw: plain_id(raw) for raw in wanted}
    asked, found = set(plain.values()), dict[str, str]()
    for raw in known:
        if (key := plain_id(raw)) in asked:
            found.setdefault(key, raw)
    return {raw: found[key] for raw, key in plain.items() if key in found}
