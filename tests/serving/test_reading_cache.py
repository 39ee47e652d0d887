import numpy as np

from minirec.serving.reading_cache import ReadingCache


def row(value):
    return (np.full(25, value, np.float32),)  # 100 bytes


def test_the_least_recently_used_is_dropped_when_the_bytes_are_full():
    cache = ReadingCache(300)
    for name in "abc":
        cache.put(name, row(0))
    assert cache.get("a") is not None
    cache.put("d", row(1))
    assert cache.get("b") is None
    assert [cache.get(name) is not None for name in "acd"] == [True] * 3
    assert (cache.num_bytes, len(cache)) == (300, 3)


def test_a_prompt_counts_as_found_begun_or_missing():
    cache = ReadingCache(0)
    for whole, begun in ((True, True), (True, False), (False, True), (False, False)):
        cache.count(whole=whole, begun=begun)
    assert (cache.hits, cache.grown, cache.misses) == (2, 1, 1)


def test_what_is_larger_than_the_cache_is_not_kept_and_drops_nothing():
    cache = ReadingCache(150)
    cache.put("a", row(0))
    cache.put("b", (np.zeros(100),))
    assert cache.get("a") is not None
    assert cache.get("b") is None
    cache.put("a", row(9))
    assert cache.get("a")[0][0] == 0
    assert cache.num_bytes == 100
    cache.clear()
    assert (len(cache), cache.num_bytes) == (0, 0)


def test_a_cache_of_no_bytes_keeps_nothing():
    cache = ReadingCache(0)
    cache.put("a", row(0))
    assert cache.get("a") is None
