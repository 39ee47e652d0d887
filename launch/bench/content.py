"""How fast each item's nearest by title are found in a large catalogue, and how many of them."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import scipy.sparse

from minirec.cores import num_threads
from minirec.recommend.content import content_rows, nearest

_ASKED = 1_000  # Items that the alternative is asked for; its time is scaled to all.
_CHECKED = 200  # Items whose exact neighbours are found, too.
_KEPT = 100


def titles(num_items: int, seed: int = 0) -> list[str]:
    """Returns made titles of about ten words, as shops have them.

    Each item is of a kind, which lends it three of its dozen words; it has a brand, five words of a
    common vocabulary, and a model number, in part that of others. Kinds, brands and words are drawn
    by Zipf's law.
    """
    rng = np.random.default_rng(seed)

    def draw(num: int, *shape: int) -> np.ndarray:
        share = 1 / (np.arange(num) + 10.0)
        return rng.choice(num, size=shape, p=share / share.sum())

    kind = draw(max(10, num_items // 50), num_items)
    own = kind[:, None] * 12 + rng.integers(0, 12, (num_items, 3))
    brand, word = draw(max(10, num_items // 50), num_items), draw(50_000, num_items, 5)
    number = rng.integers(0, max(10, num_items // 2), num_items)
    return [
        f"b{b} k{' k'.join(map(str, k))} w{' w'.join(map(str, w))} n{n}"
        for b, k, w, n in zip(brand, own, word, number, strict=True)
    ]


def run(num_items: int = 1_000_000) -> Iterator[dict[str, Any]]:
    """Yields a row of ours, and one of scikit-learn's exact search by brute force.

    `recall` is the share of the exact 100 nearest that ours finds, over some items: words that too
    many items have are not searched by. `of_floor`: the multiplications that the search cannot do
    without, timed by themselves on a part of the items, over the time.

    Args:
        num_items: N.
    """
    named = titles(num_items)
    begin = time.perf_counter()
    rows = content_rows(named, [[]] * num_items)
    weighed = time.perf_counter() - begin
    found = nearest(rows, kept=_KEPT)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    number = np.diff(scipy.sparse.csr_array(rows.T).indptr)
    ours = {
        "benchmark": "content",
        "implementation": "minirec",
        "num_items": num_items,
        "words": len(number),
        "words_left_out": found.left_out,
        "most_items_a_word": int(np.sort(number)[len(number) - found.left_out - 1]),
        "seconds": round(seconds, 1),
        "seconds_to_weigh": round(weighed, 1),
        "gigabytes": round(peak, 2),
        "recall": round(_recall(rows, found), 4),
        "of_floor": round(_floor(rows, number, found.left_out) / seconds, 3),
    }
    theirs = _brute_force(rows)
    ours["ratio"] = round(theirs / seconds, 1)
    yield {
        "benchmark": "content",
        "implementation": "sklearn_brute_force",
        "num_items": num_items,
        "seconds": round(theirs, 1),
        "asked": min(_ASKED, num_items),
    }
    yield ours


def _recall(rows: scipy.sparse.csr_array, found: Any) -> float:
    """Returns the share of the exact nearest (to a float16's rounding) among those found."""
    num_items = len(found.offsets) - 1
    some = np.random.default_rng(1).choice(num_items, min(_CHECKED, num_items), replace=False)
    exact = (rows[some] @ scipy.sparse.csr_array(rows.T)).toarray().astype(np.float16)
    exact[np.arange(len(some)), some] = 0
    hits = total = 0
    for item, cosine in zip(some, exact, strict=True):
        _, other, _ = found.of(np.array([item]))
        least = max(np.sort(cosine)[-_KEPT], np.float16(1e-4))
        hits += min(_KEPT, int((cosine[other] >= least).sum()))
        total += min(_KEPT, int((cosine >= least).sum()))
    return hits / max(1, total)


def _floor(rows: scipy.sparse.csr_array, number: np.ndarray, left_out: int) -> float:
    """Returns how long the products of all items take on all cores, from those of a part."""
    by_number = np.argsort(number, kind="stable")
    searched = scipy.sparse.csr_array(rows[:, by_number[: len(number) - left_out]])
    columns = scipy.sparse.csr_array(searched.T)
    num_items = len(rows.indptr) - 1
    starts = range(0, num_items, max(1024, num_items // 64))
    multiplied = sum(min(1024, num_items - start) for start in starts)
    begin = time.perf_counter()
    with ThreadPoolExecutor(num_threads()) as pool:
        for start in starts:
            pool.submit(lambda start=start: (searched[start : start + 1024] @ columns).nnz)
    return (time.perf_counter() - begin) * num_items / multiplied


def _brute_force(rows: scipy.sparse.csr_array) -> float:
    """Returns how long scikit-learn takes for all items, from some."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=_KEPT, metric="cosine", algorithm="brute").fit(rows)
    num_items = len(rows.indptr) - 1
    asked = min(_ASKED, num_items)
    begin = time.perf_counter()
    search.kneighbors(rows[:asked])
    return (time.perf_counter() - begin) * num_items / asked
