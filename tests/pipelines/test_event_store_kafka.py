"""A store fed from Kafka: librdkafka's own brokers, which it has for tests."""

import numpy as np
import pytest

from pipelines.events.kafka import KafkaFeed
from pipelines.events.messages import decode, encode
from pipelines.events.settings import LISTED, StoreSettings
from pipelines.events.store import EventStore
from tests.pipelines.event_twin import random_batch

kafka = pytest.importorskip("confluent_kafka", reason="needs the extra feed (confluent-kafka)")

SMALL = StoreSettings(retention_ms=10**6, max_events=300, max_relations=3, remembered_ids=128)


@pytest.fixture(scope="module")
def cluster():
    """A producer that carries the broker, and its address."""
    producer = kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "x"})
    (broker,) = producer.list_topics(timeout=30).brokers.values()
    return producer, f"{broker.host}:{broker.port}"


def send(producer, topic, messages):
    for number, message in enumerate(messages):
        producer.produce(topic, message, partition=0, timestamp=5_000 + number)
    assert producer.flush(30) == 0


def feed_of(servers, folder, group):
    return KafkaFeed(servers, group, folder, SMALL, topics=("events",))


def take(feed, until):
    for _ in range(200):
        if feed.taken >= until:
            break
        feed.poll(most=min(30, until - feed.taken), timeout_s=0.2)
    assert feed.taken == until


def read_all(servers, topic):
    reader = kafka.Consumer({"bootstrap.servers": servers, "group.id": "reader"})
    partitions = reader.list_topics(topic, timeout=30).topics[topic].partitions
    reader.assign([kafka.TopicPartition(topic, one, 0) for one in partitions])
    found = reader.consume(2, timeout=30)
    reader.close()
    return sorted(found, key=lambda message: int(dict(message.headers())["offset"]))


def committed(servers, group):
    asked = kafka.Consumer({"bootstrap.servers": servers, "group.id": group})
    (found,) = asked.committed([kafka.TopicPartition("events", 0)], timeout=30)
    asked.close()
    return found.offset


def test_a_feed_that_ended_without_saving_goes_on_from_its_snapshot_and_loses_nothing(
    cluster, tmp_path
):
    producer, servers = cluster
    batch = random_batch(np.random.default_rng(0), 200, 5_000, kinds=1)
    batch["user"][batch["action"] >= LISTED] = 0
    messages = encode(batch, SMALL)
    messages[20], messages[150] = b"{", b'{"action": "look"}'
    send(producer, "events", messages)
    twin = EventStore(SMALL)
    twin.apply(decode(messages, range(5_000, 5_200), SMALL).batch)

    feed = feed_of(servers, tmp_path, "first")
    take(feed, 90)
    feed.save()
    take(feed, 140)
    assert committed(servers, "first") == 90  # Applied, and not in the snapshot.
    feed.close()

    # The brokers for tests give a group whose last member left no partitions again for long; what
    # the snapshot holds counts, not what a group committed.
    again = feed_of(servers, tmp_path, "second")
    assert again.taken == 90
    take(again, 200)
    again.save()
    assert committed(servers, "second") == 200
    again.close()
    assert again.store.counts() == twin.counts()
    for name, column in twin.state().items():
        np.testing.assert_array_equal(column, again.store.state()[name], name)

    first, second = read_all(servers, "events.dead")
    assert (first.value(), second.value()) == (messages[20], messages[150])
    headers = dict(second.headers())
    assert headers["reason"].startswith(b"action is 'look'; known are")
    assert (headers["topic"], headers["partition"], headers["offset"]) == (b"events", b"0", b"150")
