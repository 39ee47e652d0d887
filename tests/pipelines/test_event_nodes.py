"""Stores that keep what is appended: by a log of their own, and by Kafka."""

import concurrent.futures
import json
import sqlite3
import threading

import numpy as np
import pytest

from pipelines.events.by_name import UnavailableError
from pipelines.events.embedded import EmbeddedEvents
from pipelines.events.log import EventLog
from pipelines.events.settings import StoreSettings
from pipelines.events.streamed import StreamedEvents
from pipelines.events.topic import KafkaTopic, SqliteTopic

SETTINGS = StoreSettings(max_events=5000, remembered_ids=1 << 12)
NOW = 1_760_000_000_000


def event(number, user="ann", **more):
    value = {"event_id": f"e{number}", "user": user, "action": "view", "item": f"i{number % 7}"}
    return json.dumps(value | {"time_ms": NOW + number} | more).encode()


def opened(folder, **more):
    return EmbeddedEvents(folder, SETTINGS, 1000.0, clock=lambda: NOW + 500, **more)


def test_what_was_appended_by_many_at_once_is_there_after_a_restart(tmp_path):
    node = opened(tmp_path, snapshot_every=20)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: node.append([event(n), event(n + 100)]), range(50)))
    again = node.append([event(3), b"{", event(900, action="look"), event(901)])
    assert again.accepted == 2
    assert sorted(again.malformed) == [1, 2]
    assert "action is 'look'" in again.malformed[2]
    before = node.store.counts()
    assert (before["applied"], before["duplicates"]) == (101, 1)
    columns = node.history("ann", 100)
    assert len(columns["item"]) == 100  # The newest, of 101.
    assert node.history("bob", 9)["item"].tolist() == []
    node.close()
    node.close()
    with pytest.raises(UnavailableError, match="closed"):
        node.append([event(1)])
    back = opened(tmp_path)
    assert back.store.counts() == before
    np.testing.assert_array_equal(back.history("ann", 100)["time"], columns["time"])
    back.close()


def test_a_second_store_is_not_given_a_folder_that_one_holds(tmp_path):
    node = opened(tmp_path)
    with pytest.raises(OSError, match="another program has this event store open"):
        opened(tmp_path)
    node.append([event(1)])
    node.close()
    again = opened(tmp_path)
    assert again.store.counts()["applied"] == 1
    again.close()


def test_a_store_whose_snapshot_fails_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(EventLog, "forget", lambda self, offset: raise_full())
    node = opened(tmp_path, snapshot_every=1)
    for number in range(3):
        assert node.append([event(number)]).accepted == 1
    monkeypatch.undo()
    node.close()
    assert "no snapshot could be written" in caplog.text
    again = opened(tmp_path)
    assert again.store.counts()["applied"] == 3
    again.close()


def raise_full():
    raise sqlite3.OperationalError("database or disk is full")


def test_relations_stock_and_activity_go_by_names(tmp_path):
    node = opened(tmp_path)
    listed = {"user": None, "action": "listed", "brand": "Halden", "item": "i3"}
    node.append(
        [
            event(1), event(2), event(8, user="bob"), event(10, action="follow", brand="Halden"),
            event(11, **listed), event(12, **(listed | {"item": "i4", "action": "out_of_stock"})),
        ]
    )  # fmt: skip
    keys = node.new_items(5)["item"]
    assert node.in_network("ann", 5)["item"].tolist() == keys.tolist()
    assert len(node.relations("ann")["followed"]) == 1
    assert node.relations("ann")["blocked"].tolist() == []
    assert node.available(keys).tolist() == [True]
    activity = node.activity()
    assert activity["count"].sum() == 3
    assert len(activity["item"]) == 2  # i1 twice, i2.
    node.close()


def test_a_store_of_other_settings_is_refused(tmp_path):
    node = opened(tmp_path)
    node.append([event(1)])
    node.close()
    other = StoreSettings(max_events=7, remembered_ids=1 << 12)
    with pytest.raises(ValueError, match="max_events=7"):
        EmbeddedEvents(tmp_path, other, 1000.0)


def test_messages_are_kept_in_order(tmp_path):
    topic = SqliteTopic(tmp_path / "served.sqlite")
    threads = [threading.Thread(target=topic.send, args=({"n": n},)) for n in range(3)]
    for thread in threads:
        thread.start()
        thread.join()
    assert [message["n"] for message in topic.read()] == [0, 1, 2]
    topic.close()


def test_a_store_fed_from_kafka_has_what_was_appended_and_refuses_what_it_cannot_keep(tmp_path):
    kafka = pytest.importorskip("confluent_kafka", reason="needs the extra feed (confluent-kafka)")
    broker = kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "x"})
    (one,) = broker.list_topics(timeout=30).brokers.values()
    servers = f"{one.host}:{one.port}"
    options = {"topic.metadata.refresh.interval.ms": 100, "log_level": 0}
    node = StreamedEvents(
        servers, "store", tmp_path, SETTINGS, 1000.0, options=options, poll_s=0.02,
        clock=lambda: NOW + 500,
    )  # fmt: skip
    done = node.append([event(1), b"[]", event(2)], timeout_s=30)
    assert (done.accepted, list(done.malformed)) == (2, [1])
    served = KafkaTopic(servers, "served")
    served.send({"user": "ann", "items": ["i1"]})
    served.close(30)
    end = threading.Event()
    for _ in range(600):
        if node.store.counts()["received"] == 2:
            break
        end.wait(0.05)
    assert node.store.counts()["received"] == 2
    del broker  # Its brokers go with it.
    with pytest.raises(UnavailableError, match="Kafka has not taken 1 message"):
        node.append([event(3)], timeout_s=0.2)
    node.close()
