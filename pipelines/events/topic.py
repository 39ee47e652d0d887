"""Where messages go that nobody waits for, such as what was served: SQLite, or a Kafka topic."""

from __future__ import annotations

import collections
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_TABLE = "CREATE TABLE IF NOT EXISTS messages (number INTEGER PRIMARY KEY, message TEXT NOT NULL)"


class SqliteTopic:
    """Messages in a table of SQLite, in the order in which they came.

    Args:
        path: the file; it is made where it is missing.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path):
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # One thread at a time sends: those that do a feed's side effects.
            self._rows = sqlite3.connect(
                path, isolation_level=None, timeout=30, check_same_thread=False
            )
            self._rows.execute("PRAGMA journal_mode=WAL")
            self._rows.execute("PRAGMA synchronous=NORMAL")  # A power cut may cost the last ones.
            self._rows.execute(_TABLE)
        except sqlite3.Error as error:
            raise OSError(f"{path}: no messages can be kept here: {error}") from error

    def send(self, message: Mapping[str, Any]) -> None:
        """Keeps a message.

        Raises:
            OSError: it cannot be kept.
        """
        text = json.dumps(message, separators=(",", ":"))
        try:
            self._rows.execute("INSERT INTO messages (message) VALUES (?)", (text,))
        except sqlite3.Error as error:
            raise OSError(f"{self._path}: cannot be written: {error}") from error

    def read(self) -> Iterator[dict[str, Any]]:
        """Yields all messages, the oldest first."""
        for (text,) in self._rows.execute("SELECT message FROM messages ORDER BY number"):
            yield json.loads(text)

    def close(self) -> None:
        """Closes the file."""
        self._rows.close()


class KafkaTopic:
    """Messages to a topic of Kafka; a broker that is away for a while gets them afterwards.

    Args:
        servers: addresses of Kafka's brokers.
        topic: its name.
        options: further options of librdkafka.

    Raises:
        ImportError: confluent-kafka is missing.
    """

    def __init__(self, servers: str, topic: str, options: Mapping[str, Any] | None = None):
        try:
            import confluent_kafka as kafka
        except ImportError as error:
            raise ImportError("Kafka needs confluent-kafka: pip install 'minirec[feed]'") from error
        self._topic = topic
        self._producer = kafka.Producer({"bootstrap.servers": servers, **(options or {})})
        self._failed: collections.deque[str] = collections.deque(maxlen=100)

    def send(self, message: Mapping[str, Any]) -> None:
        """Hands a message on; one of before that was lost is told of here.

        Raises:
            OSError: there is no room for it, or one before it could not be delivered.
        """
        value = json.dumps(message, separators=(",", ":")).encode()
        key = str(message.get("user", "")).encode()
        try:
            self._producer.produce(self._topic, value, key=key, on_delivery=self._delivered)
        except BufferError as error:
            raise OSError(f"{self._topic}: too many messages wait for Kafka") from error
        self._producer.poll(0)
        if self._failed:
            raise OSError(f"{self._topic}: a message of before was lost: {self._failed.popleft()}")

    def close(self, timeout_s: float = 5.0) -> None:
        """Delivers what waits, for so many seconds at most."""
        self._producer.flush(timeout_s)

    def _delivered(self, error: Any, message: Any) -> None:
        del message
        if error is not None:
            self._failed.append(error.str())
