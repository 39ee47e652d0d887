"""Each item's nearest neighbours by the cosine of their rows, found by shared terms."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.sparse
from jaxtyping import Float16, Int, Int32, Int64

from minirec import files
from minirec.cores import num_threads
from minirec.files.schema import COUNT

_MAX_WORK = 1e10  # multiplications of a search; 1e8 a second, or so
_BLOCK_WORK = 4e6  # of them, and so entries at most, that a thread holds at one time
_KEPT_AT_LEAST = 100
_KEPT_IN_ALL = 12_000_000
_DTYPES = {"offsets": "int64", "item": "int32", "cosine": "float16"}
_ABOUT = "content.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbours:
    """Of each item the others that are most like it.

    Attributes:
        offsets: `[N + 1]`; the neighbours of item `i` are entries `offsets[i]` to `offsets[i + 1]`.
        item: `[E]`, the neighbours of an item by their ids; never the item itself.
        cosine: `[E]`, how near, above 0.
        left_out: terms that too many items have to be searched by: they count in no cosine.
    """

    offsets: Int64[np.ndarray, " N1"]
    item: Int32[np.ndarray, " E"]
    cosine: Float16[np.ndarray, " E"]
    left_out: int = 0

    @property
    def num_items(self) -> int:
        """N, size of the catalogue."""
        return len(self.offsets) - 1

    def of(
        self, items: Int[np.ndarray, " n"]
    ) -> tuple[Int64[np.ndarray, " P"], Int32[np.ndarray, " P"], Float16[np.ndarray, " P"]]:
        """Returns (place in `items`, neighbour, cosine) of all neighbours of some items."""
        start, number = self.offsets[items], self.offsets[items + 1] - self.offsets[items]
        place = np.repeat(np.arange(len(items)), number)
        first = np.cumsum(number) - number
        entry = np.arange(len(place)) + np.repeat(start - first, number)
        return place, self.item[entry], self.cosine[entry]

    def save(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Writes the arrays into a folder that appears whole or not at all.

        Args:
            folder: replaced where it lies there already.
            about: what they are the neighbours of, for `load`, as JSON.

        Raises:
            OSError: the folder cannot be written.
        """
        with files.atomic_folder(folder) as new:
            for name in _DTYPES:
                np.save(new / f"{name}.npy", getattr(self, name))
            files.write_sealed(new / _ABOUT, {"about": about, "left_out": self.left_out})
            files.write_checksums(new)

    @classmethod
    def load(cls, folder: Path, about: Mapping[str, Any], *, remedy: str) -> Self | None:
        """Returns the neighbours in a folder, or None where they are of something else.

        Args:
            folder: where `save` has written them.
            about: what they must be the neighbours of.
            remedy: what to do where a file is damaged, for errors.

        Raises:
            DamagedError: a file is another than was written.
        """
        files.check_folder(folder, [_ABOUT], remedy=remedy)
        kept = files.read_sealed(folder / _ABOUT, remedy, {"about": dict, "left_out": COUNT})
        if kept["about"] != about:
            return None
        files.check_folder(folder, remedy=remedy)
        arrays = {
            name: files.read_npy(folder / f"{name}.npy", dtype, (None,), mapped=True)
            for name, dtype in _DTYPES.items()
        }
        return cls(**arrays, left_out=kept["left_out"])


def nearest(
    rows: scipy.sparse.csr_array,
    *,
    kept: int | None = None,
    max_work: float = _MAX_WORK,
) -> Neighbours:
    """Returns the items that are most like each; of those alike at the end the lower ids.

    Every pair of items that share a term is looked at, which takes the sum of squares of how many
    items have each term. Where that is more than `max_work`, the terms that most items have are
    left out, until it is not; they weigh least.

    Args:
        rows: `[N, terms]`, each of length one or empty.
        kept: neighbours an item at most; None: as many as make 12 million in all, and at least 100.
        max_work: multiplications at most, beyond which terms are left out.
    """
    number = np.diff(scipy.sparse.csr_array(rows.T).indptr).astype(np.float64)
    kept = kept or max(_KEPT_AT_LEAST, _KEPT_IN_ALL // max(1, len(rows.indptr) - 1))
    by_number = np.argsort(number, kind="stable")
    affordable = np.sort(by_number[np.cumsum(number[by_number] ** 2) <= max_work])
    searched = scipy.sparse.csr_array(rows[:, affordable], dtype=np.float32)
    columns = scipy.sparse.csr_array(searched.T)

    def search(block: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        start, stop = block
        keys, found = _best(searched[start:stop] @ columns, start, kept)
        return _item_of(keys), (keys >> 32).astype(np.uint16).view(np.float16), found

    items, cosines, numbers = [], [], [np.zeros(0, np.int64)]
    with ThreadPoolExecutor(num_threads()) as pool:  # The products leave the interpreter alone.
        for item, cosine, found in pool.map(
            search, _blocks(searched.astype(bool) @ number[affordable])
        ):
            items.append(item)
            cosines.append(cosine)
            numbers.append(found)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(numbers))])
    return Neighbours(
        offsets.astype(np.int64),
        np.concatenate([np.zeros(0, np.int32), *items]),
        np.concatenate([np.zeros(0, np.float16), *cosines]),
        len(number) - len(affordable),
    )


def _blocks(work: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields runs of rows whose work is about that of a block."""
    block = (np.cumsum(work) / _BLOCK_WORK).astype(np.int64)
    starts = np.flatnonzero(np.diff(block, prepend=-1))
    yield from itertools.pairwise([*starts.tolist(), len(work)])


_LOW = np.int64(2**32 - 1)
_RELATIVE, _ABSOLUTE = 2.0**-10, 2.0**-24  # As far apart as two that round to one float16 can be.


def _item_of(keys: Int64[np.ndarray, " E"]) -> Int32[np.ndarray, " E"]:
    return (_LOW - (keys & _LOW)).astype(np.int32)


def _best(
    product: scipy.sparse.csr_array, start: int, kept: int
) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " b"]]:
    """Returns the keys of each row's nearest, by their items, and how many each row has.

    A key has the cosine's bits above and the item, counted downwards, below. Bits of numbers from 0
    on are in the numbers' order, so that keys are in the order of neighbours, and no two are equal.
    """
    near = _near(product, kept + 1)  # The item itself may be among them.
    row = np.searchsorted(product.indptr, near, side="right") - 1
    column = product.indices[near].astype(np.int64)
    bits = product.data[near].astype(np.float16).view(np.uint16).astype(np.int64)
    other = (column != row + start) & (bits > 0)
    row, keys = row[other], ((bits << 32) + (_LOW - column))[other]
    numbers = np.diff(product.indptr)
    ends = np.searchsorted(row, np.arange(len(numbers) + 1))
    best = []
    for first, last in itertools.pairwise(ends):
        mine = keys[first:last]
        if len(mine) > kept:
            mine = np.partition(mine, len(mine) - kept)[len(mine) - kept :]
        best.append(mine)
    best = np.concatenate(best)
    numbers = np.minimum(np.diff(ends), kept)
    order = np.lexsort((_item_of(best), np.repeat(np.arange(len(numbers)), numbers)))
    return best[order], numbers


def _near(product: scipy.sparse.csr_array, number: int) -> Int64[np.ndarray, " E"]:
    """Returns the places of each row's largest entries, so many of them and all that round alike.

    Rows have thousands of entries: what is done to all of them is to be little.
    """
    places = []
    for first, last in itertools.pairwise(product.indptr.tolist()):
        entries = product.data[first:last]
        if last - first > number:
            least = np.partition(entries, last - first - number)[last - first - number]
            alike = max(least * _RELATIVE, _ABSOLUTE)
            places.append(first + np.flatnonzero(entries >= least - alike))
        else:
            places.append(np.arange(first, last))
    return np.concatenate(places)
