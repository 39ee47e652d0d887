"""The benchmark of the event store: both sides do the same work, and each row is whole."""

from launch.bench import event_store
from pipelines.events.settings import FOLLOW, LISTED


def test_sqlite_answers_the_same_calls_with_the_same_items():
    events = event_store.made_events(3_000, 40)
    events["item"] = events["item"] % 300
    events["brand"] = events["item"] % 20
    events["category"] = events["brand"] % 5
    events["time"] = events["received"]  # SQLite's tables keep the last to arrive.
    events["id"][1::50] = events["id"][:-1:50]
    ours, theirs = event_store._Ours(3_000, 40), event_store._Sqlite()
    for start in range(0, 3_000, 500):
        ours.apply(events[start : start + 500])
        theirs.apply(events[start : start + 500])
    found = 0
    for user in range(0, 40 * 7919, 7919):
        history = ours.history(user, 50)
        assert sorted(history.time.tolist()) == sorted(row[4] for row in theirs.history(user, 50))
        new = ours.in_network(user, 10)
        assert new.time.tolist() == [row[1] for row in theirs.in_network(user, 10)]
        found += len(new.item)
    assert found > 100
    assert (events["action"] == FOLLOW).any()
    assert (events["action"] == LISTED).any()


def test_the_benchmark_gives_a_row_of_each():
    ours, theirs = event_store.run(num_users=500, num_events=20_000)
    assert (ours["implementation"], theirs["implementation"]) == ("minirec", "sqlite")
    assert ours.keys() == theirs.keys()
    assert all(value is not None for value in ours.values())
