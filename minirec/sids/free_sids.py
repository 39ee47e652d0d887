"""SIDs that no item has yet, the nearest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int, Int32

# Prefixes are numbered in mixed radix; Python's integers go on where 64 bits end.
_MOST = 2**62


class FreeSids:
    """The SIDs over some codes a level, less those that are taken.

    Args:
        allowed: the codes of each level that may be given, ascending.
        taken: `[N, L]` SIDs that are not free; they may repeat, and use other codes too.

    Raises:
        ValueError: a level without codes, or more SIDs than 2^62.
    """

    def __init__(self, allowed: Sequence[Int[np.ndarray, " k"]], taken: Int[np.ndarray, "N L"]):
        self._allowed = [np.asarray(codes, np.int64) for codes in allowed]
        tops = np.asarray(taken).max(axis=0, initial=0)
        self._sizes = [
            int(max(codes.max(), top)) + 1 for codes, top in zip(self._allowed, tops, strict=True)
        ]
        # SIDs below a prefix of each length, were none taken.
        self._capacity = [1]
        for codes in reversed(self._allowed):
            self._capacity.insert(0, self._capacity[0] * len(codes))
        if self._capacity[0] > _MOST:
            raise ValueError(f"allowed: {self._capacity[0]} SIDs; at most {_MOST} can be counted")
        self._used: list[dict[int, int]] = [{} for _ in range(len(allowed) + 1)]
        may = np.ones(len(taken), bool)
        for level, codes in enumerate(self._allowed):
            may &= np.isin(taken[:, level], codes)
        distinct = np.unique(np.asarray(taken)[may], axis=0)
        key = np.zeros(len(distinct), np.int64)
        for level in range(len(allowed) + 1):
            keys, counts = np.unique(key, return_counts=True)
            self._used[level] = dict(zip(keys.tolist(), counts.tolist(), strict=True))
            if level < len(allowed):
                key = key * self._sizes[level] + distinct[:, level]

    @property
    def num_free(self) -> int:
        """How many SIDs are free."""
        return self._capacity[0] - self._used[0].get(0, 0)

    def take(
        self, wanted: Sequence[int], preference: Callable[[Sequence[int]], Int[np.ndarray, " k"]]
    ) -> Int32[np.ndarray, " L"]:
        """Returns a free SID, which is taken from now on.

        It keeps as long a prefix of `wanted` as has a free SID below it; from there on each level
        takes the first code of its preference that has one.

        Args:
            wanted: the SID that the item would have, or its first levels.
            preference: from a prefix to the next level's codes, the best first.

        Raises:
            ValueError: none is free.
        """
        num_levels = len(self._allowed)
        for length in range(len(wanted), -1, -1):
            sid, key = [int(code) for code in wanted[:length]], 0
            for level, code in enumerate(sid):
                key = key * self._sizes[level] + code
            if not self._room(length, key):
                continue
            if any(code not in self._allowed[level] for level, code in enumerate(sid)):
                continue
            while len(sid) < num_levels:
                level = len(sid)
                code = next(
                    int(code)
                    for code in preference(sid)
                    if self._room(level + 1, key * self._sizes[level] + int(code))
                )
                sid.append(code)
                key = key * self._sizes[level] + code
            self._mark(sid)
            return np.array(sid, np.int32)
        raise ValueError(f"all {self._capacity[0]} SIDs are taken")

    def _room(self, length: int, key: int) -> bool:
        return self._used[length].get(key, 0) < self._capacity[length]

    def _mark(self, sid: Sequence[int]) -> None:
        key = 0
        self._used[0][0] = self._used[0].get(0, 0) + 1
        for level, code in enumerate(sid):
            key = key * self._sizes[level] + code
            self._used[level + 1][key] = self._used[level + 1].get(key, 0) + 1
