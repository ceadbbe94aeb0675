"""A client of another library than ours (librdkafka), that knows the wire from its documentation alone.

By default librdkafka partitions by CRC32 and not, as Kafka's own clients do, by murmur2.
"""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)

KAFKAS_OWN = "murmur2_random"
LIBRDKAFKAS_OWN = "consistent_random"
DELIVERY_S_MAX = 30.0


class Heard(NamedTuple):
    """A committed record as an outsider sees it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    raw: bytes | None
    headers: Mapping[str, bytes]

    @property
    def event_type(self) -> str:
        return self.headers.get("event-type", b"").decode()

    @property
    def value(self) -> Any:
        return json.loads(self.raw or b"null")

    @property
    def order_id(self) -> str:
        """The order that it is about; "" for none, and for what is no JSON object."""
        try:
            value = self.value
        except ValueError:
            return ""
        if not isinstance(value, dict):
            return ""
        return str(value.get("order_id") or value.get("order", {}).get("order_id", ""))

    @property
    def error(self) -> str:
        return self.headers.get("dead-letter-error", b"").decode()


class Client:
    """Sends records and waits until the broker has them."""

    def __init__(
        self, bootstrap: str, partitioner: str = KAFKAS_OWN, settings: Mapping[str, Any] | None = None
    ) -> None:
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "partitioner": partitioner, "linger.ms": 0, **(settings or {})}
        )

    @property
    def producer(self) -> Producer:
        return self._producer

    def send(
        self,
        topic: str,
        key: str | bytes | None,
        value: Mapping[str, Any] | bytes | None,
        event_type: str | None,
        *,
        version: str = "1",
        partition: int | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
    ) -> tuple[int, int]:
        """Send one record; returns its partition and offset. `event_type` None: without our headers."""
        delivered: list[Any] = []

        def note(error: KafkaError | None, message: Any) -> None:
            delivered.append(error or (message.partition(), message.offset()))

        own = (
            []
            if event_type is None
            else [("event-type", event_type.encode()), ("schema-version", version.encode())]
        )
        where = {} if partition is None else {"partition": partition}
        data = json.dumps(value).encode() if isinstance(value, Mapping) else value
        self._producer.produce(
            topic, value=data, key=key, headers=[*own, *headers], on_delivery=note, **where
        )
        self._producer.flush(DELIVERY_S_MAX)
        assert delivered, f"{topic}: not delivered within {DELIVERY_S_MAX} s"
        if isinstance(delivered[0], KafkaError):
            raise KafkaException(delivered[0])
        found: tuple[int, int] = delivered[0]
        return found


class Listener:
    """Hears every committed record of some topics from their beginning, in a thread of its own."""

    def __init__(self, bootstrap: str, topics: Iterable[str]) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"outside-{time.time_ns()}",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        self._records: list[Heard] = []
        self._over = threading.Event()
        self._consumer.assign(
            [
                TopicPartition(topic, partition, 0)
                for topic in topics
                for partition in self._consumer.list_topics(topic, 10.0).topics[topic].partitions
            ]
        )
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        while not self._over.is_set():
            for message in self._consumer.consume(500, 0.1):
                if message.error() is None:
                    self._records.append(_heard(message))

    def close(self) -> None:
        self._over.set()
        self._thread.join(10)
        self._consumer.close()

    def heard(self, topic: str) -> list[Heard]:
        return [each for each in list(self._records) if each.topic == topic]

    def of_order(self, order_id: str) -> list[Heard]:
        """What the services have said of an order, in no order across topics."""
        decisions = ("risk-decisions", "compliance-decisions", "executions")
        return [each for each in list(self._records) if each.topic in decisions and each.order_id == order_id]

    def until(self, condition: Callable[[], Any], what: str, within_s: float = 20.0) -> Any:
        """The first truthy answer; fails after a while with what was heard last."""
        deadline = time.monotonic() + within_s
        while not (answer := condition()):
            last = "\n".join(str(each) for each in list(self._records)[-12:])
            assert time.monotonic() < deadline, f"never {what}; heard last:\n{last}"
            time.sleep(0.02)
        return answer


def _heard(message: Any) -> Heard:
    kind, timestamp_ms = message.timestamp()
    return Heard(
        message.topic(),
        message.partition(),
        message.offset(),
        -1 if kind == TIMESTAMP_NOT_AVAILABLE else timestamp_ms,
        message.key(),
        message.value(),
        dict(message.headers() or ()),
    )


_sequences = itertools.count(1)


def new_account(prefix: str = "outsider") -> str:
    """An account name that no other test has."""
    return f"{prefix}-{next(_sequences)}-{time.time_ns() % 10**9}"
