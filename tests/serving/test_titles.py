import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

from minirec.serving import catalogue
from minirec.serving.titles import TitleIndex


def test_an_index_finds_items_by_words_the_best_first_and_the_last_word_perhaps_begun():
    index = TitleIndex(["oak lamp", "oak oak desk", "pine lamp"], ["i0", "i1", "i2"])
    assert index.find("oak", 5) == [1, 0]
    assert index.find("lamp", 1) == [0]
    assert index.find("oak la", 5) == [0]
    assert index.find("i2", 5) == [2]
    assert index.find('"*', 5) == index.find("steel", 5) == []


def test_who_asks_at_once_gets_one_index_that_is_made_once(world, monkeypatch):
    made, both = [], threading.Barrier(2)

    class Slow(TitleIndex):
        def __init__(self, titles, raw_item_ids):
            made.append(self)
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(0.5)  # A second one that is being made would come here, too.
            super().__init__(titles, raw_item_ids)

    monkeypatch.setattr(catalogue, "TitleIndex", Slow)
    version = world.catalogue()
    with ThreadPoolExecutor(8) as pool:
        indexes = list(pool.map(lambda _: version.index, range(8)))
        found = list(pool.map(lambda index: index.find("oak", 3), indexes))
    assert len(made) == 1
    assert all(index is made[0] for index in indexes)
    assert found == [made[0].find("oak", 3)] * 8
