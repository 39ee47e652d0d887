"""An event store fed from Kafka, by confluent-kafka: nothing is lost, whatever is killed when.

The store's snapshots hold the offsets of the partitions that they have taken; these are committed
to the group only then. After a kill the store is the snapshot's, and reading goes on behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.events.messages import Decoded, decode
from pipelines.events.settings import StoreSettings
from pipelines.events.snapshot import read_snapshot, write_snapshot
from pipelines.events.store import EventStore

_LOG = logging.getLogger(__name__)


class KafkaFeed:
    """A consumer that applies what arrives in its topics to a store.

    One thread calls `poll` and `save`; others may read `store`. The events of a partition are
    applied in their order; those of a user share one where the key of a message is the user.
    An event's `received` is its message's timestamp, so that it is the same whenever it is read.

    Args:
        servers: addresses of Kafka's brokers, `host:port`, with commas.
        group: the consumer group; its members share the partitions.
        folder: where this member's snapshots lie; each member has its own.
        settings: what the store keeps.
        topics: where events come from.
        dead_letters: the topic for messages that are no events. Headers name the reason and the
            topic, partition and offset.
        options: further options of librdkafka, for its consumer and its producer alike: security
            and the like.
        consumer_options: options of the consumer alone, such as `session.timeout.ms`.

    Raises:
        ImportError: confluent-kafka is missing; the extra `feed` has it.
        ValueError: the snapshot was written with other settings.
        DamagedError: the snapshot is not as it was written.
    """

    def __init__(
        self,
        servers: str,
        group: str,
        folder: Path,
        settings: StoreSettings,
        *,
        topics: tuple[str, ...] = ("events", "catalogue"),
        dead_letters: str = "events.dead",
        options: Mapping[str, Any] | None = None,
        consumer_options: Mapping[str, Any] | None = None,
    ):
        try:
            import confluent_kafka as kafka
        except ImportError as error:
            raise ImportError("Kafka needs confluent-kafka: pip install 'minirec[feed]'") from error
        self._kafka = kafka
        self._folder, self._dead_letters = folder, dead_letters
        found = read_snapshot(folder, settings)
        self._taken, self._next = 0, {}
        self.store = EventStore(settings)
        """What the events were applied to."""
        if found is not None:
            self.store, self._taken, source = found
            self._next = {
                (topic, int(partition)): offset
                for topic, partitions in source.get("partitions", {}).items()
                for partition, offset in partitions.items()
            }
        self._failed: list[str] = []
        common = {"bootstrap.servers": servers, **(options or {})}
        self._producer = kafka.Producer({**common, "enable.idempotence": True})
        self._consumer = kafka.Consumer(
            {
                **common,
                **(consumer_options or {}),
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        self._consumer.subscribe(list(topics), on_assign=self._assigned)

    @property
    def taken(self) -> int:
        """Messages taken since the first start, malformed ones too."""
        return self._taken

    def poll(self, most: int = 1024, timeout_s: float = 1.0) -> Decoded:
        """Applies what arrives, at most `most` messages, and returns what it was.

        Args:
            most: messages.
            timeout_s: seconds to wait for the first ones.

        Raises:
            OSError: Kafka has an error that does not pass.
        """
        records: list[Any] = []
        for message in self._consumer.consume(most, timeout_s):
            error = message.error()
            if error is None:
                records.append(message)
            elif error.fatal():
                raise OSError(f"Kafka: {error.str()}")
            else:  # librdkafka itself tries again.
                _LOG.warning("Kafka: %s", error.str())
        received = [message.timestamp()[1] for message in records]
        values = [message.value() or b"" for message in records]
        decoded = decode(values, received, self.store.settings)
        for wrong in decoded.malformed:
            self._bury(records[wrong.position], wrong.reason)
        self.store.apply(decoded.batch)
        for message in records:
            self._next[message.topic(), message.partition()] = message.offset() + 1
        self._taken += len(records)
        return decoded

    def save(self, timeout_s: float = 30.0) -> Path:
        """Writes a snapshot, and commits the offsets that it holds.

        Args:
            timeout_s: seconds to wait until Kafka has the dead letters.

        Returns:
            The snapshot's folder.

        Raises:
            OSError: the disk or Kafka refuses; nothing was committed, and nothing is lost.
        """
        if self._producer.flush(timeout_s) or self._failed:
            reason = self._failed[0] if self._failed else f"no answer in {timeout_s} seconds"
            raise OSError(
                f"{self._dead_letters}: dead letters cannot be written: {reason}; "
                "begin again from the snapshot"
            )
        partitions: dict[str, dict[str, int]] = {}
        for (topic, partition), offset in sorted(self._next.items()):
            partitions.setdefault(topic, {})[str(partition)] = offset
        source = {"partitions": partitions}
        place = write_snapshot(self._folder, self.store, self._taken, source)
        mine = {(one.topic, one.partition) for one in self._consumer.assignment()}
        held = [
            self._kafka.TopicPartition(topic, partition, offset)
            for (topic, partition), offset in self._next.items()
            if (topic, partition) in mine
        ]
        if held:
            try:
                self._consumer.commit(offsets=held, asynchronous=False)
            except self._kafka.KafkaException as error:
                raise OSError(f"Kafka: offsets cannot be committed: {error}") from error
        return place

    def close(self) -> None:
        """Leaves the group; what was applied since the last `save` is read again then."""
        self._consumer.close()

    def _bury(self, message: Any, reason: str) -> None:
        place = {
            "topic": message.topic(),
            "partition": str(message.partition()),
            "offset": str(message.offset()),
        }
        headers: list[tuple[str, str | bytes | None]] = [("reason", reason.encode())]
        headers += [(name, value.encode()) for name, value in place.items()]
        self._producer.produce(
            self._dead_letters, message.value() or b"", headers=headers, on_delivery=self._buried
        )
        self._producer.poll(0)

    def _buried(self, error: Any, message: Any) -> None:
        if error is not None:
            self._failed.append(error.str())

    def _assigned(self, consumer: Any, partitions: list[Any]) -> None:
        # What the snapshot holds counts, not what the group committed: a kill between the two, or
        # a partition that was another member's for a while, would leave a gap.
        for one in partitions:
            one.offset = self._next.get((one.topic, one.partition), one.offset)
        consumer.assign(partitions)
