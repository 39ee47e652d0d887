"""Several short examples in one row: a plan made once, by the histogram of lengths."""

from __future__ import annotations

import bisect
import dataclasses

import numpy as np
from jaxtyping import Int

from pipelines.batches.shuffle import shuffled_rows


@dataclasses.dataclass(frozen=True, eq=False)
class Packing:
    """Which examples share a row.

    Attributes:
        examples: int64 [n], example numbers, row after row; each number once.
        offsets: int64 [R + 1]; row r holds `examples[offsets[r]:offsets[r + 1]]`, in this order.
    """

    examples: Int[np.ndarray, " n"]
    offsets: Int[np.ndarray, " rows_and_one"]

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1


def pack(lengths: Int[np.ndarray, " n"], capacity: int, *, seed: int) -> Packing:
    """Packs examples in rows, best fit first, longest first; no example is cut or left out.

    Best-fit-decreasing over the histogram of lengths instead of over the examples: rows with the
    same content are handled at once, so that the cost hardly depends on the number of examples
    (histogram packing of Krell et al., "Efficient Sequence Packing without Cross-contamination",
    2021). The examples of a length are dealt to its places in a random order drawn by `seed`.

    Args:
        lengths: length of every example, in any unit.
        capacity: length of a row, in the same unit.
        seed: who sits beside whom.

    Returns:
        The plan; the same arguments give the same plan.

    Raises:
        ValueError: a length is below 1 or above the capacity (the message names the example).
    """
    lengths = np.asarray(lengths)
    bad = np.flatnonzero((lengths < 1) | (lengths > capacity))
    if len(bad):
        raise ValueError(
            f"example {bad[0]} has length {lengths[bad[0]]}: "
            f"packing in rows of {capacity} needs lengths from 1 to {capacity}"
        )
    counts = np.bincount(lengths, minlength=capacity + 1)
    order = shuffled_rows(np.arange(len(lengths)), max(len(lengths), 1), seed=seed)
    # The smallest type makes the stable sort a radix sort.
    narrow = lengths[order].astype(np.uint16 if capacity < 2**16 else np.int64)
    by_length = order[np.argsort(narrow, kind="stable")]
    cursor = np.concatenate([[0], np.cumsum(counts)])  # where each length's examples begin
    examples, widths = [], []
    for pattern, rows in _patterns(counts, capacity):
        columns = []
        for length, times in pattern:
            begin = cursor[length]
            cursor[length] += rows * times
            columns.append(by_length[begin : cursor[length]].reshape(rows, times))
        block = np.concatenate(columns, axis=1)
        examples.append(block.reshape(-1))
        widths.append(np.full(rows, block.shape[1], np.int64))
    empty = np.zeros(0, np.int64)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([*widths, empty]))])
    return Packing(np.concatenate([*examples, empty]), offsets.astype(np.int64))


# A row's content: (length, how many times), longest first.
_Pattern = tuple[tuple[int, int], ...]


def _patterns(counts: np.ndarray, capacity: int) -> list[tuple[_Pattern, int]]:
    """Returns row contents and how many rows have each, by best-fit-decreasing."""
    rows_with_room: dict[int, list[tuple[_Pattern, int]]] = {}
    rooms: list[int] = []  # the keys of rows_with_room, sorted
    full: list[tuple[_Pattern, int]] = []

    def put(pattern: _Pattern, room: int, rows: int) -> None:
        if room == 0:
            full.append((pattern, rows))
            return
        if room not in rows_with_room:
            rows_with_room[room] = []
            bisect.insort(rooms, room)
        rows_with_room[room].append((pattern, rows))

    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            place = bisect.bisect_left(rooms, length)
            if place < len(rooms):
                room = rooms[place]
                pattern, rows = rows_with_room[room].pop()
                if not rows_with_room[room]:
                    del rows_with_room[room], rooms[place]
            else:
                room, pattern, rows = capacity, (), left
            # One after the other, these would all go to the same row until it has no room.
            times = min(room // length, left)
            used = min(rows, left // times)
            put((*pattern, (length, times)), room - times * length, used)
            if rows > used and pattern:
                put(pattern, room, rows - used)
            left -= used * times
    for room in rooms:
        full.extend(rows_with_room[room])
    return full
