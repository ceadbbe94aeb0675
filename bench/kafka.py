"""The bench's own view of Kafka, by librdkafka: no contender's code measures a contender."""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from confluent_kafka import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
    Consumer,
    ConsumerGroupState,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
    AdminClient,
    NewTopic,
    OffsetSpec,
)

__all__ = ["Cluster", "KafkaException", "Reader"]

REQUEST_SECONDS_MAX = 30.0
FILL_SECONDS_MAX = 120.0


class Cluster:
    """The broker: topics, their contents and their ends as a `read_committed` reader sees them."""

    def __init__(self, bootstrap: str):
        self.bootstrap = bootstrap
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})

    def create_topic(self, name: str, partitions: int, config: Mapping[str, str] | None = None) -> None:
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        self._admin.create_topics([topic])[name].result(REQUEST_SECONDS_MAX)
        deadline = time.monotonic() + REQUEST_SECONDS_MAX
        while not self._is_led(name, partitions):
            if time.monotonic() > deadline:
                raise TimeoutError(f"topic {name} got no leaders in {REQUEST_SECONDS_MAX:.0f} s")
            time.sleep(0.05)

    def delete_topics(self, are_meant: Callable[[str], bool]) -> None:
        names = [*filter(are_meant, self._admin.list_topics(timeout=REQUEST_SECONDS_MAX).topics)]
        if names:
            for future in self._admin.delete_topics(names).values():
                future.result(REQUEST_SECONDS_MAX)

    def commit_start(self, group: str, topic: str, partitions: int) -> None:
        """Let a group stand at the start of a topic, as one does that has been there before."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": group, "log_level": 2})
        try:
            offsets = [TopicPartition(topic, number, 0) for number in range(partitions)]
            consumer.commit(offsets=offsets, asynchronous=False)
        finally:
            consumer.close()

    def owners(self, group: str, topic: str) -> dict[str, set[int]]:
        """Which partitions of a topic each member of a group has, by client id; {} while it is unstable."""
        (future,) = self._admin.describe_consumer_groups([group]).values()
        found = future.result(REQUEST_SECONDS_MAX)
        if found.state != ConsumerGroupState.STABLE:
            return {}
        return {
            member.client_id: {
                each.partition for each in member.assignment.topic_partitions if each.topic == topic
            }
            for member in found.members
        }

    def delete_group(self, group: str) -> None:
        """Forget where a consumer group stands; waits for the sessions of members that were killed."""
        deadline = time.monotonic() + REQUEST_SECONDS_MAX
        while True:
            (future,) = self._admin.delete_consumer_groups([group]).values()
            try:
                future.result(REQUEST_SECONDS_MAX)
                return
            except KafkaException as error:
                is_busy = error.args[0].code() == KafkaError.NON_EMPTY_GROUP
                if not is_busy or time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def fill(
        self, topic: str, records: Iterable[tuple[bytes, bytes]], headers: Sequence[tuple[str, bytes]] = ()
    ) -> int:
        """Write keyed records, each to the partition Kafka's own clients choose; returns how many."""
        headers = list(headers)
        producer = self.producer(**{"linger.ms": 50, "batch.num.messages": 10_000})
        count = 0
        for count, (key, value) in enumerate(records, 1):
            while True:
                try:
                    producer.produce(topic, value, key, headers=headers)
                    break
                except BufferError:
                    producer.poll(0.1)
            if count % 1_000 == 0:
                producer.poll(0)
        if producer.flush(FILL_SECONDS_MAX):
            raise TimeoutError(f"{topic} could not be filled in time")
        return count

    def producer(self, **settings: object) -> Any:
        return Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "partitioner": "murmur2_random",
                "acks": "all",
                "log_level": 2,
                **settings,
            }
        )

    def ends(self, topic: str, partitions: int) -> list[int]:
        """Last stable offset of each partition."""
        asked = {TopicPartition(topic, number): OffsetSpec.latest() for number in range(partitions)}
        answers = self._admin.list_offsets(
            asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_SECONDS_MAX
        )
        found = {partition.partition: future.result().offset for partition, future in answers.items()}
        return [found[number] for number in range(partitions)]

    def messages(self, topic: str) -> Iterator[Any]:
        """Every committed message of a topic so far, each partition's in order."""
        count = len(self._admin.list_topics(topic, timeout=REQUEST_SECONDS_MAX).topics[topic].partitions)
        consumer = _consumer(self.bootstrap, topic)
        unread = set(range(count))
        try:
            consumer.assign([TopicPartition(topic, number, 0) for number in unread])
            while unread:
                message = consumer.poll(REQUEST_SECONDS_MAX)
                if message is None:
                    raise TimeoutError(f"{topic} could not be read to the end of {sorted(unread)}")
                if message.error() is None:
                    yield message
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    unread.discard(message.partition())
                else:
                    raise KafkaException(message.error())
        finally:
            consumer.close()

    def _is_led(self, topic: str, partitions: int) -> bool:
        try:
            return len(self.ends(topic, partitions)) == partitions
        except KafkaException:  # not known everywhere yet; what the client has cached about it is refreshed
            self._admin.list_topics(topic, timeout=REQUEST_SECONDS_MAX)
            return False


class Reader:
    """Reads a topic from its start, committed records only, and hands each value to `take`."""

    def __init__(self, cluster: Cluster, topic: str, partitions: int, take: Callable[[bytes], object]):
        self._topic = topic
        self._take = take
        self._consumer = _consumer(cluster.bootstrap, topic)
        self._consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        self._positions = [0] * partitions
        self.offsets: list[list[int]] = [[] for _ in range(partitions)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._consumer.close()

    def read_to(self, ends: list[int], seconds_max: float) -> None:
        """Read on until each partition's position is at its end, control records included."""
        deadline = time.monotonic() + seconds_max
        while not self._at(ends):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._topic} could not be read to {ends} in {seconds_max:.0f} s")
            self.poll(0.5)

    def poll(self, seconds: float, records_max: int = 10_000) -> int:
        """Take up to so many records, as many as come within `seconds`; returns how many."""
        count = 0
        for message in self._consumer.consume(records_max, seconds):
            error, partition, offset = message.error(), message.partition(), message.offset()
            if error is None:
                self.offsets[partition].append(offset)
                self._take(message.value())
                self._positions[partition] = offset + 1
                count += 1
            elif error.code() == KafkaError._PARTITION_EOF:  # beyond the control records at the end
                self._positions[partition] = offset
        return count

    def count_below(self, ends: list[int]) -> int:
        """How many of the records read lie below these offsets."""
        return sum(bisect_left(offsets, end) for offsets, end in zip(self.offsets, ends, strict=True))

    def _at(self, ends: list[int]) -> bool:
        return all(position >= end for position, end in zip(self._positions, ends, strict=True))


def _consumer(bootstrap: str, topic: str) -> Any:
    """Who reads committed records of a topic, and is told where each partition ends."""
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"bench-reader-{topic}",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 500,
            "fetch.error.backoff.ms": 0,
            "log_level": 2,
        }
    )
