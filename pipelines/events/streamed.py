"""An event store in this process, fed from Kafka: appending is producing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.events.by_name import Appended, StoreReads, UnavailableError
from pipelines.events.kafka import KafkaFeed
from pipelines.events.messages import decode
from pipelines.events.settings import LISTED, StoreSettings

_LOG = logging.getLogger(__name__)


class StreamedEvents(StoreReads):
    """A store that follows Kafka's topics `events` and `catalogue`, and produces to them.

    An append returns once the brokers have the messages; the store has them a moment later.

    Args:
        servers: addresses of Kafka's brokers.
        group: the consumer group.
        folder: where snapshots lie.
        settings: what the store keeps.
        half_life_ms: see `StoreReads`.
        save_s: seconds between two snapshots.
        poll_s: seconds that a look for messages waits.
        options: further options of librdkafka.
        consumer_options: of its consumer alone.
        clock: milliseconds since 1970.

    Raises:
        ImportError: confluent-kafka is missing.
        ValueError: the snapshot was written with other settings.
    """

    def __init__(
        self,
        servers: str,
        group: str,
        folder: Path,
        settings: StoreSettings,
        half_life_ms: float,
        *,
        save_s: float = 30.0,
        poll_s: float = 0.1,
        options: Mapping[str, Any] | None = None,
        consumer_options: Mapping[str, Any] | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ):
        super().__init__(half_life_ms, clock)
        self._feed = KafkaFeed(
            servers, group, folder, settings, options=options, consumer_options=consumer_options
        )
        import confluent_kafka as kafka

        self._kafka = kafka
        self._producer = kafka.Producer(
            {"bootstrap.servers": servers, "enable.idempotence": True, **(options or {})}
        )
        self.store, self._settings = self._feed.store, settings
        self._save_s, self._poll_s = save_s, poll_s
        self._stop = threading.Event()
        self._reader = threading.Thread(target=self._follow, name="kafka", daemon=True)
        self._reader.start()

    def append(self, messages: Sequence[bytes], timeout_s: float = 10.0) -> Appended:
        """Keeps the events of messages with Kafka's brokers; see `StoreReads`."""
        decoded = decode(messages, [self._clock()] * len(messages), self._settings)
        malformed = {one.position: one.reason for one in decoded.malformed}
        good = [text for place, text in enumerate(messages) if place not in malformed]
        waiting, failed = set(range(len(good))), []
        for place, (text, event) in enumerate(zip(good, decoded.batch, strict=True)):

            def delivered(error: Any, message: Any, place: int = place) -> None:
                del message
                waiting.discard(place)
                if error is not None:
                    failed.append(error.str())

            topic = "catalogue" if event["action"] >= LISTED else "events"
            key = str(int(event["item" if topic == "catalogue" else "user"])).encode()
            try:
                self._producer.produce(topic, text, key=key, on_delivery=delivered)
            except (BufferError, self._kafka.KafkaException) as error:
                raise UnavailableError(f"Kafka takes no messages: {error}") from error
        until = time.monotonic() + timeout_s
        while waiting and not failed and (left := until - time.monotonic()) > 0:
            self._producer.poll(min(left, 0.05))
        if failed or waiting:
            why = failed[0] if failed else f"no answer in {timeout_s:.1f} s"
            # Those that the brokers get later all the same are known again by their ids.
            raise UnavailableError(
                f"Kafka has not taken {len(waiting) or len(failed)} messages: {why}"
            )
        return Appended(len(good), malformed)

    def close(self) -> None:
        """Takes a last snapshot where Kafka answers, and leaves the group."""
        self._stop.set()
        self._reader.join()

    def _follow(self) -> None:
        saved_at, taken = time.monotonic(), self._feed.taken
        while not self._stop.is_set():
            try:
                self._feed.poll(timeout_s=self._poll_s)
            except OSError as error:
                _LOG.warning("%s", error)
                self._stop.wait(1.0)
            if time.monotonic() - saved_at >= self._save_s and self._feed.taken > taken:
                saved_at = time.monotonic()
                if self._save(10.0):
                    taken = self._feed.taken
        if self._feed.taken > taken:
            self._save(5.0)
        self._feed.close()

    def _save(self, timeout_s: float) -> bool:
        try:
            # Without brokers a commit would wait for as long as a session lasts.
            self._producer.list_topics("events", timeout=1.0)
            self._feed.save(timeout_s)
        except (OSError, self._kafka.KafkaException) as error:
            # What was not committed is read again, and known by its ids.
            _LOG.warning("%s", error)
            return False
        return True
