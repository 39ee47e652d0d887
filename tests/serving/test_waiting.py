import random
import types

import pytest

from minirec.serving.admission import Admission
from minirec.serving.refusals import RefusedError
from minirec.serving.request import Pending
from minirec.serving.waiting import Queue

TILE = 4


def waiting(key, came):
    pending = Pending()
    pending.came = came
    return types.SimpleNamespace(key=key, pending=pending)


def test_a_queue_counts_tiles_as_they_will_be_taken():
    lot, queue, all_of = random.Random(0), Queue(TILE), []
    for step in range(2_000):
        if lot.random() < 0.52:
            one = waiting(lot.randrange(5), step)
            ahead = sum(
                -(-number // TILE) if key != one.key else number // TILE
                for key in range(5)
                for number in [sum(other.key == key for other in all_of)]
            )
            assert queue.ahead(one.key) == ahead
            queue.push(one)
            all_of.append(one)
        elif all_of:
            first = min(all_of, key=lambda one: one.pending.came)
            assert queue.first() is first
            assert queue.pop(first.key) is first
            all_of.remove(first)
        assert len(queue) == len(all_of)
        counts = [sum(one.key == key for one in all_of) for key in range(5)]
        assert [queue.count(key) for key in range(5)] == counts
        assert queue.num_tiles == sum(-(-count // TILE) for count in counts)
    assert queue.pop("nobody") is None
    assert {id(one) for one in queue.clear()} == {id(one) for one in all_of}
    assert len(queue) == queue.num_tiles == 0


def test_who_errs_late_leaves_more_room_before_the_deadline():
    admission = Admission(max_queue=100, interval_s=0.1, latency_s=0.2)
    assert admission.check(20, 3, 1, deadline_s=0.7) == pytest.approx(0.6)
    for _ in range(1_000):
        admission.told(0.6, 0.8)
    assert admission.error_s == pytest.approx(0.2, rel=1e-3)
    with pytest.raises(RefusedError):
        admission.check(20, 3, 1, deadline_s=0.7)
    assert admission.check(20, 0, 1, deadline_s=0.1) == pytest.approx(
        0.3
    )  # Less than a tile waits.
    for _ in range(1_000):
        admission.told(0.6, 0.1)
    assert admission.margin_s == 0.0  # Answers that come early open no door.
