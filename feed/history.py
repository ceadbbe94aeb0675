"""What the topics already hold when the feed starts: the last tick, and who has limits."""

import json
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import UnknownTopicOrPartitionError

from app.errors import UserError

READ_TIMEOUT_MS = 1_000
FETCH_WAIT_MS = 20
LAST_RECORDS = 100
REQUEST_TIMEOUT_MS = 10_000


async def last_tick_sequence(bootstrap: str, topic: str, symbol: str) -> int:
    """The highest tick of the symbol near the end of the topic, 0 when there is none."""
    records = await _read(bootstrap, topic, LAST_RECORDS)
    return max((_sequence(record.value) for record in records if record.key == symbol.encode()), default=0)


async def keys(bootstrap: str, topic: str) -> set[bytes]:
    """Every key of a topic that is not deleted."""
    records = await _read(bootstrap, topic, None)
    last = {record.key: record.value for record in records if record.key is not None}
    return {key for key, value in last.items() if value is not None}


def _sequence(value: bytes | None) -> int:
    """The sequence of a tick; 0 for what is none, as anybody may write to the topic."""
    try:
        found = json.loads(value or b"")["sequence"]
    except (ValueError, TypeError, KeyError):
        return 0
    return found if isinstance(found, int) else 0


async def _read(bootstrap: str, topic: str, last: int | None) -> list[Any]:
    """The records of each partition up to its present end: the `last` ones, or all."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )
    try:
        await consumer.start()
        ends = await consumer.end_offsets(consumer.assignment())
        for at, start in (await consumer.beginning_offsets(list(ends))).items():
            consumer.seek(at, start if last is None else max(start, ends[at] - last))
        return await _read_up_to(consumer, ends)
    except UnknownTopicOrPartitionError:
        raise UserError(
            f"Kafka at {bootstrap} has no topic {topic!r}: 'python -m app run' makes it"
        ) from None
    finally:
        await consumer.stop()


async def _read_up_to(consumer: Any, ends: dict[TopicPartition, int]) -> list[Any]:
    found: list[Any] = []
    while any([await consumer.position(at) < end for at, end in ends.items()]):
        for records in (await consumer.getmany(timeout_ms=READ_TIMEOUT_MS)).values():
            found.extend(records)
    return found
